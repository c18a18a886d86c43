"""The object a training loop drives: where it ends, what it leaves alone, and that it survives save, load and copy."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policypress.compression import Compressor, Graph, Phase, Residual, trace
from policypress.compression.activations import FakeQuantActivation
from policypress.compression.fake_quant import FakeQuantAdd, FakeQuantConv2d, FakeQuantLinear
from policypress.compression.graph import ActivationNode, Add, walk
from policypress.config import Allocation, CompressionConfig, Criterion, Schedule, WeightRange
from policypress.errors import ConfigError, UnsupportedError
from quick import quick

ALLOCATIONS: tuple[Allocation, ...] = ("erk", "uniform", "ivanov2025", "global")
SCHEDULES: tuple[Schedule, ...] = ("cubic", "linear", "one-shot", "constant")
CRITERIA: tuple[Criterion, ...] = ("magnitude", "random")

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def tanh_mlp() -> nn.Sequential:
    """One Tanh in two places, and one at the end of a residual block."""
    torch.manual_seed(0)
    tanh = nn.Tanh()
    block = Residual(nn.Sequential(nn.Linear(16, 16), nn.Tanh()))
    return nn.Sequential(nn.Linear(5, 16), tanh, nn.Linear(16, 16), tanh, block, nn.Linear(16, 3))


def resnet() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Residual(body), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3))


class Training:
    """A network, its optimizer and a training loop with data that depend on the step alone."""

    def __init__(self, optimizer: str = "adam", network: nn.Sequential | None = None, **settings: Any) -> None:
        self.network = network or mlp()
        self.image = isinstance(self.network[0], nn.Conv2d)
        self.optimizer = OPTIMIZERS[optimizer](self.network.parameters())
        self.config = CompressionConfig(**{"sparsity": 0.8, "prune_iterations": 10, **settings})
        self.compressor = Compressor(self.network, self.optimizer, self.config, 100, image=self.image)

    def batch(self, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        shape = (16, 2, 5, 5) if self.image else (16, 5)
        return torch.rand(shape, generator=generator) - (0.0 if self.image else 0.5)

    def run(self, start: int, end: int, stride: int = 1) -> None:
        """Steps ``start`` to ``end`` with gradient steps in between."""
        self.network.train()
        for step in range(start, end + 1, stride):
            self.compressor.step(step)
            self.optimizer.zero_grad()
            (self.network(self.batch(step)) - 1).square().mean().backward()
            self.optimizer.step()

    @property
    def weights(self) -> list[torch.Tensor]:
        return [node.module.weight.detach() for node in self.compressor.graph.layers]

    def zeros(self) -> list[int]:
        return [weight.numel() - int(torch.count_nonzero(weight)) for weight in self.weights]

    @property
    def size(self) -> int:
        return sum(weight.numel() for weight in self.weights)

    def evaluate(self) -> torch.Tensor:
        self.network.eval()
        with torch.no_grad():
            return self.network(self.batch(10_000)).clone()  # type: ignore[no-any-return]


# Pruning


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_layer_ends_at_its_target_exactly(
    schedule: Schedule, allocation: Allocation, criterion: Criterion
) -> None:
    training = Training(schedule=schedule, allocation=allocation, criterion=criterion)
    training.run(0, 90)
    zeros = training.zeros()
    assert sum(zeros) == round(0.8 * training.size)
    assert zeros == training.compressor.target_zeros
    assert all(zero < weight.numel() for zero, weight in zip(zeros, training.weights, strict=True))
    for status, zero, weight in zip(training.compressor.layer_status(), zeros, training.weights, strict=True):
        assert status.sparsity == pytest.approx(zero / weight.numel())
        assert status.target_sparsity == zero / weight.numel()
    assert [status.name for status in training.compressor.layer_status()] == ["0", "2", "4"]
    assert training.compressor.sparsity == pytest.approx(0.8)
    assert training.compressor.iteration == 10


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_is_pruned_never_comes_back(optimizer: str, criterion: Criterion) -> None:
    training = Training(optimizer, criterion=criterion)
    dead = [torch.zeros_like(weight, dtype=torch.bool) for weight in training.weights]
    counts = []
    for step in range(100):
        training.run(step, step)
        for before, weight in zip(dead, training.weights, strict=True):
            assert bool((weight[before] == 0).all())
        dead = [weight == 0 for weight in training.weights]
        counts.append(sum(training.zeros()))
        for weight, mask in zip(training.weights, dead, strict=True):
            parameter = next(p for p in training.network.parameters() if p.data_ptr() == weight.data_ptr())
            for moment in training.optimizer.state[parameter].values():
                if isinstance(moment, torch.Tensor) and moment.shape == weight.shape:
                    assert bool((moment[mask] == 0).all())
    assert counts[:20] == [0] * 20  # nothing before prune_start
    assert counts == sorted(counts)
    assert len(set(counts)) >= 10  # ten iterations, of which the last may be too small to show
    assert counts[80:] == [round(0.8 * training.size)] * 20


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_a_count_of_steps_that_starts_again_brings_nothing_back(allocation: Allocation) -> None:
    """As Stable-Baselines3's second ``learn`` does, unless told reset_num_timesteps=False."""
    training = Training(allocation=allocation, weight_bits=8, quantize_start=0.8)
    training.run(0, 90, stride=3)
    masks = [weight != 0 for weight in training.weights]
    training.run(0, 90, stride=3)
    for weight, mask in zip(training.weights, masks, strict=True):
        assert bool((weight[~mask] == 0).all())
    assert training.compressor.phase is Phase.QUANTIZE
    assert training.compressor.sparsity == pytest.approx(0.8)
    assert training.compressor.iteration == 10


