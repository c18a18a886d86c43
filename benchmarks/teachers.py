"""Trains the agents that docs/compress.md presses, with plain Stable-Baselines3: a PPO agent with VecNormalize and a
DQN agent on pixels. The SAC agent there is the project's own.

    python benchmarks/teachers.py ppo --out runs/agents
    PYTHONPATH=examples python benchmarks/teachers.py dqn --out runs/agents
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policypress.rl.environments import make_env


def train_ppo(out: Path, env_id: str, steps: int) -> None:
    """PPO with its defaults but for the learning rate, which falls to zero, and normalized observations."""
    env = VecNormalize(DummyVecEnv([lambda: Monitor(make_env(env_id, training=True))] * 4))
    model = PPO("MlpPolicy", env, n_steps=512, learning_rate=lambda left: 3e-4 * left, seed=1, verbose=1)
    model.learn(steps)
    model.save(out / f"{env_id}-ppo.zip")
    env.save(str(out / f"{env_id}-ppo-vecnormalize.pkl"))


def train_dqn(out: Path, env_id: str, steps: int) -> None:
    """DQN on frames with early exploitation, because the budget is minutes."""
    env = DummyVecEnv([lambda: Monitor(make_env(env_id, training=True))])
    model = DQN(
        "CnnPolicy",
        env,
        buffer_size=min(100_000, steps),
        learning_starts=2_000,
        target_update_interval=1_000,
        exploration_fraction=min(10_000 / steps, 1.0),
        exploration_final_eps=0.02,
        seed=1,
        verbose=1,
    )
    model.learn(steps, log_interval=50)
    model.save(out / f"{env_id.rpartition(':')[2].replace('/', '-')}-dqn.zip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agent", choices=["ppo", "dqn"])
    parser.add_argument("--env")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/agents"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.agent == "ppo":
        train_ppo(options.out, options.env or "Walker2d-v5", options.steps or 1_500_000)
    else:
        train_dqn(options.out, options.env or "pixel_catch:PixelCatch-v0", options.steps or 60_000)


if __name__ == "__main__":
    main()
