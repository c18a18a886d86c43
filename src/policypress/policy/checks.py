"""Checks of a whole policy: that its operations fit together and that no accumulator can overflow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from policypress.errors import PolicypressError, UnsupportedError
from policypress.policy.ops import (
    FLOAT_BITS,
    MAX_VALUES,
    Activation,
    Cell,
    Flatten,
    History,
    InputQuantization,
    Layer,
    LayerNorm,
    Op,
    Range,
    Residual,
    Shape,
    no_integers,
    walk,
)
from policypress.policy.state import STATE_LIMITS

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

MAX_DEPTH = 8  # residual blocks inside one another
MAX_OPS = 1024


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
    first = next((op for op in policy.ops if not isinstance(op, Flatten | History)), None)
    fits = isinstance(first, Layer) and not first.is_conv  # its bias holds what the zero points take off
    if policy.input is not None and policy.input.zero_point is not None and not fits:
        raise UnsupportedError("An input with zero points needs a fully connected layer behind it.")
    if features > MAX_VALUES:
        raise UnsupportedError(f"An observation holds at most {MAX_VALUES:,} values.")
    for op in policy.ops:
        shape = op.output_shape(shape)
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
    _check_ranges(ops, (input.low, input.high))


def _check_ranges(ops: Iterable[Op], codes: Range) -> None:
    for op in ops:
        if isinstance(op, Layer):
            if op.weight_bits == FLOAT_BITS or op.bias.dtype != np.int32:
                raise PolicypressError(f"Layer {op.name!r} of an integer policy must hold integers.")
            reach = op.reach(*codes)
            worst = int(reach.argmax())
            if reach[worst] >= 2**31:
                raise PolicypressError(
                    f"The accumulator of output {worst} of layer {op.name!r} could reach {reach[worst]:,},"
                    " which overflows 32 bits: use fewer weight_bits or a higher sparsity."
                )
        if isinstance(op, Cell):
            _check_ranges((op.input,), codes)
            _check_ranges((op.recurrent,), op.codes(*codes))
        else:
            _check_ranges(op.children, codes)
        codes = op.codes(*codes)
        if isinstance(op, History) and not (STATE_LIMITS[0] <= codes[0] and codes[1] <= STATE_LIMITS[1]):
            raise UnsupportedError("A history remembers codes of 16 bits with their sign: give the input fewer bits.")


def _check_count(ops: Iterable[Op], depth: int) -> int:
    count = 0
    for op in ops:
        count += 1 + (_check_count(op.children, depth + 1) if op.children else 0)
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
            if any(isinstance(inner, History | Cell) for inner in walk(op.body)):
                raise UnsupportedError("A recurrent cell or a history cannot lie inside of a residual block.")
            _check_numerics(op.body, integer)
        elif isinstance(op, Cell):
            if bool(op.bits) != integer:
                raise UnsupportedError(f"A {op.kind} has a state of some bits in integer numerics and only there.")
            for layer in op.children:
                _check_layer(layer, integer)
        elif isinstance(op, LayerNorm):
            if integer:
                no_integers(op)
        elif isinstance(op, Activation):
            if (op.bits > 0) != integer:
                raise UnsupportedError(f"{op.function} has codes of some bits in integer numerics and only there.")
        elif isinstance(op, Layer):
            accumulators = index == len(ops) - 1  # go into the output, or into the sum of a residual block
            if integer and op.requantize is None and not accumulators:
                raise UnsupportedError(f"Hidden layer {op.name!r} of an integer policy must be requantized.")
            _check_layer(op, integer)


def _check_layer(layer: Layer, integer: bool) -> None:
    if integer and (layer.weight_bits == FLOAT_BITS or layer.bias.dtype != np.int32):
        raise UnsupportedError(f"Layer {layer.name!r} of an integer policy must hold integers.")
    if not integer and (layer.requantize is not None or layer.bias.dtype != np.float32):
        raise UnsupportedError(
            f"Layer {layer.name!r} needs a float32 bias and no requantization for float activations."
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
