"""Checkpoints of frameworks, as their classes name weights: what each computes, written here once more by PyTorch."""

from __future__ import annotations

import argparse
import os
import struct
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from importers.models import opened
from policypress.errors import ConfigError, PolicypressError, RunError, UnsupportedError

X = torch.linspace(-3, 3, 60).reshape(10, 6)
MEAN, STD = torch.linspace(-1, 1, 6), torch.linspace(0.1, 2, 6)


def mlp(*sizes: int, act: Any = nn.ELU) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def state(network: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in network.state_dict().items()}


def tail(network: nn.Sequential, body: str, head: str) -> dict[str, torch.Tensor]:
    """The last layer under a name of its own."""
    last, found = f"{len(network) - 1}.", {}
    for name, value in network.state_dict().items():
        found[f"{head}.{name.removeprefix(last)}" if name.startswith(last) else f"{body}.{name}"] = value
    return found


def rsl_rl(normalized: str) -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    model = state(net, "actor.") | state(mlp(6, 4, 1), "critic.") | {"std": torch.ones(3)}
    statistics = {"_mean": MEAN[None], "_std": STD[None], "_var": STD[None] ** 2, "count": torch.tensor(9)}
    checkpoint: dict[str, Any] = {"model_state_dict": model, "optimizer_state_dict": {}, "iter": 5, "infos": None}
    if normalized == "apart":
        checkpoint["obs_norm_state_dict"] = statistics
    elif normalized == "inside":
        model |= {f"actor_obs_normalizer.{k}": v for k, v in statistics.items()}
        model |= {f"critic_obs_normalizer.{k}": v for k, v in statistics.items()}
    return checkpoint, lambda x: net((x - MEAN) / (STD + 1e-2) if normalized else x)


def new_rsl_rl() -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    statistics = {"_mean": MEAN[None], "_std": STD[None], "_var": STD[None] ** 2, "count": torch.tensor(9)}
    actor = state(net, "mlp.") | {f"obs_normalizer.{k}": v for k, v in statistics.items()}
    actor |= {"distribution.std_param": torch.ones(3)}
    return {"actor_state_dict": actor, "critic_state_dict": state(mlp(6, 4, 1), "mlp.")}, lambda x: net(
        (x - MEAN) / (STD + 1e-2)
    )


def rl_games() -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    model = tail(net, "a2c_network.actor_mlp", "a2c_network.mu") | {
        "a2c_network.sigma": torch.zeros(3), "a2c_network.value.weight": torch.zeros(1, 4),
        "a2c_network.value.bias": torch.zeros(1), "value_mean_std.running_mean": torch.zeros(1),
        "running_mean_std.running_mean": MEAN.double(), "running_mean_std.running_var": (STD**2).double(),
        "running_mean_std.count": torch.tensor(3.0),
    }  # fmt: skip
    return {"model": model, "epoch": 3, "optimizer": {}}, lambda x: net(
        torch.clamp((x - MEAN) / torch.sqrt(STD**2 + 1e-5), -5, 5)
    )


def skrl() -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    policy = tail(net, "net_container", "policy_layer") | {"log_std_parameter": torch.zeros(3)}
    scaler = {"running_mean": MEAN.double(), "running_variance": (STD**2).double(), "current_count": torch.tensor(2.0)}
    value = {"net_container.0.weight": torch.zeros(4, 6), "value_layer.weight": torch.zeros(1, 4)}
    return {
        "policy": policy,
        "value": value,
        "state_preprocessor": scaler,
        "value_preprocessor": scaler,
    }, lambda x: net(torch.clamp((x - MEAN) / (STD + 1e-8), -5, 5))


def sample_factory() -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    inner = "obs_normalizer.running_mean_std.running_mean_std.obs."
    model = tail(net, "encoder.encoders.obs.mlp_head", "action_parameterization.distribution_linear") | {
        f"{inner}running_mean": MEAN.double(), f"{inner}running_var": (STD**2).double(), f"{inner}count": torch.ones(1),
        "critic_linear.weight": torch.zeros(1, 4), "critic_linear.bias": torch.zeros(1),
        "action_parameterization.learned_stddev": torch.zeros(3),
        "returns_normalizer.running_mean": torch.zeros(1),
    }  # fmt: skip
    return {"model": model, "train_step": 3}, lambda x: net(torch.clamp((x - MEAN) / torch.sqrt(STD**2 + 1e-5), -5, 5))


