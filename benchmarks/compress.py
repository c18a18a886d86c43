"""Every way to press one agent, side by side at real bytes: the frontier of return against size, a curve a family.

    python benchmarks/compress.py run AGENT.zip --algo sac --env HalfCheetah-v5 --out runs/frontier
    python benchmarks/compress.py report runs/frontier/* --picture runs/frontier.png

``run`` takes one core and some minutes a student; it skips those that are finished and goes on with those that are not.
``report`` takes any runs of ``policypress compress``, named NAME-SEED:

    python benchmarks/compress.py report results/*/*-1M-*
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from policypress.rl.curves import plot_frontier
from policypress.rl.formats import open_agent
from policypress.rl.plan import plan_pressing
from policypress.rl.press import press
from policypress.rl.sources import Source

Settings = dict[str, Any]
Result = dict[str, Any]
FAMILIES: dict[str, dict[str, Settings]] = {
    "priced": {
        f"{width}-{width}, price {rate:g}": {"hidden": (width, width), "compression": {"rate_weight": rate}}
        for width, rate in ((24, 0.005), (24, 0.003), (24, 0.008), (24, 0.012), (32, 0.008), (20, 0.02))
    },
    "wide, sparse": {
        f"256-256, {sparsity:.0%} sparse, learning rate {rate:g}": {
            "compression": {"sparsity": sparsity}, "student": {"batches": batches, "learning_rate": rate}
        }
        for sparsity, rate, batches in (
            (0.98, 5e-4, 90_000), (0.98, 1e-3, 150_000), (0.95, 1e-3, 60_000),
            (0.9, 1e-3, 60_000),
        )
    } | {
        "256-256, 98% sparse, by magnitude": {
            "compression": {"sparsity": 0.98, "criterion": "magnitude"},
            "student": {"batches": 90_000, "learning_rate": 5e-4},
        }
    },
    "narrow, dense": {
        f"{width}-{width}, {bits} bits": {
            "hidden": (width, width), "compression": {"rate_weight": 0.0, "weight_bits": bits}
        }
        for width, bits in ((24, 8), (38, 8), (38, 4), (16, 8))
    },
    "narrow, sparse": {
        f"64-64, {sparsity:.0%} sparse, {bits} bits": {
            "hidden": (64, 64), "compression": {"sparsity": sparsity, "weight_bits": bits}
        }
        for sparsity, bits in ((0.75, 8), (0.75, 4), (0.85, 8))
    },
    "ptq": {
        f"256-256, {sparsity:.0%} sparse": {"method": "ptq", "compression": {"sparsity": sparsity}}
        for sparsity in (0.0, 0.5, 0.8, 0.9)
    },
}  # fmt: skip


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.replace("%", "")).replace("--", "-")


def run(options: argparse.Namespace) -> None:
    agent = open_agent(Source(options.agent, options.vecnormalize), options.algo, options.env)
    for family, students in FAMILIES.items():
        if options.only and family not in options.only:
            continue
        for name, settings in students.items():
            started = time.monotonic()
            folder = options.out / f"{slug(f'{family} {name}')}-{options.seed}"
            student = {"seed": options.seed, "batches": options.batches, **settings.get("student", {})}
            config = plan_pressing(agent, **{**settings, "student": student})
            result = press(agent, config, folder, resume=True)
            print(f"{row(folder.name, [result])} {time.monotonic() - started:.0f} s", flush=True)


def report(options: argparse.Namespace) -> None:
    """One row an agent and one a student, its seeds together."""
    agents: dict[str, dict[tuple[str, str], list[tuple[str, Result]]]] = {}
    for file in sorted(folder / "result.json" for folder in options.runs):
        result = json.loads(file.read_text())
        config = {**result["config"], "student": {**result["config"]["student"], "seed": None}}
        same = (file.parent.name.rpartition("-")[0], json.dumps(config, sort_keys=True))
        agents.setdefault(config["agent"], {}).setdefault(same, []).append((file.parent.name, result))
    print(
        "| student | seeds | return | worst tenth | ends early | kept | nonzeros | payload bytes | ratio | file on disk"
        " | flash | minutes |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for students in agents.values():
        first = next(iter(students.values()))[0][1]
        agent, dense = first["teacher"], first["size"]["baseline_bytes"]
        print(
            f"| the agent: {first['config']['algo']}, {agent['env']}, float32 | | {with_limits(agent)} "
            f"| {agent['worst_tenth']:,.0f} | {agent['ended_early']:.0%} | | {dense // 4:,} | {dense:,} | 1× | | | |"
        )
        for (name, _), runs in students.items():
            print(row(name, [result for _, result in runs]))
    if options.picture:
        points: dict[str, list[tuple[int, float, float, float]]] = {}
        for name, result in (run for students in agents.values() for runs in students.values() for run in runs):
            family = next((family for family in FAMILIES if name.startswith(slug(family))), "student")
            share, low, high = (result["kept"][part] for part in ("share", "low", "high"))
            points.setdefault(family, []).append((result["size"]["payload_bytes"], share, low, high))
        plot_frontier(points, options.picture, keep=0.95)


def row(name: str, results: list[Result]) -> str:
    """Of one seed with the interval over its episodes; of several the mean over seeds with the least and the most."""
    found = [(result["evaluation"], result["size"], result["kept"]) for result in results]
    share = "none"  # is told where the agent's return is next to nothing, or no better than chance
    if all(kept["share"] is not None for _, _, kept in found):
        low, high = (found[0][2][part] for part in ("low", "high"))
        if len(found) > 1:
            low, high = (limit(kept["share"] for _, _, kept in found) for limit in (min, max))
        share = f"{np.mean([kept['share'] for _, _, kept in found]):.1%} [{low:.1%}, {high:.1%}]"
    cells = [
        name,
        ", ".join(str(result["config"]["student"]["seed"]) for result in results),
        with_limits(found[0][0]) if len(found) == 1 else spread([e["mean"] for e, _, _ in found]),
        spread([e["worst_tenth"] for e, _, _ in found]),
        spread([e["ended_early"] for e, _, _ in found], ".0%"),
        share,
        *(spread([size[part] for _, size, _ in found]) for part in ("nonzeros", "payload_bytes")),
        f"{np.mean([size['payload_ratio'] for _, size, _ in found]):.0f}×",
        *(spread([size[part] for _, size, _ in found]) for part in ("disk_bytes", "flash_bytes")),
        spread([result["wall_seconds"] / 60 for result in results]),
    ]
    return f"| {' | '.join(cells)} |"


def with_limits(evaluation: dict[str, Any]) -> str:
    return f"{evaluation['mean']:,.0f} [{evaluation['low']:,.0f}, {evaluation['high']:,.0f}]"


def spread(values: list[float], how: str = ",.0f") -> str:
    """Mean, and the least and the most of several."""
    if len(values) == 1:
        return f"{values[0]:{how}}"
    return f"{np.mean(values):{how}} [{min(values):{how}}, {max(values):{how}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runs = verbs.add_parser("run")
    runs.set_defaults(call=run)
    runs.add_argument("agent", type=Path)
    runs.add_argument("--algo", required=True)
    runs.add_argument("--env", required=True)
    runs.add_argument("--vecnormalize", type=Path)
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--batches", type=int, default=60_000)
    runs.add_argument("--only", nargs="*", choices=list(FAMILIES))
    runs.add_argument("--seed", type=int, default=1)
    reports = verbs.add_parser("report")
    reports.set_defaults(call=report)
    reports.add_argument("runs", nargs="+", type=Path, help="their folders")
    reports.add_argument("--picture", type=Path)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
