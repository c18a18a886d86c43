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
from policypress.extras import EXTRAS, install
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Layer
from policypress.testing import make_policy

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
    from policypress.rl.freeze import freeze

    assert policypress.freeze is freeze
    done = python(
        "import sys, policypress; assert 'torch' not in sys.modules; policypress.freeze; print('torch' in sys.modules)"
    )
    assert done.stdout == "True\n", done.stderr


def test_compress_is_there_when_it_is_needed() -> None:
    from policypress.rl.compress import compress

    assert policypress.compress is compress
    code = "import sys, policypress; policypress.DistillConfig(); policypress.PressConfig('sac', 'x', 'y'); "
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


def without(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where the extras are not installed."""
    return python(WITHOUT + "from policypress.cli import main; main()", *arguments)


@pytest.mark.parametrize("arguments", [("train", "--algo", "sac", "--env", "x", "--out", "y"), ("evaluate", "FILE")])
def test_training_without_its_libraries_says_what_to_install(arguments: tuple[str, ...], policy_file: Path) -> None:
    done = without(*(str(policy_file) if word == "FILE" else word for word in arguments))
    assert done.returncode == 2
    assert install("train" if arguments[0] == "train" else "gym") in done.stderr
    assert "Traceback" not in done.stderr


def test_export_to_c_and_bench_work_where_nothing_is_trained(policy_file: Path, tmp_path: Path) -> None:
    done = without("export", str(policy_file), "--to", "c", "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    done = without("bench", str(policy_file), "--seconds", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["policy"]["latency"] > 0
    assert rows["torch"]["reason"] == "torch is not installed"
    assert rows["sb3"]["reason"].endswith("is not installed")


def test_evaluate_needs_gymnasium_alone(tmp_path: Path) -> None:
    layer = Layer(np.ones((2, 4), np.float32), np.zeros(2, np.float32), 32, np.ones(1, np.float32), False)
    transforms = ObservationTransform((4,), "float32"), ActionTransform("discrete", dtype="int64")
    policypress.Policy((layer,), *transforms, None, 40).save(tmp_path / "a.policy")
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'stable_baselines3', 'sb3_contrib')))\n"
    code = blocked + "from policypress.cli import main; main()"
    arguments = ("evaluate", str(tmp_path / "a.policy"), "--env", "CartPole-v1", "--episodes", "3", "--json")
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["episodes"] == 3
    code = (
        blocked + "import policypress as pp; print(pp.evaluate(pp.load(sys.argv[1]), 'CartPole-v1', episodes=3).mean)"
    )
    done = python(code, str(tmp_path / "a.policy"))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 5


COMPLETE = (
    "import rlcompleter, policypress; complete = rlcompleter.Completer({'policypress': policypress}).complete\n"
    "found = iter(lambda state=iter(range(999)): complete('policypress.', next(state)), None)\n"
    "print(json.dumps([name.removeprefix('policypress.').rstrip('()') for name in found]))\n"
)
"""What the Tab key shows behind "policypress." in a fresh Python."""


def test_completion_shows_every_public_name_before_its_first_use() -> None:
    assert set(policypress.__all__) < set(dir(policypress))
    done = python("import json; " + COMPLETE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sorted(policypress.__all__)


def test_completion_shows_what_can_be_used_where_nothing_is_trained() -> None:
    done = python("import json\n" + WITHOUT + COMPLETE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sorted(
        {*policypress.__all__} - {"compress", "evaluate", "freeze", "train", "watch"}
    )


def test_export_is_a_function_and_a_package(policy_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys, policypress as pp\n"
        "report = pp.export(pp.load(sys.argv[1]), sys.argv[2], 'c', name='a')\n"
        "import policypress.export.verify as verify\n"
        "from policypress.export import FORMATS, export\n"
        "assert pp.export.export is export and pp.export.verify is verify and callable(verify.verify)\n"
        "print(sorted(report.as_dict())[0] != '')\n"
    )
    done = python(code, str(policy_file), str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "src" / "a.c").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("freeze", "torch", "train"), ("compress", "torch", "train"), ("train", "torch", "train"),
     ("evaluate", "gymnasium", "gym"), ("watch", "gymnasium", "watch")],
)  # fmt: skip
def test_a_name_whose_library_is_missing_says_what_to_install(name: str, module: str, extra: str) -> None:
    done = python(WITHOUT + f"import policypress as pp; pp.{name}")
    assert done.returncode == 1
    sentence = f"ModuleNotFoundError: policypress.{name}: this needs {module}, which is not installed: {install(extra)}"
    assert sentence in done.stderr


def test_extras_are_those_of_the_package() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    declared = project.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    brought = {
        "cv2": "opencv-python-headless", "PIL": "pillow", "imageio_ffmpeg": "imageio[ffmpeg]",
        "pygame": "classic-control",
    }  # fmt: skip
    for extra, modules in EXTRAS.items():
        listed = declared.partition(f"\n{extra} = [")[2].partition("\n]")[0]
        for module in modules:
            name = brought.get(module, module.replace("_", "-"))
            assert name in listed, (extra, module)


def test_extras_come_from_where_the_package_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = Path(policypress.__file__).parents[2]
    monkeypatch.chdir(tmp_path)
    assert install("train") == f"pip install '{clone}[train]'"
    monkeypatch.chdir(clone)
    assert install("train") == "pip install '.[train]'"

    wheel = tmp_path / "a b.whl"
    wheel.touch()
    origin: list[str | None] = [json.dumps({"url": wheel.as_uri()}), json.dumps({"url": "file:///gone.whl"}), None]
    monkeypatch.setattr("policypress.extras.__file__", str(tmp_path / "site" / "policypress" / "extras.py"))

    class Distribution:
        def read_text(self, _: str) -> str | None:
            return origin.pop(0)

    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Distribution())
    assert install("gym") == f"pip install '{wheel}[gym]'"
    assert install("gym") == install("gym") == "pip install 'policypress[gym]'"
