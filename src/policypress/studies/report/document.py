"""What a report is made of, whatever it is written as: sections of tables, charts with their numbers, and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Format = Literal["html", "md", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Table:
    """Cells as people read them. The first ``words`` columns are words, the others numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Series:
    """One of the things that a chart compares: its name, and ``place`` in the chart, which decides how it looks."""

    name: str
    place: int | None
    """0 is what others are compared with, None what others published."""

    @property
    def color(self) -> str:
        """A variable of page.css, in light and dark."""
        return "var(--paper)" if self.place is None else f"var(--c{_cycle(self.place, COLORS)})"

    @property
    def shape(self) -> str:
        """A symbol of Vega."""
        return SHAPES[0] if self.place is None else SHAPES[_cycle(self.place, len(SHAPES))]

    @property
    def dashed(self) -> bool:
        return self.place is None


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite ``spec`` with its data and without its looks. ``alt`` says what it shows, ``table`` has its numbers,
    ``series`` stand in its legend."""

    title: str
    alt: str
    spec: Mapping[str, Any]
    series: Sequence[Series]
    table: Table


@dataclass(frozen=True)
class Picture:
    """A JPEG. ``alt`` says what it shows."""

    title: str
    alt: str
    data: bytes


@dataclass(frozen=True)
class Words:
    """The words of a program, line by line, under a title."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """``text``: paragraphs."""

    name: str
    title: str
    text: tuple[str, ...]
    parts: tuple[Table | Chart | Picture | Words, ...]


@dataclass(frozen=True)
class Document:
    """``facts``: what there is, in figures. ``rows``: the summary for programs, a row a cell with the same keys."""

    title: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]
    rows: Sequence[Mapping[str, Any]]

    @property
    def charts(self) -> list[Chart]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Chart)]


COLORS = 11
"""How many page.css has."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down")


def placed(names: Iterable[str], first: str = "") -> list[Series]:
    """Series of ``names``, each once; ``first`` is what the others are compared with."""
    once = list(dict.fromkeys(names))
    others = [name for name in once if name != first]
    return [Series(name, 0 if name == first else 1 + others.index(name)) for name in once]


def _cycle(place: int, count: int) -> int:
    """0 for the first alone, the others in turn."""
    return 0 if place == 0 else 1 + (place - 1) % (count - 1)
