"""Time from nothing to the first action: `import policypress`, `policypress.load` and one prediction, without torch.

    python benchmarks/startup.py                            # 20 fresh processes of each kind
    python benchmarks/startup.py --policy FILE --runs 50

Every run is a process of its own that times itself with the clock of the process's CPU time and of the wall; the table
gives medians. `import numpy` alone is what no policy can do without. The two kinds take turns, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, sys, time
def now(): return time.perf_counter(), time.process_time()
times = [now()]
import numpy as np
times.append(now())
if len(sys.argv) > 1:
    import policypress
    times.append(now())
    policy = policypress.load(sys.argv[1])
    times.append(now())
    policy.predict(np.zeros(policy.observation.shape, policy.observation.dtype))
    times.append(now())
    assert "torch" not in sys.modules, "something imports torch"
print(json.dumps([[1000 * (b - a) for a, b in zip(x, y)] for x, y in zip(times, times[1:])]))
"""


def run(*arguments: str) -> list[list[float]]:
    """Wall and CPU milliseconds of each step in a fresh process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    result: list[list[float]] = json.loads(
        subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Time import, load and the first prediction.")
    parser.add_argument("--policy", default=str(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy"))
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run(arguments.policy)  # writes byte code and fills caches
    alone, full = [], []
    for _ in range(arguments.runs):
        alone.append(run())
        full.append(run(arguments.policy))

    print(f"{platform.machine()}, Python {platform.python_version()}; medians of {arguments.runs} processes")
    print(f"{'ms':<34}{'wall':>8}{'CPU':>8}")
    rows = {"import numpy, alone": [run[0] for run in alone], "import numpy": [run[0] for run in full]}
    rows |= {name: [run[i] for run in full] for i, name in enumerate(("import policypress", "load", "predict"), 1)}
    rows["import policypress and load"] = [[sum(run[i][k] for i in range(3)) for k in range(2)] for run in full]
    rows["all"] = [[sum(step[k] for step in run) for k in range(2)] for run in full]
    for name, times in rows.items():
        wall, cpu = (statistics.median(time[k] for time in times) for k in range(2))
        print(f"{name:<34}{wall:>8.1f}{cpu:>8.1f}")


if __name__ == "__main__":
    main()
