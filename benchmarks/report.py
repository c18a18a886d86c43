"""What finished runs are worth: Markdown tables of their results, of what differs in nothing but the seed, and of the
drop when quantization starts; the picture.

    python benchmarks/report.py runs/cheetah-dense runs/cheetah-90 ... --picture curves.png
    python benchmarks/report.py results/HalfCheetah-v5/cheetah-{dense,98}*

The first run is the dense one that the others are compared with. A return is the mean of a run's final episodes. Runs
belong together whose settings are the same without the seed; the mean is over them, and its range is the least and the
largest run: a few seeds do not make an interval. "IQM" is the mean of the middle half of all their episodes, with the
95 % interval of these runs. ``--keep FOLDER`` copies policies and figures to FOLDER/ENV/NAME.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from policypress.config import from_json, to_json
from policypress.measure.returns import interquartile_mean, share
from policypress.rl.curves import plot_curves
from policypress.rl.train import TrainConfig, read_evaluations

KEPT = ("policy.policy", "result.json", "evaluations.csv")


def quantization_start(rows: list[dict[str, str]]) -> tuple[dict[str, str], list[dict[str, str]]] | None:
    """The last evaluation before quantization and all after it."""
    after = [row for row in rows if row["phase"] == "quantize"]
    before = [row for row in rows if row["phase"] != "quantize"]
    return (before[-1], after) if before and after else None


def times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 9.5 else f"{ratio:.1f}×"


def row(name: str, result: dict[str, Any], dense: dict[str, Any]) -> str:
    evaluation, size = result["evaluation"], result["size"]
    cells = [
        name,
        f"{evaluation['mean']:,.0f} [{evaluation['low']:,.0f}, {evaluation['high']:,.0f}]",
        f"{evaluation['worst_tenth']:,.0f}",
        f"{evaluation['ended_early']:.0%}",
        f"{share(evaluation['mean'] - dense['evaluation']['mean'], dense['evaluation']['mean']):.1%}",
        f"{size['nonzeros']:,}",
        f"{size['layers'][0]['bits']}",
        f"{size['nominal_bytes']:,.0f} ({times(size['nominal_ratio'])})",
        f"{size['payload_bytes']:,} ({times(size['payload_ratio'])})",
        f"{size['payload_to_bound']:.2f}",
        *(f"{size[part]:,}" if part in size else "not kept" for part in ("disk_bytes", "flash_bytes")),
        f"{result['wall_seconds'] / 60:.0f} min",
    ]
    return "| " + " | ".join(cells) + " |"


def seeds(results: dict[str, dict[str, Any]]) -> None:
    """A row for each setting, its runs together; nothing if every setting has one run."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, result in results.items():
        config = dataclasses.replace(from_json(TrainConfig, result["config"]), seed=0)
        found.setdefault(json.dumps(to_json(config), sort_keys=True), []).append((name, result))
    if len(found) == len(results):
        return
    dense = np.mean([result["evaluation"]["mean"] for _, result in next(iter(found.values()))])
    print("\n| runs | seeds | returns | mean [least, most] | IQM [95 %] | worst tenths | of dense | payload bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for runs in found.values():
        runs.sort(key=lambda run: run[1]["config"]["seed"])
        same = [result for _, result in runs]
        returns = np.array([result["evaluation"]["mean"] for result in same])
        cells = [
            runs[0][0],
            ", ".join(str(result["config"]["seed"]) for result in same),
            " / ".join(f"{value:,.0f}" for value in returns),
            f"{returns.mean():,.0f} [{returns.min():,.0f}, {returns.max():,.0f}]",
            "{:,.0f} [{:,.0f}, {:,.0f}]".format(*interquartile_mean([one["evaluation"]["returns"] for one in same])),
            " / ".join(f"{result['evaluation']['worst_tenth']:,.0f}" for result in same),
            f"{share(returns.mean() - dense, dense):.1%}",
            " / ".join(f"{result['size']['payload_bytes']:,}" for result in same),
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    results = {folder.name: json.loads((folder / "result.json").read_text()) for folder in arguments.runs}
    curves = {folder.name: read_evaluations(folder) for folder in arguments.runs}
    dense = results[arguments.runs[0].name]

    print(
        "| run | return [95 %] | worst tenth | ends early | of dense | nonzeros | bits | nominal bytes | payload bytes "
        "| / H | file on disk | flash | wall time |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        print(row(name, result, dense))
    seeds(results)
    print("\n| run | last evaluation before quantization | first after | kept | lowest after |")
    print("|---|---|---|---|---|")
    for name, rows in curves.items():
        if (around := quantization_start(rows)) is not None:
            before, after = around
            last = float(before["mean"])
            means = [float(row["mean"]) for row in after]
            print(
                f"| {name} | {last:,.0f} at step {int(before['step']):,} | "
                f"{means[0]:,.0f} at step {int(after[0]['step']):,} | {share(means[0] - last, last):.1%} | "
                f"{min(means):,.0f} |"
            )
    if arguments.picture:
        plot_curves(curves, arguments.picture)
    if arguments.keep:
        for folder in arguments.runs:
            target = arguments.keep / results[folder.name]["config"]["env"].rpartition(":")[2] / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in KEPT:
                shutil.copy(folder / file, target / file)


if __name__ == "__main__":
    main()
