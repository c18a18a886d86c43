"""LayerNorm: the specification against float64, in the engine and in exported C bit for bit, in files, and refused
where values are integers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from policypress.errors import PolicypressError, UnsupportedError
from policypress.export.c import CExportConfig, export_c
from policypress.export.compile import CompiledPolicy, check_folder, compiler
from policypress.policy import reference
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation, Layer, LayerNorm, parameters_of
from policypress.policy.policy import Policy
from policypress.testing import make_policy

EPSILONS = (1e-30, 1e-12, 1e-5, 1e-3, 10.0)


def normed(width: int, epsilon: float = 1e-5, seed: int = 0) -> Policy:
    """Observations of ``width`` values through a LayerNorm of them, a SiLU and a layer that keeps every value apart."""
    rng = np.random.default_rng(seed)
    one = np.ones(1, np.float32)
    bound = np.full(width, np.inf, np.float32)
    same = Layer(np.eye(width, dtype=np.float32), np.zeros(width, np.float32), 32, one, False, name="same")
    weight, bias = rng.normal(size=(2, width)).astype(np.float32)
    return Policy(
        (same, LayerNorm(weight, bias, epsilon), Activation("silu"), same),
        ObservationTransform((width,), "float32"),
        ActionTransform("box", (width,), "float32", low=-bound, high=bound),
        None,
        baseline_bytes=4,
    )


def vectors(width: int, seed: int) -> NDArray[np.float32]:
    """Ordinary vectors, constant ones, those that are hardly apart, tiny and huge ones."""
    rng = np.random.default_rng(seed)
    ordinary = rng.normal(size=(8, width)) + rng.normal(size=(8, 1)) * 3
    constant = np.broadcast_to([[0.0], [-0.0], [1.0], [3e7], [-1e-40]], (5, width))
    near = 1.0 + rng.integers(-2, 3, (4, width)) * 2.0**-23
    sized = rng.normal(size=(8, width)) * np.exp(rng.uniform(-95, 40, (8, 1)))
    return np.concatenate([ordinary, constant, near, sized]).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.sampled_from(EPSILONS), st.integers(0, 2**16))
def test_the_engine_has_the_references_bits(width: int, epsilon: float, seed: int) -> None:
    policy, x = normed(width, epsilon, seed), vectors(width, seed)
    wanted = reference.run(policy, reference.observe(policy.observation, x))
    assert policy.outputs(x).tobytes() == wanted.tobytes()
    assert policy.outputs(x[:1]).tobytes() == wanted[:1].tobytes()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 70), st.sampled_from(EPSILONS), st.integers(0, 2**16))
def test_it_is_what_it_is_called(width: int, epsilon: float, seed: int) -> None:
    op = normed(width, epsilon, seed).ops[1]
    assert isinstance(op, LayerNorm)
    x = vectors(width, seed)[:13]
    wide = x.astype(np.float64)
    apart = wide - wide.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(apart).mean(axis=1, keepdims=True) + epsilon)
    wanted = apart / deviation * op.weight + op.bias
    lost = 2.0**-24 * (width + 8) * np.abs(wide).max(axis=1, keepdims=True) / deviation  # where values cancel out
    allowed = 2 * lost * np.abs(op.weight) + 1e-5 * (np.abs(op.weight * apart / deviation) + np.abs(op.bias))
    assert (np.abs(op.values(x) - wanted) <= allowed).all()


def test_the_engines_root_is_rounded_as_ieee_754_says() -> None:
    """Of a vector -a, a the deviation is the root of a * a + epsilon: of every binade, and both parities of it."""
    rng = np.random.default_rng(2)
    a = np.exp(rng.uniform(-80, 40, 20_000)).astype(np.float32)
    policy = normed(2, 2.0**-126)
    x = np.stack([-a, a], axis=1)
    assert policy.outputs(x).tobytes() == reference.run(policy, x).tobytes()


def test_a_constant_vector_gives_the_bias() -> None:
    op = normed(7).ops[1]
    assert isinstance(op, LayerNorm)
    assert np.array_equal(op.values(np.full((1, 7), 2.5, np.float32))[0], op.bias)


def test_squares_that_overflow_are_refused() -> None:
    policy = normed(4)
    x = np.array([[1e20, -1e20, 0.0, 0.0]], np.float32)
    for answers in (policy.outputs, lambda x: policy.outputs(x, reference=True)):
        with pytest.raises(PolicypressError, match="so large"):
            answers(x)


@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
def test_exported_c_has_the_references_bits(tmp_path: Path) -> None:
    policy, x = normed(33), vectors(33, 1)
    export_c(policy, tmp_path / "normed", CExportConfig("normed", check=False))
    found = compiler()
    assert found is not None
    check_folder(tmp_path / "normed", found)
    compiled = CompiledPolicy(tmp_path / "normed")
    assert compiled.outputs(x).tobytes() == policy.outputs(x, reference=True).tobytes()


def test_c_without_one_has_no_code_of_it(tmp_path: Path) -> None:
    for name, policy, used in (("with", normed(3), 1), ("without", make_policy("float", "vector"), 0)):
        export_c(policy, tmp_path / name, CExportConfig("policy_", check=False))
        assert f"#define ENGINE_USE_LAYER_NORM {used}\n" in (tmp_path / name / "src/policy_.c").read_text()


def test_a_file_holds_it(tmp_path: Path) -> None:
    policy = normed(9, 1e-3)
    policy.save(tmp_path / "a.policy")
    found = Policy.load(tmp_path / "a.policy")
    was, now = policy.ops[1], found.ops[1]
    assert isinstance(was, LayerNorm)
    assert isinstance(now, LayerNorm)
    assert (now.weight.tobytes(), now.bias.tobytes(), now.epsilon) == (
        was.weight.tobytes(),
        was.bias.tobytes(),
        float(np.float32(1e-3)),
    )
    assert parameters_of(policy.ops) == 2 * (81 + 9) + 18


def test_units_that_nothing_reads_still_count_in_the_mean() -> None:
    policy = normed(5)
    first, norm, act, last = policy.ops
    assert isinstance(last, Layer)
    weight = last.weight.copy()
    weight[:, 2] = 0.0
    policy = dataclasses.replace(policy, ops=(first, norm, act, dataclasses.replace(last, weight=weight)))
    x = vectors(5, 0)[:8]
    assert np.array_equal(canonical(policy).outputs(x, reference=True), policy.outputs(x, reference=True))


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, np.nan, np.inf, 1e-45])
def test_an_epsilon_that_cannot_be(epsilon: float) -> None:
    with pytest.raises(PolicypressError, match="epsilon"):
        LayerNorm(np.ones(2, np.float32), np.zeros(2, np.float32), epsilon)


def test_integers_have_none() -> None:
    policy = make_policy("integer", "vector")
    width = policy.layers[0].weight.shape[1]
    norm = LayerNorm(np.ones(width, np.float32), np.zeros(width, np.float32), 1e-5)
    with pytest.raises(UnsupportedError, match="--hidden"):
        dataclasses.replace(policy, ops=(norm, *policy.ops), test_vectors=None)
