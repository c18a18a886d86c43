"""The element-wise arithmetic of fake quantization: each function is one pass in C, or the same bits from torch.

C (``_kernels.c``) serves contiguous float32 tensors on the CPU; torch's operators serve everything else. Gradients are
the caller's business.
"""

from __future__ import annotations

import torch

from policypress.compression import _kernels

Limits = tuple[int, int]


def quantize(
    x: torch.Tensor, inverse_scale: torch.Tensor, limits: Limits, zero_point: torch.Tensor | None = None
) -> torch.Tensor:
    """Codes ``clip(rint(x * inverse_scale) - zero_point, low, high)``, float32; ``inverse_scale`` and ``zero_point``,
    whole numbers in float32, have 1 or (features,) values."""
    if zero_point is not None:
        return (x * inverse_scale).round_().sub_(zero_point).clamp_(*limits)
    if not _fits(x, inverse_scale):
        return (x * inverse_scale).round_().clamp_(*limits)
    codes = torch.empty_like(x)
    columns = inverse_scale.numel()
    _kernels.quantize(
        x.data_ptr(), codes.data_ptr(), x.numel() // columns, columns, inverse_scale.data_ptr(), columns, *limits
    )
    return codes


def requantize(acc: torch.Tensor, ratio: torch.Tensor, limits: Limits, scale: float) -> torch.Tensor:
    """Values ``scale * clip(floor(acc * ratio + 1/2), low, high)``, float32; may be written over ``acc``.

    ``acc``: (batch, channels, ...), exact integers; ``ratio`` = multiplier / 2**shift, of 1 or (channels,) values, in
    float32 if that is enough (no shift above 16), else float64.
    """
    if not _fits(acc, ratio):
        return _output_codes(acc, ratio).clamp_(*limits).mul_(scale)
    _requantize(acc, None, ratio, limits, scale)
    return acc


def requantize_with_codes(
    acc: torch.Tensor, ratio: torch.Tensor, limits: Limits, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``requantize`` and the codes before clipping; those far outside of the limits may be any code outside."""
    if not _fits(acc, ratio):
        codes = _output_codes(acc, ratio)
        return codes.clamp(*limits).mul_(scale), codes
    values = torch.empty_like(acc)
    _requantize(acc, values, ratio, limits, scale)
    return values, acc


def _output_codes(acc: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    per_channel = ratio.reshape(-1, *[1] * (acc.dim() - 2))
    return (acc * per_channel).add_(0.5).floor_().float()


def _requantize(
    acc: torch.Tensor, values: torch.Tensor | None, ratio: torch.Tensor, limits: Limits, scale: float
) -> None:
    batch, channels = acc.shape[:2]
    inner = acc.numel() // max(batch * channels, 1)
    _kernels.requantize(
        acc.data_ptr(), 0 if values is None else values.data_ptr(), batch, channels, inner, ratio.data_ptr(),
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
    if not _fits(weight, inverse_step, *([] if input_scale is None else [input_scale])):
        scaled = weight if input_scale is None else weight * input_scale
        codes = (scaled * inverse_step.reshape(-1, *[1] * (weight.dim() - 1))).round_().clamp_(-limit, limit)
        return codes, int(codes.double().abs().flatten(1).sum(1).amax())
    reusable = out is not None and out.device == weight.device and out.shape == weight.shape
    codes = out if out is not None and reusable else torch.empty_like(weight)
    rows = weight.shape[0]
    largest = _kernels.weight_codes(
        weight.data_ptr(), codes.data_ptr(), rows, weight.numel() // rows,
        0 if input_scale is None else input_scale.data_ptr(), inverse_step.data_ptr(), inverse_step.numel(), limit,
    )  # fmt: skip
    return codes, largest


def _fits(*tensors: torch.Tensor) -> bool:
    return all(t.dtype == torch.float32 and t.is_contiguous() and t.device.type == "cpu" for t in tensors)
