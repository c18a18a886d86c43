"""Policies that remember: recurrent cells and histories, their state in ``predict``, files, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from policypress.errors import ObservationError, PolicypressError, UnsupportedError
from policypress.policy import artifact, reference
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.policy.observations import accepted, random_observations, random_state, recorded, sequence
from policypress.policy.ops import (
    CELLS,
    Activation,
    Cell,
    History,
    InputQuantization,
    Layer,
    Requantization,
    Residual,
)
from policypress.policy.policy import Numerics, Policy
from policypress.policy.state import Memory, initial_state, part_sizes
from policypress.testing import assert_same, make_policy, random_recurrent_policy

SEEDS = st.integers(0, 10**6)


def remembering(seed: int, numerics: Numerics = "integer", kind: type[Any] = Cell) -> Policy:
    """The first random policy from ``seed`` on with an operation of this kind."""
    while True:
        policy = random_recurrent_policy(seed, numerics)
        if any(isinstance(op, kind) for op in policy.ops):
            return policy
        seed += 1


def by_hand(cell: Cell, x: list[int], h: list[int], c: list[int]) -> tuple[list[int], list[int]]:
    """The formulas of docs/arithmetic.md for one row, in Python's integers."""
    n, gates = cell.units, len(CELLS[cell.kind].gates)

    def scaled(name: str, value: int) -> int:
        multiplier, shift = cell.ratios[CELLS[cell.kind].ratios.index(name)]
        return (value * multiplier + 2 ** (shift - 1)) >> shift

    def within(value: int, limit: int) -> int:
        return max(-limit, min(limit, value))

    def part(layer: Layer, row: int, values: list[int]) -> int:
        assert layer.requantize is not None
        total = sum(int(w) * v for w, v in zip(layer.weight[row], values, strict=True)) + int(layer.bias[row])
        assert abs(total) < 2**31
        many = [layer.requantize.multiplier, layer.requantize.shift]
        multiplier, shift = (int(vector[row if vector.size > 1 else 0]) for vector in many)
        code = (total * multiplier + 2 ** (shift - 1)) >> shift
        return max(layer.requantize.low, min(layer.requantize.high, code))

    def sigmoid(value: int) -> int:
        code = within(scaled("gate", value), cell.sigmoid.limit)
        return int(cell.sigmoid.lookup.table[code + cell.sigmoid.limit])

    def tanh(name: str, value: int) -> int:
        return int(cell.tanh.lookup.table[within(scaled(name, value), cell.tanh.limit) + cell.tanh.limit])

    a = [part(cell.input, row, x) for row in range(gates * n)]
    b = [part(cell.recurrent, row, h) for row in range(gates * n)]
    new_h, new_c = [], []
    for u in range(n):
        first, second = sigmoid(a[u] + b[u]), sigmoid(a[n + u] + b[n + u])
        lost = cell.one - second
        assert lost >= 0
        if cell.kind == "gru":
            new = tanh("candidate", a[2 * n + u] + scaled("reset", first * b[2 * n + u]))
            assert abs(lost * h[u]) < 2**31
            new_h.append(within(h[u] - scaled("forget", lost * h[u]) + scaled("input", lost * new), cell.limits[0]))
            continue
        new, given_out = tanh("candidate", a[2 * n + u] + b[2 * n + u]), sigmoid(a[3 * n + u] + b[3 * n + u])
        assert abs(lost * c[u]) < 2**31
        new_c.append(within(c[u] - scaled("forget", lost * c[u]) + scaled("input", first * new), cell.limits[1]))
        new_h.append(within(scaled("output", given_out * tanh("cell", new_c[u])), cell.limits[0]))
    return new_h, new_c


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_cell_of_codes_is_its_formula(seed: int) -> None:
    policy = remembering(seed)
    assert policy.input is not None
    codes = policy.input.low, policy.input.high
    rng = np.random.default_rng(seed)
    for op in policy.ops:
        if isinstance(op, Cell):
            x = rng.integers(codes[0], codes[1] + 1, (2, op.input.weight.shape[1]))
            state = np.concatenate([rng.integers(-limit, limit + 1, (2, op.units)) for limit in op.limits], axis=1)
            memory = Memory(state.astype(np.int16))
            h = reference.run_integer((op,), x, [], memory)
            for row in range(2):
                parts = np.split(state[row], len(op.limits))
                wanted, c = by_hand(op, x[row].tolist(), parts[0].tolist(), parts[-1].tolist())
                assert h[row].tolist() == wanted
                assert memory.state[row].tolist() == wanted + c
        codes = op.codes(*codes)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["integer", "weight-only", "float"]))
