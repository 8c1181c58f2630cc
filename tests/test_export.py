"""ONNX files: names, numbers, sizes, and that wrong ones are refused.

Recording a model takes seconds, so most tests share the files of a few models. All classes:
pytest -m slow tests/test_export.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnxruntime.quantization import QuantType, quantize_dynamic

import minilm
from minilm.cli import main
from minilm.errors import CheckpointError, DependencyError, ExportError
from minilm.export import folder
from minilm.export.checking import (
    TOLERANCE,
    Call,
    calls,
    check_integers,
    check_mask,
    check_same,
    check_similar,
    check_stored_once,
)
from minilm.export.folder import FLOAT_FILE, INT8_FILE, export_onnx
from minilm.export.onnx_graph import single_precision
from minilm.export.onnx_int8 import MATRIX_LEVELS, quantize_graph, quantize_rows
from minilm.files import libraries
from minilm.models.pretrained import PretrainedModel
from minilm.sentence.files import (
    SentenceSettings,
    read_sentence_settings,
    write_sentence_settings,
)
from saved import save_tiny
from tiny import ALL_CLASSES, tiny

TEXTS = ["a b", "the cat sat on the mat", "dog"]
SHARED = ["AlbertForMaskedLM", "DistilBertForSequenceClassification", "BertForQuestionAnswering"]
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def no_step() -> None:
    """What the checks call after each call."""


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def outputs_of(class_name: str) -> list[str]:
    if class_name.endswith("Model"):
        return ["last_hidden_state"]
    spans = class_name.endswith("QuestionAnswering")
    return ["start_logits", "end_logits"] if spans else ["logits"]


class Exported:
    """The files of a tiny model, and the calls they are compared on."""

    def __init__(self, class_name: str, path: Path, **changes: Any) -> None:
        self.model: PretrainedModel = tiny(class_name, torch.float32, **changes)
        self.path = path
        self.report = export_onnx(self.model, path)
        self.calls: list[Call] = calls(self.model)
        self.float_file, self.int8_file = path / FLOAT_FILE, path / INT8_FILE

    def damaged(self, path: Path, damage: Callable[[ir.Graph], None]) -> Path:
        """A copy of the float file with a change."""
        graph = ir.load(self.float_file)
        damage(graph.graph)
        ir.save(graph, path)
        return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    made: dict[str, Exported] = {}

    def export(class_name: str) -> Exported:
        if class_name not in made:
            path = tmp_path_factory.mktemp("onnx") / class_name
            made[class_name] = Exported(class_name, path, vocab_size=301)
        return made[class_name]

    return export


@pytest.fixture
def masked_lm(exports: Callable[[str], Exported]) -> Exported:
    return exports("AlbertForMaskedLM")


def check_export(exported: Exported, class_name: str) -> None:
    """Names, axes, shapes, numbers and layout of one export."""
    model, report = exported.model, exported.report
    inputs = INPUTS[: 2 if "DistilBert" in class_name else 3]
    axes: list[str | int] = ["batch_size", "sequence_length"]
    if "MultipleChoice" in class_name:
        axes.insert(1, "num_choices")
    for path in (exported.float_file, exported.int8_file):
        onnx.checker.check_model(str(path))
        run = session(path)
        assert [put.name for put in run.get_inputs()] == inputs == report.inputs
        assert all(put.shape == axes and put.type == "tensor(int64)" for put in run.get_inputs())
        assert [put.name for put in run.get_outputs()] == outputs_of(class_name) == report.outputs
        assert all(put.shape[0] == "batch_size" for put in run.get_outputs())
    assert check_same(exported.float_file, exported.calls, no_step) == report.float_error
    assert report.float_error <= TOLERANCE
    assert check_similar(exported.int8_file, exported.calls, no_step) == report.int8_cosine
    config = json.loads((exported.path / "config.json").read_text())
    assert config["architectures"] == [class_name.replace("PreTraining", "MaskedLM")]
    assert type(model.config).from_dict(config).to_dict() | {"architectures": 0, "dtype": 0} == (
        model.config.to_dict() | {"architectures": 0, "dtype": 0}
    )
    # what a program computes by itself: another shape than any that was compared
    rows = np.ones((3, *([2] if "num_choices" in axes else []), 11), dtype=np.int64)
    rows[..., 4:] = 7
    mask = np.ones_like(rows)
    mask[1, ..., 6:] = 0
    feed = dict(zip(inputs, (rows, mask, rows * 0), strict=False))
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
    for name, found in zip(
        report.outputs, session(exported.float_file).run(report.outputs, feed), strict=True
    ):
        key = "prediction_logits" if "PreTraining" in class_name else name
        assert np.abs(found - expected[key].numpy()).max() <= 2e-5


@pytest.mark.parametrize("class_name", SHARED)
def test_names_numbers_and_layout(class_name: str, exports: Callable[[str], Exported]) -> None:
    check_export(exports(class_name), class_name)


@pytest.mark.slow
@pytest.mark.parametrize("class_name", [name for name in ALL_CLASSES if name not in SHARED])
def test_every_class(class_name: str, tmp_path: Path) -> None:
    check_export(Exported(class_name, tmp_path / "out"), class_name)


def test_shared_weights_are_stored_once(masked_lm: Exported) -> None:
    """Three applications of one layer, and a word table that is the decoder too."""
    graph = ir.load(masked_lm.float_file).graph
    stored = sum(value.const_value.nbytes for value in graph.initializers.values())
    assert stored <= masked_lm.report.parameter_bytes + 1024
    matrices = [
        value
        for value in ir.load(masked_lm.int8_file).graph.initializers.values()
        if value.const_value.dtype == ir.DataType.INT8
    ]
    # tables of words, positions and token types; projection; six of the layer; one of the head
    assert len(matrices) == 3 + 1 + 6 + 1
    words = masked_lm.model.config.vocab_size
    assert sum(words in value.const_value.shape for value in matrices) == 1


def test_a_copy_of_shared_weights_is_refused(masked_lm: Exported, tmp_path: Path) -> None:
    def duplicate(graph: ir.Graph) -> None:
        for index in range(3):
            array = np.full((16, 64), index, dtype=np.float32)
            value = ir.Value(name=f"copy{index}", const_value=ir.tensor(array))
            graph.register_initializer(value)

    check_stored_once(masked_lm.float_file, masked_lm.model)
    with pytest.raises(ExportError, match="shared weights were copied"):
        check_stored_once(masked_lm.damaged(tmp_path / "x.onnx", duplicate), masked_lm.model)


def test_no_traces_are_left(masked_lm: Exported) -> None:
    proto = onnx.load(masked_lm.float_file)
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert not proto.metadata_props
    assert b".py" not in masked_lm.float_file.read_bytes()


def ignore_mask(graph: ir.Graph) -> None:
    """Every token is attended: the graph reads the ids, never 0, where it read the mask."""
    ids, mask = graph.inputs[0], graph.inputs[1]
    for node, index in mask.uses():
        node.replace_input_with(index, ids)


def fix_length(graph: ir.Graph) -> None:
    """The number of tokens in the example is a constant."""
    eight = ir.Value(name="eight", const_value=ir.tensor(np.array([8])))
    graph.register_initializer(eight)
    found = [
        node for node in graph if node.op_type == "Shape" and node.attributes["start"].as_int() == 1
    ]
    assert found
    for node in found:
        node.outputs[0].replace_all_uses_with(eight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(ignore_mask, r"differs from the model by .*padding"), (fix_length, "other sizes|has shape")],
)
def test_wrong_files_are_refused(
    damage: Callable[[ir.Graph], None],
    message: str,
    masked_lm: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = masked_lm.damaged(tmp_path / "x.onnx", damage)
    with pytest.raises(ExportError, match=message):
        check_same(path, masked_lm.calls, no_step)
    # the whole export fails then, and leaves nothing
    monkeypatch.setattr(folder, "to_graph", lambda model: ir.load(path))
    with pytest.raises(ExportError, match=message):
        export_onnx(masked_lm.model, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["x.onnx"]


def test_a_file_that_ignores_the_mask_in_8_bits_is_refused(
    masked_lm: Exported, tmp_path: Path
) -> None:
    graph = ir.load(masked_lm.int8_file)
    ignore_mask(graph.graph)
    ir.save(graph, tmp_path / "x.onnx")
    check_mask(masked_lm.int8_file, masked_lm.calls, no_step)
    with pytest.raises(ExportError, match="changes by .* attention_mask hides"):
        check_mask(tmp_path / "x.onnx", masked_lm.calls, no_step)


def test_a_file_in_8_bits_far_from_the_model_is_refused(
    masked_lm: Exported, tmp_path: Path
) -> None:
    graph = ir.load(masked_lm.int8_file)
    for name, value in graph.graph.initializers.items():
        if name.endswith(".scales"):  # every second output of every product has the wrong sign
            scales = value.const_value.numpy().copy()
            scales[::2] *= -1
            value.const_value = ir.tensor(scales, name=name)
    ir.save(graph, tmp_path / "x.onnx")
    with pytest.raises(ExportError, match="too far from the model: the smallest cosine"):
        check_similar(tmp_path / "x.onnx", masked_lm.calls, no_step)


def test_float_products_are_refused(
    exports: Callable[[str], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = exports("DistilBertForSequenceClassification")
    check_integers(exported.int8_file)
    with pytest.raises(ExportError, match="stayed float"):
        check_integers(exported.float_file)
    # one matrix is overlooked
    graph = ir.load(exported.float_file)
    quantize = folder.quantize_graph

    def all_but_one(model: ir.Model) -> None:
        name = next(name for name in model.graph.initializers if "classifier.weight" in name)
        value = model.graph.initializers[name]
        (node, index), *_ = value.uses()
        (same,) = [ir.Value(name="same")]
        keep = ir.Node("", "Identity", [value], outputs=[same])
        model.graph.insert_before(node, keep)
        node.replace_input_with(index, same)
        quantize(model)

    all_but_one(graph)
    ir.save(graph, tmp_path / "x.onnx")
    with pytest.raises(ExportError, match=r"tables stayed float \(1\), such as same"):
        check_integers(tmp_path / "x.onnx")
    monkeypatch.setattr(folder, "quantize_graph", all_but_one)
    monkeypatch.setattr(folder, "to_graph", lambda model: ir.load(exported.float_file))
    with pytest.raises(ExportError, match="stayed float"):
        export_onnx(exported.model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_usual_tool_leaves_tables_and_the_decoder(masked_lm: Exported, tmp_path: Path) -> None:
    """Quantising with onnxruntime's own function converts the layers, not all that is large."""
    quantize_dynamic(
        masked_lm.float_file,
        tmp_path / "x.onnx",
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"MatMulConstBOnly": True},
    )
    with pytest.raises(ExportError, match=r"stayed float .*such as .*embeddings"):
        check_integers(tmp_path / "x.onnx")


