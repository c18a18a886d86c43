"""The arithmetic of the reference: by hand, against slow Python integers, and against torch."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from policypress.errors import ObservationError
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.policy.ops import (
    INT32_MAX,
    INT32_MIN,
    Activation,
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Numerics, Policy
from policypress.testing import NUMERICS, Builder, Kind, make_policy, random_observations, tanh_op

torch = pytest.importorskip("torch", reason="convolutions and pooling are compared with torch's")

ONE = np.ones(1, np.float32)
Nested = Any  # lists in lists of Python integers


def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def tiny(ops: tuple[Op, ...], shape: tuple[int, ...], inputs: InputQuantization | None) -> Policy:
    action = ActionTransform("discrete", dtype="int64")
    return Policy(ops, ObservationTransform(shape, "float32"), action, inputs, baseline_bytes=4)


def recorded(policy: Policy, x: Any) -> tuple[NDArray[np.float32], list[NDArray[Any]]]:
    record: list[NDArray[Any]] = []
    return reference.run(policy, np.asarray(x, np.float32), record), record


# By hand


def test_input_codes_round_half_to_even_and_saturate() -> None:
    quantization = InputQuantization(np.array([2, 2, 2, 2, 2, 2, 1], np.float32), -3, 3, 3)
    x = np.array([[0.25, 0.75, 1.25, -0.25, -0.75, 9, -3e38]], np.float32)
    assert reference.quantize_input(quantization, x).tolist() == [[0, 2, 2, 0, -2, 3, -3]]


def test_zero_points_come_off_rounded_codes() -> None:
    points = np.array([600, -3, 0, 1, 1, 32768], np.int32)
    quantization = InputQuantization(np.full(6, 2, np.float32), -3, 3, 3, points)
    x = np.array([[300.6, -1.25, 0.25, 0.75, -3e38, 3e38], [298, -2, -9, 1.25, 3e38, 16384]], np.float32)
    assert reference.quantize_input(quantization, x).tolist() == [[1, 1, 0, 1, -3, 3], [-3, -1, -3, 1, 3, 0]]


def test_one_inverse_scale_serves_an_image() -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) / np.float32(255)
    codes = reference.quantize_input(InputQuantization(np.array([255], np.float32), 0, 255, 8), x)
    assert codes.tolist() == np.arange(12).reshape(1, 3, 2, 2).tolist()


def test_every_pixel_is_its_own_code() -> None:
    transform = ObservationTransform((1, 16, 16), "uint8", image=True)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    x = reference.observe(transform, pixels)
    codes = reference.quantize_input(InputQuantization(np.array([255], np.float32), 0, 255, 8), x)
    assert np.array_equal(codes[0], pixels)


def test_requantize_rounds_half_up_with_an_arithmetic_shift() -> None:
    half = Requantization(int32(2**7), int32(8), -100, 100)  # a factor of one half
    accumulators = np.array([[5, 4, 3, 0, -1, -2, -3, -5, 1000, -1000]])
    assert reference.requantize(half, accumulators).tolist() == [[3, 2, 2, 0, 0, -1, -1, -2, 100, -100]]


def test_requantize_per_channel_of_an_image() -> None:
    requantization = Requantization(int32(2**7, 2**7), int32(7, 8), 0, 255)
    accumulators = np.array([[[[4, -4]], [[4, 7]]]])
    assert reference.requantize(requantization, accumulators).tolist() == [[[[4, 0]], [[2, 4]]]]


@pytest.mark.parametrize("shift", [1, 16, 31])
@pytest.mark.parametrize("accumulator", [INT32_MIN, -1, 1, INT32_MAX])
def test_requantize_does_not_overflow_at_its_limits(shift: int, accumulator: int) -> None:
    requantization = Requantization(int32(255), int32(shift), INT32_MIN, INT32_MAX)
    wanted = (accumulator * 255 + 2 ** (shift - 1)) >> shift
    got = reference.requantize(requantization, np.array([[accumulator]]))
    assert got.item() == min(max(wanted, INT32_MIN), INT32_MAX)


def test_integer_network_by_hand() -> None:
    hidden = Layer(
        np.array([[1, -1], [-1, 0]], np.int8), int32(1, 2), 2, ONE, True,
        Requantization(int32(2**7), int32(7), 0, 7),
    )  # fmt: skip
    last = Layer(np.array([[3, -2]], np.int8), int32(-4), 3, np.array([0.5], np.float32), False)
    policy = tiny((hidden, last), (2,), InputQuantization(ONE, -7, 7, 4))
    outputs, record = recorded(policy, [[5, 2], [-6, 1]])
    # 5 - 2 + 1 = 4 and -5 + 2 = -3 -> 0;  -6 - 1 + 1 = -6 -> 0 and 6 + 2 = 8 -> 7
    assert [r.tolist() for r in record] == [[[4, 0], [0, 7]], [[8], [-18]]]
    assert outputs.tolist() == [[4], [-9]]
    assert outputs.dtype == np.float32


def test_residual_by_hand() -> None:
    body = Layer(np.array([[1, 1], [1, -1]], np.int8), int32(0, 10), 2, ONE, False)
    limits = INT32_MIN, INT32_MAX
    skip = Requantization(int32(2**7), int32(6), *limits)  # times 2
    branch = Requantization(int32(2**7, 2**7), int32(7, 8), *limits)  # times 1 and 1/2
    block = Residual((body,), skip, branch, -20, 20)
    last = Layer(np.eye(2, dtype=np.int8), int32(0, 0), 2, ONE, False)
    _, record = recorded(tiny((block, last), (2,), InputQuantization(ONE, -127, 127, 8)), [[3, 4], [9, -9]])
    # body: 7 and 9;  0 and 28.  sums: 6 + 7 and 8 + 5 (9/2 rounds up);  18 + 0 and -18 + 14
    assert [r.tolist() for r in record] == [[[7, 9], [0, 28]], [[13, 13], [18, -4]], [[13, 13], [18, -4]]]


def test_residual_clips_the_sum() -> None:
    body = Layer(np.array([[1]], np.int8), int32(0), 2, ONE, False)
    keep = Requantization(int32(2**7), int32(7), INT32_MIN, INT32_MAX)
    block = Residual((body,), keep, keep, -20, 15)
    policy = tiny((block, body), (1,), InputQuantization(ONE, -127, 127, 8))
    _, record = recorded(policy, [[9], [-11], [3]])
    assert record[1].tolist() == [[15], [-20], [6]]


def test_relu_of_codes_and_of_floats() -> None:
    layer = Layer(np.array([[1]], np.int8), int32(0), 2, ONE, False)
    policy = tiny((Relu(), layer), (1,), InputQuantization(ONE, -7, 7, 4))
    assert recorded(policy, [[-3], [5]])[1][0].tolist() == [[0], [5]]
    layer = Layer(np.array([[1]], np.int8), np.zeros(1, np.float32), 2, ONE, True)
    outputs, _ = recorded(tiny((layer,), (1,), None), [[-3], [-0.0], [5]])
    assert outputs.tolist() == [[0], [0], [5]]
    assert not np.signbit(outputs).any()


def test_tanh_of_codes_and_of_floats() -> None:
    keep = Requantization(int32(2**7), int32(7), -255, 255)
    hidden = Layer(np.array([[1]], np.int8), int32(0), 2, ONE, False, keep)
    last = Layer(np.array([[1]], np.int8), int32(0), 2, ONE, False)
    x = [[0], [1], [-1], [64], [-64], [199], [200], [-300]]
    _, record = recorded(tiny((hidden, tanh_op(8), last), (1,), InputQuantization(ONE, -300, 300, 10)), x)
    # 127 tanh(1) = 96.7, 127 tanh(199 / 64) = 126.496; 300 is 255 before the table
    assert record[1].ravel().tolist() == [0, 2, -2, 97, -97, 126, 127, -127]
    assert record[0].ravel().tolist()[-1] == -255
    hidden, last = (Layer(one.weight, np.zeros(1, np.float32), 2, ONE, False) for one in (hidden, last))
    values = np.linspace(-12, 12, 99, dtype=np.float32)[:, None]
    outputs, _ = recorded(tiny((hidden, Activation("tanh"), last), (1,), None), values)
    assert outputs.tobytes() == reference.tanh(values).tobytes()


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_table_of_tanh_is_rounded_correctly(bits: int) -> None:
    """Every entry, and with room: no machine's tanh could round one of them otherwise."""
    whole, high = tanh_op(bits).lookup.table, 2 ** (bits - 1) - 1
    table = whole[255:]
    assert np.array_equal(whole, -whole[::-1])
    exact = [high * math.tanh(code * (1 / 64)) for code in range(255 + 1)]
    assert table.tolist() == [math.floor(value + 0.5) for value in exact]
    assert min(abs(value % 1 - 0.5) for value in exact) > 1.5e-4
    assert (table[0], table[-1]) == (0, high)
    assert (np.diff(table) >= 0).all()
    assert not whole.flags.writeable


