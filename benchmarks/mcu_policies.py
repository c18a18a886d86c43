"""Flash, RAM and instructions of trained policies on emulated microcontrollers, for docs/microcontrollers.md.

    python benchmarks/mcu_policies.py [--integer-only] [--weights payload] [NAME ...]

Each policy of results/ runs 1,000 observations that it saw in its environment, on every target; the script fails if
one answer differs from the reference's. A policy that does not fit a target has a dash there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "mcu"))

from check import record  # noqa: E402

import policypress as pp  # noqa: E402
from policypress.errors import ExportError  # noqa: E402
from policypress.export.c import Weights  # noqa: E402
from policypress.measure.microcontroller import TARGETS, TargetReport, measure_on_target  # noqa: E402
from policypress.testing import stored_policies  # noqa: E402

NAMES = ("cheetah-dense", "cheetah-90", "cheetah-98", "cheetah-narrow", "keep-cheetah", "walker-16", "walker-narrow")
ORDER = ("cortex-m4", "cortex-m3", "cortex-m0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help="policies of results/")
    parser.add_argument("--integer-only", action="store_true", help="codes in, sums out, no float")
    parser.add_argument("--weights", default="auto", choices=get_args(Weights), help="form of the weights (auto)")
    parser.add_argument("--count", type=int, default=1000, help="observations (1000)")
    arguments = parser.parse_args()
    assert set(ORDER) == set(TARGETS)
    titles = [target.removeprefix("cortex-").upper() for target in ORDER]
    print("| policy | " + " | ".join(
        [*(f"flash {t}" for t in titles), "constants in it", *(f"RAM {t}" for t in titles),
         *(f"instructions {t}" for t in titles), *(f"at the start {t}" for t in titles)]
    ) + " |")  # fmt: skip
    print("|---|" + "---:|" * (4 * len(ORDER) + 1))
    differing, stored = 0, stored_policies(ROOT / "results")
    for name in arguments.names:
        policy = pp.load(stored[name])
        if arguments.integer_only and policy.numerics != "integer":
            continue
        observations = record(policy, policy.provenance["env"], arguments.count, seed=1)
        reports: list[TargetReport | None] = []
        for target in ORDER:
            try:
                report = measure_on_target(
                    policy,
                    target,
                    observations,
                    integer_only=arguments.integer_only,
                    weights=arguments.weights,
                )
                reports.append(report)
            except ExportError as error:
                print(f"{name} on {target}: {error}", file=sys.stderr)
                reports.append(None)
        found = [report for report in reports if report is not None]
        differing += sum(report.differing for report in found)
        cells = [
            *(f"{report.footprint.flash:,}" if report else "-" for report in reports),
            f"{found[0].footprint.constants:,}" if found else "-",
            *(f"{report.ram:,}" if report else "-" for report in reports),
            *(f"{report.instructions:,.0f}" if report else "-" for report in reports),
            *(f"{report.start_instructions:,.0f}" if report else "-" for report in reports),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{differing} answers differ from the reference's.")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
