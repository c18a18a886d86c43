"""Agents that others trained, pressed by the one command: what it reaches in how many bytes and minutes.

    python benchmarks/frontier.py run --agents FOLDER --out runs/rows [--rows swimmer-30,hopper-30] [--seeds 1,2,3]
    python benchmarks/frontier.py report runs/rows --csv docs/frontier/rows.csv
    python benchmarks/frontier.py zoo runs/rows --out zoo
    python benchmarks/frontier.py picture docs/frontier --zoo zoo [--paper paper_results.csv]

``run`` presses agents with ``policypress compress AGENT --keep SHARE --bytes BYTES --minutes MINUTES`` and no further
option, one row after the other, each on all cores; what is finished is skipped, what was interrupted goes on. Agents
of Ant and Humanoid come from ``benchmarks/fast_sac.py --out runs/rows/agents``; those of classic control and Box2D
(``pip install "gymnasium[box2d]"``) are trained first, by ``policypress train``.
``report`` writes what came of them, ``zoo`` keeps of every environment the policies that no smaller one beats, and
``picture`` draws them beside linear.csv (``benchmarks/linear.py``), open_loop.csv (``benchmarks/open_loop.py``), the
agents of rows.csv and the paper's own points, which ``--paper`` takes into paper.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from fast_sac import PLAIN

import policypress as pp
from policypress.measure.returns import summary
from policypress.measure.size import size
from policypress.rl.evaluate import evaluate


@dataclass(frozen=True)
class Row:
    """An agent, and what of it must be kept in how many bytes (0: as few as possible) and minutes; ``steps``: how long
    it is trained, if it is not given; ``env_kwargs``: what its environment is made with, NAME:VALUE; ``pressing``:
    options of ``compress`` where nothing is searched."""

    agent: str
    algo: str
    env: str
    keep: float
    bytes: int
    minutes: int
    steps: int = 0
    env_kwargs: tuple[str, ...] = ()
    pressing: tuple[str, ...] = ()

    def training(self, out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "policypress", "train", "--algo", self.algo, "--env", self.env),
            *("--steps", str(self.steps), "--seed", "1", "--out", str(out), "--resume"),
        ]

    def command(self, agent: Path, seed: int, out: Path) -> list[str]:
        limit = ("--bytes", str(self.bytes)) if self.bytes else ()
        searched = ("--keep", f"{self.keep:g}", *limit, "--minutes", str(self.minutes))
        return [
            *(sys.executable, "-m", "policypress", "compress", str(agent), "--algo", self.algo, "--env", self.env),
            *(self.pressing or searched),
            *("--seed", str(seed), "--out", str(out), "--resume"),
            *(part for pair in self.env_kwargs for part in ("--env-kwargs", pair)),
        ]


def plain(env_id: str) -> tuple[str, ...]:
    """What ``benchmarks/fast_sac.py`` made the environment of its agent with."""
    return tuple(f"{name}:{value}" for name, value in PLAIN[env_id].items())


SWIMMER = ("tqc-Swimmer-1M.zip", "tqc", "Swimmer-v5")
HOPPER = ("tqc-Hopper-1M.zip", "tqc", "Hopper-v5")
WALKER = ("sac-Walker2d-1M.zip", "sac", "Walker2d-v5")
CHEETAH = ("sac-HalfCheetah-1M.zip", "sac", "HalfCheetah-v5")
ANT = ("Ant-v5.zip", "sac", "Ant-v5")
HUMANOID = ("Humanoid-v5.zip", "sac", "Humanoid-v5")
YOUNG_CHEETAH = ("HalfCheetah-v5-sac.zip", "sac", "HalfCheetah-v5")
SPARSE = ("--method=finetune", "--hidden=256,256", "--sparsity=0.98", "--learning-rate=0.0005", "--steps=300000")
ROWS = {
    "swimmer-30": Row(*SWIMMER, 0.99, 32, 30),
    "hopper-30": Row(*HOPPER, 1.0, 64, 30),
    "cheetah-200k-30": Row(*YOUNG_CHEETAH, 1.0, 128, 30),
    "walker-30": Row(*WALKER, 0.95, 200, 30),
    "cheetah-30": Row(*CHEETAH, 0.95, 1000, 30),
    "swimmer-120": Row(*SWIMMER, 1.04, 24, 120),
    "hopper-120": Row(*HOPPER, 1.04, 44, 120),
    "cheetah-200k-120": Row(*YOUNG_CHEETAH, 1.1, 100, 120),
    "walker-120": Row(*WALKER, 1.2, 128, 120),
    "cheetah-120": Row(*CHEETAH, 0.95, 500, 120),
    "cheetah-98-120": Row(*CHEETAH, 0.94, 0, 120, pressing=(*SPARSE, "--episodes=100")),
    "ant-120": Row(*ANT, 0.95, 400, 120, env_kwargs=plain("Ant-v5")),
    "humanoid-120": Row(*HUMANOID, 0.95, 0, 120, env_kwargs=plain("Humanoid-v5")),
}
"""The figures that the command is held to, the median of three seeds; those of Humanoid are only measured."""
ROWS |= {
    name: Row("", algo, env, 0.95, 0, 3, steps)
    for name, algo, env, steps in (
        ("cartpole", "ars", "CartPole-v1", 100_000),
        ("acrobot", "ars", "Acrobot-v1", 200_000),
        ("pendulum", "sac", "Pendulum-v1", 15_000),
        ("mountain-car", "ars", "MountainCar-v0", 1_000_000),
        ("mountain-car-continuous", "ars", "MountainCarContinuous-v0", 500_000),
        ("lunar-lander", "ars", "LunarLander-v3", 2_000_000),
    )
}
KEEP_WORST = 0.9
"""Of an agent's worst tenth, what a row must keep, as a search does by default."""
ZOO_SEED = 20_000
"""Policies of the zoo are measured from ``reset(seed=20000 + i)``: no other seed is near."""
COLUMNS = (
    *("row", "seed", "env", "minutes", "keep", "bytes", "reached", "payload_bytes", "mean", "low", "high", "share"),
    *("worst_share", "ended_early", "agent_mean", "agent_bytes", "wall_minutes", "episodes"),
)


