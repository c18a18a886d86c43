"""Random parts of layers and activations: legal ones, whatever they are for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import PolicypressError
from policypress.policy.activations import FUNCTIONS, LARGEST_CODE
from policypress.policy.ops import FLOAT_BITS, Activation, weight_limit
from policypress.policy.policy import Numerics


class Draw:
    """Draws from ``rng`` what an operation of ``numerics`` is made of."""

    def __init__(self, rng: np.random.Generator, numerics: Numerics) -> None:
        self.rng = rng
        self.numerics = numerics
        self.integer = numerics == "integer"

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def often(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def weights(
        self, kept: NDArray[np.bool_], bits: int, many: int, fan_in: float, widest: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Weights of the shape of ``kept``, 0 where that is false, and ``many`` scales; sums of ``fan_in`` are about 1.
        ``widest``: no magnitude but the largest."""
        rng = self.rng
        if bits == FLOAT_BITS:
            values = (rng.normal(size=kept.shape) / math.sqrt(fan_in) * kept).astype(np.float32)
            return values, np.ones(1, np.float32)
        limit = weight_limit(bits)
        magnitude = limit if widest else rng.integers(1, limit + 1, kept.shape)
        codes = (magnitude * rng.choice([-1, 1], kept.shape) * kept).astype(np.int8)
        return codes, (rng.uniform(0.5, 1.5, many) / (limit * math.sqrt(fan_in))).astype(np.float32)

    def ratio(self, ratio: float, many: int, one_shift: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """``many`` multipliers, and as many shifts or one, that multiply by about ``ratio``."""
        multiplier = self.rng.integers(16, 256, many).astype(np.int32)
        shift = np.rint(np.log2((multiplier[:1] if one_shift else multiplier) / ratio))
        return multiplier, np.clip(shift, 1, 31).astype(np.int32)

    def any_activation(self, function: str, reach: int = LARGEST_CODE, bits: int = 8) -> Activation:
        """``function`` with usual or with random legal parameters. In integer numerics it takes codes up to ``reach``,
        of a random unit, and gives codes of ``bits`` bits."""
        row = FUNCTIONS[function]
        while True:
            parameters = tuple(row.usual)
            if self.often(0.5):
                parameters = tuple(float(p) for p in self.rng.normal(size=len(row.usual)) * self.pick(0.1, 1, 5))
            grid: tuple[float, int, int] = (0.0, 0, 0)
            if self.integer:
                limit = self.pick(reach, LARGEST_CODE, int(self.rng.integers(reach, LARGEST_CODE + 1)))
                unit = 2.0 ** -int(self.rng.integers(2, 9))
                if row.grid is not None and self.often(0.5):
                    unit, limit = row.grid
                elif self.often(0.2):
                    unit = float(np.float32(unit * self.rng.uniform(0.5, 2)))
                grid = (unit, bits, limit)
            try:
                return Activation(function, *grid, parameters)
            except PolicypressError:  # such parameters, or codes that all stand for 0
                continue
