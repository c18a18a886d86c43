"""ONNX files (opsets 9 to 23): run by ONNX Runtime, and followed operation by operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from policypress.errors import RunError, UnsupportedError
from policypress.importers import signals as s
from policypress.importers.formats import Asked
from policypress.importers.opened import (
    MAX_BYTES,
    Opened,
    Run,
    Steps,
    begun,
    check_size,
    named_output,
    one_by_one,
    reason_of,
    rows_of,
    with_chain,
)
from policypress.policy.ops import CELLS

OLDEST, NEWEST = 9, 23
"""Opsets that are read."""
_OWN = "policypress.numerics"
"""Metadata of what policypress itself has exported."""
_CLIPS = ("Max", "Min", "Clip")
"""Whose constants may be infinite, where nothing is clipped."""
_MAX_NODES = 20_000
_MAX_VALUES = 2**24  # in a tensor
_REFUSED = ("Loop", "Scan", "If", "SequenceMap")
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_SELU = (1.6732632423543772, 1.0507009873554805)
_NUMBERS = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.UINT8: "uint8",
    TensorProto.FLOAT16: "float32",
}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def open_onnx(asked: Asked) -> Opened:
    """The policy in an ONNX file; ``output`` names its actions, where it gives several things.

    Raises RunError for a file that cannot be read, UnsupportedError for one that is no policy: with several inputs,
    loops, or operations that no runtime here knows.
    """
    path = asked.path
    model = _loaded(path)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    every = [value for value in graph.input if value.name not in constants]
    state = _state(every, [value.name for value in graph.output])
    inputs = [value for value in every if value.name not in state]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in every) or "none"
        raise UnsupportedError(
            f"{path} has {len(every)} inputs ({names}): a policy that can be opened has one, its observation, and "
            "beside it a state alone: inputs that end in _in, and outputs of the same names that end in _out; export "
            "it with one input that is split inside, or name a function that does so, package.module:function."
        )
    answers = [value.name for value in graph.output if value.name not in state.values()]
    name = named_output(path, answers, asked.output)
    dtype = _NUMBERS.get(inputs[0].type.tensor_type.elem_type)
    dimensions = [_dimension(d) for d in inputs[0].type.tensor_type.shape.dim]
    if dtype is None:
        kind = TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)
        raise UnsupportedError(
            f"{path} takes observations of {kind}: export the policy with observations of float32, float64 or uint8."
        )
    batched = len(dimensions) > 1 and dimensions[0] in (None, 1)
    shape = dimensions[1:] if batched else dimensions
    if not shape or any(size is None for size in shape):
        raise UnsupportedError(
            f"{path} does not say of what shape its observations are ({inputs[0].name}: {_shown(dimensions)}): export "
            "it with a fixed shape behind the batch."
        )
    fixed: tuple[int, ...] = tuple(size for size in shape if size is not None)
    check_size(path, fixed)
    rows = not batched or dimensions[0] == 1
    runtime = _Runtime(path, model, inputs[0], name, fixed, batched)
    files = _files(path, model)
    if state:
        kept = {state[value.name]: value for value in every if value.name in state}
        steps = _steps(path, runtime, kept)
        opened = Opened("ONNX", fixed, dtype, begun(steps), steps=steps, files=files)
    else:
        opened = Opened("ONNX", fixed, dtype, _runs(path, runtime, rows), files=files)
    weights = [tensor for tensor in graph.initializer if tensor.data_type in _FLOATS]
    opened = replace(opened, parameters=sum(math.prod(tensor.dims) for tensor in weights) or None)
    opened.metadata.update((entry.key, entry.value) for entry in model.metadata_props)
    opened = with_chain(opened, lambda x: _followed(model, inputs[0].name, x if batched else _single(x), name, state))
    if not opened.understood and opened.metadata.get(_OWN) == "integer":
        return replace(
            opened, unknown="the integers of a policy that is pressed already; give its .policy file instead"
        )
    return opened


def _state(inputs: list[Any], outputs: list[str]) -> dict[str, str]:
    """Inputs that are a state, with the outputs that are the next one: h_in and h_out."""
    following = {name: f"{name.removesuffix('_in')}_out" for name in (value.name for value in inputs)}
    return {name: after for name, after in following.items() if name.endswith("_in") and after in outputs}


# Reading


def _loaded(path: Path) -> ModelProto:
    if path.stat().st_size > MAX_BYTES:
        raise UnsupportedError(f"{path} has more than {MAX_BYTES >> 20} MB: that is no policy that can be pressed.")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # what protobuf raises depends on its version
        raise RunError(f"{path} is no ONNX file that can be read: export the policy again.") from error
    version = next((found.version for found in model.opset_import if found.domain in ("", "ai.onnx")), None)
    if version is None or not OLDEST <= version <= NEWEST:
        raise UnsupportedError(f"{path} is of opset {version}: opsets {OLDEST} to {NEWEST} are read.")
    bodies: list[Any] = [model.graph.node, *(function.node for function in model.functions)]
    kinds = [node.op_type for body in bodies for node in body]
    if len(kinds) > _MAX_NODES:
        raise UnsupportedError(f"{path} has {len(kinds):,} operations: that is no policy that can be pressed.")
    if found := next((kind for kind in kinds if kind in _REFUSED), None):
        raise UnsupportedError(
            f"{path} runs parts of itself again or not at all (its operation {found}): export it without control flow."
        )
    if found := next((kind for kind in kinds if kind in _RANDOM), None):
        raise UnsupportedError(f"{path} draws at random (its operation {found}): export its mean action.")
    if len(model.graph.sparse_initializer):
        raise UnsupportedError(f"{path} holds sparse tensors: export it with plain weights.")
    _check_tensors(path, model)
    _check_values(path, model)
    return model


def _check_tensors(path: Path, model: ModelProto) -> None:
    """Loads external data into ``model``; refuses tensors that are too large, incomplete or not finite."""
    limits = {name for node in model.graph.node if node.op_type in _CLIPS for name in node.input}
    for tensor in _tensors(model.graph):
        size = math.prod(tensor.dims)
        if any(d < 0 for d in tensor.dims) or size > _MAX_VALUES:
            raise UnsupportedError(f"{path}: {tensor.name} has the shape {tuple(tensor.dims)}: that is no policy.")
        if tensor.data_location == TensorProto.EXTERNAL:
            _load_external(path, tensor, size)
        try:
            values = numpy_helper.to_array(tensor)
        except Exception as error:  # whatever numpy and onnx make of bytes that do not fit
            raise RunError(f"{path}: the values of {tensor.name or 'a constant'} do not fit its shape.") from error
        if values.dtype.kind != "f" or values.size == 1:
            continue
        legal = ~np.isnan(values) if tensor.name in limits else np.isfinite(values)
        if not legal.all():
            raise UnsupportedError(f"the weights in {path} are not finite ({tensor.name}): its training diverged.")


def _check_values(path: Path, model: ModelProto) -> None:
    """Refuses values between operations that are too large, as far as their shapes are known before it runs."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of shapes that do not fit: its runtime says so better
        return
    for value in (*graph.value_info, *graph.output, *graph.input):
        size = math.prod(d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value > 0)
        if size > _MAX_VALUES:
            raise UnsupportedError(f"{path}: {value.name} has {size:,} values: that is no policy.")