def cleanrl_ppo() -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    return state(net, "actor_mean.") | state(mlp(6, 4, 1), "critic.") | {"actor_logstd": torch.zeros(1, 3)}, net


def cleanrl_sac(several: bool) -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    scale, bias = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0])
    names = {"0": "fc1", "2": "fc2", "4": "fc_mean"}
    actor = {f"{names[k[0]]}{k[1:]}": v for k, v in net.state_dict().items()}
    actor |= {"fc_logstd.weight": torch.zeros(3, 4), "action_scale": scale, "action_bias": bias}
    critic = {"fc1.weight": torch.zeros(4, 9), "fc1.bias": torch.zeros(4)}
    return (actor, critic, critic) if several else actor, lambda x: torch.tanh(net(x)) * scale + bias


def cleanrl_dqn() -> tuple[Any, Any]:
    net = mlp(6, 8, 4, 3)
    return state(net, "network."), net


def normed(order: str, act: type[nn.Module] = nn.ELU) -> nn.Sequential:
    """``order``: L a layer, N a LayerNorm, A an activation."""
    torch.manual_seed(1)
    sizes, modules, width = iter((8, 5, 4)), [], 6
    for letter in order:
        if letter == "L":
            modules.append(nn.Linear(width, width := next(sizes)))
        elif letter == "N":
            modules.append(norm := nn.LayerNorm(width))
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        else:
            modules.append(act())
    return nn.Sequential(*modules)


def fast_sac(scale: float = 0.5) -> tuple[Any, Any]:
    """holosoma: ``net``, then ``fc_mu`` behind its last activation."""
    body, head = normed("LNALNA"), nn.Sequential(nn.Linear(5, 3))
    scales, bias = torch.tensor([scale, 1.0, scale]), torch.tensor([0.0, 1.0, -1.0])
    actor = state(body, "net.") | state(head, "fc_mu.") | {"action_scale": scales, "action_bias": bias}
    statistics = {"_mean": MEAN[None], "_std": STD[None], "_var": STD[None] ** 2, "count": torch.tensor(9)}
    checkpoint = {
        "actor_state_dict": actor | {"fc_logstd.weight": torch.zeros(3, 5), "fc_logstd.bias": torch.zeros(3)},
        "qnet_state_dict": state(normed("LNAL"), "qnets.0.net."), "log_alpha": torch.zeros(1),
        "obs_normalizer_state": statistics, "critic_obs_normalizer_state": statistics,
        "actor_optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(8, 6)}}}, "args": {"use_tanh": True},
    }  # fmt: skip
    return checkpoint, lambda x: torch.tanh(head(body((x - MEAN) / (STD + 1e-2)))) * scales + bias


def fast_td3(headed: bool) -> tuple[Any, Any]:
    body, end = mlp(6, 8, 5), nn.Sequential(nn.ELU(), nn.Linear(5, 4), nn.ELU())
    head = nn.Sequential(nn.Linear(4 if headed else 5, 3), nn.Tanh())
    actor = state(body, "net.") | state(head, "fc_mu.") | {"noise_scales": torch.zeros(16, 1)}
    if headed:
        actor |= state(nn.Sequential(*end[1:]), "fc_head.")
    whole = nn.Sequential(body, *(end if headed else end[:1]), head)
    return {"actor_state_dict": actor, "obs_normalizer_state": None, "global_step": 3}, whole


CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "rsl_rl": lambda: rsl_rl(""),
    "rsl_rl, normalizer apart": lambda: rsl_rl("apart"),
    "rsl_rl, normalizer inside": lambda: rsl_rl("inside"),
    "rsl_rl, new keys": new_rsl_rl,
    "rl_games": rl_games,
    "skrl": skrl,
    "Sample Factory": sample_factory,
    "CleanRL PPO": cleanrl_ppo,
    "CleanRL SAC": lambda: cleanrl_sac(False),
    "CleanRL, several networks": lambda: cleanrl_sac(True),
    "CleanRL DQN": cleanrl_dqn,
    "a Sequential": lambda: ((net := mlp(6, 8, 3)).state_dict(), net),
    "LayerNorm in front of activations": lambda: (state(net := normed("LNALNAL"), "actor."), net),
    "LayerNorm behind them": lambda: (state(net := normed("LANLANL"), "actor."), net),
    "LayerNorm on both sides": lambda: ((net := normed("LNNANL")).state_dict(), net),
    "LayerNorm of observations": lambda: ((net := normed("NLAL")).state_dict(), net),
    "rl_games, LayerNorm behind activations": lambda: (
        tail(net := normed("LANL"), "a2c_network.actor_mlp", "a2c_network.mu"),
        net,
    ),
    "rsl_rl, a student of a teacher": lambda: (
        {"model_state_dict": state(net := mlp(6, 8, 3), "student.") | state(mlp(9, 8, 3), "teacher.") | {"std": STD}},
        net,
    ),
    "rsl_rl, statistics of the critic": lambda: (
        rsl_rl("apart")[0] | {"privileged_obs_norm_state_dict": {"_mean": MEAN, "_std": STD, "count": torch.tensor(1)}},
        rsl_rl("apart")[1],
    ),
    "a policy of Stable-Baselines3": lambda: (
        tail(net := mlp(6, 8, 4, 3), "mlp_extractor.policy_net", "action_net")
        | state(mlp(6, 8), "mlp_extractor.value_net.")
        | state(nn.Linear(8, 1), "value_net.")
        | {"log_std": STD[:3]},
        net,
    ),
    "FastSAC": fast_sac,
    "FastTD3": lambda: fast_td3(True),
    "FastTD3, as it was": lambda: fast_td3(False),
    "compiled": lambda: (state(net := mlp(6, 8, 3), "_orig_mod.actor."), net),
}


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_act_as_their_networks(case: str, tmp_path: Path) -> None:
    checkpoint, network = CASES[case]()
    torch.save(checkpoint, tmp_path / "a.pt")
    found = opened(tmp_path / "a.pt", activation="elu")
    assert (found.shape, found.policy is not None) == ((6,), True)
    with torch.no_grad():
        np.testing.assert_allclose(found.run(X.numpy()), network(X).numpy(), rtol=1e-5, atol=1e-5)


def test_the_mean_may_be_half_of_the_outputs(tmp_path: Path) -> None:
    net = mlp(6, 8, 4)
    torch.save(state(net, "actor."), tmp_path / "a.pt")
    with torch.no_grad():
        found = opened(tmp_path / "a.pt", activation="elu", output="mean")
        np.testing.assert_allclose(found.run(X.numpy()), net(X)[:, :2].numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="or --output mean for their half"):
        opened(tmp_path / "a.pt", activation="elu", output="left")


def test_the_activation_is_asked_for(tmp_path: Path) -> None:
    torch.save(rsl_rl("")[0], tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="give --activation, for example --activation elu"):
        opened(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="is not one of relu, tanh"):
        opened(tmp_path / "a.pt", activation="nonsense")
    torch.save(rsl_rl("")[0], tmp_path / "a.pt")
    assert opened(tmp_path / "a.pt", activation="swish").policy is not None


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"encoder.0.weight": torch.zeros(4, 4)}, r"holds model_state_dict.encoder.0.weight .*no part of a network"),
        ({"memory_a.rnn.weight_ih_l0": torch.zeros(4, 4)}, "recurrent"),
        ({"actor.1.weight": torch.zeros(8)}, r"actor.1 has a weight of shape \(8,\) and no bias, as an RMSNorm"),
        ({"actor.1.weight": torch.ones(8), "actor.1.bias": torch.zeros(8)}, "other things than one activation"),
        ({"actor.1.weight": torch.ones(1, 8, 1)}, "is no layer of a plain network"),
        ({"ln1.weight": torch.ones(8)}, "of a normalization whose place among the layers no name says: export"),
        ({"actor.5.weight": torch.zeros(3, 3)}, "other things than one activation"),
        ({"actor.0.weight": torch.full((8, 6), torch.nan)}, "are not finite"),
        ({"actor.4.weight": torch.zeros(3, 5)}, "do not fit together"),
    ],
)
def test_what_is_not_known_is_refused(extra: dict[str, torch.Tensor], sentence: str, tmp_path: Path) -> None:
    checkpoint, _ = rsl_rl("")
    checkpoint["model_state_dict"] |= extra
    torch.save(checkpoint, tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match=sentence):
        opened(tmp_path / "a.pt", activation="elu")


