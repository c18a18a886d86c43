"""The native engine computes what the reference computes, bit for bit, with every set of kernels of this machine."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import policypress as pp
from policypress.errors import ObservationError, PolicypressError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Flatten, InputQuantization, Layer, MaxPool2d, Op, Relu, Requantization, Residual
from policypress.policy.policy import Numerics, Policy
from policypress.policy.reference import run as to_outputs
from policypress.runtime import engine, native, structures
from policypress.runtime.lower import Fields, Input, Output, Step, _is_wide, lower, packed, sparse_pairs
from policypress.testing import NUMERICS, Builder, Kind, make_policy, random_observations, stored_policies
from quick import quick

KERNELS = ("portable", "avx2", "avx2sparse", "avxvnni", "avxvnnisparse", "avx512", "avx512vbmi")


# Sets with sparse kernels have the dense ones of those without.
@pytest.fixture(params=quick(KERNELS, set(KERNELS) - {"avx2", "avxvnni"}))
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each set of kernels that this machine has."""
    name: str = request.param
    if name != "portable":
        monkeypatch.setenv("POLICYPRESS_KERNELS", name)
        if "dense" not in _steps(make_policy("integer", "vector")) + _steps(make_policy("integer", "image")):
            pytest.skip(f"this machine does not have {name}")
    return name


def _steps(policy: Policy) -> list[str]:
    return native.make_engine(policy).kernels()


def assert_agrees(policy: Policy, observations: NDArray[Any], kernels: str) -> None:
    """Outputs and actions of the batch, and of its first and last observation alone, equal the reference's."""
    made = native.make_engine(policy, portable=kernels == "portable")
    outputs = policy.outputs(observations, reference=True)
    actions = policy.predict(observations, reference=True)[0]
    found = made.outputs(observations)
    assert found is not None
    assert found.tobytes() == outputs.tobytes()
    found = made.predict(observations)
    assert found is not None
    assert (found.dtype, found.shape, found.tobytes()) == (actions.dtype, actions.shape, actions.tobytes())
    for i in (0, -1):
        one = made.predict(observations[i])
        assert one is not None
        assert (one.shape, one.tobytes()) == (policy.action.shape, actions[i].tobytes())


def vector_policy(
    numerics: Numerics, sizes: tuple[int, ...], density: float, bits: int, seed: int, per_output: bool = True
) -> Policy:
    b = Builder(numerics, bits, seed, per_output, density)
    last = len(sizes) - 2
    ops = tuple(
        b.layer(out, size, role="raw" if i == last else "hidden", name=str(i))
        for i, (size, out) in enumerate(itertools.pairwise(sizes))
    )
    bound = np.ones(sizes[-1], np.float32)
    quantization = InputQuantization(b.rng.uniform(10, 60, sizes[0]).astype(np.float32), -127, 127, 8)
    return Policy(
        ops,
        ObservationTransform(sizes[:1], "float32"),
        ActionTransform("box", sizes[-1:], squash=True, low=-bound, high=2 * bound),
        quantization if numerics == "integer" else None,
        baseline_bytes=4,
    )


def image_policy(numerics: Numerics, seed: int, density: float) -> Policy:
    """Random convolutions, poolings and residual blocks, then two linear layers."""
    b = Builder(numerics, 8, seed, bool(seed % 2), density)
    rng = b.rng
    shape: tuple[int, ...] = (int(rng.integers(1, 6)), int(rng.integers(5, 12)), int(rng.integers(5, 12)))
    observation = ObservationTransform(shape, "uint8", image=True)
    ops: list[Op] = []
    for i in range(int(rng.integers(1, 4))):
        kernel, stride = rng.integers(1, 4, 2), tuple(int(n) for n in rng.integers(1, 3, 2))
        padding = tuple(int(rng.integers(0, k)) for k in kernel)
        if any(n + 2 * p < k for n, p, k in zip(shape[1:], padding, kernel, strict=True)):
            break
        outputs = int(rng.integers(1, 40))
        ops.append(b.layer(outputs, shape[0], *kernel, role="signed", name=f"{i}", stride=stride, padding=padding))
        shape = ops[-1].output_shape(shape)
        if rng.random() < 0.5:
            ops.append(b.residual(outputs, f"r{i}"))
        if rng.random() < 0.5:
            ops.append(Relu())
        if rng.random() < 0.5 and min(shape[1:]) >= 2:
            ops.append(MaxPool2d((2, 2), (2, 1), (1, 0)))
            shape = ops[-1].output_shape(shape)
    ops.append(Flatten())
    ops.append(b.layer(9, int(np.prod(shape)), role="hidden", name="dense"))
    ops.append(b.layer(5, 9, role="raw", name="q"))
    return Policy(
        tuple(ops),
        observation,
        ActionTransform("discrete", dtype="int64", start=int(rng.integers(-3, 3))),
        InputQuantization(np.array([rng.choice([255, 200])], np.float32), 0, 255, 8) if b.integer else None,
        baseline_bytes=4,
    )


