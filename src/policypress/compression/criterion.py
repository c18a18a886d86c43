"""What a weight is worth: the least valuable are pruned first."""

from __future__ import annotations

import torch

from policypress.config import Criterion


def score(criterion: Criterion, weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Non-negative scores of ``weight``'s shape; ``generator`` decides for "random"."""
    if criterion == "magnitude":
        return weight.detach().abs()
    return torch.rand(weight.shape, generator=generator).to(weight.device)
