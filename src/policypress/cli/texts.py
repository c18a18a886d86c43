"""Values in the texts of options. Whatever cannot be read raises ConfigError, which says how to write it."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from policypress.config import Hidden
from policypress.errors import ConfigError


def widths(text: str, name: str = "hidden") -> tuple[int, ...]:
    """``24,24``; ``name`` is the option's."""
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be widths with commas between, for example 24,24.") from None


def numbers(text: str, name: str) -> tuple[float, ...]:
    """``0.01`` or ``0.01,0.5``; ``name`` is the option's."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be numbers with commas between, for example 0.01,0.5.") from None


def number(text: str, name: str) -> float:
    """``0.98``; ``name`` is the option's."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be a number, for example 0.98.") from None


def hidden(text: str, name: str = "hidden") -> Hidden:
    """``24,24``, or ``none``."""
    return "none" if text == "none" else widths(text, name)


def keywords(texts: Sequence[str], name: str) -> dict[str, Any]:
    """``NAME:VALUE`` each, as the RL Zoo writes them, values as Python does; ``name`` is the option's."""
    found: dict[str, Any] = {}
    for text in texts:
        key, colon, value = text.partition(":")
        try:
            if not (colon and key.isidentifier()):
                raise ValueError
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise ConfigError(
                f"--{name.replace('_', '-')} {text!r} cannot be read: write NAME:VALUE with a Python value, texts in "
                'quotes, for example "use_contact_forces:True".'
            ) from error
    return found


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` each, values as JSON does, and any other value as a text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text} has no value: write it as NAME=VALUE, for example learning_rate=1e-3.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
