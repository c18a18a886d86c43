"""Widths of students, from nothing up to the agent's own."""

from __future__ import annotations

import math
from itertools import pairwise

from policypress.compression.graph import ActivationNode, FlattenNode, LayerNode, NormNode, ReluNode
from policypress.compression.student import hidden_widths
from policypress.config import PressMethod
from policypress.rl.lines import Space, Widths
from policypress.rl.plan import AUTO_SHRINK
from policypress.rl.sources import OpenedAgent
from policypress.rl.teacher import Teacher, scaled_hidden

_SINGLE = (4, 8, 16)
_DOUBLE = (16, 24, 32, 48, 64, 96, 128, 192, 256)
_BLACK_BOX_FIRST: Widths = (24, 24)
_HALVINGS = 14  # half octaves from the widths of a network that is no chain of Linear layers down to nothing


def space_of(agent: OpenedAgent, methods: frozenset[PressMethod]) -> Space:
    """What students of an agent can be: linear ones, one small hidden layer, two that grow, its own widths at most.

    Networks of other layers (convolutions) keep these, and their widths alone are scaled.
    """
    teacher = agent.teacher
    ladder = _chain(teacher) if _is_chain(teacher) else _scaled(teacher)
    weights = tuple(_weights(teacher, hidden) for hidden in ladder)
    if teacher.graph is None:
        wanted = _weights(teacher, _BLACK_BOX_FIRST)
    else:
        wanted = _weights(teacher, scaled_hidden(teacher, AUTO_SHRINK**-0.5))
    first = min(range(len(ladder)), key=lambda i: (abs(math.log(weights[i] / wanted)), i))
    return Space(ladder, weights, first, methods)


def _is_chain(teacher: Teacher) -> bool:
    """Whether a student may have any number of layers."""
    if teacher.graph is None:
        return not teacher.observation.image
    kinds = LayerNode | ReluNode | ActivationNode | NormNode | FlattenNode
    return all(isinstance(node, kinds) for node in teacher.graph.nodes) and all(
        node.module.weight.ndim == 2 for node in teacher.graph.layers
    )


def _chain(teacher: Teacher) -> tuple[Widths, ...]:
    ladder: list[Widths] = [(), *((width,) for width in _SINGLE), *((width, width) for width in _DOUBLE)]
    if teacher.graph is None:
        return tuple(ladder)
    own = hidden_widths(teacher.graph)
    most = _weights(teacher, own)
    fits = [
        hidden
        for hidden in ladder
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
    return sum(before * after + after for before, after in pairwise((inputs, *hidden, teacher.output_count)))
