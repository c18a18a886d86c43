"""A policy in other formats, each checked against the reference before it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from policypress.errors import ConfigError
from policypress.policy.policy import Policy

__all__ = ["FORMATS", "Report", "export"]


class Report(Protocol):
    """What an export found when it checked itself."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        ...

    def rows(self) -> dict[str, str]:
        """What people read of it: names and short sentences."""
        ...


def _onnx(policy: Policy, path: Path, **options: Any) -> Report:
    from policypress.export.onnx import export_onnx

    return export_onnx(policy, path, **options)


FORMATS: dict[str, Callable[..., Report]] = {"onnx": _onnx}
"""Called with the policy, the path and the format's own options; their packages are imported when they are called."""


def export(policy: Policy, path: str | Path, to: str, **options: Any) -> Report:
    """Write ``policy`` to ``path`` in the format ``to``, checked; ``options`` are the format's own.

    Raises ConfigError for an unknown format, ExportError if what was made does not answer as the policy does.
    """
    if to not in FORMATS:
        raise ConfigError(f"to={to!r} is not one of {', '.join(FORMATS)}.")
    return FORMATS[to](policy, Path(path), **options)
