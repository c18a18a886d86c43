"""Every way to press one agent, side by side at real bytes: the frontier of return against size, a curve a family.

    python benchmarks/compress.py AGENT.zip --algo sac --env HalfCheetah-v5 --out runs/frontier
    policypress study collect runs/frontier-page runs/frontier/*
    policypress study report runs/frontier-page

It takes one core and some minutes a student, skips those that are finished and goes on with those that are not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from policypress.rl.formats import open_agent
from policypress.rl.plan import plan_pressing
from policypress.rl.press import press
from policypress.rl.sources import Source

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
            share, size = result["kept"]["share"], result["size"]["payload_bytes"]
            print(f"{folder.name}: {size:,} B, keeps {share}, {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", type=Path)
    parser.add_argument("--algo", required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--vecnormalize", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=60_000)
    parser.add_argument("--only", nargs="*", choices=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=1)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
