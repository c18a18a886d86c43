"""The payload of a policy file: what would be flashed or sent, and nothing else.

Structure, weights, positions, biases, scales and requantizations. Names, and scales that no computation
needs, are annotations that the card keeps. ``docs/file-format.md`` describes the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError
from policypress.policy import codec
from policypress.policy.checks import MAX_DEPTH, MAX_OPS, MAX_VALUES
from policypress.policy.policy import (
    FLOAT_BITS,
    INT32_MAX,
    INT32_MIN,
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Policy,
    Relu,
    Requantization,
    Residual,
)

_LINEAR, _CONV, _RELU, _FLATTEN, _MAX_POOL, _RESIDUAL = range(6)
_RELU_FLAG, _REQUANTIZED, _SCALE, _PER_OUTPUT_SCALE, _PER_OUTPUT_MULTIPLIER, _PER_OUTPUT_SHIFT = (
    1 << bit for bit in range(6)
)


class Annotation(NamedTuple):
    """What the card says of a layer: its name, and its scale (float32) where the payload does without it."""

    name: str = ""
    scale: NDArray[np.float32] | None = None


def layer_annotations(policy: Policy) -> list[Annotation]:
    """Annotations of every layer in the order it runs."""
    return [Annotation(layer.name, None if _scale_is_used(policy, layer) else layer.scale) for layer in policy.layers]


def encode_payload(policy: Policy) -> bytes:
    """The payload of ``policy``."""
    return _encode_input(policy.input) + _encode_ops(policy, policy.ops)


def decode_payload(
    data: bytes, annotations: Iterator[Annotation] | None = None
) -> tuple[tuple[Op, ...], InputQuantization | None]:
    """Operations and input quantization in a payload; without ``annotations``, unused scales are 1.

    Raises ArtifactError for malformed bytes, UnsupportedError for operations that cannot be.
    """
    reader = codec.Reader(data)
    quantization = _decode_input(reader)
    ops = _decode_ops(_Source(reader, annotations, quantization is not None), depth=0)
    reader.finish()
    return ops, quantization


def payload_size(policy: Policy) -> int:
    """Bytes of the payload."""
    return len(encode_payload(policy))


def layer_bytes(policy: Policy, layer: Layer) -> int:
    """Bytes of one of the policy's layers in its payload."""
    return len(_encode_layer(policy, layer))


def _scale_is_used(policy: Policy, layer: Layer) -> bool:
    if policy.input is not None:
        return layer is policy.ops[-1]
    return layer.weight_bits != FLOAT_BITS


# Writing


def _encode_input(quantization: InputQuantization | None) -> bytes:
    if quantization is None:
        return bytes([0])
    return (
        bytes([quantization.bits])
        + codec.encode_signed(quantization.low)
        + codec.encode_signed(quantization.high)
        + codec.encode_unsigned(quantization.inverse_scale.size)
        + codec.encode_floats(quantization.inverse_scale)
    )


def _encode_ops(policy: Policy, ops: tuple[Op, ...]) -> bytes:
    return codec.encode_unsigned(len(ops)) + b"".join(_encode_op(policy, op) for op in ops)


def _encode_op(policy: Policy, op: Op) -> bytes:
    match op:
        case Layer():
            return _encode_layer(policy, op)
        case Relu():
            return bytes([_RELU])
        case Flatten():
            return bytes([_FLATTEN])
        case MaxPool2d():
            return bytes([_MAX_POOL]) + _encode_sizes(*op.kernel, *op.stride, *op.padding)
        case Residual():
            parts = [bytes([_RESIDUAL])]
            if op.skip is not None and op.branch is not None:
                parts += [codec.encode_signed(op.low), codec.encode_signed(op.high)]
                for operand in (op.skip, op.branch):
                    for vector in (operand.multiplier, operand.shift):
                        parts += [_encode_sizes(vector.size), codec.encode_integers(vector)]
            return b"".join(parts) + _encode_ops(policy, op.body)


def _encode_layer(policy: Policy, layer: Layer) -> bytes:
    requantize = layer.requantize
    scaled = _scale_is_used(policy, layer)
    flags = (
        _RELU_FLAG * layer.relu
        | _REQUANTIZED * (requantize is not None)
        | _SCALE * scaled
        | _PER_OUTPUT_SCALE * (scaled and layer.scale.size > 1)
    )
    if requantize is not None:
        flags |= _PER_OUTPUT_MULTIPLIER * (requantize.multiplier.size > 1)
        flags |= _PER_OUTPUT_SHIFT * (requantize.shift.size > 1)
    parts = [
        bytes([_CONV if layer.is_conv else _LINEAR, flags, layer.weight_bits]),
        _encode_sizes(*layer.weight.shape),
    ]
    if layer.is_conv:
        parts.append(_encode_sizes(*layer.stride, *layer.padding))
    if layer.weight_bits == FLOAT_BITS:
        parts.append(codec.encode_floats(layer.weight))
    else:
        parts.append(codec.encode_codes(layer.weight, layer.weight_bits))
    integer = policy.input is not None
    parts.append(codec.encode_integers(layer.bias) if integer else codec.encode_floats(layer.bias))
    if scaled:
        parts.append(codec.encode_floats(layer.scale))
    if requantize is not None:
        parts += [codec.encode_signed(requantize.low), codec.encode_signed(requantize.high)]
        parts += [codec.encode_integers(requantize.multiplier), codec.encode_integers(requantize.shift)]
    return b"".join(parts)


