"""What is shown on standard error while something runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from policypress.cli.terminal import say, stderr

if TYPE_CHECKING:
    from policypress.rl.search import Standing
    from policypress.studies.standing import Standing as StudyStanding


@contextmanager
def resumable() -> Iterator[None]:
    """Whoever interrupts what runs inside is told how to go on; exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; go on with --resume.")
        raise typer.Exit(130) from None


@contextmanager
def bars(unit: str, digits: str = ".1f") -> Iterator[Callable[[str, int, int, float | None], None]]:
    """Progress bars, one for each name, with time left and the latest value in ``unit``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[latest]}"),
    )
    with Progress(*columns, console=stderr) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int, latest: float | None) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, latest="")
            shown = "" if latest is None else f"{unit} {latest:{digits}}"
            progress.update(tasks[name], completed=done, total=total, latest=shown)

        yield advance


@contextmanager
def standing() -> Iterator[Callable[[Standing], None]]:
    """A live line that says where a search stands; where there is no terminal, a line whenever it turns to something
    else."""
    from policypress.tables import standing_line

    if stderr.is_terminal:
        with stderr.status("opening the agent") as status:
            yield lambda now: status.update(standing_line(now))
        return
    said: tuple[object, ...] = ()

    def tell(now: Standing) -> None:
        nonlocal said
        turn = (now.doing, now.running, now.finished)
        if turn != said:
            said = turn
            stderr.print(standing_line(now), markup=False, soft_wrap=True)

    yield tell


@contextmanager
def studied() -> Iterator[Callable[[StudyStanding], None]]:
    """A live line that says where a study stands; where there is no terminal nothing, for every run has a line when it
    ends."""
    from policypress.tables import study_line

    if not stderr.is_terminal:
        yield lambda _: None
        return
    with stderr.status("starting") as status:
        yield lambda now: status.update(study_line(now))
