"""policypress: reinforcement-learning policies small enough to run on anything.

Importing it needs NumPy only; ``freeze`` needs the extra ``policypress[train]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policypress import presets
from policypress.config import CompressionConfig, TrainConfig
from policypress.errors import (
    ArtifactError,
    ConfigError,
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

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CompressionConfig",
    "ConfigError",
    "ObservationError",
    "Policy",
    "PolicypressError",
    "RunError",
    "TrainConfig",
    "UnsupportedError",
    "freeze",
    "load",
    "presets",
    "size",
]


def __getattr__(name: str) -> Any:
    if name == "freeze":
        from policypress.policy.freeze import freeze

        return freeze
    raise AttributeError(f"module 'policypress' has no attribute {name!r}")
