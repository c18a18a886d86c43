"""Which weights of a layer may be zero together: the structures of masks.

A new structure is a subclass of ``Structure``, a line in ``STRUCTURES``, and its name in
``policypress.config.Structure``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from policypress import config
from policypress.compression.allocation import Shape, allocate
from policypress.compression.masks import top_k_mask
from policypress.config import CompressionConfig
from policypress.errors import ConfigError


class Structure:
    """Any weight may be zero, whatever its neighbours are. Subclasses say otherwise."""

    def zeros(
        self, config: CompressionConfig, shapes: Sequence[Shape], names: Sequence[str], outputs: Sequence[bool] = ()
    ) -> list[int]:
        """Number of zeros in the end, for layers of these shapes; ``outputs`` says whose units are a network's outputs.
        Raises ConfigError when one would be emptied, or does not fit."""
        return allocate(config.allocation, shapes, config.sparsity, names)

    def mask(self, worth: torch.Tensor, zeros: int) -> torch.Tensor:
        """A mask of ``worth``'s shape with exactly ``zeros`` entries False: the least worthy, earlier ones first."""
        return top_k_mask(worth, zeros)


class NeighbouringInputs(Structure):
    """N:M. Of every ``group`` neighbouring inputs of a unit (input channels at one place of a kernel) at most ``live``
    keep their weight; so do as many of the last, smaller group. On the way there the least worthy of those that will go
    in the end go first. Source: Mishra et al. 2021 (2:4), Zhou et al. 2021 (N:M)."""

    def __init__(self, live: int, group: int) -> None:
        self.live, self.group = live, group

    def zeros(
        self, config: CompressionConfig, shapes: Sequence[Shape], names: Sequence[str], outputs: Sequence[bool] = ()
    ) -> list[int]:
        _check_widths(config, self.group, shapes, names)
        return [self._zeros(shape[1]) * math.prod(shape) // shape[1] for shape in shapes]

    def mask(self, worth: torch.Tensor, zeros: int) -> torch.Tensor:
        return top_k_mask(worth.masked_fill(self._stays(worth), torch.inf), zeros)

    def _zeros(self, inputs: int) -> int:
        """Of one unit, at one place of its kernel."""
        whole, rest = divmod(inputs, self.group)
        return whole * (self.group - self.live) + max(0, rest - self.live)

    def _stays(self, worth: torch.Tensor) -> torch.Tensor:
        """The most worthy ``live`` of every group, boolean of ``worth``'s shape; later ones of equals."""
        padded = _along_inputs(worth, self.group, -torch.inf)
        best = padded.sort(dim=-1, stable=True).indices[..., -self.live :]
        stays = torch.zeros_like(padded, dtype=torch.bool).scatter(-1, best, True)
        return _as_weight(stays, worth.shape)


class Groups(Structure, ABC):
    """Weights that live or die together: the groups of the lowest mean worth go first. Where the number of zeros is no
    whole number of groups, the last of them is partly live, and the next to go."""

    @abstractmethod
    def parted(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` by their groups, (..., largest group); zeros where a group is smaller."""

    @abstractmethod
    def joined(self, groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The inverse of ``parted``."""

    def mask(self, worth: torch.Tensor, zeros: int) -> torch.Tensor:
        parted = self.parted(worth)
        groups = parted.flatten(0, -2)
        there = self.parted(torch.ones_like(worth, dtype=torch.bool)).flatten(0, -2)
        dead = groups == -torch.inf
        mean = groups.sum(1) / there.sum(1)
        mean[dead.any(1)] = torch.finfo(mean.dtype).min  # what has begun to go goes on
        mean[(dead | ~there).all(1)] = -torch.inf
        order = mean.argsort(stable=True)
        gone = there[order].sum(1).cumsum(0)
        whole = int((gone <= zeros).sum())
        live = there.clone()
        live[order[:whole]] = False
        rest = zeros - (int(gone[whole - 1]) if whole else 0)
        if rest:
            cut = order[whole]
            live[cut, groups[cut].masked_fill(~there[cut], torch.inf).argsort(stable=True)[:rest]] = False
        return self.joined(live.reshape(parted.shape), worth.shape)


class Blocks(Groups):
    """``size`` neighbouring inputs of a unit (input channels at one place of a kernel); the last of a unit may be
    smaller. Source: Narang, Undersander and Diamos 2017."""

    def __init__(self, size: int) -> None:
        self.size = size

    def zeros(
        self, config: CompressionConfig, shapes: Sequence[Shape], names: Sequence[str], outputs: Sequence[bool] = ()
    ) -> list[int]:
        _check_widths(config, self.size, shapes, names)
        found = allocate(config.allocation, shapes, config.sparsity, names)
        most = [math.prod(shape) - self.size for shape in shapes]
        return [min(self.size * round(zeros / self.size), limit) for zeros, limit in zip(found, most, strict=True)]

    def parted(self, values: torch.Tensor) -> torch.Tensor:
        return _along_inputs(values, self.size, 0)

    def joined(self, groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return _as_weight(groups, shape)


class Units(Groups):
    """All inputs of a unit, or of an output channel: a unit without any says its bias alone, and freezing in integers
    folds that into the next layer, which becomes narrower. A network's outputs stay whole; the others take over their
    share. Source: Li et al. 2017 (channels by the sum of their magnitudes)."""

    def zeros(
        self, config: CompressionConfig, shapes: Sequence[Shape], names: Sequence[str], outputs: Sequence[bool] = ()
    ) -> list[int]:
        sizes = [math.prod(shape) for shape in shapes]
        hidden = [place for place in range(len(shapes)) if not (outputs and outputs[place])]
        share = config.sparsity * sum(sizes) / max(1, sum(sizes[place] for place in hidden))
        if share >= 1.0:
            raise _without_units(config, "the hidden layers")
        try:
            counts = allocate(config.allocation, [shapes[place] for place in hidden], share)
        except ConfigError as error:
            raise _without_units(config, "a hidden layer") from error
        found = [0] * len(shapes)
        for place, count in zip(hidden, counts, strict=True):
            units, inputs = shapes[place][0], sizes[place] // shapes[place][0]
            if (gone := round(count / inputs)) >= units:
                raise _without_units(config, f"layer {_name(names, place)} ({'x'.join(map(str, shapes[place]))})")
            found[place] = gone * inputs
        return found

    def parted(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(1)

    def joined(self, groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return groups.reshape(shape)


def _along_inputs(values: torch.Tensor, size: int, missing: float) -> torch.Tensor:
    """``values`` (out, in, ...) as (out, ..., groups of neighbouring inputs, size), filled up with ``missing``."""
    rows = values.movedim(1, -1)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % size), value=missing)
    return padded.view(*rows.shape[:-1], -1, size)


def _as_weight(groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of ``_along_inputs``, to (out, in, ...) of ``shape``."""
    return groups.flatten(-2)[..., : shape[1]].movedim(-1, 1)


def _check_widths(config: CompressionConfig, least: int, shapes: Sequence[Shape], names: Sequence[str]) -> None:
    for place, shape in enumerate(shapes):
        if shape[1] < least:
            raise ConfigError(
                f"structure={config.structure} needs layers of at least {least} inputs, and layer "
                f"{_name(names, place)} has {shape[1]}: take another structure."
            )


def _without_units(config: CompressionConfig, where: str) -> ConfigError:
    return ConfigError(
        f"sparsity={config.sparsity} with structure=units would leave no unit in {where}: lower the sparsity or widen "
        "the network."
    )


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if names else f"number {place}"


STRUCTURES: dict[config.Structure, Structure] = {
    "unstructured": Structure(),
    **{name: NeighbouringInputs(live, group) for name, (live, group) in config.PATTERNS.items()},
    "block4": Blocks(4),
    "units": Units(),
}
