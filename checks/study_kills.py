"""A study of short runs, whose drivers and workers are killed at random: none may be lost, none doubled.

    python checks/study_kills.py [--runs 40] [--kills 20] [--seed 0] [--folder FOLDER] [--on ray]

Two drivers share the study, one run at a time each. After a run has ended, and a random while, a driver or a worker
gets SIGKILL; a driver that died is started again by the same command. At the end there must be exactly as many rows as
the study file has runs, all done, each with its returns and a whole learning curve, each the contents of its folder;
what was once seen as done must not have been done again. Exit code 1 if not. ``--on ray``: one driver on a Ray that is
started here; Ray's workers and its head are killed too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from policypress.studies.store import Store
from policypress.studies.study_file import read_study

STEPS, EVERY, EPISODES = 256, 64, 4
STUDY = f"""
title = "kills"
[[train]]
algo = "ppo"
env = ["CartPole-v1", "InvertedPendulum-v5"]
steps = {STEPS}
seed = [SEEDS]
eval_every = {EVERY}
eval_episodes = 2
final_episodes = {EPISODES}
set = {{ n_steps = 64, batch_size = 64, n_epochs = 1 }}
[[train.methods]]
sparsity = 0.0
[[train.methods]]
sparsity = 0.9
"""


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started and that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def below(pid: int) -> list[int]:
    found = children(pid)
    return found + [other for child in found for other in below(child)]


def named(pids: list[int], text: str) -> list[int]:
    found = []
    for pid in pids:
        try:
            if text in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                found.append(pid)
        except OSError:
            continue
    return found


class Study:
    """The study, its drivers, and what has been seen of it."""

    def __init__(self, file: Path, folder: Path, on: str) -> None:
        self.file, self.folder, self.on = file, folder, on
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.seen: dict[str, tuple[int, float]] = {}
        self.starts = 0
        self.again: list[str] = []

    def keep(self, count: int) -> None:
        """Starts drivers until ``count`` live."""
        self.drivers = [driver for driver in self.drivers if driver.poll() is None]
        while len(self.drivers) < count:
            command = [sys.executable, "-m", "policypress", "study", "run", str(self.file), "--out", str(self.folder)]
            command += ["--jobs", "1"] if self.on == "local" else ["--on", self.on]
            log = (self.folder.parent / "drivers.log").open("ab")
            self.drivers.append(subprocess.Popen(command, stdout=log, stderr=log))
            self.starts += 1

    def look(self) -> tuple[int, int]:
        """Runs that are done, and all."""
        if not (self.folder / "study.sqlite").exists():
            return 0, -1
        with Store(self.folder) as store:
            rows = store.query("SELECT id, status, attempts, ended FROM runs")
        for row in rows:
            now = row["attempts"], row["ended"]
            known = row["status"] == "done" or row["id"] in self.seen
            if known and self.seen.setdefault(row["id"], now) != now:
                self.again.append(row["id"])
        return sum(row["status"] == "done" for row in rows), len(rows)

    def kill(self, chance: random.Random) -> str | None:
        """Kills a driver, a worker or a part of Ray; what it was."""
        driver = chance.choice(self.drivers)
        everything = below(driver.pid)
        victims = {"driver": [driver.pid], "worker": named(everything, "policypress.studies.tied")}
        if self.on == "ray":
            victims |= {"Ray worker": named(everything, "ray::"), "Ray head": named(everything, "gcs_server")}
        kinds = [kind for kind, pids in victims.items() if pids]
        kind = chance.choice(kinds)
        try:
            os.kill(chance.choice(victims[kind]), signal.SIGKILL)
        except ProcessLookupError:
            return None
        if kind == "driver":
            driver.wait()
        return kind


def faults(study: Study, expected: set[str]) -> list[str]:
    """What is wrong at the end."""
    found = [f"{run} was done again" for run in study.again]
    with Store(study.folder) as store:
        runs = store.runs()
        ids = [run.id for run in runs]
        if sorted(ids) != sorted(expected):
            found.append(f"{len(ids)} rows, {len(set(ids))} of them different, for {len(expected)} runs")
        if left := store.query("SELECT COUNT(*) n FROM runs WHERE status = 'running'")[0]["n"]:
            found.append(f"{left} rows are still running")
        for run in runs:
            result = store.out(run.id) / "result.json"
            if run.status != "done" or not result.exists():
                found.append(f"{run.id} is {run.status}: {run.error}")
                continue
            steps = [int(row["step"]) for row in run.figures["curve"]]
            if steps != list(range(EVERY, STEPS + 1, EVERY)):
                found.append(f"{run.id} has a curve at steps {steps}")
            returns = json.loads(result.read_text())["evaluation"]["returns"]
            if run.figures["returns"] != returns or len(returns) != EPISODES:
                found.append(f"{run.id} has returns {run.figures['returns']}, its folder {returns}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="a multiple of 4")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--on", choices=["local", "ray"], default="local")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="study-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "kills.toml"
    file.write_text(STUDY.replace("SEEDS", ", ".join(str(seed) for seed in range(1, arguments.runs // 4 + 1))))
    expected = {cell.identity for cell in read_study(file).cells}
    study = Study(file, folder / "study", arguments.on)
    drivers = 2 if arguments.on == "local" else 1
    killed: dict[str, int] = {}
    started, before, due = time.monotonic(), -1, None
    while True:
        done, total = study.look()
        if done == total:
            break
        study.keep(drivers)
        now = time.monotonic()
        left = total - done
        if done != before:
            before = done
            if due is None and sum(killed.values()) < arguments.kills + 5:
                due = now + chance.uniform(0.0, 12.0)
        owed = arguments.kills - sum(killed.values())
        if due is not None and now >= due:
            due = None
            if (kind := study.kill(chance)) is not None:
                killed[kind] = killed.get(kind, 0) + 1
                print(f"{now - started:6.0f} s  {done:3} done  kill {sum(killed.values())}: {kind}", flush=True)
        elif due is None and owed >= left:  # or the study would end first
            due = now + chance.uniform(5.0, 20.0)
        time.sleep(0.5)
    for driver in study.drivers:
        driver.wait()
    study.look()
    wrong = faults(study, expected)
    for line in wrong:
        print(line)
    told = ", ".join(f"{count} of a {kind}" for kind, count in sorted(killed.items()))
    with Store(study.folder) as store:
        attempts = sum(run.attempts for run in store.runs())
    print(
        f"{len(expected)} runs, {sum(killed.values())} kills ({told}), {study.starts} starts of drivers, {attempts} "
        f"attempts, {(time.monotonic() - started) / 60:.1f} min: {len(wrong)} faults."
    )
    if not wrong and arguments.folder is None:
        shutil.rmtree(folder)
    return int(bool(wrong) or sum(killed.values()) < arguments.kills)


if __name__ == "__main__":
    sys.exit(main())
