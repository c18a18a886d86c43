"""What a whole study would take on a cluster, from runs of its own that are cut short here.

    python benchmarks/scaling.py studies/ivanov2025-mujoco.toml [--steps 1000,3000] [--methods 5] [--markdown]

Of every task of the study, algorithm, environment and network, the run of the middle sparsity is done twice, with as
many nominal steps as ``--steps`` says; what the longer one takes beside the shorter one, start and end left out, is the
price of a step: CPU seconds of one core (not wall time, so that neighbours do not decide), and bytes of replay buffer.
Pruning changes the masks three times, as seldom as in a whole run; evaluations on the way are left out. Peak memory is
that of the longer run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from policypress.presets import default_steps
from policypress.studies.cells import Cell
from policypress.studies.study_file import read_study

EXTENSION = 1.3
"""Steps of a run of the preset ivanov2025 over its nominal ones."""


@dataclass(frozen=True)
class Cost:
    """Of ``steps`` nominal steps: CPU seconds, bytes of the folder's replay buffer, bytes of peak memory."""

    steps: int
    cpu: float
    replay: int
    memory: int


def cost(cell: Cell, steps: int, folder: Path) -> Cost:
    """Runs ``cell`` for ``steps`` nominal steps."""
    out = folder / f"{cell.identity}-{steps}"
    short = Cell(
        cell.kind, {**cell.settings, "steps": steps, "eval_every": 0, "final_episodes": 2, "prune_iterations": 3}, {}
    )
    command = [*short.arguments(out), "--set=learning_starts=200", "--eval-episodes=1"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "policypress", *command], stdout=subprocess.DEVNULL, env={**os.environ, **threads}
    )
    replay = 0
    while (waited := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        replay = max(replay, sum(file.stat().st_size for file in found(out)))
        time.sleep(0.2)
    if waited[1]:
        sys.exit(f"{' '.join(command)} failed.")
    used = waited[2]
    return Cost(steps, used.ru_utime + used.ru_stime, replay, used.ru_maxrss * 1024)


def found(out: Path) -> Iterable[Path]:
    """The files of a run's replay buffer; they go when it ends."""
    try:
        return [file for file in out.rglob("replay*/*") if file.is_file()]
    except OSError:
        return []


@dataclass(frozen=True)
class Task:
    """What runs of one algorithm, environment and network take: ``steps`` of each, CPU seconds a step, bytes of the
    replay buffer and of memory beside it."""

    name: str
    runs: int
    steps: int
    seconds: float
    replay: float
    memory: float

    @property
    def hours(self) -> float:
        """Core-hours of all runs."""
        return self.runs * self.steps * self.seconds / 3600


def measured(name: str, cells: list[Cell], steps: tuple[int, int], folder: Path) -> Task:
    cell = sorted(cells, key=lambda one: one.settings["sparsity"])[len(cells) // 2]
    family = "atari" if "NoFrameskip" in cell.settings["env"] else "continuous"
    whole = cell.settings.get("steps") or default_steps(cell.settings["preset"], family)
    assert whole is not None
    short, longer = (cost(cell, count, folder) for count in steps)
    seconds = (longer.cpu - short.cpu) / (longer.steps - short.steps)
    row = longer.replay / (EXTENSION * longer.steps)
    held = min(1_000_000, EXTENSION * whole)  # as many as Stable-Baselines3 keeps
    return Task(name, len(cells), whole, seconds, row * held, longer.memory - longer.replay)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a study of `policypress train` in the preset ivanov2025")
    parser.add_argument("--steps", default="1000,3000", help="nominal ones of both runs (1000,3000)")
    parser.add_argument("--methods", type=int, default=5, help="times the study's runs (5)")
    arguments = parser.parse_args()
    first, second = map(int, arguments.steps.split(","))
    tasks: dict[str, list[Cell]] = {}
    for cell in read_study(arguments.study).cells:
        names = (cell.settings.get(key, "") for key in ("algo", "env", "network"))
        tasks.setdefault(" ".join(name for name in names if name), []).append(cell)
    print("| task | runs | CPU s a 1,000 steps | core-hours a run | core-hours | GiB of buffer | GiB beside |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    total, started = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, cells in tasks.items():
            task = measured(name, cells, (first, second), Path(folder))
            runs = task.runs * arguments.methods
            total += arguments.methods * task.hours
            print(
                f"| {name} | {runs:,} | {1000 * task.seconds:.1f} | {task.hours / task.runs:.1f} |"
                f" {arguments.methods * task.hours:,.0f} | {task.replay / 2**30:.1f} | {task.memory / 2**30:.1f} |",
                flush=True,
            )
    print(f"\n{total:,.0f} core-hours in all; measured in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
