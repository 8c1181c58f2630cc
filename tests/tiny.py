"""Tiny models with every parameter drawn anew: fresh ones have zero biases and hide swaps."""

from typing import Any

import torch

import minilm
from minilm.loader import CLASSES, STEMS
from minilm.models.pretrained import PretrainedModel

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
ALL_CLASSES = sorted(CLASSES)


def architecture(class_name: str) -> str:
    """bert, distilbert or albert."""
    return CLASSES[class_name].config_class.model_type


def tiny(class_name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PretrainedModel:
    """A model of this class in eval mode."""
    stem = STEMS[architecture(class_name)]
    config_class = getattr(minilm, f"{stem}Config")
    sizes = {**SIZES, **({"embedding_size": 8} if stem == "Albert" else {}), **changes}
    torch.manual_seed(5)
    model = CLASSES[class_name](config_class(**sizes)).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def ragged(
    rows: tuple[int, ...] = (7, 3, 1, 7, 5), vocab_size: int = 61
) -> dict[str, torch.Tensor]:
    """A right-padded batch: input_ids, attention_mask and token_type_ids, (B, S)."""
    generator = torch.Generator().manual_seed(9)
    lengths = torch.tensor(rows)
    mask = (torch.arange(max(rows)) < lengths[:, None]).long()
    ids = torch.randint(1, vocab_size, mask.shape, generator=generator) * mask
    types = torch.randint(0, 2, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def packed(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same batch as a packed call."""
    mask = batch["attention_mask"].bool()
    line = {name: batch[name][mask] for name in batch if name != "attention_mask"}
    return {**line, "lengths": mask.sum(1)}
