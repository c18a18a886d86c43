"""Runs that no study has made, in one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from policypress import cli
from policypress.errors import ConfigError, RunError
from policypress.studies.cells import checked, options_of
from policypress.studies.collect import collect
from policypress.studies.report.write import write_report
from policypress.studies.statistics import CellFigures, cell_figures
from policypress.studies.store import Store

RESULTS = Path(__file__).parents[2] / "results"
CHEETAHS = sorted(RESULTS.glob("HalfCheetah-v5/cheetah-[dn9]*"))
STUDENTS = sorted(RESULTS.glob("*/*-1M-*"))


def test_trainings_are_told_by_their_settings(tmp_path: Path) -> None:
    assert collect(tmp_path / "cheetahs", CHEETAHS) == 11
    with Store(tmp_path / "cheetahs") as store:
        cells = {cell.method.get("hidden") or cell.method["sparsity"]: cell for cell in _cells(store)}
        assert store.title == "cheetahs"
    assert {name: cell.seeds for name, cell in cells.items()} == {
        0.9: (1, 2),
        0.98: (1, 2, 3),
        0.0: (1, 2, 3),
        "46,46": (1, 2, 3),
    }
    assert [name for name, cell in cells.items() if cell.baseline] == [0.0]
    dense = [json.loads((RESULTS / f"HalfCheetah-v5/cheetah-{name}/result.json").read_text()) for name in ("dense",)]
    assert cells[0.0].returns[0] == pytest.approx(dense[0]["evaluation"]["mean"])
    assert cells[0.98].kept is not None
    assert 1.0 < cells[0.98].kept.value < 1.15


def test_students_are_compared_with_their_agents_and_the_page_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "students"
    assert collect(folder, STUDENTS) == 10
    with Store(folder) as store:
        kept = {cell.task["env"]: cell.kept.value for cell in _cells(store) if cell.kept is not None}
        assert all(run.seconds > 60 for run in store.runs())
        write_report(store, folder / "report.md", "md", None)
    assert kept["HalfCheetah-v5"] == pytest.approx(0.853, abs=0.001)
    assert sorted(kept) == ["HalfCheetah-v5", "Hopper-v5", "Swimmer-v5", "Walker2d-v5"]
    assert "85.3%" in (folder / "report.md").read_text()


def test_settings_are_such_as_a_study_file_may_say(tmp_path: Path) -> None:
    collect(tmp_path / "all", [*CHEETAHS, *STUDENTS])
    with Store(tmp_path / "all") as store:
        for run in store.runs():
            kind = run.cell.kind
            for name, value in run.cell.settings.items():
                if name in options_of(kind):
                    assert checked(kind, name, value) == value


def test_what_is_there_is_not_added_again(tmp_path: Path) -> None:
    assert collect(tmp_path / "one", CHEETAHS[:3]) == 3
    assert collect(tmp_path / "one", CHEETAHS) == 8
    with Store(tmp_path / "one") as store, pytest.raises(RunError, match="no study file describes"):
        store.add_seeds([7])


def test_what_cannot_be_collected_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(CHEETAHS[0], tmp_path / "again")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "result.json").write_text('{"config": {}}')
    with pytest.raises(ConfigError, match="are of the same settings and seed: leave one of them out"):
        collect(tmp_path / "study", [CHEETAHS[0], tmp_path / "again"])
    for folder in (tmp_path / "cut", tmp_path / "missing"):
        with pytest.raises(ConfigError, match="holds no finished run of `policypress train` or `compress`"):
            collect(tmp_path / "study", [CHEETAHS[0], folder])
    monkeypatch.setattr(sys, "argv", ["policypress", "study", "collect", f"{tmp_path}/study", f"{tmp_path}/cut"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "leave it out" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def _cells(store: Store) -> list[CellFigures]:
    return cell_figures(store.runs("done"), store.baseline)
