"""Texts in JSON lists, Parquet files and `datasets` give the same stores as text files."""

import gzip
import json
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from memory_store import wordpiece
from minilm.cli import main
from minilm.data import text_files, tokenize
from minilm.data.text_files import TextFormat, read_documents
from minilm.data.token_store import TokenStore
from minilm.data.tokenize import TokenizeProgress, tokenize_corpus, tokenize_texts
from minilm.errors import DataError, DependencyError, InputError

WORDS = ["low", "new", "wide", "."]
TOKENIZER = wordpiece(*WORDS)
TEXTS = [" ".join(WORDS[(n + k) % 4] for k in range(1 + n % 9)) for n in range(60)]


def records(key: str = "text") -> list[dict[str, Any]]:
    return [{"id": number, key: text, "more": [{"a": 1}]} for number, text in enumerate(TEXTS)]


def texts(path: Path, **options: Any) -> list[str]:
    return [document.text for document in read_documents(path, TextFormat(**options))]


def from_lines(tmp_path: Path) -> TokenStore:
    path = tmp_path / "plain.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return tokenize_corpus([path], TOKENIZER, tmp_path / "plain.store")


def same(one: TokenStore, other: TokenStore) -> bool:
    arrays = [path.name for path in one.path.iterdir() if path.suffix == ".npy"]
    return len(arrays) > 3 and all(
        (one.path / name).read_bytes() == (other.path / name).read_bytes() for name in arrays
    )


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    import pyarrow as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(rows), path, **options)
    return path


def tokenized(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["tokenize", *map(str, arguments)])


# --- JSON ---


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_json_lists(
    indent: int | None, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text("\ufeff " + json.dumps(records(), indent=indent, ensure_ascii=False) + "\n ")
    monkeypatch.setattr(text_files, "_is_list", lambda *_: True)
    assert texts(path) == TEXTS
    assert str(list(read_documents(path))[3]) == f"{path}, record 4"


def test_json_of_every_kind(tmp_path: Path) -> None:
    whole = json.dumps([{"body": "é ü"}, {"body": "[, ] {"}], ensure_ascii=False).encode()
    (tmp_path / "a.json").write_bytes(whole)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "lines.json").write_text('{"body": "é ü"}\n\n{"body": "[, ] {"}\n')
    for name in ("a.json", "a.json.gz", "lines.json"):
        assert texts(tmp_path / name, text_key="body") == ["é ü", "[, ] {"]
    (tmp_path / "empty.json").write_text(" [ ]\n")
    assert texts(tmp_path / "empty.json") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a", "b"]', "expected a list of JSON objects"),
        ('[{"text": "a"}', "after 1 record: expected a list"),
        ('[{"text": "a"} {"text": "b"}]', "after 1 record: expected a list"),
        ('[{"text": "a"}, {"text": "b}]', "after 1 record: Unterminated string"),
        ('[{"text": "a"}, {"body": "b"}]', "record 2: no key 'text'; it has: body"),
        ('[{"text": 5}]', "record 1: 'text' must be a string, not 5"),
        ('[{"text": "a"}] x', "after 1 record: expected a list"),
    ],
)
def test_faults_in_json_lists_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        texts(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_json_list_that_is_no_utf8_or_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"text": "\xff"}]')
    with pytest.raises(DataError, match="0xff .* is not UTF-8"):
        texts(tmp_path / "a.json")
    assert texts(tmp_path / "a.json", encoding_errors="ignore") == [""]
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(records()).encode())[:-60])
    with pytest.raises(DataError, match="damaged or cut off"):
        texts(tmp_path / "b.json.gz")


# --- Parquet ---


