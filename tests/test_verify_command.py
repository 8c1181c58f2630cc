"""`minilm verify`, `verify_as` and what they print."""

import builtins
import dataclasses
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import minilm
from minilm.cli import main
from minilm.errors import CheckpointError, DependencyError, InputError
from minilm.loader import CLASSES
from minilm.models.pretrained import PretrainedModel
from minilm.parity import CALLS, MASKS, ParityReport, Row, reference_values, stored_classes, verify
from minilm.parity.reference_values import REFERENCES, Case, verify_as
from tiny import ALL_CLASSES, tiny


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with both pretraining heads."""
    directory = tmp_path_factory.mktemp("bert")
    tiny("BertForPreTraining", torch.float32).save_pretrained(directory)
    return directory


def changed(source: Path, destination: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with tensors replaced, added, or (None) left out."""
    shutil.copytree(source, destination, dirs_exist_ok=True)
    stored = load_file(source / "model.safetensors")
    stored.update({name: value for name, value in tensors.items() if value is not None})
    kept = {name: value for name, value in stored.items() if tensors.get(name, 0) is not None}
    save_file(kept, destination / "model.safetensors", {"format": "pt"})
    return destination


# --- verify -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_every_class_is_verified_from_its_own_files(name: str, tmp_path: Path) -> None:
    model = tiny(name, torch.float32)
    model.save_pretrained(tmp_path)
    report = verify(tmp_path)
    assert report.passed, str(report)
    base = type(model.base).__name__
    assert list(dict.fromkeys(row.model for row in report.rows)) == list(
        dict.fromkeys([base, name])
    )
    dtypes = {(row.dtype, row.mask) for row in report.rows}
    assert dtypes == {(dtype, mask) for dtype in ("float64", "float32") for mask in MASKS}
    assert {row.call for row in report.rows} == set(CALLS)


def test_no_socket_is_opened(bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert verify(bert_dir).passed


def test_heads_that_config_json_does_not_mention(bert_dir: Path, tmp_path: Path) -> None:
    directory = changed(bert_dir, tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text())
    for said in (["BertModel"], ["BertForMaskedLM"], ["SomebodyElse"], None, "BertModel", [3]):
        (directory / "config.json").write_text(json.dumps(config | {"architectures": said}))
        found = [cls.__name__ for cls in stored_classes(directory)]
        assert found == ["BertModel", "BertForPreTraining"]
    del config["model_type"], config["architectures"]
    (directory / "config.json").write_text(json.dumps(config))
    assert verify(directory).passed


def test_a_classifier_without_a_name_is_told_by_the_pooler(tmp_path: Path) -> None:
    for name in ("BertForSequenceClassification", "AlbertForTokenClassification"):
        tiny(name, torch.float32).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert stored_classes(tmp_path)[1].__name__ == name


def test_a_pooler_that_is_not_stored_is_not_compared(tmp_path: Path) -> None:
    tiny("BertForMaskedLM", torch.float32).save_pretrained(tmp_path)
    report = verify(tmp_path)
    assert report.passed
    assert report.notes == ["BertModel: no pooler_output stored, not compared"]
    assert "pooler_output" not in {row.module for row in report.rows}
    assert report.notes[0] in str(report)


def test_a_head_that_is_not_stored_is_an_error(tmp_path: Path) -> None:
    tiny("BertModel", torch.float32).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="classifier.weight.*random weights"):
        verify(tmp_path, class_name="BertForTokenClassification")


def test_unknown_model_type(tmp_path: Path) -> None:
    tiny("BertModel", torch.float32).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="model_type is 'gpt2': expected one of bert, dist"):
        verify(tmp_path)


