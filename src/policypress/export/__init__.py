"""A policy in other formats, each checked against the reference before it is written."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from policypress.errors import ConfigError
from policypress.policy.policy import Policy

__all__ = ["FORMATS", "RESERVED", "Report", "export", "identifier"]

RESERVED = frozenset((
    "engine", "payload", "coder",  # files of an export
    "policypress_engine", "policypress_payload", "policypress_coder",  # guards of their headers
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math", "setjmp",
    "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "stdnoreturn",
    "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype",
))  # fmt: skip
"""Names, in lower case, that an export to C cannot have: NAME.h would stand in for a header that others include."""


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
) -> Report:
    from policypress.export.c import CExportConfig, export_c

    return export_c(policy, path, CExportConfig(name, integer_only, weights, seed=seed))


def _onnx(policy: Policy, path: Path, *, style: str = "exact", seed: int = 0) -> Report:
    from policypress.export.onnx import export_onnx

    return export_onnx(policy, path, style, seed)


FORMATS: dict[str, Callable[..., Report]] = {"c": _c, "onnx": _onnx}
"""Called with the policy, the path and the format's own options; their packages are imported when they are called."""


def export(policy: Policy, path: str | Path, to: str, **options: Any) -> Report:
    """Write ``policy`` to ``path`` in the format ``to``, checked; ``options`` are the format's own.

    Raises ConfigError for an unknown format or option, ExportError if what was made does not answer as the policy does.
    """
    if to not in FORMATS:
        raise ConfigError(f"to={to!r} is not one of {', '.join(FORMATS)}.")
    known = inspect.signature(FORMATS[to]).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"{option} is not an option of the format {to}: leave it out.")
    return FORMATS[to](policy, Path(path), **options)


def identifier(stem: str) -> str:
    """A C identifier made of a file's name."""
    text = re.sub(r"\W", "_", stem.split(".")[0], flags=re.ASCII).lstrip("_0123456789")[:63]
    return text if text and text.lower() not in RESERVED else f"policy_{text}".rstrip("_")


class _Callable(ModuleType):
    """This package, which is also the function ``policypress.export(policy, path, to)``."""

    def __call__(self, policy: Policy, path: str | Path, to: str, **options: Any) -> Report:
        return export(policy, path, to, **options)


sys.modules[__name__].__class__ = _Callable
