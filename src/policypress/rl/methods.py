"""The ways of pressing an agent, by the names that a PressConfig knows."""

from __future__ import annotations

from policypress.config import PressMethod
from policypress.rl.distill import Distill
from policypress.rl.evolve import Evolve
from policypress.rl.finetune import Finetune
from policypress.rl.method import Method
from policypress.rl.ptq import PostTraining

METHODS: dict[PressMethod, Method] = {
    "distill": Distill(),
    "ptq": PostTraining(),
    "finetune": Finetune(),
    "evolve": Evolve(),
}
