"""Text files to documents: kinds, line ends, encodings, damage."""

import contextlib
import gzip
import json
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from minilm.data import text_files
from minilm.data.text_files import TextFormat, check_text_file, read_documents
from minilm.errors import DataError, InputError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
}


def write(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def texts(path: Path, text_format: TextFormat | None = None) -> list[str]:
    return [document.text for document in read_documents(path, text_format)]


def failure(path: Path, text_format: TextFormat | None = None) -> str:
    with pytest.raises(DataError) as caught:
        texts(path, text_format)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
def test_both_formats_in_all_compressions(tmp_path: Path, compression: str) -> None:
    documents = ["Erster Satz.\nÜber zwei Zeilen.", "她走了。"]
    compress = COMPRESS[compression]
    lines = "\n\n".join(documents).encode()
    records = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in documents).encode()
    assert texts(write(tmp_path, f"a.txt{compression}", compress(lines))) == documents
    assert texts(write(tmp_path, f"a.jsonl{compression}", compress(records))) == documents
    assert texts(write(tmp_path, f"A.TXT{compression.upper()}", compress(lines))) == documents


@pytest.mark.parametrize(
    ("data", "documents"),
    [
        (b"", []),
        (b"\n\n \t\n\r\n", []),
        (b"a", ["a"]),
        (b"a\nb\n", ["a\nb"]),
        (b"a\r\nb\r\n\r\nc\r\n", ["a\nb", "c"]),
        (b"a\n \t \nb\n\n\n\nc", ["a", "b", "c"]),
        ("\ufeffa\n\nb".encode(), ["a", "b"]),
        (b"\xef\xbb\xbf", []),
        (b"a\0b\n\0\n", ["a\0b\n\0"]),
        ("a\u2028b\x85c\rd\n".encode(), ["a\u2028b\x85c\rd"]),  # no ends of a file's lines
        (b"x" * 1_000_000 + b"\n\ny", ["x" * 1_000_000, "y"]),
    ],
)
def test_documents_of_a_txt_file(tmp_path: Path, data: bytes, documents: list[str]) -> None:
    assert texts(write(tmp_path, "a.txt", data)) == documents


def test_documents_know_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"\n\nfirst\nsecond\n\nthird\n")
    assert [document.line for document in read_documents(path)] == [3, 6]
    path = write(tmp_path, "a.jsonl", b'\n{"text": "a"}\n\n{"text": ""}\n')
    found = list(read_documents(path))
    assert [(document.line, document.text) for document in found] == [(2, "a"), (4, "")]
    assert str(found[1]) == f"{path}, line 4"


def test_every_line_a_document(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"a\n\nb\nc\n")
    assert texts(path, TextFormat(document_per_line=True)) == ["a", "b", "c"]


def test_json_text(tmp_path: Path) -> None:
    records = [
        {"text": "two\r\nlines", "meta": [1, {"a": None}]},
        {"text": "\ud83d\ude00 \u0000"},
        {"text": "kept\ud83d\ude00"},
    ]
    lines = "\r\n".join(json.dumps(record) for record in records)
    path = write(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + lines.encode())
    assert texts(path) == ["two\r\nlines", "😀 \0", "kept😀"]
    path = write(tmp_path, "b.jsonl", b'{"body": "x", "text": 3, "score": NaN}')
    assert texts(path, TextFormat(text_key="body")) == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 3"),
        (b'{"text": "a"} x', "line 3: Extra data"),
        (b"[1]", "line 3: expected a JSON object"),
        (b"null", "line 3: expected a JSON object"),
        (b'{"body": "a", "id": 1}', "line 3: no key 'text'; it has: body, id."),
        (b'{"text": null}', "line 3: 'text' must be a string, not None"),
        (b'{"text": ["a"]}', "line 3: 'text' must be a string, not"),
        (b'{"text": "a\\ud800b"}', "half a surrogate pair ('\\ud800') at character 2"),
        (b'{"text": "\\udc00\\ud800"}', "at character 1"),
        (b'{"text": "a\xff"}', "line 3: byte 12 (0xff) is not UTF-8"),
        (b'{"text": ' + b"[" * 100_000, "line 3: nested too deeply"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "line 3: Exceeds the limit"),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n\n' + line + b"\n")
    assert message in failure(path)


