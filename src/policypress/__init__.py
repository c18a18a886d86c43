"""policypress: reinforcement-learning policies small enough to run on anything.

Importing it needs NumPy only. ``freeze``, ``compress`` and ``train`` need the extra ``train``, ``evaluate`` needs
``gym``, ``watch`` needs ``watch``, and ``export`` to ONNX needs ``export``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from policypress import presets
from policypress.config import CompressionConfig, DistillConfig, Environment, PressConfig, TrainConfig, ValueConfig
from policypress.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    ObservationError,
    PolicypressError,
    RunError,
    UnsupportedError,
)
from policypress.extras import lacking, missing
from policypress.policy import Policy, load
from policypress.version import __version__ as __version__

if TYPE_CHECKING:
    from policypress.export import export
    from policypress.export.verify import verify
    from policypress.measure.bench import bench
    from policypress.measure.size import size
    from policypress.rl.compress import compress
    from policypress.rl.evaluate import evaluate
    from policypress.rl.freeze import freeze
    from policypress.rl.train import train
    from policypress.rl.watch import watch

__all__ = [
    "ArtifactError",
    "CompressionConfig",
    "ConfigError",
    "DistillConfig",
    "Environment",
    "ExportError",
    "ObservationError",
    "Policy",
    "PolicypressError",
    "PressConfig",
    "RunError",
    "TrainConfig",
    "UnsupportedError",
    "ValueConfig",
    "bench",
    "compress",
    "evaluate",
    "export",
    "freeze",
    "load",
    "presets",
    "size",
    "train",
    "verify",
    "watch",
]


class _Later(NamedTuple):
    """A function that is imported when it is first asked for: the module that holds it, and the extra that brings what
    this module imports (None: it needs NumPy alone)."""

    module: str
    extra: str | None


_LATER = {
    "bench": _Later("policypress.measure.bench", None),
    "compress": _Later("policypress.rl.compress", "train"),
    "evaluate": _Later("policypress.rl.evaluate", "gym"),
    "export": _Later("policypress.export", None),
    "freeze": _Later("policypress.rl.freeze", "train"),
    "size": _Later("policypress.measure.size", None),
    "train": _Later("policypress.rl.train", "train"),
    "verify": _Later("policypress.export.verify", None),
    "watch": _Later("policypress.rl.watch", "watch"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'policypress' has no attribute {name!r}")
    module, extra = _LATER[name]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        lacks = (lacking(extra) if extra else None) or error.name or ""
        raise ModuleNotFoundError(f"policypress.{name}: {missing(lacks, extra)}", name=lacks) from error
    # The subpackage policypress.export can be called: a function of its name would hide its modules.
    return found if name == "export" else getattr(found, name)


def __dir__() -> list[str]:
    """The public names that can be used here: completion looks each of them up, and one error would end it."""
    absent = {name for name, (_, extra) in _LATER.items() if extra and lacking(extra)}
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))} - absent)
