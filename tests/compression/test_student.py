"""Copies and narrower copies of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from policypress.compression.graph import Graph, Residual, trace
from policypress.compression.recurrent import Frames, Recurrent
from policypress.compression.student import forward, hidden_widths, linear, starts_afresh, student, unroll
from policypress.errors import ConfigError, UnsupportedError


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)
    )  # fmt: skip


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def resnet() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), Residual(body), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10), nn.ReLU(), nn.Linear(10, 3)
    )


NETWORKS = {"mlp": (mlp, (7, 5)), "cnn": (cnn, (7, 2, 13, 13)), "resnet": (resnet, (7, 2, 10, 10))}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_deployed_path_is_the_network(name: str) -> None:
    make, shape = NETWORKS[name]
    network, x = make(), torch.randn(shape)
    assert torch.equal(forward(trace(network), x), network(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_without_widths_it_is_a_copy_that_shares_nothing(name: str) -> None:
    make, shape = NETWORKS[name]
    network, x = make(), torch.randn(shape)
    copy = student(trace(network), (), x)
    assert torch.equal(copy(x), network(x))
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert network(x).abs().max() > 0


def remembering() -> nn.Sequential:
    torch.manual_seed(0)
    cells = Recurrent.of(nn.LSTM(10, 6, num_layers=2))
    return nn.Sequential(Frames(2), *cells, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_what_remembers_is_copied_and_keeps_its_width() -> None:
    network, x = remembering(), torch.randn(4, 7, 5)
    graph = trace(network)
    wanted, _ = unroll(graph, x)
    copy = student(graph, (), x[0])
    assert torch.equal(unroll(trace(copy), x)[0], wanted)
    behind = student(graph, (4,), x[0])
    assert hidden_widths(trace(behind)) == (*hidden_widths(graph)[:-1], 4)
    with torch.no_grad():
        for parameter in (*copy.parameters(), *behind.parameters()):
            parameter.zero_()
    assert torch.equal(unroll(graph, x)[0], wanted)
    with pytest.raises(UnsupportedError, match="what remembers has no narrower copy: train a student of its own"):
        student(graph, (5, 4), x[0])


@pytest.mark.parametrize(
    ("name", "hidden", "widths"),
    [
        ("mlp", (3, 2), (3, 2)),
        ("cnn", (2, 3, 5), (2, 3, 5)),
        ("cnn", (5,), (6, 4, 5)),
        ("resnet", (4,), (3, 3, 3, 4)),
    ],
)
def test_widths_are_those_of_the_last_hidden_layers(
    name: str, hidden: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    make, shape = NETWORKS[name]
    network, x = make(), torch.randn(shape)
    narrow = student(trace(network), hidden, x)
    assert hidden_widths(trace(narrow)) == widths
    assert narrow(x).shape == (7, 3)


def with_units(network: nn.Sequential, node: int, alive: list[int]) -> Graph:
    """All units of a layer but ``alive`` say nothing."""
    graph = trace(network)
    module = graph.layers[node].module
    dead = [unit for unit in range(len(module.weight)) if unit not in alive]
    with torch.no_grad():
        module.weight[dead] = 0
        if module.bias is not None:
            module.bias[dead] = 0
    return graph


@pytest.mark.parametrize(
    ("name", "node", "alive", "hidden"),
    [
        ("mlp", 0, [1, 4, 11], (3, 8)),
        ("mlp", 1, [0, 7], (12, 2)),
        ("cnn", 0, [0, 2, 5], (3, 4, 10)),
        ("cnn", 1, [1, 3], (6, 2, 10)),  # its channels become positions of the Linear layer behind it
        ("resnet", 3, [8, 9], (2,)),
    ],
)
def test_the_units_that_say_something_stay(name: str, node: int, alive: list[int], hidden: tuple[int, ...]) -> None:
    make, shape = NETWORKS[name]
    network, x = make(), torch.randn(shape)
    graph = with_units(network, node, alive)
    assert torch.allclose(student(graph, hidden, x)(x), network(x), atol=1e-6)


def test_units_that_nobody_reads_go_first() -> None:
    network, x = mlp(), torch.randn(50, 5)
    with torch.no_grad():
        network[0].weight[3] *= 100  # loud, but unread
        network[2].weight[:, 3] = 0
    assert torch.allclose(student(trace(network), (11, 8), x)(x), network(x), atol=1e-6)


def test_another_number_of_linear_layers_starts_anew() -> None:
    x = torch.randn(7, 5)
    deeper = student(trace(mlp()), (6, 6, 6), x)
    assert hidden_widths(trace(deeper)) == (6, 6, 6)
    assert deeper(x).shape == (7, 3)


def test_an_activation_of_its_own_starts_anew() -> None:
    x = torch.randn(7, 5)
    network = student(trace(mlp()), (6, 4), x, activation="elu")
    assert [type(module) for module in network] == [nn.Flatten, nn.Linear, nn.ELU, nn.Linear, nn.ELU, nn.Linear]
    assert starts_afresh(trace(mlp()), (6, 4), "elu")
    assert not starts_afresh(trace(mlp()), (6, 4))
    with pytest.raises(ConfigError, match="the activation 'swish2' is not one of relu, tanh, leaky_relu, elu"):
        student(trace(mlp()), (6, 4), x, activation="swish2")
    with pytest.raises(ConfigError, match="keeps the functions of its agent, leave it out"):
        student(trace(mlp()), (), x, activation="elu")
    with pytest.raises(ConfigError, match="keeps the functions of its agent, leave it out"):
        student(trace(cnn()), (5,), torch.randn(NETWORKS["cnn"][1]), activation="elu")


@pytest.mark.parametrize(
    ("name", "hidden", "sentence"),
    [
        ("mlp", (13, 8), "cannot become 13 wide: give 1 to 12"),
        ("cnn", (2, 2, 2, 2), "names more layers than the network has: 6,4,10"),
        ("resnet", (3, 2, 3, 4), "layers inside residual blocks keep their width|leave layers beside residual blocks"),
        ("resnet", (2, 3, 3, 4), "leave layers beside residual blocks"),
    ],
)
def test_widths_that_do_not_fit(name: str, hidden: tuple[int, ...], sentence: str) -> None:
    make, shape = NETWORKS[name]
    with pytest.raises(ConfigError, match=sentence):
        student(trace(make()), hidden, torch.randn(shape))


@pytest.mark.parametrize("count", [400, 5])  # more states than inputs, and fewer
def test_a_linear_student_is_the_line_that_fits_best(count: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(count, 9) * torch.logspace(-1, 2, 9) + 5
    x[:, 4] = 3.0  # never varies
    weight = torch.randn(2, 9) / torch.logspace(-1, 2, 9)
    y = x @ weight.T + torch.tensor([4.0, -2.0])
    network = linear(x, y)
    assert [type(module) for module in network] == [nn.Flatten, nn.Linear]
    assert (network(x) - y).abs().max() < 0.02 * y.std()
    assert network[1].weight[:, 4].abs().max() == 0
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_linear_student_of_any_network(name: str) -> None:
    make, shape = NETWORKS[name]
    x = torch.randn(shape)
    network = student(trace(make()), "none", x)
    assert network(x).shape == (7, 3)
    assert len([module for module in network.modules() if isinstance(module, nn.Linear)]) == 1


def test_a_line_through_nothing_is_finite() -> None:
    assert torch.isfinite(linear(torch.zeros(2, 3), torch.ones(2, 2))(torch.randn(4, 3))).all()
