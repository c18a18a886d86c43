"""Recurrent policies in TorchScript and ONNX: understood where a cell keeps its own state, black boxes where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from importers.models import Graph, opened
from policypress.compression.freeze import freeze_graph
from policypress.errors import UnsupportedError
from policypress.importers import signals as s
from policypress.importers.chain import chain_of
from policypress.importers.opened import Opened, action_of_chain
from policypress.policy.contract import ObservationTransform
from quick import crossed

INPUTS, UNITS, OUTPUTS = 6, 4, 3
CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Exported(nn.Module):
    """What rsl_rl makes for TorchScript of an agent with a GRU: a normalizer, a cell, layers behind it."""

    def __init__(self, kind: str = "gru", layers: int = 1, **words: Any) -> None:
        super().__init__()
        torch.manual_seed(layers)
        self.rnn = CELLS[kind](INPUTS, UNITS, layers, **words)
        self.mlp = nn.Sequential(nn.Linear(UNITS, 5), nn.ELU(), nn.Linear(5, OUTPUTS))
        for weights in self.rnn.parameters():
            weights.data.mul_(2.0)  # else it hardly remembers
        self.register_buffer("mean", torch.linspace(-1, 2, INPUTS)[None])
        self.register_buffer("std", torch.linspace(0.5, 3, INPUTS)[None])
        self.register_buffer("hidden_state", torch.zeros(layers, 1, UNITS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) / (self.std + 1e-2)
        y, h = self.rnn(x.unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = h
        return self.mlp(y.squeeze(0))

    @torch.jit.export
    def reset(self) -> None:
        self.hidden_state[:] = 0.0


class ExportedLSTM(Exported):
    """The same with an LSTM."""

    def __init__(self, layers: int = 1, **words: Any) -> None:
        super().__init__("lstm", layers, **words)
        self.register_buffer("cell_state", torch.zeros_like(self.hidden_state))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) / (self.std + 1e-2)
        y, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.mlp(y.squeeze(0))

    @torch.jit.export
    def reset(self) -> None:
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


class WithSpread(Exported):
    """The same where the spread depends on the observation: the network gives it beside the action."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(UNITS, 2 * OUTPUTS), nn.Unflatten(-1, (2, OUTPUTS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, h = self.rnn(x.unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = h
        return self.mlp(y.squeeze(0))[..., 0, :]


class Flowing(nn.Module):
    """The same for ONNX, of a module for TorchScript: the state comes in and goes out."""

    def __init__(self, module: Exported) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        module = self.module
        x = ((x - module.mean) / (module.std + 1e-2)).unsqueeze(0)
        if isinstance(module.rnn, nn.GRU):
            y, *after = module.rnn(x, state[0])
        else:
            y, after = module.rnn(x, (state[0], state[1]))
        return module.mlp(y.squeeze(0)), *after


def exporter(kind: str, layers: int = 1) -> Exported:
    return (Exported("gru", layers) if kind == "gru" else ExportedLSTM(layers)).eval()


def scripted(module: nn.Module, path: Path, *, trace: bool = False) -> Path:
    (torch.jit.trace(module, torch.zeros(1, INPUTS)) if trace else torch.jit.script(module)).save(path)
    return path


def exported(kind: str, layers: int, path: Path, opset: int = 17) -> Path:
    module = exporter(kind, layers)
    names = ["h", "c"][: 1 if kind == "gru" else 2]
    state = [torch.zeros(layers, 1, UNITS) for _ in names]
    torch.onnx.export(
        Flowing(module).eval(), (torch.zeros(1, INPUTS), *state), path, dynamo=False, opset_version=opset,
        input_names=["obs", *(f"{name}_in" for name in names)],
        output_names=["actions", *(f"{name}_out" for name in names)],
    )  # fmt: skip
    return path