def test_what_transformers_refuses_is_said_in_one_line(
    bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("not\n  today")

    monkeypatch.setattr(transformers.BertModel, "from_pretrained", refuse)
    with pytest.raises(CheckpointError, match="cannot load this as BertModel: not today"):
        verify(bert_dir)


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("encoder.embeddings.norm.bias", "embeddings"),
        ("encoder.layers.1.attention.query.bias", "layer 1 maps"),
        ("encoder.layers.2.feed_forward.output.weight", "layer 2"),
        ("encoder.pooler.dense.weight", "pooler_output"),
        ("masked_lm_head.norm.weight", "prediction_logits"),
        ("next_sentence_head.bias", "seq_relationship_logits"),
    ],
)
def test_a_loader_that_goes_wrong_is_caught(
    bert_dir: Path, monkeypatch: pytest.MonkeyPatch, path: str, module: str
) -> None:
    """One parameter that does not arrive as stored fails exactly where it acts."""
    load = PretrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def damaged(cls: type[PretrainedModel], *arguments: Any, **options: Any) -> PretrainedModel:
        model: PretrainedModel = load(cls, *arguments, **options)
        parameters = dict(model.named_parameters())
        name = path.removeprefix("encoder.") if model is model.base else path
        if name in parameters:
            with torch.no_grad():
                parameters[name].flatten()[0] += 1e-2
        return model

    monkeypatch.setattr(PretrainedModel, "from_pretrained", classmethod(damaged))
    report = verify(bert_dir)
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.module == module
    result = run(bert_dir)
    assert result.exit_code == 1
    assert f"First divergence: {report.first_divergence}" in result.stdout


def test_the_seed_draws_other_inputs(bert_dir: Path) -> None:
    first, again, other = (verify(bert_dir, seed=seed) for seed in (0, 0, 1))
    assert first.rows == again.rows != other.rows


