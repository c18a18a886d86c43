"""What two walking robots have in common: commands, pushes, other friction and masses, falls, and what is measured.

An episode is 20 s at 50 Hz. From its seed come the command, anew every 5 s, pushes (the base's horizontal velocity
changes at once, in any direction), the friction of the floor, the mass of every link, and the first joint angles.

Reward of a step, 1 at most: 2/3 exp(-|v - c|² / 0.25) + 1/3 exp(-(w - d)² / 0.25), for velocity v and command c forward
and sideways in m/s, turn w and command d in rad/s, all in the base's frame: the two terms that legged_gym (Rudin et al.
2022) weighs 1 and 0.5. So an episode returns 1000 at most, and a fall, which ends it, costs the rest.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from numpy.typing import NDArray

Vector = NDArray[np.float64]

MODELS = "POLICYPRESS_ROBOTS"
"""The variable that names the folder of the models; without it, ../shared/robots beside this repository."""
SECONDS, RATE = 20.0, 50
COMMAND_SECONDS = 5.0
"""How long a command holds."""
PUSH_SECONDS = (2.0, 5.0)
"""Between two pushes, at least and at most."""
_STANDS = 0.1  # of the commands: stand still
_SIGMA = 0.25
_UPRIGHT = 0.5  # cosine of the angle between base and upright below which it has fallen
_COLOUR = (0.85, 0.45, 0.2, 1.0)
_JOINTS = 0.05  # rad, by which the first joint angles differ from those of the pose


class Legged(gym.Env[NDArray[np.float32], NDArray[Any]], ABC):
    """A robot that is told where to walk; ``info`` of every step says how it did.

    ``tracking_error``: |v - c| in m/s; ``turn_error``: |w - d| in rad/s; ``action_change``: root mean square, over the
    joints, of how much the action differs from the one before; ``fell``.

    ``models``: the folder that holds the robot's own. ``command``: forward m/s, sideways m/s, turn rad/s, held for the
    whole episode. ``pushes``: how many times as hard as published, 0 for none. ``varied``: False leaves friction and
    masses as published. ``reach``: how many times as far as published commands reach; ``command_seconds``: how long one
    holds.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": RATE}  # type: ignore[misc]

    name: ClassVar[str]
    observations: ClassVar[int]
    substeps: ClassVar[int]
    commands: ClassVar[tuple[float, float, float]]
    """The largest of each, either way."""
    commanded: ClassVar[slice]
    """Where they stand in an observation."""
    push: ClassVar[float]
    """The largest change of velocity, in m/s."""
    friction: ClassVar[tuple[float, float]]
    """Of the floor, sliding."""
    load: ClassVar[tuple[float, float]]
    """Mass added to the base, in kg."""
    least_height: ClassVar[float]
    """Of the base, in m, below which it has fallen."""
    distance: ClassVar[float]
    """From where it is seen, in m."""

    def __init__(
        self,
        models: str | None = None,
        render_mode: str | None = None,
        command: tuple[float, float, float] | None = None,
        pushes: float = 1.0,
        varied: bool = True,
        reach: float = 1.0,
        command_seconds: float = COMMAND_SECONDS,
    ) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(folder(models) / self.name / "scene.xml"))
        self.data = mujoco.MjData(self.model)
        self._fixed, self._pushes, self._varied = command, pushes, varied
        self._reach, self._held = reach, command_seconds
        self._floor = self.model.geom("floor").id
        self.model.geom_priority[self._floor] = 1  # so that its friction counts, and not the larger of two
        self._masses, self._inertias = self.model.body_mass.copy(), self.model.body_inertia.copy()
        self._frictions = self.model.geom_friction.copy()
        self.render_mode = render_mode
        self.mujoco_renderer = None if render_mode is None else self._new_renderer()
        self.dt = 1.0 / RATE
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.observations,), np.float32)
        self.command, self.last_action = np.zeros(3), np.zeros(self.model.nu)

    @abstractmethod
    def _pose(self) -> Vector:
        """Positions (nq,) of who stands."""

    @abstractmethod
    def _observe(self) -> Vector:
        """What the policy is given."""

    @abstractmethod
    def _act(self, action: Vector) -> None:
        """``substeps`` steps of the simulation."""

    @abstractmethod
    def _velocities(self) -> tuple[Vector, Vector]:
        """Linear and angular velocity of the base in its own frame, (3,) each."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        # Always as many draws, so that an episode has the same commands with pushes and without.
        friction, load = self.np_random.uniform(*self.friction), self.np_random.uniform(*self.load)
        links = self.np_random.uniform(0.9, 1.1, self.model.nbody)
        joints = self.np_random.uniform(-_JOINTS, _JOINTS, self.model.nu)
        ranges = self._reach * np.array(self.commands)
        count = math.ceil(SECONDS / self._held)
        stands = self.np_random.random(count) < _STANDS
        self._commands = np.where(stands[:, None], 0.0, self.np_random.uniform(-ranges, ranges, (count, 3)))
        self._kicks = self._drawn_pushes()
        if self._varied:
            scale = links.copy()
            scale[1] += load / self._masses[1]
            self.model.body_mass[:] = self._masses * scale
            self.model.body_inertia[:] = self._inertias * scale[:, None]
            self.model.geom_friction[:] = self._frictions
            self.model.geom_friction[self._floor, 0] = friction
            mujoco.mj_setConst(self.model, self.data)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self._pose()
        self.data.qpos[7:] += joints
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0
        self.last_action = np.zeros(self.model.nu)
        self._told()
        return self._observe().astype(np.float32), {"command": self.command.copy()}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float64)
        if self._pushes and self._steps in self._kicks:
            self.data.qvel[:2] += self._pushes * self._kicks[self._steps]
        self._act(action)
        linear, angular = self._velocities()
        error = float(np.linalg.norm(linear[:2] - self.command[:2]))
        turn = float(abs(angular[2] - self.command[2]))
        change = float(np.sqrt(np.mean(np.square(action - self.last_action))))
        reward = (2.0 * np.exp(-(error**2) / _SIGMA) + np.exp(-(turn**2) / _SIGMA)) / 3.0
        upright = float(self.data.xmat[1][8])
        fell = upright < _UPRIGHT or float(self.data.qpos[2]) < self.least_height
        info = {
            "command": self.command.copy(),
            "velocity": np.array([linear[0], linear[1], angular[2]]),
            "tracking_error": error,
            "turn_error": turn,
            "action_change": change,
            "fell": fell,
        }
        self.last_action = action
        self._steps += 1
        self._told()
        if self.render_mode == "human":
            self.render()
        return self._observe().astype(np.float32), float(reward), fell, self._steps >= round(SECONDS * RATE), info

    def render(self) -> Any:
        return None if self.mujoco_renderer is None else self.mujoco_renderer.render(self.render_mode)

    def close(self) -> None:
        if self.mujoco_renderer is not None:
            self.mujoco_renderer.close()

    def _new_renderer(self) -> MujocoRenderer:
        """Links are shown as boxes of their inertia: the models come without what is only there to be seen."""
        self.model.vis.rgba.inertia[:] = _COLOUR
        camera = {
            "type": mujoco.mjtCamera.mjCAMERA_TRACKING,
            "trackbodyid": 1,
            "distance": self.distance,
            "elevation": -15.0,
        }
        inertia = {mujoco.mjtVisFlag.mjVIS_INERTIA: True}
        renderer = MujocoRenderer(self.model, self.data, camera, 320, 240, visual_options=inertia)
        renderer.camera_id = None  # which would be a camera of the model, or one that stands still
        return renderer

    def _drawn_pushes(self) -> dict[int, Vector]:
        """Changes of the horizontal velocity (2,) by step."""
        found, now = {}, 0.0
        while (now := now + self.np_random.uniform(*PUSH_SECONDS)) < SECONDS:
            angle, size = self.np_random.uniform(0.0, 2.0 * np.pi), self.np_random.uniform(0.0, self.push)
            found[round(now * RATE)] = size * np.array([np.cos(angle), np.sin(angle)])
        return found

    def _told(self) -> None:
        """The command that holds now."""
        place = min(int(self._steps / (self._held * RATE)), len(self._commands) - 1)
        self.command = self._commands[place] if self._fixed is None else np.array(self._fixed, np.float64)

    def _turned(self, vector: Vector) -> Vector:
        """A vector of the world in the base's frame."""
        found, inverse = np.zeros(3), np.zeros(4)
        mujoco.mju_negQuat(inverse, self.data.qpos[3:7])
        mujoco.mju_rotVecQuat(found, vector, inverse)
        return found


def folder(models: str | None = None) -> Path:
    """The folder of all robots' models."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "robots"
    found = Path(models or os.environ.get(MODELS) or beside)
    if not found.is_dir():
        raise FileNotFoundError(f"there are no models in {found}: name their folder in {MODELS}")
    return found
