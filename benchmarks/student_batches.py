"""Time of a batch that a student learns from, here and in another checkout, by turns.

    git worktree add ../before COMMIT && (cd ../before && python setup.py -q build_ext --inplace)
    taskset -c 1 python benchmarks/student_batches.py ../before

Each checkout has a process that distils students in integers, their weights at a price, from a black box, and is asked
in turns; CPU time counts, so that a neighbour on the machine weighs little. Told is the median over the turns of the
other's time over ours.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from checkouts import HERE, Checkout

STUDENTS = {
    "64-48, elu, batches of 1024": [47, 6, [64, 48], "elu", 1024],
    "64-64, elu, batches of 256": [48, 12, [64, 64], "elu", 256],
    "24-24, relu, batches of 256": [17, 6, [24, 24], "relu", 256],
    "6, relu, batches of 256": [17, 6, [6], "relu", 256],
}
"""Inputs, outputs, widths, activation, observations a batch."""
WORKER = """
import json, sys, time
import numpy as np, torch
from policypress.config import CompressionConfig, DistillConfig
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl.distill import Distillation
from policypress.rl.teacher import Teacher

torch.set_num_threads(1)
BATCHES = 100

def student(inputs, outputs, hidden, activation, batch_size):
    bound = np.full(outputs, np.inf, np.float32)
    torch.manual_seed(0)
    box = torch.nn.Sequential(torch.nn.Linear(inputs, 64), torch.nn.ELU(), torch.nn.Linear(64, outputs))
    action = ActionTransform(kind="box", shape=(outputs,), low=-bound, high=bound)
    teacher = Teacher(None, ObservationTransform(shape=(inputs,), dtype="float32"), action, answers=box)
    random = np.random.default_rng(0)
    compression = CompressionConfig(
        weight_bits=8, activation_bits=8, weight_range="learned", rate_weight=0.004, quantize_start=0.0, observe=0.0
    )
    config = DistillConfig(
        compression, tuple(hidden), activation, batches=1_000_000, batch_size=batch_size, states=50_000, collections=1
    )
    met = lambda teacher, student, share, count: random.normal(size=(count, inputs)).astype(np.float32)
    return Distillation(teacher, met, config)

made = {}
for line in sys.stdin:
    if line not in made:
        made[line] = student(*json.loads(line))
        for step in range(20):
            made[line]._learn(step)
    began = time.process_time()
    for step in range(20, 20 + BATCHES):
        made[line]._learn(step)
    print((time.process_time() - began) / BATCHES, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare with, its C built in place")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    checkouts = [Checkout(path, WORKER) for path in (arguments.other, HERE)]
    try:
        print(f"{'student':32} {'here, ms':>9} {'ratio':>6}")
        for name, student in STUDENTS.items():
            pairs = [[one.ask(student) for one in checkouts] for _ in range(arguments.turns)]
            ratio = statistics.median(other / ours for other, ours in pairs)
            print(f"{name:32} {1e3 * statistics.median(ours for _, ours in pairs):9.2f} {ratio:6.2f}", flush=True)
    finally:
        for checkout in checkouts:
            checkout.close()


if __name__ == "__main__":
    main()
