"""Tiny environments and agents that the tests of training share; importing this registers the environments."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv

from policypress.compression.compressor import Compressor
from policypress.config import CompressionConfig, PressConfig, TrainConfig
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Layer
from policypress.policy.policy import Policy
from policypress.rl.adapters import ADAPTERS
from policypress.rl.callback import CompressionCallback, attached_compressor
from policypress.rl.environments import EnvLike
from policypress.rl.formats import open_agent
from policypress.rl.plan import plan_pressing
from policypress.rl.sources import Source

EPISODE = 10
"""Steps of an episode of every environment here."""


class _Toy(gym.Env[Any, Any]):
    """Each observation is drawn anew, so an action decides its own reward and nothing else."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._shown = self._draw()
        return self._shown, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        reward = self._reward(action)
        self._steps += 1
        self._shown = self._draw()
        return self._shown, reward, False, self._steps >= EPISODE, {}

    def _draw(self) -> Any:
        raise NotImplementedError

    def _reward(self, action: Any) -> float:
        raise NotImplementedError


class Follow(_Toy):
    """Continuous: say twice the first number, and the second one plus one, within uneven bounds; best return 0."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 3], np.float32))

    def _draw(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def _reward(self, action: Any) -> float:
        wanted = np.array([2 * self._shown[0], self._shown[1] + 1])
        return -float(np.square(np.asarray(action) - wanted).sum())


class Pick(_Toy):
    """Discrete: say which of three numbers is the largest; best return EPISODE, a third of it by chance."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def _draw(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def _reward(self, action: Any) -> float:
        return float(action == int(np.argmax(self._shown)))


class PickOfFour(Pick):
    """``Pick`` with an action more."""

    action_space = spaces.Discrete(4)


class Look(_Toy):
    """Images, channels first: say on which side of the frames there is light."""

    observation_space = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)

    def _draw(self) -> Any:
        self._bright = int(self.np_random.integers(2))
        image = self.np_random.integers(0, 60, (4, 36, 36), dtype=np.uint8)
        image[:, :, 18 * self._bright : 18 * (self._bright + 1)] += 150
        return image

    def _reward(self, action: Any) -> float:
        return float(action == self._bright)


class LookChannelsLast(Look):
    """``Look`` with the channels behind, as cameras give them."""

    observation_space = spaces.Box(0, 255, (36, 36, 4), np.uint8)

    def _draw(self) -> Any:
        return np.moveaxis(super()._draw(), 0, -1)


class Choose(Pick):
    """Multi-discrete: say which of two numbers is larger, and which of three."""

    observation_space = spaces.Box(-1, 1, (5,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3])

    def _draw(self) -> Any:
        return self.np_random.uniform(-1, 1, 5).astype(np.float32)

    def _reward(self, action: Any) -> float:
        return float(action[0] == np.argmax(self._shown[:2])) + float(action[1] == np.argmax(self._shown[2:]))


class ChooseOther(Choose):
    """``Choose`` with its questions in the other order."""

    action_space = spaces.MultiDiscrete([3, 2])


class Switch(Choose):
    """Multi-binary: say which of three numbers are positive."""

    action_space = spaces.MultiBinary(3)

    def _reward(self, action: Any) -> float:
        return float(np.mean(np.asarray(action) == (self._shown[:3] > 0)))


class Aim(Look):
    """``Look`` with a continuous answer."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def _reward(self, action: Any) -> float:
        return -abs(float(action[0]) - (2 * self._bright - 1))


class Named(_Toy):
    """Dict observations."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32)})
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def _draw(self) -> Any:
        return {"a": self.np_random.uniform(-1, 1, 2).astype(np.float32)}

    def _reward(self, action: Any) -> float:
        return 1.0


class Seen(Named):
    """Dict observations with an image."""

    observation_space = spaces.Dict(
        {"a": spaces.Box(-1, 1, (2,), np.float32), "camera": spaces.Box(0, 255, (4, 36, 36), np.uint8)}
    )

    def _draw(self) -> Any:
        return self.observation_space.sample()


