"""Write constraints.txt: the installed version of everything that policypress[train,export,watch,dev] needs, in depth.

Run by `make constraints`, in an environment where policypress is installed with these extras.
"""

from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

HEADER = """\
# What the demo and the tests run with, on Python 3.11. Written by `make constraints`: do not edit.
# No local version suffix, path or address belongs here. A pin with no release for Python 3.10 carries a
# marker: on an older Python pip picks a version that fits.
"""
MINORS = range(10, 20)


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether a distribution taken with these extras has this requirement here."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def needed(root: Requirement) -> set[str]:
    """The names of all distributions that the root needs, directly or not, itself and pip left out."""
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [root]
    while pending:
        requirement = pending.pop()
        node = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if node not in seen:
            seen.add(node)
            children = map(Requirement, distribution(requirement.name).requires or [])
            pending += [child for child in children if applies(child, node[1])]
    return {name for name, _ in seen} - {canonicalize_name(root.name), "pip"}  # which every environment has


def pin(name: str) -> str:
    """The line of one distribution, with a marker where its release does not support Python 3.10."""
    found = distribution(name)
    supported = SpecifierSet(found.metadata["Requires-Python"] or "")
    oldest = next(minor for minor in MINORS if supported.contains(f"3.{minor}.99"))
    marker = "" if oldest == MINORS.start else f' ; python_version >= "3.{oldest}"'
    return f"{name}=={Version(found.version).public}{marker}\n"


def main() -> None:
    names = sorted(needed(Requirement("policypress[train,export,watch,dev]")))
    path = Path(__file__).resolve().parents[1] / "constraints.txt"
    path.write_text(HEADER + "".join(map(pin, names)), encoding="utf-8")
    print(f"Wrote {len(names)} pins to {path}.")


if __name__ == "__main__":
    main()
