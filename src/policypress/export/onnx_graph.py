"""The ONNX graph of a policy: from the raw observation to the environment's action, in one of two styles.

"exact" computes every integer as ``reference.py`` does; "qdq" is what compilers for accelerators read: quantized
tensors between QuantizeLinear and DequantizeLinear, float32 in between. ``docs/onnx.md`` describes both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import policypress
from policypress.errors import UnsupportedError
from policypress.policy import activations, reference
from policypress.policy.card import encode_card
from policypress.policy.contract import ActionTransform, Normalization
from policypress.policy.ops import (
    FLOAT_BITS,
    Activation,
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
    Shape,
)
from policypress.policy.policy import Policy

Style = Literal["exact", "qdq"]

OPSET = 13
"""The first with one scale an output in DequantizeLinear, and with sizes as an input of Split; no graph needs more."""
IR_VERSION = 7  # that of the ONNX release which brought opset 13
STYLE = "policypress.style"
STEPS = "policypress.steps"
"""Metadata: the tensors that hold the integers of every step, see ``Step``."""

_WEIGHT_ZERO = 128
_FLOAT32_INTEGERS = 2**24
"""Up to here float32 holds every integer."""
_NEAR = 2.0**-12
"""How far, in standard deviations, a normalization in float32 may be from one in float64."""
_HALVES_UP = 1 + 2.0**-22
"""Makes positive halves, which QuantizeLinear takes to even, a little larger, so that they go up as in the policy."""


class Step(NamedTuple):
    """One step of an integer policy: the input's quantization, then what ``reference.run`` records.

    ``tensor`` holds its integers plus ``zero``; it is "" where the style has no such integers.
    """

    name: str
    tensor: str
    zero: int


def build(policy: Policy, style: Style) -> onnx.ModelProto:
    """Graph of ``policy`` with the input ``observation`` and the outputs ``action`` and ``outputs``.

    Equal policies give equal bytes. Raises UnsupportedError if "qdq" has no type for some codes.
    """
    graph = _Graph()
    with graph.scope("observe"):
        x = _observe(graph, policy, style)
    if policy.input is not None:
        outputs = (_Exact if style == "exact" else _Qdq)(graph).network(policy, policy.input, x)
    else:
        outputs = _Float(graph, style).ops(policy.ops, x)
    graph.rename(outputs, "outputs")
    with graph.scope("act"):
        action = _act(graph, policy.action, style)
    graph.rename(action, "action")
    return graph.model(policy, style)


def dtype_of(name: str | type[np.generic] | np.dtype[Any]) -> int:
    """ONNX's number of a NumPy dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


