"""Policy files (``*.policy``): strict, versioned, checksummed, little-endian, without pickle.

A file holds the payload (what runs), the card (what describes it) and the test vectors; a packed file the contract in
place of the card, and no more. ``docs/file-format.md`` describes both byte by byte.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ArtifactError, PolicypressError
from policypress.files import write_whole
from policypress.policy.canonical import canonical
from policypress.policy.card import Card, decode_card, encode_card
from policypress.policy.codec import Bytes
from policypress.policy.contract import ActionTransform, ObservationTransform, TestVectors
from policypress.policy.ops import parameters_of
from policypress.policy.packing import decode_contract, encode_contract
from policypress.policy.payload import decode_payload, encode_payload, payload_size

if TYPE_CHECKING:
    from policypress.policy.policy import Policy

__all__ = [
    "decode",
    "decode_payload",
    "encode",
    "encode_payload",
    "from_payload",
    "load",
    "pack",
    "payload_size",
    "save",
    "write",
]

MAGIC = b"\x89POLICY\n"  # not text, and damaged by a transfer that converts line ends
PACKED_MAGIC = b"\x89PP\n"
FORMAT_VERSION = 3
PACKED_VERSION = 1
MAX_FILE_BYTES = 2**27

_HEADER = struct.Struct("<8sHIII")  # magic, version, lengths of payload, card and test vectors
_COUNTS = struct.Struct("<II")  # test vectors, and outputs of each
_DIGEST_BYTES = 8
_PACKED_DIGEST_BYTES = 4
Make = Callable[..., "Policy"]
"""Makes a policy of its fields: the class itself, which is made on top of this module."""
_ZIP = b"PK\x03\x04"  # what Stable-Baselines3 saves agents as


def save(policy: Policy, path: str | Path) -> None:
    """Write ``policy`` to ``path``, at once or not at all.

    Raises PolicypressError if the file cannot be written, or as ``encode`` does.
    """
    write(encode(policy), path)


def write(data: bytes, path: str | Path) -> None:
    """Write ``data`` to ``path``, at once or not at all; raises PolicypressError if that is impossible."""
    try:
        write_whole(Path(path), data)
    except OSError as error:
        raise PolicypressError(f"Cannot write {path}: {error.strerror}.") from error


def load(path: str | Path, make: Make) -> Policy:
    """Policy in the file ``path``; raises ArtifactError if it cannot be read or is not a valid policy."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except IsADirectoryError as error:
        inside = Path(path) / "policy.policy"  # where runs leave it
        hint = f": give the file in it, {inside}" if inside.is_file() else ""
        raise ArtifactError(f"Cannot read {path}: {error.strerror}{hint}.") from error
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return _decode(data, make)
    except PolicypressError as error:
        raise ArtifactError(f"Cannot load {path}: {error}") from error


def encode(policy: Policy) -> bytes:
    """Bytes of a policy file; equal policies give equal bytes.

    Raises PolicypressError if provenance or results hold something else than JSON values, or if the policy is
    larger than a reader would accept.
    """
    payload, card, vectors = encode_payload(policy), encode_card(policy), _encode_vectors(policy.test_vectors)
    body = _HEADER.pack(MAGIC, FORMAT_VERSION, len(payload), len(card), len(vectors)) + payload + card + vectors
    data = body + _digest(body)
    if len(data) > MAX_FILE_BYTES:
        raise PolicypressError(f"The policy takes {len(data):,} bytes, but a file at most {MAX_FILE_BYTES:,}.")
    return data


def pack(policy: Policy) -> bytes:
    """Bytes of the smallest file that ``load`` opens: contract and payload of the canonical form of ``policy``.

    Names, trained shapes, provenance, results and test vectors are left out. Raises PolicypressError for a contract
    that has no place there.
    """
    policy = canonical(policy)
    contract = encode_contract(policy.observation, policy.action, policy.baseline_bytes)
    body = PACKED_MAGIC + bytes([PACKED_VERSION]) + contract + encode_payload(policy)
    return body + _digest(body)[:_PACKED_DIGEST_BYTES]


def from_payload(
    data: bytes, observation: ObservationTransform, action: ActionTransform, baseline_bytes: int | None, make: Make
) -> Policy:
    """Policy of a bare payload and the contract that it lacks.

    ``baseline_bytes``: the dense float32 network that ratios compare with; None: one of the payload's own shapes.
    Raises ArtifactError for bytes that are no payload, UnsupportedError for a contract that does not fit.
    """
    ops, quantization = decode_payload(data)
    if baseline_bytes is None:
        baseline_bytes = 4 * parameters_of(ops)
    return make(ops, observation, action, quantization, baseline_bytes)


