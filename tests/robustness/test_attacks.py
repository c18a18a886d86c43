"""Adversaries: a twin that computes what the policy computes, and a ball that is never left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policypress.errors import ObservationError, UnsupportedError
from policypress.policy.ops import MaxPool2d, walk
from policypress.policy.policy import Policy
from policypress.robustness.attacks import ATTACKS, Attack, acting_attacked, twin_of
from policypress.testing import (
    make_policy,
    random_linear_policy,
    random_observations,
    random_policy,
    random_recurrent_policy,
    with_zero_points,
)


def fits(policy: Policy) -> bool:
    shapes = policy.observation.image or any(isinstance(op, MaxPool2d) for op in walk(policy.ops))
    return not (shapes or any(layer.is_conv for layer in policy.layers))


def unit(policy: Policy) -> Any:
    return np.random.default_rng(0).uniform(0.1, 2, policy.observation.shape)


def drawn(seed: int) -> Policy:
    return random_linear_policy(seed) if seed % 3 == 0 else random_policy(seed)


@settings(max_examples=40)
@given(seed=st.sampled_from([seed for seed in range(150) if fits(drawn(seed))]))
def test_the_twin_computes_what_the_policy_computes(seed: int) -> None:
    policy = drawn(seed)
    assume(np.dtype(policy.observation.dtype).kind == "f")
    seen = np.random.default_rng(seed).normal(size=(6, *policy.observation.shape)).astype(policy.observation.dtype)
    try:
        expected = policy.outputs(seen)
    except ObservationError:
        assume(False)
    found = twin_of(policy)(torch.as_tensor(seen.astype(np.float64))).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * (1e-9 + np.abs(expected).max()))


def test_the_twin_of_integers_is_exact() -> None:
    for policy in (make_policy("integer", "vector"), with_zero_points(make_policy("integer", "tanh"), 3, -2)):
        seen = random_observations(policy, 40, 1)
        found = twin_of(policy)(torch.as_tensor(seen.astype(np.float64))).detach().numpy()
        np.testing.assert_allclose(found, policy.outputs(seen), rtol=1e-6)


@settings(max_examples=30)
@given(
    kind=st.sampled_from(sorted(ATTACKS)),
    numerics=st.sampled_from(["integer", "weight-only", "float"]),
    radius=st.floats(0, 3),
    seed=st.integers(0, 50),
)
def test_no_attack_leaves_its_ball(kind: str, numerics: Any, radius: float, seed: int) -> None:
    policy = make_policy(numerics, "vector", seed=seed)
    seen, scale = random_observations(policy, 5, seed), unit(policy)
    chosen = Attack(policy, kind, radius, scale)(seen, [np.random.default_rng(i) for i in range(5)])
    assert chosen.dtype == seen.dtype
    assert (np.abs(chosen - seen) <= radius * scale * (1 + 1e-9) + np.spacing(np.abs(seen))).all()
    if radius == 0:
        assert chosen.tobytes() == seen.tobytes()


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("numerics", ["integer", "float"])
def test_an_attack_changes_more_than_noise_of_the_same_size(kind: str, numerics: Any) -> None:
    policy = make_policy(numerics, "vector")
    rng, scale = np.random.default_rng(1), np.ones(5)
    seen = rng.normal(size=(50, 5))
    usual = policy.predict(seen)[0]
    chosen = Attack(policy, kind, 0.3, scale)(seen, [np.random.default_rng(i) for i in range(50)])
    noisy = seen + rng.choice([-0.3, 0.3], seen.shape)
    attacked, disturbed = (np.abs(policy.predict(x)[0] - usual).sum(1).mean() for x in (chosen, noisy))
    assert attacked > 1.3 * disturbed


@pytest.mark.parametrize("kind", ATTACKS)
def test_choices_are_attacked(kind: str) -> None:
    tried = 0
    for seed in range(40):
        policy = random_policy(seed, "float", ("tanh",))
        if not fits(policy) or policy.action.kind == "box" or np.dtype(policy.observation.dtype).kind != "f":
            continue
        rng = np.random.default_rng(seed)
        seen = rng.normal(size=(10, *policy.observation.shape)).astype(policy.observation.dtype)
        before = policy.outputs(seen)
        if before.std(0).min() < 1e-3:  # it does not look
            continue
        tried += 1
        chosen = Attack(policy, kind, 0.5, np.ones(policy.observation.shape))(seen, [rng] * 10)
        assert np.abs(policy.outputs(chosen) - before).max() > 1e-3
    assert tried


def test_what_acts_under_attack_does_not_depend_on_who_else_acts() -> None:
    policy = make_policy("integer", "vector")
    seen, scale = random_observations(policy, 4, 1), unit(policy)
    alone = acting_attacked(policy, "mad", 0.2, scale, 1000)({2: seen[2]}, {})
    together = acting_attacked(policy, "mad", 0.2, scale, 1000)(dict(enumerate(seen)), {})
    np.testing.assert_array_equal(next(iter(alone)), list(together)[2])


def test_what_has_no_twin_is_refused() -> None:
    for policy in (make_policy("integer", "image"), random_recurrent_policy(1)):
        with pytest.raises(UnsupportedError, match="has no twin"):
            twin_of(policy)
