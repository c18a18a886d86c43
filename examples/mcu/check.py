"""A policy on a microcontroller: record, export, build, run under QEMU, compare with the reference bit for bit.

    python examples/mcu/check.py results/HalfCheetah-v5/keep-cheetah/policy.policy --target cortex-m4 --target cortex-m0

Records observations by running the policy in its environment; ``--observations FILE`` takes recorded ones instead
(half-cheetah.npz beside this script, or any array saved by NumPy). Exit code 1 if an action differs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import policypress as pp
from policypress.errors import PolicypressError
from policypress.measure.microcontroller import TARGETS, measure_on_target
from policypress.policy.policy import Policy
from policypress.tables import target_table


def record(policy: Policy, env_id: str, count: int, seed: int) -> NDArray[Any]:
    """``count`` observations of ``policy`` acting in ``env_id``, episode after episode."""
    from policypress.rl.environments import make_env

    env = make_env(env_id, training=False)
    observation, _ = env.reset(seed=seed)
    seen = []
    while len(seen) < count:
        seen.append(np.array(observation))
        observation, _, terminated, truncated, _ = env.step(policy.predict(seen[-1])[0])
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return np.stack(seen)


def load(path: Path) -> NDArray[Any]:
    """The array in a .npy file, or the first one in a .npz file."""
    found = np.load(path)
    return found if isinstance(found, np.ndarray) else found[found.files[0]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="a .policy file")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="once for each; default: all")
    parser.add_argument("--count", type=int, default=1000, help="observations to record (1000)")
    parser.add_argument("--env", help="Gymnasium's id; default: the one that the policy was trained in")
    parser.add_argument("--seed", type=int, default=1, help="of the environment (1)")
    parser.add_argument("--observations", type=Path, help="recorded observations, instead of an environment")
    parser.add_argument("--integer-only", action="store_true", help="the export without floats: codes in, sums out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        policy = pp.load(arguments.policy)
        if arguments.observations:
            observations = load(arguments.observations)
        else:
            env_id = arguments.env or policy.provenance["env"]
            observations = record(policy, env_id, arguments.count, arguments.seed)
        reports = [
            measure_on_target(policy, target, observations, integer_only=arguments.integer_only)
            for target in arguments.target or TARGETS
        ]
    except PolicypressError as error:
        parser.exit(2, f"{error}\n")
    if arguments.json:
        print(json.dumps([report.as_dict() for report in reports], indent=1))
    else:
        Console().print(target_table(reports))
    return int(any(report.differing for report in reports))


if __name__ == "__main__":
    raise SystemExit(main())
