"""What narrower observations save on microcontrollers: exports that take float64, float32 and int16, and codes.

    python benchmarks/mcu_observations.py [--count 200] [NAME ...]

Policies of results/ answer observations that they saw in their environment, rounded to what is exported; every answer
is compared with the reference's for the same numbers. Exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "examples" / "mcu")]

from check import record  # noqa: E402

import policypress as pp  # noqa: E402
from policypress.measure.microcontroller import TARGETS, measure_on_target, require_tools  # noqa: E402
from policypress.testing import stored_policies  # noqa: E402

FORMS: dict[str, dict[str, Any]] = {
    "float64": {},
    "float32": {"observation": "float32"},
    "int16": {"observation": "int16"},
    "codes, `--integer-only`": {"integer_only": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["keep-cheetah", "walker-16"], help="policies of results/")
    parser.add_argument("--count", type=int, default=200, help="observations (200)")
    arguments = parser.parse_args()
    require_tools()
    print("| policy | observation |", " | ".join(f"flash {target[-2:].upper()}" for target in TARGETS), end=" | ")
    print(" | ".join(f"instructions {target[-2:].upper()}" for target in TARGETS), "| differ |")
    print("|---|---|" + "---:|" * (2 * len(TARGETS) + 1))
    wrong, stored = 0, stored_policies(ROOT / "results")
    for name in arguments.names:
        policy = pp.load(stored[name])
        seen = record(policy, policy.provenance["env"], arguments.count, seed=1)
        for form, settings in FORMS.items():
            reports = [measure_on_target(policy, target, seen, **settings) for target in TARGETS]
            differing = sum(report.differing for report in reports)
            cells = [f"{report.footprint.flash:,}" for report in reports]
            cells += [f"{report.instructions:,.0f}" for report in reports]
            print(f"| {name} | {form} | {' | '.join(cells)} | {differing} |", flush=True)
            wrong += differing
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
