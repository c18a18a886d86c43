"""What a weight is worth by what training does with it: added up while it goes on.

A new one is a subclass of ``Saliency``, a line in ``SALIENCIES``, and its name in ``policypress.config.Criterion`` and
``BY_TRAINING``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from policypress.compression.graph import Graph, LayerNode
from policypress.compression.masks import PrunedWeight
from policypress.compression.recurrent import Recurrent
from policypress.config import Criterion
from policypress.errors import UnsupportedError

_MEMORY = 0.99
"""Of a running mean: about the last hundred gradients count."""


class Saliency(ABC):
    """Scores of ``weights`` that grow as they are trained; ``sums`` holds what is added up, and ``seen`` how often each
    weight was looked at. Both are all that it remembers. ``graphs``: the networks that the weights are part of.
    ``units``: whole units go, see ``Activation``."""

    ENOUGH = 8
    """Looks at each weight before anything is pruned by them."""
    by_gradients = True
    """Whether it looks at gradients, in every step, before they are masked."""

    def __init__(self, weights: Sequence[PrunedWeight], graphs: Sequence[Graph], units: bool = False) -> None:
        self._weights = list(weights)
        self.sums: dict[str, torch.Tensor] = {}
        self.seen = [0] * len(self._weights)

    def add_up(self, name: str, dim: int | None = None) -> list[torch.Tensor]:
        """A tensor of zeros for each weight, of its shape or as long as its dimension ``dim``, kept under ``name``."""
        weights = [one.weight.detach() for one in self._weights]
        zeros = [torch.zeros_like(one) if dim is None else one.new_zeros(one.shape[dim]) for one in weights]
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

    def watch(self) -> None:  # noqa: B027 - most look at weights alone
        """Goes on with the modules that stand for the layers now: quantization puts others in their places."""

    def remove(self) -> None:  # noqa: B027 - as above
        """Ends looking."""

    @abstractmethod
    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        """One step's whole ``gradients`` of the weights at ``places``."""

    @abstractmethod
    def scores(self) -> list[torch.Tensor]:
        """Of each weight's shape, of any sign; the lowest go first."""


class Movement(Saliency):
    """How far the gradients have moved a weight away from zero: the sum of -w dL/dw over the whole training. Source:
    Sanh, Wolf and Rush 2020; here a pruned weight is zero and stays it, as in their hard variant."""

    def __init__(self, weights: Sequence[PrunedWeight], graphs: Sequence[Graph], units: bool = False) -> None:
        super().__init__(weights, graphs, units)
        self._moved = self.add_up("moved")

    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        for place, gradient in zip(places, gradients, strict=True):
            self._moved[place].addcmul_(self._weights[place].weight, gradient, value=-1.0)

    def scores(self) -> list[torch.Tensor]:
        return self._moved


class Snip(Saliency):
    """What leaving a weight out would change of the loss: |w dL/dw|, of a running mean. Source: Lee, Ajanthan and Torr
    2019 (SNIP), of one batch; over several rounds de Jorge et al. 2021."""

    def __init__(self, weights: Sequence[PrunedWeight], graphs: Sequence[Graph], units: bool = False) -> None:
        super().__init__(weights, graphs, units)
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

    def __init__(self, weights: Sequence[PrunedWeight], graphs: Sequence[Graph], units: bool = False) -> None:
        super().__init__(weights, graphs, units)
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


class Activation(Saliency):
    """How strong what a weight reads is: |w| times the root mean square of its input, a running mean over the passes
    that training takes. Source: Sun et al. 2024 (Wanda), on single weights of a layer.

    Where whole units go, how strong what a unit says is: the root mean square of its output, behind a ReLU. Source: Hu
    et al. 2016 (Network Trimming), who count how often it is zero.
    """

    STRIDE = 8
    """Passes of a layer of which one is looked at."""
    by_gradients = False

    def __init__(self, weights: Sequence[PrunedWeight], graphs: Sequence[Graph], units: bool = False) -> None:
        super().__init__(weights, graphs, units)
        self._units = units
        known = {id(node.module.weight): node for graph in graphs for node in graph.layers}
        self._nodes = [self._node(one, known.get(id(one.weight))) for one in self._weights]
        self._strength = self.add_up("strength", 0 if units else 1)
        self._watched: list[tuple[nn.Module, RemovableHandle] | None] = [None] * len(self._weights)
        self.watch()

    @staticmethod
    def _node(one: PrunedWeight, node: LayerNode | None) -> LayerNode:
        if node is None or isinstance(node.owner, Recurrent):
            raise UnsupportedError(
                f"criterion=activation sees no inputs of {one.name}, which is no layer of its own: take another "
                "criterion."
            )
        return node

    def look(self, weights: Sequence[PrunedWeight]) -> None:
        """Nothing: it looks at passes."""

    def watch(self) -> None:
        for place, node in enumerate(self._nodes):
            watched = self._watched[place]
            if watched is None or watched[0] is not node.module:
                if watched is not None:
                    watched[1].remove()
                self._watched[place] = (node.module, node.module.register_forward_hook(self._hook(place)))

    def _hook(self, place: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if module.training and torch.is_grad_enabled():
                if self.seen[place] % self.STRIDE == 0:
                    self._see(place, output if self._units else inputs[0])
                self.seen[place] += 1

        return hook

    @torch.no_grad()
    def _see(self, place: int, values: torch.Tensor) -> None:
        if self._units and self._nodes[place].relu:
            values = values.clamp(min=0.0)
        channels = -1 if self._weights[place].weight.dim() == 2 else -3
        others = [dim for dim in range(values.dim()) if dim != channels % values.dim()]
        self._strength[place].lerp_(values.square().mean(others), 1.0 - _MEMORY)

    def take(self, places: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
        """Gradients do not count."""

    def scores(self) -> list[torch.Tensor]:
        weights = [one.weight.detach() for one in self._weights]
        strengths = [one.sqrt() for one in self._strength]
        if self._units:
            return [
                strength.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
                for weight, strength in zip(weights, strengths, strict=True)
            ]
        return [
            weight.abs() * strength.view(1, -1, *[1] * (weight.dim() - 2))
            for weight, strength in zip(weights, strengths, strict=True)
        ]

    def remove(self) -> None:
        for watched in self._watched:
            if watched is not None:
                watched[1].remove()
        self._nodes, self._watched = [], []


SALIENCIES: dict[Criterion, type[Saliency]] = {
    "movement": Movement,
    "snip": Snip,
    "grasp": Grasp,
    "activation": Activation,
}
