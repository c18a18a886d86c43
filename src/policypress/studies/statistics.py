"""What the runs of a study say together: a row a cell, which is runs that differ in the seed alone, and a row a method,
over all its tasks. The figures are those of ``measure.scores``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policypress.measure.scores import (
    Estimate,
    Scores,
    iqm,
    mean,
    normalized,
    performance_profile,
    probability_of_improvement,
    retention,
)
from policypress.studies.cells import SEED
from policypress.studies.store import Run
from policypress.studies.study_file import is_baseline


@dataclass(frozen=True)
class CellFigures:
    """Runs of one ``task`` by one ``method`` (settings), which differ in the seed: their identities ``runs``,
    ``seeds``, and mean returns ``returns`` (seeds,).

    ``mean`` and ``iqm`` of these, over seeds. ``kept``: of the baseline's mean, runs matched by seed; of the agent's
    where one was pressed, same episodes; ``improves``: the probability that a run returns more than the baseline's.
    Both are None where there is nothing to compare with. Bytes are means.
    """

    kind: str
    task: Mapping[str, Any]
    method: Mapping[str, Any]
    baseline: bool
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    mean: Estimate
    iqm: Estimate
    kept: Estimate | None
    improves: Estimate | None
    payload_bytes: float
    baseline_bytes: float


@dataclass(frozen=True)
class MethodFigures:
    """One ``method`` over its ``tasks``, in normalized scores (``scores``: by task those of its runs).

    A score is 0 and 1 at the returns that the study's file names for the environment, else the share of the task's
    baseline: see ``_scores``. ``profile``: the share of runs that score more than each threshold of THRESHOLDS, with
    the limits of its interval. ``improves``: over the baseline; None where a task has none.
    """

    kind: str
    method: Mapping[str, Any]
    tasks: int
    runs: int
    scores: tuple[tuple[float, ...], ...]
    mean: Estimate
    iqm: Estimate
    kept: Estimate | None
    improves: Estimate | None
    profile: tuple[tuple[float, float, float], ...]
    payload_bytes: float


THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(25))
"""Normalized scores at which profiles are told: 0 to 1.2."""


def cell_figures(runs: Sequence[Run], baseline: Mapping[str, Any]) -> list[CellFigures]:
    """A row a cell, of the ``runs`` that are done; ``baseline``: see ``study_file.Study``."""
    found = _groups(runs)
    reference = _references(runs, baseline)
    rows = []
    for (kind, task, _), group in found.items():
        first = group[0]
        returns = [_return(run) for run in group]
        against = [_against(run, reference) for run in group]
        matched = [(ours, theirs) for ours, theirs in zip(returns, against, strict=True) if theirs is not None]
        others = list(reference.get((kind, task), {}).values()) or [theirs for _, theirs in matched]
        is_base = is_baseline(first.cell, baseline)
        rows.append(
            CellFigures(
                kind,
                first.cell.task,
                first.cell.method,
                is_base,
                tuple(run.id for run in group),
                tuple(run.cell.seed for run in group),
                tuple(returns),
                mean([returns]),
                iqm([returns]),
                _kept([matched]),
                None if is_base or not others else probability_of_improvement([returns], [others]),
                float(np.mean([run.figures["payload_bytes"] for run in group])),
                float(np.mean([run.figures["baseline_bytes"] for run in group])),
            )
        )
    return rows


def method_figures(
    runs: Sequence[Run],
    baseline: Mapping[str, Any],
    normalize: Mapping[str, tuple[float, float]],
) -> list[MethodFigures]:
    """A row a method, over all tasks whose scores can be normalized."""
    reference = _references(runs, baseline)
    grouped: dict[tuple[str, str], list[list[Run]]] = {}
    for (kind, _, method), group in _groups(runs).items():
        if _scores(group, reference, normalize) is not None:
            grouped.setdefault((kind, method), []).append(group)
    rows = []
    for (kind, _), tasks in grouped.items():
        scores = [s for group in tasks if (s := _scores(group, reference, normalize)) is not None]
        theirs = [_reference_scores(group, reference, normalize) for group in tasks]
        matched = [
            [(_return(run), dense) for run in group if (dense := _against(run, reference)) is not None]
            for group in tasks
        ]
        is_base = is_baseline(tasks[0][0].cell, baseline)
        profile = zip(*performance_profile(scores, THRESHOLDS), strict=True)
        rows.append(
            MethodFigures(
                kind,
                tasks[0][0].cell.method,
                len(tasks),
                sum(map(len, tasks)),
                tuple(tuple(task) for task in scores),
                mean(scores),
                iqm(scores),
                _kept(matched),
                None if is_base or not all(theirs) else probability_of_improvement(scores, theirs),
                tuple((float(value), float(low), float(high)) for value, low, high in profile),
                float(np.mean([run.figures["payload_bytes"] for group in tasks for run in group])),
            )
        )
    return rows


Group = tuple[str, str, str]
"""Kind, task and method of runs that differ in the seed alone."""
References = Mapping[tuple[str, str], Mapping[int, float]]
"""By kind and task, the baseline's returns by seed."""


