"""What ONNX Runtime makes of an exported policy, compared with the reference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from policypress.errors import ExportError, ObservationError, unknown
from policypress.export.onnx_ends import normalization_error
from policypress.export.onnx_graph import OPSET, STEPS, STYLE, Step, Style
from policypress.policy import activations, cells, reference
from policypress.policy.contract import ActionTransform
from policypress.policy.observations import turns
from policypress.policy.ops import (
    CELLS,
    FLOAT_BITS,
    Activation,
    Cell,
    Flatten,
    History,
    Layer,
    LayerNorm,
    MaxPool2d,
    Op,
    Relu,
    Residual,
)
from policypress.policy.policy import Policy
from policypress.policy.state import Memory, initial_state

_ROUNDING = 2.0**-24  # of one float32 operation
_TINIEST = 2.0**-149
_TANH = 4e-7  # between two float32 tanh, ours and another decent one
_FUNCTION = 2.0**-20  # between two float32 forms of a function, see ``formula_error``
_FAR = 1e12  # whose cube is a float32 too

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """Largest difference between ONNX Runtime and the reference in one place, and what the style allows there.

    In integer steps where the place is a step; in real units where it is "outputs" or "action".
    """

    place: str
    largest: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.largest <= self.allowed


@dataclass(frozen=True)
class OnnxReport:
    """What the comparison of a graph with its policy found.

    ``observation`` is their dtype; ``observations`` were given in a batch, some of them alone too. ``steps``: each
    integer step, compared with what the reference makes of the integers that go into it in ONNX Runtime, in a copy of
    the graph that gives them out.
    ``outputs``: from end to end, but in style "qdq" for the integers that go into the last layer of that copy.
    ``action``: compared with the reference's for the outputs of the graph. ``outputs_difference`` and
    ``action_difference`` are the largest from end to end, in real units, whatever is allowed; ``equal_actions`` is the
    share of observations whose whole action is the same (to 1e-5 where no bits are promised).
    """

    style: Style
    numerics: str
    observation: str
    payload_bytes: int
    observations: int
    steps: tuple[Difference, ...]
    outputs: Difference
    action: Difference
    outputs_difference: float
    action_difference: float
    equal_actions: float

    @property
    def worst(self) -> Difference:
        """The place that goes furthest beyond what is allowed."""
        return max((*self.steps, self.outputs, self.action), key=lambda found: found.largest - found.allowed)

    @property
    def holds(self) -> bool:
        return self.worst.holds

    @property
    def step_difference(self) -> int:
        """Largest difference of an integer, in integer steps; 0 if activations are float32."""
        return int(max((step.largest for step in self.steps), default=0))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**dataclasses.asdict(self), "step_difference": self.step_difference, "holds": self.holds}

    def rows(self) -> dict[str, str]:
        """What people read of it."""
        rows = {
            "style": f"{self.style}, {self.numerics} numerics, opset {OPSET}, {self.observation} observations",
            "bytes": f"{self.payload_bytes:,}",
            "compared": f"{self.observations:,} observations in ONNX Runtime {onnxruntime.__version__}",
        }
        if self.steps:
            allowed = max(step.allowed for step in self.steps)
            rows["integers"] = f"largest difference {self.step_difference} steps, {allowed:g} allowed"
        rows["outputs"] = f"largest difference {self.outputs_difference:.3g}"
        rows["actions"] = f"{self.equal_actions:.1%} as the policy's, largest difference {self.action_difference:.3g}"
        return rows


class Runner:
    """A graph in ONNX Runtime, on one thread of the CPU; calling it gives outputs, actions and the ``extra`` tensors.
    Of a policy with a state, calling it with one gives the next one behind the actions; None: an episode begins.

    Products of uint8 and int8 are kept from saturating on x86 processors without VNNI (docs/onnx.md).
    """

    def __init__(self, model: bytes, extra: Iterable[str] = ()) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            observation, *states = self._session.get_inputs()
        except Exception as error:  # ONNX Runtime's errors share no base
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot run this graph: {reason}") from error
        names = {"float": "float32", "double": "float64"}
        name = observation.type.removeprefix("tensor(").removesuffix(")")
        self.dtype = np.dtype(names.get(name, name))
        self.shape = tuple(observation.shape[1:])
        self.state_size = int(states[0].shape[1]) if states else 0
        self._state = np.float32 if states and states[0].type == "tensor(float)" else np.int16
        self._results = ["outputs", "action", *(["h_out"] if states else []), *extra]

    def __call__(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> list[NDArray[Any]]:
        if observations.shape != self.shape and observations.shape[1:] != self.shape:
            raise ObservationError(
                f"The graph expects an observation of shape {self.shape} or a batch of them, "
                f"but got {observations.shape}."
            )
        with np.errstate(over="ignore"):
            batch = np.ascontiguousarray(observations.reshape(-1, *self.shape), dtype=self.dtype)
        given = {"observation": batch}
        if self.state_size:
            given["h_in"] = np.zeros((len(batch), self.state_size), self._state) if state is None else state
        return list(self._session.run(self._results, given))


def compare(
    policy: Policy, model: bytes, observations: NDArray[Any], alone: int = 8, runner: Callable[..., Any] = Runner
) -> OnnxReport:
    """What ``model`` makes of ``observations`` (batch, *shape), the first ``alone`` of them one by one as well;
    where it has a state they are sequences side by side.

    Raises ExportError if it is no export of such a policy, ObservationError as the policy does.
    """
    try:
        parsed = onnx.load_from_string(model)
    except Exception as error:  # the decoder's errors belong to protobuf
        raise ExportError("The file is not an ONNX graph: compare one that policypress exported.") from error
    facts = {entry.key: entry.value for entry in parsed.metadata_props}
    if facts.get(STYLE) not in ("exact", "qdq") or STEPS not in facts:
        raise ExportError("The graph does not say what its tensors are: compare one that policypress exported.")
    style: Style = "qdq" if facts[STYLE] == "qdq" else "exact"
    steps = [Step(*step) for step in json.loads(facts[STEPS])]

    run = runner(model)
    if policy.state_size:
        return _compare_sequences(policy, model, style, observations, run)
    x = reference.observe(policy.observation, observations)
    wanted = reference.run(policy, x)
    if (run.shape, run.dtype) != (policy.observation.shape, policy.observation.dtype):
        raise ExportError("The graph is not one of this policy: it takes other observations.")
    batch = run(observations)
    if batch[0].shape != wanted.shape or batch[1].shape[1:] != policy.action.shape:
        raise ExportError("The graph is not one of this policy: it gives other outputs or actions.")
    singles = [run(observation) for observation in observations[:alone]]
    again = np.r_[: len(observations), : len(singles)]
    outputs, actions = (np.concatenate([batch[i], *(single[i] for single in singles)]) for i in (0, 1))

    found: list[Difference] = []
    if policy.input is None:
        inside = normalization_error(policy, style)
        apart = np.zeros_like(x) if inside is None else np.full_like(x, inside)
        allowed = _rounding(policy.ops, x, apart)[again]
        end = _worst("outputs", _distance(outputs, wanted[again]), allowed)
    else:
        names = list(dict.fromkeys(step.tensor for step in steps if step.tensor))
        seen, _, *tensors = runner(_with_outputs(parsed, names), names)(observations)
        last, found = _steps(policy, x, steps, dict(zip(names, tensors, strict=True)), style)
        if style == "exact":
            end = _worst("outputs", _distance(outputs, wanted[again]), np.zeros_like(outputs))
        else:
            near, allowed = _end(policy, last)
            end = _worst("outputs", _distance(seen, near), allowed)
    finite = np.isfinite(outputs).all(axis=1)  # float32 sums may overflow in one order and not in another
    action = _action(policy.action, outputs[finite], actions[finite], style)
    right = reference.act(policy.action, wanted)[again]
    equal = _equal(policy, style, actions, right)
    return OnnxReport(
        style=style,
        numerics=policy.numerics,
        observation=policy.observation.dtype,
        payload_bytes=len(model),
        observations=len(observations),
        steps=tuple(found),
        outputs=end,
        action=action,
        outputs_difference=float(_distance(outputs, wanted[again])[finite].max(initial=0)),
        action_difference=float(_distance(actions, right)[finite].max(initial=0)),
        equal_actions=float(equal.reshape(len(again), -1).all(axis=1).mean()),
    )


def _compare_sequences(policy: Policy, model: bytes, style: Style, observations: NDArray[Any], run: Any) -> OnnxReport:
    """The report of a policy with a state: from the same state outputs, action and next state of every step."""
    observation = policy.observation
    if (run.shape, run.dtype, run.state_size) != (observation.shape, observation.dtype, policy.state_size):
        raise ExportError("The graph is not one of this policy: it takes other observations or states.")
    found, wanted = list[list[NDArray[Any]]](), list[list[NDArray[Any]]]()
    for number, turn in enumerate(turns(policy, observations)):
        allowed, kept = np.zeros_like(turn.outputs), np.zeros_like(turn.after)
        if policy.input is None:
            near: list[_Near] = []
            x, inside = reference.observe(observation, turn.observations), normalization_error(policy, style)
            apart = np.zeros_like(x) if inside is None else np.full_like(x, inside)
            allowed = _rounding(policy.ops, x, apart, Memory(turn.before), near)
            kept = np.concatenate([one.apart for one in near], axis=1)
        for rows in [slice(None)] if number % 4 else [slice(None), slice(0, 1)]:
            found.append(run(turn.observations[rows], turn.before[rows]))
            wanted.append([turn.outputs[rows], turn.after[rows], allowed[rows], kept[rows]])
    if not found:
        raise ExportError("No observation is left to compare the graph with.")
    outputs, actions, after = (np.concatenate(parts) for parts in zip(*found, strict=True))
    right, state, allowed, kept = (np.concatenate(parts) for parts in zip(*wanted, strict=True))
    states, end = _worst("state", _distance(after, state), kept), _worst("outputs", _distance(outputs, right), allowed)
    if policy.input is None and states.largest - states.allowed > end.largest - end.allowed:
        end = states  # a state of no integers stands in the place of the outputs
    finite = np.isfinite(outputs).all(axis=1)
    wanted_actions = reference.act(policy.action, right)
    equal = _equal(policy, style, actions, wanted_actions)
    return OnnxReport(
        style=style,
        numerics=policy.numerics,
        observation=observation.dtype,
        payload_bytes=len(model),
        observations=len(observations),
        steps=() if policy.input is None else (states,),
        outputs=end,
        action=_action(policy.action, outputs[finite], actions[finite], style),
        outputs_difference=float(_distance(outputs, right)[finite].max(initial=0)),
        action_difference=float(_distance(actions, wanted_actions)[finite].max(initial=0)),
        equal_actions=float(equal.reshape(len(equal), -1).all(axis=1).mean()),
    )


def _equal(policy: Policy, style: Style, actions: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Which actions are the same: to 1e-5 where no bits are promised."""
    exact = style == "exact" and policy.input is not None
    return np.asarray(actions == right if exact else np.isclose(actions, right, rtol=1e-5, atol=1e-6))


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The graph with more outputs, whose types ONNX Runtime finds by itself."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(tapped.SerializeToString())


