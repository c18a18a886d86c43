"""Random policies of every legal shape, degenerate ones above all: what engines must agree on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import unknown
from policypress.policy.activations import FUNCTIONS, LARGEST_CODE
from policypress.policy.contract import (
    OBSERVATION_DTYPES,
    ActionKind,
    ActionTransform,
    Normalization,
    ObservationTransform,
)
from policypress.policy.ops import (
    CELLS,
    FLOAT_BITS,
    INT32_MAX,
    INT32_MIN,
    LEAST_EPSILON,
    Activation,
    Cell,
    Flatten,
    History,
    InputQuantization,
    Layer,
    LayerNorm,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Numerics, Policy
from policypress.policy.state import STATE_LIMITS
from policypress.testing.draw import Draw

_LIMITS = (
    *((0, 255), (0, 255), (-127, 127), (-127, 127), (-128, 127), (0, 15), (-7, 7), (-1, 1), (-255, 0), (-90, -5)),
    *((5, 90), (0, 256), (-255, 255), (-1000, 1), (-70000, 70000), (-(2**23), 2**24)),
)
_NARROW = ((-255, 255), (-255, 255), (0, 255), (-127, 127), (-128, 127), (-7, 7), (0, 1), (-255, 0), (5, 90))
"""Limits of codes in front of an activation."""
_PARTS = ((-2047, 2047), (-2047, 2047), (-32767, 32767), (-255, 255), (-127, 127), (0, 300), (-1000, 1), (5, 90))
"""Limits of codes that the layers of a recurrent cell give."""
_DENSITIES = (0.0, 0.01, 0.1, 0.5, 1.0, 1.0)
_MAX_DEPTH = 3


def random_policy(seed: int, numerics: Numerics | None = None, functions: Sequence[str] = tuple(FUNCTIONS)) -> Policy:
    """A random policy, its activations among ``functions``; equal arguments give equal ones."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Numerics, ...] = ("integer", "integer", "integer", "weight-only", "float")
    return _Maker(rng, numerics or kinds[rng.integers(len(kinds))], functions).policy()


def random_linear_policy(seed: int, numerics: Numerics | None = None) -> Policy:
    """A random policy of one fully connected layer; in integer numerics its scales are powers of two half of the time.
    Equal arguments give equal ones."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Numerics, ...] = ("integer", "integer", "integer", "weight-only", "float")
    return _Maker(rng, numerics or kinds[rng.integers(len(kinds))], ()).linear_policy()


def random_recurrent_policy(seed: int, numerics: Numerics | None = None) -> Policy:
    """A random policy with recurrent cells, histories, or both; equal arguments give equal ones."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Numerics, ...] = ("integer", "integer", "integer", "weight-only", "float")
    return _Maker(rng, numerics or kinds[rng.integers(len(kinds))], tuple(FUNCTIONS)).recurrent_policy()


