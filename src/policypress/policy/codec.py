"""Compact bytes for tensors: weight codes, integers and float32 values, dense or sparse.

Every encoder returns the smallest of its candidates, and every decoder reads exactly what its encoder wrote.
Decoders are told how many values to expect and refuse, with ArtifactError, bytes that hold anything else.
``docs/file-format.md`` describes the bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError
from policypress.policy.policy import INT32_MAX, INT32_MIN, weight_limit

ALLOCATION_LIMIT = 3 * 2**24  # bytes that the sizes declared in one file may make a reader allocate
DENSE, BITMAP, GAPS = range(3)
_MAX_RICE = 24
_CHUNK = 2**15  # values unpacked at a time; a multiple of 8, so that every chunk starts at a byte

Int64 = NDArray[np.int64]


class Reader:
    """Takes values off the front of ``data``; raises ArtifactError at its end instead of reading past it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._allocated = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._position

    def allocate(self, size: int) -> None:
        """Account for ``size`` bytes about to be allocated; raises ArtifactError past the limit."""
        self._allocated += size
        if self._allocated > ALLOCATION_LIMIT:
            raise ArtifactError(f"it declares more than {ALLOCATION_LIMIT:,} bytes of tensors.")

    def take(self, size: int) -> bytes:
        if size > self.remaining:
            raise ArtifactError("a section ends before its contents do.")
        self._position += size
        return self._data[self._position - size : self._position]

    def byte(self) -> int:
        return self.take(1)[0]

    def unsigned(self) -> int:
        """Integer of at most 35 bits, least significant seven first (LEB128)."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ArtifactError("an integer is longer than five bytes.")

    def signed(self) -> int:
        value = self.unsigned()
        return value >> 1 ^ -(value & 1)

    def finish(self) -> None:
        if self.remaining:
            raise ArtifactError("a section goes on after its contents end.")


def encode_unsigned(value: int) -> bytes:
    """LEB128 of an integer in [0, 2**35)."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_signed(value: int) -> bytes:
    """LEB128 of the zigzag code 0, -1, 1, -2, ... -> 0, 1, 2, 3, ..."""
    return encode_unsigned(2 * value if value >= 0 else -2 * value - 1)


# Weight codes


def encode_codes(codes: NDArray[np.int8], bits: int) -> bytes:
    """Signed symmetric codes of ``bits`` bits, of any shape, in C order."""
    flat = codes.ravel().astype(np.int64)
    limit = weight_limit(bits)
    nonzero = flat != 0
    # Zero needs no symbol where positions are coded: the positive codes move down into its place.
    symbols = flat[nonzero] + limit - (flat[nonzero] > 0)
    values = _pack(symbols, _nonzero_width(bits))
    dense = bytes([DENSE]) + _pack(flat + limit, bits)
    return min(dense, *(positions + values for positions in _encode_positions(nonzero)), key=len)


def decode_codes(reader: Reader, count: int, bits: int) -> NDArray[np.int8]:
    """``count`` codes written by ``encode_codes``, as a vector."""
    reader.allocate(count)
    limit = weight_limit(bits)
    method = reader.byte()
    if method == DENSE:
        codes = _unpack(reader, count, bits) - limit
        _check_symbols(codes, limit)
        return codes.astype(np.int8)
    positions = _decode_positions(reader, method, count)
    symbols = _unpack(reader, len(positions), _nonzero_width(bits))
    values = symbols - limit + (symbols >= limit)
    _check_symbols(values, limit)
    sparse = np.zeros(count, np.int8)
    sparse[positions] = values
    return sparse


def _nonzero_width(bits: int) -> int:
    return (2 * weight_limit(bits) - 1).bit_length()


def _check_symbols(codes: Int64, limit: int) -> None:
    if codes.size and codes.max() > limit:
        raise ArtifactError("a weight code is out of range.")


# Integers


def encode_integers(values: NDArray[np.int32]) -> bytes:
    """Vector of int32 in offsets from its smallest value, each of the fewest bits that hold the largest."""
    wide = values.astype(np.int64)
    smallest = int(wide.min())
    width = (int(wide.max()) - smallest).bit_length()
    return encode_signed(smallest) + bytes([width]) + _pack(wide - smallest, width)


def decode_integers(reader: Reader, count: int) -> NDArray[np.int32]:
    """``count`` values written by ``encode_integers``."""
    reader.allocate(64 * count)  # with the int64 copies made here and in the checks that follow
    smallest, width = reader.signed(), reader.byte()
    if width > 32:
        raise ArtifactError("an integer is wider than 32 bits.")
    values = _unpack(reader, count, width) + smallest
    if values.min() < INT32_MIN or values.max() > INT32_MAX:
        raise ArtifactError("an integer does not fit 32 bits.")
    return values.astype(np.int32)


