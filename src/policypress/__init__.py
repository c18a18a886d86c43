"""policypress: reinforcement-learning policies small enough to run on anything.

Importing it needs NumPy only; ``freeze`` and ``compress`` need the extra ``policypress[train]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policypress import presets
from policypress.config import CompressConfig, CompressionConfig, DistillConfig, Environment, TrainConfig
from policypress.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    ObservationError,
    PolicypressError,
    RunError,
    UnsupportedError,
)
from policypress.measure.size import size
from policypress.policy.artifact import load
from policypress.policy.policy import Policy

if TYPE_CHECKING:
    from policypress.policy.freeze import freeze
    from policypress.rl.compress import compress

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CompressConfig",
    "CompressionConfig",
    "ConfigError",
    "DistillConfig",
    "Environment",
    "ExportError",
    "ObservationError",
    "Policy",
    "PolicypressError",
    "RunError",
    "TrainConfig",
    "UnsupportedError",
    "compress",
    "freeze",
    "load",
    "presets",
    "size",
]


def __getattr__(name: str) -> Any:
    if name == "freeze":
        from policypress.policy.freeze import freeze

        return freeze
    if name == "compress":
        from policypress.rl.compress import compress

        return compress
    raise AttributeError(f"module 'policypress' has no attribute {name!r}")