class _Maker(Draw):
    def __init__(self, rng: np.random.Generator, numerics: Numerics, functions: Sequence[str]) -> None:
        super().__init__(rng, numerics)
        self.functions = functions
        self.bits = self.pick(None, 2, 3, 4, 5, 6, 7, 8)  # None: another one in every layer
        self.density = self.pick(None, *_DENSITIES)
        self.codes = (0, 0)  # range of those at hand, in integer numerics
        self.names = 0

    @property
    def reach(self) -> int:
        """Largest magnitude of a code."""
        return max(-self.codes[0], self.codes[1])

    def policy(self) -> Policy:
        observation = self.observation()
        shape = observation.shape
        quantization = self.input(observation) if self.integer else None
        ops: list[Op] = []
        while len(ops) < 8 and (len(shape) != 1 or not ops or self.often(0.6)):
            for op in self.ops(shape, depth=0):
                ops.append(op)
                shape = op.output_shape(shape)
        if len(shape) != 1:
            ops.append(Flatten())
            shape = (math.prod(shape),)
        action, outputs = self.action()
        ops.append(self.layer((outputs, *shape), "raw"))
        first = next(op for op in ops if not isinstance(op, Flatten))
        if quantization is not None and isinstance(first, Layer) and not first.is_conv and self.often(0.4):
            quantization = self.shifted(quantization)
        return Policy(tuple(ops), observation, action, quantization, baseline_bytes=4)

    def recurrent_policy(self) -> Policy:
        observation = self.observation()
        quantization = self.input(observation) if self.integer else None
        ops: list[Op] = [Flatten()] if len(observation.shape) > 1 else []
        size, remembers = math.prod(observation.shape), False
        while not remembers or self.often(0.4):
            if remembers or self.often(0.3):
                width = self.pick(1, 3, 8, 17)
                ops += self.hidden((width, size))
                size = width
            if not self.integer and self.often(0.2):
                ops += self.norm(size)
            fits = not self.integer or (STATE_LIMITS[0] <= min(self.codes) and max(self.codes) <= STATE_LIMITS[1])
            if fits and self.often(0.4):
                history = History(self.pick(2, 3, 5))
                self.codes = history.codes(*self.codes)
                ops.append(history)
                size *= history.frames
            else:
                cell = self.cell(size)
                ops.append(cell)
                size = cell.units
            remembers = True
        action, outputs = self.action()
        ops.append(self.layer((outputs, size), "raw"))
        first = next(op for op in ops if not isinstance(op, Flatten | History))
        if quantization is not None and isinstance(first, Layer) and self.often(0.4):
            quantization = self.shifted(quantization)
        return Policy(tuple(ops), observation, action, quantization, baseline_bytes=4)

    def cell(self, inputs: int) -> Cell:
        kind = self.pick(*CELLS)
        units, rows = self.pick(1, 2, 3, 5, 8, 16, 17, 33), len(CELLS[kind].gates)
        taken = self.layer((rows * units, inputs), "part")
        if not self.integer:
            return Cell(
                kind, taken, self.layer((rows * units, units), "part"), Activation("sigmoid"), Activation("tanh")
            )
        bits = tuple(int(self.rng.integers(8, 17)) for _ in CELLS[kind].state)
        reach = self.reach
        self.codes = (1 - 2 ** (bits[0] - 1), 2 ** (bits[0] - 1) - 1)
        recalled = self.layer((rows * units, units), "part")
        reach = max(reach + self.reach, 1)
        sigmoid = Activation(
            "sigmoid", self.pick(1 / 32, 1 / 16, 3 / 32), self.pick(8, 8, 5, 2), self.pick(255, 255, 60)
        )
        tanh = Activation("tanh", *self.pick((1 / 64, 8, 255), (1 / 64, 8, 255), (3 / 64, 4, 100)))
        step, one = float(sigmoid.lookup.scale), tanh.high
        high = [2 ** (b - 1) - 1 for b in bits]
        typical = {
            "gate": sigmoid.limit / reach,
            "candidate": tanh.limit / reach,
            "reset": step,
            "forget": step,
            "input": step / one * high[-1] / 4,
            "cell": 4 / high[-1] / tanh.unit,
            "output": step / one * high[0],
        }
        ratios = []
        for name in CELLS[kind].ratios:
            ratio = typical[name] if self.often(0.9) else 2.0 ** self.rng.uniform(-24, 6)
            multiplier, shift = self.ratio(ratio, 1)
            ratios.append((int(multiplier[0]), int(shift[0])))
        cell = Cell(kind, taken, recalled, sigmoid, tanh, bits, tuple(ratios))
        self.codes = cell.codes(*self.codes)
        return cell

    def linear_policy(self) -> Policy:
        observation = self.observation()
        quantization = self.input(observation) if self.integer else None
        action, outputs = self.action()
        layer = self.layer((outputs, math.prod(observation.shape)), "raw")
        if quantization is not None and self.often(0.5):
            quantization = dataclasses.replace(quantization, inverse_scale=_power_of_two(quantization.inverse_scale))
            layer = dataclasses.replace(layer, scale=_power_of_two(layer.scale[:1]))
        if quantization is not None and self.often(0.3):
            quantization = self.shifted(quantization)
        ops: tuple[Op, ...] = (layer,) if len(observation.shape) == 1 else (Flatten(), layer)
        return Policy(ops, observation, action, quantization, baseline_bytes=4)

    def observation(self) -> ObservationTransform:
        if self.often(0.25):
            shape: tuple[int, ...] = (self.pick(1, 2, 3, 4), self.side(), self.side())
            return ObservationTransform(shape, "uint8", image=True)
        dtype = self.pick("float32", "float64", *OBSERVATION_DTYPES)
        shape = self.pick((self.width(),), (self.width(),), (self.width(),), (self.pick(1, 3), self.pick(1, 7)))
        if self.often(0.2):
            shape = (self.pick(1, 2, 3), self.side(), self.side())
        normalization = None
        if self.often(0.5):
            moments = self.rng.normal(size=shape) * self.pick(1, 100), self.rng.uniform(0, 3, shape)
            normalization = Normalization(*moments, self.pick(1e-8, 1e-3), self.pick(4.0, 10.0, 1e30, math.inf))
        return ObservationTransform(shape, dtype, normalization=normalization)

    def input(self, observation: ObservationTransform) -> InputQuantization:
        bits = int(self.rng.integers(2, 17))
        low, high = self.pick((0, 2**bits - 1), (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1), (1, 2**bits - 1))
        if self.often(0.1):
            high = low + int(self.rng.integers(1, 2**bits))
            low, high = self.pick((low, high), (-high, -low))
        size = 1 if observation.image or self.often(0.2) else math.prod(observation.shape)
        scale = 2.0 ** self.rng.uniform(-2, 2, size) * max(abs(low), abs(high)) / self.pick(1, 2, 4)
        if observation.dtype not in ("float32", "float64") and not observation.image:
            scale *= 2.0 ** -self.pick(0, 8, 20)
        if self.often(0.02):
            scale *= self.pick(1e-30, 1e30)
        self.codes = (low, high)
        return InputQuantization(scale.astype(np.float32), low, high, bits)

    def shifted(self, quantization: InputQuantization) -> InputQuantization:
        size = quantization.inverse_scale.size
        found = self.rng.integers(-self.pick(1, 300, 2**15), self.pick(2, 300, 2**15), size, endpoint=True)
        points = np.where(self.rng.random(size) < self.pick(0.3, 1.0), found, 0).astype(np.int32)
        return dataclasses.replace(quantization, zero_point=points) if points.any() else quantization

    def side(self) -> int:
        return int(self.pick(1, 1, 2, 3, 5, 8, 9, 12))

    def width(self) -> int:
        return int(self.pick(1, 1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 100, 300))

    def ops(self, shape: tuple[int, ...], depth: int) -> list[Op]:
        """Some operations on values of ``shape``."""
        if len(shape) == 3:
            kind = self.pick("conv", "conv", "conv", "pool", "residual", "relu", "flatten", "activation")
        elif len(shape) == 2:
            kind = self.pick("relu", "flatten", "flatten", "activation")
        else:
            norms = [] if self.integer else ["norm", "norm"]
            kind = self.pick(*["linear"] * 4, "residual", "relu", "flatten", "activation", *norms)
        match kind:
            case "norm":
                return self.norm(shape[0])
            case "conv":
                return self.hidden((self.channels(), shape[0]), shape[1:])
            case "linear":
                return self.hidden((self.width(), shape[0]))
            case "pool":
                return [self.pool(shape)]
            case "residual" if depth < _MAX_DEPTH:
                return [self.residual(shape, depth)]
            case "flatten":
                return [Flatten()]
            case "activation":
                return self.activations()
            case _:  # "relu", and blocks that would lie too deep
                return self.relu()

    def norm(self, size: int) -> list[Op]:
        """A LayerNorm, which integer numerics have none of, and often an activation behind it."""
        weight, bias = self.rng.normal(size=(2, size)).astype(np.float32)
        found = LayerNorm(weight, bias, self.pick(1e-5, 1e-5, 1e-12, 1e-3, 1.0, LEAST_EPSILON))
        return [found, *(self.activations() if self.often(0.5) else [])]

    def relu(self) -> list[Op]:
        if self.integer:
            self.codes = Relu().codes(*self.codes)
        return [Relu()]

    def activations(self) -> list[Op]:
        """One activation or two, or a ReLU where codes are too large for a table."""
        found: list[Op] = []
        while not found or self.often(0.2):
            if self.integer and self.reach > LARGEST_CODE:
                return self.relu()
            bits = self.bits or int(self.rng.integers(2, 9))
            op = self.any_activation(self.pick(*self.functions), max(self.reach, 1), bits)
            if self.integer:
                self.codes = op.codes(*self.codes)
            found.append(op)
        return found

    def channels(self) -> int:
        return int(self.pick(1, 2, 3, 4, 5, 8, 17, 32))

    def pool(self, shape: tuple[int, ...]) -> MaxPool2d:
        kernel = tuple(int(self.rng.integers(1, min(side, 4) + 1)) for side in shape[1:])
        stride = self.pick(1, 2, 3, 7, 10**6), self.pick(1, 2, 3)
        return MaxPool2d((kernel[0], kernel[1]), stride, (self.pad(kernel[0]), self.pad(kernel[1])))

    def pad(self, kernel: int) -> int:
        return int(self.rng.integers(kernel)) if self.often(0.5) else 0

    def hidden(self, size: tuple[int, int], sides: tuple[int, ...] = (), same: bool = False) -> list[Op]:
        """A layer and what may come after it; ``same``: an image keeps its sides."""
        geometry: dict[str, Any] = {}
        kernel: tuple[int, ...] = ()
        if sides:
            kernel = tuple(int(self.rng.integers(1, min(side, 4) + 1)) for side in sides)
            if self.often(0.1):
                kernel = sides
            if same:
                kernel = self.pick((1, 1), (3, 3), (3, 1))
                geometry["padding"] = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
            else:
                geometry["padding"] = (self.pad(kernel[0]), self.pad(kernel[1]))
                geometry["stride"] = (self.pick(1, 1, 2, 3, 100, 10**6), self.pick(1, 1, 2, 5))
        role = "activation" if self.often(0.4) else "hidden"
        layer = self.layer((*size, *kernel), role, **geometry)
        ops: list[Op] = [layer]
        if self.often(0.1):
            ops += self.relu()
        if role == "activation":
            ops += self.activations()
        return [*ops, *(self.relu() if self.often(0.2) else [])]

    def layer(self, shape: tuple[int, ...], role: str, **geometry: Any) -> Layer:
        """``role``: "hidden", "activation" (one follows), "part" (of a cell) or "raw" (accumulators)."""
        rng, outputs = self.rng, shape[0]
        density = self.density if self.density is not None else self.pick(*_DENSITIES)
        kept = rng.random(shape) < density
        if self.often(0.2):
            kept[rng.random(outputs) < 0.5] = False  # rows without weights
        bits = FLOAT_BITS if self.numerics == "float" else self.bits or int(rng.integers(2, 9))
        fan_in = max(1.0, density * math.prod(shape[1:]))
        many = outputs if self.often(0.5) else 1
        weight, scale = self.weights(kept, bits, many, fan_in, widest=self.often(0.1))
        self.names += 1
        name = f"layer{self.names}"
        if self.integer:
            return self.integer_layer(weight, bits, scale, role, name, **geometry)
        relu = self.often({"hidden": 0.6, "raw": 0.1}.get(role, 0))
        return Layer(weight, rng.normal(size=outputs).astype(np.float32), bits, scale, relu, name=name, **geometry)

    def integer_layer(
        self, weight: NDArray[np.int8], bits: int, scale: NDArray[np.float32], role: str, name: str, **geometry: Any
    ) -> Layer:
        rng, outputs = self.rng, len(weight)
        rows = weight.reshape(outputs, -1)
        # No accumulator may overflow: rows lose weights until it is proven.
        while (worst := np.abs(rows.astype(np.int64)).sum(axis=1) * self.reach).max() >= 2**31 - 2:
            too_large = worst >= 2**31 - 2
            rows[too_large] *= (rng.random(rows[too_large].shape) < (0.5 if self.reach < 2**24 else 0)).astype(np.int8)
        room = INT32_MAX - np.abs(rows.astype(np.int64)).sum(axis=1) * self.reach
        match self.pick("small", "small", "small", "none", "edge", "any"):
            case "none":
                bias = np.zeros(outputs, np.int64)
            case "edge":
                bias = room * rng.choice([-1, 1], outputs)
            case "any":
                bias = rng.integers(-room, room + 1)
            case _:
                bias = np.clip(rng.integers(-300, 300, outputs), -room, room)
        requantize, relu = None, role == "raw" and self.often(0.1)
        if role != "raw":
            low, high = self.pick(*{"activation": _NARROW, "part": _PARTS}.get(role, _LIMITS))
            relu = role == "hidden" and low == 0
            typical = 0.2 * self.reach * math.sqrt(float((rows.astype(float) ** 2).sum()) / outputs) + 1
            ratio = max(-low, high) / typical if self.often(0.9) else 2.0 ** self.rng.uniform(-24, 6)
            requantize = Requantization(*self.any_ratio(ratio, outputs), low, high)
        layer = Layer(weight, bias.astype(np.int32), bits, scale, relu, requantize, name=name, **geometry)
        self.codes = layer.codes(*self.codes)
        return layer

    def any_ratio(self, ratio: float, outputs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Multipliers and shifts near ``ratio``, each one for all or one for each output."""
        return self.ratio(ratio, self.pick(1, outputs), one_shift=self.often(0.5))

    def residual(self, shape: tuple[int, ...], depth: int) -> Residual:
        outside = max(1, self.reach)
        body = self.body(shape, depth)
        if not self.integer:
            return Residual(body)
        channels, inside = shape[0], max(1, self.reach)
        low, high = self.pick(*_LIMITS, (INT32_MIN, INT32_MAX)) if self.often(0.5) else (-127, 127)
        wanted = max(-low, high)
        limits = INT32_MIN, INT32_MAX
        skip = Requantization(*self.any_ratio(wanted / outside, channels), *limits)
        branch = Requantization(*self.any_ratio(wanted / inside * self.pick(1, 8), channels), *limits)
        self.codes = (low, high)
        return Residual(body, skip, branch, low, high)

    def body(self, shape: tuple[int, ...], depth: int) -> tuple[Op, ...]:
        """Operations that keep ``shape``."""
        ops: list[Op] = self.relu() if self.often(0.3) else []
        sides = shape[1:]
        for _ in range(int(self.rng.integers(1, 3))):
            norms = [] if self.integer or sides else ["norm"]
            match self.pick("layer", "layer", "residual", "pool", "flatten", "activation", *norms):
                case "norm":
                    ops += self.norm(shape[0])
                case "layer":
                    ops += self.hidden((shape[0], shape[0]), sides, same=True)
                case "residual" if depth < _MAX_DEPTH:
                    ops.append(self.residual(shape, depth + 1))
                case "pool" if sides:
                    ops.append(MaxPool2d((3, 3), (1, 1), (1, 1)))
                case "flatten" if not sides:
                    ops.append(Flatten())
                case "activation":
                    ops += self.activations()
                case _:
                    ops += self.relu()
        if self.often(0.5):
            kernel: tuple[int, ...] = self.pick((1, 1), (3, 3)) if sides else ()
            padding = {"padding": ((kernel[0] - 1) // 2,) * 2} if sides else {}
            ops.append(self.layer((shape[0], shape[0], *kernel), "raw", **padding))
        return tuple(ops)

    def action(self) -> tuple[ActionTransform, int]:
        kind: ActionKind = self.pick("box", "box", "discrete", "multi-discrete", "multi-binary")
        match kind:
            case "multi-binary":
                count = self.pick(1, 4, 9)
                return ActionTransform("multi-binary", (count,), "int64"), count
            case "discrete":
                return ActionTransform("discrete", dtype="int64", start=self.pick(0, 1, -5, 10**9)), self.width()
            case "multi-discrete":
                nvec = tuple(int(n) for n in self.rng.integers(1, 6, self.pick(1, 2, 5)))
                return ActionTransform("multi-discrete", (len(nvec),), "int64", nvec=nvec), sum(nvec)
            case "box":
                return self.box()
            case _:
                unknown(kind)

    def box(self) -> tuple[ActionTransform, int]:
        shape = self.pick((1,), (3,), (6,), (2, 3), (17,))
        low = self.rng.uniform(-2, 0, shape).astype(np.float32)
        high = self.rng.uniform(0, 2, shape).astype(np.float32)
        squash = self.often(0.5)
        if not squash and self.often(0.5):
            low, high = np.full_like(low, -np.inf), self.pick(high, np.full_like(high, np.inf))
        dtype = self.pick("float32", "float64")
        return ActionTransform("box", shape, dtype, squash, low, high), math.prod(shape)


def _power_of_two(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest powers of two that are not above ``values``."""
    return np.ldexp(0.5, np.frexp(values)[1]).astype(np.float32)
