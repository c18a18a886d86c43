"""Time of an action here and in another checkout, by turns: no row may take longer than before.

    git worktree add ../before COMMIT && (cd ../before && python setup.py -q build_ext --inplace)
    taskset -c 1 python benchmarks/before_and_after.py ../before

Both checkouts have a process that opens the same policy files: the stored ones, and random networks of usual sizes. The
two are asked in turns, a tenth of a second each, so that whatever else the machine does hits both alike. Told is the
median over the turns of the other's time over ours, for one observation and for a batch: below 1 we are slower. A row
that falls below 0.97 is timed again with four times the turns: what the machine did for a second is no verdict. Exit
code 1 if one still does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkouts import HERE, Checkout
from timed_policies import Random

from policypress.policy.policy import Policy
from policypress.testing import stored_policies

BATCH, SECONDS, LEAST = 256, 0.1, 0.97
WORKER = """
import json, sys, time
import numpy as np
import policypress as pp
from policypress.policy.policy import Policy

def seconds(call, x, least):
    calls = 1
    while True:
        started = time.perf_counter()
        for _ in range(calls):
            call(x)
        took = time.perf_counter() - started
        if took >= least:
            return took / calls
        calls = max(2 * calls, int(1.2 * calls * least / max(took, 1e-9)))

opened = {}
for line in sys.stdin:
    path, batch, least = json.loads(line)
    if path not in opened:
        opened[path] = Policy.load(path)
    observation = opened[path].observation
    shape = observation.shape if batch == 1 else (batch, *observation.shape)
    x = np.ones(shape, observation.dtype)
    print(json.dumps(seconds(opened[path].predict, x, least)), flush=True)
"""


def policies(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of what is timed."""
    made: dict[str, Policy] = {}
    for sparsity in (0.98, 0.9, 0.0):
        for numerics in ("integer", "weight-only"):
            made[f"17-256-256-6 {sparsity:.0%} {numerics}"] = Random(sparsity, numerics).actor(17, 256, 256, 6)  # type: ignore[arg-type]
    made["17-24-24-6 dense"] = Random(0.0, "integer").actor(17, 24, 24, 6)
    for sparsity in (0.9, 0.0):
        made[f"Nature CNN {sparsity:.0%}"] = Random(sparsity, "integer").nature()
    for index, (name, policy) in enumerate(made.items()):
        file = folder / f"{index}.policy"
        policy.save(file)
        yield name, file
    yield from stored_policies(HERE / "results").items()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare with, its C built in place")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--only", default="", help="names that contain this")
    arguments = parser.parse_args()
    worst, checkouts = float("inf"), [Checkout(path, WORKER) for path in (arguments.other, HERE)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{'policy':44} {'here, us':>9} {'one':>6} {f'of {BATCH}':>7}")
            for name, file in policies(Path(folder)):
                if arguments.only in name:
                    found: list[Any] = [_ratio(checkouts, file, batch, arguments.turns) for batch in (1, BATCH)]
                    if min(ratio for ratio, _ in found) < LEAST:
                        found = [_ratio(checkouts, file, batch, 4 * arguments.turns) for batch in (1, BATCH)]
                    worst = min(worst, *(ratio for ratio, _ in found))
                    print(f"{name:44} {found[0][1] * 1e6:9.2f} {found[0][0]:6.3f} {found[1][0]:7.3f}", flush=True)
    finally:
        for checkout in checkouts:
            checkout.close()
    print(f"least: {worst:.3f}, and at least {LEAST} it must be")
    return int(worst < LEAST)


def _ratio(checkouts: list[Checkout], file: Path, batch: int, turns: int) -> tuple[float, float]:
    """Median over the turns of the other's time over ours, and our median time in seconds."""
    pairs = []
    for turn in range(turns + 1):
        order = checkouts if turn % 2 else checkouts[::-1]
        times = {id(checkout): checkout.ask([str(file), batch, SECONDS]) for checkout in order}
        pairs.append([times[id(checkout)] for checkout in checkouts])
    pairs = pairs[1:]  # the first made the engines
    return statistics.median(other / ours for other, ours in pairs), statistics.median(ours for _, ours in pairs)


if __name__ == "__main__":
    sys.exit(main())
