"""What weights are worth by what training does."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from policypress.compression import Compressor
from policypress.compression.masks import top_k_mask
from policypress.compression.saliency import SALIENCIES, Activation, Saliency
from policypress.config import BY_TRAINING, CompressionConfig, Criterion
from policypress.errors import UnsupportedError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))


def learn(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One step; each weight and its gradient before it."""
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (module(x) - 1).square().mean().backward()
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    found = [(layer.weight.detach().clone(), layer.weight.grad.clone()) for layer in layers]
    optimizer.step()
    return found


def trained(criterion: Any, steps: int = 30, **given: Any) -> tuple[Compressor, list[Any]]:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    config = CompressionConfig(**{"sparsity": 0.5, "criterion": criterion, "prune_start": 0.5, **given})
    compressor = Compressor(module, optimizer, config, 100)
    seen = []
    for step in range(steps):
        compressor.step(step)
        seen.append(learn(module, optimizer, step))
    return compressor, seen


def scores_of(compressor: Compressor) -> list[torch.Tensor]:
    return compressor.pruning.worth()


def test_the_table_and_the_config_name_the_same() -> None:
    assert tuple(SALIENCIES) == BY_TRAINING
    assert set(BY_TRAINING) < set(get_args(Criterion))


def test_movement_is_the_way_away_from_zero() -> None:
    compressor, seen = trained("movement")
    for place, found in enumerate(scores_of(compressor)):
        wanted = sum(-step[place][0].double() * step[place][1].double() for step in seen)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-7)
        assert bool((found > 0).any())
        assert bool((found < 0).any())


def test_snip_is_the_effect_on_the_loss() -> None:
    compressor, seen = trained("snip")
    for place, found in enumerate(scores_of(compressor)):
        mean = torch.zeros_like(found, dtype=torch.float64)
        for step in seen:
            weight, gradient = (values.double() for values in step[place])
            mean = 0.99 * mean + 0.01 * weight * gradient
        torch.testing.assert_close(found.double(), mean.abs(), rtol=1e-4, atol=1e-9)


def test_grasp_is_the_effect_on_the_gradient() -> None:
    compressor, seen = trained("grasp")
    flat = [torch.cat([gradient.double().flatten() for _, gradient in step]) for step in seen]
    mean, product = torch.zeros_like(flat[0]), torch.zeros_like(flat[0])
    for gradient in flat:
        product = 0.99 * product + 0.01 * torch.outer(gradient, gradient) @ mean  # the Fisher matrix, written out
        mean = 0.99 * mean + 0.01 * gradient
    weights = torch.cat([one.weight.detach().double().flatten() for one in compressor.pruning.weights])
    found = torch.cat([values.flatten() for values in scores_of(compressor)])
    torch.testing.assert_close(found.double(), weights * product, rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("criterion", SALIENCIES)
def test_nothing_is_pruned_before_enough_gradients_were_seen(criterion: Any) -> None:
    compressor, _ = trained(criterion, steps=Saliency.ENOUGH, pruning="one-shot", prune_start=0.0)
    assert compressor.sparsity == 0.0
    worth = scores_of(compressor)
    compressor.step(Saliency.ENOUGH)
    assert compressor.sparsity == 0.5
    for one, values, zeros in zip(compressor.pruning.weights, worth, compressor.target_zeros, strict=True):
        assert torch.equal(one.mask, top_k_mask(values, zeros))


@pytest.mark.parametrize("criterion", SALIENCIES)
def test_what_is_pruned_is_worth_least_whatever_the_sign(criterion: Any) -> None:
    compressor, _ = trained(criterion, steps=60, prune_start=0.0, prune_end=1.0)
    before = [one.mask.clone() for one in compressor.pruning.weights]
    assert 0.0 < compressor.sparsity < 0.5
    compressor.step(100)
    for one, was, zeros in zip(compressor.pruning.weights, before, compressor.target_zeros, strict=True):
        assert int((~one.mask).sum()) == zeros
        assert not bool((one.mask & ~was).any())


def test_a_weight_without_a_gradient_is_not_counted() -> None:
    compressor, _ = trained("movement", steps=1)
    saliency = compressor.pruning._saliency
    assert saliency is not None
    module = compressor.graph.layers[0].module
    compressor.optimizer.zero_grad()
    module(torch.ones(2, 6)).sum().backward()
    compressor.optimizer.step()
    assert saliency.seen == [2, 1]


def test_activation_is_the_strength_of_what_a_weight_reads() -> None:
    compressor, _ = trained("activation", steps=10)
    strengths = [torch.zeros(6, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)]
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for step in range(10):
        if step % Activation.STRIDE == 0:
            inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
            for strength, values in zip(strengths, (inputs, module[:2](inputs)), strict=True):
                strength.lerp_(values.detach().double().square().mean(0), 0.01)
        learn(module, optimizer, step)
    for one, found, strength in zip(compressor.pruning.weights, scores_of(compressor), strengths, strict=True):
        wanted = one.weight.detach().double().abs() * strength.sqrt()
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-9)


def test_of_units_activation_is_the_strength_of_what_they_say() -> None:
    module = network()
    with torch.no_grad():
        layer: Any = module[0]
        layer.bias[:10] -= 100.0  # these never say anything
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    config = CompressionConfig(
        sparsity=0.3, criterion="activation", structure="units", pruning="one-shot", prune_start=0.1
    )
    compressor = Compressor(module, optimizer, config, 100)
    for step in range(20):
        compressor.step(step)
        learn(module, optimizer, step)
    gone = ~compressor.pruning.weights[0].mask.any(1)
    assert 0 < int(gone.sum()) <= 10
    assert not bool(gone[10:].any())


def test_activation_goes_on_in_the_layers_that_quantize_and_ends() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    config = CompressionConfig(
        sparsity=0.5, criterion="activation", weight_bits=8, quantize_start=0.2, observe=0.1, prune_start=0.5
    )
    compressor = Compressor(module, optimizer, config, 100)
    for step in range(40):
        compressor.step(step)
        learn(module, optimizer, step)
    saliency = compressor.pruning._saliency
    assert saliency is not None
    assert saliency.seen == [39, 39]  # the modules that stand for layers are found anew with the next step
    compressor.remove()
    learn(module, optimizer, 40)
    assert saliency.seen == [39, 39]


def test_activation_of_convolutions_is_by_channel() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    compressor = Compressor(module, optimizer, CompressionConfig(sparsity=0.5, criterion="activation"), 100)
    x = torch.rand(5, 2, 4, 4) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    module(x).sum().backward()
    optimizer.step()
    found = scores_of(compressor)[0] / module[0].weight.detach().abs()
    wanted = (0.01 * x.square().mean((0, 2, 3))).sqrt().view(1, 2, 1, 1).expand_as(found)
    torch.testing.assert_close(found, wanted)


def test_activation_needs_layers_of_their_own_and_no_gradients() -> None:
    cell = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam([*cell.parameters(), head := nn.Parameter(torch.ones(2, 4))])
    config = CompressionConfig(sparsity=0.5, criterion="activation", prune_auxiliary=True)
    with pytest.raises(UnsupportedError, match="criterion=activation sees no inputs of log_std"):
        Compressor(cell, optimizer, config, 100, auxiliary=[("log_std", head)])
    module = network()
    closing = torch.optim.LBFGS(module.parameters())
    Compressor(module, closing, CompressionConfig(sparsity=0.5, criterion="activation"), 100)
    closing.step(lambda: (module(torch.ones(1, 6)) - 1).square().sum())
