"""Distillation: what a student is asked for, that it learns it, and that it goes on where it was stopped."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import policypress as pp
from policypress.compression.graph import trace
from policypress.config import CompressionConfig, DistillConfig
from policypress.errors import ConfigError, DivergedError, ObservationError, PolicypressError, RunError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation, Flatten, Layer
from policypress.policy.payload import encode_payload
from policypress.rl import distill, evaluate
from policypress.rl.agents import teacher_of
from policypress.rl.compress import compress, post_training
from policypress.rl.imitation import imitation_loss, squashed
from policypress.rl.sources import Disturbances, EnvironmentStates
from policypress.rl.teacher import Teacher
from quick import covering, quick
from rl.toys import (
    CHOOSE,
    EPISODE,
    FOLLOW,
    LOOK,
    LOOK_CHANNELS_LAST,
    PICK,
    Follow,
    Look,
    agent,
    die_at_file_operation,
    draw,
    in_child,
    picker,
)  # fmt: skip

VECTOR = ObservationTransform((3,), "float32")
DISCRETE = ActionTransform("discrete", dtype="int64")
BITS8 = CompressionConfig(weight_bits=8, quantize_start=0.5, observe=0.2)
SMALL = DistillConfig(BITS8, hidden=(12, 12), batches=400, batch_size=32, states=800, learning_rate=1e-2, collections=5)


def box(low: list[float], high: list[float], squash: bool = False) -> ActionTransform:
    bounds = np.array(low, np.float32), np.array(high, np.float32)
    return ActionTransform("box", (len(low),), squash=squash, low=bounds[0], high=bounds[1])


def loss(teacher: Teacher, ours: list[list[float]], theirs: list[list[float]]) -> float:
    return float(imitation_loss(teacher, torch.tensor(ours), torch.tensor(theirs)))


def teacher(action: ActionTransform, imitation: Any = "action") -> Teacher:
    return Teacher(trace(picker()), VECTOR, action, imitation)


def picking() -> Teacher:
    return Teacher.of(picker(), VECTOR, DISCRETE)


# What is asked for


def test_squashed_actions_are_compared_behind_the_tanh() -> None:
    asked = teacher(box([-2.0, 0.0], [2.0, 3.0], squash=True))
    expected = np.mean(np.square(np.tanh([0.5, -1.0]) - np.tanh([0.25, 9.0])))
    assert loss(asked, [[0.5, -1.0]], [[0.25, 9.0]]) == pytest.approx(expected, rel=1e-5)
    assert loss(asked, [[20.0, -20.0]], [[30.0, -30.0]]) == 0.0


def test_clipped_actions_are_compared_in_halves_of_their_range() -> None:
    asked = teacher(box([-2.0, 0.0], [2.0, 3.0]))
    assert loss(asked, [[1.0, 1.0]], [[0.0, 2.5]]) == pytest.approx(((1 / 2) ** 2 + (1.5 / 1.5) ** 2) / 2)
    np.testing.assert_allclose(squashed(asked.action, torch.tensor([[-2.0, 3.0], [0.0, 1.5]])), [[-1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (5.0, 9.0, 0.0),
        (-5.0, -9.0, 0.0),
        (5.0, -5.0, 25.0),
        (5.0, 1.0, 4.0),
        (1.0, 5.0, 4.0),
        (1.9, 2.0, 0.0025),
    ],
)
def test_beyond_the_same_bound_there_is_nothing_to_learn(ours: float, theirs: float, expected: float) -> None:
    asked = teacher(box([-2.0], [2.0]))
    outputs = torch.tensor([[ours]], requires_grad=True)
    value = imitation_loss(asked, outputs, torch.tensor([[theirs]]))
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert outputs.grad is not None
    assert (outputs.grad.item() == 0.0) == (expected == 0.0)


def test_actions_without_bounds_are_compared_as_they_are() -> None:
    asked = teacher(box([-np.inf, 0.0, -np.inf], [np.inf, np.inf, 4.0]))
    outputs = torch.tensor([[3.0, 7.0, 9.0]], requires_grad=True)
    value = imitation_loss(asked, outputs, torch.tensor([[1.0, 5.0, 8.0]]))
    assert value.item() == pytest.approx((4 + 4 + 0) / 3)  # the last ones both end at 4
    value.backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


def kl(theirs: list[float], ours: list[float]) -> float:
    p, q = (np.exp(values) / np.exp(values).sum() for values in (theirs, ours))
    return float((p * np.log(p / q)).sum())


def test_logits_are_compared_as_distributions() -> None:
    asked = teacher(DISCRETE, "logits")
    assert loss(asked, [[1.0, 2.0, 3.0]], [[11.0, 12.0, 13.0]]) == pytest.approx(0.0, abs=1e-6)
    ours, theirs = [[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]], [[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]
    expected = np.mean([kl(t, o) for t, o in zip(theirs, ours, strict=True)])
    assert loss(asked, ours, theirs) == pytest.approx(expected, rel=1e-5)


def test_each_group_of_a_multi_discrete_action_is_a_distribution() -> None:
    asked = teacher(ActionTransform("multi-discrete", (2,), "int64", nvec=(2, 3)), "logits")
    ours, theirs = [0.0, 1.0, 3.0, -1.0, 0.0], [1.0, 0.0, 0.0, 2.0, 1.0]
    expected = kl(theirs[:2], ours[:2]) + kl(theirs[2:], ours[2:])
    assert loss(asked, [ours], [theirs]) == pytest.approx(expected, rel=1e-5)
    shifted = [value + (5 if index < 2 else -3) for index, value in enumerate(theirs)]
    assert loss(asked, [shifted], [theirs]) == pytest.approx(0.0, abs=1e-6)


def test_each_binary_action_is_a_distribution() -> None:
    asked = teacher(ActionTransform("multi-binary", (2,), "int64"), "logits")
    ours, theirs = [[0.0, 3.0], [-1.0, 0.5]], [[1.0, -2.0], [0.0, 0.5]]
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(theirs, ours, strict=True)]
    expected = np.mean([sum(kl([0.0, t], [0.0, o]) for t, o in row) for row in pairs])
    assert loss(asked, ours, theirs) == pytest.approx(expected, rel=1e-5)
    assert loss(asked, theirs, theirs) == pytest.approx(0.0, abs=1e-6)


def test_values_are_compared_at_a_temperature_of_their_spread() -> None:
    asked = teacher(DISCRETE, "values")
    theirs = [[1.0, 2.0, 4.0], [10.0, 11.0, 10.5]]
    spread = np.std(theirs, axis=1, ddof=1).mean()
    sharp = [[value / (0.25 * spread) for value in row] for row in theirs]
    assert loss(asked, sharp, theirs) == pytest.approx(0.0, abs=1e-5)
    larger = [[1000 * value for value in row] for row in theirs]
    assert loss(asked, theirs, larger) == pytest.approx(loss(asked, theirs, theirs), rel=1e-4)
    assert loss(asked, [[0.0, 0.0, 0.0]], [[3.0, 3.0, 3.0]]) == pytest.approx(0.0, abs=1e-6)


# Learning


def test_a_student_of_hand_written_weights_picks_as_well() -> None:
    losses: list[float] = []
    policy = compress(picking(), PICK, SMALL, progress=lambda done, of, loss: losses.append(loss or 0.0))
    assert len(losses) == 50
    assert np.mean(losses[-5:]) < 0.2 * losses[0]
    assert policy.numerics == "integer"
    assert [len(layer.bias) for layer in policy.layers][-1] == 3
    assert max(len(layer.bias) for layer in policy.layers) <= 12
    assert evaluate(picking().policy(), PICK, episodes=10).mean == EPISODE
    assert evaluate(policy, PICK, episodes=10).mean > 0.93 * EPISODE
    assert policy.provenance["env"] == PICK
    assert policy.provenance["distill"]["hidden"] == [12, 12]
    assert pp.size(policy).baseline_bytes == 4 * (4 * 16 + 17 * 16 + 17 * 3)
    vectors = policy.test_vectors
    assert vectors is not None
    np.testing.assert_array_equal(policy.outputs(vectors.observations), vectors.outputs)


@pytest.mark.parametrize("algo", quick(["sac", "td3", "ppo", "a2c"], ["sac", "ppo"]))
def test_a_student_of_a_continuous_agent_acts_alike(algo: str) -> None:
    model = agent(algo, FOLLOW)
    expected = evaluate(teacher_of(model).policy(), FOLLOW, episodes=10)
    ours = evaluate(compress(model, FOLLOW, SMALL), FOLLOW, episodes=10)
    assert np.corrcoef(expected.returns, ours.returns)[0, 1] > 0.98
    assert ours.mean == pytest.approx(expected.mean, rel=0.1)


@pytest.mark.parametrize(("algo", "env"), covering([("ppo", CHOOSE), ("dqn", PICK), ("ppo", PICK), ("qrdqn", PICK)]))
def test_a_student_of_a_discrete_agent_chooses_alike(algo: str, env: str) -> None:
    model = agent(algo, env)
    if algo == "ppo":  # untrained ones hardly prefer anything
        model.policy.action_net.weight.data *= 100
    asked = teacher_of(model)
    assert asked.imitation == ("values" if "dqn" in algo else "logits")
    policy = compress(model, env, replace(SMALL, hidden=()))
    observations = np.random.default_rng(0).uniform(-1, 1, (500, *asked.observation.shape)).astype(np.float32)
    same = asked.policy().predict(observations)[0] == policy.predict(observations)[0]
    assert same.mean() > 0.9


@pytest.mark.parametrize("env", [LOOK, LOOK_CHANNELS_LAST])
def test_a_student_of_a_convolutional_agent(env: str) -> None:
    model = agent("dqn", env)
    config = replace(SMALL, hidden=(8,), batches=40, batch_size=8, states=60)
    policy = compress(model, env, config)
    assert policy.numerics == "integer"
    frames = np.stack([Look.observation_space.sample() for _ in range(20)])
    assert policy.outputs(frames).shape == (20, 2)
    assert len(policy.layers[-2].bias) <= 8
    evaluate(policy, env, episodes=2)


LINEAR = replace(SMALL, hidden="none", batches=120)


@pytest.mark.parametrize("algo", ["sac", "tqc", "td3", "ppo", "a2c"])
def test_a_linear_student_of_a_continuous_agent_acts_alike(algo: str) -> None:
    model = agent(algo, FOLLOW)
    policy = compress(model, FOLLOW, LINEAR)
    (layer,) = policy.ops
    assert isinstance(layer, Layer)
    assert layer.weight.shape == (2, 3)
    assert policy.numerics == "integer"
    assert policy.provenance["distill"]["hidden"] == "none"
    expected, ours = (evaluate(one, FOLLOW, episodes=10) for one in (teacher_of(model).policy(), policy))
    assert ours.mean == pytest.approx(expected.mean, rel=0.15)


@pytest.mark.parametrize(("algo", "env"), [("ppo", CHOOSE), ("dqn", PICK), ("qrdqn", PICK)])
def test_a_linear_student_of_a_discrete_agent(algo: str, env: str) -> None:
    policy = compress(agent(algo, env), env, LINEAR)
    assert len(policy.ops) == 1
    evaluate(policy, env, episodes=2)


def test_a_linear_student_of_images_flattens_them() -> None:
    policy = compress(agent("dqn", LOOK), LOOK, replace(LINEAR, batches=40, batch_size=8, states=60))
    assert [type(op) for op in policy.ops] == [Flatten, Layer]
    assert policy.numerics == "integer"
    frames = np.stack([Look.observation_space.sample() for _ in range(20)])
    assert np.array_equal(policy.outputs(frames), policy.outputs(frames, reference=True))
    evaluate(policy, LOOK, episodes=2)


def test_a_linear_student_of_a_black_box_is_what_the_box_is() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0], [-1.0, 0.3, 0.0]])
    box = Teacher(None, VECTOR, DISCRETE, "logits", answers=lambda x: 3 * x @ weight.T)
    policy = compress(box, PICK, replace(LINEAR, batches=60))
    observations = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    assert (policy.predict(observations)[0] == (observations @ weight.numpy().T).argmax(1)).mean() > 0.97


def test_a_linear_student_needs_no_training() -> None:
    policy = post_training(agent("sac", FOLLOW), FOLLOW, replace(LINEAR, compression=CompressionConfig(weight_bits=8)))
    assert len(policy.ops) == 1


def test_a_stopped_linear_student_ends_in_the_same_bytes(tmp_path: Path) -> None:
    recorded = np.random.default_rng(0).uniform(-1, 1, (1_000, 3)).astype(np.float32)

    def states(teacher: Any, student: Any, share: float, count: int) -> Any:
        return recorded[:count]

    config = replace(SMALL, hidden="none")
    whole = compress(picking(), states, config)
    with pytest.raises(Stop):
        compress(picking(), states, config, folder=tmp_path, progress=stop_at(160))
    assert encode_payload(compress(picking(), states, config, folder=tmp_path)) == encode_payload(whole)


def test_critics_count_where_they_are_asked() -> None:
    model = agent("sac", FOLLOW)
    plain, judged = (
        compress(model, FOLLOW, replace(SMALL, batches=60, critic_weight=weight, critic_start=0.0))
        for weight in (0.0, 1.0)
    )
    assert encode_payload(plain) != encode_payload(judged)
    late = compress(model, FOLLOW, replace(SMALL, batches=60, critic_weight=1.0, critic_start=1.0))
    assert encode_payload(plain) == encode_payload(late)


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (encode_payload(compress(picking(), PICK, replace(SMALL, seed=s))) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_sparsity_is_met() -> None:
    pressed = CompressionConfig(
        sparsity=0.7, weight_bits=8, prune_start=0.0, prune_end=0.5, quantize_start=0.6, observe=0.1
    )
    policy = compress(picking(), PICK, replace(SMALL, compression=pressed, hidden=()))
    assert pp.size(policy).nonzeros <= 0.3 * (3 * 16 + 16 * 16 + 16 * 3) + 1
    assert evaluate(policy, PICK, episodes=10).mean > 0.85 * EPISODE


# States


def test_states_from_a_function() -> None:
    asked: list[tuple[float, int]] = []
    drawn = draw(Follow.observation_space)

    def states(teacher: Any, student: Any, share: float, count: int) -> Any:
        asked.append((share, count))
        found = drawn(teacher, student, share, count)
        assert teacher(found).shape == student(found).shape == (count,)
        assert np.issubdtype(student(found).dtype, np.integer)
        return found

    policy = compress(picking(), states, SMALL)
    assert evaluate(policy, PICK, episodes=10).mean > 0.93 * EPISODE
    assert asked[0] == (0.0, 80)
    shares = [share for share, _ in asked]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0, "at the end the student alone acts"
    assert sum(count for _, count in asked) == SMALL.states


@pytest.mark.parametrize(
    ("found", "kind", "sentence"),
    [
        (np.zeros((100, 4), np.float32), ObservationError, r"expects an observation of shape \(3,\)"),
        (np.zeros((100, 3), complex), ObservationError, "expects float32 observations, but got complex128"),
        (np.full((100, 3), np.nan, np.float32), ObservationError, "NaN"),
        (np.zeros((0, 3), np.float32), ConfigError, "the function of states gave none"),
    ],
    ids=["shape", "dtype", "NaN", "none"],
)
def test_states_that_do_not_fit(found: Any, kind: type[PolicypressError], sentence: str) -> None:
    for press in (compress, post_training):
        with pytest.raises(kind, match=sentence):
            press(picking(), lambda *_: found, SMALL)


def noting(acted: list[Any], space: gym.Space[Any]) -> type[Follow]:
    """An environment of these actions, which notes those that it gets."""

    class Noting(Follow):
        action_space = space

        def _reward(self, action: Any) -> float:
            acted.append(action)
            return 0.0

    return Noting


def test_student_and_teacher_share_the_steps() -> None:
    acted: list[int] = []

    def constant(value: int) -> Callable[[Any], Any]:
        return lambda observations: np.full(len(observations), value)

    for share in (0.0, 0.5, 1.0):
        acted.clear()
        states = EnvironmentStates(noting(acted, gym.spaces.Discrete(2)), count=4, seed=3)
        states._by_student[:] = share == 1.0
        found = states(constant(0), constant(1), share, 2_001)
        states.close()
        assert found.shape == (2_001, 3)
        assert np.mean(acted) == pytest.approx(share, abs=0.25 if share == 0.5 else 0.0)


def disturbing(low: Sequence[float], high: Sequence[float], rate: float = 0.2, seed: int = 0) -> Disturbances:
    env = gym.Env[Any, Any]()
    env.action_space = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    return Disturbances([env], rate, seed)


@pytest.mark.parametrize("bound", [1_000.0, np.inf])
def test_where_bounds_are_far_a_wild_action_does_not_make_disturbances_wild(bound: float) -> None:
    disturbed, random = disturbing([-bound, -1.0], [bound, 1.0]), np.random.default_rng(0)
    done = []
    for step in range(4_000):
        chosen = random.normal(size=2).clip(-1, 1).astype(np.float32)
        if step == 100:
            chosen[0] = 50.0
        found = disturbed(0, chosen)
        if found is not chosen:
            done.append(found)
    beside = np.abs(done)[500:]
    assert beside[:, 0].max() < 4.0
    assert 0.9 < beside[:, 1].max() <= 1.0


@pytest.mark.parametrize("deviation", [0.125, 0.4, 3.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_within_bounds_that_tell_what_is_done_disturbances_go_by_these_alone(deviation: float, seed: int) -> None:
    """Figures of docs/robots.md come of these very numbers, whose seeds first disturb the 15th action or later."""
    chosen = np.random.default_rng(1).normal(0, deviation, (20_000, 3)).clip(-1, 1).astype(np.float32)
    disturbed, random = disturbing([-1.0] * 3, [1.0] * 3, 0.015, seed), np.random.default_rng([seed, 1])
    left, held, done = 0, chosen[0], 0
    for step, action in enumerate(chosen, start=1):
        if left == 0 and random.random() < 0.015:
            left = int(random.integers(2, 11))
            least, largest = chosen[:step].min(0), chosen[:step].max(0)
            reach = (largest - least) / 2
            low, high = np.maximum(least - reach, np.float64(-1)), np.minimum(largest + reach, np.float64(1))
            held = random.uniform(low, high).astype(np.float32)
        found = disturbed(0, action)
        assert found.tobytes() == (held if left else action).tobytes()
        left, done = max(left - 1, 0), done + (left > 0)
    assert done > 1_000


def test_where_one_thing_alone_is_done_so_are_disturbances() -> None:
    disturbed = disturbing([-np.inf], [np.inf])
    for _ in range(1_000):
        assert disturbed(0, np.full(1, 0.1, np.float32)) == np.float32(0.1)


def test_disturbances_hold_a_random_action_for_a_moment() -> None:
    acted: list[int] = []
    env = noting(acted, gym.spaces.Discrete(1_000_000))

    def nothing(observations: Any) -> Any:
        return np.zeros(len(observations), np.int64)

    def met(disturbances: float) -> list[int]:
        acted.clear()
        states = EnvironmentStates(env, count=1, seed=3, disturbances=disturbances)
        states(nothing, nothing, 0.5, 20_000)
        states.close()
        return list(acted)

    assert not any(met(0.0))
    found = met(0.02)
    assert found == met(0.02)
    runs = [len(list(group)) for action, group in itertools.groupby(found) if action]
    assert set(runs) == set(range(2, 11))
    assert len(runs) == pytest.approx(0.02 * found.count(0), rel=0.2)


def test_disturbances_go_little_beyond_what_is_ever_done() -> None:
    acted: list[Any] = []

    def small(observations: Any) -> Any:
        return np.clip(observations[:, :2], -0.5, 0.5)

    env = noting(acted, gym.spaces.Box(-1e6, 1e6, (2,), np.float32))
    states = EnvironmentStates(env, count=2, seed=3, disturbances=0.1)
    states(small, small, 0.0, 2_000)
    states.close()
    assert len(np.unique(acted)) > 100
    assert 0.5 < np.abs(acted).max() <= 1.0


class Ends(Follow):
    """Shows the step of its episode, how many it will have, and whether it is then terminated (or truncated)."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        _, info = super().reset(seed=seed)
        self._step, self._length, self._falls = 0, int(self.np_random.integers(1, 12)), bool(self.np_random.integers(2))
        return self._now(), info

    def step(self, action: Any) -> Any:
        self._step += 1
        ended = self._step == self._length
        return self._now(), 0.0, ended and self._falls, ended and not self._falls, {}

    def _now(self) -> Any:
        return np.array([self._step / 16, self._length / 16, self._falls], np.float32)


