"""Labels of a loss have the shape and dtype it documents, or are refused by name."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from minilm.errors import InputError
from minilm.losses.distillation import distillation_terms
from minilm.losses.heads import problem_type, sequence_loss, span_loss, token_loss
from minilm.losses.soft_targets import Kind, label_loss, soft_target_loss
from tiny import tiny

NUMBERS = ("regression", "multi_label_classification")
KINDS = (*NUMBERS, "single_label_classification")


def theirs(logits: Tensor, labels: Tensor, kind: str | None) -> Tensor:
    config = SimpleNamespace(num_labels=logits.shape[-1], problem_type=kind)
    loss: Tensor = ForSequenceClassificationLoss(labels, logits, config)
    return loss


def logits_of(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def labels_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def fits(kind: str, shape: tuple[int, ...], labels: Tensor) -> bool:
    """What is documented."""
    if kind == "single_label_classification":
        return tuple(labels.shape) == shape[:1] and labels.dtype == torch.int64
    return tuple(labels.shape) in ([shape, shape[:1]] if shape[1] == 1 else [shape])


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 4),
    classes=st.integers(1, 4),
    shape=shapes,
    dtype=dtypes,
)
def test_sequence_labels_fit_or_are_refused(
    kind: str, rows: int, classes: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    logits, labels = logits_of(rows, classes), labels_of(shape, dtype)
    if kind == "single_label_classification":
        labels = labels.clamp(max=classes - 1) if dtype != torch.bool else labels
    if fits(kind, (rows, classes), labels):
        target = labels if kind == "single_label_classification" else labels.double()
        expected = theirs(logits, target.reshape(rows, -1) if kind in NUMBERS else target, kind)
        torch.testing.assert_close(sequence_loss(logits, labels, kind), expected)
        return
    with pytest.raises(InputError) as caught:
        sequence_loss(logits, labels, kind)
    message = str(caught.value)
    assert f"labels of a {kind} problem: expected ({rows},{f' {classes})' * (kind in NUMBERS)}" in (
        message
    )
    assert f"got {tuple(labels.shape)} {dtype}" in message


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("shape", [(3, 4), (12,), (1, 12), (12, 1), (4, 3, 1), (2, 6), (3, 2, 2)])
def test_as_many_labels_of_another_shape_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    """Reshaped, each would train on some other output's target."""
    with pytest.raises(InputError, match=r"expected \(4, 3\) numbers, got"):
        sequence_loss(logits_of(4, 3), torch.rand(shape), kind)
    with pytest.raises(InputError):
        sequence_loss(logits_of(4, 3), torch.rand(shape))


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_one_number_for_each_sequence(shape: tuple[int, ...]) -> None:
    logits = logits_of(5, 1)
    labels = torch.arange(5.0).reshape(shape)
    expected = (logits[:, 0] - torch.arange(5.0)).square().mean()
    torch.testing.assert_close(sequence_loss(logits, labels), expected)
    torch.testing.assert_close(sequence_loss(logits, labels.long()), expected)
    with pytest.raises(InputError, match=r"expected \(5, 1\) or \(5,\) numbers, got \(1, 5\)"):
        sequence_loss(logits, labels.reshape(1, 5))


@pytest.mark.parametrize(
    ("classes", "dtype", "kind"),
    [
        (1, torch.int64, "regression"),
        (1, torch.float32, "regression"),
        (3, torch.int64, "single_label_classification"),
        (3, torch.float32, "multi_label_classification"),
        (3, torch.bool, "multi_label_classification"),
    ],
)
def test_the_problem_is_guessed_as_transformers_does(
    classes: int, dtype: torch.dtype, kind: str
) -> None:
    logits = logits_of(4, classes)
    shape = (4,) if kind == "single_label_classification" else (4, classes)
    labels = labels_of(shape, dtype)
    assert problem_type(None, logits, labels) == kind
    config = SimpleNamespace(num_labels=classes, problem_type=None)
    comparable = labels.double() if dtype == torch.bool else labels
    expected = ForSequenceClassificationLoss(comparable, logits, config)
    assert config.problem_type == kind
    torch.testing.assert_close(sequence_loss(logits, labels), expected, check_dtype=False)


