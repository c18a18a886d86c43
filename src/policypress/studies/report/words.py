"""Figures as people read them, and as charts take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from policypress.measure.scores import Estimate
from policypress.studies.report.document import Series, Table

Row = dict[str, Any]
"""A row of a chart's data: ``series``, ``x``, ``y``, ``low`` and ``high``."""


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def share(value: float) -> str:
    return f"{value:.2f}"


def limits(estimate: Estimate | None, how: Callable[[float], str] = number) -> str:
    """A figure with its interval, if that is more than a point; "" for none."""
    if estimate is None:
        return ""
    value, low, high = (how(part) for part in (estimate.value, estimate.low, estimate.high))
    return value if low == high else f"{value} [{low}, {high}]"


def rounded(value: float) -> float:
    """Six digits, which is more than is drawn."""
    return float(f"{value:.6g}")


def interval(estimate: Estimate, field: str = "y") -> Row:
    return {field: rounded(estimate.value), "low": rounded(estimate.low), "high": rounded(estimate.high)}


def ranged(row: Row, field: str = "y", how: Callable[[float], str] = number) -> str:
    """The same of a row."""
    return limits(Estimate(row[field], row["low"], row["high"]), how)


def wide(
    caption: str, first: str, series: Sequence[Series], values: Sequence[Row], at: str, how: Callable[[Row], str]
) -> Table:
    """A row an ``x``, in the format ``at``, and a column a series."""
    found = {(row["x"], row["series"]): row for row in values}
    rows = [
        [at.format(x), *(how(found[x, one.name]) if (x, one.name) in found else "" for one in series)]
        for x in sorted({row["x"] for row in values})
    ]
    return Table(caption, (first, *(one.name for one in series)), rows)
