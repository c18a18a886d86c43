"""The state of a policy: what its operations remember from one observation to the next, as one vector.

Recurrent cells (h, or h and c) and histories (the vectors before the present one) are parts of it, in the order of the
operations: codes in int16 in integer numerics, else float32. An episode begins with zeros. Engine, C and ONNX take
and give the same vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError
from policypress.policy.ops import Cell, History, Op, Shape

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

STATE_LIMITS = -(2**15), 2**15 - 1
"""Of codes in a state."""


def part_sizes(ops: Iterable[Op], shape: Shape) -> list[int]:
    """Of each of ``ops``, the first of which takes values of ``shape``, how many it remembers."""
    sizes = []
    for op in ops:
        sizes.append(op.state_size(shape) if isinstance(op, History | Cell) else 0)
        shape = op.output_shape(shape)
    return sizes


def initial_state(policy: Policy, rows: int) -> NDArray[Any]:
    """The state (rows, ``policy.state_size``) with which episodes begin."""
    return np.zeros((rows, policy.state_size), np.float32 if policy.input is None else np.int16)


def state_before(policy: Policy, state: tuple[NDArray[Any], ...] | None, episode_start: Any, rows: int) -> NDArray[Any]:
    """A copy of ``state``, a tuple of one array (rows, ``policy.state_size``) as ``predict`` gave it, with zeros in the
    rows where ``episode_start`` (rows,) is true; None: all begin.

    Raises ObservationError for another number of rows, or for what this policy cannot have given.
    """
    found = initial_state(policy, rows)
    if state is not None:
        given = [np.asarray(part) for part in state]
        if len(given) != 1 or (given[0].shape, given[0].dtype) != (found.shape, found.dtype):
            shown = ", ".join(f"{part.dtype}{part.shape}" for part in given)
            raise ObservationError(
                f"The policy expects a state of one array, {found.dtype}{found.shape}, as predict returned it, but got "
                f"({shown})."
            )
        found[:] = given[0]
    if episode_start is not None:
        begins = np.asarray(episode_start, bool)
        if begins.shape not in ((), (rows,)):
            raise ObservationError(f"episode_start must have one value for each of {rows} rows, not {begins.shape}.")
        found[np.broadcast_to(begins, rows)] = 0
    return found


class Memory:
    """A state (rows, size) while operations run: each recalls its part and keeps another in its place."""

    def __init__(self, state: NDArray[Any]) -> None:
        self._state, self._at, self._kept = state, 0, list[NDArray[Any]]()

    def recall(self, size: int) -> NDArray[Any]:
        """The next part (rows, size)."""
        self._at += size
        return self._state[:, self._at - size : self._at]

    def keep(self, *values: NDArray[Any]) -> None:
        """What the next state has in the place of the part that was recalled last."""
        self._kept += values

    @property
    def state(self) -> NDArray[Any]:
        """The next state."""
        return np.concatenate([self._state[:, :0], *self._kept], axis=1).astype(self._state.dtype)
