"""What is said of a robot, in the header of C and in the metadata of ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

from policypress.export import export
from policypress.export.c_metadata import robot
from policypress.testing.policies import make_policy

SAID = {
    "kp": [20, 30.5, 1e-9],
    "joint_names": ["hip", 'knee "left"', "a\\b??/"],
    "action_scale": 0.25,
    "on": True,
    "ranges": {"x": [0, 1]},
    "mixed": [1, None],
}


def test_lists_numbers_and_texts_become_initializers() -> None:
    policy = replace(make_policy("integer", "vector"), provenance={"metadata": SAID})
    lines = robot(policy, "walk").splitlines()
    assert lines[2:] == [
        "#define WALK_ROBOT_ACTION_SCALE 0.25f",
        r'#define WALK_ROBOT_JOINT_NAMES {"hip", "knee \"left\"", "a\\b\?\?/"}',
        "#define WALK_ROBOT_KP {20.0f, 30.5f, 1e-09f}",
        "#define WALK_ROBOT_ON 1",
    ]
    assert robot(make_policy("integer", "vector"), "walk") == ""


def test_the_header_compiles_and_the_graph_carries_them(tmp_path: Path) -> None:
    policy = replace(make_policy("integer", "vector", vectors=True), provenance={"metadata": SAID})
    export(policy, tmp_path / "walk", to="c", name="walk")  # which compiles it
    assert "WALK_ROBOT_KP" in (tmp_path / "walk" / "include" / "walk.h").read_text()
    export(policy, tmp_path / "walk.onnx", to="onnx")
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "walk.onnx").metadata_props}
    assert json.loads(found["kp"]) == SAID["kp"]
    assert json.loads(found["ranges"]) == SAID["ranges"]
