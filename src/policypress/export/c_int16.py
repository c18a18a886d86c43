"""Observations of int16 in an export to C: what sensors give as integers becomes input codes without any float.

Code c of input i is worth ``float32(c) * scale[i]``, rounded to float32 as every product there, and is answered as the
reference answers that number. What the input quantization makes of all 65,536 codes is known at export: a line,
``(c * slope + offset) >> shift``, and the few codes beside it, where a product rounds the other way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, UnsupportedError
from policypress.export.c_metadata import input_range
from policypress.export.c_text import Constants
from policypress.export.taking import taking
from policypress.policy import reference
from policypress.policy.ops import InputQuantization
from policypress.policy.policy import Policy
from policypress.runtime.lower import Input
from policypress.runtime.structures import Type

_CODES = np.arange(-(2**15), 2**15)
_ROWS = 4096  # codes that are asked at once
_BESIDE = 1024  # codes of all inputs beside the line, at most


@dataclass(frozen=True)
class Int16:
    """How int16 observations of ``policy``, which takes float32 ones, become codes.

    ``scale`` (inputs,): what code 1 is worth; ``slope``, ``offset`` (inputs,) and ``shift``: the line; ``low``,
    ``high`` (inputs,): where it ends. ``beside``: (input, code, what is added), sorted.
    """

    policy: Policy
    scale: NDArray[np.float32]
    slope: NDArray[np.int32]
    offset: NDArray[np.int64]
    shift: int
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    beside: NDArray[np.int32]

    def values(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """What codes (n, inputs) are worth: the observations that ``policy`` answers."""
        return np.asarray(codes, np.float32) * self.scale

    def nearest(self, observations: NDArray[Any]) -> NDArray[np.int16]:
        """The codes for observations (n, inputs)."""
        codes = np.rint(np.asarray(observations, np.float64) / self.scale.astype(np.float64))
        return codes.clip(-(2**15), 2**15 - 1).astype(np.int16)

    def input_codes(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """What the exported C makes of codes (n, inputs)."""
        wide = np.asarray(codes, np.int64)
        found = self._line(wide)
        for place, code, more in self.beside.tolist():
            found[wide[:, place] == code, place] += more
        return found

    def _line(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        return ((codes * self.slope + self.offset) >> self.shift).clip(self.low, self.high)


def int16_of(policy: Policy, scale: Sequence[float] | None) -> Int16:
    """How ``policy`` takes int16 observations; ``scale``: of every input, or one for all; None: such that the range of
    every input is that of the codes. Raises UnsupportedError for a policy without input codes or of images, ConfigError
    for scales that do not fit.
    """
    quantization, size = policy.input, math.prod(policy.observation.shape)
    if quantization is None or policy.observation.dtype not in ("float32", "float64"):
        kind = f"{policy.numerics} numerics that takes {policy.observation.dtype}"
        raise UnsupportedError(f"int16 observations are for integer numerics that take floats, not {kind}.")
    if len(policy.observation.shape) > 1 and size > policy.observation.shape[-1]:
        raise UnsupportedError(f"int16 observations are for vectors, not for shape {policy.observation.shape}.")
    narrow = taking(policy, "float32")
    worth = _ranges(narrow) if scale is None else _given(scale, size)
    wanted = _wanted(narrow, quantization, worth)
    return _fitted(narrow, quantization, worth, wanted)


def observes(entry: Input, how: Int16, constants: Constants) -> str:
    """The function ``observe`` of engine.c for int16 observations, and its constants."""
    size = entry.size
    slope, offset = constants.name("input_slope", how.slope), constants.name("input_offset", how.offset)
    low, high = _limit(how.low, "input_low", constants), _limit(how.high, "input_high", constants)
    tensor, zero = ("int32_t *to = (int32_t *)(void *)target", "")
    if entry.target_type == Type.U8:
        tensor, zero = "unsigned char *to = target", f" + {entry.target_zero}"
    cast = "(unsigned char)(code)" if entry.target_type == Type.U8 else "code"
    beside = ""
    if len(how.beside):
        first = np.searchsorted(how.beside[:, 0], np.arange(size + 1)).astype(np.uint16)
        names = (
            constants.name("beside_first", first),
            constants.name("beside_code", how.beside[:, 1].astype(np.int16)),
            constants.name("beside_more", how.beside[:, 2].astype(np.int8)),
        )
        beside = f"""
        for (uint32_t k = {names[0]}[i]; k < {names[0]}[i + 1]; k++)
            code += from[i] == {names[1]}[k] ? {names[2]}[k] : 0;"""
    return f"""\
