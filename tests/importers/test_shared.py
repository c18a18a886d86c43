"""Other people's policies, where they are there: as many are understood as were, and the others stay black boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from importers.models import apart, opened

SHARED = Path(__file__).resolve().parents[3] / "shared"
UNDERSTOOD = {
    "policies/holosoma_g1_fastsac.onnx": (100, 29),
    "policies/mjlab_g1_velocity/policy.onnx": (96, 29),
    "policies/tron1/encoder.onnx": (300, 3),
    "policies/tron1/policy.onnx": (36, 6),
    "policies/booster_t1.pt": (47, 12),
    "policies/rl_sar_go2.pt": (45, 12),
    "robots/go1/policy.onnx": (48, 12),
}
BLACK_BOXES = {
    "policies/rl_sar_lite3_him.pt": (270, 12, "aten::norm"),
}
pytestmark = pytest.mark.skipif(not (SHARED / "policies").is_dir(), reason="the policies of others are not here")


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_understood(name: str) -> None:
    found = opened(SHARED / name)
    inputs, outputs = UNDERSTOOD[name]
    assert found.shape == (inputs,)
    assert apart(found, scale=1.0) < 1e-5
    assert found.chain is not None
    assert found.chain.outputs == outputs


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_black_boxes(name: str) -> None:
    found = opened(SHARED / name)
    inputs, outputs, first = BLACK_BOXES[name]
    assert (found.shape, found.policy) == ((inputs,), None)
    assert first in found.unknown
    assert found.run(np.zeros((3, inputs), np.float32)).shape == (3, outputs)


def test_metadata_of_a_humanoid() -> None:
    found = opened(SHARED / "policies/holosoma_g1_fastsac.onnx").metadata
    assert [len(found[name]) for name in ("joint_names", "kp", "kd")] == [29, 29, 29]


def test_a_recurrent_policy_can_be_reset() -> None:
    found = opened(SHARED / "robots/g1/motion.pt")
    assert (found.shape, found.policy) == ((47,), None)
    assert found.steps is not None
    module = torch.jit.load(str(SHARED / "robots/g1/motion.pt"))
    walk, states = np.random.default_rng(0).normal(size=(50, 1, 47)).astype(np.float32), [None]
    for x in walk:  # another episode beside it changes nothing
        found.run(-x)
        answer, states = found.steps(x, states)  # type: ignore[assignment]
        with torch.no_grad():
            np.testing.assert_array_equal(answer, module(torch.from_numpy(x)).numpy())
