"""Bits that flip: undone by a second flip, one at a time, and never a policy that is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policypress.errors import ObservationError
from policypress.policy.policy import Policy
from policypress.robustness import flips
from policypress.robustness.flips import Bit, Flash
from policypress.testing import make_policy, random_observations, random_policy, random_recurrent_policy

SEEDS = st.integers(0, 400)


class Acts:
    """An environment as what acts knows it."""

    def __init__(self, policy: Policy) -> None:
        action = policy.action
        self.action_space: Any = spaces.Discrete(4, start=1)
        if action.low is not None and action.high is not None:
            self.action_space = spaces.Box(action.low, action.high)


def policies(seed: int) -> Policy:
    return random_recurrent_policy(seed) if seed % 4 == 0 else random_policy(seed)


@settings(max_examples=30)
@given(seed=SEEDS, data=st.data())
def test_a_flip_is_undone_by_a_second_flip(seed: int, data: st.DataObject) -> None:
    policy = policies(seed)
    flash = Flash(policy)
    bits = [flash.bit(a) for a in data.draw(st.lists(st.integers(0, flash.bits - 1), min_size=1, max_size=9))]
    assert flash.flipped(bits + bits[::-1]) is policy
    kept = bits[0]
    others = [bit for bit in bits if bit != kept]
    once, again = flash.flipped([kept]), flash.flipped([*others, kept, *others])
    assert [p.words.tobytes() for p in Flash(once).parts] == [p.words.tobytes() for p in Flash(again).parts]


@settings(max_examples=30)
@given(seed=SEEDS, place=st.floats(0, 1, exclude_max=True))
@example(seed=109, place=0.0)  # its scales of the input are tiny
def test_a_flip_changes_one_stored_bit_or_what_the_engine_has_no_room_for(seed: int, place: float) -> None:
    flash = Flash(policies(seed))
    bit = flash.bit(int(place * flash.bits))
    part = flash.parts[bit.part]
    after = Flash(flash.flipped([bit]))
    same = [
        p for p in after.parts if (p.layer, p.field) == (part.layer, part.field) and p.words.size == part.words.size
    ]
    if part.field != "weight" and same:  # a weight that becomes zero leaves the list
        differing = np.flatnonzero(same[0].words != part.words)
        assert differing.tolist() in ([], [bit.value])
        if part.bits == 32 and part.words.dtype == np.uint32 and flash.policy.input is None and differing.size:
            assert same[0].words[bit.value] ^ part.words[bit.value] in (1 << bit.bit, _nearest(part.words, bit))


def _nearest(words: Any, bit: Bit) -> int:
    """What differs where a flip makes a number that is none, which counts as the largest."""
    flipped = np.array([words[bit.value] ^ np.uint32(1 << bit.bit)], np.uint32).view(np.float32)
    largest = np.nan_to_num(flipped, nan=np.finfo(np.float32).max)
    return int(largest.view(np.uint32)[0] ^ words[bit.value])


@settings(max_examples=30)
@given(seed=SEEDS, count=st.integers(1, 300))
def test_whatever_flips_engine_and_reference_agree(seed: int, count: int) -> None:
    policy = policies(seed)
    flash = Flash(policy)
    flipped = flash.flipped(flash.drawn(count, np.random.default_rng(seed)))
    seen = random_observations(policy, 4, seed)
    try:
        expected = flipped.predict(seen, reference=True)[0]
    except ObservationError:
        return
    assert flipped.predict(seen)[0].tobytes() == expected.tobytes()


def test_more_flips_are_the_same_and_others() -> None:
    flash = Flash(make_policy("integer", "vector"))
    few, many = (flash.drawn(count, np.random.default_rng(3)) for count in (5, 40))
    assert many[:5] == few
    assert len(set(many)) == 40
    assert len(flash.drawn(10**6, np.random.default_rng(3))) == min(flash.bits, flips.MOST_FLIPS)


def test_every_field_is_in_flash() -> None:
    flash = Flash(make_policy("integer", "vector"))
    assert {part.field for part in flash.parts} == {"weight", "bias", "multiplier", "shift", "scale"}
    policy = flash.policy
    weights = sum(layer.nonzeros * layer.weight_bits for layer in policy.layers)
    assert sum(p.words.size * p.bits for p in flash.parts if p.field == "weight") == weights
    assert {part.field for part in Flash(make_policy("float", "vector")).parts} == {"weight", "bias"}
    assert flash.title(flash.bit(0)) == "input scale"
    assert flash.title(flash.bit(flash.bits - 1)) == "output scale"


@pytest.mark.parametrize(("multiplier", "shift"), [(200, 9), (16, 1), (7, 4), (1, 31), (0, 3), (90, 0)])
def test_ratios_that_the_engine_has_no_room_for(multiplier: int, shift: int) -> None:
    from policypress.policy.ops import Requantization
    from policypress.policy.reference import requantize

    before = Requantization(np.array([16], np.int32), np.array([8], np.int32), -127, 127)
    after = flips._requantization(before, np.array([multiplier], np.uint32), np.array([shift], np.uint32))
    values = np.arange(-50_000, 50_000, 77)[:, None]
    half = 1 << (shift - 1) if shift else 0
    exact = np.clip((values * multiplier + half) >> shift, -127, 127)
    if shift:
        np.testing.assert_array_equal(requantize(after, values), exact)


@pytest.mark.parametrize("numerics", ["integer", "float"])
def test_flips_in_episodes_are_the_episodes_own(numerics: Any) -> None:
    policy = make_policy(numerics, "vector")
    seen, env = random_observations(policy, 6, 1), Acts(policy)

    def acted(count: int, order: list[int]) -> dict[int, Any]:
        act = flips.acting_flipped(Flash(policy), count, seed=1000)
        return dict(zip(order, act({i: seen[i] for i in order}, dict.fromkeys(order, env)), strict=True))

    one, other = acted(20, [0, 1, 2, 3]), acted(20, [3, 1])
    assert one[1].tobytes() == other[1].tobytes()
    assert one[3].tobytes() == other[3].tobytes()
    usual = policy.predict(seen)[0]
    assert all(acted(0, [0, 1, 2])[i].tobytes() == usual[i].tobytes() for i in range(3))
    assert any(one[i].tobytes() != usual[i].tobytes() for i in one)


def test_an_episode_without_numbers_ends_in_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("float", "vector")
    failing = flips._Failing()

    def refused() -> Any:
        raise ObservationError("too large")

    zero = failing.action(4, Acts(policy), refused)
    np.testing.assert_array_equal(zero, [0, 0, 0])
    assert failing.action(5, Acts(policy), lambda: "its own") == "its own"
    np.testing.assert_array_equal(failing.action(4, Acts(policy), lambda: "its own"), [0, 0, 0])


@settings(max_examples=30)
@given(seed=SEEDS)
def test_memory_without_flips_computes_what_the_policy_computes(seed: int) -> None:
    policy = policies(seed)
    seen, state = random_observations(policy, 3, seed), None
    act = flips.acting_in_flipped_memory(policy, 0.0, seed=7)
    env = Acts(policy)
    for _ in range(2):  # whose state goes on
        try:
            expected, state = policy.predict(seen, state)
        except ObservationError:
            return
        found = act(dict(enumerate(seen)), dict.fromkeys(range(3), env))
        assert np.stack(found).astype(expected.dtype).tobytes() == expected.tobytes()


@pytest.mark.parametrize("numerics", ["integer", "weight-only", "float"])
@pytest.mark.parametrize("kind", ["vector", "image", "tanh"])
def test_memory_that_flips_answers_all_the_same(numerics: Any, kind: Any) -> None:
    policy = make_policy(numerics, kind)
    seen, env = random_observations(policy, 5, 2), Acts(policy)
    act = flips.acting_in_flipped_memory(policy, 0.05, seed=7)
    found = np.stack(act(dict(enumerate(seen)), dict.fromkeys(range(5), env)))
    assert found.shape == policy.predict(seen)[0].shape
    assert np.isfinite(found).all()
    if policy.action.kind == "box":  # a choice may stay the same
        assert found.tobytes() != policy.predict(seen)[0].tobytes()


@given(
    values=st.lists(st.integers(-127, 127), min_size=1, max_size=20), limits=st.sampled_from([(-127, 127), (0, 255)])
)
def test_codes_stay_codes(values: list[int], limits: tuple[int, int]) -> None:
    q = np.clip(np.array([values], np.int64), *limits)
    rngs = [np.random.default_rng(0)]
    np.testing.assert_array_equal(flips._flip_codes(q, limits, rngs, 0.0), q)
    flipped = flips._flip_codes(q, limits, rngs, 1.0)  # every bit
    expected = 255 - q if limits[0] == 0 else -1 - q
    np.testing.assert_array_equal(flipped, np.clip(expected, *limits))


def test_the_most_critical_bits_come_first() -> None:
    flash = Flash(make_policy("integer", "vector"))
    seen = random_observations(flash.policy, 100, 0)
    found = flips.criticality(flash, seen, np.random.default_rng(0))
    changes = [one.change for one in found]
    assert changes == sorted(changes, reverse=True)
    usual = flash.policy.predict(seen)[0]
    worst, least = (np.abs(flash.flipped([found[i].bit]).predict(seen)[0] - usual).mean() for i in (0, -1))
    assert worst > least
    rows = flips.by_place(flash, found)
    weights = {row["bit"]: row["change"] for row in rows if row["part"] == "output weight"}
    assert weights[6] > weights[0]
    assert sum(row["tried"] for row in rows) == len(found)