def still(observations: Any) -> Any:
    return np.zeros((len(observations), 2), np.float32)


@pytest.mark.parametrize("count", [1, 4, 5, 40, 403])
def test_what_was_met_knows_how_far_it_is_from_a_fall(count: int) -> None:
    states = EnvironmentStates(Ends, count=4, seed=3)
    for _ in range(3):
        found, left = states(still, still, 0.5, count), states.steps_left
        assert left.shape == (count,)
        rounds = math.ceil(count / 4)
        for place, (step, length, falls) in enumerate(found * [16, 16, 1]):
            to_go = round(length - step) - 1
            seen = place // 4 + to_go < rounds  # in this very call, in which all environments step to the end
            assert left[place] == (to_go if falls and seen else -1)
    assert (left >= 0).any() == (count > 5)
    states.close()


@dataclass
class Falling:
    """States of which a few come before falls: those that begin with a number above 0.99."""

    recorded: Any
    steps_left: Any = None

    def __call__(self, teacher: Any, student: Any, share: float, count: int) -> Any:
        found = self.recorded[:count]
        self.steps_left = np.where(found[:, 0] > 0.99, 5, np.where(found[:, 0] < 0, 0, -1)).astype(np.int32)
        return found


@pytest.mark.parametrize(("falls", "expected"), [(0.0, 0.01), (0.05, 0.0595), (0.9, 0.208)])
def test_states_before_falls_are_learned_from_more_often(falls: float, expected: float) -> None:
    recorded = np.random.default_rng(0).uniform(-0.98, 0.98, (4_000, 3)).astype(np.float32)
    recorded[::100, 0] = 0.995
    config = replace(SMALL, falls=falls, fall_steps=6, states=4_000, batch_size=200)
    student = distill.Distillation(picking(), Falling(recorded), config)
    student._add(student._collector.met())
    picked = torch.cat([student._memory.inputs(student._picks())[:, 0] for _ in range(500)])
    assert len(picked) == 500 * 200
    assert float((picked > 0.99).float().mean()) == pytest.approx(expected, rel=0.1)


