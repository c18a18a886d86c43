"""Every engine beside the reference, for random policies: a short run of checks/agreement.py."""

import shutil

import numpy as np
import pytest

from policypress.export.engines import Native
from policypress.policy.ops import Cell, Layer, LayerNorm, walk
from policypress.testing import (
    ENGINES,
    NUMERICS,
    DisagreementError,
    accepted,
    agree,
    agreement,
    make_policy,
    random_linear_policy,
    random_policy,
    random_recurrent_policy,
)

COMPILED = {"C", "C, self test", "C, integers only"}
ONNX = {"ONNX exact", "ONNX qdq"}


def test_random_policies_agree():
    pairs, numerics, ran, norms = 0, dict.fromkeys(NUMERICS, 0), set(), 0
    for seed in range(60):
        policy = random_policy(seed)
        engines = ["native", "portable"]
        engines += sorted(ONNX) if seed % 10 == 5 else []
        engines += sorted(COMPILED) if seed in (0, 10) and shutil.which("cc") is not None else []
        found = agree(policy, engines=engines, count=48, seed=seed)
        pairs += found.observations + found.refused
        numerics[policy.numerics] += 1
        norms += any(isinstance(op, LayerNorm) for op in walk(policy.ops))
        ran |= set(found.answers)
    assert norms > 5
    assert pairs > 2500
    assert min(numerics.values()) > 10
    assert ran >= {"native", "portable", *ONNX}


def test_linear_policies_agree():
    bits, ran = set(), set()
    for seed in range(60):
        policy = random_linear_policy(seed)
        engines = ["native", "portable"]
        engines += sorted(ONNX) if seed % 6 == 5 else []
        engines += sorted(COMPILED) if seed in (1, 12) and shutil.which("cc") is not None else []
        ran |= set(agree(policy, engines=engines, count=48, seed=seed).answers)
        assert sum(isinstance(op, Layer) for op in policy.ops) == 1
        bits.add(0 if policy.input is None else policy.input.bits)
    assert ran >= {"native", "portable", *ONNX}
    assert len(bits) > 12


def test_recurrent_policies_agree_in_sequences():
    pairs, numerics, kinds, ran = 0, set(), set(), set()
    for seed in range(30):
        policy = random_recurrent_policy(seed)
        engines = ["native", "portable"]
        engines += sorted(ONNX) if seed % 6 == 5 else []
        engines += sorted(COMPILED) if seed in (2, 7) and shutil.which("cc") is not None else []
        found = agree(policy, engines=engines, count=48, seed=seed)
        pairs += found.observations
        numerics.add(policy.numerics)
        kinds |= {op.kind if isinstance(op, Cell) else type(op).__name__ for op in policy.ops}
        ran |= set(found.answers)
    assert pairs > 1000
    assert numerics == set(NUMERICS)
    assert kinds >= {"gru", "lstm", "History"}
    assert ran >= {"native", "portable", *ONNX}


@pytest.mark.parametrize("what", ["outputs", "state"])
def test_an_engine_that_remembers_something_else_is_found(what, monkeypatch):
    policy = random_recurrent_policy(2, "integer")

    class Forgetful(Native):
        def outputs(self, observations, state=None):
            found = super().outputs(observations, state)
            if what == "state":
                state[-1, -1] ^= 1
            return found if what == "state" else np.nextafter(found, np.float32(np.inf))

    monkeypatch.setattr(agreement, "Native", Forgetful)
    with pytest.raises(DisagreementError, match=f"step 0, {what}"):
        agree(policy, engines=["native"], count=16)


def test_random_policies_are_legal_and_differ():
    kinds = [random_policy(seed) for seed in range(60)]
    assert {policy.numerics for policy in kinds} == set(NUMERICS)
    assert {policy.action.kind for policy in kinds} == {"box", "discrete", "multi-discrete", "multi-binary"}
    assert len({repr(policy) for policy in kinds}) > 50
    again = random_policy(7)
    assert repr(again) == repr(random_policy(7))


def test_disagreement_is_found():
    policy, other = make_policy("integer", "vector"), make_policy("integer", "vector", seed=1)
    assert agree(policy, engines=["native"]).answers["native"] > 64
    vars(policy)["engine"] = other.engine
    with pytest.raises(DisagreementError, match=r"^native, outputs: \d+ of \d+ differ; the first, \d+: "):
        agree(policy, engines=["native"])


def test_an_engine_that_answers_what_is_refused_is_found(monkeypatch):
    policy = make_policy("float", "vector")
    seen = np.array([[0.0] * 5, [np.nan] * 5])
    found = agree(policy, seen)
    assert (found.observations, found.refused) == (1, 1)
    monkeypatch.setattr("policypress.testing.agreement.making.legal", lambda policy, batch: np.array([True, False]))
    with pytest.raises(DisagreementError, match="native answers what the reference refuses"):
        agree(policy, np.zeros((2, 5)), ["native"])


def test_what_an_engine_cannot_hold_is_told():
    found = agree(make_policy("float", "vector"), engines=["C, integers only"])
    assert found.answers == {}
    assert "no build of integers only" in found.left_out["C, integers only"]


def test_every_engine_takes_a_policy_that_refuses_all():
    policy = make_policy("integer", "vector")
    seen = np.full((3, 5), np.inf)
    assert not len(accepted(policy, seen))
    found = agree(policy, seen, [name for name in ENGINES if name not in COMPILED])
    assert (found.observations, found.refused) == (0, 3)
