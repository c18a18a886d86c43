"""Points that a paper published, in a CSV, to be set beside a study's: a row for each environment and sparsity."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policypress.errors import ConfigError

PAPER = "the paper"
"""What its points are called in charts."""
_MEAN, _STD = ("mean", "return_final_mean"), ("std", "return_final_std")
_NETWORKS = {"mlp": "mlp", "nature": "cnn", "resnet": "resnet"}
"""What our networks are called there, in the beginning."""


@dataclass(frozen=True)
class PaperPoint:
    """Mean return and standard deviation of ``env`` at a ``sparsity``, from all weights of 8 bits. ``algo`` and
    ``network`` are "" where the file does not tell; ``nominal_bytes``: the paper's own count, positions left out."""

    env: str
    sparsity: float
    mean: float
    std: float
    algo: str = ""
    network: str = ""
    nominal_bytes: float | None = None

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is of the task that ``settings`` of a run say. Versions of an environment need not be the same."""
        network = _NETWORKS.get(settings.get("network", "mlp"), "")
        return (
            _base(self.env) == _base(settings["env"])
            and self.algo in ("", settings.get("algo"))
            and self.network.startswith(network if self.network else "")
        )


def read_paper(path: Path) -> list[PaperPoint]:
    """Points of a CSV with the columns ``env``, ``sparsity``, ``mean`` and ``std`` (or ``return_final_mean`` and
    ``return_final_std``), and perhaps ``algorithm``, ``network`` and ``nominal_bytes``; ConfigError if it has none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [_point(row) for row in rows]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path} is no table with env, sparsity, mean and std as numbers ({error}).") from error


def points_of(points: Sequence[PaperPoint], settings: Mapping[str, Any]) -> list[PaperPoint]:
    """Those of the task of ``settings``, by sparsity."""
    return sorted((point for point in points if point.fits(settings)), key=lambda point: point.sparsity)


def point_of(points: Sequence[PaperPoint], settings: Mapping[str, Any]) -> PaperPoint | None:
    """The one of the same task, sparsity and bits as the run that ``settings`` describe, if there is one."""
    if settings["weight_bits"] != 8 or "hidden" in settings:
        return None
    return next((one for one in points_of(points, settings) if one.sparsity == settings["sparsity"]), None)


def _point(row: Mapping[str, str]) -> PaperPoint:
    def first(names: Sequence[str]) -> float:
        return float(row[next((name for name in names if name in row), names[0])])

    size = row.get("nominal_bytes")
    return PaperPoint(
        row["env"],
        float(row["sparsity"]),
        first(_MEAN),
        first(_STD),
        row.get("algorithm", ""),
        row.get("network", ""),
        float(size) if size else None,
    )


def _base(env: str) -> str:
    """HalfCheetah-v4 and -v5 are one."""
    name, _, version = env.rpartition("-v")
    return name if name and version.isdigit() else env
