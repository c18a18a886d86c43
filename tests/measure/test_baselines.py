"""The float32 networks that a policy is compared with."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from policypress.errors import ConfigError, UnsupportedError
from policypress.measure.baselines import as_float, describe, parameters, stands_for, widened
from policypress.policy import reference
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.policy.ops import (
    CELLS,
    Activation,
    Cell,
    Flatten,
    History,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Policy
from policypress.testing import (
    ACTIVATIONS,
    Builder,
    activated,
    activation_name,
    make_policy,
    random_observations,
    usual_observations,
    with_zero_points,
)

FINER = 16
WIDE = 60_000


def fine(policy: Policy) -> Policy:
    """The policy with codes so fine, and limits so wide, that rounding and clipping hardly count."""

    def finer(op: Op) -> Op:
        if isinstance(op, Layer) and op.requantize is not None:
            tight = op.requantize
            low = 0 if tight.low == 0 else -WIDE
            return dataclasses.replace(op, requantize=Requantization(tight.multiplier, tight.shift, low, WIDE))
        if isinstance(op, Residual):
            return dataclasses.replace(op, body=tuple(map(finer, op.body)), low=-WIDE, high=WIDE)
        return op

    assert policy.input is not None
    input_ = dataclasses.replace(
        policy.input, inverse_scale=policy.input.inverse_scale * np.float32(FINER), low=-32767, high=32767, bits=16
    )
    return dataclasses.replace(policy, ops=tuple(map(finer, policy.ops)), input=input_, test_vectors=None)


@pytest.mark.parametrize("kind", ["vector", "image"])
def test_the_float_network_computes_what_the_integers_stand_for(kind: Any) -> None:
    policy = fine(make_policy("integer", kind, per_output=kind == "vector"))
    observations = random_observations(policy, 16)
    wanted, found = policy.outputs(observations), as_float(policy).outputs(observations)
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_zero_points_become_part_of_the_biases() -> None:
    policy = with_zero_points(fine(make_policy("integer", "vector")), 900, -5000, 0)
    observations = random_observations(policy, 16, np.random.default_rng(0))
    wanted, found = policy.outputs(observations), as_float(policy).outputs(observations)
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_tanh_layers_keep_their_units() -> None:
    policy = make_policy("integer", "tanh", bits=8)
    observations = random_observations(policy, 64)
    wanted, found = policy.outputs(observations), as_float(policy).outputs(observations)
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.999
    assert np.abs(wanted - found).max() < 0.05 * np.ptp(wanted)


@pytest.mark.parametrize("kind", ["vector", "tanh", "image"])
def test_weight_only_networks_are_the_same_but_for_rounding(kind: Any) -> None:
    policy = make_policy("weight-only", kind)
    observations = random_observations(policy, 16)
    network = as_float(policy)
    assert network.numerics == "float"
    np.testing.assert_allclose(network.outputs(observations), policy.outputs(observations), rtol=1e-4, atol=1e-5)


def test_zeros_stay() -> None:
    policy = make_policy("integer", "vector")
    network = as_float(policy)
    assert [layer.nonzeros for layer in network.layers] == [layer.nonzeros for layer in policy.layers]
    assert describe(network) == describe(policy) == "5-9-7-3"


def test_a_block_that_ends_in_another_block_is_refused() -> None:
    b = Builder("integer", 8, 0, per_output=False)
    inner = b.residual(2, "inner")
    outer = dataclasses.replace(inner, body=(Relu(), inner))
    ops = (b.layer(2, 1, 3, 3, role="signed", name="stem"), outer, b.layer(3, 32, role="raw", name="last"))
    policy = make_policy("integer", "image")
    image = ObservationTransform((1, 6, 6), "uint8", image=True)
    policy = dataclasses.replace(policy, ops=(*ops[:2], Flatten(), *ops[2:]), observation=image)
    with pytest.raises(UnsupportedError, match="does not end in a layer"):
        as_float(policy)


def plain(features: int, *widths: int, baseline: int = 0, per_output: bool = False) -> Policy:
    b = Builder("integer", 8, 1, per_output)
    sizes = [features, *widths]
    ops = [
        b.layer(sizes[i + 1], sizes[i], role="raw" if i == len(widths) - 1 else "hidden", name=str(i))
        for i in range(len(widths))
    ]
    bounds = np.ones(widths[-1], np.float32)
    action = ActionTransform("box", (widths[-1],), squash=True, low=-bounds, high=bounds)
    template = make_policy("integer", "vector").input
    assert template is not None
    input_ = dataclasses.replace(template, inverse_scale=np.ones(features, np.float32))
    policy = Policy(tuple(ops), ObservationTransform((features,), "float64"), action, input_, 1)
    return dataclasses.replace(policy, baseline_bytes=baseline or 4 * parameters(policy))


@pytest.mark.parametrize(
    ("teacher", "name"),
    [((256, 256), "17-256-256-6"), ((64, 64), "17-64-64-6"), ((400, 300), "17-400-300-6"), ((90,), "17-90-6")],
)
def test_the_network_is_found_by_its_bytes(teacher: tuple[int, ...], name: str) -> None:
    sizes = [17, *teacher, 6]
    weights = sum(after * (before + 1) for before, after in pairwise(sizes))
    network = stands_for(plain(17, 12, 10, 6, baseline=4 * weights))
    assert network is not None
    assert describe(network) == name
    assert 4 * parameters(network) == network.baseline_bytes == 4 * weights
    assert network.numerics == "float"
    assert all(layer.nonzeros == layer.weight.size for layer in network.layers)


def test_units_that_were_left_out_are_counted_again() -> None:
    policy = plain(4, 8, 5, 3)
    first, second, last = policy.layers
    weight = second.weight.copy()
    weight[:, [1, 6]] = 0
    pruned = dataclasses.replace(policy, ops=(first, dataclasses.replace(second, weight=weight), last))
    smaller = canonical(pruned)
    assert describe(smaller) == "4-6-5-3"
    network = stands_for(smaller)
    assert network is not None
    assert describe(network) == "4-8-5-3"


def test_a_policy_that_is_its_own_baseline_stands_for_no_other() -> None:
    assert stands_for(plain(4, 8, 5, 3)) is None


def test_bytes_that_no_usual_network_has_tell_nothing() -> None:
    assert stands_for(plain(4, 8, 5, 3, baseline=5001)) is None


def test_widths_by_hand() -> None:
    policy = plain(4, 8, 5, 3)
    assert describe(widened(policy, (32, 16, 8))) == "4-32-16-8-3"
    image = make_policy("integer", "image")
    wide = widened(image, (20,))
    assert describe(wide) == "2x9x8-3-3-3-20-4"
    assert [type(op) for op in wide.ops] == [type(op) for op in image.ops]
    with pytest.raises(ConfigError, match="4 hidden layers"):
        widened(image, (1, 2, 3, 4, 5))
    with pytest.raises(UnsupportedError):
        widened(image, (7, 7, 5, 4))  # what a residual block gives must fit what it takes
    with pytest.raises(ConfigError, match="positive"):
        widened(policy, (0, 3))


def test_tanh_networks_are_widened_with_tanh() -> None:
    policy = make_policy("integer", "tanh")
    wide = widened(policy, (16, 16))
    assert [type(op).__name__ for op in wide.ops] == ["Layer", "Activation", "Layer", "Activation", "Layer"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int8", "int64"])
def test_observations_are_the_contracts_and_the_same_for_a_seed(dtype: str) -> None:
    policy = dataclasses.replace(plain(4, 8, 5, 3), observation=ObservationTransform((4,), dtype))
    found = usual_observations(policy, 10, seed=3)
    assert (found.dtype, found.shape) == (dtype, (10, 4))
    np.testing.assert_array_equal(found, usual_observations(policy, 10, seed=3))
    assert np.any(found != usual_observations(policy, 10, seed=4))
    policy.predict(found)


def test_observations_follow_the_normalization() -> None:
    moments = Normalization(np.full(4, 1000.0), np.full(4, 4.0), 1e-8, 10.0)
    observation = ObservationTransform((4,), "float64", normalization=moments)
    found = usual_observations(dataclasses.replace(plain(4, 8, 5, 3), observation=observation), 500, seed=0)
    assert abs(found.mean() - 1000) < 1
    assert 1.5 < found.std() < 2.5


@pytest.mark.parametrize("op", ACTIVATIONS, ids=activation_name)
def test_activations_keep_their_units(op: Activation) -> None:
    policy = activated(op, "integer", "vector", 8, seed=1)
    network = as_float(policy)
    assert [inner for inner in network.ops if isinstance(inner, Activation)] == [op] * 3
    x = reference.observe(policy.observation, usual_observations(policy, 200, seed=1))
    wanted, found = reference.run(policy, x), reference.run(network, x)
    assert np.ptp(wanted) > 0.1
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.99
    assert {inner for inner in widened(policy, (16, 16)).ops if isinstance(inner, Activation)} == {op}


def test_an_activation_behind_a_pool_and_a_block_sets_the_unit_of_the_layer_in_front() -> None:
    b = Builder("integer", 8, 0, per_output=True)
    block = b.residual(3, "block")
    assert block.skip is not None
    skip = float(block.skip.multiplier[0]) / 2.0 ** float(block.skip.shift[0])
    act = Activation("silu", 2.0**-4, 8, 127)
    stem = b.layer(3, 2, 3, 3, role="signed", name="stem")
    ops = (stem, MaxPool2d((2, 2), (2, 2), (0, 0)), block, act, Flatten(), b.layer(4, 27, role="raw", name="q"))
    policy = make_policy("integer", "image")
    image = ObservationTransform((2, 9, 8), "uint8", image=True)
    policy = dataclasses.replace(policy, ops=ops, observation=image)
    network = as_float(policy)
    requantize = stem.requantize
    assert requantize is not None
    ratio = requantize.multiplier / 2.0**requantize.shift
    codes = stem.weight * ratio[:, None, None, None]
    used = codes != 0
    np.testing.assert_allclose(network.layers[0].weight[used] / codes[used] / 255, act.unit * skip, rtol=1e-5)


def test_an_activation_of_codes_that_stand_for_something_else_is_refused() -> None:
    b = Builder("integer", 8, 0, per_output=False)
    ops = (Activation("gelu", 2.0**-6, 8, 127), b.layer(3, 5, role="raw", name="last"))
    policy = dataclasses.replace(make_policy("integer", "vector"), ops=ops)
    with pytest.raises(UnsupportedError, match=r"^gelu of codes that no layer gives has no float32 form\.$"):
        as_float(policy)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_recurrent_network_in_float32_is_near_its_integers(kind: str) -> None:
    rng = np.random.default_rng(0)
    gates, units, one = len(CELLS[kind].gates), 6, np.ones(1, np.float32)
    part = Requantization(np.full(1, 128, np.int32), np.full(1, 14, np.int32), -4095, 4095)

    def layer(inputs: int) -> Layer:
        weight = rng.integers(-127, 128, (gates * units, inputs)).astype(np.int8)
        return Layer(weight, rng.integers(-900, 900, gates * units).astype(np.int32), 8, one, False, part)

    ratio = {"gate": (128, 9), "candidate": (128, 8), "forget": (128, 15), "reset": (128, 15), "output": (128, 15)}
    ratio |= {"input": (129, 15) if kind == "gru" else (129, 10), "cell": (128, 13)}
    cell = Cell(
        kind, layer(6), layer(units), Activation("sigmoid", 1 / 32, 8, 255), Activation("tanh", 1 / 64, 8, 255),
        (8, 15)[: len(CELLS[kind].state)], tuple(ratio[name] for name in CELLS[kind].ratios),
    )  # fmt: skip
    last = Layer(
        rng.integers(-9, 10, (2, units)).astype(np.int8), np.zeros(2, np.int32), 8, one / np.float32(999), False
    )
    bound, codes_of_inputs = np.full(2, 99, np.float32), InputQuantization(np.full(3, 20, np.float32), -127, 127, 8)
    action = ActionTransform("box", (2,), low=-bound, high=bound)
    policy = Policy((History(2), cell, last), ObservationTransform((3,), "float32"), action, codes_of_inputs, 4)
    real, state, other = as_float(policy), None, None
    assert real.numerics == "float"
    for _ in range(12):
        seen = rng.normal(size=(4, 3)).astype(np.float32)
        codes, state = policy.step(seen, state)
        values, other = real.step(seen, other)
        assert np.abs(codes - values).max() < 0.2 * np.abs(codes).max()
