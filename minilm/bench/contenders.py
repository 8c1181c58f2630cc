"""The contenders: engines that encode the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minilm.bench.peers import (
    EXTRA,
    onnxruntime_encode,
    openvino_encode,
    write_int8_onnx,
    write_onnx,
)
from minilm.bench.workload import Batch
from minilm.checkpoints.config_file import prefix_errors, read_config
from minilm.compression.quantisation import quantize
from minilm.config import AlbertConfig, BertConfig, DistilBertConfig, EncoderConfig
from minilm.errors import MinilmError
from minilm.files.libraries import library
from minilm.loader import CLASSES, STEMS, find_class
from minilm.models.encoder import EncoderModel
from minilm.models.pretrained import DTYPES, PretrainedModel

INT8 = "int8"
PRECISIONS = ("float32", "bfloat16", INT8)


class UnsupportedError(MinilmError):
    """The engine does not run in this precision."""


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
        encode: maps a batch to the states of its tokens, (B, S, H) or (T, H); called without
            gradients.
        module: the module that `encode` runs; None for engines that cannot train in this precision.
    """

    encode: Callable[[Batch], Tensor]
    module: nn.Module | None = None


@dataclass(frozen=True)
class Source:
    """The source of a contender: checkpoint, precision and files.

    Attributes:
        directory: the checkpoint.
        precision: "float32", "bfloat16", "int8" (8-bit weights), or another name of `DTYPES`.
        work: an empty directory for files that engines need; engines with the same source share
            them.
    """

    directory: Path
    precision: str
    work: Path

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of floating-point numbers."""
        return DTYPES["float32" if self.precision == INT8 else self.precision]


def _own(source: Source) -> EncoderModel:
    model = load_base(source.directory, source.dtype)
    if source.precision != INT8:
        return model
    return quantize(model)


def _minilm(source: Source) -> Contender:
    model = _own(source)
    module = None if source.precision == INT8 else model
    return Contender(lambda b: model(b.input_ids, b.attention_mask).last_hidden_state, module)


def _minilm_packed(source: Source) -> Contender:
    model = _own(source)
    module = None if source.precision == INT8 else model
    return Contender(lambda b: model(b.packed_ids, lengths=b.lengths).last_hidden_state, module)


def _transformers(source: Source, attention: str = "sdpa") -> Contender:
    if source.precision == INT8:
        raise UnsupportedError("transformers has no 8-bit models of its own for a CPU.")
    transformers = library("transformers", EXTRA)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(
        source.directory, attn_implementation=attention, dtype=source.dtype
    ).eval()

    def encode(batch: Batch) -> Tensor:
        states: Tensor = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        return states

    return Contender(encode, model)


def _transformers_eager(source: Source) -> Contender:
    return _transformers(source, "eager")


def _onnx_file(source: Source) -> Path:
    """The checkpoint as an ONNX file in float32, written once."""
    path = source.work / "model.onnx"
    if not path.exists():
        write_onnx(load_base(source.directory, torch.float32), path)
    return path


def _onnxruntime(source: Source) -> Contender:
    library("onnxruntime", EXTRA)
    if source.precision not in ("float32", INT8):
        raise UnsupportedError(f"ONNX Runtime has no {source.precision} products for a CPU.")
    path = _onnx_file(source)
    if source.precision == INT8:
        quantized = source.work / "model_quantized.onnx"
        if not quantized.exists():
            write_int8_onnx(path, quantized)
        path = quantized
    return Contender(onnxruntime_encode(path))


def _openvino(source: Source) -> Contender:
    library("openvino", EXTRA)
    if source.precision not in ("float32", "bfloat16"):
        raise UnsupportedError(
            f"OpenVINO in {source.precision} needs data to calibrate with (NNCF); it is not part "
            "of this comparison."
        )
    return Contender(openvino_encode(_onnx_file(source), source.precision))


Builder = Callable[[Source], Contender]

# Another engine joins by a function that loads the checkpoint, and a row.
CONTENDERS: Mapping[str, Builder] = {
    "minilm": _minilm,
    "minilm-packed": _minilm_packed,
    "transformers": _transformers,
    "transformers-eager": _transformers_eager,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
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
