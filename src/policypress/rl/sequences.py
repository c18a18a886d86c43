"""Distillation over sequences: a student that remembers learns to act as its teacher does, in episodes that its own
actions, chosen with its own state, lead through.

Sources: DAgger (Ross et al. 2011) for who acts; Kapturowski et al. 2019 (R2D2) for the first steps of a piece, which
fill the state and are not learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.compression.freeze import spread
from policypress.compression.graph import trace
from policypress.compression.student import State, unroll
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, DivergedError
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.rl.environments import EnvLike, description_of, make_envs, padding_of
from policypress.rl.freeze import freeze_student
from policypress.rl.imitation import imitation_loss
from policypress.rl.runs import Progress
from policypress.rl.teacher import Teacher

SequenceAnswers = Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[np.float32]]
"""``answers(observations, starts)``: a teacher's outputs (rows, outputs) for raw observations (rows, ...), the same
rows in every call; it keeps its own state of each, and forgets it where ``starts`` (rows,) says that an episode begins.
"""

_REDRAW = 0.02  # of the steps: who acts is drawn anew
_ALL_STUDENT = 0.3  # of the collections: from then on the student alone acts
_DECAY = 0.4  # of the batches, the last ones: the learning rate falls to zero


@dataclass(frozen=True)
class SequenceConfig:
    """How a student is distilled over sequences.

    ``compression``: how it is pressed meanwhile. ``batches`` of ``pieces`` pieces, each of ``burn_in`` steps that fill
    the state and ``steps`` that are learned from. ``states``: observations in all, met in ``rows`` environments side by
    side, in ``collections`` goes behind the first, by the teacher alone, of a tenth of them.
    """

    compression: CompressionConfig = field(default_factory=lambda: CompressionConfig(sparsity=0.0, weight_bits=6))
    batches: int = 20_000
    pieces: int = 32
    steps: int = 24
    burn_in: int = 8
    states: int = 200_000
    rows: int = 16
    collections: int = 40
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


def distil_sequences(
    teacher: Teacher,
    network: nn.Sequential,
    env: EnvLike,
    config: SequenceConfig,
    answers: SequenceAnswers | None = None,
    progress: Progress | None = None,
) -> Policy:
    """The policy of ``network`` (with ``Recurrent`` cells or ``Frames``; any other does too), trained in ``env`` to act
    as ``teacher`` does.

    ``answers``: of a teacher that remembers; None: ``teacher.outputs``. Observations are vectors. Raises DivergedError
    for a loss that is not finite, ConfigError and UnsupportedError for what cannot be.
    """
    if teacher.observation.image:
        raise ConfigError("only students of vectors are distilled over sequences: give an environment without images.")
    torch.manual_seed(config.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    compressor = Compressor(trace(network), optimizer, config.compression, config.batches, seed=config.seed)
    tape = _Tape(teacher, answers or _stateless(teacher), env, config)
    generator = torch.Generator().manual_seed(config.seed)
    try:
        tape.extend(config.first, compressor, share=0.0)
        every = max(1, math.ceil(config.batches * (1 - _DECAY / 4) / config.collections))
        left = math.ceil(config.states / config.rows) - config.first
        for batch in range(config.batches):
            if batch and batch % every == 0:
                network.eval()
                share = min(1.0, batch / every / (_ALL_STUDENT * config.collections))
                tape.extend(min(math.ceil(left / config.collections), tape.room), compressor, share)
                network.train()
            compressor.step(batch)
            optimizer.param_groups[0]["lr"] = config.learning_rate * _decay(batch / config.batches)
            x, wanted, starts, learned = tape.pieces(generator)
            outputs, _ = unroll(compressor.graph, x, starts)
            loss = imitation_loss(teacher, outputs[learned], wanted[learned])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(f"the student's loss is {value} in batch {batch}: lower learning_rate.")
            if progress is not None:
                progress(batch + 1, config.batches, value)
    finally:
        tape.close()
    compressor.step(config.batches)
    network.eval()
    told = {"sequences": asdict(config)}
    return freeze_student(teacher, compressor.graph, told, tape.met)


def answers_of(policy: Policy) -> SequenceAnswers:
    """The outputs of a policy that remembers, which keeps its state here."""
    state: tuple[NDArray[Any], ...] | None = None

    def answers(observations: NDArray[Any], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        nonlocal state
        outputs, state = policy.step(observations, state, starts)
        return outputs

    return answers


def _stateless(teacher: Teacher) -> SequenceAnswers:
    def answers(observations: NDArray[Any], _: NDArray[np.bool_]) -> NDArray[np.float32]:
        x = torch.from_numpy(reference.observe(teacher.observation, observations))
        found: NDArray[np.float32] = teacher.outputs(x).numpy()
        return found

    return answers


class _Tape:
    """What was met in environments side by side, step after step, with the teacher's answers."""

    def __init__(self, teacher: Teacher, answers: SequenceAnswers, env: EnvLike, config: SequenceConfig) -> None:
        described = description_of(env)
        padding = padding_of(teacher.observation, described.frame_stack if described else 1)
        self._teacher, self._answers, self._config = teacher, answers, config
        self._envs = make_envs(env, config.rows, padding=padding)
        self._rows = len(self._envs)
        self._random = np.random.default_rng(config.seed)
        seeds = np.random.SeedSequence(config.seed).generate_state(self._rows)
        self._now = [made.reset(seed=int(seed))[0] for made, seed in zip(self._envs, seeds, strict=True)]
        self._begins = np.ones(self._rows, bool)
        self._by_student = np.zeros(self._rows, bool)
        self._state: State | None = None  # the student's own
        self.count, steps = 0, math.ceil(config.states / config.rows)  # of every row, so far and in the end
        self._x = torch.zeros(steps, self._rows, *teacher.observation.shape)
        self._wanted = torch.zeros(steps, self._rows, teacher.output_count)
        self._starts = torch.zeros(steps, self._rows, dtype=torch.bool)
        self._raw = list[NDArray[Any]]()  # of the first row's beginning, for test vectors

    @property
    def room(self) -> int:
        """Steps of every row that may still be met."""
        return len(self._x) - self.count

    @property
    def met(self) -> NDArray[Any]:
        """Observations of one row, one after another."""
        found = np.stack(self._raw)
        return found[: len(spread(len(found), found[0].nbytes))]

    @torch.no_grad()
    def extend(self, steps: int, compressor: Compressor, share: float) -> None:
        """Goes ``steps`` steps in every row; the student acts in ``share`` of the time, the teacher in the rest."""
        transform, action = self._teacher.observation, self._teacher.action
        for _ in range(steps):
            now, begins = np.stack(self._now), self._begins
            x, starts = torch.from_numpy(reference.observe(transform, now)), torch.from_numpy(begins.copy())
            wanted = np.asarray(self._answers(now, begins), np.float32)
            outputs, self._state = unroll(compressor.graph, x[None], starts[None], self._state)
            for kept, values in ((self._x, x), (self._wanted, torch.from_numpy(wanted)), (self._starts, starts)):
                kept[self.count] = values
            self.count += 1
            if len(self._raw) < 32:
                self._raw.append(np.asarray(now[0], transform.dtype))
            redrawn = self._random.random(self._rows) < _REDRAW
            self._by_student[redrawn | begins] = self._random.random(int((redrawn | begins).sum())) < share
            theirs, ours = reference.act(action, wanted), reference.act(action, outputs[0].numpy())
            for row, made in enumerate(self._envs):
                chosen = ours[row] if self._by_student[row] else theirs[row]
                self._now[row], _, terminated, truncated, _ = made.step(chosen)
                self._begins[row] = terminated or truncated
                if self._begins[row]:
                    self._now[row], _ = made.reset()

    def pieces(self, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Observations and answers (steps, pieces, ...), where episodes start, and which steps are to be learned from:
        those behind the first few, or behind a start."""
        config = self._config
        length = config.burn_in + config.steps
        first = torch.randint(self.count - length + 1, (config.pieces,), generator=generator)
        rows = torch.randint(self._rows, (config.pieces,), generator=generator)
        places = first + torch.arange(length)[:, None], rows
        starts = self._starts[places]
        learned = starts.cumsum(0) > 0
        learned[config.burn_in :] = True
        return self._x[places], self._wanted[places], starts, learned

    def close(self) -> None:
        for made in self._envs:
            made.close()


def _decay(progress: float) -> float:
    """Factor of the learning rate: 1, then half a cosine to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * max(0.0, (progress - (1.0 - _DECAY)) / _DECAY)))
