"""Verification of all engines, and the benchmark of agreement on some random policies."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys

import numpy as np
import pytest
from rich.console import Console

import policypress
from policypress import cli
from policypress.errors import ObservationError
from policypress.export import engines
from policypress.export import verify as module
from policypress.export.onnx import encode_onnx, onnx_outputs
from policypress.export.verify import verify
from policypress.policy.contract import ObservationTransform
from policypress.policy.observations import Answers, answers, observations
from policypress.policy.ops import FLOAT_BITS, Activation, Flatten, InputQuantization, Layer
from policypress.runtime.native import make_engine
from policypress.tables import verification_table
from policypress.testing import NUMERICS, make_policy, random_recurrent_policy

KINDS = ("vector", "image", "tanh")


@pytest.mark.parametrize("numerics", NUMERICS)
def test_all_engines_agree(numerics):
    result = verify(make_policy(numerics, "tanh", bits=4, vectors=True), 64)
    rows = {row.engine: row for row in result.rows}
    assert result.holds
    for name in ("native engine", "portable engine"):
        assert (rows[name].difference, rows[name].actions, rows[name].holds) == (0, 0, True)
    if shutil.which("cc"):
        assert (rows["compiled C"].difference, rows["compiled C"].actions) == (0, 0)
        assert ("compiled C, integers only" in rows) == (numerics == "integer")
    exact, qdq = rows["ONNX Runtime, exact"], rows["ONNX Runtime, qdq"]
    assert exact.holds
    assert qdq.holds
    if numerics == "integer":
        assert (exact.difference, exact.actions, exact.allowed, exact.verdict) == (0, 0, "", "yes")
        assert qdq.difference <= 1


def shown(result):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(verification_table(result))
    return console.export_text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numerics", NUMERICS)
def test_agreement_within_what_is_allowed_says_so(numerics, kind, monkeypatch):
    """No action counts as another one that rounding alone moved, and none is said to agree that has other bits."""
    monkeypatch.setenv("CC", "no-such-compiler")
    policy = make_policy(numerics, kind, 8, vectors=True)
    result = verify(policy, 200)
    qdq = {row.engine: row for row in result.rows}["ONNX Runtime, qdq"]
    allowed = "within 1 step" if numerics == "integer" else "to rounding"
    assert qdq.allowed == qdq.verdict == allowed
    actions = onnx_outputs(encode_onnx(policy, "qdq"), answers(policy, 200).observations)[1]
    wanted = answers(policy, 200).actions
    other = (actions != wanted).reshape(len(wanted), -1).any(axis=1)
    assert qdq.actions <= other.sum()
    if kind == "vector":
        assert other.sum() > 20  # in some bit, for the operator Tanh is another one
        assert qdq.actions == 0
    assert qdq.difference <= (1 if numerics == "integer" else 64)
    text = shown(result)
    (line,) = (line for line in text.splitlines() if line.strip().startswith("ONNX Runtime, qdq  "))
    assert line.rstrip().endswith(allowed)
    assert "as allowed" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_huge_observations_are_not_what_rounding_is_measured_by(monkeypatch):
    """One in an episode would be all that the rest of it shows: sums of huge values hang on their order."""
    monkeypatch.setenv("CC", "no-such-compiler")
    policy = next(p for p in (random_recurrent_policy(seed, "float") for seed in range(9)) if not p.observation.image)
    rows = {row.engine: row for row in verify(policy, 120).rows}
    for style in ("exact", "qdq"):
        row = rows[f"ONNX Runtime, {style}"]
        assert row.actions == 0
        assert row.difference < 1000
        assert "with values beyond 1000" in row.note


@pytest.mark.parametrize("style", ["exact", "qdq"])
@pytest.mark.parametrize("numerics", NUMERICS)
def test_a_graph_with_a_wrong_weight_does_not_agree(numerics, style, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    policy = make_policy(numerics, "vector")
    weight = policy.ops[1].weight.copy()
    weight[weight != 0] *= np.array(-1, weight.dtype)
    other = dataclasses.replace(
        policy, ops=(policy.ops[0], dataclasses.replace(policy.ops[1], weight=weight), policy.ops[2])
    )
    honest = module.encode_onnx
    monkeypatch.setattr(module, "encode_onnx", lambda policy, given: honest(other if given == style else policy, given))
    rows = {row.engine: row for row in verify(policy, 64).rows}
    for given in ("exact", "qdq"):
        assert rows[f"ONNX Runtime, {given}"].holds is (given != style)
    assert rows[f"ONNX Runtime, {style}"].verdict == "NO"
    assert rows[f"ONNX Runtime, {style}"].actions > 10


def test_observations_that_overflow_in_another_order_are_told(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    policy = make_policy("weight-only", "vector")
    one = np.ones(1, np.float32)
    loud = Layer(np.int8([[7, 7, -7, -7]] * 3), np.zeros(3, np.float32), 4, one, False)
    policy = dataclasses.replace(policy, ops=(loud,), observation=ObservationTransform((4,), "float32"))
    seen = np.float32([[4e37, -4e37, 4e37, -4e37], [1, 2, 3, 4]])
    wanted = Answers(seen, policy.outputs(seen), policy.predict(seen)[0])
    monkeypatch.setattr(module, "answers", lambda *_: wanted)
    monkeypatch.setattr(
        module, "onnx_outputs",
        lambda *_: (np.float32([[np.inf] * 3, wanted.outputs[1]]), np.float32([[np.nan] * 3, wanted.actions[1]])),
    )  # fmt: skip
    row = {row.engine: row for row in verify(policy, 2).rows}["ONNX Runtime, qdq"]
    assert (row.difference, row.actions) == (0, 0)
    assert row.note.endswith("; observations that overflow in this order of sums: 1")


@pytest.mark.skipif(shutil.which("cc") is None, reason="There is no C compiler: install gcc.")
@pytest.mark.parametrize("numerics", NUMERICS)
def test_a_corrupted_constant_is_found(numerics, monkeypatch):
    """The C of a policy whose biases differ by the least, against the policy."""
    policy = make_policy(numerics, "vector")
    honest = engines.export_c

    def altered(policy, *args):
        last = policy.ops[-1]
        bias = last.bias.copy()
        bias[1] = bias[1] + 1 if policy.input is not None else np.nextafter(bias[1], np.float32(9))
        return honest(dataclasses.replace(policy, ops=(*policy.ops[:-1], dataclasses.replace(last, bias=bias))), *args)

    monkeypatch.setattr(engines, "export_c", altered)
    result = verify(policy, 64)
    rows = {row.engine: row for row in result.rows}
    assert not result.holds
    assert rows["compiled C"].holds is False
    assert rows["native engine"].holds is True
    if policy.input is not None:
        assert rows["compiled C"].difference == pytest.approx(1, rel=1e-3)
    else:
        assert rows["compiled C"].difference >= 1


def test_an_engine_that_refuses_does_not_agree(monkeypatch):
    policy = make_policy("integer", "image")

    class Refuses:
        def outputs(self, observations):
            return None

        predict = outputs

    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(engines, "make_engine", lambda *args, **kwargs: Refuses())
    result = verify(policy, 16)
    row = {row.engine: row for row in result.rows}["portable engine"]
    assert (row.difference, row.actions, row.holds) == (float("inf"), 16, False)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["holds"] is False


@pytest.mark.skipif(shutil.which("cc") is None, reason="There is no C compiler: install gcc.")
def test_compiled_c_that_refuses_does_not_agree(monkeypatch):
    policy = make_policy("weight-only", "vector")
    honest = engines.export_c

    def altered(policy, *args):
        last = dataclasses.replace(policy.ops[-1], scale=np.float32([3e38]), bias=np.float32([3e38] * 3))
        return honest(dataclasses.replace(policy, ops=(*policy.ops[:-1], last)), *args)

    monkeypatch.setattr(engines, "export_c", altered)
    result = verify(policy, 16)
    row = {row.engine: row for row in result.rows}["compiled C"]
    assert (row.difference, row.actions, row.holds) == (float("inf"), result.vectors, False)
    assert not result.holds


def test_without_a_compiler_the_row_says_so(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    rows = {row.engine: row for row in verify(make_policy("float", "vector"), 16).rows}
    assert rows["compiled C"].holds is None
    assert "CC" in rows["compiled C"].note


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_line(broken, tmp_path, monkeypatch, capsys):
    policy = make_policy("integer", "vector")
    policy.save(tmp_path / "p.policy")
    if broken:
        other = make_engine(make_policy("integer", "vector", seed=1))
        monkeypatch.setattr(engines, "make_engine", lambda *args, **kwargs: other)
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(sys, "argv", ["policypress", "verify", str(tmp_path / "p.policy"), "--vectors", "16", "--json"])
    code: object = 0
    try:
        cli.main()
    except SystemExit as exit_:
        code = exit_.code
    out, err = capsys.readouterr()
    assert code == (1 if broken else 0)
    assert json.loads(out)["holds"] is not broken
    assert bool(err) == broken


# Observations


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", KINDS)
def test_observations_are_recorded_random_and_extreme(numerics, kind):
    policy = make_policy(numerics, kind, vectors=True)
    seen = observations(policy, 60, 1)
    assert (seen.shape, seen.dtype) == ((60, *policy.observation.shape), policy.observation.dtype)
    np.testing.assert_array_equal(seen[:5], policy.test_vectors.observations)
    assert len(np.unique(seen.reshape(60, -1), axis=0)) > 30
    legal = answers(policy, 60, 1)
    assert 40 < len(legal.observations) <= 60
    again = answers(policy, 60, 1)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(legal, again, strict=True))
    assert legal.outputs.tobytes() == policy.outputs(legal.observations, reference=True).tobytes()


def test_nan_inside_the_network_is_refused_after_a_tanh():
    """Sums of opposite infinities are NaN, which a tanh must not turn into a value."""
    policy = make_policy("float", "vector")
    first = Layer(
        np.array([[3e38, 3e38]], np.float32), np.zeros(1, np.float32), FLOAT_BITS, np.ones(1, np.float32), False
    )
    second = Layer(np.ones((3, 1), np.float32), np.zeros(3, np.float32), FLOAT_BITS, np.ones(1, np.float32), False)
    transform = ObservationTransform((2,), "float32")
    policy = dataclasses.replace(policy, ops=(first, Activation("tanh"), second), observation=transform)
    seen = np.array([3e38, -3e38], np.float32)
    with pytest.raises(ObservationError):
        policy.outputs(seen, reference=True)
    with pytest.raises(ObservationError):
        policy.predict(seen)
    assert make_engine(policy, portable=True).predict(seen) is None


def test_scales_of_features_stay_in_front_of_a_convolution():
    """A weight that is zero says nothing of a feature that other windows read."""
    policy = make_policy("integer", "image")
    shape = (1, 2, 2)
    first = Layer(
        np.array([[[[0, 3], [5, 7]]]], np.int8),
        np.array([4], np.int32),
        8,
        np.ones(1, np.float32),
        False,
        dataclasses.replace(policy.layers[0].requantize, multiplier=np.int32([64]), shift=np.int32([6])),
        padding=(1, 1),
    )
    last = dataclasses.replace(policy.layers[-1], weight=np.ones((4, 9), np.int8), name="last")
    policy = dataclasses.replace(
        policy,
        ops=(first, Flatten(), last),
        observation=ObservationTransform(shape, "float32"),
        input=InputQuantization(np.float32([9, 1, 2, 3]), -127, 127, 8),
    )
    seen = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    assert policy.outputs(seen).tobytes() == policy.outputs(seen, reference=True).tobytes()


def test_long_strides_do_not_matter_where_there_is_one_window():
    policy = make_policy("integer", "image")
    first = dataclasses.replace(policy.ops[0], stride=(70000, 65536 + 7))
    last = dataclasses.replace(policy.layers[-1], weight=np.ones((4, 3), np.int8))
    image = dataclasses.replace(policy, ops=(first, Flatten(), last))
    seen = np.zeros((1, 2, 9, 8), np.uint8)
    wanted = image.outputs(seen, reference=True)
    assert image.outputs(seen).tobytes() == wanted.tobytes()


def test_verify_is_not_imported_with_the_package():
    assert "verify" not in vars(policypress)
