"""The command line: what it prints, how it fails, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from rich.progress import Progress

import policypress as pp
from policypress import cli
from policypress.algorithms import ALGORITHMS, TRAINED
from policypress.cli import live
from policypress.config import CompressionConfig, PressConfig, TrainConfig
from policypress.files import locked
from policypress.policy.payload import encode_payload
from policypress.rl import adapters, checkpoint
from policypress.rl.lines import Candidate, Line, Shape
from policypress.rl.search import Standing
from rl.toys import FILES, FOLLOW, LOOK, PICK, Lit, agent, chooser, dqn, learn, sac, save_picker

VERBS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Run = Callable[..., Answer]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["policypress", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        assert code is None or isinstance(code, int)
        return Answer(code or 0, out, err)

    return call


def policypress(*arguments: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "policypress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pressed policy for FOLLOW."""
    model = sac(FOLLOW)
    learn(model, steps=60)
    path = tmp_path_factory.mktemp("policies") / "a.policy"
    pp.freeze(model, provenance={"env": FOLLOW}).save(path)
    return path


SMALL = (
    "--algo", "dqn", "--env", PICK, "--steps", "60", "--sparsity", "0.8", "--hidden", "12,12", "--eval-every", "30",
    "--eval-episodes", "2", "--final-episodes", "3", "--set", "learning_starts=10", "--set", "batch_size=8",
)  # fmt: skip


# Help


@pytest.mark.parametrize("arguments", [(), *((verb,) for verb in VERBS)], ids=" ".join)
def test_help_fits_a_terminal(arguments: tuple[str, ...], run: Run) -> None:
    answer = run(*arguments, "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert max(len(line) for line in answer.out.splitlines()) <= 80
    assert "…" not in answer.out
    assert "Usage:" in answer.out
    if not arguments:
        assert all(verb in answer.out for verb in VERBS)


def test_every_option_is_explained() -> None:
    for verb in VERBS:
        command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
        assert command.help, verb
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.param_type_name == "argument", (verb, parameter.name)


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"policypress {pp.__version__}\n", "")


def test_help_needs_no_library_of_training() -> None:
    code = "import sys; from policypress.cli import main; sys.argv[1:] = ['train', '--help']\ntry: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'gymnasium' not in sys.modules"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ", ".join(TRAINED[:3]) in done.stdout


def test_one_list_of_algorithms() -> None:
    assert sorted(ALGORITHMS) == sorted(adapters.NAMES)
    assert set(TRAINED) == {name for name, adapter in adapters.ADAPTERS.items() if adapter.while_learning}
    given = {verb: command.params for verb, command in typer.main.get_command(cli.app).commands.items()}  # type: ignore[attr-defined]
    for verb, names in (("train", TRAINED), ("compress", ALGORITHMS)):
        (algo,) = [parameter for parameter in given[verb] if parameter.name == "algo"]
        assert ", ".join(names) in algo.help


def test_as_a_module() -> None:
    module = policypress("--help", env={"COLUMNS": "80", "PATH": ""})
    assert module.returncode == 0, module.stderr
    assert "train" in module.stdout


