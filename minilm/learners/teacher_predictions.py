"""A teacher's predictions for the samples of a task: they never change, so they are made once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from minilm.files.arrays import Floats
from minilm.files.progress import DELAY, is_watched
from minilm.models.pretrained import PretrainedModel
from minilm.sentence.encoder import pack
from minilm.tasks.task import Sample, Task, TaskBatch, collate
from minilm.training.distributed import Processes

TOKENS_PER_BATCH = 4096


class TeacherPredictions:
    """What a teacher says of every training sample.

    All are made before the first step, in batches that depend on nothing but the samples, so a run
    that goes on after an interruption finds the same to the bit. They stay in memory, beside the
    samples.

    Args:
        task: of the student.
        samples: as the teacher reads them; the n-th stands for the n-th of the student. They are
            the same unless the teacher has another vocabulary.
        processes: those that take part: each makes its share; None = this process makes all.
    """

    def __init__(
        self, task: Task[Any], samples: Sequence[Sample], processes: Processes | None = None
    ) -> None:
        self._task = task
        self._samples = samples
        self._processes = processes
        self._outputs: dict[int, Floats] = {}
        self._omitted = False

    @torch.no_grad()
    def make(self, teacher: PretrainedModel) -> None:
        """Makes the predictions, unless that is done; all processes call this together.

        Args:
            teacher: in eval mode.
        """
        if self._outputs or self._omitted:
            return
        rank, world = 0, 1
        if self._processes is not None:
            rank, world = self._processes.rank, self._processes.world
        found: dict[int, Floats] = {}
        tokens = sum(sample.tokens for sample in self._samples)
        with tqdm(
            desc="teacher",
            total=tokens,
            unit=" tokens",
            disable=rank > 0 or not is_watched(),
            delay=DELAY,
        ) as bar:
            for number, batch in enumerate(self._batches()):
                if number % world == rank:
                    found |= self._of_batch(teacher, batch)
                bar.update(batch.tokens)
        self._outputs = found if self._processes is None else self._processes.gather(found)

    @torch.no_grad()
    def estimate(self, teacher: PretrainedModel, seconds: float = 2.0) -> float:
        """How many seconds `make` would take in this process alone; afterwards it does nothing.

        Args:
            teacher: in eval mode.
            seconds: batches are measured for so long.
        """
        self._omitted = True
        everything = list(self._batches())
        self._of_batch(teacher, everything[0])  # the first one also allocates
        chosen = random.Random(0).sample(everything, len(everything))
        began = time.monotonic()
        done = 0
        for batch in chosen:
            self._of_batch(teacher, batch)
            done += batch.tokens
            if time.monotonic() - began > seconds:
                break
        measured = time.monotonic() - began
        return measured * sum(batch.tokens for batch in everything) / done

    def logits(self, batch: TaskBatch) -> Tensor | None:
        """The teacher's logits for a batch of the student's, as its own head would give them.

        Returns:
            float32, see `Task.logits`; None after `estimate`, which keeps nothing.
        """
        if self._omitted:
            return None
        outputs = [self._outputs[number] for number in batch.samples.tolist()]
        return self._task.logits_of(outputs, batch).to(batch.input_ids.device)

    def _batches(self) -> Iterator[TaskBatch]:
        lengths = [sample.tokens for sample in self._samples]
        for numbers in pack(lengths, TOKENS_PER_BATCH):
            yield collate(self._task, self._samples, np.array(numbers))

    def _of_batch(self, teacher: PretrainedModel, batch: TaskBatch) -> dict[int, Floats]:
        batch = batch.to(teacher.device)
        outputs = self._task.outputs(self._task.logits(teacher, batch), batch)
        return dict(zip(batch.samples.tolist(), outputs, strict=True))
