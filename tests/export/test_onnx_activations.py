"""Activations of the table in ONNX graphs: exact, quantized, and by the operators of ONNX, wherever they may stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from policypress.export.onnx import STYLES, check_onnx, encode_onnx, onnx_outputs
from policypress.export.onnx_check import check_observations, compare, formula_error
from policypress.export.onnx_functions import activate
from policypress.export.onnx_graph import IR_VERSION, OPSET, Graph, Style
from policypress.policy import reference
from policypress.policy.ops import Activation
from policypress.policy.policy import Numerics, Policy
from policypress.testing import ACTIVATIONS, Kind, activated, activation_name

each = pytest.mark.parametrize("op", ACTIVATIONS, ids=activation_name)


def in_onnx_runtime(op: Activation, style: Style, x: NDArray[np.float32]) -> NDArray[np.float32]:
    graph = Graph()
    y = activate(graph, op, "x", style)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", y)]
    made = helper.make_graph(graph.nodes, "g", values[:1], values[1:], graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


def arguments() -> NDArray[np.float32]:
    """Ordinary values, and of all magnitudes whose cubes float32 holds."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(-40, 29, 20_000)) * rng.choice([-1.0, 1.0], 20_000)
    return np.concatenate([np.linspace(-30, 30, 100_001), sizes, [0.0, -3.0, 3.0, 6.0]]).astype(np.float32)


@each
def test_style_exact_has_the_formulas_bits(op: Activation) -> None:
    x = arguments()
    assert np.array_equal(in_onnx_runtime(op, "exact", x), op.values(x))


@each
def test_the_operators_of_onnx_are_as_near_as_the_check_allows(op: Activation) -> None:
    x = arguments()
    distance = np.abs(in_onnx_runtime(op, "qdq", x).astype(np.float64) - op.values(x))
    allowed = formula_error(op, x)
    assert (distance <= allowed).all()
    assert allowed[np.abs(x) <= 8].max() < 3e-5 * max(1.0, np.abs(op.values(x[np.abs(x) <= 8])).max() / 8)


def seen(policy: Policy, count: int = 40) -> NDArray[Any]:
    observations = check_observations(policy, count, seed=1)
    record: list[NDArray[Any]] = []
    reference.run(policy, reference.observe(policy.observation, observations), record)
    assert len(np.unique(record[1])) > 5  # behind the first layer, or its pool
    return observations


@each
@pytest.mark.parametrize("kind", ["vector", "image"])
def test_integers_keep_what_their_style_promises(kind: Kind, op: Activation) -> None:
    place = ACTIVATIONS.index(op)
    for bits in (8, 2 + place % 6):
        policy = activated(op, "integer", kind, bits, seed=place)
        observations = seen(policy)
        for style in STYLES:
            report = check_onnx(policy, encode_onnx(policy, style), observations)
            assert report.holds, (bits, report.worst)
            assert report.step_difference <= (0 if style == "exact" else 1)
            if style == "exact":
                assert (report.outputs.largest, report.equal_actions) == (0, 1)


@each
@pytest.mark.parametrize(("numerics", "kind"), [("weight-only", "image"), ("float", "vector")])
def test_floats_differ_by_roundings_alone(numerics: Numerics, kind: Kind, op: Activation) -> None:
    policy = activated(op, numerics, kind, seed=ACTIVATIONS.index(op))
    observations = seen(policy)[:40]
    x = reference.observe(policy.observation, observations)
    largest = np.abs(reference.run(policy, x)).max()
    for style in STYLES:
        report = check_onnx(policy, encode_onnx(policy, style), observations)
        assert report.holds, report.worst
        assert report.outputs_difference < 1e-5 * largest
        assert report.outputs.allowed < 3e-2 * largest


def test_codes_on_both_sides_of_zero_lie_in_bytes_with_a_zero_point() -> None:
    op = Activation("silu")
    policy = activated(op, "integer", "vector", 8)
    model = onnx.load_from_string(encode_onnx(policy, "qdq"))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    found = {(zero.data_type, int(onnx.numpy_helper.to_array(zero))) for zero in zeros}
    asymmetric = {-layer.low for layer in policy.ops if isinstance(layer, Activation)}
    assert {(TensorProto.UINT8, zero) for zero in asymmetric} <= found
    assert min(asymmetric) > 0


def test_the_lowest_code_of_int8_is_none_of_the_tables() -> None:
    """Behind a layer with all of int8, -128 may occur in style qdq: the table of the policy ends at -127."""
    policy = activated(Activation("leaky_relu", parameters=(3.0,)), "integer", "image", 8, seed=3)
    observations = check_observations(policy, 100, seed=2)
    report = check_onnx(policy, encode_onnx(policy, "qdq"), observations)
    assert report.holds, report.worst


QUICK = ("gelu", "leaky_relu", "hardtanh")


@pytest.mark.parametrize(
    "op",
    [pytest.param(op, marks=() if op.function in QUICK else pytest.mark.slow) for op in ACTIVATIONS],
    ids=activation_name,
)
def test_openvino_runs_them(op: Activation) -> None:
    pytest.importorskip("openvino")
    from export.openvino_peer import OpenVinoRunner

    policy = activated(op, "integer", "image", 7, seed=ACTIVATIONS.index(op))
    observations = seen(policy)[:40]
    exact = compare(policy, encode_onnx(policy), observations, alone=2, runner=OpenVinoRunner)
    assert (exact.step_difference, exact.outputs.largest, exact.equal_actions) == (0, 0, 1)
    quantized = compare(policy, encode_onnx(policy, "qdq"), observations, alone=2, runner=OpenVinoRunner)
    assert quantized.holds, quantized.worst


def test_a_graph_answers_alone_as_in_a_batch() -> None:
    policy = activated(Activation("mish"), "integer", "vector", 6)
    observations = seen(policy)
    model = encode_onnx(policy)
    together = onnx_outputs(model, observations)[0]
    alone = [onnx_outputs(model, one)[0] for one in observations[:5]]
    assert np.array_equal(np.concatenate(alone), together[:5])
