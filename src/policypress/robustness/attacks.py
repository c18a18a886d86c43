"""Observations that an adversary chose: as near to the true ones as a ball allows, to make actions as wrong as it can.

The ball is that of the largest change of a number in units of its own standard deviation. Gradients are those of a twin
of the policy in PyTorch, which computes its integers, and its floats in float64, and passes gradients straight through
the rounding (Bengio et al. 2013); what is then acted on is the policy itself. The adversary knows the policy and
nothing else: neither a critic nor the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from policypress.errors import UnsupportedError
from policypress.policy.activations import FUNCTIONS
from policypress.policy.contract import ActionTransform, Normalization
from policypress.policy.ops import (
    Activation,
    Flatten,
    InputQuantization,
    Layer,
    LayerNorm,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Policy
from policypress.rl.evaluate import Act
from policypress.robustness.sensors import stream

Twin = Callable[[torch.Tensor], torch.Tensor]
STEPS = 10
_STRIDE = 2.5
"""What all steps together could go, in radii of the ball (Madry et al. 2018)."""


# The twin


class _Torch:
    """The namespace of ``policy.activations``' formulas."""

    tanh = staticmethod(torch.tanh)
    abs = staticmethod(torch.abs)
    where = staticmethod(torch.where)


def _straight(exact: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    """``exact``, with the gradient of ``smooth``."""
    return smooth + (exact - smooth).detach()


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, np.float64))


def twin_of(policy: Policy) -> Twin:
    """Outputs (n, outputs) for raw observations (n, *shape), both float64, with gradients.

    Raises UnsupportedError for a policy of images, or one that remembers.
    """
    if policy.observation.image or policy.state_size:
        raise UnsupportedError("a policy of images, or one that remembers, has no twin that gradients go through.")
    stages = [_stage(op, policy.input is not None) for op in policy.ops]
    if policy.observation.normalization is not None:
        stages.insert(0, _normalized(policy.observation.normalization))
    if policy.input is not None:
        stages.insert(len(stages) - len(policy.ops), _quantized(policy.input, policy.observation.shape))
        scale = _tensor(policy.layers[-1].scale)
        stages.append(lambda x: x * scale)
    return _one_after_another(stages)


def _one_after_another(stages: Sequence[Twin]) -> Twin:
    def run(x: torch.Tensor) -> torch.Tensor:
        for stage in stages:
            x = stage(x)
        return x

    return run


def _normalized(by: Normalization) -> Twin:
    mean, std = _tensor(by.mean), _tensor(np.sqrt(by.var + by.epsilon))
    return lambda x: ((x - mean) / std).clamp(-by.clip, by.clip)


def _quantized(by: InputQuantization, shape: tuple[int, ...]) -> Twin:
    around = shape if by.inverse_scale.size > 1 else (1,)
    scale, single = _tensor(by.inverse_scale).reshape(around), torch.as_tensor(by.inverse_scale).reshape(around)
    zero = torch.zeros(()) if by.zero_point is None else _tensor(by.zero_point).reshape(around)

    def quantize(x: torch.Tensor) -> torch.Tensor:
        codes = (x.detach().float() * single).round().double()  # which rounds where the policy does
        return (_straight(codes, x * scale) - zero).clamp(by.low, by.high)

    return quantize


def _stage(op: Op, integer: bool) -> Twin:
    match op:
        case Layer() if not op.is_conv:
            weight, bias = _tensor(op.weight).T, _tensor(op.bias)
            if op.requantize is not None:
                requantize = _requantizing(op.requantize)
                return lambda x: requantize(x @ weight + bias)
            scale = torch.ones(()) if integer else _tensor(op.scale)
            if op.relu:
                return lambda x: torch.relu((x @ weight) * scale + bias)
            return lambda x: (x @ weight) * scale + bias
        case Relu():
            return torch.relu
        case Flatten():
            return lambda x: x.flatten(1)
        case LayerNorm():
            gain, shift = _tensor(op.weight), _tensor(op.bias)
            return lambda x: F.layer_norm(x, x.shape[1:], gain, shift, op.epsilon)
        case Activation():
            row = FUNCTIONS[op.function]
            if not integer:
                return lambda x: row.formula(_Torch, x, *op.parameters)
            table, worth = _tensor(op.lookup.table), float(op.lookup.scale)

            def look_up(x: torch.Tensor) -> torch.Tensor:
                smooth = row.formula(_Torch, x * op.unit, *op.parameters) / worth
                return _straight(table[(x.detach() + op.limit).long()], smooth)

            return look_up
        case Residual():
            body = _one_after_another([_stage(inner, integer) for inner in op.body])
            if op.skip is None or op.branch is None:
                return lambda x: x + body(x)
            skip, branch = _requantizing(op.skip), _requantizing(op.branch)
            return lambda x: (skip(x) + branch(body(x))).clamp(op.low, op.high)
        case _:
            raise UnsupportedError(f"an operation of the kind {type(op).__name__} has no twin for gradients.")


