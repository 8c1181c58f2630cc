"""transformers.Trainer on the models: it trains, evaluates, saves and resumes as on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import minilm
from tiny import ragged
from twins import NO_DROPOUT, STEMS, arguments, twins

HEADS = ("ForSequenceClassification", "ForTokenClassification")
CLOSE = {"rtol": 0, "atol": 1e-4}


def examples(class_name: str) -> list[dict[str, Tensor]]:
    """Rows of one length, some with padding, and their labels."""
    batch = arguments(class_name, ragged((7, 3, 1, 7, 5, 2, 7, 4)))
    mask = batch["attention_mask"]
    rows = []
    for i in range(8):
        row = {name: value[i] for name, value in batch.items()}
        label = (row["input_ids"] % 2).masked_fill(mask[i] == 0, -100)
        rows.append({**row, "labels": label[0] if "Sequence" in class_name else label})
    return rows


def accuracy(prediction: Any) -> dict[str, float]:
    best, labels = prediction.predictions.argmax(-1), prediction.label_ids
    return {"accuracy": float((best == labels)[labels != -100].mean())}


class HubFiles(transformers.TrainerCallback):
    """Trainer saves the numbers of a model that is none of its own; this makes it a checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        directory = Path(args.output_dir, f"checkpoint-{state.global_step}")
        objects["model"].save_pretrained(directory)


def trainer(model: Any, class_name: str, output: Path, **options: Any) -> transformers.Trainer:
    settings = transformers.TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=3,
        per_device_eval_batch_size=3,
        num_train_epochs=2,
        learning_rate=0.01,
        save_steps=3,
        logging_steps=1,
        eval_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=4,
        **options,
    )
    rows = examples(class_name)
    return transformers.Trainer(
        model,
        settings,
        train_dataset=rows,
        eval_dataset=rows[:5],
        compute_metrics=accuracy,
        callbacks=[HubFiles()],
    )


STEP = ("loss", "grad_norm")
EVALUATION = ("eval_loss", "eval_accuracy")


def curve(run: transformers.Trainer, keys: tuple[str, ...] = STEP + EVALUATION) -> list[float]:
    return [entry[key] for entry in run.state.log_history for key in keys if key in entry]


@pytest.mark.parametrize("class_name", [f"{stem}{head}" for stem in STEMS for head in HEADS])
def test_trainer_trains_evaluates_saves_and_resumes(class_name: str, tmp_path: Path) -> None:
    ours, theirs = twins(class_name, torch.float32, **NO_DROPOUT)
    start = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.layout = "auto"
    run = trainer(ours, class_name, tmp_path / "ours")
    other = trainer(theirs, class_name, tmp_path / "theirs")
    run.train()
    other.train()
    # six steps with a loss and a norm each, and two evaluations with a loss and a score
    assert len(curve(run)) == 2 * 6 + 2 * 2
    assert curve(run) == pytest.approx(curve(other), rel=1e-3, abs=1e-3)
    assert any(not torch.equal(start[name], value) for name, value in ours.state_dict().items())

    found, expected = (one.predict(examples(class_name)) for one in (run, other))
    attended = found.label_ids != -100
    assert found.metrics["test_accuracy"] == expected.metrics["test_accuracy"]
    assert found.predictions[attended] == pytest.approx(expected.predictions[attended], abs=1e-3)

    batch = arguments(class_name, ragged())
    mask = batch["attention_mask"].bool()
    for source in (minilm, transformers):
        loaded = getattr(source, class_name).from_pretrained(tmp_path / "ours/checkpoint-6").eval()
        logits, wanted = loaded(**batch).logits, ours.eval()(**batch).logits
        if "Token" in class_name:
            logits, wanted = logits[mask], wanted[mask]
        torch.testing.assert_close(logits, wanted, **CLOSE)

    resumed_model, _ = twins(class_name, torch.float32, **NO_DROPOUT)
    resumed_model.layout = "auto"
    resumed = trainer(resumed_model, class_name, tmp_path / "ours")
    resumed.train(resume_from_checkpoint=str(tmp_path / "ours/checkpoint-3"))
    assert curve(resumed, STEP) == pytest.approx(curve(run, STEP), rel=1e-6)
    assert curve(resumed, EVALUATION)[-2:] == pytest.approx(curve(run, EVALUATION)[-2:], rel=1e-6)
    for name, value in resumed_model.state_dict().items():
        torch.testing.assert_close(value, ours.state_dict()[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("stem", STEMS)
def test_options_that_reach_into_the_model(stem: str, tmp_path: Path) -> None:
    """Checkpointed layers, accumulated steps and label smoothing, as with transformers' model."""
    name = f"{stem}ForSequenceClassification"
    curves = []
    for number, model in enumerate(twins(name, torch.float32, **NO_DROPOUT)):
        run = trainer(
            model,
            name,
            tmp_path / str(number),
            gradient_checkpointing=stem != "Albert",  # transformers' ALBERT has none
            gradient_accumulation_steps=2,
            label_smoothing_factor=0.1,
        )
        run.train()
        curves.append(curve(run))
    assert curves[0] == pytest.approx(curves[1], rel=1e-3, abs=1e-3)
    assert curves[0]


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model, _ = twins("DistilBertForSequenceClassification", torch.float32, **NO_DROPOUT)
    run = trainer(
        model,
        "DistilBertForSequenceClassification",
        tmp_path,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    run.train()
    best = minilm.load(run.state.best_model_checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(value, best.state_dict()[name]), name
