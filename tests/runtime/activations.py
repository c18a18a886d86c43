"""Policies with every function of policy/activations.py, wherever it may stand."""

from __future__ import annotations

import dataclasses

import numpy as np

from policy.policies import Builder
from policypress.policy.activations import FUNCTIONS
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation, Flatten, InputQuantization, Layer, MaxPool2d, Op, Relu
from policypress.policy.policy import Numerics, Policy


def activation(b: Builder, function: str, reach: int) -> Activation:
    """One that takes codes up to ``reach`` at least, of any unit and bits, with any parameters."""
    rng, usual = b.rng, FUNCTIONS[function].usual
    parameters = tuple(float(np.float32(value * rng.choice([1.0, 0.5, 1.7]))) for value in usual)
    if not b.integer:
        return Activation(function, parameters=parameters)
    limit = int(rng.integers(reach, 256))
    return Activation(function, float(2.0 ** rng.integers(-7, -2)), int(rng.integers(2, 9)), limit, parameters)


def limited(layer: Layer, low: int, high: int) -> Layer:
    """The layer with codes from ``low`` to ``high``; as it is where it has none."""
    if layer.requantize is None:
        return layer
    return dataclasses.replace(layer, requantize=dataclasses.replace(layer.requantize, low=low, high=high))


def made(numerics: Numerics, functions: list[str], bits: int, seed: int, image: bool = False) -> Policy:
    """A policy with ``functions`` in turn: behind layers, pools, ReLU, residual sums and one another."""
    b = Builder(numerics, bits, seed, bool(seed % 2))
    rng, names = b.rng, iter(functions)
    shape: tuple[int, ...] = (3, 6, 5) if image else (7,)
    ops: list[Op] = []
    for name in names:
        reach = int(rng.choice([127, 255, 60]))
        low, high = -reach if rng.random() < 0.7 else 0, reach
        sizes = (6, shape[0], 3, 3) if image else (18, shape[0])
        geometry = {"padding": (1, 1)} if image else {}
        layer = b.layer(*sizes, role="signed", name=name, **geometry)
        ops.append(limited(layer, low, high))
        between = rng.choice(["nothing", "nothing", "pool", "relu", "residual"])
        if between == "pool" and image:
            ops.append(MaxPool2d((3, 3), (1, 1), (1, 1)))
        elif between == "relu":
            ops.append(Relu())
        elif between == "residual" and image:
            ops.append(b.residual(6, f"{name}.r"))
            reach = max(reach, 127)
        ops.append(activation(b, name, reach))
        if rng.random() < 0.5 and (another := next(names, None)) is not None:
            reach = max(-ops[-1].low, ops[-1].high) if b.integer else 0
            ops.append(activation(b, another, reach))
        shape = (6, *shape[1:]) if image else (18,)
    if image:
        ops.append(Flatten())
    ops.append(b.layer(4, int(np.prod(shape)), role="raw", name="last"))
    bound = np.full(4, 1e30, np.float32)
    pixels = InputQuantization(np.array([255], np.float32), 0, 255, 8)
    values = InputQuantization(np.array([30], np.float32), -127, 127, 8)
    return Policy(
        tuple(ops),
        ObservationTransform((3, 6, 5) if image else (7,), "uint8" if image else "float32", image=image),
        ActionTransform("box", (4,), low=-bound, high=bound),
        (pixels if image else values) if b.integer else None,
        baseline_bytes=4,
    )


def seen(policy: Policy, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if policy.observation.image:
        return rng.integers(0, 256, (count, *policy.observation.shape)).astype(np.uint8)
    return (4 * rng.normal(size=(count, *policy.observation.shape))).astype(np.float32)


def orders(seed: int) -> list[str]:
    return [str(name) for name in np.random.default_rng(seed).permutation(list(FUNCTIONS))]
