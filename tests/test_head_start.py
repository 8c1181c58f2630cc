"""The head start: word vectors by counting, frequencies, and attention to neighbours."""

import numpy as np
import pytest
import torch

import minilm
from minilm.compression.warm_start import OFFSETS, SHARED_OFFSETS, head_start
from minilm.data.token_store import TokenStore
from minilm.data.word_vectors import WordVectors, count_word_vectors
from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel
from minilm.recipes.corpus import CorpusSettings, with_warm_start

ANIMALS, PLACES = ("cat", "dog", "mouse"), ("hill", "river", "house")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Animals run, places are wide; which one is a draw."""
    directory = tmp_path_factory.mktemp("vectors")
    draw = np.random.default_rng(0)
    documents = []
    for begin, words, end in (("the", ANIMALS, "runs fast ."), ("a", PLACES, "is wide !")):
        lines = [f"{begin} {draw.choice(words)} {end}" for _ in range(600)]
        documents += ["\n".join(lines)] * 2
    text = "\n\n".join([*documents, "Only here stands a zebra . " * 40])
    (directory / "text.txt").write_text(text)
    tokenizer = minilm.train_tokenizer(
        [directory / "text.txt"], directory / "vocabulary", vocab_size=200
    )
    minilm.tokenize_corpus([directory / "text.txt"], tokenizer, directory / "store", workers=1)
    return TokenStore.open(directory / "store")


def ids(store: TokenStore, *words: str) -> list[int]:
    vocabulary = store.tokenizer().backend.get_vocab()
    return [vocabulary[word] for word in words]


def words_of(vocab_size: int, size: int) -> WordVectors:
    """The first 10 ids are unknown."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(vocab_size, size, generator=generator)
    vectors /= vectors.norm(dim=1).mean()
    known = torch.arange(vocab_size) >= 10
    return WordVectors(vectors * known[:, None], known, torch.arange(vocab_size) * known)


def model_of(stem: str, **changes: int) -> PretrainedModel:
    torch.manual_seed(4)
    sizes = {"vocab_size": 300, "hidden_size": 256, "num_attention_heads": 4,
             "num_hidden_layers": 3, "intermediate_size": 64, "max_position_embeddings": 64,
             **changes}  # fmt: skip
    config = getattr(minilm, f"{stem}Config")(**sizes)
    model = getattr(minilm, f"{stem}ForMaskedLM")(config).eval()
    assert isinstance(model, PretrainedModel)
    return model


def test_words_in_the_same_places_are_alike(store: TokenStore) -> None:
    found = count_word_vectors(store, 6)
    unit = torch.nn.functional.normalize(found.vectors, dim=1)
    animals, places = unit[ids(store, *ANIMALS)], unit[ids(store, *PLACES)]
    assert float((animals @ animals.T).min()) > 0.9
    assert float((places @ places.T).min()) > 0.9
    assert float((animals @ places.T).max()) < 0.5


def test_counts_and_lengths(store: TokenStore) -> None:
    found = count_word_vectors(store, 6)
    assert found.counts.tolist() == store.counts().tolist()
    assert found.known.tolist() == (store.counts() >= 30).tolist()
    assert float(found.vectors[found.known].norm(dim=1).mean()) == pytest.approx(1, abs=1e-5)
    assert not found.vectors[~found.known].any()
    assert torch.equal(count_word_vectors(store, 6).vectors, found.vectors)
    assert not torch.equal(count_word_vectors(store, 6, seed=1).vectors, found.vectors)


def test_counting_in_chunks_is_the_same(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count_word_vectors(store, 6)
    monkeypatch.setattr("minilm.data.word_vectors.CHUNK", 7)
    parts = count_word_vectors(store, 6)
    # the directions may be turned, products may not
    one, other = (found.vectors @ found.vectors.T for found in (parts, whole))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert torch.equal(parts.counts, whole.counts)


def test_held_out_documents_are_not_read(store: TokenStore) -> None:
    (zebra,) = ids(store, "only")
    assert count_word_vectors(store, 6).counts[zebra] > 0
    rest = count_word_vectors(store, 6, documents=range(store.num_documents - 1))
    assert rest.counts[zebra] == 0
    few = count_word_vectors(store, 6, most_tokens=2000)
    assert int(few.counts.sum()) == 2000


def test_a_small_corpus_is_named(store: TokenStore) -> None:
    with pytest.raises(InputError, match=r"size is 64, but only \d+ words of .* occur 30 times"):
        count_word_vectors(store, 64)


@pytest.mark.parametrize("stem", ["Bert", "DistilBert", "Albert"])
def test_the_first_heads_look_at_neighbours(stem: str) -> None:
    more = {"embedding_size": 128} if stem == "Albert" else {}
    model = model_of(stem, **more)
    head_start(model, words_of(300, 128 if more else 256))
    tokens = torch.randint(10, 300, (8, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps = model.base(tokens, output_attentions=True).attentions
    assert maps is not None
    for head, offset in enumerate((SHARED_OFFSETS if more else OFFSETS)[0]):
        mean = maps[0][:, head].mean(dim=0)  # (S, S)
        there, opposite, far = (float(mean.diagonal(n).mean()) for n in (offset, -offset, 15))
        assert there > 0.1  # uniform attention would be 1 / 40
        assert there > 1.4 * opposite
        assert there > 20 * far


@pytest.mark.parametrize("stem", ["Bert", "DistilBert", "Albert"])
def test_frequencies_and_vectors_are_in_the_model(stem: str) -> None:
    model, fresh = model_of(stem), model_of(stem)
    words = words_of(300, model.base.embeddings.word.embedding_dim)
    head_start(model, words)
    bias = model.masked_lm_head.bias.detach()
    assert float(bias.exp().sum()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(bias.argsort(stable=True)[10:], torch.arange(10, 300))
    table, before = (m.base.embeddings.word.weight.detach() for m in (model, fresh))
    assert torch.equal(table[:10], before[:10])
    similar = torch.nn.functional.cosine_similarity(table[10:], words.vectors[10:])
    assert float(similar.min()) > 0.999
    assert float(table[10:].std()) == pytest.approx(0.02, rel=0.05)


def test_more_heads_and_odd_sizes_keep_their_weights() -> None:
    """Heads beyond the offsets stay random; a width without a circle changes nothing."""
    model = model_of("Bert", hidden_size=96, num_attention_heads=6)
    head_start(model, words_of(300, 96))
    query = model.base.layers[0].attention.query.weight.detach().view(6, 16, 96)
    assert [int((part != 0).sum()) for part in query[:4]] == [32] * 4
    assert all(bool((part != 0).all()) for part in query[4:])
    narrow = model_of("Bert", hidden_size=6, num_attention_heads=6)
    head_start(narrow, words_of(300, 6))
    assert bool((narrow.base.layers[0].attention.query.weight != 0).all())


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"word vectors are \(300, 64\), .* of \(300, 256\)"):
        head_start(model_of("Bert"), words_of(300, 64))


def test_from_a_corpus(store: TokenStore) -> None:
    model = model_of("Bert", vocab_size=store.vocab_size, hidden_size=8)
    with_warm_start(model, CorpusSettings(store=store.path, held_out=1))
    (zebra,) = ids(store, "only")
    assert model.masked_lm_head.bias[zebra] == model.masked_lm_head.bias.min()
