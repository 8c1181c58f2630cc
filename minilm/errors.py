"""All errors that minilm raises on purpose.

    MinilmError
     |- ConfigError         a value in config.json, or an argument of a configuration
     |- InputError          an argument of a call (also a ValueError)
     |- CheckpointError     a weights file, or weights that do not fit the model
     |- TokenizerFileError  tokenizer.json, vocab.txt or spiece.model
     |- HubError            a download
     |- DataError           a text file, a token store or a data set
     |- TrainingError       a training run: its settings, its snapshots, its numbers
     |- ExportError         a model that cannot be exported, or an exported file that is wrong
     |- DependencyError     an optional package that is not installed

Catch `MinilmError` to catch them all. Each message says what is wrong, where (file, tensor or
argument), what was expected and what to do next.

Advice is worded for the place where the message appears: `quoting=True` in Python, `--quoting` on
the command line (`setting`, `argument`, `by_place`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# The options of the running command, or None. One for the whole process, so that messages from its
# threads name the same options.
_options: Collection[str] | None = None

OPEN = "..."  # stands for a value that the reader of the message chooses


class MinilmError(Exception):
    """Base class of all errors raised by minilm."""


class ConfigError(MinilmError):
    """A configuration value is missing, of the wrong type, out of range or unsupported."""


class InputError(MinilmError, ValueError):
    """An argument of a call has the wrong shape, dtype or value."""


class CheckpointError(MinilmError):
    """A weights file is damaged, incomplete, unsafe, or does not fit the model."""


class TokenizerFileError(MinilmError):
    """A tokenizer file is missing, damaged or unsupported."""


class HubError(MinilmError):
    """A file could not be fetched from the hub."""


class DependencyError(MinilmError, ImportError):
    """An optional package that the call needs is not installed."""


class DataError(MinilmError):
    """A text file, a token store or a data set is missing, damaged or does not fit."""


class TrainingError(MinilmError):
    """A training run cannot start, resume or be trusted: settings, snapshots, non-finite values."""


class ExportError(MinilmError):
    """A model cannot be exported, or the exported file does not give the model's outputs."""


@contextmanager
def command_line(options: Collection[str]) -> Iterator[None]:
    """Inside the block, advice is worded for the command line.

    Args:
        options: the options of the running command, such as "--encoding"; advice names no others.
    """
    global _options
    before, _options = _options, options
    try:
        yield
    finally:
        _options = before


def options_of_command() -> Collection[str] | None:
    """The options that advice may name, to pass on to another process; None = advice for Python."""
    return _options


def by_place(*, python: str, command: str) -> str:
    """Returns the sentence for Python or the one for the command line.

    Example:
        >>> by_place(python="Give another directory.", command="Give another --output.")
        'Give another directory.'
    """
    return python if _options is None else command


def setting(name: str, value: object = OPEN, *, option: str | None = None) -> str:
    """A setting as the user would write it: in Python or on the command line.

    In Python `quoting=True`, `quoting=False`, `encoding="latin-1"`; on the command line
    `--quoting`, `--no-quoting`, `--encoding latin-1`; for a command without this option
    "quoting=True in Python".

    Args:
        name: name of the argument.
        value: value of the argument; `OPEN` if the reader chooses it.
        option: the option on the command line, if not as above.

    Example:
        >>> setting("quoting", True)
        'quoting=True'
    """
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    if value is OPEN:
        shown = OPEN
    if _options is None:
        return f"{name}={shown}"
    words = name.replace("_", "-")
    spelled = option or (f"--no-{words}" if value is False else f"--{words}")
    if spelled not in _options:
        return f"{name}={shown} in Python"
    if option is not None or isinstance(value, bool):
        return spelled
    if value is OPEN:
        return f"{spelled} {name.upper()}"
    return f"{spelled} {shlex.quote(str(value).replace(chr(9), chr(92) + 't'))}"


def argument(name: str) -> str:
    """The name of an argument in Python or on the command line: `max_length` or `--max-length`.

    Args:
        name: the name in Python; it is returned unchanged if the command has no such option.

    Example:
        >>> argument("max_length")
        'max_length'
    """
    spelled = f"--{name.replace('_', '-')}"
    return name if _options is None or spelled not in _options else spelled
