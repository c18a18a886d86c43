"""Files that are there whole or not at all, and folders that one process holds."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policypress.errors import RunError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed otherwise."""
    # In the same folder, because only a rename within a file system is atomic.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes ``content`` (text as UTF-8) to ``path`` at once: readers see the old file or the new one."""
    with replace_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_partial(*paths: Path) -> None:
    """Removes the temporary files of ``paths`` that a killed process left; nothing may be writing them."""
    for path in paths:
        for partial in path.parent.glob(f".{path.name}[-.]*"):  # "-": as earlier versions named them
            partial.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process; RunError if another one trains there or nothing can be written. A folder that
    it made is gone again if nothing is in it at the end."""
    import fcntl  # which Windows lacks, where policies are still written

    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"nothing can be written to {folder} ({error.strerror}): choose another --out.") from error
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another process is training in {folder}: wait for it or choose another --out.") from error
        try:
            yield
        finally:
            if new and folder.is_dir() and [path.name for path in folder.iterdir()] == [".lock"]:
                shutil.rmtree(folder)
