"""ONNX by both exporters of torch, run in onnxruntime and in OpenVINO on calls of other shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from minilm.models.pretrained import PretrainedModel
from test_recorders import CLASSES, POOLED, SIZES, WHOLE, Logits, agree, example
from tiny import tiny
from twins import STEMS, some_now

NAMES = ["input_ids", "attention_mask"]
AXES = {0: "batch", 1: "length"}


def exported(model: PretrainedModel, path: Path, dynamo: bool, kind: str) -> str:
    """The file of one exporter, for any batch and length."""
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=20)
    dynamic: dict[str, Any] = (
        {"dynamic_shapes": ({0: batch, 1: length},) * 2}
        if dynamo
        else {"dynamic_axes": dict.fromkeys(NAMES, AXES), "opset_version": 17}
    )
    outputs = list(model(*example(kind)))
    file = str(path / "model.onnx")
    torch.onnx.export(
        model,
        example(kind),
        file,
        input_names=NAMES,
        output_names=outputs,
        dynamo=dynamo,
        **dynamic,
    )
    return file


def session(file: str) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """The file in onnxruntime; both inputs must be inputs of the graph."""
    run = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [put.name for put in run.get_inputs()] == NAMES
    names = [put.name for put in run.get_outputs()]

    def call(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        values = run.run(names, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return call


@SIZES
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("class_name", POOLED)
def test_the_exporter_that_traces(class_name: str, kind: str, tmp_path: Path) -> None:
    model = tiny(class_name, torch.float32)
    agree(session(exported(model, tmp_path, False, kind)), model)


@pytest.mark.parametrize(
    "class_name", some_now(CLASSES, lambda name: name == "DistilBertForSequenceClassification")
)
def test_the_exporter_on_dynamo(class_name: str, tmp_path: Path) -> None:
    model = tiny(class_name, torch.float32)
    agree(session(exported(model, tmp_path, True, "whole")), model)


@SIZES
@pytest.mark.clients
@pytest.mark.parametrize("kind", ["whole", "padded"])
@pytest.mark.parametrize("stem", STEMS)
def test_openvino_conversion(stem: str, kind: str) -> None:
    openvino = pytest.importorskip("openvino")
    model = tiny(f"{stem}ForTokenClassification", torch.float32)
    shape = openvino.PartialShape([-1, -1])
    converted = openvino.convert_model(
        Logits(model).eval(),
        example_input=example(kind),
        input=[(shape, openvino.Type.i64), (shape, openvino.Type.i64)],
    )
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(converted, "CPU", precision)
    agree(
        lambda ids, mask: {"logits": torch.from_numpy(compiled([ids.numpy(), mask.numpy()])[0])},
        model,
    )
