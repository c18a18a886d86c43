"""TorchScript files: run by PyTorch, and followed operation by operation.

A TorchScript module is a program, but one of tensors alone: what could touch files, and what would run while it is
loaded, is refused before it is.
"""

from __future__ import annotations

import itertools
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policypress.errors import RunError, UnsupportedError
from policypress.importers import signals as s
from policypress.importers.archives import check_archive
from policypress.importers.formats import Asked
from policypress.importers.opened import (
    Opened,
    Run,
    Steps,
    begun,
    check_size,
    one_by_one,
    reason_of,
    rows_of,
    with_chain,
)
from policypress.policy.ops import MAX_VALUES

_FILES = ("aten::save", "aten::from_file", "aten::load")
"""Operations of TorchScript that read or write files."""
_RANDOM = re.compile(r"aten::(rand|randn|randint|normal|multinomial|bernoulli|uniform|poisson|exponential)\b")
_STATE = ("hidden", "cell", "state", "memory")
"""In the names of buffers that are zero where an episode starts."""
_PROBED = 2
_VIEWS = (
    "aten::alias", "aten::contiguous", "aten::detach", "aten::expand", "aten::flatten", "aten::float", "aten::narrow",
    "aten::permute", "aten::reshape", "aten::select", "aten::slice", "aten::squeeze", "aten::t", "aten::to",
    "aten::transpose", "aten::type_as", "aten::unsqueeze", "aten::view", "prim::unchecked_cast",
)  # fmt: skip
"""What gives the values of a tensor in its own memory, so that writing there writes to the tensor."""


def open_torchscript(asked: Asked) -> Opened:
    """The policy in a TorchScript file, which does not say of what shape its observations are: what fits its weights.

    Raises RunError for a file that cannot be read, UnsupportedError for one that could do something else than compute,
    or that keeps a state which nothing resets.
    """
    path = asked.path
    check_archive(path)
    _check_code(path)
    try:
        module = torch.jit.load(path, map_location="cpu").eval()
        graph = module.inlined_graph
    except Exception as error:  # PyTorch's own, of many kinds
        raise RunError(f"{path} is no TorchScript file that can be read: {reason_of(error)}.") from error
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UnsupportedError(f"the weights in {path} are not finite: its training diverged.")
    inputs = list(graph.inputs())[1:]
    if len(inputs) != 1:
        names = ", ".join(_plain(value) for value in inputs) or "none"
        raise UnsupportedError(
            f"{path} has {len(inputs)} inputs ({names}): a policy that can be opened has one, its observation; keep a "
            "state in buffers called hidden_state and cell_state, which are zero where an episode starts."
        )
    if inputs[0].type().kind() != "TensorType":
        raise UnsupportedError(
            f"{path} takes observations of {inputs[0].type().annotation_str}: export it so that it takes one tensor, "
            "or name a function that makes what it takes of one, package.module:function."
        )
    _check_operations(path, graph)
    run, state = _runtime(path, module), _state(path, module, graph)
    steps = _steps(path, module, run, state) if state else None
    run = run if steps is None else begun(steps)
    found = asked.shape or _shape(module, run)
    opened = Opened("TorchScript", found, "float32", run, steps=steps, files=(path,))
    opened = replace(opened, parameters=sum(tensor.numel() for tensor in module.parameters()) or None)  # 0: inlined
    if found is None:
        return opened
    check_size(path, found)
    return with_chain(opened, lambda x: _followed(module, graph, x, state))


# Before it runs