def test_a_tanh_that_no_name_says_is_refused(tmp_path: Path) -> None:
    """FastSAC's scale is 1 where it has none (use_tanh=False), or where an environment's actions are of 1."""
    torch.save(fast_sac(1.0)[0], tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match="does not say whether its actions end in a tanh"):
        opened(tmp_path / "a.pt", activation="silu")


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (normed("LNALN"), "must end in a Linear"),
        (normed("NAL"), "other things than one activation"),
        (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 3)), "1.running_mean"),
        (nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.LayerNorm(8), nn.ELU(), nn.Linear(8, 3)), "other things"),
        (nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(4), nn.ELU(), nn.Linear(8, 3)), "do not fit together"),
    ],
)
def test_norms_whose_place_is_not_known(network: nn.Sequential, sentence: str, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match=sentence):
        opened(tmp_path / "a.pt", activation="elu")


class Harm:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


@pytest.mark.parametrize("beside", [argparse.Namespace(lr=1.0), np.float64(3.0), np.arange(3), "harm"])
def test_nothing_in_a_file_is_run(beside: Any, tmp_path: Path) -> None:
    """What torch's reader of plain data refuses is read without it, and without running anything."""
    checkpoint, network = rsl_rl("apart")
    checkpoint["infos"] = Harm(tmp_path / "RAN") if isinstance(beside, str) else beside
    torch.save(checkpoint, tmp_path / "a.pt")
    found = opened(tmp_path / "a.pt", activation="elu")
    with torch.no_grad():
        np.testing.assert_allclose(found.run(X.numpy()), network(X).numpy(), rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "RAN").exists()


def test_files_that_hold_no_policy(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match="holds no tensors"):
        opened(tmp_path / "a.pt")
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match="weights of no network that is known"):
        opened(tmp_path / "a.pt")
    torch.save(Harm(tmp_path / "RAN"), tmp_path / "a.pt")
    with pytest.raises(PolicypressError):
        opened(tmp_path / "a.pt")
    torch.save({"x": Harm(tmp_path / "RAN")}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(RunError, match="holds more than tensors"):
        opened(tmp_path / "old.pt")
    assert not (tmp_path / "RAN").exists()


def test_a_checkpoint_that_says_it_lies_on_several_disks(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(mlp(6, 4, 2).state_dict(), path)
    whole = path.read_bytes()
    end = whole.rindex(b"PK\5\6")
    path.write_bytes(whole[:end] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + whole[end:])
    with pytest.raises(RunError, match="of no format that is known"):
        opened(path, activation="elu")


def test_old_files_of_plain_tensors(tmp_path: Path) -> None:
    checkpoint, network = cleanrl_ppo()
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with torch.no_grad():
        np.testing.assert_allclose(
            opened(tmp_path / "a.pt", activation="elu").run(X.numpy()), network(X).numpy(), rtol=1e-5, atol=1e-5
        )


def test_what_may_be_a_groupnorm_is_told(tmp_path: Path) -> None:
    """It has the names and shapes of a LayerNorm's weights; of FastSAC it is known which they are."""
    group = nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.ELU(), nn.Linear(8, 3))
    torch.save(state(group, "actor."), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"actor\.1 is taken as a LayerNorm .* a GroupNorm has the same names"):
        opened(tmp_path / "a.pt", activation="elu")
    torch.save(fast_sac()[0], tmp_path / "b.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(tmp_path / "b.pt", activation="silu").understood


def test_a_whole_module_is_told_apart_from_its_weights(tmp_path: Path) -> None:
    torch.save(mlp(6, 8, 3), tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match=r"a whole module, whose code is in no file: .*module\.state_dict\(\)"):
        opened(tmp_path / "a.pt", activation="elu")
