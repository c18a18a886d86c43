"""A chain that was understood: from an observation through layers to an action, and as the network that it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression.activations import module_of
from policypress.compression.graph import FixedLinear, Graph, trace
from policypress.compression.graph import Residual as Block
from policypress.compression.recurrent import Recurrent
from policypress.errors import UnsupportedError
from policypress.importers.signals import (
    Cell,
    Choice,
    Convolution,
    Dense,
    Function,
    Inner,
    Kept,
    Node,
    Norm,
    Normalize,
    NotUnderstood,
    Pool,
    Residual,
    Signal,
    State,
    Step,
    Value,
    check_kept,
    signal_of,
)
from policypress.policy.contract import Normalization


@dataclass(frozen=True, eq=False)
class Chain:
    """``steps`` without the first, ``normalization``, and the last, which says what the action is.

    ``shape``: of one observation. ``kind`` "box": tanh of the outputs if ``squash``, scaled from [-1, 1] to [``low``,
    ``high``], else clipped to them, float32 of shape (outputs,), infinite where nothing clips. ``kind`` "discrete": the
    largest of the outputs.
    """

    shape: tuple[int, ...]
    normalization: Normalization | None
    steps: tuple[Step, ...]
    kind: Literal["box", "discrete"]
    squash: bool
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def outputs(self) -> int:
        """How many values the last layer gives."""
        return len(self.low)

    @property
    def cells(self) -> list[str]:
        """The recurrent cells in words, in the order they run."""
        found = [step for step in self.steps if isinstance(step, Cell)]
        return [f"{step.kind.upper()} of {step.recurrent.weight.shape[1]} units" for step in found]

    @property
    def joined(self) -> bool:
        """Whether it is several networks, or one that values go past."""
        return any(isinstance(step, Residual) for step in self.steps)

    def graph(self) -> Graph:
        """The layers as a network that can be pressed; NotUnderstood for an order of layers that none has."""
        modules: list[nn.Module] = []
        image = len(self.shape) == 3
        for step in self.steps:
            match step:
                case Dense() | Norm() | Cell():
                    if len(self.shape) > 1 and not any(isinstance(module, nn.Flatten) for module in modules):
                        modules.append(nn.Flatten())
                    if isinstance(step, Norm):
                        modules.append(_filled(nn.LayerNorm(len(step.bias), step.epsilon), step))
                    elif isinstance(step, Cell):
                        modules.append(Recurrent(step.kind, _linear(step.input), _linear(step.recurrent)))
                    else:
                        modules.append(_linear(step))
                case Convolution() if image:
                    out, channels, *kernel = step.weight.shape
                    layer = nn.Conv2d(channels, out, tuple(kernel), step.stride, step.padding)
                    modules.append(_filled(layer, step))
                case Pool() if image:
                    modules.append(nn.MaxPool2d(step.kernel, step.stride, step.padding))
                case Function():
                    modules.append(_function(step))
                case Residual():
                    body = [_linear(one) if isinstance(one, Dense) else _function(one) for one in step.steps]
                    modules.append(Block(nn.Sequential(*body)))
                case _:
                    raise NotUnderstood(f"{type(step).__name__} between layers")
        try:
            return trace(nn.Sequential(*modules))
        except UnsupportedError as error:
            raise NotUnderstood(str(error).rstrip(".")) from error


def chain_of(value: Value, kept: Kept | None = None) -> Chain:
    """The chain whose answer ``value`` is, of a file that keeps ``kept``; NotUnderstood if it is none."""
    chain, node = _chain_of(value)
    if isinstance(node.first.step, State) or any(isinstance(step, Inner) for step in chain.steps):
        raise NotUnderstood("the state that it keeps")
    check_kept(node, kept or {})
    return chain


def _chain_of(value: Value) -> tuple[Chain, Node]:
    """The chain, and the node of its last layer."""
    kind: Literal["box", "discrete"] = "discrete" if isinstance(value, Choice) else "box"
    signal = value.logits if isinstance(value, Choice) else signal_of(value)
    step, before = signal.node.step, signal.node.before
    if isinstance(step, Function) and before is not None and isinstance(before.step, Dense) and kind == "box":
        if step.name == "tanh":
            return _ended(before, signal, squash=True)
        if step.name == "hardtanh":
            return _bounded(before, signal, *step.parameters)
    node = signal.settled
    bound = np.full(node.size, np.inf, np.float32)
    return _chain(node, kind, False, -bound, bound)


def _ended(before: Node, signal: Signal, squash: bool) -> tuple[Chain, Node]:
    """An action that is a tanh of the layer at ``before``, scaled; the scale's sign is the layer's."""
    index, gain, offset = signal.index.ravel(), signal.gain.ravel(), signal.offset.ravel()
    signs = np.where(gain < 0.0, -1.0, 1.0)
    node = Signal(before, index, signs, np.zeros(len(index))).settled
    return _chain(node, "box", squash, *(_float(offset + sign * np.abs(gain)) for sign in (-1.0, 1.0)))


def _bounded(before: Node, signal: Signal, low: float, high: float) -> tuple[Chain, Node]:
    """An action that is the layer at ``before``, clipped and then scaled: here scaled, and then clipped."""
    index, gain, offset = signal.index.ravel(), signal.gain.ravel(), signal.offset.ravel()
    node = Signal(before, index, gain, offset).settled
    ends = np.stack([gain * low + offset, gain * high + offset])
    return _chain(node, "box", False, _float(ends.min(0)), _float(ends.max(0)))


def _chain(
    node: Node, kind: Literal["box", "discrete"], squash: bool, low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[Chain, Node]:
    steps = node.steps
    normalization = None
    if steps and isinstance(steps[0], Normalize):
        found = steps.pop(0)
        assert isinstance(found, Normalize)
        normalization = Normalization(found.mean, found.deviation**2, 0.0, found.clip)
    if not steps or len(node.shape) != 1:
        raise NotUnderstood("outputs that are no vector of a layer")
    return Chain(node.first.shape, normalization, tuple(steps), kind, squash, low, high), node


def narrowed(chain: Chain, low: NDArray[np.float32], high: NDArray[np.float32]) -> Chain:
    """``chain`` within the bounds of an environment's actions. A tanh that reaches beyond them becomes layers: it is
    clipped behind its scale."""
    beyond = chain.squash and not bool(np.all(low <= chain.low) and np.all(chain.high <= high))
    if chain.squash and not beyond:
        return chain
    within = replace(chain, low=np.maximum(low, chain.low), high=np.minimum(high, chain.high))
    if not beyond:
        return within
    ends = chain.low.astype(np.float64), chain.high.astype(np.float64)
    scale = Dense(np.diag(_float((ends[1] - ends[0]) / 2)), _float((ends[1] + ends[0]) / 2), fixed=True)
    return replace(within, steps=(*chain.steps, Function("tanh"), scale), squash=False)


def _function(step: Function) -> nn.Module:
    return nn.ReLU() if step.name == "relu" else module_of(step.name, step.parameters)


def _linear(step: Dense) -> nn.Linear:
    layer = (FixedLinear if step.fixed else nn.Linear)(*step.weight.shape[::-1])
    _filled(layer, step)
    return layer


@torch.no_grad()
def _filled(layer: nn.Linear | nn.Conv2d | nn.LayerNorm, step: Dense | Convolution | Norm) -> nn.Module:
    assert layer.bias is not None
    layer.weight.copy_(torch.from_numpy(step.weight.copy()))
    layer.bias.copy_(torch.from_numpy(step.bias.copy()))
    return layer


def _float(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
