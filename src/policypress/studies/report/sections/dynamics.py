"""What happens to networks while they learn, beside the return: units that die, features that collapse, exploration."""

from __future__ import annotations

from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section
from policypress.studies.report.results import Results
from policypress.studies.report.sections.curves import Quantity, chart, curve, groups
from policypress.studies.report.words import percent, share

_QUANTITIES = (
    Quantity("dormant", "dormant units", Axis("dormant units", format=".0%", zero=True), ".1%", percent),
    Quantity("rank", "effective rank", Axis("effective rank of features", format=",.3~r", zero=True), ",.1f"),
    Quantity("entropy", "entropy", Axis("entropy, nats", label="format(datum.value, ',.3~r')"), ",.2f", share),
    Quantity("visited", "states visited", Axis("kinds of states visited", format=",.3~r", zero=True), ",.0f"),
)


def dynamics(results: Results) -> Section | None:
    parts: list[Chart] = []
    for task in results.tasks:
        for of in _QUANTITIES:
            found = {cell.name: rows for cell in task.cells if (rows := curve(cell, of.column))}
            cells = [cell for cell in task.cells if cell.name in found]
            for family, group in groups(cells).items():
                parts.append(chart(task, f"{family}, {of.name}" if family else of.name, group, found, of))
    if not parts:
        return None
    text = (
        "Of the deployed network at the observations that it met when it was evaluated: the share of hidden units that "
        "are dormant (mean magnitude at most 2.5 % of their layer's), and the effective rank of what the last layer "
        "sees (all but 1 % of the sum of singular values). Entropy: of what actions are drawn from in training, of "
        "squashed ones before they are squashed. States visited: how many of 65,536 kinds training has been in. Lines "
        "are means over seeds, bands reach from the least to the most.",
    )
    return Section("dynamics", "Learning dynamics", text, tuple(parts))
