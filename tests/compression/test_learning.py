"""A network must be *learned* while it is pressed: a plain PyTorch loop, as a CleanRL-style script would drive it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import policypress as pp
from policypress.compression import Compressor, Phase
from policypress.compression.freeze import freeze_graph
from policypress.config import CompressionConfig
from policypress.policy.contract import ActionTransform, ObservationTransform

STEPS = 1200


def examples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth functions of six observations, two of which matter little and are large."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    y = torch.stack([torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1], x[:, 2] * x[:, 3]], dim=1).tanh()
    return x * torch.tensor([1.0, 1.0, 1.0, 1.0, 30.0, 0.01]), y


def error(predictions: torch.Tensor | np.ndarray, y: torch.Tensor) -> float:
    """Mean squared error as a fraction of the variance."""
    return float((torch.as_tensor(predictions) - y).square().mean() / y.var())


def test_regression_at_90_percent_sparsity_and_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    config = CompressionConfig(sparsity=0.9, weight_bits=8, prune_iterations=60)
    compressor = Compressor(network, optimizer, config, STEPS)
    x, y = examples(2048, 0)
    for step in range(STEPS):
        compressor.step(step)
        batch = torch.randint(0, len(x), (128,))
        loss = F.mse_loss(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert compressor.phase is Phase.QUANTIZE

    observations, wanted = examples(1000, 1)
    bounds = np.full(2, 100, np.float32)
    policy = freeze_graph(
        compressor.graph,
        ObservationTransform((6,), "float32"),
        ActionTransform("box", (2,), low=-bounds, high=bounds),
    )
    policy.save(tmp_path / "regression.policy")
    actions, _ = pp.load(tmp_path / "regression.policy").predict(observations.numpy())

    network.eval()
    with torch.no_grad():
        np.testing.assert_array_equal(actions, network(observations).numpy())
    assert policy.numerics == "integer"
    weights = 6 * 64 + 64 * 64 + 64 * 2
    assert sum(layer.weight.size - layer.nonzeros for layer in policy.layers) >= round(0.9 * weights)
    assert error(actions, wanted) < 0.12

    compressor.remove()
    with torch.no_grad():
        in_float = error(network(observations), wanted)
    assert error(actions, wanted) < 1.3 * in_float + 0.01
    # Without learning in between, the same sparsity loses what was learned: the test can fail.
    with torch.no_grad():
        for layer in (network[0], network[2], network[4]):
            kept = layer.weight[layer.weight != 0].abs()  # type: ignore[index, operator, union-attr]
            layer.weight[layer.weight.abs() < kept.median()] = 0  # type: ignore[index, operator, union-attr]
        assert error(network(observations), wanted) > 2 * error(actions, wanted)