def test_a_sequence_is_the_same_in_a_batch_and_alone(seed: int, numerics: Numerics) -> None:
    policy = random_recurrent_policy(seed, numerics)
    seen = random_observations(policy, 18, seed).reshape(6, 3, *policy.observation.shape)
    state: Any = None
    alone: list[Any] = [None] * 3
    for step in range(6):
        starts = np.random.default_rng(step).random(3) < 0.3
        before = state
        together, state = policy.step(seen[step], before, starts, reference=True)
        actions, after = policy.predict(seen[step], before, starts)
        assert actions.tobytes() == reference.act(policy.action, together).tobytes()
        assert_same(after, state)
        for row in range(3):
            one, alone[row] = policy.step(seen[step, row : row + 1], alone[row], starts[row : row + 1])
            assert one.tobytes() == together[row : row + 1].tobytes()
            assert alone[row][0].tobytes() == state[0][row : row + 1].tobytes()


def test_where_an_episode_starts_a_row_forgets() -> None:
    policy = remembering(0)
    seen = random_observations(policy, 4, 0)
    _, state = policy.predict(seen)
    fresh, _ = policy.step(seen)
    mixed, _ = policy.step(seen, state, np.array([True, False, True, False]))
    kept, _ = policy.step(seen, state)
    assert mixed[[0, 2]].tobytes() == fresh[[0, 2]].tobytes()
    assert mixed[[1, 3]].tobytes() == kept[[1, 3]].tobytes()
    assert kept.tobytes() != fresh.tobytes()


def test_one_observation_has_a_state_of_one_row() -> None:
    policy = remembering(3)
    seen = random_observations(policy, 2, 0)
    action, state = policy.predict(seen[0])
    assert action.shape == policy.action.shape
    assert state is not None
    assert state[0].shape == (1, policy.state_size)
    given = state[0].copy()
    policy.predict(seen[1], state)
    assert np.array_equal(state[0], given)  # what was given is not written over


def test_copies_remember_nothing_of_one_another() -> None:
    policy = remembering(1)
    seen = random_observations(policy, 2, 0)
    assert_same(policy.step(seen), copy.deepcopy(policy).step(seen))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((np.zeros((3, 1), np.int16),), "expects a state of one array, int16"),
        ((np.zeros((2, 1)),), "expects a state of one array, int16"),
        ((), "but got"),
    ],
)
def test_another_state_is_refused(state: Any, message: str) -> None:
    policy = remembering(0)
    with pytest.raises(ObservationError, match=message):
        policy.predict(random_observations(policy, 2, 0), state)


def test_as_many_starts_as_rows() -> None:
    policy = remembering(0)
    with pytest.raises(ObservationError, match=r"one value for each of 2 rows"):
        policy.predict(random_observations(policy, 2, 0), None, np.ones(3, bool))


def test_what_is_refused_changes_no_state() -> None:
    policy = history_policy()
    _, state = policy.predict(np.ones((2, 2), np.float32))
    assert state is not None
    given = state[0].copy()
    with pytest.raises(ObservationError):
        policy.predict(np.array([[1, 1], [1, np.nan]], np.float32), state)
    assert np.array_equal(state[0], given)


def test_a_policy_without_a_state_hands_back_what_it_is_given() -> None:
    policy = make_policy("integer", "vector")
    given = (np.zeros(3),)
    assert policy.state_size == 0
    assert policy.predict(np.zeros(5), given, np.ones(1, bool))[1] is given
    outputs, state = policy.step(np.zeros((2, 5)), given)
    assert state is given
    assert outputs.tobytes() == policy.outputs(np.zeros((2, 5))).tobytes()


# History


def history_policy(frames: int = 3, normalization: Normalization | None = None) -> Policy:
    """Sums of the last values of two features, in codes worth a tenth."""
    weight = np.tile(np.eye(2, dtype=np.int8), frames)
    return Policy(
        (History(frames), Layer(weight, np.zeros(2, np.int32), 8, np.full(1, 0.1, np.float32), relu=False)),
        ObservationTransform((2,), "float32", normalization=normalization),
        ActionTransform("box", (2,), low=np.full(2, -99, np.float32), high=np.full(2, 99, np.float32)),
        InputQuantization(np.full(2, 10, np.float32), -127, 127, 8),
        baseline_bytes=4,
    )


@pytest.mark.parametrize("numerics", ["integer", "float"])
def test_a_history_holds_the_last_frames(numerics: str) -> None:
    policy = history_policy()
    if numerics == "float":
        layer = dataclasses.replace(
            policy.layers[0], weight=policy.layers[0].weight.astype(np.float32), bias=np.zeros(2, np.float32),
            weight_bits=32, scale=np.ones(1, np.float32),
        )  # fmt: skip
        policy = dataclasses.replace(policy, ops=(History(3), layer), input=None)
    assert policy.state_size == 4
    state: Any = None
    for step, wanted in enumerate([1, 3, 6, 9, 12]):  # 1, 1+2, 1+2+3, 2+3+4, 3+4+5
        value = np.array([[step + 1, -(step + 1)]], np.float32)
        answer, state = policy.step(value, state)
        assert np.allclose(answer, [[wanted, -wanted]])
    assert np.allclose(state[0] * (1 if numerics == "float" else 0.1), [[4, -4, 5, -5]])


