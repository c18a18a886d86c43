"""How many bytes a policy takes: the paper's count, its payload, and the zero-order bound."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policypress.policy.ops import FLOAT_BITS, Layer
from policypress.policy.payload import payload_costs
from policypress.policy.policy import Policy


@dataclass(frozen=True)
class LayerSize:
    """One layer: its weights' ``shape`` in the payload and in training, ``bits`` and ``nonzeros``; the bits that its
    ``positions``, ``values``, ``biases`` and ``constants`` (shape, scales, requantization, model of the coder) take in
    the payload; and the ``bound`` in bits."""

    name: str
    kind: Literal["conv", "linear"]
    shape: tuple[int, ...]
    trained_shape: tuple[int, ...]
    sparsity: float
    bits: int
    nonzeros: int
    positions: float
    values: float
    biases: float
    constants: float
    bound: float

    @property
    def bytes(self) -> float:
        """What the layer takes in the payload, in bytes."""
        return (self.positions + self.values + self.biases + self.constants) / 8


@dataclass(frozen=True)
class SizeReport:
    """Size of a policy.

    ``nominal_bytes`` counts nonzero weights times their bits, without positions or biases; ``nominal_ratio``
    is 32 bits for every trained weight over that, the count of arXiv 2405.07748 (32 / bits / (1 - sparsity)).
    ``payload_bytes`` is the payload of the file (what would be sent or flashed), ``payload_ratio`` is
    ``baseline_bytes`` over it, ``header`` the bits in it that are no layer's. ``bound_bytes`` is the zero-order bound
    (``zero_order_bound``), ``payload_to_bound`` the payload over it: below 1 where the coder knows more of the weights
    than their counts.
    """

    weights: int
    nonzeros: int
    sparsity: float
    baseline_bytes: int
    nominal_bytes: float
    nominal_ratio: float
    payload_bytes: int
    payload_ratio: float
    header: float
    bound_bytes: float
    payload_to_bound: float
    layers: tuple[LayerSize, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values; ``nominal_ratio`` is None when every weight is zero."""
        return {**dataclasses.asdict(self), "nominal_ratio": self.nominal_ratio if self.nonzeros else None}


def size(policy: Policy) -> SizeReport:
    """Size of ``policy``, in all and layer by layer."""
    layers = policy.layers
    weights = sum(layer.trained_weights for layer in layers)
    nonzeros = sum(layer.nonzeros for layer in layers)
    nominal_bits = sum(layer.nonzeros * layer.weight_bits for layer in layers)
    payload, costs, header = payload_costs(policy)
    rows = tuple(
        LayerSize(
            name=layer.name or f"layer {index}",
            kind="conv" if layer.is_conv else "linear",
            shape=layer.weight.shape,
            trained_shape=layer.trained_shape or layer.weight.shape,
            sparsity=layer.sparsity,
            bits=layer.weight_bits,
            nonzeros=layer.nonzeros,
            **dataclasses.asdict(cost),
            bound=zero_order_bound(layer),
        )
        for index, (layer, cost) in enumerate(zip(layers, costs, strict=True))
    )
    bound = sum(row.bound for row in rows) / 8
    return SizeReport(
        weights=weights,
        nonzeros=nonzeros,
        sparsity=1 - nonzeros / weights,
        baseline_bytes=policy.baseline_bytes,
        nominal_bytes=nominal_bits / 8,
        nominal_ratio=32 * weights / nominal_bits if nominal_bits else math.inf,
        payload_bytes=len(payload),
        payload_ratio=policy.baseline_bytes / len(payload),
        header=header,
        bound_bytes=bound,
        payload_to_bound=len(payload) / bound if bound else math.inf,
        layers=rows,
    )


def sizes(policy: Policy) -> dict[str, Any]:
    """``SizeReport.as_dict`` with ``disk_bytes``, the whole ``.policy`` file as ``save`` writes it, card and test
    vectors included, and ``flash_bytes``, the constants of the exported C, weights as they are used."""
    from policypress.export.c import flash_bytes  # imports this package
    from policypress.policy.artifact import encode

    return {**size(policy).as_dict(), "disk_bytes": len(encode(policy)), "flash_bytes": flash_bytes(policy)}


def zero_order_bound(layer: Layer) -> float:
    """log2 C(n, k) + k H(values) + outputs H(biases) in bits: what positions, nonzero values and biases take when
    nothing but how often each occurs is known, and told for free. Floats count as 32 bits."""
    n, k = layer.weight.size, layer.nonzeros
    positions = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    values = 32.0 * k if layer.weight_bits == FLOAT_BITS else _entropy(layer.weight[layer.weight != 0])
    biases = 32.0 * layer.bias.size if layer.bias.dtype == np.float32 else _entropy(layer.bias)
    return positions + values + biases


def _entropy(values: NDArray[Any]) -> float:
    """Empirical entropy of all ``values`` together, in bits."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / max(values.size, 1))).sum())
