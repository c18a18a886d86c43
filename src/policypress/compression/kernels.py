"""The element-wise arithmetic of fake quantization, each function one pass in C or the same bits from torch; and the
way of recurrent cells through time, in C alone.

C (``_kernels.c``) serves contiguous float32 tensors on the CPU (``fit``); torch's operators serve everything else.
Gradients are the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from policypress.compression import _kernels

Limits = tuple[int, int]
_CELLS = ("gru", "lstm")  # as C counts them


def quantize(
    x: torch.Tensor, inverse_scale: torch.Tensor, limits: Limits, zero_point: torch.Tensor | None = None
) -> torch.Tensor:
    """Codes ``clip(rint(x * inverse_scale) - zero_point, low, high)``, float32; ``inverse_scale`` and ``zero_point``,
    whole numbers in float32, have 1 or (features,) values."""
    if not fit(x, inverse_scale, *([] if zero_point is None else [zero_point])):
        codes = (x * inverse_scale).round_()
        return (codes if zero_point is None else codes.sub_(zero_point)).clamp_(*limits)
    codes = torch.empty_like(x)
    columns = inverse_scale.numel()
    _kernels.quantize(
        x.data_ptr(), codes.data_ptr(), x.numel() // columns, columns, inverse_scale.data_ptr(), columns,
        _address(zero_point), *limits,
    )  # fmt: skip
    return codes


def requantize(acc: torch.Tensor, ratio: torch.Tensor, limits: Limits, scale: float) -> torch.Tensor:
    """Values ``scale * clip(floor(acc * ratio + 1/2), low, high)``, float32; may be written over ``acc``.

    ``acc``: (batch, channels, ...), exact integers; ``ratio`` = multiplier / 2**shift, of 1 or (channels,) values, in
    float32 if that is enough (no shift above 16), else float64.
    """
    if not _fit_ratio(acc, ratio):
        return _output_codes(acc, ratio).clamp_(*limits).mul_(scale)
    _requantize(acc, None, ratio, limits, scale)
    return acc


def requantize_with_codes(
    acc: torch.Tensor, ratio: torch.Tensor, limits: Limits, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``requantize`` and the codes before clipping; those far outside of the limits may be any code outside."""
    if not _fit_ratio(acc, ratio):
        codes = _output_codes(acc, ratio)
        return codes.clamp(*limits).mul_(scale), codes
    values = torch.empty_like(acc)
    _requantize(acc, values, ratio, limits, scale)
    return values, acc


def _fit_ratio(acc: torch.Tensor, ratio: torch.Tensor) -> bool:
    """Whether C serves them; the ratio may be of float64."""
    return fit(acc) and ratio.is_cpu and ratio.is_contiguous()