def _load_external(path: Path, tensor: TensorProto, size: int) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = path.parent / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or file.is_symlink():
        raise RunError(f"{path} keeps the values of {tensor.name} outside its folder, in {location!r}: refused.")
    if not file.is_file():
        raise RunError(f"{path} keeps its weights in {file}, which is missing: put it there, under this name.")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError:
        offset = length = -1
    wanted = size * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if offset < 0 or wanted > MAX_BYTES or length not in (-1, wanted) or file.stat().st_size < offset + wanted:
        raise RunError(f"{file} does not hold the values of {tensor.name}: it is not the file that was exported.")
    with file.open("rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(wanted)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t


def _files(path: Path, model: ModelProto) -> tuple[Path, ...]:
    original = onnx.load_model_from_string(path.read_bytes())
    found = {
        path.parent / entry.value
        for tensor in original.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return (path, *sorted(found))


def _dimension(dimension: Any) -> int | None:
    return dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value > 0 else None


def _shown(dimensions: list[int | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in dimensions) + ")"


# Running


class _Runtime:
    """A model in ONNX Runtime: ``answers`` takes the observations of one call and the values of other inputs."""

    def __init__(
        self, path: Path, model: ModelProto, taken: Any, output: str, shape: tuple[int, ...], batched: bool
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        self._path, self._taken, self._output, self._shape, self._batched = path, taken.name, output, shape, batched
        try:
            onnx.checker.check_model(model)
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own, each kind a class
            raise UnsupportedError(f"ONNX Runtime does not run {path}: {reason_of(error)}.") from error
        self._kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(taken.type.tensor_type.elem_type))

    def __call__(self, x: NDArray[Any], others: Mapping[str, Any], more: Sequence[str] = ()) -> list[Any]:
        """The action for ``x`` (n, *shape), and what the outputs ``more`` give."""
        x = x.astype(self._kind).reshape(-1, *self._shape)
        try:
            found = self._session.run([self._output, *more], {self._taken: x if self._batched else x[0], **others})
        except Exception as error:  # as above
            raise UnsupportedError(f"ONNX Runtime does not run {self._path}: {reason_of(error)}.") from error
        return list(found)


def _runs(path: Path, runtime: _Runtime, rows: bool) -> Run:
    """``runtime`` of observations alone, one by one where it takes them in ``rows``."""

    def run(observations: NDArray[Any]) -> NDArray[Any]:
        batches = np.split(observations, len(observations)) if rows else [observations]
        return np.concatenate([rows_of(str(path), runtime(x, {})[0], len(x)) for x in batches])

    return run


def _steps(path: Path, runtime: _Runtime, kept: Mapping[str, Any]) -> Steps:
    """``runtime`` with a state of the inputs ``kept``, by the outputs that give the next one; zeros at first."""
    zeros = {}
    for value in kept.values():
        kind, shape = value.type.tensor_type, _state_shape(value)
        if math.prod(shape) > _MAX_VALUES or min(shape, default=1) < 1:
            raise UnsupportedError(f"{path}: {value.name} has the shape {tuple(shape)}: that is no state of a policy.")
        zeros[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def step(observation: NDArray[Any], state: dict[str, Any] | None) -> tuple[NDArray[Any], dict[str, Any]]:
        answer, *after = runtime(observation, zeros if state is None else state, list(kept))
        following = {value.name: given for value, given in zip(kept.values(), after, strict=True)}
        return rows_of(str(path), answer, 1), following

    return one_by_one(step)


def _state_shape(value: Any) -> list[int]:
    """Of an input that is a state; what is free, such as its batch, is 1."""
    return [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]


# Following


def _single(x: s.Signal) -> s.Signal:
    """A signal without its batch of one."""
    return s.signal_of(s.move(x, lambda v: v.reshape(v.shape[1:])))


def _followed(
    model: ModelProto, taken: str, x: s.Signal, output: str, state: Mapping[str, str]
) -> tuple[s.Value, s.Kept]:
    """What the ``output`` of a model is for ``x``, and what it keeps for the inputs that are a ``state``."""
    found = _Followed(model, taken, x, state)
    return found.value(output), {name: found.known(after) for name, after in state.items()}


class _Followed:
    """The values of a model's graph by name, as far as they are understood."""

    def __init__(self, model: ModelProto, taken: str, x: s.Signal, state: Mapping[str, str]) -> None:
        self._functions = {(f.domain, f.name): f for f in model.functions}
        self._found: dict[str, s.Value | str] = {}
        graph = model.graph
        for tensor in graph.initializer:
            self._found[tensor.name] = numpy_helper.to_array(tensor)
        for value in graph.input:
            if value.name in state:
                self._found[value.name] = s.state(value.name, _state_shape(value))
        self._found[taken] = x
        version = next(found.version for found in model.opset_import if found.domain in ("", "ai.onnx"))
        self._body(graph.node, self._found, version, {}, depth=0)

    def known(self, name: str) -> s.Value | str:
        """The value called ``name``, or why it is not understood."""
        return self._found.get(name, f"nothing gives {name}")

    def value(self, name: str) -> s.Value:
        found = self.known(name)
        if isinstance(found, str):
            raise s.NotUnderstood(found)
        return found

    def _body(
        self, nodes: Any, values: dict[str, s.Value | str], version: int, given: Mapping[str, Any], depth: int
    ) -> None:
        """Follows ``nodes``, which stand in the order they run; what is not understood becomes its reason."""
        for node in nodes:
            attributes = {a.name: _attribute(a, given) for a in node.attribute}
            taken = [values.get(name, f"nothing gives {name}") if name else None for name in node.input]
            lost = next((value for value in taken if isinstance(value, str)), None)
            results: list[s.Value | str]
            if lost is not None:
                results = [lost] * len(node.output)
            else:
                results = self._results(node, taken, attributes, version, depth)
            for name, result in zip(node.output, results, strict=False):
                values[name] = result

    def _results(
        self, node: NodeProto, taken: list[Any], attributes: dict[str, Any], version: int, depth: int
    ) -> list[s.Value | str]:
        label = f"{node.op_type} ({node.name})" if node.name else node.op_type
        try:
            function = self._functions.get((node.domain, node.op_type))
            if function is not None:
                return self._called(function, taken, attributes, version, depth)
            if node.domain not in ("", "ai.onnx"):
                raise s.NotUnderstood(f"{node.domain}.{node.op_type}")
            rule = _RULES.get(node.op_type)
            if rule is None:
                if all(isinstance(value, np.ndarray) or value is None for value in taken):
                    return _folded(node, taken, version)
                raise s.NotUnderstood(node.op_type)
            found = rule(_Call(taken, attributes, version, len(node.output)))
            return list(found) if isinstance(found, tuple) else [found]
        except s.NotUnderstood as error:
            what = str(error)
            if not error.earlier:
                what = label if what == node.op_type else f"{label}: {what}"
            return [what] * len(node.output)
        except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError):
            return [f"{label}: its inputs do not fit it"] * len(node.output)

    def _called(
        self, function: FunctionProto, taken: list[Any], attributes: dict[str, Any], version: int, depth: int
    ) -> list[s.Value | str]:
        if depth > 16:
            raise s.NotUnderstood("functions within functions")
        values: dict[str, s.Value | str] = {
            name: value for name, value in zip(function.input, taken, strict=False) if value is not None
        }
        defaults = {a.name: onnx.helper.get_attribute_value(a) for a in function.attribute_proto}
        own = next((found.version for found in function.opset_import if found.domain in ("", "ai.onnx")), version)
        self._body(function.node, values, own, {**defaults, **attributes}, depth + 1)
        return [values.get(name, f"nothing gives {name}") for name in function.output]


def _attribute(attribute: AttributeProto, given: Mapping[str, Any]) -> Any:
    if attribute.ref_attr_name:
        return given.get(attribute.ref_attr_name)
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


_FOLDED = (
    "And", "Ceil", "Cos", "Equal", "Floor", "GatherElements", "GatherND", "Mod", "Not", "Or",
    "ReduceMax", "ReduceMin", "ReduceProd", "Round", "Sign", "Sin", "Size", "Sum",
)  # fmt: skip
"""Operations of constants that give no more than they take."""


def _folded(node: NodeProto, taken: list[Any], version: int) -> list[s.Value | str]:
    """Constants of an operation that has no rule, by ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type not in _FOLDED:
        raise s.NotUnderstood(node.op_type)
    names = [name for name in node.input if name]
    values = [value for value in taken if value is not None]
    made = [onnx.helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in dict.fromkeys(names)]
    outputs = [onnx.helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    graph = onnx.helper.make_graph([node], "constant", made, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    try:
        return list(ReferenceEvaluator(model).run(None, dict(zip(names, values, strict=True))))
    except Exception as error:  # of an implementation for all operations
        raise s.NotUnderstood(node.op_type) from error


class _Call:
    """An operation's inputs, attributes, opset and number of outputs."""

    def __init__(self, inputs: list[Any], attributes: dict[str, Any], version: int, outputs: int) -> None:
        self.inputs, self.attributes, self.version, self.outputs = inputs, attributes, version, outputs

    def __getitem__(self, place: int) -> Any:
        return self.inputs[place]

    def input(self, place: int, default: Any = None) -> Any:
        """An input that may be left out."""
        found = self.inputs[place] if place < len(self.inputs) else None
        return default if found is None else found

    def constant(self, place: int, name: str = "") -> NDArray[Any] | None:
        """An input, or in older opsets an attribute, that must be a constant; None where it is left out."""
        found = self.input(place, self.attributes.get(name))
        if found is None:
            return None
        if isinstance(found, s.Followed):
            raise s.NotUnderstood(f"{name or 'an input'} is computed")
        array = np.asarray(found)
        if array.size > _MAX_VALUES:
            raise s.NotUnderstood("a tensor of so many values")
        return array

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)


def _unary(operation: str, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[_Call], s.Value]:
    return lambda c: s.together(operation, function, c[0])


def _row(function: str, *parameters: tuple[str, float]) -> Callable[[_Call], s.Value]:
    """A row of the table of activations, its parameters by the names and defaults that ONNX has for them."""
    return lambda c: s.named(c[0], function, tuple(c.attribute(name, default) for name, default in parameters))


def _gemm(c: _Call) -> s.Value:
    alpha, beta = (np.float32(c.attribute(name, 1.0)) for name in ("alpha", "beta"))
    a = s.move(c[0], np.transpose) if c.attribute("transA", 0) else c[0]
    b = s.move(c[1], np.transpose) if c.attribute("transB", 0) else c[1]
    product = s.matmul(a, b)
    if alpha != 1.0:
        product = s.multiply(product, np.asarray(alpha))
    bias = c.input(2)
    if bias is None:
        return product
    return s.add(product, s.multiply(bias, np.asarray(beta)) if beta != 1.0 else bias)


def _pair(values: Any, default: int) -> tuple[int, int]:
    found = [int(value) for value in values] if values is not None else [default, default]
    if len(found) != 2:
        raise s.NotUnderstood("windows of other than two dimensions")
    return found[0], found[1]


def _padding(c: _Call) -> tuple[int, int]:
    pads = [int(value) for value in c.attribute("pads", [0, 0, 0, 0])]
    if c.attribute("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", "NOTSET", "VALID"):
        raise s.NotUnderstood("padding that is computed")
    if len(pads) != 4 or pads[:2] != pads[2:]:
        raise s.NotUnderstood("padding of one side")
    return pads[0], pads[1]


def _conv(c: _Call) -> s.Value:
    if c.attribute("group", 1) != 1 or any(value != 1 for value in c.attribute("dilations", [1, 1])):
        raise s.NotUnderstood("groups or dilations")
    return s.convolve(c[0], c[1], c.input(2), _pair(c.attribute("strides", None), 1), _padding(c))


def _max_pool(c: _Call) -> s.Value:
    if c.attribute("ceil_mode", 0) or any(value != 1 for value in c.attribute("dilations", [1, 1])) or c.outputs > 1:
        raise s.NotUnderstood("its mode")
    kernel = _pair(c.attribute("kernel_shape", None), 1)
    return s.max_pool(c[0], kernel, _pair(c.attribute("strides", None), 1), _padding(c))


def _batch_normalization(c: _Call) -> s.Value:
    scale, bias, mean, var = (c.constant(place) for place in (1, 2, 3, 4))
    if scale is None or bias is None or mean is None or var is None or c.attribute("training_mode", 0):
        raise s.NotUnderstood("its mode")
    ones = (1,) * max(0, len(s.signal_of(c[0]).shape) - 2)
    gain = (scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + c.attribute("epsilon", 1e-5))).reshape(
        -1, *ones
    )
    shift = bias.reshape(-1, *ones) - mean.reshape(-1, *ones) * gain
    return s.add(s.multiply(c[0], gain), shift)


def _layer_normalization(c: _Call) -> s.Value:
    if math.prod(c[0].shape[: c.attribute("axis", -1)]) != 1:
        raise s.NotUnderstood("of parts of a tensor")
    return s.layer_norm(c[0], c[1], c.input(2), c.attribute("epsilon", 1e-5))


_ORDERS = {"gru": (1, 0, 2), "lstm": (0, 2, 3, 1)}
"""Where the gates of PyTorch's order are among ONNX's: zrh and iofc."""
_USUAL: dict[str, tuple[bytes, ...]] = {"gru": (b"sigmoid", b"tanh"), "lstm": (b"sigmoid", b"tanh", b"tanh")}


def _cell(kind: str) -> Callable[[_Call], tuple[s.Value, ...]]:
    """One step of a GRU or an LSTM: Y, Y_h and, of an LSTM, Y_c."""

    def rule(c: _Call) -> tuple[s.Value, ...]:
        if (why := _other_cell(kind, c)) is not None:
            raise s.NotUnderstood(why)
        weight, recurrent, bias = (c.constant(place) for place in (1, 2, 3))
        if weight is None or recurrent is None or len(weight) != 1 or len(recurrent) != 1:
            raise s.NotUnderstood("weights of other than one direction")
        if c[0].shape[:2] != (1, 1):
            raise s.NotUnderstood("several steps at once, or a batch")
        units, gates = recurrent.shape[-1], len(CELLS[kind].gates)
        if c.attribute("hidden_size", units) != units:
            raise s.NotUnderstood("a hidden_size that its weights do not have")

        def ordered(values: NDArray[Any]) -> NDArray[Any]:
            parts = np.split(values, gates)
            return np.concatenate([parts[place] for place in _ORDERS[kind]])

        biases = [None, None] if bias is None else [ordered(part) for part in np.split(bias[0], 2)]
        before = [c.input(5 + place, np.zeros(units)) for place in range(len(CELLS[kind].state))]
        found = s.recur(kind, c[0], [ordered(weight[0]), ordered(recurrent[0]), *biases], before)
        kept = [s.move(value, lambda v: v.reshape(1, 1, units)) for value in found]
        return s.move(found[0], lambda v: v.reshape(1, 1, 1, units)), *kept

    return rule


def _other_cell(kind: str, c: _Call) -> str | None:
    """What makes a cell another one than PyTorch's; None if nothing does."""
    if c.attribute("direction", b"forward") != b"forward":
        return "a direction that is not forward"
    if c.attribute("layout", 0):
        return "layout 1"
    activations = tuple(name.lower() for name in c.attribute("activations", None) or _USUAL[kind])
    if activations != _USUAL[kind] or c.attribute("activation_alpha", []) or c.attribute("activation_beta", []):
        return "activations of its own"
    if c.attribute("clip", None) is not None:
        return "a clip"
    if kind == "gru" and not c.attribute("linear_before_reset", 0):
        return "a reset gate in front of its product (linear_before_reset=0)"
    if c.attribute("input_forget", 0):
        return "an input gate that is tied to the forget gate"
    if c.input(7) is not None:
        return "peepholes"
    lengths = c.input(4)
    if lengths is not None and (not isinstance(lengths, np.ndarray) or np.any(lengths != 1)):
        return "lengths of sequences"
    return None


def _reduced(operation: str, function: Callable[..., Any]) -> Callable[[_Call], s.Value]:
    """``function`` of NumPy over some axes, or over all of them."""

    def rule(c: _Call) -> s.Value:
        axes, keeps = c.constant(1, "axes"), bool(c.attribute("keepdims", 1))
        if (axes is None or not axes.size) and c.attribute("noop_with_empty_axes", 0):
            return c[0]  # type: ignore[no-any-return]
        where = tuple(int(axis) for axis in axes.ravel()) if axes is not None and axes.size else None
        return s.reduce(c[0], lambda x: np.asarray(function(x, axis=where, keepdims=keeps), x.dtype), operation)

    return rule


def _reshape(c: _Call) -> s.Value:
    wanted = c.constant(1)
    if wanted is None or wanted.size > 8:
        raise s.NotUnderstood("its shape")
    keeps = not c.attribute("allowzero", 0)

    def reshaped(x: NDArray[Any]) -> NDArray[Any]:
        sizes = [x.shape[i] if n == 0 and keeps else int(n) for i, n in enumerate(wanted.ravel())]
        return x.reshape(sizes)

    return s.move(c[0], reshaped)


def _flatten(c: _Call) -> s.Value:
    axis = c.attribute("axis", 1)
    return s.move(c[0], lambda x: x.reshape(math.prod(x.shape[:axis]), -1))


def _squeeze(c: _Call) -> s.Value:
    axes = c.constant(1, "axes")
    return s.move(c[0], lambda x: x.squeeze(None if axes is None else tuple(int(a) for a in axes.ravel())))


def _unsqueeze(c: _Call) -> s.Value:
    axes = c.constant(1, "axes")
    if axes is None:
        raise s.NotUnderstood("its axes")
    return s.move(c[0], lambda x: np.expand_dims(x, tuple(int(a) for a in axes.ravel())))


def _transpose(c: _Call) -> s.Value:
    order = c.attribute("perm", None)
    return s.move(c[0], lambda x: np.transpose(x, order))


def _slice(c: _Call) -> s.Value:
    starts, ends = c.constant(1, "starts"), c.constant(2, "ends")
    axes, steps = c.constant(3, "axes"), c.constant(4)
    if starts is None or ends is None:
        raise s.NotUnderstood("its ends")
    where = range(len(starts)) if axes is None else axes.ravel().tolist()
    by = [1] * len(starts) if steps is None else steps.ravel().tolist()

    def sliced(x: NDArray[Any]) -> NDArray[Any]:
        parts = [slice(None)] * x.ndim
        for axis, start, end, step in zip(where, starts.tolist(), ends.tolist(), by, strict=True):
            size = x.shape[axis]
            if step < 0:  # what lies before the first value is the end that Python calls None
                stop = None if end < -size else int(end)
                parts[axis] = slice(int(start), stop, int(step))
            else:
                parts[axis] = slice(int(start), int(end), int(step))
        return x[tuple(parts)]

    return s.move(c[0], sliced)


def _split(c: _Call) -> tuple[s.Value, ...]:
    axis, sizes = c.attribute("axis", 0), c.constant(1, "split")

    def parts(x: NDArray[Any]) -> list[NDArray[Any]]:
        if sizes is None:
            each = -(-x.shape[axis] // c.outputs)
            return np.split(x, range(each, x.shape[axis], each), axis)
        return np.split(x, np.cumsum(sizes)[:-1], axis)

    return tuple(s.move(c[0], lambda x, i=i: parts(x)[i]) for i in range(c.outputs))  # type: ignore[misc]


def _gather(c: _Call) -> s.Value:
    axis, values = c.attribute("axis", 0), c[0]
    if isinstance(c[1], s.Followed) and isinstance(values, np.ndarray) and values.ndim == 1:  # a function in a table
        last = len(values) - 1
        return s.together("Gather", lambda places: values[np.clip(places, -last - 1, last).astype(np.int64)], c[1])
    indices = c.constant(1)
    if indices is None:
        raise s.NotUnderstood("its indices")
    return s.move(c[0], lambda x: np.asarray(np.take(x, indices.astype(np.int64), axis)))


def _expand(c: _Call) -> s.Value:
    wanted = c.constant(1)
    if wanted is None or wanted.size > 8:
        raise s.NotUnderstood("its shape")
    sizes = tuple(int(n) for n in wanted.ravel())
    if math.prod(sizes) > _MAX_VALUES:
        raise s.NotUnderstood("a tensor of so many values")
    return s.move(c[0], lambda x: np.broadcast_to(x, np.broadcast_shapes(x.shape, sizes)))


def _cast(c: _Call) -> s.Value:
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(c.attribute("to", TensorProto.FLOAT)))
    if isinstance(c[0], np.ndarray):
        with np.errstate(all="ignore"):
            return c[0].astype(kind)
    if kind.kind != "f" and not isinstance(c[0], s.Choice):
        return s.together(f"Cast to {kind}", lambda v: v.astype(kind), c[0])
    return c[0]  # type: ignore[no-any-return]


def _clip(c: _Call) -> s.Value:
    low, high = c.constant(1, "min"), c.constant(2, "max")
    return s.clip(c[0], np.full(1, -np.inf) if low is None else low, np.full(1, np.inf) if high is None else high)


def _pow(c: _Call) -> s.Value:
    return s.together("Pow", lambda x, p: np.power(x, np.asarray(p, x.dtype)), c[0], c[1])


def _dequantize_linear(c: _Call) -> s.Value:
    codes, scale, zero = c.constant(0), c.constant(1), c.constant(2)
    if codes is None or scale is None or c.attribute("block_size", 0):
        raise s.NotUnderstood("of blocks")
    if scale.size > 1:
        shape = [1] * codes.ndim
        shape[c.attribute("axis", 1)] = -1
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    return np.asarray((codes.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))) * scale, np.float32)


