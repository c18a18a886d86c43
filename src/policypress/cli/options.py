"""Options that are fields of configs: names, types and help come from there."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from policypress.cli import texts
from policypress.config import ConfigField, Hidden, Setting, fields_of

ENV = "Gymnasium id, for example HalfCheetah-v5 or module:Env-v0; or a class or function that makes one, module:name."
"""Help of ``--env``."""
Parser = Callable[[Any, str], Any]
"""Makes a field's value of what stands behind its option; gets the field's name too."""


@dataclass(frozen=True)
class Fields:
    """The settings of ``config``, a config's class, as options, but for those ``without``.

    ``defaults``: in words, what a verb takes instead of a field's own default. ``parsers``: instead of a type's own.
    """

    config: Any
    without: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    parsers: Mapping[str, Parser] = field(default_factory=dict)

    def parameters(self) -> Iterator[inspect.Parameter]:
        """A parameter of a Typer command for each option; it is None where the option is not given."""
        for one, setting in self._offered():
            name = setting.option or one.name
            help_ = _help(one, setting, self.defaults.get(one.name))
            option = typer.Option(f"--{name.replace('_', '-')}", help=help_, rich_help_panel=setting.part or None)
            typed = str if one.name in self.parsers else _kind(one).typed
            annotation = Annotated[typed | None, option]  # type: ignore[valid-type]
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def taken(self, given: dict[str, Any]) -> dict[str, Any]:
        """The fields whose options are ``given``, which are taken out of there."""
        found = {}
        for one, setting in self._offered():
            value = given.pop(setting.option or one.name)
            if value is not None and value != []:  # the one or the other, as Typer's version has it
                found[one.name] = self.parsers.get(one.name, _kind(one).parse)(value, one.name)
        return found

    def _offered(self) -> Iterator[tuple[ConfigField, Setting]]:
        for one in fields_of(self.config):
            if one.setting is not None and one.name not in self.without:
                yield one, one.setting


def options(**groups: Fields) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a verb: in place of each parameter named here stand the options of its Fields, and it gets a dictionary
    of those that are given."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for one in inspect.signature(verb, eval_str=True).parameters.values():
            offered = groups[one.name].parameters() if one.name in groups else [one]
            parameters += (parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in offered)

        @functools.wraps(verb)
        def call(**given: Any) -> None:
            taken = {name: group.taken(given) for name, group in groups.items()}
            verb(**given, **taken)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        return call

    return decorate


@dataclass(frozen=True)
class _Kind:
    """What a field of some type is as an option: the type that Typer knows, and how it is read."""

    typed: Any
    parse: Parser = lambda value, _: value


_KINDS: dict[Any, _Kind] = {
    int: _Kind(int),
    float: _Kind(float),
    str: _Kind(str),
    bool: _Kind(bool),
    Hidden: _Kind(str, texts.hidden),
    tuple[str, ...]: _Kind(list[str]),
    dict[str, Any]: _Kind(list[str], texts.keywords),
}


def _kind(one: ConfigField) -> _Kind:
    kind = str if one.choices else one.kind
    if kind not in _KINDS:
        raise TypeError(f"{one.name}: no option holds a {kind}; say in policypress.cli.options how one does.")
    return _KINDS[kind]


def _help(one: ConfigField, setting: Setting, default: str | None) -> str:
    text, span = setting.text, setting.span
    if not all(choice in text for choice in one.choices):
        text += f": {', '.join(one.choices[:-1])} or {one.choices[-1]}"
    if span is not None and span.high is not None:
        text += f": {span}"
    if _kind(one).typed == list[str]:
        text += "; repeat"
    if default is None:
        default = setting.shown or ("" if setting.shown is None else _shown(one.default))
    return f"{text}. Default: {default}." if default else f"{text}."


def _shown(default: Any) -> str:
    """A default as it is written; "" for none and for empty ones."""
    return f"{default:g}" if isinstance(default, float) else "" if default in (None, (), {}) else str(default)
