"""``train``: what a run leaves, when it refuses to start, and that a seed decides everything."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import policypress as pp
from policypress.config import CompressionConfig, TrainConfig, from_json
from policypress.errors import ConfigError, DivergedError, PolicypressError, RunError, UnsupportedError
from policypress.files import locked
from policypress.policy.payload import encode_payload
from policypress.rl import checkpoint, dynamics, evaluate, train
from policypress.rl import load as load_agent
from policypress.rl.adapters import ADAPTERS
from policypress.rl.plan import dense_baseline, plan_training
from policypress.rl.side_by_side import train_all
from rl.toys import FILES, FOLLOW, LOOK, LOOK_CHANNELS_LAST, PICK, PRESSED, SEEN, dqn, image_dqn, run_config, sac

STEPS = {"sac": 100, "dqn": 150, "ppo": 100}
CONFIGS = {"sac": run_config("sac"), "dqn": run_config("dqn", n_envs=2, extension=0.5), "ppo": run_config("ppo")}


class Run(NamedTuple):
    config: TrainConfig
    out: Path
    result: dict[str, Any]
    progress: list[tuple[int, int, float | None]]


@pytest.fixture(scope="module", params=CONFIGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out, config = tmp_path_factory.mktemp(request.param) / "made" / "run", CONFIGS[request.param]
    progress: list[Any] = []
    result = train(config, out, progress=lambda *values: progress.append(values))
    return Run(config, out, result, progress)


@pytest.fixture
def no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints take most of the time of a tiny run."""
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *_: None)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "evaluations.csv").open() as file:
        return list(csv.DictReader(file))


# What is left


def test_each_evaluation_tells_of_the_network_too(run: Run) -> None:
    for row in rows_of(run.out):
        assert 0.0 <= float(row["dormant"]) <= 1.0
        assert int(row["rank"]) >= 1
        assert bool(row["entropy"]) == (run.config.algo not in ("td3", "ddpg"))
        assert row["visited"] == ""  # its first observations are units


def test_states_are_counted_while_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamics, "_FIRST", 30)
    train(run_config("sac"), tmp_path / "run")
    first, *_, last = rows_of(tmp_path / "run")
    assert first["visited"] == ""
    assert 5 < int(last["visited"]) <= 100


def test_a_finished_run_leaves_these_files_and_no_others(run: Run) -> None:
    assert {path.name for path in run.out.iterdir()} == FILES


def test_result_tells_what_happened(run: Run) -> None:
    steps = STEPS[run.config.algo]
    result = json.loads((run.out / "result.json").read_text())
    assert result == run.result
    assert from_json(TrainConfig, result["config"]) == run.config
    assert result["steps"] == steps == run.config.total_steps
    assert result["numerics"] == "integer"
    assert result["size"]["nonzeros"] <= result["size"]["weights"] - round(0.8 * result["size"]["weights"])
    assert {layer["bits"] for layer in result["size"]["layers"]} == {8}
    assert result["evaluation"]["episodes"] == len(result["evaluation"]["returns"]) == 5
    assert result["wall_seconds"] > 0
    assert result["versions"].keys() >= {"policypress", "torch"}
    assert from_json(TrainConfig, json.loads((run.out / "config.json").read_text())) == run.config


