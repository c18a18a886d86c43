"""Statistics over seeds and tasks: the numbers of rliable, and what must hold of any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policypress.errors import ConfigError
from policypress.measure.scores import (
    iqm,
    mean,
    normalized,
    performance_profile,
    probability_of_improvement,
    retention,
)

# By task, ten runs each: drawn once from normal distributions and rounded.
X = [
    [0.8, 0.66, 0.65, 0.83, 0.4, 0.25, 0.85, 0.79, 0.51, 0.79],
    [0.89, 0.5, 0.61, 0.52, 0.66, 0.73, 0.74, 0.83, 0.56, 1.07],
    [0.72, 0.82, 0.95, 0.79, 0.23, 0.42, 0.04, 0.34, 1.12, 0.62],
    [0.53, 1.2, 0.91, 1.01, 0.41, 0.88, 0.64, 0.66, 0.56, 0.77],
]
Y = [
    [0.8, 1.11, 0.51, 0.72, 0.68, 0.76, 0.53, 0.3, 0.56, 0.6],
    [0.72, 0.24, 1.3, 0.87, 0.9, 0.56, 0.64, 0.46, 0.67, 0.59],
    [0.33, 0.96, 0.93, 0.64, 1.13, 0.74, 0.97, 0.89, 1.08, 0.62],
    [0.72, 0.74, 0.34, 0.9, 0.5, 0.34, 1.04, 0.1, 0.91, 1.16],
]
THRESHOLDS = [0.0, 0.4, 0.6, 0.8, 1.0, 1.4]
# What rliable 1.2.0 (arch 7.2.0) says of the transposes: get_interval_estimates of aggregate_iqm and aggregate_mean
# with 20,000 resamples and RandomState(1), of probability_of_improvement with 5,000; create_performance_profile, 5,000.
IQM_X, IQM_Y = (0.6965, 0.6175, 0.77), (0.716, 0.627, 0.8045)
MEAN_X, MEAN_Y = (0.6815, 0.60875, 0.7555), (0.714, 0.6325, 0.79551)
IMPROVEMENT = (0.48625, 0.35747, 0.61375)
PROFILE = [
    [1.0, 0.875, 0.675, 0.3, 0.1, 0.0],
    [1.0, 0.775, 0.525, 0.175, 0.025, 0.0],
    [1.0, 0.975, 0.825, 0.45, 0.2, 0.0],
]
INTERVAL = 0.012
"""How far limits of other resamples of the same scores may be: several times their standard error."""

runs = st.lists(st.floats(-100, 100), min_size=1, max_size=9)
tasks = st.lists(runs, min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (iqm(X, 20_000), IQM_X),
        (iqm(Y, 20_000), IQM_Y),
        (mean(X, 20_000), MEAN_X),
        (mean(Y, 20_000), MEAN_Y),
        (probability_of_improvement(X, Y, 5_000), IMPROVEMENT),
    ],
    ids=["iqm x", "iqm y", "mean x", "mean y", "improvement"],
)
def test_the_numbers_of_rliable(found: object, expected: tuple[float, float, float]) -> None:
    assert found.value == pytest.approx(expected[0], abs=1e-12)  # type: ignore[attr-defined]
    assert (found.low, found.high) == pytest.approx(expected[1:], abs=INTERVAL)  # type: ignore[attr-defined]


def test_a_quarter_is_rounded_down_to_whole_runs_as_rliable_does() -> None:
    assert iqm([X[0][:3]]).value == pytest.approx(0.7033333333333335, abs=1e-12)
    assert iqm([X[0][:7]]).value == pytest.approx(0.668, abs=1e-12)


def test_the_profile_of_rliable() -> None:
    found = performance_profile(X, THRESHOLDS, 5_000)
    assert found[0].tolist() == pytest.approx(PROFILE[0], abs=1e-12)
    for limits, expected in zip(found[1:], PROFILE[1:], strict=True):
        assert limits.tolist() == pytest.approx(expected, abs=0.026)  # a run is 0.025 of them


@given(tasks)
def test_one_run_of_each_task_or_equal_runs_leave_no_doubt(scores: list[list[float]]) -> None:
    same = [[task[0]] * 3 for task in scores]
    for estimate in (mean(same, 50), iqm(same, 50)):
        assert estimate.low == pytest.approx(estimate.value, abs=1e-9)
        assert estimate.high == pytest.approx(estimate.value, abs=1e-9)


@given(tasks, st.integers(1, 50))
def test_improvement_over_oneself_is_a_half_and_over_less_is_certain(scores: list[list[float]], margin: int) -> None:
    assert probability_of_improvement(scores, scores, 20).value == pytest.approx(0.5)
    worse = [[min(task) - margin] * len(task) for task in scores]
    assert probability_of_improvement(scores, worse, 20).value == 1.0
    assert probability_of_improvement(worse, scores, 20).value == 0.0


@given(tasks)
def test_an_interval_holds_the_mean_and_lies_within_the_runs(scores: list[list[float]]) -> None:
    found = mean(scores, 200)
    low, high = np.mean([min(task) for task in scores]), np.mean([max(task) for task in scores])
    assert low - 1e-9 <= found.low <= found.high <= high + 1e-9


@given(tasks)
def test_a_profile_falls_from_all_to_none(scores: list[list[float]]) -> None:
    value, low, high = performance_profile(scores, [-101.0, 0.0, 101.0], 50)
    assert (value[0], value[-1]) == (1.0, 0.0)
    assert (np.diff(value) <= 0).all()
    assert (low <= high).all()


def test_what_is_kept_is_matched_by_seed() -> None:
    dense = [[100.0, 1000.0], [-10.0, -30.0]]
    assert retention(dense, dense).value == 1.0
    half = retention([[50.0, 500.0], [-15.0, -45.0]], dense)
    assert half.value == pytest.approx(0.5)
    # The same difference in every pair: however the pairs are drawn, nothing is left to chance.
    shifted = retention([[90.0, 990.0]], [[100.0, 1000.0]])
    assert shifted.low == pytest.approx(shifted.high) == pytest.approx(1.0 - 10.0 / 550.0)


def test_normalized_scores() -> None:
    assert normalized([0.0, 5.0, 20.0], 0.0, 10.0).tolist() == [0.0, 0.5, 2.0]
    with pytest.raises(ConfigError, match="give two different returns"):
        normalized([1.0], 2.0, 2.0)


@pytest.mark.parametrize("scores", [[], [[]], [[1.0], []], [[np.nan]], [[[1.0]]]])
def test_scores_that_are_none(scores: list[list[float]]) -> None:
    with pytest.raises(ConfigError, match="scores must be finite numbers"):
        mean(scores)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="of 1 and of 2 tasks cannot be compared"):
        probability_of_improvement([[1.0]], [[1.0], [2.0]])
    with pytest.raises(ConfigError, match="runs with the same seeds"):
        retention([[1.0]], [[1.0, 2.0]])
    with pytest.raises(ConfigError, match="returns 0"):
        retention([[1.0]], [[0.0]])
