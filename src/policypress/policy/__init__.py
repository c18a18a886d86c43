"""The frozen policy: its data, its arithmetic and its file."""

from policypress.policy.policy import Policy

load = Policy.load

__all__ = ["Policy", "load"]
