"""What LiteRT makes of an exported policy, compared with the reference."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert
from numpy.typing import NDArray

from policypress.errors import ExportError
from policypress.export.tflite_build import Built, Ends, Output, Style
from policypress.policy import reference
from policypress.policy.ops import Layer, Op, Residual
from policypress.policy.payload import payload_size
from policypress.policy.policy import Policy

KERNELS = {
    "XNNPACK": litert.OpResolverType.AUTO,  # what an interpreter takes where nothing is said
    "built-in": litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": litert.OpResolverType.BUILTIN_REF,  # those that microcontrollers' are made from
}
"""LiteRT's own sets of kernels, which round in different ways."""
_ALONE = 3  # observations that are asked alone, too
_TANH = 1e-6  # between two float32 tanh, in units of the action's span

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Kernels:
    """How one set of kernels answers.

    ``steps``: how many codes, of all layers, are so many steps from what the reference makes of the codes that go into
    their layer. ``answers``: for how many observations the codes at the end (those of the outputs, with float ends
    those that go into the last layer) are at most so many steps from the reference's, from end to end.
    ``outputs_difference`` and ``action_difference``: the largest from end to end, in real units (of outputs within the
    range of an integer end); ``equal_actions``: the share of observations whose whole action is the same (to 1e-5).
    ``ends_hold``: whether outputs and actions are, to rounding, what the reference makes of the codes that go into the
    last layer.
    """

    name: str
    steps: dict[int, int]
    answers: dict[int, int]
    outputs_difference: float
    action_difference: float
    equal_actions: float
    ends_hold: bool

    @property
    def holds(self) -> bool:
        return max(self.steps) <= 1 and self.ends_hold


@dataclass(frozen=True)
class TfliteReport:
    """What the comparison of a TensorFlow Lite file with its policy found.

    ``bytes``: of the file; ``weights``: of weights and biases in it, zeros included; ``payload_bytes``: of the policy.
    ``output_scale``: what a code of the outputs is worth, with integer ends.
    """

    style: Style
    ends: Ends
    bytes: int
    weights: int
    payload_bytes: int
    observations: int
    output_scale: float | None
    litert: str
    kernels: tuple[Kernels, ...]

    @property
    def holds(self) -> bool:
        """Whether no code is more than a step from the reference's for the same codes in front."""
        return all(found.holds for found in self.kernels)

    @property
    def step_difference(self) -> int:
        """The most steps that a code is from the reference's for the same codes in front."""
        return max(max(found.steps) for found in self.kernels)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**dataclasses.asdict(self), "holds": self.holds}

    def rows(self) -> dict[str, str]:
        """What people read of it."""
        rows = {
            "style": f"{self.style} activations, {self.ends} ends",
            "bytes": f"{self.bytes:,}; dense weights {self.weights:,}, the policy's payload {self.payload_bytes:,}",
            "compared": f"{self.observations:,} observations in LiteRT {self.litert}",
        }
        for found in self.kernels:
            rows[found.name] = (
                f"codes of a layer {_counted(found.steps)}; answers {_counted(found.answers)}; actions "
                f"{found.equal_actions:.1%} as the policy's, largest difference {found.action_difference:.3g}"
            )
        return rows


def _counted(steps: dict[int, int]) -> str:
    """ "97.1 % equal, 2.9 % off by 1", of a count for each number of steps."""
    total = sum(steps.values())
    parts = [f"{count / total:.4%} {f'off by {step}' if step else 'equal'}" for step, count in sorted(steps.items())]
    return ", ".join(parts)


class Runner:
    """A file in LiteRT, on one thread; calling it with observations gives all outputs."""

    def __init__(self, model: bytes, kernels: str) -> None:
        try:
            self._interpreter = litert.Interpreter(
                model_content=model, num_threads=1, experimental_op_resolver_type=KERNELS[kernels]
            )
            (self._input,) = self._interpreter.get_input_details()
        except Exception as error:  # LiteRT's errors share no base
            raise ExportError(f"LiteRT cannot read this file: {str(error).strip().splitlines()[0]}.") from error

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self._input["shape"][1:])

    def __call__(self, observations: NDArray[Any]) -> list[NDArray[Any]]:
        if observations.shape[1:] != self.shape:
            raise ExportError(f"The file takes observations of shape {self.shape}, not {observations.shape[1:]}.")
        run = self._interpreter
        try:
            run.resize_tensor_input(self._input["index"], observations.shape)
            run.allocate_tensors()
            run.set_tensor(self._input["index"], observations.astype(self._input["dtype"]))
            run.invoke()
        except Exception as error:
            raise ExportError(f"LiteRT cannot run this file: {str(error).strip().splitlines()[0]}.") from error
        return [run.get_tensor(one["index"]) for one in run.get_output_details()]


def described(model: bytes) -> dict[str, Any]:
    """What the file says of how it was made. Raises ExportError if it is none of this project's."""
    from ai_edge_litert import schema_py_generated as schema

    try:
        text = schema.Model.GetRootAs(model, 0).Description()
        found = json.loads(text)
        return {"style": found["style"], "ends": found["ends"], **found}
    except Exception as error:  # whatever a damaged file makes of flatbuffers
        raise ExportError("The file is not a policy that policypress exported to TensorFlow Lite.") from error


