"""What studies cost beside their runs: the driver's share of the time, and tables of many finished runs.

    python benchmarks/studies.py overhead [--runs 4]
    python benchmarks/studies.py tables [--runs 10000]
    python benchmarks/studies.py places [--runs 4]

``overhead`` does real runs of PPO on CartPole, 256 steps each, one at a time: what passes beside the runs' own
processes, and what the driver computes, over the time of these processes. ``tables`` fills a store with made-up
finished runs (50 returns and 20 rows of a learning curve each), and then, in a process of its own each, exports them,
summarizes them and makes their report: wall time, CPU time, peak memory, and the report's bytes. ``places`` does the
same runs here and on a Ray that it starts, and compares returns, bytes and learning curves; exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policypress.studies.driver import run_study
from policypress.studies.store import Store
from policypress.studies.study_file import read_study

SHORT = """
[[train]]
algo = "ppo"
env = "CartPole-v1"
steps = 256
seed = [SEEDS]
final_episodes = 4
eval_every = 128
eval_episodes = 2
set = { n_steps = 64, batch_size = 64, n_epochs = 1 }
"""
LARGE = """
[[train]]
algo = "sac"
env = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]
steps = 1_000_000
sparsity = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.98, 0.99, 0.995]
weight_bits = [32, 8, 4, 2]
seed = [SEEDS]
"""


def study_of(text: str, seeds: int, folder: Path) -> Path:
    file = folder / "study.toml"
    file.write_text(text.replace("SEEDS", ", ".join(map(str, range(1, seeds + 1)))))
    return file


def overhead(runs: int, folder: Path) -> None:
    study = read_study(study_of(SHORT, runs, folder))
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    run_study(study, folder / "study", jobs=1)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Store(folder / "study") as store:
        own = sum(run.seconds for run in store.runs("done"))
    driver = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    theirs = children.ru_utime + children.ru_stime
    print(f"{runs} runs, one at a time: their processes {own:.1f} s of wall time, {theirs:.1f} s of CPU")
    beside = wall - own
    print(
        f"beside them {beside:.2f} s of wall time ({beside / own:.2%}), {driver:.2f} s of CPU ({driver / theirs:.2%})"
    )


def places(runs: int, folder: Path) -> None:
    study = read_study(study_of(SHORT, runs, folder))
    done = []
    for place in ("local", "ray"):
        run_study(study, folder / place, on=place)
        with Store(folder / place) as store:
            done.append({run.id: same(run.figures) for run in store.runs("done")})
    here, there = done
    differing = sum(here[identity] != there.get(identity) for identity in here)
    print(f"{len(here)} runs here, {len(there)} on Ray, {differing} differ")
    sys.exit(differing > 0 or len(here) != runs)


def same(figures: Mapping[str, Any]) -> list[Any]:
    """What does not depend on the machine."""
    curve = [{key: value for key, value in row.items() if key != "seconds"} for row in figures["curve"]]
    return [figures["returns"], figures["payload_bytes"], curve]


def tables(runs: int, folder: Path) -> None:
    study = read_study(study_of(LARGE, runs // 200, folder))
    rng = np.random.default_rng(0)
    with Store(folder / "study", new=True) as store:
        store.take(study)
        with store.driver(1) as driver:
            store._db.execute("PRAGMA synchronous=OFF")  # made up: nothing to lose
            while (claimed := driver.claim(1, (0,))) is not None:
                driver.record(claimed.id, "done", 100.0, figures=made_up(rng))
        print(f"{len(study.cells):,} runs, {(folder / 'study' / 'study.sqlite').stat().st_size / 2**20:.0f} MiB")
    for verb in (["export", "--to", "csv"], ["status", "--once"], ["summary", "--json"], ["report"]):
        command = [sys.executable, "-m", "policypress", "study", verb[0], str(folder / "study"), *verb[1:]]
        code = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss, used.ru_utime + used.ru_stime)"
        )
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
        wall, (peak, cpu) = time.monotonic() - started, map(float, done.stdout.split())
        print(f"study {' '.join(verb)}: {wall:.1f} s ({cpu:.1f} s of CPU), {peak / 1024:.0f} MiB")
    print(f"the report has {(folder / 'study' / 'report.html').stat().st_size:,} bytes")


def made_up(rng: np.random.Generator) -> dict[str, object]:
    returns = np.round(rng.normal(5000.0, 300.0, 50), 3).tolist()
    curve = [
        {"step": str(step), "mean": "1234.5", "low": "1200.1", "high": "1300.2", "episodes": "10", "sparsity": "0.9",
         "phase": "quantize", "numerics": "integer", "seconds": "123.4"}
        for step in range(50_000, 1_000_001, 50_000)
    ]  # fmt: skip
    return {
        "machine": {"host": "node", "cpu": "CPU", "flags": [], "cores": 2, "versions": {"policypress": "0"}},
        "mean": float(np.mean(returns)), "worst_tenth": min(returns), "ended_early": 0.0, "returns": returns,
        "lengths": [1000] * 50, "terminated": [False] * 50, "payload_bytes": 3000, "baseline_bytes": 280_000,
        "nominal_bytes": 2900.0, "disk_bytes": 6000, "flash_bytes": 8000, "weights": 70_000, "nonzeros": 3500,
        "numerics": "integer", "config": json.loads(json.dumps({"algo": "sac", "compression": {"sparsity": 0.9}})),
        "curve": curve, "notes": [],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for call, count in ((overhead, 4), (tables, 10_000), (places, 4)):
        verb = verbs.add_parser(call.__name__)
        verb.set_defaults(call=call)
        verb.add_argument("--runs", type=int, default=count)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.call(options.runs, Path(folder))


if __name__ == "__main__":
    main()
