"""Dense, packed, sparse weights or quarters on a Cortex-M: flash and instructions of a random layer at many densities.

    python benchmarks/mcu_forms.py [--size 256] [--target cortex-m4 --target cortex-m0]

What a hidden layer of SIZE x SIZE adds to a network that ends in four outputs: bytes of constants from the linker's
map, instructions counted by QEMU (docs/microcontrollers.md). Needs arm-none-eabi-gcc and qemu-system-arm.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import platform
from typing import Literal

import numpy as np

from policypress.export.c import Weights
from policypress.measure.microcontroller import TARGETS, measure_on_target
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization, Layer, Requantization
from policypress.policy.policy import Policy

DENSITIES = (1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 70, 80, 100)  # percent
PACKED_BITS = (2, 3, 4, 6)
QUARTERS = "1:4"  # a density: of four neighbouring inputs one
OUTPUTS, OBSERVATIONS = 4, 50
Density = int | Literal["1:4"]


def layer(outputs: int, inputs: int, bits: int, density: Density, *, hidden: bool) -> Layer:
    """A random layer; ``density`` in percent of the weights are not zero."""
    rng = np.random.default_rng([outputs, inputs, bits, 25 if density == QUARTERS else density])
    limit = 2 ** (bits - 1) - 1
    weight = rng.integers(1, limit + 1, outputs * inputs) * rng.choice([-1, 1], outputs * inputs)
    if density == QUARTERS:
        places = rng.random((outputs, -(-inputs // 4), 4)).argsort(axis=2).reshape(outputs, -1)[:, :inputs]
        weight[places.ravel() != 0] = 0
    else:
        weight[rng.permutation(weight.size)[round(weight.size * density / 100) :]] = 0
    one = np.ones(1, np.int32)
    return Layer(
        weight.reshape(outputs, inputs).astype(np.int8),
        rng.integers(-1000, 1000, outputs).astype(np.int32),
        bits,
        np.ones(1, np.float32),
        relu=hidden,
        requantize=Requantization(128 * one, 16 * one, 0, 255) if hidden else None,
        name="hidden" if hidden else "last",
    )


def policy(size: int, bits: int, *hidden: Layer) -> Policy:
    """A policy of ``size`` observed values, these hidden layers, and a last one of ``bits`` bits without zeros."""
    bounds = np.ones(OUTPUTS, np.float32)
    return Policy(
        ops=(*hidden, layer(OUTPUTS, size, bits, 100, hidden=False)),
        observation=ObservationTransform((size,), "float32"),
        action=ActionTransform("box", (OUTPUTS,), low=-bounds, high=bounds),
        input=InputQuantization(np.ones(1, np.float32), 0, 255, 8),
        baseline_bytes=4 * size * size,
    )


@functools.cache
def cost(size: int, target: str, form: Weights, bits: int, density: Density | None) -> tuple[int, float]:
    """Bytes of constants and instructions an action, of a network with or (None) without the hidden layer."""
    hidden = [] if density is None else [layer(size, size, bits, density, hidden=True)]
    observations = np.random.default_rng(0).integers(0, 256, (OBSERVATIONS, size)).astype(np.float32)
    report = measure_on_target(policy(size, bits, *hidden), target, observations, integer_only=True, weights=form)
    if report.differing:
        raise SystemExit(f"{report.differing} answers differ from the reference's on {target}.")
    return report.footprint.constants, report.instructions


def added(size: int, target: str, form: Weights, bits: int, density: Density) -> tuple[int, float]:
    """What the hidden layer adds to both."""
    flash, instructions = cost(size, target, form, bits, density)
    without_flash, without = cost(size, target, form, bits, None)
    return flash - without_flash, instructions - without


def crossing(points: list[tuple[int, float]], level: float) -> float:
    """Density at which ``points``, (density, value) ascending, pass ``level``; between two of them on a line."""
    for (a, low), (b, high) in itertools.pairwise(points):
        if low <= level < high:
            return a + (level - low) / (high - low) * (b - a)
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="inputs and outputs of the layer")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="once for each target")
    arguments = parser.parse_args()
    size, targets = arguments.size, arguments.target or ["cortex-m4", "cortex-m0"]
    weights = size * size
    print(f"{size} x {size} weights, -O2; emulated, so the machine ({platform.machine()}) does not matter")
    for target in targets:
        print(f"\n{target}\n{'form':>10} {'density':>8} {'flash':>8} {'instructions':>13} {'each weight':>12}"
              f" {'each nonzero':>13}")  # fmt: skip
        dense_flash, dense = added(size, target, "dense", 8, 100)
        sparse = [(density, *added(size, target, "sparse", 8, density)) for density in DENSITIES]
        rows: list[tuple[str, int, int, float]] = [("dense 8", 100, dense_flash, dense)]
        rows += [(f"packed {bits}", 100, *added(size, target, "packed", bits, 100)) for bits in PACKED_BITS]
        rows += [("sparse 8", *row) for row in sparse]
        rows += [("sparse 1:4", 25, *added(size, target, "sparse", 8, QUARTERS))]
        rows += [("quarters", 25, *added(size, target, "quarters", 8, QUARTERS))]
        for form, density, flash, instructions in rows:
            nonzero = weights * density / 100
            print(f"{form:>10} {density:>6} % {flash:>8,} {instructions:>13,.0f} {instructions / weights:>12.2f}"
                  f" {instructions / nonzero:>13.2f}")  # fmt: skip
        faster = crossing([(density, instructions) for density, _, instructions in sparse], dense)
        smaller = crossing([(density, flash) for density, flash, _ in sparse], dense_flash)
        print(f"sparse takes fewer instructions than dense below {faster:.1f} %, fewer bytes below {smaller:.1f} %")


if __name__ == "__main__":
    main()