def test_as_a_script() -> None:
    script = Path(sys.executable).with_name("policypress")
    if not script.exists():
        pytest.skip("the package is on the path but not installed, so it has no script")
    done = subprocess.run([script, "info", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_a_verb_it_shows_help(run: Run) -> None:
    answer = run()
    assert answer.code in (0, 2)
    assert "Usage:" in answer.out + answer.err
    assert "Traceback" not in answer.err


# Failures


def assert_one_sentence(answer: Answer, sentence: str) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("policypress: ")
    assert lines[0].endswith((".", "?"))
    assert sentence in lines[0]


TRAIN_ERRORS: dict[str, tuple[tuple[str, ...], str]] = {
    "sparsity": (("--sparsity", "1.5"), "sparsity=1.5 must be at least 0 and below 1, for example sparsity=0.95"),
    "negative sparsity": (("--sparsity", "-0.1"), "sparsity=-0.1 must be at least 0 and below 1"),
    "per cent": (("--sparsity", "98"), "sparsity=98.0 must be at least 0 and below 1, for example sparsity=0.98."),
    "not a number": (("--sparsity", "nan"), "sparsity=nan must be a finite number."),
    "set to no number": (("--set", "learning_rate=NaN"), "'learning_rate': nan} must be finite numbers"),
    "emptied layer": (("--sparsity", "0.999"), "would leave no weight in layer"),
    "env": (("--env", "Pendulm-v1"), "there is no environment 'Pendulm-v1'; did you mean Pendulum-v1?"),
    "algo": (("--algo", "her"), "algo='her' is not one of sac, ddpg, td3"),
    "algo and actions": (("--algo", "sac"), "SAC needs Box actions, not Discrete(3)"),
    "preset": (("--preset", "paper"), "preset='paper' is not one of"),
    "preset and env": (("--preset", "ivanov2025"), "preset ivanov2025 is for SAC on continuous control"),
    "hidden": (("--hidden", "24;24"), "hidden='24;24' must be widths with commas between, for example 24,24."),
    "hidden 0": (("--hidden", "24,0"), "hidden=(24, 0) must be widths of at least 1"),
    "set": (("--set", "lerning_rate=1"), "DQN takes no setting lerning_rate; it takes learning_rate"),
    "set without value": (("--set", "gamma"), "--set gamma has no value: write it as NAME=VALUE"),
    "set to text": (("--set", "gamma=much"), "gamma='much' is not a number"),
    "prune window": (("--prune-end", "1.2"), "pruning would end at step 72, after the last step 60"),
    "prune order": (("--prune-start", "0.9"), "prune_start=0.9 and prune_end=0.8 must satisfy"),
    "quantize window": (("--quantize-start", "1.0"), "quantization would start at step 60, not before"),
    "learning starts": (("--set", "learning_starts=60"), "before learning starts at step 60"),
    "weight bits": (("--weight-bits", "9"), "weight_bits=9 must be 2 to 8, or 32 for no quantization."),
    "activation bits": (("--activation-bits", "1"), "activation_bits=1 must be 2 to 8, or 0"),
    "input bits": (("--input-bits", "17"), "input_bits=17 must be 2 to 16."),
    "allocation": (("--allocation", "erdos"), "allocation='erdos' is not one of erk, uniform"),
    "schedule": (("--schedule", "quartic"), "schedule='quartic' is not one of cubic, linear"),
    "granularity": (("--granularity", "row"), "granularity='row' is not one of auto, tensor, channel"),
    "network": (("--network", "nature"), "network=nature does not fit toys/Pick-v0's observations"),
    "network name": (("--network", "vit"), "network='vit' is not one of mlp, nature, resnet."),
    "image network": (("--env", LOOK, "--network", "mlp"), "use --network nature or --network resnet."),
    "n_envs": (("--n-envs", "0"), "n_envs=0 must be at least 1."),
    "episodes": (("--final-episodes", "1"), "final_episodes >= 2"),
    "steps": (("--steps", "-5"), "steps=-5 must be at least 1."),
    "steps 0": (("--steps", "0"), "steps"),
    "seed": (("--seed", "-1"), "DQN refuses these settings: Seed must be between 0 and"),
    "compare": (("--compare", "sparse"), "compare='sparse' is not known: use --compare dense."),
    "device": (("--device", "toaster"), "toaster"),
    "compared run": (
        ("--env", "CartPole-v1", "--compare", "dense", "--sparsity", "0.999"), "would leave no weight in layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAIN_ERRORS)
def test_train_fails_with_one_sentence_and_writes_nothing(case: str, run: Run, tmp_path: Path) -> None:
    arguments, sentence = TRAIN_ERRORS[case]
    assert_one_sentence(run("train", *SMALL, "--out", tmp_path / "made" / "run", *arguments), sentence)
    assert list(tmp_path.iterdir()) == []


def test_train_without_steps(run: Run, tmp_path: Path) -> None:
    answer = run("train", "--algo", "sac", "--env", FOLLOW, "--out", tmp_path / "run")
    assert_one_sentence(answer, "say how long to train, for example steps=150000.")
    assert list(tmp_path.iterdir()) == []


def test_train_where_a_file_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert_one_sentence(run("train", *SMALL, "--out", tmp_path / "run"), "choose another --out.")
    assert (tmp_path / "run").read_text() == "mine"


def test_train_in_a_folder_in_use(run: Run, tmp_path: Path) -> None:
    with locked(tmp_path):
        assert_one_sentence(run("train", *SMALL, "--out", tmp_path), "another process is training in")


@pytest.mark.parametrize("verb", ["info", "evaluate"])
def test_policy_files_that_are_none(verb: str, run: Run, tmp_path: Path, policy_file: Path) -> None:
    data = policy_file.read_bytes()
    contents = {
        "empty": (b"", "it is not a policy file."),
        "text": (b"a policy", "it is not a policy file."),
        "agent": (b"PK\x03\x04 and so on", "it is a zip and not a policy file; policypress compress presses"),
        "short": (data[:-1], "it is truncated."),
        "altered": (data[:100] + bytes([data[100] ^ 1]) + data[101:], "it is altered"),
        "newer": (data[:8] + b"\x63\x00" + data[10:], "it has format version 99, but this policypress reads version"),
    }
    for name, (content, sentence) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert_one_sentence(run(verb, tmp_path / name), sentence)
    assert_one_sentence(run(verb, tmp_path / "missing.policy"), "missing.policy: No such file or directory.")
    assert_one_sentence(run(verb, tmp_path), "Is a directory.")
    (tmp_path / "policy.policy").write_bytes(data)
    assert_one_sentence(run(verb, tmp_path), f"Is a directory: give the file in it, {tmp_path / 'policy.policy'}.")


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ("CartPole-v1", "CartPole-v1 gives observations of shape (4,), but the policy expects (3,)"),
        ("Pendulum-v1", "which this policy does not give."),
        ("Pendulm-v1", "did you mean Pendulum-v1?"),
    ],
)
def test_evaluate_in_a_wrong_environment(env: str, sentence: str, run: Run, policy_file: Path) -> None:
    assert_one_sentence(run("evaluate", policy_file, "--env", env), sentence)


def test_evaluate_without_an_environment(run: Run, tmp_path: Path) -> None:
    pp.freeze(sac(FOLLOW), provenance={"env": None}).save(tmp_path / "a.policy")
    assert_one_sentence(run("evaluate", tmp_path / "a.policy"), "name an environment")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",), ("train", "--sparsity", "much"), ("prune",), ("info",), ("info", "--colour"),
        ("evaluate", "a.policy", "--episodes", "1"), ("evaluate", "a.policy", "--seed", "x"),
    ],
)  # fmt: skip
def test_misuse_shows_usage(arguments: tuple[str, ...], run: Run) -> None:
    answer = run(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert "Usage:" in answer.err
    assert "Traceback" not in answer.err


def test_failure_of_a_process_of_its_own(tmp_path: Path) -> None:
    done = policypress("train", "--algo", "dqn", "--env", "CartPol-v1", "--steps", 100, "--out", tmp_path / "run")
    assert_one_sentence(Answer(done.returncode, done.stdout, done.stderr), "did you mean CartPole-v1?")
    assert list(tmp_path.iterdir()) == []


# Answers


def test_info_shows_contract_and_layers(run: Run, policy_file: Path) -> None:
    answer = run("info", policy_file)
    assert answer.code == 0
    assert answer.err == ""
    assert max(len(line) for line in answer.out.splitlines()) <= 80
    report = pp.size(pp.load(policy_file))
    for shown in (
        "integer",
        "float32",
        "(3,)",
        "hidden 1 (16)",
        "output (2)",
        f"{report.nonzeros:,}",
        f"{report.payload_bytes:,}",
        f"file on disk {policy_file.stat().st_size:,} B",
        "constants in flash",
    ):
        assert shown in answer.out


def test_info_shows_the_card_of_before(run: Run) -> None:
    """Without worst tenth and early ends, with an interquartile mean."""
    answer = run("info", Path(__file__).parents[1] / "results" / "HalfCheetah-v5" / "cheetah-98" / "policy.policy")
    assert answer.code == 0
    assert "5855.4 [" in answer.out
    assert "worst tenth" not in answer.out


def test_pack_writes_the_payload(run: Run, policy_file: Path, tmp_path: Path) -> None:
    policy = pp.load(policy_file)
    answer = run("pack", policy_file, tmp_path / "a.bin", "--payload-only")
    assert (answer.code, answer.err) == (0, "")
    payload = (tmp_path / "a.bin").read_bytes()
    assert payload == encode_payload(policy)
    assert f"{len(payload):,} bytes" in answer.out
    assert_one_sentence(run("info", tmp_path / "a.bin"), "is a bare payload, without the contract")

    answer = run("pack", policy_file, tmp_path / "a.policy")
    assert answer.code == 0
    size = (tmp_path / "a.policy").stat().st_size
    assert f"{size:,} bytes, of which {len(payload):,} are the payload" in answer.out
    assert size < len(payload) + 60
    assert f"file on disk {size:,} B" in run("info", tmp_path / "a.policy").out
    packed = pp.load(tmp_path / "a.policy")
    assert policy.test_vectors is not None
    assert packed.test_vectors is None
    seen = policy.test_vectors.observations
    np.testing.assert_array_equal(packed.outputs(seen), policy.test_vectors.outputs)
    assert (tmp_path / "a.policy").stat().st_size < policy_file.stat().st_size


def test_pack_leaves_nothing_behind_when_it_fails(run: Run, policy_file: Path, tmp_path: Path) -> None:
    assert_one_sentence(run("pack", policy_file, tmp_path / "nowhere" / "a.bin"), "Cannot write")
    assert_one_sentence(run("pack", tmp_path / "no.policy", tmp_path / "a.bin"), "Cannot read")
    assert list(tmp_path.iterdir()) == []


def test_info_as_json(run: Run, policy_file: Path) -> None:
    answer = run("info", policy_file, "--json")
    assert (answer.code, answer.err) == (0, "")
    values = answer.json
    assert values["numerics"] == "integer"
    assert values["provenance"]["env"] == FOLLOW
    assert values["size"]["payload_bytes"] == pp.size(pp.load(policy_file)).payload_bytes
    assert [layer["name"] for layer in values["size"]["layers"]] == ["latent_pi.0", "latent_pi.2", "mu"]
    assert "(3,)" in values["contract"]["takes"]


@pytest.mark.filterwarnings("ignore:a layer has no weight left")
def test_info_of_a_constant_policy_is_json(run: Run, tmp_path: Path) -> None:
    model = dqn(PICK)
    for parameter in model.q_net.parameters():
        parameter.data.zero_()
    pp.freeze(model).save(tmp_path / "a.policy")
    assert run("info", tmp_path / "a.policy", "--json").json["size"]["nonzeros"] == 0


def test_evaluate_shows_every_return(run: Run, policy_file: Path) -> None:
    answer = run("evaluate", policy_file, "--episodes", 4, "--seed", 3)
    assert answer.code == 0
    assert max(len(line) for line in answer.out.splitlines()) <= 80
    from policypress.rl import evaluate

    result = evaluate(pp.load(policy_file), episodes=4, seed=3)
    for value in (result.mean, *result.interval, result.worst_tenth, *result.returns):
        assert f"{value:.1f}" in answer.out
    assert "ends early   0.0%" in answer.out
    assert FOLLOW in answer.out


def test_evaluate_as_json(run: Run, policy_file: Path) -> None:
    first, again, other = (run("evaluate", policy_file, "--episodes", 3, "--seed", s, "--json") for s in (3, 3, 4))
    assert first.json == again.json
    assert first.json["returns"][1:] == other.json["returns"][:2]
    assert first.json["episodes"] == 3
    assert first.json["low"] <= first.json["mean"] <= first.json["high"]


def test_evaluate_under_disturbances(run: Run, policy_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.policy"
    other.write_bytes(policy_file.read_bytes())
    asked = ("evaluate", policy_file, other, "--robustness", "--kinds", "noise,flash", "--episodes", 2)
    answer = run(*asked, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert max(len(line) for line in answer.out.splitlines() if str(tmp_path) not in line) <= 80
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        f"robustness.{end}" for end in ("json", "csv", "png")
    }
    for shown in ("undisturbed, mean", "noise", "0.05", "flash", "256", FOLLOW):
        assert shown in answer.out
    again = run(*asked, "--out", tmp_path / "out", "--json").json
    assert again == json.loads((tmp_path / "out" / "robustness.json").read_text())
    alone = run("evaluate", policy_file, "--robustness", "--kinds", "dropped", "--episodes", 2)
    assert max(len(line) for line in alone.out.splitlines()) <= 80
    assert "worst tenth" in alone.out
    assert_one_sentence(run(*asked[:2], "--robustness", "--kinds", "wind"), "'wind' is no disturbance that is known")
    assert_one_sentence(run(*asked[:2], "--robustness", "--kinds", "push"), "push needs an environment of MuJoCo")
    assert_one_sentence(run(*asked[:3]), "several policies are compared under disturbances: add --robustness")
    assert_one_sentence(run(*asked[:2], "--kinds", "noise"), "kinds and out are of disturbances: add --robustness")
    assert_one_sentence(run("evaluate", policy_file, policy_file, "--robustness"), "or given twice")


def test_names_of_files() -> None:
    names = cli.files.names_of
    assert names([Path("a/51.policy"), Path("b/c/policy.policy")]) == ["51", "c"]
    assert names([Path("a/x/policy.policy"), Path("b/x/policy.policy")]) == ["a/x", "b/x"]
    assert names([Path("policy.policy")]) == ["policy"]


def test_train_as_json_and_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *_: None)
    answer = run("train", *SMALL, "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    (result,) = answer.json.values()
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["config"]["compression"]["sparsity"] == 0.8
    assert result["config"]["compression"]["weight_bits"] == 8
    assert result["config"]["hidden"] == [12, 12]
    assert result["config"]["algo_kwargs"] == {"learning_starts": 10, "batch_size": 8}
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"curve.png"}

    answer = run("train", *SMALL, "--out", tmp_path / "run")  # finished: only shown
    assert answer.code == 0
    assert max(len(line) for line in answer.out.splitlines() if str(tmp_path) not in line) <= 80
    for shown in (f"{result['size']['nonzeros']:,}", f"{result['size']['payload_bytes']:,} B", "policy.policy"):
        assert shown in answer.out
    answer = run("train", *SMALL, "--out", tmp_path / "run", "--seed", 2)
    assert_one_sentence(answer, "holds a run with other settings")

    answer = run("evaluate", tmp_path / "run" / "policy.policy", "--episodes", 3, "--json")
    assert answer.json["returns"] == result["evaluation"]["returns"]
    assert np.isfinite(answer.json["mean"])


def test_every_option_reaches_the_settings(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def capture(runs: dict[str, Any], *, resume: bool, progress: object) -> None:
        seen.update({**runs, "resume": resume})
        raise pp.RunError("enough.")

    monkeypatch.setattr("policypress.rl.side_by_side.train_all", capture)
    answer = run(
        "train", "--algo", "dqn", "--env", LOOK, "--out", tmp_path, "--steps", 500, "--sparsity", 0.7,
        "--weight-bits", 5, "--activation-bits", 0, "--input-bits", 9, "--hidden", 33, "--network", "resnet",
        "--allocation", "uniform", "--schedule", "linear", "--granularity", "channel", "--prune-start", 0,
        "--criterion", "random", "--prune-end", 0.7,
        "--quantize-start", 0.75, "--n-envs", 2, "--eval-every", 50, "--eval-episodes", 3,
        "--final-episodes", 4, "--set", "learning_rate=1e-3", "--set", "tau=1", "--device", "cuda", "--seed", 0,
        "--resume", "--compare", "dense",
    )  # fmt: skip
    assert_one_sentence(answer, "enough.")
    config, out = seen["pressed"]
    assert (out, seen["resume"]) == (tmp_path, True)
    assert config == TrainConfig(
        "dqn", LOOK, 500, seed=0, network="resnet", hidden=(33,), n_envs=2, eval_every=50, eval_episodes=3,
        final_episodes=4, device="cuda", algo_kwargs={"learning_rate": 1e-3, "tau": 1},
        compression=CompressionConfig(
            sparsity=0.7, weight_bits=5, activation_bits=0, input_bits=9, allocation="uniform", schedule="linear",
            granularity="channel", criterion="random", prune_start=0.0, prune_end=0.7, quantize_start=0.75,
        ),
    )  # fmt: skip
    dense, out = seen["dense"]
    assert out == tmp_path / "dense"
    assert (dense.compression, dense.hidden) == (CompressionConfig(), ())


def test_interrupt_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("policypress.rl.side_by_side.train_all", interrupted)
    answer = run("train", *SMALL, "--out", tmp_path / "run")
    assert answer.code == 130
    assert "go on with --resume" in answer.err


@pytest.mark.slow
def test_interrupt_of_a_process_leaves_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "policypress", "train", "--algo", "dqn", "--env", "CartPole-v1"]
    command += ["--steps", "40000", "--out", str(out), "--final-episodes", "3", "--eval-episodes", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and checkpoint.newest_checkpoint(out / "checkpoint") is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert checkpoint.newest_checkpoint(out / "checkpoint") is not None


@pytest.mark.slow
def test_compare_trains_the_dense_baseline_beside_it(tmp_path: Path) -> None:
    arguments = [*SMALL, "--env", "CartPole-v1", "--steps", "200", "--compare", "dense", "--out", tmp_path / "run"]
    done = policypress("train", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert list(results) == ["dense", "pressed"]
    assert results["dense"]["size"]["sparsity"] == 0.0
    assert results["dense"]["numerics"] == "float"
    assert results["pressed"]["numerics"] == "integer"
    assert results["pressed"]["size"]["sparsity"] > 0.78
    assert results["pressed"]["size"]["baseline_bytes"] == results["dense"]["size"]["baseline_bytes"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"curve.png", "dense"}
    assert {path.name for path in (tmp_path / "run" / "dense").iterdir()} == FILES
    shown = policypress("train", *arguments, env={"COLUMNS": "80", "PATH": ""})
    assert shown.returncode == 0, shown.stderr
    assert "dense" in shown.stdout
    assert "pressed" in shown.stdout


# compress


@pytest.fixture(scope="module")
def picker_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that solves PICK."""
    return save_picker(tmp_path_factory.mktemp("agents") / "agent.zip")


def pressed(agent: Path, out: Path, *arguments: object) -> tuple[object, ...]:
    return ("compress", agent, "--algo", "DQN", "--env", PICK, "--out", out, "--episodes", 4, *arguments)


QUICK = ("--hidden", "12,12", "--batches", 100, "--states", 400, "--rate-weight", 0.001)


def test_compress_shows_teacher_and_student(run: Run, picker_file: Path, tmp_path: Path) -> None:
    answer = run(*pressed(picker_file, tmp_path, *QUICK))
    assert answer.code == 0, answer.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert max(len(line) for line in answer.out.splitlines() if str(tmp_path) not in line) <= 80
    for shown in ("agent", "student, integer", "1,548 B", f"{result['size']['payload_bytes']:,} B", "10.0"):
        assert shown in answer.out
    for shown in (
        "worst tenth",
        "ends early",
        f"{(tmp_path / 'policy.policy').stat().st_size:,} B",
        "flash",
    ):
        assert shown in answer.out
    assert str(tmp_path / "policy.policy") in answer.out
    assert run(*pressed(picker_file, tmp_path, *QUICK, "--json")).json == result
    assert_one_sentence(run(*pressed(picker_file, tmp_path, *QUICK, "--seed", 2)), "holds another run: choose another")


def test_a_linear_student_runs_saves_and_exports(run: Run, picker_file: Path, tmp_path: Path) -> None:
    quick = ("--hidden", "none", "--batches", 100, "--states", 400)
    answer = run(*pressed(picker_file, tmp_path / "run", *quick))
    assert answer.code == 0, answer.err
    policy = tmp_path / "run" / "policy.policy"
    assert "output (3)" in run("info", policy).out
    assert json.loads((tmp_path / "run/config.json").read_text())["student"]["hidden"] == "none"
    for form in ("c", "onnx"):
        done = run("export", policy, "--to", form, "--out", tmp_path / form)
        assert done.code == 0, done.err
    packed = run("pack", policy, tmp_path / "packed")
    assert packed.code == 0, packed.err
    assert run("evaluate", tmp_path / "packed", "--env", PICK, "--episodes", 2).code == 0


def test_an_agent_in_a_zip_is_shown_measured_and_packed_as_it_is(run: Run, picker_file: Path, tmp_path: Path) -> None:
    found = run("info", picker_file, "--json").json
    assert (found["numerics"], found["provenance"]["algo"], found["size"]["baseline_bytes"]) == ("float", "dqn", 1548)
    measured = run("evaluate", picker_file, "--algo", "dqn", "--env", PICK, "--episodes", 2, "--json").json
    assert measured["mean"] == 10.0
    assert run("pack", picker_file, tmp_path / "picker.policy").code == 0
    assert run("evaluate", tmp_path / "picker.policy", "--env", PICK, "--episodes", 2, "--json").json == measured
    for wrong, sentence in (
        (("info", picker_file, "--algo", "ppo"), "was trained by dqn, not by ppo: give --algo dqn."),
        (("info", picker_file, "--env", "CartPole-v1"), "name the environment that it was trained in"),
        (("evaluate", picker_file), "does not say where it was trained: name an environment"),
        (("info", picker_file, "--vecnormalize", tmp_path / "no.pkl"), "that VecNormalize.save wrote"),
        (("info", tmp_path / "picker.policy", "--trust"), "--trust is of the zip of an agent, and "),
        (("info", tmp_path / "picker.policy", "--env", PICK), "--env is of the zip of an agent, and "),
        (("evaluate", tmp_path / "picker.policy", "--env", PICK, "--algo", "dqn"), "--algo is of the zip of an agent"),
    ):
        assert_one_sentence(run(*wrong), sentence)


def test_an_agent_that_remembers_is_shown_and_measured(run: Run, tmp_path: Path) -> None:
    agent("recurrent_ppo", PICK).save(tmp_path / "agent.zip")
    assert "remembers  16 values" in run("info", tmp_path / "agent.zip").out
    assert run("evaluate", tmp_path / "agent.zip", "--env", PICK, "--episodes", 2).code == 0


def test_compress_takes_a_log_in_place_of_an_environment(run: Run, picker_file: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "run"
    rows = np.random.default_rng(0).uniform(-1, 1, (600, 3))
    header = "obs_0,obs_1,obs_2,episode"
    np.savetxt(log, np.column_stack([rows, np.arange(600) // 60]), delimiter=",", header=header, comments="")
    command = ("compress", picker_file, "--algo", "dqn", "--out", out, "--hidden", "12,12", "--batches", 100)
    answer = run(*command, "--observations", log)
    assert answer.code == 0, answer.err
    assert max(len(line) for line in answer.out.splitlines() if str(tmp_path) not in line) <= 80
    whole = " ".join(answer.out.split())
    for shown in ("agreement", "one constant action", "mean of 2 held-out episodes", "the return is not known"):
        assert shown in whole
    assert "kept" not in answer.out
    assert "agreement" in run("info", out / "policy.policy").out
    assert_one_sentence(
        run("evaluate", out / "policy.policy"), "does not say where it was trained: name an environment"
    )
    for wrong, sentence in (
        ((), "say where the agent's observations come from: --env, or a log with --observations."),
        (("--observations", log, "--env", PICK), "say where the agent's observations come from"),
        (("--observations", log, "--frame-stack", 2), "belong to an environment: add --env."),
        (("--observations", tmp_path), "is no log that can be read"),
    ):
        assert_one_sentence(run(*command, *wrong), sentence)


def test_compress_warns_of_an_agent_at_chance_level(run: Run, tmp_path: Path) -> None:
    model = dqn(PICK)
    for parameter in model.q_net.parameters():
        parameter.data.zero_()
    model.save(tmp_path / "agent.zip")
    answer = run(*pressed(tmp_path / "agent.zip", tmp_path / "run", "--hidden", "4", "--batches", 20, "--states", 400))
    assert answer.code == 0, answer.err
    assert "policypress: warning: the agent does no better than " in answer.err
    assert answer.err.index("warning") < answer.err.index("distill")  # before the bar of what takes minutes
    whole = " ".join(answer.out.split())
    for shown in ("the agent does no better than", "difference"):
        assert shown in whole
    assert "kept" not in answer.out


def test_losses_are_shown_with_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(Progress, "update", lambda _, task, *, latest, **__: shown.append(latest))
    with live.bars("loss", "#.3g") as advance:
        for value in (0.00123456, 2.0, None):
            advance("distill", 1, 2, value)
    assert shown == ["loss 0.00123", "loss 2.00", ""]


COMPRESS_ERRORS: dict[str, tuple[tuple[object, ...], str]] = {
    "algo": (("--algo", "PPO"), "was trained by dqn, not by ppo: give --algo dqn."),
    "unknown algo": (("--algo", "her"), "algo='her' is not one of"),
    "env": (("--env", "CartPol-v1"), "did you mean CartPole-v1?"),
    "other env": (("--env", "CartPole-v1"), "name the environment that it was trained in"),
    "wider": (("--hidden", "17,4"), "hidden 1 (q_net.0) of 16 units cannot become 17 wide: give 1 to 16"),
    "hidden": (("--hidden", "wide"), "hidden='wide' must be widths with commas between, for example 24,24."),
    "hidden 0": (("--hidden", "0"), "must be widths of at least 1"),
    "sparsity": (("--sparsity", 1.0), "sparsity=1.0 must be at least 0 and below 1"),
    "bits": (("--weight-bits", 9), "weight_bits=9 must be 2 to 8"),
    "rate": (("--rate-weight", -1), "rate_weight=-1.0 must be at least 0"),
    "keep": (("--keep", 95), "keep=95.0 must be a share of the agent's return, for example 0.95."),
    "keep in per cent": (("--keep", 80), "keep=80.0 must be a share of the agent's return, for example 0.8."),
    "keep 0 minutes": (("--keep", 0.9, "--minutes", 0), "give --minutes, and no --method."),
    "keep worst": (("--keep", 0.9, "--keep-worst", 90), "keep_worst=90.0 must be a share of the agent's worst tenth"),
    "bytes": (("--bytes", -1), "bytes=-1 must be at least 0."),
    "bytes and method": (("--bytes", 99, "--method", "ptq"), "a search (keep, bytes) takes what ways it needs"),
    "on": (("--keep", 0.9, "--on", "moon"), "on='moon' is not one of local, ray."),
    "on without a search": (("--on", "ray"), "--on and --address are of a search: say what it must keep"),
    "address": (("--keep", 0.9, "--address", "x:1"), "is that of a Ray cluster: add --on ray."),
    "keep nan": (("--keep", "nan"), "keep=nan must be a finite number"),
    "minutes nan": (("--keep", 0.9, "--minutes", "nan"), "minutes=nan must be a finite number"),
    "keep and method": (("--keep", 0.9, "--method", "ptq"), "a search (keep, bytes) takes what ways it needs"),
    "keep and hidden": (("--keep", 0.9, "--hidden", "4,4"), "a search finds hidden widths, rate_weight and batches"),
    "keep and bits": (("--keep", 0.9, "--weight-bits", 32), "give weight_bits of 2 to 8."),
    "jobs": (("--keep", 0.9, "--jobs", 0), "jobs=0 must be at least 1."),
    "minutes": (
        ("--minutes", 3),
        "minutes=3 are the time of a search: say what it must keep, --keep 0.95, or --bytes 128.",
    ),
    "method": (("--method", "prune"), "method='prune' is not one of distill, ptq, finetune, evolve."),
    "steps": (("--steps", 100), "are those of --method finetune"),
    "schedule of ptq": (
        ("--method", "ptq", "--prune-end", 0.3),
        "prune_end is of training, and --method ptq does without",
    ),
    "env_kwargs": (("--env-kwargs", "size=3"), "--env-kwargs 'size=3' cannot be read: write NAME:VALUE with a Python"),
    "finetune": (("--method", "finetune"), "say how long to train on, for example --steps 100000."),
    "finetune trust": (("--method", "finetune", "--steps", 100), "add --trust if you trust the file"),
    "finetune hidden": (
        ("--method", "finetune", "--steps", 100, "--hidden", "4,4"),
        "a student of dqn cannot be trained on, those of sac, ddpg, td3, tqc, ppo, a2c can: use --method distill.",
    ),
    "batches": (("--batches", 0), "batches=0 must be at least 1."),
    "states": (("--states", 10), "states=10 must be at least batch_size=256."),
    "episodes": (("--episodes", 1), "episodes=1 must be at least 2."),
    "seed": (("--seed", -1), "seed=-1 must not be negative."),
    "critics": (("--critic-weight", 1), "critic_weight needs critics of actions"),
    "vecnormalize": (("--vecnormalize", __file__), "holds no VecNormalize statistics: give the file that"),
}


@pytest.mark.parametrize("case", COMPRESS_ERRORS)
def test_compress_fails_with_one_sentence_and_writes_nothing(
    case: str, run: Run, picker_file: Path, tmp_path: Path
) -> None:
    arguments, sentence = COMPRESS_ERRORS[case]
    assert_one_sentence(run(*pressed(picker_file, tmp_path / "run", *arguments)), sentence)
    assert list(tmp_path.iterdir()) == []


def test_compress_without_an_agent(run: Run, tmp_path: Path) -> None:
    assert_one_sentence(run(*pressed(tmp_path / "no.zip", tmp_path / "run")), "there is no file")
    assert_one_sentence(run(*pressed(Path(__file__), tmp_path / "run")), "is not an agent saved by Stable-Baselines3")
    assert list(tmp_path.iterdir()) == []


def test_every_option_of_compress_reaches_the_settings(
    run: Run, picker_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def capture(agent: Any, config: PressConfig, out: Path, **options: Any) -> None:
        seen.update(agent=agent, config=config, out=out, **options)
        raise pp.RunError("enough.")

    monkeypatch.setattr("policypress.rl.press.press", capture)
    monkeypatch.setattr("policypress.rl.search.search", capture)
    answer = run(
        *pressed(picker_file, tmp_path), "--hidden", "5,4", "--rate-weight", 0.1, "--sparsity", 0.2, "--weight-bits", 5,
        "--activation-bits", 4, "--input-bits", 9, "--batches", 500, "--states", 300, "--critic-weight", 2,
        "--learning-rate", 0.5, "--batch-size", 64, "--trust", "--seed", 3, "--resume", "--collections", 7,
        "--critic-start", 0.25, "--allocation", "uniform", "--schedule", "linear", "--criterion", "random",
        "--granularity", "channel", "--prune-start", 0.1, "--prune-end", 0.3, "--quantize-start", 0.4,
    )  # fmt: skip
    assert_one_sentence(answer, "enough.")
    config, student = seen["config"], seen["config"].student
    source = seen["agent"].source
    assert (source.agent, source.trust, seen["out"]) == (picker_file, True, tmp_path)
    assert seen["resume"] is True
    assert (config.algo, config.env, config.method, config.episodes) == ("dqn", PICK, "distill", 4)
    assert (student.hidden, student.batches, student.states, student.seed) == ((5, 4), 500, 300, 3)
    assert (student.critic_weight, student.learning_rate, student.batch_size) == (2, 0.5, 64)
    compression = student.compression
    assert (student.collections, student.critic_start) == (7, 0.25)
    assert (compression.sparsity, compression.rate_weight) == (0.2, 0.1)
    assert (compression.allocation, compression.schedule, compression.criterion) == ("uniform", "linear", "random")
    assert (compression.prune_start, compression.prune_end, compression.quantize_start) == (0.1, 0.3, 0.4)
    assert compression.granularity == "channel"
    assert (compression.weight_bits, compression.activation_bits, compression.input_bits) == (5, 4, 9)

    assert_one_sentence(run(*pressed(picker_file, tmp_path), "--keep", 0.9, "--jobs", 3), "enough.")
    assert (seen["config"].keep, seen["config"].minutes, seen["jobs"], seen["on"]) == (0.9, 10.0, 3, "local")
    assert (seen["config"].keep_worst, seen["config"].bytes) == (0.9, 0)
    arguments = ("--bytes", 128, "--keep-worst", 0.8, "--minutes", 2, "--on", "ray", "--address", "auto")
    assert_one_sentence(run(*pressed(picker_file, tmp_path), *arguments), "enough.")
    config = seen["config"]
    assert (config.keep, config.bytes, config.keep_worst, config.minutes) == (0.0, 128, 0.8, 2.0)
    assert (seen["on"], seen["address"]) == ("ray", "auto")
    arguments = ("--method", "finetune", "--steps", 50, "--trust")
    assert_one_sentence(run(*pressed(picker_file, tmp_path), *arguments), "enough.")
    assert (seen["config"].method, seen["config"].steps) == ("finetune", 50)


def test_interrupted_compress_says_how_to_go_on(
    run: Run, picker_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("policypress.rl.press.press", interrupted)
    answer = run(*pressed(picker_file, tmp_path))
    assert answer.code == 130
    assert "go on with --resume" in answer.err


def test_a_search_that_reaches_nothing_has_exit_code_1(
    run: Run, picker_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*pressed(picker_file, tmp_path, *QUICK))
    result = json.loads((tmp_path / "result.json").read_text())
    line = Line("down", "distill", Shape((24, 24)))
    one = Candidate(line, 0, 512, 300.0, 999, 0.985, -0.971, 1.013, 5.0, 0.912, 0.0, 100, True, True, 0, 60.0)

    def search(*_: Any, report: Any, watch: Any, **__: Any) -> Any:
        watch(Standing("measuring the agent", 0.0, 600.0))
        for seconds in (20.0, 21.0):  # said once where nobody looks at a terminal
            watch(Standing("pressing", seconds, 600.0, (line,)))
        report(one, True)
        config = {**result["config"], "keep": 0.955, "bytes": 64}
        return {**result, "config": config, "reached": False}

    monkeypatch.setattr("policypress.rl.search.search", search)
    answer = run(*pressed(picker_file, tmp_path), "--keep", 0.955, "--json")
    assert answer.code == 1
    assert answer.json["reached"] is False
    assert "no policy keeps 95.5 % of the mean return" in answer.err
    assert "and 90 % of the worst tenth in 64 bytes; this is the closest" in answer.err
    assert "[-97.1%, 101.3%] worst 91%  best" in answer.err
    started = ["0:00 of 10:00 · measuring the agent", "0:20 of 10:00 · pressing 24-24 (distill)"]
    assert answer.err.splitlines()[:2] == started
    shown = [line for line in answer.err.splitlines() if "best" in line]
    assert len(shown) == 1
    assert len(shown[0]) <= 80


@pytest.mark.slow
def test_a_search_in_processes_of_its_own(picker_file: Path, tmp_path: Path) -> None:
    """Students are spawned, so they must find the toy environments by their module."""
    arguments = (
        "compress", picker_file, "--algo", "dqn", "--env", f"rl.toys:{PICK}", "--out", tmp_path / "run",
        "--episodes", 8, "--keep", 0.5, "--minutes", 1.5, "--jobs", 1, "--states", 400, "--json",
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = policypress(*arguments, env=environment)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "frontier.png").exists()
    assert json.loads(done.stdout)["reached"] == (done.returncode == 0)


# Watching


def test_watch_writes_a_film_and_says_what_returned(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / f"{choice}.policy" for choice in (0, 1)]
    for choice, path in enumerate(paths):
        chooser(choice, {"env": "rl.toys:Lit"}).save(path)
    out = tmp_path / "a.gif"
    answer = run("watch", paths[0], "--out", out, "--beside", paths[1], "--json")
    assert (answer.code, answer.json["out"]) == (0, str(out))
    assert [one["returns"] for one in answer.json["policies"]] == [[12.0], [5.0]]
    assert [one["ended_early"] for one in answer.json["policies"]] == [0.0, 1.0]
    assert out.read_bytes()[:6] == b"GIF89a"
    answer = run("watch", paths[1], "--out", out, "--steps", "3", "--episodes", "2")
    assert answer.code == 0
    assert "3.0 3.0" in answer.out
    assert f"{out.name}  {out.stat().st_size:,} bytes" in answer.out
    dqn(Lit()).save(tmp_path / "agent.zip")
    given = ("--env", "rl.toys:Lit", "--algo", "dqn")
    answer = run("watch", tmp_path / "agent.zip", *given, "--beside", paths[0], "--out", out)
    assert answer.code == 0
    assert "agent.zip" in answer.out


def test_watch_fails_in_one_sentence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chooser(0, {"env": "rl.toys:Lit"}).save(tmp_path / "a.policy")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for arguments, sentence in (
        ((), "there is no display for a window: name a file"),
        (("--out", "a.avi"), "must end in .gif, .mp4, .png"),
        (("--out", "a.gif", "--frame-stack", "2"), "add --env"),
        (("--out", tmp_path / "a.gif", "--env", FOLLOW), "has no render mode 'rgb_array'"),
    ):
        assert_one_sentence(run("watch", tmp_path / "a.policy", *arguments), sentence)
