"""Leaving out units that do nothing and sorting the others changes no result."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import (
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Policy
from policypress.testing import assert_same, make_policy, random_observations, tanh_op


def layer(rng: np.random.Generator, *shape: int, last: bool = False, relu: bool = True, **geometry: tuple[int, int]):  # type: ignore[no-untyped-def]
    """Sparse, with units that nothing enters and units that are always the same."""
    weight = rng.integers(-7, 8, shape).astype(np.int8)
    weight[rng.random(shape) < 0.4] = 0
    weight[rng.random(shape[0]) < 0.25] = 0
    bias = rng.integers(-300, 300, shape[0]).astype(np.int32)
    requantize = None
    if not last:
        multiplier = rng.integers(16, 256, shape[0]).astype(np.int32)
        low = 0 if relu else -127
        requantize = Requantization(multiplier, np.full(shape[0], 9, np.int32), low, 255 if relu else 127)
    return Layer(weight, bias, 4, np.ones(1, np.float32), not last and relu, requantize, **geometry)


def unread(rng: np.random.Generator, reader: Layer, units: int) -> Layer:
    weight = reader.weight.reshape(len(reader.weight), units, -1).copy()
    weight[:, rng.random(units) < 0.3] = 0
    return dataclasses.replace(reader, weight=weight.reshape(reader.weight.shape))


def mlp(seed: int) -> Policy:
    rng = np.random.default_rng(seed)
    widths = [int(width) for width in rng.integers(1, 12, 4)]
    first = layer(rng, widths[1], widths[0], relu=bool(rng.integers(2)))
    second = unread(rng, layer(rng, widths[2], widths[1]), widths[1])
    last = unread(rng, layer(rng, widths[3], widths[2], last=True), widths[2])
    ops: tuple[Op, ...] = (first, Relu(), second, last)
    scale = rng.uniform(1, 9, widths[0]).astype(np.float32)
    return policy(ops, (widths[0],), InputQuantization(scale, -127, 127, 8))


def tanh_mlp(seed: int) -> Policy:
    """A Tanh behind both hidden layers, a ReLU behind one of those."""
    before = mlp(seed)
    first, relu, second, last = before.ops
    bits = int(np.random.default_rng(seed).integers(2, 9))
    return dataclasses.replace(
        before, ops=(for_tanh(first), tanh_op(bits), relu, for_tanh(second), tanh_op(8), last), baseline_bytes=1000
    )


def for_tanh(op: Op) -> Layer:
    assert isinstance(op, Layer)
    assert op.requantize is not None
    return dataclasses.replace(op, relu=False, requantize=dataclasses.replace(op.requantize, low=-255, high=255))


def cnn(seed: int) -> Policy:
    rng = np.random.default_rng(seed)
    first = layer(rng, 5, 2, 3, 3, relu=bool(rng.integers(2)), padding=(1, 1))
    second = unread(rng, layer(rng, 6, 5, 2, 2, padding=(int(rng.integers(2)), 0)), 5)
    body = (layer(rng, 7, 6, 1, 1), unread(rng, layer(rng, 6, 7, 1, 1, relu=False), 7))
    keep = Requantization(np.array([128], np.int32), np.array([7], np.int32), -(2**31), 2**31 - 1)
    after = 6 * (4 + 2 * second.padding[0] - 1) * 3
    ops: tuple[Op, ...] = (
        first,
        MaxPool2d((2, 2), (1, 1), (0, 0)),
        Relu(),
        second,
        Residual(body, keep, keep, 0, 255),
        Flatten(),
        layer(rng, 9, after),
        unread(rng, layer(rng, 4, 9, last=True), 9),
    )
    return policy(ops, (2, 5, 5), InputQuantization(np.array([255], np.float32), 0, 255, 8), image=True)


def conv_to_dense(seed: int) -> Policy:
    """Nature's way: channels that end in blocks of a Flatten."""
    rng = np.random.default_rng(seed)
    first = layer(rng, 6, 2, 2, 2)
    second = unread(rng, layer(rng, 5, 6 * 16), 6)
    ops: tuple[Op, ...] = (first, Flatten(), second, unread(rng, layer(rng, 3, 5, last=True), 5))
    return policy(ops, (2, 5, 5), InputQuantization(np.array([255], np.float32), 0, 255, 8), image=True)


def policy(ops: tuple[Op, ...], shape: tuple[int, ...], inputs: InputQuantization, image: bool = False) -> Policy:
    observation = ObservationTransform(shape, "uint8" if image else "float32", image=image)
    return Policy(ops, observation, ActionTransform("discrete", dtype="int64"), inputs, 1000)


