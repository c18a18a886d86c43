"""What a network remembers, as modules: recurrent cells and histories, in float and in the frozen policy's integers.

A module sees sequences of steps (steps, rows, features) in ``unroll``; its ``forward`` sees the first step of an
episode in every row, so that networks with it are nn.Sequential like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from policypress.compression import kernels
from policypress.compression.fake_quant import STEP_STRIDE, FakeQuantLinear, Versions, changed, versions
from policypress.compression.fixed_point import INT32, multiplier_and_shift
from policypress.compression.ranges import ActivationQuantizer, InputQuantizer, constant_range
from policypress.compression.through_time import CellNumbers, through_time
from policypress.config import MemoryKind, memory_of
from policypress.errors import UnsupportedError
from policypress.policy import cells
from policypress.policy.ops import CELLS, Activation, History

PART_BITS, _PART_UNIT = 13, 1 / 128
"""Of the codes that both layers of a cell give: up to 32, in halves of what the table of tanh tells apart."""
_PART_LIMIT = 2 ** (PART_BITS - 1) - 1
SIGMOID = Activation("sigmoid", 1 / 32, 8, 255)
TANH = Activation("tanh", 1 / 64, 8, 255)
STATE_BITS = {"gru": (12,), "lstm": (8, 16)}
"""Of each vector of the state, where nothing else is said: h of an LSTM is small and read by layers, c is a sum."""

Vectors = list[torch.Tensor]


class Recurrent(nn.Module):
    """A recurrent cell of ``policy.ops.CELLS``: two Linear layers of all gates, one for the input and one for h.

    ``bits``: of each vector of its state (8 to 16) once it computes in integers; None: ``STATE_BITS``. Until
    ``active`` it computes in float, and measures the ranges of its state where ``ranges`` are there for it.
    """

    def __init__(self, kind: str, input: nn.Linear, recurrent: nn.Linear, bits: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.kind, self.bits = kind, bits or STATE_BITS[kind]
        if len(self.bits) != len(CELLS[kind].state) or not all(8 <= one <= 16 for one in self.bits):
            raise UnsupportedError(f"the state of a {kind} has 8 to 16 bits for each of {CELLS[kind].state}.")
        self.input: nn.Module = input
        self.recurrent: nn.Linear = recurrent
        self.units = recurrent.in_features
        self.ranges: nn.ModuleList | None = None
        self.active, self.passes = False, 0
        self._codes: _CellCodes | None = None
        self._codes_of: Versions = []

    @classmethod
    def of(cls, module: nn.Module, bits: tuple[int, ...] | None = None) -> list[Recurrent]:
        """The cells of an nn.GRU or nn.LSTM, the first layer first, or of an nn.GRUCell or nn.LSTMCell, with its own
        Parameters. Raises UnsupportedError for other modules, both directions or a projection."""
        kinds = {nn.GRU: "gru", nn.LSTM: "lstm", nn.GRUCell: "gru", nn.LSTMCell: "lstm"}
        kind = next((name for known, name in kinds.items() if isinstance(module, known)), None)
        if kind is None:
            raise UnsupportedError(f"{type(module).__name__} is no recurrent cell: give an nn.GRU or an nn.LSTM.")
        if getattr(module, "bidirectional", False) or getattr(module, "proj_size", 0):
            raise UnsupportedError("a recurrent cell must run forward in time alone, and have no projection.")
        layers = getattr(module, "num_layers", None)
        suffixes = [""] if layers is None else [f"_l{i}" for i in range(layers)]
        return [cls(kind, _linear(module, f"ih{end}"), _linear(module, f"hh{end}"), bits) for end in suffixes]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unroll(x[None], None, None)[0][0]

    def unroll(
        self, x: torch.Tensor, starts: torch.Tensor | None, state: Vectors | None
    ) -> tuple[torch.Tensor, Vectors]:
        """h of every step (steps, rows, units), and the state behind the last one.

        ``x``: (steps, rows, features); ``starts`` (steps, rows): where episodes begin, None: nowhere; ``state``: h, or
        h and c, before the first step, (rows, units) each; None: an episode begins.
        """
        steps, rows = x.shape[:2]
        taken = self.input(x.flatten(0, 1)).view(steps, rows, -1)
        if isinstance(self.recurrent, FakeQuantLinear):
            self.recurrent.learn()
        before = torch.stack(state) if state else taken.new_zeros(len(self.bits), rows, self.units)
        codes = self._present_codes()
        way = self._at_once if self._is_served(taken, starts, before, codes) else self._step_by_step
        after, smooth = way(taken, starts, before, codes)
        if self.ranges is not None and self.training and torch.is_grad_enabled():
            self._observe(smooth)
        return after[0], [values[-1] for values in after]

    def _is_served(
        self, x: torch.Tensor, starts: torch.Tensor | None, state: torch.Tensor, codes: _CellCodes | None
    ) -> bool:
        """Whether C does it: of a cell in integers not before it has met values, when its layers alone compute so."""
        layer = self.recurrent
        coded = isinstance(layer, FakeQuantLinear) and layer.active and layer.policypress_quantizer.source is not None
        tensors = [x, state, layer.weight] if layer.bias is None else [x, state, layer.weight, layer.bias]
        return (
            coded == (codes is not None)
            and kernels.fit(*tensors)
            and state.shape == (len(self.bits), x.shape[1], self.units)
            and (starts is None or (starts.dtype == torch.bool and starts.shape == x.shape[:2]))
        )

    def _at_once(
        self, x: torch.Tensor, starts: torch.Tensor | None, state: torch.Tensor, codes: _CellCodes | None
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """``_step_by_step`` by C: codes are the same, floats nearly so."""
        layer, coded = self.recurrent, None
        weight = layer.weight
        if isinstance(layer, FakeQuantLinear) and layer.active:
            if codes is None:
                weight = layer.quantized_weight()
            else:
                coded = codes.for_kernel(layer)
        starts = None if starts is None else starts.contiguous()
        return through_time(self.kind, x, starts, state, weight, layer.bias, coded)

    def _step_by_step(
        self, x: torch.Tensor, starts: torch.Tensor | None, state: torch.Tensor, codes: _CellCodes | None
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Each vector of the state (steps, rows, units) after every step, and the same before it was rounded."""
        vectors, after, smooth = list(state), list[Vectors](), list[Vectors]()
        for step, values in enumerate(x):
            if starts is not None:
                vectors = [vector * ~starts[step][:, None] for vector in vectors]
            given, vectors = self._step(values, vectors, codes)
            after.append(vectors)
            smooth.append(given)
        return [torch.stack(one) for one in zip(*after, strict=True)], [
            torch.stack(one) for one in zip(*smooth, strict=True)
        ]

    def _step(self, x: torch.Tensor, state: Vectors, codes: _CellCodes | None) -> tuple[Vectors, Vectors]:
        """The next state before it was rounded to codes, and as it is."""
        gates, layer = len(CELLS[self.kind].gates), self.recurrent
        y = layer.answer(state[0], learning=False) if isinstance(layer, FakeQuantLinear) else layer(state[0])
        smooth = cells.of_floats(self.kind, torch.sigmoid, torch.tanh, x.chunk(gates, 1), y.chunk(gates, 1), state)
        return smooth, smooth if codes is None else codes.round(smooth, x, y, state)

    def _present_codes(self) -> _CellCodes | None:
        """What it computes integers with, by its present ranges; None before, and while these are of nothing yet."""
        if not self.active:
            return None
        limits = [one.limit for one in self.state_ranges()]
        if changed(self._codes_of, limits):
            met = len(limits) > 0 and all(bool((limit > 0).all()) for limit in limits)
            self._codes, self._codes_of = _CellCodes(self) if met else None, versions(limits)
        return self._codes

    @torch.no_grad()
    def _observe(self, smooth: Sequence[torch.Tensor]) -> None:
        self.passes += 1
        if self.passes % STEP_STRIDE == 1:
            for quantizer, values in zip(self.state_ranges(), smooth, strict=True):
                quantizer.observe_values(values)

    def state_ranges(self) -> list[ActivationQuantizer]:
        """The ranges of its state, one for each vector; none until it has some."""
        return [one for one in self.ranges or [] if isinstance(one, ActivationQuantizer)]

    def quantize(self) -> None:
        """Gives it ranges of its own for its state."""
        self.ranges = nn.ModuleList(ActivationQuantizer(bits, signed=True) for bits in self.bits)

    @torch.no_grad()
    def ratios(self) -> dict[str, tuple[int, int]]:
        """Multiplier and shift of each ratio that the kind names."""
        gate, new = float(SIGMOID.lookup.scale), float(TANH.lookup.scale)
        ranges = self.state_ranges()
        h, c = float(ranges[0].scale()), float(ranges[-1].scale())
        exact = {
            "gate": _PART_UNIT / SIGMOID.unit,
            "candidate": _PART_UNIT / TANH.unit,
            "forget": gate,
            "input": gate * new / c,
            "reset": gate,
            "cell": c / TANH.unit,
            "output": gate * new / h,
        }
        names = CELLS[self.kind].ratios
        multipliers, shifts = multiplier_and_shift(torch.tensor([exact[name] for name in names]))
        return dict(zip(names, zip(multipliers.tolist(), shifts.tolist(), strict=True), strict=True))