def run(arguments: argparse.Namespace) -> None:
    names = arguments.rows.split(",") if arguments.rows else list(ROWS)
    for seed in map(int, arguments.seeds.split(",")):
        for name in names:
            out = arguments.out / f"{name}-{seed}"
            if (out / "result.json").exists():
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            print(f"{name}, seed {seed}", flush=True)
            row, trained = ROWS[name], arguments.out / "agents" / ROWS[name].env
            row = replace(row, minutes=min(row.minutes, arguments.minutes)) if arguments.minutes else row
            given = (arguments.agents / row.agent, arguments.out / "agents" / row.agent)
            agent = trained / "agent.zip" if row.steps else next((one for one in given if one.exists()), given[0])
            commands = [row.training(trained)] if row.steps and not agent.exists() else []
            with (arguments.out / f"{name}-{seed}.log").open("a") as log:
                for command in (*commands, row.command(agent, seed, out)):
                    code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
                    print(f"  exit code {code}", flush=True)


def finished(folder: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Rows, seeds and results under ``folder``."""
    for file in sorted(folder.glob("*/result.json")):
        name, _, seed = file.parent.name.rpartition("-")
        if name in ROWS:
            yield name, int(seed), json.loads(file.read_text())


def report(arguments: argparse.Namespace) -> None:
    """Rows of runs under ``arguments.runs`` take the place of those of the same row and seed in the CSV."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    if arguments.csv and arguments.csv.exists():
        with arguments.csv.open() as file:
            rows = {(row["row"], row["seed"]): row for row in csv.DictReader(file)}
    for name, seed, result in finished(arguments.runs):
        row, measured, kept = ROWS[name], result["evaluation"], result["kept"]
        # A search tells these two itself.
        worst_share = kept.get("worst_share", measured["worst_tenth"] / result["teacher"]["worst_tenth"])
        reached = result.get("reached", kept["low"] >= row.keep and worst_share >= KEEP_WORST)
        values = (
            {"row": name, "seed": seed, "env": row.env, "minutes": row.minutes, "keep": row.keep, "bytes": row.bytes}
            | {key: measured[key] for key in ("mean", "low", "high", "ended_early", "episodes")}
            | {"share": kept["share"], "worst_share": worst_share}
            | {"reached": reached, "payload_bytes": result["size"]["payload_bytes"]}
            | {"agent_bytes": result["size"]["baseline_bytes"]}
            | {"agent_mean": result["teacher"]["mean"], "wall_minutes": result["wall_seconds"] / 60}
        )
        rows[name, str(seed)] = {key: f"{v:.4g}" if isinstance(v := values[key], float) else f"{v}" for key in COLUMNS}
    for name in ROWS:
        if mine := [row for (one, _), row in rows.items() if one == name]:
            shares, sizes = ([float(row[key]) for row in mine] for key in ("share", "payload_bytes"))
            print(
                f"{name}: {sum(row['reached'] == 'True' for row in mine)} of {len(mine)} reached; median "
                f"{median(shares):.1%} of the agent in {median(sizes):g} B (asked: {ROWS[name].keep:.0%} in "
                f"{ROWS[name].bytes} B)"
            )
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(rows.items()))


