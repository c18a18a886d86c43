"""Pruning by competition: networks of several sparsities learn beside each other, and the best one stays."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from policypress.compression.masks import PrunedWeight
from policypress.compression.pruning import Challenge, Pruning
from policypress.errors import UnsupportedError


class Competing(Pruning):
    """The network learns beside copies of it that have lost a twentieth, a tenth and a fifth of its live weights, from
    the same batches. After each of 40 rounds the one whose loss was least in it takes the network's place, and copies
    of that one those of the others. So it gets sparser as fast as it learns, and stops by itself. Source: Vincent et
    al. 2025 (EauDeQN, arXiv 2503.01437), where a round is one of the target network; the shares are ours.

    Each copy takes as long as the network itself. A network that goes on from a file begins its round anew.
    """

    ROUNDS = 40
    SHARES = (0.05, 0.1, 0.2)
    competes = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.round = -1
        self.lost = 0.0
        """Sum of the network's losses in this round."""
        self._rivals: list[_Rival] | None = None
        """None before the first step of a round."""

    @torch.no_grad()
    def update(self, iteration: int, due: float) -> list[torch.Tensor] | None:
        number = self.ROUNDS * iteration // self.schedule.iterations
        if number <= self.round:
            return None
        self.check_asked()
        self.round = number
        best = min(self._rivals or (), key=lambda rival: rival.lost, default=None)
        lost, self.lost, self._rivals = self.lost, 0.0, None
        if best is None or not best.lost < lost:
            return None
        self.sparsity = best.sparsity
        if self.config.allocation == "global":
            self.target_zeros = [int((~mask).sum()) for mask in best.masks]
        best.take_over()
        return best.masks

    def look(self, weights: Sequence[PrunedWeight]) -> None:
        super().look(weights)
        if self.challenge is None or not 0 <= self.round < self.ROUNDS:
            return
        if self._rivals is None:
            self._rivals = self._drawn_up(self.challenge)
        if not self._rivals:
            return
        self.lost += float(self.challenge.loss(self.challenge.network))
        for rival in self._rivals:
            rival.learn(self.challenge)

    def _drawn_up(self, challenge: Challenge) -> list[_Rival]:
        sparsity, zeros = self.sparsity, self.target_zeros
        rivals: list[_Rival] = []
        for share in self.SHARES:
            more = min(self.target, 1.0 - (1.0 - sparsity) * (1.0 - share))
            if more > sparsity and more not in (rival.sparsity for rival in rivals):
                masks = self.drop(more / self.target)
                rivals.append(_Rival(challenge.network, self.weights, masks, self.sparsity))
        self.sparsity, self.target_zeros = sparsity, zeros
        return rivals

    @property
    def wanted(self) -> float:
        return self.sparsity

    def notes(self) -> dict[str, Any]:
        return {"round": self.round}

    def take_notes(self, notes: Mapping[str, Any]) -> None:
        self.round = int(notes.get("round", -1))


class _Rival:
    """A copy of ``network`` that ``masks`` prune, with a copy of its optimizer. ``lost``: the sum of its losses."""

    def __init__(
        self, network: nn.Module, weights: Sequence[PrunedWeight], masks: list[torch.Tensor], sparsity: float
    ) -> None:
        self.masks, self.sparsity, self.lost = masks, sparsity, 0.0
        self._optimizer = weights[0].optimizer
        memo: dict[int, Any] = {}
        self._network = copy.deepcopy(network, memo)
        for module in self._network.modules():
            module._forward_hooks.clear()  # whoever looks at the network does not look at its copies
            module._forward_pre_hooks.clear()
        trained = [values for group in self._optimizer.param_groups for values in group["params"]]
        if any(id(values) not in memo for values in trained):
            raise UnsupportedError("the optimizer trains more than the network that competes: give the whole of it.")
        self._pairs = [(values, memo[id(values)]) for values in trained]
        self._own = copy.deepcopy(self._optimizer, memo)
        self._pruned = [
            PrunedWeight(one.name, memo[id(one.weight)], self._own) for one in weights if id(one.weight) in memo
        ]
        for one, mask in zip(self._pruned, masks, strict=True):
            one.set_mask(mask)

    def learn(self, challenge: Challenge) -> None:
        """One step, on the batch of the present one."""
        for ours, theirs in zip(self._own.param_groups, self._optimizer.param_groups, strict=True):
            ours["lr"] = theirs["lr"]
        with torch.enable_grad():
            loss = challenge.loss(self._network)
            self._own.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_([ours for _, ours in self._pairs], challenge.clip)
        for one in self._pruned:
            one.before_step()
        self._own.step()
        for one in self._pruned:
            one.apply()
            one.after_step()
        self.lost += float(loss)

    def take_over(self) -> None:
        """Its weights, and what its optimizer knows, become the network's."""
        for theirs, ours in self._pairs:
            theirs.copy_(ours)
        self._optimizer.load_state_dict(self._own.state_dict())
