"""Operations of a frozen policy: NumPy data, checked where it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import require

FLOAT_BITS = 32
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
TANH_INPUT_SCALE = 1 / 64
TANH_INPUT_LIMIT = 255
"""What a Tanh takes in integer numerics: codes of 9 bits worth 1/64 each, from -3.98 to 3.98. Output codes of 8 bits
reach their limit at 3.125, and limits of at most 8 bits keep requantization within float32 and int32."""
ZERO_POINT_LIMIT = 2**15
"""Largest magnitude of an input's zero point: float32 products of that many codes still say which code is meant."""


@dataclass(frozen=True, eq=False)
class Requantization:
    """Accumulator to code: ``clip((acc * multiplier + 2**(shift - 1)) >> shift, low, high)``.

    ``multiplier`` is int32 in [16, 256), ``shift`` int32 in [1, 31]; both have shape (1,) or (out,).
    """

    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    low: int
    high: int

    def __post_init__(self) -> None:
        _require_vector("a requantization multiplier", self.multiplier, np.int32)
        _require_vector("a requantization shift", self.shift, np.int32)
        require(
            bool(np.all((self.multiplier >= 16) & (self.multiplier < 256))),
            "A requantization multiplier must lie in [16, 256)",
        )
        require(bool(np.all((self.shift >= 1) & (self.shift <= 31))), "A requantization shift must lie in [1, 31]")
        require(
            INT32_MIN <= self.low < self.high <= INT32_MAX,
            f"A requantization's limits must be ordered int32 values, not [{self.low}, {self.high}]",
        )


@dataclass(frozen=True, eq=False)
class Layer:
    """A fully connected or convolutional layer.

    ``weight``: int8 codes of ``weight_bits`` bits, or float32 when ``weight_bits`` is 32; shape (out, in) or
    (out, in, kernel height, kernel width). ``bias``: int32 in units of the accumulator (integer numerics),
    float32 otherwise; shape (out,). ``scale``: float32 of shape (1,) or (out,); one unit of the accumulator
    in real units (1 for float weights). ``requantize`` is set on the hidden layers of an integer policy and
    includes their ReLU; elsewhere ``relu`` says whether negative outputs become zero. ``trained_shape`` is the
    weight's shape in training, if units were left out since (``canonical``).
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    weight_bits: int
    scale: NDArray[np.float32]
    relu: bool
    requantize: Requantization | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    name: str = ""
    trained_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        label = f"Layer {self.name!r}"
        shape, trained = self.weight.shape, self.trained_shape
        require(
            not trained or (len(trained) == len(shape) and all(a >= b for a, b in zip(trained, shape, strict=True))),
            f"{label} cannot have been trained in the shape {trained} and have the shape {shape}",
        )
        require(
            self.weight.ndim in (2, 4) and self.weight.size > 0,
            f"{label} needs a weight of shape (out, in) or (out, in, height, width), not {self.weight.shape}",
        )
        outputs = self.weight.shape[0]
        require(
            self.bias.shape == (outputs,),
            f"{label} must have a bias of shape ({outputs},), not {self.bias.shape}",
        )
        _require_vector(f"{label}: the scale", self.scale, np.float32)
        require(bool(np.all(self.scale > 0)), f"{label}: every scale must be positive")
        per_output: list[NDArray[Any]] = [self.scale]
        if self.requantize is not None:
            per_output += [self.requantize.multiplier, self.requantize.shift]
        require(
            all(vector.size in (1, outputs) for vector in per_output),
            f"{label}: scale, multiplier and shift must hold 1 or {outputs} values",
        )
        require(
            self.bias.dtype in (np.int32, np.float32) and bool(np.all(np.isfinite(self.bias))),
            f"{label} must have a finite int32 or float32 bias",
        )
        if self.weight_bits == FLOAT_BITS:
            require(
                self.weight.dtype == np.float32 and bool(np.all(np.isfinite(self.weight))),
                f"{label} must have finite float32 weights because its weight_bits is {FLOAT_BITS}",
            )
            require(bool(np.all(self.scale == 1)), f"{label} has float weights, so its scale must be 1")
        else:
            require(
                2 <= self.weight_bits <= 8 and self.weight.dtype == np.int8,
                f"{label} must have int8 weights of 2 to 8 bits (or float32 ones of {FLOAT_BITS}),"
                f" not {self.weight.dtype} of {self.weight_bits}",
            )
            limit = weight_limit(self.weight_bits)
            require(
                -limit <= int(self.weight.min()) and int(self.weight.max()) <= limit,
                f"{label} must have weights in [-{limit}, {limit}], its weight_bits being {self.weight_bits}",
            )
        _require_window(label, self.weight.shape[2:] or (1, 1), self.stride, self.padding)

    @property
    def is_conv(self) -> bool:
        return self.weight.ndim == 4

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.weight))

    @property
    def trained_weights(self) -> int:
        """Number of weights in training, zeros and left out ones included."""
        return math.prod(self.trained_shape) if self.trained_shape else self.weight.size

    @property
    def sparsity(self) -> float:
        """Share of the trained weights that are zero or left out."""
        return 1.0 - self.nonzeros / self.trained_weights


@dataclass(frozen=True)
class Relu:
    """Negative values (or codes) become zero; the scale does not change."""


@dataclass(frozen=True)
class Tanh:
    """Hyperbolic tangent of a layer's outputs.

    In integer numerics the layer is requantized to [-TANH_INPUT_LIMIT, TANH_INPUT_LIMIT], and a table
    (``reference.tanh_table``) turns its codes, worth TANH_INPUT_SCALE each, into signed ones of ``bits`` bits, worth
    1 / ``high`` each. Elsewhere ``bits`` is 0 and the values are float32.
    """

    bits: int = 0

    def __post_init__(self) -> None:
        require(self.bits == 0 or 2 <= self.bits <= 8, f"A Tanh must have codes of 2 to 8 bits, not {self.bits}")

    @property
    def high(self) -> int:
        """Largest output code in integer numerics."""
        return int(2 ** (self.bits - 1)) - 1


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) becomes one vector in C order."""


