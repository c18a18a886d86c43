"""Layers that compute in training exactly what the frozen integer policy will compute.

Every forward pass runs on integers held in float32 (or float64 where float32 could round), so each value equals
``policy/reference.py`` bit for bit; gradients pass straight through the rounding (Bengio et al. 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from policypress.compression import kernels
from policypress.compression.activations import Source
from policypress.compression.fixed_point import MULTIPLIER_BITS, fixed_point, multiplier_and_shift
from policypress.compression.ranges import ActivationQuantizer, InputQuantizer
from policypress.compression.weight_steps import BIAS_LIMIT, LayerQuantizer
from policypress.config import Granularity
from policypress.errors import unknown
from policypress.policy.activations import LARGEST_CODE

_EXACT_FLOAT32 = 2**24
STEP_STRIDE = 8
"""Ranges and steps follow every eighth training pass; they move slower than weights and cost as much."""


class _IntegerLayer(torch.autograd.Function):
    """``_FakeQuantized.integers``; its gradient is that of the layer whose real input and weights the codes stand
    for, but zero where an output is clipped."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: Any, learning: bool
    ) -> torch.Tensor:
        run: _Run = layer.integers(x, learning)
        ctx.layer, ctx.numbers = layer, run.numbers
        # Its codes are kept by the layer; saved itself, autograd refuses a backward pass after it has changed.
        ctx.save_for_backward(run.inputs, weight, run.codes)
        return run.values

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        inputs, _, codes = ctx.saved_tensors
        if codes is not None:
            grad = _inside(grad, codes, ctx.layer.policypress_quantizer.output.limits)
        needs = ctx.needs_input_grad[:3]
        return (*ctx.layer.gradients(grad, inputs, ctx.numbers, needs), None, None)


class _IntegerAdd(torch.autograd.Function):
    """``FakeQuantAdd.integers``; the gradient reaches both operands, but not where the sum is clipped."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, add: Any) -> torch.Tensor:
        codes: torch.Tensor = add.integers(x, y)
        ctx.limits = add.output.limits
        ctx.save_for_backward(codes)
        return codes.clamp(*ctx.limits).mul_(add.output.scale())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        grad = _inside(grad, ctx.saved_tensors[0], ctx.limits)
        return grad, grad, None


class _StraightThrough(torch.autograd.Function):
    """``values``; the gradient passes to ``weight`` as it is."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, values: torch.Tensor, layer: Any, numbers: Numbers) -> torch.Tensor:
        ctx.layer, ctx.numbers = layer, numbers
        return values

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        ctx.layer.gather_step_gradient(grad, ctx.numbers)
        return grad, None, None, None


def _inside(grad: torch.Tensor, codes: torch.Tensor, limits: tuple[int, int]) -> torch.Tensor:
    """``grad`` where ``codes`` lie within ``limits``, else 0."""
    low, high = limits
    return torch.ops.aten.hardtanh_backward(grad, codes, low - 0.5, high + 0.5)  # type: ignore[no-any-return]


class Constants(NamedTuple):
    """What follows from step and ranges alone; ones where the layer has no such quantizer.

    Vectors of 1 or (out,) values, (features,) for an input with a scale for each feature.
    """

    step: torch.Tensor
    inverse_step: torch.Tensor
    bias_grid: torch.Tensor
    inverse_bias_unit: torch.Tensor
    unit: torch.Tensor
    inverse_source: torch.Tensor
    source_scale: torch.Tensor
    zero_point: torch.Tensor | None
    ratio: torch.Tensor
    output_scale: float


class Codes(NamedTuple):
    """Weights and biases as integers; ``wide`` if an accumulator could pass float32's exact ones."""

    weight: torch.Tensor
    bias: torch.Tensor
    wide: bool


Numbers = tuple[Constants, Codes]
"""What a layer computes with."""


class _Run(NamedTuple):
    """One forward pass: its result, and what the gradient needs of it (``codes`` of the output before clipping)."""

    values: torch.Tensor
    inputs: torch.Tensor
    codes: torch.Tensor | None
    numbers: Numbers


Versions = list[tuple[torch.Tensor, int]]


class _Memory:
    """What a layer has computed and may use again while the tensors it came from stay the same."""

    def __init__(self) -> None:
        self.constants: Constants | None = None
        self.constants_of: Versions = []
        self.codes: Codes | None = None
        self.codes_of: Versions = []
        self.stale = True
        self.followed: torch.Tensor | None = None


