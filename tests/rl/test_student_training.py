"""``--method finetune`` with widths: a distilled student, trained on by its agent's algorithm."""

from __future__ import annotations

import math
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policypress as pp
from policypress.compression.compressor import Compressor
from policypress.config import PressConfig
from policypress.errors import DivergedError, RunError, UnsupportedError
from policypress.measure.size import size
from policypress.policy.artifact import encode
from policypress.rl.adapters import ADAPTERS
from policypress.rl.agents import read_learned
from policypress.rl.distill import Distillation
from policypress.rl.finetune import _environment
from policypress.rl.formats import open_agent
from policypress.rl.press import press
from policypress.rl.sources import Source, states_for
from policypress.rl.student_training import StudentTraining
from quick import quick
from rl.toys import AIM, FOLLOW, NAMED, PICK, agent, plan

ADAPTER = sys.modules["policypress.rl.adapters"]
TRAINING = sys.modules["policypress.rl.student_training"]
ENVS = {"sac": FOLLOW, "tqc": FOLLOW, "td3": FOLLOW, "ddpg": FOLLOW, "ppo": FOLLOW, "a2c": PICK}
LEFT = {".lock", "config.json", "policy.policy", "result.json", "teacher.json"}

pytestmark = pytest.mark.filterwarnings("ignore:the agent does no better", "ignore:.*does not tell its")


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRAINING, "_EVALUATIONS", 5)
    monkeypatch.setattr(TRAINING, "_EPISODES", 2)


def saved(algo: str, folder: Path, **kwargs: Any) -> Source:
    model = agent(algo, ENVS[algo], **kwargs)
    model.learn(60)
    model.save(folder / "agent.zip")
    return Source(folder / "agent.zip", force=True)


def planned(source: Source, algo: str, env: str = "", steps: int = 200, **kwargs: Any) -> PressConfig:
    given = {"hidden": (6, 5), "compression": {}, **kwargs}
    student = {"batches": 60, "states": 200, "batch_size": 32}
    settings = {"steps": steps, "episodes": 4}
    return plan(source, algo, env or ENVS[algo], method="finetune", student=student, settings=settings, **given)


@contextmanager
def trainings(source: Source, config: PressConfig) -> Iterator[Any]:
    """A function that makes the same training again and again, and the finished distillation that it starts from."""
    opened = open_agent(source, config.algo, config.environment)
    with states_for(opened.teacher, config.environment, config.student.seed) as (teacher, states):
        distilled = Distillation(teacher, states, config.student)
        distilled.run()
    env = _environment(config.environment, None, training=True)
    inputs = distilled.inputs(100)
    yield lambda folder=None: StudentTraining(opened, distilled.compressor, inputs, env, config, folder), distilled
    env.close()


@pytest.mark.parametrize("algo", quick(ENVS, ["sac", "ppo"]))
def test_a_student_is_trained_on_without_trust(algo: str, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    seen: list[Any] = []
    result = press(source, planned(source, algo), tmp_path / "run", progress=lambda *values: seen.append(values))
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT
    assert {of for _, of, _ in seen} == {60, 200}  # batches, then steps
    assert seen[-1][0] == 200
    assert result["numerics"] == "integer"
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert [len(layer.bias) for layer in policy.layers[:-1]] <= [6, 5]
    assert policy.provenance["finetuned"] == 200
    assert policy.provenance["distill"]["hidden"] == [6, 5]


@pytest.mark.parametrize("algo", ["sac", "td3", "ppo"])
def test_it_starts_as_distilled_in_the_same_integers(algo: str, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    with trainings(source, planned(source, algo)) as (make, distilled):
        training = make()
        training._evaluate(None)
    ours, theirs = training.freeze(), distilled.freeze()
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours.outputs(x), theirs.outputs(x))


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_the_student_stays_as_it_is_while_the_critics_warm_up(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TRAINING, "_WARM_UP_SHARE", 1.0)
    source = saved(algo, tmp_path)
    with trainings(source, planned(source, algo, steps=60)) as (make, _):
        training = make()
        before = {name: value.clone() for name, value in training._model.policy.state_dict().items()}
        training.run()
    after = training._model.policy.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith(("critic.", "value_net.")) for name in moved)
    student = ("actor.", "action_net.", "mlp_extractor.policy_net.", "log_std")
    ranges = ("input.limit", "input.offset", "input.seen", "output.limit")  # go on following what is seen
    assert not {name for name in moved if name.startswith(student) and not name.endswith(ranges)}


