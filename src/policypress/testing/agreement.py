"""One policy through every engine: whether each answers as the reference does, and where it first does not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError, UnsupportedError
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.export.compile import check_folder, compiler
from policypress.export.engines import Engine, Integers, Native, compiled
from policypress.export.onnx import check_onnx, encode_onnx
from policypress.policy import observations as making
from policypress.policy import reference
from policypress.policy.observations import sequence, turns
from policypress.policy.policy import Policy

SINGLES = 8
"""So many observations of a batch are asked alone too."""


class DisagreementError(AssertionError):
    """An engine does not answer as the reference does."""


@dataclass(frozen=True)
class Agreement:
    """What was compared, and nothing differed.

    ``observations``: what the reference answers; ``refused``: what it refuses, as every engine that can must. Of a
    recurrent policy they are those of sequences side by side.
    ``answers``: outputs and actions of each engine that ran. ``left_out``: why the others did not. ``kernels``: what
    ran the native engine's steps.
    """

    observations: int
    refused: int
    answers: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


class _Asked(NamedTuple):
    policy: Policy
    observations: NDArray[Any]
    outputs: NDArray[np.float32]
    actions: NDArray[Any]
    refused: NDArray[Any]
    weights: Weights
    command: list[str] | None
    flags: tuple[str, ...]


def agree(
    policy: Policy,
    observations: NDArray[Any] | None = None,
    engines: Iterable[str] = ("native", "portable"),
    *,
    count: int = 64,
    seed: int = 0,
    weights: Weights = "auto",
    command: Sequence[str] | None = None,
    flags: Sequence[str] = ("-O2",),
) -> Agreement:
    """Ask each of ``engines`` (names of ``ENGINES``) what the reference is asked, in a batch and alone.

    A recurrent policy is asked in sequences, all states compared after every step; some rows begin again on the way.
    The native engine (with this machine's kernels or without), the compiled C and the exact ONNX graph of integer
    numerics must give the same bits and refuse what the reference refuses; other ONNX graphs what their style allows.
    ``observations`` (batch, *shape): by default ``count`` recorded, random and extreme ones, made from ``seed``.
    ``weights``: their form in C. ``command``: the compiler, by default as ``policypress verify`` finds it, with
    ``flags``. Raises DisagreementError with the first difference, ExportError where a library or the compiler fails.
    """
    asked = making.observations(policy, count, seed) if observations is None else observations
    legal = making.legal(policy, asked)
    refused, asked = asked[~legal], asked[legal]
    found = Agreement(len(asked), len(refused), kernels=tuple(policy.engine.kernels()))
    if not len(asked):
        outputs, actions = np.empty((0, len(policy.layers[-1].weight)), np.float32), np.empty(0)
    else:
        outputs = sequence(policy, asked)[0]
        actions = reference.act(policy.action, outputs)
    found_command = list(command) if command is not None else compiler()
    case = _Asked(policy, asked, outputs, actions, refused, weights, found_command, tuple(flags))
    for name in engines:
        try:
            found.answers[name] = ENGINES[name](case, name)
        except UnsupportedError as error:
            found.left_out[name] = str(error)
    return found


def _native(asked: _Asked, name: str) -> int:
    return _same_answers(asked, name, Native(asked.policy))


def _portable(asked: _Asked, name: str) -> int:
    return _same_answers(asked, name, Native(asked.policy, portable=True))


def _compiled(asked: _Asked, name: str) -> int:
    built = compiled(asked.policy, asked.weights, asked.command, asked.flags)
    if built.self_test():
        raise DisagreementError(f"{name}, weights {asked.weights}: its self test fails.")
    return _same_answers(asked, f"{name}, weights {asked.weights}", built)


def _self_test(asked: _Asked, name: str) -> int:
    """The compiled C as a program of its own: with sanitizers it cannot be loaded again and again."""
    if asked.command is None:
        raise UnsupportedError("No C compiler was found: install one or set CC.")
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        export_c(asked.policy, f"{place}/c", CExportConfig("policy", weights=asked.weights, check=False))
        check_folder(f"{place}/c", asked.command, asked.flags)
    return 1


def _integers(asked: _Asked, name: str) -> int:
    """The build without floats, which has no observations to refuse."""
    built, name = Integers(asked.policy, asked.weights, asked.command, asked.flags), f"{name}, weights {asked.weights}"
    if built.self_test():
        raise DisagreementError(f"{name}: its self test fails.")
    if not len(asked.observations):
        return 0
    if asked.policy.state_size:
        return _same_sequences(asked, name, built, built.acts)
    _same(f"{name}, outputs", built.outputs(asked.observations), asked.outputs)
    if built.acts:
        _same(f"{name}, actions", built.predict(asked.observations), asked.actions)
    return (1 + built.acts) * len(asked.observations)


def _exact(asked: _Asked, name: str) -> int:
    return _onnx(asked, name, "exact")


def _qdq(asked: _Asked, name: str) -> int:
    return _onnx(asked, name, "qdq")


def _onnx(asked: _Asked, name: str, style: str) -> int:
    """Every integer of every step, outputs and actions, within what the style allows (nothing where it is exact)."""
    if not len(asked.observations):
        return 0
    report = check_onnx(asked.policy, encode_onnx(asked.policy, style), asked.observations)
    if not report.holds:
        worst = report.worst
        raise DisagreementError(f"{name}, {worst.place}: {worst.largest:g} apart, where {worst.allowed:g} is allowed.")
    return 2 * report.observations


ENGINES: dict[str, Callable[[_Asked, str], int]] = {
    "native": _native,
    "portable": _portable,
    "C": _compiled,
    "C, self test": _self_test,
    "C, integers only": _integers,
    "ONNX exact": _exact,
    "ONNX qdq": _qdq,
}


def _same_sequences(asked: _Asked, name: str, engine: Engine, acts: bool = True) -> int:
    answers = 0
    for number, turn in enumerate(turns(asked.policy, asked.observations)):
        actions = reference.act(asked.policy.action, turn.outputs)
        alone = range(0 if number % 4 else min(2, len(turn.before)))
        for rows in [slice(None), *(slice(i, i + 1) for i in alone)]:
            label = f"{name}, step {number}" + ("" if rows == slice(None) else f", row {rows.start} alone")
            state = turn.before[rows].copy()
            _same(f"{label}, outputs", engine.outputs(turn.observations[rows], state), turn.outputs[rows])
            _same(f"{label}, state", state, turn.after[rows])
            if acts:
                state = turn.before[rows].copy()
                _same(f"{label}, actions", engine.predict(turn.observations[rows], state), actions[rows])
                _same(f"{label}, state of actions", state, turn.after[rows])
            answers += (1 + acts) * len(state)
    return answers


def _same_answers(asked: _Asked, name: str, engine: Engine) -> int:
    if asked.policy.state_size:
        try:
            return _same_sequences(asked, name, engine)
        except ObservationError as error:
            raise DisagreementError(f"{name} refuses what the reference answers: {error}") from error
    observations, singles = asked.observations, range(min(SINGLES, len(asked.observations)))
    try:
        if len(observations):
            _same(f"{name}, outputs", engine.outputs(observations), asked.outputs)
            _same(f"{name}, actions", engine.predict(observations), asked.actions)
        for i in singles:
            _same(f"{name}, output {i} alone", engine.outputs(observations[i : i + 1]), asked.outputs[i : i + 1])
            _same(f"{name}, action {i} alone", engine.predict(observations[i]), asked.actions[i])
    except ObservationError as error:
        raise DisagreementError(f"{name} refuses what the reference answers: {error}") from error
    for row in asked.refused[:SINGLES]:
        for ask in (engine.outputs, engine.predict):
            try:
                ask(row[None])
            except ObservationError:
                continue
            raise DisagreementError(f"{name} answers what the reference refuses.")
    return 2 * len(observations) + 2 * len(singles)


def _same(name: str, found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Raises DisagreementError unless both arrays are equal in every bit."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise DisagreementError(f"{name}: {found.dtype}{found.shape} and not {wanted.dtype}{wanted.shape}.")
    if found.tobytes() == wanted.tobytes():
        return
    rows = list(zip(np.atleast_1d(found), np.atleast_1d(wanted), strict=True))
    differing = [i for i, (a, b) in enumerate(rows) if a.tobytes() != b.tobytes()]
    a, b = rows[differing[0]]
    raise DisagreementError(f"{name}: {len(differing)} of {len(rows)} differ; the first, {differing[0]}: {a}, not {b}.")
