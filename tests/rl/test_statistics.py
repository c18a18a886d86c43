"""VecNormalize: what an agent's file tells of it, which statistics are taken, and frames that are stacked over it."""

from __future__ import annotations

import base64
import io
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

import policypress as pp
from policypress.compression.freeze import freeze_graph
from policypress.config import Environment
from policypress.errors import RunError, UnsupportedError
from policypress.rl import evaluate
from policypress.rl.agents import load_agent
from policypress.rl.press import press
from policypress.rl.sources import Source
from policypress.rl.statistics import beside, normalized_env, read_vecnormalize
from rl.toys import FOLLOW, Follow, agent, plan, random_observations

WIDE = "toys/FollowWide-v0"
"""``Follow`` in the numbers of MuJoCo: float64 without bounds, far from zero."""


class FollowWide(Follow):
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def _draw(self) -> Any:
        return self.np_random.uniform(-1, 1, 3) * [0.1, 1.0, 20.0] + [0.0, 5.0, 100.0]


gym.register(WIDE, entry_point=FollowWide, disable_env_checker=True)


def raw(env: str) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make(env))])


def normalized(env: str) -> VecNormalize:
    return VecNormalize(raw(env), clip_obs=3.0)


def rewards(env: str) -> VecNormalize:
    return VecNormalize(raw(env), norm_obs=False)


def stacked(env: str) -> VecEnv:
    return VecFrameStack(normalized(env), 3)


@cache
def trained(algo: str, env: str, wrap: Callable[[str], VecEnv]) -> tuple[Any, VecEnv, bytes]:
    """An agent, its environment and its zip."""
    wrapped = wrap(env)
    made = agent(algo, wrapped)  # type: ignore[arg-type]
    made.learn(63)
    file = io.BytesIO()
    made.save(file)
    return made, wrapped, file.getvalue()


def write(folder: Path, algo: str, env: str, wrap: Callable[[str], VecEnv], name: str = "agent") -> Path:
    path = folder / f"{name}.zip"
    path.write_bytes(trained(algo, env, wrap)[2])
    return path


def save_statistics(path: Path, algo: str, env: str, wrap: Callable[[str], VecEnv]) -> Path:
    path.parent.mkdir(exist_ok=True)
    wrapped: Any = trained(algo, env, wrap)[1]
    (wrapped if isinstance(wrapped, VecNormalize) else wrapped.venv).save(str(path))
    return path


