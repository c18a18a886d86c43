"""Which weights are pruned, and that they stay exactly zero whatever the optimizer does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from policypress.compression.criterion import scores
from policypress.compression.masks import Enforcement, PrunedWeight, top_k_mask

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-weight-decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    values = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0]) | st.floats(0, 1, width=32), min_size=1))
    return torch.tensor(values), draw(st.integers(-1, len(values) + 1))


@given(cases())
def test_exactly_that_many_zeros_and_the_lowest_scores(case: tuple[torch.Tensor, int]) -> None:
    values, zeros = case
    mask = top_k_mask(values, zeros)
    assert mask.dtype == torch.bool
    assert int((~mask).sum()) == min(max(zeros, 0), len(values))
    if mask.any() and not mask.all():
        assert values[~mask].max() <= values[mask].min()
    # Of equal scores the earlier ones go: a stable sort says the same.
    order = torch.sort(values, stable=True).indices
    assert set(order[: max(zeros, 0)].tolist()) == set((~mask).nonzero().flatten().tolist())


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("zeros", [0, 1, 7, 23, 24])
def test_equal_scores_are_cut_to_the_exact_number(value: float, zeros: int) -> None:
    mask = top_k_mask(torch.full((2, 3, 4), value), zeros)
    assert mask.shape == (2, 3, 4)
    assert mask.flatten().tolist() == [False] * zeros + [True] * (24 - zeros)


def test_the_same_scores_give_the_same_mask() -> None:
    values = torch.randint(0, 5, (40, 40), generator=torch.Generator().manual_seed(1)).float()
    first = top_k_mask(values, 700)
    assert all(torch.equal(first, top_k_mask(values.clone(), 700)) for _ in range(3))


def test_magnitude_is_the_absolute_value_and_random_is_seeded() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -3.0], [0.0, 2.0]]))
    generator = torch.Generator().manual_seed(0)
    (magnitude,) = scores("magnitude", [weight], [], generator)
    assert magnitude.tolist() == [[1.0, 3.0], [0.0, 2.0]]
    assert not magnitude.requires_grad
    first, second = scores("random", [weight, weight], [], generator)
    assert not torch.equal(first, second)
    (again,) = scores("random", [weight], [], torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    assert bool((first >= 0).all())


class Masks(Enforcement):
    """Masks of ``weights``, all trained by one optimizer."""

    def __init__(self, weights: list[Any], optimizer: torch.optim.Optimizer) -> None:
        self.pruned = [PrunedWeight(str(place), weight, optimizer) for place, weight in enumerate(weights)]
        super().__init__(self.pruned, lambda _: None)

    @property
    def weights(self) -> list[torch.Tensor]:
        return [one.weight for one in self.pruned]

    def update(self, masks: list[torch.Tensor]) -> None:
        for one, mask in zip(self.pruned, masks, strict=True):
            one.set_mask(mask)

    def apply(self) -> None:
        for one in self.pruned:
            one.apply()


def network_and_masks(name: str) -> tuple[nn.Sequential, torch.optim.Optimizer, Masks]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = OPTIMIZERS[name](network.parameters())
    return network, optimizer, Masks([network[0].weight, network[2].weight], optimizer)


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (network(torch.randn(32, 6)) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_moments_stay_exactly_zero(name: str) -> None:
    network, optimizer, masks = network_and_masks(name)
    learn(network, optimizer, 5)  # moments are full by now
    keep = [top_k_mask(weight.detach().abs(), weight.numel() * 3 // 4) for weight in masks.weights]
    masks.update(keep)
    for _ in range(4):
        moments = 0
        for weight, mask in zip(masks.weights, keep, strict=True):
            assert int(torch.count_nonzero(weight)) == weight.numel() - weight.numel() * 3 // 4
            assert bool((weight[~mask] == 0).all())
            for value in optimizer.state[weight].values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    moments += 1
                    assert bool((value[~mask] == 0).all())
                    assert bool((value[mask] != 0).any())
        assert moments >= 2
        before = network[0].bias.detach().clone()  # type: ignore[operator, union-attr]
        learn(network, optimizer, 1)
        assert bool((network[0].bias != before).all())


class Mixing(torch.optim.Optimizer):
    """Moves every weight by the mean of all gradients, as those do that look at a whole matrix."""

    def __init__(self, weights: Any) -> None:
        super().__init__(weights, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for values in self.param_groups[0]["params"]:
            values.sub_(0.1 * values.grad.mean() + 0.01)


def test_weights_stay_zero_whatever_an_optimizer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "mixing", Mixing)
    network, optimizer, masks = network_and_masks("mixing")
    keep = [top_k_mask(weight.detach().abs(), weight.numel() // 2) for weight in masks.weights]
    masks.update(keep)
    learn(network, optimizer, 2)
    for weight, mask in zip(masks.weights, keep, strict=True):
        assert bool((weight[~mask] == 0).all())
        assert bool((weight[mask] != 0).all())


def test_without_the_hook_pruned_weights_would_drift() -> None:
    """Shows that the test above can fail: stale moments move what is only zeroed once."""
    network, optimizer, masks = network_and_masks("adam")
    learn(network, optimizer, 5)
    keep = [top_k_mask(weight.detach().abs(), weight.numel() // 2) for weight in masks.weights]
    masks.update(keep)
    masks.remove()
    learn(network, optimizer, 1)
    assert all(bool((weight[~mask] != 0).any()) for weight, mask in zip(masks.weights, keep, strict=True))


def test_live_weights_learn_as_if_there_were_no_mask() -> None:
    """A mask that keeps all must not change training by a single bit."""
    plain, plain_optimizer, plain_masks = network_and_masks("adamw")
    plain_masks.remove()
    masked, masked_optimizer, _ = network_and_masks("adamw")
    for network, optimizer in ((plain, plain_optimizer), (masked, masked_optimizer)):
        torch.manual_seed(3)
        learn(network, optimizer, 10)
    for a, b in zip(plain.parameters(), masked.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_apply_clears_what_is_loaded_from_a_dense_checkpoint() -> None:
    network, optimizer, masks = network_and_masks("adam")
    learn(network, optimizer, 5)
    dense = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    keep = [top_k_mask(weight.detach().abs(), weight.numel() // 2) for weight in masks.weights]
    masks.update(keep)
    network.load_state_dict(dense[0])
    optimizer.load_state_dict(dense[1])
    masks.apply()
    learn(network, optimizer, 2)
    for weight, mask in zip(masks.weights, keep, strict=True):
        assert bool((weight[~mask] == 0).all())
        assert bool((optimizer.state[weight]["exp_avg"][~mask] == 0).all())


def test_weights_stay_zero_when_the_optimizer_takes_a_closure() -> None:
    network, optimizer, masks = network_and_masks("adam")
    keep = [top_k_mask(weight.detach().abs(), weight.numel() // 2) for weight in masks.weights]
    masks.update(keep)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (network(torch.randn(32, 6)) - 1).square().mean()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    assert all(bool((weight[~mask] == 0).all()) for weight, mask in zip(masks.weights, keep, strict=True))
