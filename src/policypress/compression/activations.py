"""Activations as the frozen policy computes them: tables from small codes to codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from policypress.compression.ranges import ActivationQuantizer, constant_range
from policypress.policy.activations import FUNCTIONS, LARGEST_CODE, lookup

_TANH_UNIT, _ = FUNCTIONS["tanh"].grid or (0.0, 0)


class FakeQuantTanh(nn.Tanh):
    """Tanh as the frozen policy computes it: a table from the codes of the layer before (``tanh_input``) to codes of
    ``bits`` bits in the range ``output``, [-1, 1]. Nothing of it is state: until ``active`` it is an ordinary tanh.
    """

    table: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.output = constant_range(bits, 1.0)
        self.active = False
        table = lookup("tanh", (), _TANH_UNIT, bits, LARGEST_CODE).table
        # The last entry stands for NaN, which must not be lost: it says that the training diverged.
        codes = torch.tensor(np.concatenate([table, [np.nan]]), dtype=torch.float32)
        self.register_buffer("table", codes * self.output.scale(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.active:
            return super().forward(x)
        return _IntegerTanh.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` on the layer's grid to values on that of the output, float32."""
        places = (x * (1 / _TANH_UNIT)).add_(LARGEST_CODE)  # whole numbers, exactly
        return self.table[places.nan_to_num_(nan=len(self.table) - 1).int()]


def tanh_input() -> ActivationQuantizer:
    """The range of a layer's output that a FakeQuantTanh takes."""
    return constant_range(LARGEST_CODE.bit_length() + 1, LARGEST_CODE * _TANH_UNIT)


class _IntegerTanh(torch.autograd.Function):
    """``FakeQuantTanh.values``; its gradient is 1 - y * y, as that of tanh, with the output y that the table gave."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, tanh: Any) -> torch.Tensor:
        values: torch.Tensor = tanh.values(x)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return torch.ops.aten.tanh_backward(grad, ctx.saved_tensors[0]), None