def test_each_iteration_prunes_what_the_formula_says() -> None:
    training = Training(schedule="cubic", allocation="erk")
    targets = list(training.compressor.target_zeros)
    for i in range(11):
        training.run(20 + 6 * i, 20 + 6 * i)
        assert training.zeros() == [round(count * (1 - (1 - i / 10) ** 3)) for count in targets]


def test_the_smallest_weights_go_first() -> None:
    training = Training(schedule="one-shot", allocation="uniform")
    before = [weight.clone() for weight in training.weights]
    training.compressor.step(80)
    for old, new in zip(before, training.weights, strict=True):
        pruned = new == 0
        assert old[pruned].abs().max() < old[~pruned].abs().min()
        assert torch.equal(old[~pruned], new[~pruned])


def test_the_smallest_weights_of_all_layers_go_first_with_global_allocation() -> None:
    training = Training(schedule="one-shot", allocation="global", sparsity=0.5)
    before = torch.cat([weight.flatten().clone() for weight in training.weights])
    training.compressor.step(80)
    after = torch.cat([weight.flatten() for weight in training.weights])
    assert before[after == 0].abs().max() < before[after != 0].abs().min()
    assert len({round(status.sparsity, 2) for status in training.compressor.layer_status()}) == 3


def test_global_allocation_never_empties_a_layer() -> None:
    """Even one whose weights are all far smaller than those of the others keeps its best weight."""
    network = mlp()
    with torch.no_grad():
        network[2].weight.mul_(1e-6)
    best = int(network[2].weight.abs().argmax())
    training = Training(network=network, schedule="one-shot", allocation="global", sparsity=0.9)
    training.compressor.step(80)
    assert sum(training.zeros()) == round(0.9 * training.size)
    assert training.zeros()[1] == 16 * 16 - 1
    assert int(network[2].weight.abs().argmax()) == best


@pytest.mark.parametrize("steps", [[80], [5, 80], [79, 1000], [20, 21, 500], [0, 100]])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_step_may_be_called_rarely(steps: list[int], allocation: Allocation) -> None:
    training = Training(allocation=allocation, weight_bits=8, quantize_start=0.8)
    for step in steps:
        training.run(step, step)
    assert sum(training.zeros()) == round(0.8 * training.size)
    assert training.compressor.phase is Phase.QUANTIZE


@settings(max_examples=25)
@given(
    st.sampled_from(ALLOCATIONS),
    st.sampled_from(SCHEDULES),
    st.floats(0.01, 0.9),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
    st.integers(1, 600),
    st.sets(st.integers(0, 999), max_size=12).map(sorted),
)
def test_any_window_lands_exactly(
    allocation: Allocation,
    schedule: Schedule,
    sparsity: float,
    window: list[float],
    iterations: int,
    steps: list[int],
) -> None:
    network = mlp()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    config = CompressionConfig(
        sparsity=sparsity,
        allocation=allocation,
        schedule=schedule,
        prune_start=window[0],
        prune_end=window[1],
        prune_iterations=iterations,
    )
    compressor = Compressor(network, optimizer, config, 1000)
    weights = [node.module.weight for node in compressor.graph.layers]
    size = sum(weight.numel() for weight in weights)

    def zeros() -> int:
        return sum(weight.numel() - int(torch.count_nonzero(weight)) for weight in weights)

    counts = [0]
    for step in steps:
        compressor.step(step)
        counts.append(zeros())
        if step < round(window[0] * 1000):
            assert counts[-1] == 0
    assert counts == sorted(counts)
    compressor.step(1000)
    assert zeros() == round(sparsity * size)


def test_random_pruning_is_decided_by_its_seed() -> None:
    def mask(seed: int) -> torch.Tensor:
        network = mlp()
        optimizer = torch.optim.Adam(network.parameters())
        config = CompressionConfig(sparsity=0.5, criterion="random")
        torch.manual_seed(seed + 17)  # the global generator has no say
        Compressor(network, optimizer, config, 10, seed=seed).step(10)
        return network[2].weight != 0  # type: ignore[return-value]

    assert torch.equal(mask(3), mask(3))
    assert not torch.equal(mask(3), mask(4))


def test_pruning_does_not_touch_the_global_random_state() -> None:
    training = Training(criterion="random")
    torch.manual_seed(5)
    training.compressor.step(100)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())


def test_biases_are_never_pruned() -> None:
    training = Training(sparsity=0.9, allocation="uniform", prune_start=0.0, prune_end=0.0)
    training.compressor.step(0)
    for name, parameter in training.network.named_parameters():
        if name.endswith("bias"):
            assert int(torch.count_nonzero(parameter)) == parameter.numel()


def test_auxiliary_weights_are_pruned_only_on_request() -> None:
    """SAC's log_std: trained beside the deployed path, counted and pruned with it as the paper does."""
    for prune_auxiliary in (True, False):
        network, log_std = mlp(), nn.Linear(16, 3)
        optimizer = torch.optim.Adam([*network.parameters(), *log_std.parameters()])
        config = CompressionConfig(sparsity=0.5, allocation="uniform", prune_auxiliary=prune_auxiliary)
        compressor = Compressor(network, optimizer, config, 10, auxiliary=[("log_std", log_std.weight)])
        compressor.step(10)
        assert int((log_std.weight == 0).sum()) == (24 if prune_auxiliary else 0)
        names = [status.name for status in compressor.layer_status()]
        assert names == ["0", "2", "4", *(["log_std"] if prune_auxiliary else [])]
        assert sum(compressor.target_zeros) == round(0.5 * (80 + 256 + 48 + 48 * prune_auxiliary))


def test_convolutions_and_residual_blocks_are_pruned_too() -> None:
    training = Training(network=resnet(), sparsity=0.7)
    training.run(0, 90, stride=10)
    assert sum(training.zeros()) == round(0.7 * training.size)
    assert min(training.zeros()[1:]) > 0


