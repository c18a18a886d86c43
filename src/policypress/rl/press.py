"""``policypress compress``: an agent that is already trained, pressed in minutes and measured against itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from policypress.config import PressConfig
from policypress.errors import ConfigError, DivergedError
from policypress.measure.machine import usable_cores
from policypress.rl.formats import open_agent
from policypress.rl.measured import PressFolder, agreed_student, measured_student, measured_teacher
from policypress.rl.methods import METHODS
from policypress.rl.runs import Progress
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.workers import check_jobs


def press(
    source: Source | OpenedAgent,
    config: PressConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Presses ``source``, an agent or its files, as ``config`` says, measures it against itself from the same seeds and
    writes everything under ``out``; returns the contents of ``result.json``. Where a log stands for an environment, how
    far the student agrees with the agent on held-out episodes takes the place of returns.

    ``jobs``: processes that play episodes, by default one a core. A finished run with the same config is returned as
    it is; an unfinished one goes on if ``resume``. Raises RunError when ``out`` holds something else,
    UnsupportedError or ConfigError before anything is written.
    """
    check_jobs(jobs)
    method = METHODS[config.method]
    if config.observations and not (isinstance(source, OpenedAgent) and source.recorded):
        raise ConfigError("the log is not open: give the agent as policypress.rl.logs.on_log opens it.")
    agent = source if isinstance(source, OpenedAgent) else open_agent(source, config.algo or None, config.environment)
    method.check(agent, config)
    folder = PressFolder(out)
    with folder.opened(config, resume) as finished:
        if finished is not None:
            return finished
        teacher = None if config.observations else measured_teacher(folder, agent, config)
        started = time.monotonic()
        try:
            policy = method.press(agent, config, folder.checkpoint, progress, jobs or usable_cores())
        except DivergedError:  # it would again
            folder.remove()
            raise
        seconds = time.monotonic() - started
        if teacher is None:
            return folder.finish(*agreed_student(policy, agent, config, seconds))
        return folder.finish(*measured_student(policy, config, teacher, seconds))
