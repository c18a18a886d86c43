"""Observations and actions that are not what they should be: wrappers, seeded by the episode.

What is drawn does not depend on how strong a disturbance is, nor on the policy: the same episode meets the same noise
at every level, times its strength. Of strength 0 each changes nothing, bit for bit.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policypress.rl.evaluate import constant_action


def stream(name: str, seed: int) -> np.random.Generator:
    """Random numbers of the disturbance ``name`` in the episode that starts from ``seed``."""
    return np.random.default_rng((zlib.crc32(name.encode()), seed))


class Disturbed(gym.Wrapper[Any, Any, Any, Any]):
    """Environment with a disturbance of some ``strength``; ``rng`` is the episode's."""

    rng: np.random.Generator

    def __init__(self, env: gym.Env[Any, Any], strength: float) -> None:
        super().__init__(env)
        self.strength = strength

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None  # or nothing would be comparable
        self.rng = stream(type(self).__name__, seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self.first(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(self.done(action))
        return self.seen(observation), reward, terminated, truncated, info

    def first(self, observation: Any) -> Any:
        """What is seen where an episode begins."""
        return self.seen(observation)

    def seen(self, observation: Any) -> Any:
        return observation

    def done(self, action: Any) -> Any:
        return action


def _added(values: NDArray[Any], change: NDArray[np.float64]) -> NDArray[Any]:
    """The sum in the dtype of ``values``, which stay as they are, down to the sign of a zero, where nothing changes."""
    return np.where(change == 0, values, values + change).astype(values.dtype)


class _Scaled(Disturbed):
    """A disturbance in units of each number's own standard deviation, ``scale``, shaped like an observation."""

    def __init__(self, env: gym.Env[Any, Any], strength: float, scale: NDArray[np.float64]) -> None:
        super().__init__(env, strength)
        self.unit = strength * scale


class Noise(_Scaled):
    """Gaussian noise on each number, anew in each step."""

    def seen(self, observation: Any) -> Any:
        return _added(observation, self.unit * self.rng.standard_normal(observation.shape))


class Bias(_Scaled):
    """Sensors that are off: a Gaussian offset of each number, the same for a whole episode."""

    def first(self, observation: Any) -> Any:
        self._offset = self.unit * self.rng.standard_normal(observation.shape)
        return self.seen(observation)

    def seen(self, observation: Any) -> Any:
        return _added(observation, self._offset)


class Quantized(_Scaled):
    """Numbers rounded to multiples of a step."""

    def seen(self, observation: Any) -> Any:
        step = np.where(self.unit == 0, 1.0, self.unit)
        return np.where(self.unit == 0, observation, np.rint(observation / step) * step).astype(observation.dtype)


class Dropped(Disturbed):
    """Each observation but an episode's first is lost with some probability: the latest that arrived stands for it."""

    def first(self, observation: Any) -> Any:
        self._latest = np.copy(observation)  # an environment may write over what it gave
        return observation

    def seen(self, observation: Any) -> Any:
        if self.rng.random() >= self.strength:
            self._latest = np.copy(observation)
        return self._latest


class Delayed(Disturbed):
    """Observations of some steps ago; of an episode's beginning before there are any."""

    def first(self, observation: Any) -> Any:
        steps = round(self.strength)
        self._queue = deque([np.copy(observation)] * (steps + 1), steps + 1)
        return observation

    def seen(self, observation: Any) -> Any:
        self._queue.append(np.copy(observation))
        return self._queue[0]


class ActionNoise(Disturbed):
    """Gaussian noise on each action of a Box, in shares of half its range, within its bounds."""

    def __init__(self, env: gym.Env[Any, Any], strength: float) -> None:
        super().__init__(env, strength)
        space = env.action_space
        assert isinstance(space, spaces.Box)
        self._low, self._high = space.low, space.high
        self._unit = strength * (space.high.astype(np.float64) - space.low) / 2

    def done(self, action: Any) -> Any:
        noisy = _added(action, self._unit * self.rng.standard_normal(np.shape(action)))
        return np.where(noisy == action, action, np.clip(noisy, self._low, self._high))


class ActionDelayed(Disturbed):
    """Actions that were chosen some steps ago; zero, or the first choice, before there are any."""

    def first(self, observation: Any) -> Any:
        steps = round(self.strength)
        self._queue = deque([constant_action(self.env.action_space)] * (steps + 1), steps + 1)
        return observation

    def done(self, action: Any) -> Any:
        self._queue.append(action)
        return self._queue[0]


class Moments:
    """Mean and variance of what was met so far, number by number (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(())
        self.squares: NDArray[np.float64] = np.zeros(())

    def add(self, observation: NDArray[Any]) -> None:
        self.count += 1
        ahead = observation - self.mean
        self.mean = self.mean + ahead / self.count
        self.squares = self.squares + ahead * (observation - self.mean)

    @property
    def std(self) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(self.squares / self.count), np.float64)


class Watched(Disturbed):
    """Changes nothing; adds what is seen to ``moments``."""

    def __init__(self, env: gym.Env[Any, Any], moments: Moments) -> None:
        super().__init__(env, 0.0)
        self._moments = moments

    def seen(self, observation: Any) -> Any:
        self._moments.add(np.asarray(observation, np.float64))
        return observation