def zoo(arguments: argparse.Namespace) -> None:
    """Of every environment the policies that no smaller one beats by the lower end of the mean's interval.

    Candidates were compared from the seeds of their search; those that are kept are measured from others.
    """
    found: dict[str, list[Path]] = {}
    for name, seed, _ in finished(arguments.runs):
        found.setdefault(ROWS[name].env, []).append(arguments.runs / f"{name}-{seed}" / "policy.policy")
    for file in arguments.runs.glob("*/frontier.csv"):
        name = file.parent.name.rpartition("-")[0]
        with file.open() as text:
            for row in csv.DictReader(text):
                if row["confirmed"] == "True" and name in ROWS:
                    line, _, number = row["name"].rpartition("-")
                    found.setdefault(ROWS[name].env, []).append(
                        file.parent / "lines" / line / f"{int(number):04}.policy"
                    )
    for env, files in found.items():
        policies = {file: pp.load(file) for file in files}
        policies |= {file: pp.load(file) for file in sorted((arguments.out / env).glob("*.policy"))}
        best = -float("inf")
        for file, policy in sorted(policies.items(), key=lambda item: size(item[1]).payload_bytes):
            searched = policy.results.get("search") or policy.results["evaluation"]
            low = summary(searched["returns"])["low"]
            if low <= best:
                continue
            best = low
            out = arguments.out / env / f"{size(policy).payload_bytes}.policy"
            if file != out:
                out.parent.mkdir(parents=True, exist_ok=True)
                measured = evaluate(policy, episodes=100, seed=ZOO_SEED).as_dict()
                replace(policy, results={"evaluation": measured}).save(out)
                print(f"{out}: {measured['mean']:,.0f}, worst tenth {measured['worst_tenth']:,.0f}")


# Inputs and outputs of the paper's actors, two hidden layers of 256 between them; its tasks are those of v4.
PAPER_SHAPES = {"Ant-v5": (27, 8), "HalfCheetah-v5": (17, 6), "Hopper-v5": (11, 3), "Humanoid-v5": (376, 17)}
PAPER_SHAPES |= {"Swimmer-v5": (8, 2), "Walker2d-v5": (17, 6)}


def from_paper(source: Path, out: Path) -> None:
    """Final returns of SAC by sparsity, at the paper's own count of bytes: weights that are not zero, 8 bits each."""
    with source.open() as file, out.open("w", newline="") as written:
        writer = csv.DictWriter(written, ("env", "sparsity", "nominal_bytes", "mean", "std"), lineterminator="\n")
        writer.writeheader()
        for row in csv.DictReader(file):
            env = row["env"].replace("-v4", "-v5")
            if row["algorithm"] == "sac" and env in PAPER_SHAPES and float(row["sparsity"]) > 0:
                inputs, outputs = PAPER_SHAPES[env]
                weights = 256 * (inputs + 256 + outputs)
                size_of = round(weights * (1 - float(row["sparsity"])))
                returns = {"mean": row["return_final_mean"], "std": row["return_final_std"]}
                writer.writerow({"env": env, "sparsity": row["sparsity"], "nominal_bytes": size_of} | returns)


