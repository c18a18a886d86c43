"""Evolution: a small policy's integers are changed until the environment itself returns more.

Sources: CMA-ES (Hansen and Ostermeier 2001, by the library ``cma``) on the true return of the deployed policy, with
diagonal covariances where numbers are many (sep-CMA-ES, Ros and Hansen 2008); common random numbers, linear policies
and less reward for mere survival as in augmented random search (Mania et al. 2018, section 4). Neither critics nor
gradients.
"""

from __future__ import annotations

import json
import math
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.config import PressConfig, dumps
from policypress.errors import RunError, UnsupportedError
from policypress.files import write_whole
from policypress.measure.returns import worth
from policypress.policy.canonical import answered, canonical
from policypress.policy.genome import Genome
from policypress.policy.policy import Policy
from policypress.rl.distill import Distill
from policypress.rl.measured import returns_of
from policypress.rl.method import Method
from policypress.rl.rollouts import Rollouts
from policypress.rl.runs import Progress
from policypress.rl.sources import OpenedAgent

START = "start.policy"
"""In the folder of a checkpoint: the policy to start from, a distilled student if there is none."""
MOST_NUMBERS = 20_000
_FULL_COVARIANCE = 300  # numbers; beyond, covariances cost more than they tell
_NOISES = (0.4, 0.2, 0.1, 0.05)  # standard deviations to begin with, in units of the genome
_RACED = 10  # generations that tell which of them gets furthest
_PROBED = 5  # episodes that tell how far
_HORIZONS = (0.25, 0.5, math.inf)  # of an episode of the agent's: how much of theirs candidates play
_HORIZON_PATIENCE = 6  # checks without a better policy until they play more of it
_CHECK_SEED = 100_000  # policies are compared from reset(seed=100000 + i)
_CONFIRMED = 4  # times as many episodes as a check has decide where it finds a better one
_CHECK_SHARE = 0.15  # of the environment steps, about
_PATIENCE = 10  # checks without a better policy, and one more for
_NUMBERS_A_CHECK = 20
_GENERATION_SEED = 1_000_000  # and above: episodes that change the policy
_REMEMBERED = 50  # of them, the latest
_AGAIN = 0.5  # of them: one of the hardest tenth that is remembered
_SAVE_SECONDS = 20.0
_VERSION = 3  # of what is saved


@dataclass(frozen=True)
class _Effort:
    """Times the usual number of ``candidates``, ``episodes`` of each and of ``checks``, and what a step costs: a share
    of what the agent earns a step. Without this ``upkeep`` a robot that is paid for not falling learns to stand still.
    """

    candidates: int
    episodes: int
    checks: int
    upkeep: float = 0.0


_EFFORTS = (_Effort(1, 1, 10, 0.25), _Effort(2, 1, 10, 0.25), _Effort(4, 1, 20), _Effort(4, 2, 40), _Effort(4, 4, 80))
"""Cheap ones as long as they get further."""


class Evolve(Method):
    """A distilled student whose integers are then evolved."""

    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        Distill().check(agent, config)
        if not config.student.compression.activation_bits:
            raise UnsupportedError("evolve changes integers: leave out --activation-bits 0.")

    @contextmanager
    def prepare(
        self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1
    ) -> Iterator[Evolution]:
        start = None if folder is None else folder / START
        if start is not None and start.exists():
            policy = Policy.load(start)
        else:
            policy = Distill().press(agent, config, folder)
            if start is not None:
                policy.save(start)
        with Rollouts(config.environment, policy.observation, jobs) as rollouts:
            yield Evolution(policy, rollouts, config, folder, lambda: _episode(agent, config))


@dataclass(frozen=True)
class _Episode:
    """What an agent ``earned`` a step, and the mean ``length`` of its episodes."""

    earned: float
    length: float


@dataclass
class _State:
    """Where an evolution stands: the agent's ``episode``, the ``best`` vector of the genome, its ``worth`` in
    checks of this effort (the least, of those few episodes and of as many as confirm it) and what it ``returned``
    there, the environment ``steps`` made, then and at the last check, what that check took, how many checks in a
    row found nothing better, which of the horizons candidates play to, what the middle candidate was worth in the
    latest episodes, by their seeds, and the strategy that is at work."""

    generator: np.random.Generator
    episode: _Episode
    best: NDArray[np.float64]
    worth: float | None = None
    returned: float | None = None
    steps: int = 0
    checked: int = 0
    check_steps: int = 0
    fruitless: int = 0
    effort: int = 0
    horizon: int = 0
    generations: int = 0
    met: dict[int, float] = field(default_factory=dict)
    strategy: Any = None


