"""``model.learn(steps, callback=CompressionCallback(config))``: compression inside Stable-Baselines3's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.compression.quantization import Phase
from policypress.config import CompressionConfig, from_json, to_json
from policypress.errors import DIVERGED, ConfigError, DivergedError, PolicypressError
from policypress.rl.adapters import adapter_for, check_graph, observation_transform

STATE_ATTRIBUTE = "policypress_state"
"""Attribute of the model that travels in its zip: config, nominal steps, and where compression stands."""
TENSORS_ATTRIBUTE = "policypress_tensors"
"""Attribute of the model, if its way of pruning needs one: what that adds up, arrays by name in a zip."""


class CompressionCallback(BaseCallback):
    """Prunes and quantizes the deployed network of an SB3 agent while it learns.

    ``steps``: the nominal steps that the config's fractions refer to; default: the ``total_timesteps`` of ``learn``.
    ``returns`` measures what the agent returns now, for ``pruning="adaptive"``: see ``Compressor``.
    Everything counts ``num_timesteps``, so several environments change nothing. Several calls of ``learn`` go on where
    the one before has stopped, whether they reset ``num_timesteps`` or not: say in ``steps`` how many there will be in
    all. Raises ConfigError when a window cannot be reached, UnsupportedError when the agent cannot be pressed or acts
    otherwise than its layers one after another.
    """

    def __init__(
        self,
        config: CompressionConfig,
        steps: int | None = None,
        log_every: int = 1000,
        returns: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.steps, self.log_every, self.returns = config, steps, log_every, returns
        self.compressor: Compressor | None = None
        self._next_log = self._before = 0

    def _on_training_start(self) -> None:
        total = self.model._total_timesteps
        steps = self.steps or total
        # Of several calls of learn no single one reaches the end.
        last = max(steps, total) if self.steps else total
        self.config.check_reachable(steps, last, adapter_for(self.model).learning_starts(self.model))
        attached = attached_compressor(self.model)
        if attached is not None and attached.config != self.config:
            raise ConfigError("this agent is being pressed with another config: give the same one, or a fresh agent.")
        if attached is not None and self.steps and attached.steps != self.steps:
            raise ConfigError(
                f"this agent is being pressed over {attached.steps} steps, not {self.steps}: give the same, or a fresh "
                "agent."
            )
        self.compressor = attached or attach(self.model, self.config, steps)
        pruning = self.compressor.pruning
        pruning.returns = self.returns
        if pruning.competes:
            pruning.challenge = adapter_for(self.model).challenge(self.model)
        pruning.check_asked()
        # learn() counts from 0 again unless it is told not to.
        self._before = max(0, self.compressor.done - self.num_timesteps)
        self._advance()

    def _on_step(self) -> bool:
        self._advance()
        return True

    def _on_training_end(self) -> None:
        self._keep()
        self._log()

    def _advance(self) -> None:
        assert self.compressor is not None
        follow_optimizer(self.model)
        self.compressor.step(self._before + self.num_timesteps)
        self._keep()
        if self.num_timesteps >= self._next_log:
            self._next_log = self.num_timesteps + self.log_every
            self._log()

    def _keep(self) -> None:
        """Where compression stands goes into the files that the agent saves."""
        assert self.compressor is not None
        getattr(self.model, STATE_ATTRIBUTE)["compressor"] = self.compressor.state_dict(tensors=False)

    def _log(self) -> None:
        assert self.compressor is not None
        self.logger.record("compression/phase", self.compressor.phase.value)
        for layer in self.compressor.layer_status():
            self.logger.record(f"compression/sparsity/{layer.name}", layer.sparsity)
        for name, limit in self.compressor.ranges().items():
            self.logger.record(f"compression/range/{name}", limit)


def attach(model: BaseAlgorithm, config: CompressionConfig, steps: int) -> Compressor:
    """A Compressor for ``model``'s deployed network, and its state as an attribute of ``model``."""
    adapter = adapter_for(model)
    transform = observation_transform(model)
    optimizer = adapter.optimizer(model)
    graph = adapter.trained_graph(model)
    check_graph(model, graph)
    if config.prunes or config.quantizes:
        fuse(optimizer)
    critics = adapter.value_networks(model) if config.critic_sparsity else None
    if critics is not None:
        fuse(critics.optimizer)
    compressor = Compressor(
        graph,
        optimizer,
        config,
        steps,
        targets=adapter.targets(model),
        auxiliary=adapter.auxiliary(model),
        critics=critics,
        image=transform.image,
        seed=model.seed or 0,
    )
    state = {
        "config": to_json(config),
        "steps": steps,
        "normalized": transform.normalization is not None,
        "compressor": compressor.state_dict(tensors=False),
    }
    setattr(model, STATE_ATTRIBUTE, state)
    if compressor.tensors:
        setattr(model, TENSORS_ATTRIBUTE, _Arrays(compressor.tensors))
    _COMPRESSORS[model.policy] = compressor
    return compressor


