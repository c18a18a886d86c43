"""How data become C99 text: literals, definitions, comments, structures; what every file of an export begins with."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.runtime.lower import Fields
from policypress.runtime.structures import Name, is_used

if TYPE_CHECKING:
    from policypress.export.c_payload import Unpacked

TYPES = {
    "float32": "float",
    "float64": "double",
    "uint8": "uint8_t",
    "int8": "int8_t",
    "uint16": "uint16_t",
    "int16": "int16_t",
    "uint32": "uint32_t",
    "int32": "int32_t",
    "int64": "int64_t",
}
"""What dtypes are called in C."""
WIDTH = 116
"""Characters of a line."""
AVR_BYTES, AVR_ARRAY = 2**16 - 2**12, 2**15 - 1
"""Constants that an AVR reads: in the first 64 KiB of flash, of which other code has some, and in one array."""
ID = "\0id\0"
"""Stands for the export's number, eight hexadecimal digits, in texts that are made before it is known."""


class Constants:
    """Constant arrays of a program, equal ones once; ``qualifier``: what their definitions begin with; ``used``: the
    value of each macro ENGINE_USE_... in the build."""

    def __init__(
        self, used: Mapping[str, int], unpacked: Unpacked | None = None, qualifier: str = "static const"
    ) -> None:
        self._qualifier, self._used = qualifier, used
        self.text: list[str] = [] if unpacked is None else [unpacked.text]
        self.bytes = 0 if unpacked is None else unpacked.payload_bytes
        self.largest = self.bytes
        self._unpacked = {} if unpacked is None else unpacked.arrays
        self._names: dict[tuple[str, bytes], str] = {}

    def name(self, wanted: str, array: NDArray[Any], attribute: str = "") -> str:
        """Name of the array with these values, defined, with the ``attribute``, if it is new."""
        kind = f"{attribute} {TYPES[array.dtype.name]}".lstrip()
        key = (kind, np.ascontiguousarray(array).tobytes())
        if key not in self._names:
            self._names[key] = wanted
            self.bytes += len(key[1])
            self.largest = max(self.largest, len(key[1]))
            self.text.append(definition(f"{self._qualifier} {kind} {wanted}", array))
        return self._names[key]

    def fields(self, structure: str, fields: Fields, prefix: str) -> str:
        """A designated initializer for ``structure`` of engine.h; zeros are left to C, enumerators are not."""
        parts = []
        for field, value in fields.values():
            if not is_used(structure, field, self._used):
                continue
            if f"{prefix}_{field}" in self._unpacked:
                text = self._unpacked[f"{prefix}_{field}"]
            elif isinstance(value, np.ndarray):
                # An empty array cannot be defined in C, and is not read.
                words = "ENGINE_ALIGNED" if field == "weight" and value.dtype == np.uint8 else ""
                text = self.name(f"{prefix}_{field}", value, words) if value.size else "NULL"
            elif isinstance(value, Name):
                text = value.c
            elif not value:
                continue
            else:
                text = literal(value)
            parts.append(f".{field} = {text}")
        return "{" + ", ".join(parts) + "}"


def runtime(*files: str, included: tuple[str, ...] = ()) -> str:
    """The text of ``files`` of the runtime, in it those of its own that they include, each once, but ``included``."""
    seen = set(included)

    def text(file: str) -> str:
        seen.add(file)
        found = resources.files("policypress.runtime").joinpath(file).read_text(encoding="ascii")
        return re.sub(r'#include "(.+)"\n', lambda m: "" if m[1] in seen else text(m[1]), found)

    return "\n".join(text(file) for file in files)


def definition(declarator: str, array: NDArray[Any]) -> str:
    """``declarator[n] = {...};`` with every value exact."""
    values = ", ".join(literal(value) for value in array.ravel())
    lines = textwrap.fill(values, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return f"{declarator}[{array.size}] = {{\n{lines}\n}};"


def literal(value: Any) -> str:
    """A C99 literal of exactly this value: decimal integers, hexadecimal floats."""
    if isinstance(value, (np.floating, float)):
        suffix = "f" if isinstance(value, np.float32) else ""
        if math.isinf(value):
            return ("-" if value < 0 else "") + ("HUGE_VALF" if suffix else "HUGE_VAL")
        mantissa, exponent = float(value).hex().split("p")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}{suffix}"
    number = int(value)
    return {-(2**31): "INT32_MIN", -(2**63): "INT64_MIN"}.get(number, str(number))  # C negates what follows the sign


def comment(lines: Sequence[str]) -> str:
    """A block comment; nothing in ``lines`` can end it or upset a compiler."""
    safe = []
    for line in lines:
        plain = "".join(c if " " <= c <= "~" else "." for c in line)
        plain = re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)|\\$", r"\g<0> ", plain)
        safe += textwrap.wrap(plain, WIDTH - 3, subsequent_indent="  ") or [""]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in safe), " */"])


def macro(values: NDArray[Any]) -> str:
    """An initializer for the values of an array, as what a macro stands for."""
    lines = textwrap.wrap(", ".join(literal(value) for value in values), WIDTH - 6)
    return "{" + " \\\n    ".join(lines) + "}"


def folded(text: str) -> str:
    """An initializer in lines that begin 5 characters in."""
    kept = text.replace(" = ", "\0=\0")  # one word
    folded = textwrap.fill(kept, WIDTH - 4, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False)
    return folded.replace("\0", " ")


def smallest(array: NDArray[Any]) -> NDArray[Any]:
    """Integers in the smallest type that holds them all."""
    low, high = array.min(initial=0), array.max(initial=0)
    for kind in ("int8", "uint8", "int16", "uint16"):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    return array.astype(np.int32)


def avr_limit(what: str, total: int, largest: int) -> list[str]:
    """What stops compilers for AVRs, whose reads would silently be wrong, where ``total`` bytes of constants, or the
    ``largest`` array, are too many; nothing where they are not."""
    if total <= AVR_BYTES and largest <= AVR_ARRAY:
        return []
    told = f"{what}, {total} bytes, are too many for an AVR: {AVR_BYTES} in all, {AVR_ARRAY} in one array"
    return [f'#ifdef __AVR__\n#error "{told}"\n#endif']


def file(name: str, parts: list[str], body: str) -> str:
    """A file of C: what it includes, its parts, the rest."""
    text = "\n\n".join([*parts, body])
    system = [header for header, sign in (("math", "HUGE_VAL"), ("string", "memc")) if sign in text]
    includes = "".join(f"#include <{header}.h>\n" for header in system) + ("\n" if system else "")
    return f"""\
/* SPDX-License-Identifier: MIT */
/* Generated by policypress: {name}.h says what this is. */
{includes}#include "{name}.h"

#if {name.upper()}_H != 0x{ID}u
#error "{name}.h is of another export: keep the files of one together, and name exports apart"
#endif

{text}"""
