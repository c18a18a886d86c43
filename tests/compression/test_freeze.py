"""From a trained network to its policy: everything arrives, nothing is shared, and what cannot be frozen says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import policypress as pp
from policypress.errors import PolicypressError, UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import INT32_MAX, INT32_MIN, Activation, Flatten, Layer, MaxPool2d, Relu
from policypress.policy.ops import Residual as FrozenResidual
from policypress.policy.policy import Policy
from policypress.testing import tanh_op

torch = pytest.importorskip("torch", reason="freezing starts from a torch network")
from torch import nn  # noqa: E402

from policypress.compression import Compressor, Residual, trace  # noqa: E402
from policypress.compression.fixed_point import multiplier_and_shift  # noqa: E402
from policypress.compression.freeze import freeze_graph  # noqa: E402
from policypress.config import CompressionConfig  # noqa: E402

DISCRETE = ActionTransform("discrete", dtype="int64")


def vector(features: int) -> ObservationTransform:
    return ObservationTransform((features,), "float32")


def mlp() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def tanh_mlp() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))


def cnn() -> Any:
    torch.manual_seed(0)
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0)),
        Residual(body),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 2 * 6, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )


def press(network: Any, *shape: int, image: bool = False, quantize: bool = True, **settings: Any) -> Compressor:
    """Ranges measured on one batch, then a step of training in integers."""
    config = CompressionConfig(**{"weight_bits": 8, "quantize_start": 0.5, "observe": 0.5, **settings})
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    compressor = Compressor(network, optimizer, config, 10, image=image)
    network.train()
    for step in (0, 5) if quantize else (0,):
        compressor.step(step)
        optimizer.zero_grad()
        network(torch.rand(16, *shape)).square().mean().backward()
        optimizer.step()
    return compressor


def outputs_of(network: Any, x: NDArray[Any]) -> NDArray[Any]:
    network.eval()
    with torch.no_grad():
        return network(torch.as_tensor(x)).numpy()  # type: ignore[no-any-return]


# Float policies


def test_a_dense_network_keeps_its_weights_as_they_are() -> None:
    network = mlp()
    policy = freeze_graph(trace(network), vector(4), DISCRETE)
    assert policy.numerics == "float"
    assert [layer.name for layer in policy.layers] == ["0", "2", "4"]
    assert [layer.relu for layer in policy.layers] == [True, True, False]
    for layer, module in zip(policy.layers, (network[0], network[2], network[4]), strict=True):
        np.testing.assert_array_equal(layer.weight, module.weight.detach().numpy(), strict=True)
        np.testing.assert_array_equal(layer.bias, module.bias.detach().numpy(), strict=True)
        assert (layer.weight_bits, layer.scale.tolist(), layer.requantize) == (32, [1.0], None)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.testing.assert_allclose(policy.outputs(x), outputs_of(network, x), rtol=1e-5, atol=1e-6)
    assert len(np.unique(policy.outputs(x), axis=0)) == 64


def test_zeros_arrive_as_zeros() -> None:
    network = mlp()
    optimizer = torch.optim.Adam(network.parameters())
    compressor = Compressor(network, optimizer, CompressionConfig(sparsity=0.75), 10)
    compressor.step(10)
    policy = freeze_graph(compressor.graph, vector(4), DISCRETE)
    weights = sum(layer.weight.size for layer in policy.layers)
    assert sum(layer.nonzeros for layer in policy.layers) == weights - round(0.75 * weights)


def test_a_relu_shared_by_two_places_is_frozen_twice() -> None:
    torch.manual_seed(0)
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(4, 16), relu, nn.Linear(16, 16), relu, nn.Linear(16, 2))
    policy = freeze_graph(trace(network), vector(4), DISCRETE)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.testing.assert_allclose(policy.outputs(x), outputs_of(network, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [(32, 8), (8, 0), (8, 8), (4, 3)], ids=["float", "weight-only", "integer", "few bits"])
def test_a_tanh_arrives_in_every_numerics(bits: tuple[int, int], tmp_path: Path) -> None:
    network = tanh_mlp()
    compressor = press(network, 4, weight_bits=bits[0], activation_bits=bits[1])
    policy = freeze_graph(compressor.graph, vector(4), DISCRETE)
    tanh = tanh_op(bits[1] if policy.numerics == "integer" else 0)
    assert [op if isinstance(op, Activation) else type(op) for op in policy.ops] == [Layer, tanh, Layer, tanh, Layer]
    policy.save(tmp_path / "x.policy")
    loaded = pp.load(tmp_path / "x.policy")
    x = 3 * np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    expected = outputs_of(network, x)
    if policy.numerics == "integer":
        np.testing.assert_array_equal(loaded.outputs(x), expected)
        limits = [None if r is None else (r.low, r.high) for r in (layer.requantize for layer in loaded.layers)]
        assert limits == [(-255, 255), (-255, 255), None]
    else:
        np.testing.assert_allclose(loaded.outputs(x), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(loaded.outputs(x), policy.outputs(x))
    assert len(np.unique(expected)) > 32


def test_while_ranges_are_only_measured_the_policy_is_float() -> None:
    network = mlp()
    compressor = press(network, 4, quantize=False)
    policy = freeze_graph(compressor.graph, vector(4), DISCRETE)
    assert policy.numerics == "float"
    compressor.step(5)
    assert freeze_graph(compressor.graph, vector(4), DISCRETE).numerics == "integer"
    compressor.remove()
    assert freeze_graph(compressor.graph, vector(4), DISCRETE).numerics == "float"


# Structure


@pytest.mark.parametrize("bits", [0, 5, 32])
def test_a_convolutional_network_keeps_its_geometry(bits: int) -> None:
    network = cnn()
    compressor = press(network, 3, 8, 8, image=True, weight_bits=32 if bits == 32 else 6, activation_bits=bits % 32)
    transform = ObservationTransform((3, 8, 8), "uint8", image=True)
    policy = freeze_graph(compressor.graph, transform, DISCRETE)
    assert policy.numerics == {0: "weight-only", 5: "integer", 32: "float"}[bits]
    stem, pool, block, relu, flatten, hidden, last = policy.ops
    assert isinstance(stem, Layer)
    assert (stem.stride, stem.padding, stem.weight.shape, stem.relu) == ((2, 1), (1, 0), (4, 3, 3, 2), False)
    assert pool == MaxPool2d((3, 2), (2, 1), (1, 0))
    assert isinstance(block, FrozenResidual)
    assert [type(op) for op in block.body] == [Relu, Layer, Layer]  # the second ReLU is the layer's own
    assert relu == Relu()
    assert flatten == Flatten()
    assert isinstance(hidden, Layer)
    assert isinstance(last, Layer)
    assert [layer.name for layer in policy.layers] == ["0", "2.body.1", "2.body.3", "5", "7"]
    assert [layer.relu for layer in policy.layers] == [False, True, False, True, False]
    assert not stem.bias.any()
    assert stem.bias.dtype == (np.int32 if bits == 5 else np.float32)
    observations = np.random.default_rng(0).integers(0, 256, (16, 3, 8, 8)).astype(np.uint8)
    expected = outputs_of(network, observations.astype(np.float32) / 255)
    if bits == 5:
        np.testing.assert_array_equal(policy.outputs(observations), expected)
    else:
        np.testing.assert_allclose(policy.outputs(observations), expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(expected, axis=0)) > 8


def test_the_integers_of_a_policy_come_from_the_ranges() -> None:
    network = cnn()
    compressor = press(network, 3, 8, 8, image=True, weight_bits=6, activation_bits=5, input_bits=7)
    policy = freeze_graph(compressor.graph, ObservationTransform((3, 8, 8), "uint8", image=True), DISCRETE)
    assert policy.input is not None
    assert (policy.input.low, policy.input.high, policy.input.bits) == (0, 127, 7)
    signed, unsigned = (-15, 15), (0, 31)
    limits = [None if r is None else (r.low, r.high) for r in (layer.requantize for layer in policy.layers)]
    assert limits == [signed, unsigned, signed, unsigned, None]
    assert [layer.weight_bits for layer in policy.layers] == [6] * 5
    assert [len(layer.scale) for layer in policy.layers] == [4, 4, 4, 1, 1]  # "auto": convolutions have one a channel
    block = policy.ops[2]
    assert isinstance(block, FrozenResidual)
    assert (block.low, block.high) == signed
    for node, layer in zip(compressor.graph.layers, policy.layers, strict=True):
        module: Any = node.module
        np.testing.assert_array_equal(layer.weight, module.weight_codes().detach().numpy())
        np.testing.assert_array_equal(layer.bias, module.bias_codes().detach().numpy())
        np.testing.assert_array_equal(layer.scale, module.accumulator_scale().numpy())
        if layer.requantize is not None:
            multiplier, shift = multiplier_and_shift(module.exact_ratio())
            np.testing.assert_array_equal(layer.requantize.multiplier, multiplier.numpy())
            np.testing.assert_array_equal(layer.requantize.shift, shift.numpy())
    ratios = compressor.graph.nodes[2].block.add.exact_ratios()  # type: ignore[union-attr, operator]
    for operand, ratio in zip((block.skip, block.branch), ratios, strict=True):
        assert operand is not None
        assert (operand.low, operand.high) == (INT32_MIN, INT32_MAX)
        multiplier, shift = multiplier_and_shift(ratio)
        np.testing.assert_array_equal(operand.multiplier, multiplier.numpy())
        np.testing.assert_array_equal(operand.shift, shift.numpy())


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_one_scale_for_each_input_feature_and_output(granularity: str) -> None:
    network = mlp()
    compressor = press(network, 4, granularity=granularity, input_bits=12)
    policy = freeze_graph(compressor.graph, vector(4), DISCRETE)
    assert policy.input is not None
    assert policy.input.inverse_scale.shape == (4,)
    assert (policy.input.low, policy.input.high) == (-2047, 2047)
    assert [len(layer.scale) for layer in policy.layers] == ([1, 1, 1] if granularity == "tensor" else [16, 16, 2])


def test_a_flatten_before_the_first_layer_of_a_vector_policy_is_left_out() -> None:
    """Stable-Baselines3 flattens every observation; a vector is flat already."""
    network = nn.Sequential(nn.Flatten(), *mlp())
    assert isinstance(freeze_graph(trace(network), vector(4), DISCRETE).ops[0], Layer)
    square = ObservationTransform((2, 2), "float32")
    policy = freeze_graph(trace(network), square, DISCRETE)
    assert isinstance(policy.ops[0], Flatten)
    x = np.random.default_rng(0).normal(size=(8, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(policy.outputs(x), outputs_of(network, x), rtol=1e-5, atol=1e-6)


# Freezing looks and does not touch


@pytest.mark.parametrize("bits", [(32, 8), (8, 0), (8, 8)], ids=["float", "weight-only", "integer"])
def test_freezing_changes_nothing_and_shares_nothing(bits: tuple[int, int]) -> None:
    network = mlp()
    compressor = press(network, 4, weight_bits=bits[0], activation_bits=bits[1])
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = freeze_graph(compressor.graph, vector(4), DISCRETE)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    expected = first.outputs(x)
    scales = [layer.scale.copy() for layer in first.layers]
    with torch.no_grad():
        for value in network.state_dict().values():
            value.mul_(3)
    np.testing.assert_array_equal(first.outputs(x), expected)
    assert all(np.array_equal(layer.scale, scale) for layer, scale in zip(first.layers, scales, strict=True))
    assert bool((freeze_graph(compressor.graph, vector(4), DISCRETE).outputs(x) != expected).any())


def test_freezing_twice_gives_the_same_policy() -> None:
    compressor = press(mlp(), 4)
    first, second = (freeze_graph(compressor.graph, vector(4), DISCRETE) for _ in range(2))
    for a, b in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)


def test_a_frozen_policy_survives_its_file(tmp_path: Path) -> None:
    network = mlp()
    compressor = press(network, 4, sparsity=0.5, prune_start=0.0, prune_end=0.0)
    policy = freeze_graph(compressor.graph, vector(4), DISCRETE, provenance={"algo": "none"})
    policy.save(tmp_path / "x.policy")
    loaded = pp.load(tmp_path / "x.policy")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.outputs(x), outputs_of(network, x))
    assert loaded.provenance == {"algo": "none"}


# What travels with it


def test_recorded_observations_become_test_vectors() -> None:
    network = mlp()
    compressor = press(network, 4)
    bounds = np.full(2, 2, np.float32)
    action = ActionTransform("box", (2,), squash=True, low=-bounds, high=bounds)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    policy = freeze_graph(compressor.graph, vector(4), action, observations=x)
    vectors = policy.test_vectors
    assert vectors is not None
    np.testing.assert_array_equal(vectors.observations, x)
    np.testing.assert_array_equal(vectors.outputs, outputs_of(network, x))
    np.testing.assert_array_equal(vectors.actions, policy.predict(x)[0])
    np.testing.assert_allclose(vectors.actions, 2 * np.tanh(vectors.outputs), rtol=1e-5)
    assert freeze_graph(compressor.graph, vector(4), action).test_vectors is None


def test_the_baseline_is_the_dense_float32_network_unless_another_is_named() -> None:
    parameters = sum(p.numel() for p in mlp().parameters())
    assert freeze_graph(trace(mlp()), vector(4), DISCRETE).baseline_bytes == 4 * parameters
    compressor = press(mlp(), 4, sparsity=0.9, allocation="uniform", prune_start=0.0, prune_end=0.0)
    assert freeze_graph(compressor.graph, vector(4), DISCRETE).baseline_bytes == 4 * parameters
    assert freeze_graph(trace(mlp()), vector(4), DISCRETE, baseline_bytes=12_345).baseline_bytes == 12_345


def test_the_baseline_counts_no_bias_where_there_is_none() -> None:
    network = nn.Sequential(nn.Linear(4, 16, bias=False), nn.ReLU(), nn.Linear(16, 2))
    policy = freeze_graph(trace(network), vector(4), DISCRETE)
    assert policy.baseline_bytes == 4 * sum(p.numel() for p in network.parameters())


def test_provenance_is_copied() -> None:
    origin = {"algo": "none", "seed": 3}
    policy = freeze_graph(trace(mlp()), vector(4), DISCRETE, provenance=origin)
    origin["seed"] = 4
    assert policy.provenance == {"algo": "none", "seed": 3}


# What cannot be frozen


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("parameter", ["weight", "bias"])
@pytest.mark.parametrize("quantized", [True, False])
def test_a_diverged_network_is_named(value: float, parameter: str, quantized: bool) -> None:
    network = mlp()
    graph = press(network, 4).graph if quantized else trace(network)
    with torch.no_grad():
        getattr(network[2], parameter).view(-1)[3] = value
    with pytest.raises(PolicypressError, match=f"{parameter} of layer 2 is not finite: the training diverged"):
        freeze_graph(graph, vector(4), DISCRETE)


def test_accumulators_that_could_overflow_are_refused() -> None:
    """600 weights of 127 times inputs of 32,767 could reach 2.5e9."""
    network = nn.Sequential(nn.Linear(600, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    compressor = press(network, 600, input_bits=16, weight_range="minmax")
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    with pytest.raises(
        PolicypressError, match=r"layer '0' could reach 2,[345].*overflows 32 bits: use fewer weight_bits"
    ):
        freeze_graph(compressor.graph, vector(600), DISCRETE)


def test_a_layer_without_weights_is_warned_about() -> None:
    network = mlp()
    with torch.no_grad():
        network[2].weight.zero_()
    with pytest.warns(UserWarning, match="a layer has no weight left: the policy's action is constant"):
        policy = freeze_graph(trace(network), vector(4), DISCRETE)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    assert len(np.unique(policy.predict(x)[0])) == 1


def test_a_network_that_does_not_fit_the_observation_or_action_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"Layer '0' .* does not fit an input of shape \(5,\)"):
        freeze_graph(trace(mlp()), vector(5), DISCRETE)
    bound = np.ones(3, np.float32)
    with pytest.raises(UnsupportedError, match=r"outputs \(2,\) cannot give actions \(3,\)"):
        freeze_graph(trace(mlp()), vector(4), ActionTransform("box", (3,), low=-bound, high=bound))


def test_freeze_returns_a_policy_that_needs_no_torch() -> None:
    policy = freeze_graph(press(mlp(), 4).graph, vector(4), DISCRETE)
    assert isinstance(policy, Policy)

    def arrays(value: Any) -> list[Any]:
        if hasattr(value, "__dataclass_fields__"):
            return [a for name in value.__dataclass_fields__ for a in arrays(getattr(value, name))]
        return [a for item in value for a in arrays(item)] if isinstance(value, tuple) else [value]

    assert not [value for value in arrays(policy) if isinstance(value, torch.Tensor)]
