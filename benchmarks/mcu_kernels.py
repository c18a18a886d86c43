"""Instructions of the engine's kernels on emulated Cortex-M cores and AArch64, beside what they are to stay below.

    python benchmarks/mcu_kernels.py [--only PART] [--target cortex-m4] [--optimize -O2] [--count 20]
    python benchmarks/mcu_kernels.py --vectors

Dense networks of random 8-bit weights, trained policies of results/, and float32 networks; integers in and out but for
the last. The script fails if one answer differs from the reference's or a limit is passed. Limits of dense networks on
a Cortex-M4 are 0.95 times what Arm's CMSIS-NN takes for the same layers (s8, with DSP instructions); on other cores 0.8
times what this engine took before it summed four outputs at once. Neither is measured here: CMSIS-NN was built once
from its sources, by GCC 12.2, for the same emulated core; they are no part of this repository.

--vectors: integer networks on a Cortex-M55 and on AArch64 (as benchmarks/aarch64.py counts), with their vectors and
without; nothing is to differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import aarch64
import numpy as np
from mcu_forms import layer
from numpy.typing import NDArray

import policypress as pp
from policypress.measure.microcontroller import TARGETS, measure_on_target
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import FLOAT_BITS, InputQuantization, Layer
from policypress.policy.policy import Policy
from policypress.testing import stored_policies

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZE = ("-O2", "-Os")
DENSE = {
    "dense 256-256": (17, 256, 256, 6),
    "dense 24-24": (17, 24, 24, 6),
    "dense 512-256-128": (48, 512, 256, 128, 12),
}
CMSIS_NN = {
    ("dense 256-256", "-O2"): 161_413,
    ("dense 24-24", "-O2"): 5_499,
    ("dense 512-256-128", "-O2"): 401_800,
    ("dense 256-256", "-Os"): 231_244,
    ("dense 24-24", "-Os"): 6_502,
    ("dense 512-256-128", "-Os"): 590_194,
}
"""Instructions on a Cortex-M4; other options of the compiler are held to those of -O2."""
BEFORE = {
    ("dense 256-256", "cortex-m3"): 318_286,
    ("dense 256-256", "cortex-m0"): 440_090,
    ("dense 24-24", "cortex-m3"): 8_114,
    ("dense 24-24", "cortex-m0"): 11_621,
    ("dense 512-256-128", "cortex-m3"): 815_654,
    ("dense 512-256-128", "cortex-m0"): 1_126_040,
}
"""Instructions with -O2 before four outputs were summed at once, counted by this script."""
TRAINED = {"cheetah-90": 56_000, "cheetah-98": 18_000, "keep-cheetah": 5_500}
"""Limits on a Cortex-M4 with -O2."""
FLOAT_LIMIT, FLOAT_LIMIT_NO_ZEROS = 800_000, 480_000
SLOWER_SMALL = 1.15  # times the instructions of -O2 that -Os may take
M55 = TARGETS["cortex-m55"]
CORES = {
    "M55 without Helium": dataclasses.replace(M55, flags=("-mcpu=cortex-m55+nomve", "-mfloat-abi=hard")),
    "M55": M55,
}
AARCH64 = {"without NEON": "armv8-a+nosimd", "NEON": "armv8-a", "NEON, dot products": "armv8.2-a+dotprod"}
"""What -march is for them."""


class Network(NamedTuple):
    name: str
    policy: Policy
    observations: NDArray[np.float32 | np.float64]
    integer_only: bool


def dense(name: str, count: int) -> Network:
    """A network of random 8-bit weights without zeros, in linear layers with ReLU."""
    widths = DENSE[name]
    ops = [
        layer(outputs, inputs, 8, 100, hidden=at < len(widths) - 2)
        for at, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]
    codes = np.random.default_rng(0).integers(0, 256, (count, widths[0])).astype(np.float32)
    quantization = InputQuantization(np.ones(1, np.float32), 0, 255, 8)
    return Network(name, box(tuple(ops), widths, quantization), codes, integer_only=True)


def real(zeros: bool, count: int) -> Network:
    """A network of random float32 weights, every tenth of them zero if there are to be ``zeros``."""
    rng, widths = np.random.default_rng(1), DENSE["dense 256-256"]
    ops = []
    for at, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight = rng.normal(size=(outputs, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
        if zeros:
            weight[rng.random(weight.shape) < 0.1] = 0.0
        bias = rng.normal(size=outputs).astype(np.float32)
        one = np.ones(1, np.float32)
        ops.append(Layer(weight, bias, FLOAT_BITS, one, relu=at < len(widths) - 2, name=f"layer {at}"))
    name = "float32 256-256, " + ("zero weights" if zeros else "no zero weight")
    observations = rng.normal(size=(count, widths[0])).astype(np.float32)
    return Network(name, box(tuple(ops), widths, None), observations, integer_only=False)


def box(ops: tuple[Layer, ...], widths: tuple[int, ...], quantization: InputQuantization | None) -> Policy:
    bound = np.full(widths[-1], np.inf, np.float32)
    return Policy(
        ops=ops,
        observation=ObservationTransform((widths[0],), "float32"),
        action=ActionTransform("box", (widths[-1],), low=-bound, high=bound),
        input=quantization,
        baseline_bytes=4,
    )


def trained(name: str, count: int) -> Network:
    policy = pp.load(stored_policies(ROOT / "results")[name])
    seen = np.load(ROOT / "examples" / "mcu" / "half-cheetah.npz")["observations"].astype(np.float64)
    return Network(name, policy, seen[:count], integer_only=True)


def limit(name: str, target: str, optimize: str, optimized: float | None) -> float:
    """Instructions that it may take; ``optimized``: those of -O2, if known. Infinite where nothing is promised."""
    found = [float("inf")]
    if name in DENSE and target == "cortex-m4":
        found.append(0.95 * CMSIS_NN.get((name, optimize), CMSIS_NN[name, "-O2"]))
    if (name, target) in BEFORE and optimize == "-O2":
        found.append(0.8 * BEFORE[name, target])
    if name in DENSE and target != "cortex-m4" and optimize == "-Os" and optimized is not None:
        found.append(SLOWER_SMALL * optimized)
    if target == "cortex-m4" and optimize == "-O2":
        found.append(TRAINED.get(name, float("inf")))
        if name.startswith("float32"):
            found.append(FLOAT_LIMIT if name.endswith(", zero weights") else FLOAT_LIMIT_NO_ZEROS)
    return min(found)


PARTS: dict[str, Callable[[int], Iterator[Network]]] = {
    "dense": lambda count: (dense(name, count) for name in DENSE),
    "trained": lambda count: (trained(name, count) for name in TRAINED),
    "float": lambda count: (real(zeros, count) for zeros in (True, False)),
}


def vectors(count: int) -> int:
    """Print what integer networks take with vectors and without; 1 if an answer differs."""
    print("| network | core | option | instructions | code | differ |\n|---|---|---|---:|---:|---:|")
    failed = 0
    for network in itertools.chain(PARTS["dense"](count), PARTS["trained"](count)):
        for optimize in OPTIMIZE:
            rows = dict[str, tuple[float, int, int]]()
            for core, target in CORES.items():
                report = measure_on_target(
                    network.policy, target, network.observations, integer_only=True, optimize=optimize
                )
                rows[core] = report.instructions, report.footprint.code, report.differing
            for core, march in AARCH64.items():
                rows[f"AArch64, {core}"] = aarch64.count(network.policy, network.observations, march, optimize)
            for core, (instructions, code, differing) in rows.items():
                failed |= differing > 0
                print(f"| {network.name} | {core} | {optimize} | {instructions:,.0f} | {code:,} | {differing} |",
                      flush=True)  # fmt: skip
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="one part (all)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="once for each (all)")
    parser.add_argument("--optimize", action="append", help="the compiler's option, once for each (-O2 and -Os)")
    parser.add_argument("--count", type=int, default=20, help="observations (20)")
    parser.add_argument(
        "--vectors", action="store_true", help="a Cortex-M55 and AArch64, with their vectors and without"
    )
    arguments = parser.parse_args()
    if arguments.vectors:
        return vectors(arguments.count)
    print("| network | core | option | instructions | limit | flash | differ |\n|---|---|---|---:|---:|---:|---:|")
    failed = False
    for part in [arguments.only] if arguments.only else PARTS:
        for network in PARTS[part](arguments.count):
            for target in arguments.target or ("cortex-m4", "cortex-m3", "cortex-m0"):
                if target == "cortex-m0" and sum(one.weight.nbytes for one in network.policy.layers) > 200_000:
                    continue  # more than its flash
                optimized: float | None = None
                for optimize in arguments.optimize or OPTIMIZE:
                    report = measure_on_target(
                        network.policy,
                        target,
                        network.observations,
                        integer_only=network.integer_only,
                        optimize=optimize,
                    )
                    optimized = report.instructions if optimize == "-O2" else optimized
                    most = limit(network.name, target, optimize, optimized)
                    failed |= report.instructions > most or report.differing > 0
                    said = "" if most == float("inf") else f"{most:,.0f}" + " PASSED" * (report.instructions > most)
                    print(f"| {network.name} | {target.removeprefix('cortex-').upper()} | {optimize} |"
                          f" {report.instructions:,.0f} | {said} | {report.footprint.flash:,} | {report.differing} |",
                          flush=True)  # fmt: skip
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
