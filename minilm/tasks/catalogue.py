"""The tasks by their names, and the task of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilm.errors import CheckpointError, InputError, MinilmError
from minilm.files.file_names import TASK
from minilm.files.json_file import read_json
from minilm.loader import find_class
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.answering import QuestionAnswering
from minilm.tasks.choices import MultipleChoice
from minilm.tasks.multi_label import MultiLabel
from minilm.tasks.tagging import Tagging
from minilm.tasks.task import Task
from minilm.tasks.texts import Classification, Regression
from minilm.tasks.utterances import INTENT, Utterances

TASKS: dict[str, type[Task[Any]]] = {
    cls.name: cls
    for cls in (
        Classification,
        MultiLabel,
        Regression,
        Tagging,
        QuestionAnswering,
        MultipleChoice,
        Utterances,
    )
}
LONGEST = 384  # tokens of a row, for a checkpoint that does not say


def task_class(name: str) -> type[Task[Any]]:
    """The class of the task with this name.

    Raises:
        InputError: there is no such task.
    """
    if name not in TASKS:
        raise InputError(f"task is {name!r}: expected one of {', '.join(TASKS)}.")
    return TASKS[name]


def task_of(directory: Path, model: PretrainedModel) -> Task[Any]:
    """The task that a checkpoint was fine-tuned for.

    A checkpoint of `minilm finetune` says so in task.json; for others, head, labels and problem
    type decide.

    Args:
        directory: directory of the checkpoint.
        model: the model that was loaded from it.

    Raises:
        CheckpointError: it has no head for a task, or task.json is damaged.
    """
    path = directory / TASK
    settings: dict[str, Any] = {}
    if path.exists():
        settings = read_json(path, max_bytes=1_000_000, error=CheckpointError)
    limit = model.config.max_position_embeddings
    settings.setdefault("max_length", min(LONGEST, limit))
    if not isinstance(settings["max_length"], int) or not 1 <= settings["max_length"] <= limit:
        raise CheckpointError(
            f"{path}: max_length is {settings['max_length']!r}, expected 1 to {limit}."
        )
    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    name = settings["task"] if "task" in settings else _guess(model, labels)
    cls = TASKS.get(name) if isinstance(name, str) else None
    if cls is None or not type(model).__name__.endswith(cls.head):
        raise CheckpointError(
            f"{directory} is a {type(model).__name__}, with no head for a task"
            + ("" if name is None else f" {name!r}")
            + ". Fine-tune it first: minilm finetune --help."
        )
    try:
        return cls.restore(labels, settings).remember(settings)
    except (TypeError, ValueError, MinilmError) as problem:
        raise CheckpointError(f"{path}: {problem}") from problem


def is_finetuned(directory: Path) -> bool:
    """Whether a checkpoint has a head for a task."""
    name = find_class(directory).__name__
    return any(name.endswith(task.head) for task in TASKS.values())


def _guess(model: PretrainedModel, labels: list[str]) -> str | None:
    kind = type(model).__name__
    if kind.endswith("ForQuestionAnswering"):
        return QuestionAnswering.name
    if kind.endswith("ForMultipleChoice"):
        return MultipleChoice.name
    if kind.endswith("ForTokenClassification"):
        with_intents = any(label.startswith(INTENT) for label in labels)
        return Utterances.name if with_intents else Tagging.name
    if kind.endswith("ForSequenceClassification"):
        for task in (MultiLabel, Regression):
            if model.config.problem_type == task.problem_type:
                return task.name
        return Regression.name if len(labels) == 1 else Classification.name
    return None
