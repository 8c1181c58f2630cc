"""The models of fine-tuning: the one it starts from, and the teacher."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm.checkpoints.hub import resolve
from minilm.checkpoints.weights import open_directory
from minilm.compression.starts import LayerChoice
from minilm.compression.students import init_student
from minilm.config import EncoderConfig
from minilm.errors import InputError
from minilm.loader import CLASSES, STEMS, check_vocabulary, find_class, load_finetuned
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.task import Sample, Task
from minilm.tokenization.tokenizer import Tokenizer


def read_config(directory: Path) -> EncoderConfig:
    """The configuration of a checkpoint."""
    data, weights = open_directory(directory)
    with weights:
        return find_class(directory).config_class.from_dict(data)


def with_head(directory: Path, task: Task[Any]) -> PretrainedModel:
    """A checkpoint's model with the task's head, which is fresh unless it is stored."""
    stem = STEMS[find_class(directory).config_class.model_type]
    cls = CLASSES[stem + task.head]
    return cls.from_pretrained(directory, ignore_mismatched_heads=True, **task.config())


def student_of(teacher: PretrainedModel, layers: LayerChoice, task: Task[Any]) -> PretrainedModel:
    """A DistilBERT made of some of the teacher's layers, with a fresh head."""
    encoder = init_student(teacher, layers, masked_lm=False)
    cls = CLASSES[STEMS["distilbert"] + task.head]
    student = cls(encoder.config.replace(**task.config()))
    student.base.load_state_dict(encoder.state_dict())
    return student


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher for a task.

    Attributes:
        model: the teacher with the task's head.
        task: the student's task, with rows that are not longer than the teacher can read.
        tokenizer: the teacher's tokenizer; None = it reads the same tokens as the student.
    """

    model: PretrainedModel
    task: Task[Any]
    tokenizer: Tokenizer | None

    def samples(self, examples: Sequence[Any], samples: Sequence[Sample]) -> Sequence[Sample]:
        """The samples that the teacher reads.

        Args:
            examples: examples of the task.
            samples: the samples of these that the student reads.

        Returns:
            One sample for each of the student's.
        """
        return samples if self.tokenizer is None else self.task.samples(examples, self.tokenizer)


def load_teacher(path: str | os.PathLike[str], task: Task[Any], tokenizer: Tokenizer) -> Teacher:
    """A teacher, which must fit the task.

    For tasks with one prediction for each example, such as a text, its vocabulary may differ from
    the student's; for tasks with one for each token it may not.

    Args:
        path: the teacher's checkpoint.
        task: the student's task.
        tokenizer: the student's tokenizer.

    Raises:
        InputError: its head, labels or vocabulary do not fit.
    """
    directory = resolve(path)
    model = load_finetuned(directory)
    if not type(model).__name__.endswith(task.head):
        raise InputError(
            f"The teacher {path} is a {type(model).__name__}, with no head for {task.name}: "
            "fine-tune it first."
        )
    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if task.labels and labels != list(task.labels):
        raise InputError(
            f"The teacher {path} has the labels {', '.join(labels[:8])}, the training records "
            f"{', '.join(task.labels[:8])}: they must be the same, in the same order."
        )
    teachers = Tokenizer.from_pretrained(directory)
    check_vocabulary(model.config, teachers)
    vocabularies = (
        each.backend.get_vocab(with_added_tokens=True) for each in (teachers, tokenizer)
    )
    if len({frozenset(vocabulary.items()) for vocabulary in vocabularies}) == 1:
        return Teacher(model, task, None)
    if not task.of_examples:
        raise InputError(
            f"The teacher {path} has another vocabulary than the student: for {task.name} it "
            "predicts token by token, so both must read the same tokens. Give a student with the "
            "teacher's vocabulary."
        )
    own = copy(task)
    own.max_length = min(task.max_length, model.config.max_position_embeddings)
    return Teacher(model, own, teachers)
