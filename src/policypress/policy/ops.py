"""Operations of a frozen policy: NumPy data, checked where it is made.

Each knows the shape of what it gives (``output_shape``, without the batch dimension; UnsupportedError if it does not
take such an input), the range of its codes in integer numerics (``codes``, from that of what it takes), whether it is
``elementwise``, and the operations inside it (``children``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError, require
from policypress.policy import activations, norms

FLOAT_BITS = 32
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
MAX_VALUES = 2**23  # weights in a policy, and values in any activation
PART_LIMIT = 2**15 - 1  # of codes that the layers of a recurrent cell give
MAX_FRAMES = 2**10  # of a history
LEAST_EPSILON = 2.0**-126
"""Of a LayerNorm: with it no variance is subnormal."""
ZERO_POINT_LIMIT = 2**15
"""Largest magnitude of an input's zero point: float32 products of that many codes still say which code is meant."""

Shape = tuple[int, ...]
Range = tuple[int, int]


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

    elementwise: ClassVar[bool] = False
    children: ClassVar[tuple[Op, ...]] = ()

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

    @property
    def rectifies(self) -> bool:
        """Whether negative outputs become zero, by ``relu`` or by the limits of the codes."""
        return self.relu or (self.requantize is not None and self.requantize.low == 0)

    def output_shape(self, shape: Shape) -> Shape:
        if not self.is_conv:
            _fit(shape == self.weight.shape[1:], self, shape)
            return (self.weight.shape[0],)
        _fit(len(shape) == 3 and shape[0] == self.weight.shape[1], self, shape)
        return (self.weight.shape[0], *_slide(self, shape, self.weight.shape[2:], self.weight.shape[0]))

    def reach(self, low: int, high: int) -> NDArray[np.int64]:
        """The largest magnitude that each output's accumulator can have, in whatever order it is summed: int64 (out,).

        In int64 the proof itself cannot overflow: 2**23 weights below 2**7 times codes up to 2**31.
        """
        weight = np.abs(self.weight.reshape(len(self.weight), -1)).sum(axis=1, dtype=np.int64)
        reach: NDArray[np.int64] = weight * max(-low, high) + np.abs(self.bias.astype(np.int64))
        return reach

    def codes(self, low: int, high: int) -> Range:
        if self.requantize is not None:
            return self.requantize.low, self.requantize.high
        reach = int(self.reach(low, high).max())
        return (0 if self.relu else -reach), reach


@dataclass(frozen=True)
class Relu:
    """Negative values (or codes) become zero; the scale does not change."""

    elementwise: ClassVar[bool] = True
    children: ClassVar[tuple[Op, ...]] = ()

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def codes(self, low: int, high: int) -> Range:
        return max(low, 0), max(high, 0)


