"""Recurrent cells that are spelled out in elementwise operations, recognized by the values that they have.

What a file computes between the two layers of a cell is some function of what they give for every gate, in whatever
order, and of what the cell kept: it is compared with the formulas of ``policy.cells`` for every order of gates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.policy.activations import FUNCTIONS
from policypress.policy.cells import of_floats
from policypress.policy.ops import CELLS

_POINTS = 64
_SPREAD = 1.5
_TOLERANCE = 1e-5
_INNER = 1
"""The vector of an LSTM's state that is no answer: c, which has no output gate."""


@dataclass(frozen=True)
class Gates:
    """Vector ``vector`` of the next state of a cell, ``kind`` of ``CELLS``: which arguments of a function are what its
    ``input`` and its ``recurrent`` layer give for each gate, in PyTorch's order, and with which ``signs``."""

    kind: str
    vector: int
    input: tuple[int, ...]
    recurrent: tuple[int, ...]
    signs: tuple[float, ...]


def recognized(
    function: Callable[..., NDArray[Any]], taken: Sequence[int], recalled: Sequence[int], kept: int
) -> Gates | None:
    """The cell that ``function`` of float32 arrays computes; None if it is none.

    ``taken`` and ``recalled``: its arguments that layers of the input and of the last output give, in any order;
    ``kept``: the one that is a vector of the state.
    """
    count = len(taken) + len(recalled) + 1
    random = np.random.default_rng(0)
    points = [(_SPREAD * random.normal(size=_POINTS)).astype(np.float32) for _ in range(count)]
    level = [points[place] if place == kept else np.zeros(_POINTS, np.float32) for place in range(count)]
    with np.errstate(all="ignore"):
        found, at_zero = (np.asarray(function(*values), np.float64) for values in (points, level))
        for one in _candidates(taken, recalled):
            if not _same(at_zero, one, level, kept):  # no gate says which is which there
                continue
            for gates in _orders(one):
                if _same(found, gates, points, kept):
                    return gates
    return None


def _candidates(taken: Sequence[int], recalled: Sequence[int]) -> Iterator[Gates]:
    """Every vector of a cell that has so many gates, in one order."""
    for kind, cell in CELLS.items():
        for vector in range(len(cell.state)):
            gates = len(cell.gates) - (vector == _INNER)
            if len(taken) == len(recalled) == gates:
                yield Gates(kind, vector, tuple(taken), tuple(recalled), (1.0,) * gates)


def _orders(one: Gates) -> Iterator[Gates]:
    """The same with its gates in every order; a GRU's update gate may also say how much is new (Chung et al. 2014)."""
    signs = [one.signs, (1.0, -1.0, 1.0)] if one.kind == "gru" else [one.signs]
    for own in signs:
        for first, second in itertools.product(
            itertools.permutations(one.input), itertools.permutations(one.recurrent)
        ):
            yield Gates(one.kind, one.vector, first, second, own)


def _same(found: NDArray[Any], gates: Gates, points: Sequence[NDArray[np.float32]], kept: int) -> bool:
    """Whether ``found`` is what these gates make of ``points``."""
    x, y = (
        [np.float32(sign) * points[place] for place, sign in zip(places, gates.signs, strict=True)]
        for places in (gates.input, gates.recurrent)
    )
    missing = [np.zeros_like(points[kept])] * (len(CELLS[gates.kind].gates) - len(x))  # which c does not have
    state = [points[kept]] * len(CELLS[gates.kind].state)
    wanted = of_floats(gates.kind, FUNCTIONS["sigmoid"], FUNCTIONS["tanh"], x + missing, y + missing, state)
    own = wanted[gates.vector].astype(np.float64)
    return found.shape == own.shape and bool((np.abs(found - own) <= _TOLERANCE * (1 + np.abs(own))).all())
