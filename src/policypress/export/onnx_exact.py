"""Integer numerics in style "exact": every integer as ``reference.py`` computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policypress.errors import unknown
from policypress.export.onnx_ends import normalization_error, scaled_input, shifted_input
from policypress.export.onnx_functions import Value
from policypress.export.onnx_graph import Graph, clip, max_pool, per_channel, ratio, window
from policypress.export.onnx_state import States, gates
from policypress.policy import cells, reference
from policypress.policy.ops import (
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
    Shape,
    no_integers,
)
from policypress.policy.policy import Policy

_WEIGHT_ZERO = 128
_FLOAT32_INTEGERS = 2**24
"""Up to here float32 holds every integer."""


@dataclass(frozen=True)
class _Codes:
    """Codes plus ``zero``, from 0 to at most ``peak``: a uint8 tensor if ``peak`` fits, else a float one."""

    tensor: str
    zero: int
    peak: int

    @property
    def dtype(self) -> type[np.generic]:
        if self.peak <= 255:
            return np.uint8
        return np.float32 if self.peak < _FLOAT32_INTEGERS else np.float64


class _CellCodes:
    """Tensors of codes in the formula of a cell: integers in float64, which holds all products."""

    def __init__(self, graph: Graph, cell: Cell) -> None:
        self._graph, self._cell = graph, cell

    def scaled(self, name: str, values: Value) -> Value:
        requantization = self._cell.requantization(name)
        codes = requantized(self._graph, values.tensor, requantization, np.float64, 1)
        low, high = np.float64(requantization.low), np.float64(requantization.high)
        return Value(self._graph, clip(self._graph, codes, low, high), np.float64)

    def look_up(self, function: Activation, codes: Value) -> Value:
        g = self._graph
        table = g.constant(function.lookup.table.astype(np.int16), "table")
        place = g.op("Add", g.cast(codes.tensor, np.int32), g.constant(np.int32(function.limit)))
        return Value(g, g.cast(g.op("Gather", table, place), np.float64), np.float64)

    def clip(self, values: Value, limit: int) -> Value:
        return Value(self._graph, clip(self._graph, values.tensor, np.float64(-limit), np.float64(limit)), np.float64)


class ExactIntegers:
    """Integer layers by MatMulInteger and ConvInteger; requantization in floats, wide enough to be exact.

    Both operands are uint8, weights plus 128: the kernels for uint8 times int8 add pairs of products in 16 bits on
    x86 processors without VNNI, and saturate; those for uint8 times uint8 are exact everywhere.
    """

    def __init__(self, graph: Graph, states: States) -> None:
        self.graph = graph
        self.states = states

    def network(self, policy: Policy, quantization: InputQuantization, x: str) -> str:
        g = self.graph
        with g.scope("input"):
            x = g.op("Round", scaled_input(g, policy, quantization, x))  # halves to even
            if normalization_error(policy, "exact") is not None:
                x = self._corrected(policy, quantization, x)
            x = shifted_input(g, policy, quantization, x)
            codes = self._store(x, np.float32, quantization.low, quantization.high)
        accumulators = self._ops(policy.ops, codes, policy.observation.shape)
        assert isinstance(accumulators, str)
        with g.scope("last"):
            scale = g.constant(policy.layers[-1].scale, "scale")
            return str(g.op("Mul", g.cast(accumulators, np.float32), scale))

    def _corrected(self, policy: Policy, quantization: InputQuantization, x: str) -> str:
        """``x``, codes within one of the policy's, made the policy's: by the observations at which codes begin."""
        g = self.graph
        begins = code_begins(policy, quantization)
        places = np.arange(0, begins.size, len(begins)).reshape(policy.observation.shape) - quantization.low
        x = clip(g, x, np.float32(quantization.low), np.float32(quantization.high))
        code = clip(g, g.cast(x, np.int32), np.int32(quantization.low), np.int32(quantization.high))
        place = g.op("Add", code, g.constant(places.astype(np.int32), "places"))  # NaN has no place of its own
        table = g.constant(begins.T.ravel(), "begins")
        begin, end = (g.op("Gather", table, at) for at in (place, g.op("Add", place, g.constant(np.int32(1)))))
        x = g.op("Sub", x, g.cast(g.op("Less", "observation", begin), np.float32))
        return str(g.op("Add", x, g.cast(g.op("GreaterOrEqual", "observation", end), np.float32)))

    def _ops(self, ops: tuple[Op, ...], codes: _Codes, shape: Shape) -> _Codes | str:
        """Codes, or the name of an int32 tensor of accumulators, which only the last of ``ops`` can give."""
        value: _Codes | str = codes
        for op in ops:
            assert isinstance(value, _Codes)
            with self.graph.layer(op):
                value = self._op(op, value, shape)
            shape = op.output_shape(shape)
        return value

    def _op(self, op: Op, codes: _Codes, shape: Shape) -> _Codes | str:
        g = self.graph
        match op:
            case Layer():
                accumulators = self._accumulate(op, codes)
                if op.requantize is None:
                    if op.relu:
                        accumulators = g.op("Clip", accumulators, g.constant(np.int32(0)))
                    g.step(accumulators)
                    return accumulators
                low, high = op.requantize.low, op.requantize.high
                dtype = _wide_enough(op.requantize, max(-low, high))
                ndim = len(op.output_shape(shape))
                return self._store(
                    self._scale(g.cast(accumulators, dtype), op.requantize, dtype, ndim), dtype, low, high
                )
            case Residual():
                return self._residual(op, codes, shape)
            case History():
                frames = self.states.history(self._real(codes, np.float32))
                return self._store(frames, np.float32, -codes.zero, codes.peak - codes.zero)
            case Cell():
                return self._cell(op, codes, shape)
            case Activation():
                first = op.limit - codes.zero  # of the table's places, so that codes plus their zero are places
                table = (op.lookup.table[max(first, 0) : first + codes.peak + 1] - op.low).astype(np.uint8)
                places = g.cast(codes.tensor, np.int32)
                if first < 0:  # a ReLU left out what the table does not hold
                    places = g.op("Add", places, g.constant(np.int32(first)))
                tensor = g.op("Gather", g.constant(table, "table"), places)
                codes = _Codes(tensor, -op.low, op.high - op.low)
            case Relu():
                codes = replace(codes, tensor=g.op("Clip", codes.tensor, g.constant(codes.dtype(codes.zero))))
            case MaxPool2d():
                codes = replace(codes, tensor=max_pool(g, op, codes.tensor))
            case LayerNorm():
                no_integers(op)
            case Flatten():
                codes = replace(codes, tensor=g.op("Flatten", codes.tensor))
            case _:
                unknown(op)
        g.step(codes.tensor, codes.zero)
        return codes

    def _accumulate(self, layer: Layer, codes: _Codes) -> str:
        """int32 accumulators. Codes of more than 8 bits go byte by byte: q = sum of 256**i * (byte - zero's byte)."""
        g = self.graph
        weight = (layer.weight.astype(np.int16) + _WEIGHT_ZERO).astype(np.uint8)
        kind, attributes = ("ConvInteger", window(layer)) if layer.is_conv else ("MatMulInteger", {})
        weights = g.constant(weight if layer.is_conv else weight.T, "weight")
        weight_zero = g.constant(np.uint8(_WEIGHT_ZERO))
        accumulators = ""
        for place, byte in enumerate(self._bytes(codes)):
            zero = g.constant(np.uint8(codes.zero >> 8 * place & 255))
            part = g.op(kind, byte, weights, zero, weight_zero, **attributes)
            if place > 0:  # int32 wraps around, as do the sums inside of the operator: the total fits
                part = g.op("Add", accumulators, g.op("Mul", part, g.constant(np.int32(256**place))))
            accumulators = part
        return str(g.op("Add", accumulators, g.constant(per_channel(layer.bias, layer.weight.ndim - 1), "bias")))

    def _residual(self, op: Residual, codes: _Codes, shape: Shape) -> _Codes:
        g = self.graph
        assert op.skip is not None
        assert op.branch is not None
        branch = self._ops(op.body, codes, shape)
        most = math.ceil(max(codes.zero, codes.peak - codes.zero) * float(ratio(op.skip).max()))
        reach = max(-op.low, op.high) + most  # a branch further out decides alone
        dtypes = _wide_enough(op.skip, most), _wide_enough(op.branch, reach)
        dtype = np.float32 if set(dtypes) == {np.float32} else np.float64
        terms = []
        for value, requantization in ((codes, op.skip), (branch, op.branch)):
            scaled = self._scale(self._real(value, dtype), requantization, dtype, len(shape))
            terms.append(clip(g, scaled, dtype(requantization.low), dtype(requantization.high)))
        return self._store(g.op("Add", *terms), dtype, op.low, op.high)

    def _cell(self, op: Cell, codes: _Codes, shape: Shape) -> _Codes:
        g, limit = self.graph, op.limits[0]
        before = self.states.recall(op)
        last = self._store(before[0], np.float32, -limit, limit)
        parts = []
        for layer, taken, size in ((op.input, codes, shape), (op.recurrent, last, (op.units,))):
            given = self._op(layer, taken, size)
            parts.append([Value(g, part, np.float64) for part in gates(g, op, self._real(given, np.float64))])
        values = [Value(g, g.cast(vector, np.float64), np.float64) for vector in before]
        after = cells.of_codes(op, _CellCodes(g, op), parts[0], parts[1], values)
        self.states.keep(*(g.cast(value.tensor, np.float32) for value in after))
        return self._store(after[0].tensor, np.float64, -limit, limit)

    def _bytes(self, codes: _Codes) -> list[str]:
        """uint8 tensors of the bytes of what is stored, the lowest first."""
        g = self.graph
        if codes.dtype is np.uint8:
            return [codes.tensor]
        rest, found = codes.tensor, []
        for _ in range((codes.peak.bit_length() + 7) // 8 - 1):
            above = g.op("Floor", g.op("Mul", rest, g.constant(codes.dtype(1 / 256))))
            byte = g.op("Sub", rest, g.op("Mul", above, g.constant(codes.dtype(256))))
            found.append(g.cast(byte, np.uint8))
            rest = above
        return [*found, g.cast(rest, np.uint8)]

    def _scale(self, value: str, requantization: Requantization, dtype: type[np.generic], ndim: int) -> str:
        return requantized(self.graph, value, requantization, dtype, ndim)

    def _real(self, value: _Codes | str, dtype: type[np.generic]) -> str:
        """Codes or accumulators in a tensor of ``dtype``."""
        if isinstance(value, str):
            return self.graph.cast(value, dtype)
        tensor = self.graph.cast(value.tensor, dtype) if value.dtype is not dtype else value.tensor
        return str(self.graph.op("Sub", tensor, self.graph.constant(dtype(value.zero)))) if value.zero else tensor

    def _store(self, value: str, dtype: type[np.generic], low: int, high: int) -> _Codes:
        """Integers in a float tensor of ``dtype``, clipped to [low, high], as codes."""
        g = self.graph
        zero = max(-low, 0)
        peak = zero + max(high, 0)  # 0 is always among them: images are padded with it
        tensor = clip(g, value, dtype(low), dtype(high))
        if zero:
            tensor = g.op("Add", tensor, g.constant(dtype(zero)))
        codes = _Codes(tensor, zero, peak)
        if codes.dtype is not dtype:
            codes = replace(codes, tensor=g.cast(tensor, codes.dtype))
        g.step(codes.tensor, zero)
        return codes


def requantized(graph: Graph, value: str, requantization: Requantization, dtype: type[np.generic], ndim: int) -> str:
    """``(value * multiplier + 2**(shift - 1)) >> shift`` of a tensor of ``dtype``, see ``_wide_enough``."""
    factor = per_channel(ratio(requantization).astype(dtype), ndim)
    product = graph.op("Mul", value, graph.constant(factor, "ratio"))
    return str(graph.op("Floor", graph.op("Add", product, graph.constant(dtype(0.5)))))


def code_begins(policy: Policy, quantization: InputQuantization) -> NDArray[np.float32]:
    """The least float32 observation of every code, (codes + 1, features): from -inf, and inf behind the last one.

    Codes never fall where an observation rises, in the policy's own arithmetic: bisection over all float32 finds them.
    """
    shape, last = policy.observation.shape, 0x7F800000  # the bits of inf; those of finite values are below
    wanted = np.arange(quantization.low + 1, quantization.high + 1).reshape(-1, *(1,) * len(shape))
    below = np.full((len(wanted), *shape), -last)
    above = -below
    while (above - below).max() > 1:
        middle = np.maximum((below + above) // 2, 1 - last)
        x = reference.observe(policy.observation, _float32_at(middle))
        reached = reference.quantize_input(quantization, x) >= wanted
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    ends = np.full((1, math.prod(shape)), np.inf, np.float32)
    return np.concatenate([-ends, _float32_at(above).reshape(len(wanted), -1), ends])


def _float32_at(place: NDArray[np.int64]) -> NDArray[np.float32]:
    """The float32 values in rising order, 0 at 0."""
    magnitude = np.abs(place).astype(np.uint32).view(np.float32)
    return np.where(place < 0, -magnitude, magnitude)


def _wide_enough(requantization: Requantization, limit: int) -> type[np.float32] | type[np.float64]:
    """The float in which a requantization is exact where its result is within ``limit``, and beyond it elsewhere.

    float32 if all those products, which are integers, are held by it: then the larger ones round to no less than the
    limit. That is so for all that this project freezes. float64 holds every product, of at most 39 bits.
    """
    return np.float32 if (limit + 1) << int(requantization.shift.max()) <= _FLOAT32_INTEGERS else np.float64