def _encode_sizes(*sizes: int) -> bytes:
    return b"".join(codec.encode_unsigned(size) for size in sizes)


# Reading


class _Source(NamedTuple):
    reader: codec.Reader
    annotations: Iterator[Annotation] | None
    integer: bool


def _decode_input(reader: codec.Reader) -> InputQuantization | None:
    bits = reader.byte()
    if bits == 0:
        return None
    low, high = reader.signed(), reader.signed()
    inverse_scale = codec.decode_floats(reader, _decode_count(reader))
    return InputQuantization(inverse_scale, low, high, bits)


def _decode_ops(source: _Source, depth: int) -> tuple[Op, ...]:
    count = source.reader.unsigned()
    if count > MAX_OPS or depth > MAX_DEPTH:
        raise ArtifactError("it declares too many operations.")
    return tuple(_decode_op(source, depth) for _ in range(count))


def _decode_op(source: _Source, depth: int) -> Op:
    reader = source.reader
    kind = reader.byte()
    if kind in (_LINEAR, _CONV):
        return _decode_layer(source, is_conv=kind == _CONV)
    if kind == _RELU:
        return Relu()
    if kind == _FLATTEN:
        return Flatten()
    if kind == _MAX_POOL:
        return MaxPool2d(_decode_pair(reader), _decode_pair(reader), _decode_pair(reader))
    if kind == _RESIDUAL:
        if not source.integer:
            return Residual(_decode_ops(source, depth + 1))
        low, high = reader.signed(), reader.signed()
        skip, branch = _decode_operand(reader), _decode_operand(reader)
        return Residual(_decode_ops(source, depth + 1), skip, branch, low, high)
    raise ArtifactError(f"it holds an operation of the unknown kind {kind}.")


def _decode_operand(reader: codec.Reader) -> Requantization:
    multiplier = codec.decode_integers(reader, _decode_count(reader))
    shift = codec.decode_integers(reader, _decode_count(reader))
    return Requantization(multiplier, shift, INT32_MIN, INT32_MAX)


def _decode_layer(source: _Source, is_conv: bool) -> Layer:
    reader = source.reader
    flags, bits = reader.byte(), reader.byte()
    if bits != FLOAT_BITS and not 2 <= bits <= 8:
        raise ArtifactError(f"a layer has weights of {bits} bits.")
    shape = tuple(_decode_count(reader) for _ in range(4 if is_conv else 2))
    stride = padding = None
    if is_conv:
        stride, padding = _decode_pair(reader), _decode_pair(reader)
    size, outputs = math.prod(shape), shape[0]
    if size > MAX_VALUES:
        raise ArtifactError(f"a layer declares more than {MAX_VALUES:,} weights.")
    decoded = codec.decode_floats(reader, size) if bits == FLOAT_BITS else codec.decode_codes(reader, size, bits)
    bias = codec.decode_integers(reader, outputs) if source.integer else codec.decode_floats(reader, outputs)

    def count(flag: int) -> int:
        return outputs if flags & flag else 1

    scale = codec.decode_floats(reader, count(_PER_OUTPUT_SCALE)) if flags & _SCALE else None
    requantize = None
    if flags & _REQUANTIZED:
        low, high = reader.signed(), reader.signed()
        multiplier = codec.decode_integers(reader, count(_PER_OUTPUT_MULTIPLIER))
        shift = codec.decode_integers(reader, count(_PER_OUTPUT_SHIFT))
        requantize = Requantization(multiplier, shift, low, high)
    name, scale = _annotate(source, scale)
    return Layer(
        weight=decoded.reshape(shape),
        bias=bias,
        weight_bits=bits,
        scale=scale,
        relu=bool(flags & _RELU_FLAG),
        requantize=requantize,
        stride=stride or (1, 1),
        padding=padding or (0, 0),
        name=name,
    )


def _annotate(source: _Source, scale: NDArray[np.float32] | None) -> tuple[str, NDArray[np.float32]]:
    if source.annotations is None:
        return "", np.ones(1, np.float32) if scale is None else scale
    annotation = next(source.annotations, None)
    if annotation is None:
        raise ArtifactError("its card describes fewer layers than it has.")
    scales = [one for one in (scale, annotation.scale) if one is not None]
    if len(scales) != 1:
        raise ArtifactError("each layer needs one scale, in the payload or in the card.")
    return annotation.name, scales[0]


def _decode_count(reader: codec.Reader) -> int:
    count = reader.unsigned()
    if not 1 <= count <= MAX_VALUES:
        raise ArtifactError(f"it declares a size of {count:,}.")
    return count


def _decode_pair(reader: codec.Reader) -> tuple[int, int]:
    return reader.unsigned(), reader.unsigned()
