"""A policy in words."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from policypress.policy.contract import ActionTransform
from policypress.policy.description import contract_rows, layer_titles
from policypress.testing import make_policy

BOUNDS: dict[str, Any] = {"low": np.full(2, -2.0, np.float32), "high": np.full(2, 3.0, np.float32)}
NONE = np.full(2, np.inf, np.float32)
SOME = np.array([2.0, np.inf], np.float32)
ACTIONS = [
    (ActionTransform("box", (2,), "float32", False, -NONE, NONE), "float32 array of shape (2,), not clipped"),
    (
        ActionTransform("box", (2,), "float32", False, 0 * SOME[:1].repeat(2), NONE),
        "float32 array of shape (2,), clipped to at least 0",
    ),
    (
        ActionTransform("box", (2,), "float32", False, -SOME, SOME),
        "float32 array of shape (2,), clipped to [-2, 2], where they have bounds",
    ),
    (ActionTransform("box", (2,), "float32", **BOUNDS), "float32 array of shape (2,), clipped to [-2, 3]"),
    (ActionTransform("box", (2,), "float64", True, **BOUNDS), "float64 array of shape (2,), tanh scaled to [-2, 3]"),
    (ActionTransform("discrete", dtype="int64", start=1), "index of the largest output, from 1"),
    (ActionTransform("multi-binary", (2,), "int64"), "2 values, 1 for every output above 0, else 0"),
    (
        ActionTransform("multi-discrete", (1,), "int64", nvec=(2,)),
        "index of the largest output in each group of 2",
    ),
]


@pytest.mark.parametrize(("action", "words"), ACTIONS, ids=[words for _, words in ACTIONS])
def test_what_is_given(action: ActionTransform, words: str) -> None:
    policy = make_policy("integer", "vector")
    layer = policy.layers[-1]
    last = dataclasses.replace(layer, weight=layer.weight[:2], bias=layer.bias[:2], scale=layer.scale[:1])
    policy = dataclasses.replace(policy, ops=(*policy.ops[:-1], last), action=action, test_vectors=None)
    assert contract_rows(policy)["gives"] == words


@pytest.mark.parametrize(
    ("convolutional", "titles"),
    [
        ([False], ["output"]),
        ([False, False, False], ["hidden 1", "hidden 2", "output"]),
        ([True, True, False, False], ["conv 1", "conv 2", "hidden 1", "output"]),
        ([True, True], ["conv 1", "output"]),
    ],
)
def test_titles_of_layers(convolutional: list[bool], titles: list[str]) -> None:
    assert layer_titles(convolutional) == titles


def test_words_need_no_tables() -> None:
    code = "import sys, policypress.policy.description; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
