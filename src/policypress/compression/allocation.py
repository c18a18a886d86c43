"""Where: one sparsity for the whole network to a number of zeros for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policypress.config import Allocation
from policypress.errors import ConfigError, unknown

Shape = Sequence[int]


def allocate(method: Allocation, shapes: Sequence[Shape], sparsity: float, names: Sequence[str] = ()) -> list[int]:
    """Number of zeros per layer; their sum is ``round(sparsity * weights)`` exactly.

    ``shapes`` are those of the weights, (out, in) or (out, in, height, width). For "global", which decides by
    magnitude while training, this is the uniform split. Raises ConfigError when a layer would be emptied.
    """
    sizes = [math.prod(shape) for shape in shapes]
    total = round(sparsity * sum(sizes))
    match method:
        case "erk":
            ideal = _erk(shapes, sizes, total)
        case "ivanov2025":
            ideal = _ivanov2025(shapes, sizes, total)
        case "uniform" | "global":
            ideal = [sparsity * size for size in sizes]
        case _:
            unknown(method)
    if method == "global" and total <= sum(sizes) - len(sizes):
        return _round_to_total(ideal, [size - 1 for size in sizes], total)
    zeros = _round_to_total(ideal, sizes, total)
    for index, (count, size) in enumerate(zip(zeros, sizes, strict=True)):
        if count >= size:
            name = names[index] if names else f"number {index}"
            raise ConfigError(
                f"sparsity={sparsity} with allocation={method} would leave no weight in layer {name} "
                f"({'x'.join(map(str, shapes[index]))}): lower the sparsity or widen the network."
            )
    return zeros


def _erk(shapes: Sequence[Shape], sizes: Sequence[int], total_zeros: int) -> list[float]:
    """Erdos-Renyi-kernel: density proportional to sum over product of the dimensions, clipped at dense.

    Source: Evci et al. 2020, RigL, section 3.
    """
    keep = sum(sizes) - total_zeros
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in dense]
        budget = keep - sum(sizes[i] for i in dense)
        weight = sum(raw[i] * sizes[i] for i in free)
        epsilon = budget / weight if weight else 0.0
        full = [i for i in free if epsilon * raw[i] > 1.0]
        if not full:
            break
        dense.update(full)
    return [0.0 if i in dense else sizes[i] * (1.0 - epsilon * raw[i]) for i in range(len(sizes))]


def _ivanov2025(shapes: Sequence[Shape], sizes: Sequence[int], total_zeros: int) -> list[float]:
    """The paper's variant: it scales sparsity, not density, by 1 - sum / product of the dimensions.

    On small layers and high sparsities the published formula exceeds 1; here such a layer keeps one weight per row or
    column, whichever are more, and the other layers take the rest. Source: published code of arXiv 2405.07748.
    """
    raw = [max(0.0, 1.0 - sum(shape) / math.prod(shape)) for shape in shapes]
    limit = [size - max(shape[0], size // shape[0]) for shape, size in zip(shapes, sizes, strict=True)]
    capped: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in capped]
        budget = total_zeros - sum(limit[i] for i in capped)
        weight = sum(raw[i] * sizes[i] for i in free)
        k = budget / weight if weight else 0.0
        over = [i for i in free if k * raw[i] * sizes[i] > limit[i]]
        if not over:
            break
        capped.update(over)
    return [float(limit[i]) if i in capped else k * raw[i] * sizes[i] for i in range(len(sizes))]


def _round_to_total(ideal: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers nearest to ``ideal`` that add up to ``total`` (largest remainders first)."""
    zeros = [min(size, max(0, math.floor(value))) for value, size in zip(ideal, sizes, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda i: zeros[i] - ideal[i])
    while (missing := total - sum(zeros)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i in by_remainder if 0 <= zeros[i] + step <= sizes[i]]
        for i in movable[: abs(missing)]:
            zeros[i] += step
    return zeros
