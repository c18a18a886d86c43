"""What finished runs are worth: a Markdown table of their results, the drop when quantization starts, the picture.

    python benchmarks/report.py runs/cheetah-dense runs/cheetah-90 ... --picture curves.png

The first run is the dense one that the others are compared with. ``--keep FOLDER`` copies policies and figures there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from policypress.measure.returns import share
from policypress.rl.curves import plot_curves
from policypress.rl.train import read_evaluations

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
        f"{size['disk_bytes']:,}",
        f"{size['flash_bytes']:,}",
        f"{result['wall_seconds'] / 60:.0f} min",
    ]
    return "| " + " | ".join(cells) + " |"


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
            target = arguments.keep / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in KEPT:
                shutil.copy(folder / file, target / file)


if __name__ == "__main__":
    main()
