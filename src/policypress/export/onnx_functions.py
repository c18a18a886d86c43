"""float32 functions as nodes: operation for operation as the reference computes them, or the operators of ONNX."""

from __future__ import annotations

import numpy as np

from policypress.export.onnx_graph import Graph, Style, clip
from policypress.policy import reference


def tanh(graph: Graph, x: str, style: Style) -> str:
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

    a = g.op("Min", g.op("Abs", x), f(reference.TANH_LIMIT))

    z = g.op("Mul", a, a)
    small = g.op("Add", a, g.op("Mul", a, g.op("Mul", z, horner(reference.TANH_SMALL, z))))

    y = g.op("Add", a, a)
    n = g.op("Floor", g.op("Add", g.op("Mul", y, f(reference.LOG2_E)), f(0.5)))
    s = g.op("Add", g.op("Sub", g.op("Mul", n, f(reference.LN2_HIGH)), y), g.op("Mul", n, f(reference.LN2_LOW)))
    e = g.op("Add", g.op("Add", s, g.op("Mul", g.op("Mul", s, s), horner(reference.EXP_TAIL, s))), f(1))
    last = int(2 * reference.TANH_LIMIT * reference.LOG2_E + 0.5)
    powers = np.ldexp(np.ones(last + 1, np.float32), -np.arange(last + 1))
    place = clip(g, g.cast(n, np.int32), np.int32(0), np.int32(last))  # NaN has no place of its own
    e = g.op("Mul", e, g.op("Gather", g.constant(powers, "powers"), place))
    large = g.op("Sub", f(1), g.op("Div", g.op("Add", e, e), g.op("Add", f(1), e)))

    magnitude = g.op("Where", g.op("Less", a, f(reference.TANH_SPLIT)), small, large)
    return str(g.op("Where", g.op("Less", x, f(0)), g.op("Neg", magnitude), magnitude))
