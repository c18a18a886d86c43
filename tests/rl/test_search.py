"""The search for the smallest file: what it tries, what it leaves at any moment, and how it ends."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policypress as pp
from policypress.config import PressConfig
from policypress.errors import ConfigError, RunError
from policypress.rl.distill import Distill
from policypress.rl.formats import open_agent
from policypress.rl.measured import PressFolder
from policypress.rl.methods import METHODS
from policypress.rl.search import CHANCE, COLUMNS, Candidate, Knobs, Standing, propose, search
from policypress.rl.sources import Source
from rl.toys import PICK, in_child, plan, save_picker

SEARCH = sys.modules["policypress.rl.search"]
FORK = multiprocessing.get_context("fork")

knobs = st.builds(Knobs, st.integers(-6, 6), st.integers(-6, 6), st.integers(1, 3))


def candidate(which: Knobs, payload_bytes: int, low: float, high: float = 1.0) -> Candidate:
    return Candidate(which, (8, 8), payload_bytes, 10.0, 50, low, low, high, 5.0, 0.25, 1.0)


@st.composite
def found(draw: st.DrawFn) -> dict[Knobs, Candidate]:
    tried = draw(st.lists(knobs, max_size=25, unique=True))
    return {one: candidate(one, draw(st.integers(1, 1000)), draw(st.floats(0, 1.2))) for one in tried}


# What is tried


@given(found(), st.sets(knobs, max_size=4))
def test_nothing_is_tried_twice(found: dict[Knobs, Candidate], running: set[Knobs]) -> None:
    proposed = propose(found, running, 0.9)
    assert proposed not in found
    assert proposed not in running
    assert proposed == propose(found, running, 0.9)


@given(found())
def test_while_none_is_good_students_grow(found: dict[Knobs, Candidate]) -> None:
    bad = {one: replace(c, low=min(c.low, 0.89)) for one, c in found.items()}
    proposed = propose(bad, set(), 0.9)
    if not bad:
        assert proposed == Knobs()
        return
    nearest = max(bad.values(), key=lambda c: c.low).knobs
    assert proposed.shrink <= nearest.shrink
    assert proposed.coarsen <= nearest.coarsen


@given(found())
def test_from_a_good_one_students_shrink(found: dict[Knobs, Candidate]) -> None:
    good = [c for c in found.values() if c.low >= 0.9]
    if not good:
        return
    best = min(good, key=lambda c: c.payload_bytes).knobs
    proposed = propose(found, set(), 0.9)
    missed = [c.knobs for c in found.values() if c.low < 0.9]
    if proposed.seed == 1:
        # By the wanted bits and width together, never a larger one.
        assert proposed.shrink + proposed.coarsen > best.shrink + best.coarsen or (
            proposed.shrink - best.shrink,
            proposed.coarsen - best.coarsen,
        ) in {(1, -1)}
        hopeless = [m for m in missed if found[m].low < 0.9 - CHANCE]
        assert not any(m.shrink <= proposed.shrink and m.coarsen <= proposed.coarsen for m in hopeless)
    else:
        near = [m for m in missed if (m.shrink, m.coarsen) == (proposed.shrink, proposed.coarsen)]
        assert near or (proposed.shrink, proposed.coarsen) == (best.shrink, best.coarsen)


@settings(max_examples=30)
@given(st.floats(-8, 8), st.integers(1, 4))
def test_it_finds_the_edge_of_what_can_be_kept(edge: float, jobs: int) -> None:
    """Where shrinking and coarsening cost alike, it goes on for as long as it is asked, and ends near the edge."""
    tried: dict[Knobs, Candidate] = {}
    running: list[Knobs] = []
    for _ in range(60):
        while len(running) < jobs:
            running.append(propose(tried, set(running), 0.9))
        one = running.pop(0)
        size = one.shrink + one.coarsen
        tried[one] = candidate(one, round(1000 * 0.9**size), 0.95 if size <= edge else 0.85)
    assert len(tried) == 60
    best = min((c for c in tried.values() if c.low >= 0.9), key=lambda c: c.payload_bytes).knobs
    assert edge - 2 <= best.shrink + best.coarsen <= edge


def test_knobs_say_what_they_mean() -> None:
    assert Knobs(shrink=4).factor == pytest.approx(Knobs().factor / 2)
    assert Knobs(coarsen=2).rate_weight == pytest.approx(2 * Knobs().rate_weight)
    assert len({Knobs(s, c, n).name for s in (-1, 0, 1) for c in (-1, 0, 1) for n in (1, 2)}) == 18


# A whole search


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(save_picker(tmp_path_factory.mktemp("agents") / "agent.zip"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked students of 200 batches, and no pictures."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)
    monkeypatch.setattr(SEARCH._Students, "_batches", lambda *_: 200)
    monkeypatch.setattr(SEARCH, "plot_frontier", lambda *_, **__: None)


def planned(source: Source, keep: float = 0.5, minutes: float = 0.1, **student: Any) -> PressConfig:
    small = {"batch_size": 32, "states": 400, "learning_rate": 1e-2, "collections": 4, **student}
    return plan(source, "dqn", PICK, student=small, settings={"keep": keep, "minutes": minutes, "episodes": 8})


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "frontier.csv").open() as file:
        return list(csv.DictReader(file))


def check_best(out: Path, keep: float, found: dict[Knobs, Candidate]) -> None:
    """The policy in ``out`` is the smallest that keeps enough, or else the closest."""
    good = [c for c in found.values() if c.low >= keep]
    best = min(good, key=lambda c: c.payload_bytes) if good else max(found.values(), key=lambda c: c.low)
    policy = pp.load(out / "policy.policy")
    assert pp.size(policy).payload_bytes == best.payload_bytes


def test_a_search_leaves_the_smallest_and_the_frontier(source: Source, tmp_path: Path) -> None:
    found: dict[Knobs, Candidate] = {}
    bests: list[bool] = []

    def report(one: Candidate, best: bool) -> None:
        found[one.knobs] = one
        bests.append(best)
        check_best(tmp_path, 0.5, found)
        assert len(rows_of(tmp_path)) == len(found)

    started = time.monotonic()
    config = planned(source)
    standings: list[Standing] = []
    result = search(source, config, tmp_path, jobs=2, report=report, watch=standings.append)
    assert time.monotonic() - started < 30
    assert [one.doing for one in standings[:2]] == ["measuring the agent", "timing a student"]
    training = [one for one in standings if one.running]
    assert len(training[0].running) == 2
    assert training[-1].finished >= 1
    assert training[-1].best in found.values()
    assert sorted(one.seconds for one in training) == [one.seconds for one in training]
    assert len(found) >= 2
    assert bests[0]
    rows = rows_of(tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["payload_bytes"]) for row in rows] == sorted(one.payload_bytes for one in found.values())
    assert {row["name"] for row in rows} == {one.name for one in found}
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["reached"]
    assert result["kept"]["low"] >= 0.5
    assert result["evaluation"]["seed"] == 1000
    assert pp.load(tmp_path / "policy.policy").results["kept"] == result["kept"]
    done = [path for path in (tmp_path / "students").iterdir() if (path / "candidate.json").exists()]
    assert len(done) == len(found)
    assert not [path for path in done if (path / "checkpoint").exists()], "states take much of a disk"
    assert search(source, config, tmp_path) == result


def test_a_search_that_reaches_nothing_leaves_the_closest(source: Source, tmp_path: Path) -> None:
    result = search(source, planned(source, keep=1.4, minutes=0.1), tmp_path, jobs=1)
    assert result["reached"] is False
    students = [json.loads(p.read_text()) for p in (tmp_path / "students").glob("*/candidate.json")]
    closest = max(students, key=lambda one: one["low"])
    if len(students) == 1:
        assert pp.size(pp.load(tmp_path / "policy.policy")).payload_bytes == closest["payload_bytes"]
    with pytest.raises(RunError, match="holds an unfinished run: add --resume"):
        search(source, planned(source, keep=1.4, minutes=0.15), tmp_path)
    more = search(source, planned(source, keep=1.4, minutes=0.2), tmp_path, jobs=1, resume=True)
    assert more["config"]["minutes"] == 0.2
    assert len(list((tmp_path / "students").glob("*/candidate.json"))) > len(students)


@pytest.mark.parametrize("killed", [False, True], ids=["keyboard", "killed"])
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
        path.unlink()  # as if it had been killed just before it heard of the student
    reported: list[Knobs] = []

    def report(one: Candidate, best: bool) -> None:
        reported.append(one.knobs)
        assert len(rows_of(tmp_path)) == 1 + len(reported)

    result = search(source, config, tmp_path, jobs=1, resume=True, report=report)
    assert Knobs() not in reported, "a finished student was trained again"
    assert reported
    assert result["reached"]


def test_a_student_in_the_middle_goes_on(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEARCH._Students, "_batches", lambda *_: 3_000)
    config = planned(source, minutes=0.25)
    checkpoint = tmp_path / "students" / Knobs().name / "checkpoint" / "student.pt"
    code = in_child(lambda: search(source, config, tmp_path, jobs=1), checkpoint.exists)
    assert code == -signal.SIGKILL
    seen: list[str] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:  # the student of the killed search notices by itself
            search(source, config, tmp_path, jobs=1, resume=True, report=lambda one, _: seen.append(one.knobs.name))
            break
        except RunError:
            time.sleep(0.1)
    assert seen[0] == Knobs().name


def test_a_student_that_dies_says_so(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(
        SEARCH, "evaluate", lambda *a, seed, **k: die() if "progress" in k else EVALUATE(*a, seed=seed, **k)
    )
    config = planned(source, minutes=0.5)
    with pytest.raises(
        RunError, match=r"student shrink\+0-coarsen\+0-seed1 died \(exit code -9\).* go on with --resume"
    ):
        search(source, config, tmp_path, jobs=1)
    assert not multiprocessing.active_children()


EVALUATE = SEARCH.evaluate


@pytest.mark.parametrize("error", [RunError("no space left."), ZeroDivisionError("division by zero")], ids=repr)
def test_an_error_of_a_student_is_the_search_s(
    error: Exception, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Distill, "press", fail)
    with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
        search(source, planned(source, minutes=0.5), tmp_path, jobs=1)
    assert not multiprocessing.active_children()


def test_no_time_for_a_single_student(source: Source, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no student was finished in 0.0001 minutes: go on with --resume"):
        search(source, planned(source, minutes=0.0001), tmp_path, jobs=1)
    result = search(source, planned(source), tmp_path, jobs=1, resume=True)
    assert result["reached"]


def test_what_does_not_fit_writes_nothing(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs=0 must be at least 1"):
        search(source, planned(source), tmp_path / "run", jobs=0)
    with pytest.raises(ConfigError, match="critic_weight needs critics"):
        search(source, planned(source, critic_weight=0.5), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_batches_fill_the_time_of_a_student(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(SEARCH, "_TIMED_BATCHES", 20)
    students = object.__new__(SEARCH._Students)
    students._agent, students._method = open_agent(source, "dqn", PICK), METHODS["distill"]
    students._config, students._run = planned(source), PressFolder(tmp_path)
    batches = students._batches(200.0)  # however busy the machine is
    assert 1_000 < batches < 2_000_000
    assert batches % 1_000 == 0
    assert students._batches(2_000.0) == batches, "the same in every call of one run"
