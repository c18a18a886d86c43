"""The two robots: their environments, their makers' policies in them, and what is made of episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco")

from benchmarks import robots
from examples.robots import g1, legged
from examples.robots.walk import MEANS, ORIGINALS, ROBOTS, SEED, Episode, Leg, Pressed, main, pressed, table, walk

import policypress
from policypress.errors import ConfigError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization, Layer
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env

SHARED = Path(__file__).parents[3] / "shared" / "robots"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the robots' models in ../shared/robots")
COMMAND = {"go1": (1.0, 0.0, 0.0), "g1": (0.5, 0.0, 0.0)}
SPEED = {"go1": 1.0, "g1": 0.47}
"""In m/s, as the models' README has seen them walk."""


def standing(robot: str) -> Policy:
    """A policy that always holds the pose."""
    size = ROBOTS[robot].observations
    layer = Layer(np.zeros((12, size), np.float32), np.zeros(12, np.float32), 32, np.ones(1, np.float32), False)
    bound = np.ones(12, np.float32)
    action = ActionTransform("box", (12,), low=-bound, high=bound)
    return Policy((layer,), ObservationTransform((size,), "float32"), action, None, 4 * 13 * size)


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_original_walks_as_its_makers_show_it(robot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legged, "SECONDS", 4.0)
    env = ROBOTS[robot](command=COMMAND[robot], pushes=False, varied=False)
    walker = ORIGINALS[robot]()
    speeds: list[float] = []
    step = env.step
    monkeypatch.setattr(env, "step", lambda action: note(step(action), speeds))
    episode = walk(env, walker, seed=0)
    assert (episode.fell, episode.seconds) == (False, 4.0)
    assert np.mean(speeds[50:]) == pytest.approx(SPEED[robot], abs=0.03)
    assert walk(env, walker, seed=0) == episode  # its state is forgotten


def note(found: Any, speeds: list[float]) -> Any:
    speeds.append(found[4]["velocity"][0])
    return found


@pytest.mark.parametrize("robot", ROBOTS)
def test_everything_comes_from_the_seed(robot: str) -> None:
    def first(seed: int, steps: int = 120, **settings: Any) -> tuple[Any, ...]:
        env = ROBOTS[robot](**settings)
        rng = np.random.default_rng(0)
        shown = [env.reset(seed=seed + 1)[0], env.reset(seed=seed)[0]]  # nothing is left of another episode
        for _ in range(steps):
            shown.append(env.step(rng.uniform(-0.3, 0.3, 12).astype(np.float32))[0])
        return np.stack(shown[1:]), env.model.body_mass.copy(), env.model.geom_friction.copy(), env.command

    one, again, other, calm = first(3), first(3), first(4), first(3, pushes=False, varied=False)
    for ours, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(ours, same)
    for ours, different in zip(one, other, strict=True):
        assert not np.array_equal(ours, different)
    np.testing.assert_array_equal(one[3], calm[3])
    assert one[0].dtype == np.float32
    published = ROBOTS[robot](varied=False)
    np.testing.assert_array_equal(calm[1], published.model.body_mass)
    ratio = one[1][2:] / published.model.body_mass[2:]
    assert ((ratio > 0.9) & (ratio < 1.1)).all()


@pytest.mark.parametrize("robot", ROBOTS)
def test_commands_and_pushes_stay_in_their_ranges(robot: str) -> None:
    env = ROBOTS[robot]()
    commands, sizes = [], []
    for seed in range(60):
        env.reset(seed=seed)
        commands.append(env._commands)
        sizes += [float(np.linalg.norm(kick)) for kick in env._kicks.values()]
        assert all(0 < step < 1000 for step in env._kicks)
    drawn = np.concatenate(commands)
    assert (np.abs(drawn) <= env.commands).all()
    assert (np.abs(drawn).max(axis=0) > 0.9 * np.array(env.commands)).all()
    assert 0.02 < np.mean(~drawn.any(axis=1)) < 0.25
    assert 0.9 * env.push < max(sizes) <= env.push


