"""Names of cells and tasks, and files beside the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from policypress.errors import RunError
from policypress.studies.report.results import Results, results
from policypress.studies.store import Store
from studies.report.whole import GRID, whole
from studies.toys import finished, study


def of(folder: Path) -> Results:
    with Store(folder) as store:
        return results(store)


def test_cells_have_short_names(tmp_path: Path) -> None:
    hopper, walker = of(whole(tmp_path)).tasks
    assert (hopper.title, walker.title) == ("Hopper-v5", "Walker2d-v5")
    names = ["dense, float", "90 % sparse, float", "dense, 8 bits", "90 % sparse, 8 bits", "98 % sparse, 8 bits"]
    assert [cell.name for cell in hopper.cells] == [*names, "4-4, 8 bits", "linear, 8 bits"]
    assert [cell.family for cell in hopper.cells][:4] == ["float", "float", "8 bits", "8 bits"]
    assert hopper.baseline is hopper.cells[0]
    assert hopper.compared == 100.0
    assert [len(cell.runs) for cell in walker.cells] == [2, 2, 2, 2, 2, 2, 1]


def test_other_measurements_have_other_names_and_other_settings_other_titles(tmp_path: Path) -> None:
    grid = GRID.replace('algo = "sac"', 'algo = ["sac", "td3"]')
    first, second = study(tmp_path, grid), study(tmp_path, grid + "[evaluate]\nepisodes = 5\n")
    with Store(tmp_path / "study", new=True) as store:
        for described in (first, second):
            store.take(described, update=True)
            finished(store)
    tasks = of(tmp_path / "study").tasks
    assert [task.title for task in tasks][:2] == ["Hopper-v5, algo sac", "Walker2d-v5, algo sac"]
    names = [cell.name for cell in tasks[0].cells]
    assert len(set(names)) == len(names) == 14
    assert "dense, float (2)" in names


def test_a_study_of_which_nothing_is_finished_has_no_report(tmp_path: Path) -> None:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path))
        with pytest.raises(RunError, match=r"no run of .* is finished"):
            results(store)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = whole(tmp_path)
    (folder / "robustness").mkdir()
    (folder / "robustness" / "robustness.json").write_text("{")
    from policypress.studies.report.sections.robustness import robustness

    with pytest.raises(RunError, match=r"robustness\.json cannot be read"):
        robustness(of(folder))
