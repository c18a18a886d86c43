"""Layers that compute in training exactly what the frozen integer policy will compute.

Every forward pass runs on integers held in float32 (or float64 where float32 could round), so each value equals
``policy/reference.py`` bit for bit; gradients pass straight through the rounding (Bengio et al. 2013).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from policypress.config import Granularity, WeightRange

MULTIPLIER_BITS = 16
BIAS_LIMIT = 2**22
"""Largest bias code; keeps accumulators of common layers within float32's exact integers."""
INT32 = (-(2**31), 2**31 - 1)
_EXACT_FLOAT32 = 2**24
_MOMENTUM = 0.01
_SMALLEST_STEP = 2.0**-40


class _Quantize(torch.autograd.Function):
    """``clip(rint(x * inverse_scale), low, high)``; the gradient passes as if it were ``x * inverse_scale``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, inverse_scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        ctx.save_for_backward(inverse_scale)
        return (x * inverse_scale).round_().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (inverse_scale,) = ctx.saved_tensors
        return grad * inverse_scale, None, None, None


class _Requantize(torch.autograd.Function):
    """Accumulator to code, ``clip(floor(acc * m + 1/2), low, high)`` with m = multiplier / 2**shift.

    float64 holds the product exactly (31 + 16 bits), so this is the shift with round half up of the reference.
    No gradient where the code is clipped.
    """

    @staticmethod
    def forward(ctx: Any, acc: torch.Tensor, m: torch.Tensor, low: int, high: int) -> torch.Tensor:
        code = (acc.double() * m).add_(0.5).floor_()
        clipped = code.clamp(low, high)
        ctx.save_for_backward(clipped == code, m)
        return clipped.float()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        inside, m = ctx.saved_tensors
        return grad * inside * m.float(), None, None, None


def _quantize(x: torch.Tensor, inverse_scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
    codes: torch.Tensor = _Quantize.apply(x, inverse_scale, low, high)  # type: ignore[no-untyped-call]
    return codes


def _requantize(acc: torch.Tensor, ratio: torch.Tensor, low: int, high: int) -> torch.Tensor:
    codes: torch.Tensor = _Requantize.apply(acc, ratio, low, high)  # type: ignore[no-untyped-call]
    return codes


def multiplier_and_shift(ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed-point form of positive ``ratio``: (multiplier in [2**15, 2**16), shift in [1, 62]), both int32."""
    mantissa, exponent = torch.frexp(ratio.double())
    multiplier = torch.round(mantissa * 2**MULTIPLIER_BITS)
    carry = multiplier == 2**MULTIPLIER_BITS
    multiplier = torch.where(carry, multiplier / 2, multiplier)
    shift = MULTIPLIER_BITS - exponent - carry.int()
    return multiplier.int(), shift.clamp(1, 62).int()


def _fixed_point(ratio: torch.Tensor) -> torch.Tensor:
    """``ratio`` as the frozen policy will hold it: multiplier / 2**shift, float64 (exact)."""
    multiplier, shift = multiplier_and_shift(ratio)
    return torch.ldexp(multiplier.double(), -shift)


class ActivationQuantizer(nn.Module):
    """The range of a tensor and its codes of ``bits`` bits, unsigned or signed.

    ``limit``: float32 of shape (features,) or (1,), the largest magnitude that has a code; a moving average of the
    largest magnitude of each batch. With ``fixed_limit`` it never moves (images: 1.0).
    """

    limit: torch.Tensor

    def __init__(self, bits: int, signed: bool, features: int = 1, fixed_limit: float | None = None) -> None:
        super().__init__()
        self.bits, self.signed, self.fixed = bits, signed, fixed_limit is not None
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.low = -self.high if signed else 0
        self.register_buffer("limit", torch.full((features,), fixed_limit or 0.0))

    @property
    def per_feature(self) -> bool:
        return self.limit.numel() > 1

    def scale(self) -> torch.Tensor:
        """One code in real units, float32, shape of ``limit``."""
        return self._safe_limit().div(self.high)

    def inverse_scale(self) -> torch.Tensor:
        return self._safe_limit().reciprocal().mul(self.high)

    @torch.no_grad()
    def observe(self, magnitude: torch.Tensor) -> None:
        """Moves the range towards ``magnitude`` (shape of ``limit``), the largest of a batch."""
        if self.fixed:
            return
        fresh = self.limit == 0
        moved = self.limit + _MOMENTUM * (magnitude - self.limit)
        self.limit.copy_(torch.where(fresh, magnitude, moved))

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        return _quantize(x, self.inverse_scale(), self.low, self.high)

    def _safe_limit(self) -> torch.Tensor:
        # A range that never saw a signal (dead layer, constant feature) still needs a positive scale.
        return self.limit.clamp(min=1e-6)