class Evolution:
    """One policy on its way: ``run`` changes its integers for ``config.steps`` environment steps.

    It begins with few candidates, the first quarter of an episode for each, and of several noises the one that gets
    furthest; when it gets no further, they play longer, to the end at last; then it begins anew at the best policy,
    with twice as many candidates, then with more episodes too. Same settings, same policy, whatever the number of
    processes. With a ``folder`` it is checkpointed there. ``episode`` tells of the agent's episodes, and is asked once.

    Raises UnsupportedError for policies that cannot be evolved, RunError for a checkpoint of other settings.
    """

    def __init__(
        self,
        start: Policy,
        rollouts: Rollouts,
        config: PressConfig,
        folder: Path | None = None,
        episode: Callable[[], _Episode] = lambda: _Episode(0.0, math.inf),
    ) -> None:
        self._start, self._rollouts, self._config = start, rollouts, config
        self._told = f"{_VERSION} {dumps(replace(config, steps=1))}"
        self._genome = Genome(start, config.code_rms)
        if self._genome.size > MOST_NUMBERS:
            raise UnsupportedError(
                f"{self._genome.size:,} numbers are too many to evolve, {MOST_NUMBERS:,} at most: give narrower "
                "--hidden, or use --method finetune."
            )
        self._checkpoint = None if folder is None else folder / "evolution.pickle"
        self._state: _State
        if self._checkpoint is not None and self._checkpoint.exists():
            told, self._state = pickle.loads(self._checkpoint.read_bytes())
            if told != self._told:
                raise RunError(
                    f"{folder} holds an evolution of other settings, or of another version: choose another folder or "
                    "remove it."
                )
        else:
            self._state = _State(np.random.default_rng(config.student.seed), episode(), self._genome.start)

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Evolves until the steps are made (True), or for ``seconds``."""
        state, of = self._state, self._config.steps
        begun = saved = time.monotonic()
        while state.steps < of and time.monotonic() - begun < seconds:
            if state.worth is None:
                self._check(state.best)
            if state.strategy is None:
                state.strategy = self._begun()
            self._generation(state.strategy)
            state.generations += 1
            if state.steps - state.checked > state.check_steps / _CHECK_SHARE:
                self._check(np.asarray(state.strategy.mean))
            if state.fruitless >= _HORIZON_PATIENCE and state.horizon < len(_HORIZONS) - 1:
                state.worth, state.horizon, state.fruitless, state.met = None, state.horizon + 1, 0, {}
            elif state.fruitless >= _PATIENCE + self._genome.size // _NUMBERS_A_CHECK:
                state.effort = min(state.effort + 1, len(_EFFORTS) - 1)
                state.worth, state.strategy, state.fruitless, state.met = None, None, 0, {}
            if time.monotonic() - saved > _SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
            if progress is not None:
                progress(min(state.steps, of), of, state.returned)
        self._save()
        return state.steps >= of

    def freeze(self) -> Policy:
        """The best policy so far."""
        told = {"evolve": json.loads(dumps(self._config)), "evolved_steps": self._state.steps}
        policy = canonical(self._genome.policy(self._state.best))
        policy = replace(policy, provenance={**self._start.provenance, **told})
        return answered(policy, self._start.test_vectors)

    def _begun(self) -> Any:
        """A strategy at the best policy, some generations old: of several noises, the one that got furthest. (The
        first may be given, and is then new.)"""
        import cma

        state, candidates = self._state, _EFFORTS[self._state.effort].candidates
        usual = 4 + int(3 * math.log(self._genome.size))  # Hansen 2016, table 1
        options = {
            "verbose": -9,
            "popsize": candidates * usual,
            "seed": math.nan,  # none is used: numbers come from the generator
            "randn": _Normal(state.generator),
            "CMA_diagonal": self._genome.size > _FULL_COVARIANCE,
        }
        if self._config.noise and not state.generations:
            return cma.CMAEvolutionStrategy(state.best, self._config.noise, options)
        strategies = [cma.CMAEvolutionStrategy(state.best, noise, options) for noise in _NOISES]
        for strategy in strategies:
            for _ in range(_RACED // candidates):
                self._generation(strategy)
        worths = self._worth([strategy.mean for strategy in strategies], range(_CHECK_SEED, _CHECK_SEED + _PROBED))
        return strategies[int(np.argmax(worths))]

    def _generation(self, strategy: Any) -> None:
        """Candidates, played from the same seeds all of them, and what the strategy makes of them."""
        seeds = self._seeds(_EFFORTS[self._state.effort].episodes)
        limit = max(1.0, _HORIZONS[self._state.horizon] * self._state.episode.length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of returns that are all the same: efforts grow then
            vectors = strategy.ask()
            shaped, _ = self._played(vectors, seeds, limit)
            strategy.tell(vectors, [-worth(one) for one in shaped.tolist()])
        for seed, middle in zip(seeds, np.median(shaped, axis=0).tolist(), strict=True):
            self._state.met.pop(seed, None)
            self._state.met[seed] = middle
        for seed in list(self._state.met)[:-_REMEMBERED]:
            del self._state.met[seed]

    def _seeds(self, count: int) -> list[int]:
        """Of episodes that change the policy: new ones, or again some of the hardest, where candidates fall from few
        beginnings only."""
        generator, met = self._state.generator, self._state.met
        hardest = sorted(met, key=met.__getitem__)[: len(met) // 10]
        seeds: list[int] = []
        for _ in range(count):
            again = hardest and generator.random() < _AGAIN
            seeds.append(
                hardest.pop(generator.integers(len(hardest)))
                if again
                else _GENERATION_SEED + int(generator.integers(2**30))
            )
        return seeds

    def _worth(self, vectors: Sequence[NDArray[np.float64]], seeds: Sequence[int]) -> list[float]:
        """What policies are worth in episodes of these seeds."""
        return [worth(one) for one in self._played(vectors, seeds)[0].tolist()]

    def _played(
        self, vectors: Sequence[NDArray[np.float64]], seeds: Sequence[int], limit: float = math.inf
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of policies in the first ``limit`` steps of episodes of these seeds: returns less what steps cost, and
        returns, (policies, seeds) each."""
        state, before = self._state, self._rollouts.steps
        returns, lengths = self._rollouts.play([self._genome.policy(vector) for vector in vectors], seeds, limit)
        state.steps += self._rollouts.steps - before
        return returns - _EFFORTS[state.effort].upkeep * state.episode.earned * lengths, returns

    def _check(self, vector: NDArray[np.float64]) -> None:
        """Takes a policy for the best if it is worth more than that in the episodes of checks: in a few and, once
        candidates play to the end, in more.

        A robot that turns over from one beginning in ten would pass the few now and then, and stay.
        """
        state, before = self._state, self._state.steps
        few = _EFFORTS[state.effort].checks
        shaped, returns = self._played([vector], range(_CHECK_SEED, _CHECK_SEED + few))
        found = worth(shaped[0].tolist())
        if state.horizon == len(_HORIZONS) - 1 and (state.worth is None or found > state.worth):
            more = self._played([vector], range(_CHECK_SEED + few, _CHECK_SEED + _CONFIRMED * few))
            shaped, returns = (np.concatenate(both, axis=1) for both in zip((shaped, returns), more, strict=True))
            found = min(found, worth(shaped[0].tolist()))
        state.checked, state.check_steps = state.steps, state.steps - before
        state.fruitless += 1
        if state.worth is None or found > state.worth:
            state.best, state.worth, state.returned, state.fruitless = vector.copy(), found, float(returns.mean()), 0

    def _save(self) -> None:
        if self._checkpoint is not None:
            write_whole(self._checkpoint, pickle.dumps((self._told, self._state)))


def _episode(agent: OpenedAgent, config: PressConfig) -> _Episode:
    found = returns_of(agent.teacher, config.environment, _PROBED, _CHECK_SEED)
    return _Episode(sum(found.returns) / sum(found.lengths), sum(found.lengths) / len(found.lengths))


@dataclass
class _Normal:
    """Normal numbers as ``cma`` asks for them, of a generator that a checkpoint keeps."""

    generator: np.random.Generator

    def __call__(self, *shape: int) -> NDArray[np.float64]:
        return self.generator.standard_normal(shape)
