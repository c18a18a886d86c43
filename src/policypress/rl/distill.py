"""Distillation: a small student learns to act as the teacher does, on the states that the student itself visits.

Sources: DAgger (Ross et al. 2011) for the states, policy distillation (Rusu et al. 2016) for Q values. No rewards are
needed, and critics only if ``critic_weight`` asks for them.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.centring import Centring
from policypress.compression.compressor import Compressor
from policypress.compression.fake_quant import STEP_STRIDE
from policypress.compression.freeze import freeze_graph, spread
from policypress.compression.student import fresh, linear, starts_afresh, student
from policypress.config import DistillConfig, PressConfig, dumps
from policypress.errors import ConfigError, DivergedError
from policypress.measure.machine import torch_threads
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.rl.elsewhere import CollectorElsewhere
from policypress.rl.freeze import freeze_student
from policypress.rl.imitation import agreement, decay, imitation_loss, squashed
from policypress.rl.method import Method, Pressing
from policypress.rl.recorded import RecordedStates
from policypress.rl.runs import Progress, array_in
from policypress.rl.sequences import check_over_sequences, distilled_over_sequences, over_sequences
from policypress.rl.sources import Collector, Met, OpenedAgent, States, met_by_teacher, placed, states_of
from policypress.rl.student_checkpoint import StudentCheckpoint
from policypress.rl.teacher import Teacher

_FIRST_STATES = 0.1  # of all states, from the teacher's own episodes, before the first batch
_LAST_COLLECTION = 0.9  # of the batches: what comes later would hardly be seen
_ALL_STUDENT = 0.3  # of the batches: from then on the student alone acts
# ``agreement`` from which nothing is left to learn, and below which something is again.
_AGREES = {"box": 0.999, "discrete": 0.99, "multi-discrete": 0.99, "multi-binary": 0.99}
_FALLS_BACK = {"box": 0.998, "discrete": 0.98, "multi-discrete": 0.98, "multi-binary": 0.98}
_LOST = 0.1  # of the steps before a fall: the last, when nothing helps any more
_OFTEN = 20.0  # times, at most, that a state before a fall is learned from as often as others
_ELSEWHERE = 200_000  # states from which on it pays to meet them in a process of its own
_ASKED = 1024  # new states, at most, that it is measured on
_LEAST = 4_000  # batches of a schedule that is cut short
_IMPORTANCE_STATES = 512
_SATURATED = 1.5  # an output before tanh from which more hardly counts
_FITTED_STATES = 8192  # by which a linear student starts; of images as many as tell importance
_CHECKPOINTS = 50
_CHUNK = 1024


class Distill(Method):
    """A student that learns to act as the agent does."""

    anytime: ClassVar[bool] = False

    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        check_config(agent.teacher, config.student)

    @contextmanager
    def prepare(
        self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1
    ) -> Iterator[Pressing]:
        if over_sequences(agent.teacher, config.student):
            with distilled_over_sequences(
                agent.teacher, agent.recorded or config.environment, config.student, folder
            ) as work:
                yield work
            return
        student, environment = config.student, config.environment
        if jobs > 1 and agent.recorded is None and student.states >= _ELSEWHERE:
            collector = CollectorElsewhere(agent, environment, student.seed, student.disturbances)
            with closing(collector), torch_threads(max(1, torch.get_num_threads() - 1)):
                yield Distillation(placed(agent.teacher, environment), collector, student, folder)
            return
        with states_of(agent, environment, student.seed, student.disturbances) as (teacher, states):
            yield Distillation(teacher, states, student, folder)


class Distillation:
    """One student on its way: ``run`` trains it to the end, ``freeze`` gives its policy.

    Many states are met by the student as it was one collection earlier: a ``Collector`` may do that while it learns.
    Fewer are met by the student as it is: with 20 collections two students kept 1 and 3 points less a collection late.

    ``config.batches`` are an upper bound. Whenever states are added, the student is asked about them before it learns
    from them; if it acts as the teacher does, nothing is left to learn but integers and the price of bits, and the rest
    of the schedule runs in the batches that the whole of it would have had in a run as long as this one was so far
    (``_LEAST`` at least). If it then falls back, what is left takes twice as long again. Never while weights are being
    pruned, and never with critics.

    With a ``folder`` it is checkpointed there, and goes on from its checkpoint if there is one. Raises ConfigError for
    a config that does not fit the teacher, RunError for a checkpoint of another config.
    """

    def __init__(
        self, teacher: Teacher, states: States | Collector, config: DistillConfig, folder: Path | None = None
    ) -> None:
        check_critics(teacher, config)
        self._teacher, self._config = teacher, config
        self._collector = states if isinstance(states, Collector) else Collector(teacher, states)
        self._ahead, self._asked = config.states >= _ELSEWHERE, False
        self._checkpoint = StudentCheckpoint(folder, dumps(config))
        saved = self._checkpoint.saved
        self._done = 0
        self._pace = _Pace(config.batches, config.batches)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._memory = _Memory(config.states, teacher, folder, kept=0 if saved is None else saved["states"])
        self._falling = torch.zeros(0, dtype=torch.long)  # places in the memory
        if saved is None:
            self._add(met_by_teacher(self._collector, math.ceil(_FIRST_STATES * config.states)))
        torch.manual_seed(config.seed)
        self._network, self._optimizer, self._compressor = _student(teacher, config, self._first_states())
        self._parameters = list(self._network.parameters())
        if saved is not None:
            self._done, self._pace = saved["done"], _Pace(**saved["pace"])
            self._falling = saved.get("falling", self._falling)
            self._checkpoint.restore(self._network, self._optimizer, self._compressor, self._generator)
            if isinstance(states, RecordedStates):
                states.skip(self._memory.count)

    def _first_states(self) -> torch.Tensor:
        """Those by which a student starts: the first where it takes weights of its teacher, else a sample of all that
        were there at first."""
        if not _fresh(self._teacher, self._config):
            return self._memory.inputs(torch.arange(min(self._memory.count, _IMPORTANCE_STATES)))
        count = min(self._memory.count, math.ceil(_FIRST_STATES * self._config.states))
        most = _IMPORTANCE_STATES if self._teacher.observation.image else _FITTED_STATES
        return self._memory.inputs(torch.linspace(0, count - 1, min(count, most)).long())

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Trains what is left to train, or until the first checkpoint after ``seconds``; whether it is finished."""
        config, deadline = self._config, time.monotonic() + seconds
        collect_every = max(1, round(config.batches * _LAST_COLLECTION / config.collections))
        save_every = max(1, config.batches // _CHECKPOINTS)
        step = self._pace.step(max(0, self._done - 1))
        collected = step // collect_every
        if self._ahead and not self._asked:
            self._ask(step)
        while self._done < self._pace.batches:
            step = self._pace.step(self._done)
            if step // collect_every > collected:
                collected = step // collect_every
                if not self._ahead:
                    self._ask(step)
                self._collect()
                if self._ahead:
                    self._ask(step)
            loss = self._learn(step)
            self._done += 1
            every = math.ceil(save_every / self._pace.stride) * self._pace.stride
            if (self._done - self._pace.since) % every == 0 or self._done == self._pace.batches:
                self._save()
                if progress is not None:
                    progress(self._done, self._pace.batches, loss)
                if self._done < self._pace.batches and time.monotonic() >= deadline:
                    return False
        self._compressor.step(config.batches)
        self._network.eval()
        return True

    @property
    def compressor(self) -> Compressor:
        """What presses the student: its graph, and where its masks and quantization stand."""
        return self._compressor

    def inputs(self, count: int) -> torch.Tensor:
        """The first ``count`` observations that it learns from, at most, as its network sees them (n, ...)."""
        return self._memory.inputs(torch.arange(min(count, self._memory.count)))

    def freeze(self) -> Policy:
        """The student as it stands."""
        told = {"distill": json.loads(dumps(self._config)), "batches": self._done}
        return freeze_student(self._teacher, self._compressor.graph, told, self._memory.some())

    def _learn(self, step: int) -> float:
        """One batch, at ``step`` of the schedule, which has ``config.batches``; returns the loss.

        Raises DivergedError if that is not finite.
        """
        config = self._config
        self._compressor.step(step)
        self._optimizer.param_groups[0]["lr"] = config.learning_rate * decay(step / config.batches)
        picks = self._picks()
        x, wanted = self._memory.inputs(picks), self._memory.outputs.index_select(0, picks)
        outputs = self._network(x)
        loss = imitation_loss(self._teacher, outputs, wanted)
        if config.critic_weight and step >= config.critic_start * config.batches:
            loss = loss + config.critic_weight * self._regret(x, outputs, wanted)
        for parameter in self._parameters:  # in no time; the optimizer's own way takes a fortieth of all
            parameter.grad = None
        loss.backward()
        self._optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"the student's loss is {value} in batch {self._done}: the training diverged, lower --learning-rate "
                "(or --rate-weight, --critic-weight)."
            )
        return value

    def _picks(self) -> torch.Tensor:
        """Places in the memory of a batch's states."""
        size, falling = self._config.batch_size, self._falling
        picks = torch.randint(self._memory.count, (size,), generator=self._generator)
        share = min(self._config.falls, _OFTEN * len(falling) / self._memory.count)
        if count := int(share * size):
            picks[:count] = falling[torch.randint(len(falling), (count,), generator=self._generator)]
        return picks

    @torch.no_grad()
    def _adjust_pace(self, new: torch.Tensor) -> None:
        """Hastens or slows the rest of the schedule by how the student acts on states that it has not learned from."""
        config = self._config
        compression, step = config.compression, self._pace.step(self._done)
        if config.critic_weight or (compression.prunes and step <= compression.prune_end * config.batches):
            return
        new = new[:: math.ceil(len(new) / _ASKED)]
        agrees = agreement(self._teacher, self._network(self._memory.inputs(new)), self._memory.outputs[new])
        kind = self._teacher.action.kind
        if agrees >= _AGREES[kind]:
            self._pace = self._pace.from_now(self._done, min(self._pace.length, max(_LEAST, self._done)))
        elif agrees < _FALLS_BACK[kind]:
            self._pace = self._pace.from_now(self._done, min(2 * self._pace.length, config.batches))

    def _regret(self, x: torch.Tensor, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """What the student's actions lose by the teacher's critics, in standard deviations of the values."""
        wanted, outputs = (squashed(self._teacher.action, values) for values in (wanted, outputs))
        with torch.no_grad():
            best = torch.cat([critic(x, wanted) for critic in self._teacher.critics], dim=1).amin(1)
        values = torch.cat([critic(x, outputs) for critic in self._teacher.critics], dim=1).amin(1)
        return ((best - values) / best.std().clamp(min=1e-6)).mean()

    def _ask(self, step: int) -> None:
        """Asks for states that the student meets as it is now."""
        config = self._config
        count = math.ceil((1 - _FIRST_STATES) * config.states / config.collections)
        count = min(count, config.states - self._memory.count)
        if count:
            share = min(1.0, step / (_ALL_STUDENT * config.batches))
            self._collector.ask(self._acting() if share else None, share, count)
            self._asked = True

    def _acting(self) -> Policy:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a student on its way: the one that comes out is told of
            return freeze_graph(self._compressor.graph, self._teacher.observation, self._teacher.action)

    def _collect(self) -> None:
        """Adds the states that were asked for."""
        if not self._asked:
            return
        self._asked, before = False, self._memory.count
        self._add(self._collector.met())
        if self._memory.count > before:  # a log may have been read to its end
            self._network.eval()
            self._adjust_pace(torch.arange(before, self._memory.count))
            self._network.train()

    def _add(self, met: Met) -> None:
        before, config = self._memory.count, self._config
        self._memory.add(met.observations)
        if not config.falls:
            return
        if met.steps_left is None:
            raise ConfigError("falls are met in an environment, not in a log nor by a function: leave falls out.")
        left = met.steps_left[: self._memory.count - before]
        falling = (left >= _LOST * config.fall_steps) & (left < config.fall_steps)
        self._falling = torch.cat([self._falling, torch.from_numpy(before + np.flatnonzero(falling))])

    def _save(self) -> None:
        if self._checkpoint.kept:
            self._memory.flush()
        told = {"done": self._done, "pace": asdict(self._pace), "states": self._memory.count, "falling": self._falling}
        self._checkpoint.save(self._network, self._optimizer, self._compressor, self._generator, **told)


@dataclass(frozen=True)
class _Pace:
    """Where a run stands in its schedule of ``steps`` steps: at step ``begun`` after ``since`` batches, and at such a
    pace from there on that the whole schedule would take ``length`` batches.

    Another pace than the first goes by STEP_STRIDE batches, as ranges do.
    """

    steps: int
    length: int
    since: int = 0
    begun: int = 0

    def step(self, batch: int) -> int:
        """The step of the schedule that the batch of this number takes."""
        return self.begun + max(0, batch - self.since) // self.stride * self.stride * self.steps // self.length

    @property
    def stride(self) -> int:
        return STEP_STRIDE if self.since else 1

    @property
    def batches(self) -> int:
        """Of the whole run."""
        left = math.ceil((self.steps - self.begun) * self.length / (self.steps * self.stride)) * self.stride
        return min(self.since + left, self.steps)

    def from_now(self, batch: int, length: int) -> _Pace:
        """``length`` from this batch on."""
        if length == self.length:
            return self
        return _Pace(self.steps, length, math.ceil(batch / STEP_STRIDE) * STEP_STRIDE, self.step(batch))


def check_config(teacher: Teacher, config: DistillConfig) -> None:
    """Raises ConfigError, before any work, for a config that does not fit the teacher."""
    check_critics(teacher, config)
    if over_sequences(teacher, config):
        check_over_sequences(teacher, config)
        return
    _student(teacher, config, torch.zeros(2, *teacher.observation.shape))


def check_critics(teacher: Teacher, config: DistillConfig) -> None:
    """Raises ConfigError if ``config`` asks critics that the teacher does not have."""
    if config.critic_weight and not teacher.critics:
        raise ConfigError("critic_weight needs critics of actions, which this agent does not have: leave it at 0.")


def _fresh(teacher: Teacher, config: DistillConfig) -> bool:
    """Whether a student takes no weights of its teacher."""
    if config.hidden == "none" or teacher.graph is None:
        return True
    return starts_afresh(teacher.graph, config.hidden, config.hidden_activation)


def _student(
    teacher: Teacher, config: DistillConfig, observations: torch.Tensor
) -> tuple[nn.Sequential, torch.optim.Optimizer, Compressor]:
    if config.hidden == "none":
        network = linear(observations, _unsaturated(teacher, teacher.outputs(observations)))
    elif teacher.graph is not None:
        # A narrow one learns where the teacher clips; layers for it would cost it more than they gain.
        kind = config.hidden_activation
        network = student(teacher.graph, config.hidden, observations, clips=not config.hidden, activation=kind)
    elif config.hidden:
        activation = config.hidden_activation or "relu"
        network = fresh(math.prod(teacher.observation.shape), config.hidden, teacher.output_count, activation)
    else:
        raise ConfigError(
            f"the student cannot be a copy of the teacher, for {teacher.reason}: give the student's widths, for "
            "example --hidden 24,24 (hidden=(24, 24))."
        )
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    if config.hidden != "none" and _fresh(teacher, config):
        Centring(network, optimizer).centre(observations)
    image = teacher.observation.image
    compressor = Compressor(network, optimizer, config.compression, config.batches, image=image, seed=config.seed)
    return network, optimizer, compressor


def _unsaturated(teacher: Teacher, outputs: torch.Tensor) -> torch.Tensor:
    """``outputs`` without what a tanh hides: a linear student need not follow it."""
    return outputs.clamp(-_SATURATED, _SATURATED) if teacher.action.squash else outputs


class _Memory:
    """Observations and the teacher's outputs for them; in files under ``folder`` if there is one, ``kept`` of them
    from before."""

    def __init__(self, size: int, teacher: Teacher, folder: Path | None, kept: int) -> None:
        transform = teacher.observation
        self._teacher, self.count = teacher, kept
        self._raw = array_in(folder, "states", (size, *transform.shape), transform.dtype, kept)
        self._outputs = array_in(folder, "outputs", (size, teacher.output_count), "float32", kept)
        self.outputs = torch.from_numpy(self._outputs)
        # Preprocessed vectors are kept too; images would take four times the memory and are preprocessed when read.
        self._inputs = None if transform.image else torch.zeros(size, *transform.shape)
        if self._inputs is not None and kept:
            self._inputs[:kept] = torch.from_numpy(reference.observe(transform, self._raw[:kept]))

    def add(self, observations: NDArray[Any]) -> None:
        """Labels ``observations`` (n, ...) with the teacher's outputs; what does not fit any more is left out.

        Raises ObservationError for observations that do not fit the teacher.
        """
        transform = self._teacher.observation
        for start in range(0, len(observations), _CHUNK):
            part = observations[start : start + min(_CHUNK, len(self._raw) - self.count)]
            place = slice(self.count, self.count + len(part))
            x = torch.from_numpy(reference.observe(transform, part))
            if part.shape[1:] != transform.shape:  # images, channels last
                part = np.moveaxis(part, -1, 1)
            self._raw[place], self._outputs[place] = part, self._teacher.outputs(x).numpy()
            if self._inputs is not None:
                self._inputs[place] = x
            self.count += len(part)

    def inputs(self, picks: torch.Tensor) -> torch.Tensor:
        """Preprocessed observations."""
        if self._inputs is not None:
            return self._inputs.index_select(0, picks)  # a fifth of what indexing takes
        return torch.from_numpy(reference.observe(self._teacher.observation, self._raw[picks.numpy()]))

    def some(self) -> NDArray[Any]:
        """A few observations, as they came."""
        return np.array(self._raw[spread(self.count, self._raw[0].nbytes)])

    def flush(self) -> None:
        for array in (self._raw, self._outputs):
            if isinstance(array, np.memmap):
                array.flush()
