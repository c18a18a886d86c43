"""Small random policies of every kind, whose codes use their range: what most tests ask for."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform, TestVectors
from policypress.policy.observations import random_observations
from policypress.policy.ops import (
    FLOAT_BITS,
    INT32_MAX,
    INT32_MIN,
    Activation,
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Numerics, Policy
from policypress.testing.draw import Draw

NUMERICS: tuple[Numerics, ...] = ("integer", "weight-only", "float")
Kind = Literal["vector", "image", "tanh"]


def tanh_op(bits: int = 0) -> Activation:
    """The usual tanh: codes of ``bits`` bits, or float32 values."""
    return Activation("tanh", 1 / 64, bits, 255) if bits else Activation("tanh")


class Builder(Draw):
    """Makes layers of one numerics and bit width whose codes use their range."""

    def __init__(self, numerics: Numerics, bits: int, seed: int, per_output: bool, density: float = 0.6) -> None:
        super().__init__(np.random.default_rng(seed), numerics)
        self.bits = FLOAT_BITS if numerics == "float" else bits
        self.per_output = per_output
        self.density = density

    def layer(self, *shape: int, role: Literal["hidden", "signed", "tanh", "raw"], name: str, **geometry: Any) -> Layer:
        """``role``: "hidden" has a ReLU, "signed" none, "tanh" is for one, "raw" gives its accumulators."""
        rng, outputs = self.rng, shape[0]
        kept = rng.random(shape) < self.density
        kept.reshape(outputs, -1)[:, 0] = True  # no output without weights
        many = outputs if self.per_output else 1
        weight, scale = self.weights(kept, self.bits, many, math.prod(shape[1:]))
        if self.integer:
            bias: NDArray[Any] = rng.integers(-300, 300, outputs).astype(np.int32)
        else:
            bias = rng.normal(size=outputs).astype(np.float32)
        requantize = None
        if self.integer and role != "raw":
            high = {"hidden": 255, "signed": 127, "tanh": 255}[role]
            low = 0 if role == "hidden" else -high
            typical = 60 * math.sqrt(float((weight.astype(float) ** 2).sum()) / outputs)
            requantize = Requantization(*self.ratio(100 / typical, many), low, high)
        return Layer(weight, bias, self.bits, scale, role == "hidden", requantize, name=name, **geometry)

    def tanh(self, bits: int) -> Activation:
        return tanh_op(bits if self.integer else 0)

    def residual(self, channels: int, name: str) -> Residual:
        """The block of the paper's network: ReLU, conv, ReLU, conv; the second gives accumulators."""
        same: dict[str, Any] = {"padding": (1, 1)}
        body: tuple[Op, ...] = (
            Relu(),
            self.layer(channels, channels, 3, 3, role="signed", name=f"{name}.0", **same),
            Relu(),
            self.layer(channels, channels, 3, 3, role="raw", name=f"{name}.1", **same),
        )
        if not self.integer:
            return Residual(body)
        last = body[-1]
        assert isinstance(last, Layer)
        typical = 60 * math.sqrt(float((last.weight.astype(float) ** 2).sum()) / channels)
        many = channels if self.per_output else 1
        limits = INT32_MIN, INT32_MAX
        skip = Requantization(*self.ratio(0.7, 1), *limits)
        branch = Requantization(*self.ratio(60 / typical, many), *limits)
        return Residual(body, skip, branch, -127, 127)


def make_policy(
    numerics: Numerics,
    kind: Kind,
    bits: int = 8,
    seed: int = 0,
    per_output: bool = True,
    vectors: bool = False,
) -> Policy:
    """A random policy: a vector one with box actions (with ReLU or "tanh"), or an image one with discrete actions."""
    b = Builder(numerics, bits, seed, per_output)
    if kind != "image":
        ops: tuple[Op, ...] = (
            b.layer(9, 5, role="hidden", name="first"),
            b.layer(7, 9, role="hidden", name="second"),
            b.layer(3, 7, role="raw", name="mean"),
        )
        if kind == "tanh":
            ops = (
                b.layer(9, 5, role="tanh", name="first"),
                b.tanh(max(bits, 3)),
                b.layer(7, 9, role="tanh", name="second"),
                b.tanh(8),
                ops[-1],
            )
        moments = b.rng.normal(size=5), b.rng.uniform(0.5, 2, 5)
        observation = ObservationTransform((5,), "float64", normalization=Normalization(*moments, 1e-8, 4.0))
        low = np.array([-2, -1, 0], np.float32)
        action = ActionTransform("box", (3,), squash=True, low=low, high=np.array([1, 1, 5], np.float32))
        inverse_scale = b.rng.uniform(20, 40, 5).astype(np.float32)
        quantization = InputQuantization(inverse_scale, -127, 127, 8)
    else:
        head: tuple[Op, ...] = (
            b.layer(3, 2, 3, 3, role="signed", name="stem", padding=(1, 0), stride=(2, 1)),
            MaxPool2d((3, 2), (2, 1), (1, 1)),
            b.residual(3, "block"),
            Relu(),
            Flatten(),
        )
        shape: tuple[int, ...] = (2, 9, 8)
        for op in head:
            shape = op.output_shape(shape)
        ops = (
            *head,
            b.layer(6, shape[0], role="hidden", name="dense"),
            b.layer(4, 6, role="raw", name="q"),
        )
        observation = ObservationTransform((2, 9, 8), "uint8", image=True, frame_stack=2)
        action = ActionTransform("discrete", dtype="int64", start=1)
        quantization = InputQuantization(np.array([255], np.float32), 0, 255, 8)
    policy = Policy(
        ops,
        observation,
        action,
        quantization if numerics == "integer" else None,
        baseline_bytes=4 * sum(op.weight.size + op.bias.size for op in ops if isinstance(op, Layer)),
        provenance={
            "algo": "sac",
            "seed": seed,
            "config": {"sparsity": 0.4, "schedule": None},
            "note": "naïve ✓",
        },
        results={"return": [1.5, -2.25], "n": 3},
    )
    if not vectors:
        return policy
    seen = random_observations(policy, 5, seed)
    return dataclasses.replace(policy, test_vectors=TestVectors(seen, policy.outputs(seen), policy.predict(seen)[0]))


def with_zero_points(policy: Policy, *points: int) -> Policy:
    """``policy``, a vector one in integer numerics, with these zero points of its inputs, repeated."""
    assert policy.input is not None
    points_of_all = np.resize(np.array(points, np.int32), policy.input.inverse_scale.size)
    return dataclasses.replace(policy, input=dataclasses.replace(policy.input, zero_point=points_of_all))


def thinned(policy: Policy) -> Policy:
    """Of every four neighbouring inputs of a linear layer's output the largest weight alone."""

    def thin(op: Op) -> Op:
        if not isinstance(op, Layer) or op.is_conv:
            return op
        outputs, inputs = op.weight.shape
        fours = np.pad(op.weight, ((0, 0), (0, -inputs % 4))).reshape(outputs, -1, 4)
        largest = np.abs(fours.astype(int)).argmax(axis=2)[..., None] == np.arange(4)
        return dataclasses.replace(op, weight=(fours * largest).reshape(outputs, -1)[:, :inputs].astype(np.int8))

    return dataclasses.replace(policy, ops=tuple(map(thin, policy.ops)), test_vectors=None)
