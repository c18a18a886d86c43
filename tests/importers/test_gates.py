"""GRUs and LSTMs that are spelled out, in elementwise operations between their layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from importers.models import Graph, opened
from importers.test_recurrent import exporter, scripted
from policypress.export.onnx import encode_onnx
from policypress.importers.gates import recognized
from policypress.policy.activations import FUNCTIONS
from policypress.policy.cells import of_floats
from policypress.policy.ops import CELLS
from policypress.testing import random_recurrent_policy
from quick import crossed

INPUTS, UNITS, OUTPUTS = 6, 4, 3


class Spelled(nn.Module):
    """A module that keeps h, and c where it has one, with the layers that its cell is made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("hidden_state", torch.zeros(1, UNITS))
        self.register_buffer("cell_state", torch.zeros(1, UNITS))
        self.x2h, self.h2h = nn.Linear(INPUTS, 4 * UNITS), nn.Linear(UNITS, 4 * UNITS)
        self.both, self.new = nn.Linear(INPUTS + UNITS, 4 * UNITS), nn.Linear(INPUTS, UNITS)
        self.of_h = nn.Linear(UNITS, UNITS)
        self.head = nn.Linear(UNITS, OUTPUTS)
        for weights in self.parameters():
            weights.data.mul_(2.0)


class ChunkedGRU(Spelled):
    """As PyTorch's documentation writes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.hidden_state
        a, b = self.x2h(x), self.h2h(h)
        r = torch.sigmoid(a[:, :4] + b[:, :4])
        z = torch.sigmoid(a[:, 4:8] + b[:, 4:8])
        n = torch.tanh(a[:, 8:12] + r * b[:, 8:12])
        h = (1 - z) * n + z * h
        self.hidden_state[:] = h
        return self.head(h)


class ChungGRU(Spelled):
    """Its update gate says how much is new, its gates take both vectors at once, and its ones are a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.hidden_state
        z, r, _, _ = torch.sigmoid(self.both(torch.cat([x, h], dim=1))).chunk(4, 1)
        n = torch.tanh(r * self.of_h(h) + self.new(x))
        h = h * (torch.ones_like(z) - z) + n * z
        self.hidden_state.copy_(h)
        return self.head(h).tanh()


class JoinedLSTM(Spelled):
    """One layer of both vectors, gates in an order of its own, and a bias of 1 of the forget gate (Jozefowicz et al.
    2015)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.hidden_state, self.cell_state
        o, f, g, i = torch.split(self.both(torch.cat([h, x], -1)), 4, dim=-1)
        c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.tanh(c) * torch.sigmoid(o)
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.head(torch.relu(h))


class SummedLSTM(Spelled):
    """Both layers are added before the gates are told apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = self.x2h((x - 1.0) / 2.0) + self.h2h(self.hidden_state)
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * self.cell_state + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        self.hidden_state, self.cell_state = h, c
        return self.head(h)


class Elman(Spelled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.new(x) + self.of_h(self.hidden_state))
        self.hidden_state[:] = h
        return self.head(h)


class ResetFirst(Spelled):
    """Cho et al. 2014: the reset gate stands in front of the product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.hidden_state
        z, r, _, _ = torch.sigmoid(self.both(torch.cat([x, h], 1))).chunk(4, 1)
        h = (1 - z) * torch.tanh(self.new(x) + self.of_h(r * h)) + z * h
        self.hidden_state[:] = h
        return self.head(h)


class Peepholes(Spelled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        i, f, g, o = (self.x2h(x) + self.h2h(self.hidden_state)).chunk(4, 1)
        c = torch.sigmoid(f + self.cell_state) * self.cell_state + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.head(h)


class HardGates(Spelled):
    """Keras' older gates."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        i, f, g, o = (self.x2h(x) + self.h2h(self.hidden_state)).chunk(4, 1)
        c = nn.functional.hardsigmoid(f) * self.cell_state + nn.functional.hardsigmoid(i) * g.tanh()
        h = nn.functional.hardsigmoid(o) * c.tanh()
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.head(h)


