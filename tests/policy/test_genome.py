"""The integers of a policy as a vector: it computes nearly the same, and equal roundings are equal policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.test_simplified import frozen
from policypress.errors import UnsupportedError
from policypress.policy.canonical import answered
from policypress.policy.contract import TestVectors
from policypress.policy.genome import Genome
from policypress.policy.payload import payload_size
from policypress.testing import random_observations, random_policy


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), hidden=st.sampled_from([0, 5, 12]), code_rms=st.sampled_from([12.0, 16.0, 30.0]))
def test_the_start_computes_nearly_the_same(seed: int, hidden: int, code_rms: float) -> None:
    policy = frozen(seed, hidden)
    genome = Genome(policy, code_rms)
    start = genome.policy(genome.start)
    seen = random_observations(policy, 200, seed)
    difference = np.abs(start.predict(seen)[0] - policy.predict(seen)[0]).mean()
    assert difference < 0.1, difference
    for layer in start.layers:
        assert np.sqrt(np.square(layer.weight.astype(float)).mean()) == pytest.approx(code_rms, rel=0.2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), hidden=st.sampled_from([0, 7]))
def test_what_rounds_alike_is_the_same_policy(seed: int, hidden: int) -> None:
    rng = np.random.default_rng(seed)
    genome = Genome(frozen(seed, hidden), 8.0)
    integers = np.rint(rng.normal(0, 8, genome.size))
    nearby = (integers + rng.uniform(-0.49, 0.49, genome.size)) / 8.0
    ours, theirs = genome.policy(integers / 8.0), genome.policy(nearby)
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)
    inside = np.concatenate([layer.weight.ravel() for layer in ours.layers])
    assert set(inside.tolist()) <= set(integers.tolist())


def test_every_number_reaches_the_policy() -> None:
    genome = Genome(frozen(3, 5), 16.0)
    before = genome.policy(genome.start)
    for index in range(genome.size):
        moved = genome.start.copy()
        moved[index] += -1.0 if moved[index] > 0 else 1.0
        after = genome.policy(moved)
        changed = sum(
            int((one.weight != other.weight).sum() + (one.bias != other.bias).sum())
            for one, other in zip(before.layers, after.layers, strict=True)
        )
        assert changed == 1


def test_numbers_beyond_the_limits_are_clipped() -> None:
    genome = Genome(frozen(4, 5), 16.0)
    policy = genome.policy(np.full(genome.size, 1e9))
    assert all((layer.weight == 127).all() for layer in policy.layers)


def test_smaller_codes_take_fewer_bytes() -> None:
    sizes = []
    for code_rms in (32.0, 8.0, 2.0):
        genome = Genome(frozen(5), code_rms)
        sizes.append(payload_size(genome.policy(genome.start)))
    numbers = Genome(frozen(5), 8.0).size
    assert sizes[0] - sizes[1] == pytest.approx(2 * numbers / 8, abs=6)
    assert sizes[1] - sizes[2] == pytest.approx(2 * numbers / 8, abs=6)


def test_answers_become_test_vectors() -> None:
    policy = frozen(6)
    seen = random_observations(policy, 9, 0)
    vectors = answered(policy, TestVectors(seen, seen, seen)).test_vectors
    assert vectors is not None
    assert np.array_equal(vectors.actions, policy.predict(seen)[0])


def test_what_cannot_be_evolved() -> None:
    convolutional = next(
        policy
        for policy in (random_policy(seed, "integer") for seed in range(100))
        if any(layer.is_conv for layer in policy.layers)
    )
    with pytest.raises(UnsupportedError, match="simplified"):
        Genome(convolutional, 8.0)
    with pytest.raises(UnsupportedError, match="Only an integer policy"):
        Genome(random_policy(1, "float"), 8.0)
