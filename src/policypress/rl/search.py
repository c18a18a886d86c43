"""``policypress compress --keep``: the smallest policy that keeps a share of the agent's return, in a given time."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from policypress.config import DistillConfig, Hidden, PressConfig, hidden_of, hidden_text
from policypress.errors import ConfigError, RunError
from policypress.files import locked, write_whole
from policypress.measure.returns import share_of
from policypress.measure.size import size
from policypress.policy.policy import Policy
from policypress.rl.curves import plot_frontier
from policypress.rl.evaluate import evaluate
from policypress.rl.formats import open_agent
from policypress.rl.measured import PressFolder, measured_student, measured_teacher, returns_of
from policypress.rl.method import Method
from policypress.rl.methods import METHODS
from policypress.rl.plan import AUTO_SHRINK
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.teacher import scaled_hidden
from policypress.rl.workers import Tell, Workers

CHANCE = 0.02
"""Students of the same knobs and another seed differ by about as much in what they keep."""
Steps = tuple[tuple[int, int], ...]
ROUNDS = 6
"""A student gets about this part of the time: short ones mislead, and few ones leave sizes untried."""
SEARCH_SEED = 5000
"""Students are compared from ``reset(seed=5000 + i)``; the one that is chosen is then measured from other seeds."""
_FIRST_RATE = 4e-3
# Steps of (shrink, coarsen), in the order they are tried: from nothing, from the best so far, and while none is good.
_FIRST: Steps = ((0, 0), (0, 1), (1, 0), (-1, 1), (0, 2), (2, 0), (-2, 2), (1, 2))
_SMALLER: Steps = ((0, 1), (1, 0), (1, -1), (-1, 2), (1, 1), (-2, 3), (0, 2), (2, -1), (2, 0))
_LARGER: Steps = ((0, -2), (-2, 0), (-2, -2), (0, -4), (-4, 0), (-4, -4), (-6, -2), (-8, -4), (-12, -4))
_TIMED_BATCHES = 300
_SPEED_MARGIN = 1.3  # students that run side by side slow each other down
COLUMNS = (
    *("name", "hidden", "rate_weight", "seed", "payload_bytes", "ratio", "nonzeros"),
    *("share", "low", "high", "worst_tenth", "ended_early", "seconds"),
)


@dataclass(frozen=True, order=True)
class Knobs:
    """One student: ``shrink`` narrows it by a quarter octave a step, ``coarsen`` raises the price of bits by half an
    octave a step; 0 is where the search starts."""

    shrink: int = 0
    coarsen: int = 0
    seed: int = 1

    @property
    def rate_weight(self) -> float:
        return float(_FIRST_RATE * 2.0 ** (self.coarsen / 2))

    @property
    def factor(self) -> float:
        """Of the teacher's hidden widths."""
        return float(AUTO_SHRINK**-0.5 * 2.0 ** (-self.shrink / 4))

    @property
    def name(self) -> str:
        return f"shrink{self.shrink:+d}-coarsen{self.coarsen:+d}-seed{self.seed}"


@dataclass(frozen=True)
class Candidate:
    """A finished student, as the search sees it; ``share``, ``low`` and ``high`` are those of ``Kept``, ``worst_tenth``
    and ``ended_early`` those of ``Evaluation``."""

    knobs: Knobs
    hidden: Hidden
    payload_bytes: int
    ratio: float
    nonzeros: int
    share: float
    low: float
    high: float
    worst_tenth: float
    ended_early: float
    seconds: float


Report = Callable[[Candidate, bool], None]
"""Called with each finished student, and whether it is the best so far."""


@dataclass(frozen=True)
class Standing:
    """Where a search stands: what it does (``doing``), ``seconds`` of the ``of`` that it has, hidden widths of the
    students in training, how many are ``finished``, and the best of them."""

    doing: str
    seconds: float
    of: float
    running: tuple[Hidden, ...] = ()
    finished: int = 0
    best: Candidate | None = None


Watch = Callable[[Standing], None]
"""Called about once a second with where the search stands."""


def propose(found: Mapping[Knobs, Candidate], running: set[Knobs], keep: float) -> Knobs:
    """The next student to try: one step smaller than the best so far, or larger while none keeps enough.

    What a larger student missed by more than chance, a smaller one is not tried for. With every step tried, the nearest
    miss gets another seed.
    """
    tried = {*found, *running}
    good = [candidate for candidate in found.values() if candidate.low >= keep]
    if good:
        best = min(good, key=lambda c: c.payload_bytes).knobs
        steps = _SMALLER
    elif found:
        best = max(found.values(), key=lambda c: c.low).knobs
        steps = _LARGER
    else:
        best, steps = Knobs(), _FIRST
    missed = [candidate.knobs for candidate in found.values() if candidate.low < keep] if good else []
    hopeless = [knobs for knobs in missed if found[knobs].low < keep - CHANCE]
    for shrink, coarsen in steps:
        step = replace(best, shrink=best.shrink + shrink, coarsen=best.coarsen + coarsen, seed=1)
        if step not in tried and not any(m.shrink <= step.shrink and m.coarsen <= step.coarsen for m in hopeless):
            return step
    near = min(missed, key=lambda k: keep - found[k].low) if missed else best
    return replace(near, seed=1 + max(knobs.seed for knobs in tried))


