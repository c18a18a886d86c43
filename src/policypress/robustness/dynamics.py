"""Bodies that are not those that a policy was trained on, and pushes: MuJoCo environments of Gymnasium."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from policypress.robustness.sensors import Disturbed

PUSH_EVERY = 100
"""Steps from one push to the next."""
_POINTS = 5
_OTHERWISE = 0.25, 4.0
_RRLS: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "Ant": {"mass": (0.1, 3.0)},
        "HalfCheetah": {"mass": (0.1, 7.0), "friction": (0.1, 3.0)},
        "Hopper": {"mass": (0.1, 3.0), "friction": (0.1, 3.0)},
        "HumanoidStandup": {"mass": (0.1, 16.0)},
        "InvertedPendulum": {"mass": (1.0, 11.0)},
        "Walker2d": {"mass": (0.1, 5.0), "friction": (0.1, 4.0)},
    }
)
"""Uncertainty sets of Zouitine et al. 2024 (RRLS, arXiv 2406.08406): kilograms of the torso, of the cart; coefficients
of sliding friction."""


def model_of(env: gym.Env[Any, Any]) -> Any:
    """The MjModel of an environment; None if it has none."""
    inner = env.unwrapped
    model, data = getattr(inner, "model", None), getattr(inner, "data", None)
    return model if hasattr(model, "body_mass") and hasattr(data, "qvel") else None


def base_of(model: Any) -> int:
    """The first body that moves: a torso, or a cart."""
    return next(body for body in range(1, model.nbody) if model.body_dofnum[body])


def horizontal_dofs(model: Any) -> list[int]:
    """Degrees of freedom along which the base moves over the ground; [] if it is fixed."""
    body = base_of(model)
    first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
    found = []
    for joint in range(first, first + count):
        kind, dof = int(model.jnt_type[joint]), int(model.jnt_dofadr[joint])
        if kind == 0:  # a free joint: x, y, z, then rotations
            found += [dof, dof + 1]
        elif kind == 2 and abs(float(model.jnt_axis[joint][2])) < 0.5:  # a slide
            found.append(dof)
    return found


def _set_mass(model: Any, value: float) -> None:
    body = base_of(model)
    model.body_inertia[body] *= value / model.body_mass[body]  # as dense in the same shape
    model.body_mass[body] = value


def _set_friction(model: Any, value: float) -> None:
    # Of two bodies that touch MuJoCo takes the larger coefficient: that of the ground alone would often change nothing.
    model.geom_friction[:, 0] = value


def _set_gravity(model: Any, value: float) -> None:
    model.opt.gravity[2] = -value


def _scale_damping(model: Any, value: float) -> None:
    model.dof_damping[:] *= value


def _scale_strength(model: Any, value: float) -> None:
    model.actuator_gear[:] *= value


SHIFTS: Mapping[str, Callable[[Any, float], None]] = MappingProxyType(
    {
        "mass": _set_mass,
        "friction": _set_friction,
        "gravity": _set_gravity,
        "damping": _scale_damping,
        "actuators": _scale_strength,
    }
)
"""What a shift changes in a model."""


def shift_levels(kind: str, env: gym.Env[Any, Any]) -> tuple[float, ...]:
    """Evenly over the range that RRLS has of ``kind``; for environments that it does not have, a quarter to four times
    the model's own value (the range of masses in Peng et al. 2018, arXiv 1710.06537), in equal ratios."""
    name = (env.spec.id if env.spec is not None else "").rpartition("/")[2].partition("-v")[0]
    if limits := _RRLS.get(name, {}).get(kind):
        return tuple(round(float(level), 3) for level in np.linspace(*limits, _POINTS))
    model = model_of(env)
    own = float(model.body_mass[base_of(model)] if kind == "mass" else np.median(model.geom_friction[:, 0]))
    return tuple(float(f"{own * factor:.3g}") for factor in np.geomspace(*_OTHERWISE, _POINTS - 1))


class Shifted(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose model has another mass, friction, gravity, damping or actuators from the beginning."""

    def __init__(self, env: gym.Env[Any, Any], kind: str, level: float) -> None:
        import mujoco

        super().__init__(env)
        inner: Any = env.unwrapped
        SHIFTS[kind](inner.model, level)
        mujoco.mj_setConst(inner.model, inner.data)  # what MuJoCo derives from masses when it compiles a model


class Pushed(Disturbed):
    """The base's horizontal velocity changes by ``strength`` in metres a second, in a random direction, every
    ``PUSH_EVERY`` steps, for the first time within the first of them."""

    def __init__(self, env: gym.Env[Any, Any], strength: float) -> None:
        super().__init__(env, strength)
        self._dofs = horizontal_dofs(model_of(env))

    def first(self, observation: Any) -> Any:
        self._steps = -int(self.rng.integers(PUSH_EVERY))
        return observation

    def done(self, action: Any) -> Any:
        if self._steps % PUSH_EVERY == 0:
            inner: Any = self.env.unwrapped
            inner.data.qvel[self._dofs] += self.strength * _direction(self.rng, len(self._dofs))
        self._steps += 1
        return action


def _direction(rng: np.random.Generator, dimensions: int) -> NDArray[np.float64]:
    if dimensions == 1:
        return np.array([1.0 if rng.random() < 0.5 else -1.0])
    angle = rng.uniform(0, 2 * math.pi)
    return np.array([math.cos(angle), math.sin(angle)])
