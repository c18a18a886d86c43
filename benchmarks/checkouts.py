"""Another checkout beside this one: each has a process, and both are asked in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent


class Checkout:
    """A process of the package of one checkout, which runs ``worker``: Python that answers each line of JSON by a
    number."""

    def __init__(self, path: Path, worker: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(path.resolve() / "src"), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", worker], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, question: Any) -> float:
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        to.write(json.dumps(question) + "\n")
        to.flush()
        if not (line := answers.readline()):
            raise SystemExit("a checkout's process ended: its error stands above; build its C in place.")
        return float(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
