"""How far a student acts as its agent does on recorded episodes that neither has learned from: what can be told where
nothing is played and no return is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.measure.returns import summary
from policypress.policy.contract import ActionTransform
from policypress.policy.policy import Policy
from policypress.rl.recorded import Recorded
from policypress.rl.teacher import Teacher, stepping

_CHUNK = 1024
_STILL = 1e-3
"""Of half the range: actions that vary by less than this hardly vary, and are not measured by how little they do."""
MEASURES = {True: "variance explained, of the worst action", False: "same choices"}
"""What agreement is: for actions of a Box, and for choices."""


@dataclass(frozen=True)
class Agreement:
    """A share for each held-out episode, 1 where both act the same.

    Actions of a Box: 1 less the student's mean squared error over the variance of the agent's action (over all held-out
    episodes), of the action that agrees least. Choices: share of the observations at which all are the same.
    ``constant``: the same for the best action that never changes.
    """

    measure: str
    episodes: tuple[float, ...]
    observations: int
    constant: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values: also mean, worst tenth and, of several episodes, the mean's 95 % interval."""
        found = summary(self.episodes)
        if len(self.episodes) == 1:  # whose interval would have no width
            found = {"mean": found["mean"]}
        return asdict(self) | found | {"episodes": len(self.episodes), "values": list(self.episodes)}


def agreement_on(policy: Policy, teacher: Teacher, recorded: Recorded) -> Agreement:
    """How far ``policy`` acts as ``teacher`` on the held-out episodes."""
    act, at_once = stepping(teacher), 1 if teacher.remembers else _CHUNK
    wanted, given = [], []
    for episode in recorded.held_out:
        found, states = list[NDArray[Any]](), list[Any]([None] * at_once)
        for start in range(0, len(episode), at_once):
            chunk = episode[start : start + at_once]
            actions, after = act(chunk, states[: len(chunk)])
            states = list(after)
            found.append(actions)
        wanted.append(np.concatenate(found).reshape(len(episode), -1))
        given.append(_acted(policy, episode))
    box = policy.action.kind == "box"
    ours, best = (_explained if box else _same)(policy.action, wanted, given)
    return Agreement(MEASURES[box], ours, sum(map(len, wanted)), best)


def _acted(policy: Policy, episode: NDArray[Any]) -> NDArray[Any]:
    """Actions (steps, actions), one after another, for a policy may keep a state."""
    actions, state = [], None
    for observation in episode:
        action, state = policy.predict(observation, state)
        actions.append(np.ravel(action))
    return np.stack(actions)


def _explained(
    action: ActionTransform, wanted: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]
) -> tuple[tuple[float, ...], float]:
    """Of each episode, and of the mean action."""
    every = np.concatenate(wanted).astype(np.float64)
    assert action.low is not None
    assert action.high is not None
    half = (action.high.astype(np.float64) - action.low).ravel() / 2
    least = np.where(np.isfinite(half), _STILL * half, 0.0) ** 2
    variance = np.maximum(every.var(axis=0), np.maximum(least, np.finfo(np.float64).tiny))

    def of(actions: Sequence[NDArray[Any]]) -> NDArray[np.float64]:  # (episodes, actions)
        return np.stack([1.0 - np.square(a - w).mean(axis=0) / variance for a, w in zip(actions, wanted, strict=True)])

    ours = of([actions.astype(np.float64) for actions in given])
    mean = of([np.broadcast_to(every.mean(axis=0), actions.shape) for actions in wanted])
    worst = int(ours.mean(axis=0).argmin())
    return tuple(ours[:, worst].tolist()), float(mean[:, worst].mean())


def _same(
    action: ActionTransform, wanted: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]
) -> tuple[tuple[float, ...], float]:
    """Of each episode, and of the most frequent choice."""
    choices, counts = np.unique(np.concatenate(wanted), axis=0, return_counts=True)
    frequent = choices[counts.argmax()]
    ours = tuple(float((a == w).all(axis=1).mean()) for a, w in zip(given, wanted, strict=True))
    return ours, float(np.mean([(actions == frequent).all(axis=1).mean() for actions in wanted]))
