"""Export to ONNX: one graph from the raw observation to the action, checked in ONNX Runtime before it is written.

Needs the extra ``policypress[export]``. ``docs/onnx.md`` describes the graph and what is promised.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, ExportError
from policypress.export.taking import taking as _taking
from policypress.extras import install
from policypress.policy.artifact import write
from policypress.policy.policy import Policy

if TYPE_CHECKING:
    from policypress.export.onnx_check import OnnxReport
    from policypress.export.onnx_graph import Style

STYLES: tuple[Style, ...] = ("exact", "qdq")
OBSERVATIONS = 256
"""Random observations of a check; fewer where they are large."""
_VALUES = 2**20


def export_onnx(
    policy: Policy, path: str | Path, style: str = "exact", seed: int = 0, observation: str | None = None
) -> OnnxReport:
    """Write ``policy`` to the file ``path`` and return how it compares with the policy in ONNX Runtime.

    The file appears at once, or not at all if the comparison shows more than the style allows. ``seed``: of the random
    observations. ``observation``: dtype of the graph's input, by default the policy's; "float32" for a policy that
    takes float64. Raises ConfigError for an unknown style or dtype, ExportError if onnx or onnxruntime is missing or
    the graph does not answer as it should, UnsupportedError if the style has no type for some codes.
    """
    data = encode_onnx(policy, style, observation)
    report = check_onnx(policy, data, seed=seed)
    if not report.holds:
        worst = report.worst
        unit = "" if worst.place in ("outputs", "action") else " integer steps"
        raise ExportError(
            f"The graph does not answer as the policy does: the largest difference is {worst.largest:g}{unit} in "
            f"{worst.place}, where style {style} allows {worst.allowed:g}; nothing was written."
        )
    write(data, path)
    return report


def encode_onnx(policy: Policy, style: str = "exact", observation: str | None = None) -> bytes:
    """Bytes of the ONNX file, valid but not run; equal policies give equal bytes. Raises as ``export_onnx`` does."""
    _require_packages()
    import onnx

    from policypress.export.onnx_build import build

    taking = _taking(policy, observation)
    for known in STYLES:
        if style == known:
            model = build(taking, known)
            onnx.checker.check_model(model, full_check=True)
            return bytes(model.SerializeToString(deterministic=True))
    raise ConfigError(f"style={style!r} is not one of {', '.join(STYLES)}.")


def check_onnx(
    policy: Policy, model: str | Path | bytes, observations: NDArray[Any] | None = None, seed: int = 0
) -> OnnxReport:
    """How ``model``, a file or its bytes, compares with ``policy`` in ONNX Runtime.

    ``observations``: (batch, *shape); by default the policy's test vectors, random and saturating ones.
    Raises ExportError if it is not an export of this policy or cannot be read.
    """
    _require_packages()
    from policypress.export.onnx_check import Runner, check_observations, compare

    data = _bytes(model)
    dtype = Runner(data).dtype.name
    policy = _taking(policy, dtype if dtype == "float32" else None)
    if observations is None:
        count = min(OBSERVATIONS, max(_VALUES // max(int(np.prod(policy.observation.shape)), 1), 8))
        observations = check_observations(policy, count, seed)
    return compare(policy, data, observations)


def onnx_outputs(model: str | Path | bytes, observations: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Outputs of the last layer (batch, outputs) and actions (batch, *shape) that ONNX Runtime computes.

    ``model``: an exported file or its bytes; ``observations``: one or a batch, which a graph with a state is asked one
    after another in one episode. Raises ExportError if it cannot be read or run.
    """
    _require_packages()
    from policypress.export.onnx_check import Runner

    run, asked = Runner(_bytes(model)), np.asarray(observations)
    if not run.state_size:
        outputs, actions = run(asked)
        return outputs, actions
    found, state = [], None
    for observation in asked.reshape(-1, *run.shape):
        *answer, state = run(observation, state)
        found.append(answer)
    outputs, actions = (np.concatenate(rows) for rows in zip(*found, strict=True))
    return outputs, actions


def _bytes(model: str | Path | bytes) -> bytes:
    if isinstance(model, bytes):
        return model
    try:
        return Path(model).read_bytes()
    except OSError as error:
        raise ExportError(f"Cannot read {model}: {error.strerror}.") from error


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"Exporting to ONNX needs {error.name}, which is not installed: {install('export')}."
        ) from error
