"""How learning goes beside the return: what an agent explores by, and whether its network can still learn."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.measure.plasticity import plasticity
from policypress.policy.policy import Policy
from policypress.rl.adapters import Adapter

COLUMNS = ("dormant", "rank", "entropy", "visited")
_MOST, _MOST_IMAGES = 512, 128
_DIRECTIONS = 16
_FIRST = 1_000
"""Observations whose means and standard deviations are the units of all later ones."""
_TOGETHER = 256


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


class Visited:
    """How many kinds of states training has been in: of the 65,536 that the signs of 16 projections of an observation
    tell apart (SimHash, as #Exploration counts states: Tang et al. 2017, arXiv 1611.04717, section 2.2).

    The directions are the same for every training. Projected are observations less their mean, in units of their
    standard deviations, both of the first 1,000. Images and Dicts are not counted, nor what ARS meets.
    """

    def __init__(self) -> None:
        self._waiting: list[NDArray[Any]] = []
        self._units: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._seen = np.zeros(2**_DIRECTIONS, bool)

    def __call__(self, observations: Any) -> None:
        """``observations`` (n, d), of n environments, as they gave them; anything else is not counted."""
        if isinstance(observations, np.ndarray) and observations.ndim <= 2:
            self._waiting.append(observations.reshape(len(observations), -1))
            if sum(map(len, self._waiting)) >= (_TOGETHER if self._units else _FIRST):
                self._count()

    @property
    def count(self) -> int | None:
        """None before the first 1,000, or where nothing is counted."""
        if self._units is None:
            return None
        self._count()
        return int(self._seen.sum())

    def state_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "waiting": [one.tolist() for one in self._waiting],
            "units": None if self._units is None else [one.tolist() for one in self._units],
            "seen": base64.b64encode(np.packbits(self._seen).tobytes()).decode(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._waiting = [np.asarray(one, np.float64) for one in state["waiting"]]
        if state["units"] is not None:
            mean, scale = (np.asarray(one, np.float64) for one in state["units"])
            self._units = mean, scale
        self._seen = np.unpackbits(np.frombuffer(base64.b64decode(state["seen"]), np.uint8)).astype(bool)

    def _count(self) -> None:
        if not self._waiting:
            return
        observations = np.concatenate(self._waiting).astype(np.float64)
        self._waiting = []
        if self._units is None:
            spread = observations.std(axis=0)
            self._units = observations.mean(axis=0), np.where(spread > 0, spread, 1.0)
        mean, scale = self._units
        directions = np.random.default_rng(0).standard_normal((observations.shape[1], _DIRECTIONS))
        signs = (observations - mean) / scale @ directions > 0
        self._seen[signs @ (1 << np.arange(_DIRECTIONS))] = True


def dynamics(
    adapter: Adapter, model: BaseAlgorithm, policy: Policy, met: Met, visited: Visited
) -> dict[str, float | int | None]:
    """COLUMNS at the observations that ``policy``, ``model`` as it would be deployed, has ``met``: the share of dormant
    units, the effective rank of the last hidden features (``plasticity``), and the mean entropy, in nats, of what the
    agent draws its actions from while it learns; and how many kinds of states training has ``visited``. None where
    there is no such thing."""
    observations = met.observations
    found = plasticity(policy, observations)
    entropy = adapter.entropy(model, observations)
    return {
        "dormant": None if found is None else round(found.dormant, 6),
        "rank": None if found is None else found.rank,
        "entropy": None if entropy is None else round(entropy, 6),
        "visited": visited.count,
    }
