"""The object a training loop drives: ``Compressor(network, optimizer, config, steps)``, then ``step(n)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from policypress.compression.answers import check_layers
from policypress.compression.graph import Graph, check_pressable, trace
from policypress.compression.masks import PrunedWeight
from policypress.compression.pruning import pruning_of
from policypress.compression.quantization import Phase, Quantization
from policypress.config import CompressionConfig
from policypress.errors import UnsupportedError


@dataclass(frozen=True)
class LayerStatus:
    name: str
    sparsity: float
    target_sparsity: float


class Compressor:
    """Prunes and quantizes ``network`` while any PyTorch loop trains it.

    ``network``: an nn.Sequential, or the Graph of another network. ``optimizer`` holds its parameters; ``follow``
    tells of another one. ``steps`` are the nominal training steps that the config's fractions refer to; call
    ``step(n)`` with the number of steps done, as often as you like, before the gradient steps that follow. ``targets``
    are Graphs of target networks (same layers), ``auxiliary`` further weights of ``optimizer`` to prune if the config
    says so. ``image`` inputs are in [0, 1] with one scale; others get one scale a feature. Raises UnsupportedError for
    a network that cannot be pressed, or that answers something else than its layers one after another.

    It drives two parts, ``pruning`` and ``quantization``.
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
        image: bool = False,
        seed: int = 0,
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
            self._check_weight(name, weight)
        self._trained = [weight for _, weight, _ in trained]
        self._check_optimizer(optimizer)
        weights = [
            PrunedWeight(name, weight, optimizer, [node.module.weight for node in following])
            for name, weight, following in trained
        ]
        self.pruning = pruning_of(config)(weights, config, steps, graphs=[self.graph], seed=seed)
        self.quantization = Quantization(self.graph, optimizer, config, steps, targets=targets, image=image)

    def _check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(weight) not in owned for weight in self._trained):
            raise UnsupportedError("the optimizer does not train this network's weights: pass the one that does.")

    def _check_weight(self, name: str, weight: torch.Tensor) -> None:
        if not isinstance(weight, nn.Parameter):
            raise UnsupportedError(
                f"the weight of layer {name} is computed from others (a parametrization, spectral or weight norm): "
                "make it a plain one first, for example with torch.nn.utils.parametrize.remove_parametrizations."
            )
        if self.config.quantizes and weight.dtype != torch.float32:
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
        self.quantization.step(step)

    def layer_status(self) -> list[LayerStatus]:
        """Present and final sparsity of every pruned layer."""
        return [
            LayerStatus(
                one.name,
                1.0 - int(torch.count_nonzero(one.weight)) / one.weight.numel(),
                zeros / one.weight.numel(),
            )
            for one, zeros in zip(self.pruning.weights, self.target_zeros, strict=True)
        ]

    def ranges(self) -> dict[str, float]:
        """Largest magnitude with a code, for the output of each quantized layer."""
        return self.quantization.ranges()

    def state_dict(self) -> dict[str, Any]:
        """Where compression stands, in JSON values: masks too; ranges are the network's own."""
        return {"done": self.done, **self.pruning.state_dict(), **self.quantization.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to ``state``; the network's weights must be loaded already, its ranges afterwards."""
        self.done = int(state.get("done", 0))
        self.pruning.load_state_dict(state)
        self.quantization.load_state_dict(state)

    def remove(self) -> None:
        """Gives the network its plain layers back and stops enforcing masks; present weights stay."""
        self._removed = True
        self.quantization.remove()
        self.pruning.remove()
