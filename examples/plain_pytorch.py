"""A training loop of one's own, CleanRL style: PPO on CartPole-v1, pruned to 80 % and quantized to 8 bits on the way.

Nothing here is Stable-Baselines3's: ``Compressor`` needs the network, its optimizer and the step count (less than a
minute on one core).

python examples/plain_pytorch.py
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import policypress as pp
from policypress.compression import Compressor
from policypress.compression.freeze import freeze_graph
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.rl import evaluate

ENVS, HORIZON, ITERATIONS, EPOCHS, BATCH = 8, 128, 80, 4, 256
GAMMA, LAMBDA, CLIP, ENTROPY, SEED = 0.99, 0.95, 0.2, 0.01, 1
STEPS = ENVS * HORIZON * ITERATIONS


def mlp(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    envs = gym.make_vec("CartPole-v1", ENVS, vectorization_mode="sync")
    actor, critic = mlp(2), mlp(1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    compressor = Compressor(actor, optimizer, pp.CompressionConfig(sparsity=0.8, weight_bits=8), steps=STEPS)

    observations = torch.zeros(HORIZON, ENVS, 4)
    actions = torch.zeros(HORIZON, ENVS, dtype=torch.long)
    log_probs, rewards, values = (torch.zeros(HORIZON, ENVS) for _ in range(3))
    dones, alive = torch.zeros(HORIZON, ENVS), torch.ones(HORIZON, ENVS)
    observation, _ = envs.reset(seed=SEED)
    done = np.zeros(ENVS, bool)
    for iteration in range(ITERATIONS):
        compressor.step(iteration * HORIZON * ENVS)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - iteration / ITERATIONS)
        for t in range(HORIZON):
            observations[t] = torch.as_tensor(observation)
            # gymnasium spends the step after an episode's end on the reset: it teaches nothing.
            alive[t] = torch.as_tensor(~done)
            with torch.no_grad():
                choice = Categorical(logits=actor(observations[t]))
                actions[t] = choice.sample()
                log_probs[t] = choice.log_prob(actions[t])
                values[t] = critic(observations[t])[:, 0]
            observation, reward, terminated, truncated, _ = envs.step(actions[t].numpy())
            done = terminated | truncated
            rewards[t], dones[t] = torch.as_tensor(reward), torch.as_tensor(done)

        with torch.no_grad():
            following = critic(torch.as_tensor(observation))[:, 0]
        advantages, advantage = torch.zeros(HORIZON, ENVS), torch.zeros(ENVS)
        for t in reversed(range(HORIZON)):
            error = rewards[t] + GAMMA * following * (1 - dones[t]) - values[t]
            advantage = error + GAMMA * LAMBDA * (1 - dones[t]) * advantage
            advantages[t], following = advantage, values[t]
        returns = advantages + values

        usable = alive.flatten().nonzero()[:, 0]
        for _ in range(EPOCHS):
            for picks in usable[torch.randperm(len(usable))].split(BATCH):
                batch = observations.flatten(0, 1)[picks]
                choice = Categorical(logits=actor(batch))
                ratio = (choice.log_prob(actions.flatten()[picks]) - log_probs.flatten()[picks]).exp()
                weight = advantages.flatten()[picks]
                weight = (weight - weight.mean()) / (weight.std() + 1e-8)
                gain = torch.minimum(ratio * weight, ratio.clamp(1 - CLIP, 1 + CLIP) * weight).mean()
                surprise = (critic(batch)[:, 0] - returns.flatten()[picks]).pow(2).mean()
                loss = 0.5 * surprise - gain - ENTROPY * choice.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
                optimizer.step()

    compressor.step(STEPS)
    unit_for_unit = freeze_graph(
        compressor.graph,
        ObservationTransform((4,), "float32"),
        ActionTransform("discrete", dtype="int64"),
        provenance={"env": "CartPole-v1", "algo": "ppo"},
        observations=observations.flatten(0, 1)[:32].numpy(),
    )
    policy = canonical(unit_for_unit)  # the same actions without hidden units that do nothing
    policy.save("cartpole.policy")
    result = evaluate(policy, episodes=20)
    print(policy)
    print(f"return {result.mean:.1f} of 500, {pp.size(policy).payload_bytes} bytes")


if __name__ == "__main__":
    main()
