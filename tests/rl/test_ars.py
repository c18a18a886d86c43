"""Augmented random search: agents without gradients are trained, frozen, opened and pressed."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import ARS
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig, TrainConfig
from policypress.errors import ConfigError, PolicypressError, UnsupportedError
from policypress.rl.agents import load_agent
from policypress.rl.compress import compress
from policypress.rl.environments import make_env
from policypress.rl.press import press
from policypress.rl.sources import Source
from policypress.rl.train import TrainingFolder, train
from rl.toys import FOLLOW, PICK, plan, random_observations

POLICIES: dict[str, dict[str, Any]] = {
    "linear": {"policy": "LinearPolicy"},
    "linear with bias, squashed": {
        "policy": "LinearPolicy",
        "policy_kwargs": {"with_bias": True, "squash_output": True},
    },
    "mlp": {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [8]}},
    "mlp, clipped": {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [8], "squash_output": False}},
    "mlp as it comes": {"policy": "MlpPolicy"},
    "mlp without layers": {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": []}},
}


def environment(env: str, normalized: bool = False) -> Any:
    made: Any = DummyVecEnv([lambda: make_env(env, training=False)])
    return VecNormalize(made) if normalized else made


def ars(env: str, normalized: bool = False, **kwargs: Any) -> ARS:
    """An agent after two steps of its search."""
    policy = kwargs.pop("policy", "LinearPolicy")
    model = ARS(policy, environment(env, normalized), n_delta=2, zero_policy=False, seed=3, **kwargs)
    return model.learn(80)


@pytest.mark.parametrize("env", [FOLLOW, PICK])
@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("trust", [False, True])
def test_a_zip_opens_as_what_acts(kind: str, env: str, trust: bool, tmp_path: Path) -> None:
    model = ars(env, **POLICIES[kind])
    model.save(tmp_path / "a.zip")
    agent = load_agent(tmp_path / "a.zip", "ars", env, trust=trust)
    observations = random_observations(model)
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(agent.model.predict(observations, deterministic=True)[0], expected)
    policy = pp.freeze(model)
    np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected)) > 1
    assert len(policy.layers) == (1 if "linear" in kind or "without" in kind else 3 if "comes" in kind else 2)
    assert policy.action.squash == (env == FOLLOW and (kind not in ("linear", "mlp, clipped")))


def test_a_linear_policy_saved_before_its_layer_had_a_number(tmp_path: Path) -> None:
    model = ars(FOLLOW)
    model.save(tmp_path / "new.zip")
    with zipfile.ZipFile(tmp_path / "new.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "policy.pth":
                weights = torch.load(io.BytesIO(content), weights_only=True)
                buffer = io.BytesIO()
                torch.save({key.replace("action_net.0", "action_net"): value for key, value in weights.items()}, buffer)
                content = buffer.getvalue()
            old.writestr(name, content)
    observations = random_observations(model)
    agent = load_agent(tmp_path / "old.zip", "ars", FOLLOW)
    np.testing.assert_array_equal(agent.model.predict(observations)[0], model.predict(observations)[0])


def test_statistics_are_asked_for_and_used(tmp_path: Path) -> None:
    model = ars(FOLLOW, normalized=True)
    normalize = model.get_vec_normalize_env()
    assert normalize is not None
    model.save(tmp_path / "a.zip")
    normalize.save(tmp_path / "statistics.pkl")
    raw = random_observations(model)
    policy = pp.freeze(model)
    assert policy.observation.normalization is not None
    expected = model.predict(normalize.normalize_obs(raw))[0]
    np.testing.assert_allclose(policy.predict(raw)[0], expected, rtol=1e-5, atol=1e-5)
    agent = load_agent(tmp_path / "a.zip", "ars", FOLLOW, vecnormalize=tmp_path / "statistics.pkl")
    assert agent.observation.normalization is not None
    np.testing.assert_array_equal(agent.observation.normalization.mean, policy.observation.normalization.mean)
    ars(FOLLOW).save(tmp_path / "raw.zip")
    with pytest.raises(UnsupportedError, match="was not trained with VecNormalize"):
        load_agent(tmp_path / "raw.zip", "ars", FOLLOW, vecnormalize=tmp_path / "statistics.pkl")


def test_an_agent_is_a_teacher(tmp_path: Path) -> None:
    model = ars(PICK)
    with torch.no_grad():
        model.policy.action_net[0].weight.copy_(torch.eye(3))  # solves it
    model.save(tmp_path / "a.zip")
    config = DistillConfig(CompressionConfig(weight_bits=8), hidden=(8,), batches=400, states=2_000, learning_rate=1e-2)
    student = compress(load_agent(tmp_path / "a.zip", "ars", PICK), PICK, config)
    assert student.numerics == "integer"
    assert pp.evaluate(student, PICK, episodes=20).mean > 8.0


def settings(**changes: Any) -> TrainConfig:
    given: dict[str, Any] = {
        "env": PICK, "steps": 400, "eval_every": 100, "eval_episodes": 2, "final_episodes": 3, "hidden": (4,),
        "algo_kwargs": {"n_delta": 2, "zero_policy": False}, **changes,
    }  # fmt: skip
    return TrainConfig("ars", **given)


def test_a_run_is_frozen_in_float(tmp_path: Path) -> None:
    result = train(settings(), tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert policy.numerics == result["numerics"] == "float"
    assert policy.provenance["algo"] == "ars"
    model = ARS.load(tmp_path / "run" / "agent.zip")
    observations = random_observations(model)
    np.testing.assert_array_equal(policy.predict(observations)[0], model.predict(observations)[0])
    again = train(settings(), tmp_path / "again")
    assert again["evaluation"] == result["evaluation"]


def test_a_run_without_widths_is_linear(tmp_path: Path) -> None:
    train(settings(hidden=(), steps=80, env=FOLLOW), tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert [layer.weight.shape for layer in policy.layers] == [(2, 3)]
    assert not policy.action.squash


def test_a_run_goes_on_from_its_last_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = settings(), tmp_path / "run"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["policypress.rl.train"], "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, out)
    folder = TrainingFolder(out)
    (checkpoint,) = folder.checkpoint.glob("step-*")
    held = ARS.load(checkpoint / "agent.zip")
    assert held.num_timesteps == 400
    begun: list[Any] = []
    monkeypatch.setattr(ARS, "_do_one_update", _noting(ARS._do_one_update, begun))
    longer = replace(config, steps=480)
    (out / "config.json").write_text(json.dumps({**json.loads((out / "config.json").read_text()), "steps": 480}))
    train(longer, out, resume=True)
    step, weights = begun[0]
    assert step == 400
    torch.testing.assert_close(weights, torch.nn.utils.parameters_to_vector(held.policy.parameters()).detach())
    assert float(weights.abs().sum()) > 0


def _noting(update: Callable[..., None], begun: list[Any]) -> Callable[..., None]:
    def noted(self: Any, *arguments: Any) -> None:
        begun.append((self.num_timesteps, self.weights.clone()))
        update(self, *arguments)

    return noted


@pytest.mark.parametrize("compression", [{"sparsity": 0.5}, {"weight_bits": 8}])
def test_what_needs_gradients_is_refused_before_anything_is_written(
    compression: dict[str, Any], tmp_path: Path
) -> None:
    config = settings(compression=CompressionConfig(**compression))
    with pytest.raises(
        UnsupportedError, match=r"ARS cannot be pressed while it learns \(it learns without gradients\)"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"optimizer_kwargs": {"weight_decay": 0.1}}, {"algo_kwargs": {"gamma": 0.9}}])
def test_settings_that_it_does_not_have_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ARS"):
        train(settings(**changes), tmp_path / "run")


def test_it_cannot_be_finetuned(tmp_path: Path) -> None:
    ars(PICK).save(tmp_path / "a.zip")
    source = Source(tmp_path / "a.zip", trust=True)
    with pytest.raises(PolicypressError, match="ARS"):
        press(source, plan(source, "ars", PICK, method="finetune", settings={"steps": 100}), tmp_path / "run")