def test_a_push_is_felt() -> None:
    env = ROBOTS["go1"](command=(0.0, 0.0, 0.0), varied=False)
    env.reset(seed=1)
    env._kicks = {5: np.array([0.0, 1.0])}
    errors = [env.step(np.zeros(12))[4]["tracking_error"] for _ in range(7)]
    assert errors[4] < 0.2 < 0.5 < errors[5]


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_fall_ends_the_episode(robot: str) -> None:
    env = ROBOTS[robot](pushes=False, varied=False)
    env.reset(seed=0)
    env.data.qpos[3:7] = (0.6, 0.8, 0.0, 0.0)  # 106 degrees to the side
    for _ in range(100):
        _, reward, terminated, truncated, info = env.step(np.zeros(12))
        assert reward <= 1.0
        if terminated:
            break
    assert (terminated, truncated, info["fell"]) == (True, False, True)


def test_rewards_and_measures_of_a_step() -> None:
    env = ROBOTS["g1"](command=(0.3, 0.0, 0.2), pushes=False, varied=False)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.full(12, 0.5))
    v = info["velocity"]
    assert info["tracking_error"] == pytest.approx(np.hypot(v[0] - 0.3, v[1]))
    assert info["turn_error"] == pytest.approx(abs(v[2] - 0.2))
    assert info["action_change"] == pytest.approx(0.5)
    error, turn = info["tracking_error"], info["turn_error"]
    assert reward == pytest.approx((2 * np.exp(-(error**2) / 0.25) + np.exp(-(turn**2) / 0.25)) / 3)
    assert env.step(np.full(12, 0.5))[4]["action_change"] == 0.0


@pytest.mark.parametrize(("robot", "gravity"), [("go1", slice(6, 9)), ("g1", slice(3, 6))])
def test_observations_are_those_of_the_contract(robot: str, gravity: slice) -> None:
    env = ROBOTS[robot](command=(0.4, -0.2, 0.8), pushes=False, varied=False)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation[gravity], [0, 0, -1], atol=1e-6)
    joints = observation[9:21]
    np.testing.assert_allclose(joints, env.data.qpos[7:] - env._pose()[7:], atol=1e-6)
    assert 0.0 < np.abs(joints).max() < 0.06
    action = np.linspace(-0.2, 0.2, 12)
    observation, *_ = env.step(action)
    if robot == "go1":
        np.testing.assert_allclose(observation[33:45], action, atol=1e-6)
        np.testing.assert_allclose(observation[45:], [0.4, -0.2, 0.8], atol=1e-6)
    else:
        np.testing.assert_allclose(observation[33:45], action, atol=1e-6)
        np.testing.assert_allclose(observation[6:9], [0.8, -0.4, 0.2], atol=1e-6)
        np.testing.assert_allclose(observation[45:], [np.sin(0.05 * np.pi), np.cos(0.05 * np.pi)], atol=1e-5)


TORQUES = np.array([1.0, 1.0, 1.0, 1.5, 0.4, 0.4])
"""Of an action of 1 of a leg's joints, in units of 25 N m: a quarter of kp."""


def swaying(one_leg: bool = False) -> Policy:
    """A policy of the G1 that answers all that it sees; of both legs it answers in a mirror what it answers, mirrored,
    and of one leg the same, as torques."""
    rng = np.random.default_rng(0)
    left = 0.03 * rng.standard_normal((6, 47)).astype(np.float32)
    right = g1.LEG[:, None].astype(np.float32) * g1.mirrored(left)
    weights = left * TORQUES[:, None].astype(np.float32) if one_leg else np.concatenate([left, right])
    size = len(weights)
    layer = Layer(weights, np.zeros(size, np.float32), 32, np.ones(1, np.float32), False)
    action = ActionTransform("box", (size,), low=np.full(size, -9, np.float32), high=np.full(size, 9, np.float32))
    return Policy((layer,), ObservationTransform((47,), "float32"), action, None, 4 * size * 48)


def test_a_mirror_swaps_legs_and_sides() -> None:
    env = ROBOTS["g1"](command=(0.4, -0.2, 0.8), pushes=False, varied=False)
    env.reset(seed=0)
    action = np.linspace(-0.5, 0.5, 12)
    one, *_ = env.step(action)
    other = ROBOTS["g1"](command=(0.4, 0.2, -0.8), pushes=False, varied=False)
    other.reset(seed=0)
    # The same body in a mirror, half a clock later, does in a mirror what is mirrored.
    env.reset(seed=0)
    other.data.qpos[7:] = np.concatenate([g1.LEG * env.data.qpos[13:], g1.LEG * env.data.qpos[7:13]])
    other.data.time = 0.4
    seen, *_ = other.step(g1.both_legs(TORQUES * g1.LEG * action[6:], TORQUES * action[:6]))
    np.testing.assert_allclose(g1.mirrored(seen), one, atol=2e-2)  # the two legs of the model are not quite alike
    assert np.abs(seen - one).max() > 0.3
    np.testing.assert_array_equal(g1.mirrored(g1.mirrored(one)), one)


