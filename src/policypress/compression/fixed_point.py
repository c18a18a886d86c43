"""Real ratios of scales as the engine multiplies by them: an integer and a shift."""

from __future__ import annotations

import numpy as np
import torch

MULTIPLIER_BITS = 8
FLOAT32_SHIFT = 16
"""Up to this shift, ``floor(acc * multiplier / 2**shift + 1/2)`` is exact in float32: a product below 2**24 units of
2**-16 and its sum with 1/2 fit 24 bits, and a larger one stays above 255 codes, which are clipped."""
MAX_SHIFT = 31
INT32 = (-(2**31), 2**31 - 1)


def multiplier_and_shift(ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed-point form of positive ``ratio``: (multiplier in [16, 256), shift in [1, 31]), both int32.

    The multiplier has eight bits, or as few as five where that lets the shift stay at FLOAT32_SHIFT.
    """
    exact = ratio.detach().cpu().numpy().astype(np.float64)  # by NumPy, which takes half of torch's time
    mantissa, exponent = np.frexp(exact)
    multiplier = np.rint(mantissa * 2**MULTIPLIER_BITS)
    carry = multiplier == 2**MULTIPLIER_BITS
    multiplier = np.where(carry, multiplier / 2, multiplier)
    shift = MULTIPLIER_BITS - exponent - carry
    short = (shift > FLOAT32_SHIFT) & (shift <= FLOAT32_SHIFT + 3)
    multiplier = np.where(short, np.rint(exact * 2**FLOAT32_SHIFT), multiplier)
    shift = np.where(short, FLOAT32_SHIFT, shift).clip(1, MAX_SHIFT)
    found = (torch.from_numpy(np.asarray(one, np.int32)) for one in (multiplier, shift))
    first, second = (one.to(ratio.device) for one in found)
    return first, second


def fixed_point(multiplier: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """multiplier / 2**shift, exact: float32 where requantization is exact in it, else float64."""
    ratio = torch.ldexp(multiplier.double(), -shift)
    return ratio.float() if int(shift.max()) <= FLOAT32_SHIFT else ratio
