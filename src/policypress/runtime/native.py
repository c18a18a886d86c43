"""The native engine of a policy: its program as the structures of ``engine.h``, run by the extension ``engine``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.runtime import engine
from policypress.runtime.lower import Fields, Program, lower
from policypress.runtime.structures import dtype_of

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

_SLACK = 64  # bytes of a row after each tensor: vector kernels write whole vectors


class _Structures:
    """The structures of a program, and the arrays they point to, for as long as it lives."""

    def __init__(self, program: Program) -> None:
        self.arrays: list[NDArray[Any]] = []
        self.steps = np.zeros(len(program.steps), dtype_of("engine_step"))
        for structure, step in zip(self.steps, program.steps, strict=True):
            self._fill(structure, step)
        self.network = np.zeros(1, dtype_of("engine_network"))
        network = self.network[0]
        network["steps"] = self.steps.ctypes.data
        network["step_count"] = len(program.steps)
        network["work_size"] = program.work_size
        network["observation_size"] = program.observation_size
        network["action_size"] = program.action_size
        network["state_size"] = program.state_size
        self._fill(network["input"], program.input)
        self._fill(network["output"], program.output)

    def _fill(self, structure: np.void, fields: Fields) -> None:
        for name, value in fields.values():
            structure[name] = self.address(value) if isinstance(value, np.ndarray) else value

    def address(self, array: NDArray[Any] | None) -> int:
        if array is None:
            return 0
        self.arrays.append(np.ascontiguousarray(array))
        return self.arrays[-1].ctypes.data


def make_engine(policy: Policy, *, portable: bool = False) -> engine.Engine:
    """The engine of ``policy``; ``portable``: with the kernels of engine.c alone, not those of this machine."""
    program = lower(policy, slack=_SLACK)
    structures = _Structures(program)
    return engine.Engine(
        structures.network.ctypes.data,
        structures,
        [] if portable else [structures.address(step.dense) for step in program.steps],
        np.dtype(policy.observation.dtype).num,
        policy.observation.shape,
        np.dtype(policy.action.dtype).num,
        policy.action.shape,
        operations(program),
    )


def operations(program: Program) -> int:
    """Multiplications of one observation, about."""
    return sum(step.dense.size * math.prod(step.positions) for step in program.steps if step.dense is not None)
