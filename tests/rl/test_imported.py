"""Policies of other frameworks as teachers: what the environment says of them, and pressing from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import policypress as pp
from importers.models import Graph
from policypress.config import DistillConfig, Environment, Opening
from policypress.errors import ConfigError, UnsupportedError
from policypress.rl.distill import check_config
from policypress.rl.evaluate import evaluate
from policypress.rl.formats import open_agent
from policypress.rl.imported import evaluate_file, open_imported
from policypress.rl.plan import plan_pressing
from policypress.rl.policy_files import policy_teacher
from policypress.rl.press import press
from policypress.rl.sources import Source
from policypress.rl.teacher import acting, scaled_hidden
from rl.toys import AIM, CHOOSE, FOLLOW, PICK, SWITCH, agent

SMALL: dict[str, Any] = {"batches": 300, "batch_size": 64, "states": 1000, "learning_rate": 1e-2, "collections": 4}
BITS: dict[str, Any] = {"weight_bits": 8}


def follower(folder: Path, end: str = "", scale: Any = None) -> Path:
    """An ONNX policy for Follow that is nearly right: 3 inputs, 2 outputs."""
    g = Graph(shape=("batch", 3))
    weight = np.zeros((3, 8))
    weight[0, 0] = weight[1, 1] = 1.0
    back = np.zeros((8, 2))
    back[0, 0], back[1, 1] = 2.0, 1.0
    y = g("Gemm", g("Elu", g("Gemm", "obs", weight, np.full(8, 5.0))), back, np.array([-10.0, -4.0]))
    y = g(end, y) if end else y
    return g.save(folder / "a.onnx", g("Mul", y, scale) if scale is not None else y)


def test_actions_are_clipped_to_the_environment(tmp_path: Path) -> None:
    opened = open_agent(Source(follower(tmp_path)), None, FOLLOW)
    action = opened.teacher.action
    assert action.low is not None
    assert action.high is not None
    assert (opened.algo, opened.teacher.imitation, action.squash) == ("", "action", False)
    np.testing.assert_array_equal(action.low, [-2, 0])
    np.testing.assert_array_equal(action.high, [2, 3])
    assert evaluate(opened.teacher.policy(), FOLLOW, episodes=5).mean == pytest.approx(0.0, abs=1e-3)
    assert opened.teacher.baseline_bytes == 4 * (3 * 8 + 8 + 8 * 2 + 2)


def test_a_tanh_within_the_bounds_is_the_action_s_own(tmp_path: Path) -> None:
    inside = open_agent(Source(follower(tmp_path, "Tanh", [2.0, 0.0])), None, FOLLOW).teacher
    assert inside.graph is not None
    assert inside.action.squash
    np.testing.assert_array_equal(inside.action.high, [2, 0])


def test_a_tanh_beyond_the_bounds_is_clipped_to_them(tmp_path: Path) -> None:
    source = Source(follower(tmp_path, "Tanh", [4.0, 1.0]))
    inside = open_agent(Source(follower(tmp_path, "Tanh", [2.0, 0.0])), None, FOLLOW).teacher
    follower(tmp_path, "Tanh", [4.0, 1.0])
    opened = open_agent(source, None, FOLLOW)
    beyond = opened.teacher
    assert (beyond.graph is None, beyond.action.squash) == (False, False)
    assert beyond.baseline_bytes == inside.baseline_bytes
    x = np.random.default_rng(0).normal(scale=3, size=(500, 3)).astype(np.float32)
    own = open_imported(source, None, FOLLOW, own=True).teacher  # as its runtime answers, clipped by the environment
    wanted = acting(own, own.outputs)(x)
    assert {-2.0, 2.0} < set(wanted[:, 0].tolist())
    np.testing.assert_allclose(beyond.policy().predict(x)[0], wanted, rtol=1e-5, atol=1e-5)
    assert scaled_hidden(beyond, 0.5) == (4,)  # the layer in front of the tanh is no hidden one
    config = plan_pressing(opened, method="ptq", compression=BITS, student={"states": 500}, settings={"episodes": 2})
    result = press(opened, config, tmp_path / "run")
    assert result["evaluation"]["mean"] > -40


def test_black_boxes_are_compared_with_what_their_own_networks_take(tmp_path: Path) -> None:
    """The sizes of the network that the student stands for, not the student's own."""
    parameters = 3 * 4 + 4 * 2
    weights = [nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)]
    torch.jit.script(nn.Sequential(weights[0], Sorted(), weights[1])).save(tmp_path / "a.pt")
    g = Graph(shape=("batch", 3))
    hidden = g("MatMul", "obs", np.ones((3, 4)))
    g.save(tmp_path / "a.onnx", g("MatMul", g("Einsum", hidden, equation="ij->ij"), np.ones((4, 2))))
    for name in ("a.pt", "a.onnx"):
        teacher = open_agent(Source(tmp_path / name), None, FOLLOW).teacher
        assert teacher.graph is None
        assert teacher.baseline_bytes == 4 * parameters
    function = open_agent(Source(Path(f"{__name__}:always")), None, FOLLOW).teacher
    assert function.baseline_bytes is None


