"""What returns of episodes say, and what of it may be said as a share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policypress.errors import ConfigError
from policypress.measure.returns import (
    beats_chance,
    bootstrap_interval,
    interquartile_mean,
    kept,
    share,
    share_of,
    summary,
    worst_share_of,
    worst_tenth,
)

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("count", [2, 5, 50])
def test_interval_has_about_the_width_of_the_normal_one(count: int) -> None:
    returns = np.random.default_rng(count).normal(100, 10, count)
    low, high = bootstrap_interval(returns.tolist())
    assert low <= returns.mean() <= high
    if count == 50:
        assert high - low == pytest.approx(2 * 1.96 * returns.std() / np.sqrt(count), rel=0.1)
    assert bootstrap_interval([3.0] * count) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("returns", "worst"),
    [
        ([5.0], 5.0),
        ([3.0, 1.0, 2.0], 1.0),  # of fewer than ten the least
        ([*range(10)], 0.0),
        ([*range(50)], 2.0),  # mean of 0 to 4
        ([*range(15)], (0 + 0.5 * 1) / 1.5),
        ([*range(25)], (0 + 1 + 0.5 * 2) / 2.5),
    ],
)
def test_the_worst_tenth(returns: list[float], worst: float) -> None:
    shuffled = np.random.default_rng(0).permutation(returns).tolist()
    assert worst_tenth(shuffled) == pytest.approx(worst)


@given(st.lists(finite, min_size=1, max_size=60))
def test_the_worst_tenth_lies_between_least_and_mean(returns: list[float]) -> None:
    assert min(returns) - 1e-6 <= worst_tenth(returns) <= np.mean(returns) + 1e-6


@pytest.mark.parametrize(
    ("returns", "middle"),
    [
        ([5.0], 5.0),
        ([1.0, 3.0], 2.0),
        ([100.0, 1.0, 2.0, -50.0], 1.5),
        ([*range(8), 1e6], (0.75 * (2 + 6) + 3 + 4 + 5) / 4.5),
    ],
)
def test_the_interquartile_mean(returns: list[float], middle: float) -> None:
    assert interquartile_mean([returns])[0] == pytest.approx(middle)
    assert interquartile_mean([returns[:1], returns[1:]] if returns[1:] else [returns])[0] == pytest.approx(middle)


def test_runs_are_drawn_by_themselves() -> None:
    """Episodes that are alike within a run leave no doubt, however far the runs are apart."""
    assert interquartile_mean([[1.0] * 5, [3.0] * 5]) == (2.0, 2.0, 2.0)
    rng = np.random.default_rng(0)
    runs = [rng.normal(100, 10, 50).tolist() for _ in range(4)]
    mean, low, high = interquartile_mean(runs)
    assert low < mean < high
    whole = interquartile_mean([np.ravel(runs).tolist()])
    assert high - low == pytest.approx(whole[2] - whole[1], rel=0.1)


def test_the_summary_holds_the_figures() -> None:
    returns = [*map(float, range(20))]
    found = summary(returns)
    assert list(found) == ["mean", "std", "low", "high", "worst_tenth"]
    assert (found["low"], found["high"]) == bootstrap_interval(returns)
    assert (found["mean"], found["worst_tenth"]) == (9.5, 0.5)


def test_a_share_falls_with_the_return_whatever_the_sign() -> None:
    assert (share(-10.0, 100.0), share(-10.0, -100.0), share(0.0, -3.0)) == (0.9, 0.9, 1.0)
    with pytest.raises(ConfigError):
        share(1.0, 0.0)
    assert [beats_chance(low, 2.0) for low in (1.0, 2.0, 3.0)] == [False, False, True]


def test_falls_count() -> None:
    """A walker that falls in every sixth episode kept 100 % of the interquartile mean."""
    agent = [5000.0] * 48
    student = [1000.0 if index % 6 == 0 else 5000.0 for index in range(48)]
    found = kept(student, agent)
    assert found.share == pytest.approx(1 - 0.8 / 6)
    assert found.high is not None
    assert found.high < 0.96
    assert found.difference == pytest.approx(-4000 / 6)


def test_the_share_that_is_kept() -> None:
    agent = np.random.default_rng(0).normal(100, 10, 50)
    same = kept(agent.tolist(), agent.tolist())
    assert (same.share, same.low, same.high, same.difference) == (1.0, 1.0, 1.0, 0.0)
    worse = share_of((agent - 20).tolist(), agent.tolist())  # in every episode by as much: hardly any doubt
    assert worse[0] == pytest.approx(1 - 20 / agent.mean())
    assert worse[2] - worse[1] < 1e-9
    shuffled = share_of((agent[::-1] - 20).tolist(), agent.tolist())
    assert shuffled[1] < shuffled[0] < shuffled[2]
    assert shuffled[0] == pytest.approx(worse[0])
    assert shuffled[2] - shuffled[1] > 0.02


def test_a_share_of_negative_returns() -> None:
    assert kept([-12.0] * 4, [-10.0] * 4).share == pytest.approx(0.8)
    assert kept([-8.0] * 4, [-10.0] * 4).share == pytest.approx(1.2)
    with pytest.raises(ConfigError, match="the agent returns 0 in this environment: there is no share of it"):
        share_of([1.0] * 4, [0.0] * 4)


def test_a_share_of_other_seeds_pairs_nothing() -> None:
    rng = np.random.default_rng(0)
    agent, student = rng.normal(100, 10, 100), rng.normal(90, 10, 40)
    found, low, high = share_of(student.tolist(), agent.tolist())
    assert found == pytest.approx(student.mean() / agent.mean())
    # standard errors of both means add up
    error = np.hypot(student.std() / np.sqrt(40), agent.std() / np.sqrt(100)) / agent.mean()
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert low < found < high


def test_a_share_of_the_worst_tenth() -> None:
    agent = [10.0, *[100.0] * 9]
    assert worst_share_of([9.0, *[500.0] * 9], agent) == pytest.approx(0.9)
    assert worst_share_of([-20.0, *[0.0] * 9], [-10.0, *[0.0] * 9]) == pytest.approx(0.0)
    assert worst_share_of([-9.0, *[100.0] * 9], [0.0, *[100.0] * 9]) == pytest.approx(0.9), "of the mean of 90"
    with pytest.raises(ConfigError):
        worst_share_of([1.0] * 3, [0.0] * 3)


def test_no_share_of_next_to_nothing() -> None:
    """ "kept 318 % [-232 %, 732 %]" was said of an agent whose return was near 0."""
    rng = np.random.default_rng(1)
    agent, student = rng.normal(2, 30, 50), rng.normal(10, 30, 50)
    found = kept(student.tolist(), agent.tolist())
    assert (found.share, found.low, found.high) == (None, None, None)
    assert found.difference == pytest.approx(student.mean() - agent.mean())
    assert found.difference_low < found.difference < found.difference_high
    assert kept([1.0] * 4, [0.0] * 4).difference == 1.0
    assert kept(student.tolist(), (agent + 100).tolist()).share is not None


def test_no_share_of_an_agent_at_chance_level() -> None:
    agent = np.random.default_rng(2).normal(22, 4, 50).tolist()
    low, _ = bootstrap_interval(agent)
    assert kept(agent, agent, chance=low).share is None
    assert kept(agent, agent, chance=np.nextafter(low, -np.inf)).share == 1.0
