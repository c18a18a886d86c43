"""Trained network to ``Policy``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policypress.compression.activations import FakeQuantActivation
from policypress.compression.answers import answer, compare, probes, tolerance_of
from policypress.compression.fake_quant import FakeQuantAdd
from policypress.compression.fixed_point import INT32, multiplier_and_shift
from policypress.compression.graph import (
    ActivationNode,
    CellNode,
    FlattenNode,
    FramesNode,
    Graph,
    LayerNode,
    Node,
    NormNode,
    PoolNode,
    ReluNode,
    ResidualNode,
    clipped,
)
from policypress.compression.ranges import InputQuantizer
from policypress.compression.recurrent import SIGMOID, TANH
from policypress.errors import DIVERGED, DivergedError, ObservationError, PolicypressError, unknown
from policypress.policy.checks import check_accumulators
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.observations import recorded
from policypress.policy.ops import (
    CELLS,
    FLOAT_BITS,
    Activation,
    Cell,
    Flatten,
    History,
    InputQuantization,
    Layer,
    LayerNorm,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state

_TEST_VECTOR_BYTES = 65_536
_DROWNS = 64  # an input whose weights, in units of its range, are so many times as large as another's


def freeze_graph(
    graph: Graph,
    observation: ObservationTransform,
    action: ActionTransform,
    *,
    baseline_bytes: int | None = None,
    provenance: dict[str, Any] | None = None,
    observations: NDArray[Any] | None = None,
) -> Policy:
    """``freeze`` for a network that is not Stable-Baselines3's, unit for unit (``canonical`` makes it smaller);
    ``observations`` (n, *shape) become test vectors. Raises UnsupportedError too if the network that was traced answers
    something else than the frozen policy would."""
    dense = 4 * graph.parameters
    graph = clipped(graph)
    first = graph.layers[0].module
    nodes = graph.nodes
    if len(observation.shape) == 1 and isinstance(nodes[0], FlattenNode):
        nodes = nodes[1:]
    with torch.no_grad():
        ops = _ops(nodes)
        quantizer = _input_quantizer(first)
        inputs = None
        if quantizer is not None:
            zeros = quantizer.zero_point() if isinstance(quantizer, InputQuantizer) else None
            inputs = InputQuantization(
                _array(quantizer.inverse_scale()[: len(quantizer.limit)]),  # once, where there are several frames
                quantizer.low,
                quantizer.high,
                int(quantizer.bits),
                None if zeros is None or not zeros.any() else _array(zeros).astype(np.int32),
            )
    if inputs is not None:
        check_accumulators(ops, inputs)
    policy = Policy(ops, observation, action, inputs, baseline_bytes or dense, dict(provenance or {}))
    if any(layer.nonzeros == 0 for layer in policy.layers):
        warnings.warn("a layer has no weight left: the policy's action is constant.", stacklevel=2)
    if graph.root is not None:
        like, run = first.weight.detach(), outputs_of(policy)
        for scale, x in probes(observation.shape, observation.image, like.dtype):
            own = answer(graph.root, x, like)
            compare("the network", own, run(x), scale, tolerance=tolerance_of(like.dtype))
    if inputs is not None and isinstance(quantizer, InputQuantizer):
        _warn_of_drowned_inputs(first, quantizer)
    if observations is None:
        return policy
    try:
        vectors = recorded(policy, observations)
    except ObservationError as error:  # they are what the agent met, and finite
        raise DivergedError(f"the policy's outputs are not finite where it was trained: {DIVERGED}.") from error
    return Policy(ops, observation, action, inputs, policy.baseline_bytes, policy.provenance, {}, vectors)


def outputs_of(policy: Policy) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The policy's outputs for observations as its first layer sees them, by the engine: the reference takes seconds
    for an image."""
    inner = _inner(policy)
    return lambda x: inner.outputs(x.reshape(-1, *inner.observation.shape))


def steps_of(
    policy: Policy,
) -> Callable[[NDArray[np.float32], Sequence[Any]], tuple[NDArray[np.float32], list[Any]]]:
    """``outputs_of`` of a policy that remembers: ``steps(x, states)`` also gives the state of each row behind them, and
    takes those that it gave before, None where an episode begins."""
    inner = _inner(policy)

    def steps(x: NDArray[np.float32], states: Sequence[Any]) -> tuple[NDArray[np.float32], list[Any]]:
        before = initial_state(inner, len(x))
        for row, state in zip(before, states, strict=True):
            row[:] = 0 if state is None else state
        outputs, after = inner.step(x.reshape(-1, *inner.observation.shape), (before,))
        assert after is not None
        return outputs, list(after[0])

    return steps


def _inner(policy: Policy) -> Policy:
    """``policy`` of observations as its first layer sees them."""
    seen = ObservationTransform(policy.observation.shape, "float32")
    return replace(policy, observation=seen, test_vectors=None)


