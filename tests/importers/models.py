"""Small files of other frameworks, made by hand, that the tests of their readers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from policypress.importers.formats import Asked, open_file
from policypress.importers.opened import Opened

INPUTS, HIDDEN, OUTPUTS = 6, 8, 3


class Graph:
    """An ONNX graph under construction: ``g("Add", x, values)`` gives the name of what an operation gives."""

    def __init__(self, opset: int = 17, shape: Sequence[Any] = ("batch", INPUTS)) -> None:
        self.opset, self.shape, self.functions = opset, list(shape), []  # type: ignore[var-annotated]
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._random = np.random.default_rng(0)

    def constant(self, values: Any, dtype: str = "float32") -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def __call__(self, kind: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        given = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, given, domain=domain, **attributes))
        return given[0] if outputs == 1 else given

    def ints(self, *values: int) -> str:
        return self.constant(values, "int64")

    def weights(self, *shape: int) -> NDArray[Any]:
        return self._random.normal(size=shape)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return str(self("Gemm", x, self.weights(inputs, outputs), self.weights(outputs)))

    def network(self, x: str, act: Callable[[str], str] | None = None) -> str:
        """Two layers, ``act`` between them: a ReLU by default."""
        hidden = self.dense(x, INPUTS, HIDDEN)
        return self.dense(act(hidden) if act else self("Relu", hidden), HIDDEN, OUTPUTS)

    def save(
        self,
        path: Path,
        *outputs: str,
        metadata: dict[str, str] | None = None,
        dtype: int = TensorProto.FLOAT,
        state: Mapping[str, tuple[Sequence[Any], str]] | None = None,
    ) -> Path:
        """``state``: by its name, for an input NAME_in and an output NAME_out, its shape and what is kept."""
        taken = [helper.make_tensor_value_info("obs", dtype, self.shape)]
        for name, (shape, kept) in (state or {}).items():
            taken.append(helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, shape))
            self.nodes.append(helper.make_node("Identity", [kept], [f"{name}_out"]))
        names = [*outputs, *(f"{name}_out" for name in state or {})]
        ends = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
        graph = helper.make_graph(self.nodes, "policy", taken, ends, self.tensors)
        sets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(f.domain, 1) for f in self.functions)]
        model = helper.make_model(graph, opset_imports=sets, functions=self.functions, ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        helper.set_model_props(model, metadata or {})
        path.write_bytes(model.SerializeToString())
        return path


def opened(path: Path, **words: Any) -> Opened:
    return open_file(Asked(path, **words))


def apart(found: Opened, count: int = 64, scale: float = 2.0) -> float:
    """The largest difference between what was understood and its own runtime, relative to the largest answer."""
    assert found.shape is not None
    assert found.policy is not None, found.unknown
    x = (scale * np.random.default_rng(1).normal(size=(count, *found.shape))).astype(found.dtype)
    own = found.run(x)
    ours = found.policy.predict(x)[0].reshape(len(x), -1)
    return float(np.abs(own - ours).max() / np.abs(own).max())
