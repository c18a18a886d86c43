"""What an export takes of a processor, as rows: measured by ``policypress.measure.targets``, written into headers and
reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOT_MEASURED = "not measured: policypress export --measure does"


@dataclass(frozen=True)
class Resources:
    """What a policy takes of ``target`` (a processor) when it is compiled with ``options``.

    ``flash``: constants, engine and routines of the compiler's library; ``ram``: ``data`` (static, work memory
    included), the deepest ``stack`` and ``buffers`` of the caller, in bytes all. ``count``: of ``unit``
    ("instructions" or "cycles"), the mean of an action; ``most``: of any action; None where that is not known.
    ``observations`` were run and ``differing`` answers are not the reference's. ``form``: of the export. ``tools``: the
    compiler and the emulator.
    """

    target: str
    options: str
    form: str
    flash: int
    data: int
    stack: int
    buffers: int
    unit: str
    count: float
    most: float | None
    observations: int
    differing: int
    tools: tuple[str, ...]

    @property
    def ram(self) -> int:
        return self.data + self.stack + self.buffers


def header_lines(rows: Sequence[Resources] | str) -> list[str]:
    """Lines of a header's comment; ``rows``: or why there are none."""
    if isinstance(rows, str):
        return [f"Resources: {rows}."]
    lines = ["Resources of an action, in bytes; RAM: static, deepest stack, the caller's observation and action."]
    for row in rows:
        most = "" if row.most is None else f", at most {row.most:,.0f}"
        lines.append(
            f"  {row.target} {row.options.split()[-1]}: flash {row.flash:,}, RAM {row.ram:,} ({row.data:,}, "
            f"{row.stack:,}, {row.buffers:,}), {row.unit} {row.count:,.0f}{most}"
        )
    tools = ", ".join(dict.fromkeys(tool for row in rows for tool in row.tools))
    wrong, asked = sum(row.differing for row in rows), sum(row.observations for row in rows)
    return [*lines, f"  by {tools}; {wrong} of {asked:,} answers differ from the reference's"]
