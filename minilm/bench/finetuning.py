"""Speed of fine-tuning a classifier, side by side with a straightforward loop.

Both sides take the same step with the same weights on the same texts: backward of the loss on the
labels, gradients clipped at norm 1, AdamW (fused on both sides), a linear schedule, in the same
precision. minilm's side is what `minilm finetune` runs, `TaskLearner` and `Updater` on packed
tokens. The straightforward loop is what one writes with AutoModelForSequenceClassification: a batch
padded to its longest text, an attention mask, the labels given to the model, its own loss.
"transformers-bucketed" is the same loop with texts sorted by length within chunks of many batches,
which saves most of the padding but gives up that every batch is a random draw.

Texts are tokenised before the clock starts; batches are made of them while it runs, by both sides.
Otherwise what keeps the comparison fair is the same as for encoding (`minilm.bench`): one process,
turns batch by batch, medians over rounds, rates of real tokens only. Before the clock starts, all
loops must give the same loss and the same norm of the gradient for a batch, without dropout; the
timed steps run in train mode with the configuration's dropout. Everything runs on the CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minilm.bench.contenders import BASE_CONFIGS, read_base_config
from minilm.bench.distillation import computes_bfloat16, contender_name, measure_peaks
from minilm.bench.load import LoadWatch
from minilm.bench.machine import describe_machine
from minilm.bench.measure import compare_steps, observe_step, spread, take_turns
from minilm.bench.workload import SEED, encoder_flops
from minilm.config import BertConfig, EncoderConfig
from minilm.data.records.base import Skips
from minilm.data.records.files import read_records
from minilm.errors import DependencyError, InputError
from minilm.files.arrays import Integers
from minilm.learners.tasks import TaskLearner
from minilm.loader import CLASSES, STEMS, check_vocabulary, find_class
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.batches import TaskData
from minilm.tasks.task import Sample
from minilm.tasks.texts import Classification
from minilm.tokenization.tokenizer import Joined, Tokenizer
from minilm.training.distributed import Processes
from minilm.training.optimiser import parameter_groups
from minilm.training.schedules import learning_rate
from minilm.training.settings import Precision, TrainingSettings
from minilm.training.updates import Updater

REFERENCE = "transformers"
BATCH_SIZE = 32
LEARNING_RATE = 5e-5
WEIGHT_DECAY = 0.01
WARMUP = 0.1  # of all steps
MAX_LENGTH = 256  # as `minilm finetune` cuts texts
CHUNK = 50  # batches that are sorted by length together, as transformers' Trainer does

# models that --model knows by name
CONFIGS: Mapping[str, EncoderConfig] = {
    "minilm-l6": BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    **{name: config_class() for name, config_class in BASE_CONFIGS.items()},
}

# Tokens, and the share of texts that have fewer: the 67,349 sentences of SST-2's train.tsv (GLUE)
# with BERT's uncased vocabulary, special tokens included. Their mean is 13.3 and 67 % of the
# positions are padding when batches of 32 are drawn at random.
SHORTER: Mapping[int, float] = {
    3: 0.0,
    4: 0.029,
    5: 0.108,
    6: 0.198,
    7: 0.278,
    8: 0.348,
    9: 0.410,
    10: 0.465,
    12: 0.557,
    14: 0.633,
    17: 0.720,
    20: 0.787,
    25: 0.869,
    30: 0.923,
    35: 0.958,
    40: 0.978,
    45: 0.990,
    50: 0.9959,
    55: 0.9986,
    60: 0.9997,
    67: 1.0,
}

# Largest relative difference of the loss or the gradient's norm that rounding explains.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2}


@dataclass(frozen=True)
class FinetuningBenchSettings:
    """One run of `bench_finetuning`.

    Attributes:
        precisions: precisions of matrix products: "float32", and "bfloat16" by autocast.
        loops: keys of `LOOPS`.
        rounds: number of timing rounds.
    """

    precisions: tuple[Precision, ...] = ("float32",)
    loops: tuple[str, ...] = ("minilm", "transformers")
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}: expected at least 1.")
        for name, given, known in (
            ("precisions", self.precisions, TOLERANCE),
            ("loops", self.loops, LOOPS),
        ):
            if not given or set(given) - known.keys():
                raise InputError(f"{name} is {given}: expected some of {', '.join(known)}.")


class Texts:
    """Tokenised texts with labels, and the batches of an epoch.

    Args:
        task: the task of the labels.
        samples: the texts.
        batch_size: number of texts in a batch; the last one may have fewer.
        seed: random seed of their order.

    Attributes:
        data: the data that `minilm finetune` would train on.
        lengths: (N,) number of tokens of each text.
        batches: the numbers of the texts of each batch, in the order of the first epoch.
    """

    def __init__(
        self, task: Classification, samples: Sequence[Sample], batch_size: int, seed: int
    ) -> None:
        self.task = task
        self.samples = samples
        self.seed = seed
        self.data = TaskData(task, samples, batch_size, seed)
        self.lengths = np.array([sample.tokens for sample in samples])
        self.batches: Sequence[Integers] = self.data.steps(0)

    def bucketed(self) -> list[Integers]:
        """The same texts in other batches: sorted by length within chunks, batches shuffled."""
        size = len(self.batches[0])
        order = np.concatenate(self.batches)
        found: list[Integers] = []
        for start in range(0, len(order), CHUNK * size):
            chunk = order[start : start + CHUNK * size]
            chunk = chunk[np.argsort(-self.lengths[chunk], kind="stable")]
            found += [chunk[first : first + size] for first in range(0, len(chunk), size)]
        shuffled = np.random.default_rng(self.seed).permutation(len(found))
        return [found[number] for number in shuffled]

    def padding(self, batches: Sequence[Integers]) -> float:
        """The share of padding among the positions of batches padded to their longest text."""
        positions = sum(len(batch) * int(self.lengths[batch].max()) for batch in batches)
        return 1 - sum(int(self.lengths[batch].sum()) for batch in batches) / positions


def draw_lengths(texts: int, seed: int) -> list[int]:
    """Token counts distributed as in SST-2's training set, see `SHORTER`."""
    drawn = np.random.default_rng(seed).random(texts)
    return [int(n) for n in np.interp(drawn, list(SHORTER.values()), list(SHORTER))]


