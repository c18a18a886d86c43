"""How many files it took to add something, counted from its commits, for the table of docs/architecture.md.

    python checks/growth.py "an activation=1a2b3c4" "a pruning method=5d6e7f8..9a0b1c2"

Each argument names what was added and its commit, or a range of commits, which count together. Tests, documentation
(docs/, every .md) and what only measures or checks (benchmarks/, checks/, examples/, results/) do not count. Exit code
1 if something took more files than it may.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("tests/", "docs/", "benchmarks/", "checks/", "examples/", "results/")
AT_MOST = {
    "an activation": 2,
    "a pruning method": 2,
    "a mask structure": 3,
    "a teacher's format": 2,
    "an export": 3,
    "a measurement": 3,
    "an algorithm": 1,
}


def touched(commits: str) -> list[str]:
    """The files that count among those that a commit or a range (A..B, A itself left out) touched, sorted."""
    show = ["diff", commits] if ".." in commits else ["show", "--format=", "--diff-merges=first-parent", commits]
    command = ["git", *show, "--name-only", "--no-renames"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise SystemExit(f"git knows no commit {commits}: {listed.stderr.strip()}")
    files = sorted(set(listed.stdout.split("\n")) - {""})
    return [file for file in files if not file.startswith(BESIDE) and not file.endswith(".md")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("added", nargs="+", metavar="WHAT=COMMIT", help=f"known: {', '.join(AT_MOST)}")
    print("| to add | files | at most | which |\n|---|---:|---:|---|")
    failed = False
    for added in parser.parse_args().added:
        what, _, commits = added.partition("=")
        files = touched(commits)
        most = AT_MOST.get(what)
        failed |= most is not None and len(files) > most
        print(f"| {what} | {len(files)} | {most or ''} | {', '.join(f'`{file}`' for file in files)} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
