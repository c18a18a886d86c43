"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from policypress.files import replace_file


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, str]]], path: Path) -> None:
    """Return against steps, with 95 % intervals, one line a run (rows of ``evaluations.csv``), as PNG.

    Where a run is pruned, its sparsity is drawn below; where it starts to quantize, a dotted line stands.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (returns, sparsity) = plt.subplots(
        2, 1, figsize=(8, 5.5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    marked = False
    for index, (name, rows) in enumerate(curves.items()):
        color = f"C{index}"
        steps = [int(row["step"]) for row in rows]
        returns.plot(steps, [float(row["mean"]) for row in rows], color=color, label=name, marker=".")
        returns.fill_between(
            steps,
            [float(row["low"]) for row in rows],
            [float(row["high"]) for row in rows],
            color=color,
            alpha=0.2,
        )
        sparsity.plot(steps, [100.0 * float(row["sparsity"]) for row in rows], color=color)
        quantized = [step for step, row in zip(steps, rows, strict=True) if row["phase"] == "quantize"]
        if quantized:
            before = max([step for step in steps if step < quantized[0]], default=quantized[0])
            for axis in (returns, sparsity):
                axis.axvline((before + quantized[0]) / 2, color=color, linestyle=":")
            marked = True
    if marked:
        returns.plot([], [], color="gray", linestyle=":", label="quantization starts")
    returns.set_ylabel("return of the deployed policy")
    returns.legend(loc="best")
    returns.grid(alpha=0.3)
    sparsity.set_ylabel("sparsity, %")
    sparsity.set_xlabel("environment steps")
    sparsity.set_ylim(-5, 105)
    sparsity.grid(alpha=0.3)
    with replace_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)


Point = tuple[int, float, float, float]
"""Bytes of a policy, the share of the teacher's return that it keeps, and the share's interval."""


def plot_frontier(families: Mapping[str, Sequence[Point]], path: Path, keep: float = 0.0) -> None:
    """Kept share of the return against bytes (logarithmic), as PNG: a colour for each family, whose best are joined,
    and ``keep`` as a line. What keeps less than half is left out of the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for index, (name, points) in enumerate(families.items()):
        bytes_of, shares, lows, highs = (np.array(values) for values in zip(*sorted(points), strict=True))
        errors = np.maximum(0.0, [shares - lows, highs - shares])
        axis.errorbar(bytes_of, 100 * shares, 100 * errors, fmt="o", ms=4, capsize=2, label=name, color=f"C{index}")
        front = shares > np.maximum.accumulate([-np.inf, *shares[:-1]])  # more than any smaller one keeps
        axis.plot(bytes_of[front], 100 * shares[front], color=f"C{index}")
    if keep:
        axis.axhline(100 * keep, color="gray", linestyle=":", label=f"{keep:.0%} kept")
    if min(share for points in families.values() for _, share, _, _ in points) < 0.5:
        axis.set_ylim(bottom=50)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    sizes = [size for points in families.values() for size, _, _, _ in points]
    labelled = "25" if max(sizes) > 10 * min(sizes) else "23456789"  # where all of them would run into one another
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if f"{value:.0f}"[0] in labelled else "")
    axis.tick_params(axis="x", which="both", labelrotation=45)
    axis.set_xlabel("bytes of the payload")
    axis.set_ylabel("mean return kept, % of the agent's")
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="lower right")
    with replace_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)
