"""The machine and the versions that a measurement is of."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("policypress", "numpy", "torch", "onnxruntime", "stable-baselines3", "ai-edge-litert")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp")
"""What the kernels of engines are written for."""


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model and vector instructions of the CPU, cores that this process may use, and versions, as JSON values."""
    described: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            described.setdefault(key.strip().lower(), value.strip())
    except OSError:  # not Linux
        pass
    flags = (described.get("flags") or described.get("features") or "").split()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": described.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": usable_cores(),
        "versions": versions,
    }


def usable_cores() -> int:
    """Cores that this process may use: a container or ``taskset`` often leaves it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch, where it is installed, on so many threads."""
    try:
        import torch
    except ModuleNotFoundError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lines(found: dict[str, Any]) -> list[str]:
    """``machine()`` in words, two lines."""
    cores = f"{found['cores']} core{'s' if found['cores'] != 1 else ''} usable"
    return [
        ", ".join([found["cpu"], *found["flags"], cores]),
        ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    ]
