"""Engines that run an ONNX file: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilm.bench.workload import Batch
from minilm.export.checking import check_integers
from minilm.export.onnx_cleaning import clean
from minilm.export.onnx_graph import axis_names, to_graph
from minilm.export.onnx_int8 import quantize_graph
from minilm.files.libraries import library
from minilm.models.encoder import EncoderModel

EXTRA = "bench"


def write_onnx(model: EncoderModel, path: Path) -> None:
    """Writes the file that `minilm export` makes of an encoder.

    Args:
        model: the encoder in float32, in eval mode, on the CPU.
        path: the file.
    """
    graph = to_graph(model)
    clean(graph, axis_names(model))
    library("onnx_ir", EXTRA).save(graph, path)


def write_int8_onnx(source: Path, target: Path) -> None:
    """Writes the 8-bit file that `minilm export` makes of one in float32.

    The file of onnxruntime's own tool is up to a fifth faster there, as it has one scale for all
    activations of a product: some states then have a cosine below 0.96 with the right ones.

    Raises:
        ExportError: a product with a weight or a table is still in floating point.
    """
    ir = library("onnx_ir", EXTRA)
    graph = ir.load(source)
    quantize_graph(graph)
    ir.save(graph, target)
    check_integers(target)


def onnxruntime_encode(path: Path) -> Any:
    """A function from a batch to (B, S, H) by ONNX Runtime, with torch's number of threads."""
    runtime = library("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def encode(batch: Batch) -> Tensor:
        (states,) = session.run(None, _arrays(batch, names))
        return torch.from_numpy(states)

    return encode


def openvino_encode(path: Path, precision: str) -> Any:
    """A function from a batch to (B, S, H) by OpenVINO, with torch's number of threads."""
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    openvino = library("openvino", EXTRA)
    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        },
    )
    request = compiled.create_infer_request()
    names = [one.get_any_name() for one in compiled.inputs]

    def encode(batch: Batch) -> Tensor:
        # what it returns is its own memory, which the next call overwrites: a copy, as for others
        states = request.infer(_arrays(batch, names), share_inputs=True)[0]
        return torch.from_numpy(states)

    return encode


def _arrays(batch: Batch, names: Iterable[str]) -> dict[str, Any]:
    tensors = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": torch.zeros_like(batch.input_ids),
    }
    return {name: tensors[name].numpy() for name in names}