@pytest.mark.parametrize(("bits", "error"), [(2, 0.5041), (4, 0.0779), (6, 0.0235), (8, 0.0113)])
def test_the_error_of_tanh_in_integers(bits: int, error: float) -> None:
    """Rounding in front and rounding behind: the figures of docs/arithmetic.md."""
    x = np.linspace(-8, 8, 100_001)
    codes = np.clip(np.floor(x / (1 / 64) + 0.5), -255, 255).astype(np.int64)
    op = tanh_op(bits)
    off = np.abs(op.lookup.table[codes + 255] / op.high - np.tanh(x)).max()
    assert 0.97 * error < off < error


def test_padding_never_wins_a_maximum() -> None:
    pool = MaxPool2d((3, 3), (2, 2), (1, 1))
    layer = Layer(np.array([[1, 1, 1, 1]], np.int8), int32(0), 2, ONE, False)
    policy = tiny((pool, Flatten(), layer), (1, 3, 3), InputQuantization(ONE, -127, 127, 8))
    image = -np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    assert recorded(policy, image)[1][0].tolist() == [[[[-1, -2], [-4, -5]]]]


def test_flatten_is_in_c_order() -> None:
    layer = Layer(np.ones((1, 8), np.int8), int32(0), 2, ONE, False)
    policy = tiny((Flatten(), layer), (2, 2, 2), InputQuantization(ONE, -127, 127, 8))
    assert recorded(policy, np.arange(8).reshape(1, 2, 2, 2))[1][0].tolist() == [list(range(8))]