@pytest.mark.parametrize("algo", quick(["sac", "ppo"], ["sac"]))
def test_pruned_weights_stay_zero(algo: str, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    config = planned(source, algo, hidden=(16, 16), compression={"sparsity": 0.7})
    with trainings(source, config) as (make, distilled):
        zeros = [node.module.weight == 0 for node in distilled.compressor.graph.layers]
        assert sum(int(mask.sum()) for mask in zeros) >= 0.69 * sum(mask.numel() for mask in zeros)
        training = make()
        weights = [node.module.weight.clone() for node in training._compressor.graph.layers]
        training.run()
        for node, mask, before in zip(training._compressor.graph.layers, zeros, weights, strict=True):
            assert bool((node.module.weight[mask] == 0).all())
            assert not torch.equal(node.module.weight, before)


def test_critics_entropy_and_their_optimizers_are_the_agents(tmp_path: Path) -> None:
    source = saved("sac", tmp_path, gamma=0.9, tau=0.02, policy_kwargs={"n_critics": 3})
    old = ADAPTERS["sac"].model_class.load(source.agent)
    with trainings(source, planned(source, "sac")) as (make, _):
        model = make()._model
    assert (model.gamma, model.tau, model.batch_size) == (0.9, 0.02, 8)
    assert model.target_entropy == pytest.approx(-2.0 - 2 * math.log(ADAPTER._QUIET))  # less noise than the agent's
    for mine, theirs in (
        (model.critic.state_dict(), old.critic.state_dict()),
        (model.critic_target.state_dict(), old.critic_target.state_dict()),
        ({"": model.log_ent_coef}, {"": old.log_ent_coef}),
    ):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    for mine, theirs in (
        (model.critic.optimizer, old.critic.optimizer),
        (model.ent_coef_optimizer, old.ent_coef_optimizer),
    ):
        states = [list(one.state_dict()["state"].values()) for one in (mine, theirs)]
        assert len(states[0]) == len(states[1]) > 0
        for ours, others in zip(*states, strict=True):
            assert torch.equal(ours["exp_avg"], others["exp_avg"])
            assert float(ours["step"]) == float(others["step"])


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    with trainings(source, planned(source, "sac", steps=100)) as (make, _):
        policies = []
        for _ in range(2):
            training = make()
            training.run()
            policies.append(encode(training.freeze()))
    assert policies[0] == policies[1]


@pytest.mark.parametrize("algo", quick(["sac", "td3", "ppo"], ["sac"]))
def test_an_interrupted_training_goes_on(algo: str, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    config = planned(source, algo, steps=300)

    def interrupt(done: int, of: int, _: Any) -> None:
        if of == 300 and done >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        press(source, config, tmp_path / "run", progress=interrupt)
    kept = torch.load(tmp_path / "run" / "checkpoint" / "training.pt", weights_only=True)
    assert 100 < kept["done"] < 150
    assert kept["buffer"] == (None if algo == "ppo" else (kept["done"], False))
    seen: list[Any] = []
    result = press(source, config, tmp_path / "run", resume=True, progress=lambda *values: seen.append(values))
    assert next(done for done, of, _ in seen if of == 300) > kept["done"]
    assert seen[-1][0] == 300
    assert result["numerics"] == "integer"
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT


def test_the_replay_buffer_goes_on(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    with trainings(source, planned(source, "sac")) as (make, _):
        one = make(tmp_path / "checkpoint")
        assert not one.run(seconds=0.0)
        other = make(tmp_path / "checkpoint")
        ours, theirs = one._model.replay_buffer, other._model.replay_buffer
        assert theirs.size() == ours.size() == one._model.num_timesteps > 0
        assert np.array_equal(theirs.observations[: ours.size()], ours.observations[: ours.size()])
        assert other.run()


def test_a_checkpoint_holds_all_of_a_training(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    with trainings(source, planned(source, "sac")) as (make, _):
        one, other = make(), make()
        one._checkpoint = other._checkpoint = tmp_path / "training.pt"
        one.run()
        one._save()
        other._restore(torch.load(one._checkpoint, weights_only=True))
        for name, value in one._model.policy.state_dict().items():
            assert torch.equal(other._model.policy.state_dict()[name], value), name
        assert other.evaluations == one.evaluations
        assert encode(other.freeze()) == encode(one.freeze())
        other._config = planned(source, "sac", steps=201)
        with pytest.raises(RunError, match="of other settings"):
            other._restore(torch.load(one._checkpoint, weights_only=True))


def test_what_returned_most_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved("sac", tmp_path)
    means = iter([1.0, 3.0, 2.0] + [0.0] * 100)
    kept: list[Any] = []

    def pretend(policy: Any, *_: Any, **__: Any) -> Any:
        kept.append(policy)
        mean = next(means)
        return type("Result", (), {"mean": mean, "interval": (mean, mean), "worst_tenth": mean, "returns": [mean]})

    monkeypatch.setattr(TRAINING, "evaluate", pretend)
    with trainings(source, planned(source, "sac", compression={"rate_weight": 0.0})) as (make, _):
        training = make()
        training.run()
    assert training.freeze() is kept[1]


def test_what_is_deployed_has_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRAINING, "_AVERAGED", 4)
    source = saved("sac", tmp_path)
    with trainings(source, planned(source, "sac")) as (make, _):
        training = make()
        training.run()
    latest = [values.detach().clone() for values in training._deployed]
    assert any(not torch.equal(*pair) for pair in zip(latest, training._average, strict=True))
    with training._averaged():
        assert all(torch.equal(*pair) for pair in zip(training._deployed, training._average, strict=True))
    assert all(torch.equal(*pair) for pair in zip(training._deployed, latest, strict=True))


def test_the_price_follows_the_bits(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    with trainings(source, planned(source, "sac")) as (make, distilled):
        training = make()
    asked = distilled.compressor.config.rate_weight
    assert training._price == asked > 0.0
    x = torch.zeros(4, 3)
    training._bits_wanted = training._bits() / 2  # grown
    for _ in range(100):
        training._hold(x)
    assert training._price > asked
    training._bits_wanted = training._bits() * 2
    for _ in range(300):
        training._hold(x)
    assert training._price < asked


@pytest.mark.parametrize("algo", quick(["sac", "a2c"], ["a2c"]))
def test_the_payload_does_not_grow(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(algo, tmp_path)
    returns = iter(range(1000))

    def better(*_: Any, **__: Any) -> Any:  # every evaluation than the one before
        mean = float(next(returns))
        return type("Result", (), {"mean": mean, "interval": (mean, mean), "worst_tenth": mean, "returns": [mean]})

    monkeypatch.setattr(TRAINING, "evaluate", better)
    with trainings(source, planned(source, algo)) as (make, distilled):
        training = make()
        training.run()
    fitting = [row for row in training.evaluations if row["payload"] <= size(distilled.freeze()).payload_bytes]
    assert training.evaluations[0] in fitting
    assert size(training.freeze()).payload_bytes == fitting[-1]["payload"]


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    with trainings(source, planned(source, "sac")) as (make, _):
        training = make()
        with torch.no_grad():
            training._model.critic.qf0[0].weight.fill_(float("nan"))
        with pytest.raises(DivergedError, match="diverged"):
            training.run()


@pytest.mark.parametrize("algo", quick(["sac", "td3", "ppo"], ["td3"]))
def test_a_linear_student_from_elsewhere_is_trained_on(algo: str, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    config = planned(source, algo)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    start = Compressor(network, optimizer, config.student.compression, 10)
    x = torch.rand(100, 3) * 2 - 1
    for step in (0, 10):
        start.step(step)
        network(x).square().mean().backward()
        optimizer.step()
    opened = open_agent(source, algo, config.environment)
    training = StudentTraining(opened, start, x, _environment(config.environment, None, training=True), config)
    training.run()
    assert [layer.weight.shape for layer in training.freeze().layers] == [(2, 3)]
    assert training.freeze().numerics == "integer"


@pytest.mark.parametrize("algo", quick(["sac", "ppo"], ["ppo"]))
def test_a_student_in_floats_is_trained_on(algo: str, tmp_path: Path) -> None:
    source = saved(algo, tmp_path)
    floats = {"weight_bits": 32, "activation_bits": 0}
    press(source, planned(source, algo, compression=floats), tmp_path / "run")
    assert pp.load(tmp_path / "run" / "policy.policy").numerics == "float"


def test_hidden_none_is_a_linear_student(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    press(source, planned(source, "sac", hidden="none", steps=40), tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert [layer.weight.shape for layer in policy.layers] == [(2, 3)]
    assert policy.provenance["distill"]["hidden"] == "none"


def test_joined_observations_are_taken(tmp_path: Path) -> None:
    model = ADAPTERS["ppo"].model_class("MultiInputPolicy", NAMED, n_steps=20, batch_size=20, device="cpu")
    model.learn(40)
    model.save(tmp_path / "agent.zip")
    source = Source(tmp_path / "agent.zip", force=True)
    result = press(source, planned(source, "ppo", NAMED, steps=60), tmp_path / "run")
    assert result["numerics"] == "integer"


@pytest.mark.parametrize(
    ("algo", "env", "hidden", "sentence"),
    [
        ("dqn", PICK, (4, 4), "a student of dqn cannot be trained on, those of sac, ddpg, td3, tqc, ppo, a2c can"),
        ("trpo", PICK, (4, 4), "a student of trpo cannot be trained on"),
        ("crossq", FOLLOW, (4, 4), "a student of crossq cannot be trained on"),
        ("ppo", AIM, (4,), "a student that sees images cannot be trained on"),
    ],
)
def test_agents_whose_students_cannot_be_trained_on(
    algo: str, env: str, hidden: tuple[int, ...], sentence: str, tmp_path: Path
) -> None:
    agent(algo, env).save(tmp_path / "agent.zip")
    source = Source(tmp_path / "agent.zip", force=True)
    with pytest.raises(UnsupportedError, match=sentence):
        press(source, planned(source, algo, env, hidden=hidden), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What a zip holds of a training


def test_settings_are_read_without_unpickling(tmp_path: Path) -> None:
    model = agent("ppo", FOLLOW, gamma=0.95, clip_range=0.3, learning_rate=lambda left: 1e-3 * left)
    model.save(tmp_path / "agent.zip")
    learned = read_learned(tmp_path / "agent.zip", ADAPTERS["ppo"])
    assert learned.settings["gamma"] == 0.95
    assert learned.settings["clip_range"] == 0.3
    assert learned.settings["n_steps"] == 20
    assert learned.unread == ("learning_rate",)
    assert not {"seed", "verbose", "device", "policy_kwargs"} & learned.settings.keys()


def test_settings_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    source = saved("ppo", tmp_path, learning_rate=lambda left: 1e-3 * left)
    with trainings(source, planned(source, "ppo")) as (make, _), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    assert any("does not tell its learning_rate without being unpickled" in str(one.message) for one in caught)


def test_optimizers_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    source = saved("sac", tmp_path)
    with zipfile.ZipFile(source.agent) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["critic.optimizer.pth"] = b"no tensors"
    with zipfile.ZipFile(source.agent, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with trainings(source, planned(source, "sac")) as (make, _):
        assert not make()._model.critic.optimizer.state
