"""The payload of a policy file: what would be flashed or sent, and nothing else.

Structure, weights, positions, biases, scales and requantizations, in one entropy-coded stream. Names, trained shapes
and scales that no computation needs are annotations that the card keeps. ``docs/file-format.md`` describes the stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError, unknown
from policypress.policy.activations import FUNCTIONS, LARGEST_CODE
from policypress.policy.checks import MAX_DEPTH, MAX_OPS
from policypress.policy.codec import (
    BITS,
    COUNT,
    EXPONENT,
    FLAGS,
    FORM,
    GEOMETRY,
    INPUT_BITS,
    INPUT_LIMITS,
    INPUTS,
    KIND,
    LIMITS,
    MULTIPLIER,
    SHIFT,
    SIZE,
    Reader,
    Writer,
    powers_fit,
    trailing_zeros,
)
from policypress.policy.ops import (
    CELLS,
    FLOAT_BITS,
    INT32_MAX,
    INT32_MIN,
    MAX_VALUES,
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

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

_LINEAR, _CONV, _RELU, _FLATTEN, _MAX_POOL, _RESIDUAL, _TANH, _ACTIVATION, _HISTORY, _GRU, _LSTM, _LAYER_NORM = range(
    12
)
_CELLS = {"gru": _GRU, "lstm": _LSTM}
_USUAL_BITS = 8
_USUAL_EXPONENT = 115  # of scales
_ZERO_POINTS = 32  # added to the bits of an input that has them
_SHORT = 1  # in the place of the bits of an input: its scales are powers of two
_SHORT_ZERO_POINTS = 15  # in the place of the bits, less 2, of such an input
_RATIO_BITS = 8, 5  # of a cell's multipliers, and of its shifts less 1
_WIDTH_BITS, _SHIFT_BITS, _SCALE_BITS = 4, 5, 5  # of the numbers in a linear policy's short form
_OTHER_LIMITS = 2  # 0 and 1: unsigned and signed codes of the usual bits; 3 + 2 * bits + sign: of others


class Annotation(NamedTuple):
    """What the card says of a layer: its name, its shape in training where it had another, and its scale (float32)
    where the payload does without it."""

    name: str = ""
    trained_shape: tuple[int, ...] = ()
    scale: NDArray[np.float32] | None = None


@dataclass
class Cost:
    """Bits that a part of the payload takes."""

    positions: float = 0.0
    values: float = 0.0
    biases: float = 0.0
    constants: float = 0.0

    @property
    def total(self) -> float:
        return self.positions + self.values + self.biases + self.constants


def layer_annotations(policy: Policy) -> list[Annotation]:
    """Annotations of every layer in the order it runs."""
    return [
        Annotation(layer.name, layer.trained_shape, None if _scale_is_used(policy, layer) else layer.scale)
        for layer in policy.layers
    ]


def encode_payload(policy: Policy) -> bytes:
    """The payload of ``policy``."""
    return payload_costs(policy)[0]


def payload_costs(policy: Policy) -> tuple[bytes, list[Cost], float]:
    """The payload, what every layer costs in it in the order they run, and the bits of all that is no layer's."""
    encoder = _Encoder(policy)
    encoder.write()
    costs = encoder.costs
    rest = encoder.writer.bits - sum(cost.total for cost in costs)
    return encoder.writer.finish(), costs, rest


def payload_size(policy: Policy) -> int:
    """Bytes of the payload."""
    return len(encode_payload(policy))


def decode_payload(
    data: bytes, annotations: Iterator[Annotation] | None = None
) -> tuple[tuple[Op, ...], InputQuantization | None]:
    """Operations and input quantization in a payload; without ``annotations``, unused scales are 1.

    Raises ArtifactError for malformed bytes, UnsupportedError for operations that cannot be.
    """
    return _Decoder(data, annotations).policy()


def payload_structure(data: bytes) -> int:
    """All of a payload that is no array of numbers (kinds, sizes, limits, strides, ...) as one number of 32 bits, by
    which ``payload_decode`` of ``runtime/payload.h`` knows that it decodes another set of the same arrays.

    Raises as ``decode_payload`` does.
    """
    decoder = _Decoder(data, None)
    decoder.policy()
    return decoder.reader.structure


def short_input(quantization: InputQuantization) -> NDArray[np.int32] | None:
    """The exponents that the short form of this input holds; None if it needs the long one."""
    exponents = _exponents(quantization.inverse_scale)
    return exponents if exponents is not None and powers_fit(exponents) else None


