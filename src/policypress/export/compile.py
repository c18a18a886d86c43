"""Compiles an exported folder, and runs it in this process or as its self test."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, ExportError, ObservationError

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror", "-ffp-contract=off")
FORMAT = "policypress c export 4"
"""Of export.json."""
_SECONDS = 600


def compiler() -> list[str] | None:
    """The C compiler as the start of a command line: the environment's CC, else cc; None if there is none.

    Raises ConfigError if CC is no command line.
    """
    wanted = os.environ.get("CC") or "cc"
    try:
        command = shlex.split(wanted)
    except ValueError as error:
        raise ConfigError(f"CC={wanted!r} is not a command line: close its quotation.") from error
    return command if command and shutil.which(command[0]) else None


def check_folder(folder: str | Path, command: Sequence[str], flags: Sequence[str] = ("-O1",)) -> None:
    """Compile an exported folder under the strict flags and run its self test; raises ExportError if that fails."""
    facts = facts_of(folder)
    name = facts["name"]
    sources = [*facts["sources"], *facts["tests"]]
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        program = Path(place) / "self_test"
        _compile(folder, facts, sources, program, [*command, *STRICT, *flags, f"-D{name.upper()}_MAIN"])
        result = _run([str(program)], Path(place))
    if result.returncode:
        raise ExportError(f"The exported C does not answer as the policy does: {_first(result.stdout + result.stderr)}")


class CompiledPolicy:
    """An exported folder as a shared library in this process; not for integer-only exports (``CompiledIntegers``).

    ``command``: the compiler, by default as ``compiler`` finds it. Raises ExportError if it does not compile.
    """

    def __init__(
        self, folder: str | Path, command: Sequence[str] | None = None, flags: Sequence[str] = ("-O2",)
    ) -> None:
        facts = facts_of(folder)
        self._library, name = _library(folder, facts, command, flags), facts["name"]
        self._shape = tuple(facts["observation"]["shape"])
        self._dtype = np.dtype(facts["observation"]["dtype"])
        self._action = tuple(facts["action"]["shape"]), np.dtype(facts["action"]["dtype"])
        self._outputs, self._work = facts["outputs"], facts["work_bytes"]
        self._state = _State(facts)
        number = facts["id"]
        self._predict_in = self._library[f"{name}_predict_in_{number}"]
        self._predict_rows = self._library[f"{name}_predict_rows_{number}"]
        self._outputs_of = self._library[f"{name}_outputs_{number}"]
        self._self_test = self._library[f"{name}_self_test_{number}"]

    def self_test(self) -> int:
        """0, or the number of the first test vector that differs."""
        return int(self._self_test())

    def predict(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[Any]:
        """Actions (batch, *action shape) for observations (batch, *shape) of the contract's dtype.

        One observation (*shape) goes through ``NAME_predict_in`` and gives one action. ``state`` (batch, size), of a
        policy that has one, becomes the next one; None: an episode begins in every row. Raises ObservationError for
        observations that are refused.
        """
        shape, dtype = self._action
        batch = self._batch(observations)
        actions = np.empty((len(batch), *shape), dtype)
        work = np.empty(len(batch) * self._work // 8 + 1)
        if observations.ndim == len(self._shape):
            states = self._state.pointer(state, 1)
            status = self._predict_in(_pointer(batch), *states, _pointer(actions), _pointer(work))
            actions = actions[0:1].reshape(shape)
        else:
            rows = ctypes.c_size_t(len(batch))
            states = self._state.pointer(state, len(batch))
            status = self._predict_rows(_pointer(batch), rows, *states, _pointer(actions), _pointer(work))
        _accept(status)
        return actions

    def outputs(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """Outputs of the last layer (batch, outputs) before the action transform, as ``predict``."""
        batch = self._batch(observations)
        outputs = np.empty((len(batch), self._outputs), np.float32)
        work = np.empty(len(batch) * self._work // 8 + 1)
        rows = ctypes.c_size_t(len(batch))
        states = self._state.pointer(state, len(batch))
        _accept(self._outputs_of(_pointer(batch), rows, *states, _pointer(outputs), _pointer(work)))
        return outputs

    def _batch(self, observations: NDArray[Any]) -> NDArray[Any]:
        if observations.dtype != self._dtype or observations.shape[-len(self._shape) :] != self._shape:
            raise ObservationError(f"The exported policy expects {self._dtype} observations of shape {self._shape}.")
        return np.ascontiguousarray(observations).reshape(-1, *self._shape)


class CompiledIntegers:
    """An integer-only export as a shared library in this process; ``command`` as for ``CompiledPolicy``."""

    def __init__(
        self, folder: str | Path, command: Sequence[str] | None = None, flags: Sequence[str] = ("-O2",)
    ) -> None:
        facts = facts_of(folder)
        self._library, self._name, self._id = _library(folder, facts, command, flags), facts["name"], facts["id"]
        self._outputs, self._kind = facts["outputs"], facts["action"]["kind"]
        self._state = _State(facts)
        self._size, self._actions = math.prod(facts["observation"]["shape"]), math.prod(facts["action"]["shape"])

    def self_test(self) -> int:
        """0, or the number of the first test vector that differs."""
        return int(self._library[f"{self._name}_self_test_{self._id}"]())

    def run(self, codes: NDArray[np.int32], state: NDArray[Any] | None = None) -> NDArray[np.int32]:
        """Sums (batch, outputs) for codes (batch, *shape); ``state`` as for ``CompiledPolicy.predict``."""
        batch = np.ascontiguousarray(codes, np.int32).reshape(-1, self._size)
        sums = np.empty((len(batch), self._outputs), np.int32)
        for i, (row, to) in enumerate(zip(batch, sums, strict=True)):
            states = self._state.pointer(None if state is None else state[i : i + 1], 1)
            self._library[f"{self._name}_run_{self._id}"](_pointer(row), *states, _pointer(to))
        return sums

    def choose(self, sums: NDArray[np.int32]) -> NDArray[np.int64]:
        """Actions for sums (batch, outputs): (batch,) if discrete, (batch, groups) if multi-discrete."""
        function = self._library[f"{self._name}_choose_{self._id}"]
        batch = np.ascontiguousarray(sums, np.int32)
        if self._kind == "discrete":
            return np.array([function(_pointer(row)) for row in batch], np.int64)
        choices = np.empty((len(batch), self._actions), np.int32)
        for row, to in zip(batch, choices, strict=True):
            function(_pointer(row), _pointer(to))
        return choices.astype(np.int64)


class _State:
    """The state of an exported policy, as an argument of its functions."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._size, self._dtype = facts["state"]["size"], np.dtype(facts["state"]["dtype"])

    def pointer(self, state: NDArray[Any] | None, rows: int) -> tuple[ctypes.c_void_p, ...]:
        """The argument, or none for a policy without a state; zeros in the place of None."""
        if not self._size:
            return ()
        self._given = np.zeros((rows, self._size), self._dtype) if state is None else state  # for as long as it is used
        found = self._given
        if (found.shape, found.dtype) != ((rows, self._size), self._dtype) or not found.flags.c_contiguous:
            raise ObservationError(f"The exported policy expects a state of {self._dtype}({rows}, {self._size}).")
        return (_pointer(found),)


