"""How many zeros each layer gets: exact totals, and each method against its own formula."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policypress.compression.allocation import allocate
from policypress.config import Allocation
from policypress.errors import ConfigError

METHODS: tuple[Allocation, ...] = ("erk", "uniform", "ivanov2025", "global")
SAC = [(256, 17), (256, 256), (6, 256)]
SAC_AND_LOG_STD = [*SAC, (6, 256)]
NATURE = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]
PAPER_SPARSITIES = [0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.98]

Shapes = list[tuple[int, ...]]

linear_shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
conv_shapes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
networks = st.lists(cast("st.SearchStrategy[tuple[int, ...]]", linear_shapes | conv_shapes), min_size=1, max_size=6)


def sizes_of(shapes: Shapes) -> list[int]:
    return [math.prod(shape) for shape in shapes]


@given(st.sampled_from(METHODS), networks, st.floats(0, 1, exclude_max=True))
def test_the_total_is_exact_and_no_layer_is_emptied_or_else_named(
    method: Allocation, shapes: Shapes, sparsity: float
) -> None:
    names = [f"layer{i}" for i in range(len(shapes))]
    sizes = sizes_of(shapes)
    try:
        zeros = allocate(method, shapes, sparsity, names)
    except ConfigError as error:
        zeros, sentence = None, str(error)
    if zeros is None:
        assert any(name in sentence for name in names)
        assert f"allocation={method}" in sentence
        return
    assert sum(zeros) == round(sparsity * sum(sizes))
    assert all(0 <= count < size for count, size in zip(zeros, sizes, strict=True))


@given(st.sampled_from(METHODS), networks)
def test_no_sparsity_is_no_zero(method: Allocation, shapes: Shapes) -> None:
    assert allocate(method, shapes, 0.0) == [0] * len(shapes)


@given(
    st.sampled_from(METHODS),
    st.lists(st.tuples(st.integers(16, 80), st.integers(16, 80)), min_size=1, max_size=5),
    st.floats(0, 0.9),
)
def test_ordinary_networks_are_never_refused_up_to_90_percent(
    method: Allocation, shapes: Shapes, sparsity: float
) -> None:
    assert sum(allocate(method, shapes, sparsity)) == round(sparsity * sum(sizes_of(shapes)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shapes", [SAC, SAC_AND_LOG_STD, NATURE], ids=["sac", "sac+log_std", "nature"])
def test_more_sparsity_never_takes_zeros_from_a_layer(method: Allocation, shapes: Shapes) -> None:
    by_sparsity = [allocate(method, shapes, s / 200) for s in range(198)]
    for before, after in pairwise(by_sparsity):
        assert all(a >= b - 1 for b, a in zip(before, after, strict=True))  # 1: largest remainders move


@pytest.mark.parametrize("shapes", [SAC, NATURE], ids=["sac", "nature"])
@pytest.mark.parametrize("sparsity", PAPER_SPARSITIES)
def test_erk_densities_follow_sum_over_product_and_clip_at_dense(shapes: Shapes, sparsity: float) -> None:
    """Evci et al. 2020: density_l = epsilon (sum of dimensions) / (product), with one epsilon and at most 1."""
    sizes = sizes_of(shapes)
    densities = [1 - z / size for z, size in zip(allocate("erk", shapes, sparsity), sizes, strict=True)]
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    open_layers = [i for i, density in enumerate(densities) if density < 1]
    assert open_layers
    largest = max(open_layers, key=lambda i: sizes[i])
    epsilon = densities[largest] / raw[largest]
    for i, density in enumerate(densities):
        weight = 1.5 / sizes[i] + epsilon * raw[i] * 1.5 / (sizes[largest] * densities[largest])
        assert density == pytest.approx(min(1.0, epsilon * raw[i]), abs=weight)


def test_erk_clips_the_small_last_layer_of_a_mildly_sparse_network() -> None:
    """At 10 % the free densities of 17-256-256-6 would be 9.6 (first layer) and more: only the square layer is cut."""
    zeros = allocate("erk", SAC, 0.1)
    assert zeros == [0, round(0.1 * sum(sizes_of(SAC))), 0]


def test_erk_clips_in_a_cascade() -> None:
    """Clipping one layer raises epsilon, which must then clip the next, or the total could not be met."""
    shapes: Shapes = [(2, 2), (8, 8), (64, 64)]
    zeros = allocate("erk", shapes, 0.6)
    assert zeros[0] == 0
    assert sum(zeros) == round(0.6 * (4 + 64 + 4096))
    raw = [1.0, 16 / 64, 128 / 4096]
    keep = 4164 - sum(zeros)
    first_epsilon = keep / (raw[0] * 4 + raw[1] * 64 + raw[2] * 4096)
    assert first_epsilon * raw[1] > 1
    assert zeros[1] == 0


@pytest.mark.parametrize("sparsity", PAPER_SPARSITIES)
@pytest.mark.parametrize("shapes", [SAC, SAC_AND_LOG_STD], ids=["sac", "sac+log_std"])
def test_ivanov2025_is_the_published_formula(shapes: Shapes, sparsity: float) -> None:
    """Layer sparsity = k (1 - (n_in + n_out) / (n_in n_out)); k makes the total."""
    sizes = sizes_of(shapes)
    raw = [1 - (o + i) / (o * i) for o, i in shapes]  # type: ignore[misc]
    k = sparsity * sum(sizes) / sum(r * size for r, size in zip(raw, sizes, strict=True))
    assert all(k * r < 1 for r in raw)
    for count, r, size in zip(allocate("ivanov2025", shapes, sparsity), raw, sizes, strict=True):
        assert abs(count - k * r * size) < 1


def test_ivanov2025_by_hand_at_98_percent() -> None:
    """Worked out with a pocket calculator for the paper's HalfCheetah actor."""
    zeros = allocate("ivanov2025", SAC_AND_LOG_STD, 0.98)
    total = 17 * 256 + 256 * 256 + 2 * 6 * 256
    raw_zeros = (17 * 256 - 273) + (256 * 256 - 512) + 2 * (6 * 256 - 262)
    k = 0.98 * total / raw_zeros
    assert k == pytest.approx(0.99790, abs=1e-5)
    assert [c / s for c, s in zip(zeros, sizes_of(SAC_AND_LOG_STD), strict=True)] == pytest.approx(
        [0.93530, 0.99010, 0.82768, 0.82768], abs=1e-3
    )