def test_test_vectors_are_one_episode() -> None:
    policy = history_policy()
    seen = np.arange(8, dtype=np.float32).reshape(4, 2)
    vectors = recorded(policy, seen)
    assert np.allclose(vectors.outputs[3], seen[1:].sum(0))
    assert sequence(policy, seen)[1].tolist() == (10 * vectors.outputs).round().tolist()


# Files


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_files_keep_everything(seed: int) -> None:
    policy = random_recurrent_policy(seed)
    seen = accepted(policy, random_observations(policy, 5, seed))
    if len(seen):
        policy = dataclasses.replace(policy, test_vectors=recorded(policy, seen))
    assert_same(Policy.from_bytes(artifact.encode(policy)), policy)
    smaller, packed = canonical(policy), Policy.from_bytes(artifact.pack(policy))
    assert packed.state_size == smaller.state_size == policy.state_size
    if policy.input is not None:
        assert_same(smaller.test_vectors, policy.test_vectors)
        assert packed.outputs(seen).tobytes() == policy.outputs(seen).tobytes()


def test_a_state_has_the_sizes_of_its_parts() -> None:
    policy = remembering(0)
    sizes = part_sizes(policy.ops, policy.observation.shape)
    assert [size > 0 for size in sizes] == [isinstance(op, History | Cell) for op in policy.ops]
    assert random_state(policy, 3).shape == initial_state(policy, 3).shape == (3, sum(sizes))
    assert random_state(policy, 3).dtype == initial_state(policy, 3).dtype


# What is refused


def cell_of(policy: Policy) -> Cell:
    return next(op for op in policy.ops if isinstance(op, Cell))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rnn"}, "no recurrent cell that is known: use gru, lstm"),
        ({"bits": (7, 16)}, "8 to 16 bits"),
        ({"bits": (8,)}, "8 to 16 bits for each of h, c"),
        ({"ratios": ()}, "needs the ratios gate, candidate"),
        ({"ratios": ((8, 8),) * 6}, r"multiplier must lie in \[16, 256\)"),
        ({"sigmoid": Activation("hardsigmoid", 1 / 32, 8, 255)}, "needs a sigmoid and a tanh"),
        ({"sigmoid": Activation("sigmoid")}, "needs a sigmoid and a tanh"),
    ],
)
def test_a_cell_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    seed = 0
    while cell_of(policy := remembering(seed)).kind != "lstm":
        seed += 1
    with pytest.raises(UnsupportedError, match=message):
        dataclasses.replace(cell_of(policy), **change)


def test_layers_of_a_cell_fit_one_another() -> None:
    cell = cell_of(remembering(0))
    with pytest.raises(UnsupportedError, match="outputs for each unit"):
        dataclasses.replace(cell, input=cell.recurrent, recurrent=cell.input)
    wide = dataclasses.replace(cell.input, requantize=Requantization(*_ratio(), -(2**17), 2**17))
    with pytest.raises(UnsupportedError, match="from -32767 to 32767"):
        dataclasses.replace(cell, input=wide)
    with pytest.raises(UnsupportedError, match="requantized in integer numerics"):
        dataclasses.replace(cell, input=dataclasses.replace(cell.input, requantize=None))


def _ratio() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return np.full(1, 128, np.int32), np.full(1, 8, np.int32)


def test_accumulators_of_the_last_outputs_are_proven_too() -> None:
    policy = remembering(0)
    cell = cell_of(policy)
    rows, units = cell.recurrent.weight.shape
    room = 2**31 - 1 - 127 * units * cell.limits[0]
    heavy = dataclasses.replace(
        cell.recurrent, weight=np.full((rows, units), 127, np.int8), weight_bits=8,
        bias=np.full(rows, room + 1, np.int32),
    )  # fmt: skip
    ops = tuple(dataclasses.replace(cell, recurrent=heavy) if op is cell else op for op in policy.ops)
    with pytest.raises(PolicypressError, match="overflows 32 bits"):
        dataclasses.replace(policy, ops=ops)


def test_a_history_is_of_vectors_at_the_top() -> None:
    policy = history_policy()
    with pytest.raises(UnsupportedError, match="2 to 1024 frames"):
        History(1)
    with pytest.raises(UnsupportedError, match="does not fit an input of shape"):
        History(2).output_shape((1, 2, 3))
    inside = Residual((History(2), *policy.ops[1:]), *(Requantization(*_ratio(), -(2**31), 2**31 - 1),) * 2, -127, 127)
    with pytest.raises(UnsupportedError, match="cannot lie inside of a residual block"):
        dataclasses.replace(policy, ops=(inside, *policy.ops[1:]))


def test_a_history_of_wide_codes_is_refused() -> None:
    wide = InputQuantization(np.full(2, 10, np.float32), 0, 2**16 - 1, 16)
    with pytest.raises(UnsupportedError, match="codes of 16 bits with their sign"):
        dataclasses.replace(history_policy(), input=wide)
