"""Who takes part: engines that encode the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minilm.bench.workload import Batch
from minilm.checkpoints.config_file import prefix_errors, read_config
from minilm.config import AlbertConfig, BertConfig, DistilBertConfig, EncoderConfig
from minilm.errors import DependencyError
from minilm.loader import CLASSES, STEMS, find_class
from minilm.models.encoder import EncoderModel
from minilm.models.pretrained import PretrainedModel

# configurations that --model knows by name: the published base models
BASE_CONFIGS: Mapping[str, type[EncoderConfig]] = {
    "distilbert-base": DistilBertConfig,
    "albert-base": AlbertConfig,
    "bert-base": BertConfig,
}


@dataclass(frozen=True)
class Contender:
    """An engine with the model loaded.

    Attributes:
        encode: a batch -> states of its tokens, (B, S, H) or (T, H). Called without gradients.
        module: for engines that can train: what `encode` runs.
    """

    encode: Callable[[Batch], Tensor]
    module: nn.Module | None = None


def _minilm(directory: Path, dtype: torch.dtype) -> Contender:
    model = load_base(directory, dtype)
    return Contender(lambda b: model(b.input_ids, b.attention_mask).last_hidden_state, model)


def _minilm_packed(directory: Path, dtype: torch.dtype) -> Contender:
    model = load_base(directory, dtype)
    return Contender(lambda b: model(b.packed_ids, lengths=b.lengths).last_hidden_state, model)


def _transformers(directory: Path, dtype: torch.dtype, attention: str = "sdpa") -> Contender:
    try:
        import transformers
    except ImportError:
        raise DependencyError(
            "This comparison needs transformers: pip install transformers."
        ) from None
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = transformers.AutoModel.from_pretrained(
        directory, attn_implementation=attention, dtype=dtype
    ).eval()

    def encode(batch: Batch) -> Tensor:
        states: Tensor = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        return states

    return Contender(encode, model)


def _transformers_eager(directory: Path, dtype: torch.dtype) -> Contender:
    return _transformers(directory, dtype, "eager")


Builder = Callable[[Path, torch.dtype], Contender]

# Another engine joins by a function that loads the checkpoint, and a row.
CONTENDERS: Mapping[str, Builder] = {
    "minilm": _minilm,
    "minilm-packed": _minilm_packed,
    "transformers": _transformers,
    "transformers-eager": _transformers_eager,
}


def base_class(directory: Path) -> type[PretrainedModel]:
    """The class of a checkpoint's encoder without heads."""
    return CLASSES[f"{STEMS[find_class(directory).config_class.model_type]}Model"]


def load_base(directory: Path, dtype: torch.dtype) -> EncoderModel:
    """The encoder of a checkpoint, without its heads."""
    return base_class(directory).from_pretrained(directory, dtype=dtype, new_parts="allow").base


def read_base_config(directory: Path) -> EncoderConfig:
    """The configuration of a checkpoint."""
    with prefix_errors(directory):
        return base_class(directory).config_class.from_dict(read_config(directory))


def save_random(config: EncoderConfig, directory: Path, seed: int) -> None:
    """Saves a base model with fresh weights, for all contenders to load."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLASSES[f"{STEMS[config.model_type]}Model"](config)
    model.save_pretrained(directory)
