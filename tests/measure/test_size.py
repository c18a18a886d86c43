"""Sizes of policies, counted by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from policypress.measure.size import size, zero_order_bound
from policypress.policy.artifact import encode_payload
from policypress.policy.canonical import canonical
from policypress.policy.ops import Layer
from policypress.policy.policy import Numerics, Policy
from policypress.testing import NUMERICS, make_policy


def mixed() -> Policy:
    """A weight-only policy of a 4-bit and an 8-bit layer with known zeros."""
    policy = make_policy("weight-only", "vector", bits=4)
    first, second, last = policy.ops
    assert isinstance(first, Layer)
    assert isinstance(second, Layer)
    assert isinstance(last, Layer)
    nine = dataclasses.replace(first, weight=np.eye(9, 5, dtype=np.int8))  # 45 weights, 5 of them not zero
    seven = dataclasses.replace(second, weight=np.eye(7, 9, dtype=np.int8))  # 63 weights, 7 not zero
    three = dataclasses.replace(last, weight_bits=8, weight=np.full((3, 7), 100, np.int8))  # 21 weights
    return dataclasses.replace(policy, ops=(nine, seven, three))


def test_nominal_size_is_the_papers_count() -> None:
    report = size(mixed())
    assert (report.weights, report.nonzeros) == (129, 33)
    assert report.sparsity == pytest.approx(96 / 129)
    assert report.nominal_bytes == (12 * 4 + 21 * 8) / 8
    assert report.nominal_ratio == pytest.approx(32 * 129 / (12 * 4 + 21 * 8))


def test_nominal_ratio_of_equal_bits_is_the_papers_formula() -> None:
    report = size(make_policy("integer", "vector", bits=4))
    assert report.nominal_ratio == pytest.approx(32 / 4 / (1 - report.sparsity))


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", ["vector", "image", "tanh"])
def test_file_size_is_the_payload(numerics: Numerics, kind: str) -> None:
    policy = make_policy(numerics, kind, vectors=True)  # type: ignore[arg-type]
    report = size(policy)
    assert report.payload_bytes == len(encode_payload(policy))
    assert report.baseline_bytes == policy.baseline_bytes
    assert report.payload_ratio == policy.baseline_bytes / report.payload_bytes
    assert 0 < sum(row.bytes for row in report.layers) < report.payload_bytes
    assert report.payload_bytes - sum(row.bytes for row in report.layers) < 60  # input and structure


def test_rows_describe_the_layers() -> None:
    policy = make_policy("integer", "image", bits=3)
    rows = size(policy).layers
    assert [(row.name, row.kind, row.shape) for row in rows] == [
        ("stem", "conv", (3, 2, 3, 3)),
        ("block.0", "conv", (3, 3, 3, 3)),
        ("block.1", "conv", (3, 3, 3, 3)),
        ("dense", "linear", (6, policy.layers[3].weight.shape[1])),
        ("q", "linear", (4, 6)),
    ]
    for row, layer in zip(rows, policy.layers, strict=True):
        assert (row.bits, row.nonzeros, row.sparsity) == (3, layer.nonzeros, layer.sparsity)
        assert row.bytes > row.nonzeros * 3 / 8


def test_a_float_policy_is_about_its_baseline() -> None:
    policy = make_policy("float", "vector")
    rng = np.random.default_rng(0)
    dense = [
        dataclasses.replace(layer, weight=rng.normal(size=layer.weight.shape).astype(np.float32))
        for layer in policy.layers
    ]
    report = size(dataclasses.replace(policy, ops=tuple(dense)))
    assert report.nominal_ratio == 1
    assert 0.9 < report.payload_ratio < 1.25  # exponents of weights of one size say little


def test_fewer_bits_and_weights_take_fewer_bytes() -> None:
    eight, four = (size(make_policy("integer", "image", bits=bits)).payload_bytes for bits in (8, 4))
    assert four < eight
    assert size(mixed()).payload_bytes < size(make_policy("weight-only", "vector", bits=8)).payload_bytes


def test_the_report_is_json() -> None:
    report = size(make_policy("integer", "vector"))
    fields = json.loads(json.dumps(report.as_dict()))
    assert fields["payload_bytes"] == report.payload_bytes
    assert fields["layers"][0]["name"] == "first"


def test_a_policy_of_zeros_has_no_nominal_size() -> None:
    policy = mixed()
    zeros = tuple(dataclasses.replace(layer, weight=np.zeros_like(layer.weight)) for layer in policy.layers)
    report = size(dataclasses.replace(policy, ops=zeros))
    assert (report.nominal_bytes, report.nominal_ratio, report.sparsity) == (0, math.inf, 1)


def test_bits_of_positions_values_biases_and_constants_make_up_the_file() -> None:
    for numerics in NUMERICS:
        report = size(make_policy(numerics, "image"))
        rows = report.layers
        assert all(min(row.positions, row.values, row.biases, row.constants) > 0 for row in rows)
        assert 8 * report.payload_bytes == pytest.approx(8 * sum(row.bytes for row in rows) + report.header, abs=16)


def test_the_bound_by_hand() -> None:
    one = np.ones(1, np.float32)
    weight = np.array([[1, 0, 2, 0], [1, 0, 0, 3]], np.int8)
    layer = Layer(weight, np.array([5, 5], np.int32), 4, one, False)
    # C(8, 4) = 70 places; two ones, a two and a three: 1.5 bits each; biases alike
    assert zero_order_bound(layer) == pytest.approx(math.log2(70) + 4 * 1.5)
    biased = dataclasses.replace(layer, bias=np.array([5, 6], np.int32))
    assert zero_order_bound(biased) == pytest.approx(math.log2(70) + 6 + 2)
    floats = Layer(weight.astype(np.float32), np.zeros(2, np.float32), 32, one, False)
    assert zero_order_bound(floats) == pytest.approx(math.log2(70) + 4 * 32 + 2 * 32)


def test_left_out_units_count_as_zeros() -> None:
    policy = make_policy("integer", "vector")
    first, second, last = policy.layers
    unread = dataclasses.replace(second, weight=np.where(np.arange(9) < 4, 0, second.weight).astype(np.int8))
    whole = dataclasses.replace(policy, ops=(first, unread, last))
    smaller, report = size(canonical(whole)), size(whole)
    assert smaller.layers[0].shape == (5, 5)
    assert smaller.layers[0].trained_shape == (9, 5)
    assert smaller.weights == report.weights
    assert smaller.nonzeros < report.nonzeros
    assert smaller.payload_bytes < report.payload_bytes
