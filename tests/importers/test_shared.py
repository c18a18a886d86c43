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


def test_a_recurrent_policy_is_understood_and_can_be_reset() -> None:
    """Over 1,000 steps, with other episodes between them."""
    found = opened(SHARED / "robots/g1/motion.pt")
    assert found.steps is not None
    assert found.policy is not None
    assert (found.shape, found.policy.state_size, found.rows()["memory"]) == ((47,), 128, "LSTM of 64 units")
    module = torch.jit.load(str(SHARED / "robots/g1/motion.pt"))
    walk, states, state = np.random.default_rng(0).normal(size=(1000, 1, 47)).astype(np.float32), [None], None
    wanted, ours = [], []
    for step, x in enumerate(walk):
        begins = step in (0, 300, 700)
        if begins:
            module.reset_memory()
        if step % 100 == 1:  # another episode beside it changes nothing
            found.run(-x)
        answer, states = found.steps(x, [None] if begins else states)  # type: ignore[assignment]
        own, state = found.policy.predict(x, state, np.array([begins]))
        with torch.no_grad():
            wanted.append(module(torch.from_numpy(x)).numpy().copy())
        np.testing.assert_array_equal(answer, wanted[-1])
        ours.append(own)
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * largest)