class _Graph:
    """Nodes, constants and steps as they are added; names start with the scope."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.steps: list[Step] = []
        self._constants: list[onnx.TensorProto] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: set[str] = {"observation", "outputs", "action"}
        self._scope = ""
        self._layers = 0

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        before, self._scope = self._scope, name
        yield
        self._scope = before

    @contextmanager
    def layer(self, op: Op) -> Iterator[None]:
        label = (isinstance(op, Layer) and op.name) or type(op).__name__.lower()
        self._layers += 1
        with self.scope(f"{self._layers:02d}.{label}"):
            yield

    def step(self, tensor: str, zero: int = 0) -> None:
        self.steps.append(Step(self._scope, tensor, zero))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Name of the result; a list of names if ``outputs`` is not 1."""
        names = [self._name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: NDArray[Any] | np.generic, name: str = "constant", shared: bool = True) -> str:
        """Name of an initializer; equal ones that may be shared are stored once."""
        array = np.array(value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if shared and key in self._shared:
            return self._shared[key]
        scalar = shared and array.ndim == 0
        tensor = numpy_helper.from_array(array, f"{array.dtype}({array})" if scalar else self._name(name))
        self._constants.append(tensor)
        if shared:
            self._shared[key] = tensor.name
        return str(tensor.name)

    def cast(self, tensor: str, dtype: str | type[np.generic]) -> str:
        return str(self.op("Cast", tensor, to=dtype_of(dtype)))

    def rename(self, old: str, new: str) -> None:
        """Give a node's result the name of a graph output."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new
        self.steps = [step._replace(tensor=new) if step.tensor == old else step for step in self.steps]

    def model(self, policy: Policy, style: Style) -> onnx.ModelProto:
        def value(name: str, dtype: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype_of(dtype), ["batch", *shape])

        observation, action = policy.observation, policy.action
        graph = helper.make_graph(
            self.nodes,
            "policy",
            [value("observation", observation.dtype, *observation.shape)],
            [
                value("action", action.dtype, *action.shape),
                value("outputs", "float32", policy.layers[-1].weight.shape[0]),
            ],
            self._constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="policypress",
            producer_version=policypress.__version__,
        )
        card = json.loads(encode_card(policy))
        facts = {name: card[name] for name in ("action", "observation", "provenance", "results")}
        facts |= {"numerics": policy.numerics, "style": style, "steps": self.steps}
        helper.set_model_props(model, {f"policypress.{name}": _text(facts[name]) for name in sorted(facts)})
        return model

    def _name(self, kind: str) -> str:
        base = name = f"{self._scope}/{kind}" if self._scope else kind
        count = 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


# Observation -> float32


def _observe(graph: _Graph, policy: Policy, style: Style) -> str:
    transform = policy.observation
    normalization = transform.normalization
    x = "observation"
    if normalization is not None and normalization_error(policy, style) is None:
        x = graph.cast(x, np.float64) if transform.dtype != "float64" else x
        x = graph.op("Sub", x, graph.constant(normalization.mean, "mean"))
        x = graph.op("Div", x, graph.constant(_deviation(normalization), "deviation"))
        x = _clip(graph, x, np.float64(-normalization.clip), np.float64(normalization.clip))
        return graph.cast(x, np.float32)
    if transform.dtype != "float32":
        x = graph.cast(x, np.float32)
    if normalization is not None:
        high = normalization.mean.astype(np.float32)
        low = (normalization.mean - high).astype(np.float32)
        x = graph.op("Sub", graph.op("Sub", x, graph.constant(high, "mean")), graph.constant(low, "mean_rest"))
        x = graph.op("Div", x, graph.constant(_deviation(normalization).astype(np.float32), "deviation"))
        x = _clip(graph, x, np.float32(-normalization.clip), np.float32(normalization.clip))
    return graph.op("Div", x, graph.constant(np.float32(255))) if transform.image else x


def _deviation(normalization: Normalization) -> NDArray[np.float64]:
    return np.sqrt(normalization.var + normalization.epsilon)


def normalization_error(policy: Policy, style: Style) -> NDArray[np.float64] | None:
    """How far the graph's normalized observation may be from the policy's, for each feature; None if not at all.

    float32 observations are normalized in float32, so that there is no double in the graph, if that is within
    ``_NEAR`` and a quarter of an input code. The mean is two float32 numbers, and the first difference is exact near
    it: six roundings of at most twice ``clip`` are left. Further out both forms are clipped. Style "exact" does so
    where it can put the codes right (``_Exact._corrected``): those of 8 bits without zero points.
    """
    normalization = policy.observation.normalization
    if normalization is None or policy.observation.dtype != "float32":
        return None
    wide = policy.input is None or policy.input.high - policy.input.low > 255 or policy.input.zero_point is not None
    if style == "exact" and wide:
        return None
    deviation = _deviation(normalization)
    error = 2.0**-24 * 16 * normalization.clip + 2.0**-48 * np.abs(normalization.mean) / deviation
    code = 1.0 if policy.input is None else _of_features(policy.input.inverse_scale, deviation.shape)
    held = (deviation > 1e-37) & (np.maximum(deviation, np.abs(normalization.mean)) < 1e38)  # by float32
    near = held & (error <= _NEAR) & (error * code <= 0.25)
    return error if near.all() else None


def _scaled_input(graph: _Graph, policy: Policy, quantization: InputQuantization, x: str) -> str:
    inverse_scale = _of_features(quantization.inverse_scale, policy.observation.shape)
    return str(graph.op("Mul", x, graph.constant(inverse_scale, "inverse_scale")))


def _of_features(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """One value, or one a feature in the shape of an observation."""
    return values.reshape(shape) if values.size > 1 else values


def _shifted_input(graph: _Graph, policy: Policy, quantization: InputQuantization, x: str) -> str:
    if quantization.zero_point is None:
        return x
    zeros = _of_features(quantization.zero_point.astype(np.float32), policy.observation.shape)
    return str(graph.op("Sub", x, graph.constant(zeros, "zero_point")))


def _clip(graph: _Graph, x: str, low: np.generic, high: np.generic) -> str:
    return str(graph.op("Clip", x, graph.constant(low), graph.constant(high)))


# Integer numerics, exact


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


class _Exact:
    """Integer layers by MatMulInteger and ConvInteger; requantization in floats, wide enough to be exact.

    Both operands are uint8, weights plus 128: the kernels for uint8 times int8 add pairs of products in 16 bits on
    x86 processors without VNNI, and saturate; those for uint8 times uint8 are exact everywhere.
    """

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph

    def network(self, policy: Policy, quantization: InputQuantization, x: str) -> str:
        g = self.graph
        with g.scope("input"):
            x = g.op("Round", _scaled_input(g, policy, quantization, x))  # halves to even
            if normalization_error(policy, "exact") is not None:
                x = self._corrected(policy, quantization, x)
            x = _shifted_input(g, policy, quantization, x)
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
        x = _clip(g, x, np.float32(quantization.low), np.float32(quantization.high))
        code = _clip(g, g.cast(x, np.int32), np.int32(quantization.low), np.int32(quantization.high))
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
            case Activation():
                table = (op.lookup.table + op.high).astype(np.uint8)
                # The layer in front has the limits of ``inputs``: its codes plus their zero are places in the table.
                tensor = g.op("Gather", g.constant(table, "table"), g.cast(codes.tensor, np.int32))
                codes = _Codes(tensor, op.high, 2 * op.high)
            case Relu():
                codes = replace(codes, tensor=g.op("Clip", codes.tensor, g.constant(codes.dtype(codes.zero))))
            case MaxPool2d():
                codes = replace(codes, tensor=_max_pool(g, op, codes.tensor))
            case Flatten():
                codes = replace(codes, tensor=g.op("Flatten", codes.tensor))
        g.step(codes.tensor, codes.zero)
        return codes

    def _accumulate(self, layer: Layer, codes: _Codes) -> str:
        """int32 accumulators. Codes of more than 8 bits go byte by byte: q = sum of 256**i * (byte - zero's byte)."""
        g = self.graph
        weight = (layer.weight.astype(np.int16) + _WEIGHT_ZERO).astype(np.uint8)
        kind, attributes = ("ConvInteger", _window(layer)) if layer.is_conv else ("MatMulInteger", {})
        weights = g.constant(weight if layer.is_conv else weight.T, "weight")
        weight_zero = g.constant(np.uint8(_WEIGHT_ZERO))
        accumulators = ""
        for place, byte in enumerate(self._bytes(codes)):
            zero = g.constant(np.uint8(codes.zero >> 8 * place & 255))
            part = g.op(kind, byte, weights, zero, weight_zero, **attributes)
            if place > 0:  # int32 wraps around, as do the sums inside of the operator: the total fits
                part = g.op("Add", accumulators, g.op("Mul", part, g.constant(np.int32(256**place))))
            accumulators = part
        return str(g.op("Add", accumulators, g.constant(_per_channel(layer.bias, layer.weight.ndim - 1), "bias")))

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
            terms.append(_clip(g, scaled, dtype(requantization.low), dtype(requantization.high)))
        return self._store(g.op("Add", *terms), dtype, op.low, op.high)

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
        """``(value * multiplier + 2**(shift - 1)) >> shift`` of a tensor of ``dtype``, see ``_wide_enough``."""
        g = self.graph
        factor = _per_channel(ratio(requantization).astype(dtype), ndim)
        product = g.op("Mul", value, g.constant(factor, "ratio"))
        return str(g.op("Floor", g.op("Add", product, g.constant(dtype(0.5)))))

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
        tensor = _clip(g, value, dtype(low), dtype(high))
        if zero:
            tensor = g.op("Add", tensor, g.constant(dtype(zero)))
        codes = _Codes(tensor, zero, peak)
        if codes.dtype is not dtype:
            codes = replace(codes, tensor=g.cast(tensor, codes.dtype))
        g.step(codes.tensor, zero)
        return codes


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


# Integer numerics, QDQ


@dataclass(frozen=True)
class _Quantized:
    """Codes in [low, high], dequantized: a float32 tensor of ``codes * scale``."""

    tensor: str
    low: int
    high: int
    scale: float


class _Qdq:
    """Float layers between quantized tensors, whose scales say what a code is worth.

    One unit of a requantized code is worth 1 (1/high behind a Tanh, and what spares the skip of a residual block a
    product), so that the weights' scales are the requantization's ratios. Codes that do not fit 8 bits, as those in
    front of a Tanh, stay float32, rounded: 16-bit quantized tensors need opset 21 and few runtimes have them.
    """

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph

    def network(self, policy: Policy, quantization: InputQuantization, x: str) -> str:
        g = self.graph
        with g.scope("input"):
            x = _scaled_input(g, policy, quantization, x)
            if quantization.zero_point is not None:
                x = _shifted_input(g, policy, quantization, g.op("Round", x))
            low, high = quantization.low, quantization.high
            x = _clip(g, x, np.float32(low), np.float32(high))
            # QuantizeLinear rounds too, but OpenVINO fuses it with the Clip and the Mul in front, wrongly.
            value = self._codes(g.op("Round", x), low, high)
        last = policy.layers[-1].scale.astype(np.float64)
        outputs = self._ops(policy.ops, value, policy.observation.shape, last)
        assert isinstance(outputs, str)
        return outputs

    def _ops(self, ops: tuple[Op, ...], value: _Quantized, shape: Shape, unit: NDArray[np.float64]) -> _Quantized | str:
        """Codes; or, if the last of ``ops`` gives accumulators, the name of a tensor of ``accumulators * unit``."""
        result: _Quantized | str = value
        for op in ops:
            assert isinstance(result, _Quantized)
            with self.graph.layer(op):
                if isinstance(op, Layer) and op.requantize is None:
                    result = self._layer(op, result, unit)
                    self.graph.step("")
                elif isinstance(op, Layer):
                    result = self._requantized(op, result)
                else:
                    result = self._op(op, result, shape)
            shape = op.output_shape(shape)
        return result

    def _op(self, op: Op, value: _Quantized, shape: Shape) -> _Quantized:
        g = self.graph
        match op:
            case Residual():
                return self._residual(op, value, shape)
            case Activation():
                x = g.op("Mul", value.tensor, g.constant(np.float32(op.unit)))
                return self._codes(g.op("Tanh", x), -op.high, op.high, 1 / op.high)
            case Relu():
                limits = max(value.low, 0), max(value.high, 1)
                return self._codes(g.op("Relu", value.tensor), *limits, value.scale)
            case MaxPool2d():
                tensor = _max_pool(g, op, value.tensor)
            case _:
                tensor = g.op("Flatten", value.tensor)
        return self._codes(tensor, value.low, value.high, value.scale)

    def _requantized(self, layer: Layer, value: _Quantized) -> _Quantized:
        requantization = layer.requantize
        assert requantization is not None
        low, high = requantization.low, requantization.high
        unit = ratio(requantization)
        if low >= 0 and _type(low, high) is not None:  # what is negative becomes 0 anyway
            unit = unit * _HALVES_UP
        return self._rounded(self._layer(layer, value, unit), low, high)

    def _residual(self, op: Residual, value: _Quantized, shape: Shape) -> _Quantized:
        g = self.graph
        assert op.skip is not None
        assert op.branch is not None
        skip, scale = ratio(op.skip), 1.0
        if spared := skip.size == 1 and _type(op.low, op.high) is not None:
            scale = value.scale / float(skip[0])  # then the skip needs no product
        unit = ratio(op.branch) * scale
        branch = self._ops(op.body, value, shape, unit)
        if isinstance(branch, _Quantized):
            branch = self._times(branch.tensor, unit / branch.scale, len(shape))
        tensor = value.tensor if spared else self._times(value.tensor, skip * scale / value.scale, len(shape))
        return self._rounded(g.op("Add", tensor, branch), op.low, op.high, scale)

    def _times(self, tensor: str, factor: NDArray[np.float64], ndim: int) -> str:
        constant = self.graph.constant(_per_channel(factor.astype(np.float32), ndim), "ratio")
        return str(self.graph.op("Mul", tensor, constant))

    def _layer(self, layer: Layer, value: _Quantized, unit: NDArray[np.float64]) -> str:
        """float32 ``accumulators * unit``, negative ones 0 if the layer has a ReLU and no requantization."""
        g = self.graph
        scale = (unit / value.scale).astype(np.float32)
        weight = _dequantized(g, layer.weight, scale, "weight")
        bias = _dequantized(g, layer.bias, scale * np.float32(value.scale), "bias")
        tensor = _layer(g, layer, value.tensor, weight, bias)
        return str(g.op("Relu", tensor)) if layer.relu and layer.requantize is None else tensor

    def _rounded(self, tensor: str, low: int, high: int, scale: float = 1.0) -> _Quantized:
        """``tensor`` rounded to multiples of ``scale`` and clipped; ``scale`` is 1 if the codes do not fit 8 bits.

        Symmetric limits of all 8 bits are left to the type, which goes one unit further down: a Clip would keep the
        layer in front from being fused.
        """
        g = self.graph
        info = _type(low, high)
        if info is None:
            tensor = g.op("Floor", g.op("Add", tensor, g.constant(np.float32(0.5))))
        if info is None or not (low <= info.min + 1 and high == info.max):
            tensor = _clip(g, tensor, np.float32(low * scale), np.float32(high * scale))
        return self._codes(tensor, low, high, scale)

    def _codes(self, tensor: str, low: int, high: int, scale: float = 1.0) -> _Quantized:
        """``tensor``, known to lie within the limits, quantized and dequantized; as it is if it holds wide codes."""
        g = self.graph
        info = _type(low, high)
        if info is None:
            g.step(tensor)
            return _Quantized(tensor, low, high, scale)
        parameters = g.constant(np.float32(scale)), g.constant(np.zeros((), info.dtype))
        codes = g.op("QuantizeLinear", tensor, *parameters)
        g.step(codes)
        return _Quantized(g.op("DequantizeLinear", codes, *parameters), low, high, scale)


def _type(low: int, high: int) -> np.iinfo[Any] | None:
    """The 8-bit type that holds [low, high]; None if there is none. Raises UnsupportedError above 16 bits."""
    if not -(2**15) <= low <= high < 2**16 or (low < 0 and high >= 2**15):
        raise UnsupportedError(f'Codes in [{low}, {high}] do not fit 16 bits: export with style="exact".')
    return next((info for info in map(np.iinfo, (np.int8, np.uint8)) if info.min <= low and high <= info.max), None)


# Float activations


class _Float:
    """Weight-only and float numerics. "exact" sums integers first and scales then, as the reference does."""

    def __init__(self, graph: _Graph, style: Style) -> None:
        self.graph = graph
        self.style = style

    def ops(self, ops: tuple[Op, ...], x: str) -> str:
        g = self.graph
        for op in ops:
            with g.layer(op):
                match op:
                    case Layer():
                        x = self._layer(op, x)
                        x = g.op("Relu", x) if op.relu else x
                    case Relu():
                        x = g.op("Relu", x)
                    case Activation():
                        x = _tanh(g, x, self.style)
                    case MaxPool2d():
                        x = _max_pool(g, op, x)
                    case Flatten():
                        x = g.op("Flatten", x)
                    case Residual():
                        x = g.op("Add", x, self.ops(op.body, x))
        return x

    def _layer(self, layer: Layer, x: str) -> str:
        g = self.graph
        if layer.weight_bits == FLOAT_BITS:
            return _layer(g, layer, x, g.constant(layer.weight, "weight"), g.constant(layer.bias, "bias"))
        if self.style == "qdq":
            weight = _dequantized(g, layer.weight, layer.scale, "weight")
            return _layer(g, layer, x, weight, g.constant(layer.bias, "bias"))
        sums = _layer(g, layer, x, g.cast(g.constant(layer.weight, "weight"), np.float32))
        ndim = layer.weight.ndim - 1
        scaled = g.op("Mul", sums, g.constant(_per_channel(layer.scale, ndim), "scale"))
        return str(g.op("Add", scaled, g.constant(_per_channel(layer.bias, ndim), "bias")))


def _layer(graph: _Graph, layer: Layer, x: str, weight: str, bias: str = "") -> str:
    """A float32 layer; ``weight`` has the shape of ``layer.weight``."""
    inputs = (x, weight, bias) if bias else (x, weight)
    if layer.is_conv:
        return str(graph.op("Conv", *inputs, **_window(layer)))
    return str(graph.op("Gemm", *inputs, transB=1))


def _dequantized(graph: _Graph, codes: NDArray[Any], scale: NDArray[np.float32], name: str) -> str:
    """float32 ``codes * scale``, with one scale or one for each output."""
    parameters = scale[0] if scale.size == 1 else scale
    zero = np.zeros(np.shape(parameters), codes.dtype)
    # Not shared: ONNX Runtime fails where it rewrites a zero point that two layers share.
    constants = (codes, name), (parameters, f"{name}_scale"), (zero, f"{name}_zero")
    inputs = [graph.constant(value, label, shared=False) for value, label in constants]
    return str(graph.op("DequantizeLinear", *inputs, **({} if scale.size == 1 else {"axis": 0})))


def ratio(requantization: Requantization) -> NDArray[np.float64]:
    """``multiplier / 2**shift``, exactly."""
    return np.ldexp(requantization.multiplier.astype(np.float64), -requantization.shift)


def _per_channel(values: NDArray[Any], ndim: int) -> NDArray[Any]:
    """One value, or one a channel, for a tensor of ``ndim`` dimensions without that of the batch."""
    return values.reshape((-1,) + (1,) * (ndim - 1))


def _window(op: Layer | MaxPool2d) -> dict[str, Any]:
    return {"strides": list(op.stride), "pads": [*op.padding, *op.padding]}


def _max_pool(graph: _Graph, pool: MaxPool2d, x: str) -> str:
    return str(graph.op("MaxPool", x, kernel_shape=list(pool.kernel), **_window(pool)))


# Outputs -> action


def _act(graph: _Graph, transform: ActionTransform, style: Style) -> str:
    g = graph
    if transform.kind == "discrete":
        choice = g.op("ArgMax", "outputs", axis=1, keepdims=0)
        return str(g.op("Add", choice, g.constant(np.int64(transform.start))))
    if transform.kind == "multi-discrete":
        sizes = g.constant(np.array(transform.nvec, np.int64), "nvec")
        groups = g.op("Split", "outputs", sizes, outputs=len(transform.nvec), axis=1)
        groups = groups if isinstance(groups, list) else [groups]
        return str(g.op("Concat", *(g.op("ArgMax", group, axis=1, keepdims=1) for group in groups), axis=1))
    if transform.kind == "multi-binary":
        return str(g.cast(g.op("Greater", "outputs", g.constant(np.float32(0))), transform.dtype))
    assert transform.low is not None
    assert transform.high is not None
    y = "outputs"
    if len(transform.shape) != 1:
        shape = np.array([-1, *transform.shape], np.int64)
        y = g.op("Reshape", y, g.constant(shape, "shape"))
    low = g.constant(transform.low, "low")
    if transform.squash:
        half = g.op("Add", _tanh(g, y, style), g.constant(np.float32(1)))
        half = g.op("Mul", half, g.constant(np.float32(0.5)))
        y = g.op("Add", low, g.op("Mul", half, g.constant(transform.high - transform.low, "span")))
    else:
        y = g.op("Min", g.op("Max", y, low), g.constant(transform.high, "high"))
    return g.cast(y, transform.dtype) if transform.dtype != "float32" else str(y)


def _tanh(graph: _Graph, x: str, style: Style) -> str:
    """In style "exact" ``reference.tanh``, operation for operation; only the sign of zero is lost."""
    g = graph
    if style == "qdq":
        return str(g.op("Tanh", x))

    def f(value: float | np.float32) -> str:
        return g.constant(np.float32(value))

    def horner(coefficients: list[np.float32], at: str) -> str:
        value = f(coefficients[0])
        for coefficient in coefficients[1:]:
            value = g.op("Add", g.op("Mul", value, at), f(coefficient))
        return value

    a = g.op("Min", g.op("Abs", x), f(activations.TANH_LIMIT))

    z = g.op("Mul", a, a)
    small = g.op("Add", a, g.op("Mul", a, g.op("Mul", z, horner(activations.TANH_SMALL, z))))

    y = g.op("Add", a, a)
    n = g.op("Floor", g.op("Add", g.op("Mul", y, f(activations.LOG2_E)), f(0.5)))
    s = g.op("Add", g.op("Sub", g.op("Mul", n, f(activations.LN2_HIGH)), y), g.op("Mul", n, f(activations.LN2_LOW)))
    e = g.op("Add", g.op("Add", s, g.op("Mul", g.op("Mul", s, s), horner(activations.EXP_TAIL, s))), f(1))
    last = int(2 * activations.TANH_LIMIT * activations.LOG2_E + 0.5)
    powers = np.ldexp(np.ones(last + 1, np.float32), -np.arange(last + 1))
    place = _clip(g, g.cast(n, np.int32), np.int32(0), np.int32(last))  # NaN has no place of its own
    e = g.op("Mul", e, g.op("Gather", g.constant(powers, "powers"), place))
    large = g.op("Sub", f(1), g.op("Div", g.op("Add", e, e), g.op("Add", f(1), e)))

    magnitude = g.op("Where", g.op("Less", a, f(activations.TANH_SPLIT)), small, large)
    return str(g.op("Where", g.op("Less", x, f(0)), g.op("Neg", magnitude), magnitude))
