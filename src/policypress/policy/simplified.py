"""The nearest policy that takes fewer bytes around its weights: scales that are powers of two, biases of few bits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError
from policypress.policy.canonical import answered
from policypress.policy.ops import (
    ZERO_POINT_LIMIT,
    Activation,
    Flatten,
    InputQuantization,
    Layer,
    Op,
    Relu,
    weight_limit,
)

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

BIAS_SHARE = 1 / 32
_DEVIATIONS = 4  # codes reach as many standard deviations as this, about
_MAX_SHIFT = 31
_MOST_COARSE = 2
"""Binary digits that an input may lose for the sake of its neighbours' scale, where it got as many more."""


def simplified(policy: Policy, *, input_bits: int | None = None, bias_share: float = BIAS_SHARE) -> Policy:
    """The nearest policy whose input scales, and the scale of whose outputs, are powers of two, and whose biases are
    multiples of one in each layer.

    ``policy``: fully connected layers with activations, in integers; its observations are vectors. No observation is
    clipped that was not before. The input keeps its bits, which makes it up to half as fine, or gets ``input_bits``,
    2 to 16; if these are more, neighbours share a scale where that is at most 2 digits coarser than the range of each
    allows. Weights of the first layer follow the input's scales, column by column, and are rounded again; so are those
    of the last layer; they stay about as large as they are. The biases of a layer become multiples of the largest power
    of two that is at most ``bias_share`` of the spread of its accumulators. Test vectors are answered anew; results are
    another policy's and left out.

    Raises UnsupportedError for other policies, PolicypressError if an accumulator could overflow.
    """
    old = policy.input
    if old is None or policy.observation.image:
        raise UnsupportedError("Only an integer policy of vectors can be simplified.")
    inputs = _with_powers_of_two(old, input_bits or old.bits)
    ops: list[Op] = []
    codes, first = (inputs.low, inputs.high), True
    for op in policy.ops:
        if isinstance(op, Layer) and not op.is_conv:
            weight, bias = op.weight.astype(np.float64), op.bias.astype(np.float64)
            if first:
                weight, bias = _for_inputs(weight, bias, old, inputs)
            ops.append(_rounded(*_in_powers_of_two(op, weight, bias), max(-codes[0], codes[1]), bias_share))
            first = False
        elif isinstance(op, Relu | Activation | Flatten):
            ops.append(op)
        else:
            raise UnsupportedError("Only fully connected layers and activations can be simplified.")
        codes = ops[-1].codes(*codes)
    result = dataclasses.replace(policy, ops=tuple(ops), input=inputs, results={}, test_vectors=None)
    return answered(result, policy.test_vectors)


def _with_powers_of_two(old: InputQuantization, bits: int) -> InputQuantization:
    """Inverse scales rounded down, so that nothing more is clipped, with zero points that fit them."""
    low, high = old.low, old.high
    if bits != old.bits:
        low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if low < 0 else (0, 2**bits - 1)
    zeros, finer = old.zero_point, np.full(old.inverse_scale.shape, max(-low, high) / max(-old.low, old.high))
    if zeros is not None:
        finer = np.minimum(finer, ZERO_POINT_LIMIT / np.maximum(np.abs(zeros), 1))
    finest = np.frexp(old.inverse_scale * finer)[1] - 1
    inverse_scale = np.ldexp(1.0, _shared(finest, min(max(0, bits - old.bits), _MOST_COARSE))).astype(np.float32)
    if zeros is not None:
        zeros = np.rint(zeros * (inverse_scale.astype(np.float64) / old.inverse_scale)).astype(np.int32)
        zeros = zeros if zeros.any() else None
    return InputQuantization(inverse_scale, low, high, bits, zeros)


def _shared(finest: NDArray[np.int32], coarser: int) -> NDArray[np.int32]:
    """Exponents at most ``coarser`` below ``finest`` that change as rarely as can be: runs that end where they must."""
    found, start = finest.copy(), 0
    for end in range(1, len(finest) + 1):
        if end == len(finest) or np.ptp(finest[start : end + 1]) > coarser:
            run = finest[start:end]
            found[start:end] = np.clip(round(run.mean() - coarser / 2), run.max() - coarser, run.min())
            start = end
    return found


def _for_inputs(
    weight: NDArray[np.float64], bias: NDArray[np.float64], old: InputQuantization, new: InputQuantization
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first layer's weights and biases as the codes of ``new`` need them, not rounded."""
    finer = new.inverse_scale.astype(np.float64) / old.inverse_scale
    weight = weight / finer
    if old.zero_point is not None:  # what was lost in rounding them
        moved = finer * old.zero_point - (0 if new.zero_point is None else new.zero_point)
        bias = bias - weight @ np.broadcast_to(moved, weight.shape[1:])
    return weight, bias


def _in_powers_of_two(
    layer: Layer, weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> tuple[Layer, NDArray[np.float64], NDArray[np.float64]]:
    """``layer`` for accumulators that are a power of two times as large, and weights and biases that give them.

    That factor keeps the weights about as large as they were, and within their limits. Accumulators that are outputs
    get one scale, a power of two.
    """
    digits = 0
    if layer.requantize is None:
        weight, bias = weight * layer.scale[:, None], bias * layer.scale
        digits = int(np.ceil(-np.log2(layer.scale.min())))
    if weight.any():
        before, now = (float(np.sqrt(np.square(w, dtype=np.float64).mean())) for w in (layer.weight, weight))
        most = (weight_limit(layer.weight_bits) + 0.49) / float(np.abs(weight).max())
        digits = int(min(np.rint(np.log2(before / now)), np.floor(np.log2(most))))
    requantize = layer.requantize
    if requantize is None:
        layer = dataclasses.replace(layer, scale=np.array([2.0**-digits], np.float32))
    else:
        digits = min(digits, _MAX_SHIFT - int(requantize.shift.max()))
        requantize = dataclasses.replace(requantize, shift=requantize.shift + np.int32(digits))
        layer = dataclasses.replace(layer, scale=layer.scale * np.float32(2.0**-digits), requantize=requantize)
    factor = 2.0**digits
    return layer, weight * factor, bias * factor


def _rounded(
    layer: Layer, weight: NDArray[np.float64], bias: NDArray[np.float64], reach: int, bias_share: float
) -> Layer:
    """``layer`` with the integers nearest to ``weight`` and ``bias``; codes up to ``reach`` go into it."""
    weight = np.rint(weight)
    spread = np.sqrt(np.square(weight).sum(axis=1)) * (reach / _DEVIATIONS)
    shares = bias_share * spread[spread > 0]
    unit = 2.0 ** max(0.0, np.floor(np.log2(shares.min()))) if shares.size else 1.0
    return dataclasses.replace(
        layer, weight=weight.astype(np.int8), bias=(np.rint(bias / unit) * unit).astype(np.int32)
    )
