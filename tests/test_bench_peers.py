"""Other engines in `minilm bench encode`: who takes part, and that nobody is timed doing less."""

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from minilm import MinilmError
from minilm.bench import contenders, load, measure
from minilm.bench.contenders import CONTENDERS, Contender, Source, load_base
from minilm.bench.measure import check_agreement, expected_states, token_states
from minilm.bench.peers import write_int8_onnx, write_onnx
from minilm.bench.workload import Batch, make_batches
from minilm.cli import main
from minilm.errors import ExportError
from minilm.export.checking import check_integers
from saved import save_tiny

QUICK = ["--texts", "4", "--batch-size", "2", "--rounds", "1", "--training-batches", "0"]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 40}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), "BertModel", **SIZES)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, directory: Path) -> Path:
    """With both ONNX files."""
    path = tmp_path_factory.mktemp("work")
    write_onnx(load_base(directory, torch.float32), path / "model.onnx")
    write_int8_onnx(path / "model.onnx", path / "model_quantized.onnx")
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PEAK_SIZE", 64)
    monkeypatch.setattr(measure, "LATENCY_REPEATS", 1)
    monkeypatch.setattr(load, "BEFORE", 0.01)


def sample() -> Batch:
    (batch,) = make_batches([17, 40, 6], batch_size=3, vocab_size=61, seed=1)
    return batch


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_onnx_runtime_gives_the_same_states(directory: Path, work: Path, precision: str) -> None:
    engine = CONTENDERS["onnxruntime"](Source(directory, precision, work))
    right, wrong = expected_states(directory, sample())
    found = check_agreement({"onnxruntime": engine}, sample(), precision, right, wrong)
    assert found["onnxruntime"].cosine > (0.99 if precision == "int8" else 0.999999)
    assert (found["onnxruntime"].difference > 1e-4) == (precision == "int8")


def test_openvino_gives_the_same_states(directory: Path, work: Path) -> None:
    pytest.importorskip("openvino")
    engine = CONTENDERS["openvino"](Source(directory, "float32", work))
    right, wrong = expected_states(directory, sample())
    check_agreement({"openvino": engine}, sample(), "float32", right, wrong)
    first = engine.encode(sample())
    kept = first.clone()
    engine.encode(make_batches([5, 9, 3], batch_size=3, vocab_size=61, seed=2)[0])
    assert torch.equal(first, kept)  # what an engine returns stays the caller's


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_contender_that_drops_the_mask_is_caught(directory: Path, precision: str) -> None:
    """Even where rounding is too coarse for the difference alone."""
    model = load_base(directory, torch.float32)
    right, wrong = expected_states(directory, sample())
    careless = Contender(lambda batch: model(batch.input_ids).last_hidden_state)
    with pytest.raises(MinilmError, match="careless"):
        check_agreement({"careless": careless}, sample(), precision, right, wrong)


