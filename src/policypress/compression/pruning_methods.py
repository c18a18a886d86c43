"""The ways of pruning.

A new way is a subclass of ``Pruning`` with an ``update`` of its own, here or in a file of its own, a line in
``METHODS``, and its name in ``policypress.config.PruningMethod``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from policypress.compression.competition import Competing
from policypress.compression.masks import PrunedWeight, top_k_mask
from policypress.compression.pruning import NoPruning, Pruning, packed, unpacked
from policypress.config import CompressionConfig, PruningMethod


class Gradual(Pruning):
    """More and more weights go, by the schedule, and none comes back. Source: Zhu and Gupta 2017."""

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        return self.drop(due) if self.target * due > self.sparsity else None


class OneShot(Pruning):
    """Everything goes at ``prune_start``. Source: Lee, Ajanthan and Torr 2019 (SNIP), at the start of training.

    What flows through a weight depends on the others, so by that criterion the weights go in rounds, whose live shares
    are a geometric series. Source: Tanaka et al. 2020 (SynFlow).
    """

    ROUNDS = 100

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        if self.sparsity:
            return None
        if self.config.criterion == "flow":
            for number in range(1, self.ROUNDS):
                self._set(self.drop(_of_geometric(self.target, number / self.ROUNDS)))
        return self.drop(1.0)


class Static(Pruning):
    """Masks are drawn before training, and stay. Source: Liu et al. 2022 (random pruning, with the layers' shares of
    Erdos-Renyi kernels), Ma et al. 2025 (arXiv 2506.17204, in reinforcement learning)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedule = replace(self.schedule, start=0)

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        return None if self.sparsity else self.drop(1.0)

    def worth(self) -> list[torch.Tensor]:
        return [torch.rand(one.mask.shape, generator=self.generator).to(one.mask.device) for one in self.weights]


