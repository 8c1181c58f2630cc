"""Options of a command from the fields of a settings dataclass: one place for defaults and help."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from minilm.cli.help import GroupedOption
from minilm.recipes.settings import as_json

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]

# options that have an effect with one value of another
_OF_VALUE = {
    "power": ("schedule", "polynomial"),
    "decay": ("schedule", "wsd"),
    "max_skips": ("on_nonfinite", "skip"),
    "max_ngram": ("masking", "ngrams"),
}


def together(options: Sequence[Option[Any]]) -> Option[Any]:
    """Several options as one decorator, in this order."""

    def decorate(function: Command) -> Command:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def options_of(
    settings: type, *, leave_out: Sequence[str] = (), **words: object
) -> list[Option[Any]]:
    """An option for every field that has a help text, those of the class itself first.

    Args:
        settings: a dataclass whose fields were made by `minilm.recipes.settings.option`.
        leave_out: fields that get no option.
        **words: values for {names} in the help texts.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    order: dict[str, None] = {}
    for cls in settings.__mro__:
        inherited = {name for base in cls.__mro__[1:] for name in _declared(base)}
        order |= dict.fromkeys(name for name in _declared(cls) if name not in inherited)
    wanted = [fields[name] for name in order if name in fields and name not in leave_out]
    return [_option(field, words) for field in wanted if "help" in field.metadata]


