"""Code, tables and memory that decoding a payload takes on a microcontroller.

    python benchmarks/decoder_size.py [-- OPTION ...]

Needs the Debian packages gcc-arm-none-eabi and libnewlib-arm-none-eabi. payload.c, which includes the decoder of
coder.c, is compiled with -Os -mthumb and the compiler's options given. "Helpers" is what the linker adds of the
compiler's and the C library (division, 64-bit products, memset, memcpy), which firmware often holds anyway. State and
workspace are the struct payload_memory, columns the lines beside it, stack the deepest chain of frames by
-fcallgraph-info; weights, biases and the rest belong to the policy and are not counted.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RUNTIME = Path(__file__).parents[1] / "src" / "policypress" / "runtime"
BOUND = 4096
CPUS = ("cortex-m0", "cortex-m3", "cortex-m4")
PROBE = """
#include "payload.h"
int memory[sizeof(payload_memory)];
int line[sizeof(coder_line)];
int context[sizeof(coder)];
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sections(path: str) -> dict[str, int]:
    """Bytes of each section of an object file."""
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\.\S+)\s+(\d+)", run("arm-none-eabi-size", "-A", path), re.M)}


def deepest(folder: Path) -> int:
    """Bytes of stack from payload_decode down, library functions not included."""
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    text = (folder / "payload.ci").read_text()
    for title, label in re.findall(r'node: \{ title: "([^"]+)" label: "([^"]+)"', text):
        found = re.search(r"(\d+) bytes", label)
        if found:
            frames[title] = int(found[1])
    for source, target in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
        calls.setdefault(source, set()).add(target)

    def depth(function: str) -> int:
        return frames.get(function, 0) + max((depth(inner) for inner in calls.get(function, ())), default=0)

    return depth("payload_decode")


def measure(cpu: str, folder: Path, options: list[str]) -> list[int]:
    compile_ = ["arm-none-eabi-gcc", "-std=c99", "-Os", "-mthumb", f"-mcpu={cpu}", *options]
    target = str(folder / "payload.o")
    run(*compile_, "-fcallgraph-info=su", "-c", str(RUNTIME / "payload.c"), "-o", target)
    found = sections(target)
    code = [sum(size for name, size in found.items() if name.startswith(kind)) for kind in (".text", ".rodata")]
    linked = str(folder / "linked.elf")
    options = ["-specs=nano.specs", "-nostartfiles", "-Wl,--gc-sections,--entry=payload_decode"]
    run(*compile_, *options, target, "-o", linked)
    total = sum(size for section, size in sections(linked).items() if section in (".text", ".rodata"))
    probe = folder / "probe.c"
    probe.write_text(PROBE)
    run(*compile_, f"-I{RUNTIME}", "-c", str(probe), "-o", str(folder / "probe.o"))
    symbols = run("arm-none-eabi-nm", "-S", str(folder / "probe.o"))
    size = {m[2]: int(m[1], 16) // 4 for m in re.finditer(r"^\w+ (\w+) \w (\w+)$", symbols, re.M)}
    return [*code, sum(code), total - sum(code), size["memory"], size["line"], deepest(folder)]


def _verdict(size: int) -> str:
    return "holds" if size <= BOUND else "falls short"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="more options of the compiler")
    options = parser.parse_args().options
    if shutil.which("arm-none-eabi-gcc") is None:
        print("arm-none-eabi-gcc is not here: install gcc-arm-none-eabi and libnewlib-arm-none-eabi.", file=sys.stderr)
        return 2
    rows = [
        "code", "tables", "together", "helpers of the compiler", "state and workspace", "each column, and 2", "stack",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        columns = [measure(cpu, Path(folder), options) for cpu in CPUS]
    print(run("arm-none-eabi-gcc", "--version").splitlines()[0])
    print(f"{'bytes':<26}" + "".join(f"{cpu:>12}" for cpu in CPUS))
    for row, *values in zip(rows, *columns, strict=True):
        print(f"{row:<26}" + "".join(f"{value:>12,}" for value in values))
        if row == "together":
            print(f"{f'at most {BOUND:,}':<26}" + "".join(f"{_verdict(value):>12}" for value in values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
