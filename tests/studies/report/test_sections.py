"""What each section says of a study that has everything, and that it is missing where there is nothing to say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from policypress.errors import RunError
from policypress.studies.report.document import Chart, Document, Picture, Section, Table, Words
from policypress.studies.report.paper import read_paper
from policypress.studies.report.results import results
from policypress.studies.report.sections import document, films
from policypress.studies.store import Store
from studies.report.whole import FILM, PAPER, WORDS, whole
from studies.toys import figures, finished, study

EVERY = ["summary", "tasks", "sparsity", "curves", "dynamics", "bytes", "time", "ablation", "equal", "layers"]
EVERY += ["films", "robustness", "failed", "made"]


def report(folder: Path, paper: str = "") -> Document:
    (folder.parent / "paper.csv").write_text(paper)
    with Store(folder) as store:
        return document(results(store, read_paper(folder.parent / "paper.csv") if paper else ()))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Document:
    return report(whole(tmp_path_factory.mktemp("whole")), PAPER)


def section(document: Document, name: str) -> Section:
    return next(one for one in document.sections if one.name == name)


def tables(section: Section) -> dict[str, dict[str, list[str]]]:
    """By caption, rows by their first words that tell them apart."""
    parts = [part.table if isinstance(part, Chart) else part for part in section.parts if not isinstance(part, Words)]
    return {part.caption: {" / ".join(row[: part.words]): [*row[part.words :]] for row in part.rows} for part in parts}


def test_every_section_is_there_where_there_is_something_for_it(found: Document) -> None:
    assert [one.name for one in found.sections] == EVERY
    assert found.facts["runs finished"] == "27 of 28"
    assert found.facts["seeds a cell"] == "1 to 2"


def test_films_are_of_those_that_were_drawn_and_not_too_many(
    found: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = section(found, "films").parts
    assert [part.title for part in drawn if isinstance(part, Picture) and part.data == FILM] == [
        f"{env}, {name}"
        for env in ("Hopper-v5", "Walker2d-v5")
        for name in ("dense, 8 bits", "90 % sparse, 8 bits", "98 % sparse, 8 bits", "4-4, 8 bits", "linear, 8 bits")
    ]
    monkeypatch.setattr(films, "MOST", 3)
    few = section(report(whole(tmp_path)), "films")
    assert len(few.parts) == 3
    assert few.text[-1] == "7 more are in the folders of their runs, as `film.jpg`."


def test_a_study_without_more_has_fewer_sections(tmp_path: Path) -> None:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path, '[[train]]\nalgo = "sac"\nenv = "A-v0"\nsteps = 9\n'))
        finished(store)
    assert [one.name for one in report(tmp_path / "study").sections] == ["summary", "curves", "bytes", "made"]


def test_the_summary_stands_beside_the_papers_figures(found: Document) -> None:
    told = tables(section(found, "summary"))
    # 90 % sparse and float keeps 0.9, quantized alone 0.95 of (99.5, 100.5), matched by seed
    assert told["Hopper-v5"]["dense, float (baseline)"][:3] == ["2", "100.0 [99.5, 100.5]", ""]
    pressed = told["Hopper-v5"]["90 % sparse, 8 bits"]
    assert pressed[2] == "85.0%"
    assert pressed[-2:] == ["99.0 ± 6.0", "90.0%"]
    assert told["Walker2d-v5"]["90 % sparse, 8 bits"][-2:] == ["", ""]
    (caption,) = (caption for caption in told if caption.startswith("The smallest"))
    assert told[caption]["Hopper-v5 / dense, 8 bits"][:1] == ["95.0%"]


def test_rows_for_programs_have_the_same_figures(found: Document) -> None:
    (row,) = (one for one in found.rows if (one["env"], one["method"]) == ("Hopper-v5", "90 % sparse, 8 bits"))
    assert row["mean"] == pytest.approx(85.0)
    assert row["kept"] == pytest.approx(0.85)
    assert (row["paper_mean"], row["seeds"], row["payload_bytes"]) == (99.0, "1 2", 20.0)
    assert all(list(one) == list(found.rows[0]) for one in found.rows)


def test_charts_draw_what_their_tables_say(found: Document) -> None:
    """Every series of a chart's data has its look, every figure is a number, and the table has as many."""
    for chart in found.charts:
        rows = chart.spec["data"]["values"]
        assert rows
        if chart.series:
            assert {row["series"] for row in rows} == {one.name for one in chart.series}, chart.title
        assert all(isinstance(row["x"], float | int) and row["x"] == row["x"] for row in rows)
        assert chart.table.rows
        assert chart.alt.endswith(".")


