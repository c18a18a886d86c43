"""The table of disturbances: what fits what, and which levels there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policypress.errors import ConfigError
from policypress.policy.policy import Policy
from policypress.rl.environments import make_env
from policypress.robustness.kinds import KINDS, Case, kinds_named, measures
from policypress.testing import make_policy, random_recurrent_policy
from rl.toys import FOLLOW, LOOK, NAMED, PAIRED, PICK


def case(env_id: str, policy: Policy | None = None) -> Case:
    env = make_env(env_id, training=False)
    shape = env.observation_space.shape or ()
    vector = make_policy("integer", "vector")
    return Case(vector if policy is None else policy, env, env_id, np.ones(shape), 1000, lambda: np.zeros((1, *shape)))


def unfit(env_id: str, policy: Policy | None = None) -> dict[str, str]:
    found = {name: kind.unfit(case(env_id, policy)) for name, kind in KINDS.items()}
    return {name: reason for name, reason in found.items() if reason is not None}


DYNAMICS = {"mass", "friction", "gravity", "damping", "actuators", "push"}
ATTACKS = {"fgsm", "pgd", "mad"}


def test_everything_fits_a_robot_of_mujoco() -> None:
    pytest.importorskip("mujoco")
    assert unfit("Hopper-v5") == {}


def test_what_is_no_mujoco_is_told_by_name() -> None:
    found = unfit(FOLLOW)
    assert found.keys() == DYNAMICS
    assert found["mass"] == f"an environment of MuJoCo, which {FOLLOW} is not"
    pytest.importorskip("mujoco")
    assert (
        unfit("Reacher-v5")["push"]
        == "a model with a base that moves over the ground, which that of Reacher-v5 has not"
    )


def test_images_and_choices_are_not_measured() -> None:
    assert unfit(LOOK, make_policy("integer", "image")).keys() == {
        "noise", "bias", "quantized", "action-noise", *DYNAMICS, *ATTACKS
    }  # fmt: skip
    assert unfit(PICK).keys() == {"action-noise", *DYNAMICS}
    assert "a Box of uint8[4, 36, 36]" in unfit(LOOK)["noise"]
    assert "Discrete(3)" in unfit(PICK)["action-noise"]
    assert "Discrete(2)" in unfit(PAIRED)["noise"]
    assert measures(make_env(NAMED, training=False))  # a Dict of numbers


def test_what_remembers_and_what_convolves_is_not_attacked() -> None:
    assert "remembers" in unfit(FOLLOW, random_recurrent_policy(1))["pgd"]
    assert "convolutions" in unfit(FOLLOW, make_policy("float", "image"))["pgd"]


@pytest.mark.parametrize("name", KINDS)
def test_levels_ascend(name: str) -> None:
    pytest.importorskip("mujoco")
    levels: Any = KINDS[name].levels_in(case("Hopper-v5").env)
    assert list(levels) == sorted(set(levels))
    assert levels[0] > 0
    assert KINDS[name].level


def test_names_come_in_the_order_of_the_table() -> None:
    assert kinds_named("flash, noise") == ("noise", "flash")
    with pytest.raises(ConfigError, match="'wind' is no disturbance that is known: use noise, bias"):
        kinds_named("noise,wind")


def test_frames_that_are_stacked_have_the_scale_of_one() -> None:
    policy = make_policy("float", "vector")  # of five numbers
    stacked = Case(policy, make_env(FOLLOW, training=False), FOLLOW, np.array([2.0]), 0, lambda: np.zeros((1, 5)))
    np.testing.assert_array_equal(stacked.scale_seen, [2, 2, 2, 2, 2])
