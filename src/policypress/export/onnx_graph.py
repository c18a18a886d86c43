"""The ONNX graph as it is put together: nodes, constants, and which tensors hold the integers of every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from policypress.policy.ops import Activation, Layer, MaxPool2d, Op, Requantization
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state
from policypress.version import __version__

Style = Literal["exact", "qdq"]

OPSET = 13
"""The first with one scale an output in DequantizeLinear, and with sizes as an input of Split; no graph needs more."""
IR_VERSION = 7  # that of the ONNX release which brought opset 13
STYLE = "policypress.style"
STEPS = "policypress.steps"
"""Metadata: the tensors that hold the integers of every step, see ``Step``."""


class Step(NamedTuple):
    """One step of an integer policy: the input's quantization, then what ``reference.run`` records.

    ``tensor`` holds its integers plus ``zero``; it is "" where the style has no such integers.
    """

    name: str
    tensor: str
    zero: int


def dtype_of(name: str | type[np.generic] | np.dtype[Any]) -> int:
    """ONNX's number of a NumPy dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


class Graph:
    """Nodes, constants and steps as they are added; names start with the scope."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.steps: list[Step] = []
        self.constants: list[onnx.TensorProto] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: set[str] = {"observation", "outputs", "action", "h_in", "h_out"}
        self._scope = ""
        self._layers = 0

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        before, self._scope = self._scope, name
        yield
        self._scope = before

    @contextmanager
    def layer(self, op: Op) -> Iterator[None]:
        named = op.name if isinstance(op, Layer) else op.function if isinstance(op, Activation) else ""
        label = named or type(op).__name__.lower()
        self._layers += 1
        with self.scope(f"{self._layers:02d}.{label}"):
            yield

    def step(self, tensor: str, zero: int = 0) -> None:
        self.steps.append(Step(self._scope, tensor, zero))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Name of the result; a list of names if ``outputs`` is not 1."""
        names = [self._name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: NDArray[Any] | np.generic, name: str = "constant", shared: bool = True) -> str:
        """Name of an initializer; equal ones that may be shared are stored once."""
        array = np.array(value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if shared and key in self._shared:
            return self._shared[key]
        scalar = shared and array.ndim == 0
        tensor = numpy_helper.from_array(array, f"{array.dtype}({array})" if scalar else self._name(name))
        self.constants.append(tensor)
        if shared:
            self._shared[key] = tensor.name
        return str(tensor.name)

    def cast(self, tensor: str, dtype: str | type[np.generic]) -> str:
        return str(self.op("Cast", tensor, to=dtype_of(dtype)))

    def rename(self, old: str, new: str) -> None:
        """Give a node's result the name of a graph output."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new
        self.steps = [step._replace(tensor=new) if step.tensor == old else step for step in self.steps]

    def model(self, policy: Policy, *results: str) -> onnx.ModelProto:
        """The graph with the input ``observation`` and the outputs ``results``, of "action", "outputs" and "h_out". A
        policy with a state has the input ``h_in`` too."""

        def value(name: str, dtype: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype_of(dtype), ["batch", *shape])

        observation, action = policy.observation, policy.action
        known = {
            "action": value("action", action.dtype, *action.shape),
            "outputs": value("outputs", "float32", policy.layers[-1].weight.shape[0]),
        }
        inputs = [value("observation", observation.dtype, *observation.shape)]
        if policy.state_size:
            dtype = initial_state(policy, 0).dtype.name
            inputs.append(value("h_in", dtype, policy.state_size))
            known["h_out"] = value("h_out", dtype, policy.state_size)
        return helper.make_model(
            helper.make_graph(self.nodes, "policy", inputs, [known[name] for name in results], self.constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="policypress",
            producer_version=__version__,
        )

    def _name(self, kind: str) -> str:
        base = name = f"{self._scope}/{kind}" if self._scope else kind
        count = 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


# Nodes that several forms share


def clip(graph: Graph, x: str, low: np.generic, high: np.generic) -> str:
    return str(graph.op("Clip", x, graph.constant(low), graph.constant(high)))


def layer_node(graph: Graph, layer: Layer, x: str, weight: str, bias: str = "") -> str:
    """A float32 layer; ``weight`` has the shape of ``layer.weight``."""
    inputs = (x, weight, bias) if bias else (x, weight)
    if layer.is_conv:
        return str(graph.op("Conv", *inputs, **window(layer)))
    return str(graph.op("Gemm", *inputs, transB=1))


def dequantized(graph: Graph, codes: NDArray[Any], scale: NDArray[np.float32], name: str) -> str:
    """float32 ``codes * scale``, with one scale or one for each output."""
    parameters = scale[0] if scale.size == 1 else scale
    zero = np.zeros(np.shape(parameters), codes.dtype)
    # Not shared: ONNX Runtime fails where it rewrites a zero point that two layers share.
    constants = (codes, name), (parameters, f"{name}_scale"), (zero, f"{name}_zero")
    inputs = [graph.constant(value, label, shared=False) for value, label in constants]
    return str(graph.op("DequantizeLinear", *inputs, **({} if scale.size == 1 else {"axis": 0})))


def ratio(requantization: Requantization) -> NDArray[np.float64]:
    """``multiplier / 2**shift``, exactly."""
    return np.ldexp(requantization.multiplier.astype(np.float64), -requantization.shift)


def per_channel(values: NDArray[Any], ndim: int) -> NDArray[Any]:
    """One value, or one a channel, for a tensor of ``ndim`` dimensions without that of the batch."""
    return values.reshape((-1,) + (1,) * (ndim - 1))


def window(op: Layer | MaxPool2d) -> dict[str, Any]:
    return {"strides": list(op.stride), "pads": [*op.padding, *op.padding]}


def max_pool(graph: Graph, pool: MaxPool2d, x: str) -> str:
    return str(graph.op("MaxPool", x, kernel_shape=list(pool.kernel), **window(pool)))
