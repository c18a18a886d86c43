"""Students that remember are distilled over sequences: they act as a teacher does whose answers take memory."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from policypress.compression.recurrent import Frames, Recurrent
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Cell, History
from policypress.rl.evaluate import evaluate
from policypress.rl.policy_files import policy_teacher
from policypress.rl.sequences import SequenceConfig, distil_sequences
from policypress.rl.teacher import Teacher
from policypress.testing import random_observations, random_recurrent_policy


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


class Remembering:
    """Answers with the first value of the observation before, 0 where an episode starts."""

    def __init__(self) -> None:
        self.last: NDArray[Any] | None = None

    def __call__(self, observations: NDArray[Any], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        before = np.zeros(len(observations)) if self.last is None else np.where(starts, 0, self.last)
        self.last = observations[:, 0].copy()
        return before[:, None].astype(np.float32)


def teacher() -> Teacher:
    one = np.ones(1, np.float32)
    action = ActionTransform("box", (1,), low=-one, high=one)
    return Teacher(
        None, ObservationTransform((2,), "float32"), action, answers=lambda x: torch.zeros(len(x), 1), dense_bytes=400
    )


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
        teacher(), nn.Sequential(*head, nn.Linear(8, 1)), Echo, config(), Remembering(),
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
