"""The export to C: what it holds, that it compiles under strict warnings, and that it gives the reference's bits."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policypress import cli
from policypress.errors import ConfigError, ExportError, ObservationError, UnsupportedError
from policypress.export import c, identifier, name_of
from policypress.export.c import CExportConfig, export_c
from policypress.export.c_text import avr_limit, smallest
from policypress.export.compile import CompiledIntegers, CompiledPolicy, check_folder
from policypress.policy import load, reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Flatten, InputQuantization, MaxPool2d
from policypress.policy.policy import Policy
from policypress.testing import (
    NUMERICS,
    Builder,
    make_policy,
    random_observations,
    random_policy,
    stored_policies,
    thinned,
    with_zero_points,
)
from quick import quick

KINDS = ("vector", "image", "tanh")
RESULTS = stored_policies(Path(__file__).parents[2] / "results")
UNCHECKED = CExportConfig("net", check=False)

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="There is no C compiler: install gcc.")


def compilers():
    return [
        pytest.param([name], marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not here."))
        for name in ("gcc", "clang")
    ]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("numerics", NUMERICS)
def test_flash_is_known_without_an_export(numerics, tmp_path):
    policy = make_policy(numerics, "vector")
    assert c.flash_bytes(policy) == export_c(policy, tmp_path / "out", UNCHECKED).constant_bytes


@pytest.mark.parametrize("command", quick(compilers(), compilers()[:1]))
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", KINDS)
def test_exports_pass_their_self_test(numerics, kind, command, tmp_path):
    policy = make_policy(numerics, kind, bits=4, vectors=True)
    report = export_c(policy, tmp_path / "out", UNCHECKED)
    check_folder(tmp_path / "out", command, ("-O0",))
    assert report.vectors > 10
    if numerics == "integer":
        export_c(policy, tmp_path / "integers", dataclasses.replace(UNCHECKED, integer_only=True))
        check_folder(tmp_path / "integers", command, ("-O0",))


@pytest.mark.slow
@pytest.mark.parametrize("command", compilers())
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_bits_and_forms_pass_their_self_test(numerics, kind, command, tmp_path):
    for bits in range(2, 9):
        for weights in c.WEIGHTS if numerics == "integer" else ("auto",):
            policy = make_policy(numerics, kind, bits, seed=bits, per_output=bits % 2 == 0)
            export_c(policy, tmp_path / "out", dataclasses.replace(UNCHECKED, weights=weights))
            check_folder(tmp_path / "out", command)


@pytest.mark.slow
@pytest.mark.parametrize("command", compilers())
@pytest.mark.parametrize("name", RESULTS)
def test_trained_policies_pass_their_self_test(name, command, tmp_path):
    policy = load(RESULTS[name])
    export_c(policy, tmp_path / "out", UNCHECKED)
    check_folder(tmp_path / "out", command)
    if policy.input is not None:
        export_c(policy, tmp_path / "out", dataclasses.replace(UNCHECKED, integer_only=True))
        check_folder(tmp_path / "out", command)


@needs_cc
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_policies_give_the_same_bits(numerics, kind, tmp_path):
    policy = make_policy(numerics, kind, bits=3)
    export_c(policy, tmp_path / "out", UNCHECKED)
    built = CompiledPolicy(tmp_path / "out", flags=("-O1",))
    assert built.self_test() == 0
    seen = random_observations(policy, 200, seed=5)
    actions, _ = policy.predict(seen, reference=True)
    assert built.outputs(seen).tobytes() == policy.outputs(seen, reference=True).tobytes()
    assert built.predict(seen).tobytes() == actions.tobytes()
    alone = built.predict(seen[7])
    assert (alone.shape, alone.tobytes()) == (policy.action.shape, actions[7].tobytes())
    assert len(np.unique(built.outputs(seen), axis=0)) > 50


@needs_cc
def test_compiled_policies_refuse_what_the_reference_refuses(tmp_path):
    policy = make_policy("integer", "vector")
    export_c(policy, tmp_path / "out", UNCHECKED)
    built = CompiledPolicy(tmp_path / "out", flags=("-O1",))
    for value in (np.nan, np.inf):
        seen = np.zeros(5)
        seen[2] = value
        with pytest.raises(ObservationError):
            built.predict(seen)
    with pytest.raises(ObservationError):
        built.predict(np.zeros(4))


@needs_cc
@pytest.mark.parametrize("weights", c.WEIGHTS)
def test_all_forms_of_weights_agree(weights, tmp_path):
    policy = make_policy("integer", "image", bits=5)
    if weights == "quarters":  # of vectors of bytes alone
        policy = thinned(make_policy("integer", "vector", bits=5))
    report = export_c(policy, tmp_path / "out", CExportConfig(weights=weights))
    assert report.check.startswith("self test passed")
    forms = {layer.form for layer in report.layers}
    assert weights == "auto" or forms == {weights} | ({"dense"} if weights == "quarters" else set())
    if weights != "payload":
        assert export_c(policy, tmp_path / "auto", UNCHECKED).array_bytes <= report.array_bytes
    assert (report.unpacked_bytes > 0) == (weights == "payload")


@pytest.mark.parametrize(("bits", "density", "form"), [(8, 1, "dense"), (8, 0.05, "sparse"), (3, 1, "packed")])
def test_auto_takes_the_fewest_bytes(bits, density, form, tmp_path):
    b = Builder("integer", bits, 0, True, density)
    ops = (b.layer(40, 60, role="hidden", name="a"), b.layer(3, 40, role="raw", name="b"))
    bound = np.ones(3, np.float32)
    policy = Policy(
        ops,
        ObservationTransform((60,), "float32"),
        ActionTransform("box", (3,), low=-bound, high=bound),
        InputQuantization(np.ones(1, np.float32), -127, 127, 8),
        baseline_bytes=1,
    )
    forms = ("auto", "dense", "packed", "sparse")
    sizes = {w: export_c(policy, tmp_path / w, dataclasses.replace(UNCHECKED, weights=w)).layers for w in forms}
    auto = sizes["auto"][0]
    assert auto.form == form
    assert auto.weight_bytes == min(layers[0].weight_bytes for layers in sizes.values())
    step = c.program_of(policy, "auto").steps[0]
    assert step.weight is not None
    assert auto.weight_bytes == step.weight.nbytes + (0 if step.counts is None else step.counts.nbytes)


def test_auto_counts_the_code_of_another_form(tmp_path):
    """A layer of few weights is no reason for code that reads its form."""
    policy = make_policy("integer", "vector")
    ops = (*policy.ops[:2], dataclasses.replace(policy.ops[2], weight=policy.ops[2].weight // 64))
    report = export_c(dataclasses.replace(policy, ops=ops), tmp_path / "out", UNCHECKED)
    assert len({layer.form for layer in report.layers}) == 1
    assert "ENGINE_USE_PACKED" in report.left_out


@needs_cc
@pytest.mark.parametrize("weights", ["auto", "payload"])
@pytest.mark.parametrize("shape", quick([(3, 2, 2), (3, 1, 1)], [(3, 2, 2)]))
def test_images_of_no_convolution_keep_their_order(shape, weights, tmp_path):
    """Only the observation says that there are channels, and one pixel is padded and pooled like others."""
    b = Builder("integer", 8, 3, per_output=True)
    pool = (MaxPool2d((2, 2), (1, 1), (1, 1)),) if shape == (3, 1, 1) else ()
    values = 3 * (4 if pool else math.prod(shape[1:]))
    bound = np.ones(2, np.float32)
    policy = Policy(
        (*pool, Flatten(), b.layer(4, values, role="hidden", name="one"), b.layer(2, 4, role="raw", name="two")),
        ObservationTransform(shape, "float32"),
        ActionTransform("box", (2,), low=-bound, high=bound),
        InputQuantization(b.rng.uniform(20, 40, math.prod(shape)).astype(np.float32), -127, 127, 8),
        baseline_bytes=1,
    )
    export_c(policy, tmp_path / "out", CExportConfig("net", weights=weights))
    observations = (4 * b.rng.normal(size=(50, *shape))).astype(np.float32)
    outputs = policy.outputs(observations, reference=True)
    assert CompiledPolicy(tmp_path / "out").outputs(observations).tobytes() == outputs.tobytes()


@needs_cc
def test_payloads_of_random_policies_unpack(tmp_path):
    for seed in (4, 19, 26):  # residual blocks inside one another, scales for all and for each output
        policy = random_policy(seed, "integer")
        settings = CExportConfig("net", weights="payload", integer_only=seed % 2 == 0)
        assert export_c(policy, tmp_path / "out", settings).check.startswith("self test passed")


@needs_cc
def test_payloads_of_patterns_unpack(tmp_path):
    """What reads them is in the export where it is needed, and nowhere else."""
    policy, b = make_policy("integer", "vector"), Builder("integer", 8, 5, True)
    hidden = b.layer(32, policy.layers[0].weight.shape[1], role="hidden", name="one")
    for live in (4, 1):
        places = np.random.default_rng(0).random((16, 8, 4)).argsort(axis=2) < live
        middle = b.layer(16, 32, role="hidden", name="middle")
        middle = dataclasses.replace(middle, weight=np.where(places.reshape(16, 32), middle.weight, 0).astype(np.int8))
        last = b.layer(policy.layers[-1].weight.shape[0], 16, role="raw", name="two")
        one = dataclasses.replace(policy, ops=(hidden, middle, last), test_vectors=None)
        report = export_c(one, tmp_path / "out", CExportConfig("net", weights="payload"))
        assert report.check.startswith("self test passed")
        assert f"#define CODER_PATTERNS {int(live == 1)}" in (tmp_path / "out/src/net.c").read_text()


@needs_cc
@pytest.mark.parametrize("integer_only", [False, True])
@pytest.mark.parametrize("weights", ["auto", "payload"])
def test_zero_points_are_compiled(weights, integer_only, tmp_path):
    policy = with_zero_points(make_policy("integer", "vector"), 300, 0, -9000, 1)
    settings = CExportConfig("net", weights=weights, integer_only=integer_only)
    assert export_c(policy, tmp_path / "out", settings).check.startswith("self test passed")
    if integer_only:
        header = (tmp_path / "out/include/net.h").read_text()
        assert "rint(x[i] * inverse_scale[i]) - zero_point[i], -127, 127)" in header
        assert "#define NET_ZERO_POINTS {300, 0, -9000, 1, 300}" in header
        return
    built = CompiledPolicy(tmp_path / "out", flags=("-O1",))
    seen = random_observations(policy, 200, np.random.default_rng(0))
    assert built.outputs(seen).tobytes() == policy.outputs(seen, reference=True).tobytes()
    assert len(np.unique(built.outputs(seen), axis=0)) > 100


@needs_cc
def test_a_damaged_payload_is_refused(tmp_path):
    policy = make_policy("integer", "image")
    report = export_c(policy, tmp_path / "out", CExportConfig("net", weights="payload"))
    dense = export_c(policy, tmp_path / "dense", dataclasses.replace(UNCHECKED, weights="dense"))
    assert report.array_bytes < dense.array_bytes
    source = tmp_path / "out/src/net.c"
    text = source.read_text()
    start = text.index("payload[") + 10
    end = text.index("};", start)
    source.write_text(text[:start] + text[start:end].replace("1", "7").replace("277", "77") + text[end:])
    with pytest.raises(ExportError):
        check_folder(tmp_path / "out", ["cc"])


@needs_cc
def test_a_corrupted_constant_fails_the_self_test(tmp_path):
    policy = make_policy("integer", "vector")
    export_c(policy, tmp_path / "out", UNCHECKED)
    source = tmp_path / "out/src/net.c"
    text = source.read_text()
    start = text.index("step0_bias[9] = {\n") + len("step0_bias[9] = {\n")
    source.write_text(text[:start] + "99" + text[start:].lstrip()[1:])  # the first bias
    assert source.read_text() != text
    with pytest.raises(ExportError, match="test vector"):
        check_folder(tmp_path / "out", ["cc"])
    assert CompiledPolicy(tmp_path / "out").self_test() > 0


@needs_cc
def test_an_export_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    policy = make_policy("integer", "vector")
    export_c(policy, tmp_path / "out", UNCHECKED)
    before = files(tmp_path / "out")
    honest = c.answers
    monkeypatch.setattr(c, "answers", lambda *args: honest(*args)._replace(outputs=honest(*args).outputs + 1))
    with pytest.raises(ExportError, match="does not answer"):
        export_c(policy, tmp_path / "out", CExportConfig("net"))
    with pytest.raises(ExportError, match="does not answer"):
        export_c(policy, tmp_path / "new", CExportConfig("net"))
    assert files(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_compiler_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    report = export_c(make_policy("float", "tanh"), tmp_path / "out")
    assert report.check.startswith("not checked")
    assert (tmp_path / "out/src/out.c").exists()


def test_exports_are_deterministic(tmp_path):
    policy = make_policy("weight-only", "image", vectors=True)
    for folder in ("a", "b"):
        export_c(policy, tmp_path / folder, UNCHECKED)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_folder_of_others_stays_untouched(tmp_path):
    policy = make_policy("integer", "vector")
    folder = tmp_path / "out"
    folder.mkdir()
    export_c(policy, folder, UNCHECKED)  # empty: fine
    export_c(policy, folder, dataclasses.replace(UNCHECKED, name="other"))  # ours: replaced
    assert (folder / "src/other.c").exists()
    assert not (folder / "src/net.c").exists()
    (folder / "build").mkdir()
    (folder / "main.c").write_text("mine")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ExportError, match=r"main\.c"):
        export_c(policy, folder, UNCHECKED)
    assert sorted(path.name for path in folder.iterdir()) == before
    with pytest.raises(ExportError, match="not a folder"):
        export_c(policy, folder / "main.c", UNCHECKED)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/export.json").write_text("[]")
    with pytest.raises(ExportError, match=r"export\.json"):
        export_c(policy, tmp_path / "strange", UNCHECKED)


def test_a_link_keeps_what_it_points_to_up_to_date(tmp_path):
    policy = make_policy("integer", "vector")
    export_c(policy, tmp_path / "out", UNCHECKED)
    (tmp_path / "link").symlink_to("out")
    export_c(policy, tmp_path / "link", dataclasses.replace(UNCHECKED, name="other"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out/src/other.c").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


@pytest.mark.parametrize("place", [".", "..", "sub/..", "/"])
def test_a_folder_without_a_name_is_refused(place, tmp_path, monkeypatch):
    (tmp_path / "empty/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty/sub")
    with pytest.raises(ExportError, match="folder"):
        export_c(make_policy("integer", "vector"), place, UNCHECKED)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty", "sub"]


def test_a_compiler_that_is_no_command_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "gcc '-O2")
    with pytest.raises(ConfigError, match=r"^CC=.*\.$"):
        export_c(make_policy("integer", "vector"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["", "1net", "my net", "_net", "Engine", "payload", "x" * 64, "é", "String", "stdint", "policypress_engine"],
)  # fmt: skip
def test_names_are_validated(name):
    with pytest.raises(ConfigError, match=r"^name=.*\.$"):
        CExportConfig(name)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("pole.policy", "pole"), ("my-net v2", "my_net_v2"), ("98", "policy_98"), ("engine", "policy_engine"),
        ("math", "policy_math"), ("x" * 99, "x" * 54), ("int", "int"),
        ("policypress-coder", "policy_policypress_coder"),
    ],
)  # fmt: skip
def test_names_come_from_files(stem, name):
    assert identifier(stem) == name
    CExportConfig(identifier(stem))


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (("policy.policy", "keep-cheetah"), "keep_cheetah"), (("pole.policy", "runs"), "pole"),
        (("policy",), "pong_v5"),
        (("policy.policy", "日本"), "pong_v5"), (("Policy.policy", "7"), "policy_7"), ((), "pong_v5"),
    ],
)  # fmt: skip
def test_no_export_is_called_policy(names, name):
    policy = dataclasses.replace(make_policy("integer", "vector"), provenance={"env": "ALE/Pong-v5"})
    assert name_of(policy, *names) == name
    CExportConfig(name)


def test_python_takes_the_name_from_folder_or_environment(tmp_path):
    policy = dataclasses.replace(make_policy("integer", "vector"), provenance={"env": "HalfCheetah-v5"})
    unchecked = CExportConfig(check=False)
    assert export_c(policy, tmp_path / "my-net", unchecked).name == "my_net"
    assert export_c(policy, tmp_path / "policy", unchecked).name == "halfcheetah_v5"
    with pytest.raises(ConfigError, match=r"^name is not given"):
        export_c(dataclasses.replace(policy, provenance={}), tmp_path / "x/policy", unchecked)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("settings", [{"weights": "small"}, {"vectors": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=r"^\w+=.*\.$"):
        CExportConfig(**settings)


@pytest.mark.parametrize("numerics", ["weight-only", "float"])
@pytest.mark.parametrize("settings", [{"integer_only": True}, {"weights": "dense"}])
def test_float_activations_have_no_integer_build(numerics, settings, tmp_path):
    with pytest.raises(UnsupportedError, match="integer numerics"):
        export_c(make_policy(numerics, "vector"), tmp_path / "out", CExportConfig(**settings))
    assert not (tmp_path / "out").exists()


@needs_cc
def test_awkward_texts_and_bounds_compile(tmp_path):
    policy = make_policy("float", "vector")
    first = dataclasses.replace(policy.ops[0], name="*/ ??/ /* ?????< \\")
    action = dataclasses.replace(
        policy.action,
        squash=False,
        dtype="float64",
        low=np.array([-np.inf, -1e-45, -0.0], np.float32),
        high=np.array([np.inf, 3.4e38, 2**-126], np.float32),
    )
    policy = dataclasses.replace(
        policy,
        ops=(first, *policy.ops[1:]),
        action=action,
        provenance={"algo": "*/ int x; /*", "env": "naïve\n#error\\"},
    )
    report = export_c(policy, tmp_path / "out", CExportConfig("net"))
    assert report.check.startswith("self test passed")
    built = CompiledPolicy(tmp_path / "out")
    seen = random_observations(policy, 50)
    assert built.predict(seen).tobytes() == policy.predict(seen, reference=True)[0].tobytes()


@given(st.floats(width=32, allow_nan=False) | st.floats(allow_nan=False))
def test_float_literals_are_exact(value):
    for number in (np.float64(value), np.float32(value) if abs(value) <= 3.4e38 or np.isinf(value) else np.float32(0)):
        text = c.c_text.literal(number)
        if np.isinf(number):
            assert "HUGE_VAL" in text
            continue
        assert text.endswith("f") == isinstance(number, np.float32)
        again = float.fromhex(text.removesuffix("f") if isinstance(number, np.float32) else text)
        assert (again, np.signbit(again)) == (float(number), np.signbit(number))


# Without floats


def chooser(scale, action):
    b = Builder("integer", 8, 0, True)
    last = b.layer(len(scale) if len(scale) > 1 else 5, 3, role="raw", name="q")
    return Policy(
        (dataclasses.replace(last, scale=scale),),
        ObservationTransform((3,), "float32"),
        action,
        InputQuantization(np.ones(1, np.float32), -127, 127, 8),
        baseline_bytes=1,
    )


SCALES = np.float32([1e-45, 3e-42, 1.1754944e-38, 1e-30, 2**-24, 0.1, 1 / 3, 1, 1.0000001, 3.14159, 2**20, 7e28])
NEAR = st.sampled_from([0, 1, 2**24, 2**25, 2**30, 2**31 - 1]).flatmap(
    lambda n: st.integers(max(n - 300, -(2**31)), min(n + 300, 2**31 - 1))
)
SUMS = st.integers(-(2**31), 2**31 - 1) | st.integers(-40, 40) | NEAR | NEAR.map(lambda n: -n)


@pytest.fixture(scope="module")
def built_choosers(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("There is no C compiler: install gcc.")
    rng = np.random.default_rng(0)
    discrete = ActionTransform("discrete", dtype="int64", start=-3)
    found = []
    for i, scale in enumerate(
        [SCALES, np.float32([0.1]), rng.uniform(0.99, 1.01, 12).astype(np.float32), np.float32([2e-40]), SCALES]
    ):
        folder = tmp_path_factory.mktemp("choose") / str(i)
        groups = ActionTransform("multi-discrete", (3,), "int64", nvec=(5, 1, 6))
        binary = ActionTransform("multi-binary", (12,), "int64")
        policy = chooser(scale, {2: groups, 4: binary}.get(i, discrete))
        export_c(policy, folder, CExportConfig("net", integer_only=True))
        found.append((policy, CompiledIntegers(folder)))
    return found


@settings(max_examples=30)
@given(hnp.arrays(np.int32, (32, 12), elements=SUMS))
def test_choices_are_those_of_float32(built_choosers, sums):
    for policy, built in built_choosers:
        some = sums[:, : len(policy.layers[-1].weight)]
        # Sums that float32 makes equal, so that the first must win.
        some[::3] = np.abs(some[::3, :1] >> 1) + (some[::3] & 127)
        outputs = some.astype(np.float32) * policy.layers[-1].scale
        np.testing.assert_array_equal(built.choose(some), reference.act(policy.action, outputs))


@needs_cc
@pytest.mark.parametrize("kind", KINDS)
def test_integer_builds_clip_codes_and_give_the_sums(kind, tmp_path):
    policy = make_policy("integer", kind)
    export_c(policy, tmp_path / "out", dataclasses.replace(UNCHECKED, integer_only=True))
    built = CompiledIntegers(tmp_path / "out", flags=("-O1",))
    assert built.self_test() == 0
    rng = np.random.default_rng(0)
    codes = rng.integers(-400, 400, (50, *policy.observation.shape))
    codes.reshape(50, -1)[:, :2] = [2**31 - 1, -(2**31)]
    record = []
    clipped = codes.clip(policy.input.low, policy.input.high)
    reference.run(policy, clipped.astype(np.float32) / scales(policy), record)
    np.testing.assert_array_equal(built.run(codes.astype(np.int32)), record[-1])


@needs_cc
@pytest.mark.parametrize("kind", KINDS)
def test_the_self_test_of_an_integer_build_goes_beyond_the_limits_of_codes(kind, tmp_path):
    export_c(make_policy("integer", kind), tmp_path / "out", dataclasses.replace(UNCHECKED, integer_only=True))
    source, vectors = (tmp_path / "out/src" / name for name in ("net.c", "net_vectors.c"))
    assert re.search(r"int8_t all_codes\[", vectors.read_text())
    text = source.read_text()
    unlimited = re.sub(r"(?<=int32_t limited\(int32_t code\) \{\n)    return .*;", "    return code;", text)
    assert unlimited != text
    source.write_text(unlimited)
    assert CompiledIntegers(tmp_path / "out", flags=("-O1",)).self_test() > 0


@pytest.mark.parametrize(("low", "high", "kind"), [(-128, 0, "int8"), (0, 200, "uint8"), (-1, 128, "int16")])
def test_vectors_have_the_smallest_type(low, high, kind):
    assert smallest(np.array([low, high], np.int32)).dtype == kind
    assert smallest(np.array([-(2**31), high], np.int32)).dtype == "int32"


def test_too_many_constants_for_an_avr_are_an_error_for_its_compiler():
    assert avr_limit("these", 2**16 - 2**12, 2**15 - 1) == []
    for total, largest in [(2**16, 9), (2**15, 2**15)]:
        (text,) = avr_limit("these", total, largest)
        assert re.search(rf"__AVR__\n#error \"these, {total} bytes, .*\"\n#endif", text)


def scales(policy):
    inverse = policy.input.inverse_scale
    return inverse.reshape(policy.observation.shape) if inverse.size > 1 else inverse


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not here.")
@pytest.mark.parametrize(("kind", "weights"), [("vector", "packed"), ("image", "sparse"), ("image", "dense")])
def test_integer_builds_hold_no_float_operation(kind, weights, tmp_path):
    settings = dataclasses.replace(UNCHECKED, integer_only=True, weights=weights)
    export_c(make_policy("integer", kind, bits=4), tmp_path / "out", settings)
    assert float_symbols(tmp_path / "out") == []
    export_c(make_policy("integer", kind, bits=4), tmp_path / "float", UNCHECKED)
    assert "__aeabi_fmul" in float_symbols(tmp_path / "float")  # the check sees them where they are


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not here.")
@pytest.mark.parametrize("numerics", NUMERICS)
def test_float32_policies_need_no_float64(numerics, tmp_path):
    policy = make_policy(numerics, "vector")
    wide = ("__aeabi_d", "__aeabi_cd", "__aeabi_f2d", "__aeabi_i2d", "__aeabi_ui2d", "__aeabi_l2d")
    for dtype, needs in (("float32", False), ("float64", True)):
        observation = ObservationTransform((5,), dtype)
        export_c(dataclasses.replace(policy, observation=observation), tmp_path / dtype, UNCHECKED)
        found = float_symbols(tmp_path / dtype)
        assert found
        assert any(symbol.startswith(wide) for symbol in found) == needs


def float_symbols(folder):
    """Functions of software floating point that the objects for a Cortex-M0 need."""
    arm = ["CC=arm-none-eabi-gcc", "AR=arm-none-eabi-ar", "CFLAGS=-Os -mthumb -mcpu=cortex-m0"]
    subprocess.run(["make", "-s", "-C", str(folder), "lib", *arm], check=True)
    listed = subprocess.run(
        ["arm-none-eabi-nm", "-u", str(folder / "build/net.o")], capture_output=True, text=True, check=True
    ).stdout
    symbols = {word for word in listed.split() if word.startswith("__aeabi")}
    kinds = ("__aeabi_f", "__aeabi_d", "__aeabi_cf", "__aeabi_cd")
    return sorted(s for s in symbols if s.startswith(kinds) or s.endswith(("2f", "2d", "f2iz", "d2iz")))


def compile_engine(*command):
    """Whether the portable engine compiles so; skips the test where the compiler has no such processor."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here.")
    known = subprocess.run([*command, "-E", "-x", "c", "/dev/null"], capture_output=True, check=False)
    if known.returncode:
        pytest.skip(f"{command[0]} does not know {command[1]}.")
    source = Path(c.__file__).parents[1] / "runtime/engine.c"
    options = ("-O1", "-ffp-contract=off", "-fsyntax-only")
    result = subprocess.run([*command, *options, source], capture_output=True, check=False)
    assert result.returncode == 0 or re.search(b"float32 must round|engine_needs", result.stderr)
    return result.returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("arm-none-eabi-gcc", "-mcpu=cortex-m55", "-mfloat-abi=hard", "-mthumb", "-std=gnu17"),
        ("gcc", "-march=sapphirerapids", "-std=gnu17"),
    ],
    ids=lambda command: command[1],
)
def test_processors_with_half_precision_compile_in_every_standard(command):
    """There FLT_EVAL_METHOD is 16 in GCC's default mode: float and double are evaluated as what they are."""
    assert compile_engine(*command)
    assert compile_engine(*command[:-1], "-std=c99")


