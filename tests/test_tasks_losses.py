"""What is learned from: losses, shares of a step, soft targets, unequal frequencies."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

from minilm.data.records.base import Skips
from minilm.errors import InputError
from minilm.learners.tasks import (
    SoftTargets,
    TaskLearner,
    class_weights,
)
from minilm.losses.soft_targets import Kind, label_loss, soft_target_loss
from minilm.tasks.balance import weights_of_classes, weights_of_positives
from minilm.tasks.batches import NoBatch, TaskData, batches
from minilm.tasks.catalogue import TASKS
from minilm.tasks.task import Sample, Task, TaskBatch, collate
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.settings import TrainingSettings
from minilm.training.updates import Updater
from task_data import ARCHITECTURES, RECORDS, colour_texts, save_start, tiny_model
from toy import ALONE

EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_pretrained(save_start(tmp_path_factory.mktemp("start")))


def task_and_samples(
    name: str, tokenizer: Tokenizer, count: int = 12
) -> tuple[Task[Any], list[Sample]]:
    records = RECORDS[name](count)
    task = TASKS[name].learn(records, 16, {"doc_stride": 4} if name == "answering" else {})
    return task, task.samples(task.examples(records, Skips(), labelled=True), tokenizer)


def learner_of(task: Task[Any], architecture: str = "bert", **more: Any) -> TaskLearner:
    model = tiny_model(architecture, task.head, 1, **task.config())
    return TaskLearner(model, task, **more)


def padded(batch: TaskBatch, ids: Tensor, fill: int) -> Tensor:
    """(R, S) of a packed line."""
    rows = torch.split(ids, batch.lengths.tolist())
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def loss_of_the_model(name: str, model: Any, task: Any, batch: TaskBatch) -> Tensor:
    """What the model's own forward says on padded rows, by Hugging Face's rules."""
    inputs = {
        "input_ids": padded(batch, batch.input_ids, 0),
        "attention_mask": padded(batch, torch.ones_like(batch.input_ids), 0),
    }
    if model.base.embeddings.token_type is not None:
        inputs["token_type_ids"] = padded(batch, batch.token_type_ids, 0)
    labels = batch.labels
    assert labels is not None
    if name == "answering":
        loss = model(**inputs, start_positions=labels[:, 0], end_positions=labels[:, 1]).loss
    elif name == "tagging":
        loss = model(**inputs, labels=padded(batch, labels, -100)).loss
    elif name == "utterances":
        logits = model(**inputs).logits
        rows = padded(batch, labels, -100)
        words = (rows >= 0) & (rows < task.slots)
        firsts = rows[:, 0] >= task.slots  # an utterance's second window has no intent
        loss = F.cross_entropy(logits[words][:, : task.slots], rows[words])
        intents = logits[firsts, 0, task.slots :]
        loss = loss + F.cross_entropy(intents, rows[firsts, 0] - task.slots)
    elif name == "choice":
        losses = []
        begin = 0
        for count, label in zip(batch.rows.tolist(), labels, strict=True):
            part = {k: value[None, begin : begin + count] for k, value in inputs.items()}
            losses.append(model(**part, labels=label[None]).loss)
            begin += count
        loss = torch.stack(losses).mean()
    else:
        loss = model(**inputs, labels=labels).loss
    found: Tensor = loss
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", RECORDS)
def test_the_loss_is_that_of_the_model(name: str, architecture: str, tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples(name, tokenizer)
    learner = learner_of(task, architecture).eval()
    batch = collate(task, samples, np.arange(len(samples)))
    found = learner(batch, learner.counts(batch))
    wanted = loss_of_the_model(name, learner.model, task, batch)
    torch.testing.assert_close(found["loss"], wanted, **EXACT)
    torch.testing.assert_close(found["labels"], wanted.detach(), **EXACT)
    assert not found["labels"].requires_grad


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", RECORDS)
def test_a_round_number_of_tokens_changes_nothing(
    name: str, architecture: str, tokenizer: Tokenizer
) -> None:
    """In bfloat16 a row fills a batch up; autocast leaves float64, so the numbers are exact."""
    task, samples = task_and_samples(name, tokenizer)
    learner = learner_of(task, architecture).double().eval()
    word = learner.model.base.embeddings.word
    seen: list[int] = []
    word.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for count in (1, 2, 5, 12):
        batch = collate(task, samples, np.arange(count))
        results = []
        for filled in (False, True):
            learner.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=filled):
                loss = learner(batch, learner.counts(batch))["loss"]
            loss.backward()
            assert word.weight.grad is not None
            results.append((task.logits(learner.model, batch), loss, word.weight.grad.clone()))
            assert seen.pop() == batch.tokens
            assert seen.pop() == (-(-batch.tokens // 32) * 32 if filled else batch.tokens)
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("taught", [False, True])
def test_the_loss_of_parts_adds_up_to_that_of_the_step(
    name: str, taught: bool, tokenizer: Tokenizer
) -> None:
    task, samples = task_and_samples(name, tokenizer)
    teacher = tiny_model("bert", task.head, 7, **task.config()) if taught else None
    learner = learner_of(task, teacher=teacher).eval()
    data = TaskData(task, samples, len(samples), 0)
    step = data.steps(0)[0]
    whole = data.batch(0, step)
    parts = [data.batch(0, part) for part in [*data.split(0, step, 3), step[:0]]]
    counts = {key: float(value) for key, value in learner.counts(whole).items()}
    added: dict[str, float] = {}
    for part in parts:
        for key, value in learner.counts(part).items():
            added[key] = added.get(key, 0) + value
    assert added == counts

    def gradients(batches: Any) -> tuple[float, list[Tensor]]:
        learner.zero_grad()
        total = 0.0
        for batch in batches:
            found = learner(batch, counts)
            found["loss"].backward()
            total += float(found["loss"].detach())
        return total, [p.grad.clone() for p in learner.parameters() if p.grad is not None]

    one, together = gradients([whole])
    other, apart = gradients(parts)
    assert one == pytest.approx(other, abs=1e-5)
    assert one > 0.1
    assert len(together) == len(apart) == len(list(learner.parameters()))
    for mine, wanted in zip(apart, together, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-4)


def test_a_process_without_a_sample_takes_part(tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples("classification", tokenizer)
    learner = learner_of(task)
    data = TaskData(task, samples, 4, 0)
    nothing = data.batch(0, np.zeros(0, np.int64))
    assert isinstance(nothing, NoBatch)
    assert nothing.to(torch.device("cpu")) is nothing
    found = learner(nothing, {"label": 4.0})
    found["loss"].backward()
    assert float(found["loss"].detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in learner.parameters())


@pytest.mark.parametrize("name", RECORDS)
def test_judging_gives_the_mean_loss_over_all_batches(name: str, tokenizer: Tokenizer) -> None:
    records = RECORDS[name](12)
    task = TASKS[name].learn(records, 16, {"doc_stride": 4} if name == "answering" else {})
    examples = task.examples(records, Skips(), labelled=True)
    samples = task.samples(examples, tokenizer)
    learner = learner_of(task).eval()
    parts = learner.hold_out(examples, samples, 30)
    assert len(parts) > 2
    found = Updater(learner, TrainingSettings(steps=1), ALONE).evaluate(parts)
    assert found is not None
    learner.eval()
    whole = collate(task, samples, np.arange(len(samples)))
    wanted = float(loss_of_the_model(name, learner.model, task, whole).detach())
    assert found["loss"] == pytest.approx(wanted, abs=1e-5)
    assert task.metric in found
    assert all(isinstance(value, float) for value in found.values())


def test_batches_hold_every_sample_once_and_not_too_many_tokens(tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples("choice", tokenizer, 30)
    found = batches(task, samples, 60)
    numbers = np.concatenate([batch.samples for batch in found])
    assert sorted(numbers.tolist()) == list(range(30))
    assert all(batch.tokens <= 60 or len(batch.samples) == 1 for batch in found)
    lengths = [samples[number].tokens for number in numbers]
    assert lengths == sorted(lengths)
    assert batches(task, [], 60) == []


# --- soft targets ---


def by_hand(kind: Kind, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    if kind == "value":
        return ((student - teacher) ** 2).sum()
    total = torch.zeros(())
    for own, other in zip(student, teacher, strict=True):
        if kind == "classes":
            p, q = (torch.softmax(x / temperature, 0) for x in (other, own))
            total = total + (p * (p.log() - q.log())).sum() * temperature**2
        else:
            for a, b in zip(own, other, strict=True):
                p, q = torch.sigmoid(b / temperature), torch.sigmoid(a / temperature)
                divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
                total = total + divergence * temperature**2 / len(own)
    return total


@pytest.mark.parametrize("kind", ["classes", "independent", "value"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_soft_targets_by_hand(kind: Kind, temperature: float) -> None:
    torch.manual_seed(3)
    width = 1 if kind == "value" else 4
    student, teacher = torch.randn(5, width, requires_grad=True), torch.randn(5, width)
    found = soft_target_loss(kind, student, teacher, temperature).sum
    wanted = by_hand(kind, student, teacher, temperature)
    torch.testing.assert_close(found, wanted)
    (gradient,) = torch.autograd.grad(found, student)
    (expected,) = torch.autograd.grad(wanted, student)
    torch.testing.assert_close(gradient, expected)
    same = soft_target_loss(kind, teacher.clone().requires_grad_(), teacher, temperature).sum
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_places_where_nothing_is_do_not_count(temperature: float) -> None:
    torch.manual_seed(3)
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    least = torch.full((3, 2), torch.finfo(torch.float32).min)
    wide = torch.cat([student, least], 1).requires_grad_()
    found = soft_target_loss("classes", wide, torch.cat([teacher, least], 1), temperature).sum
    torch.testing.assert_close(
        found, soft_target_loss("classes", student, teacher, temperature).sum
    )
    (gradient,) = torch.autograd.grad(found, wide)
    assert gradient.isfinite().all()
    assert not gradient[:, 4:].any()


def test_independent_labels_that_are_certain_stay_finite() -> None:
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    found = soft_target_loss("independent", student, torch.tensor([[-200.0, 200.0]]), 1.0).sum
    assert float(found.detach()) == pytest.approx(200)
    (gradient,) = torch.autograd.grad(found, student)
    assert gradient.isfinite().all()


def test_label_losses_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    labels = torch.tensor([1, 0])
    weights = torch.tensor([2.0, 0.5, 1.0])
    probabilities = logits.softmax(-1)
    each = -torch.stack([probabilities[0, 1], probabilities[1, 0]]).log()
    torch.testing.assert_close(label_loss("classes", logits, labels).sum, each.sum())
    torch.testing.assert_close(
        label_loss("classes", logits, labels, weights).sum, 0.5 * each[0] + 2 * each[1]
    )
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    yes = logits.sigmoid()
    wanted = -(targets * yes.log() + (1 - targets) * (1 - yes).log()).sum() / 3
    torch.testing.assert_close(label_loss("independent", logits, targets).sum, wanted)
    values = torch.tensor([0.5, 2.0])
    assert float(label_loss("value", logits[:, :1], values).sum) == pytest.approx(0.25 + 4)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_learning_from_a_teacher(name: str, temperature: float, tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples(name, tokenizer)
    teacher = tiny_model("bert", task.head, 7, **task.config())
    soft = SoftTargets(temperature, weight=0.75, label_weight=0.25)
    learner = learner_of(task, teacher=teacher, soft_targets=soft).eval()
    batch = collate(task, samples, np.arange(len(samples)))
    counts = learner.counts(batch)
    found = learner(batch, counts)
    own = task.terms(task.logits(learner.model, batch), batch)
    others = task.terms(task.logits(teacher, batch), batch)
    wanted = torch.zeros(())
    for mine, theirs in zip(own, others, strict=True):
        share = mine.weight / counts[mine.name]
        if mine.kind == "classes":
            # without the places where nothing is
            for a, b in zip(mine.logits, theirs.logits, strict=True):
                real = a > torch.finfo(torch.float32).min
                one = by_hand("classes", a[real][None], b[real][None], temperature)
                wanted = wanted + share * one
        else:
            wanted = wanted + share * by_hand(mine.kind, mine.logits, theirs.logits, temperature)
    torch.testing.assert_close(found["soft_targets"], wanted.detach(), rtol=1e-4, atol=1e-5)
    labels = loss_of_the_model(name, learner.model, task, batch)
    torch.testing.assert_close(found["loss"], 0.75 * wanted + 0.25 * labels, rtol=1e-4, atol=1e-5)
    found["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in learner.model.parameters())
    assert not teacher.training
    learner.train()
    assert not teacher.training
    assert len(list(learner.parameters())) == len(list(learner.model.parameters()))
    assert all(key.startswith("model.") for key in learner.state_dict())


def test_the_span_is_the_mean_of_start_and_end(tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples("answering", tokenizer)
    learner = learner_of(task)
    batch = collate(task, samples, np.arange(len(samples)))
    terms = task.terms(task.logits(learner.model, batch), batch)
    assert [(term.name, term.weight) for term in terms] == [("start", 0.5), ("end", 0.5)]


def test_a_teacher_equal_to_its_student_teaches_nothing(tokenizer: Tokenizer) -> None:
    for name in RECORDS:
        task, samples = task_and_samples(name, tokenizer)
        learner = learner_of(task, teacher=tiny_model("bert", task.head, 1, **task.config()))
        batch = collate(task, samples, np.arange(len(samples)))
        found = learner.eval()(batch, learner.counts(batch))
        assert float(found["soft_targets"]) == pytest.approx(0, abs=1e-5)
        assert float(found["loss"].detach()) == pytest.approx(0.5 * float(found["labels"]))


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": 0}, {"temperature": math.nan}, {"weight": -1}, {"label_weight": -0.1}],
)
def test_soft_targets_that_cannot_be(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected a temperature above 0 and weights of 0 or more"):
        SoftTargets(**arguments)


# --- classes of unequal frequency ---


def unequal(tokenizer: Tokenizer) -> tuple[Task[Any], list[Sample]]:
    texts = ["red"] * 60 + ["blue"] * 30 + ["green"] * 10
    records = [{"text": text, "label": text} for text in texts]
    task = TASKS["classification"].learn(records, 16, {})
    return task, task.samples(task.examples(records, Skips(), labelled=True), tokenizer)


def test_weights_of_classes(tokenizer: Tokenizer) -> None:
    task, samples = unequal(tokenizer)
    assert task.labels == ("blue", "green", "red")
    found_weights = class_weights(task, samples, "weights")
    assert found_weights is not None
    weights = found_weights["label"]
    torch.testing.assert_close(weights, torch.tensor([100 / 90, 100 / 30, 100 / 180]))
    labels = torch.tensor([sample.label for sample in samples])
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert class_weights(task, samples, "none") is None
    assert class_weights(task, samples, "sampling") is None
    learner = learner_of(task, class_weights={"label": weights}).eval()
    batch = collate(task, samples, np.arange(100))
    logits = learner.model(batch.input_ids, lengths=batch.lengths).logits
    each = F.cross_entropy(logits, labels, reduction="none")
    found = learner(batch, learner.counts(batch))["loss"]
    torch.testing.assert_close(found, (weights[labels] * each).sum() / 100)
    wrong: Any = "weight"
    with pytest.raises(InputError, match="balance is 'weight': expected one of none, weights, sam"):
        class_weights(task, samples, wrong)


WEIGHTED = ("classification", "multi-label", "tagging", "utterances")


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "classification"])
def test_only_one_class_for_each_sample_can_be_sampled(name: str, tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples(name, tokenizer)
    with pytest.raises(InputError, match=f"'sampling': {name} has not one class for each sample"):
        TaskData(task, samples, 4, 0, "sampling")


@pytest.mark.parametrize("name", [name for name in RECORDS if name not in WEIGHTED])
def test_what_has_no_classes_has_no_weights(name: str, tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples(name, tokenizer)
    with pytest.raises(InputError, match=f"'weights': {name} has no classes .* tagging and utter"):
        class_weights(task, samples, "weights")


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_are_those_of_the_formula_in_the_loss(name: str, tokenizer: Tokenizer) -> None:
    """Written out a second time, on the terms of the whole training set."""
    task, samples = task_and_samples(name, tokenizer)
    weights = class_weights(task, samples, "weights")
    assert weights is not None
    assert set(weights) == set(task.parts)
    learner = learner_of(task, class_weights=weights).eval()
    batch = collate(task, samples, np.arange(len(samples)))
    counts = learner.counts(batch)
    wanted = torch.zeros(())
    for term in task.terms(task.logits(learner.model, batch), batch):
        assert term.labels is not None
        used = weights[term.name]
        assert used.shape == (term.logits.shape[1],)
        if name == "multi-label":
            yes = term.labels.sum(0)
            torch.testing.assert_close(used, (len(term.labels) - yes) / yes)
            log_yes, log_no = F.logsigmoid(term.logits), F.logsigmoid(-term.logits)
            each = -(used * term.labels * log_yes + (1 - term.labels) * log_no).mean(1)
        else:
            assert float(used[term.labels].mean()) == pytest.approx(1)
            shares = torch.zeros_like(used).index_add_(0, term.labels, used[term.labels])
            assert len(shares[shares > 0].round(decimals=3).unique()) == 1  # all weigh the same
            picked = F.log_softmax(term.logits, -1)[torch.arange(len(term.labels)), term.labels]
            each = -used[term.labels] * picked
        wanted = wanted + term.weight * each.sum() / counts[term.name]
    found = learner(batch, counts)
    torch.testing.assert_close(found["loss"], wanted, **EXACT)
    plain = learner_of(task).eval()(batch, counts)["labels"]
    assert abs(float(plain - found["labels"])) > 1e-3
    evaluated = hold_out_loss(learner, task, name, tokenizer)
    assert evaluated == pytest.approx(float(plain), abs=1e-5)  # evaluations stay comparable


def hold_out_loss(learner: TaskLearner, task: Task[Any], name: str, tokenizer: Tokenizer) -> float:
    examples = task.examples(RECORDS[name](12), Skips(), labelled=True)
    parts = learner.hold_out(examples, task.samples(examples, tokenizer), 1000)
    found = Updater(learner, TrainingSettings(steps=1), ALONE).evaluate(parts)
    assert found is not None
    return found["loss"]


def test_weights_of_classes_that_never_or_always_occur() -> None:
    found = weights_of_classes(np.array([2, 2, 2, 0]), 4)
    torch.testing.assert_close(found, torch.tensor([4 / 2, 1.0, 4 / 6, 1.0]))
    assert weights_of_classes(np.zeros(0, np.int64), 2).tolist() == [1, 1]
    rows = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32)
    torch.testing.assert_close(weights_of_positives(rows), torch.tensor([1 / 4, 1.0, 3.0]))


def test_weights_move_with_the_learner_and_are_no_part_of_its_state(tokenizer: Tokenizer) -> None:
    task, samples = task_and_samples("tagging", tokenizer)
    learner = learner_of(task, class_weights=class_weights(task, samples, "weights"))
    assert all(name.startswith("model.") for name in learner.state_dict())
    assert {buffer.device.type for buffer in learner.to("meta").buffers()} == {"meta"}


def test_sampling_draws_all_classes_about_equally(tokenizer: Tokenizer) -> None:
    task, samples = unequal(tokenizer)
    data = TaskData(task, samples, 8, seed=4, balance="sampling")
    drawn = np.zeros(3)
    for epoch in range(30):
        steps = data.steps(epoch)
        assert [len(step) for step in steps] == [8] * 12 + [4]
        for step in steps:
            drawn += np.bincount([samples[n].label for n in step], minlength=3)
    assert drawn.sum() == 3000
    assert np.abs(drawn / 1000 - 1).max() < 0.1  # four deviations
    again = TaskData(task, samples, 8, seed=4, balance="sampling")
    for epoch in (5, 0, 29):
        for one, other in zip(data.steps(epoch), again.steps(epoch), strict=True):
            assert one.tolist() == other.tolist()
    first = np.concatenate(data.steps(0)).tolist()
    assert first != np.concatenate(data.steps(1)).tolist()
    others = TaskData(task, samples, 8, seed=5, balance="sampling")
    assert first != np.concatenate(others.steps(0)).tolist()


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 40), size=st.integers(1, 50), parts=st.integers(1, 5))
def test_an_epoch_has_every_sample_once(
    tokenizer: Tokenizer, count: int, size: int, parts: int
) -> None:
    records = [*colour_texts(count), {"text": "a", "label": "x"}, {"text": "a", "label": "y"}]
    task = TASKS["classification"].learn(records, 16, {})
    samples = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
    data = TaskData(task, samples, size, seed=1)
    steps = data.steps(3)
    assert sorted(np.concatenate(steps).tolist()) == list(range(count + 2))
    assert all(len(step) == size for step in steps[:-1])
    split = data.split(3, steps[0], parts)
    assert len(split) == parts
    assert sorted(np.concatenate(split).tolist()) == sorted(steps[0].tolist())


def test_data_of_other_labels_or_texts_is_other_data(tokenizer: Tokenizer) -> None:
    def fingerprint(records: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        task = TASKS["classification"].learn(colour_texts(20), 16, {})
        samples = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
        return TaskData(task, samples, **{"batch_size": 4, "seed": 0, **more}).fingerprint

    records = [{"text": "a red thing", "label": "red"}, {"text": "it", "label": "blue"}]
    same = fingerprint(records)
    assert fingerprint([dict(row) for row in records]) == same
    assert fingerprint(records[::-1]) != same
    assert fingerprint([{**records[0], "label": "green"}, records[1]]) != same
    assert fingerprint([{**records[0], "text": "a red"}, records[1]]) != same
    assert fingerprint(records, batch_size=5) != same
    assert fingerprint(records, seed=1) != same


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [(0, 4, "nothing to train on"), (3, 0, "batch_size is 0: expected at least 1")],
)
def test_data_that_cannot_be(count: int, size: int, message: str, tokenizer: Tokenizer) -> None:
    task, samples = unequal(tokenizer)
    with pytest.raises(InputError, match=message):
        TaskData(task, samples[:count], size, 0)