def follow_optimizer(model: BaseAlgorithm) -> None:
    """Masks and quantization go on with the optimizer that ``model`` has now, if somebody has replaced it."""
    compressor = attached_compressor(model)
    if compressor is None:
        return
    adapter = adapter_for(model)
    optimizer = adapter.optimizer(model)
    if optimizer is not compressor.optimizer:
        compressor.follow(optimizer)
        fuse(optimizer)
    if compressor.critics is not None:
        optimizer = adapter.value_optimizer(model)
        if any(one.optimizer is not optimizer for one in compressor.critics.weights):
            compressor.critics.follow(optimizer)
            fuse(optimizer)


class _Arrays:
    """Tensors that change in place: what is pickled of them is a dictionary of NumPy arrays, as they are then."""

    __slots__ = ("_tensors",)

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ([(name, values.detach().cpu().numpy()) for name, values in self._tensors.items()],)


def told(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a policy's provenance says of a model's state: all but what only training on needs, its masks."""
    if state is None:
        return None
    stands = {name: value for name, value in state["compressor"].items() if name not in ("pruning", "critics")}
    return {**state, "compressor": stands}


def missing(model: BaseAlgorithm) -> str:
    """What the config of a model that is pressed in training asks for and training has not reached, in a sentence; ""
    if it has, or if nothing was asked for."""
    state = getattr(model, STATE_ATTRIBUTE, None)
    if state is None:
        return ""
    config, stands = state["config"], state["compressor"]
    parts = []
    wanted = stands.get("pruning", {}).get("target", config["sparsity"])
    if float(stands["sparsity"]) < wanted - 1e-9:
        parts.append(f"is {float(stands['sparsity']):.1%} sparse instead of {wanted:.1%}")
    if from_json(CompressionConfig, config).quantizes and stands["phase"] != Phase.QUANTIZE.name:
        bits = f"{config['weight_bits']}-bit weights"
        parts.append(f"computes in float32 instead of with {bits}")
    if not parts:
        return ""
    return (
        f"the policy {' and '.join(parts)}: training has ended at step {stands.get('done', model.num_timesteps)} of "
        f"{state['steps']}, train on to the end."
    )


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Lets Adam use PyTorch's fused kernel, unless its owner chose otherwise: pruned weights have second moments of
    zero, whose square roots take the default one several times longer."""
    if isinstance(optimizer, torch.optim.Adam):
        for group in optimizer.param_groups:
            if all(group.get(key) in (None, False) for key in ("fused", "foreach", "capturable", "differentiable")):
                group["fused"] = True


@contextmanager
def divergence(model: BaseAlgorithm) -> Iterator[None]:
    """Tells in a sentence that ``model`` has diverged, which torch's distributions are the first to notice."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, PolicypressError) or "to satisfy the constraint" not in str(error):
            raise
        raise DivergedError(f"the agent's actions are not finite at step {model.num_timesteps}: {DIVERGED}.") from error


def attached_compressor(model: BaseAlgorithm) -> Compressor | None:
    """The Compressor that ``attach`` or ``policypress.rl.load`` gave to ``model``."""
    return _COMPRESSORS.get(model.policy)


_COMPRESSORS: WeakKeyDictionary[nn.Module, Compressor] = WeakKeyDictionary()
