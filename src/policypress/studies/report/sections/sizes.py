"""Return against what a policy takes: bytes, and time where it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from policypress.studies.report import charts
from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section, Series, Table
from policypress.studies.report.paper import PAPER
from policypress.studies.report.results import Results, Task, command, latency
from policypress.studies.report.words import Row, number, rounded

MOST_SYMBOLS = 1500
"""Runs that have a symbol each; where a study has more, cells have."""


def sizes(results: Results) -> Section:
    by_run = len(results.runs) <= MOST_SYMBOLS
    text = [
        "The payload is what would be sent or flashed: entropy-coded, scales and positions included. "
        + (
            "A symbol is a run; hover over one for its command and folder. "
            if by_run
            else f"A symbol is a cell, as there are more than {MOST_SYMBOLS:,} runs; its command is the first seed's. "
        )
        + "The grey line leads over the means of cells that no smaller one beats, the dotted one is what they are "
        "compared with."
    ]
    if any(point.nominal_bytes for task in results.tasks for point in task.paper):
        text.append("The paper counts 8 bits for every weight that is not zero and leaves out positions and scales.")
    size = {run.id: float(run.figures["payload_bytes"]) for run in results.runs}
    found = [_chart(task, by_run, "payload, bytes", size, "~s", paper=True) for task in results.tasks]
    return Section("bytes", "Return against bytes", tuple(text), tuple(filter(None, found)))


def times(results: Results) -> Section | None:
    measured = {run.id: told for run in results.runs if (told := latency(results, run)) is not None}
    if not measured:
        return None
    times_ = {name: 1e6 * seconds for name, (seconds, _) in measured.items()}
    found = [_chart(task, True, "µs an action", times_, "~g") for task in results.tasks]
    machines = ", ".join(sorted({on for _, on in measured.values()}))
    text = (f"Medians of `policypress bench`, one observation at a time, on {machines}. Lines are as above.",)
    return Section("time", "Return against time", text, tuple(filter(None, found)))


def _chart(
    task: Task, by_run: bool, unit: str, places: Mapping[str, float], how: str, paper: bool = False
) -> Chart | None:
    values: list[Row] = []
    middle: list[tuple[float, float]] = []
    cells = []
    for cell in task.cells:
        runs = [run for run in cell.runs if run.id in places]
        if not runs:
            continue
        cells.append(cell)
        middle.append((float(np.mean([places[run.id] for run in runs])), cell.figures.mean.value))
        for run in runs if by_run else runs[:1]:
            at, value = (places[run.id], run.figures["mean"]) if by_run else middle[-1]
            told = {"series": cell.name, "x": rounded(at), "y": rounded(value), "seed": run.cell.seed}
            values.append({**told, "folder": f"runs/{run.id}", "command": command(run)})
    if not values:
        return None
    series = task.series(cells)
    count = f"{len(values):,} {'runs' if by_run else 'cells'}"
    nominal = [point for point in task.paper if paper and point.nominal_bytes is not None]
    if nominal:
        series.append(Series(PAPER, None))
        values += [{"series": PAPER, "x": point.nominal_bytes, "y": point.mean} for point in nominal]
    front, best = [], -math.inf
    for x, y in sorted(middle):
        if y > best:
            best = y
            front.append({"x": rounded(x), "y": rounded(y)})
    tooltip = (
        ("series", "method", ""), ("seed", "seed", "d"), ("x", unit, ",.6~r"), ("y", "return", ",.1f"),
        ("folder", "folder", ""), ("command", "command", ""),
    )  # fmt: skip
    every = [row["x"] for row in values]
    axis = Axis(unit, log=True, ticks=charts.round_ticks(every), format=how)
    level = None if task.compared is None else rounded(task.compared)
    lines = [
        [row["series"], row.get("folder", ""), str(row.get("seed", "")), _place(row["x"]), number(row["y"])]
        for row in values
    ]
    return Chart(
        task.title,
        f"Return of {task.title} against {unit}, {count} from {_place(min(every))} to {_place(max(every))}.",
        charts.scatter(values, series, axis, charts.RETURN, tooltip, front, level),
        series,
        Table(f"{task.title}: return and {unit}", ("method", "folder", "seed", unit, "return"), lines, words=2),
    )


def _place(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
