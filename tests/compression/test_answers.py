"""A network is what it answers, not what its layers would: every way to do something around them is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from policypress.compression import Compressor, Residual, trace
from policypress.compression.answers import SCALES, check_layers, compare, probes, undisturbed
from policypress.compression.freeze import freeze_graph
from policypress.config import CompressionConfig
from policypress.errors import UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl.teacher import Teacher

DISCRETE = ActionTransform("discrete", dtype="int64")
VECTOR = ObservationTransform((4,), "float32")
UNIT = np.ones(2, np.float32)


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)]


class Scaled(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x / 10)


class ClipsLarge(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.clamp(-5, 5))


class ClipsVeryLarge(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.clamp(-300, 300))


class Standardized(nn.Sequential):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.register_buffer("mean", torch.full((4,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - self.mean)


class Scaler(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(x)


class Leaky(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(x)


class Shrinks(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


class Squeezes(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :1]


class Named(nn.Sequential):
    def forward(self, x: torch.Tensor) -> Any:
        return {"action": super().forward(x)}


def forward_hook(pre: bool) -> Any:
    network = nn.Sequential(*layers())
    if pre:
        network[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    else:
        network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


AROUND: dict[str, Callable[[], Any]] = {
    "forward": lambda: Scaled(*layers()),
    "large inputs": lambda: ClipsLarge(*layers()),
    "very large inputs": lambda: ClipsVeryLarge(*layers()),
    "buffer": lambda: Standardized(*layers()),
    "layer": lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), Scaler(16, 2)),
    "activation": lambda: nn.Sequential(nn.Linear(4, 16), Leaky(), nn.Linear(16, 2)),
    "block": lambda: nn.Sequential(nn.Linear(4, 4), Shrinks(nn.Sequential(nn.Linear(4, 4))), nn.Linear(4, 2)),
    "hook": lambda: forward_hook(pre=False),
    "pre-hook": lambda: forward_hook(pre=True),
    "outputs": lambda: Squeezes(*layers()),
    "dictionary": lambda: Named(*layers()),
}


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize("door", ["teacher", "freeze", "compressor"])
def test_what_runs_around_layers_is_noticed_at_every_door(kind: str, door: str) -> None:
    network = AROUND[kind]()
    doors: dict[str, Callable[[], Any]] = {
        "teacher": lambda: Teacher.of(network, VECTOR, DISCRETE),
        "freeze": lambda: freeze_graph(trace(network), VECTOR, DISCRETE),
        "compressor": lambda: Compressor(network, torch.optim.Adam(network.parameters()), CompressionConfig(), 10),
    }
    said = {
        "outputs": "gives 1 numbers where the layers one after another give 2",
        "dictionary": "answers with a dict: it must give one tensor",
    }
    numbers = r"the network answers -?\d.* where the layers one after another give -?\d.* of scale"
    with pytest.raises(UnsupportedError, match=said.get(kind, numbers)):
        doors[door]()


def test_what_changes_nothing_is_no_reason_to_refuse() -> None:
    class Logged(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().forward(nn.functional.dropout(x, 0.5, self.training))

    seen: list[int] = []
    network = Logged(*layers()).train()
    network[0].register_forward_hook(lambda module, inputs, output: None)
    check_layers(trace(network))
    assert len(seen) == len(SCALES)


def test_a_computed_weight_is_frozen_as_it_is_and_not_trained() -> None:
    network = nn.Sequential(*layers())
    spectral_norm(network[2])
    network.eval()
    policy = freeze_graph(trace(network), VECTOR, DISCRETE)
    np.testing.assert_array_equal(policy.layers[-1].weight, network[2].weight.detach().numpy())
    with pytest.raises(UnsupportedError, match=r"weight of layer 2 is computed .*remove_parametrizations"):
        Compressor(network, torch.optim.Adam(network.parameters()), CompressionConfig(), 10)


@pytest.mark.parametrize("size", [(20, 20), (20, 27)])
def test_the_image_that_fits_is_found(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 4, (5, 3), stride=(2, 1), padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()]
    width = nn.Sequential(*convolutions)(torch.zeros(1, 3, *size)).shape[1]
    network = nn.Sequential(*convolutions, nn.Linear(width, 2))
    check_layers(trace(network), image=True)
    network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(UnsupportedError, match="the network answers"):
        check_layers(trace(network), image=True)


def test_asking_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 2))
    network[2].eval()
    modes = [module.training for module in network.modules()]
    before = torch.get_rng_state()
    with undisturbed(network):
        assert not any(module.training for module in network.modules())
        assert not network(torch.rand(3, 4)).requires_grad
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)


def test_a_quantizing_network_is_left_as_it_was() -> None:
    network = nn.Sequential(*layers())
    optimizer = torch.optim.Adam(network.parameters())
    config = CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.5)
    compressor = Compressor(network, optimizer, config, 10)
    for step in (0, 5, 6):
        compressor.step(step)
        optimizer.zero_grad()
        network(torch.rand(16, 4)).square().mean().backward()
        optimizer.step()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    passes = [node.module.passes for node in compressor.graph.layers]  # type: ignore[union-attr]
    assert freeze_graph(compressor.graph, VECTOR, DISCRETE).numerics == "integer"
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(a, b.grad) for a, b in zip(gradients, network.parameters(), strict=True))  # type: ignore[arg-type]
    assert [node.module.passes for node in compressor.graph.layers] == passes  # type: ignore[union-attr]
    assert network.training


def test_rounding_is_no_difference_and_half_a_thousandth_is() -> None:
    ours = np.array([[1.0, -200.0]])
    compare("x", ours * (1 + 1e-6), ours, 1.0)
    compare("x", np.array([[1.04, -200.0]]), ours, 1.0, slack=np.array([[0.04, 0.0]]))
    for factor in (1.0005, 0.9995):
        with pytest.raises(UnsupportedError, match="x answers"):
            compare("x", ours * factor, ours, 1.0)
        with pytest.raises(UnsupportedError, match="x answers"):
            compare("x", ours * factor, ours, 1.0, slack=np.array([[0.04, 0.0]]))
    with pytest.raises(UnsupportedError, match=r"^x answers -200\.4 where .* give -200 \(observations of scale 0\.1\)"):
        compare("x", ours * 1.002, ours, 0.1)
    with pytest.raises(UnsupportedError, match="x answers nan"):
        compare("x", ours * [[np.nan, 1.0]], ours, 1.0)
    compare("x", ours * [[np.inf, 1.0]], ours * [[np.inf, 1.0]], 1.0)


def test_observations_are_of_every_scale_and_always_the_same() -> None:
    seen = list(probes((4,)))
    assert [scale for scale, _ in seen] == list(SCALES)
    assert not seen[0][1].any()
    assert all(0.5 * scale <= x.std() <= 1.5 * scale for scale, x in seen)
    assert [scale for scale, _ in probes((4,), dtype=torch.float16)] == [0.0, 0.1, 1.0, 10.0]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(seen, probes((4,)), strict=True))
    pixels = np.concatenate([x for _, x in probes((1, 6, 6), image=True)])
    assert (pixels.min(), pixels.max() > 0.9) == (0, True)
    np.testing.assert_array_equal(np.rint(pixels * 255).astype(np.float32) / np.float32(255), pixels)


# A Tanh at the end


def test_a_tanh_at_the_end_is_that_of_the_action() -> None:
    network = nn.Sequential(*layers(), nn.Tanh())
    squash = ActionTransform("box", (2,), squash=True, low=-2 * UNIT, high=2 * UNIT)
    policy = Teacher.of(network, VECTOR, squash).policy()
    x = 3 * np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    with torch.no_grad():
        wanted = 2 * network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(policy.predict(x)[0], wanted, atol=1e-6)
    with pytest.raises(UnsupportedError, match=r"the Tanh at 3, the network's end, .*squash=True"):
        Teacher.of(network, VECTOR, ActionTransform("box", (2,), low=-UNIT, high=UNIT))
    with pytest.raises(UnsupportedError, match=r"the network answers"):
        Teacher.of(Scaled(*layers(), nn.Tanh()), VECTOR, squash)


# Other types of weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_types(dtype: torch.dtype) -> None:
    network = nn.Sequential(*layers()).to(dtype)
    expected = [network[i].weight.detach().float().numpy() for i in (0, 2)]
    frozen = freeze_graph(trace(network), VECTOR, DISCRETE)
    taught = Teacher.of(network, VECTOR, DISCRETE)
    assert taught.outputs(torch.ones(2, 4)).dtype == torch.float32
    for policy in (frozen, taught.policy()):
        for layer, weight in zip(policy.layers, expected, strict=True):
            np.testing.assert_array_equal(layer.weight, weight, strict=True)
    assert {node.module.weight.dtype for node in trace(network).layers} == {dtype}
    with pytest.raises(UnsupportedError, match="the network answers"):
        Teacher.of(Scaled(*layers()).to(dtype), VECTOR, DISCRETE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_are_pruned_and_not_quantized_in_training(dtype: torch.dtype) -> None:
    network = nn.Sequential(*layers()).to(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    Compressor(network, optimizer, CompressionConfig(sparsity=0.5, allocation="uniform"), 10).step(10)
    network(torch.rand(8, 4, dtype=dtype)).square().mean().backward()
    optimizer.step()
    assert [int((network[i].weight == 0).sum()) for i in (0, 2)] == [32, 16]
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UnsupportedError, match=rf"layer 0 has {name} weights.*network\.float\(\)"):
        Compressor(network, optimizer, CompressionConfig(weight_bits=8), 10)


def test_a_weight_beyond_float32_is_refused() -> None:
    network = nn.Sequential(*layers()).double()
    with torch.no_grad():
        network[0].weight[0, 0] = 1e300
    with pytest.raises(Exception, match="beyond float32"):
        freeze_graph(trace(network), VECTOR, DISCRETE)
