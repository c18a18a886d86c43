"""Import circles between files of src/policypress: there is none, and this says so, or names the files of each.

    python checks/circles.py

Two kinds are told apart: circles of imports that run when a file is loaded, and those that are closed by an import
inside a function, which runs later. Imports for type checkers alone do not count. Exit code 1 if there is a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"


def modules(source: Path) -> dict[str, Path]:
    """Every file, extensions in C by their stubs, by its dotted name; a package by that of its folder."""
    found = {}
    for path in sorted([*source.rglob("*.py"), *source.rglob("*.pyi")]):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST, known: dict[str, Path], later: bool = False) -> Iterator[tuple[str, bool]]:
    """Modules of ``known`` that ``node`` imports, and whether inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imports(ast.Module([other], []), known, later)
            continue
        if isinstance(child, ast.Import):
            yield from ((name.name, later) for name in child.names if name.name in known)
        elif isinstance(child, ast.ImportFrom) and child.module is not None:
            for name in child.names:
                inner = f"{child.module}.{name.name}"
                if inner in known or child.module in known:
                    yield (inner if inner in known else child.module), later
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(child, known, later or inside)


def circles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """Sets of modules of which each imports each, by whatever way: the strongly connected parts (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            part = frozenset(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(part) > 1 or name in graph[name]:
                found.append(part)

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return found


def main(source: Path = SOURCE) -> int:
    known = modules(source)
    edges = {name: set(imports(ast.parse(path.read_text()), known)) for name, path in known.items()}
    loading = circles({name: {other for other, later in found if not later} for name, found in edges.items()})
    running = circles({name: {other for other, _ in found} for name, found in edges.items()})
    failed = 0
    for title, parts in (
        ("imported when loaded", loading),
        ("closed by an import inside a function", [part for part in running if part not in loading]),
    ):
        for part in parts:
            failed += 1
            print(f"A circle, {title}:")
            for name in sorted(part):
                others = sorted(
                    {f"{other}{' (inside a function)' * later}" for other, later in edges[name] if other in part}
                )
                print(f"  {name} imports {', '.join(others)}")
    print(f"{len(known)} files, {failed} circles.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
