"""What training takes: live weights and all, of every network that learns or follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policypress.rl import train
from policypress.rl.adapters import adapter_for
from policypress.rl.cost import BACK, TrainingCost, now_of, samples_of
from rl.toys import AIM, FOLLOW, LOOK, PICK, agent, learn, run_config


def by_hand(model: Any, learning: list[str], following: list[str], positions: dict[str, int]) -> dict[str, int]:
    found = dict.fromkeys(("multiply_adds", "dense_multiply_adds", "bytes", "dense_bytes"), 0)
    for names, passes in ((learning, BACK), (following, 1)):
        for name in names:
            for layer, module in model.policy.get_submodule(name).named_modules(prefix=name):
                if not hasattr(module, "weight"):
                    continue
                times = next((count for end, count in positions.items() if layer.endswith(end)), 1)
                for prefix, count in (("", int(module.weight.count_nonzero())), ("dense_", module.weight.numel())):
                    found[f"{prefix}multiply_adds"] += passes * times * count
                    found[f"{prefix}bytes"] += 4 * (count + module.bias.numel())
    return found


SAC = ["actor.latent_pi", "actor.mu", "critic.qf0", "critic.qf1"]
CASES = {
    "sac": (FOLLOW, SAC, ["critic_target.qf0", "critic_target.qf1"]),
    "td3": (FOLLOW, ["actor.mu", "critic"], ["actor_target.mu", "critic_target"]),
    "dqn": (PICK, ["q_net.q_net"], ["q_net_target.q_net"]),
    "ppo": (FOLLOW, ["mlp_extractor", "action_net", "value_net"], []),
}


@pytest.mark.parametrize("algo", CASES)
def test_every_network_that_learns_or_follows_is_counted(algo: str) -> None:
    env, learning, following = CASES[algo]
    model = agent(algo, env)
    learn(model, steps=100)
    counted = now_of(adapter_for(model), model)
    assert counted == by_hand(model, learning, following, {})
    assert counted["multiply_adds"] < counted["dense_multiply_adds"]


@pytest.mark.parametrize(("algo", "env"), [("dqn", LOOK), pytest.param("sac", AIM, marks=pytest.mark.slow)])
def test_convolutions_count_at_each_position(algo: str, env: str) -> None:
    model = agent(algo, env)
    learn(model, steps=60)
    modes = [module.training for module in model.policy.modules()]
    counted = now_of(adapter_for(model), model)
    assert [module.training for module in model.policy.modules()] == modes
    sizes = {}
    side = model.observation_space.shape[-1]
    for place, (kernel, stride) in zip((0, 2, 4), ((8, 4), (4, 2), (3, 1)), strict=True):
        side = (side - kernel) // stride + 1
        sizes[f"cnn.{place}"] = side**2
    names = {
        "dqn": (["q_net"], ["q_net_target"]),
        "sac": (["actor.features_extractor", *SAC[:2], "critic"], ["critic_target"]),
    }[algo]
    assert counted == by_hand(model, *names, sizes)


def test_updates_add_up_at_the_sparsity_that_they_had() -> None:
    model = agent("sac", FOLLOW)
    cost = TrainingCost(adapter_for(model), model)
    learn(model, until=40)
    cost.so_far(model)
    half, updates = cost.state_dict(), model._n_updates
    assert half["multiply_adds"] == updates * model.batch_size * now_of(adapter_for(model), model)["multiply_adds"]
    other = TrainingCost(adapter_for(model), model)
    other.load_state_dict(json.loads(json.dumps(half)))
    model.learn(160, reset_num_timesteps=False)
    for one in (cost, other):
        one.so_far(model)
    assert cost.state_dict() == other.state_dict()
    assert cost.so_far(model)["dense_multiply_adds"] % model._n_updates == 0
    assert cost.state_dict()["updates"] == model._n_updates > updates


def test_a_rollout_is_an_update_of_algorithms_that_collect_them() -> None:
    model = agent("ppo", FOLLOW)
    assert samples_of(model) == model.n_steps * model.n_envs
    model = agent("dqn", PICK)
    assert samples_of(model) == model.batch_size


def test_a_run_tells_it(tmp_path: Path) -> None:
    result = train(run_config(), tmp_path)
    told = result["training"]
    assert 0 < told["bytes"] < told["dense_bytes"]
    assert 0 < told["multiply_adds"] < told["dense_multiply_adds"]
    assert json.loads((tmp_path / "result.json").read_text())["training"] == told
