"""What a weight is worth: the least valuable are pruned first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from policypress.compression.graph import (
    ActivationNode,
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
)
from policypress.compression.saliency import Saliency
from policypress.config import Criterion
from policypress.errors import UnsupportedError, unknown


def scores(
    criterion: Criterion,
    weights: Sequence[torch.Tensor],
    graphs: Sequence[Graph],
    generator: torch.Generator,
    saliency: Saliency | None = None,
) -> list[torch.Tensor]:
    """Scores of each weight's shape, the lowest go first; "flow" looks at the ``graphs`` that the weights are part of,
    ``generator`` decides for "random", and criteria by training have added up in ``saliency``."""
    match criterion:
        case "magnitude":
            return [weight.detach().abs() for weight in weights]
        case "random":
            return [torch.rand(weight.shape, generator=generator).to(weight.device) for weight in weights]
        case "flow":
            found: dict[int, torch.Tensor] = {}
            for graph in graphs:
                by_name = flow(graph.nodes)
                found |= {id(node.module.weight): by_name[node.name] for node in graph.layers}
            return [found[id(weight)] for weight in weights]
        case "movement" | "snip" | "grasp" | "activation":
            assert saliency is not None
            return saliency.scores()
        case _:
            unknown(criterion)


@torch.no_grad()
def flow(nodes: Sequence[Node]) -> dict[str, torch.Tensor]:
    """Score of every weight, by the name of its layer: over all paths from input to output that lead through it, the
    sum of the products of the magnitudes on the way. Float64.

    A weight is worth little where the units before or behind it have lost theirs: what is left gathers in few units,
    and whole units become free. The scores of layers that follow one another have the same sum, so they can be ranked
    together. Source: Tanaka et al. 2020 (SynFlow).
    """
    first = next(node for node in nodes if isinstance(node, LayerNode)).module.weight
    layers: list[_Flow] = []
    outputs = _forward(nodes, torch.ones(first.shape[1], dtype=torch.float64, device=first.device), layers)
    scores: dict[str, torch.Tensor] = {}
    _backward(nodes, torch.ones_like(outputs), layers, scores)
    return scores


_THROUGH_TIME = "criterion=flow follows no path through time: use magnitude for recurrent networks."
_THROUGH_NORM = "criterion=flow follows no path through a LayerNorm: use magnitude for networks that have one."


class _Flow(NamedTuple):
    """A layer's magnitudes (out, in, ...) and what flows into each of its inputs (in,)."""

    name: str
    weight: torch.Tensor
    inputs: torch.Tensor


def _forward(nodes: Sequence[Node], x: torch.Tensor, layers: list[_Flow]) -> torch.Tensor:
    """What flows out of ``nodes``, for ``x`` that flows in; ``layers`` grows by each layer in its order."""
    for node in nodes:
        match node:
            case LayerNode():
                weight = node.module.weight.double().abs()
                inputs = x.repeat_interleave(weight.shape[1] // len(x))  # a channel, once flattened, is its positions
                layers.append(_Flow(node.name, weight, inputs))
                x = _matrix(weight) @ inputs
            case ResidualNode():
                x = x + _forward(node.body, x, layers)
            case CellNode() | FramesNode():
                raise UnsupportedError(_THROUGH_TIME)
            case NormNode():
                raise UnsupportedError(_THROUGH_NORM)
            case ReluNode() | ActivationNode() | FlattenNode() | PoolNode():
                pass
            case _:
                unknown(node)
    return x


def _backward(
    nodes: Sequence[Node], out: torch.Tensor, layers: list[_Flow], scores: dict[str, torch.Tensor]
) -> torch.Tensor:
    """What flows on from the inputs of ``nodes``, for ``out`` that flows on behind them; empties ``layers``."""
    for node in reversed(nodes):
        match node:
            case LayerNode():
                layer = layers.pop()
                behind = out.reshape(len(layer.weight), -1).sum(1)
                ones = [1] * (layer.weight.dim() - 2)
                scores[layer.name] = behind.reshape(-1, 1, *ones) * layer.weight * layer.inputs.reshape(1, -1, *ones)
                out = _matrix(layer.weight).t() @ behind
            case ResidualNode():
                out = out.reshape(len(layers[-1].weight), -1).sum(1)
                out = out + _backward(node.body, out, layers, scores)
            case CellNode() | FramesNode():
                raise UnsupportedError(_THROUGH_TIME)
            case NormNode():
                raise UnsupportedError(_THROUGH_NORM)
            case ReluNode() | ActivationNode() | FlattenNode() | PoolNode():
                pass
            case _:
                unknown(node)
    return out


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(2).sum(2) if weight.dim() > 2 else weight
