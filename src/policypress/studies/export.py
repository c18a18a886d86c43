"""The runs of a study as a table in a file: a row a run, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policypress.errors import ConfigError
from policypress.files import replace_file, write_whole
from policypress.studies.cells import Cell
from policypress.studies.store import RESULTS, Run

_RUN = ("id", "status", "host", "attempts", "started", "ended", "seconds", "error")
_NESTED = ("machine", "config", "curve")
"""Figures that are objects: JSON in either format."""
Rows = Sequence[Mapping[str, Any]]


def export_runs(runs: Sequence[Run], path: Path, to: str) -> int:
    """Writes ``runs`` to ``path``, whole or not at all, and returns how many there are.

    Columns: what a run is and how it went, its settings, and what came of it. Returns of episodes are a list; in CSV
    lists and objects are JSON. ConfigError for a format that is not known; ModuleNotFoundError without pyarrow.
    """
    if to not in FORMATS:
        raise ConfigError(f"to={to!r} is not one of {', '.join(FORMATS)}.")
    FORMATS[to](_rows(runs), path)
    return len(runs)


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All with the same columns, in the same order."""
    settings = sorted({name for run in runs for name in _settings(run.cell)})
    found = []
    for run in runs:
        given = _settings(run.cell)
        figures = {name: run.figures.get(name) for name in RESULTS}
        told = {
            name: json.dumps(value) if value is not None else None for name, value in figures.items() if name in _NESTED
        }
        row = {name: getattr(run, name) for name in _RUN}
        found.append({**row, "kind": run.cell.kind, **{name: given.get(name) for name in settings}, **figures, **told})
    return found


def _settings(cell: Cell) -> dict[str, Any]:
    """Settings under names of their own: those of a measurement, and what figures are called too, with a prefix."""
    measured = {f"evaluate_{name}": value for name, value in cell.evaluate.items()}
    own = {f"setting_{name}" if name in (*RESULTS, *_RUN) else name: value for name, value in cell.settings.items()}
    return {**own, **measured}


def _csv(rows: Rows, path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else _RUN)
    for row in rows:
        writer.writerow(json.dumps(value) if isinstance(value, list | dict) else value for value in row.values())
    write_whole(path, text.getvalue())


def _parquet(rows: Rows, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [_scalar(name, row[name]) for row in rows] for name in (rows[0] if rows else _RUN)}
    with replace_file(path) as partial:
        pq.write_table(pa.table(columns), partial)


def _scalar(name: str, value: Any) -> Any:
    """A value of one type in all rows of a column: settings that are tables or lists as JSON."""
    return json.dumps(value) if isinstance(value, dict) or (isinstance(value, list) and name not in RESULTS) else value


FORMATS: dict[str, Callable[[Rows, Path], None]] = {"csv": _csv, "parquet": _parquet}
