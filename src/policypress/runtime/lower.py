"""Lowering: a policy becomes the steps, constants and memory plan that ``engine.c`` runs.

The native engine and the C export both start here. A step is a dictionary of the fields of ``engine_step`` in
``engine.h``: numbers, and NumPy arrays where the structure has pointers. Fields that are left out are zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError
from policypress.policy.canonical import canonical
from policypress.policy.ops import (
    FLOAT_BITS,
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
from policypress.policy.policy import Policy
from policypress.policy.reference import quantize_input

Fields = dict[str, Any]
Choice = Callable[[Layer, int], int]

# The enumerations of engine.h.
U8, S32, F32 = range(3)
LAYER, RELU, TANH, MAX_POOL, PAD, FLATTEN, ADD = range(7)
DENSE, PACKED, SPARSE, REAL = range(4)
KEEP, REQUANTIZE, TABLE = range(3)
DTYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64")
ACTIONS = ("box", "discrete", "multi-discrete", "multi-binary")

_ALIGNMENT = 8
_GAP = 255  # farthest that one pair of a sparse layer goes on
_MAX_COUNT = 2**16 - 1  # of what the structures hold in 16 bits


@dataclass(eq=False)
class Tensor:
    """Values between two steps: ``shape`` is (height, width, channels), 1 x 1 for vectors."""

    type: int
    shape: tuple[int, int, int]
    zero: int = 0
    first: int = 0  # steps between which its memory is taken
    last: int = 0
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes that a row takes."""
        return math.prod(self.shape) * (1 if self.type == U8 else 4)


@dataclass
class Program:
    """What the engine runs; ``weights`` holds the dense weights of every step that has some, (outputs, window).

    ``turns``: for each step (channels, positions), if its inputs lie in memory as (positions, channels); else (1, 1).
    """

    steps: list[Fields]
    input: Fields
    output: Fields
    work_size: int
    observation_size: int
    action_size: int
    layers: list[str] = field(default_factory=list)  # name of the layer of each step, or ""
    weights: list[NDArray[Any] | None] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)


