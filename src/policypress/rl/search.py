"""``policypress compress --keep`` and ``--bytes``: the smallest policy that keeps enough of the agent's return, or the
best return in so many bytes, in a given time.

``rl.lines`` says what is tried next; here it is done: a slice of a line in a process of its own, measured, and written
before anybody hears of it. At the end the best is measured from seeds that chose nothing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policypress.config import Hidden, PressConfig, PressMethod, hidden_text
from policypress.errors import ConfigError, DivergedError, RunError, UnsupportedError
from policypress.files import locked, write_whole
from policypress.measure.returns import share_of, worst_share_of, worst_tenth
from policypress.measure.size import size
from policypress.policy.policy import Policy
from policypress.rl.curves import Point, plot_frontier
from policypress.rl.evaluate import evaluate
from policypress.rl.executors import Executor, check_place, executor
from policypress.rl.finetune import Finetune
from policypress.rl.formats import open_agent
from policypress.rl.ladder import space_of
from policypress.rl.lines import Aim, Candidate, Known, Line, Shape, Slice, Widths, propose
from policypress.rl.measured import (
    MOST_EPISODES,
    PressFolder,
    measured_student,
    measured_teacher,
    on_more_episodes,
)
from policypress.rl.methods import METHODS
from policypress.rl.plan import START_BATCHES, START_STATES
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.workers import Tell, check_jobs

ROUNDS = 6
"""A distilled student gets about this part of the time: short ones mislead, and few ones leave sizes untried."""
SLICES = 24
"""A line of evolution gets about this part of the time at once, _SLICE seconds of it; a training, which stops at its
evaluations alone, as much as a distilled student."""
SEARCH_SEED, BLOCKS = 5000, 2000
"""Lines are compared from ``reset(seed=5000 + i)``, i below 2000, in blocks of as many as a measurement has; what is
chosen is then measured from other seeds."""
RACE = 10
"""Episodes that tell whether more of them are worth their time."""
_SLICE = (3.0, 120.0)
_TIMED_BATCHES = 100
_TIMED_STATES = 320  # the fewest that have a sequence to learn from
_SPEED_MARGIN = 1.3  # students that run side by side slow each other down
_OPENING_SECONDS = 5.0  # of a process, before any is timed
_FINAL_SHARE = 0.15  # of the time, at most, is kept for the final measurement
_FINALISTS = 8
_NEAREST, _QUICK = 3, 0.03  # lines that are measured where nothing arrived, and what it may take of the time, each
_TUNED_STEPS = 5_000, 300_000  # of a line of finetune, at least and at most
_PACED_STEPS = 300  # that tell how many it makes a second
_TUNED_SHARE, _TUNED_SHARE_OF_BYTES = 0.4, 0.5  # of the time left is its own: a search for the smallest trains several
_PLAYED = 0.5  # of the time that a student learns, at most, its states take where the agent remembers
_SMALL_BATCHES = 8_000  # of a student so small that what it keeps is not yet what counts
_ENDLESS = 10**9  # environment steps of a line that is given as much time as is worth it
_LOCK_SECONDS = 60.0
_PLOT_SECONDS = 60.0
COLUMNS = (
    *("name", "method", "hidden", "memory", "coarsen", "seed", "payload_bytes", "ratio", "nonzeros"),
    *("share", "low", "high"),
    *("worst_tenth", "worst_share", "ended_early", "episodes", "confirmed", "steps", "seconds"),
)

Report = Callable[[Candidate, bool], None]
"""Called with each measured candidate, and whether it is the best so far."""


@dataclass(frozen=True)
class Standing:
    """Where a search stands: what it does (``doing``), ``seconds`` of the ``of`` that it has, the lines at work, how
    many candidates are ``finished``, and the best of them."""

    doing: str
    seconds: float
    of: float
    running: tuple[Line, ...] = ()
    finished: int = 0
    best: Candidate | None = None


Watch = Callable[[Standing], None]
"""Called about once a second with where the search stands."""


@dataclass(frozen=True)
class Yardstick:
    """What a slice's policy is measured by: what is asked, what the agent returned, the best so far."""

    aim: Aim
    returns: tuple[float, ...]
    episodes: int
    best: Candidate | None


@dataclass(frozen=True)
class Dead:
    """A line that cannot go on, and why."""

    line: Line
    why: str