def test_ivanov2025_caps_a_layer_and_gives_its_share_to_the_others() -> None:
    """A wide layer stops at one weight a column; the square one follows the formula with a larger k."""
    shapes: Shapes = [(8, 512), (64, 64)]
    raw = [1 - sum(shape) / 4096 for shape in shapes]
    k = 0.9265 * 8192 / (4096 * sum(raw))
    assert k * raw[0] * 4096 > 4096 - 512
    zeros = allocate("ivanov2025", shapes, 0.9265)
    assert zeros == [4096 - 512, round(0.9265 * 8192) - (4096 - 512)]
    assert zeros[1] > k * raw[1] * 4096


def test_ivanov2025_at_99_percent_where_the_published_formula_exceeds_one() -> None:
    """The paper's sparsest setting: the square layer's formula gives 1.0002, here some of its weights are left."""
    sizes = sizes_of(SAC_AND_LOG_STD)
    raw = [1 - (o + i) / (o * i) for o, i in SAC_AND_LOG_STD]
    k = 0.99 * sum(sizes) / sum(r * size for r, size in zip(raw, sizes, strict=True))
    assert k * raw[1] > 1
    zeros = allocate("ivanov2025", SAC_AND_LOG_STD, 0.99)
    assert sum(zeros) == round(0.99 * sum(sizes))
    assert all(size - z > 100 for z, size in zip(zeros, sizes, strict=True))


def test_ivanov2025_takes_all_four_dimensions_of_a_convolution() -> None:
    raw = [1 - sum(shape) / math.prod(shape) for shape in NATURE]
    sizes = sizes_of(NATURE)
    k = 0.9 * sum(sizes) / sum(r * s for r, s in zip(raw, sizes, strict=True))
    for count, r, size in zip(allocate("ivanov2025", NATURE, 0.9), raw, sizes, strict=True):
        assert abs(count - k * r * size) < 1


@given(networks, st.floats(0, 1, exclude_max=True))
def test_uniform_gives_every_layer_the_same_sparsity(shapes: Shapes, sparsity: float) -> None:
    try:
        zeros = allocate("uniform", shapes, sparsity)
    except ConfigError:
        assert min(sizes_of(shapes)) * (1 - sparsity) <= 1
        return
    assert all(abs(z - sparsity * size) < 1 for z, size in zip(zeros, sizes_of(shapes), strict=True))


def test_methods_differ_where_they_should() -> None:
    erk, uniform, paper = (allocate(method, SAC, 0.9) for method in ("erk", "uniform", "ivanov2025"))
    assert erk[0] < paper[0] < uniform[0]
    assert erk[1] > paper[1] > uniform[1]


@pytest.mark.parametrize("method", METHODS)
def test_an_emptied_layer_is_named_with_its_shape_and_a_remedy(method: Allocation) -> None:
    with pytest.raises(ConfigError, match=r"sparsity=0\.999.*latent_pi\.0.*4x4.*lower the sparsity or widen"):
        allocate(method, [(4, 4)], 0.999, ["latent_pi.0"])
    with pytest.raises(ConfigError, match="layer number 0"):
        allocate(method, [(4, 4)], 0.999)


def test_a_tiny_layer_beside_a_large_one_is_the_one_that_is_named() -> None:
    with pytest.raises(ConfigError, match=r"layer mu \(1x4\)"):
        allocate("uniform", [(64, 64), (1, 4)], 0.98, ["latent_pi", "mu"])
    assert allocate("erk", [(64, 64), (1, 4)], 0.98)[1] == 1  # density 0.77


def test_global_allocation_is_refused_only_where_it_must_empty_a_layer() -> None:
    assert sum(allocate("global", [(64, 64), (1, 4)], 0.9)) == 3690
