"""The ways of pruning: which weights are live after every step, what they start from, and what is remembered."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policypress.compression import Compressor, trace
from policypress.compression.criterion import flow
from policypress.compression.masks import PrunedWeight, top_k_mask
from policypress.compression.pruning import Challenge, NoPruning, Pruning
from policypress.compression.pruning_methods import METHODS, Adaptive, Gradual, Rewinding, RigL, pruning_of
from policypress.compression.saliency import SALIENCIES
from policypress.config import FOUND, CompressionConfig, PruningMethod
from policypress.errors import ConfigError, UnsupportedError
from quick import quick

MOVING = ("set", "rigl")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))


def batch(seed: int) -> torch.Tensor:
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(seed))


def learn(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    LATEST[0] = seed
    optimizer.zero_grad()
    loss_of(module).backward()
    optimizer.step()


LATEST = [0]


def loss_of(module: nn.Module) -> torch.Tensor:
    """On the batch that ``learn`` has taken last."""
    loss: torch.Tensor = (module(batch(LATEST[0])) - 1).square().mean()
    return loss


def compressor_of(module: nn.Sequential, steps: int = 100, seed: int = 0, **given: Any) -> Compressor:
    config = CompressionConfig(**{"sparsity": 0.5, "prune_start": 0.0, "prune_end": 0.5, **given})
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    challenge = Challenge(module, loss_of)
    return Compressor(module, optimizer, config, steps, seed=seed, returns=lambda: 1.0, challenge=challenge)


def zeros_of(pruning: Pruning) -> list[int]:
    return [int((~one.mask).sum()) for one in pruning.weights]


def test_the_table_of_methods_and_the_config_name_the_same() -> None:
    assert tuple(METHODS) == get_args(PruningMethod)
    assert pruning_of(CompressionConfig()) is NoPruning
    assert pruning_of(CompressionConfig(sparsity=0.5)) is Gradual


# What holds for all of them


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8, deadline=None)
@given(
    sparsity=st.floats(0.02, 0.7),
    allocation=st.sampled_from(["erk", "uniform", "global"]),
    criterion=st.sampled_from(["magnitude", "flow", "random", *SALIENCIES]),
    strides=st.integers(1, 12),
    start=st.sampled_from([0.0, 0.2]),
    widths=st.tuples(st.integers(2, 9), st.integers(4, 12)),
)
def test_counts_are_exact_at_every_step(
    method: PruningMethod, sparsity: float, allocation: Any, criterion: Any, strides: int, start: float, widths: Any
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, widths[0]), nn.ReLU(), nn.Linear(widths[0], widths[1]))
    criterion = "magnitude" if method == "static" else criterion
    compressor = compressor_of(
        module, 30, sparsity=sparsity, allocation=allocation, criterion=criterion, prune_iterations=strides,
        prune_start=start, prune_end=0.8, pruning=method,
    )  # fmt: skip
    pruning, total = compressor.pruning, sum(one.weight.numel() for one in compressor.pruning.weights)
    counts = []
    for step in range(31):
        compressor.step(step)
        zeros = zeros_of(pruning)
        if allocation == "global":
            assert sum(zeros) == round(pruning.sparsity * total)
        else:
            share = pruning.sparsity / sparsity
            wanted = [count * share for count in pruning.target_zeros]
            assert all(abs(found - exact) <= 0.5 + 1e-9 for found, exact in zip(zeros, wanted, strict=True))
        assert all(bool((one.weight[~one.mask] == 0).all()) for one in pruning.weights)
        counts.append(sum(zeros))
        learn(module, compressor.optimizer, step)
        assert zeros_of(pruning) == zeros  # a step may move weights, and changes no count
        assert all(bool((one.weight[~one.mask] == 0).all()) for one in pruning.weights)
    assert counts == sorted(counts)
    if method not in FOUND or (method == "adaptive" and strides >= 6):  # asked as often as there are rounds
        assert counts[-1] == round(sparsity * total)
    if method in ("one-shot", "static", *MOVING):
        assert len(set(counts)) <= 2
    if method == "static":
        assert counts[0] == counts[-1]


OPTIMIZERS: dict[str, Any] = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.1),
    "fused": lambda weights: torch.optim.Adam(weights, lr=0.01, fused=True),
    "amsgrad": lambda weights: torch.optim.Adam(weights, lr=0.01, amsgrad=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.01, centered=True, momentum=0.9),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_goes_leaves_no_moments_and_what_comes_starts_without(kind: str, method: PruningMethod) -> None:
    module = network()
    optimizer = OPTIMIZERS[kind](module.parameters())
    config = CompressionConfig(
        sparsity=0.7, pruning=method, prune_start=0.1, prune_end=0.9, prune_iterations=8, weight_bits=32
    )
    compressor = Compressor(
        module, optimizer, config, 20, returns=lambda: 1.0, challenge=Challenge(module, loss_of, clip=1.0)
    )
    weights = compressor.pruning.weights
    before = [one.mask for one in weights]
    came = learning = 0

    def moments(one: PrunedWeight) -> list[torch.Tensor]:
        return [one.weight, *(x for x in optimizer.state.get(one.weight, {}).values() if x is not None and x.dim())]

    def check(*_: Any) -> None:  # after the masks of this step, before it is taken
        nonlocal before, came, learning
        for one, was in zip(weights, before, strict=True):
            new = one.mask & ~was
            came += int(new.sum())
            assert all(bool((values[new | ~one.mask] == 0).all()) for values in moments(one))
            assert one.weight.grad is not None
            assert bool((one.weight.grad[~one.mask] == 0).all())
            learning += int(one.weight.grad[new].count_nonzero())
        before = [one.mask for one in weights]

    optimizer.register_step_pre_hook(check)
    for step in range(21):
        compressor.step(step)
        learn(module, optimizer, step)
        for one in weights:
            assert all(bool((values[~one.mask] == 0).all()) for values in moments(one))
    assert (came > 0) == (learning > 0) == (method in MOVING)


CHOICES = [(method, "magnitude") for method in METHODS if method != "competing"] + [
    ("gradual", "random"), ("set", "random"), ("gradual", "movement"), ("gradual", "snip"), ("one-shot", "grasp"),
    ("one-shot", "flow"), ("rigl", "snip"), ("rewind", "movement"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "criterion"), CHOICES)
@pytest.mark.parametrize("stop", quick([3, 25], [25]))
def test_a_resumed_training_is_the_same_training(method: PruningMethod, criterion: Any, stop: int) -> None:
    def run(module: nn.Sequential, compressor: Compressor, steps: range) -> None:
        for step in steps:
            compressor.step(step)
            learn(module, compressor.optimizer, step)

    settings = {"pruning": method, "criterion": criterion, "prune_iterations": 20}
    module = network()
    whole = compressor_of(module, **settings)
    run(module, whole, range(stop))
    whole.step(stop)  # what a step has begun, the next gradients may have to end
    saved = copy.deepcopy((whole.state_dict(), module.state_dict(), whole.optimizer.state_dict()))
    other = network(9)
    resumed = compressor_of(other, **settings)
    other.load_state_dict(saved[1])
    resumed.optimizer.load_state_dict(saved[2])
    resumed.load_state_dict(json.loads(json.dumps(saved[0])))
    assert resumed.state_dict() == whole.state_dict()
    run(module, whole, range(stop, 80))
    run(other, resumed, range(stop, 80))
    for values, others in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(values, others)
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(method: PruningMethod) -> None:
    def bytes_of(seed: int) -> bytes:
        module = network()
        compressor = compressor_of(module, 20, seed=seed, pruning=method, prune_iterations=8)
        for step in range(21):
            compressor.step(step)
            learn(module, compressor.optimizer, step)
        return b"".join(values.detach().numpy().tobytes() for values in module.parameters())

    assert bytes_of(1) == bytes_of(1)
    assert (bytes_of(1) == bytes_of(2)) == (method not in ("static", "set"))


def test_target_networks_lose_and_gain_what_their_weights_do() -> None:
    module, target = network(1), network(2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    config = CompressionConfig(sparsity=0.5, pruning="rigl", prune_start=0.0, prune_end=1.0, prune_iterations=20)
    compressor = Compressor(module, optimizer, config, 20, targets=[trace(target)])
    grown = 0
    for step in range(20):
        compressor.step(step)
        before = [one.mask for one in compressor.pruning.weights]
        learn(module, optimizer, step)
        for one, was, follower in zip(compressor.pruning.weights, before, trace(target).layers, strict=True):
            new = one.mask & ~was
            grown += int(new.sum())
            assert bool((follower.module.weight[new | ~one.mask] == 0).all())
            with torch.no_grad():
                follower.module.weight.lerp_(one.weight, 0.1)  # as SB3 does after each step
            assert torch.equal(follower.module.weight == 0, ~one.mask)
    assert grown


# Gradients that nobody sees


@pytest.mark.parametrize(
    "given", [{"pruning": "rigl"}, *({"criterion": name} for name, one in SALIENCIES.items() if one.by_gradients)]
)
@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Adam])
def test_a_closure_hides_the_gradients(kind: Any, given: dict[str, Any]) -> None:
    module = network()
    optimizer = kind(module.parameters(), lr=0.01)
    Compressor(module, optimizer, CompressionConfig(sparsity=0.5, **given), 100)
    before = [values.clone() for values in module.parameters()]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = module(batch(0)).square().mean()
        loss.backward()
        return loss

    (name, value), *_ = given.items()
    sentence = f"{name}={value} looks at gradients before an optimizer's step, and this one takes a closure"
    with pytest.raises(UnsupportedError, match=sentence):
        optimizer.step(closure)
    with pytest.raises(UnsupportedError, match=sentence):
        optimizer.step(closure=closure)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_who_looks_at_no_gradient_takes_a_closure() -> None:
    module = network()
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.01)
    compressor = Compressor(module, optimizer, CompressionConfig(sparsity=0.5, pruning="static"), 100)
    compressor.step(0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = module(batch(0)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert all(bool((one.weight[~one.mask] == 0).all()) for one in compressor.pruning.weights)


# At once


def test_one_shot_prunes_all_at_the_start_of_its_window() -> None:
    module = network()
    compressor = compressor_of(module, pruning="one-shot", prune_start=0.2)
    compressor.step(19)
    assert compressor.sparsity == 0.0
    worth = [one.weight.detach().abs() for one in compressor.pruning.weights]
    compressor.step(20)
    assert compressor.sparsity == 0.5
    assert zeros_of(compressor.pruning) == compressor.target_zeros
    masks = [one.mask for one in compressor.pruning.weights]
    for mask, magnitudes in zip(masks, worth, strict=True):
        assert torch.equal(mask, top_k_mask(magnitudes, int((~mask).sum())))
    compressor.step(100)
    assert all(one.mask is mask for one, mask in zip(compressor.pruning.weights, masks, strict=True))


def test_one_shot_by_flow_is_synflow() -> None:
    """As its authors write it down: a hundred rounds, of live shares in a geometric series."""
    module = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    reference = copy.deepcopy(module)
    compressor = compressor_of(module, pruning="one-shot", criterion="flow", allocation="global", sparsity=0.9)
    compressor.step(0)
    layers = [layer for layer in reference if isinstance(layer, nn.Linear)]
    total = sum(layer.weight.numel() for layer in layers)
    for number in range(1, 101):
        found = flow(trace(reference).nodes)
        scores = torch.cat([found[node.name].flatten() for node in trace(reference).layers])
        live = top_k_mask(scores, round((1 - 0.1 ** (number / 100)) * total))
        with torch.no_grad():
            for layer, mask in zip(layers, live.split([layer.weight.numel() for layer in layers]), strict=True):
                layer.weight.mul_(mask.view_as(layer.weight))
    for one, layer in zip(compressor.pruning.weights, layers, strict=True):
        assert torch.equal(one.weight, layer.weight)
    assert 0.899 < 1 - sum(int(layer.weight.count_nonzero()) for layer in layers) / total < 0.901


def test_static_masks_are_drawn_before_training_and_tell_nothing_of_weights() -> None:
    def masks(weights: int, seed: int) -> list[torch.Tensor]:
        compressor = compressor_of(network(weights), seed=seed, pruning="static", prune_start=0.4)
        compressor.step(0)
        found = [one.mask for one in compressor.pruning.weights]
        assert zeros_of(compressor.pruning) == compressor.target_zeros
        for step in range(1, 101):
            compressor.step(step)
        assert all(one.mask is mask for one, mask in zip(compressor.pruning.weights, found, strict=True))
        return found

    def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    assert same(masks(1, 1), masks(2, 1))
    assert not same(masks(1, 1), masks(1, 2))


def test_static_masks_know_no_criterion() -> None:
    with pytest.raises(ConfigError, match="criterion=flow with pruning=static, whose masks are drawn: leave criterion"):
        CompressionConfig(sparsity=0.5, pruning="static", criterion="flow")


# RigL


def test_rigl_grows_where_the_gradients_of_a_dense_twin_are_largest() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    config = CompressionConfig(sparsity=0.6, pruning="rigl", prune_start=0.0, prune_end=1.0, prune_iterations=20)
    compressor = Compressor(module, optimizer, config, 40)
    seen: list[torch.Tensor] = []
    optimizer._optimizer_step_pre_hooks.clear()
    optimizer.register_step_pre_hook(
        lambda *_: seen.extend(one.weight.grad.clone() for one in weights)  # type: ignore[union-attr]
    )
    weights = compressor.pruning.weights
    compressor.pruning._enforcement.watch()
    moves = []
    for step in range(40):
        compressor.step(step)
        twin = copy.deepcopy(module)  # the same weights, and no mask anywhere
        before = [(one.mask, one.weight.detach().clone()) for one in weights]
        seen.clear()
        learn(module, optimizer, step)
        (twin(batch(step)) - 1).square().mean().backward()
        iteration = compressor.pruning.iteration
        share = 0.15 * (1 + math.cos(math.pi * iteration / 20))
        for one, (was, values), whole, node in zip(weights, before, seen, trace(twin).layers, strict=True):
            dense = node.module.weight.grad
            assert dense is not None
            torch.testing.assert_close(whole, dense, rtol=1e-6, atol=1e-9)
            if torch.equal(one.mask, was):
                continue
            live = int(was.sum())
            count = min(int(share * live), was.numel() - live)
            kept = was & top_k_mask(values.abs().masked_fill(~was, -1.0), was.numel() - live + count)
            grown = top_k_mask(dense.abs().masked_fill(kept, -1.0), was.numel() - count)
            assert torch.equal(one.mask, kept | grown)
            moves.append(iteration)
    assert set(moves) >= set(range(2, 12))
    assert 20 not in moves  # nothing moves any more at the end


def test_rigl_waits_for_the_optimizer_of_each_weight() -> None:
    first, second = network(1), network(2)
    optimizers = [torch.optim.Adam(one.parameters(), lr=0.01) for one in (first, second)]
    weights = [
        PrunedWeight(f"{place}.{node.name}", node.module.weight, optimizer)  # type: ignore[arg-type]
        for place, (module, optimizer) in enumerate(zip((first, second), optimizers, strict=True))
        for node in trace(module).layers
    ]
    pruning = RigL(weights, CompressionConfig(sparsity=0.5, pruning="rigl", prune_start=0.0), 100)
    for step in (1, 2):
        pruning.step(step)
    before = [one.mask for one in weights]
    learn(first, optimizers[0])
    assert pruning.notes() == {"due": [2, 3]}
    assert [one.mask is was for one, was in zip(weights, before, strict=True)] == [False, False, True, True]
    learn(second, optimizers[1])
    assert pruning.notes() == {"due": []}
    assert not any(torch.equal(one.mask, was) for one, was in zip(weights, before, strict=True))


# Lottery tickets


def test_what_is_left_goes_back_to_where_it_was() -> None:
    module = network()
    compressor = compressor_of(
        module, pruning="rewind", sparsity=0.7, prune_start=0.1, prune_end=0.7, prune_iterations=60
    )
    pruning = compressor.pruning
    assert isinstance(pruning, Rewinding)
    assert pruning.rounds == 6  # the least with 0.8 ** rounds <= 0.3
    counts, early, rounds = [0], {}, []
    for step in range(100):
        compressor.step(step)
        if step == 10:
            early = {name: values.detach().clone() for name, values in module.named_parameters()}
        zeros = zeros_of(pruning)
        if sum(zeros) != counts[-1]:
            rounds.append(step)
            for name, values in module.named_parameters():
                mask = next((one.mask for one in pruning.weights if one.weight is values), torch.tensor(True))
                assert torch.equal(values, early[name] * mask)
                assert values not in compressor.optimizer.state
        counts.append(sum(zeros))
        learn(module, compressor.optimizer, step)
        assert all(not torch.equal(values, early[name]) for name, values in module.named_parameters() if early)
    assert rounds == [20, 30, 40, 50, 60, 70]
    assert zeros_of(pruning) == pruning.target_zeros
    live = [1 - count / 180 for count in sorted(set(counts))]
    assert live == pytest.approx([0.3 ** (number / 6) for number in range(7)], abs=0.01)


# As the return bears


def adaptive(returns: Callable[[Adaptive], float], **given: Any) -> tuple[Adaptive, list[int]]:
    """Of a training of 100 steps that prunes in 40 rounds up to step 80: how many weights are pruned in each step."""
    module = network()
    compressor = compressor_of(module, **{"pruning": "adaptive", "sparsity": 0.9, "prune_end": 0.8, **given})
    pruning, counts = compressor.pruning, []
    assert isinstance(pruning, Adaptive)
    pruning.returns = lambda: returns(pruning)
    for step in range(101):
        compressor.step(step)
        learn(module, compressor.optimizer, step)
        counts.append(sum(zeros_of(pruning)))
    return pruning, counts


def test_pruning_goes_on_while_the_return_holds_up_to_what_was_asked_for() -> None:
    asked: list[int] = []
    pruning, counts = adaptive(lambda pruning: asked.append(pruning.level) or float(len(asked)))
    assert asked[:12] == list(range(12))
    assert len(asked) == 41
    assert counts == sorted(counts)
    live = [1 - count / 180 for count in sorted(set(counts))]
    assert live == pytest.approx([0.1 ** (number / 11) for number in range(1, 12)], abs=0.01)
    assert pruning.wanted == 0.9


@pytest.mark.parametrize("allocation", ["erk", "global"])
@pytest.mark.parametrize(("holds", "fails"), [(10.0, 9.4), (-10.0, -10.6)])
def test_what_the_return_does_not_bear_comes_back(holds: float, fails: float, allocation: Any) -> None:
    levels: list[int] = []

    def returns(pruning: Adaptive) -> float:
        levels.append(pruning.level)
        return holds if pruning.level <= 4 else fails

    pruning, counts = adaptive(returns, allocation=allocation)
    # Twice one more is tried, for as long as patience lasts, and then no more.
    assert levels == [0, 1, 2, 3, 4, 5, 5, 4, 5, 5] + 31 * [4]
    assert [counts[-1], max(counts)] == pytest.approx([180 * (1 - 0.1 ** (level / 11)) for level in (4, 5)], abs=1)
    assert counts[-1] == sum(pruning.target_zeros) or allocation == "erk"
    assert pruning.wanted == pytest.approx(1 - 0.1 ** (4 / 11))
    assert sum(int(one.weight.count_nonzero()) for one in pruning.weights) > 180 - max(counts)  # what is back, learns


def test_a_better_return_is_another_chance() -> None:
    levels: list[int] = []

    def returns(pruning: Adaptive) -> float:
        levels.append(pruning.level)
        return 20.0 if len(levels) > 20 else 10.0 if pruning.level <= 2 else 9.0

    pruning, _ = adaptive(returns)
    assert levels[:22] == [0, 1, 2, 3, 3, 2, 3, 3] + 13 * [2] + [3]
    assert pruning.level == pruning.held == 11


def test_a_little_less_is_borne_and_what_was_not_seen_to_hold_in_the_end_comes_back() -> None:
    _, counts = adaptive(lambda pruning: 10.0 - 0.4 * (pruning.level > 4), sparsity=0.8)
    assert counts[-1] == 144
    pruning, counts = adaptive(lambda pruning: 10.0 if pruning.round < 40 else 0.0, prune_iterations=7)
    assert pruning.level == pruning.held == 6
    assert counts[-1] < max(counts)


def test_who_asks_for_returns_says_so() -> None:
    compressor = compressor_of(network(), pruning="adaptive")
    compressor.pruning.returns = None
    with pytest.raises(ConfigError, match="pruning=adaptive asks what the network returns: give a function"):
        compressor.step(0)
    with pytest.raises(ConfigError, match=r"keep_return=0.0 must be above 0 and at most 1, for example 0.95\."):
        CompressionConfig(keep_return=0.0)
    with pytest.raises(ConfigError, match="is whole at sparsity"):
        CompressionConfig(sparsity=0.5, pruning="adaptive", structure="2:4")
    with pytest.raises(ConfigError, match="critics are not deployed: leave critic_sparsity at 0"):
        CompressionConfig(sparsity=0.5, pruning="adaptive", critic_sparsity=0.5)


def test_what_is_rewound_is_in_the_state() -> None:
    compressor = compressor_of(network(), pruning="rewind")
    state = compressor.state_dict()
    assert len(state["pruning"]["tensors"]) == 4
    cheap = compressor.state_dict(tensors=False)
    assert "tensors" not in cheap["pruning"]
    other = compressor_of(network(5), pruning="rewind")
    with pytest.raises(UnsupportedError, match=r"open the agent with policypress\.rl\.load"):
        other.load_state_dict(cheap)
    other.load_state_dict(cheap, {name: values.numpy() for name, values in compressor.tensors.items()})
    assert other.state_dict() == state
    module = nn.Sequential(nn.Linear(6, 21), nn.ReLU(), nn.Linear(21, 3))
    with pytest.raises(UnsupportedError, match="what was saved is of another network: load the network that it"):
        compressor_of(module, pruning="rewind").load_state_dict(state)


# Sparse evolution


def live_masks(seed: int, **settings: Any) -> list[list[torch.Tensor]]:
    """The masks behind each of the 20 steps of a training."""
    module = network()
    config = {"sparsity": 0.7, "prune_start": 0.1, "prune_end": 0.9, "prune_iterations": 8, "pruning": "set"}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    compressor = Compressor(module, optimizer, CompressionConfig(**{**config, **settings}), 20, seed=seed)
    found = []
    for step in range(21):
        compressor.step(step)
        masks = [one.mask.clone() for one in compressor.pruning.weights]
        for place, one in enumerate(compressor.pruning.weights):
            back = one.mask & ~found[-1][place] if found else ~one.mask
            moments = [values[back] for values in optimizer.state.get(one.weight, {}).values() if values.dim()]
            assert all(bool((values == 0).all()) for values in (one.weight[back], *moments))
        found.append(masks)
        learn(module, optimizer, step)
        for one in compressor.pruning.weights:
            assert bool((one.weight[~one.mask] == 0).all())
            for values in optimizer.state[one.weight].values():
                if isinstance(values, torch.Tensor) and values.shape == one.weight.shape:
                    assert bool((values[~one.mask] == 0).all())
    return found


@pytest.mark.parametrize("criterion", ["magnitude", "flow", "random"])
@pytest.mark.parametrize("allocation", ["erk", "uniform", "global"])
def test_sparse_evolution_keeps_its_counts_while_weights_move(allocation: Any, criterion: Any) -> None:
    found = live_masks(1, allocation=allocation, criterion=criterion)
    total = sum(mask.numel() for mask in found[0])
    counts = [[int((~mask).sum()) for mask in masks] for masks in found]
    assert [sum(zeros) for zeros in counts] == [0] * 4 + [round(0.7 * total)] * 17
    assert all(zeros == counts[-1] for zeros in counts[4:])
    moves = 0
    for before, after in pairwise(found[4:]):
        for was, mask in zip(before, after, strict=True):
            gone, grown = int((was & ~mask).sum()), int((mask & ~was).sum())
            assert gone == grown
            assert grown in (0, min(int(0.3 * int(was.sum())), int((~was).sum())))
            moves += grown > 0
    assert moves >= 7  # the first of 8 iterations drops only; a layer that is dense cannot move


def test_sparse_evolution_is_decided_by_its_seed() -> None:
    first, again, other = live_masks(1), live_masks(1), live_masks(2)
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first[-1], other[-1], strict=True))


def test_the_least_worthy_weights_move() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    compressor = Compressor(module, optimizer, CompressionConfig(sparsity=0.5, pruning="set", prune_end=0.5), 100)
    compressor.step(25)
    before = [(one.mask.clone(), one.weight.detach().abs()) for one in compressor.pruning.weights]
    compressor.step(30)
    for one, (was, worth) in zip(compressor.pruning.weights, before, strict=True):
        gone, stayed = worth[was & ~one.mask], worth[was & one.mask]
        assert len(gone)
        assert gone.max() <= stayed.min()