def random_texts(
    config: EncoderConfig, *, batches: int, batch_size: int = BATCH_SIZE, seed: int = SEED
) -> Texts:
    """Random ids and two random labels, with the lengths of SST-2, cut to what a model takes."""
    random = np.random.default_rng([seed, 1])
    task = Classification(("0", "1"), min(MAX_LENGTH, config.max_position_embeddings))
    samples = []
    for number, drawn in enumerate(draw_lengths(batches * batch_size, seed)):
        length = min(drawn, task.max_length)
        ids = random.integers(config.vocab_size, size=length)
        row = Joined(ids, np.zeros(length, np.int64), (1, 1))
        samples.append(Sample(number, (row,), int(random.integers(2))))
    return Texts(task, samples, batch_size, seed)


def read_texts(
    file: Path, directory: Path, *, batches: int, batch_size: int = BATCH_SIZE, seed: int = SEED
) -> Texts:
    """Labelled texts from a file, drawn at random; fewer batches if it does not have that many.

    Args:
        file: file of texts and labels, as `minilm finetune --task classification` reads it.
        directory: a checkpoint with the tokenizer.
        batches: number of batches.
        batch_size: number of texts in each.
        seed: random seed of the draw and the order.
    """
    skips = Skips()
    records = read_records(file, skips=skips)
    config, tokenizer = read_base_config(directory), Tokenizer.from_pretrained(directory)
    check_vocabulary(config, tokenizer)
    length = min(MAX_LENGTH, config.max_position_embeddings)
    task = Classification.learn(records, length, {})
    order = np.random.default_rng(seed).permutation(len(records))
    chosen = records.pick(order[: batches * batch_size].tolist())
    examples = task.examples(chosen, skips, labelled=True)
    samples = task.samples(examples, tokenizer)
    return Texts(task, samples, batch_size, seed)


