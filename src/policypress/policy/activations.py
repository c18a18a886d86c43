"""Elementwise functions, a row each: the one table that every numerics, engine and format reads.

A formula is written once, over values that know +, -, *, / and comparisons and a namespace ``m`` with ``tanh``,
``where`` and ``abs``: NumPy arrays make it the reference, the ONNX export and the count of operations bring values of
their own. Only ``runtime/engine.c`` spells it out again, in the same order. No libm: every machine gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import require

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

LARGEST_CODE = 255
"""Of what a table takes: limits of at most 8 bits keep requantization within float32 and int32."""

# Minimax fits made for this project: Lawson's iteration in float64, rounded to float32.
TANH_LIMIT = np.float32(10.0)  # tanh rounds to 1 from 9.02 on
TANH_SPLIT = np.float32(0.625)
TANH_SMALL = [np.float32(float.fromhex(c)) for c in (
    "-0x1.76abf6p-8", "0x1.5256cep-6", "-0x1.b84448p-5", "0x1.110768p-3", "-0x1.555534p-2",
)]  # fmt: skip
EXP_TAIL = [np.float32(float.fromhex(c)) for c in (
    "0x1.6db4e4p-10", "0x1.123be0p-7", "0x1.55545ep-5", "0x1.55548ep-3", "0x1p-1",
)]  # fmt: skip
LOG2_E = np.float32(float.fromhex("0x1.715476p+0"))
LN2_HIGH = np.float32(float.fromhex("0x1.62ep-1"))  # 12 bits: its product with a small integer is exact
LN2_LOW = np.float32(float.fromhex("0x1.0bfbe8p-15"))
LOG_TAIL = [float.fromhex(c) for c in ("0x1.231d7cp-2", "0x1.1dc352p-2", "0x1.99e3c6p-2", "0x1.5554d0p-1")]
ERFC = [float.fromhex(c) for c in (
    "-0x1.cedceap-3", "0x1.c2d436p-1", "-0x1.405094p-1", "0x1.489c36p-1", "0x1.82c7b2p-4", "0x1.e0f9bap-3",
)]  # fmt: skip


def tanh(x: Float32) -> Float32:
    """Hyperbolic tangent by float32 +, -, *, / and floor alone, so that every machine gives the same bits.

    Odd in every bit; within 8.7e-8 and 1.46 units in the last place of the true value (checked exhaustively).
    """
    a = np.minimum(np.abs(x), TANH_LIMIT)

    # |x| < 0.625: x + x * z * P(z) with z = x * x.
    z = a * a
    small = a + a * (z * horner(TANH_SMALL, z))

    # Otherwise 1 - 2 e / (1 + e) with e = exp(-2 |x|) = 2**-n * exp(s), where s = n ln 2 - 2 |x|.
    y = a + a
    n = np.floor(y * LOG2_E + np.float32(0.5))
    s = (n * LN2_HIGH - y) + n * LN2_LOW
    e = np.ldexp((s + (s * s) * horner(EXP_TAIL, s)) + np.float32(1), -n.astype(np.int32))
    large = np.float32(1) - (e + e) / (np.float32(1) + e)

    values: Float32 = np.copysign(np.where(a < TANH_SPLIT, small, large), x).astype(np.float32)
    return values


def horner(coefficients: list[Any], x: Any) -> Any:
    """Polynomial, highest power first: one rounded product and one rounded sum a step."""
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


class NumPy:
    """The namespace ``m`` of formulas for float32 arrays."""

    tanh = staticmethod(tanh)
    abs = staticmethod(np.abs)

    @staticmethod
    def where(condition: Any, then: Any, otherwise: Any) -> Any:
        return np.where(condition, np.float32(then), np.float32(otherwise))


@dataclass(frozen=True, eq=False)
class Function:
    """An elementwise function.

    ``number`` says which it is in files and in the engine, for ever. ``formula(m, x, *parameters)`` is its value and
    ``slope(m, x, y, *parameters)`` its derivative, y being the value. ``onnx(g, x, *parameters)`` gives the same by
    operators of ONNX opset 13: ``g(kind, *inputs, **attributes)`` adds one. ``torch``: classes in torch.nn that compute
    it; ``parameters``: their attributes that are its parameters, with ``usual`` values, and ``fixed``: those that must
    have a value; ``legal`` says which parameters may be. ``domain(*parameters)``: what lies beyond changes it by half a
    step of 8 bits at most. ``bound``: of an odd function the largest magnitude; None for one that is not odd. ``grid``:
    unit and largest code of what its table takes; None where the unit is fitted to what is met.
    """

    name: str
    number: int
    formula: Callable[..., Any]
    slope: Callable[..., Any]
    onnx: Callable[..., Any]
    torch: tuple[str, ...]
    domain: Callable[..., tuple[float, float]]
    parameters: tuple[str, ...] = ()
    usual: tuple[float, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    legal: Callable[..., bool] = lambda *_: True
    bound: float | None = None
    grid: tuple[float, int] | None = None

    def __call__(self, x: Float32, *parameters: float) -> Float32:
        """float32 values, shaped like ``x`` of one dimension at least."""
        values: Float32 = np.asarray(self.formula(NumPy, x, *parameters), np.float32)
        return values

    @property
    def odd(self) -> bool:
        return self.bound is not None


def _sigmoid(m: Any, x: Any) -> Any:
    return (m.tanh(x * 0.5) + 1.0) * 0.5


def _exp_of_minus(m: Any, a: Any) -> Any:
    """exp(-a) of a >= 0."""
    t = m.tanh(a * 0.5)
    return (1.0 - t) / (1.0 + t)


def _expm1(m: Any, x: Any) -> Any:
    """exp(x) - 1 where x is negative, 0 elsewhere."""
    t = m.tanh(m.where(x > 0.0, 0.0, x) * 0.5)
    return (t + t) / (1.0 - t)


def _elu(m: Any, x: Any, alpha: float) -> Any:
    return m.where(x > 0.0, x, _expm1(m, x) * alpha)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _selu(m: Any, x: Any) -> Any:
    return _elu(m, x, _SELU_ALPHA) * _SELU_SCALE


def _celu(m: Any, x: Any, alpha: float) -> Any:
    return m.where(x > 0.0, x, _expm1(m, x / alpha) * alpha)


def _softplus(m: Any, x: Any, beta: float) -> Any:
    """max(x, 0) + log1p(exp(-|x|)), where log1p(e) = 2 artanh(e / (2 + e))."""
    x = x * beta
    e = _exp_of_minus(m, m.abs(x))
    z = e / (e + 2.0)
    w = z * z
    log = (z + z) + (z * w) * horner(LOG_TAIL, w)
    return m.where(x > 0.0, x + log, log) / beta


def _mish(m: Any, x: Any) -> Any:
    """x tanh(softplus(x)), which is a ratio of polynomials of exp(-|x|)."""
    e = _exp_of_minus(m, m.abs(x))
    twice, square = e + e, e * e
    above = (twice + 1.0) / ((twice + 1.0) + (square + square))
    below = (square + twice) / ((square + twice) + 2.0)
    return x * m.where(x > 0.0, above, below)


def _normal(m: Any, x: Any) -> Any:
    """The normal distribution's cumulative function, by erfc(u) = t P(t) exp(-u u) with t = 1 / (1 + 0.39 u)."""
    u = m.abs(x) * 0.7071067811865476
    t = 1.0 / (u * 0.39 + 1.0)
    half = ((t * horner(ERFC, t)) * _exp_of_minus(m, u * u)) * 0.5
    return m.where(x > 0.0, 1.0 - half, half)


