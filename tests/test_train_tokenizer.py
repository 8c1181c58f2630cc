"""Vocabularies learned from text: what is in them, that they never vary, and who can read them."""

import gzip
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from click.testing import CliRunner
from tokenizers import Tokenizer as Backend, models, pre_tokenizers, trainers

import minilm
from minilm.cli import main
from minilm.errors import CheckpointError, DataError, InputError, MinilmError
from minilm.tokenization import training as tokenizer_training
from minilm.tokenization.training import Kind, train_tokenizer

KINDS: list[Kind] = ["wordpiece", "unigram"]
SIZE = 600

TRICKY = [
    "",
    "   ",
    "Zürich's café: ``naïve'' (2,010) costs 3.14!",
    "[MASK] and [CLS] in a [MASK].",
    "İstanbul, ﬁne; 北京大学 한국어 \u200b x\u00a0y\tz \x00 \U0001f600",
    "supercalifragilistic" * 7,
    "▁ ##a <unk> <pad>",
]


def sentences(count: int) -> Iterator[str]:
    """Sentences of an invented language whose words are as unevenly frequent as real ones."""
    draw = random.Random(3)
    syllables = [a + b for a in "bdfglmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "ér")]
    words = ["".join(draw.choices(syllables, k=1 + i % 4)) for i in range(1500)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    for _ in range(count):
        chosen = draw.choices(words, weights, k=draw.randrange(4, 15))
        chosen[draw.randrange(len(chosen))] = str(draw.randrange(1900, 2030))
        yield f"{' '.join(chosen).capitalize()}, {draw.choice(words)}-{draw.choice(words)}."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n\n".join(sentences(2000)), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[(k, c) for k in KINDS for c in (False, True)], ids=str)
def trained(
    request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Kind, bool]:
    """A directory with a tokenizer, its kind, and whether it is cased."""
    kind, cased = request.param
    directory = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer([corpus], directory, kind=kind, vocab_size=SIZE, cased=cased)
    return directory, kind, cased


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def text_file(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_special_tokens_come_first_and_the_size_is_kept(trained: tuple[Path, Kind, bool]) -> None:
    directory, kind, _ = trained
    tokenizer = minilm.Tokenizer.from_pretrained(directory)
    first = [tokenizer.id_to_token(index) for index in range(5)]
    assert (
        first
        == {
            "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            "unigram": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        }[kind]
    )
    assert tokenizer.all_special_ids == [0, 1, 2, 3, 4]
    assert tokenizer.vocab_size == SIZE
    assert len(tokenizer.backend.get_vocab()) == SIZE
    ids = tokenizer("ba", "be")["input_ids"][0].tolist()
    assert (ids[0], ids[-1], ids.count(3)) == (2, 3, 2)


def test_transformers_gives_the_same_ids(trained: tuple[Path, Kind, bool], corpus: Path) -> None:
    directory, kind, _ = trained
    own = minilm.Tokenizer.from_pretrained(directory)
    texts = [*TRICKY, *corpus.read_text(encoding="utf-8").split("\n\n")[:50]]
    expected = own(texts, texts[::-1])
    classes = {"wordpiece": "BertTokenizerFast", "unigram": "AlbertTokenizer"}
    for name in ("AutoTokenizer", classes[kind]):
        loaded: Any = getattr(transformers, name).from_pretrained(directory)
        theirs = loaded(
            texts, texts[::-1], padding=True, return_tensors="pt", return_token_type_ids=True
        )
        for key, tensor in expected.items():
            assert theirs[key].tolist() == tensor.tolist(), (name, key)
        assert len(loaded) == SIZE
        assert loaded.mask_token_id == own.mask_token_id


def test_case_and_accents(trained: tuple[Path, Kind, bool]) -> None:
    directory, _, cased = trained
    tokenizer = minilm.Tokenizer.from_pretrained(directory)
    assert (tokenizer.tokenize("BÉR") == tokenizer.tokenize("ber")) is not cased
    letters = "".join(tokenizer.backend.get_vocab())
    assert ("é" in letters) is cased


def test_same_text_same_files_whatever_the_threads(corpus: Path, tmp_path: Path) -> None:
    """The library's hash tables are seeded anew in every process."""
    code = (
        "import sys; from pathlib import Path\n"
        "from minilm.tokenization.training import train_tokenizer\n"
        f"for kind in {KINDS!r}:\n"
        "    destination = Path(sys.argv[2], kind)\n"
        f"    train_tokenizer(sys.argv[1:2], destination, kind=kind, vocab_size={SIZE})"
    )
    for name, settings in {
        "one": {"TOKENIZERS_PARALLELISM": "false"},
        "three": {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"},
    }.items():
        subprocess.run(
            [sys.executable, "-c", code, str(corpus), str(tmp_path / name)],
            env={**os.environ, **settings},
            check=True,
            timeout=120,
        )
    for kind in KINDS:
        found = contents(tmp_path / "one" / kind)
        assert found == contents(tmp_path / "three" / kind)
        assert "tokenizer.json" in found


def test_every_letter_continues_words(corpus: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([corpus], tmp_path / "new", vocab_size=SIZE)
    vocabulary = tokenizer.backend.get_vocab()
    letters = {token for token in vocabulary if len(token) == 1 and token.isalnum()}
    assert letters >= set("abdefgilmnoprstuvz0123456789")
    assert {f"##{letter}" for letter in letters} <= vocabulary.keys()
    assert "##," not in vocabulary
    assert "," in vocabulary
    for letter in letters:
        assert "[UNK]" not in tokenizer.tokenize(f"{letter}q9{letter}".replace("q", "z"))
    lines = (tmp_path / "new" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [tokenizer.id_to_token(index) for index in range(SIZE)]


def test_a_vocab_txt_alone_gives_the_same_ids(corpus: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([corpus], tmp_path / "new", vocab_size=SIZE)
    (tmp_path / "new" / "tokenizer.json").unlink()
    again = minilm.Tokenizer.from_pretrained(tmp_path / "new")
    assert again(TRICKY)["input_ids"].tolist() == tokenizer(TRICKY)["input_ids"].tolist()


def test_unigram_pieces(corpus: Path, tmp_path: Path) -> None:
    """Frequent words whole, letters and digits apart, and no trace of the mark at word ends."""
    tokenizer = train_tokenizer([corpus], tmp_path / "new", kind="unigram", vocab_size=SIZE)
    pieces = set(tokenizer.backend.get_vocab()) - set(tokenizer_training.UNIGRAM_SPECIAL)
    for piece in pieces:
        body = piece.removeprefix("▁")
        assert not body or body.isalpha() or body.isdigit() or len(body) == 1, piece
    words = Counter(re.findall(r" ([a-z]+)\b", corpus.read_text(encoding="utf-8")))
    missing = [word for word, _ in words.most_common(100) if f"▁{word}" not in pieces]
    assert len(missing) < 5, missing
    assert tokenizer.tokenize("2,010,")[-1] == ","


def test_scores_are_sorted_log_probabilities(corpus: Path, tmp_path: Path) -> None:
    train_tokenizer([corpus], tmp_path / "new", kind="unigram", vocab_size=SIZE)
    model = json.loads((tmp_path / "new" / "tokenizer.json").read_bytes())["model"]
    assert model["unk_id"] == 1
    scores = [score for _, score in model["vocab"][5:]]
    assert scores == sorted(scores, reverse=True)
    assert max(scores) < 0
    assert [score for _, score in model["vocab"][:5]] == [0.0] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_rare_characters_cut_words(kind: Kind, tmp_path: Path) -> None:
    """ "banana" is learned beside a character that is left out, and that character is unknown."""
    path = text_file(tmp_path, "banana☃banana bananaθbanana banana " * 40 + "☃ξ")
    tokenizer = train_tokenizer(
        [path], tmp_path / "new", kind=kind, vocab_size=60, character_coverage=0.99
    )
    vocabulary = tokenizer.backend.get_vocab()
    assert {"☃", "θ"} <= set("".join(vocabulary))
    assert "ξ" not in "".join(vocabulary)
    assert tokenizer.unk_token_id in tokenizer("ξ")["input_ids"][0]
    rare = train_tokenizer(
        [path], tmp_path / "rare", kind=kind, vocab_size=60, character_coverage=0.9
    )
    assert not {"☃", "θ"} & set("".join(rare.backend.get_vocab()))
    assert [token.removeprefix("▁") for token in rare.tokenize("banana")] == ["banana"]


@pytest.mark.parametrize(("kind", "needed"), [("wordpiece", 19), ("unigram", 13)])
def test_sizes_from_the_smallest_on(kind: Kind, needed: int, tmp_path: Path) -> None:
    path = text_file(tmp_path, "abc abd bcd xyz\n" * 5)  # 7 letters
    with pytest.raises(InputError, match=f"vocab_size is {needed - 1}, .* need {needed}"):
        train_tokenizer([path], tmp_path / "small", kind=kind, vocab_size=needed - 1)
    assert not (tmp_path / "small").exists()
    for size in (needed, needed + 1, needed + 2):
        tokenizer = train_tokenizer([path], tmp_path / str(size), kind=kind, vocab_size=size)
        assert tokenizer.vocab_size == size
    little = train_tokenizer([path], tmp_path / "large", kind=kind, vocab_size=5000)
    assert needed < little.vocab_size < 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "  \n\n\t", "\u0301\u0302"])
def test_no_text(kind: Kind, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text in: .*text\.txt"):
        train_tokenizer([text_file(tmp_path, text)], tmp_path / "new", kind=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "北京大学 北京",
        "한국어 한국",
        "👨‍👩‍👧 😀",
        "▁▁ ▁a ▁",
        "[CLS] <unk> ##",
        "\x00\x01 ok",
        "\uffff a",
    ],
    ids=ascii,
)
def test_odd_texts(kind: Kind, text: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([text_file(tmp_path, text)], tmp_path / "new", kind=kind)
    again = minilm.Tokenizer.from_pretrained(tmp_path / "new")
    assert again([text])["input_ids"].tolist() == tokenizer([text])["input_ids"].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_endless_words_take_no_endless_time(kind: Kind, tmp_path: Path) -> None:
    """The trainers' time grows with the square of a word's length: this would take minutes."""
    path = text_file(tmp_path, "ab" * 150_000)
    began = time.monotonic()
    train_tokenizer([path], tmp_path / "new", kind=kind, vocab_size=200)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_documents_of_any_kind_of_file(kind: Kind, tmp_path: Path) -> None:
    texts = list(sentences(60))
    with gzip.open(tmp_path / "all.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"body": text}) + "\n" for text in texts)
    plain = text_file(tmp_path, "\n".join(texts[:40]))
    train_tokenizer(
        [tmp_path / "all.jsonl.gz"],
        tmp_path / "limited",
        kind=kind,
        vocab_size=200,
        documents=40,
        text_key="body",
    )
    train_tokenizer([plain], tmp_path / "plain", kind=kind, vocab_size=200, document_per_line=True)
    train_tokenizer(
        [tmp_path / "all.jsonl.gz"], tmp_path / "all", kind=kind, vocab_size=200, text_key="body"
    )
    assert contents(tmp_path / "limited") == contents(tmp_path / "plain")
    assert contents(tmp_path / "limited") != contents(tmp_path / "all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bpe"}, "kind must be one of wordpiece, unigram, not 'bpe'"),
        ({"character_coverage": 0.0}, "character_coverage must be above 0"),
        ({"character_coverage": 1.5}, "at most 1, not 1.5"),
        ({"documents": 0}, "documents must be at least 1"),
        ({"encoding_errors": "skip"}, "encoding_errors must be one of"),
        ({"files": []}, "no text in: no files"),
        ({"files": ["missing.txt"]}, "missing.txt does not exist"),
        ({"files": ["book.pdf"]}, "text files end in"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str, corpus: Path, tmp_path: Path) -> None:
    arguments = {"files": [corpus], "destination": tmp_path / "new", **changes}
    with pytest.raises(MinilmError, match=re.escape(message)):
        train_tokenizer(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_stays(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        train_tokenizer([corpus], tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_an_error_while_learning_arrives(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tokenizer_training._Corpus.lines

    def lines(self: Any, doing: str, **options: Any) -> Iterator[str]:
        yield from read(self, doing, **options)
        if doing == "learning":
            raise DataError("the file has changed")

    monkeypatch.setattr(tokenizer_training._Corpus, "lines", lines)
    with pytest.raises(DataError, match="the file has changed"):
        train_tokenizer([corpus], tmp_path / "new", vocab_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_learning() -> None:
    """The library itself does not look for signals."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    others = set(threading.enumerate())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            tokenizer_training._train(
                backend,
                itertools.repeat("more and more"),
                trainers.WordPieceTrainer(show_progress=False),
                "x",
            )
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)
    for thread in set(threading.enumerate()) - others:  # it is given no more text
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_command(corpus: Path, tmp_path: Path) -> None:
    arguments = ["train-tokenizer", str(corpus), "--vocab-size", "300", "-o"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "300 tokens" in done.stdout
    assert set(contents(tmp_path / "a")) == {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}

    options = ["--kind", "unigram", "--cased", "--json"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "b"), *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["vocab_size"] == 300
    settings = json.loads((tmp_path / "b" / "tokenizer_config.json").read_bytes())
    assert settings["do_lower_case"] is False
    assert settings["keep_accents"] is True

    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "a")])
    assert done.exit_code == 2
    assert "not empty" in done.stderr


def test_command_says_when_the_text_is_too_little(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a small text, a small model")
    done = CliRunner().invoke(main, ["train-tokenizer", str(path), "-o", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "tokens; 8,000 were asked for" in done.stderr