@dataclass(frozen=True)
class Activation:
    """An elementwise ``function`` of ``activations.FUNCTIONS`` with its float32 ``parameters``.

    In integer numerics a table turns codes from -``limit`` to ``limit``, worth ``unit`` each (float32), into codes of
    ``bits`` bits from ``low`` to ``high``, worth ``scale`` each. Elsewhere ``unit``, ``bits`` and ``limit`` are 0 and
    the values are float32.
    """

    function: str
    unit: float = 0.0
    bits: int = 0
    limit: int = 0
    parameters: tuple[float, ...] = ()

    elementwise: ClassVar[bool] = True
    children: ClassVar[tuple[Op, ...]] = ()

    def __post_init__(self) -> None:
        known = activations.FUNCTIONS
        require(self.function in known, f"{self.function!r} is no activation that is known: use {', '.join(known)}")
        row = known[self.function]
        object.__setattr__(self, "parameters", tuple(float(np.float32(value)) for value in self.parameters))
        require(
            len(self.parameters) == len(row.parameters) and bool(np.isfinite(self.parameters).all())
            and row.legal(*self.parameters),
            f"{self.function} cannot have the parameters {self.parameters} for {row.parameters}",
        )  # fmt: skip
        if not self.bits:
            require(self.unit == 0 == self.limit, f"{self.function} has no unit and no limit where values are float32")
            return
        require(2 <= self.bits <= 8, f"{self.function} must have codes of 2 to 8 bits, not {self.bits}")
        require(
            1 <= self.limit <= activations.LARGEST_CODE,
            f"{self.function} must take codes up to 1 to {activations.LARGEST_CODE}, not {self.limit}",
        )
        require(
            math.isfinite(self.unit) and self.unit > 0 and self.unit == float(np.float32(self.unit)),
            f"{self.function} must take codes worth a positive float32 number each, not {self.unit}",
        )
        _ = self.lookup

    @property
    def lookup(self) -> activations.Lookup:
        """What the table of integer numerics holds."""
        return activations.lookup(self.function, self.parameters, self.unit, self.bits, self.limit)

    @property
    def low(self) -> int:
        return self.lookup.low

    @property
    def high(self) -> int:
        return self.lookup.high

    @property
    def as_float(self) -> Activation:
        """The same function of float32 values."""
        return Activation(self.function, parameters=self.parameters)

    def values(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The function of float32 values, of one dimension at least."""
        return activations.FUNCTIONS[self.function](x, *self.parameters)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def codes(self, low: int, high: int) -> Range:
        require(
            -self.limit <= low and high <= self.limit,
            f"{self.function} takes codes from {-self.limit} to {self.limit}, not from {low} to {high}",
        )
        return self.low, self.high


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias`` of a vector (``norms.layer_norm``), where values are
    float32: it has no form of integers.

    ``weight`` and ``bias``: float32 of shape (values,). ``epsilon``: a positive float32 number.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    epsilon: float

    elementwise: ClassVar[bool] = False
    children: ClassVar[tuple[Op, ...]] = ()

    def __post_init__(self) -> None:
        _require_vector("a LayerNorm's weight", self.weight, np.float32)
        _require_vector("a LayerNorm's bias", self.bias, np.float32)
        require(
            self.weight.shape == self.bias.shape,
            f"A LayerNorm needs a weight and a bias for each value, not {self.weight.size} and {self.bias.size}",
        )
        with np.errstate(over="ignore", under="ignore"):
            object.__setattr__(self, "epsilon", float(np.float32(self.epsilon)))
        require(
            LEAST_EPSILON <= self.epsilon < math.inf,
            f"A LayerNorm needs a finite epsilon of at least {LEAST_EPSILON:.3g}, not {self.epsilon:g}",
        )

    def values(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What it makes of float32 vectors (batch, values)."""
        normed = norms.layer_norm(norms.NumPy, x, self.weight, self.bias, self.epsilon)
        return np.asarray(normed, np.float32)

    def output_shape(self, shape: Shape) -> Shape:
        _fit(shape == self.weight.shape, self, shape)
        return shape

    def codes(self, low: int, high: int) -> Range:
        no_integers(self)


def no_integers(op: LayerNorm) -> NoReturn:
    """Raises UnsupportedError: a policy with ``op`` cannot be one of integers."""
    raise UnsupportedError(
        f"A {type(op).__name__} has no form in integers: press a student without one, by distillation, and give its "
        "widths, for example --hidden 24,24 (hidden=(24, 24))."
    )


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) becomes one vector in C order."""

    elementwise: ClassVar[bool] = False
    children: ClassVar[tuple[Op, ...]] = ()

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def codes(self, low: int, high: int) -> Range:
        return low, high


@dataclass(frozen=True)
class MaxPool2d:
    """Maximum over windows; positions outside the image never win."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    elementwise: ClassVar[bool] = False
    children: ClassVar[tuple[Op, ...]] = ()

    def __post_init__(self) -> None:
        _require_window("MaxPool2d", self.kernel, self.stride, self.padding)

    def output_shape(self, shape: Shape) -> Shape:
        _fit(len(shape) == 3, self, shape)
        return (shape[0], *_slide(self, shape, self.kernel, shape[0]))

    def codes(self, low: int, high: int) -> Range:
        return low, high


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

    elementwise: ClassVar[bool] = False

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

    @property
    def children(self) -> tuple[Op, ...]:
        return self.body

    def output_shape(self, shape: Shape) -> Shape:
        result = shape
        for op in self.body:
            result = op.output_shape(result)
        operands = [operand for operand in (self.skip, self.branch) if operand is not None]
        sizes = [values.size for operand in operands for values in (operand.multiplier, operand.shift)]
        _fit(result == shape and all(size in (1, shape[0]) for size in sizes), self, shape)
        return shape

    def codes(self, low: int, high: int) -> Range:
        return self.low, self.high