@pytest.mark.parametrize("env", [PICK, CHOOSE, SWITCH])
def test_outputs_for_choices_are_logits(env: str, tmp_path: Path) -> None:
    inputs, outputs = {PICK: (3, 3), CHOOSE: (5, 5), SWITCH: (5, 3)}[env]
    g = Graph(shape=("batch", inputs))
    path = g.save(tmp_path / "a.onnx", g.dense("obs", inputs, outputs))
    assert open_agent(Source(path), None, env).teacher.imitation == "logits"
    assert open_agent(Source(path), "ppo", env).teacher.imitation == "logits"
    if env == PICK:
        assert open_agent(Source(path), "dqn", env).teacher.imitation == "values"


def test_policies_that_do_not_fit(tmp_path: Path) -> None:
    path = follower(tmp_path)
    with pytest.raises(UnsupportedError, match=r"gives observations of shape \(4, 36, 36\), but .* takes \(3,\)"):
        open_agent(Source(path), None, AIM)
    with pytest.raises(UnsupportedError, match="gives 2 values, where 3 are needed, one for each choice"):
        open_agent(Source(path), None, PICK)
    with pytest.raises(UnsupportedError, match="needs Discrete actions"):
        open_agent(Source(path), "dqn", FOLLOW)
    with pytest.raises(ConfigError, match="leave --vecnormalize out"):
        open_agent(Source(path, tmp_path / "v.pkl"), None, FOLLOW)


def test_without_an_environment_the_file_says_what_it_can(tmp_path: Path) -> None:
    found = open_imported(Source(follower(tmp_path, "Tanh")), None, None)
    assert found.teacher.observation.shape == (3,)
    assert found.teacher.action.squash
    with pytest.raises(UnsupportedError, match="does not say of what shape its observations are"):
        open_imported(Source(Path("numpy:tanh")), None, None)


