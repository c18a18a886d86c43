"""The contract of a packed policy: what stands between the environment and the payload, in as few bytes as it takes.

What ``card.py`` writes as JSON, without names, provenance and results. ``docs/file-format.md`` lists the bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError, PolicypressError
from policypress.policy.codec import MAX_SIDE, Bytes
from policypress.policy.contract import (
    ACTION_KINDS,
    OBSERVATION_DTYPES,
    ActionTransform,
    Normalization,
    ObservationTransform,
)

_BOX_DTYPES = ("float32", "float64")
_UNIT, _EQUAL, _EACH = range(3)  # bounds are -1 and 1; the same for all; one for each
_EPSILON_CLIP = struct.Struct("<dd")
_NUMBER_BYTES = 8
_MAX_DIMENSIONS = 8


def encode_contract(observation: ObservationTransform, action: ActionTransform, baseline_bytes: int) -> bytes:
    """Bytes of a contract; equal ones give equal bytes. Raises PolicypressError for a number of 2**56 or more."""
    parts, normalization = bytearray(), observation.normalization
    dtype = OBSERVATION_DTYPES.index(observation.dtype)
    parts.append(dtype | bool(observation.image) << 3 | (normalization is not None) << 4)
    parts += _sizes(observation.shape) + _number(observation.frame_stack)
    if normalization is not None:
        for moment in (normalization.mean, normalization.var):
            parts += np.ascontiguousarray(moment, "<f8").tobytes()
        parts += _EPSILON_CLIP.pack(normalization.epsilon, normalization.clip)
    kind = ACTION_KINDS.index(action.kind)
    if action.kind == "box":
        bounds = [np.ascontiguousarray(bound, "<f4").ravel() for bound in (action.low, action.high)]
        form = _form(*bounds)
        parts.append(kind | bool(action.squash) << 2 | _BOX_DTYPES.index(action.dtype) << 3 | form << 4)
        parts += _sizes(action.shape)
        for bound in bounds:
            parts += bound[: {_UNIT: 0, _EQUAL: 1, _EACH: bound.size}[form]].tobytes()
    elif action.kind == "discrete":
        parts.append(kind)
        parts += _number(2 * action.start if action.start >= 0 else -2 * action.start - 1)
    else:
        parts.append(kind)
        parts += _sizes(action.nvec or action.shape)
    return bytes(parts + _number(baseline_bytes))


def decode_contract(reader: Bytes) -> tuple[ObservationTransform, ActionTransform, int]:
    """What ``encode_contract`` wrote at the front of ``reader``.

    Raises ArtifactError for what it cannot have written, UnsupportedError for a contract that cannot be. Bytes that
    another encoder could have chosen for the same contract come back: who is strict encodes it again.
    """
    head = reader.take(1)[0]
    if head >> 5 or head & 7 >= len(OBSERVATION_DTYPES):
        raise _malformed()
    shape, frame_stack = _read_sizes(reader), _read_number(reader)
    normalization = None
    if head & 16:
        mean, var = (_read_floats(reader, "<f8", math.prod(shape)).reshape(shape) for _ in range(2))
        normalization = Normalization(mean, var, *_EPSILON_CLIP.unpack(reader.take(_EPSILON_CLIP.size)))
    dtype, image = OBSERVATION_DTYPES[head & 7], bool(head & 8)
    observation = ObservationTransform(shape, dtype, image, frame_stack, normalization)
    return observation, _read_action(reader), _read_number(reader)


def _read_action(reader: Bytes) -> ActionTransform:
    head = reader.take(1)[0]
    form = head >> 4
    if head & 3 >= len(ACTION_KINDS) or form > _EACH:
        raise _malformed()
    kind = ACTION_KINDS[head & 3]
    if kind == "discrete":
        start = _read_number(reader)
        return ActionTransform("discrete", dtype="int64", start=-(start + 1) // 2 if start % 2 else start // 2)
    if kind == "multi-discrete":
        nvec = _read_sizes(reader, MAX_SIDE)
        return ActionTransform("multi-discrete", (len(nvec),), "int64", nvec=nvec)
    shape = _read_sizes(reader)
    if kind == "multi-binary":
        return ActionTransform(kind, shape, "int64")
    size = math.prod(shape)
    if size > MAX_SIDE:  # no layer has as many outputs
        raise _malformed()
    bounds = []
    for unit in (-1.0, 1.0):
        count = {_UNIT: 0, _EQUAL: 1, _EACH: size}[form]
        values = _read_floats(reader, "<f4", count) if count else np.array([unit], np.float32)
        bounds.append(np.resize(values, shape))
    low, high = bounds
    return ActionTransform(kind, shape, _BOX_DTYPES[head >> 3 & 1], bool(head & 4), low, high)


def _form(low: NDArray[Any], high: NDArray[Any]) -> int:
    """Compared bit by bit: zeros have a sign."""
    words = [bound.view("<u4") for bound in (low, high)]
    if not all((word == word[0]).all() for word in words):
        return _EACH
    return _UNIT if (float(low[0]), float(high[0])) == (-1.0, 1.0) else _EQUAL


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; every byte but the last has its highest bit set."""
    if not 0 <= value < 2 ** (7 * _NUMBER_BYTES):
        raise PolicypressError(f"A packed policy has no place for the number {value:,}: save it as it is.")
    parts = bytearray()
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _sizes(sizes: Iterable[int]) -> bytes:
    listed = [int(size) for size in sizes]
    return b"".join(map(_number, [len(listed), *listed]))


def _read_number(reader: Bytes) -> int:
    value = 0
    for place in range(_NUMBER_BYTES):
        byte = reader.take(1)[0]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value
    raise _malformed()


def _read_sizes(reader: Bytes, limit: int = _MAX_DIMENSIONS) -> tuple[int, ...]:
    count = _read_number(reader)
    if count > limit:
        raise _malformed()
    sizes = tuple(_read_number(reader) for _ in range(count))
    if any(not 1 <= size < 2**31 for size in sizes):
        raise _malformed()
    return sizes


def _read_floats(reader: Bytes, dtype: str, count: int) -> NDArray[Any]:
    stored = np.dtype(dtype)
    return np.frombuffer(reader.take(count * stored.itemsize), stored).astype(stored.newbyteorder("="))


def _malformed() -> ArtifactError:
    return ArtifactError("its contract is malformed.")
