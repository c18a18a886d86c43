"""What must be learned: a pressed policy that is near the optimum where an untrained one is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import policypress as pp
from policypress.config import CompressionConfig
from policypress.rl import CompressionCallback, evaluate
from rl.toys import EPISODE, FOLLOW, PICK, dqn, sac

PRESSED = CompressionConfig(sparsity=0.8, weight_bits=8, prune_start=0.1, prune_end=0.5, quantize_start=0.6)


def test_sac_learns_while_it_is_pressed() -> None:
    model = sac(
        FOLLOW, gamma=0.0, learning_rate=1e-2, batch_size=64, learning_starts=100, ent_coef=0.01,
        policy_kwargs={"net_arch": [24, 24]},
    )  # fmt: skip
    untrained = evaluate(pp.freeze(model), FOLLOW, episodes=20).mean
    model.learn(1_000, callback=CompressionCallback(PRESSED))
    policy = pp.freeze(model)
    assert policy.numerics == "integer"
    assert pp.size(policy).nonzeros <= 0.2 * (3 * 24 + 24 * 24 + 24 * 2) + 1
    learned = evaluate(policy, FOLLOW, episodes=20).mean
    assert untrained < -10
    assert learned > -1.5, "the optimum is 0"


@pytest.mark.slow
def test_dqn_learns_while_it_is_pressed() -> None:
    model = dqn(
        PICK, gamma=0.0, learning_rate=1e-2, batch_size=64, learning_starts=100, train_freq=2,
        exploration_fraction=0.3, policy_kwargs={"net_arch": [24, 24]},
    )  # fmt: skip
    untrained = evaluate(pp.freeze(model), PICK, episodes=20).mean
    model.learn(2_000, callback=CompressionCallback(PRESSED))
    policy = pp.freeze(model)
    assert policy.numerics == "integer"
    learned = evaluate(policy, PICK, episodes=20).mean
    assert untrained < 0.6 * EPISODE
    assert learned > 0.85 * EPISODE


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["policypress", "ivanov2025"])
def test_a_whole_run_learns_at_every_setting(preset: str, tmp_path: Path) -> None:
    from policypress.rl import train
    from policypress.rl.plan import plan_training

    config = plan_training(
        "sac", FOLLOW, 2_000, preset=preset, compression={"sparsity": 0.9},
        training={"eval_every": 500, "final_episodes": 20},
        algo_kwargs={"gamma": 0.0, "learning_rate": 3e-3, "learning_starts": 100, "ent_coef": 0.01},
    )  # fmt: skip
    train(config, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["evaluation"]["mean"] > -1.5
    assert result["size"]["nominal_ratio"] > 35
