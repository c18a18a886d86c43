"""Work in processes of its own: started, heard of, and ended with whoever started it."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from policypress.errors import ConfigError, PolicypressError, RunError
from policypress.measure.machine import usable_cores

K = TypeVar("K")

Tell = Callable[..., None]
"""``tell(*values)`` sends values to the process that started the work, if there are any; RunError if it is gone."""


@dataclass(frozen=True)
class Message(Generic[K]):
    """What a worker tells: values on its way, or, ``done``, what its work returned."""

    key: K
    value: Any
    done: bool = False


@dataclass(frozen=True)
class _Failure(Generic[K]):
    key: K
    error: Exception
    trace: str


class _WorkerTrace(Exception):
    """Where in the worker an error was raised; shown as its cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def check_jobs(jobs: int | None) -> None:
    """Raises ConfigError for a number of processes that is none; None, one a core, is."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs={jobs} must be at least 1.")


def start(process: BaseProcess) -> None:
    """Starts ``process`` so that Ctrl-C in the terminal does not reach it: whoever started it ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers(Generic[K]):
    """Processes that do one piece of work each, by key; leaving the ``with`` block ends those that still run.

    ``name`` says in an error which worker it was; ``less``, what to do if memory was short.
    """

    def __init__(self, name: Callable[[K], str], less: str = "") -> None:
        self._name, self._less = name, less
        self._context: Any = multiprocessing.get_context("spawn")
        self._messages: Any = self._context.Queue()
        self._running: dict[K, Any] = {}

    def __enter__(self) -> Workers[K]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._running.values():
            worker.terminate()
            worker.join()

    @property
    def slots(self) -> int:
        """How many pieces of work this machine does at once: one a core that this process may use."""
        return usable_cores()

    @property
    def running(self) -> set[K]:
        return set(self._running)

    def start(self, key: K, work: Callable[..., Any], *arguments: Any) -> None:
        """Calls ``work(tell, *arguments)`` in a process of its own; all of it, and what it returns, is pickled.

        Ctrl-C in the terminal does not reach that process: this one ends it.
        """
        worker = self._context.Process(target=_run, args=(key, self._messages, work, arguments), daemon=True)
        start(worker)
        self._running[key] = worker

    def wait(self, seconds: float) -> Message[K] | None:
        """The next message of any worker; None if none comes in ``seconds``.

        Raises the error that a worker raised, as it is, and RunError if one died without a word.
        """
        dead = [key for key, worker in self._running.items() if worker.exitcode is not None]
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            if dead:  # before, so that what they told has been heard
                raise self._death(dead[0]) from None
            return None
        if isinstance(message, _Failure):
            raise message.error from (
                None if isinstance(message.error, PolicypressError) else _WorkerTrace(message.trace)
            )
        assert isinstance(message, Message)
        if message.done:
            self._running.pop(message.key).join()
        return message

    def _death(self, key: K) -> RunError:
        code = self._running[key].exitcode
        killed = code == -signal.SIGKILL
        return RunError(
            f"{self._name(key)} died (exit code {code}){', perhaps for want of memory' if killed else ''}: go on with "
            f"--resume{self._less if killed else ''}."
        )


class Server:
    """A process that answers what it is asked by ``make(*arguments)``, which is made there; all of it is pickled.

    ``work`` says in an error what it does. ``connection`` has something to read when there is an answer.
    """

    def __init__(self, work: str, make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        context: Any = multiprocessing.get_context("spawn")
        self._work = work
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        start(self._process)
        theirs.close()

    def ask(self, *question: Any) -> None:
        try:
            self.connection.send(question)
        except ConnectionError:
            raise self._death() from None

    def answer(self) -> Any:
        """What was asked first and not yet answered; raises what was raised there, RunError if the process died."""
        try:
            found = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None
        if isinstance(found, Exception):
            raise found
        return found

    def _death(self) -> RunError:
        self._process.join()
        return RunError(f"a process that {self._work} died (exit code {self._process.exitcode}): go on with --resume.")

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(connection: Any, make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    try:
        answer = make(*arguments)
        while True:
            connection.send(answer(*connection.recv()))
    except (EOFError, ConnectionError):
        pass  # whoever asked is gone
    except Exception as error:  # it is raised where somebody reads it
        connection.send(_sendable(error))


def _run(key: Any, messages: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def tell(*values: Any) -> None:
        if not parent.is_alive():
            raise RunError("the process that started this one is gone: go on with --resume.")
        if values:
            messages.put(Message(key, values))

    try:
        messages.put(Message(key, work(tell, *arguments), done=True))
    except Exception as error:  # whatever it is, it is told of where somebody reads it
        messages.put(_Failure(key, _sendable(error), traceback.format_exc()))


def _sendable(error: Exception) -> Exception:
    """``error``, or what it says where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of any library can refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