def picture(arguments: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder: Path = arguments.folder
    if arguments.paper:
        from_paper(arguments.paper, folder / "paper.csv")

    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((folder / name).open())) if (folder / name).exists() else []

    families: dict[str, list[tuple[str, float, float, float]]] = {
        "policypress, the zoo": [
            (file.parent.name, size(policy).payload_bytes, policy.results["evaluation"]["mean"], worst(policy))
            for file in sorted(arguments.zoo.glob("*/*.policy"))
            if (policy := pp.load(file))
        ],
        "policypress, results/": [
            (file.parts[-3], size(policy).payload_bytes, policy.results["evaluation"]["mean"], worst(policy))
            for file in sorted(arguments.zoo.parent.glob("results/*/*/policy.policy"))
            if (policy := pp.load(file)).numerics == "integer" and "worst_tenth" in policy.results.get("evaluation", {})
        ],
        "linear policies of 2018, as integers": [
            (row["env"], float(row["bytes"]), float(row["mean"]), float(row["worst_tenth"]))
            for row in rows("linear.csv")
            if row["form"] != "float"
        ],
        "open loop": [
            (row["env"], float(row["bytes"]), float(row["mean"]), float(row["worst_tenth"]))
            for row in rows("open_loop.csv")
        ],
        "agents, float32": [
            (row["env"], float(row["agent_bytes"]), float(row["agent_mean"]), float(row["agent_mean"]))
            for row in rows("rows.csv")
        ],
        "the paper, its own count of bytes": [
            (row["env"], float(row["nominal_bytes"]), float(row["mean"]), float(row["mean"]))
            for row in rows("paper.csv")
        ],
    }
    tasks = sorted(PAPER_SHAPES)
    figure, axes = plt.subplots(-(-len(tasks) // 3), 3, figsize=(13, 7), layout="constrained", squeeze=False)
    for axis, env in zip(axes.ravel(), tasks, strict=False):
        for index, (name, points) in enumerate(families.items()):
            mine = sorted(point[1:] for point in points if point[0] == env)
            if mine:
                sizes, means, worsts = zip(*mine, strict=True)
                axis.vlines(sizes, worsts, means, color=f"C{index}", alpha=0.4)
                axis.plot(sizes, means, "o" if index < 2 else "s", ms=5, color=f"C{index}", label=name)
        axis.set_xscale("log")
        axis.set_title(env)
        axis.grid(alpha=0.3, which="both")
    for axis in axes.ravel()[len(tasks) :]:
        axis.set_axis_off()
    handles = {
        label: handle for axis in axes.ravel() for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5)
    figure.supxlabel("bytes of the payload")
    figure.supylabel("mean return; down to the worst tenth")
    figure.savefig(folder / "frontier.png", dpi=110)


def worst(policy: pp.Policy) -> float:
    return float(policy.results["evaluation"]["worst_tenth"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run")
    running.add_argument("--agents", type=Path, required=True)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--rows", default="")
    running.add_argument("--seeds", default="1,2,3")
    running.add_argument("--minutes", type=int, help="fewer than a row allows, on a machine that is lent for less")
    running.set_defaults(verb=run)
    reporting = verbs.add_parser("report")
    reporting.add_argument("runs", type=Path)
    reporting.add_argument("--csv", type=Path)
    reporting.set_defaults(verb=report)
    keeping = verbs.add_parser("zoo")
    keeping.add_argument("runs", type=Path)
    keeping.add_argument("--out", type=Path, required=True)
    keeping.set_defaults(verb=zoo)
    drawing = verbs.add_parser("picture")
    drawing.add_argument("folder", type=Path)
    drawing.add_argument("--zoo", type=Path, required=True)
    drawing.add_argument("--paper", type=Path)
    drawing.set_defaults(verb=picture)
    arguments = parser.parse_args()
    arguments.verb(arguments)


if __name__ == "__main__":
    main()
