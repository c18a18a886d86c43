"""What policies do: some moments of an episode each."""

from __future__ import annotations

from policypress.studies.report.document import Picture, Section
from policypress.studies.report.results import Results, Task, moments

MOST = 20
"""Pictures of a page, which have some 40 kB each."""


def films(results: Results) -> Section | None:
    found = [picture for task in results.tasks for picture in _pictures(results, task)]
    if not found:
        return None
    text = (
        "Six moments of the first ten simulated seconds of an episode, of the run of the first seed. Below each stand "
        "the bytes of its payload and its return so far.",
        *([f"{len(found) - MOST} more are in the folders of their runs, as `film.jpg`."] if len(found) > MOST else []),
    )
    return Section("films", "At work", text, tuple(found[:MOST]))


def _pictures(results: Results, task: Task) -> list[Picture]:
    return [
        Picture(f"{task.title}, {cell.name}", f"Six moments of an episode of {cell.name} on {task.title}.", data)
        for cell in task.cells
        if (data := moments(results, cell.runs[0])) is not None
    ]
