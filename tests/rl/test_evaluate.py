"""Returns of whole episodes, and the environments they come from."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import policypress as pp
from policypress.errors import ConfigError, RunError
from policypress.policy.policy import Policy
from policypress.rl import Evaluation, evaluate
from policypress.rl.environments import is_atari, make_env
from policypress.rl.evaluate import chance, constant_action
from rl.toys import CHOOSE, EPISODE, FOLLOW, LOOK, LOOK_CHANNELS_LAST, PICK, PICK_OF_FOUR, dqn, image_dqn, learn, sac


@cache
def policy(algo: str) -> Policy:
    model = sac(FOLLOW) if algo == "sac" else dqn(PICK)
    learn(model, steps=60)
    return pp.freeze(model, provenance={"env": FOLLOW if algo == "sac" else PICK})


def test_the_same_seed_gives_the_same_returns() -> None:
    first, again, other = (evaluate(policy("sac"), episodes=4, seed=seed) for seed in (5, 5, 50))
    assert first == again
    assert first.returns != other.returns
    assert first.env == FOLLOW
    assert len(set(first.returns)) == 4
    assert first.lengths == (EPISODE,) * 4


def test_an_episode_depends_on_its_own_seed_alone() -> None:
    many = evaluate(policy("sac"), episodes=30, seed=5)  # more than are stepped together
    assert evaluate(policy("sac"), episodes=3, seed=27 + 5).returns == (*many.returns[27:],)
    assert evaluate(policy("sac"), episodes=3, seed=6).returns == many.returns[1:4]


def test_returns_are_those_of_a_plain_loop() -> None:
    env = gym.make(PICK)
    returns = []
    for seed in (5, 6, 7):
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = policy("dqn").predict(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    assert evaluate(policy("dqn"), episodes=3, seed=5).returns == tuple(returns)


def test_episodes_of_different_lengths() -> None:
    model = dqn("CartPole-v1")
    result = evaluate(pp.freeze(model), "CartPole-v1", episodes=6, seed=1)
    assert len(set(result.lengths)) > 1
    assert result.returns == tuple(float(length) for length in result.lengths)


def test_interval_holds_the_mean() -> None:
    result = evaluate(policy("sac"), episodes=8)
    low, high = result.interval
    assert min(result.returns) <= low < result.mean < high <= max(result.returns)
    assert result.interval == (low, high)
    assert result.mean == pytest.approx(np.mean(result.returns))


def test_early_ends_are_those_of_the_environment() -> None:
    """CartPole falls early unless somebody balances it; the toys run for their time."""
    falls = evaluate(pp.freeze(dqn("CartPole-v1")), "CartPole-v1", episodes=6, seed=1)
    assert falls.terminated == (True,) * 6
    assert falls.ended_early == 1.0
    assert evaluate(policy("dqn"), episodes=6).ended_early == 0.0
    half = Evaluation("Here-v0", 0, (1.0, 2.0), (1, 2), (True, False))
    assert half.ended_early == 0.5
    assert half.as_dict()["terminated"] == [True, False]


def test_an_end_at_the_limit_of_time_is_not_early() -> None:
    class Both(gym.Env[Any, Any]):
        """Ends by itself in the very step in which its time is over."""

        observation_space, action_space = gym.make(PICK).observation_space, gym.make(PICK).action_space

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            return np.zeros(3, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(3, np.float32), 1.0, True, True, {}

    gym.register("toys/Both-v0", entry_point=Both, disable_env_checker=True)
    assert evaluate(policy("dqn"), "toys/Both-v0", episodes=2).terminated == (False, False)


def test_the_mean_hides_no_fall() -> None:
    result = Evaluation("Here-v0", 0, (*[100.0] * 18, 10.0, 20.0), (1,) * 20, (False,) * 18 + (True,) * 2)
    values = result.as_dict()
    assert values["mean"] == 91.5
    assert values["worst_tenth"] == result.worst_tenth == 15.0
    assert values["ended_early"] == 0.1
    assert "iqm" not in values


def test_chance_is_the_better_of_random_and_constant_actions() -> None:
    name, found = chance(PICK, episodes=20, seed=1000, steps=100)
    assert found == chance(PICK, episodes=20, seed=1000, steps=100)[1]
    assert 2 < found.mean < 5  # a third of EPISODE
    assert name in ("random actions", "one constant action")
    assert chance(FOLLOW, episodes=4, steps=100)[0] == "one constant action"  # the middle is nearer than anywhere
    assert chance("CartPole-v1", episodes=10, steps=100)[0] == "random actions"  # always to one side falls sooner
    assert len(chance(PICK, episodes=500, steps=100)[1].returns) == 20


def test_who_does_nothing_need_not_come_to_an_end() -> None:
    class Still(gym.Env[Any, Any]):
        """Ends only for those who do something."""

        observation_space, action_space = gym.make(PICK).observation_space, gym.make(PICK).action_space

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            return np.zeros(3, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(3, np.float32), 1.0, bool(action), False, {}

    gym.register("toys/Still-v0", entry_point=Still, disable_env_checker=True)
    name, found = chance("toys/Still-v0", episodes=2, steps=30)
    assert (name, found.returns, found.lengths) == ("one constant action", (30.0, 30.0), (30, 30))
    assert found.terminated == (False, False)


@pytest.mark.parametrize("env", [PICK, FOLLOW, LOOK, CHOOSE])
def test_every_kind_of_action_has_a_constant_one(env: str) -> None:
    space = make_env(env, training=False).action_space
    assert space.contains(constant_action(space))
    assert constant_action(spaces.Discrete(3, start=-4)) == -4
    np.testing.assert_array_equal(constant_action(spaces.Box(np.float32(1), np.float32(2), (2,))), [1, 1])


def test_as_json() -> None:
    result = evaluate(policy("dqn"), episodes=3, seed=9)
    values = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert values["returns"] == list(result.returns)
    assert values["lengths"] == [EPISODE] * 3
    assert (values["env"], values["seed"], values["episodes"]) == (PICK, 9, 3)
    assert values["low"] <= values["mean"] <= values["high"]
    assert Evaluation("e", 0, (1.0, 2.0), (3, 4), (False, True)).as_dict()["std"] == 0.5


def test_progress_counts_episodes() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(policy("dqn"), episodes=27, progress=lambda *values: seen.append(values))
    assert seen == [(done, 27) for done in range(1, 28)]


# Environments


def test_images_either_way() -> None:
    model = image_dqn(env=LOOK)
    learn(model, steps=40)
    frozen = pp.freeze(model)
    returns = [evaluate(frozen, env, episodes=3).returns for env in (LOOK, LOOK_CHANNELS_LAST)]
    assert returns[0] == returns[1]


@pytest.mark.parametrize(
    ("algo", "env", "sentence"),
    [
        ("sac", "Pendulum-v1", r"Pendulum-v1 takes actions of Box\(-2\.0, 2\.0, \(1,\), float32\), which this policy"),
        ("sac", PICK, r"takes actions of Discrete\(3\), which this policy does not give"),
        ("dqn", FOLLOW, r"takes actions of Box.*, which this policy does not give"),
        ("dqn", PICK_OF_FOUR, r"takes actions of Discrete\(4\), which this policy does not give"),
        ("dqn", "CartPole-v1", r"gives observations of shape \(4,\), but the policy expects \(3,\)"),
        ("sac", "toys/Named-v0", r"gives observations of shape \(2,\), but the policy expects \(3,\)"),
        ("sac", LOOK, r"gives observations of shape \(4, 36, 36\), but the policy expects \(3,\)"),
    ],
)
def test_another_environment_is_refused(algo: str, env: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        evaluate(policy(algo), env, episodes=2)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("Pendulm-v1", "Pendulum-v1"),
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("CartPole", "CartPole-v1"),
        ("Pendulum-v0", "Pendulum-v1"),
    ],
)
def test_unknown_environment_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"^there is no environment '{wrong}'; did you mean {nearest}\\?$"):
        evaluate(policy("sac"), wrong, episodes=2)


@pytest.mark.parametrize("wrong", ["qqqqqqqqqqqq", "", "no spaces in ids", "a/b/c-v0", "-v1"])
def test_names_that_resemble_nothing(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"^there is no environment"):
        make_env(wrong, training=False)


def test_without_any_environment() -> None:
    nowhere = replace(policy("sac"), provenance={})
    with pytest.raises(ConfigError, match=r"does not say where it was trained: name an environment, for example env="):
        evaluate(nowhere, episodes=2)


def test_observations_that_are_not_finite_are_refused() -> None:
    class Broken(gym.Env[Any, Any]):
        observation_space, action_space = (
            make_env(FOLLOW, training=False).observation_space,
            gym.make(FOLLOW).action_space,
        )

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            return np.full(3, np.nan, np.float32), {}

    gym.register("toys/Broken-v0", entry_point=Broken, disable_env_checker=True)
    with pytest.raises(RunError, match="gives an observation that is not finite: mend the environment"):
        evaluate(policy("sac"), "toys/Broken-v0", episodes=2)


def test_atari_games_get_the_standard_frames() -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    assert is_atari("ALE/Pong-v5")
    assert not is_atari("CartPole-v1")
    env = make_env("ALE/Pong-v5", training=False)
    assert env.observation_space.shape == (4, 84, 84)
    observation, _ = env.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((4, 84, 84), np.dtype("uint8"))
    assert env.observation_space.contains(observation)
    env.close()


@pytest.mark.parametrize("setting", [{"episodes": 0}, {"episodes": -1}, {"seed": -1}])
def test_settings_out_of_range_name_themselves(setting: dict[str, int]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"^{name}={value} must"):
        evaluate(policy("sac"), **setting)
