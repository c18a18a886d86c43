"""What runs in which order: a network's deployed path as a chain of nodes, found from its modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from policypress.compression.activations import Parameters, function_of
from policypress.compression.recurrent import Frames, Recurrent
from policypress.errors import UnsupportedError
from policypress.policy.activations import FUNCTIONS
from policypress.policy.description import labelled, layer_titles

_BARE = "a bare layer cannot be pressed: wrap it in nn.Sequential."


class Add(nn.Module):
    """``x + y``; a module so that a quantizing one can take its place."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Residual(nn.Module):
    """``x + body(x)``, shape unchanged."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.add: nn.Module = Add()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add(x, self.body(x))  # type: ignore[no-any-return]


class FixedLinear(nn.Linear):
    """A layer that spells out a function, here a clip: neither trained nor pruned."""

    @classmethod
    @torch.no_grad()
    def minus(cls, values: torch.Tensor, constant: float) -> FixedLinear:
        """``constant - x`` for as many x as ``values`` has, in its type and on its device."""
        layer = cls(len(values), len(values), dtype=values.dtype, device=values.device).requires_grad_(False)
        layer.weight.copy_(-torch.eye(len(values)))
        layer.bias.fill_(constant)
        return layer


class BoundedReLU(nn.ReLU):
    """A ReLU whose outputs beyond ``reach`` make no difference to what follows, so that no code is spent on them."""

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach


@dataclass(frozen=True, eq=False)
class LayerNode:
    """A Linear or Conv2d: attribute ``attribute`` of ``owner``; ``relu`` if a ReLU follows at once.

    ``fixed``: neither trained nor pruned. ``reach``: outputs beyond it make no difference to what follows.
    """

    owner: nn.Module
    attribute: str
    name: str
    relu: bool
    fixed: bool = False
    reach: float = math.inf

    @property
    def module(self) -> nn.Linear | nn.Conv2d:
        module = self.owner._modules[self.attribute]
        assert isinstance(module, nn.Linear | nn.Conv2d)
        return module

    def replace(self, module: nn.Module) -> None:
        self.owner._modules[self.attribute] = module.train(self.module.training)


@dataclass(frozen=True)
class ReluNode:
    """A ReLU that does not follow a layer."""

    reach: float = math.inf


@dataclass(frozen=True, eq=False)
class ActivationNode:
    """An elementwise ``function`` of ``policy.activations`` with its parameters: attribute ``attribute`` of ``owner``,
    anywhere behind the first layer."""

    owner: nn.Module
    attribute: str
    name: str
    function: str
    parameters: Parameters

    @property
    def module(self) -> nn.Module:
        module = self.owner._modules[self.attribute]
        assert module is not None
        return module

    def replace(self, module: nn.Module) -> None:
        self.owner._modules[self.attribute] = module.train(self.module.training)


@dataclass(frozen=True, eq=False)
class NormNode:
    """A LayerNorm of vectors. A network with one can be frozen in float32 and be imitated, not pressed itself."""

    module: nn.LayerNorm
    name: str


@dataclass(frozen=True)
class FlattenNode:
    pass


@dataclass(frozen=True)
class PoolNode:
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ResidualNode:
    block: Residual
    body: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class CellNode:
    """A recurrent ``cell`` and the nodes of its two layers."""

    cell: Recurrent
    name: str
    layers: tuple[LayerNode, LayerNode]


@dataclass(frozen=True, eq=False)
class FramesNode:
    """The last inputs, in the place of one."""

    module: Frames


Node = LayerNode | ReluNode | ActivationNode | NormNode | FlattenNode | PoolNode | ResidualNode | CellNode | FramesNode


@dataclass(frozen=True, eq=False)
class Graph:
    """The deployed path of a network, first to last.

    ``root``: the module that answers what the nodes give one after another; None if they are parts of a larger one.
    ``limit``: outputs beyond it are clipped to it; ``clipped`` has layers for that instead.
    """

    nodes: tuple[Node, ...]
    root: nn.Module | None = None
    limit: float = math.inf

    @property
    def layers(self) -> tuple[LayerNode, ...]:
        return tuple(node for node in walk(self.nodes) if isinstance(node, LayerNode))

    @property
    def parameters(self) -> int:
        """Weights and biases of all layers, and of all LayerNorms."""
        modules = [node.module for node in walk(self.nodes) if isinstance(node, LayerNode | NormNode)]
        return sum(values.numel() for module in modules for values in module.parameters(recurse=False))

    @property
    def norm(self) -> NormNode | None:
        """The first LayerNorm; None in a network that can be pressed."""
        return next((node for node in walk(self.nodes) if isinstance(node, NormNode)), None)

    def label(self, layer: LayerNode) -> str:
        """What people call a layer of this graph, and its name in ``root``: "hidden 1 (latent_pi.0)"."""
        layers = self.layers
        title = layer_titles([isinstance(node.module, nn.Conv2d) for node in layers])[layers.index(layer)]
        return labelled(title, layer.name)


def trace(root: nn.Module, paths: Sequence[str] = ("",)) -> Graph:
    """The chain of Linear, Conv2d, ReLU, MaxPool2d, Flatten, LayerNorm, Residual and activations under ``root``.

    ``paths`` names the submodules that run one after another ("" is ``root`` itself); containers must be
    nn.Sequential. Dropout and Identity do nothing in a policy and vanish. Raises UnsupportedError for any other module,
    for an activation before the first layer or behind the last, and when there is no layer.
    """
    nodes: list[Node] = []
    for path in paths:
        owner_path, _, attribute = path.rpartition(".")
        owner = root.get_submodule(owner_path)
        nodes += _trace_module(owner if attribute else None, attribute, root.get_submodule(path), path)
    graph = Graph(tuple(_fuse_relu(nodes)), root if tuple(paths) == ("",) else None)
    if not graph.layers:
        raise UnsupportedError("the network has no Linear or Conv2d layer to press.")
    first = next(node for node in walk(graph.nodes) if isinstance(node, LayerNode | ActivationNode))
    if isinstance(first, ActivationNode):
        raise UnsupportedError(
            f"{first.function} at {first.name} comes before the first layer: apply it in the environment, by a wrapper "
            "of its observations."
        )
    if isinstance(graph.nodes[-1], ActivationNode) and graph.nodes[-1].function == "tanh":
        raise UnsupportedError(
            f"the Tanh at {graph.nodes[-1].name}, the network's end, is the action's own: leave it out, and give "
            "ActionTransform(squash=True), which applies it."
        )
    if not isinstance(graph.nodes[-1], LayerNode):
        raise UnsupportedError("the network must end in a Linear or Conv2d layer: its outputs are actions or values.")
    if len({id(node.module) for node in graph.layers}) < len(graph.layers):
        raise UnsupportedError("a layer is used in two places: give each place a layer of its own.")
    return graph


def clip_layers(last: nn.Linear, limit: float) -> list[nn.Module]:
    """What gives the outputs of ``last`` clipped to ``limit``: c - relu(2 c - relu(y + c)), exact where it clips."""
    first = copy.deepcopy(last)
    with torch.no_grad():
        if first.bias is None:
            first.bias = nn.Parameter(first.weight.new_zeros(len(first.weight)))
        first.bias.add_(limit)
    return [
        first,
        BoundedReLU(2 * limit),
        FixedLinear.minus(first.bias, 2 * limit),
        BoundedReLU(2 * limit),
        FixedLinear.minus(first.bias, limit),
    ]


def clipped(graph: Graph) -> Graph:
    """``graph``, or where its outputs are clipped one that does so by layers; its last layer is then a copy."""
    if graph.limit == math.inf:
        return graph
    *before, last = graph.nodes
    assert isinstance(last, LayerNode)
    assert isinstance(last.module, nn.Linear)
    layers = trace(nn.Sequential(*clip_layers(last.module, graph.limit))).layers
    names = (last.name, f"{last.name}.above", f"{last.name}.below")
    return Graph((*before, *(replace(layer, name=name) for layer, name in zip(layers, names, strict=True))))


def _trace_module(owner: nn.Module | None, attribute: str, module: nn.Module, name: str) -> list[Node]:
    if isinstance(module, nn.Linear | nn.Conv2d):
        if owner is None:
            raise UnsupportedError(_BARE)
        if isinstance(module, nn.Conv2d):
            check_convolution(module, name)
        return [LayerNode(owner, attribute, name, relu=False, fixed=isinstance(module, FixedLinear))]
    if isinstance(module, nn.Sequential):
        prefix = f"{name}." if name else ""
        children = module._modules.items()  # named_children() leaves out a module's second place, say a shared ReLU's
        return [
            node
            for key, child in children
            if child is not None
            for node in _trace_module(module, key, child, prefix + key)
        ]
    if isinstance(module, Residual):
        body = _trace_module(module, "body", module.body, f"{name}.body")
        if any(isinstance(node, CellNode | FramesNode) for node in walk(body)):
            raise UnsupportedError(f"the residual block at {name} holds what remembers: put that outside of it.")
        return [ResidualNode(module, tuple(_fuse_relu(body)))]
    if isinstance(module, Recurrent):
        layers = [LayerNode(module, part, f"{name}.{part}", relu=False) for part in ("input", "recurrent")]
        return [CellNode(module, name, (layers[0], layers[1]))]
    if isinstance(module, Frames):
        return [FramesNode(module)]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        raise UnsupportedError(
            f"{type(module).__name__} at {name or 'the root'} cannot be pressed as it is: put "
            "*policypress.compression.recurrent.Recurrent.of(it) in its place, which has its Parameters."
        )
    if isinstance(module, nn.ReLU):
        return [ReluNode(module.reach if isinstance(module, BoundedReLU) else math.inf)]
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) != (1, -1):
            raise UnsupportedError(
                f"Flatten at {name or 'the root'} must keep the batch alone: start_dim=1, end_dim=-1."
            )
        return [FlattenNode()]
    if isinstance(module, nn.MaxPool2d):
        if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
            raise UnsupportedError(
                f"MaxPool2d at {name or 'the root'} must have dilation=1, ceil_mode=False and return_indices=False."
            )
        return [PoolNode(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))]
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise UnsupportedError(f"the LayerNorm at {name or 'the root'} must be one of vectors, behind a Flatten.")
        return [NormNode(module, name)]
    if isinstance(module, nn.Identity | _DropoutNd):
        return []
    if (found := function_of(module)) is not None:
        if owner is None:
            raise UnsupportedError(_BARE)
        return [ActivationNode(owner, attribute, name, *found)]
    raise UnsupportedError(
        f"{type(module).__name__} at {name or 'the root'} cannot be pressed: hidden activations must be ReLU or one of "
        f"{', '.join(FUNCTIONS)}, layers Linear, Conv2d, MaxPool2d, Flatten, LayerNorm or policypress' Residual, "
        "containers nn.Sequential."
    )


def check_pressable(graph: Graph) -> None:
    """Raises UnsupportedError for a network whose own layers cannot become integers."""
    if (norm := graph.norm) is not None:
        raise UnsupportedError(
            f"the network has a LayerNorm ({norm.name or 'at its root'}), which has no form in integers, so its own "
            "layers cannot be pruned or quantized: press a student without one, by distillation, and give its widths, "
            "for example --hidden 24,24 (hidden=(24, 24))."
        )


def _fuse_relu(nodes: Sequence[Node]) -> Iterator[Node]:
    """``nodes`` with every ReLU in the layer it follows."""
    previous: Node | None = None
    for node in nodes:
        if isinstance(node, ReluNode) and isinstance(previous, LayerNode):
            previous = replace(previous, relu=True, reach=node.reach)
            continue
        if previous is not None:
            yield previous
        previous = node
    if previous is not None:
        yield previous


def walk(nodes: Sequence[Node]) -> Iterator[Node]:
    """Every node in the order it ends, those of residual blocks and the layers of cells before these."""
    for node in nodes:
        if isinstance(node, ResidualNode):
            yield from walk(node.body)
        elif isinstance(node, CellNode):
            yield from node.layers
        yield node


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def check_convolution(module: nn.Conv2d, name: str) -> None:
    """Raises UnsupportedError for what the integer engine has no kernel for."""
    if isinstance(module.padding, str):
        raise UnsupportedError(f"convolution {name} must state its padding in numbers.")
    if module.groups != 1 or _pair(module.dilation) != (1, 1) or module.padding_mode != "zeros":
        raise UnsupportedError(f"convolution {name} must have groups=1, dilation=1 and zero padding.")
    if any(p >= k for p, k in zip(_pair(module.padding), module.kernel_size, strict=True)):
        raise UnsupportedError(f"convolution {name} must have a padding smaller than its kernel.")
