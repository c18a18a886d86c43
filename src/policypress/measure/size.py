"""How many bytes a policy takes, counted the paper's way and as they stand in the file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from policypress.policy.payload import layer_bytes, payload_size
from policypress.policy.policy import Policy


@dataclass(frozen=True)
class LayerSize:
    """One layer: its weights' ``shape``, ``bits`` and ``nonzeros``, and its ``bytes`` in the payload."""

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: float
    bits: int
    nonzeros: int
    bytes: int


@dataclass(frozen=True)
class SizeReport:
    """Size of a policy.

    ``nominal_bytes`` counts nonzero weights times their bits, without positions or biases; ``nominal_ratio``
    is 32 bits for every weight over that, which is 32 / bits / (1 - sparsity), the count of arXiv 2405.07748.
    ``file_bytes`` is the payload of the file, and ``file_ratio`` is ``baseline_bytes`` over it.
    """

    weights: int
    nonzeros: int
    sparsity: float
    baseline_bytes: int
    nominal_bytes: float
    nominal_ratio: float
    file_bytes: int
    file_ratio: float
    layers: tuple[LayerSize, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values; ``nominal_ratio`` is None when every weight is zero."""
        return {**dataclasses.asdict(self), "nominal_ratio": self.nominal_ratio if self.nonzeros else None}


def size(policy: Policy) -> SizeReport:
    """Size of ``policy``, in all and layer by layer."""
    layers = policy.layers
    weights = sum(layer.weight.size for layer in layers)
    nonzeros = sum(layer.nonzeros for layer in layers)
    nominal_bits = sum(layer.nonzeros * layer.weight_bits for layer in layers)
    file_bytes = payload_size(policy)
    rows = (
        LayerSize(
            name=layer.name,
            kind="conv" if layer.is_conv else "linear",
            shape=layer.weight.shape,
            sparsity=layer.sparsity,
            bits=layer.weight_bits,
            nonzeros=layer.nonzeros,
            bytes=layer_bytes(policy, layer),
        )
        for layer in layers
    )
    return SizeReport(
        weights=weights,
        nonzeros=nonzeros,
        sparsity=1 - nonzeros / weights,
        baseline_bytes=policy.baseline_bytes,
        nominal_bytes=nominal_bits / 8,
        nominal_ratio=32 * weights / nominal_bits if nominal_bits else math.inf,
        file_bytes=file_bytes,
        file_ratio=policy.baseline_bytes / file_bytes,
        layers=tuple(rows),
    )
