"""What a frozen policy is worth: returns of whole episodes, and what acting without looking returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policypress.config import Environment
from policypress.errors import ConfigError, UnsupportedError
from policypress.measure.returns import bootstrap_interval, summary, worst_tenth
from policypress.policy.contract import ObservationTransform
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state
from policypress.rl.environments import Disturb, EnvLike, check_end, description_of, make_envs, name_of, padding_of

FINAL_SEED = 1000
"""Episodes that measure a finished policy start from ``reset(seed=1000 + i)``."""
TRAINING_SEED, ASKED_EPISODES = 500, 20
"""Where other episodes start from, while training; of how many pruning that asks for returns hears."""
_PARALLEL = 25
_CHANCE_EPISODES = 20
Act = Callable[[dict[int, Any], dict[int, Any]], Iterable[Any]]
"""Actions for observations by episode, given the environments by episode."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of deterministic episodes; episode i starts from ``reset(seed=seed + i)``.

    ``terminated``: whether the environment itself ended the episode, before its limit of time: a fall for a robot that
    walks, the goal in MountainCar.
    """

    env: str
    seed: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    terminated: tuple[bool, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile-bootstrap interval of the mean."""
        return bootstrap_interval(self.returns)

    @property
    def worst_tenth(self) -> float:
        """Mean of the worst tenth of the returns, of one episode at least."""
        return worst_tenth(self.returns)

    @property
    def ended_early(self) -> float:
        """Share of the episodes that the environment ended before its limit of time."""
        return float(np.mean(self.terminated))

    def as_dict(self) -> dict[str, Any]:
        return {
            "env": self.env,
            "seed": self.seed,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "terminated": list(self.terminated),
            **self.summary(),
        }

    def summary(self) -> dict[str, Any]:
        """What ``as_dict`` holds beside single episodes."""
        return {"episodes": len(self.returns), **summary(self.returns), "ended_early": self.ended_early}


def evaluate(
    policy: Policy,
    env: EnvLike | None = None,
    *,
    episodes: int = 20,
    seed: int = 1000,
    progress: Callable[[int, int], None] | None = None,
    met: Callable[[NDArray[Any]], None] | None = None,
) -> Evaluation:
    """Runs ``episodes`` episodes of ``env`` (default: the one the policy was trained in, as its card describes it) to
    their ends.

    An environment given itself is stepped alone, one episode after the other, and left open. ``progress(done,
    episodes)`` is called as episodes end, ``met`` with the observations (n, ...) of each step. Raises ConfigError
    without an environment, or when its spaces are not those of the policy; RunError for an environment that fails,
    gives rewards that are not finite, or never ends.
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes} must be at least 1.")
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative.")
    env = environment_on_card(policy) if env is None else env
    return run_episodes(
        env,
        acting(policy) if met is None else _met_by(acting(policy), met),
        episodes,
        seed,
        padding_in(env, policy.observation),
        progress,
        lambda made: check_spaces(policy, made, name_of(env)),
    )


def padding_in(env: EnvLike, observation: ObservationTransform) -> NDArray[Any] | float:
    """What stands for the frames before an episode of ``env``, as ``observation`` takes them."""
    described = description_of(env)
    return padding_of(observation, described.frame_stack if described else 1)


def acting(policy: Policy) -> Act:
    """What ``policy`` does, which remembers each episode by itself if it remembers anything."""

    def steps(observations: NDArray[Any], states: Sequence[Any]) -> tuple[NDArray[Any], Sequence[Any]]:
        before = initial_state(policy, len(observations))
        for row, state in zip(before, states, strict=True):
            row[:] = 0 if state is None else state
        actions, after = policy.predict(observations, (before,))
        assert after is not None
        return actions, list(after[0])

    return _by_episode(steps)


def _met_by(act: Act, met: Callable[[NDArray[Any]], None]) -> Act:
    def watching(observations: dict[int, Any], envs: dict[int, Any]) -> Iterable[Any]:
        met(np.stack(list(observations.values())))
        return act(observations, envs)

    return watching


def evaluate_actions(
    act: Callable[[NDArray[Any], Sequence[Any]], tuple[Iterable[Any], Sequence[Any]]],
    env: EnvLike,
    observation: ObservationTransform,
    *,
    episodes: int = 20,
    seed: int = 1000,
) -> Evaluation:
    """``evaluate`` for whatever acts: ``act(observations, states)`` maps raw observations (n, ...), as ``observation``
    describes them, to actions (n, ...) and the next states; ``states`` has None where an episode begins."""
    return run_episodes(env, _by_episode(act), episodes, seed, padding_in(env, observation))


def _by_episode(step: Callable[[NDArray[Any], Sequence[Any]], tuple[Iterable[Any], Sequence[Any]]]) -> Act:
    """``step``, with the state of each episode kept for it."""
    states: dict[int, Any] = {}

    def act(observations: dict[int, Any], _: dict[int, Any]) -> Iterable[Any]:
        before = [states.get(index) for index in observations]
        actions, after = step(np.stack(list(observations.values())), before)
        states.update(zip(observations, after, strict=True))
        return actions

    return act


def chance(env: EnvLike, *, episodes: int = _CHANCE_EPISODES, seed: int = 1000, steps: int) -> tuple[str, Evaluation]:
    """What acting without looking returns: "random actions" or "one constant action" (zero, or the first choice),
    whichever returns more, over the first ``episodes`` of the seeds of ``evaluate``, at most 20.

    Who does nothing may never come to an end: an episode is over after ``steps``.
    """
    episodes = min(episodes, _CHANCE_EPISODES)
    blind: dict[str, Act] = {
        "random actions": lambda _, envs: [env.action_space.sample() for env in envs.values()],
        "one constant action": lambda _, envs: [constant_action(env.action_space) for env in envs.values()],
    }
    found = {name: run_episodes(env, act, episodes, seed, steps=steps) for name, act in blind.items()}
    best = max(found, key=lambda name: found[name].mean)
    return best, found[best]


def constant_action(space: spaces.Space[Any]) -> Any:
    """Zero, or what of ``space`` is nearest to it, or the first choice; UnsupportedError for actions that are not
    known."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return space.start
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, space.dtype)
    raise UnsupportedError(f"actions of {space} are not known: they must be Box, discrete or binary.")


