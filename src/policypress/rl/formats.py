"""Formats of trained agents: the one place that says which files can be opened, and how.

Another format is a row of READERS and a module with its two functions. What opens it may be a black box: a ``Teacher``
with ``answers`` and no graph. Those of other frameworks are rows of ``importers.formats.FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from policypress.errors import RunError
from policypress.importers.formats import FORMATS, check_readable, format_of, is_function
from policypress.rl.agents import is_zip, open_zip
from policypress.rl.environments import EnvLike
from policypress.rl.imported import open_imported
from policypress.rl.policy_files import is_policy, open_policy
from policypress.rl.sources import OpenedAgent, Source


@dataclass(frozen=True)
class Reader:
    """One format: who saves it, what to give, whether a file is of it, and how it is opened for an algorithm and an
    environment."""

    name: str
    file: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Source, str | None, EnvLike | None], OpenedAgent]


READERS: tuple[Reader, ...] = (
    Reader("Stable-Baselines3", "the zip that model.save wrote", is_zip, open_zip),
    Reader("policypress", "a .policy file", is_policy, open_policy),
    *(Reader(one.name, one.file, one.recognizes, open_imported) for one in FORMATS),
)


def open_agent(source: Source, algo: str | None, env: EnvLike | None) -> OpenedAgent:
    """The agent in these files, as it acts in ``env``, or as the files alone tell (None); the first reader that
    recognizes them opens them.

    Raises RunError for a file that is missing or of no known format, and what its reader raises.
    """
    path = Path(source.agent)
    files = ", or ".join(reader.file for reader in READERS)
    if source.opening.format or is_function(path):
        format_of(path, source.opening.format)  # says which there are
        return open_imported(source, algo, env)
    if not path.exists():
        raise RunError(f"there is no file {path}: give {files}.")
    for reader in READERS:
        if path.is_file() and reader.recognizes(path):
            return reader.open(source, algo, env)
    check_readable(path)
    names = " or ".join(reader.name for reader in READERS)
    raise RunError(f"{path} is not an agent saved by {names}: give {files}.")
