"""Strict JSON, and files with a JSON object in each line."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.lines import numbered_lines, read_text
from minilm.errors import setting

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_lines(
    path: str | Path, *, skips: Skips | None = None, encoding: str = "utf-8"
) -> Records:
    """Reads the JSON objects of a file, one from each line. Blank lines are not records.

    Args:
        path: the file, perhaps .gz or .xz.
        skips: what to do with lines that `strict_json` refuses, or that are not objects.
        encoding: character encoding of the file.

    Raises:
        DataError: the file cannot be read or has no records, or a line is bad and `skips` has the
            policy "raise".
        InputError: there is no such encoding.
    """
    path = Path(path)
    return collect(path, json_objects(read_text(path, encoding)), skips or Skips())


def strict_json(text: str) -> Any:
    """Parses a JSON text.

    Differs from `json.loads`: duplicate keys of an object, numbers that are not finite, half a
    surrogate pair and very deep nesting are errors.

    Raises:
        RecordError: it is not JSON, or one of these.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as problem:
        what = problem.msg.rstrip(": ").removesuffix(" at")
        line = f"line {problem.lineno}, " if "\n" in text else ""
        raise RecordError(
            f"{what} at {line}character {problem.colno}.",
            "Expected JSON; is a line cut off?",
            reason="no JSON",
        ) from problem
    except UnicodeEncodeError as problem:
        raise RecordError(
            "half a surrogate pair, which is not valid Unicode text.",
            "Escape characters in pairs, or write them as they are.",
            reason="no Unicode",
        ) from problem
    except RecursionError as problem:
        raise RecordError("nested too deeply.", reason="no JSON") from problem
    except ValueError as problem:
        raise RecordError(f"{problem}.", reason="no JSON") from problem
    return value


def json_objects(text: str) -> Iterator[tuple[str, Record | RecordError]]:
    """Place and object of every line that is not blank, for `collect`."""
    for number, line in numbered_lines(text):
        if line.strip():
            yield f"line {number}", _object(line)


def _object(line: str) -> Record | RecordError:
    try:
        value = strict_json(line)
    except RecordError as problem:
        if line.strip() in ("[", "{"):
            problem.advice = (
                f"If an object goes over several lines, use {setting('format', 'json')}."
            )
        return problem
    if not isinstance(value, dict):
        whole = f"If the whole file is one list, use {setting('format', 'json')}."
        advice = whole if isinstance(value, list) else ""
        return RecordError("expected a JSON object {...}.", advice, reason="no object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise RecordError(
            f"the key {key!r:.80} occurs {count} times in an object.",
            "Keep one of them.",
            reason="repeated key",
        )
    return record


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise RecordError(
            f"{number:.80} is not a finite number.", "Write null.", reason="number not finite"
        )
    return value
