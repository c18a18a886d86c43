"""``policypress study``: ``run``, ``status``, ``summary``, ``report``, ``add-seeds`` and ``export``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from policypress.cli.live import studied
from policypress.cli.terminal import JsonOption, app, fail, print_files, print_json, say, stderr, stdout
from policypress.errors import ConfigError
from policypress.studies.export import FORMATS
from policypress.studies.report.document import FORMATS as REPORTS

_REFRESH = 2.0

study = typer.Typer(help="Run a grid of trainings or pressings, and say what came of it.", no_args_is_help=True)
app.add_typer(study, name="study")

FolderArgument = Annotated[Path, typer.Argument(help="The study's folder.")]


@study.command()
def run(
    file: Annotated[Path, typer.Argument(help="The study: a TOML file, see docs/studies.md.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; made if missing. Default: runs/ and the file's name.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at once. Default: as many as there are cores for.")] = None,
    on: Annotated[str, typer.Option(help="Where: local, in processes here; ray, on a cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster. Default: one is started here.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Take up again what failed.")] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="The file has changed: add the runs that are new, drop those that did not begin."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs there are, and do none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Do every run of a study that is not done yet; the same command goes on with whatever was interrupted."""
    from policypress.studies.cells import common
    from policypress.studies.driver import run_study, told
    from policypress.studies.study_file import read_study
    from policypress.tables import grid_table, study_table

    described = read_study(file)
    if dry_run:
        if as_json:
            print_json([{"id": cell.identity, "kind": cell.kind, **cell.settings} for cell in described.cells])
        else:
            stdout.print(grid_table(described))
        return
    folder = out or Path("runs") / file.stem
    same = common(described.cells)
    try:
        with studied() as watch:
            end = run_study(
                described,
                folder,
                jobs=jobs,
                on=on,
                address=address,
                retry=retry,
                update=update,
                report=lambda cell, outcome: stderr.print(told(cell, outcome, same), markup=False, soft_wrap=True),
                watch=watch,
            )
    except KeyboardInterrupt:
        say("interrupted; the same command goes on.")
        raise typer.Exit(130) from None
    if as_json:
        print_json(end.as_dict())
    else:
        stdout.print(study_table(end))
        print_files(f"study  {folder}")
    if end.failed:
        fail(f"{end.failed} of {end.total} runs failed: `policypress study status {folder}` says why; --retry.")
    if end.waiting:
        fail(f"{end.waiting} runs were killed again and again, perhaps for want of memory: fewer --jobs.")


@study.command()
def status(
    folder: FolderArgument,
    once: Annotated[bool, typer.Option("--once", help="Do not stay, although runs are being done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a study is, how fast it goes and what failed; in a terminal live, while it runs."""
    from rich.console import Group
    from rich.live import Live

    from policypress.studies.standing import standing
    from policypress.studies.store import Store
    from policypress.tables import failures, running_table, study_table

    with Store(folder) as store:
        now = standing(store)
        if as_json:
            failed = [{"id": run.id, **run.cell.settings, "error": run.error} for run in store.runs("failed")]
            print_json({**now.as_dict(), "failures": failed})
            return
        if stdout.is_terminal and now.drivers and not once:
            with Live(console=stdout, auto_refresh=False) as live:
                while now.drivers:
                    live.update(Group(study_table(now), running_table(now)), refresh=True)
                    time.sleep(_REFRESH)
                    now = standing(store)
                live.update(study_table(now), refresh=True)
        else:
            stdout.print(study_table(now))
            if now.now:
                stdout.print(running_table(now))
        if told := failures(store.runs("failed"), store.common):
            print_files(told)


@study.command()
def summary(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show what the finished runs say together: returns over seeds and tasks with 95 % intervals, bytes."""
    from dataclasses import asdict

    from policypress.studies.statistics import cell_figures, method_figures
    from policypress.studies.store import EPISODES, Store
    from policypress.tables import cell_table, method_table

    with Store(folder) as store:
        runs, same = store.runs("done", without=(*EPISODES, "curve")), store.common
        cells = cell_figures(runs, store.baseline)
        methods = method_figures(runs, store.baseline, store.normalize)
    if as_json:
        print_json({"cells": [asdict(one) for one in cells], "methods": [asdict(one) for one in methods]})
        return
    if not cells:
        raise ConfigError(f"no run of {folder} is finished: `policypress study run` goes on with it.")
    stdout.print(cell_table(cells, same))
    if methods:
        stdout.print(method_table(methods, same))


@study.command()
def report(
    folder: FolderArgument,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: report.html or so in the folder.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help=f"{', '.join(REPORTS)}: a page that needs nothing else, text, the summary.")
    ] = "html",
    paper: Annotated[
        Path | None,
        typer.Option(help="Published points to show beside it: CSV with env, sparsity, mean, std."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write what the finished runs gave as one page with charts and tables, without any network."""
    from policypress.studies.report.write import write_report
    from policypress.studies.store import Store

    path = out or folder / f"report.{form}"
    with Store(folder) as store:
        size = write_report(store, path, form, paper)
    if as_json:
        print_json({"bytes": size, "out": str(path)})
    else:
        print_files(f"{path}  {size:,} bytes")


@study.command()
def collect(
    folder: Annotated[Path, typer.Argument(help="The study's folder; made if missing.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of `train` and `compress`.")],
    as_json: JsonOption = False,
) -> None:
    """Take finished runs that no study has made into one, so that `summary` and `report` tell of them."""
    from policypress.studies.collect import collect as collected

    added = collected(folder, runs)
    if as_json:
        print_json({"added": added})
    else:
        print_files(f"{added} runs added to {folder}; `policypress study report {folder}` tells of them.")


@study.command()
def add_seeds(
    folder: FolderArgument,
    seeds: Annotated[list[int], typer.Argument(help="Seeds, for example 4 5 6.", min=0)],
    as_json: JsonOption = False,
) -> None:
    """Add every run of a study with more seeds; `policypress study run` then does them."""
    from policypress.studies.store import Store

    with Store(folder) as store:
        added = store.add_seeds(seeds)
    if as_json:
        print_json({"added": added})
    else:
        print_files(f"{added} runs added to {folder}; the `policypress study run` that made it does them.")


@study.command()
def export(
    folder: FolderArgument,
    to: Annotated[str, typer.Option(help=f"Format: {' or '.join(FORMATS)}; parquet needs pyarrow.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: runs.csv or so in the folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write all runs to a table, a row each: settings, status, timings, versions, every return, bytes."""
    from policypress.studies.export import export_runs
    from policypress.studies.store import Store

    path = out or folder / f"runs.{to}"
    with Store(folder) as store:
        rows = export_runs(store.runs(), path, to)
    if as_json:
        print_json({"rows": rows, "out": str(path)})
    else:
        print_files(f"{path}  {rows:,} runs")
