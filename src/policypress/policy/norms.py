"""LayerNorm, one formula: what every numerics, engine and format computes of a vector.

Like the functions of ``activations.py`` it is written once, over values that know +, -, * and / and a namespace ``m``
with ``mean`` and ``sqrt``: NumPy arrays make it the reference, the ONNX export and the count of operations bring values
of their own. Only ``runtime/engine.c`` spells it out again, in the same order. ``docs/arithmetic.md`` says the same in
prose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def layer_norm(m: Any, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    """Ba, Kiros and Hinton 2016, "Layer Normalization", equation 4, with the variance's ``epsilon`` of PyTorch."""
    apart = x - m.mean(x)
    return apart / m.sqrt(m.mean(apart * apart) + epsilon) * weight + bias


class NumPy:
    """The namespace ``m`` for float32 arrays (..., values)."""

    @staticmethod
    def mean(x: Float32) -> Float32:
        """Of the last axis, which stays: the first value, plus each of the others in their order, over their number."""
        sums: Float32 = np.add.accumulate(x, axis=-1)[..., -1:]
        return sums / np.float32(x.shape[-1])

    @staticmethod
    def sqrt(x: Float32) -> Float32:
        """Rounded as IEEE 754 says; NaN of what has overflowed, which would otherwise make zeros of all values."""
        return np.where(np.isfinite(x), np.sqrt(x), np.float32(np.nan))
