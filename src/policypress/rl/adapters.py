"""What differs between algorithms, one adapter each: the only place that asks which algorithm it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize
from torch import nn

from policypress.compression.graph import Graph, trace
from policypress.config import TrainConfig
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy.policy import ActionTransform, Normalization, ObservationTransform
from policypress.rl.networks import EXTRACTOR_KWARGS, ResNetExtractor

_UNSUPPORTED_OBSERVATION = (
    "observations of {} space cannot be pressed: wrap the environment so that it returns one array "
    "(gymnasium.wrappers.FlattenObservation)."
)
_IMAGE_FEATURES = 512


class Adapter(ABC):
    """One Stable-Baselines3 algorithm, seen through what compression needs of it."""

    name: str
    model_class: type[BaseAlgorithm]
    default_hidden: tuple[int, ...]
    action_space: type[spaces.Space[Any]]

    @abstractmethod
    def graph(self, model: BaseAlgorithm) -> Graph:
        """The deployed path of the network."""

    @abstractmethod
    def optimizer(self, model: BaseAlgorithm) -> torch.optim.Optimizer:
        """The optimizer that trains the deployed path."""

    @abstractmethod
    def action_transform(self, model: BaseAlgorithm) -> ActionTransform:
        """What ``predict`` does after the last layer."""

    @abstractmethod
    def net_arch(self, hidden: Sequence[int]) -> Any:
        """Stable-Baselines3's ``net_arch`` that narrows the deployed network alone."""

    def targets(self, model: BaseAlgorithm) -> list[Graph]:
        """Target networks of the deployed path."""
        return []

    def auxiliary(self, model: BaseAlgorithm) -> list[tuple[str, nn.Parameter]]:
        """Weights that act with the deployed path in training and are not deployed."""
        return []

    def default_parameters(self, model: BaseAlgorithm) -> int:
        """Parameters of the dense network that the algorithm would deploy if nobody had narrowed it."""
        layers = [node.module for node in self.graph(model).layers]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        dense = layers[len(convolutions) :]
        hidden = (_IMAGE_FEATURES,) if convolutions else self.default_hidden
        widths = [dense[0].weight.shape[1], *hidden, dense[-1].weight.shape[0]]
        return sum(layer.weight.numel() + layer.weight.shape[0] for layer in convolutions) + sum(
            (before + 1) * after for before, after in pairwise(widths)
        )

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """Raises UnsupportedError for spaces that the algorithm or policypress cannot take."""
        if not isinstance(observation_space, spaces.Box):
            raise UnsupportedError(_UNSUPPORTED_OBSERVATION.format(type(observation_space).__name__))
        if not isinstance(action_space, self.action_space):
            raise UnsupportedError(
                f"{self.model_class.__name__} needs {self.action_space.__name__} actions, not {action_space}: "
                "choose another --algo."
            )
        if isinstance(action_space, spaces.Discrete) and action_space.start != 0:
            raise UnsupportedError(
                f"actions that count from {action_space.start} are not Stable-Baselines3's: wrap the environment so "
                "that they count from 0."
            )

    def policy_kwargs(self, config: TrainConfig) -> dict[str, Any]:
        """``policy_kwargs`` of the algorithm for a training run."""
        kwargs: dict[str, Any] = {}
        if config.optimizer_kwargs:
            kwargs["optimizer_kwargs"] = dict(config.optimizer_kwargs)
        if config.network != "mlp":
            kwargs.update(EXTRACTOR_KWARGS[config.network], net_arch=self.net_arch(()))
            if len(config.hidden) > 1:
                raise ConfigError("an image network has one hidden layer after its convolutions: give one width.")
            if config.hidden:
                kwargs["features_extractor_kwargs"] = {"features_dim": config.hidden[0]}
        elif config.hidden:
            kwargs["net_arch"] = self.net_arch(config.hidden)
        return kwargs


