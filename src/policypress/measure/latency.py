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
_LEAST_SAMPLES = 3
_LONG_SECONDS = 0.01
"""Calls that take longer need neither calibration nor warm-up."""
_SLOW_SHARE, _SLOW_SECONDS = 0.02, 0.2
"""First calls that take longer than both are not repeated; shorter ones may have been slow only because they were
first."""

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
        """How many times as long as ``other``: the median over rounds that both have of the ratios within a round."""
        return statistics.median(a / b for a, b in zip(self.turns, other.turns, strict=False))


def interleave(candidates: Sequence[Candidate], seconds: float, clock: Clock = time.perf_counter) -> list[Timing]:
    """Timings of ``candidates``, which take turns (A B C A B C ...) until ``seconds`` have passed.

    ``seconds`` hold the calibration too; a round is not begun if the longest one so far would no longer fit, but the
    first one always runs. A candidate whose first call takes more than a fiftieth of them, and more than 0.2 s, has no
    other one, unless it is the first candidate.
    """
    started = clock()
    timers = [candidate.timer(clock) for candidate in candidates]
    first_calls = [timer.timeit(1) for timer in timers]  # they may build, compile or allocate
    slow = [call > max(_SLOW_SHARE * seconds, _SLOW_SECONDS) for call in first_calls]
    slow[0] = False  # the others are compared with it
    numbers = [1 if once else _calls_per_sample(timer) for timer, once in zip(timers, slow, strict=True)]
    samples: list[list[float]] = [[call] if once else [] for call, once in zip(first_calls, slow, strict=True)]
    turns: list[list[float]] = [list(once) for once in samples]
    taking = [index for index, once in enumerate(slow) if not once]
    shortest, longest = _SLICE_LIMITS
    slice_seconds = min(max((seconds - (clock() - started)) / (ROUNDS * len(taking)), shortest), longest)
    longest_round, now = 0.0, clock()
    while not turns[0] or now - started + longest_round <= seconds:
        round_started = now
        for index in taking:
            turn = _turn(timers[index], numbers[index], slice_seconds, clock)
            samples[index] += turn
            turns[index].append(statistics.median(turn))
        now = clock()
        longest_round = max(longest_round, now - round_started)
    return [
        Timing(tuple(medians), float(np.percentile(all_samples, 99)), len(all_samples), number)
        for medians, all_samples, number in zip(turns, samples, numbers, strict=True)
    ]


def _calls_per_sample(timer: timeit.Timer) -> int:
    if timer.timeit(1) > _LONG_SECONDS:
        return 1
    number = 1
    while min(timer.repeat(_CALIBRATIONS, number)) < SAMPLE_SECONDS:
        number *= 2
    return number


def _turn(timer: timeit.Timer, number: int, seconds: float, clock: Clock) -> list[float]:
    """Seconds a call of every sample in a slice of the time, _LEAST_SAMPLES at least; before them a tenth of the slice
    is warm-up. A long call is timed once."""
    first = timer.timeit(number) / number
    if first > _LONG_SECONDS:
        return [first]
    started, found = clock(), list[float]()
    while clock() - started < seconds / 10:
        timer.timeit(number)
    started = clock()
    while len(found) < _LEAST_SAMPLES or clock() - started < seconds:
        found.append(timer.timeit(number) / number)
    return found
