"""What a weight is worth by the gradients that training takes: added up in every step, before they are masked.

A new one is a subclass of ``Saliency``, a line in ``SALIENCIES``, and its name in ``policypress.config.Criterion`` and
``BY_GRADIENTS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from policypress.compression.masks import PrunedWeight
from policypress.config import Criterion

_MEMORY = 0.99
"""Of a running mean: about the last hundred gradients count."""


class Saliency(ABC):
    """Scores of ``weights`` that grow with every gradient; ``sums`` holds what is added up, and ``seen`` how many
    gradients of each weight there were. Both are all that it remembers."""

    ENOUGH = 8
    """Gradients of each weight before anything is pruned by them."""

    def __init__(self, weights: Sequence[PrunedWeight]) -> None:
        self._weights = list(weights)
        self.sums: dict[str, torch.Tensor] = {}
        self.seen = [0] * len(self._weights)

    def add_up(self, name: str) -> list[torch.Tensor]:
        """A tensor of zeros for each weight, kept under ``name``."""
        zeros = [torch.zeros_like(one.weight, requires_grad=False) for one in self._weights]
        self.sums |= {f"{name}/{place}": values for place, values in enumerate(zeros)}
        return zeros

    @property
    def ready(self) -> bool:
        return min(self.seen) >= self.ENOUGH

    @torch.no_grad()
    def look(self, weights: Sequence[PrunedWeight]) -> None:
        """Takes the gradients of ``weights``, some of its own, in an optimizer's step."""
        stepping = {id(one) for one in weights}
        found = [
            (place, one.weight.grad)
            for place, one in enumerate(self._weights)
            if id(one) in stepping and one.weight.grad is not None
        ]
        self.take([place for place, _ in found], [gradient for _, gradient in found])
        for place, _ in found:
            self.seen[place] += 1

    @abstractmethod
    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        """One step's whole ``gradients`` of the weights at ``places``."""

    @abstractmethod
    def scores(self) -> list[torch.Tensor]:
        """Of each weight's shape, of any sign; the lowest go first."""


class Movement(Saliency):
    """How far the gradients have moved a weight away from zero: the sum of -w dL/dw over the whole training. Source:
    Sanh, Wolf and Rush 2020; here a pruned weight is zero and stays it, as in their hard variant."""

    def __init__(self, weights: Sequence[PrunedWeight]) -> None:
        super().__init__(weights)
        self._moved = self.add_up("moved")

    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        for place, gradient in zip(places, gradients, strict=True):
            self._moved[place].addcmul_(self._weights[place].weight, gradient, value=-1.0)

    def scores(self) -> list[torch.Tensor]:
        return self._moved


class Snip(Saliency):
    """What leaving a weight out would change of the loss: |w dL/dw|, of a running mean. Source: Lee, Ajanthan and Torr
    2019 (SNIP), of one batch; over several rounds de Jorge et al. 2021."""

    def __init__(self, weights: Sequence[PrunedWeight]) -> None:
        super().__init__(weights)
        self._effect = self.add_up("effect")

    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        for place, gradient in zip(places, gradients, strict=True):
            self._effect[place].lerp_(self._weights[place].weight * gradient, 1.0 - _MEMORY)

    def scores(self) -> list[torch.Tensor]:
        return [effect.abs() for effect in self._effect]


class Grasp(Saliency):
    """What a weight does to the size of the gradient: w (H g), so that what goes takes the least of it along. Source:
    Wang, Zhang and Grosse 2020 (GraSP).

    An optimizer's step has no second derivatives, so the empirical Fisher matrix stands for H: H g is the running mean
    of g_t (g_t . g), with g the mean of the gradients before. The product is over all weights of one optimizer's step.
    """

    def __init__(self, weights: Sequence[PrunedWeight]) -> None:
        super().__init__(weights)
        self._gradient = self.add_up("gradient")
        self._product = self.add_up("product")

    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        means = [self._gradient[place] for place in places]
        along = sum(
            (torch.dot(gradient.flatten(), mean.flatten()) for gradient, mean in zip(gradients, means, strict=True)),
            start=torch.zeros(()),
        )
        for place, gradient, mean in zip(places, gradients, means, strict=True):
            self._product[place].lerp_(gradient * along, 1.0 - _MEMORY)
            mean.lerp_(gradient, 1.0 - _MEMORY)

    def scores(self) -> list[torch.Tensor]:
        return [one.weight.detach() * product for one, product in zip(self._weights, self._product, strict=True)]


SALIENCIES: dict[Criterion, type[Saliency]] = {"movement": Movement, "snip": Snip, "grasp": Grasp}
