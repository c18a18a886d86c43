#!/usr/bin/env bash
# Builds the source archive and the wheel, then checks the wheel in a fresh environment without torch:
# first with NumPy alone, then with the dependencies of the command line.
# PYTHON: the interpreter that has `build` and makes the fresh environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

unset PYTHONPATH # or another policypress would be checked
PYTHON="${PYTHON:-.venv/bin/python}"
fail() {
    echo "The package check failed: $1" >&2
    exit 1
}

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

echo "Building the source archive and the wheel into dist/."
rm -rf dist
"$PYTHON" -m build --outdir dist >"$scratch/build.log" 2>&1 || {
    tail -n 30 "$scratch/build.log" >&2
    fail "python -m build did not finish; its last lines stand above."
}
wheel="$(ls "$PWD"/dist/*.whl)"

echo "Installing the wheel with NumPy alone into a fresh environment."
"$PYTHON" -m venv "$scratch/venv" || fail "no fresh virtual environment could be made."
python="$scratch/venv/bin/python"
pip=("$python" -m pip install --quiet --disable-pip-version-check -c "$PWD/constraints.txt")
"${pip[@]}" --no-deps numpy "$wheel" || fail "the wheel or NumPy did not install."
policy="$PWD/results/HalfCheetah-v5/cheetah-98/policy.policy"
cd "$scratch" # away from src/, so that the wheel is what gets imported
"$python" - "$policy" <<'CHECK' || fail "the installed package does not import with NumPy alone, or is incomplete."
import sys
from importlib.metadata import version
from pathlib import Path

import policypress

folder = Path(policypress.__file__).parent
assert folder.is_relative_to(sys.prefix), f"imported from {folder}, not from the wheel"
assert (folder / "py.typed").is_file(), "py.typed is not in the wheel"
heavy = {"torch", "stable_baselines3", "gymnasium", "rich", "typer"} & set(sys.modules)
assert not heavy, f"import policypress loads {sorted(heavy)}"
policy = policypress.load(sys.argv[1])  # decoded by the extension
vectors = policy.test_vectors
assert (policy.predict(vectors.observations)[0] == vectors.actions).all(), "the policy answers otherwise than it did"
heavy = {"torch", "stable_baselines3", "gymnasium", "rich", "typer"} & set(sys.modules)
assert not heavy, f"running a policy loads {sorted(heavy)}"
print(f"policypress loads and runs a policy with NumPy alone (version {version('policypress')}).")
CHECK

echo "Installing the dependencies of the command line, where no compiler is on the path."
PATH="$scratch/venv/bin" "${pip[@]}" "$wheel" || fail "the dependencies did not install."
"$python" -c 'import torch' 2>/dev/null && fail "torch came along; the core must not depend on it."
"$scratch/venv/bin/policypress" --help >/dev/null || fail "policypress --help does not run without torch."
"$scratch/venv/bin/policypress" info "$policy" >/dev/null || fail "policypress info does not run without torch."
"$scratch/venv/bin/policypress" export "$policy" --to c --out "$scratch/exported" >/dev/null ||
    fail "policypress export --to c does not run without torch."
{ "$scratch/venv/bin/policypress" evaluate "$policy" 2>&1 || true; } | grep -qF "pip install '$wheel[gym]'" ||
    fail "policypress evaluate does not say how to install Gymnasium from this wheel."

echo "Installing the extra gym."
PATH="$scratch/venv/bin" "${pip[@]}" "$wheel[gym]" || fail "the extra gym did not install."
"$scratch/venv/bin/policypress" evaluate "$policy" --episodes 2 >/dev/null ||
    fail "policypress evaluate does not run without torch."
"$python" -c 'import torch' 2>/dev/null && fail "torch came along with the extra gym."
echo "The package is good: $(cd "$OLDPWD" && echo dist/*)"
