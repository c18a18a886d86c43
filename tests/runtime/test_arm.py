"""The kernels for Arm's DSP and vector instructions, these emulated in C: the same bits, no undefined behaviour."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.errors import UnsupportedError
from policypress.export.c import CExportConfig, Weights, export_c, program_of
from policypress.export.compile import STRICT, facts_of
from policypress.measure.microcontroller import expected_answers
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization
from policypress.policy.policy import Policy
from policypress.policy.reference import arrange
from policypress.runtime.lower import fours, quarters
from policypress.runtime.structures import Form
from policypress.testing import Builder, accepted, make_policy, observations, random_policy, thinned
from quick import quick

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="There is no C compiler: install gcc.")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
INTRINSICS = Path(__file__).parent / "arm"
NEON = (f"-isystem{INTRINSICS}", "-D__ARM_NEON", "-D__aarch64__")
EMULATED = {
    "none": (),
    "DSP": ("-DENGINE_EMULATE_DSP",),
    "Helium": (f"-isystem{INTRINSICS}", "-D__ARM_FEATURE_MVE"),
    "NEON": NEON,
    "NEON, dot products": (*NEON, "-D__ARM_FEATURE_DOTPROD"),
}
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


def assert_emulated_agrees(policy: Policy, weights: Weights, folder: Path, instructions: str) -> None:
    """Its export without floats, with the kernels for these instructions, gives the reference's sums."""
    asked = accepted(policy, observations(policy, max(2, min(60, 2**14 // math.prod(policy.observation.shape))), 0))
    if not len(asked):
        return
    codes, sums = expected_answers(policy, arrange(policy.observation, asked), integer_only=True)
    export_c(policy, folder / "c", CExportConfig("policy", integer_only=True, weights=weights, vectors=2, check=False))
    (folder / "main.c").write_text(MAIN)
    command = ["cc", *STRICT, *SANITIZED, *EMULATED[instructions], f"-I{folder / 'c/include'}"]
    subprocess.run([*command, str(folder / "c/src/policy.c"), "main.c", "-o", "program"], cwd=folder, check=True)
    done = subprocess.run([folder / "program"], input=codes.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == sums.tobytes()


@needs_cc
@pytest.mark.parametrize(
    ("kind", "weights", "instructions"),
    [
        ("vector", "sparse", "DSP"),
        ("vector", "quarters", "DSP"),
        *(("image", "dense", instructions) for instructions in EMULATED),
    ],
)
def test_emulated_instructions_give_the_bits_of_the_reference(
    kind, weights: Weights, instructions: str, tmp_path: Path
) -> None:
    policy = make_policy("integer", kind, 8)
    assert_emulated_agrees(thinned(policy) if weights == "quarters" else policy, weights, tmp_path, instructions)


@needs_cc
@pytest.mark.parametrize("widths", quick([(70, 5), (33, 2), (64, 1), (32, 7), (4, 3), (1, 1)], [(70, 5), (33, 2)]))
@pytest.mark.parametrize("instructions", ["DSP", "none"])
def test_quarters_of_all_widths(widths: tuple[int, int], instructions: str, tmp_path: Path) -> None:
    """Whole and partial blocks of 32 inputs, an odd and an even number of them, and of outputs."""
    inputs, outputs = widths
    b = Builder("integer", 8, 1, per_output=False)
    ops = (b.layer(outputs, inputs, role="hidden", name="a"), b.layer(2, outputs, role="raw", name="b"))
    bound = np.ones(2, np.float32)
    policy = Policy(
        ops,
        ObservationTransform((inputs,), "float32"),
        ActionTransform("box", (2,), low=-bound, high=bound),
        InputQuantization(np.full(1, 20, np.float32), -127, 127, 8),
        baseline_bytes=1,
    )
    assert program_of(thinned(policy), "quarters").steps[0].form == Form.QUARTERS
    assert_emulated_agrees(thinned(policy), "quarters", tmp_path, instructions)


def test_who_has_two_weights_of_four_neighbours_is_no_quarter() -> None:
    policy = make_policy("integer", "vector", 8)
    assert {step.form for step in program_of(policy, "quarters").steps if step.form is not None} == {Form.FOURS}


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 70), st.integers(0, 9))
def test_quarters_lie_as_the_header_says(outputs: int, inputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.zeros((outputs, inputs), np.int8)
    for first in range(0, inputs, 4):
        places = first + rng.integers(0, min(4, inputs - first), outputs)
        weight[np.arange(outputs), places] = rng.integers(-127, 128, outputs)
    found = quarters(weight)
    assert found.shape == (outputs, -(-inputs // 32), 12)
    again = np.zeros((outputs, 32 * found.shape[1]), np.int8)
    for o, block in np.ndindex(found.shape[:2]):
        values, pairs = found[o, block, :8].view(np.int8)[[0, 2, 1, 3, 4, 6, 5, 7]], found[o, block, 8:]
        for four in range(8):
            number = int(pairs[four // 2])
            assert number // 16 == four // 2 + 4 * (block % 2)
            again[o, 32 * block + 4 * four + (number % 4 if four % 2 == 0 else number // 4 % 4)] = values[four]
    assert np.array_equal(again[:, :inputs], weight)
    assert not again[:, inputs:].any()


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("instructions", EMULATED)
def test_emulated_instructions_agree_in_random_policies(instructions: str, tmp_path: Path) -> None:
    """Odd widths, wide codes, limits of every kind, and observations beyond all of them."""
    for seed in range(40):
        (tmp_path / str(seed)).mkdir()
        try:
            weights: Weights = "sparse" if seed % 2 and instructions == "DSP" else "dense"
            assert_emulated_agrees(random_policy(seed, "integer"), weights, tmp_path / str(seed), instructions)
        except UnsupportedError:  # a scale too large for integers alone
            continue


@needs_cc
def test_the_emulation_is_what_is_compiled(tmp_path: Path) -> None:
    export_c(make_policy("integer", "vector", 8), tmp_path / "c", CExportConfig("policy", weights="dense", check=False))
    assert "src/policy.c" in facts_of(tmp_path / "c")["sources"]

    def preprocessed(*flags: str) -> str:
        command = ["cc", "-std=c99", "-E", *flags, "-Iinclude", "src/policy.c"]
        return subprocess.run(command, cwd=tmp_path / "c", check=True, capture_output=True, text=True).stdout

    found = {
        "DSP": "d = dsp_add_products(d, dsp_odd(word), odd)",
        "Helium": "d = vmladavaq_u8(d, bytes,",
        "NEON": "high = vpadalq_u16(high,",
        "NEON, dot products": "sums = vdotq_laneq_u32(sums,",
    }
    for instructions, flags in EMULATED.items():
        if instructions == "none":
            continue
        assert found[instructions] in preprocessed(*flags)
        assert found[instructions] not in preprocessed()


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="There is no arm-none-eabi-gcc.")
def test_weights_lie_where_helium_loads_words(tmp_path: Path) -> None:
    """With -Os the compiler would put bytes anywhere, and a word from there is a fault, which QEMU does not have."""
    export_c(make_policy("integer", "image", 8), tmp_path / "c", CExportConfig("policy", weights="dense", check=False))
    command = ["arm-none-eabi-gcc", *STRICT, "-Os", "-fdata-sections", "-Iinclude", "-c", "src/policy.c"]

    def alignments(cpu: str) -> set[str]:
        subprocess.run([*command, f"-mcpu={cpu}", "-mthumb", "-mfloat-abi=hard"], cwd=tmp_path / "c", check=True)
        dump = ["arm-none-eabi-objdump", "-h", "policy.o"]
        text = subprocess.run(dump, cwd=tmp_path / "c", check=True, capture_output=True, text=True).stdout
        return {line.split()[-1] for line in text.splitlines() if re.search(r"rodata\.step\d+_weight ", line)}

    assert alignments("cortex-m55") == {"2**2"}
    assert "2**0" in alignments("cortex-m55+nomve")  # no byte of flash for nothing


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
