"""Energy of one action: operations and bytes counted, times published energies of each; and joules, where a counter
can be read.

The energies are those of Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure
1.1.9: a 45 nm process at 0.9 V. They leave out instructions, control and leakage, so the result says how two networks
compare on like hardware, not what a machine draws. What is counted for one observation:

- A layer's weights lie in memory as one value each (8 bits, or 32), or, where that is smaller, as the nonzero ones with
  an index each (1 byte up to 256 inputs of an output, else 2) and 2 bytes for every output. Each is read once, a
  convolution's too. Multiply-adds are those of the form that is read: all, or the nonzero ones; a convolution's count
  at every position, padding included.
- Every multiply-add reads one activation, and every output of an operation is written once. Accumulators stay in
  registers. In integer numerics an activation takes 1 byte (2 for codes of 9 to 16 bits, 4 for accumulators), else 4.
- A bias is one addition. A requantization is a 32-bit multiplication and four additions (half, shift, two limits), a
  step of ReLU or of max pooling one addition. An activation of codes is a byte read from a table and one addition; of
  an odd function the table holds one half, and signs are another addition.
- A recurrent cell is its two layers, and for every unit additions of both, a requantization and a table or function for
  each gate, three products, and the state, read and written once; a history's values are read and written once.
- At the ends, in float32: input quantization is a multiplication and three additions a feature, an image's scaling a
  multiplication, a normalization a multiplication and three additions, the outputs' scale a multiplication each;
  squashing to the bounds two multiplications and two additions beside the tanh, clipping two additions, the choice of
  the largest output an addition each.
- A LayerNorm is counted in its formula, what it does once for a vector left out; it reads its values three times, and
  writes them twice.
- A float tanh is twelve multiplications and twelve additions. Other activations are counted in their formulas: a
  division is a multiplication, a comparison an addition.
- Multiplications of integers count as 8-bit ones if both factors have 8 bits, else as 32-bit ones; all their sums as
  32-bit additions. In weight-only numerics a multiply-add is one of float32.
- Memory is read in words of 64 bits, all of them used. Weights, indices, biases, scales lie in the smallest memory
  that holds all of them, activations in the smallest that holds the largest input and output of an operation: 8 kB,
  32 kB or 1 MB of SRAM, or DRAM, for which the source gives 1.3 to 2.6 nJ a word: 1.3 is taken. A write costs what a
  read does.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from policypress.errors import UnsupportedError, unknown
from policypress.policy import activations, norms
from policypress.policy.ops import (
    CELLS,
    FLOAT_BITS,
    Activation,
    Cell,
    Flatten,
    History,
    Layer,
    LayerNorm,
    MaxPool2d,
    Op,
    Relu,
    Residual,
    Shape,
)
from policypress.policy.policy import Policy

PICOJOULES: Mapping[str, float] = MappingProxyType(
    {"int8_mul": 0.2, "int32_mul": 3.1, "int32_add": 0.1, "float_mul": 3.7, "float_add": 0.9}
)
"""Energy of one operation (Horowitz 2014)."""

WORD_BYTES = 8
MEMORIES: tuple[tuple[str, float, float], ...] = (
    ("8 kB SRAM", 2.0**13, 10.0),
    ("32 kB SRAM", 2.0**15, 20.0),
    ("1 MB SRAM", 2.0**20, 100.0),
    ("DRAM", math.inf, 1300.0),
)
"""Name, bytes that fit, and picojoules for a word of 64 bits (Horowitz 2014)."""

SOURCE = "Horowitz, ISSCC 2014, 45 nm"
NOT_READABLE = "not readable here: no RAPL or amd_energy counter"
_TANH = 12  # multiplications, and as many additions


@dataclass(frozen=True)
class Counts:
    """What one action takes: ``dense_macs`` and ``nonzero_macs`` multiply-adds of the network, ``macs`` those that are
    computed; operations of each kind, these included; bytes of the model (weights, indices, the rest), of the largest
    pair of activations, and of activations read and written."""

    dense_macs: int = 0
    nonzero_macs: int = 0
    macs: int = 0
    int8_mul: int = 0
    int32_mul: int = 0
    int32_add: int = 0
    float_mul: int = 0
    float_add: int = 0
    weight_bytes: int = 0
    index_bytes: int = 0
    constant_bytes: int = 0
    activation_bytes: int = 0
    activation_traffic: int = 0

    @property
    def model_bytes(self) -> int:
        """Weights, indices, biases, scales and tables as they lie in memory."""
        return self.weight_bytes + self.index_bytes + self.constant_bytes


@dataclass(frozen=True)
class Energy:
    """Picojoules of one action by the published energies, and the memories that are assumed."""

    arithmetic: float
    model_reads: float
    activations: float
    model_memory: str
    activation_memory: str

    @property
    def total(self) -> float:
        return self.arithmetic + self.model_reads + self.activations

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values, in picojoules."""
        return {**dataclasses.asdict(self), "total": self.total}


