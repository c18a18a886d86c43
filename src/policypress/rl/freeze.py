"""An agent or its student to ``Policy``: the one place that freezes them."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.compression.freeze import freeze_graph, outputs_of, spread, steps_of
from policypress.compression.graph import Graph
from policypress.errors import UnsupportedError
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.policy import Policy
from policypress.rl.adapters import adapter_for, check_agent, observation_transform
from policypress.rl.callback import STATE_ATTRIBUTE, follow_optimizer, missing, told
from policypress.rl.teacher import Teacher
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
        "compression": told(state),
        "versions": _versions(),
        **(provenance or {}),
    }
    recorded = _recorded_observations(model, observation)
    policy = _frozen(
        adapter.graph(model), observation, adapter.action_transform(model), baseline_bytes, origin, recorded
    )
    check_agent(model, _in_one_episode(policy) if policy.state_size else outputs_of(policy))
    return policy


def freeze_student(teacher: Teacher, graph: Graph, provenance: Mapping[str, Any], observations: NDArray[Any]) -> Policy:
    """The policy of a student with this ``graph``, between the teacher's transforms and compared with its size.

    ``provenance`` is added to the teacher's; ``observations`` (n, ...) become test vectors. Raises what
    ``freeze_graph`` raises.
    """
    origin = {**teacher.provenance, **provenance}
    return _frozen(graph, teacher.observation, teacher.action, teacher.baseline_bytes, origin, observations)


def _frozen(
    graph: Graph,
    observation: ObservationTransform,
    action: ActionTransform,
    baseline_bytes: int | None,
    provenance: dict[str, Any],
    observations: NDArray[Any] | None,
) -> Policy:
    """Every policy that is made of an agent or a student, in its smallest form."""
    return canonical(
        freeze_graph(
            graph,
            observation,
            action,
            baseline_bytes=baseline_bytes,
            provenance=provenance,
            observations=observations,
        )
    )


def _in_one_episode(policy: Policy) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """``outputs_of`` a policy that remembers, for observations one after another."""
    steps = steps_of(policy)

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        states: list[Any] = [None]
        found = []
        for one in x:
            outputs, states = steps(one[None], states)
            found.append(outputs)
        return np.concatenate(found)

    return run


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
