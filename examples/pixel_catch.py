"""A pixel game that DQN learns in minutes: catch falling balls that the wind carries.

Importing this module registers it; with this folder on PYTHONPATH its id is ``pixel_catch:PixelCatch-v0``. Observations
are the last 4 frames, (4, 44, 44) uint8; actions move the paddle left, not at all or right; a caught ball gives 1, a
missed one -1. It is bsuite's Catch (Osband et al. 2020) with 20 balls an episode, and wind, so that one frame is not
enough.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

CELLS, PIXELS, BALLS, FRAMES = 11, 4, 20, 4


class PixelCatch(gym.Env[Any, Any]):
    observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._balls, self._paddle = 0, CELLS // 2
        self._drop()
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._paddle = min(max(self._paddle + int(action) - 1, 1), CELLS - 2)
        self._row += 1
        self._column += self._wind
        if not 0 <= self._column < CELLS:  # bounces
            self._wind = -self._wind
            self._column += 2 * self._wind
        reward = 0.0
        if self._row == CELLS - 1:
            reward = 1.0 if abs(self._column - self._paddle) <= 1 else -1.0
            self._balls += 1
            self._drop()
        return self._frame(), reward, self._balls == BALLS, False, {}

    def _drop(self) -> None:
        self._row, self._column = 0, int(self.np_random.integers(CELLS))
        self._wind = int(self.np_random.integers(-1, 2))

    def _frame(self) -> Any:
        cells = np.zeros((CELLS, CELLS), np.uint8)
        cells[self._row, self._column] = 255
        cells[-1, self._paddle - 1 : self._paddle + 2] = 128
        return cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


gym.register("PixelCatch-v0", lambda: FrameStackObservation(PixelCatch(), FRAMES, padding_type="zero"))
