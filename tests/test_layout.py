"""The order of tokens: padded rows, one packed line, and the way between them."""

import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from minilm.blocks.layout import Packed, Padded
from minilm.blocks.transformer import TransformerLayer

masks = st.integers(1, 5).flatmap(
    lambda columns: st.lists(
        st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=1, max_size=5
    )
).map(torch.tensor)  # fmt: skip


def packed(mask: Tensor) -> Packed:
    return Packed.from_mask(mask, mask.sum(1).tolist())


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
def test_unpack_undoes_pack(mask: Tensor) -> None:
    if not mask.any():
        return
    values = torch.arange(1, mask.numel() + 1).view(mask.shape)
    layout = packed(mask)
    inner = layout.pack(values)
    assert inner.shape == (int(mask.sum()),)
    assert torch.equal(layout.unpack(inner), values * mask)
    assert torch.equal(layout.unpack(inner, -1), values.masked_fill(~mask, -1))
    assert list(layout.lengths) == sorted(n for n in mask.sum(1).tolist() if n)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_a_packed_line_is_sorted_and_put_back(lengths: list[int]) -> None:
    layout = Packed.from_lengths(lengths)
    line = torch.arange(sum(lengths))
    inner = layout.pack(line)
    assert torch.equal(layout.unpack(inner), line)
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
    assert torch.equal(layout.first(inner[:, None])[:, 0], starts)
    rows = layout.to_padded(inner, -1)
    assert rows.shape == (len(lengths), max(lengths))
    for row, start, length in zip(rows, starts, lengths, strict=True):
        expected = [*range(start, start + length), *[-1] * (max(lengths) - length)]
        assert row.tolist() == expected
    assert layout.position.tolist() == [n for m in layout.lengths for n in range(m)]


@given(masks)
@settings(deadline=None)
def test_a_layer_gives_the_same_states_and_gradients(mask: Tensor) -> None:
    if not mask.any():
        return
    layer = new_layer()
    hidden = torch.randn(*mask.shape, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for layout in (Padded(mask), packed(mask)):
        output = layer(layout.pack(hidden), layout)
        unpacked = layout.unpack(output)
        wanted = [hidden, *layer.parameters()]
        gradients = torch.autograd.grad((unpacked**2).sum(), wanted)
        results.append((unpacked, *gradients))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@given(masks)
def test_a_merged_state_is_the_state_and_passes_the_gradient(mask: Tensor) -> None:
    if not mask.any():
        return
    values = torch.randn(*mask.shape, 2, dtype=torch.float64, requires_grad=True)
    for layout in (Padded(mask), packed(mask)):
        inner = layout.pack(values)
        kept = layout.unpack(inner)
        merged = layout.merge(kept, inner)
        assert torch.equal(merged, inner)
        (gradient,) = torch.autograd.grad(layout.unpack(merged).sum(), kept)
        assert torch.equal(gradient, mask[..., None].expand_as(gradient).double())