class SparseEvolution(Pruning):
    """Sparse from the first iteration on; in every later one a share of the live weights, the least worthy of each
    layer, goes and as many come back elsewhere at random. Source: Mocanu et al. 2018 (SET)."""

    SHARE = 0.3

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        if iteration <= self.iteration:
            return None
        if self.sparsity == 0.0:
            return self.drop(1.0)
        return [self._moved(worth, one.mask) for worth, one in zip(self.worth(), self.weights, strict=True)]

    def _moved(self, worth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        live = int(mask.sum())
        count = min(int(self.SHARE * live), mask.numel() - live)
        kept = top_k_mask(worth, mask.numel() - live + count)
        chance = torch.rand(mask.shape, generator=self.generator).to(mask.device)
        return kept | top_k_mask(chance.masked_fill(mask, -1.0), mask.numel() - count)


class RigL(Pruning):
    """Sparse from the first iteration on; in every later one the least worthy live weights of each layer go, and as
    many come where the next gradient is largest. The share that moves falls by a cosine, to none at ``prune_end``.
    Source: Evci et al. 2020 (RigL), whose weights that go and come back at once keep their values too."""

    SHARE = 0.3
    looks = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: set[int] = set()
        """Places of weights that move with their next gradient, in the next step of their optimizer."""

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        if iteration <= self.iteration:
            return None
        if self.sparsity == 0.0:
            return self.drop(1.0)
        self._due = set(range(len(self.weights)))
        return None

    def look(self, weights: Sequence[PrunedWeight]) -> None:
        super().look(weights)
        stepping = {id(one) for one in weights if one.weight.grad is not None}
        moving = [place for place in sorted(self._due) if id(self.weights[place]) in stepping]
        if not moving:
            return
        self._due.difference_update(moving)
        worth, masks = self.worth(), [one.mask for one in self.weights]
        for place in moving:
            masks[place] = self._moved(worth[place], self.weights[place])
        self._set(masks)

    @property
    def share(self) -> float:
        """Of the live weights of a layer that move at present."""
        return self.SHARE / 2 * (1.0 + math.cos(math.pi * self.iteration / self.schedule.iterations))

    def _moved(self, worth: torch.Tensor, one: PrunedWeight) -> torch.Tensor:
        assert one.weight.grad is not None
        live, size = int(one.mask.sum()), one.mask.numel()
        count = min(int(self.share * live), size - live)
        kept = top_k_mask(worth, size - live + count)
        return kept | top_k_mask(one.weight.grad.abs().masked_fill(kept, -1.0), size - count)

    def notes(self) -> dict[str, Any]:
        return {"due": sorted(self._due)}

    def take_notes(self, notes: Mapping[str, Any]) -> None:
        self._due = set(notes.get("due", ()))


class Rewinding(Pruning):
    """In rounds, a fifth of the live weights each and the last at ``prune_end``: the least worthy go, and what is left,
    biases too, goes back to what it was at ``prune_start``, with a fresh state of the optimizer. Target networks follow
    as their algorithm says. Source: Frankle et al. 2020 (lottery tickets with rewinding)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rounds = _rounds_to(self.target)
        self.round = -1
        """The rounds that are over; -1 before there is anything to go back to."""
        optimizer_of = {id(one.weight): one for one in self.weights}
        biases = [
            (node.module.bias, optimizer_of[id(node.module.weight)])
            for graph in self._graphs
            for node in graph.layers
            if node.module.bias is not None and id(node.module.weight) in optimizer_of
        ]
        self._early = [
            (values, one, torch.zeros_like(values, requires_grad=False))
            for values, one in [*((one.weight, one) for one in self.weights), *biases]
        ]
        self.tensors |= {f"early/{place}": early for place, (_, _, early) in enumerate(self._early)}

    @torch.no_grad()
    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        if self.round < 0:
            self.round = 0
            for values, _, early in self._early:
                early.copy_(values)
        number = self.rounds * iteration // self.schedule.iterations
        if number <= self.round:
            return None
        self.round = number
        masks = self.drop(_of_geometric(self.target, number / self.rounds))
        for values, one, early in self._early:
            values.copy_(early)
            one.optimizer.state.pop(values, None)
        return masks

    def notes(self) -> dict[str, Any]:
        return {"round": self.round}

    def take_notes(self, notes: Mapping[str, Any]) -> None:
        self.round = int(notes.get("round", -1))


class Adaptive(Pruning):
    """In rounds, a fifth of the live weights each, as long as the return holds: it is asked before each round, and held
    against the best so far. Where it fails ``PATIENCE`` times in a row, the weights that went last come back; after the
    second time nothing more goes until the return is better than ever. A round that has not been seen to hold in the
    end is taken back too. Sources: Han et al. 2015 (prune, train, look), Bellec et al. 2018 (weights come back); the
    comparison with its own best is ours."""

    ROUNDS, PATIENCE, FAILURES = 40, 2, 2
    asks = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.round = -1
        self.levels = _rounds_to(self.target)
        self.level = self.held = 0
        """How many times a fifth of the live weights is gone, now and when the return last held."""
        self.best: float | None = None
        """The best return so far."""
        self.failed = self.failures = 0
        """Rounds in a row that did not hold, and how often that sent weights back since the best return."""
        self._back = [one.mask for one in self.weights]

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        number = self.ROUNDS * iteration // self.schedule.iterations
        if number <= self.round:
            return None
        self.round = number
        value = self.ask()
        if self.best is None or value > self.best:
            self.best, self.failures = value, 0
        over = number == self.ROUNDS
        if value >= self.best - (1.0 - self.config.keep_return) * abs(self.best):
            self.failed, self.held, self._back = 0, self.level, [one.mask for one in self.weights]
            if over or self.level == self.levels or self.failures == self.FAILURES:
                return None
            self.level += 1
            return self.drop(_of_geometric(self.target, self.level / self.levels))
        self.failed += 1
        if self.level == self.held or not (over or self.failed == self.PATIENCE):
            return None
        self.failed, self.failures, self.level = 0, self.failures + 1, self.held
        self.sparsity = self.target * _of_geometric(self.target, self.held / self.levels)
        if self.config.allocation == "global":
            self.target_zeros = [int((~mask).sum()) for mask in self._back]
        return self._back

    @property
    def wanted(self) -> float:
        return self.sparsity

    def notes(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("round", "level", "held", "best", "failed", "failures")}
        return {**told, "back": packed(self._back)}

    def take_notes(self, notes: Mapping[str, Any]) -> None:
        for name in ("round", "level", "held", "best", "failed", "failures"):
            setattr(self, name, notes[name])
        self._back = unpacked(notes["back"], self.weights)


METHODS: dict[PruningMethod, type[Pruning]] = {
    "gradual": Gradual,
    "one-shot": OneShot,
    "static": Static,
    "set": SparseEvolution,
    "rigl": RigL,
    "rewind": Rewinding,
    "adaptive": Adaptive,
    "competing": Competing,
}


def pruning_of(config: CompressionConfig) -> type[Pruning]:
    """The way of pruning that ``config`` names."""
    return METHODS[config.pruning] if config.prunes else NoPruning


def _rounds_to(target: float) -> int:
    """In how many rounds of a fifth of the live weights each the ``target`` sparsity is reached."""
    return max(1, math.ceil(math.log(1.0 - target) / math.log(0.8)))


def _of_geometric(target: float, progress: float) -> float:
    """The fraction of the ``target`` sparsity at which the live share is its last one to the power of ``progress``."""
    return (1.0 - math.pow(1.0 - target, progress)) / target