def test_parquet_files(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", records("body"), row_group_size=7)
    seen: list[bytes] = []
    found = list(read_documents(path, TextFormat(text_key="body"), on_bytes=seen.append))
    assert [document.text for document in found] == TEXTS
    assert str(found[8]) == f"{path}, row 9"
    assert b"".join(seen) == path.read_bytes()
    missing = write_parquet(tmp_path / "b.parquet", [{"text": "low"}, {"text": None}])
    assert texts(missing) == ["low", ""]


def test_the_command_takes_parquet_files(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path / "model")
    paths = [
        write_parquet(tmp_path / f"{number}.parquet", records("body")[20 * number :][:20])
        for number in range(3)
    ]
    common = ("--tokenizer", tmp_path / "model", "-o", tmp_path / "store")
    wrong = tokenized(*paths, *common)
    assert wrong.exit_code == 2
    assert "no column 'text'; it has: id, body, more" in wrong.output
    assert "--text-key" in wrong.output
    for _ in range(2):  # the second time there is nothing to do
        done = tokenized(*paths, *common, "--text-column", "body")
        assert done.exit_code == 0, done.output
    assert same(TokenStore.open(tmp_path / "store"), from_lines(tmp_path))


def test_faults_of_parquet_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", records())
    with pytest.raises(DataError, match="column 'id' must hold strings, not int64"):
        texts(path, text_key="id")
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read after row 0"):
        texts(tmp_path / "b.parquet")
    (tmp_path / "c.parquet.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"or in \.parquet"):
        texts(tmp_path / "c.parquet.gz")


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DependencyError, match=r"pip install 'minilm\[parquet\]'"):
        texts(tmp_path / "a.parquet")


# --- texts from anywhere ---


def test_texts_give_the_same_store_as_files(tmp_path: Path) -> None:
    plain = from_lines(tmp_path)
    rows = records("body")
    for name, found, options in (
        ("list", TEXTS, {}),
        ("generator", (text for text in TEXTS), {}),
        ("rows", iter(rows), {"text_key": "body"}),
    ):
        store = tokenize_texts(found, TOKENIZER, tmp_path / name, **options)
        assert same(store, plain)
    assert tokenize_texts([None, *TEXTS], TOKENIZER, tmp_path / "none").num_empty_documents == 1


@pytest.mark.filterwarnings("ignore")  # of datasets about its own parts
def test_datasets_give_the_same_store_as_files(tmp_path: Path) -> None:
    import datasets

    plain = from_lines(tmp_path)
    whole = datasets.Dataset.from_list(records("body"))
    for number, rows in enumerate((whole, whole.to_iterable_dataset(), whole.with_format("numpy"))):
        store = tokenize_texts(rows, TOKENIZER, tmp_path / str(number), text_key="body")
        assert same(store, plain)
    with pytest.raises(DataError, match="no key 'text'; it has: body, id, more"):
        tokenize_texts(whole, TOKENIZER, tmp_path / "wrong")
    with pytest.raises(InputError, match="call tokenize_texts"):
        tokenize_corpus(whole, TOKENIZER, tmp_path / "wrong")


def test_texts_go_on_after_an_interruption_and_are_compared_when_done(tmp_path: Path) -> None:
    whole = tokenize_texts(TEXTS, TOKENIZER, tmp_path / "whole", shard_tokens=40)

    def dying() -> Iterator[str]:
        yield from TEXTS[:50]
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minilm.data.document_encoder._BATCH", 20)
        patch.setattr(tokenize, "_SMALL", 1)
        with pytest.raises(KeyboardInterrupt):
            tokenize_texts(dying(), TOKENIZER, tmp_path / "part", shard_tokens=40, workers=1)
    said: list[str] = []
    reports: list[TokenizeProgress] = []
    store = tokenize_texts(
        TEXTS, TOKENIZER, tmp_path / "part", shard_tokens=40, say=said.append,
        progress=reports.append,
    )  # fmt: skip
    assert "going on after" in said[0]
    assert same(store, whole)
    assert reports[-1].tokens_before > 0
    again = tokenize_texts(iter(TEXTS), TOKENIZER, tmp_path / "part", shard_tokens=40)
    assert again.fingerprint == store.fingerprint
    with pytest.raises(DataError, match="finished store made with"):
        tokenize_texts(TEXTS[:-1], TOKENIZER, tmp_path / "part", shard_tokens=40)


def test_wrong_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="texts is one string"):
        tokenize_texts("low new", TOKENIZER, tmp_path / "a")
    with pytest.raises(DataError, match="texts, number 2: 'text' must be a string, not 5"):
        tokenize_texts([{"text": "low"}, {"text": 5}], TOKENIZER, tmp_path / "a")
    with pytest.raises(DataError, match="texts, number 1: expected"):
        tokenize_texts([5], TOKENIZER, tmp_path / "a")  # type: ignore[list-item]


def test_a_json_list_is_never_held_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "low new wide . " * 100}] * 4000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_documents(path)) == 4000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 3
    finally:
        tracemalloc.stop()


def test_shards_are_written_while_texts_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.data.document_encoder._BATCH", 20)
    shards: list[int] = []

    def endless() -> Iterator[str]:
        for _ in range(20):
            yield from TEXTS
            shards.append(len(list(tmp_path.glob("store/*.tokens.npy"))))

    tokenize_texts(endless(), TOKENIZER, tmp_path / "store", shard_tokens=100, workers=1)
    assert shards == sorted(shards)
    assert shards[-1] > shards[5] > 0


def test_the_last_line_gives_rates_as_rates(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path / "model")
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    done = tokenized(tmp_path / "a.txt", "--tokenizer", tmp_path / "model", "-o", tmp_path / "s")
    last = done.output.strip().splitlines()[-1]
    assert re.fullmatch(
        r" +speed +[\d,]+ +tokens a second \([\d,]+ characters a second, [\d,]+\.\d s in all\)",
        last,
    ), last