def run_episodes(
    env: EnvLike,
    act: Act,
    episodes: int,
    seed: int,
    padding: NDArray[Any] | float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[Any], None] = lambda _: None,
    steps: int | None = None,
    disturb: Disturb | None = None,
) -> Evaluation:
    """``evaluate`` for any ``act``, which gets observations and environments by the episode's number, from 0 on.

    ``check`` is given the first environment of each batch; an episode is over after ``steps``, if there are any;
    ``disturb`` wraps every environment, as ``make_env`` says.
    """
    env_id = name_of(env)
    returns = np.zeros(episodes)
    lengths = np.zeros(episodes, np.int64)
    early = np.zeros(episodes, np.bool_)
    finished = 0
    start = 0
    while start < episodes:
        envs = dict(
            enumerate(make_envs(env, min(_PARALLEL, episodes - start), padding=padding, disturb=disturb), start)
        )
        try:
            check(envs[start])
            observations = {index: made.reset(seed=seed + index)[0] for index, made in envs.items()}
            for index, made in envs.items():
                made.action_space.seed(seed + index)
            while observations:
                actions = act(observations, {index: envs[index] for index in observations})
                for index, action in zip(list(observations), actions, strict=True):
                    observation, reward, terminated, truncated, _ = envs[index].step(action)
                    returns[index] += float(reward)
                    lengths[index] += 1
                    check_end(env_id, lengths[index])
                    observations[index] = observation
                    truncated = truncated or lengths[index] == steps
                    if terminated or truncated:
                        early[index] = terminated and not truncated
                        del observations[index]
                        finished += 1
                        if progress is not None:
                            progress(finished, episodes)
        finally:
            for made in envs.values():
                made.close()
        start += len(envs)
    return Evaluation(env_id, seed, tuple(returns.tolist()), tuple(lengths.tolist()), tuple(early.tolist()))


def environment_on_card(policy: Policy) -> Environment:
    """What the policy's provenance says of its environment; ConfigError if it says nothing."""
    told = policy.provenance
    if not told.get("env"):
        raise ConfigError(
            "the policy does not say where it was trained: name an environment, for example env='Hopper-v5'."
        )
    names = (field.name for field in fields(Environment))
    return Environment(**{name: told[name] for name in names if name in told})


def check_spaces(policy: Policy, env: Any, env_id: str) -> None:
    """Raises ConfigError if ``env``, called ``env_id``, gives other observations than ``policy`` takes, or takes other
    actions than it gives."""
    shape, expected = env.observation_space.shape, policy.observation.shape
    channels_last = (*expected[1:], expected[0]) if policy.observation.image else expected
    if shape not in (expected, channels_last):
        raise ConfigError(
            f"{env_id} gives observations of shape {shape}, but the policy expects {policy.observation.shape}: "
            "evaluate it where it was trained."
        )
    space, action = env.action_space, policy.action
    if isinstance(space, spaces.Discrete):
        choices = policy.layers[-1].weight.shape[0]
        fits = action.kind == "discrete" and (int(space.n), int(space.start)) == (choices, action.start)
    elif isinstance(space, spaces.MultiDiscrete):
        fits = action.nvec == tuple(space.nvec.tolist()) and not space.start.any()
    elif isinstance(space, spaces.MultiBinary):
        fits = action.kind == "multi-binary" and space.shape == action.shape
    else:
        fits = isinstance(space, spaces.Box) and action.kind == "box" and space.shape == action.shape
    if not fits:
        raise ConfigError(f"{env_id} takes actions of {space}, which this policy does not give.")
