"""The network that is trained to stand in for another one: its copy, or a narrower one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from policypress.compression.activations import module_of, named
from policypress.compression.fake_quant import FakeQuantConv2d, FakeQuantLinear
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
    Residual,
    ResidualNode,
    check_pressable,
    clip_layers,
)
from policypress.config import Hidden
from policypress.errors import ConfigError, UnsupportedError, unknown

State = list[list[torch.Tensor]]

_RIDGE = 1e-3  # of the inputs' variance
_LEAST_SPREAD = 1e-3  # of the largest


def forward(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    """Outputs of the deployed path, before any action transform, for preprocessed observations (n, ...)."""
    for node in graph.nodes:
        x = _apply(node, x)
    return x if graph.limit == math.inf else x.clamp(-graph.limit, graph.limit)


def unroll(
    graph: Graph, x: torch.Tensor, starts: torch.Tensor | None = None, state: State | None = None
) -> tuple[torch.Tensor, State]:
    """``forward`` of sequences: outputs (steps, rows, outputs) for observations (steps, rows, ...), and the state
    behind the last step, a list of vectors (rows, values) for each node that remembers.

    ``starts`` (steps, rows), bool: where an episode begins. ``state``: before the first step; None: one begins.
    """
    given, after = iter(state or []), list[list[torch.Tensor]]()
    steps, rows = x.shape[:2]
    x = x.flatten(0, 1)
    for node in graph.nodes:
        if isinstance(node, CellNode | FramesNode):
            module = node.cell if isinstance(node, CellNode) else node.module
            x, kept = module.unroll(x.view(steps, rows, -1), starts, next(given, None))
            after.append(kept)
            x = x.flatten(0, 1)
        else:
            x = _apply(node, x)
    x = x if graph.limit == math.inf else x.clamp(-graph.limit, graph.limit)
    return x.view(steps, rows, *x.shape[1:]), after


def hidden_widths(graph: Graph) -> tuple[int, ...]:
    """Outputs of every layer but the last: units of Linear layers, channels of convolutions."""
    return tuple(len(node.module.weight) for node in graph.layers[:-1])


@torch.no_grad()
def student(
    graph: Graph, hidden: Hidden, observations: torch.Tensor, *, clips: bool = True, activation: str = ""
) -> nn.Sequential:
    """A network like ``graph``'s, but its last hidden layers are ``hidden`` wide (empty: an exact copy; "none": it is
    ``linear``, and clips nothing).

    Each narrowed layer keeps the units that matter most, with their weights: those whose activation varies most on
    ``observations`` (preprocessed, (n, ...)), times the norm of the weights that read them. A network of Linear layers
    may also get another number of hidden layers; it then starts from fresh weights, as one does that is to do without
    the LayerNorms of ``graph``, of which there is no copy, or one whose hidden layers have another ``activation`` than
    its own (a name that ``activations.named`` knows; "": its own, "relu" in fresh ones). Where ``graph`` clips its
    outputs the student has two small layers more that do so too, unless ``clips`` is False. Raises ConfigError if the
    widths do not fit the network, UnsupportedError for a copy that there is none of.
    """
    if hidden == "none":
        return linear(observations, forward(graph, observations.to(graph.layers[0].module.weight)))
    modules = _unclipped(graph, hidden, observations, activation)
    if clips and graph.limit < math.inf:
        modules[-1:] = clip_layers(modules[-1], graph.limit)
    return nn.Sequential(*modules)


def _unclipped(graph: Graph, hidden: tuple[int, ...], observations: torch.Tensor, activation: str) -> list[Any]:
    widths = hidden_widths(graph)
    if starts_afresh(graph, hidden, activation):
        first, last = graph.layers[0].module.weight, graph.layers[-1].module.weight
        return list(fresh(first.shape[1], hidden, len(last), activation or "relu"))
    if activation:
        raise ConfigError(
            "hidden_activation is for students of new hidden layers (--hidden 24,24) of an agent whose own layers are "
            "Linear ones: this one keeps the functions of its agent, leave it out."
        )
    check_pressable(graph)
    if len(hidden) > len(widths):
        raise ConfigError(f"hidden={_listed(hidden)} names more layers than the network has: {_listed(widths)}.")
    target = (*widths[: len(widths) - len(hidden)], *hidden)
    observations = observations.to(graph.layers[0].module.weight)  # half weights see half numbers
    return list(_narrowed(graph, target, observations))


def starts_afresh(graph: Graph, hidden: Hidden, activation: str = "") -> bool:
    """Whether such a ``student`` takes none of its teacher's weights over, so that it must be trained."""
    kinds = LayerNode | ReluNode | ActivationNode | NormNode | FlattenNode
    linear = all(isinstance(node, kinds) for node in graph.nodes) and all(
        isinstance(node.module, nn.Linear) for node in graph.layers
    )
    if not linear or not hidden or hidden == "none":
        return False
    return bool(activation) or len(hidden) != len(hidden_widths(graph)) or graph.norm is not None


