"""What a large study takes, from short measured runs: core-hours, memory, disk, and what of them breaks first.

    python benchmarks/scaling.py measure runs/scaling.json [--steps 150] [--only TEXT]
    python benchmarks/scaling.py plan runs/scaling.json [--price 0.04] [--machine 64 256 2000]

``measure`` makes the agent of each kind of run of the paper's grid (`studies/ivanov2025-*.toml`) as `policypress train`
does, and lets it learn for ``--steps`` steps in each phase of its run: before it learns, dense, while it is pruned,
pruned, and with 8-bit weights. Between phases its count of steps jumps; all else is the run itself. Every kind is a
process of its own; its CPU time is counted, so that a neighbour on the machine does not decide. What a played step
of an evaluation takes, a checkpoint, a replay buffer and the process's memory are measured beside.

``plan`` adds up: steps of each phase, evaluations of the longest episodes, checkpoints; times runs and seeds.
``--price``: of a core-hour. ``--machine``: cores, GiB of memory and GiB of disk of one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from policypress.config import TrainConfig
from policypress.rl import CompressionCallback
from policypress.rl.adapters import adapter_named
from policypress.rl.checkpoint import map_replay_buffer, save_checkpoint
from policypress.rl.evaluate import evaluate
from policypress.rl.freeze import freeze
from policypress.rl.plan import plan_training
from policypress.rl.train import new_model, training_env
from policypress.studies.study_file import read_study

STUDIES = Path(__file__).parent.parent / "studies"
FILES = (STUDIES / "ivanov2025-mujoco.toml", STUDIES / "ivanov2025-atari.toml")
METHODS: dict[str, dict[str, str]] = {
    "magnitude": {},
    "static random": {"pruning": "static", "allocation": "erk"},
    "SET": {"pruning": "set", "allocation": "erk"},
    "RigL": {"pruning": "rigl", "allocation": "erk"},
    "movement": {"criterion": "movement", "allocation": "erk"},
}
COMPARED = {"sac": "HalfCheetah-v4", "dqn": "PongNoFrameskip-v4"}
"""The other methods are measured on these, and counted as magnitude; of Atari nothing else is measured."""
SPARSITY = 0.9
WARM_UP = 40  # steps after a jump, not counted
SMALL_BUFFER = 20_000
LONGEST = {"sac": 1_000, "dqn": 2_000}
"""Steps of an evaluated episode: the limit of MuJoCo's, and of a game of Pong that goes on for long."""
CHECKPOINTS = 100


def kinds() -> list[dict[str, Any]]:
    """Runs of the grid that take different times: those of a task and a network, dense and sparse, by each method."""
    found: dict[str, dict[str, Any]] = {}
    for file in FILES:
        for cell in read_study(file).cells:
            told = cell.settings
            for method in METHODS if told["sparsity"] else [""]:
                kind = {"algo": told["algo"], "env": told["env"], "network": told.get("network", "mlp")}
                kind |= {"method": method}
                one = found.setdefault(json.dumps(kind), {**kind, "runs": 0})
                one["runs"] += 1
    return list(found.values())


def config_of(kind: dict[str, Any]) -> TrainConfig:
    compression: dict[str, Any] = {}
    if kind["method"]:
        compression = {"sparsity": SPARSITY, **METHODS[kind["method"]]}
    return plan_training(
        kind["algo"],
        kind["env"],
        preset="ivanov2025",
        compression=compression,
        training={"network": kind["network"]},
    )


def phases(config: TrainConfig, learning_starts: int) -> dict[str, tuple[int, int]]:
    """First step and number of steps of each phase of a run."""
    of, one = config.compression, config.steps
    begins = {"not learning": 0, "dense": learning_starts + 1}
    if of.prunes:
        begins |= {"pruning": int(of.prune_start * one), "pruned": int(of.prune_end * one)}
    begins |= {"quantizing": int(of.quantize_start * one)}
    ends = [*list(begins.values())[1:], config.total_steps]
    return {name: (begin, end - begin) for (name, begin), end in zip(begins.items(), ends, strict=True)}


