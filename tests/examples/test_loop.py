"""The executor of an export to C: its contract, on the host and under QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from examples.loop import check

from policypress.export.c import CExportConfig, export_c
from policypress.measure.microcontroller import missing_tools
from policypress.policy.policy import Policy
from policypress.testing import make_policy, random_recurrent_policy

PROGRAM = """
#include <string.h>
#include "net_loop.h"
static net_loop loop;
int main(void) {
    const net_action hold[NET_ACTION_SIZE] = {1};
    net_observation o[NET_OBSERVATION_SIZE] = {0};
    net_action a[NET_ACTION_SIZE];
    net_loop_report r;
    if (net_loop_self_test())
        return 1;
    if (!net_loop_init(&loop, 0, 0, hold) || !net_loop_init(&loop, 100, 51, hold))
        return 2;
    if (!net_loop_init(&loop, ((uint32_t)1 << 30) + 1, 0, hold) || net_loop_init(&loop, 100, 50, hold))
        return 3;
    o[0] = 1e300 * 1e300;
    r = net_loop_control(&loop, 0xFFFFFFF0u, o, a);
    if (r.status != NET_LOOP_NOT_FINITE || memcmp(a, hold, sizeof a))
        return 4;
    o[0] = 0;
    r = net_loop_control(&loop, 0x10u, o, a); /* 32 of 100 us later: the clock wrapped */
    if (r.status != NET_LOOP_HELD || memcmp(a, hold, sizeof a))
        return 5;
    r = net_loop_control(&loop, 0x40u, o, a); /* 80: early, but within the tolerance */
    if (r.status != NET_LOOP_STEPPED || r.late_us != 0 || r.jitter_us != -20 || !memcmp(a, hold, sizeof a))
        return 6;
    r = net_loop_control(&loop, 0xFFFFFFF0u + 460u, o, a); /* due at 200 */
    if (r.status != NET_LOOP_LATE || r.late_us != 260 || r.missed != 2 || r.jitter_us != 80 || loop.missed != 2)
        return 7;
    r = net_loop_control(&loop, 0xFFFFFFF0u + 500u, o, a); /* on the grid again */
    return r.status == NET_LOOP_STEPPED && r.late_us == 0 && r.jitter_us == -60 && loop.most_late_us == 260 ? 0 : 8;
}
"""


def recurrent(numerics: str = "integer") -> Policy:
    for seed in range(100):
        policy = random_recurrent_policy(seed, numerics)  # type: ignore[arg-type]
        if policy.action.kind == "box" and policy.observation.dtype == "float32" and policy.state_size < 32:
            return policy
    raise AssertionError


@pytest.fixture
def tools() -> None:
    """CI must not pass without having run anything."""
    if missing_tools() and not os.environ.get("CI"):
        pytest.skip(f"needs {' and '.join(missing_tools())}")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("weights", ["auto", "payload"])
def test_lateness_jitter_and_what_is_held(weights: str, tmp_path: Path) -> None:
    config = CExportConfig("net", weights=weights, vectors=2)  # type: ignore[arg-type]
    export_c(make_policy("integer", "vector"), tmp_path / "net", config)
    (tmp_path / "main.c").write_text(PROGRAM)
    sources = [tmp_path / f"net/src/net{part}.c" for part in ("", "_loop", "_vectors")]
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-I", tmp_path / "net/include", *sources]
    subprocess.run([*command, tmp_path / "main.c", "-o", tmp_path / "main"], check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def test_the_schedule_has_every_kind_of_call() -> None:
    calls = check.schedule(2000, 0, bad=True)
    times = [now for now, _, _ in calls]
    assert times == sorted(times)
    assert times[0] < 2**32 < times[-1]
    executor = check.Executor(check.PERIOD, check.TOLERANCE)
    found = [executor.control(now, finite) for now, _, finite in calls]
    assert {status for status, *_ in found} == set(range(4))
    assert executor.counts["missed"] > 100
    assert 2000 - 10 < executor.counts["steps"] + executor.counts["missed"] < 2000 + 10


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("kind", "target", "integer_only"),
    [("recurrent", "cortex-m4", False), ("recurrent", "cortex-m0", True), ("plain", "cortex-m3", False)],
)
def test_firmware_keeps_the_contract(kind: str, target: str, integer_only: bool) -> None:
    policy = recurrent() if kind == "recurrent" else make_policy("integer", "vector")
    found = check.run(policy, target, 300, integer_only=integer_only)
    assert (found["reports"], found["actions"], found["states"]) == (0, 0, 0)
    assert min(found["stepped"], found["late"], found["held"], found["missed"]) > 10


@pytest.mark.usefixtures("tools")
def test_what_breaks_the_contract_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, policy = check.Executor.control, recurrent()

    def hasty(self: check.Executor, now: int, finite: bool) -> tuple[int, int, int, int]:
        status, late, jitter, missed = honest(self, now, finite)
        return (check.STEPPED if status == check.HELD else status), late, jitter, missed  # a step at every call

    monkeypatch.setattr(check.Executor, "control", hasty)
    found = check.run(policy, "cortex-m4", 60)
    assert found["reports"] > 20
    assert found["states"] > 5


@pytest.mark.slow
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("numerics", ["integer", "float"])
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0"])
def test_ten_thousand_periods(target: str, numerics: str) -> None:
    found = check.run(recurrent(numerics), target, 10_000)
    assert (found["reports"], found["actions"], found["states"]) == (0, 0, 0)
    assert min(found["stepped"], found["late"], found["held"], found["missed"]) > 500