def decode(data: bytes, make: Make) -> Policy:
    """Policy in the bytes that ``encode`` returned; raises ArtifactError for anything else."""
    try:
        return _decode(data, make)
    except PolicypressError as error:
        raise ArtifactError(f"Cannot decode the policy: {error}") from error


def _decode(data: bytes, make: Make) -> Policy:
    if data.startswith(PACKED_MAGIC):
        return _decode_packed(data, make)
    payload, card_bytes, vectors = _sections(data)
    card = decode_card(card_bytes)
    annotations = iter(card.annotations)
    ops, quantization = decode_payload(payload, annotations)
    if next(annotations, None) is not None:
        raise ArtifactError("its card describes more layers than it has.")
    return make(
        ops=ops,
        observation=card.observation,
        action=card.action,
        input=quantization,
        baseline_bytes=card.baseline_bytes,
        provenance=card.provenance,
        results=card.results,
        test_vectors=_decode_vectors(vectors, card),
    )


def _decode_packed(data: bytes, make: Make) -> Policy:
    start = len(PACKED_MAGIC) + 1
    if len(data) < start + _PACKED_DIGEST_BYTES:
        raise ArtifactError("it is truncated.")
    if (version := data[start - 1]) != PACKED_VERSION:
        raise ArtifactError(f"it is packed in version {version}, but this policypress reads version {PACKED_VERSION}.")
    body, digest = data[:-_PACKED_DIGEST_BYTES], data[-_PACKED_DIGEST_BYTES:]
    if _digest(body)[:_PACKED_DIGEST_BYTES] != digest:
        raise ArtifactError("it is truncated or altered: its checksum does not match.")
    contract = decode_contract(Bytes(body[start:]))
    encoded = encode_contract(*contract)
    if not body.startswith(encoded, start):
        raise ArtifactError("its contract is not written as it should be.")
    return from_payload(body[start + len(encoded) :], *contract, make)


def _sections(data: bytes) -> list[bytes]:
    """Payload, card and test vectors of a file whose frame is sound."""
    if data.startswith(_ZIP):
        raise ArtifactError("it is a zip and not a policy file; policypress compress presses agents in zips.")
    if not data.startswith(MAGIC):
        if _is_payload(data):
            raise ArtifactError(
                "it is a bare payload, without the contract of observations and actions: open it with "
                "Policy.from_payload, or pack the policy without --payload-only."
            )
        raise ArtifactError("it is not a policy file.")
    if len(data) < _HEADER.size:
        raise ArtifactError("it is truncated.")
    _, version, *lengths = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ArtifactError(f"it has format version {version}, but this policypress reads version {FORMAT_VERSION}.")
    expected = _HEADER.size + sum(lengths) + _DIGEST_BYTES
    if len(data) < expected:
        raise ArtifactError("it is truncated.")
    if len(data) > expected or _digest(data[:-_DIGEST_BYTES]) != data[-_DIGEST_BYTES:]:
        raise ArtifactError("it is altered: its checksum does not match.")
    reader = Bytes(data[_HEADER.size : -_DIGEST_BYTES])
    return [reader.take(length) for length in lengths]


def _is_payload(data: bytes) -> bool:
    try:
        return bool(decode_payload(data)[0])
    except PolicypressError:
        return False


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES]


def _encode_vectors(vectors: TestVectors | None) -> bytes:
    if vectors is None:
        return b""
    parts = [_COUNTS.pack(*vectors.outputs.shape)]
    for array in (vectors.observations, vectors.outputs, vectors.actions):
        parts.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return b"".join(parts)


def _decode_vectors(data: bytes, card: Card) -> TestVectors | None:
    if not data:
        return None
    reader = Bytes(data)
    count, outputs = _COUNTS.unpack(reader.take(_COUNTS.size))

    def array(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        stored = np.dtype(dtype).newbyteorder("<")
        size = math.prod(shape) * stored.itemsize
        return np.frombuffer(reader.take(size), stored).astype(dtype).reshape(shape)

    observation, action = card.observation, card.action
    vectors = TestVectors(
        observations=array(observation.dtype, (count, *observation.shape)),
        outputs=array("float32", (count, outputs)),
        actions=array(action.dtype, (count, *action.shape)),
    )
    reader.finish()
    return vectors
