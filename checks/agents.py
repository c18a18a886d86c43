"""Agents of many kinds at the door: each is opened as the very agent that it is, or refused in one sentence.

    python checks/agents.py                           # all kinds; one core, less than ten minutes
    python checks/agents.py --only gsde --only old    # those with a word in their name
    python checks/agents.py --published FOLDER        # also the zips of the RL Zoo in FOLDER, if there is one

Each kind is trained for a few hundred steps by plain Stable-Baselines3 on a toy of its own spaces. Then all parameters
are shaken, so that outputs are large enough to meet every bound, and the agent is saved by Stable-Baselines3's own
``save``. It is opened by every door:

    load    load_agent(zip), then teacher_of(agent).policy()
    trust   the same, by unpickling
    freeze  policypress.freeze of the live model
    student compress() without compression at a learning rate of nothing: an exact copy of the agent (some kinds)
    press   policypress compress without statistics of VecNormalize: must refuse or warn (shown in the column load)

and each policy's actions are compared with the model's own ``predict(deterministic=True)``, behind the VecNormalize
that it was trained with: on observations that it met, at several scales, on random ones, and in whole episodes from the
same seeds (``evaluate``). ``=`` is at most 1e-5 of an action (of its magnitude, above 1) and no other discrete action.

Failures, which make the exit code 1: other actions (WRONG), an exception that is not policypress's own (CRASH), a
refusal that is not one sentence (WORDS), and a refusal of a kind that the documentation says is opened (CLOSED).
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import pickle
import shutil
import sys
import tempfile
import time
import traceback
import types
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, unwrap_vec_normalize
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

import policypress as pp
from policypress.config import CompressionConfig, DistillConfig, Environment
from policypress.errors import PolicypressError
from policypress.rl import CompressionCallback
from policypress.rl.agents import load_agent, teacher_of
from policypress.rl.compress import compress
from policypress.rl.environments import make_env
from policypress.rl.evaluate import evaluate
from policypress.rl.formats import open_agent
from policypress.rl.plan import plan_pressing
from policypress.rl.press import press
from policypress.rl.sources import Source

TOLERANCE = 1e-5
EPISODE, EPISODES, FIRST_SEED = 20, 3, 1000
ALGORITHMS: dict[str, Any] = {
    "sac": SAC, "td3": TD3, "ddpg": DDPG, "tqc": TQC, "crossq": CrossQ, "dqn": DQN, "qrdqn": QRDQN, "ppo": PPO,
    "a2c": A2C, "trpo": TRPO, "recurrent": RecurrentPPO, "maskable": MaskablePPO, "ars": ARS,
}  # fmt: skip
OFF_POLICY = {"buffer_size": 1_000, "learning_starts": 50, "batch_size": 32, "train_freq": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    "recurrent": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    "maskable": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    "trpo": {"n_steps": 64, "batch_size": 32},
    "a2c": {},
    "ars": {"n_delta": 1},
}
SMALL: dict[str, dict[str, Any]] = {"tqc": {"n_quantiles": 5}, "qrdqn": {"n_quantiles": 10}}

# Environments


class Toy(gym.Env[Any, Any]):
    """Observations of any space, drawn anew each step; what an action is worth depends smoothly on both.

    Numbers of a Box without bounds come from a normal distribution of another mean and spread in each dimension.
    """

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._shown = self._draw(self.observation_space)
        return self._shown, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        wanted = np.tanh(np.sum(np.ravel(spaces.flatten(self.observation_space, self._shown))[:3]) / 10)
        # A square root, so that a large action counts and does not drown the others.
        reward = -float(np.mean(np.sqrt(np.abs(np.asarray(action, np.float64) - wanted))))
        self._steps += 1
        self._shown = self._draw(self.observation_space)
        return self._shown, reward, False, self._steps >= EPISODE, {}

    def _draw(self, space: spaces.Space[Any]) -> Any:
        random = self.np_random
        match space:
            case spaces.Dict():
                return {name: self._draw(inner) for name, inner in space.spaces.items()}
            case spaces.Tuple():
                return tuple(self._draw(inner) for inner in space.spaces)
            case spaces.Discrete():
                return int(random.integers(space.n)) + int(space.start)
            case spaces.MultiDiscrete():
                return (random.integers(space.nvec) + space.start).astype(space.dtype)
            case spaces.MultiBinary():
                return random.integers(0, 2, space.shape).astype(np.int8)
            case spaces.Box() if space.dtype.kind in "ui":
                return random.integers(space.low, space.high.astype(np.int64) + 1).astype(space.dtype)
            case _ if space.is_bounded():
                return random.uniform(space.low, space.high).astype(space.dtype)
            case _:
                index = np.arange(np.prod(space.shape)).reshape(space.shape)
                return random.normal(index - 1.0, 3.0 ** (index % 3 - 1)).astype(space.dtype)


class Goal(Toy):
    """As HerReplayBuffer wants it."""

    def __init__(self, action: spaces.Space[Any]) -> None:
        names = ("observation", "achieved_goal", "desired_goal")
        super().__init__(spaces.Dict({name: box(2) for name in names}), action)

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1)


class Masked(Toy):
    """As MaskablePPO wants it."""

    def action_masks(self) -> Any:
        return np.ones(self.action_space.n, bool)


_numbers = itertools.count()


def register(make: Callable[[], gym.Env[Any, Any]]) -> str:
    """The id under which ``make``'s environment can be found from now on."""
    env_id = f"Toy{next(_numbers)}-v0"
    gym.register(env_id, entry_point=make)
    return env_id


def toy(observation: spaces.Space[Any], action: spaces.Space[Any]) -> str:
    return register(lambda: Toy(observation, action))


