"""Runs trained side by side, one process each, and the picture of their learning curves."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from policypress.config import TrainConfig
from policypress.errors import PolicypressError, RunError
from policypress.rl.curves import plot_curves
from policypress.rl.train import check, read_evaluations, train

Runs = Mapping[str, tuple[TrainConfig, Path]]
NamedProgress = Callable[[str, int, int, float | None], None]


def train_all(runs: Runs, *, resume: bool = False, progress: NamedProgress | None = None) -> dict[str, dict[str, Any]]:
    """Trains every run (name: config and folder), all at once if there are several; results by name.

    Draws the learning curves into ``curve.png`` of the last run's folder. If one fails the others are stopped, their
    checkpoints stay, and its error is raised.
    """
    if len(runs) == 1:
        ((name, (config, out)),) = runs.items()
        report = None if progress is None else lambda done, of, latest: progress(name, done, of, latest)
        results = {name: train(config, out, resume=resume, progress=report)}
    else:
        for config, _ in runs.values():
            check(config)  # before any of them writes something
        results = _in_processes(runs, resume, progress)
    folder = list(runs.values())[-1][1]
    plot_curves({name: read_evaluations(out) for name, (_, out) in runs.items()}, folder / "curve.png")
    return results


def _in_processes(runs: Runs, resume: bool, progress: NamedProgress | None) -> dict[str, dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    workers = {
        name: context.Process(target=_work, args=(name, config, out, resume, messages), daemon=True)
        for name, (config, out) in runs.items()
    }
    results: dict[str, dict[str, Any]] = {}
    try:
        for worker in workers.values():
            worker.start()
        while len(results) < len(workers):
            try:
                name, kind, value = messages.get(timeout=1.0)
            except queue.Empty:
                _check_alive(workers, results)
                continue
            if kind == "error":
                raise value
            if kind == "result":
                results[name] = value
            elif progress is not None:
                progress(name, *value)
    finally:
        for worker in workers.values():
            worker.terminate()
            worker.join()
    return {name: results[name] for name in runs}


def _check_alive(workers: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    for name, worker in workers.items():
        if name not in results and worker.exitcode not in (None, 0):
            raise RunError(f"the {name} run ended with exit code {worker.exitcode}: go on with --resume.")


def _work(name: str, config: TrainConfig, out: Path, resume: bool, messages: Any) -> None:
    parent = os.getppid()

    def report(*values: Any) -> None:
        if os.getppid() != parent:
            raise RunError("the process that started this run is gone: go on with --resume.")
        messages.put((name, "progress", values))

    try:
        messages.put((name, "result", train(config, out, resume=resume, progress=report)))
    except PolicypressError as error:
        messages.put((name, "error", error))