def test_ratio_counts_from_the_network_that_would_be_deployed_otherwise(run: Run) -> None:
    convolutions = (4 * 8 * 8 + 1) * 32 + (32 * 4 * 4 + 1) * 64 + (64 * 3 * 3 + 1) * 64
    parameters = {
        "sac": (3 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 2,
        "dqn": 4 * 64 + 65 * 64 + 65 * 3,
        "ppo": convolutions + 65 * 512 + 513 * 2,
    }
    assert run.result["size"]["baseline_bytes"] == parameters[run.config.algo] * 4


def test_policy_file_holds_the_result_and_repeats_it(run: Run) -> None:
    policy = pp.load(run.out / "policy.policy")
    assert policy.results["evaluation"] == run.result["evaluation"]
    assert policy.provenance["env"] == run.config.env
    assert policy.provenance["train"] == run.result["config"]
    assert policy.provenance["steps"] == run.result["steps"]
    assert pp.size(policy).as_dict()["payload_bytes"] == run.result["size"]["payload_bytes"]
    again = evaluate(policy, episodes=5, seed=1000)
    assert list(again.returns) == run.result["evaluation"]["returns"]
    assert len(set(again.returns)) > 1
    vectors = policy.test_vectors
    assert vectors is not None
    np.testing.assert_array_equal(policy.outputs(vectors.observations), vectors.outputs)


def test_agent_file_holds_the_same_policy(run: Run) -> None:
    agent = load_agent(run.out / "agent.zip", run.config.algo)
    assert agent.num_timesteps == run.result["steps"]
    assert encode_payload(pp.freeze(agent)) == encode_payload(pp.load(run.out / "policy.policy"))


def test_learning_curve_has_a_row_for_each_evaluation(run: Run) -> None:
    rows = rows_of(run.out)
    steps = [26, 50, 76, 100, 126, 150] if run.config.algo == "dqn" else [25, 50, 75, 100]
    assert [int(row["step"]) for row in rows] == steps
    sparsity = [float(row["sparsity"]) for row in rows]
    assert sparsity == sorted(sparsity)
    assert sparsity[0] < 0.7 < sparsity[1] < 0.795 < sparsity[-1]
    # Fractions are those of the nominal 100 steps, whatever the extension.
    nominal = {"float": range(60), "observe": range(60, 80), "quantize": range(80, 200)}
    for row in rows:
        assert int(row["step"]) in nominal[row["phase"]]
        assert row["numerics"] == ("integer" if row["phase"] == "quantize" else "float")
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert row["episodes"] == "2"
    assert float(rows[-1]["seconds"]) > 0


def test_progress_goes_up_to_the_end(run: Run) -> None:
    done = [step for step, _, _ in run.progress]
    assert done == sorted(done)
    assert done[-1] == STEPS[run.config.algo]
    assert {total for _, total, _ in run.progress} == {STEPS[run.config.algo]}
    assert run.progress[0][2] is None
    assert run.progress[-1][2] == float(rows_of(run.out)[-1]["mean"])


def test_tensorboard_gets_compression_and_returns(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.out / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"compression/phase", "evaluation/mean", "evaluation/low", "evaluation/high", "train/learning_rate"}
    assert {tag for tag in tags if tag.startswith("compression/sparsity/")}
    assert [event.step for event in events.Scalars("evaluation/mean")] == [int(r["step"]) for r in rows_of(run.out)]


# Folders that hold something


def state_of(out: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in out.rglob("*")
        if path.name != ".lock"
    }


@pytest.mark.parametrize("resume", [True, False])
def test_a_finished_run_is_never_run_again(run: Run, resume: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["policypress.rl.train"], "_run", None)
    before = state_of(run.out)
    assert train(run.config, run.out, resume=resume) == run.result
    assert state_of(run.out) == before


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("change", [{"seed": 8}, {"steps": 110}, {"compression": replace(PRESSED, weight_bits=4)}])
def test_other_settings_do_not_touch_a_run(run: Run, change: dict[str, Any], resume: bool) -> None:
    before = state_of(run.out)
    with pytest.raises(RunError, match=r"holds a run with other settings: choose another --out or repeat"):
        train(replace(run.config, **change), run.out, resume=resume)
    assert state_of(run.out) == before


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(RunError, match=r"another process is training in .*: wait for it or choose another --out"),
    ):
        train(run_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        pass


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for out in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunError, match=r"nothing can be written to .*: choose another --out"):
            train(run_config(), out)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_start_that_failed_does_not_block_the_folder(
    tmp_path: Path, no_checkpoints: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(RunError, match=r"the replay buffer needs .* GiB in .*: lower it"):
            train(run_config(), tmp_path)
    result = train(run_config(steps=60), tmp_path)
    assert result["steps"] == 60
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_a_training_that_diverges_says_so(algo: str, tmp_path: Path, no_checkpoints: None) -> None:
    config = run_config(algo, algo_kwargs={**run_config(algo).algo_kwargs, "learning_rate": 1e30})
    with pytest.raises(DivergedError, match=r"not finite.*: the training diverged, lower the learning rate"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Seeds


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_the_seed_decides_every_byte(algo: str, tmp_path: Path, no_checkpoints: None) -> None:
    config = run_config(algo, steps=60)
    for name, seed in {"a": 7, "b": 7, "c": 8}.items():
        train(replace(config, seed=seed), tmp_path / name, resume=name == "c")  # nothing to resume: starts fresh
    payload = {name: encode_payload(pp.load(tmp_path / name / "policy.policy")) for name in "abc"}
    assert payload["a"] == payload["b"] != payload["c"]
    drop = {"seconds"}
    curves = [[{k: v for k, v in row.items() if k not in drop} for row in rows_of(tmp_path / n)] for n in "abc"]
    assert curves[0] == curves[1] != curves[2]


def test_checkpoints_do_not_change_what_is_learned(run: Run, tmp_path: Path, no_checkpoints: None) -> None:
    train(run.config, tmp_path)
    assert encode_payload(pp.load(tmp_path / "policy.policy")) == encode_payload(pp.load(run.out / "policy.policy"))


# Settings that cannot work


REFUSED: dict[str, tuple[TrainConfig, type[PolicypressError], str]] = {
    "algo": (TrainConfig("her", PICK, 100), ConfigError, r"algo='her' is not one of sac, ddpg, td3, tqc, .*a2c, ars\."),
    "rollout": (TrainConfig("ppo", PICK, 100), ConfigError, "learning starts at step 2048, after the last one"),
    "setting": (run_config(algo_kwargs={"lerning_rate": 1}), ConfigError, "DQN takes no setting lerning_rate; it"),
    "ours": (run_config(algo_kwargs={"policy_kwargs": {}}), ConfigError, "DQN takes no setting policy_kwargs"),
    "text": (run_config(algo_kwargs={"gamma": "much"}), ConfigError, "gamma='much' is not a number"),
    "start": (run_config(algo_kwargs={"learning_starts": "soon"}), ConfigError, "learning_starts='soon' is not a"),
    "device": (run_config(device="toaster"), ConfigError, "DQN refuses these settings: .*toaster"),
    "kwargs": (run_config(optimizer_kwargs={"decay": 1}), ConfigError, "DQN refuses these settings: .*decay"),
    "late": (run_config(algo_kwargs={"learning_starts": 100}), ConfigError, "learning starts at step 100"),
    "prune": (
        run_config(compression=replace(PRESSED, prune_end=1.1)), ConfigError, "pruning would end at step 110, after",
    ),
    "quantize": (
        run_config(compression=replace(PRESSED, quantize_start=1.0)), ConfigError, "quantization would start at step",
    ),
    "emptied": (
        run_config(compression=replace(PRESSED, sparsity=0.995)), ConfigError, "would leave no weight in layer",
    ),
    "env": (run_config(env="toys/Pik-v0"), ConfigError, r"no environment 'toys/Pik-v0'; did you mean toys/Pick"),
    "actions": (run_config(env=FOLLOW), UnsupportedError, r"DQN needs Discrete actions, not Box.*another --algo"),
    "dict": (run_config("sac", env=SEEN), UnsupportedError, r"images beside other things \(camera\)"),
    "images": (run_config(env=LOOK), ConfigError, "network=mlp does not fit .*: use --network nature or"),
    "vectors": (run_config(network="nature"), ConfigError, "network=nature does not fit .*: use --network mlp"),
    "linear": (run_config(env=LOOK, network="nature", hidden="none"), ConfigError, "one hidden layer after its conv"),
    "widths": (run_config(env=LOOK, network="nature"), ConfigError, "one hidden layer after its convolutions"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_work_write_nothing(case: str, tmp_path: Path) -> None:
    config, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0}, {"extension": -0.1}, {"n_envs": 0}, {"network": "transformer"}, {"hidden": (12, 0)},
        {"eval_every": -1}, {"eval_episodes": 0}, {"final_episodes": 1},
    ],
)  # fmt: skip
def test_settings_out_of_range_name_themselves(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        run_config(**values)


# Plans and baselines


def test_plan_knows_the_family_of_the_environment() -> None:
    assert plan_training("dqn", LOOK, 1000).network == "nature"
    assert plan_training("td3", FOLLOW, 1000).algo_kwargs == {"learning_starts": 100}
    assert plan_training("ppo", FOLLOW, 1000, algo_kwargs={"n_steps": 50}).algo_kwargs == {"n_steps": 50}
    assert plan_training("sac", FOLLOW, 1000).compression == CompressionConfig()
    assert plan_training("sac", FOLLOW, 1000, compression={"sparsity": 0.9}).compression.weight_bits == 8
    paper = plan_training("sac", FOLLOW, preset="ivanov2025", compression={"sparsity": 0.9})
    assert (paper.steps, paper.total_steps) == (1_000_000, 1_300_000)
    assert paper.optimizer_kwargs == {"weight_decay": 1e-4}
    assert paper.compression.activation_bits == 0
    with pytest.raises(ConfigError, match=r"say how long to train, for example steps=150000\."):
        plan_training("sac", FOLLOW)
    with pytest.raises(ConfigError, match="preset='paper' is not one of policypress, ivanov2025"):
        plan_training("sac", FOLLOW, 1000, preset="paper")


def test_dense_baseline_differs_in_compression_alone() -> None:
    config = run_config("sac")
    dense = dense_baseline(config)
    assert dense.compression == CompressionConfig()
    assert dense.hidden == ()
    assert replace(dense, compression=config.compression, hidden=config.hidden) == config


@pytest.mark.parametrize(("algo", "network"), [("sac", "mlp"), ("dqn", "mlp"), ("dqn", "nature"), ("dqn", "resnet")])
def test_default_parameters_are_those_of_the_default_network(algo: str, network: str) -> None:
    env = {"mlp": {"sac": FOLLOW, "dqn": PICK}[algo]}.get(network, LOOK)
    config = TrainConfig(algo, env, 100, network=network)  # type: ignore[arg-type]
    make = sac if algo == "sac" else dqn if network == "mlp" else image_dqn
    adapter, kwargs = ADAPTERS[algo], ADAPTERS[algo].policy_kwargs(config)
    model = make(policy_kwargs={"net_arch": None, **kwargs}, env=env)
    assert adapter.default_parameters(model) * 4 == pp.freeze(model).baseline_bytes
    narrow = make(policy_kwargs=adapter.policy_kwargs(replace(config, hidden=(12,))), env=env)
    assert adapter.default_parameters(narrow) * 4 == pp.freeze(model).baseline_bytes > pp.freeze(narrow).baseline_bytes


def test_resnet_is_the_papers() -> None:
    config = plan_training("dqn", LOOK, 1000, training={"network": "resnet"})
    model = image_dqn(ADAPTERS["dqn"].policy_kwargs(config))
    layers = pp.freeze(model).layers
    assert [layer.weight.shape[0] for layer in layers] == [32] * 5 + [64] * 10 + [512, 2]


# Whole paths that take other environments


def test_images_with_channels_behind_are_trained_and_evaluated(tmp_path: Path, no_checkpoints: None) -> None:
    config = run_config(
        env=LOOK_CHANNELS_LAST, network="nature", hidden=(16,), steps=40, eval_every=40,
        algo_kwargs={"learning_starts": 8, "batch_size": 4, "train_freq": 4},
    )  # fmt: skip
    result = train(config, tmp_path)
    policy = pp.load(tmp_path / "policy.policy")
    assert policy.observation.image
    assert result["evaluation"]["episodes"] == 5
    assert policy.layers[-1].weight.shape == (2, 16)


def test_one_run_draws_its_curve(tmp_path: Path, no_checkpoints: None) -> None:
    seen: list[Any] = []
    results = train_all({"mine": (run_config(steps=60), tmp_path)}, progress=lambda *values: seen.append(values))
    assert results["mine"] == json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert {name for name, *_ in seen} == {"mine"}
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"curve.png"}
