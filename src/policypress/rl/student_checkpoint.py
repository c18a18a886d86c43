"""Checkpoints of students that are distilled: what goes on to the same bits, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.errors import RunError
from policypress.files import replace_file


class StudentCheckpoint:
    """``student.pt`` in ``folder``, of a student with these ``settings`` (any text that tells them apart); without a
    folder nothing is kept. ``saved``: what an earlier call left there, None if nothing.

    Raises RunError for a student of other settings.
    """

    def __init__(self, folder: Path | None, settings: str) -> None:
        self._path, self._settings = None if folder is None else folder / "student.pt", settings
        self.saved: dict[str, Any] | None = None
        if self._path is not None and self._path.exists():
            self.saved = torch.load(self._path, weights_only=True)
            if self.saved is None or self.saved.get("config") != settings:
                raise RunError(f"{folder} holds a student of other settings: choose another folder or remove it.")

    @property
    def kept(self) -> bool:
        return self._path is not None

    def save(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        compressor: Compressor,
        generator: torch.Generator,
        **others: Any,
    ) -> None:
        """Writes these, and ``others`` beside them, whole or not at all."""
        if self._path is None:
            return
        state = {
            "config": self._settings,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "compressor": compressor.state_dict(),
            "generator": generator.get_state(),
        }
        with replace_file(self._path) as partial:
            torch.save(state | others, partial)

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        compressor: Compressor,
        generator: torch.Generator,
    ) -> None:
        """Puts them where they stood; there must be something ``saved``."""
        assert self.saved is not None
        plain = {name: self.saved["network"][name] for name in network.state_dict()}
        network.load_state_dict(plain)
        optimizer.load_state_dict(self.saved["optimizer"])
        compressor.load_state_dict(self.saved["compressor"])
        network.load_state_dict(self.saved["network"])  # with the ranges, now that there is a place for them
        generator.set_state(self.saved["generator"])
