"""A driver: every run is done once; failed, killed and held runs do not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from policypress.errors import ConfigError, PolicypressError, RunError
from policypress.extras import lacking
from policypress.files import locked
from policypress.measure.machine import usable_cores
from policypress.studies import attempt as attempts
from policypress.studies import driver as drivers
from policypress.studies import places
from policypress.studies.attempt import Order, Outcome, attempt
from policypress.studies.cells import Command
from policypress.studies.driver import MOST_KILLS, run_study, told
from policypress.studies.places import Here, place
from policypress.studies.standing import standing
from policypress.studies.store import Store
from studies.toys import DONE, figures, finished, study

Attempt = Callable[[Callable[[], None], Order], Outcome]


def attempted(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[str, int], Outcome]) -> dict[str, int]:
    """What is attempted, how often: ``outcome`` of the run's identity and the number of its attempt."""
    counts: dict[str, int] = {}
    lock = threading.Lock()

    def make(_: Callable[[], None], order: Order) -> Outcome:
        with lock:
            counts[order.out.name] = counts.get(order.out.name, 0) + 1
        return outcome(order.out.name, counts[order.out.name])

    monkeypatch.setattr(places, "attempt", make)
    return counts


def test_every_run_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = attempted(monkeypatch, lambda *_: DONE)
    end = run_study(study(tmp_path), tmp_path / "study", jobs=3)
    assert (end.done, end.failed, end.running, end.waiting, end.total) == (8, 0, 0, 0, 8)
    assert sorted(counts.values()) == [1] * 8
    assert run_study(study(tmp_path), tmp_path / "study").done == 8
    assert sorted(counts.values()) == [1] * 8


def test_what_fails_is_recorded_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = study(tmp_path).cells[2].identity
    lines: list[str] = []
    counts = attempted(monkeypatch, lambda name, _: Outcome("failed", 1.0, "a\nb") if name == bad else DONE)
    end = run_study(study(tmp_path), tmp_path / "study", report=lambda cell, outcome: lines.append(told(cell, outcome)))
    assert (end.done, end.failed) == (7, 1)
    assert [line for line in lines if "failed" in line] == [told(study(tmp_path).cells[2], Outcome("failed", 0.0, "b"))]
    run_study(study(tmp_path), tmp_path / "study")
    assert counts[bad] == 1
    run_study(study(tmp_path), tmp_path / "study", retry=True)
    assert counts[bad] == 2


def test_what_is_killed_goes_on_and_at_last_is_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, always = (cell.identity for cell in study(tmp_path).cells[:2])

    def outcome(name: str, number: int) -> Outcome:
        killed = name == always or (name == once and number == 1)
        return Outcome("killed", 1.0, "ended by signal 9") if killed else DONE

    counts = attempted(monkeypatch, outcome)
    end = run_study(study(tmp_path), tmp_path / "study")
    assert (end.done, end.waiting) == (7, 1)
    assert (counts[once], counts[always]) == (2, MOST_KILLS)


def test_what_is_held_is_looked_at_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_BUSY", 0.05)
    held = study(tmp_path).cells[0].identity
    counts = attempted(monkeypatch, lambda name, n: Outcome("busy") if name == held and n < 3 else DONE)
    assert run_study(study(tmp_path), tmp_path / "study").done == 8
    assert counts[held] == 3


def test_a_full_disk_stops_the_study_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempted(monkeypatch, lambda *_: Outcome("full", 1.0, "No space left on device"))
    with pytest.raises(RunError, match=r"nothing more can be written to .* then the same command goes on"):
        run_study(study(tmp_path), tmp_path / "study", jobs=1)
    with Store(tmp_path / "study") as store:
        assert len(store.runs("waiting")) == 8


def test_an_error_of_the_driver_itself_is_raised_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Outcome:
        raise ValueError("a fault")

    attempted(monkeypatch, fail)
    with pytest.raises(ValueError, match="a fault"):
        run_study(study(tmp_path), tmp_path / "study")
    with Store(tmp_path / "study") as store:
        assert {run.status for run in store.runs()} == {"waiting"}


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs=0 must be at least 1"):
        run_study(study(tmp_path), tmp_path / "study", jobs=0)
    with pytest.raises(ConfigError, match="on='moon' is not one of local, ray"):
        place("moon", None, 1, 0.0)
    with pytest.raises(ConfigError, match="add --on ray"):
        place("local", "host:1", 1, 0.0)
    if lacking("cluster"):
        with pytest.raises(
            PolicypressError, match=r"this needs ray, which is not installed: pip install '.*\[cluster\]'"
        ):
            place("ray", None, 1, 0.0)
    assert Here(1).slots == usable_cores()
    assert Here(10**6).slots == 1


