"""Inference in NumPy: the specification of the arithmetic that every other engine must reproduce.

``docs/arithmetic.md`` says the same in prose. Integers are exact everywhere; float32 results are exact to the
bit, because this module rounds in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from policypress.errors import ObservationError, unknown
from policypress.policy import cells
from policypress.policy.activations import tanh
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import (
    CELLS,
    Activation,
    Cell,
    Flatten,
    History,
    InputQuantization,
    Layer,
    LayerNorm,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
    no_integers,
)
from policypress.policy.state import Memory, initial_state

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Record = list[NDArray[Any]]
Arrange = Callable[[NDArray[Any]], NDArray[Any]]
T = TypeVar("T")


# Observation -> float32


def observe(transform: ObservationTransform, observation: NDArray[Any]) -> Float32:
    """Raw observation(s) as the network's float32 input of shape (batch, *transform.shape).

    Raises ObservationError as ``arrange`` and ``to_network`` do.
    """
    return to_network(transform, arrange(transform, observation))


def arrange(transform: ObservationTransform, observation: NDArray[Any]) -> NDArray[Any]:
    """Raw observation(s) as an array (batch, *transform.shape) of the contract's dtype, in C order.

    ``observation`` is one observation or a batch of them, as an array, nested lists, or a tensor (with a gradient or
    on another device too); images may also come channels last. Float contracts take numbers of any kind, integer ones
    integers and bools, and no value changes but that float64 is rounded to float32.
    Raises ObservationError for another shape, or for values that the contract's dtype cannot hold.
    """
    shape = transform.shape
    array = _as_array(transform, observation)
    if transform.image and array.shape[-3:] != shape and array.shape[-3:] == (shape[1], shape[2], shape[0]):
        array = np.moveaxis(array, -1, -3)
    if array.shape != shape and array.shape[1:] != shape:
        raise ObservationError(
            f"The policy expects an observation of shape {shape} or a batch of them, but got {array.shape}."
        )
    return np.ascontiguousarray(_converted(transform, array).reshape(-1, *shape))


def _as_array(transform: ObservationTransform, observation: Any) -> NDArray[Any]:
    """What NumPy makes of ``observation``: numbers."""
    if hasattr(observation, "detach"):  # a tensor of PyTorch
        observation = observation.detach().cpu()
    try:
        array = np.asarray(observation)
    except ValueError:  # lists of different lengths
        array = np.empty((), object)
    except Exception as error:  # an object's own, as of tensors of types that NumPy does not have
        reason = str(error).partition("\n")[0].rstrip(".")
        what = f"{type(observation).__name__} that NumPy cannot read ({reason})"
        raise ObservationError(f"The policy expects {transform.dtype} observations, but got a {what}.") from error
    if array.dtype == object and not isinstance(observation, np.ndarray):
        raise ObservationError(
            f"The policy expects an array of {transform.dtype} observations, but got a {type(observation).__name__}."
        )
    return array


def _converted(transform: ObservationTransform, array: NDArray[Any]) -> NDArray[Any]:
    """``array`` in the contract's dtype."""
    expected, found = np.dtype(transform.dtype), array.dtype
    takes = (
        "biuf" if expected.kind == "f" else "iu" if transform.image else "biu"
    )  # a black and white image is not 0, 1
    if found.kind not in takes or found.itemsize > 8:
        raise ObservationError(
            f"The policy expects {transform.dtype} observations, but got {found}: convert them with .astype."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused later
        converted = array.astype(expected)
    narrow = expected.kind == "f" and found.itemsize >= expected.itemsize  # NumPy would say that int64 fits float64
    if found.kind in "iu" and (narrow or not np.can_cast(found, expected)):
        # Python compares integers with floats exactly, NumPy does not.
        pairs = zip(array.ravel().tolist(), converted.ravel().tolist(), strict=True)
        wrong = [value for value, held in pairs if value != held]
        if wrong:
            raise ObservationError(
                f"The policy expects {transform.dtype} observations, which cannot hold {wrong[0]} of the {found} given."
            )
    return converted


def to_network(transform: ObservationTransform, batch: NDArray[Any]) -> Float32:
    """The network's float32 input for what ``arrange`` returned: normalized, scaled, (batch, *transform.shape).

    Raises ObservationError for NaN, infinite or too large values.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        if transform.normalization is not None:
            n = transform.normalization
            wide = (batch.astype(np.float64) - n.mean) / np.sqrt(n.var + n.epsilon)
            x = np.clip(wide, -n.clip, n.clip).astype(np.float32)
            finite = np.isfinite(batch) & np.isfinite(x)
        else:
            x = batch.astype(np.float32)
            finite = np.isfinite(x)
    if not finite.all():
        raise ObservationError("The observation holds NaN, infinite or too large values.")
    return np.asarray(x / np.float32(255) if transform.image else x, dtype=np.float32)


def quantize_input(quantization: InputQuantization, x: Float32) -> Int64:
    """Input codes ``clip(rint(x * inverse_scale) - zero_point, low, high)``, shaped like ``x``.

    The product is rounded to float32; rint takes halves to even.
    """
    inverse_scale, zero_point = quantization.inverse_scale, quantization.zero_point
    shape = x.shape[1:] if inverse_scale.size > 1 else (1,)
    with np.errstate(over="ignore"):  # an infinite product is clipped
        codes: Float32 = np.rint(x * inverse_scale.reshape(shape))
    if zero_point is not None:
        codes = codes - zero_point.astype(np.float32).reshape(shape)
    return codes.clip(quantization.low, quantization.high).astype(np.int64)


# Network


def run(policy: Policy, x: Float32, record: Record | None = None) -> Float32:
    """Outputs of the last layer, float32 of shape (batch, outputs), for ``observe``'s ``x``.

    ``record`` receives what every operation computes, in the order of execution, those inside a residual
    block before the block itself: int64 arrays in integer numerics (codes; accumulators where a layer is not
    requantized), float32 arrays otherwise.
    A policy with a state is at the beginning of an episode in every row.
    Raises ObservationError if an observation is so large that float32 overflows.
    """
    return step(policy, x, initial_state(policy, len(x)), record)[0]


def step(policy: Policy, x: Float32, state: NDArray[Any], record: Record | None = None) -> tuple[Float32, NDArray[Any]]:
    """What ``run`` gives where the policy has the ``state`` (batch, ``policy.state_size``), and the next state."""
    trace: Record = record if record is not None else []
    memory = Memory(state)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        if policy.input is not None:
            accumulators = run_integer(policy.ops, quantize_input(policy.input, x), trace, memory)
            outputs = accumulators.astype(np.float32) * policy.layers[-1].scale
        else:
            outputs = run_float(policy.ops, x, trace, memory)
    if not np.isfinite(outputs).all():
        raise ObservationError("The observation is so large that the network's float32 values overflow.")
    return outputs, memory.state


def run_integer(ops: Iterable[Op], q: Int64, record: Record, memory: Memory | None = None) -> Int64:
    """What ``ops`` make of the codes ``q``, in integer numerics; ``record`` as for ``run``. ``memory``: their state,
    which they change, if there are any that have one."""
    for op in ops:
        match op:
            case Layer():
                q = _accumulate(op, q)
                if op.requantize is not None:
                    q = requantize(op.requantize, q)
                elif op.relu:
                    q = np.maximum(q, 0)
            case Relu():
                q = np.maximum(q, 0)
            case Activation():
                q = op.lookup.table[q + op.limit]
            case LayerNorm():
                no_integers(op)
            case Flatten():
                q = q.reshape(len(q), -1)
            case MaxPool2d():
                q = _max_pool(op, q, np.iinfo(np.int64).min)
            case Residual():
                branch = requantize(_present(op.branch), run_integer(op.body, q, record))
                q = np.clip(requantize(_present(op.skip), q) + branch, op.low, op.high)
            case History():
                q = _history(op, q, _present(memory))
            case Cell():
                q = _integer_cell(op, q, _present(memory))
            case _:
                unknown(op)
        record.append(q)
    return q


def _history(op: History, x: NDArray[Any], memory: Memory) -> NDArray[Any]:
    frames = np.concatenate([memory.recall(op.state_size(x.shape[1:])).astype(x.dtype), x], axis=1)
    memory.keep(frames[:, x.shape[1] :])
    return frames


class _Codes:
    """Arrays of codes in the formula of a cell."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def scaled(self, name: str, values: Int64) -> Int64:
        return requantize(self._cell.requantization(name), values)

    def look_up(self, function: Activation, codes: Int64) -> Int64:
        return np.asarray(function.lookup.table[codes + function.limit])

    def clip(self, values: Int64, limit: int) -> Int64:
        return np.clip(values, -limit, limit)


def _integer_cell(op: Cell, q: Int64, memory: Memory) -> Int64:
    kind = CELLS[op.kind]
    before = np.split(memory.recall(op.state_size(())).astype(np.int64), len(kind.state), axis=1)
    x = np.split(run_integer((op.input,), q, []), len(kind.gates), axis=1)
    y = np.split(run_integer((op.recurrent,), before[0], []), len(kind.gates), axis=1)
    after: list[Int64] = cells.of_codes(op, _Codes(op), x, y, before)
    memory.keep(*after)
    return after[0]


def _accumulate(layer: Layer, q: Int64) -> Int64:
    # Every partial sum is an integer below 2**31 (check_accumulators), and float64 holds integers up to 2**53
    # exactly: BLAS gives the exact result in whatever order it adds.
    columns, spread = _columns(layer, q)
    weight = layer.weight.reshape(len(layer.weight), -1)
    sums = weight.astype(np.float64) @ columns.astype(np.float64)
    return spread(sums.astype(np.int64) + layer.bias[:, None])


def requantize(requantization: Requantization, accumulator: Int64) -> Int64:
    """Codes ``clip((acc * multiplier + 2**(shift - 1)) >> shift, low, high)`` in int64, arithmetic shift.

    ``accumulator``: (batch, channels) or (batch, channels, height, width).
    """
    per_channel = (-1,) + (1,) * (accumulator.ndim - 2)
    multiplier = requantization.multiplier.astype(np.int64).reshape(per_channel)
    shift = requantization.shift.astype(np.int64).reshape(per_channel)
    half = np.int64(1) << (shift - 1)
    codes: Int64 = np.clip((accumulator * multiplier + half) >> shift, requantization.low, requantization.high)
    return codes


def _present(value: T | None) -> T:
    assert value is not None  # proven when the policy was made
    return value


def run_float(ops: Iterable[Op], x: Float32, record: Record, memory: Memory | None = None) -> Float32:
    """What ``ops`` make of ``x``, where activations are float32; ``record`` and ``memory`` as for ``run_integer``."""
    for op in ops:
        match op:
            case Layer():
                x = _float_layer(op, x)
            case Relu():
                x = _relu(x)
            case Activation():
                x = op.values(x)
            case LayerNorm():
                x = op.values(x)
            case Flatten():
                x = x.reshape(len(x), -1)
            case MaxPool2d():
                x = _max_pool(op, x, -np.inf)
            case Residual():
                x = x + run_float(op.body, x, record)
            case History():
                x = _history(op, x, _present(memory))
            case Cell():
                x = _float_cell(op, x, _present(memory))
            case _:
                unknown(op)
        record.append(x)
    return x


def _float_cell(op: Cell, x: Float32, memory: Memory) -> Float32:
    kind = CELLS[op.kind]
    before = np.split(memory.recall(op.state_size(())), len(kind.state), axis=1)
    taken = np.split(_float_layer(op.input, x), len(kind.gates), axis=1)
    recalled = np.split(_float_layer(op.recurrent, before[0]), len(kind.gates), axis=1)
    after: list[Float32] = cells.of_floats(op.kind, op.sigmoid.values, op.tanh.values, taken, recalled, before)
    memory.keep(*after)
    return after[0]


def _float_layer(layer: Layer, x: Float32) -> Float32:
    columns, spread = _columns(layer, x)
    weight = layer.weight.reshape(len(layer.weight), -1).astype(np.float32)
    y = _ordered_sums(weight, columns) * layer.scale[:, None] + layer.bias[:, None]
    return spread(_relu(y) if layer.relu else y)


def _ordered_sums(weight: Float32, columns: Float32) -> Float32:
    """Sums over k ascending of ``weight[:, k] * columns[k]``: product rounded, then sum; zeros skipped.

    ``weight``: (out, inputs); ``columns``: (inputs, n); returns (out, n).
    """
    sums = np.zeros((len(weight), columns.shape[1]), np.float32)
    for k in np.flatnonzero(weight.any(axis=0)):
        out = np.flatnonzero(weight[:, k])
        sums[out] += weight[out, k, None] * columns[k]
    return sums


def _relu(x: Float32) -> Float32:
    return np.where(x > 0, x, np.float32(0))  # unlike maximum, the same zero for -0.0 on every machine


def _columns(layer: Layer, x: NDArray[Any]) -> tuple[NDArray[Any], Arrange]:
    """Inputs of every output as columns (inputs, n), and the function that gives (out, n) its place again.

    Inputs are in the C order of (in channel, kernel row, kernel column); a convolution is a cross-correlation
    of the image with zeros around it.
    """
    batch = len(x)
    if not layer.is_conv:
        return x.T, lambda y: np.ascontiguousarray(y.T)
    windows = _windows(x, layer.weight.shape[2:], layer.stride, layer.padding, 0)
    height, width = windows.shape[2:4]
    columns = windows.transpose(1, 4, 5, 0, 2, 3).reshape(-1, batch * height * width)
    return columns, lambda y: np.ascontiguousarray(y.reshape(-1, batch, height, width).swapaxes(0, 1))


def _max_pool(pool: MaxPool2d, x: NDArray[Any], never: float) -> NDArray[Any]:
    maximum: NDArray[Any] = _windows(x, pool.kernel, pool.stride, pool.padding, never).max(axis=(4, 5))
    return maximum


def _windows(
    x: NDArray[Any], kernel: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int], fill: float
) -> NDArray[Any]:
    """Windows of an image batch: (batch, channels, out height, out width, kernel height, kernel width)."""
    around = [(0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])]
    padded = np.pad(x, around, constant_values=fill)
    return sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


# Outputs -> action


def act(transform: ActionTransform, outputs: Float32) -> NDArray[Any]:
    """Environment actions (batch, *shape) for the network's outputs (batch, outputs)."""
    if transform.kind == "discrete":
        choice: NDArray[np.int64] = np.argmax(outputs, axis=1).astype(np.int64)
        return choice + np.int64(transform.start)
    if transform.kind == "multi-discrete":
        groups = np.split(outputs, np.cumsum(transform.nvec)[:-1], axis=1)
        choices: NDArray[np.int64] = np.stack([np.argmax(group, axis=1) for group in groups], axis=1).astype(np.int64)
        return choices
    if transform.kind == "multi-binary":
        return (outputs > 0).astype(np.int64)
    low, high = _present(transform.low), _present(transform.high)
    outputs = outputs.reshape(-1, *transform.shape)
    if transform.squash:
        half = np.float32(0.5) * (tanh(outputs) + np.float32(1))
        action = low + half * (high - low)
    else:
        action = np.where(outputs > low, outputs, low)  # unlike clip, the same zero for -0.0 on every machine
        action = np.where(action < high, action, high)
    return action.astype(transform.dtype)
