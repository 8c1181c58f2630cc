"""`minilm tokenize` and `tokenize_corpus`: results, interruptions, mistakes."""

import gzip
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer as Backend,
    models,
    normalizers,
    pre_tokenizers,
)

import minilm
from memory_store import SPECIAL_TOKENS, wordpiece
from minilm.cli import main
from minilm.data.cached_encoder import CachedEncoder, stops_at_spaces
from minilm.data.sentence_splitting import split_sentences
from minilm.data.text_files import Document
from minilm.data.token_store import TokenStore
from minilm.data.tokenize import TokenizeProgress, tokenize_corpus
from minilm.errors import DataError, InputError, MinilmError

LETTERS = "abcdefghij"
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *".,!?'\"[]()<>0123456789-"]


def bert(*words: str, **changes: Any) -> minilm.Tokenizer:
    """An uncased WordPiece tokenizer that spells words of a to j."""
    tokenizer = wordpiece(*PIECES, *words)
    tokenizer.backend.normalizer = normalizers.BertNormalizer(**changes)
    return tokenizer


def albert(*pieces: str) -> minilm.Tokenizer:
    """A unigram tokenizer with ALBERT's special tokens and splitting."""
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    letters = ["▁", *LETTERS, *(f"▁{letter}" for letter in LETTERS), *"pd<>[].!", "▁ab", "cd"]
    vocabulary = [(piece, 0.0) for piece in special]
    vocabulary += [(piece, -3.0 - number / 7) for number, piece in enumerate([*letters, *pieces])]
    backend = Backend(models.Unigram(vocabulary, unk_id=1))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return minilm.Tokenizer(backend)


