"""Losses between layers, sentences and relations of tokens: against plain formulas in float64."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

from minilm.errors import InputError
from minilm.losses import relations
from minilm.losses.layer_states import (
    hidden_cosine,
    hidden_mse,
    layer_pairs,
    mean_pool,
    pooled_cosine,
    pooled_mse,
)
from minilm.losses.relations import relation_divergence

LENGTHS = (4, 1, 7, 2)
TOKENS = sum(LENGTHS)
H, WIDER, HEADS = 6, 12, 3
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-10}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def sequences(states: Tensor, lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    return list(states.split(list(lengths)))


def padded(states: Tensor, lengths: Sequence[int] = LENGTHS) -> tuple[Tensor, Tensor]:
    """(B, S, H) with nonsense between sequences, and the mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows = states.new_full((*mask.shape, states.shape[1]), 1e3)
    return rows.index_put((mask,), states), mask


# ------------------------------------------------------------------ layer maps


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "pairs"),
    [
        ("uniform", 3, 12, [(0, 3), (1, 7), (2, 11)]),
        ("uniform", 6, 12, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        ("uniform", 3, 3, [(0, 0), (1, 1), (2, 2)]),
        ("uniform", 4, 6, [(0, 1), (1, 2), (2, 4), (3, 5)]),  # 1.5 and 4.5 are rounded up
        ("uniform", 12, 3, [(i, max(0, round((i + 1) / 4 + 1e-9) - 1)) for i in range(12)]),
        ("last", 3, 12, [(2, 11)]),
        ([0, 0, 5], 3, 6, [(0, 0), (1, 0), (2, 5)]),
    ],
)
def test_layer_maps(
    layer_map: Any, student: int, teacher: int, pairs: list[tuple[int, int]]
) -> None:
    assert layer_pairs(layer_map, student, teacher) == tuple(pairs)


