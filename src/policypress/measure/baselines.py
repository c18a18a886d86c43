"""The networks that a policy is compared with: its own in float32, and the dense one that it stands for.

Both are float Policies, with the observations and actions of the policy itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, UnsupportedError, unknown
from policypress.policy.ops import (
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
    Requantization,
    Residual,
    Shape,
    no_integers,
    parameters_of,
)
from policypress.policy.policy import Policy

Unit = NDArray[np.float64]
"""What one code is worth in real units, of shape (1,) or (channels,)."""

_MAX_WIDTH = 4096
_RATIO_ERROR = 1 / 32
"""Of a requantization, whose multiplier is at least 16: units so near are the same."""
_USUAL_HIDDEN = ((400, 300), (512,), (32, 64, 64, 512))
"""Widths of Stable-Baselines3's defaults that are not all alike: TD3's, and those of its network for images."""


def parameters(policy: Policy) -> int:
    """Number of weights, zeros included, and biases."""
    return parameters_of(policy.ops)


def describe(policy: Policy) -> str:
    """Sizes of observation and layers, for example ``17-256-256-6`` or ``4x84x84-32-64-64-512-18``."""
    shape = "x".join(map(str, policy.observation.shape))
    return "-".join([shape, *(str(len(layer.weight)) for layer in policy.layers)])


# The policy's own network


def as_float(policy: Policy) -> Policy:
    """The policy's network in float numerics, every weight dequantized, zeros included.

    In integer numerics hidden activations keep the codes' unit, because requantizations fix their ratios alone; what
    the codes round and clip is not imitated. Raises UnsupportedError for a residual block whose body does not end in
    a layer.
    """
    unit = np.ones(1) if policy.input is None else 1 / policy.input.inverse_scale.astype(np.float64)
    ops = (
        _float_ops(_without_zero_points(policy), unit, None)[0]
        if policy.input is not None
        else _float_weights(policy.ops)
    )
    return dataclasses.replace(policy, ops=ops, input=None, test_vectors=None)


def _without_zero_points(policy: Policy) -> tuple[Op, ...]:
    """The operations, with what the input's zero points take off in the bias of the first layer."""
    if policy.input is None or policy.input.zero_point is None:
        return policy.ops
    layer, zeros = policy.layers[0], policy.input.zero_point.astype(np.float64)
    sums = layer.weight * (zeros if zeros.size > 1 else zeros[0])
    shifted = dataclasses.replace(layer, bias=(layer.bias - sums.sum(axis=1)).astype(np.float32))
    return tuple(shifted if op is layer else op for op in policy.ops)