def given_fields(settings: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command that are fields of a settings dataclass."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in options.items() if name in names}


def field_value(settings: type, name: str, given: object) -> Any:
    """The value of a field, parsed as by its option.

    Args:
        settings: as for `options_of`.
        name: name of a field that is an option.
        given: text as on the command line, or a value from a JSON or TOML file. "none", or the
            option's word for it, is None if that is the default.

    Raises:
        click.BadParameter: the option would refuse the value; the message does not name the option.

    Example:
        >>> field_value(DistillationRecipe, "betas", "0.9,0.98")
        (0.9, 0.98)
    """
    (field,) = (field for field in dataclasses.fields(settings) if field.name == name)
    rule = field.metadata
    if rule["of"] is list and isinstance(given, list):
        return given
    text = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    if field.default is None and text.lower() == "none":
        return None
    if rule["of"] is bool:
        return click.BOOL.convert(text, None, None)
    kind = click.types.convert_type(_kind(rule))
    if rule["of"] is tuple:
        parts = text.split(",")
        if len(parts) != kind.arity:
            raise click.BadParameter(f"{text!r} is not {kind.arity} numbers with a comma between.")
        return kind.convert(parts, None, None)
    return kind.convert(text, None, None)


def given_flags(*names: str) -> str:
    """The options that the user gave to the running command, as a list for a message."""
    context = click.get_current_context()
    return ", ".join(
        "/".join([option.opts[0], *option.secondary_opts])
        for option in context.command.params
        if option.name in names and is_given(context, option.name)
    )


def refuse_idle(options: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> None:
    """Refuses options that were given and have no effect without others.

    This is a rule for commands, not for settings: an ablation varies the options that others need.

    Args:
        options: the options of the running command.
        needs: for each such option, the options of which one must be given, or above 0.

    Raises:
        click.UsageError: an option has no effect; the message names both.
    """
    for name, (other, value) in _OF_VALUE.items():
        if options.get(other) != value and (flag := given_flags(name)):
            needed = f"--{other} {value}".replace("_", "-")
            raise click.UsageError(f"{flag} can be used with {needed} only.")
    for name, others in needs.items():
        if options.get(name) and not any(map(options.get, others)) and (flag := given_flags(name)):
            needed = " or ".join(f"--{other.replace('_', '-')}" for other in others)
            raise click.UsageError(f"{flag} can be used with {needed} only.")


def is_given(context: click.Context, name: str) -> bool:
    """Whether the user gave a value to a parameter: on the command line or by --config."""
    given = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return context.get_parameter_source(name) in given


def given_options(*, without: Sequence[str]) -> dict[str, Any]:
    """The options that the user gave to the running command, as JSON values by their names.

    Args:
        without: names of parameters that are left out.
    """
    context = click.get_current_context()
    return {
        max(option.opts, key=_is_long).removeprefix("--"): as_json(context.params[option.name])
        for option in context.command.params
        if isinstance(option, click.Option)
        and option.name in context.params
        and option.name not in without
        and is_given(context, option.name)
    }


def _is_long(name: str) -> bool:
    return name.startswith("--")


def _declared(cls: type) -> Sequence[str]:
    return list(inspect.get_annotations(cls))


def _option(field: dataclasses.Field[Any], words: Mapping[str, object]) -> Option[Any]:
    rule = field.metadata
    flags = (rule["flags"] or f"--{field.name.replace('_', '-')}").split()
    text = rule["help"].format(**words)
    if rule["of"] is bool:
        switch = {} if "/" in flags[0] else {"is_flag": True}
        return click.option(
            *flags,
            field.name,
            cls=GroupedOption,
            group=rule["group"],
            default=field.default,
            show_default=not switch,
            help=text,
            **switch,
        )
    required = field.default is dataclasses.MISSING
    shown = rule["none"] if field.default is None else field.default
    if rule["choices"] and rule["of"] is not list:
        shown = str(shown).replace("_", "-")
    return click.option(
        *flags,
        field.name,
        cls=GroupedOption,
        group=rule["group"],
        type=_kind(rule),
        required=required,
        default=None if required else shown,
        show_default=not required,
        metavar=rule["metavar"],
        help=text,
    )


def _kind(rule: Mapping[str, Any]) -> Any:
    if rule["of"] is list:
        return LAYERS_OR_NUMBER if "N" in rule["choices"] else LAYERS
    if rule["choices"]:
        return _Choice(rule["choices"], rule["none"])
    if rule["of"] is tuple:
        return (float, float)
    if rule["of"] is os.PathLike:
        return click.Path(path_type=Path)
    if rule["of"] not in (int, float):
        return rule["of"]
    limits = {
        "min": rule["low"] if rule["above"] is None else rule["above"],
        "max": rule["high"] if rule["below"] is None else rule["below"],
        "min_open": rule["above"] is not None,
        "max_open": rule["below"] is not None,
    }
    if limits["min"] is None and limits["max"] is None:
        return rule["of"]
    return click.IntRange(**limits) if rule["of"] is int else click.FloatRange(**limits)


class _Choice(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """One of some words; "_" in the value is "-" on the command line, and "N" is any number."""

    name = "choice"

    def __init__(self, choices: Sequence[str], none: str | None) -> None:
        self._values: dict[str, str | None] = {} if none is None else {none: None}
        self._values |= {choice.replace("_", "-"): choice for choice in choices if choice != "N"}
        self._numbers = "N" in choices

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        words = [*self._values, *(["N"] if self._numbers else [])]
        return f"[{'|'.join(words)}]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | None:
        written = str(value).replace("_", "-") if value in self._values.values() else str(value)
        if written in self._values:
            return self._values[written]
        if self._numbers and written.isdecimal() and int(written) > 0:
            return int(written)
        number = " nor a number of layers" if self._numbers else ""
        listed = ", ".join(self._values)
        start = "neither one of " if number else "not one of "
        self.fail(f"{value!r} is {start}{listed}{number}.", param, ctx)


def choice(*values: str) -> click.ParamType:  # type: ignore[type-arg]  # generic since click 8.4
    """One of several words, "_" written as "-"; "N" stands for any number from 1."""
    return _Choice(values, None)


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A rule's name, or a list of numbers; with `number`, a text without commas is one number."""

    name = "text"

    def __init__(self, *, number: bool = False) -> None:
        self._number = number

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | list[int]:
        if not isinstance(value, str):
            return list(value)
        parts = [part.strip() for part in value.split(",")]
        if self._number and len(parts) == 2 and not parts[1]:
            parts.pop()  # "5,", a list of one
        elif self._number and value.isascii() and value.isdecimal():
            return int(value)
        numbers = all(part.isascii() and part.isdecimal() for part in parts)
        return [int(part) for part in parts] if numbers else value


LAYERS = _Names()
LAYERS_OR_NUMBER = _Names(number=True)
