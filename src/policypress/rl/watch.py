"""A policy seen at work: in a window, or off screen as pictures in a file; two of them side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from policypress.errors import ConfigError, RunError
from policypress.measure.size import size
from policypress.policy.policy import Policy
from policypress.rl.environments import (
    EnvLike,
    check_end,
    description_of,
    is_atari,
    make_env,
    name_of,
    padding_of,
)
from policypress.rl.evaluate import FINAL_SEED, Evaluation, check_spaces, environment_on_card
from policypress.rl.film import Film, Picture, check_out

_ALONE, _BESIDE = (320, 240), (240, 180)
FRAMES_A_SECOND = 20
"""About so many pictures of a simulated second are kept."""
SECONDS = 10.0
"""Simulated time that a film shows of an episode, if nothing else is said."""
_ATARI_STEPS = 15.0  # a second: 60 frames, of which four are one step
_FOLLOWS = "track"  # the camera's name in Gymnasium's models
_STEPS = 30.0  # a second, where an environment does not say


def watch(
    policy: Policy,
    env: EnvLike | None = None,
    *,
    out: Path | str | None = None,
    beside: Policy | None = None,
    episodes: int = 1,
    seed: int = FINAL_SEED,
    steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, ...]:
    """Shows ``episodes`` of ``policy`` in ``env`` (default: the one on its card), and what they returned.

    ``out``: a .gif or .mp4, or a .png or .jpg of six moments; None: a window. ``beside``: another policy, shown to the
    right in the same episodes (in the environment on its own card if ``env`` is None), and returned second. Below each
    stand its payload and its return so far. Episode i starts from ``reset(seed=seed + i)`` and is shown for ``steps``
    (default: to its end in a window, SECONDS of simulated time in a file); what is cut has not ended early.
    ``progress(done, steps)`` is called as a film's episodes go on.

    Where nothing is set and there is no display, MuJoCo draws by EGL. Raises ConfigError for an environment that cannot
    be shown, or without a display for a window, RunError where it cannot be drawn.
    """
    if episodes < 1 or seed < 0 or (steps is not None and steps < 1):
        raise ConfigError(f"episodes={episodes} and steps={steps} must be at least 1, seed={seed} not negative.")
    if out is None and beside is not None:
        raise ConfigError("two policies are shown side by side in a file: name one, for example --out beside.gif.")
    if out is None and not _display():
        raise ConfigError("there is no display for a window: name a file, for example --out walk.gif.")
    if out is not None:
        check_out(Path(out))
    policies = [policy] if beside is None else [policy, beside]
    with _drawn_off_screen(out is not None):
        stages: list[_Stage] = []
        try:
            for one in policies:
                described = environment_on_card(one) if env is None else env
                stages.append(_Stage(one, described, "human" if out is None else "rgb_array"))
            rate = stages[0].rate
            if out is None:
                for episode in range(episodes):
                    for _ in _episode(stages, seed + episode, steps):
                        pass
            else:
                limit = steps or max(1, round(SECONDS * rate))
                every = max(1, round(rate / FRAMES_A_SECOND))
                film = Film(_ALONE if beside is None else _BESIDE)
                for stage in stages:
                    stage.frame(film.size)
                for episode in range(episodes):
                    for step in _episode(stages, seed + episode, limit):
                        if step % every == 0 or all(stage.ended for stage in stages):
                            film.add([(stage.picture(), stage.caption()) for stage in stages])
                        if progress is not None:
                            progress(episode * limit + step, episodes * limit)
                film.write(Path(out), rate / every)
        finally:
            for stage in stages:
                stage.env.close()
    return tuple(stage.evaluation(seed) for stage in stages)


class _Stage:
    """A policy in its environment."""

    def __init__(self, policy: Policy, env: EnvLike, render_mode: str) -> None:
        described = description_of(env)
        padding = padding_of(policy.observation, described.frame_stack if described else 1)
        self.policy, self.name, self.bytes = policy, name_of(env), size(policy).payload_bytes
        self.env = make_env(env, training=False, padding=padding, render_mode=render_mode)
        self.rate = _ATARI_STEPS if is_atari(env) else _steps_a_second(self.env)
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.terminated: list[bool] = []
        self.ended = False
        self._drawn = (0, 0)  # the episode and the step of the picture
        check_spaces(policy, self.env, self.name)
        if render_mode == "human" and hasattr(self.env.unwrapped, "mujoco_renderer"):
            import glfw

            if not glfw.init():  # what is drawn then ends the process
                raise ConfigError("the display cannot be opened for a window: name a file, for example --out walk.gif.")

    def reset(self, seed: int) -> None:
        self._observation, _ = self.env.reset(seed=seed)
        self._state: tuple[Any, ...] | None = None
        self.returns.append(0.0)
        self.lengths.append(0)
        self.terminated.append(False)
        self.ended = False

    def step(self) -> None:
        action, self._state = self.policy.predict(self._observation, self._state)
        self._observation, reward, terminated, truncated, _ = self.env.step(action)
        self.returns[-1] += float(reward)
        self.lengths[-1] += 1
        self.terminated[-1] = terminated and not truncated
        self.ended = terminated or truncated

    def frame(self, largest: tuple[int, int]) -> None:
        """How MuJoCo draws: no pixel more than is kept, each takes time; seen from the camera that follows the robot,
        where its model has one and nobody chose another."""
        renderer = getattr(self.env.unwrapped, "mujoco_renderer", None)
        if renderer is None:
            return
        renderer.width, renderer.height = largest
        model: Any = renderer.model
        cameras = [model.camera(index).name for index in range(model.ncam)]
        if renderer.camera_id in (None, -1) and _FOLLOWS in cameras:
            renderer.camera_id = cameras.index(_FOLLOWS)

    def picture(self) -> Picture:
        """What is seen now; an episode that has ended stays as it was seen last."""
        now = len(self.lengths), self.lengths[-1]
        if now != self._drawn:
            found: Any = self.env.render()
            if not (isinstance(found, np.ndarray) and found.ndim == 3 and found.shape[2] == 3):
                raise RunError(f"{self.name} gives no picture (height, width, 3) from render(): mend the environment.")
            self._picture, self._drawn = found.astype(np.uint8), now
        return self._picture

    def caption(self) -> str:
        total = self.returns[-1]
        shown = f"{total:,.0f}" if abs(total) >= 100 else f"{total:.1f}"
        end = "  ended early" if self.terminated[-1] else ""
        return f"{self.bytes:,} bytes   return {shown}{end}"

    def evaluation(self, seed: int) -> Evaluation:
        return Evaluation(self.name, seed, tuple(self.returns), tuple(self.lengths), tuple(self.terminated))


def _episode(stages: list[_Stage], seed: int, limit: int | None) -> Iterator[int]:
    """Steps of all stages, counted from 0, until all have ended or ``limit`` steps are done."""
    for stage in stages:
        stage.reset(seed)
    step = 0
    yield step
    while step != limit and not all(stage.ended for stage in stages):
        for stage in stages:
            if not stage.ended:
                stage.step()
        step += 1
        yield step
        check_end(stages[0].name, step)


def _steps_a_second(env: Any) -> float:
    """Steps of a simulated second: MuJoCo's environments know it, others say how fast they want to be shown."""
    seconds = getattr(env.unwrapped, "dt", None)
    if isinstance(seconds, float) and seconds > 0.0 and hasattr(env.unwrapped, "mujoco_renderer"):
        return 1.0 / seconds
    return float(env.metadata.get("render_fps") or _STEPS)


def _display() -> bool:
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


@contextmanager
def _drawn_off_screen(wanted: bool) -> Iterator[None]:
    """Where nobody chose and no display is there, MuJoCo draws with EGL, pygame into memory. pygame says no hello."""
    chosen = {"PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    if wanted and not _display():
        chosen |= {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"}
    new = {name: value for name, value in chosen.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