def test_time_left_is_what_runs_took(tmp_path: Path) -> None:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path))
        assert standing(store).seconds_left is None
        finished(store)  # 2 s each
        store.add_seeds([3])
        now = standing(store)
        assert (now.done, now.waiting, now.drivers) == (8, 4, 0)
        assert now.seconds_left == pytest.approx(8.0)
        with store.driver(4):
            assert standing(store).seconds_left == pytest.approx(2.0)


# Attempts


def order(folder: Path, *after: Command) -> Order:
    """To train, and what comes after."""
    run = folder / "run"
    return Order((Command(("train",), run / "result.json"), *after), run, folder / "log", (), 1)


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """``code`` in place of policypress; its arguments are in ``sys.argv``."""
    start = subprocess.Popen

    def popen(command: list[str], **keywords: object) -> object:
        return start([sys.executable, "-c", code, *command[5:]], **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr(attempts.subprocess, "Popen", popen)


def test_the_end_of_the_log_is_kept_of_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("an earlier attempt\n")
    stand_in(monkeypatch, "raise ValueError('no such world')")
    outcome = attempt(lambda: None, order(tmp_path))
    assert outcome.ending == "failed"
    assert outcome.error is not None
    assert outcome.error.startswith("Traceback")
    assert outcome.error.endswith("ValueError: no such world")


def test_a_signal_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    outcome = attempt(lambda: None, order(tmp_path))
    assert (outcome.ending, outcome.error) == ("killed", "ended by signal 9 (SIGKILL)")


def test_a_full_disk_is_no_failure_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "raise OSError(28, 'No space left on device')")
    assert attempt(lambda: None, order(tmp_path)).ending == "full"


def test_a_folder_that_is_held(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        assert attempt(lambda: None, order(tmp_path)).ending == "busy"
        (tmp_path / "run" / "keep").touch()
    assert not (tmp_path / "log").exists()


def test_whoever_is_not_waited_for_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    monkeypatch.chdir(tmp_path)

    def tell() -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise RunError("over")

    with pytest.raises(RunError, match="over"):
        attempt(tell, order(tmp_path))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_finished_parts_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    size = {name: figures()[name] for name in (
        "payload_bytes", "baseline_bytes", "nominal_bytes", "disk_bytes", "flash_bytes", "weights", "nonzeros"
    )}  # fmt: skip
    result = {"evaluation": figures(3.0), "size": size, "numerics": "integer", "config": {}}
    (tmp_path / "run" / "result.json").write_text(
        str(result).replace("'", '"').replace("True", "true").replace("False", "false")
    )
    stand_in(monkeypatch, "import sys; print(open('measured.json').read()); open('done', 'a').write(sys.argv[1])")
    monkeypatch.chdir(tmp_path)
    measured = str(figures(5.0)).replace("'", '"').replace("True", "true").replace("False", "false")
    (tmp_path / "measured.json").write_text(measured)
    assert attempt(lambda: None, order(tmp_path)).figures["mean"] == 3.0
    measure = Command(("evaluate",), tmp_path / "run" / "evaluation.json", printed=True)
    outcome = attempt(lambda: None, order(tmp_path, measure))
    assert (outcome.ending, outcome.figures["mean"]) == ("done", 5.0)
    assert (tmp_path / "done").read_text() == "evaluate"
    attempt(lambda: None, order(tmp_path, measure))
    assert (tmp_path / "done").read_text() == "evaluate"
    attempt(lambda: None, order(tmp_path, measure, Command(("disturb",))))
    assert (tmp_path / "done").read_text() == "evaluatedisturb"  # which goes on by itself
    stand_in(monkeypatch, "raise ValueError('no such world')")
    assert attempt(lambda: None, order(tmp_path, measure, Command(("disturb",)))).ending == "failed"


def process_state(pid: int) -> str | None:
    """The letter that Linux gives, as Z for one that has ended and that nobody waited for; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ties processes")
def test_a_run_ends_with_whoever_started_it(tmp_path: Path) -> None:
    start = (
        "import os, subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'policypress.studies.tied', str(os.getpid()), '-', '--version']\n"
        "child = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': sys.argv[1]})\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    # `policypress` that sleeps, in front of the real one: the tie is to hold whatever runs.
    (tmp_path / "policypress" / "studies").mkdir(parents=True)
    for name in ("policypress", "policypress/studies"):
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "policypress" / "__main__.py").write_text("import time\ntime.sleep(60)")
    (tmp_path / "policypress" / "studies" / "tied.py").write_text(
        (Path(attempts.__file__).parent / "tied.py").read_text()
    )
    command = [sys.executable, "-c", start, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(1.0)  # until the tie holds
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 30
    while process_state(child) not in ("Z", None):
        assert time.monotonic() < deadline
        time.sleep(0.05)
