"""Option values from a file: what --config reads."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from minilm.errors import InputError
from minilm.files.json_file import read_bytes, read_json

MAX_BYTES = 10_000_000
COMMAND = "command"  # the part of a run's settings.json that names command and options
_NOT_IN_A_FILE = ("config", "help")


def option_values(file: str, command: click.Command, name: str) -> dict[str, Any]:
    """The values that a file gives to the options of a command.

    Args:
        file: a .toml file whose keys are names of options, with or without "-" between the words;
            or a .json file, either such an object or the settings.json of a run.
        command: the command that has the options.
        name: its name on the command line, such as "pretrain".

    Returns:
        The values by the names of the command's parameters, ready for `click.Context.default_map`.

    Raises:
        InputError: the file cannot be read, names an unknown option or one twice, or gives one a
            value that it cannot take.
    """
    path = Path(file)
    found, origin = _read(path)
    known = _options(command)
    values: dict[str, Any] = {}
    for key, value in found.items():
        parameter = known.get(key.removeprefix("--").replace("_", "-"))
        if parameter is None or parameter.name is None:
            raise InputError(_unknown(path, key, name, known, origin))
        if parameter.name in values:
            raise InputError(f"{path} gives a value for {parameter.opts[0]} twice: remove one.")
        if parameter.multiple and not isinstance(value, list):
            value = [value]
        _check(path, key, value, parameter)
        values[parameter.name] = value
    return values


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    """The entries of the file, and the command of the run that wrote it, or ""."""
    kind = path.suffix.lower()
    if kind == ".toml":
        content = read_bytes(path, max_bytes=MAX_BYTES, error=InputError)
        try:
            return tomllib.loads(content.decode("utf-8")), ""
        except (ValueError, RecursionError) as problem:
            raise InputError(f"{path} is not valid TOML: {problem}.") from problem
    if kind != ".json":
        raise InputError(
            f"--config {path}: expected a .toml file, or the settings.json of a training run."
        )
    found = read_json(path, max_bytes=MAX_BYTES, error=InputError)
    started = found.get(COMMAND)
    if isinstance(started, Mapping) and isinstance(started.get("options"), Mapping):
        return started["options"], str(started.get("name", ""))
    if {"settings", "circumstances"} <= found.keys():
        raise InputError(
            f"{path} does not say with which options the run was started: the run was started "
            "from Python with parts of its own, or by an earlier version of minilm. Write the "
            "options into a .toml file."
        )
    return found, ""


def _options(command: click.Command) -> dict[str, click.Parameter]:
    """Every name under which a file may set a parameter: --learning-rate is learning-rate."""
    known: dict[str, click.Parameter] = {}
    for parameter in command.params:
        if parameter.name is None or parameter.name in _NOT_IN_A_FILE:
            continue
        names = [name for name in parameter.opts if name.startswith("--")]
        if isinstance(parameter, click.Argument):
            names = [parameter.name]
        known |= {name.removeprefix("--").replace("_", "-"): parameter for name in names}
    return known


def _unknown(path: Path, key: str, command: str, known: Mapping[str, Any], origin: str) -> str:
    message = f"{path}: minilm {command} has no option {key!r}"
    if near := difflib.get_close_matches(key.replace("_", "-"), known, n=3):
        return f"{message}. Did you mean {' or '.join(near)}?"
    if origin and origin != command:
        return f"{message}: the file is from a run of minilm {origin}."
    return f"{message}. minilm {command} --help lists its options."


def _check(path: Path, key: str, value: object, parameter: click.Parameter) -> None:
    """Raises InputError for a value that the option could not have on the command line."""
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    if flag != isinstance(value, bool):
        expected = "true or false" if flag else "a value, not true or false"
        raise InputError(f"{path}: {key} is {value!r}: expected {expected}.")
    if isinstance(value, Mapping):
        raise InputError(f"{path}: {key} is a table: expected one value for an option.")
    repeated = parameter.multiple or parameter.nargs != 1
    if repeated and not isinstance(value, list):
        raise InputError(f"{path}: {key} is {value!r}: expected a list of values.")
    with click.Context(click.Command(None), resilient_parsing=True) as empty:
        try:
            parameter.type_cast_value(empty, value)
        except click.BadParameter as problem:
            raise InputError(f"{path}: {key}: {problem.message}") from problem
