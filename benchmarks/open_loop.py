"""What acting without looking can return: open-loop oscillators, a baseline of some twenty bytes.

    python benchmarks/open_loop.py                         # all five tasks, those of the CSV left out; half an hour
    python benchmarks/open_loop.py --env Hopper-v5 --minutes 1

Raffin, Sigaud, Kober, Albu-Schäffer, Silvério and Stulp 2023, "An Open-Loop Baseline for Reinforcement Learning
Locomotion Tasks" (arXiv 2310.05808, section 3): each joint i is asked to be at

    q_i(t) = a_i sin(theta_i(t) + phi_i) + b_i,    d theta_i / dt = w_swing if sin(theta_i + phi_i) > 0 else w_stance

and a controller turns that into the action clip(kp (q_i - joint_i) - kd velocity_i, -1, 1). Nothing else of the
observation is used. Here kp and kd are searched and counted too (the paper gives them), phi_0 is 0: 3 n + 3 numbers for
n joints. Every number is one byte, in steps that are the same for all tasks, and is rounded before it is tried; the
offsets' search starts from the robot's first pose, amplitudes from 0.

CMA-ES (Hansen's ``cma``; restarts with twice the population, Auger and Hansen 2005) maximizes the return of one episode
a candidate, the same one for all of a generation. The means of its latest generations, and the pose that it starts
from, are compared on seeds from 5000; the best of them is measured on seeds from 1000. A row of the CSV is written when
its task is finished, and is not made again. ``steps`` are those of the search and the comparison.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cma
import numpy as np

from policypress.files import replace_file
from policypress.measure.returns import summary
from policypress.rl.environments import make_env

TASKS = ("HalfCheetah-v5", "Swimmer-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5")
OUT = Path(__file__).parents[1] / "docs" / "frontier" / "open_loop.csv"
COLUMNS = (
    "env", "parameters", "bytes", "mean", "low", "high", "std", "worst_tenth", "ended_early", "episodes", "steps",
    "generations", "codes",
)  # fmt: skip
EPISODE = 1000
SIGMA = 0.5
EVERY, LAST = 10, 6
"""Generations between candidates, and how many of them, the latest, are compared."""
SEARCH_SEED, CHOICE_SEED, FINAL_SEED = 10_000, 5000, 1000
CHOICE_EPISODES = 10
OMEGA, ANGLE, PHASE, KP, KD = 1 / 4, 1 / 64, 2 * math.pi / 256, 1 / 32, 1 / 512
"""What one step of a byte means: rad/s, rad, rad, action per rad, action per rad/s."""


class Task:
    """An environment, the joints that its actions drive, and the environment steps spent in it."""

    def __init__(self, name: str) -> None:
        self.env: Any = make_env(name, training=False).unwrapped
        model = self.env.model
        joints = model.actuator_trnid[:, 0]
        self.positions, self.velocities = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self.joints, self.first_pose = len(joints), self.env.init_qpos[self.positions]
        self.steps = 0

    def close(self) -> None:
        self.env.close()

    def episode(self, policy: Oscillators, seed: int) -> tuple[float, bool]:
        """Return of an episode, and whether the environment ended it before."""
        env, data = self.env, self.env.data
        env.reset(seed=seed)
        theta, total = np.zeros(self.joints), 0.0
        for _ in range(EPISODE):
            wave = np.sin(theta + policy.phase)
            error = policy.amplitude * wave + policy.offset - data.qpos[self.positions]
            action = policy.kp * error - policy.kd * data.qvel[self.velocities]
            _, reward, terminated, _, _ = env.step(action.clip(-1.0, 1.0))
            theta += env.dt * np.where(wave > 0.0, policy.swing, policy.stance)
            total += float(reward)
            self.steps += 1
            if terminated:
                return total, True
        return total, False


class Oscillators:
    """What the bytes ``codes`` say: swing, stance, kp, kd (0 to 255), amplitudes, offsets (-128 to 127), and the
    phases (0 to 255) of all joints but the first."""

    def __init__(self, codes: tuple[int, ...]) -> None:
        joints = (len(codes) - 3) // 3
        values = np.array(codes, np.float64)
        self.codes = codes
        self.swing, self.stance, self.kp, self.kd = values[:4] * [OMEGA, OMEGA, KP, KD]
        self.amplitude, self.offset = values[4 : 4 + 2 * joints].reshape(2, joints) * ANGLE
        self.phase = np.concatenate([[0.0], values[4 + 2 * joints :] * PHASE])


def rounded(x: np.ndarray[Any, Any], task: Task) -> Oscillators:
    """The policy of a point of the search, whose coordinates are about 1 in size: 12 rad/s, a gain of 1, a damping of
    0.05, amplitudes of 0 and the robot's first pose at 0."""
    n = task.joints
    positive = np.array([12 / OMEGA, 12 / OMEGA, 1 / KP, 0.05 / KD]) * np.exp(0.5 * x[:4])
    amplitude, offset = 0.5 * x[4 : 4 + n] / ANGLE, (task.first_pose + 0.3 * x[4 + n : 4 + 2 * n]) / ANGLE
    signed = np.concatenate([amplitude, offset])
    phases = np.rint(2.0 * x[4 + 2 * n :] / PHASE) % 256
    codes = [*np.rint(positive).clip(0, 255), *np.rint(signed).clip(-128, 127), *phases]
    return Oscillators(tuple(int(code) for code in codes))


