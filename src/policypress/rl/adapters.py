"""What differs between algorithms, one adapter each: the only place that asks which algorithm it is.

Another algorithm is a class and its row in ``_ALL``. ``policypress.algorithms`` reads its name from the text here.
"""

from __future__ import annotations

import copy
import math
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from torch import nn
from torch.nn.utils import skip_init

from policypress.compression.answers import SCALES, TOLERANCE, compare, differs, probes, undisturbed
from policypress.compression.compressor import ValueNetworks
from policypress.compression.graph import Graph, trace
from policypress.compression.pruning import Challenge
from policypress.compression.recurrent import Recurrent
from policypress.compression.student import unroll
from policypress.config import Hidden, TrainConfig
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl.environments import check_taken, flat_size
from policypress.rl.resnet import EXTRACTOR_KWARGS, ResNetExtractor
from policypress.rl.statistics import frames_over, statistics_of
from policypress.rl.values import replaced

try:
    import sb3_contrib
    from sb3_contrib.common.torch_layers import BatchRenorm
    from sb3_contrib.common.utils import quantile_huber_loss
except ImportError:  # its algorithms are refused by name
    sb3_contrib, BatchRenorm = None, type(None)  # type: ignore[assignment, misc]

_NOT_WHILE_LEARNING = (
    "{} cannot be pressed while it learns ({}): a student learns from the trained agent instead, by policypress "
    "compress --method distill."
)
_IMAGE_FEATURES = 512
_BOUNDED = 1e6  # a wider range of observations is a way to say that there is none
_SAMPLES = 64
_EXPLORATION = 0.1
"""Standard deviation of what is added to a deterministic actor's actions, in halves of their range (Fujimoto et al.
2018)."""
_QUIET = math.e
"""What the agent's noise is divided by while its student learns: what counts is the student without any."""
_NOISE = 2e-5
"""Of the largest output: what rounding may change, where small differences of large values decide."""

EXTRACTORS: dict[type[nn.Module], list[str]] = {
    FlattenExtractor: ["flatten"],
    CombinedExtractor: [],  # joins the parts of a Dict, which a pressed policy gets joined
    NatureCNN: ["cnn", "linear"],
    ResNetExtractor: ["blocks", "linear"],
}
"""Features extractors that can be pressed, with their submodules in the order they run."""

Imitation = Literal["action", "logits", "values"]
"""What a student imitates: a Box action, the logits of a categorical policy, or the values of actions."""

