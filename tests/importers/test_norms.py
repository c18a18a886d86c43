"""LayerNorm in files of other frameworks, in one piece and in pieces; what a network with one can be made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from importers.models import HIDDEN, Graph, apart, opened
from policypress.compression.compressor import Compressor
from policypress.compression.graph import trace
from policypress.compression.student import student
from policypress.config import CompressionConfig
from policypress.errors import UnsupportedError
from policypress.export.onnx import export_onnx
from policypress.importers.signals import Norm
from policypress.policy.ops import LayerNorm

GAMMA, BETA = np.linspace(0.5, 2.0, HIDDEN), np.linspace(-1.0, 1.0, HIDDEN)


def mean(g: Graph, x: str, keep: int = 1) -> str:
    if g.opset >= 18:
        return str(g("ReduceMean", x, g.ints(-1), keepdims=keep))
    return str(g("ReduceMean", x, axes=[-1], keepdims=keep))


def in_pieces(g: Graph, x: str) -> str:
    """As PyTorch's exporter spells it below opset 17."""
    distance = g("Sub", x, mean(g, x))
    deviation = g("Sqrt", g("Add", mean(g, g("Pow", distance, 2.0)), 1e-3))
    return str(g("Add", g("Mul", g("Div", distance, deviation), GAMMA), BETA))


def in_tensorflows_pieces(g: Graph, x: str) -> str:
    """x * inverse + (beta - mean * inverse), the weight in the inverse."""
    distance = g("Sub", x, mean(g, x))
    root = g("Reciprocal", g("Sqrt", g("Add", mean(g, g("Mul", distance, distance)), 1e-3)))
    inverse = g("Mul", root, GAMMA)
    return str(g("Add", g("Mul", x, inverse), g("Sub", BETA, g("Mul", mean(g, x), inverse))))


def in_flaxs_pieces(g: Graph, x: str) -> str:
    """The variance as the mean of squares less the square of the mean, and at least 0."""
    centre = mean(g, x)
    variance = g("Max", g("Sub", mean(g, g("Mul", x, x)), g("Mul", centre, centre)), 0.0)
    inverse = g("Mul", g("Reciprocal", g("Sqrt", g("Add", variance, 1e-3))), GAMMA)
    return str(g("Add", g("Mul", g("Sub", x, centre), inverse), BETA))


def without_keeping_axes(g: Graph, x: str) -> str:
    centre = g("Unsqueeze", mean(g, x, keep=0), g.ints(1))
    distance = g("Sub", x, centre)
    variance = g("Unsqueeze", mean(g, g("Mul", distance, distance), keep=0), g.ints(1))
    return str(g("Mul", g("Div", distance, g("Pow", g("Add", variance, 1e-3), 0.5)), GAMMA))


def in_one_piece(g: Graph, x: str) -> str:
    return str(g("LayerNormalization", x, GAMMA, BETA, epsilon=1e-3))


@pytest.mark.parametrize(
    ("spelled", "opset"),
    [(in_one_piece, 17), (in_one_piece, 20), (in_pieces, 13), (in_pieces, 18), (in_tensorflows_pieces, 17),
     (in_flaxs_pieces, 18), (without_keeping_axes, 13)],
)  # fmt: skip
@pytest.mark.parametrize("function", ["", "silu", "gelu"])
def test_onnx_by_what_it_computes(
    spelled: Callable[[Graph, str], str], opset: int, function: str, tmp_path: Path
) -> None:
    def act(g: Graph, x: str) -> str:
        y = spelled(g, x)
        match function:
            case "silu":
                return str(g("Mul", y, g("Sigmoid", y)))
            case "gelu":
                return str(g("Mul", g("Mul", y, 0.5), g("Add", g("Erf", g("Div", y, 2**0.5)), 1.0)))
            case _:
                return y

    g = Graph(opset)
    found = opened(g.save(tmp_path / "a.onnx", g.network("obs", lambda x: act(g, x))))
    assert apart(found) < 1e-5
    assert found.chain is not None
    (norm,) = (step for step in found.chain.steps if isinstance(step, Norm))
    assert norm.epsilon == pytest.approx(1e-3, rel=1e-6)
    assert np.allclose(norm.weight, GAMMA, rtol=1e-5)


