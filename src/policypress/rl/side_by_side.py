"""Runs of training side by side, one process each, and the picture of their learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from policypress.config import TrainConfig
from policypress.rl.curves import plot_curves
from policypress.rl.train import check, read_evaluations, train
from policypress.rl.workers import Tell, Workers

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
    results: dict[str, dict[str, Any]] = {}
    with Workers[str](lambda name: f"the {name} run", ", and one run at a time") as workers:
        for name, (config, out) in runs.items():
            workers.start(name, _train, config, out, resume)
        while workers.running:
            message = workers.wait(1.0)
            if message is None:
                continue
            if message.done:
                results[message.key] = message.value
            elif progress is not None:
                progress(message.key, *message.value)
    return {name: results[name] for name in runs}


def _train(tell: Tell, config: TrainConfig, out: Path, resume: bool) -> dict[str, Any]:
    return train(config, out, resume=resume, progress=tell)
