"""The executor of an export to C under QEMU: thousands of periods with late, early and missing calls, against the
contract in Python and the policy's reference.

    python examples/loop/check.py results/HalfCheetah-v5/keep-cheetah/policy.policy --target cortex-m4

Each call's status, lateness, jitter and missed periods, every action and, of a policy that remembers, every state are
compared. The clock wraps on the way. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import policypress as pp
from policypress.errors import ExportError, PolicypressError
from policypress.export.c import CExportConfig, export_c
from policypress.export.compile import STRICT, facts_of
from policypress.measure.microcontroller import COMPILER, EMULATOR, TARGETS, find_target, require_tools
from policypress.policy import reference
from policypress.policy.observations import random_observations
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state

STEPPED, LATE, HELD, NOT_FINITE = range(4)
COUNTS = ("steps", "late", "missed", "held", "refused", "most_late_us", "most_jitter_us")
PERIOD, TOLERANCE = 20_000, 500  # microseconds


@dataclass
class Executor:
    """What NAME_loop.h promises, in integers that do not wrap."""

    period: int
    tolerance: int
    due: int | None = None
    last: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def control(self, now: int, finite: bool) -> tuple[int, int, int, int]:
        """Status, lateness, jitter and missed periods of a call at ``now``."""
        counts, first = self.counts, self.due is None
        due = now if self.due is None else self.due
        if now < due - self.tolerance:
            counts["held"] += 1
            return HELD, 0, 0, 0
        late = max(now - due, 0)
        missed = late // self.period
        jitter = 0 if first else now - self.last - (missed + 1) * self.period
        self.due, self.last = due + (missed + 1) * self.period, now
        status = LATE if late > self.tolerance else STEPPED
        for name, more in (("steps", 1), ("late", status == LATE), ("missed", missed), ("refused", not finite)):
            counts[name] += int(more)
        counts["most_late_us"] = max(counts["most_late_us"], late)
        counts["most_jitter_us"] = max(counts["most_jitter_us"], abs(jitter))
        return status if finite else NOT_FINITE, late, jitter, missed


def schedule(periods: int, seed: int, bad: bool) -> list[tuple[int, bool, bool]]:
    """Calls over ``periods`` periods: time in microseconds, whether an episode begins, whether the observation is
    finite (all are, unless ``bad``). The clock wraps in the middle."""
    rng, calls = np.random.default_rng(seed), list[tuple[int, bool, bool]]()
    start, period = 2**32 - periods // 2 * PERIOD, 0
    while period < periods:
        due = start + period * PERIOD
        reset = not calls or bool(rng.random() < 0.002)  # on the grid, so that it stays
        early = rng.uniform(TOLERANCE + 1, PERIOD - TOLERANCE, rng.integers(0, 3) if calls else 0)
        calls += [(due - int(before), False, True) for before in early]
        kind, off = rng.random(), int(rng.uniform(-TOLERANCE, TOLERANCE))
        if kind < 0.1:
            off = int(rng.uniform(TOLERANCE, PERIOD - 2 * TOLERANCE))
        elif kind < 0.15:
            off = int(rng.uniform(PERIOD, 6 * PERIOD))
        if reset:
            off = 0
        calls.append((due + off, reset, not bad or bool(rng.random() > 0.01)))
        period += max(0, off) // PERIOD + 1
    return sorted(calls)


def build(folder: Path, target: str, place: Path) -> Path:
    """The export in ``folder`` with the firmware, for ``target``; the program's path. Raises ExportError."""
    facts, chosen = facts_of(folder), find_target(target)
    name, integer = facts["name"], facts["integer_only"]
    values = facts["outputs"] if integer else int(np.prod(facts["action"]["shape"], dtype=int))
    defines = {
        "POLICY": name,
        "POLICY_HEADER": f"{name}_loop.h",
        "INTEGER_ONLY": int(integer),
        "OBSERVATION_VALUES": int(np.prod(facts["observation"]["shape"], dtype=int)),
        "ACTION_VALUES": values,
        "STATE_VALUES": facts["state"]["size"],
    }
    with resources.as_file(resources.files("policypress.measure") / "firmware") as firmware:
        sources = [Path(__file__).parent / "firmware.c", firmware / "startup.c"]
        sources += [folder / f"src/{name}{part}.c" for part in ("", "_loop", "_vectors")]
        command = [COMPILER, *STRICT, "-O2", *chosen.flags, "-mthumb", "-masm-syntax-unified", "-ffunction-sections"]
        command += [f"-D{macro}={value}" for macro, value in defines.items()]
        command += ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", f"-L{firmware}", f"-T{target}.ld"]
        command += [f"-I{firmware}", f"-I{folder / 'include'}", *map(str, sources), "-o", str(place / "firmware.elf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"{COMPILER} does not build the firmware: {done.stderr}")
    return place / "firmware.elf"


def wanted(
    policy: Policy, calls: list[tuple[int, bool, bool]], seen: NDArray[Any], integer_only: bool
) -> list[tuple[tuple[int, ...], tuple[int, ...], bytes, bytes]]:
    """Of every call: status, lateness, jitter, missed; counts; the action's bytes; the state's."""
    found, state = [], initial_state(policy, 1)
    executor, held = Executor(PERIOD, TOLERANCE), b""
    for (now, reset, finite), observation in zip(calls, seen, strict=True):
        if reset:
            executor, state = Executor(PERIOD, TOLERANCE), initial_state(policy, 1)
            size = len(policy.layers[-1].weight) if integer_only else int(np.prod(policy.action.shape, dtype=int))
            held = np.eye(1, size, dtype=np.int32 if integer_only else policy.action.dtype).tobytes()
        report = executor.control(now, finite)
        if report[0] not in (HELD, NOT_FINITE):
            record: list[NDArray[Any]] = []
            x = reference.observe(policy.observation, observation)
            outputs, state = reference.step(policy, x, state, record)
            answer = record[-1].astype(np.int32) if integer_only else reference.act(policy.action, outputs)
            held = answer.tobytes()
        found.append((report, tuple(executor.counts.values()), held, state.tobytes()))
    return found


def run(policy: Policy, target: str, periods: int, seed: int = 0, integer_only: bool = False) -> dict[str, int]:
    """Calls, and how many of them differ: in what the executor says, in the action, in the state."""
    require_tools()
    calls = schedule(periods, seed, bad=not integer_only and policy.observation.dtype in ("float32", "float64"))
    # Observations repeat, so that few are made.
    some = random_observations(policy, 64, seed)
    some = reference.arrange(policy.observation, some)
    seen = some[np.random.default_rng(seed).integers(0, len(some), len(calls))]
    given = seen.reshape(len(seen), -1).copy()
    if integer_only:
        assert policy.input is not None
        codes = reference.quantize_input(policy.input, reference.observe(policy.observation, seen))
        given = codes.reshape(len(seen), -1).astype(np.int32)
    for i, (_, _, finite) in enumerate(calls):
        if not finite:
            given[i, i % given.shape[1]] = np.nan
    expected = wanted(policy, calls, seen, integer_only)
    size = len(policy.layers[-1].weight) if integer_only else int(np.prod(policy.action.shape, dtype=int))
    layout = np.dtype(
        [
            ("head", "<u4", 4), ("counts", "<u4", len(COUNTS)), ("self_test", "<u4"),
            ("action", np.int32 if integer_only else policy.action.dtype, (size,)),
            ("state", initial_state(policy, 1).dtype, (policy.state_size,)),
        ],
    )  # fmt: skip
    layout = np.dtype({
        "names": list(layout.names or ()),
        "formats": [layout[name] for name in layout.names or ()],
        "itemsize": -(-layout.itemsize // (align := max(4, layout["action"].base.itemsize))) * align,
    })  # fmt: skip
    head = np.array([[now % 2**32, reset, PERIOD, TOLERANCE] for now, reset, _ in calls], "<u4")
    with tempfile.TemporaryDirectory(prefix="policypress-") as temporary:
        place = Path(temporary)
        config = CExportConfig("policy", integer_only=integer_only, vectors=4, check=False)
        export_c(policy, place / "policy", config)
        build(place / "policy", target, place)
        rows = [head[i].tobytes() + given[i].tobytes() for i in range(len(calls))]
        (place / "calls.bin").write_bytes(b"".join(rows))
        command = [EMULATOR, "-M", TARGETS[target].machine, "-kernel", "firmware.elf", "-display", "none"]
        command += ["-monitor", "none", "-serial", "null", "-semihosting-config", "enable=on,target=native"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise ExportError(f"{EMULATOR} did not run the firmware to its end: {done.stderr}")
        answers = np.fromfile(place / "reports.bin", layout)
    if len(answers) != len(calls):
        raise ExportError(f"The firmware answered {len(answers)} of {len(calls)} calls.")
    if answers["self_test"].any():
        raise ExportError("The self test fails.")
    differ = dict.fromkeys(("reports", "actions", "states"), 0)
    for answer, (report, counts, action, state) in zip(answers, expected, strict=True):
        says = np.array([value % 2**32 for value in (*report, *counts)], np.uint32)
        differ["reports"] += int((says != np.concatenate([answer["head"], answer["counts"]])).any())
        differ["actions"] += int(answer["action"].tobytes() != action)
        differ["states"] += int(answer["state"].tobytes() != state)
    statuses = np.bincount([report[0] for report, *_ in expected], minlength=4)
    names = ("stepped", "late", "held", "not finite")
    missed = sum(report[3] for report, *_ in expected)
    return {"calls": len(calls), **dict(zip(names, map(int, statuses), strict=True)), "missed": missed, **differ}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="a .policy file")
    parser.add_argument("--target", choices=list(TARGETS), default="cortex-m4", help="the emulated core (cortex-m4)")
    parser.add_argument("--periods", type=int, default=10_000, help="of 20 ms each (10000)")
    parser.add_argument("--integer-only", action="store_true", help="the export without floats")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        policy = pp.load(arguments.policy)
        found = run(policy, arguments.target, arguments.periods, arguments.seed, arguments.integer_only)
    except PolicypressError as error:
        parser.exit(2, f"{error}\n")
    words = ", ".join(f"{count:,} {name}" for name, count in list(found.items())[1:6])
    print(f"{found['calls']:,} calls: {words} periods")
    print(", ".join(f"{found[name]} {name} differ" for name in ("reports", "actions", "states")))
    return int(any(found[name] for name in ("reports", "actions", "states")))


if __name__ == "__main__":
    raise SystemExit(main())
