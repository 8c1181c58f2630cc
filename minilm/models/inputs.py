"""From the arguments of a call to what the blocks see: check, choose the layout, reorder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minilm.blocks.layout import Layout, Packed, Padded
from minilm.errors import InputError
from minilm.objectives.tasks import IGNORED_LABEL


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One call's tokens, in the inner order of its layout.

    Attributes:
        layout: where sequences begin and end.
        words: token ids (B, S) or (T,), or word vectors with a last dimension E.
        position_ids: broadcastable to the tokens.
        token_type_ids: like the tokens; None = all 0.
    """

    layout: Layout
    words: Tensor
    position_ids: Tensor
    token_type_ids: Tensor | None


def prepare(
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    lengths: Tensor | Sequence[int] | None,
    *,
    vocab_size: int,
    max_positions: int,
    token_types: int,
    embedding_size: int,
    reads_first: bool,
    needs_rows: bool,
) -> ModelInput:
    """Check the arguments of a call and lay its tokens out.

    A padded call whose mask has zeros is packed, unless something needs rows: attention maps,
    compilation or export, or a head that reads column 0 of a row whose column 0 is unattended.

    Args:
        input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, lengths: as given
            to the model.
        vocab_size, max_positions, token_types, embedding_size: sizes of the embedding tables.
        reads_first: a pooler or a head reads the first token's state.
        needs_rows: attention maps were asked for.

    Raises:
        InputError: names the argument, what was found and what was expected.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("Give exactly one of input_ids and inputs_embeds.")
    words = input_ids if input_ids is not None else inputs_embeds
    assert words is not None
    name = "input_ids" if input_ids is not None else "inputs_embeds"
    packed_call = lengths is not None
    expected = {
        ("input_ids", False): "(B, S)",
        ("input_ids", True): "(T,)",
        ("inputs_embeds", False): "(B, S, E)",
        ("inputs_embeds", True): "(T, E)",
    }[name, packed_call]
    if words.dim() != (1 if packed_call else 2) + (input_ids is None):
        raise InputError(
            f"{name} has shape {tuple(words.shape)}: expected {expected}. Padded rows come without "
            "lengths, tokens in one line with them."
        )
    shape = tuple(words.shape[: 1 if packed_call else 2])
    if 0 in shape:
        raise InputError(f"{name} has shape {tuple(words.shape)}: there is no token in it.")
    if input_ids is not None:
        _check_ids("input_ids", input_ids, shape, vocab_size, "vocab_size")
    elif words.shape[-1] != embedding_size:
        raise InputError(
            f"inputs_embeds has width {words.shape[-1]}: the embedding tables are "
            f"{embedding_size} wide."
        )
    elif not words.is_floating_point():
        raise InputError(f"inputs_embeds has dtype {words.dtype}: expected word vectors (floats).")
    if token_type_ids is not None:
        limit = token_types or 2**31  # a model without token types ignores their values
        _check_ids("token_type_ids", token_type_ids, shape, limit, "type_vocab_size")

    layout: Layout
    if lengths is not None:
        if attention_mask is not None:
            raise InputError("A packed call (lengths) has no padding: leave attention_mask out.")
        if needs_rows:
            raise InputError("output_attentions needs padded rows: give (B, S) inputs, no lengths.")
        layout = Packed.from_lengths(_checked_lengths(lengths, shape[0], words.device))
        longest = layout.lengths[-1]
    else:
        layout = _choose_layout(attention_mask, shape, reads_first, needs_rows)
        longest = shape[1]
    if longest > max_positions:
        raise InputError(
            f"{name} has {longest} tokens in a row, max_position_embeddings is {max_positions}: "
            "truncate the text (tokenizer(..., max_length=...)) or split it."
        )

    if position_ids is None:
        if isinstance(layout, Packed):
            position_ids = layout.column
        else:
            position_ids = torch.arange(shape[1], device=words.device)
    else:
        if tuple(position_ids.shape) not in (shape, shape[-1:], (1, shape[-1])):
            raise InputError(
                f"position_ids has shape {tuple(position_ids.shape)}, the tokens have {shape}."
            )
        position_ids = position_ids.expand(shape)
        _check_ids("position_ids", position_ids, shape, max_positions, "max_position_embeddings")
        position_ids = layout.gather(position_ids)
    if token_type_ids is not None:
        token_type_ids = layout.gather(token_type_ids) if token_types else None
    return ModelInput(layout, layout.gather(words), position_ids, token_type_ids)


def gather_labels(layout: Layout, labels: Tensor, classes: int, shape: tuple[int, ...]) -> Tensor:
    """Check token labels and bring them to the inner order.

    Args:
        layout: the layout of the call.
        labels: (B, S) or (T,) int64, -100 = no label.
        classes: labels lie in 0 .. classes - 1.
        shape: the shape that labels must have.

    Raises:
        InputError: wrong shape or range, or a label at an unattended position (differs from
            Hugging Face, which trains on padding there).
    """
    check_labels("labels", labels, classes, shape)
    inner = layout.gather(labels)
    if isinstance(layout, Packed):
        lost = (labels != IGNORED_LABEL).sum() - (inner != IGNORED_LABEL).sum()
    elif layout.mask is not None:
        lost = ((labels != IGNORED_LABEL) & ~layout.mask).sum()
    else:
        return inner
    if not torch.compiler.is_compiling() and int(lost):
        raise InputError(
            f"labels has {int(lost)} labels other than -100 at unattended positions "
            "(attention_mask 0): set them to -100."
        )
    return inner


def check_labels(name: str, labels: Tensor, classes: int, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `labels` are (shape) whole numbers, -100 or in 0 .. classes - 1."""
    if tuple(labels.shape) != shape or labels.dtype != torch.int64:
        raise InputError(
            f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}: expected {shape} "
            "int64."
        )
    if torch.compiler.is_compiling():
        return
    bad = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= classes))
    if bool(bad.any()):
        raise InputError(
            f"{name} contains {int(labels[bad][0])}: expected 0 to {classes - 1}, or -100 for none."
        )


