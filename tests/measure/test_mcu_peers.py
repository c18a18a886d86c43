"""A short run of benchmarks/mcu_peers.py, and the integers that it gives to peers."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the extra tflite is not installed")

from benchmarks import mcu_peers

from policypress.errors import ExportError

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")


def test_peers_are_given_the_policys_integers() -> None:
    """Kernels of int8 in exact arithmetic give the policy's outputs, to half a code and the bias of halves."""
    (one,) = mcu_peers.networks(16, ["17-24-24-6"])
    x = one.codes.astype(np.int64)
    for index, layer in enumerate(one.layers):
        assert (layer.input_zero == 0) == (index == 0)
        sums = x @ layer.weight.astype(np.int64).T + layer.bias
        ratio = layer.multiplier / 2**31 * 2.0**layer.shift
        codes = np.floor(sums * ratio + 0.5).astype(np.int64) + layer.output_zero
        x = np.clip(codes, layer.low, 127) - layer.output_zero
    exact = one.sums * one.policy.layers[-1].scale.astype(np.float64) / one.output_scale
    assert np.abs(x - np.clip(exact, -127, 127)).max() <= 0.501
    real = mcu_peers.floats(one, one.codes)
    wanted = one.sums * one.policy.layers[-1].scale.astype(np.float64)
    assert np.median(np.abs(real - wanted)) < 0.01 * np.abs(wanted).max()  # roundings and limits in between


def test_rows_of_what_is_not_there_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = argparse.Namespace(emlearn=tmp_path, peer=[f"mine={tmp_path}"], only=None)
    loops = {"policypress", "int8 loops", "int8 loops, unrolled", "float loops"}
    assert set(mcu_peers.chosen_peers(asked)) == {*loops, "mine"}
    said = capsys.readouterr().err
    assert said == (
        f"Rows of emlearn are left out: {tmp_path} has no eml_net.h (pip install emlearn, or --emlearn FOLDER).\n"
    )
    (one,) = mcu_peers.networks(1, ["17-24-24-6"])
    with pytest.raises(ExportError, match=r"peer\.json does not name a source"):
        mcu_peers.yours(one, tmp_path)


PEER = """
#include "network.h"
#include "policy.h"
int policy_predict(const float *codes, float *outputs) {
    static float x[NETWORK_WIDEST], y[NETWORK_WIDEST];
    const float *weight, *bias;
    int last = 0;
    for (int i = 0; i < NETWORK_INPUTS; i++)
        x[i] = codes[i];
#define LAYER(layer, inputs, width, input_zero, output_zero, low, multiplier, shift) \\
    weight = real##layer, bias = real_bias##layer, last = width == NETWORK_OUTPUTS;  \\
    for (int o = 0; o < width; o++) {                                                \\
        y[o] = bias[o];                                                              \\
        for (int i = 0; i < inputs; i++)                                             \\
            y[o] += weight[o * inputs + i] * x[i];                                   \\
        y[o] = !last && y[o] < 0 ? 0 : y[o];                                         \\
    }                                                                                \\
    for (int o = 0; o < width; o++)                                                  \\
        x[o] = y[o];
    NETWORK_LAYERS(LAYER)
    for (int o = 0; o < NETWORK_OUTPUTS; o++)
        outputs[o] = x[o];
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("CI") and not all(map(shutil.which, TOOLS)), reason=f"{' or '.join(TOOLS)} is not installed"
)
def test_loops_are_exact_and_counted_and_a_peer_of_the_users_too(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text(PEER)
    (tmp_path / "peer.json").write_text('{"source": "mine.c", "answers": "floats"}')
    command = [sys.executable, str(ROOT / "benchmarks" / "mcu_peers.py"), "--network", "17-24-24-6", "--count", "5"]
    done = subprocess.run(
        [*command, "--column", "0", "--peer", f"mine={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    found = {row[1]: row for row in rows}
    assert found["mine"][-1] == "float"  # as near to the network without rounding as floats are, or exit code 1
    assert {found[name][-1] for name in ("policypress", "int8 loops", "int8 loops, unrolled")} == {"exact"}
    assert all(2_000 < int(row[2].replace(",", "")) < 40_000 for row in rows)
