"""What a policy's card says of its robot, as macros of the header: initializers of lists, numbers and texts."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import numpy as np

from policypress.export.c_text import WIDTH
from policypress.policy.policy import Policy

_MOST = 4096  # values of a macro


def robot(policy: Policy, name: str) -> str:
    """Lines of the header for ``provenance["metadata"]``: numbers as floats, texts as strings, in lists or alone. Other
    values have no form in C and stay on the card; "" where there are none."""
    lines = []
    metadata = policy.provenance.get("metadata")
    for key, value in sorted(metadata.items()) if isinstance(metadata, dict) else ():
        words = re.sub(r"\W+", "_", key, flags=re.ASCII).strip("_").upper()
        text = _initializer(value)
        if text is not None and words:
            lines.append(_folded(f"#define {name.upper()}_ROBOT_{words} {text}"))
    if not lines:
        return ""
    heading = "/* What its maker says of the robot, to initialize arrays: names, pose, gains. */"
    return "\n".join(["", heading, *lines, ""])


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