def box(*shape: int, low: float = -np.inf, high: float = np.inf, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


SEE = box(4)
MOVE = box(2, low=-1, high=1)
UNEVEN = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 0.5], np.float32))
CHOOSE = spaces.Discrete(3)
IMAGE, IMAGE_LAST = (spaces.Box(0, 255, shape, np.uint8) for shape in ((3, 36, 36), (36, 36, 3)))
MIXED = spaces.Dict({"b": SEE, "a": spaces.Discrete(3), "c": spaces.MultiBinary(2), "d": box(2, 2)})

# Agents


@dataclass
class Agent:
    """A trained agent and all that its owner has of it."""

    algo: str
    env: str | Environment
    model: Any
    path: Path
    vecnormalize: Path | None = None
    original: Callable[[Any], Any] | None = None
    """Actions of raw observations; default: the model's own, behind its VecNormalize."""
    chaotic: bool = False
    """Its environment makes much of a last bit, so that episodes cannot be compared."""
    venv: VecEnv | None = None
    """What it was trained in, if that is not one plain environment."""

    def act(self, observations: Any) -> Any:
        if self.original is not None:
            return self.original(observations)
        if self.venv is not None and (normalize := unwrap_vec_normalize(self.venv)) is not None:
            observations = normalized(normalize, observations)
        return self.model.predict(observations, deterministic=True)[0]

    def returns(self) -> list[float]:
        """Of whole episodes, each from its own seed, in what it was trained in."""
        venv = self.venv or DummyVecEnv([lambda: gym.make(self.env)])
        if (normalize := unwrap_vec_normalize(venv)) is not None:
            normalize.training, normalize.norm_reward = False, False
        found = []
        for index in range(EPISODES):
            venv.seed(FIRST_SEED + index)
            observation, total, done = venv.reset(), 0.0, False
            while not done:
                action, _ = self.model.predict(observation, deterministic=True)
                observation, reward, dones, _ = venv.step(action)
                total, done = total + float(reward[0]), bool(dones[0])
            found.append(total)
        return found


def normalized(normalize: VecNormalize, observations: Any) -> Any:
    """Raw observations as VecNormalize gives them; of stacked frames each by itself, zeros before the first one."""
    rms = normalize.obs_rms if normalize.norm_obs else None
    if not isinstance(observations, np.ndarray) or rms is None or observations.shape[1:] == rms.mean.shape:
        return normalize.normalize_obs(observations)
    frames = observations.reshape(len(observations), -1, rms.mean.size)
    return normalize.normalize_obs(frames).reshape(observations.shape).astype(np.float32)


