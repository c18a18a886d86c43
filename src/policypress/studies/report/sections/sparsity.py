"""Return against sparsity, with the paper's points."""

from __future__ import annotations

from policypress.studies.report import charts
from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section, Series, Table, placed
from policypress.studies.report.paper import PAPER
from policypress.studies.report.results import Results, Task
from policypress.studies.report.words import Row, interval, ranged, rounded


def sparsity(results: Results) -> Section | None:
    found = [chart for task in results.tasks if (chart := _chart(task)) is not None]
    if not found:
        return None
    text = [
        "Sparsity is what was asked for; the axis is logarithmic in the weights that are left. Bars are 95 % intervals "
        "over seeds, the dotted line is what is compared with."
    ]
    if any(task.paper for task in results.tasks):
        text.append("Dashed: the paper's points, with its standard deviation over seeds.")
    return Section("sparsity", "Return against sparsity", tuple(text), tuple(found))


def _chart(task: Task) -> Chart | None:
    """None where no family of methods has several sparsities."""
    sparsities: dict[str, set[float]] = {}
    for cell in task.cells:
        sparsities.setdefault(cell.family, set()).add(cell.sparsity)
    families = [name for name, found in sparsities.items() if len(found) > 1]
    if not families:
        return None
    baseline = "" if task.baseline is None else task.baseline.family
    cells = [cell for cell in task.cells if cell.family in (*families, baseline) and cell.sparsity < 1]
    series = placed(cell.family for cell in cells)
    values: list[Row] = [
        {"series": cell.family, "x": rounded(1 - cell.sparsity), "sparsity": cell.sparsity, "seeds": len(cell.runs),
         **interval(cell.figures.mean)}
        for cell in sorted(cells, key=lambda cell: cell.sparsity)
    ]  # fmt: skip
    if task.paper:
        series.append(Series(PAPER, None))
        values += [
            {"series": PAPER, "x": rounded(1 - one.sparsity), "sparsity": one.sparsity, "y": one.mean,
             "low": rounded(one.mean - one.std), "high": rounded(one.mean + one.std)}
            for one in task.paper
        ]  # fmt: skip
    told = (
        ("series", "weights", ""), ("sparsity", "sparsity", ".3~p"), ("y", "return", ",.1f"), ("low", "from", ",.1f"),
        ("high", "to", ",.1f"), ("seeds", "seeds", "d"),
    )  # fmt: skip
    ticks = sorted({row["x"] for row in values}, reverse=True)
    x = Axis("sparsity", log=True, reverse=True, ticks=ticks, label="format(1 - datum.value, '.3~p')")
    under = [] if task.compared is None else [charts.across(rounded(task.compared))]
    shown = sorted(row["sparsity"] for row in values)
    lines = [[row["series"], f"{100 * row['sparsity']:g} %", ranged(row), str(row.get("seeds", ""))] for row in values]
    return Chart(
        task.title,
        f"Mean return of {task.title} at sparsities from {100 * shown[0]:g} to {100 * shown[-1]:g} %, in curves: "
        f"{'; '.join(one.name for one in series)}.",
        charts.lines(values, series, x, charts.RETURN, told, spread="bars", under=under),
        series,
        Table(f"{task.title}: return by sparsity", ("weights", "sparsity", "return", "seeds"), lines),
    )
