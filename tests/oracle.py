"""transformers models with the weights of ours, built in memory."""

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from minilm.loader import STEMS
from minilm.models.pretrained import PretrainedModel


def hugging_face(ours: PretrainedModel) -> Any:
    """The transformers model of the same class, configuration, weights, dtype and mode.

    Eager attention. Every parameter of theirs must come from ours, tied ones aside.
    """
    name = type(ours).__name__
    settings = ours.config.to_dict()
    model_type = settings.pop("model_type")
    config = getattr(transformers, f"{STEMS[model_type]}Config")(**settings)
    config._attn_implementation = "eager"
    theirs = getattr(transformers, name)(config).to(ours.dtype)
    state = {
        ours.hub_names.to_hub(f"{ours.own_prefix}{own}", with_prefix=not ours.own_prefix): value
        for own, value in ours.state_dict().items()
    }
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    tied = set(theirs.state_dict()) - {key for key, _ in theirs.named_parameters()}
    assert not unexpected
    assert set(missing) <= tied
    return theirs.train(ours.training)


def steady_dropout(
    values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Stands in for dropout: the same on both sides, and it shows where and how strongly it acts.

    Element by element, so that the layout of a batch does not matter, and not linear, so that it
    does not commute with the layers around it.
    """
    return values + p * values.sin() if training else values


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """What `scaled_dot_product_attention` computes, with the dropout that `F` holds at the time."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(torch.softmax(scores, dim=-1), dropout_p) @ value