def _shape(c: _Call) -> s.Value:
    shape = c[0].shape
    return np.asarray(shape[c.attribute("start", 0) : c.attribute("end", None)], np.int64)


_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def _constant(c: _Call) -> s.Value:
    for name, value in c.attributes.items():
        if name.startswith("value"):
            return np.asarray(value, _CONSTANTS.get(name))
    raise s.NotUnderstood("its value")


def _constant_of_shape(c: _Call) -> s.Value:
    shape = c.constant(0)
    sizes = tuple(int(n) for n in np.ravel(shape if shape is not None else []))
    if math.prod(sizes) > _MAX_VALUES:
        raise s.NotUnderstood("a tensor of so many values")
    value = np.asarray(c.attribute("value", np.zeros(1, np.float32)))
    return np.full(sizes, value.flat[0], value.dtype)


def _identity(c: _Call) -> s.Value:
    return c[0]  # type: ignore[no-any-return]


def _dropout(c: _Call) -> s.Value:
    if isinstance(c.input(2), np.ndarray) and bool(np.any(c[2])):
        raise s.NotUnderstood("in training")
    return c[0]  # type: ignore[no-any-return]


def _selu(c: _Call) -> s.Value:
    if c.attributes and not np.allclose([c.attribute("alpha", _SELU[0]), c.attribute("gamma", _SELU[1])], _SELU):
        raise s.NotUnderstood("its alpha and gamma")
    return s.named(c[0], "selu")