def smallest(layer: Layer, entries: int) -> int:
    """The form of a layer's weights that takes the least memory without decoding; ``entries`` as a sparse one."""
    return SPARSE if 2 * entries < layer.weight.size else DENSE


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
        self._steps: list[Fields] = []
        self._tensors: list[Tensor] = []
        self._layers: list[str] = []
        self._weights: list[NDArray[Any] | None] = []
        self._turns: list[tuple[int, int]] = []
        self._unordered: tuple[int, int] | None = None  # pixels, channels of a vector that should be the other way

    def program(self, slack: int) -> Program:
        policy = self._policy
        first, entry = self._input()
        last = self._ops(policy.ops, first)
        outputs = math.prod(last.shape)
        end = len(self._steps)
        values = last if last.type == F32 else Tensor(F32, last.shape, first=end)
        last.last = values.last = end
        if values is not last:
            self._tensors.append(values)
        work = _plan(self._tensors, slack)
        if work >= 2**32:
            raise UnsupportedError(f"The policy needs {work:,} bytes for its activations, but there may be 4 GiB.")
        action = policy.action
        scale = policy.layers[-1].scale
        leave: Fields = {
            "kind": ACTIONS.index(action.kind),
            "squash": int(action.squash),
            "wide": int(action.dtype == "float64"),
            "source_type": last.type,
            "per_output": int(scale.size > 1),
            "source": last.offset,
            "target": values.offset,
            "outputs": outputs,
            "groups": len(action.nvec),
            "start": action.start,
        }
        if last.type == S32:
            leave["scale"] = scale
        if action.low is not None and action.high is not None:
            leave |= {"low": action.low.ravel(), "high": action.high.ravel()}
        if action.nvec:
            leave["nvec"] = np.array(action.nvec, np.uint32)
        for step in self._steps:
            for name in ("source", "second", "target"):
                if name in step:
                    step[name] = step[name].offset
        entry["target"] = first.offset
        return Program(
            self._steps,
            entry,
            leave,
            work,
            observation_size=math.prod(policy.observation.shape) * np.dtype(policy.observation.dtype).itemsize,
            action_size=math.prod(action.shape) * np.dtype(action.dtype).itemsize,
            layers=self._layers,
            weights=self._weights,
            turns=self._turns,
        )

    def _input(self) -> tuple[Tensor, Fields]:
        observation, quantization = self._policy.observation, self._policy.input
        shape, size = observation.shape, math.prod(observation.shape)
        image = (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, 1, size)
        tensor = Tensor(F32, image) if quantization is None else _codes(quantization.low, quantization.high, image)
        self._tensors.append(tensor)
        turned = self._integer and image[0] * image[1] > 1 and image[2] > 1
        fields: Fields = {
            "dtype": DTYPES.index(observation.dtype),
            "image": int(observation.image),
            "target_type": tensor.type,
            "target_zero": tensor.zero,
            "size": size,
            "channels": image[2] if turned else 1,
            "pixels": image[0] * image[1] if turned else size,
        }
        if observation.normalization is not None:
            n = observation.normalization
            fields |= {"mean": n.mean.ravel(), "deviation": np.sqrt(n.var + n.epsilon).ravel(), "clip": float(n.clip)}
        if quantization is not None:
            many = quantization.inverse_scale.size > 1
            fields |= {"low": quantization.low, "high": quantization.high, "per_feature": int(many)}
            fields["inverse_scale"] = quantization.inverse_scale
            if quantization.zero_point is not None:
                fields["zero_point"] = quantization.zero_point
            if observation.image and not many and tensor.type == U8:
                codes = _pixel_codes(quantization, tensor.zero)
                fields["pixel_codes"] = 1
                if not np.array_equal(codes, np.arange(256)):
                    fields["codes"] = codes
        return tensor, fields

    def _ops(self, ops: Iterable[Op], x: Tensor) -> Tensor:
        remaining = list(ops)
        while remaining:
            op = remaining.pop(0)
            if isinstance(op, Activation) and op.function != "tanh":
                raise UnsupportedError(f"The engine does not know {op.function} yet.")
            match op:
                case Layer():
                    after = remaining[0] if remaining else None
                    table = after if isinstance(after, Activation) and self._integer else None
                    fold = isinstance(after, Relu) and op.requantize is not None and op.requantize.high > 0
                    if table is not None or fold:
                        remaining.pop(0)
                    x = self._layer(op, x, table, fold)
                case Relu():
                    x = self._step({"kind": RELU}, x, Tensor(x.type, x.shape, x.zero))
                case Activation():
                    x = self._step({"kind": TANH}, x, Tensor(F32, x.shape))
                case Flatten():
                    x = self._flatten(x)
                case MaxPool2d():
                    x = self._window({"kind": MAX_POOL}, self._pad(x, op.padding, lowest=True), op.kernel, op.stride)
                case Residual():
                    x = self._residual(op, self._ordered(x))
        return x

    def _layer(self, layer: Layer, x: Tensor, tanh: Activation | None, fold: bool) -> Tensor:
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
        fields: Fields = {"kind": LAYER, "relu": int(layer.relu)}
        self._weights_of(layer, weight, _places(x, kernel), fields)
        if self._integer:
            shares = x.zero * weight.astype(np.int64).sum(axis=1)
            fields["bias"] = ((layer.bias - shares) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
            target = self._finish(layer, fields, tanh, fold)
        else:
            fields |= {"bias": layer.bias, "scale": layer.scale, "per_output": int(layer.scale.size > 1)}
            target = Tensor(F32, (1, 1, 1))
        self._unordered = None
        x = self._window(fields, x, kernel, layer.stride, len(weight), target, layer.name, weight)
        self._turns[-1] = turn
        return x

    def _weights_of(self, layer: Layer, weight: NDArray[Any], places: NDArray[np.int64], fields: Fields) -> None:
        if layer.weight_bits == FLOAT_BITS:
            fields |= {"form": REAL, "weight": weight}
            return
        pairs, counts = sparse_pairs(weight, places)
        fits = int(counts.max(initial=0)) <= _MAX_COUNT
        if self._integer:
            form = self._choose(layer, len(pairs))
            form = DENSE if form == SPARSE and not fits else form
        elif np.all(weight):
            form = DENSE
        else:  # zero weights must be left out: one of them may meet an infinite value
            form = SPARSE
            if not fits:
                raise UnsupportedError(f"Layer {layer.name!r} is too wide for the engine in weight-only numerics.")
        fields["form"] = form
        if form == SPARSE:
            fields |= {"weight": pairs, "counts": counts.astype(np.uint16)}
        elif form == PACKED:
            bits = packed_bits(weight)
            fields |= {"weight": packed(weight, bits), "bits": bits}
        else:
            fields["weight"] = weight

    def _finish(self, layer: Layer, fields: Fields, tanh: Activation | None, fold: bool) -> Tensor:
        requantize = layer.requantize
        if requantize is None:
            return Tensor(S32, (1, 1, 1))
        low, high = requantize.low, requantize.high
        if tanh is not None:
            fields |= {"finish": TABLE, "table": tanh.lookup.table[tanh.limit :].astype(np.int8)}
            target = _codes(tanh.low, tanh.high, (1, 1, 1))
        else:
            low = max(low, 0) if fold else low
            fields["finish"] = REQUANTIZE
            target = _codes(low, high, (1, 1, 1))
        fields |= {"low": low, "high": high, "wide": int(_is_wide(requantize))} | _ratio(requantize, len(layer.weight))
        return target

    def _residual(self, op: Residual, x: Tensor) -> Tensor:
        body = self._ordered(self._ops(op.body, x))
        fields: Fields = {"kind": ADD, "second": body, "second_type": body.type, "second_zero": body.zero}
        if op.skip is None or op.branch is None:
            target = Tensor(F32, x.shape)
        else:
            channels = x.shape[2]
            fields |= {"low": op.low, "high": op.high} | _ratio(op.skip, channels)
            fields |= {f"second_{name}": value for name, value in _ratio(op.branch, channels).items()}
            target = _codes(op.low, op.high, x.shape)
        body.last = len(self._steps)
        return self._step(fields, x, target)

    def _pad(self, x: Tensor, padding: tuple[int, int], *, lowest: bool) -> Tensor:
        """The image with code 0 around it; with what never wins a maximum, if ``lowest``."""
        if padding == (0, 0):
            return x
        height, width, channels = x.shape
        target = Tensor(x.type, (height + 2 * padding[0], width + 2 * padding[1], channels), x.zero)
        fill = {U8: 0, S32: INT32_MIN, F32: INT32_MIN}[x.type] if lowest else x.zero
        fields = {"kind": PAD, "padding_height": padding[0], "padding_width": padding[1], "fill": fill}
        return self._step(fields, x, target)

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
            x = self._step({"kind": FLATTEN}, x, Tensor(x.type, x.shape, x.zero))
            x.shape = (1, 1, math.prod(x.shape))
        return x

    def _window(
        self,
        fields: Fields,
        x: Tensor,
        kernel: tuple[int, ...],
        stride: tuple[int, int],
        outputs: int | None = None,
        target: Tensor | None = None,
        name: str = "",
        weight: NDArray[Any] | None = None,
    ) -> Tensor:
        """A step whose window slides over ``x``."""
        height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[:2], kernel, stride, strict=True))
        stride = (min(stride[0], x.shape[0]), min(stride[1], x.shape[1]))  # beyond, there is one window anyway
        if max(*kernel, *stride) > _MAX_COUNT:
            raise UnsupportedError(f"Kernels and strides of more than {_MAX_COUNT:,} are too large for the engine.")
        target = target or Tensor(x.type, x.shape, x.zero)
        target.shape = (height, width, outputs or x.shape[2])
        fields |= {"kernel_height": kernel[0], "kernel_width": kernel[1]}
        fields |= {"stride_height": stride[0], "stride_width": stride[1]}
        return self._step(fields, x, target, name, weight)

    def _step(
        self, fields: Fields, x: Tensor, target: Tensor, name: str = "", weight: NDArray[Any] | None = None
    ) -> Tensor:
        now = len(self._steps)
        for tensor in (x, target):
            tensor.last = now
        target.first = now
        self._tensors.append(target)
        fields |= {"source": x, "source_type": x.type, "source_zero": x.zero}
        fields |= dict(zip(("height", "width", "channels"), x.shape, strict=True))
        fields |= {"target": target, "target_type": target.type, "target_zero": target.zero}
        fields |= dict(zip(("out_height", "out_width", "out_channels"), target.shape, strict=True))
        self._steps.append(fields)
        self._layers.append(name)
        self._weights.append(weight)
        self._turns.append((1, 1))
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