def _float_weights(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    found: list[Op] = []
    for op in ops:
        match op:
            case Layer():
                scale = op.scale.astype(np.float64)
                found.append(_float_layer(op, op.weight * _along(scale, op.weight, 0), op.bias, op.relu))
            case Residual():
                found.append(Residual(_float_weights(op.body)))
            case Cell():
                taken, recalled = (layer for layer in _float_weights(op.children) if isinstance(layer, Layer))
                found.append(dataclasses.replace(op, input=taken, recurrent=recalled))
            case Relu() | Activation() | LayerNorm() | Flatten() | MaxPool2d() | History():
                found.append(op)
            case _:
                unknown(op)
    return tuple(found)


def _float_ops(ops: tuple[Op, ...], unit: Unit, last: Unit | None) -> tuple[tuple[Op, ...], Unit]:
    """Float operations and the unit of what they give; ``last``: the unit that a residual block's body must give."""
    found: list[Op] = []
    for index, op in enumerate(ops):
        match op:
            case Layer():
                given = _wanted(ops[index + 1 :], last)
                ratio = op.scale.astype(np.float64) if op.requantize is None else _ratio(op.requantize)
                if op.requantize is None and last is not None:
                    ratio = np.ones(1)  # accumulators, which the block requantizes
                scale = ratio if op.requantize is None and last is None else ratio * given
                inputs = np.repeat(unit, op.weight.shape[1] // unit.size)
                weight = op.weight * _along(scale, op.weight, 0) / _along(inputs, op.weight, 1)
                relu = op.relu or (op.requantize is not None and op.requantize.low == 0)
                found.append(_float_layer(op, weight, op.bias * scale, relu))
                unit = given
            case Activation():
                if not np.allclose(unit, op.unit, rtol=_RATIO_ERROR):
                    raise UnsupportedError(f"{op.function} of codes that no layer gives has no float32 form.")
                found.append(op.as_float)
                unit = np.full(1, float(op.lookup.scale))
            case Residual():
                assert op.skip is not None
                assert op.branch is not None
                outer = unit / _ratio(op.skip)
                wanted = outer * _ratio(op.branch)
                body, inner = _float_ops(op.body, unit, wanted)
                if not np.allclose(inner, wanted, rtol=_RATIO_ERROR):
                    raise UnsupportedError("A residual block whose body does not end in a layer has no float32 form.")
                found.append(Residual(body))
                unit = outer
            case Cell():
                cell, unit = _float_cell(op, unit)
                found.append(cell)
            case LayerNorm():
                no_integers(op)
            case History():
                found.append(op)
                unit = np.tile(unit, op.frames) if unit.size > 1 else unit
            case Relu() | Flatten() | MaxPool2d():
                found.append(op)
            case _:
                unknown(op)
    return tuple(found), unit


def _float_cell(op: Cell, unit: Unit) -> tuple[Cell, Unit]:
    """The cell of float values, and the unit of the codes of h."""
    part = op.sigmoid.unit * _ratio(op.requantization("gate"))
    product = float(op.sigmoid.lookup.scale) * float(op.tanh.lookup.scale)
    own = product / _ratio(op.requantization("input" if op.kind == "gru" else "output"))
    layers = []
    for layer, taken in ((op.input, unit), (op.recurrent, own)):
        assert layer.requantize is not None
        scale = _ratio(layer.requantize) * part
        weight = layer.weight * _along(scale, layer.weight, 0) / _along(taken, layer.weight, 1)
        layers.append(_float_layer(layer, weight, layer.bias * scale, relu=False))
    return Cell(op.kind, layers[0], layers[1], op.sigmoid.as_float, op.tanh.as_float), own


def _wanted(later: Iterable[Op], last: Unit | None) -> Unit:
    """The unit that a layer must give for the operations behind it: the next activation's, or ``last`` at their end."""
    over = np.ones(1)
    for op in later:
        match op:
            case Activation():
                return op.unit * over
            case Residual():
                assert op.skip is not None
                over = over * _ratio(op.skip)
            case Layer() | Cell():
                return np.ones(1)
            case LayerNorm():
                no_integers(op)
            case Relu() | Flatten() | MaxPool2d() | History():
                pass
            case _:
                unknown(op)
    return np.ones(1) if last is None else last * over


def _ratio(requantization: Requantization) -> NDArray[np.float64]:
    """What a requantization multiplies with."""
    return requantization.multiplier / 2.0**requantization.shift


def _along(values: NDArray[np.float64], weight: NDArray[np.generic], axis: int) -> NDArray[np.float64]:
    return values.reshape(*(-1 if i == axis else 1 for i in range(weight.ndim)))


def _float_layer(op: Layer, weight: NDArray[np.float64], bias: NDArray[np.generic], relu: bool) -> Layer:
    return dataclasses.replace(
        op,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        weight_bits=FLOAT_BITS,
        scale=np.ones(1, np.float32),
        relu=relu,
        requantize=None,
    )


# The network that it stands for


def stands_for(policy: Policy, seed: int = 0) -> Policy | None:
    """The dense float32 network whose bytes are the policy's ``baseline_bytes``, with random weights; None if the
    policy's own network is that one, or if no usual network has as many.

    Tried are the widths before units were left out, equal widths of one to three hidden layers, the policy's number
    of them first, and Stable-Baselines3's defaults.
    """
    if 4 * parameters(policy) == policy.baseline_bytes:
        return None
    trained = tuple(layer.trained_shape[0] for layer in policy.layers[:-1] if layer.trained_shape)
    candidates = [trained] if len(trained) == len(policy.layers) - 1 else []
    candidates += [*_equal_widths(policy), *_USUAL_HIDDEN]
    for hidden in candidates:
        try:
            network = widened(policy, hidden, seed)
        except (ConfigError, UnsupportedError):  # widths that its operations cannot have
            continue
        if 4 * parameters(network) == policy.baseline_bytes:
            return network
    return None


def _equal_widths(policy: Policy) -> Iterator[tuple[int, ...]]:
    """Hidden widths, all alike, with which a plain network of the policy's features and outputs has its baseline."""
    if policy.observation.image:
        return
    features, outputs = math.prod(policy.observation.shape), len(policy.layers[-1].weight)
    own = len(policy.layers) - 1
    for depth in sorted({1, 2, 3, own} - {0}, key=lambda depth: (depth != own, depth != 2, depth)):
        for h in range(1, _MAX_WIDTH + 1):
            if 4 * ((features + 1) * h + (depth - 1) * (h + 1) * h + (h + 1) * outputs) == policy.baseline_bytes:
                yield (h,) * depth


def widened(policy: Policy, hidden: Sequence[int], seed: int = 0) -> Policy:
    """A dense float32 network with ``hidden`` as the widths of its last hidden layers and random weights.

    A network for vectors may have any number of hidden layers. Raises ConfigError for widths that are not positive
    or too many, UnsupportedError for widths that the policy's operations do not take.
    """
    if not hidden or min(hidden) < 1 or max(hidden) > 2**16:
        raise ConfigError(f"hidden widths must be positive numbers, for example 256,256, not {tuple(hidden)}.")
    rng = np.random.default_rng(seed)
    layers, outputs = policy.layers, len(policy.layers[-1].weight)
    if not policy.observation.image and all(isinstance(op, Flatten | Layer) or op.elementwise for op in policy.ops):
        ops = _vector_network(policy, [*hidden, outputs], rng)
    else:
        own = [len(layer.weight) for layer in layers[:-1]]
        if len(hidden) > len(own):
            raise ConfigError(f"the policy has {len(own)} hidden layers: give at most as many widths.")
        widths = [*own[: len(own) - len(hidden)], *hidden, outputs]
        ops = _with_widths(policy.ops, iter(widths), policy.observation.shape, rng)[0]
    network = dataclasses.replace(policy, ops=ops, input=None, test_vectors=None)
    return dataclasses.replace(network, baseline_bytes=4 * parameters(network))


def _vector_network(policy: Policy, widths: Sequence[int], rng: np.random.Generator) -> tuple[Op, ...]:
    activation = next((op.as_float for op in policy.ops if isinstance(op, Activation)), None)
    ops: list[Op] = [Flatten()] if len(policy.observation.shape) > 1 else []
    inputs = math.prod(policy.observation.shape)
    for index, width in enumerate(widths):
        hidden = index < len(widths) - 1
        ops.append(_random_layer((width, inputs), hidden and activation is None, rng))
        if hidden and activation is not None:
            ops.append(activation)
        inputs = width
    return tuple(ops)


def _with_widths(
    ops: Iterable[Op], widths: Iterator[int], shape: Shape, rng: np.random.Generator
) -> tuple[tuple[Op, ...], Shape]:
    """Float operations with random weights; ``widths``: outputs of every layer in the order they run."""
    found: list[Op] = []
    for op in ops:
        match op:
            case Layer():
                relu = op.relu or (op.requantize is not None and op.requantize.low == 0)
                layer = _random_layer((next(widths), shape[0], *op.weight.shape[2:]), relu, rng)
                op = dataclasses.replace(layer, stride=op.stride, padding=op.padding, name=op.name)
            case Activation():
                op = op.as_float
            case Residual():
                op = Residual(_with_widths(op.body, widths, shape, rng)[0])
            case LayerNorm():
                op = LayerNorm(np.ones(shape, np.float32), np.zeros(shape, np.float32), op.epsilon)
            case History() | Cell():
                raise UnsupportedError("A recurrent policy has no network of other widths to stand beside it.")
            case Relu() | Flatten() | MaxPool2d():
                pass
            case _:
                unknown(op)
        shape = op.output_shape(shape)
        found.append(op)
    return tuple(found), shape


def _random_layer(shape: tuple[int, ...], relu: bool, rng: np.random.Generator) -> Layer:
    weight = (rng.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    bias = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    return Layer(weight, bias, FLOAT_BITS, np.ones(1, np.float32), relu)
