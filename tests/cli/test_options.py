"""Options that come from the fields of configs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
import typer

from policypress import cli
from policypress.cli.options import Fields, options
from policypress.config import (
    FLOAT_BITS,
    CompressionConfig,
    DistillConfig,
    Environment,
    Hidden,
    PressConfig,
    Setting,
    Span,
    TrainConfig,
    ValueConfig,
    Zipped,
    fields_of,
)
from policypress.errors import ConfigError
from policypress.export import FORMATS, options_of
from policypress.export.c import WEIGHTS
from policypress.export.onnx import STYLES
from policypress.measure.microcontroller import TARGETS
from policypress.rl.formats import open_agent
from policypress.rl.methods import METHODS
from policypress.rl.plan import plan_pressing
from policypress.rl.sources import Source
from rl.toys import PICK, save_picker

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
OFFERED = {
    "train": (TrainConfig, CompressionConfig, ValueConfig, Environment),
    "compress": (PressConfig, DistillConfig, CompressionConfig, Environment),
    "evaluate": (Environment, Zipped),
    "info": (Zipped,),
}


def helps(verb: str) -> dict[str, str]:
    return {option.opts[0]: option.help for option in COMMANDS[verb].params if option.opts[0].startswith("--")}


@pytest.mark.parametrize("verb", OFFERED)
def test_every_setting_is_an_option_that_names_its_choices(verb: str) -> None:
    found = helps(verb)
    for cls in OFFERED[verb]:
        for one in fields_of(cls):
            if one.setting is None or (verb, one.name) == ("compress", "keep_return"):  # its --keep is a search's
                continue
            name = f"--{(one.setting.option or one.name).replace('_', '-')}"
            assert one.setting.text in found[name]
            assert all(choice in found[name] for choice in one.choices)
            assert not one.setting.text.endswith(".")
            if one.setting.span is not None and one.setting.span.high is not None:
                assert str(one.setting.span) in found[name]


def test_defaults_are_those_that_are_taken(tmp_path: Any) -> None:
    """What `compress --help` says instead of the fields' defaults is what is planned."""
    agent = open_agent(Source(save_picker(tmp_path / "agent.zip")), "dqn", Environment(PICK))
    said = helps("compress")
    student = plan_pressing(agent).student
    sparse = plan_pressing(agent, compression={"sparsity": 0.5}).student
    tuned = plan_pressing(agent, method="finetune", settings={"steps": 1_000}).student
    drawn = plan_pressing(agent, compression={"sparsity": 0.5, "pruning": "static"}).student
    assert drawn.compression.criterion == "magnitude"  # random masks follow nothing
    for name in ("prune_start", "prune_end", "quantize_start", "criterion", "weight_range"):
        words = said[f"--{name.replace('_', '-')}"].partition("Default: ")[2]
        shown = [getattr(one.compression, name) for one in (student, tuned)]
        first, last = (f"{value:g}" if isinstance(value, float) else value for value in shown)
        assert words.startswith((f"{first} of a student", f"{first} of a narrow student"))
        assert words.endswith(f"else {last}.")
    assert f"{sparse.compression.quantize_start:g} with --sparsity" in said["--quantize-start"]
    assert student.compression.weight_bits == 8
    assert "Default: 8." in said["--weight-bits"]
    assert f"Default: {student.compression.rate_weight:g} of a narrow student." in said["--rate-weight"]
    assert f"Default: {student.learning_rate:g}; {tuned.learning_rate:g} for " in said["--learning-rate"]


def test_options_of_an_export_are_those_of_its_format() -> None:
    found = helps("export")
    assert found["--to"] == f"Format: {' or '.join(FORMATS)}."
    for to in FORMATS:
        assert {f"--{name.replace('_', '-')}" for name in options_of(to)} <= found.keys()
    assert all(choice in found["--weights"] for choice in WEIGHTS)
    assert all(choice in found["--style"] for choice in STYLES)
    assert all(target in helps("bench")["--target"] for target in TARGETS)


def test_one_list_of_ways_to_press() -> None:
    (method,) = [one for one in fields_of(PressConfig) if one.name == "method"]
    assert method.choices == tuple(METHODS)


@dataclass(frozen=True)
class Toy:
    size: Annotated[int, Setting("How large", "A part", Span(2, 4, 9, "any"))] = 3
    way: Annotated[Literal["a", "b", "c"], Setting("Which way")] = "b"
    share: Annotated[float, Setting("How much", shown="as needed")] = 0.5
    hidden: Annotated[Hidden, Setting("Widths")] = ()
    names: Annotated[tuple[str, ...], Setting("Whose", option="name")] = ()
    values: Annotated[dict[str, Any], Setting("With what")] = field(default_factory=dict)
    needed: Annotated[int, Setting("Not told", shown=None)] = 0
    inner: int = 0


def toy(fields: Fields, *arguments: str) -> dict[str, Any]:
    app = typer.Typer(add_completion=False)
    seen: dict[str, Any] = {}

    @app.command()
    @options(toy=fields)
    def verb(first: str, toy: dict[str, Any], last: Annotated[int, typer.Option()] = 7) -> None:
        """A verb."""
        seen.update(toy, first=first, last=last)

    command = typer.main.get_command(app)
    command.main(["x", *arguments], standalone_mode=False)
    return seen | {"helps": {one.name: one.help for one in command.params if one.name != "first"}}


def test_a_field_is_all_that_an_option_needs() -> None:
    seen = toy(Fields(Toy, without=("share",), defaults={"way": "the best"}))
    assert seen.pop("helps") == {
        "size": "How large: 2 to 4, or 9 for any. Default: 3.",
        "way": "Which way: a, b or c. Default: the best.",
        "hidden": "Widths.",
        "name": "Whose; repeat.",
        "values": "With what; repeat.",
        "needed": "Not told.",
        "last": None,
    }
    assert seen == {"first": "x", "last": 7}
    arguments = ("--size", "4", "--hidden", "3,2", "--name", "d", "--name", "e", "--values", "f:[1]", "--last", "8")
    seen = toy(Fields(Toy), *arguments, "--share", "0.25", "--needed", "0")
    assert seen.pop("helps")["share"] == "How much. Default: as needed."
    assert seen.pop("names") in (["d", "e"], ("d", "e"))
    wanted = {"size": 4, "hidden": (3, 2), "values": {"f": [1]}, "share": 0.25, "needed": 0}
    assert seen == {"first": "x", "last": 8, **wanted}


def test_a_verb_reads_a_text_its_own_way() -> None:
    seen = toy(Fields(Toy, parsers={"hidden": lambda text, name: (text, name)}), "--hidden", "auto")
    assert seen["hidden"] == ("auto", "hidden")


def test_a_type_that_no_option_holds_is_an_error() -> None:
    @dataclass(frozen=True)
    class Odd:
        size: Annotated[complex, Setting("How large")] = 1j

    with pytest.raises(TypeError, match="size: no option holds a "):
        options(odd=Fields(Odd))(lambda odd: None)


def test_spans_say_where_a_number_lies() -> None:
    assert str(Span(1)) == "at least 1"
    assert str(Span(2, 16)) == "2 to 16"
    assert [value in Span(2, 4, 9, "any") for value in (1, 2, 4, 5, 9)] == [False, True, True, False, True]
    with pytest.raises(ConfigError, match=f"weight_bits=9 must be 2 to 8, or {FLOAT_BITS} for no quantization"):
        CompressionConfig(weight_bits=9)