class Paired(Pick):
    """Tuple observations: a number, and which of two it is."""

    observation_space: Any = spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)])

    def _draw(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), self.np_random.integers(2)

    def _reward(self, action: Any) -> float:
        return float(action == self._shown[1])


class Lit(gym.Env[Any, Any]):
    """Two choices. Every step lights a further column of a dark picture; choosing 1 ends the episode at step 5."""

    WIDTH, HEIGHT, EPISODE = 32, 24, 12
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.drawn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.ones(2, np.float32), 1.0, bool(action) and self.steps >= 5, self.steps >= self.EPISODE, {}

    def render(self) -> Any:
        picture = np.zeros((self.HEIGHT, self.WIDTH, 3), np.uint8)
        picture[:, : self.steps] = 255
        return picture


FOLLOW, PICK, LOOK = "toys/Follow-v0", "toys/Pick-v0", "toys/Look-v0"
PICK_OF_FOUR, LOOK_CHANNELS_LAST, NAMED = "toys/PickOfFour-v0", "toys/LookChannelsLast-v0", "toys/Named-v0"
SEEN, PAIRED = "toys/Seen-v0", "toys/Paired-v0"
CHOOSE, CHOOSE_OTHER, AIM, SWITCH = "toys/Choose-v0", "toys/ChooseOther-v0", "toys/Aim-v0", "toys/Switch-v0"
for _id, _kind in {
    FOLLOW: Follow, PICK: Pick, LOOK: Look,
    PICK_OF_FOUR: PickOfFour, LOOK_CHANNELS_LAST: LookChannelsLast, NAMED: Named, CHOOSE: Choose,
    CHOOSE_OTHER: ChooseOther, AIM: Aim, SWITCH: Switch, SEEN: Seen, PAIRED: Paired,
}.items():  # fmt: skip
    gym.register(_id, entry_point=_kind, disable_env_checker=True)


# Agents

PRESSED = CompressionConfig(
    sparsity=0.8, weight_bits=8, prune_start=0.2, prune_end=0.6, quantize_start=0.8, observe=0.2
)
"""Prunes from 20 % to 60 % of the steps, measures ranges from 60 %, quantizes from 80 %."""


