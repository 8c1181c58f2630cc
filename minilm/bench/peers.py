"""Engines that run an ONNX file: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minilm.bench.workload import Batch
from minilm.errors import DependencyError, MinilmError
from minilm.models.encoder import EncoderModel

OPSET = 23  # has attention as one operator
INPUTS = ("input_ids", "attention_mask")
STATES = "last_hidden_state"


class LeftFloatError(MinilmError):
    """A quantised file still multiplies by a floating-point weight."""


def need(module: str, package: str) -> Any:
    """Imports an optional package.

    Raises:
        DependencyError: it is not there; says how to install it.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise DependencyError(
            f"{package} is not installed: pip install {package}, or pip install 'minilm[bench]' "
            "for all engines."
        ) from None


class _States(nn.Module):
    """The encoder as a function of ids and mask."""

    def __init__(self, model: EncoderModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids, attention_mask).last_hidden_state
        return states


def export_onnx(model: EncoderModel, path: Path) -> None:
    """Writes the encoder's last hidden states as an ONNX file for any batch and length.

    Args:
        model: float32, in eval mode.
        path: the file.
    """
    need("onnxscript", "onnxscript")
    need("onnx", "onnx")
    ids = torch.ones(2, 4, dtype=torch.int64)
    axes = {
        name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")} for name in INPUTS
    }
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _States(model).eval(),
            (ids, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])),
            path,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[STATES],
            dynamic_shapes=axes,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


def quantize_onnx(source: Path, target: Path) -> None:
    """Writes an 8-bit version of a file: static scales for output channels, dynamic activations.

    Raises:
        LeftFloatError: a product with a weight was left in floating point, as happens silently to
            an exported file that is not prepared first.
    """
    quantization = need("onnxruntime.quantization", "onnxruntime")
    shape_inference = need("onnxruntime.quantization.shape_inference", "onnxruntime")
    prepared = target.with_name("prepared.onnx")
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            # folds the transposed weights that the exporter leaves behind
            shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantization.quantize_dynamic(
                prepared,
                target,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    finally:
        prepared.unlink(missing_ok=True)
    check_quantized(target)


def check_quantized(path: Path) -> int:
    """Counts the products of a quantised file.

    Returns:
        How many multiply integers.

    Raises:
        LeftFloatError: one multiplies by a floating-point weight, or none is quantised.
    """
    onnx = need("onnx", "onnx")
    graph = onnx.load(path).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}

    def is_weight(name: str) -> bool:
        while name in made and made[name].op_type in ("Transpose", "Reshape", "Identity", "Cast"):
            name = made[name].input[0]
        return kinds.get(name) in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)

    floats = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and any(map(is_weight, node.input[:2]))
    ]
    integer_kinds = ("MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul")
    integers = len([node for node in graph.node if node.op_type in integer_kinds])
    if floats or not integers:
        raise LeftFloatError(
            f"{path}: {len(floats)} products with weights were left in floating point "
            f"({', '.join(floats[:3])}), {integers} are in integers: this is no 8-bit model."
        )
    return integers


def onnxruntime_encode(path: Path) -> Any:
    """Batch -> (B, S, H), by ONNX Runtime with torch's number of threads."""
    runtime = need("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(batch: Batch) -> Tensor:
        (states,) = session.run(None, _arrays(batch))
        return torch.from_numpy(states)

    return encode


def openvino_encode(path: Path, precision: str) -> Any:
    """Batch -> (B, S, H), by OpenVINO with torch's number of threads."""
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    openvino = need("openvino", "openvino")
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

    def encode(batch: Batch) -> Tensor:
        # what it returns is its own memory, which the next call overwrites: a copy, as for others
        states = request.infer(_arrays(batch), share_inputs=True)[0]
        return torch.from_numpy(states)

    return encode


def _arrays(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name).numpy() for name in INPUTS}


@contextlib.contextmanager
def _quiet() -> Any:
    """Without what exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
