"""Whether a network answers what its layers give one after another. What runs around layers - a forward of its own, a
hook - is never pressed, so it must not change anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.graph import FlattenNode, FramesNode, Graph, LayerNode, Node, PoolNode
from policypress.compression.student import forward
from policypress.errors import UnsupportedError

SCALES = (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Of the observations on which answers are compared: what runs around layers may show on large ones alone."""
TOLERANCE = 1e-4
"""Of the largest answer. Rounding in another order stays below a tenth of it."""
_HALF_TOLERANCE = 16.0  # in units of the last place: layers of half precision round after each of them
_SMALLEST = 1e-6
_HALF_SCALE = 10.0  # beyond, float16 overflows
_VALUES = 4096  # at most, in the observations of one scale
_COUNT = 16
_LARGEST_IMAGE = 512


def probes(
    shape: tuple[int, ...], image: bool = False, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Scales, and observations (n, *shape) of each as the network sees them, within what weights of ``dtype`` can take;
    always the same ones."""
    random = np.random.default_rng(0)
    count = max(2, min(_COUNT, _VALUES // math.prod(shape)))
    for scale in SCALES:
        if scale > _HALF_SCALE and dtype == torch.float16:
            break
        if not image:
            yield scale, (scale * random.normal(size=(count, *shape))).astype(np.float32)
        elif scale <= 1.0:
            pixels = np.rint(scale * random.integers(0, 256, (count, *shape)))
            yield scale, (pixels / 255).astype(np.float32)


def compare(
    who: str,
    own: Any,
    ours: NDArray[Any],
    scale: float,
    *,
    magnitude: float = 0.0,
    slack: NDArray[Any] | float = 0.0,
    tolerance: float = TOLERANCE,
) -> None:
    """Raises UnsupportedError, with the numbers, if ``own`` answers are not ``ours``, both (n, ...).

    They may differ by ``tolerance`` of the largest answer, or of ``magnitude`` if that is more, and by ``slack``, of
    the shape of ``ours``.
    """
    own = np.asarray(own, np.float64).reshape(len(ours), -1)
    ours = np.asarray(ours, np.float64).reshape(len(ours), -1)
    if own.shape != ours.shape:
        raise UnsupportedError(
            f"{who} gives {own.shape[1]} numbers where the layers one after another give {ours.shape[1]}: "
            "something runs around the layers that would be lost."
        )
    finite = np.isfinite(own) & np.isfinite(ours)
    largest = np.abs(np.concatenate([own[finite], ours[finite]])).max(initial=magnitude)
    with np.errstate(invalid="ignore"):  # infinite ones are compared apart
        apart = np.abs(own - ours)
    apart[~finite] = 0.0
    apart[np.isfinite(own) != np.isfinite(ours)] = np.inf
    apart -= np.reshape(slack, (-1, ours.shape[1])) if isinstance(slack, np.ndarray) else slack
    if apart.size and apart.max() > max(_SMALLEST, tolerance * largest):
        place = np.unravel_index(int(apart.argmax()), apart.shape)
        raise differs(who, f"{own[place]:.6g}", f"{ours[place]:.6g}", scale)


def differs(who: str, own: str, ours: str, scale: float) -> UnsupportedError:
    """The refusal of something that answers ``own`` where its layers give ``ours``."""
    return UnsupportedError(
        f"{who} answers {own} where the layers one after another give {ours} (observations of scale {scale:g}): "
        "something runs around the layers that would be lost, such as a forward of its own, a hook or a computed "
        "weight; move it into layers, or into the transforms of observations and actions."
    )


def tolerance_of(dtype: torch.dtype) -> float:
    """``compare``'s tolerance for a network whose weights have this type."""
    return max(TOLERANCE, _HALF_TOLERANCE * float(torch.finfo(dtype).eps))


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; afterwards every module has its mode again, and randomness its state."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, training in modes:
            module.training = training


def answer(network: nn.Module, x: NDArray[np.float32], like: torch.Tensor) -> NDArray[np.float64]:
    """What ``network`` itself answers to ``x`` in the type and on the device of ``like``; UnsupportedError if it is no
    array."""
    with undisturbed(network):
        try:
            found = network(torch.as_tensor(x).to(like))
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise UnsupportedError(
                f"the network cannot be asked with observations of shape {x.shape[1:]}: {reason}."
            ) from error
    if not isinstance(found, torch.Tensor):
        raise UnsupportedError(f"the network answers with a {type(found).__name__}: it must give one tensor.")
    return found.double().cpu().numpy()


def check_layers(graph: Graph, shape: tuple[int, ...] | None = None, image: bool = False) -> None:
    """Raises UnsupportedError if the network that ``graph`` was traced from answers something else than its layers.

    ``shape`` of one observation; default: the smallest that fits the layers. Nothing is known of a Graph of parts.
    """
    if graph.root is None:
        return
    like = graph.layers[0].module.weight.detach()
    for scale, x in probes(shape or _input_shape(graph), image, like.dtype):
        own = answer(graph.root, x, like)
        with undisturbed(graph.root):
            ours = forward(graph, torch.as_tensor(x).to(like)).double().cpu().numpy()
        compare("the network", own, ours, scale, tolerance=tolerance_of(like.dtype))


def _input_shape(graph: Graph) -> tuple[int, ...]:
    """Shape of one observation that the layers can take."""
    first = graph.layers[0].module
    if isinstance(first, nn.Linear):
        begin = graph.nodes[0]
        return (first.in_features // (begin.module.frames if isinstance(begin, FramesNode) else 1),)
    channels, readers = first.in_channels, [n.module for n in graph.layers if isinstance(n.module, nn.Linear)]
    sizes = [
        [size for side in range(1, _LARGEST_IMAGE + 1) if (size := (side, _side(graph.nodes, side, axis)))[1] > 0]
        for axis in (0, 1)
    ]
    if not readers:
        return (channels, sizes[0][0][0], sizes[1][0][0])
    convolutions = [n.module for n in graph.layers if isinstance(n.module, nn.Conv2d)]
    positions = readers[0].in_features // convolutions[-1].out_channels
    found = [(h, w) for h, rows in sizes[0] for w, columns in sizes[1] if rows * columns == positions]
    if not found:
        raise UnsupportedError(f"no image fits the layers: {positions} positions are read behind the convolutions.")
    return (channels, *min(found, key=lambda size: (abs(size[0] - size[1]), size)))


def _side(nodes: tuple[Node, ...], side: int, axis: int) -> int:
    """What is left of ``side`` pixels before the Flatten; 0 or less if a window does not fit."""
    for node in nodes:
        if isinstance(node, FlattenNode) or side <= 0:
            break
        if isinstance(node, PoolNode):
            kernel, stride, padding = node.kernel[axis], node.stride[axis], node.padding[axis]
        elif isinstance(node, LayerNode) and isinstance(node.module, nn.Conv2d):
            module: Any = node.module
            kernel, stride, padding = module.kernel_size[axis], module.stride[axis], module.padding[axis]
        else:
            continue
        side = (side + 2 * padding - kernel) // stride + 1
    return side
