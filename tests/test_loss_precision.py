"""Losses of 16-bit logits are those of the same logits in float32; float64 stays float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.losses.distillation import DistillationLoss, States, distillation_terms
from minilm.losses.heads import sequence_loss, span_loss, token_loss
from minilm.losses.precision import at_least_float32
from minilm.losses.soft_targets import Kind, label_loss, soft_target_loss
from minilm.losses.vocabulary import LogitInputs, fused_vocab_losses, masked_scores

N, C = 6, 4
HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32, torch.float64)
CLASSES = torch.tensor([0, 3, -100, 1, 2, 2])
LABELLED = CLASSES.clamp(min=0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Numbers that every dtype can hold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).bfloat16().half().double()


def distillation(term: str) -> Callable[[Tensor], Tensor]:
    """A term of the pure function; `cosine` compares states."""

    def loss(values: Tensor) -> Tensor:
        teacher = draw(N, C, seed=1).to(values.dtype)
        terms = distillation_terms(values, teacher, CLASSES, values, teacher)
        found: Tensor = getattr(terms, term)
        return found

    return loss


def labels_of(kind: Kind) -> Callable[[Tensor], Tensor]:
    targets = {"classes": LABELLED, "independent": draw(N, C).sigmoid(), "value": draw(N)}
    width = 1 if kind == "value" else C
    weights = None if kind == "value" else torch.arange(1.0, C + 1)
    return lambda logits: label_loss(kind, logits[:, :width], targets[kind], weights).sum


def soft(kind: Kind) -> Callable[[Tensor], Tensor]:
    width = 1 if kind == "value" else C
    teacher = draw(N, width, seed=1)
    return lambda logits: (
        soft_target_loss(kind, logits[:, :width], teacher.to(logits.dtype), temperature=2.0).sum
    )


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "token": lambda logits: token_loss(logits, CLASSES),
    "sequence classes": lambda logits: sequence_loss(logits, LABELLED),
    "regression": lambda logits: sequence_loss(logits, draw(N, C, seed=1), "regression"),
    "several labels": lambda logits: sequence_loss(logits, draw(N, C, seed=1).sigmoid()),
    "span": lambda logits: span_loss(logits, 2 * logits, LABELLED, LABELLED.flip(0)),
    **{f"labels {kind}": labels_of(kind) for kind in ("classes", "independent", "value")},
    **{f"soft {kind}": soft(kind) for kind in ("classes", "independent", "value")},
    **{f"distillation {term}": distillation(term) for term in ("kl", "mlm", "cosine", "mse")},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_at_least_float32_and_its_gradient_as_its_logits(
    name: str, dtype: torch.dtype
) -> None:
    exact_logits = draw(N, C, seed=3).requires_grad_()
    exact = LOSSES[name](exact_logits)
    logits = exact_logits.detach().to(dtype).requires_grad_()
    loss = LOSSES[name](logits)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), exact, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(exact, exact_logits)
    assert gradient.dtype == dtype
    rounding = max(tolerance, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient.double(), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", HALF)
def test_a_term_with_nothing_to_look_at_is_float32_too(dtype: torch.dtype) -> None:
    logits = draw(N, C).to(dtype)
    terms = distillation_terms(logits, logits, torch.full((N,), -100), positions="masked")
    for value in (terms.kl, terms.mlm, terms.cosine, terms.mse):
        assert (value.dtype, value.item()) == (torch.float32, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_helper_widens_and_never_narrows(dtype: torch.dtype) -> None:
    values = draw(3).to(dtype).requires_grad_()
    wide = at_least_float32(values)
    assert wide.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(wide.double(), draw(3))
    assert (wide is values) == (dtype not in HALF)
    (gradient,) = torch.autograd.grad(wide.sum(), values)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("count", [6_300, 16_384, 70_000])
def test_many_labels_are_neither_infinite_nor_rounded(count: int, dtype: torch.dtype) -> None:
    """Each of the labels costs about 10.4, as 30522 words do before training."""
    logits = draw(count, 3, seed=4)
    logits[:, 0] -= 10
    labels = torch.zeros(count, dtype=torch.int64)
    low = logits.to(dtype)
    expected = F.cross_entropy(low.double(), labels)
    assert expected > 10
    for loss in (
        token_loss(low, labels),
        sequence_loss(low, labels),
        span_loss(low, low, labels, labels),
        label_loss("classes", low, labels).mean(),
        distillation_terms(low, low, labels).mlm,
    ):
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_smallest_number_of_each_dtype_stands_where_nothing_is(
    dtype: torch.dtype, temperature: float
) -> None:
    student, teacher = draw(3, C).to(dtype), draw(3, C, seed=1).to(dtype)
    nothing = torch.full((3, 2), torch.finfo(dtype).min, dtype=dtype)
    wide = torch.cat([student, nothing], 1).requires_grad_()
    loss = soft_target_loss("classes", wide, torch.cat([teacher, nothing], 1), temperature).sum
    expected = soft_target_loss("classes", student, teacher, temperature).sum
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss, wide)
    assert gradient.isfinite().all()
    assert not gradient[:, C:].any()


# --- vocabulary logits that are never all there ---

ROWS, WORDS, WIDTH = 40, 50, 8
NEAR: dict[str, Any] = {"rtol": 2e-3, "atol": 0}
FACTORS: dict[str, dict[str, float]] = {
    "kl": {"kl": 1.0, "temperature": 2.0},
    "mlm": {"mlm": 1.0},
    "mse": {"mse": 1.0},
    "all": {"kl": 5.0, "mlm": 2.0, "mse": 0.01, "temperature": 3.0},
}


def inputs(dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> LogitInputs:
    shapes = ((ROWS, WIDTH), (WORDS, WIDTH), (WORDS,))
    parts = (draw(*shape, seed=seed + i) * scale for i, shape in enumerate(shapes))
    return LogitInputs(*(part.to(dtype).requires_grad_(seed == 0) for part in parts))


def leaves(student: LogitInputs) -> list[Tensor]:
    return [student.rows, student.matrix, student.bias]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("count", [1, 2048, 10**7])
@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("autocast", [True, False])
def test_float16_products_do_not_round_divided_gradients(
    autocast: bool, kind: str, count: int
) -> None:
    """As with a gradient scaler, whose scale is the count here.

    What is left is the rounding of float16 products and logits; dividing first would leave no digit
    at the largest count.
    """
    dtype = torch.float32 if autocast else torch.float16
    labels = torch.arange(ROWS) % WORDS
    factors = FACTORS[kind] | {
        name: value / count for name, value in FACTORS[kind].items() if name != "temperature"
    }
    student, teacher = inputs(dtype), inputs(dtype, seed=7)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        total = fused_vocab_losses(
            student, teacher, labels, **factors, chunk_bytes=7 * WORDS * 2
        ).total
    gradients = torch.autograd.grad(total * count, leaves(student))
    exact = inputs(torch.float64)
    whole = fused_vocab_losses(exact, inputs(torch.float64, seed=7), labels, **FACTORS[kind]).total
    assert total.dtype == torch.float32
    for found, expected in zip(gradients, torch.autograd.grad(whole, leaves(exact)), strict=True):
        assert found.dtype == dtype
        assert relative(found, expected) < 4e-3


@pytest.mark.parametrize("scale", [2.0**8, 2.0**16])
@pytest.mark.parametrize("kind", ["kl", "mlm"])
def test_float16_is_as_exact_as_plain_autograd_with_a_scaler(kind: str, scale: float) -> None:
    count = 2048
    labels = torch.arange(ROWS) % WORDS
    temperature = FACTORS[kind].get("temperature", 1.0)
    teacher = inputs(torch.float16, seed=7)

    def plain(student: LogitInputs, teacher: LogitInputs) -> Tensor:
        s, t = (at_least_float32(F.linear(x.rows, x.matrix, x.bias)) for x in (student, teacher))
        if kind == "mlm":
            return F.cross_entropy(s, labels, reduction="sum") / count
        s, t = ((x / temperature).log_softmax(-1) for x in (s, t))
        divergence = F.kl_div(s, t, reduction="sum", log_target=True)
        return divergence * temperature**2 / count

    exact = inputs(torch.float64)
    expected = torch.autograd.grad(plain(exact, inputs(torch.float64, seed=7)), leaves(exact))
    errors = []
    for loss in (
        lambda student: plain(student, teacher),
        lambda student: (
            fused_vocab_losses(
                student, teacher, labels, **{kind: 1 / count}, temperature=temperature
            ).total
        ),
    ):
        student = inputs(torch.float16)
        gradients = torch.autograd.grad(loss(student) * scale, leaves(student))
        errors.append([relative(g / scale, e) for g, e in zip(gradients, expected, strict=True)])
    for theirs, ours in zip(*errors, strict=True):
        assert ours < 1.5 * theirs + 1e-4


def test_sums_over_many_rows_do_not_overflow_float16() -> None:
    """One word is the label of all rows; their sum is beyond float16, their mean is not."""
    count = 20_000
    rows = torch.full((count, 2), 8.0).half().requires_grad_()
    matrix = torch.zeros(3, 2).half().requires_grad_()
    student = LogitInputs(rows, matrix, torch.zeros(3).half().requires_grad_())
    labels = torch.ones(count, dtype=torch.int64)
    loss = fused_vocab_losses(student, labels=labels, mlm=1 / count).total
    gradients: Any = torch.autograd.grad(loss, [matrix, student.bias])
    expected = torch.tensor([1, -2, 1]) / 3
    torch.testing.assert_close(gradients[0].float(), 8 * expected[:, None].repeat(1, 2), **NEAR)
    torch.testing.assert_close(gradients[1].float(), expected, **NEAR)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vocabulary_losses_are_at_least_float32(dtype: torch.dtype) -> None:
    student, teacher = inputs(dtype, scale=0.5), inputs(dtype, seed=7, scale=0.5)
    labels = torch.arange(ROWS) % WORDS
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sums = fused_vocab_losses(student, teacher, labels, kl=1.0, mlm=1.0, mse=1.0)
    loss, _ = masked_scores(student, labels)
    assert {x.dtype for x in (sums.total, sums.kl, sums.mlm, sums.mse, loss)} == {wide}
    logits = F.linear(student.rows.double(), student.matrix.double(), student.bias.double())
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(sums.mlm.double(), expected, rtol=5e-3, atol=0)
    torch.testing.assert_close(loss, sums.mlm, rtol=1e-6, atol=0)
    states = [States(x.rows, lambda rows: rows, x.matrix, x.bias) for x in (student, teacher)]
    terms = DistillationLoss(mse=0.1)(*states, labels)
    assert {value.dtype for value in terms.values()} == {wide}
    terms["loss"].backward()
    assert {None if x.grad is None else x.grad.dtype for x in leaves(student)} == {dtype}
