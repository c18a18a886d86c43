"""From what a user asks for to complete settings: a TrainConfig or a PressConfig."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from gymnasium import spaces

from policypress import presets
from policypress.config import (
    FLOAT_BITS,
    SEARCH_EPISODES,
    CompressionConfig,
    DistillConfig,
    Environment,
    Hidden,
    PressConfig,
    TrainConfig,
    ValueConfig,
)
from policypress.errors import ConfigError
from policypress.rl.adapters import adapter_named
from policypress.rl.environments import description_of, is_atari, make_env, name_of
from policypress.rl.recorded import Recorded
from policypress.rl.sources import OpenedAgent, digest
from policypress.rl.teacher import scaled_hidden

DEFAULT_PRESET = "policypress"
AUTO_SHRINK = 100
"""``hidden="auto"`` divides every width by its root, and so the parameters by about it: 26-26 for 256-256."""
_RATE_WEIGHT = 0.005
_MEMORY, _BEHIND_MEMORY = "gru:16", (16,)
"""Of a student of an agent that remembers; hidden widths of one that remembers."""
_SEQUENCES = {"batches": 20_000, "batch_size": 768, "states": 200_000}
"""Of what is distilled over sequences."""
START_BATCHES, START_STATES = 2_000, 20_000
"""Of a distilled student that is only where evolution begins."""


def plan_training(
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
        compression=presets.compression(preset, compression or {}),
        **{**settings, **training},
    )


def dense_baseline(config: TrainConfig) -> TrainConfig:
    """The same run without any compression."""
    return replace(config, compression=CompressionConfig(), values=ValueConfig(), hidden=())


def plan_pressing(
    agent: OpenedAgent,
    *,
    method: str = "distill",
    hidden: Hidden | Literal["auto"] | None = None,
    compression: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PressConfig:
    """The PressConfig for an agent, with fields of CompressionConfig (``compression``), DistillConfig (``student``)
    and PressConfig (``settings``) replaced by those given.

    What "evolve" begins with is linear and quickly distilled unless said otherwise. With ``hidden`` the method
    "finetune" trains a distilled student on, else the agent's own network. A distilled student is narrow ("auto":
    about a hundredth of the parameters) at a learned precision, unless a sparsity or widths are given; 8 bits
    everywhere. A student of an agent that remembers does too, by a small GRU, unless ``student`` says otherwise. Raises
    ConfigError for what does not fit together.
    """
    environment, recorded = _environment_of(agent), agent.recorded
    given = {"weight_bits": 8, **(compression or {})}
    settings = dict(settings or {})
    if recorded is not None and "episodes" in settings:
        raise ConfigError("no episode is played where --observations stand for an environment: leave --episodes out.")
    if searched := bool(settings.get("keep") or settings.get("bytes")):
        settings.setdefault("episodes", SEARCH_EPISODES)
    if searched and (hidden not in (None, "auto") or "rate_weight" in given or "batches" in (student or {})):
        raise ConfigError(
            "a search finds hidden widths, rate_weight and batches itself: leave them or keep and bytes out."
        )
    told = dict(student or {})
    student = dict(told)
    if agent.teacher.remembers and method == "distill" and not searched:
        student.setdefault("memory", _MEMORY)
    remembers = student.get("memory", "none") != "none"
    if agent.teacher.remembers or remembers:
        student = {**_SEQUENCES, **student}
    if searched:
        hidden = None
    elif hidden is None and remembers:
        hidden = _BEHIND_MEMORY
    elif hidden is None and method == "distill" and not given.get("sparsity"):
        hidden = "auto"
    elif method == "evolve":
        hidden = hidden or "none"
        student = {**student, "batches": START_BATCHES, "states": START_STATES, **told}
    quantizes = given["weight_bits"] != FLOAT_BITS
    distils = method in ("distill", "evolve") or (method == "finetune" and bool(hidden))
    if distils and ((quantizes and (searched or hidden)) or "rate_weight" in given):
        given = {"weight_range": "learned", "rate_weight": 0.0 if given.get("sparsity") else _RATE_WEIGHT, **given}
    if distils:
        pruned = given.get("sparsity", 0.0) > 0.0
        start = 0.6 if pruned else 0.1
        over_time = remembers or (searched and agent.teacher.remembers)
        # Flow follows no path through time, and static masks are drawn.
        criterion = "magnitude" if over_time or given.get("pruning") == "static" else "flow"
        given = {"prune_start": 0.0, "prune_end": 0.5, "quantize_start": start, "criterion": criterion, **given}
    widths: Hidden = scaled_hidden(agent.teacher, AUTO_SHRINK**-0.5) if hidden == "auto" else hidden or ()
    # What starts as the teacher, or as its convolutions, loses them at the rate that suits a few fresh units.
    gentle = not (widths or searched) or agent.teacher.observation.image
    student = {"learning_rate": 1e-3 if gentle else 3e-3, **student}
    if recorded is not None:
        student = _within(recorded, student)
    return PressConfig(
        agent.algo,
        environment.env,
        agent.digest,
        "" if agent.vecnormalize is None else digest(agent.vecnormalize),
        "" if recorded is None else digest(recorded.path),
        env_kwargs=environment.env_kwargs,
        wrappers=environment.wrappers,
        frame_stack=environment.frame_stack,
        method=method,  # type: ignore[arg-type]
        student=DistillConfig(CompressionConfig(**given), hidden=widths, **student),
        **settings,
    )


def _environment_of(agent: OpenedAgent) -> Environment:
    """How the agent's environment is made; Environment("") where a log stands for it."""
    if agent.recorded is not None:
        return Environment("")
    if agent.env is None:
        raise ConfigError("say where the agent's observations come from: give --env, or a log with --observations.")
    environment = description_of(agent.env)
    if environment is None:
        raise ConfigError(
            f"a run keeps in its folder how {name_of(agent.env)} is made, for other processes: name a class or "
            "function in a module, or call policypress.compress."
        )
    return environment


def _within(recorded: Recorded, student: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a student that learns from no more states than there are."""
    states = min(student.get("states", DistillConfig.states), recorded.steps)
    batch_size = student.get("batch_size", DistillConfig.batch_size)
    if states < batch_size:
        raise ConfigError(
            f"{recorded.path} leaves {recorded.steps:,} observations to learn from, fewer than a batch has "
            f"({batch_size}): record more, or give --batch-size {recorded.steps}."
        )
    return {**student, "states": states}


def _family(environment: Environment) -> tuple[presets.Family, bool]:
    if is_atari(environment):
        return "atari", True
    env = make_env(environment, training=False)
    try:
        image = isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 3
        return ("continuous" if isinstance(env.action_space, spaces.Box) else "other"), image
    finally:
        env.close()
