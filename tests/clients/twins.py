"""The same model twice, ours and the one of transformers, and what tells their numbers apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minilm.models.pretrained import PretrainedModel
from oracle import hugging_face
from tiny import tiny

STEMS = ("Bert", "DistilBert", "Albert")
WEIGHTS = Path(__file__).parents[2] / "weights"
SHIPPED = {"Bert": "bert-mini", "DistilBert": "distilbert-mini", "Albert": "albert-1x12-mini"}

NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
LAYER_CLASSES = ("BertLayer", "TransformerBlock", "AlbertLayer")


def twins(
    class_name: str, dtype: torch.dtype = torch.float64, **changes: Any
) -> tuple[PretrainedModel, Any]:
    """A tiny model under the padded layout, and the transformers model with its weights."""
    ours = tiny(class_name, dtype, **changes)
    ours.layout = "padded"
    return ours, hugging_face(ours)


def arguments(class_name: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments of a batch that this class has in transformers."""
    left_out = ("token_type_ids",) if class_name.startswith("Distil") else ()
    return {name: value for name, value in batch.items() if name not in left_out}


def counterparts(ours: nn.Module, theirs: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Modules of the two that hold the same weight, and whole layers, by the name they have here.

    The weights of a tiny model are all drawn anew, so that equal ones are the same one.
    """
    found = {}
    for name, module in ours.named_modules():
        weight = module._parameters.get("weight")
        for other in () if weight is None else theirs.modules():
            other_weight = other._parameters.get("weight")
            if other_weight is not None and torch.equal(weight, other_weight):
                found[name] = module, other
                break
        else:
            assert weight is None, f"transformers has no module with the weight of {name}"
    layers = [m for m in theirs.modules() if type(m).__name__ in LAYER_CLASSES]
    own = dict.fromkeys(ours.base.virtual_layers())
    assert len(layers) == len(own)
    names = {module: name for name, module in ours.named_modules()}
    return found | {names[m]: (m, other) for m, other in zip(own, layers, strict=True)}


def some_now(cases: Sequence[str], now: Callable[[str], bool]) -> list[Any]:
    """All cases as parameters; those that are not for now wait for `-m clients`."""
    return [case if now(case) else pytest.param(case, marks=pytest.mark.clients) for case in cases]


def state(output: Any) -> Tensor:
    """What a module returned, without what may stand beside it."""
    return output[0] if isinstance(output, tuple) else output


def parameter_pairs(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every parameter of ours with theirs of the same value, by the name it has here."""
    others = list(theirs.parameters())
    for name, parameter in ours.named_parameters():
        same = [other for other in others if torch.equal(parameter, other)]
        assert len(same) == 1, name
        yield name, parameter, same[0]
