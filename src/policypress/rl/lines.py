"""What a search knows, and what it tries next: a pure function of what was found so far.

A *line* is one student on its way; it is pressed for a *slice* of time, measured, and given another slice or not.
Until something keeps enough, half of the time is the *leader's*, the line that gets furthest by its trend: what learns
slowly needs one line that is followed, not a dozen that are begun. The other half looks for a better one, from two
ends: one climbs from nothing, a linear policy first, by evolution on the return; the other comes down from what surely
works, distilled students, whose near misses are then trained on their return. What gains too little to arrive in the
time left is left behind, as in successive halving (Jamieson and Talwalkar 2016), by its trend instead of its rank.

Students of an agent that remembers are distilled, all of them, with memories of several kinds or none. One of each kind
is tried before the search goes on with the kind that comes closest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policypress.config import PressConfig, PressMethod, hidden_text

End = Literal["up", "down"]
Widths = tuple[int, ...]
"""Hidden widths of a student; () for a linear one."""


@dataclass(frozen=True, order=True)
class Shape:
    """What a student is built of: hidden layers, behind what it remembers by as ``config.memory_of`` reads it."""

    hidden: Widths = ()
    memory: str = "none"

    @property
    def kind(self) -> str:
        """What it remembers by, however much: "gru", "history", "none"."""
        return self.memory.partition(":")[0]

    @property
    def name(self) -> str:
        """In words: "24-24", "linear", "gru16-8", "history4-linear"."""
        hidden = hidden_text(self.hidden or "none")
        return hidden if self.memory == "none" else f"{self.memory.replace(':', '')}-{hidden}"


LINEAR = Shape()

CHANCE = 0.02
"""Students that are alike but for their seed differ by about as much in what they keep."""
NEAR = 0.2
"""A student that misses by this share of the mean at most is worth training on."""
COARSEST = 8
"""Most ``coarsen`` of a line: an evolved one has codes of a root mean square of 1 then."""
_FIRST_RATE = 4e-3
_FIRST_CODES = PressConfig.code_rms
_HEADER = 7.0  # bytes of a payload that are no weights, at least
_DISTILLED_BITS, _DISTILLED_STEP = 6.5, 0.92  # of a weight at the first price; times this a step of it
_EVOLVED_BITS = 2.05  # of a normal variable of deviation 1, rounded
_EVOLVES, _EVOLVES_WELL = 5_000, 500  # weights
_NOISES = (0.1, 0.4, 0.2)
_GENTLE_NOISE = 0.05  # of students from the other end: more undoes what they learned by gradient
_SEEDS = len(_NOISES)  # of an evolved line, before a wider one: some stay where others pass
_YOUNG, _TREND = 3, 6  # slices before a line is judged, and those that it is judged by
_LEADS = 0.5  # of all time, at most, is the leader's
_OPENING = 0.3  # of all time: later, no line is begun for its own sake in a search of bytes
# Steps of (rung, coarsen) of distilled students: while none is good, and from the smallest good one.
_LARGER = ((1, 0), (0, -2), (2, 0), (1, -2), (2, -2), (3, -2), (4, -4), (6, -4))
_SMALLER = ((-1, 0), (0, 2), (-1, 2), (0, 1), (-1, 1), (-1, -1), (-2, 0), (0, 3), (-2, 2))
_FINE = 2  # at most, of a distilled student that is begun because it is the widest that fits
_COARSER = (4, 2, 1)  # steps of an evolved one


@dataclass(frozen=True, order=True)
class Line:
    """One student on its way: from which ``end`` it comes, how it is pressed, its shape, and how coarse its codes are,
    in half octaves of the price of bits (distill, finetune) or of their root mean square (evolve)."""

    end: End
    method: PressMethod
    shape: Shape
    coarsen: int = 0
    seed: int = 1

    @property
    def rate_weight(self) -> float:
        """Price of bits of a distilled student."""
        return float(_FIRST_RATE * 2.0 ** (self.coarsen / 2))

    @property
    def code_rms(self) -> float:
        """Root mean square of an evolved student's weight codes."""
        return float(_FIRST_CODES * 2.0 ** (-self.coarsen / 2))

    @property
    def noise(self) -> float:
        """What an evolved student begins with: those that climb try others by seed, as none suits every task."""
        return _GENTLE_NOISE if self.end == "down" else _NOISES[(self.seed - 1) % len(_NOISES)]

    @property
    def name(self) -> str:
        return f"{self.end}-{self.method}-{self.shape.name}-coarsen{self.coarsen:+d}-seed{self.seed}"


