"""Learns a vocabulary from text: WordPiece (BERT, DistilBERT) or unigram (ALBERT).

The text is read two or three times: to count its characters, for unigram to collect its words, and
to learn. The Rust library `tokenizers` does the learning. It goes through words in random order, so
whatever depends on that order is made deterministic here: the same text and settings give the same
files with any number of threads.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from tqdm.auto import tqdm

from minilm.data.text_files import TextFormat, check_text_file, file_names, read_documents
from minilm.data.text_records import EncodingErrors
from minilm.errors import DataError, InputError, MinilmError, argument
from minilm.files.atomic import new_directory
from minilm.files.json_file import json_bytes
from minilm.tokenization.files import guarded
from minilm.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

Kind: TypeAlias = Literal["wordpiece", "unigram"]
Read: TypeAlias = Callable[[str], Iterator[str]]  # label of the progress bar -> all lines

# in the order of their ids, from 0
WORDPIECE_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNIGRAM_SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")

CHARACTER_COVERAGE = 0.99995  # the value for ALBERT's vocabulary

_CONTINUATION = "##"
_MIN_PAIRS = 2  # WordPiece: pieces that occur once are not learned

# While learning, words are split further. For words longer than 100 characters (such as base64) the
# trainers would take time in proportion to the square of the length.
_WORDPIECE_UNIT = r"(?m:.{100})"
# Unigram pieces are of one kind: letters, digits, or a single other character. This keeps "end."
# and "2010," out of the vocabulary, so that ALBERT's rule (a piece that ends in a digit and a comma
# is split again) holds by itself.
_UNIGRAM_UNIT = r"▁?(?:[\p{L}\p{M}]{1,100}\uffff?|\p{N}{1,100}\uffff?|[^▁\p{L}\p{M}\p{N}])|▁"
_WORD_END = "\uffff"  # occurs in no text

# The unigram trainer gives characters without a score the lowest one, plus this much for each such
# character before, in random order.
_PENALTY_STEP = 1e-4
_SCORE_DIGITS = 5  # far above the noise of sums in random order, 1e-13


def train_tokenizer(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    destination: str | os.PathLike[str],
    *,
    kind: Kind = "wordpiece",
    vocab_size: int = 8000,
    cased: bool = False,
    character_coverage: float = CHARACTER_COVERAGE,
    documents: int | None = None,
    encoding_errors: EncodingErrors = "strict",
    text_key: str = "text",
    document_per_line: bool = False,
    progress: bool = False,
) -> Tokenizer:
    """Learns a vocabulary from text files and writes it as the tokenizer of a model directory.

    The kinds:

    - "wordpiece", as in BERT: BERT's normaliser and splitting at white space and punctuation,
      [PAD] [UNK] [CLS] [SEP] [MASK] with ids 0 to 4. Pieces come from merging the most frequent
      pairs of neighbours, of those that occur at least twice. Every letter of the alphabet is also
      a continuation (`##x`), so that a new word of known letters is never [UNK].
    - "unigram", as in ALBERT: pieces with log probabilities, <pad> <unk> [CLS] [SEP] [MASK] with
      ids 0 to 4, `▁` at the beginning of words. Sentencepiece's character table (NMT + NFKC), the
      last step of normalisation in published ALBERT tokenizers, is left out.

    Text is lower-cased and loses its accents unless `cased`.

    Args:
        files: text files (see `minilm.data.text_files`), read one after another; or one file.
        destination: a directory that does not exist yet, or is empty. It appears complete or not at
            all: tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt. Both
            `Tokenizer.from_pretrained` and transformers' AutoTokenizer, BertTokenizerFast and
            AlbertTokenizer read it and give the same ids.
        kind: "wordpiece" or "unigram".
        vocab_size: number of tokens, special tokens included. Little text may give fewer.
        cased: keep upper case and accents.
        character_coverage: the alphabet consists of the most frequent characters that make up this
            fraction of the text (without white space); words are split at all others.
        documents: number of documents to learn from, from the first on; None = all.
        encoding_errors: what to do with bytes that are not UTF-8: "strict" raises an error,
            "replace" turns them into U+FFFD, "ignore" drops them.
        text_key: the key of the text in the objects of a .jsonl file.
        document_per_line: whether every line of a .txt file is a document.
        progress: show progress bars on stderr.

    Returns:
        The tokenizer. Its `vocab_size` is the number of rows of a model's embedding table.

    Raises:
        InputError: an argument is out of range, or vocab_size has no room for the alphabet.
        DataError: a file cannot be read, or there is no text.
        CheckpointError: the destination is not empty, or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "text.txt").write_text("low lower lowest new newer newest\\n" * 3)
        >>> tokenizer = train_tokenizer([folder / "text.txt"], folder / "model", vocab_size=40)
        >>> tokenizer.tokenize("Lower newest")
        ['lower', 'newest']

    References:
        BERT, arXiv 1810.04805 (section 3); Kudo, arXiv 1804.10959 (unigram); ALBERT's vocabulary:
        README.md of github.com/google-research/albert.
    """
    recipe = _recipe(kind, cased)
    if not 0 < character_coverage <= 1:
        raise InputError(
            f"character_coverage must be above 0 and at most 1, not {character_coverage}."
        )
    if documents is not None and documents < 1:
        raise InputError(f"documents must be at least 1 or None, not {documents}.")
    text_format = TextFormat(encoding_errors, text_key, document_per_line)
    corpus = _Corpus(tuple(map(Path, file_names(files))), text_format, documents, progress)
    with new_directory(Path(destination)) as complete:
        counts = corpus.count_characters()
        alphabet, rare = _alphabet(recipe.backend, counts, character_coverage)
        if not alphabet:
            raise DataError(
                f"There is no text in: {', '.join(map(str, corpus.files)) or 'no files'}."
            )
        learn = _learn_wordpiece if kind == "wordpiece" else _learn_unigram
        read = partial(corpus.lines, cut_at=rare)
        tokenizer = Tokenizer(
            learn(recipe.backend, read, alphabet, vocab_size), source=str(destination)
        )
        tokenizer.save_pretrained(complete)
        # for the classes of transformers that build their pipeline from the settings
        settings_file = complete / "tokenizer_config.json"
        settings = json.loads(settings_file.read_bytes()) | recipe.settings
        settings_file.write_bytes(json_bytes(settings))
        if kind == "wordpiece":
            tokens = (tokenizer.id_to_token(index) for index in range(tokenizer.vocab_size))
            text = "".join(f"{token}\n" for token in tokens)
            (complete / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    return tokenizer


@dataclass(frozen=True)
class _Recipe:
    """A kind of tokenizer before it has learned anything.

    Attributes:
        backend: normaliser, splitting and decoder, with an empty model.
        settings: the settings about them for tokenizer_config.json.
    """

    backend: tokenizers.Tokenizer
    settings: dict[str, Any]


def _recipe(kind: Kind, cased: bool) -> _Recipe:
    if kind == "wordpiece":
        return _bert(cased)
    if kind == "unigram":
        return _albert(cased)
    raise InputError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}.")


def _bert(cased: bool) -> _Recipe:
    from tokenizers import Tokenizer as Backend, decoders, models, normalizers, pre_tokenizers

    backend = Backend(models.WordPiece(unk_token=WORDPIECE_SPECIAL[1]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=_CONTINUATION)
    return _Recipe(backend, {"do_lower_case": not cased, "tokenize_chinese_chars": True})


def _albert(cased: bool) -> _Recipe:
    from tokenizers import Tokenizer as Backend, decoders, models, normalizers, pre_tokenizers

    backend = Backend(models.Unigram())
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
    ]
    if not cased:
        steps += [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return _Recipe(backend, {"do_lower_case": not cased, "keep_accents": cased})


@dataclass(frozen=True)
class _Corpus:
    """Text files that can be read several times, without holding them in memory."""

    files: tuple[Path, ...]
    text_format: TextFormat
    documents: int | None
    progress: bool

    def lines(self, doing: str, *, cut_at: frozenset[str] = frozenset()) -> Iterator[str]:
        """All lines of the documents.

        Args:
            doing: label of the progress bar.
            cut_at: characters to replace by a space.
        """
        # for the first few documents, the fraction of the files that they are is not known
        size = sum(map(check_text_file, self.files)) if self.documents is None else None
        cut = re.compile(f"[{re.escape(''.join(sorted(cut_at)))}]") if cut_at else None
        with tqdm(
            total=size,
            unit="B",
            unit_scale=True,
            desc=doing,
            leave=False,
            disable=not self.progress,
        ) as bar:
            found = chain.from_iterable(
                read_documents(file, self.text_format, on_bytes=lambda data: bar.update(len(data)))
                for file in self.files
            )
            for document in islice(found, self.documents):
                text = cut.sub(" ", document.text) if cut else document.text
                yield from text.split("\n")

    def count_characters(self) -> Counter[str]:
        """How often every character occurs, white space excluded."""
        counts: Counter[str] = Counter()
        for line in self.lines("counting characters"):
            counts.update(line)
        return Counter({char: n for char, n in counts.items() if not char.isspace()})


def _alphabet(
    backend: tokenizers.Tokenizer, counts: Counter[str], coverage: float
) -> tuple[list[str], frozenset[str]]:
    """The characters to learn from.

    Args:
        backend: a backend with its normaliser.
        counts: the counts of the characters in the text.
        coverage: fraction of the normalised text to cover.

    Returns:
        The characters of normalised text, sorted, and the characters of the text that are too
        rare.
    """
    normalised = {char: "".join(backend.normalizer.normalize_str(char).split()) for char in counts}
    frequencies: Counter[str] = Counter()
    for char, parts in normalised.items():
        for part in parts:
            frequencies[part] += counts[char]
    missing = sum(frequencies.values()) * coverage
    frequent = set()
    for part, count in sorted(frequencies.items(), key=lambda item: (-item[1], item[0])):
        if missing <= 0:
            break
        frequent.add(part)
        missing -= count
    rare = frozenset(char for char, parts in normalised.items() if not frequent.issuperset(parts))
    return sorted(set("".join(normalised[char] for char in counts if char not in rare))), rare


def _learn_wordpiece(
    backend: tokenizers.Tokenizer, read: Read, alphabet: list[str], vocab_size: int
) -> tokenizers.Tokenizer:
    """Learns a WordPiece model for `backend`.

    Among equally frequent pairs the trainer prefers those with small ids, and it would give the
    continuations ids in random order. So the alphabet is passed in advance, as special tokens.
    """
    from tokenizers import models, trainers

    continuations = [
        _CONTINUATION + char
        for char in alphabet  # punctuation and Chinese characters stand alone
        if len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str("a" + char)))
        == 1
    ]
    fixed = [*WORDPIECE_SPECIAL, *alphabet, *continuations]
    _check_room(
        vocab_size,
        len(fixed),
        f"{len(alphabet)} characters of the text and {len(continuations)} continuations (##)",
    )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_PAIRS,
        special_tokens=fixed,
        continuing_subword_prefix=_CONTINUATION,
        show_progress=False,
    )
    _train(backend, read("learning"), trainer, _WORDPIECE_UNIT)
    vocabulary = backend.get_vocab()
    # a new backend: in the old one the whole alphabet counts as special
    learned = type(backend)(models.WordPiece(vocabulary, unk_token=WORDPIECE_SPECIAL[1]))
    learned.normalizer = backend.normalizer
    learned.pre_tokenizer = backend.pre_tokenizer
    learned.decoder = backend.decoder
    return learned


def _learn_unigram(
    backend: tokenizers.Tokenizer, read: Read, alphabet: list[str], vocab_size: int
) -> tokenizers.Tokenizer:
    """Learns a unigram model for `backend`.

    The trainer's candidates for pieces are strings that are followed by different characters in
    different words. A whole word that nothing ever follows would not be one: it would learn
    "▁severa" and "l" for "several". So each word is given once more with a mark at its end, and
    pieces with the mark are dropped. On 12 MB of English Wikipedia, with 8,000 pieces, this saves
    10 % of the tokens of other text and comes within 1 % of sentencepiece.
    """
    from tokenizers import models, trainers

    single = {*alphabet, "▁"}
    needed = len(UNIGRAM_SPECIAL) + len(single)
    _check_room(vocab_size, needed, f"{len(single)} characters of the text, ▁ among them")
    words = [f"{word}{_WORD_END}" for word in _words(backend, read("collecting words"))]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size + vocab_size // 10 + 1,  # some are dropped, then the best are kept
        special_tokens=list(UNIGRAM_SPECIAL),
        unk_token=UNIGRAM_SPECIAL[1],
        show_progress=False,
    )
    _train(backend, chain(read("learning"), words), trainer, _UNIGRAM_UNIT)
    pieces = json.loads(backend.to_str())["model"]["vocab"][len(UNIGRAM_SPECIAL) :]
    pieces = [(piece, score) for piece, score in pieces if _WORD_END not in piece]
    backend.model = models.Unigram(
        [
            *((token, 0.0) for token in UNIGRAM_SPECIAL),
            *_settle(pieces, vocab_size - len(UNIGRAM_SPECIAL)),
        ],
        unk_id=UNIGRAM_SPECIAL.index("<unk>"),
        byte_fallback=False,
    )
    return backend


def _words(backend: tokenizers.Tokenizer, lines: Iterator[str]) -> list[str]:
    """The words that occur at least twice with white space before them, in alphabetical order."""
    from tokenizers import models, trainers

    counter = type(backend)(models.WordLevel())
    counter.normalizer = backend.normalizer
    counter.pre_tokenizer = backend.pre_tokenizer
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**32, min_frequency=2, special_tokens=[], show_progress=False
    )
    _train(counter, lines, trainer, _UNIGRAM_UNIT)
    return sorted(word[1:] for word in counter.get_vocab() if re.match(r"▁\w", word))


def _train(
    backend: tokenizers.Tokenizer,
    lines: Iterator[str],
    trainer: tokenizers.trainers.Trainer,
    unit: str,
) -> None:
    """Runs a trainer so that Ctrl-C can end it.

    The library may ignore signals for minutes, so it runs in a thread, which an interrupt abandons.

    Args:
        backend: the backend, whose model is replaced.
        lines: the text.
        trainer: a trainer of the library.
        unit: regular expression; inside the backend's words no piece crosses a boundary of its
            matches.
    """
    from tokenizers import Regex, pre_tokenizers

    abandoned = threading.Event()
    splitting = backend.pre_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [splitting, pre_tokenizers.Split(Regex(unit), "isolated")]
    )

    def run() -> None:
        try:
            with guarded(DataError, "learning the vocabulary"):
                backend.train_from_iterator(
                    takewhile(lambda _: not abandoned.is_set(), lines), trainer
                )
        except MinilmError as problem:
            problems.append(problem)

    problems: list[MinilmError] = []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        abandoned.set()
        raise
    if problems:
        raise problems[0]
    backend.pre_tokenizer = splitting


def _settle(pieces: list[tuple[str, float]], room: int) -> list[tuple[str, float]]:
    """The trainer's pieces, made independent of its random order, best first.

    Args:
        pieces: the pieces with their scores.
        room: number of pieces to keep: all characters and the best of the others.
    """
    single = [(piece, score) for piece, score in pieces if len(piece) == 1]
    lowest = min(score for _, score in pieces) + len(single) * _PENALTY_STEP
    settled = [(piece, round(max(score, lowest), _SCORE_DIGITS)) for piece, score in single]
    longer = [(piece, round(score, _SCORE_DIGITS)) for piece, score in pieces if len(piece) > 1]
    settled += sorted(longer, key=_best_first)[: room - len(single)]
    return sorted(settled, key=_best_first)


def _best_first(entry: tuple[str, float]) -> tuple[float, str]:
    piece, score = entry
    return -score, piece


def _check_room(vocab_size: int, needed: int, characters: str) -> None:
    if vocab_size < needed:
        raise InputError(
            f"{argument('vocab_size')} is {vocab_size}, but the 5 special tokens, {characters} "
            f"need {needed}. Give more than that, or a smaller {argument('character_coverage')}."
        )
