"""What is said of a robot beside its policy: names and numbers that travel with it, in the file or given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policypress.errors import ConfigError, RunError
from policypress.extras import missing

_NAMES: dict[str, tuple[str, ...]] = {
    "joint_names": ("joint_names", "dof_names", "joints"),
    "default_pose": ("default_pose", "default_joint_pos", "default_joint_angles", "default_dof_pos"),
    "action_scale": ("action_scale", "action_scales"),
    "kp": ("kp", "kps", "joint_stiffness", "stiffness"),
    "kd": ("kd", "kds", "joint_damping", "damping"),
    "observation_names": ("observation_names", "obs_names"),
    "history": ("history", "history_length", "observation_history_lengths"),
    "command_names": ("command_names",),
}
"""What people say of a robot, and what its files call it; the first name is the one that is kept."""
_LARGEST = 2**20
_LONGEST = 65_536


def read_metadata(path: Path) -> dict[str, Any]:
    """The contents of a JSON or YAML file; raises RunError for one that cannot be read, ConfigError for other than
    names and their values."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path} has more than 1 MB: metadata are names and numbers of a robot.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: give a JSON or YAML file.") from error
    found = parsed(path, text)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{path} must hold names and their values, for example kp: [20, 20].")
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must hold texts, finite numbers, and lists of them.") from error
    return found


def parsed(path: Path, text: str) -> Any:
    """JSON, or by its ending YAML; aliases, which can make little text large, are none."""
    try:
        if path.suffix.lower() not in (".yaml", ".yml"):
            return json.loads(text)
        try:
            import yaml
        except ModuleNotFoundError as error:
            raise RunError(missing("yaml")) from error
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ConfigError(f"{path} has aliases (*name): write their values out.")
        return yaml.safe_load(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from error
    except Exception as error:
        if isinstance(error, RunError):
            raise
        raise ConfigError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}.") from error


def settled(found: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata under the names that are kept, JSON values: what texts hold as JSON or as a list with commas is read.
    What is neither is kept as it is; what cannot be JSON, or is too long, is left out."""
    known = {name.lower(): kept for kept, names in _NAMES.items() for name in reversed(names)}
    settled: dict[str, Any] = {}
    for name, value in found.items():
        read = _read(value)
        if _is_json(read) and len(json.dumps(read)) <= _LONGEST:
            settled[known.get(name.lower(), name)] = read
    return settled


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    parts = [part.strip() for part in value.split(",")]
    if len(parts) < 2:
        return value
    try:
        return [float(part) for part in parts]
    except ValueError:
        return parts if all(part and " " not in part for part in parts) else value


def _is_json(value: Any) -> bool:
    match value:
        case bool() | int() | str() | None:
            return True
        case float():
            return math.isfinite(value)
        case list():
            return all(_is_json(one) for one in value)
        case dict():
            return all(isinstance(name, str) and _is_json(one) for name, one in value.items())
        case _:
            return False
