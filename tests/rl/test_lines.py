"""What a search tries next: properties of the decision, and whole searches of invented tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policypress.rl.lines import (
    COARSEST,
    LINEAR,
    Aim,
    Candidate,
    End,
    Known,
    Line,
    Shape,
    Slice,
    Space,
    _distilled,
    propose,
)
from quick import crossed

LADDER = tuple(map(Shape, ((), (4,), (8,), (16,), (16, 16), (24, 24), (32, 32), (64, 64), (256, 256))))
WEIGHTS = (40, 60, 120, 240, 500, 1_000, 1_600, 5_400, 70_000)
ALL = frozenset({"distill", "evolve", "finetune"})
SPACE = Space(LADDER, WEIGHTS, (Shape((24, 24)),), ALL)
DISTILLED = replace(SPACE, methods=frozenset({"distill"}))
MEMORIES = {
    Shape(): 50,
    Shape((), "history:2"): 90,
    Shape((8,)): 130,
    Shape((), "gru:4"): 150,
    Shape((8,), "history:4"): 250,
    Shape((16,)): 260,
    Shape((), "gru:8"): 400,
    Shape((16,), "history:8"): 700,
    Shape((24, 24)): 1_100,
    Shape((24, 24), "history:8"): 1_200,
    Shape((16,), "gru:16"): 1_300,
    Shape((32, 32), "history:16"): 2_700,
    Shape((16,), "gru:32"): 4_300,
}
FIRSTS = (Shape((16,), "gru:16"), Shape((16,), "history:8"), Shape((24, 24)))
REMEMBERING = Space(tuple(MEMORIES), tuple(MEMORIES.values()), FIRSTS, frozenset({"distill"}))
KEEP = Aim(keep=0.95, keep_worst=0.9)


def candidate(line: Line, number: int = 0, payload_bytes: int = 100, low: float = 0.5, **changes: Any) -> Candidate:
    figures = {
        "ratio": 10.0, "nonzeros": 50, "share": low + 0.01, "high": low + 0.02, "worst_tenth": 5.0, "worst_share": 1.0,
        "ended_early": 0.0, "episodes": 100, "confirmed": True, "finished": line.method == "distill", "steps": 0,
        "seconds": 10.0, **changes,
    }  # fmt: skip
    return Candidate(line, number, payload_bytes, low=low, **figures)


lines = st.builds(
    Line,
    st.sampled_from(["up", "down"]),
    st.sampled_from(["distill", "evolve", "finetune"]),
    st.sampled_from(LADDER),
    st.integers(-4, COARSEST),
    st.integers(1, 3),
)


@st.composite
def histories(draw: st.DrawFn, line: Line) -> tuple[Candidate, ...]:
    lows = draw(st.lists(st.floats(-0.5, 1.2), max_size=6))
    return tuple(
        candidate(
            line, number, draw(st.integers(15, 3_000)), low, confirmed=draw(st.booleans()),
            worst_share=draw(st.floats(0.0, 1.2)), seconds=draw(st.floats(0.1, 100.0)),
        )
        for number, low in enumerate(lows)
    )  # fmt: skip


@st.composite
def knowns(draw: st.DrawFn, aim: Aim) -> Known:
    found = {line: draw(histories(line)) for line in draw(st.lists(lines, max_size=8, unique=True))}
    pool = sorted(found)
    running = draw(st.sets(st.sampled_from(pool), max_size=2)) if pool else set()
    dead = draw(st.sets(st.sampled_from(pool), max_size=2)) if pool else set()
    left, distilling = draw(st.floats(1.0, 1_000.0)), {"none": draw(st.floats(0.0, 200.0))}
    return Known(aim, SPACE, found, frozenset(running), frozenset(dead), left, 1_000.0, distilling)


@st.composite
def remembering(draw: st.DrawFn, aim: Aim) -> Known:
    """A search of an agent that remembers: students are finished as soon as they are measured."""
    ends: st.SearchStrategy[End] = st.sampled_from(["up", "down"])
    begun = st.builds(Line, ends, st.just("distill"), st.sampled_from(REMEMBERING.ladder), st.integers(-4, 4))
    found = {line: draw(histories(line))[:1] for line in draw(st.lists(begun, max_size=8, unique=True))}
    running = draw(st.sets(st.sampled_from(sorted(found)), max_size=2)) if found else set()
    return Known(aim, REMEMBERING, found, frozenset(running), left=draw(st.floats(1.0, 1_000.0)), in_all=1_000.0)


AIMS = st.sampled_from([KEEP, Aim(bytes=128), Aim(0.95, 0.9, 128)])


@given(AIMS.flatmap(knowns))
def test_something_is_always_tried_and_nothing_twice(known: Known) -> None:
    chosen = propose(known)
    if chosen is None:
        assert known.good is not None
        return
    assert chosen == propose(known)
    line = chosen.line
    assert line not in known.running
    assert line not in known.dead
    if known.found.get(line):
        assert not known.found[line][-1].finished
        assert chosen.start is None
    assert line.method in ALL
    assert line.shape in LADDER
    if not known.begun(line):
        assert line.coarsen <= COARSEST


@given(knowns(KEEP))
def test_nothing_larger_than_the_smallest_good_one_is_tried(known: Known) -> None:
    chosen = propose(known)
    good = [c for c in known.candidates if KEEP.good(c)]
    if chosen is not None and good:
        assert known.bytes_of(chosen.line) < min(c.payload_bytes for c in good)


@given(knowns(KEEP))
def test_a_distilled_student_is_begun_only_if_it_can_end(known: Known) -> None:
    chosen = propose(known)
    if chosen is not None and chosen.line.method == "distill" and chosen.line.shape != LINEAR:
        assert known.left >= 0.7 * known.distilling["none"]


@given(AIMS.flatmap(remembering))
def test_students_that_may_remember_are_distilled(known: Known) -> None:
    chosen = propose(known)
    if chosen is None:
        assert known.good is not None
        return
    assert (chosen.line.method, chosen.start) == ("distill", None)
    assert chosen.line.shape in REMEMBERING.ladder
    assert chosen.line not in known.running
    assert not known.found.get(chosen.line)


@given(AIMS.flatmap(remembering))
def test_a_memory_that_missed_says_nothing_of_another_kind(known: Known) -> None:
    """Every kind that can still be smaller than the best is begun before one of them is gone on with."""
    chosen = propose(known)
    begun = {line.shape.kind for line in known.found if line.end == "down"}
    if chosen is None or chosen.line.end == "up" or chosen.line in known.found or known.aim.bytes:
        return
    left = [
        shape
        for shape in REMEMBERING.ladder[1:]
        for first in REMEMBERING.firsts
        if first.kind == shape.kind not in begun
        and REMEMBERING.weights_of(shape) <= REMEMBERING.weights_of(first)
        and (known.good is None or known.bytes_of(Line("down", "distill", shape)) < known.good.payload_bytes)
    ]
    if left:
        assert chosen.line.shape.kind not in begun


def test_it_begins_with_a_linear_student_and_then_comes_from_both_ends() -> None:
    first = propose(Known(KEEP, SPACE, {}))
    assert first == Slice(Line("up", "distill", LINEAR))
    linear = candidate(first.line, low=0.3, payload_bytes=40)
    with_linear = Known(KEEP, SPACE, {first.line: (linear,)})
    second = propose(with_linear)
    assert second == Slice(Line("down", "distill", Shape((24, 24))))
    third = propose(replace(with_linear, running=frozenset({second.line})))
    assert third == Slice(Line("up", "evolve", LINEAR)), "from a student of its own"


def test_a_line_that_climbs_starts_from_what_was_distilled_at_the_other_end() -> None:
    first, small = Line("up", "distill", LINEAR), Line("down", "distill", Shape((4,)))
    found = {line: (candidate(line, low=0.3),) for line in (first, small)}
    for shape, start in ((LINEAR, None), (small.shape, found[small][0])):
        assert _distilled(Known(KEEP, SPACE, found), Line("up", "evolve", shape)) == start


def test_a_line_that_stands_still_is_left_for_another_seed_and_then_a_wider_one() -> None:
    linear, evolved = Line("up", "distill", LINEAR), Line("up", "evolve", LINEAR)
    found = {linear: (candidate(linear, low=0.3),)}
    rising = {**found, evolved: tuple(candidate(evolved, i, low=0.3 + 0.15 * i) for i in range(4))}
    still = {**found, evolved: tuple(candidate(evolved, i, low=0.3) for i in range(6))}
    busy = frozenset({Line("down", "distill", Shape((24, 24)))})
    chosen = propose(Known(KEEP, SPACE, rising, busy, left=100.0, in_all=200.0))
    assert chosen == Slice(evolved)
    for seed in (2, 3):
        chosen = propose(Known(KEEP, SPACE, still, busy, left=100.0, in_all=200.0))
        assert chosen == Slice(Line("up", "evolve", LINEAR, seed=seed))
        still[chosen.line] = tuple(replace(one, line=chosen.line) for one in still[evolved])
    chosen = propose(Known(KEEP, SPACE, still, busy, left=100.0, in_all=200.0))
    assert chosen == Slice(Line("up", "evolve", Shape((4,))))


def test_a_student_that_misses_by_little_is_trained_on_and_one_that_misses_by_much_made_larger() -> None:
    linear, middle = Line("up", "distill", LINEAR), Line("down", "distill", Shape((24, 24)))
    for low, wanted in ((0.9, "finetune"), (0.3, "distill")):
        found = {linear: (candidate(linear, low=0.1, seconds=1e6),), middle: (candidate(middle, low=low),)}
        chosen = propose(Known(KEEP, SPACE, found))
        assert chosen is not None
        assert (chosen.line.end, chosen.line.method) == ("down", wanted)
        assert chosen.start == (found[middle][0] if wanted == "finetune" else None)


@pytest.mark.parametrize(("left", "end"), [(950.0, "up"), (600.0, "down")])
def test_after_an_opening_the_end_that_comes_closer_goes_first(left: float, end: End) -> None:
    """The one end stands still far away, the other is near and has had more of the time."""
    climbing, student = Line("up", "evolve", LINEAR), Line("down", "distill", Shape((24, 24)))
    found = {
        Line("up", "distill", LINEAR): (candidate(Line("up", "distill", LINEAR), low=0.1),),
        climbing: tuple(candidate(climbing, i, low=0.4, worst_share=0.4) for i in range(6)),
        student: (candidate(student, low=0.9, seconds=200.0),),
    }
    begun = {replace(climbing, seed=2), replace(student, method="finetune")}  # at work for the first time
    found |= dict.fromkeys(begun, ())
    chosen = propose(Known(KEEP, SPACE, found, frozenset(begun), left=left, in_all=1000.0))
    assert chosen is not None
    assert chosen.line.end == end


def test_where_nothing_else_is_left_a_second_seed_of_every_line_comes_before_a_third_of_any() -> None:
    found: dict[Line, tuple[Candidate, ...]] = {}
    begun: list[Line] = []
    for _ in range(48):
        chosen = propose(Known(KEEP, DISTILLED, found))
        assert chosen is not None
        begun.append(chosen.line)
        found[chosen.line] = (candidate(chosen.line, low=0.3 + 0.01 * LADDER.index(chosen.line.shape)),)
    seeds = [line.seed for line in begun]
    assert seeds == sorted(seeds)
    assert {line.shape for line in begun if line.seed == 2} == set(LADDER)
    assert begun[seeds.index(2)].shape == LADDER[-1], "the nearest first"


def test_where_wider_students_have_too_many_bytes_finer_codes_are_tried() -> None:
    student = Line("down", "distill", Shape((24, 24)))
    found = {
        Line("up", "distill", LINEAR): (candidate(Line("up", "distill", LINEAR), low=0.1),),
        student: (candidate(student, payload_bytes=800, low=0.8, seconds=1.0),),
        replace(student, method="finetune"): (),
    }
    known = Known(replace(KEEP, bytes=1_000), SPACE, found, frozenset({replace(student, method="finetune")}))
    chosen = propose(replace(known, left=600.0, in_all=1000.0))
    assert chosen == Slice(replace(student, coarsen=-2))


def test_ways_are_chosen_by_what_they_gained() -> None:
    linear, student = Line("up", "distill", LINEAR), Line("down", "distill", Shape((16, 16)))
    other = replace(student, coarsen=1)
    polished = {
        method: Line("down", method, Shape((16, 16)), coarsen) for method, coarsen in (("finetune", 0), ("evolve", 2))
    }  # bits of 323 bytes for 500 weights
    for best in polished:
        found = {
            linear: (candidate(linear, low=0.1, seconds=1e6),),
            student: (candidate(student, low=0.9, seconds=1e3, payload_bytes=323),),
            other: (candidate(other, low=0.89, payload_bytes=288),),
        }
        for method, line in polished.items():
            gain = 0.001 if method == best else 0.0
            found[line] = tuple(candidate(line, i, low=0.7 + gain * i) for i in range(6))
        chosen = propose(Known(KEEP, SPACE, found, left=1.0, in_all=1e4))
        assert chosen is not None
        assert chosen.line.method == best


# Whole searches of invented tasks


@dataclass
class Task:
    """A task as a search meets it: what a line returns after so many seconds of its own."""

    limit: Callable[[Line], float]
    """Share that a line gets to in the end."""
    half: float = 60.0
    """Seconds after which half of the way is made."""

    def press(self, known: Known, chosen: Slice, number: int, seconds: float, spent: float) -> Candidate:
        line = chosen.line
        size = round(known._estimate(line))
        share = self.limit(line)
        if line.method == "distill":
            return candidate(line, number, size, share, seconds=seconds)
        share *= 1.0 - 0.5 ** (1.0 + spent / self.half)
        return candidate(line, number, size, share, seconds=seconds)


def run(task: Task, aim: Aim, in_all: float = 1_800.0, jobs: int = 2, space: Space = SPACE) -> Known:
    """Every slice of evolve and finetune takes 60 seconds, every student 200; what is running ends in turn."""
    distilling = dict.fromkeys(("gru", "history", "none"), 200.0)
    known = Known(aim, space, {}, left=in_all, in_all=in_all, distilling=distilling)
    free = [0.0] * jobs
    running: list[tuple[float, int, Slice]] = []
    while True:
        now = min(free)
        job = free.index(now)
        for end, which, chosen in sorted(running, key=lambda one: one[0]):
            if end <= now:
                running.remove((end, which, chosen))
                before = known.found.get(chosen.line, ())
                seconds = 200.0 if chosen.line.method == "distill" and chosen.line.shape != LINEAR else 60.0
                spent = sum(c.seconds for c in before) + seconds
                came = task.press(known, chosen, len(before), seconds, spent)
                known = replace(known, found={**known.found, chosen.line: (*before, came)})
        if now >= in_all:
            return known
        busy = frozenset(chosen.line for _, _, chosen in running)
        known = replace(known, running=busy, left=in_all - now)
        chosen = propose(known)
        if chosen is None:
            free[job] = in_all
            continue
        assert chosen.line not in busy
        end = now + (200.0 if chosen.line.method == "distill" and chosen.line.shape != LINEAR else 60.0)
        running.append((end, job, chosen))
        free[job] = end


def test_half_of_the_time_is_the_leaders() -> None:
    """What rises slowly, and alone, gets there: nothing else that is begun comes near."""

    def limit(line: Line) -> float:
        return 1.1 if line == Line("up", "evolve", LINEAR) else 0.8 if line.method == "evolve" else 0.5

    aim = replace(KEEP, bytes=128)
    known = run(Task(limit, half=500.0), aim)
    assert finished_known(known) is not None


def test_of_so_many_bytes_the_widest_that_fits_is_trained_on_however_far_it_is() -> None:
    def limit(line: Line) -> float:
        return (
            1.0 if line.method == "finetune" and line.shape.hidden == (16,) else 0.6 if line.method == "evolve" else 0.2
        )

    known = run(Task(limit, half=300.0), replace(KEEP, bytes=180))
    good = finished_known(known)
    assert good is not None
    assert (good.line.method, good.line.shape.hidden) == ("finetune", (16,))
    assert good.payload_bytes <= 180


def test_a_student_that_turns_out_too_large_is_pressed_harder() -> None:
    student = Line("down", "distill", Shape((8,)))
    linear = Line("up", "distill", LINEAR)
    found = {linear: (candidate(linear, low=0.1, seconds=1e6),), student: (candidate(student, 0, 148, 0.3),)}
    chosen = propose(Known(replace(KEEP, bytes=128), SPACE, found))
    assert chosen is not None
    assert (chosen.line.end, chosen.line.method, chosen.line.shape.hidden) == ("down", "distill", (8,))
    assert chosen.line.coarsen > student.coarsen


def test_a_small_student_that_was_trained_to_the_end_is_evolved() -> None:
    student = Line("down", "distill", Shape((16,)))
    tuned = replace(student, method="finetune")
    found = {
        Line("up", "distill", LINEAR): (candidate(Line("up", "distill", LINEAR), low=0.1),),
        student: (candidate(student, low=0.3, seconds=200.0),),
        tuned: (candidate(tuned, low=0.5, finished=False), candidate(tuned, 1, 127, low=0.8, finished=True)),
        Line("up", "evolve", LINEAR): (),
    }
    busy = frozenset({Line("up", "evolve", LINEAR)})
    chosen = propose(Known(replace(KEEP, bytes=128), SPACE, found, busy, left=600.0, in_all=1_000.0))
    assert chosen is not None
    assert (chosen.line.end, chosen.line.method, chosen.line.shape.hidden) == ("down", "evolve", (16,))
    assert chosen.start == found[tuned][-1]
    assert Known(KEEP, SPACE, found).bytes_of(chosen.line) <= 128, "its codes are as coarse as that takes"


def finished_known(known: Known) -> Candidate | None:
    return replace(known, running=frozenset()).good


def evolves(line: Line, most: float) -> float:
    """A linear line gets to ``most``, wider ones no further, coarse codes cost from 2 bits on."""
    if line.method == "evolve":
        return most - 0.02 * max(0, line.coarsen - 5)
    return min(0.98, 0.5 + 0.08 * LADDER.index(line.shape) - 0.01 * max(0, line.coarsen))


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_where_linear_policies_arrive_the_search_ends_among_them(jobs: int) -> None:
    known = run(Task(lambda line: evolves(line, 1.05)), KEEP, jobs=jobs)
    good = finished_known(known)
    assert good is not None
    assert good.line.shape.hidden == ()
    assert good.line.coarsen >= 4
    assert good.payload_bytes < 40


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_where_evolution_gets_nowhere_a_distilled_student_is_found(jobs: int) -> None:
    known = run(Task(lambda line: evolves(line, 0.4)), KEEP, jobs=jobs)
    good = finished_known(known)
    assert good is not None
    assert good.line.method in ("distill", "finetune")


def test_where_training_on_arrives_it_is_smaller_than_what_is_distilled() -> None:
    def limit(line: Line) -> float:
        if line.method == "finetune":
            return min(1.0, 0.5 + 0.1 * LADDER.index(line.shape))
        return 0.6 if line.method == "evolve" else evolves(line, 0.6)

    good = finished_known(run(Task(limit), KEEP, in_all=3_600.0))
    assert good is not None
    assert good.line.method == "finetune"
    distilled = finished_known(run(Task(limit), KEEP, in_all=3_600.0, space=DISTILLED))
    assert distilled is not None
    assert good.payload_bytes < distilled.payload_bytes


def test_without_evolution_distilled_students_climb_from_nothing() -> None:
    known = run(Task(lambda line: 0.96 if line.shape.hidden else 0.9), KEEP, space=DISTILLED)
    good = finished_known(known)
    assert good is not None
    assert good.line.shape.hidden == (4,)


def remembers_best(kind: str, others: float = 0.8) -> Callable[[Line], float]:
    """What a student of an agent that remembers keeps: ever more with more of the one ``kind`` of memory."""

    def limit(line: Line) -> float:
        most = 1.0 - 0.18 * 0.5 ** REMEMBERING.kin(line.shape).index(line.shape)
        return (most if line.shape.kind == kind else others) - 0.01 * max(0, line.coarsen)

    return limit


@pytest.mark.parametrize(("kind", "jobs"), crossed(["history", "gru", "none"], [1, 2, 8]))
def test_every_kind_of_memory_is_tried_and_the_better_one_gone_on_with(kind: str, jobs: int) -> None:
    known = run(Task(remembers_best(kind)), KEEP, 3_600.0, jobs, REMEMBERING)
    good = finished_known(known)
    assert good is not None
    assert good.line.shape == REMEMBERING.kin(Shape(memory=kind))[2], "the smallest that keeps enough"
    tried = [line.shape.kind for line in known.found if line.end == "down"]
    assert set(tried[: max(3, jobs)]) == {"history", "gru", "none"}
    if jobs == 1:
        assert tried[3] == kind


@pytest.mark.parametrize("jobs", [1, 2])
def test_of_two_kinds_of_memory_that_keep_enough_the_smaller_is_found(jobs: int) -> None:
    """The first history misses by little, and what keeps enough is smaller than any such GRU."""

    def limit(line: Line) -> float:
        enough = {"gru": 1_300, "history": 1_200, "none": 10_000}[line.shape.kind]
        return 1.0 if MEMORIES[line.shape] >= enough and line.coarsen <= 0 else 0.94

    good = finished_known(run(Task(limit), KEEP, 3_600.0, jobs, REMEMBERING))
    assert good is not None
    assert good.line.shape == Shape((24, 24), "history:8")


def test_a_memory_that_takes_too_long_is_left_for_another() -> None:
    linear = Line("up", "distill", LINEAR)
    known = Known(KEEP, REMEMBERING, {linear: (candidate(linear, low=0.3),)}, left=50.0, in_all=60.0)
    for seconds, kind in ((60.0, "gru"), (90.0, "history")):
        chosen = propose(replace(known, distilling={"gru": seconds, "history": 20.0}))
        assert chosen is not None
        assert chosen.line.shape.kind == kind


@pytest.mark.parametrize("kind", ["history", "gru"])
def test_so_many_bytes_are_given_to_the_better_memory(kind: str) -> None:
    known = run(Task(remembers_best(kind, others=0.5)), Aim(bytes=420), 3_600.0, space=REMEMBERING)
    best = replace(known, running=frozenset()).best
    assert best is not None
    assert best.line.shape.kind == kind
    assert best.payload_bytes <= 420
    assert {line.shape.kind for line in list(known.found)[:4]} == {"history", "gru", "none"}


def test_a_search_of_bytes_gives_most_time_to_what_gets_furthest() -> None:
    def limit(line: Line) -> float:
        return {(): 0.7, (4,): 0.9, (8,): 0.5}.get(line.shape.hidden, 0.2)

    known = run(Task(limit), Aim(bytes=80))
    best = replace(known, running=frozenset()).best
    assert best is not None
    assert best.payload_bytes <= 80
    assert best.line.shape.hidden == (4,)
    spent = Counter({line: known.seconds_of([line]) for line in known.found})
    assert spent.most_common(1)[0][0].shape.hidden == (4,)
    assert all(known.bytes_of(line) <= 80 for line in known.found)


def test_aims_say_what_is_good() -> None:
    line = Line("up", "evolve", LINEAR)
    held = candidate(line, low=0.96, payload_bytes=50)
    assert KEEP.good(held)
    assert not KEEP.good(replace(held, low=0.94))
    assert not KEEP.good(replace(held, worst_share=0.89)), "the worst tenth counts"
    assert not KEEP.good(replace(held, confirmed=False)), "few episodes choose nothing"
    assert not Aim(0.95, 0.9, 49).good(held)
    assert Aim(0.95, 0.9, 50).good(held)
    assert Aim(bytes=50).good(replace(held, low=-3.0))
    smaller, larger = replace(held, payload_bytes=40), replace(held, low=1.2)
    assert sorted([larger, held, smaller], key=KEEP.order)[0] == smaller
    assert sorted([larger, held, smaller], key=Aim(bytes=64).order)[0] == larger
    assert math.isfinite(KEEP.margin(held))


def test_what_keeps_enough_in_too_many_bytes_goes_on_coarser() -> None:
    aim = Aim(1.0, 0.9, 24)
    fine = Line("up", "evolve", LINEAR)
    found = {
        Line("up", "distill", LINEAR): (candidate(Line("up", "distill", LINEAR), 0, 22, 0.95, finished=True),),
        fine: (candidate(fine, 0, 28, 1.08),),
    }
    known = Known(aim, SPACE, found, left=1000.0, in_all=2000.0)
    chosen = propose(known)
    assert chosen is not None
    assert (chosen.line.method, chosen.line.shape.hidden) == ("evolve", ())
    assert chosen.line.coarsen > 0
    assert known.bytes_of(chosen.line) <= 24
    assert chosen.start is found[fine][0]


def test_a_trained_student_that_is_far_ahead_has_a_twin() -> None:
    leader, linear = Line("down", "evolve", Shape((4,))), Line("up", "evolve", LINEAR)
    climbs = tuple(candidate(leader, number, 100, low=0.6 + 0.1 * number) for number in range(3))
    for aim in (Aim(bytes=128), replace(KEEP, bytes=128)):
        found = {leader: climbs, linear: tuple(candidate(linear, number, 80, low=0.5) for number in range(8))}
        known = Known(aim, SPACE, found, running=frozenset([leader]), left=100.0, in_all=1000.0)
        chosen = propose(known)
        assert chosen == Slice(replace(leader, seed=2), climbs[-1]), "two climb faster than one beside a still line"
        twin = replace(leader, seed=2)
        found = {**found, twin: (candidate(twin, 0, 100, low=0.7),)}
        assert propose(replace(known, found=found)) == Slice(twin), "it goes on while the first is at work"
        level = {leader: climbs, linear: tuple(candidate(linear, number, 80, low=1.2) for number in range(8))}
        level[linear] = tuple(replace(one, confirmed=False) for one in level[linear])
        chosen = propose(replace(known, found=level))
        assert chosen is not None
        assert chosen.line != twin, "another gets as far"
