"""Names in exported C: what an export may be called, and after what it is called where nobody says."""

from __future__ import annotations

import re

from policypress.errors import ConfigError
from policypress.policy.policy import Policy

RESERVED = frozenset((
    "engine", "payload", "coder",  # what names in the engine begin with
    *(f"policypress_{part}" for part in ("engine", "engine_call", "payload", "coder")),  # guards of its headers
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math", "setjmp",
    "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "stdnoreturn",
    "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype",
))  # fmt: skip
"""Names, in lower case, that an export to C cannot have: NAME.h would stand in for a header that others include."""


def identifier(stem: str) -> str:
    """A C identifier made of a file's name; "" if nothing in it can be in one."""
    text = re.sub(r"\W", "_", stem.split(".")[0], flags=re.ASCII).strip("_")[:54]
    return text if text.lower() not in RESERVED and not text[:1].isdigit() else f"policy_{text}"


def name_of(policy: Policy, *names: str) -> str:
    """A name in C for ``policy``: of the first of ``names`` (of files, folders) that tells it from other ones, else of
    its environment. Raises ConfigError where nothing does: two exports called "policy" cannot be told apart."""
    environment = str(policy.provenance.get("env", "")).rpartition("/")[2]
    for name in (*map(identifier, names), identifier(environment).lower()):
        if name.lower() not in ("", "policy"):
            return name
    raise ConfigError(
        "name is not given, and nothing tells one: use name, or --name, for what all names in C begin with."
    )