BUILDERS = [mlp, tanh_mlp, cnn, conv_to_dense]


@pytest.mark.parametrize("build", BUILDERS)
@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_the_same_outputs_bit_for_bit(build, seed: int) -> None:  # type: ignore[no-untyped-def]
    before = build(seed)
    after = canonical(before)
    x = random_observations(before, 20, seed)
    np.testing.assert_array_equal(after.outputs(x), before.outputs(x), strict=True)
    assert_same(canonical(after), after)
    for old, new in zip(before.layers, after.layers, strict=True):
        assert new.trained_shape == old.weight.shape
        assert new.trained_weights == old.weight.size
        assert new.weight.size <= old.weight.size
        assert new.nonzeros <= old.nonzeros
        assert new.sparsity >= old.sparsity


@pytest.mark.parametrize("build", [mlp, tanh_mlp])
def test_an_mlp_is_left_with_units_that_work(build) -> None:  # type: ignore[no-untyped-def]
    left = 0
    for seed in range(50):
        layers = canonical(build(seed)).layers
        for one, reader in itertools.pairwise(layers):
            if len(one.weight) > 1:
                assert one.weight.any(axis=1).all()
                assert reader.weight.any(axis=0).all()
                assert (np.diff(one.bias) >= 0).all()
                left += 1
    assert left > 20


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_hidden_units_leaves_no_trace(seed: int) -> None:
    before = mlp(seed)
    rng = np.random.default_rng(seed)
    first, relu, second, last = before.ops
    assert isinstance(first, Layer)
    assert isinstance(second, Layer)
    assert first.requantize is not None
    order = rng.permutation(len(first.weight))
    requantize = dataclasses.replace(first.requantize, multiplier=first.requantize.multiplier[order])
    moved = dataclasses.replace(first, weight=first.weight[order], bias=first.bias[order], requantize=requantize)
    reader = dataclasses.replace(second, weight=np.ascontiguousarray(second.weight[:, order]))
    shuffled = dataclasses.replace(before, ops=(moved, relu, reader, last))
    x = random_observations(before, 5, seed)
    np.testing.assert_array_equal(shuffled.outputs(x), before.outputs(x))
    ours, theirs = canonical(shuffled), canonical(before)
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        np.testing.assert_array_equal(a.bias, b.bias)
        np.testing.assert_array_equal(np.sort(a.weight, axis=None), np.sort(b.weight, axis=None))


def test_constant_units_become_bias() -> None:
    one = np.ones(1, np.float32)
    requantize = Requantization(np.array([128], np.int32), np.array([7], np.int32), 0, 255)
    hidden = Layer(np.array([[0, 0], [3, 1]], np.int8), np.array([9, 1], np.int32), 4, one, True, requantize)
    last = Layer(np.array([[5, 2], [-1, 4]], np.int8), np.array([7, 8], np.int32), 4, one, False)
    found = canonical(policy((hidden, last), (2,), InputQuantization(np.ones(2, np.float32), -127, 127, 8)))
    first, second = found.layers
    assert first.weight.tolist() == [[3, 1]]
    assert second.weight.tolist() == [[2], [4]]
    assert second.bias.tolist() == [7 + 5 * 9, 8 - 9]
    assert (first.trained_shape, second.trained_shape) == ((2, 2), (2, 2))


def test_zero_points_that_nobody_reads_vanish() -> None:
    before = mlp(4)
    first, *rest = before.ops
    assert isinstance(first, Layer)
    weight = np.repeat(np.array([[1, 0, 2, 0]], np.int8), len(first.weight), axis=0)
    inputs = InputQuantization(np.arange(1, 5, dtype=np.float32), -127, 127, 8, np.array([5, 6, 0, 7], np.int32))
    before = policy((dataclasses.replace(first, weight=weight), *rest), (4,), inputs)
    found = canonical(before).input
    assert found is not None
    assert found.zero_point is not None
    assert found.zero_point.tolist() == [5, 0, 0, 0]
    without = dataclasses.replace(inputs, zero_point=np.array([0, 6, 0, 7], np.int32))
    found = canonical(dataclasses.replace(before, input=without)).input
    assert found is not None
    assert found.zero_point is None


