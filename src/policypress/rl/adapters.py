"""What differs between algorithms, one adapter each: the only place that asks which algorithm it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
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

try:
    import sb3_contrib
    from sb3_contrib.common.torch_layers import BatchRenorm
except ImportError:  # its algorithms are refused by name
    sb3_contrib, BatchRenorm = None, type(None)  # type: ignore[assignment, misc]

UNSUPPORTED_OBSERVATION = (
    "observations of {} space cannot be pressed: wrap the environment so that it returns one array "
    "(gymnasium.wrappers.FlattenObservation)."
)
UNSUPPORTED_RECURRENT = "recurrent policies cannot be pressed: train one that sees stacked frames instead."
UNSUPPORTED_SDE = "agents trained with gSDE (use_sde=True) cannot be pressed: train without it."
_NOT_WHILE_LEARNING = "{} cannot be pressed while it learns ({}): press the trained agent with policypress compress."
_IMAGE_FEATURES = 512

EXTRACTORS: dict[type[nn.Module], list[str]] = {
    FlattenExtractor: ["flatten"],
    NatureCNN: ["cnn", "linear"],
    ResNetExtractor: ["blocks", "linear"],
}
"""Features extractors that can be pressed, with their submodules in the order they run."""

Imitation = Literal["action", "logits", "values"]
"""What a student imitates: a Box action, the logits of a categorical policy, or the values of actions."""

Critic = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Value (n, 1) of actions (n, a), scaled to [-1, 1], at observations (n, ...) as the network sees them: float,
normalized, images divided by 255. Gradients flow to both."""


class Adapter(ABC):
    """One Stable-Baselines3 algorithm, seen through what compression needs of it."""

    name: str
    model_class: Any
    """The algorithm's class; None where its package is not installed."""
    default_hidden: tuple[int, ...]
    action_spaces: tuple[type[spaces.Space[Any]], ...]
    policy_module: str
    """Where the policy classes of the algorithm live."""

    @abstractmethod
    def graph(self, model: BaseAlgorithm) -> Graph:
        """The deployed path of the network; a copy where what is deployed is folded from what was trained."""

    @abstractmethod
    def optimizer(self, model: BaseAlgorithm) -> torch.optim.Optimizer:
        """The optimizer that trains the deployed path."""

    @abstractmethod
    def action_transform(self, model: BaseAlgorithm) -> ActionTransform:
        """What ``predict`` does after the last layer."""

    @abstractmethod
    def net_arch(self, hidden: Sequence[int]) -> Any:
        """Stable-Baselines3's ``net_arch`` that narrows the deployed network alone."""

    @abstractmethod
    def imitation(self, model: BaseAlgorithm) -> Imitation:
        """What the outputs of the deployed path mean to a student."""

    def trained_graph(self, model: BaseAlgorithm) -> Graph:
        """``graph`` with the very weights that the optimizer trains; UnsupportedError where there is no such path."""
        return self.graph(model)

    def critics(self, model: BaseAlgorithm) -> list[Critic]:
        """What values the deployed path's actions; empty where the algorithm learns no value of an action."""
        return []

    def targets(self, model: BaseAlgorithm) -> list[Graph]:
        """Target networks of the deployed path."""
        return []

    def auxiliary(self, model: BaseAlgorithm) -> list[tuple[str, nn.Parameter]]:
        """Weights that act with the deployed path in training and are not deployed."""
        return []

    def learning_starts(self, model: BaseAlgorithm) -> int:
        """Environment steps before the first gradient step."""
        return int(getattr(model, "learning_starts", 0))

    def saved(self, data: Mapping[str, Any]) -> bool:
        """Whether an agent with these attributes (the JSON in its zip) was trained by this algorithm."""
        return policy_module_of(data) == self.policy_module

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
            raise UnsupportedError(UNSUPPORTED_OBSERVATION.format(type(observation_space).__name__))
        if not isinstance(action_space, self.action_spaces):
            names = " or ".join(kind.__name__ for kind in self.action_spaces)
            raise UnsupportedError(
                f"{self.model_class.__name__} needs {names} actions, not {action_space}: choose another --algo."
            )
        if isinstance(action_space, spaces.MultiDiscrete) and len(action_space.shape) != 1:
            raise UnsupportedError(f"multi-discrete actions of shape {action_space.shape} must be flattened first.")
        if isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete) and np.any(action_space.start != 0):
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