def edited(path: Path, **changes: Any) -> Path:
    """The zip at ``path`` with other attributes; None takes one out."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(contents["data"]) | changes
    contents["data"] = json.dumps({name: value for name, value in data.items() if value is not None}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def array(*values: float, dtype: Any = np.float32) -> dict[str, str]:
    pickled = pickle.dumps(np.array([values], dtype))
    return {":type:": "<class 'numpy.ndarray'>", ":serialized:": base64.b64encode(pickled).decode()}


# What a file tells


@pytest.mark.parametrize(
    ("algo", "env", "wrap", "verdict"),
    [
        ("ppo", FOLLOW, raw, "raw"),
        ("ppo", WIDE, raw, "raw"),
        ("sac", WIDE, raw, "raw"),
        ("sac", FOLLOW, raw, "unknown"),
        ("ppo", WIDE, normalized, "normalized"),
        ("sac", WIDE, normalized, "normalized"),
        ("td3", WIDE, normalized, "normalized"),
        ("ppo", WIDE, rewards, "raw"),
        ("sac", WIDE, rewards, "raw"),
        ("sac", FOLLOW, rewards, "raw"),
        ("ppo", FOLLOW, rewards, "wrapped"),
        ("ppo", WIDE, stacked, "wrapped"),
    ],
)
def test_agents_as_stable_baselines_saves_them(
    algo: str, env: str, wrap: Callable[[str], VecEnv], verdict: str, tmp_path: Path
) -> None:
    path = write(tmp_path, algo, env, wrap)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_agent(path, algo, Environment(env, frame_stack=3 if wrap is stacked else 1), force=True)
    assert found.evidence.verdict == verdict
    assert found.observation.normalization is None


def test_observations_beyond_the_environments_bounds_were_normalized(tmp_path: Path) -> None:
    path = write(tmp_path, "sac", FOLLOW, raw)
    edited(path, _last_obs=array(0.5, -1.7, 0), _last_original_obs=array(0.5, -0.9, 0))
    with pytest.raises(UnsupportedError, match=r"outside of the environment's bounds\): give its statistics"):
        load_agent(path, "sac", FOLLOW)
    edited(path, _last_obs=array(0.5, -1.7, 0), _last_original_obs=array(0.5, -1.8, 0))  # bounds that nobody keeps
    assert load_agent(path, "sac", FOLLOW).evidence.verdict == "unknown"


def test_a_file_that_holds_its_vecnormalize(tmp_path: Path) -> None:
    path = edited(write(tmp_path, "ppo", WIDE, raw), _vec_normalize_env={":type:": "VecNormalize"})
    with pytest.raises(UnsupportedError, match="its file holds the VecNormalize of its training"):
        load_agent(path, "ppo", WIDE)


@pytest.mark.parametrize("value", [None, 3, {":serialized:": "AAAA"}, {":serialized:": 1}])
def test_a_file_that_tells_nothing(value: Any, tmp_path: Path) -> None:
    path = edited(write(tmp_path, "ppo", WIDE, normalized), _last_obs=value)
    found = load_agent(path, "ppo", WIDE)
    assert found.evidence.verdict == "unknown"
    assert found.observation.normalization is None


# Which statistics are taken


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_statistics_that_are_missing(algo: str, tmp_path: Path) -> None:
    path = write(tmp_path, algo, WIDE, normalized)
    with pytest.raises(UnsupportedError, match=r"was trained with VecNormalize \(.*\): give its statistics with --vec"):
        load_agent(path, algo, WIDE)
    assert load_agent(path, algo, WIDE, force=True).observation.normalization is None
    config = plan(Source(path, force=True), algo, WIDE, student={"batches": 10}, settings={"episodes": 2})
    with pytest.raises(UnsupportedError, match="--force"):
        press(Source(path), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "place", ["vecnormalize.pkl", "agent_64_steps/vecnormalize.pkl", "FollowWide-v3/vecnormalize.pkl", "numbered"]
)
def test_statistics_beside_an_agent_that_needs_them_are_taken(place: str, tmp_path: Path) -> None:
    path = write(tmp_path, "ppo", WIDE, normalized, name="agent_64_steps")
    place = "agent_vecnormalize_64_steps.pkl" if place == "numbered" else place.replace("FollowWide", WIDE[:-3])
    (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
    file = save_statistics(tmp_path / place, "ppo", WIDE, normalized)
    assert beside(path, WIDE) == [file]
    with pytest.warns(UserWarning, match="the statistics in .* are used: the agent was trained with VecNormalize"):
        found = load_agent(path, "ppo", WIDE)
    wrapped: Any = trained("ppo", WIDE, normalized)[1]
    assert found.vecnormalize == file
    assert found.observation.normalization is not None
    np.testing.assert_array_equal(found.observation.normalization.mean, wrapped.obs_rms.mean)
    with pytest.warns(UserWarning, match="are used"):
        config = plan(Source(path), "ppo", WIDE)
    assert config.vecnormalize == plan(Source(path, file), "ppo", WIDE).vecnormalize != ""


def test_statistics_beside_an_agent_of_whom_nothing_is_known(tmp_path: Path) -> None:
    path = edited(write(tmp_path, "ppo", WIDE, normalized), _last_obs=None)
    file = save_statistics(tmp_path / "vecnormalize.pkl", "ppo", WIDE, normalized)
    with pytest.warns(UserWarning, match="lies beside the agent and is not used: give it with --vecnormalize if"):
        assert load_agent(path, "ppo", WIDE).observation.normalization is None
    assert load_agent(path, "ppo", WIDE, vecnormalize=file).observation.normalization is not None


def test_statistics_that_explain_what_the_agent_saw_last_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "sac", FOLLOW, normalized)
    file = save_statistics(tmp_path / "vecnormalize.pkl", "sac", FOLLOW, normalized)
    original = np.array([[0.1, -0.2, 0.3]], np.float32)
    env: Any = trained("sac", FOLLOW, normalized)[1]
    edited(path, _last_original_obs=array(*original[0]), _last_obs=array(*env.normalize_obs(original)[0]))
    with pytest.warns(UserWarning, match="are used"):
        assert load_agent(path, "sac", FOLLOW).vecnormalize == file
    edited(path, _last_obs=array(0.9, -0.9, 0.0))  # the observation after it
    with pytest.warns(UserWarning, match="is not used"):
        assert load_agent(path, "sac", FOLLOW).vecnormalize is None


def test_an_agent_that_never_had_statistics(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = write(tmp_path, "sac", WIDE, raw)
    file = save_statistics(tmp_path / "vecnormalize.pkl", "ppo", WIDE, normalized)
    assert load_agent(path, "sac", WIDE).observation.normalization is None
    assert not recwarn
    with pytest.raises(UnsupportedError, match=r"was not trained with VecNormalize \(.*\): leave --vecnormalize out"):
        load_agent(path, "sac", WIDE, vecnormalize=file)
    assert load_agent(path, "sac", WIDE, vecnormalize=file, force=True).observation.normalization is not None


def test_a_wrapper_that_may_have_normalized_rewards_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "ppo", FOLLOW, rewards)
    with pytest.warns(UserWarning, match="unless that normalized rewards alone, give its statistics"):
        load_agent(path, "ppo", FOLLOW)
    save_statistics(tmp_path / "vecnormalize.pkl", "ppo", FOLLOW, rewards)  # says so itself
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_agent(path, "ppo", FOLLOW).observation.normalization is None


# Frames over VecNormalize


def frame_agent(tmp_path: Path, outside: bool) -> tuple[Any, VecEnv, Path, Path]:
    """An agent of stacked frames, each normalized by itself, or ``outside``, all of them together."""
    single = raw(WIDE)
    inner: Any = VecNormalize(VecFrameStack(single, 3)) if outside else VecNormalize(single)
    env = inner if outside else VecFrameStack(inner, 3)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=16, policy_kwargs={"net_arch": [16]}, seed=1, device="cpu")
    model.learn(64)
    inner.training = False
    model.save(tmp_path / "agent.zip")
    inner.save(str(tmp_path / "statistics.pkl"))
    return model, env, tmp_path / "agent.zip", tmp_path / "statistics.pkl"


@pytest.mark.parametrize("outside", [False, True])
def test_stacked_frames_answer_as_the_agent_from_the_first_step_on(outside: bool, tmp_path: Path) -> None:
    model, env, path, statistics = frame_agent(tmp_path, outside)
    environment = Environment(WIDE, frame_stack=3)
    found = load_agent(path, "ppo", environment, vecnormalize=statistics)
    policies = [freeze_graph(found.graph, found.observation, found.action), pp.freeze(model)]
    returns = []
    for seed in range(5):
        env.seed(seed)
        seen: Any = env.reset()
        total = 0.0
        for _ in range(10):
            action, _ = model.predict(seen, deterministic=True)
            seen, *_ = env.step(action)
            inner = env if outside else env.venv  # type: ignore[attr-defined]
            total += float(inner.get_original_reward()[0])
        returns.append(total)
    for policy in policies:
        np.testing.assert_allclose(evaluate(policy, environment, episodes=5, seed=0).returns, returns, rtol=1e-4)


def test_statistics_of_frames_that_are_not_stacked(tmp_path: Path) -> None:
    _, _, path, statistics = frame_agent(tmp_path, outside=False)
    with pytest.raises(UnsupportedError, match=r"Box \[9\], but those of .* are Box \[3\]: name .*--frame-stack"):
        load_agent(path, "ppo", WIDE, vecnormalize=statistics)
    with pytest.raises(UnsupportedError, match=r"Box \[9\], but those of .* are Box \[6\]"):
        load_agent(path, "ppo", Environment(WIDE, frame_stack=2), vecnormalize=statistics)


@pytest.mark.parametrize("outside", [False, True])
def test_agents_of_stacked_frames_are_trained_on(outside: bool, tmp_path: Path) -> None:
    *_, path, statistics = frame_agent(tmp_path, outside)
    environment = Environment(WIDE, frame_stack=3)
    source = Source(path, statistics, trust=True, force=True)
    config = plan(source, "ppo", environment, method="finetune", settings={"steps": 128, "episodes": 2})
    press(source, config, tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    found = load_agent(path, "ppo", environment, vecnormalize=statistics)
    assert policy.observation.normalization is not None
    assert found.observation.normalization is not None
    np.testing.assert_array_equal(policy.observation.normalization.mean, found.observation.normalization.mean)
    assert (policy.provenance["env"], policy.provenance["frame_stack"]) == (WIDE, 3)
    assert evaluate(policy, episodes=2, seed=1000).returns == tuple(policy.results["evaluation"]["returns"])


# The file of VecNormalize


def test_a_file_is_rebuilt_without_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, env, _ = trained("ppo", WIDE, normalized)
    file = save_statistics(tmp_path / "vecnormalize.pkl", "ppo", WIDE, normalized)
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("something was unpickled"))
    made: Any = normalized_env(file, raw(WIDE))
    expected: Any = env
    observations = random_observations(model)
    np.testing.assert_array_equal(made.normalize_obs(observations), expected.normalize_obs(observations))
    values = np.array([1.0, -2.0])
    np.testing.assert_array_equal(made.normalize_reward(values), expected.normalize_reward(values))
    assert (made.training, made.gamma, made.clip_obs) == (False, expected.gamma, 3.0)


def test_parts_of_a_dict(tmp_path: Path) -> None:
    class Parts(Follow):
        observation_space = spaces.Dict(
            {"far": spaces.Box(-np.inf, np.inf, (2,), np.float64), "near": spaces.Box(-1, 1, (2, 2), np.float32)}
        )

        def _draw(self) -> Any:
            return {"far": self.np_random.normal(50, 9, 2), "near": self.np_random.uniform(-1, 1, (2, 2))}

        def _reward(self, action: Any) -> float:
            return 0.0

    for keys in (None, ["far"], ["near"]):
        env = VecNormalize(DummyVecEnv([lambda: Monitor(Parts())]), norm_obs_keys=keys)
        model = SAC("MultiInputPolicy", env, policy_kwargs={"net_arch": [8]}, learning_starts=20, buffer_size=99)
        model.learn(40)
        env.training = False
        env.save(str(tmp_path / "parts.pkl"))
        model.save(tmp_path / "agent.zip")
        if keys == ["near"]:  # the others are not clipped
            with pytest.raises(UnsupportedError, match="observations of 'far' are not normalized and others are"):
                load_agent(tmp_path / "agent.zip", "sac", Parts, vecnormalize=tmp_path / "parts.pkl")
            continue
        found = load_agent(tmp_path / "agent.zip", "sac", Parts, vecnormalize=tmp_path / "parts.pkl")
        policies = [freeze_graph(found.graph, found.observation, found.action), pp.freeze(model)]
        for seed in range(20):
            observation = Parts().reset(seed=seed)[0]
            seen: Any = env.normalize_obs({name: value[None] for name, value in observation.items()})
            expected, _ = model.predict(seen, deterministic=True)
            for policy in policies:
                flat = np.concatenate([observation["far"], observation["near"].reshape(-1)]).astype(np.float32)
                np.testing.assert_allclose(policy.predict(flat)[0], expected[0], atol=1e-5)


def test_statistics_of_other_parts(tmp_path: Path) -> None:
    class Named(Follow):
        observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float32)})

    VecNormalize(DummyVecEnv([Named])).save(str(tmp_path / "dict.pkl"))
    statistics = read_vecnormalize(tmp_path / "dict.pkl")
    assert statistics is not None
    with pytest.raises(UnsupportedError, match=r"are of the parts \{'a': \(3,\)\}, but observations of Box"):
        statistics.flat(Follow.observation_space)


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    file = save_statistics(tmp_path / "vecnormalize.pkl", "ppo", WIDE, normalized)
    shutil.copy(file, tmp_path / "whole.pkl")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RunError, match="holds no VecNormalize statistics"):
        normalized_env(file, raw(WIDE))