# Floats


def encode_floats(values: NDArray[np.float32]) -> bytes:
    """Float32 values of any shape in C order; zeros are left out where that is smaller."""
    raw: NDArray[np.uint32] = values.ravel().astype("<f4").view("<u4")
    nonzero = raw != 0  # compares bits: -0.0 is kept
    kept: bytes = raw[nonzero].tobytes()
    dense = bytes([DENSE]) + raw.tobytes()
    return min(dense, *(positions + kept for positions in _encode_positions(nonzero)), key=len)


def decode_floats(reader: Reader, count: int) -> NDArray[np.float32]:
    """``count`` values written by ``encode_floats``, as a vector."""
    reader.allocate(4 * count)
    method = reader.byte()
    if method == DENSE:
        return np.frombuffer(reader.take(4 * count), "<f4").astype(np.float32)
    positions = _decode_positions(reader, method, count)
    values = np.zeros(count, np.float32)
    values[positions] = np.frombuffer(reader.take(4 * len(positions)), "<f4")
    return values


# Positions of the nonzeros


def _encode_positions(nonzero: NDArray[np.bool_]) -> tuple[bytes, bytes]:
    """The two codes for where a vector is not zero: one bit a value, or the gaps between nonzeros."""
    bitmap = np.packbits(nonzero, bitorder="little").tobytes()
    return bytes([BITMAP]) + bitmap, bytes([GAPS]) + _encode_gaps(np.flatnonzero(nonzero))


def _decode_positions(reader: Reader, method: int, count: int) -> Int64:
    if method == BITMAP:
        return np.flatnonzero(_bits(reader, count))
    if method == GAPS:
        return _decode_gaps(reader, count)
    raise ArtifactError("a tensor is coded in an unknown way.")


def _encode_gaps(positions: Int64) -> bytes:
    """Golomb-Rice code of the numbers of zeros before each nonzero: unary parts first, then remainders."""
    gaps = np.diff(positions, prepend=-1) - 1
    count = len(gaps)
    rice = min(range(_MAX_RICE + 1), key=lambda r: int((gaps >> r).sum()) + count * r)
    ends = np.cumsum((gaps >> rice) + 1)
    unary = np.zeros(ends[-1] if count else 0, np.uint8)
    unary[ends - 1] = 1
    return (
        encode_unsigned(count)
        + bytes([rice])
        + encode_unsigned(len(unary))
        + np.packbits(unary, bitorder="little").tobytes()
        + _pack(gaps & ((1 << rice) - 1), rice)
    )


def _decode_gaps(reader: Reader, size: int) -> Int64:
    count, rice, length = reader.unsigned(), reader.byte(), reader.unsigned()
    if count > size or length > size or rice > _MAX_RICE:
        raise ArtifactError("positions are out of range.")
    ends = np.flatnonzero(_bits(reader, length))
    if len(ends) != count or (count and ends[-1] != length - 1) or (length and not count):
        raise ArtifactError("positions are malformed.")
    reader.allocate(8 * count)
    quotients = np.diff(ends, prepend=-1) - 1
    gaps = (quotients << rice) + _unpack(reader, count, rice)
    if count and gaps.max() >= size:  # also keeps the sum below from overflowing
        raise ArtifactError("positions are out of range.")
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= size:
        raise ArtifactError("positions are out of range.")
    return positions


# Bits, least significant first


def _pack(values: Int64, width: int) -> bytes:
    places = np.arange(width)
    chunks = [values[start : start + _CHUNK, None] >> places & 1 for start in range(0, len(values), _CHUNK)]
    return b"".join(np.packbits(chunk.astype(np.uint8), bitorder="little").tobytes() for chunk in chunks)


def _unpack(reader: Reader, count: int, width: int) -> Int64:
    values = np.zeros(count, np.int64)
    if width == 0:
        return values
    weights = np.int64(1) << np.arange(width)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        values[start : start + size] = _bits(reader, size * width).reshape(size, width) @ weights
    return values


def _bits(reader: Reader, count: int) -> NDArray[Any]:
    """``count`` bits as a vector of 0 and 1; the bits left in the last byte must be 0."""
    data = np.frombuffer(reader.take(-(-count // 8)), np.uint8)
    if count % 8 and data[-1] >> count % 8:
        raise ArtifactError("the unused bits of a byte are set.")
    return np.unpackbits(data, count=count, bitorder="little")
