"""Structures of masks: which weights of a layer may be zero together."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from policypress.compression import Compressor
from policypress.compression.allocation import allocate
from policypress.compression.mask_structures import STRUCTURES
from policypress.compression.masks import top_k_mask
from policypress.config import CompressionConfig, Structure
from policypress.errors import ConfigError

SHAPES = [(20, 6), (3, 20), (8, 3, 3, 3)]


def test_every_name_has_a_structure() -> None:
    assert set(STRUCTURES) == set(get_args(Structure))


def test_without_structure_the_least_worthy_go() -> None:
    structure, config = STRUCTURES["unstructured"], CompressionConfig(sparsity=0.7)
    zeros = structure.zeros(config, SHAPES, ())
    assert zeros == allocate("erk", SHAPES, 0.7)
    assert structure.sparsity(config, SHAPES) == 0.7
    worth = torch.rand(SHAPES[0], generator=torch.Generator().manual_seed(0))
    assert torch.equal(structure.mask(worth, zeros[0]), top_k_mask(worth, zeros[0]))


# 2:4

PAIRS = CompressionConfig(sparsity=0.5, structure="2:4", prune_start=0.0, prune_end=0.5, prune_iterations=10)


def most_live(mask: torch.Tensor) -> int:
    """Of four neighbouring inputs anywhere."""
    return max(int(part.sum(1).max()) for part in mask.split(4, dim=1))


@pytest.mark.parametrize(
    ("shape", "zeros"), [((5, 8), 20), ((5, 6), 10), ((5, 7), 15), ((5, 2), 0), ((1, 3), 1), ((2, 5, 3, 3), 36)]
)
def test_two_of_four_neighbouring_inputs_live(shape: tuple[int, ...], zeros: int) -> None:
    structure = STRUCTURES["2:4"]
    worth = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert structure.zeros(PAIRS, [shape], ()) == [zeros]
    mask = structure.mask(worth, zeros)
    assert int((~mask).sum()) == zeros
    assert most_live(mask) <= 2
    for part, live in zip(worth.split(4, dim=1), mask.split(4, dim=1), strict=True):
        kept = part.sort(dim=1, descending=True).values[:, :2]
        assert torch.equal((part * live).sum(1), kept.sum(1))
    for less in range(zeros):
        early = structure.mask(worth, less)
        assert int((~early).sum()) == less
        assert bool((early | ~mask).all())


def test_of_equals_the_earlier_go() -> None:
    assert STRUCTURES["2:4"].mask(torch.ones(1, 6), 2).tolist() == [[False, False, True, True, True, True]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))


def trained(config: CompressionConfig) -> Any:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    compressor = Compressor(module, optimizer, config, 100)
    counts = []
    for step in range(60):
        compressor.step(step)
        zeros = [int((~one.mask).sum()) for one in compressor.pruning.weights]
        due = compressor.pruning.schedule.due(step)
        assert zeros == [round(count * due) for count in compressor.target_zeros]
        counts.append(sum(zeros))
        optimizer.zero_grad()
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        (module(x) - 1).square().mean().backward()
        optimizer.step()
    return module, compressor, counts


@pytest.mark.parametrize("criterion", ["magnitude", "flow", "random"])
def test_gradual_pruning_ends_in_the_pattern(criterion: Any) -> None:
    config = CompressionConfig(
        sparsity=0.5, structure="2:4", criterion=criterion, prune_start=0.0, prune_end=0.5, prune_iterations=10
    )
    module, compressor, counts = trained(config)
    assert counts == sorted(counts)
    assert compressor.target_zeros == [20 * 2, 16 * 10, 3 * 8]
    assert compressor.sparsity == counts[-1] / sum(one.weight.numel() for one in compressor.pruning.weights)
    for one in compressor.pruning.weights:
        assert most_live(one.mask) <= 2
        assert bool((one.weight[~one.mask] == 0).all())
    again, _, _ = trained(config)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_masks_of_the_pattern_are_saved_as_masks() -> None:
    module, compressor, _ = trained(PAIRS)
    live = compressor.pruning.weights[1]
    with torch.no_grad():
        live.weight[live.mask] = 0.0
    restored = Compressor(module, torch.optim.Adam(module.parameters()), PAIRS, 100)
    restored.load_state_dict(compressor.state_dict())
    for one, was in zip(restored.pruning.weights, compressor.pruning.weights, strict=True):
        assert torch.equal(one.mask, was.mask)
    assert restored.sparsity == compressor.sparsity


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sparsity": 0.0}, r"sparsity=0\.0 with structure=2:4, which leaves two of four: give sparsity=0\.5\."),
        ({"sparsity": 0.9}, r"sparsity=0\.9 with structure=2:4"),
        (
            {"sparsity": 0.5, "allocation": "global"},
            "allocation=global would break structure=2:4, .* at erk",
        ),
        ({"sparsity": 0.5, "pruning": "set"}, "pruning=set would break structure=2:4"),
        ({"sparsity": 0.5, "structure": "1:3"}, "structure='1:3' is not one of unstructured, 2:4"),
    ],
)
def test_what_does_not_fit_the_pattern(given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        CompressionConfig(**{"structure": "2:4", **given})
