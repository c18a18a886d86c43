"""Stable-Baselines3 agents that act otherwise than their layers one after another are noticed wherever they come in;
those that only explore otherwise (gSDE) come in with their own actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor, SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig
from policypress.errors import UnsupportedError
from policypress.policy import reference
from policypress.rl.adapters import ADAPTERS, check_graph
from policypress.rl.agents import load_agent, teacher_of
from policypress.rl.callback import CompressionCallback, attached_compressor
from policypress.rl.compress import compress, post_training
from policypress.rl.teacher import acting
from rl.toys import FOLLOW, LOOK, PICK, PRESSED, agent, draw, random_observations

SMALL = {"learning_starts": 20, "batch_size": 16, "buffer_size": 500, "device": "cpu", "seed": 0}
NETWORK = {"net_arch": [16, 16]}


class ShyActor(Actor):
    def get_action_dist_params(self, obs: Any) -> Any:
        mean, log_std, kwargs = super().get_action_dist_params(obs)
        return mean / 2, log_std, kwargs


class ShySAC(SACPolicy):
    def make_actor(self, features_extractor: Any = None) -> Any:
        return ShyActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


class TurnedTD3Actor(TD3Actor):
    def forward(self, obs: Any) -> torch.Tensor:
        return -super().forward(obs)


class TurnedTD3(TD3Policy):
    def make_actor(self, features_extractor: Any = None) -> Any:
        return TurnedTD3Actor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


class ScaledQ(QNetwork):
    def forward(self, obs: Any) -> torch.Tensor:
        return super().forward(obs * 3)


class ScaledDQN(DQNPolicy):
    def make_q_net(self) -> Any:
        return ScaledQ(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)


class WorstDQN(DQNPolicy):
    def _predict(self, obs: Any, deterministic: bool = True) -> torch.Tensor:
        return self.q_net(obs).argmin(dim=1)


class StandardizedPPO(ActorCriticPolicy):
    def get_distribution(self, obs: Any) -> Any:
        return super().get_distribution((obs - 0.3) / 0.7)


class DistributionPPO(ActorCriticPolicy):
    def get_distribution(self, obs: Any) -> Any:
        features = super().extract_features(obs, self.pi_features_extractor)
        return self._get_action_dist_from_latent(torch.tanh(self.mlp_extractor.forward_actor(features)))


class OtherPredictPPO(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) * 0.5


class ClampedPPO(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation.clamp(-100.0, 100.0), deterministic)


class RulePPO(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) * (observation[:, :1].abs() <= 50.0)


class LittleMorePPO(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) * 1.0005


class LittleMoreSAC(SACPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) * 1.0005


class ClampedPartsPPO(MultiInputActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        clamped = {name: part.clamp(-5.0, 5.0) for name, part in observation.items()}
        return super()._predict(clamped, deterministic)


class Unbounded(gym.Env[Any, Any]):
    """Observations without bounds, in one piece or several."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, parts: bool = False) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict({"place": box, "room": spaces.Discrete(3)}) if parts else box

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, True, {}


def unbounded(policy: Any, parts: bool = False) -> Any:
    model = PPO(policy, Unbounded(parts), n_steps=20, batch_size=10, device="cpu", seed=0)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(10.0)
    return model


def clear_sac() -> Any:
    model = SAC(LittleMoreSAC, FOLLOW, policy_kwargs=dict(NETWORK), **SMALL)
    with torch.no_grad():
        model.actor.mu.weight.mul_(10.0)
    return model


def hooked() -> Any:
    model = agent("ppo", FOLLOW)
    model.policy.action_net.register_forward_hook(lambda module, inputs, output: output + 0.1)
    return model


OWN: dict[str, Callable[[], Any]] = {
    "sac actor": lambda: SAC(ShySAC, FOLLOW, policy_kwargs=dict(NETWORK), **SMALL),
    "td3 actor": lambda: TD3(TurnedTD3, FOLLOW, policy_kwargs=dict(NETWORK), **SMALL),
    "dqn forward": lambda: DQN(ScaledDQN, PICK, policy_kwargs=dict(NETWORK), **SMALL),
    "dqn predict": lambda: DQN(WorstDQN, PICK, policy_kwargs=dict(NETWORK), **SMALL),
    "ppo features": lambda: PPO(StandardizedPPO, PICK, n_steps=20, batch_size=10, device="cpu"),
    "a2c distribution": lambda: A2C(DistributionPPO, FOLLOW, n_steps=20, device="cpu"),
    "ppo predict": lambda: PPO(OtherPredictPPO, FOLLOW, n_steps=20, batch_size=10, device="cpu"),
    "hook": hooked,
    "ppo clamps large": lambda: unbounded(ClampedPPO),
    "ppo rule for large": lambda: unbounded(RulePPO),
    "ppo clamps a part": lambda: unbounded(ClampedPartsPPO, parts=True),
    "ppo a little more": lambda: unbounded(LittleMorePPO),
    "sac a little more": clear_sac,
}
NUMBERS = r"^this \w+ agent answers .* where the layers one after another give .* of scale"


