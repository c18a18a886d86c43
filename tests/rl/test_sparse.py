"""Every way of pruning in the loops of Stable-Baselines3: counts, targets, critics, checkpoints, frozen policies."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

import policypress as pp
from policypress.compression import Compressor
from policypress.compression.competition import Competing
from policypress.compression.pruning import Pruning
from policypress.compression.pruning_methods import METHODS
from policypress.compression.saliency import SALIENCIES
from policypress.compression.student import forward
from policypress.config import FOUND, CompressionConfig
from policypress.errors import ConfigError, UnsupportedError
from policypress.rl import CompressionCallback, load, train
from policypress.rl.agents import load_agent
from policypress.rl.callback import TENSORS_ATTRIBUTE, attached_compressor, missing
from policypress.rl.checkpoint import newest_checkpoint
from policypress.rl.train import _RunCallback
from quick import crossed
from rl.toys import AIM, FOLLOW, LOOK, PICK, agent, in_child, learn, learn_on, run_config

VECTORS = {"sac": FOLLOW, "td3": FOLLOW, "dqn": PICK, "ppo": FOLLOW}
IMAGES = {"sac": AIM, "td3": AIM, "dqn": LOOK, "ppo": LOOK}
STEPS, SAVED = 60, 35


def config_of(method: Any = "gradual", **given: Any) -> CompressionConfig:
    settings: dict[str, Any] = {
        "sparsity": 0.6, "pruning": method, "prune_start": 0.35, "prune_end": 0.75, "prune_iterations": 12,
        "weight_bits": 8, "quantize_start": 0.85, "observe": 0.1,
    }  # fmt: skip
    return CompressionConfig(**settings | given)


def zeros_of(pruning: Pruning) -> list[int]:
    return [int((~one.mask).sum()) for one in pruning.weights]


class Watch(BaseCallback):
    """At every step: what is masked is zero, in targets too, and as many as the method says. Saves once."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.masks: list[list[torch.Tensor]] = []
        self.saved: Any = None

    def _on_step(self) -> bool:
        compressor = attached_compressor(self.model)
        assert compressor is not None
        for pruning in compressor._prunings:
            assert zeros_of(pruning) == [
                round(count * pruning.sparsity / pruning.target) for count in pruning.target_zeros
            ]
            for one in pruning.weights:
                assert all(bool((values[~one.mask] == 0).all()) for values in (one.weight, *one.followers))
        self.masks.append([one.mask for one in compressor.pruning.weights])
        if self.num_timesteps == SAVED:
            self.model.save(self._folder / "agent.zip")
            self.saved = compressor.state_dict()
        return True


def trained(algo: str, env: str, config: CompressionConfig, folder: Path) -> tuple[Any, Compressor, Watch]:
    model, watch = agent(algo, env, **({"n_epochs": 2} if algo == "ppo" else {})), Watch(folder)
    model.learn(STEPS, callback=[CompressionCallback(config, returns=lambda: 1.0), watch])
    compressor = attached_compressor(model)
    assert compressor is not None
    return model, compressor, watch


def check(algo: str, env: str, config: CompressionConfig, folder: Path) -> None:
    """Trains to the end, freezes to the same bits, and goes on from a file that was saved while pruning."""
    model, compressor, watch = trained(algo, env, config, folder)
    counts = [sum(int((~mask).sum()) for mask in masks) for masks in watch.masks]
    assert counts == sorted(counts)
    reached = [one for one in compressor._prunings if config.pruning != "competing"]  # what that finds, it finds
    for pruning in reached:
        assert zeros_of(pruning) == pruning.target_zeros
        assert sum(pruning.target_zeros) > 0 or pruning.config.sparsity == 0
    if config.pruning in ("set", "rigl"):
        whole = [masks for masks, count in zip(watch.masks, counts, strict=True) if count == counts[-1]]
        assert any(not torch.equal(a, b) for a, b in zip(whole[0], whole[-1], strict=True)), "nothing moved"
    assert missing(model) == ""
    policy, space = pp.freeze(model), model.observation_space
    image = space.dtype == np.uint8
    x = np.stack([space.sample() for _ in range(32)])
    model.policy.set_training_mode(False)
    with torch.no_grad():
        expected = forward(compressor.graph, torch.as_tensor(x) / 255 if image else torch.as_tensor(x))
    np.testing.assert_array_equal(policy.outputs(x), expected.numpy())
    opened = load(folder / "agent.zip", algo, env=model.get_env())
    found = attached_compressor(opened)
    assert found is not None
    assert found.state_dict() == watch.saved
    learn_on(opened, config, STEPS)
    if reached:
        assert [zeros_of(pruning) for pruning in found._prunings] == [one.target_zeros for one in found._prunings]


