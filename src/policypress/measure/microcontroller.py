"""What a policy takes on an Arm Cortex-M: bytes of flash and RAM, instructions an action, and whether bits are right.

The exported C is compiled by the GNU Arm toolchain with the firmware beside this file, and runs in QEMU, which counts
instructions: under ``-icount shift=0`` each takes one nanosecond of the time that the guest's timers count. These are
not cycles. ``docs/microcontrollers.md`` describes the method.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, ExportError
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.export.c_int16 import int16_of
from policypress.export.compile import STRICT, facts_of
from policypress.export.taking import taking
from policypress.policy import reference
from policypress.policy.observations import sequence
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
PACKAGES = ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm")
"""Debian packages that bring both."""
EMPTY_INSTRUCTIONS, LOOP_INSTRUCTIONS = 2, 2003
"""What the firmware's empty function takes, and its loop of known length."""

_MEASURED = struct.Struct("<QIIQIIQIIQIIII")  # struct measured of firmware/main.c
_SECONDS = 900


@dataclass(frozen=True)
class Target:
    """A core, the compiler's ``flags`` for it, QEMU's ``machine`` that has one, and the machine's clock in Hz."""

    name: str
    machine: str
    hz: int
    flags: tuple[str, ...]


TARGETS = {
    target.name: target
    for target in (
        Target("cortex-m0", "microbit", 16_000_000, ("-mcpu=cortex-m0", "-mfloat-abi=soft")),
        Target("cortex-m3", "mps2-an385", 25_000_000, ("-mcpu=cortex-m3", "-mfloat-abi=soft")),
        Target("cortex-m4", "mps2-an386", 25_000_000, ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")),
        Target("cortex-m55", "mps3-an547", 32_000_000, ("-mcpu=cortex-m55", "-mfloat-abi=hard")),
    )
}


@dataclass(frozen=True)
class Footprint:
    """Bytes that a policy adds to a firmware, from the linker's map; the firmware's own are left out.

    ``constants``: weights and all else that is the policy's; ``code``: engine and interface; ``library``: of the
    compiler's and the C library's routines, soft floating point above all. ``data``: static RAM, work memory included.
    """

    constants: int
    code: int
    library: int
    data: int

    @property
    def flash(self) -> int:
        return self.constants + self.code + self.library


@dataclass(frozen=True)
class TargetReport:
    """A policy on a target.

    ``observations`` of the dtype ``observation`` were run; ``differing`` of the actions (sums, if ``integer_only``) are
    not the reference's, bit for bit. ``stack``: most bytes of stack below the caller; ``buffers``: of one observation,
    one action and a state.
    ``instructions``: mean of an action; ``most_instructions``: of any, to within a tick of the timer
    (``tick_instructions``); ``start_instructions``: once, to unpack a payload. ``loop_error``: what the count of a loop
    of known length was off by.
    """

    target: str
    machine: str
    compiler: str
    emulator: str
    options: str
    integer_only: bool
    observation: str
    observations: int
    differing: int
    footprint: Footprint
    stack: int
    buffers: int
    instructions: float
    most_instructions: float
    start_instructions: float
    tick_instructions: float
    loop_error: float

    @property
    def ram(self) -> int:
        return self.footprint.data + self.stack + self.buffers

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, ``flash`` and ``ram`` in all included."""
        return {**dataclasses.asdict(self), "flash": self.footprint.flash, "ram": self.ram}


def missing_tools() -> tuple[str, ...]:
    """What is not installed of what ``measure_on_target`` runs: programs, or "newlib", the compiler's C library."""
    missing = tuple(tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None)
    if COMPILER not in missing and _run([COMPILER, "-print-file-name=nano.specs"], Path(), "fails") == "nano.specs\n":
        missing += ("newlib",)
    return missing


def measure_on_target(
    policy: Policy,
    target: str | Target,
    observations: NDArray[Any] | None = None,
    *,
    integer_only: bool = False,
    weights: Weights = "auto",
    optimize: str = "-O2",
    observation: str | None = None,
    observation_scale: tuple[float, ...] | None = None,
) -> TargetReport:
    """Run ``policy`` on the emulated ``target``, one of ``TARGETS`` or its name, and measure what it takes.

    ``observations``: (n, *shape) raw ones, by default the policy's test vectors. ``integer_only``: measure the export
    without floats, codes in and sums out. ``weights``, ``observation``, ``observation_scale``: as in ``CExportConfig``;
    raw observations are rounded to what is exported. ``optimize``: the compiler's option. Raises ConfigError for
    another target, ExportError if a tool is missing or the policy does not fit.
    """
    chosen = target if isinstance(target, Target) else find_target(target)
    require_tools()
    config = CExportConfig(
        name="policy",
        integer_only=integer_only,
        weights=weights,
        check=False,
        observation=observation,
        observation_scale=observation_scale,
    )
    batch, expected = expected_answers(policy, asked(policy, observations), integer_only)
    if observation == "int16":
        int16 = int16_of(policy, observation_scale)
        batch = int16.nearest(batch.reshape(len(batch), -1))
        seen = int16.values(batch).reshape(len(batch), *policy.observation.shape)
        expected = expected_answers(int16.policy, seen, False)[1]
    elif observation is not None:
        narrow = taking(policy, observation)
        batch, expected = expected_answers(narrow, batch.astype(narrow.observation.dtype), False)
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        folder = Path(place) / "policy"
        export_c(policy, folder, config)
        build = Path(place) / "build"
        footprint = build_firmware(folder, chosen, build, optimize=optimize)
        answers, counts = run_firmware(chosen, build, batch, expected.dtype, expected[0].size)
    different = answers.reshape(len(batch), -1).view(np.uint8) != _rows(expected).view(np.uint8)
    ticks = 1e9 / chosen.hz  # nanoseconds of virtual time, an instruction each
    start, _, start_stack, act, most, act_stack, nothing, _, nothing_stack, loop = counts[:10]
    around = nothing * ticks / len(batch) - EMPTY_INSTRUCTIONS  # of the firmware, an action
    return TargetReport(
        target=chosen.name,
        machine=chosen.machine,
        compiler=_version(COMPILER),
        emulator=_version(EMULATOR),
        options=" ".join((*chosen.flags, optimize)),
        integer_only=integer_only,
        observation="int32" if integer_only else batch.dtype.name,
        observations=len(batch),
        differing=int(different.any(axis=1).sum()),
        footprint=footprint,
        stack=max(act_stack - nothing_stack, start_stack),
        buffers=batch[0].nbytes + expected[0].nbytes + initial_state(policy, 1).nbytes,
        instructions=act * ticks / len(batch) - around,
        most_instructions=most * ticks - around,
        start_instructions=start * ticks,
        tick_instructions=ticks,
        loop_error=loop * ticks / len(batch) - around - LOOP_INSTRUCTIONS,
    )


def find_target(name: str) -> Target:
    """The target called ``name``; raises ConfigError if there is none."""
    if name not in TARGETS:
        raise ConfigError(f"target={name!r} is not known: use {', '.join(TARGETS)}.")
    return TARGETS[name]


def require_tools() -> None:
    """Raise ExportError if a program is missing."""
    missing = missing_tools()
    if missing:
        raise ExportError(f"{' and '.join(missing)} not found: on Debian, apt-get install {' '.join(PACKAGES)}.")


def build_firmware(folder: Path, target: Target, build: Path, *, optimize: str = "-O2") -> Footprint:
    """Compile the C exported to ``folder`` with the firmware into ``build``/firmware.elf.

    Returns what the policy takes of it. Raises ExportError if it does not compile, or not fit the target.
    """
    facts = facts_of(folder)
    name, integer = facts["name"], facts["integer_only"]
    values = math.prod(facts["observation"]["shape"])
    answers = facts["outputs"] if integer else math.prod(facts["action"]["shape"])
    defines = [f"POLICY={name}", f"INTEGER_ONLY={int(integer)}"]
    defines += [f"OBSERVATION_VALUES={values}", f"ACTION_VALUES={answers}", f"POLICY_INIT={int(facts['init'])}"]
    defines.append(f"STATE_VALUES={facts['state']['size']}")
    build.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("policypress.measure") / "firmware") as firmware:
        compile_ = [COMPILER, *STRICT, optimize, *target.flags, "-mthumb", "-masm-syntax-unified"]
        compile_ += ["-ffunction-sections", "-fdata-sections", *(f"-D{define}" for define in defines)]
        compile_ += [f"-I{folder.resolve() / 'include'}", f"-I{folder.resolve()}", f"-I{firmware}"]
        (source,) = facts["sources"]
        sources = {"policy.o": folder.resolve() / source}
        sources |= {object_: firmware / f"{object_[:-2]}.c" for object_ in _FIRMWARE}
        for object_, source in sources.items():
            _run([*compile_, "-c", str(source), "-o", object_], build, "does not compile the exported C")
        link = [COMPILER, *target.flags, "-mthumb", "-nostartfiles", "--specs=nano.specs", *sources]
        link += ["-Wl,--gc-sections", "-Wl,-Map=firmware.map", f"-L{firmware}", f"-T{target.name}.ld"]
        _run([*link, "-o", "firmware.elf"], build, f"cannot link the policy for {target.name}")
    return footprint((build / "firmware.map").read_text(encoding="utf-8", errors="replace"))


