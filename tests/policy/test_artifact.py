"""Policy files: exact round trips, equal bytes for equal policies, and refusal of every damage."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from policypress.errors import ArtifactError, ObservationError, PolicypressError
from policypress.policy import artifact
from policypress.policy.codec import (
    BITS,
    COUNT,
    EXPONENT,
    FLAGS,
    FLOATS,
    FORM,
    GEOMETRY,
    INPUT_BITS,
    INPUT_LIMITS,
    INPUTS,
    KIND,
    LIMITS,
    MULTIPLIER,
    SIZE,
    Writer,
)
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Flatten, InputQuantization, Layer, Relu, Residual
from policypress.policy.payload import decode_payload, encode_payload
from policypress.policy.policy import Numerics, Policy
from policypress.testing import (
    NUMERICS,
    Kind,
    assert_same,
    make_policy,
    random_linear_policy,
    random_observations,
    with_zero_points,
)

KINDS: tuple[Kind, ...] = ("vector", "image", "tanh")
HEADER = struct.Struct("<8sHIII")


def split(data: bytes) -> list[bytes]:
    """Payload, card and test vectors of a file."""
    _, _, *lengths = HEADER.unpack_from(data)
    ends = list(itertools.accumulate(lengths, initial=HEADER.size))
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def join(payload: bytes, card: bytes, vectors: bytes, version: int = 3) -> bytes:
    """A file of these sections with a correct checksum."""
    header = HEADER.pack(b"\x89POLICY\n", version, len(payload), len(card), len(vectors))
    body = header + payload + card + vectors
    return body + hashlib.sha256(body).digest()[:8]


def refused(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as error:
        Policy.from_bytes(data)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence


# Round trips


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("numerics", "bits"),
    [("float", 32), *itertools.product(("integer", "weight-only"), range(2, 9))],
)
def test_policies_come_back_exactly(numerics: Numerics, bits: int, kind: Kind, per_output: bool) -> None:
    policy = make_policy(numerics, kind, bits=bits, seed=bits, per_output=per_output, vectors=True)
    data = artifact.encode(policy)
    back = Policy.from_bytes(data)
    assert_same(back, policy)
    assert artifact.encode(back) == data
    assert artifact.payload_size(policy) == len(split(data)[0])
    observations = random_observations(policy, 3, seed=9)
    outputs = back.outputs(observations)
    assert outputs.tobytes() == policy.outputs(observations).tobytes()
    assert len(np.unique(outputs)) > 3
    assert back.test_vectors is not None
    assert back.outputs(back.test_vectors.observations).tobytes() == back.test_vectors.outputs.tobytes()


def test_files_come_back(tmp_path: Path) -> None:
    policy = make_policy("integer", "image", vectors=True)
    artifact.save(policy, str(tmp_path / "a.policy"))
    assert_same(Policy.load(tmp_path / "a.policy"), policy)


def test_infinite_bounds_and_odd_numbers_come_back() -> None:
    policy = make_policy("float", "vector")
    bounds = np.array([-np.inf, -0.1, 0], np.float32), np.array([np.inf, 1e-45, 3e38], np.float32)
    action = ActionTransform("box", (3,), dtype="float64", low=bounds[0], high=bounds[1])
    results = {"large": 10**30, "small": 5e-324, "neg": -0.0, "text": "\u2028\0 ☃", "none": None, "yes": True}
    policy = dataclasses.replace(policy, action=action, results=results)
    assert_same(Policy.from_bytes(artifact.encode(policy)), policy)


@pytest.mark.parametrize("limits", [(0, 255), (-127, 127), (0, 15), (-32767, 32767), (-5, 9), (3, 40_000)])
@pytest.mark.parametrize("scale", [1e-30, 0.25, 2.0**-12, 0.1, 3e38])
def test_unusual_limits_and_scales_come_back(limits: tuple[int, int], scale: float) -> None:
    policy = make_policy("integer", "vector", per_output=False)
    first, second, last = policy.layers
    assert first.requantize is not None
    first = dataclasses.replace(first, requantize=dataclasses.replace(first.requantize, low=limits[0], high=limits[1]))
    last = dataclasses.replace(last, scale=np.array([scale], np.float32))
    data = artifact.encode_payload(dataclasses.replace(policy, ops=(first, second, last)))
    (back, _, end), _ = artifact.decode_payload(data)
    assert isinstance(back, Layer)
    assert isinstance(end, Layer)
    assert back.requantize is not None
    assert (back.requantize.low, back.requantize.high) == limits
    assert end.scale.tobytes() == last.scale.tobytes()


def test_shapes_of_actions_and_observations_come_back() -> None:
    policy = make_policy("integer", "vector")
    first = policy.ops[0]
    assert isinstance(first, Layer)
    six = dataclasses.replace(first, weight=np.repeat(first.weight, 2, axis=1)[:, :6])
    bounds = np.zeros((3, 1), np.float32)
    policy = dataclasses.replace(
        policy,
        ops=(Flatten(), six, *policy.ops[1:]),
        observation=ObservationTransform((2, 3), "int16", frame_stack=2),
        action=ActionTransform("box", (3, 1), low=bounds, high=bounds + 1),
        input=InputQuantization(np.arange(1, 7, dtype=np.float32), -7, 7, 4),
    )
    back = Policy.from_bytes(artifact.encode(policy))
    assert_same(back, policy)
    actions, _ = back.predict(np.ones((4, 2, 3), np.int16))
    assert actions.shape == (4, 3, 1)


def test_zero_points_come_back() -> None:
    policy = make_policy("integer", "vector")
    plain = len(encode_payload(policy))
    for points in ((300, 0, 0, -7, 0), (-(2**15), 2**15), (1,)):
        shifted = with_zero_points(policy, *points)
        assert_same(Policy.from_bytes(artifact.encode(shifted)), shifted)
        assert plain < len(encode_payload(shifted)) < plain + 20
        seen = random_observations(shifted, 50)
        assert np.array_equal(shifted.outputs(seen), shifted.outputs(seen, reference=True))
        assert not np.array_equal(shifted.outputs(seen), policy.outputs(seen))


def test_bits_of_the_input_that_cannot_be_are_refused() -> None:
    for bits in (17, 31, 33, 49, 64 + 8, 2**31):
        writer = Writer()
        writer.unsigned(bits, INPUT_BITS)
        with pytest.raises(ArtifactError, match=f"its input has {bits:,} bits"):
            decode_payload(writer.finish())


SHORT_INPUT: list[tuple[Any, ...]] = [  # behind its mark: 8 bits, signed, scale 1.0
    ("uniform", 6, 4),
    ("unsigned", 1, INPUT_LIMITS),
    ("unsigned", 1, SIZE),
    ("powers", np.zeros(1, np.int32)),
]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("uniform", 15, 4), ("uniform", 15, 4)], "its input has 49 bits"),
        ([*SHORT_INPUT, ("uniform", 1, 1), ("uniform", 7, 3), ("unsigned", 1, SIZE)], "weights of 9 bits"),
        ([*SHORT_INPUT, ("uniform", 1, 1), ("uniform", 6, 3), ("unsigned", 0, SIZE)], "a size of 0"),
        ([*SHORT_INPUT, ("uniform", 1, 1), ("uniform", 6, 3), ("unsigned", 2**20, SIZE)], "not what an encoder"),
        (
            [*SHORT_INPUT, ("uniform", 1, 1), ("uniform", 6, 3), ("unsigned", 2**23, SIZE), ("uniform", 0, 14)],
            "declares more",
        ),
        (
            [*SHORT_INPUT, ("uniform", 1, 1), ("uniform", 6, 3), ("unsigned", 1, SIZE), ("uniform", 0, 5),
             ("uniform", 31, 5), ("uniform", 2, 4), ("uniform", 3, 2)],
            "does not fit 32 bits",
        ),
        (
            [("uniform", 6, 4), ("unsigned", 1, INPUT_LIMITS), ("unsigned", 2**15 + 1, SIZE)],
            "too many exponents",
        ),
    ],
)  # fmt: skip
def test_short_forms_that_cannot_be_are_refused(steps: list[tuple[Any, ...]], words: str) -> None:
    writer = Writer()
    writer.unsigned(1, INPUT_BITS)
    for verb, *arguments in steps:
        getattr(writer, verb)(*arguments)
    with pytest.raises(ArtifactError, match=words):
        decode_payload(writer.finish())


def linear(seed: int = 0, *, bits: int = 8, points: tuple[int, ...] = ()) -> Policy:
    """A linear policy that the short form holds."""
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1) - 1
    weight = np.clip(rng.normal(0, limit / 3, (6, 17)).round(), -limit, limit).astype(np.int8)
    bias = (rng.integers(-20, 20, 6) * 64).astype(np.int32)
    one = np.ones(6, np.float32)
    policy = Policy(
        (Layer(weight, bias, bits, np.array([2.0**-12], np.float32), relu=False),),
        ObservationTransform((17,), "float64"),
        ActionTransform("box", (6,), squash=True, low=-one, high=one),
        InputQuantization(np.exp2(rng.integers(2, 7, 17)).astype(np.float32), -127, 127, 8),
        baseline_bytes=4,
    )
    return with_zero_points(policy, *points) if points else policy


@pytest.mark.parametrize("bits", range(2, 9))
def test_linear_policies_come_back(bits: int) -> None:
    for policy in (linear(bits, bits=bits), linear(bits, bits=bits, points=(300, 0, -7))):
        assert_same(Policy.from_bytes(artifact.encode(policy)), policy)
        back = Policy.from_bytes(artifact.pack(policy))
        seen = random_observations(policy, 50)
        assert np.array_equal(back.outputs(seen), policy.outputs(seen))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_linear_policy_comes_back(seed: int) -> None:
    policy = random_linear_policy(seed)
    assert_same(Policy.from_bytes(artifact.encode(policy)), policy)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"input": dataclasses.replace(p.input, inverse_scale=p.input.inverse_scale * np.float32(3))},
        lambda p: {"input": dataclasses.replace(p.input, inverse_scale=p.input.inverse_scale * np.float32(2**30))},
        lambda p: {"input": dataclasses.replace(p.input, inverse_scale=np.exp2(np.arange(17)).astype(np.float32))},
        lambda p: {"ops": (dataclasses.replace(p.ops[0], relu=True),)},
        lambda p: {"ops": (dataclasses.replace(p.ops[0], scale=np.array([0.3], np.float32)),)},
        lambda p: {"ops": (dataclasses.replace(p.ops[0], scale=np.array([2.0], np.float32)),)},
        lambda p: {"ops": (dataclasses.replace(p.ops[0], scale=np.full(6, 0.5, np.float32)),)},
        lambda p: {"ops": (dataclasses.replace(p.ops[0], bias=p.ops[0].bias * 2**14 + 1),)},
        lambda p: {"ops": (dataclasses.replace(p.ops[0], bias=p.ops[0].bias * 0),)},
        lambda p: {"ops": (Relu(), *p.ops)},
    ],
)
def test_what_the_short_form_cannot_hold_takes_the_long_one(change: Callable[[Any], dict[str, Any]]) -> None:
    policy = dataclasses.replace(linear(), **change(linear()))
    assert_same(Policy.from_bytes(artifact.encode(policy)), policy)


def test_nothing_but_numbers_is_paid_for() -> None:
    policy = linear()
    weights, biases = 17 * 6 * math.log2(127 / 3 * math.sqrt(2 * math.pi * math.e)), 6 * math.log2(40)
    assert artifact.payload_size(policy) <= (weights + biases) / 8 + 14


def test_multi_discrete_actions_come_back() -> None:
    policy = make_policy("integer", "vector")
    last = policy.ops[-1]
    assert isinstance(last, Layer)
    weight, bias = np.repeat(last.weight, 7, axis=0), np.repeat(last.bias, 7)
    wide = dataclasses.replace(last, weight=weight, bias=bias, scale=np.resize(last.scale, 21))
    nvec = (2, 1, *(2,) * 9)  # more groups than an array has dimensions
    policy = dataclasses.replace(
        policy, ops=(*policy.ops[:-1], wide), action=ActionTransform("multi-discrete", (11,), "int64", nvec=nvec)
    )
    back = Policy.from_bytes(artifact.encode(policy))
    assert_same(back, policy)
    assert back.action.nvec == nvec
    assert back.predict(np.ones((4, 5)))[0].shape == (4, 11)
    assert "2x1x2x2x2x2x2x2x2x2x2 choices" in repr(back)


def test_a_sparse_float_policy_is_stored_sparse() -> None:
    policy = make_policy("float", "vector")
    first, *rest = policy.ops
    assert isinstance(first, Layer)
    sparse = dataclasses.replace(first, weight=np.where(np.arange(45).reshape(9, 5) % 9, 0, first.weight))
    smaller = dataclasses.replace(policy, ops=(sparse, *rest))
    assert artifact.payload_size(smaller) < artifact.payload_size(policy) - 60
    assert_same(Policy.from_bytes(artifact.encode(smaller)), smaller)


def test_equal_policies_give_equal_bytes() -> None:
    for numerics, kind in itertools.product(NUMERICS, KINDS):
        one = make_policy(numerics, kind, vectors=True)
        two = make_policy(numerics, kind, vectors=True)
        assert artifact.encode(one) == artifact.encode(two)
        reordered = dataclasses.replace(two, provenance=dict(reversed(two.provenance.items())))
        assert artifact.encode(one) == artifact.encode(reordered)
        other = make_policy(numerics, kind, seed=1, vectors=True)
        assert artifact.encode(one) != artifact.encode(other)


def test_memory_layout_does_not_matter() -> None:
    policy = make_policy("weight-only", "vector")
    first, *rest = policy.ops
    assert isinstance(first, Layer)
    turned = dataclasses.replace(first, weight=np.asfortranarray(first.weight))
    assert artifact.encode(dataclasses.replace(policy, ops=(turned, *rest))) == artifact.encode(policy)


def test_the_payload_holds_only_what_runs() -> None:
    policy = make_policy("integer", "vector", vectors=True)
    bare = dataclasses.replace(
        policy,
        ops=tuple(
            dataclasses.replace(op, name="a" * 99, scale=op.scale if op is policy.ops[-1] else 2 * op.scale)
            for op in policy.ops
            if isinstance(op, Layer)
        ),
        provenance={},
        results={},
        test_vectors=None,
    )
    payload = artifact.encode_payload(policy)
    assert artifact.encode_payload(bare) == payload
    assert_same(Policy.from_bytes(artifact.encode(bare)), bare)
    ops, quantization = artifact.decode_payload(payload)
    assert_same(quantization, policy.input)
    for op, layer in zip(ops, policy.layers, strict=True):
        assert isinstance(op, Layer)
        assert_same(op.weight, layer.weight)
        assert_same(op.requantize, layer.requantize)
    assert_same(dataclasses.replace(ops[-1], name="mean"), policy.layers[-1])


def test_bytes_of_the_frame_by_hand() -> None:
    policy = make_policy("integer", "vector")
    data = artifact.encode(policy)
    payload, card, vectors = split(data)
    assert data == join(payload, card, vectors)
    assert vectors == b""
    assert json.loads(card)["observation"]["dtype"] == "float64"
    assert list(json.loads(card)) == sorted(json.loads(card))


# Files


def test_saving_replaces_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.policy"
    old, new = make_policy("integer", "vector"), make_policy("integer", "vector", seed=1)
    artifact.save(old, path)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(PolicypressError, match="No space left"):
        artifact.save(new, path)
    monkeypatch.undo()
    assert_same(Policy.load(path), old)
    artifact.save(new, path)
    assert_same(Policy.load(path), new)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.policy"]


def test_files_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    policy = make_policy("integer", "vector")
    with pytest.raises(PolicypressError, match=r"Cannot write .*No such file"):
        artifact.save(policy, tmp_path / "nowhere" / "a.policy")
    with pytest.raises(ArtifactError, match=r"Cannot read .*No such file"):
        Policy.load(tmp_path / "nothing.policy")
    with pytest.raises(ArtifactError, match=r"Cannot read .*directory"):
        Policy.load(tmp_path)
    (tmp_path / "text.policy").write_text("hello, this is text")
    with pytest.raises(ArtifactError, match=r"Cannot load .*text\.policy: it is not a policy file\."):
        Policy.load(tmp_path / "text.policy")


@pytest.mark.parametrize(
    "provenance",
    [
        {"a": math.nan},
        {"a": math.inf},
        {"a": (1, 2)},
        {1: "a"},
        {"a": np.float32(1)},
        {"a": b"x"},
        {"a": "\ud800"},
    ],
)
def test_what_is_no_json_is_refused(provenance: Any, tmp_path: Path) -> None:
    policy = dataclasses.replace(make_policy("integer", "vector"), provenance=provenance)
    with pytest.raises(PolicypressError, match="JSON values"):
        artifact.save(policy, tmp_path / "a.policy")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_too_large_for_its_reader_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MAX_FILE_BYTES", 100)
    with pytest.raises(PolicypressError, match="at most 100"):
        artifact.encode(make_policy("integer", "vector"))


# Damage


FILE = artifact.encode(make_policy("integer", "vector", vectors=True))


@pytest.mark.parametrize("data", [b"", b"\x89PO", b"PK\x03\x04" + bytes(60), b"\x80\x04\x95" + bytes(60), bytes(99)])
def test_what_is_no_policy(data: bytes) -> None:
    refused(data, "not a policy file")


def test_a_file_whose_line_ends_were_converted() -> None:
    refused(FILE.replace(b"\n", b"\r\n"), "not a policy file")


@pytest.mark.parametrize("version", [0, 1, 2, 65535])
def test_other_versions(version: int) -> None:
    refused(join(*split(FILE), version=version), f"version {version}, but this policypress reads version 3")


def test_truncation_at_every_byte() -> None:
    for size in range(8, len(FILE)):
        refused(FILE[:size], "truncated")


def test_every_altered_byte() -> None:
    for place in range(len(FILE)):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(FILE)
            damaged[place] ^= flip
            with pytest.raises(ArtifactError):
                Policy.from_bytes(bytes(damaged))


def test_bytes_after_the_end() -> None:
    refused(FILE + b"\0", "altered")
    longer = FILE[:-8] + b"\0"
    refused(longer + hashlib.sha256(longer).digest()[:8], "altered")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"baseline_bytes":', '"baseline_bytes": ', "canonical"),
        ('{"action"', '{"action":1,"action"', "canonical"),
        ('"frame_stack":1', '"frame_stack":true', "frame_stack"),
        ('"frame_stack":1', '"frame_stack":0', "frame_stack"),
        ('"frame_stack":1', '"frame_stack":NaN', "canonical"),
        ('"frame_stack":1,', "", "frame_stack"),
        ('"frame_stack":1,', '"frame_stack":1,"gravity":1,', "others"),
        ('"image":false', '"image":0', "image"),
        ('"dtype":"float64"', '"dtype":"object"', "dtypes"),
        ('"kind":"box"', '"kind":"cone"', "kind"),
        ('"kind":"box"', '"kind":"discrete"', "discrete"),
        ('"kind":"box"', '"kind":"multi-discrete"', "nvec"),
        ('"shape":[3]', '"nvec":[3],"shape":[3]', "others"),
        ('"shape":[5]', '"shape":[-5]', "shape"),
        ('"shape":[5]', '"shape":[5.0]', "shape"),
        ('"shape":[5]', '"shape":[1000000000,1000000000]', "normalization"),
        ('"shape":[3]', '"shape":[3000000000]', "shape"),
        ('"shape":[3]', '"shape":[4]', "bounds"),
        ('"low":[-2.0,', '"low":["-inf",', "bounds"),
        ('"low":[-2.0,', '"low":["minus two",', "low"),
        ('"low":[-2.0,', '"low":[-2,', "low"),
        ('"low":[-2.0,', '"low":[-2.1,', "low"),
        ('"low":[-2.0,', '"low":[-1e+300,', "low"),
        ('"low":[-2.0,', '"low":[', "bounds"),
        ('"epsilon_clip":[1e-08,4.0]', '"epsilon_clip":[1e-08]', "normalization"),
        ('"epsilon_clip":[1e-08,4.0]', '"epsilon_clip":[1e-08,-4.0]', "clip"),
        ('{"name":"first"', '{"name":"extra","scale":null,"trained_shape":[]},{"name":"first"', "scale"),
        (
            '"name":"mean","scale":null',
            '"name":"mean","scale":null,"trained_shape":[]},{"name":"","scale":null',
            "more",
        ),
        ('"name":"mean","scale":null', '"name":"mean","scale":[1.0]', "one scale"),
        (',{"name":"mean","scale":null,"trained_shape":[]}', "", "fewer layers"),
        (
            '"name":"mean","scale":null,"trained_shape":[]',
            '"name":"mean","scale":null,"trained_shape":[1,1]',
            "trained",
        ),
        ('"name":"mean","scale":null,"trained_shape":[]', '"name":"mean","scale":null,"trained_shape":[9]', "trained"),
        ('"name":"mean"', '"name":7', "name"),
        ('"provenance":{', '"provenance":[{', "canonical"),
        ('"results":{"n":3', '"results":{"n":"\ud800"', "canonical"),
    ],
)
def test_cards_that_lie(old: str, new: str, words: str) -> None:
    payload, card, vectors = split(FILE)
    text = card.decode()
    assert old in text
    lie = text.replace(old, new, 1).encode("utf-8", "surrogatepass")
    refused(join(payload, lie, vectors), words)


@pytest.mark.parametrize("card", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 9999])
def test_cards_that_are_no_cards(card: bytes) -> None:
    payload, _, vectors = split(FILE)
    refused(join(payload, card, vectors), "card")


def test_test_vectors_that_do_not_match() -> None:
    payload, card, vectors = split(FILE)
    for wrong in (vectors[:-1], vectors + b"\0", vectors[:7], struct.pack("<II", 2**32 - 1, 3) + vectors[8:]):
        refused(join(payload, card, wrong), "section|declares")
    empty = struct.pack("<II", 0, 3)
    assert len(Policy.from_bytes(join(payload, card, empty)).test_vectors.observations) == 0  # type: ignore[union-attr]
    refused(join(payload, card, struct.pack("<II", 0, 4)), "Test vectors")


HUGE = 2**23
Step = tuple[Any, ...] | NDArray[Any]


def stream(*steps: Step) -> bytes:
    """A payload: verbs of a Writer with their arguments, and vectors of integers."""
    writer = Writer()
    for step in steps:
        if isinstance(step, tuple):
            verb, *arguments = step
            getattr(writer, verb)(*arguments)
        else:
            writer.integers(step)
    return writer.finish()


def layer(outputs: int, inputs: int, *, kind: int = 0, flags: int = 0, bits: int = 8) -> list[Step]:
    """The beginning of a policy of one layer."""
    return [
        ("unsigned", 1, COUNT),
        ("unsigned", kind, KIND),
        ("unsigned", flags, FLAGS),
        ("unsigned", bits, BITS),
        ("unsigned", outputs, SIZE),
        ("unsigned", inputs, INPUTS),
    ]


def multiplier(digits: int) -> list[Step]:
    """The beginning of one of so many binary digits."""
    return [("unsigned", 0, LIMITS), ("unsigned", 0, FORM), ("unsigned", digits, MULTIPLIER)]


FLOAT_INPUT: list[Step] = [("unsigned", 0, INPUT_BITS)]
ONE_INPUT: list[Step] = [  # 8 bits, signed, scale 1.0
    ("unsigned", 8, INPUT_BITS),
    ("unsigned", 1, INPUT_LIMITS),
    ("unsigned", 1, SIZE),
    ("floats", np.ones(1, np.float32)),
]
NOTHING = np.zeros(1, np.int32)
ZEROS = FLOATS[0]


@pytest.mark.parametrize(
    "payload",
    [
        stream(*FLOAT_INPUT, *layer(HUGE, HUGE)),
        stream(*FLOAT_INPUT, *layer(2**16 - 1, 129)),
        stream(*FLOAT_INPUT, *layer(1, HUGE, bits=32), NOTHING),
        stream(*FLOAT_INPUT, *layer(128, 2**16 - 1), NOTHING),
        stream(*FLOAT_INPUT, *layer(128, 2**16 - 1, bits=32), NOTHING),
        stream(*FLOAT_INPUT, *layer(1, 1, kind=1), *[("unsigned", 2**20, GEOMETRY)] * 6),
        stream(*FLOAT_INPUT, *layer(1, 1, kind=1), *[("unsigned", 0, GEOMETRY)] * 6),
        stream(*ONE_INPUT, *layer(2**16 - 1, 0), NOTHING),
        stream(*ONE_INPUT, *layer(2**16 - 1, 0, flags=2), ("unsigned", 0, LIMITS)),
        stream(*ONE_INPUT, *layer(1, 0, flags=2), *multiplier(0)),
        stream(*ONE_INPUT, *layer(1, 0, flags=2), *multiplier(9)),
        stream(*ONE_INPUT, *layer(HUGE, 1), NOTHING),
        stream(("unsigned", 8, INPUT_BITS), ("unsigned", 1, INPUT_LIMITS), ("unsigned", HUGE, SIZE)),
        stream(
            ("unsigned", 8, INPUT_BITS), ("unsigned", 1, INPUT_LIMITS), ("unsigned", 1, SIZE), ("unsigned", 32, ZEROS)
        ),
        stream(("unsigned", 17, INPUT_BITS)),
        stream(("unsigned", 8, INPUT_BITS), ("unsigned", 3, INPUT_LIMITS)),
        stream(("unsigned", 8, INPUT_BITS), ("unsigned", 3 + 2 * 17, INPUT_LIMITS)),
        stream(("unsigned", 8, INPUT_BITS), ("unsigned", 2**32 - 1, INPUT_LIMITS)),
        stream(*FLOAT_INPUT, ("unsigned", 2**31, COUNT)),
        stream(*FLOAT_INPUT, *[("unsigned", 1, COUNT), ("unsigned", 5, KIND)] * 500),
        stream(*FLOAT_INPUT, ("unsigned", 1, COUNT), ("unsigned", 9, KIND)),
        stream(*ONE_INPUT, *layer(1, 0, flags=4), ("unsigned", 0, FORM), ("signed", 300, EXPONENT)),
        stream(*ONE_INPUT, *layer(1, 0, flags=4), ("unsigned", 0, FORM), ("signed", -(2**31), EXPONENT)),
        stream(*FLOAT_INPUT, *layer(1, 1, flags=8)),
        stream(*FLOAT_INPUT, *layer(1, 1, bits=9)),
        stream(*FLOAT_INPUT, *layer(0, 1)),
        stream(*FLOAT_INPUT, *layer(1, 0)),
        b"",
    ],
)
def test_hostile_sizes_allocate_little(payload: bytes) -> None:
    _, card, vectors = split(FILE)
    data = join(payload, card, vectors)
    tracemalloc.start()
    refused(data, "Cannot decode the policy: ")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_weights_are_bounded_together() -> None:
    """A file of many large layers is refused before it has taken the time to decode them all."""

    def payload(outputs: int) -> bytes:
        arrays: list[Step] = [("floats", np.zeros(128, np.float32)), ("matrix", np.zeros((128, 2**15), np.int8), 8)]
        first = [*layer(128, 2**15), *arrays]
        first[0] = ("unsigned", 2, COUNT)
        return stream(*FLOAT_INPUT, *first, *layer(outputs, 2**15)[1:])

    with pytest.raises(ArtifactError, match="its layers declare 8,421,376 weights; there may be 8,388,608"):
        artifact.decode_payload(payload(129))
    with pytest.raises(ArtifactError, match="not what an encoder writes"):  # it ends there
        artifact.decode_payload(payload(128))


def test_a_payload_that_could_overflow_is_refused() -> None:
    policy = make_policy("integer", "vector")
    _, card, _ = split(artifact.encode(policy))
    last = policy.layers[-1]
    object.__setattr__(last, "bias", np.full(3, 2**31 - 1, np.int32))  # past the checks
    refused(join(artifact.encode_payload(policy), card, b""), "overflows 32 bits")


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """``data`` with one to three random edits: bits, bytes, extremes, removals, insertions, swaps."""
    edited = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(edited))) if edited else 0
        size = int(rng.integers(1, 5))
        match rng.integers(6):
            case 0 if edited:
                edited[place] ^= 1 << int(rng.integers(8))
            case 1 if edited:
                edited[place] = int(rng.integers(256))
            case 2:
                edited[place : place + size] = rng.choice([b"\xff", b"\0", b"\x7f", b"\x80"]) * size
            case 3:
                del edited[place : place + size]
            case 4:
                edited[place:place] = rng.bytes(size)
            case _:
                edited[place : place + size] = edited[place : place + size][::-1]
    return bytes(edited)


@pytest.mark.parametrize("section", [0, 1, 2])
@pytest.mark.parametrize(("numerics", "kind"), list(itertools.product(NUMERICS, KINDS)))
def test_mutations_with_a_corrected_checksum(numerics: Numerics, kind: Kind, section: int) -> None:
    rng = np.random.default_rng(section)
    sections = split(artifact.encode(make_policy(numerics, kind, bits=4, vectors=True)))
    accepted = 0
    for _ in range(150):
        changed = list(sections)
        changed[section] = mutate(rng, sections[section])
        try:
            policy = Policy.from_bytes(join(*changed))
        except ArtifactError:
            continue  # any other exception fails the test
        # What is accepted must run, and come back when it is written again.
        accepted += 1
        assert_same(Policy.from_bytes(artifact.encode(policy)), policy)
        try:
            outputs = policy.outputs(random_observations(policy, 1))
        except ObservationError:
            continue  # absurd scales may overflow float32
        assert np.isfinite(outputs).all()
    if section == 0:
        assert accepted > 0


@pytest.mark.parametrize("numerics", NUMERICS)
def test_mutations_of_whole_files(numerics: Numerics) -> None:
    rng = np.random.default_rng(0)
    data = artifact.encode(make_policy(numerics, "image", vectors=True))
    for _ in range(700):
        damaged = mutate(rng, data)
        if damaged != data:
            with pytest.raises(ArtifactError):
                Policy.from_bytes(damaged)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.booleans())
def test_any_payload_decodes_or_is_refused(payload: bytes, integer: bool) -> None:
    _, card, vectors = split(FILE)
    begin = stream(*(ONE_INPUT if integer else FLOAT_INPUT), *layer(3, 2))
    with contextlib.suppress(ArtifactError):  # any other exception fails the test
        Policy.from_bytes(join(begin[:-1] + payload, card, vectors))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_policy(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        Policy.from_bytes(data)
    with pytest.raises(ArtifactError):
        Policy.from_bytes(b"\x89POLICY\n" + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.text())
def test_any_provenance_and_name_come_back(provenance: dict[str, Any], name: str) -> None:
    policy = make_policy("float", "vector")
    first, *rest = policy.ops
    assert isinstance(first, Layer)
    ops = (dataclasses.replace(first, name=name), *rest)
    policy = dataclasses.replace(policy, ops=ops, provenance=provenance)
    assert_same(Policy.from_bytes(artifact.encode(policy)), policy)


def test_residual_blocks_nest() -> None:
    policy = make_policy("weight-only", "image")
    block = policy.ops[2]
    assert isinstance(block, Residual)
    nested = Residual((Residual((*block.body, block)),))
    policy = dataclasses.replace(policy, ops=(*policy.ops[:2], nested, *policy.ops[3:]))
    back = Policy.from_bytes(artifact.encode(policy))
    assert_same(back, policy)
    observation = random_observations(policy, 2)
    assert back.outputs(observation).tobytes() == policy.outputs(observation).tobytes()


def test_a_loaded_policy_does_not_share_or_freeze_memory() -> None:
    policy: Policy = Policy.from_bytes(FILE)
    for layer in policy.layers:
        assert layer.weight.flags.writeable
        assert layer.bias.dtype == np.int32
        assert layer.bias.dtype.isnative
