"""Every ``.policy`` of the repository gives the bits it always gave, by the engine and by the reference.

``stored.json`` holds digests of what the version that stored them answered. `python tests/policy/test_stored.py` prints
those of the version at hand: for new files only, never to let a change pass. The files of ``stored/`` were made once,
of random weights (now `policypress.testing.activated`), three for each activation: in integers behind layers, behind a
pool, inside a residual block and behind it, and in float32.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import policypress as pp
from policypress.policy.activations import FUNCTIONS
from policypress.policy.ops import Activation, walk

ROOT = Path(__file__).parents[2]
DIGESTS = Path(__file__).with_name("stored.json")
FOLDERS = (ROOT / "results", Path(__file__).with_name("stored"))
STORED = {str(path.relative_to(ROOT)): path for folder in FOLDERS for path in sorted(folder.rglob("*.policy"))}
COUNT, LARGE_COUNT = 1_000, 64  # observations, and of images


def digest(policy: pp.Policy, *, reference: bool) -> str:
    """SHA-256 of outputs and actions for 1,000 observations, half of them far outside of what training saw."""
    shape, random = policy.observation.shape, np.random.default_rng(0)
    if policy.observation.image:
        observations = random.integers(0, 256, (LARGE_COUNT, *shape)).astype(policy.observation.dtype)
    else:
        wide = np.repeat([1.0, 30.0], COUNT // 2).reshape(-1, *[1] * len(shape))
        observations = (random.standard_normal((COUNT, *shape)) * wide).astype(policy.observation.dtype)
    if reference:
        observations = observations[:: max(1, len(observations) // 32)]
    found = hashlib.sha256()
    found.update(policy.outputs(observations, reference=reference).tobytes())
    found.update(policy.predict(observations, reference=reference)[0].tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", STORED)
def test_a_stored_policy_keeps_its_bits(name: str) -> None:
    policy, kept = pp.load(STORED[name]), json.loads(DIGESTS.read_text())
    assert [digest(policy, reference=reference) for reference in (False, True)] == kept[name]


def test_every_activation_is_stored() -> None:
    found = {
        (op.function, policy.numerics)
        for path in STORED.values()
        for policy in [pp.load(path)]
        for op in walk(policy.ops)
        if isinstance(op, Activation)
    }
    assert found >= {(name, numerics) for name in FUNCTIONS for numerics in ("integer", "weight-only")}


if __name__ == "__main__":
    print(
        json.dumps(
            {
                name: [digest(pp.load(path), reference=reference) for reference in (False, True)]
                for name, path in STORED.items()
            },
            indent=1,
        )
    )
