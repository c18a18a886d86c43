"""The search from nothing up: what it leaves at any moment, how it goes on, and how it ends."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policypress as pp
from policypress.config import PressConfig
from policypress.errors import ConfigError, DivergedError, RunError, UnsupportedError
from policypress.files import write_whole
from policypress.policy.policy import Policy
from policypress.rl.distill import Distill
from policypress.rl.evaluate import Evaluation
from policypress.rl.finetune import Finetune
from policypress.rl.formats import open_agent
from policypress.rl.ladder import space_of
from policypress.rl.lines import Aim, Candidate, Line, Shape
from policypress.rl.measured import PressFolder, measured_teacher
from policypress.rl.method import Method
from policypress.rl.methods import METHODS
from policypress.rl.plan import plan_pressing
from policypress.rl.search import COLUMNS, SEARCH_SEED, Standing, search
from policypress.rl.sources import OpenedAgent, Source
from quick import quick
from rl.test_imported import Memory
from rl.toys import FOLLOW, LOOK, PICK, agent, in_child, plan, save_picker

SEARCH = sys.modules["policypress.rl.search"]
FORK = multiprocessing.get_context("fork")
LINEAR = Line("up", "distill", Shape())
EVOLVED = Line("up", "evolve", Shape())


class Evolved(Method):
    """Stands in for evolution: starts from a linear student and gets no further, a step every few milliseconds."""

    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        METHODS["distill"].check(agent, replace(config, method="distill", steps=0))

    @contextmanager
    def prepare(self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1) -> Iterator[Any]:
        assert folder is not None
        start = folder / "start.policy"
        if not start.exists():
            Distill().press(agent, config, folder).save(start)
        yield Steps(Policy.load(start), folder / "steps.txt")


class Steps:
    def __init__(self, policy: Policy, file: Path) -> None:
        self._policy, self._file = policy, file
        self._done = int(file.read_text()) if file.exists() else 0

    def run(self, progress: Any = None, seconds: float = 1e9) -> bool:
        deadline = time.monotonic() + min(seconds, 0.2)
        while time.monotonic() < deadline:
            self._done += 1
            write_whole(self._file, str(self._done))  # killed at any moment
            progress(self._done, 1_000_000, None)
            time.sleep(0.01)
        return False

    def freeze(self) -> Policy:
        return self._policy


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(save_picker(tmp_path_factory.mktemp("agents") / "agent.zip"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked students of 200 batches, evolution that only steps, and no pictures."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)
    monkeypatch.setattr(SEARCH._Lines, "_timed", lambda *_: (200, 2.0, 0.5))
    monkeypatch.setattr(SEARCH, "plot_frontier", lambda *_, **__: None)
    monkeypatch.setattr(SEARCH, "_OPENING_SECONDS", 0.3)
    monkeypatch.setitem(METHODS, "evolve", Evolved())


def planned(source: Source, keep: float = 0.5, minutes: float = 0.12, bytes: int = 0, **student: Any) -> PressConfig:
    small = {"batch_size": 32, "states": 400, "learning_rate": 1e-2, "collections": 4, **student}
    wanted = {"keep": keep, "keep_worst": 0.3, "bytes": bytes, "minutes": minutes, "episodes": 16}
    return plan(source, "dqn", PICK, student=small, settings=wanted)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "frontier.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_leaves_the_smallest_and_the_frontier(source: Source, tmp_path: Path) -> None:
    found: list[Candidate] = []

    def report(one: Candidate, best: bool) -> None:
        found.append(one)
        good = [c for c in found if c.confirmed and c.low >= 0.5 and c.worst_share >= 0.3]
        if good:
            smallest = min(good, key=lambda c: c.payload_bytes)
            assert pp.size(pp.load(tmp_path / "policy.policy")).payload_bytes == smallest.payload_bytes
        assert len(rows_of(tmp_path)) == len(found)

    config = planned(source)
    standings: list[Standing] = []
    result = search(source, config, tmp_path, jobs=2, report=report, watch=standings.append)
    assert standings[0].doing == "measuring the agent"
    assert standings[-1].doing == "measuring the best"
    pressing = [one for one in standings if one.doing == "pressing"]
    assert sorted(one.seconds for one in pressing) == [one.seconds for one in pressing]
    assert LINEAR in {one.line for one in found}
    assert [int(row["payload_bytes"]) for row in rows_of(tmp_path)] == sorted(one.payload_bytes for one in found)
    assert tuple(rows_of(tmp_path)[0]) == COLUMNS
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["reached"]
    assert result["kept"]["low"] >= 0.5
    assert result["kept"]["worst_share"] >= 0.3
    assert result["evaluation"]["seed"] == 1000
    assert result["evaluation"]["episodes"] >= 16
    assert result["candidates"] == len(found)
    policy = pp.load(tmp_path / "policy.policy")
    assert policy.results["kept"] == result["kept"]
    assert search(source, config, tmp_path) == result


def test_evolution_starts_from_a_student_of_its_own_and_gets_slice_after_slice(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that nothing keeps: there is always something to do until the time is over."""
    monkeypatch.setattr("policypress.rl.lines._descend", lambda _: iter(()))
    found: list[Candidate] = []
    config = planned(source, keep=1.4, minutes=0.12)
    result = search(source, config, tmp_path, jobs=1, report=lambda one, _: found.append(one))
    assert result["reached"] is False
    evolved = [one for one in found if one.line == EVOLVED]
    assert len(evolved) >= 2
    assert [one.slice for one in evolved] == list(range(len(evolved)))
    assert [one.steps for one in evolved] == sorted({one.steps for one in evolved}), "each goes on where one ended"
    told = json.loads((tmp_path / "lines" / EVOLVED.name / "line.json").read_text())
    assert told["start"] is None, "it distils its own, without a price of bits"
    start = pp.load(tmp_path / "lines" / EVOLVED.name / "checkpoint" / "start.policy")
    assert start.provenance["distill"]["compression"]["rate_weight"] == 0.0
    seeds = [
        pp.load(tmp_path / "lines" / EVOLVED.name / f"{one.slice:04}.policy").results["search"]["seed"]
        for one in evolved
    ]
    assert seeds == [SEARCH_SEED + 16 * one.slice for one in evolved], "other seeds every time"
    with pytest.raises(RunError, match="holds an unfinished run: add --resume"):
        search(source, planned(source, keep=1.4, minutes=0.13), tmp_path)
    more = search(source, planned(source, keep=1.4, minutes=0.2), tmp_path, jobs=1, resume=True)
    assert more["config"]["minutes"] == 0.2
    assert more["candidates"] > len(found)