@given(student=st.integers(1, 30), teacher=st.integers(1, 30))
def test_uniform_maps_rise_and_end_at_the_last_layer(student: int, teacher: int) -> None:
    pairs = layer_pairs("uniform", student, teacher)
    layers = [layer for _, layer in pairs]
    assert [application for application, _ in pairs] == list(range(student))
    assert layers == sorted(layers)
    assert layers[-1] == teacher - 1
    assert all(0 <= layer < teacher for layer in layers)
    if teacher % student == 0:
        assert layers == list(range(teacher // student - 1, teacher, teacher // student))


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ([1, 2], "layer_map has 2 numbers, but the student applies 3 layers"),
        ([0, 1, 6], "layer_map names layer 6, but the teacher has layers 0 to 5"),
        ([0, -1, 2], "expected 'uniform', 'last', or a list"),
        ([0, 1.5, 2], "expected 'uniform', 'last', or a list"),
        ([True, 1, 2], "expected 'uniform', 'last', or a list"),
        ("every", "layer_map is 'every': expected 'uniform', 'last', or a list"),
        (None, "layer_map is None"),
    ],
)
def test_maps_that_do_not_fit(layer_map: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        layer_pairs(layer_map, 3, 6)
    assert message in str(caught.value)


# ------------------------------------------------------------------ hidden states


def some_layers(seed: int, layers: int = 2) -> list[Tensor]:
    return [draw(TOKENS, H, seed=seed + i).requires_grad_() for i in range(layers)]


def test_hidden_states_against_plain_formulas() -> None:
    student, teacher = some_layers(0), some_layers(10)
    cosine, squares = hidden_cosine(student, teacher), hidden_mse(student, teacher)
    assert (cosine.items, squares.items) == (TOKENS, TOKENS)
    ones = torch.ones(TOKENS, dtype=torch.float64)
    plain = [
        torch.nn.CosineEmbeddingLoss()(s, t, ones) for s, t in zip(student, teacher, strict=True)
    ]
    torch.testing.assert_close(cosine.mean(), torch.stack(plain).mean(), **EXACT)
    plain = [torch.nn.MSELoss()(s, t) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(squares.mean(), torch.stack(plain).mean(), **EXACT)
    with pytest.raises(AssertionError):  # a control: the layers in another order differ
        torch.testing.assert_close(hidden_mse(student, teacher[::-1]).sum, squares.sum, **EXACT)


@pytest.mark.parametrize("loss", [hidden_cosine, hidden_mse])
def test_gradients_of_hidden_states(loss: Any) -> None:
    teacher = some_layers(10)
    assert torch.autograd.gradcheck(lambda *states: loss(states, teacher).sum, some_layers(0))


def test_sentence_vectors_against_plain_formulas() -> None:
    student, teacher = draw(TOKENS, H).requires_grad_(), draw(TOKENS, H, seed=1)
    ours, theirs = (torch.stack([s.mean(0) for s in sequences(x)]) for x in (student, teacher))
    torch.testing.assert_close(mean_pool(student, LENGTHS), ours, **EXACT)
    cosine, squares = (
        pooled_cosine(student, teacher, LENGTHS),
        pooled_mse(student, teacher, LENGTHS),
    )
    assert (cosine.items, squares.items) == (4, 4)
    torch.testing.assert_close(cosine.sum, (1 - F.cosine_similarity(ours, theirs)).sum(), **EXACT)
    torch.testing.assert_close(squares.mean(), torch.nn.MSELoss()(ours, theirs), **EXACT)
    rows, mask = padded(teacher)
    from_rows = (rows * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(mean_pool(teacher, LENGTHS), from_rows, **EXACT)
    wrong = pooled_cosine(student, teacher, (1, 4, 2, 7))
    assert abs((wrong.sum - cosine.sum).item()) > 1e-3  # a control: the lengths are read
    for loss in (pooled_cosine, pooled_mse):
        assert torch.autograd.gradcheck(lambda x, of=loss: of(x, teacher, LENGTHS).sum, (student,))


# ------------------------------------------------------------------ relations


def plain_divergence(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    lengths: Sequence[int],
    heads: int,
) -> Tensor:
    """Sequence by sequence and head by head, with torch's losses."""
    total = torch.zeros((), dtype=torch.float64)
    parts = [sequences(x, lengths) for x in (*student, *teacher)]
    for s_left, s_right, t_left, t_right in zip(*parts, strict=True):
        cut = [x.chunk(heads, dim=1) for x in (s_left, s_right, t_left, t_right)]
        for one, other, their_one, their_other in zip(*cut, strict=True):
            log_p = (one @ other.T / math.sqrt(one.shape[1])).log_softmax(-1)
            q = (their_one @ their_other.T / math.sqrt(their_one.shape[1])).softmax(-1)
            total = total + F.kl_div(log_p, q, reduction="sum") / heads
    return total


def pair(width: int, seed: int, tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    return (
        draw(tokens, width, seed=seed).requires_grad_(),
        draw(tokens, width, seed=seed + 1).requires_grad_(),
    )


@pytest.mark.parametrize("width", [H, WIDER])
@pytest.mark.parametrize("similar", [1.0, 1.5, 100.0])
@pytest.mark.parametrize("block_bytes", [1, 2**22])
def test_relations_against_the_plain_formula(
    width: int, similar: float, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However sequences are put together: alone, with equals, all padded to the longest."""
    monkeypatch.setattr(relations, "SIMILAR", similar)
    monkeypatch.setattr(relations, "BLOCK_BYTES", block_bytes)
    lengths = (3, 3, 2, 5, 4, 1, 1, 3)
    student, teacher = pair(H, 1, sum(lengths)), pair(width, 5, sum(lengths))
    found = relation_divergence(student, teacher, lengths, HEADS)
    wanted = plain_divergence(student, teacher, lengths, HEADS)
    assert found.items == sum(lengths)
    torch.testing.assert_close(found.sum, wanted, **EXACT)
    ours = torch.autograd.grad(found.sum * 3.0, student)
    for one, other in zip(ours, torch.autograd.grad(wanted * 3.0, student), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    moved = relation_divergence(student, teacher, (3, 2, 3, 5, 4, 1, 1, 3), HEADS).sum
    assert abs((moved - found.sum).item()) > 1e-3  # a control: tokens of two sequences never meet


def test_a_relation_with_itself_has_both_gradients() -> None:
    values, theirs = pair(H, 1)[0], pair(WIDER, 5)[0]
    found = relation_divergence((values, values), (theirs, theirs), LENGTHS, HEADS).sum
    wanted = plain_divergence((values, values), (theirs, theirs), LENGTHS, HEADS)
    torch.testing.assert_close(found, wanted, **EXACT)
    ours, plain = (torch.autograd.grad(loss, values)[0] for loss in (found, wanted))
    torch.testing.assert_close(ours, plain, **EXACT)


def test_gradients_of_relations() -> None:
    teacher = pair(WIDER, 5)

    def loss(left: Tensor, right: Tensor) -> Tensor:
        return relation_divergence((left, right), teacher, LENGTHS, HEADS).sum

    assert torch.autograd.gradcheck(loss, pair(H, 1))
    left, right = pair(H, 1)
    only_right = loss(left.detach(), right)
    gradient = torch.autograd.grad(only_right, right)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(left, right), right)[0], **EXACT)
    with torch.no_grad():
        assert not loss(left, right).requires_grad


def test_relations_are_the_attention_maps_of_a_layer() -> None:
    """The divergence of torch's own attention weights."""
    (q, k), (their_q, their_k) = pair(H, 1), pair(H, 5)

    def maps(query: Tensor, key: Tensor) -> Tensor:
        heads = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key)]
        scores = heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(H // HEADS)
        return scores.masked_fill(~inside[:, None, None], -math.inf).log_softmax(-1)

    (q_rows, inside), (k_rows, _) = padded(q), padded(k)
    log_p, log_q = maps(q_rows, k_rows), maps(padded(their_q)[0], padded(their_k)[0])
    each = (log_q.exp() * (log_q - log_p)).nan_to_num(0.0).sum(-1)  # (B, A, S)
    wanted = (each * inside[:, None]).sum() / HEADS
    found = relation_divergence((q, k), (their_q, their_k), LENGTHS, HEADS)
    torch.testing.assert_close(found.sum, wanted, **EXACT)


@given(
    seed=st.integers(0, 2**20),
    scale=st.floats(0.01, 100.0),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    heads=st.sampled_from([1, 2, 3, 6]),
)
@settings(max_examples=40, deadline=None)
def test_relations_differ_by_at_least_nothing(
    seed: int, scale: float, lengths: list[int], heads: int
) -> None:
    tokens = sum(lengths)
    one, other = (draw(tokens, H, seed=seed + i) * scale for i in range(2))
    assert relation_divergence((one, one), (other, other), lengths, heads).sum.item() >= -1e-9
    same = relation_divergence((one, other), (one, other), lengths, heads)
    assert same.sum.item() == 0
    # the order of sequences is of no consequence
    order = list(range(len(lengths)))[::-1]
    turned = [torch.cat([sequences(x, lengths)[i] for i in order]) for x in (one, other)]
    backwards = relation_divergence(
        (turned[0], turned[0]), (turned[1], turned[1]), [lengths[i] for i in order], heads
    )
    forwards = relation_divergence((one, one), (other, other), lengths, heads)
    torch.testing.assert_close(backwards.sum, forwards.sum, rtol=1e-9, atol=1e-9)


def test_tables_never_exist_for_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of more than a block is made, but for the states themselves."""
    lengths, largest = [8] * 16, 0
    tokens = sum(lengths)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    monkeypatch.setattr(relations, "BLOCK_BYTES", 2 * HEADS * 8 * 8 * 8)
    student, teacher = pair(H, 1, tokens), pair(H, 5, tokens)
    with Watch():
        relation_divergence(student, teacher, lengths, HEADS).sum.backward()
    assert largest == tokens * H < HEADS * 8 * tokens


# ------------------------------------------------------------------ all of them

LOSSES: dict[str, Any] = {
    "hidden_cosine": lambda s, t, lengths: hidden_cosine([s, s], [t, t]),
    "hidden_mse": lambda s, t, lengths: hidden_mse([s, s], [t, t]),
    "pooled": pooled_cosine,
    "pooled_mse": pooled_mse,
    "relations": lambda s, t, lengths: relation_divergence((s, s), (t, t), lengths, HEADS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_differ_by_nothing_and_others_do(name: str) -> None:
    states, others = draw(TOKENS, H), draw(TOKENS, H, seed=1)
    assert LOSSES[name](states, states, LENGTHS).sum.item() == pytest.approx(0.0, abs=1e-12)
    assert LOSSES[name](states, others, LENGTHS).mean().item() > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_no_token_is_zero_with_zero_gradient(name: str) -> None:
    states = draw(0, H).requires_grad_()
    found = LOSSES[name](states, draw(0, H), ())
    assert (found.sum.item(), found.mean().item(), found.items) == (0.0, 0.0, 0)
    assert torch.autograd.grad(found.sum, states)[0].shape == (0, H)


@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up(name: str) -> None:
    """Sums of sequences 0 to 1 and 2 to 3 are those of all four, and so are gradients."""
    states, others = draw(TOKENS, H).requires_grad_(), draw(TOKENS, H, seed=1)
    whole = LOSSES[name](states, others, LENGTHS)
    cut = sum(LENGTHS[:2])
    parts = [
        LOSSES[name](states[:cut], others[:cut], LENGTHS[:2]),
        LOSSES[name](states[cut:], others[cut:], LENGTHS[2:]),
    ]
    total = parts[0].sum + parts[1].sum
    torch.testing.assert_close(total, whole.sum, **EXACT)
    assert parts[0].items + parts[1].items == whole.items
    one, other = (torch.autograd.grad(loss, states)[0] for loss in (total, whole.sum))
    torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_widened_first(name: str, dtype: torch.dtype, autocast: bool) -> None:
    states = draw(TOKENS, H).to(dtype).requires_grad_()
    others = draw(TOKENS, H, seed=1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = LOSSES[name](states, others, LENGTHS)
    assert found.sum.dtype == torch.float32
    exact = LOSSES[name](states.detach().double(), others.double(), LENGTHS)
    torch.testing.assert_close(found.sum.double(), exact.sum, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(found.sum, states)[0].dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hidden_mse([], []), "of 0 layers, the teacher's of 0"),
        (lambda: hidden_cosine([draw(2, H)], [draw(2, H)] * 2), "of 1 layer, the teacher's of 2"),
        (lambda: hidden_mse([draw(2, H)], [draw(2, WIDER)]), "(2, 6), targets (2, 12)"),
        (lambda: mean_pool(draw(5, H), (2, 2)), "[2, 2]: expected numbers of at least 1"),
        (lambda: mean_pool(draw(5, H), (5, 0)), "[5, 0]: expected"),
        (lambda: relation_divergence(pair(H, 1), pair(H, 2), (3, 3), 2), "sum to 14, "),
        (lambda: relation_divergence(pair(H, 1), pair(H, 2), LENGTHS, 4), "the student's width"),
        (
            lambda: relation_divergence(pair(8, 1), pair(H, 2), LENGTHS, 4),
            "heads is 4, which does not divide the teacher's width of 6",
        ),
        (lambda: relation_divergence(pair(H, 1), pair(H, 2, 3), LENGTHS, 2), "the teacher 3"),
        (
            lambda: relation_divergence((draw(14, H), draw(14, 8)), pair(H, 2), LENGTHS, 2),
            "The student's relation is of (14, 6) and (14, 8)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)