def test_one_leg_walks_as_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legged, "SECONDS", 1.0)
    both, one = pressed(swaying()), pressed(swaying(one_leg=True))
    assert isinstance(both, Pressed)
    assert isinstance(one, Leg)
    both.reset()
    env = ROBOTS["g1"]()
    observation, _ = env.reset(seed=5)
    np.testing.assert_allclose(one.act(observation), both.act(observation), atol=1e-5)
    # In the environment of one leg it is asked twice, and the robot makes one step.
    half = g1.G1Leg()
    seen, _ = half.reset(seed=5)
    np.testing.assert_array_equal(seen, observation)
    policy = swaying(one_leg=True)
    for _ in range(3):
        mirror, reward, *_ = half.step(policy.predict(seen)[0])
        np.testing.assert_array_equal(mirror, g1.mirrored(seen))
        assert reward == 0.0
        seen, reward, *_ = half.step(policy.predict(mirror)[0])
        observation, expected, *_ = env.step(one.act(observation))
        np.testing.assert_allclose(seen, observation, atol=1e-4)
        assert reward == pytest.approx(expected, abs=1e-4)


def test_a_leg_learns_from_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swaying().save(tmp_path / "both.policy")
    observations = np.random.default_rng(1).standard_normal((5, 47)).astype(np.float32)
    g1._teacher.cache_clear()
    monkeypatch.delenv(g1.TEACHER, raising=False)
    with pytest.raises(ValueError, match="policy file of both legs"):
        g1.leg(observations)
    monkeypatch.setenv(g1.TEACHER, str(tmp_path / "both.policy"))
    np.testing.assert_allclose(g1.leg(observations), swaying(one_leg=True).predict(observations)[0], atol=1e-5)
    g1._teacher.cache_clear()


@pytest.mark.parametrize("robot", ROBOTS)
def test_policypress_makes_them(robot: str) -> None:
    env = make_env(f"examples.robots.{robot}:{ROBOTS[robot].__name__}", training=False)
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (ROBOTS[robot].observations,)
    with pytest.raises(ConfigError, match="there are no models in"):
        make_env(lambda: ROBOTS[robot](models="/nowhere"), training=False)


def test_a_pressed_policy_walks_beside_the_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stands").mkdir()
    standing("go1").save(tmp_path / "stands" / "policy.policy")
    main(["go1", "--policy", str(tmp_path / "stands" / "policy.policy"), "--episodes", "2"])
    head, _, original, stands = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| who | episodes | falls | tracking error")
    assert original.startswith("| original | 2 | 0 | 0.")
    assert stands.startswith("| stands | 2 | ")
    assert float(stands.split("|")[4]) > 3 * float(original.split("|")[4])


def test_the_table_counts_and_averages() -> None:
    episodes = [Episode(seed, 20.0, seed == 1, 0.1 * seed, 0.2, 0.3, 900.0) for seed in range(3)]
    assert table({"a": episodes}).splitlines()[2] == "| a | 3 | 1 | 0.100 | 0.200 | 0.300 | 900.0 |"


# The benchmark


def some(errors: list[float], fallen: set[int] = frozenset()) -> list[Episode]:  # type: ignore[assignment]
    return [Episode(SEED + i, 20.0, i in fallen, error, 1.0, 1.0, 1.0) for i, error in enumerate(errors)]


def test_falls_are_compared_seed_by_seed() -> None:
    flat = [1.0] * 40
    row = robots.compared(some(flat, {1, 2, 3, 4, 5}), some(flat))
    assert (row["falls"], row["original_falls"], row["p_falls"]) == (5, 0, 1 / 32)
    assert robots.compared(some(flat), some(flat))["p_falls"] == 1.0
    assert robots.compared(some(flat, {1, 2}), some(flat, {1, 2}))["p_falls"] == 1.0
    assert robots.compared(some(flat, {1}), some(flat, {2}))["p_falls"] == 0.75
    row = robots.compared(some([1.1] * 40), some(flat))
    assert (row["tracking_ratio"], row["tracking_high"]) == (1.1, 1.1)
    wide = robots.compared(some([0.5, 1.5] * 20), some(flat))
    assert wide["tracking_ratio"] == 1.0 < wide["tracking_high"] < 1.3


