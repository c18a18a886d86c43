"""Which values have codes: ranges of activations and inputs, observed while a network learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from policypress.policy.ops import ZERO_POINT_LIMIT

_MOMENTUM = 0.05
_RARE = 0.1
"""The share of an input's values (those at its median left out) that may lie far away without setting its range."""
_FAR, _CUT = 5.0, 3.0
"""In units of the distance from the median that all but the rare values keep: what is far, and the range where
something is. Of a normal distribution 8 and 5 standard deviations; the largest of 256 values lies at 2.8."""
_DROWNS = 4.0
"""Rare values are cut off only as far as weights times range of their input are so many times those of the median
input: two bits of the others' weights. Where they do no harm they set the range: a fall, a swing-up is no sentinel."""
_ENOUGH = 32
"""Values of an input that tell the rare ones, and a median, from the others."""
_PAYS = 4.0
"""A zero point must make a range this much smaller: two bits of the input, and of the weights of all others."""


class ActivationQuantizer(nn.Module):
    """The range of a tensor and its codes of ``bits`` bits, unsigned or signed.

    ``limit``: float32 of shape (features,) or (1,), the largest magnitude that has a code; a moving average of the
    largest magnitude of each batch. With ``fixed_limit`` it never moves (images: 1.0). ``coarse`` keeps three
    significant bits of the inverse scale, so that a scale for each input feature takes a few bits in the file.
    """

    limit: torch.Tensor

    def __init__(
        self, bits: int, signed: bool, features: int = 1, fixed_limit: float | None = None, coarse: bool = False
    ) -> None:
        super().__init__()
        self.bits, self.signed, self.fixed, self.coarse = bits, signed, fixed_limit is not None, coarse
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.low = -self.high if signed else 0
        self.limits = (self.low, self.high)
        self.reach = self.high
        """The largest magnitude of a code."""
        self.register_buffer("limit", torch.full((features,), fixed_limit or 0.0))

    @property
    def per_feature(self) -> bool:
        return self.limit.numel() > 1

    def scale(self) -> torch.Tensor:
        """One code in real units, float32, shape of ``limit``."""
        return self.inverse_scale().reciprocal() if self.coarse else self._safe_limit().div(self.high)

    def inverse_scale(self) -> torch.Tensor:
        inverse = self._safe_limit().reciprocal().mul(self.high)
        if self.coarse:
            mantissa, exponent = torch.frexp(inverse)
            inverse = torch.ldexp((mantissa * 8).floor_(), exponent - 3)  # never a smaller range than observed
        return inverse

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


class GridQuantizer(ActivationQuantizer):
    """A range whose codes are worth a power of two each: what the table of an activation takes.

    ``domain``: beyond it the activation does not change, so that values there need no codes of their own.
    """

    def __init__(self, bits: int, signed: bool, domain: tuple[float, float]) -> None:
        super().__init__(bits, signed)
        self.domain = domain

    def scale(self) -> torch.Tensor:
        # Of 2**n codes the last is cut off, rather than the unit doubled; a range that is no number has some unit.
        mantissa, exponent = torch.frexp((self._safe_limit() / (self.high + 1)).nan_to_num(nan=1.0, posinf=1.0))
        return torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).int())

    def inverse_scale(self) -> torch.Tensor:
        return self.scale().reciprocal()

    def observe_values(self, values: torch.Tensor) -> None:
        super().observe_values(values.clamp(*self.domain))


def constant_range(bits: int, limit: float) -> ActivationQuantizer:
    """The signed range of codes of ``bits`` bits up to ``limit``, which never moves and is not saved."""
    quantizer = ActivationQuantizer(bits, signed=True, fixed_limit=limit)
    quantizer.register_buffer("limit", quantizer.limit, persistent=False)
    return quantizer


def _sorted(x: torch.Tensor) -> torch.Tensor:
    """``x`` (n, features) as (features, n), every feature sorted: by NumPy, which takes a twentieth of torch's time."""
    return torch.from_numpy(np.sort(x.detach().t().cpu().numpy(), axis=1)).to(x.device)