def _gelu_inner(x: Any) -> Any:
    return (x + ((x * x) * x) * 0.044715) * 0.7978845608028654


def _gelu_tanh(m: Any, x: Any) -> Any:
    return (x * 0.5) * (m.tanh(_gelu_inner(x)) + 1.0)


def _clip(m: Any, x: Any, low: float, high: float) -> Any:
    return m.where(x < low, low, m.where(x > high, high, x))


def _hardsigmoid(m: Any, x: Any) -> Any:
    return _clip(m, x + 3.0, 0.0, 6.0) / 6.0


def _mish_slope(m: Any, x: Any, y: Any) -> Any:
    t = m.where(abs(x) > 1e-6, y / m.where(abs(x) > 1e-6, x, 1.0), 0.6)
    return t + x * (1.0 - t * t) * _sigmoid(m, x)


def _gelu_tanh_slope(m: Any, x: Any, y: Any) -> Any:
    t = m.tanh(_gelu_inner(x))
    return 0.5 * (1.0 + t) + x * 0.5 * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * (x * x))


def _inside(m: Any, x: Any, low: float, high: float) -> Any:
    return m.where(x > low, 1.0, 0.0) * m.where(x < high, 1.0, 0.0)


def _anywhere(*_: float) -> tuple[float, float]:
    return -math.inf, math.inf


