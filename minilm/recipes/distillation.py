"""Distillation of a small student from a large teacher: what `minilm distill` runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from minilm.recipes.settings import MaskingName, TextRecipe, option, other_default
from minilm.recipes.students import StudentRecipe

if TYPE_CHECKING:
    from minilm.recipes.runs import Run


@dataclass(frozen=True, kw_only=True)
class DistillationRecipe(StudentRecipe):
    """Distillation of DistilBERT from BERT with the triple loss.

    The fields are the options of `minilm distill`, whose help explains each of them. The defaults
    are those of the paper and its released code (rare tokens are masked more often, betas .9 and
    .98, gradients clipped at 5, no weight decay, 5 % warm-up, fixed positions, length 512), except
    for the size of a step (there up to 4,000 sequences), the layers (every other one, as the paper
    says) and the token types (folded into the positions, which is exact); see `released`.

    The student may have any architecture and shape, see `minilm.init_student`. What is frozen is
    frozen in this run alone: the student's files do not say it.

    Example:
        >>> recipe = DistillationRecipe(corpus="store", teacher="bert-base-uncased", epochs=3)
        >>> recipe.train("student")

    References: Sanh et al. 2019, section 3; distillation/train.py of the released code.
    """

    usual_length: ClassVar[int] = 512

    teacher: str | os.PathLike[str] = option(
        dataclasses.MISSING,
        "Teacher: a BERT, DistilBERT or ALBERT, as a directory or hub name.",
        str,
        metavar="MODEL",
    )
    temperature: float = option(
        2.0,
        "Distillation temperature: divides the logits of teacher and student before the softmax.",
        float,
        above=0,
    )
    kl: float = option(
        5.0, "Weight of the KL divergence from the teacher's predictions.", float, low=0
    )
    mlm: float = option(2.0, "Weight of the masked-LM loss on the true tokens.", float, low=0)
    cosine: float = option(
        1.0,
        "Weight of the cosine loss between the last hidden states of student and teacher.",
        float,
        low=0,
    )
    mse: float = option(
        0.0,
        "Weight of the squared error between the logits of student and teacher.",
        float,
        low=0,
    )
    # "attended" or "masked" tokens
    positions: Literal["attended", "masked"] = option(
        "attended",
        "Tokens over which the KL divergence and the squared error are computed: all "
        "attended ones, or the masked ones only.",
        str,
        choices=("attended", "masked"),
    )
    masking: MaskingName = other_default(TextRecipe, "masking", "rare_tokens")
    learning_rate: float = other_default(TextRecipe, "learning_rate", 5e-4)
    betas: tuple[float, float] = other_default(TextRecipe, "betas", (0.9, 0.98))
    weight_decay: float = other_default(TextRecipe, "weight_decay", 0.0)
    max_gradient_norm: float | None = other_default(TextRecipe, "max_gradient_norm", 5.0)
    tokens_per_step: int = other_default(TextRecipe, "tokens_per_step", 16384)

    @classmethod
    def released(cls, **given: Any) -> Self:
        """What distilbert-base-uncased was trained with, except for the size of a step.

        Differs from the defaults in the layers (0, 2, 4, 7, 9, 11 of 12), in the token types, which
        are dropped, and in the 3 epochs.

        Args:
            **given: `corpus`, `teacher` and whatever is to be different.
        """
        released = {"layers": "published", "fold_token_types": False, "freeze_positions": True}
        epochs = {} if "steps" in given else {"epochs": 3}
        return cls(**{**released, **epochs, **given})

    def _build(self, output: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Run:
        from minilm.checkpoints.hub import resolve
        from minilm.loader import load_masked_lm
        from minilm.losses.distillation import DistillationLoss
        from minilm.recipes.runs import distillation
        from minilm.tokenization.tokenizer import Tokenizer

        directory = resolve(self.teacher)
        teacher = load_masked_lm(directory)
        student, start = self.build_student(teacher, say)
        self.checkpoint_gradients(student)
        loss = DistillationLoss(
            temperature=self.temperature,
            kl=self.kl,
            mlm=self.mlm,
            cosine=self.cosine,
            mse=self.mse,
            positions=self.positions,
        )
        corpus = self.corpus_settings(student, teacher)
        tokenizer = Tokenizer.from_pretrained(directory)
        return distillation(student, teacher, loss, corpus, tokenizer, start=start, say=say)
