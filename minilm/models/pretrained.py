"""What all models have in common: loading, saving, sizes and the parts that other tools ask for."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import torch
from torch import nn

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.initialisation import allocate, initialise, unallocated
from minilm.checkpoints.config_file import naming
from minilm.checkpoints.file_names import WEIGHTS
from minilm.checkpoints.hub import resolve
from minilm.checkpoints.loading import (
    fill,
    plan_load,
    raise_for,
    shared_names,
    translate_state_dict,
)
from minilm.checkpoints.names import HubNames
from minilm.checkpoints.report import LoadReport
from minilm.checkpoints.weights import open_directory, save_directory
from minilm.config import EncoderConfig, ignored_keys
from minilm.errors import ConfigError, InputError
from minilm.models.inputs import LayoutChoice

if TYPE_CHECKING:
    from minilm.models.encoder import EncoderModel

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def parse_dtype(dtype: torch.dtype | str | None, stored: torch.dtype) -> torch.dtype:
    """The dtype that an argument means: None = float32, "auto" = as stored, or a name."""
    if dtype == "auto":
        return stored
    name = str(dtype or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


class PretrainedModel(nn.Module):
    """A model with a configuration that loads and saves hub checkpoints.

    Attributes:
        config: what the model is made of.
        load_report: what became of every tensor, if the model came from a checkpoint.
    """

    config_class: ClassVar[type[EncoderConfig]]
    hub_names: ClassVar[HubNames]
    # what stands before this model's parameter names in the tables of checkpoints/names.py
    own_prefix: ClassVar[str] = ""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"{type(self).__name__} is built from a {self.config_class.__name__}, not from "
                f"{type(config).__name__}."
            )
        self.config = config
        self.load_report: LoadReport | None = None

    @property
    @abstractmethod
    def base(self) -> EncoderModel:
        """The encoder: this model itself, or what its heads stand on."""

    @property
    def layout(self) -> LayoutChoice:
        """How padded calls are laid out inside: "auto", "padded" or "packed".

        See `EncoderModel`; can be set at any time.
        """
        return self.base.layout_choice

    @layout.setter
    def layout(self, choice: LayoutChoice) -> None:
        if choice not in get_args(LayoutChoice):
            raise InputError(f"layout is {choice!r}: expected 'auto', 'padded' or 'packed'.")
        self.base.layout_choice = choice

    def like(self, config: EncoderConfig) -> Self:
        """A model of this class, on this device and in this dtype, from another configuration.

        Its parameters are allocated but hold nothing yet: the caller fills every one.
        """
        with unallocated():
            other = type(self)(config)
        if self.base.pooler is None:
            other.base.pooler = None
        allocate(other, self.dtype, self.device)
        return other.train(self.training)

    def _initialise(self, part: nn.Module) -> None:
        """Draw the parameters of a new part, as the configuration says."""
        truncated = self.config.initializer == "truncated_normal"
        initialise(part, std=self.config.initializer_range, truncated=truncated)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        ignore_mismatched_heads: bool = False,
        allow_unexpected: bool = False,
        allow_nonfinite: bool = False,
        **config_overrides: Any,
    ) -> Self:
        """Load a checkpoint in the hub's layout: config.json and safetensors.

        Args:
            path_or_repo: a directory (no network is touched), or a hub name.
            revision, token, cache_dir, local_files_only: for hub names, as in huggingface_hub.
            dtype: of the parameters; None = float32, "auto" = as stored.
            device: where the parameters are created; None = torch's default device.
            ignore_mismatched_heads: start a head of another shape anew (new `num_labels`).
            allow_unexpected: leave stored tensors out that no rule knows.
            allow_nonfinite: accept NaN and infinite weights.
            **config_overrides: fields of the configuration to change, e.g. `num_labels=5`,
                `hidden_dropout_prob=0.2`, or `num_hidden_layers=3` for the first three layers
                (ALBERT: any depth from the same weights, with the groups spread over it).

        Returns:
            The model in eval mode; `model.load_report` says what became of every tensor.

        Raises:
            CheckpointError: files that are damaged, unsafe or do not fit; nothing is half-loaded.
            ConfigError: config.json or an override is invalid.
            HubError: a download failed.

        Example:
            >>> model = minilm.BertModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
            >>> print(model.load_report)
        """
        directory = resolve(
            path_or_repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        cls.config_class.check_names(config_overrides)
        data, weights = open_directory(directory)
        with weights:
            with naming(directory):
                stored_config = cls.config_class.from_dict(data)
            config = stored_config.replace(**config_overrides)
            with unallocated():
                model = cls(config)
            plan = plan_load(
                {f"{cls.own_prefix}{name}": p.shape for name, p in model.named_parameters()},
                {name: (torch.Size(t.shape), t.dtype) for name, t in weights.tensors.items()},
                cls.hub_names,
                shared={
                    f"{cls.own_prefix}{name}": f"{cls.own_prefix}{first}"
                    for name, first in shared_names(model).items()
                },
                source=str(directory / WEIGHTS),
                layers=config_overrides.get("num_hidden_layers"),
                ignore_mismatched_heads=ignore_mismatched_heads,
            )
            raise_for(plan.report, allow_unexpected)
            stored = (weights.tensors[name].dtype for name in plan.sources.values())
            allocate(
                model,
                parse_dtype(dtype, next(stored, torch.float32)),
                torch.get_default_device() if device is None else device,
            )
            fill(
                model,
                weights,
                plan,
                own_prefix=cls.own_prefix,
                initialise=model._initialise,
                allow_nonfinite=allow_nonfinite,
            )
        notes = [f"config.json: {key} ignored" for key in ignored_keys(data)]
        model.load_report = plan.report.of_model(cls.own_prefix, notes)
        return model.eval()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors in the hub's layout, atomically.

        Args:
            directory: created if need be; the files of an earlier save are replaced.

        Raises:
            CheckpointError: the directory cannot be written; what was there stays as it was.
        """
        config = self.config.to_dict()
        config["architectures"] = [type(self).__name__]
        config.pop("torch_dtype", None)  # the older name of the same
        # what other libraries compute in by default: AdamW of 16-bit weights ends in NaN
        config["dtype"] = "float64" if self.dtype == torch.float64 else "float32"
        tensors = {
            self.hub_names.to_hub(
                f"{self.own_prefix}{name}", with_prefix=not self.own_prefix
            ): value
            for name, value in self.state_dict().items()
        }
        save_directory(Path(directory), config, tensors)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Like `nn.Module.load_state_dict`, for own names and for hub names.

        Tensors of heads this class does not have, position counters and copies of tied tensors are
        dropped; other unknown names are an error under `strict`. Weights that are shared here must
        be equal.
        """
        state = translate_state_dict(
            state_dict,
            set(self.state_dict()),
            self.hub_names,
            self.own_prefix,
            shared_names(self),
        )
        return super().load_state_dict(state, strict=strict, assign=assign)

    @property
    def dtype(self) -> torch.dtype:
        """Of the word embeddings."""
        return self.base.embeddings.word.weight.dtype

    @property
    def device(self) -> torch.device:
        """Of the word embeddings."""
        return self.base.embeddings.word.weight.device

    def num_parameters(self) -> int:
        """How many numbers the model holds; shared and tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding table, (V, E); also what the masked-LM head compares with."""
        return self.base.embeddings.word

    @torch.no_grad()
    def resize_token_embeddings(self, vocab_size: int) -> nn.Embedding:
        """Change the size of the vocabulary; the first rows keep their values.

        New rows are drawn like fresh weights (differs from Hugging Face, which draws them around
        the mean of the old ones); a masked-LM bias grows by zeros.

        Args:
            vocab_size: the new V.

        Returns:
            The new table, (V, E).
        """
        config = self.config.replace(vocab_size=vocab_size)
        old = self.base.embeddings.word
        new = nn.Embedding(
            vocab_size, old.embedding_dim, padding_idx=old.padding_idx, dtype=old.weight.dtype
        ).to(old.weight.device)
        self._initialise(new)
        kept = min(vocab_size, old.num_embeddings)
        new.weight[:kept] = old.weight[:kept]
        new.weight.requires_grad_(old.weight.requires_grad)
        self.base.embeddings.word = new
        head = getattr(self, "masked_lm_head", None)
        if isinstance(head, MaskedLMHead):
            bias = head.bias.new_zeros(vocab_size)
            bias[:kept] = head.bias[:kept]
            head.bias = nn.Parameter(bias, requires_grad=head.bias.requires_grad)
        self.config = self.base.config = config
        return new

    def gradient_checkpointing_enable(self) -> None:
        """In training, keep only the input of each layer and compute the rest again backwards."""
        self.base.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all intermediate states again (the default)."""
        self.base.gradient_checkpointing = False
