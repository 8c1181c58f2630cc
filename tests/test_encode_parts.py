"""Encoding in parts: what is written depends on the texts, the model and the settings alone."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from pyarrow import parquet

import minilm
from minilm.cli import main, part_options
from minilm.cli.part_options import Display
from minilm.data import parts as parts_module
from minilm.data.part_runs import PartsProgress
from minilm.data.parts import Parts, Shard
from minilm.data.row_files import RowFile, RowReader
from minilm.errors import DataError, InputError
from minilm.sentence import bulk
from saved import make_texts, save_tiny

LINES = ["word1 word2", "", "word3\u2028word4 \u00fc", *make_texts(60)]
ROWS = 8  # of a part: 8 parts, the last one with 7 rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "texts.txt", LINES)


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def encode(model: Path, texts: Path, output: Path, **options: Any) -> Any:
    return minilm.encode_file(model, texts, output, **{"part_rows": ROWS, "workers": 1, **options})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(directory: Path) -> dict[str, bytes]:
    """All files but locks, by their paths."""
    found = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if not name.endswith(".lock")}


# --- what is written ---


def test_row_n_is_line_n_and_a_part_is_encoded_by_itself(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    result = encode(model, texts, output)
    assert (result.rows, result.parts, result.parts_made, result.missing) == (63, 8, 8, 0)
    encoder = minilm.Encoder.from_pretrained(model)
    vectors = minilm.EncodedTexts.open(output)
    assert vectors.shape == (63, 16)
    for start in range(0, 63, ROWS):
        expected = encoder.encode(LINES[start : start + ROWS])
        assert np.array_equal(vectors[start : start + ROWS], expected)
        stored = np.load(output / f"part-{start // ROWS:06d}.npy")
        assert stored.dtype == np.float32
        assert np.array_equal(stored, expected)


def test_shards_and_workers_change_no_byte(model: Path, texts: Path) -> None:
    home = texts.parent
    encode(model, texts, home / "one")
    expected = contents(home / "one")
    assert len(expected) == 17
    for count in (2, 3, 9):
        for number in range(count, 0, -1):
            result = encode(model, texts, home / f"n{count}", shard=f"{number}/{count}")
        assert result.missing == 0
        assert contents(home / f"n{count}") == expected
    encode(model, texts, home / "k3", workers=3)
    assert contents(home / "k3") == expected
    # what would be noticed: other rows together, another text
    write_lines(home / "other.txt", [*LINES[:-1], "word5"])
    encode(model, home / "other.txt", home / "other")
    differing = {n for n, data in contents(home / "other").items() if data != expected[n]}
    assert "part-000007.npy" in differing
    assert "part-000006.npy" not in differing


def test_shards_in_several_directories_are_copied_together(model: Path, texts: Path) -> None:
    home = texts.parent
    encode(model, texts, home / "whole")
    for number in (1, 2):
        encode(model, texts, home / f"machine{number}", shard=f"{number}/2")
    with pytest.raises(DataError, match=r"lacks 4 of 8 parts, the first is part-000001\.npy"):
        minilm.EncodedTexts.open(home / "machine1")
    for name, data in contents(home / "machine2").items():
        (home / "machine1" / name).write_bytes(data)
    assert contents(home / "machine1") == contents(home / "whole")
    assert len(minilm.EncodedTexts.open(home / "machine1")) == 63


def test_parts_of_another_run_do_not_count(model: Path, texts: Path) -> None:
    home = texts.parent
    encode(model, texts, home / "a")
    encode(model, texts, home / "b", normalize=False)
    for name in ("part-000002.npy", "_done/part-000002.json"):
        (home / "a" / name).write_bytes((home / "b" / name).read_bytes())
    assert Parts.open(home / "a").status()["missing"] == [2]
    assert encode(model, texts, home / "a").parts_made == 1


def test_settings_are_those_of_encode(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    options: dict[str, Any] = {"pooling": "cls", "normalize": False, "max_length": 9}
    with pytest.warns(UserWarning, match="of 63 texts were longer than 9 tokens and were cut"):
        result = encode(model, texts, output, **options, prompt="word7 ")
    encoder = minilm.Encoder.from_pretrained(model)
    with pytest.warns(UserWarning, match="were cut"):
        expected = encoder.encode(LINES[:ROWS], **options, prompt="word7 ")
    vectors = minilm.EncodedTexts.open(output)
    assert np.array_equal(vectors[:ROWS], expected)
    long = sum(len(encoder.tokenizer("word7 " + line)["input_ids"][0]) > 9 for line in LINES)
    assert vectors.truncated == result.counts["truncated"] == long > 0


def test_no_texts(model: Path, tmp_path: Path) -> None:
    result = encode(model, write_lines(tmp_path / "none.txt", []), tmp_path / "vectors")
    assert (result.rows, result.parts) == (0, 0)
    vectors = minilm.EncodedTexts.open(tmp_path / "vectors")
    assert np.asarray(vectors).shape == (0, 16)
    assert list(vectors.chunks()) == []


# --- reading ---


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_vectors_are_indexed_like_an_array(
    model: Path, texts: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.sentence.encoded._OPEN", 2)
    encode(model, texts, texts.parent / "vectors", output_format=kind)
    vectors = minilm.EncodedTexts.open(texts.parent / "vectors")
    whole = np.asarray(vectors)
    assert whole.shape == vectors.shape == (len(vectors), 16)
    for index in (
        *(0, 8, 62, -1, -63, np.int64(30)),
        *(slice(None), slice(3, 30), slice(8, 16), slice(5, 5), slice(None, None, -7), slice(90)),
        *([3, 60, 3, -2], np.array([], int), [], whole[:, 0] > 0),
    ):
        assert np.array_equal(vectors[index], whole[index])
    assert np.array_equal(np.concatenate([chunk for _, chunk in vectors.chunks()]), whole)
    assert [start for start, _ in vectors.chunks()] == list(range(0, 63, ROWS))
    assert np.array_equal(np.asarray(vectors, dtype=np.float64), whole.astype(np.float64))
    assert sum(1 for _ in vectors) == 63
    for wrong in (63, -64, [0, 63], 1.5, (1, 2), [[1]]):
        with pytest.raises(IndexError):
            vectors[wrong]


def test_parquet_is_read_by_other_programs(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    result = run(
        *("encode", model, texts, "-o", output, "--output-format", "parquet"),
        *("--part-rows", ROWS, "--workers", 1),
    )
    assert result.exit_code == 0, result.stderr
    table = parquet.read_table(output)  # the directory as a whole
    assert table.column_names == ["row", "vector"]
    assert table["row"].to_pylist() == list(range(63))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 16)
    vectors = minilm.EncodedTexts.open(output)
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)


def test_a_part_that_was_exchanged_is_refused(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output)
    part = output / "part-000003.npy"
    np.save(part, np.load(part).astype(np.float64)[:4])
    assert part.stat().st_size == (output / "part-000002.npy").stat().st_size
    with pytest.raises(DataError, match=r"part-000003\.npy holds float64 of shape \(4, 16\)"):
        minilm.EncodedTexts.open(output)[30]


# --- input ---


def _jsonl(path: Path) -> None:
    write_lines(path, [json.dumps({"id": n, "text": line}) for n, line in enumerate(LINES)])


def _table(path: Path) -> None:
    column: list[str | None] = [*LINES]
    column[1] = None  # an empty text
    parquet.write_table(pa.table({"id": range(63), "text": column}), path, row_group_size=13)


def _packed(pack: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    data = "\r\n".join(LINES).encode()  # no line end at the end
    return lambda path: path.write_bytes(pack(b"\xef\xbb\xbf" + data)) and None


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.jsonl", _jsonl),
        ("t.parquet", _table),
        ("t.txt", _packed(bytes)),
        ("t.txt.gz", _packed(gzip.compress)),
        ("t.txt.xz", _packed(lzma.compress)),
        ("t.bz2", _packed(bz2.compress)),
    ],
)
def test_formats_by_name(
    model: Path,
    texts: Path,
    name: str,
    write: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("minilm.data.row_files._ROWS", 3)
    home = texts.parent
    write(home / name)
    encode(model, texts, home / "expected")
    expected = np.asarray(minilm.EncodedTexts.open(home / "expected"))
    for shard in ("2/3", "3/3", "1/3"):
        encode(model, home / name, home / "vectors", shard=shard)
    assert np.array_equal(minilm.EncodedTexts.open(home / "vectors"), expected)
    single = run("encode", model, home / name, "-o", home / "single.npy")
    assert single.exit_code == 0, single.stderr
    assert np.load(home / "single.npy") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("step", [1, 2, 5, 64])
@pytest.mark.parametrize("block", [3, 16, 2**20])
def test_places_of_rows(
    tmp_path: Path, step: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.data.row_files._BLOCK", block)
    for end in ("", "\n"):
        path = tmp_path / "texts.txt"
        path.write_bytes(("\n".join(["a", "", "bcd", "\u00e4" * 9, "", "e"]) + end).encode())
        file = RowFile.scan(path, step)
        assert file.rows == 6
        with RowReader(file) as reader:
            found = [
                text
                for start in range(0, 6, step)
                for text in reader.texts(start, start + step, "text")
            ]
        assert found == ["a", "", "bcd", "\u00e4" * 9, "", "e"]


BAD = {
    "bytes": ("t.txt", b"a\nb\xfc\n", r"t\.txt, line 2: byte 2 \(0xfc\) is not UTF-8"),
    "key": ("t.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no key 'text'; it has: body"),
    "object": ("t.jsonl", b'{"text": "a"}\n[1]\n', "line 2: expected a JSON object"),
    "json": ("t.jsonl", b'{"text": "a"\n', r"line 1: Expecting ',' delimiter at character 13"),
    "blank": ("t.jsonl", b'{"text": "a"}\n\n', "line 2: a blank line"),
    "null": ("t.jsonl", b'{"text": null}\n', "line 1: 'text' must be a string, not None"),
    "parquet": ("t.parquet", b"PAR1 not really", r"t\.parquet cannot be read: .*Is it a Parquet"),
    "gzip": ("t.txt.gz", gzip.compress(b"a\n" * 99)[:-9], "is damaged or cut off"),
    "csv": ("t.csv", b"text\na\n", r"\.csv files cannot be read part by part.*format=\"text\""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_found_before_anything_is_written(
    model: Path, tmp_path: Path, case: str
) -> None:
    name, data, message = BAD[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises((DataError, InputError), match=message):
        encode(model, tmp_path / name, tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_a_column_that_is_not_there(model: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"body": ["a"], "n": [1]}), tmp_path / "t.parquet")
    for options, message in (
        ({}, "no column 'text'; it has: body, n.*text_key="),
        ({"text_key": "n"}, "column 'n' must hold strings, not int64"),
    ):
        with pytest.raises(DataError, match=message):
            encode(model, tmp_path / "t.parquet", tmp_path / "vectors", **options)
    encode(model, tmp_path / "t.parquet", tmp_path / "vectors", text_key="body")
    assert len(minilm.EncodedTexts.open(tmp_path / "vectors")) == 1


def test_a_line_without_end_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minilm.data.row_files.MAX_LINE", 100)
    path = write_lines(tmp_path / "t.txt", ["a", "b" * 101])
    with (
        RowReader(RowFile.scan(path, 5)) as reader,
        pytest.raises(DataError, match="line 2: more than 100 bytes in one line"),
    ):
        list(reader.texts(0, 5, "text"))


# --- going on ---


def test_only_missing_and_damaged_parts_are_made_again(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output)
    expected, times = contents(output), {p: p.stat().st_mtime_ns for p in output.glob("*.npy")}
    (output / "part-000001.npy").unlink()
    (output / "_done/part-000002.json").unlink()
    (output / "_done/part-000003.json").write_bytes(b'{"rows"')
    (output / "part-000004.npy").write_bytes(expected["part-000004.npy"][:-1])
    (output / ".part-000005.npy.tmp-0123").write_bytes(b"of a killed process")
    assert Parts.open(output).status()["missing"] == [1, 2, 3, 4]
    result = encode(model, texts, output)
    assert (result.parts_made, result.rows_made, result.rows) == (4, 32, 63)
    assert contents(output) == expected
    kept = [p for p, time in times.items() if p.stat().st_mtime_ns == time]
    assert sorted(p.name for p in kept) == [f"part-00000{n}.npy" for n in (0, 5, 6, 7)]
    assert encode(model, texts, output).parts_made == 0


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_costs_one_part(
    model: Path, texts: Path, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, before = texts.parent / "vectors", os.replace
    encode(model, texts, texts.parent / "expected")

    def replace(source: Path, target: Path) -> None:
        if target.name == "part-000002.json":  # the part itself is in place
            raise problem
        before(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises((KeyboardInterrupt, minilm.MinilmError)):
            encode(model, texts, output)
    assert Parts.open(output).status()["parts_done"] == 2
    assert not list(output.rglob("*.tmp-*"))
    assert encode(model, texts, output).parts_made == 6
    assert contents(output) == contents(texts.parent / "expected")


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "normalize": ({"normalize": False}, "normalize True, not False"),
    "pooling": ({"pooling": "cls"}, "pooling 'mean', not 'cls'"),
    "length": ({"max_length": 7}, "max_length 20, not 7"),
    "prompt": ({"prompt": "word1"}, "prompt '', not 'word1'"),
    "batches": ({"tokens_per_batch": 99}, "tokens_per_batch 4096, not 99"),
    "threads": ({"threads": 2}, "threads 1, not 2"),
    "rows": ({"part_rows": 9}, "part_rows 8, not 9"),
    "suffix": ({"output_format": "parquet"}, "suffix 'npy', not 'parquet'"),
    "precision": ({"dtype": "bfloat16"}, "another model"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_settings_are_refused(model: Path, texts: Path, case: str) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output)
    before = contents(output)
    options, message = OTHERS[case]
    with pytest.raises(DataError, match=f"was begun with {message}.*another directory"):
        encode(model, texts, output, **options)
    assert contents(output) == before


def test_other_texts_and_another_model_are_refused(
    model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output)
    moved = texts.rename(texts.parent / "same.txt")
    assert encode(model, moved, output).parts_made == 0  # the name says nothing
    changed = write_lines(texts, [*LINES[:-1], "word9"])
    with pytest.raises(DataError, match="begun with other texts"):
        encode(model, changed, output)
    another = save_tiny(tmp_path_factory.mktemp("another"), intermediate_size=25)
    with pytest.raises(DataError, match="begun with another model"):
        encode(another, moved, output)


def test_directories_of_something_else(model: Path, texts: Path) -> None:
    home = texts.parent
    with pytest.raises(DataError, match=r"holds texts\.txt and no _manifest\.json"):
        encode(model, texts, home)
    with pytest.raises(DataError, match=r"has no _manifest\.json: expected a directory"):
        minilm.EncodedTexts.open(home / "nowhere")
    encode(model, texts, home / "vectors")
    manifest = home / "vectors/_manifest.json"
    stored = json.loads(manifest.read_bytes())
    for change, message in (
        ({"rows": 64}, "was changed"),
        ({"version": 2}, "version 2; this minilm reads 1"),
        ({"rows": "63"}, "is damaged"),
        ({"settings": None}, "is damaged"),
    ):
        manifest.write_text(json.dumps({**stored, **change}))
        with pytest.raises(DataError, match=message):
            minilm.EncodedTexts.open(home / "vectors")


def test_a_file_that_changes_meanwhile(
    model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, scan = texts.parent / "vectors", bulk.scan_rows

    def scanned(*arguments: Any) -> RowFile:
        file = scan(*arguments)
        os.utime(texts, ns=(0, file.modified + 1))
        return file

    monkeypatch.setattr(bulk, "scan_rows", scanned)
    with pytest.raises(DataError, match="was changed while it was being read"):
        encode(model, texts, output)
    assert Parts.open(output).status()["parts_done"] == 0


def test_one_process_for_a_shard(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output, shard="1/2")
    with (
        FileLock(output / "_done/.shard-2-of-2.lock"),
        pytest.raises(DataError, match="Another process is writing shard 2/2"),
    ):
        encode(model, texts, output, shard="2/2")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_shards_that_are_none(shard: str) -> None:
    with pytest.raises(InputError, match="shard"):
        Shard.parse(shard)


def test_every_part_has_one_shard() -> None:
    for total in (0, 1, 7):
        for count in (1, 2, 3, 10):
            shards = [Shard(number, count).parts(total) for number in range(1, count + 1)]
            assert sorted(part for parts in shards for part in parts) == list(range(total))


# --- the commands ---


def test_the_command_and_its_status(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    options = ["encode", model, texts, "-o", output, "--part-rows", ROWS, "--workers", 1]
    first = run(*options, "--shard", "1/2")
    assert first.exit_code == 0, first.output
    assert f"{output}: shard 1/2 is complete: 4 parts, 32 texts" in first.stderr
    assert "4 parts of other shards still missing" in first.stderr
    assert first.stdout == ""
    status = run("parts", output)
    assert status.exit_code == 1
    assert "not complete: 4 of 8 parts, 32 of 63 rows of vectors" in status.stdout
    assert "missing: parts 1, 3, 5, 7" in status.stdout
    second = run(*options, "--shard", "2/2")
    assert "so are all others" in second.stderr
    again = run(*options)
    assert "complete: 8 parts, 63 texts, nothing was left to do" in again.stderr
    found = json.loads(run("parts", output, "--json").stdout)
    assert found["complete"] is True
    assert (found["parts"], found["rows"], found["missing"]) == (8, 63, [])


def test_damage_is_found_and_repaired(model: Path, texts: Path) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output)
    expected = contents(output)
    damaged = bytearray(expected["part-000005.npy"])
    damaged[-1] ^= 1
    (output / "part-000005.npy").write_bytes(damaged)
    assert run("parts", output).exit_code == 0  # the sizes are right
    result = run("parts", output, "--verify")
    assert result.exit_code == 1
    assert "damaged: part-000005.npy" in result.stdout
    assert encode(model, texts, output).parts_made == 1
    assert contents(output) == expected
    assert run("parts", output, "--verify").exit_code == 0


WRONG = {
    "stdin": (["-", "-o", "out"], "put them into a file"),
    "file": (["t.txt", "-o", "file.bin"], "is a file: give a directory"),
    "directory": (["t.txt", "-o", "dir.npy"], "is a directory: give a file"),
    "shard of a file": (["t.txt", "-o", "v.npy", "--shard", "1/2"], "--shard is for a directory"),
    "workers of json": (["t.txt", "--json", "--workers", "2"], "--workers is for a directory"),
    "format of a file": (
        ["t.txt", "-o", "v.npy", "--output-format", "parquet"],
        "--output-format is for a directory",
    ),
    "json on stdin": (["-", "-o", "v.npy", "--format", "jsonl"], "standard input is text"),
    "shard": (["t.txt", "-o", "out", "--shard", "3/2"], "no shard 3 of 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together(
    model: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "t.txt", ["a"])
    (tmp_path / "file.bin").write_bytes(b"")
    (tmp_path / "dir.npy").mkdir()
    before = sorted(tmp_path.iterdir())
    arguments, message = WRONG[case]
    result = run("encode", model, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert sorted(tmp_path.iterdir()) == before


def test_progress_counts_all_workers_and_what_was_done_before(
    model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = texts.parent / "vectors"
    encode(model, texts, output, shard="1/4")
    seen: list[tuple[int, ...]] = []
    encode(
        *(model, texts, output),
        progress=lambda state: seen.append(
            (state.rows_done, state.rows_before, state.rows, state.parts_done, state.parts)
        ),
    )
    assert seen[0] == (16, 16, 63, 2, 8)
    assert seen[-1] == (63, 16, 63, 8, 8)
    assert [row[0] for row in seen] == sorted(row[0] for row in seen)

    monkeypatch.setattr(part_options, "_LOG_EVERY", -1.0)
    state = PartsProgress(rows=1000, rows_done=600, rows_before=100, parts=10, parts_done=6)
    state.began -= 50.0
    Display("text").progress(state)
    said = capsys.readouterr().err
    pattern = r"6 of 10 parts, 600 of 1,000 texts, (9|10) a second, 0:00:4[01] left\n"
    assert re.fullmatch(pattern, said)


def test_names_that_begin_with_an_underscore_stay_out_of_the_way() -> None:
    assert parts_module.MANIFEST.startswith("_")  # Spark and pyarrow pass over them
    assert parts_module.DONE.startswith("_")
