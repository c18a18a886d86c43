"""What returns of whole episodes say: means and intervals, the worst of them, and what a student keeps of an agent's.

Every figure that is made of returns is made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError

_RESAMPLES = 10_000
_TAIL = 0.1


@dataclass(frozen=True)
class Kept:
    """What a student keeps of an agent's mean return, with 95 % bootstrap intervals.

    Both ran from the same seeds, so the same episodes of both are drawn together. ``share`` is 1 plus the difference of
    the means over the magnitude of the agent's, which is their ratio where that is positive. A share of next to nothing
    says nothing, so it is None, and its interval, where the agent's mean is nearer to 0 than its own interval is wide,
    or no better than acting without looking. ``difference``: the student's mean less the agent's.
    """

    share: float | None
    low: float | None
    high: float | None
    difference: float
    difference_low: float
    difference_high: float


def kept(student: Sequence[float], agent: Sequence[float], chance: float = -math.inf) -> Kept:
    """``Kept`` for returns of the same number of episodes, those of one seed in the same place; ``chance``: upper end
    of the interval of what acting without looking returns."""
    ours, theirs = np.asarray(student, np.float64), np.asarray(agent, np.float64)
    least, most = _limits(_resampled(ours - theirs).mean(1))
    difference = float((ours - theirs).mean()), least, most
    low, high = bootstrap_interval(agent)
    mean = float(theirs.mean())
    if mean == 0.0 or abs(mean) < high - low or not beats_chance(low, chance):
        return Kept(None, None, None, *difference)
    return Kept(*share_of(student, agent), *difference)


def share_of(student: Sequence[float], agent: Sequence[float]) -> tuple[float, float, float]:
    """Share of the agent's mean return and its interval as in ``Kept``, however near to 0 that mean is.

    Returns of other numbers of episodes are of other seeds: nothing is paired. Raises ConfigError if the mean is 0.
    """
    ours, theirs = np.asarray(student, np.float64), np.asarray(agent, np.float64)
    paired = len(ours) == len(theirs)
    difference = (ours - theirs).mean() if paired else ours.mean() - theirs.mean()
    found = share(float(difference), float(theirs.mean()))
    magnitude = abs(float(theirs.mean()))
    low, high = _limits(1.0 + (_resampled(ours).mean(1) - _resampled(theirs).mean(1)) / magnitude)
    return found, low, high


def share(difference: float, of: float) -> float:
    """Share that a mean return is of the mean ``of``, from which it differs by ``difference``: 1 plus the difference
    over the magnitude, the ratio where ``of`` is positive. Raises ConfigError if that is 0."""
    if of == 0.0:
        raise ConfigError("the agent returns 0 in this environment: there is no share of it that a student could keep.")
    return 1.0 + difference / abs(of)


def worst_share_of(student: Sequence[float], agent: Sequence[float]) -> float:
    """Share that the student's worst tenth is of the agent's, as ``share`` has it; of the magnitude of the agent's mean
    where its worst tenth is 0. Raises ConfigError if that is 0 too."""
    ours, theirs = worst_tenth(student), worst_tenth(agent)
    return share(ours - theirs, theirs or float(np.mean(agent)))


def beats_chance(low: float, chance: float) -> bool:
    """Whether an agent learned something: the lower end of its interval lies above ``chance``, the upper end of that of
    acting without looking."""
    return low > chance


def summary(returns: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation, limits ``low`` and ``high`` of the mean's interval and ``worst_tenth``, as JSON
    values."""
    low, high = bootstrap_interval(returns)
    return {
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "low": low,
        "high": high,
        "worst_tenth": worst_tenth(returns),
    }


def worst_tenth(returns: Sequence[float]) -> float:
    """Mean of the worst tenth of ``returns`` (CVaR 10 %, Rockafellar and Uryasev 2000): of n episodes the n / 10 least,
    the last of them by the part that is left; of fewer than ten the least."""
    ordered = np.sort(np.asarray(returns, np.float64))
    count = max(1.0, _TAIL * len(ordered))
    weights = np.clip(count - np.arange(len(ordered)), 0.0, 1.0)
    return float((weights * ordered).sum() / count)


def worth(returns: Sequence[float]) -> float:
    """What policies are compared by while they learn: their mean and the mean of their worst tenth, half of each."""
    return (float(np.mean(returns)) + worst_tenth(returns)) / 2


def interquartile_mean(runs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean of the middle half of the returns of several runs together, with its 95 % interval.

    Every run's episodes are drawn anew by themselves (stratified bootstrap, Agarwal et al. 2021): the interval is that
    of these runs, not of other seeds.
    """
    found = [np.asarray(run, np.float64) for run in runs]
    low, high = _limits(_middle(np.concatenate([_resampled(run, seed) for seed, run in enumerate(found)], axis=1)))
    return float(_middle(np.concatenate(found)[None])[0]), low, high


def _middle(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle half of each row, values at its edges by the part that is inside."""
    count = samples.shape[1]
    place = np.arange(count)
    weights = np.clip(np.minimum(place + 1, count - place) - count / 4, 0.0, 1.0)
    means: NDArray[np.float64] = np.sort(samples, axis=1) @ weights / weights.sum()
    return means


def bootstrap_interval(returns: Sequence[float]) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean; the same numbers give the same interval."""
    return _limits(_resampled(np.asarray(returns, np.float64)).mean(1))


def _resampled(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap samples (_RESAMPLES, episodes), the same picks for every list of one length and ``seed``."""
    picks = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    sampled: NDArray[np.float64] = values[picks]
    return sampled


def _limits(samples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
