"""A teacher's predictions for the samples of a task, computed once, as they never change."""

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
    """A teacher's predictions for every training sample.

    All are computed before the first step, in batches that depend only on the samples, so that a
    resumed run has the same predictions to the bit. They stay in memory, beside the samples.

    Args:
        task: the student's task.
        samples: the samples as the teacher reads them; the n-th is the n-th of the student. They
            are the same unless the teacher has another vocabulary.
        processes: the processes, each of which computes its share; None = this process computes
            all.
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
        """Computes the predictions unless this was done before; all processes call it together.

        Args:
            teacher: the teacher, in eval mode.
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
        """Estimates the seconds that `make` would take in this process alone, and disables it.

        Args:
            teacher: the teacher, in eval mode.
            seconds: how long to measure batches.
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
        """The teacher's logits for a batch of the student, as the teacher's head computes them.

        Returns:
            float32 logits, see `Task.logits`; None after `estimate`, which keeps nothing.
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