class InputQuantizer(ActivationQuantizer):
    """The ranges of a network's inputs, float32 of shape (features,): rare values far away set none of them.

    ``offset``: the middle of the range where that lies far from zero (and ``shifts`` allows it), else 0; ``limit`` is
    the largest distance from it. ``seen``: (4, features), moving averages of the largest magnitude, of the median, of
    the largest distance from that, all of them without rare values far away; and of the largest distance with them.
    """

    offset: torch.Tensor
    seen: torch.Tensor

    def __init__(self, bits: int, features: int, shifts: bool) -> None:
        super().__init__(bits, signed=True, features=features, coarse=True)
        self.shifts = shifts
        self.register_buffer("offset", torch.zeros(features))
        self.register_buffer("seen", torch.zeros(4, features))

    def zero_point(self) -> torch.Tensor | None:
        """Codes that stand for 0, whole numbers in float32 of shape (features,); None if all are 0."""
        return torch.round(self.offset * self.inverse_scale()) if bool(self.offset.any()) else None

    def middle(self) -> torch.Tensor | None:
        """What code 0 stands for, float32 of shape (features,); None if it is 0 for all."""
        zeros = self.zero_point()
        return None if zeros is None else zeros * self.scale()

    @torch.no_grad()
    def observe_inputs(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        """Moves the ranges towards those of the batch ``x`` (n, features), which the layer of ``weight`` (out,
        features) takes."""
        reach, middle, spread, farthest = self.seen
        earlier = (reach == 0) & (self.limit > 0)  # ranges from before there were zero points go on as they are
        for row in (reach, spread, farthest):
            row.copy_(torch.where(earlier, self.limit, row))
        fresh, largest = reach == 0, x.abs().amax(0)
        if len(x) < _ENOUGH:
            distance = torch.where(fresh, largest, (x - middle).abs().amax(0))
            batch = torch.stack([largest, middle, distance, distance])
        else:
            median = _sorted(x)[:, (len(x) - 1) // 2]
            distances = _sorted((x - torch.where(fresh, median, middle)).abs())
            most = distances[:, -1]
            usual = distances.gather(1, len(x) - 1 - (_RARE * distances.count_nonzero(1)).long()[:, None])[:, 0]
            weights = weight.abs().amax(0)
            effect = weights * most
            harmless = _DROWNS * torch.where(effect > 0, effect, torch.nan).nanmedian() / weights
            rare = (most > _FAR * usual) & (most > harmless)
            cut = torch.where(rare, torch.maximum(_CUT * usual, harmless), most)
            within = torch.where(rare, torch.minimum(largest, median.abs() + cut), largest)
            batch = torch.stack([within, median, cut, most])
        self.seen.copy_(torch.where(fresh, batch, self.seen + _MOMENTUM * (batch - self.seen)))
        pays = (_PAYS * torch.maximum(spread, self._finest(middle)) <= reach) & self.shifts
        self.offset.copy_(torch.where(pays, middle, 0.0))
        self.limit.copy_(torch.where(pays, spread, reach))

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (n, features) with rare values far away cut off at the range, as its codes will be."""
        _, _, spread, farthest = self.seen
        rare = farthest > 2 * spread
        if not bool(rare.any()):
            return x
        reach = torch.where(rare, self.limit, torch.inf)
        return x.clamp(self.offset - reach, self.offset + reach)

    def _safe_limit(self) -> torch.Tensor:
        return torch.maximum(super()._safe_limit(), self._finest(self.offset))

    def _finest(self, offset: torch.Tensor) -> torch.Tensor:
        """The smallest range around ``offset`` whose zero point stays below its limit."""
        finest: torch.Tensor = offset.abs() * (self.high / ZERO_POINT_LIMIT)
        return finest

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("offset", "seen"):  # of checkpoints from before there were zero points
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *rest)