def test_what_does_not_know_of_falls_says_so() -> None:
    with pytest.raises(ConfigError, match=r"^falls are met in an environment, not in a log nor by a function"):
        compress(picking(), lambda *given: np.zeros((given[-1], 3), np.float32), replace(SMALL, falls=0.25))


def test_a_stopped_student_that_learns_from_falls_ends_in_the_same_bytes(tmp_path: Path) -> None:
    recorded = np.random.default_rng(0).uniform(-1, 1, (1_000, 3)).astype(np.float32)
    recorded[::20, 0] = 0.995
    config = replace(SMALL, falls=0.25, fall_steps=6)
    whole = compress(picking(), Falling(recorded), config)
    assert encode_payload(whole) != encode_payload(compress(picking(), Falling(recorded), SMALL))
    for batch in (8, 160, 312):
        with pytest.raises(Stop):
            compress(picking(), Falling(recorded), config, folder=tmp_path / str(batch), progress=stop_at(batch))
        resumed = compress(picking(), Falling(recorded), config, folder=tmp_path / str(batch))
        assert encode_payload(resumed) == encode_payload(whole), batch


def test_a_student_acts_while_it_finds_rare_inputs() -> None:
    """Until it quantizes it learned from inputs that were cut off, which it then was said to lose: 1,000 now and then,
    in an input that counts."""
    random = np.random.default_rng(0)

    def states(teacher: Any, student: Any, share: float, count: int) -> Any:
        found = random.uniform(-1, 1, (count, 3)).astype(np.float32)
        found[random.random(count) < 0.01, 1] = 1_000.0
        acted.append(student(found))
        return found

    acted: list[Any] = []
    policy = compress(picking(), states, replace(SMALL, batch_size=256, collections=20))
    assert policy.numerics == "integer"
    assert len(acted) == 21


