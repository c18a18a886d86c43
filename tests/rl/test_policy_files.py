"""Frozen policies as teachers: pressed again, whatever their actions, numerics and observations are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig
from policypress.errors import ArtifactError, ConfigError, UnsupportedError
from policypress.policy import reference
from policypress.policy.artifact import pack
from policypress.policy.contract import Normalization
from policypress.policy.observations import usual_observations
from policypress.policy.policy import Policy
from policypress.rl import evaluate
from policypress.rl.formats import open_agent
from policypress.rl.policy_files import policy_teacher
from policypress.rl.press import press
from policypress.rl.sources import Source
from quick import quick
from rl.toys import FOLLOW, LOOK, PICK, agent, plan

BITS = CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.2)
SMALL: dict[str, Any] = {"batches": 600, "batch_size": 64, "states": 1500, "learning_rate": 1e-2, "collections": 5}


def frozen(algo: str, env: str) -> Policy:
    return pp.freeze(agent(algo, env))


def saved(policy: Policy, folder: Path) -> Source:
    policy.save(folder / "teacher.policy")
    return Source(folder / "teacher.policy")


@pytest.mark.parametrize("algo", quick(["sac", "ppo", "dqn"], ["sac"]))
def test_a_policy_is_pressed_again(algo: str, tmp_path: Path) -> None:
    env = FOLLOW if algo == "sac" else PICK
    source = saved(frozen(algo, env), tmp_path)
    config = plan(source, algo, env, hidden=(12, 12), student=SMALL, settings={"episodes": 6})
    result = press(source, config, tmp_path / "run")
    returns = evaluate(pp.load(source.agent), env, episodes=6).returns
    assert result["teacher"]["returns"] == list(returns)
    student = pp.load(tmp_path / "run" / "policy.policy")
    assert [layer.trained_shape[0] for layer in student.layers][:2] == [12, 12]
    assert (student.numerics, student.provenance["algo"]) == ("integer", algo)
    assert student.baseline_bytes == pp.load(source.agent).baseline_bytes
    assert press(source, config, tmp_path / "run") == result


def test_a_student_is_pressed_again(tmp_path: Path) -> None:
    """What a student has learned from values are logits."""
    opened = open_agent(saved(frozen("dqn", PICK), tmp_path), "dqn", PICK)
    assert opened.teacher.imitation == "values"
    student = pp.compress(opened.teacher, PICK, DistillConfig(BITS, hidden=(12,), **SMALL))
    again = open_agent(saved(student, tmp_path), "dqn", PICK)
    assert again.teacher.imitation == "logits"


@pytest.mark.parametrize(("algo", "env"), [("sac", FOLLOW), ("dqn", LOOK)])
def test_it_answers_what_the_policy_answers(algo: str, env: str) -> None:
    policy = frozen(algo, env)
    if env == FOLLOW:
        normalization = Normalization(np.linspace(1.0, 2.0, 3), np.linspace(2.0, 0.5, 3), 1e-8, 3.0)
        policy = replace(policy, observation=replace(policy.observation, normalization=normalization))
    raw = usual_observations(policy, 40)
    teacher = policy_teacher(policy, "action")
    x = torch.from_numpy(reference.observe(policy.observation, raw))
    np.testing.assert_array_equal(teacher.outputs(x).numpy(), policy.outputs(raw))


def test_packed_files_that_do_not_tell_their_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(pack(frozen("dqn", PICK)))
    opened = open_agent(Source(path), "qrdqn", PICK)
    assert (opened.teacher.imitation, opened.teacher.provenance) == ("values", {})
    assert open_agent(Source(path), "ppo", PICK).teacher.imitation == "logits"
    with pytest.raises(UnsupportedError, match="SAC needs Box actions"):
        open_agent(Source(path), "sac", PICK)


def test_policies_that_do_not_fit(tmp_path: Path) -> None:
    source = saved(frozen("ppo", PICK), tmp_path)
    with pytest.raises(UnsupportedError, match=r"was trained by ppo, not by a2c: give --algo ppo\."):
        open_agent(source, "a2c", PICK)
    with pytest.raises(ConfigError, match="takes actions of Box"):
        open_agent(source, "ppo", FOLLOW)
    with pytest.raises(ConfigError, match="leave --vecnormalize out"):
        open_agent(replace(source, vecnormalize=tmp_path / "vecnormalize.pkl"), "ppo", PICK)
    with pytest.raises(
        UnsupportedError, match=r"cannot be narrowed, for what a \.policy file holds is frozen: distil it"
    ):
        plan(source, "ppo", PICK)
    with pytest.raises(UnsupportedError, match="cannot be pressed without training"):
        press(source, plan(source, "ppo", PICK, method="ptq"), tmp_path / "run")
    source.agent.write_bytes(source.agent.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="Cannot load"):
        open_agent(source, "ppo", PICK)
    assert not (tmp_path / "run").exists()