def shake(module: nn.Module, much: float = 1.0) -> None:
    """Moves every weight by about what a layer's inputs can bear, and every bias by less."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for values in module.parameters():
            spread = 1.0 / np.sqrt(values[0].numel()) if values.ndim > 1 else 0.1
            values.add_(torch.randn(values.shape, generator=random) * spread * much)


def agent(
    folder: Path,
    algo: str = "sac",
    observation: spaces.Space[Any] = SEE,
    action: spaces.Space[Any] | None = None,
    *,
    env_id: str | None = None,
    vec: Callable[[VecEnv], VecEnv] | None = None,
    policy: Any = "MlpPolicy",
    steps: int = 200,
    shaken: float = 1.0,
    changed: Callable[[Any], Any] | None = None,
    net: Any = (16, 16),
    called: str | None = None,
    policy_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> Agent:
    """Trains ``algo``, shakes it, lets ``changed`` alter it and saves it; ``net`` None is the algorithm's default.

    ``called``: what its owner takes its algorithm for.
    """
    if env_id is None:
        env_id = toy(observation, action or (CHOOSE if algo in ("dqn", "qrdqn", "maskable") else MOVE))
    venv: VecEnv = DummyVecEnv([lambda: Monitor(gym.make(env_id))])
    venv = vec(venv) if vec else venv
    kwargs = {**(SMALL.get(algo, {}) if net is not None else {}), **(policy_kwargs or {})}
    if net is not None:
        kwargs.setdefault("net_arch", list(net) if isinstance(net, tuple) else net)
    chosen = {**SETTINGS.get(algo, OFF_POLICY), **settings}
    if algo == "ars":
        kwargs.pop("net_arch", None)
    model = ALGORITHMS[algo](policy, venv, policy_kwargs=kwargs or None, seed=3, device="cpu", **chosen)
    model.learn(steps)
    model.policy.set_training_mode(False)
    if shaken:
        shake(model.policy, shaken)
    if changed:
        changed(model)
    model.save(folder / "agent.zip")
    made = Agent(called or algo, env_id, model, folder / "agent.zip", venv=venv if vec else None)
    if (normalize := unwrap_vec_normalize(venv)) is not None:
        made.vecnormalize = folder / "vecnormalize.pkl"
        normalize.save(str(made.vecnormalize))
    return made


@dataclass(frozen=True)
class Kind:
    name: str
    make: Callable[[Path], Agent]
    opens: bool = True
    """The documentation says that it is opened: to refuse it is a failure."""
    doors: tuple[str, ...] = ("load", "trust", "freeze")
    shut: tuple[str, ...] = ()
    """Doors that may refuse it although others open it."""


ALL = ("load", "trust", "freeze")
COPIED = (*ALL, "student")
ZIP = ("load", "trust")


def kind(
    name: str,
    doors: tuple[str, ...] = ALL,
    *,
    make: Callable[..., Agent] = agent,
    opens: bool = True,
    shut: tuple[str, ...] = (),
    **arguments: Any,
) -> Kind:
    """A Kind whose name begins with its algorithm, unless that is among the arguments."""
    arguments.setdefault("algo", name.partition(":")[0].rpartition(" ")[2])
    return Kind(name, partial(make, **arguments), opens, doors, shut)


def kinds_of_networks() -> list[Kind]:
    """Every algorithm as it comes, and what can be said of its networks."""
    algorithms = ("sac", "td3", "ddpg", "tqc", "crossq", "dqn", "qrdqn", "ppo", "a2c", "trpo")
    nets: dict[str, Any] = {
        "sac: pi 8, qf 16-16": {"pi": [8], "qf": [16, 16]},
        "ppo: pi 8, vf 32-32": {"pi": [8], "vf": [32, 32]},
        "ppo: pi empty, vf 16": {"pi": [], "vf": [16]},
        "td3: one layer": (8,),
        "trpo: three layers": (8, 8, 8),
        **{f"{algo}: empty net_arch (linear)": () for algo in ("sac", "td3", "crossq", "dqn", "ppo")},
    }
    settings: dict[str, dict[str, Any]] = {
        "sac: 3 critics": {"n_critics": 3},
        "td3: 1 critic": {"n_critics": 1},
        "tqc: 7 quantiles, 3 critics": {"n_quantiles": 7, "n_critics": 3},
        "qrdqn: 1 quantile": {"n_quantiles": 1},
        "ppo: own optimizer": {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9}},
        "ppo: no orthogonal weights": {"ortho_init": False, "log_std_init": -2.0},
        "ppo: extractors apart": {"share_features_extractor": False},
        "sac: extractor shared": {"share_features_extractor": True},
        "crossq: other epsilon": {"batch_norm_eps": 0.3},
        "sac: normalize_images False, vectors": {"normalize_images": False},
        "ppo: ReLU": {"activation_fn": nn.ReLU},
        "a2c: ReLU": {"activation_fn": nn.ReLU},
    }
    others = (nn.LeakyReLU, nn.SiLU, nn.ReLU6, nn.Hardtanh, nn.Identity)
    return [
        *(kind(f"{algo}: defaults", COPIED, net=None, steps=120) for algo in algorithms),
        *(kind(f"{a}: Tanh", COPIED, policy_kwargs={"activation_fn": nn.Tanh}) for a in ("sac", "td3", "dqn", "tqc")),
        *(kind(f"{a}: ELU", opens=False, policy_kwargs={"activation_fn": nn.ELU}) for a in ("sac", "ppo", "dqn")),
        *(kind(f"ppo: {a.__name__}", opens=False, policy_kwargs={"activation_fn": a}) for a in others),
        *(kind(name, COPIED, net=net) for name, net in nets.items()),
        *(kind(name, policy_kwargs=kwargs) for name, kwargs in settings.items()),
    ]


def kinds_of_gsde() -> list[Kind]:
    """State-dependent exploration: SAC clips its mean, PPO may squash it."""
    settings: dict[str, dict[str, Any]] = {
        "sac: gSDE, mean not clipped": {"clip_mean": 0.0},
        "sac: gSDE, mean clipped at 0.5": {"clip_mean": 0.5},
        "tqc: gSDE, expln": {"use_expln": True, "log_std_init": -2.0},
        "ppo: gSDE, squash_output": {"squash_output": True},
        "a2c: gSDE, squash_output, one std a unit": {"squash_output": True, "full_std": False},
    }
    sde = {"use_sde": True, "shaken": 2.0}
    return [
        *(kind(f"{algo}: gSDE", COPIED, **sde) for algo in ("sac", "ppo", "a2c", "tqc")),
        *(kind(name, action=UNEVEN, policy_kwargs=kwargs, **sde) for name, kwargs in settings.items()),
    ]


def kinds_of_actions() -> list[Kind]:
    flat: dict[str, spaces.Space[Any]] = {
        "ppo: Box of float64": box(2, low=-1, high=1, dtype=np.float64),
        "sac: Box of float64": box(2, low=-0.3, high=0.1, dtype=np.float64),
        "ppo: Discrete": CHOOSE,
        "a2c: Discrete": CHOOSE,
        "trpo: Discrete": CHOOSE,
        "ppo: Discrete with one choice": spaces.Discrete(1),
        "ppo: MultiDiscrete": spaces.MultiDiscrete([2, 3, 4]),
        "a2c: MultiDiscrete": spaces.MultiDiscrete([5, 2]),
        "ppo: MultiBinary": spaces.MultiBinary(4),
        "a2c: MultiBinary": spaces.MultiBinary(1),
        "trpo: MultiBinary": spaces.MultiBinary(3),
    }
    return [
        *(kind(f"{algo}: Box of other bounds", COPIED, action=UNEVEN) for algo in ("sac", "ppo", "td3")),
        *(kind(f"{algo}: 2-D Box", COPIED, action=box(2, 3, low=-2, high=1)) for algo in ("sac", "ppo", "td3")),
        *(kind(name, COPIED, action=space) for name, space in flat.items()),
        kind("dqn: Discrete with two choices", COPIED, action=spaces.Discrete(2), observation=box(4, low=-1, high=1)),
        kind("ppo: Discrete from 1", opens=False, action=spaces.Discrete(3, start=1)),
        kind("ppo: Box of integers", opens=False, action=box(2, low=0, high=9, dtype=np.int64)),
    ]


def kinds_of_observations() -> list[Kind]:
    many = {"policy": "MultiInputPolicy"}
    bytes_ = spaces.Box(0, 255, (6,), np.uint8)
    flat: dict[str, spaces.Space[Any]] = {
        "ppo: Discrete observations": spaces.Discrete(5),
        "dqn: Discrete observations": spaces.Discrete(5),
        "ppo: MultiDiscrete observations": spaces.MultiDiscrete([3, 4]),
        "sac: MultiBinary observations": spaces.MultiBinary(6),
        "ppo: 2-D MultiBinary observations": spaces.MultiBinary([2, 3]),
        "ppo: 2-D observations": box(3, 4),
        "sac: 2-D observations of float64": box(3, 4, dtype=np.float64),
        "ppo: one number": box(1),
        "sac: float64": box(4, dtype=np.float64),
        "ppo: vectors of uint8": bytes_,
        "sac: vectors of int32": spaces.Box(-50, 50, (6,), np.int32),
    }
    seen = spaces.Dict({"see": IMAGE, "feel": SEE})
    cnn: dict[str, Any] = {"policy": "CnnPolicy", "net": (8,), "steps": 70}
    small = {**cnn, "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 32}}}
    raw = {"normalize_images": False}
    floats = {"policy_kwargs": {**raw, "features_extractor_kwargs": {"normalized_image": True}}}
    return [
        *(kind(f"{algo}: Dict", observation=MIXED, **many) for algo in ("ppo", "sac", "dqn")),
        kind(
            "sac: Dict of goals, HerReplayBuffer",
            env_id=register(lambda: Goal(MOVE)),
            replay_buffer_class=HerReplayBuffer,
            shut=("trust",),  # Stable-Baselines3 itself asks for the environment
            **many,
        ),
        kind("ppo: Dict with an image", opens=False, observation=seen, **many),
        *(kind(name, observation=space) for name, space in flat.items()),
        kind("ppo: 3-D observations of floats", opens=False, observation=box(2, 3, 4)),
        kind("ppo: 2-D observations of uint8", opens=False, observation=spaces.Box(0, 255, (4, 5), np.uint8)),
        kind("dqn: images, channels first", observation=IMAGE, **small),
        kind("dqn: images, channels last", COPIED, observation=IMAGE_LAST, **small),
        kind("ppo: images", observation=IMAGE, **small),
        kind(
            "ppo: images, channels last, extractors apart",
            observation=IMAGE_LAST,
            policy_kwargs={"share_features_extractor": False},
            **cnn,
        ),
        kind("sac: images", observation=IMAGE, **small),
        kind("ppo: images, MlpPolicy", opens=False, observation=IMAGE),
        kind("ppo: images, MlpPolicy, channels last", opens=False, observation=IMAGE_LAST),
        kind("ppo: images, MlpPolicy, normalize_images False", opens=False, observation=IMAGE, policy_kwargs=raw),
        kind("ppo: images of bytes 0 and 1", opens=False, observation=spaces.Box(0, 1, (3, 6, 6), np.uint8)),
        kind(
            "ppo: images of floats, normalize_images False",
            opens=False,
            observation=box(3, 36, 36, low=0, high=1),
            **floats,
            **cnn,
        ),
        kind(
            "ppo: images normalized by VecNormalize", opens=False, observation=IMAGE, vec=VecNormalize, **floats, **cnn
        ),
    ]


def kinds_of_vecnormalize() -> list[Kind]:
    """Statistics of observations: given, left out, of no use, and below frames."""

    def frames(folder: Path, algo: str, vec: Callable[[VecEnv], VecEnv]) -> Agent:
        inner = toy(SEE, MOVE)
        made = agent(folder, algo, env_id=inner, vec=vec)
        made.env = Environment(inner, frame_stack=3)
        return made

    def moved(folder: Path, algo: str, beside: bool) -> Agent:
        """The statistics in the Zoo's place, a folder of the environment's name beside the zip, or nowhere."""
        made = agent(folder, algo, vec=VecNormalize)
        assert made.vecnormalize is not None
        if beside:
            (folder / str(made.env)).mkdir()
            shutil.copy(made.vecnormalize, folder / str(made.env))
        made.vecnormalize.unlink()
        made.vecnormalize = None
        return made

    bytes_, two = spaces.Box(0, 255, (6,), np.uint8), spaces.Dict({"a": SEE, "b": box(2)})
    goal, many = register(lambda: Goal(MOVE)), "MultiInputPolicy"
    return [
        kind("ppo: VecNormalize", COPIED, vec=VecNormalize),
        kind("sac: VecNormalize, clipped at 1", COPIED, vec=partial(VecNormalize, clip_obs=1.0)),
        kind("td3: VecNormalize, float64", observation=box(4, dtype=np.float64), vec=VecNormalize),
        kind("dqn: VecNormalize, vectors of uint8", observation=bytes_, vec=VecNormalize),
        kind("ppo: VecNormalize, norm_obs False", vec=partial(VecNormalize, norm_obs=False)),
        kind("ppo: VecNormalize, observations alone", vec=partial(VecNormalize, norm_reward=False)),
        kind("ppo: VecNormalize, 2-D observations", observation=box(2, 3), vec=VecNormalize),
        kind("sac: VecNormalize, Dict of goals", opens=False, env_id=goal, policy=many, vec=VecNormalize),
        kind(
            "ppo: VecNormalize, some keys of a Dict",
            opens=False,
            observation=two,
            policy=many,
            vec=partial(VecNormalize, norm_obs_keys=["b"]),
        ),
        kind("ppo: VecFrameStack", make=frames, vec=partial(VecFrameStack, n_stack=3)),
        kind("ppo: VecFrameStack over VecNormalize", make=frames, vec=lambda v: VecFrameStack(VecNormalize(v), 3)),
        kind("sac: VecNormalize over VecFrameStack", make=frames, vec=lambda v: VecNormalize(VecFrameStack(v, 3))),
        kind("ppo: VecNormalize, statistics beside the zip", ZIP, opens=False, make=moved, beside=True),
        kind("ppo: VecNormalize, statistics forgotten", ("press",), opens=False, make=moved, beside=False),
    ]


# Policies that are more than their layers


class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, 4)
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


class TenthExtractor(FlattenExtractor):
    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations) / 10


class OwnForward(ActorCriticPolicy):
    """Only what training calls: predict does not."""

    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        return super().forward(obs / 10, deterministic)


class OwnFeatures(ActorCriticPolicy):
    """Only what training calls, again: get_distribution asks the class above."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return super().extract_features(obs / 10, features_extractor)