def count(policy: Policy, *, dense: bool = False) -> Counts:
    """Operations and bytes of one action of ``policy``, in any numerics; ``dense``: zeros stored and multiplied too."""
    counter = _Counter(policy, dense)
    counter.observation()
    shape = counter.ops(policy.ops, policy.observation.shape)
    counter.action(math.prod(shape))
    return Counts(**counter.found)


def energy(counts: Counts) -> Energy:
    """Energy of an action with these ``counts``."""
    model, model_word = memory(counts.model_bytes)
    activations, activation_word = memory(counts.activation_bytes)
    return Energy(
        arithmetic=sum(getattr(counts, kind) * picojoules for kind, picojoules in PICOJOULES.items()),
        model_reads=counts.model_bytes / WORD_BYTES * model_word,
        activations=counts.activation_traffic / WORD_BYTES * activation_word,
        model_memory=model,
        activation_memory=activations,
    )


def memory(size: int) -> tuple[str, float]:
    """The smallest memory that holds ``size`` bytes, and the picojoules of reading a word of it."""
    return next((name, word) for name, fits, word in MEMORIES if size <= fits)


def operations(op: Activation) -> tuple[int, int]:
    """Multiplications and additions of a float32 activation of one value, divisions and comparisons included."""
    tally = _Tally()
    activations.FUNCTIONS[op.function].formula(tally, _Counted(tally), *op.parameters)
    return tally.multiplications, tally.additions


def _norm_operations(op: LayerNorm) -> tuple[int, int]:
    """The same of a LayerNorm, of each of its values."""
    tally = _Tally()
    norms.layer_norm(tally, _Counted(tally), _Counted(tally), _Counted(tally), op.epsilon)
    return tally.multiplications, tally.additions


class _Tally:
    """The namespace ``m`` of formulas whose operations are counted."""

    def __init__(self) -> None:
        self.multiplications = self.additions = 0

    def tanh(self, _: object) -> _Counted:
        self.multiplications += _TANH
        self.additions += _TANH
        return _Counted(self)

    def abs(self, _: object) -> _Counted:
        return _Counted(self)

    def mean(self, _: object) -> _Counted:
        self.additions += 1
        return _Counted(_Tally())

    def sqrt(self, once: _Counted) -> _Counted:
        return once

    def where(self, *_: object) -> _Counted:
        return _Counted(self)


