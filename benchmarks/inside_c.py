"""Time of an action inside C against its bare multiply-adds at one a cycle.

    taskset -c 1 python benchmarks/inside_c.py

The length of a cycle comes from a chain of dependent additions, each of which takes one, compiled and timed in turns
with the engine (`Engine.repeat`, which leaves the call from Python out). Must hold for the actor of 98 % sparsity: at
most 3 times the cycles that its nonzero weights would take at one multiply-add a cycle.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timed_policies import Random

from policypress.measure.machine import lines, machine
from policypress.policy.policy import Policy
from policypress.runtime import engine

CHAIN = """
#include <stdint.h>
uint64_t chain(uint64_t n) {
    uint64_t x = n;
    for (; n; n--)
        __asm__ volatile(".rept 100\\n\\tadd $1, %0\\n\\t.endr" : "+r"(x));
    return x;
}
"""
BOUND = 3.0
ROUNDS = 50


def compiled_chain(folder: str) -> ctypes.CDLL:
    source, library = Path(folder) / "chain.c", Path(folder) / "chain.so"
    source.write_text(CHAIN)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    found = ctypes.CDLL(str(library))
    found.chain.argtypes, found.chain.restype = [ctypes.c_uint64], ctypes.c_uint64
    return found


def cycles(policy: Policy, chain: ctypes.CDLL) -> float:
    """Cycles of one action: the median over rounds that time both in turns."""
    observation = np.random.default_rng(0).normal(size=policy.observation.shape)
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        chain.chain(20_000)
        middle = time.perf_counter()
        policy.engine.repeat(observation, 2_000)
        end = time.perf_counter()
        found.append((end - middle) / 2_001 / ((middle - start) / 2_000_000))
    return float(np.median(found))


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for line in lines(machine()):
        print(line)
    print(f"kernels: {engine.KERNELS}")
    print("\n| policy | multiply-adds | cycles of an action | cycles / multiply-adds | |\n|---|---|---|---|---|")
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        chain = compiled_chain(folder)
        for sparsity, widths in ((0.98, (256, 256)), (0.9, (256, 256)), (0.0, (256, 256)), (0.0, (24, 24))):
            policy = Random(sparsity, "integer").actor(17, *widths, 6)
            nonzeros = sum(layer.nonzeros for layer in policy.layers)
            found = cycles(policy, chain)
            verdict = ""
            if sparsity == 0.98:
                holds = found <= BOUND * nonzeros
                verdict = f"at most {BOUND:g}: {'holds' if holds else 'falls short'}"
            name = f"{'-'.join(map(str, (17, *widths, 6)))}, {sparsity:.0%} sparse"
            print(f"| {name} | {nonzeros:,} | {found:,.0f} | {found / nonzeros:.2f} | {verdict} |")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