@pytest.mark.parametrize(
    "option", ["-mfpmath=387", "-ffast-math", "-freciprocal-math", "-funsafe-math-optimizations", "-ffinite-math-only"]
)
def test_floats_that_round_otherwise_do_not_compile(option):
    assert not compile_engine("gcc", option)


def test_fast_math_is_nothing_to_a_build_without_floats():
    assert compile_engine("gcc", "-ffast-math", "-DENGINE_USE_ENDS=0")


FMA = [
    ("gcc", "-mfma"), ("gcc", "-mfma", "-ffp-contract=fast"), ("clang", "-mfma"),
    ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-mthumb"),
    ("arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16", "-mthumb"),
]  # fmt: skip


@pytest.mark.parametrize("command", FMA, ids=" ".join)
def test_no_product_and_sum_are_rounded_once_where_options_do_not_say_so(command, tmp_path):
    """As in the Arduino IDE: gnu11, where GCC fuses by default and heeds no pragma of the standard's."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here.")
    export_c(make_policy("weight-only", "tanh"), tmp_path / "out", UNCHECKED)

    def fused(text):
        (tmp_path / "out/src/net.c").write_text(text)
        options = ("-std=gnu11", "-O2", "-S", "-o", "-")
        shown = subprocess.run(
            [*command, *options, tmp_path / "out/src/net.c"], check=True, capture_output=True, text=True
        )
        return len(re.findall(r"^\s+vfn?m[as]", shown.stdout, re.M))

    text = (tmp_path / "out/src/net.c").read_text()
    assert fused(text) == 0
    assert fused(re.sub(r"#pragma .*(fp-contract|FP_CONTRACT).*", "", text)) > 0  # the check sees them where they are


@pytest.mark.parametrize("command", FMA[:3], ids=" ".join)
def test_arduinos_options_keep_the_bits(command, tmp_path):
    if shutil.which(command[0]) is None or " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"{command[0]} or a processor with FMA is not here.")
    export_c(make_policy("weight-only", "tanh"), tmp_path / "out", UNCHECKED)
    sources = sorted((tmp_path / "out/src").glob("*.c"))
    program = tmp_path / "test"
    subprocess.run([*command, "-std=gnu11", "-O2", "-DNET_MAIN", *sources, "-o", program], check=True)
    assert subprocess.run([program], check=False, capture_output=True).returncode == 0


def test_a_double_of_32_bits_does_not_compile_where_it_matters():
    """As on AVR and on Renesas RX by default: float64 actions would be read past their end."""
    assert not compile_engine("gcc", "-std=c99", "-Ddouble=float")
    assert compile_engine("gcc", "-std=c99", "-Ddouble=float", "-DENGINE_USE_ENDS=0")


def test_huge_scales_have_no_integer_build(tmp_path):
    policy = chooser(np.float32([1e30]), ActionTransform("discrete", dtype="int64"))
    with pytest.raises(UnsupportedError, match="too large"):
        export_c(policy, tmp_path / "out", CExportConfig(integer_only=True))


# The folder


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="make and cc are not here.")
def test_the_makefile_does_what_it_says(tmp_path):
    report = export_c(make_policy("integer", "vector"), tmp_path / "out", UNCHECKED)
    done = subprocess.run(["make", "-C", str(tmp_path / "out"), "test", "lib", "size"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all test vectors are the same" in done.stdout
    assert (tmp_path / "out/build/libnet.a").exists()
    facts = json.loads((tmp_path / "out/export.json").read_text())
    assert set(facts["files"]) == {file for file in files(tmp_path / "out") if not file.startswith("build")}
    assert report.work_bytes == facts["work_bytes"]
    export_c(make_policy("integer", "vector"), tmp_path / "out", UNCHECKED)  # build/ is no obstacle


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="make and cc are not here.")
def test_make_leaves_no_objects_of_other_flags(tmp_path):
    export_c(make_policy("integer", "vector"), tmp_path / "out", UNCHECKED)

    def built(*settings):
        subprocess.run(["make", "-s", "-C", tmp_path / "out", "lib", *settings], check=True)
        return (tmp_path / "out/build/net.o").read_bytes()

    small = built("CFLAGS=-Os")
    assert built("CFLAGS=-O2") != small
    assert built("CFLAGS=-Os") == small
    if shutil.which("clang"):
        assert built("CC=clang", "CFLAGS=-Os") != small


@needs_cc
def test_a_project_takes_the_whole_folder(tmp_path):
    """As Arduino, PlatformIO and GLOB do: every source, among them one with a main."""
    export_c(make_policy("integer", "vector"), tmp_path / "out", UNCHECKED)
    (tmp_path / "out/src/main.c").write_text('#include "net.h"\nint main(void) { return net_self_test(); }\n')
    sources = sorted((tmp_path / "out/src").glob("*.c"))
    subprocess.run(["cc", "-std=c99", *sources, "-o", tmp_path / "main"], check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def refusal(*command):
    return subprocess.run(["cc", "-std=c99", *command], check=False, capture_output=True, text=True).stderr


@needs_cc
def test_files_of_two_exports_of_one_name_are_refused(tmp_path):
    for i, kind in enumerate(("vector", "image")):
        export_c(make_policy("integer", kind), tmp_path / str(i), UNCHECKED)
    (tmp_path / "src").mkdir()
    for file in ("net.c", "net_vectors.c"):
        shutil.copy(tmp_path / "0/src" / file, tmp_path / "src")
        own = ("-c", tmp_path / "src" / file, "-o", tmp_path / "x.o", "-I", tmp_path / "0/include")
        assert refusal(*own) == ""
        assert "net.h is of another export" in refusal("-I", tmp_path / "1/include", *own)
    text = f'#include "{tmp_path}/0/include/net.h"\n'
    main = "int main(void) { return net_self_test(); }\n"
    (tmp_path / "both.c").write_text(text + text.replace("0/include", "1/include") + main)
    assert "two exports are called net" in refusal("-c", tmp_path / "both.c", "-o", tmp_path / "x.o")
    (tmp_path / "main.c").write_text(text + main)
    parts = [[tmp_path / str(i) / "src" / file for file in ("net.c", "net_vectors.c")] for i in (0, 1)]
    assert "undefined reference" in refusal(tmp_path / "main.c", *parts[1], "-o", tmp_path / "x")
    assert refusal(tmp_path / "main.c", *parts[1], *parts[0], "-o", tmp_path / "x") == ""  # both in one program
    assert subprocess.run([tmp_path / "x"], check=False).returncode == 0


@needs_cc
@pytest.mark.parametrize("macro", ["ENGINE_USE_SPARSE=0", "ENGINE_USE_PACKED=1", "ENGINE_API=", "CODER_DECODE_ONLY"])
def test_flags_of_another_export_are_refused(macro, tmp_path):
    export_c(make_policy("integer", "vector"), tmp_path / "out", UNCHECKED)
    refused = refusal(f"-D{macro}", "-c", tmp_path / "out/src/net.c", "-o", tmp_path / "x.o")
    assert "net.c says itself what it needs of the engine" in refused


@needs_cc
def test_two_exports_in_one_program_answer_right_or_there_is_none():
    """A short run of checks/link_exports.py."""
    script = Path(__file__).parents[2] / "checks/link_exports.py"
    done = subprocess.run([sys.executable, script, "--pairs", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row.split("|")[1:-1] for row in done.stdout.splitlines() if row.startswith("| ")][1:]
    counts = {(way.strip(), names.strip()): [int(n) for n in found] for way, names, *found in rows}
    assert counts["libraries", "two"] == counts["libraries", "the same"] == [2, 0, 0]
    assert counts["one folder", "two"] == [4, 0, 0]
    assert sum(wrong for _, _, wrong in counts.values()) == 0


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not here.")
@pytest.mark.parametrize("weights", ["auto", "payload"])
@pytest.mark.parametrize("kind", KINDS)
def test_ram_is_what_the_compiler_reserves(kind, weights, tmp_path):
    settings = dataclasses.replace(UNCHECKED, weights=weights)
    report = export_c(make_policy("integer", kind), tmp_path / "out", settings)
    make = ["make", "-s", "-C", str(tmp_path / "out"), "size", "CC=arm-none-eabi-gcc", "SIZE=arm-none-eabi-size"]
    done = subprocess.run([*make, "CFLAGS=-mcpu=cortex-m4 -mthumb -Os"], capture_output=True, text=True, check=True)
    _, data, bss, *_ = map(int, done.stdout.splitlines()[-1].split()[:3])
    assert 0 <= data + bss - report.work_bytes - report.unpacked_bytes < 32  # alignment


def test_an_export_of_an_earlier_version_is_replaced_but_not_run(tmp_path):
    policy = make_policy("integer", "vector")
    export_c(policy, tmp_path / "out", UNCHECKED)
    manifest = tmp_path / "out/export.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"format": "policypress c export 1"}))
    with pytest.raises(ExportError, match="export the policy again"):
        CompiledPolicy(tmp_path / "out")
    export_c(policy, tmp_path / "out", UNCHECKED)
    assert json.loads(manifest.read_text()) == facts


def test_the_header_tells_the_contract(tmp_path):
    export_c(make_policy("integer", "vector"), tmp_path / "out", UNCHECKED)
    text = (tmp_path / "out/include/net.h").read_text()
    for part in (
        *("#define NET_OBSERVATION_SIZE 5", "#define NET_ACTION_SIZE 3", "typedef double net_observation;"),
        *("normalized inside", "algo sac", "sparsity", "1: [-1, 1]", "int net_self_test(void);"),
        "at every start of the product",
    ):
        assert part in text


@needs_cc
def test_the_header_serves_cpp(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here.")
    for name, kind in (("net", "image"), ("other", "vector")):
        export_c(make_policy("integer", kind), tmp_path / name, CExportConfig(name, check=False))
        subprocess.run(
            ["cc", "-std=c99", "-c", f"{tmp_path}/{name}/src/{name}.c", "-o", f"{tmp_path}/{name}.o"], check=True
        )
    (tmp_path / "main.cpp").write_text(
        '#include "net.h"\n#include "other.h"\n'
        "int main() { net_observation o[NET_OBSERVATION_SIZE] = {}; net_action a[NET_ACTION_SIZE];\n"
        "other_observation p[OTHER_OBSERVATION_SIZE] = {}; other_action b[OTHER_ACTION_SIZE];\n"
        "engine_word w[ENGINE_WORDS(NET_WORK_BYTES)];\n"
        "return net_predict(o, a) + net_predict_in(o, a, w) + other_predict(p, b); }\n"
    )
    objects = [f"{tmp_path}/net.o", f"{tmp_path}/other.o"]
    includes = [f"-I{tmp_path}/net/include", f"-I{tmp_path}/other/include"]
    program = f"{tmp_path}/main"
    subprocess.run(["g++", "-Wall", "-Werror", *includes, f"{tmp_path}/main.cpp", *objects, "-o", program], check=True)
    assert subprocess.run([program], check=False).returncode == 0


@needs_cc
def test_the_engines_headers_serve_cpp(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here.")
    runtime = Path(c.__file__).parents[1] / "runtime"
    (tmp_path / "main.cpp").write_text(
        '#include "engine.h"\n#include "payload.h"\n'
        "int main() { coder c; coder_decode_start(&c, 0, 0);\n"
        "return engine_tanh(0) != 0 || payload_decode(0, 0, 0, 0, 0, static_cast<payload_memory *>(0)); }\n"
    )
    found = refusal("-x", "c++", "-std=c++11", f"-I{runtime}", "-c", tmp_path / "main.cpp", "-o", tmp_path / "main.o")
    assert "error" not in found
    names = subprocess.run(["nm", "-u", tmp_path / "main.o"], check=True, capture_output=True, text=True).stdout
    assert {"engine_tanh", "payload_decode", "coder_decode_start"} <= set(names.split())


@needs_cc
def test_the_command_line(tmp_path, monkeypatch, capsys):
    make_policy("integer", "vector").save(tmp_path / "my-net.policy")

    def call(*options):
        command = [
            "policypress",
            "export",
            str(tmp_path / "my-net.policy"),
            "--to",
            "c",
            "--out",
            str(tmp_path / "out"),
        ]
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with contextlib.suppress(SystemExit):
            cli.main()
        return capsys.readouterr()

    report = json.loads(call("--weights", "packed", "--json").out)
    assert report["name"] == "my_net"
    assert report["check"].startswith("self test passed")
    assert (tmp_path / "out/include/my_net.h").exists()
    assert "flash" in call("--integer-only", "--name", "pole").out
    assert (tmp_path / "out/include/pole.h").exists()
    (tmp_path / "my-net.policy").rename(tmp_path / "policy.policy")
    monkeypatch.setattr(sys, "argv", ["policypress", "export", "policy.policy", "--to", "c", "--out", "out", "--json"])
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["name"] == identifier(tmp_path.name)
    (tmp_path / "policy.policy").rename(tmp_path / "my-net.policy")
    refused = call("--style", "qdq")
    assert refused.out == ""
    assert refused.err.strip() == "policypress: style is not an option of the format c: leave it out."
