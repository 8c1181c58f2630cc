"""The template of special tokens around a text or pair, and truncation to fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from minilm.errors import InputError, TokenizerFileError
from minilm.files.progress import counted
from minilm.tokenization.files import guarded

if TYPE_CHECKING:
    import tokenizers

Truncation: TypeAlias = Literal["longest_first", "only_first", "only_second", "do_not_truncate"]


@dataclass(frozen=True)
class Slot:
    """A place in the template of an encoded text or pair.

    Attributes:
        sequence: 0 for the first text, 1 for the second, None for a special token.
        token_id: the id of a special token.
        type_id: the token type of the tokens in this place.
    """

    sequence: int | None
    token_id: int
    type_id: int


@dataclass
class Assembled:
    """A row assembled from encodings of its parts."""

    ids: list[int] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)
    sequence_ids: list[int | None] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    word_ids: list[int | None] = field(default_factory=list)


def learn_template(backend: tokenizers.Tokenizer, n_texts: int, source: str) -> list[Slot]:
    """Finds the template of a backend by encoding an example."""
    with guarded(TokenizerFileError, source):
        encoding = backend.encode("a", "a" if n_texts == 2 else None)
    slots: list[Slot] = []
    columns = (encoding.sequence_ids, encoding.ids, encoding.type_ids)
    for sequence, token_id, type_id in zip(*columns, strict=True):
        if sequence is None or not slots or slots[-1].sequence != sequence:
            slots.append(Slot(sequence, token_id, type_id))
    texts = [slot.sequence for slot in slots if slot.sequence is not None]
    if sorted(texts) != list(range(n_texts)):
        raise TokenizerFileError(
            f"{source}: encoding {n_texts} text(s) 'a' leaves tokens of texts {texts}, expected "
            "each text once. Check the normalizer and the post_processor."
        )
    return slots


def num_special(template: Sequence[Slot]) -> int:
    """The number of special tokens in a template."""
    return sum(slot.sequence is None for slot in template)


def assemble(
    template: Sequence[Slot],
    texts: Sequence[tokenizers.Encoding],
    keep: Sequence[int],
    offsets: bool,
) -> Assembled:
    """Fills a template with the first `keep[i]` tokens of each text."""
    row = Assembled()
    for slot in template:
        if slot.sequence is None:
            n_tokens = 1
            row.ids.append(slot.token_id)
            row.offsets.append((0, 0))
            row.word_ids.append(None)
        else:
            text, n_tokens = texts[slot.sequence], keep[slot.sequence]
            row.ids += text.ids[:n_tokens]
            if offsets:
                row.offsets += text.offsets[:n_tokens]
                row.word_ids += text.word_ids[:n_tokens]
        row.type_ids += [slot.type_id] * n_tokens
        row.sequence_ids += [slot.sequence] * n_tokens
    return row


def truncation_strategy(truncation: object) -> Truncation:
    """The full name of a value of transformers' `truncation`.

    Raises:
        InputError: there is no such strategy.
    """
    if isinstance(truncation, bool):
        return "longest_first" if truncation else "do_not_truncate"
    for strategy in ("longest_first", "only_first", "only_second", "do_not_truncate"):
        if truncation == strategy:
            return strategy
    raise InputError(
        'truncation must be True, False, "longest_first", "only_first", "only_second" or '
        f'"do_not_truncate", not {truncation!r}.'
    )


def kept_lengths(lengths: Sequence[int], room: int, strategy: Truncation, index: int) -> list[int]:
    """The number of tokens to keep of a text, or of each text of a pair.

    With "longest_first" the longer text of a pair is shortened first. As in the tokenizers library,
    once both are equally long they share the room, and of an odd number the longer text keeps the
    extra token, or the second text in a tie.

    Args:
        lengths: number of tokens of each text.
        room: number of tokens that fit in all.
        strategy: which text to cut.
        index: index of the text or pair, for messages.

    Raises:
        InputError: the text to cut is too short.
    """
    excess = sum(lengths) - room
    if excess <= 0:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    if strategy != "longest_first":
        which = int(strategy == "only_second")
        if lengths[which] <= excess:
            raise InputError(
                f'Pair {index}: truncation="{strategy}" would have to cut '
                f"{counted(excess, 'token')}, but that text has {lengths[which]}. Give "
                "truncation=True, or a larger max_length."
            )
        return [length - excess * (i == which) for i, length in enumerate(lengths)]
    shorter = min(lengths)
    if 2 * shorter > room:
        shorter = room // 2
    kept = [shorter, room - shorter]
    return kept[::-1] if lengths[0] > lengths[1] else kept
