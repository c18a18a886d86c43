"""The sections of a report, each from what a study has for it; one that it has nothing for is not there."""

from __future__ import annotations

from collections.abc import Callable

from policypress.studies.report.document import Document, Section
from policypress.studies.report.results import Results
from policypress.studies.report.sections import (
    causes,
    curves,
    dynamics,
    films,
    layers,
    made,
    robustness,
    sizes,
    sparsity,
    summary,
)

_SECTIONS: tuple[Callable[[Results], Section | None], ...] = (
    summary.summary,
    summary.tasks,
    sparsity.sparsity,
    curves.curves,
    dynamics.dynamics,
    sizes.sizes,
    sizes.times,
    causes.ablation,
    causes.equal_bytes,
    layers.layers,
    films.films,
    robustness.robustness,
    made.failed,
    made.made,
)


def document(results: Results) -> Document:
    """The whole report."""
    found = [section for make in _SECTIONS if (section := make(results)) is not None]
    return Document(results.title, summary.facts(results), tuple(found), summary.rows(results))
