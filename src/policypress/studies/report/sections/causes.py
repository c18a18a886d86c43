"""What costs what: pruning or quantization, and zeros or fewer weights at equal bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from policypress.measure.scores import probability_of_improvement
from policypress.studies.report import charts
from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section, Series, Table, placed
from policypress.studies.report.results import FLOAT, Named, Results, Task
from policypress.studies.report.words import interval, limits, percent, ranged, share

EQUAL = 1.5
"""Payloads count as equal whose ratio is no more."""
_PRESSED = ("pruned alone", "quantized alone", "both")
_WIDE = "wide, sparse"
_CONTROLS = ("narrow, dense", "linear")
_FAMILIES = (_WIDE, "narrow, dense", "narrow, sparse", "linear")


def ablation(results: Results) -> Section | None:
    """Where a task has cells that are pruned alone and quantized alone, everything else alike."""
    parts: list[Chart | Table] = []
    sums: list[list[str]] = []
    for task in results.tasks:
        alike: dict[str, dict[str, list[Named]]] = {}
        for cell in task.cells:
            if cell.figures.kept is not None:
                rest = {k: v for k, v in cell.figures.method.items() if k not in ("sparsity", "weight_bits")}
                alike.setdefault(str(sorted(rest.items())), {}).setdefault(_pressed(cell), []).append(cell)
        for kinds in alike.values():
            if {"pruned alone", "quantized alone"} <= set(kinds):
                parts.append(_ablation_chart(task, kinds))
                sums += [row for cell in kinds.get("both", []) if (row := _added(task, cell, kinds)) is not None]
    if not parts:
        return None
    if sums:
        columns = ("task", "both", "kept by both", "pruned alone", "quantized alone", "if their losses added up")
        parts.append(Table("Do the losses add up?", columns, sums, words=2))
    text = (
        "What pruning alone, quantization alone and both keep of the return that they are compared with, everything "
        "else alike; 95 % intervals over seeds.",
    )
    return Section("ablation", "Pruning or quantization", text, tuple(parts))


def _pressed(cell: Named) -> str:
    pruned, quantized = cell.pruned, cell.weight_bits != FLOAT
    return ("both" if quantized else "pruned alone") if pruned else ("quantized alone" if quantized else "neither")


def _ablation_chart(task: Task, kinds: Mapping[str, Sequence[Named]]) -> Chart:
    cells = [cell for kind in _PRESSED for cell in kinds.get(kind, [])]
    values = [
        {"series": _pressed(cell), "name": cell.name, **interval(kept, "x")}
        for cell in cells
        if (kept := cell.figures.kept) is not None
    ]
    series = placed(row["series"] for row in values)
    told = (
        ("series", "what", ""), ("name", "method", ""), ("x", "kept", ".1%"), ("low", "from", ".1%"),
        ("high", "to", ".1%"),
    )  # fmt: skip
    lines = [[row["series"], row["name"], ranged(row, "x", percent)] for row in values]
    return Chart(
        task.title,
        f"The share of the return that {len(cells)} ways of pressing keep on {task.title}, with intervals.",
        charts.intervals(values, series, Axis("return kept", format=".0%"), told, level=1.0),
        series,
        Table(f"{task.title}: return kept", ("what", "method", "kept [95 % interval]"), lines, words=2),
    )


def _added(task: Task, both: Named, kinds: Mapping[str, Sequence[Named]]) -> list[str] | None:
    """What both keep beside what each alone does, at the same sparsity and at the same bits."""
    pruned = next((one for one in kinds["pruned alone"] if one.sparsity == both.sparsity), None)
    quantized = next((one for one in kinds["quantized alone"] if one.weight_bits == both.weight_bits), None)
    found = [one.figures.kept for one in (both, pruned, quantized) if one is not None]
    told = [kept.value for kept in found if kept is not None]
    if len(told) < 3:
        return None
    return [task.title, both.name, *map(percent, told), percent(1 - (1 - told[1]) - (1 - told[2]))]


def equal_bytes(results: Results) -> Section | None:
    """Where an environment has wide sparse networks, and narrow dense or linear ones."""
    groups: dict[tuple[str, str], list[tuple[str, Named]]] = {}
    for task in results.tasks:
        for cell in task.cells:
            if (family := _family(cell)) is not None:
                key = (str(cell.settings["env"]), str(cell.settings.get("agent_sha256", "")))
                groups.setdefault(key, []).append((family, cell))
    parts: list[Chart | Table] = []
    pairs: list[list[str]] = []
    for found in groups.values():
        families = {family for family, _ in found}
        if _WIDE in families and families & set(_CONTROLS):
            parts.append(_equal_chart(found))
            pairs += _pairs(found)
    if not parts:
        return None
    if pairs:
        columns = ("task", _WIDE, "control", "bytes", "its bytes", "return", "its return", "P(control better)")
        parts.append(Table(f"Pairs whose payloads differ by a factor of {EQUAL} at most", columns, pairs, words=3))
    text = (
        "A wide network of which most weights are zero, a narrow one that has all of its weights, and a linear one, at "
        "the bytes that they really take: whether pruning bought anything that fewer weights do not.",
    )
    return Section("equal", "At equal bytes", text, tuple(parts))


def _family(cell: Named) -> str | None:
    """None for a network of its own size that is not pruned."""
    hidden = cell.settings.get("hidden")
    if hidden == "none" or (cell.settings.get("algo") == "ars" and cell.figures.kind == "train" and hidden is None):
        return "linear"
    if hidden not in (None, "auto"):
        return "narrow, sparse" if cell.pruned else "narrow, dense"
    return _WIDE if cell.pruned else None


def _equal_chart(found: Sequence[tuple[str, Named]]) -> Chart:
    env = str(found[0][1].settings["env"])
    series = [Series(name, place) for place, name in enumerate(_FAMILIES, 1) if any(one == name for one, _ in found)]
    values = [
        {"series": family, "x": round(cell.figures.payload_bytes), "name": cell.name, **interval(cell.figures.mean)}
        for family, cell in sorted(found, key=lambda pair: pair[1].figures.payload_bytes)
    ]
    told = (
        ("series", "kind", ""), ("name", "cell", ""), ("x", "payload, bytes", ",d"), ("y", "return", ",.1f"),
        ("low", "from", ",.1f"), ("high", "to", ",.1f"),
    )  # fmt: skip
    axis = Axis("payload, bytes", log=True, ticks=charts.round_ticks(row["x"] for row in values))
    lines = [[row["name"], row["series"], f"{row['x']:,}", ranged(row)] for row in values]
    return Chart(
        env,
        f"Return of {env} against the bytes of the payload, for networks: {'; '.join(one.name for one in series)}.",
        charts.lines(values, series, axis, charts.RETURN, told, spread="bars", joined=False),
        series,
        Table(f"{env}: return and bytes", ("cell", "kind", "payload, bytes", "return"), lines, words=2),
    )


def _pairs(found: Sequence[tuple[str, Named]]) -> list[list[str]]:
    """Every wide network with the control of each kind that is nearest in bytes, if one is near enough."""
    rows = []
    for wide in (cell for family, cell in found if family == _WIDE):
        for wanted in _CONTROLS:
            controls = [cell for family, cell in found if family == wanted]
            near = min(controls, key=lambda cell: _apart(cell, wide), default=None)
            if near is None or _apart(near, wide) > math.log(EQUAL):
                continue
            ours, theirs = wide.figures, near.figures
            bytes_ = [f"{one.payload_bytes:,.0f}" for one in (ours, theirs)]
            better = limits(probability_of_improvement([theirs.returns], [ours.returns]), share)
            names = [str(wide.settings["env"]), wide.name, near.name]
            rows.append([*names, *bytes_, limits(ours.mean), limits(theirs.mean), better])
    return rows


def _apart(one: Named, other: Named) -> float:
    return abs(math.log(one.figures.payload_bytes / other.figures.payload_bytes))