def test_students_learn_from_other_episodes_than_those_that_measure_them() -> None:
    seeds: list[Any] = []

    class Noting(Follow):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            seeds.append(seed)
            return super().reset(seed=seed)

    for seed in range(12):
        EnvironmentStates(Noting, seed=seed)
    assert len(set(seeds)) == 120
    assert min(seeds) > 100_000, "evaluations count up from 1000 and 5000"


# What does not fit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden": (17, 6)}, r"hidden 1 \(0\) of 16 units cannot become 17 wide: give 1 to 16"),
        ({"critic_weight": 0.1}, "critic_weight needs critics of actions, which this agent does not have"),
        ({"compression": replace(BITS8, sparsity=0.99, prune_end=0.5)}, "would leave no weight"),
    ],
    ids=["hidden", "critics", "sparsity"],
)
def test_a_config_that_does_not_fit_the_teacher(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        distill.check_config(picking(), replace(SMALL, **changes))
    with pytest.raises(ConfigError, match=sentence):
        compress(picking(), draw(Follow.observation_space), replace(SMALL, **changes))


def test_weights_that_are_not_finite() -> None:
    network = picker()
    with torch.no_grad():
        next(iter(network.parameters()))[0, 0] = torch.nan
    with pytest.raises(
        DivergedError, match=r"^the weights of hidden 1 \(0\) are not finite, .*: press an earlier copy"
    ):
        Teacher.of(network, VECTOR, DISCRETE)


# No more batches than it takes

LONG = replace(SMALL, batches=4_000, collections=20)


def recorded(seed: int = 0) -> Callable[..., Any]:
    """States that do not depend on who acts, others every time."""
    calls: list[int] = []

    def states(teacher: Any, student: Any, share: float, count: int) -> Any:
        calls.append(count)
        return np.random.default_rng([seed, len(calls)]).uniform(-1, 1, (count, 3)).astype(np.float32)

    return states


def easy(pace: pytest.MonkeyPatch, least: int = 300) -> None:
    pace.setattr(distill, "_LEAST", least)


def test_a_student_that_acts_alike_stops_early_at_the_end_of_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    easy(monkeypatch)
    rates: list[float] = []
    student = distill.Distillation(picking(), recorded(), LONG)
    decay = distill.decay
    monkeypatch.setattr(distill, "decay", lambda progress: rates.append(decay(progress)) or rates[-1])
    seen: list[tuple[int, int]] = []
    student.run(lambda done, of, _: seen.append((done, of)))
    policy = student.freeze()
    used = policy.provenance["batches"]
    assert 300 < used == len(rates) < LONG.batches / 4
    assert seen[-1] == (used, used)
    assert rates[0] == 1.0
    assert rates[-1] < 0.02  # the learning rate fell to zero
    assert student._compressor.phase.name == "QUANTIZE"
    assert policy.numerics == "integer"
    assert evaluate(policy, PICK, episodes=10).mean > 0.95 * EPISODE
    again = compress(picking(), recorded(), LONG)
    assert encode_payload(again) == encode_payload(policy)


@pytest.mark.parametrize(
    "changes",
    [{"compression": replace(BITS8, sparsity=0.5, prune_end=1.0)}, {"learning_rate": 1e-9}],
    ids=["while it is pruned", "before it has learned"],
)
def test_a_student_with_more_to_learn_takes_all_its_batches(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    easy(monkeypatch)
    config = replace(LONG, batches=800, **changes)
    assert compress(picking(), recorded(), config).provenance["batches"] == 800


@pytest.mark.slow
def test_where_a_student_falls_back_the_rest_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    easy(monkeypatch)
    answers = iter([0.995, *[0.985] * 3, *[0.5] * 99])
    monkeypatch.setattr(distill, "agreement", lambda *_: next(answers))
    student = distill.Distillation(picking(), recorded(), LONG)
    planned: list[int] = []
    from_now = distill._Pace.from_now

    def noted(pace: Any, batch: int, length: int) -> Any:
        planned.append(length)
        return from_now(pace, batch, length)

    monkeypatch.setattr(distill._Pace, "from_now", noted)
    student.run()
    used = student.freeze().provenance["batches"]
    assert planned[:6] == [300, 600, 1_200, 2_400, 4_000, 4_000]
    assert 300 < used <= LONG.batches


def test_a_pace_ends_where_the_schedule_ends() -> None:
    pace = distill._Pace(1_000, 1_000)
    assert [pace.step(batch) for batch in (0, 7, 999)] == [0, 7, 999]
    assert pace.batches == 1_000
    fast = pace.from_now(101, 80)
    assert [fast.step(batch) for batch in (101, 103, 104, 111, 112, 120)] == [101, 101, 101, 101, 201, 301]
    assert fast.batches == 176
    slow = fast.from_now(120, 700)
    assert slow.step(120) == fast.step(120) == 301
    assert slow.step(slow.batches - 1) < 1_000 <= slow.step(slow.batches)
    assert slow.batches == 120 + 8 * 62
    assert distill._Pace(1_000, 1_000).from_now(1, 999).batches == 1_000  # an upper bound


@pytest.mark.slow
def test_a_hastened_student_ends_in_the_same_bytes_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    easy(monkeypatch)
    fixed = np.random.default_rng(0).uniform(-1, 1, (1_000, 3)).astype(np.float32)

    def states(teacher: Any, student: Any, share: float, count: int) -> Any:
        return fixed[:count]

    whole = compress(picking(), states, LONG)
    assert whole.provenance["batches"] < LONG.batches / 4
    for batch in (160, 240, 300, 400):
        with pytest.raises(Stop):
            compress(picking(), states, LONG, folder=tmp_path / str(batch), progress=stop_at(batch))
        resumed = compress(picking(), states, LONG, folder=tmp_path / str(batch))
        assert encode_payload(resumed) == encode_payload(whole), batch


def test_agreement_of_choices_weighs_near_ties_little() -> None:
    asked = teacher(DISCRETE, "logits")
    same = torch.tensor([[0.0, 1.0, 5.0], [4.0, 0.0, 0.0]])
    assert distill.agreement(asked, same, same) == 1.0
    tie, clear = torch.tensor([[0.0, 4.99, 5.0]]), torch.tensor([[0.0, 1.0, 5.0]])
    student = torch.tensor([[0.0, 2.0, 1.0]])
    assert distill.agreement(asked, student, tie) == pytest.approx(np.exp(-0.01))
    assert distill.agreement(asked, student, clear) == pytest.approx(np.exp(-4.0))


def test_agreement_of_binary_choices_is_how_likely_the_teacher_makes_them() -> None:
    asked = teacher(ActionTransform("multi-binary", (2,), "int64"), "logits")
    wanted = torch.tensor([[2.0, -0.01], [-3.0, 1.0]])
    assert distill.agreement(asked, 7 * wanted, wanted) == 1.0
    assert distill.agreement(asked, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), wanted) == pytest.approx(
        (1 + np.exp(-0.01)) / 2
    )
    assert distill.agreement(asked, -wanted, wanted) == pytest.approx((np.exp(-2.01) + np.exp(-4.0)) / 2)


def test_agreement_of_actions_is_that_of_the_worst() -> None:
    asked = teacher(box([-1.0, -1.0], [1.0, 1.0]))
    wanted = torch.tensor([[0.5, 0.2], [-0.5, -0.2], [0.5, 0.2], [-0.5, -0.2]])
    assert distill.agreement(asked, wanted, wanted) == 1.0
    off = wanted + torch.tensor([0.0, 0.1])
    assert distill.agreement(asked, off, wanted) == pytest.approx(0.75)
    beyond = torch.tensor([[3.0, 2.0], [-3.0, -2.0]])
    assert distill.agreement(asked, beyond, 2 * beyond) == 1.0  # the environment gets the same


# Stopped and resumed


class Stop(Exception):
    pass


def stop_at(batch: int) -> Callable[..., None]:
    def progress(done: int, *_: Any) -> None:
        if done >= batch:
            raise Stop

    return progress


def test_a_stopped_student_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        compress(picking(), PICK, SMALL, folder=tmp_path, progress=stop_at(200))
    assert {path.name for path in tmp_path.iterdir()} == {"student.pt", "states.npy", "outputs.npy"}
    seen: list[int] = []
    policy = compress(picking(), PICK, SMALL, folder=tmp_path, progress=lambda done, *_: seen.append(done))
    assert min(seen) == 208
    assert seen[-1] == policy.provenance["batches"] == SMALL.batches
    assert evaluate(policy, PICK, episodes=10).mean > 0.93 * EPISODE


def test_a_stopped_student_ends_in_the_same_bytes_where_states_do(tmp_path: Path) -> None:
    recorded = np.random.default_rng(0).uniform(-1, 1, (1_000, 3)).astype(np.float32)

    def states(teacher: Any, student: Any, share: float, count: int) -> Any:
        return recorded[:count]

    whole = compress(picking(), states, SMALL)
    for batch in (8, 160, 312, 400):  # before and while it quantizes, and at the end
        with pytest.raises(Stop):
            compress(picking(), states, SMALL, folder=tmp_path / str(batch), progress=stop_at(batch))
        resumed = compress(picking(), states, SMALL, folder=tmp_path / str(batch))
        assert encode_payload(resumed) == encode_payload(whole), batch


def test_slices_of_time_end_in_the_same_bytes(tmp_path: Path) -> None:
    recorded = np.random.default_rng(0).uniform(-1, 1, (1_000, 3)).astype(np.float32)
    whole = compress(picking(), lambda *given: recorded[: given[-1]], SMALL)
    slices, finished = 0, False
    while not finished:  # each in a process of its own, as far as it can tell
        student = distill.Distillation(picking(), lambda *given: recorded[: given[-1]], SMALL, tmp_path)
        finished = student.run(seconds=0.0)
        slices += 1
    assert slices > 10
    assert encode_payload(student.freeze()) == encode_payload(whole)


def test_a_student_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        compress(picking(), PICK, SMALL, folder=tmp_path, progress=stop_at(8))
    with pytest.raises(RunError, match="holds a student of other settings: choose another folder or remove it"):
        compress(picking(), PICK, replace(SMALL, seed=2), folder=tmp_path)


def test_killed_between_any_two_files(tmp_path: Path) -> None:
    config = replace(SMALL, batches=100)

    def attempt(count: int) -> None:
        die_at_file_operation(count, tmp_path)
        compress(picking(), PICK, config, folder=tmp_path)

    codes = [in_child(lambda count=count: attempt(count)) for count in (1, 2, 3, 4, 5, 6, 30, 31, 32, 1_000)]
    assert codes == [-signal.SIGKILL] * 9 + [0]
    assert not [path for path in tmp_path.iterdir() if path.name == "policy.policy"]
    policy = compress(picking(), PICK, config, folder=tmp_path)
    assert policy.numerics == "integer"


def test_a_narrow_student_may_have_other_layers() -> None:
    policy = compress(picking(), PICK, replace(SMALL, hidden=(10,)))
    assert len(policy.layers) == 2
    assert evaluate(policy, PICK, episodes=10).mean > 0.8 * EPISODE


@pytest.mark.parametrize("known", [True, False])
def test_a_student_may_have_an_activation_of_its_own(known: bool) -> None:
    teacher = picking()
    if not known:
        teacher = replace(teacher, graph=None, answers=teacher.outputs)
    policy = compress(teacher, PICK, replace(SMALL, hidden=(10, 8), hidden_activation="elu"))
    assert [op.function for op in policy.ops if isinstance(op, Activation)] == ["elu", "elu"]
    assert policy.numerics == "integer"
    assert policy.provenance["distill"]["hidden_activation"] == "elu"
    assert evaluate(policy, PICK, episodes=10).mean > 0.8 * EPISODE


def test_a_student_that_starts_afresh_needs_training() -> None:
    for changes in ({"hidden": (6, 6, 6)}, {"hidden": (6, 6), "hidden_activation": "elu"}):
        with pytest.raises(ConfigError, match="starts from fresh weights, and --method ptq trains none"):
            post_training(picking(), PICK, replace(SMALL, **changes))


def test_a_teacher_of_plain_pytorch_is_what_its_network_says() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    asked = Teacher.of(network, VECTOR, box([-2.0, 0.0], [2.0, 3.0]))
    assert (asked.imitation, asked.baseline_bytes) == ("action", 4 * (4 * 8 + 9 * 2))
    x = torch.rand(5, 3)
    torch.testing.assert_close(asked.outputs(x), network(x).detach())
    assert Teacher.of(network, VECTOR, DISCRETE).imitation == "logits"