def compare(policy: Policy, model: bytes, built: Built, style: Style, ends: Ends, asked: NDArray[Any]) -> TfliteReport:
    """``model``: the file; ``built``: the graph that gives its steps out, and must answer as the file does.
    ``asked``: observations (count, *shape) that the policy accepts and that float32 holds.

    Raises ExportError if the file is not one of this policy or cannot be run.
    """
    assert policy.input is not None
    x = reference.observe(policy.observation, asked)
    given = reference.quantize_input(policy.input, x) + built.steps[0].zero if ends == "integer" else asked
    kernels = []
    for name in KERNELS:
        inner, plain = Runner(built.model, name), Runner(model, name)
        found = inner(given)
        for rows in (slice(None), *(slice(at, at + 1) for at in range(min(_ALONE, len(given))))):
            if any(
                not np.allclose(a, b[rows], rtol=1e-5, atol=1e-5)
                for a, b in zip(plain(given[rows]), found, strict=False)
            ):
                raise ExportError(f"The file does not answer as this policy's does, with LiteRT's {name} kernels.")
        kernels.append(_compared(policy, built, ends, name, x, found))
    weights = sum(layer.weight.nbytes + 4 * layer.bias.size for layer in policy.layers)
    scale = None if built.output is None else built.output.scale
    return TfliteReport(
        style, ends, len(model), weights, payload_size(policy), len(asked), scale, version("ai-edge-litert"),
        tuple(kernels),
    )  # fmt: skip


def _compared(
    policy: Policy, built: Built, ends: Ends, name: str, x: NDArray[np.float32], found: list[NDArray[Any]]
) -> Kernels:
    assert policy.input is not None
    front = policy.ops[:-1]
    wanted_codes = reference.run_integer(front, reference.quantize_input(policy.input, x), [])
    wanted = _outputs(policy, wanted_codes)
    steps: Counter[int] = Counter()
    later = iter(built.steps)

    def observe(q: Int64) -> Int64:
        """``q`` is what the reference makes of the codes in front; returns LiteRT's."""
        step = next(later)
        codes = found[step.place].astype(np.int64) - step.zero
        codes = codes.transpose(0, 3, 1, 2) if step.image else codes
        steps.update(np.abs(codes - q).ravel().tolist())
        return codes

    codes = _follow(front, observe(reference.quantize_input(policy.input, x)), observe)
    outputs = _outputs(policy, codes)
    if ends == "integer":
        assert built.output is not None
        given = observe(_codes_of(outputs, built.output))
        off = np.abs(given - _codes_of(wanted, built.output))
        given_outputs = (given * built.output.scale).astype(np.float32)
        actions, hold = reference.act(policy.action, given_outputs), True
        met = np.clip(wanted, -built.output.limit * built.output.scale, built.output.limit * built.output.scale)
    else:
        off = np.abs(codes - wanted_codes)
        actions, given_outputs, met = found[0], found[1], wanted
        actions = actions.reshape(len(x), *policy.action.shape)
        hold = _ends_hold(policy, codes, outputs, given_outputs, actions)
    right = reference.act(policy.action, wanted)
    same = np.isclose(actions, right, rtol=1e-5, atol=1e-5).reshape(len(x), -1).all(axis=1)
    return Kernels(
        name,
        dict(sorted(steps.items())),
        dict(sorted(Counter(off.reshape(len(x), -1).max(axis=1).tolist()).items())),
        _furthest(given_outputs, met),
        _furthest(actions, right),
        float(same.mean()),
        hold,
    )


def _follow(ops: Iterable[Op], q: Int64, observe: Callable[[Int64], Int64]) -> Int64:
    """LiteRT's codes behind ``ops``, each step compared with the reference's for LiteRT's codes in front of it."""
    for op in ops:
        if isinstance(op, Residual):
            assert op.skip is not None
            assert op.branch is not None
            *front, last = op.body
            if isinstance(last, Layer) and last.requantize is None:  # its sums are requantized at once
                inner = reference.run_integer((last,), _follow(front, q, observe), [])
                branch = observe(reference.requantize(op.branch, inner))
            else:
                branch = reference.requantize(op.branch, _follow(op.body, q, observe))
            q = np.clip(reference.requantize(op.skip, q) + branch, op.low, op.high)
        else:
            q = reference.run_integer((op,), q, [])
        q = observe(q)
    return q


def _outputs(policy: Policy, codes: Int64) -> NDArray[np.float32]:
    """The policy's outputs for the codes that go into its last layer."""
    found: NDArray[np.float32] = reference.run_integer(policy.ops[-1:], codes, []).astype(np.float32)
    return found * policy.layers[-1].scale


def _codes_of(outputs: NDArray[np.float32], of: Output) -> Int64:
    return np.clip(np.rint(outputs.astype(np.float64) / of.scale), -of.limit, of.limit).astype(np.int64)


def _ends_hold(
    policy: Policy, codes: Int64, wanted: NDArray[np.float32], outputs: NDArray[Any], actions: NDArray[Any]
) -> bool:
    """Whether float ends give, to rounding, what the reference makes of the codes that go into the last layer."""
    layer, transform = policy.layers[-1], policy.action
    sizes = (np.abs(codes) @ np.abs(layer.weight.astype(np.int64)).T + np.abs(layer.bias)) * layer.scale
    near = np.abs(outputs - wanted) <= (layer.weight.shape[1] + 4) * 2.0**-23 * sizes
    span = 0.0 if transform.kind != "box" else float(np.abs(np.array([transform.low, transform.high])).max())
    allowed = _TANH * span if transform.squash else 0.0
    return bool(near.all()) and _furthest(actions, reference.act(transform, outputs)) <= allowed


def _furthest(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a.astype(np.float64) - b).max(initial=0))
