"""transformers.pipeline around the models: the shipped weights, and the answers of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import minilm
from twins import SHIPPED, STEMS, WEIGHTS

TEXTS = ["The function returns a [MASK] of strings.", "A class is a [MASK]."]
LONG = "Ada wrote the first program, and it was a loop over the numbers of a series. " * 3
TASKS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "zero-shot-classification": "ForSequenceClassification",
}


def alike(found: Any, expected: Any) -> None:
    """Equal in structure, words and numbers."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            alike(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    elif isinstance(expected, float | np.floating):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert str(found) == str(expected)


@pytest.fixture(params=STEMS)
def stem(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tokenizer(stem: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(WEIGHTS / SHIPPED[stem])


def test_fill_mask(stem: str) -> None:
    directory = WEIGHTS / SHIPPED[stem]
    theirs = getattr(transformers, f"{stem}ForMaskedLM").from_pretrained(
        directory, dtype=torch.float32
    )
    found, expected = (
        transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer(stem))(
            TEXTS, batch_size=2
        )
        for model in (getattr(minilm, f"{stem}ForMaskedLM").from_pretrained(directory), theirs)
    )
    alike(found, expected)
    assert len(found[0]) == 5


# two segments go into DistilBERT, which has no place for the second: minilm says so
@pytest.mark.filterwarnings("ignore:token_type_ids other than 0")
@pytest.mark.parametrize("task", TASKS)
def test_other_tasks(stem: str, task: str, tmp_path: Any) -> None:
    """A head drawn at random, the same in both."""
    name = stem + TASKS[task]
    torch.manual_seed(3)
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    fresh = getattr(minilm, name).from_pretrained(WEIGHTS / SHIPPED[stem], id2label=labels)
    fresh.save_pretrained(tmp_path)
    ours = getattr(minilm, name).from_pretrained(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    arguments, options = ([LONG, "a short text", "of another length"],), {"batch_size": 2}
    if task == "zero-shot-classification":
        arguments, options = (["a short text", LONG],), {"candidate_labels": ["a", "b"]}
    found, expected = (
        transformers.pipeline(task, model=model, tokenizer=tokenizer(stem))(*arguments, **options)
        for model in (ours, theirs)
    )
    alike(found, expected)
