"""Tiny checkpoints on disk: a model, config.json and a WordPiece vocabulary."""

import random
from pathlib import Path
from typing import Any

import torch

from tiny import SIZES, tiny

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"word{number}" for number in range(SIZES["vocab_size"] - len(SPECIAL))]


def save_tiny(directory: Path, class_name: str = "BertModel", **changes: Any) -> Path:
    """Saves a tiny float32 model of this class, with a tokenizer of its vocabulary."""
    tiny(class_name, torch.float32, **changes).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    return directory


def make_texts(count: int, longest: int = 18, seed: int = 3) -> list[str]:
    """Texts of 0 to `longest` words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, longest))) for _ in range(count)]
