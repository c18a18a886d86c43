"""A run's folder: whether a run may start or go on there, and the ways of pressing by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from policypress.config import PressConfig, PressMethod, dumps
from policypress.errors import RunError
from policypress.rl.measured import PressFolder
from policypress.rl.methods import METHODS
from policypress.rl.train import TrainingFolder
from rl.toys import PICK, run_config

CONFIG = PressConfig("dqn", PICK, "a" * 64)
SEARCH = replace(CONFIG, keep=0.9, minutes=1.0, student=replace(
    CONFIG.student, compression=replace(CONFIG.student.compression, weight_bits=8)))  # fmt: skip


def begin(folder: Any, config: Any, resume: bool = False) -> Any:
    with folder.opened(config, resume) as finished:
        return finished


def finish(folder: Any) -> None:
    folder.result.write_text(json.dumps({"done": True}))


def test_a_run_is_finished_unfinished_or_another(tmp_path: Path) -> None:
    folder = PressFolder(tmp_path / "run")
    assert begin(folder, CONFIG) is None
    assert folder.config.read_text() == dumps(CONFIG)
    with pytest.raises(RunError, match="holds an unfinished run: add --resume to go on, or choose another --out"):
        begin(folder, CONFIG)
    other = replace(CONFIG, episodes=3)
    with pytest.raises(RunError, match="holds another run: choose another --out or repeat"):
        begin(folder, other, resume=True)
    (folder.out / ".result.json.00ff.tmp").touch()
    (folder.out / ".teacher.json-17").touch()
    assert begin(folder, CONFIG, resume=True) is None
    assert {path.name for path in folder.out.iterdir()} == {".lock", "config.json"}
    folder.checkpoint.mkdir()
    finish(folder)
    for resume in (False, True):
        assert begin(folder, CONFIG, resume) == {"done": True}
        with pytest.raises(RunError, match="another run"):
            begin(folder, other, resume)
    assert not folder.checkpoint.exists()
    folder.config.write_text("{")
    with pytest.raises(RunError, match="cannot be read: choose another --out, or remove the folder"):
        begin(folder, CONFIG)


def test_a_search_goes_on_in_more_time(tmp_path: Path) -> None:
    folder, more = PressFolder(tmp_path), replace(SEARCH, minutes=2.0)
    begin(folder, SEARCH)
    finish(folder)
    assert begin(folder, SEARCH) == {"done": True}
    with pytest.raises(RunError, match="unfinished run: add --resume"):
        begin(folder, more)
    assert begin(folder, more, resume=True) is None
    assert not folder.result.exists()


def test_a_training_begins_with_its_first_checkpoint(tmp_path: Path) -> None:
    folder, config = TrainingFolder(tmp_path), run_config()
    assert begin(folder, config) is None
    assert begin(folder, replace(config, seed=99)) is None
    (folder.checkpoint / "step-000000000002").mkdir(parents=True)
    with pytest.raises(RunError, match="other settings"):
        begin(folder, config)
    with pytest.raises(RunError, match="unfinished run"):
        begin(folder, replace(config, seed=99))


def test_what_nobody_can_go_on_with_is_removed(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    begin(folder, run_config())
    folder.tensorboard.mkdir()
    (folder.checkpoint / "replay").mkdir(parents=True)
    folder.evaluations.touch()
    (tmp_path / "notes.txt").touch()
    folder.remove()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "notes.txt"}


def test_every_method_that_a_config_names_is_there() -> None:
    assert tuple(METHODS) == get_args(PressMethod)
