"""The table of a study: a row a run, nothing of it lost."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from policypress.errors import ConfigError
from policypress.studies.export import export_runs
from policypress.studies.store import Run, Store
from studies.toys import GRID, finished, study


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path, GRID.replace("steps = 100", "set = { a = 1 }\nsteps = 100")))
        finished(store, {run.id: 0.1 + number for number, run in enumerate(store.runs())})
        store.add_seeds([3])
        return store.runs()


def test_csv(runs: list[Run], tmp_path: Path) -> None:
    assert export_runs(runs, tmp_path / "runs.csv", "csv") == 12
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [run.id for run in runs]
    assert [row["status"] for row in rows] == ["done"] * 8 + ["waiting"] * 4
    first = rows[0]
    assert (first["env"], first["sparsity"], first["seed"], first["kind"]) == ("A-v0", "0.0", "1", "train")
    assert json.loads(first["returns"]) == runs[0].figures["returns"]
    assert json.loads(first["set"]) == {"a": 1}
    assert json.loads(first["curve"])[-1]["step"] == "100"
    assert float(first["mean"]) == 0.1
    assert rows[-1]["returns"] == rows[-1]["payload_bytes"] == ""


def test_an_empty_study_has_a_header(tmp_path: Path) -> None:
    assert export_runs([], tmp_path / "runs.csv", "csv") == 0
    assert (tmp_path / "runs.csv").read_text().startswith("id,status,")


def test_parquet(runs: list[Run], tmp_path: Path) -> None:
    if not find_spec("pyarrow"):
        with pytest.raises(ModuleNotFoundError, match="pyarrow"):
            export_runs(runs, tmp_path / "runs.parquet", "parquet")
        assert not (tmp_path / "runs.parquet").exists()
        return
    import pyarrow.parquet

    export_runs(runs, tmp_path / "runs.parquet", "parquet")
    table = pyarrow.parquet.read_table(tmp_path / "runs.parquet")
    assert table.num_rows == 12
    assert table["returns"].to_pylist()[:8] == [run.figures["returns"] for run in runs[:8]]
    assert table["payload_bytes"].to_pylist()[8:] == [None] * 4


def test_formats_that_are_not_known(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to='xls' is not one of csv, parquet"):
        export_runs(runs, tmp_path / "runs.xls", "xls")
