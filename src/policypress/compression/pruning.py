"""Which weights are live, and when that changes: what all ways of pruning share. The ways are in
``pruning_methods``."""

from __future__ import annotations

import base64
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from policypress.compression.criterion import scores
from policypress.compression.graph import Graph
from policypress.compression.mask_structures import STRUCTURES
from policypress.compression.masks import Enforcement, PrunedWeight, top_k_mask
from policypress.compression.recurrent import Recurrent
from policypress.compression.saliency import SALIENCIES
from policypress.compression.schedule import PruningSchedule
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, UnsupportedError


@dataclass(frozen=True)
class Challenge:
    """What networks compete in: ``loss`` of ``network``, which the optimizer trains, or of a copy of it with other
    weights, on the batch of the present step. ``clip``: the largest norm of a gradient that is not scaled down."""

    network: nn.Module
    loss: Callable[[nn.Module], torch.Tensor]
    clip: float = math.inf


class Pruning(ABC):
    """The masks of ``weights``, of one network or of several, whose optimizers may differ.

    ``steps``: the nominal training steps that the config's fractions refer to. ``graphs``: the networks, for criteria
    that look at more than a weight. Raises ConfigError when a layer would be emptied. Subclasses say in ``update`` what
    is live; one that looks at gradients overrides ``look`` too. What a subclass remembers is in ``tensors`` or in its
    ``notes``.
    """

    looks = False
    """Whether it needs gradients itself, whatever the criterion."""
    asks = False
    """Whether it asks for ``returns``."""
    competes = False
    """Whether it needs a ``challenge``."""

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
        saliency = SALIENCIES.get(config.criterion) if config.prunes else None
        units = config.structure == "units"
        self._saliency = None if saliency is None else saliency(self.weights, self._graphs, units)
        self.tensors: dict[str, torch.Tensor] = {} if self._saliency is None else dict(self._saliency.sums)
        """What it remembers in tensors: always the same tensors, which change in place."""
        structure = config.structure if config.prunes else "unstructured"
        self.structure = STRUCTURES[structure]
        shapes, names, outputs = self._layers(structure)
        self.target_zeros = self.structure.zeros(config, shapes, names, outputs)
        self.target = config.sparsity
        """The sparsity in the end."""
        if structure != "unstructured":  # whole groups, whatever was asked for
            self.target = sum(self.target_zeros) / sum(one.weight.numel() for one in self.weights)
            if self.target == 0.0:
                raise ConfigError(
                    f"sparsity={config.sparsity} with structure={structure} is less than one of them in every layer: "
                    "raise the sparsity."
                )
        self.returns: Callable[[], float] | None = None
        """Gives the return of the network as it would be deployed now, for a way that asks for it."""
        self.challenge: Challenge | None = None
        """What networks compete in, for a way that lets them."""
        self._saved: dict[str, Any] = {}
        self._enforcement = self.enforce()

    def _layers(self, structure: str) -> tuple[list[tuple[int, ...]], list[str], list[bool]]:
        """Shape, name for people, and whether its units are a network's outputs, of each weight."""
        known = {id(node.module.weight): (graph, node) for graph in self._graphs for node in graph.layers}
        shapes, names, outputs = [], [], []
        for one in self.weights:
            graph, node = known.get(id(one.weight), (None, None))
            if structure == "units" and node is not None and isinstance(node.owner, Recurrent):
                raise UnsupportedError("structure=units knows no units of recurrent cells: take another structure.")
            shapes.append(tuple(one.weight.shape))
            names.append(one.name if graph is None or node is None else graph.label(node))
            outputs.append(graph is None or node is graph.layers[-1])
        return shapes, names, outputs

    def ask(self) -> float:
        """What ``returns`` gives now; ConfigError without."""
        self.check_asked()
        assert self.returns is not None
        return self.returns()

    def check_asked(self) -> None:
        """Raises ConfigError if it asks for ``returns`` or a ``challenge`` and nobody gives any."""
        if self.asks and self.returns is None:
            raise ConfigError(
                f"pruning={self.config.pruning} asks what the network returns: give a function that measures it, "
                "returns=..."
            )
        if self.competes and self.challenge is None:
            raise ConfigError(
                f"pruning={self.config.pruning} lets networks compete by their loss on a batch, in Stable-Baselines3 "
                "those of DQN: give challenge=Challenge(network, loss), or take another pruning."
            )

    @property
    def wanted(self) -> float:
        """The sparsity without which training is not finished."""
        return self.target

    def enforce(self) -> Enforcement:
        """What keeps the masks in every step of the optimizers."""
        needs = f"pruning={self.config.pruning}" if self.looks else f"criterion={self.config.criterion}"
        blind = (
            f"{needs} looks at gradients before an optimizer's step, and this one takes a closure that computes them "
            "within: take an optimizer without one, for example Adam, or pruning=set with criterion=magnitude."
        )
        gradients = self.looks or (self._saliency is not None and self._saliency.by_gradients)
        return Enforcement(self.weights, self.look, blind if gradients else "")

    @abstractmethod
    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        """New masks, one for each weight, or None to leave them: called with every step from ``prune_start`` on, once
        the criterion can tell.

        ``iteration`` and the fraction ``due`` of the target are the schedule's. Masks may bring weights back, which
        then start from zero. Whoever changes masks sets ``sparsity``.
        """

    def look(self, weights: Sequence[PrunedWeight]) -> None:
        """Called in every step of an optimizer, for its ``weights``, before their gradients are masked."""
        over = self.iteration == self.schedule.iterations and self.sparsity >= self.target
        if self._saliency is not None and not over:
            self._saliency.look(weights)

    def step(self, step: int) -> None:
        """Brings the masks to where the schedule wants them after ``step`` training steps."""
        if self._saliency is not None:
            self._saliency.watch()
        iteration = self.schedule.iteration(step)
        if step >= self.schedule.start and (self._saliency is None or self._saliency.ready):
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
        """Scores of the config's criterion, of each weight's shape: minus infinity for what is pruned, which is worth
        less than any live weight, also less than a live zero."""
        weights = [one.weight for one in self.weights]
        found = scores(self.config.criterion, weights, self._graphs, self.generator, self._saliency)
        return [values.masked_fill(~one.mask, -torch.inf) for one, values in zip(self.weights, found, strict=True)]

    def drop(self, due: float) -> list[torch.Tensor]:
        """Masks that have lost the least worthy weights too, until the fraction ``due`` of the target is reached."""
        self.sparsity = self.target * due
        worth = self.worth()
        if self.config.allocation == "global":
            zeros = self.target_zeros = _global_zeros(worth, self.sparsity)
        else:
            zeros = [round(count * due) for count in self.target_zeros]
        return [self.structure.mask(values, count) for values, count in zip(worth, zeros, strict=True)]

    def notes(self) -> dict[str, Any]:
        """What else going on needs, in JSON values; nothing, for most ways."""
        return {}

    def take_notes(self, notes: Mapping[str, Any]) -> None:  # noqa: B027 - most have none
        """The inverse of ``notes``."""

    def state_dict(self, tensors: bool = True) -> dict[str, Any]:
        """JSON values; under "pruning", what only going on needs: masks as packed bits in base64, packed when they
        change, so that asking is cheap, and ``tensors`` unless the caller keeps them."""
        going_on = {**self._saved, **({"target": self.wanted} if self.config.prunes else {}), **self.notes()}
        if self._saliency is not None:
            going_on["seen"] = list(self._saliency.seen)
        if self.tensors and tensors:
            going_on["tensors"] = {name: _encoded(values) for name, values in self.tensors.items()}
        return {"iteration": self.iteration, "sparsity": self.sparsity, "pruning": going_on}

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Any] | None = None) -> None:
        """Goes back to ``state``; the weights must be loaded already. ``tensors``: arrays of those that the state does
        not hold. Raises UnsupportedError for masks of another network, and where tensors are missing."""
        self.iteration, self.sparsity = int(state["iteration"]), float(state["sparsity"])
        saved = state.get("pruning", {})
        if self.tensors and saved:
            self._load_tensors(saved.get("tensors"), tensors)
        if self._saliency is not None and saved:
            self._saliency.seen = list(saved["seen"])
        self.take_notes(saved)
        if "masks" in saved:
            self.generator.set_state(torch.tensor(list(base64.b64decode(saved["generator"])), dtype=torch.uint8))
            masks = unpacked(saved["masks"], self.weights)
            for one, mask in zip(self.weights, masks, strict=True):
                one.mask = mask  # no weight comes back: those of ``state`` are live already
            self._set(masks)
            if self.config.allocation == "global":
                self.target_zeros = [int((~one.mask).sum()) for one in self.weights]
        elif self.sparsity > 0.0:  # saved before masks were: what is zero was pruned
            for one in self.weights:
                one.mask = one.weight.detach() != 0  # so that these go first
            self._set(self.drop(self.schedule.fraction(self.iteration)))

    @torch.no_grad()
    def _load_tensors(self, encoded: Mapping[str, str] | None, arrays: Mapping[str, Any] | None) -> None:
        for name, values in self.tensors.items():
            if encoded is not None:
                values.copy_(_decoded(encoded[name], values))
            elif arrays is not None and name in arrays:
                values.copy_(torch.as_tensor(arrays[name]))
            else:
                raise UnsupportedError(
                    "the file does not hold what pruning has added up so far: open the agent with policypress.rl.load."
                )

    def remove(self) -> None:
        """Stops enforcing; present weights stay."""
        self._enforcement.remove()
        if self._saliency is not None:
            self._saliency.remove()

    def _set(self, masks: Sequence[torch.Tensor]) -> None:
        for one, mask in zip(self.weights, masks, strict=True):
            one.set_mask(mask)
        state = self.generator.get_state().numpy().tobytes()
        self._saved = {
            "masks": packed(masks),
            "generator": base64.b64encode(state).decode(),
        }


