"""A study that has something for every section of its report: made up, of runs that take no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policypress.studies.cells import Cell
from policypress.studies.store import Store
from studies.toys import figures, study

GRID = """
title = "toys & <others>"
[[train]]
algo = "sac"
env = ["Hopper-v5", "Walker2d-v5"]
steps = 1000
seed = [1, 2]
[[train.methods]]
weight_bits = 32
[[train.methods]]
sparsity = 0.9
weight_bits = 32
[[train.methods]]
weight_bits = 8
[[train.methods]]
sparsity = [0.9, 0.98]
weight_bits = 8
[[train.methods]]
hidden = "4,4"
weight_bits = 8
[[train.methods]]
hidden = "none"
weight_bits = 8
"""
"""Twenty-eight runs: two tasks, two seeds, seven methods."""
FILM = b"\xff\xd8\xff\xd9"
"""A JPEG, as far as anybody here looks into it."""
WORDS = "Traceback (most recent call last):\nDivergedError: the actions of <Hopper> are no numbers"
PAPER = "env,sparsity,nominal_bytes,mean,std\nHopper-v4,0.0,,110,5\nHopper-v4,0.9,45,99,6\nAnt-v4,0.9,45,99,6\n"


def whole(folder: Path, grid: str = GRID) -> Path:
    """The study's folder; Walker2d's linear runs of seed 2 failed."""
    with Store(folder / "study", new=True) as store:
        store.take(study(folder, grid))
        with store.driver(1) as driver:
            while (claimed := driver.claim(1, (0,))) is not None:
                settings = claimed.cell.settings
                if (settings["env"], settings.get("hidden"), settings["seed"]) == ("Walker2d-v5", "none", 2):
                    driver.record(claimed.id, "failed", 1.0, WORDS)
                    continue
                driver.record(claimed.id, "done", 2.0, figures=_figures(claimed.cell))
                _leave(store.out(claimed.id), claimed.cell)
    return folder / "study"


def _mean(cell: Cell) -> float:
    """The baseline returns 100 on average; pruning takes 10, quantization 5, few weights 40."""
    settings = cell.settings
    lost = 10.0 * (settings["sparsity"] > 0) + 5.0 * (settings["weight_bits"] < 32) + 40.0 * ("hidden" in settings)
    return 98.5 + cell.seed - lost


def _figures(cell: Cell) -> dict[str, Any]:
    settings, mean = cell.settings, _mean(cell)
    compression = {"prune_start": 0.2, "prune_end": 0.8, "quantize_start": 0.85}
    compression |= {name: settings[name] for name in ("sparsity", "weight_bits")}
    quantizes = settings["weight_bits"] < 32
    curve = [
        {"step": str(step), "mean": str(value), "phase": "quantize" if step > 850 and quantizes else "float",
         "dormant": str(settings["sparsity"] * step / 2000), "rank": str(step // 50), "entropy": ""}
        for step, value in ((250, mean / 2), (500, mean), (750, mean), (1000, 0.8 * mean if quantizes else mean))
    ]  # fmt: skip
    weights = 20 if "hidden" in settings else 200
    left = round(weights * (1 - settings["sparsity"]))
    size = {"payload_bytes": left * settings["weight_bits"] // 8, "weights": weights, "nonzeros": left}
    return figures(mean, **size, curve=curve, config={"steps": 1000, "compression": compression})


def _leave(out: Path, cell: Cell) -> None:
    """What the commands of a run leave in its folder, as far as a report reads it."""
    (out / "robustness").mkdir(parents=True)
    names = 1 if cell.settings.get("hidden") == "none" else 3
    layers = [{"kind": "linear", "sparsity": cell.settings["sparsity"] * part} for part in (0.5, 1.0, 0.25)[:names]]
    (out / "result.json").write_text(json.dumps({"size": {"layers": layers}}))
    bench = {"rows": [{"latency": 2e-6}], "machine": {"cpu": "a processor"}}
    (out / "bench.json").write_text(json.dumps(bench))
    points = [{"policy": "policy", "kind": "undisturbed", "level": 0.0, "kept": 1.0, "kept_low": 1.0, "kept_high": 1.0}]
    points += [
        {"policy": "policy", "kind": "noise", "level": level, "kept": kept, "kept_low": kept - 0.1, "kept_high": kept}
        for level, kept in ((0.05, 0.8 + cell.seed / 10), (0.4, 0.25))
    ]
    kinds = {"noise": {"level": "standard deviations", "source": ""}}
    told = {"env": {"env": cell.settings["env"]}, "episodes": 3, "kinds": kinds, "points": points}
    told["halves"] = {"policy": {"noise": 0.2 if cell.seed == 1 else None}}
    (out / "robustness" / "robustness.json").write_text(json.dumps(told))
    if cell.settings["weight_bits"] < 32:
        (out / "film.jpg").write_bytes(FILM)
