"""Flash and RAM of trained policies exported to C in several forms, for docs/c-export.md.

    python benchmarks/export_size.py    # needs the Debian packages gcc-arm-none-eabi and libnewlib-arm-none-eabi

Every row is an export whose own Makefile compiles it for a Cortex-M4 without FPU and lists its object (`make size`).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import policypress as pp
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.testing import stored_policies

ROOT = Path(__file__).resolve().parents[1]
ROWS: tuple[tuple[str, Weights, bool], ...] = (
    ("walker-narrow", "auto", False),
    ("walker-narrow", "auto", True),
    ("cheetah-narrow", "auto", False),
    ("cheetah-narrow", "payload", False),
    ("cheetah-98", "dense", False),
    ("cheetah-98", "auto", False),
    ("cheetah-98", "auto", True),
    ("cheetah-98", "payload", False),
    ("cheetah-90", "auto", False),
    ("cheetah-90", "payload", False),
    ("catch-narrow", "auto", False),
    ("catch-narrow", "payload", False),
)
MAKE = (
    "CC=arm-none-eabi-gcc",
    "AR=arm-none-eabi-ar",
    "SIZE=arm-none-eabi-size",
    "CFLAGS=-Os -mthumb -mcpu=cortex-m4 -mfloat-abi=soft",
)


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of text and of static RAM of the export's object."""
    listed = subprocess.run(["make", "-s", "size", *MAKE], cwd=folder, check=True, capture_output=True, text=True)
    text, data, bss = map(int, listed.stdout.splitlines()[-1].split()[:3])
    return text, data + bss


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| policy | form | arrays | the rest: structures, engine | all text | RAM |")
    print("|---|---|---:|---:|---:|---:|")
    stored = stored_policies(ROOT / "results")
    for name, weights, integer_only in ROWS:
        policy = pp.load(stored[name])
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "net"
            config = CExportConfig("net", integer_only=integer_only, weights=weights, check=False)
            report = export_c(policy, folder, config)
            text, ram = sizes(folder)
        form = f"`{weights}`"
        if weights == "auto":
            form += ": " + ", ".join(dict.fromkeys(layer.form for layer in report.layers))
        form += ", `--integer-only`" * integer_only
        cells = [report.array_bytes, text - report.array_bytes, text, ram]
        print(f"| {name} | {form} | " + " | ".join(f"{cell:,}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
