"""What a network is made of: every module in its place, and a plain refusal of what cannot be pressed."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from policypress.compression import Residual, trace
from policypress.compression.activations import function_of, module_of
from policypress.compression.graph import ActivationNode, FlattenNode, LayerNode, PoolNode, ReluNode, ResidualNode
from policypress.errors import UnsupportedError

END = nn.Linear(4, 2)


def test_every_module_in_order_and_relus_fused_into_the_layers_before() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.MaxPool2d((3, 2), 2, padding=(1, 0)),
        nn.ReLU(),
        nn.Sequential(nn.Identity(), nn.Conv2d(4, 4, 1), nn.ReLU()),
        Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    conv, pool, relu, inner, residual, second, flatten, linear = trace(network).nodes
    assert isinstance(conv, LayerNode)
    assert (conv.name, conv.relu, conv.module) == ("0", False, network[0])
    assert pool == PoolNode((3, 2), (2, 2), (1, 0))
    assert relu == second == ReluNode()
    assert isinstance(inner, LayerNode)
    assert (inner.name, inner.relu) == ("3.1", True)
    assert isinstance(residual, ResidualNode)
    assert [type(node) for node in residual.body] == [ReluNode, LayerNode]
    assert flatten == FlattenNode()
    assert isinstance(linear, LayerNode)
    assert [node.name for node in trace(network).layers] == ["0", "3.1", "4.body.1", "7"]


def test_a_residual_block_adds_its_input() -> None:
    body = nn.Sequential(nn.Linear(3, 3))
    x = torch.randn(2, 3)
    assert torch.equal(Residual(body)(x), x + body(x))


def test_a_relu_shared_by_two_places_counts_twice() -> None:
    """PyTorch's named_children() shows a shared module once: the frozen policy would lose its second ReLU."""
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, END)
    assert [node.relu for node in trace(network).layers] == [True, True, True, False]


def test_paths_name_submodules_that_run_one_after_another() -> None:
    actor = nn.Module()
    actor.latent_pi = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    actor.mu = nn.Linear(4, 2)
    actor.log_std = nn.Linear(4, 2)
    graph = trace(actor, ["latent_pi", "mu"])
    assert [(node.name, node.relu) for node in graph.layers] == [("latent_pi.0", True), ("mu", False)]
    assert graph.layers[1].module is actor.mu


def test_a_relu_behind_a_container_belongs_to_the_layer_inside() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.ReLU(), END)
    assert [node.relu for node in trace(network).layers] == [True, False]


def test_two_relus_are_one() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.ReLU(), END)
    assert [node.relu for node in trace(network).layers] == [True, False]
    assert len(trace(network).nodes) == 2


def test_a_tanh_is_a_node_behind_its_layer_also_when_it_is_shared() -> None:
    tanh = nn.Tanh()
    network = nn.Sequential(
        nn.Sequential(nn.Linear(3, 4)), tanh, Residual(nn.Sequential(nn.Linear(4, 4), tanh)), nn.Linear(4, 4), tanh, END
    )
    nodes = trace(network).nodes
    assert [type(node) for node in nodes] == [
        LayerNode,
        ActivationNode,
        ResidualNode,
        LayerNode,
        ActivationNode,
        LayerNode,
    ]
    assert isinstance(nodes[2], ResidualNode)
    tanhs = [nodes[1], nodes[2].body[1], nodes[4]]
    assert [node.name for node in tanhs if isinstance(node, ActivationNode)] == ["1", "2.body.1", "4"]
    for node in tanhs:
        assert isinstance(node, ActivationNode)
        assert node.module is tanh
    other = nn.Identity()
    nodes[1].replace(other)  # type: ignore[union-attr]
    assert network[1] is other
    assert network[4] is tanh


@pytest.mark.parametrize(
    "before",
    [
        [nn.Linear(4, 4), nn.ReLU()],
        [nn.Linear(4, 4), nn.Tanh()],
        [nn.Linear(4, 4), nn.Flatten()],
        [nn.Linear(4, 4), nn.Dropout(0.5), nn.Identity()],
        [nn.Linear(4, 4), Residual(nn.Sequential(nn.SiLU(), nn.Linear(4, 4)))],
    ],
    ids=["relu", "tanh", "flatten", "dropout", "residual"],
)
def test_an_activation_may_follow_anything_behind_the_first_layer(before: list[nn.Module]) -> None:
    nodes = trace(nn.Sequential(nn.Sequential(*before, nn.ELU(alpha=0.5)), END)).nodes
    assert isinstance(nodes[-2], ActivationNode)
    assert (nodes[-2].name, nodes[-2].function, nodes[-2].parameters) == (f"0.{len(before)}", "elu", (0.5,))


@pytest.mark.parametrize("before", [[], [nn.Flatten()], [nn.ReLU()]])
def test_an_activation_before_the_first_layer_is_refused(before: list[nn.Module]) -> None:
    for network in (
        nn.Sequential(*before, nn.SiLU(), END),
        nn.Sequential(*before, Residual(nn.Sequential(nn.SiLU(), nn.Linear(4, 4))), END),
    ):
        with pytest.raises(UnsupportedError, match=r"silu at \S+ comes before the first layer: apply it in the env"):
            trace(network)


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


