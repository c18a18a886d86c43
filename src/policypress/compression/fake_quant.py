"""Layers that compute in training exactly what the frozen integer policy will compute.

Every forward pass runs on integers held in float32 (or float64 where float32 could round), so each value equals
``policy/reference.py`` bit for bit; gradients pass straight through the rounding (Bengio et al. 2013).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from policypress.config import Granularity, WeightRange

MULTIPLIER_BITS = 16
BIAS_LIMIT = 2**22
"""Largest bias code; keeps accumulators of common layers within float32's exact integers."""
INT32 = (-(2**31), 2**31 - 1)
_EXACT_FLOAT32 = 2**24
_STRIDE = 8
"""Ranges and steps follow every eighth training pass; they move slower than weights and cost as much."""
_MOMENTUM = 0.05
_SMALLEST_STEP = 2.0**-40
_ONE = torch.ones(())  # without a dimension it fits every device


class _Quantize(torch.autograd.Function):
    """``clip(rint(x * inverse_scale), low, high)``; the gradient passes as if it were ``x * inverse_scale``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, inverse_scale: torch.Tensor, limits: tuple[int, int] | None) -> torch.Tensor:
        ctx.save_for_backward(inverse_scale)
        return _codes(x, inverse_scale, limits)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (inverse_scale,) = ctx.saved_tensors
        return grad * inverse_scale, None, None


class _Requantize(torch.autograd.Function):
    """Accumulator to real value: ``scale * clip(floor(acc * ratio + 1/2), low, high)``, ratio = multiplier / 2**shift.

    float64 holds ``acc * ratio + 1/2`` exactly (32 + 16 bits), so this is the shift with round half up of the
    reference. The gradient passes as if it were ``acc * unit``, but not where the code is clipped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        acc: torch.Tensor,
        ratio: torch.Tensor,
        limits: tuple[int, int],
        scale: torch.Tensor,
        unit: torch.Tensor,
    ) -> torch.Tensor:
        codes = _output_codes(acc, ratio)
        clipped = codes.clamp(*limits)
        # 1.0 or 0.0: arithmetic on booleans is several times slower here.
        ctx.save_for_backward(torch.eq(clipped, codes, out=torch.empty_like(codes)), unit)
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        inside, unit = ctx.saved_tensors
        return (grad * unit).mul_(inside), None, None, None, None


def _codes(x: torch.Tensor, inverse_scale: torch.Tensor, limits: tuple[int, int] | None) -> torch.Tensor:
    codes = (x * inverse_scale).round_()
    return codes if limits is None else codes.clamp_(*limits)


