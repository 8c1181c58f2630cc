"""Distillation of a sentence encoder: what `minilm distill-sentences` runs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from minilm.errors import InputError, argument
from minilm.files.progress import counted
from minilm.recipes.settings import (
    LoopSettings,
    Recipe,
    option,
    other_default,
)
from minilm.training.settings import Schedule

if TYPE_CHECKING:
    from minilm.models.albert import AlbertModel
    from minilm.recipes.runs import Run
    from minilm.sentence.encoder import SentenceEncoder
    from minilm.sentence.targets import SentenceTargets

_PIECE = 2**20  # bytes
TARGETS = "run/targets"  # in the directory of a run, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class SentenceDistillationRecipe(Recipe):
    """Distils a small sentence encoder that reproduces the vectors of a large one.

    The student is an ALBERT: a few layers that are applied several times, and embeddings in two
    factors, both made from the teacher's. The teacher reads every text once; its vectors and token
    states are kept in a directory, from which all epochs and later runs read them. No labels are
    needed, and no pairs of texts.

    The fields are the options of `minilm distill-sentences`, whose help explains each of them.

    Example:
        >>> recipe = SentenceDistillationRecipe(
        ...     teacher="sentence-transformers/all-MiniLM-L6-v2", texts="articles.txt", epochs=2
        ... )
        >>> recipe.train("student")

    References: Reimers and Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual
        using Knowledge Distillation"; Lan et al. 2020, section 3.1.
    """

    command: ClassVar[str] = "distill-sentences"

    teacher: str | os.PathLike[str] = option(
        dataclasses.MISSING,
        "Teacher: a sentence encoder of BERT's architecture, as a directory or hub name.",
        str,
        metavar="MODEL",
        group="model",
    )
    texts: str | os.PathLike[str] = option(
        dataclasses.MISSING,
        "Texts to learn from: a .txt file with a paragraph a line, or .jsonl, .json or .parquet; "
        "they are split into sentences.",
        os.PathLike,
        group="data",
    )
    max_texts: int | None = option(
        None, "Number of sentences to draw at random. Default: all of them.", low=1, group="data"
    )
    min_words: int = option(
        4, "Minimum number of words; shorter sentences are left out.", low=1, group="data"
    )
    max_words: int = option(
        30, "Maximum number of words; longer sentences are left out.", low=1, group="data"
    )
    max_length: int = option(
        64, "Maximum length in tokens; longer sentences are truncated.", low=3, group="data"
    )
    held_out: int = option(
        500,
        "Number of held-out sentences on which student and teacher are compared.",
        low=0,
        group="evaluation",
    )
    targets: str | os.PathLike[str] | None = option(
        None,
        "Directory of the teacher's vectors, computed on the first run. Default: "
        f"OUTPUT/{TARGETS}.",
        os.PathLike,
        group="run",
    )
    layers: int = option(
        2, "Number of times that the student's layers are applied.", low=1, group="model"
    )
    inner_layers: int = option(
        2,
        "Number of different layers that follow one another in each application.",
        low=1,
        group="model",
    )
    embedding_size: int = option(128, "Width of the factorised embeddings.", low=2, group="model")
    start: str | Sequence[int] = option(
        "interval",
        "Teacher layers that the student's layers start from: interval (at equal distances, the "
        "first and the last included), average, or a list such as 0,5.",
        list,
        group="model",
    )
    vectors: float = option(
        1.0,
        "Weight of the cosine distance between the vectors of a sentence.",
        float,
        low=0,
        group="loss",
    )
    states: float = option(
        1.0,
        "Weight of the cosine distance between the states of a token.",
        float,
        low=0,
        group="loss",
    )
    tokens_per_step: int = option(
        1024,
        "Batch size of a step in tokens, over all processes and micro-batches.",
        low=1,
        group="optimisation",
    )
    learning_rate: float = other_default(Recipe, "learning_rate", 5e-4)
    warmup: float = other_default(Recipe, "warmup", 0.1)
    schedule: Schedule = other_default(LoopSettings, "schedule", "cosine")
    betas: tuple[float, float] = other_default(LoopSettings, "betas", (0.9, 0.98))

    def __post_init__(self) -> None:
        if self.min_words > self.max_words:
            raise InputError(
                f"{argument('min_words')} is {self.min_words}, more than "
                f"{argument('max_words')}, {self.max_words}."
            )
        super().__post_init__()

    def _build(self, output: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Run:
        import numpy as np

        from minilm.data.randomness import Stream, generator
        from minilm.learners.sentences import (
            SentenceData,
            SentenceLearner,
            SentenceLoss,
            held_out_batches,
        )
        from minilm.recipes.identity import weights_digest
        from minilm.recipes.runs import Run
        from minilm.sentence.encoder import TOKENS_PER_BATCH, SentenceEncoder
        from minilm.sentence.files import SentenceSettings, write_sentence_settings

        loss = SentenceLoss(vectors=self.vectors, states=self.states)
        teacher = SentenceEncoder.from_pretrained(self.teacher)
        student, start = self._student(teacher, say)
        self.checkpoint_gradients(student)
        targets = self._targets(teacher, output, say)
        if self.held_out >= len(targets):
            raise InputError(
                f"{argument('held_out')} is {self.held_out}, but there are only "
                f"{counted(len(targets), 'sentence')}."
            )
        order = generator(self.seed, Stream.EVALUATION_ORDER).permutation(len(targets))
        learned, held_out = np.split(order, [len(targets) - self.held_out])
        data = SentenceData(
            targets, np.sort(learned), tokens_per_step=self.tokens_per_step, seed=self.seed
        )
        used = SentenceSettings(
            max_length=min(teacher.max_length, student.config.max_position_embeddings),
            pooling=teacher.pooling,
            unit_length=True,
        )
        description = {
            "objective": "sentence vectors",
            "student": type(student).__name__,
            "config": student.config.to_dict(),
            "start": start,
            "teacher": weights_digest(teacher.model.base),
            "loss": dataclasses.asdict(loss),
        }
        learner = SentenceLearner(student, loss, pooling=teacher.pooling)
        return Run(
            learner,
            data,
            held_out_batches(targets, held_out, TOKENS_PER_BATCH),
            student,
            teacher.tokenizer,
            description,
            {"held_out": self.held_out} if self.held_out else {},
            also=lambda directory: write_sentence_settings(directory, used),
        )

    def _student(
        self, teacher: SentenceEncoder, say: Callable[[str], None]
    ) -> tuple[AlbertModel, dict[str, Any]]:
        """The student, and what its weights are made from."""
        from minilm.compression.students import init_student
        from minilm.models.albert import AlbertModel

        chosen: Any = self.start
        student = init_student(
            teacher.model,
            student="albert",
            masked_lm=False,
            start=chosen,
            num_hidden_layers=self.layers,
            inner_group_num=self.inner_layers,
            embedding_size=self.embedding_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        assert isinstance(student, AlbertModel)
        report = student.student_report
        assert report is not None
        say(str(report))
        return student, {"layers": [list(each) for each in report.layers]}

    def _targets(
        self,
        teacher: SentenceEncoder,
        output: str | os.PathLike[str] | None,
        say: Callable[[str], None],
    ) -> SentenceTargets:
        """The teacher's vectors of the texts; missing ones are computed."""
        from minilm.data.sentence_texts import read_sentences
        from minilm.files.progress import is_watched
        from minilm.recipes.identity import weights_digest
        from minilm.sentence.targets import make_targets

        directory = self.targets if self.targets is not None else output and Path(output, TARGETS)
        if not directory:
            raise InputError(
                f"There is no place for the teacher's vectors: give {argument('targets')}, or the "
                "directory of the run."
            )
        identity = {
            "source": _digest(Path(self.texts)),
            "words": [self.min_words, self.max_words],
            "max_texts": self.max_texts,
            "seed": self.seed,
            "teacher": weights_digest(teacher.model.base),
            "pooling": teacher.pooling,
        }

        def texts() -> list[str]:
            say(f"reading sentences of {self.texts}")
            return read_sentences(
                Path(self.texts),
                min_words=self.min_words,
                max_words=self.max_words,
                most=self.max_texts,
                seed=self.seed,
            )

        return make_targets(
            directory,
            teacher,
            texts,
            max_length=self.max_length,
            states=self.states > 0,
            identity=identity,
            progress=is_watched(),
            say=say,
        )


def _digest(path: Path) -> str:
    """A short name for the content of a file."""
    from minilm.data.text_files import check_text_file

    check_text_file(path)
    summary = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            summary.update(piece)
    return summary.hexdigest()