def test_no_product_can_saturate(exports: Callable[[str], Exported]) -> None:
    """Two products with unsigned bytes are added in 16 bits on processors without VNNI."""
    most = 0
    for class_name in SHARED:
        graph = ir.load(exports(class_name).int8_file).graph
        for node in graph:
            if node.op_type == "MatMulInteger":
                matrix = node.inputs[1]
                if matrix.producer() is not None:
                    matrix = matrix.producer().inputs[0]
                most = max(most, int(np.abs(matrix.const_value.numpy().astype(int)).max()))
    assert most == MATRIX_LEVELS
    assert 2 * 255 * most <= 2**15 - 1
    eight_bits, _ = quantize_rows(np.ones((2, 2), dtype=np.float32), 127)
    assert 2 * 255 * int(eight_bits.max()) > 2**15 - 1  # which is why 8 bits are not used


def test_a_text_in_8_bits_does_not_depend_on_its_batch(masked_lm: Exported, tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(1, 61, (6, 10))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    alone = {name: value[:1] for name, value in feed.items()}

    def change(path: Path) -> float:
        run = session(path)
        return float(np.abs(run.run(None, feed)[0][:1] - run.run(None, alone)[0]).max())

    assert change(masked_lm.int8_file) <= 1e-4
    usual = tmp_path / "x.onnx"
    quantize_dynamic(masked_lm.float_file, usual, op_types_to_quantize=["MatMul"])
    assert change(usual) > 1e-2  # one scale for the whole tensor


def test_quantised_rows() -> None:
    matrix = np.array([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0]], dtype=np.float32)
    whole, scale = quantize_rows(matrix, 64)
    assert whole.tolist() == [[32, -64, 16], [0, 0, 0]]
    assert scale[:, 0].tolist() == [1 / 64, 1.0]


