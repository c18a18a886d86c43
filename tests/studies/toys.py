"""Studies of runs that take no time, and what becomes of them without a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policypress.studies.attempt import Outcome
from policypress.studies.store import Store
from policypress.studies.study_file import Study, read_study

GRID = """
title = "toys"
[[train]]
algo = "dqn"
env = ["A-v0", "B-v0"]
steps = 100
seed = [1, 2]
[[train.methods]]
weight_bits = 32
[[train.methods]]
sparsity = 0.9
"""
"""Eight runs: two tasks, two seeds, the dense network and a pressed one."""


def study(folder: Path, text: str = GRID) -> Study:
    file = folder / "toys.toml"
    file.write_text(text)
    return read_study(file)


def figures(mean: float = 10.0, **others: Any) -> dict[str, Any]:
    """Of a run that is done, two episodes."""
    return {
        "machine": {"host": "here", "versions": {"policypress": "0"}},
        "mean": mean,
        "worst_tenth": mean - 1.0,
        "ended_early": 0.5,
        "returns": [mean - 1.0, mean + 1.0],
        "lengths": [3, 4],
        "terminated": [True, False],
        "payload_bytes": 50,
        "baseline_bytes": 400,
        "nominal_bytes": 40.0,
        "disk_bytes": 90,
        "flash_bytes": 70,
        "weights": 100,
        "nonzeros": 10,
        "numerics": "integer",
        "config": {"algo": "dqn"},
        "curve": [{"step": "50", "mean": "1.0"}, {"step": "100", "mean": "2.0"}],
        "notes": [],
        **others,
    }


def finished(store: Store, returns: dict[str, float] | None = None) -> None:
    """Every run that waits is done; ``returns``: by identity."""
    with store.driver(1) as driver:
        while (claimed := driver.claim(1, (0,))) is not None:
            driver.record(claimed.id, "done", 2.0, figures=figures((returns or {}).get(claimed.id, 10.0)))


DONE = Outcome("done", 1.0, figures=figures())