/* Codes of an observation: a line each, and what is beside it. */
static int observe(const engine_input *in, const void *observation, unsigned char *target) {{
    const int16_t *from = (const int16_t *)observation;
    {tensor};
    (void)in;
    for (uint32_t i = 0; i < {size}; i++) {{
        const int32_t line = (int32_t)(((int64_t)from[i] * {slope}[i] + {offset}[i]) >> {how.shift});
        int32_t code = line < {low} ? {low} : line > {high} ? {high} : line;{beside}
        to[i] = {cast.replace("(code)", f"(code{zero})")};
    }}
    return ENGINE_OK;
}}

"""


def _limit(values: NDArray[np.int32], name: str, constants: Constants) -> str:
    if (values == values[0]).all():
        return f"({values[0]})" if values[0] < 0 else str(values[0])
    return f"{constants.name(name, values)}[i]"


def _given(scale: Sequence[float], size: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        found = np.asarray(scale, np.float32)
    if found.size not in (1, size):
        raise ConfigError(f"observation_scale has {found.size} numbers: give one for each of {size} inputs, or one.")
    with np.errstate(over="ignore"):
        good = np.isfinite(found * np.float32(2**15)) & (found > 0)
    if not good.all():
        raise ConfigError("observation_scale must hold positive numbers, of which 32,768 times fits a float32.")
    return np.broadcast_to(found, (size,)).copy()


def _ranges(policy: Policy) -> NDArray[np.float32]:
    """Scales with which codes reach what the input quantization tells apart, and no farther."""
    low, high = input_range(policy)
    return np.asarray(np.maximum(np.abs(low), np.abs(high)) / (2**15 - 1), np.float32)


def _wanted(policy: Policy, quantization: InputQuantization, scale: NDArray[np.float32]) -> NDArray[np.int64]:
    """The reference's input codes (65536, inputs), for every code in every input."""
    found = []
    for codes in np.array_split(_CODES, len(_CODES) // _ROWS):
        x = codes.astype(np.float32)[:, None] * scale
        x = reference.observe(policy.observation, x.reshape(len(codes), *policy.observation.shape))
        found.append(reference.quantize_input(quantization, x).reshape(len(codes), -1))
    return np.concatenate(found)


def _fitted(
    policy: Policy, quantization: InputQuantization, scale: NDArray[np.float32], wanted: NDArray[np.int64]
) -> Int16:
    wide = scale.astype(np.float64)
    slope = wide * quantization.inverse_scale.astype(np.float64)
    offset = np.zeros(len(scale))
    normalization = policy.observation.normalization
    if normalization is not None:
        deviation = np.sqrt(normalization.var + normalization.epsilon).ravel()
        slope /= deviation
        offset = -normalization.mean.ravel() / deviation * quantization.inverse_scale.astype(np.float64)
    if quantization.zero_point is not None:
        offset = offset - quantization.zero_point
    shift = min(32, 31 - math.frexp(float(slope.max()))[1])
    if shift < 1 or np.abs(offset).max() >= 2**30:
        raise ConfigError("observation_scale is too large: a step of a code must be less than the input's range.")
    lines = [np.rint(slope * 2.0**shift), np.floor((offset + 0.5) * 2.0**shift)]
    fits = [
        Int16(
            policy, scale, lines[0].astype(np.int32), lines[1].astype(np.int64), shift,
            np.broadcast_to(low, scale.shape).astype(np.int32), np.broadcast_to(high, scale.shape).astype(np.int32),
            np.zeros((0, 3), np.int32),
        )
        for low, high in ((quantization.low, quantization.high), (wanted.min(axis=0), wanted.max(axis=0)))
    ]  # fmt: skip
    off = [wanted - fit._line(np.broadcast_to(_CODES[:, None], wanted.shape)) for fit in fits]
    best = int(np.count_nonzero(off[1]) < np.count_nonzero(off[0]))  # ends of their own, where they are of use
    rows, places = np.nonzero(off[best])
    beside = np.stack([places, _CODES[rows], off[best][rows, places]], axis=1).astype(np.int32)
    if len(beside) > _BESIDE or np.abs(beside[:, 2]).max(initial=0) > 127:
        raise UnsupportedError("int16 observations do not come near these input codes: give a smaller scale.")
    return Int16(
        policy, scale, fits[best].slope, fits[best].offset, shift, fits[best].low, fits[best].high,
        beside[np.lexsort((beside[:, 1], beside[:, 0]))],
    )  # fmt: skip
