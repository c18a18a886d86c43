"""One policy through every engine: the reference, the native engine, the compiled C export, ONNX Runtime, LiteRT."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError, PolicypressError, UnsupportedError
from policypress.export.compile import compiler
from policypress.export.engines import Engine, Integers, Native, answers_of, compiled
from policypress.export.onnx import check_onnx, encode_onnx, onnx_outputs
from policypress.export.tflite import STYLES, check_tflite, encode_tflite
from policypress.policy import reference
from policypress.policy.observations import Answers, answers, sequence
from policypress.policy.policy import Policy

_ORDINARY = 1000.0
Unit = Literal["steps", "ulps"]


@dataclass(frozen=True)
class Agreement:
    """How one engine answers.

    ``difference``: the largest of an output of the last layer, in steps of its accumulator (integer numerics) or units
    in the last place (others); None if the engine did not run. ``actions``: how many actions differ. ``holds``: whether
    it keeps what it promises; None if it did not run.
    ``allowed`` is "" where the same bits are promised. Elsewhere it says what is allowed instead; ``actions`` counts
    those more than 1e-5 apart then, and ``difference`` is what the promise is about: the largest of an integer in any
    layer, in its steps, from the same integers in front (style "qdq"), or that of an output in units in the last place
    of the largest output, for observations of ordinary size (numerics other than integer).
    """

    engine: str
    difference: float | None
    actions: int | None
    holds: bool | None
    note: str = ""
    allowed: str = ""

    @property
    def verdict(self) -> str:
        """Whether it agrees, in two or three words: "yes" means the same bits."""
        if self.holds is None:
            return "not run"
        return (self.allowed or "yes") if self.holds else "NO"


@dataclass(frozen=True)
class Verification:
    """How all engines answer to the same ``vectors`` observations, compared with the reference."""

    vectors: int
    numerics: str
    unit: Unit
    rows: tuple[Agreement, ...]

    @property
    def holds(self) -> bool:
        """Whether every engine that ran keeps what it promises."""
        return all(row.holds is not False for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values; a difference without bound is None."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        for row in rows:
            row["difference"] = None if row["difference"] == math.inf else row["difference"]
        return {**dataclasses.asdict(self), "rows": rows, "holds": self.holds}


def verify(policy: Policy, vectors: int = 256, seed: int = 0) -> Verification:
    """Compare every engine with the reference on recorded, random and extreme observations, ``vectors`` at most."""
    wanted = answers(policy, vectors, seed)
    rows = [
        _row("native engine", policy, wanted, Native(policy)),
        _row("portable engine", policy, wanted, Native(policy, portable=True)),
        *_compiled(policy, wanted),
        *(_onnx(policy, wanted, style) for style in ("exact", "qdq")),
        *(_litert(policy, wanted, style) for style in STYLES if policy.input is not None),
    ]
    unit: Unit = "ulps" if policy.input is None else "steps"
    return Verification(len(wanted.observations), policy.numerics, unit, tuple(rows))


def _row(name: str, policy: Policy, wanted: Answers, engine: Engine, acts: bool = True) -> Agreement:
    """What the outputs and, if it ``acts``, the actions of an engine say, which promises the same bits."""
    try:
        outputs, *found = answers_of(engine, policy, wanted.observations, acts)
        actions = found[0] if acts else wanted.actions
    except ObservationError as error:  # the reference did not refuse any
        return Agreement(name, math.inf, len(wanted.actions), False, str(error))
    difference, different = _difference(policy, outputs, wanted.outputs), _different(actions, wanted.actions)
    same = outputs.tobytes() == wanted.outputs.tobytes() and different == 0
    return Agreement(name, difference, different, same, "" if acts else "gives sums, no actions")


def _compiled(policy: Policy, wanted: Answers) -> list[Agreement]:
    command = compiler()
    if command is None:
        return [Agreement("compiled C", None, None, None, "no C compiler was found: install one or set CC")]
    rows = [_row("compiled C", policy, wanted, compiled(policy, command=command))]
    if policy.input is not None:
        try:
            integers = Integers(policy, command=command)
            rows.append(_row("compiled C, integers only", policy, wanted, integers, integers.acts))
        except UnsupportedError as error:
            rows.append(Agreement("compiled C, integers only", None, None, None, str(error)))
    return rows


def _onnx(policy: Policy, wanted: Answers, style: str) -> Agreement:
    engine = f"ONNX Runtime, {style}"
    try:
        model = encode_onnx(policy, style)
        outputs, actions = onnx_outputs(model, wanted.observations)
        report = check_onnx(policy, model, wanted.observations)
    except PolicypressError as error:
        return Agreement(engine, None, None, None, str(error))
    difference = _difference(policy, outputs, wanted.outputs)
    if policy.input is not None and style == "exact":
        different = _different(actions, wanted.actions)
        return Agreement(engine, difference, different, report.holds and not difference and not different)
    known = np.isfinite(outputs).all(axis=1)  # sums of huge values may overflow in one order and not in another
    right, acted = wanted.outputs, wanted.actions
    if policy.input is None:
        ordinary = _ordinary(policy, wanted.observations)
        if policy.state_size:  # what a huge one has left in the state goes on
            outputs, actions = onnx_outputs(model, wanted.observations[ordinary])
            right, _ = sequence(policy, wanted.observations[ordinary])
            acted, known = reference.act(policy.action, right), np.isfinite(outputs).all(axis=1)
            compared = known
        else:
            compared = known & ordinary
    else:
        compared = known
    apart = ~np.isclose(actions[compared], acted[compared], rtol=1e-5, atol=1e-5)
    different = int(apart.reshape(len(apart), -1).any(axis=1).sum())
    if policy.input is not None:
        difference, allowed = float(report.step_difference), "within 1 step"
        note = "every layer within 1 step for the same integers in front, as allowed"
        furthest = report.action_difference
    else:
        distance = np.abs(outputs[compared].astype(np.float64) - right[compared])
        unit = np.spacing(np.abs(right[compared]).max(initial=1.0))
        difference, allowed = float((distance / unit).max(initial=0)), "to rounding"
        note = "sums in another order, as allowed; ulps are those of the largest output"
        if left := len(wanted.observations) - int(ordinary.sum()):
            note += f", without {left} observations with values beyond {_ORDINARY:g}, whose sums hang on their order"
        furthest = float(np.abs(actions[compared].astype(np.float64) - acted[compared]).max(initial=0))
    note += "; other actions: more than 1e-5 apart"
    if policy.action.kind == "box":
        note += f", the furthest {furthest:.2g}"
    if not known.all():
        note += f"; observations that overflow in this order of sums: {(~known).sum()}"
    return Agreement(engine, difference, different, report.holds, note, allowed)


def _ordinary(policy: Policy, seen: NDArray[Any]) -> NDArray[np.bool_]:
    """Which observations have no value, as the first layer sees it, that makes rounding itself large; all, if none."""
    x = np.abs(reference.observe(policy.observation, seen))
    found = np.asarray(x.reshape(len(x), -1).max(axis=1) <= _ORDINARY)
    return found if found.any() else np.ones(len(x), bool)


def _litert(policy: Policy, wanted: Answers, style: str) -> Agreement:
    engine = f"LiteRT, {style}"
    try:
        report = check_tflite(policy, encode_tflite(policy, style), wanted.observations)
    except PolicypressError as error:
        return Agreement(engine, None, None, None, str(error))
    worst = min(report.kernels, key=lambda found: found.equal_actions)
    actions = round((1 - worst.equal_actions) * report.observations)
    note = "every layer within 1 step for the same integers in front, as allowed, observations in float32"
    note += f"; other actions, of {worst.name} kernels: more than 1e-5 apart"
    if policy.action.kind == "box":
        note += f", the furthest {worst.action_difference:.2g}"
    return Agreement(engine, float(report.step_difference), actions, report.holds, note, "within 1 step")


def _difference(policy: Policy, found: NDArray[Any], wanted: NDArray[np.float32]) -> float:
    """The largest difference between outputs, in the unit of the policy's numerics."""
    if policy.input is not None:
        distance = np.abs(found.astype(np.float64) - wanted) / policy.layers[-1].scale
    else:
        distance = np.abs(_ordered(found.astype(np.float32)) - _ordered(wanted)).astype(np.float64)
    return float(np.where(np.isnan(distance), np.inf, distance).max(initial=0))


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers in the order of float32 values, one apart where these are neighbours."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _different(found: NDArray[Any], wanted: NDArray[Any]) -> int:
    """How many actions differ in any bit."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return len(wanted)
    return sum(a.tobytes() != b.tobytes() for a, b in zip(found, wanted, strict=True))
