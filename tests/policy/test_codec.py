"""Bytes of tensors: exact round trips, the smallest form, and refusal of what is malformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from policypress.errors import ArtifactError
from policypress.policy import codec
from policypress.policy.codec import BITMAP, DENSE, GAPS, Reader
from policypress.policy.policy import INT32_MAX, INT32_MIN, weight_limit


def sparse_codes(count: int, bits: int, density: float, seed: int = 0) -> NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    limit = weight_limit(bits)
    values = rng.integers(1, limit + 1, count) * rng.choice([-1, 1], count)
    return (values * (rng.random(count) < density)).astype(np.int8)


def read_all(data: bytes, decode: Callable[[Reader], Any]) -> Any:
    reader = Reader(data)
    value = decode(reader)
    reader.finish()
    return value


# Round trips


@given(bits=st.integers(2, 8), count=st.integers(1, 300), density=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_codes_come_back(bits: int, count: int, density: float, seed: int) -> None:
    codes = sparse_codes(count, bits, density, seed)
    back = read_all(codec.encode_codes(codes, bits), lambda r: codec.decode_codes(r, count, bits))
    assert back.dtype == np.int8
    assert back.tolist() == codes.tolist()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("density", [0.005, 0.3, 1.0])
def test_long_tensors_come_back(bits: int, density: float) -> None:
    codes = sparse_codes(100_003, bits, density)  # several chunks, and no multiple of 8
    back = read_all(codec.encode_codes(codes, bits), lambda r: codec.decode_codes(r, codes.size, bits))
    assert back.tobytes() == codes.tobytes()
    assert len(np.unique(codes)) > weight_limit(bits)


@given(st.lists(st.integers(INT32_MIN, INT32_MAX), min_size=1, max_size=50))
def test_integers_come_back(values: list[int]) -> None:
    array = np.array(values, np.int32)
    back = read_all(codec.encode_integers(array), lambda r: codec.decode_integers(r, len(values)))
    assert back.dtype == np.int32
    assert back.tolist() == values


@given(st.lists(st.one_of(st.just(0.0), st.floats(width=32)), min_size=1, max_size=80))
def test_floats_come_back_to_the_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    back = read_all(codec.encode_floats(array), lambda r: codec.decode_floats(r, len(values)))
    assert back.dtype == np.float32
    assert back.tobytes() == array.tobytes()


@given(st.integers(0, 2**35 - 1))
def test_unsigned_come_back(value: int) -> None:
    assert read_all(codec.encode_unsigned(value), Reader.unsigned) == value


@given(st.integers(-(2**34), 2**34 - 1))
def test_signed_come_back(value: int) -> None:
    assert read_all(codec.encode_signed(value), Reader.signed) == value


def test_the_form_is_the_smallest() -> None:
    size = 10_000
    for density, method in ((1.0, DENSE), (0.5, BITMAP), (0.02, GAPS)):
        data = codec.encode_codes(sparse_codes(size, 8, density), 8)
        assert data[0] == method
    assert len(codec.encode_codes(sparse_codes(size, 3, 1.0), 3)) == 1 + size * 3 // 8
    # 2 % of 10,000 in 8 bits: the values, and about 7.1 bits a position (the entropy of the mask)
    codes = sparse_codes(size, 8, 0.02)
    kept = np.count_nonzero(codes)
    assert kept * 15 < 8 * len(codec.encode_codes(codes, 8)) < kept * 15.5 + 64
    # ternary codes take one bit a nonzero
    ternary = sparse_codes(size, 2, 0.5)
    assert len(codec.encode_codes(ternary, 2)) <= 2 + size // 8 + np.count_nonzero(ternary) // 8 + 1
    floats = sparse_codes(size, 8, 0.02).astype(np.float32)
    assert codec.encode_floats(floats)[0] == GAPS
    assert codec.encode_floats(floats + 1)[0] == DENSE


def test_bytes_by_hand() -> None:
    assert codec.encode_unsigned(300) == bytes([0xAC, 0x02])
    assert codec.encode_signed(-2) == bytes([3])
    # offsets 0, 3, 1 from -1 in two bits each, first value in the lowest bits
    assert codec.encode_integers(np.array([-1, 2, 0], np.int32)) == bytes([1, 2, 0b01_11_00])
    # codes of 3 bits, offset by 3: 6, 4, 0, the last of which straddles two bytes
    assert codec.encode_codes(np.array([3, 1, -3], np.int8), 3) == bytes([DENSE, 0b00_100_110, 0])
    # one nonzero in six: the bit of its place, then 3 as symbol 5
    assert codec.encode_codes(np.array([0, 0, 0, 0, 0, 3], np.int8), 3) == bytes([BITMAP, 0b10_0000, 5])
    # one nonzero after 17 zeros of 200: rice parameter 3, 17 = 2 * 8 + 1, then 127 as symbol 253
    one = np.zeros(200, np.int8)
    one[17] = 127
    assert codec.encode_codes(one, 8) == bytes([GAPS, 1, 3, 3, 0b100, 1, 253])


# Refusals


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends before"),
        (bytes([DENSE]), "ends before"),
        (bytes([DENSE, 0b111, 0, 0]), "out of range"),  # code 7 of 3 bits would be +4
        (bytes([DENSE, 0, 0, 0b1000_0000]), "unused bits"),
        (bytes([BITMAP, 0, 0b100]), "unused bits"),
        (bytes([3, 0, 0]), "unknown way"),
        (bytes([BITMAP, 1, 0, 6]), "out of range"),  # symbol 6 of 0 to 5
        (bytes([GAPS, 11, 0, 11, 255, 7, 0]), "out of range"),  # more nonzeros than values
        (bytes([GAPS, 1, 25, 1, 1]), "out of range"),  # an absurd rice parameter
        (bytes([GAPS, 1, 0, 200, 1, 1]), "out of range"),  # a unary code longer than the tensor
        (bytes([GAPS, 2, 0, 3, 0b111, 0]), "malformed"),  # another number of ones
        (bytes([GAPS, 1, 0, 3, 0b010, 0]), "malformed"),  # a unary code that does not end in a one
        (bytes([GAPS, 0, 0, 3, 0, 0]), "malformed"),  # a unary code of nothing
        (bytes([GAPS, 1, 4, 1, 1, 15, 0]), "out of range"),  # a gap beyond the end
        (bytes([GAPS, 2, 3, 2, 0b11, 0b101_101, 0]), "out of range"),  # gaps whose sum is beyond the end
        (bytes([GAPS, 255, 255, 255, 255, 255, 1]), "longer than five"),
    ],
)
def test_malformed_codes_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        codec.decode_codes(Reader(data), 10 if data[:1] != bytes([DENSE]) else 7, 3)


def test_malformed_integers_are_refused() -> None:
    wide = codec.encode_signed(INT32_MAX) + bytes([1, 0b10])
    for data, words in ((wide, "32 bits"), (bytes([0, 33]), "wider"), (b"", "ends before")):
        with pytest.raises(ArtifactError, match=words):
            codec.decode_integers(Reader(data), 2)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(ArtifactError, match="goes on"):
        Reader(b"x").finish()


@pytest.mark.parametrize("decode", [codec.decode_integers, codec.decode_floats])
def test_declared_sizes_allocate_nothing_beyond_the_limit(decode: Any) -> None:
    with pytest.raises(ArtifactError, match="declares more than"):
        decode(Reader(bytes(20)), codec.ALLOCATION_LIMIT)
    reader = Reader(bytes([0, 0]) * 3)
    half = codec.ALLOCATION_LIMIT // 128
    codec.decode_integers(reader, half)
    with pytest.raises(ArtifactError, match="declares more than"):  # the limit is for all tensors together
        codec.decode_integers(reader, half + 1)


@settings(max_examples=500)
@given(st.binary(max_size=40), st.integers(1, 100), st.integers(2, 8))
def test_any_bytes_decode_or_are_refused(data: bytes, count: int, bits: int) -> None:
    for decode in (
        lambda r: codec.decode_codes(r, count, bits),
        lambda r: codec.decode_integers(r, count),
        lambda r: codec.decode_floats(r, count),
    ):
        try:
            values = decode(Reader(data))
        except ArtifactError:
            continue
        assert len(values) == count
        if values.dtype == np.int8:
            assert np.abs(values).max() <= weight_limit(bits)
