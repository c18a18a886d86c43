"""A Stable-Baselines3 agent to ``Policy``."""

from __future__ import annotations

import platform
import warnings
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.compression.freeze import freeze_graph, outputs_of, spread
from policypress.errors import UnsupportedError
from policypress.policy.canonical import canonical
from policypress.policy.contract import ObservationTransform
from policypress.policy.policy import Policy
from policypress.rl.adapters import adapter_for, check_agent, observation_transform
from policypress.rl.callback import STATE_ATTRIBUTE, follow_optimizer, missing
from policypress.version import __version__


def freeze(
    model: BaseAlgorithm,
    *,
    baseline_bytes: int | None = None,
    provenance: dict[str, Any] | None = None,
    unfinished: bool = False,
) -> Policy:
    """The policy that ``model`` would be deployed as: integer once quantization has started, float32 before.

    ``baseline_bytes``: size of the dense float32 network that this one stands in for, if not its own architecture.
    ``provenance`` is added to what the model itself tells. Warns if pruning or quantization has not come to the end
    that was asked for, unless ``unfinished`` says that this is meant. Raises UnsupportedError for agents that cannot be
    pressed or that act otherwise than the frozen policy would, PolicypressError for weights that are not finite or
    could overflow an int32 accumulator.
    """
    adapter = adapter_for(model)
    observation = observation_transform(model)
    state = getattr(model, STATE_ATTRIBUTE, None)
    if state is not None and state["normalized"] and observation.normalization is None:
        raise UnsupportedError(
            "the agent was trained with VecNormalize and its statistics are missing: load the agent with "
            "env=VecNormalize.load(FILE, venv)."
        )
    follow_optimizer(model)
    if not unfinished and (sentence := missing(model)):
        warnings.warn(sentence, stacklevel=2)
    origin = {
        "algo": adapter.name,
        "env": _environment_id(model),
        "steps": int(model.num_timesteps),
        "seed": model.seed,
        "compression": state,
        "versions": _versions(),
        **(provenance or {}),
    }
    recorded = _recorded_observations(model, observation)
    policy = canonical(
        freeze_graph(
            adapter.graph(model),
            observation,
            adapter.action_transform(model),
            baseline_bytes=baseline_bytes,
            provenance=origin,
            observations=recorded,
        )
    )
    check_agent(model, outputs_of(policy))
    return policy


def _recorded_observations(model: Any, transform: ObservationTransform) -> NDArray[Any] | None:
    """Up to 32 observations that the agent met, evenly spread over its replay buffer or last rollout."""
    if not isinstance(model.observation_space, spaces.Box):  # recorded as they came, not flat
        return None
    shape, dtype = transform.shape, np.dtype(transform.dtype)
    replay, rollout = getattr(model, "replay_buffer", None), getattr(model, "rollout_buffer", None)
    if replay is not None and replay.size() > 0:
        met = replay.observations[: replay.size(), 0]
    elif rollout is not None and rollout.full and transform.normalization is None:  # a rollout holds normalized ones
        met = rollout.observations.reshape(-1, *shape)
    else:
        return None
    picks = spread(len(met), int(np.prod(shape)) * dtype.itemsize)
    return np.asarray(met[picks]).reshape(len(picks), *shape).astype(dtype)


def _environment_id(model: BaseAlgorithm) -> str | None:
    env = model.get_env()
    spec = env.get_attr("spec")[0] if env is not None else None
    return None if spec is None else str(spec.id)


def _versions() -> dict[str, str]:
    return {
        "policypress": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "stable-baselines3": stable_baselines3.__version__,
        "gymnasium": gymnasium.__version__,
    }
