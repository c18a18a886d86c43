"""Shapes of students, from nothing up to the agent's own."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from policypress.compression.graph import ActivationNode, FlattenNode, LayerNode, NormNode, ReluNode
from policypress.compression.recurrent import remembering
from policypress.compression.student import hidden_widths
from policypress.config import PressMethod
from policypress.rl.lines import LINEAR, Shape, Space, Widths
from policypress.rl.plan import AUTO_SHRINK
from policypress.rl.sources import OpenedAgent
from policypress.rl.teacher import Teacher, scaled_hidden

_SINGLE = (4, 6, 8, 16)
_DOUBLE = (16, 24, 32, 48, 64, 96, 128, 192, 256)
_FEED_FORWARD: tuple[Widths, ...] = ((), *((width,) for width in _SINGLE), *((width, width) for width in _DOUBLE))
_BLACK_BOX_FIRST: Widths = (24, 24)
# Of agents that remember: no rung of a kind of memory has less than the one before, of frames or units and of widths.
_HISTORIES: tuple[tuple[int, Widths], ...] = (
    *((2, ()), (2, (8,)), (4, (8,)), (4, (16,)), (8, (16,)), (8, (24, 24)), (16, (32, 32)), (16, (64, 64))),
)
_RECURRENT: tuple[tuple[int, Widths], ...] = (
    *((4, ()), (8, ()), (8, (8,)), (16, ()), (16, (16,)), (24, (16,)), (32, (16,)), (32, (32,)), (64, (64,))),
)
_REMEMBERING_FIRST = Shape((16,), "gru:16")
_HALVINGS = 14  # half octaves from the widths of a network that is no chain of Linear layers down to nothing


def space_of(agent: OpenedAgent, methods: frozenset[PressMethod]) -> Space:
    """What students of an agent can be: linear ones, one small hidden layer, two that grow, its own widths at most.

    Networks of other layers (convolutions) keep these, and their widths alone are scaled. Students of an agent that
    remembers may have a history, a recurrent cell, or nothing, and begin with about as many weights of each.
    """
    teacher = agent.teacher
    if teacher.remembers:
        return _remembering(teacher, methods)
    ladder = _chain(teacher) if _is_chain(teacher) else _scaled(teacher)
    weights = tuple(_weights(teacher, hidden) for hidden in ladder)
    if teacher.graph is None:
        wanted = _weights(teacher, _BLACK_BOX_FIRST)
    else:
        wanted = _weights(teacher, scaled_hidden(teacher, AUTO_SHRINK**-0.5))
    shapes = tuple(map(Shape, ladder))
    return Space(shapes, weights, (_nearest(wanted, dict(zip(shapes, weights, strict=True))),), methods)


def _remembering(teacher: Teacher, methods: frozenset[PressMethod]) -> Space:
    kinds = {
        "gru": [Shape(hidden, f"gru:{units}") for units, hidden in _RECURRENT],
        "history": [Shape(hidden, f"history:{frames}") for frames, hidden in _HISTORIES],
        "none": [Shape(hidden) for hidden in _FEED_FORWARD],
    }
    weights = {shape: _weights_behind(teacher, shape) for kind in kinds.values() for shape in kind}
    wanted = weights[_REMEMBERING_FIRST]
    firsts = tuple(_nearest(wanted, {shape: weights[shape] for shape in kind}) for kind in kinds.values())
    ladder = tuple(sorted(weights, key=lambda shape: (shape != LINEAR, weights[shape], shape)))
    return Space(ladder, tuple(weights[shape] for shape in ladder), firsts, methods)


def _nearest(wanted: int, weights: dict[Shape, int]) -> Shape:
    """The first shape of about so many weights."""
    return min(weights, key=lambda shape: abs(math.log(weights[shape] / wanted)))


def _is_chain(teacher: Teacher) -> bool:
    """Whether a student may have any number of layers."""
    if teacher.graph is None:
        return not teacher.observation.image
    kinds = LayerNode | ReluNode | ActivationNode | NormNode | FlattenNode
    return all(isinstance(node, kinds) for node in teacher.graph.nodes) and all(
        node.module.weight.ndim == 2 for node in teacher.graph.layers
    )


def _chain(teacher: Teacher) -> tuple[Widths, ...]:
    if teacher.graph is None:
        return _FEED_FORWARD
    own = hidden_widths(teacher.graph)
    most = _weights(teacher, own)
    fits = [
        hidden
        for hidden in _FEED_FORWARD
        if _weights(teacher, hidden) < most
        and (len(hidden) != len(own) or all(ours <= theirs for ours, theirs in zip(hidden, own, strict=True)))
    ]
    return tuple(sorted({*fits, own}, key=lambda hidden: (hidden != (), _weights(teacher, hidden), hidden)))


def _scaled(teacher: Teacher) -> tuple[Widths, ...]:
    scaled = {scaled_hidden(teacher, 2.0 ** (-step / 2)) for step in range(_HALVINGS)}
    return tuple(sorted(scaled, key=sum))


def _weights(teacher: Teacher, hidden: Widths) -> int:
    """Weights and biases of a student's last layers; of a network with others before them, those that follow."""
    inputs = math.prod(teacher.observation.shape) if _is_chain(teacher) else max(hidden, default=1)
    return _dense(inputs, *hidden, teacher.output_count)


def _weights_behind(teacher: Teacher, shape: Shape) -> int:
    """Weights and biases of a student with a memory, or none, in front of its layers."""
    with torch.device("meta"):  # their number alone counts
        memory, inputs = remembering(shape.memory, math.prod(teacher.observation.shape))
    of_memory = sum(values.numel() for module in memory for values in module.parameters())
    return of_memory + _dense(inputs, *shape.hidden, teacher.output_count)


def _dense(*widths: int) -> int:
    return sum(before * after + after for before, after in pairwise(widths))
