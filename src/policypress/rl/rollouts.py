"""Returns and lengths of many policies from the same seeds, in processes, each with an environment of its own."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.config import Environment
from policypress.errors import RunError
from policypress.policy.contract import ObservationTransform
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env, padding_of, play
from policypress.rl.workers import start

_Played = list[tuple[float, int]]


class Rollouts:
    """Environments in ``jobs`` processes; with one job in this process. Leaving the ``with`` block ends them.

    ``steps`` counts environment steps.
    """

    def __init__(self, env: Environment, observation: ObservationTransform, jobs: int = 1) -> None:
        padding = padding_of(observation, env.frame_stack)
        self.steps = 0
        self._env = make_env(env, training=False, padding=padding) if jobs == 1 else None
        self._workers = [_Worker(env, padding) for _ in range(jobs if jobs > 1 else 0)]

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
        busy: dict[Any, tuple[int, _Worker]] = {}

        def give(worker: _Worker) -> None:
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


class _Worker:
    """A process that plays what it is sent."""

    def __init__(self, env: Environment, padding: NDArray[Any] | float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, env, padding), daemon=True)
        start(self._process)
        theirs.close()

    def ask(self, policy: Policy, seeds: Sequence[int], limit: float) -> None:
        try:
            self.connection.send((policy, seeds, limit))
        except BrokenPipeError:
            raise self._death() from None

    def answer(self) -> _Played:
        try:
            found: _Played | Exception = self.connection.recv()
        except EOFError:
            raise self._death() from None
        if isinstance(found, Exception):
            raise found
        return found

    def _death(self) -> RunError:
        self._process.join()
        return RunError(
            f"a process that plays episodes died (exit code {self._process.exitcode}): go on with --resume."
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, env: Environment, padding: NDArray[Any] | float) -> None:
    try:
        made = make_env(env, training=False, padding=padding)
        while True:
            connection.send(_play(made, *connection.recv()))
    except (EOFError, BrokenPipeError):
        pass  # whoever asked is gone
    except Exception as error:  # it is raised where somebody reads it
        connection.send(error)


def _play(env: Any, policy: Policy, seeds: Sequence[int], limit: float) -> _Played:
    policy.engine  # noqa: B018  # from now on its predict is C
    return [play(env, policy.predict, seed, limit) for seed in seeds]
