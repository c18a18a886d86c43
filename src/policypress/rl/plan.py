"""From what a user asks for to a complete TrainConfig: preset, family of the environment, overrides."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gymnasium import spaces

from policypress import presets
from policypress.config import CompressionConfig, Environment, TrainConfig
from policypress.errors import ConfigError
from policypress.rl.adapters import adapter_named
from policypress.rl.environments import is_atari, make_env

DEFAULT_PRESET = "policypress"
_DEFAULT_BITS = 8


def plan(
    algo: str,
    env: str,
    steps: int | None = None,
    *,
    preset: str = DEFAULT_PRESET,
    compression: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    algo_kwargs: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The TrainConfig of ``preset`` for ``env``, with fields of CompressionConfig (``compression``) and of TrainConfig
    (``training``) and the algorithm's settings (``algo_kwargs``) replaced by those given.

    Under the default preset, nothing in ``compression`` means the dense baseline, and a sparsity alone means 8 bits.
    Raises ConfigError for what does not fit together.
    """
    training = dict(training or {})
    made_of = {name: training[name] for name in ("env_kwargs", "wrappers", "frame_stack") if name in training}
    family, image = _family(Environment(env, **made_of))
    steps = steps or presets.default_steps(preset, family)
    if steps is None:
        raise ConfigError("say how long to train, for example steps=150000.")
    network = training.setdefault("network", "nature" if image else "mlp")
    settings = presets.train_settings(preset, family, network, steps)
    taken = inspect.signature(adapter_named(algo).model_class).parameters  # a preset speaks of SAC and DQN
    preset_kwargs = {name: value for name, value in settings.get("algo_kwargs", {}).items() if name in taken}
    settings["algo_kwargs"] = {**preset_kwargs, **(algo_kwargs or {})}
    return TrainConfig(
        algo,
        env,
        steps,
        compression=_compression(preset, dict(compression or {})),
        **{**settings, **training},
    )


def dense_baseline(config: TrainConfig) -> TrainConfig:
    """The same run without any compression."""
    return replace(config, compression=CompressionConfig(), hidden=())


def _compression(preset: str, given: dict[str, Any]) -> CompressionConfig:
    if preset == "ivanov2025":
        return replace(presets.ivanov2025(given.get("sparsity", 0.0)), **given)
    if given.get("sparsity", 0.0) > 0.0:
        given.setdefault("weight_bits", _DEFAULT_BITS)
    return CompressionConfig(**given)


def _family(environment: Environment) -> tuple[presets.Family, bool]:
    if is_atari(environment):
        return "atari", True
    env = make_env(environment, training=False)
    try:
        image = isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 3
        return ("continuous" if isinstance(env.action_space, spaces.Box) else "other"), image
    finally:
        env.close()
