"""TorchScript files: understood where they are a chain, a black box that PyTorch runs where not, harmless always."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from importers.models import apart, opened
from policypress.errors import ConfigError, RunError, UnsupportedError


class Exporter(nn.Module):
    """What rsl_rl writes: a normalizer and an actor."""

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor
        self.register_buffer("mean", torch.linspace(-1, 2, 6)[None])
        self.register_buffer("std", torch.linspace(0.5, 3, 6)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.actor((x - self.mean) / (self.std + 1e-2))


class Cut(nn.Module):
    """Parts of an observation in another order, and an action between bounds, written in many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = torch.split(x, [2, 4], dim=-1)
        y = self.first(torch.cat([b.clamp(-100.0, 100.0) if False else b, a[:, :1]], dim=1))
        y = self.last(y * torch.sigmoid(y))
        mean, _ = y.chunk(2, dim=-1)
        return torch.tanh(mean) * 0.5


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(nn.functional.normalize(self.first(x), dim=-1)))


class Memory(nn.Module):
    """A state in a buffer whose name says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.register_buffer("hidden_state", torch.zeros(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.layer(x) + self.hidden_state)
        self.hidden_state[:] = y[:1]
        return y


class Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden_state", torch.zeros(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.hidden_state = torch.cat([self.hidden_state, x])
        return self.hidden_state.sum(0, keepdim=True)


class Counts(nn.Module):
    """A state that nothing tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return self.layer(x) * float(self.steps)


class Repeats(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool((x.sum() < 1e9).item()):
            x = x + 0.0
        return x


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(x.shape)


class Writes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 6, dtype=torch.float32)


class OnLoad(nn.Module):
    """Runs while it is loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.training = state[1]


def actor(act: type[nn.Module] = nn.ELU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 4), act(), nn.Linear(4, 3))


def saved(module: nn.Module, path: Path, *, trace: bool = False) -> Path:
    (torch.jit.trace(module, torch.randn(2, 6)) if trace else torch.jit.script(module)).save(path)
    return path


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("act", [nn.ELU, nn.Tanh, nn.SiLU, nn.LeakyReLU, nn.Mish, nn.ReLU6, nn.Softplus, nn.GELU])
def test_actors_are_understood(act: type[nn.Module], trace: bool, tmp_path: Path) -> None:
    found = opened(saved(Exporter(actor(act)), tmp_path / "a.pt", trace=trace))
    assert (found.format, found.shape) == ("TorchScript", (6,))
    assert apart(found) < 1e-5
    assert found.policy is not None
    assert found.policy.observation.normalization is not None


def test_parts_and_ends(tmp_path: Path) -> None:
    found = opened(saved(Cut(), tmp_path / "a.pt"), shape=(6,))
    assert apart(found) < 1e-5
    assert found.policy is not None
    assert found.policy.action.squash
    np.testing.assert_allclose(found.policy.action.high, 0.5)


def test_a_black_box_is_what_pytorch_runs(tmp_path: Path) -> None:
    module = Normed().eval()
    found = opened(saved(module, tmp_path / "a.pt"))
    assert (found.policy, found.unknown) == (None, "aten::norm")
    x = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_array_equal(found.run(x), module(torch.from_numpy(x)).numpy())


def test_dropout_does_nothing(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ELU(), nn.Linear(8, 2)).train()
    assert apart(opened(saved(network, tmp_path / "a.pt"))) < 1e-5


def test_a_state_that_can_be_zeroed_can_be_reset(tmp_path: Path) -> None:
    found = opened(saved(Memory(), tmp_path / "a.pt"))
    assert found.steps is not None
    x = np.ones((2, 6), np.float32)
    first, states = found.steps(x, [None, None])
    np.testing.assert_array_equal(found.run(x), first)
    second, _ = found.steps(x, [states[0], None])  # of two episodes one begins again
    assert not np.array_equal(second[0], first[0])
    np.testing.assert_array_equal(second[1], first[1])


def test_a_state_that_grows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="keeps a state of another shape after each step"):
        opened(saved(Grows(), tmp_path / "a.pt"), shape=(6,))


def test_a_state_that_nothing_resets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"keeps a state .* that nothing is known to reset"):
        opened(saved(Counts(), tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Repeats(), "runs parts of itself again"),
        (Random(), "draws at random"),
        (Writes(), "opens files"),
        (OnLoad(), "runs code while it is loaded"),
    ],
)
def test_programs_are_not_run(module: nn.Module, sentence: str, tmp_path: Path) -> None:
    path = saved(module, tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match=sentence):
        opened(path, shape=(6,))


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return x + h

    with pytest.raises(UnsupportedError, match=r"2 inputs \(x, h\)"):
        opened(saved(Two(), tmp_path / "a.pt"))


def test_damaged_files(tmp_path: Path) -> None:
    path = saved(actor(), tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises((RunError, UnsupportedError), match=r"is damaged|can be read|not finite|does not run"):
        opened(path)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    network = actor()
    with torch.no_grad():
        network[2].weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedError, match="are not finite"):
        opened(saved(network, tmp_path / "a.pt"))


def test_its_shape_may_have_to_be_said(tmp_path: Path) -> None:
    class Any(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.a(x[:, :4])) @ self.b.weight.t()

    path = saved(Any(), tmp_path / "a.pt")
    assert opened(path).shape is None
    assert apart(opened(path, shape=(5,))) < 1e-5
    (tmp_path / "told.json").write_text('{"observation_shape": [5]}')
    assert opened(path, metadata=str(tmp_path / "told.json")).shape == (5,)
    (tmp_path / "told.json").write_text('{"observation_shape": "wide"}')
    with pytest.raises(ConfigError, match="must be whole numbers"):
        opened(path, metadata=str(tmp_path / "told.json"))


class Named(nn.Module):
    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return x["policy"]


def test_observations_of_several_tensors_say_what_to_do(tmp_path: Path) -> None:
    torch.jit.script(Named()).save(tmp_path / "a.pt")
    with pytest.raises(
        UnsupportedError, match=r"takes observations of Dict\[str, Tensor\]: export it so that it takes"
    ):
        opened(tmp_path / "a.pt")


def test_half_weights_say_what_to_do(tmp_path: Path) -> None:
    torch.jit.script(nn.Sequential(nn.Linear(6, 4), nn.ELU(), nn.Linear(4, 3)).half()).save(tmp_path / "a.pt")
    with pytest.raises(UnsupportedError, match="its weights are float16: export it in float32"):
        opened(tmp_path / "a.pt", shape=(6,))


def test_a_prelu_of_one_number_is_a_leaky_relu(tmp_path: Path) -> None:
    torch.jit.script(nn.Sequential(nn.Linear(6, 4), nn.PReLU(), nn.Linear(4, 3)).eval()).save(tmp_path / "a.pt")
    assert apart(opened(tmp_path / "a.pt", shape=(6,))) <= 1e-5
    torch.jit.script(nn.Sequential(nn.Linear(6, 4), nn.PReLU(4, init=0.1), nn.Linear(4, 3))).save(tmp_path / "b.pt")
    assert opened(tmp_path / "b.pt", shape=(6,)).understood  # four numbers that are the same
