"""Prepares the arguments of a call for the blocks: checks, chooses the layout, reorders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minilm.blocks import kernels
from minilm.blocks.layout import Layout, Packed, Padded
from minilm.config import EncoderConfig
from minilm.errors import InputError, by_place
from minilm.files.progress import counted
from minilm.losses.elementary import IGNORED_LABEL

LayoutChoice = Literal["auto", "padded", "packed"]
IGNORED_TOKEN_TYPES = "token_type_ids other than 0 are ignored: DistilBERT has no token types."


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One call's tokens, in the inner order of its layout.

    Attributes:
        layout: where sequences begin and end.
        input_ids: (B, S) or (T,) int64, or None.
        inputs_embeds: (B, S, E) or (T, E) instead of input_ids, or None.
        position_ids, token_type_ids: broadcastable to the tokens.
        batch: B.
    """

    layout: Layout
    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    position_ids: Tensor
    token_type_ids: Tensor
    batch: int


def prepare(
    config: EncoderConfig,
    choice: LayoutChoice,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    lengths: Tensor | Sequence[int] | None,
    *,
    reads_first: bool,
    needs_rows: bool,
) -> ModelInput:
    """Check the arguments of a call and lay its tokens out.

    Shapes are always checked, values where they can be read (see `kernels.recording`).

    Args:
        config: the model's configuration.
        choice: the caller's choice, see `EncoderModel.layout`. "auto" packs a padded call whose
            mask has zeros, unless something needs rows: attention maps, a call that is recorded or
            transformed, or a head that reads column 0 of a row whose column 0 is unattended.
        input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, lengths: as given
            to the model.
        reads_first: whether a pooler or a head reads the first token's state.
        needs_rows: whether attention maps were asked for.

    Raises:
        InputError: an argument is wrong; the message names it, what was found and what was
            expected.
    """
    name, tokens = "input_ids", input_ids
    if inputs_embeds is not None:
        name, tokens = "inputs_embeds", inputs_embeds
    packed_call = lengths is not None
    if not isinstance(tokens, Tensor) or (input_ids is not None and inputs_embeds is not None):
        raise _not_one(input_ids, inputs_embeds)
    if tokens.dim() != 2 - packed_call + (inputs_embeds is not None) or 0 in tokens.shape:
        raise _wrong_shape(name, tokens, packed_call)
    shape = tuple(tokens.shape[: 2 - packed_call])
    if inputs_embeds is not None:
        _check_vectors(inputs_embeds, getattr(config, "embedding_size", config.hidden_size))
    if position_ids is not None:
        if tuple(position_ids.shape) not in (shape, shape[-1:], (1, shape[-1])):
            raise _misfit("position_ids", position_ids, shape)
        position_ids = position_ids.expand(shape)
    token_types: int = getattr(config, "type_vocab_size", 0)
    whole_numbers = (
        ("input_ids", input_ids, config.vocab_size, "vocab_size"),
        # models without token types ignore the values
        ("token_type_ids", token_type_ids, token_types or 2**31, "type_vocab_size"),
        ("position_ids", position_ids, config.max_position_embeddings, "max_position_embeddings"),
    )
    readable = not kernels.recording(tokens)
    facts: list[Tensor] = []  # values to read, all at once: on a GPU every read waits
    for what, ids, _, _ in whole_numbers:
        if ids is not None:
            if tuple(ids.shape) != shape or ids.dtype not in (torch.int64, torch.int32):
                raise _misfit(what, ids, shape)
            if readable:
                low, high = ids.aminmax()
                facts += (low[None], high[None])
    attended: Tensor | None = None
    if attention_mask is not None:
        if packed_call:
            raise InputError("A packed call (lengths) has no padding: leave attention_mask out.")
        if not isinstance(attention_mask, Tensor) or tuple(attention_mask.shape) != shape:
            raise _misfit("attention_mask", attention_mask, shape)
        attended = attention_mask != 0
        if readable:
            valid = (attended == attention_mask).all()
            facts += (valid[None], attended[:, 0].all()[None], attended.sum(dim=1))
    values: list[int] = torch.cat(facts).tolist() if facts else []
    if readable:
        for what, ids, size, limit in whole_numbers:
            if ids is not None:
                least, most, *values = values
                if least < 0 or most >= size:
                    raise _out_of_range(what, least if least < 0 else most, size, limit)
                if what == "token_type_ids" and most > 0 and not token_types:
                    warnings.warn(IGNORED_TOKEN_TYPES, stacklevel=3)

    layout: Layout
    explicit, longest = kernels.execution == "explicit", shape[-1]
    if lengths is not None:
        if needs_rows or choice == "padded":
            raise _without_rows(needs_rows)
        sizes = _checked_lengths(lengths, longest)
        layout = Packed.from_lengths(sizes, tokens.device, explicit=explicit)
        longest = layout.lengths[-1]
    elif not readable:
        if choice == "packed":
            raise _cannot_pack("the call is recorded or transformed, so that no mask can be read")
        # assume the worst case that matters: in training, a row that attends to nothing
        worst = attended is not None and kernels.wants_gradients()
        layout = Padded(attended, explicit=explicit or worst)
    else:
        valid_mask, first_attended, *counts = values or (1, 1, *[longest] * shape[0])
        if not valid_mask:
            what = "values other than 0 and 1: expected 1 = attend, 0 = ignore"
            raise InputError(f"attention_mask contains {what}.")
        rows = needs_rows or not any(counts) or (reads_first and not first_attended)
        if choice == "packed" and rows:
            raise _cannot_pack("attention maps, an unattended first token or no token need rows")
        ragged = sum(counts) < shape[0] * longest
        if choice == "packed" or (choice == "auto" and ragged and not rows):
            mask = tokens.new_ones(shape, dtype=torch.bool) if attended is None else attended
            layout = Packed.from_mask(mask, counts, explicit=explicit)
        else:
            worst = 0 in counts and kernels.wants_gradients()
            layout = Padded(attended if ragged else None, explicit=explicit or worst)
    if longest > config.max_position_embeddings:
        raise InputError(
            f"{name} has {longest} tokens in a row, max_position_embeddings is "
            f"{config.max_position_embeddings}: "
            + by_place(
                python="truncate the text (tokenizer(..., max_length=...)) or split it.",
                command="shorten the text, or split it.",
            )
        )

    if position_ids is not None:
        position_ids = layout.pack(position_ids)
    elif isinstance(layout, Packed):
        position_ids = layout.position
    else:
        position_ids = torch.arange(longest, device=tokens.device)
    if token_type_ids is not None and token_types:
        token_type_ids = layout.pack(token_type_ids)
    else:
        token_type_ids = position_ids.new_zeros(1)
    if choice == "padded":  # every table is looked up for every token of every text
        position_ids, token_type_ids = position_ids.expand(shape), token_type_ids.expand(shape)
    if inputs_embeds is None:
        input_ids = layout.pack(tokens)
    else:
        inputs_embeds = layout.pack(inputs_embeds)
    batch = len(layout.offsets) if packed_call and isinstance(layout, Packed) else shape[0]
    return ModelInput(layout, input_ids, inputs_embeds, position_ids, token_type_ids, batch)


