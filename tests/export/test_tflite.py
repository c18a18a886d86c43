"""The TensorFlow Lite file against the reference, in LiteRT."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert", reason="the extra tflite is not installed")

from ai_edge_litert import schema_py_generated as schema

from policypress.errors import ConfigError, ExportError, UnsupportedError
from policypress.export import export
from policypress.export import tflite as module
from policypress.export.tflite import ENDS, STYLES, check_tflite, encode_tflite, export_tflite
from policypress.export.tflite_check import KERNELS, Runner
from policypress.export.verify import verify
from policypress.extras import install
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.policy.observations import recorded, usual_observations
from policypress.policy.ops import Activation, InputQuantization
from policypress.policy.policy import Policy
from policypress.testing import make_policy, random_policy, random_recurrent_policy, with_zero_points
from policypress.testing.activated import activated


def plain(policy: Policy, seed: int = 0) -> Policy:
    """Of float32 observations that are not normalized, so that codes of the input are the policy's."""
    observation = ObservationTransform(policy.observation.shape, "float32")
    policy = dataclasses.replace(policy, observation=observation, test_vectors=None)
    return dataclasses.replace(policy, test_vectors=recorded(policy, usual_observations(policy, 8, seed)))


def buffers(model: bytes) -> list[Any]:
    root = schema.Model.GetRootAs(model, 0)
    return [root.Buffers(index) for index in range(root.BuffersLength())]


@settings(deadline=None, max_examples=12)
@given(bits=st.integers(2, 8), seed=st.integers(0, 1000), per_output=st.booleans())
def test_int16_gives_every_integer_of_the_policy(bits: int, seed: int, per_output: bool) -> None:
    policy = plain(make_policy("integer", "vector", bits, seed, per_output))
    for ends in ENDS:
        report = check_tflite(policy, encode_tflite(policy, "int16", ends))
        assert [found.name for found in report.kernels] == list(KERNELS)
        for found in report.kernels:
            assert list(found.steps) == list(found.answers) == [0]
            assert found.ends_hold


@settings(deadline=None, max_examples=12)
@given(bits=st.integers(2, 8), seed=st.integers(0, 1000), per_output=st.booleans(), ends=st.sampled_from(ENDS))
def test_int8_is_within_a_step(bits: int, seed: int, per_output: bool, ends: str) -> None:
    policy = make_policy("integer", "vector", bits, seed, per_output)
    report = check_tflite(policy, encode_tflite(policy, "int8", ends))
    assert report.holds
    for found in report.kernels:
        assert sum(found.answers.values()) == report.observations
        assert found.steps.get(1, 0) <= 0.05 * sum(found.steps.values())


def test_halves_go_up_where_kernels_round_to_even() -> None:
    """A ratio of 1/2 makes a half of every odd sum."""
    policy = plain(make_policy("integer", "vector", 3, per_output=False))
    first = policy.ops[0]
    half = dataclasses.replace(first.requantize, multiplier=np.int32([16]), shift=np.int32([5]))  # type: ignore[union-attr,type-var]
    weight = np.zeros_like(first.weight)  # type: ignore[union-attr]
    weight[:, 0] = 1
    first = dataclasses.replace(first, weight=weight, bias=np.zeros(9, np.int32), requantize=half)  # type: ignore[type-var]
    policy = dataclasses.replace(policy, ops=(first, *policy.ops[1:]), test_vectors=None)
    report = check_tflite(policy, encode_tflite(policy))
    found = {kernels.name: kernels for kernels in report.kernels}
    assert list(found["XNNPACK"].steps) == list(found["reference"].steps) == [0]


@pytest.mark.parametrize("seed", range(12))
def test_random_policies_are_within_a_step_or_refused(seed: int) -> None:
    policy = random_policy(seed, "integer")
    for style in STYLES:
        with suppress(UnsupportedError):
            assert check_tflite(policy, encode_tflite(policy, style), seed=seed).holds


