"""Masks beside the optimizer: pruned weights and their moments stay exactly zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def top_k_mask(scores: torch.Tensor, zeros: int) -> torch.Tensor:
    """Boolean mask of ``scores``' shape with exactly ``zeros`` entries False: the lowest scores, earlier ones first."""
    flat = scores.flatten()
    if zeros <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if zeros >= flat.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(flat, zeros).values
    mask = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    surplus = flat.numel() - zeros - int(mask.sum())
    if surplus > 0:
        mask[ties[len(ties) - surplus :]] = True
    return mask.view_as(scores)


class Masks:
    """One boolean mask for each pruned weight, enforced in every optimizer step.

    A weight that is pruned becomes zero together with its moments (any optimizer state of its shape), and from then on
    its gradient is zeroed before each step: Adam, SGD and weight decay then leave it exactly zero, without a pass over
    the moments. A weight that somebody else has written to since is zeroed too. Modules are left as they are, so that
    save, load and deepcopy of the network keep working.
    """

    def __init__(self, weights: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        self.weights = list(weights)
        self.masks = [torch.ones_like(weight, dtype=torch.bool) for weight in self.weights]
        self._factors = [torch.ones_like(weight) for weight in self.weights]
        self._versions = [weight._version for weight in self.weights]
        self._watch(optimizer)

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Enforces the masks in the steps of ``optimizer``, which has taken the place of another one."""
        self.remove()
        self._watch(optimizer)
        self.apply()

    def update(self, masks: Sequence[torch.Tensor]) -> None:
        """Sets new masks, one for each weight, and applies them at once."""
        self.masks = list(masks)
        # Multiplying by the weight's own dtype is several times faster than by a boolean.
        self._factors = [mask.to(weight.dtype) for mask, weight in zip(masks, self.weights, strict=True)]
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Zeroes pruned weights and their moments, for example after loading them from elsewhere."""
        for weight, factor in zip(self.weights, self._factors, strict=True):
            weight.mul_(factor)
            for value in self._optimizer.state.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    value.mul_(factor)

    def remove(self) -> None:
        """Stops enforcing; zeros stay until the next optimizer step."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        for weight, factor, version in zip(self.weights, self._factors, self._versions, strict=True):
            if weight._version != version:
                weight.mul_(factor)
            if weight.grad is not None:
                weight.grad.mul_(factor)

    def _after_step(self, _: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args or kwargs:  # a closure has computed gradients of its own
            self.apply()
        self._versions = [weight._version for weight in self.weights]
