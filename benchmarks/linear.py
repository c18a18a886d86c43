"""Linear policies of 2018 as integers: bytes and returns of the baseline that is usually left out.

    python benchmarks/linear.py --weights FOLDER                      # every task that the folder has weights of
    python benchmarks/linear.py --weights FOLDER --env Walker2d-v5 --bits 6
    python benchmarks/linear.py --weights FOLDER --recount            # the bytes alone, as they are today

Mania, Guy and Recht 2018, "Simple random search of static linear policies is competitive for reinforcement learning"
(arXiv 1803.07055): action = weight (observation - mean) / std, clipped to its bounds. FOLDER/TASK.npz holds the arrays
``weight`` (actions, observations), ``mean`` and ``std`` (observations,); they are measured here, not kept.

As a policy of integers: an observation's code is its value over a power of two, about 1 / RESOLUTION of its standard
deviation; the matrix has one step, a share of the one with which its largest weight just fits; the mean is folded into
the bias, with the rounded weights, so that at the mean nothing is lost. The payload is the one that policypress writes.

Every number of bits, step and resolution is tried on seeds from 5000, from the fewest bytes on; the first that keeps
``--keep`` of what the float policy returns there, twice (few episodes, then more), is measured on seeds from 1000,
beside the float policy, whose bytes are those of its payload too. Rows of tasks that are not asked for stay in the CSV.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.config import Environment
from policypress.errors import PolicypressError
from policypress.files import replace_file
from policypress.measure.size import size
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import FLOAT_BITS, InputQuantization, Layer, weight_limit
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env
from policypress.rl.evaluate import FINAL_SEED, Evaluation, evaluate

OUT = Path(__file__).parents[1] / "docs" / "frontier" / "linear.csv"
COLUMNS = (
    "env", "form", "step", "resolution", "bytes", "mean", "low", "high", "std", "worst_tenth", "ended_early",
    "episodes",
)  # fmt: skip
ENV_KWARGS: dict[str, dict[str, Any]] = {"Ant-v5": {"include_cfrc_ext_in_observation": False}}
"""Without contact forces Ant's observations are the first 27 of those that the weights are for."""
SHARES = tuple(i / 10 for i in range(10, 2, -1))
RESOLUTIONS = (16,)
INPUT_BITS = 12  # means lie up to twenty standard deviations from 0
CHOICE_SEED, FEW, MORE = 5000, 2, 20


@dataclass(frozen=True)
class Linear:
    """action = weight (observation - mean) / std; ``weight`` (actions, observations)."""

    environment: Environment
    weight: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    action: ActionTransform
    observation: ObservationTransform

    def policy(self, layer: Layer, input: InputQuantization | None) -> Policy:
        return Policy((layer,), self.observation, self.action, input, 4 * (self.weight.size + len(self.weight)))

    def floating(self) -> Policy:
        slope = self.weight / self.std
        bias = -slope @ self.mean
        one = np.ones(1, np.float32)
        return self.policy(Layer(slope.astype(np.float32), bias.astype(np.float32), FLOAT_BITS, one, False), None)

    def integer(self, bits: int, share: float, resolution: int) -> Policy:
        inverse = 2.0 ** np.rint(np.log2(resolution / self.std))
        slope, limit = self.weight / self.std / inverse, weight_limit(bits)
        scale = np.array([share * np.abs(slope).max() / limit], np.float32)
        scale.view(np.uint32)[:] &= 0xFFFF0000  # the payload keeps such a scale in two bytes less
        codes = np.rint(slope / scale).clip(-limit, limit)
        bias = np.rint(-codes @ (inverse * self.mean))
        high = weight_limit(INPUT_BITS)
        return self.policy(
            Layer(codes.astype(np.int8), bias.astype(np.int32), bits, scale, False),
            InputQuantization(inverse.astype(np.float32), -high, high, INPUT_BITS),
        )

    def evaluate(self, policy: Policy, episodes: int, seed: int) -> Evaluation:
        return evaluate(policy, self.environment, episodes=episodes, seed=seed)


