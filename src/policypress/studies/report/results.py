"""What a study gave, as its report asks for it: tasks, their cells under short names, and files beside the database."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policypress.errors import RunError
from policypress.studies.cells import DIGESTS, LATENCY, MOMENTS, ROBUSTNESS, SEED
from policypress.studies.report.document import Series, placed
from policypress.studies.report.paper import PaperPoint, points_of
from policypress.studies.statistics import CellFigures, MethodFigures, cell_figures, method_figures
from policypress.studies.store import EPISODES, Run, Store

_DISTURBED = "robustness.json"
"""The file of ``evaluate --robustness --out``."""
FLOAT = 32
_FIRST = ("method", "hidden", "sparsity", "weight_bits")


@dataclass(frozen=True)
class Named:
    """A cell, and what it is called: ``name`` of its method, ``family`` of that without its sparsity."""

    figures: CellFigures
    name: str
    family: str
    runs: tuple[Run, ...]

    @property
    def sparsity(self) -> float:
        return float(self.figures.method["sparsity"])

    @property
    def weight_bits(self) -> int:
        return int(self.figures.method["weight_bits"])

    @property
    def pruned(self) -> bool:
        return self.sparsity > 0 or is_priced(self.figures.method)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.runs[0].cell.settings


@dataclass(frozen=True)
class Task:
    """``paper``: the points of the same task that others published."""

    title: str
    cells: tuple[Named, ...]
    paper: tuple[PaperPoint, ...]

    @property
    def baseline(self) -> Named | None:
        return next((cell for cell in self.cells if cell.figures.baseline), None)

    def series(self, cells: Iterable[Named]) -> list[Series]:
        """``cells`` in a chart."""
        return placed((cell.name for cell in cells), "" if self.baseline is None else self.baseline.name)

    @property
    def compared(self) -> float | None:
        """The mean return that others are compared with: of the baseline, or of the agent."""
        if self.baseline is not None:
            return self.baseline.figures.mean.value
        agents = [run.figures.get("agent_returns") for cell in self.cells for run in cell.runs]
        told = [value for returns in agents if returns for value in returns]
        return sum(told) / len(told) if told else None


@dataclass(frozen=True)
class Results:
    """``tasks`` in the order of the study's file; ``methods`` over all of them, by name; ``failed`` runs; ``others``:
    how many wait or are being done."""

    folder: Path
    title: str
    tasks: tuple[Task, ...]
    methods: Mapping[str, MethodFigures]
    failed: tuple[Run, ...]
    others: int
    common: frozenset[str]

    @property
    def baseline(self) -> str:
        """The name of what others are compared with; "" where it is agents."""
        return next((task.baseline.name for task in self.tasks if task.baseline is not None), "")

    @property
    def runs(self) -> list[Run]:
        return [run for task in self.tasks for cell in task.cells for run in cell.runs]


def is_priced(method: Mapping[str, Any]) -> bool:
    """Whether zeros come of a price of bits, and not of a sparsity that is asked for."""
    return bool(method.get("rate_weight"))


def results(store: Store, paper: Sequence[PaperPoint] = ()) -> Results:
    """What the runs of ``store`` that have ended say; RunError if none is finished."""
    runs, common = store.runs("done", without=EPISODES), store.common
    if not runs:
        raise RunError(f"no run of {store.folder} is finished: `policypress study run` goes on with it.")
    by_id = {run.id: run for run in runs}
    grouped: dict[str, list[Named]] = {}
    for cell in cell_figures(runs, store.baseline):
        group = grouped.setdefault(json.dumps([cell.kind, cell.task], sort_keys=True), [])
        name = _unlike(_name(cell, common), [one.name for one in group])
        family = _words({key: value for key, value in cell.method.items() if key != "sparsity"}, common)
        group.append(Named(cell, name, family or "all", tuple(by_id[one] for one in cell.runs)))
    tasks = [
        Task(_title(group[0], common), tuple(group), tuple(points_of(paper, group[0].settings)))
        for group in grouped.values()
    ]
    methods: dict[str, MethodFigures] = {}
    for method in method_figures(runs, store.baseline, store.normalize) if len(tasks) > 1 else []:
        methods[_unlike(_name(method, common), list(methods))] = method
    waiting = store.query("SELECT COUNT(*) n FROM runs WHERE status IN ('waiting', 'running')")[0]["n"]
    return Results(
        store.folder,
        store.title,
        tuple(tasks),
        methods,
        tuple(store.runs("failed")),
        waiting,
        common,
    )


def command(run: Run) -> str:
    """The command line of a run, in the study's folder."""
    return shlex.join(["policypress", *run.cell.arguments(Path("runs") / run.id)])


