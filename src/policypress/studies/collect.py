"""Runs that no study has made, in one: `study summary` and `study report` then tell of them as of any others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policypress.errors import ConfigError
from policypress.studies.attempt import figures
from policypress.studies.cells import BENCH, EVALUATED, LATENCY, MOMENTS, ROBUSTNESS, SEED, Cell, Kind, options_of
from policypress.studies.store import Store

_TOLD = ("sparsity", "weight_bits")
"""Settings that a study always tells, for they say what is dense."""
_NESTED = ("student", "compression")
_NAMES = {"algo_kwargs": "set", "agent": "agent_sha256", "vecnormalize": "vecnormalize_sha256"}
"""Fields of a run's config that go by another name in a study."""
_KEPT = ("result.json", "policy.policy", "evaluations.csv", EVALUATED, LATENCY, MOMENTS, ROBUSTNESS)
"""What a report reads of a run's folder."""


def collect(folder: Path, runs: Sequence[Path]) -> int:
    """Takes the finished ``runs``, folders of `policypress train` and `compress`, into the study in ``folder``, which
    is made if missing; how many were not there yet. What a report reads of them is copied.

    Raises ConfigError for a folder that holds no finished run, and for two runs of the same settings and seed.
    """
    cells: dict[str, tuple[Cell, Path, float]] = {}
    for run in runs:
        cell, seconds = _read(run)
        if cell.identity in cells:
            raise ConfigError(
                f"{cells[cell.identity][1]} and {run} are of the same settings and seed: leave one of them out."
            )
        cells[cell.identity] = cell, run, seconds
    with Store(folder, new=True) as store:
        for identity, (_, run, _) in cells.items():
            out = store.out(identity)
            out.mkdir(parents=True, exist_ok=True)
            for name in _KEPT:
                if (run / name).is_dir():
                    shutil.copytree(run / name, out / name, dirs_exist_ok=True)
                elif (run / name).exists():
                    shutil.copy(run / name, out / name)
        found = [(cell, seconds, figures(store.out(one))) for one, (cell, _, seconds) in cells.items()]
        return store.collect(found, title=folder.name)


def _read(run: Path) -> tuple[Cell, float]:
    """The run as a study would have described it, by the settings that are not the default, and how long it took."""
    try:
        result = json.loads((run / "result.json").read_text())
        config, seconds = result["config"], float(result["wall_seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{run} holds no finished run of `policypress train` or `compress`: leave it out.") from error
    kind: Kind = "compress" if "teacher" in result else "train"
    values = _flat(config)
    settings = {"agent": values["agent_sha256"][:12]} if kind == "compress" else {}
    for name, one in options_of(kind).items():
        field = name if one is None else one.name
        value = values.get(field, values.get(name))
        if value is not None and (name in _TOLD or one is None or value != _plain(one.default)):
            settings[name] = value
    settings |= {name: values[name] for name in _NAMES.values() if values.get(name)}
    settings[SEED] = values[SEED]
    bench = {BENCH: True} if (run / LATENCY).exists() else {}
    return Cell(kind, settings, bench), seconds


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a config by its name, whatever part it stands in; {} and "" are none."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name in _NESTED:
            found |= _flat(value)
        elif (plain := _plain(value)) not in ({}, "", []):
            found[_NAMES.get(name, name)] = plain
    return found


def _plain(value: Any) -> Any:
    """As a study file says it: widths are a text."""
    if isinstance(value, list | tuple) and value and all(isinstance(part, int) for part in value):
        return ",".join(map(str, value))
    return list(value) if isinstance(value, tuple) else value
