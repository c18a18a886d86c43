"""Exported C on other processors, under QEMU's user mode: whether it gives the reference's bits there too.

    python checks/processors.py [--policies 60] [--start 0] [--observations 200] [NAME ...]

Random policies of policypress.testing in every form of weights, and the trained ones of results/, are
exported, compiled for each processor (strict flags, -O2, static), run their self test, and answer random and extreme
observations. Exit code 1 if an action differs. A processor whose tools are missing is named; all of them on Debian:

    apt-get install --no-install-recommends qemu-user libc6-dev-{arm64,armhf,riscv64,powerpc,ppc64,mips,s390x}-cross \\
        gcc-{aarch64-linux-gnu,arm-linux-gnueabihf,{riscv64,powerpc,powerpc64,mips,s390x}-linux-gnu}
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import policypress as pp
from policypress.errors import PolicypressError
from policypress.export.c import WEIGHTS, CExportConfig, Weights, export_c
from policypress.export.compile import STRICT
from policypress.policy import reference
from policypress.testing import accepted, observations, random_policy, stored_policies

ROOT = Path(__file__).resolve().parents[1]


class Processor(NamedTuple):
    words: str
    compiler: str
    emulator: str
    order: str  # of bytes, as NumPy has it
    flags: tuple[str, ...] = ()


PROCESSORS = {
    "aarch64": Processor("64 bits, little-endian", "aarch64-linux-gnu-gcc", "qemu-aarch64", "<"),
    "aarch64-dotprod": Processor(
        "64 bits, little-endian", "aarch64-linux-gnu-gcc", "qemu-aarch64", "<", ("-march=armv8.2-a+dotprod",)
    ),
    "armhf": Processor("32 bits, little-endian", "arm-linux-gnueabihf-gcc", "qemu-arm", "<"),
    "riscv64": Processor("64 bits, little-endian", "riscv64-linux-gnu-gcc", "qemu-riscv64", "<"),
    "powerpc": Processor("32 bits, big-endian", "powerpc-linux-gnu-gcc", "qemu-ppc", ">"),
    "powerpc64": Processor("64 bits, big-endian", "powerpc64-linux-gnu-gcc", "qemu-ppc64", ">"),
    "mips": Processor("32 bits, big-endian", "mips-linux-gnu-gcc", "qemu-mips", ">"),
    # Where -std=c99 alone evaluates float32 as float64, and the engine refuses.
    "s390x": Processor("64 bits, big-endian", "s390x-linux-gnu-gcc", "qemu-s390x", ">", ("-std=gnu99",)),
}
MAIN = """
#include "policy.h"
#include <stdio.h>
static policy_observation observation[POLICY_OBSERVATION_SIZE];
static policy_action action[POLICY_ACTION_SIZE];
int main(void) {
    if (INIT)
        return 2;
    if (policy_self_test())
        return 3;
    while (fread(observation, sizeof observation, 1, stdin) == 1) {
        if (policy_predict(observation, action))
            return 4;
        if (fwrite(action, sizeof action, 1, stdout) != 1)
            return 5;
    }
    return 0;
}
"""
MEANING = {2: "its payload does not unpack", 3: "its self test fails", 4: "it refuses an observation"}


def policies(start: int, count: int) -> Iterator[tuple[str, pp.Policy, Weights]]:
    for seed in range(start, start + count):
        policy = random_policy(seed)
        yield f"random {seed}", policy, WEIGHTS[seed % len(WEIGHTS)] if policy.input is not None else "auto"
    for name, path in stored_policies(ROOT / "results").items():
        yield name, pp.load(path), "auto"


def answers(processor: Processor, folder: Path, weights: Weights, asked: Any, policy: pp.Policy) -> Any:
    """Actions of an export that is compiled for ``processor``; raises RuntimeError where it gives none."""
    facts = json.loads((folder / "export.json").read_text())
    program = folder.parent / "program"
    (folder / "main.c").write_text(MAIN.replace("INIT", "policy_init()" if weights == "payload" else "0"))
    sources = ["-Iinclude", *facts["sources"], facts["tests"][0], "main.c"]
    flags = [*STRICT, *processor.flags, "-O2", "-static"]
    compile_ = [processor.compiler, *flags, *sources, "-o", str(program)]
    subprocess.run(compile_, cwd=folder, check=True)
    swapped = asked.astype(asked.dtype.newbyteorder(processor.order))
    done = subprocess.run([processor.emulator, str(program)], input=swapped.tobytes(), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(MEANING.get(done.returncode, f"it ends with {done.returncode}"))
    dtype = np.dtype(policy.action.dtype).newbyteorder(processor.order)
    return np.frombuffer(done.stdout, dtype).reshape(len(asked), *policy.action.shape).astype(policy.action.dtype)


def compare(
    title: str,
    policy: pp.Policy,
    weights: Weights,
    most: int,
    names: list[str],
    compared: dict[str, int],
    failed: dict[str, int],
) -> int:
    """Counts the actions that were ``compared`` on each processor, and those that ``failed``; whether there was an
    export."""
    size = max(2, min(most, 2**18 // int(np.prod(policy.observation.shape))))
    asked = accepted(policy, observations(policy, size, 0))
    if not len(asked):
        return 0
    wanted = reference.act(policy.action, reference.run(policy, reference.observe(policy.observation, asked)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "c"
        try:
            export_c(policy, folder, CExportConfig("policy", weights=weights, check=False))
        except PolicypressError as error:
            print(f"{title}: {error}")
            return 0
        for name in names:
            try:
                found = answers(PROCESSORS[name], folder, weights, asked, policy)
                differing = sum(a.tobytes() != b.tobytes() for a, b in zip(found, wanted, strict=True))
                reason = f"{differing} of {len(asked)} actions differ"
            except RuntimeError as error:
                differing, reason = len(asked), str(error)
            compared[name] += len(asked)
            failed[name] += differing
            if differing:
                print(f"{title}, {weights}, {name}: {reason}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"processors: {', '.join(PROCESSORS)} (all)")
    parser.add_argument("--policies", type=int, default=60, help="random ones (60)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--observations", type=int, default=200, help="of each policy, at most (200)")
    arguments = parser.parse_args()
    names = []
    for name in arguments.names or PROCESSORS:
        tools = (PROCESSORS[name].compiler, PROCESSORS[name].emulator)
        if missing := [tool for tool in tools if shutil.which(tool) is None]:
            print(f"{name}: {' and '.join(missing)} not installed")
        else:
            names.append(name)
    compared, failed = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    exports = 0
    with suppress(KeyboardInterrupt):  # what was compared until then is told
        for title, policy, weights in policies(arguments.start, arguments.policies):
            exports += compare(title, policy, weights, arguments.observations, names, compared, failed)
    print("| processor | | compiler | exports | actions | differ |\n|---|---|---|---:|---:|---:|")
    for name in names:
        processor = PROCESSORS[name]
        version = subprocess.run([processor.compiler, "-dumpfullversion"], capture_output=True, text=True, check=True)
        print(
            f"| {name} | {processor.words} | gcc {version.stdout.strip()} | {exports} | {compared[name]:,} |"
            f" {failed[name]:,} |"
        )
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main())