def test_scale_of_the_last_layer_is_one_float32_product() -> None:
    scale = np.array([0.1, 1e-3], np.float32)
    layer = Layer(np.array([[1], [-1]], np.int8), int32(2**24, 0), 2, scale, False)
    outputs, _ = recorded(tiny((layer,), (1,), InputQuantization(ONE, -7, 7, 4)), [[1]])
    # 2**24 + 1 is no float32: it becomes 2**24 first
    assert outputs.tolist() == [[np.float32(2**24) * scale[0], -scale[1]]]


def test_relu_of_an_unrequantized_integer_layer() -> None:
    layer = Layer(np.array([[1], [-1]], np.int8), int32(0, 0), 2, ONE, True)
    outputs, _ = recorded(tiny((layer,), (1,), InputQuantization(ONE, -7, 7, 4)), [[3]])
    assert outputs.tolist() == [[3, 0]]


def test_weight_only_sums_in_ascending_order() -> None:
    # In float32, (1e8 + 1) - 1e8 is 0, but (1e8 - 1e8) + 1 is 1.
    layer = Layer(np.array([[1, 1, -1], [1, -1, 1]], np.int8), np.zeros(2, np.float32), 2, ONE, False)
    outputs, _ = recorded(
        tiny((layer,), (3,), None),
        [
            [1e8, 1, 1e8],
        ],
    )
    assert outputs.tolist() == [[0, 2e8]]
    outputs, _ = recorded(tiny((layer,), (3,), None), [[1e8, 1e8, 1]])
    assert outputs.tolist() == [[2e8, 1]]


# Against slow Python