# Integer numerics, step by step


def _steps(
    policy: Policy, x: Float32, steps: Sequence[Step], values: dict[str, NDArray[Any]], style: Style
) -> tuple[Int64, list[Difference]]:
    """What goes into the last layer in ONNX Runtime, and how far every step is from the reference's."""
    assert policy.input is not None
    found: list[Difference] = []

    def observe(step: Step, q: Int64, allowed: int) -> Int64:
        """``q`` is what the reference makes of the integers in front; returns those of ONNX Runtime, if it has them."""
        if not step.tensor:
            return q
        observed = values[step.tensor].astype(np.int64) - step.zero
        if observed.shape != q.shape:
            raise ExportError("The graph is not one of this policy: its layers have other shapes.")
        found.append(Difference(step.name, float(np.abs(observed - q).max(initial=0)), allowed))
        return observed

    def walk(ops: Iterable[Op], q: Int64, later: Iterator[Step]) -> Int64:
        for op in ops:
            if isinstance(op, Residual):
                assert op.skip is not None
                assert op.branch is not None
                branch = reference.requantize(op.branch, walk(op.body, q, later))
                q = np.clip(reference.requantize(op.skip, q) + branch, op.low, op.high)
            else:
                if isinstance(op, Activation):  # whose table ends where int8 has one code more
                    q = np.clip(q, -op.limit, op.limit)
                q = reference.run_integer((op,), q, [])
            rounds = style == "qdq" and isinstance(op, Layer | Residual | Activation)
            q = observe(next(later), q, 1 if rounds else 0)
        return q

    later = iter(steps)
    try:
        near = 0 if style == "exact" or normalization_error(policy, style) is None else 1
        codes = observe(next(later), reference.quantize_input(policy.input, x), near)
        last = walk(policy.ops[:-1], codes, later)
        walk(policy.ops[-1:], last, later)
    except StopIteration:
        raise ExportError("The graph is not one of this policy: it has fewer layers.") from None
    return last, found


