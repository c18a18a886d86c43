"""Where pieces of work are done: processes here and Ray's tasks keep the same promises."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policypress.errors import ConfigError, RunError
from policypress.extras import lacking
from policypress.rl.executors import Executor, check_place, executor


def double(tell: Any, value: int) -> int:
    tell()
    return 2 * value


def fail(_: Any, error: Exception) -> None:
    raise error


def write_late(_: Any, path: Path, seconds: float) -> None:
    time.sleep(seconds)
    path.touch()


def die(_: Any) -> None:
    os._exit(3)


@pytest.fixture(
    params=[
        "local",
        pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.skipif(bool(lacking("cluster")), reason="no Ray")]),
    ]
)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor[str]]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))  # processes find this module by its name
    with executor(request.param, None, lambda key: f"line {key}") as found:
        yield found


def heard(place: Executor[str], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (message := place.wait(1.0)) is not None:
            return message
    raise AssertionError("nothing was heard")


def test_work_is_done_and_heard_of_once(place: Executor[str]) -> None:
    assert place.slots >= 1
    for key, value in (("a", 1), ("b", 2)):
        place.start(key, double, value)
    assert place.running == {"a", "b"}
    messages = [heard(place), heard(place)]
    assert {message.key: message.value for message in messages} == {"a": 2, "b": 4}
    assert all(message.done for message in messages)
    assert place.running == set()


def test_an_error_is_raised_as_it_is(place: Executor[str]) -> None:
    place.start("a", fail, RunError("the environment fell over."))
    with pytest.raises(RunError, match=r"^the environment fell over\.$"):
        heard(place)


def test_work_that_dies_says_so(place: Executor[str]) -> None:
    place.start("a", die)
    with pytest.raises(RunError, match=r"line a died \(.*\): go on with --resume"):
        heard(place)


def test_leaving_ends_what_still_runs(tmp_path: Path) -> None:
    with executor("local", None, str) as place:
        place.start("a", write_late, tmp_path / "file", 30.0)
        assert place.wait(0.01) is None
    assert place.running == set() or not (tmp_path / "file").exists()


def test_places_that_are_not_known() -> None:
    with pytest.raises(ConfigError, match="on='moon' is not one of local, ray"):
        check_place("moon", None)
    with pytest.raises(ConfigError, match="that of a Ray cluster: add --on ray"):
        executor("local", "host:1", str)
