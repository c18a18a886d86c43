"""Work in processes of its own: what is heard of it, and how it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policypress.errors import ConfigError, RunError
from policypress.files import write_whole
from policypress.rl.workers import Message, Tell, Workers
from rl.toys import in_child

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)


def workers() -> Workers[str]:
    return Workers(lambda name: f"the {name} run", ", and fewer at once")


def last_message(work: Callable[..., Any], *arguments: Any) -> Message[str]:
    with workers() as pool:
        pool.start("first", work, *arguments)
        while True:
            message = pool.wait(0.2)
            if message is not None and message.done:
                return message


def double(tell: Tell, number: int) -> int:
    tell("half way", number)
    return 2 * number


def test_what_workers_tell_and_return() -> None:
    found: dict[str, Any] = {}
    told = []
    with workers() as pool:
        for name, number in (("one", 1), ("two", 2)):
            pool.start(name, double, number)
        assert pool.running == {"one", "two"}
        while pool.running:
            message = pool.wait(0.2)
            if message is not None and message.done:
                found[message.key] = message.value
            elif message is not None:
                told.append(message.value)
    assert found == {"one": 2, "two": 4}
    assert sorted(told) == [("half way", 1), ("half way", 2)]
    assert not multiprocessing.active_children()


def refuse(tell: Tell) -> None:
    raise ConfigError("steps=0 must be at least 1.")


def stumble(tell: Tell) -> None:
    {}["nothing"]


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_odd(tell: Tell) -> None:
    raise Odd(1, 2)


def test_an_error_is_shown_as_what_it_is() -> None:
    with pytest.raises(ConfigError, match="steps=0 must be"):
        last_message(refuse)
    with pytest.raises(KeyError, match="nothing") as caught:
        last_message(stumble)
    shown = "".join(traceback.format_exception(caught.value))
    assert 'in stumble\n    {}["nothing"]' in shown
    assert "memory" not in shown
    with pytest.raises(RuntimeError, match=r"^Odd: 1 and 2$"):  # which cannot be pickled
        last_message(raise_odd)
    assert not multiprocessing.active_children()


def die(tell: Tell, number: int) -> None:
    os.kill(os.getpid(), number)


def leave(tell: Tell) -> None:
    sys.exit(0)


def test_only_a_kill_may_be_for_want_of_memory() -> None:
    memory = "perhaps for want of memory: go on with --resume, and fewer at once"
    with pytest.raises(RunError, match=rf"^the first run died \(exit code -9\), {memory}\.$"):
        last_message(die, signal.SIGKILL)
    with pytest.raises(RunError, match=r"^the first run died \(exit code -15\): go on with --resume\.$"):
        last_message(die, signal.SIGTERM)
    with pytest.raises(RunError, match=r"^the first run died \(exit code 0\): go on with --resume\.$"):
        last_message(leave)


def linger(tell: Tell, path: Path) -> None:
    write_whole(path, str(os.getpid()))
    try:
        while True:
            time.sleep(0.02)
            tell()
    except RunError as error:
        write_whole(path.with_suffix(".end"), str(error))
        raise


def test_workers_end_with_the_block(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workers() as pool:  # noqa: PT012
        pool.start("first", linger, tmp_path / "pid")
        while not (tmp_path / "pid").exists():
            pool.wait(0.02)
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()


def test_a_worker_notices_that_its_parent_is_gone(tmp_path: Path) -> None:
    def parent() -> None:
        with workers() as pool:
            pool.start("first", linger, tmp_path / "pid")
            time.sleep(60)

    assert in_child(parent, (tmp_path / "pid").exists) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid.end").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "is gone: go on with --resume" in (tmp_path / "pid.end").read_text()


def test_ctrl_c_does_not_reach_a_worker(tmp_path: Path) -> None:
    with workers() as pool:
        pool.start("first", linger, tmp_path / "pid")
        while not (tmp_path / "pid").exists():
            pool.wait(0.02)
        time.sleep(0.1)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
        assert pool.wait(0.3) is None
        assert pool.running == {"first"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes")
def test_one_piece_of_work_for_each_core_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with Workers[int]("test") as workers:
            assert workers.slots == 1
    finally:
        os.sched_setaffinity(0, allowed)
