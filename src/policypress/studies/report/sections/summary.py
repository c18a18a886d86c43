"""What there is, what came of it beside the paper's figures, and scores over all tasks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from policypress.measure.scores import Estimate
from policypress.studies.report import charts
from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section, Table, placed
from policypress.studies.report.paper import PaperPoint, point_of
from policypress.studies.report.results import Named, Results, Task
from policypress.studies.report.words import Row, interval, limits, number, percent, ranged, rounded, share, wide
from policypress.studies.statistics import THRESHOLDS

KEEP = 0.95
"""What must be kept, by the lower end of the interval, of what is called the smallest that keeps enough."""


def facts(results: Results) -> Mapping[str, str]:
    """What there is, in figures."""
    runs = results.runs
    whole = len(runs) + len(results.failed) + results.others
    found = {"runs finished": f"{len(runs):,}" + (f" of {whole:,}" if whole > len(runs) else "")}
    if results.failed:
        found["runs failed"] = f"{len(results.failed):,}"
    seeds = sorted(len(cell.runs) for task in results.tasks for cell in task.cells)
    found["tasks"] = str(len(results.tasks))
    found["cells"] = f"{len(seeds):,}"
    found["seeds a cell"] = str(seeds[0]) if seeds[0] == seeds[-1] else f"{seeds[0]} to {seeds[-1]}"
    hours = sum(run.seconds for run in runs) / 3600
    found["time of the runs"] = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
    return found


def summary(results: Results) -> Section:
    """Tables of what is kept, a task each."""
    text = [
        "A cell is all runs that differ in the seed alone. Its return is the mean over seeds of each run's mean over "
        "episodes; in brackets the 95 % interval of other seeds, by bootstrap, which says little of fewer than five. "
        "Kept: the share of what it is compared with (the baseline, or the agent that was pressed), runs matched by "
        "seed. P(better): the probability that a run returns more than one of those; 0.5 is no difference. Bytes "
        "are of the payload; smaller: than the dense float32 network that the policy stands for."
    ]
    paper = any(task.paper for task in results.tasks)
    if paper:
        text.append(
            "The paper's figures are its final mean and its standard deviation over seeds, in its own versions of the "
            "environments, beside cells of the same sparsity whose weights have 8 bits; what it kept is of its mean "
            "without sparsity."
        )
    parts = [_task_table(task, paper) for task in results.tasks]
    if smallest := [row for task in results.tasks if (row := _smallest(task)) is not None]:
        caption = f"The smallest that keeps {100 * KEEP:g} %, by the lower end of its interval"
        columns = ("task", "policy", "kept", "return", "compared with", "payload, bytes", "smaller")
        parts.insert(0, Table(caption, columns, smallest, words=2))
    return Section("summary", "Summary", tuple(text), tuple(parts))


def _smallest(task: Task) -> list[str] | None:
    compared = [cell for cell in task.cells if cell.figures.kept is not None and not cell.figures.baseline]
    if not compared or task.compared is None:
        return None
    enough = [cell for cell in compared if cell.figures.kept is not None and cell.figures.kept.low >= KEEP]
    if not enough:
        return [task.title, "none", "", "", number(task.compared), "", ""]
    best = min(enough, key=lambda cell: cell.figures.payload_bytes)
    found = best.figures
    told = (limits(found.kept, percent), limits(found.mean), number(task.compared), f"{found.payload_bytes:,.0f}")
    return [task.title, best.name, *told, _smaller(best)]


def _task_table(task: Task, paper: bool) -> Table:
    columns = ["method", "seeds", "return", "kept", "P(better)", "worst tenth", "ends early", "bytes"]
    columns += ["smaller", *(("the paper", "it kept") if paper else ())]
    lines = []
    for cell in task.cells:
        found = cell.figures
        line = [
            f"{cell.name} (baseline)" if found.baseline else cell.name,
            str(len(found.seeds)),
            limits(found.mean),
            "" if found.baseline else limits(found.kept, percent),
            limits(found.improves, share),
            number(_mean(cell, "worst_tenth")),
            f"{_mean(cell, 'ended_early'):.0%}",
            f"{found.payload_bytes:,.0f}",
            _smaller(cell),
        ]
        if paper:
            point = point_of(task.paper, cell.settings)
            line += ["", ""] if point is None else [_deviation(point), _kept(point, task)]
        lines.append(line)
    return Table(task.title, tuple(columns), lines)


def _deviation(point: PaperPoint) -> str:
    digits = 0 if abs(point.mean) >= 1000 else 1
    return f"{point.mean:,.{digits}f} ± {point.std:,.{digits}f}"


def _kept(point: PaperPoint, task: Task) -> str:
    dense = next((one.mean for one in task.paper if one.sparsity == 0.0), None)
    return percent(point.mean / dense) if dense is not None and dense > 0 and point.sparsity else ""


def _smaller(cell: Named) -> str:
    ratio = cell.figures.baseline_bytes / cell.figures.payload_bytes
    return f"{ratio:,.0f}×" if ratio >= 9.5 else f"{ratio:.1f}×"


def _mean(cell: Named, figure: str) -> float:
    return float(np.mean([run.figures[figure] for run in cell.runs]))


def rows(results: Results) -> list[Row]:
    """The summary for programs, a row a cell."""
    found = []
    for task in results.tasks:
        for cell in task.cells:
            figures, point = cell.figures, point_of(task.paper, cell.settings)
            row: Row = {"task": task.title, "method": cell.name, "kind": figures.kind, "baseline": figures.baseline}
            row |= {"env": cell.settings["env"], "sparsity": cell.sparsity, "weight_bits": cell.weight_bits}
            row |= {"hidden": cell.settings.get("hidden", ""), "seeds": " ".join(map(str, figures.seeds))}
            for name in ("mean", "iqm", "kept", "improves"):
                estimate: Estimate | None = getattr(figures, name)
                ends = (("", "value"), ("_low", "low"), ("_high", "high"))
                row |= {name + end: None if estimate is None else getattr(estimate, part) for end, part in ends}
            row |= {name: _mean(cell, name) for name in ("worst_tenth", "ended_early")}
            row |= {"payload_bytes": figures.payload_bytes, "baseline_bytes": figures.baseline_bytes}
            row |= {"paper_mean": point and point.mean, "paper_std": point and point.std}
            found.append(row)
    return found


def tasks(results: Results) -> Section | None:
    """Scores of methods over all tasks, where there are several."""
    if not results.methods:
        return None
    columns = ("method", "tasks", "runs", "IQM", "mean", "P(better)", "payload, bytes")
    lines = [
        [
            name,
            str(method.tasks),
            str(method.runs),
            limits(method.iqm, "{:.3f}".format),
            limits(method.mean, "{:.3f}".format),
            limits(method.improves, share),
            f"{method.payload_bytes:,.0f}",
        ]
        for name, method in results.methods.items()
    ]
    text = (
        "A score is 0 and 1 at the returns that the study's file names for the environment, else the share of the mean "
        "of what it is compared with. The interquartile mean (IQM) leaves out the lowest and the highest quarter of "
        "all runs; intervals are 95 %, of a bootstrap stratified by task (Agarwal et al. 2021, arXiv 2108.13264).",
    )
    table = Table("Normalized scores of each method over its tasks", columns, lines)
    return Section("tasks", "Over all tasks", text, (_iqm_chart(results), _profile_chart(results), table))


def _iqm_chart(results: Results) -> Chart:
    values = [{"series": name, "name": name, **interval(one.iqm, "x")} for name, one in results.methods.items()]
    told = (("name", "method", ""), ("x", "IQM", ".3f"), ("low", "from", ".3f"), ("high", "to", ".3f"))
    lines = [[row["name"], ranged(row, "x", "{:.3f}".format)] for row in values]
    axis = Axis("normalized score", format="~g")
    return Chart(
        "Interquartile mean of all runs",
        f"The interquartile mean of normalized scores with its 95 % interval, for {len(values)} methods.",
        charts.intervals(values, placed(results.methods, results.baseline), axis, told, level=1.0),
        [],
        Table("Interquartile means", ("method", "IQM [95 % interval]"), lines),
    )


def _profile_chart(results: Results) -> Chart:
    series = placed(results.methods, results.baseline)
    values = [
        {"series": name, "x": at, "y": rounded(value), "low": rounded(low), "high": rounded(high)}
        for name, method in results.methods.items()
        for at, (value, low, high) in zip(THRESHOLDS, method.profile, strict=True)
    ]
    told = (("series", "method", ""), ("x", "score", ".2f"), ("y", "above it", ".0%"))
    x, y = Axis("normalized score", format="~g", tight=True), Axis("share of runs above", format=".0%", zero=True)
    return Chart(
        "Performance profile",
        f"The share of runs that score more than each threshold, for {len(series)} methods.",
        charts.lines(values, series, x, y, told, spread="band", points=False),
        series,
        wide(
            "Share of runs that score more than the threshold", "score", series, values, "{:.2f}",
            lambda row: f"{row['y']:.0%}",
        ),
    )  # fmt: skip
