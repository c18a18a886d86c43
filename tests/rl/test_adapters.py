"""Adapters: for every algorithm the deployed path, what values it, and what a student imitates."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

import policypress as pp
from policypress.compression.recurrent import Recurrent
from policypress.config import CompressionConfig, DistillConfig, Hidden, TrainConfig
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy import reference
from policypress.policy.artifact import pack
from policypress.policy.description import contract_rows
from policypress.rl import CompressionCallback, adapters, evaluate
from policypress.rl.adapters import ADAPTERS, NAMES, Adapter, adapter_named
from policypress.rl.callback import attach
from policypress.rl.compress import compress
from quick import covering
from rl.toys import (
    AIM,
    CHOOSE,
    CHOOSE_OTHER,
    FOLLOW,
    LOOK,
    PICK,
    PRESSED,
    SWITCH,
    agent,
    learn,
    random_observations,
)

CONTINUOUS = ["sac", "td3", "ddpg", "tqc", "crossq"]
VALUES = ["dqn", "qrdqn"]
ON_POLICY = ["ppo", "a2c", "trpo", "recurrent_ppo"]
CASES = [
    *((algo, env) for algo in CONTINUOUS for env in (FOLLOW, AIM) if (algo, env) != ("crossq", AIM)),
    *((algo, env) for algo in VALUES for env in (PICK, LOOK)),
    # sb3-contrib cannot train recurrent agents of binary actions: its buffer keeps them as int8.
    *((algo, env) for algo in ON_POLICY for env in (FOLLOW, PICK, CHOOSE, SWITCH) if (algo[0], env) != ("r", SWITCH)),
    ("ppo", LOOK),
    ("a2c", AIM),
    ("ars", FOLLOW),
    ("ars", PICK),
]
NOT_WHILE_LEARNING = ["crossq", "qrdqn", "trpo", "recurrent_ppo", "ars"]
PRESSABLE = [(algo, env) for algo, env in CASES if algo not in NOT_WHILE_LEARNING]


@cache
def trained(algo: str, env: str) -> Any:
    """An agent after 60 steps; tests must not train it."""
    model = agent(algo, env, learning_rate=3e-3)
    model.learn(60)
    model.policy.set_training_mode(False)
    return model


def deployed_outputs(model: Any, observations: NDArray[Any]) -> torch.Tensor:
    """Outputs before the action transform, by way of Stable-Baselines3's own modules."""
    policy = model.policy
    policy.set_training_mode(False)
    tensor, _ = policy.obs_to_tensor(observations)
    with torch.no_grad():
        if hasattr(policy, "action_net") and not hasattr(
            policy, "mlp_extractor"
        ):  # ARS: one network, its tanh included
            features = policy.extract_features(tensor, policy.features_extractor)
            return policy.action_net[: -1 if policy.squash_output else None](features)
        if hasattr(policy, "action_net"):
            features = policy.extract_features(tensor)
            actors = features if policy.share_features_extractor else features[0]
            if hasattr(policy, "lstm_actor"):  # an episode begins in every row
                actors = policy.lstm_actor(actors[None])[0][0]
            return policy.action_net(policy.mlp_extractor.forward_actor(actors))
        if hasattr(policy, "q_net"):
            return policy.q_net(tensor)
        if hasattr(policy, "quantile_net"):
            return policy.quantile_net(tensor).mean(dim=1)
        actor = policy.actor
        features = actor.extract_features(tensor, actor.features_extractor)
        if hasattr(actor, "latent_pi"):
            return actor.mu(actor.latent_pi(features))
        return actor.mu[:-1](features)


# The deployed path


def test_every_algorithm_is_tested() -> None:
    assert {algo for algo, _ in CASES} == set(NAMES) == set(ADAPTERS)


@pytest.mark.parametrize(("algo", "env"), covering(CASES))
def test_the_frozen_policy_acts_as_the_agent(algo: str, env: str) -> None:
    model = trained(algo, env)
    policy, observations = pp.freeze(model), random_observations(model)
    outputs = policy.outputs(observations)
    assert (outputs.std(axis=0) > 0).all()
    np.testing.assert_allclose(outputs, deployed_outputs(model, observations), rtol=1e-4, atol=1e-5)
    actions, expected = policy.predict(observations)[0], model.predict(observations, deterministic=True)[0]
    assert actions.dtype == (np.int64 if env == SWITCH else expected.dtype)
    assert actions.shape == expected.shape
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)
    assert policy.provenance["algo"] == algo
    assert model.action_space.contains(policy.predict(observations[0])[0])
    assert (policy.test_vectors is not None) == (algo != "ars")  # which keeps no observations


@pytest.mark.parametrize(("algo", "env"), covering(PRESSABLE))
def test_what_was_pressed_while_learning_is_what_is_frozen(algo: str, env: str) -> None:
    image = env in (LOOK, AIM)
    model = agent(algo, env, learning_rate=1e-4 if image else 3e-3)
    compressor = learn(model, replace(PRESSED, sparsity=0.5), steps=100)
    policy, observations = pp.freeze(model), random_observations(model)
    if image:  # noise alone looks the same to a convolution
        observations = (observations * np.linspace(0, 1, len(observations))[:, None, None, None]).astype(np.uint8)
    assert policy.numerics == "integer"
    expected = deployed_outputs(model, observations)
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(policy.outputs(observations), expected)
    weights = [node.module.weight for node in compressor.graph.layers]
    assert [int((weight == 0).sum()) for weight in weights] == compressor.target_zeros
    np.testing.assert_allclose(
        policy.predict(observations)[0], model.predict(observations, deterministic=True)[0], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("algo", NOT_WHILE_LEARNING)
def test_what_cannot_be_pressed_while_learning_says_what_can(algo: str) -> None:
    model = agent(algo, PICK if algo == "qrdqn" else FOLLOW)
    with pytest.raises(UnsupportedError, match=r"cannot be pressed while it learns .*--method distill\.$"):
        model.learn(60, callback=CompressionCallback(PRESSED))
    assert model.num_timesteps == 0


def test_crossq_without_normalization_is_pressed_like_sac() -> None:
    model = agent("crossq", FOLLOW, {"batch_norm": False})
    learn(model, PRESSED, steps=100)
    observations = random_observations(model)
    np.testing.assert_array_equal(pp.freeze(model).outputs(observations), deployed_outputs(model, observations))


def test_crossq_normalization_is_folded_as_it_stands() -> None:
    model = trained("crossq", FOLLOW)
    norms = [module for module in model.actor.modules() if type(module).__name__ == "BatchRenorm1d"]
    assert len(norms) == 3
    with torch.no_grad():  # far from the identity
        for norm in norms:
            norm.ra_mean.normal_()
            norm.ra_var.uniform_(0.2, 4.0)
            norm.scale.uniform_(-2.0, 2.0)
            norm.bias.normal_()
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    observations = random_observations(model)
    graph = ADAPTERS["crossq"].graph(model)
    assert [type(node.module) for node in graph.layers] == [nn.Linear] * 3
    np.testing.assert_allclose(
        pp.freeze(model).outputs(observations), deployed_outputs(model, observations), rtol=1e-4, atol=1e-4
    )
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())


def test_the_quantiles_of_qrdqn_are_averaged_in_its_last_layer() -> None:
    model = trained("qrdqn", PICK)
    last = ADAPTERS["qrdqn"].graph(model).layers[-1].module
    assert last.weight.shape == (3, 16)
    assert model.quantile_net.quantile_net[-1].weight.shape == (600, 16)


@pytest.mark.parametrize("share", [True, False])
def test_on_policy_agents_deploy_the_extractor_of_their_actor(share: bool) -> None:
    model = agent("ppo", LOOK, {"share_features_extractor": share})
    with torch.no_grad():
        model.policy.value_net.weight.add_(1.0)
        if not share:
            for parameter in model.policy.vf_features_extractor.parameters():
                parameter.normal_()
    observations = random_observations(model)
    np.testing.assert_allclose(
        pp.freeze(model).outputs(observations), deployed_outputs(model, observations), rtol=1e-4, atol=1e-5
    )


def test_the_critic_beside_a_pressed_ppo_actor_learns_on() -> None:
    model = agent("ppo", FOLLOW)
    compressor = attach(model, CompressionConfig(sparsity=0.5, prune_start=0.0, prune_end=0.0), 100)
    compressor.step(100)
    value, actor = model.policy.value_net.weight.detach().clone(), model.policy.action_net.weight.detach().clone()
    model.learn(40)
    assert (model.policy.value_net.weight != value).all()
    assert (model.policy.value_net.weight != 0).all()
    assert (model.policy.action_net.weight != actor).any()
    assert [int((node.module.weight == 0).sum()) for node in compressor.graph.layers] == compressor.target_zeros


