"""Dense and sparse kernels of the native engine over densities: is the one that the engine takes the faster one?

    taskset -c 1 python benchmarks/kernels.py

Each row is one integer layer of 8 bits inside a small policy, timed in turns by the kernels without a sparse one
(POLICYPRESS_KERNELS=avx512) and by those that the engine takes by itself. A ratio well below 1 would say that it takes
the sparse one where it should not; the costs that decide stand at the end of runtime/engine_avx512.c.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
from timed_policies import Random

from policypress.measure.machine import lines, machine
from policypress.policy.policy import Policy
from policypress.runtime import engine
from policypress.runtime.native import make_engine

SPARSITIES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
ROUNDS, SECONDS = 40, 0.002


def linear(inputs: int, outputs: int) -> Callable[[float], Policy]:
    return lambda sparsity: Random(sparsity, "integer").actor(inputs, outputs, 32)  # which reads nearly all units


def nature(sparsity: float) -> Policy:
    return Random(sparsity, "integer").nature()


def best_times(policy: Policy, rows: int) -> tuple[list[float], str]:
    """Seconds of each set of kernels, and what the second one took for the layer with most multiplications."""
    rng = np.random.default_rng(0)
    shape = (rows, *policy.observation.shape)
    observations = rng.integers(0, 256, shape).astype(np.uint8) if policy.observation.image else rng.normal(size=shape)
    made = []
    for name in ("avx512", "avx512vbmi"):
        os.environ["POLICYPRESS_KERNELS"] = name
        made.append(make_engine(policy).predict)
        kernels = make_engine(policy).kernels()
    times = [float("inf")] * 2
    for _ in range(ROUNDS):
        for i, predict in enumerate(made):
            calls, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SECONDS:
                predict(observations)
                calls += 1
            times[i] = min(times[i], elapsed / calls)
    return times, " ".join(kernels)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for line in lines(machine()):
        print(line)
    if engine.KERNELS != "avx512vbmi":
        raise SystemExit(f"This processor runs the kernels {engine.KERNELS}: there is no sparse one to compare.")
    print("\n| policy | rows | sparsity | dense, µs | chosen, µs | dense / chosen | kernels |")
    print("|---|---|---|---|---|---|---|")
    cases = [(f"linear {a}x{b}", linear(a, b), rows) for a, b in ((64, 64), (256, 256)) for rows in (1, 48)]
    for name, make, rows in [*cases, ("linear 3136x512", linear(3136, 512), 1), ("Nature CNN", nature, 1)]:
        for sparsity in SPARSITIES:
            (dense, chosen), kernels = best_times(make(sparsity), rows)
            print(
                f"| {name} | {rows} | {sparsity:.0%} | {1e6 * dense:.2f} | {1e6 * chosen:.2f} |"
                f" {dense / chosen:.2f} | {kernels} |"
            )


if __name__ == "__main__":
    main()
