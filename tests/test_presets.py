"""``ivanov2025`` is the paper's protocol, figure by figure (arXiv 2405.07748 and its published settings)."""

from __future__ import annotations

import dataclasses

import pytest

import policypress as pp
from policypress.compression.schedule import PruningSchedule
from policypress.config import TrainConfig
from policypress.errors import ConfigError
from policypress.presets import NAMES, Family, compression, default_steps, ivanov2025, train_settings

SPARSITIES = {
    "continuous": [0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.98, 0.99],
    "atari": [0.5, 0.7, 0.8, 0.9, 0.95, 0.98],
}


@pytest.mark.parametrize("sparsity", SPARSITIES["continuous"])
def test_pruning_of_the_paper(sparsity: float) -> None:
    """Magnitude, per layer by its own ERK, 20 % to 80 % of nominal steps in 600 cubic iterations, log_std included."""
    config = pp.presets.ivanov2025(sparsity)
    assert config.sparsity == sparsity
    assert config.criterion == "magnitude"
    assert config.allocation == "ivanov2025"
    assert config.schedule == "cubic"
    assert (config.prune_start, config.prune_end, config.prune_iterations) == (0.2, 0.8, 600)
    assert config.prune_auxiliary
    schedule = PruningSchedule.from_config(config, 1_000_000)
    assert (schedule.start, schedule.end) == (200_000, 800_000)
    assert schedule.due(500_000) == pytest.approx(1 - 0.5**3)


def test_quantization_of_the_paper() -> None:
    """8 bits, symmetric, weights only; min/max ranges, cold; from 90 % of nominal steps when pruned, else 80 %."""
    for sparsity, start in ((0.0, 0.8), (0.5, 0.9), (0.99, 0.9)):
        config = ivanov2025(sparsity)
        assert config.weight_bits == 8
        assert config.activation_bits == 0
        assert config.weight_range == "minmax"
        assert config.granularity == "auto"  # per tensor for Linear, per channel for convolutions
        assert config.quantize_start == start
        assert config.observe == 0.0
    unquantized = ivanov2025(0.9, quantize=False)
    assert not unquantized.quantizes
    assert unquantized.prunes
    assert dataclasses.replace(unquantized, weight_bits=8) == ivanov2025(0.9)
    assert not ivanov2025(quantize=False).prunes


def test_training_of_the_paper_on_mujoco() -> None:
    """SAC: a million steps and 30 % more, Adam 3e-4 with weight decay 1e-4, learning starts at 10,000."""
    settings = train_settings("ivanov2025", "continuous", "mlp", 1_000_000)
    assert default_steps("ivanov2025", "continuous") == 1_000_000
    assert settings["extension"] == 0.3
    assert settings["algo_kwargs"] == {"learning_rate": 3e-4, "learning_starts": 10_000}
    assert settings["optimizer_kwargs"] == {"weight_decay": 1e-4}
    assert (settings["eval_every"], settings["eval_episodes"]) == (10_000, 20)
    training = TrainConfig("sac", "HalfCheetah-v5", 1_000_000, compression=ivanov2025(0.98), **settings)
    assert training.total_steps == 1_300_000
    assert training.hidden == ()  # the algorithm's own 2 x 256
    training.compression.check_reachable(training.steps, training.total_steps, 10_000)


def test_what_the_paper_leaves_to_stable_baselines3() -> None:
    """The rest SB3 defaults: batch 256, buffer 1e6, tau 0.005, gamma 0.99, automatic entropy, net_arch 256-256."""
    sb3 = pytest.importorskip("stable_baselines3", reason="the defaults are Stable-Baselines3's")
    import inspect

    sac = inspect.signature(sb3.SAC).parameters
    given = train_settings("ivanov2025", "continuous", "mlp", 1_000_000)["algo_kwargs"]
    expected = {"batch_size": 256, "buffer_size": 1_000_000, "tau": 0.005, "gamma": 0.99, "ent_coef": "auto"}
    assert {name: given.get(name, sac[name].default) for name in expected} == expected
    dqn = inspect.signature(sb3.DQN).parameters
    assert set(train_settings("ivanov2025", "atari", "nature", 10_000_000)["algo_kwargs"]) <= set(dqn)
    assert dqn["buffer_size"].default == 1_000_000


@pytest.mark.parametrize(
    ("network", "optimizer"), [("nature", {}), ("resnet", {"eps": 3.125e-4, "weight_decay": 1e-5})]
)
def test_training_of_the_paper_on_atari(network: str, optimizer: dict[str, float]) -> None:
    """DQN: ten million agent steps and 30 % more, Adam 1e-4; the ResNet's own epsilon and weight decay."""
    settings = train_settings("ivanov2025", "atari", network, 10_000_000)
    assert default_steps("ivanov2025", "atari") == 10_000_000
    assert settings["extension"] == 0.3
    assert settings["algo_kwargs"] == {
        "learning_rate": 1e-4,
        "learning_starts": 20_000,
        "target_update_interval": 8_000,
        "train_freq": 4,
        "batch_size": 32,
        "exploration_fraction": 0.01,
        "exploration_final_eps": 0.01,
    }
    assert settings["optimizer_kwargs"] == optimizer
    assert (settings["eval_every"], settings["eval_episodes"]) == (100_000, 20)
    for sparsity in SPARSITIES["atari"]:
        ivanov2025(sparsity).check_reachable(10_000_000, 13_000_000, 20_000)
    TrainConfig("dqn", "PongNoFrameskip-v4", 10_000_000, network=network, **settings)  # type: ignore[arg-type]


def test_the_paper_has_no_protocol_for_other_environments() -> None:
    with pytest.raises(ConfigError, match="preset ivanov2025 is for SAC on continuous control and DQN on Atari"):
        train_settings("ivanov2025", "other", "mlp", 1000)


def test_a_sparsity_that_is_found() -> None:
    found = pp.CompressionConfig(sparsity=0.995, pruning="adaptive", weight_bits=8)
    assert compression("policypress", {"sparsity": "auto"}) == found
    assert compression("ivanov2025", {"sparsity": "auto"}).pruning == "adaptive"


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="preset='paper' is not one of policypress, ivanov2025"):
        train_settings("paper", "continuous", "mlp", 1000)
    assert NAMES == ("policypress", "ivanov2025")


@pytest.mark.parametrize("family", ["continuous", "atari", "other"])
@pytest.mark.parametrize("steps", [1, 1_000, 50_000, 10_000_000])
def test_our_own_settings_leave_time_to_learn(family: Family, steps: int) -> None:
    settings = train_settings("policypress", family, "mlp", steps)
    assert default_steps("policypress", family) is None
    TrainConfig("sac", "x", steps, **settings)
    starts = settings.get("algo_kwargs", {}).get("learning_starts", 0)
    assert starts <= max(1_000, steps // 10)
