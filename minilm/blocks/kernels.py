"""How attention, feed-forward and dropout are executed on different devices.

Every choice that depends on the device, on gradients, on measured speed, or on whether the call is
recorded is made in this file, and for whole layers in inference mode in inference.py; the other
blocks read like the papers. Every execution of attention equals the formula, `explicit_attention`,
which `attention("explicit")` forces.

References: Vaswani et al. 2017, section 3.2; Devlin et al. 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _TorchDispatchModeKey as DispatchMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from minilm.blocks.layout import Layout, Packed, Padded
from minilm.blocks.sample_dropout import Places, SampleDropout, current
from minilm.errors import InputError

Execution = Literal["auto", "explicit"]
Built = TypeVar("Built")

# Up to this length, the backward of torch's fused kernel takes 2 to 10 times as long in bfloat16 on
# a CPU as that of the formula (measured with 4 and 12 heads of 64, on AMX).
EXPLICIT_UNTIL = 256
# A CPU computes exponentials 16 or 32 at a time, and the rest one by one: a softmax over 13 numbers
# costs ten times that over 16. So with the formula, short sequences share blocks of at least BLOCK
# tokens, in multiples of VECTOR; longer ones share them up to the ratio SIMILAR of their lengths.
BLOCK, VECTOR, SIMILAR = 64, 32, 1.5
# Without gradients a CPU takes this many tokens at a time through the feed-forward block, so that
# the (tokens, I) state between its layers stays in the cache; measured best between 256 and 512.
TOKENS_AT_ONCE = 512
DROPOUT_BITS = 16  # random bits that decide whether one number is dropped

execution: Execution = "auto"  # see `attention`


@contextmanager
def attention(how: Execution) -> Iterator[None]:
    """Choose how attention is executed, by all models of the process.

    "auto" takes the fastest of several implementations. "explicit" computes the formula step by
    step: slower, but with derivatives of every order and in forward mode (Hessian-vector products,
    `torch.func.jvp`, double backward), which the fused kernels lack. The results are equal up to
    rounding.

    Args:
        how: "auto" or "explicit", for the model calls inside the `with` block.

    Raises:
        InputError: `how` is neither.

    Example:
        >>> with minilm.attention("explicit"):
        ...     loss = model(**batch).loss
        ...     gradient = torch.autograd.grad(loss, weights, create_graph=True)
    """
    global execution
    if how not in get_args(Execution):
        raise InputError(f"attention({how!r}): expected 'auto' or 'explicit'.")
    before, execution = execution, how
    try:
        yield
    finally:
        execution = before


def recording(x: Tensor | None = None) -> bool:
    """Whether the call is recorded or transformed, so that nothing may depend on tensor values.

    This is the case under torch.compile, torch.export, jit tracing, torch.func transforms, make_fx
    and FakeTensorMode, in CUDA graphs, and for an `x` without values (meta) or of a foreign class.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_dispatch_mode(DispatchMode.FAKE) is not None
        or get_proxy_mode() is not None
        or (x is not None and (x.is_meta or type(x) not in (Tensor, nn.Parameter)))
        or (x is not None and x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def wants_gradients() -> bool:
    """Whether a backward pass may follow, as it may with gradients outside of jit tracing."""
    return torch.is_grad_enabled() and torch._C._get_tracing_state() is None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    dropout: float,
    *,
    first_only: bool = False,
    return_probs: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention within every sequence: softmax(Q K^T / sqrt(D)) V.

    Args:
        query: (..., A, D) in the order of `layout`, or (B, A, D) with `first_only`.
        key, value: (..., A, D) in the order of `layout`.
        layout: says which tokens belong together.
        dropout: probability with which an attention probability is dropped; 0 outside training.
        first_only: the queries are those of the first tokens only.
        return_probs: also return the attention probabilities (padded layout only).

    Returns:
        The context, shaped like `query`, and the probabilities (B, A, S, S) after dropout, or None.
    """
    if isinstance(layout, Padded):
        return _in_rows(query, key, value, layout, dropout, first_only, return_probs)
    assert not return_probs
    if first_only:
        return _of_first_tokens(query, key, value, layout, dropout), None
    trained = torch.is_grad_enabled() or dropout > 0
    if not layout.explicit:
        if query.device.type != "cpu":
            ragged = _varlen if dropout == 0.0 and _takes_varlen(query) else _padded_inside
            return ragged(query, key, value, layout, dropout), None
        if trained and _prefers_formula(query, layout.lengths[-1], dropout):
            return _in_blocks(query, key, value, layout, dropout), None

    if len(layout.groups) == 1 and not trained and not layout.explicit:
        rows = (len(layout.lengths), layout.lengths[0], *query.shape[1:])
        q, k, v = (x.view(rows).transpose(1, 2) for x in (query, key, value))
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return context.reshape(query.shape), None

    contexts = []
    # split, not slices: its backward is one concatenation instead of a full-size sum a group
    sizes = list(map(math.prod, layout.groups.items()))
    _, heads, size = query.shape
    parts = map(Tensor.split_with_sizes, (query, key, value), repeat(sizes))
    places = _places(query, layout, dropout, sizes) if dropout > 0 else repeat(None, len(sizes))
    for (length, count), q, k, v, place in zip(layout.groups.items(), *parts, places, strict=True):
        q = q.view(count, length, heads, size).transpose(1, 2)  # (count, A, length, D)
        k = k.view(count, length, heads, size).transpose(1, 2)
        v = v.view(count, length, heads, size).transpose(1, 2)
        if layout.explicit:
            context, _ = explicit_attention(q, k, v, None, dropout, place and place.rows(count))
        else:
            context = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        contexts.append(context.transpose(1, 2).flatten(0, 1))  # (count * length, A, D)
    return torch.cat(contexts), None


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    places: Places | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(D) + mask) V, step by step.

    Args:
        query, key, value: (B, A, S, D).
        mask: added to the scores, broadcastable to (B, A, S, S), or None.
        dropout: probability with which an attention probability is dropped; 0 outside training.
        places: draws the dropout masks, with queries (B, S) and positions (B, S) or (1, S); None =
            they are drawn by torch's generator.

    Returns:
        The context (B, A, S, D) and the attention probabilities (B, A, S, S), after dropout. In
        half precision the scores are rounded before the softmax; fused kernels do not do that.
    """
    scores = query @ key.transpose(-1, -2)  # (B, A, S, S)
    scale = query.shape[-1] ** -0.5
    scores = scores * scale if mask is None else torch.add(mask, scores, alpha=scale)
    probs = _drop_probs(scores.softmax(dim=-1), dropout, places)  # (B, A, S, S)
    return probs @ value, probs  # (B, A, S, D)


def additive_mask(layout: Padded, dtype: torch.dtype) -> Tensor:
    """The mask that is added to the attention scores of padded rows.

    Unattended positions get a large negative finite number: with minus infinity, a row that attends
    to nothing would be NaN; so it is an ordinary average. Half the lowest number leaves room for
    the score, which must not round the sum to minus infinity in float16.

    Returns:
        (B, 1, 1, S) of `dtype`: 0 where attended, half the lowest finite value elsewhere.
    """
    assert layout.mask is not None
    zeros = torch.zeros(layout.mask.shape, dtype=dtype, device=layout.mask.device)
    return zeros.masked_fill(~layout.mask, torch.finfo(dtype).min / 2)[:, None, None, :]


def _once(layout: Layout, build: Callable[..., Built], *options: object) -> Built:
    """The result of `build(layout, *options)`, kept in the layout for all layers."""
    if torch.compiler.is_compiling():  # nothing may be kept while compiling
        return build(layout, *options)
    key = (build, *options)
    if key not in layout.derived:
        layout.derived[key] = build(layout, *options)
    built: Built = layout.derived[key]
    return built


def _prefers_formula(query: Tensor, length: int, dropout: float) -> bool:
    """Whether training on sequences of this length is faster with the formula."""
    if query.device.type != "cpu" or recording():
        return False
    if not torch.is_grad_enabled():
        return dropout > 0 and current() is not None
    # with dropout, torch's function also computes the formula, and draws its masks slowly
    return dropout > 0 or (query.dtype is torch.bfloat16 and length <= EXPLICIT_UNTIL)


def _takes_varlen(query: Tensor) -> bool:
    """Whether torch's kernel for sequences of unequal length takes this device, dtype and D."""
    half, size = query.dtype in (torch.float16, torch.bfloat16), query.shape[-1]
    fits = query.is_cuda and half and size % 8 == 0 and size <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _in_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Padded,
    dropout: float,
    first_only: bool,
    return_probs: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention of all padded rows in one call, with padding masked."""
    if first_only:
        query = query[:, None]
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (B, A, S, D)
    mask = None if layout.mask is None else _once(layout, additive_mask, q.dtype)
    probs: Tensor | None = None
    explicit = layout.explicit or return_probs
    if explicit or _prefers_formula(q, q.shape[-2], dropout):
        places: Places | None = None
        if draws := _draws(q, dropout):
            rows, length = k.shape[0], k.shape[-2]
            tokens = draws.tokens(layout, (rows, length))[:, : q.shape[-2]]
            places = Places(draws, draws.call(), tokens, torch.arange(length)[None])
        context, probs = explicit_attention(q, k, v, mask, dropout, places)
    else:
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    context = context.transpose(1, 2)  # (B, S, A, D)
    return context[:, 0] if first_only else context, probs if return_probs else None


def _of_first_tokens(
    query: Tensor, key: Tensor, value: Tensor, layout: Packed, dropout: float
) -> Tensor:
    """One query per sequence, (B, A, D), over the (T, A, D) keys and values of its tokens."""
    wide = torch.promote_types(query.dtype, torch.float32)  # dtype of sums, as in a product
    products = query.to(wide).index_select(0, layout.sequence) * key  # (T, A, D)
    scores = products.sum(-1) * query.shape[-1] ** -0.5  # (T, A)
    probs = layout.to_padded(scores, -math.inf).softmax(dim=1).transpose(1, 2)[:, :, None]
    places: Places | None = None
    if draws := _draws(query, dropout):
        line = draws.places(layout)
        positions = torch.arange(probs.shape[-1])[None]
        places = Places(draws, line.call, layout.first(line.queries)[:, None], positions)
    probs = _drop_probs(probs, dropout, places)[:, :, 0].transpose(1, 2)  # (B, S, A)
    weighted = probs[layout.sequence, layout.position, :, None] * value
    context = torch.zeros(query.shape, dtype=wide, device=query.device)
    return context.index_add_(0, layout.sequence, weighted.to(wide)).to(query.dtype)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, layout: Packed, dropout: float) -> Tensor:
    """Whole sequences side by side in blocks of equal width, masked from each other.

    With the formula, a few large products cost less than many small ones, even if some of their
    numbers are not used.
    """
    contexts = []
    blocks = _once(layout, blocks_of)
    sizes = [len(block.slots) for block in blocks]
    parts = (x.split_with_sizes(sizes) for x in (query, key, value))
    places = _places(query, layout, dropout, sizes)
    for block, place, *states in zip(blocks, places, *parts, strict=True):
        count, _, width, _ = block.mask.shape
        q, k, v = (
            x.index_select(0, block.tokens).unflatten(0, (count, width)).transpose(1, 2)
            for x in states
        )  # (blocks, A, width, D)
        mask, place = block.mask.to(q.dtype), place and place.rows(count, block.tokens)
        context, _ = explicit_attention(q, k, v, mask, dropout, place)
        contexts.append(context.transpose(1, 2).flatten(0, 1).index_select(0, block.slots))
    return torch.cat(contexts)


def _padded_inside(
    query: Tensor, key: Tensor, value: Tensor, layout: Packed, dropout: float
) -> Tensor:
    """Pads the sequences inside attention only; runs on any device."""
    mask, where = _once(layout, _rows)
    q, k, v = (
        x.new_zeros((*mask.shape, *x.shape[1:])).index_put(where, x).transpose(1, 2)
        for x in (query, key, value)
    )  # (B, A, S, D)
    added = _once(layout, _rows_mask, q.dtype)
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout)
    return context.transpose(1, 2)[where]  # (T, A, D)


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Packed, dropout: float) -> Tensor:
    """Calls the GPU kernel that takes sequences of unequal length directly."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = _once(layout, _bounds), layout.lengths[-1]
    context = varlen_attn(query, key, value, bounds, bounds, longest, longest)
    assert isinstance(context, Tensor)
    return context


def _bounds(layout: Packed) -> Tensor:
    """The bounds of the sequences in the line: (B + 1,) int32, from 0 to T."""
    device = layout.sequence.device
    return torch.tensor((0, *layout.lengths), device=device).cumsum(0, dtype=torch.int32)


def _rows(layout: Packed) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The line as padded rows: a mask (B, S), True at tokens, and the row and column of each."""
    bounds, (tokens,) = _once(layout, _bounds), layout.sequence.shape
    row = torch.repeat_interleave(bounds.diff(), output_size=tokens)  # (T,)
    column = torch.arange(tokens, device=row.device) - bounds[row]
    mask = torch.arange(layout.lengths[-1], device=row.device) < bounds.diff()[:, None]
    return mask, (row, column)


def _rows_mask(layout: Packed, dtype: torch.dtype) -> Tensor:
    return additive_mask(Padded(_once(layout, _rows)[0]), dtype)


@dataclass(frozen=True, eq=False)
class Blocks:
    """The places of the tokens of some sequences in blocks of equal width.

    Attributes:
        slots: (tokens,) int64: the slot of every token in the line of blocks.
        tokens: (blocks * width,) int64: the token in every slot. Unused slots of a block hold
            copies of the first token, to which only other copies attend, and which are never read.
        mask: (blocks, 1, width, width) float32, added to the scores: 0 within a sequence, minus
            infinity between sequences.
    """

    slots: Tensor
    tokens: Tensor
    mask: Tensor


def blocks_of(layout: Packed) -> list[Blocks]:
    """Cuts the line where lengths differ too much; each piece has blocks of its own width."""
    pieces, start = [], 0
    for end in range(1, len(layout.lengths) + 1):
        limit = max(BLOCK, SIMILAR * layout.lengths[start])
        if end == len(layout.lengths) or layout.lengths[end] > limit:
            pieces.append(_fill_blocks(layout.lengths[start:end]))
            start = end
    return pieces


def place_in_blocks(lengths: tuple[int, ...]) -> tuple[int, list[int], int]:
    """Puts sequences of ascending lengths, one after the other, into the first block with room.

    Returns:
        The width of a block, the start of each sequence in the line of blocks, and the line's
        length.
    """
    width = -(-max(lengths[-1], min(BLOCK, sum(lengths))) // VECTOR) * VECTOR
    starts: list[int] = []
    end, limit = 0, 0
    for length in lengths:
        if end + length > limit:
            end, limit = limit, limit + width
        starts.append(end)
        end += length
    return width, starts, limit


def _fill_blocks(lengths: tuple[int, ...]) -> Blocks:
    width, starts, limit = place_in_blocks(lengths)
    counts = torch.tensor(lengths)
    sequence = torch.arange(len(lengths)).repeat_interleave(counts)  # (tokens,)
    begins = torch.tensor(starts) - (counts.cumsum(0) - counts)
    token = torch.arange(len(sequence))
    slots = token + begins[sequence]
    tokens = torch.zeros(limit, dtype=torch.int64).index_copy_(0, slots, token)
    owner = torch.full((limit,), -1).index_copy_(0, slots, sequence).view(-1, 1, width)
    apart = owner[..., :, None] != owner[..., None, :]  # (blocks, 1, width, width)
    return Blocks(slots, tokens, torch.zeros(apart.shape).masked_fill_(apart, -math.inf))


def feed_forward(
    hidden: Tensor, up: nn.Module, activation: Callable[[Tensor], Tensor], down: nn.Module
) -> Tensor:
    """down(activation(up(hidden))), (..., H) -> (..., H); in parts if the tokens are packed."""
    whole = torch.is_grad_enabled() or hidden.device.type != "cpu" or recording()
    if whole or hidden.dim() != 2:  # rows stay rows for hooks on the two layers
        dense: Tensor = down(activation(up(hidden)))
        return dense
    chunks = []
    for chunk in torch.split(hidden, TOKENS_AT_ONCE):
        chunks.append(down(activation(up(chunk))))
    return torch.cat(chunks)


def _draws(x: Tensor, dropout: float) -> SampleDropout | None:
    """The dropout of the samples of the batch, if numbers are to be dropped and it applies."""
    return current() if dropout > 0 and x.device.type == "cpu" and not recording() else None


def _places(
    query: Tensor, layout: Packed, dropout: float, sizes: list[int]
) -> Iterable[Places | None]:
    """The `Places` of the tokens of a line that is cut into parts of these sizes."""
    if draws := _draws(query, dropout):
        return draws.places(layout).split(sizes)
    return repeat(None, len(sizes))


def _drop_probs(probs: Tensor, dropout: float, places: Places | None) -> Tensor:
    """Applies `drop` to attention probabilities (B, A, Q, K)."""
    if places is None:
        return drop(probs, dropout)
    return probs * places.draws.probabilities(probs, places, dropout)


def drop(x: Tensor, probability: float) -> Tensor:
    """Dropout: zeroes every number with this probability, and scales the others to keep the mean.

    Within `sample_dropout`, the choice depends on the sample alone. Elsewhere, on a CPU the
    probability is rounded to a multiple of 2^-16, and the scale is that of the rounded one: torch
    draws a full number for every element there, which takes a tenth of a step of fine-tuning; 16
    bits are enough, and take a quarter of the time.

    Args:
        x: any shape, floating; within `sample_dropout`, states of tokens or of sequences.
        probability: 0 to 1.

    References: Srivastava et al. 2014.
    """
    if x.device.type != "cpu" or recording():
        return F.dropout(x, probability)
    if draws := _draws(x, probability):
        mask = draws.states(x, probability)
        if mask is not None:
            return x * mask
    kept = round((1 - probability) * (1 << DROPOUT_BITS))  # of 2^16 values of 16 bits
    if kept == 1 << DROPOUT_BITS:
        return x
    count = x.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    values = words.view(torch.int16)[:count].view(x.shape)
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.lt(values, kept - (1 << (DROPOUT_BITS - 1)), out=mask)  # 1 where kept, else 0
    return x * mask.mul_((1 << DROPOUT_BITS) / max(kept, 1))