def test_measuring_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "FOLDER", tmp_path)
    monkeypatch.setattr(robots, "OUT", tmp_path / "docs")
    monkeypatch.setattr(robots, "on_microcontroller", lambda *_: None)
    monkeypatch.setattr(legged, "SECONDS", 1.0)
    made = tmp_path / "go1" / "stands"
    made.mkdir(parents=True)
    standing("go1").save(made / "policy.policy")
    (made / "result.json").write_text("{}")
    robots.measure("go1", range(SEED, SEED + 3), 9.0)
    lines = (tmp_path / "go1" / "stands.jsonl").read_text()
    (tmp_path / "go1" / "stands.jsonl").write_text(lines[:-20])  # killed while it wrote
    robots.measure("go1", range(SEED, SEED + 4), 9.0)
    who = robots.digest(made / "policy.policy")
    found = robots.walked("go1", "stands", who)
    assert sorted(found) == [SEED, SEED + 1, SEED + 2, SEED + 3]
    assert robots.walked("go1", "stands", "another") == {}
    original, stands = robots.report("go1")
    assert (original["name"], original["episodes"]) == ("original", 4)
    assert (stands["name"], stands["episodes"]) == ("stands", 4)
    assert stands["tracking_ratio"] > 1.5
    assert set(original) | set(stands) <= set(robots.COLUMNS)
    assert {*MEANS} <= set(original)
    robots.show("go1", [original, stands])
    assert (tmp_path / "docs" / "go1.csv").read_text().count("\n") == 3
    before = found
    robots.measure("go1", range(SEED, SEED + 4), 0.0)
    assert robots.walked("go1", "stands", who) == before
    first = robots.CLAIM_SEED
    robots.measure("go1", range(first, first + 2), 9.0)
    assert sorted(robots.walked("go1", "stands", who)) == [*sorted(before), first, first + 1]
    robots.measure("go1", range(first, first + 3), 9.0, ["another"])
    assert first + 2 not in robots.walked("go1", "stands", who), "not named"
    rows = robots.report("go1")
    assert [(row["name"], row["first_seed"], row["episodes"]) for row in rows] == [
        ("original", SEED, 4),
        ("original", first, 3),
        ("stands", SEED, 4),
        ("stands", first, 2),
    ]
    robots.show("go1", rows)
    assert (tmp_path / "docs" / "go1.csv").read_text().count("\n") == 5, "rows of other seeds stay"


def test_a_walker_of_policypress_starts_anew() -> None:
    walker = Pressed(standing("g1"))
    for _ in range(2):
        walker.reset()
        assert walker.act(np.zeros(47, np.float32)).shape == (12,)


