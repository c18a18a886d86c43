"""Checks of a whole policy: that its operations fit together and that no accumulator can overflow."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from policypress.errors import PolicypressError, UnsupportedError
from policypress.policy.ops import (
    FLOAT_BITS,
    TANH_INPUT_LIMIT,
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Residual,
    Tanh,
)
from policypress.policy.policy import Policy

MAX_VALUES = 2**23  # weights in a policy, and values in any activation
MAX_DEPTH = 8  # residual blocks inside one another
MAX_OPS = 1024

Shape = tuple[int, ...]


def output_shape(op: Op, shape: Shape) -> Shape:
    """Shape of one operation's result for an input of ``shape`` (both without the batch dimension).

    Raises UnsupportedError if the operation does not take such an input.
    """
    match op:
        case Layer() if op.is_conv:
            _require_image(op, shape)
            _fit(shape[0] == op.weight.shape[1], op, shape)
            return (op.weight.shape[0], *_slide(op, shape, op.weight.shape[2:]))
        case Layer():
            _fit(shape == op.weight.shape[1:], op, shape)
            return (op.weight.shape[0],)
        case Relu() | Tanh():
            return shape
        case Flatten():
            return (math.prod(shape),)
        case MaxPool2d():
            _require_image(op, shape)
            return (shape[0], *_slide(op, shape, op.kernel))
        case Residual():
            result = shape
            for inner in op.body:
                result = output_shape(inner, result)
            _fit(result == shape, op, shape)
            for operand in (op.skip, op.branch):
                sizes = () if operand is None else (operand.multiplier.size, operand.shift.size)
                _fit(all(size in (1, shape[0]) for size in sizes), op, shape)
            return shape


def check_structure(policy: Policy) -> None:
    """Raise UnsupportedError unless the operations chain from observation to action in one numerics."""
    if not policy.ops or policy.baseline_bytes < 1:
        raise UnsupportedError("A policy needs at least one layer and a positive baseline_bytes.")
    _check_count(policy.ops, depth=0)
    last = policy.ops[-1]
    if not isinstance(last, Layer) or last.requantize is not None:
        raise UnsupportedError("The last operation of a policy must be a layer that is not requantized.")
    if sum(layer.weight.size for layer in policy.layers) > MAX_VALUES:
        raise UnsupportedError(f"A policy holds at most {MAX_VALUES:,} weights.")
    _check_numerics(policy.ops, policy.input is not None)

    shape: Shape = policy.observation.shape
    features = math.prod(shape)
    if policy.input is not None and policy.input.inverse_scale.size not in (1, features):
        raise UnsupportedError(
            f"The input needs 1 or {features} inverse scales, not {policy.input.inverse_scale.size}."
        )
    first = next((op for op in policy.ops if not isinstance(op, Flatten)), None)
    fits = isinstance(first, Layer) and not first.is_conv  # its bias holds what the zero points take off
    if policy.input is not None and policy.input.zero_point is not None and not fits:
        raise UnsupportedError("An input with zero points needs a fully connected layer behind it.")
    if features > MAX_VALUES:
        raise UnsupportedError(f"An observation holds at most {MAX_VALUES:,} values.")
    for op in policy.ops:
        shape = output_shape(op, shape)
    if len(shape) != 1:
        raise UnsupportedError(f"A policy's outputs must be a vector, not of shape {shape}: end in a linear layer.")
    action = policy.action
    outputs = {"discrete": None, "multi-discrete": sum(action.nvec)}.get(action.kind, math.prod(action.shape))
    if outputs is not None and shape != (outputs,):
        raise UnsupportedError(f"A network with outputs {shape} cannot give actions {action.nvec or action.shape}.")
    _check_test_vectors(policy, shape)


def check_accumulators(ops: Iterable[Op], input: InputQuantization) -> None:
    """Prove that every accumulator, whatever the order of summation, stays below 2**31 in magnitude.

    For each output: sum |weight| * max |code| + |bias| < 2**31, with the codes' limits taken from the input
    quantization and the requantizations. Raises PolicypressError if the proof fails.
    """
    _accumulator_range(ops, (input.low, input.high))


def _accumulator_range(ops: Iterable[Op], codes: tuple[int, int]) -> tuple[int, int]:
    low, high = codes
    for op in ops:
        match op:
            case Layer():
                if op.weight_bits == FLOAT_BITS or op.bias.dtype != np.int32:
                    raise PolicypressError(f"Layer {op.name!r} of an integer policy must hold integers.")
                # In int64 the proof itself cannot overflow: 2**23 weights below 2**7 times codes up to 2**31.
                weight = np.abs(op.weight.reshape(len(op.weight), -1)).sum(axis=1, dtype=np.int64)
                sums = weight * max(-low, high) + np.abs(op.bias.astype(np.int64))
                worst = int(sums.argmax())
                reach = int(sums[worst])
                if reach >= 2**31:
                    raise PolicypressError(
                        f"The accumulator of output {worst} of layer {op.name!r} could reach {reach:,},"
                        " which overflows 32 bits: use fewer weight_bits or a higher sparsity."
                    )
                if op.requantize is not None:
                    low, high = op.requantize.low, op.requantize.high
                else:
                    low, high = (0 if op.relu else -reach), reach
            case Relu():
                low, high = max(low, 0), max(high, 0)
            case Tanh():
                low, high = -op.high, op.high
            case Residual():
                _accumulator_range(op.body, (low, high))
                low, high = op.low, op.high
            case Flatten() | MaxPool2d():
                pass
    return low, high


def _check_count(ops: Iterable[Op], depth: int) -> int:
    count = 0
    for op in ops:
        count += 1 + (_check_count(op.body, depth + 1) if isinstance(op, Residual) else 0)
    if depth > MAX_DEPTH or count > MAX_OPS:
        raise UnsupportedError(
            f"A policy holds at most {MAX_OPS} operations and {MAX_DEPTH} residual blocks inside one another."
        )
    return count


def _check_numerics(ops: tuple[Op, ...], integer: bool) -> None:
    for index, op in enumerate(ops):
        if isinstance(op, Residual):
            if (op.skip is not None) != integer:
                raise UnsupportedError("A residual block is requantized in integer numerics and only there.")
            _check_numerics(op.body, integer)
        elif isinstance(op, Tanh):
            _check_tanh(op, ops[index - 1] if index else None, integer)
        elif isinstance(op, Layer):
            accumulators = index == len(ops) - 1  # go into the output, or into the sum of a residual block
            if integer and op.requantize is None and not accumulators:
                raise UnsupportedError(f"Hidden layer {op.name!r} of an integer policy must be requantized.")
            if integer and (op.weight_bits == FLOAT_BITS or op.bias.dtype != np.int32):
                raise UnsupportedError(f"Layer {op.name!r} of an integer policy must hold integers.")
            if not integer and (op.requantize is not None or op.bias.dtype != np.float32):
                raise UnsupportedError(
                    f"Layer {op.name!r} needs a float32 bias and no requantization for float activations."
                )


def _check_tanh(op: Tanh, before: Op | None, integer: bool) -> None:
    if not isinstance(before, Layer) or before.relu:
        raise UnsupportedError("A Tanh must follow a layer without ReLU.")
    if (op.bits > 0) != integer:
        raise UnsupportedError("A Tanh has codes of some bits in integer numerics and only there.")
    limits = None if before.requantize is None else (before.requantize.low, before.requantize.high)
    if integer and limits != (-TANH_INPUT_LIMIT, TANH_INPUT_LIMIT):
        raise UnsupportedError(
            f"Layer {before.name!r} must be requantized to [-{TANH_INPUT_LIMIT}, {TANH_INPUT_LIMIT}] for its Tanh."
        )


def _check_test_vectors(policy: Policy, outputs: Shape) -> None:
    vectors = policy.test_vectors
    if vectors is None:
        return
    count = len(vectors.observations)
    wanted = (
        (vectors.observations, policy.observation.dtype, (count, *policy.observation.shape)),
        (vectors.outputs, "float32", (count, *outputs)),
        (vectors.actions, policy.action.dtype, (count, *policy.action.shape)),
    )
    for array, dtype, shape in wanted:
        if array.dtype != dtype or array.shape != shape:
            raise UnsupportedError(
                f"Test vectors must match the policy: {dtype} of {shape}, not {array.dtype} of {array.shape}."
            )


def _require_image(op: Op, shape: Shape) -> None:
    _fit(len(shape) == 3, op, shape)


def _slide(op: Layer | MaxPool2d, shape: Shape, kernel: Shape) -> Shape:
    padded = [n + 2 * p for n, p in zip(shape[1:], op.padding, strict=True)]
    _fit(all(n >= k for n, k in zip(padded, kernel, strict=True)), op, shape)
    result = tuple((n - k) // s + 1 for n, k, s in zip(padded, kernel, op.stride, strict=True))
    channels = op.weight.shape[0] if isinstance(op, Layer) else shape[0]
    if max(channels * math.prod(result), shape[0] * math.prod(padded)) > MAX_VALUES:
        raise UnsupportedError(f"An activation holds at most {MAX_VALUES:,} values, padding included.")
    return result


def _fit(fits: bool, op: Op, shape: Shape) -> None:
    if not fits:
        label = type(op).__name__
        if isinstance(op, Layer):
            label += f" {op.name!r} with weights {op.weight.shape}"
        raise UnsupportedError(f"{label} does not fit an input of shape {shape}.")
