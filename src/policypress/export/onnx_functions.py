"""Elementwise float32 functions as nodes: operation for operation as the reference computes them, or by the operators
that ONNX has for them. Both are read from the table in ``activations.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from policypress.errors import unknown
from policypress.export.onnx_graph import Graph, Style, clip
from policypress.policy import activations
from policypress.policy.ops import Activation


def activate(graph: Graph, op: Activation, x: str, style: Style) -> str:
    """``op`` of the float32 tensor ``x``; in style "exact" with the reference's bits but for the sign of zero."""
    row = activations.FUNCTIONS[op.function]
    match style:
        case "exact":
            return str(row.formula(Formulas(graph), Value(graph, x), *op.parameters).tensor)
        case "qdq":
            return str(row.onnx(_operators(graph), x, *op.parameters))
        case _:
            unknown(style)


def tanh(graph: Graph, x: str, style: Style) -> str:
    """Hyperbolic tangent, as ``activate`` does."""
    return activate(graph, Activation("tanh"), x, style)


def _operators(graph: Graph) -> Any:
    """What adds a node for ``Function.onnx``: numbers among the inputs become constants."""

    def add(kind: str, *inputs: str | float, **attributes: Any) -> str:
        tensors = [x if isinstance(x, str) else graph.constant(np.float32(x)) for x in inputs]
        return str(graph.op(kind, *tensors, **attributes))

    return add


class Value:
    """A ``tensor`` in the place of an array: what a formula does with it becomes nodes. Constants are of ``dtype``."""

    def __init__(self, graph: Graph, tensor: str, dtype: type[np.generic] = np.float32) -> None:
        self.graph, self.tensor, self.dtype = graph, tensor, dtype

    def _node(self, kind: str, *inputs: Value | float) -> Value:
        names = [x.tensor if isinstance(x, Value) else self.graph.constant(self.dtype(x)) for x in inputs]
        return Value(self.graph, self.graph.op(kind, *names), self.dtype)

    def __add__(self, other: Value | float) -> Value:
        return self._node("Add", self, other)

    def __radd__(self, other: float) -> Value:
        return self._node("Add", other, self)

    def __sub__(self, other: Value | float) -> Value:
        return self._node("Sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self._node("Sub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self._node("Mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self._node("Mul", other, self)

    def __truediv__(self, other: Value | float) -> Value:
        return self._node("Div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self._node("Div", other, self)

    def __lt__(self, other: Value | float) -> Value:
        return self._node("Less", self, other)

    def __gt__(self, other: Value | float) -> Value:
        return self._node("Greater", self, other)


class Formulas:
    """The namespace ``m`` of formulas for tensors of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def abs(self, x: Value) -> Value:
        return Value(self.graph, self.graph.op("Abs", x.tensor))

    def where(self, condition: Value, then: Value | float, otherwise: Value | float) -> Value:
        return condition._node("Where", condition, then, otherwise)

    def mean(self, x: Value) -> Value:
        """Of each vector of a batch."""
        return Value(self.graph, self.graph.op("ReduceMean", x.tensor, axes=[1], keepdims=1))

    def sqrt(self, x: Value) -> Value:
        return Value(self.graph, self.graph.op("Sqrt", x.tensor))

    def tanh(self, x: Value) -> Value:
        """``activations.tanh``, operation for operation."""
        g = self.graph
        a = x._node("Min", self.abs(x), float(activations.TANH_LIMIT))

        z = a * a
        small = a + a * (z * activations.horner(activations.TANH_SMALL, z))

        y = a + a
        n = x._node("Floor", y * float(activations.LOG2_E) + 0.5)
        s = (n * float(activations.LN2_HIGH) - y) + n * float(activations.LN2_LOW)
        e = (s + (s * s) * activations.horner(activations.EXP_TAIL, s)) + 1.0
        last = int(2 * activations.TANH_LIMIT * activations.LOG2_E + 0.5)
        powers = np.ldexp(np.ones(last + 1, np.float32), -np.arange(last + 1))
        place = clip(g, g.cast(n.tensor, np.int32), np.int32(0), np.int32(last))  # NaN has no place of its own
        e = e * Value(g, g.op("Gather", g.constant(powers, "powers"), place))
        large = 1.0 - (e + e) / (1.0 + e)

        magnitude = self.where(a < float(activations.TANH_SPLIT), small, large)
        return self.where(x < 0.0, x._node("Neg", magnitude), magnitude)
