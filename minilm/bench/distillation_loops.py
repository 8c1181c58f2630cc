"""One step of distillation in two ways: minilm's engine, and a straightforward loop.

Both take the same step with the same weights. BERT, without dropout and without gradients, and
DistilBERT read 16 texts; the loss is 5 KL + 2 masked LM + 1 cosine at temperature 2, the KL and the
cosine over all attended tokens; backward, gradients clipped at norm 5, AdamW. These are
DistilBERT's published numbers.

The straightforward loop is what one writes with transformers models, and what the released
DistilBERT code did: a padded batch with an attention mask, the models' own logits at every
position, attended positions picked by a boolean mask, torch's loss modules. It has the advantages
that cost nothing: scaled-dot-product attention, the fused optimiser, and no more copies than
needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minilm.bench.workload import Batch, encoder_flops, make_batches
from minilm.config import BertConfig, DistilBertConfig, EncoderConfig
from minilm.data.batches import TokenBatch
from minilm.errors import DependencyError
from minilm.learners.distillation import DistillationLearner
from minilm.losses.distillation import DistillationLoss
from minilm.losses.elementary import IGNORED_LABEL
from minilm.models.bert import BertForMaskedLM
from minilm.models.distilbert import DistilBertForMaskedLM
from minilm.training.distributed import Processes
from minilm.training.settings import Precision, TrainingSettings
from minilm.training.updates import Updater

TEMPERATURE = 2.0
WEIGHTS = {"kl": 5.0, "mlm": 2.0, "cosine": 1.0}
MASK_RATIO = 0.15
LEARNING_RATE = 5e-4
BETAS = (0.9, 0.98)
EPS = 1e-6
MAX_NORM = 5.0
TEACHER, STUDENT = "teacher", "student"  # directories of the two checkpoints


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Texts with labels for the tokens to predict.

    Attributes:
        texts: padded and packed.
        labels: (B, S) int64, -100 where nothing is predicted.
    """

    texts: Batch
    labels: Tensor

    @property
    def tokens(self) -> int:
        """The number of tokens without padding."""
        return self.texts.tokens


