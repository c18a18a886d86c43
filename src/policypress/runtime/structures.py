"""What ``engine.h`` says, as the compiled engine tells it: enumerations, and structures as NumPy dtypes.

Python has no list of its own: fields that the header does not have cannot be set, and values are the header's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

import numpy as np

from policypress.errors import PolicypressError
from policypress.runtime import engine


def check_interface() -> None:
    """Raises PolicypressError if the engine was compiled with another ``engine.h`` than the package has now."""
    header = Path(__file__).with_name("engine.h").read_bytes()
    if getattr(engine, "INTERFACE", None) != hashlib.sha256(header).hexdigest():
        raise PolicypressError(
            "the compiled engine is of another version than the package: run make venv or pip install -e . in a "
            "clone, else install policypress again."
        )


check_interface()


class Name(IntEnum):
    """An enumerator of ``engine.h``; each is called ENGINE_ and its name there."""

    @property
    def c(self) -> str:
        """Its name in C."""
        return f"ENGINE_{self.name}"


class Type(Name):
    """``engine_type``, of tensors."""

    U8 = engine.NAMES["ENGINE_U8"]
    S32 = engine.NAMES["ENGINE_S32"]
    F32 = engine.NAMES["ENGINE_F32"]


class Kind(Name):
    """``engine_kind``, of steps."""

    LAYER = engine.NAMES["ENGINE_LAYER"]
    RELU = engine.NAMES["ENGINE_RELU"]
    LOOK_UP = engine.NAMES["ENGINE_LOOK_UP"]
    ACTIVATE = engine.NAMES["ENGINE_ACTIVATE"]
    LAYER_NORM = engine.NAMES["ENGINE_LAYER_NORM"]
    MAX_POOL = engine.NAMES["ENGINE_MAX_POOL"]
    PAD = engine.NAMES["ENGINE_PAD"]
    FLATTEN = engine.NAMES["ENGINE_FLATTEN"]
    ADD = engine.NAMES["ENGINE_ADD"]
    RECALL = engine.NAMES["ENGINE_RECALL"]
    HISTORY = engine.NAMES["ENGINE_HISTORY"]
    GRU = engine.NAMES["ENGINE_GRU"]
    LSTM = engine.NAMES["ENGINE_LSTM"]


class Form(Name):
    """``engine_form``, of weights."""

    DENSE = engine.NAMES["ENGINE_DENSE"]
    PACKED = engine.NAMES["ENGINE_PACKED"]
    SPARSE = engine.NAMES["ENGINE_SPARSE"]
    REAL = engine.NAMES["ENGINE_REAL"]
    FOURS = engine.NAMES["ENGINE_FOURS"]
    QUARTERS = engine.NAMES["ENGINE_QUARTERS"]


class Finish(Name):
    """``engine_finish``, of integer layers."""

    KEEP = engine.NAMES["ENGINE_KEEP"]
    REQUANTIZE = engine.NAMES["ENGINE_REQUANTIZE"]
    TABLE = engine.NAMES["ENGINE_TABLE"]
    BYTES = engine.NAMES["ENGINE_BYTES"]


class Dtype(Name):
    """``engine_dtype``, of observations."""

    FLOAT32 = engine.NAMES["ENGINE_FLOAT32"]
    FLOAT64 = engine.NAMES["ENGINE_FLOAT64"]
    UINT8 = engine.NAMES["ENGINE_UINT8"]
    INT8 = engine.NAMES["ENGINE_INT8"]
    INT16 = engine.NAMES["ENGINE_INT16"]
    INT32 = engine.NAMES["ENGINE_INT32"]
    INT64 = engine.NAMES["ENGINE_INT64"]


class Action(Name):
    """``engine_action``."""

    BOX = engine.NAMES["ENGINE_BOX"]
    DISCRETE = engine.NAMES["ENGINE_DISCRETE"]
    MULTI_DISCRETE = engine.NAMES["ENGINE_MULTI_DISCRETE"]
    MULTI_BINARY = engine.NAMES["ENGINE_MULTI_BINARY"]


class CellNumber(Name):
    """``engine_cell``, places among the numbers of a cell."""

    CELL_SIGMOID = engine.NAMES["ENGINE_CELL_SIGMOID"]
    CELL_TANH = engine.NAMES["ENGINE_CELL_TANH"]
    CELL_ONE = engine.NAMES["ENGINE_CELL_ONE"]
    CELL_H = engine.NAMES["ENGINE_CELL_H"]
    CELL_C = engine.NAMES["ENGINE_CELL_C"]
    CELL_RATIOS = engine.NAMES["ENGINE_CELL_RATIOS"]


_NUMBERS = {
    "uint8_t": np.uint8,
    "uint16_t": np.uint16,
    "int32_t": np.int32,
    "uint32_t": np.uint32,
    "int64_t": np.int64,
    "double": np.float64,
    "engine_size": np.uint32,
}


def dtype_of(structure: str) -> np.dtype[np.void]:
    """The dtype of a structure of ``engine.h`` in this process; pointers are addresses. ValueError for a type that is
    not known here."""
    size, fields = engine.STRUCTURES[structure]
    formats = [np.dtype(np.uintp) if kind.endswith("*") else _number(kind) for _, kind, *_ in fields]
    for (name, kind, _, _, size_of), found in zip(fields, formats, strict=True):
        if found.itemsize != size_of:
            raise ValueError(f"{kind} {name} of {structure} has {size_of} bytes, not {found.itemsize}.")
    names, offsets = [field[0] for field in fields], [field[3] for field in fields]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def _number(kind: str) -> np.dtype[np.generic]:
    if kind in engine.STRUCTURES:
        return dtype_of(kind)
    if kind not in _NUMBERS:
        raise ValueError(f"{kind} is not a type of fields that is known: add it to {__name__}.")
    return np.dtype(_NUMBERS[kind])


def is_used(structure: str, name: str, used: Mapping[str, int]) -> bool:
    """Whether a build has this field; ``used``: the value of each macro ENGINE_USE_... there."""
    (use,) = (use for found, _, use, _, _ in engine.STRUCTURES[structure][1] if found == name)
    return use == "ALWAYS" or bool(used[f"ENGINE_USE_{use}"])


def size_of(structure: str, used: Mapping[str, int], pointer: int = 4) -> int:
    """Bytes of a structure in a build with ``used``, where pointers have ``pointer`` bytes; the rest is as here."""
    return _layout(structure, used, pointer)[0]


def _layout(structure: str, used: Mapping[str, int], pointer: int) -> tuple[int, int]:
    """Bytes, and the number of bytes that its address must be a multiple of."""
    at, alignment = 0, 1
    for name, kind, _, _, size in engine.STRUCTURES[structure][1]:
        if not is_used(structure, name, used):
            continue
        size = pointer if kind.endswith("*") else size
        size, step = _layout(kind, used, pointer) if kind in engine.STRUCTURES else (size, size)
        at = -(-at // step) * step + size
        alignment = max(alignment, step)
    return -(-at // alignment) * alignment, alignment