@dataclass(frozen=True)
class History:
    """The last ``frames`` vectors, the oldest first: those before the present one are its state, zeros at first."""

    frames: int

    elementwise: ClassVar[bool] = False
    children: ClassVar[tuple[Op, ...]] = ()

    def __post_init__(self) -> None:
        require(2 <= self.frames <= MAX_FRAMES, f"A history holds 2 to {MAX_FRAMES} frames, not {self.frames}")

    def output_shape(self, shape: Shape) -> Shape:
        _fit(len(shape) == 1 and self.frames * shape[0] <= MAX_VALUES, self, shape)
        return (self.frames * shape[0],)

    def state_size(self, shape: Shape) -> int:
        return (self.frames - 1) * shape[0]

    def codes(self, low: int, high: int) -> Range:
        return min(low, 0), max(high, 0)


class CellKind(NamedTuple):
    """A recurrent cell: rows of its layers for each unit, in PyTorch's order; vectors of its state; and what it
    multiplies products of codes by, in integer numerics (``docs/arithmetic.md``)."""

    gates: tuple[str, ...]
    state: tuple[str, ...]
    ratios: tuple[str, ...]


CELLS: Mapping[str, CellKind] = MappingProxyType(
    {
        "gru": CellKind(("reset", "update", "new"), ("h",), ("gate", "candidate", "forget", "input", "reset")),
        "lstm": CellKind(
            ("input", "forget", "new", "output"), ("h", "c"), ("gate", "candidate", "forget", "input", "cell", "output")
        ),
    }
)
"""Cho et al. 2014 (with the reset gate behind the product, as cuDNN and PyTorch have it); Hochreiter and Schmidhuber
1997, Gers et al. 2000."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent cell of ``CELLS``: ``input`` takes the present vector, ``recurrent`` the units' last outputs h; both
    give values for every gate, gate by gate. It gives its new h.

    In integer numerics both layers are requantized to codes of one unit; ``sigmoid`` and ``tanh`` are tables; ``bits``:
    of each vector of the state, whose codes are symmetric; ``ratios``: multiplier and shift of each requantization
    that the kind names. Elsewhere both are empty.
    """

    kind: str
    input: Layer
    recurrent: Layer
    sigmoid: Activation
    tanh: Activation
    bits: tuple[int, ...] = ()
    ratios: tuple[tuple[int, int], ...] = ()

    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.kind in CELLS, f"{self.kind!r} is no recurrent cell that is known: use {', '.join(CELLS)}")
        gates = len(CELLS[self.kind].gates)
        rows = gates * self.units
        require(
            self.recurrent.weight.shape == (rows, self.units) and self.input.weight.ndim == 2
            and len(self.input.weight) == rows,
            f"A {self.kind} needs layers of {gates} outputs for each unit, not {self.input.weight.shape} and"
            f" {self.recurrent.weight.shape}",
        )  # fmt: skip
        require(not (self.input.relu or self.recurrent.relu), f"The layers of a {self.kind} have no ReLU")
        require(
            (self.sigmoid.function, self.tanh.function) == ("sigmoid", "tanh")
            and (self.sigmoid.bits > 0) == (self.tanh.bits > 0) == bool(self.bits),
            f"A {self.kind} needs a sigmoid and a tanh, both with codes in integer numerics and only there",
        )
        require(
            all((layer.requantize is not None) == bool(self.bits) for layer in self.children),
            f"The layers of a {self.kind} are requantized in integer numerics and only there",
        )
        if not self.bits:
            require(not self.ratios, f"A {self.kind} has no ratios where values are float32")
            return
        require(
            len(self.bits) == len(CELLS[self.kind].state) and all(8 <= bits <= 16 for bits in self.bits),
            f"The state of a {self.kind} must have 8 to 16 bits for each of {', '.join(CELLS[self.kind].state)},"
            f" not {self.bits}",
        )
        require(
            len(self.ratios) == len(CELLS[self.kind].ratios),
            f"A {self.kind} needs the ratios {', '.join(CELLS[self.kind].ratios)}",
        )
        for name in CELLS[self.kind].ratios:
            self.requantization(name)
        for layer in self.children:
            assert layer.requantize is not None
            require(
                max(-layer.requantize.low, layer.requantize.high) <= PART_LIMIT,
                f"The layers of a {self.kind} give codes from -{PART_LIMIT} to {PART_LIMIT} at most",
            )

    @property
    def units(self) -> int:
        return int(self.recurrent.weight.shape[-1])

    @property
    def children(self) -> tuple[Layer, Layer]:
        return self.input, self.recurrent

    @property
    def one(self) -> int:
        """The code that would stand for 1, of those that the sigmoid gives: 255 to 510 where it has 8 bits."""
        return round(1 / float(self.sigmoid.lookup.scale))

    @property
    def limits(self) -> tuple[int, ...]:
        """The largest code of each vector of the state."""
        return tuple(weight_limit(bits) for bits in self.bits)

    def requantization(self, name: str) -> Requantization:
        """The ratio ``name`` with the limits of what it gives."""
        multiplier, shift = self.ratios[CELLS[self.kind].ratios.index(name)]
        match name:
            case "gate":
                low, high = -self.sigmoid.limit, self.sigmoid.limit
            case "candidate" | "cell":
                low, high = -self.tanh.limit, self.tanh.limit
            case "output":
                low, high = -self.limits[0], self.limits[0]
            case _:  # what is added to something else
                low, high = INT32_MIN, INT32_MAX
        return Requantization(np.array([multiplier], np.int32), np.array([shift], np.int32), low, high)

    def output_shape(self, shape: Shape) -> Shape:
        self.input.output_shape(shape)
        return (self.units,)

    def state_size(self, shape: Shape) -> int:
        return len(CELLS[self.kind].state) * self.units

    def codes(self, low: int, high: int) -> Range:
        return -self.limits[0], self.limits[0]