def pack_labels(layout: Layout, labels: Tensor, classes: int, shape: tuple[int, ...]) -> Tensor:
    """Check token labels and bring them into the inner order.

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
    inner = layout.pack(labels)
    if isinstance(layout, Packed):
        lost = (labels != IGNORED_LABEL).sum() - (inner != IGNORED_LABEL).sum()
    elif layout.mask is not None:
        lost = ((labels != IGNORED_LABEL) & ~layout.mask).sum()
    else:
        return inner
    if not kernels.recording(labels) and int(lost):
        raise InputError(
            f"labels has {counted(int(lost), 'label')} other than -100 at unattended positions "
            "(attention_mask 0): set the labels there to -100."
        )
    return inner


def check_labels(name: str, labels: Tensor, classes: int, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `labels` are (shape) whole numbers, -100 or in 0 .. classes - 1."""
    if tuple(labels.shape) != shape or labels.dtype != torch.int64:
        raise InputError(
            f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}: expected {shape} "
            "int64."
        )
    if kernels.recording(labels):
        return
    bad = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= classes))
    if bool(bad.any()):
        raise InputError(
            f"{name} contains {int(labels[bad][0])}: expected 0 to {classes - 1}, or -100 for none."
        )


def check_shares(name: str, labels: Tensor) -> None:
    """Raise InputError unless all labels are numbers in [0, 1].

    Only on the CPU: on other devices, reading the values would wait for all of the device's work.
    """
    if labels.device.type != "cpu" or kernels.recording(labels):
        return
    bad = ~((labels >= 0) & (labels <= 1))  # NaN too
    if bool(bad.any()):
        raise InputError(
            f"{name} contains {labels[bad][0].item()}: expected numbers in [0, 1], one for each "
            "label; unknown labels cannot be marked, for example by -100."
        )


