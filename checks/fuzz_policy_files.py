"""Hostile policy files: mutations of real and of small policies must decode, or raise ArtifactError, and nothing else.

    python checks/fuzz_policy_files.py                      # 100,000 mutations on one core
    python checks/fuzz_policy_files.py --cases 500 --seed 7

Most mutations get a correct checksum again, or nothing else would be tested. They are: bits, bytes, runs, insertions,
deletions and exchanges in one section; truncations; hostile lengths, versions and orders of sections; fields of the
card replaced by hostile JSON; payloads written anew with hostile numbers, half of them followed by many bytes to go on;
packed files, mostly in their contract; bare payloads.

What decodes must also encode again, and answer one observation or raise ObservationError.

Time and memory: children of this process decode batches of mutations. A child's address space (RLIMIT_AS) may grow by
64 MiB while it decodes; more is a MemoryError, which is a failure. The report tells by how much the largest resident
set of a child grew, too. A mutation that takes more than --limit seconds of wall time is a failure; after a minute the
child is ended by SIGALRM. A child that ends otherwise has crashed. Every failure is written to --keep.
"""

from __future__ import annotations

import argparse
import collections
import copy
import hashlib
import itertools
import json
import math
import mmap
import os
import platform
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from policypress.errors import ArtifactError, ObservationError
from policypress.policy import artifact, payload
from policypress.policy.codec import Writer
from policypress.policy.policy import Policy
from policypress.testing import (
    make_policy,
    random_linear_policy,
    random_observations,
    random_recurrent_policy,
    stored_policies,
)

ROOT = Path(__file__).parents[1]
BATCH = 500
EXTRA_BYTES = 2**26
HEADER = struct.Struct("<8sHIII")
SIZES = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 255, 256, 32767, 32768, 32769, 65535, 65536, 2**20, 2**22, 2**23 - 1, 2**23,
         2**23 + 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip
DEEP = "DEEP"
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 2**16, 2**31 - 1, 2**31, 2**63, 2**64, 10**300, 0.0, -0.0, 1.5, 1e-320, 1e308,
    -1e308, 3.4e38, 1e39, math.nan, math.inf, -math.inf, "", "inf", "-inf", "nan", "x" * 100_000, "\u0000", "✓" * 999,
    "float32", "float64", "uint8", "int64", "object", "box", "discrete", "multi-discrete", [], [[]], {}, {"": {}}, [0],
    [1], [-1], [1.0], [True], ["inf"], [None], [1] * 9, [1] * 8, [2**31 - 1] * 3, [2**23], [2**12, 2**12], [2**31 - 1],
    [1] * 2**16, [2**31 - 1] * 2**16, [2] * (2**16 + 1), [0.5] * 100_000, [1e-320] * 5, [1e308] * 5, [5] * 1000,
    [{}] * 1000, [{"name": "", "scale": None, "trained_shape": []}] * 2000, DEEP,
)  # fmt: skip


class HostileWriter(Writer):
    """Writes some numbers other than it is told to."""

    def __init__(self, rng: np.random.Generator, rate: float) -> None:
        super().__init__()
        self._rng, self._rate = rng, rate

    def _hostile(self, value: int) -> int:
        if self._rng.random() >= self._rate:
            return int(value)
        choices = (*SIZES, int(value) + 1, max(int(value) - 1, 0), 2 * int(value))
        return min(choices[self._rng.integers(len(choices))], 2**32 - 1)

    def unsigned(self, value: int, context: int) -> None:
        super().unsigned(self._hostile(value), context)

    def signed(self, value: int, context: int) -> None:
        value = self._hostile(value)
        super().signed((value + 2**31) % 2**32 - 2**31, context)

    def uniform(self, value: int, bits: int) -> None:
        super().uniform(self._hostile(value) % 2**bits, bits)


class Source:
    """A policy file taken apart."""

    def __init__(self, policy: Policy, data: bytes) -> None:
        self.policy, self.data, self.packed = policy, data, artifact.pack(policy)
        _, _, *lengths = HEADER.unpack_from(self.data)
        ends = np.cumsum([HEADER.size, *lengths]).tolist()
        self.sections = [self.data[a:b] for a, b in itertools.pairwise(ends)]


def join(*sections: bytes, version: int = 3, lengths: tuple[int, ...] | None = None) -> bytes:
    header = HEADER.pack(artifact.MAGIC, version, *(lengths or map(len, sections)))
    body = header + b"".join(sections)
    return body + hashlib.sha256(body).digest()[:8]


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """Some of its bytes other than they were."""
    if not data:
        return rng.bytes(int(rng.integers(1, 40)))
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        at, length = int(rng.integers(len(changed) + 1)), int(rng.choice([1, 2, 4, 8, 64]))
        match int(rng.integers(7)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at : at + length] = rng.bytes(length)
            case 2:
                changed[at : at + length] = bytes([int(rng.choice([0, 255, 127, 128]))]) * length
            case 3:
                changed[at:at] = rng.bytes(length)
            case 4:
                del changed[at : at + length]
            case 5:
                del changed[at:]
            case _:
                other = int(rng.integers(len(changed) + 1))
                a, b = bytes(changed[at : at + length]), bytes(changed[other : other + length])
                changed[at : at + length], changed[other : other + length] = b, a
    return bytes(changed)


