"""A recurrent cell's way through all steps at once: values by one call of C, their gradient by another.

The gradient goes back through time (Werbos 1990), and straight through what rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from policypress.compression import kernels
from policypress.compression.fake_quant import Codes, Constants, FakeQuantLinear


class CellNumbers(NamedTuple):
    """What a cell of codes computes with: its recurrent ``layer`` with its numbers, those of ``codes`` in
    ``_kernels.c``, and the largest magnitude of each vector of its state, in real units."""

    layer: FakeQuantLinear
    constants: Constants
    codes: Codes
    numbers: tuple[float, ...]
    limits: tuple[float, ...]


def through_time(
    kind: str,
    x: torch.Tensor,
    starts: torch.Tensor | None,
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    coded: CellNumbers | None,
) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """Each vector of the state (steps, rows, units) after every step, and the same without rounding, which has no
    gradient.

    ``x``: (steps, rows, gates * units); ``state``: (vectors, rows, units), before the first step; ``weight`` and
    ``bias``: the recurrent layer's, whose codes ``coded`` has. All float32, contiguous, on the CPU.
    """
    with torch.no_grad():
        if coded is None:
            real, offset = weight, weight.new_zeros(len(weight)) if bias is None else bias
            after, way = kernels.unroll(kind, x, starts, state, real, offset, None)
        else:
            real = coded.codes.weight * coded.constants.step.reshape(-1, 1)
            after, way = kernels.unroll(kind, x, starts, state, coded.codes.weight, coded.codes.bias, coded.numbers)
        smooth = (after if way.smooth is None else way.smooth).detach().unbind()
    found = _ThroughTime.apply(x, state, weight, bias, kind, starts, real, after, way, coded)  # type: ignore[no-untyped-call]
    return found.unbind(), smooth


class _ThroughTime(torch.autograd.Function):
    """``after``, with the gradient of its ``way``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        state: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        kind: str,
        starts: torch.Tensor | None,
        real: torch.Tensor,
        after: torch.Tensor,
        way: kernels.Way,
        coded: CellNumbers | None,
    ) -> torch.Tensor:
        ctx.kind, ctx.starts, ctx.way, ctx.coded = kind, starts, way, coded
        ctx.save_for_backward(weight, real)  # autograd refuses a backward pass after a weight has changed
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (_, real), coded = ctx.saved_tensors, ctx.coded
        limits = (torch.inf,) if coded is None else coded.limits
        of_x, of_y, of_state = kernels.unroll_back(
            ctx.kind, grad.contiguous(), ctx.starts, real.contiguous(), ctx.way, limits
        )
        of_y, h = of_y.flatten(0, 1), ctx.way.before[0].flatten(0, 1)
        needs = (False, *ctx.needs_input_grad[2:4])
        if coded is None:
            of_weight, of_bias = of_y.t() @ h, of_y.sum(0) if needs[2] else None
        else:
            _, of_weight, of_bias = coded.layer.gradients(of_y, h, (coded.constants, coded.codes), needs)
        return of_x, of_state, of_weight, of_bias, *(None,) * 6
