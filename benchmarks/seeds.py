"""Finished runs that differ in nothing but their seed, together: a Markdown table.

    python benchmarks/seeds.py results/cheetah-dense results/cheetah-98 results/seeds/*

Runs belong together whose settings are the same without the seed. The first group is the dense one that the others are
compared with. A return is the mean of a run's final episodes; "mean" is over runs, and its range is the least and the
largest run: a few seeds do not make an interval. "IQM" is the mean of the middle half of all their episodes, with the
95 % interval of these runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from policypress.config import from_json, to_json
from policypress.measure.returns import interquartile_mean, share
from policypress.rl.train import TrainConfig


def groups(folders: list[Path]) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """Folder and result of the runs of each setting."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        config = dataclasses.replace(from_json(TrainConfig, result["config"]), seed=0)
        found.setdefault(json.dumps(to_json(config), sort_keys=True), []).append((folder, result))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    dense = None
    print("| runs | seeds | returns | mean [least, most] | IQM [95 %] | worst tenths | of dense | payload bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for runs in groups(arguments.runs).values():
        runs.sort(key=lambda run: run[1]["config"]["seed"])
        results = [result for _, result in runs]
        returns = np.array([result["evaluation"]["mean"] for result in results])
        dense = returns.mean() if dense is None else dense
        cells = [
            runs[0][0].name,
            ", ".join(str(result["config"]["seed"]) for result in results),
            " / ".join(f"{value:,.0f}" for value in returns),
            f"{returns.mean():,.0f} [{returns.min():,.0f}, {returns.max():,.0f}]",
            "{:,.0f} [{:,.0f}, {:,.0f}]".format(*interquartile_mean([one["evaluation"]["returns"] for one in results])),
            " / ".join(f"{result['evaluation']['worst_tenth']:,.0f}" for result in results),
            f"{share(returns.mean() - dense, dense):.1%}",
            " / ".join(f"{result['size']['payload_bytes']:,}" for result in results),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
