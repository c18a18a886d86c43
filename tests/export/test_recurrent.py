"""Policies that remember, exported: ``reset`` and the state in C, ``h_in`` and ``h_out`` in ONNX, ``verify``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from policypress.errors import UnsupportedError
from policypress.export.c import CExportConfig, export_c
from policypress.export.onnx import check_onnx, encode_onnx
from policypress.export.verify import verify
from policypress.policy.observations import random_observations
from policypress.policy.policy import Policy
from policypress.testing import make_policy, random_recurrent_policy

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
PROGRAM = """
#include <stdio.h>
#include "mind.h"

int main(void) {
    mind_observation observation[MIND_OBSERVATION_SIZE];
    mind_state state[MIND_STATE_SIZE];
    mind_action action[MIND_ACTION_SIZE];
    mind_reset(state);
    for (int step = 0; step < STEPS; step++) {
        if (step == AGAIN)
            mind_reset(state);
        if (fread(observation, sizeof observation, 1, stdin) != 1 || mind_predict(observation, state, action))
            return 1;
        fwrite(action, sizeof action, 1, stdout);
    }
    return 0;
}
"""


def box_policy(seed: int) -> Policy:
    while True:
        policy = random_recurrent_policy(seed, "integer")
        if policy.action.kind == "box" and sum(layer.weight.size for layer in policy.layers) < 20_000:
            return policy
        seed += 1


@needs_compiler
def test_a_program_keeps_the_state_and_resets_it(tmp_path: Path) -> None:
    policy, steps, again = box_policy(0), 6, 4
    export_c(policy, tmp_path / "mind", CExportConfig("mind", check=False))
    (tmp_path / "main.c").write_text(PROGRAM.replace("STEPS", str(steps)).replace("AGAIN", str(again)))
    command = [
        "cc",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffp-contract=off",
        "-Imind/include",
        "main.c",
        "mind/src/mind.c",
    ]
    subprocess.run([*command, "-o", "run"], cwd=tmp_path, check=True)
    seen, state, wanted = random_observations(policy, steps, 0), None, b""
    for step, observation in enumerate(seen):
        action, state = policy.predict(observation, state, np.array([step == again]))
        wanted += action.tobytes()
    found = subprocess.run([tmp_path / "run"], input=seen.tobytes(), capture_output=True, check=True).stdout
    assert found == wanted


def test_a_policy_without_a_state_has_none_in_c(tmp_path: Path) -> None:
    export_c(make_policy("integer", "vector"), tmp_path / "plain", CExportConfig("plain", check=False))
    header, source = ((tmp_path / "plain" / file).read_text() for file in ("include/plain.h", "src/plain.c"))
    assert "_state" not in header
    assert "plain_reset" not in source
    assert "#define ENGINE_USE_STATE 0" in source


@needs_compiler
@pytest.mark.parametrize("numerics", ["integer", "weight-only", "float"])
def test_verify_asks_in_one_episode(numerics: str) -> None:
    pytest.importorskip("onnxruntime")
    found = verify(random_recurrent_policy(11, numerics), vectors=24)  # type: ignore[arg-type]
    assert found.holds
    ran = {row.engine for row in found.rows if row.holds}
    assert ran >= {"native engine", "portable engine", "compiled C", "ONNX Runtime, exact"}


def test_a_graph_takes_and_gives_the_state() -> None:
    onnx = pytest.importorskip("onnx")
    policy = random_recurrent_policy(0, "integer")
    graph = onnx.load_from_string(encode_onnx(policy)).graph
    assert [value.name for value in graph.input] == ["observation", "h_in"]
    assert [value.name for value in graph.output] == ["action", "outputs", "h_out"]
    sizes = [value.type.tensor_type.shape.dim[1].dim_value for value in (graph.input[1], graph.output[2])]
    assert sizes == [policy.state_size] * 2
    assert check_onnx(policy, encode_onnx(policy)).holds


def test_a_graph_that_forgets_is_found() -> None:
    onnx = pytest.importorskip("onnx")
    policy = random_recurrent_policy(0, "integer")
    model = onnx.load_from_string(encode_onnx(policy))
    (last,) = [node for node in model.graph.node if "h_out" in node.output]
    last.output[0] = "kept"
    model.graph.node.append(onnx.helper.make_node("Identity", ["h_in"], ["h_out"]))
    report = check_onnx(policy, model.SerializeToString())
    assert not report.holds
    assert report.worst.place == "state"


def test_style_qdq_says_that_it_has_no_form() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UnsupportedError, match=r"no form of a recurrent cell or a history: export with style exact"):
        encode_onnx(random_recurrent_policy(1, "integer"), "qdq")
