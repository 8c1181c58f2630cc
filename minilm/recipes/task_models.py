"""The models of fine-tuning: what it starts from, and the teacher."""

from __future__ import annotations

import os
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
from minilm.tasks.task import Task
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
    """A DistilBERT of some of the teacher's layers, its head fresh."""
    encoder = init_student(teacher, layers, masked_lm=False)
    cls = CLASSES[STEMS["distilbert"] + task.head]
    student = cls(encoder.config.replace(**task.config()))
    student.base.load_state_dict(encoder.state_dict())
    return student


def load_teacher(
    path: str | os.PathLike[str], task: Task[Any], tokenizer: Tokenizer
) -> PretrainedModel:
    """A teacher, which must fit the task and the student's tokenizer.

    Raises:
        InputError: another head, other labels or another vocabulary.
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
    if teachers.backend.get_vocab(with_added_tokens=True) != tokenizer.backend.get_vocab(
        with_added_tokens=True
    ):
        raise InputError(f"The teacher {path} has another vocabulary than the student.")
    return model