@pytest.mark.parametrize("kind", OWN)
def test_an_agent_with_its_own_way_is_noticed_at_every_door(kind: str, tmp_path: Path) -> None:
    model = OWN[kind]()
    with pytest.raises(UnsupportedError, match=NUMBERS):
        pp.freeze(model)
    with pytest.raises(UnsupportedError, match=NUMBERS):
        teacher_of(model)
    with pytest.raises(UnsupportedError, match=NUMBERS):
        model.learn(60, callback=CompressionCallback(CompressionConfig(sparsity=0.5)))
    assert attached_compressor(model) is None
    if kind == "hook" or model.get_env().get_attr("spec")[0] is None:  # is not saved; has no id
        return
    model.save(tmp_path / "agent.zip")
    algo, env = type(model).__name__.lower(), model.get_env().get_attr("spec")[0].id
    with pytest.raises(UnsupportedError, match=NUMBERS):
        load_agent(tmp_path / "agent.zip", algo, env, trust=True)


@pytest.mark.parametrize("parts", [False, True])
def test_large_observations_are_no_reason_to_refuse(parts: bool) -> None:
    model = unbounded("MultiInputPolicy" if parts else "MlpPolicy", parts)
    assert pp.freeze(model).numerics == "float"


def test_a_subclass_that_changes_nothing_is_pressed() -> None:
    class Logged(ActorCriticPolicy):
        def get_distribution(self, obs: Any) -> Any:
            return super().get_distribution(obs)

    model = PPO(Logged, FOLLOW, n_steps=20, batch_size=10, device="cpu")
    assert pp.freeze(model).numerics == "float"


@pytest.mark.parametrize(("algo", "env"), [("sac", FOLLOW), ("dqn", LOOK), ("crossq", FOLLOW), ("ppo", PICK)])
def test_an_agent_that_is_asked_is_left_as_it_was(algo: str, env: str) -> None:
    model = agent(algo, env)
    model.learn(40)
    model.policy.set_training_mode(True)
    modes = [module.training for module in model.policy.modules()]
    state = {name: value.clone() for name, value in model.policy.state_dict().items()}
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=True)[1].copy()  # noqa: NPY002
    check_graph(model, ADAPTERS[algo].graph(model))
    pp.freeze(model)
    assert [module.training for module in model.policy.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.policy.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state(legacy=True)[1], numpy_before)  # noqa: NPY002


# gSDE


LIMIT = float(np.float32(2.0) * np.tanh(2.0))
"""Of the first action of FOLLOW, whose bounds are -2 and 2, where the mean is clipped to 2."""


def gsde(algo: str, **policy_kwargs: Any) -> Any:
    return agent(algo, FOLLOW, policy_kwargs, use_sde=True, learning_rate=1e-2)


@pytest.mark.parametrize("algo", ["sac", "tqc", "ppo", "a2c"])
@pytest.mark.parametrize("trust", [False, True])
def test_gsde_agents_open_with_their_own_actions(algo: str, trust: bool, tmp_path: Path) -> None:
    model = gsde(algo)
    model.learn(60)
    model.save(tmp_path / "agent.zip")
    opened = load_agent(tmp_path / "agent.zip", algo, FOLLOW, trust=trust)
    observations = 20 * random_observations(model)  # so that means reach the clip
    teacher = teacher_of(opened)
    actions = acting(teacher, teacher.outputs)(observations)
    np.testing.assert_allclose(actions, model.predict(observations, deterministic=True)[0], atol=1e-5)
    for policy in (teacher.policy(), pp.freeze(model)):
        np.testing.assert_allclose(policy.predict(observations)[0], actions, atol=1e-5)
    if algo in ("sac", "tqc"):
        assert np.isclose(np.abs(actions[:, 0]).max(), LIMIT, atol=1e-5)


