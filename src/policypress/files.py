"""Files that are there whole or not at all, and folders that one process holds."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policypress.errors import RunError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed otherwise."""
    partial = _partial(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which must not exist: it becomes ``path`` when the block ends well, and is
    removed otherwise."""
    partial = _partial(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes ``content`` (text as UTF-8) to ``path`` at once: readers see the old file or the new one."""
    with replace_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def is_zipped(path: Path) -> bool:
    """Whether a file ends as a zip does; a damaged one too."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of an end that says what no reader can do
        return True


def remove_partial(*paths: Path) -> None:
    """Removes the temporary files and folders of ``paths`` that a killed process left; nothing may be writing them."""
    for path in paths:
        for partial in path.parent.glob(f".{path.name}[-.]*"):  # "-": as earlier versions named them
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink()


@contextmanager
def locked(folder: Path, work: str = "training") -> Iterator[None]:
    """Holds ``folder`` for this process and its ``work``; RunError if another one is at work there or nothing can be
    written. A folder that it made is gone again if nothing is in it at the end."""
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
            raise RunError(f"another process is {work} in {folder}: wait for it or choose another --out.") from error
        try:
            yield
        finally:
            if new and folder.is_dir() and [path.name for path in folder.iterdir()] == [".lock"]:
                shutil.rmtree(folder)


def is_locked(path: Path, name: str = ".lock") -> bool:
    """Whether a process holds the folder ``path`` (``locked``), or another file of that ``name`` in it."""
    import fcntl

    try:
        with (path / name).open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _partial(path: Path) -> Path:
    """A new name in the same folder, because only a rename within a file system is atomic."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
