"""The file of a study: what it becomes, and that nothing in it is overlooked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policypress.errors import ConfigError
from policypress.studies.cells import Cell, Command, common, options_of, shown
from policypress.studies.study_file import read_study
from studies.toys import GRID, study

ROOT = Path(__file__).parents[2]
PRESETS = {
    "quick": (24, {"InvertedPendulum-v5"}),
    "robustness": (30, {"InvertedPendulum-v5", "CartPole-v1"}),
    "sparse-ppo": (385, {"InvertedPendulum-v5"}),
    "sparse-dqn": (170, {"CartPole-v1"}),
    "sparse-sac": (185, {"Pendulum-v1"}),
    "ablation": (140, {"HalfCheetah-v5", "Hopper-v5"}),
    "ivanov2025-mujoco": (
        540, {f"{name}-v4" for name in ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer")}
    ),
    "ivanov2025-atari": (560, {f"{name}NoFrameskip-v4" for name in ("Pong", "Boxing", "CrazyClimber", "Tutankham")}),
}  # fmt: skip


def test_a_grid_is_every_combination_the_first_seed_first(tmp_path: Path) -> None:
    cells = study(tmp_path).cells
    told = [
        (cell.settings["env"], cell.settings["sparsity"], cell.settings["weight_bits"], cell.seed) for cell in cells
    ]
    first = [(env, *method) for env in ("A-v0", "B-v0") for method in ((0.0, 32), (0.9, 8))]
    assert sorted(told) == sorted((*one, seed) for one in first for seed in (1, 2))
    assert [cell.seed for cell in cells] == [1] * 4 + [2] * 4


def test_commands_name_every_setting(tmp_path: Path) -> None:
    cell = study(
        tmp_path,
        """
[[train]]
algo = "ppo"
env = "A-v0"
steps = 100
hidden = "24,24"
wrapper = [["m:One", "m:Two(n=3)"]]
env_kwargs = { easy = true }
set = { learning_rate = 1e-3 }
[evaluate]
episodes = 7
bench = true
film = true
[evaluate.robustness]
kinds = ["noise", "mass"]
episodes = 100
""",
    ).cells[0]
    assert cell.arguments(Path("out")) == [
        "train", "--algo=ppo", "--env=A-v0", "--steps=100", "--hidden=24,24", "--wrapper=m:One", "--wrapper=m:Two(n=3)",
        "--env-kwargs=easy:True", "--set=learning_rate=0.001", "--sparsity=0.0", "--weight-bits=32", "--seed=1",
        "--out=out", "--resume", "--json",
    ]  # fmt: skip
    run, evaluate, disturb, time, film = cell.commands(Path("out"))
    assert run == Command(tuple(cell.arguments(Path("out"))), Path("out/result.json"))
    assert evaluate == Command(
        ("evaluate", "out/policy.policy", "--episodes=7", "--json"), Path("out/evaluation.json"), printed=True
    )
    told = ("--kinds=noise,mass", "--episodes=100", "--out=out/robustness", "--json")
    assert disturb == Command(("evaluate", "out/policy.policy", "--robustness", *told))
    assert time == Command(("bench", "out/policy.policy", "--json"), Path("out/bench.json"), printed=True)
    assert film == Command(("watch", "out/policy.policy", "--out=out/film.jpg", "--json"), Path("out/film.jpg"))


def test_only_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    assert len(study(tmp_path).cells[0].commands(Path("out"))) == 1
    plain = study(tmp_path, GRID + "[evaluate]\nrobustness = {}\nbench = false\nfilm = false").cells[0]
    _, disturb = plain.commands(Path("out"))
    assert disturb.arguments == ("evaluate", "out/policy.policy", "--robustness", "--out=out/robustness", "--json")


def test_pressing_knows_its_agent_by_what_is_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"one agent")
    text = """
