"""The frame that ways of pruning stand in: masks that are saved, that may grow back, over several optimizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from policypress.compression import Compressor, trace
from policypress.compression.allocation import allocate
from policypress.compression.criterion import scores
from policypress.compression.masks import PrunedWeight
from policypress.compression.pruning import NoPruning, Pruning
from policypress.compression.pruning_methods import Gradual
from policypress.compression.schedule import PruningSchedule
from policypress.config import CompressionConfig, from_json, to_json
from policypress.errors import ConfigError, UnsupportedError

CONFIG = CompressionConfig(sparsity=0.5, prune_start=0.0, prune_end=0.5, prune_iterations=10)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))


def weights_of(module: nn.Sequential, optimizer: torch.optim.Optimizer, prefix: str = "") -> list[PrunedWeight]:
    return [PrunedWeight(prefix + node.name, node.module.weight, optimizer) for node in trace(module).layers]


def learn(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (module(x) - 1).square().mean().backward()
    optimizer.step()


class Swapping(Pruning):
    """Half of each weight; with every iteration a quarter of it goes and another comes back."""

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        if iteration == self.iteration:
            return None
        self.sparsity, masks = 0.5, []
        for one in self.weights:
            half = (torch.arange(one.weight.numel()) + iteration) % 4 < 2
            masks.append(half.view_as(one.weight))
        return masks


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD])
def test_weights_that_come_back_start_from_zero_with_moments_of_zero(kind: Any) -> None:
    module = network()
    settings = {} if kind is torch.optim.AdamW else {"weight_decay": 0.1}
    optimizer = kind(module.parameters(), lr=0.01, **settings)
    pruning = Swapping(weights_of(module, optimizer), CONFIG, 100)
    learn(module, optimizer)
    for step in range(5, 50, 5):
        before = [one.mask.clone() for one in pruning.weights]
        pruning.step(step)
        for one, was in zip(pruning.weights, before, strict=True):
            grown = one.mask & ~was
            assert bool((one.weight[~one.mask | grown] == 0).all())
            assert int(one.mask.sum()) == one.weight.numel() // 2
            for values in optimizer.state[one.weight].values():
                if isinstance(values, torch.Tensor) and values.shape == one.weight.shape:
                    assert bool((values[~one.mask | grown] == 0).all())
        learn(module, optimizer, step)
        for one, was in zip(pruning.weights, before, strict=True):
            assert bool((one.weight[one.mask & ~was] != 0).any()) or step == 5  # the first masks bring nothing back
            assert bool((one.weight[~one.mask] == 0).all())


class Looking(Gradual):
    seen: list[tuple[str, torch.Tensor]]

    def look(self, weights: Sequence[PrunedWeight]) -> None:
        self.seen = [(one.name, one.weight.grad.clone()) for one in weights if one.weight.grad is not None]


def test_gradients_are_seen_before_they_are_masked() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    pruning = Looking(weights_of(module, optimizer), CONFIG, 100)
    pruning.step(100)
    learn(module, optimizer)
    assert [name for name, _ in pruning.seen] == ["0", "2"]
    for (_, whole), one in zip(pruning.seen, pruning.weights, strict=True):
        assert bool((whole[~one.mask] != 0).any())
        assert one.weight.grad is not None
        torch.testing.assert_close(one.weight.grad, whole * one.mask, rtol=0, atol=0)


def test_several_networks_with_optimizers_of_their_own_share_one_target() -> None:
    actor, critic = network(1), network(2)
    optimizers = [torch.optim.Adam(actor.parameters(), lr=0.01), torch.optim.SGD(critic.parameters(), lr=0.01)]
    weights = weights_of(actor, optimizers[0], "actor.") + weights_of(critic, optimizers[1], "critic.")
    for criterion in ("magnitude", "flow", "random"):
        config = CompressionConfig(sparsity=0.5, allocation="global", prune_end=0.5, criterion=criterion)  # type: ignore[arg-type]
        pruning = Gradual(weights, config, 100, graphs=[trace(actor), trace(critic)])
        pruning.step(100)
        pruning.remove()
    pruning = Gradual(weights, CONFIG, 100)
    pruning.step(100)
    # The critic's optimizer is replaced: the actor's goes on as it is.
    optimizers[1] = torch.optim.Adam(critic.parameters(), lr=0.01)
    pruning.follow(optimizers[1])
    for module, optimizer in zip((actor, critic), optimizers, strict=True):
        for seed in range(3):
            learn(module, optimizer, seed)
    zeros = [int((one.weight == 0).sum()) for one in weights]
    assert zeros == pruning.target_zeros
    assert sum(zeros) == round(0.5 * sum(one.weight.numel() for one in weights))


def test_targets_lose_what_their_weights_lose() -> None:
    module, target = network(1), network(2)
    optimizer = torch.optim.Adam(module.parameters())
    compressor = Compressor(module, optimizer, CONFIG, 100, targets=[trace(target)])
    compressor.step(100)
    for one, follower in zip(compressor.pruning.weights, trace(target).layers, strict=True):
        assert torch.equal(follower.module.weight == 0, ~one.mask)


def compressor_of(module: nn.Sequential, **settings: Any) -> Compressor:
    config = CompressionConfig(**{"sparsity": 0.5, "prune_start": 0.0, "prune_end": 0.5, **settings})
    return Compressor(module, torch.optim.Adam(module.parameters(), lr=0.01), config, 100)


def test_a_live_weight_that_is_zero_stays_live_behind_save_and_load() -> None:
    module = network()
    first = compressor_of(module)
    first.step(30)
    masks = [one.mask.clone() for one in first.pruning.weights]
    with torch.no_grad():
        for one in first.pruning.weights:
            one.weight.view(-1)[::2] = 0.0
    state = json.loads(json.dumps(first.state_dict()))
    again = compressor_of(module)
    again.load_state_dict(state)
    assert all(torch.equal(one.mask, mask) for one, mask in zip(again.pruning.weights, masks, strict=True))
    learn(module, again.optimizer)
    for one in again.pruning.weights:
        assert bool((one.weight.view(-1)[::2] != 0).any())
        assert bool((one.weight[~one.mask] == 0).all())
    assert again.state_dict() == state


@pytest.mark.parametrize("allocation", ["erk", "global"])
def test_a_state_without_masks_takes_what_is_zero_for_pruned(allocation: Any) -> None:
    """Checkpoints from before masks were saved."""
    module = network()
    first = compressor_of(module, allocation=allocation)
    first.step(30)
    old = {name: value for name, value in first.state_dict().items() if name != "pruning"}
    assert set(old) == {"done", "iteration", "sparsity", "phase"}
    again = compressor_of(module, allocation=allocation)
    again.load_state_dict(old)
    for one, other in zip(first.pruning.weights, again.pruning.weights, strict=True):
        assert torch.equal(one.mask, other.mask)
    assert again.target_zeros == first.target_zeros


def test_a_compressor_goes_back_to_an_earlier_state() -> None:
    module = network()
    compressor = compressor_of(module)
    compressor.step(20)
    state, weights = compressor.state_dict(), {name: values.clone() for name, values in module.state_dict().items()}
    compressor.step(100)
    module.load_state_dict(weights)
    compressor.load_state_dict(state)
    for name, values in module.state_dict().items():
        assert torch.equal(values, weights[name])


def test_masks_of_another_network_are_refused() -> None:
    first = compressor_of(network())
    first.step(30)
    torch.manual_seed(0)
    other = compressor_of(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)))
    with pytest.raises(UnsupportedError, match="masks are those of another network"):
        other.load_state_dict(first.state_dict())


def test_no_pruning_goes_the_same_way_and_costs_nothing() -> None:
    module = network()
    compressor = compressor_of(module, sparsity=0.0)
    assert isinstance(compressor.pruning, NoPruning)
    compressor.step(50)
    assert not any(
        isinstance(getattr(hook, "__self__", None), type(compressor.pruning._enforcement))
        for hook in compressor.optimizer._optimizer_step_pre_hooks.values()
    )
    assert compressor.state_dict() == {"done": 50, "iteration": 0, "sparsity": 0.0, "pruning": {}, "phase": "FLOAT"}
    compressor.load_state_dict(compressor.state_dict())
    assert [status.target_sparsity for status in compressor.layer_status()] == [0.0, 0.0]


def test_the_default_method_is_not_written_so_that_files_stay_as_they_were() -> None:
    config = CompressionConfig(sparsity=0.5)
    assert "pruning" not in to_json(config)
    assert from_json(CompressionConfig, to_json(config)) == config


@pytest.mark.parametrize("name", ["pruning", "criterion", "schedule", "allocation", "granularity", "weight_range"])
def test_an_unknown_setting_is_an_error_that_names_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='guess' is not one of [a-z]"):
        CompressionConfig(**{name: "guess"})  # type: ignore[arg-type]


def test_functions_that_are_asked_for_something_unknown_name_it() -> None:
    unknown: Any = "guess"
    weight = torch.ones(3, 3)
    with pytest.raises(UnsupportedError, match="guess"):
        scores(unknown, [weight], [], torch.Generator())
    with pytest.raises(UnsupportedError, match="guess"):
        allocate(unknown, [(3, 3)], 0.5)
    with pytest.raises(UnsupportedError, match="guess"):
        PruningSchedule(unknown, 0, 10, 10).fraction(5)