def _check_code(path: Path) -> None:
    """Refuses methods that run while it is loaded."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/code/" in name and name.endswith(".py"):
                text = archive.read(name)
                if b"__setstate__" in text or b"from_file" in text or b"torch.save" in text:
                    raise UnsupportedError(
                        f"{path} runs code while it is loaded, or opens files ({name}): export the policy again, in "
                        "float32 and by its forward alone."
                    )


def _check_operations(path: Path, graph: Any) -> None:
    for node in _nodes(graph):
        kind = node.kind()
        if kind in _FILES or not kind.startswith(("aten::", "prim::")):
            raise UnsupportedError(f"{path} does something else than compute ({kind}): it is not opened.")
        if kind == "prim::Loop":
            raise UnsupportedError(f"{path} runs parts of itself again (prim::Loop): export it without loops.")
        if _RANDOM.match(kind):
            raise UnsupportedError(f"{path} draws at random ({kind}): export its mean action.")


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _state(path: Path, module: Any, graph: Any) -> list[str]:
    """The buffers in which a module keeps a state, by name."""
    kept: dict[str, str] = {}  # attributes by the names of the values that they are
    written: set[str] = set()
    for node in _nodes(graph):
        first: Any = next(iter(node.inputs()), None)
        if node.kind() == "prim::GetAttr":
            owner = kept.get(first.debugName(), "")
            kept[node.output().debugName()] = f"{owner}.{node.s('name')}".lstrip(".")
        elif node.kind() == "prim::SetAttr":
            owner = kept.get(first.debugName(), "")
            written.add(f"{owner}.{node.s('name')}".lstrip("."))
        elif first is not None and first.debugName() in kept:
            if _in_place(node.kind()):
                written.add(kept[first.debugName()])
            elif node.kind() in ("aten::slice", "aten::select", "aten::view", "aten::detach", "aten::squeeze"):
                kept[node.output().debugName()] = kept[first.debugName()]
    buffers = dict(module.named_buffers())
    named = all(name in buffers and any(word in name.lower() for word in _STATE) for name in written)
    if not named:
        raise UnsupportedError(
            f"{path} keeps a state ({', '.join(sorted(written))}) that nothing is known to reset: keep it in buffers "
            "called hidden_state and cell_state, which are zero where an episode starts."
        )
    return sorted(written)


# Running


def _runtime(path: Path, module: Any) -> Run:
    @torch.no_grad()
    def run(observations: NDArray[Any]) -> NDArray[Any]:
        try:
            found = module(torch.from_numpy(np.ascontiguousarray(observations, np.float32)))
        except Exception as error:  # as above
            others = {str(one.dtype).removeprefix("torch.") for one in module.parameters()} - {"float32"}
            mend = (
                f"; its weights are {', '.join(sorted(others))}: export it in float32, module.float()" if others else ""
            )
            raise UnsupportedError(f"PyTorch does not run {path}: {reason_of(error)}{mend}.") from error
        if isinstance(found, tuple) and len(found) and isinstance(found[0], torch.Tensor) and len(found) == 1:
            found = found[0]
        if not isinstance(found, torch.Tensor):
            raise UnsupportedError(
                f"{path} answers with a {type(found).__name__}: export it so that it gives one tensor, its action, or "
                "name a function that picks it, package.module:function."
            )
        return rows_of(str(path), found.numpy(), len(observations))

    return run


def _steps(path: Path, module: Any, run: Run, names: Sequence[str]) -> Steps:
    """``run`` with the state in these buffers, which are zero where an episode begins."""

    def step(observation: NDArray[Any], state: list[torch.Tensor] | None) -> tuple[NDArray[Any], list[torch.Tensor]]:
        buffers = dict(module.named_buffers())
        with torch.no_grad():
            for place, name in enumerate(names):
                buffers[name].copy_(torch.zeros(()) if state is None else state[place])
        answer = run(observation).copy()  # it may lie in a buffer
        after = dict(module.named_buffers())  # a module may put others in their place
        if any(after[name].shape != buffers[name].shape for name in names):
            raise UnsupportedError(
                f"{path} keeps a state of another shape after each step: export it with a fixed one."
            )
        return answer, [after[name].clone() for name in names]

    return one_by_one(step)


def _shape(module: Any, run: Run) -> tuple[int, ...] | None:
    """The width of observations that it runs with, among those of its weights; None if several do."""
    widths = dict.fromkeys(
        width for tensor in module.state_dict().values() if 1 <= tensor.ndim <= 2 for width in tensor.shape[-1:]
    )
    fits = []
    for width in widths:
        try:
            run(np.zeros((_PROBED, width), np.float32))
        except UnsupportedError:
            continue
        fits.append((width,))
    return fits[0] if len(fits) == 1 else None


# Following


def _followed(module: Any, graph: Any, x: s.Signal, state: Sequence[str]) -> tuple[s.Value, s.Kept]:
    """What a module answers to ``x``, and what it keeps in the buffers that are its ``state``."""
    found = _Followed(module, graph, x, state)
    return found.value, {name: kept.why if isinstance(kept, _Lost) else kept for name, kept in found.kept.items()}


class _Followed:
    """The values of a module's graph, as far as they are understood: ``value``, what it answers, and ``kept``, what its
    buffers hold then, by name."""

    def __init__(self, module: Any, graph: Any, x: s.Signal, state: Sequence[str]) -> None:
        buffers = dict(module.named_buffers())
        self._state = {name: s.state(name, tuple(buffers[name].shape)) for name in state}  # as it is found
        self.kept: dict[str, Any] = dict(self._state)
        self._views: dict[str, s.Signal] = {}  # values that lie in the memory of a buffer, as parts of ``_state``
        inputs = list(graph.inputs())
        self._found: dict[str, Any] = {inputs[0].debugName(): module}
        self._paths = {inputs[0].debugName(): ""}  # of modules and what is in them
        self._found[inputs[1].debugName()] = x
        self._body(graph)
        found = self._of(next(iter(graph.outputs())))
        while isinstance(found, list | tuple) and len(found) == 1:
            found = found[0]
        if isinstance(found, _Lost):
            raise s.NotUnderstood(found.why)
        self.value: s.Value = found

    def _of(self, value: Any) -> Any:
        return self._found.get(value.debugName(), _Lost(f"nothing gives {value.debugName()}"))

    def _body(self, block: Any) -> None:
        for node in block.nodes():
            kind, outputs = node.kind(), [value.debugName() for value in node.outputs()]
            taken = [self._of(value) for value in node.inputs()]
            first = next((value.debugName() for value in node.inputs()), "")
            lost = next((value for value in taken if isinstance(value, _Lost)), None)
            results = list[Any]()
            if lost is None:
                try:
                    results = self._results(node, taken)
                    if kind in _VIEWS and first in self._views:
                        self._views[outputs[0]] = self._results(node, [self._views[first], *taken[1:]])[0]
                except s.NotUnderstood as error:
                    what = str(error)
                    lost = _Lost(what if error.earlier or what == kind else f"{kind}: {what}")
                except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
                    lost = _Lost(f"{kind}: its inputs do not fit it")
            if lost is not None:
                results = [lost] * len(outputs)
                if kind == "prim::If":  # in which it may be written, or not
                    self.kept = dict.fromkeys(self.kept, lost)
            self._found.update(zip(outputs, results, strict=False))
            if _in_place(kind) and results:
                self._found[first] = results[0]
                if first in self._views:
                    self._write(self._views[first], results[0])
            elif kind == "prim::SetAttr":
                self._put(self._path(node), taken[1])

    def _path(self, node: Any) -> str:
        """The attribute that a node gets or sets, by its name in the module."""
        owner = self._paths.get(next(iter(node.inputs())).debugName(), "")
        return f"{owner}.{node.s('name')}".lstrip(".")

    def _attribute(self, node: Any, owner: Any) -> Any:
        path, given = self._path(node), node.output().debugName()
        if path in self._state:
            self._views[given] = self._state[path]
            return self.kept[path]
        self._paths[given] = path
        return _value(getattr(owner, node.s("name")))

    def _put(self, path: str, value: Any) -> None:
        """Sets an attribute to ``value``, which lies elsewhere."""
        if path in self._state:
            self.kept[path] = value
            self._views = {name: seen for name, seen in self._views.items() if seen.node is not self._state[path].node}

    def _write(self, view: s.Signal, value: Any) -> None:
        """Writes ``value`` where ``view`` lies; what else looks there sees it."""
        assert isinstance(view.node.step, s.State)
        kept, shape = value, view.node.shape
        if not isinstance(value, _Lost):
            try:
                kept = s.move(value, lambda v: v.reshape(shape)) if view.in_place else _Lost("a part of the state")
            except (s.NotUnderstood, ValueError) as error:
                kept = _Lost(str(error))
        self.kept[view.node.step.name] = kept
        for name, seen in self._views.items():
            if seen.node is view.node:
                self._found[name] = kept if isinstance(kept, _Lost) else s.move(kept, _taken_at(seen.index))

    def _results(self, node: Any, taken: list[Any]) -> list[Any]:
        kind: str = node.kind()
        match kind:
            case "prim::Constant":
                return [_value(node.output().toIValue())]
            case "prim::GetAttr":
                return [self._attribute(node, taken[0])]
            case "prim::SetAttr":
                return []
            case "prim::ListConstruct" | "prim::TupleConstruct":
                return [list(taken)]
            case "prim::ListUnpack" | "prim::TupleUnpack":
                return list(taken[0])
            case "prim::TupleIndex":
                return [taken[0][taken[1]]]
            case "prim::If":
                if not isinstance(taken[0], bool):
                    raise s.NotUnderstood("a condition that is computed")
                block = list(node.blocks())[0 if taken[0] else 1]
                self._body(block)
                for given, inner in zip(node.outputs(), block.outputs(), strict=True):
                    if (seen := self._views.get(inner.debugName())) is not None:
                        self._views[given.debugName()] = seen
                return [self._of(value) for value in block.outputs()]
            case _:
                pass
        name = kind.removeprefix("aten::")
        rule = _RULES.get(name if name.endswith("__") else name.removesuffix("_"))
        if rule is None:
            raise s.NotUnderstood(kind)
        found = rule(*taken)
        return list(found) if isinstance(found, tuple) else [found]


class _Lost:
    """A value that is not understood."""

    def __init__(self, why: str) -> None:
        self.why = why


def _in_place(kind: str) -> bool:
    """Whether an operation changes the first tensor that it takes: add_, but not __is__."""
    return kind.endswith("_") and not kind.endswith("__")


def _taken_at(index: NDArray[np.int64]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda v: v.ravel()[index]


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(one) for one in value]
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def _number(value: Any) -> NDArray[Any]:
    """A number or a constant tensor as an array."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | int | float):
        return np.asarray(value, np.float32)
    raise s.NotUnderstood("a number that is computed")