def test_the_paper_is_dashed_in_the_chart_of_its_task_alone(found: Document) -> None:
    hopper, walker = (part for part in section(found, "sparsity").parts if isinstance(part, Chart))
    assert [one.name for one in hopper.series if one.dashed] == ["the paper"]
    assert not any(one.dashed for one in walker.series)
    points = [row for row in hopper.spec["data"]["values"] if row["series"] == "the paper"]
    assert [(row["sparsity"], row["y"], row["low"]) for row in points] == [(0.0, 110.0, 105.0), (0.9, 99.0, 93.0)]
    assert {one.name for one in hopper.series} == {"float", "8 bits", "the paper"}  # one sparsity is no curve


def test_learning_curves_are_means_over_seeds_with_the_schedule(found: Document) -> None:
    part = section(found, "curves").parts[0]
    assert isinstance(part, Chart)
    last = [row for row in part.spec["data"]["values"] if row["series"] == "dense, float"][-1]
    assert (last["x"], last["y"], last["low"], last["high"]) == (1000, 100.0, 99.5, 100.5)
    assert "Pruning goes from step 200 to 800." in part.alt
    assert "Quantization starts at step 850." in part.alt
    drops = tables(section(found, "curves"))[
        "The start of quantization: evaluations before and after it, means over seeds"
    ]
    assert drops["Hopper-v5 / dense, 8 bits"] == ["95.0", "76.0", "80.0% [79.9%, 80.1%]", "76.0"]
    assert "Hopper-v5 / dense, float" not in drops


def test_how_soon_nine_tenths_of_the_baseline_are_learned(found: Document) -> None:
    learned = tables(section(found, "curves"))["Steps until 90% of what the baseline returns in the end"]
    assert learned["Hopper-v5 / dense, float"] == ["2 of 2", "500"]
    assert learned["Hopper-v5 / 4-4, 8 bits"] == ["0 of 2", ""]


def test_networks_are_followed_while_they_learn(found: Document) -> None:
    charts = [part for part in section(found, "dynamics").parts if isinstance(part, Chart)]
    hopper = [one.title for one in charts if one.title.startswith("Hopper-v5")]
    assert hopper == ["Hopper-v5: dormant units", "Hopper-v5: effective rank"]  # no entropy was measured
    rows = charts[0].spec["data"]["values"]
    assert [row["y"] for row in rows if row["series"] == "90 % sparse, 8 bits"] == [0.1125, 0.225, 0.3375, 0.45]
    assert "Pruning goes from step 200 to 800." in charts[0].alt


def test_runs_have_their_command_and_folder(found: Document) -> None:
    part = section(found, "bytes").parts[0]
    assert isinstance(part, Chart)
    row = part.spec["data"]["values"][0]
    assert row["command"].startswith("policypress train --algo=sac --env=Hopper-v5 --steps=1000 ")
    assert f"--out={row['folder']} " in row["command"]
    assert len([one for one in part.spec["data"]["values"] if "command" in one]) == 14
    (time, *_) = (part for part in section(found, "time").parts if isinstance(part, Chart))
    assert {one["x"] for one in time.spec["data"]["values"]} == {2.0}  # µs
    assert "a processor" in section(found, "time").text[0]


def test_what_costs_what(found: Document) -> None:
    told = tables(section(found, "ablation"))
    assert told["Hopper-v5: return kept"]["pruned alone / 90 % sparse, float"] == ["90.0%"]
    assert told["Do the losses add up?"]["Hopper-v5 / 90 % sparse, 8 bits"] == ["85.0%", "90.0%", "95.0%", "85.0%"]
    assert "Hopper-v5 / 98 % sparse, 8 bits" not in told["Do the losses add up?"]  # nothing is pruned as far alone
    pairs = tables(section(found, "equal"))["Pairs whose payloads differ by a factor of 1.5 at most"]
    control = pairs["Hopper-v5 / 90 % sparse, 8 bits / 4-4, 8 bits"]
    assert control[:2] == ["20", "20"]
    assert control[-1] == "0.00"
    assert "Hopper-v5 / 90 % sparse, 8 bits / linear, 8 bits" in pairs


def test_where_the_zeros_are(found: Document) -> None:
    told = tables(section(found, "layers"))["Hopper-v5: share of weights that are zero"]
    assert told["98 % sparse, 8 bits"] == ["49.0%", "98.0%", "24.5%"]
    assert "dense, 8 bits" not in told


def test_robustness_is_told_over_seeds(found: Document) -> None:
    told = tables(section(found, "robustness"))["Hopper-v5, noise: return kept by standard deviations"]
    assert told["0.05"][0] == "95.0% [90.0%, 100.0%]"  # 0.9 and 1.0
    assert told["0.4"][0] == "25.0%"
    halves = tables(section(found, "robustness"))["The level at which half of the return is kept"]
    assert halves["Hopper-v5 / dense, float / noise"] == ["0.2; beyond all", "standard deviations"]


