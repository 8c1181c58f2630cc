"""What all models have in common: loading, saving, sizes and the interface for other libraries."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.initialisation import initialise, materialize, on_meta
from minilm.blocks.int8 import QuantizedEmbedding, without_scales
from minilm.checkpoints.config_file import prefix_errors
from minilm.checkpoints.hub import resolve
from minilm.checkpoints.loading import (
    WEIGHT_DTYPES,
    fill,
    fresh_parts,
    plan_load,
    raise_for,
    shared_names,
    translate_state_dict,
)
from minilm.checkpoints.names import ENCODER, HubNames
from minilm.checkpoints.report import LoadReport, StudentReport
from minilm.checkpoints.weights import open_directory, save_directory
from minilm.config import EncoderConfig, remarks
from minilm.errors import CheckpointError, ConfigError, InputError, setting
from minilm.files.file_names import WEIGHTS
from minilm.files.progress import counted
from minilm.models.arguments import LOADING, SAVING, check_words, rename_words
from minilm.models.inputs import LayoutChoice
from minilm.models.int8 import KEY, MARKER, is_int8, stored_int8, to_float, to_int8

if TYPE_CHECKING:
    from minilm.models.encoder import EncoderModel

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in WEIGHT_DTYPES}
INT8 = ("int8", torch.int8)


def parse_dtype(dtype: torch.dtype | str | None, stored: torch.dtype) -> torch.dtype:
    """The dtype that an argument means: None = float32, "auto" = as stored, or a name."""
    if dtype == "auto":
        return stored
    name = str(dtype or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected auto, {', '.join(DTYPES)}, int8.")
    return DTYPES[name]


class PretrainedModel(nn.Module):
    """A model with a configuration that loads and saves hub checkpoints.

    Attributes:
        config: the configuration of the model.
        load_report: what was done with every tensor, if the model came from a checkpoint.
        student_report: what was taken from the teacher, if `init_student` made the model.
        name_or_path: the directory or hub name it came from; "" if from none.
    """

    config_class: ClassVar[type[EncoderConfig]]
    hub_names: ClassVar[HubNames]
    # read by other libraries: by Trainer for the averaging of losses, by pipelines for the input
    accepts_loss_kwargs: ClassVar[bool] = False
    main_input_name: ClassVar[str] = "input_ids"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            given = type(config)
            raise ConfigError(
                f"{type(self).__name__} is built from a minilm.{self.config_class.__name__}, not "
                f"from a {given.__module__}.{given.__name__}. Convert transformers' with "
                f"minilm.{self.config_class.__name__}.from_dict(config.to_dict())."
            )
        self.config = config
        self.load_report: LoadReport | None = None
        self.student_report: StudentReport | None = None
        self.name_or_path = ""

    @property
    @abstractmethod
    def base(self) -> EncoderModel:
        """The encoder: this model itself, or the encoder below its heads."""

    @property
    def base_model(self) -> EncoderModel:
        """Another name for `base`."""
        return self.base

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

    @property
    def own_prefix(self) -> str:
        """The prefix of this model's names in the tables of checkpoints/names.py."""
        return ENCODER if self.base is self else ""

    def _initialise(self, part: nn.Module) -> None:
        """Initialise the parameters of a new part, as the configuration says."""
        truncated = self.config.initializer == "truncated_normal"
        initialise(part, std=self.config.initializer_range, truncated=truncated)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        config: EncoderConfig | Mapping[str, Any] | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        layout: LayoutChoice | None = None,
        add_pooling_layer: bool | None = None,
        ignore_mismatched_heads: bool = False,
        new_parts: Literal["warn", "allow", "refuse"] = "warn",
        allow_unexpected: bool = False,
        allow_nonfinite: bool = False,
        **config_overrides: Any,
    ) -> Self:
        """Load a checkpoint in the hub's layout: config.json and safetensors.

        A class of your own, derived from one of these, loads the same checkpoints: its new modules
        start as they were built.

        Args:
            path_or_repo: a directory (no network is touched), or a hub name.
            config: replaces config.json: a configuration of minilm or transformers, or a dictionary
                as in config.json.
            revision, subfolder, token, cache_dir, local_files_only: as in huggingface_hub.
            dtype: dtype of the parameters; None = float32, "auto" = as stored.
            device: where the parameters are created; None = torch's default device.
            layout: how batches are laid out, see the attribute; None = the default, "auto".
            add_pooling_layer: for base models: with or without pooler; None = the class's default.
            ignore_mismatched_heads: reinitialise a head of another shape (new `num_labels`).
            new_parts: what to do when a head, a pooler or a module of your own is not stored, and
                starts from random values: "warn" once, unless you asked for it by `num_labels`,
                `id2label`, `add_pooling_layer` or `ignore_mismatched_heads`; "allow"; "refuse".
            allow_unexpected: ignore stored tensors with unknown names.
            allow_nonfinite: accept NaN and infinite weights.
            **config_overrides: fields of the configuration to change, e.g. `num_labels=5`,
                `hidden_dropout_prob=0.2`, or `num_hidden_layers=3` for the first three layers
                (ALBERT: any depth from the same weights, with the groups spread over it).
                Arguments of transformers are accepted too, if they have a meaning here.

        Returns:
            The model in eval mode; `model.load_report` lists what was done with every tensor.

        Raises:
            CheckpointError: files are damaged, unsafe or do not fit; nothing is half-loaded.
            ConfigError: config.json or an override is invalid.
            HubError: a download failed.
            InputError: an argument of transformers that minilm does not support.

        Example:
            >>> model = minilm.BertModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
            >>> print(model.load_report)
        """
        given = {"dtype": dtype, "device": device, "token": token}
        ours: dict[str, Any] = given | {"ignore_mismatched_heads": ignore_mismatched_heads}
        rename_words(ours, config_overrides)
        check_words("from_pretrained", config_overrides, LOADING)
        if new_parts not in ("warn", "allow", "refuse"):
            raise InputError(f"new_parts is {new_parts!r}: expected 'warn', 'allow' or 'refuse'.")
        place = torch.device(ours["device"] or torch.get_default_device())
        if place.type == "meta":
            raise InputError("from_pretrained cannot put values on the meta device; give device=.")
        directory = resolve(
            path_or_repo,
            revision=revision,
            subfolder=subfolder,
            token=ours["token"],
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        data, weights = open_directory(directory)
        with weights:
            with prefix_errors(directory):
                stored_config = cls.config_class.of(data if config is None else config)
            wanted = stored_config.replace(**config_overrides)
            from_int8 = stored_int8(data, directory)
            asked = ours["dtype"]
            as_int8 = asked in INT8 or (from_int8 and asked in (None, "auto"))
            if as_int8:
                asked = "float32"  # for everything that is not an 8-bit weight
            # modules of a class that is not ours may have any initial values, so they are computed
            known = cls.__module__.startswith("minilm.models.")
            with on_meta() if known else nullcontext():
                model = cls(wanted)
            if add_pooling_layer is not None and model.base is not model:
                raise InputError("add_pooling_layer is only for base models: leave it out.")
            if add_pooling_layer is False:
                model.base.pooler = None
            if from_int8:
                model = to_int8(model)
            prefix, shared = model.own_prefix, shared_names(model)
            plan = plan_load(
                {f"{prefix}{k}": t for k, t in model.state_dict().items() if k not in shared},
                weights.tensors,
                cls.hub_names,
                shared={f"{prefix}{name}": f"{prefix}{first}" for name, first in shared.items()},
                source=str(directory / WEIGHTS),
                layers=config_overrides.get("num_hidden_layers"),
                ignore_mismatched_heads=ours["ignore_mismatched_heads"],
            )
            raise_for(plan.report, allow_unexpected)
            fresh = fresh_parts(plan.report, prefix)
            if fresh and new_parts == "refuse":
                raise CheckpointError(
                    f"{directory} does not store {fresh} of its {cls.__name__}, so these weights "
                    "would be random. Train it first, or use the class it was saved from."
                )
            dtypes = (weights.tensors[name].dtype for name in plan.sources.values())
            stored = (dtype for dtype in dtypes if dtype.is_floating_point)
            as_asked = parse_dtype(asked, next(stored, torch.float32))
            asked_later, as_asked = as_asked, torch.float32 if from_int8 else as_asked
            if known:
                materialize(model, as_asked, place)
            else:
                model.to(device=place, dtype=as_asked)
            fill(
                model,
                weights,
                plan,
                prefix=prefix,
                initialise=model._initialise if known else None,
                allow_nonfinite=allow_nonfinite,
            )
        if as_int8 and not from_int8:
            model = to_int8(model)
        elif from_int8 and not as_int8:
            model = to_float(model).to(asked_later)
        if from_int8:
            data = {key: value for key, value in data.items() if key != KEY}
        model.load_report = plan.report.of_model(prefix, [] if config else remarks(data))
        model.name_or_path = os.fspath(path_or_repo)
        model.layout = layout or model.layout
        if (
            ours["ignore_mismatched_heads"]
            or add_pooling_layer
            or config_overrides.keys() & {"num_labels", "id2label", "label2id"}
        ):  # the caller asked for new heads and poolers, but not for other new parts
            fresh = fresh_parts(plan.report, prefix, but_not=cls.hub_names.knows)
        if fresh and new_parts == "warn":
            warnings.warn(
                f"{path_or_repo} does not store {fresh}: newly initialised, train before use "
                f"({setting('new_parts', 'allow')} silences this warning).",
                stacklevel=2,
            )
        return model.eval()

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        **transformers_arguments: Any,
    ) -> None:
        """Write config.json and model.safetensors in the hub's layout, atomically.

        Modules that the hub's layout does not know are stored under their own names.

        Args:
            directory: created if missing; the files of an earlier save are replaced.
            state_dict: tensors to save instead of the model's own, by its names or the hub's, such
                as those that accelerate or FSDP has gathered.
            is_main_process: False writes nothing; for all processes but one.
            **transformers_arguments: those that ask for safetensors in one file change nothing.

        Raises:
            CheckpointError: the directory cannot be written; what was there stays as it was. Or a
                tensor is missing from `state_dict`, unknown, or is not a plain tensor.
            InputError: an argument asks for something else; the message says what to use.
        """
        check_words("save_pretrained", transformers_arguments, SAVING)
        if transformers_arguments:
            raise InputError(f"save_pretrained does not know {min(transformers_arguments)!r}.")
        if not is_main_process:
            return
        own = self.state_dict()
        state = own if state_dict is None else self._translated(state_dict)
        self._check_depth()
        if different := own.keys() ^ state.keys():
            problem = "lacks" if min(different) in own else "has the unknown"
            raise CheckpointError(
                f"state_dict {problem} {min(different)!r}: expected all tensors of this "
                f"{type(self).__name__}, gathered, and no others."
            )
        tensors: dict[str, Tensor] = {}
        for name, value in state.items():
            hub = self.hub_names.to_hub(f"{self.own_prefix}{name}", not self.own_prefix)
            plain = type(value) in (Tensor, nn.Parameter) and not value.is_quantized
            if not plain or value.is_meta or hub in tensors:
                raise CheckpointError(
                    f"{name} ({type(value).__name__}) cannot be stored as {hub}: only plain "
                    "tensors can, one under each name. For a model that is spread over processes, "
                    "give the gathered tensors as state_dict=; write a quantised one with "
                    "torch.save."
                )
            tensors[hub] = value
        config = self.config.to_dict()
        # torch derives a class of its own for a model that it shards
        classes = (cls for cls in type(self).__mro__ if not cls.__module__.startswith("torch."))
        config["architectures"] = [next(classes).__name__]
        config.pop("torch_dtype", None)  # the older name of "dtype"
        if is_int8(self):
            config[KEY] = dict(MARKER)
        # other libraries compute in this dtype by default, and AdamW on 16-bit weights ends in NaN
        config["dtype"] = "float64" if self.dtype == torch.float64 else "float32"
        save_directory(Path(directory), config, tensors)

    def _check_depth(self) -> None:
        """Raise CheckpointError if layers were added or removed without changing the config."""
        layers, depth = getattr(self.base, "layers", None), self.config.num_hidden_layers
        if isinstance(layers, nn.ModuleList) and len(layers) != depth:
            raise CheckpointError(
                f"The model has {counted(len(layers), 'layer')}, its configuration says {depth}: "
                f"set model.config.num_hidden_layers = {len(layers)} before you save it."
            )

    def _translated(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """A state dictionary with this model's own names; see `translate_state_dict`."""
        names, shared = set(self.state_dict()), shared_names(self)
        return translate_state_dict(state_dict, names, self.hub_names, self.own_prefix, shared)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Also accept hub names, even if this model is nested in another module.

        Tensors of heads this class does not have, position counters and copies of tied tensors are
        dropped; other unknown names are an error under `strict`. Weights that are shared here must
        be equal.
        """
        mine = [name for name in state_dict if name.startswith(prefix)]
        found = {name.removeprefix(prefix): state_dict.pop(name) for name in mine}
        state_dict.update({f"{prefix}{k}": v for k, v in self._translated(found).items()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the word embeddings; int8 for a quantised model."""
        return self.base.embeddings.word.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the word embeddings."""
        return self.base.embeddings.word.weight.device

    @property
    def num_labels(self) -> int:
        """The number of classes of a classification head."""
        return self.config.num_labels

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The number of parameters; shared and tied ones count once.

        A quantised model has as many as the float model that it was made from.

        Args:
            only_trainable: leave out frozen parameters.
            exclude_embeddings: leave out the tables of words, positions and token types.
        """
        tables = (
            part.weight
            for part in self.modules()
            if isinstance(part, nn.Embedding | QuantizedEmbedding)
        )
        left_out = set(map(id, tables)) if exclude_embeddings else set()
        parameters = (p for p in without_scales(self) if p.requires_grad or not only_trainable)
        return sum(p.numel() for p in parameters if id(p) not in left_out)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding table, (V, E), which is also the output matrix of a masked-LM head."""
        return self.base.embeddings.word

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        """Replace the word embedding table by another one with `config.vocab_size` rows."""
        self.base.embeddings.word = embeddings

    def get_output_embeddings(self) -> nn.Embedding | None:
        """The output matrix of a masked-LM head: the input's table. None without such a head."""
        return self.base.embeddings.word if self._masked_lm_head is not None else None

    def tie_weights(self) -> None:
        """Does nothing: the masked-LM head is given the input's table in every call."""

    @property
    def _masked_lm_head(self) -> MaskedLMHead | None:
        head = getattr(self, "masked_lm_head", None)
        return head if isinstance(head, MaskedLMHead) else None

    @torch.no_grad()
    def resize_token_embeddings(
        self, vocab_size: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Change the size of the vocabulary; the first rows keep their values.

        New rows are drawn like new weights (differs from Hugging Face, which draws them around the
        mean of the old ones); a masked-LM bias is extended by zeros.

        Args:
            vocab_size: the new V; None = unchanged.
            pad_to_multiple_of: round V up to a multiple of this.

        Returns:
            The new table, (V, E); the old one if nothing changes.
        """
        old = self.base.embeddings.word
        if is_int8(self):
            raise InputError("The vocabulary of a quantised model is fixed: resize the float one.")
        wanted = old.num_embeddings if vocab_size is None else vocab_size
        wanted += -wanted % (pad_to_multiple_of or 1)
        if wanted == old.num_embeddings:
            return old
        config = self.config.replace(vocab_size=wanted)
        new = nn.Embedding(
            wanted, old.embedding_dim, padding_idx=old.padding_idx, dtype=old.weight.dtype
        ).to(old.weight.device)
        self._initialise(new)
        kept = min(wanted, old.num_embeddings)
        new.weight[:kept] = old.weight[:kept]
        new.weight.requires_grad_(old.weight.requires_grad)
        self.base.embeddings.word = new
        if (head := self._masked_lm_head) is not None:
            bias = head.bias.new_zeros(wanted)
            bias[:kept] = head.bias[:kept]
            head.bias = nn.Parameter(bias, requires_grad=head.bias.requires_grad)
        self.config = self.base.config = config
        return new

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """In training, keep only each layer's input and recompute the rest in the backward pass.

        Args:
            gradient_checkpointing_kwargs, **options: as in transformers; `use_reentrant` must be
                False, `every_n_layers` 1 and `offload` False.

        Raises:
            InputError: the arguments ask for another kind of checkpointing.
        """
        known = {"use_reentrant": False, "every_n_layers": 1, "offload": False}
        given = gradient_checkpointing_kwargs or options.pop(
            "activation_checkpointing_kwargs", None
        )
        asked = {**(given or {}), **options}
        if not asked.items() <= known.items():
            raise InputError(
                f"gradient_checkpointing_kwargs ask for {asked!r}: only {known!r} is implemented, "
                "which needs no input with a gradient."
            )
        self.base.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all intermediate states for the backward pass again (the default)."""
        self.base.gradient_checkpointing = False

    # transformers' newer names
    activation_checkpointing_enable = gradient_checkpointing_enable
    activation_checkpointing_disable = gradient_checkpointing_disable

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return self.base.gradient_checkpointing
