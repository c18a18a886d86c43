"""The ONNX graph against the reference, in ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

import policypress as pp
from policypress import cli
from policypress.cli import terminal
from policypress.errors import ConfigError, ExportError, ObservationError, UnsupportedError
from policypress.export import FORMATS, export
from policypress.export import onnx as onnx_export
from policypress.export.onnx import STYLES, check_onnx, encode_onnx, export_onnx, onnx_outputs
from policypress.export.onnx_check import check_observations, compare
from policypress.export.onnx_exact import code_begins
from policypress.extras import install
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.policy.observations import accepted
from policypress.policy.ops import FLOAT_BITS, Activation, Flatten, InputQuantization, Layer, Op, Relu, Requantization
from policypress.policy.policy import Numerics, Policy
from policypress.testing import (
    NUMERICS,
    Builder,
    Kind,
    make_policy,
    random_observations,
    stored_policies,
    with_zero_points,
)

KINDS: tuple[Kind, ...] = ("vector", "image", "tanh")
RESULTS = stored_policies(Path(__file__).parents[2] / "results")


def facts(model: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}


def assert_exact(policy: Policy, observations: NDArray[Any]) -> None:
    """Outputs, actions and every integer equal the reference's."""
    model = encode_onnx(policy)
    outputs, actions = onnx_outputs(model, observations)
    wanted = policy.outputs(observations)
    assert outputs.dtype == np.float32
    assert np.array_equal(outputs, wanted)
    right = policy.predict(observations)[0]
    assert (actions.dtype, actions.shape) == (right.dtype, right.shape)
    assert np.array_equal(actions, right)
    report = check_onnx(policy, model, observations)
    assert report.holds
    assert (report.step_difference, report.equal_actions) == (0, 1.0)
    assert len(report.steps) == 1 + len(recorded(policy, observations))


def recorded(policy: Policy, observations: NDArray[Any]) -> list[NDArray[Any]]:
    record: list[NDArray[Any]] = []
    reference.run(policy, reference.observe(policy.observation, observations), record)
    return record


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_every_integer_and_action_is_the_references(bits: int, kind: Kind, per_output: bool) -> None:
    policy = make_policy("integer", kind, bits, seed=bits, per_output=per_output, vectors=True)
    observations = check_observations(policy, 100, seed=1)
    assert_exact(policy, observations)
    for result in recorded(policy, observations):
        assert len(np.unique(result)) > 4
    assert len(np.unique(policy.outputs(observations))) > 20


@settings(max_examples=25)
@given(st.sampled_from(KINDS), st.integers(2, 8), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(STYLES))
def test_any_integer_policy_keeps_what_its_style_promises(
    kind: Kind, bits: int, seed: int, per_output: bool, style: str
) -> None:
    policy = make_policy("integer", kind, bits, seed, per_output)
    report = check_onnx(policy, encode_onnx(policy, style), seed=seed)
    assert report.holds, report.worst
    assert report.step_difference <= (0 if style == "exact" else 1)
    assert report.observations > 50


@pytest.mark.parametrize("style", STYLES)
def test_zero_points(style: str) -> None:
    policy = with_zero_points(make_policy("integer", "vector"), 300, 0, -9000, 1)
    observations = check_observations(policy, 100, seed=1)
    report = check_onnx(policy, encode_onnx(policy, style), observations)
    assert report.holds, report.worst
    assert report.step_difference <= (0 if style == "exact" else 1)
    codes = recorded(policy, observations)
    assert len(np.unique(codes[0])) > 20
    if style == "exact":
        assert_exact(policy, observations)


@settings(max_examples=20)
@given(
    st.sampled_from(("weight-only", "float")), st.sampled_from(KINDS), st.integers(2, 8), st.integers(0, 2**32 - 1),
    st.sampled_from(STYLES),
)  # fmt: skip
def test_float_activations_differ_by_roundings_alone(
    numerics: Numerics, kind: Kind, bits: int, seed: int, style: str
) -> None:
    policy = make_policy(numerics, kind, bits, seed)
    observations = random_observations(policy, 50, seed)
    report = check_onnx(policy, encode_onnx(policy, style), observations)
    assert report.holds, report.worst
    assert report.outputs_difference < 1e-5 * np.abs(policy.outputs(observations)).max()
    assert report.outputs.allowed < 1e-3 * np.abs(policy.outputs(observations)).max()
    assert report.steps == ()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", RESULTS)
def test_trained_policies(name: str, style: str) -> None:
    policy = pp.load(RESULTS[name])
    assert policy.test_vectors is not None
    observations = policy.test_vectors.observations[: 4 if name == "climber-90" else None]
    report = check_onnx(policy, encode_onnx(policy, style), observations)
    assert report.holds, report.worst
    if not name.startswith("walker"):  # whose Tanh has negative halves in front
        assert report.equal_actions == 1
    if style == "exact" and policy.numerics == "integer":
        assert report.equal_actions == 1
        assert report.outputs_difference == 0
    assert len(np.unique(onnx_outputs(encode_onnx(policy, style), observations)[0])) > 4


def test_the_styles_hold_what_they_are_named_for() -> None:
    policy = make_policy("integer", "image", 8)
    kinds = {style: {node.op_type for node in onnx.load_from_string(encode_onnx(policy, style)).graph.node}
             for style in STYLES}  # fmt: skip
    assert {"ConvInteger", "MatMulInteger"} <= kinds["exact"]
    assert not kinds["exact"] & {"Conv", "Gemm", "QuantizeLinear", "DequantizeLinear"}
    assert {"Conv", "Gemm", "QuantizeLinear", "DequantizeLinear"} <= kinds["qdq"]
    for style in STYLES:
        weights = [tensor for tensor in onnx.load_from_string(encode_onnx(policy, style)).graph.initializer
                   if "/weight" in tensor.name and len(tensor.dims) > 1]  # fmt: skip
        assert len(weights) == len(policy.layers)
        assert {tensor.data_type for tensor in weights} == {TensorProto.UINT8 if style == "exact" else TensorProto.INT8}


