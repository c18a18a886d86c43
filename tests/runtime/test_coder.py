import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policypress.policy.patterns import PATTERNS
from policypress.runtime.coder import Decoder, Encoder

INT32 = st.integers(-(2**31), 2**31 - 1)


@st.composite
def matrices(draw):
    bits = draw(st.integers(2, 8))
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    limit = 2 ** (bits - 1) - 1
    kind = draw(st.sampled_from(["uniform", "normal", "extreme"]))
    if kind == "uniform":
        codes = rng.integers(-limit, limit + 1, (rows, columns))
    elif kind == "normal":
        codes = np.clip(np.rint(rng.normal(0, max(limit / 4, 0.5), (rows, columns))), -limit, limit)
    else:
        codes = rng.choice([-limit, limit], (rows, columns))
    codes = codes * (rng.random((rows, columns)) >= draw(st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0])))
    if draw(st.booleans()):
        codes = codes * pattern(rng, rows, columns, *draw(st.sampled_from(PATTERNS)))
    return codes.astype(np.int8), bits


def pattern(rng, rows, columns, live, group):
    """A mask of ``live`` of every ``group`` neighbouring columns."""
    places = rng.random((rows, -(-columns // group), group)).argsort(axis=2)
    return (places < live).reshape(rows, -1)[:, :columns]


def encode_matrix(codes, bits):
    encoder = Encoder()
    encoder.matrix(codes.tobytes(), *codes.shape, bits)
    return encoder.finish()


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 20), INT32, st.integers(0, 18))))
def test_headers_come_back(items):
    encoder = Encoder()
    for unsigned, signed, context in items:
        encoder.unsigned(unsigned, context)
        encoder.signed(signed, context=context)
    decoder = Decoder(encoder.finish())
    for unsigned, signed, context in items:
        assert decoder.unsigned(context) == unsigned
        assert decoder.signed(context=context) == signed
    decoder.finish()


@given(st.lists(INT32, max_size=40) | st.lists(st.integers(-300, 300), max_size=200), st.booleans())
def test_vectors_come_back(values, ascending):
    data = np.array(sorted(values) if ascending else values, np.int32).tobytes()
    encoder = Encoder()
    encoder.integers(data, ascending)
    decoder = Decoder(encoder.finish())
    assert decoder.integers(len(values), ascending) == data
    decoder.finish()


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=300))))
def test_levels_come_back(case):
    count, values = case
    encoder = Encoder()
    encoder.levels(np.array(values, np.int32).tobytes(), count)
    encoder.unsigned(5)
    decoder = Decoder(encoder.finish())
    assert np.frombuffer(decoder.levels(len(values), count), np.int32).tolist() == values
    assert decoder.unsigned() == 5
    decoder.finish()


def test_levels_take_what_they_say():
    def bits(values, count):
        encoder = Encoder()
        encoder.levels(np.array(values, np.int32).tobytes(), count)
        return encoder.bits() / 256

    assert bits([0] * 100, 1) < 0.1
    assert bits([3] * 100 + [5] * 100, 8) < 25
    assert bits(np.random.default_rng(0).integers(0, 8, 1000), 8) < 3.1 * 1000


@pytest.mark.parametrize(("values", "count"), [([1], 1), ([-1], 4), ([0], 0), ([0], 9), ([8], 8)])
def test_levels_beyond_their_count_are_refused(values, count):
    with pytest.raises(ValueError, match="level"):
        Encoder().levels(np.array(values, np.int32).tobytes(), count)
    with pytest.raises(ValueError, match=r"level|32,768"):
        Decoder(bytes(9)).levels(2**15 + 1 if 0 < count < 9 else 1, count)


@given(matrices())
@settings(deadline=None)
def test_a_matrix_alone_comes_back(matrix):
    codes, bits = matrix
    encoder = Encoder()
    encoder.matrix(codes.tobytes(), *codes.shape, bits, alone=True)
    decoder = Decoder(encoder.finish())
    assert decoder.matrix(*codes.shape, bits, alone=True) == codes.tobytes()
    decoder.finish()


@given(matrices())
@settings(deadline=None)
def test_matrices_come_back(matrix):
    codes, bits = matrix
    stream = encode_matrix(codes, bits)
    assert stream == encode_matrix(codes, bits)
    decoder = Decoder(stream)
    assert decoder.matrix(*codes.shape, bits) == codes.tobytes()
    decoder.finish()


@given(st.lists(matrices(), max_size=3), st.lists(st.integers(-9999, 9999), max_size=30))
@settings(deadline=None)
def test_a_whole_policy_comes_back(layers, bias):
    data = np.array(bias, np.int32).tobytes()
    encoder = Encoder()
    for codes, bits in layers:
        encoder.unsigned(bits)
        encoder.matrix(codes.tobytes(), *codes.shape, bits)
        encoder.integers(data, False)
    decoder = Decoder(encoder.finish())
    for codes, bits in layers:
        assert decoder.unsigned() == bits
        assert decoder.matrix(*codes.shape, bits) == codes.tobytes()
        assert decoder.integers(len(bias), False) == data
    decoder.finish()


def read(data, shape=(12, 17), bits=8):
    """Whatever the bytes are: values, or ValueError."""
    decoder = Decoder(data)
    try:
        decoder.unsigned()
        decoder.signed()
        codes = np.frombuffer(decoder.matrix(*shape, bits), np.int8)
        assert np.abs(codes.astype(int)).max() < 2 ** (bits - 1)
        decoder.integers(20, False)
        ascending = np.frombuffer(decoder.integers(20, True), np.int32)
        assert (np.diff(ascending.astype(np.int64)) >= 0).all()
        decoder.finish()
    except ValueError:
        return False
    return True


