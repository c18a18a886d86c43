"""The engines that answer for a policy beside the reference: ``verify`` and ``policypress.testing`` ask them alike."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.export.compile import CompiledIntegers, CompiledPolicy
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.runtime.native import make_engine


class Engine(Protocol):
    """Outputs (batch, outputs) and actions (batch, *shape), or one action of one observation; ObservationError."""

    def outputs(self, observations: NDArray[Any], /) -> NDArray[Any]: ...

    def predict(self, observations: NDArray[Any], /) -> NDArray[Any]: ...


class Native:
    """The extension, with the kernels of this machine or ``portable``; it raises ObservationError as others do."""

    def __init__(self, policy: Policy, portable: bool = False) -> None:
        self._engine = make_engine(policy, portable=True) if portable else policy.engine

    def outputs(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self._given(self._engine.outputs(observations))

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self._given(self._engine.predict(observations))

    def _given(self, answer: Any) -> NDArray[Any]:
        if answer is None:
            raise ObservationError("The native engine refuses the observation.")
        return np.asarray(answer)


@contextmanager
def compiled(
    policy: Policy, command: Sequence[str] | None = None, flags: Sequence[str] = ("-O2",), weights: Weights = "auto"
) -> Iterator[CompiledPolicy]:
    """The policy exported to C, in a folder that goes again, and compiled. ``weights``: their form."""
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        export_c(policy, place, CExportConfig("policy", weights=weights, check=False))
        yield CompiledPolicy(place, command, flags)


class Integers:
    """The build of the exported C without floats, given the reference's codes."""

    def __init__(self, policy: Policy, built: CompiledIntegers) -> None:
        assert policy.input is not None
        self._policy, self._input, self.built = policy, policy.input, built

    def outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._sums(observations).astype(np.float32) * self._policy.layers[-1].scale
        return outputs

    def predict(self, observations: NDArray[Any]) -> NDArray[Any] | None:
        """Actions; None for a box, which this build leaves to its user."""
        return None if self._policy.action.kind == "box" else self.built.choose(self._sums(observations))

    def _sums(self, observations: NDArray[Any]) -> NDArray[np.int32]:
        x = reference.observe(self._policy.observation, observations)
        return self.built.run(reference.quantize_input(self._input, x).astype(np.int32))


@contextmanager
def integers(
    policy: Policy, command: Sequence[str] | None = None, flags: Sequence[str] = ("-O2",), weights: Weights = "auto"
) -> Iterator[Integers]:
    """The policy, in integer numerics, exported and compiled without floats; as ``compiled``.

    Raises UnsupportedError where it needs some.
    """
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        export_c(policy, place, CExportConfig("policy", True, weights, check=False))
        yield Integers(policy, CompiledIntegers(place, command, flags))
