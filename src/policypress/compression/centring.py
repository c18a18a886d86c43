"""A first layer that learns as if its inputs were centred and of one spread, and stays the layer it is.

Source: LeCun et al. 1998, Efficient BackProp, section 4.3. Observations of a robot have spreads from hundredths (the
direction of gravity) to units (its last actions). An optimizer whose steps are as large for every weight, as Adam's
are, then hardly moves the first and shakes the second. Normalizing them would say so in the deployed policy; here
weights and steps are scaled instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_WIDEST = 64.0
"""How many times smaller than the largest spread, or than a mean, a spread counts at most: what hardly varies yet may
vary later."""


class Centring:
    """Scales the first Linear layer of a fresh ``network``, and every step of ``optimizer`` from then on, once
    ``centre`` has told its inputs.

    With inputs z = (x - mean) / spread the layer is V z + c; its weight is V / spread, its bias c - weight mean, and
    the optimizer moves V and c. Comes before what else watches the optimizer's steps: what they leave is last.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        layer = next(module for module in network.modules() if isinstance(module, nn.Linear))
        self._weight, self._bias = layer.weight, layer.bias
        self._before = self._weight.detach().clone()
        self._mean, self._spread = torch.zeros_like(self._weight[0]), torch.ones_like(self._weight[0])
        optimizer.register_step_pre_hook(self._prepare)
        optimizer.register_step_post_hook(self._scale)

    @torch.no_grad()
    def centre(self, observations: torch.Tensor) -> None:
        """Before the first step: the inputs are such as ``observations`` (n, ...), or so many of them in a row."""
        found = moments(observations.flatten(1).to(self._weight))
        self._mean, self._spread = (one.repeat(self._weight.shape[1] // len(one)) for one in found)
        self._weight.div_(self._spread)
        self._bias.sub_(self._weight @ self._mean)

    @torch.no_grad()
    def _prepare(self, *_: Any) -> None:
        """The gradient of V (but for its size, which Adam does not see) where c stands still."""
        self._before.copy_(self._weight)
        if self._weight.grad is not None and self._bias.grad is not None:
            self._weight.grad.addr_(self._bias.grad, self._mean, alpha=-1.0)

    @torch.no_grad()
    def _scale(self, *_: Any) -> None:
        moved = (self._weight - self._before) / self._spread
        self._weight.copy_(self._before + moved)
        self._bias.sub_(moved @ self._mean)


@torch.no_grad()
def moments(observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of each of ``observations`` (n, features); no spread is 0."""
    mean, spread = observations.mean(0), observations.std(0, correction=0)
    least = torch.maximum(mean.abs(), spread.max()) / _WIDEST
    return mean, torch.where(least > 0, torch.maximum(spread, least), 1.0)
