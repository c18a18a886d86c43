"""The formats of other frameworks: how a file is recognized by what is in it, and what opens it.

Nothing but Python is needed to recognize a file: a library is imported when one of its own is opened.
"""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from policypress.errors import ConfigError, RunError, UnsupportedError
from policypress.extras import missing
from policypress.files import is_zipped
from policypress.policy.policy import Policy

if TYPE_CHECKING:
    from policypress.importers.opened import Opened

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch.save began before they were archives."""
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
_GRAPH = 7
_START = 2**16


@dataclass(frozen=True)
class Asked:
    """A file to open, and what it may not say itself: see ``config.Opening``. ``shape``: of one observation."""

    path: Path
    shape: tuple[int, ...] | None = None
    format: str = ""
    activation: str = ""
    output: str = ""
    metadata: str = ""


@dataclass(frozen=True)
class Format:
    """One format: its name, its word for ``--format``, what to give, whether a file is of it, and the function that
    opens it, module:name."""

    name: str
    word: str
    file: str
    recognizes: Callable[[Path], bool]
    opener: str

    def open(self, asked: Asked) -> Opened:
        """Raises PolicypressError, one sentence, for whatever is wrong with the file."""
        module, _, name = self.opener.partition(":")
        try:
            function: Callable[[Asked], Opened] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise RunError(f"{asked.path}: {missing(error.name or '')}") from error
        return function(asked)


def is_function(path: Path) -> bool:
    """Whether a path is none, but names a function: package.module:function."""
    return _FUNCTION.fullmatch(str(path)) is not None and not path.exists()


def is_onnx(path: Path) -> bool:
    """Whether a file is a model of ONNX: a message of protobuf whose fields are those of ModelProto."""
    if path.suffix.lower() == ".onnx":
        return True
    found, place = set(), 0
    data = path.read_bytes()[: 2**28]
    while place < len(data):
        key, place = _number(data, place)
        field, kind = key >> 3, key & 7
        if field not in _MODEL_FIELDS or kind not in (0, 2):
            return False
        found.add(field)
        length, place = _number(data, place)
        place += length if kind == 2 else 0
    return place == len(data) and _GRAPH in found


def is_archive(path: Path, holds: str) -> bool:
    """Whether a file is an archive of PyTorch that has a file called ``holds`` in its folder."""
    if not is_zipped(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.count("/") == 1 and name.endswith(f"/{holds}") for name in archive.namelist())
    except Exception:  # zipfile's and struct's own, of a damaged directory
        return False


def is_torchscript(path: Path) -> bool:
    return is_archive(path, "constants.pkl")


def is_weights(path: Path) -> bool:
    """Whether a file is one that torch.save wrote."""
    if is_archive(path, "data.pkl"):
        return not is_torchscript(path)
    with path.open("rb") as file:
        return file.read(len(_LEGACY)) == _LEGACY


def is_networks(path: Path) -> bool:
    """Whether a file is JSON or YAML that says how several networks are one policy."""
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        return False
    return re.search(rb'^\s*[{"]*networks"?\s*:', path.read_bytes()[:_START], re.M) is not None


FORMATS: tuple[Format, ...] = (
    Format("ONNX", "onnx", "an .onnx file", is_onnx, "policypress.importers.onnx_file:open_onnx"),
    Format(
        "TorchScript", "torchscript", "a file of torch.jit.save", is_torchscript,
        "policypress.importers.torchscript:open_torchscript",
    ),
    Format(
        "PyTorch", "weights", "a checkpoint or state dict of torch.save", is_weights,
        "policypress.importers.weights:open_weights",
    ),
    Format(
        "networks", "networks", "a JSON or YAML file that joins several", is_networks,
        "policypress.importers.networks:open_networks",
    ),
    Format(
        "Python", "function", "package.module:function", is_function, "policypress.importers.functions:open_function"
    ),
)  # fmt: skip


_TENSORFLOW = "a model of TensorFlow: convert it to ONNX with tf2onnx, and give that file"
_ARRAYS = "a file of arrays, without a program: export the policy to ONNX, or name a function, package.module:function"
_OTHERS = {
    ".pt2": "a program of torch.export: give what torch.onnx.export or torch.jit.trace makes of the module",
    ".safetensors": "a file of safetensors: give what torch.save(safetensors.torch.load_file(FILE), OUT) writes",
    **dict.fromkeys((".tflite", ".h5", ".hdf5", ".keras", ".pb"), _TENSORFLOW),
    **dict.fromkeys((".pkl", ".pickle", ".msgpack", ".npz", ".npy", ".joblib"), _ARRAYS),
}
"""Files that are not read, by how they end, and what to do."""
_EXPORTED = b'{"policypress": "'
"""How the description of a file begins that ``export --to tflite`` wrote."""


def check_readable(path: Path) -> None:
    """Raises UnsupportedError for a file that ends as those of formats do that are not read."""
    what = _OTHERS.get(path.suffix.lower())
    if what is None or not path.is_file() or is_weights(path) or is_torchscript(path):
        return
    if what is _TENSORFLOW and path.stat().st_size <= 2**28 and _EXPORTED in path.read_bytes():
        what = "an export of policypress to TensorFlow Lite: give the .policy file that it was exported from"
    raise UnsupportedError(f"{path} is {what}.")


def format_of(path: Path, word: str = "") -> Format | None:
    """The format of a file, by its content, or the one called ``word``; None for a file that is of none of them.

    Raises ConfigError for an unknown word, RunError for a file that is missing or cannot be read, UnsupportedError for
    one of a format that is known not to be read.
    """
    if word:
        for one in FORMATS:
            if one.word == word:
                return one
        raise ConfigError(f"format={word!r} is not one of {', '.join(one.word for one in FORMATS)}.")
    if is_function(path):
        return FORMATS[-1]
    if not path.is_file():
        return None
    try:
        check_readable(path)
        return next((one for one in FORMATS if one.recognizes(path)), None)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): give the file of a trained agent.") from error


def open_file(asked: Asked) -> Opened:
    """The policy in a file of another framework, with its metadata: the file's own, and those given over it.

    Raises PolicypressError, one sentence, for whatever is wrong with it.
    """
    from policypress.importers.metadata import read_metadata, settled

    found = format_of(asked.path, asked.format)
    if not is_function(asked.path) and not asked.path.is_file():
        raise RunError(f"there is no file {asked.path}: give {', or '.join(one.file for one in FORMATS)}.")
    if found is None:
        raise RunError(
            f"{asked.path} is of no format that is known: give {', or '.join(one.file for one in FORMATS)}, or say "
            "which of them it is with --format."
        )
    given = read_metadata(Path(asked.metadata)) if asked.metadata else {}
    if asked.shape is None and (told := given.get("observation_shape")) is not None:
        asked = replace(asked, shape=_shape(told))
    opened = found.open(asked)
    metadata = settled({**opened.metadata, **given})
    policy = opened.policy
    if policy is not None:
        told = {"format": opened.format, **({"metadata": metadata} if metadata else {})}
        policy = replace(policy, provenance=told)
    return replace(opened, metadata=metadata, policy=policy)


def load_policy(asked: Asked) -> Policy:
    """The policy in a ``.policy`` or packed file, or in float32 what a file of another framework was understood as.

    Raises ArtifactError for a file of no known format, UnsupportedError for a black box.
    """
    if not asked.format and format_of(asked.path) is None:
        return Policy.load(asked.path)
    opened = open_file(asked)
    if opened.policy is None:
        raise UnsupportedError(
            f"{asked.path} is a black box ({opened.unknown}): only a policy whose layers are understood can be frozen; "
            "distil it with policypress compress, and give the student's widths, for example --hidden 24,24."
        )
    return opened.policy


def _shape(told: object) -> tuple[int, ...]:
    sizes = told if isinstance(told, list) else [told]
    if not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise ConfigError(f"observation_shape={json.dumps(told)} must be whole numbers, for example [48].")
    return tuple(sizes)


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A varint of protobuf, and the place behind it; beyond the end where there is none."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7
    return 2, len(data) + 1
