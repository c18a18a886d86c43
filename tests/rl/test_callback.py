"""CompressionCallback inside Stable-Baselines3's loop, and the way through save and load."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import policypress as pp
import policypress.rl
from policypress.compression.allocation import allocate
from policypress.compression.quantization import Phase
from policypress.compression.schedule import PruningSchedule
from policypress.config import CompressionConfig
from policypress.errors import ConfigError, RunError, UnsupportedError
from policypress.rl import CompressionCallback, ResNetExtractor
from policypress.rl.callback import attached_compressor
from quick import crossed
from rl.toys import (
    AGENTS,
    FOLLOW,
    PRESSED,
    SEEN,
    dqn,
    image_dqn,
    learn,
    learn_on,
    met_observations,
    optimizer_of,
    random_observations,
    sac,
    weights_of,
    zeros_of,
)

PRUNED = CompressionConfig(sparsity=0.8, prune_start=0.2, prune_end=0.6)
MODEL_CLASSES: dict[str, Any] = {"sac": SAC, "dqn": DQN}


# Sparsity


@pytest.mark.parametrize(
    ("algo", "n_envs", "weight_decay"), [("sac", 1, 0.1), ("sac", 4, 0.0), ("dqn", 1, 0.0), ("dqn", 4, 0.1)]
)
def test_each_layer_ends_exactly_on_its_target_with_exact_zeros_everywhere(
    algo: str, n_envs: int, weight_decay: float
) -> None:
    model = AGENTS[algo](n_envs=n_envs, policy_kwargs={"optimizer_kwargs": {"weight_decay": weight_decay}})
    compressor = learn(model, PRUNED, steps=120)
    weights = list(weights_of(model).values())
    targets = allocate("erk", [tuple(weight.shape) for weight in weights], 0.8)
    assert [int((weight == 0).sum()) for weight in weights] == targets
    assert sum(targets) == round(0.8 * sum(weight.numel() for weight in weights)) > 0
    assert [status.sparsity for status in compressor.layer_status()] == pytest.approx(
        [zeros / weight.numel() for zeros, weight in zip(targets, weights, strict=True)]
    )
    assert model._n_updates >= (120 - 20) // n_envs - 1  # the zeros have stood gradient steps
    for weight in weights:
        pruned = weight == 0
        for name, moment in optimizer_of(model).state[weight].items():
            if name in ("exp_avg", "exp_avg_sq"):
                assert not moment[pruned].any(), name
                assert moment[~pruned].any(), name


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_pruned_weights_stay_zero_after_the_schedule(algo: str) -> None:
    model = AGENTS[algo]()
    learn(model, PRUNED, steps=100)
    before = zeros_of(model)
    live = {name: weight.detach().clone() for name, weight in weights_of(model).items()}
    model.learn(30, reset_num_timesteps=False)  # no callback: the optimizer's hook alone
    assert {name: mask.sum() for name, mask in before.items()} == {n: m.sum() for n, m in zeros_of(model).items()}
    for name, weight in weights_of(model).items():
        np.testing.assert_array_equal(zeros_of(model)[name], before[name])
        assert (weight.detach() != live[name])[~torch.from_numpy(before[name])].any(), "nothing was learned"


@pytest.mark.parametrize(("algo", "n_envs"), [("sac", 1), ("sac", 4), ("dqn", 4)])
def test_sparsity_follows_environment_steps_not_calls(algo: str, n_envs: int) -> None:
    model, config, steps = AGENTS[algo](n_envs=n_envs), PRUNED, 120
    schedule = PruningSchedule.from_config(config, steps)
    seen: list[int] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            counts = [weight.numel() for weight in weights_of(self.model).values()]
            targets = allocate("erk", [tuple(w.shape) for w in weights_of(self.model).values()], config.sparsity)
            zeros = [int(mask.sum()) for mask in zeros_of(self.model).values()]
            assert zeros == [round(target * schedule.due(self.num_timesteps)) for target in targets]
            seen.append(sum(zeros))
            assert all(zero < count for zero, count in zip(zeros, counts, strict=True))
            return True

    model.learn(steps, callback=[CompressionCallback(config), Watch()])
    assert len(seen) == steps // n_envs
    assert seen == sorted(seen)
    assert seen[0] == 0 < seen[-1]
    assert len(set(seen)) > 5


def test_steps_can_be_longer_than_one_call_of_learn() -> None:
    model = sac()
    config = CompressionConfig(sparsity=0.5, prune_start=0.1, prune_end=0.5)
    model.learn(60, callback=CompressionCallback(config, steps=100))
    assert attached_compressor(model).sparsity == 0.5  # type: ignore[union-attr]


def test_pruning_may_end_with_the_last_step() -> None:
    model = dqn(n_envs=4)
    compressor = learn(model, CompressionConfig(sparsity=0.5, prune_start=0.5, prune_end=1.0), steps=100)
    assert [int(mask.sum()) for mask in zeros_of(model).values()] == compressor.target_zeros


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_target_network_is_pruned_too(tau: float) -> None:
    model = dqn(tau=tau)
    compressor = learn(model, PRUNED, steps=120)
    (target,) = compressor.quantization._targets
    for node in target.layers:
        mask = zeros_of(model)[node.name]
        assert (node.module.weight.detach().numpy()[mask] == 0).all(), node.name
        assert (node.module.weight.detach().numpy()[~mask] != 0).all(), node.name
    assert sum(mask.sum() for mask in zeros_of(model).values()) > 0


def test_critics_stay_dense() -> None:
    model = sac()
    learn(model, steps=120)
    for critic in (model.critic, model.critic_target):
        for name, weight in critic.named_parameters():
            assert type(critic.get_submodule(name.rpartition(".")[0])) is nn.Linear
            if name.endswith("weight"):
                assert weight.detach().count_nonzero() == weight.numel(), name


def test_log_std_is_neither_pruned_nor_quantized_by_default() -> None:
    model = sac()
    compressor = learn(model, steps=120)
    assert model.actor.log_std.weight.count_nonzero() == model.actor.log_std.weight.numel()
    assert type(model.actor.log_std) is nn.Linear
    assert "log_std" not in [status.name for status in compressor.layer_status()]


def test_prune_auxiliary_prunes_log_std() -> None:
    model = sac()
    config = CompressionConfig(sparsity=0.8, prune_start=0.2, prune_end=0.6, prune_auxiliary=True)
    compressor = learn(model, config, steps=120)
    weight = model.actor.log_std.weight
    *_, status = compressor.layer_status()
    assert status.name == "log_std"
    assert int((weight == 0).sum()) == round(status.target_sparsity * weight.numel()) > 0
    assert not model.actor.optimizer.state[weight]["exp_avg"][weight == 0].any()


def test_image_network_is_pruned_and_quantized_with_its_target() -> None:
    model = image_dqn({"features_extractor_class": ResNetExtractor, "net_arch": []})
    compressor = learn(model, steps=40)
    assert compressor.phase is Phase.QUANTIZE
    targets = [zeros / weight.numel() for zeros, weight in zip(
        compressor.target_zeros, weights_of(model).values(), strict=True
    )]  # fmt: skip
    assert [status.sparsity for status in compressor.layer_status()] == pytest.approx(targets, abs=1e-9)
    assert len(targets) == 3 * 5 + 2
    model.policy.set_training_mode(False)
    with torch.no_grad():  # equal weights give equal outputs only if the target is quantized as well
        for target, weight in zip(model.q_net_target.parameters(), model.q_net.parameters(), strict=True):
            target.copy_(weight)
        tensor, _ = model.policy.obs_to_tensor(random_observations(model, 3))
        assert torch.equal(model.q_net(tensor), model.q_net_target(tensor))


def test_no_compression_changes_nothing() -> None:
    plain = sac()
    plain.learn(60)
    watched = sac()
    learn(watched, CompressionConfig(), steps=60)
    for one, other in zip(plain.policy.state_dict().items(), watched.policy.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])


# Logger


class Kept(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def test_logger_gets_phase_sparsity_and_ranges() -> None:
    model, kept = dqn(), Kept()
    model.set_logger(Logger(None, [kept]))
    model.learn(120, callback=CompressionCallback(PRESSED, log_every=1), log_interval=1)
    rows = [row for row in kept.rows if "compression/phase" in row]
    assert [row["compression/phase"] for row in rows] == sorted(row["compression/phase"] for row in rows)
    assert {row["compression/phase"] for row in rows} >= {0, 2}
    last = rows[-1]
    for name, mask in zeros_of(model).items():
        assert last[f"compression/sparsity/{name}"] == pytest.approx(mask.mean())
    *hidden, _ = zeros_of(model)
    for name in hidden:
        assert last[f"compression/range/{name}"] > 0
    assert not any(key.startswith("compression/range") for key in rows[0])


# What is refused


def test_unsupported_algorithm() -> None:
    model = MaskablePPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(UnsupportedError, match=r"^MaskablePPO agents cannot be pressed; supported are SAC, DDPG, "):
        model.learn(16, callback=CompressionCallback(PRUNED), use_masking=False)


def test_an_algorithm_that_is_pressed_after_its_training_alone() -> None:
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(
        UnsupportedError, match=r"RecurrentPPO cannot be pressed while it learns .*policypress compress"
    ):
        model.learn(160, callback=CompressionCallback(PRUNED))


def test_a_clipped_mean_is_refused() -> None:
    model = sac(use_sde=True)
    with pytest.raises(UnsupportedError, match=r"clips its mean to 2 .*while it learns.*compress.*'clip_mean': 0\.0"):
        model.learn(60, callback=CompressionCallback(PRUNED))


def test_observations_with_an_image_beside_other_things_are_refused() -> None:
    model = sac(SEEN, policy="MultiInputPolicy")
    with pytest.raises(UnsupportedError, match=r"images beside other things \(camera\) cannot be pressed"):
        model.learn(60, callback=CompressionCallback(PRUNED))


class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 4)
        self.layer = nn.Linear(space.shape[0], 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_unknown_features_extractor_is_refused() -> None:
    model = sac(policy_kwargs={"features_extractor_class": OwnExtractor})
    with pytest.raises(UnsupportedError, match=r"OwnExtractor cannot be pressed; .*NatureCNN, ResNetExtractor\.$"):
        model.learn(60, callback=CompressionCallback(PRUNED))


def test_hidden_activations_outside_of_the_table_are_refused() -> None:
    model = dqn(policy_kwargs={"activation_fn": nn.Tanhshrink})
    with pytest.raises(UnsupportedError, match=r"Tanhshrink at q_net\.1 cannot be pressed.*ReLU or one of tanh"):
        model.learn(60, callback=CompressionCallback(PRUNED))


@pytest.mark.parametrize("refused", [{"use_sde": True}, {"policy_kwargs": {"activation_fn": nn.Tanhshrink}}])
def test_a_refused_agent_is_left_as_it_was(refused: dict[str, Any]) -> None:
    model = sac(**refused)
    with pytest.raises(UnsupportedError):
        model.learn(60, callback=CompressionCallback(PRUNED))
    assert attached_compressor(model) is None
    assert not model.actor.optimizer._optimizer_step_post_hooks
    model.learn(30)


@pytest.mark.parametrize(
    ("window", "sentence"),
    [
        ({"prune_end": 1.5}, r"pruning would end at step 300, after the last step 200: lower prune_end"),
        ({"prune_start": 0.0, "prune_end": 0.1}, r"pruning would end at step 20, before learning starts at step 20"),
        ({"quantize_start": 1.0}, r"quantization would start at step 200, not before the last step 200: lower"),
        ({"quantize_start": 0.05}, r"quantization would start at step 10, before learning starts at step 20"),
    ],
)
def test_windows_that_cannot_be_reached_are_refused(window: dict[str, float], sentence: str) -> None:
    config = CompressionConfig(sparsity=0.5, weight_bits=8, **window)
    with pytest.raises(ConfigError, match=sentence):
        sac().learn(200, callback=CompressionCallback(config))


def test_windows_beyond_nominal_steps_are_refused() -> None:
    late = CompressionConfig(sparsity=0.8, prune_end=1.2)
    with pytest.raises(ConfigError, match="pruning would end at step 1200, after the last step 1000"):
        sac().learn(200, callback=CompressionCallback(late, steps=1000))


# learn() in a loop, and its end before the config's


@pytest.mark.parametrize(("reset", "one"), crossed([True, False], [True, False]))
def test_learn_in_a_loop_is_one_training(reset: bool, one: bool) -> None:
    model = sac(FOLLOW)
    callback = CompressionCallback(PRESSED, steps=200)
    seen = []
    for _ in range(5):
        model.learn(
            40, callback=callback if one else CompressionCallback(PRESSED, steps=200), reset_num_timesteps=reset
        )
        compressor = attached_compressor(model)
        assert compressor is not None
        seen.append((compressor.done, round(compressor.sparsity, 3), compressor.phase))
    assert [done for done, _, _ in seen] == [40, 80, 120, 160, 200]
    assert [phase for _, _, phase in seen] == [
        Phase.FLOAT, Phase.FLOAT, Phase.OBSERVE, Phase.QUANTIZE, Phase.QUANTIZE
    ]  # fmt: skip
    sparsities = [sparsity for _, sparsity, _ in seen]
    assert sparsities == sorted(sparsities)
    assert sparsities[1:3] == [pytest.approx(sparsities[1]), 0.8]
    assert 0 < sparsities[1] < 0.8
    assert pp.freeze(model).numerics == "integer"


def test_a_loop_goes_on_behind_save_and_load(tmp_path: Path) -> None:
    model = sac(FOLLOW)
    model.learn(80, callback=CompressionCallback(PRESSED, steps=200))
    model.save(tmp_path / "agent.zip")
    model = policypress.rl.load(tmp_path / "agent.zip", "sac", env=model.get_env())
    model.learn(120, callback=CompressionCallback(PRESSED, steps=200))
    compressor = attached_compressor(model)
    assert compressor is not None
    assert (compressor.done, compressor.phase, compressor.sparsity) == (200, Phase.QUANTIZE, 0.8)


def test_other_nominal_steps_are_refused_on_the_way() -> None:
    model = sac()
    model.learn(40, callback=CompressionCallback(PRESSED, steps=200))
    with pytest.raises(ConfigError, match="being pressed over 200 steps, not 400"):
        model.learn(40, callback=CompressionCallback(PRESSED, steps=400))


class Ends(BaseCallback):
    def __init__(self, how: type[BaseException] | None) -> None:
        super().__init__()
        self.how = how

    def _on_step(self) -> bool:
        if self.num_timesteps < 90:
            return True
        if self.how is not None:
            raise self.how
        return False


@pytest.mark.parametrize("how", ["callback", "interrupt", "steps"])
def test_training_that_ends_early_says_so_when_it_is_frozen(how: str) -> None:
    model = sac(FOLLOW)
    callbacks: list[BaseCallback] = [CompressionCallback(PRESSED, steps=200)]
    if how == "steps":
        model.learn(90, callback=callbacks)
    elif how == "callback":
        model.learn(200, callback=[*callbacks, Ends(None)])
    else:
        with pytest.raises(KeyboardInterrupt):
            model.learn(200, callback=[*callbacks, Ends(KeyboardInterrupt)])
    sentence = r"is \d\d\.\d% sparse instead of 80\.0% and computes in float32 .* 8-bit .*ended at step 90 of 200"
    with pytest.warns(UserWarning, match=sentence):
        assert pp.freeze(model).numerics == "float"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.freeze(model, unfinished=True)


# Another optimizer in place of the first


@pytest.mark.parametrize("algo", ["sac", "dqn"])
@pytest.mark.parametrize("config", [PRUNED, PRESSED], ids=["pruned", "pressed"])
def test_a_replaced_optimizer_keeps_the_zeros(algo: str, config: CompressionConfig) -> None:
    model: Any = AGENTS[algo]()
    learn(model, config, steps=120)
    zeros = zeros_of(model)
    owner = model.actor if algo == "sac" else model.policy
    weights = [weight for group in owner.optimizer.param_groups for weight in group["params"]]
    old, owner.optimizer = owner.optimizer, torch.optim.Adam(weights, lr=1e-2)
    model.learn(60, callback=CompressionCallback(config, 120), reset_num_timesteps=False)
    after = zeros_of(model)
    assert all(np.array_equal(zeros[name], after[name]) for name in zeros)
    assert any(mask.any() for mask in zeros.values())
    assert not old._optimizer_step_post_hooks
    for weight in weights_of(model).values():
        assert not owner.optimizer.state[weight]["exp_avg"][weight == 0].any()
        assert owner.optimizer.state[weight]["exp_avg"].any()


def test_freezing_notices_a_replaced_optimizer() -> None:
    model = sac(FOLLOW)
    learn(model, PRUNED, steps=120)
    zeros = zeros_of(model)
    model.actor.optimizer = torch.optim.SGD(model.actor.parameters(), lr=0.1)
    for parameter in model.actor.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.actor.optimizer.step()
    assert not any(mask.any() for mask in zeros_of(model).values())
    pp.freeze(model)
    assert all(np.array_equal(mask, zeros[name]) for name, mask in zeros_of(model).items())


def test_an_optimizer_of_other_weights_is_refused() -> None:
    model = sac()
    learn(model, PRUNED, steps=120)
    model.actor.optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters())
    with pytest.raises(UnsupportedError, match="does not train this network's weights"):
        pp.freeze(model)


def test_emptied_layer_is_refused_before_the_first_step() -> None:
    model = sac(FOLLOW)
    config = CompressionConfig(sparsity=0.99, allocation="uniform", prune_start=0.2, prune_end=0.6)
    with pytest.raises(ConfigError, match=r"would leave no weight in layer hidden 1 \(latent_pi\.0\) \(16x3\)"):
        model.learn(60, callback=CompressionCallback(config))
    assert model.num_timesteps == 0


def test_another_config_for_an_agent_that_is_pressed_already_is_refused() -> None:
    model = sac()
    learn(model, PRUNED, steps=60)
    with pytest.raises(ConfigError):
        model.learn(60, callback=CompressionCallback(CompressionConfig(sparsity=0.95)))


# Save, load, copy


def state_of(model: Any) -> dict[str, Any]:
    compressor = attached_compressor(model)
    assert compressor is not None
    return {
        **compressor.state_dict(),
        "ranges": compressor.ranges(),
        "zeros": {name: mask.tolist() for name, mask in zeros_of(model).items()},
        "masks": [one.mask.tolist() for one in compressor.pruning.weights],
        "weights": {name: value.tolist() for name, value in model.policy.state_dict().items()},
    }


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_plain_load_opens_an_agent_that_is_only_pruned(algo: str, tmp_path: Path) -> None:
    model = AGENTS[algo]()
    learn(model, PRUNED, steps=80)
    model.save(tmp_path / "agent.zip")
    loaded = MODEL_CLASSES[algo].load(tmp_path / "agent.zip", device="cpu")
    assert sum(mask.sum() for mask in zeros_of(model).values()) > 0
    for name, value in model.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], value), name
    observations = random_observations(model)
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize("algo", ["sac", "dqn"])
@pytest.mark.parametrize("until", [70, 100])
def test_plain_load_of_a_quantizing_agent_fails_and_names_the_quantizer(algo: str, until: int, tmp_path: Path) -> None:
    model = AGENTS[algo]()
    learn(model, steps=100, until=until)
    model.save(tmp_path / "agent.zip")
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*policypress_quantizer"):
        MODEL_CLASSES[algo].load(tmp_path / "agent.zip", device="cpu")


STAGES = {"before": 15, "pruning": 40, "observing": 70, "quantizing": 90, "ended": 100}


@pytest.mark.parametrize(("algo", "stage"), crossed(["sac", "dqn"], STAGES))
def test_our_load_restores_everything_and_training_goes_on(algo: str, stage: str, tmp_path: Path) -> None:
    model = AGENTS[algo]()
    learn(model, steps=100, until=STAGES[stage])
    model.save(tmp_path / "agent.zip")
    loaded: Any = policypress.rl.load(tmp_path / "agent.zip", algo, env=model.get_env())
    assert state_of(loaded) == state_of(model)
    assert loaded.num_timesteps == STAGES[stage]
    observations = np.concatenate([random_observations(model), met_observations(model)])
    model.policy.set_training_mode(False)
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )

    pruned, weights = zeros_of(loaded), {name: w.detach().clone() for name, w in weights_of(loaded).items()}
    loaded.replay_buffer = model.replay_buffer
    steps = 100 if stage != "ended" else 130
    loaded.learn(steps - loaded.num_timesteps, callback=CompressionCallback(PRESSED, 100), reset_num_timesteps=False)
    compressor = attached_compressor(loaded)
    assert compressor is not None
    assert compressor.phase is Phase.QUANTIZE
    assert [int(mask.sum()) for mask in zeros_of(loaded).values()] == compressor.target_zeros
    for name, weight in weights_of(loaded).items():
        assert zeros_of(loaded)[name][pruned[name]].all()
        assert not torch.equal(weight, weights[name]), "nothing was learned"
        moments = optimizer_of(loaded).state[weight]
        assert not moments["exp_avg"][weight == 0].any()
        assert not moments["exp_avg_sq"][weight == 0].any()


def test_saved_state_is_json(tmp_path: Path) -> None:
    model = sac()
    learn(model, steps=40)
    state = json.loads(json.dumps(model.policypress_state))
    assert state == model.policypress_state
    assert state["steps"] == 40
    assert state["compressor"]["phase"] == "QUANTIZE"
    assert CompressionConfig(**{k: v for k, v in state["config"].items() if k != "version"}) == PRESSED


def test_image_agent_survives_save_and_load(tmp_path: Path) -> None:
    model = image_dqn({"features_extractor_class": ResNetExtractor, "net_arch": []})
    learn(model, steps=40)
    model.save(tmp_path / "agent.zip")
    loaded = policypress.rl.load(tmp_path / "agent.zip", "dqn")
    observations = random_observations(model, 8)
    assert loaded.policy.state_dict().keys() == model.policy.state_dict().keys()
    for (name, one), other in zip(model.policy.state_dict().items(), loaded.policy.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


def test_loading_keeps_the_masks_of_random_pruning(tmp_path: Path) -> None:
    model = sac()
    learn(model, CompressionConfig(sparsity=0.5, criterion="random", prune_start=0.2, prune_end=0.6), steps=60)
    model.save(tmp_path / "agent.zip")
    loaded = policypress.rl.load(tmp_path / "agent.zip", "sac")
    for name, mask in zeros_of(model).items():
        np.testing.assert_array_equal(zeros_of(loaded)[name], mask, name)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no zip"])
def test_what_is_not_an_agent_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RunError, match="is not an agent saved by Stable-Baselines3"):
        policypress.rl.load(file, "sac")


@pytest.mark.parametrize(("saved", "opened"), [("sac", "dqn"), ("dqn", "sac"), ("sac", "ppo"), ("sac", "td3")])
def test_an_agent_of_another_algorithm_is_refused(saved: str, opened: str, tmp_path: Path) -> None:
    AGENTS[saved]().save(tmp_path / "agent.zip")
    with pytest.raises(RunError, match=f"holds no {opened.upper()} agent: name the algorithm that trained it"):
        policypress.rl.load(tmp_path / "agent.zip", opened)
    with pytest.raises(ConfigError, match="algo='her' is not one of sac, ddpg, td3"):
        policypress.rl.load(tmp_path / "agent.zip", "her")


def test_an_agent_that_policypress_never_saw_opens_too(tmp_path: Path) -> None:
    model = sac()
    model.save(tmp_path / "agent.zip")
    loaded = policypress.rl.load(tmp_path / "agent.zip", "sac")
    assert attached_compressor(loaded) is None
    assert torch.equal(loaded.actor.mu.weight, model.actor.mu.weight)


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_policy_can_be_copied_deeply(algo: str) -> None:
    model = AGENTS[algo]()
    learn(model, steps=60)
    copied = copy.deepcopy(model.policy)
    observations = random_observations(model)
    expected, _ = model.policy.predict(observations, deterministic=True)
    np.testing.assert_array_equal(copied.predict(observations, deterministic=True)[0], expected)
    state = {name: value.clone() for name, value in copied.state_dict().items()}
    model.learn(30, reset_num_timesteps=False)
    for name, value in copied.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_learn_in_pieces_gives_the_final_sparsity() -> None:
    model = sac()
    learn(model, PRESSED, steps=100, until=30)
    learn_on(model, PRESSED, steps=100)
    compressor = attached_compressor(model)
    assert compressor is not None
    assert [int(mask.sum()) for mask in zeros_of(model).values()] == compressor.target_zeros


# Speed


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_adam_of_the_deployed_network_is_fused(algo: str) -> None:
    model = AGENTS[algo]()
    learn(model, PRUNED, steps=60)
    optimizer = optimizer_of(model)
    assert all(group["fused"] for group in optimizer.param_groups)
    if algo == "sac":
        assert not any(group["fused"] for group in model.critic.optimizer.param_groups)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("policy_kwargs", "key"),
    [
        ({"optimizer_kwargs": {"foreach": True}}, "foreach"),
        ({"optimizer_class": torch.optim.RMSprop}, "alpha"),
    ],
)
def test_an_optimizer_that_somebody_chose_stays_as_it_is(policy_kwargs: dict[str, Any], key: str) -> None:
    model = AGENTS["dqn"](policy_kwargs=policy_kwargs)
    learn(model, PRUNED, steps=60)
    for group in optimizer_of(model).param_groups:
        assert not group.get("fused")
        assert group[key]


@pytest.mark.parametrize("algo", ["sac", "dqn"])
def test_learned_steps_and_a_price_for_bits_survive_save_and_load(algo: str, tmp_path: Path) -> None:
    config = CompressionConfig(
        sparsity=0.5, criterion="flow", prune_start=0.2, prune_end=0.5, weight_bits=8, weight_range="learned",
        rate_weight=0.1, quantize_start=0.6, observe=0.1,
    )  # fmt: skip
    model = AGENTS[algo]()
    learn(model, config, steps=120)
    model.save(tmp_path / "agent.zip")
    loaded: Any = policypress.rl.load(tmp_path / "agent.zip", algo)
    compressor = attached_compressor(loaded)
    assert compressor is not None
    for node, other in zip(compressor.graph.layers, attached_compressor(model).graph.layers, strict=True):  # type: ignore[union-attr]
        ours, theirs = node.module.policypress_quantizer, other.module.policypress_quantizer
        assert int(ours.updates) == int(theirs.updates) > 0, "the step was learned"
        assert torch.equal(ours.step, theirs.step)
        assert torch.equal(ours.moments, theirs.moments)
    observations = random_observations(model, 50)
    model.policy.set_training_mode(False)
    policy = pp.freeze(model)
    assert np.array_equal(policy.predict(observations)[0], pp.freeze(loaded).predict(observations)[0])
    assert np.array_equal(policy.predict(observations)[0], model.predict(observations, deterministic=True)[0])