@dataclass(frozen=True)
class Candidate:
    """What came of a line's slice, as the search sees it. ``share``, ``low`` and ``high``: of the agent's mean return;
    ``worst_share``: of its worst tenth; ``confirmed``: measured on as many episodes as it takes to be chosen;
    ``finished``: the line has nothing left to do; ``steps``: environment steps of the line that changed it."""

    line: Line
    slice: int
    payload_bytes: int
    ratio: float
    nonzeros: int
    share: float
    low: float
    high: float
    worst_tenth: float
    worst_share: float
    ended_early: float
    episodes: int
    confirmed: bool
    finished: bool
    steps: int
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.line.name}-{self.slice}"


@dataclass(frozen=True)
class Aim:
    """What is asked: the share ``keep`` of the mean (0: as much as possible) and ``keep_worst`` of the worst tenth, in
    so many ``bytes`` (0: as few as possible)."""

    keep: float = 0.0
    keep_worst: float = 0.0
    bytes: int = 0

    def fits(self, candidate: Candidate) -> bool:
        return not self.bytes or candidate.payload_bytes <= self.bytes

    def margin(self, candidate: Candidate) -> float:
        """By how much the worse of both criteria is kept; below 0 where one is missed."""
        return min(candidate.low - self.keep, candidate.worst_share - self.keep_worst) if self.keep else candidate.low

    def standing(self, candidate: Candidate) -> float:
        """How far a line has come, smoother than ``margin``: what is missing of both criteria, 0 at best."""
        if not self.keep:
            return candidate.low
        missing = candidate.share - self.keep, candidate.worst_share - self.keep_worst
        return sum(min(one, 0.0) for one in missing) / 2

    def good(self, candidate: Candidate) -> bool:
        """Whether it is what was asked for, as far as the search can tell."""
        return candidate.confirmed and self.fits(candidate) and (not self.keep or self.margin(candidate) >= 0.0)

    def promising(self, candidate: Candidate, best: Candidate | None) -> bool:
        """Whether it may be better than the best, so that more episodes are worth their time."""
        if not self.fits(candidate):
            return False
        if not self.keep:
            return best is None or not self.good(best) or candidate.share > best.share
        near = candidate.share >= self.keep - CHANCE / 2 and candidate.worst_share >= self.keep_worst - 0.1
        smaller = best is None or not self.good(best) or candidate.payload_bytes < best.payload_bytes
        return near and (smaller or bool(self.bytes))

    def order(self, candidate: Candidate) -> tuple[float, ...]:
        """Sorts the best first: what was asked for, and then what comes closest."""
        if self.good(candidate):
            return (0, -candidate.low) if self.bytes else (0, candidate.payload_bytes)
        over = max(0, candidate.payload_bytes - self.bytes) if self.bytes else 0
        return 1, over, not candidate.confirmed and not self.keep, -self.margin(candidate)


