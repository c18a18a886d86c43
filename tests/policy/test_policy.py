"""What a Policy accepts, refuses and says of itself."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from policypress.errors import ObservationError, PolicypressError, UnsupportedError
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.policy.ops import INT32_MAX, INT32_MIN, InputQuantization, Layer, MaxPool2d, Requantization, Residual
from policypress.policy.policy import Numerics, Policy
from policypress.testing import NUMERICS, assert_same, make_policy, random_observations

ONE = np.ones(1, np.float32)
HALF = {"multiplier": np.array([2**7], np.int32), "shift": np.array([8], np.int32), "low": 0, "high": 255}
INPUT = {"inverse_scale": ONE, "low": -127, "high": 127, "bits": 8}
LAYER: dict[str, Any] = {
    "weight": np.ones((2, 3), np.int8), "bias": np.zeros(2, np.int32), "weight_bits": 4, "scale": ONE,
    "relu": False, "name": "mean",
}  # fmt: skip
BOX: dict[str, Any] = {
    "kind": "box", "shape": (2,), "low": -np.ones(2, np.float32), "high": np.ones(2, np.float32),
}  # fmt: skip
MOMENTS = {"mean": np.zeros(3), "var": np.ones(3), "epsilon": 1e-8, "clip": 10.0}


@pytest.mark.parametrize("numerics", NUMERICS)
def test_numerics_and_layers(numerics: Numerics) -> None:
    policy = make_policy(numerics, "image")
    assert policy.numerics == numerics
    assert [layer.name for layer in policy.layers] == ["stem", "block.0", "block.1", "dense", "q"]
    assert 0 < policy.layers[0].sparsity < 1
    assert policy.layers[0].is_conv
    assert not policy.layers[-1].is_conv


def test_repr_tells_what_matters() -> None:
    assert repr(make_policy("integer", "vector", bits=4)) == (
        "Policy(float64[5] -> float32[3], integer, 3 layers, 4-bit weights, 83 of 129 nonzero)"
    )
    assert "uint8[2, 9, 8] -> 4 choices, float, 5 layers, 32-bit" in repr(make_policy("float", "image"))


# predict


def test_predict_of_one_box_observation_and_of_a_batch() -> None:
    policy = make_policy("integer", "vector")
    batch = random_observations(policy, 4)
    actions, state = policy.predict(batch)
    assert (actions.shape, actions.dtype, state) == ((4, 3), np.float32, None)
    assert len(np.unique(actions)) > 6
    for one, wanted in zip(batch, actions, strict=True):
        action, _ = policy.predict(one)
        assert action.shape == (3,)
        assert action.tolist() == wanted.tolist()


def test_predict_of_one_discrete_observation_and_of_a_batch() -> None:
    policy = make_policy("weight-only", "image", seed=1)
    batch = random_observations(policy, 40)
    actions, _ = policy.predict(batch)
    assert (actions.shape, actions.dtype) == ((40,), np.int64)
    assert len(np.unique(actions)) > 1
    assert actions.tolist() == (policy.outputs(batch).argmax(axis=1) + 1).tolist()
    action, _ = policy.predict(batch[0])
    assert (action.shape, action.dtype, int(action)) == ((), np.int64, actions[0])
    channels_last, _ = policy.predict(np.moveaxis(batch[0], 0, -1))
    assert channels_last == action


def test_predict_hands_back_the_state_and_ignores_episode_starts() -> None:
    policy = make_policy("integer", "vector")
    state = (np.zeros(2),)
    _, returned = policy.predict(np.zeros(5), state=state, episode_start=np.ones(1), deterministic=True)
    assert returned is state


def test_predict_needs_determinism() -> None:
    with pytest.raises(PolicypressError, match="deterministic"):
        make_policy("integer", "vector").predict(np.zeros(5), deterministic=False)


def test_predict_refuses_what_does_not_fit() -> None:
    policy = make_policy("integer", "vector")
    for bad in (np.zeros(4), np.zeros((2, 5), complex), np.full(5, np.nan)):
        with pytest.raises(ObservationError):
            policy.predict(bad)


def test_predict_takes_a_list_of_floats() -> None:
    policy = make_policy("integer", "vector")
    values = [0.5, -1.0, 2.0, 0.25, 1.5]
    assert policy.predict(values)[0].tolist() == policy.predict(np.array(values))[0].tolist()  # type: ignore[arg-type]


def test_predict_leaves_the_observation_alone() -> None:
    for kind, numerics in itertools.product(("vector", "image", "tanh"), NUMERICS):
        policy = make_policy(numerics, kind)  # type: ignore[arg-type]
        observations = random_observations(policy, 3)
        before = observations.copy()
        policy.predict(observations)
        assert np.array_equal(observations, before)


def test_save_and_load_are_methods(tmp_path: Any) -> None:
    policy = make_policy("integer", "vector", vectors=True)
    policy.save(tmp_path / "a.policy")
    assert_same(Policy.load(tmp_path / "a.policy"), policy)


def test_running_a_policy_needs_no_torch(tmp_path: Any) -> None:
    make_policy("integer", "vector").save(tmp_path / "a.policy")
    program = (
        "import sys, numpy\n"
        "from policypress.policy import load\n"
        "from policypress.measure import size\n"
        "policy = load(sys.argv[1])\n"
        "policy.predict(numpy.zeros(5)), size(policy)\n"
        "assert not {'torch', 'stable_baselines3', 'gymnasium'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.policy")], check=True, timeout=60)


# What cannot be


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"multiplier": np.array([15], np.int32)}, "multiplier"),
        ({"multiplier": np.array([256], np.int32)}, "multiplier"),
        ({"multiplier": np.array([2**7], np.int64)}, "int32"),
        ({"multiplier": np.array([], np.int32)}, "vector"),
        ({"shift": np.array([0], np.int32)}, "shift"),
        ({"shift": np.array([32], np.int32)}, "shift"),
        ({"shift": np.array([[5]], np.int32)}, "vector"),
        ({"low": 255}, "ordered"),
        ({"high": 2**31}, "int32"),
    ],
)
def test_requantizations_that_cannot_be(change: dict[str, Any], words: str) -> None:
    Requantization(**HALF)  # type: ignore[arg-type]
    refuse(Requantization, HALF | change, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.ones((2, 3), np.int16)}, "int8"),
        ({"weight": np.ones((2, 3), np.float32)}, "int8"),
        ({"weight": np.full((2, 3), 8, np.int8)}, r"\[-7, 7\]"),
        ({"weight": np.full((2, 3), -8, np.int8)}, r"\[-7, 7\]"),
        ({"weight": np.full((2, 3), -128, np.int8), "weight_bits": 8}, r"\[-127, 127\]"),
        ({"weight": np.ones(3, np.int8)}, "shape"),
        ({"weight": np.ones((2, 0), np.int8)}, "shape"),
        ({"weight_bits": 1}, "2 to 8"),
        ({"weight_bits": 9}, "2 to 8"),
        ({"weight_bits": 32}, "float32"),
        ({"weight_bits": 32, "weight": np.full((2, 3), np.nan, np.float32)}, "finite"),
        ({"weight_bits": 32, "weight": np.full((2, 3), np.inf, np.float32)}, "finite"),
        ({"weight_bits": 32, "weight": np.ones((2, 3), np.float32), "scale": 2 * ONE}, "scale must be 1"),
        ({"bias": np.zeros(3, np.int32)}, "bias"),
        ({"bias": np.zeros(2, np.int64)}, "bias"),
        ({"bias": np.array([0, np.nan], np.float32)}, "bias"),
        ({"scale": np.ones(3, np.float32)}, "1 or 2 values"),
        ({"scale": np.ones(1)}, "float32"),
        ({"scale": np.zeros(1, np.float32)}, "positive"),
        ({"scale": np.full(1, np.inf, np.float32)}, "finite"),
        (
            {"requantize": Requantization(np.full(3, 2**7, np.int32), np.array([1], np.int32), 0, 1)},
            "1 or 2",
        ),
        ({"stride": (0, 1)}, "stride"),
        ({"weight": np.ones((2, 3, 2, 2), np.int8), "padding": (0, 2)}, "padding"),
        ({"weight": np.ones((2, 3, 2, 2), np.int8), "padding": (-1, 0)}, "padding"),
    ],
)
def test_layers_that_cannot_be(change: dict[str, Any], words: str) -> None:
    Layer(**LAYER)
    refuse(Layer, LAYER | change, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inverse_scale": np.zeros(1, np.float32)}, "positive"),
        ({"inverse_scale": np.full(1, np.nan, np.float32)}, "finite"),
        ({"low": 127}, "limits"),
        ({"high": 128, "low": -128}, "8 bits"),
        ({"bits": 1}, "2 to 16"),
        ({"bits": 17}, "2 to 16"),
        ({"zero_point": np.array([1, 2], np.int32)}, "one zero point for each inverse scale"),
        ({"zero_point": np.array([2**15 + 1], np.int32)}, r"in \[-32768, 32768\]"),
        ({"zero_point": np.array([-(2**31)], np.int32)}, r"in \[-32768, 32768\]"),
        ({"zero_point": np.array([0], np.int32)}, "not all 0"),
        ({"zero_point": np.array([1], np.int64)}, "int32"),
    ],
)
def test_input_quantizations_that_cannot_be(change: dict[str, Any], words: str) -> None:
    InputQuantization(**INPUT)  # type: ignore[arg-type]
    refuse(InputQuantization, INPUT | change, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": np.zeros(4)}, "differ in shape"),
        ({"mean": np.full(3, np.nan)}, "finite"),
        ({"mean": np.zeros(3, np.float32)}, "float64"),
        ({"var": -np.ones(3)}, "positive"),
        ({"epsilon": np.inf}, "positive"),
        ({"clip": 0.0}, "clip"),
        ({"clip": np.nan}, "clip"),
    ],
)
def test_normalizations_that_cannot_be(change: dict[str, Any], words: str) -> None:
    Normalization(**MOMENTS)  # type: ignore[arg-type]
    refuse(Normalization, MOMENTS | change, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": (3,), "dtype": "complex64"}, "dtypes"),
        ({"shape": (), "dtype": "float32"}, "dimensions"),
        ({"shape": (0,), "dtype": "float32"}, "empty"),
        ({"shape": (3,), "dtype": "float32", "frame_stack": 0}, "frame_stack"),
        ({"shape": (3,), "dtype": "uint8", "image": True}, "image"),
        ({"shape": (1, 2, 2), "dtype": "float32", "image": True}, "image"),
        ({"shape": (4,), "dtype": "float32", "normalization": Normalization(**MOMENTS)}, "shape"),  # type: ignore[arg-type]
    ],
)
def test_observation_transforms_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    refuse(ObservationTransform, fields, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "multi"}, "kind"),
        ({"kind": "discrete"}, "discrete"),
        ({"dtype": "int64"}, "float32"),
        ({"start": 1}, "start"),
        ({"low": None}, "bounds"),
        ({"low": -np.ones(2)}, "float32 bounds"),
        ({"low": -np.ones(3, np.float32)}, "shape"),
        ({"low": np.full(2, np.nan, np.float32)}, "bounds"),
        ({"low": np.full(2, 2, np.float32)}, "exceeds"),
        ({"low": np.full(2, -np.inf, np.float32), "squash": True}, "finite"),
        (
            {"low": np.full(2, -3e38, np.float32), "high": np.full(2, 3e38, np.float32), "squash": True},
            "apart",
        ),
    ],
)
def test_action_transforms_that_cannot_be(change: dict[str, Any], words: str) -> None:
    ActionTransform(**BOX)
    refuse(ActionTransform, BOX | change, words)


GROUPS: dict[str, Any] = {"kind": "multi-discrete", "shape": (2,), "dtype": "int64", "nvec": (2, 3)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (GROUPS | {"nvec": ()}, "nvec of at least 1"),
        (GROUPS | {"nvec": (2, 0)}, "nvec of at least 1"),
        ({"kind": "multi-binary", "shape": (2, 2), "dtype": "int64"}, "has one dimension"),
        ({"kind": "multi-binary", "shape": (2,), "dtype": "int8"}, "the dtype int64"),
        ({"kind": "multi-binary", "shape": (2,), "dtype": "int64", "nvec": (2, 2)}, "Only multi-discrete"),
        (GROUPS | {"shape": (3,)}, r"not \(3,\)"),
        (GROUPS | {"dtype": "int32"}, "int64"),
        (GROUPS | {"start": 1}, "no start"),
        (GROUPS | {"squash": True}, "no squashing"),
        (BOX | {"nvec": (2,)}, "Only multi-discrete"),
        ({"kind": "discrete", "dtype": "int64", "nvec": (2,)}, "Only multi-discrete"),
    ],
)
def test_multi_discrete_actions_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    ActionTransform(**GROUPS)
    refuse(ActionTransform, fields, words)


def test_a_start_of_more_than_32_bits_is_refused() -> None:
    refuse(ActionTransform, {"kind": "discrete", "dtype": "int64", "start": 2**31}, "32 bits")


def test_pools_and_residuals_that_cannot_be() -> None:
    refuse(MaxPool2d, {"kernel": (2, 2), "stride": (2, 0), "padding": (0, 0)}, "stride")
    refuse(MaxPool2d, {"kernel": (2, 2), "stride": (1, 1), "padding": (2, 0)}, "padding")
    keep = Requantization(HALF["multiplier"], HALF["shift"], INT32_MIN, INT32_MAX)  # type: ignore[arg-type]
    layer = Layer(**LAYER)
    refuse(Residual, {"body": ()}, "at least one")
    refuse(Residual, {"body": (layer,), "skip": keep}, "both")
    refuse(Residual, {"body": (layer,), "skip": keep, "branch": keep}, "ordered")
    refuse(Residual, {"body": (layer,), "low": -1, "high": 1}, "none otherwise")
    narrow = dataclasses.replace(keep, high=5)
    refuse(Residual, {"body": (layer,), "skip": keep, "branch": narrow, "low": 0, "high": 9}, "int32")


def refuse(kind: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words) as error:
        kind(**fields)
    assert str(error.value).endswith(".")