def _requantizing(to: Requantization) -> Twin:
    ratio = _tensor(to.multiplier) / _tensor(np.exp2(to.shift))

    def requantize(accumulator: torch.Tensor) -> torch.Tensor:
        smooth = accumulator * ratio
        return _straight((smooth + 0.5).floor(), smooth).clamp(to.low, to.high)

    return requantize


# What the adversary wants


def _groups(action: ActionTransform, outputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of each choice among several."""
    if action.kind == "multi-binary":
        return [torch.stack([torch.zeros_like(one), one], 1) for one in outputs.T]
    return list(outputs.split(action.nvec, 1)) if action.nvec else [outputs]


def _acted(action: ActionTransform, outputs: torch.Tensor) -> torch.Tensor:
    """Actions of a Box from -1 to 1, in their own units where they have no bounds. Where they are clipped the gradient
    goes on."""
    if action.squash:
        return outputs.tanh()
    assert action.low is not None
    assert action.high is not None
    low, high = _tensor(action.low.ravel()), _tensor(action.high.ravel())
    bounded = torch.isfinite(low) & torch.isfinite(high) & (high > low)
    middle = torch.where(bounded, (low + high) / 2, torch.zeros_like(low))
    half = torch.where(bounded, (high - low) / 2, torch.ones_like(low))
    return _straight((torch.clamp(outputs, low, high) - middle) / half, (outputs - middle) / half)


def _opposite(action: ActionTransform, outputs: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """How far actions (n,) are towards their opposite, mirrored at the middle of their range; or away from the choices
    that were made (cross entropy)."""
    if action.kind == "box":
        return -(_acted(action, outputs) + _acted(action, usual)).square().sum(1)
    pairs = zip(_groups(action, outputs), _groups(action, usual), strict=True)
    return torch.stack([F.cross_entropy(one, other.argmax(1), reduction="none") for one, other in pairs]).sum(0)


def _different(action: ActionTransform, outputs: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """How different actions (n,) are: squared distance; of choices, how far their probabilities diverge."""
    if action.kind == "box":
        return (_acted(action, outputs) - _acted(action, usual)).square().sum(1)
    pairs = zip(_groups(action, outputs), _groups(action, usual), strict=True)
    logs = [(one.log_softmax(1), other.log_softmax(1)) for one, other in pairs]
    return torch.stack([(was.exp() * (was - now)).sum(1) for now, was in logs]).sum(0)


class Attack:
    """Finds, for raw observations (n, *shape), others that differ by at most ``radius`` times ``scale`` (*shape)."""

    def __init__(self, policy: Policy, kind: str, radius: float, scale: NDArray[np.float64]) -> None:
        self._policy, self._twin, self._radius = policy, twin_of(policy), radius
        self._unit = _tensor(scale)
        self._loss, self._steps, self._random = ATTACKS[kind]

    def __call__(self, observations: NDArray[Any], rngs: Sequence[np.random.Generator]) -> NDArray[Any]:
        """``rngs``: of each row."""
        x = _tensor(observations)
        with torch.no_grad():
            usual = self._twin(x)
        moved = torch.zeros_like(x)
        if self._random:
            drawn = [rng.uniform(-self._radius, self._radius, observations.shape[1:]) for rng in rngs]
            moved = _tensor(np.stack(drawn))
        stride = self._radius * (_STRIDE / self._steps if self._steps > 1 else 1.0)
        for _ in range(self._steps):
            moved.requires_grad_(True)
            loss = self._loss(self._policy.action, self._twin(x + moved * self._unit), usual).sum()
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = (moved.detach() + stride * gradient.sign()).clamp(-self._radius, self._radius)
        change = (moved * self._unit).detach().numpy()
        return np.where(change == 0, observations, observations + change).astype(observations.dtype)


Loss = Callable[[ActionTransform, torch.Tensor, torch.Tensor], torch.Tensor]
ATTACKS: Mapping[str, tuple[Loss, int, bool]] = MappingProxyType(
    {"fgsm": (_opposite, 1, False), "pgd": (_opposite, STEPS, False), "mad": (_different, STEPS, True)}
)
"""What each attack makes large, in how many steps, and whether it begins at random. Fast gradient sign method
(Goodfellow et al. 2015, of policies Huang et al. 2017); projected gradient descent (Madry et al. 2018); maximal action
difference (Zhang et al. 2020)."""


def acting_attacked(policy: Policy, kind: str, radius: float, scale: NDArray[np.float64], seed: int) -> Act:
    """What ``policy`` does where an adversary chooses what it sees. ``scale``: of what it sees, frames stacked."""
    attack = Attack(policy, kind, radius, scale)
    rngs: dict[int, np.random.Generator] = {}

    def act(observations: dict[int, Any], _: dict[int, Any]) -> NDArray[Any]:
        for index in observations.keys() - rngs.keys():
            rngs[index] = stream(kind, seed + index)
        chosen = attack(np.stack(list(observations.values())), [rngs[index] for index in observations])
        return policy.predict(chosen)[0]

    return act