class _ContinuousAdapter(Adapter):
    """Off-policy actor-critic: one actor of Box actions, critics that value them."""

    default_hidden, action_spaces = (256, 256), (spaces.Box,)
    critic_hidden: tuple[int, ...] = (256, 256)

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.actor.optimizer  # type: ignore[no-any-return]

    def action_transform(self, model: Any) -> ActionTransform:
        return _box_action(model.action_space, squash=True)

    def net_arch(self, hidden: Sequence[int]) -> Any:
        return {"pi": list(hidden), "qf": list(self.critic_hidden)}

    def imitation(self, model: BaseAlgorithm) -> Imitation:
        return "action"

    def critics(self, model: Any) -> list[Critic]:
        model.critic.set_training_mode(False)  # normalization layers must not learn from a student's states
        return [_critic(model.critic.features_extractor, network) for network in model.critic.q_networks]


class SACAdapter(_ContinuousAdapter):
    name, model_class, policy_module = "sac", SAC, "stable_baselines3.sac.policies"

    def graph(self, model: Any) -> Graph:
        actor = model.actor
        if actor.use_sde:
            raise UnsupportedError(UNSUPPORTED_SDE)
        return trace(actor, [*_extractor_paths(actor.features_extractor), "latent_pi", "mu"])

    def auxiliary(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        return [("log_std", model.actor.log_std.weight)]


class TQCAdapter(SACAdapter):
    name, policy_module = "tqc", "sb3_contrib.tqc.policies"
    model_class: Any = getattr(sb3_contrib, "TQC", None)


class CrossQAdapter(SACAdapter):
    name, policy_module = "crossq", "sb3_contrib.crossq.policies"
    model_class: Any = getattr(sb3_contrib, "CrossQ", None)
    critic_hidden = (1024, 1024)

    def graph(self, model: Any) -> Graph:
        actor = model.actor
        if not self._normalizes(model):
            return super().graph(model)
        if actor.use_sde:
            raise UnsupportedError(UNSUPPORTED_SDE)
        latent, mu = _folded(actor.latent_pi, actor.mu)
        path = nn.Module()
        path.features_extractor, path.latent_pi, path.mu = actor.features_extractor, latent, mu
        return trace(path, [*_extractor_paths(actor.features_extractor), "latent_pi", "mu"])

    def trained_graph(self, model: Any) -> Graph:
        if self._normalizes(model):
            raise UnsupportedError(_NOT_WHILE_LEARNING.format("CrossQ", "its layers normalize every batch anew"))
        return super().trained_graph(model)

    @staticmethod
    def _normalizes(model: Any) -> bool:
        return any(isinstance(module, BatchRenorm) for module in model.actor.modules())


class TD3Adapter(_ContinuousAdapter):
    name, model_class, policy_module = "td3", TD3, "stable_baselines3.td3.policies"
    default_hidden = critic_hidden = (400, 300)

    def graph(self, model: Any) -> Graph:
        return self._actor_graph(model.actor)

    def targets(self, model: Any) -> list[Graph]:
        return [self._actor_graph(model.actor_target)]

    @staticmethod
    def _actor_graph(actor: Any) -> Graph:
        # The Tanh at the end of mu is the action's squashing, not a layer's activation.
        layers = [f"mu.{index}" for index in range(len(actor.mu) - 1)]
        return trace(actor, [*_extractor_paths(actor.features_extractor), *layers])


class DDPGAdapter(TD3Adapter):
    name, model_class = "ddpg", DDPG  # type: ignore[assignment]

    def saved(self, data: Mapping[str, Any]) -> bool:
        # DDPG is TD3 without its delay and without smoothing of the target policy.
        return super().saved(data) and data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0


class _ValueAdapter(Adapter):
    """A network that values every discrete action; the best one is taken."""

    default_hidden, action_spaces = (64, 64), (spaces.Discrete,)

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.policy.optimizer  # type: ignore[no-any-return]

    def action_transform(self, model: Any) -> ActionTransform:
        return _discrete_action(model.action_space)

    def net_arch(self, hidden: Sequence[int]) -> Any:
        return list(hidden)

    def imitation(self, model: BaseAlgorithm) -> Imitation:
        return "values"


class DQNAdapter(_ValueAdapter):
    name, model_class, policy_module = "dqn", DQN, "stable_baselines3.dqn.policies"

    def graph(self, model: Any) -> Graph:
        return self._q_graph(model.q_net)

    def targets(self, model: Any) -> list[Graph]:
        return [self._q_graph(model.q_net_target)]

    @staticmethod
    def _q_graph(network: Any) -> Graph:
        return trace(network, [*_extractor_paths(network.features_extractor), "q_net"])


class QRDQNAdapter(_ValueAdapter):
    name, policy_module = "qrdqn", "sb3_contrib.qrdqn.policies"
    model_class: Any = getattr(sb3_contrib, "QRDQN", None)

    def graph(self, model: Any) -> Graph:
        network = model.quantile_net
        *hidden, last = network.quantile_net.named_children()
        path = nn.Module()
        path.features_extractor = network.features_extractor
        path.quantile_net = nn.Sequential(OrderedDict([*hidden, (last[0], _mean_of_quantiles(last[1], network))]))
        return trace(path, [*_extractor_paths(network.features_extractor), "quantile_net"])

    def trained_graph(self, model: Any) -> Graph:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("QR-DQN", "what is deployed is the mean of its quantiles"))