EVERYWHERE = tuple(method for method in METHODS if method != "competing")


@pytest.mark.parametrize(("method", "algo"), [*crossed(EVERYWHERE, VECTORS), ("competing", "dqn")])
def test_every_method_trains_every_algorithm(method: str, algo: str, tmp_path: Path) -> None:
    check(algo, VECTORS[algo], config_of(method), tmp_path)


@pytest.mark.parametrize(
    ("method", "algo"),
    [
        pytest.param(method, algo, marks=() if (method, algo) == ("rigl", "dqn") else pytest.mark.slow)
        for method in METHODS
        for algo in IMAGES
        if method in EVERYWHERE or algo == "dqn"
    ],
)
def test_every_method_trains_convolutions(method: str, algo: str, tmp_path: Path) -> None:
    check(algo, IMAGES[algo], config_of(method), tmp_path)


@pytest.mark.parametrize(
    ("criterion", "algo"),
    [
        pytest.param(criterion, algo, marks=() if algo == "ppo" else pytest.mark.slow)
        for criterion in SALIENCIES
        for algo in VECTORS
    ],
)
def test_criteria_by_training_fit_every_algorithm(criterion: str, algo: str, tmp_path: Path) -> None:
    given = {"criterion": criterion, "prune_end": 0.8}
    check(algo, VECTORS[algo], config_of(**given), tmp_path)


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.parametrize(
    ("structure", "sparsity"),
    [("1:2", 0.5), ("units", 0.4)],
)
def test_structures_in_the_loop(structure: str, sparsity: float, algo: str, tmp_path: Path) -> None:
    check(algo, VECTORS[algo], config_of(structure=structure, sparsity=sparsity), tmp_path)


@pytest.mark.parametrize("algo", ["dqn", "sac"])
@pytest.mark.parametrize(("structure", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("block4", 0.5), ("units", 0.5)])
@pytest.mark.slow
def test_structures_of_convolutions(structure: str, sparsity: float, algo: str, tmp_path: Path) -> None:
    check(algo, IMAGES[algo], config_of(structure=structure, sparsity=sparsity), tmp_path)


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_the_same_seed_gives_the_same_bytes(algo: str, tmp_path: Path) -> None:
    def bytes_of() -> bytes:
        model, _, _ = trained(algo, VECTORS[algo], config_of("rigl"), tmp_path)
        return b"".join(values.numpy().tobytes() for values in model.policy.state_dict().values())

    assert bytes_of() == bytes_of()


# Critics