def test_without_transformers(bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ImportError("No module named 'transformers'")
        return genuine(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DependencyError, match="pip install 'transformers>=5'.*--as NAME"):
        verify(bert_dir)
    result = run(bert_dir)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: Comparing with transformers needs transformers: pip")


def test_an_old_transformers(bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    with pytest.raises(DependencyError, match=r"transformers 4\.57\.1 is installed.*version 5"):
        verify(bert_dir)


# --- the command ------------------------------------------------------------------------------


def test_the_table(bert_dir: Path) -> None:
    result = run(bert_dir)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == str(bert_dir)
    assert lines[1].startswith("against transformers 5.")
    assert lines[3].split() == [
        "largest",
        "|difference|",
        *["float64", "allowed"],
        *["float32", "allowed"],
    ]
    names = [line.split("  ")[1] for line in lines if line.startswith("  ")]
    assert names == [
        "embeddings",
        "attention maps",
        "layer 0",
        "layer 1",
        "layer 2",
        "last_hidden_state",
        "pooler_output",
        "hidden states",
        "attention maps",
        "prediction_logits",
        "seq_relationship_logits",
        "loss",
    ]
    count = lines[-1].split()[4]
    assert lines[-1] == f"Equal within tolerance in {count} of {count} comparisons."
    assert int(count) > 300


def test_json(bert_dir: Path) -> None:
    result = run(bert_dir, "--json", "--class", "BertForPreTraining")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["passed"] is True
    assert found["first_divergence"] is None
    assert found["notes"] == []
    assert found["source"] == str(bert_dir)
    assert {row["model"] for row in found["rows"]} == {"BertForPreTraining"}
    worst = {(row["module"], row["dtype"]): row["difference"] for row in found["maxima"]}
    for row in found["rows"]:
        assert row["difference"] <= worst[row["module"], row["dtype"]] <= row["tolerance"]


def test_a_tolerance_of_zero_fails(bert_dir: Path) -> None:
    """Float32 by two routes is never equal to the last bit everywhere."""
    result = run(bert_dir, "--tolerance", 0)
    assert result.exit_code == 1
    assert "DIFFERENT in " in result.stdout
    assert "(float32, mask " in result.stdout.splitlines()[-1]
    found = json.loads(run(bert_dir, "--tolerance", 0, "--json").stdout)
    assert found["passed"] is False
    assert found["first_divergence"]["dtype"] == "float32"
    assert all(row["passed"] for row in found["rows"] if row["dtype"] == "float64")
    assert run(bert_dir, "--tolerance", 1).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all"], "error: "),
        (["{bert}", "--class", "BertForHaiku"], "error: class 'BertForHaiku' is unknown: expected"),
        (["{bert}", "--as", "gpt2"], "error: No values are known for 'gpt2'. Known: bert-base-un"),
        (
            ["{bert}", "--class", "BertModel", "--as", "gpt2"],
            "--class cannot be combined with --as",
        ),
        (["{bert}", "--tolerance", "-1"], "x>=0"),
        (["{bert}", "--tolerance", "small"], "'small' is not a valid float"),
        ([], "Missing argument 'MODEL'"),
    ],
)
def test_usage_errors(bert_dir: Path, arguments: list[str], message: str) -> None:
    result = run(*(argument.format(bert=bert_dir) for argument in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    if message.startswith("error"):
        assert result.stderr.count("\n") == 1


def test_a_damaged_file_is_one_line(bert_dir: Path, tmp_path: Path) -> None:
    directory = changed(bert_dir, tmp_path / "copy")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for arguments in ([], ["--as", "bert-base-uncased"]):
        result = run(directory, *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert str(directory) in result.stderr


def test_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "minilm verify distilbert-base-uncased --as distilbert-base-uncased" in result.stdout


# --- published values -------------------------------------------------------------------------


def test_a_real_checkpoint_has_its_published_values(
    minilm_l6_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        report = verify_as(minilm_l6_dir, name)
        assert report.passed, str(report)
        assert len(report.rows) == 1
    result = run(minilm_l6_dir, "--as", "all-MiniLM-L6-v2")
    assert result.exit_code == 0, result.output
    assert "Equal within tolerance in 1 of 1 comparisons." in result.stdout


def test_another_checkpoint_has_not(
    minilm_l6_dir: Path, rxnfp_pretrained_dir: Path, tmp_path: Path
) -> None:
    name = "encoder.layer.0.attention.output.dense.bias"
    stored = load_file(minilm_l6_dir / "model.safetensors")
    directory = changed(minilm_l6_dir, tmp_path / "copy", **{name: stored[name] * 1.1})
    result = run(directory, "--as", "all-MiniLM-L6-v2", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["first_divergence"]["module"].startswith("last_hidden_state: This framework")
    result = run(minilm_l6_dir, "--as", "all-MiniLM-L6-v2", "--tolerance", 1e-12)
    assert result.exit_code == 1
    result = run(minilm_l6_dir, "--as", "bert-base-uncased")
    assert result.exit_code == 1
    assert "BertForMaskedLM: no cls.predictions.bias, " in result.stdout
    result = run(rxnfp_pretrained_dir, "--as", "all-MiniLM-L6-v2")
    assert result.exit_code == 2
    assert "vocab_size is 591" in result.stderr


def test_nothing_to_compare_is_no_success(minilm_l6_dir: Path) -> None:
    result = run(minilm_l6_dir, "--as", "bert-base-cased-squad2")
    assert result.exit_code == 2
    assert "Nothing could be compared." in result.stdout


WEIGHTS = Path(__file__).parent.parent / "weights"


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("model", ["bert-mini", "distilbert-mini", "albert-mini", "headless"])
def test_every_name_on_every_model(name: str, model: str, tmp_path: Path) -> None:
    """None of them is the published one: a message and an exit code, never a traceback."""
    directory = WEIGHTS / model
    if model == "headless":
        directory = tmp_path
        tiny("BertModel", torch.float32).save_pretrained(directory)
    result = run(directory, "--as", name)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    if "DIFFERENT in" in result.stdout:
        assert result.exit_code == 1
    elif result.stdout:
        assert result.exit_code == 2
        assert "stored, not compared" in result.stdout
        assert "Nothing could be compared." in result.stdout
    else:
        assert result.exit_code == 2
        assert f"{directory} is not {name}: " in result.stderr


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"vocab_size": 102}, "input_ids contains 6078: vocab_size is 102"),
        ({"vocab_size": 15000}, "logits has 15,000 columns, not 18,969"),
        ({"max_position_embeddings": 8}, "8"),
        ({"hidden_size": 4, "num_attention_heads": 2}, "DIFFERENT"),
    ],
)
def test_a_model_of_another_size(sizes: dict[str, int], words: str, tmp_path: Path) -> None:
    big = {"vocab_size": 30522, "max_position_embeddings": 40}
    tiny("BertForPreTraining", torch.float32, **{**big, **sizes}).save_pretrained(tmp_path)
    result = run(tmp_path, "--as", "bert-base-uncased")
    assert result.exit_code == (1 if words == "DIFFERENT" else 2), result.output
    assert words in result.output
    assert (result.stdout == "") == (words != "DIFFERENT")


def test_a_base_model_is_compared_without_its_pooler(minilm_l6_dir: Path, tmp_path: Path) -> None:
    missing = {"pooler.dense.weight": None, "pooler.dense.bias": None}
    directory = changed(minilm_l6_dir, tmp_path / "copy", **missing)
    assert run(directory, "--as", "all-MiniLM-L6-v2").exit_code == 0


CASES = [(name, case) for name, cases in REFERENCES.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}: {c.title}" for n, c in CASES])
def test_every_case_can_run(name: str, case: Case) -> None:
    """With random weights of the right class: shapes, columns and options fit the model."""
    assert case.model in CLASSES
    columns = max(case.columns) + 1
    length = len(case.ids[0])
    classes = {"num_labels": columns} if "Classification" in case.model else {}
    model = tiny(case.model, vocab_size=32000, max_position_embeddings=40, **classes)
    found = reference_values._outcome(model, case)
    assert found.shape == (len(case.expected), len(case.columns))
    assert all(len(row) == len(case.columns) for row in case.expected)
    assert len(case.tokens or [0]) == len(case.expected)
    for other in (case.mask, case.types):
        assert other is None or [len(row) for row in other] == [length] * len(case.ids)
    if case.probabilities:
        assert 0 < sum(map(sum, case.expected)) <= 1
    assert 0 < case.tolerance <= 1e-4


def test_the_right_numbers_are_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of case, with values computed here: each passes, and fails if one digit moves."""
    for name, case in CASES:
        model = tiny(case.model, torch.float32, vocab_size=32000, **_labels(case))
        model.save_pretrained(tmp_path)
        rows = _slice_by_hand(model, case)
        good = dataclasses.replace(case, expected=rows, tolerance=1e-5)
        wrong = ((rows[0][0] + 1e-3, *rows[0][1:]), *rows[1:])
        bad = dataclasses.replace(case, expected=wrong, tolerance=1e-5)
        monkeypatch.setattr(reference_values, "REFERENCES", {"good": (good,), "bad": (bad,)})
        assert verify_as(tmp_path, "good").passed, name
        assert not verify_as(tmp_path, "bad").passed, name


def _labels(case: Case) -> dict[str, Any]:
    sizes = {"max_position_embeddings": 40}
    return sizes | ({"num_labels": 9} if "Classification" in case.model else {})


def _slice_by_hand(model: PretrainedModel, case: Case) -> tuple[tuple[float, ...], ...]:
    shape: Callable[[Any], torch.Tensor] = torch.tensor
    if case.model.endswith("MultipleChoice"):
        shape = lambda rows: torch.tensor([rows])  # noqa: E731
    with torch.no_grad():
        output = model(
            shape(case.ids),
            None if case.mask is None else shape(case.mask),
            None if case.types is None else shape(case.types),
        )[case.output][0]
    if case.probabilities:
        output = output.exp() / output.exp().sum(-1, keepdim=True)
    rows = [output] if case.tokens is None else [output[token] for token in case.tokens]
    return tuple(tuple(float(row[column]) for column in case.columns) for row in rows)


def test_a_report_prints_what_failed() -> None:
    good = Row("BertModel", "embeddings", "float64", "none", "padded", 1e-16, 1e-10)
    bad = dataclasses.replace(good, module="layer 0", difference=float("inf"))
    report = ParityReport("here", "there", [good, bad])
    assert not report.passed
    assert report.first_divergence is bad
    assert "!" in next(line for line in str(report).splitlines() if "layer 0" in line)
    assert "First divergence: BertModel, layer 0: inf > 1.0e-10" in str(report)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["passed"] is False
    with pytest.raises(InputError, match="No values are known for 'x/y'"):
        verify_as("anywhere", "x/y")
    assert minilm.MinilmError in InputError.__mro__