@pytest.mark.parametrize(
    ("structure", "fields", "others"),
    [
        ("engine_step", Step, {"run", "prepared"}),
        ("engine_input", Input, {"run", "prepared"}),
        ("engine_output", Output, {"to_values", "to_actions", "prepared"}),
    ],
)
def test_fields_are_those_of_the_header(structure: str, fields: type[Fields], others: set[str]) -> None:
    """Others are of the machine's kernels, which ``engine_prepare`` sets."""
    ours = {field.name for field in dataclasses.fields(fields) if not field.metadata.get("beside")}
    assert ours | others == {field[0] for field in engine.STRUCTURES[structure][1]}
    assert not ours & others


def test_structures_are_those_of_the_header() -> None:
    for structure, (size, fields) in engine.STRUCTURES.items():
        dtype = structures.dtype_of(structure)
        assert dtype.itemsize == size
        assert dtype.fields is not None
        assert {name: at for name, (_, at, *_) in dtype.fields.items()} == {name: at for name, _, _, at, _ in fields}


def test_every_name_of_the_header_is_one_in_python() -> None:
    enumerations = (structures.Type, structures.Kind, structures.Form, structures.Finish)
    enumerations += (structures.Dtype, structures.Action, structures.CellNumber)
    assert {name.c: name.value for names in enumerations for name in names} == engine.NAMES


def test_structures_shrink_by_what_a_build_leaves_out() -> None:
    uses = {use for _, fields in engine.STRUCTURES.values() for _, _, use, _, _ in fields} - {"ALWAYS"}
    everything = dict.fromkeys((f"ENGINE_USE_{use}" for use in uses), 1)
    for structure, (size, _) in engine.STRUCTURES.items():
        assert structures.size_of(structure, everything, pointer=8) == size
    assert (
        structures.size_of("engine_step", dict.fromkeys(everything, 0))
        < structures.size_of("engine_step", everything) / 2
    )


@given(st.integers(16, 255), st.integers(1, 31), st.integers(-(2**24), 0), st.integers(1, 2**24))
def test_sums_that_are_clipped_first_are_past_the_limits(multiplier: int, shift: int, low: int, high: int) -> None:
    """In 32 bits kernels clip sums to 2**23, or to 2**23 - 1 where a processor has an instruction for that."""
    ratio = Requantization(np.array([multiplier], np.int32), np.array([shift], np.int32), low, high)
    if _is_wide(ratio):
        return

    def code(total: int) -> int:
        return min(max((total * multiplier + (1 << (shift - 1))) >> shift, low), high)

    for total in (-(2**31), -(2**23) - 1, -(2**23), 2**23 - 1, 2**23, 2**23 + 1, 2**31 - 1):
        for most in (2**23 - 1, 2**23):
            clipped = min(max(total, -(2**23)), most)
            assert code(clipped) == code(total)
            assert clipped * multiplier + (1 << (shift - 1)) < 2**31


