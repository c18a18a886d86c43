"""``press``: what a run leaves, what it refuses before anything is written, and how it goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig, PressConfig, from_json
from policypress.errors import ConfigError, DivergedError, PolicypressError, RunError, UnsupportedError
from policypress.files import locked
from policypress.policy.payload import encode_payload
from policypress.rl import ResNetExtractor, evaluate
from policypress.rl.agents import teacher_of
from policypress.rl.compress import compress, post_training
from policypress.rl.press import press
from policypress.rl.search import search
from policypress.rl.sources import Source
from policypress.rl.teacher import scaled_hidden
from quick import quick
from rl.toys import EPISODE, FOLLOW, LOOK, PICK, PICK_OF_FOUR, agent, in_child, plan, save_picker

STUDENT = {"batches": 300, "batch_size": 32, "states": 600, "learning_rate": 1e-2, "collections": 5}
LEFT = {".lock", "config.json", "policy.policy", "result.json", "teacher.json"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """An agent that solves PICK."""
    return Source(save_picker(tmp_path_factory.mktemp("agents") / "agent.zip"))


def planned(source: Source, algo: str = "dqn", env: str = PICK, **changes: Any) -> PressConfig:
    changes = {"hidden": (12, 12), **changes}
    student = STUDENT | changes.pop("student", {})
    return plan(source, algo, env, student=student, settings={"episodes": 8} | changes.pop("settings", {}), **changes)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What is left


def test_a_run_leaves_the_student_and_what_it_keeps(source: Source, tmp_path: Path) -> None:
    before, config = sha(source.agent), planned(source)
    result = press(source, config, tmp_path / "made" / "run")
    out = tmp_path / "made" / "run"
    assert sha(source.agent) == before
    assert {path.name for path in source.agent.parent.iterdir()} == {"agent.zip"}
    assert {path.name for path in out.iterdir()} == LEFT
    assert json.loads((out / "result.json").read_text()) == result
    assert from_json(PressConfig, result["config"]) == config
    assert result["config"]["agent"] == before
    assert result["teacher"]["mean"] == EPISODE
    assert result["teacher"]["ended_early"] == result["evaluation"]["ended_early"] == 0.0
    assert result["teacher"]["chance"]["high"] < 0.6 * EPISODE
    assert result["notes"] == []
    assert result["kept"]["share"] == pytest.approx(result["evaluation"]["mean"] / EPISODE)
    assert result["size"]["disk_bytes"] == (out / "policy.policy").stat().st_size
    assert result["size"]["flash_bytes"] > 0
    assert result["kept"]["low"] <= result["kept"]["share"] <= result["kept"]["high"]
    assert result["kept"]["share"] > 0.93
    assert result["numerics"] == "integer"
    policy = pp.load(out / "policy.policy")
    assert policy.provenance["env"] == PICK
    assert policy.results["kept"] == result["kept"]
    assert list(evaluate(policy, episodes=8, seed=1000).returns) == result["evaluation"]["returns"]
    assert result["teacher"]["seed"] == result["evaluation"]["seed"] == 1000
    assert pp.size(policy).as_dict()["payload_bytes"] == result["size"]["payload_bytes"]
    assert result["size"]["baseline_bytes"] == 4 * (4 * 16 + 17 * 16 + 17 * 3)


def test_the_same_settings_give_the_same_bytes(source: Source, tmp_path: Path) -> None:
    config = planned(source, student={"batches": 60})
    payloads = []
    for name in ("a", "b"):
        press(source, config, tmp_path / name)
        payloads.append(encode_payload(pp.load(tmp_path / name / "policy.policy")))
    assert payloads[0] == payloads[1]


# Folders


def test_a_finished_run_is_shown_and_others_are_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = planned(source, student={"batches": 60})
    result = press(source, config, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for resume in (False, True):
        assert press(source, config, tmp_path, resume=resume) == result
        other = planned(source, student={"batches": 60, "seed": 2})
        with pytest.raises(RunError, match="holds another run: choose another --out or repeat its settings"):
            press(source, other, tmp_path, resume=resume)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunError, match="cannot be read: choose another --out, or remove the folder"):
        press(source, config, tmp_path)


def test_a_folder_in_use(source: Source, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunError, match="another process is training in"):
        press(source, planned(source), tmp_path)


@pytest.mark.parametrize("killed", [False, True], ids=["keyboard", "killed"])
def test_an_interrupted_run_goes_on(killed: bool, source: Source, tmp_path: Path) -> None:
    config = planned(source)

    def interrupt(done: int, *_: Any) -> None:
        if done >= 150:
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    if killed:
        code = in_child(lambda: press(source, config, tmp_path, progress=interrupt))
        assert code == -signal.SIGKILL
    else:
        with pytest.raises(KeyboardInterrupt):
            press(source, config, tmp_path, progress=interrupt)
    assert (tmp_path / "checkpoint" / "student.pt").exists()
    assert not (tmp_path / "policy.policy").exists()
    with pytest.raises(RunError, match="holds an unfinished run: add --resume to go on, or choose another --out"):
        press(source, config, tmp_path)
    seen: list[int] = []
    (tmp_path / ".result.json-1").write_text("half")
    result = press(source, config, tmp_path, resume=True, progress=lambda done, *_: seen.append(done))
    assert min(seen) > 150, "it began anew"
    assert result["kept"]["share"] > 0.93
    assert {path.name for path in tmp_path.iterdir()} == LEFT


# Plans


def test_the_default_student_is_narrow_and_learns_its_precision(source: Source) -> None:
    config = plan(source, "dqn", PICK)
    assert config.student.hidden == (4, 4)
    assert (config.student.compression.weight_bits, config.student.compression.weight_range) == (8, "learned")
    assert config.student.compression.rate_weight > 0
    wide = plan(source, "dqn", PICK, compression={"sparsity": 0.5})
    assert wide.student.hidden == ()
    assert (wide.student.compression.sparsity, wide.student.compression.rate_weight) == (0.5, 0.0)
    plain = plan(source, "dqn", PICK, compression={"weight_bits": 32})
    assert (plain.student.compression.weight_range, plain.student.compression.rate_weight) == ("mse", 0.0)
    assert plan(source, "dqn", PICK, method="ptq").student.hidden == ()


def test_a_linear_student_learns_its_precision_too(source: Source) -> None:
    config = plan(source, "dqn", PICK, hidden="none")
    assert config.student.hidden == "none"
    assert config.student.compression.weight_range == "learned"
    assert config.student.learning_rate == 3e-3


def test_scaled_widths_leave_residual_blocks_alone() -> None:
    network = {"features_extractor_class": ResNetExtractor, "features_extractor_kwargs": {"features_dim": 50}}
    teacher = teacher_of(agent("dqn", LOOK, {**network, "net_arch": []}))
    assert scaled_hidden(teacher, 0.1) == (5,)
    plain = teacher_of(agent("dqn", PICK, {"net_arch": [100, 20]}))
    assert scaled_hidden(plain, 0.1) == (10, 4)
    assert scaled_hidden(plain, 9.0) == (100, 20)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": {"keep": 0.9}}, "give --minutes, and no --method"),
        ({"settings": {"minutes": 3.0}}, "minutes=3 are the time of a search: say what it must keep"),
        ({"settings": {"keep": 0.9, "minutes": 1.0}, "hidden": (4, 4)}, "a search finds hidden widths, rate_weight"),
        ({"settings": {"keep": 0.9, "minutes": 1.0}, "compression": {"weight_bits": 32}}, "give weight_bits of 2 to 8"),
        ({"settings": {"steps": 10}}, "are those of --method finetune"),
        ({"method": "finetune", "hidden": None}, "say how long to train on, for example --steps 100000"),
        ({"method": "finetune", "hidden": (4, 4)}, "say how long to train on, for example --steps 100000"),
        ({"method": "prune"}, "method='prune' is not one of distill, ptq, finetune"),
        (
            {"compression": {"sparsity": 0.9, "pruning": "adaptive"}},
            "own network learns: use --method finetune",
        ),
        ({"compression": {"weight_bits": 32, "rate_weight": 0.1}}, "rate_weight=0.1 must be at least 0, and needs"),
    ],
    ids=str,
)
def test_plans_that_do_not_fit_together(changes: dict[str, Any], sentence: str, source: Source) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan(source, "dqn", PICK, **changes)


# What is refused


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"hidden": (17, 4)}, ConfigError, "of 16 units cannot become 17 wide: give 1 to 16"),
        ({"student": {"critic_weight": 1.0}}, ConfigError, "critic_weight needs critics of actions"),
        ({"compression": {"sparsity": 0.99}}, ConfigError, "would leave no weight"),
        ({"method": "ptq", "hidden": (17, 4)}, ConfigError, "cannot become 17 wide"),
        (
            {"method": "finetune", "hidden": (), "settings": {"steps": 100}},
            UnsupportedError,
            "add --trust if you trust",
        ),
    ],
    ids=["hidden", "critics", "sparsity", "ptq", "trust"],
)
def test_what_does_not_fit_writes_nothing(
    changes: dict[str, Any], kind: type[PolicypressError], sentence: str, source: Source, tmp_path: Path
) -> None:
    config = planned(source, **changes)
    with pytest.raises(kind, match=sentence):
        press(source, config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_widths_of_residual_blocks_are_refused(tmp_path: Path) -> None:
    network = {"features_extractor_class": ResNetExtractor, "features_extractor_kwargs": {"features_dim": 8}}
    model = agent("dqn", LOOK, {**network, "net_arch": []})
    widths = tuple([4] * 16)
    with pytest.raises(ConfigError, match="residual blocks"):
        compress(model, LOOK, DistillConfig(hidden=widths, **(STUDENT | {"states": 32})))


@pytest.mark.parametrize(
    ("algo", "env", "kind"), [("ppo", PICK, UnsupportedError), ("dqn", PICK_OF_FOUR, PolicypressError)]
)
def test_an_agent_of_something_else(
    algo: str, env: str, kind: type[PolicypressError], source: Source, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=r"agent\.zip"):
        plan(source, algo, env)
    with pytest.raises(kind, match=r"agent\.zip"):
        press(source, replace(planned(source), algo=algo, env=env), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no file"):
        plan(Source(tmp_path / "agent.zip"), "dqn", PICK)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = agent("dqn", PICK)
    next(model.q_net.parameters()).data[0, 0] = torch.nan
    model.save(tmp_path / "agent.zip")
    with pytest.raises(PolicypressError, match="not finite: the training diverged"):
        plan(Source(tmp_path / "agent.zip"), "dqn", PICK)


def test_statistics_of_vecnormalize_and_what_happens_without(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(FOLLOW))]), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=25, seed=1, device="cpu")
    model.learn(100)
    for info in model.ep_info_buffer or ():
        info["r"] = 1e3  # as if it had been trained until it was far better than it is without statistics
    model.save(tmp_path / "agent.zip")
    missing = Source(tmp_path / "agent.zip")
    with pytest.raises(
        UnsupportedError, match=r"trained with VecNormalize .*: give its statistics with --vecnormalize"
    ):
        planned(missing, "ppo", FOLLOW)
    with pytest.raises(UnsupportedError, match="--vecnormalize"):
        press(missing, planned(Source(missing.agent, force=True), "ppo", FOLLOW), tmp_path / "run")
    env.save(str(tmp_path / "vecnormalize.pkl"))

    for info in model.ep_info_buffer or ():
        info["r"] = -30.0
    model.save(tmp_path / "agent.zip")
    source = Source(tmp_path / "agent.zip", tmp_path / "vecnormalize.pkl")
    config = planned(source, "ppo", FOLLOW)
    assert config.vecnormalize == sha(tmp_path / "vecnormalize.pkl")
    result = press(source, config, tmp_path / "run")  # the same folder: nothing was begun there
    assert result["evaluation"]["mean"] > 1.2 * result["teacher"]["mean"]  # both are negative
    normalization = pp.load(tmp_path / "run" / "policy.policy").observation.normalization
    assert normalization is not None
    np.testing.assert_allclose(normalization.mean, env.obs_rms.mean)  # type: ignore[union-attr]


def test_an_agent_that_returns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.toys import Pick

    save_picker(tmp_path / "agent.zip")
    monkeypatch.setattr(Pick, "_reward", lambda *_: 0.0)
    source = Source(tmp_path / "agent.zip")
    searched = plan(source, "dqn", PICK, settings={"keep": 0.9, "minutes": 0.1})
    with pytest.raises(
        ConfigError, match=r"return, 0.0 \[0.0, 0.0\], is too near to 0 for a share of it: press it with"
    ):
        search(source, searched, tmp_path / "run", jobs=1)
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.warns(UserWarning, match="the agent does no better than random actions"):
        result = press(source, planned(source, student={"batches": 60}), tmp_path / "run")
    assert result["kept"]["share"] is None
    assert result["kept"]["difference"] == 0.0


def test_an_agent_at_chance_level_is_said_to_be(tmp_path: Path) -> None:
    """Before anything is trained: "kept 103.6 %" of it says nothing."""
    model = agent("dqn", PICK, {"net_arch": [8]})
    for parameter in model.q_net.parameters():
        parameter.data.zero_()
    model.save(tmp_path / "agent.zip")
    source, said = Source(tmp_path / "agent.zip"), []

    def progress(*_: Any) -> None:
        said.append([str(warning.message) for warning in caught])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = press(source, planned(source, hidden=(4,)), tmp_path / "run", progress=progress)
    sentence = r"the agent does no better than (random actions|one constant action) \(\S+ \[.*\] against \S+ \[.*\]\)"
    assert any(re.match(sentence, text) for text in said[0])
    assert re.match(sentence, result["notes"][0])
    assert result["kept"]["share"] is None
    assert result["size"]["nonzeros"] == 0
    assert result["notes"][1] == "the student's action is constant: none of its weights is left."
    assert pp.load(tmp_path / "run" / "policy.policy").results["kept"]["share"] is None


def test_a_run_of_before_measures_chance_when_it_goes_on(source: Source, tmp_path: Path) -> None:
    config = planned(source, student={"batches": 60})
    result = press(source, config, tmp_path)
    old = {name: value for name, value in result["teacher"].items() if name not in ("chance", "terminated")}
    (tmp_path / "teacher.json").write_text(json.dumps(old))
    (tmp_path / "result.json").unlink()
    assert press(source, config, tmp_path, resume=True)["teacher"] == result["teacher"]


# Without training


def test_post_training_changes_no_weight_that_it_keeps() -> None:
    model = agent("dqn", PICK, {"net_arch": [8, 8]})
    expected = [layer.weight for layer in teacher_of(model).policy().layers]
    config = DistillConfig(CompressionConfig(), **STUDENT)
    for ours, theirs in zip(post_training(model, PICK, config).layers, expected, strict=True):
        assert sorted(ours.weight.ravel()) == sorted(theirs[theirs != 0].ravel()) or ours.weight.size < theirs.size
    pruned = post_training(model, PICK, replace(config, compression=CompressionConfig(sparsity=0.5)))
    for ours, theirs in zip(pruned.layers, expected, strict=True):
        assert set(ours.weight[ours.weight != 0].ravel()) <= set(theirs.ravel())
    assert pp.size(pruned).sparsity >= 0.5


def test_a_distilled_student_keeps_more_than_post_training(source: Source, tmp_path: Path) -> None:
    results = {
        method: press(
            source,
            planned(source, method=method, hidden=(), compression={"sparsity": 0.85, "weight_bits": 4}),
            tmp_path / method,
        )
        for method in ("distill", "ptq")
    }
    assert results["ptq"]["size"]["sparsity"] >= 0.85
    assert results["ptq"]["numerics"] == "integer"
    assert {path.name for path in (tmp_path / "ptq").iterdir()} == LEFT
    assert results["distill"]["kept"]["share"] > results["ptq"]["kept"]["share"]


# Diverging


@pytest.mark.parametrize("weight_bits", [8, 32])
def test_a_student_that_diverges_says_so_and_leaves_nothing(weight_bits: int, tmp_path: Path) -> None:
    source = Source(tmp_path / "agent.zip")
    agent("sac", FOLLOW).save(source.agent)
    compression = {"weight_bits": weight_bits}
    config = planned(source, "sac", FOLLOW, compression=compression, student={"learning_rate": 1e30})
    with pytest.raises(
        DivergedError, match=r"^the student's loss is (nan|inf) in batch \d+: the training diverged, lower"
    ):
        press(source, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algo", quick(["sac", "ppo", "td3"], ["ppo", "td3"]))
def test_an_agent_that_diverges_says_so(algo: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    agent(algo, FOLLOW, learning_rate=1e30).save(path)
    config = plan(
        Source(path, trust=True), algo, FOLLOW, method="finetune", settings={"episodes": 8, "steps": 200},
        compression={"weight_bits": 8},
    )  # fmt: skip
    with pytest.raises(DivergedError, match=r" not finite .*: the training diverged, lower the learning rate"):
        press(Source(path, trust=True), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
