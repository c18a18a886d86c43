"""A report as one HTML page that needs nothing else: styles, charts and the program that draws them are inside, and a
policy of its own forbids it to load anything.

Charts are Vega's, in SVG: its bundle of vl-convert, which Altair inlines too, is 0.86 MiB, that of Plotly 4.6. They are
compiled from Vega-Lite when the page is written, so that a spec that is wrong is an error then and not in a browser.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from policypress.studies.report.charts import ROWS
from policypress.studies.report.document import SHAPES, Chart, Document, Picture, Section, Series, Table, Words

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline' 'unsafe-eval'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header>
<h1>{title}</h1>
{facts}
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main" tabindex="-1">
{sections}
</main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="specs">{specs}</script>
<script>{vega}</script>
<script>
{script}</script>
</body>
</html>
"""
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"
_CONFIG = {
    "background": None,
    "font": _FONT,
    "aria": False,  # the figure is one image with a text, and its numbers are a table
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--muted)",
        "tickColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelPadding": 6,
        "titlePadding": 8,
    },
}
_SYMBOLS = ("M4 5a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M4 1h8v8h-8z", "M8 0l5 9h-10z", "M8 0l5 5-5 5-5-5z", "M8 10l5-9h-10z")
_PATHS = dict(zip(SHAPES, _SYMBOLS, strict=True))
"""Symbols in a box of 16 by 10."""
_CODE = re.compile("`([^`]+)`")
_SMALL = 250
"""Charts lower than this stand in narrow columns."""
_LONG = 60
"""Characters of a cell beyond which it is broken into lines."""


def page(document: Document) -> str:
    """The page; ModuleNotFoundError where vl-convert is not installed."""
    import vl_convert

    charts = document.charts
    specs = [_compiled(chart, vl_convert.vegalite_to_vega) for chart in charts]
    numbers = {id(chart): number for number, chart in enumerate(charts)}
    links = (f'<li><a href="#{one.name}">{escape(one.title)}</a></li>' for one in document.sections)
    return _TEMPLATE.format(
        title=escape(document.title),
        style=_file("page.css"),
        facts=_facts(document.facts),
        links="".join(links),
        sections="\n".join(_section(one, numbers) for one in document.sections),
        specs=json.dumps(specs, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script"),
        script=_file("page.js"),
    )


def _compiled(chart: Chart, compiler: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A chart's spec as Vega's, whose data the compiler need not see."""
    spec = compiler({"config": _CONFIG, **chart.spec, "data": {"name": ROWS}})
    (rows,) = (data for data in spec["data"] if data["name"] == ROWS)
    rows["values"] = chart.spec["data"]["values"]
    return spec


def _file(name: str) -> str:
    return resources.files("policypress.studies.report").joinpath(name).read_text("utf-8")


def _facts(facts: Mapping[str, str]) -> str:
    told = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{"".join(told)}</dl>'


def _section(section: Section, numbers: Mapping[int, int]) -> str:
    parts = [f'<section aria-labelledby="{section.name}">', f'<h2 id="{section.name}">{escape(section.title)}</h2>']
    parts += [_paragraph(paragraph) for paragraph in section.text]
    figures: list[Chart] = []
    for part in (*section.parts, None):
        if isinstance(part, Chart):
            figures.append(part)
            continue
        if figures:
            small = " small" if all(chart.spec["height"] < _SMALL for chart in figures) and len(figures) > 1 else ""
            drawn = "\n".join(_figure(chart, numbers[id(chart)]) for chart in figures)
            parts.append(f'<div class="charts{small}">\n{drawn}\n</div>')
            figures = []
        if isinstance(part, Table):
            parts.append(_table(part))
        elif isinstance(part, Picture):
            parts.append(_picture(part))
        elif isinstance(part, Words):
            parts.append(f"<details><summary>{escape(part.title)}</summary><pre>{escape(part.text)}</pre></details>")
    return "\n".join([*parts, "</section>"])


def _figure(chart: Chart, number: int) -> str:
    legend = "".join(
        f'<li><button type="button" aria-pressed="false" data-series="{escape(one.name)}">{_swatch(one)}'
        f"{escape(one.name)}</button></li>"
        for one in chart.series
    )
    return (
        f'<figure data-chart="{number}" aria-labelledby="chart-{number}">'
        f'<h3 id="chart-{number}">{escape(chart.title)}</h3>'
        + (f'<ul class="legend" aria-label="Pick one of the chart">{legend}</ul>' if legend else "")
        + f'<div class="chart" role="img" aria-label="{escape(chart.alt)} The table below has the numbers."></div>'
        f"<details><summary>The numbers of this chart</summary>{_table(chart.table)}</details></figure>"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    return (
        f'<figure class="film"><h3>{escape(picture.title)}</h3>'
        f'<img alt="{escape(picture.alt)}" src="data:image/jpeg;base64,{data}"></figure>'
    )


def _paragraph(text: str) -> str:
    return "<p>" + _CODE.sub(r"<code>\1</code>", escape(text)) + "</p>"


def _swatch(series: Series) -> str:
    dashes = ' stroke-dasharray="4 2"' if series.dashed else ""
    line = f'<path d="M0 5h16" stroke="{series.color}" stroke-width="2"{dashes}/>'
    symbol = f'<path d="{_PATHS[series.shape]}" fill="{series.color}"/>'
    return f'<svg width="16" height="10" aria-hidden="true">{line}{symbol}</svg>'


def _table(table: Table) -> str:
    def cell(text: str, column: int, tag: str, scope: str = "") -> str:
        classes = [*(["w"] if column < table.words else []), *(["long"] if tag == "td" and len(text) > _LONG else [])]
        named = f' class="{" ".join(classes)}"' if classes else ""
        return f"<{tag}{named}{scope}>{escape(text)}</{tag}>"

    def row(cells: Sequence[str]) -> str:
        first = cell(cells[0], 0, "th", ' scope="row"')
        return f"<tr>{first}{''.join(cell(text, place, 'td') for place, text in enumerate(cells[1:], 1))}</tr>"

    head = "".join(cell(name, place, "th", ' scope="col"') for place, name in enumerate(table.columns))
    body = "\n".join(row(cells) for cells in table.rows)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(table.caption)}"><table>'
        f"<caption><span>{escape(table.caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )
