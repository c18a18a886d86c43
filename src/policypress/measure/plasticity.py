"""Whether a network can still learn: units that do nothing any more, and how many directions its features have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.policy import reference
from policypress.policy.ops import Flatten, Layer, MaxPool2d, walk
from policypress.policy.policy import Policy

DORMANT = 0.025
"""A unit is dormant whose mean magnitude is no more than this times that of its layer (Sokar et al. 2023, arXiv
2302.12902, definition 3.1 and section 5)."""
LOST = 0.01
"""The share of the sum of singular values that the effective rank leaves out (Kumar et al. 2021, arXiv 2010.14498)."""


@dataclass(frozen=True)
class Plasticity:
    """``dormant``: share of the hidden units, channels of convolutions; ``rank``: effective rank of what the last layer
    sees, at most the number of observations."""

    dormant: float
    rank: int


def plasticity(policy: Policy, observations: NDArray[Any]) -> Plasticity | None:
    """Of ``policy`` at raw ``observations`` (n, ...), computed as it is deployed; None where nothing is hidden, and
    where it remembers: its features depend on more than one observation."""
    if policy.state_size:
        return None
    hidden = list(_hidden(policy, observations))
    if not hidden:
        return None
    dormant = np.concatenate([_dormant(features) for features in hidden])
    return Plasticity(float(dormant.mean()), effective_rank(hidden[-1].reshape(len(observations), -1)))


def effective_rank(features: NDArray[Any]) -> int:
    """The fewest singular values of ``features`` (n, d) that make up all but LOST of their sum; 0 where all are 0."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if not values.any():
        return 0
    return int(np.searchsorted(np.cumsum(values) / values.sum(), 1.0 - LOST)) + 1


def _hidden(policy: Policy, observations: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """What each layer but the first sees, before it is pooled or flattened."""
    record: list[NDArray[Any]] = []
    reference.run(policy, reference.observe(policy.observation, observations), record)
    latest = None
    for op, made in zip(walk(policy.ops), record, strict=True):
        if isinstance(op, Layer) and latest is not None:
            yield latest
        if not isinstance(op, Flatten | MaxPool2d):
            latest = made


def _dormant(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Which units of a layer are dormant, (units,), from what they make (n, units, ...)."""
    size = np.abs(features.astype(np.float64)).mean(axis=(0, *range(2, features.ndim)))
    return size <= DORMANT * size.mean()  # type: ignore[no-any-return]
