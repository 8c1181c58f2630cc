"""Speed and memory of ALBERT's pretraining, side by side with a straightforward loop.

Both sides take the same step with the same weights: masked LM and sentence order, backward,
gradients clipped at norm 1, AdamW. The straightforward loop is what one writes with transformers'
AlbertForPreTraining: a padded batch, labels given to the model, its own loss. The batches are the
first of the standard draw (workload.py), 16 texts each, cut to 256 tokens; the second half of every
text is its second segment. What keeps the comparison fair is the same as for distillation.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilm.bench.distillation import (
    BATCH_SIZE,
    LONGEST,
    SAMPLE,
    TOLERANCE,
    computes_bfloat16,
    contender_name,
    lengths_of,
    measure_peaks,
)
from minilm.bench.distillation_loops import LabelledBatch, labelled_batches
from minilm.bench.load import LoadWatch
from minilm.bench.machine import describe_machine
from minilm.bench.measure import compare_steps, observe_step, spread, take_turns
from minilm.bench.memory import in_fresh_process, peak_resident
from minilm.bench.workload import SEED, draw_lengths, encoder_flops, padding_ratio
from minilm.config import AlbertConfig
from minilm.data.batches import TokenBatch
from minilm.errors import DependencyError, InputError
from minilm.learners.pairs import PretrainingLearner
from minilm.models.albert import AlbertForPreTraining
from minilm.training.distributed import Processes
from minilm.training.memory import hand_back_freed_memory
from minilm.training.settings import Precision, TrainingSettings
from minilm.training.updates import Updater

LEARNING_RATE = 1e-4
MAX_NORM = 1.0
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class PretrainingSettings:
    """One run of `bench_pretraining`.

    Attributes:
        precisions: precisions of matrix products: "float32", and "bfloat16" by autocast.
        loops: keys of `LOOPS`.
        batches: number of batches.
        rounds: number of timing rounds.
        seed: random seed of ids and labels.
        memory_tokens: also measure minilm's peak memory for one step of this many tokens, with and
            without gradient checkpointing.
    """

    precisions: tuple[Precision, ...] = ("float32",)
    loops: tuple[str, ...] = ("minilm", "transformers")
    batches: int = 8
    rounds: int = 3
    seed: int = SEED
    memory_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("batches", "rounds", "memory_tokens"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}: expected at least 1.")


class Loop(ABC):
    """An ALBERT in training.

    Attributes:
        model: the model, in train mode.
    """

    model: nn.Module

    @abstractmethod
    def loss(self, batch: LabelledBatch) -> Tensor:
        """Masked LM and sentence order, for backward."""

    @abstractmethod
    def step(self, batch: LabelledBatch) -> None:
        """One update."""


class MinilmLoop(Loop):
    """The engine of `minilm pretrain`: packed tokens, vocabulary logits where a token is masked."""

    model: AlbertForPreTraining

    def __init__(self, directory: Path, precision: Precision) -> None:
        self.model = AlbertForPreTraining.from_pretrained(directory)
        settings = TrainingSettings(
            steps=1,
            schedule="constant",
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            max_gradient_norm=MAX_NORM,
            precision=precision,
        )
        single_process = Processes(rank=0, world=1, device=torch.device("cpu"))
        self._learner = PretrainingLearner(self.model, "sentence_order")
        self._updater = Updater(self._learner, settings, single_process)
        self._steps = 0

    def loss(self, batch: LabelledBatch) -> Tensor:
        packed = _packed(batch)
        with self._updater.autocast():
            terms: dict[str, Tensor] = self._learner(packed, self._learner.counts(packed))
        return terms["loss"]

    def step(self, batch: LabelledBatch) -> None:
        self._steps += 1
        self._updater.update(self._steps, [_packed(batch)])


class TransformersLoop(Loop):
    """The straightforward loop."""

    def __init__(self, directory: Path, precision: Precision) -> None:
        try:
            import transformers
        except ImportError:
            raise DependencyError(
                "This comparison needs transformers: pip install transformers."
            ) from None
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.AlbertForPreTraining.from_pretrained(
            directory, attn_implementation="sdpa", dtype=torch.float32
        ).train()
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        self._autocast = precision == "bfloat16"

    def loss(self, batch: LabelledBatch) -> Tensor:
        mask = batch.texts.attention_mask
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            loss: Tensor = self.model(
                input_ids=batch.texts.input_ids,
                attention_mask=mask,
                token_type_ids=_token_types(batch) * mask,
                labels=batch.labels,
                sentence_order_label=_sentence_labels(batch),
            ).loss
        return loss

    def step(self, batch: LabelledBatch) -> None:
        self._optimiser.zero_grad()
        torch.autograd.backward(self.loss(batch))
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self._optimiser.step()


LOOPS: Mapping[str, type[MinilmLoop] | type[TransformersLoop]] = {
    "minilm": MinilmLoop,
    "transformers": TransformersLoop,
}


def _token_types(batch: LabelledBatch) -> Tensor:
    """(B, S): the second half of every text is its second segment."""
    columns = torch.arange(batch.labels.shape[1])
    return (columns >= batch.texts.lengths[:, None] // 2).long()


def _sentence_labels(batch: LabelledBatch) -> Tensor:
    return torch.arange(len(batch.texts.lengths)) % 2


def _packed(batch: LabelledBatch) -> TokenBatch:
    texts, attended = batch.texts, batch.texts.attention_mask.bool()
    return TokenBatch(
        samples=np.arange(len(texts.lengths)),
        input_ids=texts.packed_ids,
        lengths=texts.lengths,
        labels=batch.labels[attended],
        token_type_ids=_token_types(batch)[attended],
        sentence_labels=_sentence_labels(batch),
        sentence_task="sentence_order",
    )


def observe(loop: Loop, batch: LabelledBatch) -> dict[str, float]:
    """The loss and the norm of its gradient; see `observe_step`."""
    return observe_step(loop.model, lambda: loop.loss(batch))


def check_agreement(loops: Mapping[str, Loop], batch: LabelledBatch, precision: str) -> float:
    """The largest relative difference between the losses and gradients of the loops.

    Raises:
        DisagreementError: it is more than rounding explains, so the loops take different steps.
    """
    return compare_steps(
        {name: observe(loop, batch) for name, loop in loops.items()}, TOLERANCE[precision]
    )


def pretraining_flops(config: AlbertConfig, lengths: Sequence[int]) -> int:
    """Floating-point operations of the matrix products that a step on these texts needs.

    They are three times those of the forward pass; the masked-LM head counts only where a token is
    predicted.
    """
    head = 2 * config.embedding_size * (config.hidden_size + config.vocab_size)
    predicted = sum(max(1, round(0.15 * n)) for n in lengths)
    return 3 * (encoder_flops(config, lengths) + predicted * head)


def step_memory(
    directory: Path, lengths: Sequence[int], seed: int, checkpointing: bool
) -> dict[str, float]:
    """Peak memory of a fresh process that takes a short and a full step with minilm.

    The short step makes room for gradients and the optimiser's state, as in any later step.

    Returns:
        "prepared" and "peak", in bytes: after the short step, and at the end; "seconds" of the full
        step.
    """
    return in_fresh_process(_measure_memory, directory, lengths, seed, checkpointing)


def _measure_memory(
    directory: Path, lengths: Sequence[int], seed: int, checkpointing: bool
) -> dict[str, float]:
    loop = MinilmLoop(directory, "float32")
    if checkpointing:  # as `minilm pretrain --gradient-checkpointing` does
        hand_back_freed_memory()
        loop.model.gradient_checkpointing_enable()
    vocab_size = loop.model.config.vocab_size
    peaks = []
    for sizes in (lengths[:1], lengths):
        (batch,) = labelled_batches(sizes, batch_size=len(sizes), vocab_size=vocab_size, seed=seed)
        start = time.perf_counter()
        loop.step(batch)
        seconds = time.perf_counter() - start
        peaks.append(peak_resident())
    return {"prepared": peaks[0], "peak": peaks[1], "seconds": seconds}


def bench_pretraining(
    directory: Path, settings: PretrainingSettings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measures all loops on one ALBERT.

    Args:
        directory: a checkpoint of AlbertForPreTraining.
        settings: what to measure.
        say: receives a message about every stage.

    Returns:
        What `minilm bench pretrain --json` prints: "model", "workload", "machine", "contenders"
        (seconds of a step, the mean over the batches, with quartiles and extremes of the rounds;
        tokens_per_second, share_of_peak, and ratio to transformers in the same precision, above 1 =
        faster), and on request "memory" (bytes).

    Raises:
        MinilmError: a loop cannot run, or gives other results than the rest.
    """
    config = AlbertForPreTraining.from_pretrained(directory).config
    assert isinstance(config, AlbertConfig)
    longest = min(LONGEST, config.max_position_embeddings)
    drawn = [min(n, longest) for n in draw_lengths(settings.batches * BATCH_SIZE)]
    batches, (sample,) = (
        labelled_batches(
            lengths, batch_size=BATCH_SIZE, vocab_size=config.vocab_size, seed=settings.seed
        )
        for lengths in (drawn, [min(n, longest) for n in SAMPLE])
    )
    say("measuring the peak rate of this machine")
    bfloat16 = computes_bfloat16()
    watch = LoadWatch()
    peaks = measure_peaks(settings.precisions, bfloat16)
    tokens = sum(drawn)
    contenders: dict[str, dict[str, Any]] = {}
    differences: dict[str, float] = {}
    for precision in settings.precisions:
        say(f"{precision}: batches {len(batches)}, rounds {settings.rounds}")
        loops = {name: LOOPS[name](directory, precision) for name in settings.loops}
        if len(loops) > 1:
            differences[precision] = check_agreement(loops, sample, precision)
        timed = take_turns(loops, batches, settings.rounds, _step, sample)
        seconds = {name: median(rounds) for name, rounds in timed.items()}
        for name, taken in seconds.items():
            contenders[contender_name(name, precision)] = {
                **spread([value / len(batches) for value in timed[name]]),
                "tokens_per_second": tokens / taken,
                "share_of_peak": pretraining_flops(config, drawn) / taken / peaks[precision],
                "ratio": seconds["transformers"] / taken if "transformers" in seconds else None,
            }
    result = {
        "model": {
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "vocab_size": config.vocab_size,
        },
        "workload": {
            "batches": len(batches),
            "tokens": tokens,
            "padding_ratio": padding_ratio([batch.texts for batch in batches]),
            "rounds": settings.rounds,
            "seed": settings.seed,
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
    if settings.memory_tokens is not None:
        lengths = lengths_of(settings.memory_tokens, longest)
        say(f"memory of a step of {settings.memory_tokens:,} tokens")
        result["memory"] = {"tokens": settings.memory_tokens} | {
            name: step_memory(directory, lengths, settings.seed, checkpointing)
            for name, checkpointing in (("without", False), ("with_checkpointing", True))
        }
    return result


def _step(loop: Loop, batch: LabelledBatch) -> None:
    loop.step(batch)