def make_text(documents: int, seed: int = 1) -> str:
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(1, 8))) for _ in range(300)]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 12))).capitalize() + draw.choice(
            ".!?"
        )

    return "\n\n".join(
        "\n".join(" ".join(sentence() for _ in range(3)) for _ in range(draw.randint(1, 6)))
        for _ in range(documents)
    )


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Three files of three kinds, with documents that have no tokens among the others."""
    paths = [tmp_path / "a.txt", tmp_path / "b.jsonl.gz", tmp_path / "c.txt.xz"]
    paths[0].write_text(make_text(60) + "\n\n\u200b\u200b\n\n\u200b")
    texts = [*make_text(40, 2).split("\n\n"), "", " \n ", "a. b"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    paths[1].write_bytes(gzip.compress(lines.encode()))
    paths[2].write_bytes(lzma.compress((make_text(50, 3) + "\n\n\u200b\n").encode()))
    return paths


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def sentences_of(store: TokenStore, document: int) -> list[list[int]]:
    offsets = store.sentences(document)
    return [
        row.tolist()
        for row in np.split(store.tokens(offsets[0], offsets[-1]), offsets[1:-1] - offsets[0])
    ]


def one_by_one(tokenizer: minilm.Tokenizer, text: str) -> list[list[int]]:
    rows = [
        tokenizer.convert_tokens_to_ids(tokenizer.tokenize(sentence))
        for sentence in split_sentences(text)
    ]
    return [row for row in rows if row]


# --- what is in the store ---


def test_every_sentence_is_encoded_alone(corpus: list[Path], tmp_path: Path) -> None:
    tokenizer = bert()
    store = tokenize_corpus(corpus, tokenizer, tmp_path / "store", shard_tokens=1000)
    texts = [*make_text(60).split("\n\n"), *make_text(40, 2).split("\n\n"), "a. b"]
    texts += make_text(50, 3).split("\n\n")
    assert store.num_documents == len(texts)
    assert store.num_empty_documents == 5
    for number, text in enumerate(texts):
        assert sentences_of(store, number) == one_by_one(tokenizer, text)


@pytest.mark.filterwarnings("ignore:.*unknown")
def test_special_tokens_in_the_text_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "a [MASK] b [SEP]\n[CLS][PAD] [UNK]\nab <pad> <unk> cd [MASK]\n"
    )
    tokenizer = bert("mask", "sep", "cls", "pad", "unk")
    store = tokenize_corpus([tmp_path / "a.txt"], tokenizer, tmp_path / "bert")
    words = "a [ mask ] b [ sep ] [ cls ] [ pad ] [ unk ] a ##b < pad > < unk > c ##d [ mask ]"
    expected = tokenizer.convert_tokens_to_ids(words.split())
    assert store.tokens(0, store.num_tokens).tolist() == expected
    assert tokenizer.tokenize("[MASK]") == ["[MASK]"]  # the given tokenizer has not changed

    tokenizer = albert("▁[", "mask", "▁<")
    store = tokenize_corpus([tmp_path / "a.txt"], tokenizer, tmp_path / "albert")
    tokens = store.tokens(0, store.num_tokens)
    assert set(tokens.tolist()) & set(tokenizer.all_special_ids) == {tokenizer.unk_token_id}
    assert tokenizer.token_to_id("mask") in tokens


@pytest.mark.parametrize(
    "make",
    [
        bert,
        albert,
        lambda: bert(lowercase=False, strip_accents=True),
        lambda: bert(clean_text=False, handle_chinese_chars=False),
    ],
)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_looking_words_up_gives_the_backends_ids(
    make: Callable[[], minilm.Tokenizer], data: st.DataObject
) -> None:
    hard = "abAB .,[]<>`'\t\n\r\0\x1c\x85\xa0\u3000\u200b\u200d\ufeff\xad中é́̈ΣİßﬁA\u0903🏻👨½"
    texts = data.draw(st.lists(st.text(st.sampled_from(hard)) | st.text(), max_size=6))
    description = make().backend.to_str()
    backend = Backend.from_str(description)
    backend.encode_special_tokens = True
    assert stops_at_spaces(json.loads(description))
    encode = CachedEncoder(description)
    for _ in range(2):  # new words, known words
        ids, lengths = encode(texts)
        rows = [row.tolist() for row in np.split(ids, np.cumsum(lengths))[:-1]]
        assert rows == [backend.encode(text, add_special_tokens=False).ids for text in texts]


def test_remembered_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minilm.data.cached_encoder._REMEMBERED", 40)
    encode = CachedEncoder(bert().backend.to_str())
    expected = CachedEncoder(bert().backend.to_str())
    for text in make_text(5).split("\n"):
        for found, right in zip(encode([text]), expected([text]), strict=True):
            assert found.tolist() == right.tolist()
        assert len(encode._number) <= 40 + text.count(" ") + 1


@pytest.mark.parametrize("kind", ["added token", "splitter", "normalizer", "metaspace"])
def test_tokenizers_that_look_across_spaces_are_not_cut(kind: str) -> None:
    backend = (albert if kind == "metaspace" else bert)().backend
    if kind == "added token":
        backend.add_tokens([AddedToken("a b", normalized=False)])
    elif kind == "splitter":
        backend.pre_tokenizer = pre_tokenizers.Split(" b", "isolated")
    elif kind == "normalizer":
        backend.normalizer = normalizers.Replace(" b", "a")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    assert not stops_at_spaces(json.loads(backend.to_str()))
    encode = CachedEncoder(backend.to_str())
    for text in ("a b a b", "", "b a bb"):
        assert encode([text])[0].tolist() == backend.encode(text, add_special_tokens=False).ids
    assert [part.tolist() for part in encode([])] == [[], []]


# --- the same bytes, whatever happens ---


def test_workers_and_other_kinds_of_file_give_the_same_store(
    corpus: list[Path], tmp_path: Path
) -> None:
    tokenizer = bert()
    stores = []
    for workers in (0, 1, 2, 3):
        destination = tmp_path / f"store{workers}"
        tokenize_corpus(corpus, tokenizer, destination, workers=workers, shard_tokens=1500)
        stores.append(files_of(destination))
    assert len(stores[0]) > 12
    assert all(store == stores[0] for store in stores)
    # one shard holds the same tokens in the same order
    whole = tokenize_corpus(corpus, tokenizer, tmp_path / "whole")
    cut = TokenStore.open(tmp_path / "store0")
    assert len(list((tmp_path / "whole").glob("*.tokens.npy"))) == 1
    assert whole.document_starts.tolist() == cut.document_starts.tolist()
    assert (whole.tokens(0, whole.num_tokens) == cut.tokens(0, cut.num_tokens)).all()
    assert (whole.counts() == cut.counts()).all()


class Killed(BaseException):
    """The process ends here."""


def test_killed_at_every_file_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert()
    (tmp_path / "a.txt").write_text(make_text(5) + "\n\n\u200b")
    calls_left = 0

    def stopping(operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls_left
            calls_left -= 1
            if calls_left < 0:
                raise Killed
            return operation(*arguments, **options)

        return counted

    def tokenize(destination: Path, calls: int = 10**9) -> TokenStore:
        nonlocal calls_left
        calls_left = calls
        return tokenize_corpus([tmp_path / "a.txt"], tokenizer, destination, shard_tokens=300)

    # the disk need not be waited for: it is the order that counts
    monkeypatch.setattr(os, "fsync", stopping(lambda _: None))
    monkeypatch.setattr(os, "replace", stopping(os.replace))
    monkeypatch.setattr(os, "unlink", stopping(os.unlink))
    tokenize(tmp_path / "whole")
    expected = files_of(tmp_path / "whole")
    assert "shard-00001.tokens.npy" in expected

    destination = tmp_path / "store"
    for kills in range(1000):
        try:
            tokenize(destination, kills)
            break
        except Killed:
            if (destination / "store.json").exists():
                TokenStore.open(destination, verify=True)
            else:
                with pytest.raises(DataError, match="unfinished token store|not a token store"):
                    TokenStore.open(destination)
        tokenize(destination)
        assert files_of(destination) == expected
        shutil.rmtree(destination)
    assert kills > 30


def test_what_is_finished_is_not_tokenized_again(
    corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "store"
    first_shards = interrupted(corpus, destination, shards=3)
    before = {name: data for name, data in files_of(destination).items() if "shard" in name}
    messages: list[str] = []
    reports: list[TokenizeProgress] = []
    store = tokenize_corpus(
        corpus, bert(), destination, shard_tokens=1500, say=messages.append, progress=reports.append
    )
    assert messages == [f"{destination}: going on after {first_shards} finished shards."]
    assert reports[-1].tokens == store.num_tokens
    assert reports[-1].bytes_read == reports[-1].bytes_total
    assert reports[-1].documents == store.num_documents + store.num_empty_documents
    assert 4500 <= reports[-1].tokens_before < store.num_tokens
    assert before.items() <= files_of(destination).items()


def interrupted(corpus: list[Path], destination: Path, shards: int) -> int:
    """Leaves a store with so many finished shards."""

    def stop(_: TokenizeProgress) -> None:
        if len(list(destination.glob("*.documents.npy"))) >= shards:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minilm.data.document_encoder._BATCH", 500)  # or they come all at once
        with pytest.raises(Killed):
            tokenize_corpus(corpus, bert(), destination, shard_tokens=1500, progress=stop)
    return len(json.loads((destination / "unfinished.json").read_text())["shards"])


def test_damaged_shards_are_made_again(corpus: list[Path], tmp_path: Path) -> None:
    tokenize_corpus(corpus, bert(), tmp_path / "whole", shard_tokens=1500)
    destination = tmp_path / "store"
    interrupted(corpus, destination, shards=3)
    path = destination / "shard-00001.sentences.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    messages: list[str] = []
    tokenize_corpus(corpus, bert(), destination, shard_tokens=1500, say=messages.append)
    assert messages == [f"{destination}: going on after 1 finished shard."]
    assert files_of(destination) == files_of(tmp_path / "whole")


def test_finished_stores_stay_as_they_are(corpus: list[Path], tmp_path: Path) -> None:
    destination = tmp_path / "store"
    store = tokenize_corpus(corpus, bert(), destination)
    times = {path: path.stat().st_mtime_ns for path in destination.iterdir()}
    corpus[0].touch()  # only the content counts
    messages: list[str] = []
    again = tokenize_corpus(corpus, bert(), destination, say=messages.append)
    assert messages == [f"{destination} is complete: there is nothing to do."]
    assert again.fingerprint == store.fingerprint
    assert times == {path: path.stat().st_mtime_ns for path in destination.iterdir()}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("other", ["tokenizer", "text_key", "files", "order", "content"])
def test_other_arguments_are_refused(
    corpus: list[Path], tmp_path: Path, other: str, finished: bool
) -> None:
    destination = tmp_path / "store"
    if finished:
        tokenize_corpus(corpus, bert(), destination, shard_tokens=1500)
    else:
        interrupted(corpus, destination, shards=2)
    before = files_of(destination)
    files, tokenizer, key = corpus, bert(), "text"
    if other == "tokenizer":
        tokenizer = bert("aaaa")
    elif other == "text_key":
        key = "body"
    elif other == "files":
        files = corpus[:2]
    elif other == "order":
        files = [corpus[2], *corpus[:2]]
    else:
        corpus[0].write_text(corpus[0].read_text().replace("a", "b"))
    with pytest.raises(DataError) as caught:
        tokenize_corpus(files, tokenizer, destination, shard_tokens=1500, text_key=key)
    assert str(destination) in str(caught.value)
    assert "resume=False" in str(caught.value)
    assert {"order": "files", "content": "files"}.get(other, other) in str(caught.value)
    assert files_of(destination) == before

    restarted = tokenize_corpus(
        files[1:2] if other == "text_key" else files, tokenizer, destination, resume=False
    )
    assert restarted.path == destination
    assert not (destination / "unfinished.json").exists()
    TokenStore.open(destination, verify=True)


def test_a_run_without_shards_binds_nobody(corpus: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        tokenize_corpus([tmp_path / "bad.txt"], bert(), tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["unfinished.json"]
    tokenize_corpus(corpus, albert(), tmp_path / "store")


@pytest.mark.parametrize("resume", [True, False])
def test_foreign_files_are_never_touched(corpus: list[Path], tmp_path: Path, resume: bool) -> None:
    destination = tmp_path / "store"
    destination.mkdir()
    (destination / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds something other than a token store \(thesis.tex\)"):
        tokenize_corpus(corpus, bert(), destination, resume=resume)
    assert files_of(destination) == {"thesis.tex": b"years of work"}


# --- mistakes and bad luck ---


def test_a_full_disk(corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "store"
    real = np.save

    def save(file: Any, *arguments: Any, **options: Any) -> None:
        if "shard-00001.sentences" in file.name:
            raise OSError(28, "No space left on device")
        real(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(
            DataError, match=r"No space left on device.*the same command again.*the 1 finished"
        ):
            tokenize_corpus(corpus, bert(), destination, shard_tokens=1500)
    tokenize_corpus(corpus, bert(), destination, shard_tokens=1500)
    tokenize_corpus(corpus, bert(), tmp_path / "whole", shard_tokens=1500)
    assert files_of(destination) == files_of(tmp_path / "whole")


def test_a_destination_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="cannot be made or read"):
        tokenize_corpus([tmp_path / "a.txt"], bert(), tmp_path / "a.txt" / "store")


@pytest.mark.parametrize("content", ["", "\n\n", "\u200b"])
def test_no_text_makes_no_store(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(DataError, match=r"There is no text in a.txt"):
        tokenize_corpus([tmp_path / "a.txt"], bert(), tmp_path / "store")
    with pytest.raises(DataError):
        TokenStore.open(tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_text_the_tokenizer_fails_at_is_named(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.txt").write_text("a\n\nb\n\nunheard of\n")
    ids = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *"abc12,?"])}
    ids |= {token: index for index, token in enumerate(["Is", "it", "or"], len(ids))}
    backend = Backend(models.WordPiece(ids, unk_token="[NOWHERE]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(DataError, match=r"a\.txt, line 5: .*the tokenizers library failed"):
        tokenize_corpus(
            [tmp_path / "a.txt"], minilm.Tokenizer(backend), tmp_path / "store", workers=workers
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_late_in_a_file_is_named(corpus: list[Path], tmp_path: Path, workers: int) -> None:
    corpus[2].write_bytes(corpus[2].read_bytes()[:-30])
    with pytest.raises(DataError, match=r"c\.txt\.xz is damaged or cut off after line"):
        tokenize_corpus(corpus, bert(), tmp_path / "store", workers=workers, shard_tokens=1500)
    with pytest.raises(DataError, match="unfinished"):
        TokenStore.open(tmp_path / "store")


def test_many_unknown_tokens_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Zzz zzz a b")
    with pytest.warns(UserWarning, match=r"50% of the tokens are unknown to Tokenizer\("):
        tokenize_corpus([tmp_path / "a.txt"], bert(), tmp_path / "store")


def test_arguments(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match="files is empty"):
        tokenize_corpus([], bert(), tmp_path / "store")
    for wrong in ({"shard_tokens": 0}, {"workers": -1}):
        with pytest.raises(InputError, match="must be at least"):
            tokenize_corpus([tmp_path / "a.txt"], bert(), tmp_path / "store", **wrong)
    assert not (tmp_path / "store").exists()


@pytest.mark.filterwarnings("ignore:.*unknown")
def test_hard_texts(tmp_path: Path) -> None:
    texts = [
        "a" * 1_000_000,
        "a" * 300_000 + ". " + "b",
        "\0a\0",
        "a\ufeffb",
        "\U0010ffff b",
        "é́" * 99,
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for tokenizer in (bert(), albert()):
        destination = tmp_path / tokenizer.pad_token
        store = tokenize_corpus([tmp_path / "a.jsonl"], tokenizer, destination)
        assert store.num_documents == len(texts)


# --- the command ---


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["tokenize", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bert().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_command(corpus: list[Path], model: Path, tmp_path: Path) -> None:
    result = run(*corpus, "--tokenizer", model, "-o", tmp_path / "store", "--shard-tokens", 1500)
    assert result.exit_code == 0, result.output
    store = TokenStore.open(tmp_path / "store")
    lines = result.stdout.splitlines()
    assert lines[0] == str(tmp_path / "store")
    assert (
        lines[1].split() == f"documents {store.num_documents} (5 without any text left out)".split()
    )
    assert lines[2].split() == ["sentences", f"{store.num_sentences:,}"]
    assert lines[3].split()[:2] == ["tokens", f"{store.num_tokens:,}"]
    assert "0.00% unknown" in lines[3]
    assert lines[4].split()[0] == "speed"
    assert "%|" not in result.stderr  # no bar where nobody watches

    again = run(*corpus, "--tokenizer", model, "-o", tmp_path / "store", "--shard-tokens", 1500)
    assert again.exit_code == 0
    assert "is complete: there is nothing to do" in again.stderr
    assert again.stdout.splitlines() == lines[:4]

    other = run(corpus[0], "--tokenizer", model, "-o", tmp_path / "store")
    assert other.exit_code == 2
    assert other.stderr.startswith(f"error: {tmp_path / 'store'} is a finished store made with")
    restarted = run(corpus[0], "--tokenizer", model, "-o", tmp_path / "store", "--restart")
    assert restarted.exit_code == 0
    assert TokenStore.open(tmp_path / "store").num_documents == 60


def test_command_json_and_options(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "Ab cd. E!"}\n')
    (tmp_path / "b.txt").write_bytes(b"a\nb\xff\n\nc")
    result = run(
        *(tmp_path / "a.jsonl", tmp_path / "b.txt", "--tokenizer", model, "-o", tmp_path / "store"),
        *("--text-key", "body", "--document-per-line", "--errors", "ignore", "--json"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["documents"], found["sentences"], found["tokens"]) == (4, 5, 10)
    assert found["tokens_per_document"] == 2.5
    assert found["unknown_share"] == 0
    assert found["seconds"] > 0
    assert found["fingerprint"] == TokenStore.open(tmp_path / "store").fingerprint
    again = run(
        *(tmp_path / "a.jsonl", tmp_path / "b.txt", "--tokenizer", model, "-o", tmp_path / "store"),
        *("--text-key", "body", "--document-per-line", "--errors", "ignore", "--json"),
    )
    assert "seconds" not in json.loads(again.stdout)


def test_command_mistakes(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\nb\xff\n")
    result = run(tmp_path / "a.txt", "--tokenizer", model, "-o", tmp_path / "store")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {tmp_path / 'a.txt'}, line 2: byte 2 (0xff) is not UTF-8" in result.stderr
    result = run(tmp_path / "b.txt", "--tokenizer", model, "-o", tmp_path / "store")
    assert result.stderr == f"error: {tmp_path / 'b.txt'} does not exist.\n"
    assert run("--tokenizer", model, "-o", tmp_path / "store").exit_code == 2


@pytest.mark.filterwarnings("default")
def test_unknown_words_are_a_warning_of_the_command(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("zzz")
    result = run(tmp_path / "a.txt", "--tokenizer", model, "-o", tmp_path / "store")
    assert result.exit_code == 0
    assert "warning: 100% of the tokens are unknown" in result.stderr


# --- real processes ---


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "minilm.cli", "tokenize", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches all its processes, but not the tests
    )


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def group_is_gone(group: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        listed = subprocess.run(
            ["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split() for line in listed.splitlines()]
        if not any(row[0] == str(group) and not row[1].startswith("Z") for row in rows):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on(model: Path, tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(make_text(1000, seed) for seed in range(3)))
    options = ["--tokenizer", model, "--shard-tokens", 10_000, "--workers", 2]
    process = start(tmp_path / "a.txt", *options, "-o", tmp_path / "store")
    wait_for(tmp_path / "store" / "shard-00001.documents.npy", process)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert group_is_gone(process.pid)
    with pytest.raises(DataError, match="unfinished token store"):
        TokenStore.open(tmp_path / "store")
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command resumes there" in errors
        assert "Traceback" not in errors

    result = run(tmp_path / "a.txt", *options, "-o", tmp_path / "store")
    assert result.exit_code == 0, result.output
    assert "going on after" in result.stderr
    result = run(tmp_path / "a.txt", *options[:-1], 1, "-o", tmp_path / "whole")
    assert files_of(tmp_path / "store") == files_of(tmp_path / "whole")


def test_a_script_without_a_main_guard_is_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(make_text(3))
    (tmp_path / "script.py").write_text(
        "import sys, minilm\n"
        "from minilm.data.tokenize import tokenize_corpus\n"
        f"tokenizer = minilm.Tokenizer.from_pretrained({str(model)!r})\n"
        f"tokenize_corpus([{str(tmp_path / 'a.txt')!r}], tokenizer, "
        f"{str(tmp_path / 'store')!r}, workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def test_workers_load_no_torch(tmp_path: Path) -> None:
    code = "import sys, minilm.data.document_encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    assert issubclass(DataError, MinilmError)
    assert str(Document("a", tmp_path / "a.txt", 3)).endswith("a.txt, line 3")
