"""Turns, samples and ratios, under a clock that moves only when a candidate runs; no time is asserted."""

from __future__ import annotations

import pytest

from policypress.measure.latency import SAMPLE_SECONDS, Candidate, Timing, interleave


class FakeClock:
    """Moves by ``costs[name]`` seconds when a candidate is called, and by a nanosecond when it is read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        self.now += 1e-9
        return self.now

    def candidate(self, name: str, *costs: float) -> Candidate:
        """A candidate whose calls cost ``costs`` one after another, the last one again and again."""
        left = list(costs)

        def call(argument: str) -> None:
            assert argument == name
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Candidate(call, name)

    def turns(self) -> list[str]:
        """Who was called, runs of calls as one."""
        return [name for index, name in enumerate(self.calls) if index == 0 or self.calls[index - 1] != name]


def test_candidates_take_turns() -> None:
    clock = FakeClock()
    timings = interleave([clock.candidate("a", 1e-3), clock.candidate("b", 2e-3), clock.candidate("c", 5e-4)], 2, clock)
    rounds = len(timings[0].turns)
    assert rounds > 3
    order = "".join(clock.turns())
    assert order == "abc" * (rounds + 2)  # the first calls and the calibration go before
    assert [len(timing.turns) for timing in timings] == [rounds] * 3
    for timing, cost in zip(timings, (1e-3, 2e-3, 5e-4), strict=True):
        assert timing.seconds == pytest.approx(cost, rel=1e-4)
        assert timing.p99 == pytest.approx(cost, rel=1e-4)
        assert timing.calls_per_sample == 1
    assert timings[1].over(timings[0]) == pytest.approx(2, rel=1e-4)
    assert timings[2].over(timings[0]) == pytest.approx(0.5, rel=1e-4)


def test_the_whole_run_is_bounded() -> None:
    clock = FakeClock()
    interleave([clock.candidate("a", 1e-3), clock.candidate("b", 3e-3)], 1.5, clock)
    assert 1.0 < clock.now <= 1.5


def test_there_is_always_one_round() -> None:
    clock = FakeClock()
    timings = interleave([clock.candidate("a", 1.0), clock.candidate("b", 2e-3)], -1, clock)
    assert timings[0].turns == pytest.approx((1.0,))
    assert len(timings[1].turns) == 1


def test_short_calls_are_timed_in_loops_that_last() -> None:
    clock = FakeClock()
    (timing,) = interleave([clock.candidate("a", 3e-7)], 0.05, clock)
    assert timing.calls_per_sample == 32  # the first power of two that takes long enough
    assert timing.calls_per_sample * 3e-7 >= SAMPLE_SECONDS > timing.calls_per_sample * 1.5e-7
    assert timing.seconds == pytest.approx(3e-7, rel=1e-2)


def test_a_slow_first_call_is_warm_up() -> None:
    clock = FakeClock()
    (timing,) = interleave([clock.candidate("a", 3.0, 1e-6)], 4.0, clock)
    assert timing.seconds == pytest.approx(1e-6, rel=1e-2)
    assert timing.p99 < 2e-6


def test_what_takes_too_long_is_called_once() -> None:
    clock = FakeClock()
    timings = interleave([clock.candidate("a", 1e-3), clock.candidate("slow", 0.3)], 2.0, clock)
    assert clock.calls.count("slow") == 1
    assert timings[1].turns == pytest.approx((0.3,))
    assert len(timings[0].turns) > 5
    assert timings[1].over(timings[0]) == pytest.approx(300, rel=1e-3)


def test_a_noisy_round_moves_neither_median_nor_ratio() -> None:
    calm, noisy = Timing((1.0, 9.0, 1.0), 1.0, 3, 1), Timing((2.0, 18.0, 2.1), 1.0, 3, 1)
    assert calm.seconds == 1.0
    assert noisy.seconds == 2.1
    assert noisy.over(calm) == 2.0


def test_the_percentile_sees_what_the_median_does_not() -> None:
    clock = FakeClock()
    costs = [1e-4] * 50 + ([1e-4] * 19 + [4e-3]) * 200
    (timing,) = interleave([clock.candidate("a", *costs)], 0.3, clock)
    assert timing.seconds == pytest.approx(1e-4, rel=1e-3)
    assert timing.p99 == pytest.approx(4e-3, rel=1e-3)


def test_the_statement_may_be_another() -> None:
    clock = FakeClock()
    seen: list[tuple[int, bool]] = []

    def predict(observation: int, deterministic: bool = False) -> None:
        seen.append((observation, deterministic))
        clock.now += 1e-3

    interleave([Candidate(predict, 7, "call(argument, deterministic=True)")], 0.02, clock)
    assert set(seen) == {(7, True)}
