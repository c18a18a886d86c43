"""Same seed, same command, same bytes: one training and one compression of each kind, here and in another checkout.

    git worktree add ../before COMMIT && (cd ../before && python setup.py -q build_ext --inplace)
    python checks/same_bytes.py ../before

Each checkout runs the commands of ``RUNS`` in a folder of its own, one after another on one thread; the policies that
they freeze are compared byte by byte. Ends with status 1 if any differs. A run takes seconds; all of them, a minute or
two a checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
AGENT = ("--algo", "sac", "--env", "InvertedPendulum-v5")
SHORT = ("--episodes", "2", "--force")
STUDENT = (*SHORT, "--batches", "600", "--states", "2000")
RUNS: dict[str, tuple[str, ...]] = {
    "train": ("train", *AGENT, "--steps", "1200", "--sparsity", "0.8", "--hidden", "32,32", "--eval-episodes", "1",
              "--final-episodes", "2", "--eval-every", "600", "--set", "learning_starts=100"),
    "tanh": ("train", "--algo", "ppo", "--env", "InvertedPendulum-v5", "--steps", "1024", "--sparsity", "0.5",
             "--eval-episodes", "1", "--final-episodes", "2", "--eval-every", "600", "--set", "n_steps=128"),
    "narrow": ("compress", "{agent}", *AGENT, *STUDENT, "--hidden", "12,12"),
    "sparse": ("compress", "{agent}", *AGENT, *STUDENT, "--sparsity", "0.7"),
    "ptq": ("compress", "{agent}", *AGENT, *SHORT, "--method", "ptq", "--sparsity", "0.3"),
    "finetune": ("compress", "{agent}", *AGENT, *SHORT, "--method", "finetune", "--steps", "600", "--sparsity", "0.5",
                 "--trust"),
}  # fmt: skip
"""Arguments of ``policypress``; ``{agent}`` is an agent that this checkout has trained for all."""


def run(checkout: Path, arguments: tuple[str, ...], folder: Path, agent: Path) -> str:
    """The SHA-256 of the policy that ``checkout`` freezes in ``folder``."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(checkout / "src"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "policypress", *(part.format(agent=agent) for part in arguments)]
    done = subprocess.run(
        [*command, "--out", str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout.name}: {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return hashlib.sha256((folder / "policy.policy").read_bytes()).hexdigest()


def train_agent(path: Path) -> None:
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", "InvertedPendulum-v5", seed=1, learning_starts=100, device="cpu")
    model.learn(500)
    model.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare with, its C built in place")
    parser.add_argument("--only", choices=sorted(RUNS), nargs="*", default=[])
    options = parser.parse_args()
    differ = 0
    with tempfile.TemporaryDirectory() as name:
        folder, agent = Path(name), Path(name) / "agent.zip"
        train_agent(agent)
        for kind, arguments in RUNS.items():
            if options.only and kind not in options.only:
                continue
            here, there = (
                run(checkout, arguments, folder / f"{kind}-{which}", agent)
                for which, checkout in (("here", HERE), ("there", options.other.resolve()))
            )
            differ += here != there
            print(f"{kind:10} {here[:16]} {there[:16]} {'same' if here == there else 'DIFFERENT'}", flush=True)
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
