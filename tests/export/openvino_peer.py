"""OpenVINO as a peer: a graph on its CPU, in the place of ``onnx_check.Runner``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray


class OpenVinoRunner:
    """A graph in OpenVINO, on one thread; calling it gives outputs, actions and the ``extra`` tensors.

    ``integers``: let its kernels for int8 run what is quantized. On x86 processors without VNNI these saturate where
    weights have 8 bits (docs/onnx.md); without them the same graph runs in float32.
    """

    def __init__(self, model: bytes, extra: Iterable[str] = (), integers: bool = False) -> None:
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        if not integers:
            options |= {"LP_TRANSFORMS_MODE": "NO", "EXECUTION_MODE_HINT": "ACCURACY"}
        core = openvino.Core()
        self._model = core.compile_model(core.read_model(model), "CPU", options)
        (observation,) = self._model.inputs
        self.dtype = np.dtype(observation.get_element_type().to_dtype())
        self.shape = tuple(dimension.get_length() for dimension in list(observation.get_partial_shape())[1:])
        self._results = ["outputs", "action", *extra]

    def __call__(self, observations: NDArray[Any]) -> list[NDArray[Any]]:
        batch = np.ascontiguousarray(observations.reshape(-1, *self.shape), dtype=self.dtype)
        found = self._model({"observation": batch})
        return [found[name] for name in self._results]
