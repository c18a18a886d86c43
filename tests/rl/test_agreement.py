"""Students of a log: no environment, no return, but agreement with their agent on episodes that were held out."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gymnasium as gym
import numpy as np
import pytest
import torch

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig, PressConfig, from_json
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.description import contract_rows
from policypress.policy.payload import encode_payload
from policypress.rl.adapters import ADAPTERS
from policypress.rl.agents import load_agent
from policypress.rl.agreement import MEASURES, agreement_on
from policypress.rl.compress import compress
from policypress.rl.distill import Distillation
from policypress.rl.formats import open_agent
from policypress.rl.logs import on_log
from policypress.rl.plan import plan_pressing
from policypress.rl.press import press
from policypress.rl.recorded import Recorded, RecordedStates
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.teacher import Teacher
from rl.toys import CHOOSE, FOLLOW, NAMED, PICK, SWITCH, agent, save_picker

STUDENT: dict[str, Any] = {"batches": 300, "batch_size": 32, "learning_rate": 1e-2, "collections": 5}
EPISODES, STEPS = 12, 60


def write_log(path: Path, width: int = 3, episodes: int = EPISODES) -> Path:
    rows = np.random.default_rng(5).uniform(-1, 1, (episodes * STEPS, width)).astype(np.float32)
    np.savez(path, observations=rows, episode=np.repeat(np.arange(episodes), STEPS))
    return path


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedAgent:
    """An agent that solves PICK, on a log."""
    folder = tmp_path_factory.mktemp("agents")
    source = Source(save_picker(folder / "agent.zip"))
    return on_log(open_agent(source, "dqn", None), write_log(folder / "log.npz"))


def planned(opened: OpenedAgent, **changes: Any) -> PressConfig:
    student = STUDENT | changes.pop("student", {})
    return plan_pressing(opened, student=student, **{"hidden": (12, 12), **changes})


def test_a_student_of_a_log(opened: OpenedAgent, tmp_path: Path) -> None:
    config = planned(opened)
    assert (config.env, config.student.states) == ("", 9 * STEPS)
    result = press(opened, config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json", "policy.policy", "result.json"}
    assert from_json(PressConfig, result["config"]) == config
    assert not {"evaluation", "teacher", "kept"} & result.keys()
    found = result["agreement"]
    assert (found["measure"], found["episodes"], found["observations"]) == (MEASURES[False], 3, 3 * STEPS)
    assert found["recorded"] == {
        "file": "log.npz", "episodes": 12, "observations": 12 * STEPS, "held_out_observations": 3 * STEPS
    }  # fmt: skip
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["mean"] > 0.85
    assert found["constant"] < 0.5
    assert result["notes"] == []

    policy = pp.load(tmp_path / "policy.policy")
    assert policy.results == {"agreement": found}
    assert policy.provenance["recorded"] == found["recorded"]
    assert "env" not in policy.provenance
    assert "3 held-out episodes of log.npz" in contract_rows(policy)["agreement"]
    assert opened.recorded is not None
    assert list(agreement_on(policy, opened.teacher, opened.recorded).episodes) == found["values"]
    assert press(opened, config, tmp_path) == result
    again = press(opened, config, tmp_path / "again")
    assert (again["agreement"], again["size"]) == (found, result["size"])


def test_a_run_that_was_interrupted_goes_on_in_the_log(opened: OpenedAgent, tmp_path: Path) -> None:
    config = planned(opened).student
    assert opened.recorded is not None
    states = [RecordedStates(opened.recorded, seed=1) for _ in range(3)]
    whole = Distillation(opened.teacher, states[0], config)
    whole.run()
    begun = Distillation(opened.teacher, states[1], config, tmp_path)
    assert not begun.run(seconds=0.0)
    rest = Distillation(opened.teacher, states[2], config, tmp_path)
    rest.run()
    assert encode_payload(rest.freeze()) == encode_payload(whole.freeze())


def test_compress_takes_a_log_too(opened: OpenedAgent) -> None:
    assert opened.recorded is not None
    bits = CompressionConfig(weight_bits=8, quantize_start=0.5)
    config = DistillConfig(bits, hidden=(8,), states=opened.recorded.steps, **STUDENT)
    policy = compress(opened.teacher, RecordedStates(opened.recorded, seed=1), config)
    assert agreement_on(policy, opened.teacher, opened.recorded).episodes > (0.7,) * 3


def test_a_log_of_one_episode_says_less(opened: OpenedAgent, tmp_path: Path) -> None:
    np.save(tmp_path / "log.npy", np.random.default_rng(0).uniform(-1, 1, (300, 3)))
    one = on_log(replace(opened, recorded=None), tmp_path / "log.npy")
    result = press(one, planned(one, student={"batches": 100}), tmp_path / "run")
    assert result["agreement"].keys() & {"low", "high", "worst_tenth", "mean"} == {"mean"}
    assert result["notes"][0].startswith("the log is one episode: its last fifth was held out")


def test_what_a_log_cannot_tell_is_refused(opened: OpenedAgent, tmp_path: Path) -> None:
    for settings, sentence in (
        ({"keep": 0.9, "minutes": 1.0}, "compare returns, which a log does not tell: give --env, or press single"),
        ({"bytes": 99, "minutes": 1.0}, "compare returns, which a log does not tell"),
        ({"episodes": 9}, "no episode is played where --observations stand for an environment: leave --episodes out"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            plan_pressing(opened, settings=settings)
    for method in ("finetune", "evolve"):
        with pytest.raises(ConfigError, match=f"--method {method} plays in the environment: give --env"):
            planned(opened, method=method, settings={"steps": 1000})
    with pytest.raises(ConfigError, match=r"leaves 540 observations to learn from, fewer than a batch has \(700\)"):
        planned(opened, student={"batch_size": 700})
    with pytest.raises(ConfigError, match="say where the agent's observations come from: give --env, or a log"):
        planned(replace(opened, recorded=None))
    with pytest.raises(ConfigError, match=r"the log is not open: give the agent as policypress\.rl\.logs\.on_log"):
        press(opened.source, planned(opened), tmp_path / "run")
    for places in ({"env": PICK}, {"observations": ""}):
        with pytest.raises(ConfigError, match="states come from an environment or from a log: give --env or"):
            replace(planned(opened), **places)
    assert not (tmp_path / "run").exists()


# What is measured


def recorded(*lengths: int) -> Recorded:
    rng = np.random.default_rng(1)
    episodes = tuple(rng.uniform(-1, 1, (length, 2)).astype(np.float32) for length in lengths)
    return Recorded(Path("log.npz"), episodes, episodes, len(episodes))


class Acts:
    """Stands for a policy: what it does is a function of the observation."""

    def __init__(self, action: ActionTransform, function: Any) -> None:
        self.action, self._function = action, function

    def predict(self, observation: Any, state: Any = None) -> tuple[Any, None]:
        return self._function(observation), None


def test_agreement_of_actions_is_the_variance_explained_of_the_worst() -> None:
    action = ActionTransform("box", (2,), low=np.float32([-2, -2]), high=np.float32([2, 2]))
    teacher = Teacher(None, ObservationTransform((2,), "float32"), action, answers=lambda x: x)
    log = recorded(30, 50)
    found: Any = agreement_on(Acts(action, lambda x: x + np.float32([0.0, 0.3])), teacher, log)  # type: ignore[arg-type]
    variance = np.concatenate(log.held_out)[:, 1].var()
    assert found.episodes == pytest.approx([1 - 0.09 / variance] * 2, rel=1e-5)
    assert found.constant == pytest.approx(0.0, abs=0.05)
    assert agreement_on(Acts(action, lambda x: x), teacher, log).episodes == (1.0, 1.0)  # type: ignore[arg-type]
    still = replace(teacher, answers=lambda x: torch.zeros_like(x))
    nearly = agreement_on(Acts(action, lambda x: 0 * x + np.float32(1e-3)), still, log)  # type: ignore[arg-type]
    assert nearly.episodes == pytest.approx([0.75] * 2, rel=1e-3)


def test_agreement_of_choices_is_how_many_are_the_same() -> None:
    action = ActionTransform("multi-binary", (2,), "int64")
    teacher = Teacher(None, ObservationTransform((2,), "float32"), action, "logits", answers=lambda x: x)
    log = recorded(40, 8)
    found: Any = agreement_on(Acts(action, lambda x: (x > [0, 2]).astype(int)), teacher, log)  # type: ignore[arg-type]
    assert found.episodes == tuple(float(np.mean(episode[:, 1] <= 0)) for episode in log.held_out)
    assert found.constant < 0.5


# Agents without their environments


@pytest.mark.parametrize(
    ("algo", "env"), [("sac", FOLLOW), ("dqn", PICK), ("ppo", CHOOSE), ("a2c", SWITCH), ("ppo", NAMED)]
)
@pytest.mark.parametrize("trust", [False, True])
def test_an_agent_tells_its_spaces(algo: str, env: str, trust: bool, tmp_path: Path) -> None:
    model = multi_input(algo, env) if env == NAMED else agent(algo, env)
    model.save(tmp_path / "agent.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = load_agent(tmp_path / "agent.zip", algo, env, trust=trust)
        alone = load_agent(tmp_path / "agent.zip", algo, None, trust=trust)
    for name in ("shape", "dtype", "image"):
        assert getattr(alone.observation, name) == getattr(here.observation, name)
    for name in ("kind", "shape", "dtype", "squash", "start", "nvec"):
        assert getattr(alone.action, name) == getattr(here.action, name)
    for bound in ("low", "high"):
        np.testing.assert_array_equal(getattr(alone.action, bound), getattr(here.action, bound))
    x = torch.rand(5, *alone.observation.shape)
    assert torch.equal(alone.teacher.outputs(x), here.teacher.outputs(x))


def multi_input(algo: str, env: str) -> Any:
    return ADAPTERS[algo].model_class("MultiInputPolicy", gym.make(env), n_steps=20, batch_size=10, device="cpu")


def test_an_agent_that_does_not_tell_its_spaces(tmp_path: Path) -> None:
    save_picker(tmp_path / "agent.zip")
    with ZipFile(tmp_path / "agent.zip") as archive, ZipFile(tmp_path / "other.zip", "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "data":
                data = json.loads(content)
                data["action_space"][":serialized:"] = "AAAA"
                content = json.dumps(data).encode()
            other.writestr(name, content)
    with pytest.raises(UnsupportedError, match="does not tell its action_space: name its environment with --env"):
        load_agent(tmp_path / "other.zip", "dqn", None)
