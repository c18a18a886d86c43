"""Entropy coder of policy files; the format is described in coder.c."""

class Encoder:
    def __init__(self) -> None: ...
    def unsigned(self, value: int, context: int = 0) -> None:
        """Write an integer of 0 to 2**32 - 1; contexts 0 to 18 adapt apart."""
    def signed(self, value: int, context: int = 0) -> None:
        """Write an integer of -2**31 to 2**31 - 1."""
    def uniform(self, value: int, bits: int) -> None:
        """Write a number of 1 to 32 bits whose values are all equally likely."""
    def integers(self, values: bytes, ascending: bool) -> None:
        """Write native int32 values, at most 65,535; if they are sorted, their order costs nothing."""
    def levels(self, values: bytes, count: int) -> None:
        """Write native int32 values from 0 to count - 1, of 1 to 8 levels; those like the one before take little."""
    def matrix(self, codes: bytes, rows: int, columns: int, bits: int, alone: bool = False) -> tuple[int, int]:
        """Write int8 codes of 2 to 8 bits in C order; returns the cost of positions and values in 1/256 bit. ``alone``:
        it is small, and the stream's only matrix."""
    def bits(self) -> int:
        """What is written so far in 1/256 bit, from the bytes shifted out and the logarithm of the range."""
    def finish(self) -> bytes:
        """The stream; nothing can be written after it."""

class Decoder:
    def __init__(self, data: bytes) -> None: ...
    def unsigned(self, context: int = 0) -> int: ...
    def signed(self, context: int = 0) -> int: ...
    def uniform(self, bits: int) -> int: ...
    def integers(self, n: int, ascending: bool) -> bytes: ...
    def levels(self, n: int, count: int) -> bytes: ...
    def matrix(self, rows: int, columns: int, bits: int, alone: bool = False) -> bytes: ...
    def finish(self) -> None:
        """Raise ValueError unless the stream was read to its end and not past it."""
