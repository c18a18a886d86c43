"""SAC agents in minutes: many environments, and gradient steps in one CUDA graph.

    python benchmarks/fast_sac.py --out runs/agents --minutes 8 --task Ant-v5 --task Humanoid-v5

The agents are plain Stable-Baselines3 archives (``ENV.zip``), for tasks whose agents nobody hands us. Stable-Baselines3
takes a gradient step after each step of one environment, about 60 a second on a core; here ``--envs`` environments step
in ``--workers`` processes while the GPU takes ``--gradient-steps`` gradient steps, captured once and replayed
(Haarnoja et al., arXiv 1812.05905; fewer gradient steps a step of the environment, larger batches). Without a GPU the
same steps run one by one. Observations leave out the contact forces of Ant and what Humanoid tells twice: positions and
velocities remain, as ``ENV.json`` says.
"""

import argparse
import json
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC

PLAIN: dict[str, dict[str, Any]] = {
    "Ant-v5": {"include_cfrc_ext_in_observation": False},
    "Humanoid-v5": {
        f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    },
}
"""Keyword arguments of ``gymnasium.make`` that leave positions and velocities."""
CAPACITY = 2_000_000
RANDOM_STEPS = 20_000
"""Steps of uniformly random actions before the first gradient step."""


def work(pipe: Connection, env_id: str, seeds: list[int]) -> None:
    """Step environments: actions ``(n, a)`` in; states that follow and to act on next, rewards and ends out."""
    envs = [gymnasium.make(env_id, **PLAIN.get(env_id, {})) for _ in seeds]
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    pipe.send(np.asarray(observations, np.float32))
    while (actions := pipe.recv()) is not None:
        arrived, rewards, terminated, truncated, following = [], [], [], [], []
        for env, action in zip(envs, actions, strict=True):
            observation, reward, fallen, over, _ = env.step(action)
            arrived.append(observation)
            rewards.append(reward)
            terminated.append(fallen)
            truncated.append(over)
            following.append(env.reset()[0] if fallen or over else observation)
        states = np.asarray([arrived, following], np.float32)
        pipe.send((states, np.asarray(rewards, np.float32), np.asarray(terminated), np.asarray(truncated)))


