"""How values are learned beside a sparse or small network."""

from __future__ import annotations

import pickle
import signal
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from policypress.config import CompressionConfig, TrainConfig, ValueConfig
from policypress.errors import ConfigError
from policypress.rl import CompressionCallback, ValueCallback, train
from policypress.rl.callback import attached_compressor
from policypress.rl.checkpoint import map_replay_buffer, newest_checkpoint, restore_checkpoint, save_checkpoint
from policypress.rl.values import RecentReplayBuffer, prepare, recent
from rl.toys import FOLLOW, PICK, agent, in_child, run_config

STEPS = 60


def buffer_of(size: int, n_envs: int = 1) -> RecentReplayBuffer:
    space = spaces.Box(-1, 1, (1,), np.float32)
    plain = ReplayBuffer(size * n_envs, space, space, n_envs=n_envs, handle_timeout_termination=True)
    buffer = RecentReplayBuffer.of(plain, 0.5)
    buffer.compare(lambda observations: observations)
    return buffer


def put(buffer: RecentReplayBuffer, number: float, done: bool = False) -> None:
    count = buffer.n_envs
    values = np.full((count, 1), number, np.float32)
    buffer.add(values, values + 1, values, np.full(count, number), np.full(count, done), [{}] * count)


# The buffer


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 12), n_envs=st.integers(1, 2), acts=st.lists(st.integers(0, 9), max_size=60))
def test_it_gives_what_is_not_forgotten(size: int, n_envs: int, acts: list[int]) -> None:
    buffer, wanted = buffer_of(size, n_envs), deque[int](maxlen=size)
    put(buffer, 0.0)
    wanted.append(0)
    for number, act in enumerate(acts, 1):
        if act == 0:
            share, gone = 0.3, int(0.3 * len(wanted))
            buffer.forget(share)
            if len(wanted) - gone >= share * size:
                for _ in range(gone):
                    wanted.popleft()
        else:
            put(buffer, number)
            wanted.append(number)
        assert buffer.kept == len(wanted)
        assert buffer.observations[buffer._rows(np.arange(buffer.kept)), 0, 0].tolist() == list(wanted)
    drawn = set(buffer.sample(400).observations.numpy().ravel().tolist())
    assert drawn <= set(wanted)
    if len(wanted) < 5:
        assert drawn == set(wanted)


def test_it_gives_what_a_plain_one_gives() -> None:
    space = spaces.Box(-1, 1, (1,), np.float32)
    plain = ReplayBuffer(8, space, space)
    buffer = RecentReplayBuffer.of(ReplayBuffer(8, space, space), 0.5)
    for number in range(6):
        for one in (plain, buffer):
            values = np.full((1, 1), number, np.float32)
            one.add(values, values + 1, values, np.full(1, number), np.full(1, number == 3), [{}])
    found = []
    for one in (plain, buffer):
        np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from it
        found.append(one.sample(20))
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))
    assert found[1].discounts is not None
    assert torch.equal(found[1].discounts, torch.full((20, 1), 0.5))


def test_rewards_of_several_steps_end_with_the_episode_and_with_what_is_there() -> None:
    buffer = buffer_of(8)
    for number in range(1, 7):
        put(buffer, number, done=number == 3)
    buffer.n_steps = 3
    found = buffer._get_samples(np.arange(6))
    assert found.rewards.ravel().tolist() == [1 + 2 / 2 + 3 / 4, 2 + 3 / 2, 3, 4 + 5 / 2 + 6 / 4, 5 + 6 / 2, 6]
    assert found.dones.ravel().tolist() == [1, 1, 1, 0, 0, 0]
    assert found.next_observations.ravel().tolist() == [4, 4, 4, 7, 7, 7]
    assert found.discounts is not None
    assert found.discounts.ravel().tolist() == [1 / 8, 1 / 4, 1 / 2, 1 / 8, 1 / 4, 1 / 2]


