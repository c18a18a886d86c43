"""Exported C on 8-bit AVRs: bits, flash, RAM and cycles of an action, as simavr counts them.

    python benchmarks/avr.py [--mcu atmega328p] [--observations 1000] [--random 40] [NAME ...]

Policies of results/ (all integer ones that fit), exported with --integer-only, answer observations that they saw in
their environment, and random policies of policypress.testing in every form of weights answer random and
extreme ones. Weights and tables lie in flash. Exit code 1 if a sum differs or a self test fails. Debian: apt-get
install gcc-avr avr-libc simavr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "examples" / "mcu")]

from check import record  # noqa: E402

import policypress as pp  # noqa: E402
from policypress.errors import ExportError, PolicypressError  # noqa: E402
from policypress.export.c import Weights  # noqa: E402
from policypress.measure.avr import MCU, WrongAnswer, measure_on_avr, require_tools  # noqa: E402
from policypress.testing import accepted, observations, random_policy, stored_policies  # noqa: E402

NAMES = ("cheetah-90", "cheetah-98", "cheetah-narrow", "keep-cheetah", "walker-16", "walker-narrow")
FORMS: tuple[Weights, ...] = ("auto", "dense", "sparse", "packed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="policies of results/, or .policy files")
    parser.add_argument("--mcu", default=MCU, help="as avr-gcc and simavr name it (atmega328p)")
    parser.add_argument("--observations", type=int, default=1000, help="of each trained policy (1000)")
    parser.add_argument("--random", type=int, default=0, help="random policies besides (0)")
    parser.add_argument("--start", type=int, default=0, help="the first random one (0)")
    arguments = parser.parse_args()
    try:
        require_tools()
    except ExportError as error:
        parser.exit(2, f"{error}\n")
    print("| policy | flash | RAM | cycles | ms at 16 MHz | differ |\n|---|---:|---:|---:|---:|---:|")
    differing, stored = 0, stored_policies(ROOT / "results")
    for name in arguments.names:
        policy = pp.load(name if name.endswith(".policy") else stored[name])
        asked = record(policy, policy.provenance["env"], arguments.observations, seed=1)
        try:
            found = measure_on_avr(policy, asked, mcu=arguments.mcu)
        except ExportError as error:
            print(f"| {name} | {error} |")
            differing += isinstance(error, WrongAnswer)
            continue
        differing += found.differing
        cells = f"{found.flash:,} | {found.ram:,} | {found.cycles:,.0f} | {found.milliseconds:.2f}"
        print(f"| {name} | {cells} | {found.differing} of {len(asked)} |", flush=True)
    runs = policies = 0
    for seed in range(arguments.start, arguments.start + arguments.random):
        policy = random_policy(seed)
        asked = accepted(policy, observations(policy, 40, 0))
        if policy.numerics != "integer" or not len(asked):
            continue
        try:
            wrong = measure_on_avr(policy, asked, mcu=arguments.mcu, weights=FORMS[seed % len(FORMS)]).differing
        except PolicypressError as error:
            print(f"random {seed}: {error}")
            differing += isinstance(error, WrongAnswer)
            continue
        policies, runs, differing = policies + 1, runs + len(asked), differing + wrong
        if wrong:
            print(f"random {seed}, {FORMS[seed % len(FORMS)]}: {wrong} of {len(asked)} differ")
    if policies:
        print(f"\n{policies} random policies, {runs:,} observations.")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
