"""Stable-Baselines3's ``evaluate_policy`` on an environment within VecNormalize: a frozen policy that normalizes
observations itself gets them normalized twice there, and nothing but a lower return would show it."""

from __future__ import annotations

import warnings
from types import FrameType
from typing import Any


def warn_if_normalized(caller: FrameType | None) -> None:
    """Warns if ``caller`` is an ``evaluate_policy`` whose environment normalizes observations."""
    if caller is None or caller.f_code.co_name != "evaluate_policy":
        return
    if _normalizes(caller.f_locals.get("env")):
        warnings.warn(
            "this policy normalizes observations itself, and the environment of evaluate_policy has done so already: "
            "set norm_obs = False of its VecNormalize, or leave that out.",
            stacklevel=3,
        )


def _normalizes(env: Any) -> bool:
    """Whether a VecNormalize of observations is among the wrappers; asked by name, for SB3 may not be installed."""
    while env is not None:
        if any(kind.__name__ == "VecNormalize" for kind in type(env).__mro__) and env.norm_obs:
            return True
        env = vars(env).get("venv")
    return False