def test_padding_is_noticed_where_states_hardly_differ(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh weights attend to everything alike, so that a cosine would say little."""
    monkeypatch.setitem(measure.COSINE, "int8", 0.0)
    model = load_base(directory, torch.float32)
    right, wrong = expected_states(directory, sample())
    careless = Contender(lambda batch: model(batch.input_ids).last_hidden_state)
    with pytest.raises(MinilmError, match="careless reads padding"):
        check_agreement({"careless": careless}, sample(), "int8", right, wrong)
    fine = Contender(lambda batch: model(batch.input_ids, batch.attention_mask).last_hidden_state)
    check_agreement({"fine": fine}, sample(), "int8", right, wrong)


def test_what_is_compared_with_is_no_contender(directory: Path) -> None:
    right, _ = expected_states(directory, sample())
    engine = CONTENDERS["minilm"](Source(directory, "float32", directory))
    torch.testing.assert_close(token_states(engine, sample()), right.double(), rtol=0, atol=1e-4)


# --- 8-bit files ---


def integer_products(path: Path) -> int:
    return sum(node.op_type == "MatMulInteger" for node in onnx.load(path).graph.node)


def test_all_products_with_weights_are_in_integers(work: Path) -> None:
    assert integer_products(work / "model_quantized.onnx") == 3 * 6  # layers, products in each
    size = (work / "model_quantized.onnx").stat().st_size
    assert size < (work / "model.onnx").stat().st_size


def behind_transposes(source: Path, target: Path) -> None:
    """The same model with every matrix stored the other way round, as exporters leave them."""
    model = onnx.load(source)
    weights = {one.name: one for one in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            weight = weights[node.input[1]]
            turned = onnx.numpy_helper.to_array(weight).T.copy()
            weight.CopyFrom(onnx.numpy_helper.from_array(turned, weight.name))
            name = f"{weight.name}_turned"
            nodes.append(onnx.helper.make_node("Transpose", [weight.name], [name], perm=[1, 0]))
            node.input[1] = name
        nodes.append(node)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def test_a_file_that_was_not_prepared_is_caught(work: Path, tmp_path: Path) -> None:
    """The usual tool silently leaves products with turned weights in floating point."""
    source, target = tmp_path / "turned.onnx", tmp_path / "quantized.onnx"
    behind_transposes(work / "model.onnx", source)
    quantize_dynamic(source, target, weight_type=QuantType.QInt8)
    with pytest.raises(ExportError, match=r"tables stayed float \(18\)"):
        check_integers(target)


def test_a_float_file_is_no_quantised_one(work: Path) -> None:
    with pytest.raises(ExportError, match="is not in 8 bits"):
        check_integers(work / "model.onnx")


def test_one_float_product_is_enough(work: Path, tmp_path: Path) -> None:
    model = onnx.load(work / "model_quantized.onnx")
    weight = onnx.numpy_helper.from_array(torch.ones(4, 4).numpy(), "stray")
    model.graph.initializer.append(weight)
    model.graph.node.append(onnx.helper.make_node("MatMul", ["x", "stray"], ["y"], "left"))
    onnx.save(model, tmp_path / "stray.onnx")
    with pytest.raises(ExportError, match=r"tables stayed float \(1\), such as stray"):
        check_integers(tmp_path / "stray.onnx")


# --- who takes part ---


def test_engines_that_are_absent_are_left_out_by_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    run = CliRunner().invoke(
        main, ["bench", "encode", str(directory), "--against", "openvino", *QUICK, "--json"]
    )
    assert run.exit_code == 0, run.stderr
    result = json.loads(run.stdout)
    assert set(result["contenders"]) == {"minilm", "minilm-packed"}
    assert "pip install openvino" in result["skipped"]["openvino"]
    assert "openvino does not take part" in run.stderr
    assert result["reference"] is None


def test_several_precisions_and_engines_in_one_run(directory: Path) -> None:
    run = CliRunner().invoke(
        main,
        ["bench", "encode", str(directory), "--against", "transformers,onnxruntime",
         "--precision", "fp32,bf16", *QUICK, "--clock", "cpu", "--json"],
    )  # fmt: skip
    assert run.exit_code == 0, run.stderr
    first, second = json.loads(run.stdout)["runs"]
    assert [r["model"]["dtype"] for r in (first, second)] == ["float32", "bfloat16"]
    assert set(first["contenders"]) == {"minilm", "minilm-packed", "transformers", "onnxruntime"}
    assert "no bfloat16 products" in second["skipped"]["onnxruntime"]
    assert second["contenders"]["minilm"]["arrival"]["ratio"] > 0
    assert first["workload"]["clock"] == "cpu"


def test_an_unknown_engine_or_precision_is_a_usage_error() -> None:
    for arguments in (["--against", "turbo"], ["--precision", "int4"], ["a", "--model", "b"]):
        run = CliRunner().invoke(main, ["bench", "encode", *arguments])
        assert run.exit_code == 2
        assert "Usage" in run.stderr


class Rounded(nn.Module):
    """Stands for a quantised model: its states are a little off."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.model(*args, **kwargs)
        noise: Tensor = 0.01 * torch.ones_like(output.last_hidden_state)
        output.last_hidden_state = output.last_hidden_state + noise
        return output


def test_int8_takes_what_quantize_returns(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contenders, "quantize", Rounded)
    source = Source(directory, "int8", tmp_path)
    engines = {name: CONTENDERS[name](source) for name in ("minilm", "minilm-packed")}
    assert all(engine.module is None for engine in engines.values())  # nothing to train
    right, wrong = expected_states(directory, sample())
    found = check_agreement(engines, sample(), "int8", right, wrong)
    assert all(0.005 < one.difference < 0.1 for one in found.values())
