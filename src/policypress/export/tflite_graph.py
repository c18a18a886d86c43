"""The file of TensorFlow Lite: tensors, operators and buffers, written with the schema that LiteRT brings.

LiteRT ships the classes that flatc makes of its public schema (``ai_edge_litert.schema_py_generated``), and brings the
package flatbuffers, which they need. Versions of operators are those of TensorFlow Lite's ``op_version.cc``.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_ALIGNMENT = 16
"""Of every buffer in the file: the schema's ``force_align``. Microcontrollers read weights where they lie."""
_TYPES = {
    name: getattr(schema.TensorType, name.upper())
    for name in ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")
}


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose bytes are aligned; the generated class aligns them to 1."""

    def Pack(self, builder: Any) -> Any:
        data = None
        if self.data is not None:
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class Graph:
    """One subgraph in the making. Tensors are numbers; their first dimension is the batch, 1 unless it is resized."""

    def __init__(self) -> None:
        self._buffers = [_Buffer()]
        self._codes: dict[tuple[str, int], int] = {}
        self._tensors: list[Any] = []
        self._operators: list[Any] = []

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], scale: float | None = None, zero: int = 0) -> int:
        """A tensor that an operator gives; ``scale`` and ``zero`` of a quantized one: ``scale * (q - zero)``."""
        scales = None if scale is None else np.array([scale], np.float32)
        one = self._add(name, dtype, shape, scales, zero)
        one.shapeSignature = [-1, *shape[1:]]
        return len(self._tensors) - 1

    def constant(self, name: str, values: NDArray[Any], scale: NDArray[np.float32] | None = None, zero: int = 0) -> int:
        """A tensor of the file; ``scale``: of shape (1,), or one for each row of ``values``."""
        one = self._add(name, values.dtype.name, values.shape, scale, zero)
        one.buffer = len(self._buffers)
        self._buffers.append(_Buffer())
        self._buffers[-1].data = values.tobytes()
        return len(self._tensors) - 1

    def _add(self, name: str, dtype: str, shape: tuple[int, ...], scale: NDArray[Any] | None, zero: int) -> Any:
        one = schema.TensorT()
        one.name, one.type, one.shape = name, _TYPES[dtype], list(shape)
        if scale is not None:
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale = np.asarray(scale, np.float32)
            one.quantization.zeroPoint = np.full(len(scale), zero, np.int64)
        self._tensors.append(one)
        return one

    def operate(
        self, kind: str, version: int, inputs: tuple[int, ...], output: int, options: str = "", **of: Any
    ) -> int:
        """An operator ``kind`` with the fields ``of`` the table ``options``; returns ``output``."""
        one = schema.OperatorT()
        one.opcodeIndex = self._codes.setdefault((kind, version), len(self._codes))
        one.inputs, one.outputs = list(inputs), [output]
        if options:
            one.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            one.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in of.items():
                assert hasattr(one.builtinOptions, name)
                setattr(one.builtinOptions, name, value)
        self._operators.append(one)
        return output

    def model(self, inputs: tuple[int, ...], outputs: tuple[int, ...], description: str) -> bytes:
        """The file. Equal graphs give equal bytes."""
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "policy", self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.description = 3, description
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self._buffers, []
        for kind, version in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


RELU, NONE = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.NONE
VALID = schema.Padding.VALID
BOOL, FLOAT32, INT32, UINT8 = (_TYPES[name] for name in ("bool", "float32", "int32", "uint8"))
