"""Both ends of the graph: raw observation to the network's float32 input, and the network's outputs to the action."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import unknown
from policypress.export.onnx_functions import tanh
from policypress.export.onnx_graph import Graph, Style, clip
from policypress.policy.contract import ActionTransform, Normalization
from policypress.policy.ops import InputQuantization
from policypress.policy.policy import Policy

_NEAR = 2.0**-12
"""How far, in standard deviations, a normalization in float32 may be from one in float64."""


# Observation -> float32


def observe(graph: Graph, policy: Policy, style: Style) -> str:
    transform = policy.observation
    normalization = transform.normalization
    x = "observation"
    if normalization is not None and normalization_error(policy, style) is None:
        x = graph.cast(x, np.float64) if transform.dtype != "float64" else x
        x = graph.op("Sub", x, graph.constant(normalization.mean, "mean"))
        x = graph.op("Div", x, graph.constant(_deviation(normalization), "deviation"))
        x = clip(graph, x, np.float64(-normalization.clip), np.float64(normalization.clip))
        return graph.cast(x, np.float32)
    if transform.dtype != "float32":
        x = graph.cast(x, np.float32)
    if normalization is not None:
        high = normalization.mean.astype(np.float32)
        low = (normalization.mean - high).astype(np.float32)
        x = graph.op("Sub", graph.op("Sub", x, graph.constant(high, "mean")), graph.constant(low, "mean_rest"))
        x = graph.op("Div", x, graph.constant(_deviation(normalization).astype(np.float32), "deviation"))
        x = clip(graph, x, np.float32(-normalization.clip), np.float32(normalization.clip))
    return graph.op("Div", x, graph.constant(np.float32(255))) if transform.image else x


def _deviation(normalization: Normalization) -> NDArray[np.float64]:
    return np.sqrt(normalization.var + normalization.epsilon)


def normalization_error(policy: Policy, style: Style) -> NDArray[np.float64] | None:
    """How far the graph's normalized observation may be from the policy's, for each feature; None if not at all.

    float32 observations are normalized in float32, so that there is no double in the graph, if that is within
    ``_NEAR`` and a quarter of an input code. The mean is two float32 numbers, and the first difference is exact near
    it: six roundings of at most twice ``clip`` are left. Further out both forms are clipped. Style "exact" does so
    where it can put the codes right (``ExactIntegers._corrected``): those of 8 bits without zero points.
    """
    normalization = policy.observation.normalization
    if normalization is None or policy.observation.dtype != "float32":
        return None
    wide = policy.input is None or policy.input.high - policy.input.low > 255 or policy.input.zero_point is not None
    if style == "exact" and wide:
        return None
    deviation = _deviation(normalization)
    error = 2.0**-24 * 16 * normalization.clip + 2.0**-48 * np.abs(normalization.mean) / deviation
    code = 1.0 if policy.input is None else of_features(policy.input.inverse_scale, deviation.shape)
    held = (deviation > 1e-37) & (np.maximum(deviation, np.abs(normalization.mean)) < 1e38)  # by float32
    near = held & (error <= _NEAR) & (error * code <= 0.25)
    return error if near.all() else None


def scaled_input(graph: Graph, policy: Policy, quantization: InputQuantization, x: str) -> str:
    inverse_scale = of_features(quantization.inverse_scale, policy.observation.shape)
    return str(graph.op("Mul", x, graph.constant(inverse_scale, "inverse_scale")))


def of_features(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """One value, or one a feature in the shape of an observation."""
    return values.reshape(shape) if values.size > 1 else values


def shifted_input(graph: Graph, policy: Policy, quantization: InputQuantization, x: str) -> str:
    if quantization.zero_point is None:
        return x
    zeros = of_features(quantization.zero_point.astype(np.float32), policy.observation.shape)
    return str(graph.op("Sub", x, graph.constant(zeros, "zero_point")))


# Outputs -> action


def act(graph: Graph, transform: ActionTransform, outputs: str, style: Style) -> str:
    """The action that the tensor ``outputs`` (batch, outputs) stands for."""
    g = graph
    match transform.kind:
        case "discrete":
            choice = g.op("ArgMax", outputs, axis=1, keepdims=0)
            return str(g.op("Add", choice, g.constant(np.int64(transform.start))))
        case "multi-discrete":
            sizes = g.constant(np.array(transform.nvec, np.int64), "nvec")
            groups = g.op("Split", outputs, sizes, outputs=len(transform.nvec), axis=1)
            groups = groups if isinstance(groups, list) else [groups]
            return str(g.op("Concat", *(g.op("ArgMax", group, axis=1, keepdims=1) for group in groups), axis=1))
        case "multi-binary":
            return g.cast(g.op("Greater", outputs, g.constant(np.float32(0))), transform.dtype)
        case "box":
            return _box(g, transform, outputs, style)
        case _:
            unknown(transform.kind)


def _box(g: Graph, transform: ActionTransform, outputs: str, style: Style) -> str:
    assert transform.low is not None
    assert transform.high is not None
    y = outputs
    if len(transform.shape) != 1:
        shape = np.array([-1, *transform.shape], np.int64)
        y = g.op("Reshape", y, g.constant(shape, "shape"))
    low = g.constant(transform.low, "low")
    if transform.squash:
        half = g.op("Add", tanh(g, y, style), g.constant(np.float32(1)))
        half = g.op("Mul", half, g.constant(np.float32(0.5)))
        y = g.op("Add", low, g.op("Mul", half, g.constant(transform.high - transform.low, "span")))
    else:
        y = g.op("Min", g.op("Max", y, low), g.constant(transform.high, "high"))
    return g.cast(y, transform.dtype) if transform.dtype != "float32" else y
