"""Records: places, what is skipped, formats by name, stored bytes, and that nothing else breaks."""

import contextlib
import gzip
import json
import lzma
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from minilm.data.records.base import Records, Skips, where
from minilm.data.records.files import read_records
from minilm.errors import DataError, InputError, MinilmError


def write(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def test_records_are_a_sequence_that_knows_its_places() -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    records = Records(rows, ["line 2", "line 3", "line 7"], "train.tsv")
    assert len(records) == 3
    assert list(records) == rows
    assert records[-1] is rows[2]
    assert records.where(2) == records.where(-1) == where(records, 2) == "train.tsv, line 7"
    assert list(records[1:]) == rows[1:]
    assert records[1:].where(0) == "train.tsv, line 3"
    assert where(rows, 17) == "record 17"
    with pytest.raises(IndexError):
        records[3]
    with pytest.raises(InputError, match="3 rows but 0 places"):
        Records(rows, [], "train.tsv")


def test_skips_count_and_tell() -> None:
    skips = Skips("skip")
    assert skips.summary() == "0 of 0 records skipped"
    skips.total = 100
    for line in range(17, 24):
        reason = "empty text" if line == 18 else "unknown label"
        skips.refuse(f"train.tsv, line {line}", "the label is 'x'.", "Is it?", reason=reason)
    assert skips.count == 7
    assert skips.reasons == {"unknown label": 6, "empty text": 1}
    assert len(skips.first) == 5
    assert skips.summary() == (
        "7 of 100 records skipped: 6 unknown label, 1 empty text; first: train.tsv, line 17: "
        "the label is 'x'. Is it?"
    )
    skips.repaired = 2
    assert skips.summary().endswith(" (2 repaired)")


def test_raising_is_the_default() -> None:
    skips = Skips()
    with pytest.raises(DataError, match=r"^a.csv, line 3: the text is empty.$"):
        skips.refuse("a.csv, line 3", "the text is empty.", reason="empty text")
    assert skips.count == 0
    with pytest.raises(InputError, match="one of raise, skip, not 'ignore'"):
        Skips("ignore")  # type: ignore[arg-type]


def test_the_total_is_of_good_and_bad(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", b"a\tb\n1\t2\n3\n4\t5\n")
    skips = Skips("skip")
    assert len(read_records(path, skips=skips)) == 2
    assert skips.summary().startswith("1 of 3 records skipped: 1 ragged row; first: ")
    read_records(path, skips=skips)
    assert (skips.count, skips.total) == (2, 6)


FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "a.csv": ("text,label\nhi,1\n", {"text": "hi", "label": "1"}),
    "a.tsv": ("text\tlabel\nhi\t1\n", {"text": "hi", "label": "1"}),
    "a.jsonl": ('{"text": "hi", "label": 1}\n', {"text": "hi", "label": 1}),
    "a.conll": ("hi O\nJo B-PER\n", {"tokens": ["hi", "Jo"], "tags": ["O", "B-PER"]}),
    "a.iob": ("hi O\n", {"tokens": ["hi"], "tags": ["O"]}),
    "a.bio": ("hi O\n", {"tokens": ["hi"], "tags": ["O"]}),
    "a.json": (
        json.dumps(
            {
                "data": [
                    {
                        "title": "t",
                        "paragraphs": [
                            {
                                "context": "He came.",
                                "qas": [
                                    {
                                        "id": "1",
                                        "question": "Who?",
                                        "answers": [{"text": "He", "answer_start": 0}],
                                    }
                                ],
                            }
                        ],
                    }
                ]
            }
        ),
        {
            "id": "1",
            "title": "t",
            "question": "Who?",
            "context": "He came.",
            "answers": [{"text": "He", "answer_start": 0}],
            "is_impossible": False,
        },
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_formats_by_suffix(tmp_path: Path, name: str) -> None:
    text, record = FILES[name]
    assert list(read_records(write(tmp_path, name, text.encode()))) == [record]
    packed = write(tmp_path, f"{name.upper()}.GZ", gzip.compress(text.encode(), mtime=0))
    assert list(read_records(str(packed))) == [record]
    packed = write(tmp_path, f"{name}.xz", lzma.compress(text.encode()))
    assert list(read_records(packed)) == [record]


def test_formats_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "words.txt", b"a;1\nb;0\n")
    assert read_records(path, format="csv", delimiter=";", header=False)[1] == {"1": "b", "2": "0"}
    path = write(tmp_path, "train", b"sentence\tlabel\nfine\t1\n")
    assert list(read_records(path, format="glue:sst2")) == [{"text": "fine", "label": "1"}]
    assert list(read_records(path, format="tsv")) == [{"sentence": "fine", "label": "1"}]


def test_a_directory_of_utterances(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a directory without seq.in"):
        read_records(tmp_path)
    for name, line in {"seq.in": b"hi", "seq.out": b"O", "label": b"greet"}.items():
        write(tmp_path, name, line)
    assert read_records(tmp_path)[0] == {"tokens": ["hi"], "tags": ["O"], "intent": "greet"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.data", {}, "its name does not tell the format (known: .csv, .tsv"),
        (
            "a",
            {},
            "Give format=...; there are csv, tsv, json, jsonl, parquet, text, conll, squad",
        ),
        ("a.csv", {"format": "orc"}, "no format 'orc'; there are csv, tsv"),
        ("a.csv", {"format": "glue:sst5"}, "no GLUE task 'sst5'; there are cola, sst2"),
        (
            "a.csv",
            {"tagged": True},
            "'tagged' is not an option of the format 'csv'; it has: delimiter",
        ),
        ("a.csv", {"encoding": "utf-9"}, 'encoding="utf-9" is not a text encoding'),
        ("a.csv", {"encoding": "base64"}, 'encoding="base64" is not a text encoding'),
        ("a.csv", {"encoding": "a\0b"}, "is not a text encoding"),
    ],
)
def test_wrong_arguments(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path, name, b"a,b\n1,2\n")
    with pytest.raises(InputError) as caught:
        read_records(path, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "no record in it. Expected at least one"),
        ("a.csv", b"\n \n\n", "no record in it"),
        ("a.csv", b"a,b\n", "no record in it"),
        ("a.tsv", b"\xef\xbb\xbf", "no record in it"),
        ("a.jsonl", b"\n\n", "no record in it"),
        ("a.conll", b"-DOCSTART- O\n\n", "no record in it"),
        ("a.json", b'{"data": []}', "no record in it"),
        ("a.json", b"", "Expecting value at character 1"),
        ("a.csv", b"a,b\n1,2\nx,caf\xe9\n", "line 3: byte 6 (0xe9) is not UTF-8. Convert it, or"),
        ("a.csv", b"a,b\n1,2\nx,caf\xe9\n", 'encoding="latin-1"'),
        ("a.tsv", b"a\tb\n1\t\0\n", "line 2: a NUL character"),
        ("a.conll", "hi O".encode("utf-16-be"), "line 1: a NUL character"),
        ("a.csv", gzip.compress(b"a,b\n1,2", mtime=0), "add .gz to its name"),
        ("a.csv", lzma.compress(b"a,b\n1,2"), "add .xz to its name"),
        ("a.csv", b"PK\x03\x04\0\0", "It is a zip archive, or a table of Excel"),
        ("a.csv.gz", b"a,b\n1,2", "is damaged or cut off: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2", mtime=0)[:-3], "is damaged or cut off"),
        ("a.csv.xz", lzma.compress(b"a,b\n1,2")[:-3], "is damaged or cut off"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = write(tmp_path, name, data)
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match="is a directory, expected a file"):
        read_records(tmp_path / "b.csv", format="csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_records("a\0.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a.csv", "text,label\r\ncafé,1\r\n".encode(encoding))
    assert list(read_records(path, encoding=encoding)) == [{"text": "café", "label": "1"}]


def test_all_skipped_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", b"a\tb\n1\n2\n")
    with pytest.raises(DataError) as caught:
        read_records(path, skips=Skips("skip"))
    assert "no record in it (2 of 2 records skipped: 2 ragged row; first: " in str(caught.value)


FORMATS = [
    "csv",
    "tsv",
    "json",
    "jsonl",
    "text",
    "conll",
    "squad",
    "utterances",
    "glue:cola",
    "glue:stsb",
]
FORMATS += ["glue:mrpc", "glue:sst2"]
PIECES = [b'"', b",", b"\t", b"\n", b"\r", b" ", b"#", b"{", b"}", b"[", b"]", b":", b"\\u", b"a"]
PIECES += [b'{"a": 1}', b"data", b"sentence\tlabel\n", b"-DOCSTART-", b"\xef\xbb\xbf", b"O\n", b"1"]
soup = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@pytest.mark.filterwarnings("ignore:.*(separates the columns|are in quotes|Is the delimiter)")
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | soup, st.sampled_from(FORMATS), st.sampled_from(["raise", "skip"]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, format: str, policy: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    if format == "utterances":
        path = tmp_path_factory.getbasetemp() / "any_utterances"
        path.mkdir(exist_ok=True)
        for name in ("seq.in", "seq.out", "label"):
            write(path, name, data)
    else:
        path.write_bytes(data)
    skips = Skips(policy)
    with contextlib.suppress(MinilmError):
        records = read_records(path, format=format, skips=skips)
        assert len(records) + skips.count == skips.total
        assert [records.where(i) for i in range(len(records))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "title", "paragraphs", "context", "qas", "id", "question"])
            | st.sampled_from(["answers", "text", "answer_start", "is_impossible"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(json_values, st.sampled_from(["data", "paragraphs", "qas", "answers"]))
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: Any, depth: str
) -> None:
    if depth == "answers":
        value = [{"id": 1, "question": "?", "answers": value}]
    if depth in ("answers", "qas"):
        value = [{"context": "a text", "qas": value}]
    if depth != "data":
        value = [{"paragraphs": value}]
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"data": value}), encoding="utf-8")
    for labelled in (True, False):
        with contextlib.suppress(MinilmError):
            read_records(path, labelled=labelled, skips=Skips("skip"))


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("csv", b"," * 300_000),
        ("csv", b"a," * 200_000 + b"a"),
        ("csv", b'"' * 400_001),
        ("csv", b'a\n"' + b"\n" * 400_000),
        ("csv", b'a\n' + b'"x"y\n' * 100_000),
        ("jsonl", b"{" + b'"a":1,' * 100_000 + b'"b":2}'),
        ("jsonl", b"[" * 400_000),
        ("conll", b"#\n" * 200_000),
        ("conll", b"a" + b" " * 400_000 + b"O"),
    ],
)  # fmt: skip
def test_no_input_takes_long(tmp_path: Path, format: str, data: bytes) -> None:
    path = write(tmp_path, "a", data)
    begin = time.process_time()
    with contextlib.suppress(MinilmError):
        read_records(path, format=format, skips=Skips("skip"))
    assert time.process_time() - begin < 5


def test_readers_need_nothing_but_python() -> None:
    code = (
        "import sys, types; root = types.ModuleType('minilm'); root.__path__ = ['minilm'];"
        "sys.modules['minilm'] = root; import minilm.data.records.files;"
        "import minilm.data.records.tag_schemes;"
        "print([name for name in ('torch', 'numpy', 'tokenizers') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_options_that_a_format_has_are_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(InputError, match="it has: delimiter, header, quoting, escape, encoding."):
        read_records(tmp_path / "a.csv", usual_delimiter=";")
