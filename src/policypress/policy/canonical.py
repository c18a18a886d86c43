"""Freedom that costs nothing: an equal policy without units that do nothing, its hidden units in canonical order.

Between two layers that follow one another the hidden units may be left out or put in another order without a change of
any result, integer for integer: an integer sum does not depend on its order, a unit that nobody reads is not missed,
and one that is always the same is part of the next layer's bias. (Weight-only sums follow the order that is chosen
here; units that are constant stay, because folding them would round.)
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.policy import reference
from policypress.policy.contract import TestVectors
from policypress.policy.observations import recorded
from policypress.policy.ops import Cell, History, InputQuantization, Layer, LayerNorm, Op, Residual
from policypress.policy.patterns import group_of

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

_MANY = 256  # weights of a unit


def canonical(policy: Policy, *, drop_units: bool = True, sort_units: bool = True) -> Policy:
    """``policy`` with fewer and sorted hidden units; the same outputs, bit for bit in integer numerics.

    Layers keep the shape they were trained in as ``trained_shape``. Units are sorted by their bias, so that a file
    need not spend log2(n!) bits on their order; those of many weights by the sum of their magnitudes. Where the next
    layer keeps N of every M neighbouring inputs, units stay with their neighbours: groups are sorted, and each in
    itself, and only whole groups are left out. Without ``drop_units`` units are sorted only, without ``sort_units``
    dropped only: then float sums keep their order.
    """
    ops = _canonical(policy.ops, drop_units, sort_units)
    inputs = policy.input
    first = ops[0]
    if inputs is not None and isinstance(first, Layer) and not first.is_conv and inputs.inverse_scale.size > 1:
        inputs = _without_unused(inputs, first)
    smaller = dataclasses.replace(policy, ops=ops, input=inputs, test_vectors=None)
    return answered(smaller, policy.test_vectors)  # float sums in another order round elsewhere


def answered(policy: Policy, vectors: TestVectors | None) -> Policy:
    """``policy`` with its own answers, by the reference, to the observations of ``vectors``; without any if None."""
    if vectors is None:
        return dataclasses.replace(policy, test_vectors=None)
    return dataclasses.replace(policy, test_vectors=recorded(policy, vectors.observations))


def _canonical(ops: tuple[Op, ...], drop_units: bool, sort_units: bool) -> tuple[Op, ...]:
    found = [
        _shaped(op)
        if isinstance(op, Layer)
        else dataclasses.replace(op, body=_canonical(op.body, drop_units, sort_units))
        if isinstance(op, Residual)
        else dataclasses.replace(op, input=_shaped(op.input), recurrent=_shaped(op.recurrent))
        if isinstance(op, Cell)
        else op
        for op in ops
    ]
    pairs = _pairs(found)
    shrunk = drop_units
    while shrunk:  # what one layer loses may leave units of its neighbours without inputs or readers
        shrunk = False
        for first, second in pairs:
            shrunk |= _drop_units(found, first, second)
    for first, second in pairs if sort_units else ():
        _sort_units(found, first, second)
    return tuple(found)


def _shaped(layer: Layer) -> Layer:
    return dataclasses.replace(layer, trained_shape=layer.trained_shape or layer.weight.shape)


def _pairs(ops: list[Op]) -> list[tuple[int, int]]:
    """Places of layers between which nothing but the units' own values passes."""
    pairs = []
    last: int | None = None
    for place, op in enumerate(ops):
        if isinstance(op, Layer):
            if last is not None:
                pairs.append((last, place))
            last = place
        elif isinstance(op, Residual | Cell | History | LayerNorm):
            last = None
    return pairs