def save_start(start: EncoderConfig | Path, task: Classification, output: Path, seed: int) -> None:
    """Saves the classifier that all loops start from.

    Args:
        start: a configuration, for random weights, or a checkpoint, which gets a random head if it
            has none for these labels.
        task: the task to learn.
        output: a directory.
        seed: random seed of these weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(start, Path):
            cls = CLASSES[STEMS[find_class(start).config_class.model_type] + task.head]
            model = cls.from_pretrained(start, ignore_mismatched_heads=True, **task.config())
        else:
            cls = CLASSES[STEMS[start.model_type] + task.head]
            model = cls(start.replace(**task.config()))
    model.save_pretrained(output)


class Loop(ABC):
    """A classifier in training.

    Args:
        directory: the classifier to start from.
        texts: the texts that it learns from.
        settings: the settings of the training.

    Attributes:
        model: the model, in train mode.
        batches: the numbers of the texts of each batch.
        padding: the share of padding among all positions.
    """

    model: nn.Module

    def __init__(self, directory: Path, texts: Texts, settings: TrainingSettings) -> None:
        self.texts = texts
        self.batches = texts.batches
        self.padding = 0.0
        self.steps = 0
        self._prepare(directory, settings)

    @abstractmethod
    def _prepare(self, directory: Path, settings: TrainingSettings) -> None:
        """Loads the model and makes the optimiser."""

    @abstractmethod
    def loss(self, numbers: Integers) -> Tensor:
        """The mean loss on the labels of these texts, for backward."""

    @abstractmethod
    def step(self, batch: int) -> None:
        """One update, on the batch of this number."""


class MinilmLoop(Loop):
    """The engine of `minilm finetune`: packed tokens."""

    model: PretrainedModel

    def _prepare(self, directory: Path, settings: TrainingSettings) -> None:
        cls = find_class(directory)
        self.model = cls.from_pretrained(directory)
        self._learner = TaskLearner(self.model, self.texts.task)
        single_process = Processes(rank=0, world=1, device=torch.device("cpu"))
        self._updater = Updater(self._learner, settings, single_process)

    def loss(self, numbers: Integers) -> Tensor:
        batch = self.texts.data.batch(0, numbers)
        with self._updater.autocast():
            return self._learner.forward(batch, self._learner.counts(batch))["loss"]

    def step(self, batch: int) -> None:
        self.steps += 1
        self._updater.update(self.steps, [self.texts.data.batch(0, self.batches[batch])])


class TransformersLoop(Loop):
    """The straightforward loop."""

    def _prepare(self, directory: Path, settings: TrainingSettings) -> None:
        try:
            import transformers
        except ImportError:
            raise DependencyError(
                "This comparison needs transformers: pip install transformers."
            ) from None
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            directory, attn_implementation="sdpa", dtype=torch.float32
        ).train()
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model, settings.weight_decay),  # norms and biases do not decay
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            fused=True,
        )
        # as transformers' linear schedule, but without the first update of rate 0
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser,
            lambda done: learning_rate(done + 1, settings) / settings.learning_rate,
        )
        self.max_norm = settings.max_gradient_norm or float("inf")
        self.autocast = settings.precision == "bfloat16"
        self.padding = self.texts.padding(self.batches)

    def loss(self, numbers: Integers) -> Tensor:
        chosen = [self.texts.samples[number] for number in numbers.tolist()]
        rows = [torch.from_numpy(sample.rows[0].ids) for sample in chosen]
        config: Any = self.model.config
        inputs = {
            "input_ids": pad_sequence(rows, True, float(config.pad_token_id or 0)),  # (B, S)
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], True),  # (B, S)
            "labels": torch.tensor([sample.label for sample in chosen]),
        }
        if hasattr(config, "type_vocab_size"):
            types = [torch.from_numpy(sample.rows[0].type_ids) for sample in chosen]
            inputs["token_type_ids"] = pad_sequence(types, True)  # (B, S)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss: Tensor = self.model(**inputs).loss
        return loss

    def step(self, batch: int) -> None:
        self.steps += 1
        self.optimiser.zero_grad()
        torch.autograd.backward(self.loss(self.batches[batch]))
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimiser.step()
        self.schedule.step()


class BucketedLoop(TransformersLoop):
    """The straightforward loop with texts of similar length in a batch."""

    def _prepare(self, directory: Path, settings: TrainingSettings) -> None:
        self.batches = self.texts.bucketed()
        super()._prepare(directory, settings)


LOOPS: Mapping[str, type[Loop]] = {
    "minilm": MinilmLoop,
    "transformers": TransformersLoop,
    "transformers-bucketed": BucketedLoop,
}


def training_settings(precision: Precision, steps: int) -> TrainingSettings:
    """Settings of all loops; the rest are the defaults of `minilm finetune`."""
    return TrainingSettings(
        steps=steps,
        warmup=round(WARMUP * steps),
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        max_gradient_norm=1.0,
        precision=precision,
    )


def observe(loop: Loop, numbers: Integers) -> dict[str, float]:
    """The loss and the norm of its gradient; see `observe_step`."""
    return observe_step(loop.model, lambda: loop.loss(numbers))


def check_agreement(loops: Mapping[str, Loop], numbers: Integers, precision: str) -> float:
    """The largest relative difference between the losses and gradients of the loops.

    Raises:
        DisagreementError: it is more than rounding explains.
    """
    return compare_steps(
        {name: observe(loop, numbers) for name, loop in loops.items()}, TOLERANCE[precision]
    )


def bench_finetuning(
    directory: Path,
    texts: Texts,
    settings: FinetuningBenchSettings,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures all loops on one classifier and the same texts.

    Args:
        directory: the classifier to start from, as `save_start` writes it.
        texts: the texts that it learns from.
        settings: what to measure.
        say: receives a message about every stage.

    Returns:
        What `minilm bench finetune --json` prints: "model", "workload", "machine" and "contenders".
        For each of these: seconds (of a step, the mean over the batches, the median over rounds),
        tokens_per_second, examples_per_second, share_of_peak (of matrix products in the same
        precision; the last layer counts whole, of which minilm computes only the first tokens),
        padding (share of positions), and ratios to the loops of transformers in the same precision:
        median, lowest and highest over rounds, above 1 = faster than it.

    Raises:
        DisagreementError: a loop gives other results than the rest.
        MinilmError: a loop cannot run.
    """
    config = read_base_config(directory)
    batches = range(len(texts.batches))
    tokens = int(texts.lengths.sum())
    flops = 3 * encoder_flops(config, texts.lengths.tolist())  # backward takes twice the forward
    say("measuring the peak rate of this machine")
    bfloat16 = computes_bfloat16()
    if "bfloat16" in settings.precisions and not bfloat16:
        say("this processor has no arithmetic in bfloat16: it is emulated, expect it to be slow")
    watch = LoadWatch()
    peaks = measure_peaks(settings.precisions, bfloat16)
    contenders: dict[str, dict[str, Any]] = {}
    differences: dict[str, float] = {}
    for precision in settings.precisions:
        say(f"loading {' and '.join(settings.loops)}, {precision}")
        told = training_settings(precision, 1 + settings.rounds * len(batches))  # 1 to warm up
        loops = {name: LOOPS[name](directory, texts, told) for name in settings.loops}
        if len(loops) > 1:
            say("comparing their losses and gradients")
            differences[precision] = check_agreement(loops, texts.batches[0], precision)
        say(f"{precision}: batches {len(batches)}, rounds {settings.rounds}")
        timed = take_turns(loops, batches, settings.rounds, _step)
        for name, rounds in timed.items():
            taken = median(rounds)
            contenders[contender_name(name, precision)] = {
                "precision": precision,
                **spread([value / len(batches) for value in rounds]),
                "tokens_per_second": tokens / taken,
                "examples_per_second": len(texts.samples) / taken,
                "share_of_peak": flops / taken / peaks[precision],
                "padding": loops[name].padding,
                "ratios": {
                    other: _spread([base / own for base, own in zip(found, rounds, strict=True)])
                    for other, found in timed.items()
                    if other.startswith(REFERENCE)
                },
            }
    return {
        "model": {
            "model_type": config.model_type,
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "vocab_size": config.vocab_size,
            "labels": len(texts.task.labels),
        },
        "workload": {
            "texts": len(texts.samples),
            "batch_size": len(texts.batches[0]),
            "batches": len(batches),
            "tokens": tokens,
            "longest": int(texts.lengths.max()),
            "padding": texts.padding(texts.batches),
            "rounds": settings.rounds,
            "seed": texts.seed,
        },
        "machine": {
            **describe_machine(),
            "peak_gflops": {name: peak / 1e9 for name, peak in peaks.items()},
            "computes_bfloat16": bfloat16,
            "load": watch.report(),
        },
        "max_relative_difference": differences,
        "contenders": contenders,
    }


def _step(loop: Loop, batch: int) -> None:
    loop.step(batch)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}
