"""Under the padded layout a hook on any module sees and does what it does in transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minilm.models.pretrained import PretrainedModel
from tiny import ragged, tiny
from twins import STEMS, arguments, counterparts, state, twins

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")
CLASSES = [f"{stem}{head}" for stem in STEMS for head in HEADS]
LAYERS = 3
EXACT = {"rtol": 0, "atol": 1e-11}


def pair(class_name: str) -> tuple[PretrainedModel, Any, dict[str, Tensor]]:
    """Two models and a padded batch, with ALBERT in two groups."""
    changes = {"num_hidden_groups": 2} if class_name.startswith("Albert") else {}
    ours, theirs = twins(class_name, num_hidden_layers=LAYERS, **changes)
    return ours, theirs, arguments(class_name, ragged())


def attended(values: Tensor, mask: Tensor) -> Tensor:
    """The values that mean something: (B, S, ...) at attended positions, (B, ...) all."""
    return values[mask.bool()] if values.shape[:2] == mask.shape else values


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_module_sees_what_it_sees_in_transformers(class_name: str) -> None:
    """Shapes, order, values and gradients, in every application of every module."""
    ours, theirs, batch = pair(class_name)
    mask = batch["attention_mask"]
    pairs = counterparts(ours, theirs)
    seen: dict[Any, list[Tensor]] = {m: [] for modules in pairs.values() for m in modules}

    def record(module: Any, _: Any, output: Any) -> None:
        state(output).retain_grad()
        seen[module].append(state(output))

    for module in seen:
        module.register_forward_hook(record)
    for model in (ours, theirs):
        # padded positions count for nothing: what a head says there differs
        attended(model(**batch).logits, mask).square().sum().backward()
    assert any(".attention.output" in name for name in pairs)
    for name, (module, other) in pairs.items():
        assert len(seen[module]) == len(seen[other]) > 0, name
        for value, expected in zip(seen[module], seen[other], strict=True):
            if "position" not in name:  # one row for all texts in transformers
                assert value.shape == expected.shape, name
                torch.testing.assert_close(
                    attended(value.grad, mask), attended(expected.grad, mask), rtol=0, atol=1e-9
                )
            expected = expected.expand_as(value)
            torch.testing.assert_close(attended(value, mask), attended(expected, mask), **EXACT)


def harm(values: Tensor) -> Tensor:
    """Zero the second token of every text and one feature of all; shift one token of one text."""
    values = values.clone()
    if values.dim() == 3:
        values[:, 1] = 0
        values[1, 2] += 0.5
    values[..., min(3, values.shape[-1] - 1)] = 0
    return values


class Lesion:
    """A forward hook that acts in one application of its module."""

    def __init__(self, application: int) -> None:
        self.application = application
        self.calls = 0

    def __call__(self, module: Any, _: Any, output: Any) -> Any:
        self.calls += 1
        if self.calls - 1 != self.application:
            return output
        harmed = harm(state(output))
        return (harmed, *output[1:]) if isinstance(output, tuple) else harmed


def logits_with(model: Any, module: Any, application: int, batch: dict[str, Tensor]) -> Tensor:
    lesion = Lesion(application)
    handle = module.register_forward_hook(lesion)
    with torch.no_grad():
        logits = model(**batch).logits
    handle.remove()
    assert lesion.calls > application
    return logits


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_lesion_does_what_it_does_in_transformers(class_name: str) -> None:
    """Every module of every layer, the last included, and every application of a shared one."""
    ours, theirs, batch = pair(class_name)
    mask = batch["attention_mask"]
    whole = attended(ours(**batch).logits, mask)
    layers = list(ours.base.virtual_layers())
    lesions = 0
    for name, (module, other) in counterparts(ours, theirs).items():
        owner = [layer for layer in layers if any(module is part for part in layer.modules())]
        for application in range(len(owner) or 1):
            found = attended(logits_with(ours, module, application, batch), mask)
            if "position" in name:
                continue  # transformers has one row for all texts, which this lesion tells apart
            expected = attended(logits_with(theirs, other, application, batch), mask)
            torch.testing.assert_close(found, expected, **EXACT)
            lesions += float((found - whole).abs().max()) > 1e-6
    assert lesions > 8 * LAYERS


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("site", range(LAYERS))
def test_activation_patching_equals_that_of_transformers(stem: str, site: int) -> None:
    """States of a clean run put into a run on other words, one layer and one token at a time."""
    ours, theirs, clean = pair(f"{stem}ForSequenceClassification")
    corrupt = {**clean, "input_ids": (clean["input_ids"] + 7) % 61 * clean["attention_mask"]}
    pairs = counterparts(ours, theirs)
    effects = []
    for side, model in enumerate((ours, theirs)):
        kept = model(**clean, output_hidden_states=True).hidden_states[site + 1]
        places = [pairs[name][side] for name in _layer_names(ours)]

        def patch(module: Any, _: Any, output: Any, kept: Tensor = kept) -> Any:
            patch.calls += 1
            patched = state(output).clone()
            if patch.calls == patch.at:
                patched[:, 0] = kept[:, 0]
            return (patched, *output[1:]) if isinstance(output, tuple) else patched

        patch.calls, patch.at = 0, places[: site + 1].count(places[site])
        with torch.no_grad(), places[site].register_forward_hook(patch):
            effects.append(model(**corrupt).logits - model(**clean).logits)
    torch.testing.assert_close(*effects, **EXACT)
    last = site == LAYERS - 1  # what the head reads has been replaced whole
    assert (float(effects[0].abs().max()) < 1e-9) == last


def _layer_names(ours: PretrainedModel) -> list[str]:
    names = {module: name for name, module in ours.named_modules()}
    return [names[layer] for layer in ours.base.virtual_layers()]


@pytest.mark.parametrize("layout", ["auto", "padded", "packed"])
@pytest.mark.parametrize("class_name", [f"{s}{h}" for s in STEMS for h in ("Model", *HEADS)])
def test_gradients_of_returned_hidden_states(class_name: str, layout: str) -> None:
    """Of a padded batch, in every layout: the states that are returned lie on the way."""
    ours, theirs, batch = pair(class_name)
    ours.layout = layout
    mask = batch["attention_mask"].bool()
    gradients = []
    for model in (ours, theirs):
        output = model(**batch, output_hidden_states=True)
        for hidden in output.hidden_states:
            hidden.retain_grad()
        attended(output[0], mask).square().sum().backward()
        gradients.append([hidden.grad for hidden in output.hidden_states])
    assert len(gradients[0]) == LAYERS + 1
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found[mask], expected[mask], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stem", STEMS)
def test_a_linear_probe_on_every_layer(stem: str) -> None:
    """Hooks without a copy of the mask: the rows of a probe are the caller's rows."""
    model = tiny(f"{stem}Model")
    model.layout = "padded"
    batch = ragged()
    seen = []
    for layer in dict.fromkeys(model.base.virtual_layers()):
        layer.register_forward_hook(lambda _, __, output: seen.append(state(output)))
    expected = model(**_of(stem, batch), output_hidden_states=True).hidden_states[1:]
    assert len(seen) == len(expected)
    mask = batch["attention_mask"].bool()
    for found, state_ in zip(seen, expected, strict=True):
        torch.testing.assert_close(found[mask], state_[mask], **EXACT)


def _of(stem: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return arguments(stem, batch)


@pytest.mark.parametrize("stem", STEMS)
def test_the_layout_is_a_choice_of_every_model(stem: str, tmp_path: Any) -> None:
    """As an attribute and as an argument of `from_pretrained`, with the same result."""
    model = tiny(f"{stem}ForTokenClassification", torch.float32)
    assert model.layout == "auto"
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, layout="padded")
    assert loaded.layout == "padded"
    batch = arguments(stem, ragged())
    shapes = []
    loaded.base.embeddings.norm.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
    logits = []
    for layout in ("padded", "packed", "auto"):
        loaded.layout = layout
        logits.append(loaded(**batch).logits)
        torch.testing.assert_close(logits[-1], logits[0], rtol=0, atol=1e-4)
    tokens = int(batch["attention_mask"].sum())
    assert [shape.numel() // shape[-1] for shape in shapes] == [35, tokens, tokens]
