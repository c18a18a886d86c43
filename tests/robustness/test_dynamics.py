"""Other bodies and pushes, in environments of MuJoCo."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from policypress.rl.environments import make_env
from policypress.robustness import dynamics

pytest.importorskip("mujoco")


def made(env_id: str = "Hopper-v5") -> gym.Env[Any, Any]:
    return make_env(env_id, training=False)


def states(env: gym.Env[Any, Any], steps: int = 8) -> NDArray[np.float64]:
    env.reset(seed=3)
    rng = np.random.default_rng(3)
    space: Any = env.action_space
    return np.stack([env.step(rng.uniform(space.low, space.high).astype(np.float32))[0] for _ in range(steps)])


OWN: dict[str, float] = {"gravity": 9.81, "damping": 1.0, "actuators": 1.0}


@pytest.mark.parametrize("kind", dynamics.SHIFTS)
def test_a_shift_to_the_models_own_value_changes_nothing(kind: str) -> None:
    bare = made()
    model: Any = dynamics.model_of(bare)
    if kind == "friction":
        model.geom_friction[:, 0] = 0.9
    own = {"mass": float(model.body_mass[1]), "friction": 0.9} | OWN
    assert states(dynamics.Shifted(made(), kind, own[kind])).tobytes() == states(bare).tobytes()


@pytest.mark.parametrize("kind", dynamics.SHIFTS)
def test_a_shift_changes_what_the_body_does(kind: str) -> None:
    level = {"gravity": 14.715, "mass": 1.0, "friction": 0.1, "damping": 20.0, "actuators": 0.5}[kind]
    assert not np.array_equal(states(dynamics.Shifted(made(), kind, level), 40), states(made(), 40))


def test_a_heavier_torso_is_one_of_more_inertia() -> None:
    before: Any = dynamics.model_of(made())
    after: Any = dynamics.model_of(dynamics.Shifted(made(), "mass", 2.0))
    assert after.body_mass[1] == 2.0
    np.testing.assert_allclose(after.body_inertia[1] / before.body_inertia[1], 2.0 / before.body_mass[1])
    np.testing.assert_array_equal(after.body_mass[2:], before.body_mass[2:])


@pytest.mark.parametrize(
    ("env_id", "kind", "levels"),
    [
        ("HalfCheetah-v5", "mass", (0.1, 1.825, 3.55, 5.275, 7.0)),
        ("HalfCheetah-v5", "friction", (0.1, 0.825, 1.55, 2.275, 3.0)),
        ("Walker2d-v5", "friction", (0.1, 1.075, 2.05, 3.025, 4.0)),
        ("Swimmer-v5", "mass", (8.9, 22.4, 56.5, 142.0)),
    ],
)
def test_levels_are_those_that_were_published(env_id: str, kind: str, levels: tuple[float, ...]) -> None:
    assert dynamics.shift_levels(kind, made(env_id)) == pytest.approx(levels)


@pytest.mark.parametrize(
    ("env_id", "dofs"), [("Hopper-v5", [0]), ("Ant-v5", [0, 1]), ("Swimmer-v5", [0, 1]), ("Reacher-v5", [])]
)
def test_bases_that_move_over_the_ground(env_id: str, dofs: list[int]) -> None:
    assert dynamics.horizontal_dofs(dynamics.model_of(made(env_id))) == dofs


def test_a_push_changes_the_velocity_of_the_base_every_hundred_steps() -> None:
    env = made("Ant-v5")
    pushed = dynamics.Pushed(env, 0.5)
    pushed.reset(seed=1)
    inner: Any = env.unwrapped
    action, found = np.zeros(8, np.float32), []
    for step in range(250):
        before = inner.data.qvel.copy()
        pushed.done(action)
        change = inner.data.qvel - before
        inner.data.qvel[:] = before
        if change.any():
            found.append(step)
            assert np.linalg.norm(change) == pytest.approx(0.5)
            assert not change[2:].any()
    assert 2 <= len(found) <= 3
    assert set(np.diff(found)) == {dynamics.PUSH_EVERY}
    assert found[0] < dynamics.PUSH_EVERY


def test_what_is_no_mujoco_has_no_model() -> None:
    assert dynamics.model_of(gym.make("CartPole-v1")) is None
