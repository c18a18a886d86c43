"""A run that is killed at any moment goes on where it stood, and ends as if nothing had happened."""

from __future__ import annotations

import csv
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer

import policypress as pp
from policypress.config import TrainConfig
from policypress.errors import RunError
from policypress.files import locked
from policypress.rl import checkpoint, train
from policypress.rl import load as load_agent
from policypress.rl.callback import attached_compressor
from rl.toys import FILES, PICK, die_at_file_operation, dqn, in_child, run_config, zeros_of

TRAIN = sys.modules["policypress.rl.train"]
CONFIG = run_config(steps=200)  # a checkpoint every second step


def newest_step(out: Path) -> int:
    found = checkpoint.newest_checkpoint(out / "checkpoint")
    return 0 if found is None else int(found.name.removeprefix("step-"))


def check_finished(out: Path, config: TrainConfig, result: dict[str, Any]) -> None:
    """Everything is there, nothing else is, and nothing was lost or done twice."""
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "result.json").read_text()) == result
    assert result["steps"] == config.total_steps
    with (out / "evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    every = config.evaluation_interval
    assert [int(row["step"]) for row in rows] == list(range(every, config.total_steps + 1, every))
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)
    agent = load_agent(out / "agent.zip", config.algo)
    compressor = attached_compressor(agent)
    assert compressor is not None
    assert [int(mask.sum()) for mask in zeros_of(agent).values()] == compressor.target_zeros
    policy = pp.load(out / "policy.policy")
    for layer, mask in zip(policy.layers, zeros_of(agent).values(), strict=True):
        assert layer.trained_shape == mask.shape
        assert layer.nonzeros <= int((~mask).sum())
    assert policy.results["evaluation"] == result["evaluation"]


def check_transitions(out: Path, position: int) -> None:
    """The replay buffer's files hold what the environment did: a reward of 1 for the largest number."""
    observations, actions, rewards = (
        np.load(out / "checkpoint" / "replay" / f"{name}.npy", mmap_mode="r")[:position, 0]
        for name in ("observations", "actions", "rewards")
    )
    assert observations.any(axis=1).all()
    np.testing.assert_array_equal(rewards, actions[:, 0] == observations.argmax(axis=1))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_moments(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    reached = mmap.mmap(-1, 8)  # shared with the child: the last step that it began
    before = TRAIN._RunCallback._on_step

    def on_step(callback: Any) -> bool:
        reached[:] = callback.num_timesteps.to_bytes(8, "little")
        return before(callback)

    monkeypatch.setattr(TRAIN._RunCallback, "_on_step", on_step)
    stops = sorted(rng.sample(range(4, 195), 3))
    positions: list[int] = []
    for stop in stops:

        def overdue(stop: int = stop, delay: float = rng.uniform(0, 0.02)) -> bool:
            if int.from_bytes(reached, "little") < stop:
                return False
            time.sleep(delay)
            return True

        assert in_child(lambda: train(CONFIG, tmp_path, resume=True), overdue) == -signal.SIGKILL
        step, kept = int.from_bytes(reached, "little"), newest_step(tmp_path)
        assert 0 <= step - kept <= CONFIG.total_steps // 100
        assert not (tmp_path / "result.json").exists()
        state = json.loads((tmp_path / "checkpoint" / f"step-{kept:012d}" / "state.json").read_text())
        # Stable-Baselines3 calls back before it stores the transition, so each checkpoint lacks its last one.
        assert state["buffer"] == {"pos": kept - 1 - len(positions), "full": False}
        positions.append(state["buffer"]["pos"])
        check_transitions(tmp_path, positions[-1])

    shown = np.load(tmp_path / "checkpoint" / "replay" / "observations.npy")[:, 0]
    for first in positions[:-1]:
        assert not np.array_equal(shown[first], shown[0]), "after a resume the run's first episode came again"

    with pytest.raises(RunError, match="holds an unfinished run: add --resume to go on, or choose another --out"):
        train(CONFIG, tmp_path)
    restored: list[int] = []
    restore = checkpoint.restore_checkpoint

    def restore_and_note(model: Any, folder: Path) -> dict[str, Any]:
        state = restore(model, folder)
        restored.append(model.replay_buffer.pos)
        np.testing.assert_array_equal(model.replay_buffer.observations[:, 0], shown)
        return state

    monkeypatch.setattr(checkpoint, "restore_checkpoint", restore_and_note)
    result = train(CONFIG, tmp_path, resume=True)
    assert restored == positions[-1:]
    check_finished(tmp_path, CONFIG, result)


def test_killed_between_any_two_files_of_the_ending(tmp_path: Path) -> None:
    config = run_config(steps=100, algo_kwargs={**CONFIG.algo_kwargs, "train_freq": 4})
    at_end = lambda: newest_step(tmp_path) == 100  # noqa: E731
    assert in_child(lambda: train(config, tmp_path), at_end) in (-signal.SIGKILL, 0)
    (tmp_path / "result.json").unlink(missing_ok=True)

    def attempt(count: int) -> None:
        die_at_file_operation(count, tmp_path)
        train(config, tmp_path, resume=True)

    for count in range(1, 60):
        code = in_child(lambda count=count: attempt(count))
        for name, opens in {"policy.policy": pp.load, "agent.zip": lambda file: load_agent(file, "dqn")}.items():
            if (tmp_path / name).exists():
                opens(tmp_path / name)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert count > 15, "hardly anything was interrupted"
    result = train(config, tmp_path)
    check_finished(tmp_path, config, result)


def test_killed_between_any_two_files_of_the_training(tmp_path: Path) -> None:
    config = run_config(steps=60, eval_every=10, algo_kwargs={**CONFIG.algo_kwargs, "learning_starts": 5})
    rng = random.Random(0)

    def attempt(count: int) -> None:
        die_at_file_operation(count, tmp_path)
        train(config, tmp_path, resume=True)

    before, kills = 0, 0
    for _ in range(40):
        code = in_child(lambda: attempt(rng.randrange(40, 140)))
        rng.random()  # the child's draw was its own
        if code == 0:
            break
        kills += 1
        assert code == -signal.SIGKILL
        assert newest_step(tmp_path) >= before, "a checkpoint went missing"
        before = newest_step(tmp_path)
    assert code == 0
    assert kills >= 3
    check_finished(tmp_path, config, train(config, tmp_path))


@pytest.mark.parametrize(("algo", "checkpoints"), [("dqn", (49, 50)), ("ppo", (40,))])  # after whole rollouts of 20
def test_interrupted_from_the_keyboard(algo: str, checkpoints: tuple[int, ...], tmp_path: Path) -> None:
    def interrupt(done: int, *_: Any) -> None:
        if done >= 50:
            raise KeyboardInterrupt

    config = run_config(algo)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, progress=interrupt)
    assert newest_step(tmp_path) in checkpoints
    with pytest.raises(RunError, match="unfinished run: add --resume"):
        train(config, tmp_path)
    with pytest.raises(RunError, match="other settings"):
        train(replace(config, seed=99), tmp_path, resume=True)
    seen: list[int] = []
    result = train(config, tmp_path, resume=True, progress=lambda done, *_: seen.append(done))
    assert min(seen) >= min(checkpoints), "it began anew"
    check_finished(tmp_path, config, result)


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint" / "replay"
    assert in_child(lambda: train(run_config(), tmp_path), folder.exists) == -signal.SIGKILL
    started = newest_step(tmp_path)
    config = run_config()
    result = train(config, tmp_path, resume=started > 0)
    check_finished(tmp_path, config, result)


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    def hold() -> None:
        with locked(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)

    def refused() -> bool:
        if not (tmp_path / "held").exists():
            return False
        with pytest.raises(RunError, match="another process is training in"), locked(tmp_path):
            pass
        return True

    assert in_child(hold, refused) == -signal.SIGKILL
    with locked(tmp_path):
        pass