def test_a_leg_is_pressed_from_a_policy_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def run(command: list[str], **settings: Any) -> SimpleNamespace:
        called.append((command, settings["env"]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(robots, "FOLDER", tmp_path)
    monkeypatch.setattr(robots.subprocess, "run", run)
    monkeypatch.setattr(
        "sys.argv", ["robots", "press", "g1", "--leg", "--name", "leg", "--teacher", "both", "--", "--hidden", "4"]
    )
    robots.main()
    ((command, environment),) = called
    assert command[3:6] == ["compress", "examples.robots.g1:leg", "--env"]
    assert command[6] == "examples.robots.g1:G1Leg"
    assert command[-2:] == ["--hidden", "4"]
    assert environment[g1.TEACHER] == str(tmp_path / "g1" / "both" / "policy.policy")
    assert (
        json.loads((tmp_path / "g1" / "leg.seconds.json").read_text())["options"] == "--leg --teacher both --hidden 4"
    )
    for wrong in (["go1", "--teacher", "a"], ["g1"]):
        monkeypatch.setattr("sys.argv", ["robots", "press", *wrong, "--leg", "--name", "leg"])
        with pytest.raises(SystemExit):
            robots.main()
    assert len(called) == 1


def test_a_leg_counts_twice_on_a_microcontroller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "FOLDER", tmp_path)
    for name, policy in {"both": swaying(), "leg": swaying(one_leg=True)}.items():
        file = tmp_path / "g1" / name / "policy.policy"
        file.parent.mkdir(parents=True)
        policy.save(file)
        told = {"policy": robots.digest(file), "instructions": 3360.0, "flash": 1, "ram": 2}
        (tmp_path / "g1" / f"{name}.target.json").write_text(json.dumps(told))
        row = robots.on_target("g1", file)
        assert (row["instructions"], row["period_share"]) == {"both": (3360, "0.1 %"), "leg": (6720, "0.2 %")}[name]


@pytest.mark.parametrize(("upright", "tried"), [(1000, [56, 64, 80, 96]), (70, [56, 64, 80])])
def test_a_policy_is_tuned_as_long_as_it_tracks_better_and_stands(
    upright: float, tried: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = np.resize(np.array([40, 48, 56, 64, 80, 96, 112], np.float32), 47)
    scales[6:9] = 56
    layer = Layer(np.zeros((12, 47), np.int8), np.zeros(12, np.int32), 8, np.ones(1, np.float32), False)
    plain = replace(standing("g1"), ops=(layer,), input=InputQuantization(scales, -127, 127, 8))
    monkeypatch.setattr(robots, "FOLDER", tmp_path)
    (tmp_path / "g1" / "leg").mkdir(parents=True)
    plain.save(tmp_path / "g1" / "leg" / "policy.policy")

    def walked(env: Any, walker: Any, seed: int) -> Episode:
        forward, sideways, turning = walker._policy.input.inverse_scale[env.commanded]
        assert forward == sideways
        fell = seed == robots.TUNING_SEED or forward > upright
        return Episode(seed, 1.0, bool(fell), abs(forward - 81.0), turning, 0.0, 0.0)

    monkeypatch.setattr(robots, "walk", walked)
    monkeypatch.setattr("sys.argv", ["robots", "tune", "g1", "--name", "leg", "--episodes", "7"])
    robots.main()
    tuned = policypress.load(tmp_path / "g1" / "leg-tuned" / "policy.policy")
    assert tuned.input is not None
    assert tuned.input.inverse_scale[6:9].tolist() == [tried[-2], tried[-2], 56]
    np.testing.assert_array_equal(np.delete(tuned.input.inverse_scale, [6, 7]), np.delete(scales, [6, 7]))
    assert tuned.provenance["tuned"] == {"episodes": 7, "first_seed": robots.TUNING_SEED}
    assert policypress.size(tuned).payload_bytes <= policypress.size(plain).payload_bytes + 1
    told = json.loads((tmp_path / "g1" / "leg-tuned" / "result.json").read_text())
    assert [one["tracking_error"] for one in told] == [abs(scale - 81) for scale in tried]
    standing("g1").save(tmp_path / "g1" / "leg" / "policy.policy")
    with pytest.raises(SystemExit, match="leg takes floats"):
        robots.main()


def test_of_several_the_one_that_falls_least_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that fall alike the one that tracks best."""
    monkeypatch.setattr(robots, "FOLDER", tmp_path)
    behaviours = {"falls": (3, 0.1), "drifts": (1, 0.3), "follows": (1, 0.2)}
    for place, name in enumerate(behaviours):
        (tmp_path / "g1" / name).mkdir(parents=True)
        weights = np.full((12, 47), place, np.float32)
        layer = Layer(weights, np.zeros(12, np.float32), 32, np.ones(1, np.float32), False)
        replace(standing("g1"), ops=(layer,)).save(tmp_path / "g1" / name / "policy.policy")

    def walked(env: Any, walker: Any, seed: int) -> Episode:
        falls, error = list(behaviours.values())[int(walker._policy.layers[0].weight[0, 0])]
        return Episode(seed, 1.0, seed < robots.CHOOSING_SEED + falls, error, 0.0, 0.0, 0.0)

    monkeypatch.setattr(robots, "walk", walked)
    told = [argument for name in behaviours for argument in ("--of", name)]
    monkeypatch.setattr("sys.argv", ["robots", "choose", "g1", "--name", "best", *told, "--episodes", "5"])
    robots.main()
    best = tmp_path / "g1" / "best"
    assert (best / "policy.policy").read_bytes() == (tmp_path / "g1" / "follows" / "policy.policy").read_bytes()
    result = json.loads((best / "result.json").read_text())
    assert result["chosen"] == "follows"
    assert result["falls"] == {"falls": 3, "tracking_error": pytest.approx(0.1)}
    assert robots.policies("g1") == [best / "policy.policy"]
    monkeypatch.setattr("sys.argv", ["robots", "choose", "g1", "--name", "best", "--of", "nobody"])
    with pytest.raises(SystemExit, match="nobody is not pressed: press it first"):
        robots.main()
