"""Padded and packed batches: the same numbers, the same gradients, nothing lost on the way."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from minilm.blocks import layout as layout_module
from minilm.blocks.attention import (
    SPELLED_OUT_UNTIL,
    attention_context,
    explicit_attention,
    fused_attention,
)
from minilm.blocks.layout import Packed, Padded
from minilm.blocks.transformer import TransformerLayer

masks = st.integers(1, 5).flatmap(
    lambda columns: st.lists(
        st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=1, max_size=5
    )
).map(torch.tensor)  # fmt: skip


def new_layer() -> TransformerLayer:
    torch.manual_seed(3)
    layer = TransformerLayer(
        hidden_size=8,
        num_heads=2,
        intermediate_size=12,
        activation="gelu",
        norm_eps=1e-12,
        attention_dropout=0.0,
        attention_output_dropout=0.0,
        feed_forward_dropout=0.0,
    ).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@given(masks)
def test_restore_undoes_gather(mask: Tensor) -> None:
    if not mask.any():
        return
    values = torch.arange(1, mask.numel() + 1).view(mask.shape)
    layout = Packed.from_mask(mask)
    inner = layout.gather(values)
    assert inner.shape == (int(mask.sum()),)
    assert torch.equal(layout.restore(inner), values * mask)
    assert torch.equal(layout.restore(inner, -1), values.masked_fill(~mask, -1))
    assert list(layout.lengths) == sorted(n for n in mask.sum(1).tolist() if n)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_a_packed_line_is_sorted_and_put_back(lengths: list[int]) -> None:
    layout = Packed.from_lengths(torch.tensor(lengths))
    line = torch.arange(sum(lengths))
    inner = layout.gather(line)
    assert torch.equal(layout.restore(inner), line)
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
    assert torch.equal(layout.first(inner[:, None])[:, 0], starts)
    rows = layout.rows(inner, -1)
    assert rows.shape == (len(lengths), max(lengths))
    for row, start, length in zip(rows, starts, lengths, strict=True):
        expected = [*range(start, start + length), *[-1] * (max(lengths) - length)]
        assert row.tolist() == expected
    assert layout.column.tolist() == [n for m in layout.lengths for n in range(m)]


@given(masks)
@settings(deadline=None)
def test_a_layer_gives_the_same_states_and_gradients(mask: Tensor) -> None:
    if not mask.any():
        return
    layer = new_layer()
    hidden = torch.randn(*mask.shape, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for layout in (Padded(mask), Packed.from_mask(mask)):
        output, _ = layer(layout.gather(hidden), layout)
        restored = layout.restore(output)
        wanted = [hidden, *layer.parameters()]
        gradients = torch.autograd.grad((restored**2).sum(), wanted)
        results.append((restored, *gradients))
    for padded, packed in zip(*results, strict=True):
        torch.testing.assert_close(padded, packed, rtol=0, atol=1e-10)


def test_every_execution_of_packed_attention_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Packed.from_lengths(torch.tensor([4, 1, 6, 4, 2]))
    query, key, value = torch.randn(3, 17, 2, 4, dtype=torch.float64)
    expected, maps = layout.attend(query, key, value, 0.0, False)
    assert maps is None
    padded = layout._attend_padded(query, key, value, 0.0)
    torch.testing.assert_close(padded, expected, rtol=0, atol=1e-12)

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
            parts.append(fused_attention(*one, None, 0.0)[0].transpose(0, 1))
        return torch.cat(parts)

    import torch.nn.attention.varlen as varlen

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    ragged = layout._attend_varlen(query, key, value)
    torch.testing.assert_close(ragged, expected, rtol=0, atol=1e-12)


@given(st.lists(st.integers(1, 9) | st.integers(1, 200), min_size=1, max_size=12))
@settings(deadline=None)
def test_attention_in_blocks_is_the_same(lengths: list[int]) -> None:
    """As in training: values and gradients of whole sequences that share a block."""
    layout = Packed.from_lengths(torch.tensor(lengths))
    states = torch.randn(3, sum(lengths), 2, 4, dtype=torch.float64)
    results = []
    for execution in (layout._attend_by_length, layout._attend_in_blocks):
        leaf = states.clone().requires_grad_()
        context = execution(*leaf, 0.0)
        (gradient,) = torch.autograd.grad(context.sin().sum(), leaf)
        results.append((context, gradient))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


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
    real = layout_module.explicit_attention
    monkeypatch.setattr(
        layout_module, "explicit_attention", lambda *a: found.append(a[0].shape) or real(*a)
    )
    layout = Packed.from_lengths(torch.tensor(lengths))
    states = torch.randn(3, sum(lengths), 2, 4, requires_grad=True)
    layout.attend(*states, 0.1, False)
    assert [(shape[0], shape[2]) for shape in found] == shapes


def test_explicit_and_fused_arithmetic_agree_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64)
    mask = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    mask[0, ..., 3:] = torch.finfo(torch.float64).min
    for dropout in (0.0, 1.0):  # everything kept, everything dropped
        context, maps = explicit_attention(query, key, value, mask, dropout)
        fused = fused_attention(query, key, value, mask, dropout)
        torch.testing.assert_close(fused, context, rtol=0, atol=1e-12)
        assert maps.shape == (2, 2, 5, 5)
        assert bool((maps == 0).all()) == (dropout == 1.0)


@pytest.mark.parametrize("length", [5, SPELLED_OUT_UNTIL, SPELLED_OUT_UNTIL + 1])
def test_the_faster_execution_is_the_same(length: int) -> None:
    """In bfloat16 and with gradients, where a CPU spells the formula out for short sequences."""
    states = torch.randn(3, 1, 2, length, 8).to(torch.bfloat16)
    found, expected = states.clone().requires_grad_(), states.double().requires_grad_()
    attention_context(*found, None, 0.0).sum().backward()
    explicit_attention(*expected, None, 0.0)[0].sum().backward()
    assert found.grad is not None
    torch.testing.assert_close(found.grad.double(), expected.grad, rtol=0.02, atol=0.02)
    with torch.no_grad():
        fast, fused = (run(*states, None, 0.0) for run in (attention_context, fused_attention))
    assert torch.equal(fast, fused)


def test_a_fully_masked_row_is_finite_in_both_executions() -> None:
    mask = torch.tensor([[False, False, False]])
    states = torch.randn(3, 1, 3, 2, 4)
    for return_maps in (True, False):
        context, _ = Padded(mask).attend(*states, 0.0, return_maps)
        torch.testing.assert_close(context, states[2].mean(1, keepdim=True).expand(1, 3, 2, 4))


def test_sequences_of_equal_length_share_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def counted(query: Tensor, *rest: object) -> Tensor:
        shapes.append(tuple(query.shape))
        return fused_attention(query, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(layout_module, "fused_attention", counted)
    layout = Packed.from_lengths(torch.tensor([3, 5, 3, 5, 3]))
    layout.attend(*torch.randn(3, 19, 2, 4), 0.0, False)
    assert shapes == [(3, 2, 3, 4), (2, 2, 5, 4)]


def test_attention_maps_need_rows() -> None:
    layout = Packed.from_lengths(torch.tensor([2]))
    with pytest.raises(AssertionError, match="padded layout"):
        layout.attend(*torch.randn(3, 2, 2, 4), 0.0, True)
