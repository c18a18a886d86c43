"""``freeze``: what the frozen policy answers is what the trained network would."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

import policypress as pp
from policypress.compression.quantization import Phase
from policypress.config import CompressionConfig
from policypress.errors import DivergedError, PolicypressError, UnsupportedError
from policypress.policy.ops import Activation, Layer
from policypress.policy.policy import Policy
from policypress.rl import ResNetExtractor
from policypress.rl import load as load_agent
from policypress.rl.callback import attached_compressor
from quick import crossed
from rl.toys import (
    AGENTS,
    FOLLOW,
    LOOK_CHANNELS_LAST,
    PICK,
    PRESSED,
    SEEN,
    Follow,
    deployed_outputs,
    dqn,
    image_dqn,
    learn,
    met_observations,
    random_observations,
    sac,
    zeros_of,
)

CONFIGS = {
    "dense": CompressionConfig(),
    "pruned": CompressionConfig(sparsity=0.8, prune_start=0.2, prune_end=0.6),
    "integer-8": PRESSED,
    "integer-4": replace(PRESSED, weight_bits=4, activation_bits=4, input_bits=6),
    "integer-channel": replace(PRESSED, sparsity=0.5, weight_bits=3, granularity="channel", weight_range="minmax"),
    "weight-only": replace(PRESSED, activation_bits=0),
}
INTEGER = [name for name in CONFIGS if name.startswith("integer")]
ENVS = {"sac": FOLLOW, "dqn": PICK}
IMAGE_NETWORKS: dict[str, dict[str, Any]] = {
    "nature": {},
    "resnet": {"features_extractor_class": ResNetExtractor, "net_arch": []},
}


@cache
def trained(algo: str, name: str) -> Any:
    """An agent at the end of ``CONFIGS[name]``; tests must not train it."""
    model = AGENTS[algo](ENVS[algo], gamma=0.0, learning_rate=1e-2)
    learn(model, CONFIGS[name], steps=100)
    model.policy.set_training_mode(False)
    return model


@cache
def trained_on_images(network: str, activation_bits: int = 8) -> Any:
    model = image_dqn(IMAGE_NETWORKS[network])
    learn(model, replace(PRESSED, activation_bits=activation_bits), steps=40)
    model.policy.set_training_mode(False)
    return model


def observations_for(model: Any, count: int = 200) -> NDArray[Any]:
    return np.concatenate([random_observations(model, count), met_observations(model)])


def assert_alive(outputs: NDArray[Any]) -> None:
    """An all-zero or constant answer would make every comparison pass."""
    assert np.isfinite(outputs).all()
    assert (outputs.std(axis=0) > 0).any()


# Equal to the network


@pytest.mark.parametrize("name", CONFIGS)
def test_sac_actions_are_those_of_the_network(name: str) -> None:
    model = trained("sac", name)
    policy, observations = pp.freeze(model), observations_for(model)
    expected, _ = model.predict(observations, deterministic=True)
    actions, _ = policy.predict(observations, deterministic=True)
    assert_alive(expected)
    assert actions.dtype == expected.dtype
    assert actions.shape == expected.shape
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)
    for index in (0, -1):
        single, _ = policy.predict(observations[index])
        np.testing.assert_allclose(single, model.predict(observations[index], deterministic=True)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_dqn_actions_are_those_of_the_network(name: str) -> None:
    model = trained("dqn", name)
    policy, observations = pp.freeze(model), observations_for(model)
    expected, _ = model.predict(observations, deterministic=True)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(policy.predict(observations)[0], expected)
    single, _ = policy.predict(observations[0])
    assert single.shape == ()
    assert single == expected[0]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_outputs_before_the_action_are_equal_bit_for_bit_in_integers(algo: str, name: str) -> None:
    model = trained(algo, name)
    policy, observations = pp.freeze(model), observations_for(model)
    outputs, expected = policy.outputs(observations), deployed_outputs(model, observations)
    assert_alive(expected)
    if name in INTEGER:
        assert policy.numerics == "integer"
        np.testing.assert_array_equal(outputs, expected)
        assert len(np.unique(expected)) > 20
    else:
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("algo", "activation"), crossed(["sac", "dqn"], [nn.Tanh, nn.SiLU, nn.ELU, nn.GELU]))
def test_hidden_activations_are_equal_bit_for_bit_also_after_loading(
    algo: str, activation: type[nn.Module], tmp_path: Path
) -> None:
    model = AGENTS[algo](ENVS[algo], gamma=0.0, learning_rate=1e-2, policy_kwargs={"activation_fn": activation})
    learn(model, steps=100)
    model.policy.set_training_mode(False)
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", algo, env=model.get_env())
    policy, again, observations = pp.freeze(model), pp.freeze(loaded), observations_for(model)
    assert [type(op) for op in policy.ops] == [Layer, Activation, Layer, Activation, Layer]
    expected = deployed_outputs(model, observations)
    assert_alive(expected)
    for one in (policy, again):
        assert one.numerics == "integer"
        np.testing.assert_array_equal(one.outputs(observations), expected)


class Single(Follow):
    """One number in, one out, both float64."""

    observation_space = spaces.Box(-1, 1, (1,), np.float64)
    action_space = spaces.Box(-3, 1, (1,), np.float64)

    def _draw(self) -> Any:
        return self.np_random.uniform(-1, 1, 1)

    def _reward(self, action: Any) -> float:
        return -abs(float(action[0]) - float(self._shown[0]))


class PartlyConstant(Follow):
    """One of the numbers never changes from zero."""

    def _draw(self) -> Any:
        return super()._draw() * np.array([1, 0, 1], np.float32)


@pytest.mark.parametrize("kind", [Single, PartlyConstant])
def test_unusual_observations(kind: type[Follow]) -> None:
    model = sac(DummyVecEnv([kind]))
    learn(model, replace(PRESSED, sparsity=0.3), steps=60)
    policy, observations = pp.freeze(model), observations_for(model)
    expected = deployed_outputs(model, observations)
    assert_alive(expected)
    np.testing.assert_array_equal(policy.outputs(observations), expected)
    actions, (wanted, _) = policy.predict(observations)[0], model.predict(observations, deterministic=True)
    np.testing.assert_allclose(actions, wanted, rtol=0, atol=1e-5)
    assert actions.dtype == model.action_space.dtype


@pytest.mark.parametrize("network", IMAGE_NETWORKS)
def test_image_outputs_are_equal_bit_for_bit(network: str) -> None:
    model = trained_on_images(network)
    policy = pp.freeze(model)
    observations = np.concatenate([random_observations(model, 6), met_observations(model)[:10]])
    outputs, expected = policy.outputs(observations), deployed_outputs(model, observations)
    assert policy.numerics == "integer"
    assert policy.observation.image
    assert policy.observation.frame_stack == 4
    assert_alive(expected)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(policy.predict(observations)[0], model.predict(observations, deterministic=True)[0])


@pytest.mark.parametrize("network", IMAGE_NETWORKS)
def test_images_with_float_activations(network: str) -> None:
    model = trained_on_images(network, activation_bits=0)
    policy = pp.freeze(model)
    observations = np.concatenate([random_observations(model, 4), met_observations(model)[:4]])
    assert policy.numerics == "weight-only"
    expected = deployed_outputs(model, observations)
    assert_alive(expected)
    np.testing.assert_allclose(policy.outputs(observations), expected, rtol=1e-4, atol=1e-5)


def test_images_with_channels_behind() -> None:
    model = image_dqn(env=LOOK_CHANNELS_LAST)
    learn(model, steps=40)
    policy = pp.freeze(model)
    last = np.stack([model.get_env().envs[0].unwrapped._draw() for _ in range(6)])  # type: ignore[union-attr]
    first = np.moveaxis(last, -1, 1)
    assert policy.observation.shape == (4, 36, 36)
    np.testing.assert_array_equal(policy.outputs(first), deployed_outputs(model, first))
    np.testing.assert_array_equal(policy.outputs(last), policy.outputs(first))


def test_raw_images_in_a_network_that_does_not_divide_by_255_are_refused() -> None:
    model = image_dqn({"normalize_images": False})
    with pytest.raises(UnsupportedError, match="normalize_images"):
        pp.freeze(model)


@pytest.mark.parametrize("norm_obs", [True, False])
def test_normalization_around_the_environment_is_folded_in(norm_obs: bool) -> None:
    env = VecNormalize(DummyVecEnv([Follow]), norm_obs=norm_obs, clip_obs=1.5)
    model = sac(env)
    learn(model, steps=100)
    policy = pp.freeze(model)
    raw = np.concatenate([random_observations(model), met_observations(model)])
    seen = env.normalize_obs(raw)
    if norm_obs:
        assert np.abs(seen - raw).max() > 0.1
        assert np.abs(seen).max() == 1.5  # some are clipped
    expected = deployed_outputs(model, seen)
    assert_alive(expected)
    np.testing.assert_array_equal(policy.outputs(raw), expected)
    np.testing.assert_allclose(policy.predict(raw)[0], model.predict(seen, deterministic=True)[0], rtol=0, atol=1e-5)
    vectors = policy.test_vectors
    assert vectors is not None
    assert all((row == env.unnormalize_obs(row) if not norm_obs else row == row).all() for row in vectors.observations)
    assert any(np.allclose(vectors.observations[1], row) for row in met_observations(model))


def test_normalization_that_got_lost_is_refused(tmp_path: Path) -> None:
    model = sac(VecNormalize(DummyVecEnv([Follow])))
    learn(model, steps=60)
    model.save(tmp_path / "agent.zip")
    with pytest.raises(UnsupportedError, match="VecNormalize"):
        pp.freeze(load_agent(tmp_path / "agent.zip", "sac"))


def test_normalization_under_a_stack_of_frames_is_that_of_every_frame() -> None:
    inner = VecNormalize(DummyVecEnv([Follow]))
    env = VecFrameStack(inner, 2)
    for _ in range(5):
        env.reset()
    normalization = pp.freeze(sac(env)).observation.normalization
    assert normalization is not None
    statistics: Any = inner.obs_rms
    assert normalization.mean.tolist() == statistics.mean.tolist() * 2
    assert normalization.var.tolist() == statistics.var.tolist() * 2


# Which phase


def test_ranges_alone_do_not_make_it_integer() -> None:
    model = sac(FOLLOW)
    compressor = learn(model, steps=100, until=75)
    assert compressor.phase is Phase.OBSERVE
    policy, observations = pp.freeze(model), observations_for(model)
    assert policy.numerics == "float"
    np.testing.assert_allclose(
        policy.outputs(observations), deployed_outputs(model, observations), rtol=1e-5, atol=1e-5
    )


def test_freezing_in_the_middle_changes_nothing() -> None:
    states = []
    for freezes in (False, True):
        model = sac(FOLLOW)
        learn(model, steps=60)
        if freezes:
            pp.freeze(model)
        model.learn(20, reset_num_timesteps=False)
        states.append(model.policy.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_weights_that_are_set_from_outside_count() -> None:
    model = sac(FOLLOW)
    learn(model, steps=60)
    observations = random_observations(model)
    before = pp.freeze(model).outputs(observations)
    state = model.policy.state_dict()
    model.policy.load_state_dict({name: -v if name == "actor.mu.weight" else v for name, v in state.items()})
    after = pp.freeze(model).outputs(observations)
    np.testing.assert_array_equal(after, deployed_outputs(model, observations))
    assert not np.array_equal(after, before)


def test_zeros_are_the_same_zeros() -> None:
    model = trained("sac", "integer-8")
    policy = pp.freeze(model)
    for layer, mask in zip(policy.layers, zeros_of(model).values(), strict=True):
        assert layer.trained_shape == mask.shape
        assert layer.nonzeros <= int((~mask).sum())
        assert layer.weight.any()
    assert [layer.name for layer in policy.layers] == list(zeros_of(model))
    report = pp.size(policy)
    assert report.sparsity >= 0.8
    assert report.weights == sum(mask.size for mask in zeros_of(model).values())


# What travels with it


def test_provenance_says_where_it_comes_from() -> None:
    policy = pp.freeze(trained("sac", "integer-8"), provenance={"env": "Here-v0"})
    origin = policy.provenance
    assert (origin["algo"], origin["steps"], origin["seed"], origin["env"]) == ("sac", 100, 3, "Here-v0")
    assert origin["compression"]["config"]["sparsity"] == 0.8
    assert origin["versions"].keys() >= {"policypress", "torch", "stable-baselines3", "numpy"}


def test_test_vectors_are_recorded_observations_and_their_answers() -> None:
    model = trained("sac", "integer-8")
    policy = pp.freeze(model)
    vectors = policy.test_vectors
    assert vectors is not None
    assert len(vectors.observations) == 32
    met = met_observations(model)
    assert all((met == row).all(axis=1).any() for row in vectors.observations)
    np.testing.assert_array_equal(vectors.outputs, policy.outputs(vectors.observations))
    np.testing.assert_array_equal(vectors.actions, policy.predict(vectors.observations)[0])
    assert_alive(vectors.outputs)


def test_test_vectors_of_images_stay_small() -> None:
    vectors = pp.freeze(trained_on_images("nature")).test_vectors
    assert vectors is not None
    assert 1 <= len(vectors.observations) <= 32
    assert vectors.observations.nbytes <= 65_536
    assert vectors.observations.dtype == np.uint8


def test_an_agent_without_experience_has_no_test_vectors() -> None:
    assert pp.freeze(sac(FOLLOW)).test_vectors is None


@pytest.mark.parametrize("name", ["dense", "integer-8", "weight-only"])
def test_a_saved_policy_answers_the_same(name: str, tmp_path: Path) -> None:
    policy = pp.freeze(trained("sac", name))
    policy.save(tmp_path / "a.policy")
    loaded = pp.load(tmp_path / "a.policy")
    observations = observations_for(trained("sac", name))
    np.testing.assert_array_equal(loaded.predict(observations)[0], policy.predict(observations)[0])
    assert loaded.provenance == policy.provenance


def test_baseline_is_the_networks_own_unless_another_is_named() -> None:
    model = trained("sac", "integer-8")
    own = sum(p.numel() for name, p in model.actor.named_parameters() if not name.startswith("log_std"))
    assert own == (3 + 1) * 16 + (16 + 1) * 16 + (16 + 1) * 2
    assert pp.freeze(model).baseline_bytes == own * 4
    assert pp.freeze(model, baseline_bytes=12_345).baseline_bytes == 12_345


# Bad weights and agents


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_weights_that_are_not_finite_are_refused(parameter: str, value: float) -> None:
    model = sac(FOLLOW)
    with torch.no_grad():
        getattr(model.actor.mu, parameter).view(-1)[1] = value
    with pytest.raises(PolicypressError, match=f"^{parameter} of layer mu is not finite: the training diverged"):
        pp.freeze(model)


def test_weights_that_are_not_finite_are_refused_while_quantizing() -> None:
    model = sac(FOLLOW)
    learn(model, steps=60)
    with torch.no_grad():
        model.actor.latent_pi[2].bias[0] = float("nan")
    with pytest.raises(PolicypressError, match=r"layer latent_pi\.2 is not finite"):
        pp.freeze(model)


def test_outputs_that_are_not_finite_where_it_was_trained_are_refused() -> None:
    model = sac(FOLLOW)
    model.learn(30)
    with torch.no_grad():
        for layer in (model.actor.latent_pi[0], model.actor.latent_pi[2], model.actor.mu):
            layer.weight.fill_(1e30)
    with pytest.raises(
        DivergedError, match=r"^the policy's outputs are not finite where it was trained: the training di"
    ):
        pp.freeze(model)


@pytest.mark.parametrize("quantized", [True, False])
def test_a_policy_that_cannot_but_repeat_itself_warns(quantized: bool) -> None:
    model = sac(FOLLOW)
    if quantized:
        learn(model, steps=60)
    with torch.no_grad():
        model.actor.mu.weight.zero_()
        model.actor.mu.bias.copy_(torch.tensor([0.5, -0.25]))
    with pytest.warns(UserWarning, match="no weight left.*constant"):
        policy = pp.freeze(model)
    actions, _ = policy.predict(random_observations(model, 5))
    np.testing.assert_array_equal(actions, np.broadcast_to(actions[0], actions.shape))
    np.testing.assert_allclose(actions[0], [2 * np.tanh(0.5), 1.5 + 1.5 * np.tanh(-0.25)], atol=1e-2)


@pytest.mark.filterwarnings("error")
def test_a_policy_that_answers_does_not_warn() -> None:
    assert isinstance(pp.freeze(trained("dqn", "integer-8")), Policy)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MaskablePPO("MlpPolicy", "CartPole-v1", device="cpu"), "MaskablePPO agents cannot be pressed"),
        (lambda: sac(SEEN, policy="MultiInputPolicy"), "images beside other things"),
        (lambda: dqn(policy_kwargs={"activation_fn": torch.nn.Tanhshrink}), "Tanhshrink at q_net.1"),
    ],
)
def test_agents_that_cannot_be_pressed(make: Any, sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        pp.freeze(make())


def test_a_subclass_is_another_algorithm() -> None:
    class Mine(SAC):
        pass

    with pytest.raises(UnsupportedError, match="Mine agents cannot be pressed"):
        pp.freeze(Mine("MlpPolicy", "Pendulum-v1", device="cpu"))


def test_no_compressor_needs_to_be_attached() -> None:
    model = sac(FOLLOW)
    assert attached_compressor(model) is None
    assert pp.freeze(model).numerics == "float"


def test_it_remembers_its_environment() -> None:
    assert pp.freeze(sac("Pendulum-v1")).provenance["env"] == "Pendulum-v1"
