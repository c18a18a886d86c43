"""Exports to C that take float32 or int16 where the policy takes float64: the same bits, for the same numbers."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policypress.errors import ConfigError, UnsupportedError
from policypress.export.c import CExportConfig, export_c
from policypress.export.c_int16 import Int16, int16_of
from policypress.export.compile import CompiledPolicy
from policypress.policy import reference
from policypress.policy.policy import Policy
from policypress.testing import make_policy, random_observations, random_policy, with_zero_points

CONFIG = CExportConfig("net", check=False)
ALL = np.arange(-(2**15), 2**15)

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="There is no C compiler: install gcc.")


def plain() -> Policy:
    policy = make_policy("integer", "vector")
    return dataclasses.replace(policy, observation=dataclasses.replace(policy.observation, normalization=None))


POLICIES = {
    "normalized": lambda: make_policy("integer", "vector"),
    "plain": plain,
    "zero points": lambda: with_zero_points(plain(), 300, 0, -9000, 1),
    "13 bits": lambda: random_policy(14, "integer"),
}


def wanted(how: Int16, policy: Policy, codes: np.ndarray) -> np.ndarray:
    x = (codes.astype(np.float32) * how.scale).reshape(len(codes), *policy.observation.shape)
    return policy.outputs(x.astype(policy.observation.dtype), reference=True)


@needs_cc
@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("scale", [None, (0.01,)])
def test_int16_codes_are_answered_as_the_numbers_that_they_are_worth(
    kind: str, scale: tuple[float, ...] | None, tmp_path: Path
) -> None:
    policy = POLICIES[kind]()
    report = export_c(
        policy, tmp_path / "net", dataclasses.replace(CONFIG, check=True, observation="int16", observation_scale=scale)
    )
    assert report.check.startswith("self test passed")
    built = CompiledPolicy(tmp_path / "net", flags=("-O1",))
    how, size = int16_of(policy, scale), int(np.prod(policy.observation.shape))
    codes = np.random.default_rng(0).integers(-(2**15), 2**15, (4000, size)).astype(np.int16)
    codes[:2] = [[-(2**15)], [2**15 - 1]]
    shaped = codes.reshape(-1, *policy.observation.shape)
    outputs = wanted(how, policy, codes)
    assert built.outputs(shaped).tobytes() == outputs.tobytes()
    assert built.predict(shaped).tobytes() == reference.act(policy.action, outputs).tobytes()
    assert len(np.unique(outputs, axis=0)) > 100


@given(st.integers(0, 10_000), st.floats(1e-6, 0.1))
@settings(max_examples=20, deadline=None)
def test_every_code_of_every_input_is_known(seed: int, scale: float) -> None:
    policy = random_policy(seed, "integer")
    try:
        how = int16_of(policy, (scale,))
    except (UnsupportedError, ConfigError):
        return
    codes = np.broadcast_to(ALL[:, None], (len(ALL), len(how.scale)))
    x = how.values(codes).reshape(-1, *policy.observation.shape)
    assert policy.input is not None
    expected = reference.quantize_input(policy.input, reference.observe(how.policy.observation, x))
    assert np.array_equal(how.input_codes(codes), expected.reshape(len(codes), -1))


@pytest.mark.parametrize("kind", POLICIES)
def test_without_scales_codes_span_what_is_told_apart(kind: str) -> None:
    policy = POLICIES[kind]()
    assert policy.input is not None
    how, huge = int16_of(policy, None), np.full((1, *policy.observation.shape), 1e30)
    found = how.input_codes(np.broadcast_to(ALL[[0, -1]][:, None], (2, len(how.scale))))
    ends = [reference.quantize_input(policy.input, reference.observe(policy.observation, x)) for x in (-huge, huge)]
    reached = [row == end.ravel() for row, end in zip(found, ends, strict=True)]
    # One end may be nearer to zero than the other, by which the code is scaled.
    assert (reached[0] | reached[1]).all()
    assert kind not in ("plain", "13 bits") or (reached[0] & reached[1]).all()
    x = np.float64([[1.0] * len(how.scale)]) * how.scale * 1234.4
    assert (how.nearest(x) == 1234).all()


@needs_cc
@pytest.mark.parametrize("numerics", ["integer", "weight-only", "float"])
def test_float32_observations_are_exact(numerics: str, tmp_path: Path) -> None:
    policy = make_policy(numerics, "vector", vectors=True)  # type: ignore[arg-type]
    report = export_c(policy, tmp_path / "net", dataclasses.replace(CONFIG, check=True, observation="float32"))
    assert (report.observation, report.check[:16]) == ("float32", "self test passed")
    assert "typedef float net_observation;" in (tmp_path / "net/include/net.h").read_text()
    seen = random_observations(policy, 300, seed=1).astype(np.float32)
    built = CompiledPolicy(tmp_path / "net", flags=("-O1",))
    outputs = policy.outputs(seen.astype(np.float64), reference=True)
    assert built.outputs(seen).tobytes() == outputs.tobytes()


def test_an_integer_front_has_no_float(tmp_path: Path) -> None:
    export_c(plain(), tmp_path / "net", dataclasses.replace(CONFIG, observation="int16"))
    text = (tmp_path / "net/src/net.c").read_text()
    front = text[text.index("/* Codes of an observation") : text.index("static const engine_step steps")]
    assert "float" not in front
    assert "#define ENGINE_OBSERVES" in text
    assert "#define NET_OBSERVATION_SCALES {" in (tmp_path / "net/include/net.h").read_text()


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not here.")
def test_int16_leaves_float64_routines_out(tmp_path: Path) -> None:
    def symbols(observation: str | None) -> str:
        export_c(
            make_policy("integer", "vector"), tmp_path / "net", dataclasses.replace(CONFIG, observation=observation)
        )
        arm = ["CC=arm-none-eabi-gcc", "AR=arm-none-eabi-ar", "CFLAGS=-Os -mthumb -mcpu=cortex-m0"]
        subprocess.run(["make", "-s", "-C", tmp_path / "net", "lib", *arm], check=True)
        command = ["arm-none-eabi-nm", "-u", tmp_path / "net/build/net.o"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "__aeabi_ddiv" in symbols(None)  # of normalization
    assert "__aeabi_d" not in symbols("int16")


@pytest.mark.parametrize(
    ("settings", "error", "what"),
    [
        ({"observation": "int8"}, ConfigError, r"^observation='int8' is not known: use float64, float32, int16\.$"),
        ({"observation": "int16", "integer_only": True}, ConfigError, "integer_only takes codes"),
        ({"observation_scale": (1.0,)}, ConfigError, "observation=int16"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(settings: dict, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        CExportConfig(**settings)


@pytest.mark.parametrize(
    ("policy", "scale", "what"),
    [
        (make_policy("float", "vector"), None, "for integer numerics that take floats, not float numerics"),
        (make_policy("integer", "image"), None, "takes uint8"),
        (make_policy("integer", "vector"), (1.0, 2.0), "has 2 numbers: give one for each of 5 inputs, or one"),
        (make_policy("integer", "vector"), (-1.0,), "positive"),
        (make_policy("integer", "vector"), (1e35,), "32,768"),
        (make_policy("integer", "vector"), (float("nan"),), "positive"),
    ],
)  # fmt: skip
def test_what_has_no_int16_is_refused(policy: Policy, scale: tuple[float, ...] | None, what: str) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=what):
        int16_of(policy, scale)
