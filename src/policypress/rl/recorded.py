"""Recorded observations in place of an environment: what students learn from, and what is kept back to measure them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError

HELD_OUT = 5
"""One episode in so many is held out; of a log that is one episode, the last part of its steps."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """Episodes of raw observations, each (steps, *shape): those that students learn from, and those ``held_out``.

    ``episodes``: of the log; where that is 1, ``held_out`` is the end of it.
    """

    path: Path
    learned: tuple[NDArray[Any], ...]
    held_out: tuple[NDArray[Any], ...]
    episodes: int

    @classmethod
    def of(cls, path: Path, episodes: list[NDArray[Any]]) -> Recorded:
        """Every HELD_OUT-th episode is held out, the last one always; ConfigError for a log that is too short."""
        if (steps := sum(map(len, episodes))) < 2:
            found = "a single observation" if steps else "no observation"
            raise ConfigError(f"{path} holds {found}: record some thousands, of several episodes if you can.")
        if len(episodes) == 1:
            cut = len(episodes[0]) - max(1, len(episodes[0]) // HELD_OUT)
            return cls(path, (episodes[0][:cut],), (episodes[0][cut:],), 1)
        held_out = range(len(episodes) - 1, -1, -HELD_OUT)
        learned = tuple(episode for index, episode in enumerate(episodes) if index not in held_out)
        return cls(path, learned, tuple(episodes[index] for index in reversed(held_out)), len(episodes))

    @property
    def steps(self) -> int:
        """How many observations there are to learn from."""
        return sum(map(len, self.learned))

    def as_dict(self) -> dict[str, Any]:
        """What stands on the card of a policy that learned from it."""
        held_out = sum(map(len, self.held_out))
        return {
            "file": self.path.name,
            "episodes": self.episodes,
            "observations": self.steps + held_out,
            "held_out_observations": held_out,
        }


class RecordedStates:
    """The observations of a log that students learn from as ``sources.States``: each once, in random order, whoever
    acts; then none."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        self._observations = np.concatenate(recorded.learned)
        self._order = np.random.default_rng(seed).permutation(len(self._observations))
        self._given = 0

    def __call__(self, teacher: Any, student: Any, share: float, count: int) -> NDArray[Any]:
        found = self._observations[self._order[self._given : self._given + count]]
        self._given += len(found)
        return found

    def skip(self, count: int) -> None:
        """Goes on behind the first ``count``, which an interrupted run has."""
        self._given = count