class LayerQuantizer(nn.Module):
    """Quantization state of one layer: the step of its weights, and the range of its output.

    ``step``: float32, shape (1,) or (out,), real value of one weight code. ``input`` is the range of the layer's input:
    owned here if this is the first layer, else the upstream layer's ``output``.
    """

    step: torch.Tensor

    def __init__(
        self,
        bits: int,
        channels: int,
        weight_range: WeightRange,
        input_quantizer: ActivationQuantizer | None,
        owns_input: bool,
        output: ActivationQuantizer | None,
    ) -> None:
        super().__init__()
        self.bits, self.weight_range = bits, weight_range
        self.high = 2 ** (bits - 1) - 1
        self.register_buffer("step", torch.zeros(channels))
        self._upstream = (input_quantizer,)  # in a tuple: not a submodule, it belongs to another layer
        self.owns_input = owns_input
        if owns_input:
            self.input = input_quantizer
        self.output = output

    @property
    def input_quantizer(self) -> ActivationQuantizer | None:
        return self._upstream[0]

    @torch.no_grad()
    def update_step(self, weight: torch.Tensor, bias: torch.Tensor, bias_unit: torch.Tensor | float) -> None:
        """Fits ``step`` to ``weight`` (out, in): by largest magnitude, or one Lloyd-Max iteration of the least
        squared error from the step before. Never so small that a bias code would pass BIAS_LIMIT."""
        rows = weight.flatten(1) if self.step.numel() > 1 else weight.reshape(1, -1)
        step = rows.abs().amax(1) / self.high
        if self.weight_range == "mse":
            previous = torch.where(self.step > 0, torch.minimum(self.step, step), step)
            codes = (rows / previous.clamp(min=_SMALLEST_STEP)[:, None]).round_().clamp_(-self.high, self.high)
            power = (codes * codes).sum(1)
            step = torch.where(power > 0, (codes * rows).sum(1) / power.clamp(min=1.0), step)
        floor = bias.abs() / (bias_unit * BIAS_LIMIT)
        floor = floor if self.step.numel() > 1 else floor.amax(0, keepdim=True)
        self.step.copy_(torch.maximum(step, floor).clamp(min=_SMALLEST_STEP))


