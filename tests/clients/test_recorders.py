"""What is recorded from a call holds for other calls: other masks, other lengths, other batches."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from minilm.models.pretrained import PretrainedModel
from tiny import ragged, tiny
from twins import STEMS, some_now

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
CLASSES = [f"{stem}{head}" for stem in STEMS for head in HEADS]
POOLED = some_now(CLASSES, lambda name: name.endswith("ForSequenceClassification"))
WHOLE = some_now(("whole", "padded"), lambda kind: kind == "whole")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def calls() -> list[tuple[Tensor, Tensor]]:
    """Ids and masks: padded right, padded left, with holes, whole, short, and a row of nothing."""
    one = ragged()
    left = {name: value.flip(1) for name, value in one.items()}
    ids = one["input_ids"].clamp(min=1)
    holes = torch.ones_like(ids)
    holes[1, 2] = holes[3, 4:6] = 0
    nothing = torch.ones_like(ids)
    nothing[2] = 0
    short = ragged((3, 2))
    return [
        (one["input_ids"], one["attention_mask"]),
        (left["input_ids"], left["attention_mask"]),
        (ids, holes),
        (ids, torch.ones_like(ids)),
        (short["input_ids"], short["attention_mask"]),
        (ids, nothing),
    ]


def example(kind: str) -> tuple[Tensor, Tensor]:
    """What the recording is made from: nothing is padded in it, or something is."""
    ids, mask = calls()[0]
    return (ids.clamp(min=1), torch.ones_like(mask)) if kind == "whole" else (ids, mask)


def agree(recorded: Callable[..., Any], model: PretrainedModel, same_shape: bool = False) -> None:
    """The recording says what the model says, for every call."""
    tried = 0
    for ids, mask in calls():
        if same_shape and ids.shape != calls()[0][0].shape:
            continue
        with torch.no_grad():
            expected = model(ids, mask)
            found = recorded(ids, mask)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], **CLOSE)
        tried += 1
    assert tried >= 5


# that sizes are compared with what the model takes; transformers is warned of as well
SIZES = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


@SIZES
@pytest.mark.parametrize("kind", ["whole", "padded"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_jit_trace(class_name: str, kind: str) -> None:
    model = tiny(class_name, torch.float32)
    traced = torch.jit.trace(model, example(kind), strict=False, check_trace=False)
    agree(traced, model)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    agree(torch.jit.load(file), model)


class Logits(nn.Module):
    """A model around a model, as people write them: one tensor out."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return output


@SIZES
@pytest.mark.parametrize("stem", STEMS)
def test_jit_trace_and_freeze_of_a_wrapped_model(stem: str) -> None:
    model = tiny(f"{stem}ForMaskedLM", torch.float32)
    frozen = torch.jit.freeze(torch.jit.trace(Logits(model).eval(), example("whole")))
    agree(lambda ids, mask: {"logits": frozen(ids, mask)}, model)


def exported(model: PretrainedModel, kind: str) -> torch.export.ExportedProgram:
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=20)
    names = ("input_ids", "attention_mask")
    return torch.export.export(
        model,
        (),
        dict(zip(names, example(kind), strict=True)),
        dynamic_shapes={name: {0: batch, 1: length} for name in names},
        strict=False,
    )


def by_name(program: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ids, mask: program(input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("class_name", POOLED)
def test_torch_export_and_its_file(class_name: str, kind: str) -> None:
    """What comes out of the file also has the names of the model's outputs."""
    model = tiny(class_name, torch.float32)
    program = exported(model, kind)
    agree(by_name(program.module()), model)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    agree(by_name(torch.export.load(file).module()), model)


def test_an_exported_encoder_can_be_copied() -> None:
    """Its outputs carry states for heads, which are no part of the program."""
    model = tiny("DistilBertModel", torch.float32)
    agree(by_name(copy.deepcopy(exported(model, "padded")).run_decompositions().module()), model)


@pytest.mark.clients
@pytest.mark.parametrize("stem", STEMS)
def test_aot_inductor_package(stem: str, tmp_path: Path) -> None:
    model = tiny(f"{stem}ForSequenceClassification", torch.float32)
    package = torch._inductor.aoti_compile_and_package(
        exported(model, "whole"), package_path=str(tmp_path / "model.pt2")
    )
    agree(by_name(torch._inductor.aoti_load_package(package)), model)


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("stem", STEMS)
def test_make_fx(stem: str, tracing_mode: str) -> None:
    model = tiny(f"{stem}ForTokenClassification", torch.float32)
    graph = make_fx(
        lambda ids, mask: model(ids, mask).logits,
        tracing_mode=tracing_mode,
        _allow_non_fake_inputs=True,
    )(*example("padded"))
    agree(lambda ids, mask: {"logits": graph(ids, mask)}, model, same_shape=True)


@pytest.mark.parametrize("class_name", CLASSES)
def test_fake_and_meta_tensors_have_the_shapes_of_real_ones(class_name: str) -> None:
    ids, mask = calls()[0]
    model = tiny(class_name, torch.float32)
    expected = {name: (value.shape, value.dtype) for name, value in model(ids, mask).items()}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = model(mode.from_tensor(ids), mode.from_tensor(mask))
    meta = model.to("meta")(ids.to("meta"), mask.to("meta"))
    for output in (fake, meta):
        assert {name: (v.shape, v.dtype) for name, v in output.items()} == expected
    assert meta[0].is_meta


@pytest.mark.parametrize("stem", STEMS)
def test_a_training_step_on_fake_tensors(stem: str) -> None:
    """Shapes of a model that is made, run and differentiated without the memory for it."""
    example_ids, _ = example("padded")
    real = tiny(f"{stem}ForSequenceClassification")
    with FakeTensorMode():
        model = type(real)(real.config)
        ids = torch.ones(example_ids.shape, dtype=torch.int64)
        labels = torch.zeros(len(ids), dtype=torch.int64)
        model(ids, torch.ones_like(ids), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == real.get_parameter(name).shape, name
