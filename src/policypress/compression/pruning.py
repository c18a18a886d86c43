"""Which weights are live, and when that changes: the ways of pruning.

A new way is a subclass of ``Pruning`` with an ``update`` of its own, a line in ``METHODS``, and its name in
``policypress.config.PruningMethod``.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policypress.compression.criterion import scores
from policypress.compression.graph import Graph
from policypress.compression.mask_structures import STRUCTURES
from policypress.compression.masks import Enforcement, PrunedWeight, top_k_mask
from policypress.compression.schedule import PruningSchedule
from policypress.config import CompressionConfig, PruningMethod
from policypress.errors import UnsupportedError


class Pruning(ABC):
    """The masks of ``weights``, of one network or of several, whose optimizers may differ.

    ``steps``: the nominal training steps that the config's fractions refer to. ``graphs``: the networks, for criteria
    that look at more than a weight. Raises ConfigError when a layer would be emptied. Subclasses say in ``update`` what
    is live; one that looks at gradients overrides ``look`` too.
    """

    def __init__(
        self,
        weights: Sequence[PrunedWeight],
        config: CompressionConfig,
        steps: int,
        *,
        graphs: Sequence[Graph] = (),
        seed: int = 0,
    ) -> None:
        self.weights, self.config = list(weights), config
        self.sparsity = 0.0
        """Of all weights, at present."""
        self.iteration = 0
        self.schedule = PruningSchedule.from_config(config, steps)
        self.generator = torch.Generator().manual_seed(seed)
        self._graphs = tuple(graphs)
        shapes = [tuple(one.weight.shape) for one in self.weights]
        labels = {id(node.module.weight): graph.label(node) for graph in graphs for node in graph.layers}
        names = [labels.get(id(one.weight), one.name) for one in self.weights]
        self.structure = STRUCTURES[config.structure]
        self.target_zeros = self.structure.zeros(config, shapes, names)
        self.target = self.structure.sparsity(config, shapes)
        """The sparsity in the end."""
        self._saved: dict[str, Any] = {}
        self._enforcement = self.enforce()

    def enforce(self) -> Enforcement:
        """What keeps the masks in every step of the optimizers."""
        return Enforcement(self.weights, self.look)

    @abstractmethod
    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        """New masks, one for each weight, or None to leave them: called with every step.

        ``iteration`` and the fraction ``due`` of the target are the schedule's. Masks may bring weights back, which
        then start from zero. Whoever changes masks sets ``sparsity``.
        """

    def look(self, weights: Sequence[PrunedWeight]) -> None:  # noqa: B027 - most ways look at nothing
        """Called in every step of an optimizer, for its ``weights``, before their gradients are masked. (Not with a
        closure, which computes them within the step.)"""

    def step(self, step: int) -> None:
        """Brings the masks to where the schedule wants them after ``step`` training steps."""
        iteration = self.schedule.iteration(step)
        masks = self.update(iteration, self.schedule.due(step))
        if masks is not None:
            self._set(masks)
        self.iteration = max(self.iteration, iteration)  # a second learn() counts from 0 again: nothing comes back

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """The masks go on with ``optimizer`` for the weights that it trains, in place of another one."""
        trained = {id(values) for group in optimizer.param_groups for values in group["params"]}
        for one in self.weights:
            if id(one.weight) in trained:
                one.optimizer = optimizer
                one.apply()
        self._enforcement.watch()

    def worth(self) -> list[torch.Tensor]:
        """Scores of the config's criterion, of each weight's shape: -1 for what is pruned, which is worth less than any
        live weight, also less than a live zero."""
        found = scores(self.config.criterion, [one.weight for one in self.weights], self._graphs, self.generator)
        return [torch.where(one.mask, values, -1.0) for one, values in zip(self.weights, found, strict=True)]

    def drop(self, due: float) -> list[torch.Tensor]:
        """Masks that have lost the least worthy weights too, until the fraction ``due`` of the target is reached."""
        self.sparsity = self.target * due
        worth = self.worth()
        if self.config.allocation == "global":
            zeros = self.target_zeros = _global_zeros(worth, self.sparsity)
        else:
            zeros = [round(count * due) for count in self.target_zeros]
        return [self.structure.mask(values, count) for values, count in zip(worth, zeros, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """JSON values; under "pruning", what only going on needs: masks as packed bits in base64, packed when they
        change, so that asking is cheap."""
        return {"iteration": self.iteration, "sparsity": self.sparsity, "pruning": self._saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to ``state``; the weights must be loaded already. Raises UnsupportedError for masks of another
        network."""
        self.iteration, self.sparsity = int(state["iteration"]), float(state["sparsity"])
        if saved := state.get("pruning"):
            self.generator.set_state(torch.tensor(list(base64.b64decode(saved["generator"])), dtype=torch.uint8))
            masks = _unpacked(saved["masks"], self.weights)
            for one, mask in zip(self.weights, masks, strict=True):
                one.mask = mask  # no weight comes back: those of ``state`` are live already
            self._set(masks)
            if self.config.allocation == "global":
                self.target_zeros = [int((~one.mask).sum()) for one in self.weights]
        elif self.sparsity > 0.0:  # saved before masks were: what is zero was pruned
            for one in self.weights:
                one.mask = one.weight.detach() != 0  # so that these go first
            self._set(self.drop(self.schedule.fraction(self.iteration)))

    def remove(self) -> None:
        """Stops enforcing; present weights stay."""
        self._enforcement.remove()

    def _set(self, masks: Sequence[torch.Tensor]) -> None:
        for one, mask in zip(self.weights, masks, strict=True):
            one.set_mask(mask)
        state = self.generator.get_state().numpy().tobytes()
        self._saved = {"masks": [_packed(mask) for mask in masks], "generator": base64.b64encode(state).decode()}


