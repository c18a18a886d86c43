"""What every way of pressing an agent is: prepared, run (resumable, with progress) and frozen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Protocol

from policypress.config import PressConfig
from policypress.policy.policy import Policy
from policypress.rl.runs import Progress
from policypress.rl.sources import OpenedAgent


class Pressing(Protocol):
    """One agent on its way to a small policy."""

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Does what is left to do, or as much as fits in ``seconds``; whether it is finished.

        What is done is in the checkpoint.
        """

    def freeze(self) -> Policy:
        """The policy that came of it so far."""


class Method(ABC):
    """A way of pressing. Another one is a subclass and a row of ``rl.methods``."""

    anytime: ClassVar[bool] = True
    """Whether what is not finished freezes to a policy that is worth measuring."""

    @abstractmethod
    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        """Raises ConfigError or UnsupportedError, before any work, for what does not fit together."""

    @abstractmethod
    def prepare(
        self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1
    ) -> AbstractContextManager[Pressing]:
        """The work, ready to run; what it needs is closed with the ``with`` block.

        ``folder`` keeps a checkpoint, from which the same call goes on. ``jobs``: processes it may use, which changes
        no result.
        """

    def press(
        self,
        agent: OpenedAgent,
        config: PressConfig,
        folder: Path | None = None,
        progress: Progress | None = None,
        jobs: int = 1,
    ) -> Policy:
        """Prepares, runs and freezes."""
        with self.prepare(agent, config, folder, jobs) as work:
            work.run(progress)
            return work.freeze()
