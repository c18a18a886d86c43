"""``--method finetune``: an agent that is trained on while it is pressed."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import policypress as pp
from policypress.config import PressConfig
from policypress.errors import RunError, UnsupportedError
from policypress.rl import checkpoint
from policypress.rl.agents import load_agent
from policypress.rl.press import press
from policypress.rl.sources import Source
from quick import crossed, quick
from rl.toys import FOLLOW, LOOK, NAMED, PICK, agent, plan

FINETUNE = sys.modules["policypress.rl.finetune"]
ENVS = {"sac": FOLLOW, "td3": FOLLOW, "dqn": PICK, "ppo": FOLLOW, "a2c": PICK}
SMALL = {"features_extractor_kwargs": {"features_dim": 16}}
LEFT = {".lock", "config.json", "policy.policy", "result.json", "teacher.json"}


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FINETUNE, "REBUILT_STEPS", 60)


def saved(algo: str, folder: Path) -> Source:
    model = agent(algo, ENVS[algo])
    model.learn(40)
    model.save(folder / "agent.zip")
    return Source(folder / "agent.zip", trust=True)


def planned(source: Source, algo: str, steps: int = 200) -> PressConfig:
    return plan(
        source, algo, ENVS[algo], method="finetune", compression={"sparsity": 0.6, "quantize_start": 0.8},
        settings={"steps": steps, "episodes": 4},
    )  # fmt: skip


@pytest.mark.parametrize("algo", quick(ENVS, ["sac", "ppo"]))
def test_an_agent_is_trained_on(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(algo, tmp_path)
    before = hashlib.sha256(source.agent.read_bytes()).digest()
    sizes: list[int] = []
    rebuild = FINETUNE._rebuild_buffer

    def noting(model: Any) -> None:
        rebuild(model)
        sizes.append(model.replay_buffer.size())
        assert model.num_timesteps == 0

    monkeypatch.setattr(FINETUNE, "_rebuild_buffer", noting)
    seen: list[Any] = []
    result = press(source, planned(source, algo), tmp_path / "run", progress=lambda *values: seen.append(values))
    assert hashlib.sha256(source.agent.read_bytes()).digest() == before
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT
    assert sizes == ([60] if algo in ("sac", "td3", "dqn") else [])
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen
    assert {(of, loss) for _, of, loss in seen} == {(200, None)}
    assert result["numerics"] == "integer"
    assert result["size"]["sparsity"] >= 0.6
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert (policy.provenance["env"], policy.provenance["finetuned"]) == (ENVS[algo], 200)


def test_a_sparsity_is_found_while_it_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, asked = saved("dqn", tmp_path), list[float]()

    def returns(training: Any) -> float:
        assert np.isfinite(measured(training))
        asked.append(10.0 if len(asked) < 3 else 0.0)
        return asked[-1]

    measured = FINETUNE.Training._returns
    monkeypatch.setattr(FINETUNE.Training, "_returns", returns)
    settings = {"steps": 200, "episodes": 4}
    compression = {"sparsity": 0.9, "pruning": "adaptive", "quantize_start": 0.9}
    config = plan(source, "dqn", PICK, method="finetune", compression=compression, settings=settings)
    result = press(source, config, tmp_path / "run")
    assert len(asked) > 20
    assert 0.3 < result["size"]["sparsity"] < 0.8  # 0.34 of weights are pruned, and some round to 0


@pytest.mark.parametrize(("algo", "stop"), crossed(["dqn", "ppo"], [60, 180]))  # before and while it quantizes
def test_an_interrupted_agent_goes_on(algo: str, stop: int, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    config = planned(source, algo)

    def interrupt(done: int, *_: Any) -> None:
        if done >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        press(source, config, tmp_path / "run", progress=interrupt)
    kept = checkpoint.load(tmp_path / "run" / "checkpoint" / "agent.zip", algo)
    assert kept.num_timesteps == stop  # PPO: after whole rollouts of 20
    with pytest.raises(RunError, match="unfinished run: add --resume"):
        press(source, config, tmp_path / "run")
    seen: list[int] = []
    result = press(source, config, tmp_path / "run", resume=True, progress=lambda done, *_: seen.append(done))
    assert not seen or min(seen) > stop
    assert result["numerics"] == "integer"
    assert result["size"]["sparsity"] >= 0.6
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT


def test_statistics_of_vecnormalize_stay(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(FOLLOW))]), norm_reward=False)
    model = agent("ppo", env)  # type: ignore[arg-type]
    model.learn(60)
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    source = Source(tmp_path / "agent.zip", tmp_path / "vecnormalize.pkl", trust=True)
    press(source, planned(source, "ppo"), tmp_path / "run")
    normalization = pp.load(tmp_path / "run" / "policy.policy").observation.normalization
    assert normalization is not None
    assert normalization.mean.tolist() == env.obs_rms.mean.tolist()  # type: ignore[union-attr]


def test_agents_that_cannot_be_pressed_while_they_learn(tmp_path: Path) -> None:
    agent("qrdqn", PICK).save(tmp_path / "agent.zip")
    for trust in (False, True):  # nobody is told to trust a file for nothing
        source = Source(tmp_path / "agent.zip", trust=trust)
        config = plan(source, "qrdqn", PICK, method="finetune", settings={"steps": 100, "episodes": 4})
        with pytest.raises(UnsupportedError, match=r"cannot be pressed while it learns .*--method distill\.$"):
            press(source, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Saved by Stable-Baselines3 1.x, with gym


def as_in_the_days_of_gym(path: Path) -> Path:
    """The zip at ``path`` with what such files hold: spaces of a package that is gone, functions of an older Python."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(contents["data"])
    gone = base64.b64encode(b"cgym.spaces.box\nBox\n.").decode()
    code = base64.b64encode(b"ctypes\nCodeType\n(K\x01tR.").decode()  # too few arguments for this Python
    for name in ("observation_space", "action_space"):
        kind = str(data[name][":type:"]).replace("gymnasium", "gym")
        data[name] = {**data[name], ":type:": kind, ":serialized:": gone}
        data[name]["shape"] = data[name].pop("_shape", None)
    for name in ("lr_schedule", "clip_range", "exploration_schedule"):
        if name in data:
            data[name] = {":type:": "<class 'function'>", ":serialized:": code}
    contents["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


OLD = {"sac": FOLLOW, "td3": FOLLOW, "dqn": PICK, "ppo": FOLLOW, "image": LOOK, "dict": NAMED}


@pytest.mark.parametrize("case", quick(OLD, ["sac", "dict"]))
@pytest.mark.filterwarnings("ignore:Could not deserialize object")
def test_agents_of_the_days_of_gym_are_trained_on(case: str, tmp_path: Path) -> None:
    algo = {"image": "dqn", "dict": "ppo"}.get(case, case)
    if case == "image":
        model: Any = DQN("CnnPolicy", LOOK, learning_starts=20, buffer_size=99, policy_kwargs=SMALL, device="cpu")
    elif case == "dict":
        model = PPO("MultiInputPolicy", NAMED, n_steps=20, batch_size=20, device="cpu")
    else:
        model = agent(algo, OLD[case])
    model.learn(60)
    model.save(tmp_path / "agent.zip")
    path = as_in_the_days_of_gym(tmp_path / "agent.zip")
    observation = model.observation_space.sample()
    expected, _ = model.predict(observation, deterministic=True)
    for trust in (False, True):
        found = load_agent(path, algo, OLD[case], trust=trust)
        np.testing.assert_array_equal(found.model.predict(observation, deterministic=True)[0], expected)
    source = Source(path, trust=True, force=True)
    config = plan(source, algo, OLD[case], method="finetune", settings={"steps": 60, "episodes": 2})
    result = press(source, config, tmp_path / "run")
    assert result["numerics"] == "integer"
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT


def test_old_agents_of_another_environment_leave_nothing(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    config = planned(source, "sac")
    as_in_the_days_of_gym(source.agent)
    for env in ("Pendulum-v1", PICK):
        with pytest.raises(UnsupportedError, match=r"name the environment that it was trained in"):
            press(source, replace(config, env=env), tmp_path / "run")
    assert not (tmp_path / "run").exists()
