"""Records without labels, learned from a teacher's predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from minilm.data.records.base import Records, Skips
from minilm.data.records.frames import as_records
from minilm.errors import InputError, by_place
from minilm.recipes.finetuning_settings import FinetuningSettings
from minilm.tasks.fields import check_dictionaries
from minilm.tasks.task import Sample, Task
from minilm.tokenization.tokenizer import Tokenizer


def check_unlabelled(teacher: str | os.PathLike[str] | None, settings: FinetuningSettings) -> None:
    """Raise InputError unless a teacher and a weight say what to learn from unlabelled records."""
    what = by_place(python="unlabelled", command="--unlabelled")
    if teacher is None:
        raise InputError(
            f"{what} needs a {by_place(python='teacher', command='--teacher')}, whose predictions "
            "stand for the labels: fine-tune one on the labelled records first."
        )
    if settings.soft_targets.weight == 0:
        weight = by_place(python="soft_targets.weight", command="--soft-targets")
        raise InputError(
            f"{what}: {weight} is 0, so nothing would be learned from these records. Give the "
            "teacher's predictions a weight, or leave the records out."
        )


def read_unlabelled(
    task: Task[Any],
    records: Sequence[Mapping[str, Any]],
    skips: Skips,
    tokenizer: Tokenizer,
) -> tuple[list[Any], list[Sample]]:
    """Examples and samples of records whose labels are not read.

    Args:
        task: the task of the labelled records; texts are read from the same columns.
        records: as for predictions; blank lines of a text file are left out.
        skips: what to do with bad records.
        tokenizer: the student's tokenizer.

    Raises:
        InputError: there are none.
        DataError: a bad record.
    """
    records = as_records(records, "unlabelled")
    check_dictionaries(records)
    if isinstance(records, Records):
        filled = [n for n, record in enumerate(records) if not record.get("blank")]
        records = records.pick(filled)
    examples = task.examples(records, skips, labelled=False) if len(records) else []
    if not examples:
        raise InputError(f"There are no unlabelled records that can be used. {skips.summary()}")
    return examples, task.unlabelled(task.samples(examples, tokenizer))
