"""`policypress study`: a real study of two tiny runs from file to table, and how its verbs fail."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from policypress import cli
from policypress.studies.store import Store
from studies.toys import GRID, finished, study

STUDY = """
title = "two"
[[train]]
algo = "ppo"
env = "CartPole-v1"
steps = 128
eval_every = 64
eval_episodes = 1
final_episodes = 2
set = { n_steps = 64, batch_size = 64, n_epochs = 1 }
[[train.methods]]
sparsity = 0.9
[[train.methods]]
sparsity = 0.9
prune_end = 7.0
[evaluate]
episodes = 3
seed = 5000
bench = true
[evaluate.robustness]
kinds = ["noise"]
episodes = 2
"""
"""A run that ends well, and one that refuses its settings."""


def run(*arguments: object, **others: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "policypress", "study", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, **others)  # type: ignore[call-overload, no-any-return]


@pytest.mark.slow
def test_a_study_from_file_to_table(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(STUDY)
    done = run("run", "two.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr
    assert "pruning would end at step 896, after the last step 128" in done.stderr
    folder = tmp_path / "runs" / "two"
    with Store(folder) as store:
        (run_,) = store.runs("done")
        assert len(run_.figures["returns"]) == 3
        assert [int(row["step"]) for row in run_.figures["curve"]] == [64, 128]
        assert run_.figures["numerics"] == "integer"
        assert run_.figures["machine"]["versions"]["policypress"]
        (failed,) = store.runs("failed")
        assert failed.error is not None
        assert "lower prune_end or train longer" in failed.error
        result = json.loads((store.out(run_.id) / "result.json").read_text())
        assert len(result["evaluation"]["returns"]) == 2  # its own, which [evaluate] replaces
        assert json.loads((store.out(run_.id) / "bench.json").read_text())["rows"][0]["latency"] > 0
        disturbed = json.loads((store.out(run_.id) / "robustness" / "robustness.json").read_text())
        assert {point["kind"] for point in disturbed["points"]} == {"undisturbed", "noise"}
        ended = run_.ended
    again = run("run", "two.toml", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["done"] == 1
    assert "1 of 2 runs failed" in again.stderr
    with Store(folder) as store:
        assert store.runs("done")[0].ended == ended
    assert "prune_end" in run("status", folder).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "study", new=True) as store:
        store.take(study(tmp_path))
        finished(store)
    return tmp_path / "study"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["policypress", "study", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_verbs_on_a_finished_study(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", tmp_path / "toys.toml", "--dry-run") == 0
    assert "toys: 8 runs, 4 cells; all: algo dqn, steps 100" in " ".join(capsys.readouterr().out.split())
    assert call(monkeypatch, "run", tmp_path / "toys.toml", "--out", folder) == 0
    assert "8 of 8" in capsys.readouterr().out
    assert call(monkeypatch, "status", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["done"] == 8
    assert call(monkeypatch, "summary", folder) == 0
    shown = capsys.readouterr().out
    assert "baseline" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert call(monkeypatch, "summary", folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["cells"]), len(found["methods"])) == (4, 2)
    assert call(monkeypatch, "report", folder, "--format", "md") == 0
    assert "report.md" in capsys.readouterr().out
    assert "| dense, float (baseline) | 2 |" in (folder / "report.md").read_text()
    assert call(monkeypatch, "add-seeds", folder, 3, 4) == 0
    assert "8 runs added" in capsys.readouterr().out
    assert call(monkeypatch, "export", folder, "--out", tmp_path / "t.csv") == 0
    with (tmp_path / "t.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 16


def test_failures_are_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path, GRID.replace("0.9", "0.95"))
    (tmp_path / "wrong.toml").write_text("[[train]]\nalgos = 1")
    for arguments, sentence in (
        (("run", tmp_path / "toys.toml", "--out", folder), "the study file is not the one that"),
        (("run", tmp_path / "wrong.toml"), "algos is no key of [[train]]"),
        (("status", tmp_path), "holds no study"),
        (("summary", tmp_path), "holds no study"),
        (("export", folder, "--to", "xls"), "to='xls' is not one of csv, parquet"),
        (("report", tmp_path), "holds no study"),
        (("report", folder, "--format", "pdf"), "format='pdf' is not one of html, md, csv"),
        (("report", folder, "--format", "md", "--paper", tmp_path / "none.csv"), "none.csv cannot be read"),
    ):
        assert call(monkeypatch, *arguments) == 2
        captured = capsys.readouterr()
        assert sentence in captured.err
        assert captured.err.startswith("policypress: ")
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize("verb", ["run", "status", "summary", "report", "add-seeds", "export", ""])
def test_help_fits_the_terminal(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert call(monkeypatch, *filter(None, [verb]), "--help") == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())