def test_quantising_twice_changes_nothing(masked_lm: Exported) -> None:
    graph = ir.load(masked_lm.int8_file)
    before = [node.op_type for node in graph.graph]
    quantize_graph(graph)
    assert [node.op_type for node in graph.graph] == before


def test_weights_of_other_types_become_float32() -> None:
    half = tiny("DistilBertModel", torch.float16)
    half.train()
    wide = single_precision(half)
    assert wide.dtype == torch.float32
    assert not wide.training
    assert half.dtype == torch.float16  # the caller's stays as it was
    assert half.training
    assert single_precision(wide) is wide


def test_a_quantised_model_is_exported_as_the_numbers_it_stands_for(tmp_path: Path) -> None:
    small = minilm.quantize(tiny("DistilBertModel", torch.float32, num_hidden_layers=1))
    small.save_pretrained(tmp_path / "int8")
    report = export_onnx(small, tmp_path / "model")
    assert report.float_error <= TOLERANCE
    export_onnx(tmp_path / "int8", tmp_path / "directory", int8=False)
    files = [tmp_path / name / FLOAT_FILE for name in ("model", "directory")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "quantization_config" not in (tmp_path / "directory/config.json").read_text()


def test_the_shapes_fit_a_model_of_two_positions(tmp_path: Path) -> None:
    model = tiny("BertModel", torch.float32, max_position_embeddings=2)
    assert export_onnx(model, tmp_path / "out").float_error <= TOLERANCE
    # what the masks are checked with
    assert any((call.inputs["attention_mask"][:, 1:] == 0).any() for call in calls(model))
    short = tiny("BertModel", torch.float32, max_position_embeddings=1)
    with pytest.raises(ExportError, match="max_position_embeddings is 1: expected at least 2"):
        export_onnx(short, tmp_path / "short")


def test_the_command_on_a_sentence_encoder(tmp_path: Path) -> None:
    """The folder holds all that a program needs to compute the vectors of minilm's encoder."""
    save_tiny(tmp_path / "model", "BertModel", num_hidden_layers=1, max_position_embeddings=40)
    settings = SentenceSettings(max_length=30, pooling="mean", unit_length=True)
    write_sentence_settings(tmp_path / "model", settings)
    encoder = minilm.Encoder.from_pretrained(tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {"config.json", "modules.json", "1_Pooling/config.json", FLOAT_FILE, INT8_FILE} <= set(
        report["files"]
    )
    assert not (tmp_path / "out/model.safetensors").exists()

    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = theirs(TEXTS, padding=True, return_tensors="np")
    (states,) = session(tmp_path / "out" / FLOAT_FILE).run(None, dict(batch))
    mask = batch["attention_mask"][..., None]
    vectors = (states * mask).sum(1) / mask.sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(vectors - encoder.encode(TEXTS, normalize=True)).max() < 1e-5
    pair = theirs("a", "b")
    assert pair["token_type_ids"][-1] == 1
    written = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "BertTokenizer"  # or the browser drops token types
    assert written["model_max_length"] == 40
    assert written["model_input_names"] == INPUTS
    assert read_sentence_settings(tmp_path / "out") == read_sentence_settings(tmp_path / "model")

    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


def test_a_checkpoint_without_its_classifier_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "DistilBertModel")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["architectures"] = ["DistilBertForSequenceClassification"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"does not store .*classifier"):
        export_onnx(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(libraries, "import_module", absent)
    with pytest.raises(DependencyError, match=r"pip install 'minilm\[export\]'"):
        export_onnx(tiny("BertModel"), tmp_path / "out")
    result = CliRunner().invoke(main, ["export", "bert-mini", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "minilm[export]" in result.stderr


def test_a_model_that_cannot_be_recorded_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("BertModel", torch.float32)
    first = model.forward

    def reads_a_value(input_ids: torch.Tensor, **others: Any) -> Any:
        if int(input_ids.sum()) < 0:
            raise AssertionError
        return first(input_ids, **others)

    monkeypatch.setattr(model, "forward", reads_a_value)
    with pytest.raises(ExportError, match="BertModel cannot be recorded"):
        export_onnx(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