@pytest.mark.parametrize("compiled", ["0" * 64, None])
def test_an_engine_of_other_sources_is_refused(compiled: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled is None:  # from before there was a version
        monkeypatch.delattr(engine, "INTERFACE")
    else:
        monkeypatch.setattr(engine, "INTERFACE", compiled)
    for module in ("native", "lower", "structures"):
        monkeypatch.delitem(sys.modules, f"policypress.runtime.{module}")
    with pytest.raises(PolicypressError, match=r"compiled engine is of another version .*make venv or pip install"):
        make_policy("integer", "vector").predict(np.zeros(5, np.float32))


@pytest.mark.parametrize("kind", ["vector", "image", "tanh"])
@pytest.mark.parametrize("numerics", NUMERICS)
def test_agrees_in_every_numerics(kernels: str, numerics: Numerics, kind: Kind) -> None:
    for bits in range(2, 9):
        policy = make_policy(numerics, kind, bits, seed=bits, per_output=bool(bits % 2))
        assert_agrees(policy, random_observations(policy, 11, bits), kernels)


@pytest.mark.parametrize("numerics", ["integer", "weight-only"])
def test_agrees_for_all_sizes(kernels: str, numerics: Numerics) -> None:
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.integers(1, 300), min_size=2, max_size=4),
        st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
        st.integers(2, 8),
        st.integers(1, 70),
        st.integers(0, 2**16),
    )
    def check(sizes: list[int], density: float, bits: int, rows: int, seed: int) -> None:
        policy = vector_policy(numerics, tuple(sizes), density, bits, seed, per_output=bool(seed % 2))
        observations = random_observations(policy, rows, seed)
        observations[0] *= 1e6  # saturates
        assert_agrees(policy, observations, kernels)

    check()


@pytest.mark.parametrize("numerics", ["integer", "weight-only"])
def test_agrees_for_images(kernels: str, numerics: Numerics) -> None:
    for seed in range(25):
        policy = image_policy(numerics, seed, density=(0.05, 0.3, 1.0)[seed % 3])
        assert_agrees(policy, random_observations(policy, 3, seed), kernels)


def test_the_sparse_kernel_is_really_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLICYPRESS_KERNELS", raising=False)
    if engine.KERNELS not in ("avx512vbmi", "avxvnnisparse", "avx2sparse"):
        pytest.skip("this machine has no sparse kernels")
    assert _steps(vector_policy("integer", (17, 256, 256, 6), 0.02, 8, 0))[1] == "sparse"
    assert _steps(vector_policy("integer", (17, 256, 256, 6), 1.0, 8, 0))[1] == "dense"


def test_wide_codes_and_requantizations(kernels: str) -> None:
    """Inputs of 16 bits, limits past bytes, and shifts that 32 bits do not do."""
    b = Builder("integer", 8, 3, True)
    hidden = b.layer(20, 7, role="signed", name="wide")
    for low, high, multiplier, shift in (
        (-40000, 50000, 255, 1),
        (-100, 90, 16, 31),
        (-300, 20, 130, 24),
        (5, 90, 99, 9),
    ):
        requantize = Requantization(np.array([multiplier], np.int32), np.array([shift], np.int32), low, high)
        ops = (
            Layer(hidden.weight, hidden.bias * 7, 8, hidden.scale, False, requantize, name="wide"),
            Relu(),
            b.layer(3, 20, role="raw", name="out"),
        )
        bounds = np.full(3, 9, np.float32)
        policy = Policy(
            ops,
            ObservationTransform((7,), "float64"),
            ActionTransform("box", (3,), dtype="float64", low=-bounds, high=bounds),
            InputQuantization(np.full(7, 900, np.float32), -32767, 32767, 16),
            baseline_bytes=4,
        )
        assert_agrees(policy, random_observations(policy, 20, shift), kernels)


def test_residual_blocks_inside_one_another(kernels: str) -> None:
    b = Builder("integer", 8, 5, True)
    inner = b.residual(16, "inner")
    middle = Requantization(np.array([128], np.int32), np.array([7], np.int32), -(2**31), 2**31 - 1)
    outer = Residual((inner, Relu(), MaxPool2d((3, 3), (1, 1), (1, 1))), middle, middle, -100, 120)
    ops = (outer, Flatten(), b.layer(4, 16 * 36, role="raw", name="q"))
    policy = Policy(
        ops,
        ObservationTransform((16, 6, 6), "uint8", image=True),
        ActionTransform("multi-discrete", (2,), dtype="int64", nvec=(1, 3)),
        InputQuantization(np.array([120], np.float32), 0, 120, 8),
        baseline_bytes=4,
    )
    assert_agrees(policy, random_observations(policy, 3), kernels)


