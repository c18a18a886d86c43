"""``model.learn(steps, callback=CompressionCallback(config))``: compression inside Stable-Baselines3's loop."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.config import CompressionConfig, to_json
from policypress.errors import ConfigError
from policypress.rl.adapters import adapter_for, observation_transform

STATE_ATTRIBUTE = "policypress_state"
"""Attribute of the model that travels in its zip: config, nominal steps, and where compression stands."""


class CompressionCallback(BaseCallback):
    """Prunes and quantizes the deployed network of an SB3 agent while it learns.

    ``steps``: the nominal steps that the config's fractions refer to; default: the ``total_timesteps`` of ``learn``.
    Everything counts ``num_timesteps``, so several environments change nothing. Raises ConfigError when a window
    cannot be reached, UnsupportedError when the agent cannot be pressed.
    """

    def __init__(self, config: CompressionConfig, steps: int | None = None, log_every: int = 1000) -> None:
        super().__init__()
        self.config, self.steps, self.log_every = config, steps, log_every
        self.compressor: Compressor | None = None
        self._next_log = 0

    def _on_training_start(self) -> None:
        total = self.model._total_timesteps
        steps = self.steps or total
        self.config.check_reachable(steps, total, adapter_for(self.model).learning_starts(self.model))
        attached = attached_compressor(self.model)
        if attached is not None and attached.config != self.config:
            raise ConfigError("this agent is being pressed with another config: give the same one, or a fresh agent.")
        self.compressor = attached or attach(self.model, self.config, steps)
        self._advance()

    def _on_step(self) -> bool:
        self._advance()
        return True

    def _on_training_end(self) -> None:
        self._log()

    def _advance(self) -> None:
        assert self.compressor is not None
        self.compressor.step(self.num_timesteps)
        getattr(self.model, STATE_ATTRIBUTE)["compressor"] = self.compressor.state_dict()
        if self.num_timesteps >= self._next_log:
            self._next_log = self.num_timesteps + self.log_every
            self._log()

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
    if config.prunes or config.quantizes:
        _fuse(optimizer)
    compressor = Compressor(
        adapter.trained_graph(model),
        optimizer,
        config,
        steps,
        targets=adapter.targets(model),
        auxiliary=adapter.auxiliary(model),
        image=transform.image,
        seed=model.seed or 0,
    )
    state = {
        "config": to_json(config),
        "steps": steps,
        "normalized": transform.normalization is not None,
        "compressor": compressor.state_dict(),
    }
    setattr(model, STATE_ATTRIBUTE, state)
    _COMPRESSORS[model.policy] = compressor
    return compressor


def _fuse(optimizer: torch.optim.Optimizer) -> None:
    """Lets Adam use PyTorch's fused kernel, unless its owner chose otherwise: pruned weights have second moments of
    zero, whose square roots take the default one several times longer."""
    if isinstance(optimizer, torch.optim.Adam):
        for group in optimizer.param_groups:
            if all(group.get(key) in (None, False) for key in ("fused", "foreach", "capturable", "differentiable")):
                group["fused"] = True


def attached_compressor(model: BaseAlgorithm) -> Compressor | None:
    """The Compressor that ``attach`` or ``policypress.rl.load`` gave to ``model``."""
    return _COMPRESSORS.get(model.policy)


_COMPRESSORS: WeakKeyDictionary[nn.Module, Compressor] = WeakKeyDictionary()