@pytest.mark.parametrize("kind", ["image", "tanh"])
@pytest.mark.parametrize("ends", ENDS)
def test_residual_blocks_and_tanh_need_int16(kind: Any, ends: str, tmp_path: Path) -> None:
    policy = make_policy("integer", kind, 4, vectors=True)
    with pytest.raises(UnsupportedError, match=r"do not fit int8: export with --style int16\.$"):
        export_tflite(policy, tmp_path / "a.tflite", "int8", ends)
    assert list(tmp_path.iterdir()) == []
    report = export_tflite(policy, tmp_path / "a.tflite", "int16", ends)
    assert report.holds
    assert report.step_difference <= 1
    assert report.bytes == (tmp_path / "a.tflite").stat().st_size


@pytest.mark.parametrize(
    ("function", "parameters"),
    [("sigmoid", ()), ("leaky_relu", (0.01,)), ("elu", (1.0,)), ("elu", (0.5,)), ("silu", ()), ("gelu", ()),
     ("gelu_tanh", ()), ("hardswish", ())],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["vector", "image"])
def test_activations(function: str, parameters: tuple[float, ...], kind: Any) -> None:
    policy = activated(Activation(function, parameters=parameters), "integer", kind)
    assert check_tflite(policy, encode_tflite(policy, "int16")).holds


def test_what_cannot_be_expressed_is_refused() -> None:
    for numerics in ("float", "weight-only"):
        with pytest.raises(UnsupportedError, match=f"^A policy of {numerics} numerics has no form of int8 here: press"):
            encode_tflite(make_policy(numerics, "vector"))  # type: ignore[arg-type]
    recurrent = next(policy for seed in range(20) if (policy := random_recurrent_policy(seed, "integer")).state_size)
    with pytest.raises(UnsupportedError, match=r"^A policy that remembers .*: export with --to onnx or --to c\.$"):
        encode_tflite(recurrent, "int16")
    with pytest.raises(UnsupportedError, match=r"^selu is no operator .*: export with --to onnx or --to c\.$"):
        encode_tflite(activated(Activation("selu"), "integer", "vector"), "int16")
    policy = plain(make_policy("integer", "vector"))
    wide = dataclasses.replace(
        policy, input=InputQuantization(np.float32([100.0]).repeat(5), -2000, 2000, 12), test_vectors=None
    )
    with pytest.raises(
        UnsupportedError, match=r"^Codes from -2000 to 2000 do not fit int8: export with --style int16\.$"
    ):
        encode_tflite(wide)
    assert check_tflite(wide, encode_tflite(wide, "int16")).holds


@pytest.mark.parametrize(
    "action",
    [
        ActionTransform("discrete", dtype="int64"),
        ActionTransform("discrete", dtype="int64", start=-2),
        ActionTransform("multi-discrete", (2,), "int64", nvec=(2, 1)),
        ActionTransform("multi-binary", (3,), "int64"),
        ActionTransform("box", (3, 1), low=np.full((3, 1), -40, np.float32), high=np.full((3, 1), 50, np.float32)),
        ActionTransform("box", (1, 3), "float64", True, np.full((1, 3), -1, np.float32), np.ones((1, 3), np.float32)),
    ],
)
def test_actions(action: ActionTransform) -> None:
    policy = plain(dataclasses.replace(make_policy("integer", "vector"), action=action, test_vectors=None))
    report = check_tflite(policy, encode_tflite(policy, "int16"))
    assert report.holds
    assert {found.equal_actions for found in report.kernels} == {1.0}
    assert check_tflite(policy, encode_tflite(policy, "int8", "integer")).holds


def test_observations_with_zero_points_and_statistics() -> None:
    policy = with_zero_points(make_policy("integer", "vector", vectors=True), 3, -700, 0, 12, 5)
    assert check_tflite(policy, encode_tflite(policy)).holds
    far = Normalization(np.full(5, 300.0), np.full(5, 0.02), 1e-8, 10.0)
    policy = dataclasses.replace(policy, observation=dataclasses.replace(policy.observation, normalization=far))
    policy = dataclasses.replace(policy, test_vectors=None)
    assert check_tflite(policy, encode_tflite(policy)).holds