@pytest.mark.parametrize(
    ("errors", "bytes_give", "surrogates_give"),
    [("replace", "a\ufffdb", "a\ufffdb\ufffd😀"), ("ignore", "ab", "ab😀")],
)
def test_lenient_reading(
    tmp_path: Path, errors: str, bytes_give: str, surrogates_give: str
) -> None:
    lenient = TextFormat(encoding_errors=errors)  # type: ignore[arg-type]
    assert texts(write(tmp_path, "a.txt", b"a\xffb"), lenient) == [bytes_give]
    path = write(tmp_path, "a.jsonl", rb'{"text": "a\ud800b\udc00\ud83d\ude00"}')
    assert texts(path, lenient) == [surrogates_give]


def test_unknown_error_handling() -> None:
    with pytest.raises(InputError, match="strict, replace, ignore, not 'surrogateescape'"):
        TextFormat(encoding_errors="surrogateescape")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"fine\n\nbad \xe9 here\n", "line 3: byte 5 (0xe9) is not UTF-8"),
        ("a.txt", b"ok\n\xed\xa0\x80", "line 2: byte 1 (0xed) is not UTF-8"),  # a surrogate
        ("a.txt", gzip.compress(b"text", mtime=0), "add .gz to its name"),
        ("a.txt", lzma.compress(b"text"), "add .xz to its name"),
        ("a.txt", "text".encode("utf-16"), "iconv -f utf-16"),
        ("a.txt.gz", b"text", "Not a gzipped file"),
        ("a.txt.xz", b"text", "damaged or cut off after line 0"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0) + b"more", "damaged or cut off"),
        ("a.csv", b"text", "text files end in .txt, .jsonl, .json"),
        ("a.gz", b"text", "text files end in .txt, .jsonl, .json"),
        ("txt", b"text", "text files end in .txt, .jsonl, .json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    assert message in failure(write(tmp_path, name, data))


def test_no_file_at_all(tmp_path: Path) -> None:
    assert "does not exist" in failure(tmp_path / "a.txt")
    (tmp_path / "b.txt").mkdir()
    assert "is a directory" in failure(tmp_path / "b.txt")
    assert check_text_file(write(tmp_path, "c.txt", b"abc")) == 3


@pytest.mark.parametrize("compression", [".gz", ".xz"])
def test_cut_and_damaged_files_never_pass(tmp_path: Path, compression: str) -> None:
    data = COMPRESS[compression](b"\n\n".join(b"document %d" % i for i in range(80)))
    for length in range(1, len(data)):
        assert "damaged or cut off" in failure(
            write(tmp_path, f"a.txt{compression}", data[:length])
        )
    for place in range(20, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        failure(write(tmp_path, f"a.txt{compression}", bytes(flipped)))


def test_several_members_are_one_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.txt.gz", gzip.compress(b"a\n\nb", mtime=0) + gzip.compress(b"c\n", mtime=0)
    )
    assert texts(path) == ["a", "bc"]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE", 10)
    assert texts(write(tmp_path, "a.txt", b"123456789\n\nb")) == ["123456789", "b"]
    assert "line 2: more than 10 bytes in one line" in failure(
        write(tmp_path, "a.txt", b"\n12345678901\n")
    )
    monkeypatch.setattr(text_files, "MAX_DOCUMENT", 20)
    message = failure(write(tmp_path, "a.txt", b"\n" + b"1234567\n" * 3))
    assert "line 4: the document that begins at line 2 has more than 20 characters" in message


@pytest.mark.parametrize("compression", COMPRESS)
def test_files_are_not_read_whole(tmp_path: Path, compression: str) -> None:
    numbers = "\n\n".join(str(hash(str(i))) for i in range(100_000)).encode()
    data = (
        COMPRESS[compression](numbers) if compression != ".xz" else lzma.compress(numbers, preset=0)
    )
    seen: list[bytes] = []
    documents = read_documents(write(tmp_path, f"a.txt{compression}", data), on_bytes=seen.append)
    next(documents)
    assert 0 < sum(map(len, seen)) < len(data) / 2
    assert sum(1 for _ in documents) == 99_999
    assert b"".join(seen) == data


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r")).filter(
    lambda line: bool(line.strip())
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=5))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]]
) -> None:
    directory = tmp_path_factory.mktemp("files")
    expected = ["\n".join(lines) for lines in documents]
    joined = "\ufeff" + "\n\n".join(expected)
    assert texts(write(directory, "a.txt", joined.encode())) == expected
    records = "\n".join(json.dumps({"text": text}) for text in expected)
    assert texts(write(directory, "a.jsonl", records.encode())) == expected


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.xz"]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("files"), name, data)
    start = time.perf_counter()
    with contextlib.suppress(DataError):
        texts(path)
    assert time.perf_counter() - start < 5