def test_without_settings_nothing_changes() -> None:
    training, plain = Training(sparsity=0.0), mlp()
    assert not training.config.prunes
    assert not training.config.quantizes
    training.compressor.step(100)
    assert [type(module) for module in training.network] == [type(module) for module in plain]
    for a, b in zip(training.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [status.sparsity for status in training.compressor.layer_status()] == [0.0] * 3
    assert training.compressor.ranges() == {}


# Phases and the identity of parameters


def test_phases_come_at_their_steps() -> None:
    training = Training(weight_bits=8, quantize_start=0.5, observe=0.1)
    seen = []
    for step in range(0, 60):
        training.compressor.step(step)
        seen.append(training.compressor.phase)
    assert seen == [Phase.FLOAT] * 40 + [Phase.OBSERVE] * 10 + [Phase.QUANTIZE] * 10


def test_a_cold_start_has_no_observing_phase() -> None:
    training = Training(weight_bits=8, quantize_start=0.5, observe=0.0)
    training.compressor.step(49)
    assert training.compressor.phase is Phase.FLOAT
    training.compressor.step(50)
    assert training.compressor.phase is Phase.QUANTIZE


@pytest.mark.parametrize("build", [mlp, tanh_mlp, resnet])
def test_parameters_keep_identity_names_and_order_through_every_phase(build: Callable[[], nn.Sequential]) -> None:
    training = Training(network=build(), weight_bits=8, quantize_start=0.5, observe=0.2)
    before = [(name, id(parameter)) for name, parameter in training.network.named_parameters()]
    modules = list(training.network._modules)
    kinds = []
    for step in (0, 35, 60):
        training.run(step, step)
        assert [(name, id(parameter)) for name, parameter in training.network.named_parameters()] == before
        assert list(training.network._modules) == modules
        assert {id(p) for group in training.optimizer.param_groups for p in group["params"]} == {i for _, i in before}
        kinds.append({type(node.module) for node in training.compressor.graph.layers})
    assert kinds[0] <= {nn.Linear, nn.Conv2d}
    assert kinds[1] == kinds[2]
    assert kinds[1] <= {FakeQuantLinear, FakeQuantConv2d}
    training.compressor.remove()
    assert [(name, id(parameter)) for name, parameter in training.network.named_parameters()] == before
    assert {type(node.module) for node in training.compressor.graph.layers} == kinds[0]


@pytest.mark.parametrize("build", [tanh_mlp, resnet])
def test_observing_changes_no_output(build: Callable[[], nn.Sequential]) -> None:
    training = Training(network=build(), weight_bits=8, quantize_start=1.0, observe=1.0, sparsity=0.0)
    before = training.evaluate()
    training.compressor.step(0)
    assert training.compressor.phase is Phase.OBSERVE
    assert torch.equal(training.evaluate(), before)


@pytest.mark.parametrize(("activation_bits", "kinds"), [(8, {FakeQuantActivation}), (0, {nn.Tanh})])
def test_a_tanh_becomes_a_table_where_activations_are_integers(activation_bits: int, kinds: set[type]) -> None:
    training = Training(network=tanh_mlp(), weight_bits=8, activation_bits=activation_bits, quantize_start=0.5)
    keys = training.network.state_dict().keys()
    training.run(0, 60, stride=5)
    tanhs = [node.module for node in walk(training.compressor.graph.nodes) if isinstance(node, ActivationNode)]
    assert {type(module) for module in tanhs} == kinds
    assert len(trace(training.network).nodes) == len(training.compressor.graph.nodes)  # as freeze does later
    assert all(module.active for module in tanhs if isinstance(module, FakeQuantActivation))
    added = [key for key in training.network.state_dict() if key not in keys]
    assert all("policypress_quantizer" in key or ".add." in key for key in added)  # as policypress.rl.load expects
    training.compressor.remove()
    assert training.network.state_dict().keys() == keys
    assert sum(isinstance(module, nn.Tanh) for module in training.network.modules()) == 2  # one in two places


def test_training_and_evaluation_mode_survive_the_swap() -> None:
    for mode in (True, False):
        training = Training(weight_bits=8, quantize_start=0.0)
        training.network.train(mode)
        training.compressor.step(0)
        assert all(module.training is mode for module in training.network)


@pytest.mark.parametrize("build", [mlp, tanh_mlp, resnet])
def test_remove_gives_the_plain_network_back_and_frees_the_weights(build: Callable[[], nn.Sequential]) -> None:
    training = Training(network=build(), weight_bits=8, quantize_start=0.5, prune_end=0.4)
    training.run(0, 60, stride=5)
    weights = [weight.clone() for weight in training.weights]
    training.compressor.remove()
    assert training.compressor.phase is Phase.FLOAT
    assert training.network.state_dict().keys() == build().state_dict().keys()
    plain = build()
    plain.load_state_dict(training.network.state_dict())
    plain.eval()
    with torch.no_grad():
        assert torch.equal(plain(training.batch(10_000)), training.evaluate())
    assert all(torch.equal(a, b) for a, b in zip(weights, training.weights, strict=True))
    assert not any(isinstance(module, FakeQuantAdd | FakeQuantActivation) for module in training.network.modules())
    training.network.train()
    training.optimizer.zero_grad()
    training.network(training.batch(0)).square().mean().backward()
    training.optimizer.step()
    assert sum(training.zeros()) < sum(int((weight == 0).sum()) for weight in weights)


def test_a_removed_compressor_does_nothing_any_more() -> None:
    training = Training(weight_bits=8, quantize_start=0.5, prune_end=0.4)
    training.run(0, 60, stride=5)
    training.compressor.remove()
    training.compressor.step(61)
    assert {type(node.module) for node in training.compressor.graph.layers} == {nn.Linear}


def test_dense_weights_loaded_after_the_last_mask_are_pruned_again() -> None:
    """As when a script goes back to its best weights, saved before pruning had ended."""
    training = Training(prune_end=0.4)
    dense = copy.deepcopy(training.network.state_dict())
    training.run(0, 60, stride=5)
    training.network.load_state_dict(dense)
    training.run(61, 70)
    assert sum(training.zeros()) == round(0.8 * training.size)


def test_nested_residual_blocks_are_quantized_and_restored() -> None:
    inner = Residual(nn.Sequential(nn.Linear(5, 5)))
    network = nn.Sequential(Residual(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), inner)), nn.Linear(5, 3))
    training = Training(network=network, weight_bits=8, quantize_start=0.5, sparsity=0.0)
    training.run(0, 60, stride=5)
    adds = [module for module in network.modules() if isinstance(module, FakeQuantAdd)]
    assert len(adds) == 2
    assert all(add.active for add in adds)
    training.compressor.remove()
    assert type(inner.add) is Add
    assert not any(isinstance(module, FakeQuantAdd) for module in network.modules())


