"""The store: each run is one driver's at a time, whoever dies when, and what is done stays done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from policypress.errors import RunError
from policypress.studies import store as stores
from policypress.studies.store import Store
from studies.toys import GRID, figures, finished, study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path))
    return tmp_path / "study"


def claim_and_die(folder: Path, claimed: Any) -> None:
    with Store(folder) as store, store.driver(1) as driver:
        found = driver.claim(1, (0,))
        assert found is not None
        claimed.put(found.id)
        time.sleep(60)


def test_runs_come_in_order_and_once(folder: Path) -> None:
    with Store(folder) as store, store.driver(2) as one, store.driver(2) as other:
        claims = [driver.claim(1, (0, 1)) for driver in (one, other) * 5]
        found = [claim.id for claim in claims if claim is not None]
        assert found == [run.id for run in store.runs()]
        assert claims[8:] == [None, None]
        assert {claim.cores for claim in claims if claim is not None} == {(0,), (1,)}
        assert {run.status for run in store.runs()} == {"running"}
    with Store(folder) as store:  # what a driver has not ended waits again
        assert {run.status for run in store.runs()} == {"waiting"}


def test_the_fewest_runs_share_a_core(folder: Path) -> None:
    with Store(folder) as store, store.driver(2) as one, store.driver(2) as other:
        cores = [driver.claim(2, (3, 5, 7, 9)).cores for driver in (one, other, one)]  # type: ignore[union-attr]
        assert cores == [(3, 5), (7, 9), (3, 5)]


def test_what_is_recorded_comes_back(folder: Path) -> None:
    with Store(folder) as store, store.driver(1) as driver:
        claimed = driver.claim(1, (0,))
        assert claimed is not None
        told = figures(7.0)
        assert driver.record(claimed.id, "done", 2.5, figures=told)
        assert not driver.record(claimed.id, "failed", 1.0, "too late")  # it is nobody's any more
        (run,) = store.runs("done")
        assert run.figures == {**told, "agent_returns": None}
        assert (run.cell, run.seconds, run.attempts, run.error) == (claimed.cell, 2.5, 1, None)
        failed = driver.claim(1, (0,))
        assert failed is not None
        driver.record(failed.id, "failed", 1.0, "Traceback\nValueError: no")
        assert [run.error for run in store.runs("failed")] == ["Traceback\nValueError: no"]
        store.retry()
        assert store.runs("failed") == []
        assert len(store.runs("done")) == 1


def test_a_driver_that_is_killed_gives_its_run_back_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    claimed: Any = context.Queue()
    process = context.Process(target=claim_and_die, args=(folder, claimed))
    process.start()
    identity = claimed.get(timeout=60)
    with Store(folder) as store, store.driver(1) as driver:
        first = driver.claim(1, (0,))
        assert first is not None
        assert first.id != identity  # the other one lives
        assert len(store.living()) == 2
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(store.living()) == 1
        again = driver.claim(1, (0,))
        assert again is not None
        assert again.id == identity
        assert [run.attempts for run in store.runs("running")] == [2, 1]
        assert len(list((folder / "drivers").iterdir())) == 1


def test_a_driver_that_is_stopped_for_too_long_loses_its_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(folder) as store, store.driver(1) as stopped:
        claimed = stopped.claim(1, (0,))
        assert claimed is not None
        monkeypatch.setattr(stores, "LEASE", -1.0)
        with Store(folder) as other_store, other_store.driver(1) as other:
            again = other.claim(1, (0,))
            assert again is not None
            assert again.id == claimed.id
            assert not stopped.record(claimed.id, "done", 1.0, figures=figures())
            assert other.record(claimed.id, "done", 1.0, figures=figures())


def test_a_heartbeat_keeps_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(folder) as store, store.driver(1) as driver:
        monkeypatch.setattr(stores, "LEASE", 0.2)
        time.sleep(0.3)
        assert store.living() == []
        driver.beat()
        assert len(store.living()) == 1


def test_the_same_file_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    with Store(folder) as store:
        finished(store)
        store.take(study(tmp_path, "# words\n" + GRID))
        assert len(store.runs("done")) == 8


def test_a_file_that_changed_is_told_and_taken_if_asked(folder: Path, tmp_path: Path) -> None:
    changed = study(tmp_path, GRID.replace("sparsity = 0.9", "sparsity = [0.95, 0.99]"))
    with Store(folder) as store:
        with store.driver(1) as driver:
            claimed = driver.claim(1, (0,), {run.id for run in store.runs() if run.cell.settings["sparsity"] == 0.0})
            assert claimed is not None
            driver.record(claimed.id, "done", 1.0, figures=figures())
        with pytest.raises(RunError, match=r"8 runs are new, 4 gone\): choose another --out, or take it with --update"):
            store.take(changed)
        assert len(store.runs()) == 8
        store.take(changed, update=True)
        assert {run.id for run in store.runs()} == {cell.identity for cell in changed.cells} | {claimed.id}
        store.take(changed)


def test_more_seeds(folder: Path, tmp_path: Path) -> None:
    with Store(folder) as store:
        assert store.add_seeds([2, 3, 7]) == 8
        assert store.add_seeds([3]) == 0
        assert sorted({run.cell.seed for run in store.runs()}) == [1, 2, 3, 7]
        store.take(study(tmp_path))
        assert len(store.runs()) == 16


def test_folders_that_hold_no_study(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no study: give the folder"):
        Store(tmp_path)
    (tmp_path / "study.sqlite").write_text("something else, and long enough to be a page of something else")
    with pytest.raises(RunError, match=r"study\.sqlite cannot be used \(file is not a database\)"):
        Store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="nothing can be written to"):
        Store(tmp_path / "file", new=True)


def test_another_version(folder: Path) -> None:
    with sqlite3.connect(folder / "study.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match="is of another version of policypress"):
        Store(folder)


def test_a_full_disk(folder: Path) -> None:
    with Store(folder) as store, store.driver(1) as driver:
        claimed = driver.claim(1, (0,))
        assert claimed is not None
        pages = store.query("PRAGMA page_count")[0][0]
        store.query(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunError, match=r"nothing more can be written to .* make room on its disk"):
            driver.record(claimed.id, "done", 1.0, figures=figures(notes=["x" * 100_000]))
        store.query("PRAGMA max_page_count = 1000000")
        assert driver.record(claimed.id, "done", 1.0, figures=figures())
