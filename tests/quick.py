"""Which cases of a test run in `make test`, and which wait for `make test-slow`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def quick(values: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """``values`` of one name, all but the ``chosen`` ones marked slow."""
    return [one if one in chosen else _slow(one) for one in values]


def crossed(*axes: Iterable[Any]) -> list[Any]:
    """Of several names every combination of their values. Quick are as many as the longest axis is long: enough that
    each value of each axis is there."""
    values = [list(axis) for axis in axes]
    places = list(product(*(range(len(axis)) for axis in values)))
    chosen = {tuple(at % len(axis) for axis in values) for at in range(max(map(len, values)))}
    cases = ((place, [axis[at] for axis, at in zip(values, place, strict=True)]) for place in places)
    return [tuple(case) if place in chosen else _slow(*case) for place, case in cases]


def covering(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """``cases`` of several names. Quick are those with a value that none before has in its place."""
    found: list[Any] = []
    met: set[tuple[int, Any]] = set()
    for case in cases:
        found.append(_slow(*case) if met.issuperset(enumerate(case)) else case)
        met.update(enumerate(case))
    return found


def _slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)
