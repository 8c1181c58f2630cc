"""Token stores: what is read is what was written, and nothing damaged is ever opened."""

import json
import pickle
import random
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer as Backend, models, pre_tokenizers

import minilm
from memory_store import SPECIAL_TOKENS, UNK, wordpiece
from minilm.data.sentence_splitting import split_sentences
from minilm.data.store_manifest import Manifest
from minilm.data.token_store import TokenStore, tokenizer_fingerprint
from minilm.data.tokenize import tokenize_corpus
from minilm.errors import DataError, InputError

WORDS = [f"w{number}" for number in range(50)]
CAPITALS = [word.upper() for word in WORDS]
TOKENIZER = wordpiece(*WORDS, ".", *CAPITALS)


def make_documents(count: int = 40, seed: int = 1) -> list[str]:
    """Documents of some sentences and lines; a few words are unknown."""
    draw = random.Random(seed)
    words = [*WORDS, *["Unknown"] * 3]
    return [
        "\n".join(
            " ".join(
                f"{' '.join(draw.choices(words, k=draw.randint(1, 9)))}."
                for _ in range(draw.randint(1, 4))
            ).replace(". w", ". W")
            for _ in range(draw.randint(1, 5))
        )
        for _ in range(count)
    ]


DOCUMENTS = make_documents()


def encoded(text: str) -> list[list[int]]:
    """The plain way: sentence by sentence."""
    rows = [
        TOKENIZER.convert_tokens_to_ids(TOKENIZER.tokenize(sentence))
        for sentence in split_sentences(text)
    ]
    return [row for row in rows if row]


