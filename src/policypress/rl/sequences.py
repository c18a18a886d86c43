"""Distillation over sequences: a student that remembers learns to act as its teacher does, in episodes that its own
actions, chosen with its own state, lead through.

Sources: DAgger (Ross et al. 2011) for who acts; Kapturowski et al. 2019 (R2D2) for the first steps of a piece, which
fill the state and are not learned from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.centring import Centring
from policypress.compression.compressor import Compressor
from policypress.compression.freeze import spread
from policypress.compression.graph import trace
from policypress.compression.recurrent import Recurrent, remembering
from policypress.compression.student import State, fresh, unroll
from policypress.config import CompressionConfig, DistillConfig, dumps
from policypress.errors import ConfigError, DivergedError
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.rl.environments import EnvLike, description_of, make_envs, padding_of
from policypress.rl.freeze import freeze_student
from policypress.rl.imitation import DECAY, decay, imitation_loss
from policypress.rl.recorded import Recorded
from policypress.rl.runs import Progress, array_in
from policypress.rl.sources import Disturbances, placed
from policypress.rl.student_checkpoint import StudentCheckpoint
from policypress.rl.teacher import Teacher

_REDRAW = 0.02  # of the steps: who acts is drawn anew
_ALL_STUDENT = 0.3  # of the collections: from then on the student alone acts
_CHECKPOINTS = 50
_SHOWN = 32  # observations of one row's beginning that become test vectors


@dataclass(frozen=True)
class SequenceConfig:
    """How a student is distilled over sequences.

    ``compression``: how it is pressed meanwhile. ``batches`` of ``pieces`` pieces, each of ``burn_in`` steps that fill
    the state and ``steps`` that are learned from. ``states``: observations in all, met in ``rows`` environments side by
    side, in ``collections`` goes behind the first, by the teacher alone, of a tenth of them. ``disturbances``: how many
    ``sources.Disturbances`` begin a step.
    """

    compression: CompressionConfig = field(default_factory=lambda: CompressionConfig(sparsity=0.0, weight_bits=6))
    batches: int = 20_000
    pieces: int = 32
    steps: int = 24
    burn_in: int = 8
    states: int = 200_000
    rows: int = 16
    collections: int = 40
    disturbances: float = 0.0
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("batches", "pieces", "steps", "states", "rows", "collections")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.burn_in < 0 or self.seed < 0 or not self.learning_rate > 0:
            raise ConfigError("burn_in and seed must not be negative, and learning_rate must be positive.")
        if self.first < self.burn_in + self.steps:
            raise ConfigError(
                f"states={self.states} are too few for pieces of {self.burn_in + self.steps} steps in {self.rows} rows:"
                f" give {10 * self.rows * (self.burn_in + self.steps):,} at least."
            )

    @property
    def first(self) -> int:
        """Steps of every row that the teacher alone goes."""
        return math.ceil(self.states / self.rows / 10)


def over_sequences(teacher: Teacher, config: DistillConfig) -> bool:
    """Whether a student is distilled over sequences: where it remembers, or who it learns from."""
    return teacher.remembers or config.memory != "none"


def check_over_sequences(teacher: Teacher, config: DistillConfig) -> None:
    """Raises ConfigError or UnsupportedError, before any work, for a student that cannot be."""
    if config.critic_weight:
        raise ConfigError("critics judge single observations: leave --critic-weight out where something is remembered.")
    if config.falls:
        raise ConfigError("pieces of episodes are learned from alike: leave --falls out where something is remembered.")
    sequences = config_of(config)
    network = _network(teacher, config)
    Compressor(trace(network), torch.optim.Adam(network.parameters()), sequences.compression, sequences.batches)


@contextmanager
def distilled_over_sequences(
    teacher: Teacher, source: EnvLike | Recorded, config: DistillConfig, folder: Path | None
) -> Iterator[SequenceDistillation]:
    """The work, ready to run: a student as ``config`` says."""
    torch.manual_seed(config.seed)
    network, teacher = _network(teacher, config), placed(teacher, source)
    work = SequenceDistillation(
        teacher, network, source, config_of(config), json.loads(dumps(config)), folder, fresh=True
    )
    try:
        yield work
    finally:
        work.close()


@dataclass(frozen=True)
class Met:
    """What a teacher met in episodes of its own, side by side: observations as the network sees them, (steps, rows,
    ...), where episodes begin, (steps, rows), and ``some`` observations as they came."""

    x: torch.Tensor
    starts: torch.Tensor
    some: NDArray[Any]


def met_in_episodes(teacher: Teacher, source: EnvLike | Recorded, compressor: Compressor, config: DistillConfig) -> Met:
    """About ``config.states`` observations of the teacher's own episodes; of a log, in its order. ``compressor``
    presses whoever is to learn from them."""
    tape = _tape(teacher, source, config_of(config))
    try:
        tape.extend(config.states, compressor, share=0.0)
        return Met(tape.x, tape.starts, tape.met)
    finally:
        tape.close()


def distil_sequences(
    teacher: Teacher,
    network: nn.Sequential,
    env: EnvLike,
    config: SequenceConfig,
    progress: Progress | None = None,
) -> Policy:
    """The policy of ``network`` (with ``Recurrent`` cells or ``Frames``; any other does too), trained in ``env`` to act
    as ``teacher`` does, which may itself remember.

    Observations are vectors. Raises DivergedError for a loss that is not finite, ConfigError and UnsupportedError for
    what cannot be.
    """
    work = SequenceDistillation(teacher, network, env, config)
    try:
        work.run(progress)
        return work.freeze()
    finally:
        work.close()


class SequenceDistillation:
    """One student on its way: ``run`` trains it to the end, ``freeze`` gives its policy.

    ``source``: the environment that it acts in, or a log, of which it takes everything at once. ``told``: what stands
    on its card. ``fresh``: ``network`` has learned nothing yet. With a ``folder`` it is checkpointed there, and goes on
    from its checkpoint if there is one, in episodes that begin anew. Raises RunError for a checkpoint of other
    settings.
    """

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Sequential,
        source: EnvLike | Recorded,
        config: SequenceConfig,
        told: dict[str, Any] | None = None,
        folder: Path | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        check_vectors(teacher)
        self._teacher, self._network, self._config, self._told = teacher, network, config, told
        self._checkpoint = StudentCheckpoint(folder, json.dumps([asdict(config), told], sort_keys=True))
        saved = self._checkpoint.saved
        torch.manual_seed(config.seed)
        # Fused where there is a cell; other students learn to the bits that they have always had.
        fused = any(isinstance(module, Recurrent) for module in network.modules())
        self._optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=fused)
        centring = Centring(network, self._optimizer) if fresh else None
        self._compressor = Compressor(
            trace(network), self._optimizer, config.compression, config.batches, seed=config.seed
        )
        self._generator = torch.Generator().manual_seed(config.seed)
        self._done = 0
        self._tape = _tape(teacher, source, config, folder, kept=0 if saved is None else saved["count"])
        if saved is None:
            self._tape.extend(config.first, self._compressor, share=0.0)
        if centring is not None:
            centring.centre(self._tape.x[: config.first].flatten(0, 1))
        if saved is not None:
            self._done = saved["done"]
            self._checkpoint.restore(network, self._optimizer, self._compressor, self._generator)

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Trains what is left to train, or until the first checkpoint after ``seconds``; whether it is finished."""
        config, network, deadline = self._config, self._network, time.monotonic() + seconds
        every = max(1, math.ceil(config.batches * (1 - DECAY / 4) / config.collections))
        save_every = max(1, config.batches // _CHECKPOINTS)
        left = math.ceil(config.states / config.rows) - config.first
        while self._done < config.batches:
            batch = self._done
            if batch and batch % every == 0:
                network.eval()
                share = min(1.0, batch / every / (_ALL_STUDENT * config.collections))
                self._tape.extend(math.ceil(left / config.collections), self._compressor, share)
                network.train()
            loss = self._learn(batch)
            self._done += 1
            if progress is not None:
                progress(self._done, config.batches, loss)
            if self._done % save_every == 0 or self._done == config.batches:
                self._save()
                if self._done < config.batches and time.monotonic() >= deadline:
                    return False
        self._compressor.step(config.batches)
        network.eval()
        return True

    def freeze(self) -> Policy:
        """The student as it stands."""
        told: dict[str, Any] = {"sequences": asdict(self._config)}
        if self._told is not None:
            told = {"distill": self._told, "batches": self._done}
        return freeze_student(self._teacher, self._compressor.graph, told, self._tape.met)

    def close(self) -> None:
        self._tape.close()

    def _learn(self, batch: int) -> float:
        self._compressor.step(batch)
        self._optimizer.param_groups[0]["lr"] = self._config.learning_rate * decay(batch / self._config.batches)
        x, wanted, starts, learned = self._tape.pieces(self._generator)
        outputs, _ = unroll(self._compressor.graph, x, starts)
        outputs, wanted = (values.index_select(0, learned) for values in (outputs.flatten(0, 1), wanted))
        loss = imitation_loss(self._teacher, outputs, wanted)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the student's loss is {value} in batch {batch}: lower --learning-rate.")
        return value

    def _save(self) -> None:
        if self._checkpoint.kept:
            self._tape.flush()
        told = {"done": self._done, "count": self._tape.count}
        self._checkpoint.save(self._network, self._optimizer, self._compressor, self._generator, **told)


def config_of(config: DistillConfig) -> SequenceConfig:
    """As many pieces a batch as have its observations, and no more rows than there are observations for; ConfigError
    for too few."""
    length = SequenceConfig.steps + SequenceConfig.burn_in
    # Without a memory an answer is of one observation, and those of one piece would be nearly the same.
    steps, burn_in = (1, 0) if config.memory == "none" else (SequenceConfig.steps, SequenceConfig.burn_in)
    return SequenceConfig(
        config.compression,
        steps=steps,
        burn_in=burn_in,
        rows=max(1, min(SequenceConfig.rows, config.states // (10 * length))),
        batches=config.batches,
        pieces=math.ceil(config.batch_size / steps),
        states=config.states,
        collections=config.collections,
        disturbances=config.disturbances,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )


def _network(teacher: Teacher, config: DistillConfig) -> nn.Sequential:
    """What remembers, and hidden layers behind it, with fresh weights."""
    check_vectors(teacher)
    if not config.hidden:
        raise ConfigError(
            "a student that is distilled over sequences is no copy of its teacher: give its widths, for example "
            "--hidden 16 (hidden=(16,)), or none."
        )
    memory, width = remembering(config.memory, math.prod(teacher.observation.shape))
    hidden = () if config.hidden == "none" else config.hidden
    layers = list(fresh(width, hidden, teacher.output_count, config.hidden_activation or "relu"))
    return nn.Sequential(*memory, *layers[1:])  # without its Flatten: these are vectors


def check_vectors(teacher: Teacher) -> None:
    """Raises ConfigError where the teacher sees images."""
    if len(teacher.observation.shape) != 1:
        raise ConfigError("only students of vectors are distilled over sequences: give an environment without images.")


class _Tape:
    """What was met in rows side by side, step after step, with the teacher's answers.

    ``steps`` of each of ``rows`` find place, in files under ``folder`` if there is one, ``kept`` of them from before.
    """

    def __init__(
        self, teacher: Teacher, config: SequenceConfig, steps: int, rows: int, folder: Path | None, kept: int
    ) -> None:
        self.count, self._config, self._steps, self._rows = kept, config, steps, rows  # of every row so far
        shape, dtype = teacher.observation.shape, teacher.observation.dtype
        self._arrays = (
            array_in(folder, "states", (steps, rows, *shape), "float32", kept),
            array_in(folder, "outputs", (steps, rows, teacher.output_count), "float32", kept),
            array_in(folder, "starts", (steps, rows), "bool", kept),
            array_in(folder, "shown", (_SHOWN, *shape), dtype, kept),
        )
        self._x, self._wanted, self._starts = (torch.from_numpy(array) for array in self._arrays[:3])
        self._teacher, self._states = teacher, list[Any]([None] * rows)  # the teacher's own

    @property
    def x(self) -> torch.Tensor:
        """Observations so far, as the network sees them, (steps, rows, ...)."""
        return self._x[: self.count]

    @property
    def starts(self) -> torch.Tensor:
        """Where episodes begin, (steps, rows)."""
        return self._starts[: self.count]

    @property
    def met(self) -> NDArray[Any]:
        """Observations of one row, one after another."""
        found = np.array(self._arrays[3][: min(self.count, _SHOWN)])
        return found[: len(spread(len(found), found[0].nbytes))]

    def extend(self, steps: int, compressor: Compressor, share: float) -> None:
        """Goes at most ``steps`` steps more in every row."""

    def answered(self, now: NDArray[Any], begins: NDArray[np.bool_]) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """Keeps observations (rows, ...), which begin episodes where ``begins`` says so, with what the teacher answers:
        both as the network has them."""
        x = torch.from_numpy(reference.observe(self._teacher.observation, now))
        before = [None if begin else state for begin, state in zip(begins, self._states, strict=True)]
        wanted, after = self._teacher.step(x, before)
        self._states = list(after)
        kept = ((self._x, x), (self._wanted, wanted), (self._starts, torch.from_numpy(begins.copy())))
        for place, values in kept:
            place[self.count] = values
        if self.count < _SHOWN:
            self._arrays[3][self.count] = now[0]
        self.count += 1
        return x, wanted.numpy()

    def pieces(self, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Observations (steps, pieces, ...), answers (steps * pieces, ...), where episodes start, and the places of the
        answers that are to be learned from: those behind the first few steps, or behind a start."""
        config = self._config
        length = config.burn_in + config.steps
        first = torch.randint(self.count - length + 1, (config.pieces,), generator=generator)
        rows = torch.randint(self._rows, (config.pieces,), generator=generator)
        places = ((first + torch.arange(length)[:, None]) * self._rows + rows).flatten()
        starts, x, wanted = (
            kept.flatten(0, 1).index_select(0, places) for kept in (self._starts, self._x, self._wanted)
        )
        starts = starts.view(length, -1)
        learned = starts.cumsum(0) > 0
        learned[config.burn_in :] = True
        return x.view(length, -1, *x.shape[1:]), wanted, starts, learned.flatten().nonzero()[:, 0]

    def flush(self) -> None:
        for array in self._arrays:
            if isinstance(array, np.memmap):
                array.flush()

    def close(self) -> None:
        """Closes what it was met in."""


def _tape(
    teacher: Teacher, source: EnvLike | Recorded, config: SequenceConfig, folder: Path | None = None, kept: int = 0
) -> _Tape:
    """What is met in an environment, ``kept`` steps of it from before, or all of a log."""
    if isinstance(source, Recorded):
        return _Logged(teacher, source, config, folder, kept=0)
    return _Played(teacher, source, config, folder, kept)


class _Logged(_Tape):
    """A log, one episode after another in a single row."""

    def __init__(
        self, teacher: Teacher, recorded: Recorded, config: SequenceConfig, folder: Path | None, kept: int
    ) -> None:
        steps, length = min(config.states, recorded.steps), config.burn_in + config.steps
        if steps < length:
            raise ConfigError(
                f"{recorded.path} leaves {steps:,} observations to learn from, fewer than a piece of an episode has "
                f"({length}): record more."
            )
        super().__init__(teacher, config, steps, 1, folder, kept)
        for episode in recorded.learned:
            for number, observation in enumerate(episode[: steps - self.count]):
                self.answered(observation[None], np.array([number == 0]))


class _Played(_Tape):
    """Environments side by side, in which the teacher or the student acts."""

    def __init__(self, teacher: Teacher, env: EnvLike, config: SequenceConfig, folder: Path | None, kept: int) -> None:
        described = description_of(env)
        padding = padding_of(teacher.observation, described.frame_stack if described else 1)
        self._envs = make_envs(env, config.rows, padding=padding)
        rows = len(self._envs)
        super().__init__(teacher, config, math.ceil(config.states / config.rows), rows, folder, kept)
        begun = [config.seed, kept] if kept else config.seed
        self._random = np.random.default_rng(begun)
        seeds = np.random.SeedSequence(begun).generate_state(rows)
        self._now = [made.reset(seed=int(seed))[0] for made, seed in zip(self._envs, seeds, strict=True)]
        self._begins = np.ones(rows, bool)
        self._by_student = np.zeros(rows, bool)
        self._disturbed = Disturbances(self._envs, config.disturbances, config.seed)
        self._own: State | None = None  # the student's own

    @torch.no_grad()
    def extend(self, steps: int, compressor: Compressor, share: float) -> None:
        """Goes at most ``steps`` steps in every row; the student acts in ``share`` of the time, the teacher in the
        rest."""
        action = self._teacher.action
        for _ in range(min(steps, self._steps - self.count)):
            begins = self._begins.copy()
            x, wanted = self.answered(np.stack(self._now), begins)
            outputs, self._own = unroll(compressor.graph, x[None], torch.from_numpy(begins)[None], self._own)
            redrawn = self._random.random(self._rows) < _REDRAW
            self._by_student[redrawn | begins] = self._random.random(int((redrawn | begins).sum())) < share
            theirs, ours = reference.act(action, wanted), reference.act(action, outputs[0].numpy())
            for row, made in enumerate(self._envs):
                chosen = self._disturbed(row, ours[row] if self._by_student[row] else theirs[row])
                self._now[row], _, terminated, truncated, _ = made.step(chosen)
                self._begins[row] = terminated or truncated
                if self._begins[row]:
                    self._now[row], _ = made.reset()

    def close(self) -> None:
        for made in self._envs:
            made.close()
