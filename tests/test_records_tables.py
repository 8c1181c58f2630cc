"""Tables, JSON lines and the files of GLUE: what each row becomes, and what is wrong with it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from minilm.data.records import tables
from minilm.data.records.base import Records, Skips
from minilm.data.records.glue import read_glue
from minilm.data.records.json_lines import read_json_lines
from minilm.data.records.tables import read_table
from minilm.errors import DataError, InputError


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_bytes(text.encode())
    return path


def failure(path: Path, read: Callable[..., Records], *args: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, *args, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", [["1", "2"]]),
        ("a,b\r\n1,2\r\n3,4", [["1", "2"], ["3", "4"]]),
        ("\ufeffa,b\n1,2", [["1", "2"]]),
        ("\n  \na,b\n\n1,2\n   \n\r\n3,4\n\n", [["1", "2"], ["3", "4"]]),
        ('a,b\n"1","2, or ""3"""\n', [["1", '2, or "3"']]),
        ('a,b\n"one\ntwo\r\nthree",2\r\n3,4', [["one\ntwo\r\nthree", "2"], ["3", "4"]]),
        ('a,b\n"",""\n,\n', [["", ""], ["", ""]]),
        ('a,b\nsay "hi","x"\n', [['say "hi"', "x"]]),
        ("a,b\nx\ry,z\u2028\x85\x0b\x0c\x1c\n", [["x\ry", "z\u2028\x85\x0b\x0c\x1c"]]),
        ("a,b\n 1 ,\t2\n", [[" 1 ", "\t2"]]),
        ('"a","b"\n1,"2"', [["1", "2"]]),
        ('"a\nb",b\n1,2', [["1", "2"]]),
    ],
)
def test_csv(tmp_path: Path, text: str, rows: list[list[str]]) -> None:
    assert [list(row.values()) for row in read_table(write(tmp_path, "a.csv", text))] == rows


def test_names_of_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", ",text,label\n0,hi,1\n")
    assert read_table(path)[0] == {"column 1": "0", "text": "hi", "label": "1"}
    assert read_table(path, header=False)[0] == {"1": "", "2": "text", "3": "label"}
    path = write(tmp_path, "b.csv", '"text"\n" "\n""\nx\n')
    assert [row["text"] for row in read_table(path)] == [" ", "", "x"]


def test_tsv_has_no_quotes_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'a\tb\n"\thi "\n\t\n"x\ty"\n')
    rows = [list(row.values()) for row in read_table(path)]
    assert rows == [['"', 'hi "'], ["", ""], ['"x', 'y"']]
    path = write(tmp_path, "b.tsv", 'a\tb\n"x\ty"\tz\n')
    assert read_table(path, quoting=True)[0] == {"a": "x\ty", "b": "z"}
    path = write(tmp_path, "c.csv", 'a,b\n"x,y\n')
    assert read_table(path, quoting=False)[0] == {"a": '"x', "b": "y"}


@pytest.mark.parametrize("delimiter", [";", "|", "^", "]", "-", "\\", " "])
def test_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path, "a.txt", f'a{delimiter}b\n"1{delimiter}"{delimiter}2,3\n')
    assert read_table(path, delimiter=delimiter)[0] == {"a": f"1{delimiter}", "b": "2,3"}


def test_the_line_named_is_the_first_of_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'a,b\n"x\n\ny",1\nz,2\n\n"u\nv",3\n')
    records = read_table(path)
    places = [records.where(i).removeprefix(f"{path}, ") for i in range(3)]
    assert places == ["line 2", "line 5", "line 7"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            'a,b\n"1\n",2\n3\n',
            ", line 4: expected 2 fields, found 1. Put fields with ',' in",
        ),
        ("a.csv", "a,b\n0,2,3\n", ", line 2: expected 2 fields, found 3."),
        (
            "a.tsv",
            "a\tb\n0\t2\t3\n",
            ", line 2: expected 2 fields, found 3. Remove '\\t' from the fields",
        ),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', ", line 3: the quote that begins field 2 is never"),
        ("a.csv", 'a,b\n"1\n2","3\n', ", line 3: the quote that begins field 2 is never closed."),
        ("a.csv", 'a,b\n1,"2" x\n', ", line 2: text follows the closing quote of field 2. Double"),
        ("a.csv", '"a"b,c\n1,2\n', ", line 1: text follows the closing quote of field 1."),
        ("a.csv", "\na,b,a\n1,2,3\n", ", line 2: the header has 2 columns 'a'. Rename them"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, text: str, message: str) -> None:
    assert message in failure(write(tmp_path, name, text), read_table)


