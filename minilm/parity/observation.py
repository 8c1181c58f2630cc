"""Runs either library on a batch and names every tensor that it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.checkpoints.names import ARCHITECTURES
from minilm.models.pretrained import PretrainedModel
from minilm.parity.inputs import CHOICES, Inputs

OUTPUTS = (
    "last_hidden_state",
    "pooler_output",
    "logits",
    "prediction_logits",
    "seq_relationship_logits",
    "sop_logits",
    "start_logits",
    "end_logits",
    "loss",
)
GRADIENT = "gradient of "  # prefix of a parameter name
SPANS = ("start_logits", "end_logits")

Observation = dict[str, Tensor]


def run_reference(model: Any, inputs: Inputs, *, gradients: bool = False) -> Observation:
    """Run a transformers model and adjust its outputs to what minilm documents.

    Args:
        model: a transformers model with eager attention.
        inputs: a batch.
        gradients: also run backward from the loss.

    Returns:
        Tensors by module name; gradients by minilm's parameter names.
    """
    arguments = _padded_arguments(model, inputs)
    with torch.set_grad_enabled(gradients):
        outputs = model(**arguments, output_hidden_states=True, output_attentions=True)
        tensors = _named(outputs)
        for key in tensors:
            if _per_token(model, key):
                fill = torch.finfo(tensors[key].dtype).min if key in SPANS else 0.0
                tensors[key] = _blank(tensors[key], inputs.attended, fill)
        if "loss" in tensors and "start_logits" in tensors and not bool(inputs.attended.all()):
            tensors["loss"] = _span_loss(tensors, inputs)
        if gradients:
            names = ARCHITECTURES[model.config.model_type]
            named = {str(names.to_local(name)): p for name, p in model.named_parameters()}
            tensors |= _gradients(tensors["loss"], named)
    return {name: value.detach() for name, value in tensors.items()}


def run_ours(
    model: PretrainedModel, inputs: Inputs, call: str, *, gradients: bool = False
) -> Observation:
    """Run a minilm model; the tokens of a packed call are put back into rows.

    Args:
        model: a minilm model.
        inputs: a batch that is possible with `call`.
        call: one of `CALLS`.
        gradients: also run backward from the loss.

    Returns:
        Tensors by module name; gradients by parameter name, with the prefix "encoder." for those of
        a base model.
    """
    packed = call == "packed"
    arguments = (_packed_arguments if packed else _padded_arguments)(model, inputs)
    with torch.set_grad_enabled(gradients):
        outputs = model(
            **arguments, output_hidden_states=True, output_attentions=call == "explicit"
        )
        tensors = _named(outputs)
        for key in tensors:
            if packed and _per_token(model, key):
                fill = torch.finfo(tensors[key].dtype).min if key in SPANS else 0.0
                rows = tensors[key].new_full(
                    (*inputs.attended.shape, *tensors[key].shape[1:]), fill
                )
                rows[inputs.attended] = tensors[key]
                tensors[key] = rows
        if gradients:
            named = {f"{model.own_prefix}{name}": p for name, p in model.named_parameters()}
            tensors |= _gradients(tensors["loss"], named)
    return {name: value.detach() for name, value in tensors.items()}


def _named(outputs: Any) -> Observation:
    """The tensors of a model output by module name, in the order of computation."""
    tensors = {"embeddings": outputs.hidden_states[0]}
    for i, state in enumerate(outputs.hidden_states[1:]):
        if outputs.attentions is not None:
            tensors[f"layer {i} maps"] = outputs.attentions[i]
        tensors[f"layer {i}"] = state
    return tensors | {key: outputs[key] for key in OUTPUTS if key in outputs}


def _per_token(model: Any, module: str) -> bool:
    """Whether a tensor has an entry per token; class names are the same in both libraries."""
    if module == "logits":
        return type(model).__name__.endswith(("ForMaskedLM", "ForTokenClassification"))
    if module.startswith("layer"):
        return not module.endswith("maps")
    return module in ("embeddings", "last_hidden_state", "prediction_logits", *SPANS)


def _blank(values: Tensor, attended: Tensor, fill: float) -> Tensor:
    mask = attended.reshape(attended.shape + (1,) * (values.dim() - 2))
    return values.masked_fill(~mask, fill)


def _span_loss(tensors: Observation, inputs: Inputs) -> Tensor:
    """Hugging Face's span loss, over attended positions only."""
    size = inputs.attended.shape[1]

    def term(name: str) -> Tensor:
        target = inputs.labels[f"{name}_positions"].clamp(0, size)
        return F.cross_entropy(tensors[f"{name}_logits"], target, ignore_index=size)

    return (term("start") + term("end")) / 2


def _gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> Observation:
    """Gradients of the loss; zero for parameters that it does not depend on."""
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    values = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        f"{GRADIENT}{name}": torch.zeros_like(p) if value is None else value
        for (name, p), value in zip(trained.items(), values, strict=True)
    }


def _labels(model: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The labels, with real numbers in the model's dtype."""
    return {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in inputs.labels.items()
    }


def _padded_arguments(model: Any, inputs: Inputs) -> dict[str, Any]:
    """The arguments of a padded call, the same for both libraries."""
    tokens = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.attention_mask,
        "token_type_ids": inputs.token_type_ids,
    }
    if type(model).__name__.endswith("ForMultipleChoice"):
        tokens = {
            k: None if v is None else v.reshape(-1, CHOICES, v.shape[1]) for k, v in tokens.items()
        }
    return {k: v for k, v in tokens.items() if v is not None} | _labels(model, inputs)


def _packed_arguments(model: PretrainedModel, inputs: Inputs) -> dict[str, Any]:
    attended, types = inputs.attended, inputs.token_type_ids
    lengths = attended.sum(dim=1)  # (B,)
    place = attended.cumsum(dim=1) - 1  # (B, S): the place of a column in its sequence
    column = torch.arange(attended.shape[1]).expand_as(attended)
    labels = _labels(model, inputs)
    for name, value in labels.items():
        if name.endswith("_positions"):
            inside = place.gather(1, value.clamp(max=attended.shape[1] - 1)[:, None])[:, 0]
            labels[name] = torch.where(value < attended.shape[1], inside, value)
        elif value.shape == attended.shape and not value.is_floating_point():
            labels[name] = value[attended]
    positions = column[attended]
    by_itself = torch.equal(positions, place[attended])
    choices = type(model).__name__.endswith("ForMultipleChoice")
    return {
        "input_ids": inputs.input_ids[attended],
        "lengths": lengths.reshape(-1, CHOICES) if choices else lengths,
        "position_ids": None if by_itself else positions,
        "token_type_ids": None if types is None else types[attended],
        **labels,
    }
