"""Lowering: a policy becomes the steps, constants and memory plan that ``engine.c`` runs.

The native engine and the C export both start here. ``Step``, ``Input`` and ``Output`` have the fields of the structures
of ``engine.h``: numbers, and NumPy arrays where those have pointers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError, unknown
from policypress.policy.activations import FUNCTIONS
from policypress.policy.canonical import canonical
from policypress.policy.ops import (
    FLOAT_BITS,
    INT32_MIN,
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
from policypress.policy.reference import quantize_input
from policypress.policy.state import part_sizes
from policypress.runtime.structures import Action, CellNumber, Dtype, Finish, Form, Kind, Type

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

Choice = Callable[[Layer, int], Form]

_ALIGNMENT = 8
_GAP = 255  # farthest that one pair of a sparse layer goes on
_MAX_COUNT = 2**16 - 1  # of what the structures hold in 16 bits


@dataclass(eq=False)
class Tensor:
    """Values between two steps: ``shape`` is (height, width, channels), 1 x 1 for vectors."""

    type: Type
    shape: tuple[int, int, int]
    zero: int = 0
    low: int = 0  # of codes that it may hold
    high: int = 0
    first: int = 0  # steps between which its memory is taken
    last: int = 0
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes that a row takes."""
        return math.prod(self.shape) * (1 if self.type == Type.U8 else 4)


_BESIDE = {"beside": True}  # a field of Python alone: not one of the structure in C


@dataclass
class Fields:
    """The fields of a structure of ``engine.h``, by the same names; None and 0 are zero there."""

    def values(self) -> Iterator[tuple[str, int | float | NDArray[Any]]]:
        """Name and value of every field of the structure that is not None."""
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if value is not None and not one.metadata.get("beside"):
                yield one.name, value