def test_onnx_runtime_turns_qdq_into_integer_layers(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        encode_onnx(pp.load(RESULTS["catch-narrow"]), "qdq"), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (kinds.count("QLinearConv"), kinds.count("QGemm")) == (3, 2)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"} & set(kinds)


# Codes of every width


def narrow(policy: Policy, low: int, high: int, bits: int) -> Policy:
    """The policy with other limits of its input, whose codes use them."""
    assert policy.input is not None
    scale = policy.input.inverse_scale * np.float32(max(-low, high) / policy.input.high)
    return dataclasses.replace(policy, input=InputQuantization(scale, low, high, bits))


@pytest.mark.parametrize("kind", ["vector", "image"])
@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(-32767, 32767, 16), (0, 65535, 16), (-511, 511, 10), (0, 255, 8), (-7, 7, 4), (5, 60, 6), (-100, -3, 7),
     (-60000, -100, 16), (0, 300, 9), (-128, 127, 8)],
)  # fmt: skip
def test_inputs_of_any_width_are_exact(kind: Kind, low: int, high: int, bits: int) -> None:
    policy = narrow(make_policy("integer", kind, 6, seed=1), low, high, bits)
    observations = check_observations(policy, 30, seed=0)
    assert_exact(policy, observations)
    x = reference.observe(policy.observation, observations)
    assert policy.input is not None
    assert {low, high} & set(np.unique(reference.quantize_input(policy.input, x)).tolist())
    if high - low < 2**16 and low > -(2**15):
        assert check_onnx(policy, encode_onnx(policy, "qdq"), observations).holds


@pytest.mark.parametrize(("low", "high"), [(-1000, 1000), (-70000, 70000), (0, 400), (-3, 9)])
def test_hidden_codes_of_any_width_are_exact(low: int, high: int) -> None:
    policy = make_policy("integer", "vector", 3, seed=1)
    first = policy.ops[0]
    assert isinstance(first, Layer)
    wide = Requantization(np.array([200], np.int32), np.array([1], np.int32), low, high)
    policy = dataclasses.replace(policy, ops=(dataclasses.replace(first, requantize=wide), *policy.ops[1:]))
    assert_exact(policy, check_observations(policy, 50, seed=0))
    if high > 2**16:
        with pytest.raises(UnsupportedError, match=r'do not fit 16 bits: export with style="exact"\.$'):
            encode_onnx(policy, "qdq")


def one_layer(multiplier: int, shift: int, bias: int, weight: int = 127) -> Policy:
    """An 8-bit code, its requantization, and a layer that shows the result."""
    one = np.ones(1, np.float32)
    requantize = Requantization(np.array([multiplier], np.int32), np.array([shift], np.int32), -(2**22), 2**22)
    ops = (
        Layer(np.array([[weight]], np.int8), np.array([bias], np.int32), 8, one, False, requantize),
        Layer(np.array([[1]], np.int8), np.zeros(1, np.int32), 8, one, False),
    )
    return Policy(
        ops,
        ObservationTransform((1,), "float32"),
        ActionTransform("box", (1,), low=-np.full(1, np.inf, np.float32), high=np.full(1, np.inf, np.float32)),
        InputQuantization(one, -127, 127, 8),
        baseline_bytes=16,
    )


@given(st.integers(16, 255), st.integers(1, 31), st.integers(-(2**31) + 2**15, 2**31 - 2**15))
@settings(max_examples=30)
def test_requantization_is_exact_over_all_of_int32(multiplier: int, shift: int, bias: int) -> None:
    policy = one_layer(multiplier, shift, bias)
    codes = np.arange(-127, 128, dtype=np.float32)[:, None]
    outputs, _ = onnx_outputs(encode_onnx(policy), codes)
    wanted = [min(max(((127 * code + bias) * multiplier + 2 ** (shift - 1)) >> shift, -(2**22)), 2**22)
              for code in range(-127, 128)]  # fmt: skip
    assert outputs.ravel().tolist() == wanted