class Jump(BaseCallback):
    """CPU seconds a step in each phase; between phases the count of steps jumps."""

    def __init__(self, starts: dict[str, int], steps: int) -> None:
        super().__init__()
        self.left, self.steps = list(starts.items()), steps
        self.seconds: dict[str, float] = {}
        self._taken, self._began = 0, 0.0

    def _on_step(self) -> bool:
        self._taken += 1
        if self._taken == WARM_UP:
            self._began = time.process_time()
        elif self._taken == WARM_UP + self.steps:
            name, _ = self.left.pop(0)
            self.seconds[name] = (time.process_time() - self._began) / self.steps
            self._taken = 0
            if self.left:
                self.model.num_timesteps = self.left[0][1]
        return bool(self.left)


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = do()
    return time.process_time() - began, found


def one(kind: dict[str, Any], steps: int) -> dict[str, Any]:
    """What a run of this ``kind`` takes, measured in this process."""
    torch.set_num_threads(1)
    config = config_of(kind)
    adapter = adapter_named(config.algo)
    small = replace(config, algo_kwargs={**config.algo_kwargs, "buffer_size": SMALL_BUFFER})
    env = training_env(config)
    model = new_model(small, adapter, env)
    spans = phases(config, adapter.learning_starts(model))
    with tempfile.TemporaryDirectory() as folder:
        map_replay_buffer(model, Path(folder) / "replay", resume=False)
        stored = sum(file.stat().st_size for file in (Path(folder) / "replay").iterdir()) / SMALL_BUFFER
        jump = Jump({name: start for name, (start, _) in spans.items()}, steps)
        model.learn(config.total_steps, callback=[CompressionCallback(config.compression, config.steps), jump])
        checkpoint_seconds, _ = timed(lambda: save_checkpoint(model, Path(folder) / "checkpoint", {}))
        checkpoint_bytes = sum(file.stat().st_size for file in (Path(folder) / "checkpoint").rglob("*.*"))
    freeze_seconds, policy = timed(lambda: freeze(model, unfinished=True))
    play_seconds, played = timed(lambda: evaluate(policy, episodes=2, seed=500))
    env.close()
    capacity = min(config.total_steps + 1, 1_000_000)
    return {
        **kind,
        "steps": {name: count for name, (_, count) in spans.items()},
        "seconds_a_step": jump.seconds,
        "evaluations": config.total_steps // config.evaluation_interval,
        "evaluation_episodes": config.eval_episodes,
        "freeze_seconds": freeze_seconds,
        "seconds_a_played_step": play_seconds / sum(played.lengths),
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_bytes": checkpoint_bytes,
        "replay_bytes": stored * capacity,
        "replay_bytes_a_step": stored,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measured_itself(kind: dict[str, Any]) -> bool:
    compared = kind["env"] == COMPARED[kind["algo"]]
    return (compared or kind["algo"] == "sac") and (
        kind["method"] in ("", "magnitude") or (compared and kind["network"] != "resnet")
    )


def name_of(kind: dict[str, Any]) -> str:
    return " ".join(kind[part] for part in ("algo", "env", "network", "method")).strip()


def measure(out: Path, steps: int, only: str) -> None:
    """Writes what each kind of run takes to ``out``, after each; what is there is not measured again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = json.loads(out.read_text())["kinds"] if out.exists() else []
    told = {name_of(row) for row in found}
    for kind in kinds():
        name = name_of(kind)
        if name in told or only not in name or not measured_itself(kind):
            continue
        print(name, flush=True)
        command = [sys.executable, __file__, "one", json.dumps(kind), "--steps", str(steps)]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        out.write_text(json.dumps({"kinds": found}, indent=1) + "\n")


def hours(row: dict[str, Any]) -> dict[str, float]:
    """Of one run: learning, evaluations (of the longest episodes), and checkpoints."""
    played = row["evaluations"] * row["evaluation_episodes"] * LONGEST[row["algo"]] * row["seconds_a_played_step"]
    seconds = {
        "learning": sum(row["seconds_a_step"][name] * count for name, count in row["steps"].items()),
        "evaluating": row["evaluations"] * row["freeze_seconds"] + played,
        "saving": CHECKPOINTS * row["checkpoint_seconds"],
    }
    return {name: value / 3600 for name, value in seconds.items()}


def plan(measured: Path, price: float, machine: tuple[float, float, float]) -> None:
    """Prints what the grid takes, as tables of Markdown."""
    rows = {name_of(row): row for row in json.loads(measured.read_text())["kinds"]}
    of_run = {name: sum(hours(row).values()) for name, row in rows.items()}
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for kind in kinds():
        env = kind["env"] if kind["algo"] == "sac" else COMPARED["dqn"]
        base = {**kind, "env": env, "method": kind["method"] and "magnitude"}
        one = of_run[name_of(base)]
        label = "Atari, four games" if kind["algo"] == "dqn" else env
        group = groups.setdefault((label, kind["network"]), dict.fromkeys(("runs", "hours", "dense", "sparse"), 0.0))
        group["runs"] += kind["runs"]
        group["hours"] += kind["runs"] * one
        if kind["method"] in ("", "magnitude"):
            group["sparse" if kind["method"] else "dense"] = one
            row = rows[name_of(base)]
            group |= {name: row[name] / 2**30 for name in ("peak_memory_bytes", "replay_bytes")}
            written = row["replay_bytes_a_step"] * sum(row["steps"].values()) + CHECKPOINTS * row["checkpoint_bytes"]
            group["written"] = written / 2**30
    print("| task | network | runs | hours a run, dense | sparse | memory | replay on disk | written | core-hours |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for (label, network), group in groups.items():
        print(
            f"| {label} | {network} | {group['runs']:,.0f} | {group['dense']:,.1f} | {group['sparse']:,.1f} | "
            f"{group['peak_memory_bytes']:.2f} GiB | {group['replay_bytes']:.2f} GiB | {group['written']:,.1f} GiB | "
            f"{group['hours']:,.0f} |"
        )
    total = sum(group["hours"] for group in groups.values())
    print(f"\n{sum(group['runs'] for group in groups.values()):,.0f} runs, {total:,.0f} core-hours, ", end="")
    print(f"{total * price:,.0f} at {price} a core-hour; the longest run {max(of_run.values()):,.0f} hours.\n")
    cores, memory, disk = machine
    print(f"| of a machine of {cores:g} cores, {memory:g} GiB, {disk:g} GiB of disk | runs at once | bound by |")
    print("|---|---:|---|")
    for (label, network), group in groups.items():
        # Batches are drawn from all of the replay buffer: what is not in memory is read from the disk at each step.
        bounds = {
            "cores": cores,
            "memory (the replay buffer in it)": memory / (group["peak_memory_bytes"] + group["replay_bytes"]),
            "disk": disk / group["replay_bytes"],
        }
        bound = min(bounds, key=bounds.__getitem__)
        print(f"| {label}, {network} | {int(bounds[bound])} | {bound} |")
    print("\n| method | a step while it prunes, of a dense one: MuJoCo | Atari, Nature CNN |")
    print("|---|---:|---:|")
    for method in METHODS:
        steps = [
            rows[name_of({"algo": algo, "env": env, "network": network, "method": method})]["seconds_a_step"]
            for algo, env, network in (("sac", COMPARED["sac"], "mlp"), ("dqn", COMPARED["dqn"], "nature"))
        ]
        shares = [one["pruning"] / one["dense"] for one in steps]
        print(f"| {method} | {shares[0]:.2f} | {shares[1]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("out", type=Path)
    measuring.add_argument("--only", default="")
    single = commands.add_parser("one")
    single.add_argument("kind", type=json.loads)
    for command in (measuring, single):
        command.add_argument("--steps", type=int, default=150)
    planning = commands.add_parser("plan")
    planning.add_argument("measured", type=Path)
    planning.add_argument("--price", type=float, default=0.04)
    planning.add_argument("--machine", type=float, nargs=3, default=(64, 256, 2000), metavar=("CORES", "GIB", "DISK"))
    arguments = parser.parse_args()
    if arguments.command == "one":
        print(json.dumps(one(arguments.kind, arguments.steps)))
    elif arguments.command == "measure":
        measure(arguments.out, arguments.steps, arguments.only)
    else:
        plan(arguments.measured, arguments.price, arguments.machine)


if __name__ == "__main__":
    main()
