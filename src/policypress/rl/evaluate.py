"""What a frozen policy is worth: returns of whole episodes, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policypress.config import Environment
from policypress.errors import ConfigError, RunError
from policypress.policy.policy import Policy
from policypress.rl.environments import EnvLike, description_of, make_envs, name_of, padding_of

_PARALLEL = 25
MAX_STEPS = 100_000
"""An episode that is longer has no end; those of Atari have 27,000 steps at most."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of deterministic episodes; episode i starts from ``reset(seed=seed + i)``."""

    env: str
    seed: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    @property
    def iqm(self) -> float:
        """Mean of the middle half (Agarwal et al. 2021)."""
        return float(interquartile_mean(np.asarray(self.returns)))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile-bootstrap interval of the mean."""
        return bootstrap_interval(self.returns)

    @property
    def iqm_interval(self) -> tuple[float, float]:
        """95 % percentile-bootstrap interval of the IQM."""
        return _limits(interquartile_mean(_resampled(self.returns)))

    def as_dict(self) -> dict[str, Any]:
        low, high = self.interval
        iqm_low, iqm_high = self.iqm_interval
        return {
            "env": self.env,
            "seed": self.seed,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": self.std,
            "iqm": self.iqm,
            "iqm_low": iqm_low,
            "iqm_high": iqm_high,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True)
class Kept:
    """Share of a teacher's IQM that a student keeps, with the 95 % bootstrap interval of that share.

    Both ran from the same seeds, so the same episodes of both are drawn together. A share is 1 plus the difference over
    the magnitude of the teacher's IQM, which is their ratio where that is positive.
    """

    share: float
    low: float
    high: float


def kept(student: Sequence[float], teacher: Sequence[float]) -> Kept:
    """``Kept`` for returns of the same number of episodes; ConfigError if the teacher returns nothing."""
    ours, theirs = interquartile_mean(np.asarray(student)), interquartile_mean(np.asarray(teacher))
    if theirs == 0.0:
        raise ConfigError("the agent returns 0 in this environment: there is nothing that a student could keep.")
    shares = 1.0 + (interquartile_mean(_resampled(student)) - interquartile_mean(_resampled(teacher))) / abs(theirs)
    return Kept(float(1.0 + (ours - theirs) / abs(theirs)), *_limits(shares))


def interquartile_mean(returns: NDArray[Any]) -> NDArray[Any]:
    """Mean of the middle half of the last axis (Agarwal et al. 2021)."""
    ordered = np.sort(np.asarray(returns, np.float64))
    quarter = ordered.shape[-1] // 4
    middle: NDArray[Any] = ordered[..., quarter : ordered.shape[-1] - quarter].mean(axis=-1)
    return middle


def bootstrap_interval(returns: Sequence[float]) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean; the same numbers give the same interval."""
    return _limits(_resampled(returns).mean(1))


def _resampled(returns: Sequence[float]) -> NDArray[Any]:
    """Bootstrap samples (_RESAMPLES, episodes), the same picks for every list of one length."""
    values = np.asarray(returns, np.float64)
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    sampled: NDArray[Any] = values[picks]
    return sampled


def _limits(samples: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def evaluate(
    policy: Policy,
    env: EnvLike | None = None,
    *,
    episodes: int = 20,
    seed: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Runs ``episodes`` episodes of ``env`` (default: the one the policy was trained in, as its card describes it) to
    their ends.

    An environment given itself is stepped alone, one episode after the other, and left open. ``progress(done,
    episodes)`` is called as episodes end. Raises ConfigError without an environment, or when its spaces are not those
    of the policy; RunError for an environment that fails, gives rewards that are not finite, or never ends.
    """
    if episodes < 1:
        raise ConfigError(f"episodes={episodes} must be at least 1.")
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative.")
    env = _environment_on_card(policy) if env is None else env
    env_id, described = name_of(env), description_of(env)
    padding = padding_of(policy.observation, described.frame_stack if described else 1)
    returns = np.zeros(episodes)
    lengths = np.zeros(episodes, np.int64)
    finished = 0
    start = 0
    while start < episodes:
        envs = dict(enumerate(make_envs(env, min(_PARALLEL, episodes - start), padding=padding), start))
        try:
            _check_spaces(policy, envs[start], env_id)
            observations = {index: made.reset(seed=seed + index)[0] for index, made in envs.items()}
            for index, made in envs.items():
                made.action_space.seed(seed + index)
            while observations:
                actions, _ = policy.predict(np.stack(list(observations.values())))
                for index, action in zip(list(observations), actions, strict=True):
                    observation, reward, terminated, truncated, _ = envs[index].step(action)
                    returns[index] += float(reward)
                    lengths[index] += 1
                    if lengths[index] > MAX_STEPS:
                        raise RunError(
                            f"an episode of {env_id} has not ended after {MAX_STEPS:,} steps: limit it, for example "
                            "by --wrapper 'gymnasium.wrappers:TimeLimit(max_episode_steps=1000)'."
                        )
                    observations[index] = observation
                    if terminated or truncated:
                        del observations[index]
                        finished += 1
                        if progress is not None:
                            progress(finished, episodes)
        finally:
            for made in envs.values():
                made.close()
        start += len(envs)
    return Evaluation(env_id, seed, tuple(returns.tolist()), tuple(lengths.tolist()))


def _environment_on_card(policy: Policy) -> Environment:
    """What the policy's provenance says of its environment."""
    told = policy.provenance
    if not told.get("env"):
        raise ConfigError(
            "the policy does not say where it was trained: name an environment, for example env='Hopper-v5'."
        )
    names = (field.name for field in fields(Environment))
    return Environment(**{name: told[name] for name in names if name in told})


def _check_spaces(policy: Policy, env: Any, env_id: str) -> None:
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