@dataclass(frozen=True)
class Space:
    """What can be tried: shapes from nothing up with the weights that a student of each has, where distilled students
    begin (``firsts``, one for each kind of memory), and the ways of pressing that this agent allows."""

    ladder: tuple[Shape, ...]
    weights: tuple[int, ...]
    firsts: tuple[Shape, ...]
    methods: frozenset[PressMethod]

    @property
    def remembers(self) -> bool:
        """Whether students may remember; all of them are then distilled, and nothing climbs."""
        return len(self.firsts) > 1

    def kin(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes with the same kind of memory."""
        return tuple(one for one in self.ladder if one.kind == shape.kind)

    def weights_of(self, shape: Shape) -> int:
        return self.weights[self.ladder.index(shape)]

    def evolves_well(self, shape: Shape) -> bool:
        """Whether evolution gets on with so many weights, even beside gradients."""
        return "evolve" in self.methods and self.weights_of(shape) <= _EVOLVES_WELL


@dataclass(frozen=True)
class Known:
    """Where a search stands: lines that have begun, with what came of each so far (nothing, of one that was
    interrupted), those at work, those that cannot go on, and seconds: ``left``, ``in_all``, and what ``distilling`` a
    student with each kind of memory takes."""

    aim: Aim
    space: Space
    found: Mapping[Line, tuple[Candidate, ...]]
    running: frozenset[Line] = frozenset()
    dead: frozenset[Line] = frozenset()
    left: float = math.inf
    in_all: float = math.inf
    distilling: Mapping[str, float] = field(default_factory=dict)

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate for line in self.found.values() for candidate in line]

    @property
    def best(self) -> Candidate | None:
        return min(self.candidates, key=self.aim.order, default=None)

    @property
    def good(self) -> Candidate | None:
        """The best, if it is what was asked for."""
        best = self.best
        return best if best is not None and self.aim.good(best) else None

    def begun(self, line: Line) -> bool:
        return line in self.found or line in self.running or line in self.dead

    def free(self, line: Line) -> bool:
        """Whether a line that has begun can be given a slice."""
        return line in self.found and line not in self.running and line not in self.dead and not self.ended(line)

    def ended(self, line: Line) -> bool:
        """Whether a line that has begun has nothing left to do."""
        return bool(self.found[line]) and self.found[line][-1].finished

    def bytes_of(self, line: Line) -> float:
        """What the payload of a line takes: as measured last, or about as much as others of its shape suggest."""
        if mine := self.found.get(line):
            return mine[-1].payload_bytes
        like = [c for c in self.candidates if (c.line.method, c.line.shape) == (line.method, line.shape)]
        guess = self._estimate(line)
        if not like:
            return guess
        nearest = min(like, key=lambda c: abs(c.line.coarsen - line.coarsen))
        return nearest.payload_bytes * guess / self._estimate(nearest.line)

    def _estimate(self, line: Line) -> float:
        if line.method == "evolve":
            bits = max(0.5, _EVOLVED_BITS + math.log2(line.code_rms))
        else:
            bits = _DISTILLED_BITS * _DISTILLED_STEP**line.coarsen
        return _HEADER + self.space.weights_of(line.shape) * bits / 8

    def seconds_of(self, lines: Iterable[Line]) -> float:
        return sum(candidate.seconds for line in lines for candidate in self.found.get(line, ()))

    def projected(self, line: Line) -> float:
        """Where a line gets to in the time left, by ``Aim.standing``: what learns gains about as much in each doubling
        of its time."""
        mine = self.found[line]
        if not mine:
            return math.inf
        seconds = np.cumsum([max(candidate.seconds, 0.1) for candidate in mine])
        doublings = np.log2(seconds[-_TREND:] / seconds[-1])
        now, trend = _trend(doublings, np.array([self.aim.standing(candidate) for candidate in mine[-_TREND:]]))
        return now + max(0.0, trend) * math.log2(1.0 + max(0.0, min(self.left, self.in_all)) / float(seconds[-1]))

    def promise(self, end: End) -> float:
        """How close a line of this end comes in the time left, by ``Aim.standing``; 0 at best, or if none is known or
        one is too young to be judged."""
        lines = [line for line, found in self.found.items() if line.end == end and found and line not in self.dead]
        if any(len(self.found[line]) < _YOUNG and not self.ended(line) for line in lines):
            return 0.0
        return max((min(self.projected(line), 0.0) for line in lines), default=0.0)

    def still(self, line: Line) -> bool:
        """Whether a line gains next to nothing any more: evolution may rest for some slices and then go on."""
        mine = self.found[line]
        return len(mine) >= _TREND and self.projected(line) - self.aim.standing(mine[-1]) < CHANCE

    def hopeful(self, line: Line) -> bool:
        """Whether a line that has not arrived may still do so."""
        return len(self.found[line]) < _YOUNG or self.projected(line) >= 0.0


@dataclass(frozen=True)
class Slice:
    """The next piece of work: a line, and, for one that begins, whose policy it starts from."""

    line: Line
    start: Candidate | None = None


Options = Iterator[Slice]


def propose(known: Known) -> Slice | None:
    """What to do next; None where nothing fits into the time left, or nothing smaller than the best can be."""
    for line in known.found:  # of an earlier call that was interrupted
        if known.free(line) and not known.found[line] and _in_time(known, line) and _not_larger(known, line):
            return Slice(line)
    ways = {"up": _climb, "down": _descend}
    ends = [_lead, *(ways[end] for end in _ends(known))] if known.aim.keep else [_within]
    for way in (*ends, _again):
        for option in way(known):
            if _in_time(known, option.line) and _not_larger(known, option.line):
                return option
    return None


def _lead(known: Known) -> Options:
    """The leader, until it has had its part of the time, or stands still; while it is at work, a twin of it."""
    leader = max(_going(known), key=known.projected, default=None)
    if known.good is not None or leader is None or known.still(leader):
        return
    yield from _twins(known)
    if known.free(leader) and known.seconds_of([leader]) < _LEADS * known.seconds_of(known.found):
        yield Slice(leader)


def _going(known: Known) -> list[Line]:
    """Lines, at work or not, that were measured and can go on."""
    lines = [line for line in known.found if known.found[line] and line not in known.dead and not known.ended(line)]
    return [line for line in lines if _not_larger(known, line)]


def _twins(known: Known) -> Options:
    """Of a trained student that evolves, is at work and gets clearly further than all others: another seed, from where
    it stands. Two of them climb faster than one beside lines that do not get there."""
    going = _going(known)
    leader = max(going, key=known.projected, default=None)
    if leader not in known.running or (leader.end, leader.method) != ("down", "evolve"):
        return
    twins = [replace(leader, seed=seed) for seed in range(1, 1 + _SEEDS)]
    enough = 0.0 if known.aim.keep else math.inf
    others = (min(known.projected(line), enough) for line in going if line not in twins)
    if max(others, default=-math.inf) + CHANCE >= min(known.projected(leader), enough):
        return
    free = [line for line in going if line in twins and known.free(line)]
    yield from (Slice(line) for line in sorted(free, key=known.projected, reverse=True))
    best = max(known.found[leader], key=known.aim.standing)
    yield from (Slice(line, best) for line in twins if not known.begun(line))


def _ends(known: Known) -> list[End]:
    """The end to go on from first: what has had less of the time, or, after an opening in which nothing has arrived,
    what comes clearly closer."""
    if not known.found and not known.running:
        return ["up"]
    ends: list[End] = ["up", "down"]
    if known.good is None and known.left < (1.0 - _OPENING) * known.in_all:
        promise = {end: known.promise(end) for end in ends}
        if abs(promise["up"] - promise["down"]) > NEAR / 2:
            return sorted(ends, key=lambda end: promise[end], reverse=True)
    spent = {end: known.seconds_of(line for line in known.found if line.end == end) for end in ends}
    return sorted(ends, key=lambda end: (sum(line.end == end for line in known.running), spent[end]))


def _in_time(known: Known, line: Line) -> bool:
    """Whether a line is of use before the time is over: a distilled student is of none before its end."""
    if line.method != "distill" or line.shape == LINEAR:
        return True
    return known.left >= 0.7 * known.distilling.get(line.shape.kind, 0.0)


def _not_larger(known: Known, line: Line) -> bool:
    """Whether a line has as few bytes as were asked for, or is smaller than the smallest that keeps enough."""
    if known.aim.bytes:
        least = Line("up", "distill", known.space.ladder[0])  # so that there is something, however much it takes
        return line == least or known.bytes_of(line) <= known.aim.bytes
    return known.good is None or known.bytes_of(line) < known.good.payload_bytes


def _climb(known: Known) -> Options:
    """From nothing up: the linear student as it is distilled, then the narrowest line that may arrive."""
    ladder, method = known.space.ladder, _climbs_by(known.space)
    linear = Line("up", "distill", ladder[0])
    if not known.begun(linear):
        yield Slice(linear)
    if known.space.remembers:
        return
    if (good := known.good) is not None:
        yield from _coarser(known, good)
        return
    for shape in ladder:
        if method == "evolve" and known.space.weights_of(shape) > _EVOLVES:
            break
        for seed in range(1, 1 + (_SEEDS if method == "evolve" else 1)):
            line = _finest(known, "up", method, shape, seed)
            if line is not None:
                yield from _begin_or_go_on(known, line, _finer(known, line) if seed == 1 else None)
    lines = [line for line in known.found if line.end == "up" and known.free(line)]
    yield from (Slice(line) for line in sorted(lines, key=known.projected, reverse=True)[:1])


def _climbs_by(space: Space) -> PressMethod:
    return "evolve" if "evolve" in space.methods else "distill"


def _finest(known: Known, end: End, method: PressMethod, shape: Shape, seed: int = 1) -> Line | None:
    """The line of the finest codes that has no more bytes than were asked for."""
    lines = (Line(end, method, shape, coarsen, seed) for coarsen in range(COARSEST + 1))
    return next((line for line in lines if _fits(known, line)), None)


def _finer(known: Known, line: Line) -> Candidate | None:
    """What a line of coarser codes starts from: the best of its shape that was evolved, or else distilled."""
    evolved = [c for c in known.candidates if c.line.method == "evolve" and c.line.shape == line.shape]
    best = max(evolved, key=known.aim.standing, default=None) if line.method == "evolve" else None
    return best or _distilled(known, line)


def _begin_or_go_on(known: Known, line: Line, start: Candidate | None = None) -> Options:
    if not known.begun(line):
        yield Slice(line, start or _distilled(known, line))
    elif known.free(line) and known.hopeful(line):
        yield Slice(line)


def _distilled(known: Known, line: Line) -> Candidate | None:
    """A distilled student of a line's shape from the other end, if there is one. Else what climbs distils its own, in
    seconds: where evolution gets depends on where it begins."""
    if line.method == "distill":
        return None
    others = [c for c in known.candidates if (c.line.end, c.line.method) == ("down", "distill") and c.finished]
    return max((c for c in others if c.line.shape == line.shape), key=known.aim.standing, default=None)


def _coarser(known: Known, good: Candidate) -> Options:
    """Lines smaller than the smallest good one: those on their way, its own with coarser codes, narrower ones."""
    smaller = [line for line in known.found if known.free(line) and line.method == "evolve" and line != good.line]
    smaller = [line for line in smaller if known.bytes_of(line) < good.payload_bytes and known.hopeful(line)]
    yield from (Slice(line) for line in sorted(smaller, key=known.projected, reverse=True))
    method, shape = _climbs_by(known.space), good.line.shape
    evolved = good.line.method == "evolve"
    steps = _COARSER if evolved else range(COARSEST + 1)
    for step in steps if _light(known, shape) else ():
        coarsen = good.line.coarsen + step if evolved else step
        line = Line("up", method, shape, coarsen)
        if coarsen <= COARSEST and not known.begun(line) and not _hopeless(known, line):
            yield Slice(line, good if method != "distill" else None)
    for shape in known.space.ladder[: known.space.ladder.index(good.line.shape)]:
        if _light(known, shape):
            yield from _begin_or_go_on(known, Line("up", method, shape))


def _light(known: Known, shape: Shape) -> bool:
    """Whether what climbs gets on with so many weights."""
    return "evolve" not in known.space.methods or known.space.evolves_well(shape)


def _hopeless(known: Known, line: Line) -> bool:
    """Whether a line that is at least as wide and as fine, pressed alike and with the same kind of memory, has missed
    by more than chance."""
    wider = known.space.kin(line.shape)
    wider = wider[wider.index(line.shape) :]
    for other, candidates in known.found.items():
        if not candidates or other.method != line.method or (known.free(other) and known.hopeful(other)):
            continue
        missed = max(map(known.aim.margin, candidates)) < -CHANCE
        if missed and other.shape in wider and other.coarsen <= line.coarsen:
            return True
    return False


def _descend(known: Known) -> Options:
    """From what surely works: distilled students, one of each kind of memory, then larger while none keeps enough and
    then smaller, and those of them that miss by little, trained on; of so many bytes, the widest that fits is trained
    on whatever it misses by."""
    good = known.good
    begun = _kinds_begun(known)
    yield from _of_each_kind(known, begun)
    if not begun:
        return
    students = [c for c in known.candidates if c.line.end == "down" and c.line.method == "distill"]
    lines = {line for line in known.found if line.end == "down"}
    polished = known.seconds_of(line for line in lines if line.method != "distill")
    others = _larger(known, students) if good is None else _smaller(known, students)
    if good is None and polished > known.seconds_of(line for line in lines if line.method == "distill"):
        yield from others
        yield from _polish(known, students)
    else:
        yield from _polish(known, students)
        yield from others


def _kinds_begun(known: Known) -> set[str]:
    """Kinds of memory of which a student that may fit is distilled, or has been."""
    down = [line for line in (*known.found, *known.running) if line.end == "down"]
    return {line.shape.kind for line in down if line in known.running or not known.found[line] or _fits(known, line)}


def _of_each_kind(known: Known, begun: set[str]) -> Options:
    """The first student of each kind of memory that has not ``begun``; of so many bytes, the widest that fits."""
    for first in known.space.firsts:
        kin = known.space.kin(first)
        for shape in reversed(kin[: kin.index(first) + 1]) if first.kind not in begun else ():
            line = _finest(known, "down", "distill", shape)
            narrowest = shape == known.space.ladder[0]  # which is the other end's
            if not narrowest and line is not None and line.coarsen <= _FINE:
                yield Slice(line)


def _polish(known: Known, students: list[Candidate]) -> Options:
    """Distilled students that miss by little, trained on their return by whichever way gained more so far, and those
    that were trained to the end, evolved."""
    begun = [line for line in known.found if line.end == "down" and line.method != "distill"]
    going = [line for line in begun if known.free(line) and known.hopeful(line)]
    young = [line for line in going if len(known.found[line]) < _YOUNG]  # one measurement may be a rare fall
    yield from (Slice(line) for line in young)
    yield from (Slice(line) for line in sorted(going, key=known.projected, reverse=True))
    tuned = [known.found[line][-1] for line in begun if line.method == "finetune" and known.ended(line)]
    for student in sorted((*students, *tuned), key=known.aim.standing, reverse=True):
        near = student.share >= known.aim.keep - NEAR
        if known.aim.margin(student) >= 0.0 or not (known.aim.fits(student) if known.aim.bytes else near):
            continue
        ways = _ways(known, student, begun)
        if student in tuned:
            ways = [way for way in ways if way == "evolve"]
        elif not near:
            ways = [way for way in ways if way == "finetune"]
        for method in ways:
            line = _polishing(known, student, method)
            if not known.begun(line):
                yield Slice(line, student)


def _polishing(known: Known, student: Candidate, method: PressMethod) -> Line:
    """The line that trains a distilled student on; evolution takes codes about as fine as the student's."""
    if method != "evolve":
        return replace(student.line, method=method)
    bits = 8 * max(1.0, student.payload_bytes - _HEADER) / known.space.weights_of(student.line.shape)
    alike = min(max(round(2 * (_EVOLVED_BITS + math.log2(_FIRST_CODES) - bits)), 0), COARSEST)
    lines = [replace(student.line, method=method, coarsen=coarsen) for coarsen in range(alike, COARSEST + 1)]
    return next((line for line in lines if _fits(known, line)), lines[0])


def _ways(known: Known, student: Candidate, begun: list[Line]) -> list[PressMethod]:
    """Ways of training a student on, the one first that gained most a second; one not yet tried before the others.
    Evolution gets nowhere in time with many weights where there are gradients."""
    ways: list[PressMethod] = []
    if "finetune" in known.space.methods and student.line.shape != LINEAR:
        ways.append("finetune")
    shape = student.line.shape
    alone = "evolve" in known.space.methods and not ways and known.space.weights_of(shape) <= _EVOLVES
    if alone or known.space.evolves_well(shape):
        ways.insert(0, "evolve")
    gains = {}
    for way in ways:
        lines = [known.found[line] for line in begun if line.method == way and len(known.found[line]) >= 2]
        gained = sum(known.aim.margin(line[-1]) - known.aim.margin(line[0]) for line in lines)
        seconds = sum(candidate.seconds for line in lines for candidate in line[1:])
        gains[way] = gained / seconds if seconds else math.inf
    return sorted(ways, key=lambda way: gains[way], reverse=True)


def _larger(known: Known, students: list[Candidate]) -> Options:
    for nearest in _best_of_each_kind(students, lambda c: -known.aim.standing(c)):
        near = known.aim.standing(nearest) > -NEAR / 4
        yield from _distil(known, nearest.line, _LARGER if near else (*_LARGER[2:], *_LARGER[:2]))


def _smaller(known: Known, students: list[Candidate]) -> Options:
    """Smaller than the smallest good one of each kind of memory; then kinds that have none may get there in less."""
    good = _best_of_each_kind([c for c in students if known.aim.good(c)], lambda c: c.payload_bytes)
    for smallest in good:
        yield from _distil(known, smallest.line, _SMALLER)
    if good:
        kinds = {c.line.shape.kind for c in good}
        yield from _larger(known, [c for c in students if c.line.shape.kind not in kinds])


def _best_of_each_kind(students: list[Candidate], key: Callable[[Candidate], float]) -> list[Candidate]:
    """The student of the least ``key`` of each kind of memory, the best first."""
    best: dict[str, Candidate] = {}
    for student in sorted(students, key=key):
        best.setdefault(student.line.shape.kind, student)
    return list(best.values())


def _distil(known: Known, line: Line, steps: Iterable[tuple[int, int]]) -> Options:
    kin = known.space.kin(line.shape)
    place = kin.index(line.shape)
    for wider, coarsen in steps:
        if 0 <= place + wider < len(kin):
            step = Line("down", "distill", kin[place + wider], line.coarsen + coarsen)
            if not known.begun(step) and not _hopeless(known, step):
                yield Slice(step)


def _within(known: Known) -> Options:
    """In a search of bytes: a twin of what is at work, if nothing else comes near it, lines too young to be judged,
    another shape where the best has had half of the time or stands still, and else the line that gets furthest."""
    lines = {line: known.found[line] for line in known.found if known.free(line) and _fits(known, line)}
    leader = max(lines, key=known.projected, default=None)
    yield from _twins(known)
    yield from (Slice(line) for line in sorted(lines, key=lambda li: len(lines[li])) if len(lines[line]) < _YOUNG)
    spent = known.seconds_of(known.found)
    still = leader is None or known.still(leader)
    part = _OPENING / 3 if still else _OPENING
    if (leader is None or still or known.seconds_of([leader]) >= spent / 2) and known.left >= part * known.in_all:
        yield from (option for option in _that_fit(known) if option.line.end == "up")
        seeds = () if leader is None else (replace(leader, seed=seed) for seed in range(1, 1 + _SEEDS))
        yield from (Slice(line, _distilled(known, line)) for line in seeds if not known.begun(line))
        yield from _that_fit(known)
    if leader is not None:
        yield Slice(leader)
    yield from (Slice(line) for line in sorted(lines, key=known.projected, reverse=True))
    yield from _that_fit(known)


def _fits(known: Known, line: Line) -> bool:
    return not known.aim.bytes or known.bytes_of(line) <= known.aim.bytes


def _that_fit(known: Known) -> Options:
    """Lines that would fit and have not begun: of every shape the finest codes; what turned out too large, coarser; and
    students that were distilled, trained on."""
    space = known.space
    linear = Line("up", "distill", space.ladder[0])
    if not known.begun(linear):
        yield Slice(linear)
    students = [c for c in known.candidates if c.line.end == "down" and c.line.method == "distill"]
    if space.remembers:
        yield from _of_each_kind(known, _kinds_begun(known))
        yield from _larger(known, students)
    ways: tuple[tuple[End, PressMethod], ...] = (("up", "evolve"), ("down", "distill"))
    for end, method in ways:
        for shape in space.ladder if method in space.methods else ():
            if method == "evolve" and space.weights_of(shape) > _EVOLVES:
                continue
            line = _finest(known, end, method, shape)
            if line is not None and not known.begun(line):
                yield Slice(line, _finer(known, line))
    for student in sorted(students, key=known.aim.margin, reverse=True):
        for method in _ways(known, student, []):
            line = _polishing(known, student, method)
            if not known.begun(line) and known.aim.fits(student):
                yield Slice(line, student)


def _again(known: Known) -> Options:
    """Another seed of what came nearest, then of what came next: of the smaller ones, where something keeps enough."""
    missed = [c for c in known.candidates if not known.aim.good(c) and (known.good is None or not known.aim.bytes)]
    missed.sort(key=known.aim.order)
    lines = [candidate.line for candidate in missed]
    # What is trained on needs a student of its own seed first.
    lines = [replace(line, method="distill") if line.method == "finetune" else line for line in lines]
    method = _climbs_by(known.space)
    end: End = "down" if known.space.remembers else "up"
    if (good := known.good) is not None:
        finest = good.line.coarsen if good.line.method == method else 0
        lines += [Line(end, method, good.line.shape, coarsen) for coarsen in range(COARSEST, finest, -2)]
    lines += [Line(end, method, shape) for shape in known.space.ladder]
    seeds = {line: _unbegun(known, line) for line in lines}
    for line in sorted(seeds, key=lambda line: max(2, seeds[line])):  # a second one of all before a third of any
        another = replace(line, seed=seeds[line])
        yield Slice(another, _distilled(known, another))


def _unbegun(known: Known, line: Line) -> int:
    """The first seed, from a line's own on, with which it has not begun."""
    return next(seed for seed in itertools.count(line.seed) if not known.begun(replace(line, seed=seed)))


def _trend(places: NDArray[Any], values: NDArray[Any]) -> tuple[float, float]:
    """The value at place 0 and the rise of the straight line through ``values``, each at its place."""
    spread = places - places.mean()
    rise = float(spread @ values / (spread @ spread)) if spread.any() else 0.0
    return float(values.mean() - rise * places.mean()), rise
