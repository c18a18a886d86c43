"""Pressing without training: what everybody tries first, and what compression costs then."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.compression.freeze import spread
from policypress.compression.graph import Graph
from policypress.compression.student import State, hidden_widths, starts_afresh, student, unroll
from policypress.config import DistillConfig, PressConfig, dumps
from policypress.errors import ConfigError
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.rl.distill import check_config
from policypress.rl.environments import EnvLike
from policypress.rl.freeze import freeze_student
from policypress.rl.method import Method, Pressing
from policypress.rl.recorded import Recorded
from policypress.rl.runs import Progress
from policypress.rl.sequences import check_vectors, config_of, met_in_episodes
from policypress.rl.sources import Collector, OpenedAgent, States, met_by_teacher, placed, states_of
from policypress.rl.teacher import Teacher

_STATES = 20_000
_BATCHES = 800
_PIECE = 32  # steps of episodes that are a batch


class PostTraining(Method):
    """Magnitude pruning in one go, and ranges measured on the agent's own states."""

    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        graph = agent.teacher.network("pressed without training")
        _check_copies(graph, config.student)
        if agent.teacher.remembers:
            _copied_to_sequences(agent.teacher, config.student)
        else:
            check_config(agent.teacher, config.student)

    @contextmanager
    def prepare(
        self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1
    ) -> Iterator[Pressing]:
        if agent.teacher.remembers:
            yield SequenceCalibration(agent.teacher, agent.recorded or config.environment, config.student)
            return
        with states_of(agent, config.environment, config.student.seed) as (teacher, states):
            yield Calibration(teacher, states, config.student)


def _check_copies(graph: Graph, config: DistillConfig) -> None:
    if starts_afresh(graph, config.hidden, config.hidden_activation):
        raise ConfigError(
            "a student of other layers than its agent's starts from fresh weights, and --method ptq trains none: give "
            f"at most its own {len(hidden_widths(graph))} hidden layers, each narrower, and no --hidden-activation, or "
            "leave --method out."
        )


class Calibration:
    """A copy of the teacher, pruned and quantized by what it meets; over too soon to need a checkpoint.

    Raises UnsupportedError for a black box, ConfigError for widths that do not fit the teacher.
    """

    def __init__(self, teacher: Teacher, states: States, config: DistillConfig) -> None:
        graph = teacher.network("pressed without training")
        _check_copies(graph, config)
        self._teacher, self._config = teacher, config
        self._raw = met_by_teacher(Collector(teacher, states), min(config.states, _STATES)).observations
        torch.manual_seed(config.seed)
        self._picks = torch.randint(len(self._raw), (_BATCHES, min(config.batch_size, len(self._raw)))).numpy()
        self._network = student(graph, config.hidden, self._inputs(self._picks[0]))
        self._compressor = _compressor(teacher, self._network, config)

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """All of it, which takes seconds."""
        self._compressor.step(0)  # prunes, and lets ranges be measured
        for index in self._picks:
            self._network(self._inputs(index))
        self._compressor.step(1)
        if progress is not None:
            progress(_BATCHES, _BATCHES, None)
        return True

    def freeze(self) -> Policy:
        met = self._raw[spread(len(self._raw), self._raw[0].nbytes)]
        told = {"ptq": json.loads(dumps(self._config))}
        return freeze_student(self._teacher, self._compressor.graph, told, met)

    def _inputs(self, index: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(reference.observe(self._teacher.observation, self._raw[index]))


class SequenceCalibration:
    """``Calibration`` of a teacher that remembers, on episodes of its own in ``source``, or those of a log.

    Raises UnsupportedError for a black box, ConfigError for other widths than the teacher's and for images.
    """

    def __init__(self, teacher: Teacher, source: EnvLike | Recorded, config: DistillConfig) -> None:
        self._teacher, self._config = placed(teacher, source), config
        self._compressor = _copied_to_sequences(teacher, config)
        told = replace(config, states=min(config.states, _STATES))
        self._met = met_in_episodes(self._teacher, source, self._compressor, told)

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """All of it, which takes seconds."""
        self._compressor.step(0)
        x, starts = self._met.x, self._met.starts
        pieces = [slice(first, first + _PIECE) for first in range(0, len(x), _PIECE)]
        for _ in range(math.ceil(_BATCHES / len(pieces))):
            state: State | None = None
            for piece in pieces:
                _, after = unroll(self._compressor.graph, x[piece], starts[piece], state)
                state = [[values.detach() for values in vectors] for vectors in after]
        self._compressor.step(1)
        if progress is not None:
            progress(_BATCHES, _BATCHES, None)
        return True

    def freeze(self) -> Policy:
        told = {"ptq": json.loads(dumps(self._config))}
        return freeze_student(self._teacher, self._compressor.graph, told, self._met.some)


def _copied_to_sequences(teacher: Teacher, config: DistillConfig) -> Compressor:
    """What presses a copy of a teacher that remembers; raises for settings that do not fit it."""
    check_vectors(teacher)
    config_of(config)
    if config.hidden:
        raise ConfigError("an agent that remembers is pressed without training as it is: leave --hidden out.")
    graph = teacher.network("pressed without training")
    return _compressor(teacher, student(graph, (), torch.zeros(1, *teacher.observation.shape)), config)


def _compressor(teacher: Teacher, network: nn.Sequential, config: DistillConfig) -> Compressor:
    """Presses ``network`` in one step, from 0 to 1, between which ranges are measured."""
    given = config.compression
    compression = replace(
        given, prune_start=0.0, prune_end=0.0, quantize_start=1.0, observe=1.0, rate_weight=0.0,
        weight_range="mse" if given.weight_range == "learned" else given.weight_range,
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters())
    return Compressor(network, optimizer, compression, steps=1, image=teacher.observation.image, seed=config.seed)
