"""``load_agent``: agents come back exactly, and nothing in their files runs."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import zipfile
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3 import PPO, SAC, HerReplayBuffer
from stable_baselines3.common import save_util
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import policypress as pp
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, PolicypressError, RunError, UnsupportedError
from policypress.rl import CompressionCallback, ResNetExtractor
from policypress.rl import load as rl_load
from policypress.rl.adapters import ADAPTERS, NAMES
from policypress.rl.agents import Agent, check_return, load_agent
from policypress.rl.statistics import Evidence, read_vecnormalize
from quick import quick
from rl.toys import (
    AIM,
    CHOOSE,
    FOLLOW,
    LOOK,
    LOOK_CHANNELS_LAST,
    NAMED,
    PAIRED,
    PICK,
    PICK_OF_FOUR,
    PRESSED,
    SEEN,
    SWITCH,
    Look,
    agent,
    learn,
    random_observations,
)

RELU: dict[str, Any] = {"activation_fn": nn.ReLU}
RESNET = {"features_extractor_class": ResNetExtractor, "net_arch": []}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{algo: (algo, PICK if "dqn" in algo else FOLLOW, {}) for algo in NAMES},
    "ppo-discrete": ("ppo", PICK, {}),
    "a2c-multi-discrete": ("a2c", CHOOSE, {"net_arch": {"pi": [8], "vf": [9, 9]}}),
    "sac-arch": ("sac", FOLLOW, {"net_arch": {"pi": [5], "qf": [6]}, "n_critics": 3}),
    "td3-default": ("td3", FOLLOW, {"net_arch": None}),
    "crossq-eps": ("crossq", FOLLOW, {"batch_norm_eps": 0.5}),
    "recurrent-discrete": ("recurrent_ppo", PICK, {"lstm_hidden_size": 5, "net_arch": []}),
    "recurrent-two-layers": ("recurrent_ppo", FOLLOW, {"n_lstm_layers": 2}),
    "recurrent-shared": ("recurrent_ppo", CHOOSE, {"shared_lstm": True, "enable_critic_lstm": False}),
    "recurrent-actor-alone": ("recurrent_ppo", FOLLOW, {"enable_critic_lstm": False, "activation_fn": nn.Tanh}),
    "qrdqn-quantiles": ("qrdqn", PICK, {"n_quantiles": 7}),
    "dqn-nature": ("dqn", LOOK, {}),
    "dqn-channels-last": ("dqn", LOOK_CHANNELS_LAST, {}),
    "dqn-resnet": ("dqn", LOOK, RESNET),
    "ppo-nature-separate": ("ppo", LOOK, {"share_features_extractor": False}),
    "sac-nature-shared": ("sac", AIM, {"share_features_extractor": True}),
}
LONG = {"dqn-resnet", "recurrent-two-layers", "recurrent-shared", "recurrent-actor-alone", "sac-nature-shared"}


@cache
def saved(case: str) -> tuple[Any, bytes]:
    """A trained agent and its zip."""
    algo, env, policy_kwargs = CASES[case]
    model = agent(algo, env, policy_kwargs)
    model.learn(60)
    file = io.BytesIO()
    model.save(file)
    return model, file.getvalue()


def write(path: Path, case: str, **changes: Any) -> Path:
    """The zip of ``case`` at ``path``, some of its files (name with _ for .) replaced, or left out where None."""
    with zipfile.ZipFile(io.BytesIO(saved(case)[1])) as archive:
        contents: dict[str, Any] = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name.replace("_", "."): value for name, value in changes.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def data_of(case: str) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(saved(case)[1])) as archive:
        data: dict[str, Any] = json.loads(archive.read("data"))
    return data


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def pickled(value: Any) -> dict[str, str]:
    return {":type:": "<class 'collections.deque'>", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever unpickles freely fails; torch's weights-only reader is its own."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module in (pickle, cloudpickle, save_util.cloudpickle):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, refuse)


# Exactly the agent


@pytest.mark.parametrize("case", quick(CASES, CASES.keys() - LONG))
def test_the_agent_comes_back_without_unpickling(case: str, tmp_path: Path, no_pickles: None) -> None:
    algo, env, _ = CASES[case]
    model, content = saved(case)
    path = tmp_path / "agent.zip"
    path.write_bytes(content)
    loaded = load_agent(path, algo, env)
    observations = random_observations(model)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.model.predict(observations, deterministic=True)[0], expected)
    assert type(loaded.model) is type(model)
    assert loaded.model.policy.state_dict().keys() == model.policy.state_dict().keys()
    for name, value in model.policy.state_dict().items():
        assert torch.equal(loaded.model.policy.state_dict()[name], value), name
    assert not loaded.model.policy.training
    assert loaded.model.num_timesteps == model.num_timesteps
    assert loaded.model.seed == 3
    assert loaded.training_return == pytest.approx(np.mean([episode["r"] for episode in model.ep_info_buffer]))
    assert path.read_bytes() == content


@pytest.mark.parametrize("case", CASES)
def test_the_agent_tells_a_student_what_it_needs(case: str, tmp_path: Path) -> None:
    algo, env, _ = CASES[case]
    model, _ = saved(case)
    loaded = load_agent(write(tmp_path / "agent.zip", case), algo, env)
    adapter = ADAPTERS[algo]
    assert loaded.adapter is adapter
    assert loaded.imitation == adapter.imitation(loaded.action)
    assert len(loaded.critics) == len(adapter.critics(model))
    assert (loaded.observation.shape, loaded.observation.dtype) == (
        model.observation_space.shape,
        model.observation_space.dtype.name,
    )
    assert loaded.observation.image == (len(model.observation_space.shape) == 3)
    frozen = pp.freeze(model)
    assert loaded.action.kind == frozen.action.kind
    assert 4 * loaded.parameters == frozen.baseline_bytes
    observations = random_observations(model, 20)
    np.testing.assert_allclose(
        pp.freeze(loaded.model).outputs(observations), frozen.outputs(observations), rtol=1e-5, atol=1e-6
    )


def test_the_stock_agents_of_stable_baselines_open(tmp_path: Path, no_pickles: None) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", device="cpu")
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "sac", "Pendulum-v1")
    assert loaded.parameters == 3 * 256 + 256 + 256 * 256 + 256 + 256 + 1
    assert loaded.training_return is None


def test_trust_opens_the_same_agent(tmp_path: Path) -> None:
    model, _ = saved("sac")
    loaded = load_agent(write(tmp_path / "agent.zip", "sac"), "sac", FOLLOW, trust=True)
    observations = random_observations(model)
    np.testing.assert_array_equal(
        loaded.model.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    assert (loaded.parameters, loaded.imitation, len(loaded.critics)) == (4 * 16 + 17 * 16 + 17 * 2, "action", 2)


def test_agents_that_were_only_pruned_open(tmp_path: Path) -> None:
    model = agent("sac", FOLLOW)
    learn(model, CompressionConfig(sparsity=0.8, prune_start=0.2, prune_end=0.6), steps=60)
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "sac", FOLLOW)
    assert sum(int((node.module.weight == 0).sum()) for node in loaded.graph.layers) > 200


# VecNormalize


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VecNormalize, Path]:
    """A PPO agent trained under VecNormalize, the wrapper, and the folder with agent.zip and vecnormalize.pkl."""
    folder = tmp_path_factory.mktemp("normalized")
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(FOLLOW))]), clip_obs=1.5)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=16, policy_kwargs=RELU, seed=1, device="cpu")
    model.learn(96)
    env.training = False
    model.save(folder / "agent.zip")
    env.save(str(folder / "vecnormalize.pkl"))
    return model, env, folder


def test_statistics_of_vecnormalize_are_folded_in(normalized: tuple[Any, VecNormalize, Path], no_pickles: None) -> None:
    model, env, folder = normalized
    assert pp.freeze(model).test_vectors is None  # its rollouts hold normalized observations
    loaded = load_agent(folder / "agent.zip", "ppo", FOLLOW, vecnormalize=folder / "vecnormalize.pkl")
    statistics: Any = env.obs_rms
    assert loaded.observation.normalization is not None
    np.testing.assert_array_equal(loaded.observation.normalization.mean, statistics.mean)
    np.testing.assert_array_equal(loaded.observation.normalization.var, statistics.var)
    assert (loaded.observation.normalization.epsilon, loaded.observation.normalization.clip) == (env.epsilon, 1.5)
    observations = random_observations(model)
    policy = pp.compression.freeze.freeze_graph(loaded.graph, loaded.observation, loaded.action)
    seen: Any = env.normalize_obs(observations)
    expected, _ = model.predict(seen, deterministic=True)
    np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(model.predict(observations, deterministic=True)[0], expected, atol=1e-4)


def test_statistics_that_are_known_to_be_missing(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(FOLLOW))]))
    model = agent("ppo", env)  # type: ignore[arg-type]
    model.learn(40, callback=CompressionCallback(CompressionConfig()))
    model.save(tmp_path / "agent.zip")
    with pytest.raises(
        UnsupportedError, match=r"VecNormalize \(policypress was there\): give its statistics with --vecn"
    ):
        load_agent(tmp_path / "agent.zip", "ppo", FOLLOW)


def test_statistics_of_another_shape(normalized: tuple[Any, VecNormalize, Path], tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make(CHOOSE)]))
    env.save(str(tmp_path / "other.pkl"))
    with pytest.raises(UnsupportedError, match=r"of shape \(5,\), but observations of \(3,\): give those that were"):
        load_agent(normalized[2] / "agent.zip", "ppo", FOLLOW, vecnormalize=tmp_path / "other.pkl")


def test_statistics_of_rewards_alone_change_nothing(normalized: tuple[Any, VecNormalize, Path], tmp_path: Path) -> None:
    VecNormalize(DummyVecEnv([lambda: gym.make(FOLLOW)]), norm_obs=False).save(str(tmp_path / "rewards.pkl"))
    assert read_vecnormalize(tmp_path / "rewards.pkl") is None
    loaded = load_agent(normalized[2] / "agent.zip", "ppo", FOLLOW, vecnormalize=tmp_path / "rewards.pkl")
    assert loaded.observation.normalization is None


def test_statistics_of_images(tmp_path: Path) -> None:
    images = tmp_path / "images.pkl"
    VecNormalize(DummyVecEnv([lambda: gym.make(LOOK)])).save(str(images))
    with pytest.raises(UnsupportedError, match="image observations normalized by VecNormalize cannot be pressed"):
        load_agent(write(tmp_path / "agent.zip", "dqn-nature"), "dqn", LOOK, vecnormalize=images, force=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps({"obs_rms": 1}), pickle.dumps(np.zeros(3)), cloudpickle.dumps(Bomb), None],
)
def test_what_is_no_vecnormalize(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "statistics.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"give the file that VecNormalize\.save wrote\.$"):
        read_vecnormalize(path)


# Agents that remember


def assert_same_answers(model: Any, policy: Any, seen: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: x) -> None:
    """``policy`` acts as Stable-Baselines3's ``predict`` of ``model`` does on what is ``seen``, over 1,000 steps of
    three episodes side by side, some of which begin again on the way, and remembers the same numbers."""
    rng = np.random.default_rng(0)
    own: Any = None
    ours: Any = None
    begun = actions = 0
    for step in range(1000):
        starts = rng.random(3) < 0.01 if step else np.ones(3, bool)
        begun += int(starts.sum())
        x = (rng.normal(size=(3, *model.observation_space.shape)) * rng.choice([0.1, 1, 3])).astype(np.float32)
        expected, own = model.predict(seen(x), state=own, episode_start=starts, deterministic=True)
        found, ours = policy.predict(x, ours, starts)
        # Layer after layer, h and c of each.
        remembered = np.concatenate([part for layer in zip(*own, strict=True) for part in layer], axis=1)
        for mine, theirs in ((found, expected), (ours[0], remembered)):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(initial=1.0))
        actions += len(np.unique(found, axis=0)) > 1
    assert begun > 10
    assert actions > 20


def tiny(env: Any, steps: int = 32, **kwargs: Any) -> RecurrentPPO:
    network = {"lstm_hidden_size": 8, "net_arch": [8], **kwargs}
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=32, batch_size=32, policy_kwargs=network, seed=1, device="cpu")
    model.learn(steps)
    with torch.no_grad():  # fresh agents have hardly an opinion
        model.policy.action_net.weight.normal_()
        model.policy.action_net.bias.zero_()
        for values in model.policy.lstm_actor.parameters():
            values.normal_(0.0, 0.6)
    return model


@pytest.mark.parametrize("layers", quick([1, 2], [2]))
@pytest.mark.parametrize("env", quick(["CartPole-v1", "Pendulum-v1", CHOOSE, SWITCH], ["Pendulum-v1", CHOOSE]))
def test_an_agent_that_remembers_answers_as_its_own_predict(env: str, layers: int, tmp_path: Path) -> None:
    model = tiny(env, 0 if env == SWITCH else 32, n_lstm_layers=layers)
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "recurrent_ppo", env)
    assert loaded.teacher.remembers
    assert loaded.teacher.baseline_bytes == 4 * loaded.parameters
    assert_same_answers(model, loaded.teacher.policy())


def test_what_an_agent_remembers_under_vecnormalize(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]))
    model = tiny(env, 64)
    model.save(tmp_path / "agent.zip")
    env.training = False
    env.save(str(tmp_path / "vecnormalize.pkl"))
    loaded = load_agent(
        tmp_path / "agent.zip", "recurrent_ppo", "CartPole-v1", vecnormalize=tmp_path / "vecnormalize.pkl"
    )
    assert_same_answers(model, loaded.teacher.policy(), env.normalize_obs)  # type: ignore[arg-type]


def test_an_agent_that_remembers_otherwise_than_an_lstm_is_refused() -> None:
    class Forgetful(MlpLstmPolicy):
        @staticmethod
        def _process_sequence(features: Any, states: Any, starts: Any, lstm: Any) -> Any:
            return MlpLstmPolicy._process_sequence(features, states, torch.ones_like(starts), lstm)

    model = RecurrentPPO(Forgetful, FOLLOW, n_steps=8, batch_size=8, policy_kwargs={"lstm_hidden_size": 4})
    with pytest.raises(UnsupportedError, match="something runs around the layers"):
        pp.freeze(model)


def test_an_agent_that_remembers_parts_of_a_dict_opens(tmp_path: Path) -> None:
    model = RecurrentPPO(
        "MultiInputLstmPolicy", NAMED, n_steps=8, batch_size=8, policy_kwargs={"lstm_hidden_size": 4}, device="cpu"
    )
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "recurrent_ppo", NAMED)
    assert loaded.teacher.policy().state_size == 8


# Nothing in a file runs


def test_a_bomb_in_any_place_does_not_go_off(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    bomb = pickle.dumps(Bomb(crater))
    data = data_of("sac")
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(bomb).decode()
    path = write(tmp_path / "agent.zip", "sac", data=json.dumps(data), pytorch_variables_pth=bomb)
    loaded = load_agent(path, "sac", FOLLOW)
    assert loaded.training_returns == ()
    weights = io.BytesIO()
    torch.save({"actor.mu.weight": Bomb(crater)}, weights)
    for content in (weights.getvalue(), bomb):
        with pytest.raises(RunError, match="is not an agent saved by Stable-Baselines3"):
            load_agent(write(tmp_path / "bomb.zip", "sac", policy_pth=content), "sac", FOLLOW)
    (tmp_path / "statistics.pkl").write_bytes(bomb)
    with pytest.raises(RunError, match="holds no VecNormalize statistics"):
        read_vecnormalize(tmp_path / "statistics.pkl")
    assert not crater.exists()
    pickle.loads(bomb)
    assert crater.exists()


def test_an_ep_info_buffer_of_numpy_scalars_is_read(tmp_path: Path) -> None:
    episodes = deque([{"r": np.float64(1.5), "l": 3}, {"r": np.float32(2.5), "l": np.int64(4)}], maxlen=100)
    data = {**data_of("sac"), "ep_info_buffer": pickled(episodes)}
    loaded = load_agent(write(tmp_path / "agent.zip", "sac", data=json.dumps(data)), "sac", FOLLOW)
    assert loaded.training_returns == (1.5, 2.5)
    assert loaded.training_return == 2.0


class Mine(ActorCriticPolicy):
    """A policy class that Stable-Baselines3 does not know."""


class MyExtractor(FlattenExtractor):
    """An extractor that Stable-Baselines3 does not know."""


UNKNOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "policy": (lambda: PPO(Mine, FOLLOW, policy_kwargs=RELU, device="cpu"), "its policy class is not one of"),
    "object": (
        lambda: agent("sac", FOLLOW, {"features_extractor_kwargs": {}, "log_std_init": np.float32(-2)}),
        "its log_std_init is an object",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_classes_need_trust(case: str, tmp_path: Path, no_pickles: None) -> None:
    make, reason = UNKNOWN[case]
    model = make()
    model.save(tmp_path / "agent.zip")
    algo = "ppo" if case == "policy" else "sac"
    with pytest.raises(UnsupportedError, match=f"cannot be opened safely .{reason}.*--trust.*only for files that you"):
        load_agent(tmp_path / "agent.zip", algo, FOLLOW)


@pytest.mark.parametrize("trust", [False, True])
def test_an_unknown_extractor_is_refused_at_once(trust: bool, tmp_path: Path) -> None:
    agent("sac", FOLLOW, {"features_extractor_class": MyExtractor}).save(tmp_path / "agent.zip")
    with pytest.raises(UnsupportedError, match=r"^features extractor MyExtractor cannot be pressed; supported are Fl"):
        load_agent(tmp_path / "agent.zip", "sac", FOLLOW, trust=trust)


@pytest.mark.parametrize("case", ["policy", "object"])
def test_trust_opens_unknown_classes(case: str, tmp_path: Path) -> None:
    model = UNKNOWN[case][0]()
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "ppo" if case == "policy" else "sac", FOLLOW, trust=True)
    observations = random_observations(model)
    np.testing.assert_array_equal(
        loaded.model.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


def test_a_trusted_file_that_does_not_open(tmp_path: Path) -> None:
    data = {**data_of("sac"), "lr_schedule": None, "policy_class": {"__module__": "mine"}}
    path = write(tmp_path / "agent.zip", "sac", data=json.dumps(data))
    with pytest.raises(RunError, match=r"cannot be opened by SAC\.load: "):
        load_agent(path, "sac", FOLLOW, trust=True)


def without(path: Path, case: str, *names: str) -> Path:
    """The zip of ``case``, its JSON without these."""
    data = {name: value for name, value in data_of(case).items() if name not in names}
    return write(path, case, data=json.dumps(data))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("names", [("n_envs",), ("observation_space", "action_space"), ("lr_schedule", "action_noise")])
@pytest.mark.parametrize("case", ["sac", "dqn", "ppo"])
def test_what_a_zip_can_do_without(case: str, names: tuple[str, ...], trust: bool, tmp_path: Path) -> None:
    algo, env, _ = CASES[case]
    model, _ = saved(case)
    loaded = load_agent(without(tmp_path / "agent.zip", case, *names), algo, env, trust=trust)
    observations = random_observations(model)
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.model.predict(observations, deterministic=True)[0], expected)
    again = rl_load(tmp_path / "agent.zip", algo, env=model.get_env())
    np.testing.assert_array_equal(again.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("kwargs", [None, {}, {"policy_kwargs": None}, {"policy_kwargs": pickled({})}])
def test_a_policy_is_not_rebuilt_by_guessing(kwargs: Any, tmp_path: Path) -> None:
    data = {name: value for name, value in data_of("sac").items() if name != "policy_kwargs"} | (kwargs or {})
    path = write(tmp_path / "agent.zip", "sac", data=json.dumps(data))
    sentence = (
        r"agent\.zip does not tell how its policy is built \(policy_kwargs\): save the agent again with model\.save\.$"
    )
    for trust in (False, True):
        with pytest.raises(RunError, match=sentence):
            load_agent(path, "sac", FOLLOW, trust=trust)
    with pytest.raises(RunError, match=sentence):
        rl_load(path, "sac")


def test_a_zip_without_spaces_needs_its_environment(tmp_path: Path) -> None:
    path = without(tmp_path / "agent.zip", "sac", "action_space")
    with pytest.raises(
        RunError, match=r"does not tell its action_space: give the agent's environment \(env=\.\.\.\)\.$"
    ):
        rl_load(path, "sac")


@pytest.mark.parametrize("trust", quick([False, True], [False]))
def test_an_agent_with_hindsight_opens(trust: bool, tmp_path: Path) -> None:
    model = SAC(
        "MultiInputPolicy", DummyVecEnv([lambda: Monitor(Reach())]), replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2}, policy_kwargs={"net_arch": [8]}, learning_starts=20, device="cpu",
    )  # fmt: skip
    model.learn(30)
    model.save(tmp_path / "agent.zip")
    loaded = load_agent(tmp_path / "agent.zip", "sac", Reach, trust=trust)
    space = model.observation_space
    shown = space.sample()
    np.testing.assert_array_equal(
        loaded.model.predict(shown, deterministic=True)[0], model.predict(shown, deterministic=True)[0]
    )


class Reach(gym.Env[Any, Any]):
    """Go where the goal is."""

    _place = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Dict({"observation": _place, "achieved_goal": _place, "desired_goal": _place})  # type: ignore[assignment]
    action_space = _place

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return self.observation_space.sample(), 0.0, False, self._steps >= 5, {}

    def compute_reward(self, achieved: Any, desired: Any, _: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1)


class Glow(Look):
    """``Look`` in numbers from 0 to 1."""

    observation_space: Any = spaces.Box(0, 1, (4, 36, 36), np.float32)

    def _draw(self) -> Any:
        return super()._draw().astype(np.float32) / 255


class GlowInDict(Glow):
    observation_space = spaces.Dict({"camera": Glow.observation_space})

    def _draw(self) -> Any:
        return {"camera": super()._draw()}


@pytest.mark.parametrize("kind", [Glow, GlowInDict])
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_images_of_floats_are_refused_by_name(algo: str, kind: Any, tmp_path: Path) -> None:
    policy = "CnnPolicy" if kind is Glow else "MultiInputPolicy"
    env = DummyVecEnv([lambda: Monitor(kind())])
    small = {"n_steps": 8, "batch_size": 8} if algo == "ppo" else {"buffer_size": 10}
    model = ADAPTERS[algo].model_class(policy, env, policy_kwargs={"normalize_images": False}, device="cpu", **small)
    model.save(tmp_path / "agent.zip")
    sentence = "^agents that see images as floats .* cannot be pressed: train on images of bytes from 0 to 255, without"
    with pytest.raises(UnsupportedError, match=sentence):
        pp.freeze(model)
    for trust in (False, True):
        with pytest.raises(UnsupportedError, match=sentence):
            load_agent(tmp_path / "agent.zip", algo, kind, trust=trust)


def test_normalized_images_are_refused_by_name() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(LOOK))]))
    settings: dict[str, Any] = {"policy_kwargs": {"normalize_images": False}, "n_steps": 8, "batch_size": 8}
    with pytest.raises(UnsupportedError, match=r"^agents that see images as floats .*without VecNormalize"):
        pp.freeze(PPO("CnnPolicy", env, device="cpu", **settings))


# What does not fit


@pytest.mark.parametrize("algo", NAMES)
def test_the_wrong_algorithm_is_told_the_right_one(algo: str, tmp_path: Path) -> None:
    path = write(tmp_path / "agent.zip", algo)
    for other in NAMES:
        if other != algo:
            with pytest.raises(UnsupportedError, match=f"was trained by {algo}, not by {other}: give --algo {algo}"):
                load_agent(path, other, CASES[algo][1], trust=True)


@pytest.mark.parametrize(
    ("case", "env", "sentence"),
    [
        ("sac", "Pendulum-v1", r"actions of Box \[2\], but those of Pendulum-v1 are Box \[1\]: name the environment"),
        ("sac", AIM, r"observations of Box \[3\], but those of toys/Aim-v0 are Box \[4, 36, 36\]: name"),
        ("dqn", PICK_OF_FOUR, r"actions of Discrete 3, but those of toys/PickOfFour-v0 are Discrete 4: name the env"),
        ("ppo", PICK, r"actions of Box \[2\], but those of toys/Pick-v0 are Discrete 3: name the environment"),
        ("a2c-multi-discrete", "toys/ChooseOther-v0", r"MultiDiscrete \[2, 3\], but those of .* \[3, 2\]: name"),
    ],
)
def test_another_environment_is_refused(case: str, env: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        load_agent(write(tmp_path / "agent.zip", case), CASES[case][0], env)


def test_weights_of_another_environment_are_refused_even_if_the_zip_names_no_space(tmp_path: Path) -> None:
    data = {**data_of("dqn"), "action_space": {}, "observation_space": {}}
    path = write(tmp_path / "agent.zip", "dqn", data=json.dumps(data))
    assert load_agent(path, "dqn", PICK).parameters > 0
    with pytest.raises(UnsupportedError, match=r"do not fit toys/PickOfFour-v0 .*: name the environment"):
        load_agent(path, "dqn", PICK_OF_FOUR)
    with pytest.raises(UnsupportedError, match="DQN needs Discrete actions"):
        load_agent(path, "dqn", FOLLOW)


def quantizing(path: Path) -> None:
    model = agent("sac", FOLLOW)
    learn(model, PRESSED, steps=60)
    model.save(path)


REFUSED: dict[str, tuple[Callable[[Path], Any], str, str, type[PolicypressError], str]] = {
    "missing": (lambda path: None, "sac", FOLLOW, RunError, "there is no file .*agent.zip: give the zip"),
    "no zip": (lambda path: path.write_bytes(b"PK no"), "sac", FOLLOW, RunError, "is not an agent saved by"),
    "no weights": (lambda path: write(path, "sac", policy_pth=None), "sac", FOLLOW, RunError, "is not an agent saved"),
    "no data": (lambda path: write(path, "sac", data=None), "sac", FOLLOW, RunError, "is not an agent saved by"),
    "no JSON": (lambda path: write(path, "sac", data=b"{"), "sac", FOLLOW, RunError, "is not an agent saved by"),
    "a list": (lambda path: write(path, "sac", data=b"[]"), "sac", FOLLOW, RunError, "is not an agent saved by"),
    "algo": (lambda path: write(path, "sac"), "her", FOLLOW, ConfigError, "algo='her' is not one of"),
    "env": (lambda path: write(path, "sac"), "sac", "toys/Folow-v0", ConfigError, "did you mean toys/Follow-v0"),
    "an LSTM behind images": (
        lambda path: RecurrentPPO(
            "CnnLstmPolicy", LOOK, n_steps=8, batch_size=8, policy_kwargs={"lstm_hidden_size": 4}, device="cpu"
        ).save(path),
        "recurrent_ppo", LOOK, UnsupportedError, "train PPO with CnnPolicy on stacked frames instead",
    ),
    "masks": (
        lambda path: MaskablePPO("MlpPolicy", PICK, n_steps=8, batch_size=8, device="cpu").save(path),
        "ppo", PICK, UnsupportedError, "policies with action masks cannot be pressed",
    ),
    "dict with images": (
        lambda path: PPO("MultiInputPolicy", SEEN, n_steps=8, device="cpu").save(path),
        "ppo", SEEN, UnsupportedError, r"images beside other things \(camera\) cannot be pressed",
    ),
    "tuple": (
        lambda path: write(path, "dqn"), "dqn", PAIRED, UnsupportedError,
        "observations of Tuple space cannot be pressed: wrap .*--wrapper gymnasium.wrappers:FlattenObservation",
    ),
    "quantizing": (quantizing, "sac", FOLLOW, UnsupportedError, r"pressed already: freeze it with policypress\.freeze"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_agents_that_cannot_be_opened(case: str, tmp_path: Path) -> None:
    make, algo, env, error, sentence = REFUSED[case]
    path = tmp_path / "agent.zip"
    make(path)
    with pytest.raises(error, match=sentence) as caught:
        load_agent(path, algo, env)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in saved("sac")[0].policy.state_dict().items()}
    weights["actor.mu.weight"][0, 0] = torch.nan
    file = io.BytesIO()
    torch.save(weights, file)
    with pytest.raises(PolicypressError, match="are not finite: the training diverged"):
        load_agent(write(tmp_path / "agent.zip", "sac", policy_pth=file.getvalue()), "sac", FOLLOW)


def test_weights_of_another_policy(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"actor.mu.weight": torch.zeros(2, 16)}, file)
    with pytest.raises(UnsupportedError, match=r"its weights are not those of .*--trust"):
        load_agent(write(tmp_path / "agent.zip", "sac", policy_pth=file.getvalue()), "sac", FOLLOW)


def test_agents_saved_before_the_extractors_had_two_names_open(tmp_path: Path) -> None:
    model, _ = saved("ppo-nature-separate")
    model = agent("ppo", LOOK)
    old = {name: value for name, value in model.policy.state_dict().items() if not name.startswith(("pi_", "vf_"))}
    file = io.BytesIO()
    torch.save(old, file)
    data = {**data_of("ppo-nature-separate")}
    data["policy_kwargs"] = {**data["policy_kwargs"], "share_features_extractor": True}
    path = write(tmp_path / "agent.zip", "ppo-nature-separate", data=json.dumps(data), policy_pth=file.getvalue())
    loaded = load_agent(path, "ppo", LOOK)
    observations: NDArray[Any] = random_observations(model, 20)
    np.testing.assert_array_equal(
        loaded.model.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


# Returns


@pytest.fixture
def teacher(tmp_path: Path) -> Agent:
    return load_agent(write(tmp_path / "agent.zip", "sac"), "sac", FOLLOW)


Spread = tuple[float, float, int]  # mean, standard deviation, episodes
RAW = Evidence("raw", "shown")


def spread(mean: float, std: float, count: int) -> tuple[float, ...]:
    values = np.random.default_rng(0).normal(size=count)
    return tuple((mean + std * (values - values.mean()) / values.std()).tolist())


@pytest.mark.parametrize(
    ("trained", "here", "told"),
    [
        ((5100, 100, 100), (5400, 10, 50), False),
        ((5100, 100, 100), (4700, 10, 50), False),  # less than a tenth
        ((5100, 100, 100), (4500, 10, 50), True),
        ((300, 600, 100), (80, 10, 50), False),  # less than four standard errors
        ((1277, 600, 100), (63, 10, 50), True),  # Hopper, PPO, without its statistics; within two deviations
        ((-145, 10, 100), (-150, 10, 50), False),
        ((-145, 10, 100), (-900, 10, 50), True),
        ((20, 5, 100), (4000, 10, 50), False),  # Atari: clipped rewards, one life
        ((np.nan, 1, 100), (0, 1, 50), False),
    ],
)
@pytest.mark.parametrize("verdict", ["raw", "unknown", "wrapped", "normalized"])
def test_a_return_far_below_that_of_training(
    teacher: Agent, trained: Spread, here: Spread, told: bool, verdict: Any, recwarn: pytest.WarningsRecorder
) -> None:
    teacher = replace(teacher, training_returns=spread(*trained), evidence=Evidence(verdict, "shown"))
    refused = told and (verdict in ("wrapped", "normalized") or (verdict == "unknown" and here[0] < trained[0] / 2))
    if refused:
        with pytest.raises(RunError, match=r"with --vecnormalize.*; --force \(force=True\) presses it as it is\.$"):
            check_return(teacher, spread(*here), "Here-v0")
    check_return(teacher, spread(*here), "Here-v0", force=refused)
    assert len(recwarn) == told
    if told:
        assert ("--vecnormalize" in str(recwarn[0].message)) == (verdict != "raw")
        assert "in Here-v0, but" in str(recwarn[0].message)


@pytest.mark.parametrize("returns", [(), (5.0,)])
def test_returns_of_training_that_tell_nothing(teacher: Agent, returns: tuple[float, ...]) -> None:
    check_return(replace(teacher, training_returns=returns), [-1e9] * 4, "Here-v0")


def test_an_agent_that_needs_its_exploration_is_pressed(teacher: Agent) -> None:
    # SAC on Hopper, statistics never used: 3,427 at the end of its training, falls in most deterministic episodes.
    teacher = replace(teacher, training_returns=spread(3427, 90, 100), evidence=RAW)
    with pytest.warns(UserWarning, match=r"was trained without VecNormalize \(shown\), so .*or that it needs its expl"):
        check_return(teacher, spread(1126, 700, 50), "Hopper-v5")


def test_a_low_return_in_spite_of_statistics(normalized: tuple[Any, VecNormalize, Path]) -> None:
    folder = normalized[2]
    loaded = load_agent(folder / "agent.zip", "ppo", FOLLOW, vecnormalize=folder / "vecnormalize.pkl")
    loaded = replace(loaded, training_returns=(-10.0, -11.0, -12.0))
    with pytest.raises(
        RunError, match=r"check that the environment.*, and .*vecnormalize.pkl was saved with it; --for"
    ):
        check_return(loaded, [-1e9] * 4, FOLLOW)
    check_return(loaded, [-12.5] * 4, FOLLOW)
