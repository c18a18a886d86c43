"""A report in a file: a page, Markdown, or its summary as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from policypress.errors import ConfigError
from policypress.extras import require
from policypress.files import write_whole
from policypress.studies.report.document import FORMATS, Chart, Document, Format, Picture, Table, Words
from policypress.studies.report.page import page
from policypress.studies.report.paper import read_paper
from policypress.studies.report.results import results
from policypress.studies.report.sections import document
from policypress.studies.store import Store


def write_report(store: Store, path: Path, format: str, paper: Path | None = None) -> int:
    """Writes what the runs of ``store`` gave to ``path``, whole or not at all; how many bytes it has.

    ``format``: one of FORMATS. ``paper``: a CSV of published points, see ``paper.read_paper``. ConfigError for another
    format or points that cannot be read, RunError if no run is finished, PolicypressError without the extra `report`,
    which a page needs.
    """
    if format not in FORMATS:
        raise ConfigError(f"format={format!r} is not one of {', '.join(FORMATS)}.")
    if format == "html":
        require("report")
    writers: dict[Format, Callable[[Document], str]] = {"html": page, "md": markdown, "csv": summary}
    written = writers[format](document(results(store, read_paper(paper) if paper else ()))).encode()
    write_whole(path, written)
    return len(written)


def markdown(document: Document) -> str:
    """Sections, tables, and of charts their numbers."""
    lines = [f"# {document.title}", "", ", ".join(f"{name}: {value}" for name, value in document.facts.items())]
    for section in document.sections:
        lines += ["", f"## {section.title}", *(line for paragraph in section.text for line in ("", paragraph))]
        for part in section.parts:
            match part:
                case Table():
                    lines += _markdown(part)
                case Chart():
                    lines += _markdown(part.table)
                case Picture():
                    lines += ["", f"**{part.title}**: {part.alt} The page shows it."]
                case Words():
                    lines += ["", f"### {part.title}", "", *(f"    {line}" for line in part.text.splitlines())]
    return "\n".join([*lines, ""])


def _markdown(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        told = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(told)} |"

    marks = ["---" if place < table.words else "---:" for place in range(len(table.columns))]
    return ["", f"**{table.caption}**", "", row(table.columns), f"|{'|'.join(marks)}|", *map(row, table.rows)]


def summary(document: Document) -> str:
    """A row a cell, in full precision."""
    text = io.StringIO()
    rows = csv.DictWriter(text, list(document.rows[0]), lineterminator="\n")
    rows.writeheader()
    rows.writerows(document.rows)
    return text.getvalue()
