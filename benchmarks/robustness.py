"""Does compression make policies more robust? Dense, 90 %, 98 %, narrow and smallest policies under disturbances.

    python -m benchmarks.robustness press --agents FOLDER            # what the repository lacks
    python -m benchmarks.robustness measure --agents FOLDER [--task Walker2d-v5] [--kinds noise,flash] [--episodes 100]
    python -m benchmarks.robustness report

From the root of the repository. ``--agents``: the folder with Stable-Baselines3's zips that ``AGENTS`` names.

- ``press`` distils students of 90 % and 98 % sparsity from them, as large as they are, by `policypress compress`.
- ``measure`` plays every policy of a task under every disturbance (policypress.robustness), the same seeds for all,
  into runs/robustness/TASK; called again it goes on, and repeats no point that is there. It prints the processor time.
- ``report`` writes docs/robustness/TASK.csv and prints what each policy keeps of its own undisturbed return, the mean
  over the levels of each kind; and at how many points it keeps more, or less, than the dense policy does of its own,
  with 95 % intervals that do not meet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import policypress
from policypress.config import Environment
from policypress.files import write_whole
from policypress.policy.policy import Policy
from policypress.robustness.kinds import KINDS, kinds_named
from policypress.robustness.run import RESULT, UNDISTURBED, robustness, table_of

ROOT = Path(__file__).resolve().parents[1]
RUNS, DOCS = ROOT / "runs" / "robustness", ROOT / "docs" / "robustness"
DENSE = "dense"
AGENTS = {"Walker2d-v5": "sac-Walker2d-1M.zip"}
"""Dense policies that are not in the repository."""
PRESSED = {"90 %": 0.9, "98 %": 0.98}
TASKS: dict[str, dict[str, Path]] = {
    "HalfCheetah-v5": {
        DENSE: ROOT / "results/HalfCheetah-v5/cheetah-dense/policy.policy",
        "90 %": ROOT / "results/HalfCheetah-v5/cheetah-90/policy.policy",
        "98 %": ROOT / "results/HalfCheetah-v5/cheetah-98/policy.policy",
        "narrow": ROOT / "results/HalfCheetah-v5/cheetah-narrow/policy.policy",
        "bottleneck": ROOT / "zoo/HalfCheetah-v5/100.policy",  # the smallest there is: 17-4-6
    },
    "Walker2d-v5": {
        "90 %": RUNS / "Walker2d-v5-90/policy.policy",
        "98 %": RUNS / "Walker2d-v5-98/policy.policy",
        "narrow": ROOT / "results/Walker2d-v5/walker-1M-24-24-1/policy.policy",
        "linear": ROOT / "zoo/Walker2d-v5/101.policy",
    },
}


def press(agents: Path) -> None:
    for task, agent in AGENTS.items():
        for name, sparsity in PRESSED.items():
            command = [sys.executable, "-m", "policypress", "compress", str(agents / agent), "--env", task]
            command += ["--sparsity", str(sparsity), "--out", str(TASKS[task][name].parent), "--resume"]
            subprocess.run(command, cwd=ROOT, check=True)


def policies_of(task: str, agents: Path | None) -> dict[str, Policy]:
    """The task's policies, the dense one first; those that are missing are told and left out."""
    found: dict[str, Policy] = {}
    if task in AGENTS:
        if agents is None or not (agents / AGENTS[task]).exists():
            sys.exit(f"{task}: {AGENTS[task]} is missing: say in which folder it is, --agents FOLDER.")
        found[DENSE] = dense(agents / AGENTS[task], task)
    for name, file in TASKS[task].items():
        if file.exists():
            found[name] = policypress.load(file)
        else:
            print(f"{task}: {name} is missing: `press` makes it.")
    return found


def dense(file: Path, task: str) -> Policy:
    from policypress.rl.formats import open_agent
    from policypress.rl.sources import Source

    return open_agent(Source(file), None, Environment(task)).teacher.policy()


def measure(task: str, agents: Path | None, kinds: str | None, episodes: int) -> None:
    policies = policies_of(task, agents)
    begun, told = time.process_time(), time.monotonic()

    def progress(done: int, of: int, mean: float | None) -> None:
        nonlocal told
        if time.monotonic() > told + 60:
            told = time.monotonic()
            print(f"{task}: {done:,} of {of:,} episodes, {time.process_time() - begun:,.0f} s of a core", flush=True)

    named = None if kinds is None else kinds_named(kinds)
    result = robustness(policies, Environment(task), kinds=named, episodes=episodes, out=RUNS / task, progress=progress)
    print(f"{task}: {len(result['points'])} points are there; {time.process_time() - begun:,.0f} s of a core")


def report() -> None:
    for task in TASKS:
        file = RUNS / task / RESULT
        if not file.exists():
            print(f"{task}: not measured")
            continue
        result = json.loads(file.read_text())
        DOCS.mkdir(parents=True, exist_ok=True)
        write_whole(DOCS / f"{task}.csv", table_of(result))
        print(f"\n{task}, {result['episodes']} episodes a point; kept of the own undisturbed mean, %")
        _print_kept(result)
        _print_against_dense(result)


def _print_kept(result: dict[str, Any]) -> None:
    names = list(result["policies"])
    print(f"{'':15}" + "".join(f"{name:>12}" for name in names))
    for kind in (UNDISTURBED, *KINDS):
        cells = []
        for name in names:
            points = [p for p in result["points"] if (p["policy"], p["kind"]) == (name, kind)]
            shares = [p["kept"] for p in points if p["kept"] is not None]
            mean = f"{points[0]['mean']:,.0f}" if points and kind == UNDISTURBED else None
            cells.append(mean or (f"{100 * np.mean(shares):.1f}" if shares else ""))
        if any(cells):
            print(f"{kind:15}" + "".join(f"{cell:>12}" for cell in cells))


def _print_against_dense(result: dict[str, Any]) -> None:
    known = {(p["policy"], p["kind"], p["level"]): p for p in result["points"] if p["kept"] is not None}
    for name in result["policies"]:
        pairs = [
            (point, known[(DENSE, kind, level)])
            for (policy, kind, level), point in known.items()
            if policy == name != DENSE and kind != UNDISTURBED and (DENSE, kind, level) in known
        ]
        if pairs:
            more = sum(ours["kept_low"] > theirs["kept_high"] for ours, theirs in pairs)
            less = sum(ours["kept_high"] < theirs["kept_low"] for ours, theirs in pairs)
            print(f"{name}: keeps more than dense at {more}, less at {less} of {len(pairs)} points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("press", "measure", "report"))
    parser.add_argument("--agents", type=Path)
    parser.add_argument("--task", choices=TASKS, help="of measure; default: both")
    parser.add_argument("--kinds", help="of measure; default: all")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.verb == "press":
        if arguments.agents is None:
            sys.exit("press needs the agents: --agents FOLDER.")
        press(arguments.agents)
    elif arguments.verb == "measure":
        for task in TASKS if arguments.task is None else (arguments.task,):
            measure(task, arguments.agents, arguments.kinds, arguments.episodes)
    else:
        report()


if __name__ == "__main__":
    main()