class OwnMlp(MlpExtractor):
    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward_actor(features)


class OwnMlpPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = OwnMlp(self.features_dim, self.net_arch, self.activation_fn, self.device)


class OwnPredict(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return super()._predict(observation, deterministic) + 0.25


class OwnDistribution(ActorCriticPolicy):
    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        return self.action_dist.proba_distribution(0.5 * self.action_net(latent_pi), self.log_std)


class PlainSubclass(ActorCriticPolicy):
    """Nothing of its own but the name."""


class OwnSACActor(SACActor):
    def forward(self, obs: Any, deterministic: bool = False) -> torch.Tensor:
        return 0.5 * super().forward(obs, deterministic)


class OwnSACParameters(SACActor):
    def get_action_dist_params(self, obs: Any) -> Any:
        mean, log_std, kwargs = super().get_action_dist_params(obs)
        return mean.clamp(-0.5, 0.5), log_std, kwargs


class OwnSACPolicy(SACPolicy):
    actor_class: Any = OwnSACActor

    def make_actor(self, features_extractor: Any = None) -> Any:
        return self.actor_class(**self._update_features_extractor(self.actor_kwargs, features_extractor))


class OwnSACMean(OwnSACPolicy):
    actor_class = OwnSACParameters


class OwnSACFeatures(SACActor):
    def extract_features(self, obs: Any, features_extractor: Any) -> torch.Tensor:
        return super().extract_features(obs, features_extractor) / 10


class OwnSACExtract(OwnSACPolicy):
    actor_class = OwnSACFeatures


class OwnScale(SACPolicy):
    def unscale_action(self, scaled_action: Any) -> Any:
        return 0.5 * super().unscale_action(scaled_action)


class OwnTD3Actor(TD3Actor):
    def forward(self, obs: Any) -> torch.Tensor:
        return -super().forward(obs)


class OwnTD3Policy(TD3Policy):
    def make_actor(self, features_extractor: Any = None) -> Any:
        return OwnTD3Actor(**self._update_features_extractor(self.actor_kwargs, features_extractor))


class OwnQNetwork(QNetwork):
    """Half of a duel: the mean of the values comes off, and a bonus on the first action."""

    def forward(self, obs: Any) -> torch.Tensor:
        values = super().forward(obs)
        return values - values.mean(dim=1, keepdim=True) + torch.tensor([1.0, 0.0, 0.0])


class OwnDQNPolicy(DQNPolicy):
    def make_q_net(self) -> Any:
        return OwnQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None))


