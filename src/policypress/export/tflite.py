"""Export to TensorFlow Lite: a file of int8 or int16 activations, checked in LiteRT before it is written.

Needs the extra ``policypress[tflite]``. ``docs/tflite.md`` derives the graph and says what is promised.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, ExportError
from policypress.extras import install
from policypress.policy.artifact import write
from policypress.policy.observations import accepted, observations
from policypress.policy.policy import Policy

if TYPE_CHECKING:
    from policypress.export.tflite_build import Built, Ends, Style
    from policypress.export.tflite_check import TfliteReport

STYLES, ENDS = ("int8", "int16"), ("float", "integer")
OBSERVATIONS = 256
"""Recorded, random and extreme observations of a check; fewer where they are large."""
_VALUES = 2**20


def export_tflite(
    policy: Policy, path: str | Path, style: str = "int8", ends: str = "float", seed: int = 0
) -> TfliteReport:
    """Write ``policy`` to the file ``path`` and return how it compares with the policy in LiteRT.

    ``style``: "int8" or "int16", of the activations. ``ends``: "float", from the raw observation to the action; or
    "integer", from the input's codes to codes of the outputs. ``seed``: of the random observations. The file appears at
    once, or not at all if a code of a layer is more than one step from the policy's for the same codes in front.
    Raises ConfigError for an unknown word, UnsupportedError for what the style cannot express, ExportError if a package
    is missing or the file does not answer as it should.
    """
    data = encode_tflite(policy, style, ends)
    report = check_tflite(policy, data, seed=seed)
    if not report.holds:
        worst = max((found for found in report.kernels if not found.holds), key=lambda found: max(found.steps))
        what = f"a code is {max(worst.steps)} steps off" if worst.ends_hold else "outputs or actions are off"
        raise ExportError(
            f"The file does not answer as the policy does: with LiteRT's {worst.name} kernels {what}; "
            "nothing was written."
        )
    write(data, path)
    return report


def encode_tflite(policy: Policy, style: str = "int8", ends: str = "float") -> bytes:
    """Bytes of the file, not run yet; equal policies give equal bytes. Raises as ``export_tflite`` does."""
    return _built(policy, style, ends, inner=False).model


def check_tflite(
    policy: Policy, model: str | Path | bytes, asked: NDArray[Any] | None = None, seed: int = 0
) -> TfliteReport:
    """How ``model``, a file or its bytes, compares with ``policy`` in LiteRT.

    ``asked``: observations (batch, *shape), rounded to float32; by default the policy's test vectors, random and
    extreme ones, made from ``seed``. Raises ExportError if it is not an export of this policy or cannot be read.
    """
    _require_packages()
    from policypress.export.tflite_check import compare, described

    try:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError as error:
        raise ExportError(f"Cannot read {model!s}: {error.strerror}.") from error
    facts = described(data)
    style, ends = facts["style"], facts["ends"]
    if asked is None:
        count = min(OBSERVATIONS, max(_VALUES // int(np.prod(policy.observation.shape)), 8))
        asked = observations(policy, count, seed)
    asked = asked.reshape(-1, *policy.observation.shape)
    if np.dtype(policy.observation.dtype).kind == "f":
        with np.errstate(over="ignore"):  # what overflows is not accepted
            asked = asked.astype(np.float32).astype(policy.observation.dtype)
    asked = accepted(policy, asked)
    if not len(asked):
        raise ExportError("There are no observations to compare with.")
    return compare(policy, data, _built(policy, style, ends, inner=True), style, ends, asked)


def _built(policy: Policy, style: str, ends: str, *, inner: bool) -> Built:
    _require_packages()
    from policypress.export.tflite_build import build

    chosen: Style = _one_of("style", style, STYLES)
    ending: Ends = _one_of("ends", ends, ENDS)
    return build(policy, chosen, ending, inner=inner)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(known)}.")
    return value


def _require_packages() -> None:
    try:
        import ai_edge_litert.interpreter  # noqa: F401
        import flatbuffers  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"Exporting to TensorFlow Lite needs {error.name}, which is not installed: {install('tflite')}."
        ) from error
