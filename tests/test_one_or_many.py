"""Where several texts or files are taken, one of them is taken as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import minilm
from minilm.errors import InputError
from saved import save_tiny


def test_one_file_or_several(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A cat runs over the hill. It sleeps.\n\nA dog runs over the river.\n" * 5)
    made = [
        minilm.train_tokenizer(files, tmp_path / name, vocab_size=60)
        for name, files in (("one", str(text)), ("list", [text]))
    ]
    assert made[0].get_vocab() == made[1].get_vocab()
    stores = [
        minilm.tokenize_corpus(files, made[0], tmp_path / name, workers=1)
        for name, files in (("store", text), ("stores", [str(text)]))
    ]
    assert stores[0].num_tokens == stores[1].num_tokens > 0
    with pytest.raises(InputError, match="files is empty"):
        minilm.tokenize_corpus([], made[0], tmp_path / "none")


def test_one_text_or_several(tmp_path: Path) -> None:
    encoder = minilm.Encoder.from_pretrained(save_tiny(tmp_path))
    one = encoder.encode("word1 word2")
    assert one.shape == (16,)
    for several in (["word1 word2"], ("word1 word2",), np.array(["word1 word2"])):
        assert encoder.encode(several) == pytest.approx(one[None], abs=1e-6)
    with pytest.raises(InputError, match="texts is a int: expected a string or a list"):
        encoder.encode(5)  # type: ignore[arg-type]