def test_where_nothing_arrives_the_lines_that_came_closest_are_measured(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few episodes flatter some of them."""
    monkeypatch.setattr(SEARCH, "_QUICK", 1.0)
    measured: dict[Line, float] = {}
    whole = SEARCH._Lines._measured

    def watched(self: Any, candidate: Candidate, seconds: float) -> Any:
        found = whole(self, candidate, seconds)
        measured[candidate.line] = found[0]
        return found

    monkeypatch.setattr(SEARCH._Lines, "_measured", watched)
    result = search(source, planned(source, keep=1.4, minutes=0.15), tmp_path, jobs=2)
    assert 1 < len(measured) <= 3
    assert result["line"] == max(measured, key=lambda line: measured[line]).name


def test_the_best_return_in_so_many_bytes(source: Source, tmp_path: Path) -> None:
    result = search(source, planned(source, keep=0.0, bytes=40), tmp_path, jobs=2)
    assert result["reached"]
    assert result["size"]["payload_bytes"] <= 40
    rows = [row for row in rows_of(tmp_path) if int(row["payload_bytes"]) <= 40 and row["confirmed"] == "True"]
    chosen = max(rows, key=lambda row: float(row["low"]))
    assert int(chosen["payload_bytes"]) == result["size"]["payload_bytes"]


def test_bytes_that_nothing_fits_in_are_told(source: Source, tmp_path: Path) -> None:
    result = search(source, planned(source, keep=0.0, bytes=1, minutes=0.08), tmp_path, jobs=2)
    assert result["reached"] is False
    smallest = min(int(row["payload_bytes"]) for row in rows_of(tmp_path))
    assert result["size"]["payload_bytes"] == smallest


def test_both_are_reached_long_before_the_time_is_over(source: Source, tmp_path: Path) -> None:
    started = time.monotonic()
    result = search(source, planned(source, keep=0.5, bytes=200, minutes=30.0), tmp_path, jobs=2)
    assert time.monotonic() - started < 300
    assert result["reached"]
    assert not multiprocessing.active_children()


def test_the_worst_tenth_is_a_criterion_of_its_own(source: Source, tmp_path: Path) -> None:
    config = replace(planned(source, keep=0.5, minutes=0.1), keep_worst=1.4)
    result = search(source, config, tmp_path, jobs=2)
    assert result["reached"] is False
    assert result["kept"]["worst_share"] < 1.4


@pytest.mark.parametrize("killed", quick([False, True], [True]), ids=["keyboard", "killed"])
def test_an_interrupted_search_goes_on(killed: bool, source: Source, tmp_path: Path) -> None:
    config = planned(source, minutes=0.2)

    def interrupt(*_: Any) -> None:
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt

    if killed:
        code = in_child(lambda: search(source, config, tmp_path, jobs=1, report=interrupt))
        assert code == -signal.SIGKILL
    else:
        with pytest.raises(KeyboardInterrupt):
            search(source, config, tmp_path, jobs=1, report=interrupt)
    assert not multiprocessing.active_children()
    assert pp.load(tmp_path / "policy.policy").results["search"]["kept"]["low"] > 0
    assert not (tmp_path / "result.json").exists()
    with pytest.raises(RunError, match="unfinished run: add --resume"):
        search(source, config, tmp_path)
    for path in (tmp_path / "policy.policy", tmp_path / "frontier.csv"):
        path.unlink()  # as if it had been killed just before it heard of the candidate
    reported: list[Candidate] = []

    def report(one: Candidate, best: bool) -> None:
        reported.append(one)
        assert len(rows_of(tmp_path)) == 1 + len(reported)

    result = search(source, config, tmp_path, jobs=1, resume=True, report=report)
    assert LINEAR not in {one.line for one in reported}, "what was finished was done again"
    assert result["candidates"] == 1 + len(reported)
    assert result["reached"]


def test_a_line_in_the_middle_of_a_slice_goes_on(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policypress.rl.lines._descend", lambda _: iter(()))
    config = planned(source, keep=1.4, minutes=5.0)
    steps = tmp_path / "lines" / EVOLVED.name / "checkpoint" / "steps.txt"
    code = in_child(
        lambda: search(source, config, tmp_path, jobs=1), lambda: steps.exists() and steps.read_text() not in ("", "1")
    )
    assert code == -signal.SIGKILL
    before = int(steps.read_text())
    config = replace(config, minutes=0.12)
    found: list[Candidate] = []
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        try:  # forked processes hold what the killed one held, until they notice
            search(source, config, tmp_path, jobs=1, resume=True, report=lambda one, _: found.append(one))
        except RunError:
            time.sleep(0.1)
    first = next(one for one in found if one.line == EVOLVED)
    assert first.slice == 0
    assert first.steps > before


def test_a_process_that_dies_says_so(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEARCH, "_measure", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RunError, match=r"line up-distill-linear-.* died \(exit code -9\).* go on with --resume"):
        search(source, planned(source, minutes=0.5), tmp_path, jobs=1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error", [RunError("no space left."), ZeroDivisionError("division by zero")], ids=repr)
def test_an_error_of_a_line_is_the_search_s(
    error: Exception, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Distill, "prepare", fail)
    with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
        search(source, planned(source, minutes=0.5), tmp_path, jobs=1)
    assert not multiprocessing.active_children()


def test_a_line_that_diverges_is_left_and_the_others_go_on(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Distill.prepare

    def fail(self: Distill, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1) -> Any:
        if config.student.hidden != "none":
            raise DivergedError("the training diverged.")
        return prepare(self, agent, config, folder, jobs)

    monkeypatch.setattr(Distill, "prepare", fail)
    result = search(source, planned(source), tmp_path, jobs=2)
    assert result["candidates"] >= 1
    dead = [path.parent.name for path in (tmp_path / "lines").glob("*/dead.txt")]
    assert dead
    assert not [name for name in dead if "linear" in name]
    assert any("linear" in row["hidden"] for row in rows_of(tmp_path))


def test_no_time_for_a_single_line(source: Source, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no student was finished in 0.0001 minutes: go on with --resume"):
        search(source, planned(source, minutes=0.0001), tmp_path, jobs=1)
    result = search(source, planned(source), tmp_path, jobs=1, resume=True)
    assert result["candidates"] >= 1


def test_where_the_interval_decides_more_episodes_are_played(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns that spread widely: 100 episodes miss 95 % by the lower end alone, 400 do not."""
    rng = np.random.default_rng(0)
    spread = rng.permutation(np.linspace(-1.0, 1.0, 400))
    played: list[int] = []

    def measured(policy: Policy, config: PressConfig, teacher: dict[str, Any], seconds: float) -> Any:
        count = len(teacher["returns"])
        played.append(count)
        returns = 98.0 + 20.0 * spread[:count] - float(20.0 * spread[:count].mean())
        evaluation = {"returns": returns.tolist()}
        return replace(policy, results={"kept": {}}), {"evaluation": evaluation, "kept": {}}

    monkeypatch.setattr(SEARCH, "measured_student", measured)
    monkeypatch.setattr(SEARCH, "on_more_episodes", lambda *given: {"returns": [100.0] * given[-1]})
    lines = object.__new__(SEARCH._Lines)
    lines._aim, lines._teacher, lines._agent, lines._config = Aim(0.962, 0.5), {"returns": [100.0] * 40}, None, None
    config = plan(source, "dqn", PICK, student={"batches": 200, "states": 400, "batch_size": 32})
    policy = Distill().press(open_agent(source, "dqn", PICK), config)
    policy.save(tmp_path / "0000.policy")
    lines._file = lambda _: tmp_path / "0000.policy"
    lines._found = {}
    candidate = Candidate(LINEAR, 0, 20, 1.0, 9, 0.98, 0.97, 0.99, 9.0, 0.9, 0.0, 100, True, True, 0, 1.0)
    margin, _, result = lines._measured(candidate, 1.0)
    assert played == [40, 400]
    assert result["reached"]
    assert margin >= 0.0
    lines._aim, played[:] = Aim(0.99, 0.5), []
    assert not lines._measured(candidate, 1.0)[2]["reached"]
    assert played == [40], "what misses by its mean is no closer with more"


@pytest.mark.parametrize(("spread", "minutes", "episodes"), [(0.5, 10.0, 400), (0.001, 10.0, 100), (0.5, 0.001, 100)])
def test_an_agent_whose_returns_spread_widely_is_measured_on_more_episodes(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float, minutes: float, episodes: int
) -> None:
    """Unless that takes too much of a search's time."""

    def returns_of(teacher: Any, env: Any, count: int, seed: int) -> Evaluation:
        time.sleep(0.001)
        returns = tuple(10.0 + spread * (i % 7 - 3) for i in range(count))
        return Evaluation("pick", seed, returns, (9,) * count, (False,) * count)

    monkeypatch.setattr(sys.modules["policypress.rl.measured"], "returns_of", returns_of)
    config = replace(planned(source, minutes=minutes), episodes=100)
    (tmp_path / "run").mkdir()
    measured = measured_teacher(PressFolder(tmp_path / "run"), open_agent(source, "dqn", PICK), config)
    assert measured["episodes"] == len(measured["returns"]) == episodes
    kept = json.loads((tmp_path / "run" / "teacher.json").read_text())
    assert kept["episodes"] == episodes


def test_what_does_not_fit_writes_nothing(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs=0 must be at least 1"):
        search(source, planned(source), tmp_path / "run", jobs=0)
    with pytest.raises(ConfigError, match="critic_weight needs critics"):
        search(source, planned(source, critic_weight=0.5), tmp_path / "run")
    with pytest.raises(ConfigError, match="on='moon' is not one of local, ray"):
        search(source, planned(source), tmp_path / "run", on="moon")
    with pytest.raises(ConfigError, match="address='x:1' is that of a Ray cluster: add --on ray"):
        search(source, planned(source), tmp_path / "run", address="x:1")
    assert list(tmp_path.iterdir()) == []


def test_batches_fill_the_time_of_a_student(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(SEARCH, "_TIMED_BATCHES", 20)
    lines = object.__new__(SEARCH._Lines)
    lines._agent = open_agent(source, "dqn", PICK)
    lines._space = space_of(lines._agent, frozenset({"distill"}))
    lines._config, lines._run, lines._watch = planned(source), PressFolder(tmp_path), lambda _: None
    lines._begun = time.monotonic()
    (first,) = lines._space.firsts
    batches, seconds, measuring = lines._timed(first)  # however busy the machine is
    assert 1_000 <= batches <= 100_000
    assert batches % 1_000 == 0
    assert seconds > 0
    lines._config = planned(source, minutes=30.0)
    assert lines._timed(first) == (batches, seconds, measuring), "the same in every call of one run"


def test_steps_of_a_training_fill_its_part_of_the_time(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PressConfig] = []
    monkeypatch.setattr(Finetune, "pace", lambda _, agent, config: asked.append(config) or 130.0)
    lines = object.__new__(SEARCH._Lines)
    lines._agent, lines._run = open_agent(source, "dqn", PICK), PressFolder(tmp_path)
    line = Line("down", "finetune", Shape((4,)))
    for lines._config, share in ((planned(source), 0.4), (planned(source, bytes=128), 0.5)):
        lines._aim = Aim(0.5, 0.3, lines._config.bytes)
        assert lines._tuned_steps(line, 1_000.0) == round(share * 100_000)
        assert lines._tuned_steps(line, 1.0) == 5_000, "what it takes to learn anything"
        assert lines._tuned_steps(line, 1e6) == 300_000
    (config,) = asked
    assert (config.method, config.student.hidden, config.keep) == ("finetune", (4,), 0.0)


def test_a_training_that_cannot_be_paced_does_not_end_the_search(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> float:
        raise UnsupportedError("an agent of squash_output=True explores by gSDE alone: use --method distill.")

    monkeypatch.setattr(Finetune, "pace", refused)
    lines = object.__new__(SEARCH._Lines)
    lines._agent, lines._run, lines._config = open_agent(source, "dqn", PICK), PressFolder(tmp_path), planned(source)
    assert lines._tuned_steps(Line("down", "finetune", Shape((4,))), 1_000.0) == 5_000


# Agents that remember

ECHO = "rl.test_sequences:Echo"


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> OpenedAgent:
    """What returns 20 in Echo, where whoever forgets gets 10."""
    path = tmp_path_factory.mktemp("agents") / "echo.pt"
    torch.jit.script(Memory(1)).save(path)
    return open_agent(Source(path), None, ECHO)


def planned_echo(agent: OpenedAgent) -> PressConfig:
    small = {"batch_size": 192, "states": 1600, "collections": 5, "learning_rate": 0.02}
    settings = {"keep": 0.8, "keep_worst": 0.7, "bytes": 160, "minutes": 30.0, "episodes": 16}
    return plan_pressing(agent, student=small, settings=settings)


@pytest.mark.slow
def test_an_agent_that_remembers_is_searched(echoing: OpenedAgent, tmp_path: Path) -> None:
    """Interrupted after the first student, which forgets; then gone on with, until one remembers."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    config = planned_echo(echoing)
    with pytest.raises(KeyboardInterrupt):
        search(echoing, config, tmp_path, jobs=1, report=interrupt)
    result = search(echoing, config, tmp_path, jobs=2, resume=True)
    assert result["reached"]
    assert result["kept"]["low"] >= 0.8
    assert result["size"]["payload_bytes"] <= 160
    assert pp.load(tmp_path / "policy.policy").state_size > 0
    rows = rows_of(tmp_path)
    assert {row["method"] for row in rows} == {"distill"}
    told = {row["name"].rpartition("-")[0]: (row["hidden"], row["memory"]) for row in rows}
    assert told[LINEAR.name] == ("linear", "none")
    assert told[result["line"]][1].startswith(("gru:", "history:"))
    assert any(line.startswith("down-distill-gru") for line in os.listdir(tmp_path / "lines"))


@pytest.mark.parametrize(("learning", "states"), [(0.5, 20_000), (40.0, 40_000), (1e6, 200_000)])
def test_students_of_an_agent_that_remembers_get_as_many_states_as_can_be_met(
    learning: float, states: int, echoing: OpenedAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its time of learning goes into them, where a state takes half a millisecond."""
    monkeypatch.setattr(SEARCH._Lines, "_timed", lambda *_: (1_000, learning, 0.5))
    config = planned_echo(echoing)
    config = replace(config, student=replace(config.student, states=200_000))
    teacher = {"returns": [1.0], "lengths": [1_000]}
    lines = SEARCH._Lines(echoing, config, PressFolder(tmp_path), teacher, None, lambda _: None, 0.0)
    assert set(lines._lessons) == {"gru", "history", "none"}
    assert {(lesson.states, lesson.seconds) for lesson in lines._lessons.values()} == {
        (states, learning + states * 0.0005)
    }
    assert lines._space.methods == {"distill"}


def test_the_best_memory_in_so_many_bytes_of_an_agent_of_recurrent_ppo(tmp_path: Path) -> None:
    """Its network is known, and its students are distilled alone all the same."""
    agent("recurrent_ppo", PICK).save(tmp_path / "agent.zip")
    opened = open_agent(Source(tmp_path / "agent.zip"), "recurrent_ppo", PICK)
    assert opened.teacher.graph is not None
    config = replace(planned_echo(opened), keep=0.0, bytes=150, minutes=0.12)
    result = search(opened, config, tmp_path / "run", jobs=2)
    assert result["reached"]
    assert result["size"]["payload_bytes"] <= 150
    rows = rows_of(tmp_path / "run")
    assert {row["method"] for row in rows} == {"distill"}
    assert any("gru" in line for line in os.listdir(tmp_path / "run" / "lines"))


def test_a_student_that_remembers_is_timed(
    echoing: OpenedAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(SEARCH, "_TIMED_BATCHES", 20)
    lines = object.__new__(SEARCH._Lines)
    lines._agent, lines._space = echoing, space_of(echoing, frozenset({"distill"}))
    lines._config, lines._run, lines._watch = planned_echo(echoing), PressFolder(tmp_path), lambda _: None
    lines._begun = time.monotonic()
    for first in lines._space.firsts:
        batches, seconds, _ = lines._timed(first)
        assert 1_000 <= batches <= 20_000
        assert seconds > 0
        assert lines._timed(first)[:2] == (batches, seconds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["timed-history.json", "timed-none.json", "timed.json"]


def test_shapes_grow_with_every_kind_of_memory(echoing: OpenedAgent) -> None:
    space = space_of(echoing, frozenset({"distill"}))
    assert list(space.weights) == sorted(space.weights)
    assert space.ladder[0] == Shape()
    assert [first.kind for first in space.firsts] == ["gru", "history", "none"]
    assert space.firsts[0] == Shape((16,), "gru:16")
    assert space.weights_of(Shape((16,), "gru:16")) == 3 * (2 * 16 + 16 * 16 + 2 * 16) + 16 * 16 + 16 + 16 + 1
    assert space.weights_of(Shape((8,), "history:4")) == 4 * 2 * 8 + 8 + 8 + 1
    wanted = space.weights_of(space.firsts[0])
    for first in space.firsts:
        assert abs(np.log(space.weights_of(first) / wanted)) <= np.log(2)
    for kind in ("gru", "history"):
        kin = space.kin(Shape(memory=kind))
        amounts = [int(shape.memory.partition(":")[2]) for shape in kin]
        assert amounts == sorted(amounts), "a wider one never remembers less"
    config = planned_echo(echoing)
    single = replace(config, keep=0.0, bytes=0, minutes=0.0)
    for shape in space.ladder:
        student = replace(config.student, hidden=shape.hidden or "none", memory=shape.memory)
        METHODS["distill"].check(echoing, replace(single, student=student))


def test_lines_of_earlier_versions_are_read() -> None:
    """They had hidden widths alone."""
    told = {"end": "down", "method": "distill", "hidden": [24, 24], "coarsen": 2, "seed": 1}
    assert SEARCH._line(told) == Line("down", "distill", Shape((24, 24)), 2)
    line = Line("down", "distill", Shape((16,), "gru:8"), -1)
    assert line.name == "down-distill-gru8-16-coarsen-1-seed1"
    assert SEARCH._line(json.loads(json.dumps(SEARCH._as_dict(line)))) == line


# Widths


@pytest.mark.parametrize(("algo", "env"), [("sac", FOLLOW), ("dqn", PICK)])
def test_widths_grow_from_nothing_to_the_agents_own(algo: str, env: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    agent(algo, env, policy_kwargs={"net_arch": [40, 30]}).save(path)
    space = space_of(open_agent(Source(path), algo, env), frozenset({"distill"}))
    assert space.ladder[:3] == (Shape(), Shape((4,)), Shape((6,)))
    assert space.ladder[-1] == Shape((40, 30))
    assert Shape((32, 32)) not in space.ladder, "wider than the agent's second layer"
    assert list(space.weights) == sorted(space.weights)
    config = plan(Source(path), algo, env)
    opened = open_agent(Source(path), algo, env)
    for shape in space.ladder:
        student = replace(config.student, hidden=shape.hidden or "none")
        METHODS["distill"].check(opened, replace(config, student=student))
    hundredth = space.weights[-1] / 100
    assert abs(np.log(space.weights_of(space.firsts[0]) / hundredth)) <= np.log(4)


def test_widths_of_a_network_that_sees_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    agent("dqn", LOOK).save(path)
    opened = open_agent(Source(path), "dqn", LOOK)
    space = space_of(opened, frozenset({"distill"}))
    assert len({len(shape.hidden) for shape in space.ladder}) == 1
    assert len(space.ladder) > 4
    config = plan(Source(path), "dqn", LOOK)
    for shape in space.ladder:
        METHODS["distill"].check(opened, replace(config, student=replace(config.student, hidden=shape.hidden)))


def test_widths_for_a_black_box(tmp_path: Path, source: Source) -> None:
    config = plan(source, "dqn", PICK, student={"batches": 200, "states": 400, "batch_size": 32})
    opened = open_agent(source, "dqn", PICK)
    Distill().press(opened, config).save(tmp_path / "box.policy")
    box = Source(tmp_path / "box.policy")
    space = space_of(open_agent(box, "dqn", PICK), frozenset({"distill"}))
    assert space.ladder[0] == Shape()
    assert space.firsts == (Shape((24, 24)),)
    result = search(box, planned(box), tmp_path / "run", jobs=2)
    assert result["candidates"] >= 1
