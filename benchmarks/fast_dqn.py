"""DQN agents for Atari in minutes: many environments, and gradient steps in one CUDA graph.

    python benchmarks/fast_dqn.py --out runs/pong --steps 800000
    python benchmarks/fast_dqn.py --out runs/pong-resnet --steps 800000 --network resnet --gradient-steps 4

The agent is a plain Stable-Baselines3 archive (``agent.zip``). Stable-Baselines3 makes 60 to 100 steps a second on a
core; here ALE's own vector of environments steps in threads while the GPU takes ``--gradient-steps`` gradient steps,
captured once and replayed (Mnih et al., Nature 518, 2015; Huber loss, Adam). Without a GPU the same steps run one by
one. ``--start AGENT.zip`` goes on from an agent, with another replay buffer, which its own actions fill.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN
from stable_baselines3.common.save_util import load_from_zip_file

from policypress.rl.resnet import EXTRACTOR_KWARGS

GAMMA, MAX_GRADIENT = 0.99, 10.0
EVALUATED = 16
"""Episodes of an evaluation."""


def made(game: str, count: int, threads: int, clip: bool = True) -> AtariVectorEnv:
    """Environments with the usual preprocessing: 4 grey frames of 84 x 84, each the maximum of two."""
    return AtariVectorEnv(
        game, num_envs=count, num_threads=threads, reward_clipping=clip, autoreset_mode=AutoresetMode.SAME_STEP
    )


class OneGame(gymnasium.Env[np.ndarray, int]):
    """The spaces of a game, which Stable-Baselines3 wants to see to build its agent."""

    def __init__(self, spaces: AtariVectorEnv) -> None:
        self.observation_space, self.action_space = spaces.single_observation_space, spaces.single_action_space


class Training:
    """One agent: its environments, its replay buffer on the device, its gradient steps."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.arguments, self.device = arguments, device
        self.envs = made(arguments.game, arguments.envs, arguments.threads)
        self.model = DQN(
            "CnnPolicy",
            OneGame(self.envs),
            seed=arguments.seed,
            device=device,
            buffer_size=1,
            learning_rate=arguments.learning_rate,
            policy_kwargs=EXTRACTOR_KWARGS[arguments.network],
        )
        if arguments.start:
            found = load_from_zip_file(arguments.start, device=device)[1]
            self.model.policy.load_state_dict(found["policy"])
        captured: dict[str, Any] = {"capturable": True} if device.type == "cuda" else {}
        self.optimizer = self.model.policy.optimizer = torch.optim.Adam(
            self.model.q_net.parameters(), lr=arguments.learning_rate, fused=True, **captured
        )
        count = arguments.envs
        rows = arguments.capacity // count
        self.frames = torch.zeros(rows, count, *self.envs.single_observation_space.shape, dtype=torch.uint8).to(device)
        self.chosen = torch.zeros(rows, count, dtype=torch.long, device=device)
        self.rewards, self.ends = (torch.zeros(rows, count, device=device) for _ in range(2))
        # Rows that may be drawn: the newest has no successor yet, and its own is the oldest's place.
        self.at, self.newest = 0, torch.zeros((), dtype=torch.long, device=device)
        self.drawable = torch.zeros((), device=device)
        self.random = np.random.default_rng(arguments.seed)
        self.generator = torch.Generator(device)
        self.generator.manual_seed(arguments.seed)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.steps = self.updates = 0
        self.returns: list[float] = []
        self.running = np.zeros(count)

    def update(self) -> None:
        """One gradient step on transitions drawn uniformly."""
        batch, rows = self.arguments.batch, len(self.frames)
        back = (torch.rand(batch, device=self.device, generator=self.generator) * self.drawable).long() + 1
        row = (self.newest - back) % rows
        env = torch.randint(self.arguments.envs, (batch,), device=self.device, generator=self.generator)
        with torch.no_grad():
            best = self.model.q_net_target(self.frames[(row + 1) % rows, env]).max(1).values
            target = self.rewards[row, env] + (1 - self.ends[row, env]) * GAMMA * best
        found = self.model.q_net(self.frames[row, env]).gather(1, self.chosen[row, env][:, None])[:, 0]
        self.optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.smooth_l1_loss(found, target).backward()
        torch.nn.utils.clip_grad_norm_(self.model.q_net.parameters(), MAX_GRADIENT)
        self.optimizer.step()

    def capture(self) -> None:
        """Record a gradient step as a CUDA graph; the few steps that this takes are steps as any other."""
        if self.stream is None:
            return
        for _ in range(3):
            self.update()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.update()

    def actions(self, observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model.q_net(torch.from_numpy(observations).to(self.device)).argmax(1).cpu().numpy()

    def step(self, observations: np.ndarray) -> np.ndarray:
        """One step of every environment, gradient steps at the same time; the observations that follow."""
        told = self.arguments
        explored = told.exploration
        if not told.start:
            explored = max(explored, 1 - (1 - explored) * self.steps / told.exploration_steps)
        actions = self.random.integers(self.envs.single_action_space.n, size=told.envs)
        if told.start or self.steps >= told.random_steps:
            actions = np.where(self.random.random(told.envs) < explored, actions, self.actions(observations))
        self.envs.send(actions)
        if self.steps >= told.random_steps:
            if self.updates == 0:
                self.capture()
            for _ in range(told.gradient_steps):
                self.graph.replay() if self.graph is not None else self.update()
            self.updates += told.gradient_steps
        following, rewards, terminated, truncated, _ = self.envs.recv()
        over = terminated | truncated
        kept = (observations, actions, rewards.astype(np.float32), over.astype(np.float32))
        for store, part in zip((self.frames, self.chosen, self.rewards, self.ends), kept, strict=True):
            store[self.at] = torch.from_numpy(part).to(self.device)
        self.newest.fill_(self.at)
        self.at = (self.at + 1) % len(self.frames)
        before, self.steps = self.steps, self.steps + told.envs
        self.drawable.fill_(min(self.steps // told.envs, len(self.frames)) - 1)
        if before // told.target_update != self.steps // told.target_update:
            with torch.no_grad():
                torch._foreach_copy_(list(self.model.q_net_target.parameters()), list(self.model.q_net.parameters()))
        self.running += rewards
        self.returns += self.running[over].tolist()
        self.running[over] = 0
        return following

    def evaluate(self) -> list[float]:
        """Returns of whole episodes of the greedy policy, one of each of other environments."""
        envs = made(self.arguments.game, EVALUATED, self.arguments.threads, clip=False)
        observations, _ = envs.reset(seed=10_000)
        totals, over = np.zeros(EVALUATED), np.zeros(EVALUATED, bool)
        while not over.all():
            observations, rewards, terminated, truncated, _ = envs.step(self.actions(observations))
            totals += np.where(over, 0, rewards)
            over |= terminated | truncated
        return totals.tolist()

    def run(self) -> None:
        """Train for so many steps, or until the time is over; keep the best of its evaluations."""
        told, started, spoken, best = self.arguments, time.monotonic(), 0.0, -np.inf
        observations, _ = self.envs.reset(seed=told.seed)
        marks = [round(told.steps * share) for share in told.evaluate_at]
        while self.steps < told.steps and (spent := time.monotonic() - started) < told.minutes * 60:
            observations = self.step(observations)
            if spent - spoken > 20:
                spoken = spent
                recent = np.mean(self.returns[-20:]) if self.returns else np.nan
                print(
                    f"{told.out} {spent:4.0f} s: {self.steps:,} steps, {self.updates:,} updates, {recent:.1f}",
                    flush=True,
                )
            if marks and self.steps >= marks[0]:
                marks.pop(0)
                returns = self.evaluate()
                print(f"{told.out} {self.steps:,} steps evaluated: {np.mean(returns):.2f}", flush=True)
                if np.mean(returns) > best:
                    best = np.mean(returns)
                    self.save(returns)

    def save(self, returns: list[float]) -> None:
        folder = self.arguments.out
        folder.mkdir(parents=True, exist_ok=True)
        for group in self.optimizer.param_groups:  # who goes on may have no GPU
            group |= {"capturable": False}
        self.model.num_timesteps = self.steps
        self.model.save(folder / "agent.zip")
        for group in self.optimizer.param_groups:
            group |= {"capturable": self.stream is not None}
        facts = {"game": self.arguments.game, "steps": self.steps, "updates": self.updates, "returns": returns}
        facts |= {"start": str(self.arguments.start), "torch": torch.__version__}
        (folder / "agent.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--game", default="pong", help="as ALE names its ROM")
    parser.add_argument("--start", type=Path, help="agent.zip to go on from")
    parser.add_argument("--network", choices=sorted(EXTRACTOR_KWARGS), default="nature")
    parser.add_argument("--steps", type=int, default=800_000, help="of the agent, four frames each")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--gradient-steps", type=int, default=16, help="a step of all environments")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--capacity", type=int, default=100_000)
    parser.add_argument("--random-steps", type=int, default=10_000, help="before the first gradient step")
    parser.add_argument("--exploration", type=float, default=0.02)
    parser.add_argument("--exploration-steps", type=int, default=150_000)
    parser.add_argument("--target-update", type=int, default=1_000)
    parser.add_argument("--evaluate-at", type=float, nargs="*", default=[0.5, 0.625, 0.75, 0.875, 1.0])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    training = Training(arguments, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if training.stream is None:
        training.run()
        return
    with torch.cuda.stream(training.stream):
        training.run()


if __name__ == "__main__":
    main()
