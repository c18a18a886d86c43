"""What an integer-only export takes on an 8-bit AVR: bytes of flash and RAM, cycles an action, whether bits are right.

avr-gcc compiles it with firmware/avr.c, and simavr runs that; simavr knows how many cycles every instruction takes.
``docs/microcontrollers.md`` describes the method.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ExportError, UnsupportedError
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.export.compile import STRICT, facts_of
from policypress.measure.microcontroller import asked, expected_answers
from policypress.policy.policy import Policy

MCU, HZ = "atmega328p", 16_000_000
"""The controller of an Arduino Uno."""
COMPILER, SIZE, EMULATOR = "avr-gcc", "avr-size", "simavr"
PACKAGES = ("gcc-avr", "avr-libc", "simavr")
"""Debian packages that bring them."""

# c99 has no constants in flash; of those that are all 0 avr-gcc wrongly warns.
_FLAGS = ("-std=gnu99", "-Wno-error=uninitialized", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
_CODE_BYTES = 4096  # of observations in one firmware
_TICK = 64  # cycles
_SECONDS = 300


class WrongAnswer(ExportError):
    """A firmware that was built and does not do what it should."""


@dataclass(frozen=True)
class AvrReport:
    """An integer-only export on an AVR.

    ``observations`` were run; ``differing`` of the answers are not the reference's sums. ``flash`` and ``data``, static
    RAM: what the policy adds to the same firmware without it. ``stack``: its deepest; ``buffers``: the caller's codes
    and sums. ``cycles``: mean of an action.
    """

    mcu: str
    compiler: str
    emulator: str
    options: str
    observations: int
    differing: int
    flash: int
    data: int
    stack: int
    buffers: int
    cycles: float

    @property
    def ram(self) -> int:
        return self.data + self.stack + self.buffers

    @property
    def milliseconds(self) -> float:
        """Of an action at 16 MHz."""
        return 1e3 * self.cycles / HZ

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, ``ram`` in all and ``target`` included."""
        return {"target": "avr", **dataclasses.asdict(self), "ram": self.ram}


def missing_tools() -> tuple[str, ...]:
    """What is not installed of what ``measure_on_avr`` runs: programs, or "avr-libc"."""
    missing = tuple(tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None)
    if COMPILER in missing:
        return missing
    command = [COMPILER, f"-mmcu={MCU}", "-E", "-"]
    found = subprocess.run(command, input=b"#include <avr/io.h>", capture_output=True, check=False).returncode == 0
    return missing if found else (*missing, "avr-libc")


def require_tools() -> None:
    """Raise ExportError if a program is missing."""
    missing = missing_tools()
    if missing:
        raise ExportError(f"{' and '.join(missing)} not found: on Debian, apt-get install {' '.join(PACKAGES)}.")


def measure_on_avr(
    policy: Policy,
    observations: NDArray[Any] | None = None,
    *,
    mcu: str = MCU,
    weights: Weights = "auto",
    optimize: str = "-O2",
) -> AvrReport:
    """Run ``policy``, exported without floats, on the emulated ``mcu`` and measure what it takes.

    ``observations``: (n, *shape) raw ones, by default the policy's test vectors. ``weights``, ``optimize``: as
    ``measure_on_target`` has them. Raises ExportError if a tool is missing or the policy does not fit, WrongAnswer if
    its self test fails or it crashes, UnsupportedError for a policy that is not integer, or remembers.
    """
    require_tools()
    if policy.state_size:
        raise UnsupportedError("A policy that remembers is not measured on an AVR.")
    batch = asked(policy, observations)
    answers = expected_answers(policy, batch, integer_only=True)
    codes, sums = (array.reshape(len(batch), -1) for array in answers)
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        build, codes = _Build(Path(place), mcu, optimize), codes.astype(np.int32)
        config = CExportConfig("policy", integer_only=True, weights=weights, check=False)
        export_c(policy, build.policy, config)
        found, ticks, stack = build.answers(codes, sums.shape[1])
        last = _parts(codes)[-1]
        flash, data = build.program(last) - build.program(last, empty=True)
    return AvrReport(
        mcu=mcu,
        compiler=_run([COMPILER, "--version"], Path()).splitlines()[0],
        emulator=EMULATOR,
        options=f"-mmcu={mcu} {optimize}",
        observations=len(batch),
        differing=int((found != sums).any(axis=1).sum()),
        flash=int(flash),
        data=int(data),
        stack=stack,
        buffers=4 * (codes.shape[1] + sums.shape[1]),
        cycles=ticks * _TICK / len(batch),
    )


