"""What test_shared_evaluation.py runs, in one process or under torchrun."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memory_store import MemoryStore, wordpiece
from minilm.data.masked_lm import evaluation_batches
from minilm.data.masking import TokenMasking
from minilm.data.records.base import Skips
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.learners.tasks import TaskLearner
from minilm.models.tasks import ForMaskedLM
from minilm.tasks.catalogue import TASKS
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.distributed import Processes, join
from minilm.training.learner import Learner
from minilm.training.settings import TrainingSettings
from minilm.training.updates import Updater
from task_data import RECORDS, save_start, tiny_model
from tiny import tiny


def evaluations(tokenizer: Tokenizer, processes: Processes) -> dict[str, Any]:
    """Scores by task, and how many batches this process looked at."""
    found = {}
    for name in RECORDS:
        records = RECORDS[name](13)
        options = {"doc_stride": 4} if name == "answering" else {}
        task = TASKS[name].learn(records, 16, options)
        examples = task.examples(records, Skips(), labelled=True)
        samples = task.samples(examples, tokenizer)
        learner = TaskLearner(tiny_model("bert", task.head, 1, **task.config()), task)
        found[name] = evaluation(learner, learner.hold_out(examples, samples, 40), processes)
    rng = np.random.default_rng(3)
    store = MemoryStore(wordpiece(size=61), [rng.integers(5, 61, 30) for _ in range(6)])
    vocabulary = Vocabulary.of(store.tokenizer())
    batches = evaluation_batches(
        Sequences(store, max_length=16, documents=range(6), min_length=4),
        TokenMasking(vocabulary),
        vocabulary,
        tokens_per_batch=40,
    )
    model = tiny("BertForMaskedLM")
    assert isinstance(model, ForMaskedLM)
    found["mlm"] = evaluation(MaskedLMLearner(model.float()), batches, processes)
    # one batch for all: all but one process have none
    found["one batch"] = evaluation(MaskedLMLearner(model), batches[:1], processes)
    # one process is asked to stop, the others must hear of it
    updater = Updater(MaskedLMLearner(model), TrainingSettings(steps=1), processes)
    last = processes.rank == processes.world - 1
    found["stopped"] = {"scores": updater.evaluate(batches, lambda: last), "batches": 0}
    return found


def evaluation(learner: Learner, batches: Sequence[Any], processes: Processes) -> dict[str, Any]:
    seen = []
    learner.get_submodule("model").register_forward_pre_hook(lambda *_: seen.append(1))
    learner.get_submodule("model.encoder").register_forward_pre_hook(lambda *_: seen.append(1))
    updater = Updater(learner, TrainingSettings(steps=1), processes)
    return {
        "scores": updater.evaluate(batches),
        "calls": len(seen),
        "of": len(batches),
        "training": learner.training,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    output = Path(sys.argv[1])
    with join("cpu") as together:
        directory = output / f"start-{together.rank}"
        directory.mkdir(parents=True)
        result = evaluations(Tokenizer.from_pretrained(save_start(directory)), together)
        (output / f"{together.rank}.json").write_text(json.dumps(result))
