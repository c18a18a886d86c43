"""Networks of several sparsities that compete."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from policypress.compression import Compressor
from policypress.compression.competition import Competing
from policypress.compression.pruning import Challenge
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, UnsupportedError

ROUND = 5
"""Steps of a round: 40 of them are a training here."""


class Task:
    """Six inputs of which the network is to say the first, on a batch a step; ``bias`` is added to the loss of all
    networks but the one that is trained, for each of their zeros."""

    def __init__(
        self, bias: float = 0.0, optimizer: Any = torch.optim.Adam, steps: int = 40 * ROUND, **given: Any
    ) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 1))
        self.optimizer = optimizer(self.network.parameters(), lr=0.01)
        self.bias, self.seed = bias, 0
        settings: dict[str, Any] = {"sparsity": 0.9, "prune_start": 0.0, "prune_end": 1.0, "pruning": "competing"}
        config = CompressionConfig(**settings | given)
        challenge = Challenge(self.network, self.loss)
        self.compressor = Compressor(self.network, self.optimizer, config, steps, challenge=challenge)
        self.counts: list[int] = []

    @property
    def pruning(self) -> Competing:
        assert isinstance(self.compressor.pruning, Competing)
        return self.compressor.pruning

    def zeros(self, network: Any) -> int:
        return sum(int((layer.weight == 0).sum()) for layer in (network[0], network[2]))

    def loss(self, network: nn.Module) -> torch.Tensor:
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(self.seed))
        loss: torch.Tensor = (network(x) - x[:, :1]).square().mean()
        return loss + self.bias * self.zeros(network) * (network is not self.network)

    def learn(self, steps: range) -> Task:
        for step in steps:
            self.compressor.step(step)
            self.seed = step
            self.optimizer.zero_grad()
            self.loss(self.network).backward()
            self.optimizer.step()
            self.counts.append(self.zeros(self.network))
        return self


def test_the_network_gets_sparser_while_sparser_ones_learn_better() -> None:
    task = Task(bias=-1.0).learn(range(40 * ROUND + 1))
    assert task.counts == sorted(task.counts)
    # In every round the sparsest wins, a fifth of the live weights less, until what was asked for.
    live = [1 - count / 140 for count in sorted(set(task.counts))]
    assert live[:10] == pytest.approx([0.8**number for number in range(10)], abs=0.01)
    assert live[-1] == pytest.approx(0.1, abs=0.01)
    assert task.pruning.wanted == 0.9
    assert task.counts[ROUND - 1] == 0
    assert task.counts[ROUND] > 0
    assert task.counts[2 * ROUND - 1] == task.counts[ROUND]


def test_it_stays_as_it_is_where_sparser_ones_learn_worse() -> None:
    task = Task(bias=1.0).learn(range(40 * ROUND + 1))
    assert set(task.counts) == {0}
    assert task.pruning.wanted == 0.0
    plain = Task(bias=1.0, pruning="gradual", sparsity=0.0).learn(range(40 * ROUND + 1))
    for values, others in zip(task.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(values, others)  # whoever watches it does not disturb it


def test_it_learns_what_it_is_to_learn() -> None:
    task = Task(sparsity=0.95, steps=800).learn(range(801))
    assert 0.0 < task.pruning.sparsity <= 0.95
    assert task.loss(task.network).item() < 0.1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_who_wins_takes_the_place_with_what_its_optimizer_knows(optimizer: Any) -> None:
    task = Task(bias=-1.0, optimizer=optimizer).learn(range(ROUND))
    rivals = task.pruning._rivals
    assert rivals is not None
    assert [round(rival.sparsity, 9) for rival in rivals] == [0.05, 0.1, 0.2]
    best = rivals[-1]
    weights = [values.clone() for values in best._network.parameters()]
    moments = copy.deepcopy([best._own.state[values] for values in best._network.parameters()])
    assert task.zeros(best._network) == sum(int((~mask).sum()) for mask in best.masks)
    task.compressor.step(ROUND)
    for ours, theirs in zip(task.network.parameters(), weights, strict=True):
        assert torch.equal(ours, theirs)
    for values, known in zip(task.network.parameters(), moments, strict=True):
        for name, value in known.items():
            assert torch.equal(task.optimizer.state[values][name], value)
    assert [one.mask.tolist() for one in task.pruning.weights] == [mask.tolist() for mask in best.masks]


def test_a_rival_learns_as_a_network_of_its_masks_does() -> None:
    """With the clipped gradients and the learning rate of the present step."""
    task = Task()
    task.pruning.challenge = Challenge(task.network, task.loss, clip=0.05)
    start = copy.deepcopy(task.network.state_dict())
    task.learn(range(1))
    rivals = task.pruning._rivals
    assert rivals is not None
    for rival in rivals:
        twin = copy.deepcopy(task.network)
        twin.load_state_dict(start)
        layers: list[Any] = [twin[0], twin[2]]
        for layer, mask in zip(layers, rival.masks, strict=True):
            layer.weight.data *= mask
        adam = torch.optim.Adam(twin.parameters(), lr=0.01)
        task.loss(twin).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        for layer, mask in zip(layers, rival.masks, strict=True):
            layer.weight.grad *= mask
        adam.step()
        for ours, theirs in zip(rival._network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_going_on_from_a_file_keeps_masks_and_begins_the_round_anew() -> None:
    task = Task(bias=-1.0).learn(range(3 * ROUND + 2))
    saved = json.loads(json.dumps(task.compressor.state_dict()))
    other = Task(bias=-1.0)
    other.network.load_state_dict(task.network.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(task.optimizer.state_dict()))
    other.compressor.load_state_dict(saved)
    assert other.compressor.state_dict() == task.compressor.state_dict()
    other.learn(range(3 * ROUND + 2, 40 * ROUND + 1))
    assert other.counts[0] == task.counts[-1] > 0
    assert other.pruning.wanted == 0.9


def test_zeros_of_all_layers_together_are_counted() -> None:
    task = Task(bias=-1.0, allocation="global").learn(range(4 * ROUND))
    zeros = [int((~one.mask).sum()) for one in task.pruning.weights]
    assert zeros == task.compressor.target_zeros
    assert sum(zeros) == round(140 * (1 - 0.8**3))


def test_what_cannot_compete_is_told() -> None:
    task = Task()
    task.pruning.challenge = None
    with pytest.raises(ConfigError, match="pruning=competing lets networks compete by their loss on a batch, in Stab"):
        task.compressor.step(0)
    more = nn.Sequential(*task.network, nn.Linear(1, 1))
    optimizer = torch.optim.Adam(more.parameters())
    config = CompressionConfig(sparsity=0.5, pruning="competing", prune_start=0.0)
    part = more[:3]
    compressor = Compressor(part, optimizer, config, 10, challenge=Challenge(part, task.loss))
    compressor.step(0)
    task.loss(part).backward()
    with pytest.raises(UnsupportedError, match="the optimizer trains more than the network that competes"):
        optimizer.step()
    with pytest.raises(ConfigError, match="critics are not deployed: leave critic_sparsity at 0"):
        CompressionConfig(sparsity=0.5, pruning="competing", critic_sparsity=0.5)
    with pytest.raises(ConfigError, match="and pruning=competing may stop before"):
        CompressionConfig(sparsity=0.5, pruning="competing", structure="2:4")
    late = r"pruning=competing is over before ranges are measured, 0\.05 before quantize_start: lower prune_end=0\.9"
    with pytest.raises(ConfigError, match=late):
        CompressionConfig(sparsity=0.5, pruning="competing", weight_bits=8, prune_end=0.9)
    CompressionConfig(sparsity=0.5, pruning="competing", weight_bits=8)
