"""Streams of entropy-coded numbers: what ``runtime/coder.c`` codes, as NumPy arrays and with errors of our own.

``docs/file-format.md`` describes the verbs; a Reader must call those of its Writer in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError, UnsupportedError
from policypress.runtime.coder import Decoder, Encoder

ALLOCATION_LIMIT = 3 * 2**24  # bytes that the sizes declared in one file may make a reader allocate
MAX_SIDE = 2**16 - 1  # rows and columns of a matrix
_CHUNK = 2**15  # integers coded at a time
_LEAST_POWER, _LEVEL_DIGITS = -8, 3  # of exponents: the least that there may be, and how many different ones

# Integers of one kind adapt together; runtime/coder.c knows what each probably is at first.
COUNT, INPUT_BITS, INPUT_LIMITS, LIMITS, SIZE, INPUTS, KIND, FLAGS, BITS, GEOMETRY, FORM, MULTIPLIER, SHIFT = range(13)
INTEGERS, FLOATS = (13, 14), (15, 16)  # zeros at the end, order
CONSTANT, EXPONENT = 17, 18

_FNV_PRIME = 16777619
_USUAL = 0x42000000  # 32.0 as float32, of which inverse scales are not far


def powers_fit(exponents: NDArray[np.int32]) -> bool:
    """Whether a Writer's ``powers`` can write these."""
    least, most = int(exponents.min()), int(exponents.max())
    return exponents.size <= _CHUNK and _LEAST_POWER <= least < _LEAST_POWER + 32 and most - least < 1 << _LEVEL_DIGITS


