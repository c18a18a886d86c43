"""Unitree G1, a humanoid of 12 joints, as unitree_rl_gym runs it in MuJoCo: `--env examples.robots.g1:G1`.

Observation, 47 numbers: angular velocity of the base × 0.25 (3), direction of gravity in its frame (3), command
× (2, 2, 0.25) (3), joint angles less those of the pose (12), joint velocities × 0.05 (12), last action (12), sine and
cosine of a clock of 0.8 s (2). Action, without bounds: a quarter of it, in rad, is added to the pose's joint angles;
torques hold them there, kp (target - q) - kd dq, anew in every step of the simulation. Commands are drawn as in its
makers' training, up to 1 m/s forward and sideways and 1 rad/s, either way.
"""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from examples.robots.legged import Legged, Vector
from gymnasium import spaces

_POSE = np.tile([-0.1, 0.0, 0.0, 0.3, -0.2, 0.0], 2)
_KP = np.tile([100.0, 100.0, 100.0, 150.0, 40.0, 40.0], 2)
_KD = np.tile([2.0, 2.0, 2.0, 4.0, 2.0, 2.0], 2)
_SCALE = 0.25
_HEIGHT = 0.793
_CLOCK = 0.8


class G1(Legged):
    name: ClassVar[str] = "g1"
    observations: ClassVar[int] = 47
    substeps: ClassVar[int] = 10
    commands: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 1.0)
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