class OwnPPO(PPO):
    def predict(self, observation: Any, *rest: Any, **more: Any) -> Any:
        action, state = super().predict(observation, *rest, **more)
        return -action, state


class TwiceLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class TenthSequential(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x / 10)


def kinds_of_code() -> list[Kind]:
    """Own classes, which a zip keeps by name, and changes of the live model, which only ``freeze`` sees."""
    policies: dict[str, Any] = {
        "ppo: policy of another name": PlainSubclass,
        "ppo: own forward, of training alone": OwnForward,
        "ppo: own extract_features, of training alone": OwnFeatures,
        "ppo: own forward_actor": OwnMlpPolicy,
        "a2c: own _predict": OwnPredict,
        "trpo: own distribution": OwnDistribution,
        "sac: own Actor.forward": OwnSACPolicy,
        "sac: own mean": OwnSACMean,
        "sac: own Actor.extract_features": OwnSACExtract,
        "sac: own unscale_action": OwnScale,
        "td3: own Actor.forward": OwnTD3Policy,
        "ddpg: own Actor.forward": OwnTD3Policy,
        "dqn: own QNetwork.forward": OwnDQNPolicy,
    }
    extractors = {
        "ppo: own extractor": OwnExtractor,
        "sac: own extractor": OwnExtractor,
        "ppo: own subclass of FlattenExtractor": TenthExtractor,
    }

    def tanh_at_the_end(model: Any) -> None:
        model.policy.action_net = nn.Sequential(model.policy.action_net, nn.Tanh())

    def own_layer(model: Any) -> None:
        old = model.actor.latent_pi[0]
        model.actor.latent_pi[0] = TwiceLinear(old.in_features, old.out_features)
        model.actor.latent_pi[0].load_state_dict(old.state_dict())

    def own_container(model: Any) -> None:
        model.q_net.q_net = TenthSequential(*model.q_net.q_net)

    def other_forward(model: Any) -> None:
        model.q_net.forward = lambda obs: -QNetwork.forward(model.q_net, obs)

    def other_predict(model: Any) -> None:
        predict = model.policy.predict
        model.policy.predict = lambda *inputs, **more: (-predict(*inputs, **more)[0], None)

    def own_algorithm(model: Any) -> None:
        model.__class__ = OwnPPO

    changes: dict[str, Callable[[Any], Any]] = {
        "sac: forward hook on the last layer": lambda m: m.actor.mu.register_forward_hook(lambda *args: args[2] / 2),
        "td3: forward hook on the actor": lambda m: m.actor.register_forward_hook(lambda *args: -args[2]),
        "ppo: hook before the extractor": lambda m: m.policy.features_extractor.register_forward_pre_hook(
            lambda _, inputs: (inputs[0] / 10,)
        ),
        "dqn: forward replaced on the instance": other_forward,
        "ppo: predict replaced on the instance": other_predict,
        "ppo: own predict of the algorithm": own_algorithm,
        "ppo: Tanh behind the last layer": tanh_at_the_end,
        "sac: own subclass of Linear": own_layer,
        "dqn: own subclass of Sequential": own_container,
        "sac: spectral norm": lambda m: nn.utils.parametrizations.spectral_norm(m.actor.latent_pi[0]),
        "ppo: weight norm": lambda m: nn.utils.parametrizations.weight_norm(m.policy.action_net),
        "sac: Dropout": lambda m: m.actor.latent_pi.insert(2, nn.Dropout(0.5)),
    }
    return [
        *(kind(name, opens=False, policy=policy) for name, policy in policies.items()),
        *(kind(n, opens=False, policy_kwargs={"features_extractor_class": kept}) for n, kept in extractors.items()),
        *(kind(name, ("freeze",), opens=False, changed=change) for name, change in changes.items()),
    ]