class _Counted:
    """A value that is not known, only counted."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally

    def _multiply(self, _: object) -> _Counted:
        self._tally.multiplications += 1
        return _Counted(self._tally)

    def _add(self, _: object) -> _Counted:
        self._tally.additions += 1
        return _Counted(self._tally)

    __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _multiply
    __add__ = __radd__ = __sub__ = __rsub__ = __lt__ = __gt__ = _add


class _Counter:
    """Adds up the operations of a policy."""

    def __init__(self, policy: Policy, dense: bool) -> None:
        self._dense = dense
        self.found = dict.fromkeys((field.name for field in dataclasses.fields(Counts)), 0)
        self._policy, self._integer = policy, policy.input is not None
        self._tables: set[Activation] = set()
        self._code_bits = policy.input.bits if policy.input is not None else FLOAT_BITS

    def _add(self, **counts: int) -> None:
        for name, many in counts.items():
            self.found[name] += many

    @property
    def _value_bytes(self) -> int:
        return 1 if self._code_bits <= 8 else 2 if self._code_bits <= 16 else 4

    def observation(self) -> None:
        transform, quantization = self._policy.observation, self._policy.input
        features = math.prod(transform.shape)
        if transform.normalization is not None:
            self._add(float_mul=features, float_add=3 * features, constant_bytes=8 * features)
        if transform.image:
            self._add(float_mul=features)
        if quantization is not None:
            self._add(float_mul=features, float_add=3 * features, constant_bytes=4 * quantization.inverse_scale.size)
            if quantization.zero_point is not None:
                self._add(float_add=features, constant_bytes=4 * quantization.zero_point.size)
        self._add(activation_traffic=features * self._value_bytes)

    def action(self, outputs: int) -> None:
        action = self._policy.action
        if self._integer:
            self._add(float_mul=outputs, constant_bytes=4 * self._policy.layers[-1].scale.size)
        match action.kind:
            case "discrete" | "multi-discrete" | "multi-binary":
                self._add(float_add=outputs)
            case "box" if action.squash:
                self._add(float_mul=(_TANH + 2) * outputs, float_add=(_TANH + 2) * outputs, constant_bytes=8 * outputs)
            case "box":
                self._add(float_add=2 * outputs, constant_bytes=8 * outputs)
            case _:
                unknown(action.kind)

    def ops(self, ops: Iterable[Op], shape: Shape) -> Shape:
        for op in ops:
            after, before_bytes = op.output_shape(shape), self._value_bytes
            values, plain = math.prod(after), "int32_add" if self._integer else "float_add"
            match op:
                case Layer():
                    self._layer(op, after)
                case Relu():
                    self._add(**{plain: values})
                case Activation() if op.bits:
                    odd = activations.FUNCTIONS[op.function].odd
                    self._add(int32_add=(2 if odd else 1) * values, activation_traffic=values)
                    if op not in self._tables:
                        self._add(constant_bytes=op.limit + 1 if odd else 2 * op.limit + 1)
                        self._tables.add(op)
                    self._code_bits = 8
                case Activation():
                    multiplications, additions = operations(op)
                    self._add(float_mul=multiplications * values, float_add=additions * values)
                case LayerNorm():
                    multiplications, additions = _norm_operations(op)
                    self._add(float_mul=multiplications * values, float_add=additions * values)
                    self._add(constant_bytes=4 * (2 * values + 1), activation_traffic=4 * values * self._value_bytes)
                case MaxPool2d():
                    window = math.prod(op.kernel)
                    self._add(**{plain: (window - 1) * values})
                    self._add(activation_traffic=window * values * before_bytes)
                case Residual():
                    self.ops(op.body, shape)
                    self._add(**{plain: values}, activation_traffic=2 * values * before_bytes)
                    for operand in (op.skip, op.branch):
                        if operand is not None:
                            self._requantize(values, operand.multiplier.size + operand.shift.size)
                            self._code_bits = max(8, max(-op.low, op.high).bit_length())
                case History():
                    self._add(activation_traffic=2 * op.state_size(shape) * self._value_bytes)
                case Cell():
                    self._cell(op)
                case Flatten():
                    shape = after
                    continue
                case _:
                    unknown(op)
            pair = math.prod(shape) * before_bytes + values * self._value_bytes
            self.found["activation_bytes"] = max(self.found["activation_bytes"], pair)
            self._add(activation_traffic=values * self._value_bytes)
            shape = after
        return shape

    def _cell(self, op: Cell) -> None:
        """Both layers, and for every unit: a sum, a ratio and a function for each gate, those of the state beside."""
        kind, units = CELLS[op.kind], op.units
        rows = len(kind.gates) * units
        self._layer(op.input, (rows,))
        self._code_bits = op.bits[0] if op.bits else FLOAT_BITS
        self._layer(op.recurrent, (rows,))
        functions, products = rows + (units if "c" in kind.state else 0), 3 * units
        if op.bits:
            ratios = rows + (len(kind.ratios) - 2) * units
            self._requantize(ratios, 2 * len(kind.ratios))
            self._add(int32_mul=products, int32_add=rows + 2 * units + functions, activation_traffic=functions)
            self._add(constant_bytes=2 * op.sigmoid.limit + 1 + op.tanh.limit + 1)
            self._code_bits = max(op.bits)
        else:
            for function, count in ((op.sigmoid, 2 * units), (op.tanh, functions - 2 * units)):
                multiplications, additions = operations(function)
                self._add(float_mul=multiplications * count, float_add=additions * count)
            self._add(float_mul=products, float_add=rows + 2 * units)
        self._add(activation_traffic=2 * op.state_size(()) * self._value_bytes)
        self._code_bits = op.bits[0] if op.bits else FLOAT_BITS

    def _layer(self, layer: Layer, after: Shape) -> None:
        positions, outputs = math.prod(after[1:]), math.prod(after)
        value = 4 if layer.weight_bits == FLOAT_BITS else 1
        index = 1 if math.prod(layer.weight.shape[1:]) <= 256 else 2
        weights, nonzeros = layer.weight.size, layer.nonzeros
        indices = index * nonzeros + 2 * len(layer.weight)
        sparse = not self._dense and value * nonzeros + indices < value * weights
        read = nonzeros if sparse else weights
        macs = read * positions
        self._add(
            dense_macs=weights * positions,
            nonzero_macs=nonzeros * positions,
            macs=macs,
            weight_bytes=value * read,
            index_bytes=indices if sparse else 0,
            constant_bytes=4 * layer.bias.size,
            activation_traffic=macs * self._value_bytes,
        )
        if not self._integer:
            self._add(float_mul=macs, float_add=macs + outputs)
            if value == 1:
                self._add(float_mul=outputs, constant_bytes=4 * layer.scale.size)
            if layer.relu:
                self._add(float_add=outputs)
            return
        self._add(**{"int8_mul" if self._code_bits <= 8 else "int32_mul": macs}, int32_add=macs + outputs)
        if layer.requantize is not None:
            self._requantize(outputs, layer.requantize.multiplier.size + layer.requantize.shift.size)
            reach = max(-layer.requantize.low, layer.requantize.high)
            self._code_bits = max(8, reach.bit_length())
            return
        self._code_bits = FLOAT_BITS  # accumulators
        if layer.relu:
            self._add(int32_add=outputs)

    def _requantize(self, values: int, constants: int) -> None:
        self._add(int32_mul=values, int32_add=4 * values, constant_bytes=constants)


# Measured


class Meter:
    """Joules that the processor packages have drawn, from the counters of Linux."""

    def __init__(self, root: Path = Path("/sys/class")) -> None:
        """Finds the counters of RAPL (``powercap``) or of ``amd_energy`` (``hwmon``); UnsupportedError if none can be
        read."""
        packages = sorted(root.glob("powercap/intel-rapl:*"))
        self._counters = [
            (folder / "energy_uj", _number(folder / "max_energy_range_uj"))
            for folder in packages
            if folder.name.count(":") == 1 and _number(folder / "energy_uj") is not None
        ]
        if not self._counters:
            for folder in sorted(root.glob("hwmon/hwmon*")):
                if _text(folder / "name") == "amd_energy":
                    for label in sorted(folder.glob("energy*_label")):
                        counter = label.with_name(label.name.replace("_label", "_input"))
                        if "socket" in (_text(label) or "").lower() and _number(counter) is not None:
                            self._counters.append((counter, None))
        if not self._counters:
            raise UnsupportedError(f"Energy is {NOT_READABLE}.")

    def joules_per_call(
        self, call: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> float:
        """Joules of all packages while ``call`` runs again and again for ``seconds``, over the number of calls.

        What the machine draws anyway is in it.
        """
        before, calls, started = self._read(), 0, clock()
        while calls == 0 or clock() - started < seconds:
            for _ in range(16):
                call()
            calls += 16
        drawn = 0.0
        for (_, limit), first, last in zip(self._counters, before, self._read(), strict=True):
            drawn += last - first + (limit or 0 if last < first else 0)
        return drawn / 1e6 / calls

    def _read(self) -> list[int]:
        values = [_number(path) for path, _ in self._counters]
        if any(value is None for value in values):
            raise UnsupportedError("The energy counters can no longer be read.")
        return [value for value in values if value is not None]


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdecimal() else None
