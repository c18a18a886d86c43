"""Exported policies on emulated microcontrollers: bits, bytes, instructions."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import policypress as pp
from policypress.cli import app
from policypress.errors import ConfigError, ExportError
from policypress.export.c import CExportConfig, export_c
from policypress.measure import microcontroller
from policypress.measure.microcontroller import TARGETS, Footprint, TargetReport, footprint, measure_on_target
from policypress.policy.ops import Layer
from policypress.policy.policy import Policy
from policypress.tables import target_table
from policypress.testing import make_policy

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "examples" / "mcu" / "half-cheetah.npz"


@pytest.fixture
def tools() -> None:
    """CI must not pass without having run anything."""
    if microcontroller.missing_tools() and not os.environ.get("CI"):
        pytest.skip(f"needs {' and '.join(microcontroller.missing_tools())}")


@pytest.fixture(scope="module")
def agent() -> Policy:
    return pp.load(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")


@pytest.fixture(scope="module")
def recorded() -> NDArray[np.float64]:
    """1,000 steps of HalfCheetah-v5, and near them as many that need every bit of float64."""
    observations = np.load(RECORDED)["observations"].astype(np.float64)
    return np.concatenate(
        [observations, observations + np.random.default_rng(0).normal(size=observations.shape) * 1e-6]
    )


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("integer_only", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_trained_agent_acts_bit_for_bit(
    target: str, integer_only: bool, agent: Policy, recorded: NDArray[np.float64]
) -> None:
    report = measure_on_target(agent, target, recorded, integer_only=integer_only)
    assert (report.observations, report.differing) == (2000, 0)
    # The timer ticks every so many instructions, at the start and at the end.
    assert abs(report.loop_error) <= 2 * report.tick_instructions / 2000
    assert report.most_instructions >= report.instructions > sum(layer.nonzeros for layer in agent.layers)
    assert report.ram == report.footprint.data + report.stack + report.buffers


@pytest.mark.usefixtures("tools")
def test_a_small_policy_takes_few_instructions_and_bytes(agent: Policy, recorded: NDArray[np.float64]) -> None:
    """Limits that benchmarks/mcu_kernels.py holds larger networks to as well."""

    def measured(target: str, optimize: str) -> TargetReport:
        return measure_on_target(agent, target, recorded[:20], integer_only=True, optimize=optimize)

    fast = measured("cortex-m4", "-O2")
    assert fast.instructions <= 5_500
    assert fast.footprint.flash <= 3_300
    for target in ("cortex-m0", "cortex-m3"):  # without two products an instruction
        assert measured(target, "-Os").instructions <= 1.15 * measured(target, "-O2").instructions


@pytest.mark.usefixtures("tools")
def test_constants_are_what_the_export_says(agent: Policy, tmp_path: Path) -> None:
    export = export_c(agent, tmp_path / "policy", CExportConfig(name="policy", check=False))
    report = measure_on_target(agent, "cortex-m4")
    # With padding; the network's own structure becomes code.
    assert export.array_bytes < report.footprint.constants < export.constant_bytes + 64
    assert report.footprint.data >= export.work_bytes


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("numerics", "kind", "bits", "target"),
    [
        ("integer", "vector", 8, "cortex-m0"),
        ("integer", "vector", 4, "cortex-m4"),
        ("integer", "tanh", 3, "cortex-m3"),
        ("integer", "image", 4, "cortex-m0"),
        ("weight-only", "vector", 5, "cortex-m0"),
        ("weight-only", "tanh", 8, "cortex-m4"),
        ("float", "image", 32, "cortex-m4"),
        ("integer", "image", 8, "cortex-m55"),
        ("float", "vector", 32, "cortex-m55"),
    ],
)
def test_every_kind_of_policy_acts_bit_for_bit(numerics: Any, kind: Any, bits: int, target: str) -> None:
    policy = make_policy(numerics, kind, bits)
    rng = np.random.default_rng(1)
    shape, dtype = (100, *policy.observation.shape), policy.observation.dtype
    observations = rng.integers(0, 256, shape) if dtype == "uint8" else rng.normal(size=shape) * 3
    assert measure_on_target(policy, target, observations.astype(dtype)).differing == 0


@pytest.mark.usefixtures("tools")
def test_subnormal_numbers_stay_what_they_are_where_compilers_take_vectors() -> None:
    first, second, *others = make_policy("float", "vector").ops
    assert isinstance(first, Layer)
    assert isinstance(second, Layer)
    small = dataclasses.replace(first, weight=first.weight * np.float32(2.0**-130), bias=first.bias * 0)
    large = dataclasses.replace(second, weight=second.weight * np.float32(2.0**120) * np.float32(2.0**7))
    policy = dataclasses.replace(make_policy("float", "vector"), ops=(small, large, *others))
    observations = np.random.default_rng(0).normal(size=(20, *policy.observation.shape))
    report = measure_on_target(policy, "cortex-m55", observations, optimize="-O3")
    assert (report.observations, report.differing) == (20, 0)


@pytest.mark.usefixtures("tools")
def test_an_unpacked_payload_acts_bit_for_bit(agent: Policy, recorded: NDArray[np.float64]) -> None:
    report = measure_on_target(agent, "cortex-m0", recorded[:100], weights="payload")
    assert report.differing == 0
    assert report.start_instructions > report.instructions > 0
    assert report.footprint.data > sum(layer.weight.size for layer in agent.layers)


@pytest.mark.usefixtures("tools")
def test_a_wrong_answer_is_counted(agent: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    first = agent.ops[0]
    assert isinstance(first, pp.policy.policy.Layer)
    bias = first.bias.copy()
    bias[0] += 300
    other = dataclasses.replace(agent, ops=(dataclasses.replace(first, bias=bias), *agent.ops[1:]), test_vectors=None)
    monkeypatch.setattr(microcontroller, "export_c", lambda _, *arguments: export_c(other, *arguments))
    assert measure_on_target(agent, "cortex-m4").differing > 0


@pytest.mark.usefixtures("tools")
def test_what_does_not_fit_is_refused() -> None:
    images = pp.load(ROOT / "results" / "PixelCatch-v0" / "catch-narrow" / "policy.policy")
    with pytest.raises(ExportError, match=r"cortex-m0.*RAM"):
        measure_on_target(images, "cortex-m0")


@pytest.mark.usefixtures("tools")
def test_the_command_line_measures_targets() -> None:
    file = str(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    answer = CliRunner().invoke(app, ["bench", file, "--target", "cortex-m4", "--json"])
    assert answer.exit_code == 0
    (report,) = json.loads(answer.stdout)
    assert (report["target"], report["differing"]) == ("cortex-m4", 0)
    assert report["flash"] == sum(report["footprint"][part] for part in ("constants", "code", "library"))


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("observation", ["float32", "int16"])
def test_narrow_observations_act_bit_for_bit_and_take_less(observation: str, agent: Policy) -> None:
    wide, narrow = (measure_on_target(agent, "cortex-m0", observation=which) for which in (None, observation))
    assert (narrow.differing, narrow.observation) == (0, observation)
    assert narrow.footprint.flash < wide.footprint.flash
    assert narrow.instructions < wide.instructions
    assert narrow.buffers < wide.buffers


@pytest.mark.usefixtures("tools")
def test_the_report_on_targets_is_a_table_in_markdown() -> None:
    file = str(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    answer = CliRunner().invoke(app, ["bench", file, "--target", "cortex-m4", "--markdown"])
    assert answer.exit_code == 0
    lines = answer.stdout.splitlines()
    rows = [line for line in lines if line.startswith("| cortex-m4 |")]
    assert [row.split("|")[2].split()[-1] for row in rows] == ["-O2`", "-Os`"]
    assert all("| 0 of 32 |" in row for row in rows)
    header = next(line for line in lines if line.startswith("| processor"))
    assert {row.count("|") for row in rows} == {header.count("|")}
    assert "instructions are not cycles" in answer.stdout


def test_markdown_is_of_targets() -> None:
    file = str(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    answer = CliRunner().invoke(app, ["bench", file, "--markdown"])
    assert answer.exit_code != 0
    assert "add --target" in str(answer.exception)


@pytest.mark.usefixtures("tools")
def test_an_export_says_what_it_takes(tmp_path: Path) -> None:
    file = str(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    out = tmp_path / "cheetah"
    answer = CliRunner().invoke(app, ["export", file, "--to", "c", "--out", str(out), "--name", "cheetah", "--measure"])
    assert answer.exit_code == 0
    text = (out / "include/cheetah.h").read_text()
    assert len(re.findall(r"cortex-m(?:0|3|4|55) -O[2s]: flash [\d,]+, RAM [\d,]+", text)) == 8
    assert "0 of 256 answers differ" in text


def test_an_export_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microcontroller, "EMULATOR", "no-such-qemu")
    file = str(ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    out = tmp_path / "cheetah"
    answer = CliRunner().invoke(app, ["export", file, "--to", "c", "--out", str(out), "--name", "cheetah", "--measure"])
    assert answer.exit_code == 0
    assert "no-such-qemu" in (out / "include/cheetah.h").read_text()


def test_an_unknown_target_is_refused(agent: Policy) -> None:
    with pytest.raises(ConfigError, match=r"cortex-m9.*cortex-m0, cortex-m3, cortex-m4, cortex-m55"):
        measure_on_target(agent, "cortex-m9")


def test_no_observations_are_refused(agent: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microcontroller, "require_tools", lambda: None)
    with pytest.raises(ConfigError, match="no observations"):
        measure_on_target(agent, "cortex-m4", np.zeros((0, 17)))
    with pytest.raises(ConfigError, match="no test vectors"):
        measure_on_target(dataclasses.replace(agent, test_vectors=None), "cortex-m4")


def test_a_missing_tool_is_named(agent: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microcontroller, "COMPILER", "no-such-gcc")
    with pytest.raises(ExportError, match=r"no-such-gcc.*apt-get install gcc-arm-none-eabi"):
        measure_on_target(agent, "cortex-m4")


def test_the_linker_map_is_read() -> None:
    text = """Discarded input sections

 .text.unused   0x00000000       0x99 engine.o

