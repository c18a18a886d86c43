"""What an agent explores by, against the formulas of its distributions, and the sample of what a policy met."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from policypress.rl.adapters import adapter_for
from policypress.rl.dynamics import Met, Visited
from rl.toys import agent, dqn, random_observations, sac


def entropy(model: Any) -> float | None:
    return adapter_for(model).entropy(model, random_observations(model, 16))


def normal(log_std: float, count: int = 1) -> float:
    return count * (log_std + 0.5 * math.log(2 * math.pi * math.e))


def test_of_a_gaussian() -> None:
    model = agent("ppo", "Pendulum-v1")
    with torch.no_grad():
        model.policy.log_std.fill_(-0.7)
    assert entropy(model) == pytest.approx(normal(-0.7))


def test_of_a_squashed_gaussian_before_it_is_squashed() -> None:
    model = sac()
    with torch.no_grad():
        model.actor.log_std.weight.zero_()
        model.actor.log_std.bias.fill_(-1.5)
    assert entropy(model) == pytest.approx(normal(-1.5))


def test_of_choices() -> None:
    model = agent("ppo", "CartPole-v1")
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.zero_()
    assert entropy(model) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0.0), (1.0, math.log(2)), (0.5, 0.5623351)])
def test_of_choices_that_are_random_at_times(rate: float, expected: float) -> None:
    model = dqn()
    model.exploration_rate = rate
    assert entropy(model) == pytest.approx(expected)


def test_of_none() -> None:
    assert entropy(agent("td3", "Pendulum-v1")) is None


def test_asking_changes_nothing() -> None:
    model = sac()
    before = torch.get_rng_state(), {k: v.clone() for k, v in model.policy.state_dict().items()}
    entropy(model)
    assert torch.equal(before[0], torch.get_rng_state())
    assert all(torch.equal(v, before[1][k]) for k, v in model.policy.state_dict().items())


@pytest.mark.parametrize("count", [1, 511, 512, 513, 5000])
def test_what_was_met_is_thinned_evenly(count: int) -> None:
    met = Met(image=False)
    for at in range(0, count, 3):
        met(np.arange(at, min(at + 3, count))[:, None])
    kept = met.observations[:, 0]
    assert min(count, 256) <= len(kept) <= 512
    assert kept[0] == 0
    assert len(set(np.diff(kept))) <= 1
    assert kept[-1] + (kept[1] - kept[0] if count > 1 else 1) >= count


def visits(*parts: np.ndarray[Any, Any]) -> Visited:
    visited = Visited()
    for part in parts:
        for one in part:
            visited(one[None])
    return visited


def test_states_are_counted_by_kind_and_not_by_visit() -> None:
    rng = np.random.default_rng(1)
    near, far = rng.normal(5.0, 2.0, (1000, 3)), rng.normal(5.0, 20.0, (3000, 3))
    assert visits(near[:999]).count is None
    first = visits(near).count
    assert first is not None
    assert 50 < first <= 1000
    assert visits(near, near, near).count == first
    assert visits(near * 7.0).count is not None
    more = visits(near, far).count
    assert more is not None
    assert more > first
    # What matters is the spread of what was met, not its units.
    assert visits(8.0 * near, 8.0 * far).count == more


def test_several_environments_are_counted_as_one() -> None:
    observations = np.random.default_rng(2).normal(size=(2400, 4))
    together = Visited()
    for at in range(0, 2400, 2):
        together(observations[at : at + 2])
    assert together.count == visits(observations).count


@pytest.mark.parametrize("stop", [10, 1000, 1100])
def test_counting_goes_on_from_a_checkpoint(stop: int) -> None:
    observations = np.random.default_rng(3).normal(size=(1500, 4)).astype(np.float32)
    before = visits(observations[:stop])
    after = Visited()
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for one in observations[stop:]:
        after(one[None])
    assert after.count == visits(observations).count


def test_images_and_parts_are_not_counted() -> None:
    visited = Visited()
    for _ in range(1200):
        visited(np.zeros((1, 2, 2), np.uint8))
        visited({"a": np.zeros((1, 2))})
    assert visited.count is None
