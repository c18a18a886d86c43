"""Masks beside the optimizers: pruned weights and their moments stay exactly zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from policypress.errors import UnsupportedError

_ELEMENTWISE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.SGD)
"""Optimizers that leave a weight of zero alone whose gradients and moments are zero, whatever its neighbours do."""


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


@dataclass(eq=False)
class PrunedWeight:
    """A weight that may be pruned: its name, the optimizer that trains it, and weights of target networks
    (``followers``, of its shape) that are pruned with it. ``mask``: where it is live, boolean, of its shape."""

    name: str
    weight: nn.Parameter
    optimizer: torch.optim.Optimizer
    followers: Sequence[torch.Tensor] = ()
    mask: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mask = torch.ones_like(self.weight, dtype=torch.bool)
        self._factor = torch.ones_like(self.weight)
        self._version = self.weight._version

    @torch.no_grad()
    def set_mask(self, mask: torch.Tensor) -> None:
        """Prunes by ``mask`` at once. What comes back starts from zero, with moments of zero."""
        # Multiplying by the weight's own dtype is several times faster than by a boolean.
        self._factor = (mask & self.mask).to(self.weight.dtype)
        self.apply()
        for follower in self.followers:
            follower.mul_(self._factor)
        self.mask, self._factor = mask, mask.to(self.weight.dtype)

    @torch.no_grad()
    def apply(self) -> None:
        """Zeroes what is pruned of the weight and of its moments: any optimizer state of its shape."""
        self.weight.mul_(self._factor)
        for value in self.optimizer.state.get(self.weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == self.weight.shape:
                value.mul_(self._factor)

    def before_step(self) -> None:
        if self.weight._version != self._version:
            self.weight.mul_(self._factor)
        if self.weight.grad is not None:
            self.weight.grad.mul_(self._factor)

    def after_step(self) -> None:
        self._version = self.weight._version


class Enforcement:
    """Keeps pruned weights exactly zero in every step of their optimizers.

    What is pruned is zero together with its moments, and its gradient is zeroed before each step: Adam, SGD and weight
    decay then leave it exactly zero, without a pass over the moments. Behind a step of an optimizer that may do
    otherwise all is zeroed again. A weight that somebody else has written to since is zeroed too. Modules are left as
    they are, so that save, load and deepcopy of the network keep working.
    ``look`` is called before that with the weights of the step, whose gradients are whole. ``blind``: what is wrong
    with a step that takes a closure, whose gradients nobody sees before they are used, as an UnsupportedError; "" where
    nobody needs to.
    """

    def __init__(
        self, weights: Sequence[PrunedWeight], look: Callable[[Sequence[PrunedWeight]], None], blind: str = ""
    ) -> None:
        self._weights, self._look, self._blind = list(weights), look, blind
        self._handles: list[RemovableHandle] = []
        self._of: dict[torch.optim.Optimizer, list[PrunedWeight]] = {}
        self.watch()

    def watch(self) -> None:
        """Goes on with the optimizers that the weights name now."""
        self.remove()
        self._of = {}
        for one in self._weights:
            self._of.setdefault(one.optimizer, []).append(one)
        for optimizer in self._of:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def remove(self) -> None:
        """Stops; zeros stay until the next optimizer step."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._blind and _closure(args, kwargs):
            raise UnsupportedError(self._blind)
        weights = self._of[optimizer]
        self._look(weights)
        for one in weights:
            one.before_step()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for one in self._of[optimizer]:
            if _closure(args, kwargs) or type(optimizer) not in _ELEMENTWISE:
                one.apply()
            one.after_step()


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an optimizer's ``step`` was given one, which computes gradients of its own; its first argument is the
    optimizer itself."""
    return any(value is not None for value in (*args[1:], *kwargs.values()))