def _warn_of_drowned_inputs(layer: Any, inputs: InputQuantizer) -> None:
    """Names inputs of ordinary weight most of whose weights round to 0, because those of a few others are so large."""
    with torch.no_grad():
        scale = inputs.scale()
        met = (inputs.limit > 0).repeat(len(scale) // len(inputs.limit))  # in every frame of a history
        effect = (layer.weight * scale).abs().amax(0) * met
        weights, lost = layer.weight != 0, (layer.weight_codes() == 0) & (layer.weight != 0)
        drowned = (2 * lost.sum(0) > weights.sum(0)) & met
        if not drowned.any():
            return
        drowned &= 8 * effect >= effect[met].median()  # others hardly matter in the float network either
        large = effect >= _DROWNS * torch.where(drowned, effect, 0.0).amax()
    if drowned.any() and large.any():
        warnings.warn(
            f"most first-layer weights of {_named(drowned)} round to 0 beside those of {_named(large)}, whose values"
            " are far larger: scale or cut these before the network (VecNormalize, or a wrapper of the environment),"
            " or use more weight_bits.",
            stacklevel=3,
        )


def _named(inputs: torch.Tensor) -> str:
    places = inputs.nonzero().ravel().tolist()
    shown = [str(place) for place in places[:8]] + ([f"{len(places) - 8:,} more"] if len(places) > 8 else [])
    return "input " + shown[0] if len(shown) == 1 else f"inputs {', '.join(shown[:-1])} and {shown[-1]}"


def _ops(nodes: Sequence[Node]) -> tuple[Op, ...]:
    return tuple(_op(node) for node in nodes)


def _op(node: Node) -> Op:
    match node:
        case LayerNode():
            return _layer(node)
        case ActivationNode():
            return _activation(node)
        case ReluNode():
            return Relu()
        case NormNode():
            return _layer_norm(node)
        case FlattenNode():
            return Flatten()
        case PoolNode():
            return MaxPool2d(node.kernel, node.stride, node.padding)
        case ResidualNode():
            add = node.block.add
            if not (isinstance(add, FakeQuantAdd) and add.active):
                return Residual(_ops(node.body))
            skip, branch = (_requantization(ratio, *INT32) for ratio in add.exact_ratios())
            return Residual(_ops(node.body), skip, branch, add.output.low, add.output.high)
        case FramesNode():
            return History(node.module.frames)
        case CellNode():
            return _cell(node)
        case _:
            unknown(node)


def _cell(node: CellNode) -> Cell:
    cell, (taken, recalled) = node.cell, map(_layer, node.layers)
    if not cell.active:
        return Cell(cell.kind, taken, recalled, SIGMOID.as_float, TANH.as_float)
    ratios = cell.ratios()
    found = tuple(ratios[name] for name in CELLS[cell.kind].ratios)
    return Cell(cell.kind, taken, recalled, SIGMOID, TANH, cell.bits, found)


def _layer_norm(node: NormNode) -> LayerNorm:
    module = node.module
    size = module.normalized_shape[0]
    weight = torch.ones(size) if module.weight is None else module.weight.float()
    bias = torch.zeros(size) if module.bias is None else module.bias.float()
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise DivergedError(f"the LayerNorm {node.name} is not finite: {DIVERGED}.")
    return LayerNorm(_array(weight), _array(bias), module.eps)


def _activation(node: ActivationNode) -> Activation:
    module = node.module
    if not (isinstance(module, FakeQuantActivation) and module.active):
        return Activation(node.function, parameters=node.parameters)
    found = module.output
    return Activation(node.function, found.unit, found.bits, found.largest, node.parameters)


def _layer(node: LayerNode) -> Layer:
    module: Any = node.module
    geometry: dict[str, Any] = {"relu": node.relu, "name": node.name}
    if isinstance(module, torch.nn.Conv2d):
        geometry |= {"stride": tuple(module.stride), "padding": tuple(module.padding)}
    bias = torch.zeros(module.weight.shape[0]) if module.bias is None else module.bias
    for name, values in (("weight", module.weight), ("bias", bias)):
        if not torch.isfinite(values).all():
            raise DivergedError(f"{name} of layer {node.name} is not finite: {DIVERGED}.")
    quantizer = getattr(module, "policypress_quantizer", None)
    if quantizer is None or not module.active:
        weight, bias = module.weight.float(), bias.float()
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise PolicypressError(f"layer {node.name} has weights beyond float32: make them smaller.")
        return Layer(_array(weight), _array(bias), FLOAT_BITS, np.ones(1, np.float32), **geometry)
    codes = _array(module.weight_codes()).astype(np.int8)
    if quantizer.source is None:
        return Layer(codes, _array(bias), quantizer.bits, _array(quantizer.step), **geometry)
    requantize = None
    if quantizer.output is not None:
        requantize = _requantization(module.exact_ratio(), quantizer.output.low, quantizer.output.high)
    return Layer(
        codes,
        _array(module.bias_codes()).astype(np.int32),
        quantizer.bits,
        _array(module.accumulator_scale()),
        requantize=requantize,
        **geometry,
    )


def _requantization(ratio: torch.Tensor, low: int, high: int) -> Requantization:
    multiplier, shift = multiplier_and_shift(ratio)
    return Requantization(_array(multiplier), _array(shift), low, high)


def _input_quantizer(module: Any) -> Any:
    quantizer = getattr(module, "policypress_quantizer", None)
    return quantizer.source if quantizer is not None and module.active else None


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().cpu().numpy().copy()
    return values


def spread(count: int, observation_bytes: int) -> NDArray[np.int64]:
    """Indices of up to 32 of ``count`` observations, evenly spread, for test vectors that take little of a file."""
    return np.linspace(0, count - 1, max(1, min(32, count, _TEST_VECTOR_BYTES // observation_bytes))).astype(np.int64)
