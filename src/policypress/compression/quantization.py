"""When a network's layers measure their ranges, and when they compute in integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import nn

from policypress.compression.activations import FakeQuantTanh, tanh_input
from policypress.compression.fake_quant import STEP_STRIDE, FakeQuantAdd, plain_layer, quantized_layer, weight_channels
from policypress.compression.graph import Add, FlattenNode, Graph, LayerNode, Node, ResidualNode, TanhNode
from policypress.compression.ranges import ActivationQuantizer, InputQuantizer
from policypress.compression.weight_steps import LayerQuantizer
from policypress.config import CompressionConfig

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
        """JSON values; the ranges are the network's own."""
        return {"phase": self.phase.name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._set_phase(Phase[state["phase"]])

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