@pytest.mark.parametrize(
    ("numerics", "density", "size", "refuses"), [("weight-only", 0.2, 3e37, True), ("float", 0.1, 3.4e38, False)]
)
def test_infinite_values_inside_a_float_network_follow_the_reference(
    numerics: Numerics, density: float, size: float, refuses: bool, kernels: str
) -> None:
    """Where a hidden unit overflows, zero weights must not multiply it."""
    policy = vector_policy(numerics, (4, 40, 40, 2), density, 8, 1)
    observations = np.float32(size) * np.random.default_rng(0).uniform(-1, 1, (40, 4)).astype(np.float32)
    made = native.make_engine(policy, portable=kernels == "portable")
    refused = infinite = 0
    for observation in observations:
        record: list[NDArray[Any]] = []
        try:
            to_outputs(policy, observation[None], record)
            expected = policy.outputs(observation, reference=True)
        except ObservationError:
            refused += 1
            assert made.outputs(observation) is None
        else:
            infinite += any(np.isinf(values).any() for values in record)
            found = made.outputs(observation)
            assert found is not None
            assert found.tobytes() == expected.tobytes()
    assert (refused > 0) == refuses
    assert infinite > 0


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int16", "int32", "int64", "uint8"])
def test_every_dtype_of_observations(dtype: str, kernels: str) -> None:
    b = Builder("integer", 8, 1, False)
    bounds = np.ones(2, np.float32)
    policy = Policy(
        (Flatten(), b.layer(6, 35, role="hidden", name="a"), b.layer(2, 6, role="raw", name="b")),
        ObservationTransform((5, 7), dtype),
        ActionTransform("box", (2,), low=-bounds, high=bounds),
        InputQuantization(b.rng.uniform(0.5, 3, 35).astype(np.float32), -127, 127, 8),
        baseline_bytes=4,
    )
    assert_agrees(policy, (30 * np.random.default_rng(1).normal(size=(9, 5, 7))).astype(dtype), kernels)


def test_predict_takes_what_the_reference_takes() -> None:
    policy = make_policy("integer", "vector", vectors=True)
    observations = random_observations(policy, 6)
    expected = policy.predict(observations, reference=True)[0]
    state = (np.zeros(1),)
    for given_ in (
        observations,
        observations[:, ::-1][:, ::-1],
        observations.tolist(),
        np.asfortranarray(observations),
    ):
        actions, returned = policy.predict(given_, state, None, True)
        assert np.array_equal(actions, expected)
        assert returned is state
    assert np.array_equal(policy.predict(observation=observations, deterministic=True)[0], expected)
    rounded = observations.astype(np.float32)
    assert np.array_equal(policy.predict(rounded)[0], policy.predict(rounded, reference=True)[0])
    assert policy.predict(observations[2])[0].shape == (3,)
    assert policy.predict(observations[:0])[0].shape == (0, 3)
    assert policy.outputs(observations[2]).shape == (1, 3)

    image = make_policy("integer", "image")
    frames = random_observations(image, 3)
    expected = image.predict(frames, reference=True)[0]
    assert np.array_equal(image.predict(np.moveaxis(frames, 1, -1))[0], expected)
    assert np.array_equal(image.predict(frames[1])[0], expected[1])


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float16, ">f8"])
def test_predict_takes_numbers_of_any_kind(dtype: Any) -> None:
    policy = make_policy("integer", "vector")
    observation = np.array([1, 0, 1, 1, 0]).astype(dtype)
    expected = policy.predict(observation.astype(np.float64), reference=True)[0]
    for value in (observation, observation.tolist(), observation[None]):
        assert np.array_equal(np.squeeze(policy.predict(value)[0]), np.squeeze(expected))


