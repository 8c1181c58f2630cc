"""The divergence over the likeliest words and one for the rest: brute force, autograd, fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

from minilm.errors import InputError
from minilm.losses.derivatives import add_top_divergence
from minilm.losses.elementary import kl_divergence
from minilm.losses.top_predictions import TopPredictions, top_divergence, top_of_logits
from minilm.losses.vocabulary import LogitInputs, fused_vocab_losses, top_predictions

N, V, E = 7, 13, 5
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)


def brute_force(student: Tensor, teacher: Tensor, top_k: int, temperature: float) -> Tensor:
    """One row after the other, one word after the other."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        p, q = s.softmax(0), t.softmax(0)
        words = sorted(range(len(q)), key=lambda word: -float(q[word]))
        for word in words[:top_k]:
            total = total + q[word] * (q[word] / p[word]).log()
        q_rest, p_rest = q[words[top_k:]].sum(), p[words[top_k:]].sum()
        total = total + q_rest * (q_rest / p_rest).log()
    return total * temperature**2


@settings(max_examples=40, deadline=None)
@given(st.integers(1, V - 1), st.floats(0.5, 4.0), st.integers(0, 99))
def test_against_brute_force_and_the_chain_rule(top_k: int, temperature: float, seed: int) -> None:
    student, teacher = draw(N, V, seed=seed), draw(N, V, seed=seed + 100)
    top = top_of_logits(teacher, top_k, temperature)
    found = top_divergence(student, top).sum
    torch.testing.assert_close(found, brute_force(student, teacher, top_k, temperature), **EXACT)
    # the whole divergence has, besides, how the rest is shared out
    p, q = ((x / temperature).log_softmax(1) for x in (student, teacher))
    p, q = (x.scatter(1, top.words, -torch.inf) for x in (p, q))
    p, q = p.log_softmax(1), q.log_softmax(1)
    of_rest = (q.exp() * torch.where(q.isneginf(), 0, q - p)).sum(1)
    whole = kl_divergence(student, teacher, temperature).sum
    bias = temperature**2 * (top.rest.exp() * of_rest).sum()
    torch.testing.assert_close(found + bias, whole, **EXACT)
    assert found <= whole + 1e-12
    assert float(top_divergence(teacher, top).sum) == pytest.approx(0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, V - 1), st.floats(0.5, 4.0), st.integers(0, 99))
def test_the_written_derivative_is_that_of_autograd(
    top_k: int, temperature: float, seed: int
) -> None:
    student = draw(N, V, seed=seed).requires_grad_()
    top = top_of_logits(draw(N, V, seed=seed + 100), top_k, temperature)
    wanted = top_divergence(student, top).sum
    (derivative,) = torch.autograd.grad(0.3 * wanted, student)
    before = draw(N, V, seed=5)
    value, gradient = add_top_divergence(student.detach(), top, 0.3, before.clone())
    torch.testing.assert_close(value, wanted.detach(), **EXACT)
    assert gradient is not None
    torch.testing.assert_close(gradient - before, derivative, **EXACT)
    value, gradient = add_top_divergence(student.detach(), top, None, None)
    torch.testing.assert_close(value, wanted.detach(), **EXACT)
    assert gradient is None


def test_all_words_but_one_are_all_words() -> None:
    student, teacher = draw(N, V), draw(N, V, seed=1)
    found = top_divergence(student, top_of_logits(teacher, V - 1, 2.0)).sum
    torch.testing.assert_close(found, kl_divergence(student, teacher, 2.0).sum, **EXACT)


def test_a_teacher_that_is_sure_keeps_finite_numbers() -> None:
    """In float32 the rest has a probability of 0, or the student gives it one."""
    teacher = torch.zeros(2, V)
    teacher[:, 3] = torch.tensor([60.0, 300.0])
    student = torch.zeros(2, V)
    student[0, 3], student[1, 4] = 300.0, 200.0
    top = top_of_logits(teacher, 1, 1.0)
    value, gradient = add_top_divergence(student, top, 1.0, None)
    assert gradient is not None
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
    assert float(value) == pytest.approx(200, rel=1e-3)


def test_rounded_numbers_add_up_to_one_again() -> None:
    top = top_of_logits(draw(N, V), 4, 2.0)
    half = TopPredictions(top.log_probabilities.half(), top.words, top.rest.half(), V, 2.0)

    def excess(found: TopPredictions) -> float:
        shares = torch.cat([found.log_probabilities, found.rest[:, None]], 1).double().exp()
        return float((shares.sum(1) - 1).abs().max())

    assert excess(half) > 1e-5
    assert excess(half.to_one()) < 1e-6
    torch.testing.assert_close(half.to_one().rest.double(), top.rest, rtol=0, atol=5e-3)


def inputs_of(seed: int) -> LogitInputs:
    return LogitInputs(*(draw(*shape, seed=seed, scale=1.0) for shape in ((N, E), (V, E), (V,))))


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_in_chunks_it_is_the_same(rows_at_once: int) -> None:
    student, teacher = inputs_of(1), inputs_of(2)
    for tensor in (student.rows, student.matrix, student.bias):
        tensor.requires_grad_()
    labels = torch.tensor([3, -100, 1, -100, -100, 12, 0])
    chunk_bytes = rows_at_once * V * 8
    top = top_predictions(teacher, 4, 2.0, chunk_bytes=chunk_bytes)
    logits = F.linear(teacher.rows, teacher.matrix, teacher.bias)
    whole = top_of_logits(logits, 4, 2.0)
    torch.testing.assert_close(top.log_probabilities, whole.log_probabilities, **EXACT)
    torch.testing.assert_close(top.rest, whole.rest, **EXACT)
    assert torch.equal(top.words, whole.words)
    found = fused_vocab_losses(
        student, top, labels, kl=0.3, mlm=0.7, temperature=2.0, chunk_bytes=chunk_bytes
    )
    own = F.linear(student.rows, student.matrix, student.bias)
    kl = top_divergence(own, top).sum
    mlm = F.cross_entropy(own, labels, reduction="sum")
    torch.testing.assert_close(found.kl, kl.detach(), **EXACT)
    torch.testing.assert_close(found.mlm, mlm.detach(), **EXACT)
    parameters = [student.rows, student.matrix, student.bias]
    ours = torch.autograd.grad(found.total, parameters)
    theirs = torch.autograd.grad(0.3 * kl + 0.7 * mlm, parameters)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, **EXACT)


def test_no_rows_and_wrong_arguments() -> None:
    empty = LogitInputs(draw(0, E), draw(V, E), draw(V))
    top = top_predictions(empty, 4, 2.0)
    assert len(top) == 0
    assert float(fused_vocab_losses(empty, top, kl=1.0, temperature=2.0).kl) == 0
    student = inputs_of(1)
    top = top_predictions(student, 4, 2.0)
    with pytest.raises(InputError, match="temperature 2.*cannot be compared at 1"):
        fused_vocab_losses(student, top, kl=1.0, temperature=1.0)
    with pytest.raises(InputError, match="mse"):
        fused_vocab_losses(student, top, kl=1.0, mse=1.0, temperature=2.0)
    with pytest.raises(InputError, match="7 rows, the teacher 3"):
        fused_vocab_losses(student, top[:3], kl=1.0, temperature=2.0)
    for wrong in (0, V):
        with pytest.raises(InputError, match=f"top_k is {wrong}; expected from 1 to {V - 1}"):
            top_predictions(student, wrong, 2.0)
    with pytest.raises(InputError, match="temperature"):
        top_of_logits(draw(N, V), 3, 0.0)