class Writer:
    """Writes numbers to one stream."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    @property
    def bits(self) -> float:
        """Bits written so far, fractions included."""
        return self._encoder.bits() / 256

    def unsigned(self, value: int, context: int) -> None:
        """An integer of [0, 2**32)."""
        self._encoder.unsigned(int(value), context)

    def signed(self, value: int, context: int) -> None:
        """An int32."""
        self._encoder.signed(int(value), context)

    def uniform(self, value: int, bits: int) -> None:
        """A number of ``bits`` bits of which nothing is known."""
        self._encoder.uniform(int(value), bits)

    def digits(self, value: int, context: int) -> None:
        """An integer of [1, 256), by how many binary digits it has."""
        length = int(value).bit_length()
        self.unsigned(length, context)
        if length > 1:
            self.uniform(value - (1 << length - 1), length - 1)

    def integers(self, values: NDArray[np.int32], contexts: tuple[int, int] = INTEGERS) -> None:
        """A vector of int32; powers of two in all of them, equal values and sorted order take next to nothing."""
        shift = min(trailing_zeros(values), 31)
        self.unsigned(shift, contexts[0])
        values = values >> shift
        constant = bool((values == values[0]).all())
        ascending = not constant and bool((np.diff(values.astype(np.int64)) >= 0).all())
        self.unsigned(0 if constant else 2 if ascending else 1, contexts[1])
        if constant:
            self.signed(values[0], CONSTANT)
            return
        for start in range(0, len(values), _CHUNK):
            self._encoder.integers(np.ascontiguousarray(values[start : start + _CHUNK], np.int32).tobytes(), ascending)

    def powers(self, exponents: NDArray[np.int32]) -> None:
        """A vector for which ``powers_fit``, where few values differ and many are like the one before."""
        least = int(exponents.min())
        levels = (exponents - least).astype(np.int32)
        count = int(levels.max()) + 1
        self.uniform(least - _LEAST_POWER, 5)
        self.uniform(count - 1, _LEVEL_DIGITS)
        self._encoder.levels(levels.tobytes(), count)

    def matrix(self, codes: NDArray[np.int8], bits: int, alone: bool = False) -> tuple[float, float]:
        """Symmetric codes of ``bits`` bits, (rows, ...); returns the bits that positions and values took. ``alone``:
        the matrix is small, and the only one of its stream: its model is probably another."""
        rows, columns = len(codes), codes.size // len(codes)
        if max(rows, columns) > MAX_SIDE:
            raise UnsupportedError(
                f"A layer of {rows:,} outputs and {columns:,} inputs does not fit: {MAX_SIDE:,} each."
            )
        positions, values = self._encoder.matrix(np.ascontiguousarray(codes).tobytes(), rows, columns, bits, alone)
        return positions / 256, values / 256

    def floats(self, values: NDArray[np.float32]) -> None:
        """A vector of float32, exactly; those of few significant bits take few."""
        words = np.ascontiguousarray(values, np.float32).view(np.uint32)
        self.integers((words - np.uint32(_USUAL)).view(np.int32), FLOATS)

    def finish(self) -> bytes:
        return self._encoder.finish()


class Reader:
    """Reads what a Writer has written; raises ArtifactError where no Writer can have written it."""

    def __init__(self, data: bytes) -> None:
        self._decoder = Decoder(data)
        self._allocated = 0
        self.structure = 0  # what runtime/payload.c computes, of the integers of all classes up to FORM

    def allocate(self, size: int) -> None:
        """Account for ``size`` bytes about to be allocated; raises ArtifactError past the limit."""
        self._allocated += size
        if self._allocated > ALLOCATION_LIMIT:
            raise ArtifactError(f"it declares more than {ALLOCATION_LIMIT:,} bytes of tensors.")

    def unsigned(self, context: int) -> int:
        value: int = self._call("unsigned", context)
        return self._tell(value) if context <= FORM else value

    def signed(self, context: int) -> int:
        value = self.unsigned(context)
        return -(value + 1) // 2 if value % 2 else value // 2

    def uniform(self, bits: int) -> int:
        return self._call("uniform", bits)  # type: ignore[no-any-return]

    def told(self, bits: int) -> int:
        """A number of ``bits`` bits that tells of the structure."""
        return self._tell(self.uniform(bits))

    def digits(self, context: int) -> int:
        length = self.unsigned(context)
        if not 1 <= length <= 8:
            raise ArtifactError("a number is malformed.")
        return (1 << length - 1) + (self.uniform(length - 1) if length > 1 else 0)

    def integers(self, count: int, contexts: tuple[int, int] = INTEGERS) -> NDArray[np.int32]:
        self.allocate(16 * count)  # with copies
        shift, order = self.unsigned(contexts[0]), self.unsigned(contexts[1])
        if shift > 31 or order > 2:
            raise ArtifactError("a vector is malformed.")
        if order == 0:
            values = np.full(count, self.signed(CONSTANT), np.int64)
        else:
            chunks = [self._call("integers", min(_CHUNK, count - i), order == 2) for i in range(0, count, _CHUNK)]
            values = np.frombuffer(b"".join(chunks), np.int32).astype(np.int64)
        values = values << shift
        if values.size and (values.min() < -(2**31) or values.max() >= 2**31):
            raise ArtifactError("an integer does not fit 32 bits.")
        return values.astype(np.int32)

    def powers(self, count: int) -> NDArray[np.int32]:
        if count > _CHUNK:
            raise ArtifactError("it has too many exponents.")
        least, levels = self.uniform(5) + _LEAST_POWER, self.uniform(_LEVEL_DIGITS) + 1
        return np.frombuffer(self._call("levels", count, levels), np.int32) + np.int32(least)

    def matrix(self, rows: int, columns: int, bits: int, alone: bool = False) -> NDArray[np.int8]:
        if max(rows, columns) > MAX_SIDE:
            raise ArtifactError("a layer is too wide.")
        self.allocate(2 * rows * columns)
        codes = np.frombuffer(self._call("matrix", rows, columns, bits, alone), np.int8)
        return codes.reshape(rows, columns).copy()

    def floats(self, count: int) -> NDArray[np.float32]:
        return (self.integers(count, FLOATS).view(np.uint32) + np.uint32(_USUAL)).view(np.float32)

    def finish(self) -> None:
        """Raises ArtifactError if the stream goes on, or ended too early."""
        self._call("finish")

    def _tell(self, value: int) -> int:
        self.structure = (self.structure ^ value) * _FNV_PRIME % 2**32
        return value

    def _call(self, verb: str, *arguments: Any) -> Any:
        try:
            return getattr(self._decoder, verb)(*arguments)
        except ValueError:
            raise ArtifactError("its payload is not what an encoder writes.") from None


class Bytes:
    """Takes bytes off the front of ``data``; raises ArtifactError at its end instead of reading past it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._position:
            raise ArtifactError("a section ends before its contents do.")
        self._position += size
        return self._data[self._position - size : self._position]

    def finish(self) -> None:
        if self._position < len(self._data):
            raise ArtifactError("a section goes on after its contents end.")


def trailing_zeros(values: NDArray[np.int32]) -> int:
    """How often two divides every value; 31 if all are zero."""
    together = int(np.bitwise_or.reduce(values.view(np.uint32)))
    return (together & -together).bit_length() - 1 if together else 31
