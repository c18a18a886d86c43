"""What a file is, by what is in it; functions, several networks, metadata."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from importers.models import INPUTS, OUTPUTS, Graph, apart, opened
from policypress.errors import ArtifactError, ConfigError, PolicypressError, RunError, UnsupportedError
from policypress.export.tflite import encode_tflite
from policypress.importers.formats import FORMATS, Asked, format_of, load_policy, open_file
from policypress.importers.metadata import settled
from policypress.rl.formats import open_agent
from policypress.rl.sources import Source
from policypress.testing.policies import make_policy


def network(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(sizes[0], 8), nn.ELU(), nn.Linear(8, sizes[1]))


def test_files_are_known_by_their_contents(tmp_path: Path) -> None:
    g = Graph()
    g.save(tmp_path / "a", g.network("obs"))
    torch.jit.script(network(6, 3)).save(tmp_path / "b")
    torch.save(network(6, 3).state_dict(), tmp_path / "c")
    torch.save(network(6, 3).state_dict(), tmp_path / "d", _use_new_zipfile_serialization=False)
    (tmp_path / "e.yaml").write_text("networks:\n  policy: {file: a, reads: [obs 0:6]}\n")
    (tmp_path / "f.json").write_text(json.dumps({"networks": {"policy": {"file": "a"}}}))
    found = {name: format_of(tmp_path / name) for name in ("a", "b", "c", "d", "e.yaml", "f.json")}
    words = {name: None if one is None else one.word for name, one in found.items()}
    assert words == {
        "a": "onnx", "b": "torchscript", "c": "weights", "d": "weights", "e.yaml": "networks", "f.json": "networks",
    }  # fmt: skip
    one = format_of(Path("package.module:function"))
    assert one is not None
    assert one.word == "function"


@pytest.mark.parametrize("data", [b"", b"PK no zip", b"\x08", b"some text\n", b"\x80\x04.", bytes(64)])
def test_other_files_are_of_no_format(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    assert format_of(path) is None
    with pytest.raises(RunError, match="is of no format that is known"):
        open_file(Asked(path))
    with pytest.raises(ArtifactError):
        load_policy(Asked(path))


def test_a_format_can_be_said(tmp_path: Path) -> None:
    g = Graph()
    path = g.save(tmp_path / "a", g.network("obs"))
    assert opened(path, format="onnx").format == "ONNX"
    with pytest.raises(ConfigError, match=f"is not one of {FORMATS[0].word}, "):
        opened(path, format="nonsense")
    with pytest.raises(PolicypressError, match=r"is damaged|can be read"):
        opened(path, format="torchscript")
    with pytest.raises(RunError, match="there is no file"):
        opened(tmp_path / "missing", format="onnx")


def test_policies_are_loaded_whatever_holds_them(tmp_path: Path) -> None:
    make_policy("integer", "vector").save(tmp_path / "a.policy")
    assert load_policy(Asked(tmp_path / "a.policy")).layers
    g = Graph()
    path = g.save(tmp_path / "a.onnx", g.network("obs"))
    policy = load_policy(Asked(path))
    assert (policy.numerics, policy.provenance) == ("float", {"format": "ONNX"})
    path = g.save(tmp_path / "b.onnx", g("CumSum", g.network("obs"), g.constant(1, "int64")))
    with pytest.raises(UnsupportedError, match=r"is a black box \(CumSum\): .* distil it"):
        load_policy(Asked(path))


# Functions


def doubled(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 2 * x


def fails(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raise KeyError("no such thing")


class Made:
    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, x: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], None]:
        self.steps += 1
        return x[:, :1] + self.steps - 1, None

    def reset(self) -> None:
        self.steps = 0


def forgetful(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x


forgetful.reset = lambda: None  # type: ignore[attr-defined]


class Counting:
    """It keeps a state, and has no reset."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.steps += 1
        return x + self.steps


class Held(Made):
    """It keeps what cannot be copied."""

    def __init__(self) -> None:
        self.steps, self.lines = 0, (number for number in range(3))


held = Held()
number = 3
module = network(4, 2)
HERE = "own_functions"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


@pytest.mark.usefixtures("here")
def test_functions_are_black_boxes() -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = opened(Path(f"{HERE}:doubled"), shape=(4,))
    np.testing.assert_array_equal(found.run(x), 2 * x)
    assert (found.policy, found.steps) == (None, None)
    found = opened(Path(f"{HERE}:module"), shape=(4,))
    with torch.no_grad():
        np.testing.assert_array_equal(found.run(x), module(torch.from_numpy(x)).numpy())
    found = opened(Path(f"{HERE}:Made"), shape=(4,))
    np.testing.assert_array_equal(found.run(x), x[:, :1])
    assert found.steps is not None
    before, states = found.steps(x, [None, None])
    after, _ = found.steps(x, [None, states[1]])  # each row has a state of its own
    np.testing.assert_array_equal(after - before, [[0.0], [1.0]])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (f"{HERE}:missing", "there is no missing in"),
        (f"{HERE}:number", "is a int: name something that can be called"),
        (f"{HERE}:fails", "cannot be asked: 'no such thing'"),
        (f"{HERE}:forgetful", "keeps the state of one episode for all: name a class"),
        (f"{HERE}:Counting", "keeps a state that nothing resets"),
        (f"{HERE}:held", "cannot be made anew for an episode of its own .* name a class"),
        ("no_such_module:function", "there is no module no_such_module"),
    ],
)
def test_what_is_no_function(name: str, sentence: str) -> None:
    with pytest.raises(PolicypressError, match=sentence):
        opened(Path(name), shape=(4,))


# Several networks


