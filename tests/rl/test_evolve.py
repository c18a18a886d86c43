"""Evolution of a policy's integers: it learns, goes on where it stopped, and does not depend on who plays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policypress.config import CompressionConfig, DistillConfig, Environment, PressConfig
from policypress.errors import ConfigError, RunError, UnsupportedError
from policypress.policy.artifact import encode
from policypress.policy.canonical import answered
from policypress.policy.contract import ActionTransform, ObservationTransform, TestVectors
from policypress.policy.ops import InputQuantization, Layer
from policypress.policy.policy import Policy
from policypress.rl import evolve
from policypress.rl.evaluate import evaluate
from policypress.rl.evolve import Evolution
from policypress.rl.rollouts import Rollouts
from rl.toys import FOLLOW, Follow

STEPS = 15_000


def bad(weights: int = 3) -> Policy:
    """A linear policy for ``Follow`` that follows nothing yet."""
    rng = np.random.default_rng(0)
    layer = Layer(
        rng.integers(-30, 30, (2, weights)).astype(np.int8),
        np.zeros(2, np.int32),
        8,
        np.array([2.0**-11], np.float32),
        False,
    )
    space = Follow.action_space
    return answered(
        Policy(
            (layer,),
            ObservationTransform((weights,), "float32"),
            ActionTransform("box", (2,), low=space.low, high=space.high),
            InputQuantization(np.full(weights, 127.0, np.float32), -127, 127, 8),
            1_000,
            {"env": FOLLOW},
        ),
        TestVectors(*[rng.uniform(-1, 1, (5, weights)).astype(np.float32)] * 3),
    )


def config(**changes: Any) -> PressConfig:
    student = DistillConfig(CompressionConfig(weight_bits=8), hidden=(4,), seed=changes.pop("seed", 1))
    return PressConfig("sac", "rl.toys:Follow", "", method="evolve", student=student, **{"steps": STEPS, **changes})


def evolved(folder: Path | None = None, jobs: int = 1, seconds: float = 1e9, **changes: Any) -> Policy:
    start = bad()
    with Rollouts(Environment("rl.toys:Follow"), start.observation, jobs) as rollouts:
        work = Evolution(start, rollouts, config(**changes), folder)
        work.run(seconds=seconds)
        return work.freeze()


def test_it_learns_what_the_environment_rewards() -> None:
    before = evaluate(bad(), episodes=20)
    policy = evolved()
    after = evaluate(policy, episodes=20)
    assert before.mean < -10
    assert after.mean > -0.5
    assert policy.numerics == "integer"
    assert policy.provenance["evolved_steps"] >= STEPS
    assert policy.test_vectors is not None
    assert np.array_equal(policy.predict(policy.test_vectors.observations)[0], policy.test_vectors.actions)


def test_who_plays_changes_nothing_and_the_seed_does() -> None:
    ours = evolved(steps=3_000)
    assert encode(ours) == encode(evolved(steps=3_000, jobs=2))
    assert encode(ours) != encode(evolved(steps=3_000, seed=2))


def test_what_is_interrupted_goes_on_to_the_same_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve, "_PATIENCE", 2)  # several beginnings
    whole = evolved(steps=6_000)
    calls = 0
    while calls < 100:
        calls += 1
        start = bad()
        with Rollouts(Environment("rl.toys:Follow"), start.observation) as rollouts:
            work = Evolution(start, rollouts, config(steps=6_000), tmp_path)
            if work.run(seconds=0.05):
                break
    assert 1 < calls < 100
    assert encode(work.freeze()) == encode(whole)


def test_it_goes_on_for_more_steps_but_not_with_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evolved(tmp_path, steps=2_000)
    assert evolved(tmp_path, steps=4_000).provenance["evolved_steps"] >= 4_000
    with pytest.raises(RunError, match="holds an evolution of other settings"):
        evolved(tmp_path, code_rms=8.0)
    monkeypatch.setattr(evolve, "_VERSION", evolve._VERSION + 1)
    with pytest.raises(RunError, match="or of another version"):
        evolved(tmp_path, steps=4_000)


def test_flat_returns_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follow, "_reward", lambda *_: 1.0)
    policy = evolved(steps=10_000)
    assert evaluate(policy, episodes=2).mean == 10.0


def test_the_first_noise_may_be_given() -> None:
    start = bad()
    with Rollouts(Environment("rl.toys:Follow"), start.observation) as rollouts:
        work = Evolution(start, rollouts, config(noise=0.3))
        assert work._begun().sigma == 0.3
        work.run(seconds=0.1)
        assert work._begun().sigma != 0.3, "later ones are found"


def test_too_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve, "MOST_NUMBERS", 7)
    with pytest.raises(UnsupportedError, match="8 numbers are too many to evolve, 7 at most: give narrower"):
        evolved()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "say how long to evolve, for example --steps 1000000"),
        ({"code_rms": 0.1}, "code_rms=0.1 must be 0.5 to 40"),
        ({"noise": -0.1}, "noise=-0.1 must be 0 to 2, for example 0.1"),
        ({"code_rms": float("nan")}, "code_rms=nan must be a finite number"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        replace(config(), **changes)


@pytest.mark.parametrize(("effort", "share"), [(0, 0.25), (len(evolve._EFFORTS) - 1, 0.0)])
def test_survival_alone_is_worth_less_at_first(effort: int, share: float) -> None:
    start = bad()
    with Rollouts(Environment("rl.toys:Follow"), start.observation) as rollouts:
        work = Evolution(start, rollouts, config(), episode=lambda: evolve._Episode(8.0, 10.0))
        work._state.effort = effort
        shaped, returns = work._played([work._state.best], [7])
        assert shaped[0, 0] == pytest.approx(returns[0, 0] - share * 8.0 * rollouts.steps)
        assert returns[0, 0] == pytest.approx(
            evaluate(work._genome.policy(work._state.best), Environment("rl.toys:Follow"), episodes=1, seed=7).mean
        )


def test_every_other_episode_is_one_of_the_hardest_of_the_latest() -> None:
    start = bad()
    with Rollouts(Environment("rl.toys:Follow"), start.observation) as rollouts:
        work = Evolution(start, rollouts, config())
        strategy = work._begun()
        for _ in range(2 * evolve._REMEMBERED):
            work._generation(strategy)
        met = work._state.met
        assert len(met) == evolve._REMEMBERED
        hardest = set(sorted(met, key=met.__getitem__)[: evolve._REMEMBERED // 10])
        drawn = [seed for _ in range(400) for seed in work._seeds(1)]
        assert 150 < sum(seed in hardest for seed in drawn) < 250
        assert {seed for seed in drawn if seed in met} == hardest
        assert len(set(work._seeds(40))) == 40


def test_candidates_play_the_beginning_of_an_episode_first_and_all_of_it_at_last() -> None:
    start = bad()
    with Rollouts(Environment("rl.toys:Follow"), start.observation) as rollouts:
        work = Evolution(start, rollouts, config(steps=30_000), episode=lambda: evolve._Episode(0.0, 10.0))
        strategy, before = work._begun(), rollouts.steps
        work._generation(strategy)
        assert rollouts.steps - before == strategy.popsize * 3  # a quarter of ten steps, rounded up
        work.run()
        assert work._state.horizon == len(evolve._HORIZONS) - 1
        before = rollouts.steps
        work._state.effort = 0
        work._generation(strategy)
        assert rollouts.steps - before == strategy.popsize * 10


def test_who_is_lucky_in_few_episodes_is_not_taken_for_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    start = bad()
    with Rollouts(Environment("rl.toys:Follow"), start.observation) as rollouts:
        work = Evolution(start, rollouts, config())
        work._state.horizon = len(evolve._HORIZONS) - 1
        few = evolve._EFFORTS[0].checks
        asked: list[int] = []

        def played(by_episode: Any) -> Any:
            def play(_: Any, seeds: Any, *__: Any) -> Any:
                asked.extend(seeds)
                found = np.array([[by_episode(seed - evolve._CHECK_SEED) for seed in seeds]], np.float64)
                return found, found

            return play

        best = work._state.best + 1
        monkeypatch.setattr(work, "_played", played(lambda _: 5.0))
        work._check(best)
        assert asked == list(range(evolve._CHECK_SEED, evolve._CHECK_SEED + evolve._CONFIRMED * few))
        monkeypatch.setattr(work, "_played", played(lambda place: 9.0 if place < few else -9.0))
        work._check(best + 1)
        assert np.array_equal(work._state.best, best)
        assert (work._state.worth, work._state.returned, work._state.fruitless) == (5.0, 5.0, 1)
        asked.clear()
        monkeypatch.setattr(work, "_played", played(lambda place: 4.0 if place < few else 9.0))
        work._check(best + 2)
        assert len(asked) == few
        monkeypatch.setattr(work, "_played", played(lambda _: 6.0))
        work._check(best + 3)
        assert np.array_equal(work._state.best, best + 3)
