"""Every execution of attention and of the feed-forward block against the explicit formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as varlen
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

import minilm
from minilm.blocks import kernels
from minilm.blocks.kernels import EXPLICIT_UNTIL, attend, explicit_attention
from minilm.blocks.layout import Packed, Padded
from minilm.errors import InputError
from tiny import ragged, tiny

Execution = Callable[..., Tensor]
some_lengths = st.lists(st.integers(1, 9) | st.integers(1, 200), min_size=1, max_size=12)


def varlen_attn(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, key_bounds: Tensor, longest: int, same: int
) -> Tensor:
    """What the GPU kernel promises, one sequence after the other."""
    assert bounds.dtype == torch.int32
    assert torch.equal(bounds, key_bounds)
    assert longest == same == int((bounds[1:] - bounds[:-1]).max())
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        one = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*one)[0].transpose(0, 1))
    return torch.cat(parts)


def formula(states: Tensor, lengths: list[int]) -> Tensor:
    """Sequence by sequence; (3, T, A, D) -> (T, A, D)."""
    contexts = []
    for part in states.split(lengths, dim=1):
        query, key, value = part.transpose(1, 2)[:, None]
        contexts.append(explicit_attention(query, key, value, None, 0.0)[0][0].transpose(0, 1))
    return torch.cat(contexts)


def by_length(q: Tensor, k: Tensor, v: Tensor, layout: Packed, dropout: float) -> Tensor:
    return attend(q, k, v, layout, dropout)[0]


EXECUTIONS: list[Execution] = [
    by_length,
    kernels._in_blocks,
    kernels._padded_inside,
    kernels._varlen,
]


@pytest.mark.parametrize("execution", EXECUTIONS)
@given(some_lengths)
@settings(deadline=None, max_examples=25)
def test_every_execution_equals_the_formula(execution: Execution, lengths: list[int]) -> None:
    """Contexts and gradients, in float64."""
    lengths = sorted(lengths)
    real, varlen.varlen_attn = varlen.varlen_attn, varlen_attn
    try:
        layout = Packed.from_lengths(lengths)
        states = torch.randn(3, sum(lengths), 2, 4, dtype=torch.float64)
        results = []
        for run in (
            lambda *x: execution(*x, layout, 0.0),
            lambda *x: formula(torch.stack(x), lengths),
        ):
            leaf = states.clone().requires_grad_()
            context = run(*leaf)
            (gradient,) = torch.autograd.grad(context.sin().sum(), leaf)
            results.append((context, gradient))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-14)
    finally:
        varlen.varlen_attn = real


@given(some_lengths, st.booleans())
@settings(deadline=None, max_examples=25)
def test_first_tokens_alone_equal_the_formula(lengths: list[int], explicit: bool) -> None:
    """In any order of lengths, packed and in rows."""
    states = torch.randn(3, sum(lengths), 2, 4, dtype=torch.float64)
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    expected = formula(states, lengths)[starts]
    layout = Packed.from_lengths(lengths, explicit=explicit)
    q, k, v = (layout.pack(x) for x in states)
    context, _ = attend(layout.first(q), k, v, layout, 0.0, first_only=True)
    torch.testing.assert_close(context, expected, rtol=0, atol=2e-14)

    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows = Padded(mask, explicit=explicit)
    q, k, v = (torch.zeros(*mask.shape, 2, 4, dtype=x.dtype).index_put((mask,), x) for x in states)
    context, _ = attend(q[:, 0], k, v, rows, 0.0, first_only=True)
    torch.testing.assert_close(context, expected, rtol=0, atol=2e-14)


@pytest.mark.parametrize(
    ("lengths", "shapes"),
    [
        ([4, 1, 6, 4, 2], [(1, 32)]),
        ([30, 40, 20, 10, 60], [(3, 64)]),
        ([30, 64, 65, 97, 98, 90], [(2, 64), (3, 128), (1, 128)]),
        ([100, 140, 150], [(3, 160)]),
    ],
)  # fmt: skip
def test_how_sequences_share_blocks(
    lengths: list[int], shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    real = explicit_attention
    monkeypatch.setattr(
        kernels, "explicit_attention", lambda *a: found.append(a[0].shape) or real(*a)
    )
    layout = Packed.from_lengths(lengths)
    states = torch.randn(3, sum(lengths), 2, 4, requires_grad=True)
    attend(*states, layout, 0.1)
    assert [(shape[0], shape[2]) for shape in found] == shapes


def test_sequences_of_equal_length_share_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = F.scaled_dot_product_attention

    def counted(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        shapes.append(tuple(query.shape))
        return real(query, *rest, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    layout = Packed.from_lengths([3, 5, 3, 5, 3])
    attend(*torch.randn(3, 19, 2, 4), layout, 0.0)
    assert shapes == [(3, 2, 3, 4), (2, 2, 5, 4)]


def test_what_depends_on_the_layout_is_built_once_for_all_layers() -> None:
    layout = Packed.from_lengths([3, 5, 3])
    rows = Padded(torch.tensor([[True, False], [True, True]]))
    for _ in range(2):
        kernels._in_blocks(*torch.randn(3, 11, 2, 4), layout, 0.0)
        kernels._padded_inside(*torch.randn(3, 11, 2, 4), layout, 0.0)
        attend(*torch.randn(3, 2, 2, 2, 4), rows, 0.0)
        built = {**layout.derived, **rows.derived}
    attend(*torch.randn(3, 2, 2, 2, 4), rows, 0.0)
    kernels._in_blocks(*torch.randn(3, 11, 2, 4), layout, 0.0)
    again = {**layout.derived, **rows.derived}
    assert len(built) == 5
    assert all(again[key] is value for key, value in built.items())


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_formula_and_fused_kernel_agree_with_everything_kept_or_dropped(dropout: float) -> None:
    states = torch.randn(3, 2, 5, 2, 4, dtype=torch.float64)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    explicit, probs = attend(*states, Padded(mask), dropout, return_probs=True)
    fused, none = attend(*states, Padded(mask), dropout)
    torch.testing.assert_close(fused, explicit, rtol=0, atol=1e-12)
    assert none is None
    assert probs is not None
    assert probs.shape == (2, 2, 5, 5)
    assert bool((probs == 0).all()) == (dropout == 1.0)


@pytest.mark.parametrize("length", [5, EXPLICIT_UNTIL, EXPLICIT_UNTIL + 1])
def test_the_faster_execution_is_the_same(length: int) -> None:
    """In bfloat16 and with gradients, where a CPU spells the formula out for short sequences."""
    states = torch.randn(3, 1, length, 2, 8).to(torch.bfloat16)
    found, expected = states.clone().requires_grad_(), states.double().requires_grad_()
    attend(*found, Padded(None), 0.0)[0].sum().backward()
    attend(*expected, Padded(None, explicit=True), 0.0)[0].sum().backward()
    assert found.grad is not None
    torch.testing.assert_close(found.grad.double(), expected.grad, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 30])
def test_a_row_that_attends_to_nothing_is_finite(dtype: torch.dtype, scale: int) -> None:
    """Also where scores far below zero come on top of the mask, as in float16 (the sum would be
    minus infinity)."""
    states = torch.randn(3, 1, 3, 2, 4, dtype=dtype)
    states[0], states[1] = scale * states[0].abs(), -scale * states[1].abs()
    mask = torch.tensor([[False, False, False]])
    for explicit in (True, False):
        context, _ = attend(*states, Padded(mask, explicit=explicit), 0.0)
        assert context.isfinite().all()
        if scale == 1 and dtype is not torch.float16:
            mean = states[2].mean(1, keepdim=True).expand(1, 3, 2, 4)
            torch.testing.assert_close(context, mean, atol=0.02, rtol=0)


def test_first_tokens_in_half_precision_are_as_exact_as_the_kernel() -> None:
    """Products are summed in float32, as a matrix product does it."""
    torch.manual_seed(0)
    lengths = [7, 30, 64]
    states = 4 * torch.randn(3, sum(lengths), 2, 64)
    expected = formula(states.half().double(), lengths)[torch.tensor([0, 7, 37])]
    layout = Packed.from_lengths(lengths)
    q, k, v = states.half()
    context, _ = attend(layout.first(q), k, v, layout, 0.0, first_only=True)
    assert context.dtype is torch.float16
    torch.testing.assert_close(context.double(), expected, atol=2e-3, rtol=1e-3)


def test_the_explicit_execution_is_taken_everywhere_and_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padded and packed; the fused kernel is never called inside the block."""
    real = F.scaled_dot_product_attention
    calls = []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    model = tiny("AlbertForMaskedLM")
    batch = ragged()
    expected = {}
    for choice in ("auto", "padded", "packed"):
        model.layout = choice  # type: ignore[assignment]
        expected[choice] = model(**batch).logits
    assert calls
    calls.clear()
    with minilm.attention("explicit"):
        for choice, logits in expected.items():
            model.layout = choice  # type: ignore[assignment]
            torch.testing.assert_close(model(**batch).logits, logits, rtol=0, atol=2e-12)
        with minilm.attention("auto"):
            assert not calls
            model(**batch)
            assert calls
            calls.clear()
    with pytest.raises(RuntimeError), minilm.attention("explicit"):
        raise RuntimeError
    model(**batch)
    assert calls
    with pytest.raises(InputError, match="'fast'.*expected 'auto' or 'explicit'"):
        minilm.attention("fast").__enter__()  # type: ignore[arg-type]


def test_the_feed_forward_block_in_chunks_is_the_same() -> None:
    up, down = torch.nn.Linear(4, 8).double(), torch.nn.Linear(8, 4).double()
    hidden = torch.randn(3, 400, 4, dtype=torch.float64)
    whole = kernels.feed_forward(hidden, up, F.gelu, down)
    with torch.no_grad():
        chunks = kernels.feed_forward(hidden, up, F.gelu, down)
    assert chunks.shape == hidden.shape
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-14)