def kinds_of_other_algorithms() -> list[Kind]:
    """Algorithms of other kinds, and agents that are pressed already."""

    def pressed(folder: Path, algo: str, config: CompressionConfig) -> Agent:
        made = agent(folder, algo, steps=1, shaken=0)
        made.model.learn(400, callback=CompressionCallback(config))
        made.model.save(made.path)
        if config.quantizes:  # it acts by its integers, which float32 gives but for the last bits
            frozen = pp.freeze(made.model)
            made.original = lambda raw: frozen.predict(raw, reference=True)[0]
        return made

    pruned = CompressionConfig(sparsity=0.5, prune_start=0.2, prune_end=0.6)
    quantized = CompressionConfig(sparsity=0.5, weight_bits=8, prune_start=0.2, prune_end=0.6, quantize_start=0.7)
    lstm = {"policy": "MlpLstmPolicy", "net": (8,), "policy_kwargs": {"lstm_hidden_size": 8}}
    return [
        kind("recurrent ppo", opens=False, algo="recurrent", called="ppo", **lstm),
        kind("maskable ppo", opens=False, algo="maskable", called="ppo", env_id=register(lambda: Masked(SEE, CHOOSE))),
        kind("ars: linear", opens=False, called="a2c", policy="LinearPolicy", net=None, steps=80),
        kind("ars: layers", opens=False, called="sac", net=None, steps=80),
        kind("td3: taken for sac", opens=False, called="sac", doors=ZIP),
        kind("a2c: taken for ppo", opens=False, called="ppo", doors=ZIP),
        kind("dqn: taken for qrdqn", opens=False, called="qrdqn", doors=ZIP),
        kind("trpo: taken for a2c", opens=False, called="a2c", doors=ZIP),
        kind("sac: saved while quantizing", make=pressed, config=quantized, shut=ZIP),
        kind("ppo: saved while quantizing", make=pressed, config=quantized, shut=ZIP),
        kind("sac: saved while pruning", COPIED, make=pressed, config=pruned),
    ]


# Old zips, made of new ones


