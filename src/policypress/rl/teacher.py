"""Who a student learns from: what answers, and apart from it what the student may start from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.answers import answer, check_layers, compare, probes, tolerance_of
from policypress.compression.freeze import freeze_graph, steps_of
from policypress.compression.graph import CellNode, FramesNode, Graph, LayerNode, ResidualNode, trace
from policypress.compression.student import forward, hidden_widths, student
from policypress.errors import ConfigError, DivergedError, UnsupportedError
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.policy import Policy
from policypress.rl.adapters import Critic, Imitation

Act = Callable[[NDArray[Any]], NDArray[Any]]
ActSteps = Callable[[NDArray[Any], Sequence[Any]], tuple[NDArray[Any], Sequence[Any]]]
"""``Act`` of what may remember: ``act(observations, states)`` also gives the states behind the actions. ``states``: of
each row what it gave for the observation before, None where an episode begins."""
Answers = Callable[[torch.Tensor], torch.Tensor]
"""Outputs (n, outputs), before the action transform, for preprocessed observations (n, ...)."""
Steps = Callable[[torch.Tensor, Sequence[Any]], tuple[torch.Tensor, Sequence[Any]]]
"""``Answers`` of what remembers, with states as ``ActSteps`` has them."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """What answers: a function of observations, and what happens before and after it.

    ``graph``: its network, which a student may start from; None for a black box, of which only ``answers`` is known,
    and where no student can be a copy of it (``reason``).
    ``imitation`` says what its outputs are: "action" (of a Box), "logits" of a categorical policy or Q "values".
    ``critics`` map preprocessed observations and actions in [-1, 1] to values (n, 1). ``answers``: by default what the
    graph gives. ``steps``: in their place, of a black box that remembers. Raises DivergedError for weights that are not
    finite, ConfigError with neither a graph nor answers or for an unknown imitation.
    """

    graph: Graph | None
    observation: ObservationTransform
    action: ActionTransform
    imitation: Imitation = "action"
    critics: Sequence[Critic] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    answers: Answers | None = None
    dense_bytes: int | None = None
    """The dense float32 network that it stands for, in bytes; by default the graph's."""
    steps: Steps | None = None
    reason: str = "its network is not known"
    """Why a teacher has no graph."""

    def __post_init__(self) -> None:
        if self.graph is None and self.answers is None and self.steps is None:
            raise ConfigError("a teacher without a network needs answers, a function from observations to outputs.")
        if self.imitation not in get_args(Imitation):
            raise ConfigError(f"imitation={self.imitation!r} is not one of {', '.join(get_args(Imitation))}.")
        if self.graph is None:
            return
        for node in self.graph.layers:
            if not all(bool(torch.isfinite(values).all()) for values in node.module.parameters()):
                raise DivergedError(
                    f"the weights of {self.graph.label(node)} are not finite, the network's training diverged: press "
                    "an earlier copy of it."
                )

    @classmethod
    def of(cls, network: nn.Sequential, observation: ObservationTransform, action: ActionTransform) -> Teacher:
        """A plain PyTorch actor; its outputs are the action of a Box, or the logits of discrete ones.

        A Tanh at its end is the one of an action with ``squash``, and applied once. Raises UnsupportedError for a
        network that cannot be pressed, or that answers something else than its layers one after another.
        """
        if action.squash and isinstance(network, nn.Sequential) and len(network) and isinstance(network[-1], nn.Tanh):
            graph = _before_tanh(network, observation)
        else:
            graph = trace(network)
            check_layers(graph, observation.shape, observation.image)
        if any(node.module.weight.dtype != torch.float32 for node in graph.layers):
            graph = trace(student(graph, (), torch.zeros(1, *observation.shape)))
        return cls(graph, observation, action, "action" if action.kind == "box" else "logits")

    @property
    def baseline_bytes(self) -> int | None:
        """The dense float32 network in bytes; None where it is not known."""
        if self.graph is None or self.dense_bytes is not None:
            return self.dense_bytes
        return 4 * self.graph.parameters

    @cached_property
    def output_count(self) -> int:
        """How many outputs it gives for an observation."""
        if self.graph is not None:
            return len(self.graph.layers[-1].module.weight)
        return self.step(torch.zeros(1, *self.observation.shape), [None])[0].shape[1]

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on what was met before, in the same episode."""
        if self.graph is None:
            return self.steps is not None
        return any(isinstance(node, CellNode | FramesNode) for node in self.graph.nodes)

    @torch.no_grad()
    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Last layer's outputs for preprocessed observations (n, ...).

        Raises UnsupportedError if it remembers, or if a black box gives something else than finite numbers
        (n, outputs) in float32.
        """
        if self.remembers:
            raise UnsupportedError(
                "a policy that remembers is no teacher of single observations: distil it over sequences "
                "(--method distill, policypress.rl.sequences)."
            )
        if self.answers is None:
            assert self.graph is not None
            return forward(self.graph, x)
        return self._checked(self.answers(x), x)

    @torch.no_grad()
    def step(self, x: torch.Tensor, states: Sequence[Any]) -> tuple[torch.Tensor, Sequence[Any]]:
        """``outputs``, whether it remembers or not, and the states behind them; see ``ActSteps``."""
        if not self.remembers:
            return self.outputs(x), states
        outputs, after = self._steps(x, states)
        return self._checked(outputs, x), after

    @cached_property
    def _steps(self) -> Steps:
        if self.steps is not None:
            return self.steps
        return tensor_steps(steps_of(self.policy()))

    @staticmethod
    def _checked(outputs: Any, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
            given = f"shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise UnsupportedError(f"the teacher's answers for {len(x)} observations are {given}: give (n, outputs).")
        if not bool(torch.isfinite(outputs).all()):
            raise UnsupportedError("the teacher's answers are not finite: it cannot be imitated.")
        return outputs.detach().float()

    def policy(self) -> Policy:
        """The teacher itself, in float32; UnsupportedError for a black box."""
        return freeze_graph(self.network("frozen"), self.observation, self.action, provenance=self.provenance)

    def network(self, use: str) -> Graph:
        """The graph; UnsupportedError for a black box, which cannot be ``use`` (a participle)."""
        if self.graph is None:
            raise UnsupportedError(
                f"the teacher cannot be {use}, for {self.reason}: distil it, and give the student's widths, for "
                "example --hidden 24,24 (hidden=(24, 24))."
            )
        return self.graph


def acting(teacher: Teacher, network: Answers) -> Act:
    """Deterministic actions of ``network``, between the teacher's transforms, for raw observations (n, ...)."""

    @torch.no_grad()
    def act(observations: NDArray[Any]) -> NDArray[Any]:
        x = torch.from_numpy(reference.observe(teacher.observation, observations))
        return reference.act(teacher.action, network(x).numpy())

    return act


def tensor_steps(run: Callable[[NDArray[Any], Sequence[Any]], tuple[NDArray[Any], Sequence[Any]]]) -> Steps:
    """``run`` of arrays as steps of tensors."""

    def steps(x: torch.Tensor, states: Sequence[Any]) -> tuple[torch.Tensor, Sequence[Any]]:
        outputs, after = run(x.numpy(), states)
        return torch.from_numpy(np.asarray(outputs, np.float32)), after

    return steps


def stepping(teacher: Teacher) -> ActSteps:
    """Deterministic actions of ``teacher`` for raw observations (n, ...), whether it remembers or not."""

    def act(observations: NDArray[Any], states: Sequence[Any]) -> tuple[NDArray[Any], Sequence[Any]]:
        x = torch.from_numpy(reference.observe(teacher.observation, observations))
        outputs, after = teacher.step(x, states)
        return reference.act(teacher.action, outputs.numpy()), after

    return act


def scaled_hidden(teacher: Teacher, factor: float) -> tuple[int, ...]:
    """The teacher's hidden widths times ``factor``, 4 at least; behind residual blocks only, if there are any, and in
    front of what spells out the end of an action.

    Raises UnsupportedError for a black box.
    """
    graph = teacher.network("narrowed")
    blocks = [index for index, node in enumerate(graph.nodes) if isinstance(node, ResidualNode)]
    behind = sum(isinstance(node, LayerNode) for node in graph.nodes[1 + max(blocks, default=-1) :]) - 1
    widths = hidden_widths(graph)
    widths = widths[len(widths) - behind :]
    if graph.layers[-1].fixed:
        widths = widths[:-1]
    return tuple(min(width, max(4, round(width * factor))) for width in widths)


def _before_tanh(network: nn.Sequential, observation: ObservationTransform) -> Graph:
    """What ``network`` computes before the Tanh at its end, which must be all that follows."""
    graph = trace(nn.Sequential(OrderedDict(list(network._modules.items())[:-1])))
    like = graph.layers[0].module.weight.detach()
    for scale, x in probes(observation.shape, observation.image, like.dtype):
        ours = forward(graph, torch.as_tensor(x).to(like)).detach().tanh()
        compare(
            "the network",
            answer(network, x, like),
            ours.double().cpu().numpy(),
            scale,
            tolerance=tolerance_of(like.dtype),
        )
    return graph
