"""The contract of a policy: what it takes from an environment and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from policypress.errors import require

OBSERVATION_DTYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64")
ActionKind = Literal["box", "discrete", "multi-discrete", "multi-binary"]
ACTION_KINDS: tuple[ActionKind, ...] = get_args(ActionKind)


@dataclass(frozen=True, eq=False)
class Normalization:
    """VecNormalize's ``clip((x - mean) / sqrt(var + epsilon), -clip, clip)``; mean and var are float64."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    epsilon: float
    clip: float

    def __post_init__(self) -> None:
        for label, moment in (("mean", self.mean), ("variance", self.var)):
            require(
                moment.dtype == np.float64 and bool(np.all(np.isfinite(moment))),
                f"The {label} of the normalization must be finite float64 values",
            )
        require(self.mean.shape == self.var.shape, "The normalization's mean and variance differ in shape")
        require(
            bool(np.isfinite(self.epsilon) and np.all(self.var + self.epsilon > 0)),
            "The normalization's variance plus epsilon must be positive",
        )
        require(self.clip > 0, f"The normalization's clip must be positive, not {self.clip}")


@dataclass(frozen=True, eq=False)
class ObservationTransform:
    """What ``predict`` accepts and what happens before the first layer.

    ``shape`` and ``dtype`` are those of one observation, channels first for images; ``frame_stack`` is how
    many frames ``shape`` holds; ``image`` divides by 255; ``normalization`` is applied to vectors.
    """

    shape: tuple[int, ...]
    dtype: str
    image: bool = False
    frame_stack: int = 1
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        require(
            self.dtype in OBSERVATION_DTYPES,
            f"Observations must be of one of the dtypes {', '.join(OBSERVATION_DTYPES)}, not {self.dtype}",
        )
        require(
            len(self.shape) in (1, 2, 3) and min(self.shape) >= 1,
            f"Observations must have one to three dimensions, none of them empty, not the shape {self.shape}",
        )
        require(self.frame_stack >= 1, f"frame_stack must be at least 1, not {self.frame_stack}")
        require(
            not self.image or (self.dtype == "uint8" and len(self.shape) == 3 and self.normalization is None),
            "An image observation must be uint8 of shape (channels, height, width), without normalization",
        )
        require(
            self.normalization is None or self.normalization.mean.shape == self.shape,
            f"The normalization's mean and variance must have the observation's shape {self.shape}",
        )


@dataclass(frozen=True, eq=False)
class ActionTransform:
    """Network output to environment action.

    ``kind`` "box": tanh if ``squash``, then from [-1, 1] to [``low``, ``high``] if ``squash``, else clip to
    them; returns ``dtype`` of ``shape``. ``kind`` "discrete": the index of the largest output (the first of
    equals), plus ``start``. ``kind`` "multi-discrete": the outputs are groups of ``nvec`` each, one after another,
    and every group gives the index of its largest output; returns int64 of shape (groups,). ``kind`` "multi-binary":
    1 for every output above 0, else 0; returns int64 of shape (outputs,).
    """

    kind: ActionKind
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    squash: bool = False
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    start: int = 0
    nvec: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.kind == "multi-discrete" or not self.nvec, "Only multi-discrete actions have an nvec")
        if self.kind == "multi-discrete":
            require(
                bool(self.nvec) and min(self.nvec) >= 1 and self.shape == (len(self.nvec),),
                f"A multi-discrete action has the shape of its nvec, not {self.shape}, and an nvec of at least 1 each,"
                f" not {self.nvec}",
            )
            require(
                self.dtype == "int64" and self.low is None and self.high is None
                and not self.squash and self.start == 0,
                "A multi-discrete action has the dtype int64, no bounds, no squashing and no start",
            )  # fmt: skip
            return
        if self.kind == "multi-binary":
            require(
                len(self.shape) == 1 and self.dtype == "int64" and self.low is None and self.high is None
                and not self.squash and self.start == 0,
                f"A multi-binary action has one dimension, not the shape {self.shape}, the dtype int64, no bounds, no "
                "squashing and no start",
            )  # fmt: skip
            return
        if self.kind == "discrete":
            require(abs(self.start) < 2**31, f"A discrete action's start must fit 32 bits, not {self.start}")
            require(
                self.shape == () and self.dtype == "int64" and self.low is None and self.high is None
                and not self.squash,
                "A discrete action has the shape (), the dtype int64, no bounds and no squashing",
            )  # fmt: skip
            return
        require(self.kind == "box", f"An action is of one of the kinds {', '.join(ACTION_KINDS)}, not {self.kind!r}")
        require(self.dtype in ("float32", "float64"), f"Box actions are float32 or float64, not {self.dtype}")
        require(self.start == 0, "Only discrete actions have a start")
        for bound in (self.low, self.high):
            require(
                bound is not None and bound.dtype == np.float32 and bound.shape == self.shape
                and not bool(np.any(np.isnan(bound)))
                and not (self.squash and not bool(np.all(np.isfinite(bound)))),
                f"Box actions need float32 bounds of shape {self.shape}, finite ones if they are squashed",
            )  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):
            span = np.asarray(self.high) - np.asarray(self.low)
        require(
            bool(np.all(np.asarray(self.low) <= np.asarray(self.high))),
            "The lower bound of an action exceeds the upper one",
        )
        require(bool(np.all(np.isfinite(span))) or not self.squash, "A squashed action's bounds lie too far apart")


@dataclass(frozen=True, eq=False)
class TestVectors:
    """Recorded observations and what the reference answered: ``outputs`` of the last layer (float32, before
    the action transform) and ``actions``."""

    __test__ = False  # not a pytest class

    observations: NDArray[Any]
    outputs: NDArray[np.float32]
    actions: NDArray[Any]
