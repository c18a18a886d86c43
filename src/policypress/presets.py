"""Named starting points: the paper's protocol, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from policypress.config import CompressionConfig
from policypress.errors import ConfigError

Family = Literal["continuous", "atari", "other"]

NAMES = ("policypress", "ivanov2025")
AUTO, MOST = "auto", 0.995
"""A sparsity that is found, and the most that it can be."""
_DEFAULT_BITS = 8


def ivanov2025(sparsity: float = 0.0, *, quantize: bool = True) -> CompressionConfig:
    """The paper's compression: its allocation, 600 cubic pruning iterations, 8-bit weights alone, cold ranges.

    Quantization starts at 90 % of the nominal steps when pruning, else at 80 %. Source: arXiv 2405.07748.
    """
    return CompressionConfig(
        sparsity=sparsity,
        allocation="ivanov2025",
        schedule="cubic",
        prune_start=0.2,
        prune_end=0.8,
        prune_iterations=600,
        prune_auxiliary=True,
        weight_bits=8 if quantize else 32,
        activation_bits=0,
        granularity="auto",
        weight_range="minmax",
        quantize_start=0.9 if sparsity > 0.0 else 0.8,
        observe=0.0,
    )


def compression(preset: str, given: Mapping[str, Any]) -> CompressionConfig:
    """The CompressionConfig of ``preset`` for training, with the fields ``given``; under the default preset none of
    them means the dense baseline, and a sparsity alone means 8 bits. A sparsity of "auto" is found: see
    ``policypress.compression.pruning_methods.Adaptive``."""
    if given.get("sparsity") == AUTO:
        given = {**given, "sparsity": MOST, "pruning": "adaptive"}
    if preset == "ivanov2025":
        return replace(ivanov2025(given.get("sparsity", 0.0)), **given)
    if given.get("sparsity", 0.0) > 0.0:
        given = {"weight_bits": _DEFAULT_BITS, **given}
    return CompressionConfig(**given)


def train_settings(preset: str, family: Family, network: str, steps: int) -> dict[str, Any]:
    """Fields of TrainConfig that ``preset`` sets for a family of environments; ConfigError if unknown."""
    if preset not in NAMES:
        raise ConfigError(f"preset={preset!r} is not one of {', '.join(NAMES)}.")
    return _ivanov2025_settings(family, network) if preset == "ivanov2025" else _own_settings(family, steps)


def default_steps(preset: str, family: Family) -> int | None:
    """Nominal steps of the paper's protocol; None where the user decides."""
    if preset != "ivanov2025":
        return None
    return 10_000_000 if family == "atari" else 1_000_000


def _ivanov2025_settings(family: Family, network: str) -> dict[str, Any]:
    if family == "continuous":
        return {
            "extension": 0.3,
            "algo_kwargs": {"learning_rate": 3e-4, "learning_starts": 10_000},
            "optimizer_kwargs": {"weight_decay": 1e-4},
            "eval_every": 10_000,
            "eval_episodes": 20,
        }
    if family == "atari":
        resnet = {"eps": 3.125e-4, "weight_decay": 1e-5}
        return {
            "extension": 0.3,
            "algo_kwargs": {
                "learning_rate": 1e-4,
                "learning_starts": 20_000,
                "target_update_interval": 8_000,
                "train_freq": 4,
                "batch_size": 32,
                "exploration_fraction": 0.01,
                "exploration_final_eps": 0.01,
            },
            "optimizer_kwargs": resnet if network == "resnet" else {},
            "eval_every": 100_000,
            "eval_episodes": 20,
        }
    raise ConfigError("preset ivanov2025 is for SAC on continuous control and DQN on Atari: use the default preset.")


def _own_settings(family: Family, steps: int) -> dict[str, Any]:
    if family == "continuous":
        return {"algo_kwargs": {"learning_starts": min(10_000, max(100, steps // 20))}}
    if family == "atari":
        return {
            "algo_kwargs": {
                "buffer_size": 100_000,
                "learning_starts": min(100_000, max(1_000, steps // 50)),
                "exploration_fraction": 0.1,
                "exploration_final_eps": 0.01,
                "target_update_interval": 1_000,
            }
        }
    return {}