def _scale_is_used(policy: Policy, layer: Layer) -> bool:
    if policy.input is not None:
        return layer is policy.ops[-1]
    return layer.weight_bits != FLOAT_BITS


def _usual_limits(bits: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Unsigned and signed codes of ``bits`` bits."""
    return (0, 2**bits - 1), (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def _exponents(scales: NDArray[np.float32]) -> NDArray[np.int32] | None:
    """Binary logarithms of positive ``scales`` if all are powers of two."""
    mantissas, exponents = np.frexp(scales)
    return (exponents - 1).astype(np.int32) if (mantissas == 0.5).all() else None


def _width(values: NDArray[np.int32]) -> int:
    """Bits that the widest of ``values`` takes in two's complement; 0 if all are 0."""
    return max(int(value if value >= 0 else ~value).bit_length() + 1 for value in values) if values.any() else 0


def _is_short(ops: tuple[Op, ...], inputs: int) -> bool:
    """Whether ``ops`` are one layer that the short form of a linear policy can hold, behind so many input scales."""
    layer = ops[0]
    if len(ops) > 1 or not isinstance(layer, Layer) or layer.relu or layer.weight.shape[1:] != (inputs,):
        return False
    exponents = _exponents(layer.scale)
    return (
        exponents is not None
        and exponents.size == 1
        and -(2**_SCALE_BITS) < exponents[0] <= 0
        and _width(layer.bias >> trailing_zeros(layer.bias)) < 2**_WIDTH_BITS
    )


class _Encoder:
    def __init__(self, policy: Policy) -> None:
        self.policy, self.writer, self.costs = policy, Writer(), list[Cost]()
        self._width = 0  # outputs of the layer before

    def write(self) -> None:
        quantization, ops = self.policy.input, self.policy.ops
        if quantization is None:
            self.writer.unsigned(0, INPUT_BITS)
            self.ops(ops)
            return
        exponents = short_input(quantization)
        self._input(quantization, exponents)
        if exponents is not None:
            linear = _is_short(ops, self._width)
            self.writer.uniform(linear, 1)
            if linear:
                self._linear(self.policy.layers[0])
                return
        self.ops(ops)

    def _input(self, quantization: InputQuantization, exponents: NDArray[np.int32] | None) -> None:
        w, bits, zeros = self.writer, quantization.bits, quantization.zero_point
        if exponents is None:
            w.unsigned(bits + (0 if zeros is None else _ZERO_POINTS), INPUT_BITS)
        else:
            w.unsigned(_SHORT, INPUT_BITS)
            if zeros is not None:
                w.uniform(_SHORT_ZERO_POINTS, 4)
            w.uniform(bits - 2, 4)
        self._limits(quantization.low, quantization.high, bits, INPUT_LIMITS)
        self._width = quantization.inverse_scale.size
        w.unsigned(self._width, SIZE)
        if exponents is None:
            w.floats(quantization.inverse_scale)
        else:
            w.powers(exponents)
        if zeros is not None:
            w.integers(zeros)

    def _linear(self, layer: Layer) -> None:
        """The only layer of a policy that ``_is_short``."""
        w, start, cost = self.writer, self.writer.bits, Cost()
        w.uniform(layer.weight_bits - 2, 3)
        w.unsigned(len(layer.weight), SIZE)
        exponents = _exponents(layer.scale)
        assert exponents is not None
        w.uniform(-int(exponents[0]), _SCALE_BITS)
        before = w.bits
        shift = trailing_zeros(layer.bias)
        width = _width(layer.bias >> shift)
        w.uniform(shift, _SHIFT_BITS)
        w.uniform(width, _WIDTH_BITS)
        if width:
            for value in (layer.bias >> shift) + (1 << width - 1):
                w.uniform(value, width)
        cost.biases = w.bits - before
        cost.positions, cost.values = w.matrix(layer.weight, layer.weight_bits, alone=True)
        cost.constants = w.bits - start - cost.total
        self.costs.append(cost)

    def ops(self, ops: tuple[Op, ...]) -> None:
        self.writer.unsigned(len(ops), COUNT)
        for op in ops:
            self._op(op)

    def _op(self, op: Op) -> None:
        w = self.writer
        match op:
            case Layer():
                self._layer(op)
            case Relu():
                w.unsigned(_RELU, KIND)
            case Activation():
                self._activation(op)
            case LayerNorm():
                w.unsigned(_LAYER_NORM, KIND)
                w.unsigned(0 if op.weight.size == self._width else op.weight.size, INPUTS)
                self._words((op.epsilon,))
                w.floats(op.weight)
                w.floats(op.bias)
            case Flatten():
                w.unsigned(_FLATTEN, KIND)
            case MaxPool2d():
                w.unsigned(_MAX_POOL, KIND)
                self._sizes(*op.kernel, *op.stride, *op.padding)
            case Residual():
                w.unsigned(_RESIDUAL, KIND)
                if op.skip is not None and op.branch is not None:
                    self._limits(op.low, op.high, _USUAL_BITS)
                    for operand in (op.skip, op.branch):
                        w.unsigned(operand.multiplier.size, SIZE)
                        w.integers(operand.multiplier)
                        w.unsigned(operand.shift.size, SIZE)
                        w.integers(operand.shift)
                self.ops(op.body)
            case History():
                w.unsigned(_HISTORY, KIND)
                self._sizes(op.frames)
            case Cell():
                self._cell(op)
            case _:
                unknown(op)

    def _activation(self, op: Activation) -> None:
        """The usual tanh in a few bits; any other function by its number, its parameters, and what its table takes."""
        w, row = self.writer, FUNCTIONS[op.function]
        short = op.function == "tanh" and (not op.bits or (op.unit, op.limit) == row.grid)
        w.unsigned(_TANH if short else _ACTIVATION, KIND)
        if not short:
            w.unsigned(row.number, GEOMETRY)
            given = () if op.parameters == row.usual else op.parameters
            w.unsigned(len(given), FORM)
            self._words(given)
        if op.bits:
            w.signed(op.bits - _USUAL_BITS, BITS)
            if not short:
                mantissa, exponent = math.frexp(op.unit)
                w.signed(exponent, GEOMETRY)
                self._sizes(int(mantissa * 2**24) - 2**23, LARGEST_CODE - op.limit)

    def _cell(self, op: Cell) -> None:
        w = self.writer
        w.unsigned(_CELLS[op.kind], KIND)
        for bits in op.bits:
            w.signed(bits - _USUAL_BITS, BITS)
        for function in (op.sigmoid, op.tanh):
            self._activation(function)
        for multiplier, shift in op.ratios:
            w.uniform(multiplier, _RATIO_BITS[0])
            w.uniform(shift - 1, _RATIO_BITS[1])
        for layer in op.children:
            self._layer(layer)
            self._width = op.units  # what the next layer has as inputs

    def _layer(self, layer: Layer) -> None:
        w, start = self.writer, self.writer.bits
        outputs, inputs = layer.weight.shape[:2]
        scaled, requantize = _scale_is_used(self.policy, layer), layer.requantize
        w.unsigned(_CONV if layer.is_conv else _LINEAR, KIND)
        w.unsigned(layer.relu + 2 * (requantize is not None) + 4 * scaled, FLAGS)
        w.unsigned(layer.weight_bits, BITS)
        w.unsigned(outputs, SIZE)
        w.unsigned(0 if inputs == self._width else inputs, INPUTS)
        self._width = outputs
        if layer.is_conv:
            self._sizes(*layer.weight.shape[2:], *layer.stride, *layer.padding)
        if scaled:
            self._scale(layer.scale)
        if requantize is not None:
            self._limits(requantize.low, requantize.high, _USUAL_BITS)
            self._vector(requantize.multiplier, MULTIPLIER)
            self._vector(requantize.shift, SHIFT)
        cost, before = Cost(), w.bits
        if self.policy.input is None:
            w.floats(layer.bias)
        else:
            w.integers(layer.bias)
        cost.biases = w.bits - before
        if layer.weight_bits == FLOAT_BITS:
            weight = np.ascontiguousarray(layer.weight)
            codes = (1 - 2 * np.signbit(weight).astype(np.int8)) * (weight.view(np.int32) != 0)
            cost.positions, cost.values = w.matrix(codes.astype(np.int8), 2)
            before = w.bits
            magnitudes = np.abs(weight[codes != 0])
            if magnitudes.size:
                w.floats(magnitudes)
            cost.values += w.bits - before
        else:
            cost.positions, cost.values = w.matrix(layer.weight, layer.weight_bits)
        cost.constants = w.bits - start - cost.total
        self.costs.append(cost)

    def _vector(self, values: NDArray[np.int32], context: int) -> None:
        """One number of up to 8 bits, or one for each output."""
        self.writer.unsigned(values.size > 1, FORM)
        if values.size > 1:
            self.writer.integers(values)
        else:
            self.writer.digits(values[0], context)

    def _scale(self, scale: NDArray[np.float32]) -> None:
        """One positive float32, of which the lower half is usually zero, or one for each output."""
        w, words = self.writer, scale.view(np.uint32)
        w.unsigned(2 if words.size > 1 else 1 if words[0] & 0xFFFF else 0, FORM)
        if words.size > 1:
            w.floats(scale)
            return
        w.signed(int(words[0] >> 23) - _USUAL_EXPONENT, EXPONENT)
        w.uniform(words[0] >> 16 & 127, 7)
        if words[0] & 0xFFFF:
            w.uniform(words[0] & 0xFFFF, 16)

    def _limits(self, low: int, high: int, bits: int, context: int = LIMITS) -> None:
        """Limits of codes: a number of bits and whether they have a sign, or the limits themselves."""
        w = self.writer
        kinds = {limits: (b, kind) for b in range(2, 17) for kind, limits in enumerate(_usual_limits(b))}
        found = kinds.get((low, high))
        if found is None:
            w.unsigned(_OTHER_LIMITS, context)
            w.signed(low, GEOMETRY)
            w.signed(high, GEOMETRY)
        else:
            w.unsigned(found[1] if found[0] == bits else _OTHER_LIMITS + 1 + 2 * found[0] + found[1], context)

    def _words(self, values: tuple[float, ...]) -> None:
        """The two halves of the bits of each of a few float32 numbers."""
        for word in np.array(values, np.float32).view(np.uint32):
            self._sizes(int(word) >> 16, int(word) & 0xFFFF)

    def _sizes(self, *sizes: int) -> None:
        for size in sizes:
            self.writer.unsigned(size, GEOMETRY)


class _Decoder:
    def __init__(self, data: bytes, annotations: Iterator[Annotation] | None) -> None:
        self.reader, self._annotations = Reader(data), annotations
        self._integer, self._width, self._weights = False, 0, 0

    def policy(self) -> tuple[tuple[Op, ...], InputQuantization | None]:
        r = self.reader
        bits = r.unsigned(INPUT_BITS)
        quantization = self._input(bits) if bits else None
        ops = (self._linear(),) if bits == _SHORT and r.told(1) else self.ops(depth=0)
        r.finish()
        return ops, quantization

    def _input(self, bits: int) -> InputQuantization:
        r, short = self.reader, bits == _SHORT
        if short:
            bits = r.told(4)
            bits = r.told(4) + 2 + _ZERO_POINTS if bits == _SHORT_ZERO_POINTS else bits + 2
        shifted, bits = divmod(bits, _ZERO_POINTS)
        if not (2 <= bits <= 16 and shifted <= 1):
            raise ArtifactError(f"its input has {bits + _ZERO_POINTS * shifted:,} bits.")
        self._integer = True
        low, high = self._limits(bits, INPUT_LIMITS)
        self._width = self._count(r.unsigned(SIZE))
        scales = np.ldexp(np.float32(1), r.powers(self._width)) if short else r.floats(self._width)
        return InputQuantization(scales, low, high, bits, r.integers(self._width) if shifted else None)

    def _linear(self) -> Layer:
        r = self.reader
        bits, outputs = r.told(3) + 2, self._count(r.unsigned(SIZE))
        if bits > 8:
            raise ArtifactError(f"a layer has weights of {bits} bits.")
        self._count_weights(outputs * self._width)
        scale = np.ldexp(np.float32(1), -r.uniform(_SCALE_BITS))
        shift, width = r.uniform(_SHIFT_BITS), r.uniform(_WIDTH_BITS)
        r.allocate(24 * outputs)  # with copies
        bias = np.zeros(outputs, np.int64)
        if width:
            bias += np.fromiter((r.uniform(width) for _ in range(outputs)), np.int64, outputs) - (1 << width - 1)
        bias <<= shift
        if bias.min() < INT32_MIN or bias.max() > INT32_MAX:
            raise ArtifactError("a bias does not fit 32 bits.")
        weight = r.matrix(outputs, self._width, bits, alone=True)
        name, trained_shape, scale = self._annotate(np.array([scale], np.float32))
        return Layer(weight, bias.astype(np.int32), bits, scale, relu=False, name=name, trained_shape=trained_shape)

    def _count_weights(self, size: int) -> None:
        self._weights += size
        if not 1 <= size <= MAX_VALUES or self._weights > MAX_VALUES:
            raise ArtifactError(f"its layers declare {self._weights:,} weights; there may be {MAX_VALUES:,}.")

    def ops(self, depth: int) -> tuple[Op, ...]:
        count = self.reader.unsigned(COUNT)
        if count > MAX_OPS or depth > MAX_DEPTH:
            raise ArtifactError("it declares too many operations.")
        return tuple(self._op(depth) for _ in range(count))

    def _op(self, depth: int) -> Op:
        kind = self.reader.unsigned(KIND)
        if kind in (_LINEAR, _CONV):
            return self._layer(is_conv=kind == _CONV)
        if kind == _RELU:
            return Relu()
        if kind in (_TANH, _ACTIVATION):
            return self._activation(short=kind == _TANH)
        if kind == _LAYER_NORM:
            return self._layer_norm()
        if kind == _FLATTEN:
            return Flatten()
        if kind == _MAX_POOL:
            return MaxPool2d(self._pair(), self._pair(), self._pair())
        if kind == _RESIDUAL:
            if not self._integer:
                return Residual(self.ops(depth + 1))
            low, high = self._limits(_USUAL_BITS)
            skip, branch = self._operand(), self._operand()
            return Residual(self.ops(depth + 1), skip, branch, low, high)
        if kind == _HISTORY:
            return History(self.reader.unsigned(GEOMETRY))
        for name, number in _CELLS.items():
            if kind == number:
                return self._cell(name)
        raise ArtifactError(f"it holds an operation of the unknown kind {kind}.")

    def _cell(self, name: str) -> Cell:
        r, kind = self.reader, CELLS[name]
        bits = tuple(r.signed(BITS) + _USUAL_BITS for _ in kind.state if self._integer)
        sigmoid, tanh = self._gate(), self._gate()
        ratios = tuple((r.told(_RATIO_BITS[0]), r.told(_RATIO_BITS[1]) + 1) for _ in kind.ratios if self._integer)
        layers = [self._part(len(kind.gates)) for _ in range(2)]
        return Cell(name, layers[0], layers[1], sigmoid, tanh, bits, ratios)

    def _gate(self) -> Activation:
        kind = self.reader.unsigned(KIND)
        if kind not in (_TANH, _ACTIVATION):
            raise ArtifactError(f"a gate of a recurrent cell is of the kind {kind}.")
        return self._activation(short=kind == _TANH)

    def _part(self, gates: int) -> Layer:
        if kind := self.reader.unsigned(KIND):
            raise ArtifactError(f"a layer of a recurrent cell is of the kind {kind}.")
        layer = self._layer(is_conv=False)
        self._width //= gates
        return layer

    def _layer_norm(self) -> LayerNorm:
        r = self.reader
        size = r.unsigned(INPUTS) or self._width
        self._count_weights(2 * size)
        (epsilon,) = self._words(1)
        return LayerNorm(r.floats(size), r.floats(size), epsilon)

    def _activation(self, short: bool) -> Activation:
        r = self.reader
        number = FUNCTIONS["tanh"].number if short else r.unsigned(GEOMETRY)
        row = next((row for row in FUNCTIONS.values() if row.number == number), None)
        if row is None:
            raise ArtifactError(f"it holds an activation of the unknown number {number}.")
        parameters = row.usual
        if not short and (count := r.unsigned(FORM)):
            parameters = self._words(min(count, 9))
        if not self._integer:
            return Activation(row.name, parameters=parameters)
        bits = r.signed(BITS) + _USUAL_BITS
        if short:
            assert row.grid is not None
            return Activation(row.name, row.grid[0], bits, row.grid[1])
        exponent = r.signed(GEOMETRY)
        mantissa, less = self._pair()
        if abs(exponent) > 149 or mantissa >= 2**23:
            raise ArtifactError("the unit of an activation is malformed.")
        return Activation(row.name, math.ldexp(mantissa + 2**23, exponent - 24), bits, LARGEST_CODE - less, parameters)

    def _operand(self) -> Requantization:
        r = self.reader
        multiplier = r.integers(self._count(r.unsigned(SIZE)))
        shift = r.integers(self._count(r.unsigned(SIZE)))
        return Requantization(multiplier, shift, INT32_MIN, INT32_MAX)

    def _layer(self, is_conv: bool) -> Layer:
        r = self.reader
        flags, bits = r.unsigned(FLAGS), r.unsigned(BITS)
        if flags > 7 or (bits != FLOAT_BITS and not 2 <= bits <= 8):
            raise ArtifactError(f"a layer has the flags {flags:,} and weights of {bits:,} bits.")
        outputs = self._count(r.unsigned(SIZE))
        inputs = self._count(r.unsigned(INPUTS) or self._width)
        self._width = outputs
        kernel, stride, padding = (self._pair() if is_conv else None for _ in range(3))
        shape = (outputs, inputs, *(kernel or ()))
        size = math.prod(shape)
        self._count_weights(size)
        scale = self._scale(outputs) if flags & 4 else None
        requantize = None
        if flags & 2:
            low, high = self._limits(_USUAL_BITS)
            requantize = Requantization(self._vector(outputs, MULTIPLIER), self._vector(outputs, SHIFT), low, high)
        bias = r.integers(outputs) if self._integer else r.floats(outputs)
        codes = r.matrix(outputs, size // outputs, 2 if bits == FLOAT_BITS else bits)
        weight: NDArray[np.int8] | NDArray[np.float32] = codes
        if bits == FLOAT_BITS:
            r.allocate(4 * size)
            weight = np.zeros(codes.shape, np.float32)
            count = int(np.count_nonzero(codes))
            if count:
                weight[codes != 0] = np.copysign(r.floats(count), codes[codes != 0])
        name, trained_shape, scale = self._annotate(scale)
        return Layer(
            weight=weight.reshape(shape),
            bias=bias,
            weight_bits=bits,
            scale=scale,
            relu=bool(flags & 1),
            requantize=requantize,
            stride=stride or (1, 1),
            padding=padding or (0, 0),
            name=name,
            trained_shape=trained_shape,
        )

    def _annotate(self, scale: NDArray[np.float32] | None) -> tuple[str, tuple[int, ...], NDArray[np.float32]]:
        if self._annotations is None:
            return "", (), np.ones(1, np.float32) if scale is None else scale
        annotation = next(self._annotations, None)
        if annotation is None:
            raise ArtifactError("its card describes fewer layers than it has.")
        scales = [one for one in (scale, annotation.scale) if one is not None]
        if len(scales) != 1:
            raise ArtifactError("each layer needs one scale, in the payload or in the card.")
        return annotation.name, annotation.trained_shape, scales[0]

    def _limits(self, bits: int, context: int = LIMITS) -> tuple[int, int]:
        r = self.reader
        kind = r.unsigned(context)
        if kind == _OTHER_LIMITS:
            return r.signed(GEOMETRY), r.signed(GEOMETRY)
        if kind > _OTHER_LIMITS:
            bits, kind = divmod(kind - _OTHER_LIMITS - 1, 2)
        if not 2 <= bits <= 16:
            raise ArtifactError(f"codes have {bits:,} bits.")
        return _usual_limits(bits)[kind]

    def _vector(self, outputs: int, context: int) -> NDArray[np.int32]:
        r = self.reader
        return r.integers(outputs) if r.unsigned(FORM) else np.array([r.digits(context)], np.int32)

    def _scale(self, outputs: int) -> NDArray[np.float32]:
        r = self.reader
        form = r.unsigned(FORM)
        if form >= 2:
            return r.floats(outputs)
        exponent = r.signed(EXPONENT) + _USUAL_EXPONENT
        if not 0 <= exponent <= 255:
            raise ArtifactError("a scale is malformed.")
        word = exponent << 23 | r.uniform(7) << 16
        return np.array([word | (r.uniform(16) if form else 0)], np.uint32).view(np.float32)

    @staticmethod
    def _count(count: int) -> int:
        if not 1 <= count <= MAX_VALUES:
            raise ArtifactError(f"it declares a size of {count:,}.")
        return count

    def _words(self, count: int) -> tuple[float, ...]:
        words = [(high & 0xFFFF) << 16 | low & 0xFFFF for high, low in (self._pair() for _ in range(count))]
        return tuple(float(value) for value in np.array(words, np.uint32).view(np.float32))

    def _pair(self) -> tuple[int, int]:
        return self.reader.unsigned(GEOMETRY), self.reader.unsigned(GEOMETRY)
