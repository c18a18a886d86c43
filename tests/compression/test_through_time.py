"""Recurrent cells in C compute what torch's operators do step after step: codes bit for bit, the rest nearly so."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policypress.compression import kernels
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


@contextmanager
def by_steps() -> Iterator[None]:
    with mock.patch.object(kernels, "fit", return_value=False):
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
            values.mul_(draw(st.sampled_from([1.0, 3.0])))  # of which some shut gates, and clip codes
    bits = draw(st.sampled_from([None, (8, 8), (12, 16), (16, 16)]))
    (cell,) = Recurrent.of(module, bits and bits[: 1 if kind is nn.GRU else 2])
    spread = draw(st.sampled_from([0.3, 3.0, 30.0]))
    x = numbers(steps, rows, FEATURES, seed=seed, spread=spread)
    if phase != "plain":
        compressed(cell, phase, x, CompressionConfig(
            sparsity=draw(st.sampled_from([0.0, 0.4])), weight_bits=draw(st.sampled_from([2, 4, 8])),
            activation_bits=0 if phase == "weights" else 8,
            weight_range=draw(st.sampled_from(get_args(WeightRange))),
            granularity=draw(st.sampled_from(["tensor", "channel"])),
            prune_start=0.0, quantize_start=0.5, observe=0.5,
        ))  # fmt: skip
    starts = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    vectors = len(cell.bits)
    return Case(
        cell,
        x,
        None if starts is None else torch.rand(steps, rows, generator=torch.Generator().manual_seed(seed)) < starts,
        draw(st.sampled_from([None, list(numbers(vectors, rows, units, seed=seed + 1))])),
    )


def compressed(cell: Recurrent, phase: str, x: torch.Tensor, config: CompressionConfig) -> None:
    """Gives the cell quantizers that have met something, up to ``phase``."""
    network = nn.Sequential(cell, nn.Linear(cell.units, OUTPUTS))
    compressor = Compressor(trace(network), torch.optim.SGD(network.parameters()), config, 2)
    for step in range(1 if phase == "observe" else 2):
        compressor.step(step)
        cell.unroll(x, None, None)
    if phase != "observe":
        compressor.step(2)
    assert cell.active == (phase == "integers")


def run(case: Case) -> Found:
    """What a copy of the case's cell finds."""
    cell = copy.deepcopy(case.cell)
    x, state = case.x.clone().requires_grad_(), [vector.clone().requires_grad_() for vector in case.state or []]
    outputs, after = cell.unroll(x, case.starts, state or None)
    weights = numbers(*outputs.shape, seed=5)
    loss = (outputs * weights).sum() + sum((values * weights[0]).sum() for values in after)
    loss.backward()
    gradients = {name: values.grad for name, values in cell.named_parameters()}
    gradients |= {"x": x.grad} | {f"state {i}": vector.grad for i, vector in enumerate(state)}
    for name, layer in (("input", cell.input), ("recurrent", cell.recurrent)):
        if isinstance(layer, FakeQuantLinear):
            gradients[f"step of {name}"] = layer.policypress_quantizer.gradient
    present = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    return Found(outputs.detach(), [vector.detach() for vector in after], present)


def both(case: Case) -> tuple[Found, Found]:
    with mock.patch.object(kernels, "unroll", wraps=kernels.unroll) as called:
        found = run(case)
        assert called.call_count == 1
        with by_steps():
            return found, run(case)


def assert_gradients_close(case: Case, found: Found, wanted: Found) -> None:
    assert found.gradients.keys() == wanted.gradients.keys() >= {"x", "recurrent.weight"}
    shut = 1e-6 * (1 + float(case.x.abs().max()))  # of gates that are shut little is left, and that of rounding
    for name, gradient in wanted.gradients.items():
        allowed = 1e-5 * float(gradient.abs().max()) + shut
        assert torch.allclose(found.gradients[name], gradient, rtol=1e-5, atol=allowed), name


