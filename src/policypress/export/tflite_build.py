"""The TensorFlow Lite graph of an integer policy, of int8 or of int16 activations. ``docs/tflite.md`` derives it.

A tensor of codes has the real values ``scale * (code - zero)``. A layer's multiplier, which TensorFlow Lite makes of
the scales of its input, weights and output, is the policy's ``multiplier / 2**shift``: with scales that are powers of
two, the scale of the weights is that ratio, and sums and biases are the policy's integers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError, unknown
from policypress.export.tflite_graph import BOOL, FLOAT32, INT32, NONE, RELU, UINT8, VALID, Graph
from policypress.policy.contract import ActionTransform
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
    Range,
    Relu,
    Requantization,
    Residual,
    Shape,
    no_integers,
)
from policypress.policy.policy import Policy
from policypress.version import __version__

Style = Literal["int8", "int16"]
Ends = Literal["float", "integer"]

_HALVES_UP = 1 + 2.0**-22
"""Makes positive halves, which kernels that round to even would leave below, a little larger. In int16 it keeps ratios
that float32 scales miss by a rounding above the 15 bits that kernels take of them."""
_INT16 = {"tanh": "TANH", "sigmoid": "LOGISTIC"}
"""Functions that have kernels of int16, which give units of 2^-15; others are computed in float32 in between."""
_ELSEWHERE = "export with --to onnx or --to c"
_TANH_SPAN = {"int8": 3.2, "int16": 9.1}
"""Beyond it a tanh is nearer to 1 than half a step of codes from -1 to 1, or than float32 tells."""


class Step(NamedTuple):
    """Codes plus ``zero`` in the output ``place`` of a graph that gives its steps out; an ``image`` has its channels
    last."""

    place: int
    zero: int
    image: bool


@dataclass(frozen=True)
class _Codes:
    """Codes, known to lie from ``low`` to ``high``, in a tensor that holds ``code + zero``, each worth ``scale``."""

    tensor: int
    low: int
    high: int
    scale: float
    zero: int


class Output(NamedTuple):
    """What an integer end gives: codes of outputs from ``-limit`` to ``limit``, each worth ``scale``."""

    scale: float
    limit: int


class Built(NamedTuple):
    """A file; its ``steps``, in the order that the reference records them behind the input's codes; the ``output`` of
    an integer end."""

    model: bytes
    steps: tuple[Step, ...]
    output: Output | None


def build(policy: Policy, style: Style, ends: Ends, *, inner: bool = False) -> Built:
    """The graph of ``policy``, one of integers. Equal policies give equal bytes.

    ``inner``: the tensors of all steps are outputs too, behind the others. Raises UnsupportedError for what cannot be
    expressed.
    """
    if policy.input is None:
        raise UnsupportedError(
            f"A policy of {policy.numerics} numerics has no form of {style} here: press it to integers, or export it "
            "with --to onnx or --to c."
        )
    if policy.state_size:
        raise _remembers()
    return _Builder(policy, policy.input, style, ends).built(inner)


class _Builder:
    def __init__(self, policy: Policy, quantization: InputQuantization, style: Style, ends: Ends) -> None:
        self._policy, self._input, self._style, self._ends = policy, quantization, style, ends
        self._graph = Graph()
        self._steps: list[tuple[_Codes, bool]] = []
        self._names: dict[str, int] = {}
        self._type = np.iinfo(style)

    def built(self, inner: bool) -> Built:
        policy = self._policy
        *front, last = policy.ops
        if not isinstance(last, Layer) or last.is_conv:
            raise UnsupportedError(f"The last operation is no fully connected layer: {_ELSEWHERE}.")
        observation, value = self._observation()
        value, shape = self._ops(tuple(front), value, policy.observation.shape)
        output = None
        if self._ends == "integer":
            output = self._range(last, value)
            ratio = last.scale.astype(np.float64) / output.scale
            limits = 0 if last.relu else -output.limit, output.limit
            codes = self._layer(last, value, shape, ratio, output.scale, "outputs", limits)
            self._step(codes, (len(last.weight),))
            results = [codes.tensor]
        else:
            outputs = self._outputs(last, value)
            results = [self._action(policy.action, outputs), outputs]
        shown = tuple(dict.fromkeys((*results, *(value.tensor for value, _ in self._steps))))
        model = self._graph.model((observation,), shown if inner else tuple(results), self._description())
        steps = (Step(shown.index(value.tensor), value.zero, image) for value, image in self._steps)
        return Built(model, tuple(steps), output)

    def _description(self) -> str:
        """Of the model: how it was made and, with an integer end, how an observation becomes codes."""
        facts: dict[str, Any] = {"policypress": __version__, "style": self._style, "ends": self._ends}
        if self._ends == "integer":
            of = self._input
            facts |= {
                "inverse_scale": [float(str(value)) for value in of.inverse_scale],
                "low": of.low,
                "high": of.high,
            }
            facts |= {} if of.zero_point is None else {"zero_point": of.zero_point.tolist()}
        return json.dumps(facts)

    # Tensors

    def _name(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def _float(self, name: str, shape: Shape) -> int:
        return self._graph.tensor(self._name(name), "float32", (1, *shape))

    def _constant(self, name: str, values: NDArray[Any]) -> int:
        return self._graph.constant(self._name(name), values)

    def _codes(self, name: str, shape: Shape, limits: Range, scale: float) -> _Codes:
        """A tensor for codes within ``limits``: in int8 the type ends with the largest and clips what is above."""
        zero = 127 - limits[1] if self._style == "int8" else 0
        low, high = self._type.min - zero, self._type.max - zero
        if not self._type.min <= zero <= self._type.max or limits[0] < low or limits[1] > high:
            raise self._too_wide(f"Codes from {limits[0]} to {limits[1]}")
        return self._like(name, shape, _Codes(0, low, high, scale, zero))

    def _like(self, name: str, shape: Shape, value: _Codes) -> _Codes:
        """Another tensor of the same quantization; images have their channels last."""
        tensor = self._graph.tensor(self._name(name), self._style, (1, *_placed(shape)), value.scale, value.zero)
        return replace(value, tensor=tensor)

    def _too_wide(self, what: str) -> UnsupportedError:
        there = "export with --style int16" if self._style == "int8" else _ELSEWHERE
        return UnsupportedError(f"{what} do not fit {self._style}: {there}.")

    def _step(self, value: _Codes, shape: Shape) -> None:
        self._steps.append((value, len(shape) == 3))

    # Observation -> codes

    def _observation(self) -> tuple[int, _Codes]:
        g, of, shape = self._graph, self._input, self._policy.observation.shape
        image = len(shape) == 3
        # As it is given, channels first; ``_codes`` would take it for one with its channels last.
        value = self._codes(
            "observation" if self._ends == "integer" else "codes", _turned(shape), (of.low, of.high), 1.0
        )
        if self._ends == "integer":
            observation = value.tensor
        elif self._policy.observation.image and self._style == "int8" and of.zero_point is None:
            unit = float(np.float32(of.inverse_scale[0] / 255))
            observation = g.tensor("observation", "uint8", (1, *shape), unit)
            g.operate("QUANTIZE", 2, (observation,), value.tensor, "QuantizeOptions")
        else:
            observation, x = self._scaled(shape)
            g.operate("QUANTIZE", 2, (x,), value.tensor, "QuantizeOptions")
        value = replace(value, low=of.low, high=of.high)
        if image:
            value = self._transposed(value, shape, (0, 2, 3, 1))
        self._step(value, shape)
        return observation, value

    def _scaled(self, shape: Shape) -> tuple[int, int]:
        """The observation, and a float32 tensor of its codes before they are rounded, within their limits: kernels
        convert what is beyond int32 to anything."""
        g, of, transform = self._graph, self._input, self._policy.observation
        wide = (1, *shape)

        def on(kind: str, x: int, name: str, values: NDArray[np.float64]) -> int:
            with np.errstate(over="ignore"):
                constant = self._constant(name, values.astype(np.float32))
            return self._arithmetic(kind, x, constant, "scaled", shape)

        def of_features(values: NDArray[Any]) -> NDArray[np.float64]:
            return values.astype(np.float64).reshape(wide if values.size > 1 else (1,))

        factor = of_features(of.inverse_scale)
        least, most = np.full(1, float(of.low)), np.full(1, float(of.high))
        if transform.image:
            observation = g.tensor("observation", "uint8", wide)
            types = {"inDataType": UINT8, "outDataType": FLOAT32}
            x = g.operate("CAST", 1, (observation,), self._float("pixels", shape), "CastOptions", **types)
            factor = factor / 255
        else:
            observation = x = self._float("observation", shape)
        zeros = np.zeros(1) if of.zero_point is None else of_features(of.zero_point)
        if (normalization := transform.normalization) is not None:
            mean = normalization.mean.reshape(wide)
            x = on("SUB", x, "mean", near := mean.astype(np.float32).astype(np.float64))
            x = on("SUB", x, "mean_rest", mean - near) if (mean != near).any() else x
            reach = normalization.clip * factor
            least, most = np.clip(-reach - zeros, least, most), np.clip(reach - zeros, least, most)
            factor = factor / np.sqrt(normalization.var + normalization.epsilon).reshape(wide)
        x = on("MUL", x, "inverse_scale", factor)
        x = on("SUB", x, "zero_point", zeros) if zeros.any() else x
        return observation, on("MINIMUM", on("MAXIMUM", x, "least", least), "most", most)

    def _arithmetic(self, kind: str, x: int, y: int, name: str, shape: Shape) -> int:
        """Two float32 (or int32) tensors, the second of which may be broadcast."""
        options = {"MUL": "MulOptions", "SUB": "SubOptions", "ADD": "AddOptions"}.get(kind, "MaximumMinimumOptions")
        return self._graph.operate(kind, 1, (x, y), self._float(name, shape), options)

    def _transposed(self, value: _Codes, shape: Shape, axes: tuple[int, ...]) -> _Codes:
        given = self._like("turned", shape, value)
        order = self._constant("axes", np.array(axes, np.int32))
        version = 2 if self._style == "int8" else 4
        self._graph.operate("TRANSPOSE", version, (value.tensor, order), given.tensor, "TransposeOptions")
        return given

    # Codes -> codes

    def _ops(self, ops: tuple[Op, ...], value: _Codes, shape: Shape, scale: float = 1.0) -> tuple[_Codes, Shape]:
        """What ``ops`` make of codes; ``scale``: what one of the last layer's is best worth."""
        for index, op in enumerate(ops):
            value = self._op(op, value, shape, _worth(ops[index + 1 :], scale))
            shape = op.output_shape(shape)
            self._step(value, shape)
        return value, shape

    def _op(self, op: Op, value: _Codes, shape: Shape, scale: float) -> _Codes:
        match op:
            case Layer():
                if op.requantize is None:
                    raise UnsupportedError(f"A layer in the middle gives sums: {_ELSEWHERE}.")
                return self._requantized(op, value, shape, op.requantize, scale)
            case Relu():
                return self._clamped(value, shape, max(value.low, 0), max(value.high, 0))
            case Flatten():
                return self._flattened(value, shape)
            case MaxPool2d():
                return self._pooled(op, value, shape)
            case Activation():
                return self._activation(op, value, shape)
            case Residual():
                return self._residual(op, value, shape)
            case History() | Cell():
                raise _remembers()
            case LayerNorm():
                no_integers(op)
            case _:
                unknown(op)

    def _requantized(self, op: Layer, value: _Codes, shape: Shape, of: Requantization, scale: float) -> _Codes:
        ratio = np.ldexp(of.multiplier.astype(np.float64), -of.shift)
        if self._style == "int16" or of.low == 0:
            ratio = ratio * _HALVES_UP
        return self._layer(op, value, shape, ratio, scale, op.name or "layer", (of.low, of.high))

    def _layer(
        self, op: Layer, value: _Codes, shape: Shape, ratio: NDArray[Any], scale: float, name: str,
        limits: Range,
    ) -> _Codes:  # fmt: skip
        """The codes ``sum * ratio``, rounded, within ``limits``, each worth ``scale``."""
        g, wide = self._graph, op.output_shape(shape)
        reach = max(int(op.reach(value.low, value.high).max()), 1)
        if reach * max(float(np.max(ratio)), 1) >= 2**30:  # kernels shift a sum up first where its ratio is above 1
            raise UnsupportedError(f"The sums of a layer times their ratio do not fit int32: {_ELSEWHERE}.")
        spare = self._spare(op, reach)
        weight, ratio = op.weight << spare, ratio / 2**spare
        given = self._codes(name, wide, limits, scale)
        if op.is_conv:
            value = self._padded(value, shape, op.padding, 0)
            weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
        scales = (ratio * (scale / value.scale)).astype(np.float32)
        bias = (op.bias << spare).astype(np.int32 if self._style == "int8" else np.int64)
        inputs = (
            value.tensor,
            g.constant(self._name(f"{name}.weight"), weight, scales),
            g.constant(self._name(f"{name}.bias"), bias, scales * np.float32(value.scale)),
        )
        options: dict[str, Any] = {"fusedActivationFunction": NONE if limits[0] else RELU}
        if op.is_conv:
            options |= {"padding": VALID, "strideH": op.stride[0], "strideW": op.stride[1]}
            options |= {"dilationHFactor": 1, "dilationWFactor": 1}
            version = 3 if self._style == "int8" else 4
            g.operate("CONV_2D", version, inputs, given.tensor, "Conv2DOptions", **options)
        else:
            version = 7 if self._style == "int16" else 12 if len(scales) > 1 else 4
            g.operate("FULLY_CONNECTED", version, inputs, given.tensor, "FullyConnectedOptions", **options)
        given = given if limits[0] else replace(given, low=0)
        return self._clamped(given, wide, *limits)

    def _spare(self, op: Layer, reach: int) -> int:
        """By how many bits the weights of int8 can be shifted up: kernels that round twice, first the product of a sum
        and a multiplier, lose so many bits less by it."""
        if self._style == "int16":
            return 0
        room = 127 // max(int(np.abs(op.weight).max()), 1), 2**30 // reach
        return min(room).bit_length() - 1

    def _clamped(self, value: _Codes, shape: Shape, low: int, high: int) -> _Codes:
        """The same codes within limits, by operators where what is in front does not keep them."""
        for kind, limit, needed in (("MAXIMUM", low, value.low < low), ("MINIMUM", high, value.high > high)):
            if needed:
                given = self._like("clipped", shape, value)
                code = np.array([limit + value.zero], self._style)
                constant = self._graph.constant(
                    self._name("limit"), code, np.array([value.scale], np.float32), value.zero
                )
                version = 2 if self._style == "int8" else 4
                inputs = (value.tensor, constant)
                self._graph.operate(kind, version, inputs, given.tensor, "MaximumMinimumOptions")
                value = given
        return replace(value, low=max(low, value.low), high=min(high, value.high))

    def _flattened(self, value: _Codes, shape: Shape) -> _Codes:
        if len(shape) == 1:
            return value
        turned = self._transposed(value, _turned(shape), (0, 3, 1, 2)) if len(shape) == 3 else value
        size = int(np.prod(shape))
        given = self._like("flat", (size,), value)
        wanted = self._constant("size", np.array([-1, size], np.int32))
        self._graph.operate("RESHAPE", 1, (turned.tensor, wanted), given.tensor, "ReshapeOptions")
        return given

    def _pooled(self, op: MaxPool2d, value: _Codes, shape: Shape) -> _Codes:
        value = self._padded(value, shape, op.padding, self._type.min - value.zero)
        given = self._like("pooled", op.output_shape(shape), value)
        sides = {"strideH": op.stride[0], "strideW": op.stride[1]}
        sides |= {"filterHeight": op.kernel[0], "filterWidth": op.kernel[1], "padding": VALID}
        version = 2 if self._style == "int8" else 3
        self._graph.operate("MAX_POOL_2D", version, (value.tensor,), given.tensor, "Pool2DOptions", **sides)
        return given

    def _padded(self, value: _Codes, shape: Shape, padding: tuple[int, int], code: int) -> _Codes:
        """An image (channels, height, width) with ``code`` around it."""
        if not any(padding):
            return value
        g = self._graph
        sides = tuple(size + 2 * more for size, more in zip(shape[1:], padding, strict=True))
        given = self._like("padded", (shape[0], *sides), value)
        pairs = self._constant("paddings", np.array([[0, 0], *([one, one] for one in padding), [0, 0]], np.int32))
        filled = np.array([code + value.zero], self._style)
        constant = g.constant(self._name("filled"), filled, np.array([value.scale], np.float32), value.zero)
        version = 2 if self._style == "int8" else 3
        g.operate("PADV2", version, (value.tensor, pairs, constant), given.tensor, "PadV2Options")
        return given

    def _activation(self, op: Activation, value: _Codes, shape: Shape) -> _Codes:
        g, found = self._graph, op.lookup
        if self._style == "int8":
            raise self._too_wide(f"Codes from {-op.limit} to {op.limit} in front of {op.function}")
        given = replace(
            self._codes(op.function, shape, (op.low, op.high), float(found.scale)), low=op.low, high=op.high
        )
        kernel = _INT16.get(op.function)
        if kernel is not None and value.scale == op.unit:
            fine = self._like(op.function, shape, replace(value, scale=2.0**-15))
            g.operate(kernel, 3, (value.tensor,), fine.tensor)
            g.operate("QUANTIZE", 2, (fine.tensor,), given.tensor, "QuantizeOptions")
            return given
        shape = _placed(shape)
        x = self._dequantized(value, shape)
        if value.scale != op.unit:
            x = self._arithmetic(
                "MUL", x, self._constant("unit", np.array([op.unit / value.scale], np.float32)), "scaled", shape
            )
        g.operate("QUANTIZE", 2, (self._function(op, x, shape),), given.tensor, "QuantizeOptions")
        return given

    def _function(self, op: Activation, x: int, shape: Shape) -> int:
        """``op`` of float32 values."""

        def call(kind: str, options: str = "", x: int = x, **of: Any) -> int:
            return self._graph.operate(kind, 1, (x,), self._float(op.function, shape), options, **of)

        def on(kind: str, x: int, y: int | NDArray[Any]) -> int:
            y = y if isinstance(y, int) else self._constant("constant", y)
            return self._arithmetic(kind, x, y, op.function, shape)

        match op.function:
            case "tanh":
                return call("TANH")
            case "sigmoid":
                return call("LOGISTIC")
            case "leaky_relu":
                return call("LEAKY_RELU", "LeakyReluOptions", alpha=op.parameters[0])
            case "elu":  # LiteRT's reference kernels have no ELU
                zero, one, factor = (np.array([value], np.float32) for value in (0, -1, op.parameters[0]))
                below = call("EXP", x=on("MINIMUM", x, zero))
                return on("ADD", on("MAXIMUM", x, zero), on("MUL", on("ADD", below, one), factor))
            case "silu":
                return on("MUL", x, call("LOGISTIC"))
            case "gelu" | "gelu_tanh":
                return call("GELU", "GeluOptions", approximate=op.function == "gelu_tanh")
            case "hardswish":
                return call("HARD_SWISH")
            case _:
                named = f"{op.function}{op.parameters or ''}"
                raise UnsupportedError(f"{named} is no operator of TensorFlow Lite that is used here: {_ELSEWHERE}.")

    def _dequantized(self, value: _Codes, shape: Shape) -> int:
        version = 2 if self._style == "int8" else 3
        real = self._float("real", shape)
        return self._graph.operate("DEQUANTIZE", version, (value.tensor,), real, "DequantizeOptions")

    def _worth(self, value: _Codes, shape: Shape, scale: float) -> _Codes:
        """The same codes, each worth ``scale``."""
        if np.isclose(value.scale, scale, rtol=1e-6, atol=0):
            return value
        place = _placed(shape)
        factor = self._constant("factor", np.array([scale / value.scale], np.float32))
        x = self._arithmetic("MUL", self._dequantized(value, place), factor, "scaled", place)
        given = self._like("rescaled", shape, replace(value, scale=float(np.float32(scale))))
        self._graph.operate("QUANTIZE", 2, (x,), given.tensor, "QuantizeOptions")
        return given

    def _residual(self, op: Residual, value: _Codes, shape: Shape) -> _Codes:
        """The sum of two tensors, whose scales stand for the policy's two ratios; it is rounded once."""
        assert op.skip is not None
        assert op.branch is not None
        if self._style == "int8":
            raise self._too_wide("The operands of a residual block")
        *front, last = op.body
        sums = isinstance(last, Layer) and last.requantize is None
        if op.skip.multiplier.size * op.skip.shift.size > 1 or (not sums and op.branch.multiplier.size > 1):
            raise UnsupportedError(f"A residual block has a ratio for each channel: {_ELSEWHERE}.")
        scale = float(np.float32(value.scale / np.ldexp(float(op.skip.multiplier[0]), -int(op.skip.shift[0]))))
        if sums and isinstance(last, Layer):
            inner, inside = self._ops(tuple(front), value, shape, 1.0)
            branch = self._requantized(last, inner, inside, replace(op.branch, low=-(2**15), high=2**15 - 1), scale)
            self._step(branch, shape)
        else:
            ratio = float(np.ldexp(float(op.branch.multiplier[0]), -int(op.branch.shift[0])))
            branch, _ = self._ops(op.body, value, shape, ratio * scale)
            branch = self._worth(branch, shape, ratio * scale)
        given = self._codes("sum", shape, (op.low, op.high), scale)
        options = {"fusedActivationFunction": NONE if op.low else RELU, "potScaleInt16": False}
        self._graph.operate("ADD", 3, (value.tensor, branch.tensor), given.tensor, "AddOptions", **options)
        given = given if op.low else replace(given, low=0)
        return self._clamped(given, shape, op.low, op.high)

    # Codes -> outputs and action

    def _range(self, last: Layer, value: _Codes) -> Output:
        """What a code of the outputs is worth: they reach as far as an action can tell, or as in the test
        vectors."""
        action, limit, vectors = self._policy.action, self._type.max, self._policy.test_vectors
        met = np.inf if vectors is None else float(np.abs(vectors.outputs).max())
        reach = float((last.reach(value.low, value.high) * last.scale.astype(np.float64)).max())
        if action.kind == "box" and action.squash:
            reach = min(reach, _TANH_SPAN[self._style])
        elif action.kind == "box":
            bound = float(np.abs(np.array([action.low, action.high])).max())
            reach = min(reach, bound if np.isfinite(bound) else met)
        else:
            reach = min(reach, met)
        return Output(float(np.float32((reach or 1.0) / limit)), limit)

    def _outputs(self, last: Layer, value: _Codes) -> int:
        """The last layer in float32, where its sums are the policy's integers while they are below 2^24."""
        g, shape = self._graph, (len(last.weight),)
        inputs = (
            self._dequantized(value, last.weight.shape[1:]),
            self._constant(f"{last.name}.weight", last.weight.astype(np.float32)),
            self._constant(f"{last.name}.bias", (last.bias * value.scale).astype(np.float32)),
        )
        options = {"fusedActivationFunction": RELU if last.relu else NONE}
        sums = g.operate("FULLY_CONNECTED", 1, inputs, self._float("sums", shape), "FullyConnectedOptions", **options)
        scale = self._constant("scale", (last.scale / value.scale).astype(np.float32))
        return self._arithmetic("MUL", sums, scale, "outputs", shape)

    def _action(self, transform: ActionTransform, outputs: int) -> int:
        """float32 for a box, else int32: TensorFlow Lite for Microcontrollers has no other indices."""
        match transform.kind:
            case "discrete":
                return self._chosen(outputs, transform.start, "action")
            case "multi-discrete":
                return self._groups(transform, outputs)
            case "multi-binary":
                return self._above_zero(outputs)
            case "box":
                return self._box(transform, outputs)
            case _:
                unknown(transform.kind)

    def _chosen(self, outputs: int, start: int, name: str) -> int:
        """The index of the largest output, the first among equals, plus ``start``."""
        g = self._graph
        axis = self._constant("axis", np.array([1], np.int32))
        index = g.tensor(self._name("choice" if start else name), "int32", (1,))
        g.operate("ARG_MAX", 1, (outputs, axis), index, "ArgMaxOptions", outputType=INT32)
        if not start:
            return index
        action = g.tensor(self._name(name), "int32", (1,))
        return g.operate("ADD", 1, (index, self._constant("start", np.array([start], np.int32))), action, "AddOptions")

    def _groups(self, transform: ActionTransform, outputs: int) -> int:
        g, begins, chosen = self._graph, np.cumsum([0, *transform.nvec]), []
        for begin, size in zip(begins, transform.nvec, strict=False):
            place = self._constant("begin", np.array([0, begin], np.int32))
            part = self._constant("size", np.array([-1, size], np.int32))
            group = g.operate("SLICE", 1, (outputs, place, part), self._float("group", (size,)), "SliceOptions")
            chosen.append(self._chosen(group, 0, "choice"))
        action = g.tensor("action", "int32", (1, len(chosen)))
        return g.operate("PACK", 1, tuple(chosen), action, "PackOptions", valuesCount=len(chosen), axis=1)

    def _above_zero(self, outputs: int) -> int:
        g, shape = self._graph, self._policy.action.shape
        above, action = g.tensor("above", "bool", (1, *shape)), g.tensor("action", "int32", (1, *shape))
        zero = self._constant("zero", np.zeros(1, np.float32))
        g.operate("GREATER", 1, (outputs, zero), above, "GreaterOptions")
        return g.operate("CAST", 1, (above,), action, "CastOptions", inDataType=BOOL, outDataType=INT32)

    def _box(self, transform: ActionTransform, outputs: int) -> int:
        g, y, shape = self._graph, outputs, transform.shape
        assert transform.low is not None
        assert transform.high is not None
        low, high = (bound.reshape(1, *shape) for bound in (transform.low, transform.high))
        if len(shape) != 1:
            wanted = self._constant("size", np.array([-1, *shape], np.int32))
            y = g.operate("RESHAPE", 1, (y, wanted), self._float("shaped", shape), "ReshapeOptions")
        steps = [("MAXIMUM", low), ("MINIMUM", high)]
        if transform.squash:
            y = g.operate("TANH", 1, (y,), self._float("tanh", shape))
            half = np.full(1, 0.5, np.float32)
            steps = [("ADD", np.ones(1, np.float32)), ("MUL", half), ("MUL", high - low), ("ADD", low)]
        for index, (kind, values) in enumerate(steps):
            name = "action" if index + 1 == len(steps) else "squashed"
            y = self._arithmetic(kind, y, self._constant("bound", values), name, shape)
        return y


def _remembers() -> UnsupportedError:
    return UnsupportedError(f"A policy that remembers has no form of TensorFlow Lite here: {_ELSEWHERE}.")


def _placed(shape: Shape) -> Shape:
    """The shape of a tensor for one of the policy's: images have their channels last."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _turned(shape: Shape) -> Shape:
    """What stands for an image with its channels first where images have theirs last."""
    return (shape[2], shape[0], shape[1]) if len(shape) == 3 else shape


def _worth(later: tuple[Op, ...], scale: float) -> float:
    """What a layer's codes are best worth: what the activation behind it takes, a power of two in front of others, and
    ``scale`` at the end."""
    for op in later:
        if isinstance(op, Activation):
            return op.unit
        if not isinstance(op, Relu | MaxPool2d | Flatten):
            return 1.0
    return scale