def facts_of(folder: str | Path) -> dict[str, Any]:
    """The export.json in ``folder``; raises ExportError where there is none, or one of another version."""
    try:
        facts: dict[str, Any] = json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} holds no export to C: make one with policypress export --to c.") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ExportError(f"{folder} holds an export to C of another version: export the policy again.")
    return facts


def _library(
    folder: str | Path, facts: dict[str, Any], command: Sequence[str] | None, flags: Sequence[str]
) -> ctypes.CDLL:
    command = command or compiler()
    if command is None:
        raise ExportError("No C compiler was found: install one or set CC.")
    sources = [*facts["sources"], facts["tests"][0]]
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        library = Path(place) / f"{facts['name']}.so"
        _compile(folder, facts, sources, library, [*command, *STRICT, *flags, "-fPIC", "-shared"])
        loaded = ctypes.CDLL(str(library))  # stays usable without its file
    if facts["init"] and loaded[f"{facts['name']}_init_{facts['id']}"]():
        raise ExportError(f"The payload in {folder} is damaged: export the policy again.")
    return loaded


def _compile(
    folder: str | Path, facts: dict[str, Any], sources: Sequence[str], target: Path, command: Sequence[str]
) -> None:
    result = _run([*command, *sources, "-o", str(target)], Path(folder))
    if result.returncode:
        raise ExportError(f"{command[0]} does not compile the exported C: {_first(result.stderr)}")


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"Cannot run {command[0]}: {error}.") from error


def _first(text: str) -> str:
    """The first line that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "it gives no reason.")


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _accept(status: int) -> None:
    if status:
        raise ObservationError("The observation holds NaN, infinite or too large values.")