def doubles(model: bytes) -> set[str]:
    """The parts of the graph that compute in float64."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
    wide = {value.name for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.DOUBLE}  # fmt: skip
    wide |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.DOUBLE}
    return {node.name.split("/")[0] for node in graph.node if wide & {*node.input, *node.output}}


@pytest.mark.parametrize("shift", [1, 7, 15, 16, 17, 22, 24, 31])
@pytest.mark.parametrize("limit", [1, 127, 255])
def test_requantization_is_exact_up_to_the_limits_and_beyond(limit: int, shift: int) -> None:
    """Around every edge of a code and around what float32 still holds; in float64 where float32 is not enough."""
    edges = [code << shift for code in (-limit - 1, -limit, -1, 0, 1, limit, limit + 1)]
    biases, multipliers = [], []
    for multiplier in (16, 128, 201, 255):
        places = [(edge - (1 << shift - 1)) // multiplier for edge in edges] + [2**24, -(2**24), 2**30, 2**31]
        biases += [min(max(place, 2**9 - 2**31), 2**31 - 2**9) for place in places]
        multipliers += [multiplier] * len(places)
    one, count = np.ones(1, np.float32), len(biases)
    requantize = Requantization(np.array(multipliers, np.int32), np.full(count, shift, np.int32), -limit, limit)
    policy = Policy(
        (Layer(np.ones((count, 1), np.int8), np.array(biases, np.int32), 8, one, False, requantize),
         Layer(np.eye(count, dtype=np.int8), np.zeros(count, np.int32), 8, one, False)),
        ObservationTransform((1,), "float32"),
        ActionTransform("discrete", dtype="int64"),
        InputQuantization(one, -127, 127, 8),
        baseline_bytes=16,
    )  # fmt: skip
    codes = np.arange(-127, 128, dtype=np.float32)[:, None]
    assert np.array_equal(onnx_outputs(encode_onnx(policy), codes)[0], policy.outputs(codes))
    assert (doubles(encode_onnx(policy)) == set()) == ((limit + 1) << shift <= 2**24)


def test_halves_go_up_in_exact_and_to_even_in_qdq() -> None:
    policy = one_layer(128, 8, 0, weight=1)  # codes / 2
    ops = (dataclasses.replace(policy.ops[0], requantize=Requantization(
        np.array([128], np.int32), np.array([8], np.int32), -127, 127)), policy.ops[1])  # fmt: skip
    policy = dataclasses.replace(policy, ops=ops)
    codes = np.array([[-5], [-3], [-1], [1], [3], [5]], np.float32)
    assert onnx_outputs(encode_onnx(policy), codes)[0].ravel().tolist() == [-2, -1, 0, 1, 2, 3]
    assert onnx_outputs(encode_onnx(policy, "qdq"), codes)[0].ravel().tolist() == [-2, -2, 0, 0, 2, 2]
    assert check_onnx(policy, encode_onnx(policy, "qdq"), codes).step_difference == 1


@pytest.mark.parametrize("shift", [6, 8, 9, 10])
def test_halves_behind_a_relu_go_up_in_qdq_too(shift: int) -> None:
    policy = one_layer(208, shift, 1 << max(shift - 6, 0), weight=1)
    first = policy.ops[0]
    assert isinstance(first, Layer)
    requantize = dataclasses.replace(first.requantize, low=0, high=255)  # type: ignore[type-var]
    policy = dataclasses.replace(
        policy, ops=(dataclasses.replace(first, relu=True, requantize=requantize), policy.ops[1])
    )
    codes = np.arange(-127, 128, dtype=np.float32)[:, None]
    products = (codes + first.bias) * 208 / 2**shift
    assert ((products % 1 == 0.5) & (products > 0) & (products < 255)).sum() >= 2
    assert np.array_equal(onnx_outputs(encode_onnx(policy, "qdq"), codes)[0], policy.outputs(codes))


@pytest.mark.parametrize("numerics", NUMERICS)
def test_the_last_layer_may_have_a_relu(numerics: Numerics) -> None:
    policy = make_policy(numerics, "vector", 5)
    policy = dataclasses.replace(policy, ops=(*policy.ops[:-1], dataclasses.replace(policy.layers[-1], relu=True)))
    observations = random_observations(policy, 60)
    assert {0.0} < set(policy.outputs(observations).ravel().tolist())
    for style in STYLES:
        assert check_onnx(policy, encode_onnx(policy, style), observations).holds
    if numerics == "integer":
        assert_exact(policy, observations)


def test_a_block_in_a_block_and_one_that_ends_in_codes() -> None:
    b = Builder("integer", 6, 5, per_output=True)
    inner = b.residual(2, "inner")
    assert inner.skip is not None
    conv = b.layer(2, 2, 3, 3, role="signed", name="conv", padding=(1, 1))
    outer = dataclasses.replace(
        inner, body=(inner, conv, Relu()),
        skip=dataclasses.replace(inner.skip, multiplier=np.array([200, 90], np.int32),
                                 shift=np.array([8, 7], np.int32)),
        branch=dataclasses.replace(inner.skip),
    )  # fmt: skip
    ops = (outer, Relu(), Flatten(), b.layer(3, 2 * 4 * 5, role="raw", name="last"))
    policy = Policy(
        ops,
        ObservationTransform((2, 4, 5), "uint8", image=True),
        ActionTransform("discrete", dtype="int64"),
        InputQuantization(np.array([255], np.float32), 0, 255, 8),
        baseline_bytes=4,
    )
    observations = check_observations(policy, 40, seed=0)
    assert_exact(policy, observations)
    assert check_onnx(policy, encode_onnx(policy, "qdq"), observations).holds


# Observations and actions


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("numerics", ["integer", "float"])
def test_observations_of_every_dtype_and_shape(
    numerics: Numerics, shape: tuple[int, ...], dtype: str, style: str
) -> None:
    b = Builder(numerics, 7, 2, per_output=True)
    flatten: tuple[Op, ...] = (Flatten(),) if len(shape) > 1 else ()
    policy = Policy(
        (*flatten, b.layer(5, 6, role="hidden", name="a"), b.layer(4, 5, role="raw", name="b")),
        ObservationTransform(shape, dtype),
        ActionTransform("box", (2, 2), dtype="float64", low=-np.ones((2, 2), np.float32),
                        high=np.full((2, 2), np.inf, np.float32)),
        InputQuantization(np.linspace(1, 40, 6).astype(np.float32), -127, 127, 8) if numerics == "integer" else None,
        baseline_bytes=4,
    )  # fmt: skip
    report = check_onnx(policy, encode_onnx(policy, style))
    assert report.holds, report.worst
    observations = random_observations(policy, 9)
    outputs, actions = onnx_outputs(encode_onnx(policy, style), observations)
    assert (actions.shape, actions.dtype) == ((9, 2, 2), np.float64)
    assert len(np.unique(outputs)) > 8
    one, _ = onnx_outputs(encode_onnx(policy, style), observations[3])
    assert one.shape == (1, 4)
    assert np.allclose(one, outputs[3:4], rtol=1e-5)


def with_observations(policy: Policy, dtype: str, **changes: Any) -> Policy:
    return dataclasses.replace(policy, observation=dataclasses.replace(policy.observation, dtype=dtype, **changes))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["vector", "tanh"])
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("normalized", [True, False])
def test_float32_observations_are_answered_as_the_policy_answers_them(
    normalized: bool, numerics: Numerics, kind: Kind, style: str, tmp_path: Path
) -> None:
    policy = make_policy(numerics, kind, 6, seed=2, vectors=normalized)
    if not normalized:
        policy = with_observations(policy, "float64", normalization=None)
    report = export_onnx(policy, tmp_path / "a.onnx", style, observation="float32")
    assert report.holds
    assert report.observation == "float32"
    model = (tmp_path / "a.onnx").read_bytes()
    assert onnx.load_from_string(model).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert json.loads(facts(model)["policypress.observation"])["dtype"] == "float32"
    wide = random_observations(policy, 300, seed=5)
    assert wide.dtype == np.float64
    narrow = wide.astype(np.float32)
    outputs, actions = onnx_outputs(model, narrow)
    wanted = policy.outputs(narrow)
    if numerics == "integer" and style == "exact":
        assert np.array_equal(outputs, wanted)
        assert np.array_equal(actions, policy.predict(narrow)[0])
        if not normalized:  # the policy's own first step
            assert np.array_equal(outputs, policy.outputs(wide))
    elif numerics != "integer":
        assert np.allclose(outputs, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert check_onnx(policy, model).as_dict() == report.as_dict()
    assert check_onnx(policy, model, narrow).holds
    assert doubles(model) == ({"observe"} if normalized and style == "exact" and numerics != "integer" else set())


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("changes", [
    {"mean": np.full(5, 3e5), "var": np.full(5, 1e-3)}, {"clip": 1e30}, {"var": np.full(5, 1e-90), "epsilon": 0.0},
    {"var": np.full(5, 1e80)},
])  # fmt: skip
def test_normalization_far_from_zero_or_never_clipped(changes: dict[str, Any], numerics: Numerics) -> None:
    """In float32 as long as that is near; in float64 where it is not."""
    policy = make_policy(numerics, "vector", 6)
    normalization = dataclasses.replace(policy.observation.normalization, **changes)  # type: ignore[type-var]
    policy = with_observations(policy, "float32", normalization=normalization)
    usual = normalization.mean + np.sqrt(normalization.var) * np.random.default_rng(0).normal(size=(500, 5))
    usual = usual.clip(-1e38, 1e38)
    model = encode_onnx(policy, "qdq")
    assert check_onnx(policy, model, usual.astype(np.float32)).holds
    assert check_onnx(policy, model).holds
    assert doubles(model) == (set() if "mean" in changes else {"observe"})


def far_from_zero(dtype: str = "float32", shape: tuple[int, ...] = (5,)) -> Policy:
    """Features of 300 ± 0.02, some of whose codes no observation reaches."""
    policy = make_policy("integer", "vector", 6)
    moments = np.linspace(299, 301, 5).reshape(shape), np.full(shape, 4e-4)
    flat: tuple[Op, ...] = (Flatten(),) if len(shape) > 1 else ()
    return dataclasses.replace(
        policy,
        ops=(*flat, *policy.ops),
        observation=ObservationTransform(shape, dtype, normalization=Normalization(*moments, 1e-8, 3.0)),
    )


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 1, 5)])
@pytest.mark.parametrize(("low", "high"), [(-127, 127), (0, 255), (-7, 7), (5, 60), (-100, -3)])
def test_codes_of_normalized_observations_begin_where_the_policys_do(
    low: int, high: int, shape: tuple[int, ...]
) -> None:
    policy = narrow(far_from_zero(shape=shape), low, high, 8)
    assert policy.input is not None
    begins = code_begins(policy, policy.input)
    assert begins.shape == (high - low + 2, 5)
    seen = np.where(np.abs(begins) < 1e6, begins, np.float32(300))  # others are for all observations, or for none
    seen = np.concatenate([np.nextafter(seen, np.float32(-np.inf)), seen, np.nextafter(seen, np.float32(np.inf))])
    seen = seen.reshape(-1, *shape)
    codes = reference.quantize_input(policy.input, reference.observe(policy.observation, seen))
    assert len(np.unique(codes)) > 0.5 * (high - low)
    assert_exact(policy, seen)
    assert_exact(policy, check_observations(policy, 50, seed=0))
    assert doubles(encode_onnx(policy)) == set()


def test_a_wrong_place_of_a_code_is_found() -> None:
    policy = far_from_zero()
    model = onnx.load_from_string(encode_onnx(policy))
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "input/begins")
    begins = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(
        numpy_helper.from_array(np.where(np.abs(begins - 299) < 0.03, np.float32(299.5), begins), tensor.name)
    )
    report = check_onnx(policy, model.SerializeToString())
    assert report.steps[0].largest == 1
    assert not report.holds


def test_a_wrong_normalization_in_float32_is_found() -> None:
    for numerics in NUMERICS:
        policy = with_observations(make_policy(numerics, "vector", 8), "float32")
        assert not check_onnx(policy, damaged(encode_onnx(policy, "qdq"), "observe/mean", 0.2)).holds


@pytest.mark.parametrize(
    ("kind", "dtype", "own"),
    [("image", "float32", "uint8"), ("vector", "float16", "float64"), ("vector", "no", "float64")],
)
def test_observations_of_another_dtype_are_refused(kind: Kind, dtype: str, own: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"^observation='{dtype}' is not possible for a policy that takes {own}: leave"
    ):
        export_onnx(make_policy("integer", kind), tmp_path / "a.onnx", observation=dtype)
    assert list(tmp_path.iterdir()) == []


ACTIONS: dict[str, ActionTransform] = {
    "discrete": ActionTransform("discrete", dtype="int64", start=-3),
    "groups": ActionTransform("multi-discrete", (3,), "int64", nvec=(2, 1, 3)),
    "binary": ActionTransform("multi-binary", (6,), "int64"),
    "one group": ActionTransform("multi-discrete", (1,), "int64", nvec=(6,)),
    "clipped": ActionTransform("box", (6,), low=np.linspace(-1, 0, 6).astype(np.float32),
                               high=np.linspace(0, 2, 6).astype(np.float32)),
    "squashed": ActionTransform("box", (3, 2), squash=True, low=np.linspace(-9, 0, 6).astype(np.float32).reshape(3, 2),
                                high=np.linspace(0.1, 2, 6).astype(np.float32).reshape(3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", ACTIONS)
def test_every_kind_of_action(kind: str, numerics: Numerics) -> None:
    b = Builder(numerics, 5, 4, per_output=False)
    policy = Policy(
        (b.layer(5, 4, role="hidden", name="a"), b.layer(6, 5, role="raw", name="b")),
        ObservationTransform((4,), "float32"),
        ACTIONS[kind],
        InputQuantization(np.array([30], np.float32), -127, 127, 8) if numerics == "integer" else None,
        baseline_bytes=4,
    )
    observations = random_observations(policy, 200)
    for style in STYLES:
        model = encode_onnx(policy, style)
        outputs, actions = onnx_outputs(model, observations)
        wanted = reference.act(policy.action, outputs)
        assert (actions.dtype, actions.shape) == (wanted.dtype, wanted.shape)
        if style == "exact" or kind != "squashed":
            assert np.array_equal(actions, wanted)
        assert np.allclose(actions, wanted, atol=1e-5)
        assert len(np.unique(actions)) > 1
        assert check_onnx(policy, model, observations).holds


def scalar_box() -> Policy:
    """float32 in, tanh out, with nothing between."""
    one = np.ones((1, 1), np.float32)
    return Policy(
        (Layer(one, np.zeros(1, np.float32), FLOAT_BITS, np.ones(1, np.float32), False),),
        ObservationTransform((1,), "float32"),
        ActionTransform("box", (), squash=True, low=np.float32(-1).reshape(()), high=np.float32(1).reshape(())),
        None,
        baseline_bytes=8,
    )


def test_tanh_keeps_its_bits() -> None:
    policy = scalar_box()
    # Every 997th float32 from 3e-8 to 11 as in test_reference, and the places where the method changes.
    x = np.arange(0x33000000, 0x41300000, 997, dtype=np.uint32).view(np.float32)
    near = [np.float32(at) + np.spacing(np.float32(at)) * np.arange(-3000, 3000) for at in (0.625, 1.2, 5.1, 9.01, 10)]
    x = np.concatenate([x, *near, [0, 3e38, 1e-40]]).astype(np.float32)
    x = np.concatenate([x, -x])
    model = onnx.load_from_string(
        encode_onnx(dataclasses.replace(policy, ops=(*policy.ops, Activation("tanh"), *policy.ops)))
    )
    model.graph.output.append(onnx.ValueInfoProto(name=tensor_of(model, "02.tanh")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    _, _, squashed = session.run(None, {"observation": x[:, None]})
    wanted = reference.tanh(x)
    nonzero = x != 0
    assert squashed.ravel()[nonzero].tobytes() == wanted[nonzero].tobytes()
    assert (squashed.ravel()[~nonzero] == 0).all()
    actions = onnx_outputs(encode_onnx(policy), x[:, None])[1]
    assert actions.shape == x.shape
    assert np.array_equal(actions, policy.predict(x[:, None])[0])
    plain = onnx_outputs(encode_onnx(policy, "qdq"), x[:, None])[1]
    assert 0 < np.abs(plain - actions).max() < 5e-7


def tensor_of(model: onnx.ModelProto, scope: str) -> str:
    """The last result in a scope."""
    return str([node.output[0] for node in model.graph.node if node.name.startswith(scope)][-1])


def test_the_first_of_equals_is_chosen() -> None:
    b = Builder("float", 8, 0, False)
    layer = dataclasses.replace(
        b.layer(40, 3, role="raw", name="a"), weight=np.zeros((40, 3), np.float32), bias=np.zeros(40, np.float32)
    )
    for first in (0, 5, 17, 38):
        bias = np.zeros(40, np.float32)
        bias[[first, 38, 39]] = 1
        policy = Policy(
            (dataclasses.replace(layer, bias=bias),), ObservationTransform((3,), "float32"),
            ActionTransform("discrete", dtype="int64"), None, baseline_bytes=4,
        )  # fmt: skip
        assert onnx_outputs(encode_onnx(policy), np.zeros((2, 3), np.float32))[1].tolist() == [first, first]


def test_observations_beyond_the_policys_own_do_not_stop_a_batch() -> None:
    policy = make_policy("float", "tanh")
    observations = random_observations(policy, 4)
    wanted = onnx_outputs(encode_onnx(policy), observations)[1]
    observations[2] = np.nan
    got = onnx_outputs(encode_onnx(policy), observations)[1]
    assert np.array_equal(got[[0, 1, 3]], wanted[[0, 1, 3]])
    assert np.isnan(got[2]).all()


@pytest.mark.parametrize("style", STYLES)
def test_nan_in_a_normalized_observation_does_not_stop_a_batch(style: str) -> None:
    policy = with_observations(make_policy("integer", "vector"), "float32")
    observations = random_observations(policy, 4)
    wanted = onnx_outputs(encode_onnx(policy, style), observations)[1]
    observations[2] = [np.nan, np.inf, -np.inf, 1, 2]
    got = onnx_outputs(encode_onnx(policy, style), observations)[1]
    assert np.array_equal(got[[0, 1, 3]], wanted[[0, 1, 3]])


# The file


def test_the_file_says_where_it_comes_from() -> None:
    policy = make_policy("integer", "vector", vectors=True)
    model = onnx.load_from_string(encode_onnx(policy))
    assert (model.ir_version, model.opset_import[0].version, model.producer_name) == (7, 13, "policypress")
    found = facts(encode_onnx(policy))
    assert json.loads(found["policypress.provenance"]) == policy.provenance
    assert json.loads(found["policypress.results"]) == policy.results
    assert json.loads(found["policypress.observation"])["shape"] == [5]
    assert json.loads(found["policypress.action"])["high"] == [1, 1, 5]
    assert (found["policypress.numerics"], found["policypress.style"]) == ("integer", "exact")
    dims = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)]  # fmt: skip
    assert dims == [["batch", 5], ["batch", 3], ["batch", 3]]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["observation", "action", "outputs"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numerics", NUMERICS)
def test_equal_policies_give_equal_bytes(numerics: Numerics, kind: Kind, style: str, tmp_path: Path) -> None:
    policy = make_policy(numerics, kind, vectors=True)
    policy.save(tmp_path / "a.policy")
    data = encode_onnx(policy, style)
    assert encode_onnx(pp.load(tmp_path / "a.policy"), style) == data
    report = export_onnx(policy, tmp_path / "a.onnx", style)
    assert (tmp_path / "a.onnx").read_bytes() == data
    assert report.payload_bytes == len(data)
    assert report.holds
    assert check_onnx(policy, tmp_path / "a.onnx").as_dict() == report.as_dict()
    observations = random_observations(policy, 3)
    np.testing.assert_array_equal(
        onnx_outputs(tmp_path / "a.onnx", observations)[0], onnx_outputs(data, observations)[0]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.policy"]


def test_no_graph_needs_more_than_opset_13() -> None:
    policies = [make_policy(numerics, kind) for numerics in NUMERICS for kind in KINDS]
    policies.append(narrow(make_policy("integer", "vector"), -32767, 32767, 16))
    for policy in policies:
        for style in STYLES:
            model = onnx.load_from_string(encode_onnx(policy, style))
            assert (model.ir_version, model.opset_import[0].version) == (7, 13)
            onnx.checker.check_model(model, full_check=True)
            for node in model.graph.node:  # the type of every input is one that this version knows
                assert onnx.defs.get_schema(node.op_type, 13).since_version <= 13
            assert not {TensorProto.INT16, TensorProto.UINT16} & {t.data_type for t in model.graph.initializer}


def test_checks_reach_the_ends_of_the_dtype() -> None:
    policy = make_policy("integer", "vector", vectors=True)
    observations = check_observations(policy, 10, seed=0)
    assert observations.dtype == np.float64
    assert observations.max() == np.finfo(np.float64).max == -observations.min()
    assert np.array_equal(observations[:5], policy.test_vectors.observations)  # type: ignore[union-attr]
    image = check_observations(make_policy("integer", "image"), 10, seed=0)
    assert (image.min(), image.max()) == (0, 255)
    plain = check_observations(scalar_box(), 10, seed=0)
    assert plain.max() == np.finfo(np.float32).max
    policy.outputs(observations)  # none is refused
    scalar_box().outputs(plain)


# OpenVINO


@pytest.fixture
def openvino() -> Any:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: make venv installs it.")
    from export.openvino_peer import OpenVinoRunner

    return OpenVinoRunner


def discrete(policy: Policy) -> Policy:
    """The vector policy with multi-discrete actions, whose bits no float arithmetic of actions hides."""
    return dataclasses.replace(policy, action=ActionTransform("multi-discrete", (2,), "int64", nvec=(1, 2)))


TAKING = ("float64", "float32", "normalized float64", "normalized float32")
PEERS: list[tuple[Kind, str]] = [
    ("image", "uint8"),
    *((kind, taking) for kind in ("vector", "tanh") for taking in TAKING),
]
SINGLE = [peer for peer in PEERS if "float64" not in peer[1]]  # quantized graphs of double fail in OpenVINO


def peer_policy(numerics: Numerics, kind: Kind, bits: int, taking: str) -> Policy:
    policy = make_policy(numerics, kind, bits, seed=bits, per_output=bits % 2 == 0)
    if kind == "image":
        return policy
    *normalized, dtype = taking.split()
    policy = with_observations(policy, dtype, **({} if normalized else {"normalization": None}))
    return discrete(policy) if bits == 5 else policy


@pytest.mark.parametrize(("kind", "taking"), PEERS)
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_openvino_gives_every_integer_of_style_exact(bits: int, kind: Kind, taking: str, openvino: Any) -> None:
    policy = peer_policy("integer", kind, bits, taking)
    observations = check_observations(policy, 60, seed=0)[:60]
    report = compare(policy, encode_onnx(policy), observations, runner=openvino)
    assert report.step_difference == 0
    assert report.outputs.largest == 0
    if policy.action.kind == "box":  # its float32 tanh contracts products and sums
        assert report.action.largest < 1e-6
    else:
        assert report.equal_actions == 1


def test_openvino_is_exact_far_from_zero(openvino: Any) -> None:
    policy = far_from_zero()
    usual = 300 + 0.02 * np.random.default_rng(0).normal(size=(2000, 5)) + np.linspace(-1, 1, 5)
    outputs, _ = openvino(encode_onnx(policy))(usual.astype(np.float32))
    assert np.array_equal(outputs, policy.outputs(usual.astype(np.float32)))
    assert len(np.unique(outputs)) > 1000


@pytest.mark.parametrize(("kind", "taking"), SINGLE)
@pytest.mark.parametrize("bits", [2, 5, 7, 8])
def test_openvino_keeps_what_style_qdq_promises(bits: int, kind: Kind, taking: str, openvino: Any) -> None:
    policy = peer_policy("integer", kind, bits, taking)
    observations = check_observations(policy, 60, seed=0)[:60]
    model = encode_onnx(policy, "qdq")
    report = compare(policy, model, observations, runner=openvino)
    assert report.holds, report.worst
    if bits == 8:  # whose kernels saturate on some processors
        return
    outputs, _ = openvino(model, integers=True)(observations)
    floats, _ = openvino(model)(observations)
    near = np.isclose(outputs, floats, rtol=1e-5, atol=1e-5 * np.abs(floats).max()).all(axis=1)
    assert near.mean() > 0.9  # a half may go up in one and down in the other
    assert np.abs(outputs - floats).max() < 0.1 * np.abs(floats).max()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("kind", "taking"), PEERS)
@pytest.mark.parametrize("numerics", ["weight-only", "float"])
def test_openvino_is_within_rounding_elsewhere(
    numerics: Numerics, kind: Kind, taking: str, style: str, openvino: Any
) -> None:
    policy = peer_policy(numerics, kind, 8, taking)
    observations = random_observations(policy, 60)
    outputs, actions = openvino(encode_onnx(policy, style))(observations)
    wanted = policy.outputs(observations)
    assert np.allclose(outputs, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert np.allclose(actions, policy.predict(observations)[0], atol=2e-5)


@pytest.mark.parametrize("name", ["catch-narrow", "cheetah-90", "cheetah-98", "keep-cheetah", "walker-16"])
def test_openvino_answers_trained_policies(name: str, openvino: Any) -> None:
    policy = pp.load(RESULTS[name])
    observations = policy.test_vectors.observations  # type: ignore[union-attr]
    if not policy.observation.image:
        observations = observations.astype(np.float32)
    dtype = None if policy.observation.image else "float32"
    wanted, actions = policy.outputs(observations), policy.predict(observations)[0]
    exact = openvino(encode_onnx(policy, observation=dtype))(observations)
    assert np.array_equal(exact[0], wanted)
    assert np.allclose(exact[1], actions, atol=1e-6)
    quantized = openvino(encode_onnx(policy, "qdq", dtype))(observations)
    assert np.isclose(quantized[1], actions, atol=1e-5).reshape(len(actions), -1).all(axis=1).mean() > 0.98


# What goes wrong


def damaged(data: bytes, name: str, by: float = 1) -> bytes:
    """The graph with the first value of an initializer changed, by one if not told otherwise."""
    model = onnx.load_from_string(data)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += array.dtype.type(by)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("style", "name"),
    [("exact", "01.first/weight"), ("exact", "02.second/bias"), ("exact", "03.mean/bias"), ("exact", "last/scale"),
     ("exact", "act/span"), ("exact", "observe/mean"), ("qdq", "01.first/weight"), ("qdq", "03.mean/weight"),
     ("qdq", "act/span")],
)  # fmt: skip
def test_a_wrong_number_is_found(style: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = make_policy("integer", "vector", 8)
    wrong = damaged(encode_onnx(policy, style), name)
    assert not check_onnx(policy, wrong).holds
    monkeypatch.setattr(onnx_export, "encode_onnx", lambda *_: wrong)
    with pytest.raises(ExportError, match=r"the largest difference is .* nothing was written") as error:
        export_onnx(policy, tmp_path / "a.onnx", style)
    assert str(error.value).count(". ") == 0
    if name == "01.first/weight":
        assert "integer steps in 01.first" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["01.first/weight", "02.second/bias", "act/span"])
def test_a_wrong_float_is_found(name: str) -> None:
    policy = make_policy("weight-only", "vector", 8)
    assert not check_onnx(policy, damaged(encode_onnx(policy), name)).holds


@pytest.mark.parametrize("name", ["last/scale", "act/span"])
def test_nan_is_found_behind_right_integers(name: str) -> None:
    policy = make_policy("integer", "vector", 8)
    report = check_onnx(policy, damaged(encode_onnx(policy), name, np.nan))
    assert report.step_difference == 0
    assert not report.holds
    assert report.worst.largest == np.inf


@pytest.mark.parametrize("style", STYLES)
def test_observations_that_overflow_inside_are_not_held_against_a_graph(style: str) -> None:
    """Sums of one order overflow where those of another do not, and zero times infinity is NaN in ONNX Runtime."""
    policy = make_policy("weight-only", "vector")
    one = np.ones(1, np.float32)
    loud = Layer(np.int8([[7, 7], [1, 0]]), np.zeros(2, np.float32), 4, one, False)
    deaf = Layer(np.int8([[0, 1]] * 3), np.zeros(3, np.float32), 4, one, False)
    cancels = Layer(np.int8([[7, -7]] * 3), np.zeros(3, np.float32), 4, one / 64, False)
    seen = np.float32([[1e38, 1e38], [1, 2], [3e38, -1e38]])
    for ops, count in (((loud, deaf), 2), ((cancels,), 1)):
        plain = dataclasses.replace(policy, ops=ops, observation=ObservationTransform((2,), "float32"))
        legal = accepted(plain, seen)
        assert len(legal) >= count
        assert check_onnx(plain, encode_onnx(plain, style), legal).holds
        wrong = dataclasses.replace(ops[-1], bias=np.float32([0, 0, 1e-3]))
        other = dataclasses.replace(plain, ops=(*ops[:-1], wrong))
        assert not check_onnx(plain, encode_onnx(other, style), legal).holds


def test_a_graph_of_another_policy_is_refused() -> None:
    vector, image, tanh = (make_policy("integer", kind, vectors=True) for kind in KINDS)
    for policy, other in ((vector, image), (image, vector)):
        with pytest.raises(ExportError):
            check_onnx(policy, encode_onnx(other))
    assert not check_onnx(make_policy("integer", "vector", seed=3), encode_onnx(vector)).holds
    with pytest.raises(ExportError, match="not one of this policy"):
        check_onnx(tanh, encode_onnx(vector))
    model = onnx.load_from_string(encode_onnx(vector))
    del model.metadata_props[:]
    with pytest.raises(ExportError, match="does not say what its tensors are"):
        check_onnx(vector, model.SerializeToString())


def test_files_that_are_no_graph(tmp_path: Path) -> None:
    policy = make_policy("integer", "vector")
    with pytest.raises(ExportError, match=r"^Cannot read .*missing.onnx: No such file or directory\.$"):
        onnx_outputs(tmp_path / "missing.onnx", np.zeros(5))
    (tmp_path / "text.onnx").write_text("not a graph at all")
    for call in (lambda p: check_onnx(policy, p), lambda p: onnx_outputs(p, np.zeros(5))):
        with pytest.raises(ExportError):
            call(tmp_path / "text.onnx")
    with pytest.raises(ObservationError):
        check_onnx(policy, encode_onnx(policy), np.full((1, 5), np.nan))


def test_unknown_words(tmp_path: Path) -> None:
    policy = make_policy("integer", "vector")
    with pytest.raises(ConfigError, match=r"^style='fast' is not one of exact, qdq\.$"):
        export_onnx(policy, tmp_path / "a.onnx", "fast")
    with pytest.raises(ConfigError, match=r"^to='h5' is not one of "):
        export(policy, tmp_path / "a", "h5")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(pp.PolicypressError, match="Cannot write"):
        export(policy, tmp_path / "no" / "a.onnx", "onnx")


# Command line and packages


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    policy = make_policy("integer", "vector", vectors=True)
    policy.save(tmp_path / "a.policy")
    monkeypatch.setattr(terminal.stdout, "width", 80)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["policypress", "export", str(tmp_path / "a.policy"), *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    out = tmp_path / "a.onnx"
    code, shown, _ = run("--to", "onnx", "--out", out)
    assert code == 0
    assert "largest difference 0 steps, 0 allowed" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines() if str(out) not in line) <= 80
    assert np.array_equal(onnx_outputs(out, policy.test_vectors.observations)[1], policy.test_vectors.actions)  # type: ignore[union-attr]
    code, shown, _ = run("--to", "onnx", "--out", out, "--style", "qdq", "--seed", 4, "--json")
    assert code == 0
    assert json.loads(shown)["style"] == facts(out.read_bytes())["policypress.style"] == "qdq"
    for words, sentence in (
        (("--to", "h5"), f"to='h5' is not one of {', '.join(FORMATS)}."),
        (("--to", "onnx", "--style", "fast"), "style='fast' is not one of exact, qdq."),
    ):
        code, _, error = run(*words, "--out", tmp_path / "b")
        assert (code, error) == (2, f"policypress: {sentence}\n")
    assert not (tmp_path / "b").exists()
    code, shown, _ = run("--to", "onnx", "--out", out, "--observation", "float32")
    assert code == 0
    assert "float32 observations" in shown
    assert onnx.load(out).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(missing: str, tmp_path: Path) -> None:
    make_policy("integer", "vector").save(tmp_path / "a.policy")
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom policypress.cli import main; main()"
    done = python(code, "export", tmp_path / "a.policy", "--to", "onnx", "--out", tmp_path / "a.onnx")
    assert done.returncode == 2
    sentence = f"Exporting to ONNX needs {missing}, which is not installed: {install('export')}."
    assert done.stderr == f"policypress: {sentence}\n"
    assert not (tmp_path / "a.onnx").exists()


def test_exporting_imports_no_torch_and_policypress_no_onnx(tmp_path: Path) -> None:
    make_policy("integer", "vector").save(tmp_path / "a.policy")
    done = python(
        "import sys, policypress, policypress.export, policypress.export.onnx\n"
        "print({'onnx', 'onnxruntime'} & set(sys.modules))\n"
        "policypress.export.onnx.export_onnx(policypress.load(sys.argv[1]), sys.argv[2])\n"
        "print({'torch', 'stable_baselines3', 'gymnasium'} & set(sys.modules), 'onnx' in sys.modules)\n",
        tmp_path / "a.policy", tmp_path / "a.onnx",
    )  # fmt: skip
    assert done.stdout == "set()\nset() True\n", done.stderr


WITHOUT = """
import sys
for name in ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "mujoco", "ale_py"):
    sys.modules[name] = None  # what imports it fails
