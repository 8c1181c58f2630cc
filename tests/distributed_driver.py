"""What test_distributed.py runs in one process or under torchrun: short trainings with dropout."""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import minilm
from memory_store import MemoryStore, wordpiece
from minilm.data.batches import SampleSource
from minilm.data.masked_lm import MaskedLMData, evaluation_batches
from minilm.data.masking import TokenMasking
from minilm.data.ngram_masking import NGramMasking
from minilm.data.records.base import Skips
from minilm.data.segment_pairs import SegmentPairs, pair_evaluation_batches
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.learners.distillation import DistillationLearner
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.learners.pairs import PretrainingLearner
from minilm.learners.tasks import TaskLearner
from minilm.losses.distillation import DistillationLoss
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.tasks.batches import Balance, TaskData
from minilm.tasks.catalogue import TASKS
from minilm.training.distributed import Processes, join
from minilm.training.learner import Learner
from minilm.training.loop import train
from minilm.training.settings import TrainingSettings
from task_data import RECORDS, SPECIAL, VOCABULARY, tiny_model
from tiny import tiny

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def run(
    objective: str, output: Path, accumulation: int, processes: Processes, dtype: torch.dtype
) -> None:
    """Twenty steps in float64, five in float32."""
    rng = np.random.default_rng(3)
    documents = [rng.integers(5, 61, rng.integers(3, 40)) for _ in range(30)]
    store = MemoryStore(wordpiece(size=61), documents)
    vocabulary = Vocabulary.of(store.tokenizer())
    masking = TokenMasking(vocabulary)
    pairs = objective == "mlm+sop"
    source: SampleSource = Sequences(store, max_length=16, documents=range(24), min_length=4)
    if pairs:
        source = SegmentPairs(
            store, task="sentence_order", max_length=16, documents=range(24), min_length=4
        )
    data = MaskedLMData(
        source,
        NGramMasking(vocabulary) if pairs else masking,
        vocabulary,
        tokens_per_step=90,
        seed=4,
    )
    held_out = evaluation_batches(
        Sequences(store, max_length=16, documents=range(24, 30), min_length=4),
        masking,
        vocabulary,
        tokens_per_batch=40,
    )
    teacher = tiny("BertForMaskedLM", dtype, num_hidden_layers=4, **DROPOUT)
    assert isinstance(teacher, ForMaskedLM)
    learner: Learner
    if pairs:
        albert = tiny("AlbertForPreTraining", dtype, classifier_dropout=0.1, **DROPOUT)
        assert isinstance(albert, ForPreTraining)
        learner = PretrainingLearner(albert, "sentence_order")
        held_out += pair_evaluation_batches(
            SegmentPairs(
                store, task="next_sentence", max_length=16, documents=range(24, 30), min_length=4
            ),
            tokens_per_batch=40,
        )
    elif objective == "mlm":
        learner = MaskedLMLearner(teacher)
    else:
        student = minilm.init_student(teacher)
        assert isinstance(student, ForMaskedLM)
        learner = DistillationLearner(student, teacher, DistillationLoss(mse=0.1))
    settings = TrainingSettings(
        steps=20 if dtype is torch.float64 else 5,
        warmup=3,
        learning_rate=1e-3,
        optimiser="lamb" if pairs else "adamw",
        accumulation=accumulation,
        evaluate_every=10,
    )
    train(
        learner,
        data,
        settings,
        output,
        processes=processes,
        finish=lambda path: save_file(learner.state_dict(), path / "model.safetensors"),
        held_out=held_out,
    )


def run_task(name: str, output: Path, accumulation: int, processes: Processes) -> None:
    """Five steps of fine-tuning in float64, of samples that are drawn with replacement."""
    tokenizer = wordpiece(*VOCABULARY[len(SPECIAL) :])
    records = RECORDS[name](12)
    task = TASKS[name].learn(records, 16, {"doc_stride": 4} if name == "answering" else {})
    samples = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
    balance: Balance = "sampling" if name == "classification" else "none"
    model = tiny_model("bert", task.head, 1, **DROPOUT, **task.config())
    learner = TaskLearner(model.double(), task)
    train(
        learner,
        TaskData(task, samples, 6, seed=4, balance=balance),
        TrainingSettings(steps=5, learning_rate=1e-3, accumulation=accumulation),
        output,
        processes=processes,
        finish=lambda path: save_file(learner.state_dict(), path / "model.safetensors"),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    with join("cpu") as together:
        for parts in sys.argv[2:]:  # of a step, each in a directory of its own
            for name in ("mlm", "distillation", "mlm+sop"):
                output = place / parts / name
                run(name, output, int(parts), together, torch.float64)
                single = output.with_name(f"{name} float32")
                run(name, single, int(parts), together, torch.float32)
            for name in RECORDS:
                run_task(name, place / parts / name, int(parts), together)