def whole_file(rng: np.random.Generator, source: Source) -> bytes:
    return mutate(rng, source.data)


def one_section(rng: np.random.Generator, source: Source) -> bytes:
    sections = list(source.sections)
    which = int(rng.integers(3))
    sections[which] = mutate(rng, sections[which])
    return join(*sections)


def payload_bytes(rng: np.random.Generator, source: Source) -> bytes:
    payload_section, *rest = source.sections
    # Near its begin, where the structure is, as often as anywhere.
    end = len(payload_section) if rng.random() < 0.5 else 40
    return join(mutate(rng, payload_section[:end]) + payload_section[end:], *rest)


def frame(rng: np.random.Generator, source: Source) -> bytes:
    sections = list(source.sections)
    match int(rng.integers(4)):
        case 0:
            lengths = [len(section) for section in sections]
            moved = int(rng.integers(1, 100))
            lengths[int(rng.integers(3))] = int(rng.choice([0, moved, 2**31 - 1, 2**32 - 1, len(source.data)]))
            return join(*sections, lengths=tuple(lengths))
        case 1:
            lengths = [len(section) for section in sections]
            a, b = rng.permutation(3)[:2]
            moved = int(rng.integers(1, lengths[a] + 2))
            lengths[a], lengths[b] = max(lengths[a] - moved, 0), lengths[b] + moved
            return join(*sections, lengths=tuple(lengths))
        case 2:
            return join(*(sections[i] for i in rng.integers(3, size=3)))
        case _:
            return join(*sections, version=int(rng.integers(2**16)))


def card(rng: np.random.Generator, source: Source) -> bytes:
    payload_section, card_section, vectors = source.sections
    value = json.loads(card_section)
    for _ in range(int(rng.integers(1, 3))):
        inner: Any = value
        while True:
            key: Any = list(inner)[int(rng.integers(len(inner)))] if isinstance(inner, dict) else 0
            if isinstance(inner, list):
                key = int(rng.integers(len(inner)))
            if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.35:
                break
            inner = inner[key]
        match int(rng.integers(8)):
            case 0:
                del inner[key]
            case 1 if isinstance(inner, dict):
                inner[f"{key}s"] = 1
            case 1:
                inner.append(copy.deepcopy(inner[key]))
            case _:
                inner[key] = copy.deepcopy(HOSTILE[int(rng.integers(len(HOSTILE)))])
        if not value:
            break
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    depth = int(rng.choice([10, 400, 990, 100_000]))
    text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    return join(payload_section, text.encode(), vectors)


def vectors(rng: np.random.Generator, source: Source) -> bytes:
    *rest, section = source.sections
    counts = [int(rng.choice([*SIZES, 4, 5])) for _ in range(2)]
    section = struct.pack("<II", *counts) + section[8:]
    return join(*rest, section if rng.random() < 0.5 else mutate(rng, section))


def numbers(rng: np.random.Generator, source: Source) -> bytes:
    if len(source.sections[0]) > 2000:  # takes long to write
        return payload_bytes(rng, source)
    encoder = payload._Encoder(source.policy)
    encoder.writer = HostileWriter(rng, float(rng.choice([0.01, 0.05, 0.3])))
    encoder.write()
    data = encoder.writer.finish()
    if rng.random() < 0.5:  # something to go on with
        length = int(rng.choice([100, 10_000, 1_000_000], p=[0.6, 0.3, 0.1]))
        kept = int(rng.integers(len(data) + 1))
        filler = rng.bytes(length) if rng.random() < 0.4 else bytes([int(rng.choice([0, 255, 85]))]) * length
        data = data[:kept] + filler
    return join(data, *source.sections[1:])


def packed(rng: np.random.Generator, source: Source) -> bytes:
    """A packed file: anything in it, or its contract and a little more, with a checksum that is right again."""
    if rng.random() < 0.1:
        return mutate(rng, source.packed)
    body = source.packed[:-4]
    start = len(artifact.PACKED_MAGIC) + (1 if rng.random() < 0.9 else 0)
    end = start + int(rng.choice([4, 16, 40, len(body)]))
    body = body[:start] + mutate(rng, body[start:end]) + body[end:]
    return body + hashlib.sha256(body).digest()[:4]


def bare(rng: np.random.Generator, source: Source) -> bytes:
    """A bare payload, which a reader tries in order to say what it is."""
    return numbers(rng, source)[HEADER.size :]


MUTATIONS: tuple[tuple[Callable[[np.random.Generator, Source], bytes], float], ...] = (
    (whole_file, 0.05), (one_section, 0.15), (payload_bytes, 0.2), (frame, 0.05), (card, 0.15), (vectors, 0.05),
    (numbers, 0.15), (packed, 0.15), (bare, 0.05),
)  # fmt: skip


