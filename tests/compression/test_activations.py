"""Every activation of the table in training: codes equal to the frozen policy's, gradients, targets, save and load."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policypress.compression import Compressor, Phase, Residual, trace
from policypress.compression.activations import (
    FakeQuantActivation,
    TableRange,
    activation_input,
    module_of,
)
from policypress.compression.freeze import freeze_graph
from policypress.compression.graph import ActivationNode, walk
from policypress.compression.student import forward, student
from policypress.config import CompressionConfig
from policypress.policy import reference
from policypress.policy.activations import FUNCTIONS, lookup
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation
from policypress.policy.ops import walk as walk_ops
from policypress.policy.policy import Policy
from quick import crossed, quick

NAMES = list(FUNCTIONS)
Build = Callable[[nn.Module], nn.Sequential]


def act(name: str) -> nn.Module:
    return module_of(name, FUNCTIONS[name].usual)


def mlp(function: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 12), function, nn.Linear(12, 12), nn.ReLU(), function, nn.Linear(12, 3))


def twice(function: nn.Module) -> nn.Sequential:
    """One behind the other, behind a dropout and behind a sum."""
    block = Residual(nn.Sequential(function, nn.Linear(12, 12)))
    return nn.Sequential(
        nn.Linear(5, 12), nn.Dropout(0.2), function, function, block, function, nn.Linear(12, 12), function,
        Residual(nn.Sequential(nn.Linear(12, 12), function)), nn.Linear(12, 3),
    )  # fmt: skip


def convolutions(function: nn.Module) -> nn.Sequential:
    """Behind convolutions, pools, a Flatten, and a ReLU that a pool keeps from its layer."""
    block = Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), function, nn.Conv2d(3, 3, 3, padding=1)))
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), function, nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2), function, block, function,
        nn.Conv2d(3, 3, 2), nn.MaxPool2d(2, stride=1), nn.ReLU(), nn.Flatten(), function, nn.Linear(3, 3),
    )  # fmt: skip


BUILDS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "mlp": (mlp, (5,)), "twice": (twice, (5,)), "convolutions": (convolutions, (2, 8, 8)),
}  # fmt: skip
BITS = {"mlp": (2, 4, 7), "twice": (3, 8), "convolutions": (8,)}


def batch(shape: tuple[int, ...], count: int, seed: int) -> torch.Tensor:
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return x if len(shape) == 1 else x.abs().clamp(max=1)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, compressor: Compressor, x: torch.Tensor) -> None:
    compressor.step(compressor.done + 1)
    network.train()
    optimizer.zero_grad()
    (network(x) - x.flatten(1)[:, :3]).square().mean().backward()
    optimizer.step()


def pressed(
    build: str, name: str, steps: int = 8, seed: int = 0, **given: Any
) -> tuple[nn.Sequential, Compressor, tuple[int, ...]]:
    """A network that has trained in integers for some steps, and its Compressor."""
    torch.manual_seed(seed)
    make, shape = BUILDS[build]
    network = make(act(name))
    with torch.no_grad():
        for node in trace(network).layers:
            node.module.weight.mul_(3)  # so that something comes through those that saturate
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    config = CompressionConfig(**{"weight_bits": 8, "quantize_start": 0.5, "observe": 0.5, **given})
    compressor = Compressor(network, optimizer, config, 8, image=len(shape) == 3, seed=seed)
    compressor.step(0)
    for step in range(steps):
        train(network, optimizer, compressor, batch(shape, 16, step))
    return network, compressor, shape


def frozen(compressor: Compressor, shape: tuple[int, ...]) -> Policy:
    return freeze_graph(
        compressor.graph, ObservationTransform(shape, "float32"), ActionTransform("discrete", dtype="int64")
    )


def assert_same(network: nn.Sequential, policy: Policy, x: torch.Tensor, least: int = 1) -> None:
    """By the reference and by the engine; at ``least`` so many outputs differ."""
    network.eval()
    with torch.no_grad():
        outputs = network(x).numpy()
    np.testing.assert_array_equal(outputs, reference.run(policy, x.numpy()))
    np.testing.assert_array_equal(outputs, policy.outputs(x.numpy()))
    assert len(np.unique(outputs, axis=0)) >= least


@pytest.mark.parametrize(("name", "build"), crossed(NAMES, BUILDS))
def test_the_network_in_training_computes_what_the_policy_will(name: str, build: str) -> None:
    for bits in BITS[build]:
        network, compressor, shape = pressed(build, name, activation_bits=bits, seed=bits)
        assert compressor.phase is Phase.QUANTIZE
        policy = frozen(compressor, shape)
        found = [op for op in walk_ops(policy.ops) if isinstance(op, Activation)]
        assert len(found) == sum(isinstance(node, ActivationNode) for node in walk(compressor.graph.nodes)) >= 2
        assert {op.function for op in found} == {name}
        x = batch(shape, 64, 99)
        if len(shape) == 1:
            x[0], x[1], x[2] = 1e4, -1e30, 0.0
        assert_same(network, policy, x, least=1 if bits < 7 else 2)


@settings(max_examples=20)
@given(st.sampled_from(NAMES), st.sampled_from(list(BUILDS)), st.data())
def test_any_setting_gives_the_same_codes(name: str, build: str, data: st.DataObject) -> None:
    network, compressor, shape = pressed(
        build,
        name,
        steps=data.draw(st.integers(4, 12)),
        seed=data.draw(st.integers(0, 99)),
        weight_bits=data.draw(st.integers(2, 8)),
        activation_bits=data.draw(st.integers(2, 8)),
        input_bits=data.draw(st.integers(2, 12)),
        granularity=data.draw(st.sampled_from(["tensor", "channel"])),
        weight_range=data.draw(st.sampled_from(["mse", "minmax", "learned"])),
        sparsity=data.draw(st.sampled_from([0.0, 0.5])),
    )
    assert_same(network, frozen(compressor, shape), batch(shape, 48, 7))


@pytest.mark.parametrize("name", NAMES)
def test_without_integers_a_policy_acts_within_rounding(name: str) -> None:
    for settings_ in ({"weight_bits": 32}, {"activation_bits": 0}):
        network, compressor, shape = pressed("twice", name, **settings_)
        x = batch(shape, 64, 99)
        network.eval()
        with torch.no_grad():
            outputs = network(x)
        np.testing.assert_allclose(reference.run(frozen(compressor, shape), x.numpy()), outputs, rtol=1e-4, atol=2e-5)


def test_units_are_powers_of_two_that_are_observed() -> None:
    network, compressor, _ = pressed("mlp", "silu")
    layer: Any = network[0]
    output = layer.policypress_quantizer.output
    assert output.limits == (-255, 255)
    unit = float(output.scale())
    assert np.frexp(unit)[0] == 0.5
    assert 0.5 * float(output.limit) <= 256 * unit <= 2 * float(output.limit)
    assert "0.policypress_quantizer.output.limit" in network.state_dict()
    behind_relu: Any = network[2]
    assert behind_relu.policypress_quantizer.output.limits == (0, 255)
    assert compressor.ranges()["0"] == float(output.limit)


def test_a_range_ends_where_the_function_does() -> None:
    """What lies beyond a sigmoid's bends costs no codes; a range that has seen nothing is one, too."""
    for name, wanted in (("sigmoid", 1 / 32), ("hardtanh", 1 / 256)):
        source = activation_input(name, FUNCTIONS[name].usual, signed=True, at_once=True)
        assert float(source.scale()) < 1e-6
        assert np.isfinite(TableRange(name, FUNCTIONS[name].usual, 8, source).lookup.scale)
        source.observe_values(torch.tensor([-1e6, 1e6]))
        assert float(source.scale()) == wanted
    assert activation_input("silu", (), signed=True, at_once=False).limits == (-127, 127)
    assert activation_input("tanh", (), signed=True, at_once=True).limits == (-255, 255)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_slopes(name: str) -> None:
    usual = FUNCTIONS[name].usual
    source = activation_input(name, usual, signed=True, at_once=True)
    source.observe_values(torch.tensor([3.0]))
    table = FakeQuantActivation(act(name), TableRange(name, usual, 8, source))
    table.active = True
    codes = torch.arange(-255, 256)
    x = (codes * source.scale()).requires_grad_()
    y = table(x)
    found = lookup(name, usual, float(source.scale()), 8, 255)
    assert np.array_equal(y.detach().numpy(), found.table.astype(np.float32) * found.scale)
    y.sum().backward()
    exact = x.detach().double().requires_grad_()
    act(name)(exact).sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    bends = 0.03 if name in ("hardtanh", "hardsigmoid", "hardswish") else 0.0  # where the slope jumps
    far = torch.stack([(x.detach() - place).abs() > bends for place in (-3, -1, 0, 1, 3)]).all(0)
    tolerance = 0.01 if name == "tanh" else 1e-5
    assert torch.allclose(x.grad[far], exact.grad[far].float(), atol=tolerance)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ["silu", "gelu", "elu", "sigmoid", "tanh"])
