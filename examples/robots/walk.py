"""A robot walks: its makers' policy, beside pressed ones from the same seeds, in a table and as an animation.

    python -m examples.robots.walk go1
    python -m examples.robots.walk go1 --policy runs/go1/policy.policy --episodes 200
    python -m examples.robots.walk g1 --command 0.5,0,0 --calm --episodes 1
    python -m examples.robots.walk go1 --policy runs/go1/policy.policy --gif walk.gif

From the root of the repository; `legged.py` beside this file says what an episode is, and where the models are looked
for. Needs onnxruntime for the Go1, torch for the G1, and what `policypress watch` needs for an animation.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # before MuJoCo is imported

from examples.robots.g1 import G1, both_legs, mirrored
from examples.robots.go1 import Go1
from examples.robots.legged import RATE, Legged, folder

import policypress

ROBOTS: dict[str, type[Legged]] = {"go1": Go1, "g1": G1}
FILES = {"go1": "policy.onnx", "g1": "motion.pt"}
"""The policies of their makers."""
SEED = 1000
FRAMES, SHOWN_SECONDS = 12, 8.0


class Walker(Protocol):
    """What walks: it may keep a state, which ``reset`` forgets."""

    def reset(self) -> None: ...

    def act(self, observation: NDArray[np.float32]) -> NDArray[Any]: ...


class Go1Original:
    """MuJoCo Playground's network, through onnxruntime."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder() / "go1" / FILES["go1"]), options)

    def reset(self) -> None:
        pass

    def act(self, observation: NDArray[np.float32]) -> NDArray[Any]:
        return self._session.run(None, {"obs": observation[None]})[0][0]


class G1Original:
    """Unitree's LSTM, through TorchScript; its state lives in the module."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._module = torch.jit.load(str(folder() / "g1" / FILES["g1"]))

    def reset(self) -> None:
        self._module.hidden_state.zero_()
        self._module.cell_state.zero_()

    def act(self, observation: NDArray[np.float32]) -> NDArray[Any]:
        with self._torch.no_grad():
            return self._module(self._torch.from_numpy(observation)[None])[0].numpy()


ORIGINALS: dict[str, Callable[[], Walker]] = {"go1": Go1Original, "g1": G1Original}


class Pressed:
    """A policy of policypress."""

    def __init__(self, policy: policypress.Policy) -> None:
        self._policy = policy

    def reset(self) -> None:
        self._state: Any = None

    def act(self, observation: NDArray[np.float32]) -> NDArray[Any]:
        action, self._state = self._policy.predict(observation, self._state)
        return action


class Leg:
    """A policy of policypress for the left leg of a G1, asked twice."""

    def __init__(self, policy: policypress.Policy) -> None:
        self._policy = policy

    def reset(self) -> None:
        pass

    def act(self, observation: NDArray[np.float32]) -> NDArray[Any]:
        return both_legs(*self._policy.predict(np.stack([observation, mirrored(observation)]))[0])


def pressed(policy: policypress.Policy) -> Walker:
    """What walks by a policy of both legs, or of one."""
    return Leg(policy) if asked(policy) == 2 else Pressed(policy)


def asked(policy: policypress.Policy) -> int:
    """How often a policy is asked for one action of the robot."""
    return 2 if policy.action.shape == (6,) else 1


@dataclass(frozen=True)
class Episode:
    """What one was like; errors and changes are means of its steps, ``reward`` is its return."""

    seed: int
    seconds: float
    fell: bool
    tracking_error: float
    turn_error: float
    action_change: float
    reward: float


MEANS = ("tracking_error", "turn_error", "action_change")


def walk(env: Legged, walker: Walker, seed: int) -> Episode:
    """An episode from ``reset(seed=seed)``."""
    walker.reset()
    observation, _ = env.reset(seed=seed)
    found: dict[str, list[float]] = {name: [] for name in MEANS}
    total, ended = 0.0, False
    while not ended:
        observation, reward, fell, over, info = env.step(walker.act(observation))
        for name, values in found.items():
            values.append(info[name])
        total, ended = total + reward, fell or over
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return Episode(seed, len(found[MEANS[0]]) / RATE, bool(fell), reward=total, **means)


def table(walked: dict[str, Sequence[Episode]]) -> str:
    """A row for each that walked."""
    head = "| who | episodes | falls | tracking error, m/s | turn error, rad/s | change of action | return |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, episodes in walked.items():
        errors = " | ".join(f"{np.mean([getattr(one, mean) for one in episodes]):.3f}" for mean in MEANS)
        falls, total = sum(one.fell for one in episodes), np.mean([one.reward for one in episodes])
        rows.append(f"| {name} | {len(episodes)} | {falls} | {errors} | {total:.1f} |")
    return "\n".join(rows)


def animate(robot: str, walkers: dict[str, Walker], out: Path, seed: int, seconds: float, **settings: Any) -> None:
    """All of them side by side in the same episode, to a .gif, .mp4 or .png."""
    from policypress.rl.film import Film, check_out

    check_out(out)
    film, every = Film((240, 180)), round(RATE / FRAMES)
    envs = {name: ROBOTS[robot](render_mode="rgb_array", **settings) for name in walkers}
    observations, errors, over = {}, {name: [] for name in walkers}, dict.fromkeys(walkers, "")
    for name, env in envs.items():
        walkers[name].reset()
        observations[name], _ = env.reset(seed=seed)
    for step in range(round(seconds * RATE)):
        if step % every == 0:
            captions = {n: f"{n}   {np.mean(errors[n] or 0.0):.2f} m/s off{over[n]}" for n in walkers}
            film.add([(np.asarray(env.render(), np.uint8), captions[name]) for name, env in envs.items()])
        for name, env in envs.items():
            if over[name]:
                continue
            observations[name], _, fell, _, info = env.step(walkers[name].act(observations[name]))
            errors[name].append(info["tracking_error"])
            over[name] = "   fell" if fell else ""
    for env in envs.values():
        env.close()
    film.write(out, RATE / every)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("robot", choices=ROBOTS)
    parser.add_argument("--policy", type=Path, action="append", default=[], help="a .policy file; repeat")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=SEED, help="episode i starts from reset(seed=seed + i)")
    parser.add_argument("--command", help="forward m/s, sideways m/s, turn rad/s, for whole episodes; default: random")
    parser.add_argument("--pushes", type=float, default=1.0, help="how many times as hard as published; default: 1")
    parser.add_argument("--calm", action="store_true", help="without pushes, friction and masses as published")
    parser.add_argument("--gif", type=Path, help="all side by side in the first episode: a .gif, .mp4 or .png")
    parser.add_argument("--seconds", type=float, default=SHOWN_SECONDS, help="of the animation")
    given = parser.parse_args(None if arguments is None else list(arguments))
    settings: dict[str, Any] = {"pushes": 0.0 if given.calm else given.pushes, "varied": not given.calm}
    if given.command:
        settings["command"] = tuple(float(value) for value in given.command.split(","))
    walkers: dict[str, Walker] = {"original": ORIGINALS[given.robot]()}
    walkers |= {file.parent.name or file.name: pressed(policypress.load(file)) for file in given.policy}
    env, seeds = ROBOTS[given.robot](**settings), range(given.seed, given.seed + given.episodes)
    print(table({name: [walk(env, walker, seed) for seed in seeds] for name, walker in walkers.items()}))
    if given.gif is not None:
        animate(given.robot, walkers, given.gif, given.seed, given.seconds, **settings)
        print(f"{given.gif}  {given.gif.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
