"""ONNX files: every spelling that exporters have is understood as the same layers, and the rest is a black box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import policypress.export
from importers.models import HIDDEN, INPUTS, OUTPUTS, Graph, apart, opened
from policypress.compression.activations import module_of
from policypress.compression.freeze import freeze_graph
from policypress.compression.graph import trace
from policypress.errors import PolicypressError, RunError, UnsupportedError
from policypress.export.onnx import encode_onnx
from policypress.importers.signals import Function
from policypress.policy.activations import FUNCTIONS
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.testing import random_observations, random_recurrent_policy

MEAN, STD = np.linspace(-2, 3, INPUTS), np.linspace(0.2, 4, INPUTS)


def spelled(g: Graph, x: str) -> str:
    """ELU by comparison and exponential."""
    return str(g("Where", g("Greater", x, 0.0), x, g("Sub", g("Exp", x), 1.0)))


ACTIVATIONS: dict[str, tuple[Callable[[Graph, str], str], str]] = {
    "relu": (lambda g, x: g("Relu", x), "relu"),
    "relu as max": (lambda g, x: g("Max", x, 0.0), "relu"),
    "relu as clip": (lambda g, x: g("Clip", x, 0.0), "relu"),
    "elu": (lambda g, x: g("Elu", x, alpha=0.5), "elu"),
    "elu in pieces": (spelled, "elu"),
    "silu": (lambda g, x: g("Mul", x, g("Sigmoid", x)), "silu"),
    "silu, the other way": (lambda g, x: g("Mul", g("Sigmoid", x), x), "silu"),
    "mish": (lambda g, x: g("Mul", x, g("Tanh", g("Softplus", x))), "mish"),
    "gelu": (lambda g, x: g("Mul", g("Mul", x, 0.5), g("Add", g("Erf", g("Div", x, 2**0.5)), 1.0)), "gelu"),
    "hardswish": (lambda g, x: g("Div", g("Mul", x, g("Clip", g("Add", x, 3.0), 0.0, 6.0)), 6.0), "hardswish"),
    "relu6": (lambda g, x: g("Clip", x, 0.0, 6.0), "hardtanh"),
    "leaky relu": (lambda g, x: g("LeakyRelu", x, alpha=0.2), "leaky_relu"),
    "tanh, doubled": (lambda g, x: g("Mul", g("Tanh", x), 2.0), "tanh"),
    "two": (lambda g, x: g("Elu", g("Tanh", x)), "tanh"),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations_by_what_they_compute(case: str, tmp_path: Path) -> None:
    make, name = ACTIVATIONS[case]
    g = Graph()
    found = opened(g.save(tmp_path / "a.onnx", g.network("obs", lambda x: make(g, x))))
    assert apart(found) < 1e-5
    assert found.chain is not None
    assert next(step.name for step in found.chain.steps if isinstance(step, Function)) == name


NORMALIZERS: dict[str, Callable[[Graph, str], str]] = {
    "none": lambda g, x: x,
    "mean and deviation": lambda g, x: g("Div", g("Sub", x, MEAN), STD),
    "reciprocal": lambda g, x: g("Mul", g("Sub", x, MEAN), 1 / STD),
    "root of a variance": lambda g, x: g("Div", g("Sub", x, MEAN), g("Sqrt", g("Add", STD**2, 1e-5))),
    "clipped": lambda g, x: g("Clip", g("Div", g("Sub", x, MEAN), STD), -0.5, 0.5),
    "clipped in two": lambda g, x: g("Max", g("Min", g("Div", g("Sub", x, MEAN), STD), 0.5), -0.5),
    "clipped, then scaled": lambda g, x: g("Add", g("Mul", g("Clip", x, -1.0, 1.0), STD), MEAN),
    "negative": lambda g, x: g("Neg", g("Sub", x, MEAN)),
    "nothing of one": lambda g, x: g("Mul", x, np.arange(INPUTS)),
    "halves apart": lambda g, x: g(
        "Concat", g("Mul", g("Slice", x, g.ints(3), g.ints(6), g.ints(1)), 2.0),
        g("Sub", g("Slice", x, g.ints(0), g.ints(3), g.ints(1)), 1.0), axis=-1,
    ),
    "twice the same": lambda g, x: g("Gather", g("Mul", x, STD), g.ints(0, 0, 5, 4, 3, 2), axis=1),
    "the same in two ways": lambda g, x: g(
        "Concat", g("Slice", x, g.ints(0), g.ints(3), g.ints(1)),
        g("Mul", g("Slice", x, g.ints(0), g.ints(3), g.ints(1)), 2.0), axis=-1,
    ),
    "there and back": lambda g, x: g("Reshape", g("Unsqueeze", x, g.ints(1)), g.ints(-1, INPUTS)),
}  # fmt: skip


@pytest.mark.parametrize("case", NORMALIZERS)
def test_normalizers_are_one_affine_transform(case: str, tmp_path: Path) -> None:
    g = Graph()
    found = opened(g.save(tmp_path / "a.onnx", g.network(NORMALIZERS[case](g, "obs"))))
    assert apart(found) < 1e-5
    assert found.policy is not None
    assert len(found.policy.layers) == 2
    without = ("none", "the same in two ways", "there and back")
    assert (found.policy.observation.normalization is None) == (case in without)


ENDS: dict[str, tuple[Callable[[Graph, str], str], bool]] = {
    "tanh": (lambda g, x: g("Tanh", x), True),
    "tanh of a half": (lambda g, x: g("Tanh", g("Split", x, g.ints(2, 1), axis=-1, outputs=2)[0]), True),
    "scaled": (lambda g, x: g("Add", g("Mul", g("Tanh", x), [0.5, -2.0, 1.0]), [0.1, 0.0, -3.0]), True),
    "clipped tanh": (lambda g, x: g("Clip", g("Tanh", x), -1.0, 1.0), True),
    "clipped": (lambda g, x: g("Clip", x, -0.5, 1.0), False),
    "clipped, scaled": (lambda g, x: g("Mul", g("Clip", x, -1.0, 1.0), [0.5, -2.0, 1.0]), False),
    "scaled alone": (lambda g, x: g("Sub", 1.0, g("Mul", x, [0.5, -2.0, 1.0])), False),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_becomes_of_the_outputs(case: str, tmp_path: Path) -> None:
    make, squash = ENDS[case]
    g = Graph()
    found = opened(g.save(tmp_path / "a.onnx", make(g, g.network("obs"))))
    assert apart(found) < 1e-5
    assert found.policy is not None
    assert found.policy.action.squash == squash


@pytest.mark.parametrize("end", ["ArgMax", "Softmax", "LogSoftmax"])
def test_choices(end: str, tmp_path: Path) -> None:
    g = Graph()
    found = opened(g.save(tmp_path / "a.onnx", g(end, g.network("obs"), axis=-1)))
    assert found.policy is not None, found.unknown
    x = np.random.default_rng(0).normal(size=(32, INPUTS)).astype(np.float32)
    own = found.run(x)
    choices = own[:, 0] if end == "ArgMax" else own.argmax(1)
    np.testing.assert_array_equal(found.policy.predict(x)[0], choices)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    """Slices, squeezes and clips changed between them."""
    g = Graph(opset)
    cut = g("Slice", "obs", axes=[1], starts=[0], ends=[INPUTS]) if opset == 9 else "obs"
    y = g.network(cut)
    y = g("Clip", y, min=-1.0, max=1.0) if opset == 9 else g("Clip", y, -1.0, 1.0)
    assert apart(opened(g.save(tmp_path / "a.onnx", y))) < 1e-5


def test_matrices_and_biases_are_layers(tmp_path: Path) -> None:
    g = Graph(shape=(INPUTS,))  # and no batch
    x = g("Elu", g("Add", g.weights(HIDDEN), g("MatMul", "obs", g.weights(INPUTS, HIDDEN))))
    y = g("Gemm", g("Unsqueeze", x, g.ints(0)), g.weights(OUTPUTS, HIDDEN), transB=1, alpha=0.5)
    found = opened(g.save(tmp_path / "a.onnx", g("Squeeze", y)))
    assert found.shape == (INPUTS,)
    assert apart(found) < 1e-5


def test_local_functions_are_followed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    g = Graph()
    g.functions.append(helper.make_function("own", "Swish", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    found = opened(g.save(tmp_path / "a.onnx", g.network("obs", lambda x: g("Swish", x, domain="own"))))
    assert apart(found) < 1e-5


def test_convolutions(tmp_path: Path) -> None:
    g = Graph(shape=("batch", 2, 9, 9))
    x = g("Relu", g("Conv", "obs", g.weights(3, 2, 3, 3), g.weights(3), strides=[2, 2], pads=[1, 1, 1, 1]))
    x = g("Relu", g("BatchNormalization", g("Conv", x, g.weights(4, 3, 3, 3)), *(abs(g.weights(4)) for _ in range(4))))
    y = g("Gemm", g("Flatten", g("MaxPool", x, kernel_shape=[2, 2])), g.weights(16, OUTPUTS))
    found = opened(g.save(tmp_path / "a.onnx", y))
    assert apart(found) < 1e-5


def test_bytes_divided_by_255_are_an_image(tmp_path: Path) -> None:
    g = Graph(shape=("batch", 2, 9, 9))
    x = g("Relu", g("Conv", g("Div", g("Cast", "obs", to=TensorProto.FLOAT), 255.0), g.weights(3, 2, 3, 3)))
    y = g("Gemm", g("Flatten", x), g.weights(147, OUTPUTS))
    found = opened(g.save(tmp_path / "a.onnx", y, dtype=TensorProto.UINT8))
    assert found.policy is not None, found.unknown
    assert found.policy.observation.image
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 9, 9), np.uint8)
    np.testing.assert_allclose(found.policy.predict(pixels)[0], found.run(pixels), rtol=1e-4, atol=1e-4)


def test_histories_are_vectors_too(tmp_path: Path) -> None:
    """Observations of two dimensions; an environment gives them flat."""
    g = Graph(shape=(1, 2, 3))
    x = g("Reshape", g("Mul", "obs", np.arange(1, 7).reshape(2, 3)), g.ints(1, 6))
    found = opened(g.save(tmp_path / "a.onnx", g.network(x)))
    assert found.shape == (2, 3)
    assert apart(found) < 1e-5
    flat = found.shaped((6,), "an environment")
    assert flat.chain is not None
    assert (flat.shape, flat.chain.shape) == ((6,), (6,))
    assert flat.run(np.ones((4, 6), np.float32)).shape == (4, OUTPUTS)


def test_weights_outside_the_file(tmp_path: Path) -> None:
    g = Graph()
    path = g.save(tmp_path / "a.onnx", g.network("obs"))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="a.data", size_threshold=0)
    found = opened(path)
    assert apart(found) < 1e-5
    assert found.files == (path, tmp_path / "a.data")
    (tmp_path / "a.data").write_bytes(b"short")
    with pytest.raises(RunError, match="is not the file that was exported"):
        opened(path)
    (tmp_path / "a.data").unlink()
    with pytest.raises(RunError, match="which is missing: put it there"):
        opened(path)


def test_layers_that_are_none_make_a_black_box(tmp_path: Path) -> None:
    """A black box is its own runtime; what was not understood is named, and the first of it."""
    g = Graph(18)
    hidden = g.dense("obs", INPUTS, HIDDEN)
    y = g.dense(g("Sub", hidden, g("ReduceMean", hidden, g.ints(-1))), HIDDEN, OUTPUTS)
    found = opened(g.save(tmp_path / "a.onnx", y))
    assert found.policy is None
    assert found.unknown == "ReduceMean"
    x = np.ones((3, INPUTS), np.float32)
    assert found.run(x).shape == (3, OUTPUTS)


def test_metadata_comes_along(tmp_path: Path) -> None:
    g = Graph()
    told = {"dof_names": '["hip", "knee"]', "joint_stiffness": "20.0,30.5", "note": "by hand"}
    found = opened(g.save(tmp_path / "a.onnx", g.network("obs"), metadata=told))
    assert found.metadata == {"joint_names": ["hip", "knee"], "kp": [20.0, 30.5], "note": "by hand"}
    assert found.policy is not None
    assert found.policy.provenance == {"format": "ONNX", "metadata": found.metadata}


def test_of_several_outputs_the_action_must_be_known(tmp_path: Path) -> None:
    g = Graph()
    y = g.network("obs")
    path = g.save(tmp_path / "a.onnx", y, g("Exp", y))
    with pytest.raises(UnsupportedError, match=r"has 2 outputs .*: say which is the action with --output"):
        opened(path)
    assert apart(opened(path, output=y)) < 1e-5
    with pytest.raises(UnsupportedError, match="has no output nothing"):
        opened(path, output="nothing")


def two_inputs(g: Graph) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("obs", "h", "y")]
    return helper.make_graph([helper.make_node("Add", ["obs", "h"], ["y"])], "g", ends[:2], ends[2:])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda g: g("If", g.constant(True, "bool"), then_branch=two_inputs(g), else_branch=two_inputs(g)), "If"),
        (lambda g: g("RandomNormalLike", "obs"), "draws at random"),
        (lambda g: g("Add", "obs", np.full(INPUTS, np.nan)), "not finite"),
        (lambda g: g("Log", g("Sub", "obs", "obs")), "NaN or infinite"),
        (lambda g: g("Nonsense", "obs"), "ONNX Runtime does not run"),
    ],
)
def test_what_is_refused(make: Callable[[Graph], str], sentence: str, tmp_path: Path) -> None:
    g = Graph()
    with pytest.raises(PolicypressError, match=sentence):
        opened(g.save(tmp_path / "a.onnx", make(g)))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x08\x07no model")
    with pytest.raises(RunError, match="no ONNX file that can be read"):
        opened(path)
    g = Graph(7)
    with pytest.raises(UnsupportedError, match="opset 7: opsets 9 to 23"):
        opened(g.save(path, g.network("obs")))
    graph = two_inputs(g)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    with pytest.raises(UnsupportedError, match=r"2 inputs \(obs, h\)"):
        opened(path)
    g = Graph(shape=("batch", None))
    with pytest.raises(UnsupportedError, match="does not say of what shape"):
        opened(g.save(path, g("Relu", "obs")))


# What remembers


@pytest.mark.parametrize("numerics", ["integer", "float"])
def test_our_own_recurrent_exports_are_what_they_were_made_of(numerics: Any, tmp_path: Path) -> None:
    drawn = (random_recurrent_policy(seed, numerics) for seed in range(100))
    policy = next(one for one in drawn if one.observation.dtype == "float32")
    policypress.export.export(policy, tmp_path / "a.onnx", "onnx")
    found = opened(tmp_path / "a.onnx")
    assert not found.understood
    assert found.steps is not None
    seen = random_observations(policy, 12, 0).reshape(6, 2, *policy.observation.shape)
    own, states = None, [None, None]
    for x, begins in zip(seen, np.array([[1, 1], [0, 0], [0, 1], [0, 0], [1, 0], [0, 0]], bool), strict=True):
        wanted, own = policy.predict(x, own, begins)
        states = [None if start else state for start, state in zip(begins, states, strict=True)]
        answers, states = found.steps(x, states)  # type: ignore[assignment]
        if numerics == "integer":
            np.testing.assert_array_equal(answers, wanted.reshape(2, -1))
        else:
            np.testing.assert_allclose(answers, wanted.reshape(2, -1), rtol=1e-4, atol=1e-5)


def test_a_state_of_two_tensors(tmp_path: Path) -> None:
    """As rsl_rl's exporter has it."""

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y, (h, c) = self.lstm(x[None], (h, c))
            return self.head(y[0]), h, c

    module, zeros = Exported().eval(), torch.zeros(1, 1, 4)
    torch.onnx.export(
        module, (torch.zeros(1, 6), zeros, zeros), tmp_path / "a.onnx", dynamo=False,
        input_names=["obs", "h_in", "c_in"], output_names=["actions", "h_out", "c_out"],
    )  # fmt: skip
    found = opened(tmp_path / "a.onnx")
    assert (found.shape, found.understood) == ((6,), True)
    assert found.steps is not None
    h, c, states = zeros, zeros, [None]
    for x in np.random.default_rng(0).normal(size=(5, 1, 6)).astype(np.float32):
        with torch.no_grad():
            wanted, h, c = module(torch.from_numpy(x), h, c)
        answer, states = found.steps(x, states)  # type: ignore[assignment]
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("style", ["exact", "qdq"])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_our_own_float_export_comes_back(name: str, style: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    function = module_of(name, FUNCTIONS[name].usual)
    graph = trace(nn.Sequential(nn.Linear(INPUTS, HIDDEN), function, nn.Linear(HIDDEN, OUTPUTS)))
    bound = np.ones(OUTPUTS, np.float32)
    action = ActionTransform("box", (OUTPUTS,), "float32", True, -bound, bound)
    path = tmp_path / "policy.onnx"
    path.write_bytes(encode_onnx(freeze_graph(graph, ObservationTransform((INPUTS,), "float32"), action), style))
    assert apart(opened(path)) <= 1e-5


def test_many_operations_one_after_another_are_a_black_box(tmp_path: Path) -> None:
    g = Graph()
    x = "obs"
    for _ in range(3000):
        x = g("Tanh", x)
    assert "so many operations" in opened(g.save(tmp_path / "policy.onnx", x)).unknown
