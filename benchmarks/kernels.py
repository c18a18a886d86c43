"""Dense and sparse kernels of the native engine over densities: is the one that the engine takes the faster one?

    taskset -c 1 python benchmarks/kernels.py
    taskset -c 1 python benchmarks/kernels.py --structures --target cortex-m4

Each row is one integer layer of 8 bits inside a small policy, timed in turns by the kernels without a sparse one
(POLICYPRESS_KERNELS=avx512, avxvnni or avx2) and by those that the engine takes by itself. A ratio well below 1 would
say that it takes the sparse one where it should not; the costs that decide stand at the end of runtime/engine_avx512.c
and engine_avx2.c.

``--structures``: 17-256-256-6 as it is, with N of M neighbouring inputs live, and as many at random, timed in turns.
"one row": a call from Python, of which a microsecond is the call; ``--target``: instructions on an emulated processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np
from timed_policies import Random

from policypress.measure.machine import lines, machine
from policypress.measure.microcontroller import measure_on_target
from policypress.measure.size import size
from policypress.policy.canonical import canonical
from policypress.policy.ops import Op
from policypress.policy.policy import Policy
from policypress.runtime import engine
from policypress.runtime.native import make_engine

STRUCTURES = ((2, 4), (1, 4), (1, 8))
SPARSITIES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
ROUNDS, SECONDS = 40, 0.002
DENSE = {"avx512vbmi": "avx512", "avxvnnisparse": "avxvnni", "avx2sparse": "avx2"}
"""Kernels with sparse ones, and the same without."""


def linear(inputs: int, outputs: int) -> Callable[[float], Policy]:
    return lambda sparsity: Random(sparsity, "integer").actor(inputs, outputs, 32)  # which reads nearly all units


def nature(sparsity: float) -> Policy:
    return Random(sparsity, "integer").nature()


def structured(live: int, group: int) -> Policy:
    """17-256-256-6 with ``live`` of every ``group`` neighbouring inputs of a unit."""
    rng, ops = np.random.default_rng(1), list[Op]()
    dense = Random(0.0, "integer").actor(17, 256, 256, 6)
    for layer in dense.layers:
        outputs, inputs = layer.weight.shape
        places = rng.random((outputs, -(-inputs // group), group)).argsort(axis=2) < live
        mask = places.reshape(outputs, -1)[:, :inputs]
        ops.append(dataclasses.replace(layer, weight=np.where(mask, layer.weight, 0).astype(np.int8)))
    return canonical(dataclasses.replace(dense, ops=tuple(ops)))


def structures(target: str | None) -> None:
    policies = {"dense": Random(0.0, "integer").actor(17, 256, 256, 6)}
    for live, group in STRUCTURES:
        policies[f"{live}:{group}"] = structured(live, group)
        policies[f"{1 - live / group:.1%} at random"] = Random(1 - live / group, "integer").actor(17, 256, 256, 6)
    engines = {name: make_engine(policy) for name, policy in policies.items()}
    best = {(name, rows): float("inf") for name in policies for rows in (1, 256)}
    for _ in range(ROUNDS):
        for name, rows in best:
            observations = np.random.default_rng(0).normal(size=(rows, 17))
            calls, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SECONDS:
                engines[name].predict(observations)
                calls += 1
            best[name, rows] = min(best[name, rows], elapsed / calls)
    print("\n| weights | payload | one row, µs | dense / it | 256 rows, µs | dense / it | kernels | instructions |")
    print("|---|---:|---:|---:|---:|---:|---|---:|")
    for name, policy in policies.items():
        times = " | ".join(
            f"{1e6 * best[name, rows]:.2f} | {best['dense', rows] / best[name, rows]:.2f}" for rows in (1, 256)
        )
        met = np.random.default_rng(0).normal(size=(16, 17))
        asked = f"{measure_on_target(policy, target, met).instructions:,.0f}" if target else ""
        print(
            f"| {name} | {size(policy).payload_bytes:,} | {times} | {engines[name].kernels()[1]} | {asked} |",
            flush=True,
        )


def best_times(policy: Policy, rows: int) -> tuple[list[float], str]:
    """Seconds of each set of kernels, and what the second one took for the layer with most multiplications."""
    rng = np.random.default_rng(0)
    shape = (rows, *policy.observation.shape)
    observations = rng.integers(0, 256, shape).astype(np.uint8) if policy.observation.image else rng.normal(size=shape)
    made = []
    for name in (DENSE[engine.KERNELS], engine.KERNELS):
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", action="store_true")
    parser.add_argument("--target", help="cortex-m4 and its like; needs its compiler and QEMU")
    given = parser.parse_args()
    for line in lines(machine()):
        print(line)
    if given.structures:
        structures(given.target)
        return
    if engine.KERNELS not in DENSE:
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