class _PolicyAdapter(Adapter):
    """On-policy actor-critic: PPO and its relatives, one policy class for all."""

    default_hidden = (64, 64)
    action_spaces = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)
    policy_module = "stable_baselines3.common.policies"
    setting: str
    """An attribute that tells agents of this algorithm from those of relatives further down in ``_ALL``."""

    def graph(self, model: Any) -> Graph:
        policy = model.policy
        if policy.use_sde:
            raise UnsupportedError(UNSUPPORTED_SDE)
        extractor = _extractor_paths(policy.pi_features_extractor, "pi_features_extractor")
        return trace(policy, [*extractor, "mlp_extractor.policy_net", "action_net"])

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.policy.optimizer  # type: ignore[no-any-return]

    def action_transform(self, model: Any) -> ActionTransform:
        if isinstance(model.action_space, spaces.Box):
            return _box_action(model.action_space, squash=False)
        return _discrete_action(model.action_space)

    def net_arch(self, hidden: Sequence[int]) -> Any:
        return {"pi": list(hidden), "vf": list(self.default_hidden if hidden else ())}

    def imitation(self, model: BaseAlgorithm) -> Imitation:
        return "action" if isinstance(model.action_space, spaces.Box) else "logits"

    def learning_starts(self, model: Any) -> int:
        return int(model.n_steps * model.n_envs)

    def saved(self, data: Mapping[str, Any]) -> bool:
        return super().saved(data) and self.setting in data


class PPOAdapter(_PolicyAdapter):
    name, model_class, setting = "ppo", PPO, "clip_range"


class A2CAdapter(_PolicyAdapter):
    name, model_class, setting = "a2c", A2C, "normalize_advantage"


class TRPOAdapter(_PolicyAdapter):
    name, setting = "trpo", "cg_max_steps"
    model_class: Any = getattr(sb3_contrib, "TRPO", None)

    def trained_graph(self, model: Any) -> Graph:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("TRPO", "its steps pass by the optimizer"))