def test_copies_resumed_networks_and_targets_compute_the_same(name: str, build: str) -> None:
    torch.manual_seed(0)
    make, shape = BUILDS[build]
    network = make(act(name))
    plain, target = copy.deepcopy(network), copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    config = CompressionConfig(weight_bits=6, activation_bits=5, quantize_start=0.5, observe=0.5)
    image = len(shape) == 3
    compressor = Compressor(network, optimizer, config, 8, targets=[trace(target)], image=image)
    compressor.step(0)
    for step in range(12):
        train(network, optimizer, compressor, batch(shape, 16, step))
    x = batch(shape, 32, 99)
    target.load_state_dict({key: network.state_dict()[key] for key in target.state_dict()})
    resumed = copy.deepcopy(plain)
    again = Compressor(resumed, torch.optim.Adam(resumed.parameters()), config, 8, image=image)
    again.load_state_dict(compressor.state_dict())
    resumed.load_state_dict(network.state_dict())
    with torch.no_grad():
        wanted = network.eval()(x)
        for other in (copy.deepcopy(network), target.eval(), resumed.eval()):
            assert torch.equal(other(x), wanted)
        own = student(compressor.graph, (), x)
        assert torch.allclose(forward(trace(own), x), own.eval()(x))
    compressor.remove()
    assert [type(a) for a in network.modules()] == [type(b) for b in plain.modules()]
    assert [type(a) for a in target.modules()] == [type(b) for b in plain.modules()]


