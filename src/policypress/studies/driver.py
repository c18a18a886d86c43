"""Has the runs of a study done, until none waits."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from policypress.errors import ConfigError, RunError
from policypress.studies.attempt import Order, Outcome
from policypress.studies.cells import Cell, shown
from policypress.studies.places import Place, place
from policypress.studies.standing import Standing, standing
from policypress.studies.store import BEAT, Claimed, Driver, Status, Store, full
from policypress.studies.study_file import Study

MOST_KILLS = 3
"""A run whose process was killed so often in one call is left to the next."""
_WATCH = 2.0
_BUSY = 5.0  # seconds until a run is looked at again whose folder another process holds
_WAIT = 0.25

Report = Callable[[Cell, Outcome], None]
"""Called with each run that ended, but for those that go on later."""
Watch = Callable[[Standing], None]
"""Called every few seconds with where the study stands."""


def run_study(
    study: Study,
    folder: Path,
    *,
    jobs: int | None = None,
    on: str = "local",
    address: str | None = None,
    retry: bool = False,
    update: bool = False,
    report: Report | None = None,
    watch: Watch | None = None,
) -> Standing:
    """Has every run of ``study`` done that is not yet, in ``folder``, ``jobs`` at a time (default: as many as there are
    cores for), and says where it then stands.

    A run that fails is recorded with the end of its log, and the others go on; ``retry`` takes up again what failed in
    an earlier call. Whatever is killed, the same call goes on. Several calls on one folder share its runs. Raises
    ConfigError, and RunError where ``folder`` is of another study or cannot be written to.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs={jobs} must be at least 1.")
    with Store(folder, new=True) as store:
        store.take(study, update=update)
        if retry:
            store.retry()
        gpus = float(any("cuda" in cell.settings.get("device", "") for cell in study.cells))
        where = place(on, address, study.cores, gpus)
        with store.driver(jobs or where.slots) as driver, where:  # in this order: what is given back does not run
            cores = _cores() if on == "local" else ()
            loop = _Loop(store, driver, where, jobs or where.slots, study.cores, cores, report, watch)
            loop.run()
        return standing(store)


class _Loop:
    """Claims, starts, hears, records."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        where: Place,
        jobs: int,
        threads: int,
        cores: Sequence[int],
        report: Report | None,
        watch: Watch | None,
    ) -> None:
        self._store, self._driver, self._place = store, driver, where
        self._jobs, self._threads, self._cores = jobs, threads, cores
        self._report, self._watch = report or (lambda *_: None), watch or (lambda _: None)
        self._claimed: dict[str, Claimed] = {}
        self._kills: Counter[str] = Counter()
        self._later: dict[str, float] = {}
        self._beaten = self._watched = time.monotonic()

    def run(self) -> None:
        while True:
            self._start()
            if not self._place.running and not self._others():
                return
            if (ended := self._place.wait(_WAIT)) is not None:
                self._hear(*ended)
            now = time.monotonic()
            if now - self._beaten > BEAT:
                self._beaten = now
                self._driver.beat()
            if now - self._watched > _WATCH:
                self._watched = now
                self._watch(standing(self._store))

    def _start(self) -> None:
        now = time.monotonic()
        killed = {identity for identity, kills in self._kills.items() if kills >= MOST_KILLS}
        without = killed | {identity for identity, until in self._later.items() if until > now}
        while len(self._place.running) < self._jobs:
            claimed = self._driver.claim(self._threads, self._cores, without)
            if claimed is None:
                return
            self._claimed[claimed.id] = claimed
            self._place.start(claimed.id, self._order(claimed))

    def _others(self) -> bool:
        """Whether there may be something to do later: what other drivers are at, which may die, or what is held."""
        now = time.monotonic()
        held = any(until > now for until in self._later.values())
        return held or bool(self._store.query("SELECT 1 FROM runs WHERE status = 'running' LIMIT 1"))

    def _order(self, claimed: Claimed) -> Order:
        out = self._store.out(claimed.id).absolute()
        cores = claimed.cores if len(claimed.cores) == self._threads else ()
        return Order(claimed.cell.commands(out), out, self._store.log(claimed.id).absolute(), cores, self._threads)

    def _hear(self, identity: str, outcome: Outcome) -> None:
        claimed = self._claimed.pop(identity)
        seconds, error = outcome.seconds, outcome.error
        if outcome.ending in ("done", "failed"):
            status: Status = "done" if outcome.ending == "done" else "failed"
            if not self._driver.record(identity, status, seconds, error, outcome.figures):
                return  # it is another driver's by now, which finds what is finished
        else:
            self._driver.record(identity, "waiting", seconds, error)
            if outcome.ending == "full":
                raise RunError(full(self._store.folder))
            if outcome.ending == "busy":
                self._later[identity] = time.monotonic() + _BUSY
                return
            self._kills[identity] += 1
            if self._kills[identity] < MOST_KILLS:
                return
        self._report(claimed.cell, outcome)


def _cores() -> tuple[int, ...]:
    """The cores that this process may use, where the system tells."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def told(cell: Cell, outcome: Outcome, common: frozenset[str] = frozenset()) -> str:
    """A run that ended, in a line, without the settings that are ``common`` to all."""
    name = shown(cell.settings, common)
    if outcome.ending == "done":
        figures = outcome.figures
        return f"{name}: return {figures['mean']:,.1f}, {figures['payload_bytes']:,} bytes, {outcome.seconds:.0f} s"
    last = (outcome.error or "").strip().splitlines()[-1:]
    return f"{name}: {outcome.ending}: {''.join(last)}"
