"""Exported C on an emulated 8-bit processor with 16-bit integers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policypress.cli import app
from policypress.errors import ConfigError, ExportError, UnsupportedError
from policypress.export import c_text
from policypress.measure import avr
from policypress.measure.avr import measure_on_avr, missing_tools
from policypress.measure.targets import measure
from policypress.policy import load
from policypress.testing import accepted, observations, random_policy, random_recurrent_policy

ROOT = Path(__file__).parents[2]


KEEP = ROOT / "results" / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy"

needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=f"not here: {', '.join(missing_tools())}")


@needs_tools
def test_an_avr_gives_the_references_sums() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "avr.py"), "--observations", "30", "--random", "20"]
    done = subprocess.run([*command, "keep-cheetah"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 0 of 30 |" in done.stdout
    found = re.search(r"(\d+) random policies", done.stdout)
    assert found is not None
    assert int(found[1]) >= 3


@needs_tools
def test_what_a_policy_takes_of_an_avr() -> None:
    report = measure_on_avr(load(KEEP))
    assert (report.observations, report.differing, report.mcu) == (32, 0, "atmega328p")
    assert report.ram == report.data + report.stack + report.buffers < 2048
    assert report.cycles > 2 * sum(layer.nonzeros for layer in load(KEEP).layers)
    assert report.milliseconds == pytest.approx(report.cycles / 16_000)


@needs_tools
def test_constants_beyond_what_an_avr_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = random_policy(114)  # 51 kB of constants
    asked = accepted(policy, observations(policy, 4, 0))
    assert measure_on_avr(policy, asked, mcu="atmega2560", weights="sparse").differing == 0
    monkeypatch.setattr(c_text, "AVR_BYTES", 50_000)
    with pytest.raises(ExportError, match=r"the constants of this policy, \d+ bytes, are too many for an AVR: 50000"):
        measure_on_avr(policy, asked, mcu="atmega2560", weights="sparse")


@needs_tools
def test_sums_that_are_all_zero_are_no_fault() -> None:
    policy = random_policy(54)
    assert measure_on_avr(policy, accepted(policy, observations(policy, 4, 0)), mcu="atmega2560").differing == 0


@needs_tools
def test_a_wrong_answer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = avr.expected_answers
    monkeypatch.setattr(avr, "expected_answers", lambda *a, **k: (honest(*a, **k)[0], honest(*a, **k)[1] + 1))
    assert measure_on_avr(load(KEEP)).differing == 32


@needs_tools
def test_the_command_line_measures_an_avr() -> None:
    answer = CliRunner().invoke(app, ["bench", str(KEEP), "--target", "avr", "--json"])
    assert answer.exit_code == 0
    (report,) = json.loads(answer.stdout)
    assert (report["target"], report["differing"]) == ("avr", 0)
    answer = CliRunner().invoke(app, ["bench", str(KEEP), "--target", "avr"])
    assert "cycles an action" in answer.stdout


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="use cortex-m0, cortex-m3, cortex-m4, cortex-m55, avr"):
        measure(load(KEEP), "avr9")
    monkeypatch.setattr(avr, "require_tools", lambda: None)
    with pytest.raises(UnsupportedError, match="remembers"):
        measure_on_avr(random_recurrent_policy(0, "integer"))
    monkeypatch.undo()
    monkeypatch.setattr(avr, "COMPILER", "no-such-gcc")
    with pytest.raises(ExportError, match=r"no-such-gcc.*apt-get install gcc-avr"):
        measure_on_avr(load(KEEP))
