"""Returns of policies by seeds: those of ``evaluate``, in as many processes as are asked for."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policypress.config import Environment
from policypress.errors import RunError
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env, play
from policypress.rl.evaluate import evaluate
from policypress.rl.rollouts import Rollouts
from rl.test_environments import BROKEN, Fragile, picks
from rl.toys import EPISODE, Pick

TOY = Environment("rl.toys:Pick")  # other processes have not registered the toys


def constant(policy: Policy) -> Policy:
    """Always the same choice."""
    last = policy.ops[-1]
    return replace(policy, ops=(*policy.ops[:-1], replace(last, weight=np.zeros_like(last.weight))))  # type: ignore[call-arg, union-attr]


@pytest.mark.parametrize("jobs", [1, 2])
def test_returns_are_those_of_evaluate(jobs: int) -> None:
    good = picks()
    policies = [good, constant(good), good]
    with Rollouts(TOY, good.observation, jobs) as rollouts:
        returns, lengths = rollouts.play(policies, [7, 8, 9])
        assert rollouts.steps == 9 * EPISODE
        assert np.array_equal(lengths, np.full((3, 3), EPISODE))
    assert np.array_equal(returns, [evaluate(policy, TOY, episodes=3, seed=7).returns for policy in policies])
    assert returns[1].mean() < EPISODE == returns[0].mean()


def test_a_process_that_dies_is_told_of() -> None:
    good = picks()
    with Rollouts(TOY, good.observation, 2) as rollouts:
        rollouts.play([good], [1])
        process = rollouts._workers[0]._process
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        with pytest.raises(RunError, match=r"died \(exit code -9\): go on with --resume"):
            rollouts.play([good, good], [1])


def test_what_goes_wrong_in_a_process_is_raised_here() -> None:
    with (
        Rollouts(Environment(f"{__name__}:Late"), picks().observation, 2) as rollouts,
        pytest.raises(RunError, match=r"Late fails in step\(\) \(ValueError: no robot\): mend the environment"),
    ):
        rollouts.play([picks()], [1])


class Late(Fragile):
    """Goes wrong where steps are no longer guarded."""

    wrong: Any = ValueError("no robot")
    at = 7


class Nan(Late):
    wrong = np.nan


class Blind(Pick):
    def step(self, action: Any) -> Any:
        found, *rest = super().step(action)
        return (np.full_like(found, np.nan) if self._steps == 7 else found), *rest


class Endless(Pick):
    def step(self, action: Any) -> Any:
        found, reward, *_ = super().step(action)
        return found, reward, False, False, {}


LATE = [
    (Late, r"Late fails in step\(\) \(ValueError: no robot\): mend the environment\.$"),
    (Nan, "Nan gives a reward of nan: mend the environment, rewards must be finite"),
    (Blind, "Blind gives an observation that is not finite: mend the environment"),
    (Endless, r"an episode of .*Endless has not ended after 100,000 steps: limit it"),
]


@pytest.mark.parametrize(("env", "sentence"), [*BROKEN, *LATE])
def test_what_goes_wrong_is_told_in_a_sentence(env: Any, sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        play(make_env(env, training=False), picks().predict, 1)