def _end(policy: Policy, last: Int64) -> tuple[Float32, Float32]:
    """Outputs for the codes that go into the last layer, and how far float32 sums may be from them."""
    layer = policy.layers[-1]
    outputs = reference.run_integer((layer,), last, []).astype(np.float32) * layer.scale
    codes = last.astype(np.float32)
    real = dataclasses.replace(layer, bias=(layer.bias * layer.scale).astype(np.float32))
    return outputs, _rounding((real,), codes, np.zeros_like(codes))


# float32 activations: how far two orders of summation may be apart


class _Near(NamedTuple):
    """float32 values that another order of summation gives within ``apart``."""

    value: Float32
    apart: Float32

    def __add__(self, other: _Near) -> _Near:  # type: ignore[override]
        size = np.abs(self.value) + np.abs(other.value)
        apart = np.float32(1.01) * (self.apart + other.apart) + np.float32(2 * _ROUNDING) * size
        return _Near(self.value + other.value, apart.astype(np.float32))

    def __mul__(self, other: _Near) -> _Near:  # type: ignore[override]
        value = self.value * other.value
        apart = np.abs(self.value) * other.apart + self.apart * (np.abs(other.value) + other.apart)
        return _Near(value, np.float32(1.01) * apart + np.float32(2 * _ROUNDING) * np.abs(value))

    def __rsub__(self, other: float) -> _Near:
        rounding = np.float32(2 * _ROUNDING) * (np.float32(other) + np.abs(self.value))
        return _Near(np.float32(other) - self.value, self.apart + rounding)

    def through(self, op: Activation) -> _Near:
        apart = np.float32(1.01 * _steepness(op)) * self.apart + formula_error(op, self.value)
        return _Near(op.values(self.value), apart)


