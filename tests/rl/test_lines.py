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

from policypress.rl.lines import COARSEST, Aim, Candidate, End, Known, Line, Slice, Space, propose

LADDER = ((), (4,), (8,), (16,), (16, 16), (24, 24), (32, 32), (64, 64), (256, 256))
WEIGHTS = (40, 60, 120, 240, 500, 1_000, 1_600, 5_400, 70_000)
ALL = frozenset({"distill", "evolve", "finetune"})
SPACE = Space(LADDER, WEIGHTS, 5, ALL)
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
    left = draw(st.floats(1.0, 1_000.0))
    return Known(aim, SPACE, found, frozenset(running), frozenset(dead), left, 1_000.0, draw(st.floats(0.0, 200.0)))


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
    assert line.hidden in LADDER
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
    if chosen is not None and chosen.line.method == "distill" and chosen.line.hidden:
        assert known.left >= 0.7 * known.distilling


def test_it_begins_with_a_linear_student_and_then_comes_from_both_ends() -> None:
    first = propose(Known(KEEP, SPACE, {}))
    assert first == Slice(Line("up", "distill", ()))
    linear = candidate(first.line, low=0.3, payload_bytes=40)
    with_linear = Known(KEEP, SPACE, {first.line: (linear,)})
    second = propose(with_linear)
    assert second == Slice(Line("down", "distill", (24, 24)))
    third = propose(replace(with_linear, running=frozenset({second.line})))
    assert third == Slice(Line("up", "evolve", ()), linear), "evolution starts from what was distilled"


def test_a_line_that_stands_still_is_left_for_another_seed_and_then_a_wider_one() -> None:
    linear, evolved = Line("up", "distill", ()), Line("up", "evolve", ())
    found = {linear: (candidate(linear, low=0.3),)}
    rising = {**found, evolved: tuple(candidate(evolved, i, low=0.3 + 0.15 * i) for i in range(4))}
    still = {**found, evolved: tuple(candidate(evolved, i, low=0.3) for i in range(6))}
    busy = frozenset({Line("down", "distill", (24, 24))})
    chosen = propose(Known(KEEP, SPACE, rising, busy, left=100.0, in_all=200.0))
    assert chosen == Slice(evolved)
    for seed in (2, 3):
        chosen = propose(Known(KEEP, SPACE, still, busy, left=100.0, in_all=200.0))
        assert chosen == Slice(Line("up", "evolve", (), seed=seed), found[linear][0])
        still[chosen.line] = tuple(replace(one, line=chosen.line) for one in still[evolved])
    chosen = propose(Known(KEEP, SPACE, still, busy, left=100.0, in_all=200.0))
    assert chosen == Slice(Line("up", "evolve", (4,)))


def test_a_student_that_misses_by_little_is_trained_on_and_one_that_misses_by_much_made_larger() -> None:
    linear, middle = Line("up", "distill", ()), Line("down", "distill", (24, 24))
    for low, wanted in ((0.9, "finetune"), (0.3, "distill")):
        found = {linear: (candidate(linear, low=0.1, seconds=1e6),), middle: (candidate(middle, low=low),)}
        chosen = propose(Known(KEEP, SPACE, found))
        assert chosen is not None
        assert (chosen.line.end, chosen.line.method) == ("down", wanted)
        assert chosen.start == (found[middle][0] if wanted == "finetune" else None)


@pytest.mark.parametrize(("left", "end"), [(950.0, "up"), (600.0, "down")])
def test_after_an_opening_the_end_that_comes_closer_goes_first(left: float, end: End) -> None:
    """The one end stands still far away, the other is near and has had more of the time."""
    climbing, student = Line("up", "evolve", ()), Line("down", "distill", (24, 24))
    found = {
        Line("up", "distill", ()): (candidate(Line("up", "distill", ()), low=0.1),),
        climbing: tuple(candidate(climbing, i, low=0.4, worst_share=0.4) for i in range(6)),
        student: (candidate(student, low=0.9, seconds=200.0),),
    }
    begun = {replace(climbing, seed=2), replace(student, method="finetune")}  # at work for the first time
    found |= dict.fromkeys(begun, ())
    chosen = propose(Known(KEEP, SPACE, found, frozenset(begun), left=left, in_all=1000.0))
    assert chosen is not None
    assert chosen.line.end == end


