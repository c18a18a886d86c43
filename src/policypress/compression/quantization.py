"""When a network's layers measure their ranges, and when they compute in integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import nn

from policypress.compression.activations import FakeQuantActivation, Source, TableRange, activation_input
from policypress.compression.fake_quant import (
    STEP_STRIDE,
    FakeQuantAdd,
    FakeQuantConv2d,
    FakeQuantLinear,
    plain_layer,
    quantized_layer,
    weight_channels,
)
from policypress.compression.graph import (
    ActivationNode,
    Add,
    CellNode,
    FlattenNode,
    FramesNode,
    Graph,
    LayerNode,
    Node,
    NormNode,
    PoolNode,
    ReluNode,
    ResidualNode,
    check_pressable,
    walk,
)
from policypress.compression.ranges import ActivationQuantizer, InputQuantizer
from policypress.compression.recurrent import FramesQuantizer, Recurrent, part_range
from policypress.compression.weight_steps import LayerQuantizer
from policypress.config import CompressionConfig
from policypress.errors import unknown

_COUNTING = (FakeQuantLinear, FakeQuantConv2d, FakeQuantAdd, Recurrent)
_STEP_RATE = 0.1  # learning rate of the logarithm of a weight step over that of the weights


class Phase(Enum):
    """What quantization is doing: nothing, measuring ranges, or computing in integers."""

    FLOAT = 0
    OBSERVE = 1
    QUANTIZE = 2


class Quantization:
    """Fake quantization of ``graph``, which ``optimizer`` trains, and of ``targets``, Graphs of target networks.

    ``steps``: the nominal training steps that the config's fractions refer to. ``image`` inputs are in [0, 1].
    """

    def __init__(
        self,
        graph: Graph,
        optimizer: torch.optim.Optimizer,
        config: CompressionConfig,
        steps: int,
        *,
        targets: Sequence[Graph] = (),
        image: bool = False,
    ) -> None:
        self.graph, self.config, self.steps, self.phase = graph, config, steps, Phase.FLOAT
        self._targets, self._image = tuple(targets), image
        self._trained = [node for node in graph.layers if not node.fixed]
        self._updates = 0
        self._watch(optimizer)

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Goes on with ``optimizer``, which trains the same weights in place of another one."""
        for handle in self._handles:
            handle.remove()
        self._watch(optimizer)
        self._forget()

    def step(self, step: int) -> None:
        """Brings the phase to where the config wants it after ``step`` training steps."""
        if not self.config.quantizes:
            return
        start = self.config.quantize_start * self.steps
        if self.phase is Phase.FLOAT and step >= start - self.config.observe * self.steps:
            self._set_phase(Phase.OBSERVE)
        if self.phase is Phase.OBSERVE and step >= start:
            self._set_phase(Phase.QUANTIZE)

    def ranges(self) -> dict[str, float]:
        """Largest magnitude with a code, for the output of each quantized layer."""
        found = {}
        for node in self.graph.layers:
            quantizer = getattr(node.module, "policypress_quantizer", None)
            if quantizer is not None and quantizer.output is not None:
                found[node.name] = float(quantizer.output.limit)
        return found

    def state_dict(self) -> dict[str, Any]:
        """JSON values; the ranges are the network's own. ``counts``: where everything stands that is done once in
        STEP_STRIDE passes or updates, with the gradients of learned steps since the last time, if anything is."""
        if not self._counting():
            return {"phase": self.phase.name}
        gradients = [quantizer.gradient for quantizer in self._quantizers()]
        counts = {
            "passes": [module.passes for module in self._counting()],
            "updates": self._updates,
            "gradients": [None if one is None else one.tolist() for one in gradients],
        }
        return {"phase": self.phase.name, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._set_phase(Phase[state["phase"]])
        counts = state.get("counts")
        if counts is None:  # nothing counts, or an earlier version did not say: they begin anew
            return
        self._updates = counts["updates"]
        for module, passes in zip(self._counting(), counts["passes"], strict=True):
            module.passes = passes
        for quantizer, values in zip(self._quantizers(), counts["gradients"], strict=True):
            quantizer.gradient = None if values is None else quantizer.step.new_tensor(values)

    def _quantizers(self) -> list[LayerQuantizer]:
        return [
            layer.policypress_quantizer
            for layer in self._counting()
            if isinstance(layer, FakeQuantLinear | FakeQuantConv2d)
        ]

    def _counting(self) -> list[FakeQuantLinear | FakeQuantConv2d | FakeQuantAdd | Recurrent]:
        """Everything that measures a range in one training pass of STEP_STRIDE."""
        modules = [
            *(node.module for node in self.graph.layers),
            *(residual.block.add for residual in _residuals(self.graph)),
            *_cells(self.graph),
        ]
        return [module for module in modules if isinstance(module, _COUNTING)]

    def remove(self) -> None:
        """Gives the network its plain layers back."""
        self._set_phase(Phase.FLOAT)
        for handle in self._handles:
            handle.remove()

    def _before_step(self, *_: Any) -> None:
        price = self.config.rate_weight
        if price and self.phase is Phase.QUANTIZE:
            weights = sum(node.module.weight.numel() for node in self._trained)
            for node in self._trained:
                node.module.add_rate_gradient(price / weights)  # type: ignore[operator]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.phase is not Phase.QUANTIZE:
            return
        self._updates += 1
        self._forget()
        learned = self.config.weight_range == "learned" and self._updates % STEP_STRIDE == 0
        if learned:
            rate = float(optimizer.param_groups[0]["lr"])
            for node in self._trained:
                node.module.policypress_quantizer.learn_step(_STEP_RATE * STEP_STRIDE * rate)  # type: ignore[union-attr, operator]

    def _forget(self) -> None:
        if self.phase is Phase.QUANTIZE:
            for node in self.graph.layers:
                node.module.forget()  # type: ignore[operator]

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
            for residual in _residuals(graph):
                if phase is Phase.FLOAT:
                    residual.block.add = Add()
                else:
                    residual.block.add.active = active  # type: ignore[assignment]
            for cell in _cells(graph):
                cell.active = active and cell.ranges is not None
                if phase is Phase.FLOAT:
                    cell.ranges = None
            for activation in _activations(graph):
                module = activation.module
                if isinstance(module, FakeQuantActivation):  # a plain one where activations stay float
                    module.active = active
                    if phase is Phase.FLOAT:
                        activation.replace(module.plain)
        if active:
            for node in self.graph.layers:
                node.module.update_step()  # type: ignore[operator]

    def _insert_quantizers(self, graph: Graph) -> None:
        """Swaps layers for fake-quantized ones; those of target networks follow the deployed network's."""
        if graph is not self.graph:
            for node, deployed in zip(graph.layers, self.graph.layers, strict=True):
                follower = deployed.module.policypress_quantizer.follower()  # type: ignore[union-attr, operator]
                node.replace(quantized_layer(node.module, follower, active=False))
            for block, deployed_block in zip(_residuals(graph), _residuals(self.graph), strict=True):
                block.block.add = deployed_block.block.add
            for cell, deployed_cell in zip(_cells(graph), _cells(self.graph), strict=True):
                cell.ranges = deployed_cell.ranges
            for activation, deployed_one in zip(_activations(graph), _activations(self.graph), strict=True):
                if isinstance(deployed_one.module, FakeQuantActivation):
                    activation.replace(FakeQuantActivation(activation.module, deployed_one.module.output))
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
                    if isinstance(begin, FramesNode):
                        frames = begin.module.frames
                        source = FramesQuantizer(config.input_bits, first.in_features // frames, frames)
                else:
                    source = ActivationQuantizer(config.input_bits, signed=True, coarse=True)
        self._quantize_chain(graph.nodes, source, graph.layers)

    def _quantize_chain(
        self, nodes: Sequence[Node], source: Source | None, layers: Sequence[LayerNode]
    ) -> Source | None:
        """Quantizes ``nodes``, whose input has the range ``source``; returns that of what they give."""
        bits = self.config.activation_bits
        for place, node in enumerate(nodes):
            match node:
                case LayerNode():
                    output: ActivationQuantizer | None = None
                    if source is not None and node is not layers[-1]:
                        reach = node.reach if node.reach < math.inf else None
                        usual = ActivationQuantizer(bits, signed=not node.relu, fixed_limit=reach)
                        output = _for_activation(nodes[place + 1 :], signed=not node.relu, layer=True) or usual
                    self._quantize_layer(node, source, output, layers)
                    source = output
                case CellNode():
                    if source is None:
                        for layer in node.layers:
                            self._quantize_layer(layer, None, None, layers)
                        continue
                    node.cell.quantize()
                    own = node.cell.state_ranges()[0]
                    for layer, taken in zip(node.layers, (source, own), strict=True):
                        self._quantize_layer(layer, taken, part_range(), layers)
                    source = own
                case ActivationNode():
                    if source is not None:
                        source = TableRange(node.function, node.parameters, bits, source)
                        node.replace(FakeQuantActivation(node.module, source))
                case ResidualNode():
                    branch = self._quantize_chain(node.body, source, layers)
                    if source is not None and branch is not None:
                        usual = ActivationQuantizer(bits, signed=True)
                        output = _for_activation(nodes[place + 1 :], signed=True, layer=False) or usual
                        node.block.add = FakeQuantAdd(source, branch, output)
                        source = output
                case NormNode():
                    check_pressable(self.graph)
                case ReluNode() | FlattenNode() | PoolNode() | FramesNode():
                    pass
                case _:
                    unknown(node)
        return source

    def _quantize_layer(
        self, node: LayerNode, source: Source | None, output: ActivationQuantizer | None, layers: Sequence[LayerNode]
    ) -> None:
        quantizer = LayerQuantizer(
            self.config.weight_bits,
            weight_channels(node.module, self.config.granularity),
            "minmax" if node.fixed else self.config.weight_range,
            source,
            output,
            owns_source=source is not None and node is layers[0],
        )
        node.replace(quantized_layer(node.module, quantizer, active=False))


def _for_activation(following: Sequence[Node], *, signed: bool, layer: bool) -> ActivationQuantizer | None:
    """The range of what a ``layer`` (or a sum) gives if an activation takes it, the next of the ``following`` nodes
    or behind those that keep codes as they are."""
    for place, node in enumerate(following):
        if isinstance(node, ActivationNode):
            return activation_input(node.function, node.parameters, signed=signed, at_once=layer and place == 0)
        if not isinstance(node, ReluNode | FlattenNode | PoolNode):
            break
    return None


def _residuals(graph: Graph) -> list[ResidualNode]:
    return [node for node in walk(graph.nodes) if isinstance(node, ResidualNode)]


def _cells(graph: Graph) -> list[Recurrent]:
    return [node.cell for node in walk(graph.nodes) if isinstance(node, CellNode)]


def _activations(graph: Graph) -> list[ActivationNode]:
    return [node for node in walk(graph.nodes) if isinstance(node, ActivationNode)]