class Environments:
    """Environments in worker processes, stepped together."""

    def __init__(self, env_id: str, count: int, workers: int, seed: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipes: list[Connection] = []
        for part in np.array_split(np.arange(count), workers):
            ours, theirs = context.Pipe()
            seeds = [int(seed + i) for i in part]
            context.Process(target=work, args=(theirs, env_id, seeds), daemon=True).start()
            self.pipes.append(ours)
        self.observations = np.concatenate([pipe.recv() for pipe in self.pipes])

    def send(self, actions: np.ndarray) -> None:
        for pipe, part in zip(self.pipes, np.array_split(actions, len(self.pipes)), strict=True):
            pipe.send(part)

    def receive(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """States arrived at ``(n, d)``, rewards, terminated, truncated ``(n,)``; ``observations`` go on from there."""
        states, rewards, terminated, truncated = zip(*(pipe.recv() for pipe in self.pipes), strict=True)
        arrived, self.observations = np.concatenate(states, axis=1)
        return arrived, np.concatenate(rewards), np.concatenate(terminated), np.concatenate(truncated)


class Training:
    """One agent: its environments, its replay buffer on the device, its gradient steps."""

    def __init__(self, env_id: str, arguments: argparse.Namespace, device: torch.device) -> None:
        self.env_id, self.device, self.arguments = env_id, device, arguments
        self.envs = Environments(env_id, arguments.envs, arguments.workers, arguments.seed * 1000)
        env = gymnasium.make(env_id, **PLAIN.get(env_id, {}))
        told = {"learning_rate": arguments.learning_rate, "batch_size": arguments.batch}
        self.model = SAC("MlpPolicy", env, seed=arguments.seed, device=device, buffer_size=1, **told)
        space = env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        assert env.observation_space.shape is not None
        self.low, self.high = space.low, space.high
        capacity = CAPACITY // arguments.envs * arguments.envs
        d, a = env.observation_space.shape[0], space.shape[0]
        self.replay = [torch.zeros(capacity, width, device=device) for width in (d, a, 1, 1, d)]
        self.filled, self.at = torch.zeros((), device=device), 0
        self.random = np.random.default_rng(arguments.seed)
        self.noise = torch.Generator(device)
        self.noise.manual_seed(arguments.seed)
        self.log_temperature = torch.zeros(1, device=device, requires_grad=True)
        captured: dict[str, Any] = {"capturable": True, "fused": True} if device.type == "cuda" else {}
        self.optimizers = [
            torch.optim.Adam(parameters, lr=arguments.learning_rate, **captured)
            for parameters in (
                list(self.model.critic.parameters()),
                list(self.model.actor.parameters()),
                [self.log_temperature],
            )
        ]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.returns: list[float] = []
        self.steps = self.updates = 0
        self.running = np.zeros(arguments.envs)

    def act(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions in ``[-1, 1]`` and the logarithms of their densities (arXiv 1812.05905, appendix C)."""
        mean, log_std, _ = self.model.actor.get_action_dist_params(observations)
        noise = torch.empty_like(mean).normal_(generator=self.noise)
        before = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * float(np.log(2 * np.pi))
        squash = 2 * (float(np.log(2)) - before - torch.nn.functional.softplus(-2 * before))
        return before.tanh(), (gaussian - squash).sum(1, keepdim=True)

    def update(self) -> None:
        """One gradient step of the critics, the actor and the temperature."""
        model, batch = self.model, self.arguments.batch
        picked = (torch.rand(batch, device=self.device, generator=self.noise) * self.filled).long()
        picked = torch.minimum(picked, self.filled.long() - 1)
        state, action, reward, terminal, following = (part[picked] for part in self.replay)
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            chosen, density = self.act(following)
            best = torch.minimum(*model.critic_target(following, chosen)) - temperature * density
            target = reward + (1 - terminal) * model.gamma * best
        critic, actor, temperature_optimizer = self.optimizers
        loss = sum((q - target).square().mean() for q in model.critic(state, action)) / 2
        critic.zero_grad(set_to_none=True)
        loss.backward()
        critic.step()
        chosen, density = self.act(state)
        actor.zero_grad(set_to_none=True)
        (temperature * density - torch.minimum(*model.critic(state, chosen))).mean().backward()
        actor.step()
        temperature_optimizer.zero_grad(set_to_none=True)
        (-self.log_temperature * (density.detach() - chosen.shape[1]).mean()).sum().backward()
        temperature_optimizer.step()
        with torch.no_grad():
            slow, fast = list(model.critic_target.parameters()), list(model.critic.parameters())
            torch._foreach_lerp_(slow, fast, model.tau)

    def capture(self) -> None:
        """Collect random steps, take a few gradient steps, and record one as a CUDA graph."""
        while self.steps < RANDOM_STEPS:
            self.step(self.random.uniform(-1, 1, (self.arguments.envs, len(self.low))).astype(np.float32), 0)
        if self.stream is None:
            return
        with torch.cuda.stream(self.stream):
            for _ in range(5):
                self.update()
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.noise)
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.update()

    def step(self, actions: np.ndarray, gradient_steps: int) -> None:
        """One step of every environment with actions in ``[-1, 1]``, gradient steps at the same time."""
        before = self.envs.observations
        self.envs.send(self.low + (actions + 1) / 2 * (self.high - self.low))
        for _ in range(gradient_steps):
            self.graph.replay() if self.graph is not None else self.update()
        self.updates += gradient_steps
        arrived, rewards, terminated, truncated = self.envs.receive()
        rows = slice(self.at, self.at + len(before))
        parts = (before, actions, rewards[:, None], terminated[:, None].astype(np.float32), arrived)
        for kept, part in zip(self.replay, parts, strict=True):
            kept[rows] = torch.from_numpy(part).to(self.device)
        self.at = rows.stop % len(self.replay[0])
        self.steps += len(before)
        self.filled.fill_(min(self.steps, len(self.replay[0])))
        self.running += rewards
        over = terminated | truncated
        self.returns += self.running[over].tolist()
        self.running[over] = 0

    def close(self) -> None:
        for pipe in self.envs.pipes:
            pipe.send(None)

    def mean_actions(self) -> np.ndarray:
        with torch.no_grad():
            observations = torch.from_numpy(self.envs.observations).to(self.device)
            mean, _, _ = self.model.actor.get_action_dist_params(observations)
            return mean.tanh().cpu().numpy()

    def evaluate(self) -> np.ndarray:
        """Returns of one whole episode of each environment with deterministic actions; nothing is learned from."""
        count = self.arguments.envs
        first = np.full(count, np.nan)
        fresh, totals = np.zeros(count, bool), np.zeros(count)
        while np.isnan(first).any():
            self.envs.send(self.low + (self.mean_actions() + 1) / 2 * (self.high - self.low))
            _, rewards, terminated, truncated = self.envs.receive()
            totals += rewards
            over = terminated | truncated
            ended = over & fresh & np.isnan(first)
            first[ended] = totals[ended]
            totals[over], fresh = 0, fresh | over
        self.running[:] = 0
        return first

    def run(self) -> None:
        """Train until the time is over; keep the best of four evaluations, by mean and worst tenth."""
        started, limit = time.monotonic(), self.arguments.minutes * 60
        marks, best, spoken = [0.5, 0.7, 0.85, 1.0], -np.inf, 0.0
        while marks:
            spent = time.monotonic() - started
            if spent - spoken > 20:
                spoken = spent
                recent = np.mean(self.returns[-self.arguments.envs :]) if self.returns else np.nan
                progress = f"{self.steps:,} steps, {self.updates:,} updates, {recent:.0f}"
                print(f"{self.env_id} {spent:4.0f} s: {progress}", flush=True)
            if spent > marks[0] * limit:
                marks.pop(0)
                returns = np.sort(self.evaluate())
                mean, worst = returns.mean(), returns[: max(1, len(returns) // 10)].mean()
                print(f"{self.env_id} evaluated: {mean:.0f}, worst tenth {worst:.0f}", flush=True)
                if (worth := (mean + worst) / 2) > best:
                    best = worth
                    self.save(returns)
            with torch.no_grad():
                actions = self.act(torch.from_numpy(self.envs.observations).to(self.device))[0].cpu().numpy()
            self.step(actions, self.arguments.gradient_steps)

    def run_on_stream(self) -> None:
        with torch.cuda.stream(self.stream):
            self.run()

    def save(self, returns: np.ndarray) -> None:
        folder = self.arguments.out
        folder.mkdir(parents=True, exist_ok=True)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group |= {"capturable": False, "fused": None}  # who goes on may have no GPU, and a graph does not ask
        self.model.num_timesteps = self.steps
        self.model.log_ent_coef = self.log_temperature
        self.model.actor.optimizer, self.model.critic.optimizer = self.optimizers[1], self.optimizers[0]
        self.model.ent_coef_optimizer = self.optimizers[2]
        self.model.save(folder / f"{self.env_id}.zip")
        facts = {"env": self.env_id, "env_kwargs": PLAIN.get(self.env_id, {}), "steps": self.steps}
        facts |= {"updates": self.updates, "returns": returns.round(1).tolist(), "torch": torch.__version__}
        (folder / f"{self.env_id}.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", action="append", required=True, help="Gymnasium id; repeat to train side by side")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4, help="processes a task")
    parser.add_argument("--gradient-steps", type=int, default=16, help="a step of all environments")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainings = [Training(task, arguments, device) for task in arguments.task]
    for training in trainings:
        training.capture()
    threads = [
        threading.Thread(target=training.run_on_stream if training.stream else training.run) for training in trainings
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for training in trainings:
        training.close()


if __name__ == "__main__":
    main()