class NoPruning(Pruning):
    """Nothing is pruned; no step of an optimizer does anything for it."""

    def enforce(self) -> Enforcement:
        return Enforcement((), self.look)

    def step(self, step: int) -> None:
        """Nothing changes."""

    def update(self, iteration: int, due: float) -> None:
        """Nothing is new."""


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


def packed(masks: Sequence[torch.Tensor]) -> list[str]:
    """Masks as JSON values: packed bits in base64."""
    return [base64.b64encode(np.packbits(mask.cpu().numpy()).tobytes()).decode() for mask in masks]


def unpacked(packed: Sequence[str], weights: Sequence[PrunedWeight]) -> list[torch.Tensor]:
    """The inverse of ``packed``, for ``weights``; UnsupportedError for masks of others."""
    bits = [np.frombuffer(base64.b64decode(one), np.uint8) for one in packed]
    counts = [one.weight.numel() for one in weights]
    if [len(one) for one in bits] != [-(-count // 8) for count in counts]:
        raise UnsupportedError("the saved masks are those of another network: load the network that they came from.")
    return [
        torch.from_numpy(np.unpackbits(values, count=count).astype(bool)).view_as(one.weight).to(one.weight.device)
        for values, count, one in zip(bits, counts, weights, strict=True)
    ]


def _encoded(values: torch.Tensor) -> str:
    return base64.b64encode(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).decode()


def _decoded(encoded: str, like: torch.Tensor) -> torch.Tensor:
    found = torch.frombuffer(bytearray(base64.b64decode(encoded)), dtype=torch.uint8).view(like.dtype)
    if found.numel() != like.numel():
        raise UnsupportedError("what was saved is of another network: load the network that it came from.")
    return found.view_as(like)