def test_a_window_within_the_first_rollout_is_refused() -> None:
    model = agent("ppo", FOLLOW, n_steps=90)
    with pytest.raises(ConfigError, match=r"before learning starts at step 90: .*n_steps of on-policy algorithms"):
        model.learn(100, callback=CompressionCallback(PRESSED))


@pytest.mark.parametrize("algo", ["td3", "ddpg"])
def test_target_actors_follow_the_masks(algo: str) -> None:
    model = agent(algo, FOLLOW)
    learn(model, replace(PRESSED, weight_bits=32), steps=100)
    for graph in ADAPTERS[algo].targets(model):
        for target, node in zip(graph.layers, ADAPTERS[algo].graph(model).layers, strict=True):
            assert target.module is not node.module
            assert not target.module.weight[node.module.weight == 0].any()


# Architectures


@pytest.mark.parametrize("algo", NAMES)
def test_default_hidden_is_the_stock_network(algo: str) -> None:
    adapter = adapter_named(algo)
    env = PICK if algo in VALUES else FOLLOW
    stock = agent(algo, env, {"net_arch": None})
    assert adapter.default_parameters(stock) == adapter.graph(stock).parameters
    assert adapter.default_parameters(agent(algo, env)) == adapter.default_parameters(stock)


@pytest.mark.parametrize("hidden", [(5, 6), "none"])
@pytest.mark.parametrize("algo", NAMES)
def test_hidden_narrows_the_deployed_network_alone(algo: str, hidden: Hidden) -> None:
    adapter, env = adapter_named(algo), PICK if algo in VALUES else FOLLOW
    kwargs = adapter.policy_kwargs(TrainConfig(algo, env, 100, hidden=hidden))
    model, stock = agent(algo, env, kwargs), agent(algo, env, {"net_arch": None})
    layers = [node for node in adapter.graph(model).layers if not isinstance(node.owner, Recurrent)]
    assert [node.module.weight.shape[0] for node in layers][:-1] == ([] if hidden == "none" else [5, 6])
    beside = [name for name in model.policy.state_dict() if name.startswith(("critic.", "mlp_extractor.value_net."))]
    assert bool(beside) == (algo not in (*VALUES, "ars"))
    for name in beside:
        assert model.policy.state_dict()[name].shape == stock.policy.state_dict()[name].shape


# For students


@pytest.mark.parametrize(("algo", "env"), [case for case in CASES if case[0] in CONTINUOUS])
def test_critics_value_scaled_actions_as_stable_baselines_does(algo: str, env: str) -> None:
    model = trained(algo, env)
    model.policy.set_training_mode(True)
    critics = ADAPTERS[algo].critics(model)
    assert len(critics) == (1 if algo == "ddpg" else 2)
    observations = random_observations(model, 20)
    actions = torch.empty(20, model.action_space.shape[0]).uniform_(-1, 1).requires_grad_()
    seen = torch.as_tensor(observations.astype(np.float32) / (255 if env == AIM else 1))
    expected = model.critic(torch.as_tensor(observations), actions)
    if algo == "tqc":
        expected = expected.mean(dim=2, keepdim=True).unbind(dim=1)
    assert not model.critic.training
    for critic, wanted in zip(critics, expected, strict=True):
        values = critic(seen, actions)
        assert values.shape == (20, 1)
        assert values.std() > 0
        torch.testing.assert_close(values, wanted)
        assert torch.autograd.grad(values.sum(), actions)[0].abs().sum() > 0


@pytest.mark.parametrize(("algo", "env"), [case for case in CASES if case[0] not in CONTINUOUS])
def test_other_algorithms_have_no_critic_of_actions(algo: str, env: str) -> None:
    assert ADAPTERS[algo].critics(trained(algo, env)) == []


def test_what_is_imitated_follows_algorithm_and_actions() -> None:
    for algo, env in CASES:
        adapter = ADAPTERS[algo]
        imitation = adapter.imitation(adapter.action_transform(trained(algo, env)))
        wanted = "values" if algo in VALUES else "action" if env in (FOLLOW, AIM) else "logits"
        assert imitation == wanted, (algo, env)


# Refusals


