"""The object a training loop drives: ``Compressor(network, optimizer, config, steps)``, then ``step(n)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from policypress.compression.activations import FakeQuantTanh, tanh_input
from policypress.compression.allocation import allocate
from policypress.compression.answers import check_layers
from policypress.compression.criterion import flow, score
from policypress.compression.fake_quant import (
    STEP_STRIDE,
    FakeQuantAdd,
    plain_layer,
    quantized_layer,
    weight_channels,
)
from policypress.compression.graph import (
    Add,
    FlattenNode,
    Graph,
    LayerNode,
    Node,
    ResidualNode,
    TanhNode,
    trace,
)
from policypress.compression.masks import Masks, top_k_mask
from policypress.compression.ranges import ActivationQuantizer, InputQuantizer
from policypress.compression.schedule import PruningSchedule
from policypress.compression.weight_steps import LayerQuantizer
from policypress.config import CompressionConfig
from policypress.errors import UnsupportedError

_STEP_RATE = 0.1  # learning rate of the logarithm of a weight step over that of the weights


class Phase(Enum):
    """What quantization is doing: nothing, measuring ranges, or computing in integers."""

    FLOAT = 0
    OBSERVE = 1
    QUANTIZE = 2


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
        self.config, self.steps = config, steps
        self.graph = network if isinstance(network, Graph) else trace(network)
        check_layers(self.graph, image=image)
        self.phase, self.iteration, self.sparsity = Phase.FLOAT, 0, 0.0
        self.done = 0
        """Training steps done, as the last call of ``step`` said."""
        self._targets, self._image = tuple(targets), image
        self._schedule = PruningSchedule.from_config(config, steps)
        self._removed = False
        self._generator = torch.Generator().manual_seed(seed)

        extra = list(auxiliary) if config.prune_auxiliary else []
        self._layers = [node for node in self.graph.layers if not node.fixed]
        self._names = [node.name for node in self._layers] + [name for name, _ in extra]
        weights = [node.module.weight for node in self._layers] + [weight for _, weight in extra]
        self._check_weights(weights)
        self._trained = weights
        self._check_optimizer(optimizer)
        shapes = [tuple(weight.shape) for weight in weights]
        self.target_zeros = allocate(config.allocation, shapes, config.sparsity, self._names)
        self._masks = Masks(weights, optimizer) if config.prunes else None
        self._updates = 0
        self._watch(optimizer)

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(weight) not in owned for weight in self._trained):
            raise UnsupportedError("the optimizer does not train this network's weights: pass the one that does.")

    def _check_weights(self, weights: Sequence[torch.Tensor]) -> None:
        for name, weight in zip(self._names, weights, strict=True):
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

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Masks and quantization go on with ``optimizer``, which trains the same weights in place of another one.

        Raises UnsupportedError if it does not train them.
        """
        if optimizer is self.optimizer or self._removed:
            return
        self._check_optimizer(optimizer)
        for handle in self._handles:
            handle.remove()
        self._watch(optimizer)
        if self._masks is not None:
            self._masks.follow(optimizer)
        self._forget()

    def step(self, step: int) -> None:
        """Brings masks and quantization to where the schedule wants them after ``step`` training steps."""
        if self._removed:
            return
        self.done = step
        if self._masks is not None:
            iteration, due = self._schedule.iteration(step), self._schedule.due(step)
            if self.config.sparsity * due > self.sparsity:  # a second learn() counts from 0 again: nothing comes back
                self._prune(due)
            self.iteration = max(self.iteration, iteration)
        if self.config.quantizes:
            start = self.config.quantize_start * self.steps
            if self.phase is Phase.FLOAT and step >= start - self.config.observe * self.steps:
                self._set_phase(Phase.OBSERVE)
            if self.phase is Phase.OBSERVE and step >= start:
                self._set_phase(Phase.QUANTIZE)

    def layer_status(self) -> list[LayerStatus]:
        """Present and final sparsity of every pruned layer."""
        weights = self._masks.weights if self._masks is not None else [n.module.weight for n in self._layers]
        return [
            LayerStatus(name, 1.0 - int(torch.count_nonzero(weight)) / weight.numel(), zeros / weight.numel())
            for name, weight, zeros in zip(self._names, weights, self.target_zeros, strict=False)
        ]

    def ranges(self) -> dict[str, float]:
        """Largest magnitude with a code, for the output of each quantized layer."""
        found = {}
        for node in self.graph.layers:
            quantizer = getattr(node.module, "policypress_quantizer", None)
            if quantizer is not None and quantizer.output is not None:
                found[node.name] = float(quantizer.output.limit)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Where compression stands, in JSON values. Masks are where weights are zero; ranges are the network's own."""
        return {"iteration": self.iteration, "phase": self.phase.name, "sparsity": self.sparsity, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to ``state``; the network's weights must be loaded already, its ranges afterwards."""
        self.iteration, self.done = int(state["iteration"]), int(state.get("done", 0))
        if self._masks is not None and state["sparsity"] > 0.0:
            self._masks.masks = [weight != 0 for weight in self._masks.weights]  # so that they go first
            self._prune(self._schedule.fraction(self.iteration))
        self._set_phase(Phase[state["phase"]])

    def remove(self) -> None:
        """Gives the network its plain layers back and stops enforcing masks; present weights stay."""
        self._removed = True
        self._set_phase(Phase.FLOAT)
        for handle in self._handles:
            handle.remove()
        if self._masks is not None:
            self._masks.remove()

    def _before_step(self, *_: Any) -> None:
        price = self.config.rate_weight
        if price and self.phase is Phase.QUANTIZE:
            weights = sum(node.module.weight.numel() for node in self._layers)
            for node in self._layers:
                node.module.add_rate_gradient(price / weights)  # type: ignore[operator]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.phase is not Phase.QUANTIZE:
            return
        self._updates += 1
        self._forget()
        learned = self.config.weight_range == "learned" and self._updates % STEP_STRIDE == 0
        if learned:
            rate = float(optimizer.param_groups[0]["lr"])
            for node in self._layers:
                node.module.policypress_quantizer.learn_step(_STEP_RATE * STEP_STRIDE * rate)  # type: ignore[union-attr, operator]

    def _forget(self) -> None:
        if self.phase is Phase.QUANTIZE:
            for node in self.graph.layers:
                node.module.forget()  # type: ignore[operator]

    def _prune(self, due: float) -> None:
        assert self._masks is not None
        self.sparsity = self.config.sparsity * due
        scores = [
            # What is pruned already is worth less than any live weight, also less than a live zero.
            torch.where(mask, worth, -1.0)
            for worth, mask in zip(self._scores(self._masks.weights), self._masks.masks, strict=True)
        ]
        if self.config.allocation == "global":
            zeros = _global_zeros(scores, self.sparsity)
        else:
            zeros = [round(count * due) for count in self.target_zeros]
        masks = [top_k_mask(value, count) for value, count in zip(scores, zeros, strict=True)]
        if self.config.allocation == "global":
            self.target_zeros = zeros
        self._masks.update(masks)
        for target in self._targets:
            with torch.no_grad():
                for node, mask in zip(target.layers, masks, strict=False):
                    node.module.weight.mul_(mask)

    def _scores(self, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.config.criterion == "flow":
            scores = flow(self.graph.nodes)
            return [scores[node.name] for node in self._layers]
        return [score(self.config.criterion, weight, self._generator) for weight in weights]

    def _set_phase(self, phase: Phase) -> None:
        was, self.phase = self.phase, phase
        active = phase is Phase.QUANTIZE
        for graph in (self.graph, *self._targets):
            if was is Phase.FLOAT and phase is not Phase.FLOAT:
                self._insert_quantizers(graph)
            for node in graph.layers:
                if phase is Phase.FLOAT and was is not Phase.FLOAT:
                    node.replace(plain_layer(node.module))
                elif phase is not Phase.FLOAT:
                    node.module.active = active  # type: ignore[assignment]
            for residual in _residuals(graph.nodes):
                if phase is Phase.FLOAT:
                    residual.block.add = Add()
                else:
                    residual.block.add.active = active  # type: ignore[assignment]
            for tanh in _tanhs(graph.nodes):
                module = tanh.module
                if isinstance(module, FakeQuantTanh):  # nn.Tanh where activations stay float
                    module.active = active
                    if phase is Phase.FLOAT:
                        tanh.replace(nn.Tanh())
        if active:
            for node in self.graph.layers:
                node.module.update_step()  # type: ignore[operator]

    def _insert_quantizers(self, graph: Graph) -> None:
        """Swaps layers for fake-quantized ones; those of target networks follow the deployed network's."""
        if graph is not self.graph:
            for node, deployed in zip(graph.layers, self.graph.layers, strict=True):
                follower = deployed.module.policypress_quantizer.follower()  # type: ignore[union-attr, operator]
                node.replace(quantized_layer(node.module, follower, active=False))
            for block, deployed_block in zip(_residuals(graph.nodes), _residuals(self.graph.nodes), strict=True):
                block.block.add = deployed_block.block.add
            for tanh, deployed_tanh in zip(_tanhs(graph.nodes), _tanhs(self.graph.nodes), strict=True):
                tanh.replace(deployed_tanh.module)
            return
        config = self.config
        source: ActivationQuantizer | None = None
        if config.activation_bits:
            if self._image:
                source = ActivationQuantizer(config.input_bits, signed=False, fixed_limit=1.0)
            else:
                first = graph.layers[0].module
                if isinstance(first, nn.Linear):
                    begin = next(node for node in graph.nodes if not isinstance(node, FlattenNode))
                    source = InputQuantizer(config.input_bits, first.in_features, shifts=begin is graph.layers[0])
                else:
                    source = ActivationQuantizer(config.input_bits, signed=True, coarse=True)
        self._quantize_chain(graph.nodes, source, graph.layers)

    def _quantize_chain(
        self, nodes: Sequence[Node], source: ActivationQuantizer | None, layers: Sequence[LayerNode]
    ) -> ActivationQuantizer | None:
        config = self.config
        for node, following in zip(nodes, (*nodes[1:], None), strict=True):
            if isinstance(node, LayerNode):
                output = None
                if source is not None and isinstance(following, TanhNode):
                    output = tanh_input()
                elif source is not None and node is not layers[-1]:
                    reach = node.reach if node.reach < math.inf else None
                    output = ActivationQuantizer(config.activation_bits, signed=not node.relu, fixed_limit=reach)
                quantizer = LayerQuantizer(
                    config.weight_bits,
                    weight_channels(node.module, config.granularity),
                    "minmax" if node.fixed else config.weight_range,
                    source,
                    output,
                    owns_source=source is not None and node is layers[0],
                )
                node.replace(quantized_layer(node.module, quantizer, active=False))
                source = output
            elif isinstance(node, TanhNode) and source is not None:
                tanh = FakeQuantTanh(config.activation_bits)
                node.replace(tanh)
                source = tanh.output
            elif isinstance(node, ResidualNode):
                branch = self._quantize_chain(node.body, source, layers)
                if source is not None and branch is not None:
                    output = ActivationQuantizer(config.activation_bits, signed=True)
                    node.block.add = FakeQuantAdd(source, branch, output)
                    source = output
        return source


def _global_zeros(scores: Sequence[torch.Tensor], sparsity: float) -> list[int]:
    """Zeros per layer when the lowest scores of all layers go first; every layer keeps its best weight."""
    protected = []
    for value in scores:
        flat = value.flatten().clone()
        flat[flat.argmax()] = torch.inf
        protected.append(flat)
    everything = torch.cat(protected)
    mask = top_k_mask(everything, round(sparsity * everything.numel()))
    return [int((~part).sum()) for part in mask.split([flat.numel() for flat in protected])]


def _residuals(nodes: Sequence[Node]) -> list[ResidualNode]:
    """Every residual block, those inside others included."""
    found = []
    for node in nodes:
        if isinstance(node, ResidualNode):
            found += [node, *_residuals(node.body)]
    return found


def _tanhs(nodes: Sequence[Node]) -> list[TanhNode]:
    """Every Tanh, those inside residual blocks included."""
    found = []
    for node in nodes:
        if isinstance(node, TanhNode):
            found.append(node)
        elif isinstance(node, ResidualNode):
            found += _tanhs(node.body)
    return found
