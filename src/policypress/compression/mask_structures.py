"""Which weights of a layer may be zero together: the structures of masks.

A new structure is a subclass of ``Structure``, a line in ``STRUCTURES``, and its name in
``policypress.config.Structure``.
"""

from __future__ import annotations

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


STRUCTURES: dict[config.Structure, Structure] = {"unstructured": Structure()}