def load(path: Path) -> Linear:
    """The policy in ``path``, named after its task, for the environment's version 5."""
    name = f"{path.stem}-v5"
    environment = Environment(name, ENV_KWARGS.get(name, {}))
    env = make_env(environment, training=False)
    seen, action = env.observation_space, env.action_space
    env.close()
    count = seen.shape[0]
    with np.load(path) as arrays:
        weight, mean, std = (np.asarray(arrays[key], np.float64) for key in ("weight", "mean", "std"))
    low, high = action.low.astype(np.float32), action.high.astype(np.float32)
    return Linear(
        environment,
        weight[:, :count],
        mean[:count],
        std[:count],
        ActionTransform("box", action.shape, low=low, high=high),
        ObservationTransform((count,), seen.dtype.name),
    )


def smallest(linear: Linear, widths: Sequence[int], least: Sequence[float]) -> tuple[Policy, dict[str, Any]] | None:
    """The smallest policy with weights of ``widths`` bits that returns ``least`` in few and in more episodes, and how
    it was rounded."""
    tried = [
        (linear.integer(bits, share, resolution), {"form": f"{bits} bits", "step": share, "resolution": resolution})
        for bits in widths
        for share in SHARES
        for resolution in RESOLUTIONS
    ]
    for policy, said in sorted(tried, key=lambda one: payload(one[0])):
        counts = zip((FEW, MORE), least, strict=True)
        if all(linear.evaluate(policy, count, CHOICE_SEED).mean >= bound for count, bound in counts):
            return policy, said
    return None


def payload(policy: Policy) -> int:
    return int(size(policy).payload_bytes)


def row(linear: Linear, policy: Policy, episodes: int, **said: Any) -> dict[str, Any]:
    found = linear.evaluate(policy, episodes, FINAL_SEED).summary()
    figures = {key: f"{found[key]:.1f}" for key in ("mean", "low", "high", "std", "worst_tenth")}
    return {
        "env": linear.environment.env,
        **said,
        "bytes": payload(policy),
        **figures,
        "ended_early": f"{found['ended_early']:.2f}",
        "episodes": episodes,
    }


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]], envs: set[str]) -> None:
    """Replaces the rows of ``envs``; the others stay."""
    rows = [one for one in read(path) if one["env"] not in envs] + rows
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda one: one["env"]))


def recounted(row: dict[str, Any], linear: Linear) -> dict[str, Any]:
    """A row of the CSV with the bytes that its policy takes today."""
    if row["form"] == "float":
        policy = linear.floating()
    else:
        policy = linear.integer(int(row["form"].split()[0]), float(row["step"]), int(row["resolution"]))
    return {**row, "bytes": payload(policy)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder of TASK.npz")
    parser.add_argument("--env", action="append", help="a task, for example Swimmer-v5; repeat (default: all)")
    parser.add_argument("--bits", type=int, action="append", choices=range(2, 9), help="of a weight (default: 4 to 8)")
    parser.add_argument("--keep", type=float, default=0.98, help="share of the float policy's return (default: 0.98)")
    parser.add_argument("--episodes", type=int, default=100, help="episodes that measure (default: 100)")
    parser.add_argument("--recount", action="store_true", help="measure nothing, write the bytes anew")
    parser.add_argument("--out", type=Path, default=OUT, help="the CSV (default: docs/frontier/linear.csv)")
    given = parser.parse_args()
    files = {f"{path.stem}-v5": path for path in sorted(given.weights.glob("*.npz"))}
    if missing := sorted({*(given.env or ())} - files.keys()) or (not files and ["any task"]):
        sys.exit(
            f"{given.weights} has no weights of {', '.join(missing)}: give the folder of the arrays, TASK.npz each."
        )
    for name in given.env or files:
        linear = load(files[name])
        if given.recount:
            rows = [recounted(row, linear) for row in read(given.out) if row["env"] == name]
            write(given.out, rows, {name})
            continue
        floating = linear.floating()
        means = [linear.evaluate(floating, count, CHOICE_SEED).mean for count in (FEW, MORE)]
        rows = [row(linear, floating, given.episodes, form="float")]
        print(rows[-1], flush=True)
        found = smallest(linear, given.bits or range(4, 9), [given.keep * mean for mean in means])
        if found is None:
            print(f"{linear.environment.env}: none keeps {given.keep:.0%}", flush=True)
        else:
            policy, said = found
            rows.append(row(linear, policy, given.episodes, **said))
            print(rows[-1], flush=True)
        write(given.out, rows, {linear.environment.env})


if __name__ == "__main__":
    try:
        main()
    except PolicypressError as error:
        sys.exit(str(error))