@pytest.mark.parametrize(
    ("algo", "method", "env"),
    [
        ("sac", "rigl", FOLLOW),
        ("td3", "gradual", FOLLOW),
        ("ppo", "static", FOLLOW),
        *(
            pytest.param(algo, method, env, marks=pytest.mark.slow)
            for env, others in ((FOLLOW, METHODS), (AIM, ("gradual", "rewind")))
            for algo in ("sac", "td3", "ppo")
            for method in others
            if method not in FOUND
        ),
    ],
)
def test_critics_are_pruned_with_their_targets(algo: str, method: str, env: str, tmp_path: Path) -> None:
    config = config_of(method, critic_sparsity=0.5)
    check(algo, env, config, tmp_path)
    model, compressor, _ = trained(algo, env, config, tmp_path)
    critics = compressor.critics
    assert critics is not None
    names = {name for name, _ in model.policy.named_parameters()}
    shown = {status.name for status in compressor.layer_status()}
    assert {one.name for one in critics.weights} < shown
    assert len(critics.weights) == {"sac": 6, "td3": 6, "ppo": 3}[algo] + (4 if env == AIM and algo != "ppo" else 0)
    assert all(one.name.startswith("critic.") for one in critics.weights)
    assert {f"{one.name}.weight".removeprefix("critic." if algo == "ppo" else "") for one in critics.weights} < names
    assert all(bool(one.followers) == (algo != "ppo") for one in critics.weights)
    assert sum(zeros_of(critics)) == round(0.5 * sum(one.weight.numel() for one in critics.weights))


def test_critics_alone_are_pruned() -> None:
    model = agent("sac", FOLLOW)
    compressor = learn(model, config_of(sparsity=0.0, critic_sparsity=0.9, weight_bits=32), STEPS)
    assert all(bool(node.module.weight.all()) for node in compressor.graph.layers)
    assert compressor.critics is not None
    assert zeros_of(compressor.critics) == compressor.critics.target_zeros
    assert compressor.critics.sparsity == 0.9


def test_an_algorithm_without_critics_says_so() -> None:
    sentence = r"critic_sparsity=0\.5 needs critics beside the deployed network, and there are none: leave it at 0"
    with pytest.raises(ConfigError, match=sentence):
        learn(agent("dqn", PICK), config_of(critic_sparsity=0.5), STEPS)


def test_a_replaced_optimizer_of_the_critics_keeps_their_masks() -> None:
    model = agent("sac", FOLLOW)
    config = config_of(critic_sparsity=0.5)
    learn(model, config, STEPS, until=50)
    model.critic.optimizer = torch.optim.RMSprop(model.critic.parameters(), lr=1e-3)
    learn_on(model, config, STEPS)
    compressor = attached_compressor(model)
    assert compressor is not None
    assert compressor.critics is not None
    for one in compressor.critics.weights:
        assert one.optimizer is model.critic.optimizer
        assert bool((one.weight[~one.mask] == 0).all())


# As the return bears


def test_a_run_finds_its_sparsity_and_is_finished_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    found: list[float] = []

    def returns(run: Any) -> float:
        assert np.isfinite(measured(run))
        found.append(5.0 if len(found) > 4 else 10.0)
        return found[-1]

    measured = _RunCallback.returns
    monkeypatch.setattr(_RunCallback, "returns", returns)
    train(run_config(compression=config_of("adaptive", sparsity=0.9, prune_iterations=40)), tmp_path)
    assert found[:7] == [10.0] * 5 + [5.0] * 2  # and never better
    model = load(tmp_path / "agent.zip", "dqn")
    compressor = attached_compressor(model)
    assert compressor is not None
    assert compressor.sparsity == pytest.approx(1 - 0.1 ** (4 / 11))
    assert missing(model) == ""
    assert not [one for one in recwarn if "sparse instead of" in str(one.message)]


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_what_does_not_compete_says_so(algo: str) -> None:
    with pytest.raises(ConfigError, match="compete by their loss on a batch, in Stable-Baselines3 those of DQN: give"):
        agent(algo, FOLLOW).learn(STEPS, callback=CompressionCallback(config_of("competing")))


