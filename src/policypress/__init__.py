"""policypress: reinforcement-learning policies small enough to run on anything.

Importing it needs NumPy only. ``freeze``, ``compress`` and ``train`` need the extra ``train``, ``evaluate`` needs
``gym``, and ``export`` to ONNX needs ``export``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from policypress import presets
from policypress.config import CompressionConfig, DistillConfig, Environment, PressConfig, TrainConfig
from policypress.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    ObservationError,
    PolicypressError,
    RunError,
    UnsupportedError,
)
from policypress.extras import missing
from policypress.measure.size import size
from policypress.policy.artifact import load
from policypress.policy.policy import Policy
from policypress.version import __version__ as __version__

if TYPE_CHECKING:
    from policypress.export import export
    from policypress.export.verify import verify
    from policypress.measure.bench import bench
    from policypress.rl.compress import compress
    from policypress.rl.evaluate import evaluate
    from policypress.rl.freeze import freeze
    from policypress.rl.train import train

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
]


_LATER = {
    "bench": "policypress.measure.bench",
    "compress": "policypress.rl.compress",
    "evaluate": "policypress.rl.evaluate",
    "freeze": "policypress.rl.freeze",
    "train": "policypress.rl.train",
    "verify": "policypress.export.verify",
}
"""Functions that are imported when they are first asked for, and where from."""


def __getattr__(name: str) -> Any:
    try:
        if name == "export":  # the subpackage, which can be called: a function here would hide its modules
            return importlib.import_module("policypress.export")
        if name in _LATER:
            return getattr(importlib.import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"policypress.{name}: {missing(error.name or '')}", name=error.name) from error
    raise AttributeError(f"module 'policypress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