def _codes(low: int, high: int, shape: tuple[int, int, int]) -> Tensor:
    """A tensor for codes from ``low`` to ``high``: bytes, if they fit."""
    if low <= 0 <= high and high - low <= 255:
        return Tensor(U8, shape, -low)
    return Tensor(S32, shape)


def _places(x: Tensor, kernel: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the inputs of a window lie in memory from the first one on, in elements."""
    height, width, channels = x.shape
    i, j, c = (np.arange(n, dtype=np.int64) for n in (*kernel, channels))
    if x.type == F32:
        return (c[:, None, None] * height * width + i[:, None] * width + j).ravel()
    return ((i[:, None, None] * width + j[:, None]) * channels + c).ravel()


def _ratio(requantize: Requantization, outputs: int) -> Fields:
    """Multiplier and shift, both for each output if one of them is."""
    many = max(requantize.multiplier.size, requantize.shift.size) > 1
    shape = (outputs if many else 1,)
    return {
        "per_output": int(many),
        "multiplier": np.broadcast_to(requantize.multiplier, shape).astype(np.uint8),
        "shift": np.broadcast_to(requantize.shift, shape).astype(np.uint8),
    }


def _is_wide(requantize: Requantization) -> bool:
    """Whether 32 bits are too few for requantization: beyond sums of +-2**23 the limits must decide."""
    reach = (requantize.multiplier.astype(np.int64) << 23) >> requantize.shift
    return bool(reach.min() <= max(-requantize.low, requantize.high) or requantize.shift.max() > 23)


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
