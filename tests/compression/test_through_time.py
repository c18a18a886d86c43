"""Recurrent cells in C compute what torch's operators do step after step: codes bit for bit, the rest nearly so."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policypress.compression import kernels, recurrent
from policypress.compression.compressor import Compressor
from policypress.compression.fake_quant import STEP_STRIDE, FakeQuantLinear
from policypress.compression.graph import trace
from policypress.compression.recurrent import Recurrent
from policypress.config import CompressionConfig, WeightRange

FEATURES, OUTPUTS = 3, 2
SPECIAL = (torch.nan, torch.inf, -torch.inf, 1e38, -1e38, -0.0)


class Case(NamedTuple):
    """A cell, as it is trained, and what it is to run through."""

    cell: Recurrent
    x: torch.Tensor
    starts: torch.Tensor | None
    state: list[torch.Tensor] | None


class Found(NamedTuple):
    outputs: torch.Tensor
    state: list[torch.Tensor]
    gradients: dict[str, torch.Tensor]
    ranges: list[float]


@contextmanager
def by_steps() -> Iterator[None]:
    with mock.patch.object(kernels, "fit", lambda *_: False):
        yield


def numbers(*shape: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


@st.composite
def cases(draw: Any, phase: str) -> Case:
    kind, units = draw(st.sampled_from([nn.GRU, nn.LSTM])), draw(st.sampled_from([1, 2, 3, 8, 9, 17]))
    steps, rows, seed = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 9999))
    torch.manual_seed(seed)
    module = kind(FEATURES, units, bias=draw(st.booleans()))
    with torch.no_grad():
        for values in module.parameters():
            values.mul_(draw(st.sampled_from([1.0, 4.0])) * units**0.5)  # some gates are shut, some codes clipped
    bits = draw(st.sampled_from([None, (8, 8), (12, 16), (16, 16)]))
    (cell,) = Recurrent.of(module, bits and bits[: 1 if kind is nn.GRU else 2])
    spread = draw(st.sampled_from([0.3, 3.0, 30.0]))
    x = numbers(steps, rows, FEATURES, seed=seed, spread=spread)
    if phase != "plain":
        compressed(cell, phase, x, draw)
    starts = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    vectors = len(cell.bits)
    return Case(
        cell,
        x,
        None if starts is None else torch.rand(steps, rows, generator=torch.Generator().manual_seed(seed)) < starts,
        draw(st.sampled_from([None, list(numbers(vectors, rows, units, seed=seed + 1))])),
    )


def compressed(cell: Recurrent, phase: str, x: torch.Tensor, draw: Any) -> None:
    """Gives the cell quantizers that have met something, up to ``phase``."""
    network = nn.Sequential(cell, nn.Linear(cell.units, OUTPUTS))
    config = CompressionConfig(
        sparsity=draw(st.sampled_from([0.0, 0.4])), weight_bits=draw(st.sampled_from([2, 4, 8])),
        activation_bits=0 if phase == "weights" else 8, weight_range=draw(st.sampled_from(list(WeightRange.__args__))),
        granularity=draw(st.sampled_from(["tensor", "channel"])), quantize_start=0.5, observe=0.5, prune_start=0.0,
    )  # fmt: skip
    compressor = Compressor(trace(network), torch.optim.SGD(network.parameters()), config, 2)
    for step in range(1 if phase == "observe" else 2):
        compressor.step(step)
        cell.unroll(x, None, None)
    if phase != "observe":
        compressor.step(2)
    assert cell.active == (phase == "integers")


def run(case: Case, passes: int = 1) -> Found:
    """What a copy of the case's cell finds in its last pass."""
    cell = copy.deepcopy(case.cell)
    for _ in range(passes):
        x, state = case.x.clone().requires_grad_(), case.state and [s.clone().requires_grad_() for s in case.state]
        for values in cell.parameters():
            values.grad = None
        for layer in (cell.input, cell.recurrent):
            if isinstance(layer, FakeQuantLinear):
                layer.policypress_quantizer.gradient = None
        outputs, after = cell.unroll(x, case.starts, state)
        weights = numbers(*outputs.shape, seed=5)
        loss = (outputs * weights).sum() + sum((values * weights[0]).sum() for values in after)
        loss.backward()
    gradients = {name: values.grad for name, values in cell.named_parameters()}
    gradients |= {"x": x.grad} | {f"state {i}": vector.grad for i, vector in enumerate(state or [])}
    for name, layer in (("input", cell.input), ("recurrent", cell.recurrent)):
        if isinstance(layer, FakeQuantLinear):
            gradients[f"step of {name}"] = layer.policypress_quantizer.gradient
    ranges = [float(value) for name, values in cell.named_buffers() for value in values.flatten()]
    return Found(
        outputs.detach(), [s.detach() for s in after], {k: g for k, g in gradients.items() if g is not None}, ranges
    )


def assert_close(found: Found, wanted: Found, reach: float) -> None:
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        allowed = 1e-5 * float(gradient.abs().max()) + 1e-6 * reach  # of gates that are shut little is left
        assert torch.allclose(found.gradients[name], gradient, rtol=1e-5, atol=allowed), name
    assert np.allclose(found.ranges, wanted.ranges, rtol=1e-5, atol=0)


@settings(max_examples=20)
@given(case=cases("plain") | cases("observe") | cases("weights"))
def test_floats_and_their_gradients(case: Case) -> None:
    found = run(case)
    with by_steps():
        wanted = run(case)
    for ours, theirs in zip([found.outputs, *found.state], [wanted.outputs, *wanted.state], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_close(found, wanted, 1 + float(case.x.abs().max()))


@settings(max_examples=20)
@given(case=cases("integers"), passes=st.sampled_from([1, STEP_STRIDE + 1]))
def test_codes_and_their_gradients(case: Case, passes: int) -> None:
    found = run(case, passes)
    with by_steps():
        wanted = run(case, passes)
    for ours, theirs in zip([found.outputs, *found.state], [wanted.outputs, *wanted.state], strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()  # (and no NaN)
    assert_close(found, wanted, 1 + float(case.x.abs().max()))
