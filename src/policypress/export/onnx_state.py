"""The state of a policy in a graph: the input ``h_in`` and the output ``h_out``, (batch, state_size) both."""

from __future__ import annotations

import numpy as np

from policypress.export.onnx_graph import Graph
from policypress.policy.ops import CELLS, Cell
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state, part_sizes


class States:
    """What operations recall and keep, as float32 tensors: each code of 16 bits is one."""

    def __init__(self, graph: Graph, policy: Policy) -> None:
        self._graph, self._kept = graph, list[str]()
        self._dtype = initial_state(policy, 0).dtype
        sizes: list[int] = []
        for op, size in zip(policy.ops, part_sizes(policy.ops, policy.observation.shape), strict=True):
            if isinstance(op, Cell):
                sizes += [op.units] * len(CELLS[op.kind].state)
            elif size:
                sizes.append(size)
        with graph.scope("state"):
            state = "h_in" if self._dtype == np.float32 or not sizes else graph.cast("h_in", np.float32)
            self._parts = iter(zip(split(graph, state, sizes), sizes, strict=True) if sizes else ())

    def recall(self, op: Cell) -> list[str]:
        """The vectors of ``op``, the next one that has a state."""
        return [next(self._parts)[0] for _ in CELLS[op.kind].state]

    def keep(self, *tensors: str) -> None:
        """What the next state has in the place of the vectors that were recalled last."""
        self._kept += tensors

    def history(self, x: str) -> str:
        """The frames (batch, frames * size) of the next operation that has a state, a history that takes ``x``."""
        g = self._graph
        before, size = next(self._parts)
        frames = g.op("Concat", before, x, axis=1)
        first, end, axis = (g.constant(np.array([place], np.int64)) for place in (-size, np.iinfo(np.int64).max, 1))
        self.keep(g.op("Slice", frames, first, end, axis))
        return str(frames)

    def close(self) -> list[str]:
        """Makes the output ``h_out`` where there is a state; the names of what it makes."""
        g = self._graph
        if not self._kept:
            return []
        with g.scope("state"):
            state = g.op("Concat", *self._kept, axis=1)  # of one alone, too: no tensor inside takes its name
            state = state if self._dtype == np.float32 else g.cast(state, self._dtype.name)
        g.rename(state, "h_out")
        return ["h_out"]


def split(graph: Graph, tensor: str, sizes: list[int]) -> list[str]:
    """Parts of these sizes of a tensor (batch, values)."""
    if len(sizes) == 1:
        return [tensor]
    parts = graph.constant(np.array(sizes, np.int64), "sizes")
    found: list[str] = graph.op("Split", tensor, parts, outputs=len(sizes), axis=1)
    return found


def gates(graph: Graph, op: Cell, tensor: str) -> list[str]:
    """What a layer of a cell gives, gate by gate."""
    return split(graph, tensor, [op.units] * len(CELLS[op.kind].gates))
