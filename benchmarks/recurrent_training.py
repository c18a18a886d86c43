"""Milliseconds that a batch takes when a student that remembers is distilled over sequences.

    taskset -c 1 python benchmarks/recurrent_training.py
    taskset -c 1 python benchmarks/recurrent_training.py --memory gru:16 --profile

Each row is a whole distillation in miniature, of batches of 11 pieces of 32 steps: drawing the pieces, the student's
way through them, the loss, the gradient and the optimizer. Told is the median of the batches that compute in float and
of those that compute in integers, with the cells in C (``compression/_kernels.c``) and, by turns, with torch's
operators step after step in their place. CPU time of this process is measured, so that a neighbour on the machine
does not decide.
"""

from __future__ import annotations

import argparse
import cProfile
import math
import pstats
import statistics
import time
from itertools import pairwise
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from policypress.compression import kernels, recurrent
from policypress.config import CompressionConfig
from policypress.measure.machine import lines, machine
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl.sequences import SequenceConfig, SequenceDistillation
from policypress.rl.teacher import Teacher

FEATURES, ACTIONS = 17, 6
QUANTIZE = 0.5  # of the batches: from there on integers


class Noise(gymnasium.Env[Any, Any]):
    """Episodes of 50 steps in which nothing depends on what is done."""

    observation_space = spaces.Box(-9, 9, (FEATURES,), np.float32)
    action_space = spaces.Box(-1, 1, (ACTIONS,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._seen(), 0.0, self._steps == 50, False, {}

    def _seen(self) -> Any:
        return self.np_random.normal(size=FEATURES).astype(np.float32)


def milliseconds(memory: str, batches: int, rate_weight: float) -> dict[str, float]:
    """Of a batch, for each phase."""
    torch.manual_seed(0)
    bound = np.ones(ACTIONS, np.float32)
    action = ActionTransform("box", (ACTIONS,), low=-bound, high=bound)
    weight = torch.randn(FEATURES, ACTIONS)
    teacher = Teacher(None, ObservationTransform((FEATURES,), "float32"), action, answers=lambda x: (x @ weight).tanh())
    compression = CompressionConfig(
        sparsity=0.3, weight_bits=4, prune_iterations=6, quantize_start=QUANTIZE, rate_weight=rate_weight
    )
    config = SequenceConfig(compression, batches=batches, pieces=11, states=8_000, collections=1)
    modules, width = recurrent.remembering(memory, FEATURES)
    work = SequenceDistillation(teacher, nn.Sequential(*modules, nn.Linear(width, ACTIONS)), Noise, config)
    ends = [time.process_time()]
    work.run(lambda done, of, loss: ends.append(time.process_time()))
    work.close()
    taken = [1e3 * (end - begin) for begin, end in pairwise(ends)]
    half = round(QUANTIZE * batches)
    return {"float": statistics.median(taken[:half]), "integers": statistics.median(taken[half:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", nargs="+", default=["gru:16", "lstm:16", "gru:32"])
    parser.add_argument("--batches", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3, help="of both, by turns; the least of their medians is told")
    parser.add_argument("--rate-weight", type=float, default=0.0, help="price of bits")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for line in lines(machine()):
        print(line)
    if options.profile:
        for memory in options.memory:
            with cProfile.Profile() as profile:
                milliseconds(memory, options.batches, options.rate_weight)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    print("\n| student | phase | steps by torch, ms | kernel, ms | ratio |\n|---|---|---|---|---|")
    for memory in options.memory:
        found: dict[bool, dict[str, float]] = {served: {} for served in (False, True)}
        for _ in range(options.rounds):
            for served, least in found.items():
                with mock.patch.object(kernels, "fit", kernels.fit if served else lambda *_: False):
                    for phase, taken in milliseconds(memory, options.batches, options.rate_weight).items():
                        least[phase] = min(least.get(phase, math.inf), taken)
        for phase, kernel in found[True].items():
            steps = found[False][phase]
            print(f"| {memory} | {phase} | {steps:.2f} | {kernel:.2f} | {steps / kernel:.1f} |")


if __name__ == "__main__":
    main()
