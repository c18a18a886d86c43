"""What the payload of a linear policy takes beyond its numbers: everything around them fits 12 bytes.

    python checks/small_payloads.py [--seeds 5] [--bound 12]

Random linear policies of the shapes of MuJoCo's tasks, their input scales like those of the agents in results/ (2^x,
x normal with deviation 0.8, around 6.5 for the first half, positions, around 3.5 for the second, velocities; one for
all contact forces), made simpler by ``simplified`` with 2 more input bits. "Ideal" is the
entropy of the weights' and of the biases' codes, each under the discretized Laplace or normal distribution that fits
them best, whose width nobody has to tell; "overhead" the bytes above it, rounded up. Exits with 1 where that is more
than the bound.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from numpy.typing import NDArray

from policypress.policy.codec import trailing_zeros
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization, Layer, weight_limit
from policypress.policy.payload import decode_payload, encode_payload
from policypress.policy.policy import Policy
from policypress.policy.simplified import simplified

SHAPES = {
    "Swimmer": (8, 2, 0), "Hopper": (11, 3, 0), "HalfCheetah, Walker2d": (17, 6, 0), "Ant": (27, 8, 0),
    "Ant with forces": (105, 8, 78),
}  # fmt: skip
"""Observations, actions, and how many of the observations, the last ones, are contact forces."""
BITS = range(4, 9)
INPUT_BITS = 8, 10  # frozen, simplified


def drawn(inputs: int, outputs: int, forces: int, bits: int, rng: np.random.Generator) -> Policy:
    limit, reach = weight_limit(bits), weight_limit(INPUT_BITS[0])
    draw = rng.normal if rng.random() < 0.5 else rng.laplace
    weight = np.clip(draw(0, 1, (outputs, inputs)) * limit / 3, -limit, limit).round().astype(np.int8)
    sums = math.sqrt(inputs) * limit / 3 * reach / 4
    bias = rng.normal(0, 0.5 * sums, outputs).astype(np.int32)
    positions = (inputs - forces) // 2
    exponents = rng.normal(3.5, 0.8, inputs)
    exponents[:positions] += 3
    exponents[inputs - forces :] = rng.normal(5, 1)
    one = np.ones(outputs, np.float32)
    return Policy(
        (Layer(weight, bias, bits, np.array([rng.uniform(0.7, 1.4) / sums], np.float32), relu=False),),
        ObservationTransform((inputs,), "float64"),
        ActionTransform("box", (outputs,), squash=True, low=-one, high=one),
        InputQuantization((2.0**exponents).astype(np.float32), -reach, reach, INPUT_BITS[0]),
        baseline_bytes=4,
    )


def entropy(codes: NDArray[np.int64]) -> float:
    """Bits of ``codes`` under the discretized Laplace or normal distribution that fits them best."""
    values, counts = np.unique(np.abs(codes), return_counts=True)
    best = math.inf
    for scale in np.exp2(np.arange(-4, 2 + 2 * math.log2(1 + values.max()), 0.125)):
        edges = np.stack([values - 0.5, values + 0.5]) / scale
        for cumulative in (_laplace, _normal):
            below, above = cumulative(edges)
            chance = np.maximum(above - below, 1e-300)
            best = min(best, float(-(counts * np.log2(chance)).sum()))
    return best


def _laplace(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x < 0, 0.5 * np.exp(np.minimum(x, 0)), 1 - 0.5 * np.exp(-np.maximum(x, 0)))


def _normal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.vectorize(lambda one: 0.5 * math.erfc(-one / math.sqrt(2)))(x)


def measured(policy: Policy) -> tuple[int, int]:
    """Bytes of the payload, and of its weights and biases at least."""
    data = encode_payload(policy)
    ops, _ = decode_payload(data)
    layer, again = policy.layers[0], ops[0]
    assert isinstance(again, Layer)
    assert np.array_equal(again.weight, layer.weight)
    assert np.array_equal(again.bias, layer.bias)
    biases = layer.bias >> trailing_zeros(layer.bias)
    return len(data), math.ceil((entropy(layer.weight) + entropy(biases)) / 8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="policies of each shape and precision (default: 5)")
    parser.add_argument("--bound", type=int, default=12, help="bytes that may be around the numbers (default: 12)")
    options = parser.parse_args()
    print(f"{'shape':<30}{'bits':>5}{'payload':>9}{'ideal':>7}{'overhead':>10}{'at most':>9}")
    worst = 0
    for name, (inputs, outputs, forces) in SHAPES.items():
        for bits in BITS:
            found = [
                measured(simplified(drawn(inputs, outputs, forces, bits, rng), input_bits=INPUT_BITS[1]))
                for rng in map(np.random.default_rng, range(options.seeds))
            ]
            sizes, ideals = np.array(found).T
            most = int((sizes - ideals).max())
            worst = max(worst, most)
            shape = f"{name} ({inputs}x{outputs})"
            mean = f"{sizes.mean():>9.1f}{ideals.mean():>7.1f}{(sizes - ideals).mean():>10.1f}"
            print(f"{shape:<30}{bits:>5}{mean}{most:>9}")
    print(f"At most {worst} bytes around the numbers; {options.bound} are allowed.")
    return int(worst > options.bound)


if __name__ == "__main__":
    sys.exit(main())