@settings(max_examples=20)
@given(case=cases("plain") | cases("observe") | cases("weights"))
def test_floats_and_their_gradients(case: Case) -> None:
    found, wanted = both(case)
    for ours, theirs in zip([found.outputs, *found.state], [wanted.outputs, *wanted.state], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_gradients_close(case, found, wanted)


@settings(max_examples=20)
@given(case=cases("integers"))
def test_codes_and_their_gradients(case: Case) -> None:
    found, wanted = both(case)
    for ours, theirs in zip([found.outputs, *found.state], [wanted.outputs, *wanted.state], strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    assert_gradients_close(case, found, wanted)


def test_what_a_layer_clips_has_no_gradient() -> None:
    torch.manual_seed(0)
    (cell,) = Recurrent.of(nn.LSTM(FEATURES, 4))
    nn.init.constant_(cell.recurrent.bias, 40.0)  # beyond the largest code
    nn.init.constant_(cell.input.bias, -31.9)  # so that gates are open all the same
    x = numbers(3, 2, FEATURES, seed=0)
    compressed(cell, "integers", x, CompressionConfig(sparsity=0.0, weight_bits=8, quantize_start=0.5, observe=0.5))
    case = Case(cell, x, None, None)
    found, wanted = both(case)
    assert_gradients_close(case, found, wanted)
    assert not found.gradients["recurrent.bias"].any()
    assert found.gradients["input.bias"].abs().max() > 0.01


@settings(max_examples=20)
@given(case=cases("plain") | cases("integers"), seed=st.integers(0, 999))
def test_what_is_not_finite_goes_the_same_way(case: Case, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for values in (case.x, *(case.state or [])):
        values.flatten()[torch.randint(values.numel(), (2,), generator=generator)] = torch.tensor(SPECIAL)[
            torch.randint(len(SPECIAL), (2,), generator=generator)
        ]
    with torch.no_grad():
        found = copy.deepcopy(case.cell).unroll(case.x, case.starts, case.state)
        with by_steps():
            wanted = copy.deepcopy(case.cell).unroll(case.x, case.starts, case.state)
    for ours, theirs in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        if case.cell.active:
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())  # NaN is NaN
        else:
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_the_same_ranges_are_observed(kind: type[nn.RNNBase]) -> None:
    found = []
    for way in (nullcontext, by_steps):
        torch.manual_seed(0)
        (cell,) = Recurrent.of(kind(FEATURES, 5))
        network = nn.Sequential(cell, nn.Linear(5, OUTPUTS))
        config = CompressionConfig(sparsity=0.0, weight_bits=4, quantize_start=0.5, observe=0.5)
        compressor = Compressor(network, torch.optim.SGD(network.parameters()), config, 4 * STEP_STRIDE)
        with way():
            for step in range(4 * STEP_STRIDE):
                compressor.step(step)
                cell.unroll(numbers(4, 3, FEATURES, seed=step, spread=1 + step / 8), None, None)
        found.append({name: values.clone() for name, values in cell.named_buffers()})
    assert any("ranges" in name for name in found[0])
    for name, values in found[0].items():
        assert torch.allclose(values, found[1][name], rtol=1e-5, atol=0), name


def test_what_c_does_not_serve_takes_torch_steps() -> None:
    torch.manual_seed(0)
    (wide,) = Recurrent.of(nn.GRU(FEATURES, 4).double())
    (cold,) = Recurrent.of(nn.GRU(FEATURES, 4))
    network = nn.Sequential(cold, nn.Linear(4, OUTPUTS))
    config = CompressionConfig(sparsity=0.0, weight_bits=4, quantize_start=0.0, observe=0.0)
    Compressor(network, torch.optim.SGD(network.parameters()), config, 2).step(0)
    assert cold.active  # and has met nothing: its layers compute in integers, and it does not yet
    x = numbers(3, 2, FEATURES, seed=0)
    with mock.patch.object(kernels, "unroll") as called:
        assert wide.unroll(x.double(), None, None)[0].dtype == torch.float64
        cold.unroll(x, None, None)
        begun = torch.tensor([[True], [False], [True]])
        broadcast = wide.float().unroll(x, begun, None)[0]
    assert not called.called
    assert torch.allclose(broadcast, wide.unroll(x, begun.expand(3, 2), None)[0], atol=1e-6)
    with mock.patch.object(kernels, "unroll", wraps=kernels.unroll) as called:
        cold.unroll(x, None, None)
    assert called.called


def test_a_weight_that_has_changed_has_no_gradient_any_more() -> None:
    (cell,) = Recurrent.of(nn.LSTM(FEATURES, 4))
    outputs, _ = cell.unroll(numbers(3, 2, FEATURES, seed=0), None, None)
    outputs.sum().backward(retain_graph=True)
    first = cell.recurrent.weight.grad.clone()
    cell.zero_grad()
    outputs.sum().backward(retain_graph=True)
    assert torch.equal(cell.recurrent.weight.grad, first)
    with torch.no_grad():
        cell.recurrent.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_nothing_holds_what_was_found() -> None:
    (cell,) = Recurrent.of(nn.GRU(FEATURES, 4))
    gc.disable()
    try:
        outputs, state = cell.unroll(numbers(3, 2, FEATURES, seed=0), None, None)
        kept = weakref.ref(outputs.grad_fn.next_functions[0][0])
        del outputs, state
        assert kept() is None
    finally:
        gc.enable()
