"""Structures of masks: which weights of a layer may be zero together."""

from __future__ import annotations

from typing import get_args

import torch

from policypress.compression.allocation import allocate
from policypress.compression.mask_structures import STRUCTURES
from policypress.compression.masks import top_k_mask
from policypress.config import CompressionConfig, Structure

SHAPES = [(20, 6), (3, 20), (8, 3, 3, 3)]


def test_every_name_has_a_structure() -> None:
    assert set(STRUCTURES) == set(get_args(Structure))


def test_without_structure_the_least_worthy_go() -> None:
    structure, config = STRUCTURES["unstructured"], CompressionConfig(sparsity=0.7)
    zeros = structure.zeros(config, SHAPES, ())
    assert zeros == allocate("erk", SHAPES, 0.7)
    assert structure.sparsity(config, SHAPES) == 0.7
    worth = torch.rand(SHAPES[0], generator=torch.Generator().manual_seed(0))
    assert torch.equal(structure.mask(worth, zeros[0]), top_k_mask(worth, zeros[0]))
