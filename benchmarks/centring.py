"""What centred inputs are worth to students of fresh weights: bytes, missed variance and return, with and without.

    python benchmarks/centring.py --agents FOLDER [--tasks HalfCheetah-v5,Walker2d-v5] [--seeds 3] [--batches 10000]

The agents see observations as they are, of spreads from tenths to tens. Each student is 24-24 with ELU, so that it
takes no weights of its agent. "missed": what is left of the variance of the agent's actions, on the observations of
the student's own ten episodes, as the integers that are deployed; "return" is the mean of those. "as they come" is what
policypress did before (compression/centring.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import gymnasium
import numpy as np
import torch

import policypress
from policypress.compression.centring import Centring
from policypress.policy import reference
from policypress.rl.agents import open_zip
from policypress.rl.imitation import squashed
from policypress.rl.sources import Source
from policypress.rl.teacher import Teacher

AGENTS = {
    "HalfCheetah-v5": "sac-HalfCheetah-1M.zip",
    "Walker2d-v5": "sac-Walker2d-1M.zip",
    "Hopper-v5": "tqc-Hopper-1M.zip",
}
EPISODES, SEED = 10, 30_000


def student(teacher: Teacher, task: str, seed: int, batches: int, centred: bool) -> policypress.Policy:
    compression = policypress.CompressionConfig(
        weight_bits=8, weight_range="learned", rate_weight=0.005, quantize_start=0.1
    )
    config = policypress.DistillConfig(
        compression, hidden=(24, 24), hidden_activation="elu", batches=batches, learning_rate=3e-3, seed=seed
    )
    if centred:
        return policypress.compress(teacher, task, config)
    with mock.patch.object(Centring, "centre"):
        return policypress.compress(teacher, task, config)


def walked(policy: policypress.Policy, teacher: Teacher, task: str) -> tuple[float, float]:
    """The share of the variance of the agent's actions that it misses, and its mean return."""
    env, met, returns = gymnasium.make(task), list[np.ndarray](), list[float]()
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=SEED + episode)
        total, ends = 0.0, False
        while not ends:
            met.append(observation)
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
            total, ends = total + float(reward), terminated or truncated
        returns.append(total)
    states = np.stack(met)
    wanted = squashed(teacher.action, teacher.outputs(torch.from_numpy(reference.observe(teacher.observation, states))))
    missed = wanted.numpy() - policy.predict(states)[0]
    return float((missed**2).mean(0).sum() / wanted.numpy().var(0).sum()), float(np.mean(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(AGENTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | seed | inputs | payload | missed | return |\n|---|---:|---|---:|---:|---:|")
    for task in given.tasks.split(","):
        teacher = open_zip(Source(given.agents / AGENTS[task]), None, task).teacher
        for seed in range(1, given.seeds + 1):
            for centred in (False, True):
                policy = student(teacher, task, seed, given.batches, centred)
                missed, mean = walked(policy, teacher, task)
                name, size = "centred" if centred else "as they come", policypress.size(policy).payload_bytes
                print(f"| {task} | {seed} | {name} | {size} B | {100 * missed:.1f} % | {mean:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
