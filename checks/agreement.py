"""Whether every engine gives the reference's bits, for the random policies of policypress.testing.

    python checks/agreement.py                         # 1,000,000 pairs of policy and observation, some minutes
    python checks/agreement.py --pairs 20000           # fewer
    python checks/agreement.py --sanitize --pairs 50000  # under AddressSanitizer and UndefinedBehaviorSanitizer

Each policy gets random and extreme observations, which the native engine (with the kernels of this machine) and the
portable one answer in a batch and, some of them, one by one; every --c-every th policy is exported to C, compiled and
asked as well, an integer one without floats too. Outputs and actions are compared bit for bit; what the reference
refuses must be refused. The first difference is printed with its seed, and the exit code is 1.

With --sanitize the extension (engine.c, the kernels of machines, its binding) is built with both sanitizers into a
temporary folder and loaded in the place of the installed one, in a process with their runtime. Exported C is built with
them too and runs its self test.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RUNTIME = ROOT / "src/policypress/runtime"
EXTENSION = "policypress.runtime.engine"
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SINGLES = 8


def load_extension(path: str) -> None:
    """Loads the extension at ``path`` as the engine, before anything else does."""
    import policypress.runtime

    spec = importlib.util.spec_from_file_location(EXTENSION, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[EXTENSION] = policypress.runtime.engine = module  # type: ignore[attr-defined]


def build_sanitized(folder: str, compiler: str) -> str:
    """The extension with sanitizers; returns its path."""
    sources = sorted(map(str, RUNTIME.glob("engine*.c")))
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}", f"-I{RUNTIME}"]
    target = f"{folder}/engine.so"
    interface = hashlib.sha256((RUNTIME / "engine.h").read_bytes()).hexdigest()  # as setup.py defines it
    exact = ("-ffp-contract=off", "-fno-trapping-math", f'-DENGINE_INTERFACE="{interface}"')
    subprocess.run([compiler, *SANITIZE, *exact, "-fPIC", "-shared", *includes, *sources, "-o", target], check=True)
    return target


def sanitized(arguments: list[str], compiler: str) -> int:
    """This script again, in a process with the sanitizers; its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        extension = build_sanitized(folder, compiler)
        found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        environment = {
            **os.environ,
            "LD_PRELOAD": found.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # Python itself leaks
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # so that small memory is watched as well
        }
        rest = [argument for argument in arguments if argument != "--sanitize"]
        command = [sys.executable, __file__, *rest, "--extension", extension]
        return subprocess.run(command, env=environment, check=False).returncode


class Failure(Exception):
    """An engine that does not answer as the reference does."""