def _check_ids(name: str, ids: Tensor, shape: tuple[int, ...], size: int, limit: str) -> None:
    if tuple(ids.shape) != shape:
        raise InputError(f"{name} has shape {tuple(ids.shape)}, the tokens have {shape}.")
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"{name} has dtype {ids.dtype}: expected whole numbers (int64).")
    if torch.compiler.is_compiling():
        return
    low, high = ids.aminmax()
    if int(low) < 0 or int(high) >= size:
        wrong = int(low) if int(low) < 0 else int(high)
        raise InputError(f"{name} contains {wrong}: {limit} is {size}, so 0 to {size - 1} exist.")


def _checked_lengths(lengths: Tensor | Sequence[int], tokens: int, device: torch.device) -> Tensor:
    try:
        lengths = torch.as_tensor(lengths, device=device).flatten()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise InputError(f"lengths is no list of whole numbers: {problem}.") from problem
    if lengths.dtype not in (torch.int64, torch.int32) or lengths.numel() == 0:
        raise InputError(
            f"lengths has dtype {lengths.dtype} and {lengths.numel()} entries: expected "
            "one whole number for each sequence."
        )
    if int(lengths.min()) < 1:
        raise InputError(f"lengths contains {int(lengths.min())}: every sequence has a token.")
    if int(lengths.sum()) != tokens:
        raise InputError(f"lengths adds up to {int(lengths.sum())}, there are {tokens} tokens.")
    return lengths.long()


def _choose_layout(
    mask: Tensor | None, shape: tuple[int, ...], reads_first: bool, needs_rows: bool
) -> Layout:
    if mask is None:
        return Padded(None)
    if tuple(mask.shape) != shape:
        raise InputError(f"attention_mask has shape {tuple(mask.shape)}, the tokens have {shape}.")
    attended = mask != 0
    if torch.compiler.is_compiling():
        # nothing can be looked at here, so expect the worst where it would matter: in training
        return Padded(attended, explicit=torch.is_grad_enabled())
    if mask.dtype != torch.bool and not bool((attended == mask).all()):
        raise InputError(
            "attention_mask contains values other than 0 and 1: expected 1 = attend, 0 = ignore."
        )
    if bool(attended.all()):
        return Padded(None)
    if needs_rows or not bool(attended.any()) or (reads_first and not bool(attended[:, 0].all())):
        empty_row = not bool(attended.any(dim=1).all())
        return Padded(attended, explicit=empty_row and torch.is_grad_enabled())
    return Packed.from_mask(attended)