class OtherKept(SummedLSTM):
    """It keeps something else in the place of c."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        i, f, g, o = (self.x2h(x) + self.h2h(self.hidden_state)).chunk(4, 1)
        c = f.sigmoid() * self.cell_state + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        self.hidden_state[:] = h
        self.cell_state[:] = i.sigmoid() * self.cell_state + f.sigmoid() * g.tanh()
        return self.head(h)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(
    ("module", "kind"), [(ChunkedGRU, "GRU"), (ChungGRU, "GRU"), (JoinedLSTM, "LSTM"), (SummedLSTM, "LSTM")]
)
def test_a_cell_of_a_module_is_understood(module: type[Spelled], kind: str, trace: bool, tmp_path: Path) -> None:
    if trace and module is SummedLSTM:
        pytest.skip("a trace does not keep what is set anew")
    found = opened(scripted(module().eval(), tmp_path / "policy.pt", trace=trace))
    assert found.chain is not None, found.unknown
    assert found.chain.cells == [f"{kind} of {UNITS} units"]


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Elman, "neither a GRU nor an LSTM"),
        (ResetFirst, "neither a GRU nor an LSTM"),
        (Peepholes, "neither a GRU nor an LSTM"),
        (HardGates, "neither a GRU nor an LSTM"),
        (OtherKept, "cell_state, in which it does not keep what its LSTM gives"),
    ],
)
def test_other_cells_are_black_boxes(module: type[Spelled], why: str, tmp_path: Path) -> None:
    found = opened(scripted(module().eval(), tmp_path / "policy.pt"))
    assert not found.understood
    assert why in found.unknown


@pytest.mark.parametrize(("kind", "layers", "style"), crossed(["gru", "lstm"], [1, 2], ["exact", "qdq"]))
def test_our_own_float_export_comes_back(kind: str, layers: int, style: str, tmp_path: Path) -> None:
    policy = opened(scripted(exporter(kind, layers), tmp_path / "policy.pt")).policy
    assert policy is not None
    path = tmp_path / "policy.onnx"
    path.write_bytes(encode_onnx(policy, style))
    found = opened(path)
    assert found.policy is not None, found.unknown
    assert found.chain is not None
    assert found.chain.cells == [f"{kind.upper()} of {UNITS} units"] * layers
    x = np.random.default_rng(1).normal(size=(1000, INPUTS)).astype(np.float32)
    ours, before, wanted, own = [], None, [], None
    for row in x:
        answer, before = found.policy.predict(row[None], before)
        ours.append(answer)
        answer, own = policy.predict(row[None], own)
        wanted.append(answer)
    apart = np.abs(np.concatenate(ours) - np.concatenate(wanted)).max() / np.abs(np.concatenate(wanted)).max()
    assert apart <= 1e-5


@pytest.mark.parametrize("style", ["exact", "qdq"])
def test_weights_of_few_bits_come_back(style: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(encode_onnx(random_recurrent_policy(0, "weight-only"), style))
    assert opened(path).understood


def test_our_own_export_of_integers_says_what_to_open(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(encode_onnx(random_recurrent_policy(0, "integer")))
    assert "give its .policy file" in opened(path).rows()["layers"]


def test_a_layer_for_each_gate_of_onnx(tmp_path: Path) -> None:
    g = Graph()

    def gate(function: str, other: str = "h_in") -> str:
        x = g("MatMul", "obs", g.weights(INPUTS, UNITS))
        return str(g(function, g("Add", g("Add", x, g("MatMul", other, g.weights(UNITS, UNITS))), g.weights(UNITS))))

    i, f, o, new = gate("Sigmoid"), gate("Sigmoid"), gate("Sigmoid"), gate("Tanh")
    c = g("Add", g("Mul", i, new), g("Mul", "c_in", f))
    h = g("Mul", g("Tanh", c), o)
    state = {"h": ([1, UNITS], h), "c": ([1, UNITS], c)}
    found = opened(g.save(tmp_path / "policy.onnx", g.dense(h, UNITS, OUTPUTS), state=state))
    assert found.chain is not None, found.unknown
    assert found.chain.cells == [f"LSTM of {UNITS} units"]


@pytest.mark.parametrize("kind", list(CELLS))
def test_gates_are_found_in_whatever_order_they_stand(kind: str) -> None:
    count = len(CELLS[kind].gates)
    random = np.random.default_rng(3)
    order, other = random.permutation(count), random.permutation(count)

    def function(*v: Any) -> Any:
        x, y, kept = [v[place] for place in order], [v[count + place] for place in other], v[-1]
        return of_floats(kind, FUNCTIONS["sigmoid"], FUNCTIONS["tanh"], x, y, [kept, kept])[0]

    found = recognized(function, range(count), range(count, 2 * count), 2 * count)
    assert found is not None
    assert (found.kind, found.vector) == (kind, 0)
    assert found.input == tuple(order)
    assert found.recurrent == tuple(count + other)


@pytest.mark.parametrize(
    "change", [lambda h: h * 1.001, lambda h: h + 0.001, lambda h: -h, np.abs], ids=["scale", "offset", "sign", "abs"]
)
def test_what_is_almost_a_cell_is_none(change: Callable[[Any], Any]) -> None:
    def function(*v: Any) -> Any:
        return change(of_floats("gru", FUNCTIONS["sigmoid"], FUNCTIONS["tanh"], v[:3], v[3:6], v[6:])[0])

    assert recognized(function, range(3), range(3, 6), 6) is None
