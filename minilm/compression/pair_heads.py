"""Adds a head for pairs of segments to a model with only a masked-LM head."""

from __future__ import annotations

import torch

from minilm.errors import InputError
from minilm.loader import CLASSES
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM, ForPreTraining


@torch.no_grad()
def add_pair_head(model: PretrainedModel) -> ForPreTraining:
    """A copy of a model with a new pooler and a new head that classifies pairs of segments.

    Args:
        model: an AlbertForMaskedLM or BertForMaskedLM, which is not changed.

    Returns:
        An AlbertForPreTraining or BertForPreTraining, in the same mode, dtype and place, with the
        same parameters frozen. New parameters are drawn from torch's generator.

    Raises:
        InputError: the model has no masked-LM head, or is a DistilBERT, which has no such class.

    Example:
        >>> model = minilm.AlbertForMaskedLM(minilm.AlbertConfig())
        >>> type(add_pair_head(model)).__name__
        'AlbertForPreTraining'
    """
    name = type(model).__name__.replace("MaskedLM", "PreTraining")
    if not isinstance(model, ForMaskedLM) or name not in CLASSES:
        raise InputError(
            f"{type(model).__name__} has no counterpart with a head for pairs of segments, which "
            "sentence order needs: expected an ALBERT or a BERT with a masked-LM head."
        )
    found = CLASSES[name](model.config).to(model.device, model.dtype)
    assert isinstance(found, ForPreTraining)
    found.load_state_dict({**found.state_dict(), **model.state_dict()})
    own = dict(found.named_parameters())
    for parameter_name, parameter in model.named_parameters():
        own[parameter_name].requires_grad_(parameter.requires_grad)
    return found.train(model.training)