def test_bad_rows_are_skipped_and_the_next_is_read(tmp_path: Path) -> None:
    text = 'a,b\n1,2\n"3"x,"4\n5,6\n7\n"8\n9",10\n11,12,13\n'
    skips = Skips("skip")
    records = read_table(write(tmp_path, "a.csv", text), skips=skips)
    assert [row["a"] for row in records] == ["1", "5", "8\n9"]
    assert records.where(2).endswith("line 6")
    assert skips.reasons == {"ragged row": 2, "misplaced quote": 1}
    assert skips.total == 6
    headerless = read_table(write(tmp_path, "b.csv", '"x"y\n1,2\n'), header=False, skips=skips)
    assert list(headerless) == [{"1": "1", "2": "2"}]
    with pytest.raises(DataError, match="1 misplaced quote"):
        read_table(write(tmp_path, "c.csv", '"x"y\n'), header=False, skips=Skips("skip"))


def test_long_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "word " * 100_000
    path = write(tmp_path, "a.csv", f'a,b\n"{long}",1\n{long},2\n')
    assert [row["a"] for row in read_table(path)] == [long, long]
    assert read_table(write(tmp_path, "a.tsv", f"a\tb\n{long}\t1\n"))[0]["a"] == long
    monkeypatch.setattr(tables, "MAX_FIELD", 9)
    path = write(tmp_path, "b.csv", 'a,b\n"12345\n789",2\n1,1234567890\n')
    assert ", line 4: field 2 has more than 9 characters." in failure(path, read_table)


def test_delimiters_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "a,b\n1,2\n")
    for delimiter in ("", "::", '"', "\n", "\r"):
        with pytest.raises(InputError, match="delimiter must be one character"):
            read_table(path, delimiter=delimiter)
    with pytest.raises(InputError, match="the delimiter must be given"):
        read_table(write(tmp_path, "a.txt", "a,b\n1,2\n"))


fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
crowded = st.text(st.sampled_from('",\n\r\t a;'), max_size=8)
row_lists = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(fields | crowded, min_size=n, max_size=n), min_size=1, max_size=5)
)


@settings(max_examples=150, deadline=None)
@given(
    row_lists,
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_what_csv_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    delimiter: str,
    line_end: str,
    quoting: Any,
    header: bool,
) -> None:
    if line_end == "\n":  # csv leaves \r without quotes then, and at the end it is one of \r\n
        rows = [[*row[:-1], row[-1].rstrip("\r")] for row in rows]
    names = [f"name {i}" for i in range(len(rows[0]))]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([names, *rows])
    path = tmp_path_factory.getbasetemp() / "round.csv"
    path.write_bytes(file.getvalue().encode())
    records = read_table(path, delimiter=delimiter, header=header, quoting=True)
    found = [list(row.values()) for row in records]
    assert found == (rows if header else [names, *rows])
    if header:
        assert list(records[0]) == names


plain_fields = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n"), max_size=8
).filter(lambda field: not field.endswith("\r"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(plain_fields, min_size=2, max_size=2), min_size=1, max_size=5))
def test_what_is_joined_by_tabs_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.tsv"
    path.write_bytes("".join("\t".join(row) + "\n" for row in [["a", "b"], *rows]).encode())
    assert [list(row.values()) for row in read_table(path)] == rows


def test_json_lines(tmp_path: Path) -> None:
    text = '\ufeff{"text": "a\\u00e9\\ud83d\\ude00", "n": [1, 2.5, null]}\r\n\n  \n{"x": {"y": 1}}'
    records = read_json_lines(write(tmp_path, "a.jsonl", text))
    assert list(records) == [{"text": "aé😀", "n": [1, 2.5, None]}, {"x": {"y": 1}}]
    assert records.where(1).endswith(", line 4")
    long = "word " * 100_000
    path = write(tmp_path, "b.jsonl", json.dumps({"text": long}))
    assert read_json_lines(path)[0]["text"] == long


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "expected a JSON object {...}."),
        ("null", "expected a JSON object"),
        ('{"a": 1', "Expecting ',' delimiter at character 8. Expected JSON"),
        ('{"a": 1} {}', "Extra data at character 10."),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs 2 times in an object."),
        ('{"a": NaN}', "NaN is not a finite number. Write null."),
        ('{"a": [-Infinity]}', "-Infinity is not a finite number."),
        ('{"a": 1e999}', "1e999 is not a finite number."),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"\\udc00": 1}', "half a surrogate pair"),
        ('{"a": ' + "[" * 100_000, "nested too deeply."),
        ('{"a": ' + "1" * 5_000 + "}", "Exceeds the limit"),
        ('{"a": "x\ty"}', "Invalid control character at character 9."),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n\n' + line + '\n{"a": 2}\n')
    assert failure(path, read_json_lines).startswith(f", line 3: {message}")
    skips = Skips("skip")
    assert [row["a"] for row in read_json_lines(path, skips=skips)] == [1, 2]
    assert skips.count == 1


