"""Environment steps a second of rollouts of a frozen policy, beside those of the bare environment in the same run.

    python benchmarks/rollouts.py results/HalfCheetah-v5/cheetah-1M-24-24-1/policy.policy [--rounds 5]

The bare environment is stepped as ``gymnasium.make`` gives it, with the actions that the policy took: the same states,
and nothing to compute for them. Both are timed by turns; processor time, of one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium

import policypress as pp
from policypress.rl.environments import make_env, play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for file in arguments.policies:
        policy = pp.load(file)
        name = policy.provenance["env"]
        ours, bare = make_env(name, training=False), gymnasium.make(name)
        taken: list[Any] = []

        def remembered(observation: Any, policy: Any = policy, taken: list[Any] = taken) -> Any:
            action, state = policy.predict(observation)
            taken.append(action)
            return action, state

        play(ours, remembered, seed=1)
        ratios, speeds = [], []
        for _ in range(arguments.rounds):
            begun = time.process_time()
            bare.reset(seed=1)
            for action in taken:
                bare.step(action)
            between = time.process_time()
            play(ours, policy.predict, seed=1)
            ended = time.process_time()
            ratios.append((between - begun) / (ended - between))
            speeds.append(len(taken) / (ended - between))
        print(f"{file}: {median(speeds):,.0f} steps a second, {median(ratios):.2f} of the bare environment")


if __name__ == "__main__":
    main()
