"""checks/circles.py finds circles of both kinds, and none where there is none."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "checks" / "circles.py"


@pytest.fixture(scope="module")
def circles():
    spec = importlib.util.spec_from_file_location("circles", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(folder: Path, **texts: str) -> Path:
    (folder / "house").mkdir()
    for name, text in {"__init__": "", **texts}.items():
        (folder / "house" / f"{name}.py").write_text(text)
    return folder


def test_a_circle_of_imports_is_named(circles, tmp_path, capsys):
    source = package(
        tmp_path, a="from house import b\n", b="import house.c\n", c="from house.a import x\n", d="import house.a"
    )
    assert circles.main(source) == 1
    found = capsys.readouterr().out
    assert "A circle, imported when loaded:" in found
    assert "house.c imports house.a\n" in found
    assert "house.d" not in found


def test_a_circle_that_a_function_closes_is_told_apart(circles, tmp_path, capsys):
    source = package(tmp_path, a="from house import b\n", b="def f():\n    from house.a import x\n")
    assert circles.main(source) == 1
    found = capsys.readouterr().out
    assert "A circle, closed by an import inside a function:" in found
    assert "house.b imports house.a (inside a function)\n" in found
    assert "imported when loaded" not in found


def test_imports_for_type_checkers_do_not_count(circles, tmp_path):
    texts = {"a": "from house import b\n", "b": "if TYPE_CHECKING:\n    from house.a import x\nelse:\n    x = None\n"}
    assert circles.main(package(tmp_path, **texts)) == 0