def _cell_rounding(op: Cell, x: Float32, apart: Float32, before: NDArray[Any]) -> list[_Near]:
    """The next state of a cell, h first."""
    kind = CELLS[op.kind]
    vectors = np.split(before, len(kind.state), axis=1)
    layers = []
    for layer, taken, off in ((op.input, x, apart), (op.recurrent, vectors[0], np.zeros_like(vectors[0]))):
        given = reference.run_float((layer,), taken, []), _rounding((layer,), taken, off)
        parts = [np.split(values, len(kind.gates), axis=1) for values in given]
        layers.append([_Near(*both) for both in zip(*parts, strict=True)])
    exact = [_Near(vector, np.zeros_like(vector)) for vector in vectors]
    sigmoid, tanh = (lambda near: near.through(op.sigmoid)), (lambda near: near.through(op.tanh))
    found: list[_Near] = cells.of_floats(op.kind, sigmoid, tanh, layers[0], layers[1], exact)
    return found


def _rounding(
    ops: Iterable[Op], x: Float32, apart: Float32, memory: Memory | None = None, states: list[_Near] | None = None
) -> Float32:
    """Bound of the difference between two float32 runs of ``ops``, one from ``x`` and one within ``apart`` of it.

    A sum of n rounded products is within n roundings of sum |w| |x|, in whatever order; ReLU and max pooling bring
    nothing further apart, an activation by its largest slope and by what its formula rounds. 1 % pays for computing the
    bound itself in float32. ``memory``: the state of operations that have one; ``states`` receives the next one.
    Infinite or NaN where sums could overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for op in ops:
            match op:
                case Layer():
                    terms = op.weight[0].size + 4
                    inputs = np.abs(x) + apart
                    size = reference.run_float((_absolute(op, bias=True),), inputs, [])
                    weight = np.abs(op.weight).astype(np.float32)
                    unscaled = dataclasses.replace(_absolute(op, bias=False), weight=weight)
                    sums = reference.run_float((unscaled,), inputs, [])
                    apart = reference.run_float((_absolute(op, bias=False),), apart, [])
                    apart = (np.float32(1.01) * apart + np.float32(2.02 * terms * _ROUNDING) * size) + np.float32(
                        2 * terms * _TINIEST
                    )
                    # Zero weights too multiply what overflows: then nothing is known of the observation any more.
                    known = [np.isfinite(values).reshape(len(x), -1).all(axis=1) for values in (inputs, sums)]
                    apart[~(known[0] & known[1])] = np.inf
                case Activation():
                    apart = np.float32(1.01 * _steepness(op)) * apart + formula_error(op, x)
                case LayerNorm():
                    apart = _norm_rounding(op, x, apart)
                case Flatten() | MaxPool2d():
                    apart = reference.run_float((op,), apart, [])
                case Relu():
                    pass
                case Residual():
                    inside = _rounding(op.body, x, apart)
                    size = np.abs(x) + np.abs(reference.run_float((op,), x, []))
                    apart = (apart + inside) * np.float32(1.01) + np.float32(4 * _ROUNDING) * size
                case History():
                    assert memory is not None
                    before = memory.recall(op.state_size(x.shape[1:]))
                    apart = np.concatenate([np.zeros_like(before), apart], axis=1)
                    x = np.concatenate([before, x], axis=1)
                    if states is not None:
                        states.append(_Near(x[:, -before.shape[1] :], apart[:, -before.shape[1] :]))
                    continue
                case Cell():
                    assert memory is not None
                    after = _cell_rounding(op, x, apart, memory.recall(op.state_size(())))
                    if states is not None:
                        states += after
                    x, apart = after[0]
                    continue
                case _:
                    unknown(op)
            x = reference.run_float((op,), x, [])
    return apart


def _norm_rounding(op: LayerNorm, x: Float32, apart: Float32) -> Float32:
    """The same of a LayerNorm: a value that is further from the mean, and a deviation that is another by as much as
    their root mean square, as the triangle's inequality says. Where squares could overflow nothing is known."""
    terms = x.shape[1] + 8
    size = np.abs(x) + apart

    def mean(values: Float32) -> Float32:
        return np.asarray(values.mean(axis=1, keepdims=True))

    distance = x - mean(x)
    off = apart + mean(apart) + np.float32(2 * terms * _ROUNDING) * (mean(size) + size)
    deviation = np.sqrt(mean(distance * distance) + np.float32(op.epsilon))
    other = np.sqrt(mean(off * off)) + np.float32(2 * terms * _ROUNDING) * deviation
    least = np.maximum(deviation - other, np.float32(0.99 * np.sqrt(op.epsilon)))
    ratio = np.abs(distance) / deviation
    found = np.abs(op.weight) * (off + ratio * other) / least
    found = np.float32(1.01) * found + np.float32(8 * _ROUNDING) * (np.abs(op.weight) * ratio + np.abs(op.bias))
    known = np.isfinite(mean(size * size) * np.float32(4 * terms)) & np.isfinite(found).all(axis=1, keepdims=True)
    return np.where(known, found, np.float32(np.inf))


