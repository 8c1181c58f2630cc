"""What pandas, datasets, Excel, R and Kaggle write is read as what it says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minilm.data.records.conll import read_conll
from minilm.data.records.files import read_records
from minilm.data.records.tables import read_table
from minilm.data.row_files import RowFile, RowReader
from minilm.errors import DataError, InputError

ROWS = [
    {"text": 'the "red" cat, see', "label": "good"},
    {"text": "a café;\nthen home", "label": "bad"},
    {"text": "plain", "label": "good"},
]
QUIET = "ignore:.*(separates the columns|are in quotes)"


def written(tmp_path: Path, name: str, data: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def texts_and_labels(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [
        {name: str(row[name]) for name in ("text", "label")}
        for row in read_records(path, **options)
    ]


# --- pandas ---

# name of the file, how a DataFrame writes it, and options to read it with
PANDAS: dict[str, tuple[str, Callable[[Any, Path], None], dict[str, Any]]] = {
    "csv": ("a.csv", lambda df, p: df.to_csv(p, index=False), {}),
    "csv with its index": ("a.csv", lambda df, p: df.to_csv(p), {}),
    "csv, all quoted": ("a.csv", lambda df, p: df.to_csv(p, index=False, quoting=1), {}),
    "csv, escaped": (
        "a.csv",
        lambda df, p: df.to_csv(p, index=False, doublequote=False, escapechar="\\"),
        {"escape": "\\"},
    ),
    "csv, semicolons": ("a.csv", lambda df, p: df.to_csv(p, index=False, sep=";"), {}),
    "csv, bars": ("a.csv", lambda df, p: df.to_csv(p, index=False, sep="|"), {}),
    "csv, windows lines": (
        "a.csv",
        lambda df, p: df.to_csv(p, index=False, lineterminator="\r\n"),
        {},
    ),
    "csv, byte order mark": (
        "a.csv",
        lambda df, p: df.to_csv(p, index=False, encoding="utf-8-sig"),
        {},
    ),
    "csv, utf-16": ("a.csv", lambda df, p: df.to_csv(p, index=False, encoding="utf-16"), {}),
    "csv, latin-1": (
        "a.csv",
        lambda df, p: df.to_csv(p, index=False, encoding="latin-1"),
        {"encoding": "latin-1"},
    ),
    "csv, gzip": ("a.csv.gz", lambda df, p: df.to_csv(p, index=False), {}),
    "csv, xz": ("a.csv.xz", lambda df, p: df.to_csv(p, index=False), {}),
    "csv, bzip2": ("a.csv.bz2", lambda df, p: df.to_csv(p, index=False), {}),
    "tsv": ("a.tsv", lambda df, p: df.to_csv(p, index=False, sep="\t"), {}),
    "tsv named csv": ("a.csv", lambda df, p: df.to_csv(p, index=False, sep="\t"), {}),
    "json columns": ("a.json", lambda df, p: df.to_json(p), {}),
    "json records": ("a.json", lambda df, p: df.to_json(p, orient="records"), {}),
    "json index": ("a.json", lambda df, p: df.to_json(p, orient="index"), {}),
    "json split": ("a.json", lambda df, p: df.to_json(p, orient="split"), {}),
    "json table": ("a.json", lambda df, p: df.to_json(p, orient="table"), {}),
    "json indented": ("a.json", lambda df, p: df.to_json(p, orient="records", indent=2), {}),
    "json lines": ("a.jsonl", lambda df, p: df.to_json(p, orient="records", lines=True), {}),
    "json lines named json": (
        "a.json",
        lambda df, p: df.to_json(p, orient="records", lines=True),
        {},
    ),
    "parquet": ("a.parquet", lambda df, p: df.to_parquet(p), {}),
}


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("case", PANDAS)
def test_what_pandas_writes(tmp_path: Path, case: str) -> None:
    import pandas

    name, write, options = PANDAS[case]
    write(pandas.DataFrame(ROWS), tmp_path / name)
    assert texts_and_labels(tmp_path / name, **options) == ROWS


def test_json_values_alone_name_no_fields(tmp_path: Path) -> None:
    """pandas' orient="values"."""
    path = written(tmp_path, "a.json", '[["a","good"],["b","bad"]]')
    with pytest.raises(DataError, match=r"a list that begins with \['a', 'good'\]. Expected"):
        read_records(path)


# --- by hand ---