def _above(low: float) -> Callable[..., tuple[float, float]]:
    return lambda *_: (low, math.inf)


_ROWS = (
    Function(
        "tanh", 0, lambda m, x: m.tanh(x), lambda m, x, y: 1.0 - y * y, lambda g, x: g("Tanh", x), ("Tanh",),
        lambda: (-255 / 64, 255 / 64), bound=1.0, grid=(1 / 64, 255),
    ),
    Function(
        "leaky_relu", 1, lambda m, x, a: m.where(x > 0.0, x, x * a), lambda m, x, y, a: m.where(x > 0.0, 1.0, a),
        lambda g, x, a: g("LeakyRelu", x, alpha=a), ("LeakyReLU",), _anywhere, parameters=("negative_slope",),
        usual=(float(np.float32(0.01)),),
    ),
    Function(
        "elu", 2, _elu, lambda m, x, y, a: m.where(x > 0.0, 1.0, y + a), lambda g, x, a: g("Elu", x, alpha=a),
        ("ELU",), _above(-6.0), parameters=("alpha",), usual=(1.0,),
    ),
    Function(
        "selu", 3, _selu, lambda m, x, y: m.where(x > 0.0, _SELU_SCALE, y + _SELU_SCALE * _SELU_ALPHA),
        lambda g, x: g("Selu", x), ("SELU",), _above(-6.0),
    ),
    Function(
        "celu", 4, _celu, lambda m, x, y, a: m.where(x > 0.0, 1.0, y / a + 1.0),
        lambda g, x, a: g("Celu", x, alpha=a), ("CELU",), lambda a: (-6.0 * a, math.inf), parameters=("alpha",),
        usual=(1.0,), legal=lambda a: a > 0.0,
    ),
    Function(
        "silu", 5, lambda m, x: x * _sigmoid(m, x), lambda m, x, y: _sigmoid(m, x) * (x - y + 1.0),
        lambda g, x: g("Mul", x, g("Sigmoid", x)), ("SiLU",), _above(-8.0),
    ),
    Function(
        "gelu", 6, lambda m, x: x * _normal(m, x),
        lambda m, x, y: _normal(m, x) + x * _exp_of_minus(m, x * x * 0.5) * 0.3989422804014327,
        lambda g, x: g("Mul", g("Mul", x, 0.5), g("Add", g("Erf", g("Mul", x, 0.7071067811865476)), 1.0)),
        ("GELU",), _above(-3.5), fixed={"approximate": "none"},
    ),
    Function(
        "gelu_tanh", 7, _gelu_tanh, _gelu_tanh_slope,
        lambda g, x: g("Mul", g("Mul", x, 0.5), g("Add", g("Tanh", g("Mul", g("Add", x, g("Mul", g("Mul", g(
            "Mul", x, x), x), 0.044715)), 0.7978845608028654)), 1.0)),
        ("GELU",), _above(-3.5), fixed={"approximate": "tanh"},
    ),
    Function(
        "mish", 8, _mish, _mish_slope, lambda g, x: g("Mul", x, g("Tanh", g("Softplus", x))), ("Mish",), _above(-8.0),
    ),
    Function(
        "softplus", 9, _softplus, lambda m, x, y, beta: _sigmoid(m, x * beta),
        lambda g, x, beta: g("Div", g("Softplus", g("Mul", x, beta)), beta), ("Softplus",),
        lambda beta: (-6.0 / beta, math.inf), parameters=("beta",), usual=(1.0,), legal=lambda beta: beta > 0.0,
    ),
    Function(
        "sigmoid", 10, _sigmoid, lambda m, x, y: y * (1.0 - y), lambda g, x: g("Sigmoid", x), ("Sigmoid",),
        lambda: (-6.0, 6.0),
    ),
    Function(
        "softsign", 11, lambda m, x: x / (m.abs(x) + 1.0), lambda m, x, y: (1.0 - m.abs(y)) * (1.0 - m.abs(y)),
        lambda g, x: g("Softsign", x), ("Softsign",), lambda: (-15.0, 15.0), bound=1.0,
    ),
    Function(
        "hardtanh", 12, _clip, lambda m, x, y, low, high: _inside(m, x, low, high), lambda g, x, low, high:
        g("Clip", x, low, high), ("Hardtanh", "ReLU6"), lambda low, high: (low, high),
        parameters=("min_val", "max_val"), usual=(-1.0, 1.0), legal=lambda low, high: low < high,
    ),
    Function(
        "hardsigmoid", 13, _hardsigmoid, lambda m, x, y: _inside(m, x, -3.0, 3.0) / 6.0,
        lambda g, x: g("HardSigmoid", x, alpha=1 / 6, beta=0.5), ("Hardsigmoid",), lambda: (-3.0, 3.0),
    ),
    Function(
        "hardswish", 14, lambda m, x: x * _hardsigmoid(m, x),
        lambda m, x, y: _hardsigmoid(m, x) + x * _inside(m, x, -3.0, 3.0) / 6.0,
        lambda g, x: g("Mul", x, g("HardSigmoid", x, alpha=1 / 6, beta=0.5)), ("Hardswish",), _above(-3.0),
    ),
    Function(
        "log_sigmoid", 15, lambda m, x: _softplus(m, x * -1.0, 1.0) * -1.0, lambda m, x, y: 1.0 - _sigmoid(m, x),
        lambda g, x: g("Mul", g("Softplus", g("Mul", x, -1.0)), -1.0), ("LogSigmoid",), lambda: (-math.inf, 6.0),
    ),
)  # fmt: skip

