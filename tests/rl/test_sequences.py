"""Students that remember are distilled over sequences: they act as a teacher does whose answers take memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import policypress as pp
from policypress.compression.graph import trace
from policypress.compression.recurrent import Frames, Recurrent, remembering
from policypress.config import CompressionConfig, DistillConfig, MemoryKind, PressConfig
from policypress.errors import ConfigError, RunError, UnsupportedError
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Cell, History
from policypress.rl.agents import load_agent
from policypress.rl.agreement import agreement_on
from policypress.rl.compress import post_training
from policypress.rl.evaluate import evaluate
from policypress.rl.policy_files import policy_teacher
from policypress.rl.press import press
from policypress.rl.ptq import SequenceCalibration
from policypress.rl.recorded import Recorded
from policypress.rl.sequences import (
    SequenceConfig,
    check_over_sequences,
    distil_sequences,
    distilled_over_sequences,
)
from policypress.rl.sources import Source
from policypress.rl.teacher import Teacher
from policypress.testing import random_observations, random_recurrent_policy
from rl.toys import PICK, agent, plan


class Echo(gymnasium.Env[Any, Any]):
    """The observation is noise; what pays is to act as the one before it was."""

    observation_space = spaces.Box(-2, 2, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._last, self._steps = 0.0, 0
        self._seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 1 - abs(float(action[0]) - self._last)
        self._last, self._steps = float(self._seen[0]), self._steps + 1
        self._seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._seen, reward, False, self._steps == 20, {}


def echoes(x: torch.Tensor, states: Sequence[Any]) -> tuple[torch.Tensor, list[float]]:
    """Answers with the first value of the observation before, 0 where an episode starts."""
    return torch.tensor([[state or 0.0] for state in states]), x[:, 0].tolist()


def teacher() -> Teacher:
    one = np.ones(1, np.float32)
    action = ActionTransform("box", (1,), low=-one, high=one)
    return Teacher(None, ObservationTransform((2,), "float32"), action, steps=echoes, dense_bytes=400)


def config(**changes: Any) -> SequenceConfig:
    compression = CompressionConfig(sparsity=0.0, weight_bits=6)
    settings: dict[str, Any] = {"batches": 250, "pieces": 16, "steps": 8, "burn_in": 2, "states": 1600, "rows": 4}
    return SequenceConfig(compression, **{**settings, "collections": 5, "learning_rate": 0.02, **changes})


@pytest.mark.parametrize("kind", ["gru", "frames"])
def test_a_student_learns_what_takes_memory(kind: str) -> None:
    torch.manual_seed(0)
    head = Recurrent.of(nn.GRU(2, 8)) if kind == "gru" else [Frames(2), nn.Linear(4, 8), nn.ReLU()]
    losses: list[float] = []
    policy = distil_sequences(
        teacher(), nn.Sequential(*head, nn.Linear(8, 1)), Echo, config(),
        progress=lambda done, batches, loss: losses.append(loss),
    )  # fmt: skip
    assert policy.numerics == "integer"
    assert any(isinstance(op, Cell if kind == "gru" else History) for op in policy.ops)
    assert len(losses) == 250
    found = evaluate(policy, Echo(), episodes=3)
    assert found.mean > 17  # of 20; a student that forgets has 10 to 15


def test_a_policy_that_remembers_teaches_sequences_alone() -> None:
    policy = random_recurrent_policy(0, "integer")
    own = policy_teacher(policy, "action")
    assert own.remembers
    with pytest.raises(UnsupportedError, match="distil it over sequences"):
        own.outputs(torch.zeros(2, *policy.observation.shape))
    seen = random_observations(policy, 6, 0).reshape(3, 2, *policy.observation.shape)
    state, states = None, [None, None]
    for observations, starts in zip(seen, np.array([[1, 1], [0, 0], [0, 1]], bool), strict=True):
        wanted, state = policy.step(observations, state, starts)
        x = torch.from_numpy(reference.observe(policy.observation, observations))
        answers, states = own.step(x, [None if s else one for s, one in zip(starts, states, strict=True)])  # type: ignore[assignment]
        assert answers.numpy().tobytes() == wanted.tobytes()


def test_too_few_states_for_a_piece_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"too few for pieces of 10 steps in 4 rows: give 400 at least"):
        config(states=100)


SMALL = {"batches": 250, "batch_size": 384, "states": 1600, "collections": 5, "learning_rate": 0.02}


def test_a_memory_beats_none_and_is_deployed() -> None:
    """The same teacher, environment and settings: what pays is what came before."""
    found = {}
    for memory in ("gru:8", "none"):
        student = DistillConfig(CompressionConfig(weight_bits=6), hidden=(8,), memory=memory, **SMALL)
        policy = pp.compress(teacher(), Echo, student)
        assert (policy.state_size > 0) == (memory != "none")
        assert policy.provenance["distill"]["hidden"] == [8]
        found[memory] = evaluate(policy, Echo(), episodes=5).mean
    assert found["gru:8"] > 17 > found["none"]


def test_disturbances_lead_through_other_states() -> None:
    acted: list[float] = []

    class Noting(Echo):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            acted.append(float(action[0]))
            return super().step(action)

    shares = {}
    for rate in (0.0, 0.05):
        acted.clear()
        settings = {**SMALL, "batches": 20, "states": 600}  # so few that there is one row
        compression = CompressionConfig(sparsity=0.0, weight_bits=6)
        pp.compress(
            teacher(), Noting, DistillConfig(compression, hidden=(4,), memory="gru:4", disturbances=rate, **settings)
        )
        shares[rate] = np.mean(np.array(acted[1:]) == np.array(acted[:-1]))  # held
    assert shares[0.0] < 0.02
    assert 0.1 < shares[0.05] < 0.4


def test_what_is_interrupted_goes_on(tmp_path: Path) -> None:
    student = DistillConfig(CompressionConfig(weight_bits=6), hidden=(4,), memory="gru:4", **{**SMALL, "batches": 60})
    done: list[int] = []
    for left in (False, True):
        with distilled_over_sequences(teacher(), Echo, student, tmp_path) as work:
            assert work.run(lambda at, of, _: done.append(at), seconds=math.inf if left else 0.0) is left
    assert done == list(range(1, 61))
    assert work.freeze().numerics == "integer"
    with (
        pytest.raises(RunError, match="holds a student of other settings"),
        distilled_over_sequences(teacher(), Echo, replace(student, seed=9), tmp_path),
    ):
        pass


@pytest.mark.parametrize("memory", ["gru:3", "history:2"])
def test_a_log_is_enough(memory: str) -> None:
    episodes = [np.random.default_rng(i).uniform(-1, 1, (90, 2)).astype(np.float32) for i in range(6)]
    recorded = Recorded.of(Path("log.npz"), episodes)
    student = DistillConfig(CompressionConfig(weight_bits=6), hidden=(4,), memory=memory, **{**SMALL, "batches": 30})
    with distilled_over_sequences(teacher(), recorded, student, None) as work:
        work.run()
        policy = work.freeze()
    assert policy.provenance["recorded"]["episodes"] == 6
    found = agreement_on(policy, teacher(), recorded)
    assert found.observations == sum(map(len, recorded.held_out))


def understood() -> Teacher:
    """A network of some weights, which remembers."""
    torch.manual_seed(0)
    network = nn.Sequential(*Recurrent.of(nn.LSTM(2, 6)), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    for values in network.parameters():
        nn.init.normal_(values, std=0.7)
    graph = trace(network)
    one = np.ones(1, np.float32)
    return Teacher(graph, ObservationTransform((2,), "float32"), ActionTransform("box", (1,), low=-one, high=one))


@pytest.mark.parametrize("log", [False, True])
def test_an_agent_that_remembers_is_quantized_without_training(log: bool) -> None:
    """Its own network, every range measured in episodes: it acts as the agent does, to about what 8 bits tell apart."""
    network = understood()
    student = DistillConfig(CompressionConfig(weight_bits=8), states=800)
    if log:
        episodes = [np.random.default_rng(i).uniform(-1, 1, (90, 2)).astype(np.float32) for i in range(6)]
        work = SequenceCalibration(network, Recorded.of(Path("log.npz"), episodes), student)
        work.run()
        policy = work.freeze()
        assert policy.provenance["recorded"]["episodes"] == 6
    else:
        policy = post_training(network, Echo, student)
    own = network.policy()
    assert policy.numerics == "integer"
    assert [layer.weight.shape for layer in policy.layers] == [layer.weight.shape for layer in own.layers]
    seen = np.random.default_rng(9).uniform(-1, 1, (60, 4, 2)).astype(np.float32)
    outputs, states = np.empty((2, 60, 4)), [None, None]
    for step, now in enumerate(seen):
        starts = np.full(4, step % 20 == 0)
        for number, one in enumerate((own, policy)):
            answer, states[number] = one.step(now, states[number], starts)
            outputs[number, step] = answer[:, 0]
    assert outputs[0].std() > 0.1
    assert (outputs[0] - outputs[1]).std() < 0.1 * outputs[0].std()
    assert network.graph is not None
    assert all(type(node.module) is nn.Linear for node in network.graph.layers)  # which is left as it was


def test_what_is_quantized_without_training_keeps_its_widths() -> None:
    with pytest.raises(ConfigError, match="pressed without training as it is: leave --hidden out"):
        post_training(understood(), Echo, DistillConfig(hidden=(4,)))
    with pytest.raises(UnsupportedError, match="cannot be pressed without training, for its network is not known"):
        post_training(teacher(), Echo, DistillConfig())
    with pytest.raises(ConfigError, match="pressed over episodes"):
        post_training(understood(), lambda *_: np.zeros((1, 2)), DistillConfig())


@pytest.mark.parametrize("memory", ["lstm:4", "none"])
def test_an_agent_of_recurrent_ppo_is_distilled(memory: str, tmp_path: Path) -> None:
    model = agent("recurrent_ppo", PICK)
    model.save(tmp_path / "agent.zip")
    student: dict[str, Any] = {"memory": memory, "batches": 3, "batch_size": 48, "states": 800}
    config = plan(Source(tmp_path / "agent.zip"), "recurrent_ppo", PICK, hidden=(4,), student=student)
    config = replace(config, episodes=2)
    found = press(Source(tmp_path / "agent.zip"), config, tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert policy.numerics == found["numerics"] == "integer"
    assert policy.state_size == (8 if memory == "lstm:4" else 0)
    assert policy.provenance["algo"] == "recurrent_ppo"
    assert policy.baseline_bytes == 4 * load_agent(tmp_path / "agent.zip", "recurrent_ppo", PICK).parameters


@pytest.mark.parametrize("memory", ["gru", "gru:0", "gru:-1", "rnn:4", "lstm:2000", "history:", "gru:8x", ""])
def test_memories_that_are_none(memory: str) -> None:
    with pytest.raises(ConfigError, match=r"is not one of gru:N, lstm:N, history:N \(N from 1 to 1024\) or none"):
        DistillConfig(memory=memory)


def test_every_kind_of_memory_is_made() -> None:
    for kind in get_args(MemoryKind):
        modules, width = remembering(f"{kind}:4", 3)
        assert nn.Sequential(*modules)(torch.zeros(2, 3)).shape == (2, width)


def test_what_does_not_go_with_a_memory() -> None:
    with pytest.raises(UnsupportedError, match="A history holds 2 to 1024 frames"):
        check_over_sequences(teacher(), DistillConfig(hidden=(4,), memory="history:1"))
    with pytest.raises(ConfigError, match="give its widths, for example --hidden 16"):
        check_over_sequences(teacher(), DistillConfig(memory="gru:4"))
    with pytest.raises(ConfigError, match="leave --critic-weight out"):
        check_over_sequences(teacher(), DistillConfig(hidden=(4,), memory="gru:4", critic_weight=1.0))
    with pytest.raises(ConfigError, match="leave --falls out"):
        check_over_sequences(teacher(), DistillConfig(hidden=(4,), memory="gru:4", falls=0.25))
    for asked in ({"keep": 0.9, "minutes": 1.0}, {"method": "evolve", "steps": 10}, {"method": "ptq"}):
        with pytest.raises(ConfigError, match="distilled alone"):
            PressConfig("", "E", "agent", student=DistillConfig(hidden=(4,), memory="gru:4"), **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pressed over episodes"):
        pp.compress(teacher(), lambda *_: np.zeros((1, 2)), DistillConfig(hidden=(4,)))
