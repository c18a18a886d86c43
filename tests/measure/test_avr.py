"""A short run of benchmarks/avr.py: exported C on an emulated 8-bit processor with 16-bit integers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def missing() -> bool:
    if shutil.which("avr-gcc") is None or shutil.which("simavr") is None:
        return True
    command = ["avr-gcc", "-mmcu=atmega328p", "-E", "-"]
    return subprocess.run(command, input=b"#include <avr/io.h>", capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(missing(), reason="gcc-avr, avr-libc or simavr is not here.")
def test_an_avr_gives_the_references_sums() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "avr.py"), "--observations", "30", "--random", "30"]
    done = subprocess.run([*command, "keep-cheetah"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 0 of 30 |" in done.stdout
    found = re.search(r"(\d+) random policies", done.stdout)
    assert found is not None
    assert int(found[1]) >= 5