def changed(since: Versions, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether ``tensors`` are not what they were when ``since`` was asked for."""
    return len(since) != len(tensors) or any(
        kept is not tensor or version != tensor._version for (kept, version), tensor in zip(since, tensors, strict=True)
    )


def versions(tensors: Sequence[torch.Tensor]) -> Versions:
    """What ``changed`` compares tensors with."""
    return [(tensor, tensor._version) for tensor in tensors]


class _FakeQuantized(nn.Module):
    """The forward pass shared by the quantized layers. Mixed into nn.Linear and nn.Conv2d.

    Until ``active``, the layer computes in float and only measures ranges (in training mode). ``passes``: how many it
    has seen in training since it is quantized.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    policypress_quantizer: LayerQuantizer
    active: bool
    passes: int
    _memory: _Memory

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dims = self.weight.dim()
        if x.dim() != dims:  # an unbatched input, or a Linear over more dimensions
            rest = x.shape[: x.dim() - (dims - 1)]
            y = self.forward(x.reshape(-1, *x.shape[len(rest) :]))
            return y.reshape(*rest, *y.shape[1:])
        return self.answer(x, self._is_learning())

    def answer(self, x: torch.Tensor, learning: bool) -> torch.Tensor:
        """What ``forward`` gives for a batch ``x``; ``learning`` moves ranges and steps first."""
        quantizer = self.policypress_quantizer
        if learning and quantizer.owns_source:
            self._observe_source(x)
        if not self.active:
            if self.training and quantizer.rounds_input and isinstance(quantizer.source, InputQuantizer):
                x = quantizer.source.cut(x)  # in evaluation it answers what it would if it were frozen now
            y = self._apply_layer(x, self.weight, self.bias)
            if learning and quantizer.output is not None:
                quantizer.output.observe_values(y.detach())
            return y
        if learning:
            self.update_step()
        if quantizer.source is None:
            return self._apply_layer(x, self.quantized_weight(), self.bias)
        if torch.is_grad_enabled():
            return _IntegerLayer.apply(x, self.weight, self.bias, self, learning)  # type: ignore[no-any-return, no-untyped-call]
        acc, _, (constants, _) = self._accumulate(x)
        if quantizer.output is None:
            return acc.float() * _broadcast(constants.unit, x.dim() - 1)
        return kernels.requantize(acc, constants.ratio, quantizer.output.limits, constants.output_scale)

    def learn(self) -> None:
        """Begins a pass of a layer inside of a network, whose ``answer`` is then asked for more than once."""
        if self._is_learning() and self.active:
            self.update_step()

    def quantized_weight(self) -> torch.Tensor:
        """What the codes of the weights stand for; its gradient is that of the weights."""
        numbers = self.numbers()
        values = numbers[1].weight * _broadcast(numbers[0].step, self.weight.dim())
        return _StraightThrough.apply(self.weight, values, self, numbers)  # type: ignore[no-any-return, no-untyped-call]

    def integers(self, x: torch.Tensor, learning: bool) -> _Run:
        """The layer in the frozen policy's arithmetic; ``learning`` moves the range of its output first."""
        acc, inputs, numbers = self._accumulate(x)
        quantizer, constants = self.policypress_quantizer, numbers[0]
        inputs = inputs * constants.source_scale if quantizer.rounds_input else x
        unit = _broadcast(constants.unit, x.dim() - 1)
        if quantizer.output is None:
            return _Run(acc.float() * unit, inputs, None, numbers)
        if learning:
            quantizer.output.observe_values(acc * unit)
            grid, numbers = constants.bias_grid, self.numbers()
            constants = numbers[0]
            if not torch.equal(constants.bias_grid, grid):  # now and then a wider range makes the biases coarser
                return self.integers(x, learning=False)
        limits, scale = quantizer.output.limits, constants.output_scale
        values, codes = kernels.requantize_with_codes(acc, constants.ratio, limits, scale)
        return _Run(values, inputs, codes, numbers)

    def _accumulate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Numbers]:
        """Accumulators (exact integers in float32 or float64), the input's codes, and what they come from."""
        constants, kept = numbers = self.numbers()
        source = self.policypress_quantizer.source
        assert source is not None
        # What another layer quantized lies on the grid: its codes come back as they were.
        inputs = kernels.quantize(x, constants.inverse_source, source.limits, constants.zero_point)
        if kept.wide:
            acc = self._apply_layer(inputs.double(), kept.weight.double(), kept.bias.double())
        else:
            acc = self._apply_layer(inputs, kept.weight, kept.bias)
        return acc, inputs, numbers

    def gradients(
        self,
        grad: torch.Tensor,
        inputs: torch.Tensor,
        numbers: Numbers,
        needs: tuple[bool, bool, bool],
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Gradients of the real layer for input, weight and bias, from the one for its output; ``numbers`` are those of
        the pass that gave it."""
        constants, weight = numbers[0], numbers[1].weight
        if isinstance(self, nn.Conv2d):
            found = torch.ops.aten.convolution_backward(
                grad, inputs, weight * _broadcast(constants.step, 4), [len(weight)], self.stride, self.padding,
                self.dilation, False, [0, 0], self.groups, needs,
            )  # fmt: skip
            if needs[1]:
                self.gather_step_gradient(found[1], numbers)
            return found  # type: ignore[no-any-return]
        of_input, of_weight, of_bias = needs
        of_inputs = None
        if of_input:
            of_inputs = (grad * constants.step) @ weight  # scales what is smaller than the weight
            source = self.policypress_quantizer.source
            if source is not None and source.per_feature:
                of_inputs = of_inputs / constants.source_scale
        of_weights = grad.t() @ inputs if of_weight else None
        if of_weights is not None:
            self.gather_step_gradient(of_weights, numbers)
            if constants.zero_point is not None:  # the codes say how far inputs are from the middle of their range
                of_weights = of_weights + grad.sum(0)[:, None] * (constants.zero_point * constants.source_scale)
        return of_inputs, of_weights, grad.sum(0) if of_bias else None

    @torch.no_grad()
    def gather_step_gradient(self, of_weight: torch.Tensor, numbers: Numbers) -> None:
        """Adds what ``of_weight``, the gradient for the real weights that the codes stand for, means for the logarithm
        of a learned step. Source: Esser et al. 2020, equation 3."""
        quantizer = self.policypress_quantizer
        if quantizer.weight_range != "learned" or quantizer.leader is not None:
            return
        constants, kept = numbers
        scale = self._feature_scale(constants)
        found = kernels.step_gradient(of_weight, self.weight, kept.weight, scale, constants.step, quantizer.high)
        self._add_step_gradient(found)

    @torch.no_grad()
    def add_rate_gradient(self, weight: float) -> None:
        """Adds the gradient of ``weight`` times the sum of log2(1 + |w / step|), about the bits of the codes, to that
        of the weights and of a learned step."""
        constants, price = self._constants(), weight / math.log(2)
        scale = self._feature_scale(constants)
        self._add_step_gradient(kernels.rate_gradient(self.weight, self.weight.grad, scale, constants.step, price))

    def _add_step_gradient(self, found: torch.Tensor) -> None:
        quantizer = self.policypress_quantizer
        quantizer.gradient = found if quantizer.gradient is None else quantizer.gradient + found

    def weight_codes(self) -> torch.Tensor:
        """Integer weights, float32, shape of ``weight``; scales of single input features are folded in."""
        return self._codes(self._new_constants(), None).weight

    def bias_codes(self) -> torch.Tensor:
        """Integer biases in units of the accumulator, float32, shape (out,)."""
        return self._codes(self._new_constants(), None).bias

    def accumulator_scale(self) -> torch.Tensor:
        """One unit of the accumulator in real units, float32, shape (1,) or (out,)."""
        quantizer = self.policypress_quantizer
        scale = quantizer.step
        if quantizer.source is not None and not quantizer.source.per_feature:
            scale = scale * quantizer.source.scale()
        # The last layer's is stored in the file: eight significant bits of it.
        return scale.bfloat16().float() if quantizer.output is None and quantizer.source is not None else scale

    def exact_ratio(self) -> torch.Tensor:
        """Codes of the output for one unit of the accumulator, float64, before it becomes fixed point."""
        output = self.policypress_quantizer.output
        assert output is not None
        return self.accumulator_scale().double() / output.scale().double()

    @torch.no_grad()
    def update_step(self) -> None:
        """Fits the step of the weights to what they are now."""
        quantizer = self.policypress_quantizer
        weight, source = self.weight, quantizer.source
        unit: torch.Tensor | float = 1.0
        if source is not None and source.per_feature:
            weight = weight * source.scale()
        elif source is not None:
            unit = source.scale()
        middle = source.middle() if isinstance(source, InputQuantizer) else None
        quantizer.update_step(weight, self._bias(middle), unit)

    def _apply_layer(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self, nn.Conv2d):
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        return F.linear(x, weight, bias)

    def _is_learning(self) -> bool:
        if not (self.training and torch.is_grad_enabled()):
            return False
        self.passes += 1
        return self.passes % STEP_STRIDE == 1

    def numbers(self) -> tuple[Constants, Codes]:
        """Constants, and the codes of weights and biases: computed again when what they come from has changed.

        Fused optimizers leave no trace in a tensor's version: the Compressor says ``forget`` after every step. Nor do
        Polyak updates, which write through ``.data``: followers look at the biases, which such an update moves too.
        """
        leader, memory = self.policypress_quantizer.leader, self._memory
        weight, bias = self.weight, self.bias
        if leader is not None:
            followed = weight if bias is None else bias
            if memory.followed is None or not torch.equal(followed, memory.followed):
                memory.followed, memory.stale = followed.detach().clone(), True
                self.policypress_quantizer.step.copy_(leader.step)
        constants = self._constants()
        parameters = [weight] if bias is None else [weight, bias]
        if memory.codes is None or memory.stale or changed(memory.codes_of, parameters):
            # Over the old ones: new memory for every step would cost as much as the codes.
            out = None if memory.codes is None else memory.codes.weight
            memory.codes, memory.codes_of = self._codes(constants, out), versions(parameters)
            memory.stale = False
        return constants, memory.codes

    def _constants(self) -> Constants:
        """Computed again when step or ranges have changed."""
        quantizer, memory = self.policypress_quantizer, self._memory
        source, output = quantizer.source, quantizer.output
        ranges = [quantizer.step]
        if source is not None:
            ranges.append(source.limit)
            if isinstance(source, InputQuantizer):
                ranges.append(source.offset)
        if output is not None:
            ranges.append(output.limit)
        if memory.constants is None or changed(memory.constants_of, ranges):
            memory.constants, memory.constants_of = self._new_constants(), versions(ranges)
            memory.stale = True
        return memory.constants

    def forget(self) -> None:
        """Weights have changed: what was computed from them must not be used again."""
        self._memory.stale = True

    @torch.no_grad()
    def _new_constants(self) -> Constants:
        quantizer = self.policypress_quantizer
        source, output = quantizer.source, quantizer.output
        scale = self.accumulator_scale()
        one = torch.ones_like(scale[:1])
        ratio, shift = one, None
        if output is not None:
            multiplier, shift = multiplier_and_shift(self.exact_ratio())
            ratio = fixed_point(multiplier, shift)
            ratio = ratio if output.reach <= LARGEST_CODE else ratio.double()  # float32 tells no more apart
        grid = self._bias_grid(shift)
        return Constants(
            step=quantizer.step.clone(),
            inverse_step=1.0 / quantizer.step,
            bias_grid=grid,
            inverse_bias_unit=1.0 / (scale * grid),
            unit=scale.clone(),
            inverse_source=one if source is None else source.inverse_scale(),
            source_scale=one if source is None else source.scale(),
            zero_point=source.zero_point() if isinstance(source, InputQuantizer) else None,
            ratio=ratio,
            output_scale=1.0 if output is None else float(output.scale()),
        )

    @torch.no_grad()
    def _codes(self, constants: Constants, out: torch.Tensor | None) -> Codes:
        quantizer = self.policypress_quantizer
        source = quantizer.source
        scale = self._feature_scale(constants)
        weight, largest = kernels.weight_codes(self.weight, scale, constants.inverse_step, quantizer.high, out)
        zeros = constants.zero_point
        bias = self._bias(None if zeros is None else zeros * constants.source_scale)
        bias = (bias * constants.inverse_bias_unit).round_().mul_(constants.bias_grid)
        bias = bias.clamp_(-BIAS_LIMIT, BIAS_LIMIT)
        wide = source is not None and largest * source.reach + BIAS_LIMIT >= _EXACT_FLOAT32
        return Codes(weight, bias, wide)

    def _bias_grid(self, shift: torch.Tensor | None) -> torch.Tensor:
        """Biases are multiples of this power of two, float32, shape (1,) or (out,): finer ones only cost bytes.

        A quarter to half of an output code, whose ratio has this ``shift``; in the last layer, a thousandth of the
        largest product or so.
        """
        quantizer = self.policypress_quantizer
        if shift is not None:
            exponent = shift - MULTIPLIER_BITS - 1
        else:
            bits = quantizer.bits + (0 if quantizer.source is None else quantizer.source.bits)
            exponent = torch.full_like(quantizer.step, bits - 10, dtype=torch.int32)
        return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent.clamp(min=0))

    def _feature_scale(self, constants: Constants) -> torch.Tensor | None:
        """Scales of single input features, which the codes of the weights take in."""
        source = self.policypress_quantizer.source
        return constants.source_scale if source is not None and source.per_feature else None

    def _bias(self, middle: torch.Tensor | None) -> torch.Tensor:
        """Biases, with what the middles of the inputs' ranges give: codes only say how far inputs are from those."""
        bias = self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias
        if middle is None:
            return bias
        return (bias.double() + (self.weight.double() * middle.double()).sum(1)).float()

    @torch.no_grad()
    def _observe_source(self, x: torch.Tensor) -> None:
        source = self.policypress_quantizer.source
        if isinstance(source, InputQuantizer):
            source.observe_inputs(x, self.weight)
        elif isinstance(source, ActivationQuantizer):
            source.observe_values(x.detach())


def _broadcast(values: torch.Tensor, dims: int) -> torch.Tensor:
    """(1,) or (out,) to (out, 1, ...) of ``dims`` dimensions."""
    return values.reshape(-1, *[1] * (dims - 1))


class FakeQuantLinear(_FakeQuantized, nn.Linear):  # type: ignore[misc]
    """A Linear that shares the Parameters of the one it replaces, so names, order and optimizer stay."""


class FakeQuantConv2d(_FakeQuantized, nn.Conv2d):
    """A Conv2d that shares the Parameters of the one it replaces."""


class FakeQuantAdd(nn.Module):
    """Adds two quantized tensors as the frozen policy does: both requantized to one range, added, clipped."""

    def __init__(self, skip: Source, branch: Source, output: ActivationQuantizer) -> None:
        super().__init__()
        self._operands = (skip, branch)  # they belong to upstream layers
        self.output, self.active, self.passes = output, False, 0
        self._ratios_key: Any = None
        self._ratios: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.training and torch.is_grad_enabled():
            self.passes += 1
            if self.passes % STEP_STRIDE == 1:
                self.output.observe_values((x + y).detach())
        if not self.active:
            return x + y
        return _IntegerAdd.apply(x, y, self)  # type: ignore[no-any-return, no-untyped-call]

    def integers(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Codes of the sum before clipping, float32."""
        key = [(id(q.limit), q.limit._version) for q in (*self._operands, self.output)]
        if self._ratios_key != key:
            self._ratios_key = key
            self._ratios = [fixed_point(*multiplier_and_shift(ratio)) for ratio in self.exact_ratios()]
        skip, branch = (
            # As kernels.requantize, but with the limits of int32, which are never met.
            (kernels.quantize(value, quantizer.inverse_scale(), quantizer.limits) * ratio).add_(0.5).floor_().float()
            for quantizer, value, ratio in zip(self._operands, (x, y), self._ratios, strict=True)
        )
        return skip.add_(branch)

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
    layer.policypress_quantizer, layer.active, layer.passes, layer._memory = quantizer, active, 0, _Memory()
    return layer


def plain_layer(module: nn.Module) -> nn.Linear | nn.Conv2d:
    """The plain layer with the Parameters of a fake-quantized one."""
    layer: nn.Linear | nn.Conv2d = _same_layer(module, nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear)
    return layer


def weight_channels(module: nn.Linear | nn.Conv2d, granularity: Granularity) -> int:
    """How many weight scales the layer has."""
    match granularity:
        case "channel":
            per_channel = True
        case "tensor":
            per_channel = False
        case "auto":
            per_channel = isinstance(module, nn.Conv2d)
        case _:
            unknown(granularity)
    return module.weight.shape[0] if per_channel else 1


def _same_layer(module: nn.Module, kind: type[Any]) -> Any:
    layer: Any = object.__new__(kind)
    nn.Module.__init__(layer)
    own = {*vars(nn.Module()), "active", "passes", "_memory"}
    vars(layer).update({name: value for name, value in vars(module).items() if name not in own})
    layer.register_parameter("weight", module.weight)
    layer.register_parameter("bias", module.bias)
    return layer