def slow(op: Op, x: Nested, record: list[Nested]) -> Nested:
    """One operation on one sample of Python integers: a list of features, or channels of rows."""
    if isinstance(op, Layer):
        x = slow_conv(op, x) if op.is_conv else slow_linear(op, x)
    elif isinstance(op, Relu):
        x = deep(lambda v: max(v, 0), x)
    elif isinstance(op, Activation):
        x = [int(math.copysign(math.floor(op.high * math.tanh(abs(v) / 64) + 0.5), v)) for v in x]
    elif isinstance(op, Flatten):
        x = [v for channel in x for row in channel for v in row]
    elif isinstance(op, MaxPool2d):
        x = slow_pool(op, x)
    else:
        assert op.skip is not None
        assert op.branch is not None
        y = x
        for inner in op.body:
            y = slow(inner, y, record)
        x = [
            deep(
                lambda a, b: min(max(a + b, op.low), op.high),
                slow_requantize(op.skip, a, c),
                slow_requantize(op.branch, b, c),
            )
            for c, (a, b) in enumerate(zip(x, y, strict=True))
        ]
    record.append(x)
    return x


def deep(function: Any, *values: Nested) -> Nested:
    if isinstance(values[0], list):
        return [deep(function, *items) for items in zip(*values, strict=True)]
    return function(*values)


