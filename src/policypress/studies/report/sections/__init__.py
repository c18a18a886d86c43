"""The sections of a report, each from what a study has for it; one that it has nothing for is not there."""

from __future__ import annotations

from collections.abc import Callable

from policypress.studies.report.document import Document, Section
from policypress.studies.report.results import Results
from policypress.studies.report.sections.causes import ablation, equal_bytes
from policypress.studies.report.sections.curves import curves
from policypress.studies.report.sections.layers import layers
from policypress.studies.report.sections.made import failed, made
from policypress.studies.report.sections.robustness import robustness
from policypress.studies.report.sections.sizes import sizes, times
from policypress.studies.report.sections.sparsity import sparsity
from policypress.studies.report.sections.summary import facts, rows, summary, tasks

_SECTIONS: tuple[Callable[[Results], Section | None], ...] = (
    summary,
    tasks,
    sparsity,
    curves,
    sizes,
    times,
    ablation,
    equal_bytes,
    layers,
    robustness,
    failed,
    made,
)


def document(results: Results) -> Document:
    """The whole report."""
    found = [section for make in _SECTIONS if (section := make(results)) is not None]
    return Document(results.title, facts(results), tuple(found), rows(results))
