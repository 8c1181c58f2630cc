"""Strict JSON: one meaning, bounded cost, one error that names the file."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from minilm.errors import ConfigError, TokenizerFileError
from minilm.files.json_file import MAX_DEPTH, json_bytes, parse_json, read_json


def read(path: Path, content: bytes, max_bytes: int = 10_000) -> dict[str, object]:
    path.write_bytes(content)
    return read_json(path, max_bytes=max_bytes, error=ConfigError)


def test_an_object_is_read(tmp_path: Path) -> None:
    text = '{"a": [1, 2.5, true, null, "é"], "b": {"c": -0.0}}'
    expected = {"a": [1, 2.5, True, None, "é"], "b": {"c": -0.0}}
    assert read(tmp_path / "x.json", text.encode()) == expected
    assert read(tmp_path / "x.json", b"\xef\xbb\xbf" + text.encode()) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' appears twice"),
        (b'{"x": {"deep": 1, "b": 2, "deep": 3}}', "the key 'deep' appears twice"),
        (b'{"a": 1, "\\u0061": 2}', "the key 'a' appears twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e400}', "1e400"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"[]", "a list"),
        (b'"x"', "a string"),
        (b"3", "a number"),
        (b"false", "true or false"),
        (b"null", "null"),
        (b"", "line 1"),
        (b"{} {}", "Extra data"),
        (b"{'a': 1}", "double quotes"),
        (b'{"a": 1,}', "double quotes"),
        (b'{"a": "\n"}', "control character"),
        (b'{"a": ' + b"1" * 5000 + b"}", "5000"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.json", content)
    assert str(tmp_path / "x.json") in str(caught.value)
    assert words in str(caught.value)


def test_the_size_is_checked_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.touch()
    os.truncate(path, 2**40)
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"x\.json has 1,099,511,627,776 bytes, at most 100"):
        read_json(path, max_bytes=100, error=ConfigError)
    assert time.process_time() - start < 0.1
    assert read(path, b"{}" + b" " * 98, max_bytes=100) == {}


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth(tmp_path: Path, opening: str) -> None:
    path, closing = tmp_path / "x.json", "]" if opening == "[" else "}"

    def nested(depth: int) -> bytes:
        return f'{{"x":{opening * depth}1{closing * depth}}}'.encode()

    assert read(path, nested(MAX_DEPTH - 1))
    for depth in (MAX_DEPTH, 5_000, 100_000):
        with pytest.raises(ConfigError, match="nested deeper than 64 levels"):
            read(path, nested(depth), max_bytes=10**7)
    with pytest.raises(ConfigError):
        read(path, opening.encode() * 1_000_000, max_bytes=10**7)


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "broken link"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "broken link":
            path.symlink_to("nowhere")
    with pytest.raises(TokenizerFileError, match=str(path)):
        read_json(path, max_bytes=100, error=TokenizerFileError)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"x\.json cannot be read: Permission denied"):
        read_json(tmp_path / "x.json", max_bytes=100, error=ConfigError)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_what_is_written_is_read(data: dict[str, object]) -> None:
    assert parse_json(json_bytes(data)) == data
    assert json_bytes(json.loads(json_bytes(data))) == json_bytes(data)


def test_writing_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"a": float("nan")})


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,01eE.-+\\ntrufalsNI ', max_size=40))
def test_random_bytes_give_an_object_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        outcome: object = read_json(path, max_bytes=1000, error=ConfigError)
    except ConfigError as error:
        outcome = str(error)
    assert isinstance(outcome, dict) or str(path) in str(outcome)


def test_a_higher_recursion_limit_changes_nothing(tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(3_000)
    try:
        with pytest.raises(ConfigError, match="nested"):
            read(tmp_path / "x.json", b'{"a":' * 2_000 + b"1" + b"}" * 2_000, max_bytes=10**6)
    finally:
        sys.setrecursionlimit(limit)
