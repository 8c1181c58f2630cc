"""opacus: the gradient of every example of a padded batch is that of the example alone."""

from __future__ import annotations

from typing import Any

import opacus
import pytest
import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleModule
from torch import Tensor

from minilm.models.pretrained import PretrainedModel
from tiny import ragged, tiny
from twins import NO_DROPOUT, STEMS, arguments

HEADS = ("ForSequenceClassification", "ForTokenClassification")
CLASSES = [f"{stem}{head}" for stem in STEMS for head in HEADS]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def private(class_name: str) -> PretrainedModel:
    model = tiny(class_name, **NO_DROPOUT).train()
    model.layout = "padded"
    return model


def labelled(class_name: str, padded: bool) -> tuple[dict[str, Tensor], Tensor]:
    """A batch of five texts, and a label each or one for every attended token."""
    batch = arguments(class_name, ragged((7, 3, 1, 7, 5) if padded else (4,) * 5))
    labels = batch["input_ids"] % 2
    if "Sequence" in class_name:
        return batch, labels[:, 0]
    return batch, labels.masked_fill(batch["attention_mask"] == 0, -100)


def total_loss(model: Any, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
    logits = model(**batch).logits
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")


def one_by_one(model: Any, batch: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """What every row alone gives: (B, ...) for each parameter."""
    rows: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(labels)):
        model.zero_grad()
        row = {name: value[i : i + 1] for name, value in batch.items()}
        total_loss(model, row, labels[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            rows[name].append(gradient.clone())
    model.zero_grad()
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("class_name", CLASSES)
def test_gradients_of_examples_equal_a_loop(class_name: str, padded: bool) -> None:
    """Of every parameter, tables of words, positions and segments among them."""
    model = private(class_name)
    batch, labels = labelled(class_name, padded)
    expected = one_by_one(model, batch, labels)
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=True)
    total_loss(wrapped, batch, labels).backward()
    names = {name.removeprefix("_module.") for name, _ in wrapped.named_parameters()}
    assert names == set(expected)
    for name, parameter in wrapped.named_parameters():
        found = parameter.grad_sample
        assert found is not None, name
        assert found.shape == (5, *parameter.shape), name
        torch.testing.assert_close(
            found, expected[name.removeprefix("_module.")], msg=name, **EXACT
        )


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("stem", ["Bert", "Albert"])
def test_segments_left_out_are_an_example_of_the_first(stem: str, types: bool) -> None:
    """The table of segments gets the gradient of every example, given or not."""
    model = private(f"{stem}ForSequenceClassification")
    batch, labels = labelled(f"{stem}ForSequenceClassification", True)
    batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
    if not types:
        del batch["token_type_ids"]
    expected = one_by_one(model, batch, labels)
    wrapped = GradSampleModule(model, loss_reduction="sum")
    total_loss(wrapped, batch, labels).backward()
    table = model.base.embeddings.token_type.weight
    torch.testing.assert_close(
        table.grad_sample, expected["encoder.embeddings.token_type.weight"], **EXACT
    )


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_private_step_clips_every_example(class_name: str) -> None:
    """Without noise, the engine's step is that of gradients clipped by hand."""
    model = private(class_name)
    batch, labels = labelled(class_name, True)
    rows = one_by_one(model, batch, labels)
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in rows.values()]).norm(dim=0)
    bound = float(norms.min()) * 0.9
    factors = bound / norms
    start = {name: value.detach().clone() for name, value in model.named_parameters()}

    examples = [
        ({name: value[i] for name, value in batch.items()}, labels[i]) for i in range(len(labels))
    ]
    loader = torch.utils.data.DataLoader(examples, batch_size=5)
    engine = opacus.PrivacyEngine()
    wrapped, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=loader,
        noise_multiplier=0.0,
        max_grad_norm=bound,
        poisson_sampling=False,
        loss_reduction="sum",
    )
    for inputs, targets in loader:
        total_loss(wrapped, inputs, targets).backward()
        optimizer.step()
    assert float(factors.max()) < 1
    for name, value in model.named_parameters():
        clipped = torch.einsum("b,b...->...", factors, rows[name])
        torch.testing.assert_close(
            value.detach(), start[name] - 0.1 * clipped, rtol=1e-5, atol=1e-6, msg=name
        )
