"""Several networks that are one policy: an encoder and an actor, each in a file of its own.

A small JSON or YAML file names them in the order they run, and what each reads: parts of the observation, and what
those before it give. The last one gives the action::

    networks:
      encoder: {file: encoder.onnx, reads: [obs 0:300]}
      policy: {file: policy.onnx, reads: [encoder, obs 270:300, obs 300:303]}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, RunError, UnsupportedError
from policypress.importers import signals as s
from policypress.importers.formats import Asked, is_networks, open_file
from policypress.importers.metadata import read_metadata
from policypress.importers.opened import Opened, check_size, with_chain

_PART = re.compile(r"obs(?:\s+(\d{1,7}):(\d{1,7}))?")
_MOST = 8


@dataclass(frozen=True)
class _Network:
    """A network, and what it reads: names of others, or pairs of places in the observation."""

    name: str
    opened: Opened
    reads: tuple[str | tuple[int, int], ...]


def open_networks(asked: Asked) -> Opened:
    """The policy that several networks are together, understood where each of them is.

    Raises ConfigError for a file that does not say how, UnsupportedError where the parts are of other widths than the
    network that reads them.
    """
    path = asked.path
    told = read_metadata(path)
    listed = told.pop("networks", None)
    if not isinstance(listed, dict) or not 1 <= len(listed) <= _MOST:
        raise ConfigError(f"{path} must name 1 to {_MOST} networks, for example {_EXAMPLE}.")
    width = _width(path, listed, asked.shape)
    networks: list[_Network] = []
    for name, given in listed.items():
        if not isinstance(given, dict) or not given.keys() <= {"file", "reads", "output", "activation", "format"}:
            raise ConfigError(f"{path}: {name} must say its file and what it reads, for example {_EXAMPLE}.")
        file, reads = given.get("file"), given.get("reads", ["obs"])
        if not isinstance(file, str) or not isinstance(reads, list):
            raise ConfigError(f"{path}: {name} must say its file and what it reads, for example {_EXAMPLE}.")
        inner = path.parent / file
        if inner.is_file() and is_networks(inner):
            raise ConfigError(f"{path}: {name} joins networks itself: name their files here.")
        parts = tuple(_part(path, name, part, width, networks) for part in reads)
        words = {key: str(given[key]) for key in ("output", "activation", "format") if key in given}
        taken = sum(_size(part, networks) for part in parts)
        opened = open_file(Asked(inner, (taken,), **words))
        if opened.shape != (taken,):
            raise UnsupportedError(f"{path}: {name} takes {opened.shape}, but what it reads has {taken} values.")
        if opened.steps is not None:
            raise UnsupportedError(
                f"{path}: {name} keeps a state, which a policy of several files must not: export them as one network."
            )
        networks.append(_Network(name, opened, parts))
    shape = (width,)
    check_size(path, shape)
    files = (path, *(file for network in networks for file in network.opened.files))
    own = {name: value for network in networks for name, value in network.opened.metadata.items()}
    known = [network.opened.parameters for network in networks]
    parameters = None if None in known else sum(number or 0 for number in known)
    opened = Opened("networks", shape, "float32", _Joined(networks), files=files, parameters=parameters)
    if len(networks) == 1 and networks[0].reads == ((0, width),):
        alone = networks[0].opened
        return replace(alone, files=files, metadata={**own, **told})
    opened = replace(opened, metadata={**own, **told})
    return with_chain(opened, lambda x: _followed(networks, x))


_EXAMPLE = "networks: {encoder: {file: encoder.onnx, reads: [obs 0:300]}, actor: {file: actor.onnx, reads: [encoder]}}"


class _Joined:
    """The networks, one after another, each by its own runtime."""

    def __init__(self, networks: list[_Network]) -> None:
        self._networks = networks

    def __call__(self, observations: NDArray[Any]) -> NDArray[Any]:
        given: dict[str, NDArray[Any]] = {}
        for network in self._networks:
            parts = [given[part] if isinstance(part, str) else observations[:, slice(*part)] for part in network.reads]
            given[network.name] = network.opened.run(np.concatenate(parts, 1).astype(np.float32))
        return given[self._networks[-1].name]


def _followed(networks: list[_Network], x: s.Signal) -> tuple[s.Value, s.Kept]:
    """What the last of them gives; NotUnderstood, with the name of the first that is not."""
    given: dict[str, s.Value] = {}
    for network in networks:
        if network.opened.follow is None or not network.opened.understood:
            raise s.NotUnderstood(f"{network.name}, {network.opened.unknown}")
        parts = [given[one] if isinstance(one, str) else s.move(x, _part_of(one)) for one in network.reads]
        try:
            value, _ = network.opened.follow(s.signal_of(s.join([_flat(part) for part in parts], 1)))
        except s.NotUnderstood as error:
            raise s.NotUnderstood(f"{network.name}, {error}") from error
        given[network.name] = value
    return given[networks[-1].name], {}


def _part_of(part: tuple[int, int]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda v: v[:, slice(*part)]


def _flat(x: s.Value) -> s.Value:
    return s.move(x, lambda v: v.reshape(1, -1))


def _width(path: Path, listed: dict[str, Any], shape: tuple[int, ...] | None) -> int:
    """Values of an observation: as they are known, or as far as any network reads."""
    ends = []
    for given in listed.values():
        for part in given.get("reads", ["obs"]) if isinstance(given, dict) else []:
            found = _PART.fullmatch(part) if isinstance(part, str) else None
            if found is not None:
                ends.append(int(found[2]) if found[2] else None)
    if shape is not None:
        if len(shape) != 1:
            raise UnsupportedError(f"{path} joins networks that read vectors, not observations of shape {shape}.")
        return shape[0]
    known = [end for end in ends if end is not None]
    if not known or None in ends:
        raise ConfigError(f"{path} does not say how long an observation is: write obs 0:48 instead of obs.")
    return max(known)


def _part(path: Path, name: str, part: Any, width: int, before: list[_Network]) -> str | tuple[int, int]:
    if isinstance(part, str) and any(network.name == part for network in before):
        return part
    found = _PART.fullmatch(part) if isinstance(part, str) else None
    if found is None:
        names = "".join(f", {network.name}" for network in before)
        raise ConfigError(f"{path}: {name} reads {part!r}, which is none of obs, obs 0:{width}{names}.")
    start, end = (int(found[1]), int(found[2])) if found[2] else (0, width)
    if not 0 <= start < end <= width:
        raise ConfigError(f"{path}: {name} reads {part!r} of an observation of {width} values.")
    return start, end


def _size(part: str | tuple[int, int], networks: list[_Network]) -> int:
    if isinstance(part, tuple):
        return part[1] - part[0]
    opened = next(network.opened for network in networks if network.name == part)
    if opened.shape is None:
        raise RunError(f"{part} does not say how much it gives.")
    return int(opened.run(np.zeros((1, *opened.shape), np.float32)).shape[1])