@dataclass(frozen=True)
class _Build:
    """Firmware with the export in ``place``/policy, for ``mcu``."""

    place: Path
    mcu: str
    optimize: str

    @property
    def policy(self) -> Path:
        return self.place / "policy"

    def answers(self, codes: NDArray[np.int32], outputs: int) -> tuple[NDArray[np.int32], int, int]:
        """The sums (n, ``outputs``) for ``codes`` (n, size), the ticks they took, and the deepest stack."""
        words, ticks, stack = "", 0, 0
        for i, part in enumerate(_parts(codes)):
            self.program(part, test=i == 0)
            printed = _run([EMULATOR, "-m", self.mcu, "-f", str(HZ), "firmware.elf"], self.place)
            if "self test" in printed:
                raise WrongAnswer(f"The self test fails on the {self.mcu}.")
            found = re.search(r"took ([0-9a-f]{8})([0-9a-f]{8})", printed)
            if found is None:
                raise WrongAnswer(f"The firmware crashes on the {self.mcu}.")
            words += "".join(re.findall(r"sum ([0-9a-f]{8})", printed))
            ticks += int(found[1], 16)
            stack = max(stack, int(found[2], 16))
        sums = np.frombuffer(bytes.fromhex(words), ">i4").reshape(-1, outputs)
        if len(sums) != len(codes):
            raise WrongAnswer(f"The firmware answered {len(sums)} of {len(codes)} observations.")
        return sums.astype(np.int32), ticks, stack

    def program(self, codes: NDArray[np.int32], *, test: bool = False, empty: bool = False) -> NDArray[np.int64]:
        """Compile firmware.elf for ``codes``, with the self test or without the policy; its flash and static RAM."""
        rows = ",\n".join("{" + ", ".join(map(str, row)) + "}" for row in codes.tolist())
        array = f"static const __flash int{_code_bits(codes)}_t all_codes[][{codes.shape[1]}] = {{\n{rows}}};\n"
        (self.place / "codes.h").write_text(f"#define COUNT {len(codes)}\n{array}", encoding="ascii")
        facts = facts_of(self.policy)
        sources = [] if empty else [*facts["sources"], *facts["tests"][: int(test)]]
        with resources.as_file(resources.files("policypress.measure") / "firmware") as firmware:
            command = [COMPILER, f"-mmcu={self.mcu}", self.optimize, *STRICT, *_FLAGS]
            command += [f"-DEMPTY={int(empty)}", f"-DSELF_TEST={int(test)}"]
            command += ["-I.", "-Ipolicy/include", *(f"policy/{source}" for source in sources)]
            _run([*command, str(firmware / "avr.c"), "-o", "firmware.elf"], self.place)
        listed = _run([SIZE, "-A", "firmware.elf"], self.place)
        size = {m[1]: int(m[2]) for m in re.finditer(r"^\.(\S+)\s+(\d+)", listed, re.M)}
        return np.array([size["text"] + size.get("data", 0), size.get("data", 0) + size.get("bss", 0)])


def _parts(codes: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """``codes`` (n, size) in parts that fit into a firmware."""
    rows = max(1, _CODE_BYTES // (codes.shape[1] * _code_bits(codes) // 8))
    return [codes[first : first + rows] for first in range(0, len(codes), rows)]


def _code_bits(codes: NDArray[np.int32]) -> int:
    largest = np.abs(codes).max()
    return 8 if largest < 128 else 16 if largest < 2**15 else 32


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"Cannot run {command[0]}: {error}.") from error
    printed = done.stdout + done.stderr  # simavr prints what the firmware sends to the latter
    if done.returncode:
        reasons = [line.strip() for line in printed.splitlines() if re.search("error|overflowed|not within", line)]
        raise ExportError(f"{command[0]}: {(reasons or [printed.strip()])[0]}.")
    return printed