def search(
    source: Source | OpenedAgent,
    config: PressConfig,
    out: Path,
    *,
    resume: bool = False,
    jobs: int | None = None,
    on: str = "local",
    address: str | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Tries lines until ``config.minutes`` are over, ``jobs`` at a time (default: one a core), in processes here or
    ``on`` a Ray cluster; the best policy, as ``config.keep``, ``keep_worst`` and ``bytes`` ask for it, goes to ``out``.

    At any time ``out`` holds the best so far, and ``frontier.csv`` every candidate. Returns the contents of
    ``result.json``, where "reached" says whether the chosen policy, measured again, is what was asked for. With
    ``resume`` an interrupted search goes on, and a finished one too if it now has other minutes. Raises what ``press``
    raises, and RunError if there was no time for a single candidate or a process died.
    """
    check_jobs(jobs)
    check_place(on, address)
    agent = source if isinstance(source, OpenedAgent) else open_agent(source, config.algo or None, config.environment)
    METHODS["distill"].check(agent, _single(config, space_of(agent, frozenset({"distill"})).firsts[0]))
    folder = PressFolder(out)
    begun = time.monotonic()
    with folder.opened(config, resume) as finished:
        if finished is not None:
            return finished
        watch = watch or (lambda _: None)
        watch(Standing("measuring the agent", 0.0, 60.0 * config.minutes))
        measured = measured_teacher(folder, agent, config)
        lines = _Lines(agent, config, folder, measured, report, watch, begun)
        while True:  # more than once where what had arrived turned out not to have
            with executor(on, address, lambda line: f"line {line.name}", ", and fewer --jobs") as workers:
                over = not lines.work(workers, jobs or workers.slots)
            policy, result = lines.chosen()
            if over or result["reached"]:
                break
        lines.tidy()
        return folder.finish(policy, result)


def _single(config: PressConfig, shape: Shape) -> PressConfig:
    """A single student of this shape."""
    return replace(config, student=replace(config.student, **_built(shape)), **_NO_SEARCH)


def _probe(config: PressConfig, shape: Shape) -> PressConfig:
    """A student of this shape of few batches, that tells how long they take."""
    student = replace(config.student, batches=_TIMED_BATCHES, collections=1, **_built(shape))
    compression = replace(student.compression, quantize_start=0.0, observe=0.0, rate_weight=0.0)
    states = max(student.batch_size, _TIMED_STATES)
    return replace(config, student=replace(student, states=states, compression=compression), **_NO_SEARCH)


@dataclass(frozen=True)
class _Lesson:
    """What a distilled student gets, so that all take about the same time: ``batches`` and ``states``, and the
    ``seconds`` that both take."""

    batches: int
    states: int
    seconds: float


class _Lines:
    """Lines, in a folder each, and what came of them."""

    def __init__(
        self,
        agent: OpenedAgent,
        config: PressConfig,
        folder: PressFolder,
        teacher: dict[str, Any],
        report: Report | None,
        watch: Watch,
        begun: float,
    ) -> None:
        """``begun``: when this call began, by time.monotonic()."""
        self._begun = begun
        self._agent, self._config, self._run, self._teacher = agent, config, folder, teacher
        self._report, self._watch = report, watch
        self._folder = folder.out / "lines"
        self._aim = Aim(config.keep, config.keep_worst if config.keep else 0.0, config.bytes)
        self._found: dict[Line, tuple[Candidate, ...]] = {}
        self._dead: dict[Line, str] = {}
        self._read()
        self._earlier = sum(candidate.seconds for candidate in self._candidates)  # seconds, of earlier calls
        self._spent = 0.0  # seconds that these took
        self._opening = _OPENING_SECONDS
        self._plotted = time.monotonic()
        if self._candidates:  # the last ones may have ended when nobody was there to hear of it
            self._write()
        judged = replace(agent.source, vecnormalize=agent.vecnormalize, force=True)
        self._source = judged  # what the agent's file tells has been judged: processes need not hear of it again
        self._returns = tuple(teacher["returns"])  # of no seed that a student is compared on
        methods: tuple[PressMethod, ...] = ("distill", "finetune", "evolve")
        self._space = space_of(agent, frozenset(method for method in methods if self._allows(method)))
        timed = {first.kind: self._timed(first) for first in self._space.firsts}
        self._measuring = timed[self._space.firsts[0].kind][-1]
        self._lessons = {kind: self._lesson(batches, seconds) for kind, (batches, seconds, _) in timed.items()}

    # What is tried

    def work(self, workers: Executor[Line], jobs: int) -> bool:
        """Presses ``jobs`` lines at once, until the time is over or nothing is left to try, or (then True) both share
        and bytes are reached. Lines stay where they are, for another call."""
        in_all = self._in_all
        self._spent = self._earlier / jobs
        deadline = self._begun + in_all - self._spent - min(self._measuring, _FINAL_SHARE * in_all)
        evolving = min(max(in_all / SLICES, _SLICE[0]), _SLICE[1])
        started: dict[Line, tuple[float, float]] = {}
        while not self._arrived():
            while len(workers.running) < jobs:
                left = deadline - time.monotonic() - self._opening
                chosen = propose(self._known(frozenset(workers.running), left)) if left > 0.0 else None
                if chosen is None:
                    break
                seconds = left
                if METHODS[chosen.line.method].anytime:
                    seconds = min(left, evolving if chosen.line.method == "evolve" else in_all / ROUNDS)
                started[chosen.line] = time.monotonic(), seconds
                self._begin(chosen, left)
                workers.start(chosen.line, _press, *self._arguments(chosen.line, seconds))
            now = time.monotonic()
            if not workers.running or now > deadline:
                return False
            running = tuple(sorted(workers.running))
            spent = self._spent + now - self._begun
            self._watch(Standing("pressing", spent, in_all, running, len(self._candidates), self._best))
            message = workers.wait(min(1.0, max(0.01, deadline - now)))
            if message is not None and message.done:
                since, asked = started[message.key]
                took = time.monotonic() - since - asked
                if isinstance(message.value, Candidate) and not message.value.finished:
                    self._opening = max(took, (self._opening + took) / 2)
                self._add(message.value)
        return True

    @property
    def _in_all(self) -> float:
        return 60.0 * self._config.minutes

    def _known(self, running: frozenset[Line], left: float) -> Known:
        dead = frozenset(self._dead)
        distilling = {kind: lesson.seconds for kind, lesson in self._lessons.items()}
        return Known(self._aim, self._space, self._found, running, dead, left, self._in_all, distilling)

    def _arrived(self) -> bool:
        """Whether more time would change nothing."""
        best = self._best
        return bool(self._aim.keep and self._aim.bytes) and best is not None and self._aim.good(best)

    def _allows(self, method: PressMethod) -> bool:
        """Whether this agent's students can be pressed so."""
        if method not in METHODS:
            return False
        narrow = _single(self._config, space_of(self._agent, frozenset({method})).firsts[0])
        try:
            config = replace(narrow, method=method, steps=0 if method == "distill" else _ENDLESS)
            METHODS[method].check(self._agent, config)
        except (ConfigError, UnsupportedError):
            return False
        return method == "distill" or not self._agent.teacher.observation.image

    def _begin(self, chosen: Slice, left: float) -> None:
        """The folder of a line that begins, with what it starts from."""
        line, start = chosen.line, chosen.start
        folder = self._folder / line.name
        self._found.setdefault(line, ())
        if (folder / "line.json").exists():
            return
        checkpoint = folder / "checkpoint"
        shutil.rmtree(checkpoint, ignore_errors=True)
        if start is not None and line.method == "evolve":
            checkpoint.mkdir(parents=True)
            shutil.copy(self._file(start), checkpoint / "start.policy")
        elif start is not None and (given := self._folder / start.line.name / "checkpoint").exists():
            shutil.copytree(given, checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        steps = _ENDLESS if line.method == "evolve" else 0
        if line.method == "finetune":
            steps = self._tuned_steps(line, left)
        told = {**_as_dict(line), "steps": steps, "start": None if start is None else start.name}
        write_whole(folder / "line.json", json.dumps(told))

    def _arguments(self, line: Line, seconds: float) -> tuple[Any, ...]:
        yardstick = Yardstick(self._aim, self._returns, self._config.episodes, self._best)
        config, keeps = self._line_config(line), "finetune" in self._space.methods
        return self._source, config, line, len(self._found[line]), self._folder / line.name, seconds, yardstick, keeps

    def _line_config(self, line: Line) -> PressConfig:
        given = self._config.student
        quick, lesson = line.end == "up", self._lessons[line.shape.kind]
        batches = lesson.batches
        if self._aim.bytes and self._space.evolves_well(line.shape):  # a beginning of what is then trained on
            batches = min(_SMALL_BATCHES, batches)
        student = replace(
            given,
            **_built(line.shape),
            compression=replace(given.compression, weight_range="learned", rate_weight=line.rate_weight),
            batches=min(START_BATCHES, batches) if quick else batches,
            states=min(START_STATES, lesson.states) if quick else lesson.states,
            seed=given.seed + line.seed - 1,
        )
        if line.method == "evolve":  # which finds codes itself: of what it starts from, a price would only take return
            student = replace(student, compression=replace(student.compression, rate_weight=0.0))
        steps = json.loads((self._folder / line.name / "line.json").read_text())["steps"]
        codes: dict[str, Any] = {"code_rms": line.code_rms, "noise": line.noise} if line.method == "evolve" else {}
        return replace(self._config, method=line.method, student=student, steps=steps, **codes, **_NO_SEARCH)

    def _lesson(self, batches: int, seconds: float) -> _Lesson:
        """With as many states as do not take too long beside so many batches; what remembers is played one by one."""
        states = self._config.student.states
        if not self._agent.teacher.remembers:
            return _Lesson(batches, states, seconds)
        a_state = max(self._measuring, 0.1) / sum(self._teacher["lengths"])
        states = min(states, max(START_STATES, round(_PLAYED * seconds / a_state)))
        return _Lesson(batches, states, seconds + states * a_state)

    def _timed(self, first: Shape) -> tuple[int, float, float]:
        """How many batches a distilled student like the ``first`` gets, so that it takes about a ROUNDS-th of the time;
        what it then takes, and what a measurement took, in seconds; the same in every call of one run."""
        other = "" if first == self._space.firsts[0] else f"-{first.kind}"
        file = self._run.out / f"timed{other}.json"
        if not file.exists():
            share = 60.0 * self._config.minutes / ROUNDS
            measuring = time.monotonic() - self._begun
            self._watch(Standing("timing a student", measuring, self._in_all))
            marks: list[float] = []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # so few batches may leave a student without a weight
                METHODS["distill"].press(
                    self._agent, _probe(self._config, first), progress=lambda *_: marks.append(time.monotonic())
                )
            timed = _TIMED_BATCHES * (len(marks) - 1) / len(marks)  # without the first ones, and what comes before
            pace = _SPEED_MARGIN * (marks[-1] - marks[0]) / timed
            batches = min(max(1_000, round(share / pace, -3)), max(1_000, self._config.student.batches))
            write_whole(file, json.dumps([int(batches), round(batches * pace, 1), round(measuring, 1)]))
        batches, distilling, measuring = json.loads(file.read_text())
        return batches, distilling, measuring

    def _tuned_steps(self, line: Line, left: float) -> int:
        """How many steps fill a finetune's part of the time that is ``left``; the pace is measured once in a run."""
        least, most = _TUNED_STEPS
        file = self._run.out / "paced.json"
        if not file.exists():
            config = replace(_probe(self._config, line.shape), method="finetune", steps=_PACED_STEPS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    pace = Finetune().pace(self._agent, config)
                except (ConfigError, DivergedError, UnsupportedError):
                    return least  # the line meets it too, and dies of it alone
            write_whole(file, json.dumps(round(pace, 1)))
        pace = json.loads(file.read_text()) / _SPEED_MARGIN
        share = _TUNED_SHARE_OF_BYTES if self._aim.bytes else _TUNED_SHARE
        return int(round(min(max(pace * share * left, least), most), -3))

    # What came of it

    @property
    def _candidates(self) -> list[Candidate]:
        return [candidate for line in self._found.values() for candidate in line]

    @property
    def _best(self) -> Candidate | None:
        return min(self._candidates, key=self._aim.order, default=None)

    def _file(self, candidate: Candidate) -> Path:
        return self._folder / candidate.line.name / f"{candidate.slice:04}.policy"

    def _read(self) -> None:
        for file in sorted(self._folder.glob("*/line.json")):
            told = json.loads(file.read_text())
            line = _line(told)
            if (dead := file.with_name("dead.txt")).exists():
                self._dead[line] = dead.read_text()
            found = sorted(file.parent.glob("[0-9]*.json"))
            self._found[line] = tuple(_candidate(json.loads(one.read_text())) for one in found)

    def _add(self, came: Candidate | Dead | None) -> None:
        if isinstance(came, Dead):
            self._dead[came.line] = came.why
        elif came is not None:
            self._found[came.line] = (*self._found[came.line], came)
            self._write()
            if self._report is not None:
                self._report(came, self._best is came)

    def _write(self, last: bool = False) -> None:
        """The best policy so far and the frontier; as a picture now and then, and at the ``last``."""
        assert self._best is not None
        write_whole(self._run.policy, self._file(self._best).read_bytes())
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        points: dict[str, list[Point]] = {}
        for one in sorted(self._candidates, key=lambda c: c.payload_bytes):
            line = {
                "method": one.line.method,
                "hidden": hidden_text(_hidden(one.line.shape.hidden)),
                "memory": one.line.shape.memory,
                "coarsen": one.line.coarsen,
            }
            figures = {name: getattr(one, name, None) for name in COLUMNS}
            writer.writerow(figures | line | {"seed": one.line.seed})
            points.setdefault(one.line.method, []).append((one.payload_bytes, one.share, one.low, one.high))
        write_whole(self._run.out / "frontier.csv", text.getvalue())
        if time.monotonic() - self._plotted > _PLOT_SECONDS or last:
            plot_frontier(points, self._run.out / "frontier.png", keep=self._config.keep)
            self._plotted = time.monotonic()

    # The end

    def chosen(self) -> tuple[Policy, dict[str, Any]]:
        """The best that is also what was asked for from the seeds of the final measurement, or else the closest of
        those that came closest, and the contents of its ``result.json``. What is not will not be taken for the best
        again."""
        candidates = sorted(self._candidates, key=self._aim.order)
        if not candidates:
            raise RunError(_nothing(self._config, list(self._dead.values())))
        self._write(last=True)
        good = [candidate for candidate in candidates if self._aim.good(candidate)]
        closest: tuple[float, Policy, dict[str, Any]] | None = None
        for candidate in good[: _FINALISTS if self._aim.keep else 1] or self._nearest(candidates):
            seconds = self._spent + time.monotonic() - self._begun
            spent = min(seconds, self._in_all)
            self._watch(Standing("measuring the best", spent, self._in_all, (), len(candidates), candidate))
            margin, policy, result = self._measured(candidate, seconds)
            if closest is None or result["reached"] or margin > closest[0]:
                closest = margin, policy, result
            if result["reached"]:
                break
            mine = self._found[candidate.line]
            self._found[candidate.line] = tuple(replace(c, confirmed=c.confirmed and c != candidate) for c in mine)
        assert closest is not None
        return closest[1:]

    def _nearest(self, candidates: list[Candidate]) -> list[Candidate]:
        """The best of the lines that came closest, the closest first; one where measuring takes long."""
        best: dict[Line, Candidate] = {}
        for candidate in candidates:
            if not self._aim.fits(candidate) and best:
                break
            best.setdefault(candidate.line, candidate)
        quick = self._aim.keep and self._measuring <= _QUICK * self._in_all
        return list(best.values())[: _NEAREST if quick else 1]

    def tidy(self) -> None:
        """Removes checkpoints from which nothing more can come."""
        for folder in self._folder.glob("*/checkpoint"):
            if self._useless(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _useless(self, checkpoint: Path) -> bool:
        """Whether nothing more can come of a checkpoint: its line is finished."""
        line = _line(json.loads((checkpoint.parent / "line.json").read_text()))
        return line in self._dead or (bool(self._found[line]) and self._found[line][-1].finished)

    def _measured(self, candidate: Candidate, seconds: float) -> tuple[float, Policy, dict[str, Any]]:
        """By how much a candidate is what was asked for, from the seeds of the final measurement; its policy and
        result. Where the interval decides, on more episodes."""
        aim, policy, teacher = self._aim, Policy.load(self._file(candidate)), self._teacher
        while True:
            pressed, result = measured_student(policy, self._config, teacher, seconds)
            returns = result["evaluation"]["returns"]
            share, low, _ = share_of(returns, teacher["returns"])
            worst = worst_share_of(returns, teacher["returns"])
            margin = min(low - aim.keep, worst - aim.keep_worst) if aim.keep else low
            reached = aim.fits(candidate) and (not aim.keep or margin >= 0.0)
            near = share >= aim.keep and worst >= aim.keep_worst - 0.1
            if reached or not near or not aim.keep or len(returns) >= MOST_EPISODES:
                break
            teacher = on_more_episodes(self._agent, self._config, self._teacher, MOST_EPISODES)
        result["reached"], result["kept"]["worst_share"] = reached, worst
        result["line"], result["candidates"] = candidate.line.name, len(self._candidates)
        pressed.results["kept"]["worst_share"] = worst
        return margin, pressed, result


_NO_SEARCH: dict[str, Any] = {"keep": 0.0, "bytes": 0, "minutes": 0.0}


def _hidden(widths: Widths) -> Hidden:
    """Widths as a DistillConfig has them."""
    return widths or "none"


def _built(shape: Shape) -> dict[str, Any]:
    """A shape as fields of a DistillConfig."""
    return {"hidden": _hidden(shape.hidden), "memory": shape.memory}


def _nothing(config: PressConfig, dead: list[str]) -> str:
    if dead:
        return f"no line could go on: {dead[-1]}"
    return f"no student was finished in {config.minutes:g} minutes: go on with --resume, in more --minutes."


def _press(
    tell: Tell,
    source: Source,
    config: PressConfig,
    line: Line,
    number: int,
    folder: Path,
    seconds: float,
    yardstick: Yardstick,
    keeps: bool,
) -> Candidate | Dead | None:
    """A slice of a line: pressed for ``seconds``, measured and written; None where nothing can be measured yet. With
    ``keeps`` the checkpoint of a finished line stays, for a line that starts from it."""
    torch.set_num_threads(1)
    started = time.monotonic()
    steps = 0

    def progress(done: int, *_: Any) -> None:
        nonlocal steps
        steps = done
        tell()

    with _waited_for(folder, tell):
        file = folder / f"{number:04}.json"
        if file.exists():  # of a search that was killed before it heard of it
            return _candidate(json.loads(file.read_text()))
        agent = open_agent(source, config.algo or None, config.environment)
        method = METHODS[config.method]
        try:
            method.check(agent, config)
            with method.prepare(agent, config, folder / "checkpoint") as work:
                finished = work.run(progress, max(0.0, seconds - (time.monotonic() - started)))
                if not finished and not method.anytime:
                    return None
                policy = work.freeze()
        except (ConfigError, DivergedError, UnsupportedError) as error:  # of these settings: others may do
            write_whole(folder / "dead.txt", str(error))
            return Dead(line, str(error))
        if line.method == "distill":
            steps = 0
        candidate, told = _measure(policy, config, line, number, yardstick, tell)
        candidate = replace(candidate, finished=finished, steps=steps, seconds=round(time.monotonic() - started, 1))
        replace(policy, results={"search": told}).save(folder / f"{number:04}.policy")
        write_whole(file, json.dumps({**asdict(candidate), "line": _as_dict(line)}))
        if finished and not keeps:
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return candidate


def _measure(
    policy: Policy, config: PressConfig, line: Line, number: int, yardstick: Yardstick, tell: Tell
) -> tuple[Candidate, dict[str, Any]]:
    """A candidate and what its card says: few episodes, and more while it may be better than the best."""
    aim, most = yardstick.aim, yardstick.episodes
    block = SEARCH_SEED + most * (number % max(1, BLOCKS // most))
    bytes_of = size(policy)
    returns: list[float] = []
    early: list[bool] = []
    for until in sorted({min(RACE, most), max(min(RACE, most), most // 2), most}):
        seed, episodes = block + len(returns), until - len(returns)
        result = evaluate(policy, config.environment, episodes=episodes, seed=seed, progress=lambda *_: tell())
        returns += result.returns
        early += result.terminated
        share, low, high = share_of(returns, yardstick.returns)
        candidate = Candidate(
            line, number, bytes_of.payload_bytes, bytes_of.payload_ratio, bytes_of.nonzeros, share, low, high,
            worst_tenth(returns), worst_share_of(returns, yardstick.returns), float(np.mean(early)), until,
            until >= most, finished=False, steps=0, seconds=0.0,
        )  # fmt: skip
        if not aim.promising(candidate, yardstick.best):
            break
    kept = {"share": share, "low": low, "high": high, "worst_share": candidate.worst_share}
    told = {"seed": block, "returns": returns, "worst_tenth": candidate.worst_tenth, "kept": kept}
    return candidate, told


@contextlib.contextmanager
def _waited_for(folder: Path, tell: Tell) -> Iterator[None]:
    """Holds a line's folder; a process of a killed search lives on until it notices."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except RunError:
                if time.monotonic() > deadline:
                    raise
                tell()
                time.sleep(0.2)
        yield


def _as_dict(line: Line) -> dict[str, Any]:
    """A line in JSON values."""
    told = asdict(line)
    shape = told.pop("shape")
    return {**told, **shape}


def _line(values: dict[str, Any]) -> Line:
    shape = Shape(tuple(values["hidden"]), values.get("memory", "none"))  # earlier versions tried none
    return Line(values["end"], values["method"], shape, values["coarsen"], values["seed"])


def _candidate(values: dict[str, Any]) -> Candidate:
    return Candidate(**{**values, "line": _line(values["line"])})
