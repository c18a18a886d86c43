"""Bytes and times of policies of results/ as ONNX graphs, for docs/onnx.md.

    python benchmarks/onnx_graphs.py

Times are those of one observation in ONNX Runtime on one thread, the best of five rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import policypress as pp
from policypress.export.onnx import STYLES, encode_onnx
from policypress.export.onnx_check import Runner
from policypress.measure.machine import lines, machine
from policypress.testing import stored_policies

ROOT = Path(__file__).parents[1]


def main() -> None:
    print("\n".join(lines(machine())))
    print("\n| policy | float32 | payload | exact | qdq | time of predict | of exact | of qdq |")
    print("|---|---|---|---|---|---|---|---|")
    for name, path in stored_policies(ROOT / "results").items():
        policy = pp.load(path)
        assert policy.test_vectors is not None
        observation = policy.test_vectors.observations[:1]
        models = {style: encode_onnx(policy, style) for style in STYLES}
        runs: list[Callable[[], Any]] = [lambda policy=policy, x=observation: policy.predict(x)]
        runs += [lambda run=run, x=observation: run(x) for run in map(Runner, models.values())]
        times = " | ".join(f"{1e6 * seconds:,.0f} us" for seconds in map(best, runs))
        bytes_ = [policy.baseline_bytes, pp.size(policy).payload_bytes, *map(len, models.values())]
        print(f"| {name} | {' | '.join(f'{size:,}' for size in bytes_)} | {times} |")
    print(
        "\nBytes of the dense float32 network, of the policy's payload and of the ONNX files; times of one observation."
    )


def best(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < 0.1:  # also warms up
        run()
        calls += 1
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        seconds.append((time.perf_counter() - start) / calls)
    return min(seconds)


if __name__ == "__main__":
    main()
