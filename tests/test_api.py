"""The public names, and that running a policy needs no training library."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import policypress
from policy.policies import make_policy

BLOCKED = ("torch", "stable_baselines3", "gymnasium", "matplotlib", "tensorboard", "ale_py", "mujoco", "cv2")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
"""As if the extra ``policypress[train]`` were not installed."""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_importing_loads_numpy_and_nothing_heavy() -> None:
    done = python("import sys, json, policypress; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))")
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "numpy" in loaded
    assert not loaded & {*BLOCKED, "rich", "typer", "pandas", "scipy"}


def test_every_public_name_exists() -> None:
    assert len(set(policypress.__all__)) == len(policypress.__all__)
    for name in policypress.__all__:
        assert getattr(policypress, name) is not None, name
    scope: dict[str, object] = {}
    exec("from policypress import *", scope)
    assert set(policypress.__all__) <= scope.keys()


@pytest.mark.parametrize(
    "module", ["policypress.rl", "policypress.compression", "policypress.policy", "policypress.measure"]
)
def test_every_public_name_of_the_parts_exists(module: str) -> None:
    loaded = __import__(module, fromlist=["_"])
    for name in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, name), name


def test_freeze_is_there_when_it_is_needed() -> None:
    from policypress.policy.freeze import freeze

    assert policypress.freeze is freeze
    done = python(
        "import sys, policypress; assert 'torch' not in sys.modules; policypress.freeze; print('torch' in sys.modules)"
    )
    assert done.stdout == "True\n", done.stderr


def test_compress_is_there_when_it_is_needed() -> None:
    from policypress.rl.compress import compress

    assert policypress.compress is compress
    code = "import sys, policypress; policypress.DistillConfig(); policypress.CompressConfig('sac', 'x', 'y'); "
    done = python(code + "print('torch' in sys.modules); policypress.compress; print('torch' in sys.modules)")
    assert done.stdout == "False\nTrue\n", done.stderr


@pytest.mark.slow
def test_the_example_of_plain_pytorch_keeps_the_return(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "examples" / "distill_plain_pytorch.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"return (\S+), the agent's own (\S+)\n(\d+) bytes, the agent's own (\d+)\n", done.stdout)
    assert found, done.stdout
    ours, theirs, small, large = map(float, found.groups())
    assert theirs > 85
    assert ours > 0.92 * theirs
    assert large > 50 * small
    assert policypress.size(policypress.load(tmp_path / "mountain_car.policy")).payload_bytes == small


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'squeeze'"):
        _ = policypress.squeeze  # type: ignore[attr-defined]


def test_errors_share_one_base() -> None:
    for name in ("ArtifactError", "ConfigError", "ExportError", "ObservationError", "RunError", "UnsupportedError"):
        assert issubclass(getattr(policypress, name), policypress.PolicypressError)


def test_version_and_types_are_those_of_the_package() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{policypress.__version__}"\n' in project
    assert (Path(policypress.__file__).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policies") / "a.policy"
    make_policy("integer", "vector").save(path)
    return path


def test_a_policy_runs_where_nothing_is_trained(policy_file: Path) -> None:
    code = WITHOUT + (
        "import json, numpy as np, policypress as pp\n"
        "policy = pp.load(sys.argv[1])\n"
        "observation = np.linspace(-1, 1, policy.observation.shape[0]).astype(policy.observation.dtype)\n"
        "action, state = policy.predict(observation)\n"
        "print(json.dumps([action.tolist(), state, pp.size(policy).payload_bytes]))\n"
    )
    done = python(code, str(policy_file))
    assert done.returncode == 0, done.stderr
    action, state, payload_bytes = json.loads(done.stdout)
    policy = policypress.load(policy_file)
    observation = np.linspace(-1, 1, policy.observation.shape[0]).astype(policy.observation.dtype)
    np.testing.assert_array_equal(action, policy.predict(observation)[0])
    assert state is None
    assert payload_bytes == policypress.size(policy).payload_bytes


def test_info_works_where_nothing_is_trained(policy_file: Path) -> None:
    code = WITHOUT + "from policypress.cli import main; main()"
    done = python(code, "info", str(policy_file), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["numerics"] == "integer"


@pytest.mark.parametrize("arguments", [("train", "--algo", "sac", "--env", "x", "--out", "y"), ("evaluate", "FILE")])
def test_training_without_its_libraries_says_what_to_install(arguments: tuple[str, ...], policy_file: Path) -> None:
    code = WITHOUT + "from policypress.cli import main; main()"
    done = python(code, *(str(policy_file) if word == "FILE" else word for word in arguments))
    assert done.returncode == 2
    assert "pip install 'policypress[train]'" in done.stderr
    assert "Traceback" not in done.stderr
