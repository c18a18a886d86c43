"""Returns and lengths of many policies from the same seeds, in processes, each with an environment of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.config import Environment
from policypress.policy.contract import ObservationTransform
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env, padding_of, play
from policypress.rl.workers import Server

_Played = list[tuple[float, int]]


class Rollouts:
    """Environments in ``jobs`` processes; with one job in this process. Leaving the ``with`` block ends them.

    ``steps`` counts environment steps.
    """

    def __init__(self, env: Environment, observation: ObservationTransform, jobs: int = 1) -> None:
        padding = padding_of(observation, env.frame_stack)
        self.steps = 0
        self._env = make_env(env, training=False, padding=padding) if jobs == 1 else None
        self._workers = [Server("plays episodes", _playing, env, padding) for _ in range(jobs if jobs > 1 else 0)]

    def __enter__(self) -> Rollouts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._env is not None:
            self._env.close()
        for worker in self._workers:
            worker.close()

    def play(
        self, policies: Sequence[Policy], seeds: Sequence[int], limit: float = math.inf
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Undiscounted returns (policies, seeds) of episodes from ``reset(seed=...)``, of their first ``limit`` steps,
        and their lengths.

        Raises what playing raises, and RunError if a process died.
        """
        if self._env is not None:
            played = [_play(self._env, policy, seeds, limit) for policy in policies]
        else:
            played = self._in_processes(policies, seeds, limit)
        returns, lengths = np.moveaxis(np.array(played, np.float64), 2, 0)
        self.steps += int(lengths.sum())
        return returns, lengths

    def _in_processes(self, policies: Sequence[Policy], seeds: Sequence[int], limit: float) -> list[_Played]:
        played: dict[int, _Played] = {}
        left = iter(enumerate(policies))
        busy: dict[Any, tuple[int, Server]] = {}

        def give(worker: Server) -> None:
            if (task := next(left, None)) is not None:
                worker.ask(task[1], seeds, limit)
                busy[worker.connection] = (task[0], worker)

        for worker in self._workers:
            give(worker)
        while busy:
            for connection in wait(list(busy)):
                index, worker = busy.pop(connection)
                played[index] = worker.answer()
                give(worker)
        return [played[index] for index in range(len(policies))]


def _playing(env: Environment, padding: NDArray[Any] | float) -> Callable[[Policy, Sequence[int], float], _Played]:
    return partial(_play, make_env(env, training=False, padding=padding))


def _play(env: Any, policy: Policy, seeds: Sequence[int], limit: float) -> _Played:
    policy.engine  # noqa: B018  # from now on its predict is C
    return [play(env, policy.predict, seed, limit) for seed in seeds]