class _Gym:
    """Pickled, it asks for a class of the module gym, which is not installed."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def text(self) -> str:
        """As in the JSON of a zip."""
        modules = [".".join(self.module.split(".")[:end]) for end in range(1, self.module.count(".") + 2)]
        cls = type(self.name, (), {"__module__": self.module})
        before = {name: sys.modules.get(name) for name in modules}
        try:
            for name in modules:
                sys.modules[name] = types.ModuleType(name)
            setattr(sys.modules[self.module], self.name, cls)
            space = cls()
            space.__dict__.update(dtype=np.dtype("float32"), _np_random=None)
            return base64.b64encode(pickle.dumps(space)).decode()
        finally:
            for name, module in before.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module


class _Function37:
    """A function as Python 3.7 pickled it: its code takes other arguments today."""

    def __reduce__(self) -> Any:
        return types.CodeType, (0, 0, 0, 0, 0, b"", (), (), (), "", "", 0, b"", (), ())


Weights = dict[str, torch.Tensor]
Change = Callable[[dict[str, Any]], None]


def rewritten(made: Agent, data: Change, weights: Callable[[Weights], Weights] | None) -> Agent:
    """``made`` with other JSON, or other weights, in its zip."""
    with zipfile.ZipFile(made.path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(contents["data"])
    data(described)
    contents["data"] = json.dumps(described).encode()
    if weights is not None:
        buffer = io.BytesIO()
        torch.save(weights(torch.load(io.BytesIO(contents["policy.pth"]), weights_only=True)), buffer)
        contents["policy.pth"] = buffer.getvalue()
    with zipfile.ZipFile(made.path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return made


def old_gym(data: dict[str, Any]) -> None:
    """Spaces of gym, functions of Python 3.7, no n_envs: as Stable-Baselines3 1.x wrote them."""
    for name in ("observation_space", "action_space"):
        space = data[name]
        kind = space[":type:"].rpartition(".")[2].rstrip("'>")
        module = {"Box": "box", "MultiDiscrete": "multi_discrete"}.get(kind, kind.lower())
        if "_shape" in space:
            space["shape"] = space.pop("_shape")
        space[":type:"] = f"<class 'gym.spaces.{module}.{kind}'>"
        space[":serialized:"] = _Gym(f"gym.spaces.{module}", kind).text()
    function = base64.b64encode(cloudpickle.dumps(_Function37())).decode()
    for name in ("lr_schedule", "clip_range"):
        if name in data:
            data[name] = {":type:": "<class 'function'>", ":serialized:": function}
    data.pop("n_envs", None)


def same(data: dict[str, Any]) -> None:
    pass


def cast(kind: torch.dtype, factor: float = 1.0) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value.to(kind) * factor for key, value in weights.items()}


def halved(model: Any) -> None:
    model.policy.half().float()


def one_extractor(weights: Weights) -> Weights:
    """Before 1.7: one name of the extractor."""
    return {key: value for key, value in weights.items() if not key.startswith(("pi_features", "vf_features"))}


def shared_layers(weights: Weights) -> Weights:
    """Before 1.8: a list of widths was of layers that policy and value share."""
    found = {}
    for key, value in one_extractor(weights).items():
        if not key.startswith("mlp_extractor.value_net"):
            found[key.replace("mlp_extractor.policy_net", "mlp_extractor.shared_net")] = value
    return found


def kinds_of_old_zips() -> list[Kind]:
    """As Stable-Baselines3 1.x wrote them; unpickling asks for gym and Python 3.7, so the door trust may stay shut."""

    def old(folder: Path, change: Change = old_gym, weights: Any = None, **arguments: Any) -> Agent:
        return rewritten(agent(folder, **arguments), change, weights)

    def nets(value: Any) -> Change:
        def change(data: dict[str, Any]) -> None:
            old_gym(data)
            data["policy_kwargs"]["net_arch"] = value

        return change

    def said(value: Any) -> Change:
        return lambda data: data.update(policy_class=value)

    def module(name: str) -> Change:
        return lambda data: data["policy_class"].update(__module__=name)

    def without(*names: str) -> Change:
        return lambda data: [data.pop(name) for name in names] and None

    gym_, shut = {"make": old, "shut": ("trust",)}, {"make": old, "opens": False}
    one = {**gym_, "weights": one_extractor}
    cnn = {"policy": "CnnPolicy", "net": None, "steps": 70, "observation": IMAGE}
    return [
        *(kind(f"old {algo}: spaces of gym", ZIP, **gym_) for algo in ("sac", "td3", "ddpg", "tqc", "dqn")),
        kind(
            "old ppo: net_arch in a list",
            ZIP,
            net={"pi": [8], "vf": [9, 9]},
            change=nets([{"pi": [8], "vf": [9, 9]}]),
            **one,
        ),
        kind("old ppo: MultiDiscrete", ZIP, action=spaces.MultiDiscrete([2, 3]), **one),
        kind("old ppo: images", ZIP, **cnn, **one),
        kind("old a2c: gSDE", ZIP, use_sde=True, **one),
        kind("old ppo: layers shared with the value", ZIP, change=nets([16, 16]), weights=shared_layers, **shut),
        kind(
            "old ppo: a layer shared with the value",
            ZIP,
            change=nets([16, {"pi": [16]}]),
            weights=shared_layers,
            **shut,
        ),
        kind("ppo: policy class of another module", ZIP, change=module("stable_baselines3.ppo.policies"), **shut),
        kind("sac: policy class of __main__", ZIP, change=module("__main__"), **shut),
        kind("sac: policy class as a word", ZIP, change=said("MlpPolicy"), **shut),
        kind("ppo: policy class as null", ZIP, change=said(None), **shut),
        kind("sac: no policy class", ZIP, change=without("policy_class"), **shut),
        kind("ppo: no n_envs", ZIP, change=without("n_envs"), **gym_),
        kind("sac: no spaces", ZIP, change=without("observation_space", "action_space"), **gym_),
        kind("ppo: no use_sde", ZIP, change=without("use_sde"), **gym_),
        kind(
            "sac: no policy_kwargs",
            ZIP,
            net=(256, 256),
            policy_kwargs={"activation_fn": nn.Tanh},
            change=without("policy_kwargs"),
            **shut,
        ),
        # Stable-Baselines3 itself rounds what only float64 holds.
        kind("sac: weights of float64", ZIP, make=old, change=same, weights=cast(torch.float64, 1 + 1e-10)),
        kind("ppo: weights of float16", ZIP, make=old, change=same, weights=cast(torch.float16), changed=halved),
    ]


def kinds_published(folder: Path | None) -> list[Kind]:
    """The zips of the RL Zoo: FOLDER/ALGO-NAME-1M.zip, of the environment NAME-v5, saved by Stable-Baselines3 1.x."""

    def published(at: Path, source: Path) -> Agent:
        algo, name, _ = source.stem.split("-")
        env_id = f"{name}-v5"
        shutil.copy(source, at / "agent.zip")
        env = gym.make(env_id)
        spaces_now = {"observation_space": env.observation_space, "action_space": env.action_space}
        functions = {"lr_schedule": lambda _: 0.0, "learning_rate": 0.0, "_last_obs": None, "_last_original_obs": None}
        env.close()
        model = ALGORITHMS[algo].load(source, custom_objects={**spaces_now, **functions}, buffer_size=1, device="cpu")
        return Agent(algo, env_id, model, at / "agent.zip", chaotic=True)

    if folder is None or not folder.is_dir():
        print(f"published agents: none in {folder}, left out\n" if folder else "", end="")
        return []
    zips = sorted(folder.glob("*-*-1M.zip"))
    return [
        Kind(
            f"published {path.stem}",
            partial(published, source=path),
            doors=("load", "trust", "student"),
            shut=("trust",),
        )
        for path in zips
    ]


# What comes of it


@dataclass
class Outcome:
    """Of one kind: a word for each door, and what there is to say of it."""

    kind: Kind
    words: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0
    told: dict[str, list[str]] = field(default_factory=dict)
    """What was said, and at which doors."""

    @property
    def failed(self) -> bool:
        return any(word in ("WRONG", "CRASH", "WORDS", "CLOSED") for word in self.words.values())


def is_sentence(error: PolicypressError) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and len(text) <= 400


def observations_for(described: str | Environment) -> list[Any]:
    """Batches: met, the same at other scales, nothing, and random ones."""
    env = make_env(described, training=False, flat=False)
    space, random = env.observation_space, np.random.default_rng(11)
    met = [env.reset(seed=77)[0]]
    env.action_space.seed(77)
    for _ in range(63):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        met.append(env.reset()[0] if terminated or truncated else observation)
    env.close()
    if not isinstance(space, spaces.Box):
        return [stacked(space, met)]
    batch = np.stack(met)
    if batch.dtype.kind in "ui":
        ends = [np.full_like(batch[:1], int(end)) for end in (space.low.min(), space.high.max())]
        return [batch, *ends]
    # Not above three times: there float32 rounds the outputs of wide networks by more than the tolerance, and
    # Stable-Baselines3 differs from itself by as much between one observation and a batch.
    scaled = [(batch * scale).astype(batch.dtype) for scale in (0.01, 0.3, 3.0)]
    drawn = [random.normal(batch.mean(0), much * batch.std(0), batch.shape) for much in (1.0, 2.0)]
    drawn = [values.astype(batch.dtype) for values in (*drawn, random.normal(size=batch.shape))]
    return [batch, *scaled, *drawn, np.zeros_like(batch[:1])]


def stacked(space: spaces.Space[Any], met: Sequence[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: np.stack([one[name] for one in met]) for name in space.spaces}
    return np.stack([np.asarray(one) for one in met])


def as_seen(space: spaces.Space[Any], batch: Any) -> Any:
    """What a pressed policy takes: images as they are, all else as the vector that Stable-Baselines3's network sees,
    by Stable-Baselines3's own words for it."""
    if isinstance(space, spaces.Box):
        return batch if is_image_space(space) or len(space.shape) < 2 else batch.reshape(len(batch), -1)
    if isinstance(space, spaces.Dict):
        tensors: Any = {name: torch.as_tensor(values) for name, values in batch.items()}
        return CombinedExtractor(space)(preprocess_obs(tensors, space)).numpy()
    tensor = preprocess_obs(torch.as_tensor(batch), space)
    assert isinstance(tensor, torch.Tensor)
    return tensor.reshape(len(batch), -1).numpy()


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference of an action, in its magnitude where that is above 1; infinite if one is of another kind."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape or (ours.dtype.kind == "f") > (theirs.dtype.kind == "f"):
        return np.inf
    if ours.dtype.kind != "f":  # Stable-Baselines3's MultiBinary actions are 0.0 and 1.0
        return float(np.max(ours != theirs))
    return float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs)), initial=0.0))


