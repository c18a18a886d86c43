"""The file that describes a study: grids of settings in TOML, whose every combination is a run.

A grid is a table ``[[train]]`` or ``[[compress]]``; its keys are the options of that command, and a list is an axis.
Axes that go together are a list of tables under one of LINKED, for example an environment and its steps.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policypress import presets
from policypress.config import CompressionConfig, ValueConfig, fields_of
from policypress.errors import ConfigError
from policypress.studies.cells import (
    BENCH,
    EVALUATION,
    FILM,
    KINDS,
    ROBUSTNESS,
    SEED,
    Cell,
    Kind,
    checked,
    options_of,
    required,
    shown,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LINKED = ("environments", "agents", "networks", "methods")
"""Keys of a grid that hold lists of tables: settings in one table belong together."""
_TOP = ("title", "cores", "baseline", "normalize", "evaluate")
_LEAST = {"episodes": 2, "seed": 0}
"""Settings of a measurement, and the least value of each."""
_OF_VALUES = tuple(one.name for one in fields_of(ValueConfig))
_COMPRESSION = tuple(one.name for one in fields_of(CompressionConfig) if one.setting is not None)
_DENSE = {"sparsity": 0.0, "weight_bits": 32}


@dataclass(frozen=True)
class Study:
    """A study as its file describes it.

    ``cells``: in the order in which they are run, the first seed of all before the second of any. ``cores``: of a run.
    ``baseline``: settings of the runs that others are compared with. ``normalize``: by environment the returns that are
    0 and 1 of a normalized score.
    """

    title: str
    cells: tuple[Cell, ...]
    cores: int = 1
    baseline: Mapping[str, Any] = field(default_factory=dict)
    normalize: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def is_baseline(self, cell: Cell) -> bool:
        """Whether others are compared with ``cell``: what trains a network of its own size, unpressed, unless
        ``baseline`` says otherwise. What is pressed is compared with its agent."""
        return is_baseline(cell, self.baseline)

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of which runs there are."""
        return hashlib.sha256(" ".join(sorted(cell.identity for cell in self.cells)).encode()).hexdigest()


def is_baseline(cell: Cell, baseline: Mapping[str, Any]) -> bool:
    """See ``Study.is_baseline``."""
    if cell.kind != "train":
        return False
    if not baseline:
        pressed = {"hidden", "critic_sparsity", *_OF_VALUES} & cell.settings.keys()
        return not pressed and all(cell.settings[name] == value for name, value in _DENSE.items())
    return all(cell.settings.get(name) == value for name, value in baseline.items())


def read_study(path: Path) -> Study:
    """The study in ``path``; ConfigError, which names what is wrong, for anything that cannot be run."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give a study file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from error
    try:
        return _study(data, Path(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _study(data: Mapping[str, Any], path: Path) -> Study:
    _known(data, (*_TOP, *KINDS), "a study")
    title, cores = data.get("title", path.stem), data.get("cores", 1)
    if not isinstance(title, str):
        raise ConfigError(f"title={title!r} must be a text.")
    if type(cores) is not int or cores < 1:
        raise ConfigError(f"cores={cores!r} must be a whole number of at least 1.")
    evaluate = _evaluate(data.get("evaluate", {}))
    cells: dict[str, Cell] = {}
    for kind in KINDS:
        for grid in _tables(data.get(kind, []), f"[[{kind}]]"):
            for settings in _points(kind, grid, f"[[{kind}]]"):
                cell = Cell(kind, _settled(kind, settings, path.parent), evaluate)
                cells.setdefault(cell.identity, cell)
    if not cells:
        raise ConfigError("it describes no run: write a table [[train]] or [[compress]].")
    ordered = sorted(cells.values(), key=lambda cell: cell.seed)
    study = Study(
        title, tuple(ordered), cores, _baseline(data.get("baseline", {})), _normalize(data.get("normalize", {}))
    )
    _one_baseline(study)
    return study


def _known(table: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    if unknown := sorted(set(table) - set(names)):
        raise ConfigError(f"{unknown[0]} is no key of {where}; known ones are {', '.join(sorted(names))}.")


def _tables(value: Any, name: str) -> Sequence[Mapping[str, Any]]:
    if not (isinstance(value, list) and all(isinstance(table, dict) for table in value)):
        raise ConfigError(f"{name} must be a list of tables: write it in double brackets.")
    return value


def _points(kind: Kind, grid: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Every combination of the settings of ``grid``."""
    options = options_of(kind)
    _known(grid, (*options, *LINKED), where)
    axes: list[list[dict[str, Any]]] = []
    for name, value in grid.items():
        if name in LINKED:
            axes.append(_linked(kind, _tables(value, f"[[{kind}.{name}]]"), f"[[{kind}.{name}]]"))
        else:
            axes.append(_axis(kind, name, value))
    for chosen in itertools.product(*axes):
        settings: dict[str, Any] = {}
        for part in chosen:
            if twice := sorted(set(part) & set(settings)):
                raise ConfigError(f"{twice[0]} is given twice in one {where}: leave one of them out.")
            settings |= part
        yield settings


