"""Every block of code in README.md and docs/ runs as it stands, or says in a comment above it why it does not.

A comment ``<!-- test: ... -->`` in front of a block says how it is tested; its parts stand between semicolons:

- ``not run, REASON``: it is not run.
- ``replace A with B``: the text that makes it quick.
- ``slow``: left to `make test-slow`.
- ``needs=NAME``: skipped without this program or module.
- ``agent=ppo-CartPole``: an agent in AGENT.zip, and as ``model``.
- ``file=NAME``: results/HalfCheetah-v5/cheetah-98's policy under this name, and as ``policy``.
- ``observation=N``: ``observation``, zeros of this size.
- ``after``: in the folder that the block before it left, with which it is one test.

Fenced blocks without a language, and indented ones that begin with no command, are text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("policypress", "python", "pip", "make", "source", "taskset", "git", "cd", "apt-get")
FLAGS, VALUES = ("slow", "after"), ("needs", "agent", "file", "observation")
AGENTS = {
    "ppo-CartPole": "from stable_baselines3 import PPO\n"
    "model = PPO('MlpPolicy', 'CartPole-v1', n_steps=64, batch_size=64, seed=1).learn(2_048)\n"
}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def parts(self) -> list[str]:
        return [part.strip() for part in self.marker.split(";") if part.strip()]

    def values(self, name: str) -> list[str]:
        return [part.partition("=")[2] for part in self.parts if part.startswith(f"{name}=")]

    @property
    def unknown(self) -> list[str]:
        """Parts of the marker that mean nothing, or whose text is not in the block."""
        wrong = [f"{self}: agent={name} is unknown" for name in self.values("agent") if name not in AGENTS]
        for part in self.parts:
            if part.startswith("replace "):
                old, found, _ = part.removeprefix("replace ").partition(" with ")
                if not found or old not in self.text:
                    wrong.append(f"{self}: {old!r} is not in the block")
            elif not (part in FLAGS or part.partition("=")[0] in VALUES or re.match("not run, .{10}", part)):
                wrong.append(f"{self}: {part!r} is no part of a marker")
        return wrong

    @property
    def runs(self) -> bool:
        return not self.marker.startswith("not run, ")

    @property
    def shrunk(self) -> str:
        text = self.text
        for part in self.parts:
            if part.startswith("replace "):
                old, _, new = part.removeprefix("replace ").partition(" with ")
                text = text.replace(old, new)
        return text


def blocks_of(name: str, text: str) -> list[Block]:
    """Blocks of code of a page, in order."""
    found: list[Block] = []
    lines, marker, number = text.splitlines(), "", 0
    while number < len(lines):
        line = lines[number]
        if comment := re.fullmatch(r"<!-- test: (.*) -->", line):
            marker = comment[1]
        elif fence := re.match(r"```(\w*)", line):
            end = lines.index("```", number + 1)
            if fence[1] or marker:
                found.append(Block(name, number + 1, fence[1], "\n".join(lines[number + 1 : end]), marker))
            number, marker = end, ""
        elif line.startswith("    ") and (number == 0 or not lines[number - 1]):
            end = number
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            block = "\n".join(part[4:] for part in lines[number:end])
            first = next(word for word in block.split() if not re.match(r"[A-Z_]+=", word))
            if first in COMMANDS or marker:
                found.append(Block(name, number + 1, "bash", block, marker))
            number, marker = end - 1, ""
        elif line:
            marker = ""
        number += 1
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text())]


def test_every_marker_means_something() -> None:
    assert [wrong for block in BLOCKS for wrong in block.unknown] == []
    assert [str(block) for block in BLOCKS if block.runs and block.language not in ("python", "bash")] == []


def test_blocks_are_found_with_their_markers() -> None:
    text = "<!-- test: slow; replace 9 with 1 -->\n```python\nx = 9\n```\n\n    make x\n    make y\n\n"
    text += "    a = b\n\n```\nz\n```\n"
    first, second = blocks_of("a.md", text)
    assert (first.language, first.shrunk, first.unknown, first.line) == ("python", "x = 1", [], 2)
    assert (second.language, second.text, second.marker) == ("bash", "make x\nmake y", "")
    for marker in ("quick", "replace 8 with 1", "agent=none", "not run", "replace 9"):
        (block,) = blocks_of("a.md", f"<!-- test: {marker} -->\n```python\nx = 9\n```\n")
        assert len(block.unknown) == 1, marker
    (orphan,) = blocks_of("a.md", "<!-- test: slow -->\nwords\n```c\nint x;\n```\n")
    assert orphan.marker == ""


def test_blocks_that_go_on_are_one_test() -> None:
    named = [("a", ""), ("b", "after"), ("c", "after; slow"), ("d", "after"), ("e", "slow"), ("f", "after"), ("g", "")]
    blocks = [Block("p", 1, "bash", text, marker) for text, marker in [*named, ("h", "not run, for a reason")]]
    assert ["".join(one.text for one in chain) for chain in chains(blocks)] == ["abd", "abc", "ef", "g"]


def test_the_readme_fits_120_columns() -> None:
    wide = [line for line in (ROOT / "README.md").read_text().splitlines() if len(line) > 120]
    assert [line for line in wide if not line.startswith(("|", "<!-- test: "))] == []


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def place(block: Block, folder: Path) -> str:
    """Puts what ``block`` needs into ``folder``; returns what a Python block is to begin with."""
    for name in ("results", "examples", "benchmarks", "checks", "studies"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "docs").mkdir(exist_ok=True)
    start = ""
    for name in block.values("agent"):
        start += AGENTS[name]
        if block.language == "bash":
            code = AGENTS[name] + "model.save('AGENT.zip')"
            subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=200, capture_output=True)
    for name in block.values("file"):
        shutil.copy(ROOT / "results" / "HalfCheetah-v5" / "cheetah-98" / "policy.policy", folder / name)
        start += f"import policypress\npolicy = policypress.load({name!r})\n"
    for size in block.values("observation"):
        start += f"import numpy\nobservation = numpy.zeros({size})\nobservations = numpy.zeros((4, {size}))\n"
    return start


def environment(folder: Path) -> dict[str, str]:
    """With `python` and `policypress` of this interpreter in front."""
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    for name, call in (("python", ""), ("policypress", " -m policypress")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}


def chains(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks that run, each with those that go on in its folder; a slow one that goes on is a chain of its own."""
    found: list[list[Block]] = []
    begun: list[Block] = []
    for block in blocks:
        if not block.runs or block.unknown:
            continue
        if "after" not in block.parts:
            found.append(begun := [block])
        elif "slow" in block.parts and "slow" not in begun[0].parts:
            found.append([*begun, block])
        else:
            begun.append(block)
    return found


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(
            chain, id=str(chain[-1]), marks=[pytest.mark.slow] if any("slow" in one.parts for one in chain) else []
        )
        for chain in chains(BLOCKS)
    ],
)
def test_blocks_run(chain: list[Block], tmp_path: Path) -> None:
    for block in chain:
        missing = [n for n in block.values("needs") if shutil.which(n) is None and ("-" in n or find_spec(n) is None)]
        if missing:
            pytest.skip(f"{block} needs {missing[0]}, which is not installed")
        run(block, tmp_path)


def run(block: Block, folder: Path) -> None:
    start = place(block, folder)
    if block.language == "python":
        command = [sys.executable, "-c", start + block.shrunk]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.shrunk]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    said = f"{block} ended with code {done.returncode}:\n{block.shrunk}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, said
