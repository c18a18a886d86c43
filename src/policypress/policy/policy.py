"""The frozen policy: operations between an observation and an action transform (NumPy only)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from policypress.errors import PolicypressError
from policypress.policy import artifact
from policypress.policy import reference as numpy_reference
from policypress.policy.checks import check_accumulators, check_structure
from policypress.policy.contract import ActionTransform, ObservationTransform, TestVectors
from policypress.policy.doubled import warn_if_normalized
from policypress.policy.ops import FLOAT_BITS, InputQuantization, Layer, Op, layers_of
from policypress.policy.state import part_sizes, state_before

if TYPE_CHECKING:
    from policypress.runtime.engine import Engine

Numerics = Literal["integer", "weight-only", "float"]


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy that needs nothing but NumPy: raw observation in, environment action out.

    ``provenance`` (algorithm, environment, steps, seed, config, versions) and ``results`` (measured returns)
    hold JSON values only. ``baseline_bytes`` is the dense float32 network it stands for, four bytes a
    parameter.
    """

    ops: tuple[Op, ...]
    observation: ObservationTransform
    action: ActionTransform
    input: InputQuantization | None
    baseline_bytes: int
    provenance: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    test_vectors: TestVectors | None = None

    @property
    def numerics(self) -> Numerics:
        if self.input is not None:
            return "integer"
        return "float" if all(layer.weight_bits == FLOAT_BITS for layer in self.layers) else "weight-only"

    def __post_init__(self) -> None:
        check_structure(self)
        if self.input is not None:
            check_accumulators(self.ops, self.input)

    def __getstate__(self) -> dict[str, Any]:
        # The engine holds addresses: a copy, or another process, makes its own.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in the order it runs, those inside residual blocks included."""
        return tuple(layers_of(self.ops))

    @cached_property
    def state_size(self) -> int:
        """Values that the policy remembers from one observation to the next; 0 if it is not recurrent."""
        return sum(part_sizes(self.ops, self.observation.shape))

    @cached_property
    def engine(self) -> Engine:
        """The native engine of this policy, made when first needed."""
        from policypress.runtime.native import make_engine

        engine = make_engine(self)
        # From now on this instance's `predict` is C, which takes the same arguments and comes back to the method below
        # for what it does not know: the call costs more than a small policy otherwise.
        if type(self).predict is Policy.predict and not self.state_size:  # not past the method of a subclass
            self.__dict__["predict"] = engine.bind(self.predict)
        return engine

    def outputs(self, observations: NDArray[Any], *, reference: bool = False) -> NDArray[np.float32]:
        """Last layer's outputs before the action transform, shape (batch, outputs), for raw observations.

        ``reference``: by the NumPy reference. In a recurrent policy an episode begins in every row (``step`` goes on).
        Raises ObservationError like ``predict``.
        """
        if self.state_size:
            return self.step(observations, reference=reference)[0]
        if not reference:
            found = self.engine.outputs(observations)
            if found is None:
                found = self.engine.outputs(numpy_reference.arrange(self.observation, observations))
            if found is not None:
                return found
        return numpy_reference.run(self, numpy_reference.observe(self.observation, observations))

    def step(
        self,
        observations: NDArray[Any],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        *,
        reference: bool = False,
    ) -> tuple[NDArray[np.float32], tuple[NDArray[Any], ...] | None]:
        """``outputs`` where the policy has this ``state``, and the next one, as for ``predict``."""
        return self._answer(observations, state, episode_start, reference, outputs=True)

    def _answer(
        self,
        observations: NDArray[Any],
        state: tuple[NDArray[Any], ...] | None,
        episode_start: NDArray[Any] | None,
        reference: bool,
        outputs: bool,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Outputs or actions, and the next state."""
        if not self.state_size:
            found = self.outputs(observations, reference=reference)
            return (found if outputs else numpy_reference.act(self.action, found)), state
        batch = numpy_reference.arrange(self.observation, observations)
        before = state_before(self, state, episode_start, len(batch))
        answer = None
        if not reference:
            after = before.copy()  # the engine writes over it
            answer = self.engine.step(batch, after, outputs)
        if answer is None:  # also where the reference says what is wrong
            answer, after = numpy_reference.step(self, numpy_reference.to_network(self.observation, batch), before)
            answer = answer if outputs else numpy_reference.act(self.action, answer)
        return answer, (after,)

    def predict(
        self,
        observation: NDArray[Any],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = True,
        *,
        reference: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Action for one observation or a batch, with the signature of Stable-Baselines3's ``predict``.

        A recurrent policy (``state_size`` is not 0) returns its next state, a tuple of one array (batch, state_size):
        give it with the next observations, None at the beginning; rows where ``episode_start`` (batch,) is true begin
        again. In other policies ``state`` is returned as it came. Where all episodes start, a warning says if
        ``evaluate_policy`` normalizes observations that the policy normalizes too.
        One observation of ``shape`` gives one action; (batch, *shape) gives (batch, *action shape). The native
        engine runs it, or with ``reference`` the NumPy reference, which gives the same bits.
        Raises ObservationError if an observation does not fit, PolicypressError if ``deterministic`` is
        False.
        """
        if not deterministic:
            raise PolicypressError("A frozen policy is deterministic: call predict(observation, deterministic=True).")
        if episode_start is not None and self.observation.normalization is not None and np.all(episode_start):
            warn_if_normalized(sys._getframe(1))
        if self.state_size:
            batch, after = self._answer(observation, state, episode_start, reference, outputs=False)
            return (np.asarray(batch[0]) if self._is_single(observation) else batch), after
        actions = None if reference else self.engine.predict(observation)
        if actions is not None:
            return actions, state
        batch = numpy_reference.arrange(self.observation, observation)
        actions = None if reference else self.engine.predict(batch)
        if actions is None:  # also where the reference says what is wrong
            outputs = numpy_reference.run(self, numpy_reference.to_network(self.observation, batch))
            actions = numpy_reference.act(self.action, outputs)
        return (np.asarray(actions[0]) if self._is_single(observation) else actions), state

    def _is_single(self, observation: NDArray[Any]) -> bool:
        return np.ndim(observation) == len(self.observation.shape)

    def save(self, path: str | Path) -> None:
        """Write the policy to a ``.policy`` file, at once or not at all.

        Raises PolicypressError if it holds what a file cannot, OSError if the file cannot be written.
        """
        artifact.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Policy in a ``.policy`` or packed file; raises ArtifactError if the file is not a valid one."""
        return artifact.load(path, cls)

    @classmethod
    def from_bytes(cls, data: bytes) -> Policy:
        """Policy in the bytes of a ``.policy`` or packed file; raises ArtifactError for anything else."""
        return artifact.decode(data, cls)

    @classmethod
    def from_payload(
        cls, data: bytes, observation: ObservationTransform, action: ActionTransform, baseline_bytes: int | None = None
    ) -> Policy:
        """Policy of a bare payload (``policypress pack --payload-only``) and the contract that it lacks.

        ``baseline_bytes``: the dense float32 network that ratios compare with; None: one of the payload's own shapes.
        Raises ArtifactError for bytes that are no payload, UnsupportedError for a contract that does not fit.
        """
        return artifact.from_payload(data, observation, action, baseline_bytes, cls)

    def __repr__(self) -> str:
        layers = self.layers
        weights = sum(layer.trained_weights for layer in layers)
        nonzeros = sum(layer.nonzeros for layer in layers)
        bits = "/".join(str(b) for b in sorted({layer.weight_bits for layer in layers}))
        observation, action = self.observation, self.action
        answer = {
            "box": f"{action.dtype}{list(action.shape)}",
            "discrete": f"{layers[-1].weight.shape[0]} choices",
            "multi-discrete": f"{'x'.join(map(str, action.nvec))} choices",
            "multi-binary": f"{layers[-1].weight.shape[0]} binary choices",
        }[action.kind]
        return (
            f"Policy({observation.dtype}{list(observation.shape)} -> {answer}, {self.numerics},"
            f" {len(layers)} layers, {bits}-bit weights, {nonzeros:,} of {weights:,} nonzero)"
        )