def slow_requantize(r: Requantization, value: Nested, channel: int) -> Nested:
    multiplier = r.multiplier.tolist()[channel % r.multiplier.size]
    shift = r.shift.tolist()[channel % r.shift.size]
    # floor(value * multiplier / 2**shift + 1/2), without a shift
    return deep(lambda v: min(max((2 * v * multiplier + 2**shift) // 2 ** (shift + 1), r.low), r.high), value)


def slow_linear(layer: Layer, x: list[int]) -> list[int]:
    result = []
    for out, (row, bias) in enumerate(zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)):
        acc = bias + sum(w * v for w, v in zip(row, x, strict=True))
        result.append(slow_requantize(layer.requantize, acc, out) if layer.requantize else acc)
    return result


def slow_positions(x: Nested, kernel: Any, op: Any) -> Any:
    height, width = len(x[0]), len(x[0][0])
    rows = range(-op.padding[0], height + op.padding[0] - kernel[0] + 1, op.stride[0])
    columns = range(-op.padding[1], width + op.padding[1] - kernel[1] + 1, op.stride[1])
    inside = [
        [
            [
                (i, j)
                for i, j in itertools.product(range(kernel[0]), range(kernel[1]))
                if 0 <= r + i < height and 0 <= c + j < width
            ]
            for c in columns
        ]
        for r in rows
    ]
    return rows, columns, inside


def slow_conv(layer: Layer, x: Nested) -> Nested:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    rows, columns, inside = slow_positions(x, layer.weight.shape[2:], layer)
    result = []
    for out in range(len(weight)):
        acc = [
            [
                bias[out]
                + sum(weight[out][ch][i][j] * x[ch][r + i][c + j] for ch in range(len(x)) for i, j in inside[a][b])
                for b, c in enumerate(columns)
            ]
            for a, r in enumerate(rows)
        ]
        result.append(slow_requantize(layer.requantize, acc, out) if layer.requantize else acc)
    return result


def slow_pool(pool: MaxPool2d, x: Nested) -> Nested:
    rows, columns, inside = slow_positions(x, pool.kernel, pool)
    return [
        [[max(ch[r + i][c + j] for i, j in inside[a][b]) for b, c in enumerate(columns)] for a, r in enumerate(rows)]
        for ch in x
    ]


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("kind", ["vector", "image", "tanh"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_equal_those_of_slow_python(bits: int, kind: Kind, per_output: bool) -> None:
    policy = make_policy("integer", kind, bits=bits, seed=bits, per_output=per_output)
    x = reference.observe(policy.observation, random_observations(policy, 6, seed=1))
    outputs, record = recorded(policy, x)
    assert policy.input is not None
    codes = reference.quantize_input(policy.input, x)
    wanted: list[list[Nested]] = []
    for sample in codes.tolist():
        trace: list[Nested] = []
        for op in policy.ops:
            sample = slow(op, sample, trace)
        wanted.append(trace)
    assert len(record) == len(wanted[0])
    for step, result in enumerate(record):
        assert result.tolist() == [trace[step] for trace in wanted]
        assert len(np.unique(result)) > 4, f"operation {step} hardly varies"
    assert len(np.unique(outputs)) > 4


def slow_weight_only(layer: Layer, x: NDArray[np.float32]) -> list[np.float32]:
    """One output position: ``x`` holds its inputs in order."""
    result = []
    scales = np.broadcast_to(layer.scale, len(layer.weight))
    with np.errstate(all="ignore"):
        for row, scale, bias in zip(layer.weight.reshape(len(layer.weight), -1), scales, layer.bias, strict=True):
            acc = np.float32(0)
            for w, v in zip(row, x, strict=True):
                if w != 0:
                    product = np.float32(w) * v
                    acc = acc + product
            scaled = acc * scale
            y = scaled + bias
            result.append(y if y > 0 or not layer.relu else np.float32(0))
    return result


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_weight_only_linear_equals_scalar_float32(bits: int, per_output: bool) -> None:
    layer = Builder("weight-only", bits, bits, per_output).layer(16, 30, role="hidden", name="a")
    x = np.random.default_rng(bits).normal(size=(8, 30)).astype(np.float32)
    outputs, _ = recorded(tiny((layer,), (30,), None), x)
    assert outputs.tolist() == [slow_weight_only(layer, sample) for sample in x]
    assert len(np.unique(outputs)) > 8


def test_weight_only_convolution_equals_scalar_float32() -> None:
    b = Builder("weight-only", 5, 3, per_output=True)
    conv = b.layer(4, 2, 3, 2, role="hidden", name="conv", stride=(2, 1), padding=(1, 1))
    last = b.layer(2, 4 * 3 * 6, role="raw", name="last")
    x = np.random.default_rng(0).normal(size=(2, 2, 6, 5)).astype(np.float32)
    _, record = recorded(tiny((conv, Flatten(), last), (2, 6, 5), None), x)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    for n, i, j in itertools.product(range(2), range(3), range(6)):
        inputs = padded[n, :, 2 * i : 2 * i + 3, j : j + 2].ravel()
        assert record[0][n, :, i, j].tolist() == slow_weight_only(conv, inputs)
    assert len(np.unique(record[0])) > 20


def test_a_sample_does_not_depend_on_its_batch() -> None:
    for numerics, kind in itertools.product(("integer", "weight-only"), ("vector", "image", "tanh")):
        policy = make_policy(numerics, kind, bits=4)  # type: ignore[arg-type]
        observations = random_observations(policy, 9)
        together = policy.outputs(observations)
        alone = np.concatenate([policy.outputs(one) for one in observations])
        assert together.tobytes() == alone.tobytes()
        assert len(np.unique(together)) > 9


# Against torch


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 0), (2, 3, 1), (1, 1, 0), (5, 2, 4)])
def test_convolution_is_torchs(numerics: Numerics, kernel: int, stride: int, padding: int) -> None:
    b = Builder(numerics, 6, kernel, per_output=True)
    geometry: dict[str, Any] = {"stride": (stride, stride), "padding": (padding, padding)}
    conv = b.layer(5, 3, kernel, kernel, role="raw", name="conv", **geometry)
    side = (8 + 2 * padding - kernel) // stride + 1
    x = np.random.default_rng(1).integers(-50, 50, (2, 3, 8, 8)).astype(np.float32)
    layer = conv
    if numerics == "integer":
        same = Requantization(int32(2**7), int32(7), INT32_MIN, INT32_MAX)
        layer = Layer(conv.weight, conv.bias, 6, conv.scale, False, same, **geometry)
    zeros = np.zeros(1, np.int32 if numerics == "integer" else np.float32)
    last = Layer(np.zeros((1, 5 * side * side), conv.weight.dtype), zeros, conv.weight_bits, ONE, False)
    inputs = InputQuantization(ONE, -127, 127, 8) if numerics == "integer" else None
    _, record = recorded(tiny((layer, Flatten(), last), (3, 8, 8), inputs), x)
    scale = 1 if numerics == "integer" else conv.scale[:, None, None, None].astype(np.float64)
    wanted = torch.nn.functional.conv2d(
        torch.tensor(x, dtype=torch.float64),
        torch.tensor(conv.weight * scale, dtype=torch.float64),
        torch.tensor(conv.bias, dtype=torch.float64),
        stride=stride,
        padding=padding,
    ).numpy()
    assert record[0].shape == wanted.shape
    np.testing.assert_allclose(record[0], wanted, rtol=0 if numerics == "integer" else 2e-5, atol=1e-4)
    assert len(np.unique(record[0])) > 10


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 1, 1)])
def test_max_pool_is_torchs(kernel: int, stride: int, padding: int) -> None:
    pool = MaxPool2d((kernel, kernel), (stride, stride), (padding, padding))
    x = -np.random.default_rng(0).random((2, 3, 7, 6)).astype(np.float32)
    wanted = torch.nn.functional.max_pool2d(torch.tensor(x), kernel, stride, padding).numpy()
    size = math.prod(wanted.shape[1:])
    last = Layer(np.ones((1, size), np.float32), np.zeros(1, np.float32), 32, ONE, False)
    _, record = recorded(tiny((pool, Flatten(), last), (3, 7, 6), None), x)
    assert record[0].tobytes() == wanted.tobytes()