def sac(env: Any = "Pendulum-v1", n_envs: int = 1, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> SAC:
    """SAC with 16-16 networks that learns from step 20 on."""
    policy = kwargs.pop("policy", "MlpPolicy")
    settings = {"learning_starts": 20, "batch_size": 16, "buffer_size": 2_000, "seed": 3, "device": "cpu", **kwargs}
    return SAC(
        policy, _environment(env, n_envs), policy_kwargs={"net_arch": [16, 16], **(policy_kwargs or {})}, **settings
    )


def dqn(env: Any = "CartPole-v1", n_envs: int = 1, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> DQN:
    """DQN with 16-16 networks that learns from step 20 on, with soft target updates at every step."""
    settings = {
        "learning_starts": 20, "batch_size": 16, "buffer_size": 2_000, "train_freq": 1, "tau": 0.1,
        "target_update_interval": 1, "learning_rate": 1e-3, "seed": 3, "device": "cpu", **kwargs,
    }  # fmt: skip
    return DQN(
        "MlpPolicy",
        _environment(env, n_envs),
        policy_kwargs={"net_arch": [16, 16], **(policy_kwargs or {})},
        **settings,
    )


def image_dqn(policy_kwargs: dict[str, Any] | None = None, env: str = LOOK, **kwargs: Any) -> DQN:
    """DQN with a convolutional network that learns from step 12 on."""
    settings = {
        "learning_starts": 12, "batch_size": 4, "buffer_size": 200, "train_freq": 4,
        "seed": 3, "device": "cpu", **kwargs,
    }  # fmt: skip
    return DQN("CnnPolicy", _environment(env, 1), policy_kwargs=policy_kwargs, **settings)


def agent(algo: str, env: str, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """A small ReLU agent of any algorithm: 16-16 networks on vectors, NatureCNN on images."""
    adapter = ADAPTERS[algo]
    settings: dict[str, Any] = {"seed": 3, "device": "cpu"}
    if issubclass(adapter.model_class, OffPolicyAlgorithm):
        settings |= {"learning_starts": 20, "batch_size": 8, "buffer_size": 400}
        settings |= {} if isinstance(adapter.net_arch(()), dict) else {"train_freq": 1}
    elif not adapter.descends:
        settings |= {"n_delta": 2, "zero_policy": False}
    else:
        settings |= {"n_steps": 20}
        settings |= {"batch_size": 10} if "batch_size" in signature(adapter.model_class).parameters else {}
    image = env in (LOOK, AIM, LOOK_CHANNELS_LAST)
    shape: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": 16}} if image else {}
    if algo == "recurrent_ppo":
        shape["lstm_hidden_size"] = 8
    network = {"net_arch": [16, 16], "activation_fn": torch.nn.ReLU, **shape, **(policy_kwargs or {})}
    if image:
        network.setdefault("features_extractor_class", NatureCNN)
    return adapter.model_class(
        adapter.policies["vector"], _environment(env, 1), policy_kwargs=network, **settings | kwargs
    )


AGENTS: dict[str, Callable[..., Any]] = {"sac": sac, "dqn": dqn}


def _environment(env: Any, n_envs: int) -> Any:
    return DummyVecEnv([lambda: Monitor(gym.make(env)) for _ in range(n_envs)]) if isinstance(env, str) else env


def learn(model: BaseAlgorithm, config: CompressionConfig = PRESSED, steps: int = 200, until: int = 0) -> Compressor:
    """Trains ``model`` under ``config`` for ``steps``, or stops at step ``until``; returns what compresses it."""
    model.learn(steps, callback=[CompressionCallback(config, returns=lambda: 1.0), *([_Stop(until)] if until else [])])
    compressor = attached_compressor(model)
    assert compressor is not None
    return compressor


def learn_on(model: BaseAlgorithm, config: CompressionConfig = PRESSED, steps: int = 200) -> None:
    """Goes on after ``learn(..., until=...)`` to the end of ``steps``."""
    callback = CompressionCallback(config, steps, returns=lambda: 1.0)
    model.learn(steps - model.num_timesteps, callback=callback, reset_num_timesteps=False)


class _Stop(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self._step


def random_observations(model: BaseAlgorithm, count: int = 100, seed: int = 0) -> NDArray[Any]:
    """Observations of the agent's space; vectors also far outside of what it met, so that codes clip."""
    space, rng = model.observation_space, np.random.default_rng(seed)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *space.shape), dtype=np.uint8)
    return (rng.standard_normal((count, *space.shape)) * 2).astype(space.dtype)


def met_observations(model: Any) -> NDArray[Any]:
    """What the replay buffer holds, at most 200."""
    buffer = model.replay_buffer
    return np.asarray(buffer.observations[: buffer.size(), 0][:200]).astype(model.observation_space.dtype)


def deployed_outputs(model: Any, observations: NDArray[Any]) -> NDArray[np.float32]:
    """The torch network's outputs before any action transform: the mean of SAC, the Q values of DQN."""
    with torch.no_grad():
        model.policy.set_training_mode(False)
        tensor, _ = model.policy.obs_to_tensor(observations)
        if isinstance(model, SAC):
            actor = model.actor
            return actor.mu(actor.latent_pi(actor.extract_features(tensor, actor.features_extractor))).numpy()
        return model.q_net(tensor).numpy()


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return model.actor.optimizer if isinstance(model, SAC) else model.policy.optimizer


def weights_of(model: BaseAlgorithm) -> dict[str, torch.nn.Parameter]:
    """Weights of the deployed layers by name."""
    compressor = attached_compressor(model)
    assert compressor is not None
    return {node.name: node.module.weight for node in compressor.graph.layers}


def zeros_of(model: BaseAlgorithm) -> dict[str, NDArray[np.bool_]]:
    """Where the deployed layers' weights are exactly zero."""
    return {name: (weight.detach() == 0).numpy() for name, weight in weights_of(model).items()}


def chooser(choice: int, provenance: dict[str, Any] | None = None) -> Policy:
    """A policy of two numbers that always gives the ``choice`` of two."""
    weight = np.zeros((2, 2), np.float32)
    weight[choice] = 1.0
    layer = Layer(weight, np.zeros(2, np.float32), 32, np.ones(1, np.float32), False)
    transforms = ObservationTransform((2,), "float32"), ActionTransform("discrete", dtype="int64")
    return Policy((layer,), *transforms, None, 24, provenance or {})


# Agents to distil


def picker(*hidden: int) -> torch.nn.Sequential:
    """A network that solves ``Pick`` and its like by hand-written weights: every unit carries one of the numbers."""
    widths = [3, *(hidden or (16, 16)), 3]
    modules: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        modules += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    network = torch.nn.Sequential(*modules[:-1])
    write_picker([module for module in network if isinstance(module, torch.nn.Linear)])
    return network


@torch.no_grad()
def write_picker(layers: Sequence[torch.nn.Linear]) -> None:
    """The weights of ``picker`` into layers that take and give three numbers."""
    for index, layer in enumerate(layers):
        same = torch.arange(layer.out_features)[:, None] % 3 == torch.arange(layer.in_features) % 3
        layer.weight.copy_(same / same.sum(1, keepdim=True))
        layer.bias.fill_(float(index == 0))  # numbers in [-1, 1] pass every ReLU


def save_picker(path: Path, algo: str = "dqn") -> Path:
    """An agent that solves ``Pick``, saved at ``path``."""
    model = agent(algo, PICK)
    graph = ADAPTERS[algo].graph(model)
    write_picker([node.module for node in graph.layers])
    model.save(path)
    return path


def draw(observation_space: spaces.Box, seed: int = 0) -> Callable[..., NDArray[Any]]:
    """A function of states that draws vectors from [-1, 1], or light on one side as ``Look`` does."""
    env = Look() if observation_space.dtype == np.uint8 else Follow()
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)

    def states(teacher: Any, student: Any, share: float, count: int) -> NDArray[Any]:
        if isinstance(env, Look):
            return np.stack([env._draw() for _ in range(count)])
        return rng.uniform(-1, 1, (count, *observation_space.shape)).astype(np.float32)

    return states


# Runs


def plan(source: Source, algo: str, env: EnvLike, **settings: Any) -> PressConfig:
    """``plan_pressing`` for an agent that is opened for it."""
    return plan_pressing(open_agent(source, algo, env), **settings)


def run_config(algo: str = "dqn", **changes: Any) -> TrainConfig:
    """A run of 100 steps that prunes a 12-12 network (PPO: NatureCNN) to 80 % and quantizes it to 8 bits."""
    settings: dict[str, Any] = {
        "env": {"sac": FOLLOW, "dqn": PICK, "ppo": LOOK}[algo],
        "steps": 100,
        "seed": 7,
        "compression": PRESSED,
        "hidden": (12, 12),
        "eval_every": 25,
        "eval_episodes": 2,
        "final_episodes": 5,
        **({"network": "nature", "hidden": (12,)} if algo == "ppo" else {}),
        "algo_kwargs": {
            "sac": {"learning_starts": 10, "batch_size": 8},
            "dqn": {"learning_starts": 10, "batch_size": 8, "train_freq": 1},
            "ppo": {"n_steps": 20, "batch_size": 10},
        }[algo],
        **changes,
    }
    return TrainConfig(algo, **settings)


FILES = {".lock", "agent.zip", "config.json", "evaluations.csv", "policy.policy", "result.json", "tensorboard"}
"""What a finished run leaves."""


def in_child(work: Callable[[], Any], kill_when: Callable[[], bool] = lambda: False, timeout: float = 120.0) -> int:
    """Runs ``work`` in a forked process; its exit code, or minus the signal that ended it.

    ``kill_when`` is asked every few milliseconds; once it is true the process gets SIGKILL, as it does at ``timeout``.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + timeout
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if kill_when() or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def die_at_file_operation(count: int, folder: Path) -> None:
    """From here on, this process gets SIGKILL just before its ``count``-th change of a file under ``folder``."""
    done = 0
    changes = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        opens_to_write = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (opens_to_write or event in changes) and str(arguments[0]).startswith(str(folder)):
            done += 1
            if done == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
