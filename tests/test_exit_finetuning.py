"""Exits from fine-tuning to prediction: training, files, commands and the benchmark."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import minilm
from minilm.bench import exits as bench
from minilm.bench.exits import ExitBenchSettings, bench_exits, fastest_at_full_score
from minilm.bench.machine import describe_machine, machine_words
from minilm.bench.measure import DisagreementError
from minilm.cli import main
from minilm.cli.bench_exits import table
from minilm.data.records.base import Skips
from minilm.errors import CheckpointError, InputError
from minilm.learners.exits import ExitLearner, depth_weights
from minilm.learners.tasks import TaskLearner
from minilm.losses.soft_targets import label_loss, soft_target_loss
from minilm.models.early_exit import EveryExit, ExitHeads, ExitRule
from minilm.recipes.finetuning import Finetuned
from minilm.tasks.batches import NoBatch
from minilm.tasks.prediction import Predictor
from minilm.tasks.task import collate
from minilm.tasks.texts import Classification
from minilm.training.updates import Updater
from task_data import (
    ARCHITECTURES,
    RECORDS,
    colour_pairs,
    colour_texts,
    quick,
    red_counts,
    save_start,
    settings_of,
    tagged_words,
    tiny_model,
)

LAYERS = 4
DEV = colour_texts(40, seed=100)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("starts")
    return {
        name: save_start(place / name, name, num_hidden_layers=LAYERS) for name in ARCHITECTURES
    }


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, starts: dict[str, Path]
) -> Callable[[str], Finetuned]:
    """A run of each architecture with exits, made once."""
    made: dict[str, Finetuned] = {}

    def get(architecture: str) -> Finetuned:
        if architecture not in made:
            output = tmp_path_factory.mktemp(architecture) / "model"
            made[architecture] = quick(
                "classification", starts[architecture], colour_texts(160), output,
                dev=DEV, epochs=8, exits=True,
            )  # fmt: skip
        return made[architecture]

    return get


def between(output: Path) -> float:
    """A threshold that some texts pass at the first exit and others do not, with room around it."""
    predictor = Predictor.from_pretrained(output)
    heads = ExitHeads.read(output / "exits.safetensors", predictor.model)
    predictor.early_exit = minilm.EarlyExit(predictor.model, heads, ExitRule(depth=1))
    sure = np.sort([p["confidence"] for p in predictor.predict(DEV)])
    middle = np.arange(len(sure) // 4, 3 * len(sure) // 4)
    widest = middle[np.argmax(sure[middle + 1] - sure[middle])]
    return float((sure[widest] + sure[widest + 1]) / 2)


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


# --- training ---


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exits_are_learned_with_the_task(
    architecture: str, trained: Callable[[str], Finetuned]
) -> None:
    output = trained(architecture).output
    assert trained(architecture).scores["accuracy"] > 0.6  # of three classes
    described = json.loads((output / "task.json").read_text())["exits"]
    assert described["applications"] == LAYERS
    assert described["dev"]["metric"] == "accuracy"
    by_depth = described["dev"]["by_depth"]
    assert len(by_depth) == LAYERS
    assert by_depth[-1] == pytest.approx(trained(architecture).scores["accuracy"])
    assert by_depth[-2] > 0.6  # an untrained exit is right in a third of the cases
    for depth in range(1, LAYERS):
        early = Predictor.from_pretrained(output)
        heads = ExitHeads.read(output / "exits.safetensors", early.model)
        early.early_exit = minilm.EarlyExit(early.model, heads, ExitRule(depth=depth))
        scores = early.evaluate(DEV)
        assert scores["accuracy"] == pytest.approx(by_depth[depth - 1])
        assert scores["mean_applications"] == depth


def test_the_loss_is_the_mean_over_depths_weighted_by_depth() -> None:
    assert depth_weights(3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    model = tiny_model("albert", "ForSequenceClassification", num_hidden_layers=3, num_labels=3)
    teacher = tiny_model("bert", "ForSequenceClassification", seed=3, num_labels=3)
    torch.manual_seed(1)
    heads = ExitHeads(model)
    task = Classification(["a", "b", "c"], 16)
    row = minilm.tokenization.tokenizer.Joined
    samples = [
        minilm.tasks.task.Sample(n, (row(np.arange(5, 9 + n), np.zeros(4 + n, int), (1, 1)),), n)
        for n in range(3)
    ]
    batch = collate(task, samples, np.arange(3))
    counts = {"label": 5, "soft_label": 5}  # of the whole step, of which the batch is a part
    for instructor in (None, teacher):
        learner = ExitLearner(model, task, heads, teacher=instructor).eval()
        assert {name.split(".")[0] for name, _ in learner.named_parameters()} == {"model", "exits"}
        terms = learner(batch, counts)
        answers = EveryExit(model, heads)(
            batch.input_ids, None, batch.token_type_ids, lengths=batch.lengths
        ).logits
        losses = []
        for logits in answers.unbind(1):
            loss = label_loss("classes", logits, batch.labels).sum / 5
            if instructor is not None:
                taught = instructor(
                    batch.input_ids, None, batch.token_type_ids, lengths=batch.lengths
                ).logits
                soft = soft_target_loss("classes", logits, taught, 2.0).sum / 5
                loss = 0.5 * loss + 0.5 * soft
            losses.append(loss)
        wanted = losses[0] / 6 + losses[1] / 3 + losses[2] / 2
        torch.testing.assert_close(terms["loss"], wanted)
        torch.testing.assert_close(terms["exits"], (losses[0] + 2 * losses[1]) / 3)
        plain = TaskLearner(model, task, teacher=instructor).eval()(batch, counts)
        torch.testing.assert_close(plain["loss"], losses[2])
        torch.testing.assert_close(terms["labels"], plain["labels"])
        empty = learner(NoBatch(), counts)
        assert empty.keys() == terms.keys()
        assert float(empty["loss"].detach()) == 0
        empty["loss"].backward()
        assert all(p.grad is not None for p in learner.parameters())
        assert terms["loss"].requires_grad
        learner.zero_grad()


def test_exits_learn_from_a_teacher_too(
    starts: dict[str, Path], trained: Callable[[str], Finetuned], tmp_path: Path
) -> None:
    """With no weight on the labels, all that exits can learn is what the teacher says."""
    run = quick("classification", starts["distilbert"], colour_texts(64), tmp_path / "out",
                teacher=trained("albert").output, exits=True, epochs=1,
                soft_targets=minilm.SoftTargets(label_weight=0.0))  # fmt: skip
    rows = [json.loads(x) for x in (run.output / "run/log.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "exits" in row]
    assert losses
    depths = depth_weights(LAYERS)
    for row in losses:
        wanted = 0.5 * depths[-1] * row["soft_targets"] + sum(depths[:-1]) * row["exits"]
        assert row["loss"] == pytest.approx(wanted, rel=1e-4)


def test_training_with_exits_changes_nothing_where_there_are_none(
    starts: dict[str, Path], tmp_path: Path
) -> None:
    """The same head is drawn, and the record of a run without exits does not know of them."""
    train = colour_texts(16)
    for name, exits in (("plain", False), ("exits", True)):
        quick("classification", starts["bert"], train, tmp_path / name, exits=exits,
              learning_rate=1e-60)  # fmt: skip
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "exits"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "plain/exits.safetensors").exists()
    for name, has in (("plain", False), ("exits", True)):
        record = json.loads((tmp_path / name / "run/settings.json").read_text())
        assert ("exits" in record["description"]) == has
        assert ("exits" in json.loads((tmp_path / name / "task.json").read_text())) == has


def test_a_run_with_exits_that_was_stopped_goes_on(
    starts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = colour_texts(40)
    arguments: dict[str, Any] = {"dev": DEV[:10], "epochs": 3, "exits": True}
    quick("classification", starts["albert"], train, tmp_path / "whole", **arguments)
    evaluate, calls = Updater.evaluate, []

    def stopping(self: Updater, *given: Any) -> dict[str, float] | None:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *given)

    monkeypatch.setattr(Updater, "evaluate", stopping)
    stopped = quick("classification", starts["albert"], train, tmp_path / "out", **arguments)
    assert not stopped.finished
    assert not (tmp_path / "out/exits.safetensors").exists()
    again = quick("classification", starts["albert"], train, tmp_path / "out", **arguments)
    assert again.finished
    for name in ("model.safetensors", "exits.safetensors"):
        one, other = load_file(tmp_path / "whole" / name), load_file(tmp_path / "out" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    with pytest.raises(minilm.TrainingError):
        quick("classification", starts["albert"], train, tmp_path / "out",
              **{**arguments, "exits": False})  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_what_was_trained_with_exits(
    architecture: str, trained: Callable[[str], Finetuned]
) -> None:
    output = trained(architecture).output
    oracle, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        output, local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours = minilm.load(output)
    assert not ours.load_report.of("unexpected")  # type: ignore[union-attr]
    ids = torch.tensor([[2, 6, 12, 15, 3]])
    with torch.no_grad():
        wanted = oracle.eval()(input_ids=ids).logits
        torch.testing.assert_close(ours(ids).logits, wanted, rtol=0, atol=1e-5)


def test_what_cannot_exit_is_refused_before_anything_is_trained(
    starts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="Exits are for classification.*: tagging needs all"):
        quick("tagging", starts["bert"], tagged_words(8), tmp_path / "a", exits=True)
    with pytest.raises(InputError, match="Exits and windows over long texts do not go together"):
        quick("classification", starts["bert"], colour_texts(8), tmp_path / "b", exits=True,
              options={"windows": "mean"})  # fmt: skip
    one_layer = save_start(tmp_path / "one", num_hidden_layers=1)
    with pytest.raises(InputError, match="no exit before the last one"):
        quick("classification", one_layer, colour_texts(8), tmp_path / "c", exits=True)
    assert not any((tmp_path / name).exists() for name in "abc")


# --- prediction ---


def test_predictions_say_how_many_layers_a_text_went_through(
    trained: Callable[[str], Finetuned],
) -> None:
    output = trained("albert").output
    full = Predictor.from_pretrained(output).predict(DEV)
    assert "applications" not in full[0]
    kept = Predictor.from_pretrained(output, exit_threshold=1.0).predict(DEV)
    assert {p.pop("applications") for p in kept} == {LAYERS}
    assert kept == full  # to the last bit
    threshold = between(output)
    early = Predictor.from_pretrained(output, exit_threshold=threshold)
    found = early.predict(DEV)
    applications = [p["applications"] for p in found]
    assert 1 < np.mean(applications) < LAYERS
    assert len(set(applications)) > 1
    for row, together in zip(DEV[:8], found, strict=False):
        alone = early.predict([row])[0]
        assert alone["applications"] == together["applications"]
        assert alone["confidence"] == pytest.approx(together["confidence"], abs=1e-4)
    for prediction in found:
        assert prediction["confidence"] > threshold or prediction["applications"] == LAYERS
    scores = early.evaluate(DEV)
    assert scores["mean_applications"] == pytest.approx(np.mean(applications))
    patient = Predictor.from_pretrained(output, exit_patience=1).predict(DEV)
    assert min(p["applications"] for p in patient) == 2


@pytest.mark.parametrize("task", ["regression", "multi-label", "pairs"])
def test_exits_of_numbers_of_several_labels_and_of_pairs(
    task: str, starts: dict[str, Path], tmp_path: Path
) -> None:
    records = colour_pairs(24) if task == "pairs" else RECORDS[task](24)
    name = "classification" if task == "pairs" else task
    quick(name, starts["distilbert"], records, tmp_path / "out", exits=True, dev=records[:8])
    how: dict[str, Any] = {"exit_patience": 1}
    if task == "regression":
        with pytest.raises(InputError, match="A number has no probability"):
            Predictor.from_pretrained(tmp_path / "out", exit_threshold=0.9)
        with pytest.raises(InputError, match="give exit_tolerance, too"):
            Predictor.from_pretrained(tmp_path / "out", **how)
        how["exit_tolerance"] = 100.0
    found = Predictor.from_pretrained(tmp_path / "out", **how).predict(records)
    if task == "regression":  # within so wide a tolerance, all numbers are the same
        assert {p["applications"] for p in found} == {2}
    assert {p["applications"] for p in found} <= {2, 3, LAYERS}


def test_settings_that_do_not_go_together(trained: Callable[[str], Finetuned]) -> None:
    output = trained("bert").output
    with pytest.raises(InputError, match="Give exit_threshold=... or exit_patience=..., not both"):
        Predictor.from_pretrained(output, exit_threshold=0.9, exit_patience=2)
    with pytest.raises(InputError, match="exit_tolerance=0.1 goes with exit_patience=..."):
        Predictor.from_pretrained(output, exit_tolerance=0.1)


def test_files_that_do_not_belong_together_are_refused(
    trained: Callable[[str], Finetuned], starts: dict[str, Path], tmp_path: Path
) -> None:
    def load(directory: Path) -> Predictor:
        return Predictor.from_pretrained(directory, exit_threshold=0.9)

    quick("classification", starts["bert"], colour_texts(16), tmp_path / "plain")
    with pytest.raises(InputError, match="plain has no exits.*minilm finetune --exits"):
        load(tmp_path / "plain")
    exits = trained("bert").output / "exits.safetensors"
    shutil.copy(exits, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="says nothing of exits: they are of another run"):
        load(tmp_path / "plain")
    shutil.copytree(trained("bert").output, tmp_path / "lost")
    (tmp_path / "lost/exits.safetensors").unlink()
    Predictor.from_pretrained(tmp_path / "lost")  # works at full depth
    with pytest.raises(CheckpointError, match="exits.safetensors is missing, though"):
        load(tmp_path / "lost")
    shutil.copytree(trained("bert").output, tmp_path / "said")
    task = json.loads((tmp_path / "said/task.json").read_text())
    task["exits"]["applications"] = 7
    (tmp_path / "said/task.json").write_text(json.dumps(task))
    with pytest.raises(CheckpointError, match="'applications': 7.*the model applies 4 layers"):
        load(tmp_path / "said")


# --- commands ---


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, trained: Callable[[str], Finetuned]) -> Path:
    """A directory with a model and records as files."""
    directory = tmp_path_factory.mktemp("commands")
    shutil.copytree(trained("albert").output, directory / "model")
    rows = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in DEV)]
    (directory / "dev.tsv").write_text("\n".join(rows) + "\n")
    return directory


def test_the_commands_finetune_predict_and_evaluate(
    place: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    data, output = place / "dev.tsv", tmp_path / "out"
    done(run("finetune", "--task", "classification", "--model", starts["albert"], "--train", data,
             "--output", output, "--epochs", 1, "--precision", "float32", "--exits"))  # fmt: skip
    assert (output / "exits.safetensors").exists()

    plain = done(run("predict", place / "model", data)).stdout
    kept = done(run("predict", place / "model", data, "--exit-threshold", 1))
    found = [json.loads(line) for line in kept.stdout.splitlines()]
    assert {row.pop("applications") for row in found} == {LAYERS}
    assert found == [json.loads(line) for line in plain.splitlines()]
    assert f"layers applied to a text: {LAYERS:.2f} of {LAYERS}, on average" in kept.stderr
    early = done(run("classify", place / "model", "the red thing", "--exit-patience", 1, "--json"))
    assert json.loads(early.stdout)["applications"] >= 2

    threshold = between(place / "model")
    shown = done(run("evaluate", place / "model", data, "--exit-threshold", threshold, "--json"))
    scores = json.loads(shown.stdout)
    assert 1 < scores["mean_applications"] < LAYERS
    text = done(run("evaluate", place / "model", data, "--exit-threshold", threshold)).stdout
    assert f"{'mean applications':<24}{scores['mean_applications']:>10.4f}" in text
    copied = tmp_path / "half"
    done(run("convert", place / "model", copied, "--dtype", "float16"))
    assert (copied / "exits.safetensors").exists()
    done(run("evaluate", copied, data, "--exit-threshold", 0.8))


def test_mistakes_on_the_command_line_are_explained(place: Path, starts: dict[str, Path]) -> None:
    data = place / "dev.tsv"
    refused(run("predict", place / "model", data, "--exit-threshold", 0.9, "--exit-patience", 1),
            "--exit-threshold", "--exit-patience", "not both")  # fmt: skip
    refused(run("evaluate", place / "model", data, "--exit-threshold", 1.5), "1.5")
    refused(run("evaluate", place / "model", data, "--exit-patience", 1, "--exit-tolerance", 1),
            "--exit-tolerance is for models that predict a number")  # fmt: skip
    refused(run("bench", "exits", place / "model", data, "--depth", LAYERS), "--depth is 4")


# --- the benchmark ---


def test_the_benchmark_scores_and_times_every_rule(place: Path) -> None:
    settings = ExitBenchSettings(
        thresholds=(0.5, 0.8, 1.0), patience=(1, 2, 3), depths=(1, 2), batch_size=16, rounds=2
    )
    said: list[str] = []
    found = bench_exits(place / "model", DEV, settings, say=said.append)
    rows = found["rules"]
    assert list(rows) == ["full depth", "threshold 0.5", "threshold 0.8", "threshold 1",
                          "patience 1", "patience 2", "depth 1", "depth 2"]  # fmt: skip
    full = Predictor.from_pretrained(place / "model").evaluate(DEV)
    assert rows["full depth"]["score"] == full["accuracy"] == rows["threshold 1"]["score"]
    early = Predictor.from_pretrained(place / "model", exit_threshold=0.8).evaluate(DEV)
    assert rows["threshold 0.8"]["score"] == early["accuracy"]
    assert rows["threshold 0.8"]["mean_applications"] == early["mean_applications"]
    assert rows["depth 2"]["applications"] == [0, len(DEV), 0, 0]
    assert rows["full depth"]["same_answers"] == 1
    assert rows["full depth"]["speedup"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    for row in rows.values():
        assert sum(row["applications"]) == len(DEV)
        assert row["texts_per_second"] == pytest.approx(len(DEV) / row["seconds"])
        assert row["speedup"]["lowest"] <= row["speedup"]["median"] <= row["speedup"]["highest"]
    assert found["workload"]["texts"] == len(DEV)
    assert any("timing" in text for text in said)
    found["model"]["source"] = found["workload"]["source"] = "x"
    shown = table(found)
    assert "threshold 0.8" in shown
    assert describe_machine().items() <= found["machine"].items()
    assert machine_words(found["machine"]) in shown


def test_the_fastest_rule_that_loses_nothing() -> None:
    def row(score: float, speedup: float) -> dict[str, Any]:
        return {"score": score, "speedup": {"median": speedup}}

    rows = {"full depth": row(0.8, 1.0), "a": row(0.79, 3.0), "b": row(0.8, 1.5), "c": row(0.9, 2)}
    assert fastest_at_full_score(rows) == "c"
    assert fastest_at_full_score({name: rows[name] for name in ("full depth", "a")}) is None


def test_the_benchmark_refuses_to_compare_different_models(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = bench.EarlyExit.last_answer
    monkeypatch.setattr(bench.EarlyExit, "last_answer", lambda *given: answer(*given) + 1e-6)
    with pytest.raises(DisagreementError, match="answers differ from the model's"):
        bench_exits(place / "model", DEV[:8], ExitBenchSettings(rounds=1))
    result = run("bench", "exits", place / "model", place / "dev.tsv", "--rounds", 1)
    assert result.exit_code == 1
    assert "answers differ from the model's" in result.stderr


def test_the_benchmark_of_numbers(starts: dict[str, Path], tmp_path: Path) -> None:
    records = red_counts(16)
    quick("regression", starts["albert"], records, tmp_path / "out", exits=True)
    settings = ExitBenchSettings(rounds=1, depths=(2,))
    found = bench_exits(tmp_path / "out", records, settings, skips=Skips())
    assert list(found["rules"]) == ["full depth", "depth 2"]
    assert found["rules"]["depth 2"]["same_answers"] is None
    tolerant = ExitBenchSettings(rounds=1, depths=(2,), tolerance=100.0)
    found = bench_exits(tmp_path / "out", records, tolerant)
    assert found["rules"]["patience 1"]["mean_applications"] == 2
    assert found["rules"]["patience 1"]["same_answers"] == 1
    with pytest.raises(InputError, match="must be at least 1"):
        ExitBenchSettings(rounds=0)


def test_the_command_prints_the_curve(place: Path) -> None:
    result = done(run("bench", "exits", place / "model", place / "dev.tsv", "--rounds", 1,
                      "--threshold", 0.8, "--patience", 1, "--depth", 2, "--json"))  # fmt: skip
    found = json.loads(result.stdout)
    assert list(found["rules"]) == ["full depth", "threshold 0.8", "patience 1", "depth 2"]
    assert found["model"]["applications"] == LAYERS
    text = done(run("bench", "exits", place / "model", place / "dev.tsv", "--rounds", 1,
                    "--texts", 8)).stdout  # fmt: skip
    assert "8 texts" in text
    assert text.count("threshold") >= 5


def test_settings_know_exits() -> None:
    assert settings_of(exits=True).exits
    assert not settings_of().exits
