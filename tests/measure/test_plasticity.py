"""Dormant units and effective rank against networks and matrices whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from policypress.compression.freeze import freeze_graph
from policypress.compression.graph import trace
from policypress.measure.plasticity import effective_rank, plasticity
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.policy import Policy


def frozen(network: nn.Module, *shape: int) -> Policy:
    return freeze_graph(
        trace(network), ObservationTransform(shape, "float32"), ActionTransform("discrete", dtype="int64")
    )


def network(dead: int, hidden: int = 8) -> Policy:
    """Units that see their own input each, the first ``dead`` of them nothing."""
    first, last = nn.Linear(hidden, hidden), nn.Linear(hidden, 2)
    with torch.no_grad():
        first.weight.copy_(torch.eye(hidden))
        first.weight[:dead] = 0.0
        first.bias.zero_()
    return frozen(nn.Sequential(first, nn.ReLU(), last), hidden)


OBSERVATIONS = np.random.default_rng(0).uniform(0.5, 1.0, (64, 8)).astype(np.float32)


@pytest.mark.parametrize("dead", [0, 3, 8])
def test_units_that_do_nothing_are_dormant(dead: int) -> None:
    found = plasticity(network(dead), OBSERVATIONS)
    assert found is not None
    assert found.dormant == dead / 8
    assert found.rank == 8 - dead


def test_every_channel_and_unit_counts_once() -> None:
    convolution, last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 2 * 2, 3)
    with torch.no_grad():
        convolution.weight[0] = 0.0
        convolution.bias[0] = 0.0
        convolution.weight[1:] = 1.0
    policy = frozen(nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), last), 1, 6, 6)
    found = plasticity(policy, OBSERVATIONS.repeat(5, axis=1)[:, :36].reshape(-1, 1, 6, 6))
    assert found is not None
    assert found.dormant == 1 / 4


def test_a_linear_policy_hides_nothing() -> None:
    assert plasticity(frozen(nn.Sequential(nn.Linear(8, 2)), 8), OBSERVATIONS) is None


def test_effective_rank_leaves_a_hundredth_out() -> None:
    assert effective_rank(np.zeros((5, 3))) == 0
    assert effective_rank(np.diag([1.0, 1.0, 1.0])) == 3
    assert effective_rank(np.diag([99.0, 0.5, 0.5])) == 1
    assert effective_rank(np.diag([98.0, 1.0, 1.0])) == 2


@given(st.integers(1, 6), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_effective_rank_knows_no_scale_and_is_no_more_than_the_rank(rank: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.standard_normal((20, rank)) @ random.standard_normal((rank, 10))
    assert effective_rank(features) == effective_rank(scale * features) <= rank
