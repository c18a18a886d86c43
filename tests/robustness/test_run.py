"""Policies under disturbances: the same seeds, points that are kept, and calls that go on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policypress.config import Environment
from policypress.errors import ConfigError, RunError
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization, Layer
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env
from policypress.rl.evaluate import evaluate
from policypress.robustness.kinds import KINDS
from policypress.robustness.run import COLUMNS, RESULT, TABLE, UNDISTURBED, halves, robustness
from rl.toys import FOLLOW, PICK


def follower(scale: int = 64) -> Policy:
    """Says 2 x and y + 1 in integers, which is what FOLLOW asks for; ``scale``: codes of 1."""
    weight = np.array([[2, 0, 0], [0, 1, 0]], np.int8)
    layer = Layer(weight, np.array([0, scale], np.int32), 8, np.array([1 / scale], np.float32), relu=False)
    low, high = np.array([-2, 0], np.float32), np.array([2, 3], np.float32)
    return Policy(
        (layer,),
        ObservationTransform((3,), "float32"),
        ActionTransform("box", (2,), low=low, high=high),
        InputQuantization(np.full(3, scale, np.float32), -127, 127, 8),
        baseline_bytes=32,
        provenance={"env": FOLLOW},
    )


def of(result: dict[str, Any], kind: str, policy: str = "fine") -> dict[float, dict[str, Any]]:
    return {p["level"]: p for p in result["points"] if (p["policy"], p["kind"]) == (policy, kind)}


def test_every_kind_that_fits_a_tiny_environment(tmp_path: Path) -> None:
    result = robustness({"fine": follower(), "coarse": follower(4)}, episodes=3, out=tmp_path)
    left = set(result["left_out"]["fine"])
    assert left == {"mass", "friction", "gravity", "damping", "actuators", "push"}
    measured = {point["kind"] for point in result["points"]}
    assert measured == {UNDISTURBED, *KINDS} - left
    assert [p["policy"] for p in result["points"][:2]] == ["fine", "coarse"]
    assert [p["kind"] for p in result["points"][:2]] == [UNDISTURBED] * 2
    undisturbed = of(result, UNDISTURBED)[0.0]
    assert undisturbed["returns"] == list(evaluate(follower(), episodes=3).returns)
    np.testing.assert_allclose(result["scale"], 1 / np.sqrt(3), rtol=0.3)
    for kind in ("noise", "bias", "quantized", "fgsm", "pgd", "delayed", "flash", "critical"):
        assert min(point["mean"] for point in of(result, kind).values()) < undisturbed["mean"] - 0.05, kind
    assert len(result["critical"]["fine"]) > 3
    assert json.loads((tmp_path / RESULT).read_text()) == result
    rows = list(csv.DictReader((tmp_path / TABLE).open()))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(result["points"])
    assert float(rows[5]["mean"]) == result["points"][5]["mean"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("kind", ["mass", "friction", "gravity", "damping", "actuators", "push"])
def test_dynamics_of_a_body(kind: str) -> None:
    pytest.importorskip("mujoco")
    env = Environment("InvertedPendulum-v5")
    space: Any = make_env(env, training=False).action_space
    weight = np.array([[0.5, 3.0, 0.8, 0.7]], np.float32)
    layer = Layer(weight, np.zeros(1, np.float32), 32, np.ones(1, np.float32), relu=False)
    action = ActionTransform("box", (1,), low=space.low, high=space.high)
    policy = Policy((layer,), ObservationTransform((4,), "float64"), action, None, baseline_bytes=20)
    result = robustness({"fine": policy}, env, kinds=[kind], episodes=2)
    assert len(of(result, kind)) == len(KINDS[kind].levels_in(make_env(env, training=False)))
    assert len({tuple(p["returns"]) for p in result["points"]}) > 1 or kind == "friction"


def test_an_interrupted_call_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    policies, kinds = {"fine": follower(), "coarse": follower(4)}, ["noise", "dropped"]
    whole = robustness(policies, kinds=kinds, episodes=2)

    def interrupt(done: int, of: int, mean: float | None) -> None:
        if done >= 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        robustness(policies, kinds=kinds, episodes=2, out=tmp_path, progress=interrupt)
    before = json.loads((tmp_path / RESULT).read_text())
    assert 0 < len(before["points"]) < len(whole["points"])
    assert whole["points"][: len(before["points"])] == before["points"]
    played: list[int] = []
    again = robustness(
        policies, kinds=kinds, episodes=2, out=tmp_path, progress=lambda done, of, mean: played.append(done)
    )
    assert again == whole
    assert len(played) - 1 == 2 * (len(whole["points"]) - len(before["points"]))
    robustness(policies, kinds=kinds, episodes=2, out=tmp_path, progress=lambda *_: played.clear())
    assert played == []


def test_kinds_and_policies_can_be_added(tmp_path: Path) -> None:
    first = robustness({"fine": follower()}, kinds=["noise"], episodes=2, out=tmp_path)
    more = robustness({"fine": follower(), "coarse": follower(4)}, kinds=["delayed"], episodes=2, out=tmp_path)
    assert more["points"][: len(first["points"])] == first["points"]
    assert {(p["policy"], p["kind"]) for p in more["points"]} == {
        ("fine", UNDISTURBED), ("fine", "noise"), ("coarse", UNDISTURBED), ("fine", "delayed"), ("coarse", "delayed"),
    }  # fmt: skip


def test_what_a_folder_holds_is_not_mixed(tmp_path: Path) -> None:
    robustness({"fine": follower()}, kinds=["dropped"], episodes=2, out=tmp_path)
    with pytest.raises(ConfigError, match="holds points of another episodes: choose another --out or repeat"):
        robustness({"fine": follower()}, kinds=["dropped"], episodes=3, out=tmp_path)
    with pytest.raises(ConfigError, match="holds points of another policy fine: choose another --out"):
        robustness({"fine": follower(5)}, kinds=["dropped"], episodes=2, out=tmp_path)
    with pytest.raises(ConfigError, match="holds points of another first policy"):
        robustness({"other": follower()}, kinds=["dropped"], episodes=2, out=tmp_path)
    (tmp_path / RESULT).write_text("{")
    with pytest.raises(RunError, match="cannot be read: choose another --out, or remove the file"):
        robustness({"fine": follower()}, kinds=["dropped"], episodes=2, out=tmp_path)


def test_of_named_kinds_those_that_fit_are_measured() -> None:
    result = robustness({"fine": follower()}, kinds=["mass", "noise"], episodes=2)
    assert list(result["kinds"]) == ["noise"]
    assert result["left_out"]["fine"]["mass"].startswith("mass needs an environment of MuJoCo")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"policies": {}}, "there is no policy to disturb"),
        ({"episodes": 1}, "episodes=1 must be at least 2"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"kinds": ["wind"]}, "'wind' is no disturbance that is known"),
        ({"kinds": ["mass"]}, r"mass needs an environment of MuJoCo, which .* is not: name kinds that fit"),
        ({"env": PICK}, "takes actions of Discrete"),
    ],
)
def test_what_does_not_fit_is_told(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        robustness(**{"policies": {"fine": follower()}, "episodes": 2, **arguments})


def test_an_environment_itself_is_not_disturbed() -> None:
    with pytest.raises(ConfigError, match="give what makes it"):
        robustness({"fine": follower()}, make_env(FOLLOW, training=False), episodes=2)


def test_half_is_found_between_levels() -> None:
    def curve(kind: str, **shares: float | None) -> list[dict[str, Any]]:
        return [
            {"policy": "a", "kind": kind, "level": float(level[1:]), "kept": share} for level, share in shares.items()
        ]

    points = [
        *curve("flash", _1=1.0, _4=0.8, _16=0.2), *curve("noise", _1=0.9), *curve("mass", _1=0.1),
        *curve("ram", _1=0.25), *curve("delayed", _1=None),
    ]  # fmt: skip
    found = halves(points)["a"]
    assert found == {"noise": None, "flash": pytest.approx(10.0), "ram": pytest.approx(2 / 3)}