def apart(found: Opened, steps: int = 1000) -> float:
    """The largest difference between what was understood and the file's own runtime, over an episode that begins
    again twice on the way, relative to the largest answer."""
    assert found.shape is not None
    assert found.steps is not None
    assert found.policy is not None, found.unknown
    begins = np.isin(np.arange(steps), [0, steps // 3, steps // 2])
    state, states, own, ours = None, [None], [], []
    for x, begin in zip(np.random.default_rng(1).normal(size=(steps, 1, *found.shape)), begins, strict=True):
        x = (2 * x).astype(np.float32)
        answer, states = found.steps(x, [None] if begin else states)  # type: ignore[assignment]
        own.append(answer)
        answer, state = found.policy.predict(x, state, np.array([begin]))
        ours.append(answer.reshape(1, -1))
    return float(np.abs(np.concatenate(own) - np.concatenate(ours)).max() / np.abs(own).max())


# What rsl_rl exports


@pytest.mark.parametrize(("kind", "layers", "trace"), crossed(CELLS, [1, 2], [False, True]))
def test_torchscript(kind: str, layers: int, trace: bool, tmp_path: Path) -> None:
    found = opened(scripted(exporter(kind, layers), tmp_path / "a.pt", trace=trace))
    assert apart(found) < 1e-5
    assert found.policy is not None
    assert found.policy.observation.normalization is not None
    assert found.policy.state_size == layers * UNITS * (1 if kind == "gru" else 2)
    assert found.rows()["memory"] == ", then ".join([f"{kind.upper()} of 4 units"] * layers)
    assert found.graph is not None
    assert found.graph.parameters == found.parameters


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_onnx(kind: str, layers: int, opset: int, tmp_path: Path) -> None:
    assert apart(opened(exported(kind, layers, tmp_path / "a.onnx", opset))) < 1e-5


def test_a_batch_of_any_size(tmp_path: Path) -> None:
    """Dimensions that are free are those of one observation here."""
    state = torch.zeros(1, 1, UNITS)
    torch.onnx.export(
        Flowing(exporter("gru")).eval(), (torch.zeros(1, INPUTS), state), tmp_path / "a.onnx", dynamo=False,
        input_names=["obs", "h_in"], output_names=["actions", "h_out"],
        dynamic_axes={"obs": {0: "n"}, "h_in": {1: "n"}, "actions": {0: "n"}, "h_out": {1: "n"}},
    )  # fmt: skip
    assert apart(opened(tmp_path / "a.onnx"), 50) < 1e-5


# Other modules of PyTorch


class Cells(nn.Module):
    """Cells alone, one behind the other, with a layer before them; the state is set anew, not written over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(INPUTS, 5)
        self.first, self.second = nn.LSTMCell(5, UNITS), nn.GRUCell(UNITS, 3, bias=False)
        self.last = nn.Linear(3, OUTPUTS)
        for name, units in (("hidden", UNITS), ("cell", UNITS), ("memory", 3)):
            self.register_buffer(name, torch.zeros(1, units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.first(torch.tanh(self.encoder(x)), (self.hidden, self.cell))
        self.hidden = h
        self.cell = c
        memory = self.second(h, self.memory)
        self.memory = memory
        return torch.tanh(self.last(memory)) * 0.5


class OneVector(nn.Module):
    """h and c in one buffer, and a bias that is not there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.last = nn.LSTM(INPUTS, UNITS, bias=False), nn.Linear(UNITS, OUTPUTS)
        self.register_buffer("state", torch.zeros(1, 2 * UNITS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.state.view(1, 1, 8)
        y, (h, c) = self.rnn(x[None], (state[:, :, :4].contiguous(), state[:, :, 4:].contiguous()))
        self.state.copy_(torch.cat([h, c], dim=2).view(1, 8))
        return self.last(y[0])


class Asks(nn.Module):
    """Conditions that are used twice, once by what is not so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.dim() == 1
        if not flat:
            x = x * 2.0
        if flat:
            x = x[None] * 3.0
        return self.layer(x)


@pytest.mark.parametrize("make", [Cells, OneVector, WithSpread])
def test_cells_and_views(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    found = opened(scripted(make(), tmp_path / "a.pt"), shape=(INPUTS,))
    assert apart(found, 200) < 1e-5


def test_conditions_are_what_they_were(tmp_path: Path) -> None:
    found = opened(scripted(Asks(), tmp_path / "a.pt"))
    assert found.policy is not None, found.unknown
    x = np.ones((1, INPUTS), np.float32)
    np.testing.assert_allclose(found.policy.predict(x)[0], found.run(x), rtol=1e-5)


class Odd(ExportedLSTM):
    """An exporter that does one thing in another way: ``way``."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way = way
        self.gate = nn.Linear(INPUTS, UNITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.hidden_state, self.cell_state
        if self.way == 0:
            h = h * 0.5
        if self.way == 1:
            h, c = c, h
        if self.way == 2:
            h = h + 1.0
        if self.way == 3:
            h = torch.zeros_like(h)
        if self.way == 4:  # what is looked at is written first
            self.hidden_state[:] = torch.tanh(self.gate(x))
        y, (h, c) = self.rnn(x.unsqueeze(0), (h, c))
        if self.way == 5:
            h = h * 0.5
        if self.way == 6:
            h = y + torch.tanh(self.gate(x))
        if self.way == 7:
            c = h
        if self.way == 8:
            c = torch.zeros_like(c)
        if self.way == 9 and bool((x.sum() > 0).item()):  # episodes that begin by what is seen
            h = torch.zeros_like(h)
        if self.way == 10:
            self.hidden_state[:, :, :2] = h[:, :, :2]
        else:
            self.hidden_state[:] = h
        self.cell_state[:] = c
        if self.way == 11:
            y = c
        if self.way == 12:
            y = y + self.gate(x)
        if self.way == 13:
            self.hidden_state.mul_(0.5)
        if self.way == 14:
            y = h.flip(2)
        return self.mlp(y.squeeze(0))


_ODD = {
    0: "computed before", 1: "hidden_state, in which|cell_state, in which", 2: "computed before", 3: "begins anew",
    4: "computed before", 5: "hidden_state, in which", 6: "different layers", 7: "cell_state, in which",
    8: "cell_state, in which", 9: "aten::item|a condition", 10: "a part of the state", 11: "the state that it keeps",
    12: "different layers", 13: "hidden_state, in which", 14: "aten::flip",
}  # fmt: skip


@pytest.mark.parametrize("way", _ODD)
def test_what_keeps_something_else_is_a_black_box(way: int, tmp_path: Path) -> None:
    found = opened(scripted(Odd(way).eval(), tmp_path / "a.pt"), shape=(INPUTS,))
    assert found.policy is None
    assert found.steps is not None
    pattern = _ODD[way]
    assert any(part in found.unknown for part in pattern.split("|")), found.unknown


@pytest.mark.parametrize(
    ("words", "why"),
    [({"bidirectional": True}, "both directions"), ({"proj_size": 4}, "projections")],
)
def test_other_cells_of_pytorch(words: dict[str, Any], why: str, tmp_path: Path) -> None:
    module = ExportedLSTM(**words) if "proj_size" not in words else Projected()
    if "bidirectional" in words:
        module.mlp[0] = nn.Linear(2 * UNITS, 5)
        module.hidden_state, module.cell_state = (torch.zeros(2, 1, UNITS) for _ in range(2))
    found = opened(scripted(module.eval(), tmp_path / "a.pt"), shape=(INPUTS,))
    assert (found.policy, found.unknown) == (None, f"aten::lstm: {why}")


class Projected(ExportedLSTM):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(INPUTS, UNITS, proj_size=2)
        self.mlp = nn.Sequential(nn.Linear(2, 5), nn.ELU(), nn.Linear(5, OUTPUTS))
        self.hidden_state = torch.zeros(1, 1, 2)


def test_a_plain_recurrent_layer_is_named(tmp_path: Path) -> None:
    module = Exported()
    module.rnn = nn.RNN(INPUTS, UNITS)
    found = opened(scripted(module.eval(), tmp_path / "a.pt"), shape=(INPUTS,))
    assert (found.policy, found.unknown) == (None, "aten::rnn_tanh")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    module = exporter("gru")
    module.rnn.weight_hh_l0.data[0, 0] = float("nan")
    with pytest.raises(UnsupportedError, match="are not finite"):
        opened(scripted(module, tmp_path / "a.pt"))


# Graphs by hand


def cell(
    g: Graph, kind: str, x: str, *before: str, inputs: int = INPUTS, units: int = UNITS, directions: int = 1,
    bias: bool = True, lengths: str = "", more: Sequence[str] = (), **words: Any,
) -> list[str]:  # fmt: skip
    """An operation GRU or LSTM, its Y and what it keeps; each is a name."""
    gates, states = (3, 1) if kind == "GRU" else (4, 2)
    if kind == "GRU":
        words.setdefault("linear_before_reset", 1)
    weights = [g.constant(g.weights(directions, gates * units, size)) for size in (inputs, units)]
    own = g.constant(g.weights(directions, 2 * gates * units)) if bias else ""
    given = [x, *weights, own, lengths, *before, *more]
    found: list[str] = g(kind, *given, outputs=1 + states, hidden_size=words.pop("hidden_size", units), **words)
    return found


def steps_of(g: Graph, x: str = "obs") -> str:
    """An observation as a sequence of one step."""
    return str(g("Unsqueeze", x, g.ints(0)))


def head(g: Graph, y: str, inputs: int = UNITS) -> str:
    """The layers behind a cell."""
    return g.dense(g("Reshape", y, g.ints(1, inputs)), inputs, OUTPUTS)


SHAPE = (1, 1, UNITS)


def usual(g: Graph, kind: str, **words: Any) -> tuple[str, dict[str, tuple[Any, str]]]:
    """A cell that keeps its own state, and a layer behind it."""
    names = ["h", "c"][: 1 if kind == "GRU" else 2]
    y, *after = cell(g, kind, steps_of(g), *(f"{name}_in" for name in names), **words)
    return head(g, y), {name: (SHAPE, kept) for name, kept in zip(names, after, strict=True)}


def chosen(g: Graph) -> tuple[str, dict[str, Any]]:
    y, kept = usual(g, "GRU")
    return g("ArgMax", y, axis=1), kept


def flat_state(g: Graph) -> tuple[str, dict[str, Any]]:
    """h and c in one vector."""
    h, c = g("Split", g("Unsqueeze", "s_in", g.ints(0)), axis=2, outputs=2)
    y, h, c = cell(g, "LSTM", steps_of(g), h, c)
    return head(g, y), {"s": ((1, 2 * UNITS), g("Squeeze", g("Concat", h, c, axis=2), g.ints(0)))}


def two_cells(g: Graph, crossed: bool = False, shared: bool = False) -> tuple[str, dict[str, Any]]:
    """A GRU behind a GRU; ``crossed``: each keeps its state where the other reads; ``shared``: both read the same."""
    _, a = cell(g, "GRU", steps_of(g), "a_in")
    _, b = cell(g, "GRU", a, "a_in" if shared else "b_in", inputs=UNITS)
    a, kept = (b, a) if crossed else (a, b)
    return head(g, b if not crossed else a), {"a": (SHAPE, a), "b": (SHAPE, kept)}


def in_a_stack(g: Graph) -> tuple[str, dict[str, Any]]:
    """As PyTorch's newer exporter writes two layers: parts of one state, and outputs that are turned and reshaped."""
    x, after = steps_of(g), []
    for layer in range(2):
        part = [g.ints(layer), g.ints(layer + 1), g.ints(0)]
        read = [g("Slice", name, *part) for name in ("h_in", "c_in")]
        y, *kept = cell(g, "LSTM", x, *read, inputs=UNITS if layer else INPUTS)
        x = g("Reshape", g("Transpose", y, perm=[0, 2, 1, 3]), g.ints(1, 1, UNITS))
        after.append(kept)
    stacked = [g("Concat", *parts, axis=0) for parts in zip(*after, strict=True)]
    return head(g, x), {name: ((2, 1, UNITS), kept) for name, kept in zip("hc", stacked, strict=True)}


def with_encoder(g: Graph) -> tuple[str, dict[str, Any]]:
    x = g("Tanh", g.dense(g("Mul", "obs", np.linspace(1, 2, INPUTS)), INPUTS, 5))
    y, h = cell(g, "GRU", g("Reshape", x, g.ints(1, 1, 5)), "h_in", inputs=5)
    y = g("Elu", g.dense(g("Relu", g("Reshape", y, g.ints(1, UNITS))), UNITS, 5))
    return g("Tanh", g.dense(y, 5, OUTPUTS)), {"h": (SHAPE, h)}


UNDERSTOOD: dict[str, Callable[[Graph], tuple[str, dict[str, Any]]]] = {
    "gru": lambda g: usual(g, "GRU"),
    "lstm": lambda g: usual(g, "LSTM"),
    "without a bias": lambda g: usual(g, "LSTM", bias=False),
    "activations that are said": lambda g: usual(g, "LSTM", activations=["Sigmoid", "Tanh", "Tanh"]),
    "forward that is said": lambda g: usual(g, "GRU", direction="forward"),
    "lengths of one": lambda g: usual(g, "GRU", lengths=g.constant([1], "int32")),
    "choices": chosen,
    "one vector": flat_state,
    "two cells": two_cells,
    "a stack": in_a_stack,
    "layers around it": with_encoder,
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_graphs_that_are_understood(name: str, tmp_path: Path) -> None:
    g = Graph(17, (1, INPUTS))
    answer, state = UNDERSTOOD[name](g)
    found = opened(g.save(tmp_path / "a.onnx", answer, state=state))
    assert apart(found, 100) < 1e-5


def backwards(g: Graph) -> tuple[str, dict[str, Any]]:
    words: dict[str, Any] = {"directions": 2, "direction": "bidirectional"}
    y, h = cell(g, "GRU", steps_of(g), "h_in", **words)
    return head(g, y, 2 * UNITS), {"h": ((2, 1, UNITS), h)}


def sequence(g: Graph) -> tuple[str, dict[str, Any]]:
    y, h = cell(g, "GRU", g("Reshape", "obs", g.ints(2, 1, INPUTS // 2)), "h_in", inputs=INPUTS // 2)
    return head(g, g("Slice", y, g.ints(1), g.ints(2), g.ints(0))), {"h": (SHAPE, h)}


def forgetful(g: Graph, start: str = "") -> tuple[str, dict[str, Any]]:
    y, h = cell(g, "GRU", steps_of(g), start or g.constant(np.ones(SHAPE)))
    return g("Add", head(g, y), g("ReduceSum", "h_in", keepdims=0)), {"h": (SHAPE, h)}


def always_new(g: Graph) -> tuple[str, dict[str, Any]]:
    y, _ = cell(g, "GRU", steps_of(g))
    return head(g, y), {"h": (SHAPE, "h_in")}


def changed_before(g: Graph) -> tuple[str, dict[str, Any]]:
    y, h = cell(g, "GRU", steps_of(g), g("Mul", "h_in", np.asarray(0.5)))
    return head(g, y), {"h": (SHAPE, h)}


def changed_after(g: Graph) -> tuple[str, dict[str, Any]]:
    y, h = cell(g, "GRU", steps_of(g), "h_in")
    return head(g, y), {"h": (SHAPE, g("Mul", h, np.asarray(0.5)))}


def another_state(g: Graph) -> tuple[str, dict[str, Any]]:
    y, _ = cell(g, "GRU", steps_of(g), "h_in")
    _, h = cell(g, "GRU", steps_of(g), "h_in")
    return head(g, y), {"h": (SHAPE, h)}


def in_another_order(g: Graph) -> tuple[str, dict[str, Any]]:
    y, h = cell(g, "GRU", steps_of(g), "h_in")
    return head(g, y), {"h": (SHAPE, g("Gather", h, g.ints(1, 0, 2, 3), axis=2))}


def never_kept(g: Graph) -> tuple[str, dict[str, Any]]:
    y, _ = cell(g, "GRU", steps_of(g), "h_in")
    return head(g, y), {"h": (SHAPE, g("Identity", "h_in"))}


def swapped(g: Graph) -> tuple[str, dict[str, Any]]:
    y, h, c = cell(g, "LSTM", steps_of(g), "h_in", "c_in")
    return head(g, y), {"h": (SHAPE, c), "c": (SHAPE, h)}


def inner_answer(g: Graph) -> tuple[str, dict[str, Any]]:
    _, h, c = cell(g, "LSTM", steps_of(g), "h_in", "c_in")
    return head(g, c), {"h": (SHAPE, h), "c": (SHAPE, c)}


def around(g: Graph) -> tuple[str, dict[str, Any]]:
    y, h = cell(g, "GRU", steps_of(g), "h_in")
    joined = g("Concat", g("Reshape", y, g.ints(1, UNITS)), "obs", axis=1)
    return g.dense(joined, UNITS + INPUTS, OUTPUTS), {"h": (SHAPE, h)}


def state_alone(g: Graph) -> tuple[str, dict[str, Any]]:
    _, h = cell(g, "GRU", steps_of(g), "h_in")
    return head(g, "h_in"), {"h": (SHAPE, h)}


def elman(g: Graph) -> tuple[str, dict[str, Any]]:
    weights = [g.weights(1, UNITS, size) for size in (INPUTS, UNITS)]
    y, h = g("RNN", steps_of(g), *weights, "", "", "h_in", outputs=2, hidden_size=UNITS)
    return head(g, y), {"h": (SHAPE, h)}


def computed_weights(g: Graph) -> tuple[str, dict[str, Any]]:
    recurrent = g("Reshape", g.dense("obs", INPUTS, 3 * UNITS * UNITS), g.ints(1, 3 * UNITS, UNITS))
    own = g.constant(g.weights(1, 3 * UNITS, INPUTS))
    y, h = g("GRU", steps_of(g), own, recurrent, "", "", "h_in", outputs=2, hidden_size=UNITS, linear_before_reset=1)
    return head(g, y), {"h": (SHAPE, h)}


BLACK_BOXES: dict[str, tuple[Callable[[Graph], tuple[str, dict[str, Any]]], str]] = {
    "bidirectional": (backwards, "GRU: a direction that is not forward"),
    "reverse": (lambda g: usual(g, "GRU", direction="reverse"), "GRU: a direction that is not forward"),
    "clip": (lambda g: usual(g, "LSTM", clip=0.5), "LSTM: a clip"),
    "activations": (lambda g: usual(g, "GRU", activations=["Sigmoid", "Relu"]), "GRU: activations of its own"),
    "alphas": (
        lambda g: usual(g, "GRU", activations=["HardSigmoid", "Tanh"], activation_alpha=[0.3, 1.0]),
        "GRU: activations of its own",
    ),
    "reset": (lambda g: usual(g, "GRU", linear_before_reset=0), "linear_before_reset=0"),
    "tied": (lambda g: usual(g, "LSTM", input_forget=1), "tied to the forget gate"),
    "peepholes": (lambda g: usual(g, "LSTM", more=[g.constant(g.weights(1, 3 * UNITS))]), "LSTM: peepholes"),
    "no steps": (lambda g: usual(g, "GRU", lengths=g.constant([0], "int32")), "GRU: lengths of sequences"),
    "two steps": (sequence, "GRU: several steps at once"),
    "a start of its own": (forgetful, "begins anew with every observation"),
    "no state": (always_new, "begins anew with every observation"),
    "changed before": (changed_before, "computed before it is read"),
    "changed after": (changed_after, "h_in, in which it does not keep what its GRU gives"),
    "another cell's": (another_state, "h_in, in which it does not keep what its GRU gives"),
    "another order": (in_another_order, "h_in, in which it does not keep what its GRU gives"),
    "never kept": (never_kept, "h_in, in which it does not keep what its GRU gives"),
    "swapped": (swapped, "in which it does not keep what its LSTM gives"),
    "crossed": (lambda g: two_cells(g, crossed=True), "in which it does not keep what its GRU gives"),
    "shared": (lambda g: two_cells(g, shared=True), "a_in, in which it does not keep what its GRU gives"),
    "c as an answer": (inner_answer, "the state that it keeps"),
    "the state as an answer": (state_alone, "the state that it keeps"),
    "around": (around, "Concat of what different layers give"),
    "a plain cell": (elman, "RNN"),
    "weights of the observation": (computed_weights, "GRU: an input is computed"),
}


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_graphs_that_are_not(name: str, tmp_path: Path) -> None:
    """They stay what they were: black boxes that are run step by step."""
    g = Graph(17, (1, INPUTS))
    make, why = BLACK_BOXES[name]
    answer, state = make(g)
    found = opened(g.save(tmp_path / "a.onnx", answer, state=state))
    assert found.policy is None
    assert found.steps is not None
    assert any(part in found.unknown for part in why.split("|")), found.unknown
    answers, _ = found.steps(np.ones((1, INPUTS), np.float32), [None])
    assert answers.shape == (1, OUTPUTS)


def test_a_state_in_which_rounding_grows_is_no_policy_s(tmp_path: Path) -> None:
    """Of a chaotic network two runtimes agree for some steps, and not for a thousand."""
    g = Graph(17, (1, INPUTS))
    y, h = cell(g, "GRU", steps_of(g), "h_in", units=16)
    recurrent = next(tensor for tensor in g.tensors if tensor.dims[1:] == [48, 16])
    recurrent.CopyFrom(numpy_helper.from_array(np.float32(1.4) * numpy_helper.to_array(recurrent), recurrent.name))
    path = g.save(tmp_path / "a.onnx", head(g, y, 16), state={"h": ((1, 1, 16), h)})
    assert opened(path).unknown == "a state in which rounding grows from step to step"


@pytest.mark.parametrize("spoil", ["weights", "units", "bias", "state", "missing"])
def test_shapes_that_do_not_fit(spoil: str, tmp_path: Path) -> None:
    g = Graph(17, (1, INPUTS))
    y, kept = usual(g, "LSTM", hidden_size=UNITS + 1 if spoil == "units" else UNITS)
    node = next(node for node in g.nodes if node.op_type == "LSTM")
    if spoil == "weights":
        node.input[1] = g.constant(g.weights(1, 4 * UNITS, INPUTS + 1))
    elif spoil == "bias":
        node.input[3] = g.constant(g.weights(1, 8 * UNITS + 2))
    elif spoil == "state":
        kept["h"] = ((1, 1, UNITS + 1), kept["h"][1])
    elif spoil == "missing":
        node.input[2] = ""
    path = g.save(tmp_path / "a.onnx", y, state=kept)
    with pytest.raises(UnsupportedError, match="ONNX Runtime does not run"):
        opened(path)


# A chain by itself


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(sorted(CELLS)), layers=st.integers(1, 3), units=st.integers(1, 6), inputs=st.integers(1, 5),
    bias=st.booleans(), gain=st.sampled_from([0.5, 1.0, 4.0]), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_cells_are_those_of_pytorch(
    kind: str, layers: int, units: int, inputs: int, bias: bool, gain: float, seed: int
) -> None:
    """A chain of cells, however large, answers as PyTorch does, step by step."""
    torch.manual_seed(seed)
    module, last = CELLS[kind](inputs, units, layers, bias=bias), nn.Linear(units, 2)
    for weights in module.parameters():
        weights.data.mul_(gain)
    names = ["h", "c"][: 1 if kind == "gru" else 2]
    states = {name: s.state(name, (layers, 1, units)) for name in names}
    value: s.Value = s.observation((1, 1, inputs), batched=True)
    value = s.move(value, np.ravel)
    kept: list[list[s.Value]] = []
    for layer in range(layers):
        weights = [
            getattr(module, f"{name}_l{layer}").detach().numpy() if bias or "weight" in name else None
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        read = [s.move(state, lambda v, i=layer: v[i]) for state in states.values()]  # type: ignore[misc]
        kept.append([s.move(one, lambda v: v.reshape(1, 1, -1)) for one in s.recur(kind, value, weights, read)])
        value = s.move(kept[-1][0], np.ravel)
    after = {name: s.join(vectors, 0) for name, *vectors in zip(names, *kept, strict=True)}
    answer = s.linear(s.move(value, lambda v: v[None]), last.weight.detach().numpy(), last.bias.detach().numpy())
    chain = chain_of(answer, after)
    shape = (1, inputs)
    policy = freeze_graph(chain.graph(), ObservationTransform(shape, "float32"), action_of_chain(chain))
    x = np.random.default_rng(seed).normal(size=(20, *shape)).astype(np.float32)
    with torch.no_grad():
        wanted: NDArray[Any] = last(module(torch.from_numpy(x))[0])[:, 0].numpy()
    state, ours = None, []
    for one in x:
        found, state = policy.predict(one[None], state)
        ours.append(found[0])
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))