class Sorted(nn.Module):
    """Which is no layer that we know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(dim=1)[0]


def always(observations: Any) -> Any:
    return np.ones((len(observations), 2), np.float32)


class Memory(nn.Module):
    """Says what the first ``values`` numbers were one step before."""

    def __init__(self, values: int = 2) -> None:
        super().__init__()
        self.register_buffer("hidden_state", torch.zeros(1, values))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.hidden_state.clone()
        self.hidden_state[:] = x[:, : self.hidden_state.shape[1]]
        return before


def test_what_remembers_is_evaluated_and_pressed(tmp_path: Path) -> None:
    """Every episode of it begins anew, and its student remembers too unless told otherwise."""
    torch.jit.script(Memory()).save(tmp_path / "a.pt")
    own = evaluate_file(tmp_path / "a.pt", Opening(), Environment(FOLLOW), episodes=30)
    alone = evaluate_file(tmp_path / "a.pt", Opening(), Environment(FOLLOW), episodes=2, seed=1000 + 27)
    assert own.returns[27:29] == alone.returns
    opened = open_agent(Source(tmp_path / "a.pt"), None, FOLLOW)
    assert opened.teacher.remembers
    config = plan_pressing(opened, student={"batches": 40, "states": 400, "batch_size": 64}, settings={"episodes": 5})
    assert (config.student.memory, config.student.hidden) == ("gru:16", (16,))
    result = press(opened, config, tmp_path / "run")
    assert result["teacher"]["returns"] == list(own.returns[:5])
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert (policy.numerics, policy.state_size) == ("integer", 16)
    again = open_agent(Source(tmp_path / "run" / "policy.policy"), None, FOLLOW)
    assert again.teacher.remembers
    assert result["evaluation"]["returns"] == list(evaluate(policy, FOLLOW, episodes=5).returns)
    with pytest.raises(UnsupportedError, match="cannot be pressed without training"):
        press(opened, plan_pressing(opened, method="ptq"), tmp_path / "ptq")


class Remembers(nn.Module):
    """A GRU, and a layer that moves by what it remembers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.last = nn.GRU(3, 6), nn.Linear(6, 2)
        self.register_buffer("hidden_state", torch.zeros(1, 1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, h = self.rnn(x.unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = h
        return self.last(y.squeeze(0))


def test_what_remembers_and_is_understood_is_quantized_as_it_is(tmp_path: Path) -> None:
    torch.jit.script(Remembers()).save(tmp_path / "a.pt")
    own = evaluate_file(tmp_path / "a.pt", Opening(), Environment(FOLLOW), episodes=5)
    opened = open_agent(Source(tmp_path / "a.pt"), None, FOLLOW)
    assert opened.teacher.graph is not None
    assert opened.teacher.remembers
    config = plan_pressing(opened, method="ptq", compression=BITS, student={"states": 2000}, settings={"episodes": 5})
    result = press(opened, config, tmp_path / "run")
    np.testing.assert_allclose(result["teacher"]["returns"], own.returns, rtol=1e-4)
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert (policy.numerics, policy.state_size, policy.provenance["format"]) == ("integer", 6, "TorchScript")
    np.testing.assert_allclose(result["evaluation"]["returns"], own.returns, rtol=0.05)


@pytest.mark.parametrize("hidden", ["auto", (8, 8)])
def test_a_file_is_pressed(hidden: Any, tmp_path: Path) -> None:
    """From a file to a small policy whose card says where it comes from; the same again, nothing is done."""
    (tmp_path / "robot.json").write_text('{"kp": [20.0, 30.0], "joint_names": ["hip", "knee"]}')
    opening = Opening(metadata=str(tmp_path / "robot.json"))
    opened = open_agent(Source(follower(tmp_path), opening=opening), None, FOLLOW)
    config = plan_pressing(opened, hidden=hidden, compression=BITS, student=SMALL, settings={"episodes": 5})
    assert config.algo == ""
    result = press(opened, config, tmp_path / "run")
    assert result["teacher"]["mean"] == pytest.approx(0.0, abs=1e-3)
    assert result["evaluation"]["mean"] > -10
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert (policy.numerics, policy.provenance["format"]) == ("integer", "ONNX")
    assert policy.provenance["metadata"] == {"kp": [20.0, 30.0], "joint_names": ["hip", "knee"]}
    assert press(Source(tmp_path / "a.onnx", opening=opening), config, tmp_path / "run") == result


def test_a_black_box_is_measured_and_pressed(tmp_path: Path) -> None:
    g = Graph(shape=("batch", 3))
    hidden = g.dense("obs", 3, 8)
    path = g.save(tmp_path / "a.onnx", g.dense(g("Sub", hidden, g("ReduceMean", hidden, axes=[-1])), 8, 2))
    opened = open_agent(Source(path), None, FOLLOW)
    assert opened.teacher.graph is None
    config = plan_pressing(opened, hidden=(6,), compression=BITS, student=SMALL, settings={"episodes": 5})
    result = press(opened, config, tmp_path / "run")
    own = evaluate_file(path, Opening(), Environment(FOLLOW), episodes=5)
    assert result["teacher"]["returns"] == list(own.returns)
    with pytest.raises(UnsupportedError, match="give the student's widths"):
        plan_pressing(opened)


def test_how_a_file_is_opened_is_part_of_a_run(tmp_path: Path) -> None:
    """Other activations are other policies."""
    network = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 2))
    torch.save({"actor." + name: value for name, value in network.state_dict().items()}, tmp_path / "a.pt")
    elu, tanh = (
        open_agent(Source(tmp_path / "a.pt", opening=Opening(activation=name)), None, FOLLOW)
        for name in ("elu", "tanh")
    )
    assert elu.digest != tanh.digest
    assert elu.digest == open_agent(elu.source, None, FOLLOW).digest


def test_zips_say_which_algorithm_trained_them(tmp_path: Path) -> None:
    agent("sac", FOLLOW).save(tmp_path / "agent.zip")
    assert open_agent(Source(tmp_path / "agent.zip"), None, FOLLOW).algo == "sac"
    policy = pp.freeze(agent("dqn", PICK))
    policy.save(tmp_path / "a.policy")
    assert open_agent(Source(tmp_path / "a.policy"), None, PICK).teacher.imitation == "values"
    replace(policy, provenance={}).save(tmp_path / "a.policy")
    assert open_agent(Source(tmp_path / "a.policy"), None, PICK).teacher.imitation == "logits"


def test_why_no_student_is_a_copy_of_a_network_that_is_known(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, width in (("encoder", 3), ("actor", 5)):
        g = Graph(shape=("batch", width))
        hidden = g("Elu", g("Gemm", "obs", random.normal(size=(width, 4)), np.ones(4)))
        g.save(tmp_path / f"{name}.onnx", g("Gemm", hidden, random.normal(size=(4, 2)), np.ones(2)))
    reads = {"encoder": ["obs 0:3"], "actor": ["encoder", "obs 0:3"]}
    path = tmp_path / "both.json"
    path.write_text(json.dumps({"networks": {one: {"file": f"{one}.onnx", "reads": reads[one]} for one in reads}}))
    teacher = open_agent(Source(path), None, FOLLOW).teacher
    with pytest.raises(UnsupportedError, match="cannot be narrowed, for it is several networks, or one that values go"):
        scaled_hidden(teacher, 0.5)
    frozen = policy_teacher(open_agent(Source(follower(tmp_path)), None, FOLLOW).teacher.policy(), "action")
    with pytest.raises(ConfigError, match=r"copy of the teacher, for what a \.policy file holds is frozen: give the"):
        check_config(frozen, DistillConfig())
