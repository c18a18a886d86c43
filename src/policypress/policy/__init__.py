"""The frozen policy: its data, its arithmetic and its file."""

from policypress.policy.artifact import load, save
from policypress.policy.policy import Policy

__all__ = ["Policy", "load", "save"]
