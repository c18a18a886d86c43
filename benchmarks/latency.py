"""Time of one action and of a batch, against ONNX Runtime, Stable-Baselines3 and torch, and what must hold.

Policies with random weights, then trained ones, are timed in turns with their peers, which run the same network in
float32 with its zeros (of trained ones: the dense network that they were pressed from), or quantized by ONNX Runtime.
Ratios say how many times as long a peer takes; they come from one run on one core:

    taskset -c 0 python benchmarks/latency.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timed_policies import Random

import policypress as pp
from policypress.measure.bench import BenchConfig, BenchReport, Row, bench, duration, times_as_long
from policypress.measure.machine import lines, machine
from policypress.policy.policy import Policy
from policypress.testing import stored_policies

ORT, INT8, SB3 = "ort", ("ort-int8-dynamic", "ort-int8-qdq"), "sb3"
PEERS = (ORT, *INT8, "torch", SB3)
ACTOR = (17, 256, 256, 6)
NARROW_MICROSECONDS = 0.4


@dataclass(frozen=True)
class Case:
    """A policy, and the least that must hold: ratios of ONNX Runtime's float32 and of SB3 to it for one observation,
    and microseconds it may take."""

    name: str
    policy: Policy
    over_ort: float = 0.0
    over_sb3: float = 0.0
    microseconds: float = 0.0


def cases(results: Path) -> Iterator[Case]:
    def density(sparsity: float) -> str:
        return f"{sparsity:.0%} sparse" if sparsity else "dense"

    actor = "-".join(map(str, ACTOR))
    for sparsity, over_ort, over_sb3 in ((0.98, 10.0, 100.0), (0.9, 6.0, 0.0), (0.0, 3.0, 0.0)):
        policy = Random(sparsity, "integer").actor(*ACTOR)
        yield Case(f"{actor} {density(sparsity)}, integer", policy, over_ort, over_sb3)
    for sparsity in (0.98, 0.9, 0.0):
        policy = Random(sparsity, "weight-only").actor(*ACTOR)
        yield Case(f"{actor} {density(sparsity)}, weight-only", policy, 1.0)
    policy = Random(0.0, "integer").actor(17, 24, 24, 6)
    yield Case("17-24-24-6 dense, integer", policy, microseconds=NARROW_MICROSECONDS)
    for sparsity, over_ort in ((0.0, 1.5), (0.9, 2.0)):
        yield Case(f"Nature CNN {density(sparsity)}, integer", Random(sparsity, "integer").nature(), over_ort)
    stored = stored_policies(results)
    for name, over_ort, over_sb3 in (("cheetah-98", 10.0, 100.0), ("cheetah-90", 6.0, 0.0), ("climber-90", 2.0, 0.0)):
        if name in stored:
            yield Case(f"trained, {name}", pp.load(stored[name]), over_ort, over_sb3)


@dataclass(frozen=True)
class Bound:
    """Something that must hold, and whether it does."""

    what: str
    measured: str
    bound: str
    holds: bool

    @property
    def verdict(self) -> str:
        return "holds" if self.holds else "falls short"


def bounds(case: Case, report: BenchReport) -> Iterator[Bound]:
    rows = first_rows(report)

    def at_least(what: str, ratio: float, least: float) -> Bound:
        return Bound(f"{case.name}: {what}", times_as_long(ratio), f">= {least:g}x", ratio >= least)

    if case.over_ort:
        yield at_least("ORT float32, one action", rows[ORT].ratio, case.over_ort)
    if case.over_sb3:
        yield at_least("SB3 predict, one action", rows[SB3].ratio, case.over_sb3)
    if case.microseconds:
        seconds = _timing(rows["policy"])
        bound = f"<= {case.microseconds:g} µs"
        yield Bound(f"{case.name}: one action", duration(seconds), bound, seconds <= case.microseconds * 1e-6)
    yield at_least(f"ORT float32, {report.batch} at once", rows[ORT].batch_ratio, 1.0)
    if case.policy.input is not None:
        fastest = min(rows[name].batch_ratio for name in INT8)
        yield at_least(f"the faster ORT int8, {report.batch} at once", fastest, 1.0)


def first_rows(report: BenchReport) -> dict[str, Row]:
    """The policy and its peers on the dense network, not on the policy's own where units were left out of it."""
    return {row.name: row for row in reversed(report.rows)}


def _timing(row: Row) -> float:
    assert row.one is not None
    return row.one.seconds


def cells(case: Case, report: BenchReport) -> list[str]:
    rows = first_rows(report)
    policy = rows["policy"]
    assert policy.one is not None
    assert policy.many is not None
    found = [case.name, duration(policy.one.seconds), duration(policy.one.p99)]
    found += [times_as_long(rows[name].ratio) for name in PEERS]
    found.append(duration(policy.many.seconds))
    found += [times_as_long(rows[name].batch_ratio) for name in PEERS]
    return [*found, str(len(policy.one.turns))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each policy with its peers")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with trained policies")
    parser.add_argument("--only", default="", help="only policies whose name holds this text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    command = " ".join(["python", *sys.argv])
    if not arguments.json:
        print("\n".join([*lines(machine()), command]))
        titles = ["ORT float32", "ORT int8 dynamic", "ORT int8 QDQ", "torch", "SB3"]
        heads = ["policy", "one action", "99 %", *titles, f"{arguments.batch} at once", *titles, "rounds"]
        print(f"\n| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    held: list[Bound] = []
    results: dict[str, Any] = {}
    config = BenchConfig(batch=arguments.batch, seconds=arguments.seconds, peers=PEERS, seed=arguments.seed)
    for case in cases(arguments.results):
        if arguments.only not in case.name:
            continue
        report = bench(case.policy, config)
        if missing := [f"{row.title}: {row.reason}" for row in report.rows if row.reason]:
            raise SystemExit(f"A peer cannot run, so the bounds cannot be judged. {missing[0]}.")
        found = list(bounds(case, report))
        held += found
        results[case.name] = {**report.as_dict(), "bounds": [{**vars(one), "verdict": one.verdict} for one in found]}
        if not arguments.json:
            print(f"| {' | '.join(cells(case, report))} |", flush=True)
    if arguments.json:
        print(json.dumps({"command": command, "machine": machine(), "results": results}, indent=2))
        return
    print("\n| must hold | measured | bound | |\n|---|---:|---:|---|")
    for one in held:
        print(f"| {one.what} | {one.measured} | {one.bound} | {one.verdict} |")


if __name__ == "__main__":
    main()
