"""The application, what it prints on, and what becomes of errors and warnings."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from policypress import __version__
from policypress.errors import PolicypressError
from policypress.extras import missing

app = typer.Typer(
    help="Press a reinforcement-learning policy until it fits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def main() -> None:
    """Entry point: errors on purpose become one sentence on standard error and exit code 2, warnings one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            app()
    except PolicypressError as error:
        say(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        say(missing(error.name or ""))
        sys.exit(2)


def say(sentence: str) -> None:
    """A sentence on standard error."""
    stderr.print(f"policypress: {sentence}", markup=False, soft_wrap=True)


def fail(sentence: str) -> NoReturn:
    """Ends a verb that did what was asked, but found what ``sentence`` says: exit code 1."""
    say(sentence)
    raise typer.Exit(1)


def print_json(values: Any) -> None:
    """``values`` as one JSON object on standard output."""
    stdout.print_json(json.dumps(values))


def print_files(lines: str) -> None:
    """Names of files on standard output, not broken where they are long."""
    stdout.print(lines, markup=False, soft_wrap=True)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")


def _tell_version(asked: bool) -> None:
    if asked:
        stdout.print(f"policypress {__version__}")
        raise typer.Exit


@app.callback()
def _verbs(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Press a reinforcement-learning policy until it fits."""