def test_float_network_is_torchs() -> None:
    policy = make_policy("float", "image")
    conv, _, block, _, _, dense, q = policy.ops
    assert isinstance(conv, Layer)
    assert isinstance(block, Residual)
    assert isinstance(dense, Layer)
    assert isinstance(q, Layer)
    f = torch.nn.functional

    def t(array: NDArray[Any]) -> Any:
        return torch.tensor(array)

    observations = random_observations(policy, 3)
    x = t(observations).float() / 255
    x = f.max_pool2d(f.conv2d(x, t(conv.weight), t(conv.bias), (2, 1), (1, 0)), (3, 2), (2, 1), (1, 1))
    y = x
    for layer in block.body:
        y = f.conv2d(y, t(layer.weight), t(layer.bias), padding=1) if isinstance(layer, Layer) else f.relu(y)
    x = f.relu(x + y).flatten(1)
    x = f.linear(f.relu(f.linear(x, t(dense.weight), t(dense.bias))), t(q.weight), t(q.bias))
    outputs = policy.outputs(observations)
    np.testing.assert_allclose(outputs, x.numpy(), rtol=1e-4, atol=1e-5)
    assert len(np.unique(outputs)) == outputs.size


# tanh


def test_tanh_is_accurate() -> None:
    x = np.concatenate([np.linspace(-11, 11, 400_001), np.geomspace(1e-37, 11, 200_000)]).astype(np.float32)
    exact = np.tanh(x.astype(np.float64))
    error = np.abs(reference.tanh(x) - exact)
    assert error.max() < 1e-7
    assert (error / np.spacing(np.abs(exact).astype(np.float32))).max() < 2


def test_tanh_is_odd_bounded_and_monotonic() -> None:
    # Every float32 around the places where the method changes, and a sweep of all the rest.
    x = np.concatenate(
        [np.float32(at) + np.spacing(np.float32(at)) * np.arange(-3000, 3000) for at in (0.625, 1.2, 5.1, 9.01, 10)]
    )
    x = np.sort(np.concatenate([x, np.linspace(0, 12, 300_001)]).astype(np.float32))
    y = reference.tanh(x)
    assert y.tobytes() == (-reference.tanh(-x)).tobytes()
    assert y.max() == 1
    assert (np.diff(y) >= -6e-8).all()
    assert (np.diff(y) < 0).mean() < 1e-3


def test_tanh_keeps_its_bits() -> None:
    # Every 997th float32 from 3e-8 to 11; other engines are compared with the same bits.
    x = np.arange(0x33000000, 0x41300000, 997, dtype=np.uint32).view(np.float32)
    digest = hashlib.sha256(reference.tanh(x).astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == "8ef7cc147478e659"


@pytest.mark.parametrize(
    ("x", "y"), [(0.0, 0.0), (-0.0, -0.0), (1e-40, 1e-40), (9.1, 1.0), (3.4e38, 1.0), (-np.inf, -1.0)]
)
def test_tanh_at_its_ends(x: float, y: float) -> None:
    got = reference.tanh(np.array([x], np.float32))
    assert got.dtype == np.float32
    assert got.tobytes() == np.array([y], np.float32).tobytes()


@given(st.floats(-15, 15, width=32))
def test_tanh_does_not_depend_on_vectorization(x: float) -> None:
    alone = reference.tanh(np.array([x], np.float32))
    among = reference.tanh(np.full(37, x, np.float32))
    assert np.unique(among.view(np.uint32)).tolist() == alone.view(np.uint32).tolist()


# Observations


def test_normalization_is_vec_normalizes() -> None:
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=4), rng.uniform(0.01, 4, 4)
    normalization = Normalization(mean, var, 1e-8, 1.5)
    for dtype in ("float32", "float64"):
        raw = rng.normal(size=(50, 4)).astype(dtype) * 3
        x = reference.observe(ObservationTransform((4,), dtype, normalization=normalization), raw)
        wanted = np.clip((raw - mean) / np.sqrt(var + 1e-8), -1.5, 1.5).astype(np.float32)
        assert x.tobytes() == wanted.tobytes()
        assert len(np.unique(np.abs(x[np.abs(x) < 1.5]))) > 1
        assert (np.abs(x) == 1.5).any()


