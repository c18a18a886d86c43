"""`policypress`, in a process that ends with the one that started it, so that nothing of a driver that was killed goes
on beside the next one. Where the system has no such tie (other than Linux) the folder's lock keeps them apart.

    python -m policypress.studies.tied PARENT CORES ARGUMENTS...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """PARENT: process id of who started this; CORES: with commas, or - for any."""
    parent, cores, *arguments = sys.argv[1:]
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the tie held
        sys.exit(1)
    if cores != "-" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    sys.argv = ["policypress", *arguments]
    runpy.run_module("policypress", run_name="__main__")


if __name__ == "__main__":
    main()
