"""Opens every policy in ../shared/policies and ../shared/robots, and compares it on 10,000 observations.

What keeps a state is compared over episodes of 1,000 steps, two beside one another, each of which begins again once on
the way, at another step. A line each: its format, whether it is a black box or understood, and the largest difference.
A black box is compared with its own runtime, called here in the plainest way; what is understood with that too, its
float32 ``Policy`` answering; of a FILE that joins networks with those, one after another. Differences are relative to
the largest value that an output has on these observations; in brackets, to the largest value of each single answer,
which is small where all outputs pass through 0. Exit code 1 if a black box differs at all, or an understood policy by
more than 1e-5.

    python checks/opened.py [--observations 10000] [--steps 1000] [FILE ...]
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

from policypress.importers.formats import Asked, format_of, is_networks, open_file

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDERS = ("policies", "robots")
ALLOWED = 1e-5


def files() -> list[Path]:
    """Every policy there; what is beside them (weights outside, scenes) is of no format."""
    found = [path for folder in FOLDERS for path in sorted((SHARED / folder).rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix in (".onnx", ".pt", ".jit")]


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def own_answers(path: Path, x: NDArray[np.float32]) -> NDArray[Any]:
    """What the file's own runtime says, asked without anything of ours."""
    if path.suffix != ".onnx":
        module = torch.jit.load(path, map_location="cpu").eval()
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()
    session = session_of(path)
    taken = session.get_inputs()[0]
    if taken.shape[0] not in (1, x.shape[1]):
        return session.run(None, {taken.name: x})[0]
    rows = [row if len(taken.shape) == 2 else row[0] for row in np.split(x, len(x))]
    return np.stack([session.run(None, {taken.name: row})[0].ravel() for row in rows])


def own_episodes(path: Path, x: NDArray[np.float32], begins: NDArray[np.bool_]) -> NDArray[Any]:
    """The same of a file that keeps a state: for ``x`` (steps, shape), episodes begin where ``begins`` (steps,)."""
    found = []
    if path.suffix != ".onnx":
        module = torch.jit.load(path, map_location="cpu").eval()
        for row, begin in zip(x, begins, strict=True):
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    if begin and any(word in name for word in ("hidden", "cell", "state", "memory")):
                        buffer.zero_()
                found.append(module(torch.from_numpy(row[None])).numpy().ravel().copy())
        return np.stack(found)
    session = session_of(path)
    taken = {one.name: one for one in session.get_inputs()}
    given = [one.name for one in session.get_outputs()]
    kept = {name: f"{name.removesuffix('_in')}_out" for name in taken if name.endswith("_in")}
    (observed,) = taken.keys() - kept.keys()
    action = next(name for name in given if name not in kept.values())
    state: dict[str, Any] = {}
    for row, begin in zip(x, begins, strict=True):
        if begin:
            shapes = {name: [size if isinstance(size, int) else 1 for size in taken[name].shape] for name in kept}
            state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        given_row = row[None] if len(taken[observed].shape) == 2 else row
        answer, *after = session.run([action, *kept.values()], {observed: given_row, **state})
        state = dict(zip(kept, after, strict=True))
        found.append(answer.ravel())
    return np.stack(found)


def compared_episodes(path: Path, opened: Any, steps: int) -> tuple[float, tuple[float, float] | None]:
    """The largest differences of the black box, and of what was understood (by output, and by answer), if it was."""
    x = np.stack([observations(opened, steps, seed) for seed in (1, 2)], 1)
    begins = np.zeros((steps, 2), bool)
    begins[0] = begins[steps // 2, 0] = begins[steps // 3, 1] = True
    theirs = np.stack([own_episodes(path, x[:, row], begins[:, row]) for row in (0, 1)], 1)
    states: list[Any] = [None, None]
    answers = []
    for now, begin in zip(x, begins, strict=True):
        states = [None if new else state for new, state in zip(begin, states, strict=True)]
        answer, states = opened.steps(now, states)
        answers.append(answer)
    flat = theirs.reshape(2 * steps, -1)
    own = largest(np.concatenate(answers), flat)
    if opened.policy is None:
        return own, None
    state, answers = None, []
    for now, begin in zip(x, begins, strict=True):
        answer, state = opened.policy.predict(now, state, begin)
        answers.append(answer.reshape(2, -1))
    ours = np.concatenate(answers)
    return own, (largest(ours, flat), largest(ours, flat, 1))


def largest(ours: NDArray[Any], theirs: NDArray[Any], axis: int = 0) -> float:
    """The largest difference, relative to the largest value of each output (``axis`` 0) or answer (1)."""
    scale = np.abs(theirs).max(axis=axis, keepdims=True)
    return float((np.abs(ours - theirs) / np.maximum(scale, np.finfo(np.float32).tiny)).max())


def observations(opened: Any, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Observations as its normalizer expects them, or else normal ones."""
    assert opened.shape is not None
    x = np.random.default_rng(seed).normal(size=(count, *opened.shape))
    if opened.chain is not None and (normal := opened.chain.normalization) is not None:
        x = normal.mean + np.sqrt(normal.var + normal.epsilon) * x
    return x.astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--observations", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000)
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
            own, understood = compared_episodes(path, opened, given.steps)
        else:
            x = observations(opened, given.observations)
            theirs = opened.run(x) if is_networks(path) else own_answers(path, x)
            own, understood = largest(opened.run(x), theirs), None
            if opened.policy is not None:
                ours = opened.policy.predict(x)[0].reshape(len(x), -1)
                understood = largest(ours, theirs), largest(ours, theirs, 1)
        failed |= own != 0.0
        memory = ", over episodes" if opened.steps is not None else ""
        if understood is None:
            print(f"{label} black box    {own:.1e}            first not understood: {opened.unknown}{memory}")
            continue
        failed |= understood[0] > ALLOWED
        print(f"{label} understood   {understood[0]:.1e} ({understood[1]:.1e}){memory}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