def test_robustness_of_policies_side_by_side(tmp_path: Path) -> None:
    folder = whole(tmp_path)
    sources = [json.loads(one.read_text()) for one in folder.glob("runs/*/robustness/robustness.json")]
    hopper = next(one for one in sources if one["env"] == {"env": "Hopper-v5"} and one["points"][1]["kept"] == 0.9)
    told = {**hopper, "halves": {"policy": {"noise": 0.2, "flash": None}}}
    told["kinds"]["flash"] = {"level": "bits", "source": ""}
    for one in folder.glob("runs/*/robustness"):
        shutil.rmtree(one)
    (folder / "robustness" / "hopper").mkdir(parents=True)
    (folder / "robustness" / "hopper" / "robustness.json").write_text(json.dumps(told))
    found = tables(section(report(folder), "robustness"))
    assert found["Hopper-v5, noise: return kept by standard deviations"]["0.4"] == ["25.0% [15.0%, 25.0%]"]
    halves = found["The level at which half of the return is kept"]
    assert halves["Hopper-v5 / policy / noise"] == ["0.2", "standard deviations"]
    assert halves["Hopper-v5 / policy / flash"] == ["beyond all", "bits"]
    shutil.copytree(folder / "robustness" / "hopper", folder / "robustness" / "again")
    with pytest.raises(RunError, match=r"robustness/ has noise of policy in Hopper-v5 twice"):
        report(folder)


def test_what_failed_says_its_last_words(found: Document) -> None:
    table, words = section(found, "failed").parts
    assert isinstance(table, Table)
    assert isinstance(words, Words)
    (row,) = table.rows
    assert row[2] == "DivergedError: the actions of <Hopper> are no numbers"
    assert words.text == WORDS


def test_runs_that_failed_alike_speak_once(tmp_path: Path) -> None:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path, '[[train]]\nalgo = "sac"\nenv = "A-v0"\nsteps = 9\nseed = [1, 2, 3]\n'))
        with store.driver(1) as driver:
            for _ in range(2):
                claimed = driver.claim(1, (0,))
                assert claimed is not None
                driver.record(claimed.id, "failed", 1.0, WORDS)
        finished(store)
    table, words = section(report(tmp_path / "study"), "failed").parts
    assert isinstance(table, Table)
    assert isinstance(words, Words)
    assert len(table.rows) == 2
    assert words.title.endswith(" said, and 1 more alike")


def test_more_curves_than_fit_are_parted(tmp_path: Path) -> None:
    sparsities = ", ".join(f"0.{share}" for share in range(1, 9))
    with Store(tmp_path / "study", new=True) as store:
        grid = '[[train]]\nalgo = "sac"\nenv = "A-v0"\nsteps = 9\nsparsity = [SOME]\nweight_bits = [8, 4]\n'
        store.take(study(tmp_path, grid.replace("SOME", sparsities)))
        finished(store)
    charts = [part for part in section(report(tmp_path / "study"), "curves").parts if isinstance(part, Chart)]
    assert [chart.title for chart in charts] == ["A-v0: 8 bits", "A-v0: 4 bits"]


def test_students_are_compared_with_their_agent(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"agent")
    methods = (
        '[[compress.methods]]\nhidden = ["4,4", "none"]\n[[compress.methods]]\nhidden = "4,4"\nrate_weight = 0.01\n'
    )
    grid = (
        f'[[compress]]\nagent = "a.zip"\nenv = "A-v0"\nseed = [1, 2]\n[[compress.methods]]\nsparsity = 0.9\n{methods}'
    )
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path, grid))
        with store.driver(1) as driver:
            while (claimed := driver.claim(1, (0,))) is not None:
                driver.record(claimed.id, "done", 1.0, figures=figures(57.0, agent_returns=[50.0, 70.0]))
    found = report(tmp_path / "study")
    told = tables(section(found, "summary"))["A-v0"]
    assert list(told) == ["90 % sparse", "4-4", "linear", "4-4, rate_weight 0.01"]
    assert told["4-4"][2] == "95.0%"
    kinds = tables(section(found, "equal"))["A-v0: return and bytes"]
    assert "4-4, rate_weight 0.01 / narrow, sparse" in kinds
    assert "4-4 / narrow, dense" in kinds


def test_many_runs_have_a_symbol_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policypress.studies.report.sections.sizes.MOST_SYMBOLS", 5)
    part = section(report(whole(tmp_path)), "bytes").parts[0]
    assert isinstance(part, Chart)
    assert len(part.spec["data"]["values"]) == 7
