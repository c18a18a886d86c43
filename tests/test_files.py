"""Files that are there whole or not at all, and folders that one process holds."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from policypress.errors import RunError
from policypress.files import is_zipped, locked, new_folder, remove_partial, replace_file, write_whole


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with replace_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == tmp_path
    assert path.read_text() == "new"
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(TypeError), replace_file(path) as partial:
        partial.write_text(5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError), replace_file(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(OSError, match=r"a\.json"):
        write_whole(path / "b.json", "no folder")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "made" / "step") as partial:
        (partial / "a").touch()
        assert not (tmp_path / "made" / "step").exists()
    assert [path.name for path in (tmp_path / "made" / "step").iterdir()] == ["a"]
    with pytest.raises(TypeError), new_folder(tmp_path / "made" / "other") as partial:
        (partial / "a").write_text(5)  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["step"]
    (tmp_path / "made" / ".step.0f.tmp").mkdir()
    remove_partial(tmp_path / "made" / "step")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["step"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".a.json-17", ".a.json.0f.tmp", "a.json", ".b.json.0f.tmp"):
        (tmp_path / name).touch()
    remove_partial(tmp_path / "a.json", tmp_path / "c.json")
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", ".b.json.0f.tmp"}


def test_a_folder_that_one_process_holds(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "run"
    with locked(folder), pytest.raises(RunError, match="another process is training in"), locked(folder):
        pass
    assert not folder.exists(), "nothing was put there"
    with locked(folder):
        (folder / "result").touch()
    assert {file.name for file in folder.iterdir()} == {".lock", "result"}
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="nothing can be written to"), locked(tmp_path / "file" / "run"):
        pass


def test_it_needs_neither_torch_nor_gymnasium() -> None:
    code = "import sys, policypress.files; assert not {'torch', 'gymnasium', 'stable_baselines3'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_zip_that_says_it_lies_on_several_disks_is_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    whole = path.read_bytes()
    end = whole.rindex(b"PK\5\6")
    disks = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2)  # where a larger end is said to lie, on the second of them
    path.write_bytes(whole[:end] + disks + whole[end:])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(path)
    assert is_zipped(path)
    assert not is_zipped(Path(__file__))
