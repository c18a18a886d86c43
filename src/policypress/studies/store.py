"""What a study knows of its runs: one SQLite file beside their folders, a row a run.

Everything is written in transactions. A driver claims a run in one, says every few seconds that it lives, and records
what came of the run only while the run is still its own: however many drivers there are, and whichever of them is
killed when, each run is done by one at a time, and none is lost. Drivers of one study run on one machine, as SQLite's
write-ahead log asks; more machines are Ray's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from policypress.errors import RunError
from policypress.files import is_locked
from policypress.studies.cells import Cell, Kind, common
from policypress.studies.study_file import Study

Status = Literal["waiting", "running", "done", "failed"]

BEAT = 5.0
"""Seconds after which a driver says again that it lives."""
LEASE = 60.0
"""Seconds after which a driver that said nothing is taken for dead; one that has ended is known to be at once."""
_SCHEMA_VERSION = 1
_FILE = "study.sqlite"
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE drivers (id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, slots INTEGER NOT NULL,
    started REAL NOT NULL, beat REAL NOT NULL);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL, kind TEXT NOT NULL, settings TEXT NOT NULL, evaluate TEXT NOT NULL,
    family TEXT NOT NULL, work REAL NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'running', 'done', 'failed')),
    driver TEXT, host TEXT, cores TEXT, attempts INTEGER NOT NULL DEFAULT 0,
    started REAL, ended REAL, seconds REAL NOT NULL DEFAULT 0, error TEXT, machine TEXT,
    mean REAL, worst_tenth REAL, ended_early REAL, returns TEXT, lengths TEXT, terminated TEXT, agent_returns TEXT,
    payload_bytes INTEGER, baseline_bytes INTEGER, nominal_bytes REAL, disk_bytes INTEGER, flash_bytes INTEGER,
    weights INTEGER, nonzeros INTEGER, numerics TEXT, config TEXT, curve TEXT, notes TEXT);
CREATE INDEX runs_by_status ON runs (status, position);
"""
_JSON = (
    *("settings", "evaluate", "cores", "machine", "returns", "lengths", "terminated", "agent_returns", "config"),
    *("curve", "notes"),
)
RESULTS = (
    *("machine", "mean", "worst_tenth", "ended_early", "returns", "lengths", "terminated", "agent_returns"),
    *("payload_bytes", "baseline_bytes", "nominal_bytes", "disk_bytes", "flash_bytes", "weights", "nonzeros"),
    *("numerics", "config", "curve", "notes"),
)
"""Columns of what came of a run."""
EPISODES = ("returns", "lengths", "terminated")
"""Those of them that have a value for every episode."""


@dataclass(frozen=True)
class Run:
    """A run as the store knows it.

    ``seconds``: wall time of its attempts, of those that nobody saw the end of none. ``error``: why the last attempt
    came to nothing, with the end of its log. ``figures``: the columns RESULTS of a run that is done, with the returns
    of its episodes (episodes,), those of the agent that was pressed, if one was, and the rows of its learning curve.
    """

    id: str
    cell: Cell
    status: Status
    host: str | None = None
    attempts: int = 0
    started: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    error: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claimed:
    """A run that is this driver's to do, on these cores."""

    id: str
    cell: Cell
    cores: tuple[int, ...]


