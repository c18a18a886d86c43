"""Charts as Vega-Lite specs. Their looks, light and dark, are page.css's: colours are its variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from policypress.studies.report.document import Series

Spec = dict[str, Any]
Values = Sequence[Mapping[str, Any]]
"""Rows with ``series``, ``x``, ``y`` and, where there is an interval or a range, ``low`` and ``high``."""

ROWS = "rows"
"""The name of a chart's data."""
PICKED = "picked"
"""Signal: the name of the series that the reader picked in the legend, or null."""
_DIM = f"{PICKED} && datum.series !== {PICKED}"
_MUTED = "var(--muted)"
_DASHES = [6, 4]
_HEIGHT = 300
_ROOM = 260
"""Pixels beside names from which on these stand in one line."""


@dataclass(frozen=True)
class Axis:
    """``log``: on a logarithmic scale. ``ticks``: where labels stand; ``label``: a Vega expression of one; ``format``:
    one of d3. ``zero``: it begins there; ``tight``: it ends where the data do."""

    title: str
    log: bool = False
    reverse: bool = False
    ticks: Sequence[float] = ()
    label: str = ""
    format: str = "~s"
    zero: bool = False
    tight: bool = False

    def encoding(self, field: str) -> Spec:
        scale: Spec = {"type": "log"} if self.log else {"zero": self.zero}
        axis: Spec = {"title": self.title, "labelOverlap": "greedy"}
        axis |= {"values": list(self.ticks)} if self.ticks else {"tickCount": 6}
        axis["labelExpr"] = self.label or f"datum.value ? format(datum.value, '{self.format}') : '0'"
        return {
            "field": field,
            "type": "quantitative",
            "scale": {
                **scale,
                "nice": not (self.log or self.tight),
                "reverse": self.reverse,
                "padding": 0 if self.zero else 12,
            },
            "axis": axis,
        }


