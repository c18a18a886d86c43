"""Networks beside one another, and what goes past them: an encoder's answer joined with the observation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from importers.models import apart, opened

INPUTS, OUTPUTS = 9, 3


class Joined(nn.Module):
    """An actor of an observation's last part and of what encoders make of others."""

    def __init__(self, join: Callable[[Joined, torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.deep = nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 2))
        self.short = nn.Sequential(nn.Linear(3, 4), nn.Softplus())
        self.matrix = nn.Linear(INPUTS, 2)
        self.actor = nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, OUTPUTS))
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.actor(self.join(self, x))  # type: ignore[no-any-return]


JOINS: dict[str, tuple[Callable[[Joined, torch.Tensor], torch.Tensor], int]] = {
    "an encoder, and what it read": (lambda m, x: torch.cat([m.deep(x[:, :6]), x[:, 3:]], 1), 8),
    "the observation first, scaled": (lambda m, x: torch.cat([x * 0.5 - 1, m.deep(x[:, :6]) * 2], 1), 11),
    "a function at the encoder's end": (lambda m, x: torch.cat([m.short(x[:, 6:]), x[:, :2]], 1), 6),
    "a single layer": (lambda m, x: torch.cat([m.matrix(x), x], 1), 11),
    "two encoders": (lambda m, x: torch.cat([m.deep(x[:, :6]), m.short(x[:, 6:])], 1), 6),
    "two encoders and some": (lambda m, x: torch.cat([x[:, :4], m.short(x[:, 6:]), m.deep(x[:, 1:7])], 1), 10),
    "normalizers of their own": (lambda m, x: torch.cat([m.deep((x[:, :6] - 1) / 3), x[:, 6:] / 4], 1), 5),
    "a constant among them": (lambda m, x: torch.cat([m.short(x[:, :3]), x[:, :1] * 0 + 1, x], 1), 14),
    "twice, one after the other": (lambda m, x: m.short(torch.cat([m.deep(x[:, :6]), x[:, 8:]], 1)), 4),
}  # fmt: skip


@pytest.mark.parametrize("case", list(JOINS))
def test_what_goes_past_a_network_is_understood(case: str, tmp_path: Path) -> None:
    module = Joined(*JOINS[case]).eval()
    torch.jit.trace(module, torch.zeros(2, INPUTS)).save(tmp_path / "policy.pt")
    found = opened(tmp_path / "policy.pt", shape=(INPUTS,))
    assert apart(found) <= 1e-5
    assert "a student that is one network" in found.rows()["layers"] or case == "a single layer"


RESIDUALS: dict[str, Callable[[Joined, torch.Tensor], torch.Tensor]] = {
    "a vector and what layers make of it": lambda m, x: (h := m.first(x)) + m.second(torch.tanh(h)),
    "the other way round, functions at both ends": lambda m, x: (
        torch.relu(m.second(h := torch.relu(m.first(x)))) + h
    ),
    "blocks one after another": lambda m, x: (
        (h := (g := m.first(x)) + m.second(g.relu())) + m.third(h.sigmoid())
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(RESIDUALS))
def test_residual_blocks_are_understood(case: str, tmp_path: Path) -> None:
    module = Joined(RESIDUALS[case], 5)
    module.first, module.second, module.third = nn.Linear(INPUTS, 5), nn.Linear(5, 5), nn.Linear(5, 5)
    torch.jit.trace(module.eval(), torch.zeros(2, INPUTS)).save(tmp_path / "policy.pt")
    assert apart(opened(tmp_path / "policy.pt", shape=(INPUTS,))) <= 1e-5


def test_a_network_clipped_before_it_is_joined_is_a_black_box(tmp_path: Path) -> None:
    module = Joined(lambda m, x: torch.cat([m.deep(x[:, :6].clamp(-1, 1)), x], 1), 11).eval()
    torch.jit.trace(module, torch.zeros(2, INPUTS)).save(tmp_path / "policy.pt")
    found = opened(tmp_path / "policy.pt", shape=(INPUTS,))
    assert "what different layers give" in found.unknown
