from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

STRUCTURES: dict[str, tuple[int, list[tuple[str, str, str, int, int]]]]
"""Structures of engine.h by name: bytes, and of each field name, type, what needs it, offset and bytes."""
NAMES: dict[str, int]
"""Enumerators of engine.h and their values."""
INTERFACE: str
"""SHA-256 of the engine.h that it was compiled with."""
KERNELS: str
"""The set of kernels that is used here: "avx512vbmi", "avx512", "avxvnni", "avx2" or "portable"."""

class Engine:
    """Runs one program.

    ``address`` is that of an engine_network that ``owner`` keeps alive; ``weights``: addresses of every step's dense
    weights or 0, or an empty list for the portable kernels alone; then type numbers and shapes of one observation and
    one action, and the multiplications of one observation.
    """

    def __init__(
        self,
        address: int,
        owner: object,
        weights: list[int],
        observation_type: int,
        observation_shape: tuple[int, ...],
        action_type: int,
        action_shape: tuple[int, ...],
        operations: int,
        /,
    ) -> None: ...
    def predict(self, observation: Any, /) -> NDArray[Any] | None:
        """Action(s) for one observation or a batch.

        None where the reference has to decide: for anything but an array of the contract's shape and dtype (float32
        and float64 both do for either) in C order, and for values that are not finite or too large.
        """

    def outputs(self, observation: Any, /) -> NDArray[Any] | None:
        """Last layer's outputs, (batch, outputs), for a batch; None like ``predict``."""

    def step(self, observation: Any, state: NDArray[Any], outputs: bool, /) -> NDArray[Any] | None:
        """Like ``predict``, or ``outputs``, of a recurrent policy: ``state`` (batch, size), int16 or float32 in
        C order, becomes the next one. None like ``predict``, with a state of no use then."""

    def bind(self, otherwise: Callable[..., Any], /) -> Callable[..., Any]:
        """``Policy.predict`` as a function that calls ``otherwise``, with the same arguments, for what it refuses."""

    def repeat(self, observation: NDArray[Any], times: int, state: NDArray[Any] = ..., /) -> NDArray[Any] | None:
        """Like ``predict`` for one observation, computed ``times`` times more, to measure it without the call."""

    def kernels(self) -> list[str]:
        """What runs each step: "portable", "dense", "sparse", "sparse or dense" (by the rows), "real" or "add"."""