def round_ticks(values: Iterable[float]) -> list[float]:
    """1, 2 and 5 times powers of ten from the least to the most of ``values``, which are positive; where they are too
    close, other digits too."""
    found = list(values)
    least, most = min(found), max(found)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    for digits in ((1, 2, 5), range(1, 10)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        if len(among := [tick for tick in ticks if least <= tick <= most]) > 2:
            return among
    return []


RETURN = Axis("return", label="format(datum.value, abs(datum.value) < 100000 ? ',.6~r' : '~s')")

Told = Sequence[tuple[str, str, str]]
"""What a tooltip says: fields, their titles, and formats of d3 ("" for words)."""


def lines(
    values: Values,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    told: Told,
    *,
    spread: Literal["bars", "band"],
    points: bool = True,
    joined: bool = True,
    under: Sequence[Spec] = (),
    height: int = _HEIGHT,
) -> Spec:
    """A line a series (symbols alone, if not ``joined``), with intervals or ranges as bars or a band; ``under``: layers
    below."""
    wanted = {one.name for one in series if not one.dashed}
    dashed = {one.name for one in series if one.dashed}
    ends = {"y": y.encoding("low"), "y2": {"field": "high"}}
    if spread == "band":
        around: Spec = {"mark": {"type": "area"}, "encoding": {**ends, "opacity": _opacity(0.14, 0.02)}}
    else:
        around = {"mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": {**ends, "opacity": _opacity(0.6, 0.08)}}
    drawn: list[Spec] = [around]
    for names, mark in ((wanted, {}), (dashed, {"strokeDash": _DASHES})):
        if names and joined:
            drawn.append({"transform": [_among(names)], "mark": {"type": "line", "strokeWidth": 2, **mark}})
    drawn.append(
        {
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {"shape": _shape(series), "tooltip": _tooltip(told)},
        }
        if points
        else {  # seen by the pointer alone
            "mark": {"type": "point", "filled": True, "size": 120, "fillOpacity": 0.001, "strokeOpacity": 0},
            "encoding": {"tooltip": _tooltip(told), "opacity": {"value": 1}},
        }
    )
    common = {"x": x.encoding("x"), "y": y.encoding("y"), "color": _color(series), "opacity": _opacity(1, 0.12)}
    layers = [{**one, "encoding": {**common, **one.get("encoding", {})}} for one in drawn]
    return _whole(values, [*under, *layers], height)


def scatter(
    values: Values,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    told: Told,
    front: Values = (),
    level: float | None = None,
) -> Spec:
    """A symbol a row; ``front``: a line through what nothing to its left is above; ``level``: a line across."""
    under: list[Spec] = []
    if level is not None:
        under.append(across(level))
    if front:
        under.append(
            {
                "data": {"values": list(front)},
                "mark": {"type": "line", "strokeWidth": 1.5, "color": _MUTED, "interpolate": "step-after"},
                "encoding": {"x": x.encoding("x"), "y": y.encoding("y")},
            }
        )
    encoding = {
        "x": x.encoding("x"),
        "y": y.encoding("y"),
        "color": _color(series),
        "shape": _shape(series),
        "opacity": _opacity(0.85, 0.1),
        "tooltip": _tooltip(told),
    }
    return _whole(values, [*under, {"mark": {"type": "point", "filled": True, "size": 80}, "encoding": encoding}])


def intervals(values: Values, series: Sequence[Series], x: Axis, told: Told, level: float | None = None) -> Spec:
    """A row a ``name``, its figure ``x`` with ``low`` and ``high``; ``level``: a line down."""
    names = [str(row["name"]) for row in values]
    common = {"y": _names("name", names), "color": _color(series)}
    bar: Spec = {
        "mark": {"type": "rule", "strokeWidth": 2.5},
        "encoding": {"x": x.encoding("low"), "x2": {"field": "high"}},
    }
    dot: Spec = {
        "mark": {"type": "point", "filled": True, "size": 110},
        "encoding": {"x": x.encoding("x"), "shape": _shape(series), "tooltip": _tooltip(told)},
    }
    layers = [{**one, "encoding": {**common, "opacity": _opacity(1, 0.12), **one["encoding"]}} for one in (bar, dot)]
    under = [] if level is None else [across(level, "x")]
    return _whole(values, [*under, *layers], max(120, len(names) * _row(names)))


def shares(values: Values, rows: Sequence[str], columns: Sequence[str], told: Told) -> Spec:
    """A square for each ``series`` and ``column``, the fuller the larger ``x`` (0 to 1), with ``text`` in it."""
    common = {
        "x": {"field": "column", "type": "nominal", "sort": list(columns), "title": None,
              "axis": {"orient": "top", "labelAngle": 0, "domain": False, "ticks": False, "labelOverlap": False}},
        "y": _names("series", rows),
    }  # fmt: skip
    square: Spec = {
        "mark": {"type": "rect", "color": "var(--c1)", "cornerRadius": 3},
        "encoding": {
            "fillOpacity": {"field": "x", "type": "quantitative", "legend": None,
                            "scale": {"domain": [0, 1], "range": [0.04, 0.6]}},
            "tooltip": _tooltip(told),
        },
    }  # fmt: skip
    text: Spec = {
        "mark": {"type": "text", "color": "var(--ink)", "fontSize": 12},
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    layers = [{**one, "encoding": {**common, **one["encoding"]}} for one in (square, text)]
    return _whole(values, layers, max(100, len(rows) * _row(rows)))


def across(level: float, channel: str = "y") -> Spec:
    """A line across at a y, or down at an x."""
    return {
        "data": {"values": [{"level": level}]},
        "mark": {"type": "rule", "color": _MUTED, "strokeDash": [2, 3], "strokeWidth": 1.5},
        "encoding": {channel: {"field": "level", "type": "quantitative"}},
    }


def window(start: float, end: float, name: str) -> Spec:
    """A span of x as a field behind everything."""
    return {
        "data": {"values": [{"x": start, "x2": end}]},
        "mark": {"type": "rect", "color": _MUTED, "opacity": 0.13, "tooltip": name},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "x2": {"field": "x2"}},
    }


def moment(at: float, name: str) -> Spec:
    """A line down at an x."""
    return {
        "data": {"values": [{"x": at}]},
        "mark": {"type": "rule", "color": _MUTED, "strokeWidth": 1.5, "strokeDash": [2, 3], "tooltip": name},
        "encoding": {"x": {"field": "x", "type": "quantitative"}},
    }


def caption(at: float, text: str) -> Spec:
    """Words at the top, from an x on."""
    return {
        "data": {"values": [{"x": at}]},
        "mark": {"type": "text", "text": text, "color": "var(--ink-2)", "align": "left", "baseline": "top",
                 "dx": 4, "dy": 2, "fontSize": 11, "y": 0},
        "encoding": {"x": {"field": "x", "type": "quantitative"}},
    }  # fmt: skip


def _whole(values: Values, layers: Sequence[Spec], height: int = _HEIGHT) -> Spec:
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": PICKED, "value": None}],
        "data": {"name": ROWS, "values": list(values)},
        "layer": list(layers),
    }


def _names(field: str, names: Sequence[str]) -> Spec:
    """Names down the side, in lines of their parts where there is little room."""
    lines_of = max(name.count(", ") for name in names)
    axis = {
        "labelExpr": f"width > {_ROOM} ? datum.label : split(datum.label, ', ')",
        "labelOffset": {"expr": f"width > {_ROOM} ? 0 : {-6 * lines_of}"},
        "labelLimit": 260,
        "ticks": False,
        "domain": False,
    }
    return {"field": field, "type": "nominal", "sort": list(names), "title": None, "axis": axis}


def _row(names: Sequence[str]) -> int:
    """Pixels of a row with such a name."""
    return 10 + 14 * max(2, 1 + max(name.count(", ") for name in names))


def _color(series: Sequence[Series]) -> Spec:
    scale = {"domain": [one.name for one in series], "range": [one.color for one in series]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": None}


def _shape(series: Sequence[Series]) -> Spec:
    scale = {"domain": [one.name for one in series], "range": [one.shape for one in series]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": None}


def _opacity(plain: float, dim: float) -> Spec:
    return {"condition": {"test": _DIM, "value": dim}, "value": plain}


def _among(names: set[str]) -> Spec:
    return {"filter": {"field": "series", "oneOf": sorted(names)}}


def _tooltip(told: Told) -> list[Spec]:
    return [
        {"field": field, "title": title, **({"format": how, "type": "quantitative"} if how else {"type": "nominal"})}
        for field, title, how in told
    ]
