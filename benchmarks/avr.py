"""Exported C on 8-bit AVRs: bits, flash, RAM and cycles of an action, as simavr counts them.

    python benchmarks/avr.py [--mcu atmega328p] [--observations 1000] [--random 40] [NAME ...]

Policies of results/ (all integer ones that fit), exported with --integer-only, answer observations that they saw in
their environment, and random policies of policypress.testing in every form of weights answer random and
extreme ones. Weights and tables lie in flash. Exit code 1 if a sum differs or a self test fails. Debian: apt-get
install gcc-avr avr-libc simavr.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "examples" / "mcu")]

from check import record  # noqa: E402

import policypress as pp  # noqa: E402
from policypress.errors import ExportError, PolicypressError  # noqa: E402
from policypress.export.c import CExportConfig, Weights, export_c  # noqa: E402
from policypress.export.compile import STRICT  # noqa: E402
from policypress.measure.microcontroller import expected_answers  # noqa: E402
from policypress.policy import reference  # noqa: E402
from policypress.testing import accepted, observations, random_policy, stored_policies  # noqa: E402

NAMES = ("cheetah-90", "cheetah-98", "cheetah-narrow", "keep-cheetah", "walker-16", "walker-narrow")
FORMS: tuple[Weights, ...] = ("auto", "dense", "sparse", "packed")
OPTIMIZE = "-O2"
DIALECT = "-std=gnu99"  # c99 has no constants in flash
CODE_BYTES = 4096  # of observations in one firmware
TICK = 64  # cycles
SECONDS = 300  # that a command may take
MAIN = """
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include "policy.h"
#include "codes.h"

#if EMPTY /* to know what the policy adds */
void policy_run(const int32_t codes[], int32_t sums[]) {
    sums[0] = codes[0];
}
#endif

static void put(const char *text) {
    for (; *text; text++) {
        while (!(UCSR0A & (1 << UDRE0)))
            ;
        UDR0 = (uint8_t)*text;
    }
}

static void hex(uint32_t value) {
    char text[9] = "";
    for (int8_t k = 7; k >= 0; k--, value >>= 4)
        text[k] = "0123456789abcdef"[value & 15];
    put(text);
}

#define PAINT 0xA5
extern unsigned char __bss_end;

