"""What answers for a policy beside the reference: the native engine and compiled C.

All have ``outputs`` of the last layer, (batch, outputs), and ``predict``, actions (batch, *shape); both raise
ObservationError for observations that are refused.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError, UnsupportedError
from policypress.export.c import CExportConfig, Weights, export_c
from policypress.export.compile import CompiledIntegers, CompiledPolicy
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state
from policypress.runtime.native import make_engine

_VECTORS = 8  # of the self test


class Engine(Protocol):
    """Asked with a batch (count, *shape); ``predict`` takes one observation (*shape) too, and gives one action.
    ``state`` (count, size), of a recurrent policy, becomes the next one; None: an episode begins in every row."""

    def outputs(self, observations: NDArray[Any], state: NDArray[Any] | None = None, /) -> NDArray[Any]: ...

    def predict(self, observations: NDArray[Any], state: NDArray[Any] | None = None, /) -> NDArray[Any]: ...


def answers_of(engine: Engine, policy: Policy, observations: NDArray[Any], acts: bool) -> tuple[NDArray[Any], ...]:
    """Outputs, and actions if the engine ``acts``, for observations (count, *shape): in a batch, or where the policy
    has a state one after another in one episode."""
    found = []
    for ask in (engine.outputs, engine.predict)[: 1 + acts]:
        if policy.state_size:
            state = initial_state(policy, 1)
            found.append(np.concatenate([ask(row, state) for row in np.split(observations, len(observations))]))
        else:
            found.append(ask(observations))
    return tuple(found)


class Native:
    """The engine that a Policy asks; ``portable``: without the kernels of this machine."""

    def __init__(self, policy: Policy, *, portable: bool = False) -> None:
        self._engine = make_engine(policy, portable=True) if portable else policy.engine
        self._policy = policy

    def outputs(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[Any]:
        if self._policy.state_size:
            return self._given(self._engine.step(observations, self._state(observations, state), True))
        return self._given(self._engine.outputs(observations))

    def predict(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[Any]:
        if self._policy.state_size:
            return self._given(self._engine.step(observations, self._state(observations, state), False))
        return self._given(self._engine.predict(observations))

    def _state(self, observations: NDArray[Any], state: NDArray[Any] | None) -> NDArray[Any]:
        rows = observations.size // math.prod(self._policy.observation.shape)
        return initial_state(self._policy, rows) if state is None else state

    def _given(self, answer: Any) -> NDArray[Any]:
        if answer is None:
            raise ObservationError("The native engine refuses the observation.")
        return np.asarray(answer)


def compiled(
    policy: Policy, weights: Weights = "auto", command: Sequence[str] | None = None, flags: Sequence[str] = ("-O2",)
) -> CompiledPolicy:
    """The policy exported to C with this form of weights, compiled and loaded."""
    with tempfile.TemporaryDirectory(prefix="policypress-") as place:
        export_c(policy, f"{place}/c", CExportConfig("policy", weights=weights, vectors=_VECTORS, check=False))
        return CompiledPolicy(f"{place}/c", command, flags)


class Integers:
    """The policy as C without floats, fed with the reference's codes. Of box actions it gives sums alone: ``acts`` is
    False then, and nothing is to be predicted. Raises UnsupportedError for a policy that has no such build."""

    def __init__(
        self, policy: Policy, weights: Weights = "auto", command: Sequence[str] | None = None,
        flags: Sequence[str] = ("-O2",),
    ) -> None:  # fmt: skip
        if policy.input is None:
            raise UnsupportedError(f"{policy.numerics} numerics have no build of integers only.")
        self._policy, self._input, self.acts = policy, policy.input, policy.action.kind != "box"
        with tempfile.TemporaryDirectory(prefix="policypress-") as place:
            config = CExportConfig("policy", integer_only=True, weights=weights, vectors=_VECTORS, check=False)
            export_c(policy, f"{place}/c", config)
            self._built = CompiledIntegers(f"{place}/c", command, flags)

    def self_test(self) -> int:
        """0, or the number of the first test vector that differs."""
        return self._built.self_test()

    def outputs(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[np.float32]:
        sums = self._sums(observations, state)
        found: NDArray[np.float32] = sums.astype(np.float32) * self._policy.layers[-1].scale
        return found

    def predict(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[Any]:
        return self._built.choose(self._sums(observations, state))

    def _sums(self, observations: NDArray[Any], state: NDArray[Any] | None) -> NDArray[np.int32]:
        codes = reference.quantize_input(self._input, reference.observe(self._policy.observation, observations))
        return self._built.run(codes.astype(np.int32), state)
