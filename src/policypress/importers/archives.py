"""Archives that PyTorch writes: what is asked of them before anything is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

from policypress.errors import RunError, UnsupportedError
from policypress.importers.opened import MAX_BYTES

_ENTRIES = 10_000


def check_archive(path: Path) -> None:
    """Raises RunError for a damaged archive, UnsupportedError for one that unpacks to more than a policy."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > MAX_BYTES or len(entries) > _ENTRIES:
                raise UnsupportedError(
                    f"{path} unpacks to {size >> 20:,} MB in {len(entries):,} files: that is no policy that can be "
                    "pressed."
                )
            damaged = archive.testzip()
    except UnsupportedError:
        raise
    except Exception as error:  # zipfile's, zlib's and struct's own
        raise RunError(f"{path} is damaged, or not all of it is there: copy or export it again.") from error
    if damaged is not None:
        raise RunError(f"{path} is damaged ({damaged}): copy or export it again.")
