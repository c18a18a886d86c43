"""The kernels for Arm's DSP instructions, with these emulated in C: the same bits, and no undefined behaviour."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.errors import UnsupportedError
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.export.compile import STRICT, facts_of
from policypress.measure.microcontroller import expected_answers
from policypress.policy.policy import Policy
from policypress.policy.reference import arrange
from policypress.runtime.lower import fours
from policypress.testing import accepted, make_policy, observations, random_policy

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="There is no C compiler: install gcc.")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
EMULATED = "-DENGINE_EMULATE_DSP"
MAIN = """
#include "policy.h"
#include <stdio.h>
static int32_t codes[POLICY_OBSERVATION_SIZE], sums[POLICY_OUTPUT_SIZE];
int main(void) {
    while (fread(codes, sizeof codes, 1, stdin) == 1) {
        policy_run(codes, sums);
        if (fwrite(sums, sizeof sums, 1, stdout) != 1)
            return 1;
    }
    return 0;
}
"""


def assert_emulated_agrees(policy: Policy, weights: Weights, folder: Path, flags: tuple[str, ...]) -> None:
    """Its export without floats, with the kernels for the DSP instructions, gives the reference's sums."""
    asked = accepted(policy, observations(policy, max(2, min(60, 2**14 // math.prod(policy.observation.shape))), 0))
    if not len(asked):
        return
    codes, sums = expected_answers(policy, arrange(policy.observation, asked), integer_only=True)
    export_c(policy, folder / "c", CExportConfig("policy", integer_only=True, weights=weights, vectors=2, check=False))
    (folder / "main.c").write_text(MAIN)
    command = ["cc", *STRICT, *flags, EMULATED, f"-I{folder / 'c/include'}", str(folder / "c/src/policy.c"), "main.c"]
    subprocess.run([*command, "-o", "program"], cwd=folder, check=True)
    done = subprocess.run([folder / "program"], input=codes.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == sums.tobytes()


@needs_cc
@pytest.mark.parametrize(("kind", "weights"), [("image", "dense"), ("vector", "sparse")])
def test_emulated_instructions_give_the_bits_of_the_reference(kind, weights: Weights, tmp_path: Path) -> None:
    assert_emulated_agrees(make_policy("integer", kind, 8), weights, tmp_path, SANITIZED)


@needs_cc
@pytest.mark.slow
def test_emulated_instructions_agree_in_random_policies(tmp_path: Path) -> None:
    """Odd widths, wide codes, limits of every kind, and observations beyond all of them."""
    for seed in range(40):
        (tmp_path / str(seed)).mkdir()
        try:
            weights: Weights = ("dense", "sparse")[seed % 2]
            assert_emulated_agrees(random_policy(seed, "integer"), weights, tmp_path / str(seed), SANITIZED)
        except UnsupportedError:  # a scale too large for integers alone
            continue


@needs_cc
def test_the_emulation_is_what_is_compiled(tmp_path: Path) -> None:
    export_c(make_policy("integer", "vector", 8), tmp_path / "c", CExportConfig("policy", weights="dense", check=False))
    assert "src/policy.c" in facts_of(tmp_path / "c")["sources"]

    def preprocessed(*flags: str) -> str:
        command = ["cc", "-std=c99", "-E", *flags, "-Iinclude", "src/policy.c"]
        return subprocess.run(command, cwd=tmp_path / "c", check=True, capture_output=True, text=True).stdout

    assert "d = dsp_add_products(d, dsp_odd(word), odd)" in preprocessed(EMULATED)
    assert "dsp_add_products" not in preprocessed()


@settings(max_examples=40)
@given(st.integers(1, 11), st.integers(1, 4), st.integers(1, 9), st.integers(0, 9))
def test_weights_of_four_outputs_lie_together(outputs: int, lines: int, run: int, seed: int) -> None:
    """Against what engine.h says, byte after byte."""
    weight = np.random.default_rng(seed).integers(-127, 128, (outputs, lines * run)).astype(np.int8)
    wanted: list[int] = []
    for first in range(0, outputs - outputs % 4, 4):
        block = weight[first : first + 4].reshape(4, lines, run)
        for line in range(lines):
            for k in range(0, run - run % 4, 4):
                wanted += [int(block[o, line, k + i]) + 128 for o in range(4) for i in range(4)]
            for k in range(run - run % 4, run):
                wanted += [int(block[o, line, k]) + 128 for o in range(4)]
    wanted += [int(w) % 256 for w in weight[outputs - outputs % 4 :].ravel()]
    assert fours(weight, lines).tolist() == wanted