def test_a_checkpoint_restores_random_numbers_and_state(tmp_path: Path) -> None:
    model = dqn(PICK)
    model.learn(30)
    checkpoint.map_replay_buffer(model, tmp_path / "replay", resume=False)
    checkpoint.save_checkpoint(model, tmp_path, {"note": [1, 2]})

    def draw() -> list[float]:
        return [torch.rand(1).item(), float(np.random.randn()), random.random()]  # noqa: NPY002

    drawn = draw()
    assert draw() != drawn
    state = checkpoint.restore_checkpoint(model, tmp_path / "step-000000000030")
    assert state["note"] == [1, 2]
    assert draw() == drawn


def test_a_replay_buffer_of_another_shape_is_refused(tmp_path: Path) -> None:
    checkpoint.map_replay_buffer(dqn(PICK), tmp_path, resume=False)
    with pytest.raises(RunError, match=r"replay buffer in .* is of another shape: start the run anew"):
        checkpoint.map_replay_buffer(dqn(PICK, buffer_size=100), tmp_path, resume=True)


def test_a_replay_buffer_of_dict_observations_is_kept(tmp_path: Path) -> None:
    part = spaces.Box(-1, 1, (2,))
    space = spaces.Dict({"arm": part, "leg/left": part})
    one, other = (
        SimpleNamespace(replay_buffer=DictReplayBuffer(5, space, spaces.Discrete(2), "cpu")) for _ in range(2)
    )
    checkpoint.map_replay_buffer(one, tmp_path, resume=False)  # type: ignore[arg-type]
    one.replay_buffer.observations["leg/left"][3] = 0.5
    checkpoint.flush_replay_buffer(one.replay_buffer)
    checkpoint.map_replay_buffer(other, tmp_path, resume=True)  # type: ignore[arg-type]
    assert np.array_equal(other.replay_buffer.observations["leg/left"], one.replay_buffer.observations["leg/left"])
    assert not other.replay_buffer.observations["arm"].any()


@pytest.mark.slow
def test_command_line_killed_and_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "policypress", "train", "--algo", "dqn", "--env", "CartPole-v1", "--steps", "1000",
        "--sparsity", "0.8", "--hidden", "16,16", "--set", "learning_starts=50", "--out", str(out),
        "--eval-every", "200", "--eval-episodes", "2", "--final-episodes", "5", "--resume", "--json",
    ]  # fmt: skip
    for stop in (30, 400, 800):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while newest_step(out) < stop and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    (result,) = json.loads(done.stdout).values()
    assert {path.name for path in out.iterdir()} == FILES | {"curve.png"}
    (out / "curve.png").unlink()
    check_finished(out, TrainConfig(**_config_of(out)), result)


def _config_of(out: Path) -> dict[str, Any]:
    from policypress.config import from_json

    return vars(from_json(TrainConfig, json.loads((out / "config.json").read_text())))
