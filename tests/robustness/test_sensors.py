"""Observations and actions that err: nothing at strength 0, what is said at any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from policypress.robustness import sensors

SCALE = np.array([2.0, 0.0, 0.5])
WRAPPERS: dict[str, Callable[[gym.Env[Any, Any], float], sensors.Disturbed]] = {
    "noise": lambda env, strength: sensors.Noise(env, strength, SCALE),
    "bias": lambda env, strength: sensors.Bias(env, strength, SCALE),
    "quantized": lambda env, strength: sensors.Quantized(env, strength, SCALE),
    "dropped": sensors.Dropped,
    "delayed": sensors.Delayed,
    "action-noise": sensors.ActionNoise,
    "action-delayed": sensors.ActionDelayed,
}


class Count(gym.Env[Any, Any]):
    """Shows its step, a negative zero and a random number, in one array that it writes over; keeps its actions."""

    action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))

    def __init__(self, dtype: Any = np.float32) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype)
        self._shown = np.zeros(3, dtype)
        self.actions: list[NDArray[Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(np.copy(action))
        self._steps += 1
        return self._show(), 0.0, False, False, {}

    def _show(self) -> Any:
        self._shown[:] = self._steps, -0.0, self.np_random.normal()
        return self._shown


def met(env: gym.Env[Any, Any], steps: int = 12, seed: int = 5) -> NDArray[Any]:
    """What is seen in an episode in which actions are drawn."""
    rng = np.random.default_rng(seed)
    seen = [np.copy(env.reset(seed=seed)[0])]
    for _ in range(steps):
        action = rng.uniform([-1, 0], [1, 4]).astype(np.float32)
        seen.append(np.copy(env.step(action)[0]))
    return np.stack(seen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WRAPPERS)
def test_strength_zero_changes_nothing_bit_for_bit(name: str, dtype: Any) -> None:
    bare, wrapped = Count(dtype), Count(dtype)
    usual, seen = met(bare), met(WRAPPERS[name](wrapped, 0.0))
    assert seen.dtype == usual.dtype
    assert seen.tobytes() == usual.tobytes()
    assert np.stack(wrapped.actions).tobytes() == np.stack(bare.actions).tobytes()


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_same_seed_meets_the_same_and_another_does_not(name: str) -> None:
    strength = 2.0 if "delayed" in name else 0.5
    first, again = Count(), Count()
    seen = met(WRAPPERS[name](first, strength))
    assert seen.tobytes() == met(WRAPPERS[name](again, strength)).tobytes()
    assert np.stack(first.actions).tobytes() == np.stack(again.actions).tobytes()
    assert first.np_random.random() == again.np_random.random() == _after(Count())  # its own randomness is untouched


def _after(env: Count) -> float:
    met(env)
    return float(env.np_random.random())


@given(steps=st.integers(0, 15))
def test_a_delay_shows_the_observation_of_so_many_steps_ago(steps: int) -> None:
    seen, usual = met(sensors.Delayed(Count(), steps)), met(Count())
    for step, observation in enumerate(seen):
        np.testing.assert_array_equal(observation, usual[max(0, step - steps)])


@given(steps=st.integers(0, 15))
def test_delayed_actions_are_those_of_so_many_steps_ago(steps: int) -> None:
    env, bare = Count(), Count()
    met(sensors.ActionDelayed(env, steps)), met(bare)
    for step, action in enumerate(env.actions):
        np.testing.assert_array_equal(action, bare.actions[step - steps] if step >= steps else [0, 0])


def test_noise_grows_with_its_strength_in_units_of_each_number() -> None:
    usual = met(Count(np.float64), 4000)
    changes = [met(sensors.Noise(Count(np.float64), strength, SCALE), 4000) - usual for strength in (0.1, 0.3)]
    np.testing.assert_allclose(changes[1], 3 * changes[0], rtol=1e-6, atol=1e-11)
    np.testing.assert_allclose(changes[0].std(0), 0.1 * SCALE, rtol=0.05)
    assert not changes[0][:, 1].any()


def test_a_bias_stays_for_an_episode_and_is_another_in_the_next() -> None:
    env = sensors.Bias(Count(np.float64), 0.5, SCALE)
    offsets = [met(env, seed=seed) - met(Count(np.float64), seed=seed) for seed in (1, 2)]
    for offset in offsets:
        np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-12)
    assert offsets[0][0, 0] != offsets[1][0, 0]


def test_quantized_numbers_are_the_nearest_multiples() -> None:
    seen, usual = met(sensors.Quantized(Count(np.float64), 0.3, SCALE)), met(Count(np.float64))
    step = 0.3 * SCALE
    assert np.abs(seen - usual)[:, [0, 2]].max() <= step.max() / 2
    np.testing.assert_allclose((seen / np.where(step, step, 1))[:, [0, 2]] % 1 % 1, 0, atol=1e-9)
    assert seen[:, 1].tobytes() == usual[:, 1].tobytes()


def test_what_is_lost_is_replaced_by_the_latest_that_arrived() -> None:
    seen = met(sensors.Dropped(Count(), 0.5), 400)[:, 0]
    fresh = seen == np.arange(401)
    assert fresh[0]
    assert 0.4 < fresh.mean() < 0.6
    np.testing.assert_array_equal(seen, np.maximum.accumulate(np.where(fresh, np.arange(401), 0)))
    assert not met(sensors.Dropped(Count(), 1.0))[:, 0].any()


def test_noisy_actions_stay_within_their_bounds() -> None:
    env, bare = Count(), Count()
    met(sensors.ActionNoise(env, 0.4), 300), met(bare, 300)
    assert all(bool(Count.action_space.contains(action)) for action in env.actions)
    assert np.mean(np.stack(env.actions) != np.stack(bare.actions)) > 0.9


def test_moments_are_those_of_what_was_met() -> None:
    moments = sensors.Moments()
    seen = met(sensors.Watched(Count(np.float64), moments), 50)
    np.testing.assert_allclose(moments.std, seen.std(0), rtol=1e-12)