def labelled_batches(
    lengths: Sequence[int], *, batch_size: int, vocab_size: int, seed: int
) -> list[LabelledBatch]:
    """Random ids for texts of these lengths, 15 % of them with a label."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for texts in make_batches(lengths, batch_size=batch_size, vocab_size=vocab_size, seed=seed):
        predicted = max(1, round(MASK_RATIO * texts.tokens))
        chosen = torch.randperm(texts.tokens, generator=generator)[:predicted]
        line = torch.full_like(texts.packed_ids, IGNORED_LABEL)
        line[chosen] = torch.randint(vocab_size, (predicted,), generator=generator)
        labels = torch.full_like(texts.input_ids, IGNORED_LABEL)
        labels[texts.attention_mask.bool()] = line
        batches.append(LabelledBatch(texts, labels))
    return batches


class Loop(ABC):
    """A student that learns from a teacher.

    Attributes:
        student: the model that is trained; in train mode.
    """

    student: nn.Module

    @abstractmethod
    def terms(self, batch: LabelledBatch) -> Mapping[str, Tensor]:
        """The terms "kl", "mlm" and "cosine" and their weighted sum "loss", for backward."""

    @abstractmethod
    def step(self, batch: LabelledBatch) -> None:
        """One update of the student."""


class MinilmLoop(Loop):
    """The engine of `minilm distill`: packed tokens, vocabulary losses in chunks."""

    def __init__(self, directory: Path, precision: Precision) -> None:
        teacher = BertForMaskedLM.from_pretrained(directory / TEACHER)
        student = DistilBertForMaskedLM.from_pretrained(directory / STUDENT)
        loss = DistillationLoss(TEMPERATURE, WEIGHTS["kl"], WEIGHTS["mlm"], WEIGHTS["cosine"])
        settings = TrainingSettings(
            steps=1,  # at a constant rate no step has to know how many follow
            schedule="constant",
            learning_rate=LEARNING_RATE,
            betas=BETAS,
            epsilon=EPS,
            weight_decay=0.0,
            max_gradient_norm=MAX_NORM,
            precision=precision,
        )
        single_process = Processes(rank=0, world=1, device=torch.device("cpu"))
        self._learner = DistillationLearner(student, teacher, loss)
        self._updater = Updater(self._learner, settings, single_process)
        self._steps = 0
        self.student = self._learner

    def terms(self, batch: LabelledBatch) -> Mapping[str, Tensor]:
        packed = _packed(batch)
        with self._updater.autocast():
            terms: dict[str, Tensor] = self._learner(packed, self._learner.counts(packed))
        return terms

    def step(self, batch: LabelledBatch) -> None:
        self._steps += 1
        self._updater.update(self._steps, [_packed(batch)])


def _packed(batch: LabelledBatch) -> TokenBatch:
    texts = batch.texts
    return TokenBatch(
        samples=np.arange(len(texts.lengths)),
        input_ids=texts.packed_ids,
        lengths=texts.lengths,
        labels=batch.labels[texts.attention_mask.bool()],
    )


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
        self.teacher, self.student = (
            model_class.from_pretrained(
                directory / name, attn_implementation="sdpa", dtype=torch.float32
            ).train(name == STUDENT)
            for model_class, name in (
                (transformers.BertForMaskedLM, TEACHER),
                (transformers.DistilBertForMaskedLM, STUDENT),
            )
        )
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(),
            lr=LEARNING_RATE,
            betas=BETAS,
            eps=EPS,
            weight_decay=0.0,
            fused=True,
        )
        self.autocast = precision == "bfloat16"
        self.kl = nn.KLDivLoss(reduction="batchmean")
        self.mlm = nn.CrossEntropyLoss(ignore_index=IGNORED_LABEL)
        self.cosine = nn.CosineEmbeddingLoss()

    def terms(self, batch: LabelledBatch) -> Mapping[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self._terms(batch)

    def _terms(self, batch: LabelledBatch) -> dict[str, Tensor]:
        inputs = {
            "input_ids": batch.texts.input_ids,
            "attention_mask": batch.texts.attention_mask,
            "output_hidden_states": True,
        }
        with torch.no_grad():
            taught = self.teacher(**inputs)
        learned = self.student(**inputs)
        attended = batch.texts.attention_mask.bool()  # (B, S)
        target = (taught.logits[attended] / TEMPERATURE).softmax(dim=-1)  # (T, V)
        guess = (learned.logits[attended] / TEMPERATURE).log_softmax(dim=-1)  # (T, V)
        taught_states = taught.hidden_states[-1][attended]  # (T, H)
        learned_states = learned.hidden_states[-1][attended]  # (T, H)
        terms = {
            "kl": self.kl(guess, target) * TEMPERATURE**2,
            "mlm": self.mlm(learned.logits.flatten(0, 1), batch.labels.flatten()),
            "cosine": self.cosine(
                learned_states, taught_states, learned_states.new_ones(len(learned_states))
            ),
        }
        loss = torch.stack([weight * terms[name] for name, weight in WEIGHTS.items()]).sum()
        return {**terms, "loss": loss}

    def step(self, batch: LabelledBatch) -> None:
        self.optimiser.zero_grad()
        torch.autograd.backward(self.terms(batch)["loss"])
        nn.utils.clip_grad_norm_(self.student.parameters(), MAX_NORM)
        self.optimiser.step()


LOOPS: Mapping[str, type[MinilmLoop] | type[TransformersLoop]] = {
    "minilm": MinilmLoop,
    "transformers": TransformersLoop,
}


def student_config(teacher: BertConfig) -> DistilBertConfig:
    """A student like DistilBERT of BERT: half the layers, everything else the same."""
    return DistilBertConfig(
        vocab_size=teacher.vocab_size,
        hidden_size=teacher.hidden_size,
        num_hidden_layers=max(1, teacher.num_hidden_layers // 2),
        num_attention_heads=teacher.num_attention_heads,
        intermediate_size=teacher.intermediate_size,
        max_position_embeddings=teacher.max_position_embeddings,
        hidden_act=teacher.hidden_act,
        pad_token_id=teacher.pad_token_id,
    )


def distillation_flops(
    teacher: EncoderConfig, student: EncoderConfig, lengths: Sequence[int]
) -> int:
    """Floating-point operations of the matrix products that a step on these texts needs.

    They are those of the teacher's forward pass and three times the student's, as backward takes
    twice the products of forward; with a masked-LM head, 2 (H² + H V), for every token. Padding and
    repeated computation are not counted: they are due to a loop, not to the task.
    """

    def forward(config: EncoderConfig) -> int:
        hidden = config.hidden_size
        head = 2 * (hidden**2 + hidden * config.vocab_size)
        return encoder_flops(config, lengths) + sum(lengths) * head

    return forward(teacher) + 3 * forward(student)


def save_models(teacher: BertForMaskedLM, directory: Path, seed: int) -> DistilBertConfig:
    """Saves a teacher and a fresh student, for all loops to load.

    Returns:
        The student's configuration.
    """
    assert isinstance(teacher.config, BertConfig)
    config = student_config(teacher.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = DistilBertForMaskedLM(config)
    teacher.save_pretrained(directory / TEACHER)
    student.save_pretrained(directory / STUDENT)
    return config
