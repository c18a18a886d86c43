"""Recurrent cells and frames in training: PyTorch's own modules in float, the frozen policy bit for bit in integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.compression.criterion import flow
from policypress.compression.freeze import freeze_graph
from policypress.compression.graph import CellNode, Graph, Residual, trace
from policypress.compression.recurrent import Frames, Recurrent
from policypress.compression.student import unroll
from policypress.config import CompressionConfig
from policypress.errors import UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Cell, History
from policypress.policy.policy import Policy

FEATURES, OUTPUTS = 4, 2
NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "gru": lambda: nn.Sequential(*Recurrent.of(nn.GRU(FEATURES, 6)), nn.Linear(6, OUTPUTS)),
    "gru of 16 bits": lambda: nn.Sequential(*Recurrent.of(nn.GRU(FEATURES, 6), (16,)), nn.Linear(6, OUTPUTS)),
    "lstm": lambda: nn.Sequential(
        nn.Linear(FEATURES, 5), nn.ELU(), *Recurrent.of(nn.LSTM(5, 6, 2)), nn.Linear(6, 4), nn.ReLU(),
        nn.Linear(4, OUTPUTS),
    ),
    "lstm without biases": lambda: nn.Sequential(
        *Recurrent.of(nn.LSTM(FEATURES, 6, bias=False), (10, 12)), nn.Linear(6, OUTPUTS)
    ),
    "frames": lambda: nn.Sequential(Frames(3), nn.Linear(3 * FEATURES, 6), nn.ReLU(), nn.Linear(6, OUTPUTS)),
    "frames behind a layer": lambda: nn.Sequential(
        nn.Linear(FEATURES, 3), nn.Tanh(), Frames(4), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, OUTPUTS)
    ),
}  # fmt: skip


def sequences(seed: int, steps: int = 7, rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations (steps, rows, features), and where episodes begin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, rows, FEATURES, generator=generator) * 2
    return x, torch.rand(steps, rows, generator=generator) < 0.2


def trained(network: nn.Sequential, weight_bits: int = 4, activation_bits: int = 8, steps: int = 24) -> Compressor:
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    config = CompressionConfig(sparsity=0.3, weight_bits=weight_bits, activation_bits=activation_bits)
    compressor = Compressor(network, optimizer, config, steps)
    for step in range(steps):
        compressor.step(step)
        x, starts = sequences(step)
        outputs, _ = unroll(compressor.graph, x, starts)
        loss = (outputs - x.cumsum(0)[..., :OUTPUTS].tanh()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    compressor.step(steps)
    network.eval()
    return compressor


def frozen(graph: Graph) -> Policy:
    bounds = np.full(OUTPUTS, 99, np.float32)
    action = ActionTransform("box", (OUTPUTS,), low=-bounds, high=bounds)
    return freeze_graph(graph, ObservationTransform((FEATURES,), "float32"), action)


def answers(policy: Policy, x: torch.Tensor, starts: torch.Tensor) -> np.ndarray:
    state, found = None, []
    for seen, begins in zip(x.numpy(), starts.numpy(), strict=True):
        outputs, state = policy.step(seen, state, begins, reference=True)
        found.append(outputs)
    return np.stack(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_computes_what_the_frozen_policy_does(name: str) -> None:
    torch.manual_seed(0)
    compressor = trained(NETWORKS[name]())
    policy = frozen(compressor.graph)
    assert policy.numerics == "integer"
    x, starts = sequences(999, steps=12)
    with torch.no_grad():
        outputs, _ = unroll(compressor.graph, x, starts)
    assert outputs.numpy().tobytes() == answers(policy, x, starts).tobytes()
    assert np.abs(outputs.numpy()).max() > 0.05
    assert any(isinstance(op, Cell | History) for op in policy.ops)


@pytest.mark.parametrize("name", ["gru", "lstm", "frames"])
def test_float_and_weight_only_policies_are_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    x, starts = sequences(1)
    for graph in (trace(network), trained(network, 8, 0).graph):
        with torch.no_grad():
            outputs, _ = unroll(graph, x, starts)
        assert np.allclose(answers(frozen(graph), x, starts), outputs.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_cells_of_a_module_are_that_module(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    module = kind(FEATURES, 6, num_layers=2)
    cells = Recurrent.of(module)
    assert {id(p) for cell in cells for p in cell.parameters()} == {id(p) for p in module.parameters()}
    network = nn.Sequential(*cells, nn.Linear(6, OUTPUTS))
    x, _ = sequences(2)
    with torch.no_grad():
        wanted = network[-1](module(x)[0])
        outputs, state = unroll(trace(network), x)
        halves = [unroll(trace(network), x[:3])]
        halves.append(unroll(trace(network), x[3:], None, halves[0][1]))
    assert torch.allclose(outputs, wanted, atol=1e-6)
    assert torch.allclose(torch.cat([half[0] for half in halves]), wanted, atol=1e-6)
    assert [len(vectors) for vectors in state] == [2 if kind is nn.LSTM else 1] * 2


@pytest.mark.parametrize(("module", "kind"), [(nn.GRUCell, "gru"), (nn.LSTMCell, "lstm")])
def test_single_cells_are_read_too(module: type[nn.RNNCellBase], kind: str) -> None:
    own = module(FEATURES, 3)
    (cell,) = Recurrent.of(own)
    found = own(torch.ones(2, FEATURES))
    assert cell.kind == kind
    assert torch.allclose(cell(torch.ones(2, FEATURES)), found if kind == "gru" else found[0], atol=1e-6)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.RNN(3, 3), "RNN is no recurrent cell"),
        (lambda: nn.LSTM(3, 3, bidirectional=True), "forward in time alone"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "no projection"),
    ],
)
def test_other_modules_are_refused(module: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Recurrent.of(module())


def test_a_module_of_sequences_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"Recurrent\.of\(it\) in its place"):
        trace(nn.Sequential(nn.GRU(3, 3), nn.Linear(3, 1)))


def test_what_remembers_lies_outside_of_residual_blocks() -> None:
    network = nn.Sequential(Residual(nn.Sequential(*Recurrent.of(nn.GRU(3, 3)))), nn.Linear(3, 1))
    with pytest.raises(UnsupportedError, match="put that outside of it"):
        trace(network)


def test_a_state_of_seven_bits_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="8 to 16 bits"):
        Recurrent.of(nn.GRU(3, 3), (7,))


def test_gradients_reach_weights_through_time() -> None:
    torch.manual_seed(0)
    compressor = trained(NETWORKS["gru"]())
    (cell,) = [node.cell for node in compressor.graph.nodes if isinstance(node, CellNode)]
    assert cell.active
    x, _ = sequences(3)
    x[1:] = 0
    compressor.optimizer.zero_grad()
    outputs, _ = unroll(compressor.graph, x)
    outputs[-1].sum().backward()
    for layer in (cell.input, cell.recurrent):
        gradient = layer.weight.grad
        assert isinstance(gradient, torch.Tensor)
        assert gradient.abs().max() > 0


def test_pruning_holds_in_cells_and_plain_modules_come_back() -> None:
    torch.manual_seed(0)
    network = NETWORKS["gru"]()
    compressor = trained(network)
    assert 0.2 < compressor.sparsity < 0.4
    compressor.remove()
    assert type(network[0].input) is nn.Linear
    assert network[0].ranges is None
    x, starts = sequences(4)
    outputs, _ = unroll(trace(network), x, starts)
    assert torch.isfinite(outputs).all()


def test_flow_is_refused_for_what_remembers() -> None:
    nodes = trace(NETWORKS["lstm"]()).nodes
    with pytest.raises(UnsupportedError, match="criterion=flow follows no path through time"):
        flow(nodes)
