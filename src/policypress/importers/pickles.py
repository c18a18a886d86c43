"""Pickles read without running code: data comes back, anything else does not."""

from __future__ import annotations

import base64
import io
import pickle
from collections import OrderedDict, deque
from typing import Any

import numpy as np

# Functions that NumPy pickles name; asked of NumPy, because their module moves between versions.
_NUMPY: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "scalar": np.float64(0).__reduce__()[0],
}
_BUILTINS: dict[str, type] = {
    kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}
_COLLECTIONS: dict[str, type] = {"deque": deque, "OrderedDict": OrderedDict}


class Record:
    """Stands in for an object of a class that is not imported: it keeps the state and does nothing."""

    state: Any = None

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Unpickler(pickle.Unpickler):
    """Knows NumPy arrays and plain containers; any other class is a Record if ``records``, else an error."""

    def __init__(self, file: io.BytesIO, records: bool = False) -> None:
        super().__init__(file)
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if module == "builtins" and name in _BUILTINS:
            return _BUILTINS[name]
        if module == "collections" and name in _COLLECTIONS:
            return _COLLECTIONS[name]
        if self._records:
            return type(name, (Record,), {})
        raise pickle.UnpicklingError(f"{module}.{name} is not data")


def saved_data(attribute: Any) -> Any:
    """What an attribute in an agent's JSON holds as a pickle; None if it is no data, or none at all."""
    try:
        return Unpickler(io.BytesIO(base64.b64decode(attribute[":serialized:"]))).load()
    except Exception:  # arbitrary bytes can make the unpickler raise anything
        return None


def saved_record(attribute: Any) -> Any:
    """The same, with a Record for every object that is more than data."""
    try:
        return Unpickler(io.BytesIO(base64.b64decode(attribute[":serialized:"])), records=True).load()
    except Exception:  # as above
        return None
