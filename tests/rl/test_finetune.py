"""``--method finetune``: an agent that is trained on while it is pressed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import policypress as pp
from policypress.config import CompressConfig
from policypress.errors import RunError, UnsupportedError
from policypress.rl import checkpoint
from policypress.rl.compress import Source, plan, press
from rl.toys import FOLLOW, PICK, agent

FINETUNE = sys.modules["policypress.rl.finetune"]
ENVS = {"sac": FOLLOW, "td3": FOLLOW, "dqn": PICK, "ppo": FOLLOW, "a2c": PICK}
LEFT = {".lock", "config.json", "policy.policy", "result.json", "teacher.json"}


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FINETUNE, "REBUILT_STEPS", 60)


def saved(algo: str, folder: Path) -> Source:
    model = agent(algo, ENVS[algo])
    model.learn(40)
    model.save(folder / "agent.zip")
    return Source(folder / "agent.zip", trust=True)


def planned(source: Source, algo: str, steps: int = 200) -> CompressConfig:
    return plan(
        source, algo, ENVS[algo], method="finetune", compression={"sparsity": 0.6, "quantize_start": 0.8},
        settings={"steps": steps, "episodes": 4},
    )  # fmt: skip


@pytest.mark.parametrize("algo", ENVS)
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


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
@pytest.mark.parametrize("stop", [60, 180])  # before and while it quantizes
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
    source = Source(tmp_path / "agent.zip", trust=True)
    config = plan(source, "qrdqn", PICK, method="finetune", settings={"steps": 100, "episodes": 4})
    with pytest.raises(UnsupportedError, match="cannot be pressed while it learns"):
        press(source, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