def test_networks_compete_by_the_loss_that_dqn_takes() -> None:
    """The loss of the network itself is what Stable-Baselines3 logs."""
    model = agent("dqn", PICK, target_update_interval=7)
    losses: list[float] = []
    rounds: set[int] = set()

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            compressor = attached_compressor(self.model)
            assert compressor is not None
            pruning = compressor.pruning
            assert isinstance(pruning, Competing)
            if pruning._rivals and self.model.replay_buffer.latest is not None:  # type: ignore[attr-defined]
                logged = self.logger.name_to_value["train/loss"]
                assert pruning.lost - sum(losses) == pytest.approx(logged, rel=1e-5)
                losses.append(logged)
                rounds.add(pruning.round)
            else:
                losses.clear()
            return True

    config = config_of("competing", prune_iterations=4, sparsity=0.9)
    model.learn(STEPS, callback=[CompressionCallback(config), Look()])
    assert rounds == {0, 10, 20, 30}


def test_a_network_that_no_sparser_one_beats_is_finished_too(recwarn: pytest.WarningsRecorder) -> None:
    model = agent("dqn", PICK, train_freq=50)  # the first gradient comes after the last round
    compressor = learn(model, config_of("competing"), STEPS)
    assert compressor.sparsity == 0.0
    assert missing(model) == ""
    pp.freeze(model)
    assert not [one for one in recwarn if "sparse instead of" in str(one.message)]


def test_a_callback_that_nobody_tells_returns_says_so() -> None:
    with pytest.raises(ConfigError, match="pruning=adaptive asks what the network returns: give a function"):
        agent("sac", FOLLOW).learn(STEPS, callback=CompressionCallback(config_of("adaptive")))


# What travels in a zip


@pytest.mark.slow
def test_a_run_that_is_killed_while_pruning_goes_on_to_the_end(tmp_path: Path) -> None:
    pressed = config_of("rewind", criterion="movement", critic_sparsity=0.5, prune_start=0.2)
    config = run_config("sac", compression=pressed)
    folder = tmp_path / "checkpoint"
    reached = lambda: any(int(path.name[5:]) >= 50 for path in folder.glob("step-*"))  # noqa: E731
    assert in_child(lambda: train(config, tmp_path), reached) == -signal.SIGKILL
    kept = newest_checkpoint(folder)  # the one before may not be removed yet
    assert kept is not None
    opened = attached_compressor(load(kept / "agent.zip", "sac"))
    assert opened is not None
    assert opened.critics is not None
    for pruning in (opened.pruning, opened.critics):
        assert 0 < sum(zeros_of(pruning)) < sum(pruning.target_zeros)
        assert all(bool(values.any()) for name, values in pruning.tensors.items() if name.startswith("moved"))
    train(config, tmp_path, resume=True)
    compressor = attached_compressor(load(tmp_path / "agent.zip", "sac"))
    assert compressor is not None
    assert compressor.critics is not None
    for pruning in (compressor.pruning, compressor.critics):
        assert zeros_of(pruning) == pruning.target_zeros


def test_what_pruning_adds_up_is_in_the_zip_and_in_no_ones_way(tmp_path: Path) -> None:
    model, compressor, _ = trained("sac", FOLLOW, config_of(criterion="movement", weight_bits=32), tmp_path)
    model.save(tmp_path / "end.zip")
    plain = SAC.load(tmp_path / "end.zip")  # without policypress
    arrays = getattr(plain, TENSORS_ATTRIBUTE)
    assert arrays.keys() == compressor.tensors.keys()
    for name, values in compressor.tensors.items():
        np.testing.assert_array_equal(arrays[name], values.numpy())
        assert bool(values.any())
    assert load_agent(tmp_path / "end.zip", "sac", FOLLOW).graph.parameters
    delattr(plain, TENSORS_ATTRIBUTE)
    plain.save(tmp_path / "without.zip")
    with pytest.raises(UnsupportedError, match="does not hold what pruning has added up so far"):
        load(tmp_path / "without.zip", "sac")


def test_who_adds_nothing_up_keeps_nothing(tmp_path: Path) -> None:
    model, _, _ = trained("dqn", PICK, config_of("rigl"), tmp_path)
    assert not hasattr(model, TENSORS_ATTRIBUTE)
