"""The object a training loop drives: ``Compressor(network, optimizer, config, steps)``, then ``step(n)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from policypress.compression.answers import check_layers
from policypress.compression.graph import Graph, check_pressable, trace
from policypress.compression.masks import PrunedWeight
from policypress.compression.pruning import Challenge, Pruning
from policypress.compression.pruning_methods import pruning_of
from policypress.compression.quantization import Phase, Quantization
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, UnsupportedError

_OF_CRITICS = "critics/"


@dataclass(frozen=True)
class LayerStatus:
    name: str
    sparsity: float
    target_sparsity: float


@dataclass(frozen=True, eq=False)
class ValueNetworks:
    """Networks that are trained beside the deployed one and never deployed, by one ``optimizer``. ``targets``: their
    target networks in the same order, if they have some."""

    networks: Sequence[Graph]
    optimizer: torch.optim.Optimizer
    targets: Sequence[Graph] = ()


class Compressor:
    """Prunes and quantizes ``network`` while any PyTorch loop trains it.

    ``network``: an nn.Sequential, or the Graph of another network. ``optimizer`` holds its parameters; ``follow``
    tells of another one. ``steps`` are the nominal training steps that the config's fractions refer to; call
    ``step(n)`` with the number of steps done, as often as you like, before the gradient steps that follow. ``targets``
    are Graphs of target networks (same layers), ``auxiliary`` further weights of ``optimizer`` to prune if the config
    says so, ``critics`` what a ``critic_sparsity`` prunes. ``image`` inputs are in [0, 1] with one scale; others get
    one scale a feature. ``returns`` is asked by ``pruning="adaptive"`` 40 times, in ``step``: it measures what the
    network returns as it is; where that is noisy, the lower end of an interval. ``challenge`` is what
    networks compete in by ``pruning="competing"``. Raises UnsupportedError for a network
    that cannot be pressed, or that answers something else than its layers one after another, ConfigError for a
    ``critic_sparsity`` without critics.

    It drives ``pruning``, ``quantization``, and ``critics``, the pruning of those, whose ``follow`` is its own; None
    without.
    """

    def __init__(
        self,
        network: nn.Module | Graph,
        optimizer: torch.optim.Optimizer,
        config: CompressionConfig,
        steps: int,
        *,
        targets: Sequence[Graph] = (),
        auxiliary: Sequence[tuple[str, nn.Parameter]] = (),
        critics: ValueNetworks | None = None,
        image: bool = False,
        seed: int = 0,
        returns: Callable[[], float] | None = None,
        challenge: Challenge | None = None,
    ) -> None:
        self.config, self.steps, self.optimizer = config, steps, optimizer
        self.graph = network if isinstance(network, Graph) else trace(network)
        check_pressable(self.graph)
        check_layers(self.graph, image=image)
        self.done = 0
        """Training steps done, as the last call of ``step`` said."""
        self._removed = False
        layers = list(zip(self.graph.layers, *(target.layers for target in targets), strict=True))
        trained = [(node.name, node.module.weight, following) for node, *following in layers if not node.fixed]
        if config.prune_auxiliary:
            trained += [(name, weight, []) for name, weight in auxiliary]
        for name, weight, _ in trained:
            self._check_weight(name, weight, config.quantizes)
        self._trained = [weight for _, weight, _ in trained]
        self._check_optimizer(optimizer)
        weights = [
            PrunedWeight(name, weight, optimizer, [node.module.weight for node in following])
            for name, weight, following in trained
        ]
        self.pruning = pruning_of(config)(weights, config, steps, graphs=[self.graph], seed=seed)
        self.pruning.returns, self.pruning.challenge = returns, challenge
        self.quantization = Quantization(self.graph, optimizer, config, steps, targets=targets, image=image)
        self.critics = self._of_critics(critics, seed) if config.critic_sparsity else None

    def _of_critics(self, critics: ValueNetworks | None, seed: int) -> Pruning:
        if critics is None:
            raise ConfigError(
                f"critic_sparsity={self.config.critic_sparsity} needs critics beside the deployed network, and there "
                "are none: leave it at 0."
            )
        deployed = {id(weight) for weight in self._trained}  # parts may be shared
        layers = [node for graph in critics.networks for node in graph.layers]
        targets = [node.module.weight for graph in critics.targets for node in graph.layers]
        followers = [[weight] for weight in targets] or [[] for _ in layers]
        weights = []
        for node, following in zip(layers, followers, strict=True):
            weight = node.module.weight
            self._check_weight(node.name, weight, quantizes=False)
            assert isinstance(weight, nn.Parameter)
            if id(weight) not in deployed:
                weights.append(PrunedWeight(f"critic.{node.name}", weight, critics.optimizer, following))
        config = self.config.of_critics
        return pruning_of(config)(weights, config, self.steps, graphs=critics.networks, seed=seed + 1)

    def _check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(weight) not in owned for weight in self._trained):
            raise UnsupportedError("the optimizer does not train this network's weights: pass the one that does.")

    @staticmethod
    def _check_weight(name: str, weight: torch.Tensor, quantizes: bool) -> None:
        if not isinstance(weight, nn.Parameter):
            raise UnsupportedError(
                f"the weight of layer {name} is computed from others (a parametrization, spectral or weight norm): "
                "make it a plain one first, for example with torch.nn.utils.parametrize.remove_parametrizations."
            )
        if quantizes and weight.dtype != torch.float32:
            raise UnsupportedError(
                f"layer {name} has {str(weight.dtype).removeprefix('torch.')} weights, and integers are trained in "
                "float32: call network.float() before the optimizer is made."
            )

    @property
    def phase(self) -> Phase:
        return self.quantization.phase

    @property
    def iteration(self) -> int:
        """Pruning iterations done."""
        return self.pruning.iteration

    @property
    def sparsity(self) -> float:
        """Of the weights that are pruned, at present."""
        return self.pruning.sparsity

    @property
    def target_zeros(self) -> list[int]:
        """Zeros per layer in the end."""
        return self.pruning.target_zeros

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Masks and quantization go on with ``optimizer``, which trains the same weights in place of another one.

        Raises UnsupportedError if it does not train them.
        """
        if optimizer is self.optimizer or self._removed:
            return
        self._check_optimizer(optimizer)
        self.optimizer = optimizer
        self.quantization.follow(optimizer)
        self.pruning.follow(optimizer)

    def step(self, step: int) -> None:
        """Brings masks and quantization to where the schedule wants them after ``step`` training steps."""
        if self._removed:
            return
        self.done = step
        self.pruning.step(step)
        if self.critics is not None:
            self.critics.step(step)
        self.quantization.step(step)

    def layer_status(self) -> list[LayerStatus]:
        """Present and final sparsity of every pruned layer, critics' last."""
        return [
            LayerStatus(
                one.name,
                1.0 - int(torch.count_nonzero(one.weight)) / one.weight.numel(),
                zeros / one.weight.numel(),
            )
            for pruning in self._prunings
            for one, zeros in zip(pruning.weights, pruning.target_zeros, strict=True)
        ]

    @property
    def _prunings(self) -> list[Pruning]:
        return [self.pruning] if self.critics is None else [self.pruning, self.critics]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What pruning remembers in tensors, by name: live, changed in place as training goes on."""
        critics = {} if self.critics is None else self.critics.tensors
        return self.pruning.tensors | {_OF_CRITICS + name: values for name, values in critics.items()}

    def ranges(self) -> dict[str, float]:
        """Largest magnitude with a code, for the output of each quantized layer."""
        return self.quantization.ranges()

    def state_dict(self, tensors: bool = True) -> dict[str, Any]:
        """Where compression stands, in JSON values: masks too; ranges are the network's own. Without ``tensors`` it is
        cheap, and whoever asks keeps those of ``tensors`` beside."""
        critics = {} if self.critics is None else {"critics": self.critics.state_dict(tensors)}
        return {"done": self.done, **self.pruning.state_dict(tensors), **critics, **self.quantization.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Any] | None = None) -> None:
        """Goes back to ``state``; the network's weights must be loaded already, its ranges afterwards. ``tensors``:
        arrays of those that the state does not hold."""
        self.done = int(state.get("done", 0))
        self.pruning.load_state_dict(state, tensors)
        if self.critics is not None:
            theirs = {name.removeprefix(_OF_CRITICS): values for name, values in (tensors or {}).items()}
            self.critics.load_state_dict(state["critics"], theirs)
        self.quantization.load_state_dict(state)

    def remove(self) -> None:
        """Gives the network its plain layers back and stops enforcing masks; present weights stay."""
        self._removed = True
        self.quantization.remove()
        for pruning in self._prunings:
            pruning.remove()
