"""Agents of any format, and black boxes: what answers, apart from what a student starts from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig
from policypress.errors import ConfigError, RunError, UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.payload import encode_payload
from policypress.rl import evaluate, formats
from policypress.rl.compress import compress, post_training
from policypress.rl.environments import EnvLike
from policypress.rl.formats import READERS, Reader, open_agent
from policypress.rl.press import press
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.teacher import Teacher
from rl.toys import EPISODE, FOLLOW, PICK, Follow, plan

VECTOR = ObservationTransform((3,), "float32")
DISCRETE = ActionTransform("discrete", dtype="int64")
BOX = ActionTransform("box", (2,), low=Follow.action_space.low, high=Follow.action_space.high)
BITS = CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.2)
SMALL: dict[str, Any] = {"batches": 900, "batch_size": 64, "states": 2000, "learning_rate": 1e-2, "collections": 5}


def picks(x: torch.Tensor) -> torch.Tensor:
    """Logits of who always finds the largest number."""
    return 8.0 * x


def follows(x: torch.Tensor) -> torch.Tensor:
    """What ``Follow`` wants to hear."""
    return torch.stack([2 * x[:, 0], x[:, 1] + 1], dim=1)


def black_box(**changes: Any) -> Teacher:
    return Teacher(None, VECTOR, DISCRETE, **{"imitation": "logits", "answers": picks, **changes})


# Black boxes


def test_a_black_box_is_distilled_into_fresh_weights(tmp_path: Path) -> None:
    config = DistillConfig(BITS, hidden=(16,), **SMALL)
    policy = compress(black_box(), PICK, config, folder=tmp_path)
    assert [layer.trained_shape[0] for layer in policy.layers] == [16, 3]
    assert policy.numerics == "integer"
    assert policy.provenance["env"] == PICK
    assert policy.baseline_bytes == 4 * (4 * 16 + 17 * 3)
    assert evaluate(policy, PICK, episodes=20).mean > 0.9 * EPISODE
    assert encode_payload(compress(black_box(), PICK, config)) == encode_payload(policy)


def test_a_black_box_that_gives_actions_of_a_box() -> None:
    teacher = Teacher(None, VECTOR, BOX, answers=follows)
    policy = compress(teacher, FOLLOW, DistillConfig(BITS, hidden=(24,), **SMALL))
    assert evaluate(policy, FOLLOW, episodes=20).mean > -2.0


def test_what_needs_the_network_refuses_a_black_box() -> None:
    config = DistillConfig(BITS, **SMALL)
    with pytest.raises(ConfigError, match=r"network is not known: give the student's widths, for example --hidden"):
        compress(black_box(), PICK, config)
    with pytest.raises(
        UnsupportedError, match="cannot be pressed without training, for its network is not known: distil it"
    ):
        post_training(black_box(), PICK, config)
    with pytest.raises(UnsupportedError, match="cannot be frozen, for its network is not known: distil it"):
        black_box().policy()
    with pytest.raises(ConfigError, match="a teacher without a network needs answers"):
        Teacher(None, VECTOR, DISCRETE)
    with pytest.raises(ConfigError, match="imitation='style' is not one of action, logits, values"):
        black_box(imitation="style")
    with pytest.raises(ConfigError, match="actions of a Box have no logits and no values"):
        compress(Teacher(None, VECTOR, BOX, "logits", answers=follows), FOLLOW, replace(config, hidden=(8,)))


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (lambda x: x[:, 0], r"answers for 1 observations are shape \(1,\): give \(n, outputs\)"),
        (lambda x: x.numpy(), r"are ndarray: give \(n, outputs\)"),
        (lambda x: x[:0], r"shape \(0, 3\)"),
        (lambda x: x / 0.0, "are not finite: it cannot be imitated"),
    ],
)
def test_answers_that_are_none(answers: Any, sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        compress(black_box(answers=answers), PICK, DistillConfig(BITS, hidden=(8,), **SMALL))


# Formats: a table of an agent's logits, as another framework may save it


def is_table(path: Path) -> bool:
    return path.suffix == ".json"


def open_table(source: Source, algo: str, env: EnvLike) -> OpenedAgent:
    weights = torch.tensor(json.loads(source.agent.read_text()))

    def check_return(returns: Sequence[float], name: str) -> None:
        assert name == PICK
        assert np.mean(returns) == EPISODE

    teacher = black_box(answers=lambda x: x @ weights)
    return OpenedAgent(source, algo, env, teacher, check_return=check_return)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    readers = (*READERS, Reader("Tables", "the JSON of a table", is_table, open_table))
    monkeypatch.setattr(formats, "READERS", readers)
    (tmp_path / "agent.json").write_text(json.dumps((8 * np.eye(3)).tolist()))
    return Source(tmp_path / "agent.json", trust=True)


def test_another_format_is_a_row_of_the_table(table: Source, tmp_path: Path) -> None:
    agent = open_agent(table, "table", PICK)
    config = plan(table, "table", PICK, hidden=(16,), student=SMALL, settings={"episodes": 8})
    result = press(agent, config, tmp_path / "run")
    assert result["teacher"]["mean"] == EPISODE
    assert result["kept"]["share"] > 0.9
    assert press(table, config, tmp_path / "run") == result
    assert pp.load(tmp_path / "run" / "policy.policy").results["kept"] == result["kept"]


def test_what_needs_more_than_its_answers_is_refused(table: Source, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cannot be narrowed, for its network is not known: distil it, and give"):
        plan(table, "table", PICK)
    settings = {"method": "finetune", "settings": {"steps": 100}}
    with pytest.raises(UnsupportedError, match="no agent that Stable-Baselines3 can train on: use --method distill"):
        press(table, plan(table, "table", PICK, **settings), tmp_path / "run")
    with pytest.raises(UnsupportedError, match="cannot be pressed without training"):
        press(table, plan(table, "table", PICK, method="ptq"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_of_no_format(table: Source, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no file .*: give the zip that .* or the JSON of a table"):
        open_agent(Source(tmp_path / "missing.json"), "dqn", PICK)
    (tmp_path / "agent.txt").touch()
    for path in (tmp_path / "agent.txt", tmp_path):
        with pytest.raises(RunError, match=r"is not an agent saved by Stable-Baselines3 or .*Tables: give"):
            open_agent(Source(path), "dqn", PICK)
