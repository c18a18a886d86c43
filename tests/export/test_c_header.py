"""What a header says: meaning, unit and range of every value, resources, versions."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policypress.export.c import CExportConfig, export_c
from policypress.export.c_metadata import action_meaning, input_range, observation_lines
from policypress.export.c_resources import Resources, header_lines
from policypress.policy import reference
from policypress.policy.artifact import encode_payload
from policypress.policy.canonical import canonical
from policypress.policy.policy import Policy
from policypress.testing import make_policy
from policypress.version import __version__

TASKS = json.loads(resources.files("policypress.export").joinpath("gymnasium_tasks.json").read_text())
ROW = Resources(
    target="cortex-m9",
    options="-mcpu=cortex-m9 -O2",
    form="float64 observations",
    flash=8000,
    data=50,
    stack=300,
    buffers=160,
    unit="instructions",
    count=37.6,
    most=40.4,
    observations=32,
    differing=0,
    tools=("gcc 1.2", "QEMU 3"),
)


def said(**metadata: Any) -> Policy:
    return replace(make_policy("integer", "vector"), provenance={"metadata": metadata})


def header(policy: Policy, folder: Path, **settings: Any) -> str:
    export_c(policy, folder / "net", CExportConfig("net", vectors=2, check=False, **settings))
    return (folder / "net/include/net.h").read_text()


def test_every_value_has_its_name_unit_and_range() -> None:
    policy = said(observation_names=["vx", "vy", "vz", "roll", "pitch"], observation_units=["m/s"] * 3 + ["rad"] * 2)
    lines = observation_lines(policy)
    low, high = input_range(policy)
    assert lines[3] == f"  3: roll [rad]; told apart in [{low[3]:.4g}, {high[3]:.4g}]"
    assert len(lines) == 5
    assert observation_lines(said(observation_names=["too", "few"]))[0].startswith("  0: told apart in")
    assert observation_lines(make_policy("float", "vector")) == []
    assert observation_lines(make_policy("integer", "image")) == []


def test_ranges_are_where_the_reference_stops_to_tell_apart() -> None:
    policy = said()
    assert policy.input is not None
    for end, sign in zip(input_range(policy), (-1, 1), strict=True):
        codes = [
            reference.quantize_input(policy.input, reference.observe(policy.observation, (end + step)[None]))
            for step in (-sign * 0.05 * np.abs(end), 0 * end, sign * 0.05 * np.abs(end) + sign)
        ]
        assert (codes[1] == codes[2]).all()
        assert (codes[0] != codes[1]).any()


def test_actions_have_pose_scale_and_gains() -> None:
    policy = said(joint_names=["hip", "knee", "foot"], default_pose=[0.1, -0.2, 0], action_scale=0.25, kp=[20, 30, 40])
    meaning, source = action_meaning(policy)
    assert meaning == [
        "hip, default pose 0.1, scale 0.25, kp 20",
        "knee, default pose -0.2, scale 0.25, kp 30",
        "foot, default pose 0, scale 0.25, kp 40",
    ]
    assert source == []
    assert action_meaning(said(kp=[1, 2])) == (["", "", ""], [])
    assert action_meaning(said(action_units=["N m"] * 3))[0] == ["[N m]"] * 3


def test_the_header_says_it_all(tmp_path: Path) -> None:
    policy = said(joint_names=["hip", "knee */", "foot"], kd=0.5)
    text = header(policy, tmp_path, measure=(ROW,))
    assert text.startswith("/* SPDX-License-Identifier: MIT */\n")
    for part in (
        "1: [-1, 1] knee * /, kd 0.5",
        f'#define NET_VERSION "{__version__}"',
        "cortex-m9 -O2: flash 8,000, RAM 510 (50, 300, 160), instructions 38, at most 40",
        "by gcc 1.2, QEMU 3; 0 of 32 answers differ from the reference's",
    ):
        assert part in text
    digest = hashlib.sha256(encode_payload(canonical(policy))).hexdigest()
    assert f'#define NET_PAYLOAD_SHA256 "{digest}"' in text
    assert max(map(len, text.splitlines())) <= 120
    found = re.search(r"NET_H 0x([0-9a-f]{8})u", text)
    assert found is not None
    assert found[1] != re.search(r"NET_H 0x([0-9a-f]{8})u", header(policy, tmp_path))[1]  # type: ignore[index]


def test_what_is_not_measured_is_said(tmp_path: Path) -> None:
    assert "Resources: not measured: policypress export --measure does." in header(said(), tmp_path)
    why = "not measured: qemu-system-arm not found"
    assert f"Resources: {why}." in header(said(), tmp_path, measure=why)
    assert len(header_lines([ROW, replace(ROW, most=None, differing=1)])) == 4


@pytest.mark.parametrize("env", TASKS)
def test_names_of_tasks_are_gymnasiums(env: str) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    rows = TASKS[env]
    module, name = gymnasium.spec(env).entry_point.split(":")
    text = getattr(importlib.import_module(module), name).__doc__
    for what, title in (("observation", "Observation Space"), ("action", "Action Space")):
        part = text.split(f"## {title}")[1].split("\n    ## ")[0]
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in part.splitlines()]
        assert rows[what] == [[row[4], row[1], row[-1]] for row in cells if re.fullmatch(r"\d+", row[0])]
    with gymnasium.make(env) as made:
        assert made.observation_space.shape == (len(rows["observation"]),)
        assert made.action_space.shape == (len(rows["action"]),)


def test_a_known_tasks_values_have_names() -> None:
    policy = replace(make_policy("integer", "vector"), provenance={"env": "Hopper-v5"})
    assert observation_lines(policy)[0].startswith("  0: told apart")  # 5 values are not the Hopper's 11
    meaning, source = action_meaning(policy)
    assert meaning[0] == "Torque applied on the thigh rotor (thigh_joint)"
    assert "Gymnasium" in source[0]