def test_image_scaling_is_stable_baselines() -> None:
    raw = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    x = reference.observe(ObservationTransform((1, 16, 16), "uint8", image=True), raw)
    assert x[0].tobytes() == (torch.tensor(raw).float() / 255.0).numpy().tobytes()


@pytest.mark.parametrize("batch", [(), (3,)])
def test_channels_may_come_last(batch: tuple[int, ...]) -> None:
    transform = ObservationTransform((2, 5, 4), "uint8", image=True)
    first = np.random.default_rng(0).integers(0, 256, (*batch, 2, 5, 4)).astype(np.uint8)
    last = np.moveaxis(first, -3, -1)
    assert last.shape == (*batch, 5, 4, 2)
    assert reference.observe(transform, last).tobytes() == reference.observe(transform, first).tobytes()


def test_an_ambiguous_image_is_channels_first() -> None:
    transform = ObservationTransform((3, 3, 3), "uint8", image=True)
    raw = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(reference.observe(transform, raw)[0] * 255, raw)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_float_widths_are_welcome(dtype: str) -> None:
    raw = np.array([[0.1, 0.2], [0.3, 0.4]])
    x = reference.observe(ObservationTransform((2,), dtype), raw)
    assert x.tobytes() == raw.astype(np.float32).tobytes()
    assert reference.observe(ObservationTransform((2,), dtype), raw[0].astype(np.float32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (np.zeros(3, np.float32), "shape"),
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.float32(0), "shape"),
        (np.zeros(2, np.complex64), "float32 observations, but got complex64"),
        (np.zeros(2, np.longdouble), "float32 observations, but got float128|float32 observations, but got longdouble"),
        (np.array([0, 2**24 + 1]), "float32 observations, which cannot hold 16777217 of the int64 given"),
        (np.array(["a", "b"]), "float32 observations"),
        (np.array([0, np.nan], np.float32), "NaN"),
        (np.array([0, np.inf], np.float32), "infinite"),
        (np.array([0, 1e300]), "too large"),
        ([[1.0, 2.0], [3.0]], "array of float32 observations"),
        ({"position": np.zeros(2)}, "array of float32 observations, but got a dict"),
        (None, "array of float32 observations, but got a NoneType"),
    ],
)
def test_bad_observations_are_refused_in_one_sentence(raw: Any, words: str) -> None:
    with pytest.raises(ObservationError, match=words) as error:
        reference.observe(ObservationTransform((2,), "float32"), raw)
    assert str(error.value).count(". ") == 0
    assert str(error.value).endswith(".")


def test_float_images_are_refused() -> None:
    with pytest.raises(ObservationError, match="uint8"):
        reference.observe(ObservationTransform((1, 2, 2), "uint8", image=True), np.zeros((1, 2, 2)))


@pytest.mark.parametrize("contract", ["float32", "float64"])
@pytest.mark.parametrize("given", ["bool", "int8", "uint8", "int32", "int64", "uint64", "float16", ">f8", "float32"])
def test_numbers_of_any_kind_are_taken_exactly(given: str, contract: str) -> None:
    raw = np.array([[0, 1], [1, 1]]).astype(given) if given == "bool" else np.array([[0, 1], [100, 3]]).astype(given)
    found = reference.arrange(ObservationTransform((2,), contract), raw)
    assert found.dtype == contract
    assert found.tolist() == raw.tolist()