def test_the_distance_is_of_the_oldest_that_it_gives() -> None:
    buffer = buffer_of(10)
    for number in range(10):
        put(buffer, number)
    assert buffer.distance(3) == 0.0
    buffer._acts = lambda observations: np.where(observations < 3, observations + 2, observations).astype(np.float32)
    assert buffer.distance(3) == pytest.approx(2.0)
    assert buffer.distance(6) == pytest.approx(1.0)
    buffer.forget(0.3)
    assert buffer.distance(3) == 0.0


def test_it_never_forgets_more_than_leaves_a_tenth_of_it() -> None:
    buffer = buffer_of(100)
    for number in range(100):
        put(buffer, number)
    for _ in range(200):
        buffer.forget(0.1)
    assert 10 <= buffer.kept < 12


def test_it_is_pickled_without_the_agent() -> None:
    buffer = buffer_of(4)
    put(buffer, 1.0)
    again = pickle.loads(pickle.dumps(buffer))
    assert again._acts is None
    assert again.kept == 1


# In training


class Watch(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def _on_step(self) -> bool:
        self.steps.append(recent(self.model).n_steps)
        return True


@pytest.mark.parametrize(("algo", "env"), [("sac", FOLLOW), ("td3", FOLLOW), ("ddpg", FOLLOW), ("dqn", PICK)])
def test_several_steps_count_from_their_time_on(algo: str, env: str) -> None:
    model, watch = agent(algo, env), Watch()
    model.learn(STEPS, callback=[ValueCallback(ValueConfig(target_steps=3, target_start=0.5)), watch])
    assert watch.steps == [1] * 29 + [3] * 31
    model.learn(10, callback=[ValueCallback(ValueConfig(target_steps=3), steps=10), watch], reset_num_timesteps=False)
    assert watch.steps[STEPS:] == [3] * 10


def test_a_second_learn_goes_on_where_the_first_has_stopped() -> None:
    model, watch = agent("sac", FOLLOW), Watch()
    for _ in range(2):  # each counts from 0 again
        model.learn(30, callback=[ValueCallback(ValueConfig(target_steps=3, target_start=0.25), steps=60), watch])
    assert watch.steps == [1] * 14 + [3] * 46


def test_rlx2_trains_and_counts_exactly() -> None:
    config = CompressionConfig(
        sparsity=0.6, critic_sparsity=0.5, pruning="rigl", prune_start=0.2, prune_end=0.8, prune_iterations=10
    )
    values = ValueConfig(target_steps=3, target_start=0.3, buffer_distance=1e-9)
    model = agent("sac", FOLLOW)
    model.learn(STEPS, callback=[CompressionCallback(config), ValueCallback(values)])
    compressor = attached_compressor(model)
    assert compressor is not None
    for pruning in compressor._prunings:
        assert [int((~one.mask).sum()) for one in pruning.weights] == pruning.target_zeros
    buffer = recent(model)
    assert 0 < buffer.kept < STEPS  # the policy moves, and old steps go
    assert buffer.means is not None
    assert bool((np.abs(buffer.means) <= 1).all())
    assert not np.array_equal(buffer.means[:STEPS], buffer.actions[:STEPS])  # those have noise


def test_the_means_are_what_the_policy_says_of_normalized_observations() -> None:
    model = agent("sac", FOLLOW)
    prepare(model, ValueConfig(buffer_distance=0.2))
    acts = recent(model)._acts
    assert acts is not None
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model.actor(torch.as_tensor(x), deterministic=True)
    np.testing.assert_allclose(acts(x), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_optimism_lifts_the_targets_from_the_least_to_the_mean(algo: str) -> None:
    model = agent(algo, FOLLOW)
    x, a = torch.randn(7, 3), torch.rand(7, 2)
    before = torch.stack(model.critic_target(x, a))
    critics = torch.stack(model.critic(x, a))
    for _ in range(2):
        prepare(model, ValueConfig(optimism=0.25))
    first, second = model.critic_target(x, a)
    torch.testing.assert_close(first, 0.75 * before.amin(0) + 0.25 * before.mean(0))
    assert torch.equal(first, second)
    torch.testing.assert_close(torch.stack(model.critic(x, a)), critics)  # what learns stays as it is
    model.learn(STEPS, callback=ValueCallback(ValueConfig(optimism=0.25)))


@pytest.mark.parametrize(
    ("algo", "env", "values", "sentence"),
    [
        ("ppo", FOLLOW, {"target_steps": 3}, "target_steps=3 needs a replay buffer, and PPO has none: leave it at 1"),
        ("ppo", FOLLOW, {"buffer_distance": 0.2}, r"buffer_distance=0\.2 needs a replay buffer, and PPO has none: "),
        ("dqn", PICK, {"buffer_distance": 0.2}, r"buffer_distance=0\.2 is one between continuous actions"),
        ("dqn", PICK, {"optimism": 1.0}, "optimism=1 is for the least of two critics or more, and DQN takes none"),
        ("ddpg", FOLLOW, {"optimism": 1.0}, "optimism=1 is for the least of two critics or more, and DDPG takes none"),
        ("tqc", FOLLOW, {"optimism": 0.5}, r"and TQC takes none: leave it at 0 \(of TQC lower top_quantiles_to_drop"),
    ],
)
def test_what_an_algorithm_does_not_have_is_told(algo: str, env: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        agent(algo, env).learn(STEPS, callback=ValueCallback(ValueConfig(**values)))


def test_steps_that_the_algorithm_counts_itself_are_refused() -> None:
    with pytest.raises(ConfigError, match="target_steps=3 needs n_steps=1 of SAC, whose buffer has 3: leave it at 1"):
        agent("sac", FOLLOW, n_steps=3).learn(STEPS, callback=ValueCallback(ValueConfig(target_steps=3)))
    saving = agent("dqn", PICK, optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False})
    with pytest.raises(ConfigError, match="target_steps=3 needs the replay buffer of DQN as it is made for vectors"):
        saving.learn(STEPS, callback=ValueCallback(ValueConfig(target_steps=3)))


# From a file


def test_a_checkpoint_knows_what_is_forgotten(tmp_path: Path) -> None:
    values = ValueConfig(buffer_distance=0.2)
    model = agent("sac", FOLLOW)
    prepare(model, values)
    map_replay_buffer(model, tmp_path / "replay", resume=False)
    model.learn(STEPS, callback=ValueCallback(values))
    recent(model).forget(0.1)
    save_checkpoint(model, tmp_path, {})
    found = newest_checkpoint(tmp_path)
    assert found is not None
    other = agent("sac", FOLLOW)
    prepare(other, values)
    map_replay_buffer(other, tmp_path / "replay", resume=True)
    restore_checkpoint(other, found)
    assert recent(other).kept == recent(model).kept < STEPS
    np.testing.assert_array_equal(recent(other).means, recent(model).means)


def config_of(**values: Any) -> TrainConfig:
    kwargs = {"learning_starts": 10, "batch_size": 8, "buffer_size": 500}
    return run_config(algo="sac", env=FOLLOW, steps=200, algo_kwargs=kwargs, values=ValueConfig(**values))


def test_a_killed_run_goes_on_with_its_values(tmp_path: Path) -> None:
    config = config_of(target_steps=3, target_start=0.2, buffer_distance=1e-9, optimism=0.5)

    def begun() -> bool:
        found = newest_checkpoint(tmp_path / "checkpoint")
        return found is not None and int(found.name.removeprefix("step-")) >= 100

    assert in_child(lambda: train(config, tmp_path), begun) == -signal.SIGKILL
    result = train(config, tmp_path, resume=True)
    assert result["config"]["values"] == {"target_steps": 3, "target_start": 0.2, "buffer_distance": 1e-9} | {
        "optimism": 0.5
    }
    assert result["steps"] == 200


def test_a_run_that_asks_for_nothing_is_as_it_was(tmp_path: Path) -> None:
    assert "values" not in train(config_of(), tmp_path)["config"]


def test_what_cannot_be_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="optimism=1 is for the least of two critics or more, and DQN takes none"):
        train(run_config(values=ValueConfig(optimism=1.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