int main(void) {
    static int32_t codes[POLICY_OBSERVATION_SIZE], sums[POLICY_OUTPUT_SIZE];
    unsigned char *low = &__bss_end, *const top = (unsigned char *)SP;
    uint32_t ticks = 0;
    UCSR0B = 1 << TXEN0;
    TCCR1B = 1 << CS11 | 1 << CS10; /* a tick every 64 cycles */
#if SELF_TEST
    if (policy_self_test())
        put("self test\\n");
#endif
    for (volatile unsigned char *p = low; p < top; p++) /* memset would have its own stack painted */
        *p = PAINT;
    for (uint16_t i = 0; i < COUNT; i++) {
        uint16_t start;
        for (uint16_t k = 0; k < POLICY_OBSERVATION_SIZE; k++)
            codes[k] = all_codes[i][k];
        start = TCNT1;
        policy_run(codes, sums);
        ticks += (uint16_t)(TCNT1 - start);
        for (uint16_t k = 0; k < POLICY_OUTPUT_SIZE; k++) {
            put("sum ");
            hex((uint32_t)sums[k]);
            put("\\n");
        }
    }
    while (low < top && *low == PAINT)
        low++;
    put("took ");
    hex(ticks);
    hex((uint32_t)(top - low));
    put("\\n");
    cli();
    sleep_mode(); /* ends simavr */
}
"""


class Answer(NamedTuple):
    sums: NDArray[np.int32]
    cycles: float  # of an action
    flash: int
    ram: int  # the deepest stack and the caller's codes and sums included


class WrongAnswer(Exception):
    """A firmware that was built and does not do what it should."""


def run(*command: str, folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WrongAnswer(f"{command[0]} does not end") from error
    printed = done.stdout + done.stderr  # simavr prints what the firmware sends to the latter
    if done.returncode:
        reasons = [line for line in printed.splitlines() if re.search("error|overflowed", line)]
        raise ExportError(f"{command[0]}: {(reasons or [printed])[0]}")
    return printed


def build(folder: Path, mcu: str, program: str, *, test: bool = False, empty: bool = False) -> NDArray[np.int64]:
    """Compiles ``program``, with the self test or without the policy; its bytes of flash and of static RAM."""
    facts = json.loads((folder / "export.json").read_text())
    sources = ["main.c"] if empty else [*facts["sources"], "main.c"] + ["policy_vectors.c"] * test
    command = ["avr-gcc", f"-mmcu={mcu}", OPTIMIZE, *STRICT, DIALECT]
    command += [f"-DEMPTY={int(empty)}", f"-DSELF_TEST={int(test)}"]
    command += ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"]
    run(*command, *sources, "-o", program, folder=folder)
    table = run("avr-size", "-A", program, folder=folder)
    size = {m[1]: int(m[2]) for m in re.finditer(r"^\.(\S+)\s+(\d+)", table, re.M)}
    return np.array([size["text"] + size.get("data", 0), size.get("data", 0) + size.get("bss", 0)])


def answer(folder: Path, mcu: str, codes: NDArray[np.int32], outputs: int) -> Answer:
    """What the export in ``folder`` answers to ``codes``, (n, size), on ``mcu``."""
    (folder / "main.c").write_text(MAIN)
    size = 1 if np.abs(codes).max() < 128 else 2 if np.abs(codes).max() < 2**15 else 4
    chunk = max(1, CODE_BYTES // (codes.shape[1] * size))
    words, ticks, stack = "", 0, 0
    for first in range(0, len(codes), chunk):
        part = codes[first : first + chunk]
        rows = ",\n".join("{" + ", ".join(map(str, row)) + "}" for row in part)
        array = f"static const __flash int{8 * size}_t all_codes[][{part.shape[1]}] = {{\n{rows}}};\n"
        (folder / "codes.h").write_text(f"#define COUNT {len(part)}\n{array}")
        build(folder, mcu, "firmware.elf", test=first == 0)
        printed = run("simavr", "-m", mcu, "-f", "16000000", "firmware.elf", folder=folder)
        if "self test" in printed:
            raise WrongAnswer("its self test fails")
        words += "".join(re.findall(r"sum ([0-9a-f]{8})", printed))
        found = re.search(r"took ([0-9a-f]{8})([0-9a-f]{8})", printed)
        if found is None:
            raise WrongAnswer("it crashes")
        ticks += int(found[1], 16)
        stack = max(stack, int(found[2], 16))
    sums = np.frombuffer(bytes.fromhex(words), ">i4").reshape(-1, outputs)
    flash, ram = build(folder, mcu, "with.elf") - build(folder, mcu, "without.elf", empty=True)
    buffers = 4 * (codes.shape[1] + outputs)
    return Answer(sums, ticks * TICK / len(codes), int(flash), int(ram) + stack + buffers)


def measure(policy: pp.Policy, mcu: str, asked: NDArray[Any], weights: Weights) -> tuple[Answer, int]:
    """What the policy takes, and how many of its answers differ."""
    answers = expected_answers(policy, reference.arrange(policy.observation, asked), integer_only=True)
    codes, sums = (array.reshape(len(asked), -1) for array in answers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "c"
        export_c(policy, folder, CExportConfig("policy", integer_only=True, weights=weights, check=False))
        found = answer(folder, mcu, codes, sums.shape[1])
    if found.sums.shape != sums.shape:
        raise WrongAnswer(f"{len(found.sums)} of {len(sums)} observations have an answer")
    return found, int((found.sums != sums).any(axis=1).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="policies of results/, or .policy files")
    parser.add_argument("--mcu", default="atmega328p", help="as avr-gcc and simavr name it (atmega328p)")
    parser.add_argument("--observations", type=int, default=1000, help="of each trained policy (1000)")
    parser.add_argument("--random", type=int, default=0, help="random policies besides (0)")
    arguments = parser.parse_args()
    if missing := [tool for tool in ("avr-gcc", "simavr") if shutil.which(tool) is None]:
        print(f"{' and '.join(missing)} not found: apt-get install gcc-avr avr-libc simavr.", file=sys.stderr)
        return 2
    print(f"{arguments.mcu}, {run('avr-gcc', '--version', folder=ROOT).splitlines()[0]}, {OPTIMIZE}\n")
    print("| policy | flash | RAM | cycles | ms at 16 MHz | differ |\n|---|---:|---:|---:|---:|---:|")
    differing, stored = 0, stored_policies(ROOT / "results")
    for name in arguments.names:
        policy = pp.load(name if name.endswith(".policy") else stored[name])
        asked = record(policy, policy.provenance["env"], arguments.observations, seed=1)
        try:
            found, wrong = measure(policy, arguments.mcu, asked, "auto")
        except (ExportError, WrongAnswer) as error:
            print(f"| {name} | {error} |")
            differing += isinstance(error, WrongAnswer)
            continue
        differing += wrong
        cells = f"{found.flash:,} | {found.ram:,} | {found.cycles:,.0f} | {found.cycles / 16e3:.2f}"
        print(f"| {name} | {cells} | {wrong} of {len(asked)} |", flush=True)
    runs = policies = 0
    for seed in range(arguments.random):
        policy = random_policy(seed)
        asked = accepted(policy, observations(policy, 40, 0))
        if policy.numerics != "integer" or not len(asked):
            continue
        try:
            _, wrong = measure(policy, arguments.mcu, asked, FORMS[seed % len(FORMS)])
        except (PolicypressError, WrongAnswer) as error:
            print(f"random {seed}: {error}")
            differing += isinstance(error, WrongAnswer)
            continue
        policies, runs, differing = policies + 1, runs + len(asked), differing + wrong
        if wrong:
            print(f"random {seed}, {FORMS[seed % len(FORMS)]}: {wrong} of {len(asked)} differ")
    if policies:
        print(f"\n{policies} random policies, {runs:,} observations.")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