Critic = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Value (n, 1) of actions (n, a), scaled to [-1, 1], at observations (n, ...) as the network sees them: float,
flattened, normalized, images divided by 255. Gradients flow to both."""


class Adapter(ABC):
    """One Stable-Baselines3 algorithm, seen through what compression needs of it."""

    name: str
    model_class: Any
    """The algorithm's class; None where its package is not installed."""
    policies: Mapping[str, str] = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}
    """Its names of the policy classes that see a vector, an image, and the parts of a Dict."""
    default_hidden: tuple[int, ...]
    action_spaces: tuple[type[spaces.Space[Any]], ...]
    policy_module: str
    """Where the policy classes of the algorithm live."""
    while_learning = True
    """Whether its agents can be pressed while they learn, and with that be trained; ``trained_graph`` says why not."""
    descends = True
    """Whether gradients train it; what learns without is trained as it is, and pressed afterwards."""
    trains_students = False
    """Whether it can train a student with an agent's critics; ``deploy`` and ``network_inputs`` are then there."""

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
    def net_arch(self, hidden: Hidden) -> Any:
        """Stable-Baselines3's ``net_arch`` that narrows the deployed network alone; () of one behind convolutions."""

    @abstractmethod
    def imitation(self, action: ActionTransform) -> Imitation:
        """What the outputs of the deployed path, which become ``action``, mean to a student."""

    def outputs(self, model: BaseAlgorithm, observations: Any) -> torch.Tensor | None:
        """What the agent itself computes for ``observations`` (its policy's tensors) before the action transform, if
        it can be asked for it; logits up to a constant. Where it remembers, they are one episode, step after step."""
        return None

    def actions(self, model: Any, observations: Any) -> NDArray[Any]:
        """The agent's own deterministic actions for raw ``observations`` (n, ...), as ``outputs`` has them."""
        return model.policy.predict(observations, deterministic=True)[0]  # type: ignore[no-any-return]

    def entropy(self, model: Any, observations: NDArray[Any]) -> float | None:
        """Of the distribution that actions are drawn from while it learns, at raw ``observations`` (n, ...): the mean
        in nats, of squashed actions before they are squashed; None where there is none, or where it remembers."""
        return None

    def new_policy(self, model: Any, kwargs: Mapping[str, Any]) -> Any:
        """A policy for ``model``'s spaces with fresh weights, as its ``_setup_model`` makes it."""
        return model.policy_class(model.observation_space, model.action_space, model.lr_schedule, **kwargs)

    def rebuilt(
        self, kwargs: dict[str, Any], weights: dict[str, torch.Tensor]
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """``policy_kwargs`` and weights of a saved agent as a policy takes them that is made anew."""
        return kwargs, weights

    def opened(self, model: BaseAlgorithm) -> BaseAlgorithm:
        """``model`` as Stable-Baselines3's ``load`` gave it, fit to learn on."""
        return model

    def trained_graph(self, model: BaseAlgorithm) -> Graph:
        """``graph`` with the very weights that the optimizer trains; UnsupportedError where there is no such path."""
        return self.graph(model)

    def critics(self, model: BaseAlgorithm) -> list[Critic]:
        """What values the deployed path's actions; empty where the algorithm learns no value of an action."""
        return []

    def targets(self, model: BaseAlgorithm) -> list[Graph]:
        """Target networks of the deployed path."""
        return []

    def value_networks(self, model: BaseAlgorithm) -> ValueNetworks | None:
        """What is trained to value actions or states beside the deployed path, without parts that it shares with that;
        None where nothing is."""
        return None

    def value_optimizer(self, model: BaseAlgorithm) -> torch.optim.Optimizer:
        """The optimizer that trains ``value_networks``."""
        return self.optimizer(model)

    def challenge(self, model: BaseAlgorithm) -> Challenge | None:
        """What networks like the deployed one compete in while it learns; None where the algorithm has no such loss."""
        return None

    def auxiliary(self, model: BaseAlgorithm) -> list[tuple[str, nn.Parameter]]:
        """Weights that act with the deployed path in training and are not deployed."""
        return []

    def deploy(self, model: BaseAlgorithm, network: nn.Sequential, agent: BaseAlgorithm, inputs: torch.Tensor) -> None:
        """Puts ``network``, plain layers from flat inputs to outputs, in place of ``model``'s deployed path, with a
        fresh optimizer; it explores as ``agent`` does at ``inputs`` (n, ...), what its network may see."""
        raise NotImplementedError

    def network_inputs(self, model: BaseAlgorithm, observations: Any) -> torch.Tensor:
        """What the deployed path sees of ``observations``, its policy's tensors, float32 (n, ...)."""
        raise NotImplementedError

    def learning_starts(self, model: BaseAlgorithm) -> int:
        """Environment steps before the first gradient step."""
        return int(getattr(model, "learning_starts", 0))

    def saved(self, data: Mapping[str, Any]) -> bool:
        """Whether an agent with these attributes (the JSON in its zip) was trained by this algorithm."""
        return policy_module_of(data) == self.policy_module

    def default_parameters(self, model: BaseAlgorithm) -> int:
        """Parameters of the dense network that the algorithm would deploy if nobody had narrowed it."""
        nodes = self.graph(model).layers
        layers = [node.module for node in nodes]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        kept = [*convolutions, *(node.module for node in nodes if isinstance(node.owner, Recurrent))]
        dense = layers[len(kept) :]
        hidden = (_IMAGE_FEATURES,) if convolutions else self.default_hidden
        widths = [dense[0].weight.shape[1], *hidden, dense[-1].weight.shape[0]]
        return sum(layer.weight.numel() + layer.weight.shape[0] for layer in kept) + sum(
            (before + 1) * after for before, after in pairwise(widths)
        )

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """Raises UnsupportedError for spaces that the algorithm or policypress cannot take."""
        check_taken(observation_space)
        if not isinstance(action_space, self.action_spaces):
            names = " or ".join(kind.__name__ for kind in self.action_spaces)
            raise UnsupportedError(
                f"{self.model_class.__name__} needs {names} actions, not {action_space}: choose another --algo."
            )
        if isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary) and len(action_space.shape) != 1:
            kind = "discrete" if isinstance(action_space, spaces.MultiDiscrete) else "binary"
            raise UnsupportedError(f"multi-{kind} actions of shape {action_space.shape} must be flattened first.")
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
            if config.hidden == "none" or len(config.hidden) > 1:
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
    trains_students = True

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.actor.optimizer  # type: ignore[no-any-return]

    def action_transform(self, model: Any) -> ActionTransform:
        return _box_action(model.action_space, squash=True)

    def net_arch(self, hidden: Hidden) -> Any:
        return {"pi": _widths(hidden), "qf": list(self.critic_hidden)}

    def imitation(self, action: ActionTransform) -> Imitation:
        return "action"

    def critics(self, model: Any) -> list[Critic]:
        model.critic.set_training_mode(False)  # normalization layers must not learn from a student's states
        return [_critic(model.critic.features_extractor, network) for network in model.critic.q_networks]

    def value_networks(self, model: Any) -> ValueNetworks | None:
        def graphs(critic: Any) -> list[Graph]:
            paths = _extractor_paths(critic.features_extractor)
            seeing = [trace(critic, paths)] if _has_layers(critic.features_extractor) else []
            return [*seeing, *(trace(critic, [f"qf{place}"]) for place in range(len(critic.q_networks)))]

        targets = graphs(model.critic_target) if hasattr(model, "critic_target") else []
        return ValueNetworks(graphs(model.critic), self.value_optimizer(model), targets)

    def value_optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.critic.optimizer  # type: ignore[no-any-return]

    def network_inputs(self, model: Any, observations: Any) -> torch.Tensor:
        return model.actor.extract_features(observations, model.actor.features_extractor)  # type: ignore[no-any-return]

    def learn_critics(self, model: Any, batch: Any) -> None:
        """One gradient step of the critics, and of their targets, on a batch of the replay buffer."""
        discount = model.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            following = self._next_values(model, batch.next_observations)
            targets = batch.rewards + (1 - batch.dones) * discount * following
        loss = self._critic_loss(model.critic(batch.observations, batch.actions), targets)
        model.critic.optimizer.zero_grad()
        loss.backward()
        model.critic.optimizer.step()
        polyak_update(model.critic.parameters(), model.critic_target.parameters(), model.tau)

    def actor_loss(self, model: Any, observations: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What the actor is to make small, a mean over ``observations``, and the values (n, 1) of its actions there,
        in the units of which that loss is."""
        with _constant(model.critic):
            return self._actor_loss(model, observations)

    @abstractmethod
    def _next_values(self, model: Any, observations: Any) -> torch.Tensor:
        """Values (n, values) of what the actor does next, by the target critics."""

    @abstractmethod
    def _actor_loss(self, model: Any, observations: Any) -> tuple[torch.Tensor, torch.Tensor]: ...

    def _critic_loss(self, found: Any, targets: torch.Tensor) -> torch.Tensor:
        return torch.stack([F.mse_loss(values, targets) for values in found]).sum()


class SACAdapter(_ContinuousAdapter):
    name, model_class, policy_module = "sac", SAC, "stable_baselines3.sac.policies"

    def graph(self, model: Any) -> Graph:
        return self._clipped(model.actor, model.actor)

    @staticmethod
    def _clipped(actor: Any, path: nn.Module) -> Graph:
        """The graph of ``path``, a module with ``actor``'s submodules; gSDE clips its mean."""
        clips = isinstance(actor.mu, nn.Sequential) and type(actor.mu[-1]) is nn.Hardtanh
        mean = [f"mu.{index}" for index in range(len(actor.mu) - 1)] if clips else ["mu"]
        graph = trace(path, [*_extractor_paths(actor.features_extractor), "latent_pi", *mean])
        return replace(graph, limit=float(actor.mu[-1].max_val)) if clips else graph

    def trained_graph(self, model: Any) -> Graph:
        graph = super().trained_graph(model)
        if graph.limit < math.inf:
            raise UnsupportedError(
                f"the agent clips its mean to {graph.limit:g} (clip_mean of gSDE) and cannot be pressed while it "
                "learns: press the trained agent by policypress compress --method distill, or train with "
                "policy_kwargs={'clip_mean': 0.0}."
            )
        return graph

    def auxiliary(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        actor = model.actor
        return [] if actor.use_sde else [("log_std", actor.log_std.weight)]

    @torch.no_grad()
    def deploy(self, model: Any, network: nn.Sequential, agent: Any, inputs: torch.Tensor) -> None:
        *hidden, last = network
        assert isinstance(last, nn.Linear)
        actor = model.actor
        actor.latent_pi, actor.mu = nn.Sequential(*hidden), last
        # What is learned is the ``_QUIET``-th part of the agent's noise, the same everywhere at first; what is added
        # while it acts is about the agent's, so that it also learns what to do where it would hardly come without.
        means, log_std = self._noise(agent.actor, inputs)
        actor.log_std = nn.Linear(last.in_features, last.out_features)
        actor.log_std.weight.zero_()
        actor.log_std.bias.copy_(log_std.mean(0) - math.log(_QUIET))
        model.target_entropy -= math.log(_QUIET) * last.out_features
        spread = (log_std.exp() / means.cosh().square()).mean(0).double().numpy()  # after the squashing
        model.action_noise = NormalActionNoise(np.zeros_like(spread), spread)
        actor.optimizer = _like(actor.optimizer, actor.parameters())

    def entropy(self, model: Any, observations: NDArray[Any]) -> float | None:
        with torch.no_grad():
            inputs = self.network_inputs(model, _tensors(model, observations))
            log_std = self._noise(model.actor, inputs)[1]
        return float((log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=1).mean())

    @staticmethod
    def _noise(actor: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and logarithms of standard deviations of the actions, (n, actions), before they are squashed."""
        latent = actor.latent_pi(inputs.flatten(1))
        means = actor.mu(latent)
        if actor.use_sde:
            noise = actor.action_dist.proba_distribution(means, actor.log_std, latent)
            return means, noise.distribution.stddev.log()
        return means, actor.log_std(latent)

    @staticmethod
    def _price_of_entropy(model: Any) -> torch.Tensor:
        if model.ent_coef_optimizer is None:
            return model.ent_coef_tensor  # type: ignore[no-any-return]
        return model.log_ent_coef.detach().exp()  # type: ignore[no-any-return]

    def _next_values(self, model: Any, observations: Any) -> torch.Tensor:
        actions, log_prob = model.actor.action_log_prob(observations)
        values = self._least(model, model.critic_target(observations, actions))
        return values - self._price_of_entropy(model) * log_prob[:, None]  # type: ignore[no-any-return]

    def _actor_loss(self, model: Any, observations: Any) -> tuple[torch.Tensor, torch.Tensor]:
        actions, log_prob = model.actor.action_log_prob(observations)
        price = self._price_of_entropy(model)
        if model.ent_coef_optimizer is not None:
            loss = -(model.log_ent_coef * (log_prob + model.target_entropy).detach()).mean()
            model.ent_coef_optimizer.zero_grad()
            loss.backward()
            model.ent_coef_optimizer.step()
        values = self._worth(model.critic(observations, actions))
        return (price * log_prob[:, None] - values).mean(), values

    @staticmethod
    def _least(model: Any, found: Any) -> torch.Tensor:
        """The target critics' values, (n, values), less what overestimates."""
        return torch.cat(found, dim=1).amin(1, keepdim=True)

    @staticmethod
    def _worth(found: Any) -> torch.Tensor:
        """The value (n, 1) that the actor climbs."""
        return torch.cat(found, dim=1).amin(1, keepdim=True)


class TQCAdapter(SACAdapter):
    name, policy_module = "tqc", "sb3_contrib.tqc.policies"
    model_class: Any = getattr(sb3_contrib, "TQC", None)

    @staticmethod
    def _least(model: Any, found: Any) -> torch.Tensor:
        kept = model.critic.quantiles_total - model.top_quantiles_to_drop_per_net * model.critic.n_critics
        return found.flatten(1).sort(dim=1).values[:, :kept]  # type: ignore[no-any-return]

    @staticmethod
    def _worth(found: Any) -> torch.Tensor:
        return found.mean(dim=(1, 2))[:, None]  # type: ignore[no-any-return]

    def _critic_loss(self, found: Any, targets: torch.Tensor) -> torch.Tensor:
        return quantile_huber_loss(found, targets[:, None], sum_over_quantiles=False)


class CrossQAdapter(SACAdapter):
    name, policy_module = "crossq", "sb3_contrib.crossq.policies"
    while_learning = False
    trains_students = False
    model_class: Any = getattr(sb3_contrib, "CrossQ", None)
    critic_hidden = (1024, 1024)

    def graph(self, model: Any) -> Graph:
        actor = model.actor
        if not self._normalizes(model):
            return super().graph(model)
        clips = isinstance(actor.mu, nn.Sequential)
        latent, mean = _folded(actor.latent_pi, actor.mu[0] if clips else actor.mu)
        path = nn.Module()
        path.features_extractor, path.latent_pi = actor.features_extractor, latent
        path.mu = nn.Sequential(mean, *actor.mu[1:]) if clips else mean
        return self._clipped(actor, path)

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

    def deploy(self, model: Any, network: nn.Sequential, agent: Any, inputs: torch.Tensor) -> None:
        model.actor.mu = nn.Sequential(*network, nn.Tanh())
        model.actor_target.mu = copy.deepcopy(model.actor.mu)
        model.actor.optimizer = _like(model.actor.optimizer, model.actor.parameters())
        actions = math.prod(model.action_space.shape)
        model.action_noise = NormalActionNoise(np.zeros(actions), np.full(actions, _EXPLORATION))

    def _next_values(self, model: Any, observations: Any) -> torch.Tensor:
        actions = model.actor_target(observations)
        noise = torch.randn_like(actions).mul_(model.target_policy_noise)
        noise.clamp_(-model.target_noise_clip, model.target_noise_clip)
        values = model.critic_target(observations, (actions + noise).clamp_(-1, 1))
        return torch.cat(values, dim=1).amin(1, keepdim=True)

    def learn_critics(self, model: Any, batch: Any) -> None:
        super().learn_critics(model, batch)
        polyak_update(model.actor.parameters(), model.actor_target.parameters(), model.tau)

    def _actor_loss(self, model: Any, observations: Any) -> tuple[torch.Tensor, torch.Tensor]:
        values = model.critic.q1_forward(observations, model.actor(observations))
        return -values.mean(), values

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

    def net_arch(self, hidden: Hidden) -> Any:
        return _widths(hidden)

    def imitation(self, action: ActionTransform) -> Imitation:
        return "values"

    def entropy(self, model: Any, observations: NDArray[Any]) -> float | None:
        others = int(model.action_space.n) - 1
        other = float(model.exploration_rate) / (others + 1)  # how probable each action is but the best
        return -sum(p * math.log(p) for p in (1.0 - others * other, *[other] * others) if p > 0.0)


class _TemporalDifference:
    """The loss that DQN's ``train`` takes of its network, of a ``network`` like it and on the batch drawn last."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._buffer = replaced(model, "pruning=competing", "take another pruning")
        self._batch: Any = None

    def __call__(self, network: nn.Module) -> torch.Tensor:
        batch: Any = self._buffer.latest
        if self._batch is not batch:
            self._batch = batch
            with torch.no_grad():
                following = self._model.q_net_target(batch.next_observations).amax(1, keepdim=True)
                self._targets = batch.rewards + (1 - batch.dones) * batch.discounts * following
        values = network(batch.observations).gather(1, batch.actions.long())
        return F.smooth_l1_loss(values, self._targets)


class DQNAdapter(_ValueAdapter):
    name, model_class, policy_module = "dqn", DQN, "stable_baselines3.dqn.policies"

    def graph(self, model: Any) -> Graph:
        return self._q_graph(model.q_net)

    def targets(self, model: Any) -> list[Graph]:
        return [self._q_graph(model.q_net_target)]

    def outputs(self, model: Any, observations: Any) -> torch.Tensor:
        return model.q_net(observations)  # type: ignore[no-any-return]

    def challenge(self, model: Any) -> Challenge | None:
        return Challenge(model.q_net, _TemporalDifference(model), model.max_grad_norm)

    @staticmethod
    def _q_graph(network: Any) -> Graph:
        return trace(network, [*_extractor_paths(network.features_extractor), "q_net"])


class QRDQNAdapter(_ValueAdapter):
    name, policy_module = "qrdqn", "sb3_contrib.qrdqn.policies"
    while_learning = False
    model_class: Any = getattr(sb3_contrib, "QRDQN", None)

    def graph(self, model: Any) -> Graph:
        network = model.quantile_net
        *hidden, last = network.quantile_net.named_children()
        path = nn.Module()
        path.features_extractor = network.features_extractor
        path.quantile_net = nn.Sequential(OrderedDict([*hidden, (last[0], _mean_of_quantiles(last[1], network))]))
        return trace(path, [*_extractor_paths(network.features_extractor), "quantile_net"])

    def outputs(self, model: Any, observations: Any) -> torch.Tensor:
        return model.quantile_net(observations).mean(dim=1)  # type: ignore[no-any-return]

    def trained_graph(self, model: Any) -> Graph:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("QR-DQN", "what is deployed is the mean of its quantiles"))


class _PolicyAdapter(Adapter):
    """On-policy actor-critic: PPO and its relatives, one policy class for all."""

    default_hidden = (64, 64)
    action_spaces = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    policy_module = "stable_baselines3.common.policies"
    trains_students = True
    setting: str
    """An attribute that tells agents of this algorithm from those of relatives further down in ``_ALL``."""

    def graph(self, model: Any) -> Graph:
        policy = model.policy
        extractor = _extractor_paths(policy.pi_features_extractor, "pi_features_extractor")
        return trace(policy, [*extractor, "mlp_extractor.policy_net", "action_net"])

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        return model.policy.optimizer  # type: ignore[no-any-return]

    def action_transform(self, model: Any) -> ActionTransform:
        if isinstance(model.action_space, spaces.Box):
            return _box_action(model.action_space, squash=bool(model.policy.squash_output))
        return _discrete_action(model.action_space)

    def deploy(self, model: Any, network: nn.Sequential, agent: Any, inputs: torch.Tensor) -> None:
        policy = model.policy
        *hidden, last = network
        policy.mlp_extractor.policy_net, policy.action_net = nn.Sequential(*hidden), last
        policy.optimizer = _like(policy.optimizer, policy.parameters())

    def network_inputs(self, model: Any, observations: Any) -> torch.Tensor:
        policy = model.policy
        return policy.extract_features(observations, policy.pi_features_extractor)  # type: ignore[no-any-return]

    def value_networks(self, model: Any) -> ValueNetworks | None:
        policy = model.policy
        extractor = _extractor_paths(policy.vf_features_extractor, "vf_features_extractor")
        graph = trace(policy, [*extractor, "mlp_extractor.value_net", "value_net"])
        return ValueNetworks([graph], self.value_optimizer(model))

    def outputs(self, model: Any, observations: Any) -> torch.Tensor:
        return _outputs(model, model.policy.get_distribution(observations))

    def entropy(self, model: Any, observations: NDArray[Any]) -> float | None:
        with torch.no_grad():
            found = model.policy.get_distribution(_tensors(model, observations)).entropy()
        return None if found is None else float(found.mean())

    def net_arch(self, hidden: Hidden) -> Any:
        return {"pi": _widths(hidden), "vf": list(self.default_hidden if hidden else ())}

    def imitation(self, action: ActionTransform) -> Imitation:
        return "action" if action.kind == "box" else "logits"

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
    while_learning = False
    trains_students = False
    model_class: Any = getattr(sb3_contrib, "TRPO", None)

    def trained_graph(self, model: Any) -> Graph:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("TRPO", "its steps pass by the optimizer"))


class RecurrentPPOAdapter(_PolicyAdapter):
    """PPO with an LSTM before the policy network; what its critic remembers is not deployed."""

    name, setting = "recurrent_ppo", "clip_range"
    policy_module = "sb3_contrib.common.recurrent.policies"
    while_learning = False
    trains_students = False
    model_class: Any = getattr(sb3_contrib, "RecurrentPPO", None)
    policies: Mapping[str, str] = {
        "vector": "MlpLstmPolicy", "image": "CnnLstmPolicy", "dict": "MultiInputLstmPolicy",
    }  # fmt: skip

    def graph(self, model: Any) -> Graph:
        policy = model.policy
        if isinstance(policy.pi_features_extractor, NatureCNN | ResNetExtractor):
            raise UnsupportedError(
                "an LSTM behind images cannot be pressed: train PPO with CnnPolicy on stacked frames instead."
            )
        if policy.lstm_actor.batch_first:
            raise UnsupportedError(
                "an LSTM with batch_first=True takes several episodes for one of Stable-Baselines3's: train without it."
            )
        path = nn.Module()
        path.pi_features_extractor = policy.pi_features_extractor
        path.lstm_actor = nn.Sequential(*Recurrent.of(policy.lstm_actor))
        path.mlp_extractor, path.action_net = policy.mlp_extractor, policy.action_net
        extractor = _extractor_paths(policy.pi_features_extractor, "pi_features_extractor")
        return trace(path, [*extractor, "lstm_actor", "mlp_extractor.policy_net", "action_net"])

    def trained_graph(self, model: Any) -> Graph:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("RecurrentPPO", "its own loop runs PyTorch's LSTM"))

    def entropy(self, model: Any, observations: NDArray[Any]) -> float | None:
        return None

    def outputs(self, model: Any, observations: Any) -> torch.Tensor:
        begin = torch.zeros(model.policy.lstm_hidden_state_shape, device=model.device)
        starts = torch.zeros(_count(observations), device=model.device)
        found, _ = model.policy.get_distribution(observations, (begin, begin), starts)
        return _outputs(model, found)

    def actions(self, model: Any, observations: Any) -> NDArray[Any]:
        # The state of a single row, and many observations: to the policy that is one sequence.
        begin = np.zeros(model.policy.lstm_hidden_state_shape, np.float32)
        starts = np.zeros(_count(observations), bool)
        return model.policy.predict(observations, (begin, begin), starts, deterministic=True)[0]  # type: ignore[no-any-return]


class ARSAdapter(Adapter):
    """Augmented random search (Mania, Guy and Recht 2018): one network, linear or not, that no gradient trains."""

    name, policy_module = "ars", "sb3_contrib.ars.policies"
    descends = False
    model_class: Any = getattr(sb3_contrib, "ARS", None)
    default_hidden, action_spaces = (64, 64), (spaces.Box, spaces.Discrete)

    def graph(self, model: Any) -> Graph:
        policy = model.policy
        layers = [f"action_net.{index}" for index in range(len(policy.action_net) - policy.squash_output)]
        return trace(policy, [*_extractor_paths(policy.features_extractor), *layers])

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("ARS", "it learns without gradients"))

    def trained_graph(self, model: Any) -> Graph:
        raise UnsupportedError(_NOT_WHILE_LEARNING.format("ARS", "it learns without gradients"))

    def action_transform(self, model: Any) -> ActionTransform:
        if isinstance(model.action_space, spaces.Box):
            return _box_action(model.action_space, squash=bool(model.policy.squash_output))
        return _discrete_action(model.action_space)

    def outputs(self, model: Any, observations: Any) -> torch.Tensor | None:
        policy = model.policy
        if policy.squash_output:  # its tanh is a part of the network
            return None
        return policy.action_net(policy.extract_features(observations, policy.features_extractor))  # type: ignore[no-any-return]

    def net_arch(self, hidden: Hidden) -> Any:
        return _widths(hidden)

    def imitation(self, action: ActionTransform) -> Imitation:
        return "action" if action.kind == "box" else "logits"

    def policy_kwargs(self, config: TrainConfig) -> dict[str, Any]:
        # The paper's policies are linear; Stable-Baselines3's have 64-64 units if nothing is said.
        linear = {} if _widths(config.hidden) else {"net_arch": [], "squash_output": False}
        return {**linear, **super().policy_kwargs(config)}

    def new_policy(self, model: Any, kwargs: Mapping[str, Any]) -> Any:
        return model.policy_class(model.observation_space, model.action_space, **kwargs)

    def opened(self, model: Any) -> BaseAlgorithm:
        # The search goes on from these; load leaves fresh ones where they do not start at zero.
        model.weights = nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        return model  # type: ignore[no-any-return]

    def rebuilt(
        self, kwargs: dict[str, Any], weights: dict[str, torch.Tensor]
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        # Before sb3-contrib 1.7 the only layer of a LinearPolicy stood alone.
        weights = {re.sub(r"^action_net\.(?=\D)", "action_net.0.", key): value for key, value in weights.items()}
        if "net_arch" not in kwargs and not any(key.startswith("action_net.2.") for key in weights):
            kwargs = {"net_arch": [], "with_bias": False, "squash_output": False, **kwargs}  # LinearPolicy
        return kwargs, weights


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
    RecurrentPPOAdapter(),
    A2CAdapter(),  # after its relatives, who have its settings and more
    ARSAdapter(),
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


def action_of(space: spaces.Space[Any]) -> ActionTransform:
    """The action of a policy that nobody knows more of than the ``space`` it acts in: outputs clipped to a Box, or the
    largest, or the positive ones. UnsupportedError for any other space."""
    return _box_action(space, squash=False) if isinstance(space, spaces.Box) else _discrete_action(space)


def imitation_of(action: ActionTransform, algo: str | None) -> Imitation:
    """What the outputs that become ``action`` mean, if an algorithm says so; else those of choices are logits."""
    if algo:
        return adapter_named(algo).imitation(action)
    return "action" if action.kind == "box" else "logits"


def checked_graph(adapter: Adapter, model: BaseAlgorithm) -> Graph:
    """``adapter.graph``; UnsupportedError if the agent itself acts otherwise than its layers one after another."""
    graph = adapter.graph(model)
    check_graph(model, graph)
    return graph


def check_graph(model: BaseAlgorithm, graph: Graph) -> None:
    """``check_agent`` for the layers of ``graph``, one after another."""
    like = graph.layers[0].module.weight.detach()

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs, _ = unroll(graph, torch.as_tensor(x).to(like)[:, None])
        return outputs[:, 0].detach().float().cpu().numpy()

    check_agent(model, run)


def check_agent(model: Any, run: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    """Raises UnsupportedError if ``model`` predicts otherwise than the outputs of ``run`` say, or has other outputs.

    ``run``: float32 observations as the network sees them (n, ...) to outputs (n, outputs); where it remembers, they
    are one episode, step after step. Observations of several scales are tried, within the bounds of their space; the
    agent is left as it was.
    """
    adapter, policy, space = adapter_for(model), model.policy, model.observation_space
    action = adapter.action_transform(model)
    who = f"this {adapter.model_class.__name__} agent"
    with undisturbed(policy):
        for scale, raw in _observations(space):
            tensors = policy.obs_to_tensor(raw)[0]
            ours = run(_network_input(tensors, space, policy.normalize_images))
            own = adapter.outputs(model, tensors)
            if own is not None:
                theirs, mine = (_centred(action, values) for values in (own.double().cpu().numpy(), ours))
                compare(who, theirs, mine, scale, magnitude=_NOISE / TOLERANCE * float(np.abs(ours).max()))
            _compare_actions(who, action, adapter.actions(model, raw), ours, scale)


def _compare_actions(
    who: str, action: ActionTransform, own: NDArray[Any], outputs: NDArray[np.float32], scale: float
) -> None:
    """Raises UnsupportedError if the agent's actions ``own`` are not those of ``outputs``; choices are compared where
    the outputs decide clearly."""
    ours = reference.act(action, outputs)
    if action.kind == "box":
        span, slope = 0.0, np.ones(outputs.shape)
        if action.squash:
            width = np.ravel(np.asarray(action.high, np.float64) - np.asarray(action.low, np.float64))
            span, slope = float(width.max()), width / 2 / np.cosh(outputs.astype(np.float64).clip(-50.0, 50.0)) ** 2
        compare(who, own, ours, scale, magnitude=span, slack=_NOISE * np.abs(outputs).max() * slope)
        return
    own, ours = own.reshape(len(outputs), -1), ours.reshape(len(outputs), -1)
    clear = _margins(action, outputs) > _NOISE * np.abs(outputs).max()
    for row, column in np.argwhere(clear & (own != ours)):
        raise differs(who, f"with action {own[row, column]}", str(ours[row, column]), scale)


def _groups(action: ActionTransform, outputs: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(outputs, np.cumsum(action.nvec)[:-1], axis=1) if action.nvec else [outputs]


def _margins(action: ActionTransform, outputs: NDArray[Any]) -> NDArray[Any]:
    """How far the outputs are from another choice, (n, choices)."""
    if action.kind == "multi-binary":
        margins: NDArray[Any] = np.abs(outputs)
        return margins
    padded = [np.pad(group, ((0, 0), (1, 0)), constant_values=-np.inf) for group in _groups(action, outputs)]
    return np.stack([np.diff(np.sort(group, axis=1)[:, -2:], axis=1)[:, 0] for group in padded], axis=1)


def _centred(action: ActionTransform, outputs: NDArray[Any]) -> NDArray[Any]:
    """Outputs without what decides nothing: a constant for all of a group of choices."""
    match action.kind:
        case "box" | "multi-binary":
            return outputs
        case "discrete" | "multi-discrete":
            centred = [group - group.mean(axis=1, keepdims=True) for group in _groups(action, outputs)]
            return np.concatenate(centred, axis=1)


def _observations(space: Any) -> Iterator[tuple[float, Any]]:
    """Scales, and raw observations (n, *shape) of each, within the bounds of ``space``; always the same ones."""
    random = np.random.default_rng(0)
    if isinstance(space, spaces.Dict):
        for scale in SCALES:
            yield (
                scale,
                {
                    name: _within(part, scale * random.normal(size=(_SAMPLES, *(part.shape or ()))), random)
                    for name, part in space.spaces.items()
                },
            )
    elif not isinstance(space, spaces.Box):
        yield 1.0, _within(space, np.zeros(_SAMPLES), random)
    elif is_image_space(space):
        for scale, x in probes(space.shape, image=True):
            yield scale, np.rint(255 * x).astype(space.dtype)
    else:
        for scale, x in probes(space.shape):
            yield scale, _within(space, x, random)


def _within(space: Any, x: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Observations (n, *shape): ``x`` where ``space`` is a Box without bounds, drawn between those it has, else as
    many as ``x`` drawn by ``space``."""
    if not isinstance(space, spaces.Box):
        drawn = copy.deepcopy(space)
        drawn.seed(0)
        return np.stack([drawn.sample() for _ in x])
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = high - low < _BOUNDED
    inside = np.where(bounded, low, 0.0) + np.where(bounded, high - low, 0.0) * random.uniform(size=x.shape)
    found: NDArray[Any] = np.where(bounded, inside, x.clip(low, high)).astype(space.dtype)
    return found


def _network_input(tensors: Any, space: Any, normalize_images: bool) -> NDArray[np.float32]:
    """Observations as the first layer sees them, float32 (n, ...); several parts one after another, each flattened."""
    x: Any = preprocess_obs(tensors, space, normalize_images)
    if isinstance(x, dict):
        x = torch.cat([part.flatten(1) for part in x.values()], dim=1)
    return x.float().cpu().numpy()  # type: ignore[no-any-return]


def observation_transform(model: BaseAlgorithm) -> ObservationTransform:
    """The contract of ``model``'s observations, statistics of a VecNormalize around its environment included.

    Whatever is no image is a vector, as ``flatten_observation`` makes it.
    """
    space = model.observation_space
    if isinstance(space, spaces.Box) and is_image_space(space):
        if not model.policy.normalize_images:
            raise UnsupportedError(
                "agents that see raw pixel values (normalize_images=False) cannot be pressed: train with "
                "normalize_images=True, Stable-Baselines3's default."
            )
        return ObservationTransform(space.shape, space.dtype.name, image=True, frame_stack=space.shape[0])
    shape = (flat_size(space),)  # refuses a Dict with an image in it
    if any(isinstance(module, nn.Conv2d) for module in model.policy.modules()):
        raise UnsupportedError(
            "agents that see images as floats (normalize_images=False, or VecNormalize over images) cannot be pressed: "
            "train on images of bytes from 0 to 255, without VecNormalize."
        )
    dtype = space.dtype.name if isinstance(space, spaces.Box) else "float32"
    env = model.get_env()
    normalize = unwrap_vec_normalize(env) if env is not None else None
    statistics = None if normalize is None else statistics_of(normalize)
    if env is None or statistics is None:
        return ObservationTransform(shape, dtype)
    return ObservationTransform(shape, dtype, normalization=statistics.flat(space, frames_over(env)))


def _widths(hidden: Hidden) -> list[int]:
    return [] if hidden == "none" else list(hidden)


def _outputs(model: Any, distribution: Any) -> torch.Tensor:
    """What an on-policy agent's distribution over actions was made of: means, or logits."""
    found = distribution.distribution
    if isinstance(model.action_space, spaces.Box):
        return found.mean  # type: ignore[no-any-return]
    groups = found if isinstance(found, list) else [found]
    return torch.cat([group.logits for group in groups], dim=1)


def _tensors(model: Any, observations: NDArray[Any]) -> Any:
    """Raw ``observations`` (n, ...) as the policy's tensors; it does not learn from them."""
    model.policy.set_training_mode(False)
    return model.policy.obs_to_tensor(observations)[0]


def _count(observations: Any) -> int:
    """How many observations there are, in an array or tensor, or in the parts of a Dict."""
    return len(next(iter(observations.values())) if isinstance(observations, Mapping) else observations)


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
    if isinstance(space, spaces.MultiBinary):
        return ActionTransform("multi-binary", space.shape, "int64")
    if isinstance(space, spaces.Discrete):
        return ActionTransform("discrete", dtype="int64", start=int(space.start))
    raise UnsupportedError(f"actions of {space} cannot be pressed: they must be discrete or binary.")


def _critic(extractor: nn.Module, network: nn.Module) -> Critic:
    def value(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        # The mean over quantiles; of one value, the value itself.
        flat = isinstance(extractor, CombinedExtractor)  # its parts are joined already
        features = observations if flat else extractor(observations)
        return network(torch.cat([features, actions], dim=1)).mean(dim=1, keepdim=True)  # type: ignore[no-any-return]

    return value


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Gradients pass through ``module`` within the block, and none of its own are computed."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _like(optimizer: Any, parameters: Any) -> torch.optim.Optimizer:
    """A fresh optimizer of the kind and settings of ``optimizer``."""
    return type(optimizer)(list(parameters), **optimizer.defaults)  # type: ignore[no-any-return]


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
            copy = skip_init(nn.Linear, module.in_features, module.out_features, device=module.weight.device)
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
    mean: nn.Linear = skip_init(nn.Linear, layer.in_features, actions, device=layer.weight.device)
    mean.weight.copy_(layer.weight.view(network.n_quantiles, actions, -1).mean(0))
    mean.bias.copy_(layer.bias.view(network.n_quantiles, actions).mean(0))
    return mean


def policy_module_of(data: Mapping[str, Any]) -> str | None:
    """Where the policy class of an agent lives, as the JSON in its zip says; None if it does not."""
    described = data.get("policy_class")
    return described.get("__module__") if isinstance(described, dict) else None


def unsupported_extractor(name: str) -> UnsupportedError:
    """The refusal of a features extractor that is not in EXTRACTORS, however its agent is opened."""
    return UnsupportedError(
        f"features extractor {name} cannot be pressed; supported are {', '.join(kind.__name__ for kind in EXTRACTORS)}."
    )


def _has_layers(extractor: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear | nn.Conv2d) for module in extractor.modules())


def _extractor_paths(extractor: nn.Module, name: str = "features_extractor") -> list[str]:
    """Submodules of a features extractor in the order they run."""
    if type(extractor) not in EXTRACTORS:
        raise unsupported_extractor(type(extractor).__name__)
    return [f"{name}.{path}" for path in EXTRACTORS[type(extractor)]]
