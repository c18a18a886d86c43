"""Recurrent cells, a formula each: what every numerics, engine and format computes between a cell's two layers.

Like the functions of ``activations.py`` a formula is written once, over values that know +, - and *: NumPy arrays make
it the reference, PyTorch's the training, tensors of a graph the ONNX export. ``runtime/engine.c`` spells it out again,
and so does ``compression/_kernels.c``, for training that is fast. ``docs/arithmetic.md`` says the same in prose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from policypress.policy.ops import Activation


class Codes(Protocol):
    """What a formula of codes needs beside +, - and *."""

    def scaled(self, name: str, values: Any) -> Any:
        """``values`` by the cell's ratio of this name, within its limits (``Cell.requantization``)."""
        ...

    def look_up(self, function: Activation, codes: Any) -> Any:
        """What the table of ``function`` gives for ``codes`` within its limit."""
        ...

    def clip(self, values: Any, limit: int) -> Any:
        """``values`` within [-limit, limit]."""
        ...


def of_floats(
    kind: str,
    sigmoid: Callable[[Any], Any],
    tanh: Callable[[Any], Any],
    x: Sequence[Any],
    y: Sequence[Any],
    before: Sequence[Any],
) -> list[Any]:
    """The next state, h first: ``x`` and ``y`` are what the layers give for each gate, ``before`` is the state.

    Where values round, they round in the order that stands here.
    """
    if kind == "gru":
        reset, update = sigmoid(x[0] + y[0]), sigmoid(x[1] + y[1])
        new = tanh(x[2] + reset * y[2])
        return [(1.0 - update) * new + update * before[0]]
    taken, kept, given = sigmoid(x[0] + y[0]), sigmoid(x[1] + y[1]), sigmoid(x[3] + y[3])
    c = kept * before[1] + taken * tanh(x[2] + y[2])
    return [given * tanh(c), c]


class CodedCell(Protocol):
    """What a formula of codes needs of a ``Cell``."""

    @property
    def kind(self) -> str: ...

    @property
    def sigmoid(self) -> Activation: ...

    @property
    def tanh(self) -> Activation: ...

    @property
    def one(self) -> int: ...

    @property
    def limits(self) -> tuple[int, ...]: ...


def of_codes(cell: CodedCell, m: Codes, x: Sequence[Any], y: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """The same of codes, all of them integers."""

    def gate(i: int) -> Any:
        return m.look_up(cell.sigmoid, m.scaled("gate", x[i] + y[i]))

    def candidate(values: Any) -> Any:
        return m.look_up(cell.tanh, m.scaled("candidate", values))

    def updated(old: Any, lost: Any, added: Any, limit: int) -> Any:
        return m.clip(old - m.scaled("forget", lost * old) + m.scaled("input", added), limit)

    if cell.kind == "gru":
        reset, lost = gate(0), cell.one - gate(1)
        new = candidate(x[2] + m.scaled("reset", reset * y[2]))
        return [updated(before[0], lost, lost * new, cell.limits[0])]
    taken, lost, given = gate(0), cell.one - gate(1), gate(3)
    c = updated(before[1], lost, taken * candidate(x[2] + y[2]), cell.limits[1])
    return [m.scaled("output", given * m.look_up(cell.tanh, m.scaled("cell", c))), c]