def search(
    source: Source | OpenedAgent,
    config: PressConfig,
    out: Path,
    *,
    resume: bool = False,
    jobs: int | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Tries students until ``config.minutes`` are over, ``jobs`` at a time (default: one a core); the smallest that
    keeps ``config.keep`` of the teacher's return by the lower end of its interval goes to ``out``.

    At any time ``out`` holds the best so far, and ``frontier.csv`` every finished student. Returns the contents of
    ``result.json``, where "reached" says whether the chosen student, measured again, keeps enough. With ``resume`` an
    interrupted search goes on, and a finished one too if it now has other minutes. Raises what ``press`` raises, and
    RunError if there was no time for a single student or one died.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs={jobs} must be at least 1.")
    method = METHODS[config.method]
    agent = source if isinstance(source, OpenedAgent) else open_agent(source, config.algo, config.environment)
    method.check(agent, config)
    agent.teacher.network("narrowed")
    folder = PressFolder(out)
    with folder.opened(config, resume) as finished:
        if finished is not None:
            return finished
        watch = watch or (lambda _: None)
        watch(Standing("measuring the agent", 0.0, 60.0 * config.minutes))
        measured = measured_teacher(folder, agent, config)
        students = _Students(agent, method, config, folder, report, watch)
        jobs = jobs or os.cpu_count() or 1
        students.train(jobs)
        return _finish(students, folder, config, measured, jobs)


def _finish(
    students: _Students, folder: PressFolder, config: PressConfig, teacher: dict[str, Any], jobs: int
) -> dict[str, Any]:
    """The smallest student that also keeps enough from the seeds of the final measurement, or else the closest."""
    if not students.found:
        raise RunError(
            f"no student was finished in {config.minutes:g} minutes: go on with --resume, in more --minutes."
        )
    seconds = sum(candidate.seconds for candidate in students.found.values()) / jobs
    closest: dict[str, Any] | None = None
    most = -math.inf
    chosen: Policy | None = None
    for candidate in students.by_size():
        policy, result = measured_student(students.policy(candidate), config, teacher, seconds)
        _, low, _ = share_of(result["evaluation"]["returns"], teacher["returns"])
        result["reached"] = low >= config.keep
        if closest is None or result["reached"] or low > most:
            chosen, closest, most = policy, result, low
        if result["reached"]:
            break
    assert chosen is not None
    assert closest is not None
    return folder.finish(chosen, closest)


class _Students:
    """Students trained side by side, one process each, and what came of them."""

    def __init__(
        self,
        agent: OpenedAgent,
        method: Method,
        config: PressConfig,
        folder: PressFolder,
        report: Report | None,
        watch: Watch,
    ) -> None:
        self._agent, self._method, self._config = agent, method, config
        self._run, self._report, self._watch = folder, report, watch
        self._folder = folder.out / "students"
        self.found: dict[Knobs, Candidate] = {}
        for file in sorted(self._folder.glob("*/candidate.json")):
            candidate = _candidate(json.loads(file.read_text()))
            self.found[candidate.knobs] = candidate
        if self.found:  # the last ones may have ended when nobody was there to hear of it
            self._write()
        self._returns = returns_of(agent.teacher, config.environment, config.episodes, SEARCH_SEED).returns

    def train(self, jobs: int) -> None:
        """Until the time is over; students that are not finished then stay where they are, for another call."""
        spent = sum(candidate.seconds for candidate in self.found.values()) / jobs
        available = 60.0 * self._config.minutes
        self._watch(Standing("timing a student", spent, available, (), len(self.found), self._best()))
        deadline = time.monotonic() + available - spent
        share = 60.0 * self._config.minutes / ROUNDS
        batches = self._batches(share)
        # What the agent's file tells has been judged: students need not hear of it again.
        judged = replace(self._agent.source, vecnormalize=self._agent.vecnormalize, force=True)
        with Workers[Knobs](lambda knobs: f"student {knobs.name}", ", and fewer --jobs") as workers:
            while True:
                while len(workers.running) < jobs and time.monotonic() + 0.7 * share < deadline:
                    running = workers.running
                    knobs = self._unfinished(running) or propose(self.found, running, self._config.keep)
                    config = replace(self._config, student=self._student(knobs, batches))
                    workers.start(knobs, _train, judged, config, knobs, self._returns, self._folder)
                if not workers.running or time.monotonic() > deadline:
                    return
                seconds = available - (deadline - time.monotonic())
                widths = tuple(self._student(knobs, batches).hidden for knobs in workers.running)
                self._watch(Standing("training", seconds, available, widths, len(self.found), self._best()))
                message = workers.wait(min(1.0, max(0.01, deadline - time.monotonic())))
                if message is not None:
                    self._add(message.value)

    def by_size(self) -> list[Candidate]:
        """Those that keep enough, the smallest first; all others behind them, the closest first."""
        keep = self._config.keep
        return sorted(self.found.values(), key=lambda c: (0, c.payload_bytes) if c.low >= keep else (1, -c.low))

    def _best(self) -> Candidate | None:
        return self.by_size()[0] if self.found else None

    def policy(self, candidate: Candidate) -> Policy:
        return Policy.load(self._folder / candidate.knobs.name / "policy.policy")

    def _add(self, candidate: Candidate) -> None:
        self.found[candidate.knobs] = candidate
        self._write()
        if self._report is not None:
            self._report(candidate, self.by_size()[0] is candidate)

    def _write(self) -> None:
        """The best student so far and the frontier."""
        best = self._folder / self.by_size()[0].knobs.name / "policy.policy"
        write_whole(self._run.policy, best.read_bytes())
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for one in sorted(self.found.values(), key=lambda c: c.payload_bytes):
            row = {name: getattr(one, name, None) for name in COLUMNS}
            writer.writerow(
                row
                | {"name": one.knobs.name, "rate_weight": one.knobs.rate_weight, "seed": one.knobs.seed}
                | {"hidden": hidden_text(one.hidden)}
            )
        write_whole(self._run.out / "frontier.csv", text.getvalue())
        plot_frontier(
            {"students": [(one.payload_bytes, one.share, one.low, one.high) for one in self.found.values()]},
            self._run.out / "frontier.png",
            keep=self._config.keep,
        )

    def _student(self, knobs: Knobs, batches: int) -> DistillConfig:
        given = self._config.student
        return replace(
            given,
            hidden=scaled_hidden(self._agent.teacher, knobs.factor),
            compression=replace(given.compression, weight_range="learned", rate_weight=knobs.rate_weight),
            batches=batches,
            seed=given.seed + knobs.seed - 1,
        )

    def _unfinished(self, running: set[Knobs]) -> Knobs | None:
        """A student of an earlier call that was interrupted."""
        for file in sorted(self._folder.glob("*/knobs.json")):
            knobs = Knobs(**json.loads(file.read_text()))
            if knobs not in self.found and knobs not in running:
                return knobs
        return None

    def _batches(self, seconds: float) -> int:
        """How many batches a student gets, so that it takes about ``seconds``; a round number, the same in every call
        of one run."""
        file = self._run.out / "batches.json"
        if not file.exists():
            probe = replace(self._student(Knobs(), _TIMED_BATCHES), states=self._config.student.batch_size)
            compression = replace(probe.compression, quantize_start=0.0, observe=0.0, rate_weight=0.0)
            timed_config = replace(self._config, student=replace(probe, compression=compression))
            marks: list[float] = []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # so few batches may leave a student without a weight
                self._method.press(self._agent, timed_config, progress=lambda *_: marks.append(time.monotonic()))
            timed = _TIMED_BATCHES * (len(marks) - 1) / len(marks)  # without the first ones, and what comes before
            pace = _SPEED_MARGIN * (marks[-1] - marks[0]) / timed
            batches = max(1_000, round(seconds / pace, -3))
            write_whole(file, json.dumps(int(batches)))
        return int(json.loads(file.read_text()))


def _train(
    tell: Tell,
    source: Source,
    config: PressConfig,
    knobs: Knobs,
    teacher_returns: tuple[float, ...],
    students: Path,
) -> Candidate:
    """One student in a process of its own: trained, measured and written."""
    torch.set_num_threads(1)
    folder = students / knobs.name

    def alive(*_: Any) -> None:
        tell()

    with locked(folder):  # a student of a killed search lives on until it notices
        write_whole(folder / "knobs.json", json.dumps(asdict(knobs)))
        agent = open_agent(source, config.algo, config.environment)
        started = time.monotonic()
        policy = METHODS[config.method].press(agent, config, folder / "checkpoint", alive)
        result = evaluate(policy, config.environment, episodes=config.episodes, seed=SEARCH_SEED, progress=alive)
        bytes_of, shares = size(policy), share_of(result.returns, teacher_returns)
        candidate = Candidate(
            knobs, config.student.hidden, bytes_of.payload_bytes, bytes_of.payload_ratio, bytes_of.nonzeros,
            *shares, result.worst_tenth, result.ended_early, round(time.monotonic() - started, 1),
        )  # fmt: skip
        search = {**result.as_dict(), "kept": dict(zip(("share", "low", "high"), shares, strict=True))}
        replace(policy, results={"search": search}).save(folder / "policy.policy")
        write_whole(folder / "candidate.json", json.dumps(asdict(candidate)))
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return candidate


def _candidate(values: dict[str, Any]) -> Candidate:
    return Candidate(**{**values, "knobs": Knobs(**values["knobs"]), "hidden": hidden_of(values["hidden"])})
