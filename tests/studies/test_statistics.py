"""What runs of a study say together: matched by task and seed, against the right baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from policypress.studies.statistics import THRESHOLDS, cell_figures, method_figures
from policypress.studies.store import Run, Store
from policypress.studies.study_file import read_study
from studies.toys import GRID, figures, finished, study

RETURNS = {  # by environment, sparsity and seed
    ("A-v0", 0.0, 1): 100.0, ("A-v0", 0.0, 2): 200.0, ("A-v0", 0.9, 1): 80.0, ("A-v0", 0.9, 2): 160.0,
    ("B-v0", 0.0, 1): -10.0, ("B-v0", 0.0, 2): -30.0, ("B-v0", 0.9, 1): -15.0, ("B-v0", 0.9, 2): -25.0,
}  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    described = study(tmp_path)
    with Store(tmp_path / "study", new=True) as store:
        store.take(described)
        finished(
            store,
            {
                cell.identity: RETURNS[cell.settings["env"], cell.settings["sparsity"], cell.seed]
                for cell in described.cells
            },
        )
        return store.runs("done")


def test_cells_are_compared_with_the_baseline_of_their_task(runs: list[Run]) -> None:
    found = {(cell.task["env"], cell.method["sparsity"]): cell for cell in cell_figures(runs, {})}
    assert len(found) == 4
    dense, pressed = found["A-v0", 0.0], found["A-v0", 0.9]
    assert (dense.baseline, pressed.baseline) == (True, False)
    assert (dense.mean.value, pressed.mean.value, pressed.seeds) == (150.0, 120.0, (1, 2))
    assert pressed.kept is not None
    assert pressed.kept.value == pytest.approx(0.8)
    assert pressed.improves is not None
    assert pressed.improves.value == pytest.approx(0.25)  # of four pairs 160 beats 100
    assert dense.improves is None
    other = found["B-v0", 0.9].kept
    assert other is not None
    assert other.value == pytest.approx(1.0)  # -20 of -20
    assert pressed.payload_bytes == 50.0


def test_methods_are_told_over_all_tasks(runs: list[Run]) -> None:
    found = {method.method["sparsity"]: method for method in method_figures(runs, {}, {})}
    pressed = found[0.9]
    assert (pressed.tasks, pressed.runs) == (2, 4)
    # Shares of 150 and of -20: 80 and 160, -15 and -25.
    assert sorted(score for task in pressed.scores for score in task) == pytest.approx(
        [80 / 150, 0.75, 160 / 150, 1.25]
    )
    assert pressed.mean.value == pytest.approx(0.9)
    assert pressed.iqm.value == pytest.approx((0.75 + 160 / 150) / 2)
    assert pressed.kept is not None
    assert pressed.kept.value == pytest.approx(0.9)
    assert [value for value, _, _ in pressed.profile][:: len(THRESHOLDS) - 1] == [1.0, 0.25]
    assert found[0.0].improves is None


def test_scores_between_returns_that_the_file_names(runs: list[Run]) -> None:
    (pressed,) = (m for m in method_figures(runs, {}, {"A-v0": (0.0, 160.0)}) if m.method["sparsity"] == 0.9)
    assert sorted(score for task in pressed.scores for score in task) == pytest.approx([0.5, 0.75, 1.0, 1.25])


def test_runs_without_a_baseline_have_returns_alone(runs: list[Run]) -> None:
    pressed = [run for run in runs if run.cell.settings["sparsity"] == 0.9]
    assert all(cell.kept is None and cell.improves is None for cell in cell_figures(pressed, {}))
    assert method_figures(pressed, {}, {}) == []
    assert len(method_figures(pressed, {}, {"A-v0": (0.0, 1.0), "B-v0": (0.0, 1.0)})) == 1
    assert cell_figures([], {}) == []


def test_seeds_that_the_baseline_lacks_are_not_matched(runs: list[Run]) -> None:
    some = [run for run in runs if (run.cell.settings["sparsity"], run.cell.seed) != (0.0, 2)]
    (pressed,) = (c for c in cell_figures(some, {}) if not c.baseline and c.task["env"] == "A-v0")
    assert pressed.kept is not None
    assert pressed.kept.value == pytest.approx(0.8)
    assert pressed.mean.value == 120.0


def test_the_baseline_that_the_file_names(tmp_path: Path, runs: list[Run]) -> None:
    found = {
        cell.method["sparsity"]: cell for cell in cell_figures(runs, {"sparsity": 0.9}) if cell.task["env"] == "A-v0"
    }
    assert found[0.9].baseline
    assert found[0.0].kept is not None
    assert found[0.0].kept.value == pytest.approx(150 / 120)


def test_students_are_compared_with_their_agent(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"agent")
    (tmp_path / "c.toml").write_text('[[compress]]\nagent = "a.zip"\nenv = "A-v0"\nseed = [1, 2]\n')
    with Store(tmp_path / "study", new=True) as store:
        store.take(read_study(tmp_path / "c.toml"))
        with store.driver(1) as driver:
            for mean in (60.0, 90.0):
                claimed = driver.claim(1, (0,))
                assert claimed is not None
                driver.record(claimed.id, "done", 1.0, figures=figures(mean, agent_returns=[90.0, 110.0]))
        runs = store.runs("done")
    (cell,) = cell_figures(runs, {})
    assert cell.kept is not None
    assert cell.kept.value == pytest.approx(0.75)
    assert cell.improves is not None
    assert cell.improves.value == 0.0
    (method,) = method_figures(runs, {}, {})
    assert method.scores == ((0.6, 0.9),)


def test_other_measurements_are_other_cells(tmp_path: Path) -> None:
    first, second = study(tmp_path), study(tmp_path, GRID + "[evaluate]\nepisodes = 5\n")
    with Store(tmp_path / "study", new=True) as store:
        store.take(first)
        finished(store)
        store.take(second, update=True)
        finished(store)
        assert len(cell_figures(store.runs("done"), {})) == 8