class Doubled(nn.SiLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("module", "function", "parameters"),
    [
        (Swish(), "silu", ()),
        (nn.Tanh(), "tanh", ()),
        (nn.LeakyReLU(0.25), "leaky_relu", (0.25,)),
        (nn.ELU(0.5, inplace=True), "elu", (0.5,)),
        (nn.SELU(), "selu", ()),
        (nn.CELU(2.0), "celu", (2.0,)),
        (nn.SiLU(inplace=True), "silu", ()),
        (nn.GELU(), "gelu", ()),
        (nn.GELU("tanh"), "gelu_tanh", ()),
        (nn.Mish(), "mish", ()),
        (nn.Softplus(2.0), "softplus", (2.0,)),
        (nn.Sigmoid(), "sigmoid", ()),
        (nn.Softsign(), "softsign", ()),
        (nn.Hardtanh(-2.0, 3.0), "hardtanh", (-2.0, 3.0)),
        (nn.ReLU6(), "hardtanh", (0.0, 6.0)),
        (nn.Hardsigmoid(), "hardsigmoid", ()),
        (nn.Hardswish(), "hardswish", ()),
    ],
)
def test_modules_are_rows_of_the_table(module: nn.Module, function: str, parameters: tuple[float, ...]) -> None:
    for training in (True, False):
        module.train(training)
        assert function_of(module) == (function, parameters)
        assert module.training is training
    made = module_of(function, parameters)
    assert function_of(made) == (function, parameters)
    x = torch.linspace(-9, 9, 100)
    torch.testing.assert_close(made(x.clone()), module(x.clone()))


def test_a_class_that_answers_otherwise_is_no_row() -> None:
    assert function_of(Doubled()) is None


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            nn.PReLU(),
            "PReLU at hidden.act cannot be pressed: hidden activations must be ReLU or one of tanh,",
        ),
        (nn.RReLU(), "RReLU at hidden.act cannot be pressed"),
        (nn.Tanhshrink(), "Tanhshrink at hidden.act cannot be pressed"),
        (nn.Softplus(threshold=1.0), "Softplus at hidden.act cannot be pressed"),
        (nn.Softmax(dim=1), "Softmax at hidden.act cannot be pressed"),
        (nn.BatchNorm1d(4), "BatchNorm1d at hidden.act cannot be pressed"),
        (nn.LayerNorm((4, 2)), "LayerNorm at hidden.act must be one of vectors"),
        (nn.GRU(4, 4), "GRU at hidden.act cannot be pressed"),
        (nn.ModuleList([nn.ReLU()]), "ModuleList at hidden.act cannot be pressed.*containers nn.Sequential"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d at hidden.act cannot be pressed"),
        (nn.Conv2d(4, 4, 3, groups=2), "convolution hidden.act must have groups=1, dilation=1 and zero padding"),
        (nn.Conv2d(4, 4, 3, dilation=2), "convolution hidden.act must have groups=1, dilation=1 and zero padding"),
        (
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
            "convolution hidden.act must have groups=1, dilation=1 and zero padding",
        ),
        (nn.Conv2d(4, 4, 3, padding="same"), "convolution hidden.act must state its padding in numbers"),
        (nn.Conv2d(4, 4, 1, padding=1), "convolution hidden.act must have a padding smaller than its kernel"),
        (nn.MaxPool2d(2, dilation=2), "MaxPool2d at hidden.act must have dilation=1, ceil_mode=False"),
        (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d at hidden.act must have dilation=1, ceil_mode=False"),
        (nn.MaxPool2d(2, return_indices=True), "MaxPool2d at hidden.act .* return_indices=False"),
        (nn.Flatten(2), "Flatten at hidden.act must keep the batch alone: start_dim=1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value).replace("\n", "")[:40],
)
def test_what_cannot_be_pressed_is_named_with_its_place(module: nn.Module, sentence: str) -> None:
    hidden = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), act=module))
    with pytest.raises(UnsupportedError, match=sentence):
        trace(nn.Sequential(OrderedDict(hidden=hidden, last=END)))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Linear(3, 3), "a bare layer cannot be pressed: wrap it in nn.Sequential"),
        (nn.Sequential(nn.ReLU()), "the network has no Linear or Conv2d layer"),
        (nn.Sequential(), "the network has no Linear or Conv2d layer"),
        (nn.Sequential(nn.Linear(3, 3), nn.Flatten()), "the network must end in a Linear or Conv2d layer"),
        (nn.Sequential(Residual(nn.Sequential(nn.Linear(3, 3)))), "the network must end in a Linear or Conv2d"),
        (nn.PReLU(), "PReLU at the root cannot be pressed"),
        (nn.Tanh(), "a bare layer cannot be pressed: wrap it in nn.Sequential"),
    ],
    ids=["bare", "no layer", "empty", "flatten last", "residual last", "root", "bare tanh"],
)
def test_networks_that_are_none(network: nn.Module, sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        trace(network)


def test_a_layer_used_in_two_places_is_refused() -> None:
    tied = nn.Linear(4, 4)
    with pytest.raises(UnsupportedError, match="a layer is used in two places"):
        trace(nn.Sequential(tied, nn.ReLU(), tied, nn.ReLU(), END))
