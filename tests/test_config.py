"""Settings: what is refused and in which words, and that they survive a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policypress as pp
from policypress.config import (
    CONFIG_VERSION,
    CompressionConfig,
    DistillConfig,
    PressConfig,
    TrainConfig,
    ValueConfig,
    dumps,
    from_json,
    hidden_text,
    to_json,
)
from policypress.errors import ConfigError, PolicypressError

fractions = st.floats(0, 2)


@st.composite
def compressions(draw: st.DrawFn) -> CompressionConfig:
    start, end = sorted((draw(fractions), draw(fractions)))
    criterion = draw(st.sampled_from(["magnitude", "flow", "random"]))
    weight_bits = draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 32]))
    weight_range = draw(st.sampled_from(["mse", "minmax", "learned"]))
    return CompressionConfig(
        sparsity=draw(st.floats(0, 1, exclude_max=True)),
        allocation=draw(st.sampled_from(["erk", "uniform", "ivanov2025", "global"])),
        schedule=draw(st.sampled_from(["cubic", "linear", "one-shot", "constant"])),
        criterion=criterion,
        prune_start=start,
        prune_end=end,
        prune_iterations=draw(st.integers(1, 1000)),
        prune_auxiliary=criterion != "flow" and draw(st.booleans()),
        weight_bits=weight_bits,
        activation_bits=draw(st.sampled_from([0, 2, 3, 4, 5, 6, 7, 8])),
        input_bits=draw(st.integers(2, 16)),
        granularity=draw(st.sampled_from(["auto", "tensor", "channel"])),
        weight_range=weight_range,
        rate_weight=draw(st.floats(0, 1)) if weight_range == "learned" and weight_bits < 32 else 0.0,
        quantize_start=draw(fractions),
        observe=draw(fractions),
    )


@st.composite
def trainings(draw: st.DrawFn) -> TrainConfig:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    json_values = st.none() | st.booleans() | st.integers() | finite | st.text()
    return TrainConfig(
        algo=draw(st.sampled_from(["sac", "dqn"])),
        env=draw(st.text()),
        steps=draw(st.integers(1, 10**9)),
        extension=draw(fractions),
        seed=draw(st.integers(0, 2**31)),
        compression=draw(compressions()),
        values=ValueConfig(draw(st.integers(1, 9)), draw(st.floats(0, 0.99)), draw(fractions), draw(fractions) / 2),
        network=draw(st.sampled_from(["mlp", "nature", "resnet"])),
        hidden=tuple(draw(st.lists(st.integers(1, 512), max_size=3))),
        n_envs=draw(st.integers(1, 8)),
        algo_kwargs=draw(st.dictionaries(st.text(), json_values, max_size=3)),
        optimizer_kwargs=draw(st.dictionaries(st.text(), json_values, max_size=3)),
        eval_every=draw(st.integers(0, 10**6)),
        eval_episodes=draw(st.integers(1, 100)),
        final_episodes=draw(st.integers(2, 100)),
        device=draw(st.sampled_from(["cpu", "cuda"])),
    )


# JSON


@given(compressions())
def test_compression_survives_json(config: CompressionConfig) -> None:
    data = json.loads(dumps(config))
    assert data["version"] == CONFIG_VERSION
    assert from_json(CompressionConfig, data) == config


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target_steps": 0}, "target_steps=0 must be at least 1"),
        ({"target_start": 1.0}, r"target_start=1 must be a fraction of the steps, for example 0\.1"),
        ({"buffer_distance": -1.0}, r"buffer_distance=-1 must not be negative, for example 0\.2"),
        ({"optimism": 1.5}, r"optimism=1\.5 must be at least 0 and at most 1, for example 1"),
    ],
)
def test_values_that_cannot_be_say_what_can(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ValueConfig(**values)


@given(trainings())
def test_training_survives_json(config: TrainConfig) -> None:
    again = from_json(TrainConfig, json.loads(dumps(config)))
    assert again == config
    assert type(again.hidden) is tuple
    assert type(again.compression) is CompressionConfig
    assert type(again.values) is ValueConfig


def test_every_field_is_in_the_json() -> None:
    config = CompressionConfig()
    fields = {field.name for field in dataclasses.fields(config)}
    later = {"pruning", "structure", "critic_sparsity", "keep_return"}
    assert to_json(config).keys() == {"version"} | fields - later  # as it was
    assert to_json(CompressionConfig(pruning="set")).keys() == {"version"} | fields - later | {"pruning"}
    training = TrainConfig("sac", "Pendulum-v1", 1000)
    fields = {field.name for field in dataclasses.fields(training)}
    assert to_json(training).keys() == {"version"} | fields - {"values"}
    told = to_json(TrainConfig("sac", "Pendulum-v1", 1000, values=ValueConfig(optimism=1.0)))
    assert told["values"] == {"optimism": 1.0}


def test_reading_leaves_the_given_data_alone() -> None:
    data = to_json(TrainConfig("sac", "Pendulum-v1", 1000))
    before = json.dumps(data)
    from_json(TrainConfig, data)
    assert json.dumps(data) == before


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_version_is_refused(version: object) -> None:
    data = {**to_json(CompressionConfig()), "version": version}
    with pytest.raises(ConfigError, match="this CompressionConfig is of another version than 1"):
        from_json(CompressionConfig, data)
    del data["version"]
    with pytest.raises(ConfigError, match="another version"):
        from_json(CompressionConfig, data)


def test_unknown_and_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting bits, sparsities; known ones are .*weight_bits"):
        from_json(CompressionConfig, {**to_json(CompressionConfig()), "bits": 8, "sparsities": []})
    with pytest.raises(ConfigError, match=r"TrainConfig cannot be read: .*env"):
        from_json(TrainConfig, {"version": 1, "algo": "sac", "steps": 10})


def test_missing_settings_with_a_default_take_it() -> None:
    assert from_json(CompressionConfig, {"version": 1, "sparsity": 0.5}) == CompressionConfig(sparsity=0.5)


def test_values_out_of_range_are_refused_in_json_too() -> None:
    with pytest.raises(ConfigError, match=r"sparsity=1\.5"):
        from_json(CompressionConfig, {"version": 1, "sparsity": 1.5})
    training = {"version": 1, "algo": "sac", "env": "x", "steps": 10}
    with pytest.raises(ConfigError, match=r"sparsity=1\.5"):
        from_json(TrainConfig, {**training, "compression": {"sparsity": 1.5}})


@pytest.mark.parametrize(
    "broken",
    [
        {"steps": "many"},
        {"steps": None},
        {"hidden": ["wide"]},
        {"hidden": 64},
        {"compression": {"bits": 8}},
        {"compression": {"sparsity": "high"}},
        {"compression": 3},
    ],
    ids=str,
)
def test_json_of_the_wrong_type_is_a_config_error(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_json(TrainConfig, {"version": 1, "algo": "sac", "env": "x", "steps": 10, **broken})


# What is refused


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sparsity": 1.0}, r"sparsity=1\.0 must be at least 0 and below 1, for example sparsity=0\.95"),
        ({"sparsity": -0.1}, "sparsity=-0.1 must be at least 0 and below 1"),
        ({"sparsity": 98}, "sparsity=98 must be at least 0 and below 1"),
        ({"prune_start": 0.9}, r"prune_start=0\.9 and prune_end=0\.8 must satisfy 0 <= prune_start <= prune_end"),
        ({"prune_start": -0.1}, "must satisfy 0 <= prune_start <= prune_end, for example 0.2 and 0.8"),
        ({"prune_iterations": 0}, "prune_iterations=0 must be at least 1"),
        ({"weight_bits": 1}, "weight_bits=1 must be 2 to 8, or 32 for no quantization"),
        ({"weight_bits": 9}, "weight_bits=9 must be 2 to 8, or 32 for no quantization"),
        ({"weight_bits": 16}, "weight_bits=16 must be 2 to 8, or 32 for no quantization"),
        ({"weight_bits": 0}, "weight_bits=0 must be 2 to 8"),
        ({"activation_bits": 1}, "activation_bits=1 must be 2 to 8, or 0 for float activations"),
        ({"activation_bits": 32}, "activation_bits=32 must be 2 to 8, or 0 for float activations"),
        ({"input_bits": 1}, "input_bits=1 must be 2 to 16"),
        ({"input_bits": 17}, "input_bits=17 must be 2 to 16"),
        ({"quantize_start": -0.1}, "quantize_start and observe must not be negative, for example 0.85 and 0.05"),
        ({"observe": -0.1}, "quantize_start and observe must not be negative"),
        ({"allocation": "ERK"}, "allocation='ERK' is not one of erk, uniform, ivanov2025, global"),
        ({"schedule": "cosine"}, "schedule='cosine' is not one of cubic, linear, one-shot, constant"),
        (
            {"criterion": "gradient"},
            "criterion='gradient' is not one of magnitude, flow, random, movement, snip, grasp, activation",
        ),
        ({"pruning": "prune"}, "pruning='prune' is not one of gradual, one-shot, static, set, rigl, rewind"),
        ({"critic_sparsity": 1.0}, r"critic_sparsity=1\.0 must be at least 0 and below 1, for example 0\.5"),
        ({"granularity": "row"}, "granularity='row' is not one of auto, tensor, channel"),
        ({"weight_range": "max"}, "weight_range='max' is not one of mse, minmax"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_each_compression_setting_is_checked(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        CompressionConfig(**settings)
    assert isinstance(caught.value, PolicypressError)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(".")


CONFIGS: dict[type[Any], dict[str, Any]] = {
    CompressionConfig: {},
    TrainConfig: {"algo": "sac", "env": "x", "steps": 10},
    DistillConfig: {},
    PressConfig: {"algo": "sac", "env": "x", "agent": "0" * 64},
}
NUMBERS = [(kind, field.name, field.type) for kind in CONFIGS for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, what in NUMBERS if what == "float"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", None])
def test_every_number_is_finite(kind: type[Any], name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}={value!r} must be a finite number\.$"):
        kind(**CONFIGS[kind] | {name: value})


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, what in NUMBERS if what == "int"])
@pytest.mark.parametrize("value", [4.5, math.nan, "4"])
def test_every_count_is_a_whole_number(kind: type[Any], name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}={value!r} must be a whole number\.$"):
        kind(**CONFIGS[kind] | {name: value})


@pytest.mark.parametrize("name", ["algo_kwargs", "optimizer_kwargs", "env_kwargs"])
@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], object()])
def test_values_that_json_does_not_hold(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=.* must be finite numbers, strings, booleans or lists of them"):
        TrainConfig("sac", "x", 10, **{name: {"learning_rate": value}})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": -5}, "steps=-5 must be at least 1"),
        ({"extension": -0.1}, "extension=-0.1 must not be negative"),
        ({"n_envs": 0}, "n_envs=0 must be at least 1"),
        ({"network": "transformer"}, "network='transformer' is not one of mlp, nature, resnet"),
        ({"hidden": (16, 0)}, r"hidden=\(16, 0\) must be widths of at least 1, for example 24,24"),
        ({"eval_every": -1}, "eval_every must be >= 0, eval_episodes >= 1 and final_episodes >= 2"),
        ({"eval_episodes": 0}, "eval_every must be >= 0, eval_episodes >= 1 and final_episodes >= 2"),
        ({"final_episodes": 1}, "eval_every must be >= 0, eval_episodes >= 1 and final_episodes >= 2"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_each_training_setting_is_checked(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(**{"algo": "sac", "env": "Pendulum-v1", "steps": 100, **settings})


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CompressionConfig().sparsity = 0.5  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig("sac", "x", 1).steps = 2  # type: ignore[misc]


def test_defaults_are_not_shared() -> None:
    first, second = TrainConfig("sac", "x", 1), TrainConfig("sac", "x", 1)
    first.algo_kwargs["gamma"] = 0.9
    assert second.algo_kwargs == {}


def test_the_default_changes_nothing_and_properties_say_so() -> None:
    assert not CompressionConfig().prunes
    assert not CompressionConfig().quantizes
    assert CompressionConfig(sparsity=0.1).prunes
    assert CompressionConfig(weight_bits=8).quantizes
    assert pp.CompressionConfig is CompressionConfig


def test_total_steps_and_evaluation_interval() -> None:
    config = TrainConfig("sac", "x", 1_000_000, extension=0.3)
    assert config.total_steps == 1_300_000
    assert config.evaluation_interval == 65_000
    assert TrainConfig("sac", "x", 1000, eval_every=7).evaluation_interval == 7
    assert TrainConfig("sac", "x", 3).evaluation_interval == 1


# Windows that can never be reached

PRESSED = CompressionConfig(sparsity=0.9, weight_bits=8)  # prunes from 0.2 to 0.8, quantizes from 0.85


@pytest.mark.parametrize(
    ("config", "steps", "total", "learning_starts", "sentence"),
    [
        (PRESSED, 1000, 790, 0, "pruning would end at step 800, after the last step 790: lower prune_end or train"),
        (PRESSED, 1000, 1000, 800, "pruning would end at step 800, before learning starts at step 800"),
        (PRESSED, 1000, 1000, 5000, "before learning starts at step 5000: train longer or lower learning_starts"),
        (PRESSED, 1000, 850, 0, "quantization would start at step 850, not before the last step 850: lower quantize"),
        (PRESSED, 1000, 1000, 850, "quantization would start at step 850, before learning starts|pruning would end"),
        (
            CompressionConfig(weight_bits=8, quantize_start=0.1),
            1000,
            1000,
            100,
            "quantization would start at step 100, before learning starts at step 100",
        ),
        (CompressionConfig(sparsity=0.5, prune_end=1.31), 1000, 1300, 0, "pruning would end at step 1310"),
        (CompressionConfig(weight_bits=8, quantize_start=1e9), 1000, 1300, 0, "quantization would start"),
    ],
)
def test_a_window_out_of_reach_is_refused(
    config: CompressionConfig, steps: int, total: int, learning_starts: int, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config.check_reachable(steps, total, learning_starts)


@pytest.mark.parametrize(
    ("config", "steps", "total", "learning_starts"),
    [
        (PRESSED, 1000, 1000, 799),
        (PRESSED, 1000, 851, 0),
        (PRESSED, 1_000_000, 1_300_000, 10_000),
        (CompressionConfig(sparsity=0.9), 1000, 800, 0),
        (CompressionConfig(sparsity=0.9, quantize_start=9.0), 1000, 1000, 0),
        (CompressionConfig(weight_bits=8, prune_end=9.0), 1000, 1000, 0),
        (CompressionConfig(), 1000, 1, 5000),
        (CompressionConfig(sparsity=0.5, prune_end=1.3), 1000, 1300, 0),
    ],
)
def test_windows_within_reach_pass(config: CompressionConfig, steps: int, total: int, learning_starts: int) -> None:
    config.check_reachable(steps, total, learning_starts)


def test_a_window_that_ends_with_the_extension_is_within_reach() -> None:
    for steps in (100, 1000, 100_000, 1_000_000):
        for extension in (0.1, 0.2, 0.3):
            training = TrainConfig("sac", "x", steps, extension=extension)
            config = CompressionConfig(sparsity=0.5, prune_end=1 + extension)
            config.check_reachable(steps, training.total_steps)


# Students


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batches": 0}, "batches=0 must be at least 1"),
        ({"batches": 1.5}, "batches=1.5 must be a whole number"),
        ({"collections": 0}, "collections=0 must be at least 1"),
        ({"states": 100}, "states=100 must be at least batch_size=256"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
        ({"critic_weight": -1.0}, "critic_weight=-1.0 must not be negative"),
        ({"disturbances": 0.6}, "disturbances=0.6 must be 0 to 0.5 a step, for example 0.01"),
        ({"falls": 0.95}, "falls=0.95 must be a share of a batch, 0 to 0.9, for example 0.25"),
        ({"fall_steps": 0}, "fall_steps=0 must be at least 1"),
        ({"critic_start": 1.5}, "critic_start=1.5 must be a fraction"),
        ({"hidden": (4, 0)}, "must be widths of at least 1"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"compression": CompressionConfig(weight_bits=8, quantize_start=1.0)}, "quantization would start at step"),
    ],
    ids=str,
)
def test_each_setting_of_a_student_is_checked(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DistillConfig(**settings)


def test_a_student_may_quantize_from_its_first_batch() -> None:
    DistillConfig(CompressionConfig(sparsity=0.5, prune_start=0.0, prune_end=0.0, weight_bits=8, quantize_start=0.0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "prune"}, "method='prune' is not one of"),
        ({"method": "finetune"}, "say how long to train on"),
        ({"method": "finetune", "student": DistillConfig(hidden=(4,))}, "say how long to train on"),
        ({"steps": 5}, "steps=5 are those of --method finetune"),
        ({"keep": -0.5, "minutes": 1.0}, "keep=-0.5 must be a share"),
        ({"keep": 0.95}, "give --minutes"),
        ({"keep": 0.95, "minutes": 1.0, "method": "ptq"}, "no --method"),
        ({"bytes": 64}, "give --minutes"),
        ({"bytes": -1}, "bytes=-1 must be at least 0"),
        ({"keep_worst": 90.0}, "keep_worst=90.0 must be a share of the agent's worst tenth, for example 0.9"),
        ({"keep": 0.95, "minutes": 1.0}, "give weight_bits of 2 to 8"),
        ({"minutes": 1.0}, "minutes=1 are the time of a search"),
        ({"episodes": 1}, "episodes=1 must be at least 2"),
        (
            {"method": "ptq", "student": DistillConfig(CompressionConfig(criterion="snip"))},
            "criterion=snip looks at training, and --method ptq does none: leave criterion at magnitude",
        ),
        (
            {"student": DistillConfig(CompressionConfig(critic_sparsity=0.5))},
            "critic_sparsity=0.5 is of critics that learn, and none do here: leave it at 0",
        ),
        (
            {"method": "finetune", "steps": 9, "student": DistillConfig(CompressionConfig(critic_sparsity=0.5), (4,))},
            "critic_sparsity=0.5 is of critics that learn",
        ),
    ],
    ids=str,
)
def test_each_setting_of_a_pressing_is_checked(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PressConfig("sac", "x", "0" * 64, **settings)


def test_a_pressing_survives_json() -> None:
    student = DistillConfig(CompressionConfig(weight_bits=4, sparsity=0.5), hidden=(8, 9), critic_weight=0.5, seed=3)
    config = PressConfig("sac", "x", "ab", "cd", student=student, keep=0.95, minutes=2.5, episodes=7)
    assert "keep_worst" not in json.loads(dumps(config)), "files of before stay as they were"
    assert from_json(PressConfig, json.loads(dumps(replace(config, keep_worst=0.8, bytes=9)))).bytes == 9
    assert from_json(PressConfig, json.loads(dumps(config))) == config
    assert from_json(DistillConfig, json.loads(dumps(student))) == student


def test_a_linear_student_is_written_as_such() -> None:
    student = DistillConfig(hidden="none")
    data = json.loads(dumps(student))
    assert data["hidden"] == "none"
    assert from_json(DistillConfig, data) == student
    assert [hidden_text(hidden) for hidden in ("none", (24, 24), ())] == ["linear", "24-24", ""]
    for wrong in ("auto", "nothing", "8"):
        with pytest.raises(ConfigError):
            from_json(DistillConfig, {**data, "hidden": wrong})


@pytest.mark.parametrize(
    "broken", [5, None, [], "text", {"version": 1, "algo": "a", "env": "b", "agent": "c", "student": 5}]
)
def test_json_that_is_no_pressing(broken: Any) -> None:
    with pytest.raises(ConfigError):
        from_json(PressConfig, broken)
