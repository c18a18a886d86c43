"""Learning curves, with the window of pruning and the start of quantization, what that start costs, and how soon enough
is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policypress.measure.scores import mean, retention
from policypress.studies.report import charts
from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section, Table
from policypress.studies.report.results import FLOAT, Named, Results, Task
from policypress.studies.report.words import Row, limits, number, percent, rounded, wide

MOST_LINES = 10
"""Curves in a chart: where a task has more, each family of methods has a chart."""
MOST_STEPS = 60
"""Steps of a curve that are drawn."""
LEARNED = 0.9
"""Of what the baseline returns in the end: what is learned by then."""


@dataclass(frozen=True)
class Quantity:
    """What a curve is of: a ``column`` of the evaluations, called ``name``, on ``axis``, told in ``format`` of d3."""

    column: str
    name: str
    axis: Axis
    format: str = ",.1f"
    told: Callable[[float], str] = number


RETURN = Quantity("mean", "return", charts.RETURN)


def curves(results: Results) -> Section | None:
    parts: list[Chart | Table] = []
    drops: list[list[str]] = []
    learned: list[list[str]] = []
    for task in results.tasks:
        found = {cell.name: rows for cell in task.cells if (rows := curve(cell))}
        cells = [cell for cell in task.cells if cell.name in found]
        parts += [chart(task, name, group, found) for name, group in groups(cells).items()]
        drops += [row for cell in cells if (row := _drop(task, cell)) is not None]
        learned += _learned(task, cells)
    if not parts:
        return None
    text = (
        "The return of the policy as it would be deployed at that step: pruned and quantized as far as it is. Lines "
        "are means over seeds, bands reach from the least seed to the most. Grey: it is pruned; dotted: quantization "
        "starts.",
    )
    if drops:
        caption = "The start of quantization: evaluations before and after it, means over seeds"
        columns = ("task", "method", "last before", "first after", "kept", "lowest after")
        parts.append(Table(caption, columns, drops, words=2))
    if learned:
        caption = f"Steps until {LEARNED:.0%} of what the baseline returns in the end"
        parts.append(Table(caption, ("task", "method", "seeds that get there", "steps, their mean"), learned, words=2))
    return Section("curves", "Learning curves", text, tuple(parts))


def groups(cells: Sequence[Named]) -> dict[str, list[Named]]:
    """Cells by chart: all in one, or by family, those that have none of their own together."""
    if len(cells) <= MOST_LINES:
        return {"": list(cells)} if cells else {}
    families: dict[str, list[Named]] = {}
    for cell in cells:
        families.setdefault(cell.family, []).append(cell)
    found = {name: group for name, group in families.items() if len(group) > 1}
    if others := [cell for group in families.values() if len(group) == 1 for cell in group]:
        found["others" if found else ""] = others
    return found


def curve(cell: Named, column: str = RETURN.column) -> list[Row]:
    """Steps that all seeds have, the last among them, with mean, least and most of a ``column``."""
    by_step: dict[int, list[float]] = {}
    for run in cell.runs:
        for row in run.figures.get("curve") or []:
            if row.get(column) not in (None, ""):
                by_step.setdefault(int(row["step"]), []).append(float(row[column]))
    steps = sorted(step for step, means in by_step.items() if len(means) == len(cell.runs))
    every = max(1, math.ceil(len(steps) / MOST_STEPS))
    return [
        {"series": cell.name, "x": step, "y": rounded(float(np.mean(by_step[step]))),
         "low": rounded(min(by_step[step])), "high": rounded(max(by_step[step]))}
        for step in steps[::-every][::-1]
    ]  # fmt: skip


def chart(
    task: Task, family: str, cells: Sequence[Named], found: Mapping[str, list[Row]], of: Quantity = RETURN
) -> Chart:
    values = [row for cell in cells for row in found[cell.name]]
    series = task.series(cells)
    title = f"{task.title}: {family}" if family else task.title
    pruned, starts = _windows(cells)
    under = [
        *(charts.window(start, end, f"pruning, steps {start:,} to {end:,}") for start, end in pruned),
        *(charts.moment(start, f"quantization starts at step {start:,}") for start in starts),
        *(charts.caption(start, "pruning") for start, _ in pruned[:1]),
        *(charts.caption(start, "quantized") for start in starts[:1]),
    ]
    marked = [f" Pruning goes from step {start:,} to {end:,}." for start, end in pruned]
    marked += [f" Quantization starts at step {start:,}." for start in starts]
    told = (
        ("series", "method", ""), ("x", "step", ",d"), ("y", of.name, of.format), ("low", "least", of.format),
        ("high", "most", of.format),
    )  # fmt: skip
    x = Axis("environment steps", tight=True)
    return Chart(
        title,
        f"Learning curves of {title}, {of.name}: {'; '.join(one.name for one in series)}.{''.join(marked)}",
        charts.lines(values, series, x, of.axis, told, spread="band", points=False, under=under),
        series,
        wide(
            f"{title}: mean {of.name} (least to most) by step",
            "step",
            series,
            values,
            "{:,}",
            lambda row: _spread(row, of.told),
        ),
    )


def _spread(row: Row, how: Callable[[float], str]) -> str:
    value, low, high = (how(row[part]) for part in ("y", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


def _windows(cells: Sequence[Named]) -> tuple[list[tuple[int, int]], list[int]]:
    """From and to which steps ``cells`` were pruned, and from which on they were quantized."""
    pruned, starts = set(), set()
    for cell in cells:
        config = cell.runs[0].figures.get("config") or {}
        pressed = config.get("compression") or config.get("student", {}).get("compression") or {}
        steps = config.get("steps", 0)
        if not steps or "prune_start" not in pressed:
            continue
        if pressed["sparsity"] > 0:
            pruned.add((round(pressed["prune_start"] * steps), round(pressed["prune_end"] * steps)))
        if pressed["weight_bits"] != FLOAT:
            starts.add(round(pressed["quantize_start"] * steps))
    return sorted(pruned), sorted(starts)


def _drop(task: Task, cell: Named) -> list[str] | None:
    before, after, lowest = [], [], []
    for run in cell.runs:
        rows = run.figures.get("curve") or []
        quantized = [float(row["mean"]) for row in rows if row.get("phase") == "quantize"]
        others = [float(row["mean"]) for row in rows if row.get("phase") != "quantize"]
        if not quantized or not others:
            return None
        before.append(others[-1])
        after.append(quantized[0])
        lowest.append(min(quantized))
    kept = limits(retention([after], [before]), percent) if np.mean(before) else ""
    first, then, least = (number(mean([told]).value) for told in (before, after, lowest))
    return [task.title, cell.name, first, then, kept, least]


def _learned(task: Task, cells: Sequence[Named]) -> list[list[str]]:
    """How soon each cell first returns enough, over seeds."""
    if task.baseline is None:
        return []
    goal = task.baseline.figures.mean.value
    goal -= (1 - LEARNED) * abs(goal)
    found: list[list[str]] = []
    for cell in cells:
        reached: list[int] = []
        for run in cell.runs:
            steps = [int(row["step"]) for row in run.figures.get("curve") or [] if float(row["mean"]) >= goal]
            reached += steps[:1]
        told = f"{np.mean(reached):,.0f}" if reached else ""
        found.append([task.title, cell.name, f"{len(reached)} of {len(cell.runs)}", told])
    return found