Linker script and memory map

.text           0x00000000      0x100
 .vectors       0x00000000       0x40 startup.o
 .text.policy_predict
                0x00000040       0x24 policy.o
                0x00000040                policy_predict
 .text.run      0x00000064       0x10 engine.o
 .text.main     0x00000074       0x50 main.o
 .text          0x00000100        0x8 /lib/libgcc.a(muldi3.o)
 .rodata.steps  0x00000108       0x20 policy.o
 .rodata.cst4   0x00000128        0x4 engine.o
 .data.table    0x20000000        0x3 policy.o
 .bss.work      0x20000008       0x30 policy.o
 .bss.action    0x20000038       0x18 main.o
 .debug_info    0x00000000      0x500 engine.o
"""
    found = footprint(text)
    assert found == Footprint(constants=0x23, code=0x38, library=8, data=0x33)
    assert found.flash == 0x63


def test_the_table_fits_a_terminal() -> None:
    report = TargetReport(
        "cortex-m0", "microbit", "arm-none-eabi-gcc (15:12.2.rel1-1) 12.2.1 20221205", "QEMU emulator version 7.2.22",
        "-O2", False, "float64", 1000, 0, Footprint(1, 2, 3, 4), 5, 6, 7.0, 8.0, 0.0, 62.5, 0.0,
    )  # fmt: skip
    from rich.console import Console

    console = Console(width=80, record=True)
    console.print(target_table([report] * 3))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(word in text for word in ("flash", "stack", "microbit", "instructions are not cycles"))
    assert report.as_dict()["ram"] == 15
