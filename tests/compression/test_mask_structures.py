"""Structures of masks: which weights of a layer may be zero together."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policypress.compression import Compressor
from policypress.compression.allocation import allocate
from policypress.compression.freeze import freeze_graph
from policypress.compression.mask_structures import STRUCTURES
from policypress.compression.masks import top_k_mask
from policypress.compression.recurrent import Recurrent
from policypress.config import PATTERNS, CompressionConfig, Structure
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform

SHAPES = [(20, 6), (3, 20), (8, 3, 3, 3)]


def test_every_name_has_a_structure() -> None:
    assert set(STRUCTURES) == set(get_args(Structure))


def test_without_structure_the_least_worthy_go() -> None:
    structure, config = STRUCTURES["unstructured"], CompressionConfig(sparsity=0.7)
    zeros = structure.zeros(config, SHAPES, ())
    assert zeros == allocate("erk", SHAPES, 0.7)
    worth = torch.rand(SHAPES[0], generator=torch.Generator().manual_seed(0))
    assert torch.equal(structure.mask(worth, zeros[0]), top_k_mask(worth, zeros[0]))


# N:M

PAIRS = CompressionConfig(sparsity=0.5, structure="2:4", prune_start=0.0, prune_end=0.5, prune_iterations=10)


def of(structure: Any, **given: Any) -> CompressionConfig:
    live, group = PATTERNS.get(structure, (1, 2))
    return CompressionConfig(**{"sparsity": 1 - live / group, "structure": structure, **given})


def most_live(mask: torch.Tensor, group: int = 4) -> int:
    """Of so many neighbouring inputs anywhere."""
    return max(int(part.sum(1).max()) for part in mask.split(group, dim=1))


@pytest.mark.parametrize(("shape", "zeros"), [((5, 8), 20), ((5, 6), 10), ((5, 7), 15), ((2, 5, 3, 3), 36)])
def test_two_of_four_neighbouring_inputs_live(shape: tuple[int, ...], zeros: int) -> None:
    assert STRUCTURES["2:4"].zeros(PAIRS, [shape], ()) == [zeros]


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(8, 21))
    | st.tuples(st.just(2), st.integers(8, 13), *[st.just(2)] * 2),
    seed=st.integers(0, 1000),
    part=st.floats(0, 1),
)
def test_the_most_worthy_of_neighbouring_inputs_live(name: Any, shape: tuple[int, ...], seed: int, part: float) -> None:
    structure, (live, group) = STRUCTURES[name], PATTERNS[name]
    worth = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    (zeros,) = structure.zeros(of(name), [shape], ())
    rest = shape[1] % group
    assert zeros == worth.numel() // shape[1] * (shape[1] // group * (group - live) + max(0, rest - live))
    mask = structure.mask(worth, zeros)
    assert int((~mask).sum()) == zeros
    assert most_live(mask, group) <= live
    for values, kept in zip(worth.split(group, dim=1), mask.split(group, dim=1), strict=True):
        best = values.sort(dim=1, descending=True).values[:, :live]
        torch.testing.assert_close((values * kept).sum(1), best.sum(1))
    early = structure.mask(worth, less := round(part * zeros))
    assert int((~early).sum()) == less
    assert bool((early | ~mask).all())
    later = structure.mask(worth.flip(0).masked_fill(~early, -torch.inf), zeros)
    assert int((~later).sum()) == zeros
    assert bool((early | ~later).all())  # nothing comes back, whatever the worth is by then


@pytest.mark.parametrize(("name", "least"), [("2:4", 4), ("1:4", 4), ("1:8", 8), ("1:2", 2), ("block4", 4)])
def test_a_layer_that_is_too_narrow_is_named(name: Any, least: int) -> None:
    module = nn.Sequential(nn.Linear(8, least - 1), nn.ReLU(), nn.Linear(least - 1, 3))
    sentence = (
        rf"structure={name} needs layers of at least {least} inputs, and layer output \(2\) has {least - 1}: take"
    )
    with pytest.raises(ConfigError, match=sentence):
        Compressor(module, torch.optim.Adam(module.parameters()), of(name), 100)


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


@pytest.mark.parametrize("criterion", ["magnitude", "flow", "random", "movement"])
def test_gradual_pruning_ends_in_the_pattern(criterion: Any) -> None:
    config = CompressionConfig(
        sparsity=0.5, structure="2:4", criterion=criterion, prune_start=0.1, prune_end=0.5, prune_iterations=10
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


@pytest.mark.parametrize("method", ["one-shot", "static", "rewind"])
@pytest.mark.parametrize("name", ["1:2", "1:4", "block4", "units"])
def test_other_methods_keep_to_the_structure(name: Any, method: Any) -> None:
    config = of(name, pruning=method, prune_start=0.0, prune_end=0.5, prune_iterations=10)
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    compressor = Compressor(module, optimizer, config, 20)
    for step in range(21):
        compressor.step(step)
        (module(torch.ones(1, 6)) - 1).square().sum().backward()
        optimizer.step()
    masks = [one.mask for one in compressor.pruning.weights]
    assert [int((~mask).sum()) for mask in masks] == compressor.target_zeros
    assert sum(compressor.target_zeros) > 100
    if name in PATTERNS:
        live, group = PATTERNS[name]
        assert all(most_live(mask, group) <= live for mask in masks)
    if name == "units":
        assert all(bool((mask.all(1) | ~mask.any(1)).all()) for mask in masks)


# Groups


@pytest.mark.parametrize("name", ["block4", "units"])
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(4, 11))
    | st.tuples(st.just(3), st.integers(4, 9), *[st.just(2)] * 2),
    seed=st.integers(0, 1000),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_groups_go_as_a_whole_and_exactly(name: Any, shape: tuple[int, ...], seed: int, parts: list[float]) -> None:
    structure, generator = STRUCTURES[name], torch.Generator().manual_seed(seed)
    size = 4 if name == "block4" else math.prod(shape[1:])
    before = torch.ones(shape, dtype=torch.bool)
    for part in sorted(parts):
        worth = torch.randn(shape, generator=generator).masked_fill(~before, -torch.inf)  # another one every time
        zeros = round(part * worth.numel())
        mask = structure.mask(worth, zeros)
        assert int((~mask).sum()) == zeros
        assert bool((before | ~mask).all()), "something came back"
        groups = list(mask.split(4, dim=1) if name == "block4" else mask.split(1))
        flat = [group.movedim(1, -1).flatten(0, -2) if name == "block4" else group.flatten(1) for group in groups]
        partly = [bool(one.any() and not one.all()) for many in flat for one in many]
        assert sum(partly) <= 1
        if zeros % size == 0 and shape[1] % 4 == 0:
            assert not any(partly)
        before = mask


def test_the_least_worthy_groups_go_first() -> None:
    worth = torch.tensor([[3.0, 3, 3, 3, 0, 0, 0, 7], [1, 1, 1, 2, 9, 9, 9, 9], [2, 2, 2, 2, 0, 0, 0, 0]])
    assert STRUCTURES["block4"].mask(worth, 8).tolist() == [
        [True] * 8, [False] * 4 + [True] * 4, [True] * 4 + [False] * 4
    ]  # fmt: skip
    assert STRUCTURES["block4"].mask(worth, 6).tolist()[1] == [False, False, True, True, True, True, True, True]
    assert STRUCTURES["units"].mask(worth, 8).any(1).tolist() == [True, True, False]
    assert STRUCTURES["units"].mask(worth, 16).any(1).tolist() == [False, True, False]


def test_blocks_round_to_whole_ones_and_leave_no_layer_empty() -> None:
    assert STRUCTURES["block4"].zeros(of("block4", allocation="uniform"), [(5, 8), (3, 4)], ()) == [20, 8]
    sparse = of("block4", allocation="uniform", sparsity=0.85)
    assert STRUCTURES["block4"].zeros(sparse, [(5, 8), (1, 4)], ()) == [32, 0]


def test_units_leave_the_outputs_whole() -> None:
    shapes, config = [(16, 6), (8, 16), (3, 8)], of("units", allocation="uniform")
    zeros = STRUCTURES["units"].zeros(config, shapes, (), [False, False, True])
    assert zeros == [9 * 6, 4 * 16, 0]  # 124 of 248, of 224 that may go
    assert sum(zeros) == pytest.approx(124, abs=11)


@pytest.mark.parametrize(
    ("sparsity", "sentence"),
    [
        (0.95, r"sparsity=0\.95 with structure=units would leave no unit in the hidden layers: lower the sparsity or"),
        (0.858, r"sparsity=0\.858 with structure=units would leave no unit in layer hidden 2 \(2\) \(8x16\): lower"),
    ],
)
def test_units_that_would_be_none(sparsity: float, sentence: str) -> None:
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    config = of("units", sparsity=sparsity, allocation="uniform")
    with pytest.raises(ConfigError, match=sentence):
        Compressor(module, torch.optim.Adam(module.parameters()), config, 100)


@pytest.mark.parametrize("name", ["units", "block4"])
def test_less_than_one_group_is_an_error(name: Any) -> None:
    module = network()
    sentence = rf"sparsity=0\.001 with structure={name} is less than one of them in every layer: raise the sparsity"
    with pytest.raises(ConfigError, match=sentence):
        Compressor(module, torch.optim.Adam(module.parameters()), of(name, sparsity=0.001), 100)


def test_recurrent_cells_have_no_units() -> None:
    module = nn.Sequential(*Recurrent.of(nn.GRU(3, 8)), nn.Linear(8, 1))
    with pytest.raises(UnsupportedError, match="structure=units knows no units of recurrent cells: take another"):
        Compressor(module, torch.optim.Adam(module.parameters()), of("units"), 100)


@pytest.mark.parametrize("name", ["units", "block4"])
def test_frozen_units_that_were_pruned_are_gone(name: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    config = of(name, prune_start=0.0, prune_end=0.5, prune_iterations=7, weight_bits=8, quantize_start=0.6)
    compressor = Compressor(module, optimizer, config, 40)
    for step in range(41):
        compressor.step(step)
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
    one = np.full(3, 9.0, np.float32)
    transforms = ObservationTransform((6,), "float32"), ActionTransform("box", (3,), low=-one, high=one)
    policy = canonical(freeze_graph(compressor.graph, *transforms))
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(99))
    np.testing.assert_array_equal(policy.outputs(x.numpy()), module.eval()(x).detach().numpy())
    if name == "units":
        live = [int(one.mask.any(1).sum()) for one in compressor.pruning.weights]
        assert live[0] < 16
        assert live[1] < 12
        assert [len(layer.weight) for layer in policy.layers] <= live
        assert policy.layers[1].weight.shape[1] == len(policy.layers[0].weight)


# What does not fit


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
        ({"sparsity": 0.0}, r"structure=2:4 prunes nothing at sparsity=0\.0: give sparsity=0\.5\."),
        ({"structure": "units"}, r"structure=units prunes nothing at sparsity=0\.0: give sparsity=0\.5\."),
        (
            {"sparsity": 0.5, "structure": "1:8"},
            r"sparsity=0\.5 with structure=1:8, which leaves 1 of 8: give sparsity=0\.875\.",
        ),
        (
            {"sparsity": 0.5, "critic_sparsity": 0.9},
            r"critic_sparsity=0\.9 with structure=2:4, which leaves 2 of 4: give",
        ),
        (
            {"sparsity": 0.5, "pruning": "rigl", "structure": "units"},
            "pruning=rigl moves .* would break structure=units",
        ),
        ({"sparsity": 0.5, "allocation": "global", "structure": "block4"}, "allocation=global would break structure="),
        ({"sparsity": 0.9}, r"sparsity=0\.9 with structure=2:4, which leaves 2 of 4: give sparsity=0\.5\."),
        (
            {"sparsity": 0.5, "allocation": "global"},
            "allocation=global would break structure=2:4, .* at erk",
        ),
        (
            {"sparsity": 0.5, "pruning": "set"},
            "pruning=set moves single weights and would break structure=2:4: take another",
        ),
        (
            {"sparsity": 0.5, "structure": "1:3"},
            "structure='1:3' is not one of unstructured, 1:2, 2:4, 1:4, 1:8, block4, units",
        ),
    ],
)
def test_what_does_not_fit_the_pattern(given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        CompressionConfig(**{"structure": "2:4", **given})