class SACAdapter(Adapter):
    name, model_class, default_hidden, action_space = "sac", SAC, (256, 256), spaces.Box

    def graph(self, model: Any) -> Graph:
        actor = model.actor
        if actor.use_sde:
            raise UnsupportedError("agents trained with gSDE (use_sde=True) cannot be pressed: train without it.")
        return trace(actor, [*_extractor_paths(actor.features_extractor), "latent_pi", "mu"])

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.actor.optimizer  # type: ignore[no-any-return]

    def action_transform(self, model: Any) -> ActionTransform:
        return _box_action(model.action_space, squash=True)

    def net_arch(self, hidden: Sequence[int]) -> Any:
        return {"pi": list(hidden), "qf": list(self.default_hidden)}

    def auxiliary(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        return [("log_std", model.actor.log_std.weight)]


class DQNAdapter(Adapter):
    name, model_class, default_hidden, action_space = "dqn", DQN, (64, 64), spaces.Discrete

    def graph(self, model: Any) -> Graph:
        return self._q_graph(model.q_net)

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.policy.optimizer  # type: ignore[no-any-return]

    def targets(self, model: Any) -> list[Graph]:
        return [self._q_graph(model.q_net_target)]

    def action_transform(self, model: Any) -> ActionTransform:
        return ActionTransform("discrete", dtype="int64", start=int(model.action_space.start))

    def net_arch(self, hidden: Sequence[int]) -> Any:
        return list(hidden)

    @staticmethod
    def _q_graph(network: Any) -> Graph:
        return trace(network, [*_extractor_paths(network.features_extractor), "q_net"])


ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in (SACAdapter(), DQNAdapter())}


def adapter_for(model: BaseAlgorithm) -> Adapter:
    """The adapter of ``model``'s class; UnsupportedError names the supported ones."""
    for adapter in ADAPTERS.values():
        if type(model) is adapter.model_class:
            return adapter
    raise UnsupportedError(
        f"{type(model).__name__} agents cannot be pressed; supported are "
        f"{', '.join(a.model_class.__name__ for a in ADAPTERS.values())}."
    )


def adapter_named(algo: str) -> Adapter:
    """The adapter called ``algo``; ConfigError names the known ones."""
    try:
        return ADAPTERS[algo]
    except KeyError:
        raise ConfigError(f"algo={algo!r} is not one of {', '.join(ADAPTERS)}.") from None


def observation_transform(model: BaseAlgorithm) -> ObservationTransform:
    """The contract of ``model``'s observations, statistics of a VecNormalize around its environment included."""
    space = model.observation_space
    if not isinstance(space, spaces.Box):
        raise UnsupportedError(_UNSUPPORTED_OBSERVATION.format(type(space).__name__))
    if is_image_space(space):
        if not model.policy.normalize_images:
            raise UnsupportedError(
                "agents that see raw pixel values (normalize_images=False) cannot be pressed: train with "
                "normalize_images=True, Stable-Baselines3's default."
            )
        return ObservationTransform(space.shape, space.dtype.name, image=True, frame_stack=space.shape[0])
    if len(space.shape) != 1:
        raise UnsupportedError(f"observations of shape {space.shape} are neither vectors nor images: flatten them.")
    env = model.get_env()
    normalize = unwrap_vec_normalize(env) if env is not None else None
    return ObservationTransform(
        space.shape, space.dtype.name, normalization=None if normalize is None else _normalization(normalize)
    )


def _normalization(normalize: VecNormalize) -> Normalization | None:
    if not normalize.norm_obs:
        return None
    statistics: Any = normalize.obs_rms
    return Normalization(
        np.asarray(statistics.mean, np.float64),
        np.asarray(statistics.var, np.float64),
        float(normalize.epsilon),
        float(normalize.clip_obs),
    )


def _box_action(space: Any, squash: bool) -> ActionTransform:
    return ActionTransform(
        "box",
        shape=space.shape,
        dtype=space.dtype.name,
        squash=squash,
        low=space.low.astype(np.float32),
        high=space.high.astype(np.float32),
    )


def _extractor_paths(extractor: nn.Module) -> list[str]:
    """Submodules of a features extractor in the order they run."""
    paths: dict[type[nn.Module], list[str]] = {
        FlattenExtractor: ["flatten"],
        NatureCNN: ["cnn", "linear"],
        ResNetExtractor: ["blocks", "linear"],
    }
    if type(extractor) not in paths:
        raise UnsupportedError(
            f"features extractor {type(extractor).__name__} cannot be pressed; supported are "
            f"{', '.join(kind.__name__ for kind in paths)}."
        )
    return [f"features_extractor.{path}" for path in paths[type(extractor)]]
