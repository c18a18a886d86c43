"""``model.learn(steps, callback=[CompressionCallback(config), ValueCallback(values)])``: how values are learned beside
a network that is sparse or small, where the algorithm learns them from a replay buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from policypress.config import ValueConfig
from policypress.errors import ConfigError

_LOOKS, _OLDEST = 300, 2048
"""How often in a training the oldest transitions are looked at, and how many of them."""
_SHARE = 0.1
"""Of what is in the buffer: so much goes at once. Of its size: so much stays."""

Acts = Callable[[NDArray[Any]], NDArray[np.float32]]


class ValueCallback(BaseCallback):
    """Values learn as ``config`` says. ``steps``: the nominal steps that its fractions refer to; default: the
    ``total_timesteps`` of ``learn``.

    *Multi-step targets with a delay* and a *replay buffer of dynamic capacity* are two parts of RLx2 (Tan et al. 2023,
    arXiv 2205.15043, sections 4.2 and 4.3), which trains with ``pruning="rigl"`` and ``critic_sparsity``. *Optimism*:
    small actors fail because critics underestimate (Mastikhina, Sreenivas and Castro 2025, arXiv 2506.01016), and the
    least of two targets is what makes them. Raises ConfigError where the algorithm has nothing of the kind.
    """

    def __init__(self, config: ValueConfig, steps: int | None = None) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        self._from = self._every = self._next = 0

    def _on_training_start(self) -> None:
        prepare(self.model, self.config)
        steps = self.steps or self.model._total_timesteps
        self._from = round(self.config.target_start * steps)
        self._every = max(1, steps // _LOOKS)
        self._next = self.num_timesteps + self._every
        self._set_steps()

    def _on_step(self) -> bool:
        self._set_steps()
        if self.config.buffer_distance and self.num_timesteps >= self._next:
            self._next += self._every
            buffer = recent(self.model)
            if buffer.kept and buffer.distance(_OLDEST) > self.config.buffer_distance:
                buffer.forget(_SHARE)
            self.logger.record("values/buffer", buffer.kept)
        return True

    def _set_steps(self) -> None:
        if self.config.target_steps > 1:
            buffer = recent(self.model)  # learn() may count from 0 again, and a loaded agent's buffer is empty
            done = max(self.num_timesteps, buffer.added)
            buffer.n_steps = self.config.target_steps if done >= self._from else 1


class RecentReplayBuffer(NStepReplayBuffer):
    """A replay buffer that gives what came after its ``forgotten`` oldest steps; ``means``: what the policy would have
    done without noise, in units of the actions that are stored."""

    forgotten = 0
    added = 0
    """Environment steps that it has been given in all, by however many calls of ``learn``."""
    means: NDArray[np.float32] | None = None
    latest: ReplayBufferSamples | None = None
    """What it gave last."""
    _acts: Acts | None = None

    @classmethod
    def of(cls, buffer: ReplayBuffer, gamma: float) -> RecentReplayBuffer:
        """``buffer`` itself, with its arrays."""
        found = cls.__new__(cls)
        vars(found).update(vars(buffer), n_steps=1, gamma=gamma, added=buffer.size() * buffer.n_envs)
        return found

    def compare(self, acts: Acts) -> None:
        """From now on ``means`` are kept; ``acts`` answers raw observations (n, ...). What is in it already counts as
        done as the actions say."""
        self._acts = acts
        if self.means is None:
            self.means = self.actions.astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Without the agent, which whoever goes on gives again."""
        return {**vars(self), "_acts": None, "latest": None}

    @property
    def kept(self) -> int:
        """Steps that it gives."""
        return self.size() - self.forgotten

    def add(self, obs: NDArray[Any], *args: Any, **kwargs: Any) -> None:
        if self._acts is not None and self.means is not None:
            self.means[self.pos] = self._acts(obs).reshape(self.means[self.pos].shape)
        self.forgotten = max(0, self.forgotten - self.full)  # the oldest makes room
        self.added += self.n_envs
        super().add(obs, *args, **kwargs)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        rows = self._rows(np.random.randint(0, self.kept, size=batch_size))  # noqa: NPY002 - as its parent draws
        self.latest = self._get_samples(rows, env)
        return self.latest

    def distance(self, count: int) -> float:
        """How far the policy acts now from what it did then, of the ``count`` oldest steps: half the mean square."""
        assert self._acts is not None
        assert self.means is not None
        rows = self._rows(np.arange(min(count, self.kept)))
        observations = self.observations[rows]
        now = self._acts(observations.reshape(-1, *observations.shape[2:]))
        return float(np.square(now - self.means[rows].reshape(now.shape)).mean() / 2)

    def forget(self, share: float) -> None:
        """The oldest ``share`` of what it gives goes, unless less than that share of its size would stay."""
        if self.kept - int(share * self.kept) >= share * self.buffer_size:
            self.forgotten += int(share * self.kept)

    def _rows(self, ages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of the steps that are ``ages`` younger than the oldest it gives."""
        return ((self.pos if self.full else 0) + self.forgotten + ages) % self.buffer_size


def prepare(model: BaseAlgorithm, config: ValueConfig) -> None:
    """``model`` learns its values by ``config`` from now on; a second call changes nothing. Raises ConfigError."""
    if config.optimism:
        _lift(model, config.optimism)
    if config.target_steps > 1:
        replaced(model, f"target_steps={config.target_steps}", "leave it at 1")
    if config.buffer_distance:
        asked = f"buffer_distance={config.buffer_distance:g}"
        if not isinstance(model.action_space, spaces.Box):
            raise ConfigError(f"{asked} is one between continuous actions, and there are none here: leave it at 0.")
        replaced(model, asked, "leave it at 0").compare(lambda observations: _scaled_actions(model, observations))


def recent(model: Any) -> RecentReplayBuffer:
    """The replay buffer that ``prepare`` gave to ``model``."""
    assert isinstance(model.replay_buffer, RecentReplayBuffer)
    return model.replay_buffer


def replaced(model: Any, asked: str, off: str) -> RecentReplayBuffer:
    """The replay buffer of ``model``, which is one of these from now on; ConfigError if it has none that can be, for
    what was ``asked``, and how to turn that ``off``."""
    buffer, name = getattr(model, "replay_buffer", None), type(model).__name__
    if isinstance(buffer, RecentReplayBuffer):
        return buffer
    if buffer is None:
        raise ConfigError(f"{asked} needs a replay buffer, and {name} has none: {off}.")
    if type(buffer) is NStepReplayBuffer:
        raise ConfigError(f"{asked} needs n_steps=1 of {name}, whose buffer has {buffer.n_steps}: {off}.")
    if type(buffer) is not ReplayBuffer or buffer.optimize_memory_usage:
        raise ConfigError(f"{asked} needs the replay buffer of {name} as it is made for vectors and images: {off}.")
    model.replay_buffer = RecentReplayBuffer.of(buffer, model.gamma)
    return recent(model)


def _scaled_actions(model: Any, observations: NDArray[Any]) -> NDArray[np.float32]:
    """What ``model`` does of raw ``observations`` (n, ...) without noise, as its replay buffer holds actions."""
    normalizer = model.get_vec_normalize_env()
    seen = observations if normalizer is None else normalizer.normalize_obs(observations)
    return np.asarray(model.policy.scale_action(model.policy.predict(seen, deterministic=True)[0]), np.float32)


def _lift(model: Any, optimism: float) -> None:
    target = getattr(model, "critic_target", None)
    if not isinstance(target, ContinuousCritic) or target.n_critics < 2:
        raise ConfigError(
            f"optimism={optimism:g} is for the least of two critics or more, and {type(model).__name__} takes none: "
            "leave it at 0 (of TQC lower top_quantiles_to_drop_per_net)."
        )
    if not any(isinstance(hook, _Lift) for hook in target._forward_hooks.values()):
        target.register_forward_hook(_Lift(optimism))


class _Lift:
    """Lets target critics answer their least value, lifted by a share of the way to their mean."""

    def __init__(self, optimism: float) -> None:
        self._optimism = optimism

    def __call__(self, module: nn.Module, inputs: Any, values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        stacked = torch.stack(values)
        return (torch.lerp(stacked.amin(0), stacked.mean(0), self._optimism),) * len(values)