def _groups(runs: Sequence[Run]) -> dict[Group, list[Run]]:
    found: dict[Group, list[Run]] = {}
    for run in runs:
        if run.status == "done":
            key = (run.cell.kind, _key(run.cell.task), _key({**run.cell.method, **_measured(run)}))
            found.setdefault(key, []).append(run)
    return {key: sorted(group, key=lambda run: run.cell.seed) for key, group in found.items()}


def _measured(run: Run) -> dict[str, Any]:
    return {f"evaluate.{name}": value for name, value in run.cell.evaluate.items()}


def _references(runs: Sequence[Run], baseline: Mapping[str, Any]) -> dict[tuple[str, str], dict[int, float]]:
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in runs:
        if run.status == "done" and is_baseline(run.cell, baseline):
            found.setdefault((run.cell.kind, _key(run.cell.task)), {})[run.cell.seed] = _return(run)
    return found


def _against(run: Run, reference: References) -> float | None:
    """What a run's return is compared with: the agent's, or that of the baseline's run of the same seed."""
    if run.figures.get("agent_returns"):
        return float(np.mean(run.figures["agent_returns"]))
    return reference.get((run.cell.kind, _key(run.cell.task)), {}).get(run.cell.seed)


def _kept(matched: Sequence[Sequence[tuple[float, float]]]) -> Estimate | None:
    if not all(matched) or any(np.mean([theirs for _, theirs in task]) == 0.0 for task in matched):
        return None
    ours: Scores = [[one for one, _ in task] for task in matched]
    return retention(ours, [[one for _, one in task] for task in matched])


def _scores(
    group: Sequence[Run], reference: References, normalize: Mapping[str, tuple[float, float]]
) -> list[float] | None:
    """Normalized scores of runs of one task: between the two returns that the study's file names, else the share of the
    mean of the task's baseline (0 is then nothing, 1 as much as it); None where there is neither."""
    return _normalized([_return(run) for run in group], group, reference, normalize)


def _reference_scores(
    group: Sequence[Run], reference: References, normalize: Mapping[str, tuple[float, float]]
) -> list[float]:
    """Those of what ``group`` is compared with; [] where there is nothing."""
    returns = _reference_returns(group, reference)
    return (_normalized(returns, group, reference, normalize) or []) if returns else []


def _reference_returns(group: Sequence[Run], reference: References) -> list[float]:
    agents = [float(np.mean(found)) for run in group if (found := run.figures.get("agent_returns"))]
    return agents or list(reference.get((group[0].cell.kind, _key(group[0].cell.task)), {}).values())


def _normalized(
    returns: Sequence[float],
    group: Sequence[Run],
    reference: References,
    normalize: Mapping[str, tuple[float, float]],
) -> list[float] | None:
    if (ends := normalize.get(group[0].cell.settings["env"])) is not None:
        return list(map(float, normalized(returns, *ends)))
    dense = float(np.mean(_reference_returns(group, reference) or [0.0]))
    if dense == 0.0:
        return None
    return [1.0 + (value - dense) / abs(dense) for value in returns]


def _return(run: Run) -> float:
    return float(run.figures["mean"])


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in settings.items() if name != SEED}, sort_keys=True)
