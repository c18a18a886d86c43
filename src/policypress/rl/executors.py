"""Where pieces of work are done: in processes here, or on a cluster that Ray knows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, get_args

from policypress.errors import ConfigError, PolicypressError, RunError
from policypress.extras import require
from policypress.rl.workers import Message, Workers

On = Literal["local", "ray"]
K = TypeVar("K", bound=Hashable)


class Executor(Protocol[K]):
    """Does pieces of work by key; leaving the ``with`` block ends those that still run."""

    def __enter__(self) -> Executor[K]: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def slots(self) -> int:
        """How many pieces of work it does at once: one a core."""

    @property
    def running(self) -> set[K]:
        """Keys of what has been started and not been heard of as done."""

    def start(self, key: K, work: Callable[..., Any], *arguments: Any) -> None:
        """Calls ``work(tell, *arguments)`` somewhere; ``tell()`` raises if nobody waits for it any more."""

    def wait(self, seconds: float) -> Message[K] | None:
        """What the next piece of work returned; None if none ends in ``seconds``. Raises what the work raised."""


def check_place(on: str, address: str | None) -> None:
    """Raises ConfigError for a place that is not known or does not fit ``address``, PolicypressError where Ray is not
    installed."""
    if on not in get_args(On):
        raise ConfigError(f"on={on!r} is not one of {', '.join(get_args(On))}.")
    if on == "ray":
        require("cluster")
    elif address is not None:
        raise ConfigError(f"address={address!r} is that of a Ray cluster: add --on ray.")


def executor(
    on: str, address: str | None, name: Callable[[Any], str], less: str = "", *, cores: int = 1, gpus: float = 0.0
) -> Executor[Any]:
    """Processes of this machine ("local"), or a cluster's ("ray", at ``address``, or one that is started here), where a
    piece of work gets so many ``cores`` and ``gpus``.

    ``name`` and ``less``: see ``Workers``. Raises what ``check_place`` raises, RunError where there is no cluster.
    """
    check_place(on, address)
    return Workers(name, less) if on == "local" else RayTasks(address, name, cores, gpus)


class WorkerDied(RunError):
    """A process of a cluster died at the work ``key``, which is not running any more."""

    def __init__(self, key: Any, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


class RayTasks:
    """Work as tasks of Ray, ``cores`` and ``gpus`` each, in this folder; what they write must be seen by all
    machines."""

    def __init__(self, address: str | None, name: Callable[[Any], str], cores: int = 1, gpus: float = 0.0) -> None:
        import ray

        self._name, self._needs = name, {"num_cpus": cores, "num_gpus": gpus}
        paths = [path for path in dict.fromkeys(sys.path) if path]
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address, runtime_env=environment, log_to_driver=False)
            except (ConnectionError, ValueError) as error:
                raise RunError(
                    f"Ray cannot be reached at {address}: start it there, or leave --address out."
                ) from error
        self._running: dict[Any, Any] = {}

    def __enter__(self) -> RayTasks:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for reference in self._running.values():
            ray.cancel(reference, force=True)
        if self._ours:
            ray.shutdown()

    @property
    def slots(self) -> int:
        import ray

        there = ray.cluster_resources()
        least = there.get("CPU", 1) / self._needs["num_cpus"]
        if gpus := self._needs["num_gpus"]:
            least = min(least, there.get("GPU", 0) / gpus)
        return max(1, int(least))

    @property
    def running(self) -> set[Any]:
        return set(self._running)

    def start(self, key: Any, work: Callable[..., Any], *arguments: Any) -> None:
        import ray

        task = ray.remote(**self._needs, max_retries=0)(_run)
        self._running[key] = task.remote(str(Path.cwd()), work, arguments)

    def wait(self, seconds: float) -> Message[Any] | None:
        import ray

        ready, _ = ray.wait(list(self._running.values()), num_returns=1, timeout=seconds)
        if not ready:
            return None
        key = next(key for key, reference in self._running.items() if reference == ready[0])
        try:
            value = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            del self._running[key]
            sentence = f"{self._name(key)} died ({type(error).__name__}): go on with --resume."
            raise WorkerDied(key, sentence) from error
        del self._running[key]
        return Message(key, value, done=True)


def _run(folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    if Path(folder).is_dir():
        os.chdir(folder)
    try:
        return work(lambda *_: None, *arguments)
    except PolicypressError:
        raise
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