@dataclass(frozen=True)
class MaxPool2d:
    """Maximum over windows; positions outside the image never win."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __post_init__(self) -> None:
        _require_window("MaxPool2d", self.kernel, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class Residual:
    """``x + body(x)``. In integer numerics both operands are requantized to one scale, added, and clipped to
    [``low``, ``high``]; the operands' own limits are those of int32. Elsewhere ``skip`` and ``branch`` are
    None.
    """

    body: tuple[Op, ...]
    skip: Requantization | None = None
    branch: Requantization | None = None
    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        require(len(self.body) > 0, "A residual block needs at least one operation in its body")
        require(
            (self.skip is None) == (self.branch is None),
            "A residual block requantizes both of its operands or neither",
        )
        for operand in (self.skip, self.branch):
            require(
                operand is None or (operand.low, operand.high) == (INT32_MIN, INT32_MAX),
                "The limits of a residual block's operands must be those of int32",
            )
        ordered = INT32_MIN <= self.low < self.high <= INT32_MAX
        require(
            ordered if self.skip is not None else self.low == self.high == 0,
            f"A residual block needs ordered int32 limits when it requantizes and none otherwise,"
            f" not [{self.low}, {self.high}]",
        )


Op = Layer | Relu | Tanh | Flatten | MaxPool2d | Residual


@dataclass(frozen=True, eq=False)
class InputQuantization:
    """Observation to codes: ``clip(rint(x * inverse_scale) - zero_point, low, high)`` in float32.

    ``inverse_scale``: float32, shape (features,) for vectors, (1,) for images. ``zero_point``: int32 of the same
    shape, the code that 0 stands for where values lie far from zero; None if there is none.
    """

    inverse_scale: NDArray[np.float32]
    low: int
    high: int
    bits: int
    zero_point: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        _require_vector("The input's inverse scale", self.inverse_scale, np.float32)
        require(bool(np.all(self.inverse_scale > 0)), "Every inverse scale of the input must be positive")
        require(2 <= self.bits <= 16, f"The input must have 2 to 16 bits, not {self.bits}")
        require(
            -(2**16) <= self.low < self.high <= 2**16 and self.high - self.low < 2**self.bits,
            f"The input's limits [{self.low}, {self.high}] do not fit {self.bits} bits",
        )
        zeros = self.zero_point
        if zeros is None:
            return
        _require_vector("The input's zero point", zeros, np.int32)
        require(
            zeros.size == self.inverse_scale.size and 0 < int(np.abs(zeros.astype(np.int64)).max()) <= ZERO_POINT_LIMIT,
            f"The input needs one zero point for each inverse scale, in [-{ZERO_POINT_LIMIT}, {ZERO_POINT_LIMIT}] and"
            " not all 0",
        )


def weight_limit(bits: int) -> int:
    """Largest magnitude of a signed symmetric weight code of ``bits`` bits."""
    return int(2 ** (bits - 1)) - 1


def layers_of(ops: Iterable[Op]) -> Iterator[Layer]:
    """Every layer among ``ops`` in the order it runs, those inside residual blocks included."""
    for op in ops:
        if isinstance(op, Layer):
            yield op
        elif isinstance(op, Residual):
            yield from layers_of(op.body)


def _require_vector(label: str, vector: NDArray[Any], dtype: type[np.generic]) -> None:
    require(
        vector.ndim == 1 and vector.size > 0 and vector.dtype == dtype and bool(np.all(np.isfinite(vector))),
        f"{label[0].upper()}{label[1:]} must be a vector of finite {np.dtype(dtype)} values",
    )


def _require_window(label: str, kernel: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    # Padding of a kernel or more would only add windows that see nothing.
    fits = all(k >= 1 and s >= 1 and 0 <= p < k for k, s, p in zip(kernel, stride, padding, strict=True))
    require(fits, f"{label} needs a kernel and stride of at least 1 and a padding smaller than the kernel")
