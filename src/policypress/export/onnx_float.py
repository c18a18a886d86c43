"""Weight-only and float numerics: activations are float32 tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policypress.errors import unknown
from policypress.export.onnx_functions import Formulas, Value, activate
from policypress.export.onnx_graph import Graph, Style, dequantized, layer_node, max_pool, per_channel
from policypress.export.onnx_state import States, gates
from policypress.policy import cells, norms
from policypress.policy.ops import (
    CELLS,
    FLOAT_BITS,
    Activation,
    Cell,
    Flatten,
    History,
    Layer,
    LayerNorm,
    MaxPool2d,
    Op,
    Relu,
    Residual,
)


class Floats:
    """Weight-only and float numerics. "exact" sums integers first and scales then, as the reference does."""

    def __init__(self, graph: Graph, style: Style, states: States) -> None:
        self.graph = graph
        self.style = style
        self.states = states

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
                        x = activate(g, op, x, self.style)
                    case LayerNorm():
                        weight, bias = (Value(g, g.constant(values)) for values in (op.weight, op.bias))
                        x = norms.layer_norm(Formulas(g), Value(g, x), weight, bias, op.epsilon).tensor
                    case MaxPool2d():
                        x = max_pool(g, op, x)
                    case Flatten():
                        x = g.op("Flatten", x)
                    case Residual():
                        x = g.op("Add", x, self.ops(op.body, x))
                    case History():
                        x = self.states.history(x)
                    case Cell():
                        x = self._cell(op, x)
                    case _:
                        unknown(op)
        return x

    def _cell(self, op: Cell, x: str) -> str:
        g = self.graph
        before = self.states.recall(op)
        layers = self._layer(op.input, x), self._layer(op.recurrent, before[0])
        taken, recalled = ([Value(g, part) for part in gates(g, op, layer)] for layer in layers)
        after = cells.of_floats(
            op.kind,
            lambda value: Value(g, activate(g, op.sigmoid, value.tensor, self.style)),
            lambda value: Value(g, activate(g, op.tanh, value.tensor, self.style)),
            taken,
            recalled,
            [Value(g, part) for part in before],
        )
        self.states.keep(*(value.tensor for value in after))
        return str(after[0].tensor)

    def _layer(self, layer: Layer, x: str) -> str:
        g = self.graph
        if layer.weight_bits == FLOAT_BITS:
            return layer_node(g, layer, x, g.constant(layer.weight, "weight"), g.constant(layer.bias, "bias"))
        if self.style == "qdq":
            weight = dequantized(g, layer.weight, layer.scale, "weight")
            return layer_node(g, layer, x, weight, g.constant(layer.bias, "bias"))
        sums = layer_node(g, layer, x, g.cast(g.constant(layer.weight, "weight"), np.float32))
        ndim = layer.weight.ndim - 1
        scaled = g.op("Mul", sums, g.constant(per_channel(layer.scale, ndim), "scale"))
        return str(g.op("Add", scaled, g.constant(per_channel(layer.bias, ndim), "bias")))


_ORDERS = {"gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
"""Where the gates of ONNX's order, zrh and iofc, are among ``CELLS``'."""


class Converted(Floats):
    """Float numerics as converters of other frameworks write them: a recurrent cell is one operator."""

    def _cell(self, op: Cell, x: str) -> str:
        g = self.graph
        before = self.states.recall(op)

        def ordered(values: NDArray[np.float32]) -> NDArray[np.float32]:
            gates = np.split(values, len(CELLS[op.kind].gates))
            return np.concatenate([gates[place] for place in _ORDERS[op.kind]])[None]

        weights = [g.constant(ordered(layer.weight), "weight") for layer in op.children]
        bias = g.constant(np.concatenate([ordered(layer.bias) for layer in op.children], axis=1), "bias")
        first = g.constant(np.zeros(1, np.int64))
        taken, *state = (g.op("Unsqueeze", tensor, first) for tensor in (x, *before))
        words = {"linear_before_reset": 1} if op.kind == "gru" else {}
        _, *after = g.op(
            op.kind.upper(), taken, *weights, bias, "", *state, outputs=1 + len(state), hidden_size=op.units, **words
        )
        kept = [str(g.op("Squeeze", tensor, first)) for tensor in after]
        self.states.keep(*kept)
        return kept[0]