BY_HAND: dict[str, tuple[str, bytes | str, dict[str, Any]]] = {
    "Excel, sep=;": ("a.csv", "sep=;\r\ntext;label\r\na, b;good\r\nc;bad\r\n", {}),
    "Excel, Unicode text": (
        "a.tsv",
        "text\tlabel\r\na, b\tgood\r\nc\tbad\r\n".encode("utf-16"),
        {},
    ),
    "Excel, Macintosh": ("a.csv", 'text,label\r"a, b",good\rc,bad\r', {}),
    "Excel in Europe": ("a.csv", "text;label\r\na, b;good\r\nc;bad\r\n", {}),
    "Kaggle, empty columns at the end": (
        "a.csv",
        'text,label,,,\n"a, b",good,,,\nc,bad,,,\n',
        {},
    ),
    "an empty column in the middle": ("a.csv", 'text,,label\n"a, b",,good\nc,,bad\n', {}),
    "a delimiter at the end of rows": ("a.tsv", "text\tlabel\na, b\tgood\t\nc\tbad\t\n", {}),
    "R": ("a.csv", '"text","label"\n"1","a, b","good"\n"2","c","bad"\n', {}),
    "MySQL": ("a.csv", 'text,label\n"a\\, b",good\nc,bad\n', {"escape": "\\"}),
    "escapes without quotes": (
        "a.csv",
        "text,label\na\\, b,good\nc,bad\n",
        {"escape": "\\", "quoting": False},
    ),
    "datasets, one object a line": (
        "a.json",
        '{"text":"a, b","label":"good"}\n{"text":"c","label":"bad"}\n',
        {},
    ),
    "a list": ("a.json", '[{"text":"a, b","label":"good"},{"text":"c","label":"bad"}]', {}),
    "a list under data": (
        "a.json",
        '{"version": 1, "data": [{"text":"a, b","label":"good"},{"text":"c","label":"bad"}]}',
        {},
    ),
    "columns": ("a.json", '{"text": ["a, b", "c"], "label": ["good", "bad"]}', {}),
    "compressed lines": (
        "a.ndjson.gz",
        gzip.compress(b'{"text":"a, b","label":"good"}\n{"text":"c","label":"bad"}\n'),
        {},
    ),
    "tabs by another name": ("a.tab", "text\tlabel\na, b\tgood\nc\tbad\n", {}),
}


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("case", BY_HAND)
def test_what_others_write(tmp_path: Path, case: str) -> None:
    name, data, options = BY_HAND[case]
    expected = [{"text": "a, b", "label": "good"}, {"text": "c", "label": "bad"}]
    assert texts_and_labels(written(tmp_path, name, data), **options) == expected


def test_unnamed_columns_are_left_out_where_empty_everywhere(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,,label,\nx,,good,\ny,more,bad,\n")
    assert list(read_table(path)) == [
        {"text": "x", "column 2": "", "label": "good"},
        {"text": "y", "column 2": "more", "label": "bad"},
    ]


# --- what is certain is said, what is not is not done ---


def test_another_delimiter_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "review;sentiment\nfine, really;5\n")
    with pytest.warns(UserWarning, match=r"a.csv: ';' separates the columns, not ','.*\"\;\""):
        assert read_table(path)[0] == {"review": "fine, really", "sentiment": "5"}
    assert read_table(path, delimiter=";")[0]["sentiment"] == "5"  # no warning


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("text\na;b\nc;d\n", ["text"]),  # the header has none
        ("a;b\nc;d;e\n", ["a;b"]),  # rows differ
        ("text,label\na;b,c\n", ["text", "label"]),
    ],
)
def test_a_delimiter_that_is_not_certain_is_not_used(
    tmp_path: Path, text: str, columns: list[str]
) -> None:
    assert list(read_table(written(tmp_path, "a.csv", text))[0]) == columns


@pytest.mark.parametrize(("text", "header"), [("a;b|c\n1;2|3\n", True), ("a;b\n1;2\n", False)])
def test_a_delimiter_that_is_likely_is_asked_for(tmp_path: Path, text: str, header: bool) -> None:
    path = written(tmp_path, "a.csv", text)
    with pytest.warns(UserWarning, match=r'Is the delimiter another: delimiter=";"'):
        assert len(read_table(path, header=header)[0]) == 1


