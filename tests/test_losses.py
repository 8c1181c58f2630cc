"""Every loss once: sums and counts, against torch's means, and with derivatives by hand."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minilm
from minilm.errors import InputError
from minilm.losses import derivatives, elementary
from minilm.losses.elementary import LossSum
from minilm.losses.heads import sequence_loss, token_loss
from minilm.losses.soft_targets import Kind, label_loss, soft_target_loss

N, C = 7, 5
LABELS = torch.tensor([0, -100, 4, 2, -100, 1, 3])


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


LOGITS, OTHERS = draw(N, C), draw(N, C, seed=1)
SHARES = OTHERS.sigmoid()

SUMS: dict[str, tuple[Callable[[], LossSum], Callable[[], Tensor], int]] = {
    "cross-entropy": (
        lambda: elementary.cross_entropy(LOGITS, LABELS),
        lambda: F.cross_entropy(LOGITS, LABELS),
        5,
    ),
    "binary cross-entropy": (
        lambda: elementary.binary_cross_entropy(LOGITS, SHARES),
        lambda: F.binary_cross_entropy_with_logits(LOGITS, SHARES),
        N * C,
    ),
    "squared error": (
        lambda: elementary.squared_error(LOGITS, OTHERS),
        lambda: F.mse_loss(LOGITS, OTHERS),
        N * C,
    ),
    "KL": (
        lambda: elementary.kl_divergence(LOGITS, OTHERS, 3.0),
        lambda: (
            9
            * F.kl_div(
                (LOGITS / 3).log_softmax(-1), (OTHERS / 3).softmax(-1), reduction="batchmean"
            )
        ),
        N,
    ),
    "binary KL": (
        lambda: elementary.binary_kl_divergence(LOGITS, OTHERS, 3.0),
        lambda: (
            9
            * F.kl_div(
                two_classes(LOGITS / 3).log_softmax(-1),
                two_classes(OTHERS / 3).softmax(-1),
                reduction="batchmean",
            )
        ),
        N * C,
    ),
    "cosine": (
        lambda: elementary.cosine_distance(LOGITS, OTHERS),
        lambda: F.cosine_embedding_loss(LOGITS, OTHERS, torch.ones(N, dtype=torch.float64)),
        N,
    ),
}


def two_classes(logits: Tensor) -> Tensor:
    """A label yes or no as two classes, (N * C, 2)."""
    return torch.stack([logits, torch.zeros_like(logits)], -1).flatten(0, 1)


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_its_items_is_torchs_mean(name: str) -> None:
    ours, theirs, items = SUMS[name]
    found = ours()
    assert int(found.items) == items
    torch.testing.assert_close(found.mean(), theirs())
    torch.testing.assert_close(found.sum / items, theirs())


NOTHING: dict[str, Callable[[Tensor], LossSum]] = {
    "no rows": lambda x: elementary.cross_entropy(x[:0], LABELS[:0]),
    "no labels": lambda x: elementary.cross_entropy(x, torch.full((N,), -100)),
    "binary": lambda x: elementary.binary_cross_entropy(x[:0], SHARES[:0]),
    "squared": lambda x: elementary.squared_error(x[:0], OTHERS[:0]),
    "KL": lambda x: elementary.kl_divergence(x[:0], OTHERS[:0]),
    "binary KL": lambda x: elementary.binary_kl_divergence(x[:0], OTHERS[:0]),
    "cosine": lambda x: elementary.cosine_distance(x[:0], OTHERS[:0]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_compare_is_zero_with_zero_gradient(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    found = NOTHING[name](logits)
    assert (int(found.items), found.sum.item(), found.mean().item()) == (0, 0, 0)
    (gradient,) = torch.autograd.grad(found.mean(), logits)
    assert not gradient.any()


@pytest.mark.parametrize(
    "compare",
    [
        elementary.binary_cross_entropy,
        elementary.squared_error,
        elementary.kl_divergence,
        elementary.binary_kl_divergence,
        elementary.cosine_distance,
    ],
)
@pytest.mark.parametrize("shape", [(C,), (1, C), (N, 1), (C, N), (N, C, 1)])
def test_nothing_is_broadcast(
    compare: Callable[[Tensor, Tensor], LossSum], shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="must be equal"):
        compare(LOGITS, torch.zeros(shape))


def test_weights_change_the_sum_and_not_the_count() -> None:
    weights = torch.arange(1.0, C + 1)
    found = elementary.cross_entropy(LOGITS, LABELS, weights)
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(found.sum, (each * weights[LABELS.clamp(min=0)].double()).sum())
    assert int(found.items) == 5
    positive = elementary.binary_cross_entropy(LOGITS, torch.ones(N, C), weights)
    torch.testing.assert_close(positive.sum, -(weights.double() * F.logsigmoid(LOGITS)).sum())


@pytest.mark.parametrize("kind", ["classes", "independent", "value"])
def test_a_models_mean_is_the_engines_sum_over_its_predictions(kind: Kind) -> None:
    logits = LOGITS[:, :1] if kind == "value" else LOGITS
    labels = {"classes": LABELS.clamp(min=0), "independent": SHARES, "value": OTHERS[:, 0]}[kind]
    problem = {
        "classes": "single_label_classification",
        "independent": "multi_label_classification",
        "value": "regression",
    }[kind]
    found = label_loss(kind, logits, labels)
    assert int(found.items) == N
    torch.testing.assert_close(found.sum / N, sequence_loss(logits, labels, problem))
    taught = soft_target_loss(kind, logits, OTHERS[:, : logits.shape[1]], 2.0)
    assert (taught.items, taught.sum.item() > 0) == (N, True)


def test_the_loss_of_token_labels_is_the_mean_cross_entropy() -> None:
    rows = LOGITS.reshape(1, N, C)
    expected = elementary.cross_entropy(LOGITS, LABELS).mean()
    assert torch.equal(token_loss(rows, LABELS[None]), expected)


# --- derivatives by hand ---


def by_hand(name: str, logits: Tensor, factor: float | None, gradient: Tensor | None) -> Tensor:
    """The value of one term; adds to the gradient in place."""
    if name == "kl":
        value, found = derivatives.add_kl_divergence(logits, OTHERS, 2.5, factor, gradient)
    elif name == "mse":
        value, found = derivatives.add_squared_error(logits, OTHERS, factor, gradient)
    else:
        value, found = derivatives.add_cross_entropy(logits, LABELS, factor, gradient)
    if gradient is not None:
        assert found is gradient
    return value if factor is None else torch.cat([value[None], found.flatten()])  # type: ignore[union-attr]


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda x: elementary.kl_divergence(x, OTHERS, 2.5).sum,
    "mse": lambda x: elementary.squared_error(x, OTHERS).sum,
    "mlm": lambda x: elementary.cross_entropy(x, LABELS).sum,
}


@pytest.mark.parametrize("name", PLAIN)
def test_derivatives_by_hand_are_those_of_the_plain_losses(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    value = PLAIN[name](logits)
    (slope,) = torch.autograd.grad(value, logits)
    for before in (None, draw(N, C, seed=4)):
        kept = None if before is None else before.clone()
        found = by_hand(name, LOGITS.clone(), 0.7, kept)
        start = 0 if before is None else before
        torch.testing.assert_close(found[0], value.detach())
        torch.testing.assert_close(found[1:].reshape(N, C), start + 0.7 * slope)
    torch.testing.assert_close(by_hand(name, LOGITS.clone(), None, None), value.detach())


def test_every_loss_is_written_once() -> None:
    """torch's losses are called in elementary.py alone; the benchmark's baselines are others'."""
    losses = {
        "cross_entropy",
        "binary_cross_entropy_with_logits",
        "mse_loss",
        "kl_div",
        "cosine_similarity",
    }
    package = Path(minilm.__file__).parent
    callers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in losses:
                callers.add(path.relative_to(package).parts)
    assert {parts for parts in callers if parts[0] not in ("bench", "parity")} == {
        ("losses", "elementary.py")
    }