def _apply(node: Node, x: torch.Tensor) -> torch.Tensor:
    match node:
        case LayerNode():
            x = _layer_outputs(node.module, x)
            return x.relu() if node.relu else x
        case ReluNode():
            return x.relu()
        case ActivationNode():
            # Without hooks, and not in place: what the function itself gives.
            return node.module.forward(x.clone() if getattr(node.module, "inplace", False) else x)  # type: ignore[no-any-return]
        case NormNode():
            return node.module.forward(x)
        case FlattenNode():
            return x.flatten(1)
        case PoolNode():
            return F.max_pool2d(x, node.kernel, node.stride, node.padding)
        case ResidualNode():
            return node.block.add(x, forward(Graph(node.body), x))  # type: ignore[no-any-return]
        case CellNode():
            return node.cell(x)  # type: ignore[no-any-return]
        case FramesNode():
            return node.module(x)  # type: ignore[no-any-return]
        case _:
            unknown(node)


def _layer_outputs(module: nn.Linear | nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What the weights alone give: a subclass may do something else in its forward, and hooks may change it."""
    if isinstance(module, FakeQuantLinear | FakeQuantConv2d):
        return module(x)  # type: ignore[no-any-return]
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, module.weight, module.bias, module.stride, module.padding)
    return F.linear(x, module.weight, module.bias)


def _narrowed(graph: Graph, widths: Sequence[int], x: torch.Tensor) -> Iterator[nn.Module]:
    layers = list(graph.layers)
    wanted = dict(zip(map(id, layers), (*widths, len(layers[-1].module.weight)), strict=True))
    reader_of = {id(node): after for node, after in _neighbours(graph.nodes)}
    kept = torch.arange(x.shape[1])
    for node in graph.nodes:
        before, x = x, _apply(node, x)
        match node:
            case LayerNode():
                count, units = wanted[id(node)], len(node.module.weight)
                chosen = torch.arange(units)
                if count != units:
                    if id(node) not in reader_of or not 1 <= count <= units:
                        raise ConfigError(
                            f"{graph.label(node)} of {units} units cannot become {count} wide: give 1 to {units}, and "
                            "leave layers beside residual blocks as they are."
                        )
                    chosen = _most_important(x, reader_of[id(node)].module.weight, count)
                yield _layer(node.module, chosen, kept)
                kept = chosen
                if node.relu:
                    yield nn.ReLU()
            case FlattenNode():
                positions = math.prod(before.shape[2:])
                kept = (kept[:, None] * positions + torch.arange(positions)).flatten()
                yield nn.Flatten()
            case ResidualNode():
                if any(wanted[id(inner)] != len(inner.module.weight) for inner in Graph(node.body).layers):
                    raise ConfigError(
                        "layers inside residual blocks keep their width: name the layers behind them only."
                    )
                yield Residual(nn.Sequential(*_narrowed(Graph(node.body), hidden_widths(Graph(node.body)), before)))
            case PoolNode():
                yield nn.MaxPool2d(node.kernel, node.stride, node.padding)
            case ReluNode():
                yield nn.ReLU()
            case ActivationNode():
                yield module_of(node.function, node.parameters)
            case NormNode():
                check_pressable(graph)
            case CellNode() | FramesNode():
                within = node.layers if isinstance(node, CellNode) else ()
                narrower = any(wanted[id(layer)] != len(layer.module.weight) for layer in within)
                if narrower or len(kept) < before.shape[1]:
                    raise UnsupportedError("what remembers has no narrower copy: train a student of its own.")
                yield copy.deepcopy(node.cell if isinstance(node, CellNode) else node.module)
                kept = torch.arange(x.shape[1])
            case _:
                unknown(node)


def _neighbours(nodes: Sequence[Node]) -> Iterator[tuple[LayerNode, LayerNode]]:
    """Layers whose units one other layer alone reads, and that layer."""
    last: LayerNode | None = None
    for node in nodes:
        if isinstance(node, LayerNode):
            if last is not None:
                yield last, node
            last = node
        elif isinstance(node, ResidualNode):
            last = None


def _most_important(activations: torch.Tensor, reader: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of ``count`` units, in their order."""
    units = activations.shape[1]
    spread = activations.transpose(0, 1).reshape(units, -1).std(dim=1)
    read = reader.reshape(len(reader), units, -1).square().sum(dim=(0, 2)).sqrt()
    return (spread * read).topk(count).indices.sort().values


def _layer(module: nn.Linear | nn.Conv2d, outputs: torch.Tensor, inputs: torch.Tensor) -> nn.Module:
    weight = module.weight[outputs][:, inputs]
    made: nn.Linear | nn.Conv2d
    kind: Any = {"bias": module.bias is not None, "dtype": torch.float32}
    if isinstance(module, nn.Conv2d):
        shape: Any = (module.kernel_size, module.stride, module.padding)
        made = nn.Conv2d(weight.shape[1], weight.shape[0], *shape, **kind)
    else:
        made = nn.Linear(weight.shape[1], weight.shape[0], **kind)
    made.weight.copy_(weight)
    if module.bias is not None and made.bias is not None:
        made.bias.copy_(module.bias[outputs])
    return made


def fresh(inputs: int, hidden: Sequence[int], outputs: int, activation: str = "relu") -> nn.Sequential:
    """A network of Linear layers with ``activation`` between them, from fresh weights; observations (n, ...) are
    flattened."""
    modules: list[nn.Module] = []
    for before, after in pairwise([inputs, *hidden, outputs]):
        modules += [nn.Linear(before, after, dtype=torch.float32), named(activation)]
    return nn.Sequential(nn.Flatten(), *modules[:-1])


@torch.no_grad()
def linear(observations: torch.Tensor, outputs: torch.Tensor) -> nn.Sequential:
    """One Linear layer behind a Flatten, fitted to ``outputs`` (n, outputs) of ``observations`` (n, ...).

    Ridge regression (Hoerl and Kennard 1970) on inputs in units of their spread, so that none that hardly varies gets
    large weights.
    """
    x, y = observations.flatten(1).double(), outputs.double()
    spread = x.std(0, correction=0)
    spread = spread.clamp(min=max(_LEAST_SPREAD * float(spread.max()), 1e-6))
    z, wanted = (x - x.mean(0)) / spread, y - y.mean(0)
    penalty = _RIDGE * len(z)
    if z.shape[1] <= len(z):
        fitted = torch.linalg.solve(z.T @ z + penalty * torch.eye(z.shape[1]).double(), z.T @ wanted)
    else:  # the same, by the smaller matrix
        fitted = z.T @ torch.linalg.solve(z @ z.T + penalty * torch.eye(len(z)).double(), wanted)
    layer = nn.Linear(x.shape[1], y.shape[1], dtype=torch.float32)
    layer.weight.copy_((fitted / spread[:, None]).T)
    layer.bias.copy_(y.mean(0) - x.mean(0) @ (fitted / spread[:, None]))
    return nn.Sequential(nn.Flatten(), layer)


def _listed(widths: Iterable[int]) -> str:
    return ",".join(map(str, widths))
