"""What weights are worth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from policypress.compression import Compressor
from policypress.compression.criterion import flow
from policypress.compression.graph import Residual, trace
from policypress.config import CompressionConfig


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 3)
    )


def resnet() -> nn.Sequential:
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    return nn.Sequential(nn.Conv2d(2, 3, 1), Residual(body), nn.Flatten(), nn.Linear(3, 2))


def paths_through(network: nn.Sequential, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same scores by autograd: the sum of all paths is the output of the network of magnitudes for ones, and a
    weight's share of it is the weight times its derivative (Tanaka et al. 2020)."""
    linear = network.double()
    for module in linear.modules():
        for name, child in module._modules.items():
            if isinstance(child, nn.ReLU | nn.Tanh | nn.MaxPool2d):
                module._modules[name] = nn.Identity()
    with torch.no_grad():
        for name, parameter in linear.named_parameters():
            parameter.abs_() if name.endswith("weight") else parameter.zero_()
    linear(x).sum().backward()
    return {
        name.removesuffix(".weight"): (parameter * parameter.grad).detach()
        for name, parameter in linear.named_parameters()
        if name.endswith("weight") and parameter.grad is not None
    }


@pytest.mark.parametrize(
    ("make", "shape"),
    # Images of one position, so that a sum over windows is no part of the reference.
    [(mlp, (1, 4)), (resnet, (1, 2, 1, 1))],
)
def test_flow_is_the_sum_over_paths(make: Callable[[], nn.Sequential], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = make()
    found = flow(trace(network).nodes)
    wanted = paths_through(network, torch.ones(shape, dtype=torch.float64))
    assert found.keys() == wanted.keys()
    for name, scores in found.items():
        torch.testing.assert_close(scores, wanted[name])


def test_flow_of_convolutions_and_flattened_channels() -> None:
    torch.manual_seed(0)
    network = cnn()
    found = flow(trace(network).nodes)
    first, second, last = (network[i].weight.detach().double().abs() for i in (0, 3, 5))  # type: ignore[union-attr, operator]
    assert {name: tuple(score.shape) for name, score in found.items()} == {
        "0": (3, 2, 2, 2), "3": (4, 3, 1, 1), "5": (3, 16)
    }  # fmt: skip
    channel = second[:, :, 0, 0] @ first.sum((1, 2, 3))
    torch.testing.assert_close(found["5"], last * channel.repeat_interleave(4))
    behind = last.sum(0).reshape(4, 4).sum(1)
    torch.testing.assert_close(found["3"][:, :, 0, 0], behind[:, None] * second[:, :, 0, 0] * first.sum((1, 2, 3)))


def test_a_weight_without_readers_or_inputs_is_worth_nothing() -> None:
    torch.manual_seed(0)
    network = mlp()
    with torch.no_grad():
        network[2].weight[:, 1] = 0  # nobody reads unit 1
        network[2].weight[3] = 0  # unit 3 of the next layer hears nothing
    scores = flow(trace(network).nodes)
    assert bool((scores["0"][1] == 0).all())
    assert bool((scores["4"][:, 3] == 0).all())
    assert bool((scores["0"][0] > 0).all())


def test_flow_leaves_fewer_units_than_magnitude() -> None:
    def live_units(criterion: str) -> int:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        config = CompressionConfig(
            sparsity=0.95,
            criterion=criterion,
            allocation="erk",
            prune_start=0.0,
            prune_end=1.0,
            prune_iterations=100,
        )  # type: ignore[arg-type]
        compressor = Compressor(network, optimizer, config, 100)
        for step in range(101):
            compressor.step(step)
        weights = [layer.weight for layer in (network[0], network[2], network[4])]
        assert sum(int(weight.count_nonzero()) for weight in weights) == round(0.05 * (8 * 64 + 64 * 64 + 64 * 4))
        return sum(int(((w != 0).any(1) & (r != 0).any(0)).sum()) for w, r in pairwise(weights))

    assert 2 * live_units("flow") < live_units("magnitude")
