"""States that another process meets: the same as those met here, and what goes wrong there is told here."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policypress.config import CompressionConfig, DistillConfig, Environment, PressConfig
from policypress.errors import RunError
from policypress.policy.payload import encode_payload
from policypress.rl import distill
from policypress.rl.elsewhere import CollectorElsewhere
from policypress.rl.formats import open_agent
from policypress.rl.methods import METHODS
from policypress.rl.sources import Collector, OpenedAgent, Source, states_for
from rl.test_environments import Fragile
from rl.toys import PICK, save_picker

TOY = Environment("rl.toys:Pick")  # other processes have not registered the toys
CONFIG = PressConfig(
    algo="dqn",
    env=TOY.env,
    agent="",
    student=DistillConfig(
        CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.2),
        hidden=(8,),
        batches=200,
        batch_size=32,
        states=600,
        collections=5,
    ),
)


class Breaks(Fragile):
    wrong = ValueError("no robot")


@pytest.fixture
def picked(tmp_path: Path) -> OpenedAgent:
    return open_agent(Source(save_picker(tmp_path / "agent.zip")), None, TOY)


def test_they_are_those_that_are_met_here(picked: OpenedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "_ELSEWHERE", 1)
    begun: list[CollectorElsewhere] = []

    def elsewhere(*given: Any) -> CollectorElsewhere:
        begun.append(CollectorElsewhere(*given))
        return begun[-1]

    monkeypatch.setattr(distill, "CollectorElsewhere", elsewhere)
    threads = torch.get_num_threads()
    here, there = (METHODS["distill"].press(picked, CONFIG, jobs=jobs) for jobs in (1, 2))
    assert len(begun) == 1
    assert encode_payload(here) == encode_payload(there)
    assert here.provenance == there.provenance
    assert torch.get_num_threads() == threads
    assert not multiprocessing.active_children()


def test_a_student_acts_in_its_share(picked: OpenedAgent) -> None:
    """What is given is a policy: its actions are those of the same states here."""
    teacher = picked.teacher
    policy = teacher.policy()
    elsewhere = CollectorElsewhere(picked, TOY, seed=3, disturbances=0.05)
    try:
        with states_for(teacher, TOY, 3, 0.05) as (_, states):
            here = Collector(teacher, states)
            for student, share in ((None, 0.0), (policy, 0.5), (policy, 1.0)):
                for collector in (here, elsewhere):
                    collector.ask(student, share, 50)
                ours, theirs = here.met(), elsewhere.met()
                assert np.array_equal(ours.observations, theirs.observations)
                assert np.array_equal(ours.steps_left, theirs.steps_left)
    finally:
        elsewhere.close()


def test_what_goes_wrong_there_is_raised_here(picked: OpenedAgent) -> None:
    elsewhere = CollectorElsewhere(picked, Environment(f"{__name__}:Breaks"), 0, 0.0)
    elsewhere.ask(None, 0.0, 100)
    with pytest.raises(RunError, match=r"Breaks fails in step\(\) \(ValueError: no robot\): mend the environment"):
        elsewhere.met()
    elsewhere.close()


def test_a_process_that_dies_is_told_of(picked: OpenedAgent) -> None:
    elsewhere = CollectorElsewhere(picked, TOY, 0, 0.0)
    elsewhere.ask(None, 0.0, 10)
    elsewhere.met()
    process = elsewhere._server._process
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(RunError, match=r"^a process that meets states died \(exit code -9\): go on with --resume\.$"):
        elsewhere.ask(None, 0.0, 10)
    elsewhere.close()


def test_a_student_learns_before_what_it_asked_for_is_added(
    picked: OpenedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "_CHECKPOINTS", CONFIG.student.batches)
    monkeypatch.setattr(distill, "_ELSEWHERE", 1)
    events: list[str] = []

    class Told(Collector):
        def ask(self, student: Any, share: float, count: int) -> None:
            events.append("ask" if student is None else "ask for the student")
            super().ask(student, share, count)

        def met(self) -> Any:
            events.append("met")
            return super().met()

    with states_for(picked.teacher, PICK, 0) as (teacher, states):
        student = distill.Distillation(teacher, Told(teacher, states), CONFIG.student)
        student.run(lambda *_: events.append("learn"))
    told = [one for number, one in enumerate(events) if one != "learn" or events[number - 1] != "learn"]
    first, pieces = told[:2], told[2:]
    assert first == ["ask", "met"]
    assert pieces[:4] == ["ask", "learn", "met", "ask for the student"]
    assert pieces[-2:] == ["met", "learn"]
    assert pieces.count("met") == CONFIG.student.collections
    assert student._memory.count == CONFIG.student.states