def make_case(seed: int, index: int, sources: list[Source], weights: np.ndarray) -> tuple[str, bytes]:
    rng = np.random.default_rng([seed, index])
    mutation = MUTATIONS[int(rng.choice(len(MUTATIONS), p=[share for _, share in MUTATIONS]))][0]
    return mutation.__name__, mutation(rng, sources[int(rng.choice(len(sources), p=weights))])


def load_sources() -> tuple[list[Source], np.ndarray]:
    """Trained and small policies, and how often each is taken: small ones often, because they take little time."""
    sources = [Source(Policy.load(path), path.read_bytes()) for path in stored_policies(ROOT / "results").values()]
    for numerics in ("integer", "weight-only", "float"):
        for kind in ("vector", "image", "tanh"):
            for bits in (2, 8):
                policy = make_policy(numerics, kind, bits, seed=bits, vectors=True)  # type: ignore[arg-type]
                sources.append(Source(policy, artifact.encode(policy)))
    for seed in range(12):
        for policy in (random_linear_policy(seed, "integer"), random_recurrent_policy(seed)):
            sources.append(Source(policy, artifact.encode(policy)))
    weights = np.array([1 / max(len(source.sections[0]), 500) for source in sources])
    return sources, weights / weights.sum()


def memory(field: str) -> int:
    """Of this process in bytes: VmSize, or VmHWM (the largest resident set)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise SystemExit("This needs Linux: /proc/self/status tells the memory of a process.")


def run_case(data: bytes, limit_bytes: int) -> tuple[str, float]:
    """What became of it, and the seconds that decoding took."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
    start = time.perf_counter()
    try:
        policy = Policy.from_bytes(data)
    except ArtifactError:
        return "refused", time.perf_counter() - start
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    seconds = time.perf_counter() - start
    Policy.from_bytes(artifact.encode(policy))
    try:
        policy.predict(random_observations(policy, 1)[0])
    except ObservationError:
        return "accepted, no finite answer", seconds
    return "accepted", seconds


def run_batch(
    seed: int, indices: range, sources: list[Source], weights: np.ndarray, limit: float, at: mmap.mmap
) -> Any:
    """In a child: counts, the slowest, growth of the resident set, failures."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    counts: collections.Counter[str] = collections.Counter()
    slowest, failures = (0.0, "", -1), []
    cases = [make_case(seed, index, sources, weights) for index in indices]
    before, limit_bytes = memory("VmHWM"), memory("VmSize") + EXTRA_BYTES
    for index, (name, data) in zip(indices, cases, strict=True):
        at[:8] = struct.pack("<q", index)
        signal.alarm(60)
        try:
            outcome, seconds = run_case(data, limit_bytes)
            slowest = max(slowest, (seconds, name, index))
            if seconds > limit:
                failures.append((index, name, f"it took {seconds:.2f} s"))
        except BaseException:
            outcome = "failed"
            failures.append((index, name, traceback.format_exc(limit=-3)))
        counts[outcome] += 1
        counts[name] += 1
    signal.alarm(0)
    return counts, slowest, memory("VmHWM") - before, failures


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Exit status and result of ``work`` in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return status, json.loads(text) if status == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Decode hostile policy files.")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds of wall time for one file")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "hostile", help="folder for files that fail")
    arguments = parser.parse_args()

    sources, weights = load_sources()
    at = mmap.mmap(-1, 8)
    counts: collections.Counter[str] = collections.Counter()
    slowest, growth, failures, start = (0.0, "", -1), 0, [], time.perf_counter()
    first = 0
    while first < arguments.cases:
        indices = range(first, min(first + BATCH, arguments.cases))
        at[:8] = struct.pack("<q", first)
        status, found = in_child(
            lambda indices=indices: run_batch(arguments.seed, indices, sources, weights, arguments.limit, at)
        )
        first = indices.stop
        if found is None:
            index = struct.unpack("<q", at[:8])[0]
            failures.append((index, "", f"the process ended with status {status}"))
            first = index + 1
            continue
        counts.update(found[0])
        slowest = max(slowest, tuple(found[1]))
        growth = max(growth, found[2])
        failures += found[3]
        if first % 10_000 == 0:
            print(f"{first:,} in {time.perf_counter() - start:,.0f} s: {len(failures)} failures, slowest"
                  f" {1000 * slowest[0]:,.0f} ms, growth {growth / 2**20:.1f} MiB", flush=True)  # fmt: skip

    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"{arguments.cases:,} mutations of {len(sources)} policies, seed {arguments.seed},"
          f" in {time.perf_counter() - start:,.0f} s")  # fmt: skip
    for name in sorted(counts):
        print(f"  {name:<28}{counts[name]:>9,}")
    print(f"slowest: {1000 * slowest[0]:,.0f} ms ({slowest[1]}, number {slowest[2]})")
    print(f"largest growth of a resident set: {growth / 2**20:.1f} MiB")
    print(f"failures: {len(failures)}")
    if failures:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    for index, _, reason in failures[:20]:
        name, data = make_case(arguments.seed, index, sources, weights)
        path = arguments.keep / f"{name}-{arguments.seed}-{index}.policy"
        path.write_bytes(data)
        print(f"{path}: {reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
