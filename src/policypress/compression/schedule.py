"""When: training step to the fraction of the pruning target that is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

from policypress.config import CompressionConfig, Schedule
from policypress.errors import unknown


@dataclass(frozen=True)
class PruningSchedule:
    """Pruning in ``iterations`` equal strides from step ``start`` to step ``end``.

    Source: Zhu and Gupta 2017 (cubic); arXiv 2405.07748, section on pruning: s(i) = S - S (1 - i / 600)^3.
    """

    kind: Schedule
    start: int
    end: int
    iterations: int

    @classmethod
    def from_config(cls, config: CompressionConfig, steps: int) -> PruningSchedule:
        return cls(
            config.schedule,
            round(config.prune_start * steps),
            round(config.prune_end * steps),
            config.prune_iterations,
        )

    def iteration(self, step: int) -> int:
        """How many of the ``iterations`` are due at ``step``; exactly all of them from ``end`` on."""
        if step >= self.end:
            return self.iterations
        if step < self.start:
            return 0
        return self.iterations * (step - self.start) // (self.end - self.start)

    def fraction(self, iteration: int) -> float:
        """Fraction of the target sparsity after ``iteration`` iterations: within [0, 1], 1.0 at the last.

        "one-shot" prunes everything at ``end``, "constant" everything at ``start``.
        """
        progress = iteration / self.iterations
        match self.kind:
            case "cubic":
                return 1.0 - math.pow(1.0 - progress, 3)
            case "linear":
                return progress
            case "one-shot":
                return 1.0 if iteration >= self.iterations else 0.0
            case "constant":
                return 1.0
            case _:
                unknown(self.kind)

    def due(self, step: int) -> float:
        """Fraction of the target sparsity at ``step``; 0 before ``start``."""
        return self.fraction(self.iteration(step)) if step >= self.start else 0.0
