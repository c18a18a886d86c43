"""Curves of what disturbances leave of a return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policypress.files import replace_file
from policypress.robustness.kinds import KINDS

_COLUMNS = 4


def plot_robustness(result: Mapping[str, Any], path: Path) -> None:
    """Share of the same policy's undisturbed mean return against the level, with its 95 % interval: a panel for each
    kind, a line for each policy of ``result`` (that of ``run.robustness``), as PNG; needs Matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [point for point in result["points"] if point["kept"] is not None]
    kinds = [kind for kind in KINDS if any(point["kind"] == kind for point in points)]
    rows = max(1, math.ceil(len(kinds) / _COLUMNS))
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.4 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for panel in panels[len(kinds) :]:
        panel.set_visible(False)
    for kind, panel in zip(kinds, panels, strict=False):
        for index, name in enumerate(result["policies"]):
            found = [point for point in points if (point["policy"], point["kind"]) == (name, kind)]
            curve = sorted(found, key=lambda point: float(point["level"]))
            levels = [point["level"] for point in curve]
            shares, lows, highs = ([100 * point[part] for point in curve] for part in ("kept", "kept_low", "kept_high"))
            panel.plot(levels, shares, color=f"C{index}", marker=".", label=name)
            panel.fill_between(levels, lows, highs, color=f"C{index}", alpha=0.2)
        if not KINDS[kind].both_ways:
            panel.set_xscale("log")
        ticks = sorted({point["level"] for point in points if point["kind"] == kind})
        panel.set_xticks(ticks, [f"{level:g}" for level in ticks])
        panel.minorticks_off()
        panel.axhline(100, color="gray", linestyle=":")
        panel.set_title(kind, fontsize=10)
        panel.set_xlabel(KINDS[kind].level, fontsize=7)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[::_COLUMNS]:
        panel.set_ylabel("kept, %", fontsize=8)
    if kinds:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    with replace_file(path) as partial:
        FigureCanvasAgg(figure).print_figure(partial, dpi=100, format="png")