def test_integer_ends_take_and_give_codes(tmp_path: Path) -> None:
    policy = plain(make_policy("integer", "vector"))
    assert policy.input is not None
    assert policy.test_vectors is not None
    report = export_tflite(policy, tmp_path / "a.tflite", ends="integer")
    data = (tmp_path / "a.tflite").read_bytes()
    facts = json.loads(schema.Model.GetRootAs(data, 0).Description())
    assert (facts["low"], facts["high"]) == (-127, 127)
    assert np.array_equal(np.float32(facts["inverse_scale"]), policy.input.inverse_scale)
    x = reference.observe(policy.observation, policy.test_vectors.observations)
    codes = reference.quantize_input(policy.input, x)
    (given,) = Runner(data, "XNNPACK")(codes)
    assert given.dtype == np.int8
    assert report.output_scale is not None
    wanted = np.clip(np.rint(policy.test_vectors.outputs / report.output_scale), -127, 127)
    assert np.abs(given - wanted).max() <= 1


def test_weights_are_dense_and_aligned() -> None:
    policy = plain(make_policy("integer", "vector"))
    data = encode_tflite(policy)
    assert data == encode_tflite(policy)
    report = check_tflite(policy, data)
    assert report.weights == 5 * 9 + 9 * 7 + 7 * 3 + 4 * (9 + 7 + 3)
    start = np.frombuffer(data, np.uint8).ctypes.data
    filled = [buffer.DataAsNumpy() for buffer in buffers(data) if buffer.DataLength()]
    assert any(np.array_equal(values.view(np.int8), policy.layers[0].weight.ravel()) for values in filled)
    assert {(values.ctypes.data - start) % 16 for values in filled} == {0}


def test_another_policys_file_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, other = (plain(make_policy("integer", "vector", seed=seed)) for seed in (0, 1))
    with pytest.raises(ExportError, match=r"^The file does not answer as this policy's does, with LiteRT's XNNPACK"):
        check_tflite(policy, encode_tflite(other))
    (tmp_path / "text").write_text("no model")
    for wrong in (tmp_path / "text", encode_tflite(policy)[:200]):
        with pytest.raises(ExportError, match=r"^The file is not a policy that policypress exported"):
            check_tflite(policy, wrong)
    with pytest.raises(ExportError, match=r"^Cannot read "):
        check_tflite(policy, tmp_path / "missing")
    built = module._built
    monkeypatch.setattr(module, "_built", lambda policy, *rest, **of: built(other, *rest, **of))
    with pytest.raises(ExportError, match=r"with LiteRT's XNNPACK kernels .* off; nothing was written\.$"):
        export_tflite(policy, tmp_path / "a.tflite")
    assert not (tmp_path / "a.tflite").exists()


def test_words_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("integer", "vector")
    with pytest.raises(ConfigError, match=r"^style='int4' is not one of int8, int16\.$"):
        export(policy, tmp_path / "a", "tflite", style="int4")
    with pytest.raises(ConfigError, match=r"^ends='int8' is not one of float, integer\.$"):
        export(policy, tmp_path / "a", "tflite", ends="int8")
    assert export(policy, tmp_path / "a", "tflite").rows()["style"] == "int8 activations, float ends"
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ExportError) as caught:
        encode_tflite(policy)
    needed = "Exporting to TensorFlow Lite needs flatbuffers, which is not installed"
    assert str(caught.value) == f"{needed}: {install('tflite')}."


def test_verify_runs_both_styles() -> None:
    rows = {row.engine: row for row in verify(make_policy("integer", "tanh", vectors=True), 32).rows}
    assert rows["LiteRT, int8"].verdict == "not run"
    assert rows["LiteRT, int8"].note.endswith("export with --style int16.")
    assert rows["LiteRT, int16"].verdict == "within 1 step"
    assert not any(row.engine.startswith("LiteRT") for row in verify(make_policy("float", "vector"), 2).rows)