def _drop_units(ops: list[Op], first: int, second: int) -> bool:
    """Takes out units that nobody reads and folds constant ones into the next bias; whether there were any."""
    layer, reader = ops[first], ops[second]
    assert isinstance(layer, Layer)
    assert isinstance(reader, Layer)
    outgoing = _outgoing(reader, len(layer.weight))
    read = np.asarray(outgoing.any(axis=(0, 2)))
    constant = np.zeros_like(read)
    if layer.requantize is not None and reader.padding == (0, 0):
        constant = read & ~layer.weight.reshape(len(layer.weight), -1).any(axis=1)
    groups = _groups(outgoing)
    keep = np.repeat(np.logical_or.reduceat(read & ~constant, groups[:-1]), np.diff(groups))
    if (folded := constant & ~keep).any():
        assert layer.requantize is not None
        values = reference.requantize(layer.requantize, layer.bias[None].astype(np.int64))[0]
        between = (op for op in ops[first + 1 : second] if op.elementwise)  # a window sees the same everywhere
        values = reference.run_integer(between, values[None], [])[0]
        added = (outgoing.astype(np.int64).sum(axis=2) * np.where(folded, values, 0)).sum(axis=1)
        reader = dataclasses.replace(reader, bias=(reader.bias + added).astype(np.int32))
    if keep.all():
        return False
    if not keep.any():  # a layer needs a unit: one that says nothing
        if len(keep) == 1 and not read.any() and not layer.weight.any():
            return False
        keep[0] = True
        layer = dataclasses.replace(layer, weight=np.zeros_like(layer.weight), bias=np.zeros_like(layer.bias))
        reader = dataclasses.replace(reader, weight=np.zeros_like(reader.weight))
    ops[first], ops[second] = _select(layer, reader, np.flatnonzero(keep), len(keep))
    return True


def _sort_units(ops: list[Op], first: int, second: int) -> None:
    layer, reader = ops[first], ops[second]
    assert isinstance(layer, Layer)
    assert isinstance(reader, Layer)
    rows = layer.weight.reshape(len(layer.weight), -1)
    if layer.nonzeros > _MANY * len(rows):  # the coder learns more from neighbours alike than a bias takes
        worth = np.abs(rows.astype(np.float64)).sum(axis=1)
    else:
        worth = layer.bias.astype(np.float64)
    starts = _groups(_outgoing(reader, len(rows)))
    groups = [start + np.argsort(worth[start:end], kind="stable") for start, end in itertools.pairwise(starts)]
    whole = len(groups[0])
    # The last group may be smaller, and stays the last.
    groups.sort(key=lambda units: (len(units) < whole, worth[units[0]]))
    order = np.concatenate(groups)
    ops[first], ops[second] = _select(layer, reader, order, len(order))


def _groups(outgoing: NDArray[Any]) -> NDArray[np.int64]:
    """Where groups of units begin that must stay together for ``outgoing`` (out, units, weights of each) to keep its
    pattern, and the end of the last; single units where it has none."""
    units = outgoing.shape[1]
    return np.append(np.arange(0, units, group_of(outgoing)), units)


def _select(layer: Layer, reader: Layer, units: NDArray[Any], count: int) -> tuple[Layer, Layer]:
    """Both layers with these of the first one's ``count`` units, in this order."""

    def chosen(vector: NDArray[Any]) -> NDArray[Any]:
        return vector[units] if vector.size == count and count > 1 else vector

    requantize = layer.requantize
    if requantize is not None:
        multiplier, shift = chosen(requantize.multiplier), chosen(requantize.shift)
        requantize = dataclasses.replace(requantize, multiplier=multiplier, shift=shift)
    layer = dataclasses.replace(
        layer, weight=layer.weight[units], bias=layer.bias[units], scale=chosen(layer.scale), requantize=requantize
    )
    weight = _outgoing(reader, count)[:, units]
    shape = (len(weight), len(units), *reader.weight.shape[2:]) if reader.is_conv else (len(weight), -1)
    return layer, dataclasses.replace(reader, weight=weight.reshape(shape))


def _outgoing(reader: Layer, units: int) -> NDArray[Any]:
    """The reader's weights as (out, units of the layer before, weights of each)."""
    return reader.weight.reshape(len(reader.weight), units, -1)


def _without_unused(inputs: InputQuantization, first: Layer) -> InputQuantization:
    """Scales and zero points of features that no weight reads become ordinary ones, which take fewer bits."""
    used = first.weight.reshape(len(first.weight), -1).any(axis=0)
    if used.all() or not used.any():
        return inputs
    scale, zeros = inputs.inverse_scale.copy(), inputs.zero_point
    scale[~used] = scale[used].min()
    if zeros is not None:
        zeros = np.where(used, zeros, np.int32(0)) if zeros[used].any() else None
    return dataclasses.replace(inputs, inverse_scale=scale, zero_point=zeros)
