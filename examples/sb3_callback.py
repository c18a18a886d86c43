"""The shortest way: one callback in a Stable-Baselines3 script (about two minutes on one core).

python examples/sb3_callback.py
"""

from stable_baselines3 import SAC

import policypress as pp
from policypress.rl import CompressionCallback, evaluate

STEPS = 12_000

model = SAC("MlpPolicy", "InvertedDoublePendulum-v5", learning_rate=1e-3, batch_size=128, learning_starts=500, seed=1)
config = pp.CompressionConfig(sparsity=0.95, weight_bits=8)
model.learn(STEPS, callback=CompressionCallback(config))

policy = pp.freeze(model)
policy.save("pendulum.policy")

policy = pp.load("pendulum.policy")  # from here on NumPy is enough
result = evaluate(policy, "InvertedDoublePendulum-v5", episodes=20)
print(policy)
print(f"return {result.mean:.1f}, {pp.size(policy).payload_bytes} bytes")