objects = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=4,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(objects, min_size=1, max_size=4), st.booleans())
def test_what_json_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    lines = (json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    path.write_bytes("".join(lines).encode())
    assert list(read_json_lines(path)) == rows


GLUE = {
    "cola": ("gj04\t1\t\tThey sang.\ngj04\t0\t*\tThey sung \" it.\n", ("1", "0"), False),
    "sst2": ("sentence\tlabel\nfine \t1\n\" bad\t0\n", ("1", "0"), False),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta \" b\t\" c\n0\t9\t9\td\te\n",
        ("1", "0"),
        True,
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tm\tv\t12\t1\tnone\tnone\ta\tb\t5.000\n1\tm\tv\t12\t2\tnone\tnone\tc\td\t0.25\n",
        (5.0, 0.25),
        True,
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "0\t1\t2\ta?\tb?\t0\n1\t3\t4\tc?\td?\t1\n",
        ("0", "1"),
        True,
    ),
    "mnli": (
        "index\tpromptID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t1\tf\t( a )\ta\tb\tneutral\tentailment\n1\t2\tf\t( c )\tc\td\tneutral\tneutral\n",
        ("entailment", "neutral"),
        True,
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\ta?\tb\tentailment\n1\tc?\td\tnot_entailment\n",
        ("entailment", "not_entailment"),
        True,
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n",
        ("not_entailment", "entailment"),
        True,
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n1\tc\td\t0\n", ("1", "0"), True
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", GLUE)
def test_glue(tmp_path: Path, task: str) -> None:
    text, labels, pairs = GLUE[task]
    records = read_glue(write(tmp_path, "train.tsv", text), task)
    assert tuple(record["label"] for record in records) == labels
    assert all(("text_pair" in record) == pairs for record in records)


def test_glue_texts(tmp_path: Path) -> None:
    records = read_glue(write(tmp_path, "a.tsv", GLUE["mrpc"][0]), "mrpc")
    assert records[0] == {"text": 'a " b', "text_pair": '" c', "label": "1"}
    assert records.where(1).endswith("a.tsv, line 3")
    records = read_glue(write(tmp_path, "b.tsv", GLUE["cola"][0]), "cola")
    assert records[1] == {"text": 'They sung " it.', "label": "0"}
    assert records.where(0).endswith("b.tsv, line 1")
    assert read_glue(write(tmp_path, "c.tsv", GLUE["sst2"][0]), "sst2")[0]["text"] == "fine "


def test_glue_test_files_have_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "test.tsv", "index\tsentence\n0\tThey sang.\n")
    assert list(read_glue(path, "cola")) == list(read_glue(path, "sst2")) == [
        {"text": "They sang."}
    ]  # fmt: skip
    path = write(tmp_path, "rte.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n")
    assert list(read_glue(path, "rte")) == [{"text": "a", "text_pair": "b"}]


def test_stsb_before_glue(tmp_path: Path) -> None:
    start = "main\tMSR\t2012\t0001"
    path = write(tmp_path, "sts.csv", f"{start}\t5.0\ta\tb\n{start}\t1\tc\td\turl\turl\n")
    assert [record["label"] for record in read_glue(path, "stsb")] == [5.0, 1.0]
    path = write(tmp_path, "sts.csv", f"{start}\t5.0\ta\tb\n{start}\t1\tc\td\turl\n")
    assert ", line 2: expected 7 fields, found 8." in failure(path, read_glue, "stsb")


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("sst2", "sentence\tlabel\na\tpositive\n", "line 2: the label is 'positive', expected 0"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t-\n", "expected entailment, not_e"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\tnan\n", "expected a number from 0 to 5."),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\t5.1\n", "the label is '5.1'"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\t\n", "the label is ''"),
        ("rte", "sentence\tlabel\na\t1\n", ", line 1: columns sentence, label; rte has sentence"),
        ("sst2", "a\t1\n", "sst2 has sentence. Is it the file of another task?"),
        ("cola", "sentence1\tsentence2\tlabel\n", ", line 1: expected 4 fields, found 3."),
        ("qqp", "question1\tquestion2\tis_duplicate\na\tb\n", "expected 3 fields, found 2. GLUE's"),
        ("sst2", "\n", "no record in it"),
        ("sst2", "sentence\tlabel\n", "no record in it"),
    ],
)  # fmt: skip
def test_bad_glue(tmp_path: Path, task: str, text: str, message: str) -> None:
    assert message in failure(write(tmp_path, "a.tsv", text), read_glue, task)
