"""A run and its folder: what it leaves there, and whether it may start or go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from policypress.config import PressConfig, TrainConfig, dumps, from_json
from policypress.errors import ConfigError, RunError
from policypress.files import locked, remove_partial, write_whole
from policypress.policy.policy import Policy

Progress = Callable[[int, int, float | None], None]
"""Called with what is done, of how much, and the latest figure: steps and the mean return of the latest evaluation
while training, batches and the loss while distilling; None where there is no figure."""

C = TypeVar("C", TrainConfig, PressConfig)


def array_in(folder: Path | None, name: str, shape: tuple[int, ...], dtype: str, kept: int) -> NDArray[Any]:
    """An array that a checkpoint keeps in a file of ``folder``, if there is one: as it was left if ``kept``, else of
    zeros."""
    if folder is None:
        return np.zeros(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    mode: Literal["r+", "w+"] = "r+" if kept else "w+"
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=dtype, shape=shape)


class RunFolder(Generic[C]):
    """Where a run of settings ``C`` keeps what. Every kind of run is a subclass that says what else it writes."""

    settings: type[C]
    others = "a run with other settings: choose another --out or repeat its settings"
    """What stands in the way where the settings differ."""
    early: ClassVar[tuple[str, ...]] = ()
    """Files and folders beside ``config.json`` and ``checkpoint`` that it writes before its result is near."""
    late: ClassVar[tuple[str, ...]] = ()
    """Files beside ``policy.policy`` and ``result.json`` that are part of its result."""

    def __init__(self, out: Path) -> None:
        self.out = Path(out)
        self.config = self.out / "config.json"
        self.policy = self.out / "policy.policy"
        self.result = self.out / "result.json"
        self.checkpoint = self.out / "checkpoint"

    def begun(self) -> bool:
        """Whether there is anything to go on with, or to lose."""
        return True

    def goes_on(self, found: C, config: C) -> bool:
        """Whether a run that began with the settings ``found`` may go on with ``config``."""
        return found == config

    @contextmanager
    def opened(self, config: C, resume: bool) -> Iterator[dict[str, Any] | None]:
        """Holds the folder for this process; gives the result of a finished run with the same settings, or None where
        a run may start or go on, whose settings are then written.

        Raises RunError if another process is there, or what the folder holds is in the way.
        """
        with locked(self.out):
            yield self._finished(config, resume)

    def finish(self, policy: Policy, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the policy and the contents of ``result.json``, which come back as a later call reads them; no
        checkpoint is left."""
        policy.save(self.policy)
        write_whole(self.result, text := json.dumps(result, indent=2))
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        written: dict[str, Any] = json.loads(text)
        return written

    def remove(self) -> None:
        """Leaves nothing of a run that nobody can go on with."""
        for path in (self.config, self.checkpoint, *(self.out / name for name in self.early)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _finished(self, config: C, resume: bool) -> dict[str, Any] | None:
        if self.config.exists() and self.begun():
            found = self._read()
            if not self.goes_on(found, config):
                raise RunError(f"{self.out} holds {self.others}.")
            if self.result.exists() and found == config:
                shutil.rmtree(self.checkpoint, ignore_errors=True)  # what a kill after the result left
                result: dict[str, Any] = json.loads(self.result.read_text())
                return result
            if not resume:
                raise RunError(f"{self.out} holds an unfinished run: add --resume to go on, or choose another --out.")
        remove_partial(self.config, self.policy, self.result, *(self.out / name for name in (*self.early, *self.late)))
        self.result.unlink(missing_ok=True)
        write_whole(self.config, dumps(config))
        return None

    def _read(self) -> C:
        try:
            return from_json(self.settings, json.loads(self.config.read_text()))
        except (json.JSONDecodeError, ConfigError) as error:
            raise RunError(f"{self.config} cannot be read: choose another --out, or remove the folder.") from error
