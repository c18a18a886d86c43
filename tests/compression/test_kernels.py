"""The C kernels compute the same bits as the torch expressions they stand for."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.compression import kernels

SHAPES = [(1, 1), (3, 7), (256, 17), (5, 3, 4, 9), (0, 4)]
LIMITS = [(0, 255), (-127, 127), (0, 3), (-1, 1), (-32767, 32767)]
SPECIAL = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, 3e38, -3e38, float("inf"), float("-inf")])


def numbers(shape: tuple[int, ...], spread: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * spread
    halves = (values * 2).round() / 2  # many of them between two codes
    values = torch.where(torch.rand(shape, generator=generator) < 0.5, halves, values)
    flat = values.flatten()
    flat[: len(SPECIAL)] = SPECIAL[: flat.numel()]
    return flat.reshape(shape)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values where the kernels do not reach them."""
    wide = torch.zeros(*tensor.shape, 2)
    wide[..., 0] = tensor
    return wide[..., 0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limits", LIMITS)
@settings(max_examples=25)
@given(spread=st.sampled_from([0.1, 3.0, 100.0, 1e6]), seed=st.integers(0, 99))
def test_quantize(shape: tuple[int, ...], limits: tuple[int, int], spread: float, seed: int) -> None:
    x = numbers(shape, spread, seed)
    factors = [torch.tensor([0.75])]
    if len(shape) == 2:
        factors.append(torch.linspace(0.1, 3, shape[1]))
    for factor in factors:
        zeros = torch.linspace(-3e4, 3e4, factor.numel()).round()
        for zero in (None, zeros):
            codes = (x * factor).round()
            wanted = (codes if zero is None else codes - zero).clamp(*limits)
            assert torch.equal(kernels.quantize(x, factor, limits, zero), wanted)
            assert torch.equal(kernels.quantize(strided(x), factor, limits, zero), wanted)


def test_nan_stays_nan() -> None:
    for zero in (None, torch.ones(3)):
        factor = torch.ones(1) if zero is None else torch.ones(3)
        assert kernels.quantize(torch.full((2, 3), torch.nan), factor, (0, 255), zero).isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limits", LIMITS[:4])
@settings(max_examples=25)
@given(exponent=st.integers(-24, 3), spread=st.sampled_from([10.0, 3e4, 1e7]), seed=st.integers(0, 99))
def test_requantize(shape: tuple[int, ...], limits: tuple[int, int], exponent: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    acc = (torch.randn(shape, generator=generator) * spread).round()
    scale = float(torch.tensor(0.37))
    for count in {1, shape[1]}:
        ratio = torch.randint(16, 256, (count,), generator=generator) * 2.0**exponent / 16
        per_channel = ratio.reshape(-1, *[1] * (len(shape) - 2)).double()
        codes = torch.floor(acc.double() * per_channel + 0.5)
        wanted = codes.clamp(*limits).float() * scale
        ratios = [ratio.double()] if exponent < -16 else [ratio, ratio.double()]
        for own, given_acc in itertools.product(ratios, (acc, strided(acc), acc.double())):
            assert torch.equal(kernels.requantize(given_acc.clone(), own, limits, scale), wanted)
            values, found = kernels.requantize_with_codes(given_acc.clone(), own, limits, scale)
            assert torch.equal(values, wanted)
            inside = (codes >= limits[0]) & (codes <= limits[1])
            assert torch.equal((found >= limits[0]) & (found <= limits[1]), inside)
            assert torch.equal(found[inside], codes[inside].float())


@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (4, 3, 2, 5)])
@settings(max_examples=25)
@given(bits=st.integers(2, 8), seed=st.integers(0, 99))
def test_weight_codes(shape: tuple[int, ...], bits: int, seed: int) -> None:
    limit = 2 ** (bits - 1) - 1
    weight = numbers(shape, 1.0, seed)
    input_scales = [None] if len(shape) == 4 else [None, torch.linspace(0.2, 2, shape[1])]
    for input_scale in input_scales:
        for inverse in (torch.tensor([30.0]), torch.linspace(1, 99, shape[0])):
            scaled = weight if input_scale is None else weight * input_scale
            wanted = (scaled * inverse.reshape(-1, *[1] * (len(shape) - 1))).round().clamp(-limit, limit)
            largest = int(wanted.abs().flatten(1).sum(1).amax())
            for out in (None, torch.full_like(weight, 7.0), torch.zeros(1)):
                codes, found = kernels.weight_codes(weight, input_scale, inverse, limit, out)
                assert torch.equal(codes, wanted)
                assert found == largest
            codes, found = kernels.weight_codes(strided(weight), input_scale, inverse, limit)
            assert torch.equal(codes, wanted)
            assert found == largest


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25)
@given(largest=st.integers(1, 255), spread=st.sampled_from([0.1, 3.0, 1e6]), seed=st.integers(0, 99))
def test_look_up(shape: tuple[int, ...], largest: int, spread: float, seed: int) -> None:
    x = numbers(shape, spread, seed)
    x.flatten()[-1:] = torch.nan
    table = torch.randn(2 * largest + 2, 2)
    table[-1] = torch.nan
    for limits in ((-largest, largest), (0, largest)):
        codes = (x * 0.75).round().clamp(*limits)
        wanted = table[torch.where(codes.isnan(), 2 * largest + 1, codes + largest).long()]
        for given_x in (x, strided(x)):
            found = kernels.look_up(given_x, 0.75, limits, table)
            for ours, theirs in zip(found, (wanted[..., 0], wanted[..., 1]), strict=True):
                assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
                assert torch.equal(ours.isnan(), theirs.isnan())


@pytest.mark.parametrize("shape", [(1, 1), (8, 30), (4, 3, 2, 5)])
@settings(max_examples=25)
@given(seed=st.integers(0, 99))
def test_gradients_of_steps(shape: tuple[int, ...], seed: int) -> None:
    """In float32, so that sums may differ by their rounding."""
    generator = torch.Generator().manual_seed(seed)
    weight, of_weight, grad = (torch.randn(shape, generator=generator) for _ in range(3))
    weight.flatten()[-1] = 0.0
    input_scales = [None] if len(shape) == 4 else [None, torch.linspace(0.2, 2, shape[1])]
    for input_scale, step in itertools.product(input_scales, (torch.tensor([0.1]), torch.linspace(0.1, 1, shape[0]))):
        codes, _ = kernels.weight_codes(weight, input_scale, 1 / step, 7)
        given_codes = (codes, strided(codes))
        found = [kernels.step_gradient(of_weight, weight, one, input_scale, step, 7) for one in given_codes]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
        assert found[0].shape == step.shape
        grads = [grad.clone(), strided(grad).clone()]
        grads[1] = strided(grads[1])
        found = [kernels.rate_gradient(weight, one, input_scale, step, 0.3) for one in grads]
        torch.testing.assert_close(*found)
        torch.testing.assert_close(*grads)
        torch.testing.assert_close(kernels.rate_gradient(weight, None, input_scale, step, 0.3), found[0])