def test_constant_units_go_through_the_table_of_a_tanh() -> None:
    one = np.ones(1, np.float32)
    requantize = Requantization(np.array([128], np.int32), np.array([7], np.int32), -255, 255)
    hidden = Layer(np.array([[0, 0], [3, 1]], np.int8), np.array([-64, 1], np.int32), 4, one, False, requantize)
    last = Layer(np.array([[5, 2], [-1, 4]], np.int8), np.array([7, 8], np.int32), 4, one, False)
    inputs = InputQuantization(np.ones(2, np.float32), -127, 127, 8)
    found = canonical(policy((hidden, tanh_op(8), last), (2,), inputs))
    first, second = found.layers
    assert first.weight.tolist() == [[3, 1]]
    assert second.bias.tolist() == [7 - 5 * 97, 8 + 97]  # 127 tanh(-1) = -96.7


def test_a_policy_that_says_nothing_keeps_a_unit() -> None:
    one = np.ones(1, np.float32)
    requantize = Requantization(np.array([128], np.int32), np.array([7], np.int32), 0, 255)
    hidden = Layer(np.zeros((3, 2), np.int8), np.array([9, 1, 4], np.int32), 4, one, True, requantize)
    last = Layer(np.array([[5, 2, 1]], np.int8), np.array([7], np.int32), 4, one, False)
    before = policy((hidden, last), (2,), InputQuantization(np.ones(2, np.float32), -127, 127, 8))
    after = canonical(before)
    assert [one.weight.shape for one in after.layers] == [(1, 2), (1, 1)]
    assert after.layers[1].bias.tolist() == [7 + 45 + 2 + 4]
    assert_same(canonical(after), after)


def test_scales_of_unread_features_are_ordinary() -> None:
    before = mlp(1)
    first = before.ops[0]
    assert isinstance(first, Layer)
    assert before.input is not None
    weight = first.weight.copy()
    weight[:, 0] = 0
    scale = before.input.inverse_scale.copy()
    scale[0] = 1e6
    before = dataclasses.replace(
        before,
        ops=(dataclasses.replace(first, weight=weight), *before.ops[1:]),
        input=dataclasses.replace(before.input, inverse_scale=scale),
    )
    after = canonical(before)
    assert after.input is not None
    used = after.layers[0].weight.any(axis=0)
    assert set(after.input.inverse_scale[~used]) == {scale[used].min()}
    np.testing.assert_array_equal(after.input.inverse_scale[used], scale[used])


@pytest.mark.parametrize("kind", ["vector", "tanh"])
@pytest.mark.parametrize("numerics", ["weight-only", "float"])
def test_float_activations_stay_close_and_vectors_stay_true(numerics: str, kind: str) -> None:
    before = make_policy(numerics, kind, 8, seed=5, vectors=True)  # type: ignore[arg-type]
    after = canonical(before)
    x = random_observations(before, 9)
    np.testing.assert_allclose(after.outputs(x), before.outputs(x), rtol=1e-4, atol=1e-5)
    assert after.test_vectors is not None
    np.testing.assert_array_equal(after.test_vectors.outputs, after.outputs(after.test_vectors.observations))


@pytest.mark.parametrize(("live", "group"), [(1, 8), (1, 4), (2, 4), (1, 2)])
@pytest.mark.parametrize("units", [64, 61])
def test_patterns_of_neighbouring_inputs_stay(live: int, group: int, units: int) -> None:
    """Units are sorted with their neighbours, and leave with them alone."""
    rng = np.random.default_rng(units)
    one, features = np.ones(1, np.float32), 9
    requantize = Requantization(np.array([128], np.int32), np.array([13], np.int32), 0, 255)
    weight = rng.integers(1, 100, (units, features)).astype(np.int8)
    weight[5] = 0  # constant, and yet it stays; its whole group goes
    weight[2 * group : 3 * group] = 0
    hidden = Layer(weight, rng.integers(-9, 9, units).astype(np.int32), 8, one, True, requantize)
    outputs = 32
    reading = rng.random((outputs, -(-units // group), group)).argsort(axis=2) < live
    reading = reading.reshape(outputs, -1)[:, :units]
    values = rng.integers(1, 100, (outputs, units)).astype(np.int8)
    last = Layer(np.where(reading, values, 0).astype(np.int8), np.zeros(outputs, np.int32), 8, one, False)
    before = policy((hidden, last), (features,), InputQuantization(np.ones(features, np.float32), -127, 127, 8))
    after = canonical(before)
    x = random_observations(before, 20, 0)
    np.testing.assert_array_equal(after.outputs(x), before.outputs(x))
    left = after.layers[1].weight
    assert left.shape[1] == units - group
    starts = np.arange(0, left.shape[1], group)
    assert np.add.reduceat((left != 0).astype(int), starts, axis=1).max() <= live
    firsts = after.layers[0].bias[starts[: units // group - 1]]
    assert (np.diff(firsts) >= 0).all()
    again = canonical(after)
    np.testing.assert_array_equal(again.layers[1].weight, left)