class _FakeQuantized(nn.Module):
    """The forward pass shared by the quantized layers. Mixed into nn.Linear and nn.Conv2d.

    Until ``active``, the layer computes in float and only measures ranges (in training mode).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    policypress_quantizer: LayerQuantizer
    active: bool

    def _apply_layer(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self, nn.Conv2d):
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        return F.linear(x, weight, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantizer = self.policypress_quantizer
        learning = self.training and torch.is_grad_enabled()
        if not self.active:
            y = self._apply_layer(x, self.weight, self.bias)
            if learning:
                self._observe(x, y)
            return y
        if learning:
            self.update_step()
        if quantizer.input_quantizer is None:
            weight = self.weight_codes() * self._per_channel(quantizer.step, self.weight.dim(), 0)
            return self._apply_layer(x, weight, self.bias)
        if learning and quantizer.owns_input:
            quantizer.input_quantizer.observe(_largest(x, quantizer.input_quantizer))
        acc = self.accumulate(quantizer.input_quantizer.codes(x))
        unit = self._per_channel(self.accumulator_scale(), acc.dim(), 1)
        output = quantizer.output
        if output is None:
            return acc.float() * unit
        if learning:
            real = acc.detach() * unit
            output.observe((real.abs() if output.signed else real).amax().clamp(min=0.0).float().reshape(1))
        ratio = _fixed_point(self.exact_ratio())
        code = _requantize(acc, self._per_channel(ratio, acc.dim(), 1), output.low, output.high)
        return code * output.scale()

    def accumulate(self, codes: torch.Tensor) -> torch.Tensor:
        """Input codes to accumulators: exact integers in float32, or in float64 where float32 could round."""
        weight, bias = self.weight_codes(), self.bias_codes()
        quantizer = self.policypress_quantizer
        assert quantizer.input_quantizer is not None
        largest = quantizer.input_quantizer.high
        fan_in = math.prod(self.weight.shape[1:])
        if fan_in * quantizer.high * largest + BIAS_LIMIT >= _EXACT_FLOAT32:
            bound = weight.detach().flatten(1).abs().sum(1).max() * largest + BIAS_LIMIT
            if bound >= _EXACT_FLOAT32:
                return self._apply_layer(codes.double(), weight.double(), bias.double())
        return self._apply_layer(codes, weight, bias)

    def weight_codes(self) -> torch.Tensor:
        """Integer weights, float32, shape of ``weight``; scales of single input features are folded in."""
        step = self._per_channel(self.policypress_quantizer.step, self.weight.dim(), 0)
        high = self.policypress_quantizer.high
        return _quantize(self.effective_weight(), 1.0 / step, -high, high)

    def bias_codes(self) -> torch.Tensor:
        """Integer biases in units of the accumulator, float32, shape (out,)."""
        return _quantize(self._bias(), 1.0 / self.accumulator_scale(), -BIAS_LIMIT, BIAS_LIMIT)

    def accumulator_scale(self) -> torch.Tensor:
        """One unit of the accumulator in real units, float32, shape (1,) or (out,)."""
        source = self.policypress_quantizer.input_quantizer
        if source is None or source.per_feature:
            return self.policypress_quantizer.step
        return self.policypress_quantizer.step * source.scale()

    def exact_ratio(self) -> torch.Tensor:
        """Codes of the output for one unit of the accumulator, float64, before it becomes fixed point."""
        output = self.policypress_quantizer.output
        assert output is not None
        return self.accumulator_scale().double() / output.scale().double()

    def effective_weight(self) -> torch.Tensor:
        source = self.policypress_quantizer.input_quantizer
        return self.weight * source.scale() if source is not None and source.per_feature else self.weight

    def update_step(self) -> None:
        source = self.policypress_quantizer.input_quantizer
        unit = 1.0 if source is None or source.per_feature else source.scale()
        with torch.no_grad():
            self.policypress_quantizer.update_step(self.effective_weight(), self._bias(), unit)

    def _bias(self) -> torch.Tensor:
        return self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias

    @torch.no_grad()
    def _observe(self, x: torch.Tensor, y: torch.Tensor) -> None:
        quantizer = self.policypress_quantizer
        if quantizer.owns_input and quantizer.input_quantizer is not None:
            quantizer.input_quantizer.observe(_largest(x, quantizer.input_quantizer))
        if quantizer.output is not None:
            largest = y.abs().amax() if quantizer.output.signed else y.amax().clamp(min=0.0)
            quantizer.output.observe(largest.reshape(1))

    @staticmethod
    def _per_channel(values: torch.Tensor, dims: int, axis: int) -> torch.Tensor:
        """(1,) or (out,) to a shape that broadcasts along ``axis`` of a tensor of ``dims`` dimensions."""
        shape = [1] * dims
        shape[axis] = values.numel()
        return values.reshape(shape)


def _largest(x: torch.Tensor, quantizer: ActivationQuantizer) -> torch.Tensor:
    magnitude = x.detach().abs()
    return magnitude.amax(0) if quantizer.per_feature else magnitude.amax().reshape(1)


class FakeQuantLinear(_FakeQuantized, nn.Linear):  # type: ignore[misc]
    """A Linear that shares the Parameters of the one it replaces, so names, order and optimizer stay."""


class FakeQuantConv2d(_FakeQuantized, nn.Conv2d):
    """A Conv2d that shares the Parameters of the one it replaces."""


class FakeQuantAdd(nn.Module):
    """Adds two quantized tensors as the frozen policy does: both requantized to one range, added, clipped."""

    def __init__(self, skip: ActivationQuantizer, branch: ActivationQuantizer, output: ActivationQuantizer) -> None:
        super().__init__()
        self._operands = (skip, branch)  # they belong to upstream layers
        self.output, self.active = output, False

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.training and torch.is_grad_enabled():
            self.output.observe((x + y).detach().abs().amax().reshape(1))
        if not self.active:
            return x + y
        total: torch.Tensor = sum(  # type: ignore[assignment]
            _requantize(quantizer.codes(value), _fixed_point(ratio), *INT32)
            for quantizer, value, ratio in zip(self._operands, (x, y), self.exact_ratios(), strict=True)
        )
        return total.clamp(self.output.low, self.output.high) * self.output.scale()

    def exact_ratios(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of the sum for one code of the skip and of the branch, float64, before they become fixed point."""
        skip, branch = (q.scale().double() / self.output.scale().double() for q in self._operands)
        return skip, branch


def quantized_layer(
    module: nn.Linear | nn.Conv2d, quantizer: LayerQuantizer, active: bool
) -> FakeQuantLinear | FakeQuantConv2d:
    """A fake-quantized layer with the Parameters of ``module``; ``plain_layer`` is its inverse."""
    kind = FakeQuantConv2d if isinstance(module, nn.Conv2d) else FakeQuantLinear
    layer: FakeQuantLinear | FakeQuantConv2d = _same_layer(module, kind)
    layer.policypress_quantizer, layer.active = quantizer, active
    return layer


def plain_layer(module: nn.Module) -> nn.Linear | nn.Conv2d:
    """The plain layer with the Parameters of a fake-quantized one."""
    layer: nn.Linear | nn.Conv2d = _same_layer(module, nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear)
    return layer


def weight_channels(module: nn.Linear | nn.Conv2d, granularity: Granularity) -> int:
    """How many weight scales the layer has."""
    per_channel = granularity == "channel" or (granularity == "auto" and isinstance(module, nn.Conv2d))
    return module.weight.shape[0] if per_channel else 1


def _same_layer(module: nn.Module, kind: type[Any]) -> Any:
    layer: Any = object.__new__(kind)
    nn.Module.__init__(layer)
    own = {*vars(nn.Module()), "active"}
    vars(layer).update({name: value for name, value in vars(module).items() if name not in own})
    layer.register_parameter("weight", module.weight)
    layer.register_parameter("bias", module.bias)
    return layer
