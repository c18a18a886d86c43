"""Other formats: Markdown that has every table, and the summary as CSV."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from policypress.errors import ConfigError
from policypress.studies.report.write import write_report
from policypress.studies.store import Store
from studies.report.whole import whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("write"))


def written(folder: Path, tmp_path: Path, form: str) -> str:
    with Store(folder) as store:
        write_report(store, tmp_path / "report", form)
    return (tmp_path / "report").read_text()


def test_markdown_has_sections_and_whole_tables(folder: Path, tmp_path: Path) -> None:
    text = written(folder, tmp_path, "md")
    assert text.startswith("# toys & <others>\n")
    assert "\n## Return against sparsity\n" in text
    assert "| dense, float (baseline) | 2 | 100.0 [99.5, 100.5] |" in text
    lines = text.splitlines()
    for head, mark in itertools.pairwise(lines):
        if mark.startswith("|---"):
            assert head.count(" | ") == mark.count("|") - 2
    assert "    DivergedError: the actions of <Hopper> are no numbers" in text


def test_csv_has_a_row_a_cell(folder: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(written(folder, tmp_path, "csv").splitlines()))
    assert len(rows) == 14
    assert (rows[0]["task"], rows[0]["baseline"], rows[0]["kept"]) == ("Hopper-v5", "True", "1.0")
    assert rows[0]["paper_mean"] == ""


def test_other_formats_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format='pdf' is not one of html, md, csv"):
        written(folder, tmp_path, "pdf")
    assert not (tmp_path / "report").exists()
