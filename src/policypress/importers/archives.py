"""Archives that PyTorch writes, read without running what they could hide."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policypress.errors import PolicypressError, RunError, UnsupportedError
from policypress.files import is_zipped
from policypress.importers.opened import MAX_BYTES
from policypress.importers.pickles import Record, Unpickler
from policypress.policy.ops import MAX_VALUES

_ENTRIES = 10_000
_DEPTH = 16
_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def check_archive(path: Path) -> None:
    """Raises RunError for a damaged archive, UnsupportedError for one that unpacks to more than a policy."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > MAX_BYTES or len(entries) > _ENTRIES:
                raise UnsupportedError(
                    f"{path} unpacks to {size >> 20:,} MB in {len(entries):,} files: that is no policy that can be "
                    "pressed."
                )
            damaged = archive.testzip()
    except UnsupportedError:
        raise
    except Exception as error:  # zipfile's, zlib's and struct's own
        raise RunError(f"{path} is damaged, or not all of it is there: copy or export it again.") from error
    if damaged is not None:
        raise RunError(f"{path} is damaged ({damaged!r}): copy or export it again.")


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor in a file of torch.save, by where it is in there: "model_state_dict.actor.0.weight", and in a tuple
    "#0.fc1.weight".

    What torch's own reader of plain data refuses is read by one that knows tensors, and makes nothing of any other
    object. Raises RunError for a file that cannot be read, UnsupportedError for tensors that no policy has.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UnsupportedError(f"{path} has more than {MAX_BYTES >> 20} MB: that is no policy that can be pressed.")
    archived = is_zipped(path)
    if archived:
        check_archive(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's and pickle's own, of many kinds
        if not archived:
            raise RunError(
                f"{path} holds more than tensors, or is damaged: save the policy's state dict alone, by torch.save."
            ) from error
        held = _restricted(path)
    found: dict[str, NDArray[Any]] = {}
    _collect(path, held, "", found, 0)
    return found


def _collect(path: Path, value: Any, name: str, found: dict[str, NDArray[Any]], depth: int) -> None:
    if isinstance(value, torch.Tensor):
        if value.numel() > MAX_VALUES:
            raise UnsupportedError(f"{path}: {name} holds {value.numel():,} values: that is no policy.")
        if value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized:
            found[name] = value.detach().to(torch.float64 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    elif isinstance(value, np.ndarray):
        found[name] = value
    elif isinstance(value, Mapping | list | tuple) and depth < _DEPTH:
        items = value.items() if isinstance(value, Mapping) else ((f"#{i}", one) for i, one in enumerate(value))
        for key, inner in items:
            if isinstance(key, str | int):
                _collect(path, inner, f"{name}.{key}" if name else str(key), found, depth + 1)
    elif isinstance(value, Record):
        _collect(path, value.state, name, found, depth + 1)


def _restricted(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
            return _Tensors(archive, name).load()
    except PolicypressError:
        raise
    except Exception as error:  # arbitrary bytes can make an unpickler raise anything
        raise RunError(
            f"{path} cannot be read without running what it holds: save the policy's state dict alone, by torch.save."
        ) from error


class _Storage:
    """A storage's name, in place of the class."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Tensors(Unpickler):
    """Knows tensors too, as arrays; whatever else there is becomes a Record, and nothing is called."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)), records=True)
        self._archive, self._folder = archive, name.rpartition("/")[0]

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return lambda text, _: str(text).encode("latin1")
        if module == "builtins" and name not in ("dict", "set", "frozenset"):  # bytes(10**12) is not data
            return type(name, (Record,), {})
        if module.partition(".")[0] == "numpy" and name == "_reconstruct":
            return lambda *_: np.zeros(0)  # its state brings shape and values
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(count, int):
            raise pickle.UnpicklingError("no storage")
        data = self._archive.read(f"{self._folder}/data/{key}")
        return np.frombuffer(data, _STORAGES[storage.name])[:count]


def _rebuilt(storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> NDArray[Any]:
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if not isinstance(storage, np.ndarray) or min((offset, *shape, *stride), default=0) < 0:
        raise pickle.UnpicklingError("no tensor")
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if count > MAX_VALUES or (count and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor beyond its storage")
    if not count:
        return np.zeros(shape, storage.dtype)
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()
