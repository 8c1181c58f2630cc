"""Strict JSON: every file has only one meaning, and its size and nesting are limited."""

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilm.errors import MinilmError

MAX_DEPTH = 64


def read_json(path: Path, *, max_bytes: int, error: type[MinilmError]) -> dict[str, Any]:
    """Reads a JSON object.

    Stricter than Python's `json`: a duplicate key, NaN, Infinity, a number too large for a float
    and nesting deeper than 64 are refused. A byte order mark is accepted.

    Args:
        path: the file, UTF-8.
        max_bytes: a larger file is refused before it is read.
        error: the class of error to raise.

    Returns:
        The object at the top level.

    Raises:
        MinilmError: of class `error`; the file cannot be read or breaks one of these rules.
    """
    try:
        value = parse_json(read_bytes(path, max_bytes=max_bytes, error=error))
    except ValueError as problem:
        raise error(
            f"{path} is not valid JSON: {problem}. Repair it or download it again."
        ) from problem
    if not isinstance(value, dict):
        raise error(
            f"{path} holds {_kind(value)} at the top level, expected an object {{...}}. "
            "Is it the right file?"
        )
    return value


def read_bytes(path: Path, *, max_bytes: int, error: type[MinilmError]) -> bytes:
    """Reads a regular file whole, after checking its size. Arguments as for `read_json`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise error(f"{path} is {kind}, expected a file.")
        if status.st_size > max_bytes:
            raise error(
                f"{path} has {status.st_size:,} bytes, at most {max_bytes:,} are read. "
                "Is it the right file?"
            )
        return path.read_bytes()
    except FileNotFoundError as problem:
        raise error(f"{path} does not exist.") from problem
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}.") from problem


def parse_json(data: bytes) -> Any:
    """Parses UTF-8 bytes by the rules of `read_json`; the top level may be any value.

    Raises:
        ValueError: a rule is broken; the message does not name the file.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check_depth(value)
    return value


def json_bytes(data: dict[str, Any]) -> bytes:
    """The bytes of a JSON file in the hub's style: sorted keys, two spaces, ASCII.

    Raises:
        ValueError: there is a NaN or infinity, which JSON does not have.
    """
    return (json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def without_nan(value: Any) -> Any:
    """The same JSON value with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} appears twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:100]} is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
        ]
    if level:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