def test_predict_refuses_what_the_reference_refuses() -> None:
    policy = make_policy("integer", "vector")
    observation = random_observations(policy, 1)[0]
    for reference in (False, True):
        with pytest.raises(ObservationError, match="NaN, infinite or too large"):
            policy.predict(observation * np.nan, reference=reference)
        with pytest.raises(ObservationError, match="of shape"):
            policy.predict(observation[:2], reference=reference)
        with pytest.raises(ObservationError, match="float64 observations, but got complex128"):
            policy.predict(observation.astype(np.complex128), reference=reference)
        with pytest.raises(PolicypressError, match="deterministic=True"):
            policy.predict(observation, deterministic=False, reference=reference)
    with pytest.raises(TypeError, match="unexpected keyword argument 'noise'"):
        policy.predict(observation, noise=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        policy.predict()  # type: ignore[call-arg]


def test_an_engine_serves_many_threads() -> None:
    policy = vector_policy("integer", (17, 256, 256, 6), 0.1, 8, 0)
    batches = [random_observations(policy, 300, seed) for seed in range(8)]
    expected = [policy.predict(batch, reference=True)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda batch: policy.predict(batch)[0], batches))
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_policies_with_an_engine_are_copied_pickled_and_freed() -> None:
    policy = make_policy("integer", "vector")
    observation = random_observations(policy, 1)[0]
    expected = policy.predict(observation)[0]
    for other in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert np.array_equal(other.predict(observation)[0], expected)
    reference = weakref.ref(policy)
    del policy, other
    gc.collect()
    assert reference() is None


def test_a_predict_of_a_subclass_stays_in_charge() -> None:
    class Doubled(Policy):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            actions, state = super().predict(*args, **kwargs)
            return 2 * actions, state

    policy = make_policy("integer", "vector")
    doubled = Doubled(**{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)})
    observation = random_observations(policy, 1)[0]
    for _ in range(3):
        assert np.array_equal(doubled.predict(observation)[0], 2 * policy.predict(observation)[0])


def test_repeat_gives_the_action() -> None:
    policy = make_policy("integer", "vector")
    observation = random_observations(policy, 1)[0]
    found = policy.engine.repeat(observation, 3)
    assert found is not None
    assert np.array_equal(found, policy.predict(observation)[0])


def test_units_that_nobody_reads_are_not_computed() -> None:
    policy = vector_policy("weight-only", (5, 30, 2), 1.0, 8, 0)
    first, last = policy.layers
    weight = last.weight.copy()
    weight[:, 3:20] = 0
    idle = Policy(
        (first, Layer(weight, last.bias, 8, last.scale, False, name="1")),
        policy.observation,
        policy.action,
        None,
        baseline_bytes=4,
    )
    assert lower(idle).steps[0].out_channels == 13
    assert_agrees(idle, random_observations(idle, 20), "portable")


@given(st.integers(1, 9), st.integers(1, 700), st.sampled_from([0.0, 0.003, 0.3, 1.0]), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_sparse_pairs_walk_to_every_weight(outputs: int, inputs: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.integers(-127, 128, (outputs, inputs)) * (rng.random((outputs, inputs)) < density)).astype(np.int8)
    places = np.cumsum(rng.integers(1, 5, inputs))
    pairs, counts = sparse_pairs(weight, places)
    found = np.zeros((outputs, int(places[-1]) + 1), np.int64)
    end = 0
    for o, count in enumerate(counts):
        at = 0
        for gap, value in pairs[end : end + count]:
            at += int(gap)
            found[o, at] += np.int8(np.uint8(value).view(np.int8))
        end += count
    assert end == len(pairs)
    assert np.array_equal(found[:, places], weight)
    assert found.sum() == weight.sum()


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_weights_hold_their_bits(bits: int) -> None:
    rng = np.random.default_rng(bits)
    limit = 2 ** (bits - 1) - 1
    weight = rng.integers(-limit, limit + 1, (3, 11)).astype(np.int8)
    row = -(-11 * bits // 8)
    data = packed(weight, bits)
    assert data.size == 3 * row
    digits = np.unpackbits(data.reshape(3, row), axis=1, bitorder="little")[:, : 11 * bits].reshape(3, 11, bits)
    codes = (digits * (1 << np.arange(bits))).sum(axis=2)
    assert np.array_equal(np.where(codes > limit, codes - 2**bits, codes), weight)


def test_the_saved_policies_answer_as_recorded() -> None:
    for path in stored_policies(Path(__file__).parents[2] / "results").values():
        policy = pp.load(path)
        vectors = policy.test_vectors
        assert vectors is not None
        assert policy.outputs(vectors.observations).tobytes() == vectors.outputs.tobytes()
        assert policy.predict(vectors.observations)[0].tobytes() == vectors.actions.tobytes()
