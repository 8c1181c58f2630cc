"""The properties of a tokenizer that masking needs."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from minilm.errors import InputError
from minilm.files.arrays import Flags
from minilm.tokenization.tokenizer import Tokenizer

# From ALBERT's released code: pieces made only of these continue a word. The apostrophe and < = >
# are not among them, so "'s" is a word of its own.
_WORD_CHARACTERS = frozenset(string.ascii_letters + string.punctuation) - frozenset("'<=>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of special tokens, and which tokens begin a word.

    Attributes:
        size: V, the largest id plus one.
        mask_id, cls_id, sep_id, unk_id: the ids of the special tokens.
        special: (V,) True for every special token, [UNK] included: masking never touches them.
        starts_word: (V,) True for tokens that begin a word; None for vocabularies whose tokens do
            not show it (byte-level BPE).
    """

    size: int
    mask_id: int
    cls_id: int
    sep_id: int
    unk_id: int
    special: Flags
    starts_word: Flags | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """The vocabulary of a tokenizer.

        Raises:
            TokenizerFileError: the tokenizer has no mask token.
        """
        special = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        special[tokenizer.all_special_ids] = True
        return cls(
            size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_token_id,
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            unk_id=tokenizer.unk_token_id,
            special=special,
            starts_word=_word_starts(tokenizer),
        )

    def require_words(self) -> None:
        """Raises InputError unless the vocabulary shows where words begin."""
        if self.starts_word is None:
            raise InputError(
                "This tokenizer's vocabulary does not show where words begin (WordPiece, unigram "
                "and word-level ones do). Use TokenMasking."
            )


def _word_starts(tokenizer: Tokenizer) -> Flags | None:
    from tokenizers import models

    starts = np.ones(tokenizer.vocab_size, dtype=np.bool_)
    model = tokenizer.backend.model
    pieces = tokenizer.backend.get_vocab(with_added_tokens=False).items()
    if isinstance(model, models.WordPiece):
        prefix = model.continuing_subword_prefix
        for piece, index in pieces:
            starts[index] = not piece.startswith(prefix)
    elif isinstance(model, models.Unigram):
        for piece, index in pieces:
            starts[index] = _piece_starts_word(piece)
    elif not isinstance(model, models.WordLevel):
        return None
    return starts


def _piece_starts_word(piece: str) -> bool:
    """The rule of google-research/albert, create_pretraining_data.py, for sentencepiece.

    A piece with any other character than English letters and punctuation is a word of its own, so
    digits and other scripts are.
    """
    if piece.startswith(("▁", "<")):
        return True
    lone_sign = len(piece) == 1 and piece in string.punctuation
    return lone_sign or not _WORD_CHARACTERS.issuperset(piece)
