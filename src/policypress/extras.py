"""What is not installed, and the command that installs it where policypress itself came from."""

from __future__ import annotations

import importlib.metadata
import json
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from policypress.errors import PolicypressError

EXTRAS: dict[str, tuple[str, ...]] = {
    "gym": ("gymnasium", "mujoco"),
    "train": (
        "torch",
        "stable_baselines3",
        "sb3_contrib",
        "cma",
        "ale_py",
        "cv2",
        "tensorboard",
        "matplotlib",
        "psutil",
        "yaml",
    ),
    "export": ("onnx", "onnxruntime"),
    "tflite": ("ai_edge_litert", "flatbuffers"),
    "cluster": ("ray",),
    "logs": ("pyarrow", "h5py"),
    "report": ("vl_convert",),
    "watch": ("gymnasium", "PIL", "imageio_ffmpeg", "pygame"),
}
"""Modules that an extra brings, as they are imported; "train" brings those of "gym" too."""


def install(extra: str) -> str:
    """The command that brings ``extra``: from the clone or the wheel that policypress was installed from, if it was."""
    return f"pip install '{_origin()}[{extra}]'"


def missing(module: str, extra: str | None = None) -> str:
    """The sentence for a ``module`` that could not be imported by what needs ``extra``; where no extra is given, the
    first that brings the module."""
    top = module.partition(".")[0]
    extra = extra or next((name for name, modules in EXTRAS.items() if top in modules), None)
    return f"this needs {top}, which is not installed: {install(extra) if extra else f'pip install {top}'}."


def lacking(extra: str) -> str | None:
    """The first module that ``extra`` cannot do without and that is not installed."""
    needed = (*EXTRAS[extra][:2], *(EXTRAS["gym"][:1] if extra == "train" else ()))
    return next((module for module in needed if find_spec(module) is None), None)


def require(extra: str) -> None:
    """Raises PolicypressError, before any work, if a module that ``extra`` cannot do without is not installed."""
    if module := lacking(extra):
        raise PolicypressError(missing(module, extra))


def _origin() -> str:
    """What pip takes for policypress: a clone's folder, a wheel's file, or its name on an index."""
    clone = Path(__file__).resolve().parents[2]
    if (clone / "pyproject.toml").is_file():
        return _shown(clone)
    try:
        text = importlib.metadata.distribution("policypress").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        text = None
    source = Path(unquote(urlsplit(json.loads(text)["url"]).path)) if text else None
    return _shown(source) if source is not None and source.exists() else "policypress"


def _shown(path: Path) -> str:
    return "." if path == Path.cwd() else str(path)
