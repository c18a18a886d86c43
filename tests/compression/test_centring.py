"""A first layer that learns as if its inputs were centred."""

from __future__ import annotations

import copy

import torch
from torch import nn

from policypress.compression.centring import Centring, moments
from policypress.compression.compressor import Compressor
from policypress.config import CompressionConfig

SPREADS, MEANS = torch.tensor([0.01, 1.0, 10.0, 0.1, 2.0]), torch.tensor([-0.3, 0.0, 3.0, 0.2, -5.0])


def observations(count: int = 4096) -> torch.Tensor:
    return torch.randn(count, 5) * SPREADS + MEANS


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def losses(network: nn.Sequential, optimizer: torch.optim.Optimizer, x: torch.Tensor, wanted: torch.Tensor) -> float:
    loss = (network(x) - wanted).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_it_learns_as_a_layer_of_centred_inputs_does() -> None:
    torch.manual_seed(0)
    x, plain = observations(), network()
    wanted, centred = torch.sin(3 * (x - MEANS) / SPREADS)[:, :3], copy.deepcopy(plain)
    adam = {"lr": 1e-2, "eps": 1e-30}
    theirs, ours = (torch.optim.Adam(one.parameters(), **adam) for one in (plain, centred))
    Centring(centred, ours).centre(x)
    mean, spread = moments(x)
    z = (x - mean) / spread
    assert torch.allclose(plain(z), centred(x), atol=1e-4)
    told = [(losses(plain, theirs, z, wanted), losses(centred, ours, x, wanted)) for _ in range(100)]
    assert told[-1][0] < 0.8 * told[0][0]
    assert all(abs(a - b) < 0.01 * a for a, b in told)


def test_what_is_pruned_stays_so() -> None:
    torch.manual_seed(0)
    x, one = observations(), network()
    optimizer = torch.optim.Adam(one.parameters(), lr=1e-2)
    Centring(one, optimizer).centre(x)
    compressor = Compressor(one, optimizer, CompressionConfig(sparsity=0.5, prune_end=0.5), 100)
    for step in range(100):
        compressor.step(step)
        losses(one, optimizer, x, x[:, :3])
    layer = compressor.graph.layers[0].module
    assert 0 < int((layer.weight == 0).sum()) < layer.weight.numel()
    assert torch.isfinite(layer.weight).all()


def test_what_never_varies_has_a_spread() -> None:
    mean, spread = moments(torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.0, 5.0]]))
    assert mean.tolist() == [2.0, 0.0, 5.0]
    assert spread.tolist() == [1.0, 1 / 64, 5 / 64]
    assert moments(torch.zeros(4, 2))[1].tolist() == [1.0, 1.0]
