"""What training takes: bytes of weights and multiply-adds, of those that are live and of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from policypress.compression.answers import undisturbed
from policypress.compression.graph import Graph
from policypress.compression.student import forward
from policypress.rl.adapters import Adapter, observation_transform

BACK = 3
"""Multiply-adds of a weight that learns, a sample: forward, and back to its inputs and to itself."""


class TrainingCost:
    """Adds up what ``model``'s training takes, as it is asked on the way.

    Multiply-adds of a sample are three for each weight that learns, the deployed network's and the value networks', and
    one for each of target networks; those of weights that are zero are counted as hardware would that skips them
    (Evci et al. 2020, appendix on FLOPs; Tan et al. 2022, RLx2). Bytes are those of the weights and biases in float32,
    without what the optimizer keeps. Nothing else is counted: no optimizer, no acting, no second pass of an algorithm.
    """

    def __init__(self, adapter: Adapter, model: BaseAlgorithm) -> None:
        self._adapter = adapter
        self._updates = int(getattr(model, "_n_updates", 0))
        self._spent = {"multiply_adds": 0, "dense_multiply_adds": 0}

    def so_far(self, model: BaseAlgorithm) -> dict[str, int]:
        """``multiply_adds`` so far and ``bytes`` now, of live weights, and ``dense_...`` of all: updates since the last
        call are counted at the sparsity of now."""
        updates = int(getattr(model, "_n_updates", 0))
        samples = (updates - self._updates) * samples_of(model)
        self._updates = updates
        now = now_of(self._adapter, model)
        for name in self._spent:
            self._spent[name] += samples * now[name]
        return {**self._spent, "bytes": now["bytes"], "dense_bytes": now["dense_bytes"]}

    def state_dict(self) -> dict[str, int]:
        """JSON values."""
        return {**self._spent, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._updates = state["updates"]
        self._spent = {name: state[name] for name in self._spent}


def samples_of(model: Any) -> int:
    """Transitions that one of the model's own ``_n_updates`` learns from: a batch, or, on-policy, a rollout."""
    return int(model.batch_size if isinstance(model, OffPolicyAlgorithm) else model.n_steps * model.n_envs)


def now_of(adapter: Adapter, model: BaseAlgorithm) -> dict[str, int]:
    """``multiply_adds`` of a sample and ``bytes``, of the weights that are live now, and ``dense_...`` of all."""
    values = adapter.value_networks(model)
    learning = [adapter.trained_graph(model), *(() if values is None else values.networks)]
    following = [*adapter.targets(model), *(() if values is None else values.targets)]
    shape = observation_transform(model).shape
    found = dict.fromkeys(("multiply_adds", "dense_multiply_adds", "bytes", "dense_bytes"), 0)
    with undisturbed(model.policy):
        for graphs, passes in ((learning, BACK), (following, 1)):
            for graph in graphs:
                for weight, biases, positions in _layers(graph, shape):
                    for prefix, count in (("", int(torch.count_nonzero(weight))), ("dense_", weight.numel())):
                        found[f"{prefix}multiply_adds"] += passes * count * positions
                        found[f"{prefix}bytes"] += 4 * (count + biases)
    return found


def _layers(graph: Graph, shape: Sequence[int]) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Of each layer its weight, how many biases it has, and at how many positions it is computed."""
    modules: list[Any] = [node.module for node in graph.layers]
    places = dict.fromkeys(modules, 1)
    handles = [
        module.register_forward_hook(lambda module, _, y: places.update({module: math.prod(y.shape[2:])}))
        for module in modules
        if isinstance(module, nn.Conv2d)
    ]
    if handles:
        forward(graph, torch.zeros(1, *shape, device=modules[0].weight.device))
    for handle in handles:
        handle.remove()
    for module in modules:
        yield module.weight, 0 if module.bias is None else module.bias.numel(), places[module]
