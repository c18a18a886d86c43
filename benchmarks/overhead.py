"""Cost of compression: training steps per second against plain Stable-Baselines3, alternating in one run.

Three SAC agents on HalfCheetah-v5 (17-256-256-6, batch 256) take turns of ``--chunk`` environment steps: plain
Stable-Baselines3, one that is being pruned (the masks change every few steps), and one that computes in integers.
CPU time of this process is measured, so that a neighbour on the machine does not decide the ratio. With ``--methods``
it is one agent for each way of pruning, all of them while they prune, and for each way of learning values.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --methods --sparsity 0.9
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from policypress.config import CompressionConfig, ValueConfig
from policypress.rl import CompressionCallback, ValueCallback
from policypress.rl.environments import make_env

WARM_UP = 400
NOMINAL_STEPS = 1_000_000
"""The run whose middle is timed: pruning strides are as far apart as in a run of this length."""


def sac() -> BaseAlgorithm:
    return SAC("MlpPolicy", "HalfCheetah-v5", learning_starts=200, buffer_size=20_000, seed=1)


def dqn() -> BaseAlgorithm:
    env = make_env("BoxingNoFrameskip-v4", training=True)
    # Few random actions, as late in a run: choosing one costs a pass of the network.
    return DQN(
        "CnnPolicy",
        env,
        learning_starts=200,
        buffer_size=2_000,
        target_update_interval=1_000,
        exploration_initial_eps=0.05,
        seed=1,
    )


AGENTS = {"sac": sac, "dqn": dqn}
TARGETS = {"pruning": 0.95, "quantizing": 0.85}


Ways = dict[str, list[BaseCallback]]
"""Callbacks of agents, by name."""


def methods(sparsity: float) -> Ways:
    """Each way of pruning, from the first to the last step; patterns have a sparsity of their own. Behind them, without
    pruning, how values are learned."""
    ways: dict[str, dict[str, Any]] = {
        **{name: {"pruning": name} for name in ("gradual", "static", "set", "rigl", "rewind")},
        **{name: {"criterion": name} for name in ("movement", "flow", "snip", "activation")},
        **{name: {"structure": name} for name in ("units", "block4")},
        "2:4": {"structure": "2:4", "sparsity": 0.5},
        "critics too": {"critic_sparsity": sparsity},
    }
    window = {"prune_start": 0.0, "prune_end": 1.0}
    values = {
        "3 steps": ValueConfig(target_steps=3, target_start=0.0),
        "forgetting": ValueConfig(buffer_distance=0.2),
        "optimism": ValueConfig(optimism=1.0),
    }
    return (
        {"plain": []}
        | {name: [pruned(**{"sparsity": sparsity, **window, **way})] for name, way in ways.items()}
        | {name: [ValueCallback(config, NOMINAL_STEPS)] for name, config in values.items()}
    )


def pruned(**config: Any) -> BaseCallback:
    return CompressionCallback(CompressionConfig(**config), NOMINAL_STEPS)


def configs(sparsity: float) -> Ways:
    # Pruning from the first to the last step; quantizing a network pruned already, as at the end of a run.
    quantizing = pruned(
        sparsity=sparsity,
        schedule="constant",
        prune_start=0.0,
        prune_end=300 / NOMINAL_STEPS,
        weight_bits=8,
        quantize_start=350 / NOMINAL_STEPS,
        observe=100 / NOMINAL_STEPS,
    )
    return {
        "plain": [],
        "pruning": [pruned(sparsity=sparsity, prune_start=0.0, prune_end=1.0)],
        "quantizing": [quantizing],
    }


def measure(algo: str, of: Ways, chunk: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every turn, by the name of the agent."""
    agents = {name: (AGENTS[algo](), callbacks) for name, callbacks in of.items()}
    seconds: dict[str, list[float]] = {name: [] for name in agents}
    for turn in range(rounds + 1):
        for name, (model, callbacks) in agents.items():
            # SB3 takes the steps of one call as the whole run; the windows refer to NOMINAL_STEPS.
            steps = chunk if turn else WARM_UP
            started = time.process_time()
            model.learn(
                NOMINAL_STEPS,
                callback=[*callbacks, _Stop(model.num_timesteps + steps)],
                reset_num_timesteps=turn == 0,
            )
            if turn:
                seconds[name].append(time.process_time() - started)
    return seconds


class _Stop(BaseCallback):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        return self.num_timesteps < self.at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=sorted(AGENTS), default="sac")
    parser.add_argument("--sparsity", type=float, default=0.98)
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--methods", action="store_true", help="each way of pruning, instead of pruning and quantizing")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    of = (methods if arguments.methods else configs)(arguments.sparsity)
    seconds = measure(arguments.algo, of, arguments.chunk, arguments.rounds)
    plain = np.array(seconds["plain"])
    report = {
        name: {
            "steps_per_cpu_second": arguments.chunk * arguments.rounds / sum(seconds[name]),
            "ratio": float(np.median(plain / np.array(seconds[name]))),
            "target": TARGETS.get(name, TARGETS["pruning"]),
        }
        for name in of
        if name != "plain"
    }
    report["plain"] = {"steps_per_cpu_second": arguments.chunk * arguments.rounds / float(plain.sum())}
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{arguments.algo}, sparsity {arguments.sparsity}, {arguments.rounds} turns of {arguments.chunk} steps each")
    print(f"{'agent':12} {'steps/CPU s':>12} {'of plain':>9} {'aim':>6}")
    print(f"{'plain':12} {report['plain']['steps_per_cpu_second']:12.1f} {1:9.1%}")
    for name, row in report.items():
        if name == "plain":
            continue
        print(f"{name:12} {row['steps_per_cpu_second']:12.1f} {row['ratio']:9.1%} {row['target']:6.0%}")


if __name__ == "__main__":
    main()
