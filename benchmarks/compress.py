"""Every way to press one agent, side by side at real bytes: the frontier of return against size, a curve a family.

    python benchmarks/compress.py run AGENT.zip --algo sac --env HalfCheetah-v5 --out runs/frontier
    python benchmarks/compress.py report runs/frontier --picture docs/frontier.png

``run`` takes one core and some minutes a student; it skips those that are finished and goes on with those that are not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import policypress as pp
from policypress.rl.compress import Source, plan, press
from policypress.rl.curves import plot_frontier

Settings = dict[str, Any]
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
    source = Source(options.agent, options.vecnormalize)
    for family, students in FAMILIES.items():
        if options.only and family not in options.only:
            continue
        for name, settings in students.items():
            started = time.monotonic()
            folder = options.out / slug(f"{family} {name}")
            student = {"seed": options.seed, "batches": options.batches, **settings.get("student", {})}
            config = plan(source, options.algo, options.env, **{**settings, "student": student})
            result = press(source, config, folder, resume=True)
            kept, size = result["kept"], result["size"]
            print(
                f"{family}: {name}: {size['payload_bytes']:,} B, {size['payload_ratio']:.0f}x, "
                f"kept {kept['share']:.1%} [{kept['low']:.1%}, {kept['high']:.1%}], {time.monotonic() - started:.0f} s",
                flush=True,
            )


def report(options: argparse.Namespace) -> None:
    found = {
        family: {
            name: (json.loads((folder / "result.json").read_text()), pp.size(pp.load(folder / "policy.policy")))
            for name in students
            if ((folder := options.out / slug(f"{family} {name}")) / "result.json").exists()
        }
        for family, students in FAMILIES.items()
    }
    found = {family: students for family, students in found.items() if students}
    teacher = next(result for students in found.values() for result, _ in students.values())["teacher"]
    print("| student | IQM [95 %] | kept [95 %] | nonzeros | file bytes | ratio | minutes |")
    print("|---|---|---|---|---|---|---|")
    number: Callable[[float], str] = "{:,.0f}".format
    interval = f"{number(teacher['iqm'])} [{number(teacher['iqm_low'])}, {number(teacher['iqm_high'])}]"
    size = next(size for students in found.values() for _, size in students.values())
    print(f"| the agent, float32 | {interval} | | {size.baseline_bytes // 4:,} | {size.baseline_bytes:,} | 1× | |")
    for family, students in found.items():
        for name, (result, size) in students.items():
            iqm, kept = result["evaluation"], result["kept"]
            print(
                f"| {family}: {name} | {number(iqm['iqm'])} [{number(iqm['iqm_low'])}, {number(iqm['iqm_high'])}] "
                f"| {kept['share']:.1%} [{kept['low']:.1%}, {kept['high']:.1%}] | {size.nonzeros:,} "
                f"| {size.payload_bytes:,} | {size.payload_ratio:.0f}× | {result['wall_seconds'] / 60:.1f} |"
            )
    if options.picture:
        points = {
            family: [
                (size.payload_bytes, *(result["kept"][part] for part in ("share", "low", "high")))
                for result, size in students.values()
            ]
            for family, students in found.items()
        }
        plot_frontier(points, options.picture, keep=0.95)


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
    reports.add_argument("out", type=Path)
    reports.add_argument("--picture", type=Path)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
