"""Operations that do not fit together, and accumulators that could overflow."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policypress.errors import PolicypressError, UnsupportedError
from policypress.policy import checks
from policypress.policy.checks import check_accumulators
from policypress.policy.contract import ActionTransform, TestVectors
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
from policypress.policy.policy import Policy
from policypress.testing import Builder, make_policy, tanh_op, with_zero_points

ONE = np.ones(1, np.float32)
CODES = InputQuantization(ONE, -127, 127, 8)


def layer(weights: Any, bias: int = 0, high: int | None = None) -> Layer:
    weight = np.asarray(weights, np.int8)
    requantize = None
    if high is not None:
        requantize = Requantization(np.array([2**7], np.int32), np.array([7], np.int32), 0, high)
    return Layer(weight, np.full(len(weight), bias, np.int32), 8, ONE, False, requantize, name="dense")


# Accumulators: 2**31 = 16,909,320 * 127 + 8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_that_fits_and_the_next(sign: int) -> None:
    weight = [[sign * 127, -sign * 1, 0]]  # 128 * 127 = 16,256
    largest = 2**31 - 1 - 16_256
    check_accumulators([layer(weight, sign * largest)], CODES)
    with pytest.raises(PolicypressError, match="2,147,483,648"):
        check_accumulators([layer(weight, sign * (largest + 1))], CODES)


def test_the_proven_bound_is_reached() -> None:
    policy = make_policy("integer", "vector")
    last = policy.ops[-1]
    assert isinstance(last, Layer)
    reach = np.abs(last.weight.astype(int)).sum(axis=1).max() * 255 + np.abs(last.bias).max()
    worst = np.where(last.weight > 0, 255, 0) @ last.weight.T.astype(int)
    assert worst.max() < reach < 2**31


def test_limits_come_from_the_layer_before() -> None:
    first = layer([[1]], high=INT32_MAX)
    last = layer([[1, 1]])
    wide = layer([[1], [1]], high=INT32_MAX)
    check_accumulators([first, layer([[1]])], CODES)
    with pytest.raises(PolicypressError, match=r"output 0 of layer 'dense'.*overflows 32 bits"):
        check_accumulators([wide, last], CODES)


def test_tanh_changes_the_limits() -> None:
    wide = layer([[1]], high=255)
    check_accumulators([wide, tanh_op(5), layer([[127]], 2**31 - 1 - 127 * 15)], CODES)
    with pytest.raises(PolicypressError, match="2,147,483,648"):
        check_accumulators([wide, tanh_op(5), layer([[127]], 2**31 - 127 * 15)], CODES)


def test_relu_and_residual_change_the_limits() -> None:
    keep = Requantization(np.array([2**7], np.int32), np.array([7], np.int32), INT32_MIN, INT32_MAX)
    sums = InputQuantization(ONE, 1 - 2**16, 0, 16)
    big = layer([[127]], 2**31 - 1)
    with pytest.raises(PolicypressError, match="reach"):
        check_accumulators([big], sums)
    check_accumulators([Relu(), big], sums)
    block = Residual((layer([[1]]),), keep, keep, -1, 0)
    check_accumulators([block, Flatten(), layer([[127]], 2**31 - 1 - 127)], sums)
    with pytest.raises(PolicypressError, match="reach"):
        check_accumulators([block, layer([[127]], 2**31 - 127)], sums)
    with pytest.raises(PolicypressError, match="reach"):
        check_accumulators([Residual((big,), keep, keep, -1, 0)], sums)


def test_the_proof_itself_does_not_overflow() -> None:
    first = layer([[1]] * 1000, high=INT32_MAX)
    with pytest.raises(PolicypressError, match=f"{127 * 1000 * (2**31 - 1):,}"):
        check_accumulators([first, layer([[127] * 1000])], CODES)


def test_float_layers_have_no_integer_accumulators() -> None:
    only_float = Layer(np.ones((1, 1), np.float32), np.zeros(1, np.float32), 32, ONE, False)
    with pytest.raises(PolicypressError, match="integers"):
        check_accumulators([only_float], CODES)


def test_a_policy_is_proven_when_it_is_made() -> None:
    policy = make_policy("integer", "vector")
    last = policy.ops[-1]
    assert isinstance(last, Layer)
    heavy = dataclasses.replace(last, bias=np.full(3, 2**31 - 1, np.int32))
    with pytest.raises(PolicypressError, match="overflow"):
        dataclasses.replace(policy, ops=(*policy.ops[:-1], heavy))


# Shapes


@pytest.mark.parametrize(
    ("op", "shape", "result"),
    [
        (layer(np.ones((4, 3))), (3,), (4,)),
        (layer(np.ones((4, 3, 2, 2))), (3, 5, 6), (4, 4, 5)),
        (Relu(), (2, 3), (2, 3)),
        (tanh_op(8), (2, 3, 4), (2, 3, 4)),
        (Flatten(), (2, 3, 4), (24,)),
        (MaxPool2d((3, 3), (2, 2), (1, 1)), (2, 7, 8), (2, 4, 4)),
        (Residual((layer(np.ones((3, 3))),)), (3,), (3,)),
    ],
)
def test_output_shapes(op: Op, shape: tuple[int, ...], result: tuple[int, ...]) -> None:
    assert op.output_shape(shape) == result


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (layer(np.ones((4, 3))), (4,)),
        (layer(np.ones((4, 3))), (3, 1)),
        (layer(np.ones((4, 3, 2, 2))), (3,)),
        (layer(np.ones((4, 3, 2, 2))), (2, 5, 5)),
        (layer(np.ones((4, 3, 2, 2))), (3, 1, 5)),
        (MaxPool2d((3, 3), (2, 2), (0, 0)), (1, 5, 2)),
        (MaxPool2d((3, 3), (2, 2), (0, 0)), (5,)),
        (Residual((layer(np.ones((2, 3))),)), (3,)),
    ],
)
def test_inputs_that_do_not_fit(op: Op, shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedError, match="does not fit an input of shape"):
        op.output_shape(shape)


def test_operands_of_a_residual_must_have_one_value_or_one_a_channel() -> None:
    b = Builder("integer", 8, 0, per_output=True)
    block = b.residual(3, "block")
    assert block.output_shape((3, 4, 4)) == (3, 4, 4)
    with pytest.raises(UnsupportedError, match="does not fit"):
        block.output_shape((2, 4, 4))
    assert block.branch is not None
    odd = dataclasses.replace(block.branch, multiplier=np.full(2, 2**7, np.int32))
    with pytest.raises(UnsupportedError, match="does not fit"):
        dataclasses.replace(block, branch=odd).output_shape((3, 4, 4))


# Whole policies


def broken(policy: Policy, words: str, **changes: Any) -> None:
    with pytest.raises(UnsupportedError, match=words):
        dataclasses.replace(policy, **changes)


def test_policies_that_cannot_be() -> None:
    policy = make_policy("integer", "vector")
    first, second, last = policy.ops
    assert isinstance(first, Layer)
    assert isinstance(last, Layer)
    broken(policy, "at least one layer", ops=())
    broken(policy, "baseline_bytes", baseline_bytes=0)
    broken(policy, "last operation", ops=(first, second))
    broken(policy, "last operation", ops=(first, second, last, Relu()))
    broken(policy, "does not fit", ops=(first, last))
    broken(policy, "must be requantized", ops=(dataclasses.replace(first, requantize=None), second, last))
    broken(policy, "integers", ops=(first, second, dataclasses.replace(last, bias=np.zeros(3, np.float32))))
    broken(policy, "float activations", input=None)
    broken(policy, "inverse scales", input=InputQuantization(np.ones(4, np.float32), -7, 7, 4))
    shifted = with_zero_points(policy, 3)
    broken(shifted, "fully connected layer behind it", ops=(Relu(), first, second, last))
    broken(
        make_policy("integer", "image"),
        "fully connected",
        input=dataclasses.replace(CODES, zero_point=np.ones(1, np.int32)),
    )
    broken(policy, "cannot give actions", action=make_action(4))
    groups = ActionTransform("multi-discrete", (2,), "int64", nvec=(3, 3))
    broken(policy, r"cannot give actions \(3, 3\)", action=groups)
    broken(make_policy("weight-only", "vector"), "of an integer policy", input=CODES)
    broken(make_policy("float", "vector"), "of an integer policy", input=CODES)
    broken(make_policy("weight-only", "image"), "of an integer policy|residual", input=CODES)


def test_where_an_activation_cannot_be() -> None:
    policy = make_policy("integer", "tanh")
    first, _, second, other, last = policy.ops
    assert isinstance(first, Layer)
    assert first.requantize is not None
    for limits in ({"low": -256}, {"high": 256}):
        requantize = dataclasses.replace(first.requantize, **limits)
        wide = dataclasses.replace(first, requantize=requantize)
        broken(policy, "tanh takes codes from -255 to 255, not from -25", ops=(wide, *policy.ops[1:]))
    narrow = dataclasses.replace(first, requantize=dataclasses.replace(first.requantize, low=-127, high=127))
    dataclasses.replace(policy, ops=(narrow, *policy.ops[1:]), test_vectors=None)
    broken(policy, "last operation", ops=policy.ops[:-1])
    broken(policy, "integer numerics and only there", ops=(first, Activation("tanh"), second, other, last))
    for numerics in ("weight-only", "float"):
        floats = make_policy(numerics, "tanh")  # type: ignore[arg-type]
        broken(floats, "integer numerics and only there", ops=(floats.ops[0], tanh_op(8), *floats.ops[2:]))


def make_action(outputs: int) -> Any:
    action = make_policy("integer", "vector").action
    bounds = np.ones(outputs, np.float32)
    return dataclasses.replace(action, shape=(outputs,), low=-bounds, high=bounds)


def test_a_requantized_residual_is_for_integers_only() -> None:
    policy = make_policy("weight-only", "image")
    block = Builder("integer", 8, 0, per_output=True).residual(3, "block")
    ops = tuple(block if isinstance(op, Residual) else op for op in policy.ops)
    broken(policy, "residual block is requantized", ops=ops)


@pytest.mark.parametrize("part", ["observations", "outputs", "actions"])
def test_test_vectors_must_match(part: str) -> None:
    policy = make_policy("integer", "vector", vectors=True)
    vectors = policy.test_vectors
    assert isinstance(vectors, TestVectors)
    array = getattr(vectors, part)
    for other in (array[:-1], array[:, :-1], array.astype(np.float16)):
        broken(policy, "Test vectors", test_vectors=dataclasses.replace(vectors, **{part: other}))


def test_there_are_limits_to_size(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("float", "image")
    monkeypatch.setattr(checks, "MAX_VALUES", sum(one.weight.size for one in policy.layers) - 1)
    broken(policy, "at most .* weights")
    monkeypatch.undo()
    monkeypatch.setattr(checks, "MAX_OPS", 10)
    broken(policy, "at most 10 operations")
    monkeypatch.undo()
    nested: Op = policy.ops[2]
    for _ in range(8):
        nested = Residual((nested,))
    broken(policy, "residual blocks inside", ops=(*policy.ops[:2], nested, *policy.ops[3:]))


def test_outputs_are_a_vector() -> None:
    policy = make_policy("integer", "image")
    builder = Builder("integer", 8, 0, True)
    with pytest.raises(UnsupportedError, match="must be a vector, not of shape \\(3, 9, 8\\)"):
        dataclasses.replace(policy, ops=(builder.layer(3, 2, 1, 1, role="raw", name="last"),))


def test_padding_counts_as_activation() -> None:
    """A small file could ask for gigabytes otherwise: kernel and padding are two numbers."""
    policy = make_policy("integer", "image")
    huge = MaxPool2d((6000, 6000), (6000, 6000), (5999, 5999))
    with pytest.raises(UnsupportedError, match="padding included"):
        dataclasses.replace(policy, ops=(huge, *policy.ops))
