"""Policies that hold one activation wherever one may stand: behind layers, pools and blocks, and inside of blocks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from policy.policies import Builder, Kind, make_policy
from policypress.policy.activations import FUNCTIONS
from policypress.policy.ops import Activation, Flatten, Layer, MaxPool2d, Op, Relu, Residual, Shape
from policypress.policy.policy import Numerics, Policy

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
    for parameters in _PARAMETERS.get(name, ((1.0,) * len(row.parameters),))
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
        body = (inner, self.act(127), *([last] if ends_in_layer else []))
        return dataclasses.replace(block, body=body, branch=block.branch if ends_in_layer else block.skip)
