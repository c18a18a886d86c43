"""Every function of policy/activations.py in the engine and in exported C: the reference's bits, wherever it stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from policypress.export.c import WEIGHTS, CExportConfig, export_c
from policypress.export.compile import CompiledIntegers, CompiledPolicy, check_folder, compiler
from policypress.policy import reference
from policypress.policy.activations import FUNCTIONS
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation, Layer
from policypress.policy.policy import Numerics, Policy
from policypress.runtime import native
from policypress.runtime.lower import lower
from policypress.runtime.structures import Finish, Kind
from policypress.testing import NUMERICS, Builder, every_function, random_observations

needs_cc = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("portable", [True, False])
def test_the_engine_has_every_function(numerics: Numerics, image: bool, portable: bool) -> None:
    for bits in range(2, 9):
        policy = every_function(numerics, bits, bits, image)
        batch = random_observations(policy, 40, bits)
        found = native.make_engine(policy, portable=portable).outputs(batch)
        assert found is not None
        assert found.tobytes() == policy.outputs(batch, reference=True).tobytes()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_of_floats_are_those_of_the_table(function: str) -> None:
    """Whatever the bits of the argument are."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 2**32, 2**15, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x[np.abs(x) < 1e38], rng.normal(size=2**15) * 4, [0.0, -0.0, 1e-45, -1e-45]]).astype(np.float32)
    one = np.ones(1, np.float32)

    def same(name: str) -> Layer:
        return Layer(np.ones((1, 1), np.float32), np.zeros(1, np.float32), 32, one, False, name=name)

    usual = FUNCTIONS[function].usual
    for parameters in (usual, tuple(1.7 * value for value in usual)):
        op = Activation(function, parameters=parameters)
        policy = Policy(
            (same("first"), op, same("last")),
            ObservationTransform((1,), "float32"),
            ActionTransform("box", (1,), low=-one, high=one),
            None,
            baseline_bytes=4,
        )
        with np.errstate(all="ignore"):
            values = op.values(x)
        values, legal = values[np.isfinite(values)], x[np.isfinite(values)]
        found = native.make_engine(policy).outputs(legal[:, None])
        assert found is not None
        assert found.tobytes() == (values + np.float32(0)).tobytes()


def test_a_function_behind_a_layer_is_its_finish() -> None:
    b = Builder("integer", 8, 1, True)
    for function, finish in (("tanh", Finish.TABLE), ("softsign", Finish.TABLE), ("gelu", Finish.BYTES)):
        op = Activation(function, 1 / 32, 8, 200)
        first = limited(b.layer(9, 7, role="signed", name="first"), -200, 100)
        last = b.layer(4, 9, role="raw", name="last")
        policy = dataclasses.replace(every_function("integer", 8, 1), ops=(first, op, last))
        steps = lower(policy).steps
        assert [step.kind for step in steps] == [Kind.LAYER, Kind.LAYER]
        assert steps[0].finish == finish
        assert steps[0].table is not None
        assert len(steps[0].table) == (201 if finish == Finish.TABLE else 301)
        twice = dataclasses.replace(policy, ops=(first, op, Activation("mish", 1 / 8, 8, 255), policy.ops[-1]))
        assert [step.kind for step in lower(twice).steps] == [Kind.LAYER, Kind.LOOK_UP, Kind.LAYER]


def limited(layer: Layer, low: int, high: int) -> Layer:
    """The layer with codes from ``low`` to ``high``."""
    assert layer.requantize is not None
    return dataclasses.replace(layer, requantize=dataclasses.replace(layer.requantize, low=low, high=high))


def assert_compiled_agrees(policy: Policy, folder: Path, flags: tuple[str, ...] = ("-O2",)) -> None:
    """Exported with every form of weights that is taken for it."""
    batch = random_observations(policy, 20, 1)
    for weights in (WEIGHTS[0], WEIGHTS[-1]) if policy.input is not None else WEIGHTS[:1]:
        export_c(policy, folder / weights, CExportConfig(name="functions", weights=weights, check=False))
        compiled = CompiledPolicy(folder / weights, flags=flags)
        assert compiled.self_test() == 0
        assert compiled.outputs(batch).tobytes() == policy.outputs(batch, reference=True).tobytes()


@needs_cc
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("numerics", NUMERICS)
def test_exported_c_has_every_function(numerics: Numerics, image: bool, tmp_path: Path) -> None:
    assert_compiled_agrees(every_function(numerics, 7, 1, image), tmp_path)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("numerics", NUMERICS)
def test_exported_c_has_every_function_in_all_bits(numerics: Numerics, tmp_path: Path) -> None:
    for bits in range(2, 9):
        for image in (False, True):
            folder = tmp_path / f"{bits}{image}"
            assert_compiled_agrees(every_function(numerics, bits, bits + 10, image), folder)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("numerics", NUMERICS)
def test_sanitizers_find_nothing(numerics: Numerics, tmp_path: Path) -> None:
    for bits in range(2, 9):
        policy = every_function(numerics, bits, bits + 20, bool(bits % 2))
        for weights in (WEIGHTS[0], WEIGHTS[-1]) if policy.input is not None else WEIGHTS[:1]:
            folder = tmp_path / f"{weights}{bits}"
            export_c(policy, folder, CExportConfig(name="functions", weights=weights, check=False))
            check_folder(folder, compiler() or [], SANITIZED)


@needs_cc
def test_exported_integers_have_every_function(tmp_path: Path) -> None:
    policy = every_function("integer", 8, 3)
    export_c(policy, tmp_path / "out", CExportConfig(name="functions", integer_only=True))
    compiled = CompiledIntegers(tmp_path / "out")
    assert compiled.self_test() == 0
    assert policy.input is not None
    batch = random_observations(policy, 20, 1)
    record: list[np.ndarray] = []
    reference.run(policy, reference.observe(policy.observation, batch), record)
    codes = reference.quantize_input(policy.input, batch).astype(np.int32)
    assert np.array_equal(compiled.run(codes), record[-1])
