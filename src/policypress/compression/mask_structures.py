"""Which weights of a layer may be zero together: the structures of masks.

A new structure is a subclass of ``Structure``, a line in ``STRUCTURES``, and its name in
``policypress.config.Structure``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from policypress import config
from policypress.compression.allocation import Shape, allocate
from policypress.compression.masks import top_k_mask
from policypress.config import CompressionConfig


class Structure:
    """Any weight may be zero, whatever its neighbours are. Subclasses say otherwise."""

    def zeros(self, config: CompressionConfig, shapes: Sequence[Shape], names: Sequence[str]) -> list[int]:
        """Number of zeros in the end, for layers of these shapes. Raises ConfigError when one would be emptied."""
        return allocate(config.allocation, shapes, config.sparsity, names)

    def sparsity(self, config: CompressionConfig, shapes: Sequence[Shape]) -> float:
        """Of all weights, in the end."""
        return config.sparsity

    def mask(self, worth: torch.Tensor, zeros: int) -> torch.Tensor:
        """A mask of ``worth``'s shape with exactly ``zeros`` entries False: the least worthy, earlier ones first."""
        return top_k_mask(worth, zeros)


class NeighbouringInputs(Structure):
    """Of every ``group`` neighbouring inputs of a unit (input channels at one place of a kernel) at most ``live`` keep
    their weight; so do as many of the last, smaller group. On the way there the least worthy of those that will go in
    the end go first. Source: Mishra et al. 2021 (2:4)."""

    def __init__(self, live: int, group: int) -> None:
        self.live, self.group = live, group

    def zeros(self, config: CompressionConfig, shapes: Sequence[Shape], names: Sequence[str]) -> list[int]:
        return [self._zeros(shape[1]) * math.prod(shape) // shape[1] for shape in shapes]

    def sparsity(self, config: CompressionConfig, shapes: Sequence[Shape]) -> float:
        return sum(self.zeros(config, shapes, ())) / sum(math.prod(shape) for shape in shapes)

    def mask(self, worth: torch.Tensor, zeros: int) -> torch.Tensor:
        return top_k_mask(worth.masked_fill(self._stays(worth), torch.inf), zeros)

    def _zeros(self, inputs: int) -> int:
        """Of one unit, at one place of its kernel."""
        whole, rest = divmod(inputs, self.group)
        return whole * (self.group - self.live) + max(0, rest - self.live)

    def _stays(self, worth: torch.Tensor) -> torch.Tensor:
        """The most worthy ``live`` of every group, boolean of ``worth``'s shape; later ones of equals."""
        rows = worth.movedim(1, -1)
        missing = -rows.shape[-1] % self.group
        padded = torch.nn.functional.pad(rows, (0, missing), value=-torch.inf).unflatten(-1, (-1, self.group))
        best = padded.sort(dim=-1, stable=True).indices[..., -self.live :]
        stays = torch.zeros_like(padded, dtype=torch.bool).scatter(-1, best, True)
        return stays.flatten(-2)[..., : rows.shape[-1]].movedim(-1, 1)


STRUCTURES: dict[config.Structure, Structure] = {"unstructured": Structure(), "2:4": NeighbouringInputs(2, 4)}
