"""Measurements of a frozen policy."""

from policypress.measure.size import LayerSize, SizeReport, size

__all__ = ["LayerSize", "SizeReport", "size"]
