"""The ways of pressing an agent, by the name that a PressConfig gives them."""

from __future__ import annotations

from policypress.errors import ConfigError
from policypress.rl.distill import Distill
from policypress.rl.finetune import Finetune
from policypress.rl.method import Method
from policypress.rl.ptq import PostTraining

METHODS: dict[str, Method] = {"distill": Distill(), "ptq": PostTraining(), "finetune": Finetune()}


def method_named(name: str) -> Method:
    """The method called ``name``; ConfigError names the known ones."""
    if name not in METHODS:
        raise ConfigError(f"method={name!r} is not one of {', '.join(METHODS)}.")
    return METHODS[name]