EXPECTED = [encoded(text) for text in DOCUMENTS]
TOKENS = [token for document in EXPECTED for sentence in document for token in sentence]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several shards."""
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "a.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    tokenize_corpus([directory / "a.txt"], TOKENIZER, directory / "store", shard_tokens=300)
    return directory / "store"


@pytest.fixture
def store(made: Path) -> TokenStore:
    return TokenStore.open(made, verify=True)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def refused(directory: Path, *, verify: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        TokenStore.open(directory, verify=verify)
    return str(caught.value)


# --- reading ---


def test_totals(store: TokenStore) -> None:
    shards = Manifest.read(store.path).shards
    assert len(shards) > 3
    assert all(300 <= shard.tokens < 600 for shard in shards[:-1])
    assert store.vocab_size == TOKENIZER.vocab_size
    assert store.num_documents == len(DOCUMENTS)
    assert store.num_sentences == sum(map(len, EXPECTED))
    assert store.num_tokens == len(TOKENS)
    assert store.num_unknown == TOKENS.count(UNK) > 0
    assert store.num_empty_documents == 0
    assert store.counts().dtype == np.int64
    assert store.counts().tolist() == np.bincount(TOKENS, minlength=store.vocab_size).tolist()
    assert repr(store) == (
        f"TokenStore({str(store.path)!r}, 40 documents, {store.num_sentences:,} sentences, "
        f"{len(TOKENS):,} tokens)"
    )


def test_all_slices(store: TokenStore) -> None:
    whole = store.tokens(0, store.num_tokens)
    assert whole.dtype == np.uint16
    assert whole.tolist() == TOKENS
    draw = random.Random(2)
    for _ in range(300):
        start, stop = sorted(draw.choices(range(store.num_tokens + 1), k=2))
        assert store.tokens(start, stop).tolist() == TOKENS[start:stop]
    for edge in {0, store.num_tokens, *store.document_starts.tolist()}:
        assert store.tokens(edge, edge).tolist() == []
        assert store.tokens(max(edge - 1, 0), edge).tolist() == TOKENS[max(edge - 1, 0) : edge]
        assert (
            store.tokens(edge, edge + 1 if edge < store.num_tokens else edge).tolist()
            == (TOKENS[edge : edge + 1])
        )


def test_documents_and_sentences(store: TokenStore) -> None:
    starts = store.document_starts
    assert starts.dtype == np.int64
    assert (starts[0], starts[-1], len(starts)) == (0, len(TOKENS), len(DOCUMENTS) + 1)
    for number, document in enumerate(EXPECTED):
        offsets = store.sentences(number)
        assert (offsets.dtype, offsets[0], offsets[-1]) == (np.int64, *starts[number : number + 2])
        pieces = [store.tokens(*pair).tolist() for pair in pairwise(offsets)]
        assert pieces == document


def test_nothing_can_be_written(store: TokenStore) -> None:
    for array in (store.tokens(0, 5), store.document_starts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    store.counts()[0] = 1  # a copy


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 10**9)])
def test_tokens_out_of_range(store: TokenStore, start: int, stop: int) -> None:
    with pytest.raises(InputError, match=f"are 0 to {len(TOKENS)}"):
        store.tokens(start, stop)


@pytest.mark.parametrize("document", [-1, len(DOCUMENTS)])
def test_document_out_of_range(store: TokenStore, document: int) -> None:
    with pytest.raises(InputError, match="has 40 documents"):
        store.sentences(document)


def test_pickled_and_shared_by_threads(store: TokenStore) -> None:
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert len(pickle.dumps(store)) < 1000
    assert again.fingerprint == store.fingerprint
    with ThreadPoolExecutor(4) as pool:
        documents = list(pool.map(lambda n: [again.sentences(n).tolist(), n], range(40)))
    assert documents == [[store.sentences(number).tolist(), number] for number in range(40)]


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word70000 word6 word6")
    tokenizer = wordpiece(size=70_001)
    store = tokenize_corpus([tmp_path / "a.txt"], tokenizer, tmp_path / "store")
    assert store.tokens(0, 2).dtype == np.uint32
    assert store.tokens(0, 2).tolist() == [70_000, 6]
    assert store.counts()[70_000] == 1
    largest_in_two = wordpiece(size=2**16)
    (tmp_path / "a.txt").write_text("word65535 word6")
    store = tokenize_corpus([tmp_path / "a.txt"], largest_in_two, tmp_path / "store2")
    assert store.tokens(0, 2).dtype == np.uint16
    assert store.tokens(0, 2).tolist() == [65_535, 6]


# --- which tokenizer ---


def test_the_tokenizer_goes_with_the_store(store: TokenStore, tmp_path: Path) -> None:
    assert store.tokenizer_fingerprint == tokenizer_fingerprint(TOKENIZER)
    store.check_tokenizer(TOKENIZER)
    store.check_tokenizer(store.tokenizer())
    store.tokenizer().save_pretrained(tmp_path)
    store.check_tokenizer(minilm.Tokenizer.from_pretrained(tmp_path))
    assert store.tokenizer().tokenize("w3 w4.") == ["w3", "w4", "."]


def test_truncation_and_template_change_no_fingerprint() -> None:
    changed = wordpiece(*WORDS, ".", *CAPITALS)
    changed.backend.enable_truncation(7)
    changed.backend.enable_padding()
    changed.backend.post_processor = None
    assert tokenizer_fingerprint(changed) == tokenizer_fingerprint(TOKENIZER)


@pytest.mark.parametrize("kind", ["words", "order", "splitting", "added"])
def test_other_tokenizers_are_refused(store: TokenStore, kind: str) -> None:
    others: dict[str, Callable[[], minilm.Tokenizer]] = {
        "words": lambda: wordpiece(*WORDS, "!", *CAPITALS),
        "order": lambda: wordpiece(".", *WORDS, *CAPITALS),
        "splitting": split_at_spaces,
        "added": with_added_token,
    }
    other = others[kind]()
    with pytest.raises(DataError) as caught:
        store.check_tokenizer(other)
    for fingerprint in (store.tokenizer_fingerprint, tokenizer_fingerprint(other)):
        assert fingerprint[:16] in str(caught.value)


def split_at_spaces() -> minilm.Tokenizer:
    tokenizer = wordpiece(*WORDS, ".", *CAPITALS)
    tokenizer.backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def with_added_token() -> minilm.Tokenizer:
    ids = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *WORDS, ".", *CAPITALS])}
    backend = Backend(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_tokens(["w1 w2"])
    return minilm.Tokenizer(backend)


# --- damage ---


def test_missing_and_foreign_directories(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing")
    assert "is not a token store: it has no store.json" in refused(tmp_path)


def test_every_cut_file_is_refused(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        for length in (0, 1, len(data) // 2, len(data) - 2):  # store.json ends in a line break
            path.write_bytes(data[:length])
            message = refused(copy)
            assert str(path) in message
            assert "Make the store again" in message or path.name == "store.json"
        path.unlink()
        assert path.name in refused(copy)
        path.write_bytes(data)
    TokenStore.open(copy, verify=True)


def test_every_changed_file_is_refused_when_verified(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
        assert path.name in refused(copy, verify=True)
        data[-3] ^= 1
        path.write_bytes(data)
    TokenStore.open(copy, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "has the version 2; this minilm reads 1"),
        (lambda m: m.pop("version"), "has the version None"),
        (lambda m: m.pop("shards"), "'shards'"),
        (lambda m: m.update(shards=[]), "was changed"),
        (lambda m: m.update(shards=[1]), "is damaged"),
        (lambda m: m["shards"][0].update(tokens=-1), "-1 is not a count"),
        (lambda m: m["shards"][0].update(tokens=True), "True is not a count"),
        (lambda m: m["shards"][0].update(tokens=1), "was changed"),
        (lambda m: m["shards"][0]["files"].pop("tokens"), "'tokens'"),
        (lambda m: m.update(vocab_size="61"), "'61' is not a count"),
        (lambda m: m.update(tokens=3), "was changed"),
        (lambda m: m.update(fingerprint="0"), "was changed"),
        (lambda m: m.update(files=None), "is damaged"),
        (lambda m: m.update(options=3), "is damaged"),
        (lambda m: m.update(more=3), "was changed"),
    ],
)
def test_changed_manifests_are_refused(
    copy: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    manifest = json.loads((copy / "store.json").read_text())
    change(manifest)
    (copy / "store.json").write_text(json.dumps(manifest))
    assert str(copy / "store.json") in refused(copy)
    assert message in refused(copy)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("documents", lambda old: old[::-1]),
        ("documents", lambda old: np.where(old > 0, 10**9, old)),
        ("documents", lambda old: old - 1),
        ("sentences", lambda old: np.where(old > 0, old - 10**9, old)),
        ("sentences", lambda old: old.astype(np.float64)),
        ("sentences", lambda old: old.astype(np.uint64)),
        ("sentences", lambda old: old.astype(">i8")),
    ],
)
def test_wrong_arrays_of_the_right_size(
    copy: Path, name: str, array: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> None:
    path = copy / f"shard-00001.{name}.npy"
    size = path.stat().st_size
    np.save(path, array(np.load(path)))
    assert path.stat().st_size == size
    assert str(path) in refused(copy)


def test_arrays_are_never_unpickled(copy: Path, tmp_path: Path) -> None:
    path = copy / "shard-00000.tokens.npy"
    size = path.stat().st_size
    payload = np.array([Touch(tmp_path / "marker")], dtype=object)
    np.save(path, payload, allow_pickle=True)
    with path.open("ab") as file:
        file.write(b"\0" * (size - path.stat().st_size))
    store = TokenStore.open(copy)
    with pytest.raises(DataError, match=re.escape(str(path))):
        store.tokens(0, 1)
    assert not (tmp_path / "marker").exists()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)
