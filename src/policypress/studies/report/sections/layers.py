"""Where the zeros are."""

from __future__ import annotations

from policypress.policy.description import layer_titles
from policypress.studies.report import charts
from policypress.studies.report.document import Chart, Section, Table
from policypress.studies.report.results import Results, Task, layers_of
from policypress.studies.report.words import percent, rounded

LEAST = 0.005
"""A policy none of whose layers has a larger share of zeros is not shown."""


def layers(results: Results) -> Section | None:
    found = [chart for task in results.tasks if (chart := _chart(results, task)) is not None]
    text = (
        "The share of each layer's weights that are zero in the frozen policy, of the run of the first seed. Rounding "
        "to few bits makes zeros of small weights, too.",
    )
    return Section("layers", "Sparsity of layers", text, tuple(found)) if found else None


def _chart(results: Results, task: Task) -> Chart | None:
    rows: dict[str, dict[str, float]] = {}
    for cell in task.cells:
        told = layers_of(results, cell.runs[0])
        if any(layer["sparsity"] > LEAST for layer in told):
            titles = layer_titles([layer["kind"] == "conv" for layer in told])
            rows[cell.name] = {title: layer["sparsity"] for title, layer in zip(titles, told, strict=True)}
    if not rows:
        return None
    names = sorted({title: None for row in rows.values() for title in row}, key=lambda title: title == "output")
    values = [
        {"series": name, "column": title, "x": rounded(share), "text": f"{share:.0%}"}
        for name, row in rows.items()
        for title, share in row.items()
    ]
    lines = [[name, *(percent(row[title]) if title in row else "" for title in names)] for name, row in rows.items()]
    told_ = (("series", "method", ""), ("column", "layer", ""), ("x", "zero", ".1%"))
    return Chart(
        task.title,
        f"The share of zeros in {len(names)} layers of {len(rows)} methods on {task.title}.",
        charts.shares(values, list(rows), names, told_),
        [],
        Table(f"{task.title}: share of weights that are zero", ("method", *names), lines),
    )
