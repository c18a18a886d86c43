"""States that are met in a process of its own, while a student learns in this one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from policypress.config import Environment
from policypress.policy.policy import Policy
from policypress.rl.formats import open_agent
from policypress.rl.sources import Collector, Met, OpenedAgent, Source, states_in
from policypress.rl.workers import Server

_Meet = Callable[[Policy | None, float, int], Met]


class CollectorElsewhere(Collector):
    """What ``Collector`` meets for the same agent in ``environment``, met by a process that opens both again."""

    def __init__(self, agent: OpenedAgent, environment: Environment, seed: int, disturbances: float) -> None:
        given = agent.source, agent.algo, environment, seed, disturbances
        self._server = Server("meets states", _meeting, *given)

    def ask(self, student: Policy | None, share: float, count: int) -> None:
        self._server.ask(student, share, count)

    def met(self) -> Met:
        return self._server.answer()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._server.close()


def _meeting(source: Source, algo: str, environment: Environment, seed: int, disturbances: float) -> _Meet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever opened the agent first has told
        teacher = open_agent(source, algo or None, environment).teacher
    collector = Collector(teacher, states_in(environment, teacher, seed, disturbances))

    def meet(student: Policy | None, share: float, count: int) -> Met:
        collector.ask(student, share, count)
        return collector.met()

    return meet
