"""Activations between PyTorch and the table of ``policy.activations``: which module is which row, and its codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from policypress.compression import kernels
from policypress.compression.ranges import ActivationQuantizer, GridQuantizer, constant_range
from policypress.errors import ConfigError
from policypress.policy.activations import FUNCTIONS, LARGEST_CODE, Lookup, NumPy, lookup

Parameters = tuple[float, ...]

_SIGNED_BYTE = 127
_GRID = torch.cat([torch.linspace(-16.0, 16.0, 4096), torch.tensor([-1e3, -100.0, 100.0, 1e3])]).reshape(-1, 4)
"""Where a module's answers are compared with a row's, as a batch of vectors."""
_TOLERANCE = 1e-5


def function_of(module: nn.Module) -> tuple[str, Parameters] | None:
    """The row of ``FUNCTIONS`` that ``module`` computes, and its parameters; None if it is none.

    A class of torch.nn that a row names is that row, if it answers as the row does. Another one, if it has no
    parameters, is the row of usual parameters that answers the same: a Swish written as x * sigmoid(x) is "silu".
    """
    if isinstance(module, FakeQuantActivation):
        return module.output.function, module.output.parameters
    for row in FUNCTIONS.values():
        known = any(type(module) is getattr(nn, name) for name in row.torch)
        if known and all(getattr(module, name) == value for name, value in row.fixed.items()):
            parameters = tuple(float(np.float32(getattr(module, name))) for name in row.parameters)
            return (row.name, parameters) if row.legal(*parameters) and _answers(module, row.name, parameters) else None
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return None
    for row in FUNCTIONS.values():
        if _answers(module, row.name, row.usual):
            return row.name, row.usual
    return None


def module_of(function: str, parameters: Parameters) -> nn.Module:
    """A module of torch.nn that computes the row ``function``."""
    row = FUNCTIONS[function]
    module: nn.Module = getattr(nn, row.torch[0])(**dict(zip(row.parameters, parameters, strict=True)), **row.fixed)
    return module


def named(name: str) -> nn.Module:
    """The activation of this name, with its usual parameters; ConfigError for a name that is none."""
    if name == "relu":
        return nn.ReLU()
    if name not in FUNCTIONS:
        raise ConfigError(f"the activation {name!r} is not one of relu, {', '.join(FUNCTIONS)}.")
    return module_of(name, FUNCTIONS[name].usual)


@torch.no_grad()
def _answers(module: nn.Module, function: str, parameters: Parameters) -> bool:
    """Whether ``module`` answers as the row does, trained or not."""
    wanted = FUNCTIONS[function](_GRID.numpy(), *parameters)
    training = module.training
    try:
        for mode in (True, False):
            found = module.train(mode).forward(_GRID.clone())
            if not isinstance(found, torch.Tensor) or found.shape != _GRID.shape:
                return False
            if not bool((np.abs(found.numpy() - wanted) <= _TOLERANCE * (1 + np.abs(wanted))).all()):
                return False
    except (IndexError, RuntimeError, TypeError, ValueError):  # it wants other shapes
        return False
    finally:
        module.train(training)
    return True


def activation_input(function: str, parameters: Parameters, *, signed: bool, at_once: bool) -> ActivationQuantizer:
    """The range of what an activation's table takes, at the output of the layer or sum before it.

    ``at_once``: nothing lies between, so that codes need no byte. Its unit is the row's own, or a power of two that
    is observed.
    """
    row = FUNCTIONS[function]
    if row.grid is not None and signed and at_once:
        unit, largest = row.grid
        return constant_range(largest.bit_length() + 1, largest * unit)
    largest = LARGEST_CODE if at_once or not signed else _SIGNED_BYTE
    return GridQuantizer(largest.bit_length() + signed, signed, row.domain(*parameters))


class TableRange:
    """The codes that an activation's table gives, of ``bits`` bits, as the range of what the next layer takes.

    ``source``: the range of what the table takes, any whose codes it has room for.
    """

    fixed, per_feature = True, False

    def __init__(self, function: str, parameters: Parameters, bits: int, source: Source) -> None:
        self.function, self.parameters, self.bits, self.source = function, parameters, bits, source
        self._found: Lookup | None = None
        self._of: tuple[torch.Tensor | None, int] = (None, 0)

    @property
    def limit(self) -> torch.Tensor:
        """What everything here depends on: the observed range that comes first, float32."""
        return self.source.limit

    @property
    def unit(self) -> float:
        """What a code that the table takes is worth, a float32 number."""
        return float(self.source.scale())

    @property
    def largest(self) -> int:
        """The largest code that the table takes."""
        return self.source.reach

    @property
    def lookup(self) -> Lookup:
        limit = self.limit
        if self._found is None or self._of[0] is not limit or self._of[1] != limit._version:
            self._found = lookup(self.function, self.parameters, self.unit, self.bits, self.largest)
            self._of = (limit, limit._version)
        return self._found

    @property
    def low(self) -> int:
        return self.lookup.low

    @property
    def high(self) -> int:
        return self.lookup.high

    @property
    def limits(self) -> tuple[int, int]:
        return self.lookup.low, self.lookup.high

    @property
    def reach(self) -> int:
        """The largest magnitude of a code."""
        return max(-self.low, self.high)

    def scale(self) -> torch.Tensor:
        """One code in real units, float32 of shape (1,)."""
        return self.limit.new_full((1,), float(self.lookup.scale))

    def inverse_scale(self) -> torch.Tensor:
        return self.scale().reciprocal()


class FakeQuantActivation(nn.Module):
    """An activation as the frozen policy computes it: by the table of ``output``.

    Until ``active`` it is ``plain``, the module that it took the place of. Nothing of it is state.
    """

    def __init__(self, plain: nn.Module, output: TableRange) -> None:
        super().__init__()
        self.plain, self.output, self.active = plain, output, False
        self._table: tuple[Lookup, torch.Tensor, float] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.active:
            return self.plain(x)  # type: ignore[no-any-return]
        return _IntegerActivation.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def answer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The table's values for ``x``, and the function's slopes at its codes."""
        found, source = self.output.lookup, self.output.source
        if self._table is None or self._table[0] is not found or self._table[1].device != x.device:
            self._table = (found, self._made(found).to(x.device), float(source.inverse_scale()))
        # Whole numbers already, but behind a dropout.
        return kernels.look_up(x, self._table[2], source.limits, self._table[1])

    def _made(self, found: Lookup) -> torch.Tensor:
        """Values and slopes (2 * largest + 2, 2), float32, of the codes -largest to largest, and NaN behind them: that
        must not be lost, it says that the training diverged."""
        row, parameters, largest = FUNCTIONS[self.output.function], self.output.parameters, self.output.largest
        values = found.table.astype(np.float32) * found.scale
        points = np.arange(-largest, largest + 1, dtype=np.float32) * np.float32(self.output.unit)
        # tanh's is 1 - y * y with the output y that the table gave, as it ever was.
        answers = values if row.name == "tanh" else row(points, *parameters)
        slopes = np.broadcast_to(row.slope(NumPy, points, answers, *parameters), points.shape)
        pairs = np.stack([values, slopes], axis=1).astype(np.float32)
        return torch.from_numpy(np.append(pairs, np.full((1, 2), np.float32(math.nan)), axis=0))


class _IntegerActivation(torch.autograd.Function):
    """The values of a FakeQuantActivation's table; its gradient is the slope of the function at the input's code."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, activation: FakeQuantActivation) -> torch.Tensor:
        values, slopes = activation.answer(x)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad * ctx.saved_tensors[0], None


Source = ActivationQuantizer | TableRange
"""The range of a layer's input."""
