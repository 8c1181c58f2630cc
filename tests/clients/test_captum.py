"""captum: attributions on padded batches are those on the transformers model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerConductance,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from torch import Tensor

from tiny import ragged
from twins import STEMS, arguments, counterparts, twins

LAYER_METHODS = {
    "integrated gradients": lambda forward, layer: LayerIntegratedGradients(forward, layer),
    "conductance": lambda forward, layer: LayerConductance(forward, layer),
}
PLACES = ("embeddings.word", "embeddings.norm", "attention.value", "feed_forward.output", "layer")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def places(stem: str, place: str) -> tuple[Any, Any, Any, Any]:
    """Both models and a module of each; of the last layer, where layers have one."""
    ours, theirs = twins(f"{stem}ForSequenceClassification")
    pairs = counterparts(ours, theirs)
    layer = list(ours.base.virtual_layers())[-1]
    name = next(name for name, module in ours.named_modules() if module is layer)
    if place.startswith("embeddings"):
        name = f"encoder.{place}"
    elif place != "layer":
        name = f"{name}.{place}"
    return ours, theirs, *pairs[name]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stem", STEMS)
def test_layer_integrated_gradients_on_a_padded_batch(stem: str, place: str) -> None:
    ours, theirs, own_layer, other_layer = places(stem, place)
    batch = arguments(stem, ragged())
    ids = batch.pop("input_ids")
    mask = batch["attention_mask"].bool()
    found, expected = (
        _integrated(model, layer, ids, batch)
        for model, layer in ((ours, own_layer), (theirs, other_layer))
    )
    assert found.shape == expected.shape
    assert found.shape[:2] == ids.shape
    torch.testing.assert_close(found[mask], expected[mask], **EXACT)
    assert float(found[mask].abs().max()) > 1e-4


def _integrated(model: Any, layer: Any, ids: Tensor, others: dict[str, Tensor]) -> Tensor:
    names = list(others)

    def score(ids: Tensor, *values: Tensor) -> Tensor:
        logits: Tensor = model(ids, **dict(zip(names, values, strict=True))).logits
        return logits[:, 1]

    result = LayerIntegratedGradients(score, layer).attribute(
        ids,
        baselines=torch.ones_like(ids),
        additional_forward_args=tuple(others.values()),
        n_steps=8,
    )
    value: Tensor = result[0] if isinstance(result, tuple) else result
    return value


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("place", ["feed_forward.output", "layer"])
def test_activations_and_gradients_of_a_layer(stem: str, place: str) -> None:
    ours, theirs, own_layer, other_layer = places(stem, place)
    batch = arguments(stem, ragged())
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for method in (LayerActivation, LayerGradientXActivation):
        results = []
        for model, layer in ((ours, own_layer), (theirs, other_layer)):

            def score(ids: Tensor, mask: Tensor, model: Any = model) -> Tensor:
                logits: Tensor = model(ids, mask).logits
                return logits[:, 0]

            value = method(score, layer).attribute(ids, additional_forward_args=(mask,))
            results.append(value[0] if isinstance(value, tuple) else value)
        attended = mask.bool()
        torch.testing.assert_close(results[0][attended], results[1][attended], **EXACT)


@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("stem", STEMS)
def test_attribution_to_word_vectors(stem: str, layout: str) -> None:
    """Without a hook the layout does not matter."""
    ours, theirs = twins(f"{stem}ForSequenceClassification")
    ours.layout = layout
    batch = arguments(stem, ragged())
    mask = batch["attention_mask"]
    vectors = ours.get_input_embeddings()(batch["input_ids"]).detach()
    for method in (IntegratedGradients, InputXGradient):
        results = []
        for model in (ours, theirs):

            def score(vectors: Tensor, mask: Tensor, model: Any = model) -> Tensor:
                logits: Tensor = model(inputs_embeds=vectors, attention_mask=mask).logits
                return logits

            options = {"n_steps": 8} if method is IntegratedGradients else {}
            results.append(
                method(score).attribute(
                    vectors, target=1, additional_forward_args=(mask,), **options
                )
            )
        attended = mask.bool()
        torch.testing.assert_close(results[0][attended], results[1][attended], **EXACT)
