"""Where agents and states come from, whatever the format of the one and the origin of the other."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.config import Environment, Opening
from policypress.errors import ConfigError, RunError
from policypress.policy.policy import Policy
from policypress.rl.environments import EnvLike, description_of, make_envs, makes_env, padding_of
from policypress.rl.recorded import Recorded, RecordedStates
from policypress.rl.teacher import Act, Teacher, acting

States = Callable[[Act, Act, float, int], NDArray[Any]]
"""``states(teacher, student, share, count)``: ``count`` raw observations, met while the student acts in ``share`` of
the time and the teacher in the rest. Recorded logs, which do not depend on who acts, may ignore the first three."""

_REDRAW = 0.02  # of the steps: who acts is drawn anew
_DISTURBED = (2, 11)  # steps that a disturbance takes, at least, and more than at most
_TIGHT = 20.0  # standard deviations: of whatever distribution, one in 400 at most lies beyond (Chebyshev)


@dataclass(frozen=True)
class Source:
    """The files of an agent; ``rl.formats.open_agent`` opens them."""

    agent: Path
    vecnormalize: Path | None = None
    trust: bool = False
    """Open the agent by unpickling, which can run any code in it."""
    force: bool = False
    """Go on where the agent's file or its return say that statistics of VecNormalize are missing or wrong."""
    opening: Opening = field(default_factory=Opening)
    """What a file of another framework does not say itself."""