Op = Layer | Relu | Activation | LayerNorm | Flatten | MaxPool2d | Residual | History | Cell


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


def walk(ops: Iterable[Op]) -> Iterator[Op]:
    """Every operation among ``ops`` in the order it ends, those inside others before them."""
    for op in ops:
        yield from walk(op.children)
        yield op


def layers_of(ops: Iterable[Op]) -> Iterator[Layer]:
    """Every layer among ``ops`` in the order it runs, those inside other operations included."""
    return (op for op in walk(ops) if isinstance(op, Layer))


def parameters_of(ops: Iterable[Op]) -> int:
    """Weights, zeros included, and biases of all layers, and those of all LayerNorms."""
    return sum(op.weight.size + op.bias.size for op in walk(ops) if isinstance(op, Layer | LayerNorm))


def _require_vector(label: str, vector: NDArray[Any], dtype: type[np.generic]) -> None:
    require(
        vector.ndim == 1 and vector.size > 0 and vector.dtype == dtype and bool(np.all(np.isfinite(vector))),
        f"{label[0].upper()}{label[1:]} must be a vector of finite {np.dtype(dtype)} values",
    )


def _require_window(label: str, kernel: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    # Padding of a kernel or more would only add windows that see nothing.
    fits = all(k >= 1 and s >= 1 and 0 <= p < k for k, s, p in zip(kernel, stride, padding, strict=True))
    require(fits, f"{label} needs a kernel and stride of at least 1 and a padding smaller than the kernel")


def _slide(op: Layer | MaxPool2d, shape: Shape, kernel: Shape, channels: int) -> Shape:
    """Positions of a window over an image of ``shape``, of which ``channels`` values each come out."""
    padded = [n + 2 * p for n, p in zip(shape[1:], op.padding, strict=True)]
    _fit(all(n >= k for n, k in zip(padded, kernel, strict=True)), op, shape)
    result = tuple((n - k) // s + 1 for n, k, s in zip(padded, kernel, op.stride, strict=True))
    if max(channels * math.prod(result), shape[0] * math.prod(padded)) > MAX_VALUES:
        raise UnsupportedError(f"An activation holds at most {MAX_VALUES:,} values, padding included.")
    return result


def _fit(fits: bool, op: Op, shape: Shape) -> None:
    if not fits:
        label = type(op).__name__
        if isinstance(op, Layer):
            label += f" {op.name!r} with weights {op.weight.shape}"
        elif isinstance(op, LayerNorm):
            label += f" of {op.weight.size} values"
        raise UnsupportedError(f"{label} does not fit an input of shape {shape}.")