# Copies, files, resumption


@pytest.mark.parametrize("build", [mlp, tanh_mlp, resnet])
@pytest.mark.parametrize("bits", [32, 8])
def test_copies_and_pickles_compute_the_same(bits: int, build: Callable[[], nn.Sequential]) -> None:
    training = Training(network=build(), weight_bits=bits, quantize_start=0.5, prune_end=0.4)
    training.run(0, 60, stride=3)
    expected = training.evaluate()
    buffer = io.BytesIO()
    torch.save(training.network, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(training.network),
        pickle.loads(pickle.dumps(training.network)),
        torch.load(buffer, weights_only=False),
    ]
    state = {key: value.clone() for key, value in training.network.state_dict().items()}
    for other in copies:
        other.eval()
        with torch.no_grad():
            assert torch.equal(other(training.batch(10_000)), expected)
        assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), state.values(), strict=True))
        assert not {id(p) for p in other.parameters()} & {id(p) for p in training.network.parameters()}
        with torch.no_grad():
            for value in other.state_dict().values():
                value.mul_(2)
        other.train()
        other(training.batch(0))  # ranges of the copy move, not ours
    assert all(torch.equal(value, state[key]) for key, value in training.network.state_dict().items())
    assert torch.equal(training.evaluate(), expected)


def test_a_pruned_network_loads_into_a_plain_one() -> None:
    training = Training()
    training.run(0, 90, stride=3)
    plain = mlp()
    plain.load_state_dict(training.network.state_dict())
    assert sum(int((p == 0).sum()) for p in plain.parameters()) == sum(training.zeros())


def test_a_quantized_network_does_not_load_into_a_plain_one_in_silence() -> None:
    training = Training(weight_bits=8, quantize_start=0.5)
    training.run(0, 60, stride=3)
    with pytest.raises(RuntimeError, match="policypress_quantizer"):
        mlp().load_state_dict(training.network.state_dict())


