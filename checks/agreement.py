"""Whether every engine gives the reference's bits, for random policies of policypress.testing.

    python checks/agreement.py                         # 1,000,000 pairs of policy and observation, some minutes
    python checks/agreement.py --pairs 20000           # fewer
    python checks/agreement.py --recurrent --pairs 100000  # of policies with a state, in sequences
    python checks/agreement.py --sanitize --pairs 50000  # under AddressSanitizer and UndefinedBehaviorSanitizer
    POLICYPRESS_KERNELS=avx2 python checks/agreement.py  # with these kernels of the native engine

Every --linear-every-th policy has one layer alone. Each gets random and extreme observations, which the native engine
(with the kernels of this machine) and the portable one answer in a batch and, some of them, one by one; every --c-every
th policy is exported to C, compiled and asked as well, an integer one without floats too, and every --onnx-every th to
ONNX, in both styles. Outputs, actions and states are compared bit for bit, of ONNX each integer of each layer too; what
the reference refuses must be refused. The first difference is printed with its seed, and the exit code is 1.

With --sanitize the extension (engine.c, the kernels of machines, its binding) is built with both sanitizers into a
temporary folder and loaded in the place of the installed one, in a process with their runtime. Exported C is built with
them too and runs its self test; ONNX Runtime is left out.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib.util
import math
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "src/policypress/runtime"
EXTENSION = "policypress.runtime.engine"
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs of policy and observation, at least")
    parser.add_argument("--observations", type=int, default=512, help="of each policy, at most")
    parser.add_argument("--c-every", type=int, default=10, help="compile every so many policies; 0: none")
    parser.add_argument("--onnx-every", type=int, default=20, help="export every so many policies to ONNX; 0: none")
    parser.add_argument("--linear-every", type=int, default=8, help="one layer in every so many policies; 0: in none")
    parser.add_argument("--recurrent", action="store_true", help="policies with a state alone, asked in sequences")
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
    from policypress.export.c import WEIGHTS
    from policypress.policy.ops import LayerNorm, walk
    from policypress.runtime import engine
    from policypress.testing import (
        DisagreementError,
        agree,
        random_linear_policy,
        random_policy,
        random_recurrent_policy,
    )

    version = subprocess.run([options.cc, "--version"], capture_output=True, text=True, check=True)
    print(f"{platform.machine()}, kernels {engine.KERNELS}, {version.stdout.splitlines()[0]}, NumPy {np.__version__}")
    counts: collections.Counter[str] = collections.Counter()
    kernels: collections.Counter[str] = collections.Counter()
    began, seed = time.perf_counter(), options.seed
    while counts["pairs"] < options.pairs:
        linear = options.linear_every and seed % options.linear_every == options.linear_every - 1
        made = random_recurrent_policy if options.recurrent else random_linear_policy if linear else random_policy
        policy, engines = made(seed), ["native", "portable"]
        if options.c_every and seed % options.c_every == 0:
            engines += ["C, self test"] if options.extension else ["C", "C, integers only"]
        if options.onnx_every and seed % options.onnx_every == 0 and not options.extension:
            engines += ["ONNX exact", "ONNX qdq"]
        try:
            found = agree(
                policy,
                engines=engines,
                count=max(2, min(options.observations, 2**20 // math.prod(policy.observation.shape))),
                seed=seed,
                weights=WEIGHTS[seed // 10 % len(WEIGHTS)] if policy.input is not None else "auto",
                command=[options.cc],
                flags=flags,
            )
        except DisagreementError as error:
            print(f"FAILED seed {seed}: {error}")
            return 1
        counts.update({"policies": 1, f"policies, {policy.numerics}": 1, "refused": found.refused})
        counts["policies, linear"] += bool(linear) and not options.recurrent
        counts["policies with a state"] += bool(policy.state_size)
        counts["policies with a LayerNorm"] += any(isinstance(op, LayerNorm) for op in walk(policy.ops))
        counts["pairs"] += found.observations + found.refused
        counts.update({f"{name}: answers": answers for name, answers in found.answers.items()})
        counts.update({f"{name}: policies": 1 for name in found.answers})
        counts.update({f"{name}: policies it cannot hold": 1 for name in found.left_out})
        kernels.update(found.kernels)
        seed += 1
    for name, count in sorted(counts.items()):
        print(f"{name:46} {count:12,}")
    print("kernels of the native engine's steps:", dict(kernels))
    print(f"no difference; {time.perf_counter() - began:.0f} s{', sanitized' if options.extension else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
