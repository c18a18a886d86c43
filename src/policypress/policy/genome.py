"""The integers of a policy as one vector of numbers, and back: what evolution changes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError
from policypress.policy.ops import Layer, Op, Requantization, weight_limit
from policypress.policy.simplified import simplified

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

_DEVIATIONS = 4  # codes reach as many standard deviations as this, about
_LARGEST_MULTIPLIER = 255


class Genome:
    """The weight codes and biases of ``template``, an integer policy of fully connected layers, as one vector.

    The template is ``simplified`` first, and the weight codes of every layer are scaled to a root mean square of
    ``code_rms``: a quarter of it is two bits less a weight. A number of the vector is one of these integers in units of
    its layer's ``code_rms``, and a bias weighs as much as a weight does for a typical input. ``start`` is the vector of
    the template; numbers that are rounded to the same integers are the same policy.

    Raises UnsupportedError for a template that is no such policy.
    """

    def __init__(self, template: Policy, code_rms: float) -> None:
        template = simplified(template)
        assert template.input is not None
        low, high = template.input.low, template.input.high
        ops: list[Op] = []
        for op in template.ops:
            ops.append(op := _scaled(op, code_rms) if isinstance(op, Layer) else op)
            low, high = op.codes(low, high)
        self.template = dataclasses.replace(template, ops=tuple(ops), provenance={}, test_vectors=None)
        self._units = _bias_units(self.template)
        self._code_rms = code_rms
        layers = zip(self.template.layers, self._units, strict=True)
        numbers = [part for layer, unit in layers for part in (layer.weight.ravel(), layer.bias / unit)]
        self.start: NDArray[np.float64] = np.concatenate(numbers).astype(np.float64) / code_rms

    @property
    def size(self) -> int:
        """Numbers of the vector."""
        return len(self.start)

    def policy(self, vector: NDArray[np.float64]) -> Policy:
        """The policy of the integers nearest to ``vector`` (size,), without provenance and test vectors."""
        numbers = np.rint(vector * self._code_rms)
        units, ops, at = iter(self._units), list[Op](), 0
        for op in self.template.ops:
            if isinstance(op, Layer):
                limit, unit = weight_limit(op.weight_bits), next(units)
                weight = np.clip(numbers[at : at + op.weight.size], -limit, limit).reshape(op.weight.shape)
                at += op.weight.size
                bias = np.clip(numbers[at : at + op.bias.size] * unit, -(2**30), 2**30)
                at += op.bias.size
                op = dataclasses.replace(op, weight=weight.astype(np.int8), bias=bias.astype(np.int32))
            ops.append(op)
        return dataclasses.replace(self.template, ops=tuple(ops))


def _scaled(layer: Layer, code_rms: float) -> Layer:
    """``layer`` with weight codes of about ``code_rms``, and what follows adjusted: it computes nearly the same."""
    limit = weight_limit(layer.weight_bits)
    weight = layer.weight.astype(np.float64)
    rms = float(np.sqrt(np.square(weight).mean()))
    factor = code_rms / rms if rms else 1.0
    scale, requantize = (layer.scale / factor).astype(np.float32), layer.requantize
    if requantize is None:
        scale = (scale.view(np.uint32) & 0xFFFF0000).view(np.float32)  # which the payload says in few bits
        factor = float(layer.scale.max() / scale.max())
    else:
        wanted = requantize.multiplier / np.exp2(requantize.shift) / factor
        shift = np.clip(np.floor(np.log2(_LARGEST_MULTIPLIER / wanted)), 1, 31).astype(np.int32)
        multiplier = np.clip(np.rint(wanted * np.exp2(shift)), 16, _LARGEST_MULTIPLIER).astype(np.int32)
        requantize = Requantization(multiplier, shift, requantize.low, requantize.high)
    return dataclasses.replace(
        layer,
        weight=np.clip(np.rint(weight * factor), -limit, limit).astype(np.int8),
        bias=np.rint(layer.bias * factor).astype(np.int32),
        scale=scale,
        requantize=requantize,
    )


def _bias_units(policy: Policy) -> list[float]:
    """Of every layer the power of two that its biases are multiples of: a typical code of what goes into it."""
    assert policy.input is not None
    codes, units = (policy.input.low, policy.input.high), []
    for op in policy.ops:
        if isinstance(op, Layer):
            units.append(2.0 ** np.floor(np.log2(max(1.0, max(-codes[0], codes[1]) / _DEVIATIONS))))
        elif op.children:
            raise UnsupportedError("Only fully connected layers and activations can be evolved.")
        codes = op.codes(*codes)
    return units
