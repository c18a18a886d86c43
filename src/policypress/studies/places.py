"""Where attempts are made: in threads here, each with a process of its own, or on a cluster that Ray knows."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Protocol

from policypress.errors import RunError
from policypress.measure.machine import usable_cores
from policypress.studies.attempt import Order, Outcome, attempt


class Place(Protocol):
    """Makes attempts, by key; leaving the ``with`` block ends those that still run."""

    def __enter__(self) -> Place: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def slots(self) -> int:
        """How many attempts it makes at once."""

    @property
    def running(self) -> set[str]:
        """Keys of those that have been started and not been heard of."""

    def start(self, key: str, order: Order) -> None: ...

    def wait(self, seconds: float) -> tuple[str, Outcome] | None:
        """How the next attempt ended; None if none does in ``seconds``. Raises what an attempt raised."""


def place(on: str, address: str | None, cores: int, gpus: float) -> Place:
    """This machine ("local"), or a cluster ("ray", at ``address``, or one that is started here), where an attempt gets
    ``cores`` and ``gpus``. Raises ConfigError, and PolicypressError where Ray is not installed or not there."""
    if (on, address) == ("local", None):
        return Here(cores)
    from policypress.rl.executors import check_place

    check_place(on, address)
    return Cluster(address, cores, gpus)


class Here:
    """Attempts in threads, which wait for their processes."""

    def __init__(self, cores: int) -> None:
        self.slots = max(1, usable_cores() // cores)
        self._ended: queue.SimpleQueue[tuple[str, Outcome | Exception]] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._over = threading.Event()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads.values():
            thread.join()

    @property
    def running(self) -> set[str]:
        return set(self._threads)

    def start(self, key: str, order: Order) -> None:
        self._threads[key] = threading.Thread(target=self._make, args=(key, order), daemon=True)
        self._threads[key].start()

    def wait(self, seconds: float) -> tuple[str, Outcome] | None:
        try:
            key, ended = self._ended.get(timeout=seconds)
        except queue.Empty:
            return None
        self._threads.pop(key).join()
        if isinstance(ended, Exception):
            raise ended
        return key, ended

    def _make(self, key: str, order: Order) -> None:
        try:
            self._ended.put((key, attempt(self._tell, order)))
        except Exception as error:  # whatever it is, it is raised where somebody waits
            self._ended.put((key, error))

    def _tell(self) -> None:
        if self._over.is_set():
            raise RunError("the study was stopped.")


class Cluster:
    """Attempts as Ray's tasks, by the executor that a search uses; folders must be seen by all machines."""

    def __init__(self, address: str | None, cores: int, gpus: float) -> None:
        from policypress.rl.executors import executor

        self._tasks = executor("ray", address, lambda key: f"run {key}", cores=cores, gpus=gpus)

    def __enter__(self) -> Cluster:
        self._tasks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._tasks.__exit__(None, None, None)

    @property
    def slots(self) -> int:
        return self._tasks.slots

    @property
    def running(self) -> set[str]:
        return self._tasks.running

    def start(self, key: str, order: Order) -> None:
        self._tasks.start(key, attempt, order)

    def wait(self, seconds: float) -> tuple[str, Outcome] | None:
        from policypress.rl.executors import WorkerDied

        try:
            message = self._tasks.wait(seconds)
        except WorkerDied as error:
            return error.key, Outcome("killed", error=str(error))
        return None if message is None else (message.key, message.value)