def _hard_sigmoid(c: _Call) -> s.Value:
    slope, offset = (np.asarray(np.float32(c.attribute(*pair))) for pair in (("alpha", 0.2), ("beta", 0.5)))
    return s.clip(s.add(s.multiply(c[0], slope), offset), np.zeros(1), np.ones(1))


_RULES: dict[str, Callable[[_Call], s.Value | tuple[s.Value, ...]]] = {
    "Abs": _unary("Abs", np.abs),
    "Add": lambda c: s.add(c[0], c[1]),
    "ArgMax": lambda c: s.choose(c[0], c.attribute("axis", 0), index=True),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Celu": _row("celu", ("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda c: s.join(c.inputs, c.attribute("axis", 0)),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Div": lambda c: s.divide(c[0], c[1]),
    "Dropout": _dropout,
    "Elu": _row("elu", ("alpha", 1.0)),
    "Erf": lambda c: s.together("Erf", s.erf, c[0]),
    "Exp": _unary("Exp", np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary("Floor", np.floor),
    "GRU": _cell("gru"),
    "Gather": _gather,
    "Gelu": lambda c: s.named(c[0], "gelu_tanh" if c.attribute("approximate", b"none") == b"tanh" else "gelu"),
    "Gemm": _gemm,
    "Greater": lambda c: s.together("Greater", np.greater, c[0], c[1]),
    "GreaterOrEqual": lambda c: s.together("GreaterOrEqual", np.greater_equal, c[0], c[1]),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _row("hardswish"),
    "Identity": _identity,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _row("leaky_relu", ("alpha", 0.01)),
    "LSTM": _cell("lstm"),
    "Less": lambda c: s.together("Less", np.less, c[0], c[1]),
    "LessOrEqual": lambda c: s.together("LessOrEqual", np.less_equal, c[0], c[1]),
    "Log": _unary("Log", np.log),
    "LogSoftmax": lambda c: s.choose(c[0], c.attribute("axis", -1 if c.version >= 13 else 1), index=False),
    "MatMul": lambda c: s.matmul(c[0], c[1]),
    "Max": lambda c: s.extreme(*c.inputs, largest=True),
    "MaxPool": _max_pool,
    "Min": lambda c: s.extreme(*c.inputs, largest=False),
    "Mish": _row("mish"),
    "Mul": lambda c: s.multiply(c[0], c[1]),
    "Neg": lambda c: s.multiply(c[0], np.asarray(np.float32(-1))),
    "PRelu": lambda c: s.named(c[0], "leaky_relu", (s.uniform(c[1]),)),
    "Pow": _pow,
    "Reciprocal": _unary("Reciprocal", np.reciprocal),
    "ReduceMean": _reduced("ReduceMean", np.mean),
    "ReduceSum": _reduced("ReduceSum", np.sum),
    "Relu": lambda c: s.relu(c[0]),
    "Reshape": _reshape,
    "Selu": _selu,
    "Shape": _shape,
    "Sigmoid": _row("sigmoid"),
    "Slice": _slice,
    "Softmax": lambda c: s.choose(c[0], c.attribute("axis", -1 if c.version >= 13 else 1), index=False),
    "Softplus": _row("softplus", ("beta", 1.0)),
    "Softsign": _row("softsign"),
    "Split": _split,
    "Sqrt": _unary("Sqrt", np.sqrt),
    "Squeeze": _squeeze,
    "Sub": lambda c: s.subtract(c[0], c[1]),
    "Tanh": _row("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda c: s.together("Where", np.where, c[0], c[1], c[2]),
}
"""What is understood of ONNX's operators; of the others, constants alone."""