@dataclass
class Step(Fields):
    """``engine_step``, and beside it what its layer was: its name, its weights as (outputs, window in the order
    of memory), (channels, positions) if its inputs lie in memory as (positions, channels), else (1, 1), and what no sum
    of an integer layer passes in magnitude."""

    kind: Kind
    form: Form | None = None
    finish: Finish | None = None
    relu: int = 0
    wide: int = 0
    bits: int = 0
    function: int = 0
    source_type: Type | None = None
    target_type: Type | None = None
    second_type: Type | None = None
    source_zero: int = 0
    second_zero: int = 0
    target_zero: int = 0
    per_output: int = 0
    second_per_output: int = 0
    source: int = 0
    second: int = 0
    target: int = 0
    state: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    out_height: int = 0
    out_width: int = 0
    out_channels: int = 0
    kernel_height: int = 0
    kernel_width: int = 0
    stride_height: int = 0
    stride_width: int = 0
    padding_height: int = 0
    padding_width: int = 0
    low: int = 0
    high: int = 0
    fill: int = 0
    weight: NDArray[Any] | None = None
    counts: NDArray[np.uint16] | None = None
    bias: NDArray[Any] | None = None
    multiplier: NDArray[np.uint8] | None = None
    shift: NDArray[np.uint8] | None = None
    second_multiplier: NDArray[np.uint8] | None = None
    second_shift: NDArray[np.uint8] | None = None
    scale: NDArray[np.float32] | None = None
    parameters: NDArray[np.float32] | None = None
    table: NDArray[np.int8] | None = None
    cell: NDArray[np.int16] | None = None
    sigmoid: NDArray[np.uint8] | None = None
    layer: str | None = field(default=None, metadata=_BESIDE)
    dense: NDArray[Any] | None = field(default=None, metadata=_BESIDE)
    turn: tuple[int, int] | None = field(default=None, metadata=_BESIDE)
    reach: int = field(default=0, metadata=_BESIDE)

    @property
    def positions(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.out_height, self.out_width


@dataclass
class Input(Fields):
    """``engine_input``."""

    dtype: Dtype
    image: int
    target_type: Type
    target_zero: int
    size: int
    channels: int
    pixels: int
    per_feature: int = 0
    pixel_codes: int = 0
    target: int = 0
    low: int = 0
    high: int = 0
    clip: float = 0.0
    mean: NDArray[np.float64] | None = None
    deviation: NDArray[np.float64] | None = None
    inverse_scale: NDArray[np.float32] | None = None
    zero_point: NDArray[np.int32] | None = None
    codes: NDArray[np.uint8] | None = None


@dataclass
class Output(Fields):
    """``engine_output``."""

    kind: Action
    squash: int
    wide: int
    source_type: Type
    per_output: int
    source: int
    target: int
    outputs: int
    groups: int
    start: int
    scale: NDArray[np.float32] | None = None
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    nvec: NDArray[np.uint32] | None = None


@dataclass
class Program:
    """What the engine runs."""

    steps: list[Step]
    input: Input
    output: Output
    work_size: int
    observation_size: int
    action_size: int
    state_size: int


def smallest(layer: Layer, entries: int) -> Form:
    """The form of a layer's weights that takes the least memory without decoding; ``entries`` as a sparse one."""
    return Form.SPARSE if 2 * entries < layer.weight.size else Form.DENSE


def lower(policy: Policy, choose: Choice = smallest, slack: int = 0) -> Program:
    """The program of ``policy``; ``choose`` gives the form of an integer layer's weights.

    ``slack``: bytes of a row after every tensor that kernels may write.
    """
    # Units that nobody reads are never computed. In float numerics their order decides how sums round.
    policy = canonical(dataclasses.replace(policy, test_vectors=None), sort_units=policy.input is not None)
    return _Lowering(policy, choose).program(slack)


class _Lowering:
    def __init__(self, policy: Policy, choose: Choice) -> None:
        self._policy, self._choose, self._integer = policy, choose, policy.input is not None
        self._steps: list[Step] = []
        self._places: list[tuple[Tensor, Tensor | None, Tensor]] = []  # source, second and target of each step
        self._tensors: list[Tensor] = []
        sizes = part_sizes(policy.ops, policy.observation.shape)
        self._parts = iter([sum(sizes[:place]) for place, size in enumerate(sizes) if size])  # where each begins
        self._unordered: tuple[int, int] | None = None  # pixels, channels of a vector that should be the other way

    def program(self, slack: int) -> Program:
        policy = self._policy
        first, entry = self._input()
        last = self._ops(policy.ops, first)
        outputs = math.prod(last.shape)
        end = len(self._steps)
        values = last if last.type == Type.F32 else Tensor(Type.F32, last.shape, first=end)
        last.last = values.last = end
        if values is not last:
            self._tensors.append(values)
        work = _plan(self._tensors, slack)
        if work >= 2**32:
            raise UnsupportedError(f"The policy needs {work:,} bytes for its activations, but there may be 4 GiB.")
        action = policy.action
        scale = policy.layers[-1].scale
        leave = Output(
            kind=Action[action.kind.upper().replace("-", "_")],
            squash=int(action.squash),
            wide=int(action.dtype == "float64"),
            source_type=last.type,
            per_output=int(scale.size > 1),
            source=last.offset,
            target=values.offset,
            outputs=outputs,
            groups=len(action.nvec),
            start=action.start,
        )
        if last.type == Type.S32:
            leave.scale = scale
        if action.low is not None and action.high is not None:
            leave.low, leave.high = action.low.ravel(), action.high.ravel()
        if action.nvec:
            leave.nvec = np.array(action.nvec, np.uint32)
        for step, (source, second, target) in zip(self._steps, self._places, strict=True):
            step.source, step.target = source.offset, target.offset
            step.second = 0 if second is None else second.offset
        entry.target = first.offset
        return Program(
            self._steps,
            entry,
            leave,
            work,
            observation_size=math.prod(policy.observation.shape) * np.dtype(policy.observation.dtype).itemsize,
            action_size=math.prod(action.shape) * np.dtype(action.dtype).itemsize,
            state_size=policy.state_size,
        )

    def _input(self) -> tuple[Tensor, Input]:
        observation, quantization = self._policy.observation, self._policy.input
        shape, size = observation.shape, math.prod(observation.shape)
        image = (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, 1, size)
        tensor = Tensor(Type.F32, image) if quantization is None else _codes(quantization.low, quantization.high, image)
        self._tensors.append(tensor)
        turned = self._integer and image[0] * image[1] > 1 and image[2] > 1
        entry = Input(
            dtype=Dtype[observation.dtype.upper()],
            image=int(observation.image),
            target_type=tensor.type,
            target_zero=tensor.zero,
            size=size,
            channels=image[2] if turned else 1,
            pixels=image[0] * image[1] if turned else size,
        )
        if observation.normalization is not None:
            n = observation.normalization
            entry.mean, entry.deviation = n.mean.ravel(), np.sqrt(n.var + n.epsilon).ravel()
            entry.clip = float(n.clip)
        if quantization is not None:
            many = quantization.inverse_scale.size > 1
            entry.low, entry.high, entry.per_feature = quantization.low, quantization.high, int(many)
            entry.inverse_scale, entry.zero_point = quantization.inverse_scale, quantization.zero_point
            if observation.image and not many and tensor.type == Type.U8:
                codes = _pixel_codes(quantization, tensor.zero)
                entry.pixel_codes = 1
                if not np.array_equal(codes, np.arange(256)):
                    entry.codes = codes
        return tensor, entry

    def _ops(self, ops: Iterable[Op], x: Tensor) -> Tensor:
        remaining = list(ops)
        while remaining:
            op = remaining.pop(0)
            match op:
                case Layer():
                    fold = op.requantize is not None and op.requantize.high > 0 and _next(remaining, Relu) is not None
                    function = None if op.requantize is None else _next(remaining, Activation)
                    x = self._layer(op, x, fold, function)
                case Relu():
                    x = self._step(Step(Kind.RELU), x, self._like(x, op))
                case Activation():
                    x = self._activation(op, x)
                case LayerNorm():
                    epsilon = np.array([op.epsilon], np.float32)
                    step = Step(Kind.LAYER_NORM, weight=op.weight, bias=op.bias, parameters=epsilon)
                    x = self._step(step, x, Tensor(Type.F32, x.shape))
                case Flatten():
                    x = self._flatten(x)
                case MaxPool2d():
                    x = self._pad(x, op.padding, lowest=True)
                    x = self._window(Step(Kind.MAX_POOL), x, self._like(x, op), op.kernel, op.stride)
                case Residual():
                    x = self._residual(op, self._ordered(x))
                case History():
                    x = self._history(op, self._ordered(x))
                case Cell():
                    x = self._cell(op, x)
                case _:
                    unknown(op)
        return x

    def _like(self, x: Tensor, op: Relu | Flatten | MaxPool2d) -> Tensor:
        """A tensor for what ``op`` makes of ``x``, whose codes have the same zero."""
        low, high = op.codes(x.low, x.high)
        return Tensor(x.type, x.shape, x.zero, low, high)

    def _activation(self, op: Activation, x: Tensor) -> Tensor:
        if not self._integer:
            parameters = np.array(op.parameters, np.float32)
            step = Step(Kind.ACTIVATE, function=FUNCTIONS[op.function].number, parameters=parameters)
            return self._step(step, x, Tensor(Type.F32, x.shape))
        step = Step(Kind.LOOK_UP, low=x.low, high=x.high, table=_table(op, x.low, x.high))
        return self._step(step, x, _codes(op.low, op.high, x.shape))

    def _layer(self, layer: Layer, x: Tensor, fold: bool, function: Activation | None) -> Tensor:
        weight, turn = layer.weight, (1, 1)
        if layer.is_conv:
            x = self._pad(x, layer.padding, lowest=False)
            if self._integer:
                turn = (weight.shape[1], math.prod(weight.shape[2:]))
                weight = weight.transpose(0, 2, 3, 1)  # as the inputs lie in memory
        elif self._unordered is not None:
            pixels, channels = self._unordered
            turn = (channels, pixels)
            weight = weight.reshape(-1, channels, pixels).transpose(0, 2, 1)
            x.shape = (1, 1, channels * pixels)
        weight = np.ascontiguousarray(weight.reshape(len(weight), -1))
        kernel = layer.weight.shape[2:] if layer.is_conv else (1, 1)
        step = Step(Kind.LAYER, relu=int(layer.relu), bias=layer.bias, layer=layer.name, dense=weight, turn=turn)
        self._weights_of(layer, weight, x, kernel, step)
        if self._integer:
            largest = np.abs(weight.astype(np.int64)).sum(axis=1) * max(-x.low, x.high)
            step.reach = int((largest + np.abs(layer.bias.astype(np.int64))).max())
            shares = x.zero * weight.astype(np.int64).sum(axis=1)
            step.bias = ((layer.bias - shares) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
            target = self._finish(layer, step, fold, function)
        else:
            step.scale, step.per_output = layer.scale, int(layer.scale.size > 1)
            target = Tensor(Type.F32, (1, 1, 1))
        self._unordered = None
        return self._window(step, x, target, kernel, layer.stride, len(weight))

    def _weights_of(self, layer: Layer, weight: NDArray[Any], x: Tensor, kernel: tuple[int, ...], step: Step) -> None:
        step.weight = weight
        if layer.weight_bits == FLOAT_BITS:
            step.form = Form.REAL
            return
        pairs, counts = sparse_pairs(weight, _places(x, kernel))
        fits = int(counts.max(initial=0)) <= _MAX_COUNT
        if self._integer:
            form = self._choose(layer, len(pairs))
            form = Form.DENSE if form == Form.SPARSE and not fits else form
            # What is behind an image lies in another order than in the layer.
            form = Form.FOURS if form == Form.QUARTERS and not (x.type == Type.U8 and fits_quarters(weight)) else form
        elif np.all(weight):
            form = Form.DENSE
        else:  # zero weights must be left out: one of them may meet an infinite value
            form = Form.SPARSE
            if not fits:
                raise UnsupportedError(f"Layer {layer.name!r} is too wide for the engine in weight-only numerics.")
        step.form = form
        if form == Form.SPARSE:
            step.weight, step.counts = pairs, counts.astype(np.uint16)
        elif form == Form.PACKED:
            step.bits = packed_bits(weight)
            step.weight = packed(weight, step.bits)
        elif form == Form.FOURS:
            step.weight = fours(weight, kernel[0])
        elif form == Form.QUARTERS:
            step.weight = quarters(weight)

    def _finish(self, layer: Layer, step: Step, fold: bool, function: Activation | None) -> Tensor:
        requantize = layer.requantize
        if requantize is None:
            step.finish = Finish.KEEP
            return Tensor(Type.S32, (1, 1, 1))
        step.low, step.high = requantize.low, requantize.high
        step.wide = int(_is_wide(requantize))
        step.multiplier, step.shift = _ratio(requantize, len(layer.weight))
        step.per_output = int(step.multiplier.size > 1)
        if fold:
            step.low = max(step.low, 0)
        if function is None:
            step.finish = Finish.REQUANTIZE
            return _codes(step.low, step.high, (1, 1, 1))
        if FUNCTIONS[function.function].odd:
            reach = max(-step.low, step.high)
            step.finish, step.table = Finish.TABLE, function.lookup.table[function.limit :][: reach + 1].astype(np.int8)
        else:
            step.finish, step.table = Finish.BYTES, _table(function, step.low, step.high)
        return _codes(function.low, function.high, (1, 1, 1))

    def _residual(self, op: Residual, x: Tensor) -> Tensor:
        body = self._ordered(self._ops(op.body, x))
        step = Step(Kind.ADD, second_type=body.type, second_zero=body.zero)
        if op.skip is None or op.branch is None:
            target = Tensor(Type.F32, x.shape)
        else:
            channels = x.shape[2]
            step.low, step.high = op.low, op.high
            step.multiplier, step.shift = _ratio(op.skip, channels)
            step.second_multiplier, step.second_shift = _ratio(op.branch, channels)
            step.per_output, step.second_per_output = int(step.shift.size > 1), int(step.second_shift.size > 1)
            target = _codes(op.low, op.high, x.shape)
        return self._step(step, x, target, second=body)

    def _history(self, op: History, x: Tensor) -> Tensor:
        shape = (1, 1, op.frames * x.shape[2])
        target = _codes(*op.codes(x.low, x.high), shape) if self._integer else Tensor(Type.F32, shape)
        return self._step(Step(Kind.HISTORY, state=next(self._parts)), x, target)

    def _cell(self, op: Cell, x: Tensor) -> Tensor:
        def outputs() -> Tensor:
            shape = (1, 1, op.units)
            return _codes(-op.limits[0], op.limits[0], shape) if self._integer else Tensor(Type.F32, shape)

        state = next(self._parts)
        fresh = self._layer(op.input, x, fold=False, function=None)
        last = self._step(Step(Kind.RECALL, state=state), fresh, outputs())
        step = Step(Kind[op.kind.upper()], state=state)
        recalled = self._layer(op.recurrent, last, fold=False, function=None)
        step.second_type, step.second_zero = recalled.type, recalled.zero
        if self._integer:
            numbers = dict.fromkeys(CellNumber, 0) | {
                CellNumber.CELL_SIGMOID: op.sigmoid.limit,
                CellNumber.CELL_TANH: op.tanh.limit,
                CellNumber.CELL_ONE: op.one,
                CellNumber.CELL_H: op.limits[0],
                CellNumber.CELL_C: op.limits[-1],
            }
            del numbers[CellNumber.CELL_RATIOS]  # they begin there
            step.cell = np.array([*numbers.values(), *(n for ratio in op.ratios for n in ratio)], np.int16)
            step.sigmoid = op.sigmoid.lookup.table.astype(np.uint8)
            step.table = op.tanh.lookup.table[op.tanh.limit :].astype(np.int8)
        return self._step(step, fresh, outputs(), second=recalled)

    def _pad(self, x: Tensor, padding: tuple[int, int], *, lowest: bool) -> Tensor:
        """The image with code 0 around it; with what never wins a maximum, if ``lowest``."""
        if padding == (0, 0):
            return x
        height, width, channels = x.shape
        target = Tensor(x.type, (height + 2 * padding[0], width + 2 * padding[1], channels), x.zero, x.low, x.high)
        fill = (0 if x.type == Type.U8 else INT32_MIN) if lowest else x.zero
        return self._step(Step(Kind.PAD, padding_height=padding[0], padding_width=padding[1], fill=fill), x, target)

    def _flatten(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape
        if self._integer and height * width > 1 and channels > 1:
            self._unordered = (height * width, channels)  # the next layer's weights are turned instead
        else:
            x.shape = (1, 1, math.prod(x.shape))
        return x

    def _ordered(self, x: Tensor) -> Tensor:
        """``x``, in the order of a Flatten if that was put off."""
        if self._unordered is not None:
            self._unordered = None
            x = self._step(Step(Kind.FLATTEN), x, self._like(x, Flatten()))
            x.shape = (1, 1, math.prod(x.shape))
        return x

    def _window(
        self,
        step: Step,
        x: Tensor,
        target: Tensor,
        kernel: tuple[int, ...],
        stride: tuple[int, int],
        outputs: int | None = None,
    ) -> Tensor:
        """A step whose window slides over ``x``."""
        height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[:2], kernel, stride, strict=True))
        stride = (min(stride[0], x.shape[0]), min(stride[1], x.shape[1]))  # beyond, there is one window anyway
        if max(*kernel, *stride) > _MAX_COUNT:
            raise UnsupportedError(f"Kernels and strides of more than {_MAX_COUNT:,} are too large for the engine.")
        target.shape = (height, width, outputs or x.shape[2])
        step.kernel_height, step.kernel_width = kernel
        step.stride_height, step.stride_width = stride
        return self._step(step, x, target)

    def _step(self, step: Step, x: Tensor, target: Tensor, second: Tensor | None = None) -> Tensor:
        now = len(self._steps)
        for tensor in (x, target, second or x):
            tensor.last = now
        target.first = now
        self._tensors.append(target)
        step.source_type, step.source_zero = x.type, x.zero
        step.height, step.width, step.channels = x.shape
        step.target_type, step.target_zero = target.type, target.zero
        step.out_height, step.out_width, step.out_channels = target.shape
        self._steps.append(step)
        self._places.append((x, second, target))
        return target


def sparse_pairs(weight: NDArray[np.int8], places: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pairs (gap, value) of the nonzero weights, uint8 of shape (pairs, 2), and how many each output has.

    ``weight``: (outputs, inputs); ``places``: where each input lies from the window's first one on, ascending.
    """
    rows, columns = np.nonzero(weight)
    at = places[columns]
    before = np.concatenate([[0], at[:-1]])
    first = np.concatenate([[True], rows[1:] != rows[:-1]]) if rows.size else np.zeros(0, bool)
    before = np.where(first, 0, before[: len(at)])
    gap = at - before
    steps = np.maximum(gap - 1, 0) // _GAP  # pairs without a weight, because the gap is too large for one
    ends = np.cumsum(steps + 1) - 1
    pairs = np.zeros((int(ends[-1]) + 1 if rows.size else 0, 2), np.uint8)
    pairs[:, 0] = _GAP
    pairs[ends, 0] = gap - _GAP * steps
    pairs[ends, 1] = weight[rows, columns].view(np.uint8)
    return pairs, np.bincount(rows, steps + 1, len(weight)).astype(np.int64)


def packed_bits(weight: NDArray[np.int8]) -> int:
    """The bits that every weight fits; fewer than those of the layer if none is large."""
    return int(np.abs(weight.astype(np.int16)).max()).bit_length() + 1


def packed(weight: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Weights (outputs, inputs) in ``bits`` bits each, lowest bits first, every output from a new byte on; flat."""
    digits = (weight.view(np.uint8)[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(digits.reshape(len(weight), -1), axis=1, bitorder="little").ravel()


def fours(weight: NDArray[np.int8], lines: int) -> NDArray[np.uint8]:
    """Weights (outputs, inputs) of windows of so many lines as ``engine.h`` says of FOURS; flat."""
    outputs, inputs = weight.shape
    blocks, run = outputs // 4, inputs // lines
    bytes_ = (weight[: 4 * blocks] ^ np.int8(-128)).view(np.uint8).reshape(blocks, 4, lines, run).transpose(0, 2, 1, 3)
    even = run - run % 4
    quads = bytes_[..., :even].reshape(blocks, lines, 4, even // 4, 4).swapaxes(2, 3).reshape(blocks, lines, 4 * even)
    others = bytes_[..., even:].swapaxes(2, 3).reshape(blocks, lines, 4 * (run - even))
    summed = np.concatenate([quads, others], axis=2)
    return np.concatenate([summed.ravel(), weight[4 * blocks :].view(np.uint8).ravel()])


def fits_quarters(weight: NDArray[Any]) -> bool:
    """Whether ``weight`` is (outputs, inputs), and no output reads two of the same four neighbouring inputs."""
    return weight.ndim == 2 and bool((_by_four(weight != 0).sum(axis=2) <= 1).all())


def quarters(weight: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Weights (outputs, inputs) as ``engine.h`` says of QUARTERS, (outputs, blocks, 12)."""
    fours = _by_four(weight)
    places, values = (fours != 0).argmax(axis=2).astype(np.uint8), fours.sum(axis=2, dtype=np.int8)
    places, values = (each.reshape(len(weight), -1, 8) for each in (places, values))
    first = 16 * np.arange(8, dtype=np.uint8).reshape(1, 2, 4).repeat(places.shape[1], axis=0).reshape(-1, 4)
    pairs = first[: places.shape[1]] + places[..., ::2] + 4 * places[..., 1::2]
    return np.concatenate([values[..., [0, 2, 1, 3, 4, 6, 5, 7]].view(np.uint8), pairs], axis=2)


def _by_four(values: NDArray[Any]) -> NDArray[Any]:
    """(outputs, inputs) as (outputs, fours, 4), filled up with zeros to whole blocks of 32 inputs."""
    outputs, inputs = values.shape
    return np.pad(values, ((0, 0), (0, -inputs % 32))).reshape(outputs, -1, 4)


def _codes(low: int, high: int, shape: tuple[int, int, int]) -> Tensor:
    """A tensor for codes from ``low`` to ``high``: bytes, if they fit."""
    if low <= 0 <= high and high - low <= 255:
        return Tensor(Type.U8, shape, -low, low, high)
    return Tensor(Type.S32, shape, 0, low, high)


_Kind = TypeVar("_Kind", bound=Op)


def _next(ops: list[Op], kind: type[_Kind]) -> _Kind | None:
    """The first of ``ops``, taken off, if it is of this kind."""
    return cast(_Kind, ops.pop(0)) if ops and isinstance(ops[0], kind) else None


def _table(op: Activation, low: int, high: int) -> NDArray[np.int8]:
    """The byte that stands for each code that comes out for the codes from ``low`` to ``high``, as int8."""
    codes = op.lookup.table[low + op.limit : high + op.limit + 1]
    return (codes - op.low).astype(np.uint8).view(np.int8)


def _places(x: Tensor, kernel: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the inputs of a window lie in memory from the first one on, in elements."""
    height, width, channels = x.shape
    i, j, c = (np.arange(n, dtype=np.int64) for n in (*kernel, channels))
    if x.type == Type.F32:
        return (c[:, None, None] * height * width + i[:, None] * width + j).ravel()
    return ((i[:, None, None] * width + j[:, None]) * channels + c).ravel()


def _ratio(requantize: Requantization, outputs: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Multiplier and shift, both for each output if one of them is."""
    many = max(requantize.multiplier.size, requantize.shift.size) > 1
    shape = (outputs if many else 1,)
    return (
        np.broadcast_to(requantize.multiplier, shape).astype(np.uint8),
        np.broadcast_to(requantize.shift, shape).astype(np.uint8),
    )


def _is_wide(requantize: Requantization) -> bool:
    """Whether 32 bits are too few for requantization: from sums of -2**23 and 2**23 - 1 on the limits must decide."""
    multiplier, shift = requantize.multiplier.astype(np.int64), requantize.shift.astype(np.int64)
    reach, limit = (multiplier << 23) >> shift, max(-requantize.low, requantize.high)
    last = (multiplier * (2**23 - 1) + (1 << shift >> 1)) >> shift
    return bool(reach.min() <= limit or last.min() < limit or shift.max() > 23)


def _pixel_codes(quantization: InputQuantization, zero: int) -> NDArray[np.uint8]:
    pixels = np.arange(256, dtype=np.float32) / np.float32(255)
    return (quantize_input(quantization, pixels) + zero).astype(np.uint8)


def _plan(tensors: list[Tensor], slack: int) -> int:
    """Gives every tensor a place where nothing else lies while it lives; returns the bytes in all."""

    def end(tensor: Tensor) -> int:
        return -(-(tensor.offset + tensor.size + slack) // _ALIGNMENT) * _ALIGNMENT

    placed: list[Tensor] = []
    for tensor in sorted(tensors, key=lambda t: -t.size):
        tensor.offset = 0
        for other in sorted(placed, key=lambda t: t.offset):
            if other.first <= tensor.last and tensor.first <= other.last:
                if end(tensor) <= other.offset:
                    break
                tensor.offset = max(tensor.offset, end(other))
        placed.append(tensor)
    return max(end(tensor) for tensor in tensors)
