"""What scores of many runs say together, over seeds and tasks, after Agarwal et al. 2021, "Deep Reinforcement Learning
at the Edge of the Statistical Precipice" (NeurIPS, arXiv 2108.13264), with the numbers of its library, rliable.

A score is one figure of one run, such as the mean return of its last episodes. ``Scores`` are those of one method: by
task an array (runs,), whose lengths may differ where a study is not finished; rliable's matrix (runs, tasks) is their
transpose. Intervals are 95 % percentile intervals of a stratified bootstrap: runs are drawn anew within each task. The
same scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policypress.errors import ConfigError
from policypress.measure.returns import share

Floats = NDArray[np.float64]
Scores = Sequence[ArrayLike]
"""By task, the scores of runs (runs,)."""

RESAMPLES = 2_000
_TRIMMED = 0.25
_KEPT = 8
"""Draws that are kept for figures of as many runs."""


@dataclass(frozen=True)
class Estimate:
    """A figure and the limits of its 95 % interval."""

    value: float
    low: float
    high: float


def mean(scores: Scores, resamples: int = RESAMPLES) -> Estimate:
    """Mean over tasks of the mean over runs."""
    tasks = _tasks(scores)
    low, high = np.percentile(_means(tasks, resamples), [2.5, 97.5])
    return Estimate(float(np.mean([task.mean() for task in tasks])), float(low), float(high))


def iqm(scores: Scores, resamples: int = RESAMPLES) -> Estimate:
    """Interquartile mean of all runs of all tasks together: a quarter of them, rounded down to whole runs, is left out
    at either end (Agarwal et al. 2021, section 4.3; scipy.stats.trim_mean)."""
    tasks = _tasks(scores)
    picks = _picks(tuple(map(len, tasks)), resamples)
    drawn = np.concatenate([task[pick] for task, pick in zip(tasks, picks, strict=True)], axis=-1)
    low, high = np.percentile(_trimmed(drawn), [2.5, 97.5])
    return Estimate(float(_trimmed(np.concatenate(tasks))), float(low), float(high))


def probability_of_improvement(ours: Scores, theirs: Scores, resamples: int = RESAMPLES) -> Estimate:
    """Mean over tasks of the probability that a run of ``ours`` scores more than one of ``theirs``; as much counts half
    (Agarwal et al. 2021, section 4.3; the Mann-Whitney U statistic over the number of pairs).

    Both have the same tasks in the same order.
    """
    first, second = _tasks(ours), _tasks(theirs)
    if len(first) != len(second):
        raise ConfigError(
            f"scores of {len(first)} and of {len(second)} tasks cannot be compared: give those of the same."
        )

    values, drawn = [], []
    times = _times(tuple((len(x), len(y)) for x, y in zip(first, second, strict=True)), resamples)
    for x, y, (left, right) in zip(first, second, times, strict=True):
        wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        values.append(wins.mean())
        drawn.append(((left @ wins) * right).sum(axis=1) / wins.size)
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high))


def performance_profile(
    scores: Scores, thresholds: ArrayLike, resamples: int = RESAMPLES
) -> tuple[Floats, Floats, Floats]:
    """Share of runs that score more than each of ``thresholds`` (n,), averaged over tasks, and the limits of its
    pointwise 95 % interval, each (n,): the run-score distribution of Agarwal et al. 2021, section 4.2."""
    at, tasks = np.asarray(thresholds, np.float64), _tasks(scores)

    above = [(task[:, None] > at).astype(np.float64) for task in tasks]
    low, high = np.percentile(_means(above, resamples), [2.5, 97.5], axis=0)
    return np.mean([task.mean(axis=0) for task in above], axis=0), low, high


def normalized(scores: ArrayLike, low: float, high: float) -> Floats:
    """``scores`` with ``low`` as 0 and ``high`` as 1, for example the returns of random actions and of a reference."""
    if low == high:
        raise ConfigError(f"scores cannot be normalized between {low:g} and {high:g}: give two different returns.")
    found: Floats = (np.asarray(scores, np.float64) - low) / (high - low)
    return found


def retention(pressed: Scores, dense: Scores, resamples: int = RESAMPLES) -> Estimate:
    """Mean over tasks of the share of its dense runs' mean that the pressed runs' mean is (``returns.share``).

    The runs are matched by seed: those of one place in the arrays of a task belong together, and are drawn together.
    """
    ours, theirs = _tasks(pressed), _tasks(dense)
    if [task.shape for task in ours] != [task.shape for task in theirs]:
        raise ConfigError("what is kept is told of runs with the same seeds: give pairs of them.")
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        share(float(ours_.mean() - theirs_.mean()), float(theirs_.mean()))  # raises where there is none
    return mean([1.0 + (x - y) / abs(y.mean()) for x, y in zip(ours, theirs, strict=True)], resamples)


def _tasks(scores: Scores) -> list[Floats]:
    tasks = [np.asarray(task, np.float64) for task in scores]
    if not tasks or any(task.ndim != 1 or not len(task) or not np.isfinite(task).all() for task in tasks):
        raise ConfigError("scores must be finite numbers, by task those of its runs, of one at least.")
    return tasks


def _means(tasks: Sequence[Floats], resamples: int) -> Floats:
    """Of bootstrap samples of ``tasks``, each (runs, ...), the means over runs and tasks, (resamples, ...)."""
    counts = _counts(tuple(map(len, tasks)), resamples)
    found: Floats = np.mean([times @ task / len(task) for times, task in zip(counts, tasks, strict=True)], axis=0)
    return found


# A study asks for thousands of figures of as many runs each: what is drawn depends on how many they are alone.


@lru_cache(_KEPT)
def _picks(runs: tuple[int, ...], resamples: int) -> tuple[NDArray[np.int64], ...]:
    """Of each task the places of the runs that are drawn, (resamples, runs)."""
    rng = np.random.default_rng(0)
    return tuple(rng.integers(0, count, (resamples, count)) for count in runs)


@lru_cache(_KEPT)
def _counts(runs: tuple[int, ...], resamples: int) -> tuple[Floats, ...]:
    """How often each of these places is drawn, (resamples, runs)."""
    return tuple(
        np.stack([np.bincount(row, minlength=count) for row in picks]).astype(np.float64)
        for count, picks in zip(runs, _picks(runs, resamples), strict=True)
    )


@lru_cache(_KEPT)
def _times(pairs: tuple[tuple[int, int], ...], resamples: int) -> tuple[tuple[Floats, Floats], ...]:
    """Of each task how often each run of either side is drawn, (resamples, runs): it says as much as drawing them, and
    needs no pairs of every sample."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Floats:
        return rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)

    return tuple((drawn(ours), drawn(theirs)) for ours, theirs in pairs)


def _trimmed(values: Floats) -> Floats:
    """Mean along the last axis of what is left without a quarter at either end."""
    count = values.shape[-1]
    cut = int(_TRIMMED * count)
    found: Floats = np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return found