def _output_codes(acc: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    per_channel = ratio.reshape(-1, *[1] * (acc.dim() - 2))
    return (acc * per_channel).add_(0.5).floor_().float()


def _requantize(
    acc: torch.Tensor, values: torch.Tensor | None, ratio: torch.Tensor, limits: Limits, scale: float
) -> None:
    batch, channels = acc.shape[:2]
    inner = acc.numel() // max(batch * channels, 1)
    _kernels.requantize(
        acc.data_ptr(), _address(values), batch, channels, inner, ratio.data_ptr(), ratio.dtype == torch.float64,
        ratio.numel(), *limits, scale,
    )  # fmt: skip


def weight_codes(
    weight: torch.Tensor,
    input_scale: torch.Tensor | None,
    inverse_step: torch.Tensor,
    limit: int,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, int]:
    """Codes ``clip(rint(weight * input_scale * inverse_step), -limit, limit)``, float32, and the largest sum of
    magnitudes of an output.

    ``weight``: (out, ...); ``input_scale``: (in,) for a matrix, or None; ``inverse_step``: 1 or (out,) values. ``out``
    may be written to.
    """
    if not fit(weight, inverse_step, *([] if input_scale is None else [input_scale])):
        scaled = weight if input_scale is None else weight * input_scale
        codes = (scaled * inverse_step.reshape(-1, *[1] * (weight.dim() - 1))).round_().clamp_(-limit, limit)
        return codes, int(codes.double().abs().flatten(1).sum(1).amax())
    reusable = out is not None and out.device == weight.device and out.shape == weight.shape
    codes = out if out is not None and reusable else torch.empty_like(weight)
    rows = weight.shape[0]
    largest = _kernels.weight_codes(
        weight.data_ptr(), codes.data_ptr(), rows, weight.numel() // rows,
        _address(input_scale), inverse_step.data_ptr(), inverse_step.numel(), limit,
    )  # fmt: skip
    return codes, largest


def look_up(
    x: torch.Tensor, inverse_scale: float, limits: Limits, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a ``table`` (2 * largest + 2, 2) of the values and slopes of codes from -largest to largest, and behind them
    of NaN, those of the codes ``clip(rint(x * inverse_scale), low, high)``, in the shape of ``x``."""
    largest = len(table) // 2 - 1
    if not fit(x, table):
        codes = (x * inverse_scale).round_().clamp_(*limits)
        found = table[codes.add_(largest).nan_to_num_(nan=2 * largest + 1).int()]
        return found[..., 0], found[..., 1]
    values, slopes = torch.empty_like(x), torch.empty_like(x)
    _kernels.look_up(
        x.data_ptr(), values.data_ptr(), slopes.data_ptr(), x.numel(), inverse_scale, *limits, largest,
        table.data_ptr(),
    )  # fmt: skip
    return values, slopes


def step_gradient(
    of_weight: torch.Tensor,
    weight: torch.Tensor,
    codes: torch.Tensor,
    input_scale: torch.Tensor | None,
    step: torch.Tensor,
    limit: int,
) -> torch.Tensor:
    """What ``of_weight``, the gradient for the real weights that ``codes`` stand for, means for the logarithm of
    ``step``, of 1 or (out,) values as the result is. Weights beyond ``limit`` steps are clipped.

    ``weight``, its gradient and codes: (out, ...); ``input_scale``: (in,) for a matrix, or None.
    """
    if not fit(of_weight, weight, codes, step, *([] if input_scale is None else [input_scale])):
        rows = step.reshape(-1, *[1] * (weight.dim() - 1))
        exact = (weight if input_scale is None else weight * input_scale) / rows
        exact = exact.masked_fill(exact.abs() > limit, 0.0)
        products = of_weight * (codes - exact) * (rows if input_scale is None else rows / input_scale)
        return _by_step(products, step)
    sums = torch.empty_like(step)
    _kernels.step_gradient(
        of_weight.data_ptr(), weight.data_ptr(), codes.data_ptr(), len(weight), weight.numel() // len(weight),
        _address(input_scale), step.data_ptr(), step.numel(), limit, sums.data_ptr(),
    )  # fmt: skip
    return sums


def rate_gradient(
    weight: torch.Tensor,
    grad: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    step: torch.Tensor,
    price: float,
) -> torch.Tensor:
    """Adds the gradient of ``price * sum(ln(1 + |weight * input_scale / step|))`` to ``grad``, that of the weights;
    returns that for the logarithm of ``step``. Shapes as in ``step_gradient``."""
    if not fit(weight, step, *(one for one in (grad, input_scale) if one is not None)):
        effective = weight if input_scale is None else weight * input_scale
        slope = price / (effective.abs() + step.reshape(-1, *[1] * (weight.dim() - 1)))
        if grad is not None:
            pull = slope * effective.sign()
            grad.add_(pull if input_scale is None else pull * input_scale)
        return _by_step(-slope * effective.abs(), step)
    sums = torch.empty_like(step)
    _kernels.rate_gradient(
        weight.data_ptr(), _address(grad), len(weight), weight.numel() // len(weight), _address(input_scale),
        step.data_ptr(), step.numel(), price, sums.data_ptr(),
    )  # fmt: skip
    return sums


def _by_step(products: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return products.flatten(1).sum(1) if step.numel() > 1 else products.sum().reshape(1)


class Way(NamedTuple):
    """What the gradient of a recurrent cell's way through time needs of it. Of its state, (vectors, steps, rows,
    units): what it was ``before`` each step, and ``smooth``, after it without rounding; None in float."""

    before: torch.Tensor
    kept: torch.Tensor
    smooth: torch.Tensor | None
    inside: torch.Tensor | None


def unroll(
    kind: str,
    x: torch.Tensor,
    starts: torch.Tensor | None,
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    codes: tuple[float, ...] | None,
) -> tuple[torch.Tensor, Way]:
    """The state (vectors, steps, rows, units) of a cell of ``policy.ops.CELLS`` after every step, for ``x`` (steps,
    rows, gates * units), which its input layer gives.

    ``starts`` (steps, rows), bool: where its state begins at zero. ``state`` (vectors, rows, units): before the first
    step. ``weight`` (gates * units, units) and ``bias``: of its recurrent layer. ``codes``: None for a cell in float;
    else weight and bias are codes, and these are the numbers of ``codes`` in C, in its order.
    """
    steps, rows, outputs = x.shape
    units = weight.shape[1]
    before, after = (x.new_empty(len(state), steps, rows, units) for _ in range(2))
    kept, columns = x.new_empty(steps, rows, outputs + units), weight.t().contiguous()
    smooth = inside = None
    if codes is not None:
        smooth, inside = torch.empty_like(after), torch.empty_like(x, dtype=torch.bool)
    _kernels.unroll(
        _CELLS.index(kind), steps, rows, units, _address(starts), x.data_ptr(), state.data_ptr(), columns.data_ptr(),
        bias.data_ptr(), before.data_ptr(), after.data_ptr(), _address(smooth), kept.data_ptr(), _address(inside),
        codes,
    )  # fmt: skip
    return after, Way(before, kept, smooth, inside)


def unroll_back(
    kind: str, grad: torch.Tensor, starts: torch.Tensor | None, weight: torch.Tensor, way: Way, limits: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of a way's ``x``, of what its recurrent layer gives, and of its first ``state``, from ``grad``, that
    of ``after``.

    ``weight``: in real units. It passes the rounding of a vector of the state where that is within its limit.
    """
    vectors, steps, rows, units = grad.shape
    of_x, of_y = (grad.new_empty(steps, rows, len(weight)) for _ in range(2))
    of_state = grad.new_zeros(vectors, rows, units)
    _kernels.unroll_back(
        _CELLS.index(kind), steps, rows, units, _address(starts), grad.data_ptr(), weight.data_ptr(),
        way.before.data_ptr(), way.kept.data_ptr(), _address(way.smooth), _address(way.inside), limits[0], limits[-1],
        of_x.data_ptr(), of_y.data_ptr(), of_state.data_ptr(),
    )  # fmt: skip
    return of_x, of_y, of_state


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def fit(*tensors: torch.Tensor) -> bool:
    """Whether C serves them."""
    for tensor in tensors:  # twice as fast as all() of a generator, and asked dozens of times a batch
        if tensor.dtype is not torch.float32 or not tensor.is_contiguous() or not tensor.is_cpu:
            return False
    return True
