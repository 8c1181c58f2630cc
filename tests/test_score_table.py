"""The table of scores: complete, and read by whoever chooses, draws or prints them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from minilm.cli.finetune import show_scores
from minilm.compare.quantities import quantities
from minilm.data.records.base import Skips
from minilm.learners.distillation import DistillationLearner
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.learners.pairs import PretrainingLearner
from minilm.learners.tasks import TaskLearner, numbers_of
from minilm.losses.distillation import DistillationLoss
from minilm.metrics.score_table import LOWER_IS_BETTER, SCORES, is_known, score_named
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.tasks.catalogue import TASKS
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.curves import read_run
from task_data import RECORDS, save_start, tiny_model
from tiny import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_pretrained(save_start(tmp_path_factory.mktemp("start")))


def scores_of(name: str, tokenizer: Tokenizer, **options: Any) -> dict[str, Any]:
    """What an untrained model scores; every name that this task can give with these records."""
    records = RECORDS[name](12)
    if options.pop("unanswerable", False):
        records += [{**records[0], "answers": {"text": [], "answer_start": []}}]
    if name == "answering":
        options["doc_stride"] = 4
    task = TASKS[name].learn(records, 16, options)
    examples = task.examples(records, Skips(), labelled=True)
    samples = task.samples(examples, tokenizer)
    learner = TaskLearner(tiny_model("bert", task.head, 1, **task.config()), task).eval()
    parts = learner.hold_out(examples, samples, 200)
    outputs: list[Any] = [None] * len(samples)
    for batch in parts:
        logits = task.logits(learner.model, batch)
        for number, output in zip(batch.samples, task.outputs(logits.detach(), batch), strict=True):
            outputs[number] = output
    return task.scores(examples, task.decode(examples, samples, outputs))


@pytest.mark.parametrize("name", RECORDS)
def test_every_score_of_a_task_is_in_the_table(name: str, tokenizer: Tokenizer) -> None:
    scores = numbers_of(scores_of(name, tokenizer))
    assert TASKS[name].metric in scores
    assert [score for score in scores if not is_known(score)] == []
    highest = {"share": 1.0, "percent": 100.0, "correlation": 1.0}
    for key, value in scores.items():
        score = score_named(key, scores)
        assert value <= highest.get(score.unit, math.inf), key
    assert score_named(TASKS[name].metric, scores).higher_is_better
    best = {"percent": 100.0}.get(score_named(TASKS[name].metric, scores).unit, 1.0)
    assert best == TASKS[name].best_score


def test_scores_that_only_some_records_give_are_in_the_table(tokenizer: Tokenizer) -> None:
    scores = scores_of("classification", tokenizer, out_of_scope="red")
    assert "out_of_scope_recall" in scores
    squad = numbers_of(scores_of("answering", tokenizer, unanswerable=True))
    assert "NoAns_f1" in squad
    for name in (*numbers_of(scores), *squad):
        assert is_known(name), name
    assert {score_named(name, squad).unit for name in squad} == {"percent"}


def test_every_score_of_a_learner_is_in_the_table() -> None:
    student, teacher = tiny("DistilBertForMaskedLM"), tiny("BertForMaskedLM")
    pairs = tiny("AlbertForPreTraining")
    assert isinstance(student, ForMaskedLM)
    assert isinstance(pairs, ForPreTraining)
    for learner in (
        MaskedLMLearner(student),
        DistillationLearner(student, teacher, DistillationLoss()),
        PretrainingLearner(pairs, "sentence_order"),
    ):
        assert learner.metric_names
        for name in learner.metric_names:
            assert is_known(name), name
            assert score_named(name).higher_is_better == name.endswith("accuracy")


@pytest.mark.parametrize(
    ("name", "title", "unit", "higher"),
    [
        ("f1", "F1", "share", True),
        ("intent_accuracy", "accuracy of intents", "share", True),
        ("intent_calibration_error", "calibration error of intents", "share", False),
        ("slot_f1", "F1 of slots", "share", True),
        ("HasAns_f1", "F1 with an answer", "share", True),
        ("spearman", "Spearman correlation", "correlation", True),
        # names that others make up
        ("dev_accuracy", "dev accuracy", "share", True),
        ("my_macro_f1", "my macro f1", "share", True),
        ("first_loss", "first loss", "nats", False),
        ("skill", "skill", "", True),
        ("word_error", "word error", "", False),
        ("test_perplexity", "test perplexity", "", False),
        ("lossy", "lossy", "", True),
    ],
)
def test_names(name: str, title: str, unit: str, higher: bool) -> None:
    found = score_named(name)
    assert (found.title, found.unit, found.higher_is_better) == (title, unit, higher)


def test_answers_are_in_percent_and_entities_are_not() -> None:
    assert score_named("f1", ["exact", "f1"]).unit == "percent"
    assert score_named("HasAns_f1", ["exact", "f1"]).unit == "percent"
    assert score_named("f1", ["f1", "precision"]).unit == "share"
    assert score_named("macro_f1", ["exact"]).unit == "share"
    assert score_named("f1", ["exact"]).show(51.13) == "51.1%"
    assert score_named("f1").show(0.5113) == "51.1%"
    assert score_named("spearman").show(0.5113) == "0.511"


def test_losses_errors_and_distances_are_better_lower() -> None:
    lower = {name for name, score in SCORES.items() if not score.higher_is_better}
    assert lower == {
        *("loss", "masked_loss", "masked_kl", "cosine", "hidden_cosine", "hidden_mse", "attention"),
        *("relations", "pooled", "pooled_mse", "calibration_error", "mean_squared_error"),
        "squared_error",
    }


@given(st.text(st.sampled_from("ab_L1"), max_size=12), st.sampled_from([*SCORES, *LOWER_IS_BETTER]))
def test_any_name_gets_an_answer(before: str, name: str) -> None:
    assert score_named(before).title is not None
    whole = score_named(f"{before}_{name}")
    assert whole.higher_is_better == score_named(name).higher_is_better


# --- who reads it ---


def test_the_best_of_each_score_in_a_plot(tmp_path: Path) -> None:
    """The worst F1 is not the best, and of a calibration error the lowest is."""
    values = {
        "f1": [0.2, 0.9, 0.5],
        "both_right": [0.1, 0.3, 0.2],
        "intent_calibration_error": [0.3, 0.1, 0.2],
        "spearman": [-0.5, 0.7, 0.6],
        "mean_squared_error": [3.0, 1.0, 2.0],
        "my_own": [1.0, 5.0, 2.0],
        "loss": [2.0, 0.5, 1.0],
    }
    log = tmp_path / "run" / "log.jsonl"
    log.parent.mkdir()
    rows = [
        {"step": step, "held_out": {name: row[step - 1] for name, row in values.items()}}
        for step in (1, 2, 3)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_run(tmp_path).summary()["held_out"]
    assert {name: score["best_step"] for name, score in found.items()} == dict.fromkeys(values, 2)


def test_printed_scores_say_percent_where_they_are(tokenizer: Tokenizer) -> None:
    lines = show_scores({"exact": 40.0, "f1": 51.1, "examples": 12}).splitlines()
    assert [line.split() for line in lines] == [
        ["exact", "(%)", "40.0000"],
        ["f1", "(%)", "51.1000"],
        ["examples", "12"],
    ]
    assert show_scores({"f1": 0.5, "precision": 0.25}).splitlines()[0].split() == ["f1", "0.5000"]


def test_a_comparison_shows_a_correlation_as_one() -> None:
    tasks = {
        "sts": {"metric": "spearman", "score": 0.8131, "examples": 100},
        "ner": {"metric": "f1", "score": 0.5, "examples": 100},
    }
    worse = {"sts": {"metric": "spearman", "score": 0.7318, "examples": 100}}
    common: dict[str, Any] = {
        "scores": None,
        "components": dict.fromkeys(("embeddings", "layers", "pooler", "heads"), 1),
        **dict.fromkeys(("parameters", "file_bytes", "flops_per_token"), 1),
        **dict.fromkeys(("one_text_seconds", "tokens_per_second"), 1.0),
    }
    models = [{**common, "tasks": found} for found in (tasks, worse)]
    shown = {
        quantity.heading: [quantity.cell(value) for value in quantity.values]
        for quantity in quantities({"models": models, "workload": {"one_text_tokens": 32}})
        if quantity.kind == "score"
    }
    assert shown == {
        "Spearman correlation on sts": ["0.813", "0.732 (90%)"],
        "F1 on ner, %": ["50.0", "–"],
    }


def test_panels_of_scores_say_their_unit() -> None:
    assert score_named("f1").label == "F1 (%)"
    assert score_named("masked_loss").label == "masked LM loss (nats)"
    assert score_named("spearman").label == "Spearman correlation"
    assert score_named("f1").percentage(0.5) == 50.0
    assert score_named("f1", ["exact"]).percentage(50.0) == 50.0
