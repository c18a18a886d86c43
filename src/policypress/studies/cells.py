"""A cell of a study's grid: one run's settings, the identity they give it, and the command that does it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from policypress.config import (
    CompressionConfig,
    ConfigField,
    DistillConfig,
    Environment,
    Hidden,
    Opening,
    PressConfig,
    TrainConfig,
    ValueConfig,
    check_value,
    fields_of,
)
from policypress.errors import ConfigError

Kind = Literal["train", "compress"]
Settings = Mapping[str, Any]
"""What a run is given, by the names of the command's options: values as JSON holds them."""

KINDS: tuple[Kind, ...] = get_args(Kind)
IDENTITY_VERSION = 1
"""Part of every identity: to be raised when the same settings come to mean another run."""
SEED = "seed"
EVALUATION = ("episodes", "seed")
ROBUSTNESS, BENCH, FILM = "robustness", "bench", "film"
"""What ``evaluate`` of a cell may say: settings of a measurement of its own, of one under disturbances, whether its
policy is timed, and whether an episode of it is drawn."""
EVALUATED, LATENCY, MOMENTS = "evaluation.json", "bench.json", "film.jpg"
"""Files in a run's folder that hold what was measured; ROBUSTNESS is a folder there."""
DIGESTS = ("agent_sha256", "vecnormalize_sha256")
"""Settings that are no option: what the files were when the study was read."""

_CONFIGS: dict[Kind, tuple[Any, ...]] = {
    "train": (TrainConfig, CompressionConfig, ValueConfig, Environment),
    "compress": (DistillConfig, CompressionConfig, PressConfig, Environment, Opening),
}
_TEXTS: dict[Kind, tuple[str, ...]] = {
    "train": ("algo", "env", "preset"),
    "compress": ("agent", "env", "algo", "vecnormalize"),
}
_FLAGS: dict[Kind, tuple[str, ...]] = {"train": (), "compress": ("force", "trust")}
_REQUIRED: dict[Kind, tuple[str, ...]] = {"train": ("algo", "env"), "compress": ("agent", "env")}
_WIDTHS = {"train": re.compile(r"none|\d+(,\d+)*"), "compress": re.compile(r"auto|none|\d+(,\d+)*")}
_METHOD = (*(one.name for config in (CompressionConfig, ValueConfig) for one in fields_of(config)), "hidden")
"""Settings of training that say how a network is pressed, and not what it learns."""
_TASK = ("agent", "env", "algo", "vecnormalize", "env_kwargs", "wrapper", "frame_stack", "episodes", *DIGESTS)
"""Settings of pressing that say what is pressed, and not how."""


def options_of(kind: Kind) -> dict[str, ConfigField | None]:
    """The options of the command ``kind`` that decide its result, by name; None where no config describes one."""
    found: dict[str, ConfigField | None] = dict.fromkeys((*_TEXTS[kind], *_FLAGS[kind]))
    if kind == "train":
        found["set"] = None
    for config in _CONFIGS[kind]:
        found |= {one.setting.option or one.name: one for one in fields_of(config) if one.setting is not None}
    return found


def required(kind: Kind, settings: Settings) -> None:
    """Raises ConfigError for a setting that no run of this kind goes without."""
    if missing := [name for name in _REQUIRED[kind] if name not in settings]:
        raise ConfigError(f"[[{kind}]] does not say {missing[0]}: every run needs {' and '.join(_REQUIRED[kind])}.")