FUNCTIONS: Mapping[str, Function] = MappingProxyType({row.name: row for row in _ROWS})
"""Every function by its name."""


class Lookup(NamedTuple):
    """What a function makes of codes: ``table``, int64 of shape (2 * limit + 1,), read-only, holds the codes of the
    input codes -limit to limit; they lie in [``low``, ``high``], and one is worth ``scale``."""

    table: Int64
    low: int
    high: int
    scale: np.float32


@lru_cache(maxsize=1024)
def lookup(function: str, parameters: tuple[float, ...], unit: float, bits: int, limit: int) -> Lookup:
    """Codes of ``bits`` bits for codes from -``limit`` to ``limit`` worth ``unit`` each:
    ``clip(rint(f(code * unit) / scale), low, high)`` in float32.

    An odd function has codes of the same magnitudes on both sides of 0; any other uses all ``2**bits`` for the values
    that it takes here and 0, so that they are not symmetric, but 0 is always code 0. tanh's values before rint are
    never nearer than 1.5e-4 to a half.
    """
    row = FUNCTIONS[function]
    places = np.arange(-limit, limit + 1, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = row(places * np.float32(unit), *parameters)
    require(
        bool(np.isfinite(values).all()) and bool(values.any()),
        f"{function} of codes up to {limit} worth {unit:g} each gives no numbers that codes could stand for",
    )
    if row.bound is not None:
        high = 2 ** (bits - 1) - 1
        low, step = -high, row.bound / high
    else:
        least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        step = (most - least) / (2**bits - 1)
        low = round(least / step)
        high = low + 2**bits - 1
    table = np.rint(values * np.float32(1 / step)).clip(low, high).astype(np.int64)
    table.flags.writeable = False
    return Lookup(table, low, high, np.float32(step))