def _not_one(input_ids: object, inputs_embeds: object) -> InputError:
    if (input_ids is None) == (inputs_embeds is None):
        return InputError("Give exactly one of input_ids and inputs_embeds.")
    given = input_ids if inputs_embeds is None else inputs_embeds
    return InputError(f"The tokens are a {type(given).__name__}: expected a tensor.")


def _wrong_shape(name: str, tokens: Tensor, packed_call: bool) -> InputError:
    if 0 in tokens.shape:
        return InputError(f"{name} has shape {tuple(tokens.shape)}: there is no token in it.")
    expected = {
        ("input_ids", False): "(B, S)",
        ("input_ids", True): "(T,)",
        ("inputs_embeds", False): "(B, S, E)",
        ("inputs_embeds", True): "(T, E)",
    }[name, packed_call]
    return InputError(
        f"{name} has shape {tuple(tokens.shape)}: expected {expected}. Give lengths only with "
        "packed tokens, which are in one line, and not with padded rows."
    )


def _check_vectors(vectors: Tensor, width: int) -> None:
    if not vectors.is_floating_point():
        raise InputError(
            f"inputs_embeds has dtype {vectors.dtype}: expected word vectors (floats)."
        )
    if vectors.shape[-1] != width:
        raise InputError(
            f"inputs_embeds has width {vectors.shape[-1]}: the embedding tables are {width} wide."
        )


def _misfit(name: str, values: Tensor, shape: tuple[int, ...]) -> InputError:
    if not isinstance(values, Tensor):
        return InputError(f"{name} is a {type(values).__name__}: expected a tensor.")
    if tuple(values.shape) != shape:
        return InputError(f"{name} has shape {tuple(values.shape)}, but the tokens have {shape}.")
    return InputError(f"{name} has dtype {values.dtype}: expected whole numbers (int64).")


def _out_of_range(name: str, value: int, size: int, limit: str) -> InputError:
    return InputError(f"{name} contains {value}: {limit} is {size}, so 0 to {size - 1} exist.")


def _without_rows(maps: bool) -> InputError:
    what = "output_attentions" if maps else "model.layout = 'padded'"
    return InputError(f"{what} needs padded rows: give (B, S) inputs and leave out lengths.")


def _cannot_pack(reason: str) -> InputError:
    return InputError(f"model.layout is 'packed', but {reason}: set it to 'auto'.")


def _checked_lengths(lengths: Tensor | Sequence[int], tokens: int) -> list[int]:
    try:
        lengths = torch.as_tensor(lengths).flatten()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise InputError(f"lengths is not a list of whole numbers: {problem}.") from problem
    if lengths.dtype not in (torch.int64, torch.int32) or lengths.numel() == 0:
        raise InputError(
            f"lengths has dtype {lengths.dtype} and {counted(lengths.numel(), 'number')}: expected "
            "one whole number for each sequence."
        )
    sizes: list[int] = lengths.tolist()
    if min(sizes) < 1:
        raise InputError(f"lengths contains {min(sizes)}: every sequence needs at least one token.")
    if sum(sizes) != tokens:
        found = counted(tokens, "token")
        raise InputError(f"lengths adds up to {sum(sizes)}, but the call has {found}.")
    return sizes