def _linked(kind: Kind, tables: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for table in tables:
        _known(table, options_of(kind), where)
        axes = [_axis(kind, name, value) for name, value in table.items()]
        found += [{key: value for part in chosen for key, value in part.items()} for chosen in itertools.product(*axes)]
    if not found:
        raise ConfigError(f"{where} is empty: leave it out.")
    return found


def _axis(kind: Kind, name: str, value: Any) -> list[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{name}=[] leaves no run: leave it out.")
    return [{name: checked(kind, name, one)} for one in values]


def _settled(kind: Kind, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``settings`` with what every run says of itself, and paths from ``folder`` on; ConfigError for what does not go
    together."""
    required(kind, settings)
    given = {name: settings[name] for name in _COMPRESSION if name in settings}
    if kind == "train":
        preset = settings.get("preset", presets.NAMES[0])
        if preset not in presets.NAMES:
            raise ConfigError(f"preset={preset!r} is not one of {', '.join(presets.NAMES)}.")
        told = presets.compression(preset, given)
    else:
        told = CompressionConfig(**{"weight_bits": 8, "weight_range": "learned", **given})
        settings = {"method": "distill", **settings}
        for name in ("agent", "vecnormalize"):
            if name in settings and not (name == "agent" and ":" in settings[name]):
                settings[name] = str(folder / settings[name])
                settings[f"{name}_sha256"] = _digest(Path(settings[name]))
    seed = settings.get(SEED, 1)
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative.")
    return {**settings, "sparsity": told.sparsity, "weight_bits": told.weight_bits, SEED: seed}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the file of a trained agent.") from error


def _evaluate(table: Any) -> dict[str, Any]:
    measured = _measurement(table, "evaluate", (*EVALUATION, ROBUSTNESS, BENCH, FILM))
    for name in (BENCH, FILM):
        if type(measured.get(name, False)) is not bool:
            raise ConfigError(f"evaluate.{name}={measured[name]!r} must be true or false.")
    if ROBUSTNESS in measured:
        name = f"evaluate.{ROBUSTNESS}"
        measured[ROBUSTNESS] = found = _measurement(measured[ROBUSTNESS], name, (*EVALUATION, "kinds"))
        if "kinds" in found:
            _check_kinds(f"{name}.kinds", found["kinds"])
    return measured


def _check_kinds(name: str, kinds: Any) -> None:
    from policypress.robustness.kinds import check_kinds  # Gymnasium, which few studies are read for

    if not (kinds and isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        raise ConfigError(f'{name}={kinds!r} must be a list of texts, for example ["noise", "mass"].')
    check_kinds(kinds)


def _measurement(table: Any, name: str, keys: Iterable[str]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table: write [{name}].")
    _known(table, keys, f"[{name}]")
    for key, least in _LEAST.items():
        value = table.get(key, least)
        if type(value) is not int or value < least:
            raise ConfigError(f"{name}.{key}={value!r} must be a whole number of at least {least}.")
    return dict(table)


def _baseline(table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError("baseline must be a table: write [baseline].")
    _known(table, options_of("train"), "[baseline]")
    return {name: checked("train", name, value) for name, value in table.items()}


def _normalize(table: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(table, dict):
        raise ConfigError("normalize must be a table: write [normalize].")
    for env, ends in table.items():
        numbers = isinstance(ends, list) and all(type(end) in (int, float) for end in ends)
        if not (numbers and len(ends) == 2 and ends[0] != ends[1]):
            raise ConfigError(f'normalize."{env}"={ends!r} must be the returns that are 0 and 1, for example [0, 500].')
    return {env: (float(low), float(high)) for env, (low, high) in table.items()}


def _one_baseline(study: Study) -> None:
    seen: dict[str, Cell] = {}
    for cell in study.cells:
        if study.is_baseline(cell):
            key = json.dumps([cell.task, cell.seed], sort_keys=True)
            if key in seen:
                raise ConfigError(
                    f"two runs of {cell.settings['env']} would both be what others are compared with "
                    f"({shown(cell.method)}; {shown(seen[key].method)}): say in [baseline] which is."
                )
            seen[key] = cell
    if study.baseline and not seen:
        raise ConfigError(f"no run is what [baseline] says ({shown(study.baseline)}): leave it out, or add that run.")
