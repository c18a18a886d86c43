"""What a policy's card says of its robot: what every value of observations and actions is, and macros of the header."""

from __future__ import annotations

import json
import math
import re
import textwrap
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.export.c_text import WIDTH
from policypress.policy.policy import Policy

_MOST = 4096  # values of a macro
_SHOWN = 64  # values of an observation that have a line
_PER_ACTION = {"default_pose": "default pose", "action_scale": "scale", "kp": "kp", "kd": "kd"}


def robot(policy: Policy, name: str) -> str:
    """Lines of the header for ``provenance["metadata"]``: numbers as floats, texts as strings, in lists or alone. Other
    values have no form in C and stay on the card; "" where there are none."""
    lines = []
    for key, value in sorted(_metadata(policy).items()):
        words = re.sub(r"\W+", "_", key, flags=re.ASCII).strip("_").upper()
        text = _initializer(value)
        if text is not None and words:
            lines.append(_folded(f"#define {name.upper()}_ROBOT_{words} {text}"))
    if not lines:
        return ""
    heading = "/* What its maker says of the robot, to initialize arrays: names, pose, gains. */"
    return "\n".join(["", heading, *lines, ""])


def observation_lines(policy: Policy) -> list[str]:
    """A line for every value of an observation: its name and unit, where something says them (the card's
    ``observation_names`` and ``observation_units``, else Gymnasium), and the range that the policy tells apart."""
    size = math.prod(policy.observation.shape)
    if policy.observation.image:
        return []
    names, units, source = _said(policy, "observation", ("observation_names",), size)
    ranges = None if policy.input is None else input_range(policy)
    lines = []
    for i in range(min(size, _SHOWN)):
        parts = [_value(names, units, i)]
        if ranges is not None:
            parts.append(f"told apart in [{ranges[0][i]:.4g}, {ranges[1][i]:.4g}]")
        lines.append(f"  {i}: " + "; ".join(filter(None, parts)))
    if names is None and ranges is None:
        return []
    return [*lines, *([f"  and {size - _SHOWN} more"] if size > _SHOWN else []), *source]


def action_meaning(policy: Policy) -> tuple[list[str], list[str]]:
    """What every value of a box action is, "" where nothing says it: name and unit (``action_names`` or
    ``joint_names``, and ``action_units``, else Gymnasium's), default pose, scale and gains; and lines that say whose
    words these are."""
    size = math.prod(policy.action.shape)
    names, units, source = _said(policy, "action", ("action_names", "joint_names"), size)
    said = {words: _numbers(policy, key, size) for key, words in _PER_ACTION.items()}
    found = []
    for i in range(size):
        parts = [_value(names, units, i)]
        parts += [f"{words} {values[i]:g}" for words, values in said.items() if values is not None]
        found.append(", ".join(filter(None, parts)))
    return found, source


def input_range(policy: Policy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of an observation, (inputs,) each, between which the input quantization of an integer ``policy`` tells
    them apart; what lies beyond is taken for the nearest."""
    assert policy.input is not None
    quantization, normalization = policy.input, policy.observation.normalization
    inverse = np.broadcast_to(quantization.inverse_scale.astype(np.float64), (math.prod(policy.observation.shape),))
    zero = 0 if quantization.zero_point is None else quantization.zero_point.astype(np.float64)
    low, high = (quantization.low + zero) / inverse, (quantization.high + zero) / inverse
    if normalization is not None:
        deviation = np.sqrt(normalization.var + normalization.epsilon).ravel()
        low, high = (np.clip(x, -normalization.clip, normalization.clip) for x in (low, high))
        low, high = (x * deviation + normalization.mean.ravel() for x in (low, high))
    return low, high


def _value(names: list[str] | None, units: list[str] | None, i: int) -> str:
    name = "" if names is None else names[i]
    return name if units is None else f"{name} [{units[i]}]".strip()


def _said(
    policy: Policy, what: str, keys: tuple[str, ...], size: int
) -> tuple[list[str] | None, list[str] | None, list[str]]:
    """Names and units of ``size`` values, and lines on where they are from."""
    names = next((found for key in keys if (found := _texts(policy, key, size)) is not None), None)
    units = _texts(policy, f"{what}_units", size)
    if names is not None or units is not None:
        return names, units, []
    tasks = json.loads(resources.files("policypress.export").joinpath("gymnasium_tasks.json").read_text("ascii"))
    rows = tasks.get(str(policy.provenance.get("env")), {}).get(what, [])
    if len(rows) != size:
        return None, None, []
    source = "  (names by Gymnasium; MuJoCo multiplies an action by its actuator's gear)"
    found = [f"{words} ({name})" for name, words, _ in rows]
    if what == "action":
        return found, None, [source]
    return found, [kind.partition("(")[2].rstrip(")") or kind for *_, kind in rows], []  # "position (m)"


def _texts(policy: Policy, key: str, size: int) -> list[str] | None:
    found = _metadata(policy).get(key)
    good = isinstance(found, list) and len(found) == size and all(isinstance(one, str) for one in found)
    return found if good else None


def _numbers(policy: Policy, key: str, size: int) -> list[float] | None:
    found = _metadata(policy).get(key)
    values: list[Any] = found if isinstance(found, list) else [found] * size
    good = len(values) == size and all(isinstance(one, int | float) for one in values)
    return [float(one) for one in values] if good else None


def _metadata(policy: Policy) -> dict[str, Any]:
    found = policy.provenance.get("metadata")
    return found if isinstance(found, dict) else {}


def _initializer(value: Any) -> str | None:
    if not isinstance(value, list):
        return _literal(value)
    found = [_literal(one) for one in value]
    if not found or len(found) > _MOST or any(one is None for one in found):
        return None
    return "{" + ", ".join(one for one in found if one is not None) + "}"


def _literal(value: Any) -> str | None:
    match value:
        case bool():
            return "1" if value else "0"
        case int() | float():
            with np.errstate(over="ignore"):
                number = np.float32(value)
            return f"{number!s}f" if np.isfinite(number) else None
        case str():
            plain = "".join(c if " " <= c <= "~" else "." for c in value).replace("\\", "\\\\").replace('"', '\\"')
            return f'"{plain}"'.replace("?", "\\?")  # no trigraph
        case _:
            return None


def _folded(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)
