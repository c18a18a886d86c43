"""Streams of numbers: exact round trips, few bits where there is little to say, refusal of what nobody wrote."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.errors import ArtifactError, UnsupportedError
from policypress.policy.codec import (
    ALLOCATION_LIMIT,
    CONSTANT,
    FORM,
    INTEGERS,
    KIND,
    MAX_SIDE,
    MULTIPLIER,
    SHIFT,
    SIZE,
    Bytes,
    Reader,
    Writer,
)
from policypress.policy.ops import INT32_MAX, INT32_MIN

int32 = st.integers(INT32_MIN, INT32_MAX)


def written(write: Callable[[Writer], Any]) -> bytes:
    writer = Writer()
    write(writer)
    return writer.finish()


def integers_back(values: list[int]) -> int:
    """Bytes that a vector takes, after it came back."""
    vector = np.array(values, np.int32)
    data = written(lambda w: w.integers(vector))
    reader = Reader(data)
    back = reader.integers(len(values))
    reader.finish()
    assert back.dtype == np.int32
    assert back.tolist() == values
    return len(data)


@given(st.lists(int32, min_size=1, max_size=60))
def test_integers_come_back(values: list[int]) -> None:
    integers_back(values)
    integers_back(sorted(values))
    integers_back([value // 4096 * 4096 for value in values])
    integers_back(values[:1] * len(values))


def test_long_vectors_come_back() -> None:
    rng = np.random.default_rng(0)
    integers_back(rng.integers(-1000, 1000, 70_000).tolist())
    integers_back(np.sort(rng.integers(-1000, 1000, 70_000)).tolist())


def test_what_a_vector_does_not_say_is_not_paid_for() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 100, 256).round().astype(int).tolist()
    plain = integers_back(values)
    assert abs(integers_back([64 * value for value in values]) - plain) <= 1
    order = math.lgamma(257) / math.log(2) / 8
    assert integers_back(sorted(values)) < plain - 0.8 * order
    assert integers_back([12345] * 256) < 8
    assert integers_back([0] * 256) < 4


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_floats_come_back_to_the_bit(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    reader = Reader(written(lambda w: w.floats(vector)))
    assert reader.floats(len(values)).tobytes() == vector.tobytes()


def test_floats_of_few_significant_bits_take_few() -> None:
    rng = np.random.default_rng(0)
    scales = (rng.integers(4, 8, 17) * 2.0 ** rng.integers(-3, 3, 17)).astype(np.float32)
    assert len(written(lambda w: w.floats(scales))) < 14


@settings(max_examples=60)
@given(
    st.integers(2, 8), st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 99)
)
def test_matrices_come_back(bits: int, rows: int, columns: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1) - 1
    codes = (rng.integers(-limit, limit + 1, (rows, columns)) * (rng.random((rows, columns)) < density)).astype(np.int8)
    writer = Writer()
    positions, values = writer.matrix(codes, bits)
    assert 0 <= positions + values <= writer.bits + 1
    reader = Reader(writer.finish())
    back = reader.matrix(rows, columns, bits)
    reader.finish()
    np.testing.assert_array_equal(back, codes, strict=True)
    assert back.flags.writeable


def test_verbs_share_one_stream() -> None:
    codes = np.arange(-6, 6, dtype=np.int8).reshape(3, 2, 2)
    writer = Writer()
    writer.unsigned(2**32 - 1, SIZE)
    writer.signed(-(2**31), KIND)
    writer.matrix(codes, 4)
    writer.integers(np.array([5], np.int32))
    writer.floats(np.array([-0.0, 1.5], np.float32))
    before = writer.bits
    writer.unsigned(0, FORM)
    assert 0 < writer.bits - before < 2
    data = writer.finish()
    assert len(data) <= writer.bits / 8 + 2
    reader = Reader(data)
    assert reader.unsigned(SIZE) == 2**32 - 1
    assert reader.signed(KIND) == -(2**31)
    np.testing.assert_array_equal(reader.matrix(3, 4, 4), codes.reshape(3, 4))
    assert reader.integers(1).tolist() == [5]
    assert np.signbit(reader.floats(2)).tolist() == [True, False]
    assert reader.unsigned(FORM) == 0
    reader.finish()


@given(st.lists(st.integers(1, 255), max_size=20))
def test_short_numbers_come_back(values: list[int]) -> None:
    writer = Writer()
    for value in values:
        writer.digits(value, MULTIPLIER)
        writer.digits(value, SHIFT)
    reader = Reader(writer.finish())
    assert [(reader.digits(MULTIPLIER), reader.digits(SHIFT)) for _ in values] == [(v, v) for v in values]
    reader.finish()


@pytest.mark.parametrize("length", [0, 9, 2**32 - 1])
def test_short_numbers_that_are_not_are_refused(length: int) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        Reader(written(lambda w: w.unsigned(length, SHIFT))).digits(SHIFT)


def test_what_comes_again_takes_next_to_nothing() -> None:
    writer = Writer()
    writer.unsigned(256, SIZE)
    first = writer.bits
    for _ in range(20):
        writer.unsigned(256, SIZE)
    assert writer.bits < 2 * first


def test_equal_numbers_give_equal_bytes() -> None:
    codes = np.random.default_rng(0).integers(-7, 8, (9, 9)).astype(np.int8)
    assert written(lambda w: w.matrix(codes, 4)) == written(lambda w: w.matrix(np.asfortranarray(codes), 4))


def test_layers_too_wide_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="65,536 inputs"):
        Writer().matrix(np.zeros((1, MAX_SIDE + 1), np.int8), 8)
    with pytest.raises(ArtifactError, match="too wide"):
        Reader(bytes(9)).matrix(1, MAX_SIDE + 1, 8)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda w: (w.unsigned(32, INTEGERS[0]), w.unsigned(1, INTEGERS[1])), "malformed"),
        (lambda w: (w.unsigned(0, INTEGERS[0]), w.unsigned(3, INTEGERS[1])), "malformed"),
        (lambda w: (w.unsigned(31, INTEGERS[0]), w.unsigned(0, INTEGERS[1]), w.signed(1, CONSTANT)), "32 bits"),
    ],
)
def test_malformed_vectors_are_refused(write: Callable[[Writer], Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        Reader(written(write)).integers(4)


def test_streams_that_end_elsewhere_are_refused() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (20, 20)).astype(np.int8)
    data = written(lambda w: w.matrix(codes, 8))
    longer = Reader(data + bytes(6))
    longer.matrix(20, 20, 8)
    with pytest.raises(ArtifactError, match="not what an encoder writes"):
        longer.finish()
    with pytest.raises(ArtifactError, match="not what an encoder writes"):
        Reader(data[:-8]).matrix(20, 20, 8)


def test_declared_sizes_allocate_nothing_beyond_the_limit() -> None:
    with pytest.raises(ArtifactError, match="declares more"):
        Reader(bytes(9)).integers(ALLOCATION_LIMIT)
    reader = Reader(bytes(9))
    with pytest.raises(ArtifactError, match="declares more"):
        reader.matrix(MAX_SIDE, MAX_SIDE, 8)


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(1, 40), st.integers(2, 8))
def test_any_bytes_decode_or_are_refused(data: bytes, count: int, bits: int) -> None:
    reader = Reader(data)
    with contextlib.suppress(ArtifactError):  # any other exception fails the test
        codes = reader.matrix(count, 5, bits)
        assert int(np.abs(codes.astype(int)).max()) <= 2 ** (bits - 1) - 1
        assert reader.integers(count).shape == (count,)
        reader.finish()


def test_bytes_are_taken_to_their_end() -> None:
    data = Bytes(b"abcd")
    assert data.take(3) == b"abc"
    with pytest.raises(ArtifactError, match="ends before"):
        data.take(2)
    with pytest.raises(ArtifactError, match="goes on"):
        data.finish()
    assert data.take(1) == b"d"
    data.finish()
