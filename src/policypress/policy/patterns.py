"""Patterns of weights, N:M: of so many neighbouring inputs at most so many are not zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PATTERNS = ((1, 8), (1, 4), (1, 2), (2, 4))
"""N and M, the strictest first; PATTERNS of runtime/coder.c has them too."""
_TYPICAL, _LEAST_GROUPS = 0.6, 64  # of the weights that a pattern allows; fewer of either look like it by chance


def group_of(weights: NDArray[Any]) -> int:
    """M of the pattern of ``weights`` (outputs, inputs, ...) along their inputs, 1 where they have none."""
    live = weights != 0
    for allowed, size in PATTERNS:
        counts = _counts(live, size)
        if counts.size >= _LEAST_GROUPS and counts.max() <= allowed and live.sum() >= _TYPICAL * allowed * counts.size:
            return size
    return 1


def fits_any(weights: NDArray[Any]) -> bool:
    """Whether ``weights`` (outputs, inputs) could be of a pattern, by chance too."""
    return any(_counts(weights != 0, size).max() <= allowed for allowed, size in PATTERNS)


def _counts(live: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Live weights of each group."""
    return np.add.reduceat(live, np.arange(0, live.shape[1], size), axis=1, dtype=np.int64)
