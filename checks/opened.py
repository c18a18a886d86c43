"""Opens every feed-forward policy in ../shared/policies and ../shared/robots, and compares it on 10,000 observations.

A line each: its format, whether it is a black box or understood, and the largest difference. A black box is compared
with its own runtime, called here in the plainest way; what is understood with that too, its float32 ``Policy``
answering. Differences are relative to the largest value that an output has on these observations; in brackets, to the
largest value of each single answer, which is small where all outputs pass through 0. Exit code 1 if a black box differs
at all, or an understood policy by more than 1e-5.

    python checks/opened.py [--observations 10000] [FILE ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from policypress.importers.formats import Asked, format_of, open_file

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDERS = ("policies", "robots")
ALLOWED = 1e-5


def files() -> list[Path]:
    """Every policy there; what is beside them (weights outside, scenes) is of no format."""
    found = [path for folder in FOLDERS for path in sorted((SHARED / folder).rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix in (".onnx", ".pt", ".jit")]


def own_answers(path: Path, x: NDArray[np.float32]) -> NDArray[Any]:
    """What the file's own runtime says, asked without anything of ours."""
    if path.suffix != ".onnx":
        module = torch.jit.load(path, map_location="cpu").eval()
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    if taken.shape[0] not in (1, x.shape[1]):
        return session.run(None, {taken.name: x})[0]
    rows = [row if len(taken.shape) == 2 else row[0] for row in np.split(x, len(x))]
    return np.stack([session.run(None, {taken.name: row})[0].ravel() for row in rows])


def largest(ours: NDArray[Any], theirs: NDArray[Any], axis: int = 0) -> float:
    """The largest difference, relative to the largest value of each output (``axis`` 0) or answer (1)."""
    scale = np.abs(theirs).max(axis=axis, keepdims=True)
    return float((np.abs(ours - theirs) / np.maximum(scale, np.finfo(np.float32).tiny)).max())


def observations(opened: Any, count: int) -> NDArray[np.float32]:
    """Observations as its normalizer expects them, or else normal ones."""
    assert opened.shape is not None
    x = np.random.default_rng(0).normal(size=(count, *opened.shape))
    if opened.chain is not None and (normal := opened.chain.normalization) is not None:
        x = normal.mean + np.sqrt(normal.var + normal.epsilon) * x
    return x.astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--observations", type=int, default=10_000)
    given = parser.parse_args()
    paths = given.files or files()
    if not paths:
        print(f"there are no policies in {SHARED}")
        return 0
    failed = False
    for path in paths:
        found = format_of(path)
        opened = open_file(Asked(path))
        name = path.relative_to(SHARED) if path.is_relative_to(SHARED) else path
        label = f"{name!s:40} {found.name if found else '?':12}"
        if opened.steps is not None:
            print(f"{label} recurrent: not compared here")
            continue
        x = observations(opened, given.observations)
        theirs = own_answers(path, x)
        own = largest(opened.run(x), theirs)
        failed |= own != 0.0
        if opened.policy is None:
            print(f"{label} black box    {own:.1e}            first not understood: {opened.unknown}")
            continue
        ours = opened.policy.predict(x)[0].reshape(len(x), -1)
        difference = largest(ours, theirs)
        failed |= difference > ALLOWED
        print(f"{label} understood   {difference:.1e} ({largest(ours, theirs, 1):.1e})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
