"""What a policy takes of every processor that is emulated here, in rows of one kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

from policypress.errors import ConfigError
from policypress.export.c import Weights
from policypress.export.c_resources import Resources
from policypress.measure import avr, microcontroller
from policypress.measure.avr import AvrReport, measure_on_avr
from policypress.measure.microcontroller import TargetReport, measure_on_target
from policypress.policy.policy import Policy

TARGETS = (*microcontroller.TARGETS, "avr")
OPTIMIZE = ("-O2", "-Os")


def measure(policy: Policy, target: str) -> TargetReport | AvrReport:
    """What ``policy`` takes of ``target``, one of ``TARGETS``: as it is on a Cortex-M, without floats on an AVR. Raises
    ConfigError for another target, and what ``measure_on_target`` and ``measure_on_avr`` do."""
    if target not in TARGETS:
        raise ConfigError(f"target={target!r} is not known: use {', '.join(TARGETS)}.")
    return measure_on_avr(policy) if target == "avr" else measure_on_target(policy, target)


def resources(
    policy: Policy,
    targets: Sequence[str],
    *,
    integer_only: bool = False,
    weights: Weights = "auto",
    observation: str | None = None,
    observation_scale: tuple[float, ...] | None = None,
) -> tuple[Resources, ...]:
    """Rows for ``targets``, each with ``-O2`` and ``-Os``; the other settings: as in ``CExportConfig``. On an AVR the
    export is without floats. Raises what ``measure`` does."""
    rows = list[Resources]()
    for target in targets:
        for optimize in OPTIMIZE:
            if target == "avr":
                rows.append(_avr_row(measure_on_avr(policy, weights=weights, optimize=optimize)))
                continue
            report = measure_on_target(
                policy,
                target,
                integer_only=integer_only,
                weights=weights,
                optimize=optimize,
                observation=observation,
                observation_scale=observation_scale,
            )
            rows.append(_row(report))
    return tuple(rows)


def missing_tools(targets: Sequence[str]) -> tuple[str, ...]:
    """What is not installed of what ``resources`` runs for ``targets``."""
    missing = avr.missing_tools() if "avr" in targets else ()
    return missing + (microcontroller.missing_tools() if set(targets) - {"avr"} else ())


def _row(report: TargetReport) -> Resources:
    return Resources(
        target=report.target,
        options=report.options,
        form="integer-only" if report.integer_only else f"{report.observation} observations",
        flash=report.footprint.flash,
        data=report.footprint.data,
        stack=report.stack,
        buffers=report.buffers,
        unit="instructions",
        count=report.instructions,
        most=report.most_instructions,
        observations=report.observations,
        differing=report.differing,
        tools=tuple(map(_tool, (report.compiler, report.emulator))),
    )


def _avr_row(report: AvrReport) -> Resources:
    return Resources(
        target=f"avr ({report.mcu})",
        options=report.options,
        form="integer-only",
        flash=report.flash,
        data=report.data,
        stack=report.stack,
        buffers=report.buffers,
        unit="cycles",
        count=report.cycles,
        most=None,
        observations=report.observations,
        differing=report.differing,
        tools=tuple(map(_tool, (report.compiler, report.emulator))),
    )


def _tool(version: str) -> str:
    """A tool with its version, without its packager's: "arm-none-eabi-gcc 12.2.1"."""
    return " ".join(re.sub(r"\([^)]*\)|\d{8}|version|emulator", "", version).split())
