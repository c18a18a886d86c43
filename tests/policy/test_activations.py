"""The table of activations: true values, true slopes, codes that use what they have."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from policypress.errors import ArtifactError, UnsupportedError
from policypress.policy.activations import FUNCTIONS, Function, NumPy, lookup
from policypress.policy.ops import Activation, Layer
from policypress.policy.payload import decode_payload, encode_payload
from policypress.policy.policy import Policy
from policypress.testing import make_policy, random_observations, tanh_op

PARAMETERS: dict[str, tuple[float, ...]] = {
    "leaky_relu": (0.2,), "elu": (1.3,), "celu": (0.7,), "softplus": (1.5,), "hardtanh": (-0.5, 2.0),
}  # fmt: skip
ROWS = [pytest.param(row, id=name) for name, row in FUNCTIONS.items()]
X = np.arange(-(2**17), 2**17 + 1, dtype=np.float32) / np.float32(2**12)


def in_torch(row: Function, parameters: tuple[float, ...]) -> Any:
    module = getattr(torch.nn, row.torch[0])
    return module(**dict(zip(row.parameters, parameters, strict=True)), **row.fixed)


def parameters_of(row: Function) -> tuple[float, ...]:
    return PARAMETERS.get(row.name, ())


@pytest.mark.parametrize("row", ROWS)
def test_values_and_slopes_are_those_of_torch(row: Function) -> None:
    for parameters in (row.usual, parameters_of(row)):
        x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
        exact = in_torch(row, parameters)(x)
        exact.sum().backward()
        assert x.grad is not None
        y = row(X, *parameters)
        slope = np.asarray(row.slope(NumPy, X, y, *parameters))
        assert y.dtype == slope.dtype == np.float32
        assert np.abs(y - exact.detach().numpy()).max() < 4e-6  # of values up to 34
        assert np.abs(slope - x.grad.numpy()).max() < 2e-6


@pytest.mark.parametrize("row", ROWS)
def test_what_is_not_finite_is_not_lost(row: Function) -> None:
    nan = np.array([np.nan], np.float32)
    with np.errstate(invalid="ignore"):
        assert np.isnan(row(nan, *row.usual)).all()


def test_numbers_and_names_are_for_ever() -> None:
    """They stand in files: a row may be added, none changed."""
    known = ["tanh", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "gelu_tanh", "mish", "softplus", "sigmoid",
             "softsign", "hardtanh", "hardsigmoid", "hardswish"]  # fmt: skip
    assert [row.name for row in sorted(FUNCTIONS.values(), key=lambda row: row.number)][: len(known)] == known
    assert [row.number for row in FUNCTIONS.values()] == list(range(len(FUNCTIONS)))
    values = [row(X, *row.usual).astype("<f4").tobytes() for row in FUNCTIONS.values()][: len(known)]
    assert hashlib.sha256(b"".join(values)).hexdigest() == DIGEST


DIGEST = "3496ca77004e41ec72314bbac7551b908a0317c4616b03f797a3fd494f71fb2a"
"""Of all values: every machine, and every later version, gives these bits."""


@given(
    st.sampled_from(list(FUNCTIONS.values())), st.integers(2, 8), st.integers(1, 255), st.integers(-7, 1),
    st.floats(1.0, 1.75, width=32),
)  # fmt: skip
@example(FUNCTIONS["hardswish"], 2, 1, 1, 1.0)
def test_codes_stand_for_values(row: Function, bits: int, limit: int, exponent: int, mantissa: float) -> None:
    unit = float(np.float32(mantissa * 2.0**exponent))
    found = lookup(row.name, row.usual, unit, bits, limit)
    values = row(np.arange(-limit, limit + 1, dtype=np.float32) * np.float32(unit), *row.usual).astype(np.float64)
    assert found.low <= 0 <= found.high
    assert found.high - found.low <= 2**bits - 1
    assert (found.low <= found.table).all()
    assert (found.table <= found.high).all()
    off = np.abs(found.table * np.float64(found.scale) - values)
    assert off.max() <= 0.501 * found.scale + 1e-6  # nothing is cut off
    if row.bound is None:  # every code is used for what there is, but for a side of less than half a code
        for end, most in ((found.low, min(0.0, values.min())), (found.high, max(0.0, values.max()))):
            assert end in found.table or abs(most) <= 0.501 * found.scale


def test_what_an_activation_cannot_be() -> None:
    for wrong, sentence in (
        (("swish",), "'swish' is no activation that is known: use tanh, leaky_relu"),
        (("elu",), r"elu cannot have the parameters \(\) for \('alpha',\)"),
        (("celu", 0.0, 0, 0, (0.0,)), "celu cannot have the parameters"),
        (("hardtanh", 0.0, 0, 0, (1.0, 1.0)), "hardtanh cannot have the parameters"),
        (("silu", 0.0, 8, 255), "worth a positive float32 number each, not 0.0"),
        (("silu", 0.1, 8, 255), "worth a positive float32 number each, not 0.1"),
        (("silu", 0.5, 8, 256), "must take codes up to 1 to 255, not 256"),
        (("silu", 0.5, 8, 0), "must take codes up to 1 to 255, not 0"),
        (("silu", 0.5), "has no unit and no limit where values are float32"),
        (("leaky_relu", 2.0**127, 8, 255, (1.0,)), "gives no numbers that codes could stand for"),
        *((("silu", 0.5, bits, 255), f"must have codes of 2 to 8 bits, not {bits}") for bits in (1, 9, -1)),
    ):
        with pytest.raises(UnsupportedError, match=sentence):
            Activation(*wrong)  # type: ignore[arg-type]


def with_activation(numerics: Any, function: str, parameters: tuple[float, ...], bits: int) -> Policy:
    """A policy of two hidden layers whose tanh is another function."""
    policy = make_policy(numerics, "tanh")
    ops: list[Any] = []
    for op in policy.ops:
        if isinstance(op, Activation):
            grid = FUNCTIONS[function].grid or (2.0**-5, 255)
            op = Activation(function, *(grid[0], bits, grid[1]) if numerics == "integer" else (), parameters=parameters)
        ops.append(op)
    return dataclasses.replace(policy, ops=tuple(ops), test_vectors=None)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("numerics", ["integer", "weight-only", "float"])
def test_files_hold_every_activation(row: Function, numerics: str) -> None:
    for bits in (2, 8):
        for parameters in (row.usual, parameters_of(row)):
            policy = with_activation(numerics, row.name, parameters, bits)
            ops, inputs = decode_payload(encode_payload(policy))
            assert ops[1] == policy.ops[1]
            again = dataclasses.replace(policy, ops=ops, input=inputs)
            seen = random_observations(policy, 8)
            if numerics == "integer":  # scales of float layers are annotations
                assert again.outputs(seen, reference=True).tobytes() == policy.outputs(seen, reference=True).tobytes()


def test_the_usual_tanh_takes_the_bytes_that_it_always_took() -> None:
    assert with_activation("integer", "tanh", (), 8).ops[1] == tanh_op(8)
    usual = len(encode_payload(with_activation("integer", "tanh", (), 8)))
    assert len(encode_payload(with_activation("integer", "softsign", (), 8))) > usual


def test_an_unknown_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_payload(with_activation("float", "hardswish", (), 8))
    from policypress.policy import payload

    fewer = {name: row for name, row in FUNCTIONS.items() if name != "hardswish"}
    monkeypatch.setattr(payload, "FUNCTIONS", fewer)
    with pytest.raises(ArtifactError, match="an activation of the unknown number 14"):
        decode_payload(data)


def test_constant_units_are_folded_through_every_activation() -> None:
    from policypress.policy.canonical import canonical

    for name, row in FUNCTIONS.items():
        policy = with_activation("integer", name, row.usual, 8)
        first = policy.ops[0]
        assert isinstance(first, Layer)
        weight = first.weight.copy()
        weight[0] = 0
        policy = dataclasses.replace(policy, ops=(dataclasses.replace(first, weight=weight), *policy.ops[1:]))
        fewer = canonical(policy)
        seen = random_observations(policy, 32)
        assert len(fewer.layers[0].weight) < len(weight)
        assert fewer.outputs(seen, reference=True).tobytes() == policy.outputs(seen, reference=True).tobytes()
