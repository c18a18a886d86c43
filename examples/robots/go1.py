"""Unitree Go1, a quadruped, as MuJoCo Playground (Zakka et al. 2025) has it: `--env examples.robots.go1:Go1`.

Observation, 48 numbers: linear velocity (3) and gyro (3) of the base, direction of gravity in its frame (3), joint
angles less those of the pose (12), joint velocities (12), last action (12), command (3). Action, [-1, 1]: half of it,
in rad, is added to the pose's joint angles, which motors in the model go to. Commands are drawn as in its makers'
training, up to 1.5 m/s forward, 0.8 m/s sideways, 1.2 rad/s, either way.
"""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from examples.robots.legged import Legged, Vector
from gymnasium import spaces

_SCALE = 0.5


class Go1(Legged):
    name: ClassVar[str] = "go1"
    observations: ClassVar[int] = 48
    substeps: ClassVar[int] = 5
    commands: ClassVar[tuple[float, float, float]] = (1.5, 0.8, 1.2)
    commanded: ClassVar[slice] = slice(45, 48)
    push: ClassVar[float] = 1.0
    friction: ClassVar[tuple[float, float]] = (0.4, 1.0)
    load: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    least_height: ClassVar[float] = 0.15
    distance: ClassVar[float] = 1.4

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_space = spaces.Box(-1.0, 1.0, (12,), np.float32)

    def _pose(self) -> Vector:
        return self.model.keyframe("home").qpos

    def _observe(self) -> Vector:
        linear, gyro = self._velocities()
        gravity = self.data.site("imu").xmat.reshape(3, 3).T @ np.array([0.0, 0.0, -1.0])
        joints = self.data.qpos[7:] - self._pose()[7:]
        return np.concatenate([linear, gyro, gravity, joints, self.data.qvel[6:], self.last_action, self.command])

    def _act(self, action: Vector) -> None:
        self.data.ctrl[:] = self._pose()[7:] + _SCALE * action
        mujoco.mj_step(self.model, self.data, self.substeps)

    def _velocities(self) -> tuple[Vector, Vector]:
        return self.data.sensor("local_linvel").data.copy(), self.data.sensor("gyro").data.copy()
