"""How learning goes beside the return: what an agent explores by, and whether its network can still learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.measure.plasticity import plasticity
from policypress.policy.policy import Policy
from policypress.rl.adapters import Adapter

COLUMNS = ("dormant", "rank", "entropy")
_MOST, _MOST_IMAGES = 512, 128


class Met:
    """Some of the observations that a policy has met, evenly spaced over all of them."""

    def __init__(self, image: bool) -> None:
        self._most, self._every, self._count = _MOST_IMAGES if image else _MOST, 1, 0
        self._kept: list[NDArray[Any]] = []

    def __call__(self, observations: NDArray[Any]) -> None:
        """``observations`` (n, ...), which were met one after the other."""
        for one in observations:
            if self._count % self._every == 0:
                if len(self._kept) == self._most:
                    self._kept, self._every = self._kept[::2], 2 * self._every
                self._kept.append(np.array(one))
            self._count += 1

    @property
    def observations(self) -> NDArray[Any]:
        """(n, ...), n at most 512, of images 128."""
        return np.stack(self._kept)


def dynamics(adapter: Adapter, model: BaseAlgorithm, policy: Policy, met: Met) -> dict[str, float | int | None]:
    """COLUMNS at the observations that ``policy``, ``model`` as it would be deployed, has ``met``: the share of dormant
    units, the effective rank of the last hidden features (``plasticity``), and the mean entropy, in nats, of what the
    agent draws its actions from while it learns; None where there is no such thing."""
    observations = met.observations
    found = plasticity(policy, observations)
    entropy = adapter.entropy(model, observations)
    return {
        "dormant": None if found is None else round(found.dormant, 6),
        "rank": None if found is None else found.rank,
        "entropy": None if entropy is None else round(entropy, 6),
    }
