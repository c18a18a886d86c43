"""Instructions of exported C on AArch64, under QEMU's user mode: counted by a plugin of QEMU, compiled here.

Needs on Debian: apt-get install --no-install-recommends gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.export.c import CExportConfig, export_c
from policypress.export.compile import STRICT
from policypress.measure.microcontroller import asked, expected_answers
from policypress.policy.policy import Policy

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
# Of each block of translated code: so many instructions whenever it runs. What QEMU's plugin interface declares is
# declared again, because Debian has no header for it.
PLUGIN = """
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
struct block;
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct block *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
int qemu_plugin_version = 1;
static uint64_t count;
static void translated(uint64_t plugin, struct block *block) {
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &count, qemu_plugin_tb_n_insns(block));
}
static void ended(uint64_t plugin, void *nothing) {
    fprintf(stderr, "%" PRIu64, count);
}
int qemu_plugin_install(uint64_t plugin, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
    qemu_plugin_register_atexit_cb(plugin, ended, NULL);
    return 0;
}
"""
MAIN = """
#include "policy.h"
#include <stdio.h>
static int32_t codes[COUNT][POLICY_OBSERVATION_SIZE], sums[COUNT][POLICY_OUTPUT_SIZE];
int main(int count, char **arguments) {
    (void)arguments;
    if (fread(codes, sizeof codes, 1, stdin) != 1)
        return 1;
    for (int pass = 0; pass < count; pass++)
        for (int i = 0; i < COUNT; i++)
            policy_run(codes[i], sums[i]);
    return fwrite(sums, sizeof sums, 1, stdout) != 1;
}
"""


class Counted(NamedTuple):
    """``instructions`` of an inference, with its call; ``text``: bytes of code; ``differing`` answers."""

    instructions: float
    text: int
    differing: int


def count(policy: Policy, observations: NDArray[np.float32 | np.float64], march: str, optimize: str) -> Counted:
    """The integer-only export of ``policy``, compiled with ``-march=march``."""
    codes, sums = expected_answers(policy, asked(policy, observations), integer_only=True)
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        folder = Path(place)
        export_c(policy, folder / "c", CExportConfig("policy", integer_only=True, check=False))
        (folder / "plugin.c").write_text(PLUGIN)
        (folder / "main.c").write_text(MAIN)
        subprocess.run(["cc", "-shared", "-fPIC", "plugin.c", "-o", "plugin.so"], cwd=folder, check=True)
        compile_ = [COMPILER, *STRICT, optimize, f"-march={march}", f"-DCOUNT={len(codes)}", "-Ic/include"]
        subprocess.run([*compile_, "-c", "c/src/policy.c"], cwd=folder, check=True)
        subprocess.run([*compile_, "-static", "main.c", "policy.o", "-o", "program"], cwd=folder, check=True)
        size = subprocess.run(
            ["aarch64-linux-gnu-size", "-A", "policy.o"], cwd=folder, check=True, capture_output=True, text=True
        )
        run = [EMULATOR, "-plugin", "./plugin.so", "./program"]
        once, twice = (
            subprocess.run([*run, *more], cwd=folder, input=codes.tobytes(), capture_output=True, check=True)
            for more in ([], ["again"])
        )
    answers = np.frombuffer(twice.stdout, np.int32).reshape(sums.shape)
    text = sum(int(line.split()[1]) for line in size.stdout.splitlines() if line.startswith(".text"))
    return Counted((int(twice.stderr) - int(once.stderr)) / len(codes), text, int((answers != sums).any(axis=1).sum()))