def two(folder: Path) -> None:
    g = Graph(shape=(4,))
    g.save(folder / "encoder.onnx", g("MatMul", "obs", g.weights(4, 2)))
    torch.jit.script(network(5, 3)).save(folder / "actor.pt")


def test_networks_are_joined(tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / "both.yaml").write_text(
        "networks:\n"
        "  encoder: {file: encoder.onnx, reads: [obs 2:6]}\n"
        "  actor: {file: actor.pt, reads: [encoder, obs 0:3]}\n"
        "kp: [20, 30]\n"
    )
    found = opened(tmp_path / "both.yaml")
    assert (found.shape, found.understood, found.metadata) == ((6,), True, {"kp": [20, 30]})
    assert apart(found) < 1e-5
    assert [file.name for file in found.files] == ["both.yaml", "encoder.onnx", "actor.pt"]
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    code = opened(tmp_path / "encoder.onnx").run(x[:, 2:6])
    wanted = opened(tmp_path / "actor.pt").run(np.concatenate([code, x[:, :3]], 1))
    np.testing.assert_array_equal(found.run(x), wanted)


def test_networks_of_which_one_is_a_black_box_name_it(tmp_path: Path) -> None:
    two(tmp_path)
    g = Graph(shape=("batch", 4))
    g.save(tmp_path / "encoder.onnx", g("Sin", g("MatMul", "obs", g.weights(4, 2))))
    (tmp_path / "both.yaml").write_text(
        "networks:\n"
        "  encoder: {file: encoder.onnx, reads: [obs 0:4]}\n"
        "  actor: {file: actor.pt, reads: [encoder, obs 0:3]}\n"
    )
    found = opened(tmp_path / "both.yaml")
    assert not found.understood
    assert "encoder, Sin" in found.unknown


def test_one_network_alone_stays_understood(tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps({"networks": {"actor": {"file": "actor.pt", "reads": ["obs 0:5"]}}}))
    assert apart(opened(tmp_path / "one.json")) < 1e-5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("networks: {}", "must name 1 to 8 networks"),
        ("networks: {a: {reads: [obs 0:4]}}", "must say its file"),
        ("networks: {a: {file: encoder.onnx, reads: [obs 0:3]}}", "takes .* but what it reads has 3"),
        ("networks: {a: {file: encoder.onnx, reads: [b]}}", "does not say how long an observation is"),
        ("networks: {a: {file: encoder.onnx, reads: [b, obs 0:2]}}", "reads 'b', which is none of obs, obs 0:2"),
        ("networks: {a: {file: encoder.onnx, reads: [obs 3:2]}}", "of an observation of 2 values"),
        ("networks: {a: {file: both.yaml, reads: [obs 0:2]}}", "joins networks itself"),
        ("networks: {a: {file: missing.onnx, reads: [obs 0:2]}}", "there is no file"),
        ("networks: &a [1]\nb: *a", "has aliases"),
        ("networks: [", "cannot be read as YAML"),
    ],
)
def test_what_does_not_join(text: str, sentence: str, tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / "both.yaml").write_text(text)
    with pytest.raises(PolicypressError, match=sentence):
        opened(tmp_path / "both.yaml")


# Metadata


def test_metadata_have_one_name_each() -> None:
    given = {"dof_names": ["a"], "default_joint_pos": "0.1,0.2", "kps": "[1, 2]", "own": {"x": [1, None]}}
    given |= {"bad": {1: 2}}
    assert settled(given) == {
        "joint_names": ["a"], "default_pose": [0.1, 0.2], "kp": [1, 2], "own": {"x": [1, None]},
    }  # fmt: skip


def test_metadata_that_are_given_go_before_those_of_the_file(tmp_path: Path) -> None:
    g = Graph()
    path = g.save(tmp_path / "a.onnx", g.network("obs"), metadata={"kp": "[1]", "kd": "[2]"})
    (tmp_path / "robot.yaml").write_text("kp: [3.5]\njoint_names: [hip]\n")
    found = opened(path, metadata=str(tmp_path / "robot.yaml"))
    assert found.metadata == {"kp": [3.5], "kd": [2], "joint_names": ["hip"]}
    assert (found.shape, found.run(np.zeros((1, INPUTS), np.float32)).shape) == ((INPUTS,), (1, OUTPUTS))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "[1]", "must hold names and their values"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", '{"kp": NaN}', "must hold texts, finite numbers"),
        ("a.yaml", "when: 2026-01-01", "must hold texts, finite numbers"),
        ("a.yaml", "kp: [1", "cannot be read as YAML"),
        ("b.json", None, "cannot be read: give a JSON or YAML file"),
    ],
)
def test_metadata_that_are_none(name: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    g = Graph()
    path = g.save(tmp_path / "a.onnx", g.network("obs"))
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PolicypressError, match=sentence):
        opened(path, metadata=str(tmp_path / name))


def test_our_own_tflite_file_is_told_from_others(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra tflite is not installed")
    path = tmp_path / "a.tflite"
    path.write_bytes(encode_tflite(make_policy("integer", "vector"), "int16"))
    with pytest.raises(UnsupportedError, match=r"to TensorFlow Lite: give the \.policy file that it was exported from"):
        open_agent(Source(path), None, None)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.pt2", "is a program of torch.export: give what torch.onnx.export or torch.jit.trace"),
        ("a.tflite", "is a model of TensorFlow: convert it to ONNX with tf2onnx"),
        ("a.safetensors", "give what torch.save"),
        ("a.pkl", "without a program: export the policy to ONNX, or name a function"),
    ],
)
def test_formats_that_are_not_read_say_what_to_give(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    with pytest.raises(UnsupportedError, match=sentence):
        opened(tmp_path / name)
    with pytest.raises(UnsupportedError, match=sentence):
        open_agent(Source(tmp_path / name), None, None)
