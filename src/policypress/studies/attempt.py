"""One attempt at a run: the commands that do it, in a process of its own, and what is to be recorded of it."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from policypress.files import is_locked, write_whole
from policypress.measure.machine import machine
from policypress.studies.cells import EVALUATED, Command

Ending = Literal["done", "failed", "killed", "busy", "full"]
"""busy: another process is at work in its folder; full: the disk is."""

_TAIL = 60
"""Lines of a log that are kept of a run that failed."""
_LEAST_FREE = 2**20
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_POLL = 0.05


@dataclass(frozen=True)
class Order:
    """What is to be done: ``commands`` one after the other, the first makes ``out``. ``cores`` () are any, and
    ``threads`` as many as they are."""

    commands: tuple[Command, ...]
    out: Path
    log: Path
    cores: tuple[int, ...]
    threads: int


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, after how many seconds, and the ``figures`` of what it made (store.RESULTS)."""

    ending: Ending
    seconds: float = 0.0
    error: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def attempt(tell: Callable[[], None], order: Order) -> Outcome:
    """Does ``order``; ``tell()`` raises where nobody waits for it any more, and what runs is then ended.

    What is finished already is not done again, what has a checkpoint goes on from there.
    """
    if is_locked(order.out):
        return Outcome("busy")
    started = time.monotonic()
    try:
        order.log.parent.mkdir(parents=True, exist_ok=True)
        begun = order.log.stat().st_size if order.log.exists() else 0
        for command in order.commands:
            if command.made is not None and command.made.exists():
                continue
            said, code = _done(tell, command.arguments, order)
            if command.made is not None and command.printed and code == 0:
                write_whole(command.made, said)
            if code != 0 if command.made is None else not command.made.exists():
                return _failed(order, code, begun, time.monotonic() - started)
        return Outcome("done", time.monotonic() - started, figures=_made_here(order.out))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return Outcome("full", time.monotonic() - started, str(error))


def _done(tell: Callable[[], None], arguments: Iterable[str], order: Order) -> tuple[str, int]:
    """What `policypress` printed, and its exit code; negative for the signal that ended it."""
    cores = ",".join(map(str, order.cores)) or "-"
    whole = [sys.executable, "-m", "policypress.studies.tied", str(os.getpid()), cores, *arguments]
    threads = dict.fromkeys(_THREADS, str(order.threads))
    output = order.log.with_suffix(".out")
    with order.log.open("ab") as log, output.open("wb") as out:
        process = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            env={**os.environ, **threads},
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                time.sleep(_POLL)
                tell()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    said = output.read_text(errors="replace")
    output.unlink()
    return said, process.returncode


def _failed(order: Order, code: int, begun: int, seconds: float) -> Outcome:
    with order.log.open("rb") as log:
        log.seek(begun)
        lines = log.read().decode(errors="replace").splitlines()
    told = "\n".join(lines[-_TAIL:])
    if code < 0:
        return Outcome("killed", seconds, f"{told}\nended by signal {-code} ({signal.Signals(-code).name})".strip())
    if os.strerror(errno.ENOSPC) in told or shutil.disk_usage(order.log.parent).free < _LEAST_FREE:
        return Outcome("full", seconds, told)
    return Outcome("failed", seconds, told.strip() or f"ended with exit code {code} and without a word")


def _made_here(out: Path) -> dict[str, Any]:
    return {**figures(out), "machine": {"host": socket.gethostname(), **machine()}}


def figures(out: Path) -> dict[str, Any]:
    """The figures of the finished run in the folder ``out``, but for the machine that made it."""
    result = json.loads((out / "result.json").read_text())
    evaluated = out / EVALUATED
    evaluation = json.loads(evaluated.read_text()) if evaluated.exists() else result["evaluation"]
    size, found = result["size"], {}
    curve = out / "evaluations.csv"
    if curve.exists():
        found["curve"] = list(csv.DictReader(io.StringIO(curve.read_text())))
    if "teacher" in result:
        found["agent_returns"] = result["teacher"]["returns"]
    names = ("mean", "worst_tenth", "ended_early", "returns", "lengths", "terminated")
    sizes = ("payload_bytes", "baseline_bytes", "nominal_bytes", "disk_bytes", "flash_bytes", "weights", "nonzeros")
    return {
        **found,
        **{name: evaluation[name] for name in names},
        **{name: size.get(name) for name in sizes},  # older runs do not tell all
        "numerics": result["numerics"],
        "config": result["config"],
        "notes": result.get("notes", []),
    }