_ALL: tuple[Adapter, ...] = (
    SACAdapter(),
    DDPGAdapter(),  # before TD3, whose agents look the same but for two settings
    TD3Adapter(),
    TQCAdapter(),
    CrossQAdapter(),
    DQNAdapter(),
    QRDQNAdapter(),
    PPOAdapter(),
    TRPOAdapter(),
    A2CAdapter(),  # after its relatives, who have its settings and more
)
NAMES = tuple(adapter.name for adapter in _ALL)
ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in _ALL if adapter.model_class is not None}
"""Every algorithm whose package is installed, by name."""


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
    """The adapter called ``algo``; ConfigError names the known ones, or the package that is missing."""
    try:
        return ADAPTERS[algo.lower()]
    except KeyError:
        if algo.lower() in NAMES:
            raise ConfigError(f"algo={algo!r} needs a package that is missing: pip install sb3-contrib.") from None
        raise ConfigError(f"algo={algo!r} is not one of {', '.join(NAMES)}.") from None


def adapter_that_saved(data: Mapping[str, Any]) -> Adapter | None:
    """The adapter of the algorithm that saved an agent with these attributes (the JSON in its zip), if one did."""
    return next((adapter for adapter in _ALL if adapter.saved(data)), None)


def observation_transform(model: BaseAlgorithm) -> ObservationTransform:
    """The contract of ``model``'s observations, statistics of a VecNormalize around its environment included."""
    space = model.observation_space
    if not isinstance(space, spaces.Box):
        raise UnsupportedError(UNSUPPORTED_OBSERVATION.format(type(space).__name__))
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


def _discrete_action(space: Any) -> ActionTransform:
    if isinstance(space, spaces.MultiDiscrete):
        return ActionTransform("multi-discrete", space.shape, "int64", nvec=tuple(int(n) for n in space.nvec))
    return ActionTransform("discrete", dtype="int64", start=int(space.start))


def _critic(extractor: nn.Module, network: nn.Module) -> Critic:
    def value(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        # The mean over quantiles; of one value, the value itself.
        return network(torch.cat([extractor(observations), actions], dim=1)).mean(dim=1, keepdim=True)  # type: ignore[no-any-return]

    return value


@torch.no_grad()
def _folded(latent: nn.Sequential, mu: nn.Linear) -> tuple[nn.Sequential, nn.Linear]:
    """Copies in which each Linear layer has taken in the normalization, as in evaluation, that precedes it."""
    copies: list[tuple[str, Any]] = []
    norm: Any = None
    for name, module in (*latent.named_children(), ("mu", mu)):
        if isinstance(module, BatchRenorm):
            norm = module
        elif isinstance(module, nn.Linear) and norm is not None:
            gain, shift = (norm.scale, norm.bias) if norm.affine else (1.0, 0.0)
            scale = gain / (norm.ra_var + norm.eps).sqrt()
            copy = nn.Linear(module.in_features, module.out_features, device=module.weight.device)
            copy.weight.copy_(module.weight * scale)
            copy.bias.copy_(module.bias + module.weight @ (shift - norm.ra_mean * scale))
            copies.append((name, copy))
            norm = None
        else:
            copies.append((name, module))
    *hidden, (_, output) = copies
    return nn.Sequential(OrderedDict(hidden)), output


@torch.no_grad()
def _mean_of_quantiles(layer: nn.Linear, network: Any) -> nn.Linear:
    """A Linear layer whose output for an action is the mean of ``layer``'s quantiles for it."""
    actions = int(network.action_space.n)
    mean = nn.Linear(layer.in_features, actions, device=layer.weight.device)
    mean.weight.copy_(layer.weight.view(network.n_quantiles, actions, -1).mean(0))
    mean.bias.copy_(layer.bias.view(network.n_quantiles, actions).mean(0))
    return mean


def policy_module_of(data: Mapping[str, Any]) -> str | None:
    """Where the policy class of an agent lives, as the JSON in its zip says; None if it does not."""
    described = data.get("policy_class")
    return described.get("__module__") if isinstance(described, dict) else None


def _extractor_paths(extractor: nn.Module, name: str = "features_extractor") -> list[str]:
    """Submodules of a features extractor in the order they run."""
    if type(extractor) not in EXTRACTORS:
        raise UnsupportedError(
            f"features extractor {type(extractor).__name__} cannot be pressed; supported are "
            f"{', '.join(kind.__name__ for kind in EXTRACTORS)}."
        )
    return [f"{name}.{path}" for path in EXTRACTORS[type(extractor)]]
