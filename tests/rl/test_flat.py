"""Observations of every space as one vector, and agents that see them."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.utils import obs_as_tensor

import policypress as pp
from policypress.compression.freeze import freeze_graph
from policypress.config import CompressionConfig, DistillConfig, Environment
from policypress.errors import ObservationError, UnsupportedError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl import CompressionCallback, evaluate, flatten_observation
from policypress.rl.adapters import ADAPTERS
from policypress.rl.agents import load_agent
from policypress.rl.environments import check_taken, flat_size, flat_space
from policypress.rl.evaluate import chance
from policypress.rl.press import press
from policypress.rl.sources import Source
from policypress.rl.teacher import Teacher
from quick import crossed
from rl.toys import EPISODE, PAIRED, PRESSED, SEEN, Follow, Pick, plan

SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi-binary": spaces.MultiBinary(4),
    "multi-binary-2d": spaces.MultiBinary([2, 3]),
    "box-2d": spaces.Box(-1, 1, (3, 2), np.float32),
    "box-3d": spaces.Box(-1, 1, (2, 3, 2), np.float64),
    "dict": spaces.Dict(
        {
            "zeta": spaces.Box(-1, 1, (2, 2), np.float64),
            "kind": spaces.Discrete(3),
            "flags": spaces.MultiBinary(2),
            "alpha": spaces.Box(0, 9, (2,), np.int64),
            "many": spaces.MultiDiscrete([2, 3]),
        }
    ),
}
SIZES = {
    "discrete": 5, "multi-discrete": 9, "multi-binary": 4, "multi-binary-2d": 6, "box-2d": 6, "box-3d": 12, "dict": 16,
}  # fmt: skip


class _Any:
    """Observations drawn from the space."""

    def _draw(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))  # type: ignore[attr-defined]
        return self.observation_space.sample()  # type: ignore[attr-defined]


def _toy(space: spaces.Space[Any], box: bool) -> type[gym.Env[Any, Any]]:
    class Toy(_Any, Follow if box else Pick):  # type: ignore[misc]
        observation_space = space

        def _reward(self, action: Any) -> float:
            numbers = np.asarray(flatten_observation(space, self._shown), np.float64)
            return float(numbers[:3].sum() * np.sum(action))

    return Toy


for _name, _space in SPACES.items():
    for _box in (True, False):
        gym.register(
            f"flat/{_name}-{'box' if _box else 'pick'}-v0", entry_point=_toy(_space, _box), disable_env_checker=True
        )


def env_of(name: str, algo: str) -> str:
    return f"flat/{name}-{'pick' if 'qn' in algo else 'box'}-v0"


@cache
def trained(algo: str, name: str) -> Any:
    kind = ADAPTERS[algo].model_class
    settings: dict[str, Any] = {"n_steps": 32} if algo in ("ppo", "a2c") else {"learning_starts": 20, "buffer_size": 99}
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    network = {"net_arch": [16]}
    model = kind(policy, env_of(name, algo), policy_kwargs=network, seed=1, device="cpu", **settings)
    model.learn(64)
    return model


@pytest.mark.parametrize("name", SPACES)
def test_vectors_are_what_the_network_of_stable_baselines_sees(name: str) -> None:
    space = SPACES[name]
    space.seed(1)
    for _ in range(20):
        observation = space.sample()
        flat = flatten_observation(space, observation)
        batch: Any = (
            {key: np.asarray(part)[None] for key, part in observation.items()}
            if isinstance(observation, dict)
            else np.asarray(observation)[None]
        )
        seen: Any = preprocess_obs(obs_as_tensor(batch, torch.device("cpu")), space)
        parts = [seen[key] for key in space] if isinstance(space, spaces.Dict) else [seen]
        expected = torch.cat([part.flatten(1) for part in parts], 1)[0].numpy()
        np.testing.assert_array_equal(flat.astype(np.float32), expected)
        assert flat.shape == (SIZES[name],)
        assert flat_space(space).contains(flat)


@pytest.mark.parametrize(("algo", "name"), crossed(["sac", "ppo", "dqn"], SPACES))
def test_agents_of_every_space_answer_the_same_when_opened_and_frozen(algo: str, name: str, tmp_path: Path) -> None:
    model, env = trained(algo, name), env_of(name, algo)
    model.save(tmp_path / "agent.zip")
    found = load_agent(tmp_path / "agent.zip", algo, env)
    policies = [freeze_graph(found.graph, found.observation, found.action), pp.freeze(model)]
    space = SPACES[name]
    space.seed(2)
    for _ in range(30):
        observation = space.sample()
        expected, _ = model.predict(observation, deterministic=True)
        for policy in policies:
            np.testing.assert_allclose(policy.predict(flatten_observation(space, observation))[0], expected, atol=1e-5)
    for critic in found.critics:
        assert critic(torch.zeros(2, SIZES[name]), torch.zeros(2, 2)).shape == (2, 1)


@pytest.mark.parametrize(("algo", "name"), crossed(["sac", "ppo", "dqn"], ["discrete", "dict", "box-2d"]))
def test_agents_of_every_space_are_pressed_while_they_learn(algo: str, name: str) -> None:
    kind = ADAPTERS[algo].model_class
    settings: dict[str, Any] = {"n_steps": 20} if algo == "ppo" else {"learning_starts": 10, "buffer_size": 99}
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    model = kind(policy, env_of(name, algo), policy_kwargs={"net_arch": [16]}, seed=1, device="cpu", **settings)
    model.learn(100, callback=CompressionCallback(PRESSED))
    frozen = pp.freeze(model)
    assert frozen.numerics == "integer"
    model.policy.set_training_mode(False)
    space = SPACES[name]
    space.seed(3)
    for _ in range(20):
        observation = space.sample()
        expected, _ = model.predict(observation, deterministic=True)
        np.testing.assert_allclose(
            frozen.predict(flatten_observation(space, observation))[0], expected, rtol=1e-5, atol=1e-5
        )
    assert len(evaluate(frozen, env_of(name, algo), episodes=2).returns) == 2


@pytest.mark.parametrize("method", ["distill", "ptq", "finetune"])
def test_an_agent_of_dict_observations_is_pressed(method: str, tmp_path: Path) -> None:
    env = env_of("dict", "ppo")
    trained("ppo", "dict").save(tmp_path / "agent.zip")
    source = Source(tmp_path / "agent.zip", trust=True, force=True)
    settings: dict[str, Any] = {"episodes": 2, **({"steps": 64} if method == "finetune" else {})}
    config = plan(source, "ppo", env, method=method, student={"batches": 20, "states": 300}, settings=settings)
    press(source, config, tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert policy.observation.shape == (16,)
    assert policy.provenance["env"] == env
    assert evaluate(policy, episodes=2).returns == tuple(policy.results["evaluation"]["returns"])


def test_train_takes_every_space(tmp_path: Path) -> None:
    from policypress.rl.plan import plan_training
    from policypress.rl.train import train

    small = {"eval_every": 50, "eval_episodes": 1, "final_episodes": 2, "hidden": (8,)}
    settings = {"n_steps": 20, "batch_size": 10}
    for name in ("discrete", "dict"):
        config = plan_training("ppo", env_of(name, "ppo"), 60, training=small, algo_kwargs=settings)
        assert config.network == "mlp"
        train(config, tmp_path / name)
        assert pp.load(tmp_path / name / "policy.policy").observation.shape == (SIZES[name],)


def test_spaces_that_stable_baselines_does_not_take_either(tmp_path: Path) -> None:
    trained("ppo", "dict").save(tmp_path / "agent.zip")
    for env, sentence in {
        PAIRED: "observations of Tuple space cannot",
        SEEN: r"images beside .* \(camera\) cannot",
    }.items():
        with pytest.raises(UnsupportedError, match=sentence):
            load_agent(tmp_path / "agent.zip", "ppo", env)
    nested = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})})
    with pytest.raises(UnsupportedError, match="observations of nested Dict space"):
        check_taken(nested)
    counted = spaces.Discrete(3, start=1)
    for space in (counted, spaces.MultiDiscrete([2, 2], start=[0, 1]), spaces.Dict({"a": counted})):
        with pytest.raises(UnsupportedError, match=r"that count from .* are not Stable-Baselines3's"):
            check_taken(space)


_LEAVES = st.sampled_from(
    [
        spaces.Box(-1, 1, (2, 2), np.float32), spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.MultiBinary(2),
        spaces.Discrete(3), spaces.Discrete(4, start=-2), spaces.MultiDiscrete([2, 3]),
    ]
)  # fmt: skip
_NESTED = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("xyz"), inner, min_size=1).map(spaces.Dict),
    ),
    max_leaves=6,
)


@given(_NESTED, st.integers(0, 99))
def test_parts_of_parts_are_one_vector_as_gymnasium_makes_it(space: spaces.Space[Any], seed: int) -> None:
    space = copy.deepcopy(space)
    space.seed(seed)
    observation = space.sample()
    vector = flatten_observation(space, observation)
    np.testing.assert_array_equal(vector, spaces.flatten(space, observation).astype(vector.dtype))
    flat = flat_space(space)
    assert flat.shape == vector.shape == (flat_size(space),)
    assert flat.contains(vector.astype(flat.dtype))


def test_images_among_the_parts_are_refused_by_name() -> None:
    camera = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    for space, name in (
        (spaces.Tuple([spaces.Discrete(2), camera]), "1"),
        (spaces.Dict({"a": spaces.Dict({"camera": camera})}), "camera"),
    ):
        with pytest.raises(UnsupportedError, match=rf"images beside other things \({name}\) cannot be pressed"):
            flat_size(space)


def test_a_black_box_acts_on_a_tuple() -> None:
    def says(x: torch.Tensor) -> torch.Tensor:  # which of two it is, and never the third
        return torch.cat([9.0 * x[:, 2:], torch.full((len(x), 1), -9.0)], dim=1)

    observation, action = ObservationTransform((4,), "float32"), ActionTransform("discrete", dtype="int64")
    teacher = Teacher(None, observation, action, "logits", answers=says)
    bits = CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.2)
    config = DistillConfig(bits, (8,), batches=300, batch_size=64, states=1000, learning_rate=1e-2, collections=2)
    policy = pp.compress(teacher, PAIRED, config)
    assert evaluate(policy, episodes=4).mean == EPISODE
    assert evaluate(policy, PAIRED, episodes=2).mean == EPISODE


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3), -1),
        (spaces.MultiDiscrete([2, 3]), [2, 0]),
        (spaces.MultiDiscrete([2, 3]), [1]),
    ],
)
def test_choices_that_the_space_does_not_have(space: spaces.Space[Any], observation: Any) -> None:
    with pytest.raises(ObservationError, match=r"is not one of .*: mend the environment"):
        flatten_observation(space, observation)


def test_a_tuple_opens_flattened(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    made = gym.wrappers.FlattenObservation(gym.make(PAIRED))
    model = PPO("MlpPolicy", made, n_steps=32, batch_size=32, policy_kwargs={"net_arch": [8]}, seed=1, device="cpu")
    model.learn(32)
    model.save(tmp_path / "agent.zip")
    with pytest.raises(UnsupportedError, match=r"--wrapper gymnasium\.wrappers:Flatten"):
        load_agent(tmp_path / "agent.zip", "ppo", PAIRED)
    env = Environment(PAIRED, wrappers=("gymnasium.wrappers:FlattenObservation",))
    found = load_agent(tmp_path / "agent.zip", "ppo", env)
    policy = freeze_graph(found.graph, found.observation, found.action)
    observation, _ = made.reset(seed=1)
    assert policy.predict(observation)[0] == model.predict(observation, deterministic=True)[0]
    assert len(evaluate(policy, env, episodes=2).returns) == 2


# Bounds


class Unbounded(Follow):
    """``Follow`` with observations and actions without bounds, one of each bounded on one side."""

    observation_space = spaces.Box(np.float32([-np.inf, -1, -np.inf]), np.float32([np.inf, np.inf, np.inf]))
    action_space = spaces.Box(np.float32([-np.inf, 0]), np.float32([np.inf, np.inf]))


def test_spaces_without_bounds(tmp_path: Path) -> None:
    """Stable-Baselines3 wants bounds of actions; others do not."""

    def follows(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([2 * x[:, 0], x[:, 1] + 1], dim=1)

    space = Unbounded.action_space
    action = ActionTransform("box", (2,), low=space.low, high=space.high)
    teacher = Teacher(None, ObservationTransform((3,), "float32"), action, answers=follows)
    bits = CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.2)
    config = DistillConfig(bits, (16,), batches=400, batch_size=64, states=1000, learning_rate=1e-2, collections=2)
    pp.compress(teacher, Unbounded, config).save(tmp_path / "policy.policy")
    policy = pp.load(tmp_path / "policy.policy")
    np.testing.assert_array_equal(policy.action.high, space.high)
    assert evaluate(policy, Unbounded, episodes=4).mean > -2.0
    far = policy.predict(np.float32([[40.0, 40.0, 0.0], [0.0, -40.0, 0.0]]))[0]
    assert far[0, 0] > 1.5
    assert 0.0 <= far[1, 1] < 0.2  # clipped on its one side
    pp.export(policy, tmp_path / "c", "c")  # type: ignore[operator]  # which checks itself
    actions, blind = chance(Unbounded, episodes=2, steps=20)
    assert blind.mean < -2.0, actions