class Store:
    """The database of a study's folder. Raises RunError, in one sentence, for what cannot be read or written."""

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        """``new``: the folder may have none yet."""
        self.folder = Path(folder)
        self._drivers = self.folder / "drivers"
        path = self.folder / _FILE
        if not (new or path.is_file()):
            raise RunError(f"{self.folder} holds no study: give the folder that `policypress study run` named.")
        with self._plainly():
            self._drivers.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
        with self._transaction() as db:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif found != _SCHEMA_VERSION:
                raise RunError(f"{path} is of another version of policypress: choose another --out.")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def out(self, identity: str) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / identity

    def log(self, identity: str) -> Path:
        """The file of what a run said."""
        return self.folder / "logs" / f"{identity}.log"

    # What there is to do

    def take(self, study: Study, *, update: bool = False) -> None:
        """Makes the runs of ``study`` those of this folder, where they are not yet.

        A file that describes other runs than before raises RunError, unless ``update``: then new runs are added, and
        those that it names no more go, but for what is done, runs or failed. Runs of seeds that were added stay.
        """
        with self._transaction() as db:
            known = self._meta()
            if known.get("digest", study.digest) != study.digest and not update:
                before, now = set(json.loads(known["cells"])), {cell.identity for cell in study.cells}
                raise RunError(
                    f"the study file is not the one that {self.folder} was made with ({len(now - before)} runs are "
                    f"new, {len(before - now)} gone): choose another --out, or take it with --update."
                )
            if update and "cells" in known:
                gone = set(json.loads(known["cells"])) - {cell.identity for cell in study.cells}
                db.executemany("DELETE FROM runs WHERE id = ? AND status = 'waiting'", [(one,) for one in gone])
            told = {
                "title": study.title,
                "digest": study.digest,
                "cells": json.dumps([cell.identity for cell in study.cells]),
                "baseline": json.dumps(study.baseline),
                "normalize": json.dumps(study.normalize),
                "common": json.dumps(sorted(common(study.cells))),
            }
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", told.items())
            self._add(study.cells)

    def add_seeds(self, seeds: Sequence[int]) -> int:
        """Adds every run with each of ``seeds``; how many were not there. RunError where all were done elsewhere."""
        with self._transaction():
            if "digest" not in self._meta():
                raise RunError(f"the runs of {self.folder} were collected, no study file describes them: make one.")
            cells = {
                run.cell.with_seed(seed).identity: run.cell.with_seed(seed) for seed in seeds for run in self.runs()
            }
            return self._add(list(cells.values()))

    def collect(self, done: Sequence[tuple[Cell, float, Mapping[str, Any]]], title: str) -> int:
        """Adds runs that were done elsewhere in so many seconds, with their figures (RESULTS); how many were not
        there."""
        with self._transaction() as db:
            added = self._add([cell for cell, *_ in done])
            for cell, seconds, figures in done:
                columns, values = _columns(figures)
                db.execute(
                    f"UPDATE runs SET status = 'done', seconds = ?, {columns} WHERE id = ? AND status = 'waiting'",
                    (seconds, *values, cell.identity),
                )
            same = json.dumps(sorted(common([run.cell for run in self.runs()])))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('title', ?)", (title,))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('common', ?)", (same,))
        return added

    def retry(self) -> None:
        """Failed runs wait again."""
        with self._transaction() as db:
            db.execute("UPDATE runs SET status = 'waiting' WHERE status = 'failed'")

    # Drivers

    @contextmanager
    def driver(self, slots: int) -> Iterator[Driver]:
        """Registers this process as a driver that does ``slots`` runs at once; what it has not ended waits again
        afterwards."""
        import fcntl

        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        with self._plainly():
            handle = (self._drivers / name).open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._transaction() as db:
                now = time.time()
                told = (name, socket.gethostname(), os.getpid(), slots, now, now)
                db.execute("INSERT INTO drivers VALUES (?, ?, ?, ?, ?, ?)", told)
            try:
                yield Driver(self, name)
            finally:
                with self._transaction():
                    self._release([name])

    def living(self) -> list[tuple[str, int]]:
        """Names of the drivers that live, and how many runs each does at once."""
        found = self._db.execute("SELECT id, host, slots, beat FROM drivers").fetchall()
        return [(row["id"], row["slots"]) for row in found if self._lives(row)]

    def _lives(self, row: sqlite3.Row) -> bool:
        """Whether a driver does. The lock of its file says so at once where it runs on this machine."""
        if time.time() - row["beat"] > LEASE:
            return False
        return row["host"] != socket.gethostname() or is_locked(self._drivers, row["id"])

    def _release(self, drivers: Collection[str]) -> None:
        for name in drivers:
            self._db.execute("UPDATE runs SET status = 'waiting' WHERE driver = ? AND status = 'running'", (name,))
            self._db.execute("DELETE FROM drivers WHERE id = ?", (name,))
            with contextlib.suppress(OSError):
                (self._drivers / name).unlink(missing_ok=True)

    # What came of it

    @property
    def title(self) -> str:
        return self._meta().get("title", "")

    @property
    def baseline(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._meta().get("baseline", "{}"))
        return found

    @property
    def normalize(self) -> dict[str, tuple[float, float]]:
        return {env: (low, high) for env, (low, high) in json.loads(self._meta().get("normalize", "{}")).items()}

    @property
    def common(self) -> frozenset[str]:
        """Names of the settings in which runs do not differ."""
        return frozenset(json.loads(self._meta().get("common", "[]")))

    def runs(self, status: Status | None = None, *, without: Collection[str] = ()) -> list[Run]:
        """All runs, or those of a ``status``, in their order; ``without``: columns of RESULTS that are not read."""
        results = [name for name in RESULTS if name not in without]
        names = ("id", "kind", "settings", "evaluate", "status", "host", "attempts", "started", "ended", "seconds")
        where, given = ("WHERE status = ?", (status,)) if status else ("", ())
        with self._plainly():
            rows = self._db.execute(
                f"SELECT {', '.join((*names, 'error', *results))} FROM runs {where} ORDER BY position", given
            )
            return [_run(row, results) for row in rows]

    def query(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a SELECT."""
        with self._plainly():
            return self._db.execute(statement, values).fetchall()

    # Underneath

    def _add(self, cells: Sequence[Cell]) -> int:
        before = self._count()
        (last,) = self._db.execute("SELECT COALESCE(MAX(position), -1) FROM runs").fetchone()
        self._db.executemany(
            "INSERT OR IGNORE INTO runs (id, position, kind, settings, evaluate, family, work) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (cell.identity, position, cell.kind, *_texts(cell.settings, cell.evaluate), cell.family, cell.work)
                for position, cell in enumerate(cells, last + 1)
            ],
        )
        return self._count() - before

    def _count(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM runs").fetchone()[0])

    def _meta(self) -> dict[str, str]:
        with self._plainly():
            return {row["name"]: row["value"] for row in self._db.execute("SELECT name, value FROM meta")}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._plainly():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            path = self.folder / _FILE
            if isinstance(error, OSError):
                said = error.strerror or str(error)
                raise RunError(f"nothing can be written to {self.folder} ({said}): choose another --out.") from error
            if "full" in str(error) or "disk I/O" in str(error):
                raise RunError(full(self.folder)) from error
            raise RunError(f"{path} cannot be used ({error}): choose another --out, or remove it.") from error


class Driver:
    """A process that has runs of a study done."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self.name = store, name

    def claim(self, count: int, usable: Sequence[int], without: Collection[str] = ()) -> Claimed | None:
        """The next run that waits, from now on this driver's, and the ``count`` of the ``usable`` cores that the fewest
        runs on this machine have; None if none waits beside those ``without``. What dead drivers left waits again."""
        store, host = self._store, socket.gethostname()
        with store._transaction() as db:
            rows = db.execute("SELECT id, host, beat FROM drivers WHERE id != ?", (self.name,)).fetchall()
            store._release([row["id"] for row in rows if not store._lives(row)])
            marks = ", ".join("?" * len(without))
            row = db.execute(
                f"SELECT id, kind, settings, evaluate FROM runs WHERE status = 'waiting' AND id NOT IN ({marks}) "
                "ORDER BY position LIMIT 1",
                tuple(without),
            ).fetchone()
            if row is None:
                return None
            taken = Counter(
                core
                for busy in db.execute("SELECT cores FROM runs WHERE status = 'running' AND host = ?", (host,))
                for core in json.loads(busy["cores"])
            )
            cores = tuple(sorted(usable, key=lambda core: (taken[core], core))[:count])
            db.execute(
                "UPDATE runs SET status = 'running', driver = ?, host = ?, cores = ?, started = ?, ended = NULL, "
                "attempts = attempts + 1 WHERE id = ?",
                (self.name, host, json.dumps(cores), time.time(), row["id"]),
            )
        return Claimed(row["id"], _cell(row), cores)

    def beat(self) -> None:
        """Says that this driver lives."""
        with self._store._transaction() as db:
            db.execute("UPDATE drivers SET beat = ? WHERE id = ?", (time.time(), self.name))

    def record(
        self,
        identity: str,
        status: Status,
        seconds: float,
        error: str | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> bool:
        """What came of a run that is this driver's; False, and nothing is written, if it is no more: a driver that was
        stopped for longer than LEASE has lost it to another one."""
        columns, values = _columns(figures or {})
        with self._store._transaction() as db:
            changed = db.execute(
                f"UPDATE runs SET status = ?, driver = NULL, ended = ?, seconds = seconds + ?, error = ?, {columns} "
                "WHERE id = ? AND driver = ? AND status = 'running'",
                (status, time.time(), seconds, error, *values, identity, self.name),
            )
        return changed.rowcount == 1


def full(folder: Path) -> str:
    """The sentence for a disk that is full."""
    return f"nothing more can be written to {folder}: make room on its disk, then the same command goes on."


def _texts(*values: Mapping[str, Any]) -> list[str]:
    return [json.dumps(dict(value)) for value in values]


def _columns(figures: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """What sets the columns RESULTS, and their values."""
    return ", ".join(f"{name} = ?" for name in RESULTS), [_text(name, figures.get(name)) for name in RESULTS]


def _text(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON and value is not None else value


def _cell(row: sqlite3.Row) -> Cell:
    kind: Kind = row["kind"]
    return Cell(kind, json.loads(row["settings"]), json.loads(row["evaluate"]))


def _run(row: sqlite3.Row, results: Sequence[str]) -> Run:
    figures = {name: json.loads(row[name]) if name in _JSON and row[name] else row[name] for name in results}
    return Run(
        row["id"],
        _cell(row),
        row["status"],
        row["host"],
        row["attempts"],
        row["started"],
        row["ended"],
        row["seconds"],
        row["error"],
        figures if row["status"] == "done" else {},
    )
