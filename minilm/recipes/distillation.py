"""Distillation of a small student from a large teacher: what `minilm distill` runs."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from minilm.errors import InputError, argument, setting
from minilm.recipes.pretraining import PretrainingRecipe
from minilm.recipes.settings import MaskingName, TextRecipe, option, other_default
from minilm.recipes.students import StudentRecipe

if TYPE_CHECKING:
    from minilm.losses.distillation import DistillationLoss
    from minilm.models.pretrained import PretrainedModel
    from minilm.recipes.runs import Run
    from minilm.recipes.teacher_cache import TeacherCacheSettings


@dataclass(frozen=True, kw_only=True)
class DistillationRecipe(StudentRecipe):
    """Distillation of a student from its teacher: by default DistilBERT's, with the triple loss.

    The fields are the options of `minilm distill`, whose help explains each of them. The defaults
    are those of the paper and its released code (rare tokens are masked more often, betas .9 and
    .98, gradients clipped at 5, no weight decay, 5 % warm-up, fixed positions, length 512), except
    for the size of a step (there up to 4,000 sequences), the layers (every other one, as the paper
    says) and the token types (folded into the positions, which is exact); see `released`.

    The student may have any architecture and shape, see `minilm.init_student`. Freezing applies to
    this run only: the student's files do not record it.

    Example:
        >>> recipe = DistillationRecipe(corpus="store", teacher="bert-base-uncased", epochs=3)
        >>> recipe.train("student")

    References: Sanh et al. 2019, section 3; distillation/train.py of the released code.
    """

    command: ClassVar[str] = "distill"
    usual_length: ClassVar[int] = 512

    teacher: str | os.PathLike[str] = option(
        dataclasses.MISSING,
        "Teacher: a BERT, DistilBERT or ALBERT, as a directory or hub name.",
        str,
        metavar="MODEL",
        group="model",
    )
    temperature: float = option(
        2.0,
        "Distillation temperature: divides the logits of teacher and student before the softmax.",
        float,
        above=0,
        group="loss",
    )
    kl: float = option(
        5.0,
        "Weight of the KL divergence from the teacher's predictions.",
        float,
        low=0,
        group="loss",
    )
    mlm: float = option(
        2.0, "Weight of the masked-LM loss on the true tokens.", float, low=0, group="loss"
    )
    cosine: float = option(
        1.0,
        "Weight of the cosine loss between the last hidden states of student and teacher.",
        float,
        low=0,
        group="loss",
    )
    mse: float = option(
        0.0,
        "Weight of the squared error between the logits of student and teacher.",
        float,
        low=0,
        group="loss",
    )
    # "attended" or "masked" tokens
    positions: Literal["attended", "masked"] = option(
        "attended",
        "Tokens over which the KL divergence and the squared error are computed: all "
        "attended ones, or the masked ones only.",
        str,
        choices=("attended", "masked"),
        group="loss",
    )
    hidden_cosine: float = option(
        0.0,
        "Weight of the cosine loss between hidden states of student and teacher after every layer "
        "that --layer-map pairs.",
        float,
        low=0,
        group="loss",
    )
    hidden_mse: float = option(
        0.0,
        "Weight of the squared error between these hidden states; where the widths differ, after a "
        "learned projection.",
        float,
        low=0,
        group="loss",
    )
    attention: float = option(
        0.0,
        "Weight of the KL divergence between attention maps in these layers; student and teacher "
        "must have the same number of heads.",
        float,
        low=0,
        group="loss",
    )
    relations: float = option(
        0.0,
        "Weight of the KL divergence between the relations of queries, keys and values in the last "
        "layer that --layer-map pairs (MiniLM).",
        float,
        low=0,
        group="loss",
    )
    pooled: float = option(
        0.0,
        "Weight of the cosine loss between sentence vectors: means of a sequence's last hidden "
        "states.",
        float,
        low=0,
        group="loss",
    )
    pooled_mse: float = option(
        0.0,
        "Weight of the squared error between these sentence vectors.",
        float,
        low=0,
        group="loss",
    )
    sentence_order: float = option(
        0.0,
        "Weight of ALBERT's sentence-order loss; above 0 the corpus is read in pairs of segments, "
        "and the student gets a head for them. The teacher sees the pairs without token types.",
        float,
        low=0,
        group="loss",
    )
    layer_map: str | Sequence[int] = option(
        "uniform",
        "Teacher layers that the student's layers are compared with: uniform (at the same relative "
        "depth; the last layers are compared with each other), last (the last layers only), or a "
        "list such as 3,7,11 with one teacher layer for each application of a student layer.",
        list,
        group="loss",
    )
    relation_kinds: Literal["qq_kk_vv", "qk_vv"] = option(
        "qq_kk_vv",
        "Relations to compare: queries, keys and values with themselves (MiniLM version 2), or "
        "queries with keys and values with values (version 1).",
        str,
        choices=("qq_kk_vv", "qk_vv"),
        group="loss",
    )
    relation_heads: int | None = option(
        None,
        "Number of relation heads, which must divide both hidden sizes. Default: the teacher's "
        "attention heads.",
        low=1,
        group="loss",
    )
    short_sequences: float = other_default(PretrainingRecipe, "short_sequences", 0.1)
    teacher_cache: str | os.PathLike[str] | None = option(
        None,
        "Directory that stores the teacher's outputs: they are computed once for each sample and "
        "mask, and read in later epochs and by later runs with the same teacher, corpus, masks and "
        "seed. It covers the terms kl, mse, cosine, pooled and pooled-mse. Default: the teacher "
        "runs in every step.",
        os.PathLike,
        group="run",
    )
    teacher_cache_dtype: Literal["float32", "float16"] = option(
        "float32",
        "Precision of the teacher cache: with float32, losses change by rounding only; float16 "
        "takes half the space.",
        str,
        choices=("float32", "float16"),
        group="run",
    )
    teacher_cache_top_k: int | None = option(
        None,
        "Number of the teacher's likeliest words to store at each position of the teacher cache "
        "instead of its hidden states; all other words count as one. For the term kl only. "
        "Default: hidden states are stored.",
        low=1,
        group="run",
    )
    mask_rounds: int | None = option(
        None,
        "Number of epochs after which the masks repeat, so that a teacher cache serves later "
        "epochs, such as 10 in RoBERTa's comparison. Default: every epoch draws new masks.",
        low=1,
        group="data",
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
            **given: `corpus`, `teacher` and fields with other values than the defaults.
        """
        released = {"layers": "published", "fold_token_types": False, "freeze_positions": True}
        epochs = {} if "steps" in given else {"epochs": 3}
        return cls(**{**released, **epochs, **given})

    def __post_init__(self) -> None:
        super().__post_init__()
        default = type(self).__dataclass_fields__["short_sequences"].default
        if self.sentence_order == 0 and self.short_sequences != default:
            raise InputError(
                f"{argument('short_sequences')} has no effect: it applies to pairs of segments, "
                f"which are read only with {setting('sentence_order')} above 0."
            )

    def _build(self, output: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Run:
        from minilm.checkpoints.hub import resolve
        from minilm.compression.pair_heads import add_pair_head
        from minilm.learners.distillation import Student
        from minilm.models.tasks import ForPreTraining
        from minilm.recipes.runs import distillation
        from minilm.tokenization.tokenizer import Tokenizer

        loss = self._loss()
        directory = resolve(self.teacher)
        teacher = _load_teacher(directory, loss)
        student, start = self.build_student(teacher, say)
        corpus = self.corpus_settings(student, teacher)
        if loss.sentence_order > 0:
            if not isinstance(student, ForPreTraining):
                student, start = add_pair_head(student), {**start, "pair_head": {"seed": self.seed}}
            corpus = dataclasses.replace(
                corpus, segments="sentence_order", short_probability=self.short_sequences
            )
        self.checkpoint_gradients(student)
        tokenizer = Tokenizer.from_pretrained(directory)
        assert isinstance(student, Student)
        return distillation(
            student,
            teacher,
            loss,
            dataclasses.replace(corpus, mask_rounds=self.mask_rounds),
            tokenizer,
            start=start,
            cache=self._cache(),
            say=say,
        )

    def _cache(self) -> TeacherCacheSettings | None:
        from minilm.recipes.teacher_cache import TeacherCacheSettings

        if self.teacher_cache is not None:
            return TeacherCacheSettings(
                directory=self.teacher_cache,
                dtype=self.teacher_cache_dtype,
                top_k=self.teacher_cache_top_k,
            )
        for name in ("teacher_cache_dtype", "teacher_cache_top_k"):
            default = getattr(DistillationRecipe, name)
            if getattr(self, name) != default:
                raise InputError(
                    f"{argument(name)} says how the teacher cache is kept, but there is none: give "
                    f"{argument('teacher_cache')}, or leave it out."
                )
        return None

    def _loss(self) -> DistillationLoss:
        """The loss of the fields that are named as its arguments."""
        from minilm.losses.distillation import DistillationLoss

        names = inspect.signature(DistillationLoss).parameters
        return DistillationLoss(**{name: getattr(self, name) for name in names})


def _load_teacher(directory: Path, loss: DistillationLoss) -> PretrainedModel:
    """The teacher with its masked-LM head; without one if it has none and no term reads logits."""
    from minilm.loader import find_class, load, load_masked_lm
    from minilm.models.tasks import ForMaskedLM, ForPreTraining

    if loss.compares_logits or issubclass(find_class(directory), (ForMaskedLM, ForPreTraining)):
        return load_masked_lm(directory)
    return load(directory, new_parts="allow")  # no term reads a pooler, which may be missing