def _term(value: Any) -> Any:
    return _number(value) if isinstance(value, int | float) else value


def _known(value: Any) -> bool:
    return isinstance(value, s.Followed)


def _two(operation: Callable[[s.Value, s.Value], s.Value], python: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def rule(a: Any, b: Any, alpha: Any = 1) -> Any:
        if isinstance(a, int | float) and isinstance(b, int | float):
            return python(a, b)
        b = _term(b) if alpha in (1, None) else s.multiply(_term(b), _number(alpha))
        return operation(_term(a), b)

    return rule


def _divide(a: Any, b: Any, rounding: Any = None) -> Any:
    if rounding is not None:
        raise s.NotUnderstood("rounding")
    return a / b if isinstance(a, int | float) and isinstance(b, int | float) else s.divide(_term(a), _term(b))


def _compare(operation: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(a: Any, b: Any) -> Any:
        if not any(_known(value) or isinstance(value, np.ndarray) for value in (a, b)):
            return bool(function(a, b))
        return s.together(operation, function, _term(a), _term(b))

    return rule


def _unary(operation: str, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[..., Any]:
    return lambda x, *_: s.together(operation, function, x)


def _addmm(bias: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    if beta != 1 or alpha != 1:
        raise s.NotUnderstood("its beta and alpha")
    return s.add(s.matmul(a, b), bias)


def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1 or scale != 1:
        raise s.NotUnderstood("its scale")
    return s.named(x, "elu", (float(alpha),))


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if threshold < 15:
        raise s.NotUnderstood("its threshold")
    return s.named(x, "softplus", (float(beta),))


def _clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    none = np.full(1, np.inf)
    return s.clip(x, -none if low is None else _number(low), none if high is None else _number(high))


def _slice(x: Any, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    if isinstance(x, list):
        return x[start:end:step]
    return s.move(x, lambda v: v[(slice(None),) * (axis % v.ndim) + (slice(start, end, step),)])


def _parts(x: Any, edges: Callable[[int], Sequence[int]], axis: int) -> list[Any]:
    size = x.shape[axis]
    return [_slice(x, axis, a, b) for a, b in itertools.pairwise([*edges(size), size])]


def _split(x: Any, size: Any, axis: int = 0) -> list[Any]:
    if isinstance(size, int):
        return _parts(x, lambda n: range(0, n, size), axis)
    return _parts(x, lambda n: [sum(size[:i]) for i in range(len(size))], axis)


def _chunk(x: Any, count: int, axis: int = 0) -> list[Any]:
    return _parts(x, lambda n: range(0, n, -(-n // count)), axis)


def _flat(x: Any, start: int = 0, end: int = -1) -> Any:
    def flattened(v: NDArray[Any]) -> NDArray[Any]:
        first, last = start % v.ndim, end % v.ndim
        return v.reshape(*v.shape[:first], -1, *v.shape[last + 1 :])

    return s.move(x, flattened)


def _unflat(x: Any, axis: int, sizes: list[int]) -> Any:
    def unflattened(v: NDArray[Any]) -> NDArray[Any]:
        place = axis % v.ndim
        return v.reshape(*v.shape[:place], *sizes, *v.shape[place + 1 :])

    return s.move(x, unflattened)


def _squeeze(x: Any, axis: Any = None) -> Any:
    def squeezed(v: NDArray[Any]) -> NDArray[Any]:
        if axis is None:
            return v.squeeze()
        axes = [a for a in np.ravel(axis).tolist() if v.shape[a] == 1]
        return v.squeeze(tuple(axes))

    return s.move(x, squeezed)


def _expand(x: Any, sizes: list[int], *_: Any) -> Any:
    def expanded(v: NDArray[Any]) -> NDArray[Any]:
        own = (1,) * (len(sizes) - v.ndim) + v.shape
        return np.broadcast_to(v, [n if n >= 0 else own[i] for i, n in enumerate(sizes)])

    return s.move(x, expanded)


def _pair(values: Any) -> tuple[int, int]:
    found = list(np.broadcast_to(values, 2))
    return int(found[0]), int(found[1])


def _convolution(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *rest: Any) -> Any:
    # conv2d has groups next; _convolution a transposed one, its padding and groups.
    groups = rest[0] if len(rest) == 1 else rest[2]
    if isinstance(padding, str) or _pair(dilation) != (1, 1) or groups != 1 or (len(rest) > 1 and rest[0]):
        raise s.NotUnderstood("groups, dilations or padding in words")
    return s.convolve(x, weight, bias, _pair(stride), _pair(padding))


def _max_pool(x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    if _pair(dilation) != (1, 1) or ceil:
        raise s.NotUnderstood("its mode")
    return s.max_pool(x, _pair(kernel), _pair(stride if np.size(stride) else kernel), _pair(padding))


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any) -> Any:
    if training or mean is None or var is None:
        raise s.NotUnderstood("in training")
    ones = (1,) * max(0, len(x.shape) - 2)
    gain = 1.0 / np.sqrt(var.astype(np.float64) + rest[1]) * (1.0 if weight is None else weight)
    shift = -mean * gain + (0.0 if bias is None else bias)
    return s.add(s.multiply(x, gain.reshape(-1, *ones)), shift.reshape(-1, *ones))


def _layer_norm(x: Any, shape: list[int], weight: Any = None, bias: Any = None, epsilon: float = 1e-5, *_: Any) -> Any:
    if math.prod(shape) != math.prod(x.shape):
        raise s.NotUnderstood("of parts of a tensor")
    return s.layer_norm(x, weight, bias, float(epsilon))


def _refused(why: str) -> Any:
    raise s.NotUnderstood(why)


def _full(sizes: Sequence[int], value: float) -> Any:
    if math.prod(sizes) > MAX_VALUES:
        raise s.NotUnderstood("a tensor of so many values")
    return np.full(sizes, value, np.float32)


def _copied(x: Any, value: Any, *_: Any) -> Any:
    return s.move(_term(value), lambda v: np.broadcast_to(v, x.shape))


def _unrolled(kind: str) -> Callable[..., Any]:
    """nn.GRU or nn.LSTM in one step: outputs, and the next h and c of all layers."""

    def rule(
        x: Any,
        before: Any,
        weights: Any,
        biased: bool,
        layers: int,
        dropout: float,
        train: bool,
        both: bool,
        batch_first: bool,
    ) -> Any:
        if isinstance(before, list) != (kind == "lstm") or not isinstance(weights, list):
            raise s.NotUnderstood("packed sequences")
        if both:
            raise s.NotUnderstood("both directions")
        if train and dropout:
            raise s.NotUnderstood("in training")
        each = 4 if biased else 2
        if len(weights) != each * layers:
            raise s.NotUnderstood("projections")
        if x.shape[:2] != (1, 1):
            raise s.NotUnderstood("several steps at once, or a batch")
        states = before if kind == "lstm" else [before]
        if any(state.shape[:2] != (layers, 1) for state in states):
            raise s.NotUnderstood("a state of other layers, or of a batch")
        after = []
        for layer in range(layers):
            own = [*weights[each * layer : each * (layer + 1)], *[None] * (4 - each)]
            read = [s.move(state, _taken_of(layer)) for state in states]
            after.append([s.move(one, lambda v: v.reshape(1, 1, -1)) for one in s.recur(kind, x, own, read)])
            x = after[-1][0]
        return x, *(s.join(vectors, 0) for vectors in zip(*after, strict=True))

    return rule


def _taken_of(layer: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda v: v[layer]


def _cell(kind: str) -> Callable[..., Any]:
    """nn.GRUCell or nn.LSTMCell: the next h and c."""

    def rule(x: Any, before: Any, weight: Any, recurrent: Any, own: Any = None, recalled: Any = None) -> Any:
        states = before if kind == "lstm" else [before]
        found = s.recur(kind, x, [weight, recurrent, own, recalled], states)
        return tuple(s.move(one, lambda v: v.reshape(1, -1)) for one in found)

    return rule


def _reduced(operation: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of NumPy over some axes, or over all of them."""

    def rule(x: Any, axes: Any = None, keeps: Any = False, *_: Any) -> Any:
        where = tuple(np.ravel(axes).tolist()) if axes is not None and np.size(axes) else None
        return s.reduce(x, lambda v: np.asarray(function(v, axis=where, keepdims=bool(keeps)), v.dtype), operation)

    return rule


def _variance(x: Any, axes: Any = None, correction: Any = 1, keeps: Any = False) -> Any:
    if isinstance(axes, bool):  # whether it is unbiased, over all axes
        axes, correction = None, axes
    where = tuple(np.ravel(axes).tolist()) if axes is not None and np.size(axes) else None
    less = 1 if correction is None else int(correction)
    return s.reduce(x, lambda v: np.var(v, axis=where, ddof=less, keepdims=bool(keeps)), "aten::var")


def _index(x: Any, places: list[Any]) -> Any:
    found = tuple(slice(None) if place is None else np.asarray(place) for place in places)
    return s.move(x, lambda v: v[found])


def _where(condition: Any, a: Any, b: Any) -> Any:
    return s.together("aten::where", np.where, condition, _term(a), _term(b))


def _power(x: Any, power: Any) -> Any:
    if isinstance(x, int | float) and isinstance(power, int | float):
        return x**power
    return s.together("aten::pow", lambda v, p: np.power(v, np.asarray(p, v.dtype)), x, _number(power))


def _choose(index: bool) -> Callable[..., Any]:
    def rule(x: Any, axis: Any = None, *_: Any) -> Any:
        return s.choose(x, len(x.shape) - 1 if axis is None and index else axis, index)

    return rule


def _same(x: Any, *_: Any) -> Any:
    return x


_RULES: dict[str, Callable[..., Any]] = {
    "abs": _unary("aten::abs", np.abs),
    "add": _two(s.add, lambda a, b: a + b),
    "addmm": _addmm,
    "alias": _same,
    "argmax": _choose(index=True),
    "batch_norm": _batch_norm,
    "cat": lambda values, axis=0: s.join(values, axis),
    "celu": lambda x, alpha=1.0: s.named(x, "celu", (float(alpha),)),
    "chunk": _chunk,
    "clamp": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "clamp_min": _clamp,
    "clip": _clamp,
    "clone": _same,
    "concat": lambda values, axis=0: s.join(values, axis),
    "contiguous": _same,
    "__contains__": lambda values, one: one in values,
    "copy": _copied,
    "conv2d": _convolution,
    "_convolution": _convolution,
    "detach": _same,
    "dim": lambda x: len(x.shape),
    "div": _divide,
    "dropout": lambda x, p, training: _same(x) if not training else _refused("in training"),
    "elu": _elu,
    "eq": _compare("aten::eq", lambda a, b: a == b),
    "erf": _unary("aten::erf", s.erf),
    "exp": _unary("aten::exp", np.exp),
    "expand": _expand,
    "feature_dropout": lambda x, p, training: _same(x) if not training else _refused("in training"),
    "flatten": _flat,
    "float": _same,
    "ge": _compare("aten::ge", lambda a, b: a >= b),
    "gelu": lambda x, approximate="none": s.named(x, "gelu_tanh" if approximate == "tanh" else "gelu"),
    "gru": _unrolled("gru"),
    "gru_cell": _cell("gru"),
    "gt": _compare("aten::gt", lambda a, b: a > b),
    "hardsigmoid": lambda x: s.named(x, "hardsigmoid"),
    "hardswish": lambda x: s.named(x, "hardswish"),
    "hardtanh": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "index": _index,
    "layer_norm": _layer_norm,
    "le": _compare("aten::le", lambda a, b: a <= b),
    "leaky_relu": lambda x, slope=0.01: s.named(x, "leaky_relu", (float(slope),)),
    "len": lambda x: len(x) if isinstance(x, list) else x.shape[0],
    "linear": s.linear,
    "list": lambda values: list(values),
    "log": _unary("aten::log", np.log),
    "log_sigmoid": lambda x: s.named(x, "log_sigmoid"),
    "log_softmax": _choose(index=False),
    "lstm": _unrolled("lstm"),
    "lstm_cell": _cell("lstm"),
    "lt": _compare("aten::lt", lambda a, b: a < b),
    "matmul": s.matmul,
    "max_pool2d": _max_pool,
    "max": lambda a, b: s.extreme(a, b, largest=True),
    "maximum": lambda a, b: s.extreme(a, b, largest=True),
    "mean": _reduced("aten::mean", np.mean),
    "min": lambda a, b: s.extreme(a, b, largest=False),
    "minimum": lambda a, b: s.extreme(a, b, largest=False),
    "mish": lambda x: s.named(x, "mish"),
    "mm": s.matmul,
    "mul": _two(s.multiply, lambda a, b: a * b),
    "narrow": lambda x, axis, start, length: _slice(x, axis, start, start + length),
    "ne": _compare("aten::ne", lambda a, b: a != b),
    "neg": lambda x: -x if isinstance(x, int | float) else s.multiply(x, np.asarray(np.float32(-1))),
    "__not__": lambda x: not x,
    "ones": lambda sizes, *_: _full(sizes, 1.0),
    "ones_like": lambda x, *_: _full(x.shape, 1.0),
    "permute": lambda x, order: s.move(x, lambda v: np.transpose(v, order)),
    "pow": _power,
    "reciprocal": _unary("aten::reciprocal", np.reciprocal),
    "relu": s.relu,
    "relu6": lambda x: _clamp(x, 0.0, 6.0),
    "reshape": lambda x, sizes: s.move(x, lambda v: v.reshape(sizes)),
    "rsqrt": _unary("aten::rsqrt", lambda v: 1 / np.sqrt(v)),
    "rsub": lambda a, b, alpha=1: s.subtract(_term(b), a) if alpha == 1 else _refused("its alpha"),
    "select": lambda x, axis, place: s.move(x, lambda v: np.asarray(np.take(v, place, axis))),
    "selu": lambda x: s.named(x, "selu"),
    "sigmoid": lambda x: s.named(x, "sigmoid"),
    "silu": lambda x: s.named(x, "silu"),
    "size": lambda x, axis=None: list(x.shape) if axis is None else x.shape[axis],
    "slice": _slice,
    "softmax": _choose(index=False),
    "softplus": _softplus,
    "split": _split,
    "split_with_sizes": _split,
    "sqrt": _unary("aten::sqrt", np.sqrt),
    "square": lambda x: s.together("aten::square", np.square, x),
    "squeeze": _squeeze,
    "sub": _two(s.subtract, lambda a, b: a - b),
    "sum": _reduced("aten::sum", np.sum),
    "t": lambda x: s.move(x, np.transpose),
    "tanh": lambda x: s.named(x, "tanh"),
    "to": _same,
    "transpose": lambda x, a, b: s.move(x, lambda v: np.swapaxes(v, a, b)),
    "type_as": _same,
    "unflatten": _unflat,
    "unsafe_chunk": _chunk,
    "unsafe_split": _split,
    "unsqueeze": lambda x, axis: s.move(x, lambda v: np.expand_dims(v, axis)),
    "var": _variance,
    "view": lambda x, sizes: s.move(x, lambda v: v.reshape(sizes)),
    "where": _where,
    "zeros": lambda sizes, *_: _full(sizes, 0.0),
    "zeros_like": lambda x, *_: _full(x.shape, 0.0),
    "__getitem__": lambda values, place: values[place],
    "__is__": lambda a, b: a is b,
    "__isnot__": lambda a, b: a is not b,
    "prim::NumToTensor": _same,
    "prim::unchecked_cast": _same,
    "Int": lambda x: int(x),
    "prelu": lambda x, slope: s.named(x, "leaky_relu", (s.uniform(slope),)),
    "prod": lambda x: math.prod(x.shape) if isinstance(x, np.ndarray) else _refused("of what is computed"),
}
"""What is understood of PyTorch's operators."""


def _plain(value: Any) -> str:
    return str(value.debugName()).partition(".")[0]