def layers_of(results: Results, run: Run) -> list[Mapping[str, Any]]:
    """What its ``result.json`` says of each layer; [] where its folder is gone."""
    found = _read(results.folder, "runs", run.id, "result.json")
    return [] if found is None else list(found["size"]["layers"])


def latency(results: Results, run: Run) -> tuple[float, str] | None:
    """Seconds of an action of its policy, and the processor, where ``bench --json`` measured them into its folder."""
    found = _read(results.folder, "runs", run.id, LATENCY)
    return None if found is None else (float(found["rows"][0]["latency"]), str(found["machine"]["cpu"]))


def moments(results: Results, run: Run) -> bytes | None:
    """A JPEG of an episode of its policy, where ``watch`` has drawn it into its folder."""
    file = results.folder / "runs" / run.id / MOMENTS
    return file.read_bytes() if file.exists() else None


def disturbed(results: Results) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Results of ``evaluate --robustness``: in the study's ``robustness/``, and those of runs, with their cell."""
    for file in sorted(results.folder.glob(f"{ROBUSTNESS}/**/{_DISTURBED}")):
        if (found := _read(file)) is not None:
            yield found, None
    for task in results.tasks:
        for cell in task.cells:
            for run in cell.runs:
                if (found := _read(results.folder, "runs", run.id, ROBUSTNESS, _DISTURBED)) is not None:
                    yield found, cell.name


def _read(*parts: str | Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if it is not there. A Path for each of thousands would take as long as the files."""
    path = os.path.join(*parts)
    try:
        with open(path, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
    except OSError:
        return None
    except ValueError as error:
        raise RunError(f"{path} cannot be read ({error}): write it anew, or remove it.") from error
    return found


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def _title(cell: Named, common: frozenset[str]) -> str:
    """The environment, and of other settings of the task those that differ."""
    task = cell.figures.task
    told = [str(task["env"])]
    for name, value in task.items():
        if name not in (*DIGESTS, *common, "env", SEED):
            told.append(f"{name} {Path(value).name if name in ('agent', 'vecnormalize') else _value(value)}")
    return ", ".join(told)


def _name(cell: CellFigures | MethodFigures, common: frozenset[str]) -> str:
    return _words(cell.method, common) or ("all" if cell.kind == "train" else "students")


def _unlike(name: str, taken: Sequence[str]) -> str:
    """``name``, with a number if it is taken: methods of the same settings that were measured otherwise."""
    again = sum(one == name or one.startswith(f"{name} (") for one in taken)
    return f"{name} ({again + 1})" if again else name


def _words(method: Mapping[str, Any], common: frozenset[str]) -> str:
    """Settings of a method in a few words, without those that all have."""
    told = []
    for name in sorted(method, key=lambda one: _FIRST.index(one) if one in _FIRST else len(_FIRST)):
        value = method[name]
        if name in common:
            continue
        match name:
            case "hidden" if value == "none":
                told.append("linear")
            case "hidden":
                told.append(value.replace(",", "-") if "," in value else f"hidden {value}")
            case "sparsity" if value == 0.0:
                told += [] if is_priced(method) or "hidden" in method else ["dense"]
            case "sparsity":
                told.append(f"{100 * value:g} % sparse")
            case "weight_bits":
                told.append("float" if value == FLOAT else f"{value} bits")
            case "method":
                told.append(str(value))
            case _:
                told.append(f"{name} {_value(value)}")
    return ", ".join(told)