from policypress.cli import main
main()
"""


@pytest.mark.parametrize("words", [["export", "--to", "onnx", "--out", "a.onnx", "--observation", "float32"],
                                   ["verify", "--vectors", "16"]], ids=lambda words: words[0])  # fmt: skip
def test_commands_work_without_what_trains(words: list[str], tmp_path: Path) -> None:
    make_policy("integer", "vector", vectors=True).save(tmp_path / "a.policy")
    command = [sys.executable, "-c", WITHOUT, words[0], "a.policy", *words[1:], "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["holds"]
    if words[0] == "verify":
        assert [row["holds"] for row in result["rows"] if row["engine"].startswith("ONNX")] == [True, True]


def test_the_package_can_be_called_and_imported_from(tmp_path: Path) -> None:
    import policypress.export.verify  # binds the package's name again

    policy = make_policy("integer", "vector")
    report = pp.export(policy, tmp_path / "a.onnx", "onnx", style="qdq", observation="float32")  # type: ignore[operator]
    assert report.as_dict()["style"] == facts((tmp_path / "a.onnx").read_bytes())["policypress.style"] == "qdq"
    with pytest.raises(ConfigError, match="style is not an option of the format c"):
        policypress.export(policy, tmp_path / "b", "c", style="qdq")  # type: ignore[operator]
    assert policypress.export.FORMATS is FORMATS
