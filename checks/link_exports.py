"""Pairs of exported policies in one program, their files, headers and flags mixed: every answer right, or no program.

    python checks/link_exports.py [--pairs 200] [--start 0]

Two random policies of policypress.testing are exported in random forms, every fourth pair under one name,
and put into one program in these ways, each linked in both orders:

- libraries: each export's own `make lib`; the program includes both headers, in one file or in two
- headers: sources apart from their headers, those of the other export first on the include path
- flags: each compiled with the -DENGINE_USE_... that suit the other
- one folder: the files of one copied over those of the other, every .c of the folder compiled

A program that exists must answer as both references do, bit for bit. Exit code 1 if one does not, or crashes.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import UnsupportedError
from policypress.export.c import WEIGHTS, CExportConfig, export_c
from policypress.measure.microcontroller import expected_answers
from policypress.policy import reference
from policypress.testing import accepted, observations, random_policy

OBSERVATIONS = 8
CFLAGS = ("-std=c99", "-O0", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections")
ANSWER = """
#include <stdio.h>
HEADER
int answer_NUMBER(FILE *in, FILE *out);
int answer_NUMBER(FILE *in, FILE *out) {
    static ASKED asked[VALUES];
    static GIVEN given[GIVES];
    INIT
    while (fread(asked, sizeof asked, 1, in) == 1) {
        CALL
        if (fwrite(given, sizeof given, 1, out) != 1)
            return 3;
    }
    return 0;
}
"""
MAIN = """
#include <stdio.h>
int answer_0(FILE *in, FILE *out);
int answer_1(FILE *in, FILE *out);
int main(void) {
    FILE *in[2] = {fopen("asked0", "rb"), fopen("asked1", "rb")};
    FILE *out[2] = {fopen("given0", "wb"), fopen("given1", "wb")};
    const int status = answer_0(in[0], out[0]) | answer_1(in[1], out[1]) << 4;
    return fclose(out[0]) | fclose(out[1]) | status;
}
"""


class Refused(Exception):
    """There is no program: the compiler or the linker says why."""


class Export(NamedTuple):
    folder: Path
    name: str
    sources: list[str]
    flags: list[str]  # that once told the engine what it needs
    asked: NDArray[Any]
    wanted: NDArray[Any]
    answer: str  # C, without its #include


def run(*command: str | Path, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)


def exported(seed: int, folder: Path, name: str, number: int) -> Export | None:
    """A random policy as C in ``folder``/NAME; None if it accepts too few observations."""
    policy = random_policy(seed)
    asked = accepted(policy, observations(policy, OBSERVATIONS, seed))
    if len(asked) < 2:
        return None
    weights = WEIGHTS[seed % len(WEIGHTS)] if policy.input is not None else "auto"
    integer = policy.input is not None and seed % 3 == 0
    place = folder / name
    try:
        report = export_c(policy, place, CExportConfig(name, integer, weights, vectors=2, check=False))
    except UnsupportedError:
        return None
    facts = json.loads((place / "export.json").read_text())
    asked, wanted = expected_answers(policy, reference.arrange(policy.observation, asked), integer)
    texts = {
        "NUMBER": str(number),
        "ASKED": "int32_t" if integer else f"{name}_observation",
        "VALUES": str(asked[0].size),
        "GIVEN": "int32_t" if integer else f"{name}_action",
        "GIVES": str(wanted[0].size),
        "INIT": f"if ({name}_init()) return 1;" if facts["init"] else "",
        "CALL": f"{name}_run(asked, given);" if integer else f"if ({name}_predict(asked, given)) return 2;",
    }
    text = ANSWER
    for word, replacement in texts.items():
        text = text.replace(word, replacement)
    flags = [f"-D{macro}=0" for macro in report.left_out]
    return Export(place, name, facts["sources"], flags, asked, wanted, text)


def objects(sources: Sequence[Path], to: Path, *options: str | Path) -> list[Path]:
    to.mkdir(parents=True)
    found = []
    for source in sources:
        found.append(to / f"{source.stem}.o")
        run("cc", *CFLAGS, *options, "-c", source, "-o", found[-1], folder=to)
    return found


def callers(pair: Sequence[Export], to: Path, together: bool) -> list[Path]:
    """main.o and what calls the two exports, which lie in folders of their own."""
    to.mkdir()
    headers = [f'#include "{export.folder}/include/{export.name}.h"' for export in pair]
    texts = [export.answer.replace("HEADER", header) for export, header in zip(pair, headers, strict=True)]
    if together:
        texts = ["\n".join([*reversed(headers), *(export.answer.replace("HEADER", "") for export in pair)])]
    for i, text in enumerate([*texts, MAIN]):
        (to / f"caller{i}.c").write_text(text)
    return objects(sorted(to.glob("*.c")), to / "objects")


def libraries(pair: Sequence[Export], place: Path) -> Iterator[list[list[Path]]]:
    found = []
    for export in pair:
        run("make", "-s", "lib", "CFLAGS=-O0", folder=export.folder)
        found.append([export.folder / "build" / f"lib{export.name}.a"])
    yield found


def headers(pair: Sequence[Export], place: Path) -> Iterator[list[list[Path]]]:
    includes = [("-I", export.folder / "include") for export in pair]
    for order in ((0, 1), (1, 0)):
        found = []
        for i, export in enumerate(pair):
            sources = place / f"headers{order[0]}{i}"
            sources.mkdir()
            own = [Path(shutil.copy(export.folder / file, sources)) for file in export.sources]
            both = [option for k in order for option in includes[k]]
            found.append(objects(own, sources / "objects", *both))
        yield found


def flags(pair: Sequence[Export], place: Path) -> Iterator[list[list[Path]]]:
    yield [
        objects([export.folder / file for file in export.sources], place / f"flags{i}", *pair[1 - i].flags)
        for i, export in enumerate(pair)
    ]


def one_folder(pair: Sequence[Export], place: Path) -> Iterator[list[list[Path]]]:
    for order in ((0, 1), (1, 0)):
        folder = place / f"one{order[0]}"
        for i in order:
            shutil.copytree(pair[i].folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("build"))
        yield [objects(sorted(folder.glob("src/*.c")), folder / "objects"), []]


WAYS = {"libraries": libraries, "headers": headers, "flags": flags, "one folder": one_folder}


def answers(pair: Sequence[Export], program: Path) -> bool:
    """Whether both policies answer right."""
    for i, export in enumerate(pair):
        (program.parent / f"asked{i}").write_bytes(np.ascontiguousarray(export.asked).tobytes())
    done = subprocess.run([program], cwd=program.parent, capture_output=True, check=False)
    given = [(program.parent / f"given{i}").read_bytes() for i in range(2)]
    return done.returncode == 0 and given == [export.wanted.tobytes() for export in pair]


def tried(pair: Sequence[Export], way: str, called: list[Path] | None, place: Path) -> list[str]:
    """What became of each program: right, refused, WRONG."""
    found = []
    builds = WAYS[way](pair, place)
    while True:
        try:
            parts = next(builds)
        except StopIteration:
            return found
        except Refused:
            return [*found, "refused", "refused"]
        for order in ((0, 1), (1, 0)):
            program = place / "program"
            try:
                if called is None:
                    raise Refused
                run("cc", *called, *(part for i in order for part in parts[i]), "-o", program, folder=place)
            except Refused:
                found.append("refused")
                continue
            found.append("right" if answers(pair, program) else "WRONG")


def pairs(start: int) -> Iterator[tuple[int, int, str, str]]:
    for k in itertools.count(start):
        yield 2 * k, 2 * k + 1, "net", "net" if k % 4 == 0 else "other"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--start", type=int, default=0, help="number of the first pair")
    arguments = parser.parse_args()
    counts = {way: {same: collections.Counter() for same in (False, True)} for way in WAYS}
    done = 0
    for first, second, name, other in pairs(arguments.start):
        if done == arguments.pairs:
            break
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            pair = [exported(first, place / "0", name, 0), exported(second, place / "1", other, 1)]
            if None in pair:
                continue
            done += 1
            try:
                called = callers(pair, place / "callers", together=done % 2 == 0)
            except Refused:
                called = None
            for way in WAYS:
                found = tried(pair, way, called, place)
                counts[way][name == other].update(found)
                if "WRONG" in found:
                    print(f"policies {first} and {second}, {way}: wrong", flush=True)
    print(f"{done} pairs of random policies\n\n| way | names | right | refused | wrong |\n|---|---|---:|---:|---:|")
    for way, by_name in counts.items():
        for same, found in by_name.items():
            print(
                f"| {way} | {'the same' if same else 'two'} |"
                f" {found['right']} | {found['refused']} | {found['WRONG']} |"
            )
    return int(any(found["WRONG"] for by_name in counts.values() for found in by_name.values()))


if __name__ == "__main__":
    sys.exit(main())