@pytest.mark.parametrize(("algo", "kwargs"), [("ppo", {}), ("a2c", {}), ("sac", {"clip_mean": 0.0})])
def test_gsde_agents_are_pressed_while_they_learn(algo: str, kwargs: dict[str, Any]) -> None:
    model = gsde(algo, **kwargs)
    model.learn(100, callback=CompressionCallback(PRESSED))
    policy, observations = pp.freeze(model), random_observations(model)
    assert policy.numerics == "integer"
    actions = policy.predict(observations)[0]
    np.testing.assert_allclose(actions, model.predict(observations, deterministic=True)[0], atol=1e-5)
    assert len(np.unique(actions, axis=0)) > 3


@cache
def saturated(algo: str) -> Any:
    """An agent most of whose means lie beyond the clip, some of them far."""
    model = gsde(algo)
    with torch.no_grad():
        model.actor.mu[0].weight.mul_(100.0)
        model.actor.mu[0].bias.mul_(-100.0)
    return model


def apart(policy: Any, model: Any) -> Any:
    """How far the policy's actions are from the agent's."""
    observations = draw(model.observation_space, seed=1)(None, None, 0.0, 300)
    wanted = model.predict(observations, deterministic=True)[0]
    assert np.isclose(np.abs(wanted[:, 0]).max(), LIMIT, atol=1e-5)
    return np.abs(policy.predict(observations)[0] - wanted)


@pytest.mark.parametrize("algo", ["sac", "tqc", "crossq"])
def test_a_clipped_mean_is_frozen_as_layers(algo: str) -> None:
    model = saturated(algo)
    policy = pp.freeze(model)
    assert apart(policy, model).max() <= 1e-5
    assert [layer.name for layer in policy.layers[-2:]] == ["mu.0.above", "mu.0.below"]
    assert policy.baseline_bytes == teacher_of(model).baseline_bytes  # the agent's own layers alone


@pytest.mark.parametrize(
    ("compression", "hidden", "bound"),
    [
        ({}, (), 1e-5),
        ({"weight_bits": 8}, (), 0.1),
        ({"weight_bits": 8, "sparsity": 0.2}, (), 0.6),
        ({"weight_bits": 8, "sparsity": 0.2, "criterion": "flow", "allocation": "global"}, (), 0.6),
        ({}, (12, 12), 0.6),
    ],
)
def test_what_is_pressed_without_training_keeps_the_clip(
    compression: dict[str, Any], hidden: tuple[int, ...], bound: float
) -> None:
    model = saturated("sac")
    config = DistillConfig(CompressionConfig(**compression), hidden=hidden, states=800, batch_size=32)
    policy = post_training(model, draw(model.observation_space), config)
    error = apart(policy, model)
    assert np.quantile(error, 0.9) <= bound
    assert np.median(error) <= (5e-3 if compression else 1e-5)  # where both are clipped; 0.07 without
    for layer in policy.layers[-2:]:
        assert layer.nonzeros == len(layer.weight)  # and none of it is pruned


@pytest.mark.parametrize(
    "compression",
    [{}, {"weight_bits": 8, "weight_range": "learned", "rate_weight": 0.01}, {"weight_bits": 8, "sparsity": 0.5}],
)
def test_a_copy_that_is_trained_keeps_the_clip(compression: dict[str, Any]) -> None:
    model = saturated("sac")
    config = DistillConfig(CompressionConfig(**compression), batches=200, batch_size=32, states=800)
    policy = compress(model, draw(model.observation_space), config)
    assert np.median(apart(policy, model)) <= (5e-3 if compression else 1e-5)
    for layer in policy.layers[-2:]:
        assert layer.nonzeros == len(layer.weight)


def test_the_student_of_a_gsde_agent_learns_its_clipped_actions() -> None:
    model = gsde("sac")
    model.learn(60)
    config = DistillConfig(CompressionConfig(weight_bits=8), hidden=(12, 12), batches=300, batch_size=32, states=800)
    policy = compress(model, draw(model.observation_space), config)
    observations = draw(model.observation_space, seed=1)(None, None, 0.0, 200)
    error = policy.predict(observations)[0] - model.predict(observations, deterministic=True)[0]
    assert np.abs(error).mean() < 0.1


def test_a_squashed_output_of_ppo_is_squashed() -> None:
    model = gsde("ppo", squash_output=True)
    policy, observations = pp.freeze(model), random_observations(model)
    assert policy.action.squash
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(policy.predict(observations)[0], expected, atol=1e-5)
    assert reference.act(policy.action, policy.outputs(observations)).shape == expected.shape