class Comparison:
    """Compares engines policy by policy and counts what was compared."""

    def __init__(self, observations: int, compiler: list[str], flags: tuple[str, ...]) -> None:
        self.observations, self.compiler, self.flags = observations, compiler, flags
        self.counts: collections.Counter[str] = collections.Counter()
        self.kernels: collections.Counter[str] = collections.Counter()

    def policy(self, seed: int, *, compiled: bool) -> None:
        from policypress.runtime.native import make_engine
        from policypress.testing import random_policy

        policy = random_policy(seed)
        observations, wanted, refused = self.reference(policy, seed)
        self.counts["policies"] += 1
        self.counts[f"policies, {policy.numerics}"] += 1
        self.counts["refused"] += len(refused)
        self.counts["pairs"] += len(observations) + len(refused)
        for name, engine in (("native", policy.engine), ("portable", make_engine(policy, portable=True))):
            self.engine(f"seed {seed}, {name}", engine, policy, observations, wanted, refused)
            self.counts[f"{name} answers"] += 2 * len(observations) + 2 * min(SINGLES, len(observations))
        self.kernels.update(policy.engine.kernels())
        if compiled:
            self.compiled(seed, policy, observations, wanted, refused)

    def reference(self, policy: Any, seed: int) -> tuple[Any, Any, Any]:
        """Observations that the reference answers, its answers, and those that it refuses."""
        from policypress.policy import reference
        from policypress.policy.observations import accepted as legal
        from policypress.policy.observations import observations

        size = max(2, min(self.observations, 2**20 // int(np.prod(policy.observation.shape))))
        asked = observations(policy, size, seed)
        accepted = legal(policy, asked)
        refused = asked[:0]
        if len(accepted) < len(asked):
            known = {row.tobytes() for row in accepted}
            refused = np.array([row for row in asked if row.tobytes() not in known]).reshape(-1, *asked.shape[1:])
        if not len(accepted):
            return accepted, (None, None), refused
        outputs = reference.run(policy, reference.observe(policy.observation, accepted))
        return accepted, (outputs, reference.act(policy.action, outputs)), refused

    def engine(self, name: str, engine: Any, policy: Any, observations: Any, wanted: Any, refused: Any) -> None:
        outputs, actions = wanted
        if len(observations):
            same(f"{name}, outputs", engine.outputs(observations), outputs)
            same(f"{name}, actions", engine.predict(observations), actions)
        for i in range(min(SINGLES, len(observations))):
            same(f"{name}, action {i} alone", engine.predict(observations[i]), actions[i])
            same(f"{name}, output {i} alone", engine.outputs(observations[i : i + 1]), outputs[i : i + 1])
        for row in refused[:SINGLES]:
            if engine.outputs(row[None]) is not None or engine.predict(row) is not None:
                raise Failure(f"{name} answers what the reference refuses")

    def compiled(self, seed: int, policy: Any, observations: Any, wanted: Any, refused: Any) -> None:
        from policypress.errors import ObservationError, UnsupportedError
        from policypress.export.c import WEIGHTS, CExportConfig, export_c
        from policypress.export.compile import CompiledIntegers, CompiledPolicy, check_folder
        from policypress.policy import reference

        weights = WEIGHTS[seed // 10 % len(WEIGHTS)] if policy.input is not None else "auto"
        if not len(observations):
            return
        with tempfile.TemporaryDirectory() as place:
            export_c(policy, f"{place}/c", CExportConfig("policy", weights=weights, check=False))
            self.counts[f"C exports, {weights}"] += 1
            if self.flags != ("-O2",):  # a library with sanitizers cannot be loaded again and again: its self test
                check_folder(f"{place}/c", self.compiler, self.flags)
                return
            built = CompiledPolicy(f"{place}/c", self.compiler, self.flags)
            name = f"seed {seed}, compiled C, {weights}"
            if built.self_test():
                raise Failure(f"{name}: its self test fails")
            same(f"{name}, outputs", built.outputs(observations), wanted[0])
            same(f"{name}, actions", built.predict(observations), wanted[1])
            for i in range(min(SINGLES, len(observations))):
                same(f"{name}, action {i} alone", built.predict(observations[i]), wanted[1][i])
            for row in refused[:SINGLES]:
                try:
                    built.predict(row)
                except ObservationError:
                    continue
                raise Failure(f"{name} answers what the reference refuses")
            self.counts["C answers"] += 2 * len(observations) + min(SINGLES, len(observations))
            if policy.input is None:
                return
            try:
                export_c(policy, f"{place}/i", CExportConfig("policy", True, weights, check=False))
            except UnsupportedError:
                return
            integers = CompiledIntegers(f"{place}/i", self.compiler, self.flags)
            if integers.self_test():
                raise Failure(f"{name}, integers only: its self test fails")
            codes = reference.quantize_input(policy.input, reference.observe(policy.observation, observations))
            sums = integers.run(codes.astype(np.int32))
            outputs = sums.astype(np.float32) * policy.layers[-1].scale
            same(f"{name}, integers only, outputs", outputs, wanted[0])
            if policy.action.kind != "box":
                same(f"{name}, integers only, actions", integers.choose(sums), wanted[1])
            self.counts["integer-only answers"] += len(observations)


def same(name: str, found: Any, wanted: Any) -> None:
    """Raise Failure unless both arrays are equal in every bit."""
    if found is None:
        raise Failure(f"{name}: refused")
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise Failure(f"{name}: {found.dtype}{found.shape} and not {wanted.dtype}{wanted.shape}")
    if found.tobytes() != wanted.tobytes():
        rows = [i for i, (a, b) in enumerate(zip(np.atleast_1d(found), np.atleast_1d(wanted), strict=True))
                if np.asarray(a).tobytes() != np.asarray(b).tobytes()]  # fmt: skip
        first = rows[0]
        raise Failure(
            f"{name}: {len(rows)} differ, the first is {first}:"
            f" {np.atleast_1d(found)[first]} and not {np.atleast_1d(wanted)[first]}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs of policy and observation, at least")
    parser.add_argument("--observations", type=int, default=512, help="of each policy, at most")
    parser.add_argument("--c-every", type=int, default=10, help="compile every so many policies; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the first policy")
    parser.add_argument("--cc", default="gcc", help="C compiler")
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--extension", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sanitize:
        return sanitized(sys.argv[1:], options.cc)
    flags: tuple[str, ...] = ("-O2",)
    if options.extension:
        os.environ.pop("LD_PRELOAD", None)  # compilers need no sanitizer
        load_extension(options.extension)
        flags = SANITIZE
    from policypress.runtime import engine

    version = subprocess.run([options.cc, "--version"], capture_output=True, text=True, check=True)
    print(f"{platform.machine()}, kernels {engine.KERNELS}, {version.stdout.splitlines()[0]}, NumPy {np.__version__}")
    comparison = Comparison(options.observations, [options.cc], flags)
    began, seed = time.perf_counter(), options.seed
    try:
        while comparison.counts["pairs"] < options.pairs:
            comparison.policy(seed, compiled=options.c_every > 0 and seed % options.c_every == 0)
            seed += 1
    except Failure as failure:
        print(f"FAILED {failure}")
        return 1
    for name, count in sorted(comparison.counts.items()):
        print(f"{name:24} {count:12,}")
    print("kernels of the native engine's steps:", dict(comparison.kernels))
    print(f"no difference; {time.perf_counter() - began:.0f} s{', sanitized' if options.extension else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