@given(st.binary(max_size=300), st.integers(2, 8))
def test_any_bytes_are_safe(data, bits):
    read(data, bits=bits)


@given(hnp.arrays(np.int8, (12, 17), elements=st.integers(-127, 127)), st.data())
@settings(deadline=None)
def test_damage_is_safe(codes, data):
    encoder = Encoder()
    encoder.unsigned(7)
    encoder.signed(-7)
    encoder.matrix(codes.tobytes(), 12, 17, 8)
    values = np.arange(20, dtype=np.int32) * 100
    encoder.integers(values.tobytes(), False)
    encoder.integers(values.tobytes(), True)
    stream = encoder.finish()
    assert read(stream)
    assert not read(stream[: data.draw(st.integers(0, max(0, len(stream) - 5)))])
    assert not read(stream + b"\1\2\3\4\5")
    damaged = bytearray(stream)
    damaged[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read(bytes(damaged))


def test_sorted_values_cost_less_by_their_order():
    values = np.rint(np.random.default_rng(0).normal(0, 400, 256)).astype(np.int32)
    plain, ascending = Encoder(), Encoder()
    plain.integers(values.tobytes(), False)
    ascending.integers(np.sort(values).tobytes(), True)
    assert plain.bits() / 256 < 256 * np.log2(400 * 4.133) + 40
    assert (plain.bits() - ascending.bits()) / 256 > 0.95 * 1684  # log2(256!)


def test_costs_add_up():
    codes = np.random.default_rng(0).integers(-7, 8, (30, 40)).astype(np.int8)
    encoder = Encoder()
    cost = encoder.matrix(codes.tobytes(), 30, 40, 4)
    assert sum(cost) == pytest.approx(encoder.bits(), abs=2)
    assert encoder.bits() / 256 <= 8 * len(encoder.finish()) <= encoder.bits() / 256 + 8


def test_dense_codes_are_modelled_with_their_zeros():
    codes = np.clip(np.rint(np.random.default_rng(0).normal(0, 1.2, (24, 24))), -3, 3).astype(np.int8)
    encoder = Encoder()
    positions, _ = encoder.matrix(codes.tobytes(), 24, 24, 3)
    counts = np.unique(codes, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / codes.size)).sum()
    assert positions / 256 < 8  # zeros are values
    assert encoder.bits() / 256 < entropy + 24


@pytest.mark.parametrize(("live", "group"), PATTERNS)
@pytest.mark.parametrize("columns", [128, 130])
def test_patterns_cost_what_they_say(live, group, columns):
    """Where weights may lie and not where they might: the logarithm of the ways, and a little to learn it."""
    rng = np.random.default_rng(0)
    codes = (rng.integers(1, 100, (128, columns)) * pattern(rng, 128, columns, live, group)).astype(np.int8)
    encoder = Encoder()
    positions, _ = encoder.matrix(codes.tobytes(), *codes.shape, 8)
    groups = 128 * -(-columns // group)
    assert positions / 256 < 1.01 * groups * math.log2(math.comb(group, live)) + 40
    decoder = Decoder(encoder.finish())
    assert decoder.matrix(*codes.shape, 8) == codes.tobytes()


@pytest.mark.parametrize("signs", ["row", "column"])
def test_signs_that_run_on_cost_little(signs):
    rng = np.random.default_rng(0)
    sides = np.where(rng.random(64) < 0.5, -1, 1)
    codes = rng.integers(1, 8, (64, 64)) * (sides[:, None] if signs == "row" else sides)
    codes[rng.random(codes.shape) < 0.5] = 0
    alike, mixed = Encoder(), Encoder()
    alike.matrix(codes.astype(np.int8).tobytes(), 64, 64, 4)
    mixed.matrix((codes * rng.choice([-1, 1], codes.shape)).astype(np.int8).tobytes(), 64, 64, 4)
    assert alike.bits() < mixed.bits() - 0.7 * 256 * np.count_nonzero(codes)


def test_zeros_that_come_in_groups_cost_less():
    rng = np.random.default_rng(0)
    groups = np.repeat(rng.random((96, 12)) < 0.3, 8, axis=1)
    codes = (rng.integers(1, 8, groups.shape) * groups).astype(np.int8)
    grouped, scattered = Encoder(), Encoder()
    grouped.matrix(codes.tobytes(), *codes.shape, 4)
    for row in codes:
        rng.shuffle(row)
    scattered.matrix(codes.tobytes(), *codes.shape, 4)
    assert grouped.bits() < 0.8 * scattered.bits()


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.unsigned(-1),
        lambda e: e.unsigned(2**32),
        lambda e: e.unsigned(1, 19),
        lambda e: e.signed(2**31),
        lambda e: e.integers(b"123", False),
        lambda e: e.integers(np.array([2, 1], np.int32).tobytes(), True),
        lambda e: e.matrix(b"12", 1, 3, 8),
        lambda e: e.matrix(b"", 0, 3, 8),
        lambda e: e.matrix(b"\x02", 1, 1, 2),
        lambda e: e.matrix(b"\x00", 1, 1, 9),
        lambda e: e.matrix(b"\x80", 1, 1, 8),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"^[A-Z].*\.$"):
        call(Encoder())


def test_a_finished_stream_stays_finished():
    encoder = Encoder()
    encoder.finish()
    with pytest.raises(ValueError, match="finished"):
        encoder.unsigned(1)