def compared(made: Agent, policy: pp.Policy, met: Sequence[Any]) -> float:
    """Largest difference of an action, on single observations and in episodes."""
    theirs = [made.act(batch) for batch in met]
    choices = getattr(policy.action, "nvec", ()) or policy.layers[-1].weight.shape[:1]
    assert choices == (1,) or any(np.ptp(actions) > 0 for actions in theirs), "an agent that always acts alike"
    space = made.model.observation_space
    ours = [policy.predict(as_seen(space, batch))[0] for batch in met]
    worst = max(map(difference, ours, theirs))
    if made.original is None and not made.chaotic and worst <= TOLERANCE:
        returns = evaluate(policy, made.env, episodes=EPISODES, seed=FIRST_SEED).returns
        if not np.allclose(returns, made.returns(), rtol=1e-3, atol=1e-3):  # errors of single actions add up
            return np.inf
    return worst


def opened(made: Agent, door: str) -> pp.Policy:
    if door == "freeze":
        return pp.freeze(made.model)
    if door == "press":
        agent = open_agent(Source(made.path, made.vecnormalize), made.algo, made.env)
        student = {"batches": 20, "states": 256, "collections": 1}
        config = plan_pressing(agent, hidden=(4,), student=student, settings={"episodes": 10})
        press(agent, config, made.path.parent / "pressed")
        return pp.load(made.path.parent / "pressed" / "policy.policy")
    opened = load_agent(made.path, made.algo, made.env, vecnormalize=made.vecnormalize, trust=door == "trust")
    teacher = teacher_of(opened)
    if door != "student":
        return teacher.policy()
    config = DistillConfig(hidden=(), batches=2, batch_size=8, states=64, collections=1, learning_rate=1e-20)
    return compress(teacher, made.env, config)


def tried(kind: Kind, verbose: bool) -> Outcome:
    outcome = Outcome(kind)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = kind.make(Path(folder))
        met = observations_for(made.env)
        for door in kind.doors:
            outcome.words[door], told = _word(outcome, made, door, met, verbose)
            if told:
                outcome.told.setdefault(told.replace(f"{folder}/", ""), []).append(door)
    return outcome


def _word(outcome: Outcome, made: Agent, door: str, met: Sequence[Any], verbose: bool) -> tuple[str, str]:
    """What became of it, and what was said."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            policy = opened(made, door)
        if door == "press":  # a student is no copy
            said = [str(warning.message) for warning in warned if "VecNormalize" in str(warning.message)]
            return ("warned", said[0]) if said else ("WRONG", "")
        worst = compared(made, policy, met)
    except PolicypressError as error:
        if not is_sentence(error):
            return "WORDS", str(error)
        return "CLOSED" if outcome.kind.opens and door not in outcome.kind.shut else "refused", str(error)
    except Exception as error:  # whatever a stranger would see
        if verbose:
            traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).strip().partition("\n")[0]
        return "CRASH", f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"
    outcome.difference = max(outcome.difference, worst)
    return ("=", "") if worst <= TOLERANCE else ("WRONG", "")


def all_kinds(folder: Path | None) -> list[Kind]:
    return [
        *kinds_of_networks(),
        *kinds_of_gsde(),
        *kinds_of_actions(),
        *kinds_of_observations(),
        *kinds_of_vecnormalize(),
        *kinds_of_code(),
        *kinds_of_other_algorithms(),
        *kinds_of_old_zips(),
        *kinds_published(folder),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="kinds with this in their name; repeat")
    parser.add_argument("--published", type=Path, help="folder of the RL Zoo's zips")
    parser.add_argument("--verbose", action="store_true", help="tracebacks, and seconds of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = [word.lower() for word in options.only or [""]]
    kinds = [kind for kind in all_kinds(options.published) if any(word in kind.name.lower() for word in words)]
    if not kinds:
        parser.error("no kind has such a name")
    outcomes = []
    print("| kind | load | trust | freeze | student | largest difference |\n|---|---|---|---|---|---:|")
    for kind in kinds:
        started = time.monotonic()
        outcome = tried(kind, options.verbose)
        outcomes.append(outcome)
        cells = [outcome.words.get(door, "") for door in ("load", "trust", "freeze", "student")]
        if "press" in outcome.words:
            cells[0] = outcome.words["press"]
        answered = any(word in ("=", "WRONG") for word in outcome.words.values())
        seconds = f" {time.monotonic() - started:.1f} s" if options.verbose else ""
        print(
            f"| {kind.name} | {' | '.join(cells)} | {f'{outcome.difference:.1e}' if answered else ''} |{seconds}",
            flush=True,
        )
    print("\nWhat was said:")
    for outcome in outcomes:
        for told, doors in outcome.told.items():
            print(f"- {outcome.kind.name}, {', '.join(doors)}: {told}")
    failed = [outcome.kind.name for outcome in outcomes if outcome.failed]
    whole = sum(all(word == "=" for word in outcome.words.values()) for outcome in outcomes)
    print(f"\n{len(outcomes)} kinds: {whole} opened by every door, {len(failed)} failed{': ' if failed else '.'}")
    print("\n".join(f"- {name}" for name in failed))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
