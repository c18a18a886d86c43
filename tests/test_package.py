"""What a wheel of the package holds."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
BUILT = {"policypress/compression/_kernels.c"}
"""What is compiled, and read by nobody."""


def test_files_that_are_no_python_are_named_as_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    data = project["tool"]["setuptools"]["package-data"]
    files = [file.relative_to(SOURCE) for file in (SOURCE / "policypress").rglob("*") if file.is_file()]
    others = [file for file in files if file.suffix not in (".py", ".pyc", ".so") and file.as_posix() not in BUILT]
    assert len(others) > 20
    for file in others:
        packages = [folder for folder in file.parents if (SOURCE / folder / "__init__.py").exists()]
        inside = file.relative_to(packages[0]).as_posix()
        globs = [*data["*"], *data.get(".".join(packages[0].parts), ())]
        assert any(fnmatch(inside, glob) for glob in globs), f"{file} would not be in a wheel"
