"""The card of a policy file: what describes the policy, as canonical JSON.

The contract of observations and actions, the baseline, the layers' annotations, provenance and results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError, PolicypressError
from policypress.policy.contract import ACTION_KINDS, ActionKind, ActionTransform, Normalization, ObservationTransform
from policypress.policy.payload import Annotation, layer_annotations

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

T = TypeVar("T")
_ACTION_KINDS: dict[str, ActionKind] = {kind: kind for kind in ACTION_KINDS}
_MAX_GROUPS = 2**16
_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


class Card(NamedTuple):
    """What ``decode_card`` finds; the fields are those of Policy."""

    observation: ObservationTransform
    action: ActionTransform
    baseline_bytes: int
    annotations: list[Annotation]
    provenance: dict[str, Any]
    results: dict[str, Any]


def encode_card(policy: Policy) -> bytes:
    """Card of ``policy`` as UTF-8 JSON with sorted keys and no spaces.

    Raises PolicypressError if provenance or results hold something else than finite JSON values.
    """
    described = {"provenance": policy.provenance, "results": policy.results}
    try:
        unchanged = json.loads(_canonical(described)) == described
    except (TypeError, ValueError, RecursionError):
        unchanged = False
    if not unchanged:
        raise PolicypressError(
            "The provenance and results of a policy must be JSON values: finite numbers, strings, booleans,"
            " None, lists, and dictionaries with string keys."
        )
    contract = {
        "observation": _encode_observation(policy.observation),
        "action": _encode_action(policy.action),
        "baseline_bytes": int(policy.baseline_bytes),
        "layers": [
            {"name": name, "trained_shape": [int(size) for size in shape], "scale": _encode_floats(scale)}
            for name, shape, scale in layer_annotations(policy)
        ],
    }
    return _canonical(contract | described)


def decode_card(data: bytes) -> Card:
    """Card in the bytes that ``encode_card`` returned.

    Raises ArtifactError for anything else, UnsupportedError for a contract that cannot be.
    """
    try:
        value = json.loads(data)
        canonical = _canonical(value) == data
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise ArtifactError("its card is not canonical JSON.")
    card = _Fields(value, "action", "baseline_bytes", "layers", "observation", "provenance", "results")
    layers = [_Fields(layer, "name", "scale", "trained_shape") for layer in card.get("layers", list)]
    return Card(
        observation=_decode_observation(card.get("observation", dict)),
        action=_decode_action(card.get("action", dict)),
        baseline_bytes=card.get("baseline_bytes", int),
        annotations=[
            Annotation(layer.get("name", str), layer.sizes("trained_shape"), layer.floats("scale", np.float32))
            for layer in layers
        ],
        provenance=card.get("provenance", dict),
        results=card.get("results", dict),
    )


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _encode_observation(transform: ObservationTransform) -> dict[str, Any]:
    normalization = transform.normalization
    moments = None
    if normalization is not None:
        moments = {
            "mean": _encode_floats(normalization.mean),
            "var": _encode_floats(normalization.var),
            "epsilon_clip": _encode_floats([normalization.epsilon, normalization.clip]),
        }
    return {
        "shape": [int(size) for size in transform.shape],
        "dtype": transform.dtype,
        "image": bool(transform.image),
        "frame_stack": int(transform.frame_stack),
        "normalization": moments,
    }


def _decode_observation(value: dict[str, Any]) -> ObservationTransform:
    fields = _Fields(value, "shape", "dtype", "image", "frame_stack", "normalization")
    shape = fields.sizes("shape")
    normalization = None
    if value["normalization"] is not None:
        moments = _Fields(value["normalization"], "mean", "var", "epsilon_clip")
        mean, var = moments.floats("mean", np.float64), moments.floats("var", np.float64)
        epsilon_clip = moments.floats("epsilon_clip", np.float64)
        size = math.prod(shape)
        if mean is None or var is None or epsilon_clip is None or len(epsilon_clip) != 2:
            raise _malformed("normalization")
        if mean.size != size or var.size != size:
            raise _malformed("normalization")
        normalization = Normalization(mean.reshape(shape), var.reshape(shape), *epsilon_clip.tolist())
    return ObservationTransform(
        shape=shape,
        dtype=fields.get("dtype", str),
        image=fields.get("image", bool),
        frame_stack=fields.get("frame_stack", int),
        normalization=normalization,
    )


def _encode_action(transform: ActionTransform) -> dict[str, Any]:
    fields = {
        "kind": transform.kind,
        "shape": [int(size) for size in transform.shape],
        "dtype": transform.dtype,
        "squash": bool(transform.squash),
        "low": _encode_floats(transform.low),
        "high": _encode_floats(transform.high),
        "start": int(transform.start),
    }
    return fields | {"nvec": [int(size) for size in transform.nvec]} if transform.nvec else fields


def _decode_action(value: dict[str, Any]) -> ActionTransform:
    grouped = ("nvec",) if value.get("kind") == "multi-discrete" else ()
    fields = _Fields(value, "kind", "shape", "dtype", "squash", "low", "high", "start", *grouped)
    shape = fields.sizes("shape")
    kind = fields.get("kind", str)
    bounds = [fields.floats(name, np.float32) for name in ("low", "high")]
    if kind not in _ACTION_KINDS:
        raise _malformed("kind")
    if any(bound is not None and bound.size != math.prod(shape) for bound in bounds):
        raise _malformed("bounds")
    low, high = (bound if bound is None else bound.reshape(shape) for bound in bounds)
    return ActionTransform(
        kind=_ACTION_KINDS[kind],
        shape=shape,
        dtype=fields.get("dtype", str),
        squash=fields.get("squash", bool),
        low=low,
        high=high,
        start=fields.get("start", int),
        nvec=fields.sizes("nvec", limit=_MAX_GROUPS) if grouped else (),
    )


def _encode_floats(values: NDArray[Any] | Iterable[float] | None) -> list[float | str] | None:
    """Flat list of floats, which JSON keeps exactly; infinite bounds as strings, which JSON needs."""
    if values is None:
        return None
    flat = np.asarray(values, np.float64).ravel().tolist()
    return [value if math.isfinite(value) else str(value) for value in flat]


class _Fields:
    """Fields of a JSON object that must have exactly these names; raises ArtifactError for any other."""

    def __init__(self, value: object, *names: str) -> None:
        if not isinstance(value, dict) or value.keys() != set(names):
            raise ArtifactError(f"its card needs the fields {', '.join(names)} in one place, and no others there.")
        self._value = value

    def get(self, name: str, kind: type[T]) -> T:
        value = self._value[name]
        if type(value) is not kind:  # not isinstance, for which True is an integer
            raise _malformed(name)
        return value

    def sizes(self, name: str, limit: int = 8) -> tuple[int, ...]:
        sizes = self.get(name, list)
        if len(sizes) > limit or any(type(size) is not int or not 1 <= size < 2**31 for size in sizes):
            raise _malformed(name)
        return tuple(sizes)

    def floats(self, name: str, dtype: type[np.floating[Any]]) -> NDArray[Any] | None:
        if self._value[name] is None:
            return None
        listed = self.get(name, list)
        values = [_INFINITIES.get(value, value) if type(value) is str else value for value in listed]
        if any(type(value) is not float for value in values):
            raise _malformed(name)
        exact = np.array(values, np.float64)
        with np.errstate(over="ignore"):  # what overflows differs from itself
            array = exact.astype(dtype)
        if not np.array_equal(array, exact):
            raise _malformed(name)
        return array


def _malformed(name: str) -> ArtifactError:
    return ArtifactError(f"the field {name} of its card is malformed.")