def search(task: Task, seconds: float, seed: int) -> tuple[list[Oscillators], int]:
    """Candidates for the best policy, the first of them what the search starts from, and how many generations came."""
    start, generation, size = time.monotonic(), 0, 3 * task.joints + 3
    popsize = 4 + int(3 * math.log(size))
    middle = np.zeros(size)
    found = [rounded(middle, task)]
    while time.monotonic() < start + seconds:
        options = {"popsize": popsize, "seed": seed + generation + 1, "verbose": -9, "tolflat": 50}
        es = cma.CMAEvolutionStrategy(np.zeros(size), SIGMA, options)
        while not es.stop() and (spent := time.monotonic() - start) < seconds:
            points = es.ask()
            returns = [task.episode(rounded(point, task), SEARCH_SEED + generation)[0] for point in points]
            es.tell(points, [-value for value in returns])
            middle = es.result.xfavorite
            generation += 1
            if generation % EVERY == 0:
                found.append(rounded(middle, task))
                print(f"  {spent:4.0f} s, {task.steps:,} steps: {max(returns):,.0f}", flush=True)
        found.append(rounded(middle, task))
        popsize *= 2
    return found, generation


def measure(name: str, minutes: float, episodes: int, seed: int) -> dict[str, Any]:
    """A row of the CSV."""
    task = Task(name)
    found, generations = search(task, 60 * minutes, seed)

    def mean(policy: Oscillators) -> float:
        return float(np.mean([task.episode(policy, CHOICE_SEED + i)[0] for i in range(CHOICE_EPISODES)]))

    best = max([found[0], *found[-LAST:]], key=mean)
    spent = task.steps
    returns, ends = zip(*(task.episode(best, FINAL_SEED + i) for i in range(episodes)), strict=True)
    task.close()
    figures = {key: f"{value:.1f}" for key, value in summary(returns).items()}
    return {
        "env": name,
        "parameters": len(best.codes),
        "bytes": len(best.codes),
        **{key: figures[key] for key in COLUMNS if key in figures},
        "ended_early": f"{np.mean(ends):.2f}",
        "episodes": episodes,
        "steps": spent,
        "generations": generations,
        "codes": " ".join(map(str, best.codes)),
    }


def kept(path: Path) -> Iterator[dict[str, Any]]:
    """The rows that are there already."""
    if path.exists():
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", action="append", choices=TASKS, help="a task; repeat (default: all)")
    parser.add_argument("--minutes", type=float, default=5.0, help="time of a task's search (default: 5)")
    parser.add_argument("--episodes", type=int, default=100, help="episodes that measure (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of CMA-ES (default: 0)")
    parser.add_argument("--out", type=Path, default=OUT, help="the CSV (default: docs/frontier/open_loop.csv)")
    given = parser.parse_args()
    rows = list(kept(given.out))
    for name in given.env or TASKS:
        if any(row["env"] == name for row in rows):
            print(f"{name}: in {given.out.name} already")
            continue
        print(name, flush=True)
        rows.append(measure(name, given.minutes, given.episodes, given.seed))
        with replace_file(given.out) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print({key: rows[-1][key] for key in COLUMNS if key != "codes"}, flush=True)


if __name__ == "__main__":
    main()
