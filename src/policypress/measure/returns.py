"""What returns of whole episodes say: mean and interval, the worst of them, and what a student keeps of an agent's."""

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
    if mean == 0.0 or abs(mean) < high - low or low <= chance:
        return Kept(None, None, None, *difference)
    return Kept(*share_of(student, agent), *difference)


def share_of(student: Sequence[float], agent: Sequence[float]) -> tuple[float, float, float]:
    """Share of the agent's mean return and its interval as in ``Kept``, however near to 0 that mean is.

    Raises ConfigError if it is 0.
    """
    ours, theirs = np.asarray(student, np.float64), np.asarray(agent, np.float64)
    magnitude = abs(float(theirs.mean()))
    if magnitude == 0.0:
        raise ConfigError("the agent returns 0 in this environment: there is no share of it that a student could keep.")
    low, high = _limits(1.0 + (_resampled(ours).mean(1) - _resampled(theirs).mean(1)) / magnitude)
    return 1.0 + float((ours - theirs).mean()) / magnitude, low, high


def worst_tenth(returns: Sequence[float]) -> float:
    """Mean of the worst tenth of ``returns`` (CVaR 10 %, Rockafellar and Uryasev 2000): of n episodes the n / 10 least,
    the last of them by the part that is left; of fewer than ten the least."""
    ordered = np.sort(np.asarray(returns, np.float64))
    count = max(1.0, _TAIL * len(ordered))
    weights = np.clip(count - np.arange(len(ordered)), 0.0, 1.0)
    return float((weights * ordered).sum() / count)


def bootstrap_interval(returns: Sequence[float]) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean; the same numbers give the same interval."""
    return _limits(_resampled(np.asarray(returns, np.float64)).mean(1))


def _resampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bootstrap samples (_RESAMPLES, episodes), the same picks for every list of one length."""
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    sampled: NDArray[np.float64] = values[picks]
    return sampled


def _limits(samples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