@cache
def _steepness(op: Activation) -> float:
    """The largest magnitude of the function's slope, over all magnitudes of its argument."""
    reach = np.geomspace(1e-30, _FAR, 50_000, dtype=np.float32)
    return float(np.nanmax(np.abs(_slopes(op, np.concatenate([-reach, reach])))))


def formula_error(op: Activation, x: Float32) -> Float32:
    """How far another decent float32 form of the function may be from the reference's.

    A share of the value and of what the size of its argument moves, and a few roundings of what may cancel out inside:
    1, what it saturates at, and, where it does not on either side, a factor like x itself.
    """
    ends = np.abs(op.values(np.array([-_FAR, _FAR], np.float32)))
    saturates = ends < _FAR / 2**20
    inside = np.maximum(np.float32(1), ends[saturates].max(initial=0))
    if not saturates.all():
        inside = np.maximum(inside, np.abs(x))
    share = np.abs(_slopes(op, x) * x) + np.abs(op.values(x))
    error: Float32 = np.float32(_FUNCTION) * share + np.float32(4 * _ROUNDING) * inside
    return error


def _slopes(op: Activation, x: Float32) -> Float32:
    with np.errstate(over="ignore", invalid="ignore"):
        slopes = activations.FUNCTIONS[op.function].slope(activations.NumPy, x, op.values(x), *op.parameters)
    return np.broadcast_to(slopes, x.shape).astype(np.float32)