def checked(kind: Kind, name: str, value: Any) -> Any:
    """``value`` of the option ``name`` as the run gets it; ConfigError if it cannot be."""
    one = options_of(kind)[name]
    wanted: Any = bool if name in _FLAGS[kind] else dict if name == "set" else str if one is None else one.kind
    if one is not None and one.choices:
        wanted = str
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted == Hidden:
        if not (isinstance(value, str) and _WIDTHS[kind].fullmatch(value)):
            raise ConfigError(f'{name}={value!r} must be widths in a text, for example "24,24".')
        return value
    if wanted == tuple[str, ...]:
        value = [value] if isinstance(value, str) else value
        if not (isinstance(value, list) and all(isinstance(part, str) for part in value)):
            raise ConfigError(f"{name}={value!r} must be a text; several that belong together a list in the list.")
        return value
    wanted = dict if wanted == dict[str, Any] else wanted
    if type(value) is not wanted:
        words = {int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
        raise ConfigError(f"{name}={value!r} must be {words.get(wanted, 'a text')}.")
    if one is not None:
        check_value(one, value)
    return value


@dataclass(frozen=True)
class Command:
    """``arguments`` of `policypress`; it is done where ``made`` is there, which is what it printed if ``printed``.
    Without ``made`` it is done anew, and goes on by itself where it was interrupted."""

    arguments: tuple[str, ...]
    made: Path | None = None
    printed: bool = False


@dataclass(frozen=True)
class Cell:
    """One run. ``evaluate``: what is measured after it, {} where its own last measurement is all."""

    kind: Kind
    settings: Settings
    evaluate: Settings

    @property
    def identity(self) -> str:
        """16 hexadecimal digits of the SHA-256 of everything that decides the result: settings, and of files what is in
        them, not where they are."""
        settings = {name: value for name, value in self.settings.items() if name not in ("agent", "vecnormalize")}
        told = [IDENTITY_VERSION, self.kind, settings, dict(self.evaluate)]
        return hashlib.sha256(json.dumps(told, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]

    @property
    def seed(self) -> int:
        return int(self.settings[SEED])

    @property
    def task(self) -> dict[str, Any]:
        """The settings, but for the seed, that say what is learned: what runs must share to be compared."""
        return {name: value for name, value in self.settings.items() if name != SEED and not self._of_method(name)}

    @property
    def method(self) -> dict[str, Any]:
        """The settings that say how it is pressed."""
        return {name: value for name, value in self.settings.items() if self._of_method(name)}

    @property
    def family(self) -> str:
        """What runs share that take about the same time for the same ``work``."""
        parts = (self.kind, *(self.settings.get(name, "") for name in ("algo", "env", "network", "method", "hidden")))
        return " ".join(str(part) for part in parts if part)

    @property
    def work(self) -> float:
        """How much it does, in units of its ``family``: environment steps or batches; 1 where it does not say."""
        return float(self.settings.get("steps") or self.settings.get("batches") or 1)

    def with_seed(self, seed: int) -> Cell:
        return Cell(self.kind, {**self.settings, SEED: seed}, self.evaluate)

    def arguments(self, out: Path) -> list[str]:
        """Of `policypress`, for the run itself."""
        found: list[str] = [self.kind]
        options = options_of(self.kind)
        for name, value in self.settings.items():
            option = f"--{name.replace('_', '-')}"
            if name == "agent":
                found.append(value)
            elif isinstance(value, bool):
                found += [option] if value else []
            elif name == "set":
                found += [f"{option}={key}={json.dumps(part)}" for key, part in value.items()]
            elif isinstance(value, dict):
                found += [f"{option}={key}:{part!r}" for key, part in value.items()]
            elif isinstance(value, list):
                found += [f"{option}={part}" for part in value]
            elif name in options:
                found.append(f"{option}={value}")
        return [*found, f"--out={out}", "--resume", "--json"]

    def commands(self, out: Path) -> tuple[Command, ...]:
        """The run, and what is measured after it."""
        policy, measured = str(out / "policy.policy"), self.evaluate
        found = [Command(tuple(self.arguments(out)), out / "result.json")]
        if own := {name: value for name, value in measured.items() if name in EVALUATION}:
            evaluate = ("evaluate", policy, *_options(own), "--json")
            found.append(Command(evaluate, out / EVALUATED, printed=True))
        if ROBUSTNESS in measured:
            disturb = ("evaluate", policy, "--robustness", *_options(measured[ROBUSTNESS]))
            found.append(Command((*disturb, f"--out={out / ROBUSTNESS}", "--json")))
        if measured.get(BENCH):
            found.append(Command(("bench", policy, "--json"), out / LATENCY, printed=True))
        if measured.get(FILM):
            found.append(Command(("watch", policy, f"--out={out / MOMENTS}", "--json"), out / MOMENTS))
        return tuple(found)

    def _of_method(self, name: str) -> bool:
        return name in _METHOD if self.kind == "train" else name not in (*_TASK, SEED)


def _options(settings: Settings) -> list[str]:
    return [f"--{name}={','.join(value) if isinstance(value, list) else value}" for name, value in settings.items()]


def common(cells: Sequence[Cell]) -> frozenset[str]:
    """Names of the settings in which ``cells`` do not differ, and which need not be told; seeds may be added."""
    names = {name for cell in cells for name in cell.settings} - {SEED}
    return frozenset(
        name for name in names if len({json.dumps(cell.settings.get(name), sort_keys=True) for cell in cells}) == 1
    )


def shown(settings: Settings, without: frozenset[str] = frozenset()) -> str:
    """Settings in a line, for people."""
    left = {name: value for name, value in settings.items() if name not in (*DIGESTS, *without)}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in left.items()
    )