@pytest.mark.parametrize(
    ("algo", "space", "sentence"),
    [
        ("sac", spaces.MultiBinary(3), "SAC needs Box actions, not MultiBinary"),
        ("ppo", spaces.MultiBinary((3, 2)), r"multi-binary actions of shape \(3, 2\) must be flattened"),
        ("td3", spaces.Discrete(3), "TD3 needs Box actions, not Discrete"),
        ("ppo", spaces.MultiDiscrete([2, 2], start=[0, 1]), r"actions that count from \[0 1\]"),
        ("ppo", spaces.MultiDiscrete([[2, 2]]), r"multi-discrete actions of shape \(1, 2\)"),
    ],
)
def test_action_spaces_that_cannot_be_served(algo: str, space: Any, sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        ADAPTERS[algo].check_spaces(spaces.Box(-1, 1, (3,), np.float32), space)


def test_without_sb3_contrib_its_algorithms_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    spec = importlib.util.spec_from_file_location("adapters_alone", adapters.__file__)
    assert spec is not None
    assert spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert set(alone.ADAPTERS) == {"sac", "td3", "ddpg", "dqn", "ppo", "a2c"}
    for algo in set(NAMES) - set(alone.ADAPTERS):
        with pytest.raises(ConfigError, match=f"algo='{algo}' needs a package that is missing: pip install sb3-contri"):
            alone.adapter_named(algo)
    assert alone.ADAPTERS["sac"].graph(trained("sac", FOLLOW)).parameters > 0


def test_names_are_those_of_the_adapters() -> None:
    assert all(isinstance(adapter, Adapter) and adapter.name == name for name, adapter in ADAPTERS.items())
    with pytest.raises(ConfigError, match="algo='her' is not one of sac, "):
        adapter_named("her")


# Actions of several choices


def test_multi_binary_actions_reach_the_environment(tmp_path: Any) -> None:
    model = agent("ppo", SWITCH, learning_rate=3e-3)
    learn(model, replace(PRESSED, sparsity=0.5), steps=200)
    path = tmp_path / "switch.policy"
    pp.freeze(model).save(path)
    policy = pp.load(path)
    assert (policy.action.kind, policy.numerics) == ("multi-binary", "integer")
    assert contract_rows(policy)["gives"] == "3 values, 1 for every output above 0, else 0"
    observations = random_observations(model)
    actions = policy.predict(observations)[0]
    assert len(np.unique(actions, axis=0)) > 2
    np.testing.assert_array_equal(actions, policy.predict(observations, reference=True)[0], strict=True)
    decided = (np.abs(policy.outputs(observations)) > 1e-6).all(1)
    assert decided.sum() > 90
    own = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(actions[decided], own[decided])
    assert len(evaluate(policy, SWITCH, episodes=3).returns) == 3
    with pytest.raises(ConfigError, match="which this policy does not give"):
        evaluate(policy, CHOOSE, episodes=1)
    np.testing.assert_array_equal(reference.act(policy.action, np.float32([[0.0, -0.0, 1e-30]])), [[0, 0, 1]])


def test_agents_of_every_kind_of_action_are_distilled_and_packed(tmp_path: Any) -> None:
    config = DistillConfig(CompressionConfig(weight_bits=8), hidden=(8, 8), batches=200, batch_size=32, states=800)
    for env in (FOLLOW, PICK, CHOOSE, SWITCH):
        policy = compress(agent("ppo", env), env, config)
        (tmp_path / "packed.bin").write_bytes(pack(policy))
        observations = random_observations(agent("ppo", env))
        packed = pp.load(tmp_path / "packed.bin")
        np.testing.assert_array_equal(packed.predict(observations)[0], policy.predict(observations)[0], strict=True)


def test_multi_discrete_actions_reach_the_environment(tmp_path: Any) -> None:
    model = agent("ppo", CHOOSE)
    model.learn(40)
    path = tmp_path / "choose.policy"
    pp.freeze(model).save(path)
    policy = pp.load(path)
    assert policy.action.nvec == (2, 3)
    assert contract_rows(policy)["gives"] == "index of the largest output in each group of 2, 3"
    observations = random_observations(model)
    actions = policy.predict(observations)[0]
    assert {tuple(action) for action in actions} > {tuple(actions[0])}
    np.testing.assert_array_equal(actions, model.predict(observations, deterministic=True)[0])
    assert len(evaluate(policy, CHOOSE, episodes=3).returns) == 3
    with pytest.raises(ConfigError, match="which this policy does not give"):
        evaluate(policy, CHOOSE_OTHER, episodes=1)
