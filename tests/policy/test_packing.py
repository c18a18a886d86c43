"""Packed files: the smallest that ``load`` opens; and bare payloads, which need their contract again."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

import policypress as pp
from policypress.errors import ArtifactError, PolicypressError, UnsupportedError
from policypress.policy import artifact
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.packing import encode_contract
from policypress.policy.policy import Numerics, Policy
from policypress.testing import NUMERICS, Kind, make_policy, random_observations

KINDS: tuple[Kind, ...] = ("vector", "image", "tanh")
RESULTS = Path(__file__).parents[2] / "results"
START = len(artifact.PACKED_MAGIC) + 1


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:4]


def refused(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as error:
        Policy.from_bytes(data)
    assert str(error.value).endswith(".")


def same_contract(ours: Policy, theirs: Policy) -> None:
    assert encode_contract(ours.observation, ours.action, ours.baseline_bytes) == encode_contract(
        theirs.observation, theirs.action, theirs.baseline_bytes
    )


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_policies_act_as_they_did(numerics: Numerics, kind: Kind) -> None:
    policy = canonical(make_policy(numerics, kind, 8, seed=3, vectors=True))
    data = artifact.pack(policy)
    back = Policy.from_bytes(data)
    same_contract(back, policy)
    assert artifact.pack(back) == data
    observations = random_observations(policy, 20, seed=9)
    assert back.outputs(observations).tobytes() == policy.outputs(observations).tobytes()
    assert back.predict(observations)[0].tobytes() == policy.predict(observations)[0].tobytes()
    assert (back.provenance, back.results, back.test_vectors) == ({}, {}, None)
    moments = policy.observation.normalization
    numbers = 0 if moments is None else 16 * moments.mean.size + 16
    bounds = 8 * policy.layers[-1].bias.size
    assert len(data) - len(artifact.encode_payload(back)) < 30 + bounds + numbers
    Policy.from_bytes(artifact.encode(back))


def test_the_contract_of_a_trained_policy_takes_tens_of_bytes() -> None:
    policy = Policy.load(RESULTS / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    assert len(artifact.pack(policy)) == pp.size(policy).payload_bytes + 19
    packed = pp.size(Policy.from_bytes(artifact.pack(policy)))
    assert packed.payload_bytes == pp.size(policy).payload_bytes
    assert [layer.name for layer in packed.layers] == ["layer 0", "layer 1", "layer 2"]


@pytest.mark.parametrize(
    "action",
    [
        ActionTransform("discrete", dtype="int64", start=0),
        ActionTransform("discrete", dtype="int64", start=-7),
        ActionTransform("discrete", dtype="int64", start=2**31 - 1),
        ActionTransform("multi-discrete", (2,), "int64", nvec=(1, 2)),
        ActionTransform("multi-binary", (3,), "int64"),
        *(
            ActionTransform("box", shape, dtype, squash, *(np.full(shape, bound, np.float32) for bound in (low, high)))
            for shape in ((3,), (3, 1))
            for dtype, squash, low, high in (
                ("float32", True, -1, 1), ("float64", False, -np.inf, np.inf), ("float32", False, -0.0, 0.0),
                ("float64", True, -1e-45, 3e37),
            )
        ),
        ActionTransform("box", (3,), low=np.array([-1, -0.0, 0], np.float32), high=np.array([1, 2, 3], np.float32)),
        ActionTransform("box", (3,), low=np.array([0.0, -0.0, 0], np.float32), high=np.ones(3, np.float32)),
    ],
    ids=str,
)  # fmt: skip
def test_contracts_come_back_bit_for_bit(action: ActionTransform) -> None:
    for baseline in (1, 127, 128, 2**56 - 1):
        comes_back(action, baseline)


def comes_back(action: ActionTransform, baseline: int) -> None:
    policy = make_policy("integer", "vector", 4)
    outputs = policy.layers[-1].weight.shape[0]
    assert outputs == 3
    policy = dataclasses.replace(policy, action=action, baseline_bytes=baseline)
    back = Policy.from_bytes(artifact.pack(policy))
    assert (back.baseline_bytes, back.action.kind, back.action.shape) == (baseline, action.kind, action.shape)
    assert (back.action.dtype, back.action.squash, back.action.start) == (action.dtype, action.squash, action.start)
    assert back.action.nvec == action.nvec
    for ours, theirs in ((back.action.low, action.low), (back.action.high, action.high)):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.tobytes() == theirs.tobytes()


def test_what_has_no_place_is_refused() -> None:
    policy = dataclasses.replace(make_policy("integer", "vector"), baseline_bytes=2**56)
    with pytest.raises(PolicypressError, match="has no place for the number"):
        artifact.pack(policy)


def test_every_damage_is_refused() -> None:
    data = artifact.pack(make_policy("integer", "vector", 8))
    for end in range(len(data)):
        refused(data[:end], "truncated|not a policy file|checksum")
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        refused(bytes(changed), "not a policy file|version|checksum")
    refused(data + b"\0", "checksum")


def test_damage_with_a_right_checksum_is_a_policy_or_refused() -> None:
    policy = make_policy("integer", "vector", 8)
    policy = dataclasses.replace(policy, observation=dataclasses.replace(policy.observation, normalization=None))
    contract = encode_contract(policy.observation, policy.action, policy.baseline_bytes)
    data = artifact.pack(policy)[:-4]
    for at, value in itertools.product(range(len(contract)), (0, 1, 2, 4, 8, 16, 64, 127, 128, 255)):
        changed = contract[:at] + bytes([value]) + contract[at + 1 :]
        try:
            back = Policy.from_bytes(sealed(data[:START] + changed + data[START + len(contract) :]))
        except ArtifactError:
            continue
        again = encode_contract(back.observation, back.action, back.baseline_bytes)
        assert again == changed, "another spelling of the same contract"


def test_other_spellings_of_a_contract_are_refused() -> None:
    policy = dataclasses.replace(make_policy("integer", "vector", 8), baseline_bytes=5)
    contract = encode_contract(policy.observation, policy.action, 5)
    data = artifact.pack(policy)[:-4]
    rest = data[START + len(contract) :]
    assert contract[-1] == 5
    refused(sealed(data[:START] + contract[:-1] + b"\x85\x00" + rest), "contract is not written as it should be")
    refused(sealed(data[:START] + contract[:-1] + b"\x85" * 9 + rest), "contract is malformed")
    refused(sealed(data[:START] + contract[:5]), "ends before its contents do")
    refused(sealed(artifact.PACKED_MAGIC + b"\x02" + contract + rest), "packed in version 2, but")


@pytest.mark.parametrize(
    "contract",
    [
        b"\x00\x01" + b"\xff\xff\xff\xff\x07" + b"\x01" + b"\x00\x03" + b"\xff\xff\xff\xff\x07" * 3 + b"\x05",
        b"\x10\x03" + b"\xff\xff\xff\xff\x07" * 3 + b"\x01",
        b"\x00\x01\x03\x01" + b"\x02" + b"\xff\xff\x03" + b"\x01" * 65_535 + b"\x05",
    ],
    ids=["actions", "statistics", "groups"],
)
def test_hostile_sizes_allocate_little(contract: bytes) -> None:
    import tracemalloc

    data = sealed(artifact.PACKED_MAGIC + b"\x01" + contract + b"\x00" * 8)
    tracemalloc.start()
    with pytest.raises(ArtifactError):
        Policy.from_bytes(data)
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    tracemalloc.stop()


# Bare payloads


def test_a_bare_payload_says_what_it_lacks(tmp_path: Path) -> None:
    policy = Policy.load(RESULTS / "HalfCheetah-v5" / "keep-cheetah" / "policy.policy")
    (tmp_path / "x.bin").write_bytes(artifact.encode_payload(policy))
    with pytest.raises(ArtifactError, match=r"is a bare payload, without the contract.*: open it with Policy.from_p"):
        pp.load(tmp_path / "x.bin")
    low, high = -np.ones(6, np.float32), np.ones(6, np.float32)
    back = Policy.from_payload(
        (tmp_path / "x.bin").read_bytes(),
        ObservationTransform((17,), "float64"),
        ActionTransform("box", (6,), squash=True, low=low, high=high),
    )
    observations = random_observations(policy, 50)
    assert back.predict(observations)[0].tobytes() == policy.predict(observations)[0].tobytes()
    assert back.baseline_bytes == 4 * sum(layer.weight.size + layer.bias.size for layer in policy.layers)


def test_a_payload_and_another_contract() -> None:
    payload = artifact.encode_payload(make_policy("integer", "vector"))
    observation = ObservationTransform((99,), "float32")
    with pytest.raises(UnsupportedError):
        Policy.from_payload(payload, observation, ActionTransform("discrete", dtype="int64"))
    with pytest.raises(ArtifactError):
        Policy.from_payload(payload[:-3], observation, ActionTransform("discrete", dtype="int64"))
