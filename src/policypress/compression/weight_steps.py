"""What one code of a weight is worth: fitted to the weights, or learned."""

from __future__ import annotations

import math

import torch
from torch import nn

from policypress.compression.activations import Source
from policypress.compression.ranges import ActivationQuantizer
from policypress.config import WeightRange
from policypress.errors import unknown

BIAS_LIMIT = 2**22
"""Largest bias code; keeps accumulators of common layers within float32's exact integers."""
_SMALLEST_STEP = 2.0**-40
_ADAM = (0.9, 0.999)


class LayerQuantizer(nn.Module):
    """Quantization state of one layer: the step of its weights, and the ranges of its input and output.

    ``step``: float32, shape (1,) or (out,), real value of one weight code. The range of the input is owned here if
    this is the first layer, else it is the upstream layer's ``output``.
    """

    step: torch.Tensor
    moments: torch.Tensor
    updates: torch.Tensor

    def __init__(
        self,
        bits: int,
        channels: int,
        weight_range: WeightRange,
        source: Source | None,
        output: ActivationQuantizer | None,
        *,
        owns_source: bool = False,
        leader: LayerQuantizer | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.weight_range = bits, weight_range
        self.high = 2 ** (bits - 1) - 1
        self.register_buffer("step", torch.zeros(channels))
        if weight_range == "learned":
            self.register_buffer("moments", torch.zeros(2, channels))
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.gradient: torch.Tensor | None = None  # of the loss for the step's logarithm, since the last update
        self._elsewhere = (source, leader)  # in a tuple: not submodules, they belong to other layers
        self.owns_source = owns_source
        # The first layer's, in a target network too: its inputs do not lie on the grid yet, but for images.
        first = owns_source or (leader is not None and leader.owns_source)
        self.rounds_input = source is not None and first and not source.fixed
        if owns_source:
            self.input = source
        self.output = output

    @property
    def source(self) -> Source | None:
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
        largest = rows.abs().amax(1) / self.high
        match self.weight_range:
            case "minmax":
                step = largest
            case "learned":  # starts as Esser et al. 2020 propose
                first = 2.0 * rows.abs().mean(1) / math.sqrt(self.high)
                step = torch.where(self.step > 0, self.step, first)
            case "mse":
                previous = torch.where(self.step > 0, torch.minimum(self.step, largest), largest)
                codes = (rows / previous.clamp(min=_SMALLEST_STEP)[:, None]).round_().clamp_(-self.high, self.high)
                power = (codes * codes).sum(1)
                step = torch.where(power > 0, (codes * rows).sum(1) / power.clamp(min=1.0), largest)
            case _:
                unknown(self.weight_range)
        floor = bias.abs() / (bias_unit * BIAS_LIMIT)
        floor = floor if self.step.numel() > 1 else floor.amax(0, keepdim=True)
        self.step.copy_(torch.maximum(step, floor).clamp(min=_SMALLEST_STEP))

    @torch.no_grad()
    def learn_step(self, learning_rate: float) -> None:
        """One step of Adam on the logarithm of ``step``, with the gradients gathered since the last one."""
        if self.gradient is None:
            return
        self.updates += 1
        first, second = self.moments
        first.lerp_(self.gradient, 1.0 - _ADAM[0])
        second.lerp_(self.gradient.square(), 1.0 - _ADAM[1])
        corrections = [1.0 - beta ** int(self.updates) for beta in _ADAM]
        move = (first / corrections[0]) / ((second / corrections[1]).sqrt() + 1e-12)
        self.step.mul_(torch.exp(-learning_rate * move)).clamp_(min=_SMALLEST_STEP)
        self.gradient = None