@pytest.mark.parametrize(
    ("contract", "given", "value"),
    [("float64", "int64", 2**53 + 1), ("float64", "uint64", 2**64 - 1), ("uint8", "int64", 256), ("uint8", "int8", -1),
     ("int8", "uint8", 128), ("int64", "uint64", 2**63)],
)  # fmt: skip
def test_integers_that_do_not_fit_are_named(contract: str, given: str, value: int) -> None:
    with pytest.raises(ObservationError, match=f"cannot hold {value} of the {given} given"):
        reference.arrange(ObservationTransform((2,), contract), np.array([0, value], given))


def test_integer_contracts_take_no_floats_and_images_no_bools() -> None:
    assert reference.arrange(ObservationTransform((2,), "int8"), np.array([True, False])).tolist() == [[1, 0]]
    assert reference.arrange(ObservationTransform((2,), "uint8"), [7, 255]).tolist() == [[7, 255]]
    with pytest.raises(ObservationError, match="int8 observations, but got float64"):
        reference.arrange(ObservationTransform((2,), "int8"), np.ones(2))
    with pytest.raises(ObservationError, match="uint8 observations, but got bool"):
        reference.arrange(ObservationTransform((1, 2, 2), "uint8", image=True), np.ones((1, 2, 2), bool))


def test_tensors_are_taken() -> None:
    import torch

    transform, values = ObservationTransform((2,), "float32"), [[0.5, -1.0]]
    for tensor in (torch.tensor(values, requires_grad=True), torch.tensor(values, dtype=torch.float16)):
        assert reference.arrange(transform, tensor).tolist() == values  # type: ignore[arg-type]
    with pytest.raises(ObservationError, match="a Tensor that NumPy cannot read"):
        reference.arrange(transform, torch.tensor(values, dtype=torch.bfloat16))  # type: ignore[arg-type]

    class Array:  # as of JAX
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(values, np.float32)

    assert reference.arrange(transform, Array()).tolist() == values  # type: ignore[arg-type]


def test_float_overflow_is_refused() -> None:
    layer = Layer(np.full((1, 2), 7, np.int8), np.zeros(1, np.float32), 4, ONE, False)
    policy = tiny((layer,), (2,), None)
    assert policy.outputs(np.array([1e37, 1e37], np.float32)).tolist() == [[pytest.approx(1.4e38)]]
    with pytest.raises(ObservationError, match="overflow"):
        policy.outputs(np.array([3e38, 3e38], np.float32))


# Actions


def test_squashed_action_is_rescaled_as_stable_baselines_does() -> None:
    low, high = np.array([-2, 0.1], np.float32), np.array([1, 0.7], np.float32)
    outputs = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    transform = ActionTransform("box", (2,), squash=True, low=low, high=high)
    squashed = reference.tanh(outputs)
    wanted = low + (0.5 * (squashed + 1.0) * (high - low))
    got = reference.act(transform, outputs)
    assert wanted.dtype == np.float32
    assert got.tobytes() == wanted.tobytes()


def test_unsquashed_action_is_clipped_and_cast() -> None:
    bounds = {"low": np.array([-1, -np.inf], np.float32), "high": np.array([1, np.inf], np.float32)}
    transform = ActionTransform("box", (2,), dtype="float64", **bounds)
    got = reference.act(transform, np.array([[2, 2], [-0.25, -9]], np.float32))
    assert got.dtype == np.float64
    assert got.tolist() == [[1, 2], [-0.25, -9]]


def test_discrete_action_is_the_first_of_the_largest() -> None:
    transform = ActionTransform("discrete", dtype="int64", start=-1)
    got = reference.act(transform, np.array([[0, 2, 2], [5, 2, 5], [-3, -2, -1]], np.float32))
    assert got.dtype == np.int64
    assert got.tolist() == [0, -1, 1]


def test_multi_discrete_action_is_the_first_of_the_largest_in_every_group() -> None:
    transform = ActionTransform("multi-discrete", (3,), "int64", nvec=(2, 1, 3))
    got = reference.act(transform, np.array([[0, 1, -9, 4, 4, 5], [2, 2, 7, 8, 1, 8]], np.float32))
    assert got.dtype == np.int64
    assert got.tolist() == [[1, 0, 2], [0, 0, 0]]
