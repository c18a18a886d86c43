"""Integer numerics in style "qdq": float layers between quantized tensors, as compilers for accelerators read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError, unknown
from policypress.export.onnx_ends import scaled_input, shifted_input
from policypress.export.onnx_functions import activate
from policypress.export.onnx_graph import Graph, clip, dequantized, layer_node, max_pool, per_channel, ratio
from policypress.policy import activations
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
    Residual,
    Shape,
    no_integers,
)
from policypress.policy.policy import Policy

_HALVES_UP = 1 + 2.0**-22
"""Makes positive halves, which QuantizeLinear takes to even, a little larger, so that they go up as in the policy."""


@dataclass(frozen=True)
class _Quantized:
    """Codes in [low, high], dequantized: a float32 tensor of ``codes * scale``."""

    tensor: str
    low: int
    high: int
    scale: float


class QdqIntegers:
    """Float layers between quantized tensors, whose scales say what a code is worth.

    One unit of a requantized code is worth 1 (1/high behind a Tanh, and what spares the skip of a residual block a
    product), so that the weights' scales are the requantization's ratios. Codes that do not fit 8 bits, as those in
    front of a Tanh, stay float32, rounded: 16-bit quantized tensors need opset 21 and few runtimes have them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._spare = 1

    def network(self, policy: Policy, quantization: InputQuantization, x: str) -> str:
        g = self.graph
        with g.scope("input"):
            x = scaled_input(g, policy, quantization, x)
            if quantization.zero_point is not None:
                x = shifted_input(g, policy, quantization, g.op("Round", x))
            low, high = quantization.low, quantization.high
            x = clip(g, x, np.float32(low), np.float32(high))
            # QuantizeLinear rounds too, but OpenVINO fuses it with the Clip and the Mul in front, wrongly.
            value = self._codes(g.op("Round", x), low, high)
        self._spare = int(all(layer.reach(-128, 127).max() < 2**31 for layer in policy.layers))
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
                return self._activation(op, value)
            case Relu():
                limits = max(value.low, 0), max(value.high, 1)
                return self._codes(g.op("Relu", value.tensor), *limits, value.scale)
            case MaxPool2d():
                return self._codes(max_pool(g, op, value.tensor), value.low, value.high, value.scale)
            case LayerNorm():
                no_integers(op)
            case Flatten():
                return self._codes(g.op("Flatten", value.tensor), value.low, value.high, value.scale)
            case Layer():
                return self._requantized(op, value)
            case History() | Cell():
                raise UnsupportedError(
                    "Style qdq has no form of a recurrent cell or a history: export with style exact."
                )
            case _:
                unknown(op)

    def _activation(self, op: Activation, value: _Quantized) -> _Quantized:
        g = self.graph
        found, scale = op.lookup, float(op.lookup.scale)
        x = value.tensor
        if (value.low, value.high) == (-127, 127):  # -128 may occur, see ``_rounded``, but has no place in the table
            x = clip(g, x, np.float32(-127 * value.scale), np.float32(127 * value.scale))
        x = g.op("Mul", x, g.constant(np.float32(op.unit / value.scale)))
        y = activate(g, op.as_float, x, "qdq")
        if found.high - found.low < 255 and not activations.FUNCTIONS[op.function].odd:
            y = clip(g, y, np.float32(found.low * scale), np.float32(found.high * scale))
        return self._codes(y, found.low, found.high, scale)

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
        constant = self.graph.constant(per_channel(factor.astype(np.float32), ndim), "ratio")
        return str(self.graph.op("Mul", tensor, constant))

    def _layer(self, layer: Layer, value: _Quantized, unit: NDArray[np.float64]) -> str:
        """float32 ``accumulators * unit``, negative ones 0 if the layer has a ReLU and no requantization."""
        g = self.graph
        scale = (unit / value.scale).astype(np.float32)
        weight = dequantized(g, layer.weight, scale, "weight")
        bias = dequantized(g, layer.bias, scale * np.float32(value.scale), "bias")
        tensor = layer_node(g, layer, value.tensor, weight, bias)
        return str(g.op("Relu", tensor)) if layer.relu and layer.requantize is None else tensor

    def _rounded(self, tensor: str, low: int, high: int, scale: float = 1.0) -> _Quantized:
        """``tensor`` rounded to multiples of ``scale`` and clipped; ``scale`` is 1 if the codes do not fit 8 bits.

        Symmetric limits of all 8 bits are left to the type, which goes one unit further down: a Clip would keep the
        layer in front from being fused. Not where an accumulator does not bear that unit.
        """
        g = self.graph
        info = _type(low, high)
        if info is None:
            tensor = g.op("Floor", g.op("Add", tensor, g.constant(np.float32(0.5))))
        if info is None or high < info.max or low > info.min + self._spare:
            tensor = clip(g, tensor, np.float32(low * scale), np.float32(high * scale))
        return self._codes(tensor, low, high, scale)

    def _codes(self, tensor: str, low: int, high: int, scale: float = 1.0) -> _Quantized:
        """``tensor``, known to lie within the limits, quantized and dequantized; as it is if it holds wide codes."""
        g = self.graph
        info = _type(low, high)
        if info is None:
            g.step(tensor)
            return _Quantized(tensor, low, high, scale)
        zero = -low if low < info.min else 0
        parameters = g.constant(np.float32(scale)), g.constant(np.array(zero, info.dtype))
        codes = g.op("QuantizeLinear", tensor, *parameters)
        g.step(codes, zero)
        return _Quantized(g.op("DequantizeLinear", codes, *parameters), low, high, scale)


def _type(low: int, high: int) -> np.iinfo[Any] | None:
    """The 8-bit type that holds [low, high], uint8 with a zero point where neither does as it is; None for wider ones.

    Raises UnsupportedError above 16 bits.
    """
    if not -(2**15) <= low <= high < 2**16 or (low < 0 and high >= 2**15):
        raise UnsupportedError(f'Codes in [{low}, {high}] do not fit 16 bits: export with style="exact".')
    plain = (info for info in map(np.iinfo, (np.int8, np.uint8)) if info.min <= low and high <= info.max)
    return next(plain, np.iinfo(np.uint8) if high - low <= 255 and -255 <= low < 0 else None)
