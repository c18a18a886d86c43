"""The nearest policy of simple scales and biases answers nearly the same, and takes fewer bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.errors import UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization, Layer, Op, Requantization
from policypress.policy.payload import payload_size
from policypress.policy.policy import Policy
from policypress.policy.simplified import simplified
from policypress.testing import make_policy, random_observations, with_zero_points


def frozen(seed: int, hidden: int = 0, shifted: bool = False) -> Policy:
    """A policy as freezing gives them, linear or of one hidden layer: arbitrary scales, actions all over (-1, 1)."""
    rng = np.random.default_rng(seed)
    inputs, outputs = int(rng.integers(3, 20)), int(rng.integers(1, 7))
    inverse_scale = (2.0 ** rng.uniform(2, 8, inputs)).astype(np.float32)
    zeros = rng.integers(-300, 300, inputs).astype(np.int32) if shifted else None
    ops: list[Op] = []
    before, spread = inputs, 30.0  # of codes
    for width in (hidden, outputs) if hidden else (outputs,):
        weight = np.clip(rng.normal(0, 40, (width, before)).round(), -127, 127).astype(np.int8)
        sums = 40 * spread * before**0.5
        bias = (rng.normal(0, 0.5, width) * sums).astype(np.int32)
        requantize = None
        if width == hidden and not ops:
            multiplier = np.array([200], np.int32)
            shift = np.array([round(np.log2(200 * sums / 80))], np.int32)
            requantize = Requantization(multiplier, shift, 0, 255)
        scale = np.array([rng.uniform(0.7, 1.4) / sums], np.float32)
        ops.append(Layer(weight, bias, 8, scale, requantize is not None, requantize))
        before, spread = width, 80.0
    one = np.ones(outputs, np.float32)
    return Policy(
        tuple(ops),
        ObservationTransform((inputs,), "float64"),
        ActionTransform("box", (outputs,), squash=True, low=-one, high=one),
        InputQuantization(inverse_scale, -127, 127, 8, zeros),
        baseline_bytes=4,
    )


def seen(policy: Policy, seed: int) -> np.ndarray:
    """Observations as the input's scales were made for: few of them clipped."""
    assert policy.input is not None
    zeros = 0 if policy.input.zero_point is None else policy.input.zero_point
    codes = np.random.default_rng(seed).normal(0, 30, (500, policy.input.inverse_scale.size))
    return (codes + zeros) / policy.input.inverse_scale


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([None, 8, 12, 16]))
def test_actions_stay_near_and_numbers_are_simple(seed: int, shifted: bool, bits: int | None) -> None:
    policy = frozen(seed, shifted=shifted)
    found = simplified(policy, input_bits=bits)
    x = seen(policy, seed)
    # Where inputs share scales some columns of weights are coarser.
    assert np.abs(found.predict(x)[0] - policy.predict(x)[0]).mean() < (0.02 if bits in (None, 8) else 0.05)
    assert found.input is not None
    for scales in (found.input.inverse_scale, found.layers[-1].scale):
        assert (np.frexp(scales)[0] == 0.5).all()
    assert found.input.bits == (bits or 8)
    unit = np.gcd.reduce(np.abs(found.layers[0].bias))
    assert unit == 0 or unit & -unit >= 8


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16]))
def test_a_hidden_layer_is_kept_near(seed: int, bits: int) -> None:
    policy = frozen(seed, hidden=8)
    x = seen(policy, seed)
    error = np.abs(simplified(policy, input_bits=bits).predict(x)[0] - policy.predict(x)[0]).mean()
    assert error < 0.04


@pytest.mark.parametrize("shifted", [False, True])
def test_nothing_more_is_clipped(shifted: bool) -> None:
    policy = frozen(3, shifted=shifted)
    for bits in (8, 10):
        found = simplified(policy, input_bits=bits).input
        assert found is not None
        assert policy.input is not None
        step = 1 / found.inverse_scale
        (low, high), (new_low, new_high) = (
            [(code + (0 if one.zero_point is None else one.zero_point)) / one.inverse_scale.astype(float)
             for code in (one.low, one.high)]
            for one in (policy.input, found)
        )  # fmt: skip
        assert (new_low <= low + step).all()
        assert (new_high >= high - step).all()


def test_neighbours_share_scales_where_the_input_has_more_bits() -> None:
    policy = frozen(5)
    changes = [
        int((np.diff(found.input.inverse_scale) != 0).sum())
        for found in (simplified(policy, input_bits=bits) for bits in (8, 9, 10, 16))
        if found.input is not None
    ]
    assert changes[0] > changes[1] > changes[2] == changes[3]


def test_it_takes_fewer_bytes() -> None:
    for seed in range(5):
        assert payload_size(simplified(frozen(seed))) < payload_size(frozen(seed))


def test_what_is_simple_stays_as_it_is() -> None:
    once = simplified(frozen(1))
    twice = simplified(once)
    x = seen(once, 1)
    assert np.array_equal(once.outputs(x), twice.outputs(x))


def test_test_vectors_are_answered_anew_and_results_left_out() -> None:
    policy = make_policy("integer", "vector", vectors=True)
    found = simplified(policy)
    assert found.results == {}
    assert found.test_vectors is not None
    assert policy.test_vectors is not None
    again = found.outputs(policy.test_vectors.observations)
    assert np.array_equal(found.test_vectors.outputs, again)
    assert found.provenance == policy.provenance


def test_zero_points_stay_within_their_limit() -> None:
    policy = with_zero_points(make_policy("integer", "vector"), 30_000, -3)
    found = simplified(policy, input_bits=16)
    assert found.input is not None
    assert found.input.zero_point is not None
    x = random_observations(policy, 50, 0)
    assert np.isfinite(found.outputs(x)).all()


def test_dead_layers_stay_dead() -> None:
    policy = frozen(2)
    layer = dataclasses.replace(policy.layers[0], weight=np.zeros_like(policy.layers[0].weight))
    found = simplified(dataclasses.replace(policy, ops=(layer,)))
    assert not found.layers[0].weight.any()
    x = seen(policy, 0)
    assert np.abs(found.predict(x)[0] - dataclasses.replace(policy, ops=(layer,)).predict(x)[0]).max() < 1e-3


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (make_policy("float", "vector"), "integer policy of vectors"),
        (make_policy("integer", "image"), "integer policy of vectors"),
    ],
)
def test_other_policies_are_refused(policy: Policy, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        simplified(policy)
