"""How far a study is, how fast it goes, and how long it will take."""

from __future__ import annotations

import csv
import time
from dataclasses import asdict, dataclass
from typing import Any

from policypress.studies.cells import shown
from policypress.studies.store import Store

_RECENT = 3600.0


@dataclass(frozen=True)
class Running:
    """A run that is being done: what it is, for how many ``seconds``, and its learning curve's last ``step`` and mean
    ``figure``, if it has one."""

    id: str
    name: str
    seconds: float
    step: int | None = None
    steps: int | None = None
    figure: float | None = None


@dataclass(frozen=True)
class Standing:
    """Where a study stands.

    ``per_hour``: runs finished in the last hour, or, if the study is younger, at that rate; 0 before the first.
    ``seconds_left``: None until a run has told how long one takes; runs of a kind that is not known yet count as the
    mean of all.
    """

    title: str
    done: int
    failed: int
    running: int
    waiting: int
    per_hour: float
    seconds_left: float | None
    drivers: int
    now: tuple[Running, ...]

    @property
    def total(self) -> int:
        return self.done + self.failed + self.running + self.waiting

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def standing(store: Store) -> Standing:
    """Where the study of ``store`` stands now."""
    now = time.time()
    counts = {row["status"]: row["n"] for row in store.query("SELECT status, COUNT(*) n FROM runs GROUP BY status")}
    (recent,) = store.query(
        "SELECT COUNT(*) n, MIN(started) first FROM runs WHERE status IN ('done', 'failed') AND ended > ?",
        now - _RECENT,
    )
    since = min(_RECENT, max(1.0, now - recent["first"])) if recent["n"] else _RECENT
    living = store.living()
    return Standing(
        title=store.title,
        done=counts.get("done", 0),
        failed=counts.get("failed", 0),
        running=counts.get("running", 0),
        waiting=counts.get("waiting", 0),
        per_hour=3600.0 * recent["n"] / since,
        seconds_left=_left(store, now, sum(slots for _, slots in living)),
        drivers=len(living),
        now=_running(store, now),
    )


def _left(store: Store, now: float, slots: int) -> float | None:
    known = store.query(
        "SELECT family, SUM(seconds) / SUM(work) rate, AVG(seconds) mean FROM runs WHERE status = 'done' "
        "GROUP BY family"
    )
    if not known:
        return None
    rates = {row["family"]: row["rate"] for row in known}
    mean = sum(row["mean"] for row in known) / len(known)
    total = 0.0
    for row in store.query(
        "SELECT family, SUM(work) work, COUNT(*) n, SUM(CASE status WHEN 'running' THEN ? - started ELSE 0 END) spent "
        "FROM runs WHERE status IN ('waiting', 'running') GROUP BY family",
        now,
    ):
        needed = rates[row["family"]] * row["work"] if row["family"] in rates else mean * row["n"]
        total += max(0.0, needed - row["spent"])
    return total / max(1, slots)


def _running(store: Store, now: float) -> tuple[Running, ...]:
    found, common = [], store.common
    for run in store.runs("running"):
        step = figure = None
        try:
            with (store.out(run.id) / "evaluations.csv").open() as file:
                *_, last = csv.DictReader(file)
            step, figure = int(last["step"]), float(last["mean"])
        except (OSError, ValueError, KeyError):  # none yet, or none of this kind
            pass
        name, steps = shown(run.cell.settings, common), run.cell.settings.get("steps")
        found.append(Running(run.id, name, now - (run.started or now), step, steps, figure))
    return tuple(found)