def _absolute(layer: Layer, bias: bool) -> Layer:
    """The layer of magnitudes: |w| scale, and |bias| or none."""
    scale = layer.scale.reshape((-1,) + (1,) * (layer.weight.ndim - 1))
    return dataclasses.replace(
        layer,
        weight=np.abs(layer.weight.astype(np.float32)) * scale,
        bias=np.abs(layer.bias) if bias else np.zeros_like(layer.bias),
        weight_bits=FLOAT_BITS,
        scale=np.ones(1, np.float32),
        relu=False,
    )


def _action(transform: ActionTransform, outputs: Float32, actions: NDArray[Any], style: Style) -> Difference:
    """The action against what the reference makes of the same outputs."""
    allowed = 0.0
    if style == "qdq" and transform.squash:
        low, high = np.abs(np.asarray(transform.low)), np.abs(np.asarray(transform.high))
        allowed = float((low + high).max()) * (_TANH / 2 + 4 * _ROUNDING)
    distance = _distance(actions, reference.act(transform, outputs))
    return _worst("action", distance, np.full(distance.shape, allowed))


def _worst(place: str, distance: NDArray[np.float64], allowed: NDArray[Any]) -> Difference:
    """The value that goes furthest beyond what is allowed, of those for which something is."""
    known = np.isfinite(allowed)
    distance, bound = distance[known], allowed[known].astype(np.float64)
    if distance.size == 0:
        return Difference(place, 0.0, 0.0)
    worst = int(np.argmax(distance - bound))
    return Difference(place, float(distance[worst]), float(bound[worst]))


def _distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Infinite where one is NaN, which would compare as no difference at all."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return np.where(np.isnan(distance), np.inf, distance)


# Observations to compare with


def check_observations(policy: Policy, count: int, seed: int) -> NDArray[Any]:
    """Observations (batch, *shape) that the policy accepts: its test vectors, ``count`` random and 10 to 50 extreme."""
    rng = np.random.default_rng(seed)
    transform, dtype = policy.observation, np.dtype(policy.observation.dtype)
    signs = rng.choice([-1.0, 1.0], (10, *transform.shape))
    signs[0], signs[1] = 1, -1
    if dtype.kind == "f":
        spread = rng.choice([0.1, 1, 10], (count,) + (1,) * len(transform.shape))
        usual = rng.normal(size=(count, *transform.shape)) * spread
        if transform.normalization is not None:
            usual = usual * np.sqrt(transform.normalization.var) + transform.normalization.mean
        elif policy.input is not None:  # over the whole range of the codes, and beyond
            scale = policy.input.inverse_scale.astype(np.float64)
            reach = max(-policy.input.low, policy.input.high) / 3
            shape = transform.shape if scale.size > 1 else (1,)
            zeros = 0 if policy.input.zero_point is None else policy.input.zero_point.reshape(shape)
            usual = (usual * reach + zeros) / scale.reshape(shape)
        top = float(np.finfo(dtype).max)
        extreme = [signs * size for size in (0.0, 1e3, 1e30, float(np.finfo(np.float32).max), top) if size <= top]
    else:
        info = np.iinfo(dtype)
        usual = rng.integers(info.min, info.max, (count, *transform.shape), dtype, endpoint=True)
        extreme = [np.where(signs > 0, info.max, info.min)]
    with np.errstate(over="ignore"):  # what overflows is not accepted
        candidates = np.concatenate([rows.astype(dtype) for rows in (usual, *extreme)])
    vectors = [] if policy.test_vectors is None else [policy.test_vectors.observations]
    return np.concatenate([*vectors, _legal(policy, candidates)])


def _legal(policy: Policy, observations: NDArray[Any]) -> NDArray[Any]:
    """Those that the policy does not refuse, whatever the order of float32 sums."""
    try:
        x = reference.observe(policy.observation, observations)
        reference.run(policy, x)
    except ObservationError:
        if len(observations) == 1:
            return observations[:0]
        middle = len(observations) // 2
        return np.concatenate([_legal(policy, half) for half in (observations[:middle], observations[middle:])])
    if policy.input is not None:
        return observations
    beginning = Memory(initial_state(policy, len(x)))
    finite = np.isfinite(_rounding(policy.ops, x, np.zeros_like(x), beginning))
    return np.asarray(observations[finite.all(axis=1)])
