"""Which cases of a test run in `make test`, and which wait for `make test-slow`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """``values`` of a parametrization, all but the ``chosen`` ones marked slow."""
    return [one if one in chosen else pytest.param(one, marks=pytest.mark.slow) for one in values]
