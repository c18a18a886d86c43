"""A policy in other formats, each checked against the reference before it is written.

The package can be called: ``policypress.export(policy, path, "onnx")`` is its ``export``. A format is a row of
``FORMATS`` and a module of its own; an option that no format had yet is added to the command too.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from policypress.errors import ConfigError
from policypress.export.c_names import RESERVED, identifier, name_of
from policypress.policy.policy import Policy

__all__ = ["FORMATS", "RESERVED", "Report", "export", "identifier", "name_of", "options_of"]


class Report(Protocol):
    """What an export found when it checked itself."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        ...

    def rows(self) -> dict[str, str]:
        """What people read of it: names and short sentences."""
        ...


def _c(
    policy: Policy,
    path: Path,
    *,
    name: str | None = None,
    integer_only: bool = False,
    weights: Any = "auto",
    seed: int = 0,
    observation: str | None = None,
    observation_scale: tuple[float, ...] | None = None,
    measure: Any = None,
) -> Report:
    from policypress.export.c import CExportConfig, export_c
    from policypress.export.c_resources import NOT_MEASURED

    config = CExportConfig(
        name,
        integer_only,
        weights,
        seed=seed,
        observation=observation,
        observation_scale=observation_scale,
        measure=NOT_MEASURED if measure is None else measure,
    )
    return export_c(policy, path, config)


def _onnx(policy: Policy, path: Path, *, style: str = "exact", seed: int = 0, observation: str | None = None) -> Report:
    from policypress.export.onnx import export_onnx

    return export_onnx(policy, path, style, seed, observation)


def _tflite(policy: Policy, path: Path, *, style: str = "int8", ends: str = "float", seed: int = 0) -> Report:
    from policypress.export.tflite import export_tflite

    return export_tflite(policy, path, style, ends, seed)


FORMATS: dict[str, Callable[..., Report]] = {"c": _c, "onnx": _onnx, "tflite": _tflite}
"""Called with the policy, the path and the format's own options; their packages are imported when they are called."""


def export(policy: Policy, path: str | Path, to: str, **options: Any) -> Report:
    """Write ``policy`` to ``path`` in the format ``to``, checked; ``options`` are the format's own.

    Raises ConfigError for an unknown format or option, ExportError if what was made does not answer as the policy does.
    """
    known = options_of(to)
    for option in options:
        if option not in known:
            raise ConfigError(f"{option} is not an option of the format {to}: leave it out.")
    return FORMATS[to](policy, Path(path), **options)


def options_of(to: str) -> tuple[str, ...]:
    """Names of the options of the format ``to``; ConfigError if there is none of this name."""
    if to not in FORMATS:
        raise ConfigError(f"to={to!r} is not one of {', '.join(FORMATS)}.")
    parameters = inspect.signature(FORMATS[to]).parameters.values()
    return tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)


class _Callable(ModuleType):
    """``policypress.export`` as a package and as a function: importing any of its modules binds the name to it."""

    def __call__(self, policy: Policy, path: str | Path, to: str, **options: Any) -> Report:
        return export(policy, path, to, **options)


sys.modules[__name__].__class__ = _Callable
