"""Random policies that hold one activation, or every one, wherever one may stand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from policypress.policy.activations import FUNCTIONS
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation, Flatten, InputQuantization, Layer, MaxPool2d, Op, Relu, Residual, Shape
from policypress.policy.policy import Numerics, Policy
from policypress.testing.policies import Builder, Kind, make_policy

Role = Literal["hidden", "signed", "tanh", "raw"]

_PARAMETERS: dict[str, tuple[tuple[float, ...], ...]] = {
    "leaky_relu": ((0.01,), (0.25,)),
    "elu": ((1.0,), (0.4,)),
    "celu": ((1.0,), (2.5,)),
    "softplus": ((1.0,), (4.0,)),
    "hardtanh": ((-1.0, 1.0), (0.0, 6.0), (-2.0, 0.5)),
}
ACTIVATIONS = tuple(
    Activation(name, parameters=parameters)
    for name, row in FUNCTIONS.items()
    for parameters in _PARAMETERS.get(name, (row.usual,))
)
"""Every function of the table in float numerics, with one or more parameters."""


def activation_name(op: Activation) -> str:
    """What a test of it is called."""
    return "-".join([op.function, *(f"{value:g}" for value in op.parameters)])


def activated(op: Activation, numerics: Numerics, kind: Kind, bits: int = 8, seed: int = 0) -> Policy:
    """A random policy of ``kind`` "vector" or "image" with ``op``.

    ``bits``: of weights and of its codes, 3 at least.
    """
    template = make_policy(numerics, kind, bits, seed)
    maker = _Maker(Builder(numerics, bits, seed, per_output=seed % 2 == 0), op, max(bits, 3))
    ops = maker.image(template.observation.shape) if kind == "image" else maker.vector()
    return dataclasses.replace(template, ops=ops)


class _Maker:
    def __init__(self, builder: Builder, op: Activation, bits: int) -> None:
        self.builder, self.op, self.bits = builder, op, bits

    def act(self, limit: int) -> Activation:
        """The activation of codes up to ``limit``, of which the largest stands for about 6."""
        if not self.builder.integer:
            return self.op
        unit, grid = 2.0 ** round(math.log2(6 / limit)), FUNCTIONS[self.op.function].grid
        if grid is not None and limit == grid[1]:
            unit = grid[0]
        return Activation(self.op.function, unit, self.bits, limit, self.op.parameters)

    def layer(self, *shape: int, role: Role, **geometry: Any) -> Layer:
        return self.fed(self.builder.layer(*shape, role=role, name=f"{role}-{shape[0]}", **geometry))

    def fed(self, layer: Layer) -> Layer:
        """``layer`` behind an activation, whose codes are smaller where they have fewer bits."""
        if layer.requantize is None:
            return layer
        shift = np.maximum(layer.requantize.shift - (8 - self.bits) // 2, 1).astype(np.int32)
        return dataclasses.replace(layer, requantize=dataclasses.replace(layer.requantize, shift=shift))

    def vector(self) -> tuple[Op, ...]:
        return (
            self.builder.layer(9, 5, role="tanh", name="first"),
            self.act(255),
            self.layer(8, 9, role="hidden"),
            self.act(255),  # of codes that are never negative
            self.layer(7, 8, role="signed"),
            self.act(127),
            self.layer(3, 7, role="raw"),
        )

    def image(self, shape: Shape) -> tuple[Op, ...]:
        same: dict[str, Any] = {"padding": (1, 1)}
        head: tuple[Op, ...] = (
            self.builder.layer(3, 2, 3, 3, role="signed", name="stem", padding=(1, 0), stride=(2, 1)),
            MaxPool2d((3, 2), (2, 1), (1, 1)),
            self.act(127),
            self.block(ends_in_layer=True),
            self.act(127),
            self.layer(3, 3, 3, 3, role="tanh", **same),
            self.act(255),
            MaxPool2d((2, 2), (1, 1), (1, 1)),
            self.block(ends_in_layer=False),
            Relu(),
            Flatten(),
        )
        for op in head:
            shape = op.output_shape(shape)
        return (*head, self.layer(6, shape[0], role="tanh"), self.act(255), self.layer(4, 6, role="raw"))

    def block(self, ends_in_layer: bool) -> Residual:
        """A residual block that holds the activation, inside or at the end."""
        block = self.builder.residual(3, "block")
        inner, last = (self.fed(op) for op in block.body if isinstance(op, Layer))
        body: tuple[Op, ...] = (inner, self.act(127), *([last] if ends_in_layer else []))
        return dataclasses.replace(block, body=body, branch=block.branch if ends_in_layer else block.skip)


def every_function(numerics: Numerics, bits: int, seed: int, image: bool = False) -> Policy:
    """A policy of 7 values, or of an ``image``, and 4 actions with every function once.

    In random order, with random parameters, behind layers of ``bits`` bits, pools, ReLU, residual sums and one another.
    """
    b = Builder(numerics, bits, seed, per_output=seed % 2 == 1)
    names = iter(str(name) for name in b.rng.permutation(list(FUNCTIONS)))
    shape: Shape = (3, 6, 5) if image else (7,)
    observed = shape
    ops: list[Op] = []
    for name in names:
        reach = b.pick(127, 255, 60)
        sizes = (6, shape[0], 3, 3) if image else (18, shape[0])
        layer = b.layer(*sizes, role="signed", name=name, **({"padding": (1, 1)} if image else {}))
        if layer.requantize is not None:
            low = -reach if b.often(0.7) else 0
            layer = dataclasses.replace(layer, requantize=dataclasses.replace(layer.requantize, low=low, high=reach))
        ops.append(layer)
        between = b.pick("nothing", "nothing", "pool", "relu", "residual")
        if between == "pool" and image:
            ops.append(MaxPool2d((3, 3), (1, 1), (1, 1)))
        elif between == "relu":
            ops.append(Relu())
        elif between == "residual" and image:
            ops.append(b.residual(6, f"{name}.r"))
            reach = max(reach, 127)
        act = b.any_activation(name, reach, b.pick(*range(2, 9)))
        ops.append(act)
        if b.often(0.5) and (another := next(names, None)) is not None:
            reach = max(1, -act.low, act.high) if b.integer else 1
            ops.append(b.any_activation(another, reach, b.pick(*range(2, 9))))
        shape = (6, *shape[1:]) if image else (18,)
    if image:
        ops.append(Flatten())
    ops.append(b.layer(4, math.prod(shape), role="raw", name="last"))
    bound = np.full(4, 1e30, np.float32)
    scale, low, high = (255, 0, 255) if image else (30, -127, 127)
    codes = InputQuantization(np.array([scale], np.float32), low, high, 8)
    return Policy(
        tuple(ops),
        ObservationTransform(observed, "uint8" if image else "float32", image=image),
        ActionTransform("box", (4,), low=-bound, high=bound),
        codes if b.integer else None,
        baseline_bytes=4,
    )
