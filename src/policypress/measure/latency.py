"""Time of a call, fairly: candidates take turns, so that whatever else the machine does hits all of them alike.

A sample is a loop of as many calls as take at least SAMPLE_SECONDS, so that reading the clock does not count; calls
that take longer are timed one by one. A turn is a warm-up and then samples for a slice of the time; a round is one turn
of every candidate. Latency is the median over rounds of the turns' medians, a ratio the median over rounds of the
ratios within a round, and the 99th percentile is that of all samples: where a sample holds several calls, of their
means.
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLE_SECONDS = 5e-6
ROUNDS = 20
"""How many are aimed at; slow candidates get fewer, with one sample a turn."""
_SLICE_LIMITS = 1e-3, 0.1
_CALIBRATIONS = 5
_SLOW_SECONDS = 0.02
"""Calls that take longer are not repeated more often than has to be."""

Clock = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Candidate:
    """What is timed: ``statement``, in which ``call`` and ``argument`` are the two others."""

    call: Callable[..., Any]
    argument: Any
    statement: str = "call(argument)"

    def timer(self, clock: Clock) -> timeit.Timer:
        """A timer of the statement, without the cost of a function around it and without garbage collection."""
        return timeit.Timer(self.statement, timer=clock, globals={"call": self.call, "argument": self.argument})


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: ``turns``, the medians of its turns, one a round; ``p99`` over all ``samples`` of
    ``calls_per_sample`` calls each."""

    turns: tuple[float, ...]
    p99: float
    samples: int
    calls_per_sample: int

    @property
    def seconds(self) -> float:
        """Median over rounds."""
        return statistics.median(self.turns)

    def over(self, other: Timing) -> float:
        """How many times as long as ``other``: the median over rounds of the ratios within a round."""
        return statistics.median(a / b for a, b in zip(self.turns, other.turns, strict=True))


def interleave(candidates: Sequence[Candidate], seconds: float, clock: Clock = time.perf_counter) -> list[Timing]:
    """Timings of ``candidates``, which take turns (A B C A B C ...) until ``seconds`` have passed.

    ``seconds`` hold the calibration too; a round is not begun if the longest one so far would no longer fit, but the
    first one always runs.
    """
    started = clock()
    timers = [candidate.timer(clock) for candidate in candidates]
    numbers = [_calls_per_sample(timer) for timer in timers]
    shortest, longest = _SLICE_LIMITS
    slice_seconds = min(max(seconds / (ROUNDS * len(timers)), shortest), longest)
    samples: list[list[float]] = [[] for _ in timers]
    turns: list[list[float]] = [[] for _ in timers]
    longest_round, now = 0.0, clock()
    while not turns[0] or now - started + longest_round <= seconds:
        round_started = now
        for index, (timer, number) in enumerate(zip(timers, numbers, strict=True)):
            turn = _turn(timer, number, slice_seconds, clock)
            samples[index] += turn
            turns[index].append(statistics.median(turn))
        now = clock()
        longest_round = max(longest_round, now - round_started)
    return [
        Timing(tuple(medians), float(np.percentile(all_samples, 99)), len(all_samples), number)
        for medians, all_samples, number in zip(turns, samples, numbers, strict=True)
    ]


def _calls_per_sample(timer: timeit.Timer) -> int:
    timer.timeit(1)  # the first call may build, compile or allocate
    if timer.timeit(1) > _SLOW_SECONDS:
        return 1
    number = 1
    while min(timer.repeat(_CALIBRATIONS, number)) < SAMPLE_SECONDS:
        number *= 2
    return number


def _turn(timer: timeit.Timer, number: int, seconds: float, clock: Clock) -> list[float]:
    """Seconds a call of every sample in a slice of the time. The first tenth of it only warms up, unless one sample
    fills the slice."""
    started, cold, warm = clock(), list[float](), list[float]()
    while (elapsed := clock() - started) < seconds or not cold:
        (warm if cold and elapsed >= seconds / 10 else cold).append(timer.timeit(number) / number)
    return warm or cold
