"""The C extensions; everything else about the package stands in pyproject.toml."""

import hashlib
from pathlib import Path

import numpy
from setuptools import Extension, setup

RUNTIME = "src/policypress/runtime"
ENGINE = ("engine", "engine_native", "engine_avx2", "engine_avx512", "engine_module")
# Results must depend neither on the compiler (fused multiply-add) nor on how fast it makes them (vectors).
EXACT = ["-ffp-contract=off", "-fno-trapping-math"]

# The structures that Python fills, which runtime/native.py compares: an engine of others would read wrong memory.
INTERFACE = hashlib.sha256(Path(RUNTIME, "engine.h").read_bytes()).hexdigest()

# One binary of each for Python 3.10 and later: the sources keep to the limited API.
setup(
    ext_modules=[
        Extension(
            "policypress.runtime.coder",
            [f"{RUNTIME}/coder.c", f"{RUNTIME}/coder_module.c"],
            depends=[f"{RUNTIME}/coder.h"],
            py_limited_api=True,
        ),
        Extension(
            "policypress.runtime.engine",
            [f"{RUNTIME}/{name}.c" for name in ENGINE],
            depends=[
                f"{RUNTIME}/engine{name}.h" for name in ("", "_arm", "_call", "_dsp", "_native", "_kernels", "_vector")
            ],
            define_macros=[("ENGINE_INTERFACE", f'"{INTERFACE}"')],
            include_dirs=[numpy.get_include()],
            # Aligned, else speed hangs on the code before.
            extra_compile_args=["-O3", "-falign-functions=32", "-falign-loops=32", *EXACT],
            py_limited_api=True,
        ),
        Extension(
            "policypress.compression._kernels",
            ["src/policypress/compression/_kernels.c"],
            extra_compile_args=EXACT,
            py_limited_api=True,
        ),
    ],
)
