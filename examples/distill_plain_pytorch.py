"""An agent that is plain PyTorch, pressed: it needs no more than the network and a function that gives observations.

The agent here drives a car up a hill (MountainCarContinuous-v0). Its network stands for the one that you have: it is
fitted to a hand-written rule in a few seconds (all in all less than a minute on one core).

python examples/distill_plain_pytorch.py
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import policypress as pp
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl import evaluate
from policypress.rl.teacher import Act, Teacher

ENV, SEED = "MountainCarContinuous-v0", 1


def trained_actor() -> nn.Sequential:
    """Pushes where the car goes already, and gently before it moves."""
    actor = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-3)
    for _ in range(1_500):
        position, velocity = torch.rand(256, 1) * 1.8 - 1.2, torch.rand(256, 1) * 0.14 - 0.07
        wanted = (velocity * 200).clamp(-1, 1) + 0.2 * (velocity.abs() < 0.001)
        loss = (actor(torch.cat([position, velocity], dim=1)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return actor


class States:
    """Observations from whole episodes, each driven by the teacher or by the student."""

    def __init__(self) -> None:
        self.env, self.random, self.episodes = gym.make(ENV), np.random.default_rng(SEED), 0

    def __call__(self, teacher: Act, student: Act, share: float, count: int) -> np.ndarray:
        states: list[np.ndarray] = []
        while len(states) < count:
            act = student if self.random.random() < share else teacher
            observation, _ = self.env.reset(seed=self.episodes)
            self.episodes, over = self.episodes + 1, False
            while not over and len(states) < count:
                states.append(observation)
                observation, _, terminated, truncated, _ = self.env.step(act(observation[None])[0])
                over = terminated or truncated
        return np.stack(states)


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    limit = np.ones(1, np.float32)
    teacher = Teacher.of(
        trained_actor(),
        ObservationTransform((2,), "float32"),
        ActionTransform("box", (1,), low=-limit, high=limit),  # its outputs are clipped to [-1, 1]
    )
    config = pp.DistillConfig(
        pp.CompressionConfig(weight_bits=8, input_bits=12, quantize_start=0.3),
        hidden=(12, 12),
        batches=6_000,
        batch_size=128,
        states=10_000,
        seed=SEED,
    )
    policy = pp.compress(teacher, States(), config)
    policy.save("mountain_car.policy")
    before, after = (evaluate(one, ENV, episodes=20) for one in (teacher.policy(), policy))
    print(policy)
    print(f"return {after.mean:.1f}, the agent's own {before.mean:.1f}")
    print(f"{pp.size(policy).payload_bytes} bytes, the agent's own {teacher.baseline_bytes}")


if __name__ == "__main__":
    main()