@pytest.mark.parametrize("wrong", [-100.0, 1.5, -0.1, torch.nan])
def test_several_labels_are_numbers_from_0_to_1(wrong: float) -> None:
    model = tiny("BertForSequenceClassification", num_labels=3)
    ids = torch.tensor([[5, 6, 7], [6, 7, 8]])
    for right in (torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]]), torch.ones(2, 3).bool()):
        assert model(ids, labels=right).loss.isfinite()
    labels = torch.zeros(2, 3)
    labels[1, 2] = wrong
    with pytest.raises(InputError, match=r"expected numbers in \[0, 1\], one for each label"):
        model(ids, labels=labels)


def test_an_unknown_problem_is_refused() -> None:
    with pytest.raises(InputError, match="problem_type is 'multi': expected one of regression, si"):
        sequence_loss(logits_of(4, 3), torch.rand(4, 3), "multi")


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), (1, 6), ()])
def test_token_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    logits, labels = logits_of(2, 3, 5), torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(InputError, match=r"labels: expected \(2, 3\) int64, got"):
        token_loss(logits, labels)
    with pytest.raises(InputError, match=r"labels: expected \(2, 3\) int64, got"):
        distillation_terms(logits, logits, labels)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float32, torch.bool])
def test_classes_of_another_dtype_are_refused(dtype: torch.dtype) -> None:
    logits, labels = logits_of(2, 3, 5), torch.zeros(2, 3, dtype=dtype)
    for refuse in (
        lambda: token_loss(logits, labels),
        lambda: distillation_terms(logits, logits, labels),
        lambda: span_loss(logits[..., 0], logits[..., 1], labels[:, 0], labels[:, 0]),
        lambda: sequence_loss(logits[0], labels[0], "single_label_classification"),
    ):
        with pytest.raises(InputError, match=f"int64, got .* {dtype}"):
            refuse()


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (3,), (5,), ()])
def test_positions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    logits, right = logits_of(4, 7), torch.zeros(4, dtype=torch.int64)
    wrong = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(InputError, match=r"start: expected \(4,\) int64"):
        span_loss(logits, logits, wrong, right)
    with pytest.raises(InputError, match=r"end: expected \(4,\) int64"):
        span_loss(logits, logits, right, wrong)


@pytest.mark.parametrize("kind", ["classes", "independent", "value"])
def test_task_labels_and_teachers_of_another_shape_are_refused(kind: Kind) -> None:
    """(N, 1) against (N,) would be broadcast to (N, N)."""
    logits = logits_of(4, 1 if kind == "value" else 4)
    shapes: list[tuple[int, ...]] = [(4, 1), (1, 4), (1,), (5,), (4, 4, 1)]
    if kind == "independent":
        shapes.append((4,))
    for shape in shapes:
        labels: Any = torch.zeros(shape, dtype=torch.int64 if kind == "classes" else torch.float32)
        with pytest.raises(InputError, match="labels(: expected| has shape)"):
            label_loss(kind, logits, labels)
    for teacher in (logits[0], logits[:1], logits[:, 0], logits[..., None], logits_of(4, 3)):
        with pytest.raises(InputError, match="student has shape .* teacher"):
            soft_target_loss(kind, logits, teacher, 1.0)


@pytest.mark.parametrize("kind", NUMBERS)
def test_the_model_refuses_turned_labels(kind: str) -> None:
    model = tiny("BertForSequenceClassification", num_labels=3, problem_type=kind)
    ids = torch.randint(1, 60, (4, 6), generator=torch.Generator().manual_seed(1))
    labels = torch.rand(4, 3)
    loss = model(ids, labels=labels).loss
    assert loss is not None
    with pytest.raises(InputError, match=r"expected \(4, 3\) numbers, got \(3, 4\)"):
        model(ids, labels=labels.T)
