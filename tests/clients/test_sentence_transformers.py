"""sentence-transformers around the models: vectors, training, saving; the measure is its own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minilm
from twins import SHIPPED, STEMS, WEIGHTS

TEXTS = [
    "A module is a file of definitions.",
    "An exception is raised when a name is not found.",
    "Lists.",
    "The loop runs until the iterator is exhausted, and then the else clause is executed.",
]


@pytest.fixture(scope="module")
def library() -> Any:
    """Imported where it is used: that takes seconds."""
    return importlib.import_module("sentence_transformers")


def reference(library: Any, stem: str, pooling: str = "mean") -> Any:
    """A sentence-transformers model on transformers, in float32."""
    module = importlib.import_module("sentence_transformers.base.modules.transformer").Transformer(
        str(WEIGHTS / SHIPPED[stem]), model_kwargs={"dtype": torch.float32}
    )
    pool = importlib.import_module("sentence_transformers.sentence_transformer.modules").Pooling(
        module.get_embedding_dimension(), pooling
    )
    return library.SentenceTransformer(modules=[module, pool], device="cpu")


def around_ours(library: Any, stem: str) -> Any:
    """The same with the model inside replaced."""
    whole = reference(library, stem)
    whole[0].model = getattr(minilm, f"{stem}Model").from_pretrained(WEIGHTS / SHIPPED[stem])
    return whole


@pytest.mark.parametrize("stem", STEMS)
def test_vectors_of_a_replaced_model(library: Any, stem: str, tmp_path: Path) -> None:
    expected = reference(library, stem).encode(TEXTS)
    whole = around_ours(library, stem)
    found = whole.encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    tokens = whole.encode(TEXTS, output_value="token_embeddings")
    assert len({len(value) for value in tokens}) > 1

    whole.save_pretrained(str(tmp_path))
    again = library.SentenceTransformer(str(tmp_path), device="cpu")
    assert type(again[0].auto_model).__module__.startswith("transformers")
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-5)
    encoder = minilm.Encoder.from_pretrained(tmp_path)
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=False), expected, atol=1e-5)


@pytest.mark.parametrize("stem", STEMS)
def test_training_steps(library: Any, stem: str) -> None:
    """Pairs of sentences, two steps by hand: the losses of transformers."""
    curves = []
    for whole in (reference(library, stem), around_ours(library, stem)):
        loss = importlib.import_module(
            "sentence_transformers.sentence_transformer.losses"
        ).MultipleNegativesRankingLoss(whole)
        optimizer = torch.optim.SGD(whole.parameters(), lr=0.05)
        whole.train()
        curve = []
        for _ in range(3):
            features = [whole.tokenize(TEXTS[:2]), whole.tokenize(TEXTS[2:])]
            value = loss(features, torch.zeros(2))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            curve.append(float(value))
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert curves[0][0] != curves[0][-1]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("stem", STEMS)
def test_the_bulk_encoder_gives_the_vectors_of_the_library(
    library: Any, stem: str, pooling: str
) -> None:
    whole = reference(library, stem, pooling)
    tokenizer = minilm.Tokenizer.from_pretrained(WEIGHTS / SHIPPED[stem])
    encoder = minilm.Encoder(minilm.load(WEIGHTS / SHIPPED[stem]), tokenizer, pooling=pooling)
    expected = whole.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    one = encoder.encode(TEXTS[0])
    assert one.shape == (encoder.get_sentence_embedding_dimension(),) == expected[0].shape
    np.testing.assert_allclose(one, expected[0], atol=1e-5)
    tensor = encoder.encode(TEXTS, batch_size=2, show_progress_bar=False, convert_to_numpy=False)
    np.testing.assert_allclose(torch.as_tensor(np.asarray(tensor)), expected, atol=1e-5)
