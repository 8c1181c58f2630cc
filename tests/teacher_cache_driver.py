"""Distillation with a teacher cache, tiny: called by test_teacher_cache.py, alone or by torchrun.

    python teacher_cache_driver.py OUTPUT CACHE SETTINGS [KILL_AT]

SETTINGS is JSON: {"loop": numbers of the loop, "part_bytes": ...}. With KILL_AT the process kills
itself when the teacher is asked for the so many-th time. Which samples the teacher ran for goes to
OUTPUT/teacher-RANK.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import minilm
from memory_store import MemoryStore, wordpiece
from minilm.data.batches import TokenBatch
from minilm.data.masked_lm import MaskedLMData, evaluation_batches
from minilm.data.masking import TokenMasking
from minilm.data.sequences import Sequences
from minilm.data.teacher_cache import TeacherCache
from minilm.data.vocabulary import Vocabulary
from minilm.learners import cached_teacher
from minilm.learners.cached_teacher import CachedTeacher, StoredTargets, kept
from minilm.learners.distillation import DistillationLearner
from minilm.losses.distillation import DistillationLoss
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM
from minilm.training.distributed import Processes, join
from minilm.training.loop import Result, train
from minilm.training.settings import TrainingSettings
from tiny import tiny

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
ROUND = 24  # samples of an epoch
HELD_OUT = 6


def make_data(mask_rounds: int | None = 1, seed: int = 4) -> tuple[MaskedLMData, list[TokenBatch]]:
    """Thirty documents of one sequence each; the last six are held out."""
    draw = np.random.default_rng(3)
    documents = [draw.integers(5, 61, draw.integers(6, 14)) for _ in range(ROUND + HELD_OUT)]
    store = MemoryStore(wordpiece(size=61), documents)
    vocabulary = Vocabulary.of(store.tokenizer())
    masking = TokenMasking(vocabulary, 0.3)
    data = MaskedLMData(
        Sequences(store, max_length=16, documents=range(ROUND), min_length=4),
        masking,
        vocabulary,
        tokens_per_step=70,
        seed=seed,
        mask_rounds=mask_rounds,
    )
    held_out = evaluation_batches(
        Sequences(store, max_length=16, documents=range(ROUND, ROUND + HELD_OUT), min_length=4),
        masking,
        vocabulary,
        tokens_per_batch=40,
    )
    return data, held_out


def make_models(dtype: torch.dtype = torch.float32) -> tuple[ForMaskedLM, ForMaskedLM]:
    """A student with dropout, and its teacher."""
    teacher = tiny("BertForMaskedLM", dtype, num_hidden_layers=2, **DROPOUT)
    assert isinstance(teacher, ForMaskedLM)
    student = minilm.init_student(teacher)
    assert isinstance(student, ForMaskedLM)
    return student, teacher


def open_cache(
    directory: Path, loss: DistillationLoss, teacher: PretrainedModel, **settings: Any
) -> CachedTeacher:
    """Of the tiny teacher; `settings` are for `StoredTargets.of` and `TeacherCache`."""
    how = {name: settings.pop(name) for name in ("dtype", "top_k") if name in settings}
    stored = StoredTargets.of(loss, directory, **how)
    columns = stored.columns(teacher.config.hidden_size, teacher.config.vocab_size)
    identity = {**stored.identity(), "teacher": "tiny"}
    return CachedTeacher(TeacherCache(directory, identity, columns, **settings), stored)


@dataclass
class Watched:
    """What a teacher was asked for.

    Attributes:
        calls: how often it was.
        samples: the ids of all samples, as they were masked.
    """

    calls: int
    samples: list[tuple[int, ...]]


def watch(teacher: PretrainedModel, kill_at: int | None = None) -> Watched:
    """Counts what a teacher is asked for."""
    watched = Watched(0, [])
    original = cached_teacher.encode

    def encode(model: PretrainedModel, batch: TokenBatch, types: Any) -> Any:
        if model is teacher:
            watched.calls += 1
            if watched.calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            parts = torch.split(batch.input_ids, batch.lengths.tolist())
            watched.samples.extend(tuple(part.tolist()) for part in parts)
        return original(model, batch, types)

    cached_teacher.encode = encode
    return watched


def run(
    output: Path,
    targets: CachedTeacher | None,
    models: tuple[ForMaskedLM, ForMaskedLM],
    loss: DistillationLoss,
    processes: Processes,
    *,
    data: MaskedLMData | None = None,
    **loop: Any,
) -> Result:
    """Two epochs with the same masks, or what `loop` and `data` say."""
    made, held_out = make_data()
    data = data or made
    learner = DistillationLearner(*models, loss, targets=targets)
    settings = {"steps": data.count_steps(2), "learning_rate": 1e-3, "evaluate_every": 3, **loop}
    with kept(targets, lambda _: None):
        return train(
            learner,
            data,
            TrainingSettings(**settings),
            output,
            processes=processes,
            finish=lambda path: save_file(learner.state_dict(), path / "model.safetensors"),
            held_out=held_out,
        )


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    output, directory, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    kill_at = int(sys.argv[4]) if len(sys.argv) > 4 else None
    loss = DistillationLoss()
    models = make_models(torch.float64)
    targets = open_cache(directory, loss, models[1], part_bytes=settings["part_bytes"])
    watched = watch(models[1], kill_at)
    with join("cpu") as processes:
        run(output, targets, models, loss, processes, **settings["loop"])
        asked = {"samples": watched.samples, "read": targets.read}
        (output / f"teacher-{processes.rank}.json").write_text(json.dumps(asked))


if __name__ == "__main__":
    main()
