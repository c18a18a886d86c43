"""Exported C on emulated Cortex-M cores: whether random policies answer there with the reference's bits.

    python checks/microcontrollers.py [--policies 100] [--start 0] [--observations 40] [--target cortex-m4]
        [--optimize=-O2]

Random policies of policypress.testing, every eighth with a state, in every form of weights, every other integer one
without floats, are compiled for each core with each option of the compiler and answer random and extreme observations
in QEMU. Exit code 1 if an answer differs. What does not fit a core's memory is counted. A policy on four cores with
three options takes one core of an x86-64 machine about 4 s.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter

from policypress.errors import ExportError, UnsupportedError
from policypress.export.c import Weights
from policypress.measure.microcontroller import TARGETS, measure_on_target
from policypress.testing import accepted, observations, random_policy, random_recurrent_policy

FORMS: tuple[Weights, ...] = ("auto", "dense", "sparse", "packed")
OPTIMIZE = ("-O2", "-Os", "-O3")
VALUES = 2**13  # of observations, at most: a core reads them through semihosting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=int, default=100, help="how many (100)")
    parser.add_argument("--start", type=int, default=0, help="seed of the first (0)")
    parser.add_argument("--observations", type=int, default=40, help="of each policy, at most (40)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="once for each (all)")
    parser.add_argument("--optimize", action="append", help="the compiler's option, once for each (-O2, -Os and -O3)")
    arguments = parser.parse_args()
    compared: Counter[tuple[str, str]] = Counter()
    programs: Counter[tuple[str, str]] = Counter()
    differing: Counter[tuple[str, str]] = Counter()
    left_out: Counter[tuple[str, str]] = Counter()
    for seed in range(arguments.start, arguments.start + arguments.policies):
        policy = random_recurrent_policy(seed) if seed % 8 == 7 else random_policy(seed)
        count = max(2, min(arguments.observations, VALUES // math.prod(policy.observation.shape)))
        asked = accepted(policy, observations(policy, count, seed))
        if not len(asked):
            continue
        integer = policy.input is not None
        weights = FORMS[seed // 2 % len(FORMS)] if integer else "auto"
        for target in arguments.target or TARGETS:
            for optimize in arguments.optimize or OPTIMIZE:
                at = target, optimize
                try:
                    report = measure_on_target(
                        policy,
                        target,
                        asked,
                        integer_only=integer and seed % 2 == 0,
                        weights=weights,
                        optimize=optimize,
                    )
                except (ExportError, UnsupportedError) as error:
                    left_out[at] += 1
                    if "cannot link" not in str(error) and not isinstance(error, UnsupportedError):
                        differing[at] += 1
                        print(f"seed {seed}, {weights}, {target} {optimize}: {error}", flush=True)
                    continue
                programs[at] += 1
                compared[at] += report.observations
                differing[at] += report.differing
                if report.differing:
                    print(f"seed {seed}, {weights}, {target} {optimize}: {report.differing} of"
                          f" {report.observations} differ", flush=True)  # fmt: skip
    print("| core | option | policies | answers | left out | differ |\n|---|---|---:|---:|---:|---:|")
    for target in arguments.target or TARGETS:
        for optimize in arguments.optimize or OPTIMIZE:
            at = target, optimize
            print(f"| {target.removeprefix('cortex-').upper()} | {optimize} | {programs[at]} | {compared[at]:,} |"
                  f" {left_out[at]} | {differing[at]} |")  # fmt: skip
    return int(any(differing.values()))


if __name__ == "__main__":
    sys.exit(main())
