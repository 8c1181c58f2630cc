"""Records a model as an ONNX graph with the names that other programs expect.

torch.export records the model and torch.onnx translates the record. The names of inputs, outputs
and axes are those of Hugging Face's optimum, which users of onnxruntime, sentence-transformers and
transformers.js know.

The graph uses opset 20, with attention as plain products, so that every engine runs it. ONNX's own
Attention operator (opset 23) was at most 4 % faster in onnxruntime on a CPU; older engines and
those for GPUs in the browser lack it.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from minilm.blocks.kernels import attention
from minilm.config import EncoderConfig
from minilm.errors import ExportError
from minilm.files.libraries import library
from minilm.models.int8 import is_int8, to_float
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMultipleChoice

OPSET = 20
# rows, choices and tokens of the example that is recorded; none may be 0 or 1, which are recorded
# as constants
EXAMPLE = (2, 3, 8)

# what a model returns -> the name of the output; what is not listed is left out, such as the pooled
# vector of an encoder and the pair head of a pretraining model
OUTPUTS = {
    "last_hidden_state": "last_hidden_state",
    "prediction_logits": "logits",
    "logits": "logits",
    "start_logits": "start_logits",
    "end_logits": "end_logits",
}


class Named(nn.Module):
    """Wraps a model with positional inputs and only the exported outputs."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model
        self.names = input_names(model)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors of `OUTPUTS` that the model returns, in order."""
        out = self.model(**dict(zip(self.names, inputs, strict=True)))
        return tuple(out[key] for key in out if key in OUTPUTS)


def input_names(model: PretrainedModel) -> list[str]:
    """input_ids, attention_mask and, for models with token types, token_type_ids."""
    names = ["input_ids", "attention_mask"]
    return [*names, "token_type_ids"] if _has_token_types(model.config) else names


def axis_names(model: PretrainedModel) -> list[str]:
    """The names of the axes of every input, in order."""
    choices = ["num_choices"] if isinstance(model, ForMultipleChoice) else []
    return ["batch_size", *choices, "sequence_length"]


def single_precision(model: PretrainedModel) -> PretrainedModel:
    """The model itself if it is in float32 and eval mode on the CPU; else such a copy.

    For a quantised model it is a copy with dequantised weights.
    """
    if is_int8(model):
        model = to_float(model)
    parameters = list(model.parameters())
    ready = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
    if ready and not model.training and model.layout == "auto":
        return model
    model = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    model.layout = "auto"
    return model


def to_graph(model: PretrainedModel) -> Any:
    """Records a model.

    Args:
        model: a model in float32 and eval mode on the CPU, see `single_precision`.

    Returns:
        An `onnx_ir.Model` whose batch and sequence axes may have any size.

    Raises:
        ExportError: the model cannot be recorded, or not for every size.
        DependencyError: onnx or onnxscript is not installed.
    """
    library("onnx", "export")
    library("onnxscript", "export")
    axes = axis_names(model)
    limit = model.config.max_position_embeddings
    if limit < 2:
        raise ExportError(f"max_position_embeddings is {limit}: expected at least 2 to export.")
    rows, choices, length = EXAMPLE
    sizes = {"batch_size": rows, "num_choices": choices, "sequence_length": min(length, limit)}
    shape = [sizes[axis] for axis in axes]
    dims = {
        axis: torch.export.Dim(axis, max=limit)
        if axis == "sequence_length"
        else torch.export.Dim(axis)
        for axis in axes
    }
    ids = torch.ones(shape, dtype=torch.int64)
    mask = ids.clone()
    mask[0, ..., -1] = 0
    example = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    named = Named(model).eval()
    inputs = tuple(example[name] for name in named.names)
    free = {number: dims[axis] for number, axis in enumerate(axes)}
    with _quiet(), torch.no_grad(), attention("explicit"):
        outputs = [
            OUTPUTS[key]
            for key in model(**dict(zip(named.names, inputs, strict=True)))
            if key in OUTPUTS
        ]
        try:
            recorded = torch.export.export(
                named, inputs, dynamic_shapes=((free,) * len(inputs),), strict=False
            )
            program = torch.onnx.export(
                recorded, dynamo=True, opset_version=OPSET, optimize=True, verbose=False
            )
        except Exception as problem:  # torch raises many kinds
            raise ExportError(
                f"{type(model).__name__} cannot be recorded by torch for every batch and length: "
                f"{str(problem)[:2000]}"
            ) from problem
    assert program is not None
    graph = program.model.graph
    for value, name in zip(graph.inputs, named.names, strict=True):
        value.name = name
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    return program.model


def _has_token_types(config: EncoderConfig) -> bool:
    return bool(getattr(config, "type_vocab_size", 0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's own log messages and warnings inside the block."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