def test_behind_an_activation_and_with_a_scale_behind(tmp_path: Path) -> None:
    g = Graph(13)
    found = opened(g.save(tmp_path / "a.onnx", g.network("obs", lambda x: g("Mul", in_pieces(g, g("Elu", x)), 3.0))))
    assert apart(found) < 1e-5


@pytest.mark.parametrize("broken", ["length", "unbiased", "parts", "nested"])
def test_what_is_none_is_a_black_box(broken: str, tmp_path: Path) -> None:
    def act(g: Graph, x: str) -> str:
        if broken == "length":  # divided by its length
            return str(g("Div", x, g("Sqrt", g("Add", mean(g, g("Mul", x, x)), 1e-3))))
        if broken == "unbiased":
            distance = g("Sub", x, mean(g, x))
            variance = g("Mul", mean(g, g("Mul", distance, distance)), HIDDEN / (HIDDEN - 1))
            return str(g("Div", distance, g("Add", g("Sqrt", variance), 1e-3)))
        if broken == "parts":
            halves = g("Reshape", x, g.ints(-1, 2, HIDDEN // 2))
            return str(g("Reshape", g("LayerNormalization", halves, GAMMA[:4]), g.ints(-1, HIDDEN)))
        y = g("Sub", x, mean(g, x))
        for _ in range(60):  # each twice the last one: 2 ** 60 evaluations, were they not remembered
            y = g("Mul", g("Add", y, mean(g, y)), 0.9)
        return str(y)

    g = Graph(17)
    found = opened(g.save(tmp_path / "a.onnx", g.network("obs", lambda x: act(g, x))))
    assert found.policy is None
    wanted = {
        "parts": "LayerNormalization: of parts of a tensor",
        "nested": "ReduceMean, and what 32 operations make of it",
    }
    assert found.unknown == wanted.get(broken, "ReduceMean")


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8, 1e-4), nn.Linear(8, 3)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.nn.functional.silu(self.norm(self.first(x))))  # type: ignore[no-any-return]


class Pieces(Actor):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-4)
        return self.last(x * self.norm.weight + self.norm.bias)  # type: ignore[no-any-return]


class Image(nn.Module):
    """A LayerNorm of an image's values, flat or not."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)
        norm = nn.LayerNorm(64 if flat else (4, 4, 4))
        nn.init.normal_(norm.weight)
        self.middle = nn.Sequential(nn.Flatten(), norm) if flat else nn.Sequential(norm, nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.middle(self.first(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("flat", [True, False])
def test_of_all_values_of_an_image(flat: bool, tmp_path: Path) -> None:
    torch.jit.script(Image(flat)).save(tmp_path / "a.pt")
    assert apart(opened(tmp_path / "a.pt", shape=(1, 6, 6))) < 1e-5


@pytest.mark.parametrize("kind", [Actor, Pieces])
def test_torchscript(kind: type[Actor], tmp_path: Path) -> None:
    torch.jit.script(kind()).save(tmp_path / "a.pt")
    found = opened(tmp_path / "a.pt")
    assert apart(found) < 1e-5
    assert found.policy is not None
    export_onnx(found.policy, tmp_path / "a.onnx", "qdq")
    assert apart(opened(tmp_path / "a.onnx")) < 1e-5  # what is exported with ONNX's own operators opens


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 3))


def test_a_network_is_traced_and_imitated_not_pressed() -> None:
    graph = trace(network())
    assert graph.parameters == 6 * 8 + 8 + 16 + 8 * 3 + 3
    optimizer = torch.optim.Adam(network().parameters())
    with pytest.raises(UnsupportedError, match="--hidden"):
        Compressor(graph, optimizer, CompressionConfig(), 10)
    with pytest.raises(UnsupportedError, match="--hidden"):
        student(graph, (), torch.zeros(2, 6))
    for hidden in ((8,), (4,), (4, 4)):
        made = student(graph, hidden, torch.randn(5, 6))
        assert not any(isinstance(module, nn.LayerNorm) for module in made)
        assert made(torch.zeros(2, 6)).shape == (2, 3)


def test_it_is_frozen_in_float32(tmp_path: Path) -> None:
    torch.jit.script(network()).save(tmp_path / "a.pt")
    found = opened(tmp_path / "a.pt")
    assert found.policy is not None
    assert [type(op) for op in found.policy.ops].count(LayerNorm) == 1
    assert (
        found.rows()["layers"] == "understood: it can be frozen, exported and imitated, by a student without LayerNorm"
    )