def part_range() -> ActivationQuantizer:
    """The range of what a layer of a cell gives."""
    return constant_range(PART_BITS, _PART_LIMIT * _PART_UNIT)


class _Cell(NamedTuple):
    """A cell of codes as its formula takes it."""

    kind: str
    sigmoid: Activation
    tanh: Activation
    one: int
    limits: tuple[int, ...]


class _CellCodes:
    """The frozen policy's arithmetic of a cell, on integers held in float64, which holds all products."""

    def __init__(self, module: Recurrent) -> None:
        self._ratios = {name: multiplier / 2**shift for name, (multiplier, shift) in module.ratios().items()}
        self._scales = [quantizer.scale() for quantizer in module.state_ranges()]
        limits = tuple(quantizer.high for quantizer in module.state_ranges())
        self._largest = tuple(float(limit * scale) for limit, scale in zip(limits, self._scales, strict=True))
        self._cell = _Cell(module.kind, SIGMOID, TANH, round(1 / float(SIGMOID.lookup.scale)), limits)
        self._tables = {f.function: _table(f).to(self._scales[0].device) for f in (SIGMOID, TANH)}
        self._limits = {"gate": SIGMOID.limit, "candidate": TANH.limit, "cell": TANH.limit, "output": limits[0]}

    def for_kernel(self, layer: FakeQuantLinear) -> CellNumbers:
        """What the kernel computes with, beside the cell's recurrent ``layer``."""
        (constants, codes), source = layer.numbers(), layer.policypress_quantizer.source
        assert source is not None
        ratios, limits, scales = self._ratios, self._cell.limits, [float(scale) for scale in self._scales]
        last = ratios["reset" if self._cell.kind == "gru" else "cell"]
        numbers = (
            *(ratios[name] for name in ("gate", "candidate", "forget", "input")), last, ratios.get("output", 0.0),
            self._cell.one, SIGMOID.limit, TANH.limit, limits[0], limits[-1],
            _table(SIGMOID).data_ptr(), _table(TANH).data_ptr(), scales[0], scales[-1], _PART_UNIT, _PART_LIMIT,
            float(constants.inverse_source), source.reach, constants.ratio.data_ptr(), constants.ratio.numel(),
        )  # fmt: skip
        return CellNumbers(layer, constants, codes, numbers, self._largest)

    def round(self, smooth: Vectors, x: torch.Tensor, y: torch.Tensor, state: Vectors) -> Vectors:
        """The values of the codes that the next state has; their gradient is that of ``smooth``."""
        gates = len(CELLS[self._cell.kind].gates)
        with torch.no_grad():
            parts = [(values / _PART_UNIT).double().round().chunk(gates, 1) for values in (x, y)]
            before = [(values / scale).double().round() for values, scale in zip(state, self._scales, strict=True)]
            after = cells.of_codes(self._cell, self, parts[0], parts[1], before)
            exact = [codes.float() * scale for codes, scale in zip(after, self._scales, strict=True)]
        return [
            _Rounded.apply(values, found, largest)  # type: ignore[no-untyped-call]
            for values, found, largest in zip(smooth, exact, self._largest, strict=True)
        ]

    def scaled(self, name: str, values: torch.Tensor) -> torch.Tensor:
        codes = (values * self._ratios[name] + 0.5).floor()
        limit = self._limits.get(name)
        return codes.clamp(*INT32) if limit is None else self.clip(codes, limit)

    def look_up(self, function: Activation, codes: torch.Tensor) -> torch.Tensor:
        return self._tables[function.function][(codes + function.limit).nan_to_num().long()] + 0 * codes  # NaN stays

    def clip(self, values: torch.Tensor, limit: int) -> torch.Tensor:
        return values.clamp(-limit, limit)


