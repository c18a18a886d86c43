"""A policy that normalizes observations says so when SB3's ``evaluate_policy`` normalizes them first."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

pytest.importorskip("stable_baselines3", reason="evaluate_policy is Stable-Baselines3's")
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import policypress as pp
from rl.toys import Follow


def normalized() -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Monitor(Follow())] * 2), norm_reward=False)


def frozen(env: Any) -> pp.Policy:
    model = PPO("MlpPolicy", env, n_steps=20, batch_size=20, device="cpu", seed=0)
    model.learn(80)
    return pp.freeze(model)


def said(policy: pp.Policy, env: Any, engine: bool) -> list[str]:
    if engine:
        policy.predict(policy.observation.normalization.mean.astype("float32"))  # type: ignore[union-attr]
        assert "predict" in vars(policy)  # C takes the calls from here on
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        evaluate_policy(policy, env, n_eval_episodes=4)  # type: ignore[arg-type]
    return [str(w.message) for w in caught if "normalizes" in str(w.message)]


@pytest.mark.parametrize("engine", [False, True])
def test_normalizing_twice_is_said_once(engine: bool) -> None:
    env = normalized()
    policy = frozen(env)
    env.training = False
    (sentence,) = said(policy, env, engine)
    assert "set norm_obs = False of its VecNormalize" in sentence
    env.norm_obs = False
    assert said(policy, env, engine) == []


def test_other_policies_and_environments_are_left_in_peace() -> None:
    env = normalized()
    policy = frozen(env)
    assert said(policy, DummyVecEnv([lambda: Monitor(Follow())]), engine=True) == []
    plain = frozen(DummyVecEnv([lambda: Monitor(Follow())]))
    assert said(plain, env, engine=False) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.predict(env.reset(), episode_start=[True, True])
