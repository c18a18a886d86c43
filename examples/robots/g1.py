"""Unitree G1, a humanoid of 12 joints, as unitree_rl_gym runs it in MuJoCo: `--env examples.robots.g1:G1`.

Observation, 47 numbers: angular velocity of the base × 0.25 (3), direction of gravity in its frame (3), command
× (2, 2, 0.25) (3), joint angles less those of the pose (12), joint velocities × 0.05 (12), last action (12), sine and
cosine of a clock of 0.8 s (2). Action, without bounds: a quarter of it, in rad, is added to the pose's joint angles;
torques hold them there, kp (target - q) - kd dq, anew in every step of the simulation. Commands are drawn as in its
makers' training, up to 1 m/s forward and sideways and 1 rad/s, either way.

The robot is its own mirror image. So a policy of one leg is enough, `G1Leg`: asked what the left one does, and of the
mirrored observation, what the right one does.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, ClassVar

import mujoco
import numpy as np
from examples.robots.legged import Legged, Vector
from gymnasium import spaces
from numpy.typing import NDArray

import policypress

TEACHER = "POLICYPRESS_G1_TEACHER"
"""The variable that names the .policy file of both legs that `leg` answers by."""
LEG = np.array([1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
"""Signs of a leg's joints in a mirror: hip pitch, roll and yaw, knee, ankle pitch and roll."""
_OTHER = np.roll(np.arange(12), 6)
_PLACES = np.concatenate([np.arange(9), 9 + _OTHER, 21 + _OTHER, 33 + _OTHER, [45, 46]])
_SIGNS = np.concatenate([[-1, 1, -1], [1, -1, 1], [1, -1, -1], np.tile(LEG, 6), [-1, -1]])  # half of the clock later
_POSE = np.tile([-0.1, 0.0, 0.0, 0.3, -0.2, 0.0], 2)
_KP = np.tile([100.0, 100.0, 100.0, 150.0, 40.0, 40.0], 2)
_KD = np.tile([2.0, 2.0, 2.0, 4.0, 2.0, 2.0], 2)
_SCALE = 0.25
_TORQUES = _KP * _SCALE / 25.0
"""Of actions of 1, in the units of `G1Leg`."""
_HEIGHT = 0.793
_CLOCK = 0.8


class G1(Legged):
    name: ClassVar[str] = "g1"
    observations: ClassVar[int] = 47
    substeps: ClassVar[int] = 10
    commands: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 1.0)
    commanded: ClassVar[slice] = slice(6, 9)
    push: ClassVar[float] = 1.0
    friction: ClassVar[tuple[float, float]] = (0.5, 1.25)
    load: ClassVar[tuple[float, float]] = (-1.0, 3.0)
    least_height: ClassVar[float] = 0.5
    distance: ClassVar[float] = 2.5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_space = spaces.Box(-np.inf, np.inf, (12,), np.float32)

    def _pose(self) -> Vector:
        return np.concatenate([[0.0, 0.0, _HEIGHT, 1.0, 0.0, 0.0, 0.0], _POSE])

    def _observe(self) -> Vector:
        phase = 2.0 * np.pi * self.data.time / _CLOCK
        return np.concatenate(
            [
                0.25 * self.data.qvel[3:6],
                self._turned(np.array([0.0, 0.0, -1.0])),
                self.command * (2.0, 2.0, 0.25),
                self.data.qpos[7:] - _POSE,
                0.05 * self.data.qvel[6:],
                self.last_action,
                [np.sin(phase), np.cos(phase)],
            ]
        )

    def _act(self, action: Vector) -> None:
        target = _POSE + _SCALE * action
        for _ in range(self.substeps):
            self.data.ctrl[:] = _KP * (target - self.data.qpos[7:]) - _KD * self.data.qvel[6:]
            mujoco.mj_step(self.model, self.data)

    def _velocities(self) -> tuple[Vector, Vector]:
        return self._turned(self.data.qvel[:3]), self.data.qvel[3:6].copy()


class G1Leg(G1):
    """The G1 as a policy of its left leg walks it. Two steps make one of the robot's: the first observation is its own,
    the second that in a mirror, which asks for the right leg. The reward comes with the second.

    An action is 6 torques in units of 25 N m, with which the joints are drawn out of the pose: an angle times kp. So a
    student that makes all of its errors alike makes those small that move the robot most.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self._left: NDArray[Any] | None = None

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self._left = None
        self._now, info = super().reset(**kwargs)
        return self._now, info

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self._left is None:
            self._left = action
            return mirrored(self._now), 0.0, False, False, {}
        both = both_legs(self._left, action)
        self._left = None
        self._now, *others = super().step(both)
        return self._now, *others  # type: ignore[return-value]


def mirrored(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Observations (..., 47) of the robot in a mirror, whose left leg is the right one."""
    return (observations[..., _PLACES] * _SIGNS).astype(np.float32)


def both_legs(left: NDArray[Any], mirrored_right: NDArray[Any]) -> NDArray[np.float64]:
    """The G1's action (12,), by what a policy of the left leg says of an observation, and of the same in a mirror."""
    return np.concatenate([left, LEG * mirrored_right]) / _TORQUES


def leg(observations: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the left leg does, (n, 6), as `G1Leg` takes it: by a policy of both legs without a memory, and by the same
    in a mirror, the mean.

    The policy's own two legs are not quite alike; the mean of both is, and walks as well.
    """
    policy, observations = _teacher(), np.asarray(observations, np.float32)
    seen: NDArray[np.float64] = np.asarray(policy.predict(observations)[0], np.float64)
    other = np.asarray(policy.predict(mirrored(observations))[0], np.float64)
    return _TORQUES[:6] * (seen[:, :6] + LEG * other[:, 6:]) / 2.0


@cache
def _teacher() -> policypress.Policy:
    if TEACHER not in os.environ:
        raise ValueError(f"name the .policy file of both legs in {TEACHER}")
    return policypress.load(os.environ[TEACHER])