def run_firmware(
    target: Target, build: Path, observations: NDArray[Any], dtype: np.dtype[Any], values: int
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Run ``build``/firmware.elf in QEMU on ``observations``, (n, ...) of the exported type.

    Returns the actions (n, ``values``) of ``dtype``, and the fields of main.c's ``struct measured``. Raises ExportError
    if an observation is refused or the firmware does not end.
    """
    (build / "observations.bin").write_bytes(np.ascontiguousarray(observations).tobytes())
    command = [EMULATOR, "-M", target.machine, "-kernel", "firmware.elf", "-icount", "shift=0"]
    command += ["-display", "none", "-monitor", "none", "-serial", "null"]
    command += ["-semihosting-config", "enable=on,target=native"]
    _run(command, build, "did not run the firmware to its end")
    counts = _MEASURED.unpack((build / "measured.bin").read_bytes())
    answers = np.fromfile(build / "actions.bin", dtype)
    if answers.size != len(observations) * values:
        raise ExportError(f"The firmware answered {answers.size // values} of {len(observations)} observations.")
    return answers.reshape(len(observations), values), counts


_FIRMWARE = ("main.o", "startup.o")
_PLACED = re.compile(r"^ (\.\S+|COMMON)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s+(\S.*)$")


def footprint(linker_map: str) -> Footprint:
    """What the policy takes, from the text of the GNU linker's map."""
    sizes = {"constants": 0, "code": 0, "library": 0, "data": 0}
    placed = linker_map.split("Linker script and memory map", 1)[1].replace("\r", "")
    for line in re.sub(r"\n( \.\S+)\n\s+", r"\n\1 ", placed).splitlines():  # long names stand on lines of their own
        found = _PLACED.match(line)
        if not found:
            continue
        section, size, source = found[1], int(found[3], 16), found[4]
        if source in _FIRMWARE or not section.startswith((".text", ".rodata", ".data", ".bss", "COMMON")):
            continue
        if section.startswith((".data", ".bss", "COMMON")):
            sizes["data"] += size
        if section.startswith((".bss", "COMMON")):
            continue
        constant = source == "policy.o" and not section.startswith(".text")
        sizes["constants" if constant else "library" if "/" in source else "code"] += size
    return Footprint(**sizes)


def asked(policy: Policy, observations: NDArray[Any] | None) -> NDArray[Any]:
    """``observations``, or the policy's test vectors, as ``reference.arrange`` has them; ConfigError if none are."""
    if observations is None:
        if policy.test_vectors is None:
            raise ConfigError("The policy holds no test vectors: give observations.")
        observations = policy.test_vectors.observations
    batch = reference.arrange(policy.observation, observations)
    if not len(batch):
        raise ConfigError("There are no observations to run.")
    return batch


def expected_answers(policy: Policy, batch: NDArray[Any], integer_only: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """What goes into the firmware and what the reference answers: observations (n, *shape) and actions, or, if
    ``integer_only``, input codes and the last layer's sums, int32 both. ``batch``: as ``reference.arrange`` returns."""
    x = reference.to_network(policy.observation, batch)
    outputs, sums = sequence(policy, batch)
    if not integer_only or policy.input is None:  # the export refuses the latter
        return batch, reference.act(policy.action, outputs)
    return reference.quantize_input(policy.input, x).astype(np.int32), sums.astype(np.int32)


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(len(array), -1)


def _version(tool: str) -> str:
    return _run([tool, "--version"], Path(), "does not tell its version").splitlines()[0]


def _run(command: list[str], folder: Path, failed: str) -> str:
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"Cannot run {command[0]}: {error}.") from error
    if result.returncode:
        lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        reasons = [line for line in lines if re.search("error|overflowed|KiB of RAM", line)] or lines
        raise ExportError(f"{command[0]} {failed}: {reasons[0] if reasons else f'exit code {result.returncode}'}.")
    return result.stdout