def resumed(training: Training, **settings: Any) -> Training:
    """What a script does after a crash: build anew, load weights, then phase and masks, then ranges."""
    buffer = io.BytesIO()
    parts = (training.network.state_dict(), training.optimizer.state_dict(), training.compressor.state_dict())
    torch.save(parts, buffer)
    buffer.seek(0)
    network_state, optimizer_state, compressor_state = torch.load(buffer, weights_only=True)
    again = Training(network=resnet() if training.image else mlp(), **settings)
    plain = again.network.state_dict().keys()
    again.network.load_state_dict({key: value for key, value in network_state.items() if key in plain})
    again.optimizer.load_state_dict(optimizer_state)
    again.compressor.load_state_dict(compressor_state)
    again.network.load_state_dict(network_state)
    return again


@pytest.mark.parametrize(
    ("build", "allocation"), [*((mlp, allocation) for allocation in ALLOCATIONS), (resnet, "global")]
)
@pytest.mark.parametrize("weight_range", ["mse", "learned"])
@pytest.mark.parametrize("stop", quick([10, 55, 79], [55]))
def test_a_resumed_training_stands_where_the_first_stood(
    stop: int, weight_range: WeightRange, allocation: Allocation, build: Callable[[], nn.Sequential]
) -> None:
    settings: dict[str, Any] = {
        "weight_range": weight_range,
        "allocation": allocation,
        "weight_bits": 8,
        "quantize_start": 0.7,
        "observe": 0.2,
        "schedule": "linear",
        "prune_iterations": 7,
    }
    first = Training(network=build(), **settings)
    first.run(0, stop, stride=3)
    second = resumed(first, **settings)
    assert second.compressor.phase is first.compressor.phase
    assert second.compressor.state_dict() == first.compressor.state_dict()
    assert second.zeros() == first.zeros()
    assert torch.equal(second.evaluate(), first.evaluate())
    for training in (first, second):
        training.run(stop + 1, 90, stride=2)
    assert sum(second.zeros()) == sum(first.zeros()) == round(0.8 * first.size)
    assert torch.equal(second.evaluate(), first.evaluate())


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resuming_prunes_nothing_anew(schedule: Schedule, criterion: Criterion) -> None:
    """Masks are where weights are zero, whatever the criterion would say now."""
    settings: dict[str, Any] = {"schedule": schedule, "criterion": criterion, "prune_iterations": 13}
    for stop in (30, 52, 90):
        first = Training(**settings)
        first.run(0, stop, stride=2)
        second = resumed(first, **settings)
        assert all(torch.equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))
        masks = [weight != 0 for weight in second.weights]
        second.run(stop + 1, stop + 2)
        for weight, mask in zip(second.weights, masks, strict=True):
            assert bool((weight[~mask] == 0).all())


def test_the_state_is_json() -> None:
    import json

    training = Training(weight_bits=4)
    training.run(0, 90, stride=10)
    assert json.loads(json.dumps(training.compressor.state_dict())) == training.compressor.state_dict()


# Target networks


def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """As Stable-Baselines3 does it: through .data, parameters paired by their order."""
    for target_parameter, parameter in zip(target.parameters(), source.parameters(), strict=True):
        target_parameter.data.mul_(1 - tau)
        torch.add(target_parameter.data, parameter.data, alpha=tau, out=target_parameter.data)


@pytest.mark.parametrize("build", [mlp, resnet])
@pytest.mark.parametrize("bits", [32, 8])
def test_target_networks_are_masked_and_stay_so_under_polyak_updates(
    bits: int, build: Callable[[], nn.Sequential]
) -> None:
    network = build()
    target = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    config = CompressionConfig(sparsity=0.7, weight_bits=bits, quantize_start=0.5, prune_iterations=10)
    image = build is resnet
    compressor = Compressor(network, optimizer, config, 100, targets=[trace(target)], image=image)
    for step in range(100):
        compressor.step(step)
        x = torch.rand(8, *((2, 5, 5) if image else (5,)))
        optimizer.zero_grad()
        network.train()
        network(x).square().mean().backward()
        optimizer.step()
        soft_update(target, network, tau=0.05)
        for online, delayed in zip(compressor.graph.layers, trace(target).layers, strict=True):
            dead = online.module.weight == 0
            assert bool((delayed.module.weight[dead] == 0).all())
    total = sum(node.module.weight.numel() for node in trace(target).layers)
    zeros = sum(int((node.module.weight == 0).sum()) for node in trace(target).layers)
    assert zeros == round(0.7 * total)
    assert [name for name, _ in target.named_parameters()] == [name for name, _ in build().named_parameters()]
    if bits == 8:
        kinds = {type(node.module) for node in trace(target).layers}
        assert kinds <= {FakeQuantLinear, FakeQuantConv2d}


