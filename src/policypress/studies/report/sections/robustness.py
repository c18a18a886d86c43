"""What disturbances leave of a return, where `evaluate --robustness` measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policypress.errors import RunError
from policypress.measure.scores import Estimate, mean
from policypress.studies.report import charts
from policypress.studies.report.charts import Axis
from policypress.studies.report.document import Chart, Section, Table, placed
from policypress.studies.report.results import Results, disturbed
from policypress.studies.report.words import interval, percent, ranged, wide

Lines = dict[str, dict[float, list[Estimate]]]
"""By policy and level what is kept, one of each seed."""
_HEIGHT = 200
_LOGARITHMIC = 8.0
"""Levels whose last is as many times the first, or more, stand on a logarithmic scale."""


def robustness(results: Results) -> Section | None:
    panels: dict[tuple[str, str], Lines] = {}
    units: dict[str, str] = {}
    halves: dict[tuple[str, str, str], list[float | None]] = {}
    episodes = set()
    for found, cell in disturbed(results):
        env = found["env"]["env"] if isinstance(found["env"], dict) else str(found["env"])
        units |= {kind: told["level"] for kind, told in found["kinds"].items()}
        episodes.add(int(found["episodes"]))
        for point in found["points"]:
            if point["kind"] in found["kinds"] and point["kept"] is not None:
                levels = panels.setdefault((env, point["kind"]), {}).setdefault(cell or point["policy"], {})
                kept = Estimate(point["kept"], point["kept_low"], point["kept_high"])
                known = levels.setdefault(float(point["level"]), [])
                if known and cell is None:
                    raise RunError(f"robustness/ has {point['kind']} of {point['policy']} in {env} twice: remove one.")
                known.append(kept)
        for name, by_kind in found["halves"].items():
            for kind, at in by_kind.items():
                halves.setdefault((env, cell or name, kind), []).append(at)
    if not panels:
        return None
    text = (
        "The share of the same policy's undisturbed mean return that is left at each level of a disturbance, over "
        f"{' or '.join(map(str, sorted(episodes)))} episodes a point. Bars are 95 % intervals: over episodes where one "
        "policy was measured, over seeds where several were.",
    )
    parts: list[Chart | Table] = [
        _chart(env, kind, units[kind], found, results.baseline) for (env, kind), found in panels.items()
    ]
    if halves:
        columns = ("task", "policy", "disturbance", "level", "unit")
        rows = [[env, name, kind, _half(levels), units[kind]] for (env, name, kind), levels in halves.items()]
        parts.append(Table("The level at which half of the return is kept", columns, rows, words=3))
    return Section("robustness", "Robustness", text, tuple(parts))


def _half(levels: Sequence[float | None]) -> str:
    """Of each seed, in their order."""
    return "; ".join("beyond all" if at is None else f"{at:.3g}" for at in levels)


def _kept(seeds: Sequence[Estimate]) -> Estimate:
    return seeds[0] if len(seeds) == 1 else mean([[one.value for one in seeds]])


def _chart(
    env: str, kind: str, unit: str, found: Mapping[str, Mapping[float, Sequence[Estimate]]], first: str
) -> Chart:
    values = [
        {"series": name, "x": level, **interval(_kept(seeds))}
        for name, levels in found.items()
        for level, seeds in sorted(levels.items())
    ]
    series = placed(found, first)
    levels = sorted({row["x"] for row in values})
    far = levels[0] > 0 and levels[-1] >= _LOGARITHMIC * levels[0]
    axis = Axis(unit, log=far, ticks=levels, format=".3~g")
    told = (
        ("series", "policy", ""), ("x", "level", "~g"), ("y", "kept", ".1%"), ("low", "from", ".1%"),
        ("high", "to", ".1%"),
    )  # fmt: skip
    y, under = Axis("kept", format=".0%"), [charts.across(1.0)]
    return Chart(
        f"{env}: {kind}",
        f"The return that is kept on {env} under {kind}, for policies: {'; '.join(found)}.",
        charts.lines(values, series, axis, y, told, spread="bars", under=under, height=_HEIGHT),
        series,
        wide(
            f"{env}, {kind}: return kept by {unit}", "level", series, values, "{:g}",
            lambda row: ranged(row, how=percent),
        ),
    )  # fmt: skip
