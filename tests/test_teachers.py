"""What a teacher is to its learner: to blame for its own numbers, and never shared by accident."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minilm.data.records.base import Skips
from minilm.errors import TrainingError
from minilm.learners.base import ModelLearner
from minilm.learners.distillation import DistillationLearner
from minilm.learners.tasks import TaskLearner
from minilm.losses.distillation import DistillationLoss
from minilm.tasks.batches import NoBatch
from minilm.tasks.catalogue import TASKS
from minilm.tasks.task import collate
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.settings import TrainingSettings
from minilm.training.updates import Updater
from task_data import RECORDS, save_start, tiny_model
from test_learners import batch_of, distiller, model, part, teacher_model
from toy import ALONE


def update(learner: ModelLearner, batch: Any, **settings: Any) -> str:
    """The message of the step that fails."""
    updater = Updater(learner, TrainingSettings(steps=1, **settings), ALONE)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(TrainingError) as caught:
        updater.update(1, [batch])
    for name, value in learner.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # of a query, torch's attention with AVX-512 swallows it
        ("encoder.layers.1.attention.value.weight", float("nan")),
        ("masked_lm_head.bias", float("nan")),
        ("masked_lm_head.bias", float("inf")),
    ],
)
def test_a_teacher_that_is_damaged_is_named(name: str, value: float) -> None:
    teacher = teacher_model()
    teacher.get_parameter(name).data.flatten()[3] = value
    message = update(distiller(teacher=teacher), batch_of())
    assert "Step 1: the loss or its gradient is not finite" in message
    assert f"The teacher, a BertForMaskedLM, has weights that are not finite ({name})" in message
    assert "learning rate" not in message


def test_a_teacher_whose_logits_overflow_is_named() -> None:
    teacher = teacher_model().float()
    teacher.get_parameter("masked_lm_head.norm.weight").data[:] = 3e38
    student = model("DistilBertForMaskedLM").float()
    learner = DistillationLearner(student, teacher, DistillationLoss(mse=0.1))
    message = update(learner, batch_of())
    assert "The teacher, a BertForMaskedLM in torch.float32, gives logits that are not" in message


def test_a_student_that_diverges_is_not_its_teachers_fault() -> None:
    learner = distiller()
    learner.student.get_parameter("masked_lm_head.bias").data[0] = float("nan")
    message = update(learner, batch_of())
    assert "Lower the learning rate" in message
    assert "teacher" not in message.lower()


def test_a_process_without_a_sample_blames_nobody() -> None:
    teacher = teacher_model()
    teacher.get_parameter("masked_lm_head.bias").data[0] = float("nan")
    learner = distiller(teacher=teacher)
    assert learner.cause_of_nonfinite(part(batch_of(), 0, 0)) is None
    assert learner.cause_of_nonfinite(batch_of()) is not None


def test_the_teacher_of_a_task_is_named_too(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(save_start(tmp_path))
    for name in ("classification", "answering"):
        records = RECORDS[name](6)
        task = TASKS[name].learn(records, 16, {"doc_stride": 4} if name == "answering" else {})
        samples = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
        student, teacher = (tiny_model("bert", task.head, n, **task.config()) for n in (1, 7))
        next(teacher.parameters()).data[:] = float("nan")
        learner = TaskLearner(student, task, teacher=teacher)
        message = update(learner, collate(task, samples, np.arange(len(samples))))
        assert "The teacher, a BertFor" in message
        assert learner.cause_of_nonfinite(NoBatch()) is None
        assert TaskLearner(student, task).cause_of_nonfinite(NoBatch()) is None


# --- one loss for several learners ---


def trained(loss: DistillationLoss, width: int) -> DistillationLearner:
    torch.manual_seed(width)
    learner = distiller(loss=loss, teacher=teacher_model(hidden_size=width))
    batch = batch_of()
    learner(batch, learner.counts(batch))["loss"].backward()
    return learner


@pytest.mark.parametrize("widths", [(24, 16), (16, 24), (24, 24), (24, 32)])
def test_a_loss_given_to_two_learners_is_shared_by_neither(widths: tuple[int, int]) -> None:
    loss = DistillationLoss()
    first = trained(loss, widths[0])
    size = sum(parameter.numel() for parameter in first.parameters())
    second = trained(loss, widths[1])
    assert sum(parameter.numel() for parameter in first.parameters()) == size
    shared = {id(p) for p in first.loss.parameters()} & {id(p) for p in second.loss.parameters()}
    assert not shared
    assert loss.projection is None
    assert not list(loss.parameters())
    for learner, width in ((first, widths[0]), (second, widths[1])):
        assert (learner.loss.projection is not None) == (width != 16)
        batch = batch_of()
        assert learner(batch, learner.counts(batch))["loss"].isfinite()
        assert learner.loss.to_dict() == loss.to_dict()


def test_a_projection_of_the_users_own_loss_stays_as_it_is() -> None:
    loss = DistillationLoss()
    assert loss.fit_widths(16, 24)
    assert loss.projection is not None
    before = loss.projection.weight.detach().clone()
    learner = distiller(loss=loss, teacher=teacher_model(hidden_size=32))
    assert learner.loss.projection is not None
    assert learner.loss.projection.weight.shape == (32, 16)
    assert torch.equal(loss.projection.weight, before)
    learner.to(torch.float32)
    assert loss.projection.weight.dtype == before.dtype
