"""torch.func on the models: gradients of every example, products with Jacobians and Hessians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

import minilm
from minilm.models.pretrained import PretrainedModel
from tiny import ragged, tiny
from twins import NO_DROPOUT, STEMS, arguments, twins

EXACT = {"rtol": 1e-9, "atol": 1e-9}
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")
CLASSES = [f"{stem}{head}" for stem in STEMS for head in HEADS]


def labelled(class_name: str) -> dict[str, Tensor]:
    """A padded batch with labels, where there is padding none."""
    batch = arguments(class_name, ragged())
    mask = batch["attention_mask"]
    generator = torch.Generator().manual_seed(3)
    shape = mask.shape[:1] if "Sequence" in class_name else mask.shape
    labels = torch.randint(0, 2, shape, generator=generator)
    if "Sequence" not in class_name:
        labels = labels.masked_fill(mask == 0, -100)
    return {**batch, "labels": labels}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_gradients_of_every_example_at_once(class_name: str, mode: str) -> None:
    """`vmap` over a padded batch gives what a loop over its rows gives."""
    model = tiny(class_name, **NO_DROPOUT).train(mode == "train")
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    batch = labelled(class_name)

    def loss(parameters: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        row = {name: value[None] for name, value in row.items()}
        result: Tensor = functional_call(model, parameters, (), row).loss
        return result

    found = vmap(grad(loss), (None, 0))(parameters, batch)
    assert set(found) == set(parameters)
    for row in range(5):
        model.zero_grad()
        model(**{name: value[row : row + 1] for name, value in batch.items()}).loss.backward()
        for name, parameter in model.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found[name][row], expected, msg=name, **EXACT)


@pytest.mark.parametrize("stem", STEMS)
def test_vmap_over_masks_of_one_text(stem: str) -> None:
    """Which tokens matter: every token hidden in turn, in one call."""
    model = tiny(f"{stem}ForSequenceClassification")
    ids = ragged()["input_ids"][:1]
    masks = 1 - torch.eye(7, dtype=torch.int64)
    found = vmap(lambda mask: model(ids, mask[None]).logits[0])(masks)
    expected = torch.cat([model(ids, mask[None]).logits for mask in masks])
    torch.testing.assert_close(found, expected, **EXACT)


def in_both(
    class_name: str, derive: Callable[[Callable[[Tensor], Tensor], Tensor], Any]
) -> tuple[Any, Any]:
    """A derivative by the word vectors of a padded batch: ours and that of transformers."""
    ours, theirs = twins(class_name)
    batch = arguments(class_name, ragged())
    vectors = ours.get_input_embeddings()(batch.pop("input_ids")).detach()
    mask = batch["attention_mask"].bool()
    results = []
    for model in (ours, theirs):

        def score(vectors: Tensor, model: Any = model) -> Tensor:
            logits: Tensor = model(inputs_embeds=vectors, **batch).logits
            return logits if logits.dim() == 2 else logits.masked_fill(~mask[..., None], 0)

        with minilm.attention("explicit"):
            results.append(derive(score, vectors))
    return results[0], results[1]


def direction(like: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


@pytest.mark.parametrize("class_name", CLASSES)
def test_forward_mode(class_name: str) -> None:
    """A product with the Jacobian, by `jvp` and by dual numbers."""

    def derive(score: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        values, tangent = jvp(score, (vectors,), (direction(vectors),))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(vectors, direction(vectors))
            again = torch.autograd.forward_ad.unpack_dual(score(dual)).tangent
        torch.testing.assert_close(again, tangent, **EXACT)
        back = vjp(score, vectors)[1](direction(values, 2))[0]
        expected = (back * direction(vectors)).sum()
        torch.testing.assert_close((tangent * direction(values, 2)).sum(), expected, **EXACT)
        return torch.stack([values, tangent])

    torch.testing.assert_close(*in_both(class_name, derive), **EXACT)


@pytest.mark.parametrize("class_name", CLASSES)
def test_products_with_the_hessian(class_name: str) -> None:
    """Forward over reverse and reverse over reverse."""

    def derive(score: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        def total(vectors: Tensor) -> Tensor:
            return score(vectors).square().sum()

        along = direction(vectors)
        product = jvp(grad(total), (vectors,), (along,))[1]
        leaf = vectors.clone().requires_grad_()
        (slope,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        (again,) = torch.autograd.grad((slope * along).sum(), leaf)
        torch.testing.assert_close(again, product, rtol=1e-8, atol=1e-8)
        assert float(product.abs().max()) > 1e-3
        return product

    torch.testing.assert_close(*in_both(class_name, derive), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stem", STEMS)
def test_a_product_with_the_hessian_of_the_parameters(stem: str) -> None:
    """As influence functions take it: against differences of gradients."""
    model = tiny(f"{stem}ForSequenceClassification")
    batch = labelled(f"{stem}ForSequenceClassification")
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    along = {name: direction(value, 3) for name, value in parameters.items()}

    def slope(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(lambda p: functional_call(model, p, (), batch).loss)(parameters)

    with minilm.attention("explicit"):
        product = jvp(slope, (parameters,), (along,))[1]
        step = 1e-5
        up, down = (
            slope({name: value + sign * step * along[name] for name, value in parameters.items()})
            for sign in (1, -1)
        )
    for name, value in product.items():
        expected = (up[name] - down[name]) / (2 * step)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("stem", STEMS)
def test_jacobians_and_hessians_in_full(stem: str) -> None:
    def derive(score: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        def first(few: Tensor) -> Tensor:
            changed = vectors.clone()
            changed[1, 1, :3] = few
            return score(changed)[1]

        few = vectors[1, 1, :3].clone()
        jacobian = jacrev(first)(few)
        second = hessian(lambda few: first(few)[0])(few)
        torch.testing.assert_close(second, second.T, **EXACT)
        return torch.cat([jacobian, second])

    torch.testing.assert_close(*in_both(f"{stem}ForSequenceClassification", derive), **EXACT)


@pytest.mark.parametrize("stem", STEMS)
def test_an_ensemble_by_vmap_over_parameters(stem: str) -> None:
    models = [tiny(f"{stem}ForTokenClassification") for _ in range(3)]
    for number, model in enumerate(models):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + number / 5)
    stacked, buffers = torch.func.stack_module_state(models)
    batch = arguments(stem, ragged())

    def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(models[0], (parameters, buffers), (), batch).logits
        return logits

    found = vmap(run)(stacked, buffers)
    expected = torch.stack([_logits(model, batch) for model in models])
    torch.testing.assert_close(found, expected, **EXACT)


def _logits(model: PretrainedModel, batch: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits
