"""The native engine of a policy: its program as the structures of ``engine.h``, run by the extension ``engine``."""

from __future__ import annotations

import ctypes
import hashlib
import math
from ctypes import c_double, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import PolicypressError
from policypress.policy.policy import Policy
from policypress.runtime import engine
from policypress.runtime.lower import Fields, Program, lower

_SLACK = 64  # bytes of a row after each tensor: vector kernels write whole vectors


def _fields(*groups: tuple[str, Any]) -> list[tuple[str, Any]]:
    return [(name, kind) for names, kind in groups for name in names.split()]


class Step(ctypes.Structure):
    """``engine_step``."""

    _fields_ = _fields(
        ("kind form finish relu wide bits source_type target_type second_type", c_uint8),
        ("source_zero second_zero target_zero per_output second_per_output", c_uint8),
        ("source second target height width channels out_height out_width out_channels", c_uint32),
        ("kernel_height kernel_width stride_height stride_width padding_height padding_width", c_uint16),
        ("low high fill", c_int32),
        ("weight counts bias multiplier shift second_multiplier second_shift scale table run prepared", c_void_p),
    )


class Input(ctypes.Structure):
    """``engine_input``."""

    _fields_ = _fields(
        ("dtype image target_type target_zero per_feature pixel_codes", c_uint8),
        ("target size channels pixels", c_uint32),
        ("low high", c_int32),
        ("clip", c_double),
        ("mean deviation inverse_scale zero_point codes run prepared", c_void_p),
    )


class Output(ctypes.Structure):
    """``engine_output``."""

    _fields_ = _fields(
        ("kind squash wide source_type per_output", c_uint8),
        ("source target outputs groups", c_uint32),
        ("start", c_int64),
        ("scale low high nvec to_values to_actions prepared", c_void_p),
    )


class Network(ctypes.Structure):
    """``engine_network``."""

    _fields_ = _fields(
        ("steps", c_void_p),
        ("step_count work_size observation_size action_size", c_uint32),
        ("input", Input),
        ("output", Output),
    )


class _Structures:
    """The structures of a program, and the arrays they point to, for as long as it lives."""

    def __init__(self, program: Program) -> None:
        self.arrays: list[NDArray[Any]] = []
        self.steps = (Step * len(program.steps))(*(self._fill(Step(), fields) for fields in program.steps))
        self.network = Network(
            ctypes.addressof(self.steps),
            len(program.steps),
            program.work_size,
            program.observation_size,
            program.action_size,
            self._fill(Input(), program.input),
            self._fill(Output(), program.output),
        )

    def _fill(self, structure: Any, fields: Fields) -> Any:
        known = {name for name, _ in structure._fields_}
        for name, value in fields.items():
            if name not in known:
                raise AttributeError(f"{type(structure).__name__} has no field {name}")
            setattr(structure, name, self.address(value) if isinstance(value, np.ndarray) else value)
        return structure

    def address(self, array: NDArray[Any] | None) -> int:
        if array is None:
            return 0
        self.arrays.append(np.ascontiguousarray(array))
        return self.arrays[-1].ctypes.data


def check_interface() -> None:
    """Raises PolicypressError if the engine was compiled with another ``engine.h`` than the package has now."""
    header = Path(__file__).with_name("engine.h").read_bytes()
    if getattr(engine, "INTERFACE", None) != hashlib.sha256(header).hexdigest():
        raise PolicypressError(
            "the compiled engine is of another version than the package: run make venv or pip install -e . in a "
            "clone, else install policypress again."
        )


check_interface()


def make_engine(policy: Policy, *, portable: bool = False) -> engine.Engine:
    """The engine of ``policy``; ``portable``: with the kernels of engine.c alone, not those of this machine."""
    program = lower(policy, slack=_SLACK)
    structures = _Structures(program)
    return engine.Engine(
        ctypes.addressof(structures.network),
        structures,
        [] if portable else [structures.address(weight) for weight in program.weights],
        np.dtype(policy.observation.dtype).num,
        policy.observation.shape,
        np.dtype(policy.action.dtype).num,
        policy.action.shape,
        operations(program),
    )


def operations(program: Program) -> int:
    """Multiplications of one observation, about."""
    return sum(
        weight.size * math.prod(step[name] for name in ("out_height", "out_width"))
        for step, weight in zip(program.steps, program.weights, strict=True)
        if weight is not None
    )