def test_where_wider_students_have_too_many_bytes_finer_codes_are_tried() -> None:
    student = Line("down", "distill", (24, 24))
    found = {
        Line("up", "distill", ()): (candidate(Line("up", "distill", ()), low=0.1),),
        student: (candidate(student, payload_bytes=800, low=0.8, seconds=1.0),),
        replace(student, method="finetune"): (),
    }
    known = Known(replace(KEEP, bytes=1_000), SPACE, found, frozenset({replace(student, method="finetune")}))
    chosen = propose(replace(known, left=600.0, in_all=1000.0))
    assert chosen == Slice(replace(student, coarsen=-2))


def test_ways_are_chosen_by_what_they_gained() -> None:
    linear, student = Line("up", "distill", ()), Line("down", "distill", (16, 16))
    other = replace(student, coarsen=1)
    polished = {
        method: Line("down", method, (16, 16), coarsen) for method, coarsen in (("finetune", 0), ("evolve", 2))
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


def run(task: Task, aim: Aim, in_all: float = 1_800.0, jobs: int = 2, methods: Any = ALL) -> Known:
    """Every slice of evolve and finetune takes 60 seconds, every student 200; what is running ends in turn."""
    space = replace(SPACE, methods=frozenset(methods))
    known = Known(aim, space, {}, left=in_all, in_all=in_all, distilling=200.0)
    free = [0.0] * jobs
    running: list[tuple[float, int, Slice]] = []
    while True:
        now = min(free)
        job = free.index(now)
        for end, which, chosen in sorted(running, key=lambda one: one[0]):
            if end <= now:
                running.remove((end, which, chosen))
                before = known.found.get(chosen.line, ())
                seconds = 200.0 if chosen.line.method == "distill" and chosen.line.hidden else 60.0
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
        end = now + (200.0 if chosen.line.method == "distill" and chosen.line.hidden else 60.0)
        running.append((end, job, chosen))
        free[job] = end


def test_half_of_the_time_is_the_leaders() -> None:
    """What rises slowly, and alone, gets there: nothing else that is begun comes near."""

    def limit(line: Line) -> float:
        return 1.1 if line == Line("up", "evolve", ()) else 0.8 if line.method == "evolve" else 0.5

    aim = replace(KEEP, bytes=128)
    known = run(Task(limit, half=500.0), aim)
    assert finished_known(known) is not None


def test_of_so_many_bytes_the_widest_that_fits_is_trained_on_however_far_it_is() -> None:
    def limit(line: Line) -> float:
        return 1.0 if line.method == "finetune" and line.hidden == (16,) else 0.6 if line.method == "evolve" else 0.2

    known = run(Task(limit, half=300.0), replace(KEEP, bytes=160))
    good = finished_known(known)
    assert good is not None
    assert (good.line.method, good.line.hidden) == ("finetune", (16,))
    assert good.payload_bytes <= 160


def test_a_student_that_turns_out_too_large_is_pressed_harder() -> None:
    student = Line("down", "distill", (8,))
    linear = Line("up", "distill", ())
    found = {linear: (candidate(linear, low=0.1, seconds=1e6),), student: (candidate(student, 0, 148, 0.3),)}
    chosen = propose(Known(replace(KEEP, bytes=128), SPACE, found))
    assert chosen is not None
    assert (chosen.line.end, chosen.line.method, chosen.line.hidden) == ("down", "distill", (8,))
    assert chosen.line.coarsen > student.coarsen


def test_a_small_student_that_was_trained_to_the_end_is_evolved() -> None:
    student = Line("down", "distill", (16,))
    tuned = replace(student, method="finetune")
    found = {
        Line("up", "distill", ()): (candidate(Line("up", "distill", ()), low=0.1),),
        student: (candidate(student, low=0.3, seconds=200.0),),
        tuned: (candidate(tuned, low=0.5, finished=False), candidate(tuned, 1, 127, low=0.8, finished=True)),
        Line("up", "evolve", ()): (),
    }
    busy = frozenset({Line("up", "evolve", ())})
    chosen = propose(Known(replace(KEEP, bytes=128), SPACE, found, busy, left=600.0, in_all=1_000.0))
    assert chosen is not None
    assert (chosen.line.end, chosen.line.method, chosen.line.hidden) == ("down", "evolve", (16,))
    assert chosen.start == found[tuned][-1]
    assert Known(KEEP, SPACE, found).bytes_of(chosen.line) <= 128, "its codes are as coarse as that takes"


def finished_known(known: Known) -> Candidate | None:
    return replace(known, running=frozenset()).good


def evolves(line: Line, most: float) -> float:
    """A linear line gets to ``most``, wider ones no further, coarse codes cost from 2 bits on."""
    if line.method == "evolve":
        return most - 0.02 * max(0, line.coarsen - 5)
    return min(0.98, 0.5 + 0.08 * LADDER.index(line.hidden) - 0.01 * max(0, line.coarsen))


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_where_linear_policies_arrive_the_search_ends_among_them(jobs: int) -> None:
    known = run(Task(lambda line: evolves(line, 1.05)), KEEP, jobs=jobs)
    good = finished_known(known)
    assert good is not None
    assert good.line.hidden == ()
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
            return min(1.0, 0.5 + 0.1 * LADDER.index(line.hidden))
        return 0.6 if line.method == "evolve" else evolves(line, 0.6)

    good = finished_known(run(Task(limit), KEEP, in_all=3_600.0))
    assert good is not None
    assert good.line.method == "finetune"
    distilled = finished_known(run(Task(limit), KEEP, in_all=3_600.0, methods={"distill"}))
    assert distilled is not None
    assert good.payload_bytes < distilled.payload_bytes


def test_without_evolution_distilled_students_climb_from_nothing() -> None:
    known = run(Task(lambda line: 0.96 if line.hidden else 0.9), KEEP, methods={"distill"})
    good = finished_known(known)
    assert good is not None
    assert good.line.hidden == (4,)


def test_a_search_of_bytes_gives_most_time_to_what_gets_furthest() -> None:
    def limit(line: Line) -> float:
        return {(): 0.7, (4,): 0.9, (8,): 0.5}.get(line.hidden, 0.2)

    known = run(Task(limit), Aim(bytes=80))
    best = replace(known, running=frozenset()).best
    assert best is not None
    assert best.payload_bytes <= 80
    assert best.line.hidden == (4,)
    spent = Counter({line: known.seconds_of([line]) for line in known.found})
    assert spent.most_common(1)[0][0].hidden == (4,)
    assert all(known.bytes_of(line) <= 80 for line in known.found)


def test_aims_say_what_is_good() -> None:
    line = Line("up", "evolve", ())
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
    fine = Line("up", "evolve", ())
    found = {
        Line("up", "distill", ()): (candidate(Line("up", "distill", ()), 0, 22, 0.95, finished=True),),
        fine: (candidate(fine, 0, 28, 1.08),),
    }
    known = Known(aim, SPACE, found, left=1000.0, in_all=2000.0)
    chosen = propose(known)
    assert chosen is not None
    assert (chosen.line.method, chosen.line.hidden) == ("evolve", ())
    assert chosen.line.coarsen > 0
    assert known.bytes_of(chosen.line) <= 24
    assert chosen.start is found[fine][0]
