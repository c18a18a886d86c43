"""A short run of checks/fuzz_policy_files.py, which counts everything but ArtifactError as a failure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="The memory of a process is measured on Linux.")
def test_hostile_files_are_refused(tmp_path):
    script = ROOT / "checks" / "fuzz_policy_files.py"
    # The limit of time is for a machine that does nothing else: here a file may only not hang.
    command = [sys.executable, str(script), "--cases", "500", "--seed", "1", "--limit", "60", "--keep", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(count) for name, count in re.findall(r"^  (\w+) +(\d+)$", done.stdout, re.M)}
    assert counts["refused"] > 300
    assert counts["accepted"] > 10
    kinds = ("bare", "card", "frame", "numbers", "packed", "payload_bytes", "vectors", "whole_file")
    assert min(counts[name] for name in kinds) > 5