class NoPruning(Pruning):
    """Nothing is pruned; no step of an optimizer does anything for it."""

    def enforce(self) -> Enforcement:
        return Enforcement((), self.look)

    def step(self, step: int) -> None:
        """Nothing changes."""

    def update(self, iteration: int, due: float) -> None:
        """Nothing is new."""


class Gradual(Pruning):
    """More and more weights go, by the schedule, and none comes back. Source: Zhu and Gupta 2017."""

    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        return self.drop(due) if self.target * due > self.sparsity else None


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


METHODS: dict[PruningMethod, type[Pruning]] = {"gradual": Gradual, "set": SparseEvolution}


def pruning_of(config: CompressionConfig) -> type[Pruning]:
    """The way of pruning that ``config`` names."""
    return METHODS[config.pruning] if config.prunes else NoPruning


def _global_zeros(worth: Sequence[torch.Tensor], sparsity: float) -> list[int]:
    """Zeros per layer when the lowest scores of all layers go first; every layer keeps its best weight."""
    protected = []
    for value in worth:
        flat = value.flatten().clone()
        flat[flat.argmax()] = torch.inf
        protected.append(flat)
    everything = torch.cat(protected)
    mask = top_k_mask(everything, round(sparsity * everything.numel()))
    return [int((~part).sum()) for part in mask.split([flat.numel() for flat in protected])]


def _packed(mask: torch.Tensor) -> str:
    return base64.b64encode(np.packbits(mask.cpu().numpy()).tobytes()).decode()


def _unpacked(packed: Sequence[str], weights: Sequence[PrunedWeight]) -> list[torch.Tensor]:
    bits = [np.frombuffer(base64.b64decode(one), np.uint8) for one in packed]
    counts = [one.weight.numel() for one in weights]
    if [len(one) for one in bits] != [-(-count // 8) for count in counts]:
        raise UnsupportedError("the saved masks are those of another network: load the network that they came from.")
    return [
        torch.from_numpy(np.unpackbits(values, count=count).astype(bool)).view_as(one.weight).to(one.weight.device)
        for values, count, one in zip(bits, counts, weights, strict=True)
    ]
