"""When weights are pruned: exact ends, no step back, and the paper's cubic formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policypress.compression.schedule import PruningSchedule
from policypress.config import CompressionConfig, Schedule

KINDS: tuple[Schedule, ...] = ("cubic", "linear", "one-shot", "constant")


@st.composite
def schedules(draw: st.DrawFn) -> PruningSchedule:
    start = draw(st.integers(0, 10_000))
    length = draw(st.sampled_from([0, 1, 2]) | st.integers(0, 10_000))
    return PruningSchedule(draw(st.sampled_from(KINDS)), start, start + length, draw(st.integers(1, 700)))


@given(schedules(), st.lists(st.integers(0, 30_000), min_size=2, max_size=50))
def test_fraction_rises_from_exactly_0_to_exactly_1(schedule: PruningSchedule, steps: list[int]) -> None:
    near = [schedule.start - 1, schedule.start, schedule.start + 1, schedule.end - 1, schedule.end, schedule.end + 1]
    fractions = [schedule.due(step) for step in sorted(steps + near)]
    assert fractions == sorted(fractions)
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
    assert schedule.due(schedule.start - 1) == 0.0
    assert schedule.due(schedule.end) == schedule.due(schedule.end + 10**9) == 1.0
    iterations = [schedule.iteration(step) for step in sorted(steps + near)]
    assert iterations == sorted(iterations)
    assert schedule.iteration(schedule.start - 1) == 0
    assert schedule.iteration(schedule.end) == schedule.iterations


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_window_prunes_everything_at_its_step(kind: Schedule) -> None:
    schedule = PruningSchedule(kind, 50, 50, 600)
    assert [schedule.due(step) for step in (0, 49, 50, 51)] == [0.0, 0.0, 1.0, 1.0]
    assert [schedule.iteration(step) for step in (0, 49, 50, 51)] == [0, 0, 600, 600]


def test_a_window_from_step_0_to_0_prunes_at_once() -> None:
    assert PruningSchedule("cubic", 0, 0, 1).due(0) == 1.0


def test_cubic_is_the_papers_formula_at_each_of_its_600_iterations() -> None:
    """s(i) = S - S (1 - i / 600)^3, from 20 % to 80 % of a million steps: one iteration every 1000 steps."""
    schedule = PruningSchedule.from_config(CompressionConfig(sparsity=0.9, schedule="cubic"), 1_000_000)
    assert (schedule.start, schedule.end, schedule.iterations) == (200_000, 800_000, 600)
    for i in range(601):
        step = 200_000 + 1000 * i
        assert schedule.iteration(step) == i
        assert i == 0 or schedule.iteration(step - 1) == i - 1
        assert 0.9 * schedule.due(step) == pytest.approx(0.9 - 0.9 * (1 - i / 600) ** 3, abs=1e-12)


def test_iterations_come_in_equal_strides_and_the_fraction_rests_between_them() -> None:
    schedule = PruningSchedule("linear", 100, 200, 4)
    seen = {step: schedule.due(step) for step in range(90, 220)}
    assert sorted(set(seen.values())) == [0.0, 0.25, 0.5, 0.75, 1.0]
    firsts = [min(step for step, due in seen.items() if due == value) for value in (0.25, 0.5, 0.75, 1.0)]
    assert firsts == [125, 150, 175, 200]


def test_more_iterations_than_steps_skip_some_and_still_end() -> None:
    schedule = PruningSchedule("cubic", 0, 7, 600)
    assert [schedule.iteration(step) for step in (0, 1, 6, 7)] == [0, 85, 514, 600]


def test_one_shot_prunes_at_the_end_constant_at_the_start() -> None:
    one_shot, constant = PruningSchedule("one-shot", 10, 20, 5), PruningSchedule("constant", 10, 20, 5)
    assert [one_shot.due(step) for step in (9, 10, 19, 20)] == [0.0, 0.0, 0.0, 1.0]
    assert [constant.due(step) for step in (9, 10, 19, 20)] == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("kind", "halfway"), [("cubic", 0.875), ("linear", 0.5), ("one-shot", 0.0), ("constant", 1.0)])
def test_halfway(kind: Schedule, halfway: float) -> None:
    assert PruningSchedule(kind, 0, 100, 10).due(50) == halfway


@given(st.integers(1, 10**8), st.floats(0, 1), st.floats(0, 1))
def test_from_config_rounds_fractions_to_steps(steps: int, a: float, b: float) -> None:
    start, end = sorted((a, b))
    config = CompressionConfig(sparsity=0.5, prune_start=start, prune_end=end, prune_iterations=7, schedule="linear")
    schedule = PruningSchedule.from_config(config, steps)
    assert abs(schedule.start - start * steps) <= 0.5
    assert abs(schedule.end - end * steps) <= 0.5
    assert (schedule.kind, schedule.iterations) == ("linear", 7)