@pytest.mark.parametrize("tau", [1.0, 0.3])
@pytest.mark.parametrize("build", [mlp, tanh_mlp, resnet])
def test_a_quantized_target_network_follows_its_weights(build: Callable[[], nn.Sequential], tau: float) -> None:
    """After a full update the target computes what the online network does; between updates it stays put."""
    network = build()
    target = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    image = build is resnet
    config = CompressionConfig(weight_bits=4, quantize_start=0.1, observe=0.1)
    compressor = Compressor(network, optimizer, config, 100, targets=[trace(target)], image=image)
    target.eval()

    def outputs(of: nn.Module) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return of.eval()(torch.rand(32, *((2, 5, 5) if image else (5,)), generator=generator))  # type: ignore[no-any-return]

    for step in range(60):
        compressor.step(step)
        optimizer.zero_grad()
        network.train()
        (network(torch.rand(8, *((2, 5, 5) if image else (5,)))) - 1).square().mean().backward()
        optimizer.step()
        if step < 20 or step % 5:
            continue
        assert compressor.phase is Phase.QUANTIZE
        before = outputs(target)
        assert not torch.equal(outputs(network), before)
        soft_update(target, network, tau)
        after = outputs(target)
        assert not torch.equal(before, after)
        assert torch.equal(outputs(target), after)  # the first pass after an update is no other than the second
        assert torch.equal(outputs(network), after) is (tau == 1.0)
    tanhs = [node.module for node in trace(target).nodes if isinstance(node, ActivationNode)]
    assert all(isinstance(module, FakeQuantActivation) for module in tanhs)
    compressor.remove()
    assert target.state_dict().keys() == build().state_dict().keys()


# What is refused


def test_the_optimizer_must_train_the_network() -> None:
    network = mlp()
    other = torch.optim.Adam(mlp().parameters())
    with pytest.raises(UnsupportedError, match="the optimizer does not train this network's weights: pass the one"):
        Compressor(network, other, CompressionConfig(sparsity=0.5), 10)
    partly = torch.optim.Adam(network[0].parameters())
    with pytest.raises(UnsupportedError, match="pass the one that does"):
        Compressor(network, partly, CompressionConfig(sparsity=0.5), 10)


def test_unsupported_networks_are_refused_before_training() -> None:
    for module in (nn.PReLU(), nn.BatchNorm1d(16), nn.Conv2d(16, 16, 1, groups=4)):
        network = nn.Sequential(nn.Linear(5, 16), module, nn.Linear(16, 3))
        with pytest.raises(UnsupportedError, match=r"cannot be pressed: hidden activations must be ReLU|groups=1"):
            Compressor(network, torch.optim.Adam(network.parameters()), CompressionConfig(), 10)


def test_a_layer_that_would_be_emptied_is_named() -> None:
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(network.parameters())
    with pytest.raises(ConfigError, match=r"no weight in layer output \(2\) \(1x64\): lower the sparsity"):
        Compressor(network, optimizer, CompressionConfig(sparsity=0.995, allocation="uniform"), 10)


def test_a_graph_may_be_given_instead_of_a_network() -> None:
    actor = nn.Module()
    actor.latent = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
    actor.mu = nn.Linear(16, 2)
    graph = trace(actor, ["latent", "mu"])
    assert isinstance(graph, Graph)
    compressor = Compressor(graph, torch.optim.Adam(actor.parameters()), CompressionConfig(weight_bits=8), 10)
    compressor.step(10)
    assert isinstance(actor.mu, FakeQuantLinear)
    assert isinstance(actor.latent[0], FakeQuantLinear)