@dataclass(frozen=True, eq=False)
class OpenedAgent:
    """An agent whose files have been read, as it acts in ``env``, or on what was ``recorded`` where that is None.

    ``algo``: the algorithm that trained it; "" where Stable-Baselines3 has none that did. ``files``: what it is in.
    ``vecnormalize``: the file of its statistics, given or found. ``check_return(returns, name)`` raises RunError, or
    warns, where its deterministic returns in the environment called ``name`` are far below those of its training.
    ``model``: in evaluation mode; None where Stable-Baselines3 cannot train it on.
    """

    source: Source
    algo: str
    env: EnvLike | None
    teacher: Teacher
    vecnormalize: Path | None = None
    check_return: Callable[[Sequence[float], str], None] = lambda *_: None
    model: BaseAlgorithm | None = None
    recorded: Recorded | None = None
    files: tuple[Path, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of its file, hexadecimal; of several, or of one that was opened in a way of its own, of all that."""
        source, files = self.source, self.files or (self.source.agent,)
        if files == (source.agent,) and source.opening == Opening():
            return digest(source.agent)
        given = source.opening
        told = [*map(digest, files), str(source.agent), given.format, given.activation, given.output]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; RunError if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): give the file of a trained agent.") from error


@dataclass(frozen=True, eq=False)
class Met:
    """Raw ``observations`` (n, ...), and ``steps_left`` (n,) behind each until its episode was terminated: -1 where it
    was not, or not among these; None where that is not known."""

    observations: NDArray[Any]
    steps_left: NDArray[np.int32] | None


class Collector:
    """Meets ``states``: it is asked for them, then gives them, so that others may meet them meanwhile."""

    def __init__(self, teacher: Teacher, states: States) -> None:
        self._teacher, self._states = acting(teacher, teacher.outputs), states
        self._met: Met | None = None

    def ask(self, student: Policy | None, share: float, count: int) -> None:
        """For ``count`` raw observations, as ``States`` has them; without a student the teacher alone acts."""
        found = self._states(self._teacher, self._teacher if student is None else _acts(student), share, count)
        self._met = Met(found, getattr(self._states, "steps_left", None))

    def met(self) -> Met:
        """Those that were asked for last."""
        assert self._met is not None
        return self._met


def _acts(policy: Policy) -> Act:
    return lambda observations: policy.predict(observations)[0]


@contextmanager
def states_for(
    teacher: Teacher, env: EnvLike | States, seed: int, disturbances: float = 0.0
) -> Iterator[tuple[Teacher, States]]:
    """The teacher, whose provenance then names the environment, and states: met in ``env`` from ``seed`` on, with so
    many ``Disturbances`` a step, or those that a function gives."""
    if not makes_env(env):
        yield teacher, env  # type: ignore[misc]
        return
    states = states_in(env, teacher, seed, disturbances)  # type: ignore[arg-type]
    try:
        yield placed(teacher, env), states  # type: ignore[arg-type]
    finally:
        states.close()


def states_in(env: EnvLike, teacher: Teacher, seed: int, disturbances: float) -> EnvironmentStates:
    """Met in ``env`` as the teacher sees it."""
    described = description_of(env)
    padding = padding_of(teacher.observation, described.frame_stack if described else 1)
    return EnvironmentStates(env, seed=seed, padding=padding, disturbances=disturbances)


def placed(teacher: Teacher, source: EnvLike | Recorded) -> Teacher:
    """The teacher, whose provenance then names where it acts."""
    if isinstance(source, Recorded):
        origin: dict[str, Any] = {"recorded": source.as_dict()}
    else:
        described = description_of(source)
        origin = described.as_dict() if described else {}
    return replace(teacher, provenance={**teacher.provenance, **origin})


def states_of(
    agent: OpenedAgent, environment: Environment, seed: int, disturbances: float = 0.0
) -> AbstractContextManager[tuple[Teacher, States]]:
    """The agent's teacher and states as ``states_for`` gives them: of its log where it has one, else met in
    ``environment``."""
    if agent.recorded is None:
        return states_for(agent.teacher, environment, seed, disturbances)
    return states_for(placed(agent.teacher, agent.recorded), RecordedStates(agent.recorded, seed), seed)


def met_by_teacher(collector: Collector, count: int) -> Met:
    """``count`` states of the teacher's own episodes; ConfigError if there are none."""
    collector.ask(None, 0.0, count)
    met = collector.met()
    if not len(met.observations):
        raise ConfigError("the function of states gave none: return as many observations as it is asked for.")
    return met


class Disturbances:
    """Now and then, in each of ``envs``, a random action that is held for 2 to 10 steps in place of the one chosen.

    ``rate``: how many begin a step. What recovers is what is learned from: states beside the usual way, near falls
    among them, which the teacher alone seldom meets (noise injection, Laskey et al. 2017). Numbers of a Box are drawn
    evenly within its bounds, and at most twice as far from the middle as any that were chosen so far. A bound that lies
    more than ``_TIGHT`` standard deviations of these away says nothing of what is done, and a student that falls may
    choose anything up to it: two standard deviations take its place.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]], rate: float, seed: int) -> None:
        self._rate, self._random = rate, np.random.default_rng([seed, 1])
        self._space = copy.deepcopy(envs[0].action_space)
        self._space.seed(seed)
        self._range: tuple[NDArray[Any], NDArray[Any]] | None = None
        self._sums = np.zeros((3, *(self._space.shape or ())))  # how many were chosen, their sum, their squares
        self._left, self._held = [0] * len(envs), [None] * len(envs)

    def __call__(self, index: int, action: Any) -> Any:
        """What is done in environment ``index`` in place of ``action``: mostly that."""
        if not self._rate:
            return action
        low, high = self._range or (action, action)
        self._range = np.minimum(low, action), np.maximum(high, action)
        self._sums += np.stack([np.ones_like(self._sums[0]), action, np.square(action)])
        if self._left[index] == 0 and self._random.random() < self._rate:
            self._left[index] = int(self._random.integers(*_DISTURBED))
            self._held[index] = self._drawn()
        if self._left[index] == 0:
            return action
        self._left[index] -= 1
        return self._held[index]

    def _drawn(self) -> Any:
        if not isinstance(self._space, gym.spaces.Box) or self._range is None:
            return self._space.sample()
        least, largest = self._range
        reach = (largest - least) / 2
        count, total, squares = self._sums
        middle = np.clip(total / count, least, largest)
        deviation = np.sqrt(np.maximum(squares / count - np.square(total / count), 0.0))
        bottom, top, tight = self._space.low, self._space.high, _TIGHT * deviation
        lowest = np.where(middle - bottom <= tight, bottom, middle - 2.0 * deviation)
        highest = np.where(top - middle <= tight, top, middle + 2.0 * deviation)
        low, high = np.maximum(least - reach, lowest), np.minimum(largest + reach, highest)
        return self._random.uniform(low, high).astype(self._space.dtype)


class EnvironmentStates:
    """States met in environments that are stepped together, part of them by the student, the others by the teacher.

    ``steps_left``: of those that the latest call gave, as ``Met`` has it.
    """

    def __init__(
        self,
        env: EnvLike,
        count: int = 10,
        seed: int = 0,
        padding: NDArray[Any] | float = 0.0,
        disturbances: float = 0.0,
    ) -> None:
        self._envs = make_envs(env, count, padding=padding)
        self._disturbed = Disturbances(self._envs, disturbances, seed)
        self._random = np.random.default_rng(seed)
        # Hashed, so that no student learns from the very episodes that measure it: those count up from a seed.
        seeds = np.random.SeedSequence(seed).generate_state(len(self._envs))
        self._observations = [env.reset(seed=int(s))[0] for env, s in zip(self._envs, seeds, strict=True)]
        self._by_student = np.zeros(len(self._envs), bool)
        self.steps_left = np.zeros(0, np.int32)

    def __call__(self, teacher: Act, student: Act, share: float, count: int) -> NDArray[Any]:
        states: list[NDArray[Any]] = []
        steps_left = np.full((math.ceil(count / len(self._envs)), len(self._envs)), -1, np.int32)
        begun = [0] * len(self._envs)
        for step in range(len(steps_left)):
            now = np.stack(self._observations)
            states.extend(now)
            # Drawn anew now and then, so that the teacher also acts from where the student went.
            redrawn = self._random.random(len(now)) < _REDRAW
            self._by_student[redrawn] = self._random.random(int(redrawn.sum())) < share
            for act, group in ((teacher, ~self._by_student), (student, self._by_student)):
                if group.any():
                    for index, action in zip(np.flatnonzero(group), act(now[group]), strict=True):
                        ended, fell = self._step(int(index), self._disturbed(int(index), action))
                        if fell:
                            steps_left[begun[index] : step + 1, index] = np.arange(step - begun[index], -1, -1)
                        if ended:
                            begun[index] = step + 1
        self.steps_left = steps_left.ravel()[:count]
        return np.stack(states[:count])

    def _step(self, index: int, action: Any) -> tuple[bool, bool]:
        """Whether the episode ended, and whether it was terminated."""
        env = self._envs[index]
        self._observations[index], _, terminated, truncated, _ = env.step(action)
        if ended := terminated or truncated:
            self._observations[index], _ = env.reset()
        return ended, terminated

    def close(self) -> None:
        for env in self._envs:
            env.close()