@cache
def _table(function: Activation) -> torch.Tensor:
    """What an activation gives for each code, float64."""
    return torch.from_numpy(function.lookup.table.astype(np.float64))


class _Rounded(torch.autograd.Function):
    """``exact``; the gradient passes to ``smooth`` where that lies within the limit."""

    @staticmethod
    def forward(ctx: Any, smooth: torch.Tensor, exact: torch.Tensor, limit: float) -> torch.Tensor:
        ctx.save_for_backward(smooth.abs() <= limit)
        return exact

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad * ctx.saved_tensors[0], None, None


class Frames(nn.Module):
    """The last ``frames`` inputs, the oldest first, zeros before an episode: what ``policy.ops.History`` does."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = History(frames).frames  # which says what is legal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unroll(x[None], None, None)[0][0]

    def unroll(
        self, x: torch.Tensor, starts: torch.Tensor | None, state: Vectors | None
    ) -> tuple[torch.Tensor, Vectors]:
        """As ``Recurrent.unroll``; the state is what came before, (rows, (frames - 1) * features)."""
        rows, features = x.shape[1:]
        (before,) = state or [x.new_zeros(rows, (self.frames - 1) * features)]
        outputs = []
        for step in range(len(x)):
            if starts is not None:
                before = before * ~starts[step][:, None]
            outputs.append(torch.cat([before, x[step]], 1))
            before = outputs[-1][:, features:]
        return torch.stack(outputs), [before]


_MEMORIES: dict[MemoryKind, Callable[[int, int], tuple[list[nn.Module], int]]] = {
    "gru": lambda inputs, units: ([*Recurrent.of(nn.GRU(inputs, units))], units),
    "lstm": lambda inputs, units: ([*Recurrent.of(nn.LSTM(inputs, units))], units),
    "history": lambda inputs, frames: ([Frames(frames)], inputs * frames),
}


def remembering(memory: str, inputs: int) -> tuple[list[nn.Module], int]:
    """What remembers as ``config.memory_of`` says, with fresh weights, of vectors of ``inputs`` values; and how many
    values it gives."""
    found = memory_of(memory)
    return ([], inputs) if found is None else _MEMORIES[found[0]](inputs, found[1])


class FramesQuantizer(InputQuantizer):
    """The ranges of a network's inputs that it takes in ``frames``: one for each feature, over all of them."""

    def __init__(self, bits: int, features: int, frames: int) -> None:
        super().__init__(bits, features, shifts=False)
        self.frames = frames

    def inverse_scale(self) -> torch.Tensor:
        values = super().inverse_scale()
        return values.repeat(self.frames) if self.per_feature else values

    def observe_inputs(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        features = len(self.limit)
        super().observe_inputs(x.reshape(-1, features), weight.reshape(-1, features))

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        return super().cut(x.reshape(-1, len(self.limit))).reshape(x.shape)


def _linear(module: nn.Module, name: str) -> nn.Linear:
    """A Linear layer that shares the Parameters ``weight_`` and ``bias_`` of this name."""
    weight = getattr(module, f"weight_{name}")
    layer = nn.Linear(1, 1, bias=False)
    layer.out_features, layer.in_features = weight.shape
    layer.weight = weight
    layer.register_parameter("bias", getattr(module, f"bias_{name}", None))
    return layer