def test_quotes_between_tabs(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", 'text\tlabel\n"the ""red"" cat"\tgood\nhi\tbad\n')
    with pytest.warns(UserWarning, match="are in quotes, which are removed"):
        assert read_table(path)[0]["text"] == 'the "red" cat'
    assert read_table(path, quoting=False)[0]["text"] == '"the ""red"" cat"'
    # as GLUE's files have them
    for text in ['"Hi," he said', '"Hi"', 'say "hi"', '"Hi', '"a" and "b"']:
        path = written(tmp_path, "b.tsv", f"text\tlabel\n{text}\tgood\nhi\tbad\n")
        assert read_table(path)[0]["text"] == text


# --- CoNLL whose first column is no word ---

NUMBERED = "1 EU NNP I-NP B-ORG\n2 rejects VBZ I-VP O\n\n1 Ada NNP I-NP B-PER\n"
GERMEVAL = "#\thttp://x [2009]\n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n"
CONLL_U = """# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\tSpaceAfter=No
2.1\tsomething\t_\t_\t_\t_\t_\t_\t_\t_
"""


@pytest.mark.parametrize("text", [NUMBERED, GERMEVAL, CONLL_U, "0 a O\n1 b O\n"])
def test_counted_words_are_an_error(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, "a.conll", text)
    with pytest.raises(DataError, match="the words in column 1 are 1, 2, 3.*token_column=..."):
        read_conll(path)
    assert read_conll(path, token_column=1)[0]["tokens"][0] in "01"  # who asks for it has it


def test_columns_by_number_and_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", NUMBERED)
    expected = {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}
    assert read_conll(path, token_column=2)[0] == expected
    path = written(tmp_path, "b.conll", GERMEVAL)
    expected = {"tokens": ["Schartau", "sagte"], "tags": ["B-PER", "O"]}
    assert read_conll(path, token_column=2, tag_column=3)[0] == expected
    path = written(tmp_path, "c.conllu", CONLL_U)
    expected = {"tokens": ["vamos", "nos"], "tags": ["VERB", "PRON"]}
    assert read_conll(path, token_column=2, tag_column=4)[0] == expected
    assert read_conll(path, token_column="form", tag_column="UPOS")[0] == expected
    named = "# global.columns = ID FORM TAG\n1\ta\tX\n2\tb\tY\n"
    path = written(tmp_path, "d.conllu", named)
    expected = {"tokens": ["a", "b"], "tags": ["X", "Y"]}
    assert read_conll(path, token_column="FORM", tag_column="TAG")[0] == expected
    with pytest.raises(InputError, match='token_column="WORD", but the columns are ID, FORM, TAG'):
        read_conll(path, token_column="WORD")


def test_words_that_are_numbers_are_words(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", "1 O\n2 O\n\nof O\n2 O\n")
    assert read_conll(path)[0]["tokens"] == ["1", "2"]


# --- plain text, Parquet, and what is not read ---


def test_plain_text_keeps_the_place_of_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one\n\n{two}\r\n  \nlast")
    records = read_records(path)
    assert [row["text"] for row in records] == ["one", "", "{two}", "", "last"]
    assert [row.get("blank", False) for row in records] == [False, True, False, True, False]
    assert records.where(2).endswith("line 3")


def test_parquet_of_datasets_has_names_for_classes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = {"_type": "ClassLabel", "names": ["bad", "good"]}
    features = {"label": label, "tags": {"_type": "List", "feature": label}}
    table = pa.table({"label": [1, -1], "tags": [[0, 1], []], "n": [1, 2]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_records(tmp_path / "a.parquet")) == [
        {"label": "good", "tags": ["bad", "good"], "n": 1},
        {"label": None, "tags": [], "n": 2},
    ]
    with pytest.raises(DataError, match="is damaged, or no Parquet"):
        read_records(written(tmp_path, "b.parquet", b"PAR1"))
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "c.parquet")


def test_parquet_with_odd_bytes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["abcdefgh"]}), path, compression="NONE", use_dictionary=False)
    good = path.read_bytes()
    assert list(read_records(path)) == [{"text": "abcdefgh"}]
    for found, message in ((b"abcdefgh", "column 'text' "), (b"text", "is damaged, or no Parquet")):
        path.write_bytes(good.replace(found, b"\x93" * len(found)))
        with pytest.raises(DataError, match=message):
            read_records(path)
    # beyond the times of Python
    pq.write_table(pa.table({"n": [1], "time": pa.array([2**62], pa.timestamp("us"))}), path)
    message = r"a\.parquet: column 'time' \(timestamp\[us\]\) has a value that cannot be read: "
    with pytest.raises(DataError, match=message):
        read_records(path)
    with RowReader(RowFile.scan(path, 1)) as reader, pytest.raises(DataError, match=message):
        list(reader.records(0, 1))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("{", "no JSON"),
        ('{"info": []}', None),
        ('{"info": {"features": {"other": {"_type": "ClassLabel", "names": ["a"]}}}}', None),
        ('{"info": {"features": {"n": {"_type": "ClassLabel"}}}}', "no list of names"),
        ('{"info": {"features": {"n": {"_type": "ClassLabel", "names": [1]}}}}', "list of names"),
    ],
)
def test_odd_metadata_of_datasets(tmp_path: Path, metadata: str, words: str | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"huggingface": metadata}), path)
    if words is None:
        assert list(read_records(path)) == [{"n": 1}]
    else:
        with pytest.raises(DataError, match=words):
            read_records(path)


@pytest.mark.parametrize("name", ["a.xlsx", "a.zip", "a.pkl", "a.arrow", "a.ods"])
def test_files_that_are_not_read_say_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError, match=r"is (Excel|Libre|an archive|Arrow|a pickle).*: (save|un|w)"
    ):
        read_records(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [{"text": "a"}], "n": 3}', "an object with the keys train, n. Expected a file"),
        ('{"text": ["a", "b"], "label": [1]}', "with the keys text, label"),
        ('"text"', "the value 'text'"),
        ("[]", "no record in it"),
        ('[{"text": "a"}, 5]', "record 2: expected an object, not 5"),
        ('{"text": "a"}\n{"text": \n', "line 2: Expecting value"),
        ('{\n "text": "a",\n', "Expecting"),
    ],
)
def test_json_that_is_no_records(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        read_records(written(tmp_path, "a.json", content))


def test_one_object_is_one_record(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '{\n "text": "a",\n "label": "good"\n}')
    assert list(read_records(path)) == [{"text": "a", "label": "good"}]
