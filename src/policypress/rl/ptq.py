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

from policypress.compression.compressor import Compressor
from policypress.compression.freeze import spread
from policypress.compression.student import student
from policypress.config import DistillConfig, PressConfig, dumps
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.rl.distill import check_config
from policypress.rl.freeze import freeze_student
from policypress.rl.method import Method
from policypress.rl.runs import Progress
from policypress.rl.sources import OpenedAgent, States, met_by_teacher, states_of
from policypress.rl.teacher import Teacher

_STATES = 20_000
_BATCHES = 800


class PostTraining(Method):
    """Magnitude pruning in one go, and ranges measured on the agent's own states."""

    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        agent.teacher.network("pressed without training")
        check_config(agent.teacher, config.student)

    @contextmanager
    def prepare(
        self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1
    ) -> Iterator[Calibration]:
        with states_of(agent, config.environment, config.student.seed) as (teacher, states):
            yield Calibration(teacher, states, config.student)


class Calibration:
    """A copy of the teacher, pruned and quantized by what it meets; over too soon to need a checkpoint.

    Raises UnsupportedError for a black box, ConfigError for widths that do not fit the teacher.
    """

    def __init__(self, teacher: Teacher, states: States, config: DistillConfig) -> None:
        graph = teacher.network("pressed without training")
        self._teacher, self._config = teacher, config
        self._raw = met_by_teacher(teacher, states, min(config.states, _STATES))
        torch.manual_seed(config.seed)
        self._picks = torch.randint(len(self._raw), (_BATCHES, min(config.batch_size, len(self._raw)))).numpy()
        self._network = student(graph, config.hidden, self._inputs(self._picks[0]))
        compression = replace(
            config.compression, prune_start=0.0, prune_end=0.0, quantize_start=1.0, observe=1.0, rate_weight=0.0,
            weight_range="mse" if config.compression.weight_range == "learned" else config.compression.weight_range,
        )  # fmt: skip
        optimizer = torch.optim.Adam(self._network.parameters())
        image = teacher.observation.image
        self._compressor = Compressor(self._network, optimizer, compression, steps=1, image=image, seed=config.seed)

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
