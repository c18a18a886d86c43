"""What failed, and how everything was made."""

from __future__ import annotations

import time

from policypress import __version__
from policypress.studies.cells import shown
from policypress.studies.report.document import Section, Table, Words
from policypress.studies.report.results import Named, Results, command
from policypress.studies.store import Run


def failed(results: Results) -> Section | None:
    if not results.failed:
        return None
    lines = [
        [run.id, shown(run.cell.settings, results.common), _last(run.error), run.host or "", str(run.attempts)]
        for run in results.failed
    ]
    columns = ("run", "settings", "its last words", "host", "attempts")
    alike: dict[str, list[Run]] = {}
    for run in results.failed:
        alike.setdefault(_last(run.error), []).append(run)
    words = [
        Words(f"All that {runs[0].id} said" + (f", and {len(runs) - 1:,} more alike" if len(runs) > 1 else ""), error)
        for runs in alike.values()
        if (error := runs[0].error)
    ]
    text = ("They are in no other figure of this page; `policypress study run FILE --retry` tries them again.",)
    return Section("failed", "Runs that failed", text, (Table("Runs that failed", columns, lines, words=4), *words))


def made(results: Results) -> Section:
    hosts: dict[tuple[str, str, str], int] = {}
    for run in results.runs:
        machine = run.figures.get("machine") or {}
        versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
        cores = f", {machine['cores']} cores" if "cores" in machine else ""
        key = (str(machine.get("host") or run.host or "not told"), f"{machine.get('cpu', '')}{cores}", versions)
        hosts[key] = hosts.get(key, 0) + 1
    machines = Table(
        "Hosts, and the versions that runs were made with",
        ("host", "processor", "versions", "runs"),
        [[*key, f"{count:,}"] for key, count in hosts.items()],
        words=3,
    )
    commands = Table(
        "Commands, of the first seed of each cell, in the study's folder",
        ("task", "method", "seeds", "command"),
        [[task.title, cell.name, _seeds(cell), command(cell.runs[0])] for task in results.tasks for cell in task.cells],
        words=4,
    )
    times = [when for run in results.runs for when in (run.started, run.ended) if when is not None]
    when = f"Runs were made from {_minute(min(times))} to {_minute(max(times))} (UTC). " if times else ""
    text = (f"{when}This page was made by policypress {__version__}, `policypress study report`.",)
    return Section("made", "How it was made", text, (machines, commands))


def _seeds(cell: Named) -> str:
    seeds = cell.figures.seeds
    row = len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if row else ", ".join(map(str, seeds))


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _last(error: str | None) -> str:
    return ((error or "").strip().splitlines() or [""])[-1]