def _output_codes(acc: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    return acc.double().mul_(ratio).add_(0.5).floor_().float()


def _quantize(x: torch.Tensor, inverse_scale: torch.Tensor, limits: tuple[int, int] | None) -> torch.Tensor:
    if not torch.is_grad_enabled():  # acting: a custom Function costs more than its arithmetic
        return _codes(x, inverse_scale, limits)
    codes: torch.Tensor = _Quantize.apply(x, inverse_scale, limits)  # type: ignore[no-untyped-call]
    return codes


def _requantize(
    acc: torch.Tensor, ratio: torch.Tensor, limits: tuple[int, int], scale: torch.Tensor, unit: torch.Tensor
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return _output_codes(acc, ratio).clamp_(*limits).mul_(scale)
    values: torch.Tensor = _Requantize.apply(acc, ratio, limits, scale, unit)  # type: ignore[no-untyped-call]
    return values


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
        self.limits = (self.low, self.high)
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

    def observe_values(self, values: torch.Tensor) -> None:
        """``observe`` for a tensor of values; an unsigned range looks at positive ones."""
        largest = values.abs().amax() if self.signed else values.amax().clamp(min=0.0)
        self.observe(largest.float().reshape(1))

    def _safe_limit(self) -> torch.Tensor:
        # A range that never saw a signal (dead layer, constant feature) still needs a positive scale.
        return self.limit.clamp(min=1e-6)


class LayerQuantizer(nn.Module):
    """Quantization state of one layer: the step of its weights, and the ranges of its input and output.

    ``step``: float32, shape (1,) or (out,), real value of one weight code. The range of the input is owned here if
    this is the first layer, else it is the upstream layer's ``output``.
    """

    step: torch.Tensor

    def __init__(
        self,
        bits: int,
        channels: int,
        weight_range: WeightRange,
        source: ActivationQuantizer | None,
        output: ActivationQuantizer | None,
        *,
        owns_source: bool = False,
        leader: LayerQuantizer | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.weight_range = bits, weight_range
        self.high = 2 ** (bits - 1) - 1
        self.limits = (-self.high, self.high)
        self.register_buffer("step", torch.zeros(channels))
        self._elsewhere = (source, leader)  # in a tuple: not submodules, they belong to other layers
        self.owns_source = owns_source
        # The first layer, in a target network too: its inputs may lie outside of their range.
        self.clips_input = owns_source or (leader is not None and leader.owns_source)
        if owns_source:
            self.input = source
        self.output = output

    @property
    def source(self) -> ActivationQuantizer | None:
        """Range of the layer's input; None in weight-only numerics."""
        return self._elsewhere[0]

    @property
    def leader(self) -> LayerQuantizer | None:
        """In a target network: the quantizer of the same layer of the deployed network."""
        return self._elsewhere[1]

    def follower(self) -> LayerQuantizer:
        """A quantizer for the same layer of a target network: these ranges, and this step when its weights change."""
        channels = self.step.numel()
        follower = LayerQuantizer(self.bits, channels, self.weight_range, self.source, self.output, leader=self)
        follower.step.copy_(self.step)
        return follower

    @torch.no_grad()
    def update_step(self, weight: torch.Tensor, bias: torch.Tensor, bias_unit: torch.Tensor | float) -> None:
        """Fits ``step`` to ``weight`` (out, ...): by largest magnitude, or one Lloyd-Max iteration of the least
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


class _Constants(NamedTuple):
    """What follows from step and ranges alone; ``None`` where the layer has no such quantizer.

    ``unit`` and ``ratio`` have the shape that broadcasts over the layer's output.
    """

    inverse_step: torch.Tensor
    accumulator_scale: torch.Tensor
    inverse_accumulator_scale: torch.Tensor
    unit: torch.Tensor
    inverse_source: torch.Tensor | None
    ratio: torch.Tensor | None
    output_scale: torch.Tensor | None


class _Memory:
    """What a layer has computed and may use again while what it came from stays the same."""

    def __init__(self) -> None:
        self.passes = 0
        self.constants_key: Any = None
        self.constants: _Constants | None = None
        self.codes_key: Any = None
        self.codes: torch.Tensor | None = None
        self.largest = 0.0
        self.followed: torch.Tensor | None = None


class _FakeQuantized(nn.Module):
    """The forward pass shared by the quantized layers. Mixed into nn.Linear and nn.Conv2d.

    Until ``active``, the layer computes in float and only measures ranges (in training mode).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    policypress_quantizer: LayerQuantizer
    active: bool
    _memory: _Memory

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantizer = self.policypress_quantizer
        learning = self._is_learning()
        if learning and quantizer.owns_source:
            self._observe_source(x)
        if not self.active:
            y = self._apply_layer(x, self.weight, self.bias)
            if learning and quantizer.output is not None:
                quantizer.output.observe_values(y.detach())
            return y
        if learning:
            self.update_step()
        if torch.is_grad_enabled():
            weight = self.weight_codes()
            largest = self._largest_sum(weight)
        else:
            weight, largest = self._kept_weight_codes()
        constants = self._constants()  # after the weights: those of a target network may have brought a new step
        if quantizer.source is None:
            step = _broadcast(quantizer.step, self.weight.dim())
            return self._apply_layer(x, weight * step, self.bias)
        assert constants.inverse_source is not None
        # What another layer quantized lies on the grid already: its codes come back as they were.
        codes = _quantize(x, constants.inverse_source, quantizer.source.limits if quantizer.clips_input else None)
        acc = self._accumulate(codes, weight, self.bias_codes(), largest)
        output = quantizer.output
        if output is None:
            return acc.float() * constants.unit
        if learning:
            output.observe_values(acc.detach() * constants.unit)
            constants = self._constants()
        assert constants.ratio is not None
        assert constants.output_scale is not None
        return _requantize(acc, constants.ratio, output.limits, constants.output_scale, constants.unit)

    def weight_codes(self) -> torch.Tensor:
        """Integer weights, float32, shape of ``weight``; scales of single input features are folded in."""
        limits = self.policypress_quantizer.limits
        return _quantize(self._effective_weight(), self._constants().inverse_step, limits)

    def bias_codes(self) -> torch.Tensor:
        """Integer biases in units of the accumulator, float32, shape (out,)."""
        return _quantize(self._bias(), self._constants().inverse_accumulator_scale, (-BIAS_LIMIT, BIAS_LIMIT))

    def accumulator_scale(self) -> torch.Tensor:
        """One unit of the accumulator in real units, float32, shape (1,) or (out,)."""
        quantizer = self.policypress_quantizer
        if quantizer.source is None or quantizer.source.per_feature:
            return quantizer.step
        return quantizer.step * quantizer.source.scale()

    def exact_ratio(self) -> torch.Tensor:
        """Codes of the output for one unit of the accumulator, float64, before it becomes fixed point."""
        output = self.policypress_quantizer.output
        assert output is not None
        return self.accumulator_scale().double() / output.scale().double()

    @torch.no_grad()
    def update_step(self) -> None:
        """Fits the step of the weights to what they are now."""
        quantizer = self.policypress_quantizer
        unit = 1.0 if quantizer.source is None or quantizer.source.per_feature else quantizer.source.scale()
        quantizer.update_step(self._effective_weight(), self._bias(), unit)

    def _apply_layer(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self, nn.Conv2d):
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        return F.linear(x, weight, bias)

    def _accumulate(
        self, codes: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, largest: float
    ) -> torch.Tensor:
        """Exact integers: in float32, or in float64 where an accumulator might pass float32's exact ones."""
        # ``largest`` and the sum are rounded themselves.
        if largest and largest + float(bias.detach().abs().amax()) >= _EXACT_FLOAT32 * (1 - 1e-5):
            return self._apply_layer(codes.double(), weight.double(), bias.double())
        return self._apply_layer(codes, weight, bias)

    def _largest_sum(self, weight: torch.Tensor) -> float:
        """Largest accumulator that ``weight`` (codes) allows, without bias; 0 where none can pass float32's exact
        integers."""
        quantizer = self.policypress_quantizer
        if quantizer.source is None:
            return 0.0
        fan_in = math.prod(self.weight.shape[1:])
        if fan_in * quantizer.high * quantizer.source.high + BIAS_LIMIT < _EXACT_FLOAT32:
            return 0.0
        sums = weight.detach().flatten(1).norm(1, dim=1)
        return float(sums.amax()) * float(quantizer.source.high)

    def _is_learning(self) -> bool:
        if not (self.training and torch.is_grad_enabled()):
            return False
        self._memory.passes += 1
        return self._memory.passes % _STRIDE == 1

    @torch.no_grad()
    def _constants(self) -> _Constants:
        quantizer, memory = self.policypress_quantizer, self._memory
        source, output = quantizer.source, quantizer.output
        key = tuple(
            (id(tensor), tensor._version)
            for tensor in (quantizer.step, source and source.limit, output and output.limit)
            if tensor is not None
        )
        if memory.constants is None or memory.constants_key != key:
            scale = self.accumulator_scale()
            dims = self.weight.dim()
            memory.constants_key = key
            memory.constants = _Constants(
                inverse_step=1.0 / _broadcast(quantizer.step, dims),
                accumulator_scale=scale,
                inverse_accumulator_scale=1.0 / scale,
                unit=_broadcast(scale, dims - 1),
                inverse_source=None if source is None else source.inverse_scale(),
                ratio=None if output is None else _broadcast(_fixed_point(self.exact_ratio()), dims - 1),
                output_scale=None if output is None else output.scale(),
            )
        return memory.constants

    def forget(self) -> None:
        """Weights have changed: what was computed from them must not be used again."""
        self._memory.codes = None

    def _kept_weight_codes(self) -> tuple[torch.Tensor, float]:
        """``weight_codes`` without gradient and their ``_largest_sum``, kept until weight, step or input scales change.

        Fused optimizers leave no trace in a tensor's version: the Compressor says ``forget`` after every step. Nor do
        Polyak updates, which write through ``.data``: followers compare values.
        """
        quantizer, memory, source = self.policypress_quantizer, self._memory, self.policypress_quantizer.source
        if quantizer.leader is not None and (memory.followed is None or not torch.equal(self.weight, memory.followed)):
            memory.followed, memory.codes = self.weight.detach().clone(), None
            quantizer.step.copy_(quantizer.leader.step)
        inputs = [self.weight, quantizer.step, *([source.limit] if source is not None and source.per_feature else [])]
        key = [(id(tensor), tensor._version) for tensor in inputs]
        if memory.codes is None or memory.codes_key != key:
            memory.codes_key, memory.codes = key, self.weight_codes()
            memory.largest = self._largest_sum(memory.codes)
        return memory.codes, memory.largest

    def _effective_weight(self) -> torch.Tensor:
        source = self.policypress_quantizer.source
        return self.weight * source.scale() if source is not None and source.per_feature else self.weight

    def _bias(self) -> torch.Tensor:
        return self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias

    @torch.no_grad()
    def _observe_source(self, x: torch.Tensor) -> None:
        source = self.policypress_quantizer.source
        if source is not None and not source.fixed:
            magnitude = x.abs()
            source.observe(magnitude.amax(0) if source.per_feature else magnitude.amax().reshape(1))


def _broadcast(values: torch.Tensor, dims: int) -> torch.Tensor:
    """(1,) or (out,) to (out, 1, ...) of ``dims`` dimensions."""
    return values.reshape(-1, *[1] * (dims - 1))


class FakeQuantLinear(_FakeQuantized, nn.Linear):  # type: ignore[misc]
    """A Linear that shares the Parameters of the one it replaces, so names, order and optimizer stay."""


class FakeQuantConv2d(_FakeQuantized, nn.Conv2d):
    """A Conv2d that shares the Parameters of the one it replaces."""


class FakeQuantAdd(nn.Module):
    """Adds two quantized tensors as the frozen policy does: both requantized to one range, added, clipped."""

    def __init__(self, skip: ActivationQuantizer, branch: ActivationQuantizer, output: ActivationQuantizer) -> None:
        super().__init__()
        self._operands = (skip, branch)  # they belong to upstream layers
        self.output, self.active, self._passes = output, False, 0

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.training and torch.is_grad_enabled():
            self._passes += 1
            if self._passes % _STRIDE == 1:
                self.output.observe_values((x + y).detach())
        if not self.active:
            return x + y
        total: torch.Tensor = sum(  # type: ignore[assignment]
            _requantize(_quantize(value, q.inverse_scale(), q.limits), _fixed_point(ratio), INT32, _ONE, ratio.float())
            for q, value, ratio in zip(self._operands, (x, y), self.exact_ratios(), strict=True)
        )
        return total.clamp(*self.output.limits) * self.output.scale()

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
    layer.policypress_quantizer, layer.active, layer._memory = quantizer, active, _Memory()
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
    own = {*vars(nn.Module()), "active", "_memory"}
    vars(layer).update({name: value for name, value in vars(module).items() if name not in own})
    layer.register_parameter("weight", module.weight)
    layer.register_parameter("bias", module.bias)
    return layer