def test_what_is_no_number_is_not_lost() -> None:
    network, _, shape = pressed("mlp", "gelu")
    network.eval()
    with torch.no_grad():
        network[0].bias[3] = torch.nan  # type: ignore[index]
        assert bool(network(batch(shape, 4, 0)).isnan().any(1).all())


@pytest.mark.parametrize("name", quick(["silu", "elu", "gelu"], ["elu"]))
def test_it_learns_in_integers(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 32), act(name), nn.Linear(32, 32), act(name), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    config = CompressionConfig(sparsity=0.5, weight_bits=6, activation_bits=6, quantize_start=0.85)
    compressor = Compressor(network, optimizer, config, 400)
    losses = []
    for step in range(800):
        compressor.step(step)
        x = torch.rand(64, 3) * 2 - 1
        loss = (network(x) - (x[:, :1] * x[:, 1:2] + x[:, 2:])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert compressor.phase is Phase.QUANTIZE
    assert np.mean(losses[-50:]) < 0.01 < 0.1 < np.mean(losses[:5])
    assert_same(network, frozen(compressor, (3,)), torch.rand(200, 3) * 2 - 1, least=50)


def test_narrower_students_keep_the_activations() -> None:
    network = nn.Sequential(
        nn.Linear(5, 12), nn.CELU(0.5), nn.Dropout(0.3), nn.Linear(12, 12), nn.GELU("tanh"), nn.Linear(12, 3)
    )
    graph = trace(network)
    made = student(graph, (6, 6), batch((5,), 64, 0))
    functions = [(node.function, node.parameters) for node in trace(made).nodes if isinstance(node, ActivationNode)]
    assert functions == [("celu", (0.5,)), ("gelu_tanh", ())]
    assert not any(isinstance(module, nn.Dropout | nn.Tanh) for module in made)
    widths = [len(node.module.weight) for node in trace(made).layers]
    assert all(a == b for a, b in pairwise(widths[:2]))
