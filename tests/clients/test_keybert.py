"""Keywords of a document by the bulk encoder, by hand and by KeyBERT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sklearn.feature_extraction.text import CountVectorizer

import minilm
from twins import SHIPPED, WEIGHTS

DOCUMENT = (
    "An iterator returns the items of a list one at a time. A generator is an iterator that is "
    "written as a function. The with statement closes the file when the block is left."
)
DIRECTORY = WEIGHTS / SHIPPED["DistilBert"]


def vectors_of_transformers(texts: list[str]) -> np.ndarray:
    """The mean of the tokens' states, one text at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(DIRECTORY)
    model = transformers.AutoModel.from_pretrained(DIRECTORY, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [
            model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False))[0][0]
            for text in texts
        ]
    means = torch.stack([state.mean(0) for state in states])
    return torch.nn.functional.normalize(means).numpy()


def ranked(document: np.ndarray, words: list[str], vectors: np.ndarray) -> list[tuple[str, float]]:
    scores = vectors @ document
    return [(words[i], round(float(scores[i]), 4)) for i in np.argsort(-scores)[:5]]


def expected_keywords() -> list[tuple[str, float]]:
    words = list(CountVectorizer(stop_words="english").fit([DOCUMENT]).get_feature_names_out())
    vectors = vectors_of_transformers([DOCUMENT, *words])
    return ranked(vectors[0], words, vectors[1:])


def test_keywords_by_hand() -> None:
    encoder = minilm.Encoder.from_pretrained(DIRECTORY)
    words = list(CountVectorizer(stop_words="english").fit([DOCUMENT]).get_feature_names_out())
    document = encoder.encode(DOCUMENT)
    vectors = encoder.encode(words, batch_size=8, show_progress_bar=False, convert_to_numpy=True)
    assert document.shape == vectors.shape[1:]
    found, expected = ranked(document, words, vectors), expected_keywords()
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-3)


@pytest.mark.clients
def test_keybert_takes_the_encoder_as_a_backend() -> None:
    keybert = pytest.importorskip("keybert")
    backend = pytest.importorskip("keybert.backend")

    class Backend(backend.BaseEmbedder):  # type: ignore[misc, name-defined]
        def embed(self, documents: Any, verbose: bool = False) -> np.ndarray:
            return encoder.encode(list(documents), show_progress_bar=verbose)

    encoder = minilm.Encoder.from_pretrained(DIRECTORY)
    found = keybert.KeyBERT(model=Backend()).extract_keywords(DOCUMENT)
    expected = expected_keywords()
    assert {word for word, _ in found} == {word for word, _ in expected}
    np.testing.assert_allclose(
        sorted(score for _, score in found), sorted(score for _, score in expected), atol=1e-3
    )
