"""The policies of a folder of results, found by name."""

from __future__ import annotations

from pathlib import Path

from policypress.errors import ConfigError


def stored_policies(folder: str | Path) -> dict[str, Path]:
    """Every ``policy.policy`` below ``folder``, in the order of paths, by the name of the folder that it lies in.

    Raises ConfigError if two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).rglob("policy.policy")):
        if path.parent.name in found:
            raise ConfigError(f"{path} and {found[path.parent.name]} have one name: rename the folder of one of them.")
        found[path.parent.name] = path
    return found