[[compress]]
env = "A-v0"
seed = [1, 2]
force = true
[[compress.agents]]
agent = "a.zip"
algo = "sac"
[[compress.methods]]
method = "finetune"
steps = [1000, 2000]
[[compress.methods]]
hidden = "auto"
"""
    before = study(tmp_path, text)
    assert len(before.cells) == 6
    cell = before.cells[0]
    assert {"compress", "--method=finetune", "--env=A-v0", "--force"} <= set(cell.arguments(Path("o")))
    assert str(tmp_path / "a.zip") in cell.arguments(Path("o"))
    assert not any("sha256" in part for part in cell.arguments(Path("o")))
    assert not before.is_baseline(cell)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.zip").write_bytes(b"one agent")
    assert study(tmp_path / "b", text).digest == before.digest
    (tmp_path / "a.zip").write_bytes(b"another agent")
    assert study(tmp_path, text).digest != before.digest


def test_an_identity_is_of_what_decides_the_result(tmp_path: Path) -> None:
    cell = study(tmp_path).cells[0]
    assert (
        cell.identity
        == study(tmp_path, "# a comment\n" + GRID.replace('"A-v0", "B-v0"', '"B-v0", "A-v0"')).cells[2].identity
    )
    assert len(cell.identity) == 16
    others = {
        cell.with_seed(3).identity,
        Cell("train", cell.settings, {"episodes": 5}).identity,
        Cell("train", {**cell.settings, "steps": 101}, {}).identity,
    }
    assert len(others | {cell.identity}) == 4


@given(st.permutations(["algo", "env", "steps", "sparsity", "weight_bits", "seed"]))
def test_an_identity_does_not_depend_on_the_order(names: list[str]) -> None:
    settings: dict[str, Any] = {
        "algo": "dqn", "env": "A", "steps": 5, "sparsity": 0.5, "weight_bits": 8, "seed": 1
    }  # fmt: skip
    assert Cell("train", {name: settings[name] for name in names}, {}).identity == Cell("train", settings, {}).identity


def test_the_same_run_twice_is_one(tmp_path: Path) -> None:
    assert len(study(tmp_path, GRID + GRID.replace('title = "toys"', "").replace("0.9", "[0.9, 0.95]")).cells) == 12


ERRORS = {
    "no TOML": ("[[train", "is no TOML"),
    "nothing": ("", "it describes no run"),
    "top": ("sparsities = [0.9]", "sparsities is no key of a study; known ones are baseline, compress, cores,"),
    "grid": (GRID + "[[train]]\nsparsities = 1", "sparsities is no key of [[train]]; known ones are activation_bits,"),
    "of the other command": (GRID + "keep_worst = 0.9", "keep_worst is no key of [[train.methods]]"),
    "missing": ('[[train]]\nenv = "A"', "[[train]] does not say algo: every run needs algo and env"),
    "single brackets": ('[train]\nenv = "A"', "[[train]] must be a list of tables"),
    "empty axis": (GRID.replace("[1, 2]", "[]"), "seed=[] leaves no run"),
    "empty table": (GRID.split("[[train.methods]]")[0] + "methods = []", "[[train.methods]] is empty"),
    "twice": (GRID.replace("steps = 100", "steps = 100\nsparsity = 0.5"), "sparsity is given twice in one [[train]]"),
    "type": (GRID.replace("100", '"many"'), "steps='many' must be a whole number"),
    "true is no number": (GRID.replace("100", "true"), "steps=True must be a whole number"),
    "per cent": (GRID.replace("0.9", "90"), "for example sparsity=0.9."),
    "bits": (GRID.replace("= 32", "= 16"), "weight_bits=16 must be 2 to 8, or 32"),
    "choice": (GRID.replace("sparsity = 0.9", 'allocation = "even"'), "allocation='even' is not one of erk, uniform"),
    "widths": (GRID.replace("sparsity = 0.9", "hidden = [24, 24]"), 'hidden=24 must be widths in a text, for example'),
    "no widths": (GRID.replace("sparsity = 0.9", 'hidden = "auto"'), "hidden='auto' must be widths in a text"),
    "preset": (GRID.replace("steps = 100", 'preset = "paper"'), "preset='paper' is not one of policypress, ivanov2025"),
    "seed": (GRID.replace("[1, 2]", "-1"), "seed=-1 must not be negative"),
    "table": (GRID.replace("steps = 100", "set = 3"), "set=3 must be a table"),
    "cores": ("cores = 0\n" + GRID, "cores=0 must be a whole number of at least 1"),
    "title": ("title = 3", "title=3 must be a text"),
    "evaluate": (GRID + "[evaluate]\nepisodes = 1", "evaluate.episodes=1 must be a whole number of at least 2"),
    "evaluate key": (GRID + "[evaluate]\nepsiodes = 9", "epsiodes is no key of [evaluate]"),
    "disturbance": (GRID + '[evaluate.robustness]\nkinds = ["rain"]', "'rain' is no disturbance that is known: use"),
    "disturbances": (GRID + '[evaluate.robustness]\nkinds = "noise"', "evaluate.robustness.kinds='noise' must be a"),
    "disturbed": (GRID + "[evaluate.robustness]\nepisodes = 1", "evaluate.robustness.episodes=1 must be a whole"),
    "robustness": (GRID + "[evaluate]\nrobustness = true", "evaluate.robustness must be a table: write"),
    "bench": (GRID + "[evaluate]\nbench = 3", "evaluate.bench=3 must be true or false"),
    "film": (GRID + '[evaluate]\nfilm = "gif"', "evaluate.film='gif' must be true or false"),
    "normalize": (GRID + '[normalize]\n"A-v0" = [1]', 'normalize."A-v0"=[1] must be the returns that are 0 and 1'),
    "baseline": (GRID + "[baseline]\nsparse = 0", "sparse is no key of [baseline]"),
    "no such baseline": (GRID + '[baseline]\nsparsity = 0.123', "no run is what [baseline] says (sparsity 0.123)"),
    "two baselines": (GRID + '[baseline]\nalgo = "dqn"', "two runs of A-v0 would both be what others are compared"),
    "agent": ('[[compress]]\nenv = "A"\nagent = "no.zip"', "no.zip cannot be read (No such file or directory)"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    text, sentence = ERRORS[case]
    with pytest.raises(ConfigError) as error:
        study(tmp_path, text)
    assert sentence in str(error.value)
    assert str(tmp_path / "toys.toml") in str(error.value)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read \(No such file or directory\)"):
        read_study(tmp_path / "none.toml")


def test_every_option_of_a_command_is_a_key_but_where_and_how_it_runs() -> None:
    import typer

    from policypress import cli

    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    running = {"out", "resume", "as_json", "compare", "jobs", "on", "address", "observations"}
    for kind in ("train", "compress"):
        offered = {param.name.rstrip("_") for param in commands[kind].params if param.name != "help"}
        assert set(options_of(kind)) == offered - running  # type: ignore[arg-type]


def test_what_is_common_is_not_told(tmp_path: Path) -> None:
    cells = study(tmp_path).cells
    assert common(cells) == {"algo", "steps"}
    assert shown(cells[0].settings, common(cells)) == "env A-v0, seed 1, weight_bits 32, sparsity 0"


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    found = read_study(ROOT / "studies" / f"{name}.toml")
    runs, tasks = PRESETS[name]
    assert len(found.cells) == runs
    assert {cell.settings["env"] for cell in found.cells} == tasks
    seeds = {cell.seed for cell in found.cells}
    pairs = {(str(cell.task), cell.seed) for cell in found.cells if found.is_baseline(cell)}
    assert len(pairs) == len(seeds) * len({str(cell.task) for cell in found.cells})  # all can be compared


def test_the_page_shows_studies_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "cheetah.zip").touch()
    first, second = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL)
    assert len(study(tmp_path, first).cells) == 2 * 3 * 3
    assert len(study(tmp_path, second).cells) == 3 * 3


def test_every_preset_is_tested() -> None:
    assert {path.stem for path in (ROOT / "studies").glob("*.toml")} == set(PRESETS)
